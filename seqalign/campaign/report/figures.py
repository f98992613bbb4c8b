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

__all__ = []

# placeholders that become CSS variables
_INK, _FAINT, _GRID = "#010101", "#020202", "#030303"


_ALIGNED, _PLAIN, _BEST, _WILD = "#040404", "#050505", "#060606", "#070707"


_VARIABLES = {
    _INK: "ink",
    _FAINT: "faint",
    _GRID: "grid",
    _ALIGNED: "aligned",
    _PLAIN: "plain",
    _BEST: "best",
    _WILD: "wild",
}


_STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _FAINT,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.7,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "xtick.labelcolor": _FAINT,
    "ytick.labelcolor": _FAINT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.labelcolor": _INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


def _legend(ax: Any, ncols: int = 3, **handles: float) -> None:
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


def _svg(
    draw: Callable[[Any], None], width: float = 3.7, height: float = 2.75, name: str = "figure"
) -> Markup:
    """Draw on one axes and return inline SVG that follows the page's theme."""
    with mpl.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.add_subplot())
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    # ids are unique within a figure only
    stem = re.sub(r"\W", "-", name)
    svg = re.sub(r'id="([^"]+)"', rf'id="{stem}-\1"', svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{stem}-", svg)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, f"var(--{variable})")
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1 class="figure" role="img"', svg, count=1)
    svg = re.sub(r"'DejaVu Sans'(, [^;\"]*)?", "system-ui, sans-serif", svg)
    return Markup(svg)


def _float(text: Any) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        return math.nan


def _column(rows: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    return np.array([_float(row.get(key)) for row in rows])


def _scatter(
    rows: Mapping[str, list[dict[str, Any]]],
    x: str,
    y: str,
    labels: tuple[str, str],
    title: str,
    name: str,
    plain: str,
) -> Markup:
    def draw(ax: Any) -> None:
        groups = (
            (rows["plain"], _PLAIN, plain, 13, 0.75),
            (rows["aligned"], _ALIGNED, "aligned", 17, 0.85),
        )
        for some, color, label, size, alpha in groups:
            if some:
                ax.scatter(
                    _column(some, x),
                    _column(some, y),
                    s=size,
                    color=color,
                    alpha=alpha,
                    linewidths=0,
                    label=label,
                )
        if rows["wild"]:
            ax.scatter(
                _column(rows["wild"], x),
                _column(rows["wild"], y),
                marker="D",
                s=34,
                color=_WILD,
                label="wild type",
                zorder=3,
            )
        ax.set_xlabel(labels[0])
        ax.set_ylabel(labels[1])
        ax.set_title(title, pad=22)
        _legend(ax, handletextpad=0.2)
        ax.margins(0.07)
        ax.locator_params(nbins=5)

    return _svg(draw, name=name)


def _histogram(
    groups: Sequence[tuple[str, str, np.ndarray]],
    label: str,
    title: str,
    name: str,
    whole: bool = False,
) -> Markup:
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
        _legend(ax, handlelength=1)

    return _svg(draw, name=name)


def _lines(
    trace: Sequence[Mapping[str, Any]],
    key: str,
    title: str,
    label: str,
    name: str,
    lo: float | None = None,
    hi: float | None = None,
) -> Markup:
    def draw(ax: Any) -> None:
        islands = sorted({row["island"] for row in trace})[:16]
        for island in islands:
            rows = [r for r in trace if r["island"] == island and r[key] is not None]
            ax.plot(
                [r["step"] for r in rows],
                [r[key] for r in rows],
                color=_ALIGNED,
                linewidth=1.5,
                alpha=max(0.35, 1 / len(islands)),
            )
            if key == "ess":
                hits = [r for r in rows if r["resampled"]]
                ax.scatter(
                    [r["step"] for r in hits],
                    [r[key] for r in hits],
                    s=14,
                    color=_BEST,
                    zorder=3,
                    linewidths=0,
                )
        ax.set_title(title)
        ax.set_xlabel("step")
        ax.set_ylabel(label)
        if lo is not None or hi is not None:
            ax.set_ylim(lo, hi)

    return _svg(draw, height=2.3, name=name)


def _gain_bars(verdicts: Sequence[Mapping[str, Any]]) -> Markup:
    def draw(ax: Any) -> None:
        names = [v["guide"] for v in verdicts]
        y = np.arange(len(names))[::-1].astype(float)
        ax.barh(
            y + 0.19,
            [v["gain"] for v in verdicts],
            height=0.34,
            color=_ALIGNED,
            label="guide, optimized",
        )
        ax.barh(
            y - 0.19,
            [v["kept"] for v in verdicts],
            height=0.34,
            color=_BEST,
            label="hold-out, never seen",
        )
        for v, at in zip(verdicts, y, strict=True):
            if math.isfinite(v["ratio"]):
                ax.annotate(
                    f"{100 * v['ratio']:.0f} %",
                    (max(v["kept"], 0), at - 0.19),
                    xytext=(4, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=8.5,
                    color=_INK,
                )
        ax.set_yticks(y, names)
        ax.tick_params(axis="y", labelcolor=_INK)
        ax.set_xlabel("gain over unguided, in standard deviations")
        ax.grid(axis="y", visible=False)
        ax.axvline(0, color=_FAINT, linewidth=0.8)
        ax.set_title("Gain that a hold-out confirms", pad=22)
        _legend(ax, ncols=2, handlelength=1)

    return _svg(draw, height=1.5 + 0.62 * len(verdicts), name="gains")


_Rows = dict[str, list[dict[str, Any]]]
_Figures = tuple[dict[str, Any], list[tuple[str, str]], _Rows]


def _named(label: str, summary: Mapping[str, Any]) -> str:
    unit = summary["units"].get(label)
    return f"{label} ({unit})" if unit else label


def _two_guides(rows: _Rows, summary: Mapping[str, Any]) -> dict[str, Markup]:
    """Return the scatter of the first two guides, if there are two."""
    guides = summary["guides"]
    if len(guides) < 2:
        return {}
    names = (_named(guides[0], summary), _named(guides[1], summary))
    title = "The two guides" if len(guides) == 2 else "Two of the guides"
    return {"pareto": _scatter(rows, guides[0], guides[1], names, title, "pareto", "unguided")}
