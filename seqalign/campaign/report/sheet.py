"""The designs as the page lists them: each with its chains, what changed, and its readiness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from markupsafe import Markup, escape

from seqalign.campaign.report.parts import SHOWN, Run
from seqalign.campaign.report.plate import fill
from seqalign.campaign.report.readiness import Flag, flags
from seqalign.files.orderable import Record

# what a row shows elsewhere, or nobody orders by
_KNOWN = frozenset(
    {
        *("id", "sequence", "mutations", "n_mut", "seq_recovery", "total", "prior"),
        *("prior_per_residue", "log_w", "copies", "method", "seed", "reason"),
    }
)


@dataclass(frozen=True)
class Design:
    """One design.

    Attributes:
        row: of designs.csv.
        well: where a plate has it, first chain first.
        chains: name and letters as markup, what is mutated marked.
        mutations: their names.
        measured: what else the table says of it as a protein: length, pI, ...
        flags: what to look at before ordering.
    """

    row: Mapping[str, str]
    well: str
    chains: tuple[tuple[str, Markup], ...]
    mutations: tuple[str, ...]
    measured: Mapping[str, str]
    flags: tuple[Flag, ...]

    @property
    def words(self) -> dict[str, None]:
        """The flags in a word or two, each once."""
        return dict.fromkeys(flag.word for flag in self.flags)

    @property
    def stops(self) -> bool:
        """Whether it cannot be ordered."""
        return any(flag.stops for flag in self.flags)


def sheet(run: Run, wild: str | None) -> list[Design]:
    """Return the designs that the page lists, best first."""
    orderable = run.summary.orderable
    assert orderable is not None
    names, rows = [r.name for r in orderable.records], run.kept[:SHOWN]
    places: dict[str, list[str]] = {}
    for well in fill(rows, names):
        several = len(rows) * len(names) > 96
        places.setdefault(well.design, []).append(f"{well.plate} " * several + well.place)
    ours = _KNOWN | {*run.summary.labels} | {f"{x}_scaled" for x in run.summary.guides}
    found = []
    for row in rows:
        letters, chains = orderable.letters(row["sequence"]), orderable.split(row["sequence"])
        found.append(
            Design(
                row,
                ", ".join(places.get(row["id"], ())),
                tuple(
                    (r.name, marked(r, chains[r.name], letters, wild)) for r in orderable.records
                ),
                tuple(orderable.mutations(letters, wild)) if wild else (),
                {k: v for k, v in row.items() if k not in ours and v not in (None, "")},
                tuple(flags(chains)),
            )
        )
    return found


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
    names = [r.name for r in orderable.records] if orderable else []
    columns = list(rows[0]) if rows else []
    return {
        "name": run.summary.name,
        "chains": names if len(names) > 1 else [],
        "columns": columns,
        "rows": [[row[c] or "" for c in columns] for row in rows],
    }
