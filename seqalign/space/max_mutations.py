"""A budget of mutations from the wild type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from seqalign.space.constraint import Constraint, ConstraintError, Positions, Search
from seqalign.space.counter import Counter

__all__ = ["MaxMutations"]


@dataclass(frozen=True)
class MaxMutations(
    Constraint, key="max_mutations", rank=50, schema=int, said=("At most", "{most} mutations")
):
    """The largest number of positions that differ from the wild type."""

    most: int

    def __post_init__(self) -> None:
        if self.most < 0:
            raise ConstraintError(f"max_mutations must be >= 0, got {self.most}.", self.path)

    @classmethod
    def example(cls, at: Positions) -> tuple[Any, str] | None:
        """Show a quarter of the free positions."""
        if at.wild_type is None:
            return None
        return max(1, min(12, len(at.free) // 4)), "from the wild type"

    def counter(self, at: Positions) -> Counter:
        """Count letters that are not the wild type's."""
        if at.wild_type is None:
            raise ConstraintError("max_mutations needs a wild_type to count from.", self.path)
        weight = [[int(a != w) for a in at.alphabet.letters] for w in at.wild_type]
        return Counter(self.key, np.array(weight), None, self.most)

    def broken(self, sequence: str, at: Positions) -> list[str]:
        """Return the sentence."""
        count = sum(a != w for a, w in zip(sequence, at.wild_type or "", strict=True))
        said = f"{count} mutations, at most {self.most} are allowed"
        return [said] if count > self.most else []

    def cure(self, at: Positions, search: Search) -> str:
        """Name the positions that cannot keep the wild type."""
        wild = at.wild_type or ""
        forced = [at.name(i) for i, a in enumerate(wild) if a not in search.allowed[i]]
        why = "which the other constraints make impossible"
        if len(forced) > self.most:
            shown = ", ".join([*forced[:10], *["..."] * (len(forced) > 10)])
            why = f"but {len(forced)} positions cannot keep the wild type ({shown})"
        near = search.nearest()
        return f"max_mutations is {self.most}, {why}; the smallest feasible value is {near}."
