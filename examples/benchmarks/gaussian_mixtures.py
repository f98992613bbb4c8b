"""DAS on the Gaussian mixtures of its notebooks, against exact answers and the chain's own law.

    python examples/benchmarks/gaussian_mixtures.py [--quick] [--islands 200]

Exact score of a mixture with covariance 0.3 I, alpha 1, 100 DDIM steps, eta 1, 100 particles per
island, islands pooled with weights Ẑ_b. Two references: the exact target, and the target of the
chain that is actually run (unguided draws, reweighted), which differs by the discretization of
time. Distances are to exact draws, 1000 draws of the pooled, reweighted islands against 1000, mean
over 20 repetitions: squared MMD (RBF kernel, median bandwidth, V-statistic) and EMD, the
earth-mover distance (Euclidean, the best of all pairings). "floor" is that of a second exact draw.

DAS runs twice: with its defaults, which are made for sequences, and as it should be on images and
vectors, where the posterior mean says little early on: slower tempering and half the gradient.

References:
    Kim, Kim & Park, ICLR 2025, arXiv 2501.05803, section 4.1 (mixture of Gaussians).
    Gretton et al., "A kernel two-sample test", JMLR 2012 (squared MMD). Peyré & Cuturi,
    "Computational optimal transport", 2019, arXiv 1803.00567, section 2.2 (EMD as an assignment).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
import typer
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from seqalign.core.gaussian import GaussianProcess, VariancePreserving
from seqalign.core.objective import Reward
from seqalign.core.particles import Samples
from seqalign.core.process import Designs
from seqalign.core.proposal import Tilted
from seqalign.core.streams import Streams
from seqalign.core.tempering import Adaptive
from seqalign.methods.das import DAS
from seqalign.methods.smc import PlainSMC
from seqalign.methods.tds import TDS

VARIANCE = 0.3
SIZE, REPEATS = 1000, 20
# the value of a posterior mean is unreliable while t is large: temper late, tilt gently
BENCHMARK_DAS = DAS(tempering=Adaptive(pace=2.0), tilt=Tilted(scale=0.5))


class Quadratic(Reward):
    """−Σ_i curvature_i · (x_i − center_i)²."""

    name = "quadratic"
    differentiable = True

    def __init__(self, curvature: tuple[float, ...], center: tuple[float, ...]) -> None:
        """Fix the bowl."""
        self.curvature = torch.tensor(curvature, dtype=torch.float64)
        self.center = torch.tensor(center, dtype=torch.float64)

    def relaxed(self, x: Tensor) -> Tensor:
        """Score states, (B, K)."""
        return -(self.curvature * (x - self.center) ** 2).sum(-1)

    def __call__(self, designs: Designs) -> Tensor:
        """Score designs, (B, K)."""
        return self.relaxed(designs.x)


@dataclass(frozen=True, eq=False)
class Mixture:
    """Equal Gaussians with covariance 0.3 I at `means` (n, d), a quadratic reward, alpha = 1."""

    name: str
    means: Tensor
    reward: Quadratic
    variance: float = VARIANCE

    def process(self, steps: int = 100) -> GaussianProcess:
        """Return the diffusion with the exact posterior mean."""
        schedule = VariancePreserving()

        def denoiser(x: Tensor, t: float) -> Tensor:
            a, b = schedule(t)
            var = a * a * self.variance + b * b
            # log responsibilities from x·m and |m|², without a (B, K, n, d) tensor
            logits = (a * (x @ self.means.T) - 0.5 * a * a * (self.means**2).sum(-1)) / var
            center = torch.softmax(logits, -1) @ self.means
            return center + a * self.variance / var * (x - a * center)

        return GaussianProcess(denoiser, self.means.shape[1:], steps, schedule, name=self.name)

    def _tilted(self) -> tuple[Tensor, Tensor, Tensor]:
        """Log-mass (n,), means (n, d) and variances (d,) of the target, again a mixture."""
        q, m, o, v = self.reward.curvature, self.means, self.reward.center, self.variance
        var = v / (1 + 2 * q * v)
        mean = var * (m / v + 2 * q * o)
        log_mass = 0.5 * torch.log(var / v) - q * (m - o) ** 2 / (1 + 2 * q * v)
        return log_mass.sum(-1) - math.log(len(m)), mean, var

    def exact(self) -> tuple[float, float]:
        """Return E[r] and log Z."""
        log_mass, mean, var = self._tilted()
        w = torch.softmax(log_mass, 0)
        r = -(self.reward.curvature * ((mean - self.reward.center) ** 2 + var)).sum(-1)
        return float((w * r).sum()), float(torch.logsumexp(log_mass, 0))

    def draws(self, n: int, seed: int) -> Tensor:
        """Draw from the exact target, (n, d)."""
        log_mass, mean, var = self._tilted()
        rng = Streams(seed, [0]).at("exact")
        pick = rng.at("pick").categorical(log_mass.expand(1, n, -1))[0]
        noise = rng.at("noise").normal((1, n, mean.shape[1]))[0]
        return mean[pick] + var.sqrt() * noise


def mixtures() -> list[Mixture]:
    """Return the two problems of the notebooks."""
    axis = torch.tensor([-4.0, 0.0, 4.0], dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    angle = torch.arange(8, dtype=torch.float64) * (2 * math.pi / 8)
    circle = 4 * torch.stack((angle.cos(), angle.sin()), -1)
    return [
        Mixture("grid", grid, Quadratic((0.01, 1.0), (0.0, 0.0))),
        Mixture("circle", circle, Quadratic((1.0, 0.1), (0.0, 1.0))),
    ]


def reference(
    problem: Mixture, draws: int, steps: int = 100, seed: int = 1
) -> tuple[float, float, float]:
    """Return E[r], its standard error and log Z of the chain that is run: reweighted draws."""
    process, rewards = problem.process(steps), []
    block = 50_000
    for b in range(max(1, draws // block)):
        rng, size = Streams(seed, [b]), min(block, draws)
        x = process.prior((1, size), rng.at("prior"))
        times = process.times.tolist()
        for i in range(steps):
            posterior = process.posterior(x, times[i])
            x = process.transition(x, posterior, times[i], times[i + 1]).sample(rng.at(i))
        rewards.append(problem.reward(process.decode(x))[0])
    r = torch.cat(rewards)
    w = torch.softmax(r, 0)
    mean = float((w * r).sum())
    error = float(torch.sqrt((w * w * (r - mean) ** 2).sum()))
    return mean, error, float(torch.logsumexp(r, 0)) - math.log(len(r))


def mmd2(x: Tensor, y: Tensor) -> float:
    """Return the squared MMD of (n, 2) and (m, 2) draws: RBF, pooled median, V-statistic."""
    both = torch.cat((x, y))
    distance = torch.cdist(both, both)
    n = len(x)
    upper = distance[torch.triu_indices(len(both), len(both), 1).unbind()]
    kernel = torch.exp(-(distance**2) / (2 * upper.median() ** 2))
    return float(kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean())


def emd(x: Tensor, y: Tensor) -> float:
    """Return the earth-mover distance of (n, d) and (n, d) draws: the best pairing's mean gap."""
    distance = torch.cdist(x, y)
    rows, columns = linear_sum_assignment(distance.numpy())
    return float(distance[rows, columns].mean())


@dataclass(frozen=True)
class Result:
    """Pooled E[r], its standard error, log of the mean Ẑ, two distances and their floors."""

    mean: float
    error: float
    log_z: float
    mmd2: float
    floor: float
    emd: float
    emd_floor: float


def summarize(samples: Samples, problem: Mixture, repeats: int = REPEATS) -> Result:
    """Pool the islands by Ẑ_b; the error is the delta method over islands."""
    assert samples.log_z is not None
    z = torch.exp(samples.log_z - samples.log_z.max())
    islands = z.numel()
    inner = (torch.softmax(samples.log_w, -1) * samples.rewards).sum(-1)
    mean = float((z * inner).sum() / z.sum())
    error = float((z * (inner - mean)).std() / z.mean()) / math.sqrt(islands)
    log_z = float(torch.logsumexp(samples.log_z, 0)) - math.log(islands)
    gaps = torch.zeros(4, dtype=torch.float64)
    for n in range(repeats):
        one, two = problem.draws(SIZE, 100 + n), problem.draws(SIZE, 200 + n)
        picks = samples.resample(SIZE, Streams(n, [0]).uniform((1, SIZE)))
        pooled = samples.designs.x[picks[:, 0], picks[:, 1]]
        gaps += torch.tensor([f(one, x) for f in (mmd2, emd) for x in (pooled, two)]) / repeats
    return Result(mean, error, log_z, *gaps.tolist())


def run(
    method: Callable[..., Samples],
    problem: Mixture,
    islands: int,
    particles: int,
    steps: int,
    repeats: int = REPEATS,
) -> Result:
    """Run a method and pool its islands."""
    rng = Streams(0, range(islands))
    samples = method(problem.process(steps), problem.reward, (islands, particles), rng=rng)
    return summarize(samples, problem, repeats)


Quick = Annotated[
    bool, typer.Option("--quick", help="20 islands, 20 steps, 50 000 reference draws, 1 repeat")
]


def main(quick: Quick = False, islands: int = 200, particles: int = 100) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    steps, draws, repeats = 100, 1_000_000, REPEATS
    if quick:
        islands, steps, draws, repeats = 20, 20, 50_000, 1
    print(f"{islands} islands of {particles} particles, {steps} DDIM steps, eta 1, alpha 1")
    methods = {"das (late)": BENCHMARK_DAS, "das": DAS(), "tds": TDS(), "smc": PlainSMC()}
    for problem in mixtures():
        mean, log_z = problem.exact()
        chain, error, chain_z = reference(problem, draws, steps)
        print(
            f"\n{problem.name:12s} {'E[r]':>9s} {'± se':>8s} {'log Z':>8s} "
            f"{'MMD²':>9s} {'floor':>9s} {'EMD':>7s} {'floor':>7s}"
        )
        print(f"{'exact':12s} {mean:9.4f} {'':8s} {log_z:8.3f}")
        print(f"{'this chain':12s} {chain:9.4f} {error:8.4f} {chain_z:8.3f}", flush=True)
        for name, method in methods.items():
            r = run(method, problem, islands, particles, steps, repeats)
            print(
                f"{name:12s} {r.mean:9.4f} {r.error:8.4f} {r.log_z:8.3f} "
                f"{r.mmd2:9.5f} {r.floor:9.5f} {r.emd:7.3f} {r.emd_floor:7.3f}",
                flush=True,
            )


if __name__ == "__main__":
    typer.run(main)
