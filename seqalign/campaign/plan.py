"""A plan: a campaign whose every part has been found, built and tried before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seqalign.campaign.islands import Arm, Rehearsal
from seqalign.campaign.metrics import PRIOR_ORDERS
from seqalign.campaign.schema import Campaign
from seqalign.campaign.terms import Term
from seqalign.campaign.yaml import Source
from seqalign.core.discrete import MaskedProcess
from seqalign.core.objective import Reward
from seqalign.files.structure import Structure
from seqalign.registry import (
    ImageModel,
    Model,
)

__all__ = ["Plan"]


@dataclass(frozen=True)
class Plan:
    """A campaign whose every part has been found, built and tried.

    Attributes:
        arms: the aligned sampler first, then baselines.
        unguided: whether the table has a row for unguided designs.
        islands: of the run, all prompts together.
        rehearsals: per arm, what one island asks for.
        config: resolved configuration, with every default, hash and version.
        replicates: islands per prompt of an image model.
    """

    campaign: Campaign
    source: Source
    model: Model | ImageModel
    structure: Structure | None
    terms: tuple[Term, ...]
    objective: Reward
    arms: tuple[Arm, ...]
    islands: int
    unguided: bool
    rehearsals: Mapping[str, Rehearsal]
    config: Mapping[str, Any]
    replicates: int = 1

    @property
    def letters(self) -> Model:
        """The model of a campaign that designs sequences.

        Raises:
            CampaignError: the campaign draws images.
        """
        if isinstance(self.model, ImageModel):
            raise self.source.error(
                ("model", "name"),
                f"{self.model.name!r} draws images, and this needs a campaign that designs "
                "sequences.",
            )
        return self.model

    @property
    def drawn(self) -> int:
        """Designs of all arms, with copies."""
        return sum(a.particles for a in self.arms) * self.islands

    def guides(self) -> list[Term]:
        """Return the rewards that guide."""
        return [t for t in self.terms if t.spec.role == "guide"]

    @property
    def network_calls(self) -> int:
        """Network calls of all arms."""
        return (
            sum(round(self.rehearsals[a.name].network * a.particles) for a in self.arms)
            * self.islands
        )

    @property
    def evaluation_calls(self) -> int:
        """Network calls of the log-likelihoods after a run, at most."""
        if not isinstance(self.letters.process, MaskedProcess):
            return 0
        # of the wild type, too
        return (self.drawn + 1) * PRIOR_ORDERS * self.letters.space.free

    @property
    def reward_calls(self) -> int:
        """Calls of every guide reward in all arms."""
        return (
            sum(round(self.rehearsals[a.name].reward * a.particles) for a in self.arms)
            * self.islands
        )


def _oracle_calls(plan: Plan, role: str) -> int:
    """Return the calls of one reward, at most."""
    if isinstance(plan.model, ImageModel):
        return plan.drawn + (plan.reward_calls if role == "guide" else 0)
    # the wild type, too; what guided a run is in its memory at the end
    return plan.reward_calls if role == "guide" else plan.drawn + 1
