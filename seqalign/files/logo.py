"""The sequence logo and the heat map of mutations: SVG written letter by letter."""
# ruff: noqa: E501 (markup reads better whole)

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from markupsafe import Markup, escape

# chemistry of the amino acids; one color each works on light and on dark ground
CHEMISTRY = {
    "hydrophobic": ("AVLIMC", "#3f8f6b"),
    "aromatic": ("FWY", "#7a63c7"),
    "polar": ("STNQ", "#2f8fb8"),
    "positive": ("KRH", "#3b6fd4"),
    "negative": ("DE", "#d0503f"),
    "special": ("GP", "#c8862a"),
}

_COLOR = {letter: color for letters, color in CHEMISTRY.values() for letter in letters}
LETTERS = "GPAVLIMCFWYSTNQKRHDE"


@cache
def _glyph(letter: str) -> str:
    """Return the outline of a letter as SVG path data in the unit square, baseline at the bottom."""
    # slow to import, and most commands draw nothing
    from matplotlib.font_manager import FontProperties
    from matplotlib.path import Path as Outline
    from matplotlib.textpath import TextPath

    shape = TextPath(
        (0, 0), letter, size=100, prop=FontProperties(family="DejaVu Sans", weight="bold")
    )
    box = shape.get_extents()
    scale = np.array([1 / max(box.width, 22), 1 / box.height])
    # an I stays thin: it is centered instead of stretched
    shift = np.array([(max(box.width, 22) - box.width) / 2, 0.0])
    parts = []
    names = {Outline.MOVETO: "M", Outline.LINETO: "L", Outline.CURVE3: "Q", Outline.CURVE4: "C"}
    for points, code in shape.iter_segments():
        if code == Outline.CLOSEPOLY:
            parts.append("Z")
            continue
        xy = (np.asarray(points).reshape(-1, 2) - [box.x0, box.y0] + shift) * scale
        parts.append(names[code] + " ".join(f"{x:.3f},{1 - y:.3f}" for x, y in xy))
    return "".join(parts)


def _ticks(residues: Sequence[str]) -> dict[int, str]:
    """Return the residues to label: every number that five divides, and the first if it is apart."""
    fifth = [n.endswith(("0", "5")) for n in residues]
    ticks = {i: name for i, name in enumerate(residues) if fifth[i]}
    if residues and not ticks.keys() & {0, 1, 2}:
        ticks[0] = residues[0]
    return ticks


def _text(x: float, y: float, kind: str, text: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}"{more}>{escape(text)}</text>'


@dataclass(frozen=True)
class Track:
    """A line of cells under the logo: a number per residue, as a share of the deepest color.

    Attributes:
        name: what stands beside it.
        color: of a share above zero, and of one below.
        shares: -1 to 1 per residue; None is left empty.
        said: what each cell says.
    """

    name: str
    color: tuple[str, str]
    shares: Sequence[float | None]
    said: Sequence[str]


def logo(
    sequences: Sequence[str],
    wild_type: str | None,
    residues: Sequence[str],
    tracks: Sequence[Track] = (),
    per_line: int = 42,
) -> Markup:
    """Draw letter frequencies per residue; letters of the wild type are faint, mutations colored."""
    ticks = _ticks(residues)
    length = len(sequences[0])
    cell, high, top, step = 22.0, 96.0, 8.0, 13.0
    gap = 40.0 + step * len(tracks) + 6 * bool(tracks)
    left = 50.0 if tracks else 4.0
    lines = math.ceil(length / per_line)
    columns = min(per_line, length)
    width, height = left + columns * cell + 4, lines * (high + gap) + top
    used = sorted({a for s in sequences for a in s})
    names = [escape(name) for name in residues]
    parts = [
        f'<svg class="wide" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="Sequence logo of the designs">',
        "<defs>",
        *(f'<path id="aa-{ord(a)}" d="{_glyph(a)}"/>' for a in used),
        "</defs>",
    ]
    for i in range(length):
        line, column = divmod(i, per_line)
        x, base = left + column * cell, top + line * (high + gap) + high
        counts = Counter(s[i] for s in sequences)
        at = base
        for count, letter in sorted(((n, a) for a, n in counts.items()), reverse=True):
            size = high * count / len(sequences)
            at -= size
            if size < 1.5:
                continue
            native = wild_type is not None and letter == wild_type[i]
            fill = "var(--native)" if native else _COLOR.get(letter, "var(--ink)")
            parts.append(
                f'<g fill="{fill}"><title>{names[i]}: {escape(letter)} {100 * count / len(sequences):.0f} %</title>'
                f'<use href="#aa-{ord(letter)}" transform="translate({x + 1:.1f} {at + 0.4:.2f}) scale({cell - 2:.1f} {size - 0.8:.2f})"/></g>'
            )
        if wild_type is not None:
            changed = counts.get(wild_type[i], 0) < len(sequences)
            weight = ' font-weight="700"' if changed else ""
            parts.append(_text(x + cell / 2, base + 13, "letter", wild_type[i], weight))
        if i in ticks:
            parts.append(_text(x + cell / 2, base + 26, "number", ticks[i]))
        for n, track in enumerate(tracks):
            y = base + 32 + n * step
            if column == 0:
                parts.append(_text(left - 5, y + 8.5, "number track", track.name))
            share = track.shares[i]
            if share is not None:
                fill = f'fill="{track.color[share < 0]}" fill-opacity="{min(abs(share), 1):.2f}"'
                parts.append(
                    f'<rect x="{x + 1:.1f}" y="{y:.1f}" width="{cell - 2:.1f}" height="{step - 2}" rx="2" {fill}>'
                    f"<title>{names[i]}: {escape(track.said[i])}</title></rect>"
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
    ticks, names = _ticks(residues), [escape(name) for name in residues]
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
        for row, letter in enumerate(LETTERS):
            style = f' style="fill:{_COLOR[letter]};font-weight:700"'
            parts.append(_text(left - 7, y0 + (row + 0.8) * cell_y, "letter", letter, style))
    for i in range(length):
        line, column = divmod(i, per_line)
        x, y0 = left + column * cell_x, top + line * (20 * cell_y + gap)
        if not free[i]:
            parts.append(
                f'<rect x="{x}" y="{y0}" width="{cell_x}" height="{20 * cell_y}" class="fixed"><title>{names[i]} is fixed</title></rect>'
            )
        counts = Counter(s[i] for s in sequences)
        for letter, count in counts.items():
            if letter not in LETTERS or (wild_type is not None and letter == wild_type[i]):
                continue
            y = y0 + LETTERS.index(letter) * cell_y
            share = count / len(sequences)
            parts.append(
                f'<rect x="{x + 0.5:.1f}" y="{y + 0.5:.1f}" width="{cell_x - 1}" height="{cell_y - 1}" rx="1.5" '
                f'fill="var(--aligned)" fill-opacity="{0.12 + 0.88 * math.sqrt(share):.3f}">'
                f"<title>{escape(wild_type[i]) if wild_type else ''}{names[i]}{letter}: {100 * share:.0f} % "
                "of designs</title></rect>"
            )
        if wild_type is not None and wild_type[i] in LETTERS:
            y = y0 + (LETTERS.index(wild_type[i]) + 0.5) * cell_y
            parts.append(f'<circle cx="{x + cell_x / 2:.1f}" cy="{y:.1f}" r="1.8" class="dot"/>')
        if i in ticks:
            parts.append(_text(x + cell_x / 2, y0 + 20 * cell_y + 14, "number", ticks[i]))
    parts.append("</svg>")
    return Markup("".join(parts))
