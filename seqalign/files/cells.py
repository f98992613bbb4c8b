"""Cells of a table that no spreadsheet takes for a formula, and their text back again.

Spreadsheets compute what begins with "=", "+", "-" or "@", also where it came from a file. An
apostrophe before it says that it is text. The pair is exact: `text(cell(t)) == t` for every t.

References:
    OWASP, "CSV injection".
"""

from __future__ import annotations

import re

__all__ = ["cell", "text"]

_NUMBER = re.compile(r"[-+]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|inf|nan)", re.A)
# what already has the apostrophe gets another, or reading would take away the user's own
_FORMULA = re.compile(r"'*[=+\-@\t\r＝＋－＠]")


def cell(text: str) -> str:
    """Return the text of a cell as a table holds it; numbers are no formulas."""
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def text(cell: str) -> str:
    """Return what was given to `cell`; what others wrote stays as it is."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
