"""Figures of numbers: inline SVG whose colors are CSS variables, so that they follow the page."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from seqalign.campaign.report.parts import Groups, Run, column
from seqalign.campaign.report.words import Verdict

# placeholders that become CSS variables
INK, FAINT, GRID = "#010101", "#020202", "#030303"
ALIGNED, PLAIN, BEST, WILD = "#040404", "#050505", "#060606", "#070707"
_VARIABLES = {
    INK: "ink",
    FAINT: "faint",
    GRID: "grid",
    ALIGNED: "aligned",
    PLAIN: "plain",
    BEST: "best",
    WILD: "wild",
}
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": FAINT,
    "ytick.labelcolor": FAINT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


def legend(ax: Any, ncols: int = 3, **handles: float) -> None:
    """Put the legend in one line above the plot, below its title."""
    ax.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 0.99),
        ncols=ncols,
        fontsize=8,
        columnspacing=0.9,
        borderpad=0.1,
        **handles,
    )


def svg(
    draw: Callable[[Any], None], width: float = 3.7, height: float = 2.75, name: str = "figure"
) -> Markup:
    """Draw on one axes and return inline SVG that follows the page's theme."""
    with mpl.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.add_subplot())
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    page = text.getvalue()
    page = page[page.index("<svg") :]
    page = re.sub(r"<metadata>.*?</metadata>", "", page, flags=re.S)
    # ids are unique within a figure only
    stem = re.sub(r"\W", "-", name)
    page = re.sub(r'id="([^"]+)"', rf'id="{stem}-\1"', page)
    page = re.sub(r'(url\(|href=")#', rf"\1#{stem}-", page)
    for color, variable in _VARIABLES.items():
        page = page.replace(color, f"var(--{variable})")
    page = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", page, count=1)
    page = re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1 class="figure" role="img"', page, count=1)
    return Markup(re.sub(r"'DejaVu Sans'(, [^;\"]*)?", "system-ui, sans-serif", page))


def scatter(rows: Groups, x: str, y: str, labels: tuple[str, str], title: str, name: str) -> Markup:
    """Draw two columns against each other: unguided designs, aligned ones, the wild type."""

    def draw(ax: Any) -> None:
        groups = (
            (rows["plain"], PLAIN, "unguided", 13, 0.75),
            (rows["aligned"], ALIGNED, "aligned", 17, 0.85),
        )
        for some, color, label, size, alpha in groups:
            if some:
                ax.scatter(
                    column(some, x),
                    column(some, y),
                    s=size,
                    color=color,
                    alpha=alpha,
                    linewidths=0,
                    label=label,
                )
        if rows["wild"]:
            ax.scatter(
                column(rows["wild"], x),
                column(rows["wild"], y),
                marker="D",
                s=34,
                color=WILD,
                label="wild type",
                zorder=3,
            )
        ax.set_xlabel(labels[0])
        ax.set_ylabel(labels[1])
        ax.set_title(title, pad=22)
        legend(ax, handletextpad=0.2)
        ax.margins(0.07)
        ax.locator_params(nbins=5)

    return svg(draw, name=name)


def histogram(
    groups: Sequence[tuple[str, str, np.ndarray]],
    label: str,
    title: str,
    name: str,
    whole: bool = False,
) -> Markup:
    """Draw how (word, color, values) of each group spread, in percent; bars of `whole` numbers."""

    def draw(ax: Any) -> None:
        everything = np.concatenate([v[np.isfinite(v)] for _, _, v in groups])
        if not len(everything):
            return
        lo, hi = everything.min(), everything.max()
        bins: Any = (
            np.arange(lo - 0.5, hi + 1.5)
            if whole and hi - lo < 60
            else np.linspace(lo, hi if hi > lo else lo + 1, 22)
        )
        for text, color, values in groups:
            values = values[np.isfinite(values)]
            if len(values):
                ax.hist(
                    values,
                    bins,
                    weights=np.full(len(values), 100 / len(values)),
                    color=color,
                    alpha=0.55,
                    label=text,
                )
        ax.set_xlabel(label)
        ax.set_ylabel("percent")
        ax.locator_params(axis="x", nbins=5)
        if whole:
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(axis="x", visible=False)
        ax.set_title(title, pad=22)
        legend(ax, handlelength=1)

    return svg(draw, name=name)


def lines(
    trace: Sequence[Mapping[str, Any]],
    key: str,
    title: str,
    label: str,
    lo: float | None = None,
    hi: float | None = None,
) -> Markup:
    """Draw a column of the trace, one line per island."""

    def draw(ax: Any) -> None:
        islands = sorted({row["island"] for row in trace})[:16]
        for island in islands:
            rows = [r for r in trace if r["island"] == island and r[key] is not None]
            ax.plot(
                [r["step"] for r in rows],
                [r[key] for r in rows],
                color=ALIGNED,
                linewidth=1.5,
                alpha=max(0.35, 1 / len(islands)),
            )
            if key == "ess":
                hits = [r for r in rows if r["resampled"]]
                ax.scatter(
                    [r["step"] for r in hits],
                    [r[key] for r in hits],
                    s=14,
                    color=BEST,
                    zorder=3,
                    linewidths=0,
                )
        ax.set_title(title)
        ax.set_xlabel("step")
        ax.set_ylabel(label)
        if lo is not None or hi is not None:
            ax.set_ylim(lo, hi)

    return svg(draw, height=2.3, name=key)


def gain_bars(verdicts: Sequence[Verdict]) -> Markup:
    """Draw the gain of each guide beside that of its hold-out."""

    def draw(ax: Any) -> None:
        names = [v.guide for v in verdicts]
        y = np.arange(len(names))[::-1].astype(float)
        ax.barh(
            y + 0.19,
            [v.gain for v in verdicts],
            height=0.34,
            color=ALIGNED,
            label="guide, optimized",
        )
        ax.barh(
            y - 0.19,
            [v.kept for v in verdicts],
            height=0.34,
            color=BEST,
            label="hold-out, never seen",
        )
        for v, at in zip(verdicts, y, strict=True):
            if math.isfinite(v.ratio):
                ax.annotate(
                    f"{100 * v.ratio:.0f} %",
                    (max(v.kept, 0), at - 0.19),
                    xytext=(4, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=8.5,
                    color=INK,
                )
        ax.set_yticks(y, names)
        ax.tick_params(axis="y", labelcolor=INK)
        ax.set_xlabel("gain over unguided, in standard deviations")
        ax.grid(axis="y", visible=False)
        ax.axvline(0, color=FAINT, linewidth=0.8)
        ax.set_title("Gain that a hold-out confirms", pad=22)
        legend(ax, ncols=2, handlelength=1)

    return svg(draw, height=1.5 + 0.62 * len(verdicts), name="gains")


def two_guides(run: Run, rows: Groups) -> dict[str, Markup]:
    """Return the scatter of the first two guides, if there are two."""
    guides = run.summary.guides
    if len(guides) < 2:
        return {}
    one, two = guides[:2]
    title = "The two guides" if len(guides) == 2 else "Two of the guides"
    return {"pareto": scatter(rows, one, two, (run.named(one), run.named(two)), title, "pareto")}
