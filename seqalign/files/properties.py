"""What the letters of a chain say before it is made: weight, pI, ε280, charge, liabilities.

Numbers are those of `Bio.SeqUtils.ProtParam`, of the letters as they stand: no tag, no start Met,
cysteines reduced. A chain with a letter that is not one of the twenty ("X") has no such numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from Bio.SeqUtils.IsoelectricPoint import IsoelectricPoint
from Bio.SeqUtils.ProtParam import ProteinAnalysis

from seqalign.core.sequence import PROTEIN

__all__ = ["NUMBERS", "Liability", "liabilities", "numbers"]

NUMBERS = ("mw", "pI", "eps280", "charge", "cysteines")
"""What `numbers` tells: Da; pH; 1/(M cm) at 280 nm, cysteines reduced; e at pH 7.4; a count."""

PH = 7.4
SAME = 5
GREASE = 6
"""Letters in a row that count as a homopolymer, and as a hydrophobic stretch (of FILMVWY)."""

_MOTIFS = {
    # the sequon; an unknown letter may be proline
    "N-glyc": f"N[{PROTEIN.letters.replace('P', '')}][ST]",
    # deamidation, isomerization, and cleavage by acid
    **{pair: pair for pair in ("NG", "DG", "DP")},
}
_RUNS = {
    **{f"poly-{a}": f"{a}{{{SAME},}}" for a in PROTEIN.letters},
    "hydrophobic": f"[FILMVWY]{{{GREASE},}}",
}
UNPAIRED = "unpaired-Cys"


def numbers(chains: Sequence[str]) -> dict[str, float | int | None]:
    """Return `NUMBERS` of several chains as one complex, one copy of each.

    Weights, absorption, charges and cysteines add; pI is where the charges of all add to zero,
    searched in 4.05..12. All are None where a letter is not known.

    References:
        Protein Identification and Analysis Tools on the ExPASy Server (Gasteiger et al., 2005),
        https://doi.org/10.1385/1-59259-890-0:571.
    """
    whole = "".join(chains)
    if not whole or not all(chains) or not set(whole) <= set(PROTEIN.letters):
        return dict.fromkeys(NUMBERS)
    # Biopython has no types
    analysis, point = cast(Any, ProteinAnalysis), cast(Any, IsoelectricPoint)
    found = [analysis(chain) for chain in chains]
    at = [point(p.sequence, p.count_amino_acids()) for p in found]

    def charge(ph: float) -> float:
        return float(sum(p.charge_at_pH(ph) for p in at))

    return {
        "mw": float(sum(p.molecular_weight() for p in found)),
        "pI": _zero(charge),
        "eps280": sum(p.molar_extinction_coefficient()[0] for p in found),
        "charge": charge(PH),
        "cysteines": whole.count("C"),
    }


def _zero(charge: Callable[[float], float]) -> float:
    """Return the pH at which a charge is zero, by the bisection of Biopython."""
    low, high = 4.05, 12.0
    point = 7.775
    while high - low > 1e-4:
        low, high = (point, high) if charge(point) > 0 else (low, point)
        point = (low + high) / 2
    return point


@dataclass(frozen=True)
class Liability:
    """A place that may cost a protein its quality.

    Attributes:
        kind: "N-glyc" (N-X-S/T, X no proline), "NG" (deamidation), "DG" (isomerization), "DP"
            (cleavage by acid), "poly-A" (five alike or more), "hydrophobic" (six of FILMVWY in a
            row or more), "unpaired-Cys" (an odd number of cysteines).
        start: 0-based position of its first letter; 0 where the whole chain is meant.
        size: in letters; 0 where the whole chain is meant.
    """

    kind: str
    start: int
    size: int

    def known(self, others: Sequence[Liability]) -> bool:
        """Return whether one of `others` is the same: equal, or of two runs, overlapping."""
        return any(
            self.kind == o.kind
            and (self.start == o.start or (self.kind in _RUNS and self._overlaps(o)))
            for o in others
        )

    def _overlaps(self, other: Liability) -> bool:
        return self.start < other.start + other.size and other.start < self.start + self.size

    def text(self, chain: str, numbers: Sequence[str]) -> str:
        """Return kind and place: "NG A12", "poly-K A5-A9", "unpaired-Cys A".

        Args:
            chain: its name.
            numbers: of its letters. One without a number, "", is told by the last that has one:
                "A9+2" is the second letter behind A9.
        """
        if not self.size:
            return f"{self.kind} {chain}".strip()
        ends = [_name(chain, numbers, self.start)]
        if self.kind in _RUNS:
            ends.append(_name(chain, numbers, self.start + self.size - 1))
        return f"{self.kind} {'-'.join(ends)}"


def _name(chain: str, numbers: Sequence[str], i: int) -> str:
    # digits behind digits would be read as one number
    chain += ":" * (chain != "" and not chain.isalpha())
    last = next((j for j in range(i, -1, -1) if numbers[j]), -1)
    return f"{chain}{numbers[last] if last >= 0 else ''}{f'+{i - last}' if i > last else ''}"


def liabilities(chain: str) -> list[Liability]:
    """Return the liabilities of a chain by their place; a letter that is not known makes none.

    References:
        Statistical analysis of the protein environment of N-glycosylation sites: implications for
        occupancy, structure, and folding (Petrescu et al., 2004),
        https://doi.org/10.1093/glycob/cwh008.
        Prediction of protein deamidation rates from primary and three-dimensional structure
        (Robinson and Robinson, 2001), https://doi.org/10.1073/pnas.071066498.
    """
    # motifs may overlap, runs cannot
    found = [
        Liability(kind, match.start(), len(match[1]))
        for kind, pattern in _MOTIFS.items()
        for match in re.finditer(f"(?=({pattern}))", chain)
    ]
    found += [
        Liability(kind, match.start(), len(match[0]))
        for kind, pattern in _RUNS.items()
        for match in re.finditer(pattern, chain)
    ]
    if chain.count("C") % 2 and set(chain) <= set(PROTEIN.letters):
        found.append(Liability(UNPAIRED, 0, 0))
    return sorted(found, key=lambda x: (x.size == 0, x.start, x.kind))
