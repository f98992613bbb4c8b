"""What a page is made of: a run as its folder has it, and what a medium draws of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from seqalign.campaign.store import RunFolder
from seqalign.campaign.summary import Summary

# designs a page lists
SHOWN: Final = 200

Groups = Mapping[str, Sequence[Mapping[str, Any]]]
"""Rows with numbers: "plain" (unguided), "aligned", "top" (the best of them) and "wild"."""


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        config: resolved configuration, with the options designs were chosen by last.
        kept: rows of designs.csv; `rejected` those of rejected.csv.
        plain: designs of best-of-N, unguided.
        trace: the steps of the aligned sampler.
    """

    folder: RunFolder
    summary: Summary
    config: Mapping[str, Any]
    kept: Sequence[Mapping[str, str]]
    rejected: Sequence[Mapping[str, str]]
    plain: Sequence[Mapping[str, str]]
    trace: Sequence[Mapping[str, Any]]

    @classmethod
    def of(cls, folder: RunFolder, summary: Summary) -> Run:
        """Read a run from its folder."""
        return cls(
            folder,
            summary,
            {**folder.read_config(), "select": summary.select},
            folder.read_csv("designs.csv"),
            folder.read_csv("rejected.csv"),
            [row for row in folder.read_csv("baselines.csv") if row["method"] == "best_of_n"],
            [row for row in folder.read_lines("trace.jsonl") if row["arm"] == "aligned"],
        )

    @property
    def aligned(self) -> list[Mapping[str, str]]:
        """Every distinct design of the aligned sampler."""
        return [*self.kept, *self.rejected]

    def letters(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return the letters of all positions of each design."""
        assert self.summary.orderable is not None
        return [self.summary.orderable.letters(row["sequence"]) for row in rows]

    def named(self, label: str) -> str:
        """Return a reward with its unit, or what their sum is called."""
        if label == "total":
            return "sum of the guides"
        unit = self.summary.units.get(label)
        return f"{label} ({unit})" if unit else label

    def pairs(self) -> list[tuple[str, str]]:
        """Pair each hold-out with the guide it speaks of, or with their sum, "total".

        By oracle or label, NAME and NAME-...; else the only guide, or the only one with its unit.
        There are none where nothing was drawn.
        """
        rewards, units = self.config.get("rewards", {}), self.summary.units
        guides = self.summary.guides

        def guide(held: str) -> str:
            oracle = str(rewards.get(held, {}).get("oracle") or "")
            for label in guides:
                own = f"{rewards.get(label, {}).get('oracle')}-"
                if oracle.startswith(own) or held.startswith((f"{label}-", f"{label}_")):
                    return label
            unit = units.get(held)
            some = [x for x in guides if unit and units.get(x) == unit] or list(guides)
            return some[0] if len(some) == 1 else "total"

        return [(guide(held), held) for held in self.summary.holdouts] if self.aligned else []


@dataclass(frozen=True)
class Compared:
    """Rows that a run is judged by.

    Attributes:
        groups: by whose designs they are.
        centered: the same rows, as the gains of guides and hold-outs are compared.
        best: which designs are "top", in words.
    """

    groups: Groups
    centered: Groups
    best: str


@dataclass(frozen=True)
class Figures:
    """What a medium draws of a run.

    Attributes:
        template: the page they stand on.
        drawn: by the names that the template knows; none where nothing was drawn.
        values: what else the template asks for.
    """

    template: str
    drawn: Mapping[str, Any]
    values: Mapping[str, Any] = field(default_factory=dict)


def as_float(text: Any) -> float:
    """Return a number of a table; NaN for what is none."""
    try:
        return float(text)
    except (TypeError, ValueError):
        return math.nan


def column(rows: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    """Return one column as numbers, (n,)."""
    return np.array([as_float(row.get(key)) for row in rows])


def finite(values: np.ndarray) -> np.ndarray:
    """Return the finite values."""
    return np.asarray(values[np.isfinite(values)])


def mean(values: np.ndarray) -> float:
    """Return the mean of the finite values; NaN if there is none."""
    some = finite(values)
    return float(some.mean()) if len(some) else math.nan
