"""Which designs of a pool are kept: filters, ranking, distance and number, in that order.

It works on rows of a table, each with its sequence or its file and its numbers, and on nothing
else, so that a finished run is filtered and ranked again in seconds by the code that did it first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from seqalign.campaign import SelectSpec
from seqalign.metrics import pareto_rank
from seqalign.plan import FILTER

__all__ = ["HARD", "choose", "rounded"]

HARD = ("constraint: ", "rejected by ")
"""How reasons begin that no choice of `select` can lift."""

_TESTS: dict[str, Callable[[float, float], bool]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}


def rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with its numbers as tables print them, six significant digits."""
    return {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in row.items()}


def choose(
    pool: Sequence[Mapping[str, Any]],
    select: SelectSpec,
    signs: Mapping[str, float],
    hard: Callable[[Mapping[str, Any]], str | None],
    key: str = "sequence",
    each: str | None = None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return rows kept, best first, and rows rejected with a reason, both with an id.

    Args:
        pool: distinct designs with "total" and every column that `select` speaks of; its order
            does not matter.
        select: filters, ranking, distance and number.
        signs: +1 or -1 of each reward that a Pareto ranking looks at.
        hard: the reason why a row can never be kept, or None.
        key: the column that tells designs apart; distances are those of sequences.
        each: a column, such as the prompt, of which every value has its own top.
    """
    good: list[dict[str, Any]] = []
    bad: list[dict[str, Any]] = []
    for row in sorted(pool, key=lambda r: (-r["total"], r[key])):
        row = {k: v for k, v in row.items() if k not in ("id", "reason")}
        reason = hard(row) or _filtered(select.filters, row)
        if reason is None:
            good.append(row)
        else:
            bad.append({**row, "reason": reason})
    apart = select.diversity.min_mutations_apart
    kept: list[dict[str, Any]] = []
    counts: Counter[Any] = Counter()
    for row in _ranked(select.rank_by, good, signs, key):
        group = None if each is None else row[each]
        if apart and any(_apart(k["sequence"], row["sequence"]) < apart for k in kept):
            bad.append({**row, "reason": f"closer than {apart} mutations to a better design"})
        elif select.top is not None and counts[group] >= select.top:
            whose = f" of its {each}" if each else ""
            bad.append({**row, "reason": f"below the top {select.top}{whose}"})
        else:
            counts[group] += 1
            kept.append(row)
    width = max(4, len(str(len(kept))))
    for n, row in enumerate(kept, 1):
        row["id"] = f"d{n:0{width}d}"
    for n, row in enumerate(bad, 1):
        row["id"] = f"r{n:0{width}d}"
    return kept, bad


def _apart(a: str, b: str) -> int:
    return sum(x != y for x, y in zip(a, b, strict=True))


def _filtered(filters: Sequence[str], row: Mapping[str, Any]) -> str | None:
    for text in filters:
        match = FILTER.match(text)
        assert match is not None
        value = float(row[match[1]])
        if not _TESTS[match[2]](value, float(match[3])):
            return f"filter: {text} (is {value:.4g})"
    return None


def _ranked(
    rank: str, rows: list[dict[str, Any]], signs: Mapping[str, float], key: str
) -> list[dict[str, Any]]:
    if rank == "pareto":
        if not rows:
            return rows
        values = np.array([[sign * r[label] for label, sign in signs.items()] for r in rows])
        fronts = pareto_rank(values)
        order = sorted(range(len(rows)), key=lambda i: (fronts[i], -rows[i]["total"], rows[i][key]))
        return [rows[i] for i in order]
    sign = 1.0 if rank.startswith("-") else -1.0
    column = rank.removeprefix("-")
    return sorted(rows, key=lambda r: (sign * float(r[column]), r[key]))
