"""Text files as they are written and read: FASTA, CSV, whole or not at all."""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from seqalign.files.cells import cell

__all__ = ["fasta", "finite", "read_fasta", "read_sequences", "read_text", "to_csv", "write_atomic"]


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write a file so that readers see the old one or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    raw = data.encode() if isinstance(data, str) else data
    try:
        with temporary.open("wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def to_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return CSV text; floats with six significant digits, no cell a formula."""
    lines = [columns, *([row.get(name) for name in columns] for row in rows)]
    return "".join(_line([_printed(value) for value in line]) for line in lines)


def _printed(value: Any) -> Any:
    if isinstance(value, str):
        return cell(value)
    return f"{value:.6g}" if isinstance(value, float) else value


def _line(cells: Sequence[Any]) -> str:
    text = io.StringIO()
    # quotes what holds a character of the line end; lines end with \n alone
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return f"{text.getvalue()[:-2]}\n"


def fasta(records: Iterable[tuple[str, str]]) -> str:
    """Return FASTA text of (header, sequence) records, one line per sequence."""
    return "".join(f">{header}\n{sequence}\n" for header, sequence in records)


def read_text(path: Path, cure: str) -> str:
    """Return what a file in UTF-8 says; a ValueError names the byte that is none, and the cure."""
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not text ({error.reason} at byte {error.start}); {cure}."
        ) from error


def read_fasta(path: Path) -> list[tuple[str, str]]:
    """Return the (header, sequence) records of a FASTA file; each has a sequence."""
    records: list[tuple[str, list[str]]] = []
    for n, line in enumerate(read_text(path, "give a FASTA file").splitlines(), 1):
        line = line.strip()
        if line.startswith(">"):
            records.append((line[1:].strip(), []))
        elif line and not records:
            raise ValueError(
                f"{path}:{n}: a FASTA file starts with '>' and a name, but this line is "
                f"{line[:40]!r}."
            )
        elif line:
            records[-1][1].append("".join(line.split()).upper())
    found = [(header, "".join(parts)) for header, parts in records]
    if not found:
        raise ValueError(
            f"{path} is empty: give a FASTA file with one sequence, or the sequence itself."
        )
    for header, sequence in found:
        if not sequence:
            raise ValueError(f"{path}: the record {header!r} has no sequence.")
    return found


def read_sequences(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (place, name, sequence) of a FASTA file, or of the column `sequence` of a CSV."""
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file. Give a FASTA or CSV file.")
    return _of_csv(path) if path.suffix.lower() == ".csv" else _of_fasta(path)


def _of_fasta(path: Path) -> Iterator[tuple[str, str, str]]:
    if path.suffix.lower() in (".tsv", ".xlsx", ".xls"):
        raise ValueError(f"{path}: save the table as CSV (.csv), or give a FASTA file.")
    for n, (header, sequence) in enumerate(read_fasta(path), 1):
        named = re.search(r"(?:^|[\s,])id=([^\s,]+)", header)
        first = re.split(r"[\s,]", header)[0]
        name = named[1] if named else f"record{n}" if not first or "=" in first else first
        yield f"{path}, record {n} ({name})", name, sequence


def _of_csv(path: Path) -> Iterator[tuple[str, str, str]]:
    reader = csv.DictReader(read_text(path, "save it as CSV in UTF-8").splitlines())
    header = [h or "" for h in reader.fieldnames or []]
    if "sequence" not in header:
        shown = ", ".join(map(repr, header[:8])) or "none"
        raise ValueError(
            f"{path}: there is no column 'sequence'; the columns are {shown}. Rename one, and "
            "separate columns by commas."
        )
    n = 0
    for n, row in enumerate(reader, 1):
        sequence = "".join((row["sequence"] or "").split()).upper()
        name = (row.get("id") or row.get("name") or f"row{n}").strip()
        where = f"{path}:{reader.line_num} ({name})"
        if not sequence:
            raise ValueError(f"{where}: the sequence is empty. Fill it in, or remove the row.")
        yield where, name, sequence
    if not n:
        raise ValueError(f"{path} has a header and no rows. Add sequences.")


def finite(value: Any) -> Any:
    """Replace what JSON cannot say (infinities, NaN) by null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return value
