"""Twisted diffusion sampler: tilted proposal, constant tempering.

Classifier guidance made exact by weights.

References:
    Wu et al., "Practical and asymptotically exact conditional sampling in diffusion models",
    NeurIPS 2023, arXiv 2306.17775, algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from seqalign.core.method import Looped
from seqalign.core.moves import Move
from seqalign.core.proposal import Tilted
from seqalign.core.selection import Resample
from seqalign.core.tempering import Constant, Tempering
from seqalign.core.value import Automatic, Value

__all__ = ["TDS"]


@dataclass(frozen=True)
class TDS(Looped):
    """SMC with a tilted proposal and no tempering."""

    value: Value = Automatic()
    tempering: Tempering = Constant()
    tilt: Tilted = Tilted()
    resample: Resample = Resample()
    move: Move | None = None
