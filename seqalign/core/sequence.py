"""Alphabets: letters to tokens and back; names of positions. Nothing here knows of diffusion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["DNA", "PROTEIN", "RNA", "Alphabet", "Names"]


class Names(Protocol):
    """What the L positions of a sequence are called."""

    @property
    def chains(self) -> tuple[str, ...]:
        """L chain names; "" for a chain without one."""

    @property
    def numbers(self) -> tuple[str, ...]:
        """L numbers within their chains, as text."""

    def __len__(self) -> int:
        """Count the positions (L)."""

    def name(self, index: int) -> str:
        """Return the name of the position with this 1-based index."""


@dataclass(frozen=True)
class Alphabet:
    """An ordered set of one-character letters; token i is `letters[i]`, token V means "masked".

    `len(alphabet)` is V, the number of letters. The mask is printed as `mask_symbol` and is never a
    letter.
    """

    letters: str
    mask_symbol: str = "_"

    def __post_init__(self) -> None:
        if not self.letters or len(set(self.letters)) != len(self.letters):
            raise ValueError(
                f"Alphabet letters must be distinct and not empty, got {self.letters!r}."
            )
        if self.mask_symbol in self.letters:
            raise ValueError(
                f"The mask symbol {self.mask_symbol!r} is also a letter of {self.letters!r}."
            )

    def __len__(self) -> int:
        return len(self.letters)

    @property
    def mask(self) -> int:
        """The token of a masked position, V."""
        return len(self.letters)

    def encode(self, sequences: Sequence[str]) -> Tensor:
        """Return tokens (n, L), int64, of n sequences of one length; the mask becomes token V."""
        lookup = {letter: i for i, letter in enumerate(self.letters + self.mask_symbol)}
        lengths = {len(s) for s in sequences}
        if len(lengths) > 1:
            raise ValueError(
                f"Sequences must have one length to share a batch, got lengths {sorted(lengths)}."
            )
        for n, sequence in enumerate(sequences):
            for i, letter in enumerate(sequence):
                if letter not in lookup:
                    raise ValueError(
                        f"Sequence {n + 1}, position {i + 1}: {letter!r} is not one of "
                        f"{self.letters!r}. Replace it by one of these letters."
                    )
        rows = [[lookup[letter] for letter in s] for s in sequences]
        return torch.tensor(rows, dtype=torch.int64).reshape(
            len(sequences), max(lengths, default=0)
        )

    def decode(self, tokens: Tensor) -> list[str]:
        """Return n strings from tokens (n, L); token V is printed as the mask symbol."""
        symbols = self.letters + self.mask_symbol
        return ["".join(symbols[i] for i in row) for row in tokens.tolist()]


PROTEIN = Alphabet("ACDEFGHIKLMNPQRSTVWY")
DNA = Alphabet("ACGT")
RNA = Alphabet("ACGU")
