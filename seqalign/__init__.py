"""seqalign: reward-guided sampling from pretrained diffusion models."""
