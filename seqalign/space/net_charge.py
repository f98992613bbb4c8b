"""The net charge of a sequence: K and R against D and E, at neutral pH."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from seqalign.space.constraint import Constraint, ConstraintError, Positions
from seqalign.space.counter import Counter

__all__ = ["CHARGE", "NetCharge"]

# side chains: histidine counts 0, chain ends not at all
CHARGE = {"K": 1, "R": 1, "D": -1, "E": -1}


@dataclass(frozen=True)
class NetCharge(Constraint, key="net_charge", rank=70):
    """Bounds on the number of K and R minus that of D and E, fixed ones too.

    Attributes:
        min: smallest charge; None for no bound.
        max: largest charge; None for no bound.
    """

    min: int | None = None
    max: int | None = None

    def __post_init__(self) -> None:
        if self.min is None and self.max is None:
            raise ConstraintError("net_charge: write min, max or both.", self.path)
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ConstraintError(
                f"net_charge min {self.min} is above max {self.max}; swap them.", self.path
            )

    @classmethod
    def example(cls, at: Positions) -> tuple[Any, str]:
        """Show an interval around the wild type's."""
        charge = sum(CHARGE.get(a, 0) for a in at.wild_type or "")
        shown = {"min": charge - 4, "max": charge + 4}
        return shown, f"K, R +1, D, E -1; the wild type has {charge}"

    def counter(self, at: Positions) -> Counter:
        """Count the charges."""
        letters = at.alphabet.letters
        if not set(CHARGE) & set(letters):
            raise ConstraintError(
                f"net_charge counts {', '.join(CHARGE)}, and none of them is one of the letters "
                f"{letters!r}.",
                self.path,
            )
        weight = np.array([[CHARGE.get(a, 0) for a in letters]] * at.length)
        return Counter(self.key, weight, self.min, self.max)
