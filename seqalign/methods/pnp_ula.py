"""PnP-ULA: Langevin dynamics on clean states with the denoiser as the prior.

Not consistent: the prior is p_pre blurred by sigma, steps are not corrected, the chain is finite.

References:
    Laumont et al., "Bayesian imaging using plug & play priors", 2022, arXiv 2103.04715, algorithm 1
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from seqalign.core.budget import Meter, Metered
from seqalign.core.gaussian import Continuous, Gaussian
from seqalign.core.method import Looped
from seqalign.core.objective import Reward
from seqalign.core.process import Process, Space
from seqalign.core.proposal import Tilted
from seqalign.core.selection import Keep
from seqalign.core.smc import SMC

__all__ = ["PnPULA"]


class _Here(NamedTuple):
    mean: Tensor  # the state itself, which the reward looks at
    denoised: Tensor
    columns: None = None

    def map(self, f: Any) -> _Here:
        return _Here(f(self.mean), f(self.denoised))


# the prior's half of the chain as a process, always at one time; the tilt adds the reward's half
class _Langevin(Metered):
    def __init__(self, process: Process, method: PnPULA, meter: Meter | None = None) -> None:
        super().__init__(process, meter)
        self.method, self.differentiable, self.eta = method, True, 1.0
        levels = [(*self.schedule(t), t) for t in process.times.tolist()[:-1]]
        level = min(levels, key=lambda v: abs(v[1] - method.sigma * v[0]))[2]
        self.times = torch.full((method.iterations + 1,), level, dtype=torch.float64)

    def take(self, islands: Any) -> _Langevin:
        return _Langevin(self._process.take(islands), self.method, self.meter)

    def posterior(self, x: Tensor, t: float) -> Any:
        with torch.no_grad():
            return _Here(x, super().posterior(self.schedule(t)[0] * x, t).mean)

    def check(self, steps: int, space: Space | None = None, x: Tensor | None = None) -> None:
        Continuous.check(self, steps, space)  # the noise of a step is its own

    def transition(self, x_t: Tensor, posterior: _Here, t: float, s: float) -> Gaussian:
        (a, b), step, box = self.schedule(t), self.method.step, self.method.box
        prior = posterior.denoised - x_t + x_t.clamp(-box, box) - x_t
        return Gaussian(x_t + step * prior, (2 * step) ** 0.5 * b / a)


@dataclass(frozen=True)
class PnPULA(Looped):
    """x ← x + delta·(∇r(x)/alpha + (D(x) − x + Π(x) − x)/epsilon) + sqrt(2·delta)·noise.

    Attributes:
        alpha: temperature of the target, in units of the reward.
        iterations: length of the chain; one network call per particle each.
        sigma: noise that D removes; the process's time with the nearest b/a: epsilon = (b/a)².
        step: delta / epsilon, stable below 2 / (2 + curvature of r · epsilon / alpha).
        box: Π clamps values to [-box, box]; the paper's lambda is epsilon.
    """

    iterations: int = 200
    sigma: float = 0.1
    step: float = 0.1
    box: float = 10.0
    consistent: ClassVar[bool] = False
    kinds: ClassVar[tuple[str, ...]] = ("continuous",)

    def loop(self, process: Process, reward: Reward, space: Space | None = None) -> SMC:
        """Return the sampler; `start` holds clean states (B, K, *event), noise by default."""
        if process.discrete:
            raise TypeError("pnp_ula moves continuous states, and this process has letters.")
        if min(self.iterations, self.sigma, self.step, self.box) <= 0:
            raise ValueError(f"iterations, sigma, step and box must be > 0, got {self}.")
        chain, half = _Langevin(process, self), Tilted("network", 0.5, math.inf)
        return SMC(
            chain, reward, self.alpha, proposal=half, selection=Keep(), space=space, defense=0.0
        )
