"""Nested importance sampling: M children per parent, one survives with their mean weight.

Local competition like SVDD's, with the weights that make it exact.

References:
    Naesseth, Lindsten & Schön, "Nested sequential Monte Carlo methods", ICML 2015, arXiv
    1502.02536. Uehara et al., arXiv 2501.09685, section 4.2 (nested importance sampling).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from seqalign.core.method import Looped
from seqalign.core.objective import Reward
from seqalign.core.process import Process, Space
from seqalign.core.proposal import Base, Proposal
from seqalign.core.selection import OneChild, Resample
from seqalign.core.smc import SMC
from seqalign.core.tempering import Linear, Tempering
from seqalign.core.value import Automatic, Value

__all__ = ["NestedIS"]


@dataclass(frozen=True)
class NestedIS(Looped):
    """SMC whose proposal is the best of M, exactly weighted.

    Attributes:
        alpha: temperature of the target, in units of the reward.
        branch: children per particle, M.
        value: estimate of the soft value at intermediate steps.
        tempering: schedule of lam.
        proposal: base or tilted.
        resample: scheme and threshold of resampling.
    """

    alpha: float = 1.0
    branch: int = 4
    value: Value = Automatic()
    tempering: Tempering = Linear()
    proposal: Proposal = Base()
    resample: Resample = Resample()
    consistent: ClassVar[bool] = True

    def loop(self, process: Process, reward: Reward, space: Space | None = None) -> SMC:
        """Return the sampler."""
        return SMC(
            process,
            reward,
            self.alpha,
            value=self.value,
            proposal=self.proposal,
            tempering=self.tempering,
            selection=OneChild(weigh=True, then=self.resample),
            branch=self.branch,
            space=space,
        )
