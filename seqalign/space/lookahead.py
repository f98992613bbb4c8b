"""The look-ahead h = P(all constraints hold) with independent letters, and every marginal given it.

What is open is a row of *units*, each with a law over V letters; a unit is a position, or a tied
group that takes one letter. A sequence is allowed if every unit has an allowed letter, every
counter (a weighted count of letters: mutations, composition, net charge) ends within its bounds,
and an automaton (forbidden patterns, runs of one letter) accepts every chain. Forward and backward
messages over (automaton state × counter values) from left to right give h and all conditional
marginals at once. Where that product is too large, constraints are split into groups, each exact,
and h is the product of P(group | allowed letters): finite wherever a completion exists, so weights
stay exact, but larger or smaller than the truth, and perhaps positive at a dead end.

Shapes: N particles, U units, V letters; inside a chain the particles come last, (..., N), so that
every operation works on whole rows of them.

References:
    Rabiner, "A tutorial on hidden Markov models", Proc. IEEE 1989 (scaled forward-backward). Chen,
    Dempster & Liu, "Weighted finite population sampling", Biometrika 1994 (Poisson-binomial).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from seqalign.core.discrete import probabilities
from seqalign.space.automaton import Automaton

__all__ = ["Counter", "Lookahead"]

Table = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
# below this share of the largest product of messages, scaled sums are no longer trusted
FAINT = 1e-200
# above these odds, and above this power of their scale, plain numbers are no longer trusted
MOST_ODDS, MOST_POWER = 1e25, 300.0
# most numbers in the messages of one pass; more particles are done in pieces
MOST = 2**23


@dataclass(frozen=True, eq=False)
class Counter:
    """Σ_u weight[u, x_u] must lie within [low, high].

    Attributes:
        name: what is counted, for messages.
        weight: (U, V) integers.
        low: smallest allowed total; None for no bound.
        high: largest allowed total; None for no bound.
    """

    name: str
    weight: Table
    low: int | None
    high: int | None

    def reduced(self, allowed: Flags) -> Counter | None:
        """Return the same bounds with weights from 0 and without common divisor; None if idle.

        A lower bound alone becomes an upper bound on what is missing.
        """
        most = np.where(allowed, self.weight, np.iinfo(np.int64).min).max(1)
        least = np.where(allowed, self.weight, np.iinfo(np.int64).max).min(1)
        weight = np.where(allowed, self.weight - least[:, None], 0)
        step = int(np.gcd.reduce(weight, None))
        if step == 0:
            return None
        weight, base = weight // step, int(least.sum())
        top = int((most - least).sum()) // step
        high = None if self.high is None else (self.high - base) // step
        low = None if self.low is None else -((base - self.low) // step)
        high = None if high is None or high >= top else high
        low = None if low is None or low <= 0 else low
        if high is None and low is None:
            return None
        if high is None and low is not None:
            rest = np.where(allowed, weight.max(1)[:, None] - weight, 0)
            return Counter(self.name, rest, None, top - low)
        return Counter(self.name, weight, low, high)


# two ways to add and multiply ---------------------------------------------------------------------


class _Ring(Protocol):
    zero: float
    one: float

    def enter(self, log_p: Tensor) -> Tensor: ...
    def log(self, x: Tensor) -> Tensor: ...
    def mul(self, x: Tensor, y: Tensor) -> Tensor: ...
    def total(self, x: Tensor, dim: int) -> Tensor: ...
    def times(self, x: Tensor, y: Tensor, out: Tensor) -> None: ...
    def accumulate(self, x: Tensor) -> None: ...
    def dot(self, a: Tensor, x: Tensor) -> Tensor: ...
    def scaled(self, x: Tensor) -> tuple[Tensor, Tensor]: ...


class _Scaled:
    """Plain sums of numbers scaled to a largest of one: fast, and enough almost always."""

    zero, one = 0.0, 1.0

    def enter(self, log_p: Tensor) -> Tensor:
        return log_p.exp()

    def log(self, x: Tensor) -> Tensor:
        return x.log()

    def mul(self, x: Tensor, y: Tensor) -> Tensor:
        return x * y

    def total(self, x: Tensor, dim: int) -> Tensor:
        return x.sum(dim)

    def times(self, x: Tensor, y: Tensor, out: Tensor) -> None:
        """Multiply into `out`."""
        torch.mul(x, y, out=out)

    def accumulate(self, x: Tensor) -> None:
        """Sum cumulatively over the last dimension, in place."""
        x.cumsum_(-1)

    def dot(self, a: Tensor, x: Tensor) -> Tensor:
        """Multiply a 0/1 matrix (n, m) with (m, ..., N)."""
        out: Tensor = (a @ x.flatten(1)).unflatten(1, x.shape[1:])
        return out

    def scaled(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Divide (D, R, N) by its largest number per particle; return that too, (N,)."""
        top = x.amax((0, 1))
        return x / top.clamp(min=1e-300), top


class _Logarithmic:
    """The same in logarithms, for particles whose sums span too many orders of magnitude."""

    zero, one = -math.inf, 0.0

    def enter(self, log_p: Tensor) -> Tensor:
        return log_p

    def log(self, x: Tensor) -> Tensor:
        return x

    def mul(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y

    def total(self, x: Tensor, dim: int) -> Tensor:
        return torch.logsumexp(x, dim)

    def times(self, x: Tensor, y: Tensor, out: Tensor) -> None:
        torch.add(x, y, out=out)

    def accumulate(self, x: Tensor) -> None:
        x.copy_(x.logcumsumexp(-1))

    def dot(self, a: Tensor, x: Tensor) -> Tensor:
        top = x.amax(0)
        top = torch.where(torch.isfinite(top), top, 0.0)
        out: Tensor = (a @ (x - top).exp().flatten(1)).log().unflatten(1, x.shape[1:]) + top
        return out

    def scaled(self, x: Tensor) -> tuple[Tensor, Tensor]:
        top = x.amax((0, 1))
        return x - torch.where(torch.isfinite(top), top, 0.0), top


SCALED, LOGARITHMIC = _Scaled(), _Logarithmic()


# one group: automaton × counters ------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Layer:
    """The moves of one site, from D states × R counter values to D' × R'.

    A *branch* is a class of letters that behave alike together with the state they lead to.

    Attributes:
        unit: whose letter is read.
        merge: (C, V), which letters form a class.
        letter: (V,) the class of each letter, C for letters that are not allowed.
        kind: (J,) the class of each branch.
        split: (D, J), which branches leave a state.
        join: (D', J), which branches enter a state.
        collect: (C, J), the branches of a class.
        pull: (J · R,) the row of the next (D', R' + 1) values that a branch looks at; the last
            value of a state is the one that cannot be.
        push: (J · R',) the row of (J, R + 1) that reaches a value.
        rooms: R and R'.
    """

    unit: int
    merge: Tensor
    letter: Tensor
    kind: Tensor
    split: Tensor
    join: Tensor
    collect: Tensor
    pull: Tensor
    push: Tensor
    rooms: tuple[int, int]

    @cached_property
    def _single(self) -> bool:
        """Whether every class has one branch."""
        return torch.equal(self.kind, torch.arange(len(self.merge)))

    @cached_property
    def _uncounted(self) -> Tensor | None:
        """The next state of each branch, if nothing is counted."""
        plain = self.rooms == (1, 1) and bool((self.pull % 2 == 0).all())
        return self.pull // 2 if plain else None

    def _by_branch(self, p: Tensor) -> Tensor:
        return (p if self._single else p.index_select(0, self.kind))[:, None]

    def ahead(self, ring: _Ring, beta: Tensor) -> Tensor:
        """Return what each branch meets, (J, R, N), from the next messages (D', R', N)."""
        if self._uncounted is not None:
            return beta.index_select(0, self._uncounted)
        flat = F.pad(beta, (0, 0, 0, 1), value=ring.zero).flatten(0, 1)
        out: Tensor = flat.index_select(0, self.pull)
        return out.reshape(len(self.kind), self.rooms[0], -1)

    def back(self, ring: _Ring, ahead: Tensor, q: Tensor) -> Tensor:
        """Return messages (D, R, N) from what is ahead; q (C, N) are the class probabilities."""
        return ring.dot(self.split, ring.mul(ahead, self._by_branch(q)))

    def on(self, ring: _Ring, leaving: Tensor, q: Tensor) -> Tensor:
        """Return the next forward messages (D', R', N) from those leaving by branch, (J, R, N)."""
        moved = ring.mul(leaving, self._by_branch(q))
        if self._uncounted is None:
            flat = F.pad(moved, (0, 0, 0, 1), value=ring.zero).flatten(0, 1)
            moved = flat.index_select(0, self.push).unflatten(0, (len(self.kind), self.rooms[1]))
        return ring.dot(self.join, moved)

    def worth(self, ring: _Ring, leaving: Tensor, ahead: Tensor) -> Tensor:
        """Return P(everything holds, up to a scale) by class, (C, N)."""
        met = ring.mul(leaving, ahead)
        met = met[:, 0] if self.rooms[0] == 1 else ring.total(met, 1)
        return met if self._single else ring.dot(self.collect, met)


@dataclass(frozen=True, eq=False)
class _Reading:
    """An automaton on its way over the sites, and what it can meet there.

    Attributes:
        allowed: (U, V) flags.
        sites: units in reading order, one tuple per chain; a unit may stand at several sites.
        automaton: what every chain must obey; None accepts everything.
    """

    allowed: Flags
    sites: tuple[tuple[int, ...], ...]
    automaton: Automaton | None

    @cached_property
    def path(self) -> list[tuple[int, bool]]:
        """Units in reading order, and whether a chain ends after them."""
        return [(u, i == len(c) - 1) for c in self.sites for i, u in enumerate(c)]

    def _move(self, state: int, letter: int, last: bool) -> int:
        """Return the next state, the first one after the end of a chain; -1 if forbidden."""
        if self.automaton is None:
            return 0
        to = self.automaton.step[state][letter]
        if not last or to < 0:
            return to
        return 0 if self.automaton.ends[to] else -1

    @cached_property
    def reach(self) -> list[tuple[int, ...]]:
        """The states before each site that a whole sequence can pass through, and at the end."""
        memory: dict[Any, frozenset[int]] = {}

        def forward(states: frozenset[int], letters: list[int], last: bool) -> frozenset[int]:
            return frozenset(self._move(d, a, last) for d in states for a in letters) - {-1}

        def backward(
            states: frozenset[int], then: frozenset[int], letters: list[int], last: bool
        ) -> frozenset[int]:
            return frozenset(
                d for d in states if any(self._move(d, a, last) in then for a in letters)
            )

        def once(f: Any, unit: int, last: bool, *states: frozenset[int]) -> frozenset[int]:
            # long stretches of a chain look alike
            key = (f, *states, self.allowed[unit].tobytes(), last)
            if key not in memory:
                memory[key] = f(*states, np.flatnonzero(self.allowed[unit]).tolist(), last)
            return memory[key]

        rows = [frozenset({0})]
        for unit, last in self.path:
            rows.append(once(forward, unit, last, rows[-1]))
        live = [rows[-1]]
        for (unit, last), states in zip(reversed(self.path), reversed(rows[:-1]), strict=True):
            live.append(once(backward, unit, last, states, live[-1]))
        return [tuple(sorted(states)) for states in reversed(live)]

    def classes(self, i: int) -> dict[tuple[int, ...], list[int]]:
        """Return the letters of site i by the places in `reach` that they lead to; -1: none."""
        unit, last = self.path[i]
        key = (self.allowed[unit].tobytes(), self.reach[i], self.reach[i + 1], last)
        if key not in self._classes:
            place = {d: n for n, d in enumerate(self.reach[i + 1])}
            found: dict[tuple[int, ...], list[int]] = {}
            for a in np.flatnonzero(self.allowed[unit]).tolist():
                targets = tuple(place.get(self._move(d, a, last), -1) for d in self.reach[i])
                found.setdefault(targets, []).append(a)
            self._classes[key] = found
        return self._classes[key]

    @cached_property
    def _classes(self) -> dict[Any, dict[tuple[int, ...], list[int]]]:
        return {}


@dataclass(frozen=True, eq=False)
class _Chain:
    """Forward-backward over one group of constraints.

    Attributes:
        reading: the sites, and the automaton that reads them.
        counters: what is counted over all sites, each unit once; reduced.
    """

    reading: _Reading
    counters: tuple[Counter, ...]

    @property
    def names(self) -> list[str]:
        """What the group holds together."""
        first = [] if self.reading.automaton is None else ["patterns and runs"]
        return first + [c.name for c in self.counters]

    @cached_property
    def _windows(self) -> list[tuple[tuple[int, int], ...]]:
        """Per site and counter, the range of sums from which the bounds can still be met."""
        units = [u for u, _ in self.reading.path]
        rows = []
        for c in self.counters:
            before = [0, *itertools.accumulate(int(c.weight[u].max()) for u in units)]
            low, high = c.low or 0, before[-1] if c.high is None else c.high
            rows.append([(max(0, low - (before[-1] - b)), min(b, high)) for b in before])
        return list(zip(*rows, strict=True)) if rows else [()] * (len(units) + 1)

    @cached_property
    def _sizes(self) -> list[int]:
        """Joint counter values before each site and at the end."""
        return [math.prod(high - low + 1 for low, high in w) for w in self._windows]

    def _classes(self, i: int) -> dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]]:
        """Return the letters at site i by where they lead and what they count."""
        unit = self.reading.path[i][0]
        found: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
        for targets, letters in self.reading.classes(i).items():
            for a in letters:
                counts = tuple(int(c.weight[unit, a]) for c in self.counters)
                found.setdefault((targets, counts), []).append(a)
        return found

    def cost(self) -> float:
        """Return the numbers touched per site and particle, the mean over sites."""
        total, memory = 0, {}
        for i, (unit, _) in enumerate(self.reading.path):
            key = (id(self.reading.classes(i)), *(c.weight[unit].tobytes() for c in self.counters))
            if key not in memory:
                found = self._classes(i)
                memory[key] = sum(len(set(t) - {-1}) for t, _ in found) + len(self.reading.reach[i])
            total += memory[key] * self._sizes[i]
        return total / max(len(self.reading.path), 1)

    @cached_property
    def layers(self) -> list[_Layer]:
        built: dict[Any, dict[str, Any]] = {}
        layers = []
        for i, (unit, _) in enumerate(self.reading.path):
            counts = tuple(c.weight[unit].tobytes() for c in self.counters)
            key = (id(self.reading.classes(i)), counts, *self._windows[i : i + 2])
            if key not in built:
                built[key] = self._layer(i)
            layers.append(_Layer(unit, **built[key]))
        return layers

    def _layer(self, i: int) -> dict[str, Any]:
        states, after = (len(self.reading.reach[i + n]) for n in (0, 1))
        # letters that lead nowhere count as not allowed
        classes = {key: some for key, some in self._classes(i).items() if max(key[0]) >= 0}
        merge = torch.zeros(len(classes), self.reading.allowed.shape[1], dtype=torch.float64)
        letter = torch.full((merge.shape[1],), len(classes))
        branches = [(c, t) for c, (to, _) in enumerate(classes) for t in sorted(set(to) - {-1})]
        split = torch.zeros(states, len(branches), dtype=torch.float64)
        join = torch.zeros(after, len(branches), dtype=torch.float64)
        collect = torch.zeros(len(classes), len(branches), dtype=torch.float64)
        for c, letters in enumerate(classes.values()):
            merge[c, letters], letter[letters] = 1.0, c
        here, there = self._windows[i : i + 2]
        rooms = self._sizes[i], self._sizes[i + 1]
        keys = list(classes)
        moves = [_shift(here, there, by) for _, by in keys]
        backs = [_shift(there, here, tuple(-n for n in by)) for _, by in keys]
        pull, push = [], []
        for j, (c, t) in enumerate(branches):
            split[[n for n, to in enumerate(keys[c][0]) if to == t], j] = 1.0
            join[t, j] = collect[c, j] = 1.0
            pull.append(torch.where(moves[c] < 0, rooms[1], moves[c]) + t * (rooms[1] + 1))
            push.append(torch.where(backs[c] < 0, rooms[0], backs[c]) + j * (rooms[0] + 1))
        return {
            "merge": merge,
            "letter": letter,
            "kind": torch.tensor([c for c, _ in branches], dtype=torch.int64),
            "split": split,
            "join": join,
            "collect": collect,
            "pull": torch.cat(pull),
            "push": torch.cat(push),
            "rooms": rooms,
        }

    @cached_property
    def first(self) -> dict[int, int]:
        """The first site of each unit."""
        path = self.reading.path
        return {u: i for i, (u, _) in reversed(list(enumerate(path)))}

    @cached_property
    def _scatter(self) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of (Σ C + 1) class values to (sites · V) letters, units of sites, sites of rows."""
        first, rows = 0, []
        total = sum(len(layer.merge) for layer in self.layers)
        for layer in self.layers:
            inside = layer.letter < len(layer.merge)
            rows.append(torch.where(inside, layer.letter + first, total))
            first += len(layer.merge)
        sizes = torch.tensor([len(layer.merge) for layer in self.layers])
        sites = torch.arange(len(sizes)).repeat_interleave(sizes)
        return torch.cat(rows), torch.tensor([layer.unit for layer in self.layers]), sites

    def backward(self, ring: _Ring, p: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Return what is ahead of each branch, class probabilities, both by site, and log P."""
        n = p.shape[-1]
        beta = torch.full((1, self._sizes[-1], n), ring.one, dtype=torch.float64, device=p.device)
        aheads, qs, tops = [], [], []
        for layer in reversed(self.layers):
            qs.append(ring.dot(layer.merge, p[layer.unit]))
            aheads.append(layer.ahead(ring, beta))
            beta, top = ring.scaled(layer.back(ring, aheads[-1], qs[-1]))
            tops.append(top)
        return aheads[::-1], qs[::-1], ring.log(torch.stack(tops)).sum(0)

    def condition(self, law: Tensor) -> tuple[Tensor, Tensor]:
        """Return log P(the group holds), (N,), and log P(a | it) − log P(a), (N, U, V).

        `law` (N, U, V) are log-probabilities, -inf where a letter is not allowed.
        """
        wide = [layer.split.shape[1] * layer.rooms[0] for layer in self.layers]
        size = max(1, MOST // max(sum(wide), law.shape[1] * law.shape[2]))
        parts = [self._condition(piece) for piece in law.split(size)]
        return torch.cat([p for p, _ in parts]), torch.cat([s for _, s in parts])

    def _condition(self, law: Tensor) -> tuple[Tensor, Tensor]:
        log_p = law.double().permute(1, 2, 0).contiguous()
        log_h, shift, weak = self._pass(SCALED, log_p)
        if bool(weak.any()):
            again = self._pass(LOGARITHMIC, log_p[..., weak])
            log_h[weak], shift[..., weak] = again[0], again[1]
        return log_h, shift.permute(2, 0, 1)

    def _pass(self, ring: _Ring, log_p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log P, the shifts (U, V, N) and which particles need logarithms."""
        units, v, n = log_p.shape
        p = ring.enter(log_p)
        aheads, qs, log_h = self.backward(ring, p)
        alpha = torch.full((1, 1, n), ring.one, dtype=torch.float64, device=p.device)
        worths, wholes = [], []
        for layer, ahead, q in zip(self.layers, aheads, qs, strict=True):
            leaving = ring.dot(layer.split.T, alpha)
            worths.append(layer.worth(ring, leaving, ahead))
            wholes.append(ring.total(ring.mul(worths[-1], q), 0))
            alpha, _ = ring.scaled(layer.on(ring, leaving, q))
        rows, sites, classes = self._scatter
        whole = ring.log(torch.stack(wholes))
        weak = torch.isneginf(log_h) | (whole < math.log(FAINT)).any(0)
        ratios = ring.log(torch.cat(worths)) - whole.index_select(0, classes)
        table = F.pad(ratios, (0, 0, 0, 1), value=-torch.inf)
        # no 0/0: a dead particle has no marginals, and its posterior stays as it is
        table = torch.where(torch.isnan(table), -torch.inf, table)
        letters = table.index_select(0, rows).unflatten(0, (-1, v))
        if len(sites) == units and bool((sites == torch.arange(units)).all()):
            return log_h, letters, weak
        shift = torch.zeros_like(log_p).index_add_(0, sites, letters)
        return log_h, shift, weak


Window = tuple[tuple[int, int], ...]


def _shift(here: Window, there: Window, by: tuple[int, ...]) -> Tensor:
    """Return, for every joint value within `here`, its index within `there` after a step, or -1."""
    index = torch.zeros((), dtype=torch.int64)
    inside = torch.ones((), dtype=torch.bool)
    for (lo, hi), (low, high), step in zip(here, there, by, strict=True):
        value = torch.arange(lo, hi + 1) + step
        index = index[..., None] * (high - low + 1) + (value - low)
        inside = inside[..., None] & (value >= low) & (value <= high)
    return torch.where(inside, index, -1).flatten()


# one counter: cumulative sums ---------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Bound:
    """One counter of zeros and ones with an upper bound: a Poisson-binomial law.

    Attributes:
        counter: reduced, weights 0 and 1.
        allowed: (U, V) flags.
    """

    counter: Counter
    allowed: Flags

    @property
    def names(self) -> list[str]:
        """What the group holds together."""
        return [self.counter.name]

    @cached_property
    def _weight(self) -> Tensor:
        return torch.tensor(self.counter.weight)

    @cached_property
    def _mutable(self) -> Tensor:
        return torch.tensor(self.counter.weight.max(1) > 0)

    @cached_property
    def keep(self) -> Tensor | None:
        """The one letter of each unit that does not count, (U,); None if a unit has several.

        Where no letter counts, all fare alike and any stands for them.
        """
        zero = self.allowed & (self.counter.weight == 0)
        single = (zero.sum(1) == 1) | (self.counter.weight.max(1) == 0)
        return torch.tensor(zero.argmax(1)) if single.all() else None

    @cached_property
    def _still(self) -> Tensor | None:
        """Units none of whose letters count; None if there are none."""
        idle = torch.tensor(self.counter.weight.max(1) == 0)
        return idle.nonzero()[:, 0] if bool(idle.any()) else None

    @cached_property
    def _barred(self) -> Tensor | None:
        """-inf at letters that are not allowed where something counts, (U, V); None if all are."""
        bad = ~self.allowed & (self.counter.weight.max(1, keepdims=True) > 0)
        return torch.tensor(np.where(bad, -np.inf, 0.0)) if bad.any() else None

    @cached_property
    def _price(self) -> Tensor:
        """What a letter takes from the bound, (U, V + 1): all of it if it is barred.

        A mask takes nothing, but all where no letter counts.
        """
        able, all_ = self.counter.weight.max(1) > 0, self._high + len(self.allowed) + 1
        price = np.where(self.allowed, self.counter.weight, all_)
        return torch.tensor(np.concatenate((price, np.where(able, 0, all_)[:, None]), 1))

    @cached_property
    def _high(self) -> int:
        assert self.counter.high is not None
        return self.counter.high

    def open(
        self, legal: Tensor, x: Tensor, columns: Tensor
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        """Return log P(the bound holds), (B, K), and the letters given that, in logs and plain.

        `legal` (B, K, m, V) are letters at the open `columns` (B, K, m); `x` (B, K, U) are tokens,
        any mask is V. In plain numbers, which is fast: None where only logarithms can tell, where
        several letters of a unit do not count, where a unit cannot count and where P is 0.
        """
        if self.keep is None:
            return None
        if self._barred is not None:
            legal = legal + self._barred.to(legal)[columns]
        price, keep = self._price.to(x.device), self.keep.to(x.device)
        shape = (*columns.shape, 1)
        units = torch.arange(0, price.numel(), price.shape[1], device=x.device)
        spent = price.view(-1).index_select(0, (x + units).flatten()).view(-1, len(units)).sum(-1)
        index = keep.index_select(0, columns.flatten()).view(shape)
        p = probabilities(legal)
        kept = p.gather(-1, index)
        odds = (p.scatter_(-1, index, 0.0).sum(-1, keepdim=True) / kept).double()
        found = _plain(odds.view(-1, shape[2]), (self._high - spent).double())
        if found is None:
            return None
        log_h, still, slope = found
        change = slope.to(p.dtype).view(shape) / kept
        still = still.to(p.dtype).view(shape)
        given = (legal + change.log()).scatter_(-1, index, still.log())
        p = p.mul_(change).scatter_(-1, index, still)
        log_kept = legal.gather(-1, index).sum((-1, -2), dtype=torch.float64)
        return log_h.view(shape[:2]) + log_kept, given, p

    def condition(self, legal: Tensor, x: Tensor, unknown: Tensor) -> tuple[Tensor, Tensor]:
        """Return log P(the bound holds), (N,), and the shifts of letters that do not, do count.

        The shifts (2, N, U) are log P(a | the bound) − log P(a). `legal` (N, U, V) need not be
        normalized.
        """
        units = torch.arange(x.shape[-1], device=x.device)
        known = self._weight[units, x.clamp(max=legal.shape[-1] - 1)]
        assert self.counter.high is not None
        left = self.counter.high - (known * ~unknown).sum(-1)
        open_ = unknown if self._still is None else unknown & self._mutable
        split = self._split(legal, open_)
        # what is not open keeps its letters for sure
        idle = torch.tensor((0.0, -torch.inf), dtype=split.dtype, device=split.device)
        split = torch.where(open_, split, idle.reshape(2, *[1] * open_.dim()))
        log_h, given = _budget(split, left)
        shifts = torch.where(open_, _shift_of(given, split), 0.0)
        if self._still is not None and bool(unknown[..., self._still].any()):
            # what counts nothing is a factor, and normalized on its own
            mass = torch.logsumexp(legal[..., self._still, :], -1).double()
            mass = torch.where(unknown[..., self._still], mass, 0.0)
            log_h = log_h + mass.sum(-1)
            shifts[..., self._still] = -mass
        return log_h, shifts

    def _split(self, legal: Tensor, open_: Tensor) -> Tensor:
        """Return the log-mass of the letters of a unit that do not count and that do, (2, N, U)."""
        p = probabilities(legal)
        change = (p * self._weight.to(p)).sum(-1).double().log()
        faint = torch.isneginf(change)
        if self.keep is not None:
            keep = legal.gather(-1, self.keep.expand(legal.shape[:-1])[..., None])[..., 0].double()
        else:
            keep = (p * (1 - self._weight).to(p)).sum(-1).double().log()
            faint = faint | torch.isneginf(keep)
        if bool((faint & open_).any()):
            # either nothing of the kind is allowed or it is too unlikely for exp: only the
            # logarithms can tell
            one = self._weight == 1
            change = torch.logsumexp(legal.masked_fill(~one, -torch.inf), -1).double()
            keep = torch.logsumexp(legal.masked_fill(one, -torch.inf), -1).double()
        return torch.stack((keep, change))

    def shifted(self, law: Tensor, shifts: Tensor) -> Tensor:
        """Add the shifts (2, N, U) to log-probabilities (N, U, V)."""
        kept, changed = shifts.to(law.dtype)[..., None]
        if self.keep is None:
            return law + torch.where(self._weight == 1, changed, kept)
        index = self.keep.expand(law.shape[:-1])[..., None]
        letters = law.gather(-1, index) + kept
        out: Tensor = (law + changed).scatter_(-1, index, letters)
        return out


def _shift_of(after: Tensor, before: Tensor) -> Tensor:
    """Return how log-probabilities move; what cannot happen, before or after, goes to -inf."""
    out: Tensor = (after - before).nan_to_num_(-torch.inf, neginf=-torch.inf)
    return out


def _budget(split: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
    """Return log P(changes <= left), (N,), and log P(kept), log P(changed) given that, (2, N, U).

    `split` (2, N, U) are the log-masses of keeping and of changing each unit.
    """
    rows, split, left = left.shape, split.flatten(1, -2), left.flatten()
    has = torch.isfinite(split[0])
    base = torch.where(has, split[0], split[1])
    # a unit that cannot keep its letter spends one change whatever happens
    log_odds = torch.where(has, split[1] - base, -torch.inf)
    left = (left - (~has).sum(-1)).double()
    found = _plain(probabilities(log_odds.clamp(max=700.0)), left)
    if found is not None:
        log_p, keep, change = found[0], found[1].log(), found[2].log() + log_odds
    else:
        order = torch.arange(max(int(left.max()), 0), -1, -1, device=left.device)[:, None]
        weight = torch.where(order <= left, 0.0, -torch.inf).double()
        log_p, keep, change = _prefixes(LOGARITHMIC, log_odds, weight)
        keep, change = (v - log_p[:, None] for v in (keep, change + log_odds))
    forced = base.new_tensor((-torch.inf, 0.0)).view(2, 1, 1)
    given = torch.where(has, torch.stack((keep, change)), forced)
    given = torch.where(torch.isfinite(log_p)[:, None], given, -torch.inf)
    return (log_p + base.sum(-1)).unflatten(0, rows), given.unflatten(1, rows)


def _plain(odds: Tensor, left: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return log Σ_{j <= left} e_j, (N,), P(kept) and P(changed) / odds given that, (N, U).

    e_j are the elementary symmetric polynomials of the odds (N, U) of changing. In plain numbers,
    with odds scaled so that the expected number of changes is at most the bound: what counts then
    lies near one. None if the odds are too uneven for that, or if nothing is `left` (N,) to count.
    """
    room = left.clamp(min=1.0)
    times = (odds.sum(-1) / room).clamp(min=1.0)
    scale = times.log()
    power = scale * room
    most, highest, least, degree = torch.stack((odds.max(), power.max(), *left.aminmax())).tolist()
    if not (most < MOST_ODDS and highest < MOST_POWER and least >= 0):
        return None
    order = torch.arange(degree, -1.0, -1.0, dtype=left.dtype, device=left.device)[:, None]
    # relative to the largest count that is worth something
    weight = torch.where(order <= left, torch.exp((order - left) * scale), 0.0)
    total, keep, slope = _prefixes(SCALED, odds / times[:, None], weight)
    keep, slope = keep / total[:, None], slope / (total * times)[:, None]
    return total.log() + left * scale, keep, slope


def _prefixes(ring: _Ring, odds: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return Σ_j weight_j·e_j, (N,), its part without each unit, and its slope in the odds, (N, U).

    `weight` (D + 1, N) is what D, D − 1, ..., 0 changes are worth. e_j of the first units is a
    cumulative sum of odds times e_{j−1} of those before; what the remaining units add to j changes
    is one from the right. Both run at once.

    References:
        Chen, Dempster & Liu 1994, section 2 (the recursion in j and units).
    """
    n, units = odds.shape
    y = odds.new_full((len(weight), 2 * n, units), ring.zero)
    y[0, :n], y[0, n:], y[1:, n:, 0] = ring.one, weight[0][:, None], weight[1:]
    odds_ = torch.cat((odds, odds.flip(1)))[:, :-1]
    levels, before, after = y.unbind(), y[:, :, :-1].unbind(), y[:, :, 1:].unbind()
    for j in range(1, len(levels)):
        ring.times(odds_, before[j - 1], after[j])
        ring.accumulate(levels[j])
    left, right = y[:, :n], y[:, n:].flip(0, 2)
    keep = ring.total(ring.mul(left, right), 0)
    slope = ring.total(ring.mul(left[:-1], right[1:]), 0)
    first = ring.mul(odds[:, :1], slope[:, :1])
    return ring.total(torch.cat((keep[:, :1], first), 1), 1), keep, slope


# all groups ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Lookahead:
    """h and its marginals for allowed letters, counters and an automaton.

    Attributes:
        allowed: (U, V) flags.
        sites: units in reading order, one tuple per chain.
        automaton: what every chain must obey, or None.
        counters: the bounds.
        limit: numbers per site and particle up to which constraints share one pass; beyond, they
            are split into groups.
    """

    allowed: Flags
    sites: tuple[tuple[int, ...], ...]
    automaton: Automaton | None
    counters: tuple[Counter, ...]
    limit: int = 1000

    @cached_property
    def _once(self) -> tuple[tuple[int, ...], ...]:
        """The chains without repetitions: tied copies of a chain say everything twice."""
        return tuple(dict.fromkeys(self.sites))

    @property
    def relaxed(self) -> bool:
        """Whether tied positions are read by the automaton as if they were independent."""
        units = [u for chain in self._once for u in chain]
        return self.automaton is not None and len(set(units)) < len(units)

    @cached_property
    def _chains(self) -> tuple[_Chain, ...]:
        """Constraints that are exact together."""
        counters = [c for c in (c.reduced(self.allowed) for c in self.counters) if c is not None]
        chains: list[_Chain] = []
        if self.automaton is not None:
            chains.append(_Chain(_Reading(self.allowed, self._once, self.automaton), ()))
        # small counters first: they cost least together
        for c in sorted(counters, key=lambda c: c.high or 0):
            for n, chain in enumerate(chains):
                if chain.reading.automaton is not None and self.relaxed:
                    continue
                wider = self._join(chain, c)
                if wider.cost() <= self.limit:
                    chains[n] = wider
                    break
            else:
                chains.append(self._join(None, c))
        return tuple(chains)

    def _join(self, chain: _Chain | None, counter: Counter) -> _Chain:
        counters = (*(chain.counters if chain else ()), counter)
        if chain is not None and chain.reading.automaton is not None:
            return _Chain(chain.reading, counters)
        able = np.any([c.weight.max(1) > 0 for c in counters], 0)
        units = tuple(int(u) for u in able.nonzero()[0])
        return _Chain(_Reading(self.allowed, (units,), None), counters)

    @cached_property
    def groups(self) -> tuple[_Chain | _Bound, ...]:
        """The chains; a bound instead where one does."""
        return tuple(self._light(c) for c in self._chains)

    def _light(self, chain: _Chain) -> _Chain | _Bound:
        if chain.reading.automaton is None and len(chain.counters) == 1:
            (counter,) = chain.counters
            if counter.low is None and counter.weight.max() == 1:
                return _Bound(counter, self.allowed)
        return chain

    @property
    def exact(self) -> bool:
        """Whether h is P(all constraints hold) and not a product over groups."""
        return len(self.groups) <= 1 and not (self.relaxed and self.groups)

    @property
    def note(self) -> str:
        """One sentence on how h is computed."""
        parts = [" with ".join(group.names) for group in self.groups]
        if self.exact:
            return f"exact, {parts[0] if parts else 'a product over positions'}"
        tied = ", tied positions read as independent by the patterns" if self.relaxed else ""
        return f"approximate, a product of {len(parts)} exact parts: {'; '.join(parts)}{tied}"

    @cached_property
    def _allowed(self) -> Tensor:
        return torch.tensor(self.allowed)

    @cached_property
    def _barred(self) -> Tensor | None:
        """-inf at letters that are not allowed, (U, V); None if all are."""
        return None if self.allowed.all() else torch.where(self._allowed, 0.0, -torch.inf)

    def legal(self, log_p: Tensor) -> Tensor:
        """Return (N, U, V) log-probabilities with -inf at letters that are not allowed."""
        return log_p if self._barred is None else log_p + self._barred.to(log_p)

    def known_allowed(self, x: Tensor) -> Tensor:
        """Return whether letters x (..., U) are allowed where they stand; any mask is a letter."""
        units = torch.arange(x.shape[-1], device=x.device)
        return self._allowed[units, x.clamp(max=self.allowed.shape[1] - 1)]

    def open(
        self, log_p: Tensor, x: Tensor, columns: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None] | None:
        """Return what `condition` does, and the marginals as numbers, for the open units alone.

        `log_p` (B, K, m, V) are the letters at `columns` (B, K, m), the same number of open units
        in every particle; `x` (B, K, U) are tokens, V where open. None where `condition` must be
        asked, as about particles with h = 0.
        """
        if len(self.groups) == 1 and isinstance(self.groups[0], _Bound):
            return self.groups[0].open(log_p, x, columns)
        if self.groups:
            return None
        if self._barred is not None:
            log_p = log_p + self._barred.to(log_p)[columns]
        mass = torch.logsumexp(log_p, -1, keepdim=True)
        log_h = mass[..., 0].double().sum(-1)
        known = (x == log_p.shape[-1]) | self.known_allowed(x)
        return (log_h, log_p - mass, None) if bool(known.all()) else None

    def condition(self, log_p: Tensor, x: Tensor, unknown: Tensor) -> tuple[Tensor, Tensor]:
        """Return log h, (N,), and the marginals given that all holds, log-probabilities (N, U, V).

        `log_p` (N, U, V) are the letters of each unit, a point mass at known ones; they need not be
        normalized. `x` (N, U) are tokens, `unknown` (N, U) marks the open units. Where h is 0 the
        marginals mean nothing.
        """
        legal = self.legal(log_p)
        known = (unknown | self.known_allowed(x)).all(-1)
        if not self.groups:
            mass = torch.where(unknown, torch.logsumexp(legal, -1).double(), 0.0)
            log_h = torch.where(known, mass.sum(-1), -torch.inf)
            return log_h, legal - mass[..., None].to(legal.dtype)
        if len(self.groups) == 1 and isinstance(self.groups[0], _Bound):
            log_h, shifts = self.groups[0].condition(legal, x, unknown)
            given = self.groups[0].shifted(legal, shifts)
            return torch.where(known, log_h, -torch.inf), given
        mass = torch.where(unknown, torch.logsumexp(legal, -1).double(), 0.0)
        law = legal - mass[..., None].nan_to_num(neginf=0.0).to(legal.dtype)
        log_h, given = mass.sum(-1), law
        for group in self.groups:
            if isinstance(group, _Bound):
                more, shifts = group.condition(law, x, unknown)
                given = group.shifted(given, shifts)
            else:
                more, shift = group.condition(law.flatten(0, -3))
                more, shift = more.reshape(x.shape[:-1]), shift.reshape(law.shape)
                given = given + shift.to(law.dtype)
            log_h = log_h + more
        dead = ~known | torch.isneginf(log_h)
        if not self.exact:
            # a unit without a letter that all groups allow: no completion, whatever each one says
            whole = torch.logsumexp(given, -1, keepdim=True)
            dead = dead | torch.isneginf(whole[..., 0]).any(-1)
            given = given - whole
        return torch.where(dead, -torch.inf, log_h), given

    def draw(
        self, log_p: Tensor, chosen: Tensor, given: Tensor | None, noise: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Draw the chosen letters one after another, q(a) ∝ p(a) · h(what is drawn, and a).

        `log_p` (N, U, V) are the laws of the chosen and of all other open letters, point masses at
        known ones; `chosen` (N, U) marks what is drawn: from Gumbel `noise` (N, U, V), or read from
        `given` (N, U). Return the letters (N, U) and their log-probability (N,); -inf where nothing
        is possible.
        """
        law = self.legal(log_p).double().permute(1, 2, 0)
        top = law.amax(1, keepdim=True)
        law = (law - torch.where(torch.isfinite(top), top, 0.0)).contiguous()
        letters, log_q, weak = self._walk(SCALED, law, chosen, given, noise)
        if weak:
            letters, log_q, _ = self._walk(LOGARITHMIC, law, chosen, given, noise)
        return letters, log_q

    def _walk(
        self,
        ring: _Ring,
        law: Tensor,
        chosen: Tensor,
        given: Tensor | None,
        noise: Tensor | None,
    ) -> tuple[Tensor, Tensor, bool]:
        p = ring.enter(law.clone())
        filters = [_Filter(c, ring, p) for c in self._chains]
        letters = torch.zeros_like(chosen, dtype=torch.int64)
        log_q = torch.zeros(chosen.shape[:1], dtype=torch.float64, device=law.device)
        for u in chosen.any(0).nonzero()[:, 0].tolist():
            here, logits = chosen[:, u], law[u]
            for f in filters:
                ahead = f.ahead(u)
                logits = logits if ahead is None else logits + ahead
            logits = torch.log_softmax(logits, 0).nan_to_num(nan=-torch.inf, neginf=-torch.inf).T
            if noise is not None:
                a = (logits + noise[:, u]).argmax(-1)
            else:
                assert given is not None
                a = torch.where(here, given[:, u], 0)
            letters[:, u] = torch.where(here, a, 0)
            log_q = log_q + torch.where(here, logits.gather(-1, a[:, None])[:, 0], 0.0)
            point = torch.full_like(p[u], ring.zero).scatter_(0, a[None], ring.one)
            p[u] = torch.where(here, point, p[u])
        return letters, log_q, any(f.weak for f in filters)


class _Filter:
    """The forward messages of a chain while letters are drawn: they follow what `p` becomes."""

    def __init__(self, chain: _Chain, ring: _Ring, p: Tensor) -> None:
        self.chain, self.ring, self.p = chain, ring, p
        self.aheads, _, log_h = chain.backward(ring, p)
        self.alpha = torch.full((1, 1, p.shape[-1]), ring.one, dtype=p.dtype, device=p.device)
        self.site, self.weak = 0, bool(torch.isneginf(log_h).any())

    def ahead(self, unit: int) -> Tensor | None:
        """Return log h by letter of a unit, up to a constant, (V, N); None if all fare alike."""
        stop = self.chain.first.get(unit)
        if stop is None:
            return None
        while self.site < stop:
            layer, worth, leaving, q = self._look()
            self.alpha, _ = self.ring.scaled(layer.on(self.ring, leaving, q))
            self.site += 1
        layer, worth, _, _ = self._look()
        table = F.pad(self.ring.log(worth), (0, 0, 0, 1), value=-torch.inf)
        return table.index_select(0, layer.letter)

    def _look(self) -> tuple[_Layer, Tensor, Tensor, Tensor]:
        ring, layer = self.ring, self.chain.layers[self.site]
        q = ring.dot(layer.merge, self.p[layer.unit])
        leaving = ring.dot(layer.split.T, self.alpha)
        worth = layer.worth(ring, leaving, self.aheads[self.site])
        whole = ring.log(ring.total(ring.mul(worth, q), 0))
        self.weak = self.weak or bool((whole < math.log(FAINT)).any())
        return layer, worth, leaving, q
