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
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from seqalign.core.potential import Difference, Potential

__all__ = [
    "HURRY", "Adaptive", "Constant", "EssAt", "Even", "Fitted", "Geometric", "Linear", "Tempering",
    "ahead", "fit",
]  # fmt: skip

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
class Even:
    """lam = 1/n: for potentials that add up one value per step."""

    adaptive: ClassVar[bool] = False

    def __call__(self, i: int, n: int, lam: Tensor, ess_at: EssAt) -> Tensor:
        """Return lam (B,)."""
        return torch.full_like(lam, 1.0 / n)


@dataclass(frozen=True)
class Fitted:
    """What fits the value: constant for an estimate of the soft value, else linear.

    A rough value counts late, when it is known better. Potentials that add up values count evenly.
    """

    adaptive: ClassVar[bool] = False

    def __call__(self, i: int, n: int, lam: Tensor, ess_at: EssAt) -> Tensor:
        """Return lam (B,) as for a rough value."""
        return Linear()(i, n, lam, ess_at)


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


# shares of the way to the ceiling that are tried: evenly, then ever smaller, since a lam that
# matters may be as small as the temperature
SHARES = (*(k / 8 for k in range(8, 0, -1)), *(2.0**-k for k in range(4, 65)))

# the share of particles below which a rough value is not waited for. Values that differ this much
# are known well enough against what is at stake; where they do not, to wait costs nothing, and to
# decide by them early would lose modes.
HURRY = 0.5


@dataclass(frozen=True)
class Adaptive:
    """The largest lam that keeps the effective sample size, no faster than `pace`.

    Where no lam keeps it, as after a proposal that ran ahead of the weights, the one that keeps
    most. Selection must resample at or above the same size, or lam would wait for ever: below `ess`
    it cannot rise, and only resampling makes the weights even again.

    Attributes:
        ess: fraction of the particles to keep.
        pace: lam never exceeds (i/n)^pace; 0 sets no limit. None fits the value: 0 for an estimate
            of the soft value; else 1, lifted in islands of which the whole reward would leave less
            than `HURRY`: so much of it takes all the steps there are.
        iterations: bisection steps; each increment of lam is known to 2^-iterations of itself.
    """

    ess: float = 0.7
    pace: float | None = None
    iterations: int = 10
    adaptive: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.ess < 1:
            raise ValueError(f"Adaptive tempering needs 0 < ess < 1, got {self.ess}.")

    def _ceiling(self, i: int, n: int) -> float:
        """Return the largest lam after step i."""
        return (i / n) ** (1.0 if self.pace is None else self.pace) if i else 0.0

    def ahead(self, i: int, n: int, lam: Tensor) -> Tensor:
        """Return what lam (B,) will be after step i where nothing has held it back so far."""
        free = lam >= self._ceiling(i - 1, n)
        return torch.where(free, self._ceiling(i, n), lam).clamp(min=lam)

    def __call__(self, i: int, n: int, lam: Tensor, ess_at: EssAt) -> Tensor:
        """Return lam (B,)."""
        ceiling = torch.full_like(lam, self._ceiling(i, n)).clamp(min=lam)
        if self.pace is None:
            ceiling = torch.where(ess_at(torch.ones_like(lam)) < HURRY, 1.0, ceiling)
        room, most = ceiling - lam, ess_at(ceiling)
        if bool((most >= self.ess).all()):
            return ceiling
        here = ess_at(lam)
        able = here >= self.ess
        best, most = torch.zeros_like(lam), here
        good, bad, open_ = best, torch.ones_like(lam), torch.ones_like(able)
        for share in SHARES:
            open_ = open_ & able if share < 1 / 8 else open_
            if not bool(open_.any()):
                break
            size = ess_at(lam + share * room)
            # more than rounding: where all values are equal no lam is better than to stay
            more = size > most + 1e-6
            best, most = torch.where(more, share, best), torch.where(more, size, most)
            fits = open_ & (size >= self.ess)
            good = torch.where(fits, share, good)
            bad = torch.where(open_ & ~fits, share, bad)
            open_ = open_ & ~fits
        lost = ~able & (good == 0)
        good, bad = torch.where(lost, best, good), torch.where(lost, best, bad)
        for _ in range(self.iterations):
            middle = 0.5 * (good + bad)
            fits = ess_at(lam + middle * room) >= self.ess
            good, bad = torch.where(fits, middle, good), torch.where(fits, bad, middle)
        return torch.where(good == 1, ceiling, lam + good * room)


def ahead(tempering: Tempering, i: int, n: int, lam: Tensor) -> Tensor:
    """Return the lam (B,) that a proposal of step i of n counts on, given the one before it."""
    if not tempering.adaptive:
        return torch.ones_like(lam) if i == n else tempering(i, n, lam, _blind)
    find = getattr(tempering, "ahead", None)
    return lam if find is None else find(i, n, lam)


def _blind(lam: Tensor) -> Tensor:
    raise AssertionError("a schedule that is not adaptive looks at no weights")


def fit(tempering: Tempering, value: Any, potential: Potential, ess_below: float) -> Tempering:
    """Return the schedule with what it leaves to the value and the potential filled in.

    Raises:
        ValueError: selection resamples below `ess_below` only, and an adaptive lam would wait for
            it for ever.
    """
    known = bool(getattr(value, "calibrated", False))
    if isinstance(tempering, Adaptive):
        if ess_below < tempering.ess:
            raise ValueError(
                f"Adaptive tempering waits while the effective sample size is below "
                f"{tempering.ess:g}, and resampling, which raises it, begins below {ess_below:g}: "
                f"lam would stand still. Set resample.ess_below to {tempering.ess:g} or more, or "
                f"tempering.ess to less."
            )
        return replace(tempering, pace=0.0) if known and tempering.pace is None else tempering
    if not isinstance(tempering, Fitted):
        return tempering
    if not isinstance(potential, Difference):
        return Even()
    return Constant() if known else Linear()
