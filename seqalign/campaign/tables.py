"""Tables of designs: who is kept, who is rejected and why."""

from __future__ import annotations

import math
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from seqalign.campaign.metrics import pareto_rank
from seqalign.campaign.metrics import survivors as surviving
from seqalign.campaign.plan import Plan
from seqalign.campaign.schema import Campaign, RewardSpec, SelectSpec
from seqalign.campaign.yaml import Source
from seqalign.core.particles import Samples
from seqalign.registry import (
    nearest,
)

__all__ = ["FILTER", "HARD", "TOP", "check_select", "choose", "rounded"]


TOP = 10
"""Designs in the "top" rows of the comparison."""


def _command(plan: Plan) -> str:
    """Return the command that runs the campaign again."""
    source = plan.source
    demo = re.fullmatch(r"demo-(\w+)\.yaml", source.file)
    if demo is not None:
        return f"seqalign demo {demo[1]} --seed {plan.campaign.seed}"
    changes = [f" --set {shlex.quote(text)}" for text in source.given.values()]
    return f"seqalign run {shlex.quote(source.file)}{''.join(changes)}"


def _weighted(values: Sequence[float], log_w: Sequence[float]) -> float | None:
    pairs = [
        (math.exp(w), v)
        for v, w in zip(values, log_w, strict=True)
        if w > -math.inf and math.isfinite(v)
    ]
    total = sum(w for w, _ in pairs)
    return sum(w * v for w, v in pairs) / total if total > 0 else None


def _signs(rewards: Mapping[str, RewardSpec]) -> dict[str, float]:
    """Return which way each reward is better, of those a Pareto ranking looks at."""
    return {
        label: math.copysign(1, spec.weight)
        for label, spec in rewards.items()
        if spec.role in ("guide", "final")
    }


def _trace(plan: Plan, results: Mapping[str, Samples]) -> Iterator[dict[str, Any]]:
    for arm in plan.arms:
        samples = results[arm.name]
        for b in range(plan.islands):
            alive = surviving(
                [None if s.ancestors is None else s.ancestors[b] for s in samples.trace],
                arm.particles,
            )
            for s, count in zip(samples.trace, alive, strict=True):
                yield {
                    "arm": arm.name,
                    "island": b,
                    "step": s.step,
                    "ess": float(s.ess[b]),
                    "lam": float(s.lam[b]),
                    "log_z": float(s.log_z[b]),
                    "value_mean": float(s.value_mean[b]) * arm.method.alpha,
                    "value_max": float(s.value_max[b]) * arm.method.alpha,
                    "survivors": count,
                    "resampled": s.ancestors is not None,
                    "network_calls": s.network_calls // plan.islands,
                    "reward_calls": s.reward_calls // plan.islands,
                }


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


FILTER = re.compile(
    r"^\s*([A-Za-z][\w-]*)\s*(<=|>=|==|!=|<|>)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*$"
)


def _known(campaign: Campaign, images: bool) -> list[str]:
    labels = list(campaign.rewards)
    numbers = ["total", "log_w", "copies"]
    if not images:
        numbers += ["n_mut", "seq_recovery", "prior", "prior_per_residue"]
    guides = [x for x in labels if campaign.rewards[x].role == "guide"]
    return [*numbers, *labels, *(f"{x}_scaled" for x in guides)]


def check_select(campaign: Campaign, source: Source, images: bool = False) -> None:
    """Refuse filters and rankings by columns that the tables will not have.

    Raises:
        CampaignError: the message names the filter and the nearest column.
    """
    if images and campaign.select.diversity.min_mutations_apart:
        raise source.error(
            ("select", "diversity", "min_mutations_apart"),
            "images have no mutations. Remove it.",
        )
    known = _known(campaign, images)
    for i, text in enumerate(campaign.select.filters):
        match = FILTER.match(text)
        if match is None:
            raise source.error(
                ("select", "filters", i),
                f"cannot read {text!r}: write COLUMN < NUMBER, with one of < <= > >= == !=.",
            )
        if match[1] not in known:
            raise source.error(
                ("select", "filters", i),
                f"there is no column {match[1]!r}. {nearest(match[1], known)}",
            )
    rank = campaign.select.rank_by
    if rank != "pareto" and rank.removeprefix("-") not in known:
        raise source.error(
            ("select", "rank_by"),
            f"there is no column {rank!r}. {nearest(rank, ['pareto', *known])}",
        )
