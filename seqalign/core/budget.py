"""The budget of a run: what counts its network and reward calls, and refuses one too many.

A call is one particle seen by the network, or one design (relaxed or not) scored by the reward; a
backward pass through the network counts as two more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from seqalign.core.devices import beside
from seqalign.core.objective import Reward, Way, Wrapper, evaluate
from seqalign.core.process import Posterior, Process

__all__ = ["Budget", "Meter", "Metered", "MeteredReward", "OverBudget", "metered"]


class OverBudget(ValueError):
    """The next call would exceed the budget; it has not been made."""


@dataclass(frozen=True)
class Budget:
    """The most calls a run may make; None sets no limit.

    Attributes:
        network: particles the network may see; a backward pass counts as two more.
        reward: designs the reward may score, relaxed ones too.
    """

    network: int | None = None
    reward: int | None = None


class Meter:
    """Network and reward calls made so far."""

    def __init__(self) -> None:
        self.network = self.reward = 0
        self._budget, self._start = Budget(), (0, 0)

    @property
    def calls(self) -> tuple[int, int]:
        """Network and reward calls."""
        return self.network, self.reward

    def since(self, before: tuple[int, int]) -> tuple[int, int]:
        """Return the calls made since there were so many."""
        return self.network - before[0], self.reward - before[1]

    @contextmanager
    def within(self, budget: Budget | None) -> Iterator[None]:
        """Keep what is counted from here on within a budget."""
        outer = self._budget, self._start
        if budget is not None:
            self._budget, self._start = budget, self.calls
        try:
            yield
        finally:
            self._budget, self._start = outer

    def charge(self, network: int = 0, reward: int = 0) -> None:
        """Count calls that are about to be made; OverBudget if they would exceed the budget."""
        limits, used = self._budget, self.since(self._start)
        asked = ("network", network, limits.network), ("reward", reward, limits.reward)
        for (what, more, most), made in zip(asked, used, strict=True):
            if most is not None and made + more > most:
                raise OverBudget(
                    f"The budget of {most} {what} calls is spent: {made} were made, and the next "
                    f"call needs {more}. Allow more, or take fewer particles or steps."
                )
        self.network, self.reward = self.network + network, self.reward + reward


class Metered:
    """A process that counts the particles its network sees, and is otherwise itself."""

    def __init__(self, process: Process, meter: Meter | None = None) -> None:
        self._process = process
        self.meter = Meter() if meter is None else meter

    def __getattr__(self, name: str) -> Any:
        """Forward everything else."""
        return getattr(self._process, name)

    @property
    def remembers(self) -> bool:
        """Whether the process says that it remembers."""
        return getattr(self._process, "remembers", False)

    def posterior(self, x: Tensor, t: float, *before: Any) -> Posterior:
        """Count (B·K) visits, with a backward pass if x requires one, and forward."""
        visits = x.shape[0] * x.shape[1] * (3 if x.requires_grad else 1)
        self.meter.charge(network=self._process.calls_per_state * visits)
        return self._process.posterior(x, t, *before)

    def take(self, islands: Sequence[int]) -> Metered:
        """Return the metered process of a subset, counting into the same meter."""
        return Metered(self._process.take(islands), self.meter)


class MeteredReward(Wrapper):
    """A reward that counts the designs and relaxed designs it is asked about."""

    def __init__(self, inner: Reward, meter: Meter) -> None:
        super().__init__(inner)
        self.meter = meter

    def ask(self, way: Way, given: Any) -> Tensor:
        """Charge, and ask; the loop evaluates what comes back itself."""
        self.meter.charge(reward=given.shape[0] * given.shape[1])
        return self.inner(given) if way is evaluate else way(self.inner, given)


def metered(process: Process, reward: Reward) -> tuple[Metered, MeteredReward]:
    """Count the calls of both with one meter: that of the process, if it has one already.

    A reward that does not follow the process to its device is asked on the CPU.
    """
    counted = process if isinstance(process, Metered) else Metered(process)
    bare = reward.inner if isinstance(reward, MeteredReward) else reward
    return counted, MeteredReward(beside(bare, process), counted.meter)
