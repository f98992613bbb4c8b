"""The plate as a picture: a well per design, in the order that `export` fills them."""
# ruff: noqa: E501 (markup reads better whole)

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from markupsafe import Markup, escape

from seqalign.campaign.report.parts import as_float
from seqalign.campaign.report.words import shown
from seqalign.files.orderable import Orderable
from seqalign.files.plate import fill, wells

_SIZE: Final = 96


@dataclass(frozen=True)
class Well:
    """One chain of one design on a plate; `name` has the plate if there are several."""

    plate: int
    place: str
    name: str
    design: str
    chain: str


def filled(rows: Sequence[Mapping[str, Any]], orderable: Orderable | None) -> list[Well]:
    """Return the wells of designs as `export` fills them without controls.

    Empty where a design has more chains than a plate has wells.
    """
    chains = [r.name for r in orderable.records] if orderable else [""]
    several = len(chains) > 1
    try:
        pairs = [[(row["id"], name if several else "") for name in chains] for row in rows]
        made = fill(pairs, _SIZE)
    except ValueError:
        return []
    return [
        Well(n, place, f"{n} " * (len(made) > 1) + place, design, chain)
        for n, wells in enumerate(made, 1)
        for place, (design, chain) in wells
    ]


def plates(rows: Sequence[Mapping[str, Any]], orderable: Orderable | None) -> list[Markup]:
    """Draw plates of 96 wells; the higher the sum of the guides, the darker a well."""
    totals = {row["id"]: as_float(row["total"]) for row in rows}
    known = [v for v in totals.values() if math.isfinite(v)]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    shares = {
        name: (v - low) / (high - low) if high > low else 1.0 if math.isfinite(v) else math.nan
        for name, v in totals.items()
    }
    every = filled(rows, orderable)
    numbers = dict.fromkeys(w.plate for w in every)
    return [_plate(n, [w for w in every if w.plate == n], totals, shares) for n in numbers]


def _plate(
    number: int,
    filled: Sequence[Well],
    totals: Mapping[str, float],
    shares: Mapping[str, float],
) -> Markup:
    step, left, top = 30, 26, 24
    parts = [
        f'<svg class="plate" viewBox="0 0 {left + 12 * step + 4} {top + 8 * step + 4}" role="group" '
        f'aria-label="Plate {number}: {len(filled)} wells, A01 to {filled[-1].place}, row by row">'
    ]
    for column in range(12):
        x = left + (column + 0.5) * step
        parts.append(f'<text x="{x}" y="16" class="number">{column + 1}</text>')
    held = {w.place: w for w in filled}
    for i, place in enumerate(wells(_SIZE)):
        row, column = divmod(i, 12)
        x, y = left + (column + 0.5) * step, top + (row + 0.5) * step
        if column == 0:
            parts.append(f'<text x="12" y="{y + 3}" class="number">{place[0]}</text>')
        well = held.get(place)
        if well is None:
            parts.append(f'<circle cx="{x}" cy="{y}" r="12" class="empty"/>')
            continue
        share = shares[well.design]
        deep = 0.15 + 0.85 * share if math.isfinite(share) else 0.0
        chain = f", chain {well.chain}" if well.chain else ""
        said = escape(f"{place}: {well.design}{chain}, {shown(totals[well.design])}")
        parts.append(
            f'<circle cx="{x}" cy="{y}" r="12" class="well" fill-opacity="{deep:.2f}" role="img" '
            f'aria-label="{said}"><title>{said}</title></circle>'
        )
    return Markup("".join([*parts, "</svg>"]))
