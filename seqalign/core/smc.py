"""The one loop: branch → propose → weight → select.

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
from typing import Any, cast

import torch
from torch import Tensor

from seqalign.core.discrete import OpenPosterior
from seqalign.core.objective import Reward, evaluate
from seqalign.core.particles import Particles, Samples, Step, log_mean_exp
from seqalign.core.potential import Difference, Potential
from seqalign.core.process import Designs, Metered, Process, weigh
from seqalign.core.proposal import Base, Proposal, Tilted
from seqalign.core.resampling import ess
from seqalign.core.selection import Resample, Selection, pin
from seqalign.core.streams import Streams
from seqalign.core.tempering import Constant, Tempering
from seqalign.core.value import PosteriorMean, Value
from seqalign.space.space import DesignSpace

__all__ = ["SMC", "Move", "Observe"]

Observe = Callable[[Step], None]
# an MCMC kernel applied after selection; it must leave the current target invariant
Move = Callable[["SMC", Particles, Streams], Particles]


class _Meter(Reward):
    """Count the designs and relaxed designs that the loop asks a reward about."""

    def __init__(self, inner: Reward) -> None:
        self.inner, self.calls = inner, 0
        self.name, self.differentiable = inner.name, inner.differentiable

    def __call__(self, designs: Designs) -> Tensor:
        self.calls += designs.shape[0] * designs.shape[1]
        return self.inner(designs)

    def relaxed(self, x: Tensor) -> Tensor:
        self.calls += x.shape[0] * x.shape[1]
        return self.inner.relaxed(x)

    def graded(self, designs: Designs) -> Tensor:
        self.calls += designs.shape[0] * designs.shape[1]
        return self.inner.graded(designs)


@dataclass(frozen=True)
class _Look:
    """What one visit of the network tells about states: posterior, guide, log h, v/alpha, score."""

    posterior: Any
    guide: Any
    log_h: Tensor
    value: Tensor
    score: Tensor | None

    def map(self, f: Callable[[Tensor], Tensor]) -> _Look:
        posterior = self.posterior.map(f)
        guide = posterior if self.guide is self.posterior else self.guide.map(f)
        score = None if self.score is None else f(self.score)
        return _Look(posterior, guide, f(self.log_h), f(self.value), score)

    def parts(self) -> list[Tensor]:
        """Return every tensor, in the order of `map`."""
        found: list[Tensor] = []

        def note(v: Tensor) -> Tensor:
            found.append(v)
            return v

        self.map(note)
        return found

    def whole(self) -> _Look:
        """Return the same with a row for every position, which always fits what others see."""
        if not isinstance(self.posterior, OpenPosterior):
            return self
        posterior, guide, score = self.posterior.whole(), self.guide, self.score
        if isinstance(guide, OpenPosterior):
            score = None if score is None else guide.whole_score(score)
            guide = posterior if guide is self.posterior else guide.whole()
        return replace(self, posterior=posterior, guide=guide, score=score)

    @staticmethod
    def zip(looks: list[_Look], f: Callable[[list[Tensor]], Tensor]) -> _Look:
        """Combine the tensors of several looks, field by field."""
        if len({tuple(v.shape[2:] for v in look.parts()) for look in looks}) > 1:
            looks = [look.whole() for look in looks]
        rows = zip(*(look.parts() for look in looks), strict=True)
        merged = iter([f(list(row)) for row in rows])
        return looks[0].map(lambda _: next(merged))


@dataclass(frozen=True)
class SMC:
    """A weighted-particle sampler of p*(x) ∝ p_pre(x) · exp(r(x)/alpha), restricted to `space`.

    Attributes:
        process: the pretrained reverse diffusion.
        reward: what to align to.
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
    space: DesignSpace | None = None
    move: Move | None = None
    _guide: PosteriorMean | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Bind the value to the reward and refuse what cannot work, before any call."""
        if not self.alpha > 0:
            raise ValueError(
                f"alpha must be > 0, got {self.alpha}; for alpha = 0 use svdd, which is greedy "
                f"then."
            )
        if self.branch < 1:
            raise ValueError(f"branch must be >= 1, got {self.branch}.")
        if not isinstance(self.reward, _Meter):
            object.__setattr__(self, "reward", _Meter(self.reward))
        if not isinstance(self.process, Metered):
            object.__setattr__(self, "process", Metered(self.process))
        if isinstance(self.proposal, Tilted):
            if not self.reward.differentiable:
                raise TypeError(
                    f"A tilted proposal needs a gradient, and reward {self.reward.name!r} has "
                    f"none. Use a gradient-free "
                    f"method: smc, fk_steering, svdd, nested_is, beam or best_of_n."
                )
            if self._through == "network" and not self.process.differentiable:
                raise TypeError(
                    f"Process {getattr(self.process, 'name', 'process')!r} has no gradient through "
                    f"its network. Use "
                    f"through='posterior' (discrete processes) or a gradient-free method."
                )
            object.__setattr__(self, "_guide", PosteriorMean().bind(self.reward))
        # after the proposal, whose message names a method that works
        if self.value is not None:
            object.__setattr__(self, "value", self.value.bind(self.reward))
        if self.space is not None and not self.process.discrete:
            raise TypeError(
                "A DesignSpace holds letters; continuous processes have none. Drop the constraints."
            )
        if getattr(self.process, "order", None) is not None:
            tied = () if self.space is None else self.space.blocks
            if self.space is not None and self.process.blocks != tied:  # type: ignore[attr-defined]
                raise ValueError(
                    f"The design space ties {tied or 'nothing'}, and the process reveals "
                    f"{self.process.blocks or 'no positions'} together. "  # type: ignore[attr-defined]
                    f"Use replace(process, blocks=space.blocks)."
                )
        if getattr(self.process, "eta", 1.0) == 0:
            raise ValueError(
                "eta = 0 makes every step deterministic: particles cannot explore and weights "
                "cannot be computed. "
                "Use eta > 0 (eta = 1 is the ancestral sampler)."
            )

    @cached_property
    def _through(self) -> str:
        if not isinstance(self.proposal, Tilted):
            return "none"
        if self.proposal.through == "auto":
            return "posterior" if self.process.discrete else "network"
        if self.proposal.through == "posterior" and not self.process.discrete:
            raise TypeError(
                "through='posterior' exists for discrete processes only; use 'network'."
            )
        return self.proposal.through

    @cached_property
    def _times(self) -> list[float]:
        times: list[float] = self.process.times.tolist()
        return times

    @property
    def _calls(self) -> tuple[int, int]:
        return cast(Metered, self.process).calls, cast(_Meter, self.reward).calls

    # looking -------------------------------------------------------------------------------------

    def _look(self, x: Tensor, i: int, rng: Streams, most: int | None = None) -> _Look:
        """Visit the network for (B, n) particles: at once, or in padded chunks within islands."""
        rng = rng.at("value")
        # fewer particles than a chunk need no padding: every call has one size all the same
        size = self.process.chunk and min(self.process.chunk, most or x.shape[1])
        if not size or (x.shape[0] == 1 and x.shape[1] == size):
            return self._look_chunk(self.process, x, i, rng)
        islands = []
        for b in range(x.shape[0]):
            process, streams, pieces = self.process.take([b]), rng.take([b]), []
            for j in range(0, x.shape[1], size):
                piece = x[b : b + 1, j : j + size]
                n = piece.shape[1]
                if n < size:
                    piece = torch.cat(
                        (piece, piece[:, -1:].expand(-1, size - n, *piece.shape[2:])), 1
                    )
                look = self._look_chunk(process, piece, i, streams.particles(j))
                pieces.append(look.map(lambda v, n=n: v[:, :n]))  # type: ignore[misc]
            islands.append(_Look.zip(pieces, lambda v: torch.cat(v, 1)))
        return _Look.zip(islands, torch.cat)

    def _look_chunk(self, process: Process, x: Tensor, i: int, rng: Streams) -> _Look:
        t, through = self._times[i], self._through
        leaf: Tensor | None = None
        if through == "network":
            leaf = process.relax(x).detach().requires_grad_()
            posterior = process.posterior(leaf, t)
        else:
            with torch.no_grad():
                posterior = process.posterior(x, t)
        zero = torch.zeros(x.shape[:2], dtype=torch.float64, device=x.device)
        log_h, value, guide, score = zero, zero, posterior, None
        if self.space is not None:
            unknown = process.unknown(x)  # type: ignore[attr-defined]
            log_h, guide = self.space.condition(cast(Any, posterior), x, unknown)
            log_h = log_h * (1.0 - self.space.discount * t)
        if self._guide is not None:
            if leaf is None:
                leaf = guide.mean.detach().requires_grad_()
                seen: Any = replace(cast(Any, guide), relaxed=leaf)
            else:
                seen = posterior
            with torch.enable_grad():
                value = self._guide(process, x, seen, t, self.alpha, rng)
                (score,) = torch.autograd.grad(value, leaf, torch.ones_like(value))
            value = value.detach()
            if through == "posterior":
                score = process.lift(score, guide)  # type: ignore[attr-defined]
            else:
                meter = cast(Metered, self.process)
                meter.calls += 2 * meter.count(x)
            # a reward may give one gradient to many letters, expanded and not to be written to
            score = score.detach().contiguous().nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        # the guide's value is the particle's own if both are the mean of the same posterior
        same = through == "posterior" or (through == "network" and self.space is None)
        fused = same and isinstance(self.value, PosteriorMean)
        if self.value is not None and not fused:
            with torch.no_grad():
                value = self.value(process, x, guide, t, self.alpha, rng)
        look = _Look(posterior, guide, log_h, value.double(), score)
        return look.map(lambda v: v.detach()) if through == "network" else look

    def _look_changed(self, x: Tensor, before: Particles, i: int, rng: Streams) -> _Look:
        """Visit the network only where the state changed, if time is nothing to it."""
        known = _Look(before.posterior, before.guide, before.log_h, before.value, before.score)
        # where letters are open one was revealed
        sure = isinstance(before.posterior, OpenPosterior)
        if sure or self.process.takes_time or not self.process.discrete:
            return self._look(x, i, rng)
        changed = (x != before.x).flatten(2).any(-1)
        count = changed.sum(-1)
        most, least = (int(n) for n in torch.stack((count.max(), count.min())))
        if least == x.shape[1]:
            return self._look(x, i, rng)
        if most == 0:
            return known
        # changed particles first; shorter islands repeat an unchanged one to fill the rectangle
        index = (~changed).int().argsort(dim=-1, stable=True)[:, :most]
        rows = torch.arange(x.shape[0], device=x.device)[:, None]
        fresh = self._look(x[rows, index], i, rng, most=x.shape[1])
        take = changed[rows, index]

        def place(pair: list[Tensor]) -> Tensor:
            old, new = pair
            out = old.clone()
            picked = old[rows, index]
            out[rows, index] = torch.where(
                take.reshape(*take.shape, *[1] * (new.dim() - 2)), new, picked
            )
            return out

        return _Look.zip([known, fresh], place)

    # the loop ------------------------------------------------------------------------------------

    def init(
        self, shape: tuple[int, int], rng: Streams, x: Tensor | None = None, step: int = 0
    ) -> tuple[Particles, Step]:
        """Start (B, K) particles from the prior, or from states x (B, K, *event) at times[step]."""
        before = self._calls
        if x is None:
            x = self.process.prior(shape, rng.at("prior"))
        masked = getattr(self.process, "order", None)
        if self.space is not None and masked is not None:
            x = self.space.start(x)
        if masked == "random":
            open_ = int(self.process.reveals(x).max())  # type: ignore[attr-defined]
            left = len(self._times) - 1 - step
            if open_ > left:
                raise ValueError(
                    f"Order 'random' reveals one position per step: {open_} positions are masked "
                    f"but only {left} steps "
                    f"are left. Set steps >= {open_}."
                )
        look = self._look(x, step, rng.at(step))
        zero = torch.zeros(shape, dtype=torch.float64, device=x.device)
        flat = torch.zeros(shape[0], dtype=torch.float64, device=x.device)
        dead = torch.isneginf(look.log_h)
        particles = Particles(
            step=step,
            x=x,
            log_w=look.log_h,
            log_twist=zero,
            log_h=torch.where(dead, 0.0, look.log_h),
            value=torch.where(torch.isfinite(look.value), look.value, 0.0),
            memo=torch.full_like(zero, self.potential.start),
            parent=torch.arange(shape[1], device=x.device).expand(shape),
            lam=flat,
            log_z=flat,
            posterior=look.posterior,
            guide=look.guide,
            score=look.score,
        )
        return particles, self._report(particles, before, None)

    def step(
        self, particles: Particles, rng: Streams, pinned: Tensor | None = None
    ) -> tuple[Particles, Step]:
        """Advance by one step; `pinned` (B, *event) is what particle 0 must become."""
        before, k = self._calls, particles.x.shape[1]
        i, n = particles.step + 1, len(self._times) - 1
        t, s, last = self._times[i - 1], self._times[i], i == n
        rng = rng.at(i)
        origin = torch.arange(k, device=particles.x.device).expand(particles.x.shape[:2])
        state = replace(particles, parent=origin).branch(self.branch)
        x_s, shift = self._propose(state, i, t, s, rng, pinned)

        reward: Tensor | None = None
        if last:
            designs = self.process.decode(x_s)
            reward = evaluate(self.reward, designs)
            inside = torch.zeros_like(reward)
            if self.space is not None:
                inside = torch.where(self.space.contains(x_s), 0.0, -torch.inf)
            look = _Look(state.posterior, state.guide, inside, reward / self.alpha, state.score)
        else:
            look = self._look_changed(x_s, state, i, rng)

        log_h, value, mark, silent = look.log_h, look.value, look.value, None
        base = state.log_w + shift + log_h - state.log_h
        # almost always all is finite: one look at the sum tells
        if not math.isfinite(float((log_h + value).sum())):
            dead, sound = torch.isneginf(log_h), torch.isfinite(value)
            log_h = torch.where(dead, 0.0, log_h)
            base = torch.where(dead, -torch.inf, base)
            # a value that failed says nothing: the particle keeps its twist until the end
            value, silent = torch.where(sound, value, 0.0), ~sound
            mark = mark if last else torch.where(sound, mark, state.value)

        def twist(lam: Tensor) -> tuple[Tensor, Tensor]:
            log_twist, memo = self.potential(state.log_twist, state.memo, lam, value)
            if silent is None:
                return log_twist, memo
            return torch.where(silent, state.log_twist, log_twist), torch.where(
                silent, state.memo, memo
            )

        def ess_at(lam: Tensor) -> Tensor:
            return ess(base + twist(lam)[0] - state.log_twist) / base.shape[1]

        if last:
            lam = torch.ones_like(particles.lam)
            log_twist, memo = look.value, state.memo
        elif self.value is None:
            lam, log_twist, memo = particles.lam, state.log_twist, state.memo
        else:
            lam = self.tempering(i, n, particles.lam, ess_at)
            log_twist, memo = twist(lam)
        moved = replace(
            state,
            step=i,
            x=x_s,
            log_w=base + log_twist - state.log_twist,
            log_twist=log_twist,
            log_h=log_h,
            value=mark,
            memo=memo,
            lam=lam,
            posterior=look.posterior,
            guide=look.guide,
            score=look.score,
            reward=reward,
        )
        if pinned is not None:
            chosen = (
                moved
                if last
                else pin(moved, rng.at("select"), getattr(self.selection, "ess_below", 1.0))
            )
        else:
            chosen = self.selection(moved, k, rng.at("select"))
        report = self._report(moved, before, chosen)
        if self.move is not None and not last:
            chosen = self.move(self, chosen, rng.at("move"))
        return chosen, report

    def _propose(
        self, state: Particles, i: int, t: float, s: float, rng: Streams, pinned: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return x_s and log p − log q."""
        p = self.process.transition(state.x, state.posterior, t, s)
        q = (
            p
            if state.guide is state.posterior
            else self.process.transition(state.x, state.guide, t, s)
        )
        if self.space is not None:
            unknown = self.process.unknown(state.x)  # type: ignore[attr-defined]
            if s == self._times[-1] or getattr(self.process, "order", None) is not None:
                q = self.space.restrict(q, state.x, state.guide, unknown)
        if state.score is not None and isinstance(self.proposal, Tilted):
            lam = state.lam
            if not self.tempering.adaptive:
                n = len(self._times) - 1
                lam = torch.ones_like(lam) if i == n else self.tempering(i, n, lam, ess)
            strength = (self.proposal.scale * lam).reshape(-1, *[1] * (state.score.dim() - 1))
            q = q.tilt(strength.to(state.score.dtype) * state.score)
        rng = rng.at("proposal")
        if q is p and pinned is None:
            x_s = p.sample(rng)
            return x_s, torch.zeros(x_s.shape[:2], dtype=torch.float64, device=x_s.device)
        x_s, shift = weigh(q, p, rng)
        if pinned is not None:
            x_s = torch.cat((pinned[:, None], x_s[:, 1:]), 1)
            shift = p.log_prob(x_s) - q.log_prob(x_s)
        return x_s, shift

    def _report(self, moved: Particles, before: tuple[int, int], chosen: Particles | None) -> Step:
        after = self._calls
        same = chosen is None or chosen is moved
        return Step(
            step=moved.step,
            ess=moved.ess / moved.log_w.shape[1],
            lam=moved.lam,
            log_z=moved.log_z + log_mean_exp(moved.log_w),
            value_mean=moved.value.mean(-1),
            value_max=moved.value.amax(-1),
            ancestors=None if same or chosen is None else chosen.parent,
            network_calls=after[0] - before[0],
            reward_calls=after[1] - before[1],
        )

    def run(
        self,
        shape: tuple[int, int],
        rng: Streams,
        *,
        start: Particles | Tensor | None = None,
        begin: int = 0,
        stop: int | None = None,
        observe: Observe | None = None,
    ) -> tuple[Particles, list[Step]]:
        """Run from step `begin` (or given particles or states) to step `stop` or the end."""
        trace: list[Step] = []
        if isinstance(start, Particles):
            particles = start
        else:
            particles, report = self.init(shape, rng, start, begin)
            trace.append(report)
            if observe is not None:
                observe(report)
        for _ in range(particles.step, len(self._times) - 1 if stop is None else stop):
            particles, report = self.step(particles, rng)
            trace.append(report)
            if observe is not None:
                observe(report)
        return particles, trace

    def sample(
        self,
        shape: tuple[int, int],
        rng: Streams,
        *,
        start: Particles | Tensor | None = None,
        begin: int = 0,
        observe: Observe | None = None,
        weighted: bool = True,
    ) -> Samples:
        """Run to the end; `weighted` False drops the weights of a biased method."""
        particles, trace = self.run(shape, rng, start=start, begin=begin, observe=observe)
        assert particles.reward is not None
        log_w = particles.log_w
        log_z = particles.log_z + log_mean_exp(log_w) if weighted else None
        designs = self.process.decode(particles.x)
        if not weighted:
            # what lies outside the design space is no design, whatever the method makes of weights
            log_w = torch.zeros_like(log_w)
            if self.space is not None:
                log_w = torch.where(self.space.contains(particles.x), log_w, -torch.inf)
        return Samples(
            designs,
            particles.reward,
            log_w,
            log_z,
            tuple(trace),
        )
