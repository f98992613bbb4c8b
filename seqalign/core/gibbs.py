"""Conditional sweeps: SMC in which one particle follows a path, whose end draws the next one.

Each sweep leaves the law of whole trajectories under p* invariant with any number of particles.
Whatever a sweep decides by looking at its particles, the path's among them (when to resample,
adaptive lam), stands in the law of what it draws as it stands in that of SMC, and cancels.

References:
    Andrieu, Doucet & Holenstein, "Particle Markov chain Monte Carlo methods", JRSS B 2010, section
    4.5. Lindsten, Jordan & Schön, "Particle Gibbs with ancestor sampling", JMLR 2014, algorithm 2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from seqalign.core.budget import Budget
from seqalign.core.devices import onto
from seqalign.core.particles import Particles, Step
from seqalign.core.process import Process, over_tensors
from seqalign.core.selection import Resample
from seqalign.core.smc import SMC, Observe
from seqalign.core.streams import Streams

__all__ = ["Ancestral", "Chain", "run", "sweep"]


@dataclass(frozen=True)
class Ancestral:
    """Resampling at which the path that is kept draws a new ancestor.

    Attributes:
        then: how the others are resampled.
        process: whose transitions lead to the path.
        path: its states (B, *event) by step; a sweep sets them.
    """

    then: Resample
    process: Process
    path: list[Any] = field(default_factory=list)

    def __call__(self, particles: Particles, k: int, rng: Streams) -> Particles:
        """Return (B, k) particles."""
        return self.then(particles, k, rng)

    def pinned(
        self, particles: Particles, k: int, rng: Streams, first: Tensor | None = None
    ) -> Particles:
        """Return (B, k) particles; `first` is drawn here, given where the path goes on."""
        p, times = particles, self.process.times.tolist()
        if p.reward is not None:
            return p
        if getattr(self.process, "remembers", False):
            # another past would change every later step of the path, not the next alone
            return self.then.pinned(p, k, rng)
        kernel = self.process.transition(p.x, p.posterior, times[p.step], times[p.step + 1])
        ahead = self.path[p.step + 1][:, None].expand_as(p.x)
        # the target of the whole path over that of its beginning, which the twist is part of; a
        # step without noise has one ancestor, and nothing is resampled before it
        log_w = p.log_w - p.log_twist - p.log_h + kernel.log_prob(ahead)
        first = rng.at("ancestor").categorical(log_w[:, None])[:, 0]
        return self.then.pinned(p, k, rng, first)


@dataclass(frozen=True)
class Chain:
    """What a sweep hands to the next, besides its designs.

    Attributes:
        path: (B, steps + 1, *event) the trajectory that was drawn, from step `begin` on.
        rewards: (B, K) of the designs so far.
        start: (B, N, *event) states that trajectories begin at; None for the prior.
        begin: the step at which they do.
    """

    path: Tensor | None = None
    rewards: Tensor | None = None
    start: Tensor | None = None
    begin: int = 0

    def map(self, f: Callable[[Tensor], Tensor]) -> Chain:
        """Apply `f` to every tensor."""
        return over_tensors(self, f)


def run(
    loop: SMC,
    shape: tuple[int, int],
    n: int,
    last: int,
    rng: Streams,
    state: Particles | None,
    chain: Chain,
    stop: int,
    budget: Budget | None = None,
    observe: Observe | None = None,
) -> tuple[Particles, list[Step]]:
    """Sweep on from a state, or from nothing, to sweep `stop`; return (B, K) designs and the trace.

    There are n trajectories in a sweep, and the designs are the draws of the K up to `last`.
    """
    trace = []
    with loop.meter.within(budget):
        for i in range(-1 if state is None else state.step, stop):
            before = loop.meter.calls
            end, path, row = sweep(loop, (shape[0], n), rng.at("sweep", i + 1), chain)
            calls = loop.meter.since(before)
            row = replace(row, step=i + 1, network_calls=calls[0], reward_calls=calls[1])
            new, rewards = _taken(state, end, shape, max(i + shape[1] - last, 0))
            chain = replace(chain, path=path, rewards=rewards)
            ended = rewards if i + 1 == last else None
            state = replace(new, step=i + 1, posterior=chain, reward=ended)
            trace.append(row)
            if observe is not None:
                observe(row, state)
    assert state is not None
    return state, trace


def sweep(
    loop: SMC, size: tuple[int, int], rng: Streams, chain: Chain
) -> tuple[Particles, Tensor, Step]:
    """Run (B, n) trajectories; return the end that was drawn, (B, 1), its path, and the last row.

    One of them is the path of the chain, if it has one.
    """
    begin = chain.begin
    if chain.start is None:
        x = loop.process.prior(size, rng.at("prior"))
    else:
        start = onto(loop.process, chain.start)
        pick = rng.at("start").uniform(size, start.device) * start.shape[1]
        x = start[torch.arange(size[0], device=start.device)[:, None], pick.long()]
    rows = torch.arange(size[0], device=x.device)
    ahead: list[Any] = [None] * len(loop.process.times)
    if chain.path is not None:
        ahead[begin:] = chain.path.unbind(1)
        x = torch.cat((ahead[begin][:, None], x[:, 1:]), 1)
    assert isinstance(loop.selection, Ancestral)
    loop.selection.path[:] = ahead
    particles, row = loop.init(size, rng, x, begin)
    lines, seen = [(particles.x, particles.parent)], [row]
    for x_s in ahead[begin + 1 :]:
        particles, row = loop.step(particles, rng, x_s)
        lines.append((particles.x, particles.parent))
        seen.append(row)
    pick = rng.at("draw").categorical(particles.log_w[:, None])
    end, line = particles.gather(pick), []
    for x, parent in reversed(lines):
        line.append(x[rows, pick[:, 0]])
        pick = parent.gather(1, pick)
    # the end looks at nothing new
    shares: dict[str, Any] = {
        name: torch.stack([getattr(s, name) for s in seen[:-1]]).mean(0)
        for name in ("failed_values", "failed_gradients")
    }
    return end, torch.stack(line[::-1], 1), replace(row, **shares)


def _taken(
    state: Particles | None, end: Particles, shape: tuple[int, int], slot: int
) -> tuple[Particles, Tensor]:
    """Return (B, K) draws and their rewards: the new one from `slot` on, so that it fills up."""
    new = replace(end, posterior=None, guide=None, score=None)
    new = new.gather(torch.zeros(shape, dtype=torch.int64, device=end.x.device))
    # a path that ended outside the target is no draw
    log_w = torch.zeros_like(new.log_w).masked_fill(torch.isneginf(new.log_w), -torch.inf)
    assert new.reward is not None
    found = [new.x, log_w, new.value, new.reward]
    if state is not None:
        earlier = [state.x, state.log_w, state.value, state.posterior.rewards]
        pairs = zip(earlier, found, strict=True)
        found = [torch.cat((old[:, :slot], now[:, slot:]), 1) for old, now in pairs]
    x, log_w, value, rewards = found
    return replace(new, x=x, log_w=log_w, value=value), rewards
