"""Potentials: how values along a path become the cumulative log-potential (the log-twist).

References:
    Singhal et al., "A general framework for inference-time scaling and steering of diffusion
    models", ICML 2025, arXiv 2501.06848, section 3.2 (difference, max and sum).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

__all__ = ["Difference", "Max", "Potential", "Sum"]


class Potential(Protocol):
    """The cumulative log-potential after a step; `start` is the memo of a new particle."""

    start: ClassVar[float]

    def __call__(
        self, log_twist: Tensor, memo: Tensor, lam: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return (log_twist, memo), each (B, K), from those before, lam (B,) and v/alpha (B, K)."""


@dataclass(frozen=True)
class Difference:
    """log_twist = lam·v: each step weighs by the change of value."""

    start: ClassVar[float] = 0.0

    def __call__(
        self, log_twist: Tensor, memo: Tensor, lam: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return (log_twist, memo)."""
        return lam[:, None] * v, memo


@dataclass(frozen=True)
class Max:
    """log_twist grows by lam times the best value on the path so far."""

    start: ClassVar[float] = -torch.inf

    def __call__(
        self, log_twist: Tensor, memo: Tensor, lam: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return (log_twist, memo)."""
        memo = torch.maximum(memo, v)
        return log_twist + lam[:, None] * memo, memo


@dataclass(frozen=True)
class Sum:
    """log_twist grows by lam times the sum of the values on the path so far."""

    start: ClassVar[float] = 0.0

    def __call__(
        self, log_twist: Tensor, memo: Tensor, lam: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return (log_twist, memo)."""
        memo = memo + v
        return log_twist + lam[:, None] * memo, memo
