"""Selections: which particles go on. K is the number that must remain after branching.

A selection is given particles whose `parent` names their parents, and moves all their fields at
once.

References:
    Chopin & Papaspiliopoulos 2020, chapter 10 (ESS-triggered resampling).
    Naesseth, Lindsten & Schön, "Nested sequential Monte Carlo methods", ICML 2015, arXiv
    1502.02536. Li et al., arXiv 2408.08252, algorithm 1 (one child per parent).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from seqalign.core.particles import Particles, log_mean_exp
from seqalign.core.process import Process
from seqalign.core.resampling import SCHEMES, Resampler, Scheme, multinomial
from seqalign.core.streams import Streams

__all__ = [
    "Keep", "OneChild", "Resample", "Selection", "TopK", "children", "fitted", "still", "waits",
]  # fmt: skip


class Selection(Protocol):
    """Choose K of the particles."""

    def __call__(self, particles: Particles, k: int, rng: Streams) -> Particles:
        """Return (B, k) particles."""

    def pinned(
        self, particles: Particles, k: int, rng: Streams, first: Tensor | None = None
    ) -> Particles:
        """Return (B, k) particles given that particle 0 goes on in slot 0 (a conditional sweep).

        Where it moves particles, those of `first` (B,) go on in slot 0 instead.
        """


@dataclass(frozen=True)
class Keep:
    """Keep everything."""

    def __call__(self, particles: Particles, k: int, rng: Streams) -> Particles:
        """Return the particles."""
        return particles

    def pinned(
        self, particles: Particles, k: int, rng: Streams, first: Tensor | None = None
    ) -> Particles:
        """Return the particles."""
        return particles


@dataclass(frozen=True)
class Resample:
    """Resample the islands whose effective sample size fell; finished designs stay weighted.

    Before a step without noise nothing is resampled: copies would never part.

    Attributes:
        scheme: one of `resampling.SCHEMES`.
        ess_below: threshold as a fraction; 1 resamples always, 0 never.
        every: consider only every n-th step; None is every fifth, and oftener in a chain of fewer
            than 25 steps.
        chains: resample so few ancestors, M, and let the loop's move go on from each: the states of
            its Markov chain, K/M with the ancestor, are the particles, and none is wasted. The move
            acts there alone. None resamples all. A conditional sweep has no chains.
        process: whose steps have noise or none, known in a loop.

    References:
        Andrieu, Doucet & Holenstein, "Particle Markov chain Monte Carlo methods", JRSS B 2010,
        section 4.3 (conditional resampling). Dau & Chopin, "Waste-free sequential Monte Carlo",
        JRSS B 2022, arXiv 2011.02328, algorithm 2 (chains).
    """

    scheme: Scheme = "ssp"
    ess_below: float = 0.75
    every: int | None = 1
    chains: int | None = None
    process: Process | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise ValueError(
                f"Resampling scheme {self.scheme!r} is unknown; choose one of {', '.join(SCHEMES)}."
            )
        if not 0 <= self.ess_below <= 1 or (self.every is not None and self.every < 1):
            raise ValueError(
                f"Resample needs 0 <= ess_below <= 1 and every >= 1, got {self.ess_below}, "
                f"{self.every}."
            )
        if self.chains is not None and self.chains < 1:
            raise ValueError(f"Resample needs chains >= 1, got {self.chains}.")

    def check(self, k: int) -> None:
        """Refuse k particles that cannot be shared out among the chains."""
        if self.chains is not None and (k % self.chains or k == self.chains):
            raise ValueError(
                f"{k} particles are no states of {self.chains} chains of equal length, two or "
                f"more: set resample.chains to a divisor of the particles, at most half of them."
            )

    def __call__(self, particles: Particles, k: int, rng: Streams) -> Particles:
        """Return (B, k) particles: with chains, the copies of each ancestor side by side."""
        self.check(k)
        return self._choose(particles, k, rng, SCHEMES[self.scheme], self.chains or k)

    def pinned(
        self, particles: Particles, k: int, rng: Streams, first: Tensor | None = None
    ) -> Particles:
        """Return (B, k) particles; the others are drawn multinomially, whatever the scheme."""

        # given one of them, only independent ancestors are still drawn from the weights
        def given(log_w: Tensor, u: Tensor, n: int | None = None) -> Tensor:
            ancestors = multinomial(log_w, u, n)
            ancestors[:, 0] = 0 if first is None else first
            return ancestors

        return self._choose(particles, k, rng, given, k)

    def _choose(
        self, particles: Particles, k: int, rng: Streams, scheme: Resampler, n: int
    ) -> Particles:
        if particles.reward is not None or particles.step % (self.every or 1):
            return particles
        log_w, size = particles.log_w, particles.ess
        # size 0 means a dead island: nothing to choose from, its weight stays -inf
        due = (size > 0) & ((size < self.ess_below * k) if self.ess_below < 1 else True)
        if not bool(due.any()) or (self.process is not None and still(self.process, particles)):
            return particles
        u = rng.uniform(log_w.shape, log_w.device)
        flat = torch.where(due[:, None], log_w, 0.0)
        stay = torch.arange(k, device=log_w.device)
        picks = scheme(flat, u, n).repeat_interleave(k // n, 1)
        ancestors = torch.where(due[:, None], picks, stay)
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

    def __call__(self, particles: Particles, k: int, rng: Streams) -> Particles:
        """Return (B, k) particles."""
        moved = self._choose(particles, k, rng, False)
        return moved if self.then is None else self.then(moved, k, rng.at("then"))

    def pinned(
        self, particles: Particles, k: int, rng: Streams, first: Tensor | None = None
    ) -> Particles:
        """Return (B, k) particles; of the children of parent 0 the first is kept.

        Raises:
            ValueError: without weights there is no law to which a path could be kept.
        """
        if self.greedy or not self.weigh:
            raise ValueError(
                "OneChild keeps a path only with weights: use OneChild(weigh=True), as nested_is."
            )
        moved = self._choose(particles, k, rng, True)
        return moved if self.then is None else self.then.pinned(moved, k, rng.at("then"), first)

    def _choose(self, particles: Particles, k: int, rng: Streams, pinned: bool) -> Particles:
        log_w = particles.log_w.unflatten(1, (k, -1))
        m = log_w.shape[-1]
        dead = torch.isneginf(log_w.amax(-1, keepdim=True))
        if self.greedy:
            pick = _rank(particles).unflatten(1, (k, -1)).argmax(-1)
        else:
            pick = rng.at("child").categorical(torch.where(dead, 0.0, log_w))
        if pinned:
            pick[:, 0] = 0
        moved = particles.gather(torch.arange(k, device=pick.device) * m + pick)
        return replace(
            moved, log_w=log_mean_exp(log_w) if self.weigh else torch.zeros_like(moved.log_w)
        )


@dataclass(frozen=True)
class TopK:
    """Keep the k particles with the highest value and drop the weights."""

    def __call__(self, particles: Particles, k: int, rng: Streams) -> Particles:
        """Return (B, k) particles."""
        order = _rank(particles).argsort(dim=-1, descending=True, stable=True)[:, :k]
        moved = particles.gather(order)
        return replace(moved, log_w=torch.zeros_like(moved.log_w))

    def pinned(
        self, particles: Particles, k: int, rng: Streams, first: Tensor | None = None
    ) -> Particles:
        """Raise a ValueError: without weights there is no law to which a path could be kept."""
        raise ValueError("TopK drops the weights and cannot keep a path: use Resample.")


def still(process: Process, particles: Particles) -> bool:
    """Return whether the next step of the particles has no noise, so that copies stay copies."""
    times, i = process.times.tolist(), particles.step
    if process.discrete or i + 1 == len(times):
        return False
    # one particle tells: the noise of a step is the same for all
    one = particles.posterior.map(lambda v: v[:1, :1])
    kernel = process.transition(particles.x[:1, :1], one, times[i], times[i + 1])
    return bool(getattr(kernel, "sigma", 1.0) == 0)


def children(branch: int, process: Process, particles: Particles) -> int:
    """Return how many children particles have: one where there is no noise to part them."""
    return 1 if branch == 1 or still(process, particles) else branch


def waits(selection: Selection) -> float:
    """Return the effective sample size, a fraction, below which particles are chosen; 1 if always.

    A selection that is not known here is taken not to wait.
    """
    last = getattr(selection, "then", None) or selection
    return last.ess_below if isinstance(last, Resample) else 1.0


def fitted(selection: Selection, process: Process, branch: int, tilted: bool) -> Selection:
    """Return a selection as it fits the chain of a process.

    Raises:
        ValueError: it would never choose, has no children to choose from, or no noise parts them.
    """
    steps = len(process.times) - 1
    if getattr(process, "eta", 1.0) == 0:
        why = "there is no noise that could be tilted" if tilted else ""
        if branch > 1:
            why = "all children of a particle are alike"
        elif not isinstance(selection, Keep):
            why = why or "copies of a particle never part"
        if why:
            raise ValueError(
                f"eta = 0 makes every step deterministic: {why}. Use eta > 0 (eta = 1 is the "
                f"ancestral sampler), or a method that needs no noise, such as best_of_n."
            )
    if branch > 1 and isinstance(selection, (Keep, Resample)):
        raise ValueError(
            f"branch = {branch} makes {branch} children per particle, and "
            f"{type(selection).__name__} does not choose among them: use "
            f"OneChild(weigh=True, then=Resample()) or TopK()."
        )
    inner: Any = selection
    if isinstance(getattr(inner, "then", None), Resample):
        whole: Selection = replace(inner, then=_fitted(inner.then, steps, process))
        return whole
    return _fitted(selection, steps, process) if isinstance(selection, Resample) else selection


def _fitted(resample: Resample, steps: int, process: Process) -> Resample:
    resample = replace(resample, process=process)
    if resample.every is None:
        return replace(resample, every=max(1, min(5, steps // 5)))
    # the end is never resampled; a chain of one step has no other
    most = max(1, steps - 1)
    if resample.every > most:
        raise ValueError(
            f"resample.every = {resample.every} never resamples in a chain of {steps} steps, whose "
            f"end is not resampled. Set every <= {most}, or ess_below = 0 for no resampling."
        )
    return resample
