"""A deterministic automaton that reads a chain from left to right, and the product of several.

References:
    Moore, "Gedanken-experiments on sequential machines", 1956 (merging states).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

__all__ = ["MOST_STATES", "Automaton", "product"]

# far more than any motif needs; what is larger would be too slow to look ahead with
MOST_STATES = 2000


@dataclass(frozen=True)
class Automaton:
    """A deterministic automaton over V letters; it starts in state 0.

    Attributes:
        step: D rows of V next states; -1 where the letter completes something forbidden.
        ends: D flags, whether a chain may end in the state.
    """

    step: tuple[tuple[int, ...], ...]
    ends: tuple[bool, ...]

    def __len__(self) -> int:
        """Count the states (D)."""
        return len(self.step)

    def refused(self, tokens: Iterable[int]) -> int | None:
        """Return where a chain of tokens is refused, its last index if only its end is; or None."""
        state, last = 0, -1
        for last, a in enumerate(tokens):
            state = self.step[state][a]
            if state < 0:
                return last
        return None if self.ends[state] else last

    def merged(self) -> Automaton:
        """Return the smallest automaton that does the same: states no chain tells apart are one.

        References:
            Moore 1956 (partition refinement).
        """
        # states from which every continuation is refused are refused at once
        alive = {d for d, end in enumerate(self.ends) if end}
        while True:
            more = {d for d, row in enumerate(self.step) if alive & set(row)} | alive
            if more == alive:
                break
            alive = more
        step = [[t if t in alive else -1 for t in row] for row in self.step]
        block = [int(e) for e in self.ends]
        count = len(set(block))
        while True:
            keys = [
                (block[d], tuple(-1 if t < 0 else block[t] for t in row))
                for d, row in enumerate(step)
            ]
            names: dict[tuple[int, tuple[int, ...]], int] = {}
            block = [names.setdefault(k, len(names)) for k in keys]
            if len(names) == count:
                break
            count = len(names)
        # state 0 came first and keeps the name 0; unreachable states go
        first = {b: d for d, b in reversed(list(enumerate(block)))}
        order, seen = [block[0]], {block[0]}
        for b in order:
            for t in step[first[b]]:
                if t >= 0 and block[t] not in seen:
                    seen.add(block[t])
                    order.append(block[t])
        place = {b: n for n, b in enumerate(order)}
        rows = tuple(tuple(-1 if t < 0 else place[block[t]] for t in step[first[b]]) for b in order)
        return Automaton(rows, tuple(self.ends[first[b]] for b in order))


@lru_cache(maxsize=256)
def product(a: Automaton, b: Automaton) -> Automaton:
    """Return the smallest automaton of the chains that both accept.

    Raises:
        ValueError: it would need too many states.
    """
    place, order, step = {(0, 0): 0}, [(0, 0)], []
    for d, e in order:
        row = []
        for pair in zip(a.step[d], b.step[e], strict=True):
            if min(pair) < 0:
                row.append(-1)
                continue
            if pair not in place:
                if len(order) >= MOST_STATES:
                    raise ValueError(
                        f"together with the other patterns and runs, more than {MOST_STATES} "
                        f"states are needed to look ahead. Use fewer or shorter patterns."
                    )
                place[pair] = len(order)
                order.append(pair)
            row.append(place[pair])
        step.append(tuple(row))
    return Automaton(tuple(step), tuple(a.ends[d] and b.ends[e] for d, e in order)).merged()
