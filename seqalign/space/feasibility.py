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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import count

import numpy as np
import numpy.typing as npt

from seqalign.space.automaton import Automaton
from seqalign.space.constraint import Constraint, Positions, Search
from seqalign.space.counter import Counter, Flags
from seqalign.space.units import Units

__all__ = ["Part", "Problem", "Undecided"]

SECONDS = 60.0
# a linear row over numbered variables, and its bounds
_Row = tuple[dict[int, float], float, float]


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
        slack = len(units)
        place = np.full(self.allowed.shape, -1)
        place[units, letters] = np.arange(slack)
        new = count(slack + 1)
        model: list[_Row] = [({int(i): 1.0 for i in some if i >= 0}, 1, 1) for some in place]
        for part in self.parts:
            c = part.counter
            for sign, bound in () if c is None else ((1, c.high), (-1, c.low)):
                if c is not None and bound is not None:
                    weights = enumerate((sign * c.weight[units, letters]).tolist())
                    free = {slack: -1.0} if part is nearest else {}
                    row = {i: float(w) for i, w in weights if w} | free
                    model.append((row, -np.inf, sign * bound))
            model += self._read(place, part, new)
        size = next(new)
        entries = [(n, i, v) for n, (row, _, _) in enumerate(model) for i, v in row.items()]
        rows, columns, values = zip(*entries, strict=True)
        matrix = coo_array((values, (rows, columns)), (len(model), size)).tocsr()
        low, high = [a for _, a, _ in model], [b for _, _, b in model]
        variable = np.arange(size)
        top = np.ones(size)
        top[slack] = np.inf if nearest else 0.0
        found = milp(
            (variable == slack).astype(float),
            integrality=(variable < slack).astype(float),
            bounds=Bounds(0.0, top),
            constraints=LinearConstraint(matrix, low, high),
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
        tokens = np.zeros(len(self.allowed), dtype=np.int64)
        tokens[units[chosen]] = letters[chosen]
        return tokens.tolist()

    @cached_property
    def _fixed(self) -> list[bool]:
        """Which units are fixed, (U,)."""
        free = self.at.alphabet.mask_symbol
        return [self.at.fixed[i] != free for i in self.units.leader.tolist()]

    def _read(self, place: npt.NDArray[np.int64], part: Part, new: Iterator[int]) -> Iterator[_Row]:
        """Yield what reads the chains, as rows or as a flow through each different chain."""
        if part.automaton is None:
            return
        rows = part.constraint.rows(self.at)
        if rows is None:
            for chain in dict.fromkeys(self.units.sites):
                yield from _flow(place, chain, part.automaton, new, self._fixed)
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
                yield row, -np.inf, most

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


def _flow(
    place: npt.NDArray[np.int64],
    chain: Sequence[int],
    automaton: Automaton,
    new: Iterator[int],
    fixed: Sequence[bool],
) -> Iterator[_Row]:
    """One unit of flow runs from the first state to one in which the chain may end."""
    entering: dict[int, list[int]] = {0: []}
    for i, u in enumerate(chain):
        states = sorted(entering)
        first = place.shape[1] if automaton.kept and fixed[u] else 0
        classes: dict[tuple[int, ...], list[int]] = {}
        for a in (place[u] >= 0).nonzero()[0].tolist():
            classes.setdefault(tuple(automaton.step[d][first + a] for d in states), []).append(a)
        leaving: dict[int, list[int]] = {d: [] for d in states}
        then: dict[int, list[int]] = {}
        for targets, letters in classes.items():
            # the flow by this class of letters is its share of the unit
            row = {int(place[u, a]): -1.0 for a in letters}
            for d, to in zip(states, targets, strict=True):
                if to >= 0 and (i < len(chain) - 1 or automaton.ends[to]):
                    y = next(new)
                    row[y] = 1.0
                    leaving[d].append(y)
                    then.setdefault(to, []).append(y)
            yield row, 0, 0
        for d in states:
            row = dict.fromkeys(leaving[d], 1.0) | dict.fromkeys(entering[d], -1.0)
            yield row, int(i == 0), int(i == 0)
        entering = then
        if not then:
            # nothing may stand here: an equation without a solution says so
            yield {}, 1, 1
            return
