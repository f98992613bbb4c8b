"""Moves: Metropolis-corrected redraws of reveals or of a transition, after selection.

All residents are the same kernel. From a root state it draws x' by the loop's own proposal q, in
one step or several, and accepts with min(1, w(x') / w(x)), where

    log w(x) = log p(x | root) − log q(x | root) + log h(x) + log_twist(x).

They differ in the root: the state before the last step, or x with some letters hidden again. A move
is made once after every selection, or again and again from few resampled ancestors, whose chains
become the particles (`Resample.chains`).

References:
    Gilks & Berzuini, "Following a moving target", JRSS B 2001 (resample-move). Dau & Chopin,
    "Waste-free sequential Monte Carlo", JRSS B 2022, arXiv 2011.02328. Wang et al.,
    "Remasking discrete diffusion models with inference-time scaling", arXiv 2503.00307. Cotter et
    al., "MCMC methods for functions", Statistical Science 2013 (proposals that are autoregressive,
    pCN, and those with a drift, pCNL).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from seqalign.core.gaussian import Gaussian
from seqalign.core.look import Look, Visit
from seqalign.core.particles import Particles
from seqalign.core.potential import Difference, Potential
from seqalign.core.process import Space, Transition, draw
from seqalign.core.selection import Resample, Selection
from seqalign.core.streams import Streams
from seqalign.core.tempering import Tempering
from seqalign.core.value import Value

__all__ = [
    "Loop", "Move", "Propose", "Redraw", "Remask", "Walk", "after", "hidden", "noted", "ready",
    "refuse", "shows_one", "sound", "sweeps", "visit", "walk",
]  # fmt: skip


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
    def selection(self) -> Selection:
        """Which particles go on."""

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


# (loop, particles, rng) to what is proposed in their place, log p − log q there less that here, and
# where anything can be proposed, (B, K) each
Propose = Callable[[Loop, Particles, Streams], tuple[Particles, Tensor, Tensor]]


class Move(Protocol):
    """A kernel that leaves the target of every particle invariant, given only that particle.

    One that sets `paths` is about how a particle came to its state: particles then remember the
    order of their reveals, see `noted`.
    """

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
            several children; or there shall be chains, and no move makes them.
    """
    selection = loop.selection
    inner = getattr(selection, "then", None)
    if isinstance(inner, Resample) and inner.chains is not None:
        raise ValueError(
            f"{type(selection).__name__} resamples whole islands: leave resample.chains out."
        )
    if loop.move is None:
        if _chains(loop) is not None:
            raise ValueError(
                "Chains are made by a move, and there is none: set move to redraw or remask, or "
                "leave resample.chains out."
            )
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
    share, every = getattr(loop.move, "share", 1.0), getattr(loop.move, "every", 1)
    if _chains(loop) is not None and (share < 1 or every > 1):
        raise ValueError(
            f"Every chain moves after every resampling, and the move has share = {share:g} and "
            f"every = {every}: set both to 1. How often there are chains is resample.every."
        )


def ready(loop: Loop, k: int, x: Tensor | None) -> None:
    """Refuse islands of k particles, or a start from states x (B, k, *event), before any call.

    Raises:
        ValueError: chains cannot share the particles out, or the move cannot begin there.
    """
    if isinstance(loop.selection, Resample):
        loop.selection.check(k)
    if x is not None and loop.move is not None:
        loop.move.check(loop, x)


def after(
    loop: Loop,
    before: Particles,
    chosen: Particles,
    found: tuple[Tensor, Tensor] | None,
    rng: Streams,
) -> tuple[Particles, Tensor | None]:
    """Move the chosen particles, whose parents are among those before; see `Move`.

    With chains, the copies of an ancestor become the states of its chain. `found` are the values
    and log-weights before selection, (B, K): what had no weight, or a stand-in for its value, stays
    as it is. None moves nothing.
    """
    if loop.move is None or found is None:
        return chosen, None
    able = torch.isfinite(found[0] + found[1]).gather(1, chosen.parent)
    before, rng = before.gather(chosen.parent), rng.at("move")
    if (chains := _chains(loop)) is None:
        return loop.move(loop, before, chosen, able, rng)
    # an island that was not resampled holds no copies: it stays
    copied = (chosen.parent != torch.arange(able.shape[1], device=able.device)).any(-1)
    if not bool(copied.any()):
        return chosen, torch.full_like(chosen.lam, torch.nan)
    length = able.shape[1] // chains
    heads = (torch.arange(chains, device=able.device) * length).expand(len(able), chains)
    before, able = before.gather(heads), able.gather(1, heads) & copied[:, None]
    states, rates = [chosen.gather(heads)], []
    for n in range(1, length):
        state, accepted = loop.move(loop, before, states[-1], able, rng.at(n))
        states.append(state)
        rates.append(accepted)

    def line(parts: list[Tensor]) -> Tensor:
        whole = torch.stack(parts[1:], 2).flatten(1, 2)
        return torch.where(copied.reshape(-1, *[1] * (whole.dim() - 1)), whole, parts[0])

    return _merged([chosen, *states], line), torch.stack(rates).nanmean(0)


def _chains(loop: Loop) -> int | None:
    """Return how many chains there are after resampling; None without."""
    return loop.selection.chains if isinstance(loop.selection, Resample) else None


def _merged(parts: list[Particles], f: Callable[[list[Tensor]], Tensor]) -> Particles:
    """Return the first of several particles with what moves change combined from all of them."""
    look = Look.zip([Look.of(p) for p in parts], f)
    more = {"x": f([p.x for p in parts]), "log_twist": f([p.log_twist for p in parts])}
    if parts[0].order is not None:
        more |= {name: f([getattr(p, name) for p in parts]) for name in ("order", "odds")}
    return look.put(parts[0], **more)


def _put(old: Particles, new: Particles, take: Tensor, index: Tensor) -> Particles:
    """Return `old` with the (B, n) particles at `index` become `new` where `take` (B, n) says."""
    rows = torch.arange(index.shape[0], device=index.device)[:, None]

    def place(pair: list[Tensor]) -> Tensor:
        out = pair[0].clone()
        where = take.reshape(*take.shape, *[1] * (pair[1].dim() - 2))
        out[rows, index] = torch.where(where, pair[1], out[rows, index])
        return out

    return _merged([old, new], place)


def visit(
    loop: Loop, particles: Particles, x: Tensor, step: int, rng: Streams, before: Any = None
) -> Particles:
    """Return particles as if they stood at x (B, K, *event), come from those of a posterior."""
    found = loop._look(x, loop._times[step], rng, before=before)
    twist = particles.log_twist
    if loop.value is not None:
        twist, _ = loop.potential(twist, particles.memo, particles.lam, found.value)
    return found.put(particles, x=x, log_twist=twist)


@dataclass(frozen=True)
class Walk:
    """Steps from a root.

    Attributes:
        states: (B, K, *event) after each step.
        log_p: (B, K) of all steps by the base transitions.
        log_q: (B, K) by the proposals; the same tensor if they are the base transitions.
    """

    states: list[Tensor]
    log_p: Tensor
    log_q: Tensor

    @property
    def gain(self) -> Tensor:
        """Return log p − log q, (B, K); -inf where there was nothing to draw."""
        if self.log_q is self.log_p:
            return torch.zeros_like(self.log_p)
        return torch.where(torch.isneginf(self.log_q), self.log_q, self.log_p - self.log_q)


def walk(
    loop: Loop, root: Particles, rng: Streams, n: int, way: list[Tensor] | None = None
) -> Walk:
    """Take n steps from a root by the loop's own proposal, or those of `way`, its n states.

    As many network calls per particle as steps but one: the root was looked at.
    """
    state, states = root, list[Tensor]()
    log_p, log_q = list[Tensor](), list[Tensor]()
    for j in range(n):
        if j:
            last = state.posterior
            state = visit(loop, state, states[-1], root.step, rng.at("look"), last)
        p, q = loop.kernels(state, root.step)
        if way is None:
            x, found = draw(q, rng.at("proposal"))
        else:
            x, found = way[j], q.log_prob(way[j])
        states.append(x)
        log_q.append(found)
        log_p.append(found if q is p else p.log_prob(x))
        rng = rng.at("next")
    total = torch.stack(log_p).sum(0)
    plain = all(a is b for a, b in zip(log_p, log_q, strict=True))
    return Walk(states, total, total if plain else torch.stack(log_q).sum(0))


def _redrawn(
    loop: Loop, old: Particles, root: Particles, way: list[Tensor], rng: Streams
) -> tuple[Particles, Tensor]:
    """Return what is drawn from a root in as many steps as the way back, and log p − log q."""
    new = walk(loop, root, rng, len(way))
    gain = new.gain
    if new.log_q is not new.log_p:
        gain = gain - walk(loop, root, rng, len(way), way).gain
    return visit(loop, old, new.states[-1], old.step, rng.at("look"), root.posterior), gain


def hidden(
    loop: Loop, old: Particles, places: Tensor, shown: Tensor, rng: Streams
) -> tuple[Particles, list[Tensor]]:
    """Return particles with the letters at `places` (B, K, n) hidden, and the way back.

    It reveals them again one after another in that order; where `shown` (B, K, n) is False there is
    nothing to hide.
    """
    mask = loop.process.alphabet.mask
    letters = old.x.gather(-1, places)
    states = [old.x.scatter(-1, places, torch.where(shown, mask, letters))]
    for j in range(places.shape[-1]):
        states.append(states[-1].scatter(-1, places[..., j : j + 1], letters[..., j : j + 1]))
    return visit(loop, old, states[0], old.step, rng.at("root")), states[1:]


def _sweep(
    loop: Loop, particles: Particles, able: Tensor, share: float, rng: Streams, propose: Propose
) -> tuple[Particles, Tensor, Tensor]:
    """Move a share of the particles once; also how many were proposed and accepted, (B,)."""
    b, k = particles.log_w.shape
    n = math.ceil(share * k)
    # copies of one parent stand side by side: every so many of them moves
    index = (torch.arange(n, device=able.device) * k // n).expand(b, n)
    old = particles if n == k else particles.gather(index)
    new, gain, free = propose(loop, old, rng)
    gain = gain + new.log_h - old.log_h + new.log_twist - old.log_twist
    u = torch.log(rng.at("accept").uniform(gain.shape, gain.device))
    free = free & able.gather(1, index)
    # what is not known is not larger: a failed value or a state without a way back is refused
    take = free & torch.isfinite(new.value) & torch.isfinite(new.log_h) & (u < gain)
    return _put(particles, new, take, index), free.sum(-1), take.sum(-1)


class Often(Protocol):
    """How often a move is made, and of how many particles."""

    @property
    def share(self) -> float:
        """Fraction of the particles that is moved."""

    @property
    def sweeps(self) -> int:
        """Proposals one after another."""

    @property
    def every(self) -> int:
        """Move at every n-th step."""


def sweeps(
    move: Often,
    loop: Loop,
    particles: Particles,
    able: Tensor,
    rng: Streams,
    propose: Propose,
) -> tuple[Particles, Tensor]:
    """Propose and accept as often as a move says; return what `Move` does."""
    tried = torch.zeros_like(particles.lam)
    taken = tried
    for n in range(move.sweeps if particles.step % move.every == 0 else 0):
        particles, more, won = _sweep(loop, particles, able, move.share, rng.at(n), propose)
        tried, taken = tried + more, taken + won
    return particles, taken / tried


def sound(move: Often) -> None:
    """Refuse numbers that no move can have."""
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
        drift: follow the gradient of the twist, too, where the proposal knows one: Langevin's move
            at the noise of the step.
    """

    share: float = 1.0
    sweeps: int = 1
    every: int = 1
    mix: float = 1.0
    drift: bool = False

    def __post_init__(self) -> None:
        sound(self)
        if not 0 < self.mix <= 1:
            raise ValueError(f"Redraw needs 0 < mix <= 1, got {self.mix}.")

    def check(self, loop: Loop, x: Tensor | None = None) -> None:
        """Refuse to mix letters, and to follow a gradient that nobody takes."""
        if self.mix < 1 and loop.process.discrete:
            raise ValueError(f"Letters cannot be mixed: set mix = 1, not {self.mix}.")
        if self.drift and loop.process.discrete:
            raise ValueError("Letters have no drift: set drift = false, or use remask.")
        if self.drift and loop._look.through != "network":
            raise ValueError(
                "A drift needs the gradient of the value, which a tilted proposal takes; use tds "
                "or das, or set drift = false."
            )

    def __call__(
        self, loop: Loop, before: Particles, particles: Particles, able: Tensor, rng: Streams
    ) -> tuple[Particles, Tensor]:
        """Return moved particles and the accepted fraction, (B,)."""

        def propose(loop: Loop, old: Particles, rng: Streams) -> tuple[Particles, Tensor, Tensor]:
            k, n = before.log_w.shape[1], old.log_w.shape[1]
            index = (torch.arange(n, device=able.device) * k // n).expand(len(able), n)
            root = replace(before if n == k else before.gather(index), step=old.step)
            some = torch.ones_like(old.log_w, dtype=torch.bool)
            if self.mix < 1 or self.drift:
                return *self._mixed(loop, old, root, rng), some
            return *_redrawn(loop, old, root, [old.x], rng), some

        return sweeps(self, loop, particles, able, rng, propose)

    def _mixed(
        self, loop: Loop, old: Particles, root: Particles, rng: Streams
    ) -> tuple[Particles, Tensor]:
        """Return a proposal around the old state, and the log of p · its way back over its way."""
        i, keep = old.step, math.sqrt(1 - self.mix * self.mix)
        p = loop.process.transition(root.x, root.posterior, loop._times[i - 1], loop._times[i])

        def center(at: Particles) -> Tensor:
            found: Tensor = p.mean + keep * (at.x - p.mean)
            if self.drift and at.score is not None:
                slope = at.lam.reshape(-1, *[1] * (at.score.dim() - 1)) * at.score
                found = found + (1 - keep) * (p.tilt(slope).mean - p.mean)
            return found

        x = center(old) + self.mix * (p.sample(rng.at("proposal")) - p.mean)
        new = visit(loop, old, x, i, rng.at("look"))
        if not self.drift:
            return new, torch.zeros_like(old.log_h)
        there, back = (Gaussian(center(at), self.mix * p.sigma) for at in (old, new))
        gain = p.log_prob(x) - p.log_prob(old.x) + back.log_prob(old.x) - there.log_prob(x)
        return new, gain


def shows_one(name: str, loop: Loop) -> None:
    """Refuse processes in which a single reveal is no step."""
    process = loop.process
    if not process.absorbing or getattr(process, "order", "") != "random" or process.takes_time:
        raise ValueError(
            f"{name} hides and reveals single positions: {process.name!r} must be masked, with "
            f"order 'random' and a network that takes no time; use redraw."
        )
    if process.remembers:
        raise ValueError(
            f"{name} hides a letter that later ones of {process.name!r} have seen, and its network "
            f"remembers it; use redraw."
        )


@dataclass(frozen=True)
class Remask:
    """Hide revealed letters again and reveal open positions by the loop's own proposal.

    The law of the chain is taken from the network's conditionals, p(x') / p(x) = p(x' | y) / p(x |
    y) with y the state with the letters hidden. That is exact only if they are the conditionals of
    one joint law at temperature 1; below it, or for a network whose conditionals do not agree, the
    samples follow a law between the chain's and the conditionals'. Use `Reorder` or `Redraw` for
    exactness with any network.

    Several sites are hidden in an even order s_1 … s_n and others revealed in the order of their
    draw, r_1 … r_n; with both orders in the target, even as they are, the ratio is that of single
    steps: Π p/q of the way from y by r over Π p/q of the way from y by s, times that of exp(twist)
    · h. Two sites swap: one mutation reverts while another appears, as a spent budget of mutations
    allows no other move. Twice as many network calls per moved particle and sweep as sites.

    Letters are hidden evenly. To hide those first that the network doubts (ReMDM-conf) is not
    exact: how sure it was of a letter depends on what was known at its reveal, which a state, whose
    law this move keeps, does not remember; and what it thinks of it now would cost a call per
    letter. `share`, `sweeps` and `every` say when to remask, as the schedules of ReMDM do.

    Attributes:
        share: fraction of the particles that is moved.
        sweeps: proposals one after another.
        every: move at every n-th step.
        sites: letters that are hidden and revealed together.
    """

    share: float = 0.5
    sweeps: int = 1
    every: int = 1
    sites: int = 1

    def __post_init__(self) -> None:
        sound(self)
        if self.sites < 1:
            raise ValueError(f"Remask needs sites >= 1, got {self.sites}.")

    def check(self, loop: Loop, x: Tensor | None = None) -> None:
        """Refuse processes in which a single reveal is no step, and letters that were given."""
        shows_one("Remask", loop)
        process = loop.process
        if self.sites > process.length:
            raise ValueError(f"Remask cannot hide {self.sites} of {process.length} positions.")
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
        return sweeps(self, loop, particles, able, rng, self._propose)

    def _propose(
        self, loop: Loop, old: Particles, rng: Streams
    ) -> tuple[Particles, Tensor, Tensor]:
        process, x = loop.process, old.x
        blank = process.prior((x.shape[0], x.shape[1]), rng).to(x.device)
        free = process.unknown(blank if loop.space is None else loop.space.start(blank))
        shown = free & ~process.unknown(x)
        u = torch.where(shown, rng.at("hide").uniform(x.shape, x.device), -1.0)
        # sorted by even numbers: n of them in an even order
        places = u.topk(self.sites).indices
        here = shown.gather(-1, places)
        root, way = hidden(loop, old, places, here, rng)
        return *_redrawn(loop, old, root, way, rng), here.all(-1)


def noted(loop: Loop, before: Particles, particles: Particles) -> Particles:
    """Return particles that remember how they came to be, if the move asks for it.

    `before` are the states they were drawn from, one by one, which a step has led to.
    """
    if not getattr(loop.move, "paths", False):
        return particles
    i, x = particles.step, particles.x
    p = loop.process.transition(before.x, before.posterior, loop._times[i - 1], loop._times[i])
    order, odds = before.order, before.odds
    if order is None or odds is None:
        # what was there before anybody took note is given
        order, odds = (
            torch.zeros_like(x),
            torch.zeros(x.shape, dtype=torch.float64, device=x.device),
        )
    new = x != before.x
    odds = torch.where(new, p.log_prob(x)[..., None], odds)
    return replace(particles, order=torch.where(new, i, order), odds=odds)
