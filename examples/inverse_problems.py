"""Inpainting, 4× super-resolution and deblurring by five methods on one diffusion.

    python examples/inverse_problems.py [--prior field | emoji] [--figure inverse.png] [--quick]

The reward is the log-likelihood of a noisy measurement (sigma 0.2), alpha = 1, so the target is
the posterior. DPS (`guidance`) tilts every step by the gradient; TDS and DAS add weights, DAS
tempering, too; PnP-ULA walks among clean images; Newton guidance moves x_t by forward passes only,
until the measurement is met, noise and all.

Prior `field` is a smooth Gaussian field of 3 × 16 × 16 whose denoiser and posterior are exact:
`error` is the root mean square of (mean − exact mean) / exact standard deviation, `spread` the
standard deviation over the exact one, and the row `exact` is as many independent posterior draws.
Prior `emoji` is emoji-mini and its own picture of `--prompt`; `error` is that of the mean, against
the true picture, and PnP-ULA refines what DPS made. `misfit` is the residual A x − y over sigma,
root mean square: 1 would be noise alone. Calls are network calls per particle; a backward pass
counts as two.

References:
    Chung et al., arXiv 2209.14687 (DPS). Wu et al., arXiv 2306.17775 (TDS). Kim, Kim & Park, arXiv
    2501.05803 (DAS). Laumont et al., arXiv 2103.04715 (PnP-ULA). Graikos, Jojic & Samaras, arXiv
    2410.18804 (inexact Newton).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from seqalign.core.gaussian import GaussianProcess, VariancePreserving
from seqalign.core.proposal import Tilted
from seqalign.core.streams import Streams
from seqalign.methods.das import DAS
from seqalign.methods.guidance import Guidance
from seqalign.methods.newton_guidance import NewtonGuidance
from seqalign.methods.pnp_ula import PnPULA
from seqalign.methods.tds import TDS
from seqalign.rewards.inverse_problems import (
    Inpainting,
    Measured,
    deblurring,
    inpainting,
    super_resolution,
)

SIGMA = 0.2
METHODS: dict[str, Any] = {
    "TDS": TDS(),
    "DAS": DAS(),
    "DPS": Guidance(),
    "PnP-ULA": PnPULA(iterations=400, sigma=0.1, step=0.3),
    "Newton": NewtonGuidance(),
}


@dataclass(frozen=True, eq=False)
class Field:
    """Three independent N(0.5, 0.04 · k ⊗ k) fields, k of width 2.5 pixels."""

    side: int = 16

    @cached_property
    def near(self) -> Tensor:
        """(side, side) covariance along one side, over its variance."""
        i = torch.arange(self.side, dtype=torch.float64)
        return torch.exp(-0.5 * ((i[:, None] - i) / 2.5) ** 2) + 0.02 * torch.eye(self.side)

    def process(self, steps: int) -> GaussianProcess:
        """Return the diffusion with the exact posterior mean, diagonal in the eigenvectors of k."""
        values, u = torch.linalg.eigh(self.near)
        power, schedule = 0.04 * values[:, None] * values, VariancePreserving()

        def denoiser(x: Tensor, t: float) -> Tensor:
            a, b = schedule(t)
            gain = a * power / (a * a * power + b * b)
            return 0.5 + u @ (gain * (u.T @ (x - a * 0.5) @ u)) @ u.T

        return GaussianProcess(denoiser, (3, self.side, self.side), steps, schedule, name="field")

    def truth(self, seed: int = 5) -> Tensor:
        """Draw an image, (3, side, side)."""
        root = torch.linalg.cholesky(self.near)
        z = Streams(seed, [0]).normal((1, 1, 3, self.side, self.side))[0, 0]
        return 0.5 + 0.2 * root @ z @ root.T

    def posterior(self, reward: Measured, draws: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return exact mean (3, side, side), standard deviation (side, side) and draws."""
        n = self.side**2
        basis = torch.eye(n, dtype=torch.float64).reshape(1, n, 1, self.side, self.side)
        a, y = reward.operate(basis)[0].flatten(1).T, reward.measurement.flatten(1).double()
        if isinstance(reward, Inpainting):
            keep = reward.mask[0].flatten()
            a, y = a[keep], y[:, keep]
        c = 0.04 * torch.kron(self.near, self.near)
        eye = torch.eye(len(a), dtype=torch.float64)
        gain = torch.linalg.solve(a @ c @ a.T + reward.sigma**2 * eye, a @ c).T
        mean = 0.5 + (y - 0.5 * a.sum(1)) @ gain.T
        cov = c - gain @ a @ c
        z = Streams(0, [0]).at("posterior").normal((1, draws, 3, n))[0]
        x = mean + z @ torch.linalg.cholesky(cov).T
        shape = (3, self.side, self.side)
        return mean.reshape(shape), cov.diag().sqrt().reshape(shape[1:]), x.reshape(-1, *shape)


def problems(truth: Tensor) -> dict[str, Measured]:
    """Measure an image (3, H, W) in three ways."""
    side = truth.shape[-1]
    mask = torch.ones(side, side, dtype=torch.bool)
    mask[side * 5 // 16 : side * 11 // 16, side // 4 : side * 3 // 4] = False
    small = torch.zeros(3, side // 4, side // 4).to(truth)
    made: dict[str, Measured] = {
        "inpainting": inpainting(torch.zeros_like(truth), SIGMA, mask),
        "super-resolution": super_resolution(small, SIGMA, 4),
        "deblurring": deblurring(torch.zeros_like(truth), SIGMA, 1.2 * side / 16),
    }
    for name, reward in made.items():
        y = reward.operate(truth[None, None])[0, 0]
        noise = Streams(9, [0]).at(name).normal((1, 1, *y.shape))[0, 0].to(y)
        made[name] = replace(reward, measurement=y + SIGMA * noise)
    return made


def misfit(reward: Measured, r: Tensor) -> Tensor:
    """Return the root mean square residual over sigma of log-likelihoods r."""
    mask = getattr(reward, "mask", None)
    count = reward.measurement.numel() if mask is None else int(mask.sum())
    return (-2 * r / count).sqrt()


def run(
    name: str,
    reward: Measured,
    truth: Tensor,
    field: Field | None,
    process: GaussianProcess,
    shape: tuple[int, int],
    methods: dict[str, Any],
) -> list[Any]:
    """Solve one problem by every method, print its rows and return the panels of its figure row."""
    seen = reward.measurement
    if isinstance(reward, Inpainting):
        seen = torch.where(reward.mask, seen, 0.5)
    panels = [("truth", truth, ""), ("measurement", seen, "")]
    best, scale = truth, torch.ones_like(truth)
    print(f"\n{name:16s} {'error':>7s} {'spread':>7s} {'misfit':>7s} {'ESS':>6s} {'calls':>6s}")

    def add(title: str, x: Tensor, w: Tensor, r: Tensor, ess: str, calls: str) -> None:
        w = w[:, None, None, None].to(x)
        mean = (w * x).sum(0)
        error = float(((mean - best) / scale).square().mean().sqrt())
        wide = float((((w * (x - mean) ** 2).sum(0)) / scale**2).mean().sqrt())
        off = float((w.flatten() * misfit(reward, r)).sum())
        print(f"{title:16s} {error:7.3f} {wide:7.3f} {off:7.3f} {ess:>6s} {calls:>6s}", flush=True)
        panels.append((title, mean, f"error {error:.2f}, spread {wide:.2f}"))

    if field is not None:
        n = shape[0] * shape[1]
        best, scale, draws = field.posterior(reward, n)
        r = reward.relaxed(draws[None])[0]
        panels.append(("exact mean", best, ""))
        add("exact draws", draws, torch.full((n,), 1 / n), r, f"{n}", "")
        panels.pop()
    start = None
    for title, method in methods.items():
        rng = Streams(0, range(shape[0]))
        samples = method(process, reward, shape, rng=rng, start=start)
        # emoji-mini's states are 2x − 1 of its images
        start = 2 * samples.designs.x - 1 if field is None and title == "DPS" else None
        w, x, r = samples.weights.flatten(), samples.designs.x.flatten(0, 1), samples.rewards
        ess = "" if samples.log_z is None else f"{float(1 / (w * w).sum()):.1f}"
        calls = samples.network_calls // (shape[0] * shape[1])
        add(title, x, w, r.flatten(), ess, f"{calls}")
    return panels


class Prior(StrEnum):
    """Where images come from."""

    field = "field"
    emoji = "emoji"


Quick = Annotated[bool, typer.Option("--quick", help="1 island of 8 particles, 20 steps")]


def main(
    quick: Quick = False,
    prior: Prior = Prior.field,
    prompt: str = "red apple",
    islands: int = 4,
    particles: int = 32,
    steps: int = 100,
    figure: Path | None = None,
    threads: int = 1,
) -> None:
    """Print the tables, and draw the figure if asked."""
    torch.set_num_threads(threads)
    methods = METHODS
    if quick:
        islands, particles, steps = 1, 8, 20
        methods = METHODS | {"PnP-ULA": replace(METHODS["PnP-ULA"], iterations=50)}
    field = Field() if prior is Prior.field else None
    if field is not None:
        process, truth = field.process(steps), field.truth()
    else:
        from seqalign.models.emoji import emoji_mini

        process = emoji_mini(prompt, steps=steps)
        flat = Guidance(tilt=Tilted(scale=0.0))
        any_reward = Measured(torch.zeros(process.event), 1.0)
        drawn = flat(process, any_reward, (1, 1), rng=Streams(1, [0]))
        truth = drawn.designs.x[0, 0]
    total = f"{islands} islands of {particles} particles, {steps} steps"
    print(f"prior {prior}, {total}, sigma {SIGMA}, alpha 1")
    rows = {
        name: run(name, reward, truth, field, process, (islands, particles), methods)
        for name, reward in problems(truth).items()
    }
    if figure:
        draw(rows, figure)


def draw(rows: dict[str, list[Any]], path: Path) -> None:
    """Draw truth, measurement and the mean of every method's weighted images."""
    import matplotlib.pyplot as plt

    width = max(len(row) for row in rows.values())
    figure, axes = plt.subplots(
        len(rows), width, figsize=(1.55 * width, 1.85 * len(rows)), layout="constrained"
    )
    for i, (name, row) in enumerate(rows.items()):
        for j, (title, image, text) in enumerate(row):
            axis = axes[i, j]
            axis.imshow(image.clamp(0, 1).permute(1, 2, 0).float().numpy())
            axis.set(xticks=[], yticks=[])
            axis.set_xlabel(text, fontsize=6.5)
            if i == 0:
                axis.set_title(title, fontsize=9)
        axes[i, 0].set_ylabel(name, fontsize=9)
    figure.savefig(path, dpi=110)
    print(f"wrote {path}")


if __name__ == "__main__":
    typer.run(main)
