"""The figures of designs that are letters."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from markupsafe import Markup

from seqalign.campaign.metrics import composition
from seqalign.campaign.report.families import distances, families
from seqalign.campaign.report.figures import (
    ALIGNED,
    BEST,
    INK,
    PLAIN,
    WILD,
    histogram,
    scatter,
    svg,
    two_guides,
)
from seqalign.campaign.report.parts import SHOWN, Compared, Figures, Groups, Run, as_float, column
from seqalign.campaign.report.plate import plates
from seqalign.campaign.report.profile import most_mutated, profile, tracks
from seqalign.campaign.report.sheet import sheet, table
from seqalign.campaign.report.trace import trace
from seqalign.files.logo import CHEMISTRY, LETTERS, heat_map, logo

# amino acids in UniProtKB/Swiss-Prot, percent
_NATURAL = {
    **{"A": 8.25, "C": 1.38, "D": 5.46, "E": 6.71, "F": 3.86, "G": 7.07, "H": 2.27, "I": 5.91},
    **{"K": 5.80, "L": 9.65, "M": 2.41, "N": 4.06, "P": 4.74, "Q": 3.93, "R": 5.53, "S": 6.65},
    **{"T": 5.36, "V": 6.86, "W": 1.10, "Y": 2.92},
}

# residues up to which a logo shows those that are fixed
WHOLE: Final = 300


def _composition(designs: Sequence[str], plain: Sequence[str], wild: str | None) -> Markup:
    def draw(ax: Any) -> None:
        x = np.arange(len(LETTERS))

        def share(sequences: Sequence[str]) -> list[float]:
            return [100 * v for v in composition(sequences, LETTERS)]

        ax.bar(x, share(designs), width=0.62, color=ALIGNED, alpha=0.85, label="designs")
        if plain:
            dash: Any = {"markersize": 11, "markeredgewidth": 2}
            ax.plot(x, share(plain), "_", **dash, color=PLAIN, label="unguided")
        if wild:
            diamond: Any = {"markersize": 4, "linestyle": "none"}
            ax.plot(x, share([wild]), "D", **diamond, color=WILD, label="wild type")
        ring: Any = {"markersize": 5, "markerfacecolor": "none", "linestyle": "none"}
        natural = [_NATURAL[a] for a in LETTERS]
        ax.plot(x, natural, "o", **ring, markeredgecolor=BEST, label="Swiss-Prot")
        ax.set_xticks(x, list(LETTERS))
        ax.tick_params(axis="x", labelsize=9, labelcolor=INK)
        ax.grid(axis="x", visible=False)
        ax.set_ylabel("percent of residues")
        place: Any = {"loc": "lower left", "bbox_to_anchor": (-0.01, 1.0), "ncols": 4}
        ax.legend(**place, fontsize=8.5, handletextpad=0.4, columnspacing=1.2)

    label = "Composition of the designs, the wild type and natural proteins"
    return svg(draw, width=10.2, height=3.0, name="composition", label=label)


def _distances(sequences: Sequence[str]) -> np.ndarray:
    letters = np.array([list(s) for s in sequences[:400]])
    if len(letters) < 2:
        return np.zeros(0)
    return distances(letters)[np.triu_indices(len(letters), 1)].astype(float)


def _free(run: Run) -> list[bool]:
    """Return which positions might change."""
    return [c == "1" for c in run.config["resolved"]["free"]]


def compared(run: Run) -> Compared:
    """Return unguided designs, aligned ones, and the best ten of these."""
    finite = [row for row in run.aligned if math.isfinite(as_float(row["total"]))]
    groups: Groups = {
        "plain": run.plain,
        "aligned": run.aligned,
        "top": sorted(finite, key=lambda row: -as_float(row["total"]))[:10],
        "wild": [row.mean for row in run.summary.rows if row.row == "wild type"],
    }
    return Compared(groups, groups, f"top {len(groups['top'])}")


def figures(run: Run, groups: Groups) -> Figures:
    """Draw a run that designed letters: the designs, the structure, logo, families, the plate."""
    resolved = run.config["resolved"]
    wild = resolved["wild_type"]
    kept = sheet(run, wild)
    values = {
        "wild": wild,
        "told": "mutations" if wild else "sequence",
        "chemistry": [(name, color) for name, (_, color) in CHEMISTRY.items()],
        "designs": kept,
        "ready": sum(d.ready for d in kept),
        "flagged": Counter(word for d in kept for word in d.words("stop", "look")).most_common(),
        "known": Counter(word for d in kept for word in d.words("know")).most_common(),
        "table": table(run, run.kept[:SHOWN]),
        "states": [c for c in (run.kept or [{}])[0] if c.startswith("prior_per_residue_")],
        "notes": resolved.get("notes") or (),
    }
    drawn = _drawn(run, groups, wild) if run.aligned else {}
    return Figures("letters.html.j2", drawn, values)


def _drawn(run: Run, groups: Groups, wild: str | None) -> dict[str, Any]:
    sequences = {name: run.letters(groups[name]) for name in ("plain", "aligned")}
    chosen = run.letters(run.kept) or sequences["aligned"]
    residues, free = run.config["resolved"]["residues"], _free(run)
    # of a large assembly only what may change: the rest would hide it
    some = [i for i in range(len(free)) if free[i] or len(free) <= WHOLE]
    here = ["".join(s[i] for i in some) for s in chosen]
    own = "".join(wild[i] for i in some) if wild else None
    names = [residues[i] for i in some]
    drawn: dict[str, Any] = {}
    profiled = profile(run, chosen, free, wild) if wild else []
    if wild:
        words = ("mutations from the wild type", "Mutations", "mutations")
        drawn["mutations"] = histogram(lambda x: column(groups[x], "n_mut"), *words, whole=True)
    backbone = run.summary.backbone
    if backbone is not None and wild:
        drawn["trace"] = trace(backbone, profiled)
    if run.summary.prior_orders:
        axes = ("log-likelihood, nats per residue", "sum of the guides")
        title = "Reward against the prior"
        drawn["prior"] = scatter(groups, "prior_per_residue", "total", axes, title, "prior")
    under = tracks([profiled[i] for i in some]) if wild else []
    return {
        **two_guides(run, groups),
        **drawn,
        "distances": histogram(
            lambda name: _distances(sequences[name]),
            "mutations apart, all pairs",
            "Distance between designs",
            "distances",
            whole=True,
        ),
        "hot": most_mutated(profiled),
        "profiled": profiled,
        "tracks": under,
        "left_out": len(free) - len(some),
        "logo": logo(here, own, names, under),
        "heat_map": heat_map(here, own, [free[i] for i in some], names),
        "composition": _composition(chosen, sequences["plain"], wild),
        "families": families(run.letters(run.kept[:SHOWN]), residues),
        "plates": plates(run.kept[:SHOWN], run.summary.orderable),
    }
