"""Nested importance sampling: M children per parent, one survives with their mean weight.

Local competition like SVDD's, with the weights that make it exact.

References:
    Naesseth, Lindsten & Schön, "Nested sequential Monte Carlo methods", ICML 2015, arXiv
    1502.02536. Uehara et al., arXiv 2501.09685, section 4.2 (nested importance sampling).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seqalign.core.method import Looped
from seqalign.core.proposal import Base, Proposal
from seqalign.core.selection import OneChild, Resample
from seqalign.core.tempering import Fitted, Tempering
from seqalign.core.value import Automatic, Value

__all__ = ["NestedIS"]


@dataclass(frozen=True)
class NestedIS(Looped):
    """SMC whose proposal is the best of M, exactly weighted."""

    branch: int = 4
    value: Value = Automatic()
    tempering: Tempering = Fitted()
    proposal: Proposal = Base()
    resample: Resample = Resample()

    def parts(self) -> Mapping[str, Any]:
        """Keep one child per parent with the mean weight of all, then resample."""
        return {"selection": OneChild(weigh=True, then=self.resample)}
