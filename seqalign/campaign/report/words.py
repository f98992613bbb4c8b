"""What the report says: headline numbers, what was asked, and whether a gain is real."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from seqalign.campaign.report.figures import _column, _float

__all__ = []


def _pairs(summary: Mapping[str, Any], config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pair each hold-out with its twin among the guides, by oracle or label, or with the total."""
    rewards = config.get("rewards", {})
    pairs = []
    for held in summary["holdouts"]:
        oracle = str(rewards.get(held, {}).get("oracle") or "")
        match = next(
            (
                g
                for g in summary["guides"]
                if (oracle and oracle.startswith(str(rewards.get(g, {}).get("oracle")) + "-"))
                or held.startswith((f"{g}-", f"{g}_"))
            ),
            None,
        )
        pairs.append((match or "total", held))
    return pairs


def _verdicts(
    pairs: Sequence[tuple[str, str]], rows: Mapping[str, list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Compare gains of guide and hold-out over unguided designs, in units of their spread."""
    found = []
    plain, aligned = rows["plain"], rows["top"]
    for guide, held in pairs:
        gains = []
        for key in (guide, held):
            a, b = _column(aligned, key), _column(plain, key)
            a, b = a[np.isfinite(a)], b[np.isfinite(b)]
            gains.append(
                float((a.mean() - b.mean()) / b.std(ddof=1))
                if len(b) > 2 and len(a) and b.std(ddof=1) > 0
                else math.nan
            )
        ratio = gains[1] / gains[0] if gains[0] > 0 else math.nan
        found.append(
            {
                "guide": guide,
                "held": held,
                "gain": gains[0],
                "kept": gains[1],
                "ratio": ratio,
                "flag": ratio < 0.5,
                "none": not gains[0] > 0,
            }
        )
    return found


def _shown(value: Any, digits: int = 2) -> str:
    number = _float(value)
    if not math.isfinite(number):
        return "–"
    text = f"{number:.{digits}f}"
    return "−" + text[1:] if text.startswith("-") and float(text) != 0 else text.removeprefix("-")


def _cards(
    summary: Mapping[str, Any], by_name: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, str]]:
    """Return the headline numbers: each guide against best-of-N, or else against the wild type."""
    found = []
    # what a hold-out says of images is a headline: a sequence report has it among its verdicts
    paired = summary.get("paired", {})
    held = summary["holdouts"] if paired else []
    for label in [*summary["guides"], *held]:
        gains = summary["gains"][label]
        for key, text in (
            ("over_best_of_n", "over best-of-N at equal network calls"),
            ("over_unguided", "over unguided designs"),
            ("over_wild_type", "over the wild type"),
        ):
            if gains[key] is not None:
                interval = paired.get(key.removeprefix("over_"), {}).get(label, {})
                if interval.get("low") is not None:
                    low, high = _shown(interval["low"]), _shown(interval["high"])
                    text += f", 95 % interval {low} to {high}"
                unit = summary["units"].get(label) or ""
                sign = "+" if gains[key] >= 0 else ""
                found.append(
                    {
                        "label": f"{label} · hold-out" if label in held else label,
                        "value": f"{sign}{_shown(gains[key])}",
                        "unit": unit,
                        "text": text,
                    }
                )
                break
    found.append(
        {
            "label": "designs kept",
            "value": str(summary["designs"]),
            "unit": "",
            "text": f"of {summary['drawn']} drawn, {summary['distinct']} distinct",
        }
    )
    return found


def _asked(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Say in words what the campaign asked for."""
    rules = []
    resolved, constraints = config["resolved"], config["constraints"]
    guides = [
        label
        + ("" if spec["weight"] == 1 else f" × {spec['weight']:g}")
        + (" (z-score)" if spec["scale"] == "zscore" else "")
        for label, spec in config["rewards"].items()
        if spec["role"] == "guide"
    ]
    held = [label for label, spec in config["rewards"].items() if spec["role"] == "holdout"]
    rules.append(("Raise", ", ".join(guides)))
    if held:
        rules.append(("Hold out", ", ".join(held)))
    prompts = resolved.get("prompts")
    if prompts:
        rules.insert(0, ("Draw", prompts[0] if len(prompts) == 1 else f"{len(prompts)} prompts"))
    if constraints["max_mutations"] is not None:
        rules.append(("At most", f"{constraints['max_mutations']} mutations"))
    if constraints["omit"]:
        rules.append(("Never", constraints["omit"]))
    if config["design"]["residues"]:
        rules.append(("Design", str(config["design"]["residues"])))
    if config["design"]["fix"]:
        rules.append(("Fix", str(config["design"]["fix"])))
    for key, spec in constraints["residues"].items():
        said = "; ".join(f"{k} {v}" for k, v in spec.items() if v)
        rules.append((f"At {key}", said))
    if config["select"]["filters"]:
        rules.append(("Keep if", ", ".join(config["select"]["filters"])))
    sampler = config["resolved"]["sampler"]
    rules.append(("Prior", config["model"]["name"]))
    rules.append(
        (
            "Sampler",
            f"{sampler['name']}, {resolved['islands']} × {config['sampler']['particles']} "
            f"particles, {resolved['steps']} steps, alpha {sampler['alpha']:g}",
        )
    )
    return rules
