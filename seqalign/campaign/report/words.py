"""What the report says: headline numbers, what was asked, and whether a gain is real."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seqalign.campaign.report.parts import Groups, as_float, column, finite
from seqalign.campaign.summary import Summary
from seqalign.space.constraint import ConstraintError
from seqalign.space.installed import constraints


@dataclass(frozen=True)
class Verdict:
    """How a guide ("total" for their sum) gained and how much of it its hold-out kept.

    Both in standard deviations of unguided designs.
    """

    guide: str
    held: str
    gain: float
    kept: float

    @property
    def none(self) -> bool:
        """Whether the guide gained nothing."""
        return not self.gain > 0

    @property
    def ratio(self) -> float:
        """What part of the gain the hold-out confirms; NaN without a gain."""
        return self.kept / self.gain if self.gain > 0 else math.nan

    @property
    def flag(self) -> bool:
        """Whether they part."""
        return self.ratio < 0.5

    @property
    def sound(self) -> bool:
        """Whether both can be told."""
        return math.isfinite(self.gain) and math.isfinite(self.kept)


def verdicts(pairs: Sequence[tuple[str, str]], groups: Groups) -> list[Verdict]:
    """Compare top and unguided designs in each pair of guide and hold-out."""

    def gain(key: str) -> float:
        a, b = (finite(column(groups[name], key)) for name in ("top", "plain"))
        spread = float(b.std(ddof=1)) if len(b) > 2 and len(a) else 0.0
        return float((a.mean() - b.mean()) / spread) if spread > 0 else math.nan

    return [Verdict(guide, held, gain(guide), gain(held)) for guide, held in pairs]


def shown(value: Any, digits: int = 2) -> str:
    """Return a number of a table for people: a true minus, a dash for what is no number."""
    number = as_float(value)
    if not math.isfinite(number):
        return "–"
    text = f"{number:.{digits}f}"
    return "−" + text[1:] if text.startswith("-") and float(text) != 0 else text.removeprefix("-")


@dataclass(frozen=True)
class Card:
    """A headline number."""

    label: str
    value: str
    unit: str
    text: str


def cards(summary: Summary) -> list[Card]:
    """Return the headline numbers: each guide against best-of-N, or else against the wild type."""
    found = []
    paired = summary.paired
    # what a hold-out says is a headline where pairs say it: else it is among the verdicts
    held = summary.holdouts if paired is not None else ()
    for label in [*summary.guides, *held]:
        gains = summary.gains[label]
        for gain, name, text in (
            (gains.over_best_of_n, "best_of_n", "over best-of-N at equal network calls"),
            (gains.over_unguided, "unguided", "over unguided designs"),
            (gains.over_wild_type, "", "over the wild type"),
        ):
            if gain is None:
                continue
            versus = getattr(paired, name).get(label) if paired is not None and name else None
            if versus is not None and versus.low is not None:
                text += f", 95 % interval {shown(versus.low)} to {shown(versus.high)}"
            title = f"{label} · hold-out" if label in held else label
            value = f"{'+' if gain >= 0 else ''}{shown(gain)}"
            found.append(Card(title, value, summary.units.get(label) or "", text))
            break
    text = f"of {summary.drawn} drawn, {summary.distinct} distinct"
    return [*found, Card("designs kept", str(summary.designs), "", text)]


def asked(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Say in words what the campaign asked for."""
    resolved, sampler = config["resolved"], config["resolved"]["sampler"]
    guides = [
        label
        + ("" if spec["weight"] == 1 else f" × {spec['weight']:g}")
        + (" (z-score)" if spec["scale"] == "zscore" else "")
        for label, spec in config["rewards"].items()
        if spec["role"] == "guide"
    ]
    held = [label for label, spec in config["rewards"].items() if spec["role"] == "holdout"]
    prompts = resolved.get("prompts") or []
    rules = [
        ("Draw", prompts[0] if len(prompts) == 1 else f"{len(prompts)} prompts" if prompts else ""),
        ("Raise", ", ".join(guides)),
        ("Hold out", ", ".join(held)),
        ("Design", config["design"]["residues"]),
        ("Fix", config["design"]["fix"]),
    ]
    rules = [(key, str(said)) for key, said in rules if said]
    for key, value in config["constraints"].items():
        try:
            rules += [c.words() for c in constraints({key: value})]
        except ConstraintError:  # of a package that is not installed here
            rules.append((key, str(value)))
    if config["select"]["filters"]:
        rules.append(("Keep if", ", ".join(config["select"]["filters"])))
    rules.append(("Prior", config["model"]["name"]))
    drawn = f"{resolved['islands']} × {config['sampler']['particles']} particles"
    law = f"{sampler['name']}, {drawn}, {resolved['steps']} steps, alpha {sampler['alpha']:g}"
    return [*rules, ("Sampler", law)]
