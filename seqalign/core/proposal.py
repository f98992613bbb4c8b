"""Proposals: what the next state is drawn from; weights correct for it.

References:
    Dhariwal & Nichol, "Diffusion models beat GANs on image synthesis", NeurIPS 2021, arXiv
    2105.05233 (guidance). Wu et al., "Practical and asymptotically exact conditional sampling"
    (TDS), NeurIPS 2023, arXiv 2306.17775. Hesterberg, "Weighted average importance sampling and
    defensive mixture distributions", Technometrics 1995 (the base process mixed in).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from seqalign.core.discrete import limited
from seqalign.core.objective import Reward, walk
from seqalign.core.particles import Particles
from seqalign.core.process import Process, Space, Transition, draw
from seqalign.core.streams import Streams

__all__ = ["DEFENSE", "Base", "Defended", "Proposal", "Tilted", "defended", "inside", "reaching"]

# Share of the paths that leave the proposal once, for the base process inside the allowed set. A
# look-ahead with independent letters, or a gradient far from where it was taken, can be so sure
# that a part of the target is never drawn, and no weight tells. At one path in ten what it costs
# does not show beside the noise of weights; what is never drawn costs everything.
DEFENSE = 0.1


@dataclass(frozen=True)
class Base:
    """The pretrained transition itself."""


@dataclass(frozen=True)
class Tilted:
    """The transition tilted by scale · lam · the gradient of v/alpha.

    Attributes:
        through: "posterior" takes the gradient with respect to the posterior mean (no backward pass
            through the network; discrete processes only), "network" with respect to the state,
            "auto" chooses "posterior" for discrete and "network" for continuous processes.
        scale: multiplies the gradient; any value is exact.
        limit: how far a continuous state is moved at most, in standard deviations of the step's
            noise. None fits the reward and the method: with weights, which pay for every tilt, as
            far as the reward says that its gradient reaches; without, no limit.
    """

    through: Literal["auto", "posterior", "network"] = "auto"
    scale: float = 1.0
    limit: float | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and not self.limit > 0:
            raise ValueError(
                f"Tilted needs limit > 0, got {self.limit}; scale = 0 is no tilt, and limit = .inf "
                f"is no limit."
            )

    def __call__(self, q: Transition, score: Tensor, lam: Tensor) -> Transition:
        """Return a transition tilted by a score (B, K, ...), where lam is (B,)."""
        strength = (self.scale * lam).reshape(-1, *[1] * (score.dim() - 1))
        g = strength.to(score.dtype) * score
        sigma = getattr(q, "sigma", None)
        if sigma is not None:
            far = (
                sigma * g.flatten(2).norm(dim=-1) / (math.inf if self.limit is None else self.limit)
            )
            g = g / far.clamp(min=1.0).reshape(*far.shape, *[1] * (g.dim() - 2))
        return q.tilt(g)


Proposal = Base | Tilted


def reaching(proposal: Proposal, reward: Reward) -> Proposal:
    """Return a proposal whose limit, where it is open, is how far the reward's gradient reaches."""
    if not isinstance(proposal, Tilted) or proposal.limit is not None:
        return proposal
    known = [part.reach for part in walk(reward) if part.reach is not None]
    return replace(proposal, limit=min(known, default=math.inf))


@dataclass(frozen=True)
class Defended:
    """A proposal with a second one mixed in, so that it is nowhere much smaller than that one.

    Attributes:
        q: the proposal.
        wide: what is drawn from instead, by so large a share of the particles; it is not tilted.
        share: between 0 and 1.
    """

    q: Transition
    wide: Transition
    share: float

    def sample(self, rng: Streams) -> Tensor:
        """Draw x_s, (B, K, *event)."""
        return self.draw(rng)[0]

    def draw(self, rng: Streams) -> tuple[Tensor, Tensor]:
        """Draw x_s (B, K, *event) with its log-probability (B, K)."""
        x_s, log_q = draw(self.q, rng)
        away = rng.at("away").uniform(log_q.shape, log_q.device) < self.share
        # a proposal that could draw nothing says so, whatever the other one thinks of it
        dead = torch.isneginf(log_q) & ~away
        if bool(away.any()):
            other = self.wide.sample(rng.at("wide"))
            x_s = torch.where(away.view(*away.shape, *[1] * (x_s.dim() - 2)), other, x_s)
            log_q = torch.where(away, self.q.log_prob(x_s), log_q)
        return x_s, torch.where(dead, -torch.inf, self._mixed(log_q, x_s))

    def log_prob(self, x_s: Tensor) -> Tensor:
        """Return the log-probability of x_s, (B, K)."""
        return self._mixed(self.q.log_prob(x_s), x_s)

    def _mixed(self, log_q: Tensor, x_s: Tensor) -> Tensor:
        log_wide = self.wide.log_prob(x_s) + math.log(self.share)
        return torch.logaddexp(log_q + math.log1p(-self.share), log_wide)

    def tilt(self, g: Tensor) -> Defended:
        """Tilt the proposal; what is mixed in stays."""
        return Defended(self.q.tilt(g), self.wide, self.share)


def defended(q: Transition, wide: Transition, share: float) -> Transition:
    """Mix `wide` into a proposal, in the proposal's own way if it has one."""
    if share == 0:
        return q
    own = getattr(q, "defended", None)
    found: Transition = Defended(q, wide, share) if own is None else own(wide, share)
    return found


def inside(
    process: Process, state: Particles, t: float, s: float, space: Space | None
) -> tuple[Transition, Transition]:
    """Return the proposal given the space, and the base process where that is not 0."""

    def kernel(law: Any) -> Transition:
        q = process.transition(state.x, law, t, s)
        return q if space is None else space.restrict(q, state.x, law, process.unknown(state.x))

    return kernel(state.guide), kernel(limited(state.posterior, state.guide))
