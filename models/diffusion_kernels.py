"""The reverse kernels of pretrained image models, from the coefficients of their schedulers.

A kernel knows the grid of times, what the network is told at each, what its output says about the
clean image, and how much noise a step adds. The mean of the next state is the same for all:

    x_s | x_t ~ N(a_s·x̂0 + sqrt(b_s² − std²)·noise, std²),    noise = (x_t − a_t·x̂0) / b_t

which keeps the marginal law x_s = a_s·x_0 + b_s·noise whatever std <= b_s is.

| kernel | trained as | grid | std |
|---|---|---|---|
| `DDIM` | DDPM; epsilon, v or x_0 | the scheduler's timesteps | eta · posterior deviation |
| `Consistency` | latent consistency model | the distilled timesteps | b_s: all noise is fresh |
| `FlowSDE` | rectified flow | the scheduler's sigmas | eta·sqrt(t/(1−t))·sqrt(t−s) |

References:
    Song, Meng & Ermon, "Denoising diffusion implicit models", ICLR 2021, arXiv 2010.02502,
    equations 12 and 16. Luo et al., "Latent consistency models", 2023, arXiv 2310.04378. Liu et
    al., "Flow-GRPO: training flow matching models via online RL", 2025, arXiv 2505.05470. Wang &
    Yu, "Coefficients-preserving sampling for reinforcement learning with flow matching", 2025,
    arXiv 2509.05952.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch
from torch import Tensor

__all__ = ["DDIM", "Consistency", "FlowSDE", "Kernel", "kernel_of", "moments"]

# half the standard deviation of the data, a constant of consistency models (Song et al. 2023)
SIGMA_DATA = 0.5


class Kernel(Protocol):
    """What a scheduler's coefficients say, and nothing that changes during a run."""

    @property
    def times(self) -> Tensor:
        """(T + 1,) decreasing from 1 to 0."""
        ...

    @property
    def eta(self) -> float:
        """Scale of the noise of a step; 0 is deterministic."""
        ...

    def schedule(self, t: float) -> tuple[float, float]:
        """Return (a, b) of x_t = a·x_0 + b·noise."""
        ...

    def timestep(self, t: float) -> float:
        """Return what the network is told at time t."""
        ...

    def clean(self, x: Tensor, output: Tensor, t: float) -> Tensor:
        """Return x̂0 (..., C, H, W) from states and the network's output, both (..., C, H, W)."""
        ...

    def std(self, t: float, s: float) -> float:
        """Return the standard deviation of the noise of a step, at most b_s."""
        ...


def moments(kernel: Kernel, x_t: Tensor, x_0: Tensor, t: float, s: float) -> tuple[Tensor, float]:
    """Return the mean (like x_t) and the standard deviation of p(x_s | x_t, x̂0).

    References:
        Song et al., arXiv 2010.02502, equation 12, for any (a, b) and standard deviation.
    """
    (a_t, b_t), (a_s, b_s) = kernel.schedule(t), kernel.schedule(s)
    std = kernel.std(t, s)
    noise = (x_t - a_t * x_0) / b_t
    return a_s * x_0 + math.sqrt(max(b_s**2 - std**2, 0.0)) * noise, std


def _between(values: Sequence[float], t: float) -> float:
    """Interpolate values at T grid points (t = 1 − i/T) and 0 at t = 0."""
    if not 0 <= t <= 1:
        raise ValueError(f"Time runs from 1 to 0, got t = {t}.")
    at = (1 - t) * len(values)
    i = min(int(at), len(values) - 1)
    nearest = round(at)
    if nearest < len(values) and abs(at - nearest) < 1e-6:
        return values[nearest]
    after = values[i + 1] if i + 1 < len(values) else 0.0
    return values[i] + (at - i) * (after - values[i])


def _unscaled(x: Tensor, output: Tensor, a: float, b: float, prediction: str) -> Tensor:
    """Return x̂0 from what the network was trained to predict."""
    if prediction == "epsilon":
        return (x - b * output) / a
    return a * x - b * output if prediction == "v_prediction" else output


class _Trained:
    """A sub-grid of trained timesteps with their noise levels."""

    timesteps: tuple[int, ...]
    alphas: tuple[float, ...]
    final: float = 1.0

    @property
    def times(self) -> Tensor:
        """(T + 1,) equidistant labels of the grid."""
        return torch.linspace(1, 0, len(self.timesteps) + 1, dtype=torch.float64)

    def timestep(self, t: float) -> float:
        """Return the trained timestep at t; the nearest one between two points of the grid."""
        return round(_between(self.timesteps, t))

    def schedule(self, t: float) -> tuple[float, float]:
        """Return (a, b) at t."""
        alpha = self.final if t == 0 else self.alphas[int(self.timestep(t))]
        return math.sqrt(alpha), math.sqrt(1 - alpha)


@dataclass(frozen=True)
class DDIM(_Trained):
    """DDPM's networks sampled on a sub-grid of their timesteps; eta = 1 is ancestral sampling.

    With a clip, the noise is derived again from the clipped x̂0, as DDPM's posterior mean does (and
    DDIM in diffusers if `use_clipped_model_output`): mean and x̂0 then belong together.

    Attributes:
        timesteps: (T,) decreasing, what the network is told.
        alphas: the product of (1 − beta) up to each trained timestep.
        final: the same after the last step; 1 ends without noise.
        prediction: "epsilon", "v_prediction" or "sample".
        eta: scale of the noise; 1 is ancestral sampling.
        clip: bound of |x̂0|, for pixels; None for latents.

    References:
        Song et al., arXiv 2010.02502, equations 12 and 16. Salimans & Ho, arXiv 2202.00512,
        appendix D (v).
    """

    timesteps: tuple[int, ...]
    alphas: tuple[float, ...] = field(repr=False)
    final: float = 1.0
    prediction: str = "epsilon"
    eta: float = 1.0
    clip: float | None = None

    def clean(self, x: Tensor, output: Tensor, t: float) -> Tensor:
        """Return x̂0, clipped if the model was."""
        x_0 = _unscaled(x, output, *self.schedule(t), self.prediction)
        return x_0 if self.clip is None else x_0.clamp(-self.clip, self.clip)

    def std(self, t: float, s: float) -> float:
        """Return eta times the deviation of the posterior q(x_s | x_t, x_0)."""
        (a_t, b_t), (a_s, b_s) = self.schedule(t), self.schedule(s)
        return min(self.eta * b_s / b_t * math.sqrt(max(1 - (a_t / a_s) ** 2, 0.0)), b_s)


@dataclass(frozen=True)
class Consistency(_Trained):
    """A latent consistency model: every step jumps to x̂0 and noises it again to the next level.

    Attributes:
        timesteps: (T,) decreasing, of those the model was distilled at.
        alphas: the product of (1 − beta) up to each trained timestep.
        prediction: "epsilon", "v_prediction" or "sample".
        scaling: factor of the timestep in the boundary condition.
        clip: bound of |x̂0|, or None.

    References:
        Luo et al., arXiv 2310.04378, section 4.1 and algorithm 3. Song et al., "Consistency
        models", arXiv 2303.01469, equation 25 (c_skip and c_out).
    """

    timesteps: tuple[int, ...]
    alphas: tuple[float, ...] = field(repr=False)
    prediction: str = "epsilon"
    scaling: float = 10.0
    clip: float | None = None

    @property
    def eta(self) -> float:
        """1: the noise is what the model says."""
        return 1.0

    def clean(self, x: Tensor, output: Tensor, t: float) -> Tensor:
        """Return the consistency function c_skip·x + c_out·x̂0."""
        scaled = self.scaling * self.timestep(t)
        skip = SIGMA_DATA**2 / (scaled**2 + SIGMA_DATA**2)
        out = scaled / math.sqrt(scaled**2 + SIGMA_DATA**2)
        x_0 = _unscaled(x, output, *self.schedule(t), self.prediction)
        if self.clip is not None:
            x_0 = x_0.clamp(-self.clip, self.clip)
        return skip * x + out * x_0

    def std(self, t: float, s: float) -> float:
        """Return b_s."""
        return self.schedule(s)[1]


@dataclass(frozen=True)
class FlowSDE:
    """Rectified flow x_t = (1 − t)·x_0 + t·noise as a stochastic process of the same marginals.

    The noise of a step is that of Flow-GRPO's equation, eta·sqrt(t/(1 − t))·sqrt(t − s), at most s;
    at t = 1 the first t below stands in for the 1 − t of the denominator. The mean keeps the
    marginal at s exactly, to first order in t − s it is Flow-GRPO's, and the last step ends without
    noise, which a step of Euler and Maruyama would leave in the image.

    Attributes:
        sigmas: (T + 1,) from 1 to 0, shifted as the scheduler does.
        eta: "a" of Flow-GRPO; 0 is the scheduler's own Euler step.
        trained: number of trained timesteps; the network is told t times it.

    References:
        Liu et al., arXiv 2505.05470, section 4.2 (the SDE and sigma_t). Wang & Yu, arXiv 2509.05952
        (keeping the coefficients).
    """

    sigmas: tuple[float, ...]
    eta: float = 0.7
    trained: int = 1000

    @property
    def times(self) -> Tensor:
        """(T + 1,) the sigmas."""
        return torch.tensor(self.sigmas, dtype=torch.float64)

    def timestep(self, t: float) -> float:
        """Return t in trained timesteps."""
        return t * self.trained

    def schedule(self, t: float) -> tuple[float, float]:
        """Return (1 − t, t)."""
        return 1.0 - t, t

    def clean(self, x: Tensor, output: Tensor, t: float) -> Tensor:
        """Return x − t·velocity."""
        return x - t * output

    def std(self, t: float, s: float) -> float:
        """Return the deviation of the noise of a step."""
        rest = 1 - min(t, self.sigmas[1])
        return min(self.eta * math.sqrt(t * (t - s) / rest), s)


def timesteps(config: Any, steps: int) -> tuple[int, ...]:
    """Return the decreasing timesteps of a scheduler's spacing.

    References:
        Lin et al., "Common diffusion noise schedules and sample steps are flawed", arXiv
        2305.08891, table 2.

    Raises:
        ValueError: there are more steps than trained timesteps, or the spacing is unknown.
    """
    trained, spacing = config.num_train_timesteps, config.get("timestep_spacing", "leading")
    offset = config.get("steps_offset", 0)
    if spacing == "leading":
        stride = trained // steps if steps <= trained else 0
        grid = [i * stride + offset for i in range(steps)][::-1]
    elif spacing == "trailing":
        # numpy and Python both round halves to even
        grid = [round(trained - i * trained / steps) - 1 for i in range(steps)]
    elif spacing == "linspace":
        grid = [round(i * (trained - 1) / max(steps - 1, 1)) for i in range(steps)][::-1]
    else:
        raise ValueError(
            f"timestep_spacing of the scheduler is {spacing!r}; give a scheduler with 'leading', "
            f"'trailing' or 'linspace'."
        )
    if len(set(grid)) < steps or grid[0] >= trained:
        raise ValueError(
            f"steps is {steps}, but the model knows {trained} timesteps (spacing {spacing!r}, "
            f"offset {offset}). Give fewer steps."
        )
    return tuple(grid)


def dynamic_shift(config: Any, tokens: int) -> float:
    """Return mu, linear in the number of image tokens, of a scheduler with dynamic shifting.

    References:
        Esser et al., "Scaling rectified flow transformers for high-resolution image synthesis",
        arXiv 2403.03206, section 5.3.2 (resolution-dependent shifting).
    """
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    base, top = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    return float(base + (top - base) * (tokens - low) / (high - low))


def kernel_of(
    scheduler: Any, steps: int, *, eta: float = 1.0, tokens: int = 0, linear: bool = False
) -> Kernel:
    """Return the kernel that a diffusers scheduler's coefficients describe; it stays untouched.

    Any scheduler of a DDPM-trained model (DDPM, DDIM, PNDM, Euler, DPM-Solver, ...) gives `DDIM`
    with its own betas, spacing and prediction type.

    Args:
        scheduler: a diffusers scheduler.
        steps: network calls per particle.
        eta: scale of the noise.
        tokens: tokens of an image, for schedulers with dynamic shifting.
        linear: start from sigmas 1, 1 − 1/T, ..., 1/T before shifting, as Flux does.

    Raises:
        ValueError: the scheduler is of another kind, or asks for what no kernel here does.
    """
    kinds = {kind.__name__ for kind in type(scheduler).__mro__}
    name, config = type(scheduler).__name__, scheduler.config
    if steps < 1 or eta < 0:
        raise ValueError(f"steps must be >= 1 and eta >= 0, got {steps} and {eta}.")
    if config.get("thresholding", False):
        raise ValueError(
            f"{name} uses dynamic thresholding, which has no place in a Gaussian kernel. Give a "
            f"scheduler with thresholding=False."
        )
    if "FlowMatchEulerDiscreteScheduler" in kinds:
        return FlowSDE(_sigmas(scheduler, steps, tokens, linear), eta, config.num_train_timesteps)
    if not hasattr(scheduler, "alphas_cumprod"):
        raise ValueError(
            f"{name} has neither alphas_cumprod nor sigmas of a rectified flow. Put "
            f"DDIMScheduler.from_config(pipeline.scheduler.config) in its place, if the model was "
            f"trained as a DDPM."
        )
    alphas = tuple(scheduler.alphas_cumprod.double().tolist())
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction", "sample"):
        raise ValueError(
            f"prediction_type of {name} is {prediction!r}; 'epsilon', 'v_prediction' and 'sample' "
            f"are known."
        )
    clip = config.get("clip_sample_range", 1.0) if config.get("clip_sample", False) else None
    if "LCMScheduler" in kinds:
        if eta != 1:
            raise ValueError(
                f"eta is {eta}, but a consistency model draws all noise anew: leave eta at 1."
            )
        own = copy.deepcopy(scheduler)
        own.set_timesteps(steps)
        grid = tuple(int(n) for n in own.timesteps)
        return Consistency(grid, alphas, prediction, config.timestep_scaling, clip)
    grid = timesteps(config, steps)
    if alphas[grid[0]] == 0 and prediction == "epsilon":
        raise ValueError(
            f"{name} starts at zero signal, where the noise says nothing about the image: such a "
            f"model must predict v or the image."
        )
    final = 1.0
    if not config.get("set_alpha_to_one", True):
        final = float(getattr(scheduler, "final_alpha_cumprod", alphas[0]))
    return DDIM(grid, alphas, final, prediction, eta, clip)


def _sigmas(scheduler: Any, steps: int, tokens: int, linear: bool) -> tuple[float, ...]:
    # the copy has the scheduler's shifting and its choice of sigmas; the caller's stays untouched
    own, config = copy.deepcopy(scheduler), scheduler.config
    given: dict[str, Any] = {}
    if config.get("use_dynamic_shifting", False):
        given["mu"] = dynamic_shift(config, tokens)
    if linear and not config.get("use_flow_sigmas", False):
        given["sigmas"] = [1 - i / steps for i in range(steps)]
    own.set_timesteps(steps, **given)
    sigmas = cast("list[float]", own.sigmas.double().tolist())
    if abs(sigmas[0] - 1) > 1e-6 or sigmas[-1] != 0 or config.get("stochastic_sampling", False):
        raise ValueError(
            f"{type(scheduler).__name__} goes from {sigmas[0]:.3g} to {sigmas[-1]:.3g} "
            f"(stochastic_sampling: {config.get('stochastic_sampling', False)}); a flow here goes "
            f"from pure noise, 1, to 0. Give a scheduler without invert_sigmas and "
            f"stochastic_sampling."
        )
    return (1.0, *sigmas[1:])
