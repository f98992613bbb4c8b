"""Text files as they are written, whole or not at all, and the text of files from anywhere."""

from __future__ import annotations

import csv
import gzip
import io
import math
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from seqalign.files.cells import cell

__all__ = ["fasta", "finite", "read_text", "text_of", "to_csv", "write_atomic"]


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


def text_of(path: Path, cure: str) -> tuple[str, tuple[str, ...]]:
    """Return the text of a file from anywhere, gzipped or not, and notes on how it was read.

    UTF-8 and UTF-16 by their byte-order mark, else UTF-8, else Windows-1252, which is noted.

    Raises:
        ValueError: the file is no text; the message says what it is, and the cure.
    """
    data = path.read_bytes()
    if data.startswith(b"\x1f\x8b"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(
                f"{path} is compressed and damaged ({error}); copy it again."
            ) from error
    for start, what in _FORMATS.items():
        if data.startswith(start):
            raise ValueError(f"{path} is {what}, not text; {cure}.")
    notes: tuple[str, ...] = ()
    codec = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(codec)
    except UnicodeDecodeError as error:
        # what spreadsheets write in western Europe; five bytes mean nothing there
        try:
            if codec != "utf-8":
                raise error
            text = data.decode("cp1252")
        except UnicodeDecodeError:
            raise ValueError(
                f"{path} is not text ({error.reason} at byte {error.start}); {cure}."
            ) from error
        notes = (f"{path} is not UTF-8; it is read as Windows-1252, which bears on names only",)
    if "\0" in text:
        raise ValueError(f"{path} is not text (it holds NUL bytes); {cure}, in UTF-8.")
    return text, notes


_FORMATS: Mapping[bytes, str] = {
    b"PK\x03\x04": "an Excel workbook or another zip archive",
    b"\xd0\xcf\x11\xe0": "an old Excel or Word file",
    b"%PDF": "a PDF",
    b"{\\rtf": "rich text (RTF)",
}
_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    # the mark of UTF-32 begins with that of UTF-16
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)


def finite(value: Any) -> Any:
    """Replace what JSON cannot say (infinities, NaN) by null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return value
