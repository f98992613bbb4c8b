"""Constraints on all that is ordered: letters that are no position of the model count, too.

A sampler's space is that of its positions, the residues with a whole backbone. What is ordered can
have more letters (`seqalign.files.orderable`), and a pattern may match across them, a count include
them: designs are judged once more as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass

from seqalign.files.numbering import Numbering
from seqalign.files.orderable import Orderable
from seqalign.space.constraint import ConstraintError
from seqalign.space.space import DesignSpace

__all__ = ["Whole"]

# what residues without atoms are numbered from: no file goes as far
_UNNUMBERED = 900_000


@dataclass(frozen=True)
class Whole:
    """A design space with the letters beside its positions.

    Attributes:
        space: of all letters; what is beside the positions is fixed.
        places: per letter of it a 0-based position of the model, or a letter.
    """

    space: DesignSpace
    places: tuple[int | str, ...]

    @classmethod
    def of(cls, space: DesignSpace, chains: Orderable) -> Whole | None:
        """Return the space of all letters; None where there are no others, or nothing counts them.

        Args:
            space: of the positions.
            chains: how designs are ordered, each copy of a chain apart.

        Raises:
            ConstraintError: no design obeys a constraint with the other letters counted.
        """
        at = space.at
        judged = tuple(
            c for c in space.constraints if c.counter(at) is not None or c.automaton(at) is not None
        )
        places: list[int | str] = []
        names: list[tuple[str, str]] = []
        for record in chains.records:
            for place, number in zip(record.places, record.numbers, strict=True):
                if isinstance(place, int):
                    name = (at.named.chains[place], at.named.numbers[place])
                elif place == "X":
                    # nobody knows what stands there
                    continue
                else:
                    name = (record.chains[0], number or str(_UNNUMBERED + len(places)))
                places.append(place)
                names.append(name)
        if not judged or not any(isinstance(p, str) for p in places):
            return None
        for i in sorted(set(range(space.length)) - set(places)):
            places.append(i)
            names.append((at.named.chains[i], at.named.numbers[i]))
        found = tuple(places)
        own, numbers = (tuple(column) for column in zip(*names, strict=True))
        wild = None if space.wild_type is None else _spelled(found, space.wild_type)
        try:
            whole = DesignSpace(
                space.alphabet,
                len(found),
                judged,
                _spelled(found, space.fixed),
                wild,
                Numbering(own, numbers),
            )
        except ConstraintError as error:
            said = f"with the letters that have no whole backbone, {error}"
            raise ConstraintError(said, error.path) from error
        return cls(whole, found)

    def violations(self, sequence: str) -> list[str]:
        """Return one sentence per constraint that a design breaks as a whole."""
        found = self.space.violations(_spelled(self.places, sequence))
        return [f"with the letters that have no whole backbone, {said}" for said in found]


def _spelled(places: tuple[int | str, ...], positions: str) -> str:
    return "".join(positions[p] if isinstance(p, int) else p for p in places)
