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
    ALIGNED,
    BEST,
    GRID,
    INK,
    PLAIN,
    histogram,
    svg,
    titled,
    two_guides,
)
from seqalign.campaign.report.parts import (
    SHOWN,
    Compared,
    Figures,
    Groups,
    Run,
    as_float,
    column,
    finite,
    mean,
)
from seqalign.campaign.report.sheet import table


def _tops(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the row with the highest total of each island."""
    best: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        total, here = as_float(row["total"]), best.get(row["island"])
        if math.isfinite(total) and (here is None or total > as_float(here["total"])):
            best[row["island"]] = row
    return list(best.values())


def _centered(rows: Groups) -> Groups:
    """Return rows whose numbers count from the unguided mean of their prompt.

    Prompts differ in what is easy; a spread over all of them would hide what a prompt gains.
    """
    prompts = {row["prompt"] for row in rows["plain"]}
    means: dict[tuple[str, str], float] = {}
    for prompt in prompts:
        mine = [row for row in rows["plain"] if row["prompt"] == prompt]
        means |= {(prompt, key): mean(column(mine, key)) for key in mine[0]}
    return {
        name: [
            {k: as_float(v) - means.get((row["prompt"], k), math.nan) for k, v in row.items()}
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
        reach = []
        for text, color, marker, rows in groups:
            means = [mean(column([r for r in rows if r["prompt"] == p], key)) for p in prompts]
            reach.append(means)
            ax.plot(means, y, marker, color=color, markersize=6, linestyle="none", label=text)
        for at, some in zip(y, np.transpose(reach), strict=True):
            if len(known := finite(some)):
                ax.plot([known.min(), known.max()], [at, at], color=GRID, linewidth=3, zorder=0)
        names = [" ".join(p.split()) for p in prompts]
        names = [n if len(n) <= 26 else n[:25] + "…" for n in names]
        ax.set_yticks(y, names)
        ax.tick_params(axis="y", labelcolor=INK)
        ax.set_ylim(-0.6, len(prompts) - 0.4)
        ax.grid(axis="y", visible=False)
        ax.set_xlabel(label)
        ax.locator_params(axis="x", nbins=5)
        titled(ax, f"{key}, prompt by prompt", handletextpad=0.2)

    return svg(draw, height=1.35 + 0.3 * len(prompts), name=f"prompts-{key}")


def compared(run: Run) -> Compared:
    """Return unguided images, aligned ones, and the best of each island of these."""
    groups: Groups = {
        "plain": run.plain,
        "aligned": run.aligned,
        "top": _tops(run.aligned),
        "wild": [],
    }
    best = "the best of each island, in standard deviations within a prompt"
    return Compared(groups, _centered(groups), best)


def figures(run: Run, groups: Groups) -> Figures:
    """Draw a run that designed images: rewards, prompt by prompt and altogether."""
    values = {
        "told": "file",
        "table": table(run, run.kept[:SHOWN]),
        "small": _small(run),
        "picture": lambda name: _picture(run.folder.path / name),
    }
    return Figures(
        "images.html.j2",
        _drawn(run, groups) if run.aligned else {},
        values,
    )


def _drawn(run: Run, groups: Groups) -> Mapping[str, Markup | list[Markup]]:
    summary = run.summary
    labels, prompts = [*summary.guides, *summary.holdouts, *summary.finals], summary.prompts or ()
    lines = [
        ("unguided", PLAIN, "s", groups["plain"]),
        ("best-of-N", BEST, "D", _tops(groups["plain"])),
        ("aligned", ALIGNED, "o", groups["top"]),
    ]

    def spread(label: str) -> Markup:
        title, name = f"{label}, all designs", f"rewards-{label}"
        return histogram(lambda x: column(groups[x], label), run.named(label), title, name)

    few = 1 < len(prompts) <= 24
    return {
        **two_guides(run, groups),
        "rewards": [spread(x) for x in labels],
        "prompts": [_by_prompt(prompts, x, run.named(x), lines) for x in labels] if few else [],
    }


def _small(run: Run) -> bool:
    """Return whether images are so small that a reader wants to see their pixels."""
    from PIL import Image

    gallery = run.summary.gallery or ()
    names = [row["file"] for line in gallery for arm in line.arms.values() for row in arm]
    for path in filter(Path.is_file, map(run.folder.path.joinpath, names)):
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
