"""Moves: one Metropolis-corrected redraw of a reveal or a transition, after selection.

Both residents are the same kernel. From a root state it draws x' by the loop's own proposal q and
accepts with min(1, w(x') / w(x)), where

    log w(x) = log p(x | root) − log q(x | root) + log h(x) + log_twist(x).

They differ in the root alone: the state before the last step, or x with other letters hidden again.

References:
    Gilks & Berzuini, "Following a moving target", JRSS B 2001 (resample-move). Wang et al.,
    "Remasking discrete diffusion models with inference-time scaling", arXiv 2503.00307. Cotter et
    al., "MCMC methods for functions", Statistical Science 2013 (autoregressive proposals).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from seqalign.core.look import Look, Visit
from seqalign.core.particles import Particles
from seqalign.core.potential import Difference, Potential
from seqalign.core.process import Space, Transition, weigh
from seqalign.core.streams import Streams
from seqalign.core.tempering import Tempering
from seqalign.core.value import Value

__all__ = ["Loop", "Move", "Redraw", "Remask", "Root", "after", "refuse"]


class Loop(Protocol):
    """What a move knows of `SMC`."""

    @property
    def process(self) -> Any:
        """The process, whose calls are counted."""

    @property
    def space(self) -> Space | None:
        """Hard constraints."""

    @property
    def value(self) -> Value | None:
        """The value, or None."""

    @property
    def tempering(self) -> Tempering:
        """Schedule of lam."""

    @property
    def potential(self) -> Potential:
        """How values become the log-twist."""

    @property
    def branch(self) -> int:
        """Children per particle."""

    @property
    def move(self) -> Move | None:
        """The move."""

    @property
    def _look(self) -> Visit:
        """How particles are looked at."""

    @property
    def _times(self) -> list[float]:
        """The process's times."""

    def kernels(self, state: Particles, i: int) -> tuple[Transition, Transition]:
        """Return the base transition of a state to times[i], and the proposal."""


# (loop, particles, rng) to the states that new ones are drawn from, and where there is one, (B, K)
Root = Callable[[Loop, Particles, Streams], tuple[Particles, Tensor]]


class Move(Protocol):
    """A kernel that leaves the target of every particle invariant, given only that particle."""

    def check(self, loop: Loop, x: Tensor | None = None) -> None:
        """Refuse a loop, or a start from states x (B, K, *event), that it cannot serve."""

    def __call__(
        self, loop: Loop, before: Particles, particles: Particles, able: Tensor, rng: Streams
    ) -> tuple[Particles, Tensor]:
        """Return moved particles and the accepted fraction of what was proposed, (B,).

        `before` are the parents of the particles, one step earlier; `able` (B, K) says which may
        be moved: those alive and whose value is known.
        """


def refuse(loop: Loop) -> None:
    """Refuse a loop under which no move leaves the target of a particle alone.

    Raises:
        ValueError: tempering looks at the weights, the twist remembers a path, or particles have
            several children.
    """
    if loop.move is None:
        return
    loop.move.check(loop)
    if loop.tempering.adaptive:
        raise ValueError(
            "A move needs a tempering that does not look at the weights, or the mean of the "
            "estimate of Z is no longer Z; choose linear or constant."
        )
    if not isinstance(loop.potential, Difference):
        raise ValueError(
            f"A move knows a particle's twist from its state, and the potential "
            f"{type(loop.potential).__name__} remembers its path; choose difference."
        )
    if loop.branch > 1:
        raise ValueError(f"A move needs one child per particle, got branch = {loop.branch}; use 1.")


def after(
    loop: Loop,
    before: Particles,
    chosen: Particles,
    found: tuple[Tensor, Tensor] | None,
    rng: Streams,
) -> tuple[Particles, Tensor | None]:
    """Move the chosen particles, whose parents are among those before; see `Move`.

    `found` are the values and log-weights before selection, (B, K): what had no weight, or a
    stand-in for its value, stays as it is. None moves nothing.
    """
    if loop.move is None or found is None:
        return chosen, None
    able = torch.isfinite(found[0] + found[1]).gather(1, chosen.parent)
    return loop.move(loop, before.gather(chosen.parent), chosen, able, rng.at("move"))


def _put(old: Particles, new: Particles, take: Tensor, index: Tensor) -> Particles:
    """Return `old` with the (B, n) particles at `index` become `new` where `take` (B, n) says."""
    rows = torch.arange(index.shape[0], device=index.device)[:, None]

    def place(pair: list[Tensor]) -> Tensor:
        out = pair[0].clone()
        where = take.reshape(*take.shape, *[1] * (pair[1].dim() - 2))
        out[rows, index] = torch.where(where, pair[1], out[rows, index])
        return out

    look = Look.zip([Look.of(old), Look.of(new)], place)
    x, twist = place([old.x, new.x]), place([old.log_twist, new.log_twist])
    return replace(
        old, x=x, log_twist=twist, log_h=look.log_h, value=look.value, posterior=look.posterior,
        guide=look.guide, score=look.score,
    )  # fmt: skip


def _visit(
    loop: Loop, particles: Particles, x: Tensor, step: int, rng: Streams, before: Any = None
) -> Particles:
    """Return particles as if they stood at x (B, K, *event), come from those of a posterior."""
    found = loop._look(x, loop._times[step], rng, before=before)
    twist = particles.log_twist
    if loop.value is not None:
        twist, _ = loop.potential(twist, particles.memo, particles.lam, found.value)
    return replace(
        particles, x=x, log_twist=twist, log_h=found.log_h, value=found.value,
        posterior=found.posterior, guide=found.guide, score=found.score,
    )  # fmt: skip


def _metropolis(
    loop: Loop, old: Particles, root: Particles, free: Tensor, mix: float, rng: Streams
) -> tuple[Particles, Tensor]:
    """Return what was proposed from the root, and whether to take it, (B, K) bool."""
    i = old.step
    if mix < 1:
        p = loop.process.transition(root.x, root.posterior, loop._times[i - 1], loop._times[i])
        mean, z = p.mean, p.sample(rng.at("proposal"))
        x = mean + math.sqrt(1 - mix * mix) * (old.x - mean) + mix * (z - mean)
        gain = torch.zeros_like(old.log_h)
    else:
        p, q = loop.kernels(root, i)
        x, gain = weigh(q, p, rng.at("proposal"))
        if q is not p:
            gain = gain - (p.log_prob(old.x) - q.log_prob(old.x))
    new = _visit(loop, old, x, i, rng.at("look"), root.posterior)
    gain = gain + new.log_h - old.log_h + new.log_twist - old.log_twist
    u = torch.log(rng.at("accept").uniform(gain.shape, gain.device))
    # what is not known is not larger: a failed value or a state without a way back is refused
    return new, free & torch.isfinite(new.value) & torch.isfinite(new.log_h) & (u < gain)


def _sweep(
    loop: Loop,
    particles: Particles,
    able: Tensor,
    share: float,
    rng: Streams,
    root: Root,
    mix: float = 1.0,
) -> tuple[Particles, Tensor, Tensor]:
    """Move a share of the particles once; also how many were proposed and accepted, (B,)."""
    b, k = particles.log_w.shape
    n = math.ceil(share * k)
    # copies of one parent stand side by side: every so many of them moves
    index = (torch.arange(n, device=able.device) * k // n).expand(b, n)
    some = particles if n == k else particles.gather(index)
    start, free = root(loop, some, rng)
    free = free & able.gather(1, index)
    new, take = _metropolis(loop, some, start, free, mix, rng)
    return _put(particles, new, take, index), free.sum(-1), take.sum(-1)


def _sweeps(
    move: Redraw | Remask,
    loop: Loop,
    particles: Particles,
    able: Tensor,
    rng: Streams,
    root: Root,
    mix: float = 1.0,
) -> tuple[Particles, Tensor]:
    tried = torch.zeros_like(particles.lam)
    taken = tried
    for n in range(move.sweeps if particles.step % move.every == 0 else 0):
        particles, more, won = _sweep(loop, particles, able, move.share, rng.at(n), root, mix)
        tried, taken = tried + more, taken + won
    return particles, taken / tried


def _sound(move: Redraw | Remask) -> None:
    if not 0 < move.share <= 1 or move.sweeps < 1 or move.every < 1:
        raise ValueError(
            f"{type(move).__name__} needs 0 < share <= 1, sweeps >= 1 and every >= 1, got "
            f"{move.share}, {move.sweeps}, {move.every}."
        )


@dataclass(frozen=True)
class Redraw:
    """Draw the last transition again: exact for any process and any network, given the parent.

    One network call per moved particle and sweep.

    Attributes:
        share: fraction of the particles that is moved.
        sweeps: proposals one after another.
        every: move at every n-th step.
        mix: for continuous states, how much of the transition's noise is new, in (0, 1]; below 1
            the proposal is autoregressive in the base transition, at 1 independent.
    """

    share: float = 1.0
    sweeps: int = 1
    every: int = 1
    mix: float = 1.0

    def __post_init__(self) -> None:
        _sound(self)
        if not 0 < self.mix <= 1:
            raise ValueError(f"Redraw needs 0 < mix <= 1, got {self.mix}.")

    def check(self, loop: Loop, x: Tensor | None = None) -> None:
        """Refuse to mix letters."""
        if self.mix < 1 and loop.process.discrete:
            raise ValueError(f"Letters cannot be mixed: set mix = 1, not {self.mix}.")

    def __call__(
        self, loop: Loop, before: Particles, particles: Particles, able: Tensor, rng: Streams
    ) -> tuple[Particles, Tensor]:
        """Return moved particles and the accepted fraction, (B,)."""

        def root(loop: Loop, some: Particles, rng: Streams) -> tuple[Particles, Tensor]:
            k, n = before.log_w.shape[1], some.log_w.shape[1]
            index = (torch.arange(n, device=able.device) * k // n).expand(len(able), n)
            parent = before if n == k else before.gather(index)
            return parent, torch.ones_like(some.log_w, dtype=torch.bool)

        return _sweeps(self, loop, particles, able, rng, root, self.mix)


@dataclass(frozen=True)
class Remask:
    """Hide one revealed letter again and reveal an open position by the loop's own proposal.

    The law of the chain is taken from the network's conditionals, p(x') / p(x) = p(x' | y) / p(x |
    y) with y the state with the letter hidden. That is exact only if they are the conditionals of
    one joint law at temperature 1; below it, or for a network whose conditionals do not agree, the
    samples follow a law between the chain's and the conditionals'. Use `Redraw` for exactness
    with any network. Two network calls per moved particle and sweep.

    Attributes:
        share: fraction of the particles that is moved.
        sweeps: proposals one after another.
        every: move at every n-th step.
    """

    share: float = 0.5
    sweeps: int = 1
    every: int = 1

    def __post_init__(self) -> None:
        _sound(self)

    def check(self, loop: Loop, x: Tensor | None = None) -> None:
        """Refuse processes in which a single reveal is no step, and letters that were given."""
        process = loop.process
        if not process.absorbing or getattr(process, "order", "") != "random" or process.takes_time:
            raise ValueError(
                f"Remask hides and reveals one position: {process.name!r} must be masked, with "
                f"order 'random' and a network that takes no time; use redraw."
            )
        if getattr(process, "remembers", False):
            raise ValueError(
                f"Remask hides a letter that the later ones of {process.name!r} have seen, and its "
                f"network remembers it; use redraw."
            )
        if getattr(process, "blocks", ()):
            raise ValueError(
                "Remask needs letters with the conditionals of one law, and tied positions have "
                "none; use redraw."
            )
        if x is not None:
            prior = process.prior((x.shape[0], x.shape[1]), Streams(0, range(x.shape[0])))  # type: ignore[arg-type]
            prior = prior.to(x.device)
            if bool((x != (prior if loop.space is None else loop.space.start(prior))).any()):
                raise ValueError(
                    "Remask would redraw letters that the start states were given; start from the "
                    "prior, or use redraw."
                )

    def __call__(
        self, loop: Loop, before: Particles, particles: Particles, able: Tensor, rng: Streams
    ) -> tuple[Particles, Tensor]:
        """Return moved particles and the accepted fraction, (B,)."""
        return _sweeps(self, loop, particles, able, rng, _hidden)


def _hidden(loop: Loop, some: Particles, rng: Streams) -> tuple[Particles, Tensor]:
    """Return the particles with one letter hidden again, drawn evenly, and where there is one."""
    process, x = loop.process, some.x
    blank = process.prior((x.shape[0], x.shape[1]), rng).to(x.device)
    free = process.unknown(blank if loop.space is None else loop.space.start(blank))
    shown = free & ~process.unknown(x)
    u = torch.where(shown, rng.at("hide").uniform(x.shape, x.device), -1.0)
    hit = shown & (torch.arange(x.shape[-1], device=x.device) == u.argmax(-1, keepdim=True))
    y = torch.where(hit, blank, x)
    return _visit(loop, some, y, some.step, rng.at("root")), shown.any(-1)
