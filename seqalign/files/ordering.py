"""What is read of a design before it is ordered: columns of its chains, beside its rewards.

Of several chains every number is of all of them together, one copy of each (weights, absorption,
charges and cysteines add, pI is that of the sum), and `pI_A` is of chain A alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from seqalign.core.sequence import DNA, PROTEIN, RNA
from seqalign.files.orderable import Orderable
from seqalign.files.properties import NUMBERS, Liability, liabilities, numbers

TEXT = re.compile(r"liabilities|sequence_.+")
WHOLE = re.compile(r"(length|eps280|cysteines)(_.+)?|n_liabilities|new_liabilities")
NUMBER = re.compile(f"{WHOLE.pattern}|({'|'.join((*NUMBERS, 'gc'))})(_.+)?")
"""Names of columns of text, of whole numbers, and of numbers."""

_DIGITS = {"mw": 1, "pI": 2, "charge": 2, "gc": 4}


@dataclass(frozen=True)
class Ordering:
    """The columns of one campaign's designs.

    Attributes:
        chains: how designs are printed.
        letters: of the alphabet.
        wild_type: the letters of all positions; None without one.
    """

    chains: Orderable
    letters: str
    wild_type: str | None

    @property
    def numbers(self) -> tuple[str, ...]:
        """What is counted of a chain, and of all: proteins, DNA and RNA, other letters."""
        if set(PROTEIN.letters) <= set(self.letters):
            return ("length", *NUMBERS)
        nucleic = any(set(self.letters) == set(some.letters) for some in (DNA, RNA))
        return ("length", "gc") if nucleic else ("length",)

    @property
    def sequences(self) -> list[str]:
        """Columns of the chains, where there are several."""
        return [f"sequence_{label}" for label in self._several]

    @property
    def whole(self) -> list[str]:
        """Columns of all chains together."""
        found = [*self.numbers]
        if "mw" in found:
            found += ["liabilities", "n_liabilities"]
            found += ["new_liabilities"] if self.wild_type is not None else []
        return found

    @property
    def each(self) -> list[str]:
        """Columns of one chain alone, where there are several."""
        return [f"{name}_{label}" for label in self._several for name in self.numbers]

    @property
    def _several(self) -> list[str]:
        return self.chains.labels if len(self.chains.records) > 1 else []

    def row(self, sequence: str) -> dict[str, Any]:
        """Return the columns of a design from its chains joined by "/"; None is not known."""
        parts = list(self.chains.split(sequence).values())
        row: dict[str, Any] = dict(zip(self.sequences, parts, strict=False))
        row |= self._count(parts)
        if "mw" in row:
            found = [liabilities(part) for part in parts]
            row["liabilities"] = "; ".join(self._told(found))
            row["n_liabilities"] = sum(map(len, found))
            if self.wild_type is not None:
                row["new_liabilities"] = sum(map(len, self._new(found)))
        for label, part in zip(self._several, parts, strict=False):
            row |= {f"{name}_{label}": value for name, value in self._count([part]).items()}
        return row

    def _count(self, parts: list[str]) -> dict[str, Any]:
        """Return the numbers of some chains."""
        whole = "".join(parts)
        found: dict[str, Any] = {"length": len(whole)}
        if "gc" in self.numbers:
            known = set(whole) <= set(self.letters)
            found["gc"] = sum(map(whole.count, "GC")) / len(whole) if known and whole else None
        elif "mw" in self.numbers:
            found |= numbers(parts)
        return {
            k: round(v, _DIGITS[k]) if k in _DIGITS and v is not None else v
            for k, v in found.items()
        }

    @cached_property
    def _wild(self) -> list[list[Liability]]:
        """The liabilities of the wild type, by chain."""
        assert self.wild_type is not None
        return [liabilities(part) for part in self.chains.chains(self.wild_type).values()]

    def _new(self, found: list[list[Liability]]) -> list[list[Liability]]:
        """Return what the wild type does not have."""
        pairs = zip(found, self._wild, strict=True)
        return [[x for x in some if not x.known(wild)] for some, wild in pairs]

    def _told(self, found: list[list[Liability]]) -> list[str]:
        """Return liabilities in words; those that the wild type does not have are marked."""
        new = [[] for _ in found] if self.wild_type is None else self._new(found)
        return [
            f"{x.text(record.chains[0], record.numbers)}{' (new)' * (x in fresh)}"
            for record, some, fresh in zip(self.chains.records, found, new, strict=True)
            for x in some
        ]

    def lacks(self, column: str) -> str | None:
        """Return why a column has no value in any design, in words; None if it has."""
        name, _, label = column.partition("_")
        if name not in (*NUMBERS, "gc") or column not in (*self.whole, *self.each):
            return None
        odd = [
            where
            for record, own in zip(self.chains.records, self.chains.labels, strict=True)
            if label in ("", own)
            for where in record.unknown()
        ]
        return f"not every letter is known ({'; '.join(odd)})" if odd else None
