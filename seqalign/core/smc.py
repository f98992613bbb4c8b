"""The one loop: branch → propose → look → weigh → temper → select.

Every weighted-particle method is this loop with other parts (see `seqalign.methods`). The increment
of a log-weight is

    log p(x_s | x_t) − log q(x_s | x_t) + log_twist_s − log_twist_t + log h(x_s) − log h(x_t)

and the last step imposes log_twist = r(x_0)/alpha and h = 1_A, so any finite value, tempering or
potential before it leaves E[Ẑ] = Z and only changes the variance.

References:
    Uehara et al., arXiv 2501.09685, algorithm 3. Kim, Kim & Park, arXiv 2501.05803, algorithm 1.
    Del Moral, "Feynman-Kac formulae", 2004.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from seqalign.core.budget import Budget, Meter, metered
from seqalign.core.devices import onto
from seqalign.core.look import Look, Visit, filled
from seqalign.core.moves import Move, after, noted, ready, refuse
from seqalign.core.objective import Reward, evaluate
from seqalign.core.particles import Particles, Step
from seqalign.core.potential import Difference, Potential
from seqalign.core.process import Process, Space, Transition, shifted, weigh
from seqalign.core.proposal import DEFENSE, Base, Proposal, Tilted, defended, inside, reaching
from seqalign.core.resampling import ess
from seqalign.core.selection import Resample, Selection, children, fitted, waits
from seqalign.core.streams import Streams
from seqalign.core.tempering import Constant, Tempering, ahead, fit
from seqalign.core.value import PosteriorMean, Value

__all__ = ["SMC", "Move", "Observe"]

# what a person looks at after a step, and the particles that go on from it
Observe = Callable[[Step, Particles], None]


@dataclass(frozen=True)
class SMC:
    """A weighted-particle sampler of p*(x) ∝ p_pre(x) · exp(r(x)/alpha), restricted to `space`.

    Attributes:
        process: the pretrained reverse diffusion; its calls are counted.
        reward: what to align to; its calls are counted.
        alpha: temperature of the target, > 0, in units of the reward.
        value: intermediate estimate of the soft value, or None to look at the reward only at the
            end.
        proposal: `Base()` or `Tilted(...)`.
        tempering: schedule of lam.
        potential: how values become the log-twist.
        selection: which particles go on.
        branch: children per particle and step.
        space: hard constraints.
        move: MCMC kernel after selection.
        defense: share of the paths that leave the proposal once for the base process; 0 for none.
        meter: calls made so far.
    """

    process: Process
    reward: Reward
    alpha: float
    value: Value | None = PosteriorMean()
    proposal: Proposal = Base()
    tempering: Tempering = Constant()
    potential: Potential = Difference()
    selection: Selection = Resample()
    branch: int = 1
    space: Space | None = None
    move: Move | None = None
    defense: float = DEFENSE
    meter: Meter = field(init=False, repr=False, compare=False)
    _look: Visit = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Count calls, bind the value to the reward and refuse what cannot work, before any."""
        if not self.alpha > 0:
            raise ValueError(
                f"alpha must be > 0, got {self.alpha}; for alpha = 0 use svdd, which is greedy "
                f"then."
            )
        if self.branch < 1:
            raise ValueError(f"branch must be >= 1, got {self.branch}.")
        process, reward = metered(self.process, self.reward)
        look = Visit.of(process, reward, self.alpha, self.value, self.proposal, self.space)
        selection = fitted(self.selection, process, self.branch, isinstance(self.proposal, Tilted))
        found = {"process": process, "reward": reward, "meter": process.meter, "_look": look}
        tempering = fit(self.tempering, look.value, self.potential, waits(selection))
        kept = {"value": look.value, "space": look.space, "selection": selection}
        found["proposal"] = reaching(self.proposal, reward)
        for name, part in (found | kept | {"tempering": tempering}).items():
            object.__setattr__(self, name, part)
        refuse(self)

    @cached_property
    def _times(self) -> list[float]:
        times: list[float] = self.process.times.tolist()
        return times

    def init(
        self, shape: tuple[int, int], rng: Streams, x: Tensor | None = None, step: int = 0
    ) -> tuple[Particles, Step]:
        """Start (B, K) particles from the prior, or from states x (B, K, *event) at times[step]."""
        before = self.meter.calls
        ready(self, shape[1], x)
        if x is None:
            x = self.process.prior(shape, rng.at("prior"))
        x = onto(self.process, x)
        self.process.check(len(self._times) - 1 - step, self.space, x)
        if self.space is not None:
            x = self.space.start(x)
        look = self._look(x, self._times[step], rng.at(step))
        particles = look.begin(x, step, self.potential.start)
        return particles, Step.of(particles, None, self.meter.since(before))

    def step(
        self, particles: Particles, rng: Streams, pinned: Tensor | None = None
    ) -> tuple[Particles, Step]:
        """Advance by one step; `pinned` (B, *event) is what particle 0 must become, unmoved."""
        before, (b, k) = self.meter.calls, particles.log_w.shape
        i, n = particles.step + 1, len(self._times) - 1
        rng, last, m = rng.at(i), i == n, children(self.branch, self.process, particles)
        origin = torch.arange(k, device=particles.x.device).expand(b, k)
        state = replace(particles, parent=origin).branch(m)
        x_s, shift = self._propose(state, i, rng, pinned)
        if last:
            look, reward = self._judge(x_s, state)
        else:
            look, reward = self._look.again(x_s, state, self._times[i], rng), None
        moved = self._weigh(state, shift, look, i, last)
        moved = noted(self, state, replace(moved, step=i, x=x_s, reward=reward))
        select = self.selection if pinned is None else self.selection.pinned
        chosen = select(moved, k, rng.at("select"))
        found = None if last or pinned is not None else (look.value, moved.log_w)
        done, accepted = after(self, particles, chosen, found, rng)
        return done, Step.of(moved, chosen, self.meter.since(before), accepted)

    def _propose(
        self, state: Particles, i: int, rng: Streams, pinned: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return x_s and log p − log q."""
        p, q = self.kernels(state, i)
        x_s, shift = weigh(q, p, rng.at("proposal"))
        if pinned is not None:
            x_s = torch.cat((pinned[:, None], x_s[:, 1:]), 1)
            shift = shifted(p, x_s, q.log_prob(x_s))
        return x_s, shift

    def kernels(self, state: Particles, i: int) -> tuple[Transition, Transition]:
        """Return the base transition p of a state to times[i], and the proposal q."""
        t, s, n = self._times[i - 1], self._times[i], len(self._times) - 1
        q = wide = p = self.process.transition(state.x, state.posterior, t, s)
        if self.space is not None:
            kept = self.space if i == n or self.process.absorbing else None
            q, wide = inside(self.process, state, t, s, kept)
        if state.score is not None and isinstance(self.proposal, Tilted):
            lam = ahead(self.tempering, i, n, state.lam)
            q = self.proposal(q, state.score, lam)
        return p, q if q is p else defended(q, wide, self.defense / n)

    def _judge(self, x_0: Tensor, state: Particles) -> tuple[Look, Tensor]:
        """Return what the end imposes in place of a visit, and the reward of finished designs."""
        reward = evaluate(self.reward, self.process.decode(x_0))
        inside = torch.zeros_like(reward)
        if self.space is not None:
            inside = torch.where(self.space.contains(x_0), 0.0, -torch.inf)
        return replace(Look.of(state), log_h=inside, value=reward / self.alpha), reward

    def _weigh(self, state: Particles, shift: Tensor, look: Look, i: int, last: bool) -> Particles:
        """Return the particles with their new weights, log-twists and lam."""
        log_h, value, mark, silent = look.log_h, look.value, look.value, None
        base = state.log_w + shift + log_h - state.log_h
        # almost always all is finite: one look at the sum tells
        if not math.isfinite(float((log_h + value).sum())):
            dead, sound = torch.isneginf(log_h), torch.isfinite(value)
            log_h = torch.where(dead, 0.0, log_h)
            base = torch.where(dead, -torch.inf, base)
            if not (last or bool(sound.all())):
                mark = filled(value, state.value, ~torch.isneginf(base))
                # an island in which nothing is known keeps its twists
                silent = torch.isnan(mark)
                value = torch.where(silent, 0.0, mark)

        def twist(lam: Tensor) -> tuple[Tensor, Tensor]:
            log_twist, memo = self.potential(state.log_twist, state.memo, lam, value)
            if silent is not None:
                log_twist = torch.where(silent, state.log_twist, log_twist)
                memo = torch.where(silent, state.memo, memo)
            return log_twist, memo

        def ess_at(lam: Tensor) -> Tensor:
            return ess(base + twist(lam)[0] - state.log_twist) / base.shape[1]

        if last:
            lam, log_twist, memo = torch.ones_like(state.lam), look.value, state.memo
        elif self.value is None:
            lam, log_twist, memo = state.lam, state.log_twist, state.memo
        else:
            lam = self.tempering(i, len(self._times) - 1, state.lam, ess_at)
            log_twist, memo = twist(lam)
        return look.put(
            state,
            log_w=base + log_twist - state.log_twist,
            log_twist=log_twist,
            log_h=log_h,
            value=mark,
            memo=memo,
            lam=lam,
        )

    def run(
        self,
        shape: tuple[int, int],
        rng: Streams,
        *,
        start: Particles | Tensor | None = None,
        begin: int = 0,
        stop: int | None = None,
        budget: Budget | None = None,
        observe: Observe | None = None,
    ) -> tuple[Particles, list[Step]]:
        """Run from `start` to step `stop` or the end; return the particles and one row per step.

        `start` holds particles, which go on from their own step, or states (B, K, *event) at step
        `begin`; by default the prior at step 0.
        """
        end, trace = len(self._times) - 1, []
        first = start.step if isinstance(start, Particles) else begin
        stop = end if stop is None else stop
        if not 0 <= first <= stop <= end or (start is None and first > 0):
            raise ValueError(
                f"A run from step {first} to step {stop} is no part of a chain of {end} steps that "
                f"starts {'at step 0' if start is None else 'anywhere'}; choose 0 <= begin <= stop "
                f"<= {end}, and give start where begin > 0."
            )

        def note(particles: Particles, report: Step) -> Particles:
            trace.append(report)
            if observe is not None:
                observe(report, particles)
            return particles

        with self.meter.within(budget):
            if isinstance(start, Particles):
                particles = start
            else:
                particles = note(*self.init(shape, rng, start, begin))
            for _ in range(particles.step, stop):
                particles = note(*self.step(particles, rng))
        return particles, trace
