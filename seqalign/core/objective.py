"""Rewards and their algebra: `1.0 * stability.zscore() - 0.1 * tryptophans`.

A reward maps designs to one number per particle; HIGHER IS BETTER. A differentiable one also scores
relaxed designs (letter probabilities), which is what guidance needs. A formula is a tree: every
reward knows its `parts` and can be rebuilt from changed ones (`map`), so that whatever looks into a
formula is a `walk` or a `map`.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from seqalign.core.process import Designs

__all__ = [
    "Clip", "Holdout", "Reward", "RewardError", "Sum", "Wrapper", "ZScore", "calibrate", "evaluate",
    "shared", "terms", "walk",
]  # fmt: skip


# what the terms of the sum that is being scored have computed, with what must stay alive for it
_SHARED: ContextVar[dict[Any, Any] | None] = ContextVar("shared", default=None)


class RewardError(ValueError):
    """A reward broke its contract: wrong shape, not a number, or a failed command."""


class Reward(ABC):
    """A number per design, higher is better.

    Attributes:
        name: what error messages and tables call it.
        unit: "kcal/mol", "Å", "nats", ... or "" for a pure number.
        cost: seconds per design, roughly; used for estimates only.
        differentiable: whether `relaxed` works.
        role: "guide", or "holdout" for a reward that is never optimized.
        reach: how far its gradient is worth following in one step over continuous states, in
            standard deviations of the step's noise; None for as far as it goes. A likelihood keeps
            what its gradient promises. A network does so nearby only, and where it is steep against
            alpha a state would be thrown where it says nothing; 1 spreads the weights by 1.
        follows: whether it scores letters on any device; others are asked on the CPU.
    """

    name: str = "reward"
    unit: str = ""
    cost: float = 0.0
    differentiable: bool = False
    role: str = "guide"
    reach: float | None = None
    follows: bool = False

    @abstractmethod
    def __call__(self, designs: Designs) -> Tensor:
        """Score designs, (B, K) float."""

    def relaxed(self, x: Tensor) -> Tensor:
        """Score letter probabilities (B, K, L, V) or continuous states, (B, K), differentiably."""
        raise TypeError(
            f"Reward {self.name!r} has no gradient. Use a gradient-free method (best_of_n, smc, "
            "svdd, nested_is, beam) or value 'posterior_sample', or a differentiable reward."
        )

    def graded(self, designs: Designs) -> Tensor:
        """Score continuous designs as (B, K), differentiably in designs.x.

        A reward that reads the prompts overrides this; for others it is `relaxed(designs.x)`.
        """
        return self.relaxed(designs.x)

    @property
    def parts(self) -> tuple[Reward, ...]:
        """The rewards this one is made of."""
        return ()

    def map(self, f: Callable[[Reward], Reward]) -> Reward:
        """Return the same reward with f(part) for each of its parts; itself if none changes."""
        return self

    def __mul__(self, weight: float) -> Sum:
        return Sum(tuple((float(weight) * w, r) for w, r in terms(self)))

    __rmul__ = __mul__

    def __add__(self, other: Reward) -> Sum:
        return Sum((*terms(self), *terms(other)))

    def __sub__(self, other: Reward) -> Sum:
        return self + (-1.0) * other

    def __neg__(self) -> Sum:
        """Turn lower-is-better into higher-is-better."""
        return (-1.0) * self

    def clip(self, lo: float | None = None, hi: float | None = None) -> Clip:
        """Bound the reward to [lo, hi]."""
        return Clip(self, lo, hi)

    def zscore(self, mean: float | None = None, std: float | None = None) -> ZScore:
        """Standardize by constants; without them `calibrate` must fix them before a run."""
        return ZScore(self, mean, std)

    def holdout(self) -> Holdout:
        """Mark the reward as never optimized, only reported."""
        return Holdout(self)


def terms(reward: Reward) -> tuple[tuple[float, Reward], ...]:
    """Return the (weight, reward) terms of an objective."""
    return reward.terms if isinstance(reward, Sum) else ((1.0, reward),)


def walk(reward: Reward) -> Iterator[Reward]:
    """Yield a reward and everything it is made of, the outermost first."""
    yield reward
    for part in reward.parts:
        yield from walk(part)


@contextmanager
def _sharing() -> Iterator[None]:
    token = _SHARED.set({} if _SHARED.get() is None else _SHARED.get())
    try:
        yield
    finally:
        _SHARED.reset(token)


def shared(what: Any, x: Tensor, compute: Callable[[], Tensor]) -> Tensor:
    """Return `compute()`, which depends on `what` and x alone, once for all terms of one sum.

    Two terms that look at the same numbers through the same network so pay for it once; `what`
    must be hashable. Outside a sum nothing is remembered.
    """
    memory = _SHARED.get()
    if memory is None:
        return compute()
    # a tensor made in inference mode keeps no count of its changes
    version = None if x.is_inference() else x._version
    place = (x.data_ptr(), x.shape, x.stride(), x.dtype, x.device, version)
    key = (what, place, x.requires_grad, torch.is_grad_enabled())
    if key not in memory:
        # x stays alive with the entry, so that no other numbers can take its place in memory
        memory[key] = (compute(), x)
    found: Tensor = memory[key][0]
    return found


@dataclass(frozen=True)
class Sum(Reward):
    """Σ weight · reward."""

    terms: tuple[tuple[float, Reward], ...]

    def __post_init__(self) -> None:
        """Name the formula as it is written; it has a gradient if every term has one."""
        ones = {1.0: "", -1.0: "-"}
        name = " + ".join(f"{ones.get(w, f'{w:g}*')}{r.name}" for w, r in self.terms)
        object.__setattr__(self, "name", name.replace(" + -", " - "))
        object.__setattr__(self, "differentiable", all(r.differentiable for r in self.parts))
        object.__setattr__(self, "cost", sum(r.cost for r in self.parts))

    @property
    def parts(self) -> tuple[Reward, ...]:
        """The rewards that are added."""
        return tuple(r for _, r in self.terms)

    def map(self, f: Callable[[Reward], Reward]) -> Sum:
        """Return the sum of f(term), weights as they are."""
        changed = tuple((w, f(r)) for w, r in self.terms)
        same = all(a is b for (_, a), (_, b) in zip(changed, self.terms, strict=True))
        return self if same else Sum(changed)

    def __call__(self, designs: Designs) -> Tensor:
        """Score designs, (B, K)."""
        total = torch.zeros(designs.shape, dtype=torch.float64, device=designs.x.device)
        with _sharing():
            for weight, reward in self.terms:
                r = evaluate(reward, designs)
                # a rejected design stays rejected, whatever the sign of the weight
                total = total + torch.where(torch.isneginf(r), -torch.inf, weight * r)
        return total

    def relaxed(self, x: Tensor) -> Tensor:
        """Score relaxed designs, (B, K)."""
        with _sharing():
            parts = [weight * reward.relaxed(x) for weight, reward in self.terms]
        return torch.stack(parts).sum(0)

    def graded(self, designs: Designs) -> Tensor:
        """Score continuous designs, (B, K), differentiably."""
        with _sharing():
            parts = [weight * reward.graded(designs) for weight, reward in self.terms]
        return torch.stack(parts).sum(0)


# how the reward inside a wrapper is asked: `evaluate`, or about relaxed or graded designs
Way = Callable[[Reward, Any], Tensor]


class Wrapper(Reward):
    """A reward around another, which it is asked about and whose name, unit and cost it keeps.

    Attributes:
        inner: the reward inside.
    """

    inner: Reward

    def __init__(self, inner: Reward) -> None:
        """Take over what the inner reward is called."""
        for key in ("name", "unit", "cost", "differentiable", "role"):
            object.__setattr__(self, key, getattr(inner, key))
        object.__setattr__(self, "inner", inner)

    def of(self, r: Tensor) -> Tensor:
        """Return what this reward makes of values (B, K) of the inner one."""
        return r

    def ask(self, way: Way, given: Any) -> Tensor:
        """Return what this reward says of designs or a relaxed x, by asking the inner one."""
        return self.of(way(self.inner, given))

    def __call__(self, designs: Designs) -> Tensor:
        """Score designs, (B, K)."""
        return self.ask(evaluate, designs)

    def relaxed(self, x: Tensor) -> Tensor:
        """Score relaxed designs, (B, K)."""
        return self.ask(lambda inner, given: inner.relaxed(given), x)

    def graded(self, designs: Designs) -> Tensor:
        """Score continuous designs, (B, K), differentiably."""
        return self.ask(lambda inner, given: inner.graded(given), designs)

    @property
    def parts(self) -> tuple[Reward, ...]:
        """The reward inside."""
        return (self.inner,)

    def map(self, f: Callable[[Reward], Reward]) -> Self:
        """Return the same wrapper around f(inner)."""
        inner = f(self.inner)
        if inner is self.inner:
            return self
        clone = copy.copy(self)
        object.__setattr__(clone, "inner", inner)
        return clone


@dataclass(frozen=True)
class Holdout(Wrapper):
    """A reward that is never optimized, only reported."""

    inner: Reward

    def __post_init__(self) -> None:
        super().__init__(self.inner)
        object.__setattr__(self, "role", "holdout")


@dataclass(frozen=True)
class Clip(Wrapper):
    """A reward bounded to [lo, hi]; flat, with zero gradient, outside."""

    inner: Reward
    lo: float | None = None
    hi: float | None = None

    def __post_init__(self) -> None:
        if self.lo is not None and self.hi is not None and self.lo > self.hi:
            raise ValueError(f"clip({self.lo}, {self.hi}) is empty: lo must not exceed hi.")
        super().__init__(self.inner)

    def of(self, r: Tensor) -> Tensor:
        """Bound values, (B, K)."""
        # -inf is no low score but a rejection, which no bound lifts
        return torch.where(torch.isneginf(r), -torch.inf, r.clamp(self.lo, self.hi))


@dataclass(frozen=True)
class ZScore(Wrapper):
    """(reward - mean) / std with constants fixed before the run.

    Constants from the run's own population would make the target depend on the sampler.
    """

    inner: Reward
    mean: float | None = None
    std: float | None = None

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise ValueError(f"zscore of {self.inner.name!r} needs mean and std, or neither.")
        if self.std is not None and not self.std > 0:
            raise ValueError(f"zscore std of {self.inner.name!r} must be > 0, got {self.std}.")
        super().__init__(self.inner)

    @property
    def open(self) -> bool:
        """Whether it still lacks its constants."""
        return self.mean is None

    def of(self, r: Tensor) -> Tensor:
        """Standardize values, (B, K)."""
        if self.mean is None or self.std is None:
            raise ValueError(
                f"zscore of {self.inner.name!r} has no constants yet: call seqalign.calibrate("
                "reward, designs) with reference designs before the run, or give "
                "zscore(mean=..., std=...)."
            )
        return (r - self.mean) / self.std

    def fixed(self, designs: Designs) -> ZScore:
        """Return the same with constants from reference designs (any B, K), which must differ."""
        r = evaluate(self.inner, designs).flatten()
        r = r[torch.isfinite(r)]
        if not float(r.std()) > 0:
            raise ValueError(
                f"zscore of {self.inner.name!r}: {r.numel()} reference designs have a score and "
                f"all of it is {r.unique().tolist()}, so there is no scale. Drop zscore for this "
                "reward or give zscore(mean=..., std=...)."
            )
        return replace(self, mean=float(r.mean()), std=float(r.std()))


def open_zscores(reward: Reward) -> bool:
    """Return whether a zscore in a reward still lacks its constants."""
    return any(isinstance(r, ZScore) and r.open for r in walk(reward))


def constants(reward: Reward) -> dict[str, dict[str, float | None]]:
    """Return mean and standard deviation of every zscore in a reward, by its name."""
    return {r.name: {"mean": r.mean, "std": r.std} for r in walk(reward) if isinstance(r, ZScore)}


def calibrate(reward: Reward, designs: Designs) -> Reward:
    """Fix the constants of every open `zscore` from reference designs (any B, K); see `fixed`."""
    whole = reward.map(lambda part: calibrate(part, designs))
    return whole.fixed(designs) if isinstance(whole, ZScore) and whole.open else whole


def evaluate(reward: Reward, designs: Designs) -> Tensor:
    """Score designs and check the answer: (B, K) float64, no NaN or +inf; -inf is "rejected".

    Raises:
        RewardError: the shape is wrong or a value is not a number; the message names reward, island
            and particle.
    """
    r = reward(designs)
    if not isinstance(r, Tensor):
        raise RewardError(
            f"Reward {reward.name!r} returned {type(r).__name__}; return a tensor of shape (B, K)."
        )
    if tuple(r.shape) != designs.shape:
        raise RewardError(
            f"Reward {reward.name!r} returned shape {tuple(r.shape)} for designs of shape "
            f"{designs.shape}; return one number per design, shape (B, K)."
        )
    r = r.to(designs.x.device, torch.float64)
    bad = torch.isnan(r) | (r == torch.inf)
    if bad.any():
        b, k = (int(i) for i in bad.nonzero()[0])
        what = "" if designs.alphabet is None else f" ({designs.sequences[b][k]})"
        raise RewardError(
            f"Reward {reward.name!r} is {float(r[b, k])} at island {b}, particle {k}{what}. "
            f"Mend the reward, or set on_failure: reject to give such designs weight zero."
        )
    return r
