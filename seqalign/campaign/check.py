"""The verb `check`: find, build and try every part of a campaign before anything runs.

A name, a parameter, a constraint that cannot be met, a reward that breaks its contract: each stops
here, with the place in the file, at the cost of a few reward calls and no sampling.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import torch

from seqalign.campaign.asked import MOST
from seqalign.campaign.inputs import own_process
from seqalign.campaign.judges import missing, sentences, shares
from seqalign.campaign.media import medium_of
from seqalign.campaign.medium import Arm, Medium, Plan, Rehearsal
from seqalign.campaign.schema import Campaign, RewardSpec
from seqalign.campaign.select import check_select
from seqalign.campaign.terms import Term, load_term, origin
from seqalign.campaign.yaml import CampaignError, Source
from seqalign.core.method import Method
from seqalign.core.objective import Reward, RewardError, Sum, evaluate
from seqalign.core.process import Designs
from seqalign.load import Model
from seqalign.registry import SpecError, build_method, entry, names, nearest, to_mapping


def check(campaign: Campaign, source: Source) -> Plan:
    """Find, build and try every part of a campaign; nothing expensive runs.

    Raises:
        CampaignError: something is wrong; the message names place, value and cure.
    """
    _names(campaign, source)
    with source.blame(("model", "name"), SpecError):
        own = own_process(campaign, source)
        medium = medium_of(campaign.model.name, own)
    method = method_of(campaign, source)
    loaded = medium.load(campaign, source, own)
    model = loaded.model
    check_select(campaign, source, medium, medium.columns(campaign, model))
    replicates, islands, most = _islands(campaign, source, model, medium)
    built = source, loaded.structure, medium.recurs, model.states
    terms = tuple(
        load_term(label, spec, *built, campaign.model.device)
        for label, spec in campaign.rewards.items()
    )
    guides = [t for t in terms if t.spec.role == "guide"]
    if not guides:
        raise source.error(
            ("rewards",),
            "no reward has role: guide, so there is nothing to align to. Give one that role.",
        )
    objective = Sum(tuple((t.spec.weight, t.scaled) for t in guides))
    designs, what = medium.probe(model)
    for term in terms:
        _try(term, medium, designs, what, source)
    arms, rehearsals = _arms(campaign, source, medium, model, method, objective)
    plan = Plan(
        campaign=campaign,
        source=source,
        medium=medium,
        model=model,
        structure=loaded.structure,
        terms=terms,
        objective=objective,
        arms=arms,
        islands=islands,
        rehearsals=rehearsals,
        config={},
        replicates=replicates,
        notes=loaded.notes,
        most=most,
    )
    _limits(plan)
    plan = _judges(_within(plan), designs)
    return replace(plan, config=_resolved(plan, loaded.digests))


def method_of(campaign: Campaign, source: Source) -> Method:
    """Return the method of a campaign, with its hyper-parameters."""
    sampler = campaign.sampler
    try:
        return build_method(sampler.name, sampler.model_extra or {})
    except SpecError as error:
        raise source.error(("sampler", *(error.path or ("name",))), str(error)) from error


def _names(campaign: Campaign, source: Source) -> None:
    """Refuse rewards and baselines that nobody knows."""
    for label, spec in campaign.rewards.items():
        if spec.oracle is not None:
            with source.blame(("rewards", label, "oracle"), SpecError):
                entry("reward", spec.oracle)
    known = ["unguided", *names("method")]
    for i, name in enumerate(campaign.baselines):
        if name not in known:
            said = f"there is no baseline {name!r}. {nearest(name, known)}"
            raise source.error(("baselines", i), said)
        if name in campaign.baselines[:i]:
            raise source.error(("baselines", i), f"{name!r} is given twice. Keep one.")


def _islands(
    campaign: Campaign, source: Source, model: Model, medium: Medium
) -> tuple[int, int, int | None]:
    """Return islands per prompt, of the run, and at most where their number is left to the run."""
    prompts = model.conditions
    each, particles = campaign.sampler.islands, campaign.sampler.particles
    wanted = campaign.budget.designs
    if wanted is not None:
        needed = math.ceil(wanted / (particles * prompts))
        if each is None:
            each = needed
        elif each * particles * prompts < wanted:
            more = f" for each of {prompts} prompts" if prompts > 1 else ""
            raise source.error(
                ("budget", "designs"),
                f"{wanted} designs need {needed} islands of {particles} particles{more}, but "
                f"sampler.islands is {each}. Raise islands, or leave it out.",
            )
        if medium.recurs:
            return needed, needed, campaign.sampler.islands or MOST * needed
    each = each or 1
    return each, each * prompts, None


def _try(term: Term, medium: Medium, designs: Designs, what: str, source: Source) -> None:
    """Try a reward on a few designs, and its gradient if it says it has one."""
    try:
        evaluate(term.raw, designs)
        if term.raw.differentiable:
            got = medium.graded(term.raw, designs)
            if tuple(got.shape) != designs.shape or not bool(torch.isfinite(got).all()):
                raise RewardError(
                    f"Reward {term.label!r} gives shape {tuple(got.shape)} or values that are not "
                    "finite on relaxed designs; it must give (B, K) finite numbers."
                )
    except (ValueError, TypeError) as error:
        raise source.error(("rewards", term.label), f"tried on {what}: {error}") from error


def _arms(
    campaign: Campaign,
    source: Source,
    medium: Medium,
    model: Model,
    method: Method,
    objective: Reward,
) -> tuple[tuple[Arm, ...], Mapping[str, Rehearsal]]:
    """Return the samplers of a run at equal network calls, and what each will ask for."""
    sampler = campaign.sampler
    with source.blame(("sampler",), TypeError, ValueError):
        first = medium.rehearse(method, model, objective, sampler.particles)
    arms, rehearsals = [Arm("aligned", method, sampler.particles)], {"aligned": first}
    wanted = list(dict.fromkeys("best_of_n" if n == "unguided" else n for n in campaign.baselines))
    for i, name in enumerate(wanted):
        if name == sampler.name and not sampler.model_extra:
            continue
        with source.blame(("baselines", i), TypeError, ValueError):
            other = build_method(name, {"alpha": method.alpha})
            trial = medium.rehearse(other, model, objective, 2)
        # the same number of network calls, at least
        spare = int(getattr(other, "burn_in", 0))  # sweeps of a chain that no design comes from
        each = trial.network * 2 / (2 + spare)
        size = max(1, math.ceil(first.network * sampler.particles / each) - spare)
        arms.append(Arm(name, other, size, ("baseline", name)))
        rehearsals[name] = medium.rehearse(other, model, objective, size)
    return tuple(arms), rehearsals


def _judges(plan: Plan, designs: Designs) -> Plan:
    """Return a plan that says who would judge what no hold-out of another kind judges."""
    campaign, source = plan.campaign, plan.source

    def fits(oracle: str) -> bool:
        spec, recurs = RewardSpec(oracle=oracle, role="holdout"), plan.medium.recurs
        try:
            term = load_term("check", spec, source, plan.structure, recurs, plan.model.states)
            evaluate(term.raw, designs)
        except (CampaignError, ValueError, TypeError):
            return False
        return True

    found = missing(campaign, plan.terms, fits)
    said = sentences(found, list(campaign.rewards))
    return replace(plan, judges=found, notes=(*plan.notes, *said))


def _resolved(plan: Plan, digests: Mapping[str, str | None]) -> Mapping[str, Any]:
    """Return the configuration with everything that decides the result."""
    campaign, source, arms = plan.campaign, plan.source, plan.arms
    rewards = {
        t.label: {"command": t.spec.command}
        if t.spec.command is not None
        else origin("reward", t.spec.oracle, t.spec.python, source)
        for t in plan.terms
    }
    return {
        "seqalign": version("seqalign"),
        **campaign.model_dump(mode="json"),
        "resolved": {
            **plan.medium.resolved(plan),
            **digests,
            "islands": plan.islands,
            **({} if plan.most is None else {"islands_most": plan.most}),
            "sampler": to_mapping(arms[0].method),
            "arms": {a.name: {**to_mapping(a.method), "particles": a.particles} for a in arms},
            "model": origin("model", campaign.model.name, campaign.model.python, source),
            "rewards": rewards,
            "shared": shares(campaign),
        },
    }


def _needed(plan: Plan, key: str) -> int:
    """Return the calls of the network or of a reward that a run needs, at most."""
    if key == "network":
        return plan.network_calls
    return plan.medium.oracle_calls(plan, plan.campaign.rewards[key].role)


def _within(plan: Plan) -> Plan:
    """Return a plan whose islands at most need no more calls than the campaign allows."""
    for key, limit in plan.campaign.budget.calls.items():
        if plan.most is not None and _needed(plan.of(plan.most), key) > limit:
            some = range(1, plan.most + 1)
            most = bisect_right(some, limit, key=lambda n: _needed(plan.of(n), key))
            plan = replace(plan, most=most, limit=f"budget.calls.{key}")
    return plan


def _limits(plan: Plan) -> None:
    """Refuse a run that needs more calls than the campaign allows."""
    campaign, source = plan.campaign, plan.source
    for key, limit in campaign.budget.calls.items():
        path = ("budget", "calls", key)
        if key != "network" and key not in campaign.rewards:
            known = nearest(key, ["network", *campaign.rewards])
            raise source.error(path, f"there is no {key!r} to count. {known}")
        need = _needed(plan, key)
        if need > limit:
            raise source.error(
                path,
                f"the run needs {need} calls of {key}, more than {limit}. Lower sampler.particles "
                "or islands, drop baselines, or raise the limit.",
            )
