"""Tempering: how strongly the reward counts at each step, lam in [0, 1] per island.

The driver imposes lam = 0 before the first step and lam = 1 at the end, so a schedule only says
what happens between. A schedule sees the effective sample size that a candidate lam would give,
never the weights themselves.

References:
    Kim, Kim & Park, ICLR 2025, arXiv 2501.05803, section 3.3 (geometric and adaptive tempering).
    Del Moral, Doucet & Jasra, "An adaptive sequential Monte Carlo method", Statistics and Computing
    2012.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

__all__ = ["Adaptive", "Constant", "EssAt", "Geometric", "Linear", "Tempering"]

# (B,) candidate lam to (B,) effective sample size as a fraction
EssAt = Callable[[Tensor], Tensor]


class Tempering(Protocol):
    """lam after step i of n; `adaptive` says whether it looks at the weights."""

    adaptive: ClassVar[bool]

    def __call__(self, i: int, n: int, lam: Tensor, ess_at: EssAt) -> Tensor:
        """Return lam (B,) after step i = 1..n−1 of n, given the lam (B,) before it."""


@dataclass(frozen=True)
class Constant:
    """The same lam at every step; 0 waits until the end."""

    adaptive: ClassVar[bool] = False
    lam: float = 1.0

    def __call__(self, i: int, n: int, lam: Tensor, ess_at: EssAt) -> Tensor:
        """Return lam (B,)."""
        return torch.full_like(lam, self.lam)


@dataclass(frozen=True)
class Linear:
    """lam = (i/n)^power."""

    adaptive: ClassVar[bool] = False
    power: float = 1.0

    def __call__(self, i: int, n: int, lam: Tensor, ess_at: EssAt) -> Tensor:
        """Return lam (B,)."""
        return torch.full_like(lam, (i / n) ** self.power)


@dataclass(frozen=True)
class Geometric:
    """lam = (1 + gamma)^i − 1, at most 1; gamma None reaches 1 exactly at the last step.

    References:
        arXiv 2501.05803, section 3.3: lambda_t = (1 + gamma)^(T − t) − 1.
    """

    adaptive: ClassVar[bool] = False
    gamma: float | None = None

    def __call__(self, i: int, n: int, lam: Tensor, ess_at: EssAt) -> Tensor:
        """Return lam (B,)."""
        gamma = 2.0 ** (1.0 / n) - 1.0 if self.gamma is None else self.gamma
        return torch.full_like(lam, min((1.0 + gamma) ** i - 1.0, 1.0))


@dataclass(frozen=True)
class Adaptive:
    """The largest lam that keeps the effective sample size, no faster than `pace`.

    Early on all values are nearly equal and any lam keeps the weights even; without a pace lam
    would jump to 1 and tempering would be over before it began.

    Attributes:
        ess: fraction of the particles to keep.
        pace: lam never exceeds (i/n)^pace; 0 lifts the limit.
        iterations: bisection steps; lam is known to 2^-iterations.
    """

    ess: float = 0.7
    pace: float = 1.0
    iterations: int = 10
    adaptive: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.ess < 1:
            raise ValueError(f"Adaptive tempering needs 0 < ess < 1, got {self.ess}.")

    def __call__(self, i: int, n: int, lam: Tensor, ess_at: EssAt) -> Tensor:
        """Return lam (B,)."""
        ceiling = torch.full_like(lam, (i / n) ** self.pace).clamp(min=lam)
        lo, hi = lam, ceiling
        free = ess_at(ceiling) >= self.ess
        if bool(free.all()):
            return ceiling
        for _ in range(self.iterations):
            middle = 0.5 * (lo + hi)
            good = ess_at(middle) >= self.ess
            lo, hi = torch.where(good, middle, lo), torch.where(good, hi, middle)
        return torch.where(free, ceiling, lo)
