"""A deterministic automaton that reads a chain from left to right, and the product of several.

References:
    Moore, "Gedanken-experiments on sequential machines", 1956 (merging states
    by partition refinement).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

__all__ = ["MOST_STATES", "Automaton", "explored", "product"]

State = TypeVar("State", bound=Hashable)

# far more than any motif needs; what is larger would be too slow to look ahead with
MOST_STATES = 2000


@dataclass(frozen=True)
class Automaton:
    """A deterministic automaton over V letters; it starts in state 0.

    Attributes:
        step: D rows of V next states; -1 where the letter completes something forbidden.
        ends: D flags, whether a chain may end in the state.
        kept: whether fixed letters are read otherwise: V more columns, letter a in column V + a.
    """

    step: tuple[tuple[int, ...], ...]
    ends: tuple[bool, ...]
    kept: bool = False

    def __len__(self) -> int:
        return len(self.step)

    def refused(self, tokens: Iterable[int]) -> int | None:
        """Return where a chain is refused, its last index if only its end is; or None.

        Tokens are columns: V + a for a fixed letter a where those are read otherwise.
        """
        state, last = 0, -1
        for last, a in enumerate(tokens):
            state = self.step[state][a]
            if state < 0:
                return last
        return None if self.ends[state] else last

    def merged(self) -> Automaton:
        """Return the smallest automaton that does the same: states no chain tells apart are one."""
        # states from which every continuation is refused are refused at once
        alive: set[int] = set()
        more = {d for d, end in enumerate(self.ends) if end}
        while more != alive:
            alive = more
            more = {d for d, row in enumerate(self.step) if alive & set(row)} | alive
        step = [[t if t in alive else -1 for t in row] for row in self.step]
        # letters that always lead to one place tell no states apart a second time
        told = list(zip(*dict.fromkeys(zip(*step, strict=True)), strict=True))
        block, count = [int(e) for e in self.ends], 0
        while len(set(block)) != count:
            count = len(set(block))
            keys = [
                (b, *(t if t < 0 else block[t] for t in r))
                for b, r in zip(block, told, strict=True)
            ]
            names: dict[tuple[int, ...], int] = {}
            block = [names.setdefault(k, len(names)) for k in keys]
        # state 0 came first; unreachable states go
        first = {b: d for d, b in reversed(list(enumerate(block)))}
        return explored(
            block[0],
            lambda b: [None if t < 0 else block[t] for t in step[first[b]]],
            lambda b: self.ends[first[b]],
            kept=self.kept,
        )


def explored(
    start: State,
    moves: Callable[[State], Iterable[State | None]],
    ends: Callable[[State], bool],
    many: str | None = None,
    kept: bool = False,
) -> Automaton:
    """Return the automaton of what can be reached: `moves` has a state, or None, for each column.

    Raises:
        ValueError: there are more than MOST_STATES; it says `many`. Without that there is no limit.
    """
    place, order, step = {start: 0}, [start], []
    for state in order:
        row = list(moves(state))
        for to in row:
            if to is not None and to not in place:
                if many is not None and len(order) >= MOST_STATES:
                    raise ValueError(many)
                place[to] = len(order)
                order.append(to)
        step.append(tuple(-1 if to is None else place[to] for to in row))
    return Automaton(tuple(step), tuple(map(ends, order)), kept)


@lru_cache(maxsize=256)
def product(a: Automaton, b: Automaton) -> Automaton:
    """Return the smallest automaton of the chains that both accept.

    Raises:
        ValueError: it would need too many states.
    """
    kept = a.kept or b.kept

    def row(one: Automaton, state: int) -> tuple[int, ...]:
        return one.step[state] * (2 if kept and not one.kept else 1)

    return explored(
        (0, 0),
        lambda at: [
            None if min(pair) < 0 else pair
            for pair in zip(row(a, at[0]), row(b, at[1]), strict=True)
        ],
        lambda at: a.ends[at[0]] and b.ends[at[1]],
        f"together with the other patterns and runs, more than {MOST_STATES} states are needed to "
        f"look ahead. Use fewer or shorter patterns.",
        kept,
    ).merged()
