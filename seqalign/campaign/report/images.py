"""The figures of designs that are images, and the images themselves."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from seqalign.campaign.report.figures import (
    _ALIGNED,
    _BEST,
    _GRID,
    _INK,
    _PLAIN,
    _column,
    _Figures,
    _float,
    _histogram,
    _legend,
    _named,
    _Rows,
    _svg,
    _two_guides,
)
from seqalign.campaign.report.words import _pairs
from seqalign.campaign.store import RunFolder

__all__ = []


def _tops(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the row with the highest total of each island."""
    best: dict[str, dict[str, Any]] = {}
    for row in rows:
        here = best.get(row["island"])
        if math.isfinite(_float(row["total"])) and (
            here is None or _float(row["total"]) > _float(here["total"])
        ):
            best[row["island"]] = dict(row)
    return list(best.values())


def _centered(rows: _Rows) -> _Rows:
    """Return rows whose numbers count from the unguided mean of their prompt.

    Prompts differ in what is easy; a spread over all of them would hide what a prompt gains.
    """
    prompts = {row["prompt"] for row in rows["plain"]}
    means: dict[tuple[str, str], float] = {}
    for prompt in prompts:
        mine = [row for row in rows["plain"] if row["prompt"] == prompt]
        for key in mine[0]:
            values = _column(mine, key)
            values = values[np.isfinite(values)]
            means[prompt, key] = float(values.mean()) if len(values) else math.nan
    return {
        name: [
            {k: _float(v) - means.get((row["prompt"], k), math.nan) for k, v in row.items()}
            for row in some
        ]
        for name, some in rows.items()
    }


def _by_prompt(
    prompts: Sequence[str], key: str, label: str, groups: Sequence[tuple[str, str, str, Any]]
) -> Markup:
    """Draw one line per prompt: the mean of unguided designs, the best of the others' islands."""

    def draw(ax: Any) -> None:
        y = np.arange(len(prompts))[::-1].astype(float)
        reach: list[list[float]] = [[] for _ in prompts]
        for text, color, marker, rows in groups:
            means = []
            for i, prompt in enumerate(prompts):
                values = _column([r for r in rows if r["prompt"] == prompt], key)
                values = values[np.isfinite(values)]
                means.append(float(values.mean()) if len(values) else math.nan)
                reach[i] += means[-1:]
            ax.plot(means, y, marker, color=color, markersize=6, linestyle="none", label=text)
        for at, some in zip(y, reach, strict=True):
            finite = [v for v in some if math.isfinite(v)]
            if finite:
                ax.plot([min(finite), max(finite)], [at, at], color=_GRID, linewidth=3, zorder=0)
        names = [" ".join(p.split()) for p in prompts]
        names = [n if len(n) <= 26 else n[:25] + "…" for n in names]
        # a dollar would begin a formula
        ax.set_yticks(y, [n.replace("$", r"\$") for n in names])
        ax.tick_params(axis="y", labelcolor=_INK)
        ax.set_ylim(-0.6, len(prompts) - 0.4)
        ax.grid(axis="y", visible=False)
        ax.set_xlabel(label)
        ax.locator_params(axis="x", nbins=5)
        ax.set_title(f"{key}, prompt by prompt", pad=22)
        _legend(ax, handletextpad=0.2)

    return _svg(draw, height=1.35 + 0.3 * len(prompts), name=f"prompts-{key}")


def _image_figures(
    summary: Mapping[str, Any],
    config: Mapping[str, Any],
    kept: list[dict[str, str]],
    rejected: list[dict[str, str]],
    plain: list[dict[str, str]],
) -> _Figures:
    """Return the figures of an image campaign, pairs of guide and hold-out, and the rows."""
    aligned = [*kept, *rejected]
    tops, others = _tops(aligned), _tops(plain)
    rows: _Rows = {"plain": list(plain), "aligned": list(aligned), "top": tops, "wild": []}
    if not aligned:
        return {}, [], rows
    figures: dict[str, Any] = _two_guides(rows, summary)
    labels = [*summary["guides"], *summary["holdouts"], *summary["finals"]]
    prompts = summary["prompts"] or []
    figures["rewards"] = [
        _histogram(
            [
                ("unguided", _PLAIN, _column(plain, label)),
                ("aligned", _ALIGNED, _column(aligned, label)),
            ],
            _named(label, summary),
            f"{label}, all designs",
            f"rewards-{label}",
        )
        for label in labels
    ]
    figures["prompts"] = [
        _by_prompt(
            prompts,
            label,
            _named(label, summary),
            [
                ("unguided", _PLAIN, "s", plain),
                ("best-of-N", _BEST, "D", others),
                ("aligned", _ALIGNED, "o", tops),
            ],
        )
        for label in labels
        if 1 < len(prompts) <= 24
    ]
    return figures, _pairs(summary, config), rows


def _small(folder: RunFolder, summary: Mapping[str, Any]) -> bool:
    """Return whether images are so small that a reader wants to see their pixels."""
    from PIL import Image

    names = [
        row["file"] for line in summary["gallery"] for arm in line["arms"].values() for row in arm
    ]
    for path in (folder.path / name for name in names):
        if path.is_file():
            with Image.open(path) as image:
                return max(image.size) <= 72
    return True


def _picture(path: Path) -> Markup:
    """Return an image file as a data URI: small ones as they are, large ones reduced."""
    if not path.is_file():
        return Markup("")
    data, kind = path.read_bytes(), "png"
    from PIL import Image

    image = Image.open(io.BytesIO(data))
    if max(image.size) > 256:
        image.thumbnail((256, 256))
        file = io.BytesIO()
        image.convert("RGB").save(file, "JPEG", quality=85)
        data, kind = file.getvalue(), "jpeg"
    return Markup(f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}")
