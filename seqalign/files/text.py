"""Text files as they are written and read: FASTA, CSV, whole or not at all."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["fasta", "finite", "read_fasta", "to_csv", "write_atomic"]


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
    """Return CSV text; floats with six significant digits."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    return text.getvalue()


def fasta(records: Iterable[tuple[str, str]]) -> str:
    """Return FASTA text of (header, sequence) records, one line per sequence."""
    return "".join(f">{header}\n{sequence}\n" for header, sequence in records)


def read_fasta(path: Path) -> list[tuple[str, str]]:
    """Return the (header, sequence) records of a FASTA file.

    Raises:
        ValueError: the file holds no sequence, or text comes before the first header.
    """
    records: list[tuple[str, list[str]]] = []
    try:
        lines = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not text ({error.reason} at byte {error.start}); give a FASTA file."
        ) from error
    for n, line in enumerate(lines, 1):
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


def finite(value: Any) -> Any:
    """Replace what JSON cannot say (infinities, NaN) by null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return value
