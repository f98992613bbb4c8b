"""Selections: which particles go on. K is the number that must remain after branching.

A selection is given particles whose `parent` names their parents, and moves all their fields at
once.

References:
    Chopin & Papaspiliopoulos 2020, chapter 10 (ESS-triggered resampling).
    Naesseth, Lindsten & Schön, "Nested sequential Monte Carlo methods", ICML 2015, arXiv
    1502.02536. Li et al., arXiv 2408.08252, algorithm 1 (one child per parent).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from seqalign.core.particles import Particles, log_mean_exp
from seqalign.core.resampling import SCHEMES, Scheme, ess, multinomial
from seqalign.core.streams import Streams

__all__ = ["Keep", "OneChild", "Resample", "Selection", "TopK", "pin"]


class Selection(Protocol):
    """Choose K of the particles."""

    @property
    def ess_below(self) -> float:
        """Effective sample size, as a fraction, below which a conditional sweep resamples."""

    def __call__(self, particles: Particles, k: int, rng: Streams) -> Particles:
        """Return (B, k) particles."""


@dataclass(frozen=True)
class Keep:
    """Keep everything."""

    ess_below: ClassVar[float] = 1.0

    def __call__(self, particles: Particles, k: int, rng: Streams) -> Particles:
        """Return the particles."""
        return particles


@dataclass(frozen=True)
class Resample:
    """Resample the islands whose effective sample size fell; finished designs stay weighted.

    Attributes:
        scheme: one of `resampling.SCHEMES`.
        ess_below: threshold as a fraction; 1 resamples always, 0 never.
        every: consider only every n-th step.
    """

    scheme: Scheme = "ssp"
    ess_below: float = 0.75
    every: int = 1

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise ValueError(
                f"Resampling scheme {self.scheme!r} is unknown; choose one of {', '.join(SCHEMES)}."
            )
        if not 0 <= self.ess_below <= 1 or self.every < 1:
            raise ValueError(
                f"Resample needs 0 <= ess_below <= 1 and every >= 1, got {self.ess_below}, "
                f"{self.every}."
            )

    def __call__(self, particles: Particles, k: int, rng: Streams) -> Particles:
        """Return (B, k) particles."""
        if particles.reward is not None or particles.step % self.every:
            return particles
        log_w, size = particles.log_w, particles.ess
        # size 0 means a dead island: nothing to choose from, its weight stays -inf
        due = (size > 0) & ((size < self.ess_below * k) if self.ess_below < 1 else True)
        if not bool(due.any()):
            return particles
        u = rng.uniform(log_w.shape, log_w.device)
        flat = torch.where(due[:, None], log_w, 0.0)
        stay = torch.arange(k, device=log_w.device)
        ancestors = torch.where(due[:, None], SCHEMES[self.scheme](flat, u), stay)
        moved = particles.gather(ancestors)
        return replace(
            moved,
            log_w=torch.where(due[:, None], 0.0, moved.log_w),
            log_z=torch.where(due, particles.log_z + log_mean_exp(flat), particles.log_z),
        )


def _rank(particles: Particles) -> Tensor:
    """Return what the best are chosen by, (B, K): a dead end is never better than another."""
    value = particles.log_twist + particles.log_h
    return torch.where(torch.isneginf(particles.log_w), -torch.inf, value)


@dataclass(frozen=True)
class OneChild:
    """Keep one child per parent, drawn by weight (or the best, if greedy).

    Attributes:
        greedy: take the child with the highest value.
        weigh: keep the mean weight of the children (nested importance sampling); without it weights
            are dropped.
        then: resampling among the parents afterwards.
    """

    greedy: bool = False
    weigh: bool = False
    then: Resample | None = None

    @property
    def ess_below(self) -> float:
        """The threshold of `then`; without one every step chooses."""
        return 1.0 if self.then is None else self.then.ess_below

    def __call__(self, particles: Particles, k: int, rng: Streams) -> Particles:
        """Return (B, k) particles."""
        log_w = particles.log_w.unflatten(1, (k, -1))
        m = log_w.shape[-1]
        dead = torch.isneginf(log_w.amax(-1, keepdim=True))
        if self.greedy:
            pick = _rank(particles).unflatten(1, (k, -1)).argmax(-1)
        else:
            pick = rng.at("child").categorical(torch.where(dead, 0.0, log_w))
        moved = particles.gather(torch.arange(k, device=pick.device) * m + pick)
        moved = replace(
            moved, log_w=log_mean_exp(log_w) if self.weigh else torch.zeros_like(moved.log_w)
        )
        return moved if self.then is None else self.then(moved, k, rng.at("then"))


@dataclass(frozen=True)
class TopK:
    """Keep the k particles with the highest value and drop the weights."""

    ess_below: ClassVar[float] = 1.0

    def __call__(self, particles: Particles, k: int, rng: Streams) -> Particles:
        """Return (B, k) particles."""
        order = _rank(particles).argsort(dim=-1, descending=True, stable=True)[:, :k]
        moved = particles.gather(order)
        return replace(moved, log_w=torch.zeros_like(moved.log_w))


def pin(particles: Particles, rng: Streams, below: float) -> Particles:
    """Resample with particle 0 surviving in slot 0 (conditional multinomial, for particle Gibbs).

    References:
        Andrieu, Doucet & Holenstein, "Particle Markov chain Monte Carlo methods", JRSS B 2010,
        section 4.3.
    """
    log_w = particles.log_w
    k = log_w.shape[1]
    size = ess(log_w)
    due = (size > 0) & (size < below * k)
    flat = torch.where(due[:, None], log_w, 0.0)
    chosen = multinomial(flat, rng.uniform(log_w.shape, log_w.device))
    chosen[:, 0] = 0
    moved = particles.gather(
        torch.where(due[:, None], chosen, torch.arange(k, device=log_w.device))
    )
    log_z: Tensor = torch.where(due, particles.log_z + log_mean_exp(flat), particles.log_z)
    return replace(moved, log_w=torch.where(due[:, None], 0.0, moved.log_w), log_z=log_z)
