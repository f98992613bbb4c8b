"""Is a gain real? What hold-outs say of it, and which of them has the word.

A hold-out was never optimized. One of another kind, which shares neither features nor data with the
guides and the prior, can confirm a gain. A twin makes the guides' mistakes: it can refuse a gain
and never confirms one. Of a hold-out that nobody described it is said that it was not compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

from seqalign.campaign.report.parts import Groups, Run, column, finite
from seqalign.campaign.summary import Ruling, Summary, Verdict

TOTAL: Final = "total"
PRIOR: Final = "prior"
_RANK: Final = {"foreign": 0, "unknown": 1, "twin": 2}


def judged(run: Run, compared: Groups) -> Summary:
    """Return the summary of a run with its verdicts."""
    summary = run.summary
    found = [v for v in verdicts(run, compared) if v.sound] if run.plain else []
    prior = str(run.config.get("model", {}).get("name", "")) or "the prior"
    rulings = {
        label: ruling(label, found, summary.judges.get(label, ()), prior)
        for label in summary.guides
    }
    return replace(summary, verdicts=tuple(found), rulings=rulings)


def verdicts(run: Run, compared: Groups) -> list[Verdict]:
    """Compare top and unguided designs in each pair of guide and hold-out."""

    def gain(key: str) -> tuple[float, float]:
        """Return how far the top is above unguided designs, and its standard error."""
        a, b = (finite(column(compared[name], key)) for name in ("top", "plain"))
        spread = float(b.std(ddof=1)) if len(b) > 2 and len(a) else 0.0
        if not spread > 0:
            return math.nan, math.nan
        own = float(a.var(ddof=1)) if len(a) > 1 else spread**2
        error = math.sqrt(own / len(a) + spread**2 / len(b))
        return float(a.mean() - b.mean()) / spread, error / spread

    known = run.config.get("resolved", {}).get("shared", {})
    rewards = run.config.get("rewards", {})
    return [
        Verdict(
            guide,
            held,
            gain(guide)[0],
            gain(held)[0],
            str(rewards.get(held, {}).get("oracle") or ""),
            {
                other: None if names is None else tuple(names)
                for other, names in known.get(held, {}).items()
            },
            gain(held)[1],
        )
        for guide, held in run.pairs()
    ]


def speaker(label: str, found: Iterable[Verdict]) -> Verdict | None:
    """Return the verdict that has the word on a guide.

    One of another kind, else one that nobody described, else a twin; then one of this guide rather
    than of the sum; then the strictest.
    """
    own = [v for v in found if v.guide in (label, TOTAL)]

    def order(v: Verdict) -> tuple[int, bool, float, bool]:
        ratio = v.ratio if v.gain > 0 else -math.inf
        return _RANK[v.kind], v.guide == TOTAL, ratio, v.rises

    return min(own, key=order, default=None)


def ruling(
    label: str, found: Iterable[Verdict], instead: Sequence[str] = (), prior: str = "the prior"
) -> Ruling:
    """Return what is said of the gain in a guide.

    Args:
        label: the guide.
        found: verdicts of any guides.
        instead: rewards that would be judges of another kind.
        prior: what the model is called.
    """
    v = speaker(label, found)
    if v is None:
        said = "No hold-out judged this gain."
        return Ruling("", "open", "Not checked", f"{said} {_cure(instead)}")
    if v.none:
        said = f"The best designs are no better in {_whose(v, label)} than unguided ones."
        return Ruling(v.held, "bad", "No gain", said)
    return Ruling(v.held, *spoken(v, label, instead, prior))


def spoken(
    v: Verdict, label: str, instead: Sequence[str] = (), prior: str = "the prior"
) -> tuple[Any, str, str]:
    """Return the kind, badge and words of one verdict on a guide that gained."""
    whose = _whose(v, label)
    part = f"{100 * v.ratio:.0f} %" if v.ratio > 0.005 else "nothing"
    name = f"{v.held} ({v.oracle})" if v.oracle else v.held
    if v.kind == "twin":
        ties = _ties(v, prior)
        if v.flag:
            said = f"{name}, never optimized, confirms {part} of the gain in {whose}, although it "
            return "bad", "They part", f"{said}shares {ties}: take the rest for an artifact."
        said = f"{name}, never optimized, shows {part} of the gain in {whose}, but it shares {ties}"
        return "open", "Withheld", f"{said}: a twin confirms nothing. {_cure(instead)}"
    if v.kind == "foreign":
        whom = _named(v.shared, prior)
        kind = f"It is of another kind: it shares neither features nor data with {whom}."
    else:
        whom = _named([x for x, names in v.shared.items() if names is None], prior)
        kind = f"What it shares with {whom} is unknown: not compared."
    said = f"{name}, never optimized, confirms {part} of the gain in {whose}"
    if v.flag and v.rises:
        return "open", "In part", f"{said}: it rises, by less than the guide. {kind}"
    if v.flag:
        left = "it" if v.ratio <= 0.005 else "the rest"
        return "bad", "They part", f"{said}: nothing vouches for {left}. {kind}"
    return "good", "Confirmed", f"{said}. {kind}"


def _whose(v: Verdict, label: str) -> str:
    return "the sum of the guides" if v.guide == TOTAL else label


def _ties(v: Verdict, prior: str) -> str:
    """Return what a hold-out shares, and with whom, in words."""
    whom: dict[tuple[str, ...], list[str]] = {}
    for other, names in v.shared.items():
        if names:
            whom.setdefault(names, []).append(other)
    return "; ".join(f"{_listed(names)} with {_named(some, prior)}" for names, some in whom.items())


def _named(others: Iterable[str], prior: str) -> str:
    """Return labels of guides, and what the model is called, as a list in words."""
    return _listed([prior if x == PRIOR else x for x in others] or ["what was optimized"])


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _cure(instead: Sequence[str]) -> str:
    """Say which rewards would be judges of another kind, and how to take the first."""
    if not instead:
        return "A reward of another kind with role: holdout would judge it."
    return f"{' or '.join(instead)} would judge it; add under rewards: {line(instead[0])}"


def line(oracle: str, label: str = "check") -> str:
    """Return the line that makes a reward a hold-out."""
    return f"{label}: {{oracle: {oracle}, role: holdout}}"
