"""The verb `select`: which designs are kept, by filters, ranking, distance and number.

Choosing works on rows of a table and on nothing else, so that a finished run is filtered and
ranked again in seconds by the code that did it first.
"""

from __future__ import annotations

import math
import operator
import re
import shlex
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import yaml

from seqalign.campaign.asked import LIGHT, NEAR, Asked
from seqalign.campaign.media import MEDIA
from seqalign.campaign.medium import Medium, Record, is_likelihood
from seqalign.campaign.metrics import pareto_rank
from seqalign.campaign.report.page import render
from seqalign.campaign.report.parts import Run
from seqalign.campaign.schema import Campaign, DiversitySpec
from seqalign.campaign.store import RunFolder
from seqalign.campaign.summary import Summary, to_json
from seqalign.campaign.verdict import judged
from seqalign.campaign.yaml import CampaignError, Source, parse
from seqalign.files import ordering
from seqalign.files.text import to_csv
from seqalign.registry import nearest

HARD = ("constraint: ", "rejected by ", LIGHT)
"""How reasons begin that no choice of `select` can lift."""


_TESTS: dict[str, Callable[[float, float], bool]] = {
    **{"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge},
    **{"==": operator.eq, "!=": operator.ne},
}
FILTER = re.compile(
    r"^\s*([A-Za-z][\w-]*)\s*(<=|>=|==|!=|<|>)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*$"
)
TEXT = ("id", "sequence", "mutations", "method", "reason", "prompt", "file")
WHOLE = ("n_mut", "copies", "seed", "island")
"""Columns of text, and of whole numbers, beside those for ordering; all others are numbers."""


def _is_text(column: str) -> bool:
    return column in TEXT or ordering.TEXT.fullmatch(column) is not None


def choose(
    pool: Sequence[Record],
    campaign: Campaign,
    medium: Medium,
    hard: Callable[[Record], str | None],
) -> tuple[list[Record], list[Record]]:
    """Return rows kept, best first, and rows rejected with a reason, both with an id.

    Args:
        pool: distinct designs with "total" and every column that `select` speaks of; its order
            does not matter.
        campaign: whose filters, ranking, distance and number count.
        medium: what tells designs apart; distances are those of sequences.
        hard: the reason why a row can never be kept, or None.
    """
    spec, key, each = campaign.select, medium.key, medium.each
    good: list[Record] = []
    bad: list[Record] = []
    for row in sorted(pool, key=lambda r: (-r["total"], r[key])):
        row = {k: v for k, v in row.items() if k not in ("id", "reason")}
        reason = hard(row) or _filtered(spec.filters, row)
        if reason is None:
            good.append(row)
        else:
            bad.append({**row, "reason": reason})
    apart = spec.diversity.min_mutations_apart
    kept: list[Record] = []
    counts: Counter[Any] = Counter()
    ranked = _ranked(campaign, good, key)
    # whatever differs is one apart
    letters = np.array([list(row["sequence"]) for row in ranked]) if apart > 1 else None
    taken: list[int] = []
    for n, row in enumerate(ranked):
        group = None if each is None else row[each]
        if letters is not None and ((letters[taken] != letters[n]).sum(1) < apart).any():
            bad.append({**row, "reason": f"{NEAR} {apart} mutations to a better design"})
        elif spec.top is not None and counts[group] >= spec.top:
            whose = f" of its {each}" if each else ""
            bad.append({**row, "reason": f"below the top {spec.top}{whose}"})
        else:
            counts[group] += 1
            kept.append(row)
            taken.append(n)
    width = max(4, len(str(len(kept))))
    for letter, rows in (("d", kept), ("r", bad)):
        for n, row in enumerate(rows, 1):
            row["id"] = f"{letter}{n:0{width}d}"
    return kept, bad


def candidates(
    pool: Sequence[Record],
    campaign: Campaign,
    medium: Medium,
    hard: Callable[[Record], str | None],
) -> list[Record]:
    """Return the rows that are kept, or may be: those whose log-likelihoods are wanted.

    Where filters or the ranking speak of log-likelihoods, which the rows need not have, these are
    all that pass everything else.
    """
    spec = campaign.select
    plain = [text for text in spec.filters if not _of_likelihood(text)]
    if len(plain) < len(spec.filters) or is_likelihood(spec.rank_by.removeprefix("-")):
        open_ = {"filters": plain, "rank_by": "total", "top": None, "diversity": DiversitySpec()}
        campaign = campaign.model_copy(update={"select": spec.model_copy(update=open_)})
    return choose(pool, campaign, medium, hard)[0]


def _of_likelihood(text: str) -> bool:
    """Return whether a filter speaks of a log-likelihood."""
    match = FILTER.match(text)
    return match is not None and is_likelihood(match[1])


def account(
    asked: Asked,
    pool: Sequence[Record],
    campaign: Campaign,
    medium: Medium,
    hard: Callable[[Record], str | None],
) -> Asked:
    """Return what became of `budget.designs` in a pool, whatever `select.top` keeps of it."""
    every: dict[str, Any] = {"top": None}
    if campaign.select.diversity.min_mutations_apart < 2:
        every |= {"rank_by": "total"}  # the order of different designs does not matter
    chosen = campaign.model_copy(update={"select": campaign.select.model_copy(update=every)})
    found, rejected = choose(pool, chosen, medium, hard)
    return asked.after(campaign, len(found), [row["reason"] for row in rejected])


def _filtered(filters: Sequence[str], row: Record) -> str | None:
    unknown = None
    for text in filters:
        match = FILTER.match(text)
        assert match is not None
        if row[match[1]] is None:
            unknown = unknown or f"filter: {text} (is not known)"
            continue
        value = float(row[match[1]])
        if not _TESTS[match[2]](value, float(match[3])):
            return f"filter: {text} (is {value:.4g})"
    # what another filter rejects need not be known
    return unknown


def _ranked(campaign: Campaign, rows: list[Record], key: str) -> list[Record]:
    rank = campaign.select.rank_by
    if rank == "pareto":
        if not rows:
            return rows
        signs = {
            label: math.copysign(1, spec.weight)
            for label, spec in campaign.rewards.items()
            if spec.role in ("guide", "final")
        }
        values = np.array([[sign * r[label] for label, sign in signs.items()] for r in rows])
        fronts = pareto_rank(values)
        order = sorted(range(len(rows)), key=lambda i: (fronts[i], -rows[i]["total"], rows[i][key]))
        return [rows[i] for i in order]
    sign = 1.0 if rank.startswith("-") else -1.0
    column = rank.removeprefix("-")
    known = [r for r in rows if r[column] is not None]
    best = sorted(known, key=lambda r: (sign * float(r[column]), r[key]))
    return best + sorted((r for r in rows if r[column] is None), key=lambda r: str(r[key]))


def check_select(
    campaign: Campaign, source: Source, medium: Medium, columns: Sequence[str]
) -> None:
    """Refuse filters and rankings by columns that the tables do not have."""
    spec = campaign.select
    if spec.diversity.min_mutations_apart and "sequence" not in columns:
        raise source.error(
            ("select", "diversity", "min_mutations_apart"),
            f"{medium.kind} have no mutations. Remove it.",
        )
    known = [c for c in columns if not _is_text(c) and c not in ("seed", "island")]
    for i, text in enumerate(spec.filters):
        path, match = ("select", "filters", i), FILTER.match(text)
        if match is None:
            said = "write COLUMN < NUMBER, with one of < <= > >= == !=."
            raise source.error(path, f"cannot read {text!r}: {said}")
        if match[1] not in known:
            said = nearest(match[1], known)
            raise source.error(path, f"there is no column {match[1]!r}. {said}")
    if spec.rank_by != "pareto" and spec.rank_by.removeprefix("-") not in known:
        said = nearest(spec.rank_by, ["pareto", *known])
        raise source.error(("select", "rank_by"), f"there is no column {spec.rank_by!r}. {said}")


def write(
    folder: RunFolder,
    medium: Medium,
    summary: Summary,
    columns: Sequence[str],
    kept: Sequence[Record],
    rejected: Sequence[Record],
) -> Summary:
    """Write what depends on which designs are kept; the summary, which means done, comes last."""
    summary = medium.publish(folder, summary, kept, [*kept, *rejected])
    # every design is in rejected.csv while designs.csv changes
    folder.write("rejected.csv", to_csv([*rejected, *kept], [*columns, "reason"]))
    folder.write("designs.csv", to_csv(kept, columns))
    folder.write("rejected.csv", to_csv(rejected, [*columns, "reason"]))
    run = Run.of(folder, summary)
    summary = judged(run, medium.compared(run).centered)
    folder.write("report.html", render(folder, summary))
    folder.write_json("summary.json", to_json(summary))
    return summary


def select(folder: RunFolder, overrides: Sequence[str] = ()) -> Summary:
    """Choose again among the designs of a finished run, and write every table anew.

    Starts from the options the run was started with; `overrides` are texts such as
    "select.top=24". Nothing is drawn or scored. A process killed at any moment loses no design:
    the same call again finds them all.

    Raises:
        ValueError: the run is not finished, or another process works in its folder.
        CampaignError: an option is wrong.
    """
    config = folder.read_config()
    with folder.lock():
        summary = folder.summary()
        medium = MEDIA[summary.kind]
        campaign, source = _campaign(folder, config, overrides)
        columns = [c for c in folder.read_header("rejected.csv") if c != "reason"]
        _refuse_absent(campaign, source, columns)
        check_select(campaign, source, medium, columns)
        pool: dict[str, Record] = {}
        for row in [*folder.read_csv("rejected.csv"), *folder.read_csv("designs.csv")]:
            # rejected.csv comes first: it has the reasons
            pool.setdefault(row[medium.key], _stored(row, campaign.rewards))
        reasons = {key: row.get("reason", "") for key, row in pool.items()}

        def hard(row: Record) -> str | None:
            reason: str = reasons[row[medium.key]]
            return reason if reason.startswith(HARD) else None

        _refuse_unknown(list(pool.values()), campaign, source, medium, hard)
        kept, rejected = choose(list(pool.values()), campaign, medium, hard)
        asked = summary.asked
        if asked is not None:
            asked = account(asked, list(pool.values()), campaign, medium, hard)
        again = "".join(f" --set {shlex.quote(text)}" for text in overrides)
        first = summary.command.partition("\n")[0]
        summary = replace(
            summary,
            command=f"{first}\nseqalign select DIR{again}" if overrides else first,
            select=campaign.select.model_dump(mode="json"),
            designs=len(kept),
            rejected=len(rejected),
            asked=asked,
        )
        return write(folder, medium, summary, columns, kept, rejected)


def _refuse_absent(campaign: Campaign, source: Source, columns: Sequence[str]) -> None:
    """Refuse columns for ordering that runs have, and this one has not."""
    spec = campaign.select
    used = [match[1] for text in spec.filters if (match := FILTER.match(text))]
    for name in (*used, spec.rank_by.removeprefix("-")):
        if name not in columns and "sequence" in columns and is_likelihood(name):
            raise source.error(
                ("select",),
                f"this run has no column {name!r}: output.likelihoods was false. Run its campaign "
                "with it and --fresh, or leave the column out.",
            )
        if name not in columns and "sequence" in columns and ordering.NUMBER.fullmatch(name):
            raise source.error(
                ("select",),
                f"this run has no column {name!r}: its designs are no such molecules or chains, or "
                "an older version wrote it. Run its campaign with --fresh if so.",
            )


def _refuse_unknown(
    pool: Sequence[Record],
    campaign: Campaign,
    source: Source,
    medium: Medium,
    hard: Callable[[Record], str | None],
) -> None:
    """Refuse a choice by log-likelihoods where designs that it could keep have none."""
    spec = campaign.select
    used = [match[1] for text in spec.filters if (match := FILTER.match(text))]
    for name in filter(is_likelihood, (*used, spec.rank_by.removeprefix("-"))):
        some = candidates(pool, campaign, medium, hard)
        if unknown := sum(row[name] is None for row in some):
            raise source.error(
                ("select",),
                f"{unknown:,} of {len(some):,} designs have no {name}: a run finds it for what it "
                "keeps. Choose by it in the campaign and run that with --fresh, or leave it out.",
            )


def without_likelihood(folder: RunFolder) -> int:
    """Return how many designs that are kept have no log-likelihood where the run found some."""
    kept, rejected = (folder.read_csv(f"{name}.csv") for name in ("designs", "rejected"))
    found = any(row.get("prior") for row in (*kept, *rejected))
    return sum(not row.get("prior") for row in kept) if found else 0


def _campaign(
    folder: RunFolder, config: Mapping[str, Any], overrides: Sequence[str]
) -> tuple[Campaign, Source]:
    """Return the campaign of a run, with other options of `select`."""
    for text in overrides:
        if not text.strip().startswith("select."):
            raise CampaignError(
                f"--set {text}: only select.* can change without sampling, such as "
                "select.top=24. Change the campaign and run it for anything else."
            )
    plain = {k: v for k, v in config.items() if k not in ("seqalign", "resolved")}
    text = yaml.safe_dump(plain, sort_keys=False)
    return parse(text, str(folder.path / "config.yaml"), folder.path, overrides)


def _stored(row: Mapping[str, str], rewards: Collection[str]) -> Record:
    """Return a row of a table with its numbers as numbers; None is not known."""

    def value(column: str, text: str) -> str | int | float | None:
        if _is_text(column):
            return text
        whole = column in WHOLE or ordering.WHOLE.fullmatch(column)
        if not text:
            return None
        return int(text) if whole and column not in rewards else float(text)

    return {k: value(k, v) for k, v in row.items() if v is not None}
