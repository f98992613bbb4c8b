"""Samplers of the lab."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from seqalign.core.method import Looped
from seqalign.core.objective import Reward
from seqalign.core.process import Process, Space
from seqalign.core.selection import Keep, Resample, Selection
from seqalign.core.smc import SMC
from seqalign.core.tempering import Linear, Tempering
from seqalign.core.value import Automatic, Value


@dataclass(frozen=True)
class Ladder(Looped):
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

    def loop(self, process: Process, reward: Reward, space: Space | None = None) -> SMC:
        """Return the sampler of these hyper-parameters."""
        return SMC(
            process, reward, self.alpha, value=self.value, tempering=self.rungs[0],
            selection=self.selection, space=space,
        )  # fmt: skip


@dataclass(frozen=True)
class Sled(Looped):
    """Sled: importance sampling, downhill.

    References:
        @article{poe2024sled, title = {Sleds}, author = {Poe, A.}, year = {2024}}
    """

    alpha: float = 1.0
    consistent: ClassVar[bool] = True

    def loop(self, process: Process, reward: Reward, space: Space | None = None) -> SMC:
        """Return the sampler of these hyper-parameters."""
        return SMC(process, reward, self.alpha, value=None, selection=Keep(), space=space)
