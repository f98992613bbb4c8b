"""Your method: hyper-parameters and a loop, and the law that says whether it is right.

python examples/tutorials/4_your_method.py         # seconds; --quick draws fewer islands
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass
from typing import ClassVar

import torch

import seqalign as sa
from seqalign.core.method import Looped
from seqalign.core.process import Process, Space
from seqalign.core.proposal import Tilted
from seqalign.core.selection import Resample
from seqalign.core.tempering import Linear


# Every weighted-particle method is one loop, branch → propose → weight → select, with other parts.
# A method of your own chooses the parts. Here: a proposal tilted by the gradient, lam that rises
# late (lam_i = (i / n)^power), and resampling at every second step whatever the weights are.
@dataclass(frozen=True)
class Late(Looped):
    """Tilted SMC that lets the reward in late."""

    alpha: float = 1.0
    power: float = 2.0
    consistent: ClassVar[bool] = True  # the claim that is tested below

    def loop(self, process: Process, reward: sa.Reward, space: Space | None = None) -> sa.SMC:
        """Return the sampler of these hyper-parameters."""
        return sa.SMC(
            process, reward, self.alpha, proposal=Tilted(scale=0.7), space=space,
            tempering=Linear(self.power), selection=Resample("systematic", 1.0, every=2),
        )  # fmt: skip


# A target that can be enumerated: four positions of DNA with a letter law each, and a reward that
# likes neighbors to differ.
LENGTH, ALPHA = 4, 0.5
logits = torch.randn(LENGTH, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Differ(sa.Reward):
    """How many neighbors differ, with its gradient."""

    name, differentiable = "differ", True

    def __call__(self, designs: sa.Designs) -> torch.Tensor:
        return self.relaxed(torch.nn.functional.one_hot(designs.x, 4).double())

    def relaxed(self, x: torch.Tensor) -> torch.Tensor:
        return LENGTH - 1 - (x[..., 1:, :] * x[..., :-1, :]).sum((-2, -1))


process = sa.MaskedProcess(lambda x, t: logits.expand(*x.shape, 4), sa.DNA, LENGTH, steps=LENGTH)
every = torch.tensor(list(itertools.product(range(4), repeat=LENGTH)))  # all 256 designs
log_prior = logits.log_softmax(-1)[torch.arange(LENGTH), every].sum(-1)
reward = Differ()(sa.Designs(every[None], sa.DNA))[0]
exact = float(torch.logsumexp(log_prior + reward / ALPHA, 0).exp())

# The law: with any number of particles, E[Z] is exact. Every island gives one estimate of Z; two
# particles an island show a bias that many would hide. A wrong weight fails this at once.
islands = 4000 if "--quick" in sys.argv else 40000
rng = sa.Streams(1, range(islands))
samples = Late(ALPHA)(process, Differ(), (islands, 2), rng=rng)
ratio = samples.log_z.exp() / exact
error = float(ratio.std()) / islands**0.5
print(f"E[Z] / Z = {float(ratio.mean()):.4f} ± {error:.4f}")
assert abs(float(ratio.mean()) - 1) < 4.5 * error, "this method is not consistent"

# It runs wherever a name does. A package gives it a name by one line, which makes it
# `sampler: {name: late, power: 3}` in a campaign:
#   [project.entry-points."seqalign.methods"]
#   late = "my_package.late:Late"
print(sa.sample(process, Differ(), Late(ALPHA), particles=32, seed=1))
