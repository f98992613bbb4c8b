"""Continuous diffusion: Gaussian kernels (DDPM, DDIM with eta) on two kinds of schedule.

References:
    Ho, Jain & Abbeel, "Denoising diffusion probabilistic models", NeurIPS 2020, arXiv 2006.11239.
    Song, Meng & Ermon, "Denoising diffusion implicit models", ICLR 2021, arXiv 2010.02502,
    equations 12 and 16. Liu, Gong & Liu, "Flow straight and fast", ICLR 2023, arXiv 2209.03003.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from seqalign.core.process import Designs, Space, Whole
from seqalign.core.streams import Streams

__all__ = [
    "Continuous", "Denoiser", "Gaussian", "GaussianPosterior", "GaussianProcess", "RectifiedFlow",
    "Schedule", "VariancePreserving",
]  # fmt: skip

# (B, K, *event) states and t to the (B, K, *event) mean of p(x_0 | x_t); one that holds something
# for each island (the encoding of its prompt) has a method take(islands), too, and one that calls a
# network more than once (classifier-free guidance: twice) says so by calls_per_state
Denoiser = Callable[[Tensor, float], Tensor]


class Schedule(Protocol):
    """x_t = a(t) · x_0 + b(t) · noise."""

    def __call__(self, t: float) -> tuple[float, float]:
        """Return (a, b) at time t in [0, 1]."""


@dataclass(frozen=True)
class VariancePreserving:
    """a² + b² = 1 with log a² = −beta_min·t − (beta_max − beta_min)·t²/2.

    References:
        Song et al., arXiv 2011.13456, equation 33.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __call__(self, t: float) -> tuple[float, float]:
        """Return (a, b) at time t."""
        log_a2 = -self.beta_min * t - 0.5 * (self.beta_max - self.beta_min) * t * t
        return math.exp(0.5 * log_a2), math.sqrt(-math.expm1(log_a2))


@dataclass(frozen=True)
class RectifiedFlow:
    """The straight path a = 1 − t, b = t."""

    def __call__(self, t: float) -> tuple[float, float]:
        """Return (a, b) at time t."""
        return 1.0 - t, t


@dataclass(frozen=True)
class GaussianPosterior(Whole):
    """p(x_0 | x_t) by its mean (B, K, *event) and one standard deviation."""

    mean: Tensor
    std: float = 0.0

    @property
    def mode(self) -> Tensor:
        """The mean, (B, K, *event)."""
        return self.mean

    def sample(self, n: int, rng: Streams) -> Tensor:
        """Draw n states per particle, (B, K, n, *event)."""
        b, k, *event = self.mean.shape
        noise = rng.normal((b, k, n, *event), self.mean.device).to(self.mean.dtype)
        return self.mean[:, :, None] + self.std * noise

    def at(self, mean: Tensor) -> Self:
        """Return the same with another mean, (B, K, *event), in which a gradient is taken."""
        return replace(self, mean=mean)


@dataclass(frozen=True)
class Gaussian:
    """N(mean, sigma²), mean (B, K, *event); sigma = 0 is a point mass with log-density 0."""

    mean: Tensor
    sigma: float

    def sample(self, rng: Streams) -> Tensor:
        """Draw x_s, (B, K, *event)."""
        if self.sigma == 0:
            return self.mean
        return self.mean + self.sigma * rng.normal(self.mean.shape, self.mean.device).to(
            self.mean.dtype
        )

    def log_prob(self, x_s: Tensor) -> Tensor:
        """Return the log-density of x_s in nats, (B, K)."""
        if self.sigma == 0:
            return torch.zeros(x_s.shape[:2], dtype=torch.float64, device=x_s.device)
        z = ((x_s - self.mean).double() / self.sigma).flatten(2)
        return -0.5 * (z * z).sum(-1) - z.shape[-1] * (
            math.log(self.sigma) + 0.5 * math.log(2 * math.pi)
        )

    def tilt(self, g: Tensor) -> Gaussian:
        """Return N(mean + sigma²·g, sigma²); g (B, K, *event)."""
        return Gaussian(self.mean + self.sigma**2 * g.to(self.mean.dtype), self.sigma)


class Continuous(Protocol):
    """What every process with continuous states and a schedule answers alike."""

    @property
    def remembers(self) -> bool:
        """A posterior is a function of its state."""
        return False

    @property
    def absorbing(self) -> bool:
        """Nothing settles before the end."""
        return False

    @property
    def times(self) -> Tensor:
        """(T + 1,) decreasing from 1 to 0."""

    @property
    def eta(self) -> float:
        """Scale of the noise of a step; 0 is deterministic."""

    def schedule(self, t: float) -> tuple[float, float]:
        """Return (a, b) of x_t = a·x_0 + b·noise."""

    def relax(self, x: Tensor) -> Tensor:
        """Return x."""
        return x

    def unknown(self, x: Tensor) -> Tensor:
        """No position is open: (B, K, *event), all False."""
        return torch.zeros_like(x, dtype=torch.bool)

    def lift(self, score: Tensor, posterior: GaussianPosterior) -> Tensor:
        """Return the score: a mean has the coordinates of a state."""
        return score

    def corrupt(self, x_0: Tensor, step: int, rng: Streams, space: Space | None = None) -> Tensor:
        """Draw x_t at times[step] from the forward process."""
        if space is not None:
            self.check(0, space)
        a, b = self.schedule(float(self.times[step]))
        return a * x_0 + b * rng.normal(x_0.shape, x_0.device).to(x_0.dtype)

    def check(self, steps: int, space: Space | None = None, x: Tensor | None = None) -> None:
        """Refuse a design space."""
        if space is not None:
            raise TypeError(
                "A DesignSpace holds letters; continuous processes have none. Drop the constraints."
            )


@dataclass(frozen=True, eq=False)
class GaussianProcess(Continuous):
    """A denoiser with its schedule, run by DDIM with eta (eta = 1 is DDPM's ancestral sampler).

    Attributes:
        denoiser: (B, K, *event) and t to the mean of x_0.
        event: shape of one state.
        eta: 0 is deterministic (particles that are selected or tilted need more), 1 ancestral.
        decoder: maps finished states to what rewards see, differentiably; identity by default.
        prompts: what each of the B islands is asked for, in words; None without a text condition.
        device: where states live.
    """

    denoiser: Denoiser
    event: tuple[int, ...]
    steps: int
    schedule: Schedule = VariancePreserving()
    eta: float = 1.0
    differentiable: bool = True
    chunk: int | None = None
    decoder: Callable[[Tensor], Tensor] | None = None
    dtype: torch.dtype = torch.float64
    name: str = "gaussian"
    takes_time: bool = True
    discrete: bool = False
    event_mask: Tensor | None = None
    prompts: tuple[str, ...] | None = None
    device: str | torch.device = "cpu"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.eta < 0:
            raise ValueError(
                f"GaussianProcess needs steps >= 1 and eta >= 0, got {self.steps} and {self.eta}."
            )

    @cached_property
    def times(self) -> Tensor:
        """(T + 1,) from 1 to 0."""
        return torch.linspace(1, 0, self.steps + 1, dtype=torch.float64)

    @property
    def calls_per_state(self) -> int:
        """Network calls that one visit of a state costs."""
        each: int = getattr(self.denoiser, "calls_per_state", 1)
        return each

    def take(self, islands: Sequence[int]) -> GaussianProcess:
        """Return the process of a subset of its islands."""
        part = getattr(self.denoiser, "take", None)
        if part is None and self.prompts is None:
            return self
        prompts = self.prompts
        if prompts is not None and len(prompts) > 1:
            prompts = tuple(prompts[i] for i in islands)
        denoiser = self.denoiser if part is None else part(islands)
        return replace(self, denoiser=denoiser, prompts=prompts)

    def prior(self, shape: tuple[int, int], rng: Streams) -> Tensor:
        """Draw x_T ~ N(0, I), (B, K, *event)."""
        return rng.normal((*shape, *self.event), self.device).to(self.dtype)

    def posterior(self, x: Tensor, t: float, *before: Any) -> GaussianPosterior:
        """Call the denoiser."""
        a, b = self.schedule(t)
        return GaussianPosterior(self.denoiser(x, t), b / math.sqrt(a * a + b * b))

    def transition(self, x_t: Tensor, posterior: GaussianPosterior, t: float, s: float) -> Gaussian:
        """Return p(x_s | x_t).

        References:
            Song et al., arXiv 2010.02502, equations 12 and 16, for any (a, b).
        """
        (a_t, b_t), (a_s, b_s) = self.schedule(t), self.schedule(s)
        ancestral = (b_s / b_t) ** 2 * max(b_t**2 - (a_t / a_s) ** 2 * b_s**2, 0.0)
        sigma = min(self.eta * math.sqrt(ancestral), b_s)
        noise = (x_t - a_t * posterior.mean) / b_t
        return Gaussian(a_s * posterior.mean + math.sqrt(b_s**2 - sigma**2) * noise, sigma)

    def decode(self, x_0: Tensor) -> Designs:
        """Turn finished states into designs."""
        x = x_0 if self.decoder is None else self.decoder(x_0)
        prompts = self.prompts
        if prompts is not None and len(prompts) == 1:
            prompts = prompts * x.shape[0]  # one prompt serves all islands
        return Designs(x, prompts=prompts)
