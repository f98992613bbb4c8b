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

from seqalign.core.method import Looped
from seqalign.core.objective import Reward
from seqalign.core.process import Process, Space
from seqalign.core.selection import Keep
from seqalign.core.smc import SMC

__all__ = ["BestOfN"]


@dataclass(frozen=True)
class BestOfN(Looped):
    """Importance sampling from the pretrained model.

    Attributes:
        alpha: temperature of the target, in units of the reward.
    """

    alpha: float = 1.0
    consistent: ClassVar[bool] = True

    def loop(self, process: Process, reward: Reward, space: Space | None = None) -> SMC:
        """Return the sampler."""
        return SMC(process, reward, self.alpha, value=None, selection=Keep(), space=space)
