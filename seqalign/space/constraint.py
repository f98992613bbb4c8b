"""What a hard constraint is: what it means to the look-ahead, to a sequence and to a reader.

A constraint is one frozen dataclass in one file, found through the entry point group
`seqalign.constraints` under the key by which a campaign, `load_model` and `DesignSpace.build` name
it. It says what may stand where in one of three ways: flags, a counter or an automaton. The
look-ahead, the search for a first sequence, the sentence about a broken one and its cure follow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar, Protocol, Self, cast

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from seqalign.space.automaton import Automaton
from seqalign.space.counter import Counter, Flags
from seqalign.space.positions import ConstraintError, Positions

__all__ = ["Constraint", "ConstraintError", "Positions", "Row", "Schema", "Search"]

# number of letters by (position, token), and the largest allowed sum of those that stand there
Row = tuple[Mapping[tuple[int, int], int], int]


class Schema(BaseModel):
    """A mapping as a campaign writes it: no other key, nothing converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Search(Protocol):
    """What a constraint may ask where it alone leaves no sequence."""

    @property
    def allowed(self) -> tuple[str, ...]:
        """L strings, the letters of each position."""
        ...

    def nearest(self) -> int:
        """Return the count of the sequence that misses the constraint by least."""
        ...

    def admits(self, other: Constraint) -> bool:
        """Return whether there is a sequence with another constraint in its place."""
        ...


class Constraint:
    """A hard constraint: subclass it with a frozen, hashable dataclass and override what applies.

    Attributes:
        key: its name in YAML and in Python.
        rank: where it stands in lists, first by rank and then by key. Counters are looked ahead in
            this order, so that a result never depends on the order in which a user writes.
        schema: the type of its value in YAML, as pydantic reads it; None is a mapping of its
            fields.
    """

    key: ClassVar[str]
    rank: ClassVar[int] = 100
    schema: ClassVar[Any] = None

    # what is written ------------------------------------------------------------------------------

    @classmethod
    def of(cls, value: Any) -> tuple[Self, ...]:
        """Return the constraints that a value means; it fits the schema."""
        make = cast(Any, cls)
        if cls.schema is not None:
            return (make(value),)
        return (make(**{k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}),)

    @classmethod
    def example(cls, at: Positions) -> tuple[Any, str] | None:
        """Return a value that fits a protein, and a comment; None where there is none."""
        return None

    @property
    def path(self) -> tuple[str, ...]:
        """Where it is written: its key, and keys below."""
        return (self.key,)

    @property
    def title(self) -> str:
        """What messages call it."""
        return self.key

    def words(self) -> tuple[str, str]:
        """Return what is asked, for reports: a word or two, and the rest."""
        given = ((f.name, getattr(self, f.name)) for f in fields(cast(Any, self)))
        text = ", ".join(f"{name} {value}" for name, value in given if value is not None)
        return self.key.replace("_", " ").capitalize(), text

    # what it means --------------------------------------------------------------------------------

    def flags(self, at: Positions) -> Flags | None:
        """Return which letters may stand where, (L, V); fixed positions are not asked."""
        return None

    def counter(self, at: Positions) -> Counter | None:
        """Return a weighted count of all L letters with its bounds, weights (L, V)."""
        return None

    def automaton(self, at: Positions) -> Automaton | None:
        """Return what reads every chain from left to right and must accept it."""
        return None

    def rows(self, at: Positions) -> Iterator[Row] | None:
        """Return inequalities that say what the automaton does, where they are few."""
        return None

    def ties(self, at: Positions) -> Sequence[tuple[int, ...]]:
        """Return groups of 1-based positions that take one letter."""
        return ()

    def bias(self, at: Positions) -> Tensor | None:
        """Return what is added to the logits, (L, V) in nats: no constraint, p_pre changes."""
        return None

    # what is said ---------------------------------------------------------------------------------

    def broken(self, sequence: str, at: Positions) -> list[str]:
        """Return a sentence for each place or count of L letters that breaks it."""
        said, tokens = [], at.tokens(sequence)
        counter, automaton = self.counter(at), self.automaton(at)
        if counter is not None:
            total = counter.total(tokens)
            if counter.misses(total):
                end, bound, _ = counter.end(total)
                most = "at most" if end == "max" else "at least"
                said.append(f"{self.title} is {total}, {most} {bound} is allowed")
        for chain in at.chains if automaton is not None else ():
            place = cast(Automaton, automaton).refused([tokens[i] for i in chain])
            if place is not None:
                said.append(f"{self.title} is broken at {at.name(chain[place])}")
        return said

    def cure(self, at: Positions, search: Search) -> str:
        """Say to what it would have to give way; without it there is a sequence."""
        counter = self.counter(at)
        if counter is None:
            return f"{self.title} excludes what the other constraints allow. Loosen it or them."
        total = search.nearest()
        end, bound, side = counter.end(total)
        return (
            f"{self.title} {end} is {bound}, which the other constraints make impossible; the "
            f"{side} feasible value is {total}."
        )
