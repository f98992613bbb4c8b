"""Forward-backward over one group of constraints: automaton states times counter values."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from seqalign.core.process import over_tensors
from seqalign.space.automaton import Automaton
from seqalign.space.counter import Counter, Flags
from seqalign.space.rings import LOGARITHMIC, SCALED, Ring

__all__ = ["Chain", "Filter", "Reading"]

# below this share of the largest product of messages, scaled sums are no longer trusted
FAINT = 1e-200
# most numbers in the messages of one pass; more particles are done in pieces
MOST = 2**23
Window = tuple[tuple[int, int], ...]


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
        return self.kind.tolist() == list(range(len(self.merge)))

    @cached_property
    def _uncounted(self) -> Tensor | None:
        """The next state of each branch, if nothing is counted."""
        plain = self.rooms == (1, 1) and bool((self.pull % 2 == 0).all())
        return self.pull // 2 if plain else None

    def _by_branch(self, p: Tensor) -> Tensor:
        return (p if self._single else p.index_select(0, self.kind))[:, None]

    def ahead(self, ring: Ring, beta: Tensor) -> Tensor:
        """Return what each branch meets, (J, R, N), from the next messages (D', R', N)."""
        if self._uncounted is not None:
            return beta.index_select(0, self._uncounted)
        flat = F.pad(beta, (0, 0, 0, 1), value=ring.zero).flatten(0, 1)
        out: Tensor = flat.index_select(0, self.pull)
        return out.reshape(len(self.kind), self.rooms[0], -1)

    def back(self, ring: Ring, ahead: Tensor, q: Tensor) -> Tensor:
        """Return messages (D, R, N) from what is ahead; q (C, N) are the class probabilities."""
        return ring.dot(self.split, ring.mul(ahead, self._by_branch(q)))

    def on(self, ring: Ring, leaving: Tensor, q: Tensor) -> Tensor:
        """Return the next forward messages (D', R', N) from those leaving by branch, (J, R, N)."""
        moved = ring.mul(leaving, self._by_branch(q))
        if self._uncounted is None:
            flat = F.pad(moved, (0, 0, 0, 1), value=ring.zero).flatten(0, 1)
            moved = flat.index_select(0, self.push).unflatten(0, (len(self.kind), self.rooms[1]))
        return ring.dot(self.join, moved)

    def meet(
        self, ring: Ring, alpha: Tensor, ahead: Tensor, q: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what leaves by branch, P(everything holds) by class, (C, N), and in all, in logs.

        The probabilities are up to a scale.
        """
        leaving = ring.dot(self.split.T, alpha)
        met = ring.mul(leaving, ahead)
        met = met[:, 0] if self.rooms[0] == 1 else ring.total(met, 1)
        worth = met if self._single else ring.dot(self.collect, met)
        return leaving, worth, ring.log(ring.total(ring.mul(worth, q), 0))


@dataclass(frozen=True, eq=False)
class Reading:
    """An automaton on its way over the sites, and what it can meet there.

    Attributes:
        allowed: (U, V) flags.
        sites: units in reading order, one tuple per chain; a unit may stand at several sites.
        automaton: what every chain must obey; None accepts everything.
        fixed: (U,) flags, which units are fixed; None is none.
    """

    allowed: Flags
    sites: tuple[tuple[int, ...], ...]
    automaton: Automaton | None
    fixed: Flags | None = None

    def _columns(self, unit: int) -> tuple[int, ...]:
        """Return the columns of the automaton that the letters of a unit are."""
        kept = self.automaton is not None and self.automaton.kept
        more = kept and self.fixed is not None and bool(self.fixed[unit])
        first = self.allowed.shape[1] if more else 0
        return tuple((np.flatnonzero(self.allowed[unit]) + first).tolist())

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

        @cache  # long stretches of a chain look alike
        def forward(states: frozenset[int], columns: tuple[int, ...], last: bool) -> frozenset[int]:
            return frozenset(self._move(d, a, last) for d in states for a in columns) - {-1}

        @cache
        def before(
            states: frozenset[int], then: frozenset[int], columns: tuple[int, ...], last: bool
        ) -> frozenset[int]:
            return frozenset(d for d in states if forward(frozenset({d}), columns, last) & then)

        path = [(self._columns(unit), last) for unit, last in self.path]
        rows = [frozenset({0})]
        for site in path:
            rows.append(forward(rows[-1], *site))
        live = [rows.pop()]
        for states, site in zip(reversed(rows), reversed(path), strict=True):
            live.append(before(states, live[-1], *site))
        return [tuple(sorted(states)) for states in reversed(live)]

    def classes(self, i: int) -> dict[tuple[int, ...], list[int]]:
        """Return the letters of site i by the places in `reach` that they lead to; -1: none."""
        unit, last = self.path[i]
        key = (self._columns(unit), self.reach[i], self.reach[i + 1], last)
        if key not in self._classes:
            place = {d: n for n, d in enumerate(self.reach[i + 1])}
            found = self._classes.setdefault(key, {})
            for a in key[0]:
                targets = tuple(place.get(self._move(d, a, last), -1) for d in self.reach[i])
                found.setdefault(targets, []).append(a % self.allowed.shape[1])
        return self._classes[key]

    @cached_property
    def _classes(self) -> dict[Any, dict[tuple[int, ...], list[int]]]:
        return {}


@dataclass(frozen=True, eq=False)
class Chain:
    """Forward-backward over one group of constraints.

    Attributes:
        reading: the sites, and the automaton that reads them.
        counters: what is counted over all sites, each unit once; reduced.
    """

    reading: Reading
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
        """The moves of every site; sites that look alike share their tables."""
        built: dict[Any, _Layer] = {}
        layers = []
        for i, (unit, _) in enumerate(self.reading.path):
            counts = tuple(c.weight[unit].tobytes() for c in self.counters)
            key = (id(self.reading.classes(i)), counts, *self._windows[i : i + 2])
            if key not in built:
                built[key] = self._layer(i)
            layers.append(replace(built[key], unit=unit))
        return layers

    def _layer(self, i: int) -> _Layer:
        states, after = (len(self.reading.reach[i + n]) for n in (0, 1))
        # letters that lead nowhere count as not allowed
        classes = {key: some for key, some in self._classes(i).items() if max(key[0]) >= 0}
        keys = list(classes)
        merge = torch.zeros(len(classes), self.reading.allowed.shape[1], dtype=torch.float64)
        letter = torch.full((merge.shape[1],), len(classes))
        branches = [(c, t) for c, (to, _) in enumerate(keys) for t in sorted(set(to) - {-1})]
        split = torch.zeros(states, len(branches), dtype=torch.float64)
        join = torch.zeros(after, len(branches), dtype=torch.float64)
        collect = torch.zeros(len(classes), len(branches), dtype=torch.float64)
        for c, letters in enumerate(classes.values()):
            merge[c, letters], letter[letters] = 1.0, c
        here, there = self._windows[i : i + 2]
        rooms = self._sizes[i], self._sizes[i + 1]
        moves = [_shift(here, there, by) for _, by in keys]
        backs = [_shift(there, here, tuple(-n for n in by)) for _, by in keys]
        pull, push = [], []
        for j, (c, t) in enumerate(branches):
            split[[n for n, to in enumerate(keys[c][0]) if to == t], j] = 1.0
            join[t, j] = collect[c, j] = 1.0
            pull.append(torch.where(moves[c] < 0, rooms[1], moves[c]) + t * (rooms[1] + 1))
            push.append(torch.where(backs[c] < 0, rooms[0], backs[c]) + j * (rooms[0] + 1))
        kind = torch.tensor([c for c, _ in branches], dtype=torch.int64)
        pull_, push_ = torch.cat(pull), torch.cat(push)
        return _Layer(-1, merge, letter, kind, split, join, collect, pull_, push_, rooms)

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

    @cached_property
    def _copies(self) -> dict[torch.device, tuple[list[_Layer], tuple[Tensor, Tensor, Tensor]]]:
        return {}

    def on(self, device: torch.device) -> tuple[list[_Layer], tuple[Tensor, Tensor, Tensor]]:
        """Return the moves of every site, and `_scatter`, on a device."""
        if device.type == "cpu":
            return self.layers, self._scatter
        if device not in self._copies:
            # what sites share is moved once; a tensor's hash is its identity
            moved = cache(lambda v: v.to(device))
            layers = [over_tensors(layer, moved) for layer in self.layers]
            rows, units, sites = self._scatter
            self._copies[device] = layers, (moved(rows), moved(units), moved(sites))
        return self._copies[device]

    def backward(self, ring: Ring, p: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Return what is ahead of each branch, class probabilities, both by site, and log P."""
        n = p.shape[-1]
        beta = torch.full((1, self._sizes[-1], n), ring.one, dtype=torch.float64, device=p.device)
        aheads, qs, tops = [], [], []
        for layer in reversed(self.on(p.device)[0]):
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

    def _pass(self, ring: Ring, log_p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log P, the shifts (U, V, N) and which particles need logarithms."""
        units, v, n = log_p.shape
        p = ring.enter(log_p)
        aheads, qs, log_h = self.backward(ring, p)
        alpha = torch.full((1, 1, n), ring.one, dtype=torch.float64, device=p.device)
        worths, wholes = [], []
        layers, (rows, sites, classes) = self.on(p.device)
        for layer, ahead, q in zip(layers, aheads, qs, strict=True):
            leaving, worth, whole = layer.meet(ring, alpha, ahead, q)
            worths.append(worth)
            wholes.append(whole)
            alpha, _ = ring.scaled(layer.on(ring, leaving, q))
        whole = torch.stack(wholes)
        weak = torch.isneginf(log_h) | (whole < math.log(FAINT)).any(0)
        ratios = ring.log(torch.cat(worths)) - whole.index_select(0, classes)
        table = F.pad(ratios, (0, 0, 0, 1), value=-torch.inf)
        # no 0/0: a dead particle has no marginals, and its posterior stays as it is
        table = torch.where(torch.isnan(table), -torch.inf, table)
        letters = table.index_select(0, rows).unflatten(0, (-1, v))
        if len(sites) == units and sites.tolist() == list(range(units)):
            return log_h, letters, weak
        shift = torch.zeros_like(log_p).index_add_(0, sites, letters)
        return log_h, shift, weak


class Filter:
    """The forward messages of a chain while letters are drawn: they follow what `p` becomes."""

    def __init__(self, chain: Chain, ring: Ring, p: Tensor) -> None:
        self.chain, self.ring, self.p = chain, ring, p
        self.layers, _ = chain.on(p.device)
        self.aheads, _, log_h = chain.backward(ring, p)
        self.alpha = torch.full((1, 1, p.shape[-1]), ring.one, dtype=p.dtype, device=p.device)
        self.site, self.weak = 0, bool(torch.isneginf(log_h).any())

    def ahead(self, unit: int) -> Tensor | None:
        """Return log h by letter of a unit, up to a constant, (V, N); None if all fare alike."""
        stop = self.chain.first.get(unit)
        if stop is None:
            return None
        while True:
            ring, layer = self.ring, self.layers[self.site]
            q = ring.dot(layer.merge, self.p[layer.unit])
            leaving, worth, whole = layer.meet(ring, self.alpha, self.aheads[self.site], q)
            self.weak = self.weak or bool((whole < math.log(FAINT)).any())
            if self.site == stop:
                table = F.pad(ring.log(worth), (0, 0, 0, 1), value=-torch.inf)
                return table.index_select(0, layer.letter)
            self.alpha, _ = ring.scaled(layer.on(ring, leaving, q))
            self.site += 1


def _shift(here: Window, there: Window, by: tuple[int, ...]) -> Tensor:
    """Return, for every joint value within `here`, its index within `there` after a step, or -1."""
    index = torch.zeros((), dtype=torch.int64)
    inside = torch.ones((), dtype=torch.bool)
    for (lo, hi), (low, high), step in zip(here, there, by, strict=True):
        value = torch.arange(lo, hi + 1) + step
        index = index[..., None] * (high - low + 1) + (value - low)
        inside = inside[..., None] & (value >= low) & (value <= high)
    return torch.where(inside, index, -1).flatten()
