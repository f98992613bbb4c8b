"""Samplers of the lab."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from seqalign.core.particles import Samples
from seqalign.core.selection import Keep, Resample, Selection
from seqalign.core.smc import SMC
from seqalign.core.tempering import Linear, Tempering
from seqalign.core.value import Automatic, Value


@dataclass(frozen=True)
class Ladder:
    """Ladder: tempered SMC that resamples on some rungs.

    Every rung is a step of the schedule.

    Attributes:
        alpha: temperature of the target, in units of the reward.
        rungs: schedules, one after the other; the first is used.
        selection: which particles go on.
        then: resampling of a second kind, if any.

    References:
        Poe, "Ladders", Annals of Climbing 2023, equation 4.
    """

    alpha: float = 1.0
    rungs: tuple[Tempering, ...] = (Linear(),)
    value: Value = Automatic()
    selection: Selection = Resample()
    then: Resample | None = None
    consistent: ClassVar[bool] = True

    def __call__(
        self, process: Any, reward: Any, shape: tuple[int, int], *, rng: Any, **more: Any
    ) -> Samples:
        """Draw (B, K) weighted designs."""
        space, start, observe = (more.get(k) for k in ("space", "start", "observe"))
        loop = SMC(
            process, reward, self.alpha, value=self.value, tempering=self.rungs[0],
            selection=self.selection, space=space,
        )  # fmt: skip
        return loop.sample(shape, rng, start=start, observe=observe)


@dataclass(frozen=True)
class Sled:
    """Sled: importance sampling, downhill.

    References:
        @article{poe2024sled, title = {Sleds}, author = {Poe, A.}, year = {2024}}
    """

    alpha: float = 1.0
    consistent: ClassVar[bool] = True

    def __call__(
        self, process: Any, reward: Any, shape: tuple[int, int], *, rng: Any, **more: Any
    ) -> Samples:
        """Draw (B, K) weighted designs."""
        space, start, observe = (more.get(k) for k in ("space", "start", "observe"))
        loop = SMC(process, reward, self.alpha, value=None, selection=Keep(), space=space)
        return loop.sample(shape, rng, start=start, observe=observe)
