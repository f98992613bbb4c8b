"""The page: one HTML file from what the folder of a finished run holds."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from seqalign.campaign.media import MEDIA
from seqalign.campaign.report.figures import gain_bars, lines, scatter
from seqalign.campaign.report.parts import SHOWN, Groups, Run
from seqalign.campaign.report.words import asked, cards, shown
from seqalign.campaign.store import RunFolder
from seqalign.campaign.summary import Summary, Verdict
from seqalign.campaign.verdict import judged, spoken


def report(folder: RunFolder) -> Path:
    """Write report.html of a finished run again, and return where it is.

    Raises:
        ValueError: the run is not finished.
    """
    folder.write("report.html", render(folder, folder.summary()))
    return folder.path / "report.html"


def render(folder: RunFolder, summary: Summary) -> str:
    """Return the HTML of a run from the files in its folder and its summary."""
    run = Run.of(folder, summary)
    compared = MEDIA[summary.kind].compared(run)
    drawn = MEDIA[summary.kind].figures(run, compared.groups)
    if summary.verdicts is None:  # of an older version
        summary = judged(run, compared.centered)
    pairs, sound = run.pairs(), summary.verdicts or ()
    trace = run.trace
    steps = {row["step"] for row in trace}
    reasons = Counter(re.sub(r"\s*\(is .*\)$| to [^ ]+$", "", r["reason"]) for r in run.rejected)
    log_z = [v for v in summary.log_z or () if v is not None]
    templates = files("seqalign").joinpath("templates")
    environment = Environment(
        loader=FunctionLoader(lambda name: templates.joinpath(name).read_text("utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["num"] = shown
    environment.filters["big"] = lambda v: f"{v:,}".replace(",", "\u202f")
    html: str = environment.get_template(drawn.template).render(
        summary=summary,
        config=run.config,
        labels=summary.labels,
        units=summary.units,
        cards=cards(summary),
        asked=asked(run.config, len(summary.ess)),
        figures=drawn.drawn,
        best=compared.best,
        verdicts=[(v, _badge(v)) for v in sound],
        twins=[gain_bars(sound), *_twins(run, compared.groups, pairs)] if sound else [],
        health=_health(run.trace),
        log_z=statistics.fmean(log_z) if log_z else None,
        ess=[v for v in summary.ess if v is not None],
        survivors=[r["survivors"] for r in trace if r["step"] == max(steps)],
        particles=run.config["sampler"]["particles"],
        kept=run.kept[:SHOWN],
        kept_total=len(run.kept),
        rejected=run.rejected[:20],
        reasons=reasons.most_common(),
        calls=summary.network_calls,
        yaml_text=yaml.safe_dump(dict(run.config), sort_keys=False, allow_unicode=True, width=100),
        version=version("seqalign"),
        run_dir=folder.path.name,
        **drawn.values,
    )
    return html


def _badge(verdict: Verdict) -> tuple[str, str]:
    """Return the kind and the badge of one verdict."""
    return ("bad", "No gain") if verdict.none else spoken(verdict, verdict.guide)[:2]


def _twins(run: Run, groups: Groups, pairs: Sequence[tuple[str, str]]) -> list[Markup]:
    """Draw each guide against its hold-out."""
    return [
        scatter(groups, g, h, (run.named(g), run.named(h)), f"{g} against {h}", f"twin-{i}")
        for i, (g, h) in enumerate(pairs)
    ]


def _health(trace: Sequence[Mapping[str, Any]]) -> dict[str, Markup]:
    living = "First particles with living descendants"
    return {
        "ess": lines(trace, "ess", "Effective sample size", "fraction of particles", 0, 1.05),
        "lam": lines(trace, "lam", "Tempering, weight of the reward", "lam", -0.03, 1.05),
        "survivors": lines(trace, "survivors", living, "particles", 0),
        "log_z": lines(trace, "log_z", "Running log Ẑ", "nats"),
    }
