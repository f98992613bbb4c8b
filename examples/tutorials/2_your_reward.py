"""Your reward: a plain function, a differentiable one, and formulas of both.

python examples/tutorials/2_your_reward.py         # --quick draws a few
seqalign run examples/tutorials/2_your_reward.yaml # the same rewards in a campaign
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch

import seqalign as sa


def tryptophans(sequences: list[str]) -> list[int]:
    """A function of n sequences that returns n numbers is a reward; higher is better."""
    return [s.count("W") for s in sequences]


@dataclass(frozen=True)
class Turns(sa.Reward):
    """With a gradient, a reward can also guide: the tilted proposals of tds and das follow it."""

    letters: str = "NGPD"
    name: str = "turns"
    unit: str = "residues"
    differentiable: bool = True

    def __call__(self, designs: sa.Designs) -> torch.Tensor:
        """Finished designs, tokens (B, K, L), to (B, K)."""
        return self.relaxed(torch.nn.functional.one_hot(designs.x, 20).double())

    def relaxed(self, x: torch.Tensor) -> torch.Tensor:
        """The same of letter probabilities (B, K, L, 20), differentiable."""
        return x[..., [sa.PROTEIN.letters.index(a) for a in self.letters]].sum((-2, -1))


def main(particles: int) -> None:
    """Align a model of natural PDZ domains to two formulas."""
    model = sa.load_model("pdz-mini", design="18-45", omit="C", max_mutations=6)
    stability = sa.load_reward("pdz3-stability")

    # Rewards add up. `clip` bounds one, `zscore` divides it by its spread among unguided designs
    # (constants that are fixed before the run), and `holdout` marks one that is never optimized.
    guide = stability + 0.05 * Turns().clip(hi=20)
    result = sa.sample(model, guide, "tds", particles=particles, alpha=0.3, seed=7)
    print(result, "\n")

    # A term without a gradient leaves the gradient-free methods: smc, best_of_n, svdd, beam.
    guide = stability.zscore() - 0.1 * sa.reward(tryptophans)
    result = sa.sample(model, guide, "smc", particles=particles, alpha=0.3, seed=7)
    print(result)

    # A program that prints one number per sequence of a FASTA file is a reward too:
    # sa.reward.command("score.sh {fasta}")


if __name__ == "__main__":
    main(particles=8 if "--quick" in sys.argv else 64)
