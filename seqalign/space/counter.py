"""A weighted count of letters within bounds: mutations, composition, charge, mass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Counter", "Flags", "Table"]

Table = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Counter:
    """Σ_u weight[u, x_u] must lie within [low, high].

    Attributes:
        name: what is counted, for messages.
        weight: (U, V) integers; a unit u is a position, or a tied group.
        low: smallest allowed total; None for no bound.
        high: largest allowed total; None for no bound.
    """

    name: str
    weight: Table
    low: int | None
    high: int | None

    def total(self, tokens: Iterable[int]) -> int:
        """Return the count of U letters."""
        return int(sum(self.weight[u, a] for u, a in enumerate(tokens)))

    def misses(self, total: int) -> bool:
        """Return whether a total lies beyond the bounds."""
        below = self.low is not None and total < self.low
        return below or (self.high is not None and total > self.high)

    def end(self, total: int) -> tuple[str, int | None, str]:
        """Return the end that a total misses, its bound, and which feasible value lies there."""
        if self.high is not None and total > self.high:
            return "max", self.high, "smallest"
        return "min", self.low, "largest"

    def reduced(self, allowed: Flags) -> Counter | None:
        """Return the same bounds with weights from 0 and without common divisor; None if idle.

        A lower bound alone becomes an upper bound on what is missing.
        """
        most = np.where(allowed, self.weight, np.iinfo(np.int64).min).max(1)
        least = np.where(allowed, self.weight, np.iinfo(np.int64).max).min(1)
        weight = np.where(allowed, self.weight - least[:, None], 0)
        step = int(np.gcd.reduce(weight, None))
        if step == 0:
            return None
        weight, base = weight // step, int(least.sum())
        top = int((most - least).sum()) // step
        high = None if self.high is None else (self.high - base) // step
        low = None if self.low is None else -((base - self.low) // step)
        high = None if high is None or high >= top else high
        low = None if low is None or low <= 0 else low
        if high is None and low is None:
            return None
        if high is None and low is not None:
            rest = np.where(allowed, weight.max(1)[:, None] - weight, 0)
            return Counter(self.name, rest, None, top - low)
        return Counter(self.name, weight, low, high)
