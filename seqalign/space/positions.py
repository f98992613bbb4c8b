"""The positions that constraints speak of: their letters, names, wild type and what is fixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

from seqalign.core.sequence import Alphabet
from seqalign.files.numbering import Numbering, ResidueError

__all__ = ["ConstraintError", "Positions"]


class ConstraintError(ValueError):
    """What was asked cannot be; `path` says where: the key of a constraint, and keys below it."""

    def __init__(self, message: str, path: Sequence[str | int] = ()) -> None:
        super().__init__(message)
        self.path = tuple(path)


@dataclass(frozen=True)
class Positions:
    """L positions before any constraint.

    Attributes:
        alphabet: the letters.
        length: how many there are, L.
        wild_type: L letters, if there is one.
        fixed: L characters, a letter where it is fixed and the mask symbol where it is free; "" is
            all free.
        numbering: names of the positions; None counts from 1.

    Raises:
        ConstraintError: the lengths differ, or a letter is not in the alphabet.
    """

    alphabet: Alphabet
    length: int
    wild_type: str | None = None
    fixed: str = ""
    numbering: Numbering | None = None

    def __post_init__(self) -> None:
        if self.numbering is not None and len(self.numbering) != self.length:
            raise ConstraintError(
                f"numbering names {len(self.numbering)} positions, the model designs "
                f"{self.length}; they must agree."
            )
        if not self.fixed:
            object.__setattr__(self, "fixed", self.alphabet.mask_symbol * self.length)
        letters, mask = self.alphabet.letters, self.alphabet.mask_symbol
        for name, text, path in (
            ("wild_type", self.wild_type, "wild_type"),
            ("fixed", self.fixed, "fix"),
        ):
            if text is None:
                continue
            if len(text) != self.length:
                raise ConstraintError(
                    f"{name} has {len(text)} letters, the model designs {self.length}.", (path,)
                )
            for i, letter in enumerate(text):
                if letter not in letters and (name, letter) != ("fixed", mask):
                    raise ConstraintError(
                        f"{name} position {self.name(i)} is {letter!r}, not one of {letters!r}.",
                        (path,),
                    )

    @cached_property
    def named(self) -> Numbering:
        """The names of the positions."""
        return Numbering.plain(self.length) if self.numbering is None else self.numbering

    def name(self, i: int) -> str:
        """Return what the position with the 0-based index i is called."""
        return self.named.name(i + 1)

    def span(self, start: int, stop: int) -> str:
        """Return what the 0-based indices from start to before stop are called."""
        first, last = self.name(start), self.name(stop - 1)
        return first if stop - start == 1 else f"{first} to {last}"

    @cached_property
    def chains(self) -> tuple[range, ...]:
        """The 0-based indices of each chain, in order."""
        runs = groupby(range(self.length), lambda i: self.named.chains[i])
        return tuple(range(some[0], some[-1] + 1) for some in (list(run) for _, run in runs))

    @cached_property
    def free(self) -> tuple[int, ...]:
        """The 0-based indices of what is not fixed."""
        mask = self.alphabet.mask_symbol
        return tuple(i for i, letter in enumerate(self.fixed) if letter == mask)

    def tokens(self, sequence: str) -> list[int]:
        """Return the letters of a sequence as numbers."""
        return [self.alphabet.letters.index(letter) for letter in sequence]

    def read(self, expression: Any, *path: str, absent: bool = False) -> tuple[int, ...]:
        """Return the 1-based indices an expression such as "A1-5, not A3" names, sorted.

        With `absent`, it may name residues of the structure that are no positions.

        Raises:
            ConstraintError: it cannot be read, or names what is not there; at `path`.
        """
        try:
            return self.named.positions(expression, path[0], absent)
        except ResidueError as error:
            raise ConstraintError(str(error), path) from error

    def letters(self, text: str, *path: str) -> set[str]:
        """Return the letters of a text.

        Raises:
            ConstraintError: one is not in the alphabet; at `path`.
        """
        for a in text:
            if a not in self.alphabet.letters:
                below = f" at {path[1]!r}" if len(path) > 1 else ""
                raise ConstraintError(
                    f"{path[0]}: {a!r}{below} is not one of {self.alphabet.letters!r}.", path
                )
        return set(text)

    def fixing(
        self,
        fix: str | Sequence[int | str] | Mapping[Any, str] = "",
        design: str | Sequence[int | str] | None = None,
    ) -> str:
        """Return `fixed` as a user says it.

        Positions of `fix` keep the wild type, or take the letter of a mapping position → letter,
        which wins over all else; positions outside `design` keep the wild type too.

        Raises:
            ConstraintError: an expression cannot be read, or there is no wild type to keep.
        """
        everywhere = range(1, self.length + 1)
        wanted = set(everywhere if design is None else self.read(design, "design"))
        given = fix if isinstance(fix, Mapping) else {}
        # what has no whole backbone is fixed anyhow
        kept = set() if isinstance(fix, Mapping) else set(self.read(fix, "fix", absent=True))
        letters: dict[int, str] = {}
        for where, a in given.items():
            letters |= dict.fromkeys(self.read(str(where), "fix"), a)
        for i, a in sorted(letters.items()):
            if len(a) != 1:
                raise ConstraintError(
                    f"fix: position {self.name(i - 1)} is {a!r}; give one letter.", ("fix",)
                )
        kept |= set(everywhere) - wanted - set(letters)
        if kept and self.wild_type is None:
            raise ConstraintError(
                f"Positions {[self.name(i - 1) for i in sorted(kept)[:5]]} are fixed to the wild "
                f"type, but no wild_type was given.",
                ("design" if design is not None else "fix",),
            )
        wild, free = self.wild_type or "", self.alphabet.mask_symbol
        return "".join(letters.get(i, wild[i - 1] if i in kept else free) for i in everywhere)
