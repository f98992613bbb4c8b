"""Values: v(x_t)/alpha, an estimate of the soft value log E[exp(r(x_0)/alpha) | x_t].

Any finite value keeps the target exact; a better one lowers the variance.

References:
    Uehara et al., arXiv 2501.09685, section 3 (soft value functions) and 4.1 (posterior mean
    approximation). Li et al., "Derivative-free guidance in continuous and discrete diffusion
    models" (SVDD), arXiv 2408.08252.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from seqalign.core.objective import Reward, evaluate
from seqalign.core.particles import log_mean_exp
from seqalign.core.streams import Streams

__all__ = [
    "Automatic", "Estimate", "LearnedValue", "Linearized", "PosteriorMean", "PosteriorMode",
    "PosteriorSample", "Rollout", "Value",
]  # fmt: skip


# (process, x_t, posterior, t, alpha, rng) to v/alpha, (B, K) float64
Estimate = Callable[[Any, Tensor, Any, float, float, Streams], Tensor]


class Value(Protocol):
    """The hyper-parameters of an estimate of the soft value.

    One that sets `calibrated` says that it estimates the soft value itself, what may still come of
    a state included, so that it can count fully from the start.
    """

    def bind(self, reward: Reward) -> Estimate:
        """Return the estimate for a reward."""


@dataclass(frozen=True)
class PosteriorMean:
    """The reward of the relaxed posterior mean: differentiable, one call.

    A continuous mean is decoded first, so that the reward sees what it will see in the end.
    """

    reward: Reward | None = field(default=None, repr=False)

    def bind(self, reward: Reward) -> PosteriorMean:
        """Return the value of a reward; a TypeError if it cannot score relaxed designs."""
        if not reward.differentiable:
            raise TypeError(
                f"Reward {reward.name!r} cannot score a relaxed design. Use value 'posterior_mode' "
                f"or 'posterior_sample', which score real designs."
            )
        return replace(self, reward=reward)

    def __call__(
        self, process: Any, x_t: Tensor, posterior: Any, t: float, alpha: float, rng: Streams
    ) -> Tensor:
        """Return v/alpha, (B, K)."""
        assert self.reward is not None
        if process.discrete:
            return self.reward.relaxed(posterior.mean).double() / alpha
        return self.reward.graded(process.decode(posterior.mean)).double() / alpha


@dataclass(frozen=True)
class Linearized:
    """log E[exp(r/alpha)] over independent letters, r made linear around their mean.

    Exact for a reward that is a sum over positions, where `PosteriorMean` knows only what the
    average letter gives and not what good letters may still bring. One call and the gradient in the
    posterior's mean; for discrete processes. A tilted proposal takes the letters' law under
    exp(r/alpha) from it, and both look ahead together with a design space: which mutations a budget
    should be spent on is known before the first is made.

    References:
        Uehara et al., arXiv 2501.09685, section 3 (soft value). The optimal twist of an
        independent posterior: Whiteley & Lee, "Twisted particle filters", Annals of Statistics
        2014.
    """

    calibrated: ClassVar[bool] = True
    reward: Reward | None = field(default=None, repr=False)

    def bind(self, reward: Reward) -> Linearized:
        """Return the value of a reward; a TypeError if it has no gradient."""
        if not reward.differentiable:
            raise TypeError(
                f"Reward {reward.name!r} has no gradient to be made linear by. Use value "
                f"'posterior_mode' or 'posterior_sample', which score real designs."
            )
        return replace(self, reward=reward)

    def __call__(
        self, process: Any, x_t: Tensor, posterior: Any, t: float, alpha: float, rng: Streams
    ) -> Tensor:
        """Return v/alpha, (B, K)."""
        if not process.discrete:
            raise TypeError(
                f"Value 'linearized' is about letters, and process {process.name!r} has none. Use "
                f"'posterior_mean'."
            )
        assert self.reward is not None
        leaf = posterior.mean.detach().requires_grad_()
        with torch.enable_grad():
            value = self.reward.relaxed(posterior.at(leaf).mean).double() / alpha
            (g,) = torch.autograd.grad(value.sum(), leaf)
        broken, g = failed(g, leaf), finite(g)
        gain: Tensor = posterior.tilt(g)[0] - posterior.expect(g)
        # without its gradient the reward is no more known than without its value
        return torch.where(broken, torch.nan, value.detach() + gain)


def failed(g: Tensor, mean: Tensor | None = None) -> Tensor:
    """Return where a gradient (B, K, ...) is no number, (B, K) bool.

    Given the `mean` of letters, (B, K, L, V), those that cannot come need none.
    """
    if mean is not None:
        g = torch.where(mean > 0, g, 0.0)
    return ~torch.isfinite(g.flatten(2).sum(-1))


def finite(g: Tensor) -> Tensor:
    """Return a gradient that says nothing where it is no number."""
    return g.detach().contiguous().nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)


@dataclass(frozen=True)
class PosteriorMode:
    """The reward of the most likely design: one call, no gradient needed."""

    reward: Reward | None = field(default=None, repr=False)

    def bind(self, reward: Reward) -> PosteriorMode:
        """Return the value of a reward."""
        return replace(self, reward=reward)

    def __call__(
        self, process: Any, x_t: Tensor, posterior: Any, t: float, alpha: float, rng: Streams
    ) -> Tensor:
        """Return v/alpha, (B, K)."""
        assert self.reward is not None
        return evaluate(self.reward, process.decode(posterior.mode)) / alpha


@dataclass(frozen=True)
class Automatic:
    """The best that a reward allows, `PosteriorMode` without a gradient.

    With one it is `Linearized` for letters, and `PosteriorMean` for what is continuous.
    """

    def fit(self, discrete: bool, reward: Reward) -> Linearized | PosteriorMean | PosteriorMode:
        """Return the value that fits a reward and a process, which is discrete or not."""
        if not reward.differentiable:
            return PosteriorMode()
        return Linearized() if discrete else PosteriorMean()

    def bind(self, reward: Reward) -> PosteriorMean | PosteriorMode:
        """Return the value of a reward, whatever the process is."""
        return (PosteriorMean() if reward.differentiable else PosteriorMode()).bind(reward)


@dataclass(frozen=True)
class PosteriorSample:
    """log-mean-exp of the rewards of n draws from the posterior: n calls, no gradient needed."""

    n: int = 1
    reward: Reward | None = field(default=None, repr=False)

    def bind(self, reward: Reward) -> PosteriorSample:
        """Return the value of a reward."""
        return replace(self, reward=reward)

    def __call__(
        self, process: Any, x_t: Tensor, posterior: Any, t: float, alpha: float, rng: Streams
    ) -> Tensor:
        """Return v/alpha, (B, K)."""
        assert self.reward is not None
        draws = posterior.sample(self.n, rng)
        b, k = draws.shape[:2]
        r = evaluate(self.reward, process.decode(draws.flatten(1, 2)))
        return log_mean_exp(r.reshape(b, k, self.n) / alpha)


@dataclass(frozen=True)
class Rollout:
    """log-mean-exp of the rewards of n base runs from x_t: unbiased for exp(v), and dear."""

    n: int = 1
    reward: Reward | None = field(default=None, repr=False)

    def bind(self, reward: Reward) -> Rollout:
        """Return the value of a reward."""
        return replace(self, reward=reward)

    def __call__(
        self, process: Any, x_t: Tensor, posterior: Any, t: float, alpha: float, rng: Streams
    ) -> Tensor:
        """Return v/alpha, (B, K)."""
        assert self.reward is not None
        times = process.times.tolist()
        start = min(range(len(times)), key=lambda i: abs(times[i] - t))
        b, k = x_t.shape[:2]
        # stream positions follow the particle, so a chunk draws what the whole would
        draws = []
        for n in range(self.n):
            x, law = x_t, posterior
            for i in range(start, len(times) - 1):
                if i > start:
                    law = process.posterior(x, times[i])
                kernel = process.transition(x, law, times[i], times[i + 1])
                x = kernel.sample(rng.at("rollout", n, i))
            draws.append(evaluate(self.reward, process.decode(x)))
        return log_mean_exp(torch.stack(draws, -1).reshape(b, k, self.n) / alpha)


@dataclass(frozen=True)
class LearnedValue:
    """A trained estimate: `network(x_t, t)` gives v(x_t), (B, K), in units of the reward."""

    calibrated: ClassVar[bool] = True
    network: Callable[[Tensor, float], Tensor]

    def bind(self, reward: Reward) -> LearnedValue:
        """Return itself: the reward is in the weights."""
        return self

    def __call__(
        self, process: Any, x_t: Tensor, posterior: Any, t: float, alpha: float, rng: Streams
    ) -> Tensor:
        """Return v/alpha, (B, K)."""
        return self.network(x_t, t).double() / alpha
