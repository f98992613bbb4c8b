"""A rehearsal: a method run with the network and the reward taken out, to count its calls."""

from __future__ import annotations

import torch
from torch import Tensor

from seqalign.campaign.medium import Rehearsal
from seqalign.core.method import Method
from seqalign.core.objective import Reward
from seqalign.core.process import Designs, Process
from seqalign.core.streams import Streams
from seqalign.space.space import DesignSpace


class _Blank(Reward):
    """Zero, with or without a gradient."""

    def __init__(self, reward: Reward) -> None:
        self.name, self.differentiable = reward.name, reward.differentiable

    def __call__(self, designs: Designs) -> Tensor:
        return torch.zeros(designs.shape, dtype=torch.float64)

    def relaxed(self, x: Tensor) -> Tensor:
        return 0.0 * x.double().flatten(2).sum(-1)


def rehearse(
    method: Method, process: Process, reward: Reward, particles: int, space: DesignSpace | None
) -> Rehearsal:
    """Run a method on a process whose network costs nothing, and count."""
    blank, rng = _Blank(reward), Streams(0, (0,))
    samples = method(process, blank, (1, particles), rng=rng, space=space)
    calls = samples.network_calls / particles, samples.reward_calls / particles
    return Rehearsal(*calls, len(samples.trace))
