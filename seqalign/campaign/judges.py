"""Judges: what the hold-outs of a campaign share with what is optimized, and who else would do.

What is optimized is every guide, and the prior: the target is p_pre(x) · exp(r(x) / alpha).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Final

from seqalign.campaign.schema import Campaign
from seqalign.campaign.terms import Term
from seqalign.campaign.verdict import PRIOR, line
from seqalign.kinship import Kin, kin, shared
from seqalign.registry import SpecError, card, entry, names

Shared = Mapping[str, Mapping[str, list[str] | None]]
"""Per hold-out, per guide and "prior": the names that both have; None where it is not known."""

MOST: Final = 3
"""Judges that are suggested."""


def kin_of(campaign: Campaign, label: str) -> Kin | None:
    """Return what a reward of a campaign, or "prior", is made of; None if it is not known."""
    if label == PRIOR:
        model = campaign.model
        given = model.model_extra or {}
        return None if model.python is not None else kin("model", model.name, given)
    spec = campaign.rewards[label]
    return None if spec.oracle is None else kin("reward", spec.oracle, spec.params)


def shares(campaign: Campaign) -> Shared:
    """Return what each hold-out shares with each guide and with the prior."""
    role = {label: spec.role for label, spec in campaign.rewards.items()}
    optimized = [*(label for label in role if role[label] == "guide"), PRIOR]
    kins = {label: kin_of(campaign, label) for label in (*role, PRIOR)}

    def both(held: str, other: str) -> list[str] | None:
        found = shared(kins[held], kins[other])
        return None if found is None else list(found)

    held = [label for label in role if role[label] == "holdout"]
    return {label: {other: both(label, other) for other in optimized} for label in held}


def missing(
    campaign: Campaign, terms: Sequence[Term], fits: Callable[[str], bool]
) -> Mapping[str, tuple[str, ...]]:
    """Return, per guide that no hold-out of another kind judges, the rewards that would.

    They have the guide's unit, share nothing with any guide and the prior, and fit. A guide that is
    not described, or that a hold-out judges of which nothing is known, is left out.

    Args:
        campaign: the campaign.
        terms: its rewards.
        fits: whether a reward can be built here and scores what the campaign designs.
    """
    guides = [t for t in terms if t.spec.role == "guide"]
    kins = {label: kin_of(campaign, label) for label in (*(t.label for t in guides), PRIOR)}
    if all(kins[t.label] is None for t in guides):
        return {}
    if any(not any(found.values()) for found in shares(campaign).values()):
        return {}
    known = [k for k in kins.values() if k is not None]
    found: dict[str, tuple[str, ...]] = {}
    tried: dict[str, bool] = {}
    for term in guides:
        if kins[term.label] is None or not term.raw.unit:
            continue
        some: list[str] = []
        for name in _foreign(term.raw.unit, known):
            if len(some) < MOST and name not in tried:
                tried[name] = fits(name)
            some += [name] if tried.get(name) else []
        found[term.label] = tuple(some[:MOST])
    return found


def _foreign(unit: str, known: Sequence[Kin]) -> list[str]:
    """Return the rewards with a unit that share nothing; what is made of least comes first."""
    found: list[tuple[int, str]] = []
    for name in names("reward"):
        try:
            own = (
                kin("reward", name, {})
                if _unit(name, entry("reward", name).value) == unit
                else None
            )
        except SpecError:
            continue
        if own is not None and not any(shared(own, other) for other in known):
            found.append((len(own.features) + len(own.data), name))
    return [name for _, name in sorted(found)]


@cache
def _unit(name: str, place: str) -> str:
    """Return the unit on a card; `place` tells two of one name apart."""
    return str(card("reward", name).get("unit") or "")


def sentences(missing: Mapping[str, Sequence[str]], labels: Sequence[str]) -> list[str]:
    """Say which guides no hold-out of another kind judges, where there is one to be had."""
    label = next(
        x for x in ("check", "judge", *(f"check{n}" for n in range(2, 99))) if x not in labels
    )
    whose: dict[str, list[str]] = {}
    for guide, some in missing.items():
        if some:
            whose.setdefault(some[0], []).append(guide)
    return [
        f"no hold-out of another kind judges {' and '.join(guides)}, so that a gain will not be "
        f"confirmed. Add under rewards: {line(oracle, label)}"
        for oracle, guides in whose.items()
    ]
