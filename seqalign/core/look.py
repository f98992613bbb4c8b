"""One visit of the network: what is known of particles at a time, found a chunk at a time.

Posterior, look-ahead, value and score of a chunk come from one call of the network, so that memory
grows with the chunk and not with the particles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from seqalign.core.objective import Reward
from seqalign.core.particles import Particles
from seqalign.core.process import Process, Space
from seqalign.core.proposal import Proposal, Tilted
from seqalign.core.streams import Streams
from seqalign.core.value import (
    Automatic,
    Estimate,
    Linearized,
    PosteriorMean,
    Value,
    failed,
    finite,
)

__all__ = ["Look", "Through", "Visit", "filled"]

# what the score is a gradient in: nothing (there is none), the posterior's mean or the state
Through = Literal["none", "posterior", "network"]


def filled(value: Tensor, before: Tensor, alive: Tensor) -> Tensor:
    """Return values (B, K) with a stand-in where one failed; NaN in islands that know none yet.

    `before` (B, K) are the values after the last step, `alive` (B, K) the particles that may speak
    for their island.
    """
    # A failure says nothing. A number of its own choice would, measured against the others, since
    # nothing is known of the reward's zero: only what moves with that zero will do. Any such number
    # is exact, as it is stored and divided out again. The particle's last value, moved as its
    # island did, varies less than the mean of the island, which forgets the particle, and than the
    # last value alone, which falls behind where values rise.
    sound = torch.isfinite(value)
    heard = sound & alive
    known = before.nan_to_num(nan=0.0)
    count = heard.sum(-1, keepdim=True)
    now, then = (
        torch.where(heard, v, 0.0).sum(-1, keepdim=True) / count.clamp(min=1)
        for v in (value, known)
    )
    # in this order a particle that was where its island was ties with it, to the bit
    return torch.where(sound, value, torch.where(count > 0, now + (known - then), before))


@dataclass(frozen=True)
class Look:
    """What one visit tells about (B, K) states; the fields of `Particles` with the same names."""

    posterior: Any
    guide: Any
    log_h: Tensor
    value: Tensor
    score: Tensor | None
    failed_value: Tensor
    failed_gradient: Tensor

    @classmethod
    def of(cls, particles: Particles) -> Look:
        """Return what particles remember of their last visit."""
        p = particles
        failed = p.failed_value, p.failed_gradient
        return cls(p.posterior, p.guide, p.log_h, p.value, p.score, *failed)

    def put(self, particles: Particles, **changes: Any) -> Particles:
        """Return particles that remember this visit, with other changes."""
        return replace(particles, **(vars(self) | changes))

    def begin(self, x: Tensor, step: int, memo: float) -> Particles:
        """Return new particles with these states (B, K, *event): even weights, lam and log Z 0."""
        b, k = x.shape[:2]
        zero = torch.zeros((b, k), dtype=torch.float64, device=x.device)
        flat = torch.zeros(b, dtype=torch.float64, device=x.device)
        dead = torch.isneginf(self.log_h)
        return Particles(
            step=step,
            x=x,
            log_w=self.log_h,
            log_twist=zero,
            log_h=torch.where(dead, 0.0, self.log_h),
            value=filled(self.value, torch.full_like(zero, torch.nan), ~dead),
            memo=torch.full_like(zero, memo),
            parent=torch.arange(k, device=x.device).expand(b, k),
            lam=flat,
            log_z=flat,
            posterior=self.posterior,
            guide=self.guide,
            score=self.score,
            failed_value=self.failed_value,
            failed_gradient=self.failed_gradient,
        )

    def map(self, f: Callable[[Tensor], Tensor]) -> Look:
        """Apply `f` to every tensor."""
        posterior = self.posterior.map(f)
        guide = posterior if self.guide is self.posterior else self.guide.map(f)
        score = None if self.score is None else f(self.score)
        failed = f(self.failed_value), f(self.failed_gradient)
        return Look(posterior, guide, f(self.log_h), f(self.value), score, *failed)

    def first(self, n: int) -> Look:
        """Return the first n particles of every island."""
        return self.map(lambda v: v[:, :n])

    def parts(self) -> list[Tensor]:
        """Return every tensor, in the order of `map`."""
        found: list[Tensor] = []

        def note(v: Tensor) -> Tensor:
            found.append(v)
            return v

        self.map(note)
        return found

    def whole(self) -> Look:
        """Return the same with a row for every position, which always fits what others see."""
        posterior = self.posterior.whole()
        guide = posterior if self.guide is self.posterior else self.guide.whole()
        score = None if self.score is None else self.guide.whole_score(self.score)
        return replace(self, posterior=posterior, guide=guide, score=score)

    @staticmethod
    def zip(looks: list[Look], f: Callable[[list[Tensor]], Tensor]) -> Look:
        """Combine the tensors of several looks, field by field."""
        if len({tuple(v.shape[2:] for v in look.parts()) for look in looks}) > 1:
            looks = [look.whole() for look in looks]
        rows = zip(*(look.parts() for look in looks), strict=True)
        merged = iter([f(list(row)) for row in rows])
        return looks[0].map(lambda _: next(merged))


@dataclass(frozen=True)
class Visit:
    """How particles are looked at.

    Attributes:
        process: whose network is visited.
        alpha: temperature of the target, in units of the reward.
        value: estimate of the soft value, bound to the reward; None for none.
        slope: the value whose gradient is the score; None if there is no score.
        through: what the score is a gradient in.
        space: hard constraints.
    """

    process: Process
    alpha: float
    value: Estimate | None
    slope: PosteriorMean | None
    through: Through
    space: Space | None

    @classmethod
    def of(
        cls,
        process: Process,
        reward: Reward,
        alpha: float,
        value: Value | None,
        proposal: Proposal,
        space: Space | None,
    ) -> Visit:
        """Bind a value to its reward, and find what a proposal asks for.

        Raises:
            TypeError: the proposal or the value needs a gradient that the reward or the process
                has not.
            ValueError: the space leaves nothing to islands of some length.
        """
        mask = process.event_mask
        if space is not None and mask is not None and not bool(mask.all()):
            space = space.within(mask)
        through: Through = "none"
        if isinstance(proposal, Tilted):
            through = "posterior" if process.discrete else "network"
            if proposal.through != "auto":
                through = proposal.through
            if through == "posterior" and not process.discrete:
                raise TypeError(
                    "through='posterior' exists for discrete processes only; use 'network'."
                )
            if not reward.differentiable:
                raise TypeError(
                    f"A tilted proposal needs a gradient, and reward {reward.name!r} has none. Use "
                    f"a gradient-free method: smc, fk_steering, svdd, nested_is, beam or best_of_n."
                )
            if through == "network" and not process.differentiable:
                raise TypeError(
                    f"Process {process.name!r} has no gradient through its network. Use "
                    f"through='posterior' (discrete processes) or a gradient-free method."
                )
        slope = None if through == "none" else PosteriorMean().bind(reward)
        if isinstance(value, Automatic):
            value = value.fit(process.discrete, reward)
        # after the proposal, whose message names a method that works
        bound = None if value is None else value.bind(reward)
        return cls(process, alpha, bound, slope, through, space)

    def __call__(
        self,
        x: Tensor,
        t: float,
        rng: Streams,
        most: int | None = None,
        before: Any = None,
    ) -> Look:
        """Look at (B, n) states at once, or in padded chunks within islands.

        `most` is how many particles an island has, if these are some of them; `before` the
        posterior of the states that these became of, for a process that remembers.
        """
        if not self.process.remembers:
            before = None
        rng = rng.at("value")
        # fewer particles than a chunk need no padding: every call has one size all the same
        size = self.process.chunk and min(self.process.chunk, most or x.shape[1])
        if not size or (x.shape[0] == 1 and x.shape[1] == size):
            return self._chunk(self.process, self.space, x, t, rng, before)
        islands = []
        for b in range(x.shape[0]):
            process, streams, pieces = self.process.take([b]), rng.take([b]), []
            space = None if self.space is None else self.space.take([b])
            for j in range(0, x.shape[1], size):
                n = min(size, x.shape[1] - j)

                def cut(v: Tensor, b: int = b, j: int = j, n: int = n) -> Tensor:
                    piece = v[b : b + 1, j : j + n]
                    if n == size:
                        return piece
                    padding = piece[:, -1:].expand(-1, size - n, *piece.shape[2:])
                    return torch.cat((piece, padding), 1)

                known = None if before is None else before.map(cut)
                some = streams.particles(j)
                pieces.append(self._chunk(process, space, cut(x), t, some, known).first(n))
            islands.append(Look.zip(pieces, lambda v: torch.cat(v, 1)))
        return Look.zip(islands, torch.cat)

    def _chunk(
        self, process: Process, space: Space | None, x: Tensor, t: float, rng: Streams, before: Any
    ) -> Look:
        through = self.through
        leaf: Tensor | None = None
        if through == "network":
            leaf = process.relax(x).detach().requires_grad_()
        with torch.set_grad_enabled(leaf is not None):
            state, known = x if leaf is None else leaf, () if before is None else (before,)
            posterior = process.posterior(state, t, *known)
        zero = torch.zeros(x.shape[:2], dtype=torch.float64, device=x.device)
        log_h, value, score = zero, zero, None
        broken = torch.zeros_like(zero, dtype=torch.bool)
        letters = through == "posterior"
        linear = letters and isinstance(self.value, Linearized)
        guide = seen = posterior
        if space is not None:
            log_h, guide = space.condition(posterior, x, process.unknown(x))
        if self.slope is not None:
            if leaf is None:
                leaf = guide.mean.detach().requires_grad_()
                seen = guide.at(leaf)
            with torch.enable_grad():
                value = self.slope(process, x, seen, t, self.alpha, rng)
                # of the sum: with grad_outputs torch would load its symbolic shapes, half a second
                (score,) = torch.autograd.grad(value.sum(), leaf)
            broken = failed(score, leaf if letters else None)
            value, score = value.detach(), finite(score)
            if linear:
                gain, guide, score = self._linear(process, space, posterior, guide, score, log_h, x)
                value = torch.where(broken, torch.nan, value + gain)
            elif letters:
                score = finite(process.lift(score, guide))
        if space is not None:
            log_h = log_h * (1.0 - space.discount * t)
        # the slope's value is the particle's own if both are the mean of the same posterior
        same = letters or (through == "network" and space is None)
        fused = linear or (same and isinstance(self.value, PosteriorMean))
        if self.value is not None and not fused:
            with torch.no_grad():
                value = self.value(process, x, guide, t, self.alpha, rng)
        value = value.double()
        look = Look(posterior, guide, log_h, value, score, ~torch.isfinite(value), broken)
        return look.map(lambda v: v.detach()) if through == "network" else look

    def _linear(
        self,
        process: Process,
        space: Space | None,
        posterior: Any,
        guide: Any,
        g: Tensor,
        log_h: Tensor,
        x: Tensor,
    ) -> tuple[Tensor, Any, Tensor]:
        """Return log E[exp(<g, x_0 − mean>) | A], (B, K), the guide, and the score.

        Letters follow `posterior`, given A `guide`; g (B, K, L, V) is a gradient in the mean of the
        guide. Tilted by the score, the guide is the law of single letters under π · exp(<g, x>) ·
        1_A.
        """
        if guide.columns is None:
            # known letters count in both or in neither
            posterior = posterior.whole()
        gain, given = posterior.tilt(g)
        mean = guide.expect(g)
        if space is not None:
            again, given = space.condition(given, x, process.unknown(x))
            gain = torch.where(torch.isneginf(log_h), 0.0, gain + again - log_h)
        if given.columns is None or guide.columns is None:
            given, guide = given.whole(), guide.whole()
            score = finite(given.log_probs - guide.log_probs)
            if process.absorbing:
                score = F.pad(score, (0, 1))
        else:
            score = finite(given.log_rows - guide.log_rows)
        if space is not None and space.blocks:
            # a tied group is drawn once, by the sum over its positions
            size = torch.ones(score.shape[2], dtype=score.dtype, device=score.device)
            for group in space.blocks:
                size[[i - 1 for i in group]] = len(group)
            score = score / size[:, None]
        return gain - mean, guide, score

    def again(self, x: Tensor, before: Particles, t: float, rng: Streams) -> Look:
        """Look at the states that became of others, only where they changed if time is nothing."""
        # where letters are open one was revealed
        sure = before.posterior.columns is not None
        if sure or self.process.takes_time or not self.process.discrete:
            return self(x, t, rng, before=before.posterior)
        changed = (x != before.x).flatten(2).any(-1)
        count = changed.sum(-1)
        most, least = (int(n) for n in torch.stack((count.max(), count.min())))
        if least == x.shape[1]:
            return self(x, t, rng, before=before.posterior)
        known = Look.of(before)
        if self.space is not None:
            # the look-ahead is discounted by time, even where the network takes none
            then, left = float(self.process.times[before.step]), self.space.discount
            known = replace(known, log_h=known.log_h * ((1.0 - left * t) / (1.0 - left * then)))
        if most == 0:
            return known
        # changed particles first; shorter islands repeat an unchanged one to fill the rectangle
        index = (~changed).int().argsort(dim=-1, stable=True)[:, :most]
        rows = torch.arange(x.shape[0], device=x.device)[:, None]
        posterior = before.gather(index).posterior
        fresh = self(x[rows, index], t, rng, most=x.shape[1], before=posterior)
        take = changed[rows, index]

        def place(pair: list[Tensor]) -> Tensor:
            old, new = pair
            out = old.clone()
            where = take.reshape(*take.shape, *[1] * (new.dim() - 2))
            out[rows, index] = torch.where(where, new, old[rows, index])
            return out

        return Look.zip([known, fresh], place)
