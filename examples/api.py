"""Ten lines of Python: a model, a reward, designs. `--quick` draws a few only."""

import sys

import seqalign as sa

model = sa.load_model("pdz-mini", fix="62, 69", omit="C", max_mutations=6)
stability = sa.load_reward("pdz3-stability")
affinity = sa.load_reward("pdz3-affinity")
particles = 8 if "--quick" in sys.argv else 64
result = sa.sample(model, stability + affinity, "das", particles=particles, alpha=0.3, seed=7)
best = result.best(5)
for sequence, reward in zip(best.sequences, best.rewards, strict=True):
    print(f"{reward:7.3f}  {sequence}")
if "--quick" not in sys.argv:
    best.to_fasta("designs.fasta")
