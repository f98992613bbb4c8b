"""Whether a design can be ordered as it is, and what to look at before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

# residues: below, a peptide is made rather than a gene; above, a gene is more than 1,800 bases
SHORT: Final = 30
LONG: Final = 600

# what keeps a chain from being made or folded well is looked at; the rest is good to know
_LOOK = ("unpaired-Cys", "poly-", "hydrophobic")
_MEANS = {
    "N-glyc": "may be glycosylated outside bacteria",
    "NG": "may deamidate",
    "DG": "may isomerize",
    "DP": "breaks in acid",
    "unpaired-Cys": "one cysteine has no partner",
    "hydrophobic": "six hydrophobic letters in a row or more",
}


@dataclass(frozen=True)
class Flag:
    """Something to know before ordering.

    Attributes:
        word: what it is, in a word.
        text: the same in a sentence.
        level: "stop" where nothing can be ordered, "look" before ordering, or "know".
    """

    word: str
    text: str
    level: Literal["stop", "look", "know"]


def flags(chains: Mapping[str, str], row: Mapping[str, str]) -> Iterator[Flag]:
    """Yield what there is to know of a design: its chains by name, and its row of designs.csv."""
    for name, letters in chains.items():
        chain = f"chain {name}: " if len(chains) > 1 else ""
        if unknown := letters.count("X"):
            at = letters.index("X") + 1
            text = f"{chain}{unknown} unknown letter{'s' * (unknown > 1)} X, the first at {at}"
            yield Flag("X", f"{text}: it cannot be ordered", "stop")
        # of proteins only
        if "liabilities" in row and len(letters) < SHORT:
            text = f"{chain}{len(letters)} residues: rather a peptide than a gene"
            yield Flag("short", text, "look")
        if "liabilities" in row and len(letters) > LONG:
            text = f"{chain}{len(letters)} residues: a gene of {3 * len(letters):,} bases and more"
            yield Flag("long", text, "look")
    found: dict[str, list[str]] = {}
    for item in filter(None, (row.get("liabilities") or "").split("; ")):
        # what the wild type has as well is no news
        if "new_liabilities" not in row or item.endswith(" (new)"):
            kind, _, place = item.removesuffix(" (new)").partition(" ")
            found.setdefault(kind, []).append(place)
    new = "new " if "new_liabilities" in row else ""
    for kind, places in found.items():
        means = _MEANS.get(kind, "five equal letters or more")
        where = ", ".join(filter(None, places))
        text = f"{new}{kind}{f' at {where}' if where else ''}: {means}"
        yield Flag(kind, text, "look" if kind.startswith(_LOOK) else "know")
