"""DAS: tilted proposal with tempering.

Tempering keeps early, unreliable values from deciding, so that particles stay diverse and the
reward is not over-optimized.

References:
    Kim, Kim & Park, "Test-time alignment of diffusion models without reward over-optimization",
    ICLR 2025, arXiv 2501.05803, algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from seqalign.core.method import Looped
from seqalign.core.moves import Move
from seqalign.core.proposal import Tilted
from seqalign.core.selection import Resample
from seqalign.core.tempering import Adaptive, Tempering
from seqalign.core.value import Automatic, Value

__all__ = ["DAS"]


@dataclass(frozen=True)
class DAS(Looped):
    """Tempered SMC with a tilted proposal."""

    value: Value = Automatic()
    tempering: Tempering = Adaptive()
    tilt: Tilted = Tilted()
    resample: Resample = Resample()
    move: Move | None = None
