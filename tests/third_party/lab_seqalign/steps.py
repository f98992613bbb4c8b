"""A schedule of lam in stairs.

References:
    Moe, "Stairs to a target", Proceedings of Schedules 2022.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from seqalign.core.tempering import EssAt


@dataclass(frozen=True)
class Stairs:
    """lam rises in equal stairs: floor(stairs · i/n) / stairs."""

    adaptive: ClassVar[bool] = False
    stairs: int = 4

    def __post_init__(self) -> None:
        if self.stairs < 1:
            raise ValueError(f"Stairs needs stairs >= 1, got {self.stairs}.")

    def __call__(self, i: int, n: int, lam: Tensor, ess_at: EssAt) -> Tensor:
        """Return lam (B,)."""
        return torch.full_like(lam, math.floor(self.stairs * i / n) / self.stairs)
