"""Tables as spreadsheets write them: the separator found, the header found, each row read or not.

- The separator is "," ";" tab or "|": the one under which a row of the first twenty holds a known
  column name and the rows below have as many cells; "sep=;" in the first line decides. Decimal
  commas are therefore no separators where ";" or tab is one.
- Names of columns count without case, white space, punctuation and what stands in parentheses.
- A row that cannot be split, or has more cells than the header, is refused, and no other.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from seqalign.files.cells import text as plain
from seqalign.files.sequences import BLANK, lines_of
from seqalign.files.text import text_of

__all__ = ["Row", "Table", "column_key", "read_table"]

_SEPARATORS: Final = (",", ";", "\t", "|")
# a cell with line ends in it spans lines; an unclosed quote must not swallow the file
_SPAN: Final = 40
# rows that may stand above the header, and rows that judge a separator
_TOP, _JUDGES = 20, 200


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        line: its number in the file, from 1.
        end: the number of its last line.
        cells: as many as there are columns, without white space around; () if it was refused.
        refused: why, in a sentence without its full stop.
    """

    line: int
    end: int
    cells: tuple[str, ...]
    refused: str = ""


@dataclass(frozen=True)
class Table:
    """A table: its columns as they are written, its rows, and notes on how it was read."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


def column_key(name: str) -> str:
    """Return what counts of a column name: "Protein_Sequence (AA)" is "proteinsequence"."""
    outside = re.sub(r"\(.*?\)|\[.*?\]", "", name)
    return "".join(c for c in outside.casefold() if c.isalnum())


def read_table(path: Path, known: Collection[str], wanted: str) -> Table:
    """Return a table that has a column of which `column_key` is known.

    Args:
        path: the file.
        known: keys of columns.
        wanted: which columns these are, in words.

    Raises:
        ValueError: the file is no text, or no row names a known column.
    """
    text, notes = text_of(path, "save the table as CSV")
    # files joined by cat have marks inside
    lines = [line.lstrip("\ufeff") for line in lines_of(text)]
    first = next((i for i, line in enumerate(lines) if line.strip()), None)
    if first is None:
        raise ValueError(f"{path} is empty: give a table with {wanted}.")
    separators: tuple[str | None, ...] = _SEPARATORS
    said = re.fullmatch(r'"?sep=(.)"?', lines[first].strip("\r\n "), re.I)
    if said:
        separators, lines[first] = (said[1],), ""
    found = [(s, h) for s in separators if (h := _header(lines, s, known)) is not None]
    if not found:
        # split as it is split most
        heads = [next(_rows(lines, s, first)).cells for s in separators]
        shown = ", ".join(map(repr, max(heads, key=len)[:8])) or "none"
        raise ValueError(
            f"{path}: there is no column {wanted}; the columns are {shown}. Rename one, and "
            "separate columns by commas, semicolons or tabs."
        )
    if all(len(head.cells) == 1 for _, head in found):
        found = [(None, found[0][1])]
    separator, head = min(found, key=lambda f: _unfit(lines, *f))
    above = [r for r in _rows(lines[: head.line - 1], separator) if any(r.cells)]
    if above:
        notes = (*notes, f"{path}: what stands above the header in line {head.line} is not read")
    rows: list[Row] = []
    again = 0
    for row in _rows(lines, separator, head.end, len(head.cells)):
        if row.cells == head.cells:
            again += 1
        elif row.refused or any(row.cells):
            rows.append(_fitted(row, head))
    if again:
        times = "once" if again == 1 else f"{again} times"
        notes = (*notes, f"{path}: the header is there {times} more, and is left out there")
    if not rows:
        raise ValueError(f"{path} has a header and no rows. Add some.")
    return Table(head.cells, tuple(rows), notes)


def _rows(
    lines: Sequence[str], separator: str | None, start: int = 0, width: int = 0
) -> Iterator[Row]:
    """Yield the rows from a 0-based line on, blank ones too.

    A cell that holds whole rows of `width` cells, because two quotes are open, is refused.
    """
    i = start
    while i < len(lines):
        # without a separator a line is a cell; no text holds NUL
        some = (f"{line}\n" for line in lines[i : i + _SPAN])
        reader = csv.reader(some, delimiter=separator or "\0", strict=True)
        try:
            cells = next(reader)
            inner = (line for cell in cells for line in cell.split("\n")[1:])
            if separator and width > 1 and any(x.count(separator) >= width - 1 for x in inner):
                raise csv.Error("a cell holds the next row")
            yield Row(i + 1, i + reader.line_num, tuple(map(_cell, cells)))
            i += reader.line_num
        except csv.Error as error:
            i += 1
            yield Row(i, i, (), f"the row cannot be split ({error}); close its quotation marks")


def _cell(text: str) -> str:
    """Return a cell without white space around, and without Excel's ="..." or ' for text."""
    text = text.strip(BLANK)
    protected = re.fullmatch(r'="([^"]*)"', text)
    return protected[1].strip(BLANK) if protected else plain(text)


def _header(lines: Sequence[str], separator: str | None, known: Collection[str]) -> Row | None:
    """Return the first row that names a known column."""
    seen = 0
    for row in _rows(lines, separator):
        if any(column_key(cell) in known for cell in row.cells):
            return row
        seen += any(row.cells) or bool(row.refused)
        if seen == _TOP:
            break
    return None


def _unfit(lines: Sequence[str], separator: str | None, head: Row) -> tuple[int, int]:
    """Return how many of the first rows do not fit a header, and its columns, negative."""
    unfit = judged = 0
    for row in _rows(lines, separator, head.end, len(head.cells)):
        if any(row.cells) or row.refused:
            judged += 1
            unfit += bool(_fitted(row, head).refused) or len(row.cells) < len(head.cells)
        if judged == _JUDGES:
            break
    return unfit, -len(head.cells)


def _fitted(row: Row, head: Row) -> Row:
    """Return a row with as many cells as the header; refused if it has more."""
    if row.refused:
        return row
    width, cells = len(head.cells), row.cells
    while len(cells) > width and not cells[-1]:
        cells = cells[:-1]
    if len(cells) > width:
        said = (
            f"the row has {len(cells)} cells and the header {width}; put quotation marks around "
            "a cell that holds the separator, as a decimal comma or a list of mutations may"
        )
        return Row(row.line, row.end, (), said)
    return Row(row.line, row.end, cells + ("",) * (width - len(cells)))
