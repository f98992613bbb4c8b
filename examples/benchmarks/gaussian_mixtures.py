"""DAS on the Gaussian mixtures of its notebooks, against exact answers and against the chain's own law.

    python examples/benchmarks/gaussian_mixtures.py [--quick] [--islands 200]

Exact score of a mixture with covariance 0.3 I, alpha 1, 100 DDIM steps, eta 1, 100 particles per island, islands pooled with
weights Ẑ_b. Two references: the exact target, and the target of the chain that is actually run (unguided draws, reweighted),
which differs by the discretization of time. Distances are squared MMD to exact draws (RBF kernel, median bandwidth, V-statistic,
n against n draws); "second exact" is the distance between two sets of exact draws, the floor of that statistic.

References:
    Kim, Kim & Park, ICLR 2025, arXiv 2501.05803, section 4.1 (mixture of Gaussians).
    Gretton et al., "A kernel two-sample test", JMLR 2012 (squared MMD).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from seqalign.gaussian import GaussianProcess, VariancePreserving
from seqalign.methods.das import DAS
from seqalign.methods.smc import PlainSMC
from seqalign.methods.tds import TDS
from seqalign.objective import Reward
from seqalign.particles import Samples
from seqalign.process import Designs
from seqalign.streams import Streams

VARIANCE = 0.3
MMD_SIZE = 2000


class Quadratic(Reward):
    """−Σ_i curvature_i · (x_i − center_i)²."""

    name = "quadratic"
    differentiable = True

    def __init__(self, curvature: tuple[float, float], center: tuple[float, float]) -> None:
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
    """Equal Gaussians with covariance 0.3 I at `means` (n, 2), and a quadratic reward; alpha = 1."""

    name: str
    means: Tensor
    reward: Quadratic

    def process(self, steps: int = 100) -> GaussianProcess:
        """Return the diffusion with the exact posterior mean."""
        schedule = VariancePreserving()

        def denoiser(x: Tensor, t: float) -> Tensor:
            a, b = schedule(t)
            var = a * a * VARIANCE + b * b
            # log responsibilities from x·m and |m|², without a (B, K, n, 2) tensor
            logits = (a * (x @ self.means.T) - 0.5 * a * a * (self.means**2).sum(-1)) / var
            center = torch.softmax(logits, -1) @ self.means
            return center + a * VARIANCE / var * (x - a * center)

        return GaussianProcess(denoiser, (2,), steps, schedule, name=self.name)

    def _tilted(self) -> tuple[Tensor, Tensor, Tensor]:
        """Log-mass (n,), means (n, 2) and variances (2,) of the target, again a mixture."""
        q, m, o = self.reward.curvature, self.means, self.reward.center
        var = VARIANCE / (1 + 2 * q * VARIANCE)
        mean = var * (m / VARIANCE + 2 * q * o)
        log_mass = (0.5 * torch.log(var / VARIANCE) - q * (m - o) ** 2 / (1 + 2 * q * VARIANCE)).sum(-1)
        return log_mass - math.log(len(m)), mean, var

    def exact(self) -> tuple[float, float]:
        """Return E[r] and log Z."""
        log_mass, mean, var = self._tilted()
        w = torch.softmax(log_mass, 0)
        r = -(self.reward.curvature * ((mean - self.reward.center) ** 2 + var)).sum(-1)
        return float((w * r).sum()), float(torch.logsumexp(log_mass, 0))

    def draws(self, n: int, seed: int) -> Tensor:
        """Draw from the exact target, (n, 2)."""
        log_mass, mean, var = self._tilted()
        rng = Streams(seed, [0]).at("exact")
        pick = rng.at("pick").categorical(log_mass.expand(1, n, -1))[0]
        return mean[pick] + var.sqrt() * rng.at("noise").normal((1, n, 2))[0]


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


def reference(problem: Mixture, draws: int, steps: int = 100, seed: int = 1) -> tuple[float, float, float]:
    """Return E[r], its standard error and log Z of the chain that is run, from unguided draws, reweighted."""
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


@dataclass(frozen=True)
class Result:
    """What a method reached: pooled E[r], its standard error, log of the mean Ẑ, and equally weighted draws (n, 2)."""

    mean: float
    error: float
    log_z: float
    draws: Tensor


def summarize(samples: Samples, n: int = MMD_SIZE, seed: int = 2) -> Result:
    """Pool the islands by Ẑ_b; the error is the delta method over islands."""
    assert samples.log_z is not None
    z = torch.exp(samples.log_z - samples.log_z.max())
    islands = z.numel()
    inner = (torch.softmax(samples.log_w, -1) * samples.rewards).sum(-1)
    mean = float((z * inner).sum() / z.sum())
    error = float((z * (inner - mean)).std() / z.mean()) / math.sqrt(islands)
    log_z = float(torch.logsumexp(samples.log_z, 0)) - math.log(islands)
    picks = samples.resample(n, Streams(seed, [0]).uniform((1, n)))
    return Result(mean, error, log_z, samples.designs.x[picks[:, 0], picks[:, 1]])


def mmd2(x: Tensor, y: Tensor) -> float:
    """Return the squared MMD of (n, 2) and (m, 2) draws: RBF kernel, median bandwidth of the pooled draws, V-statistic."""
    both = torch.cat((x, y))
    distance = torch.cdist(both, both)
    n = len(x)
    upper = distance[torch.triu_indices(len(both), len(both), 1).unbind()]
    kernel = torch.exp(-(distance**2) / (2 * upper.median() ** 2))
    return float(kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean())


def run(method: Callable[..., Samples], problem: Mixture, islands: int, particles: int, steps: int) -> Result:
    """Run a method and pool its islands."""
    rng = Streams(0, range(islands))
    return summarize(method(problem.process(steps), problem.reward, (islands, particles), rng=rng))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20 islands, 20 steps, 10^5 reference draws")
    parser.add_argument("--islands", type=int, default=200)
    parser.add_argument("--particles", type=int, default=100)
    args = parser.parse_args()
    torch.set_num_threads(1)
    islands, steps, draws = (20, 20, 100_000) if args.quick else (args.islands, 100, 1_000_000)
    print(f"{islands} islands of {args.particles} particles, {steps} DDIM steps, eta 1, alpha 1; MMD² at {MMD_SIZE} draws")
    for problem in mixtures():
        mean, log_z = problem.exact()
        chain, error, chain_z = reference(problem, draws, steps)
        one, two = problem.draws(MMD_SIZE, 10), problem.draws(MMD_SIZE, 11)
        print(f"\n{problem.name:14s} {'E[r]':>9s} {'± se':>8s} {'log Z':>8s} {'MMD²':>9s}")
        print(f"{'exact':14s} {mean:9.4f} {'':8s} {log_z:8.3f}")
        print(f"{'second exact':14s} {'':9s} {'':8s} {'':8s} {mmd2(one, two):9.5f}")
        print(f"{'this chain':14s} {chain:9.4f} {error:8.4f} {chain_z:8.3f}", flush=True)
        for name, method in {"das": DAS(), "tds": TDS(), "smc": PlainSMC()}.items():
            result = run(method, problem, islands, args.particles, steps)
            distance = mmd2(one, result.draws)
            print(f"{name:14s} {result.mean:9.4f} {result.error:8.4f} {result.log_z:8.3f} {distance:9.5f}", flush=True)


if __name__ == "__main__":
    main()
