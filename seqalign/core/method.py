"""Methods: what aligns a process to a reward, and how one that is a loop is called.

Hyper-parameters live in a method, everything else is passed: a method is its repr, its hash and its
YAML.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from seqalign.core.budget import Budget
from seqalign.core.objective import Reward
from seqalign.core.particles import Particles, Samples, Step, log_mean_exp
from seqalign.core.process import Process, Space
from seqalign.core.proposal import Tilted
from seqalign.core.sketch import sketched
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


@dataclass(frozen=True)
class Looped:
    """A method that is one sweep of the loop: its fields are the parts of the loop.

    What a method names `tilt` is its proposal, what it names `resample` its selection.

    Attributes:
        alpha: temperature of the target, in units of the reward.
        one_position: whether its steps ask the network for one position (`seqalign.core.sketch`).
        value: estimate of the soft value at intermediate steps.
        tempering: schedule of lam.
        potential: how values become the log-twist: difference, max or sum.
        proposal: base or tilted.
        tilt: which gradient tilts the proposal, and its scale.
        resample: scheme and threshold of resampling.
        branch: children per particle, M.
        move: MCMC kernel after selection, or None.
    """

    alpha: float = 1.0
    consistent: ClassVar[bool] = True
    one_position: ClassVar[bool] = False

    def parts(self) -> Mapping[str, Any]:
        """Return the parts of the loop that are no fields, by their names in `SMC`."""
        return {}

    def loop(self, process: Process, reward: Reward, space: Space | None = None) -> SMC:
        """Return the sampler of these hyper-parameters.

        Raises:
            TypeError: the method asks for one position a step, and the process is of another kind.
        """
        known = {f.name for f in fields(SMC) if f.init}
        named = {"tilt": "proposal", "resample": "selection"}
        own = {named.get(f.name, f.name): getattr(self, f.name) for f in fields(self)}
        given = {k: v for k, v in own.items() if k in known} | dict(self.parts())
        if not self.consistent:
            # without weights the proposal is the law that the method has
            given["defense"] = 0.0
            tilt = given.get("proposal")
            if isinstance(tilt, Tilted) and tilt.limit is None:
                given["proposal"] = replace(tilt, limit=math.inf)
        if self.one_position:
            process = sketched(process, type(self).__module__.rpartition(".")[-1])
        return SMC(process, reward, space=space, **given)

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
