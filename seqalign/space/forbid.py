"""A pattern that matches nowhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from seqalign.space.automaton import Automaton
from seqalign.space.constraint import Constraint, ConstraintError, Positions, Search
from seqalign.space.pattern import pattern

__all__ = ["Forbid"]


@dataclass(frozen=True)
class Forbid(
    Constraint, key="forbid", rank=90, schema=list[str], said=("No match of", "{pattern}")
):
    """A regular expression that matches nowhere within a chain (see `seqalign.space.pattern`).

    A match of fixed letters alone is not judged: no design could be without it.
    """

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
            asked = pattern(self.pattern, at.alphabet.letters)
            # almost always no fixed letters match, and then free and fixed ones are alike
            return asked.touching if self._inside(at) else asked.refusing
        except ValueError as error:
            raise ConstraintError(str(error), self.path) from error

    def _inside(self, at: Positions) -> bool:
        """Whether some fixed letters match."""
        asked, free = pattern(self.pattern, at.alphabet.letters), set(at.free)
        fixed = [
            None if i in free else at.alphabet.letters.index(a) for i, a in enumerate(at.fixed)
        ]
        return any(asked.inside([fixed[i] for i in chain]) for chain in at.chains)

    def broken(self, sequence: str, at: Positions) -> list[str]:
        """Return a sentence for each match that holds a free letter."""
        tokens, asked = at.tokens(sequence), pattern(self.pattern, at.alphabet.letters)
        free, said = set(at.free), []
        for chain in at.chains:
            here = [tokens[i] for i in chain]
            if asked.refusing.refused(here) is None:
                continue
            for start, end in asked.matches(here, [i in free for i in chain]):
                first, after = chain[start], chain[end - 1] + 1
                said.append(
                    f"{at.span(first, after)} is {sequence[first:after]!r}, which matches the "
                    f"forbidden {self.pattern!r}"
                )
        return said

    def cure(self, at: Positions, search: Search) -> str:
        """Name the residues that match whatever is designed."""
        where = self._unavoidable(at, search.allowed)
        if where is None:
            return super().cure(at, search)
        letters = ", ".join(search.allowed[i] for i in where[:8]) + ", ..." * (len(where) > 8)
        return (
            f"{self.title}: {at.span(where[0], where[-1] + 1)} match it whatever is designed, with "
            f"the letters {letters} allowed there. Allow others, free more residues, or leave the "
            f"pattern out."
        )

    def _unavoidable(self, at: Positions, allowed: tuple[str, ...]) -> range | None:
        """Return the fewest residues in a row whose letters all complete a match, or None."""
        automaton, letters = self.automaton(at), at.alphabet.letters
        free, v = set(at.free), len(letters)

        def refused(chain: range, start: int) -> int | None:
            """Return where nothing is left, if all letters may stand before the start."""
            states = {0}
            for i in chain:
                shift = v if automaton.kept and i >= start and i not in free else 0
                some = letters if i < start else allowed[i]
                columns = [letters.index(a) + shift for a in some]
                states = {automaton.step[d][a] for d in states for a in columns} - {-1}
                if i == chain[-1]:
                    states = {d for d in states if automaton.ends[d]}
                if not states:
                    return i
            return None

        for chain in at.chains:
            last = refused(chain, chain[0])
            if last is not None:
                starts = range(last, chain[0] - 1, -1)
                first = next(s for s in starts if refused(chain, s) == last)
                return range(first, last + 1)
        return None
