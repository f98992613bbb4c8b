"""Your method: hyper-parameters and a loop, and the law that says whether it is right.

Run python examples/tutorials/4_your_method.py; it takes seconds, and with --quick draws fewer.
"""

import itertools
import sys
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

import seqalign as sa
from seqalign.core.method import Looped
from seqalign.core.proposal import Tilted
from seqalign.core.selection import Resample
from seqalign.core.tempering import Linear


# Every weighted-particle method is one loop, branch → propose → weight → select, with other parts.
# They are fields of a frozen dataclass, which a campaign can set, or made from fields by `parts`.
# This one tilts the proposal by the gradient, lets the reward in late (lam = (i / n)^power), and
# resamples at every second step. It claims to be consistent, which is tested below.
@dataclass(frozen=True)
class Late(Looped):
    """Tilted SMC that lets the reward in late."""

    alpha: float = 1.0
    power: float = 2.0
    tilt: Tilted = Tilted()
    resample: Resample = Resample("systematic", ess_below=1.0, every=2)
    consistent: ClassVar[bool] = True

    def parts(self) -> dict[str, Any]:
        """Return the schedule of lam."""
        return {"tempering": Linear(self.power)}


class Differ(sa.Reward):
    """How many of three neighboring pairs differ, with its gradient."""

    name, differentiable = "differ", True

    def __call__(self, designs: sa.Designs) -> torch.Tensor:
        """Score designs, tokens (B, K, L)."""
        return self.relaxed(torch.nn.functional.one_hot(designs.x, 4).double())

    def relaxed(self, x: torch.Tensor) -> torch.Tensor:
        """Score letter probabilities, (B, K, L, 4)."""
        return 3 - (x[..., 1:, :] * x[..., :-1, :]).sum((-2, -1))


# A target that can be enumerated: four letters, each with a law of its own, make 256 designs.
alpha, table = 0.5, torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
process = sa.MaskedProcess(lambda x, t: table.expand(*x.shape, 4), sa.DNA, 4, steps=4)
every = torch.tensor(list(itertools.product(range(4), repeat=4)))
prior = table.double().log_softmax(-1)[torch.arange(4), every].sum(-1)
exact = (prior + Differ()(sa.Designs(every[None], sa.DNA))[0] / alpha).exp().sum()

# The law: E[Z] is exact for any number of particles. Every island gives one estimate of Z, and two
# particles an island show a bias that many would hide.
islands = 4000 if "--quick" in sys.argv else 40000
samples = Late(alpha)(process, Differ(), (islands, 2), rng=sa.Streams(1, range(islands)))
ratio = samples.log_z.exp() / exact
off, error = float(ratio.mean()) - 1, float(ratio.std()) / islands**0.5
print(f"E[Z] / Z = 1 {off:+.4f} ± {error:.4f}")
assert abs(off) < 4.5 * error, "Late is not consistent"

# It runs wherever a name does: sa.sample(model, reward, Late(alpha=0.3)).
print(sa.sample(process, Differ(), Late(alpha), particles=32, seed=1))
