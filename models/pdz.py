"""pdz-mini: masked diffusion over natural PDZ domains, placed on the PSD-95 PDZ3 construct."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqalign.models.splits import GAP
from seqalign.sequence import PROTEIN

if TYPE_CHECKING:
    from collections.abc import Mapping

COLUMNS: Final = 82
"""Match columns of the Pfam family PF00595."""

PAIR_SCALE: Final = 10.0
"""Unit of the learned attention biases: they must reach several nats at Adam's pace."""

TOKENS: Final = GAP + 1
"""What a column can hold: twenty letters, the mask, the gap."""


class Block(nn.Module):
    """One pre-norm layer: attention with a learned bias per pair of columns, then a GELU MLP."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.pairs = nn.Parameter(torch.zeros(heads, COLUMNS, COLUMNS))
        self.join = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, h: Tensor) -> Tensor:
        """Return (N, 82, width) from (N, 82, width)."""
        n, length, width = h.shape
        qkv = self.qkv(self.norm_attention(h)).view(n, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        pairs = PAIR_SCALE * self.pairs
        if self.training:
            # Written out: the fused kernel has no backward pass for a learned bias.
            scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + pairs.to(q.dtype)
            mixed = scores.softmax(-1).to(v.dtype) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=pairs)
        h = h + self.drop(self.join(mixed.transpose(1, 2).reshape(n, length, width)))
        return h + self.drop(self.down(F.gelu(self.up(self.norm_mlp(h)))))

    def drop(self, h: Tensor) -> Tensor:
        """Drop whole features of a row in training: cheaper than single entries, and stronger."""
        if not self.training or self.dropout == 0.0:
            return h
        keep = torch.rand(len(h), 1, h.shape[-1]) >= self.dropout
        return h * (keep / (1.0 - self.dropout)).to(h.dtype)


class PDZNetwork(nn.Module):
    """Predict the letters of the masked columns of an aligned PDZ domain."""

    def __init__(
        self,
        width: int = 96,
        depth: int = 3,
        heads: int = 4,
        hidden: int = 384,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.letters = nn.Parameter(torch.randn(TOKENS, width) * 0.5)
        self.columns = nn.Parameter(torch.randn(COLUMNS, width) * 0.5)
        self.blocks = nn.ModuleList(Block(width, heads, hidden, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.read = nn.Linear(width, len(PROTEIN), bias=False)
        self.profile = nn.Parameter(torch.zeros(COLUMNS, len(PROTEIN)))
        nn.init.zeros_(self.read.weight)

    @classmethod
    def of(cls, weights: Mapping[str, Tensor]) -> PDZNetwork:
        """Return the network that `weights` (a state dict) belong to, loaded, whatever its size."""
        hidden, width = weights["blocks.0.up.weight"].shape
        depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
        network = cls(width, depth, len(weights["blocks.0.pairs"]), hidden)
        network.load_state_dict(dict(weights))
        return network

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, 82, 20) of tokens (N, 82) or of relaxed columns (N, 82, 22)."""
        h = x @ self.letters if x.is_floating_point() else F.embedding(x, self.letters)
        h = h + self.columns
        for block in self.blocks:
            h = block(h)
        logits: Tensor = self.read(self.norm(h)) + self.profile
        return logits
