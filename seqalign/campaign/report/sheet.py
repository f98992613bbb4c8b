"""The designs as the page lists them: each with its chains, what changed, and its readiness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from markupsafe import Markup, escape

from seqalign.campaign.medium import for_programs
from seqalign.campaign.report.parts import SHOWN, Run
from seqalign.campaign.report.plate import filled
from seqalign.campaign.report.readiness import Flag, flags
from seqalign.files.orderable import Record

# what a row shows elsewhere
_SHOWN = ("id", "sequence", "mutations", "n_mut", "total")


@dataclass(frozen=True)
class Design:
    """One design.

    Attributes:
        row: of designs.csv.
        well: where a plate has it, first chain first.
        chains: name and letters as markup, what is mutated marked.
        mutations: their names.
        measured: what else the table says of it as a protein: length, pI, ...
        flags: what to know before ordering.
    """

    row: Mapping[str, str]
    well: str
    chains: tuple[tuple[str, Markup], ...]
    mutations: tuple[str, ...]
    measured: Mapping[str, str]
    flags: tuple[Flag, ...]

    def words(self, *levels: str) -> dict[str, None]:
        """Return the flags of some levels in a word each, and each once."""
        return dict.fromkeys(flag.word for flag in self.flags if flag.level in levels)

    @property
    def stops(self) -> bool:
        """Whether it cannot be ordered at all."""
        return bool(self.words("stop"))

    @property
    def ready(self) -> bool:
        """Whether it can be ordered as it stands."""
        return not self.words("stop", "look")


def sheet(run: Run, wild: str | None) -> list[Design]:
    """Return the designs that the page lists, best first."""
    orderable = run.summary.orderable
    assert orderable is not None
    rows = run.kept[:SHOWN]
    places: dict[str, list[str]] = {}
    for well in filled(rows, orderable):
        places.setdefault(well.design, []).append(well.name)
    found = []
    for row in rows:
        letters, chains = orderable.letters(row["sequence"]), orderable.split(row["sequence"])
        measured = {k: v for k, v in row.items() if not _elsewhere(k, run.summary.labels)}
        found.append(
            Design(
                row,
                ", ".join(places.get(row["id"], ())),
                tuple(
                    (r.name, marked(r, chains[r.name], letters, wild)) for r in orderable.records
                ),
                tuple(orderable.mutations(letters, wild)) if wild else (),
                {k: v for k, v in measured.items() if v},
                tuple(flags(chains, row)),
            )
        )
    return found


def _elsewhere(column: str, labels: Sequence[str]) -> bool:
    """Return whether a column is shown elsewhere, or of no use to people."""
    shown = column in _SHOWN or column in labels or column.startswith("sequence_")
    return shown or for_programs(column)


def marked(record: Record, text: str, letters: str, wild: str | None) -> Markup:
    """Return the letters of a chain, those that are mutated between <b> and </b>."""

    def changed(n: int) -> bool:
        place = record.places[n]
        return wild is not None and isinstance(place, int) and letters[place] != wild[place]

    parts = []
    for mutated, some in groupby(range(len(text)), changed):
        run = escape("".join(text[n] for n in some))
        parts.append(f"<b>{run}</b>" if mutated else run)
    return Markup("".join(parts))


def table(run: Run, rows: Sequence[Mapping[str, str]]) -> Mapping[str, Any]:
    """Return what the page saves as CSV and FASTA: cells as designs.csv has them."""
    orderable = run.summary.orderable
    several = orderable is not None and len(orderable.records) > 1
    columns = list(rows[0]) if rows else []
    return {
        "name": run.summary.name,
        # an id of a record is that of the design with this behind it
        "chains": orderable.ids("") if several and orderable is not None else [],
        "columns": columns,
        "rows": [[row[c] or "" for c in columns] for row in rows],
    }
