"""How ProteinMPNN counts residues: from 1 along each chain, gaps included.

It goes from the lowest author number to the highest, missing numbers included ("gaps", printed as
X) and insertion codes in alphabetical order.

One thing cannot be told from numbers: of modified residues written as HETATM ProteinMPNN counts
selenomethionine only, which shifts its indices if another one is the first residue of a chain.
"""

from __future__ import annotations

from seqalign.files.numbering import Numbering

__all__ = ["indices"]

_LONGEST = 100_000


def indices(numbering: Numbering) -> dict[str, list[int | None]]:
    """Return, per chain, our 1-based index at each of ProteinMPNN's; None where it has a gap."""
    homes: dict[str, dict[int, list[tuple[str, int]]]] = {}
    for i, (chain, text) in enumerate(zip(numbering.chains, numbering.numbers, strict=True), 1):
        code = text[-1] if text[-1].isalpha() else ""
        number = int(text.removesuffix(code) if code else text)
        homes.setdefault(chain, {}).setdefault(number, []).append((code, i))
    found: dict[str, list[int | None]] = {}
    for chain, numbers in homes.items():
        low, high = min(numbers), max(numbers)
        if high - low >= _LONGEST:
            raise ValueError(
                f"Chain {chain} is numbered from {low} to {high}: ProteinMPNN would count that "
                "many residues. Renumber it."
            )
        row: list[int | None] = []
        for number in range(low, high + 1):
            row += [i for _, i in sorted(numbers[number])] if number in numbers else [None]
        found[chain] = row
    return found
