"""What a hard constraint is: what it means to the look-ahead, to a sequence and to a reader.

A constraint is one frozen dataclass in one file, found through the entry point group
`seqalign.constraints` under the key by which a campaign, `load_model` and `DesignSpace.build` name
it. It says what may stand where in one of three ways: flags, a counter or an automaton. The
look-ahead, the search for a first sequence, the sentence about a broken one and its cure follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self, cast

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


@dataclass(frozen=True)
class Search:
    """What a constraint may ask where it alone leaves no sequence.

    Attributes:
        allowed: L strings, the letters of each position.
        nearest: returns the count of the sequence that misses its bounds by least.
        admits: whether there is a sequence with another constraint in its place.
    """

    allowed: tuple[str, ...]
    nearest: Callable[[], int]
    admits: Callable[[Constraint], bool]


class Constraint:
    """A hard constraint: subclass it with a frozen, hashable dataclass and override what applies.

    Attributes:
        key: its name in YAML and in Python.
        rank: where it stands in lists, first by rank and then by key. Counters are looked ahead in
            this order, so that a result never depends on the order in which a user writes.
        schema: the type of its value in YAML, as pydantic reads it; None is a mapping of its
            fields. A list means one constraint for each item, another mapping one for each entry.
        said: what is asked, for reports: a word or two, and the rest; {fields} in braces.
    """

    key: ClassVar[str]
    rank: ClassVar[int]
    schema: ClassVar[Any]
    said: ClassVar[tuple[str, str] | None]

    def __init_subclass__(
        cls, *, key: str, rank: int = 100, schema: Any = None, said: tuple[str, str] | None = None
    ) -> None:
        cls.key, cls.rank, cls.schema, cls.said = key, rank, schema, said

    # what is written ------------------------------------------------------------------------------

    @classmethod
    def of(cls, value: Any) -> tuple[Self, ...]:
        """Return the constraints that a value means; it fits the schema."""
        make = cast(Any, cls)
        if cls.schema is None:
            return (make(**_frozen(value)),)
        if isinstance(value, dict):
            return tuple(make(key, **_frozen(some)) for key, some in value.items())
        return tuple(map(make, _frozen(value) if isinstance(value, list) else [value]))

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
        values = {f.name: getattr(self, f.name) for f in fields(cast(Any, self))}
        given = {k: ", ".join(map(str, v)) if type(v) is tuple else v for k, v in values.items()}
        if self.said is not None:
            return self.said[0].format_map(given), self.said[1].format_map(given)
        text = ", ".join(f"{name} {value}" for name, value in given.items() if value is not None)
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

    def logits(self, at: Positions) -> Tensor | None:
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
                rule = ("at most", "allowed") if end == "max" else ("at least", "required")
                said.append(f"{self.title} is {total}, {rule[0]} {bound} is {rule[1]}")
        if automaton is not None and automaton.kept:
            free, v = set(at.free), len(at.alphabet)
            tokens = [a if i in free else v + a for i, a in enumerate(tokens)]
        for chain in at.chains:
            place = automaton.refused([tokens[i] for i in chain]) if automaton else None
            if place is not None:
                said.append(f"{self.title} is broken at {at.name(chain[place])}")
        return said

    def cure(self, at: Positions, search: Search) -> str:
        """Say to what it would have to give way; without it there is a sequence."""
        counter = self.counter(at)
        if counter is None:
            why = "the other constraints make it impossible. Leave it out or loosen them."
            return f"{self.title}: {why}"
        total = search.nearest()
        end, bound, side = counter.end(total)
        return (
            f"{self.title} {end} is {bound}, which the other constraints make impossible; the "
            f"{side} feasible value is {total}."
        )


def _frozen(value: Any) -> Any:
    """Return the values of a list or mapping with lists and mappings as tuples."""
    if isinstance(value, dict):
        return dict(zip(value, _frozen(list(value.values())), strict=True))
    some = [list(v.items()) if isinstance(v, dict) else v for v in value]
    return [tuple(v) if isinstance(v, list) else v for v in some]
