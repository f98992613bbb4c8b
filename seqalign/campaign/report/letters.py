"""The figures of designs that are letters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from seqalign.campaign.metrics import composition
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
from seqalign.campaign.report.logo import CHEMISTRY, LETTERS, heat_map, logo
from seqalign.campaign.report.parts import Figures, Groups, Run, as_float, column

__all__ = ["figures"]

# amino acids in UniProtKB/Swiss-Prot, percent
_NATURAL = {
    **{"A": 8.25, "C": 1.38, "D": 5.46, "E": 6.71, "F": 3.86, "G": 7.07, "H": 2.27, "I": 5.91},
    **{"K": 5.80, "L": 9.65, "M": 2.41, "N": 4.06, "P": 4.74, "Q": 3.93, "R": 5.53, "S": 6.65},
    **{"T": 5.36, "V": 6.86, "W": 1.10, "Y": 2.92},
}


def _composition(designs: Sequence[str], plain: Sequence[str], wild: str | None) -> Markup:
    def draw(ax: Any) -> None:
        order = LETTERS
        x = np.arange(len(order))
        ax.bar(
            x,
            [100 * v for v in composition(designs, order)],
            width=0.62,
            color=ALIGNED,
            alpha=0.85,
            label="designs",
        )
        if plain:
            ax.plot(
                x,
                [100 * v for v in composition(plain, order)],
                "_",
                markersize=11,
                markeredgewidth=2,
                color=PLAIN,
                label="unguided",
            )
        if wild:
            ax.plot(
                x,
                [100 * v for v in composition([wild], order)],
                "D",
                markersize=4,
                color=WILD,
                label="wild type",
                linestyle="none",
            )
        ax.plot(
            x,
            [_NATURAL[a] for a in order],
            "o",
            markersize=5,
            markerfacecolor="none",
            markeredgecolor=BEST,
            label="Swiss-Prot",
            linestyle="none",
        )
        ax.set_xticks(x, list(order))
        ax.tick_params(axis="x", labelsize=9, labelcolor=INK)
        ax.grid(axis="x", visible=False)
        ax.set_ylabel("percent of residues")
        ax.legend(
            loc="lower left",
            bbox_to_anchor=(-0.01, 1.0),
            ncols=4,
            fontsize=8.5,
            handletextpad=0.4,
            columnspacing=1.2,
        )

    return svg(draw, width=10.2, height=3.0, name="composition")


def _distances(sequences: Sequence[str]) -> np.ndarray:
    letters = np.array([list(s) for s in sequences[:400]])
    if len(letters) < 2:
        return np.zeros(0)
    i, j = np.triu_indices(len(letters), 1)
    return np.asarray((letters[i] != letters[j]).sum(-1), dtype=float)


def _free(run: Run) -> list[bool]:
    """Return which positions might change; all, where an older version did not say."""
    given, length = run.config["resolved"].get("free"), len(run.aligned[0]["sequence"])
    if isinstance(given, str) and len(given) == length:
        return [c == "1" for c in given]
    return [True] * length


def figures(run: Run) -> Figures:
    """Draw a run that designed letters: logo, mutations, composition, distances."""
    resolved, aligned = run.config["resolved"], run.aligned
    wild = resolved["wild_type"]
    finite = [row for row in aligned if math.isfinite(as_float(row["total"]))]
    groups: Groups = {
        "plain": run.plain,
        "aligned": aligned,
        "top": sorted(finite, key=lambda row: -as_float(row["total"]))[:10],
        "wild": [row.mean for row in run.summary.rows if row.row == "wild type"],
    }
    values = {
        "wild": wild,
        "told": "mutations" if wild else "sequence",
        "chemistry": [(name, color) for name, (_, color) in CHEMISTRY.items()],
    }
    drawn = _drawn(run, groups, wild) if aligned else {}
    return Figures("letters.html.j2", groups, groups, "top 10", drawn, values)


def _drawn(run: Run, groups: Groups, wild: str | None) -> dict[str, Markup]:
    sequences = {name: [row["sequence"] for row in groups[name]] for name in ("plain", "aligned")}
    chosen = [row["sequence"] for row in run.kept] or sequences["aligned"]
    residues = run.config["resolved"]["residues"]
    colors = (("unguided", PLAIN, "plain"), ("aligned", ALIGNED, "aligned"))

    def mutations() -> dict[str, Markup]:
        if not wild:
            return {}
        some = [(word, color, column(groups[name], "n_mut")) for word, color, name in colors]
        label = "mutations from the wild type"
        return {"mutations": histogram(some, label, "Mutations", "mutations", whole=True)}

    return {
        **two_guides(run, groups),
        "prior": scatter(
            groups,
            "prior_per_residue",
            "total",
            ("log-likelihood, nats per residue", "sum of the guides"),
            "Reward against the prior",
            "prior",
        ),
        **mutations(),
        "distances": histogram(
            [(word, color, _distances(sequences[name])) for word, color, name in colors],
            "mutations apart, all pairs",
            "Distance between designs",
            "distances",
            whole=True,
        ),
        "logo": logo(chosen, wild, residues),
        "heat_map": heat_map(chosen, wild, _free(run), residues),
        "composition": _composition(chosen, sequences["plain"], wild),
    }
