"""Sequential Monte Carlo with the base process as proposal.

The value decides who survives, the base process who is born: no gradient is needed.

References:
    Uehara et al., arXiv 2501.09685, section 4.1 (SMC-based guidance).
    Trippe et al., "Diffusion probabilistic modeling of protein backbones", ICLR 2023, arXiv
    2206.04119.
"""

from __future__ import annotations

from dataclasses import dataclass

from seqalign.core.method import Looped
from seqalign.core.moves import Move
from seqalign.core.selection import Resample
from seqalign.core.tempering import Fitted, Tempering
from seqalign.core.value import Automatic, Value

__all__ = ["PlainSMC"]


@dataclass(frozen=True)
class PlainSMC(Looped):
    """Tempered SMC, gradient-free."""

    value: Value = Automatic()
    tempering: Tempering = Fitted()
    resample: Resample = Resample()
    move: Move | None = None
