"""The page: one HTML file from what the folder of a finished run holds."""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined

from seqalign.campaign.report.figures import _gain_bars, _lines, _named, _scatter
from seqalign.campaign.report.images import _centered, _image_figures, _picture, _small
from seqalign.campaign.report.letters import _sequence_figures
from seqalign.campaign.report.logo import _CHEMISTRY
from seqalign.campaign.report.words import _asked, _cards, _shown, _verdicts
from seqalign.campaign.store import RunFolder

__all__ = ["render"]


def render(folder: RunFolder, summary: Mapping[str, Any]) -> str:
    """Return the HTML of a run from the files in its folder and its summary."""
    config = folder.read_config()
    # a run can be chosen from again without sampling
    config["select"] = summary.get("select", config["select"])
    kept, rejected = folder.read_csv("designs.csv"), folder.read_csv("rejected.csv")
    trace = [row for row in folder.read_lines("trace.jsonl") if row["arm"] == "aligned"]
    plain = [row for row in folder.read_csv("baselines.csv") if row["method"] == "best_of_n"]
    labels = [*summary["guides"], *summary["finals"], *summary["holdouts"]]
    by_name = {row["row"]: row for row in summary["rows"]}
    images = summary.get("kind") == "images"
    figures_of = _image_figures if images else _sequence_figures
    figures, pairs, rows = figures_of(summary, config, kept, rejected, plain)
    verdicts = _verdicts(pairs, _centered(rows) if images else rows) if plain else []
    sound = [v for v in verdicts if math.isfinite(v["gain"]) and math.isfinite(v["kept"])]
    twins = [
        _scatter(
            rows,
            g,
            h,
            ("sum of the guides" if g == "total" else _named(g, summary), _named(h, summary)),
            f"{g} against {h}",
            f"twin-{i}",
            "unguided",
        )
        for i, (g, h) in enumerate(pairs)
    ]
    if sound:
        figures["gains"] = _gain_bars(sound)
    health = {
        "ess": _lines(
            trace, "ess", "Effective sample size", "fraction of particles", "ess", 0, 1.05
        ),
        "lam": _lines(trace, "lam", "Tempering, weight of the reward", "lam", "lam", -0.03, 1.05),
        "survivors": _lines(
            trace,
            "survivors",
            "First particles with living descendants",
            "particles",
            "survivors",
            0,
        ),
        "log_z": _lines(trace, "log_z", "Running log Ẑ", "nats", "log_z"),
    }
    log_z = [v for v in summary["log_z"] or [] if v is not None]
    reasons = Counter(re.sub(r"\s*\(is .*\)$| to [^ ]+$", "", r["reason"]) for r in rejected)
    text = files("seqalign").joinpath("templates", "report.html.j2").read_text("utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["num"] = _shown
    environment.filters["big"] = lambda v: f"{v:,}".replace(",", " ")
    environment.filters["picture"] = lambda name: _picture(folder.path / name)
    page = environment.from_string(text)
    html: str = page.render(
        images=images,
        small=_small(folder, summary) if images else True,
        summary=summary,
        config=config,
        labels=labels,
        units=summary["units"],
        cards=_cards(summary, by_name),
        figures=figures,
        twins=twins,
        verdicts=sound,
        health=health,
        log_z=statistics.fmean(log_z) if log_z else None,
        ess=[v for v in summary["ess"] if v is not None],
        survivors=[
            r["survivors"] for r in trace if r["step"] == max((t["step"] for t in trace), default=0)
        ],
        particles=config["sampler"]["particles"],
        kept=kept[:200],
        kept_total=len(kept),
        rejected=rejected[:20],
        reasons=reasons.most_common(),
        wild=config["resolved"]["wild_type"],
        asked=_asked(config),
        calls=summary["network_calls"],
        chemistry=[(name, color) for name, (_, color) in _CHEMISTRY.items()],
        yaml_text=yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100),
        version=version("seqalign"),
        run_dir=folder.path.name,
        has_n_mut=any("n_mut" in row for row in summary["rows"]),
    )
    return html
