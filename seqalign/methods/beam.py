"""Beam search: M children per particle, the K best of K·M by value go on.

Finds high rewards, samples from no stated law.

References:
    Uehara et al., arXiv 2501.09685, section 5 (beam search for reward maximization).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from seqalign.core.objective import Reward
from seqalign.core.particles import Particles, Samples
from seqalign.core.process import Process
from seqalign.core.selection import TopK
from seqalign.core.smc import SMC, Observe
from seqalign.core.streams import Streams
from seqalign.core.value import Automatic, Value
from seqalign.space.space import DesignSpace

__all__ = ["Beam"]


@dataclass(frozen=True)
class Beam:
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

    def __call__(
        self,
        process: Process,
        reward: Reward,
        shape: tuple[int, int],
        *,
        rng: Streams,
        space: DesignSpace | None = None,
        start: Particles | Tensor | None = None,
        observe: Observe | None = None,
    ) -> Samples:
        """Draw (B, K) designs."""
        loop = SMC(
            process,
            reward,
            self.alpha,
            value=self.value,
            selection=TopK(),
            branch=self.branch,
            space=space,
        )
        return loop.sample(shape, rng, start=start, observe=observe, weighted=False)
