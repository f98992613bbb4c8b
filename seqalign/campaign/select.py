"""Which designs of a pool are kept: filters, ranking, distance and number, in that order.

It works on rows of a table, each with its sequence or its file and its numbers, and on nothing
else, so that a finished run is filtered and ranked again in seconds by the code that did it first.
"""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from seqalign.campaign.images import (
    _by_prompt,
    _draw,
    _image_columns,
    _image_sheet,
    _shown,
)
from seqalign.campaign.letters import _columns
from seqalign.campaign.report.page import render
from seqalign.campaign.store import RunFolder
from seqalign.campaign.summary import from_json
from seqalign.campaign.tables import FILTER, HARD, _signs, check_select, choose
from seqalign.campaign.yaml import CampaignError, read
from seqalign.files.sheet import Sheet
from seqalign.files.text import finite, to_csv

__all__ = ["reselect"]


def reselect(folder: RunFolder, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Choose again among the designs of a finished run, and write every table anew.

    Starts from the options the run was started with; `overrides` are texts such as
    "select.top=24". Nothing is drawn or scored. A process killed at any moment loses no design:
    the same call again finds them all.

    Raises:
        ValueError: the run is not finished, or another process works in its folder.
        CampaignError: an option is wrong.
    """
    if not folder.path.is_dir():
        raise ValueError(f"{folder.path} is no run folder: there is no such folder.")
    with folder.lock():
        summary = folder.read_json("summary.json")
        config = folder.read_config()
        images = summary.get("kind") == "images"
        if "fasta" not in summary and not images:
            raise ValueError(
                f"{folder.path} was written by an older version, which stored too little to choose "
                "again. Run its campaign with --fresh."
            )
        for text in overrides:
            if not text.strip().startswith("select."):
                raise CampaignError(
                    f"--set {text}: only select.* can change without sampling, such as "
                    "select.top=24. Change the campaign and run it for anything else."
                )
        plain = {k: v for k, v in config.items() if k not in ("seqalign", "resolved")}
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "config.yaml"
            path.write_text(yaml.safe_dump(plain, sort_keys=False), "utf-8")
            campaign, source = read(path, overrides, label=str(folder.path / "config.yaml"))
        check_select(campaign, source, images)
        sheet = None if images else Sheet.read(summary["fasta"])
        columns = (
            _image_columns(campaign.rewards)
            if sheet is None
            else _columns(campaign.rewards, sheet.wild is not None)
        )
        key = "file" if images else "sequence"
        rows = [*folder.read_csv("rejected.csv"), *folder.read_csv("designs.csv")]
        pool: dict[str, dict[str, Any]] = {}
        for row in rows:
            # rejected.csv comes first: it has the reasons
            pool.setdefault(row[key], _stored(row))
        used = [campaign.select.rank_by.removeprefix("-")]
        used += [match[1] for f in campaign.select.filters if (match := FILTER.match(f))]
        for name in used:
            if name not in (*columns, "pareto"):
                raise source.error(("select",), f"this run has no column {name!r}.")
        reasons = {s: row.get("reason", "") for s, row in pool.items()}

        def hard(row: Mapping[str, Any]) -> str | None:
            reason = reasons[row[key]]
            return reason if reason.startswith(HARD) else None

        kept, rejected = choose(
            list(pool.values()),
            campaign.select,
            _signs(campaign.rewards),
            hard,
            key=key,
            each="prompt" if images else None,
        )
        # every design is in rejected.csv while designs.csv changes
        folder.write("rejected.csv", to_csv([*rejected, *kept], [*columns, "reason"]))
        folder.write("designs.csv", to_csv(kept, columns))
        folder.write("rejected.csv", to_csv(rejected, [*columns, "reason"]))
        if sheet is not None:
            folder.write("designs.fasta", sheet.fasta(kept))
        again = "".join(f" --set {shlex.quote(text)}" for text in overrides)
        first = str(summary["command"]).partition("\n")[0]
        summary |= {
            "command": f"{first}\nseqalign select DIR{again}" if overrides else first,
            "select": campaign.select.model_dump(mode="json"),
            "designs": len(kept),
            "rejected": len(rejected),
        }
        if images:
            labels = list(campaign.rewards)
            chosen = _by_prompt(summary["prompts"], kept)
            for line, (_, mine) in zip(summary["gallery"], chosen, strict=True):
                line["arms"]["aligned"] = _shown(mine, [*labels, "total"])
            _draw(folder, [row["file"] for row in kept])
            if any(arm for line in summary["gallery"] for arm in line["arms"].values()):
                sheet_ = _image_sheet(folder, summary["gallery"], labels)
                folder.write("contact-sheet.png", sheet_)
        folder.write(
            "report.html", render(folder, from_json({"kind": "letters", **finite(summary)}))
        )
        folder.write_json("summary.json", summary)
        return summary


def _stored(row: Mapping[str, str]) -> dict[str, Any]:
    """Return a row of a table with its numbers as numbers."""
    text = ("id", "sequence", "mutations", "method", "reason", "prompt", "file")
    whole = ("n_mut", "copies", "seed", "island")
    return {
        k: v if k in text else int(v) if k in whole else float(v)
        for k, v in row.items()
        if v is not None
    }
