"""Whether a design can be ordered as it is, and what to look at before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

# residues: below, a peptide is made rather than a gene; above, a gene is more than 1,800 bases
SHORT, LONG = 30, 600


@dataclass(frozen=True)
class Flag:
    """Something to look at before ordering; `stops` what cannot be ordered at all."""

    word: str
    text: str
    stops: bool = False


def flags(chains: Mapping[str, str]) -> Iterator[Flag]:
    """Yield what stands in the way of ordering the chains of a design, by name."""
    for name, letters in chains.items():
        chain = f"chain {name}: " if len(chains) > 1 else ""
        if unknown := letters.count("X"):
            at = letters.index("X") + 1
            text = f"{chain}{unknown} unknown letter{'s' * (unknown > 1)} X, the first at {at}"
            yield Flag("X", f"{text}: nothing can be ordered", True)
        if (n := letters.count("C")) % 2:
            yield Flag("odd cysteines", f"{chain}{n} cysteine{'s' * (n > 1)}: one has no partner")
        if len(letters) < SHORT:
            yield Flag("short", f"{chain}{len(letters)} residues: rather a peptide than a gene")
        if len(letters) > LONG:
            text = f"{chain}{len(letters)} residues: a gene of {3 * len(letters):,} bases and more"
            yield Flag("long", text)
