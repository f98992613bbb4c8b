"""What `check` says of a campaign: what would be designed, its parts, what it costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import yaml

from seqalign import registry
from seqalign.campaign.estimate import Estimate
from seqalign.campaign.plan import Plan
from seqalign.campaign.schema import ConstraintSpec
from seqalign.cli.screen import duration

__all__ = ["asked", "say_map", "say_parts", "say_prompts"]


def asked(plan: Plan) -> dict[str, Any]:
    """Return what a campaign asks of its model, for programs."""
    if isinstance(plan.model, registry.ImageModel):
        prompts = plan.model.prompts
        return {
            "prompts": None if prompts is None else list(prompts),
            "islands_per_prompt": plan.replicates,
            "steps": plan.model.steps,
        }
    space = plan.model.space
    return {
        "length": space.length,
        "free": space.free,
        "fixed": space.length - space.free,
        "allowed": {
            plan.model.residues[i]: a
            for i, a in enumerate(space.allowed)
            if space.fixed[i] == space.alphabet.mask_symbol
        },
        "max_mutations": space.max_mutations,
    }


def say_prompts(model: registry.ImageModel, replicates: int, say: Callable[[str], object]) -> None:
    """Say what will be drawn."""
    each = f"{replicates} island{'s' if replicates > 1 else ''} each"
    if model.prompts is None:
        say(f"\nImages without a prompt, {replicates} island{'s' if replicates > 1 else ''}")
        return
    n = len(model.prompts)
    say(f"\n{n} prompt{'s' if n > 1 else ''}, {each}, {model.steps} steps")
    for text in model.prompts:
        say(f"  {text}")


def say_map(plan: Plan, model: registry.Model, say: Callable[[str], object]) -> None:
    """Say which letters may change, and where."""
    space = model.space
    say(
        f"\nDesign map ({space.length} positions, {space.free} free, {space.length - space.free} "
        "fixed"
        + (f", at most {space.max_mutations} mutations" if space.max_mutations is not None else "")
        + ")"
    )
    for line in _map(plan):
        say(line)
    if plan.campaign.constraints != ConstraintSpec():
        say(f"  look-ahead: {space.lookahead_note}; the weights are exact either way")


def _map(plan: Plan) -> list[str]:
    """Draw the design map, chain by chain: wild type, and below it what may change."""
    space, names = plan.letters.space, plan.letters.residues
    free = space.alphabet.mask_symbol
    letters = space.alphabet.letters
    top = space.wild_type or "".join(a if a != free else "?" for a in space.fixed)
    marks = "".join(
        "." if space.fixed[i] != free else ("*" if len(space.allowed[i]) == len(letters) else "+")
        for i in range(space.length)
    )
    lines, begin = [], 0
    for size in plan.letters.chains:
        for start in range(begin, begin + size, 60):
            end = min(start + 60, begin + size)
            ruler = "".join(f"{names[i]:<10s}" for i in range(start, end, 10))
            lines += [f"  {ruler.rstrip()}", f"  {top[start:end]}", f"  {marks[start:end]}"]
        begin += size
    lines.append("  . fixed   * free   + free, fewer letters")
    groups: dict[str, list[int]] = {}
    for i, some in enumerate(space.allowed):
        if marks[i] == "+":
            groups.setdefault(some, []).append(i)
    for some, where in groups.items():
        missing = "".join(a for a in letters if a not in some)
        text = f"all but {missing}" if len(missing) < len(some) else some
        lines.append(f"  {_ranges(where, names)}: {text}")
    given = plan.campaign.constraints
    for key in ("tie", "homo_oligomer", "max_homopolymer", "composition", "forbid", "net_charge"):
        said = given.model_dump(exclude_none=True)[key] if getattr(given, key) else None
        if said:
            lines.append(f"  {key}: {yaml.safe_dump(said, default_flow_style=True).strip()}")
    return [line.removesuffix("\n...") for line in lines]


def _ranges(indices: list[int], names: Sequence[str]) -> str:
    """Return 0-based positions as residue names, runs as FIRST-LAST."""
    parts: list[list[int]] = []
    for n in indices:
        if parts and n == parts[-1][-1] + 1:
            parts[-1].append(n)
        else:
            parts.append([n])
    return ", ".join(f"{names[p[0]]}-{names[p[-1]]}" if len(p) > 1 else names[p[0]] for p in parts)


def say_parts(plan: Plan, cost: Estimate, say: Callable[[str], object]) -> None:
    """Say what rewards and samplers there are, and what they cost."""
    say("\nRewards")
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


def _flow(rule: Any) -> str:
    if isinstance(rule, Mapping):
        return ", ".join(
            f"{k}: {{{_flow(v)}}}" if isinstance(v, Mapping) else f"{k}: {v}"
            for k, v in rule.items()
        )
    return str(rule)
