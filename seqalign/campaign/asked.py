"""How many different designs were asked for, how many there are, and what became of the others.

What counts is a draw from the target law: of the pooled islands, each with the weight of its Ẑ, a
particle with N times an equal share of the weight comes N times in as many draws as there are
particles. The best of many particles are no such draws, and neither are particles without weight.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import torch
from torch import Tensor

from seqalign.campaign.schema import Campaign
from seqalign.core.particles import Samples
from seqalign.core.streams import Streams

MOST: Final = 8
"""Islands at most, in multiples of those that would do if every particle were a design."""
LIGHT: Final = "weight: too small to come in a draw from the target law"
NEAR: Final = "closer than"
"""How the reason begins where a better design is too near."""


def draws(samples: Samples, seed: int) -> Tensor:
    """Return which of (B, K) particles come in B·K draws from the target law; islands 0 to B − 1.

    Each is among them with probability min(1, B·K·W), W its share of the weight of all. Its random
    number is its own: another island changes it by the shares alone. Without weights all are.

    References:
        Crisan & Lyons, "A particle approximation of the solution of the Kushner-Stratonovitch
        equation", Probab. Theory Relat. Fields 1999 (branching by independent rounding).
    """
    shape = samples.log_w.shape
    u = Streams(seed, tuple(range(shape[0]))).at("draws").uniform(shape)
    return u < samples.weights * samples.log_w.numel()


@dataclass(frozen=True)
class Asked:
    """What became of `budget.designs`.

    Attributes:
        designs: asked for.
        islands: drawn, of at most `most`; `limit` is the key that says so.
        effective: how many equally heavy islands would tell as much; None without weights.
        lost: what became of all other draws, in numbers: "within" an island copies of others,
            copies "between" islands, too "light", "refused", or too "near" a better one.
        apart: mutations between any two that count.
        found: designs that count, before `select.top`.
        sentence: the same for people, with a cure where there are too few.
    """

    designs: int
    islands: int
    most: int
    limit: str
    effective: float | None
    lost: Mapping[str, int] = field(default_factory=dict)
    apart: int = 1
    found: int = 0
    sentence: str = ""

    @classmethod
    def of(cls, samples: Samples, designs: int, most: int, limit: str) -> Asked:
        """Return what islands were drawn, before anything is refused."""
        x = samples.designs.x
        islands, particles = samples.log_w.shape
        each = sum(len(torch.unique(some, dim=0)) for some in x)
        every = len(torch.unique(x.flatten(0, 1), dim=0))
        lost = {"within": islands * particles - each, "between": each - every}
        return cls(designs, islands, most, limit, _effective(samples.log_z), lost)

    @property
    def short(self) -> bool:
        """Whether there are fewer than were asked for."""
        return self.found < self.designs

    def after(self, campaign: Campaign, found: int, reasons: Sequence[str]) -> Asked:
        """Return what is left after a choice, which gave reasons for the designs it refused."""
        light = sum(r == LIGHT for r in reasons)
        near = sum(r.startswith(NEAR) for r in reasons)
        rest = {"light": light, "refused": len(reasons) - light - near, "near": near}
        lost = {"within": self.lost["within"], "between": self.lost["between"], **rest}
        apart = max(1, campaign.select.diversity.min_mutations_apart)
        new = replace(self, lost=lost, apart=apart, found=found)
        return replace(new, sentence=_sentence(new, campaign, reasons))


def _effective(log_z: Tensor | None) -> float | None:
    if log_z is None or not bool(torch.isfinite(log_z).any()):
        return None
    w = torch.softmax(log_z, 0)
    return float(1 / w.square().sum())


# words --------------------------------------------------------------------------------------------


def plural(number: int, what: str) -> str:
    """Return a number with its noun."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def spaced(apart: int) -> str:
    """Return how far different designs are apart, in words."""
    return f", any two at least {apart} mutations apart" if apart > 1 else ""


def _sentence(asked: Asked, campaign: Campaign, reasons: Sequence[str]) -> str:
    law = "" if asked.effective is None else ", as draws from the target law"
    islands = plural(asked.islands, "island")
    found = (
        f"{plural(asked.designs, 'different design')} asked, {asked.found:,} found"
        f"{law}{spaced(asked.apart)}, in {islands}"
    )
    if not asked.short:
        return f"{found}."
    words = {
        "within": "copies of others of their island",
        "between": "copies of those of other islands",
        "light": "too light to come in a draw",
        "refused": "refused by filters, constraints or rewards",
        "near": "too near a better one",
    }
    lost = [f"{n:,} were {words[key]}" for key, n in asked.lost.items() if n]
    drawn = asked.found + sum(asked.lost.values())
    return (
        f"{found}, of {asked.most} at most. Of {plural(drawn, 'particle')} "
        f"{', '.join(lost)}. {_cure(asked, campaign, reasons)}."
    )


def _cure(asked: Asked, campaign: Campaign, reasons: Sequence[str]) -> str:
    """Say what would help most against the greatest loss."""
    more = "raise " + asked.limit
    if asked.limit == "sampler.islands":
        more = f"set sampler.islands above {asked.most}"
    worst = max(asked.lost, key=lambda key: asked.lost[key])
    if worst == "between":
        bounds = _bounds(campaign)
        return f"More islands would find the same ones again: raise sampler.alpha, or {bounds}"
    if worst == "within":
        return f"Raise sampler.alpha, or {more}"
    if worst == "light":
        like = ""
        if asked.effective is not None and asked.islands > 1:
            like = f"The islands weigh like {asked.effective:.1f} equal ones: "
        start = "raise" if like else "Raise"
        return f"{like}{start} sampler.particles or sampler.alpha, or {more}"
    if worst == "near":
        return (
            f"Lower select.diversity.min_mutations_apart (now {asked.apart}), raise "
            f"sampler.alpha, or {more}"
        )
    refused = Counter(r.split(" (is ")[0] for r in reasons if not r.startswith((LIGHT, NEAR)))
    reason = refused.most_common(1)[0][0]
    kind, _, what = reason.partition(": ")
    if kind == "filter":
        return f"Loosen select.filters, first of all {what}, or {more}"
    if kind == "constraint":
        return f"Most break a constraint ({what}): loosen constraints, or {more}"
    return f"Mend rewards.{reason.removeprefix('rejected by ')}, which refused most, or {more}"


def _bounds(campaign: Campaign) -> str:
    """Say what keeps the number of allowed sequences small."""
    most = campaign.constraints.get("max_mutations")
    if most is not None:
        return f"constraints.max_mutations (now {most})"
    if campaign.constraints:
        return "loosen constraints"
    return "let more residues change (design.residues, design.fix)"
