"""The report: one offline HTML file of a finished run, readable on a phone, light and dark.

Figures are inline SVG whose colors are CSS variables, so that they follow the reader's theme.
Everything is read from the run folder; nothing is sampled or scored again.
"""
# ruff: noqa: E501 (markup reads better whole)

from __future__ import annotations

import base64
import io
import math
import re
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path as Outline
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator

from seqalign.campaign.metrics import composition
from seqalign.campaign.store import RunFolder
from seqalign.space.constraint import ConstraintError
from seqalign.space.installed import constraints

__all__ = ["heat_map", "logo", "render"]

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
# chemistry of the amino acids; one color each works on light and on dark ground
_CHEMISTRY = {
    "hydrophobic": ("AVLIMC", "#3f8f6b"),
    "aromatic": ("FWY", "#7a63c7"),
    "polar": ("STNQ", "#2f8fb8"),
    "positive": ("KRH", "#3b6fd4"),
    "negative": ("DE", "#d0503f"),
    "special": ("GP", "#c8862a"),
}
_COLOR = {letter: color for letters, color in _CHEMISTRY.values() for letter in letters}
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
_LETTERS = "GPAVLIMCFWYSTNQKRHDE"


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


@cache
def _glyph(letter: str) -> str:
    """Return the outline of a letter as SVG path data in the unit square, baseline at the bottom."""
    shape = TextPath(
        (0, 0), letter, size=100, prop=FontProperties(family="DejaVu Sans", weight="bold")
    )
    box = shape.get_extents()
    scale = np.array([1 / max(box.width, 22), 1 / box.height])
    # an I stays thin: it is centered instead of stretched
    shift = np.array([(max(box.width, 22) - box.width) / 2, 0.0])
    parts = []
    names = {
        Outline.MOVETO: "M",
        Outline.LINETO: "L",
        Outline.CURVE3: "Q",
        Outline.CURVE4: "C",
        Outline.CLOSEPOLY: "Z",
    }
    for points, code in shape.iter_segments():
        if code == Outline.CLOSEPOLY:
            parts.append("Z")
            continue
        xy = (np.asarray(points).reshape(-1, 2) - [box.x0, box.y0] + shift) * scale
        parts.append(names[code] + " ".join(f"{x:.3f},{1 - y:.3f}" for x, y in xy))
    return "".join(parts)


def _ticks(residues: Sequence[str]) -> dict[int, str]:
    """Return the residues to label: every number that five divides, and the first if it is apart."""
    ticks = {
        i: name
        for i, name in enumerate(residues)
        if name[-1].isdigit() and int(re.sub(r"\D", "", name)) % 5 == 0
    }
    if residues and not ticks.keys() & {0, 1, 2}:
        ticks[0] = residues[0]
    return ticks


def logo(
    sequences: Sequence[str],
    wild_type: str | None,
    residues: Sequence[str],
    per_line: int = 42,
) -> Markup:
    """Draw letter frequencies per residue; letters of the wild type are faint, mutations colored."""
    ticks = _ticks(residues)
    length = len(sequences[0])
    cell, high, top, gap = 22.0, 96.0, 8.0, 40.0
    lines = math.ceil(length / per_line)
    columns = min(per_line, length)
    width, height = columns * cell + 8, lines * (high + gap) + top
    used = sorted({a for s in sequences for a in s})
    parts = [
        f'<svg class="wide" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="Sequence logo of the designs">',
        "<defs>",
        *(f'<path id="aa-{a}" d="{_glyph(a)}"/>' for a in used),
        "</defs>",
    ]
    for i in range(length):
        line, column = divmod(i, per_line)
        x, base = 4 + column * cell, top + line * (high + gap) + high
        counts = Counter(s[i] for s in sequences)
        at = base
        for letter, count in sorted(
            counts.items(), key=lambda pair: (pair[1], pair[0]), reverse=True
        ):
            size = high * count / len(sequences)
            at -= size
            if size < 1.5:
                continue
            native = wild_type is not None and letter == wild_type[i]
            fill = "var(--native)" if native else _COLOR.get(letter, "var(--ink)")
            parts.append(
                f'<g fill="{fill}"><title>{residues[i]}: {letter} {100 * count / len(sequences):.0f} %</title>'
                f'<use href="#aa-{letter}" transform="translate({x + 1:.1f} {at + 0.4:.2f}) scale({cell - 2:.1f} {size - 0.8:.2f})"/></g>'
            )
        changed = wild_type is not None and counts.get(wild_type[i], 0) < len(sequences)
        if wild_type is not None:
            weight = ' font-weight="700"' if changed else ""
            parts.append(
                f'<text x="{x + cell / 2:.1f}" y="{base + 13:.1f}" class="letter"{weight}>{wild_type[i]}</text>'
            )
        if i in ticks:
            parts.append(
                f'<text x="{x + cell / 2:.1f}" y="{base + 26:.1f}" class="number">{ticks[i]}</text>'
            )
    parts.append("</svg>")
    return Markup("".join(parts))


def heat_map(
    sequences: Sequence[str],
    wild_type: str | None,
    free: Sequence[bool],
    residues: Sequence[str],
    per_line: int = 84,
) -> Markup:
    """Draw how often each letter appears per residue; the wild type is a dot, fixed columns hatched."""
    ticks = _ticks(residues)
    length = len(sequences[0])
    lines = math.ceil(length / per_line)
    columns = min(per_line, length)
    cell_x, cell_y, left, top, gap = 11.0, 11.0, 22.0, 6.0, 30.0
    width = left + columns * cell_x + 6
    height = lines * (20 * cell_y + gap) + top
    parts = [
        f'<svg class="wide" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="Mutation heat map">'
    ]
    for line in range(lines):
        y0 = top + line * (20 * cell_y + gap)
        size = min(per_line, length - line * per_line)
        parts.append(
            f'<rect x="{left}" y="{y0}" width="{size * cell_x}" height="{20 * cell_y}" class="ground"/>'
        )
        for row, letter in enumerate(_LETTERS):
            parts.append(
                f'<text x="{left - 7}" y="{y0 + (row + 0.8) * cell_y:.1f}" class="letter" style="fill:{_COLOR[letter]};font-weight:700">{letter}</text>'
            )
    for i in range(length):
        line, column = divmod(i, per_line)
        x, y0 = left + column * cell_x, top + line * (20 * cell_y + gap)
        if not free[i]:
            parts.append(
                f'<rect x="{x}" y="{y0}" width="{cell_x}" height="{20 * cell_y}" class="fixed"><title>{residues[i]} is fixed</title></rect>'
            )
        counts = Counter(s[i] for s in sequences)
        for letter, count in counts.items():
            if letter not in _LETTERS:
                continue
            y = y0 + _LETTERS.index(letter) * cell_y
            if wild_type is not None and letter == wild_type[i]:
                continue
            share = count / len(sequences)
            parts.append(
                f'<rect x="{x + 0.5:.1f}" y="{y + 0.5:.1f}" width="{cell_x - 1}" height="{cell_y - 1}" rx="1.5" '
                f'fill="var(--aligned)" fill-opacity="{0.12 + 0.88 * math.sqrt(share):.3f}">'
                f"<title>{wild_type[i] if wild_type else ''}{residues[i]}{letter}: {100 * share:.0f} % "
                "of designs</title></rect>"
            )
        if wild_type is not None and wild_type[i] in _LETTERS:
            y = y0 + (_LETTERS.index(wild_type[i]) + 0.5) * cell_y
            parts.append(f'<circle cx="{x + cell_x / 2:.1f}" cy="{y:.1f}" r="1.8" class="dot"/>')
        if i in ticks:
            parts.append(
                f'<text x="{x + cell_x / 2:.1f}" y="{y0 + 20 * cell_y + 14:.1f}" class="number">{ticks[i]}</text>'
            )
    parts.append("</svg>")
    return Markup("".join(parts))


# reading ------------------------------------------------------------------------------------------


def _float(text: Any) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        return math.nan


def _column(rows: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    return np.array([_float(row.get(key)) for row in rows])


def _pairs(summary: Mapping[str, Any], config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pair each hold-out with the guide it is the twin of, by oracle name or by label; else with the total."""
    rewards = config.get("rewards", {})
    pairs = []
    for held in summary["holdouts"]:
        oracle = str(rewards.get(held, {}).get("oracle") or "")
        match = next(
            (
                g
                for g in summary["guides"]
                if (oracle and oracle.startswith(str(rewards.get(g, {}).get("oracle")) + "-"))
                or held.startswith((f"{g}-", f"{g}_"))
            ),
            None,
        )
        pairs.append((match or "total", held))
    return pairs


def _verdicts(
    pairs: Sequence[tuple[str, str]], rows: Mapping[str, list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Compare gains of guide and hold-out over unguided designs, in units of their spread; flag where they part."""
    found = []
    plain, aligned = rows["plain"], rows["top"]
    for guide, held in pairs:
        gains = []
        for key in (guide, held):
            a, b = _column(aligned, key), _column(plain, key)
            a, b = a[np.isfinite(a)], b[np.isfinite(b)]
            gains.append(
                float((a.mean() - b.mean()) / b.std(ddof=1))
                if len(b) > 2 and len(a) and b.std(ddof=1) > 0
                else math.nan
            )
        ratio = gains[1] / gains[0] if gains[0] > 0 else math.nan
        found.append(
            {
                "guide": guide,
                "held": held,
                "gain": gains[0],
                "kept": gains[1],
                "ratio": ratio,
                "flag": ratio < 0.5,
                "none": not gains[0] > 0,
            }
        )
    return found


# figures ------------------------------------------------------------------------------------------


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


def _distances(sequences: Sequence[str]) -> np.ndarray:
    letters = np.array([list(s) for s in sequences[:400]])
    if len(letters) < 2:
        return np.zeros(0)
    i, j = np.triu_indices(len(letters), 1)
    return np.asarray((letters[i] != letters[j]).sum(-1), dtype=float)


# the page -----------------------------------------------------------------------------------------


def render(folder: RunFolder, summary: Mapping[str, Any]) -> str:
    """Return the HTML of a run from the files in its folder and its summary."""
    config = folder.read_config()
    # a run can be chosen from again without sampling
    config["select"] = summary.get("select", config["select"])
    kept, rejected = folder.read_csv("designs.csv"), folder.read_csv("rejected.csv")
    trace = [row for row in folder.read_lines("trace.jsonl") if row["arm"] == "aligned"]
    plain = [row for row in folder.read_csv("baselines.csv") if row["method"] == "best_of_n"]
    labels = [*summary["guides"], *summary["finals"], *summary["holdouts"]]
    by_name = {row["row"]: row for row in summary["rows"]}
    images = summary.get("kind") == "images"
    figures_of = _image_figures if images else _sequence_figures
    figures, pairs, rows = figures_of(summary, config, kept, rejected, plain)
    verdicts = _verdicts(pairs, _centered(rows) if images else rows) if plain else []
    sound = [v for v in verdicts if math.isfinite(v["gain"]) and math.isfinite(v["kept"])]
    twins = [
        _scatter(
            rows,
            g,
            h,
            ("sum of the guides" if g == "total" else _named(g, summary), _named(h, summary)),
            f"{g} against {h}",
            f"twin-{i}",
            "unguided",
        )
        for i, (g, h) in enumerate(pairs)
    ]
    if sound:
        figures["gains"] = _gain_bars(sound)
    health = {
        "ess": _lines(
            trace, "ess", "Effective sample size", "fraction of particles", "ess", 0, 1.05
        ),
        "lam": _lines(trace, "lam", "Tempering, weight of the reward", "lam", "lam", -0.03, 1.05),
        "survivors": _lines(
            trace,
            "survivors",
            "First particles with living descendants",
            "particles",
            "survivors",
            0,
        ),
        "log_z": _lines(trace, "log_z", "Running log Ẑ", "nats", "log_z"),
    }
    log_z = [v for v in summary["log_z"] or [] if v is not None]
    reasons = Counter(re.sub(r"\s*\(is .*\)$| to [^ ]+$", "", r["reason"]) for r in rejected)
    text = files("seqalign").joinpath("templates", "report.html.j2").read_text("utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["num"] = _shown
    environment.filters["big"] = lambda v: f"{v:,}".replace(",", " ")
    environment.filters["picture"] = lambda name: _picture(folder.path / name)
    page = environment.from_string(text)
    html: str = page.render(
        images=images,
        small=_small(folder, summary) if images else True,
        summary=summary,
        config=config,
        labels=labels,
        units=summary["units"],
        cards=_cards(summary, by_name),
        figures=figures,
        twins=twins,
        verdicts=sound,
        health=health,
        log_z=statistics.fmean(log_z) if log_z else None,
        ess=[v for v in summary["ess"] if v is not None],
        survivors=[
            r["survivors"] for r in trace if r["step"] == max((t["step"] for t in trace), default=0)
        ],
        particles=config["sampler"]["particles"],
        kept=kept[:200],
        kept_total=len(kept),
        rejected=rejected[:20],
        reasons=reasons.most_common(),
        wild=config["resolved"]["wild_type"],
        asked=_asked(config),
        calls=summary["network_calls"],
        chemistry=[(name, color) for name, (_, color) in _CHEMISTRY.items()],
        yaml_text=yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100),
        version=version("seqalign"),
        run_dir=folder.path.name,
        has_n_mut=any("n_mut" in row for row in summary["rows"]),
    )
    return html


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


# images -------------------------------------------------------------------------------------------


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


# words --------------------------------------------------------------------------------------------


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


def _shown(value: Any, digits: int = 2) -> str:
    number = _float(value)
    if not math.isfinite(number):
        return "–"
    text = f"{number:.{digits}f}"
    return "−" + text[1:] if text.startswith("-") and float(text) != 0 else text.removeprefix("-")


def _cards(
    summary: Mapping[str, Any], by_name: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, str]]:
    """Return the headline numbers: for each guide the aligned top against best-of-N, or else the wild type."""
    found = []
    # what a hold-out says of images is a headline: a sequence report has it among its verdicts
    paired = summary.get("paired", {})
    held = summary["holdouts"] if paired else []
    for label in [*summary["guides"], *held]:
        gains = summary["gains"][label]
        for key, text in (
            ("over_best_of_n", "over best-of-N at equal network calls"),
            ("over_unguided", "over unguided designs"),
            ("over_wild_type", "over the wild type"),
        ):
            if gains[key] is not None:
                interval = paired.get(key.removeprefix("over_"), {}).get(label, {})
                if interval.get("low") is not None:
                    low, high = _shown(interval["low"]), _shown(interval["high"])
                    text += f", 95 % interval {low} to {high}"
                unit = summary["units"].get(label) or ""
                sign = "+" if gains[key] >= 0 else ""
                found.append(
                    {
                        "label": f"{label} · hold-out" if label in held else label,
                        "value": f"{sign}{_shown(gains[key])}",
                        "unit": unit,
                        "text": text,
                    }
                )
                break
    found.append(
        {
            "label": "designs kept",
            "value": str(summary["designs"]),
            "unit": "",
            "text": f"of {summary['drawn']} drawn, {summary['distinct']} distinct",
        }
    )
    return found


def _asked(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Say in words what the campaign asked for."""
    rules = []
    resolved = config["resolved"]
    guides = [
        f"{label}{'' if spec['weight'] == 1 else ' × ' + format(spec['weight'], 'g')}{' (z-score)' if spec['scale'] == 'zscore' else ''}"
        for label, spec in config["rewards"].items()
        if spec["role"] == "guide"
    ]
    held = [label for label, spec in config["rewards"].items() if spec["role"] == "holdout"]
    rules.append(("Raise", ", ".join(guides)))
    if held:
        rules.append(("Hold out", ", ".join(held)))
    prompts = resolved.get("prompts")
    if prompts:
        rules.insert(0, ("Draw", prompts[0] if len(prompts) == 1 else f"{len(prompts)} prompts"))
    if config["design"]["residues"]:
        rules.append(("Design", str(config["design"]["residues"])))
    if config["design"]["fix"]:
        rules.append(("Fix", str(config["design"]["fix"])))
    for key, value in config["constraints"].items():
        try:
            rules += [c.words() for c in constraints({key: value})]
        except ConstraintError:  # of a package that is not installed here
            rules.append((key, str(value)))
    if config["select"]["filters"]:
        rules.append(("Keep if", ", ".join(config["select"]["filters"])))
    sampler = config["resolved"]["sampler"]
    rules.append(("Prior", config["model"]["name"]))
    rules.append(
        (
            "Sampler",
            f"{sampler['name']}, {resolved['islands']} × {config['sampler']['particles']} "
            f"particles, {resolved['steps']} steps, alpha {sampler['alpha']:g}",
        )
    )
    return rules
