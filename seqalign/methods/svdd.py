"""SVDD: M children per particle, one survives with probability ∝ exp(v/alpha).

No weights are carried, so its law is not p*, but it never needs a gradient.

References:
    Li et al., "Derivative-free guidance in continuous and discrete diffusion models with soft
    value-based decoding", arXiv 2408.08252, algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from seqalign.core.objective import Reward
from seqalign.core.particles import Particles, Samples
from seqalign.core.process import Process
from seqalign.core.selection import OneChild
from seqalign.core.smc import SMC, Observe
from seqalign.core.streams import Streams
from seqalign.core.value import Automatic, Value
from seqalign.space.space import DesignSpace

__all__ = ["SVDD"]


@dataclass(frozen=True)
class SVDD:
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
            self.alpha or 1.0,
            value=self.value,
            selection=OneChild(greedy=self.alpha == 0),
            branch=self.branch,
            space=space,
        )
        return loop.sample(shape, rng, start=start, observe=observe, weighted=False)
