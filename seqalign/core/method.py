"""Methods: what aligns a process to a reward, and how one that is a loop is called.

Hyper-parameters live in a method, everything else is passed: a method is its repr, its hash and its
YAML.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from seqalign.core.budget import Budget
from seqalign.core.objective import Reward
from seqalign.core.particles import Particles, Samples, Step, log_mean_exp
from seqalign.core.process import Process, Space
from seqalign.core.smc import SMC, Observe
from seqalign.core.streams import Streams

__all__ = ["Looped", "Method", "samples"]


class Method(Protocol):
    """An alignment method: a frozen dataclass of hyper-parameters that can be called."""

    @property
    def alpha(self) -> float:
        """Temperature of the target, in units of the reward."""

    @property
    def consistent(self) -> bool:
        """Whether its weighted samples approach p*."""

    def __call__(
        self,
        process: Process,
        reward: Reward,
        shape: tuple[int, int],
        *,
        rng: Streams,
        space: Space | None = None,
        start: Particles | Tensor | None = None,
        begin: int = 0,
        stop: int | None = None,
        budget: Budget | None = None,
        observe: Observe | None = None,
    ) -> Samples:
        """Draw (B, K) designs: `SMC.run` says from where to where, within what, and who looks on.

        With `stop` before the end there are no designs yet; `Samples.particles`, given as `start`,
        go on to what an undisturbed run gives, bit for bit.

        Raises:
            OverBudget: the next visit would need more calls than the budget allows.
            TypeError: the process or the reward lacks what the method needs.
            ValueError: a hyper-parameter, begin or stop is out of range.
        """


class Looped(ABC):
    """A method that is one sweep of the loop: it says which, and is called as every method is."""

    consistent: ClassVar[bool]

    @abstractmethod
    def loop(self, process: Process, reward: Reward, space: Space | None = None) -> SMC:
        """Return the sampler of these hyper-parameters."""

    def __call__(
        self,
        process: Process,
        reward: Reward,
        shape: tuple[int, int],
        *,
        rng: Streams,
        space: Space | None = None,
        start: Particles | Tensor | None = None,
        begin: int = 0,
        stop: int | None = None,
        budget: Budget | None = None,
        observe: Observe | None = None,
    ) -> Samples:
        """Draw (B, K) designs; see `Method`. They are weighted if the method is consistent."""
        loop = self.loop(process, reward, space)
        particles, trace = loop.run(
            shape, rng, start=start, begin=begin, stop=stop, budget=budget, observe=observe
        )
        return samples(loop, particles, trace, weighted=self.consistent)


def samples(
    loop: SMC, particles: Particles, trace: Sequence[Step] = (), weighted: bool = True
) -> Samples:
    """Return what a run of a loop gave; `weighted` False drops the weights of a biased method."""
    log_w, log_z, x, rewards = particles.log_w, None, particles.x, particles.reward
    if weighted:
        log_z = particles.log_z + log_mean_exp(log_w)
    else:
        log_w = torch.zeros_like(log_w)
    if rewards is None:
        silent = torch.full_like(log_w, torch.nan)
        return Samples(None, silent, log_w, log_z, tuple(trace), x, particles)
    if not weighted and loop.space is not None:
        # what lies outside the design space is no design, whatever the method makes of weights
        log_w = torch.where(loop.space.contains(x), log_w, -torch.inf)
    return Samples(loop.process.decode(x), rewards, log_w, log_z, tuple(trace), x)
