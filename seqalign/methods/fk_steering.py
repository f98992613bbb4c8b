"""Feynman-Kac steering: potentials of the whole path, resampling at every n-th step.

Max and sum potentials need no special ending: the driver imposes the reward at the end.

References:
    Singhal et al., "A general framework for inference-time scaling and steering of diffusion
    models", ICML 2025, arXiv 2501.06848, algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from seqalign.core.method import Looped
from seqalign.core.moves import Move
from seqalign.core.potential import Difference, Potential
from seqalign.core.proposal import Base, Proposal
from seqalign.core.selection import Resample
from seqalign.core.tempering import Fitted, Tempering
from seqalign.core.value import Automatic, Value

__all__ = ["FKSteering"]


@dataclass(frozen=True)
class FKSteering(Looped):
    """SMC with a difference, max or sum potential."""

    value: Value = Automatic()
    tempering: Tempering = Fitted()
    potential: Potential = Difference()
    proposal: Proposal = Base()
    resample: Resample = Resample("multinomial", 1.0, every=None)
    move: Move | None = None
