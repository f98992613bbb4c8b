"""Is there a sequence at all? An exact search by integer programming, before anything is sampled.

One 0/1 variable per unit and allowed letter; counters and rows are linear in them, and any other
automaton is a flow through its states. What is found is checked letter by letter by the caller; "no
sequence" is the solver's proof.

References:
    Côté, Gendron & Rousseau, "Modeling the regular constraint with integer programming", CPAIOR
    2007 (automata as flows). Huangfu & Hall, "Parallelizing the dual revised simplex method",
    Mathematical Programming Computation 2018 (HiGHS).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from seqalign.space.automaton import Automaton
from seqalign.space.constraint import Constraint, Positions, Search
from seqalign.space.counter import Counter, Flags
from seqalign.space.units import Units

__all__ = ["Part", "Problem", "Undecided"]

SECONDS = 60.0


class Undecided(RuntimeError):
    """The search ended without an answer."""


@dataclass(frozen=True, eq=False)
class Part:
    """What one constraint asks of units.

    Attributes:
        constraint: it.
        counter: a weighted count of units within bounds, or None.
        automaton: what every chain must obey, or None.
    """

    constraint: Constraint
    counter: Counter | None
    automaton: Automaton | None

    @classmethod
    def of(cls, constraint: Constraint, at: Positions, units: Units) -> Part:
        """Ask a constraint."""
        counter = constraint.counter(at)
        counter = None if counter is None else units.counter(counter)
        return cls(constraint, counter, constraint.automaton(at))


@dataclass(frozen=True, eq=False)
class Problem:
    """Constraints on one letter per unit.

    Attributes:
        at: the positions.
        units: what takes one letter.
        allowed: (U, V) flags.
        parts: counters and automata.
    """

    at: Positions
    units: Units
    allowed: Flags
    parts: tuple[Part, ...]

    def solve(self, nearest: Part | None = None) -> list[int] | None:
        """Return tokens (U,) that obey everything, or None if there are none.

        The count of `nearest` may miss its bounds, by as little as can be.

        Raises:
            Undecided: the search took longer than a minute.
        """
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import coo_array

        units, letters = self.allowed.nonzero()
        place = np.full(self.allowed.shape, -1)
        place[units, letters] = np.arange(len(units))
        model = _Model(len(units) + 1)
        slack = len(units)
        for u in range(len(self.allowed)):
            model.row({int(i): 1.0 for i in place[u] if i >= 0}, 1, 1)
        for part in self.parts:
            c = part.counter
            weights = (
                {}
                if c is None
                else {
                    i: float(c.weight[u, a])
                    for i, (u, a) in enumerate(zip(units, letters, strict=True))
                    if c.weight[u, a]
                }
            )
            for sign, bound in () if c is None else ((1, c.high), (-1, c.low)):
                if bound is not None:
                    row = {i: sign * w for i, w in weights.items()}
                    free = {slack: -1.0} if part is nearest else {}
                    model.row(row | free, -np.inf, sign * bound)
            self._read(model, place, part)
        whole = np.zeros(model.size)
        whole[:slack] = 1
        cost = np.zeros(model.size)
        cost[slack] = 1.0
        top = np.ones(model.size)
        top[slack] = np.inf if nearest else 0.0
        matrix = coo_array(
            (model.values, (model.rows, model.columns)), (len(model.low), model.size)
        ).tocsr()
        found = milp(
            cost,
            integrality=whole,
            bounds=Bounds(0.0, top),
            constraints=LinearConstraint(matrix, model.low, model.high),
            options={"time_limit": SECONDS},
        )
        if found.status == 2:
            return None
        if found.x is None or found.status != 0:
            raise Undecided(
                f"Whether the constraints leave any sequence was not decided in {SECONDS:.0f} s: "
                f"{found.message}"
            )
        chosen = found.x[:slack] > 0.5
        tokens = [0] * len(self.allowed)
        for u, a in zip(units[chosen].tolist(), letters[chosen].tolist(), strict=True):
            tokens[u] = a
        return tokens

    def _read(self, model: _Model, place: npt.NDArray[np.int64], part: Part) -> None:
        """Add what reads the chains, as rows or as a flow through each different chain."""
        if part.automaton is None:
            return
        rows = part.constraint.rows(self.at)
        if rows is None:
            for chain in dict.fromkeys(self.units.sites):
                _flow(model, place, chain, part.automaton)
            return
        unit = self.units.of.tolist()
        for numbers, most in rows:
            row: dict[int, float] = {}
            for (i, a), n in numbers.items():
                variable = int(place[unit[i], a])
                row[variable] = row.get(variable, 0.0) + n
            # a letter that is not allowed is no variable; a sum that cannot be too large says
            # nothing
            row.pop(-1, None)
            if sum(row.values()) > most:
                model.row(row, -np.inf, most)

    # why there is none ----------------------------------------------------------------------------

    def without(self, part: Part) -> Problem:
        """Return the problem with one part less."""
        return replace(self, parts=tuple(p for p in self.parts if p is not part))

    def _nearest(self, part: Part) -> int:
        """Return the count of the sequence that misses the bounds of a part by least."""
        tokens = self.solve(nearest=part)
        assert tokens is not None
        assert part.counter is not None
        return part.counter.total(tokens)

    def _admits(self, other: Constraint) -> bool:
        """Return whether there is a sequence under one more constraint."""
        part = Part.of(other, self.at, self.units)
        return replace(self, parts=(*self.parts, part)).solve() is not None

    def conflict(self, allowed: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
        """Return why no sequence obeys all parts, and where that is written.

        `allowed` are the letters of each position, L strings.
        """
        for part in self.parts:
            # the one constraint without which there would be a sequence, and how far it would
            # have to give way
            rest, c = self.without(part), part.constraint
            if rest.solve() is not None:
                search = Search(allowed, partial(self._nearest, part), rest._admits)
                return c.cure(self.at, search), c.path
        kept = self
        for part in self.parts:
            less = kept.without(part)
            kept = less if less.solve() is None else kept
        names = [p.constraint.title for p in kept.parts]
        path = kept.parts[0].constraint.path if kept.parts else ()
        if len(names) == 1:
            return f"{names[0]} leaves no sequence among the allowed letters; loosen it.", path
        return f"{', '.join(names)} exclude one another; loosen at least one of them.", path


class _Model:
    """Rows of a sparse matrix with their bounds."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.rows: list[int] = []
        self.columns: list[int] = []
        self.values: list[float] = []
        self.low: list[float] = []
        self.high: list[float] = []

    def new(self) -> int:
        self.size += 1
        return self.size - 1

    def row(self, entries: dict[int, float], low: float, high: float) -> None:
        self.rows += [len(self.low)] * len(entries)
        self.columns += list(entries)
        self.values += list(entries.values())
        self.low.append(low)
        self.high.append(high)


def _flow(
    model: _Model, place: npt.NDArray[np.int64], chain: Sequence[int], automaton: Automaton
) -> None:
    """One unit of flow runs from the first state to one in which the chain may end."""
    entering: dict[int, list[int]] = {}
    states = {0}
    for i, u in enumerate(chain):
        leaving: dict[int, list[int]] = {d: [] for d in states}
        classes: dict[tuple[int, ...], list[int]] = {}
        for a in (place[u] >= 0).nonzero()[0].tolist():
            targets = tuple(automaton.step[d][a] for d in sorted(states))
            classes.setdefault(targets, []).append(a)
        then: dict[int, list[int]] = {}
        for targets, letters in classes.items():
            flows = []
            for d, to in zip(sorted(states), targets, strict=True):
                if to < 0 or (i == len(chain) - 1 and not automaton.ends[to]):
                    continue
                y = model.new()
                flows.append(y)
                leaving[d].append(y)
                then.setdefault(to, []).append(y)
            # the flow by this class of letters is its share of the unit
            row = dict.fromkeys(flows, 1.0) | {int(place[u, a]): -1.0 for a in letters}
            model.row(row, 0, 0)
        for d in states:
            row = dict.fromkeys(leaving[d], 1.0) | dict.fromkeys(entering.get(d, []), -1.0)
            model.row(row, 1 if i == 0 else 0, 1 if i == 0 else 0)
        entering, states = then, set(then)
        if not states:
            # nothing may stand here: an equation without a solution says so
            model.row({}, 1, 1)
            return
