"""Positions that take the same letter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from seqalign.space.constraint import Constraint, ConstraintError, Positions
from seqalign.space.homo_oligomer import twins

__all__ = ["Tie"]


@dataclass(frozen=True)
class Tie(Constraint, key="tie", rank=30, schema=list[list[str | int]], said=("Tie", "{residues}")):
    """A group of positions that takes one letter; it is revealed in one step."""

    residues: tuple[str | int, ...]

    @classmethod
    def example(cls, at: Positions) -> tuple[Any, str] | None:
        """Show the first residue of twin chains, or two positions."""
        if len(at.free) < 2:
            return None
        one, two = (at.free[len(at.free) * k // 4] for k in (1, 3))
        pair = list(twins(at).values()) or [one, two if two != one else at.free[-1]]
        return [[at.name(i) for i in pair]], "positions that take the same letter"

    def ties(self, at: Positions) -> Sequence[tuple[int, ...]]:
        """Return the group."""
        group = at.read(self.residues, self.key)
        if len(group) < 2:
            shown = ", ".join(at.name(i - 1) for i in group) or "nothing"
            raise ConstraintError(
                f"tie: a group of {shown} ties nothing; name two positions or more.", self.path
            )
        return (group,)
