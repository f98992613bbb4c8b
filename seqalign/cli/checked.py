"""What `check` says of a campaign: its parts, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from seqalign import registry
from seqalign.campaign.estimate import Estimate
from seqalign.campaign.medium import Plan
from seqalign.cli.screen import duration

__all__ = ["say_parts"]


def say_parts(plan: Plan, cost: Estimate, say: Callable[[str], object]) -> None:
    """Say what rewards and samplers there are, and what they cost."""
    spec = plan.campaign.model
    about = registry.describe("model", spec.name) if spec.python is None else "your own process"
    say(f"\nModel\n  {spec.name}: {about}\n\nRewards")
    for t in plan.terms:
        c = (
            registry.describe("reward", t.spec.oracle)
            if t.spec.oracle
            else (t.spec.python or t.spec.command or "")
        )
        weight = f"weight {t.spec.weight:g}" if t.spec.role == "guide" else t.spec.role
        unit = f" [{t.raw.unit}]" if t.raw.unit else ""
        gradient = "with gradient" if t.raw.differentiable else "no gradient"
        say(f"  {t.label}{unit}: {weight}, {gradient}. {c}")
    say("\nSamplers")
    for arm in plan.arms:
        rule = registry.to_mapping(arm.method)
        say(
            f"  {arm.name}: {rule.pop('name')}, {plan.islands} × {arm.particles} particles, "
            f"{_flow(rule)}"
        )
    say("\nEstimate")
    say(
        f"  network calls: {sum(cost.network.values()):,} "
        f"({', '.join(f'{k} {v:,}' for k, v in cost.network.items())})"
    )
    say(f"  oracle calls, at most: {', '.join(f'{k} {v:,}' for k, v in cost.oracle.items())}")
    say(
        f"  time: about {duration(cost.seconds)} on this machine ({torch.get_num_threads()} "
        f"threads); memory: about {cost.gigabytes:.1f} GB"
    )


def _flow(rule: Any, inside: bool = False) -> str:
    if isinstance(rule, list):
        return f"[{', '.join(_flow(item, True) for item in rule)}]"
    if not isinstance(rule, Mapping):
        return str(rule)
    text = ", ".join(f"{k}: {_flow(v, True)}" for k, v in rule.items())
    return f"{{{text}}}" if inside else text
