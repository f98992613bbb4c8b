"""Beam search: M children per particle, the K best of K·M by value go on.

Finds high rewards, samples from no stated law.

References:
    Uehara et al., arXiv 2501.09685, section 5 (beam search for reward maximization).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from seqalign.core.method import Looped
from seqalign.core.objective import Reward
from seqalign.core.process import Process, Space
from seqalign.core.selection import TopK
from seqalign.core.smc import SMC
from seqalign.core.value import Automatic, Value

__all__ = ["Beam"]


@dataclass(frozen=True)
class Beam(Looped):
    """Keep the K best of K·M.

    Attributes:
        alpha: temperature of the target, in units of the reward.
        branch: children per particle, M.
        value: estimate of the soft value at intermediate steps.
    """

    alpha: float = 1.0
    branch: int = 4
    value: Value = Automatic()
    consistent: ClassVar[bool] = False

    def loop(self, process: Process, reward: Reward, space: Space | None = None) -> SMC:
        """Return the sampler."""
        return SMC(
            process,
            reward,
            self.alpha,
            value=self.value,
            selection=TopK(),
            branch=self.branch,
            space=space,
        )
