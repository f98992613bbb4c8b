"""Best-of-N: run the base process, look at the reward at the end.

Exact as weighted samples (importance sampling from p_pre), not as its best design, whose law
depends on N.

References:
    Uehara et al., arXiv 2501.09685, section 1 (best-of-N). Robert & Casella, "Monte Carlo
    statistical methods", section 3.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from seqalign.core.objective import Reward
from seqalign.core.particles import Particles, Samples
from seqalign.core.process import Process
from seqalign.core.selection import Keep
from seqalign.core.smc import SMC, Observe
from seqalign.core.streams import Streams
from seqalign.space.space import DesignSpace

__all__ = ["BestOfN"]


@dataclass(frozen=True)
class BestOfN:
    """Importance sampling from the pretrained model.

    Attributes:
        alpha: temperature of the target, in units of the reward.
    """

    alpha: float = 1.0
    consistent: ClassVar[bool] = True

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
        """Draw (B, K) weighted designs."""
        loop = SMC(
            process,
            reward,
            self.alpha,
            value=None,
            selection=Keep(),
            space=space,
        )
        return loop.sample(shape, rng, start=start, observe=observe)
