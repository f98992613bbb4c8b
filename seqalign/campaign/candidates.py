"""A user's own sequences, from FASTA or CSV, as sequences of a campaign."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from seqalign.campaign.plan import Plan
from seqalign.files.sheet import Layout
from seqalign.files.text import read_fasta
from seqalign.registry import Model

__all__ = ["Candidate", "read_candidates"]


@dataclass(frozen=True)
class Candidate:
    """One sequence of a file, with all positions of the campaign's model.

    Attributes:
        id: as the file calls it, or its number.
        sequence: L letters; chains joined without a sign between them.
    """

    id: str
    sequence: str


def read_candidates(path: Path, plan: Plan) -> list[Candidate]:
    """Return the sequences of a FASTA file, or of the column `sequence` of a CSV file.

    Chains are joined by "/": as ProteinMPNN prints them where there is a structure (the designed
    chains by name, gaps in the numbers as X), else one after another.

    Raises:
        ValueError: the campaign draws images, the file cannot be read, or a sequence does not fit
            the campaign; the message names the record.
    """
    model = plan.letters
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file. Give a FASTA or CSV file.")
    rows = _of_csv(path) if path.suffix.lower() == ".csv" else _of_fasta(path)
    layout = None if plan.structure is None else Layout.of(plan.structure)
    return [Candidate(name, _fitted(text, where, model, layout)) for where, name, text in rows]


def _of_fasta(path: Path) -> Iterator[tuple[str, str, str]]:
    if path.suffix.lower() in (".tsv", ".xlsx", ".xls"):
        raise ValueError(f"{path}: save the table as CSV (.csv), or give a FASTA file.")
    for n, (header, sequence) in enumerate(read_fasta(path), 1):
        named = re.search(r"(?:^|[\s,])id=([^\s,]+)", header)
        first = re.split(r"[\s,]", header)[0]
        name = named[1] if named else f"record{n}" if not first or "=" in first else first
        yield f"{path}, record {n} ({name})", name, sequence


def _of_csv(path: Path) -> Iterator[tuple[str, str, str]]:
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not text ({error.reason} at byte {error.start}); save it as CSV in UTF-8."
        ) from error
    reader = csv.DictReader(text.splitlines())
    header = [h or "" for h in reader.fieldnames or []]
    if "sequence" not in header:
        shown = ", ".join(map(repr, header[:8])) or "none"
        raise ValueError(
            f"{path}: there is no column 'sequence'; the columns are {shown}. Rename one, and "
            "separate columns by commas."
        )
    some = False
    for n, row in enumerate(reader, 1):
        some = True
        sequence = "".join((row["sequence"] or "").split()).upper()
        name = (row.get("id") or row.get("name") or f"row{n}").strip()
        where = f"{path}:{reader.line_num} ({name})"
        if not sequence:
            raise ValueError(f"{where}: the sequence is empty. Fill it in, or remove the row.")
        yield where, name, sequence
    if not some:
        raise ValueError(f"{path} has a header and no rows. Add sequences.")


def _fitted(text: str, where: str, model: Model, layout: Layout | None) -> str:
    """Return the letters of all positions."""
    alphabet, length = model.space.alphabet, model.space.length
    plain = text.replace("/", "")
    if (
        layout is not None
        and model.wild_type is not None
        and ("/" in text or len(text) != length or "X" in text)
    ):
        try:
            plain = layout.letters(text, model.wild_type)
        except ValueError as error:
            raise ValueError(f"{where} {error}.") from error
    elif "/" in text and [len(part) for part in text.split("/")] != list(model.chains):
        sizes = " / ".join(map(str, model.chains))
        raise ValueError(
            f"{where}: the chains have {' / '.join(str(len(p)) for p in text.split('/'))} letters, "
            f"the model designs {sizes}."
        )
    if len(plain) != length:
        raise ValueError(
            f"{where} has {len(plain)} letters, the model designs {length}. Insertions and "
            "deletions cannot be scored."
        )
    for n, letter in enumerate(plain):
        if letter not in alphabet.letters:
            raise ValueError(
                f"{where}: the letter at {model.residues[n]} is {letter!r}; allowed are "
                f"{alphabet.letters}."
            )
    return plain
