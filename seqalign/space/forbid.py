"""A pattern that matches nowhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from seqalign.space.automaton import Automaton
from seqalign.space.constraint import Constraint, ConstraintError, Positions
from seqalign.space.pattern import forbidding, pattern

__all__ = ["Forbid"]


@dataclass(frozen=True)
class Forbid(
    Constraint, key="forbid", rank=90, schema=list[str], said=("No match of", "{pattern}")
):
    """A regular expression that matches nowhere within a chain (see `seqalign.space.pattern`)."""

    pattern: str

    @classmethod
    def example(cls, at: Positions) -> tuple[Any, str]:
        """Show a motif that cells modify."""
        return ["N[^P][ST]"], "regular expressions; this one is N-glycosylation"

    @property
    def title(self) -> str:
        """Name the pattern, too."""
        return f"forbid {self.pattern!r}"

    def automaton(self, at: Positions) -> Automaton:
        """Read what the pattern has seen."""
        try:
            return forbidding(self.pattern, at.alphabet.letters)
        except ValueError as error:
            raise ConstraintError(str(error), self.path) from error

    def broken(self, sequence: str, at: Positions) -> list[str]:
        """Return a sentence for each match."""
        tokens, asked = at.tokens(sequence), pattern(self.pattern, at.alphabet.letters)
        said = []
        for chain in at.chains:
            here = [tokens[i] for i in chain]
            if asked.refusing.refused(here) is None:
                continue
            for start, end in asked.matches(here):
                first, after = chain[start], chain[end - 1] + 1
                said.append(
                    f"{at.span(first, after)} is {sequence[first:after]!r}, which matches the "
                    f"forbidden {self.pattern!r}"
                )
        return said
