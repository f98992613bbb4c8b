"""A plan: a campaign whose every part has been found, built and tried before anything runs.

A name, a parameter, a constraint that cannot be met, a reward that breaks its contract: each stops
here, with the place in the file, at the cost of a few reward calls and no sampling.
"""

from __future__ import annotations

import math
import re
from importlib.metadata import version

from seqalign.campaign.inputs import (
    _load_images,
    _load_space,
    _own_process,
    _resolved_input,
    _structure,
)
from seqalign.campaign.islands import Arm, reference_designs, rehearse
from seqalign.campaign.plan import Plan, _oracle_calls
from seqalign.campaign.schema import Campaign
from seqalign.campaign.tables import check_select
from seqalign.campaign.terms import _load_term, _origin, _probe
from seqalign.campaign.yaml import Source
from seqalign.core.objective import (
    Sum,
)
from seqalign.registry import (
    ImageModel,
    Model,
    SpecError,
    build_method,
    draws_images,
    entry,
    names,
    nearest,
    to_mapping,
)

__all__ = ["prepare"]


def prepare(campaign: Campaign, source: Source) -> Plan:
    """Find, build and try every part of a campaign; nothing expensive runs.

    Raises:
        CampaignError: something is wrong; the message names place, value and cure.
    """
    for label, spec in campaign.rewards.items():
        if spec.oracle is not None:
            try:
                entry("reward", spec.oracle)
            except SpecError as error:
                raise source.error(("rewards", label, "oracle"), str(error)) from error
    known = ["unguided", *names("method")]
    for i, name in enumerate(campaign.baselines):
        if name not in known:
            raise source.error(
                ("baselines", i), f"there is no baseline {name!r}. {nearest(name, known)}"
            )
        if name in campaign.baselines[:i]:
            raise source.error(("baselines", i), f"{name!r} is given twice. Keep one.")
    try:
        own = _own_process(campaign, source)
        images = draws_images(campaign.model.name) if own is None else not own.discrete
    except SpecError as error:
        raise source.error(("model", "name"), str(error)) from error
    check_select(campaign, source, images)
    sampler = campaign.sampler
    try:
        method = build_method(sampler.name, sampler.model_extra or {})
    except SpecError as error:
        raise source.error(("sampler", *(error.path or ("name",))), str(error)) from error
    structure, structure_digest = None, None
    model: Model | ImageModel
    if images:
        model, digest = _load_images(campaign, source, own)
    else:
        structure, structure_digest = _structure(campaign, source)
        model, digest = _load_space(campaign, source, structure, own)
    replicates, islands = _islands(campaign, source, model)
    if isinstance(model, Model) and model.wild_type is None:
        used = [
            t
            for t in (*campaign.select.filters, campaign.select.rank_by)
            if re.match(r"-?(n_mut|seq_recovery)", t)
        ]
        if used:
            raise source.error(("select",), f"{used[0]!r} needs a wild type. Give input.wild_type.")
    terms = tuple(
        _load_term(label, spec, source, structure, images)
        for label, spec in campaign.rewards.items()
    )
    guides = [t for t in terms if t.spec.role == "guide"]
    if not guides:
        raise source.error(
            ("rewards",),
            "no reward has role: guide, so there is nothing to align to. Give one that role.",
        )
    objective = Sum(tuple((t.spec.weight, t.scaled) for t in guides))
    few = reference_designs(model)
    if images and (few.x.dim() != 5 or few.x.shape[2] not in (1, 3)):
        raise source.error(
            ("model", "name"),
            f"designs of {campaign.model.name!r} have shape {tuple(few.x.shape[2:])} and are no "
            "images (1 or 3, H, W). Use seqalign.sample in Python.",
        )
    for term in terms:
        _probe(term, model, few, source)
    try:
        first = rehearse(method, model, objective, sampler.particles)
    except (TypeError, ValueError) as error:
        raise source.error(("sampler",), str(error)) from error
    arms = [Arm("aligned", method, sampler.particles)]
    rehearsals = {"aligned": first}
    wanted = list(dict.fromkeys("best_of_n" if n == "unguided" else n for n in campaign.baselines))
    for i, name in enumerate(wanted):
        if name == sampler.name and not sampler.model_extra:
            continue
        try:
            other = build_method(name, {"alpha": method.alpha})
            trial = rehearse(other, model, objective)
        except (SpecError, TypeError, ValueError) as error:
            raise source.error(("baselines", i), str(error)) from error
        # the same number of network calls, at least
        size = max(1, math.ceil(first.network * sampler.particles / trial.network))
        trial = rehearse(other, model, objective, size)
        arms.append(
            Arm(name if name != "aligned" else "baseline-aligned", other, size, ("baseline", name))
        )
        rehearsals[name] = trial
    config = {
        "seqalign": version("seqalign"),
        **campaign.model_dump(mode="json"),
        "resolved": {
            **_resolved_input(model, replicates),
            "input_sha256": digest,
            "structure_sha256": structure_digest,
            "islands": islands,
            "sampler": to_mapping(method),
            "arms": {a.name: {**to_mapping(a.method), "particles": a.particles} for a in arms},
            "model": _origin("model", campaign.model.name, campaign.model.python, source),
            "rewards": {
                t.label: {"command": t.spec.command}
                if t.spec.command is not None
                else _origin("reward", t.spec.oracle, t.spec.python, source)
                for t in terms
            },
        },
    }
    plan = Plan(
        campaign,
        source,
        model,
        structure,
        terms,
        objective,
        tuple(arms),
        islands,
        "unguided" in campaign.baselines,
        rehearsals,
        config,
        replicates,
    )
    for key, limit in campaign.budget.calls.items():
        path = ("budget", "calls", key)
        if key == "network":
            need = plan.network_calls
        elif key in campaign.rewards:
            need = _oracle_calls(plan, campaign.rewards[key].role)
        else:
            raise source.error(
                path,
                f"there is no {key!r} to count. {nearest(key, ['network', *campaign.rewards])}",
            )
        if need > limit:
            raise source.error(
                path,
                f"the run needs {need} calls of {key}, more than {limit}. Lower sampler.particles "
                "or islands, "
                f"drop baselines, or raise the limit.",
            )
    return plan


def _islands(campaign: Campaign, source: Source, model: Model | ImageModel) -> tuple[int, int]:
    """Return islands per prompt, and of the run."""
    prompts = model.conditions if isinstance(model, ImageModel) else 1
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
    each = each or 1
    return each, each * prompts
