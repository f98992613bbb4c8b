"""Particle Gibbs: a Markov chain over whole trajectories with few particles and stationary law p*.

A sweep is SMC in which one particle follows the trajectory that was drawn in the sweep before; its
end draws the next one. Each sweep leaves p* invariant with any number of particles, so that what
SMC buys with more particles is bought here with more sweeps, and every design weighs the same.

The first sweep keeps nothing. All that a sweep decides by looking at its particles, the kept one
among them (when to resample, adaptive lam), leaves the law as it is. Where it resamples, the kept
trajectory draws a new ancestor, so that its early states change although all lines meet in it; a
revealed letter stays, so that on masked processes only the choice at the end renews them.

References:
    Andrieu, Doucet & Holenstein, "Particle Markov chain Monte Carlo methods", JRSS B 2010, section
    4.5 (particle Gibbs). Lindsten, Jordan & Schön, "Particle Gibbs with ancestor sampling", JMLR
    2014, algorithm 2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from seqalign.core.budget import Budget
from seqalign.core.method import Looped, samples
from seqalign.core.objective import Reward
from seqalign.core.particles import Particles, Samples, Step
from seqalign.core.potential import Difference, Potential
from seqalign.core.process import Process, Space, over_tensors
from seqalign.core.proposal import Base, Proposal
from seqalign.core.selection import Resample
from seqalign.core.smc import SMC, Observe
from seqalign.core.streams import Streams
from seqalign.core.tempering import Linear, Tempering
from seqalign.core.value import Automatic, Value

__all__ = ["ParticleGibbs"]


# resampling that draws a new ancestor for the kept path
@dataclass(frozen=True)
class _Ancestral:
    then: Resample
    process: Process
    path: list[Tensor] = field(default_factory=list)  # (B, *event) by step, set before each sweep

    def __call__(self, particles: Particles, k: int, rng: Streams) -> Particles:
        return self.then(particles, k, rng)

    def pinned(
        self, particles: Particles, k: int, rng: Streams, first: Tensor | None = None
    ) -> Particles:
        p, times = particles, self.process.times.tolist()
        if p.reward is not None:
            return p
        kernel = self.process.transition(p.x, p.posterior, times[p.step], times[p.step + 1])
        # a step without noise has one ancestor, which its log-density of 0 does not tell
        if getattr(kernel, "sigma", 1.0) != 0:
            ahead = self.path[p.step + 1][:, None].expand_as(p.x)
            # the target of the whole path over that of its beginning, which the twist is part of
            log_w = p.log_w - p.log_twist - p.log_h + kernel.log_prob(ahead)
            first = rng.at("ancestor").categorical(log_w[:, None])[:, 0]
        return self.then.pinned(p, k, rng, first)


# what a sweep hands to the next, besides the designs
@dataclass(frozen=True)
class _Chain:
    path: Tensor | None = None  # (B, steps + 1, *event) from step `begin` on
    rewards: Tensor | None = None  # (B, K)
    start: Tensor | None = None  # (B, N, *event)
    begin: int = 0

    def map(self, f: Callable[[Tensor], Tensor]) -> _Chain:
        return over_tensors(self, f)


@dataclass(frozen=True)
class ParticleGibbs(Looped):
    """Conditional SMC sweeps: the K designs of an island are the draws of K sweeps in a row.

    An island is one chain: (burn_in + K) sweeps of `particles` each, so that it costs as much as
    SMC with particles · (burn_in + K). `stop` and the steps of the trace count sweeps, the first is
    0. States given as `start` at step `begin` of the process are where all trajectories begin, each
    of an island's as likely as the others.

    Attributes:
        particles: trajectories in a sweep, the kept one included; 2 or more.
        burn_in: sweeps before the first design is taken, the one that keeps nothing included.
    """

    particles: int = 8
    burn_in: int = 8
    value: Value = Automatic()
    tempering: Tempering = Linear()
    potential: Potential = Difference()
    proposal: Proposal = Base()
    resample: Resample = Resample()

    def __post_init__(self) -> None:
        """Refuse what is no chain."""
        if self.particles < 2 or self.burn_in < 0:
            raise ValueError(
                f"particle_gibbs needs particles >= 2 (with one, the kept trajectory is never "
                f"left) and burn_in >= 0, got {self.particles} and {self.burn_in}."
            )

    def loop(self, process: Process, reward: Reward, space: Space | None = None) -> SMC:
        """Return the sampler of one sweep."""
        parts = self.value, self.proposal, self.tempering, self.potential
        keep = _Ancestral(self.resample, process)
        return SMC(process, reward, self.alpha, *parts, selection=keep, space=space)

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
        """Draw (B, K) designs, one per sweep; see `Method`. There is no estimate of log Z."""
        loop, steps, trace = self.loop(process, reward, space), len(process.times) - 1, []
        last = self.burn_in + shape[1] - 1
        state = start if isinstance(start, Particles) else None
        first, stop = -1 if state is None else state.step, last if stop is None else stop
        if not max(first, 0) <= stop <= last:
            raise ValueError(
                f"stop counts sweeps: choose {max(first, 0)} <= stop <= {last} (burn_in + K - 1), "
                f"got {stop}."
            )
        if not 0 <= begin < steps or (start is None and begin > 0):
            raise ValueError(
                f"begin = {begin} is no step of a chain of {steps} steps that trajectories can "
                f"begin at; choose 0 <= begin < {steps}, and give start where begin > 0."
            )
        chain = _Chain(start=start, begin=begin) if state is None else state.posterior
        with loop.meter.within(budget):
            for sweep in range(first + 1, stop + 1):
                before = loop.meter.calls
                end, path, row = self._sweep(loop, shape[0], rng.at("sweep", sweep), chain)
                calls = loop.meter.since(before)
                row = replace(row, step=sweep, network_calls=calls[0], reward_calls=calls[1])
                new, rewards = _taken(state, end, shape, max(sweep - self.burn_in, 0))
                chain = replace(chain, path=path, rewards=rewards)
                ended = rewards if sweep == last else None
                state = replace(new, step=sweep, posterior=chain, reward=ended)
                trace.append(row)
                if observe is not None:
                    observe(row, state)
        assert state is not None
        return replace(samples(loop, state, trace), log_z=None)

    def _sweep(
        self, loop: SMC, islands: int, rng: Streams, chain: _Chain
    ) -> tuple[Particles, Tensor, Step]:
        """Return the end that was drawn, (B, 1), its path, and the last row of the sweep."""
        size, begin, rows = (islands, self.particles), chain.begin, torch.arange(islands)
        if chain.start is None:
            x = loop.process.prior(size, rng.at("prior"))
        else:
            pick = rng.at("start").uniform(size) * chain.start.shape[1]
            x = chain.start[rows[:, None], pick.long()]
        ahead: list[Any] = [None] * len(loop.process.times)
        if chain.path is not None:
            ahead[begin:] = chain.path.unbind(1)
            x = torch.cat((ahead[begin][:, None], x[:, 1:]), 1)
        assert isinstance(loop.selection, _Ancestral)
        loop.selection.path[:] = ahead
        particles, row = loop.init(size, rng, x, begin)
        lines = [(particles.x, particles.parent)]
        for x_s in ahead[begin + 1 :]:
            particles, row = loop.step(particles, rng, x_s)
            lines.append((particles.x, particles.parent))
        pick = rng.at("draw").categorical(particles.log_w[:, None])
        end, line = particles.gather(pick), []
        for x, parent in reversed(lines):
            line.append(x[rows, pick[:, 0]])
            pick = parent.gather(1, pick)
        return end, torch.stack(line[::-1], 1), row


def _taken(
    state: Particles | None, end: Particles, shape: tuple[int, int], slot: int
) -> tuple[Particles, Tensor]:
    """Return (B, K) draws and their rewards: the new one from `slot` on, so that it fills up."""
    new = replace(end, posterior=None, guide=None, score=None)
    new = new.gather(torch.zeros(shape, dtype=torch.int64, device=end.x.device))
    # a path that ended outside the target is no draw
    log_w = torch.zeros_like(new.log_w).masked_fill(torch.isneginf(new.log_w), -torch.inf)
    found = [new.x, log_w, new.value, new.reward]
    if state is not None:
        earlier = [state.x, state.log_w, state.value, state.posterior.rewards]
        pairs = zip(earlier, found, strict=True)
        found = [torch.cat((old[:, :slot], now[:, slot:]), 1) for old, now in pairs]
    x, log_w, value, rewards = found
    return replace(new, x=x, log_w=log_w, value=value), rewards
