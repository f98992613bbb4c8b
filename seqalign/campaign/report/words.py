"""What the report says: headline numbers, what was asked, and whether a gain is real."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seqalign.campaign.asked import plural, spaced
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
    """A headline number with its verdict.

    Attributes:
        label: the reward.
        value: what the best designs gain, with its sign, over what `over` says.
        kind: of the verdict: "good", "bad", or "open" where nobody judged.
        badge: the verdict in two words; `text` in a sentence.
        held: the hold-out that judged; "" if none did.
        gains: over what, the gain, and that of the hold-out.
    """

    label: str
    value: str
    unit: str
    over: str
    kind: str
    badge: str
    text: str
    held: str
    gains: tuple[tuple[str, str, str], ...]


_OVER = (
    ("over_best_of_n", "best_of_n", "best-of-N at the same network calls"),
    ("over_unguided", "unguided", "unguided designs"),
    ("over_wild_type", "", "the wild type"),
)


def signed(value: float | None) -> str:
    """Return a gain with its sign; a dash where there is none."""
    return "–" if value is None else f"{'+' * (value >= 0)}{shown(value)}"


def cards(summary: Summary, found: Sequence[Verdict]) -> list[Card]:
    """Return a headline per guide: against best-of-N, or else what there is; and its verdict."""
    return [card for label in summary.guides if (card := _card(summary, label, found)) is not None]


def _card(summary: Summary, label: str, found: Sequence[Verdict]) -> Card | None:
    own = [v for v in found if v.guide == label] or [v for v in found if v.guide == "total"]
    # the strictest judge has the word
    verdict = min(own, key=lambda v: v.ratio if v.gain > 0 else -math.inf, default=None)
    held = "" if verdict is None else verdict.held
    gains = [
        (key, arm, words, getattr(summary.gains[label], key))
        for key, arm, words in _OVER
        if getattr(summary.gains[label], key) is not None
    ]
    if not gains:
        return None
    _, arm, over, value = gains[0]
    paired = summary.paired
    versus = getattr(paired, arm).get(label) if paired is not None and arm else None
    if versus is not None and versus.low is not None:
        over += f", 95 % interval {shown(versus.low)} to {shown(versus.high)}"
    kind, badge, text = spoken(verdict, label)
    return Card(
        label,
        signed(value),
        summary.units.get(label) or "",
        f"over {over}",
        kind,
        badge,
        text,
        held,
        tuple(
            (words, signed(gain), signed(getattr(summary.gains[held], key)) if held else "")
            for key, _, words, gain in gains
        ),
    )


def spoken(verdict: Verdict | None, label: str) -> tuple[str, str, str]:
    """Return what kind of verdict it is, its badge, and its sentence."""
    if verdict is None:
        return (
            "open",
            "Not checked",
            "No hold-out judged this gain. A reward with role: holdout would.",
        )
    whose = "the sum of the guides" if verdict.guide == "total" else label
    if verdict.none:
        return "bad", "No gain", f"The best designs are no better in {whose} than unguided ones."
    part = f"{100 * verdict.ratio:.0f} %" if verdict.ratio > 0.005 else "nothing"
    what = f"{verdict.held}, never optimized, "
    if verdict.flag:
        text = f"{what}confirms {part} of the gain in {whose}: take the rest for an artifact."
        return "bad", "They part", text
    return "good", "Confirmed", f"{what}confirms {part} of the gain in {whose}."


def asked(config: Mapping[str, Any], islands: int) -> list[tuple[str, str]]:
    """Say in words what the campaign asked for, and how many islands it took."""
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
    if "islands_most" in resolved:
        apart = spaced(config["select"]["diversity"]["min_mutations_apart"])
        rules.append(("Find", f"{plural(config['budget']['designs'], 'different design')}{apart}"))
    if config["select"]["filters"]:
        rules.append(("Keep if", ", ".join(config["select"]["filters"])))
    rules.append(("Prior", config["model"]["name"]))
    drawn = f"{islands} × {config['sampler']['particles']} particles"
    law = f"{sampler['name']}, {drawn}, {resolved['steps']} steps, alpha {sampler['alpha']:g}"
    return [*rules, ("Sampler", law)]
