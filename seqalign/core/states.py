"""Several states, one sequence: a network over networks, and a reward over rewards.

A sequence is to fold into several structures (conformations, complexes with and without a partner).
Its prior is the normalized product of the states' posteriors, π(a) ∝ Π_k π_k(a)^w_k at each open
position, before bias and temperature: with weights that sum to 1 the geometric mean, so that a
state given twice is that state. To a process this is one more network, and everything around it
(constraints, weights, caches, likelihoods) is exact as with one.

References:
    Hinton, "Training products of experts by minimizing contrastive divergence", Neural Computation
    2002 (products). Dauparas et al., "Robust deep learning-based protein sequence design using
    ProteinMPNN", Science 2022 (averaged logits of several states).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, Literal, get_args

import torch
from torch import Tensor

from seqalign.core.causal import Choose, Place
from seqalign.core.discrete import MaskedProcess, Network
from seqalign.core.objective import Reward, Way, Wrapper, evaluate
from seqalign.core.process import Designs

__all__ = [
    "InState", "Kept", "Over", "OverStates", "Placed", "Product", "Remembering", "State", "alone",
    "product",
]  # fmt: skip

Over = Literal["mean", "sum", "min", "difference"]
OVER: Final[tuple[Over, ...]] = get_args(Over)


@dataclass(frozen=True, eq=False)
class Placed:
    """Where the L positions of a design are in one state, which may have letters of its own.

    Attributes:
        at: (L,) int64, the position in the state; -1 where the state has none.
        tokens: (N,) int64, the state's own letters, which stay where no position of a design is.
    """

    at: Tensor
    tokens: Tensor

    @cached_property
    def same(self) -> bool:
        """Whether the state's positions are those of a design."""
        return self.at.tolist() == list(range(len(self.tokens)))

    def fill(self, x: Tensor) -> Tensor:
        """Return the state's tokens (..., N) of a design's (..., L)."""
        if self.same:
            return x
        at = self.at.to(x.device)
        there = at >= 0
        full = self.tokens.to(x.device).expand(*x.shape[:-1], -1).clone()
        full[..., at[there]] = x[..., there]
        return full

    def spread(self, x: Tensor) -> Tensor:
        """Return the state's relaxed letters (..., N, W) of a design's (..., L, W)."""
        if self.same:
            return x
        at = self.at.to(x.device)
        there = at >= 0
        own = torch.nn.functional.one_hot(self.tokens, x.shape[-1]).to(x)
        full = own.expand(*x.shape[:-2], -1, -1)
        return full.index_copy(-2, at[there], x[..., there, :])

    def read(self, rows: Tensor) -> Tensor:
        """Return what (..., N, V) says of a design's positions, (..., L, V); 0 where nothing."""
        if self.same:
            return rows
        at = self.at.to(rows.device)
        found = rows[..., at.clamp(min=0), :]
        found[..., at < 0, :] = 0.0
        return found


@dataclass(frozen=True, eq=False)
class State:
    """One factor of a product: a network, its weight, and where the positions are in its state."""

    network: Any
    weight: float
    placed: Placed

    def __call__(self, x: Tensor, t: float) -> Tensor:
        """Return weighted logits (..., L, V) of tokens (..., L), or relaxed (..., L, V + 1)."""
        filled = self.placed.spread(x) if x.is_floating_point() else self.placed.fill(x)
        return self.weight * self.placed.read(self.network(filled, t))


@dataclass(frozen=True, eq=False)
class Kept:
    """What networks that remember made of (B, K) states: each its own, and logits (B, K, L, V)."""

    parts: tuple[Any, ...]
    logits: Tensor

    def map(self, f: Callable[[Tensor], Tensor]) -> Kept:
        """Apply `f` to every tensor."""
        return Kept(tuple(part.map(f) for part in self.parts), f(self.logits))


@dataclass(frozen=True, eq=False)
class Told:
    """The same of states that are asked about one position at a time."""

    parts: tuple[Any, ...]

    def map(self, f: Callable[[Tensor], Tensor]) -> Told:
        """Apply `f` to every tensor."""
        return Told(tuple(part.map(f) for part in self.parts))


@dataclass(frozen=True, eq=False)
class Product:
    """Networks of several states as one: logits Σ_k w_k · logits_k."""

    states: tuple[State, ...]

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return _device(self.states)

    def __call__(self, x: Tensor, t: float) -> Tensor:
        """Return logits (..., L, V) of tokens (..., L) or relaxed states (..., L, V + 1)."""
        return _total([state(x, t) for state in self.states])


@dataclass(frozen=True, eq=False)
class Remembering:
    """The same of networks that remember (`Causal`): each keeps its own."""

    states: tuple[State, ...]

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return _device(self.states)

    def __call__(self, x: Tensor, t: float) -> Tensor:
        """Return logits (..., L, V) of tokens (..., L), all letters given."""
        return _total([state(x, t) for state in self.states])

    def advance(self, x: Tensor, before: Kept | None) -> Kept:
        """Return what is kept of tokens x (B, K, L), which became of the states of `before`."""
        old = [None] * len(self.states) if before is None else before.parts
        parts = tuple(
            state.network.advance(state.placed.fill(x), part)
            for state, part in zip(self.states, old, strict=True)
        )
        rows = zip(self.states, parts, strict=True)
        return Kept(parts, _total([s.weight * s.placed.read(part.logits) for s, part in rows]))

    def ask(self, before: Kept | Told, at: Tensor) -> tuple[Tensor, list[Any]]:
        """Return the logits (B, K, V) at open positions (B, K), and what `tell` needs."""
        asked = [
            state.network.ask(part, state.placed.at.to(at.device)[at])
            for state, part in zip(self.states, before.parts, strict=True)
        ]
        rows = zip(self.states, asked, strict=True)
        return _total([state.weight * logits for state, (logits, _) in rows]), [m for _, m in asked]

    def tell(self, x: Tensor, before: Kept | Told, at: Tensor, made: list[Any]) -> Told:
        """Return what is kept of tokens x (B, K, L), letters at positions (B, K) more."""
        rows = zip(self.states, before.parts, made, strict=True)
        return Told(
            tuple(
                state.network.tell(state.placed.fill(x), part, state.placed.at.to(at.device)[at], m)
                for state, part, m in rows
            )
        )

    def decode(self, x: Tensor, place: Place, choose: Choose) -> Iterator[Tensor]:
        """Yield tokens (P, L) after each reveal; see `Causal`.

        A reveal begins in every state before it ends in any: what a state is asked to choose waits
        for the next one's logits, and the last one asks `choose`.
        """
        rows, told = torch.arange(len(x), device=x.device), list[Tensor]()
        position = letter = rows

        def where(k: int) -> Place:
            def placed(i: int, _: Tensor) -> Tensor:
                nonlocal position
                if k == 0:
                    told.clear()
                    position = place(i, x)
                return self.states[k].placed.at.to(x.device)[position]

            return placed

        def answer(k: int) -> Choose:
            def chosen(i: int, _: Tensor, logits: Tensor) -> Tensor:
                nonlocal letter
                told.append(self.states[k].weight * logits)
                if k + 1 < len(runs):
                    next(runs[k + 1])
                else:
                    letter = choose(i, position, _total(told))
                return letter

            return chosen

        runs = [
            state.network.decode(state.placed.fill(x), where(k), answer(k))
            for k, state in enumerate(self.states)
        ]
        for _ in runs[0]:
            x = x.clone()
            x[rows, position] = letter
            yield x

    def follow(self, x: Tensor, order: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield pieces of tokens (P, L) with the logits (p, m, V) along an order (m,)."""
        first, *rest = self.states
        pieces = first.network.follow(first.placed.fill(x), first.placed.at.to(x.device)[order])
        for part, logits in pieces:
            found = [first.weight * logits]
            for state in rest:
                there = state.placed.at.to(x.device)[order]
                some = state.network.follow(state.placed.fill(x[part]), there)
                found.append(state.weight * torch.cat([rows for _, rows in some]))
            yield part, _total(found)


def _device(states: tuple[State, ...]) -> torch.device:
    return torch.device(getattr(states[0].network, "device", "cpu"))


def _total(logits: Sequence[Tensor]) -> Tensor:
    total = logits[0]
    for more in logits[1:]:
        total = total + more
    return total


def product(
    processes: Sequence[MaskedProcess],
    weights: Sequence[float] | None = None,
    placed: Sequence[Placed] | None = None,
) -> MaskedProcess:
    """Return the masked process whose posterior is ∝ Π_k π_k^w_k, of one process per state.

    All but the network is the first one's: positions, names, wild type, temperature and order.

    Args:
        processes: two or more, of one alphabet; all or none remember.
        weights: > 0, one each; 1 / n by default, the geometric mean.
        placed: where the first one's positions are in each; by default all have the same.

    Raises:
        ValueError: the processes do not go together, or a weight is out of range.
    """
    processes = list(processes)
    n = len(processes)
    if n < 2:
        raise ValueError(f"A product has two states or more, not {n}. Use the process itself.")
    weights = [1 / n] * n if weights is None else [float(w) for w in weights]
    if len(weights) != n:
        raise ValueError(f"There are {n} states and {len(weights)} weights; give one for each.")
    for i, weight in enumerate(weights, 1):
        if not (math.isfinite(weight) and weight > 0):
            raise ValueError(
                f"State {i} has weight {weight:g}; a weight is a number > 0. To design against a "
                "state use a reward over states: difference."
            )
    first = processes[0]
    for i, other in enumerate(processes, 1):
        if not isinstance(other, MaskedProcess):
            raise ValueError(
                f"State {i} is a {type(other).__name__}; a product is of MaskedProcess."
            )
        for key in ("alphabet", "order", "temperature", "takes_time"):
            ours, theirs = getattr(first, key), getattr(other, key)
            if ours != theirs:
                raise ValueError(f"State {i} has {key} {theirs!r}, and state 1 has {ours!r}.")
        if other.device != first.device:
            raise ValueError(
                f"State {i} is on {other.device}, and state 1 on {first.device}; put both on one "
                "device."
            )
        if other.remembers != first.remembers:
            raise ValueError("Some of the networks remember and some do not; use one kind.")
        if placed is None and other.length != first.length:
            raise ValueError(
                f"State {i} has {other.length} positions, and state 1 has {first.length}. Say "
                "with `placed` which are the same."
            )
    if placed is None:
        every = torch.arange(first.length)
        placed = [Placed(every, torch.zeros_like(every))] * n
    rows = zip(processes, weights, placed, strict=True)
    states = tuple(State(p.network, w, at) for p, w, at in rows)
    network: Network = Remembering(states) if first.remembers else Product(states)
    chunks = [p.chunk for p in processes if p.chunk is not None]
    return replace(
        first,
        network=network,
        differentiable=all(p.differentiable for p in processes),
        chunk=min(chunks, default=None),
    )


def alone(process: MaskedProcess, k: int) -> MaskedProcess:
    """Return what one state, counted from 0, says by itself: its posterior, whatever its weight.

    Positions and all else are those of the product.
    """
    network: Any = process.network
    state = replace(network.states[k], weight=1.0)
    return replace(process, network=replace(network, states=(state,)))


@dataclass(frozen=True, eq=False)
class InState(Wrapper):
    """A reward of one state, told what a design is there: its letters, and the state's own."""

    inner: Reward
    placed: Placed

    def __post_init__(self) -> None:
        """Take over what the inner reward is called."""
        super().__init__(self.inner)

    def ask(self, way: Way, given: Any) -> Tensor:
        """Return what the inner reward says of designs or letter probabilities there."""
        if isinstance(given, Designs):
            return way(self.inner, replace(given, x=self.placed.fill(given.x)))
        return way(self.inner, self.placed.spread(given))


@dataclass(frozen=True, eq=False)
class OverStates(Reward):
    """One number of several: a reward of each state, and what becomes of their values.

    Attributes:
        states: the rewards, one per state.
        over: "mean" or "sum"; "min", whose gradient is that of the state which is lowest;
            "difference", the first state less the highest of the others (bind A, not B).
    """

    states: tuple[Reward, ...]
    over: Over = "mean"

    def __post_init__(self) -> None:
        """Take over what the first reward is called."""
        if self.over not in OVER or not self.states:
            raise ValueError(f"over is {self.over!r}; give one of {', '.join(OVER)}.")
        first = self.states[0]
        for key in ("name", "unit"):
            object.__setattr__(self, key, getattr(first, key))
        object.__setattr__(self, "differentiable", all(r.differentiable for r in self.states))
        object.__setattr__(self, "cost", sum(r.cost for r in self.states))

    @property
    def parts(self) -> tuple[Reward, ...]:
        """The rewards of the states."""
        return self.states

    def map(self, f: Callable[[Reward], Reward]) -> Reward:
        """Return the same over f(reward) of each state; itself if none changes."""
        changed = tuple(f(r) for r in self.states)
        same = all(a is b for a, b in zip(changed, self.states, strict=True))
        return self if same else OverStates(changed, self.over)

    def of(self, values: Tensor) -> Tensor:
        """Return (B, K) of the values (n, B, K) in each state."""
        if self.over == "mean":
            return values.mean(0)
        if self.over == "sum":
            return values.sum(0)
        if self.over == "min" or len(values) == 1:
            return values.min(0).values
        return values[0] - values[1:].max(0).values

    def __call__(self, designs: Designs) -> Tensor:
        """Score designs, (B, K); rejected in one state is rejected."""
        values = torch.stack([evaluate(r, designs) for r in self.states])
        rejected = torch.isneginf(values)
        found = self.of(values.masked_fill(rejected, 0.0))
        return torch.where(rejected.any(0), -torch.inf, found)

    def relaxed(self, x: Tensor) -> Tensor:
        """Score letter probabilities, (B, K)."""
        return self.of(torch.stack([r.relaxed(x) for r in self.states]))
