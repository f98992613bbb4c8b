"""The toy problems of DAS with exact targets: two Gaussian mixtures and the Swiss roll.

    python examples/toys.py [--figure toys.png] [--quick]

Each row of the figure: 1000 draws of the pretrained diffusion, of the exact target p_pre·exp(r),
and of what four methods make of the same diffusion and reward. Guidance (DPS) tilts its steps by
the gradient and carries no weights; SMC carries weights and has no gradient; TDS has both; DAS
tempers them, with the settings of benchmarks/gaussian_mixtures.py. Scores are exact: the Swiss roll
is a Gaussian kernel (standard deviation 0.5) smoothed over the roll of scikit-learn,
(t·cos t, h, t·sin t) with t from 3π/2 to 9π/2 and h from 0 to 21, a mixture with equal weights.

E[r] and log Z stand beside their exact values. EMD is the earth-mover distance of 1000 draws from
1000 exact draws, mean over 10 repetitions; its floor is that of a second exact draw. 200 runs of
100 particles are pooled by their log Z.

References:
    Kim, Kim & Park, ICLR 2025, arXiv 2501.05803, figure 1 and section 4.1. The paper's claim: SMC
    reaches all modes of the target and a lower EMD than approximate guidance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from benchmarks.gaussian_mixtures import BENCHMARK_DAS, Mixture, Quadratic, emd, mixtures
from torch import Tensor

from seqalign.core.gaussian import GaussianProcess
from seqalign.core.particles import Samples
from seqalign.core.proposal import Tilted
from seqalign.core.streams import Streams
from seqalign.methods.guidance import Guidance
from seqalign.methods.smc import PlainSMC
from seqalign.methods.tds import TDS

SIZE, REPEATS = 1000, 10
METHODS = {
    "guidance": Guidance(),
    "SMC": PlainSMC(),
    "TDS": TDS(),
    "DAS": BENCHMARK_DAS,
}


@dataclass(frozen=True, eq=False)
class SwissRoll:
    """A roll in (x, z) times a height y, both mixtures, and r = −x²/100 − y²/100 − z².

    The law is a product and so is exp(r): every exact answer is a sum over the two parts.
    """

    name: str
    roll: Mixture
    height: Mixture
    reward: Quadratic

    @classmethod
    def make(cls, width: float = 0.5) -> SwissRoll:
        """Lay Gaussians along the roll, no further apart than their standard deviation."""
        angle = math.pi * torch.linspace(1.5, 4.5, 300, dtype=torch.float64)
        roll = angle[:, None] * torch.stack((angle.cos(), angle.sin()), -1)
        height = torch.linspace(0, 21, 64, dtype=torch.float64)[:, None]
        return cls(
            "Swiss roll",
            Mixture("roll", roll, Quadratic((0.01, 1.0), (0.0, 0.0)), width**2),
            Mixture("height", height, Quadratic((0.01,), (0.0,)), width**2),
            Quadratic((0.01, 0.01, 1.0), (0.0, 0.0, 0.0)),
        )

    def process(self, steps: int = 100) -> GaussianProcess:
        """Return the diffusion with the exact posterior mean."""
        roll, height = self.roll.process(steps), self.height.process(steps)

        def denoiser(x: Tensor, t: float) -> Tensor:
            flat, up = roll.denoiser(x[..., ::2], t), height.denoiser(x[..., 1:2], t)
            return torch.stack((flat[..., 0], up[..., 0], flat[..., 1]), -1)

        return GaussianProcess(denoiser, (3,), steps, roll.schedule, name=self.name)

    def exact(self) -> tuple[float, float]:
        """Return E[r] and log Z."""
        (r, log_z), (up, log_up) = self.roll.exact(), self.height.exact()
        return r + up, log_z + log_up

    def draws(self, n: int, seed: int) -> Tensor:
        """Draw from the exact target, (n, 3)."""
        flat, up = self.roll.draws(n, seed), self.height.draws(n, seed + 1_000_000)
        return torch.stack((flat[:, 0], up[:, 0], flat[:, 1]), -1)


Problem = Mixture | SwissRoll


@dataclass(frozen=True)
class Column:
    """What one sampler made: SIZE draws, E[r], log Z (None if it has none) and the EMD."""

    name: str
    draws: Tensor
    mean: float
    log_z: float | None
    emd: float

    def __str__(self) -> str:
        """Return a row of the table."""
        found = "" if self.log_z is None else f"{self.log_z:.3f}"
        return f"{self.name:14s} {self.mean:9.3f} {found:>8s} {self.emd:7.3f}"


def compare(
    problem: Problem, islands: int, particles: int, steps: int, repeats: int
) -> list[Column]:
    """Run every method and print its row."""
    process, shape, rng = problem.process(steps), (islands, particles), Streams(0, range(islands))
    exact = [problem.draws(SIZE, 100 + n) for n in range(repeats)]
    columns: list[Column] = []

    def add(name: str, draws: list[Tensor], mean: float, log_z: float | None = None) -> None:
        gap = sum(emd(x, y) for x, y in zip(exact, draws, strict=True)) / repeats
        columns.append(Column(name, draws[0], mean, log_z, gap))
        print(columns[-1], flush=True)

    def draw(samples: Samples) -> list[Tensor]:
        picks = [samples.resample(SIZE, Streams(n, [0]).uniform((1, SIZE))) for n in range(repeats)]
        return [samples.designs.x[pick[:, 0], pick[:, 1]] for pick in picks]

    print(f"\n{problem.name:14s} {'E[r]':>9s} {'log Z':>8s} {'EMD':>7s}")
    base = Guidance(tilt=Tilted(scale=0.0))(process, problem.reward, shape, rng=rng)
    add("pretrained", draw(base), float(base.rewards.mean()))
    again = [problem.draws(SIZE, 200 + n) for n in range(repeats)]
    add("exact target", again, *problem.exact())
    for name, method in METHODS.items():
        samples = method(process, problem.reward, shape, rng=rng)
        log_zs = samples.log_z
        z = None if log_zs is None else float(torch.logsumexp(log_zs, 0)) - math.log(islands)
        add(name, draw(samples), float(samples.mean(samples.rewards)), z)
    return columns


Quick = Annotated[bool, typer.Option("--quick", help="5 islands of 50 particles, 20 steps")]


def main(
    quick: Quick = False, islands: int = 200, particles: int = 100, figure: Path | None = None
) -> None:
    """Print the tables, and draw the figure if asked."""
    torch.set_num_threads(1)
    steps, repeats = 100, REPEATS
    if quick:
        islands, particles, steps, repeats = 5, 50, 20, 1
    print(f"{islands} islands of {particles} particles, {steps} steps, alpha 1", flush=True)
    problems = (*mixtures(), SwissRoll.make())
    rows = [compare(p, islands, particles, steps, repeats) for p in problems]
    if figure:
        draw(rows, figure)


def draw(rows: list[list[Column]], path: Path) -> None:
    """Draw a row of panels per problem; the Swiss roll is seen along its axis, height as color."""
    import matplotlib.pyplot as plt

    rewards = ("r = −x²/100 − y²", "r = −x² − (y − 1)²/10", "r = −x²/100 − y²/100 − z²")
    limits = (((-7, 7), (-7, 7)), ((-7, 7), (-7, 7)), ((-17, 17), (-17, 17)))
    height, width = len(rows), len(rows[0])
    figure, axes = plt.subplots(
        height, width, figsize=(2 * width, 2.25 * height), layout="constrained"
    )
    for i, row in enumerate(rows):
        for j, column in enumerate(row):
            axis, x = axes[i, j], column.draws
            color = plt.get_cmap("viridis")(x[:, 1] / 21) if x.shape[1] == 3 else "#1f6f8b"
            axis.scatter(x[:, 0], x[:, -1], s=2.5, c=color, linewidths=0)
            z = "" if column.log_z is None else f", log Z {column.log_z:.2f}"
            kind = "floor" if column.name == "exact target" else "EMD"
            axis.set_xlabel(f"E[r] {column.mean:.2f}{z}\n{kind} {column.emd:.2f}", fontsize=8)
            axis.set(xlim=limits[i][0], ylim=limits[i][1], xticks=[], yticks=[], aspect="equal")
            if i == 0:
                axis.set_title(column.name, fontsize=10)
        axes[i, 0].set_ylabel(rewards[i], fontsize=8)
    figure.savefig(path, dpi=110)
    print(f"wrote {path}")


if __name__ == "__main__":
    typer.run(main)
