"""How large a part of the letters is one of some letters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from seqalign.space.constraint import Constraint, ConstraintError, Positions, Schema, Search
from seqalign.space.counter import Counter

__all__ = ["Composition"]

# a fraction of a whole number of positions is that number
ROUNDING = 1e-9
Number = Annotated[float | None, Field(allow_inf_nan=False)]


class _Bounds(Schema):
    """An interval; an open end is left out."""

    min: Number = None
    max: Number = None


@dataclass(frozen=True)
class Composition(Constraint, key="composition", rank=60, schema=dict[str, _Bounds]):
    """Bounds on the part of all L letters, fixed ones too, that is one of some letters.

    Attributes:
        letters: the letters, counted together.
        min: smallest fraction, in [0, 1]; None for no bound.
        max: largest fraction, in [0, 1]; None for no bound.
    """

    letters: str
    min: float | None = None
    max: float | None = None

    @classmethod
    def example(cls, at: Positions) -> tuple[Any, str]:
        """Show what the wild type obeys."""
        share = math.ceil(100 * (at.wild_type or "").count("A") / at.length) / 100
        return {"A": {"max": max(0.15, share)}}, "fractions of all residues"

    @property
    def path(self) -> tuple[str, ...]:
        """Name the letters, too."""
        return self.key, self.letters

    @property
    def title(self) -> str:
        """Name the letters, too."""
        return f"composition of {self.letters!r}"

    def words(self) -> tuple[str, str]:
        """Say the fractions as percent."""
        ends = (("at least", self.min), ("at most", self.max))
        said = [f"{end} {100 * bound:g} %" for end, bound in ends if bound is not None]
        return f"Part of {self.letters}", ", ".join(said)

    def _counts(self, at: Positions) -> tuple[int | None, int | None]:
        """Return the bounds as numbers of letters."""
        n = at.length
        least = None if self.min is None else math.ceil(self.min * n - ROUNDING)
        most = None if self.max is None else math.floor(self.max * n + ROUNDING)
        return least, most

    def _fail(self, why: str) -> ConstraintError:
        return ConstraintError(f"{self.title}: {why}", self.path)

    def counter(self, at: Positions) -> Counter:
        """Count the letters."""
        n, letters = at.length, at.alphabet.letters
        if (
            not self.letters
            or set(self.letters) - set(letters)
            or len(set(self.letters)) < len(self.letters)
        ):
            raise self._fail(f"the key is one or more different letters of {letters!r}.")
        if self.min is None and self.max is None:
            raise self._fail("write min, max or both.")
        for bound in (self.min, self.max):
            if bound is not None and not 0 <= bound <= 1:
                raise self._fail(
                    f"{bound:g} is not a fraction of the {n} letters. Write a number from 0 to 1; "
                    f"5 letters are {5 / n:.3g}."
                )
        least, most = self._counts(at)
        if self.min is not None and self.max is not None and self.min > self.max:
            raise self._fail(f"min {self.min} is above max {self.max}.")
        if least is not None and most is not None and least > most:
            raise self._fail(
                f"no whole number of the {n} letters lies between min {self.min} and max "
                f"{self.max}; {most} are {most / n:.3g}, {least} are {least / n:.3g}."
            )
        weight = np.array([[int(a in self.letters) for a in letters]] * n)
        return Counter(self.title, weight, least, most)

    def broken(self, sequence: str, at: Positions) -> list[str]:
        """Return a sentence for each end."""
        count, (least, most) = sum(a in self.letters for a in sequence), self._counts(at)
        part = f"{count} of {at.length} letters are {' or '.join(map(repr, self.letters))}"
        if most is not None and count > most:
            return [f"{part}, at most {most} ({self.max:g}) are allowed"]
        if least is not None and count < least:
            return [f"{part}, at least {least} ({self.min:g}) are required"]
        return []

    def cure(self, at: Positions, search: Search) -> str:
        """Say the feasible fraction."""
        total, n = search.nearest(), at.length
        end, bound, side = self.counter(at).end(total)
        # rounded so that what is printed does allow the total
        near = math.ceil(total / n * 1e4) if end == "max" else math.floor(total / n * 1e4)
        return (
            f"{self.title}: {end} allows {'at most' if end == 'max' else 'at least'} {bound} of "
            f"{n} letters, which the other constraints make impossible; the {side} feasible value "
            f"is {near / 1e4:g} ({total} letters)."
        )
