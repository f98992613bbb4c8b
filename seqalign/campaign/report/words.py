"""What the report says: headline numbers, each with its ruling, and what was asked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seqalign.campaign.asked import plural, spaced
from seqalign.campaign.report.parts import as_float
from seqalign.campaign.summary import Summary
from seqalign.space.constraint import ConstraintError
from seqalign.space.installed import constraints


def shown(value: Any, digits: int = 2) -> str:
    """Return a number of a table for people: a true minus, a dash for what is no number."""
    number = as_float(value)
    if not math.isfinite(number):
        return "–"
    text = f"{number:.{digits}f}"
    return "−" + text[1:] if text.startswith("-") and float(text) != 0 else text.removeprefix("-")


@dataclass(frozen=True)
class Card:
    """A headline number with its ruling.

    Attributes:
        label: the reward.
        value: what the best designs gain, with its sign, over what `over` says.
        kind: of the ruling: "good", "bad", or "open" where nothing was decided.
        badge: the ruling in two words; `text` in sentences.
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


def cards(summary: Summary) -> list[Card]:
    """Return a headline per guide: against best-of-N, or else what there is; and its ruling."""
    return [card for label in summary.guides if (card := _card(summary, label)) is not None]


def _card(summary: Summary, label: str) -> Card | None:
    said = summary.rulings[label]
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
    return Card(
        label,
        signed(value),
        summary.units.get(label) or "",
        f"over {over}",
        said.kind,
        said.badge,
        said.text,
        said.judge,
        tuple(
            (
                words,
                signed(gain),
                signed(getattr(summary.gains[said.judge], key)) if said.judge else "",
            )
            for key, _, words, gain in gains
        ),
    )


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
