"""The longest run of one letter."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from seqalign.space.automaton import Automaton, explored
from seqalign.space.constraint import Constraint, ConstraintError, Positions, Row, Search

__all__ = ["MaxHomopolymer"]


@dataclass(frozen=True)
class MaxHomopolymer(
    Constraint,
    key="max_homopolymer",
    rank=80,
    schema=int,
    said=("At most", "{most} equal letters in a row"),
):
    """The largest number of equal letters in a row, within a chain."""

    most: int

    def __post_init__(self) -> None:
        if self.most < 1:
            raise ConstraintError(f"max_homopolymer must be >= 1, got {self.most}.", self.path)

    @classmethod
    def example(cls, at: Positions) -> tuple[Any, str]:
        """Show what the wild type obeys."""
        longest = max((len(list(run)) for _, run in groupby(at.wild_type or "")), default=1)
        return max(4, longest), f"longest run of one letter; the wild type has {longest}"

    def automaton(self, at: Positions) -> Automaton | None:
        """Read the last letter and how often it stands in a row."""
        if self.most >= max(map(len, at.chains)):
            return None

        def moves(state: tuple[int, int]) -> list[tuple[int, int] | None]:
            last, n = state
            again = (last, n + 1) if n < self.most else None
            return [again if a == last else (a, 1) for a in range(len(at.alphabet))]

        return explored((-1, 0), moves, lambda state: True).merged()

    def rows(self, at: Positions) -> Iterator[Row]:
        """Bound every letter in every window that is one too long."""
        for chain in at.chains:
            for start in chain[: max(0, len(chain) - self.most)]:
                window = range(start, start + self.most + 1)
                for a in range(len(at.alphabet)):
                    yield {(i, a): 1 for i in window}, self.most

    def broken(self, sequence: str, at: Positions) -> list[str]:
        """Return a sentence for each long run."""
        return [
            f"{at.span(chain[0] + run.start(), chain[0] + run.end())} is a run of {len(run[0])} "
            f"{run[1]!r}, at most {self.most} are allowed"
            for chain in at.chains
            for run in re.finditer(r"(.)\1*", sequence[chain[0] : chain[-1] + 1])
            if len(run[0]) > self.most
        ]

    def cure(self, at: Positions, search: Search) -> str:
        """Find the smallest feasible value."""
        low, high = self.most, max(map(len, at.chains))
        while high - low > 1:
            middle = (low + high) // 2
            fits = search.admits(replace(self, most=middle))
            low, high = (low, middle) if fits else (middle, high)
        return (
            f"max_homopolymer is {self.most}, which the other constraints make impossible; the "
            f"smallest feasible value is {high}."
        )
