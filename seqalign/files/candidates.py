"""Candidates: sequences and variants in a user's file, FASTA or table, as they are written.

A table says it in columns: a sequence, a variant, a Combo, or several of these, which must agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from seqalign.files.sequences import Fasta, is_fasta, read_records, spelled
from seqalign.files.tables import Row, Table, column_key, read_table

__all__ = ["Candidate", "Claim", "candidates", "tabulated"]

_KINDS: Final = {
    "sequence": (
        "sequence", "seq", "aaseq", "aasequence", "aminoacidsequence", "proteinsequence",
        "proteinseq", "mutatedsequence", "mutantsequence", "variantsequence",
    ),
    "variant": (
        "variant", "variants", "mutation", "mutations", "mutant", "mutants",
        "aasubstitution", "aasubstitutions", "substitution", "substitutions", "aachange",
        "proteinchange", "hgvs", "hgvsp", "hgvspro", "hgvsprotein",
    ),
    "combo": ("combo", "combos"),
}  # fmt: skip
_NAMES: Final = ("id", "name", "identifier")
_KNOWN: Final = {key: kind for kind, keys in _KINDS.items() for key in keys}
_TABLES: Final = (".csv", ".tsv", ".tab", ".txt", ".dat")


@dataclass(frozen=True)
class Claim:
    """One thing a record says about its sequence.

    Attributes:
        kind: "sequence", "variant" or "combo".
        column: where it says so; "" in FASTA.
        text: what it says: of a sequence its letters in upper case without gaps.
        aligned: of a sequence, the letters with their gaps.
    """

    kind: str
    column: str
    text: str
    aligned: str = ""


@dataclass(frozen=True)
class Candidate:
    """What one record of a file says.

    Attributes:
        place: file, line and name, for messages.
        name: of the record; not always unique.
        claims: what it says, at least one thing, unless it was refused.
        notes: what was left out.
        refused: why it cannot be read, in a sentence without its full stop.
    """

    place: str
    name: str
    claims: tuple[Claim, ...] = ()
    notes: tuple[str, ...] = ()
    refused: str = ""


def candidates(path: Path) -> tuple[list[Candidate], tuple[str, ...]]:
    """Return the candidates in a FASTA file or a table, in order, and notes on the whole file.

    Raises:
        ValueError: there is no such file, or it is neither.
    """
    if _is_table(path):
        rows, table = tabulated(path)
        return rows, table.notes
    found, notes = read_records(path)
    return [_of_fasta(n, record) for n, record in enumerate(found, 1)], notes


def tabulated(path: Path) -> tuple[list[Candidate], Table]:
    """Return the candidates of a table, one per row, and the table with its other columns.

    Raises:
        ValueError: there is no such file, or it is no table.
    """
    if not _is_table(path):
        raise ValueError(f"{path}: is no table. Give one with a header, as CSV or TSV.")
    wanted = "'sequence', 'variant' (V39A:D40G) or 'Combo' (letters at designed positions)"
    table = read_table(path, _KNOWN, wanted)
    return list(_of_table(path, table)), table


def _is_table(path: Path) -> bool:
    """Whether a file is a table, and not FASTA."""
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file. Give a FASTA or CSV file.")
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix in (".xlsx", ".xls", ".ods", ".parquet"):
        raise ValueError(f"{path}: save the table as CSV (.csv), or give a FASTA file.")
    return suffix in _TABLES and not is_fasta(path)


def _of_fasta(n: int, record: Fasta) -> Candidate:
    named = re.search(r"(?:^|[\s,])id=([^\s,]+)", record.header)
    first = re.split(r"[\s,]", record.header)[0]
    name = named[1] if named else f"record{n}" if not first or "=" in first else first
    if record.found is None:
        return Candidate(record.place, name, refused=record.refused)
    claim = Claim("sequence", "", record.found.letters, record.found.aligned)
    return Candidate(record.place, name, (claim,), record.found.notes)


def _of_table(path: Path, table: Table) -> Iterator[Candidate]:
    keys = [column_key(column) for column in table.columns]
    names = [keys.index(key) for key in _NAMES if key in keys]
    for n, row in enumerate(table.rows, 1):
        name = next((row.cells[i] for i in names if row.cells and row.cells[i]), "")
        yield _of_row(path, table, keys, row, name, n)


def _of_row(path: Path, table: Table, keys: list[str], row: Row, name: str, n: int) -> Candidate:
    shown = "".join(c if c.isprintable() else " " for c in name)[:40] or f"row{n}"
    place = f"{path}:{row.line} ({shown})"
    if row.refused:
        return Candidate(place, name or f"row{n}", refused=row.refused)
    claims: list[Claim] = []
    notes: list[str] = []
    pairs = list(zip(table.columns, keys, strict=True))
    for (column, key), cell in zip(pairs, row.cells, strict=True):
        kind = _KNOWN.get(key)
        if kind == "sequence" and cell:
            try:
                found = spelled(cell)
            except ValueError as error:
                return Candidate(place, name or f"row{n}", refused=f"{column}: {error}")
            claims.append(Claim(kind, column, found.letters, found.aligned))
            notes += found.notes
        elif kind is not None and cell:
            claims.append(Claim(kind, column, cell))
    if not claims and re.sub(r"[\W_]", "", name).casefold() in ("wt", "wildtype"):
        # an empty list of mutations, where the name says so
        claims = [Claim("variant", c, name) for c, key in pairs if _KNOWN.get(key) == "variant"]
    if not claims:
        columns = [c for c, key in pairs if key in _KNOWN]
        verb = "are" if len(columns) > 1 else "is"
        said = f"{' and '.join(map(repr, columns))} {verb} empty; fill it in, or remove the row"
        return Candidate(place, name or f"row{n}", refused=said)
    sequence = any(claim.kind == "sequence" for claim in claims)
    default = f"row{n}" if sequence else claims[0].text
    return Candidate(place, name or default, tuple(claims), tuple(dict.fromkeys(notes)))
