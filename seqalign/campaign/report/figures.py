"""Figures of numbers: inline SVG whose colors are CSS variables, so that they follow the page."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from seqalign.campaign.report.parts import Groups, Run, column, finite
from seqalign.campaign.summary import Verdict

# placeholders that become CSS variables
INK, FAINT, GRID = "#010101", "#020202", "#030303"
ALIGNED, PLAIN, BEST, WILD = "#040404", "#050505", "#060606", "#070707"
_VARIABLES = {
    **{INK: "ink", FAINT: "faint", GRID: "grid"},
    **{ALIGNED: "aligned", PLAIN: "plain", BEST: "best", WILD: "wild"},
}
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    # a user's unit is text, also "$/mol$"
    "text.parse_math": False,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.linewidth": 0.8,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    **dict.fromkeys(("text.color", "axes.labelcolor", "legend.labelcolor"), INK),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), FAINT),
    **dict.fromkeys(("xtick.labelcolor", "ytick.labelcolor"), FAINT),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 0),
    **dict.fromkeys(("axes.grid", "axes.axisbelow"), True),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor"), "none"),
}


def titled(ax: Any, title: str, ncols: int = 3, **handles: float) -> None:
    """Put a title above the plot, and between them the legend in one line."""
    ax.set_title(title, pad=22)
    place = {"loc": "lower left", "bbox_to_anchor": (-0.02, 0.99)}
    ax.legend(**place, ncols=ncols, fontsize=8, columnspacing=0.9, borderpad=0.1, **handles)


def svg(
    draw: Callable[[Any], None],
    width: float = 3.7,
    height: float = 2.75,
    name: str = "figure",
    label: str = "",
) -> Markup:
    """Draw on one axes and return inline SVG that follows the page's theme.

    `label` is what it is called where it cannot be seen: its title, if there is one.
    """
    # slow to import, and most commands draw nothing
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    page = text.getvalue()
    page = page[page.index("<svg") :]
    # its own style would be that of the whole page
    page = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", page, flags=re.S)
    # ids are unique within a figure only
    stem = re.sub(r"\W", "-", name)

    def themed(match: re.Match[str]) -> str:
        tag = re.sub(r'id="([^"]+)"', rf'id="{stem}-\1"', match[0])
        tag = re.sub(r'(url\(|href=")#', rf"\1#{stem}-", tag)
        for color, variable in _VARIABLES.items():
            tag = tag.replace(color, f"var(--{variable})")
        return re.sub(r"'DejaVu Sans'(, [^;\"]*)?", "system-ui, sans-serif", tag)

    # in tags alone: what stands between them may be a user's
    page = re.sub(r"<[^>]*>", themed, page)
    page = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", page, count=1)
    said = escape(label or axes.get_title(loc="left") or axes.get_title())
    head = f'class="figure" role="img" aria-label="{said}"'
    return Markup(re.sub(r'(<svg[^>]*?) height="[^"]*"', lambda m: f"{m[1]} {head}", page, count=1))


def scatter(rows: Groups, x: str, y: str, labels: tuple[str, str], title: str, name: str) -> Markup:
    """Draw two columns against each other: unguided designs, aligned ones, the wild type."""
    looks: dict[str, dict[str, Any]] = {
        "plain": {"s": 13, "color": PLAIN, "alpha": 0.75, "linewidths": 0, "label": "unguided"},
        "aligned": {"s": 17, "color": ALIGNED, "alpha": 0.85, "linewidths": 0, "label": "aligned"},
        "wild": {"marker": "D", "s": 34, "color": WILD, "label": "wild type", "zorder": 3},
    }

    def draw(ax: Any) -> None:
        for group, look in looks.items():
            if rows[group]:
                ax.scatter(column(rows[group], x), column(rows[group], y), **look)
        ax.set_xlabel(labels[0])
        ax.set_ylabel(labels[1])
        titled(ax, title, handletextpad=0.2)
        ax.margins(0.07)
        ax.locator_params(nbins=5)

    return svg(draw, name=name)


def histogram(
    values: Callable[[str], np.ndarray], label: str, title: str, name: str, whole: bool = False
) -> Markup:
    """Draw how the values of "plain" and "aligned" spread, in percent; bars of `whole` numbers."""
    looks = (("plain", "unguided", PLAIN), ("aligned", "aligned", ALIGNED))

    def draw(ax: Any) -> None:
        groups = [(finite(values(group)), word, color) for group, word, color in looks]
        everything = np.concatenate([some for some, _, _ in groups])
        if not len(everything):
            return
        lo, hi = everything.min(), everything.max()
        bins: Any = (
            np.arange(lo - 0.5, hi + 1.5)
            if whole and hi - lo < 60
            else np.linspace(lo, hi if hi > lo else lo + 1, 22)
        )
        for some, word, color in groups:
            if len(some):
                weights = np.full(len(some), 100 / len(some))
                ax.hist(some, bins, weights=weights, color=color, alpha=0.55, label=word)
        ax.set_xlabel(label)
        ax.set_ylabel("percent")
        ax.locator_params(axis="x", nbins=5)
        if whole:
            from matplotlib.ticker import MaxNLocator

            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(axis="x", visible=False)
        titled(ax, title, handlelength=1)

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
            strong = max(0.35, 1 / len(islands))
            x, y = [r["step"] for r in rows], [r[key] for r in rows]
            ax.plot(x, y, color=ALIGNED, linewidth=1.5, alpha=strong)
            if key == "ess":
                hits = [(r["step"], r[key]) for r in rows if r["resampled"]]
                x, y = [step for step, _ in hits], [value for _, value in hits]
                ax.scatter(x, y, s=14, color=BEST, zorder=3, linewidths=0)
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
        gains, kept = [v.gain for v in verdicts], [v.kept for v in verdicts]
        ax.barh(y + 0.19, gains, height=0.34, color=ALIGNED, label="guide, optimized")
        ax.barh(y - 0.19, kept, height=0.34, color=BEST, label="hold-out, never seen")
        beside: Any = {"xytext": (4, 0), "textcoords": "offset points", "va": "center"}
        for v, at in zip(verdicts, y, strict=True):
            if math.isfinite(v.ratio):
                where = (max(v.kept, 0), at - 0.19)
                ax.annotate(f"{100 * v.ratio:.0f} %", where, **beside, fontsize=8.5, color=INK)
        ax.set_yticks(y, names)
        ax.tick_params(axis="y", labelcolor=INK)
        ax.set_xlabel("gain over unguided, in standard deviations")
        ax.grid(axis="y", visible=False)
        ax.axvline(0, color=FAINT, linewidth=0.8)
        titled(ax, "Gain that a hold-out confirms", ncols=2, handlelength=1)

    return svg(draw, height=1.5 + 0.62 * len(verdicts), name="gains")


def two_guides(run: Run, rows: Groups) -> dict[str, Markup]:
    """Return the scatter of the first two guides, if there are two."""
    guides = run.summary.guides
    if len(guides) < 2:
        return {}
    one, two = guides[:2]
    title = "The two guides" if len(guides) == 2 else "Two of the guides"
    return {"pareto": scatter(rows, one, two, (run.named(one), run.named(two)), title, "pareto")}
