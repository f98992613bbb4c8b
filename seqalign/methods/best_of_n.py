"""Best-of-N: run the base process, look at the reward at the end.

Exact as weighted samples (importance sampling from p_pre), not as its best design, whose law
depends on N.

References:
    Uehara et al., arXiv 2501.09685, section 1 (best-of-N). Robert & Casella, "Monte Carlo
    statistical methods", section 3.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from seqalign.core import unguided
from seqalign.core.budget import Budget
from seqalign.core.method import Looped, samples
from seqalign.core.objective import Reward
from seqalign.core.particles import Particles, Samples
from seqalign.core.process import Process, Space
from seqalign.core.selection import Keep
from seqalign.core.smc import Observe
from seqalign.core.streams import Streams

__all__ = ["BestOfN"]


@dataclass(frozen=True)
class BestOfN(Looped):
    """Importance sampling from the pretrained model.

    Where the network remembers and only single positions are constrained, a step computes the one
    position that it reveals.
    """

    def parts(self) -> Mapping[str, Any]:
        """Look at the reward at the end only, and keep every particle."""
        return {"value": None, "selection": Keep()}

    def __call__(
        self,
        process: Process,
        reward: Reward,
        shape: tuple[int, int],
        *,
        rng: Streams,
        space: Space | None = None,
        start: Particles | Tensor | None = None,
        begin: int = 0,
        stop: int | None = None,
        budget: Budget | None = None,
        observe: Observe | None = None,
    ) -> Samples:
        """Draw (B, K) weighted designs; see `Method`."""
        whole = start is None and begin == 0 and stop is None
        if whole and unguided.able(process, space):
            loop = self.loop(process, reward, space)
            return samples(loop, *unguided.sweep(loop, shape, rng, budget, observe))
        return super().__call__(
            process,
            reward,
            shape,
            rng=rng,
            space=space,
            start=start,
            begin=begin,
            stop=stop,
            budget=budget,
            observe=observe,
        )
