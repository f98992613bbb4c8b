"""Feynman-Kac steering: potentials of the whole path, resampling at every n-th step.

Max and sum potentials need no special ending: the driver imposes the reward at the end.

References:
    Singhal et al., "A general framework for inference-time scaling and steering of diffusion
    models", ICML 2025, arXiv 2501.06848, algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from seqalign.core.method import Looped
from seqalign.core.objective import Reward
from seqalign.core.potential import Difference, Potential
from seqalign.core.process import Process, Space
from seqalign.core.proposal import Base, Proposal
from seqalign.core.selection import Resample
from seqalign.core.smc import SMC
from seqalign.core.tempering import Constant, Tempering
from seqalign.core.value import Automatic, Value

__all__ = ["FKSteering"]


@dataclass(frozen=True)
class FKSteering(Looped):
    """SMC with a difference, max or sum potential.

    Attributes:
        alpha: temperature of the target, in units of the reward.
        value: estimate of the soft value at intermediate steps.
        tempering: schedule of lam.
        potential: difference, max or sum.
        proposal: base or tilted.
        resample: scheme and threshold of resampling.
    """

    alpha: float = 1.0
    value: Value = Automatic()
    tempering: Tempering = Constant()
    potential: Potential = Difference()
    proposal: Proposal = Base()
    resample: Resample = Resample("multinomial", 1.0, every=5)
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
            potential=self.potential,
            selection=self.resample,
            space=space,
        )
