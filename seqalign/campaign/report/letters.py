"""The figures of designs that are letters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from seqalign.campaign.metrics import composition
from seqalign.campaign.report.figures import (
    _ALIGNED,
    _BEST,
    _INK,
    _PLAIN,
    _WILD,
    _column,
    _Figures,
    _float,
    _histogram,
    _Rows,
    _scatter,
    _svg,
    _two_guides,
)
from seqalign.campaign.report.logo import _LETTERS, heat_map, logo
from seqalign.campaign.report.words import _pairs

__all__ = []

# amino acids in UniProtKB/Swiss-Prot, percent
_NATURAL = dict(
    zip(
        "ACDEFGHIKLMNPQRSTVWY",
        (
            8.25,
            1.38,
            5.46,
            6.71,
            3.86,
            7.07,
            2.27,
            5.91,
            5.80,
            9.65,
            2.41,
            4.06,
            4.74,
            3.93,
            5.53,
            6.65,
            5.36,
            6.86,
            1.10,
            2.92,
        ),
        strict=True,
    )
)


def _composition(designs: Sequence[str], plain: Sequence[str], wild: str | None) -> Markup:
    def draw(ax: Any) -> None:
        order = _LETTERS
        x = np.arange(len(order))
        ax.bar(
            x,
            [100 * v for v in composition(designs, order)],
            width=0.62,
            color=_ALIGNED,
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
                color=_PLAIN,
                label="unguided",
            )
        if wild:
            ax.plot(
                x,
                [100 * v for v in composition([wild], order)],
                "D",
                markersize=4,
                color=_WILD,
                label="wild type",
                linestyle="none",
            )
        ax.plot(
            x,
            [_NATURAL[a] for a in order],
            "o",
            markersize=5,
            markerfacecolor="none",
            markeredgecolor=_BEST,
            label="Swiss-Prot",
            linestyle="none",
        )
        ax.set_xticks(x, list(order))
        ax.tick_params(axis="x", labelsize=9, labelcolor=_INK)
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

    return _svg(draw, width=10.2, height=3.0, name="composition")


def _distances(sequences: Sequence[str]) -> np.ndarray:
    letters = np.array([list(s) for s in sequences[:400]])
    if len(letters) < 2:
        return np.zeros(0)
    i, j = np.triu_indices(len(letters), 1)
    return np.asarray((letters[i] != letters[j]).sum(-1), dtype=float)


def _free(
    aligned: Sequence[Mapping[str, Any]],
    plain: Sequence[Mapping[str, Any]],
    wild: str | None,
    config: Mapping[str, Any],
) -> list[bool]:
    given = config["resolved"].get("free")
    length = len(aligned[0]["sequence"])
    if isinstance(given, str) and len(given) == length:
        return [c == "1" for c in given]
    return [True] * length


def _sequence_figures(
    summary: Mapping[str, Any],
    config: Mapping[str, Any],
    kept: list[dict[str, str]],
    rejected: list[dict[str, str]],
    plain: list[dict[str, str]],
) -> _Figures:
    """Return the figures of a sequence campaign, pairs of guide and hold-out, and the rows."""
    wild = config["resolved"]["wild_type"]
    aligned = [*kept, *rejected]
    ranked = sorted(
        (r for r in aligned if math.isfinite(_float(r["total"]))), key=lambda r: -_float(r["total"])
    )
    rows: _Rows = {
        "plain": list(plain),
        "aligned": list(aligned),
        "top": list(ranked[:10]),
        "wild": [row for row in summary["rows"] if row["row"] == "wild type"],
    }
    if not aligned:
        return {}, [], rows
    figures: dict[str, Any] = _two_guides(rows, summary)
    figures["prior"] = _scatter(
        rows,
        "prior_per_residue",
        "total",
        ("log-likelihood, nats per residue", "sum of the guides"),
        "Reward against the prior",
        "prior",
        "unguided",
    )
    if wild:
        figures["mutations"] = _histogram(
            [
                ("unguided", _PLAIN, _column(plain, "n_mut")),
                ("aligned", _ALIGNED, _column(aligned, "n_mut")),
            ],
            "mutations from the wild type",
            "Mutations",
            "mutations",
            whole=True,
        )
    figures["distances"] = _histogram(
        [
            ("unguided", _PLAIN, _distances([r["sequence"] for r in plain])),
            ("aligned", _ALIGNED, _distances([r["sequence"] for r in aligned])),
        ],
        "mutations apart, all pairs",
        "Distance between designs",
        "distances",
        whole=True,
    )
    sequences = [r["sequence"] for r in (kept or aligned)]
    residues = config["resolved"]["residues"]
    figures["logo"] = logo(sequences, wild, residues)
    free = _free(aligned, plain, wild, config)
    figures["heat_map"] = heat_map(sequences, wild, free, residues)
    figures["composition"] = _composition(sequences, [r["sequence"] for r in plain], wild)
    return figures, _pairs(summary, config), rows
