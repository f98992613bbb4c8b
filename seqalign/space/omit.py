"""Letters that never appear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from seqalign.space.constraint import Constraint, Positions
from seqalign.space.counter import Flags

__all__ = ["Omit"]


@dataclass(frozen=True)
class Omit(Constraint, key="omit", rank=10, schema=str, said=("Never", "{letters}")):
    """No position that is designed takes one of these letters; fixed ones keep theirs."""

    letters: str

    @classmethod
    def example(cls, at: Positions) -> tuple[Any, str]:
        """Show a letter that stands seldom."""
        wild = at.wild_type or ""
        return min("CMW", key=wild.count), f"never appear; the wild type has C × {wild.count('C')}"

    def flags(self, at: Positions) -> Flags:
        """Allow the other letters everywhere."""
        never = at.letters(self.letters, "omit")
        return np.array([[a not in never for a in at.alphabet.letters]] * at.length)
