"""SVDD: M children per particle, one survives with probability ∝ exp(v/alpha).

No weights are carried, so its law is not p*, but it never needs a gradient.

References:
    Li et al., "Derivative-free guidance in continuous and discrete diffusion models with soft
    value-based decoding", arXiv 2408.08252, algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from seqalign.core.method import Looped
from seqalign.core.objective import Reward
from seqalign.core.process import Process, Space
from seqalign.core.selection import OneChild
from seqalign.core.smc import SMC
from seqalign.core.value import Automatic, Value

__all__ = ["SVDD"]


@dataclass(frozen=True)
class SVDD(Looped):
    """Soft value-based decoding.

    Attributes:
        alpha: temperature of the choice, in units of the reward; 0 is greedy.
        branch: children per particle, M.
        value: estimate of the soft value at intermediate steps.
    """

    alpha: float = 1.0
    branch: int = 8
    value: Value = Automatic()
    consistent: ClassVar[bool] = False

    def loop(self, process: Process, reward: Reward, space: Space | None = None) -> SMC:
        """Return the sampler."""
        return SMC(
            process,
            reward,
            self.alpha or 1.0,
            value=self.value,
            selection=OneChild(greedy=self.alpha == 0),
            branch=self.branch,
            space=space,
        )
