"""Is there a sequence at all? An exact search by integer programming, before anything is sampled.

One 0/1 variable per unit and allowed letter; counters and runs are linear in them, and each
forbidden pattern is the flow through its automaton. What is found is checked letter by letter by
the caller; "no sequence" is the solver's proof.

References:
    Côté, Gendron & Rousseau, "Modeling the regular constraint with integer programming", CPAIOR
    2007 (automata as flows). Huangfu & Hall, "Parallelizing the dual revised simplex method",
    Mathematical Programming Computation 2018 (HiGHS).
"""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from seqalign.space.automaton import Automaton
from seqalign.space.lookahead import Counter

__all__ = ["Problem", "Undecided"]

SECONDS = 60.0


class Undecided(RuntimeError):
    """The search ended without an answer."""


@dataclass(frozen=True, eq=False)
class Problem:
    """Constraints on one letter per unit.

    Attributes:
        allowed: (U, V) flags.
        chains: units in reading order, one tuple per chain.
        counters: bounds on weighted counts.
        run: largest number of equal letters in a row; None for no limit.
        patterns: one automaton per forbidden pattern.
    """

    allowed: npt.NDArray[np.bool_]
    chains: tuple[tuple[int, ...], ...]
    counters: tuple[Counter, ...] = ()
    run: int | None = None
    patterns: tuple[Automaton, ...] = ()

    def solve(self, nearest: Counter | None = None) -> tuple[list[int], int] | None:
        """Return tokens (U,) that obey everything and a distance, or None if there are none.

        The distance is by how much the sequence misses the bounds of `nearest`, as small as can be.

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
        for c in (*self.counters, *([nearest] if nearest else [])):
            weights = {
                i: float(c.weight[u, a])
                for i, (u, a) in enumerate(zip(units, letters, strict=True))
                if c.weight[u, a]
            }
            for sign, bound in ((1, c.high), (-1, c.low)):
                if bound is not None:
                    row = {i: sign * w for i, w in weights.items()}
                    model.row(row | ({slack: -1.0} if c is nearest else {}), -np.inf, sign * bound)
        for chain in dict.fromkeys(self.chains):
            if self.run is not None:
                self._runs(model, place, chain, self.run)
            for automaton in self.patterns:
                _flow(model, place, chain, automaton)
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
        return tokens, round(float(found.x[slack]))

    @staticmethod
    def _runs(
        model: _Model, place: npt.NDArray[np.int64], chain: tuple[int, ...], run: int
    ) -> None:
        """No run + 1 sites in a row may hold one letter."""
        for i in range(len(chain) - run):
            window = Count(chain[i : i + run + 1])
            able = (place[list(window)] >= 0).all(0)
            for a in np.flatnonzero(able).tolist():
                row = {int(place[u, a]): float(n) for u, n in window.items()}
                model.row(row, -np.inf, run)


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
