"""The designs residue by residue: how often each is mutated, how buried, what goes with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from seqalign.campaign.report.parts import Run, column
from seqalign.campaign.report.words import signed
from seqalign.files.logo import Track

# designs with and without a mutation that a difference needs on either side
ENOUGH: Final = 5


@dataclass(frozen=True)
class Residue:
    """One position of the model.

    Attributes:
        name: as the campaign numbers it.
        wild: its letter in the wild type.
        free: whether it might change.
        mutated: share of the designs with another letter, 0 to 1.
        letters: the commonest of these, with their shares: "K 60 %, R 12 %".
        neighbors: CB atoms within 10 Å; None without a structure.
        gain: mean sum of the guides of designs mutated here, less that of designs that are not.
            They differ elsewhere too: it goes with a mutation and is no effect of it. None where
            fewer than five designs are on one side.
    """

    name: str
    wild: str
    free: bool
    mutated: float
    letters: str
    neighbors: int | None
    gain: float | None


def profile(run: Run, chosen: Sequence[str], free: Sequence[bool], wild: str) -> list[Residue]:
    """Return the residues of a run; `chosen` are the letters of the designs it speaks of."""
    names, backbone = run.config["resolved"]["residues"], run.summary.backbone
    gains = _gains(run, wild)
    found = []
    for i, letter in enumerate(wild):
        counts = Counter(s[i] for s in chosen)
        others = [(a, n) for a, n in counts.most_common() if a != letter]
        found.append(
            Residue(
                names[i],
                letter,
                free[i],
                1 - counts[letter] / max(len(chosen), 1),
                ", ".join(f"{a} {100 * n / len(chosen):.0f} %" for a, n in others[:3]),
                None if backbone is None else backbone.neighbors[i],
                gains[i],
            )
        )
    return found


def _gains(run: Run, wild: str) -> list[float | None]:
    """Return per position what designs with a mutation have more than those without."""
    rows: list[Mapping[str, Any]] = [*run.aligned, *run.plain]
    totals = column(rows, "total")
    there = np.isfinite(totals)
    if not there.any():
        return [None] * len(wild)
    letters = np.array([list(s) for s in run.letters(rows)])[there]
    mutated, totals = letters != np.array(list(wild)), totals[there]
    return [
        float(totals[here].mean() - totals[~here].mean())
        if min(here.sum(), (~here).sum()) >= ENOUGH
        else None
        for here in mutated.T
    ]


def most_mutated(residues: Sequence[Residue], n: int = 12) -> list[Residue]:
    """Return the residues that most designs change, the most changed first."""
    changed = [(i, r) for i, r in enumerate(residues) if r.mutated > 0]
    return [r for i, r in sorted(changed, key=lambda pair: (-pair[1].mutated, pair[0]))[:n]]


def tracks(residues: Sequence[Residue]) -> list[Track]:
    """Return what stands under the logo: burial, and what goes with a mutation."""
    found = []
    near = [r.neighbors for r in residues]
    if known := [n for n in near if n is not None]:
        shares = [None if n is None else n / max(*known, 1) for n in near]
        said = [f"{n} neighbors within 10 Å" for n in near]
        found.append(Track("burial", ("var(--best)",) * 2, shares, said))
    gains = [r.gain for r in residues]
    if some := [abs(g) for g in gains if g is not None]:
        top = max(some) or 1.0
        said = [
            f"designs mutated here: {signed(g)} in the sum of the guides, other differences too"
            for g in gains
        ]
        shares = [None if g is None else g / top for g in gains]
        found.append(Track("gain", ("var(--good)", "var(--bad)"), shares, said))
    return found
