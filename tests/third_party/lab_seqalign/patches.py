"""Greasy patches: how many neighbors are both hydrophobic.

References:
    Doe & Roe, "Sticky neighbors", Journal of Patches 2021, arXiv 2101.00001.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import one_hot

from seqalign.core.objective import Reward
from seqalign.core.process import Designs
from seqalign.core.sequence import PROTEIN


@dataclass(frozen=True)
class Patches(Reward):
    """Minus the number of neighbors that are both hydrophobic, differentiable."""

    name: str = "patches"
    unit: str = "pairs"
    differentiable: bool = True
    letters: str = "AFILMVWY"

    def __call__(self, designs: Designs) -> Tensor:
        return self.relaxed(one_hot(designs.x, len(PROTEIN)).double())

    def relaxed(self, x: Tensor) -> Tensor:
        greasy = x[..., [PROTEIN.letters.index(a) for a in self.letters]].sum(-1)
        return -(greasy[..., 1:] * greasy[..., :-1]).sum(-1)


def patches(letters: str = "AFILMVWY") -> Patches:
    """Return the reward; `letters` are the hydrophobic ones."""
    return Patches(letters=letters)
