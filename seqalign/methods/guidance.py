"""Guidance: the tilted proposal without weights (classifier guidance, DPS).

Cheap and biased: nothing corrects the proposal.

References:
    Dhariwal & Nichol, "Diffusion models beat GANs on image synthesis", NeurIPS 2021, arXiv
    2105.05233. Chung et al., "Diffusion posterior sampling for general noisy inverse problems",
    ICLR 2023, arXiv 2209.14687.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from seqalign.core.method import Looped
from seqalign.core.proposal import Tilted
from seqalign.core.selection import Keep
from seqalign.core.tempering import Constant, Tempering
from seqalign.core.value import PosteriorMean

__all__ = ["Guidance"]


@dataclass(frozen=True)
class Guidance(Looped):
    """The tilted proposal, unweighted."""

    tempering: Tempering = Constant()
    tilt: Tilted = Tilted()
    consistent: ClassVar[bool] = False

    def parts(self) -> Mapping[str, Any]:
        """Keep every particle."""
        return {"value": PosteriorMean(), "selection": Keep()}
