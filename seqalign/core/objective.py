"""Rewards and their algebra: `1.0 * stability.zscore() - 0.1 * tryptophans`.

A reward maps designs to one number per particle; HIGHER IS BETTER. A differentiable one also scores
relaxed designs (letter probabilities), which is what guidance needs. Wrappers change how a reward
is called (`Counted`, `Cached`, `Chunked`), never what it says.
"""

from __future__ import annotations

import itertools
import shlex
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from seqalign.core.process import Designs

__all__ = [
    "Cached",
    "Chunked",
    "Clip",
    "Command",
    "Counted",
    "Function",
    "OnFailure",
    "Reward",
    "RewardError",
    "Sum",
    "ZScore",
    "calibrate",
    "evaluate",
    "function",
    "shared",
    "terms",
]

OnFailure = Literal["raise", "reject"]


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
    """

    name: str = "reward"
    unit: str = ""
    cost: float = 0.0
    differentiable: bool = False

    @abstractmethod
    def __call__(self, designs: Designs) -> Tensor:
        """Score designs, (B, K) float."""

    def relaxed(self, x: Tensor) -> Tensor:
        """Score (B, K, L, V) letter probabilities or continuous states as (B, K), differentiably.

        Raises:
            TypeError: the reward has no gradient.
        """
        raise TypeError(
            f"Reward {self.name!r} has no gradient. Use a gradient-free method (best_of_n, smc, "
            f"svdd, nested_is, beam) "
            f"or value 'posterior_sample', or a differentiable reward."
        )

    def graded(self, designs: Designs) -> Tensor:
        """Score continuous designs as (B, K), differentiably in designs.x.

        A reward that reads the prompts overrides this; for others it is `relaxed(designs.x)`.
        """
        return self.relaxed(designs.x)

    def __mul__(self, weight: float) -> Sum:
        """Weigh the reward."""
        return Sum(tuple((float(weight) * w, r) for w, r in _split(self)))

    __rmul__ = __mul__

    def __add__(self, other: Reward) -> Sum:
        """Add two rewards."""
        return Sum((*_split(self), *_split(other)))

    def __sub__(self, other: Reward) -> Sum:
        """Subtract a reward."""
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

    def holdout(self) -> Counted:
        """Mark the reward as never optimized, only reported."""
        return Counted(self, role="holdout")


def _split(reward: Reward) -> tuple[tuple[float, Reward], ...]:
    return reward.terms if isinstance(reward, Sum) else ((1.0, reward),)


def terms(reward: Reward) -> tuple[tuple[float, Reward], ...]:
    """Return the (weight, reward) terms of an objective."""
    return _split(reward)


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

    @property
    def name(self) -> str:  # type: ignore[override]
        """Formula of the sum."""
        return " + ".join(f"{w:g}*{r.name}" for w, r in self.terms)

    @property
    def differentiable(self) -> bool:  # type: ignore[override]
        """Whether every term is."""
        return all(r.differentiable for _, r in self.terms)

    @property
    def cost(self) -> float:  # type: ignore[override]
        """Sum of the costs."""
        return sum(r.cost for _, r in self.terms)

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


@dataclass(frozen=True)
class Clip(Reward):
    """A reward bounded to [lo, hi]; flat, with zero gradient, outside."""

    inner: Reward
    lo: float | None = None
    hi: float | None = None

    def __post_init__(self) -> None:
        """Refuse an empty interval."""
        if self.lo is not None and self.hi is not None and self.lo > self.hi:
            raise ValueError(f"clip({self.lo}, {self.hi}) is empty: lo must not exceed hi.")
        _inherit(self, self.inner)

    def __call__(self, designs: Designs) -> Tensor:
        """Score designs, (B, K)."""
        r = evaluate(self.inner, designs)
        # -inf is no low score but a rejection, which no bound lifts
        return torch.where(torch.isneginf(r), r, r.clamp(self.lo, self.hi))

    def relaxed(self, x: Tensor) -> Tensor:
        """Score relaxed designs, (B, K)."""
        return self.inner.relaxed(x).clamp(self.lo, self.hi)

    def graded(self, designs: Designs) -> Tensor:
        """Score continuous designs, (B, K), differentiably."""
        return self.inner.graded(designs).clamp(self.lo, self.hi)


@dataclass(frozen=True)
class ZScore(Reward):
    """(reward - mean) / std with constants fixed before the run.

    Constants from the run's own population would make the target depend on the sampler.
    """

    inner: Reward
    mean: float | None = None
    std: float | None = None

    def __post_init__(self) -> None:
        """Refuse a scale that is not positive."""
        if self.std is not None and not self.std > 0:
            raise ValueError(f"zscore std of {self.inner.name!r} must be > 0, got {self.std}.")
        _inherit(self, self.inner)

    def _scale(self, r: Tensor) -> Tensor:
        if self.mean is None or self.std is None:
            raise ValueError(
                f"zscore of {self.inner.name!r} has no constants yet: call "
                f"seqalign.calibrate(reward, designs) "
                f"with reference designs before the run, or give zscore(mean=..., std=...)."
            )
        return (r - self.mean) / self.std

    def __call__(self, designs: Designs) -> Tensor:
        """Score designs, (B, K)."""
        return self._scale(evaluate(self.inner, designs))

    def relaxed(self, x: Tensor) -> Tensor:
        """Score relaxed designs, (B, K)."""
        return self._scale(self.inner.relaxed(x))

    def graded(self, designs: Designs) -> Tensor:
        """Score continuous designs, (B, K), differentiably."""
        return self._scale(self.inner.graded(designs))


def _inherit(outer: Any, inner: Reward) -> None:
    for key in ("name", "unit", "cost", "differentiable"):
        object.__setattr__(outer, key, getattr(inner, key))


def calibrate(reward: Reward, designs: Designs) -> Reward:
    """Fix the constants of every open `zscore` in a reward from reference designs (any B, K).

    Raises:
        ValueError: a term is constant on the reference, so that it has no scale.
    """
    if isinstance(reward, Sum):
        return Sum(tuple((w, calibrate(r, designs)) for w, r in reward.terms))
    if isinstance(reward, ZScore) and reward.mean is None:
        r = evaluate(reward.inner, designs).flatten()
        r = r[torch.isfinite(r)]
        if not float(r.std()) > 0:
            raise ValueError(
                f"zscore of {reward.inner.name!r}: {r.numel()} reference designs have a score and "
                f"all of it is "
                f"{r.unique().tolist()}, so there is no scale. Drop zscore for this reward or give "
                f"zscore(mean=..., std=...)."
            )
        return replace(reward, mean=float(r.mean()), std=float(r.std()))
    if isinstance(reward, (Clip, ZScore)):
        return replace(reward, inner=calibrate(reward.inner, designs))
    if isinstance(reward, (Counted, Cached, Chunked)):
        clone = object.__new__(type(reward))
        clone.__dict__.update(reward.__dict__)
        clone.inner = calibrate(reward.inner, designs)
        return clone
    return reward


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
            f"{designs.shape}; "
            f"return one number per design, shape (B, K)."
        )
    r = r.double()
    bad = torch.isnan(r) | (r == torch.inf)
    if bad.any():
        b, k = (int(i) for i in bad.nonzero()[0])
        what = "" if designs.alphabet is None else f" ({designs.sequences[b][k]})"
        raise RewardError(
            f"Reward {reward.name!r} is {float(r[b, k])} at island {b}, particle {k}{what}. "
            f"Mend the reward, or set on_failure: reject to give such designs weight zero."
        )
    return r


@dataclass(frozen=True)
class Function(Reward):
    """Any Python function of a list of sequences (or a tensor of continuous designs) as a reward.

    Attributes:
        fn: list of n strings (tensor (n, *event) for continuous designs) to n numbers.
        on_failure: "raise", or "reject" to turn NaN, +inf and exceptions into -inf at the end.
    """

    fn: Callable[[Any], Any]
    name: str = "function"
    unit: str = ""
    cost: float = 0.0
    on_failure: OnFailure = "raise"

    def __call__(self, designs: Designs) -> Tensor:
        """Score designs, (B, K)."""
        b, k = designs.shape
        items: Any = (
            designs.x.flatten(0, 1)
            if designs.alphabet is None
            else list(itertools.chain.from_iterable(designs.sequences))
        )
        try:
            values = torch.as_tensor(self.fn(items), dtype=torch.float64)
        except Exception as error:
            if self.on_failure == "raise":
                raise RewardError(
                    f"Reward {self.name!r} failed on {b * k} designs: {error}"
                ) from error
            values = torch.stack([self._one(item) for item in items])
        if values.shape != (b * k,):
            raise RewardError(
                f"Reward {self.name!r} returned {tuple(values.shape)} values for {b * k} designs; "
                f"return a flat list with one number per design."
            )
        if self.on_failure == "reject":
            values = torch.where(torch.isnan(values) | (values == torch.inf), -torch.inf, values)
        return values.reshape(b, k).to(designs.x.device)

    def _one(self, item: Any) -> Tensor:
        # one bad design must not reject its whole batch
        try:
            value = self.fn([item] if isinstance(item, str) else item[None])
            return torch.as_tensor(value, dtype=torch.float64).reshape(())
        except Exception:
            return torch.tensor(-torch.inf, dtype=torch.float64)


@dataclass(frozen=True)
class Command(Reward):
    """An external program as a reward: `{fasta}` becomes a file, stdout one number per line.

    Raises:
        RewardError: the command fails or prints another count of numbers.
    """

    command: str
    name: str = "command"
    unit: str = ""
    cost: float = 1.0
    timeout: float = 3600.0

    def __post_init__(self) -> None:
        """Refuse a command without its file."""
        if "{fasta}" not in self.command:
            raise ValueError(
                f"Reward command {self.command!r} must contain {{fasta}}, the file of sequences."
            )

    def __call__(self, designs: Designs) -> Tensor:
        """Score designs, (B, K)."""
        b, k = designs.shape
        sequences = list(itertools.chain.from_iterable(designs.sequences))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "designs.fasta"
            path.write_text("".join(f">{n}\n{s}\n" for n, s in enumerate(sequences)))
            argv = [part.replace("{fasta}", str(path)) for part in shlex.split(self.command)]
            try:
                done = subprocess.run(argv, capture_output=True, text=True, timeout=self.timeout)
            except (OSError, subprocess.TimeoutExpired) as error:
                raise RewardError(
                    f"Reward {self.name!r}: {shlex.join(argv)} did not run: {error}."
                ) from error
        if done.returncode:
            raise RewardError(
                f"Reward {self.name!r}: {self.command!r} exited {done.returncode}: "
                f"{done.stderr.strip()[-500:]}"
            )
        lines = done.stdout.split()
        try:
            values = [float(line) for line in lines]
        except ValueError as error:
            raise RewardError(
                f"Reward {self.name!r}: {self.command!r} printed something else: {error}."
            ) from error
        if len(values) != b * k:
            raise RewardError(
                f"Reward {self.name!r}: {self.command!r} printed {len(values)} numbers for {b * k} "
                f"sequences."
            )
        return torch.tensor(values, dtype=torch.float64).reshape(b, k)


def function(
    fn: Callable[[Any], Any],
    name: str | None = None,
    *,
    unit: str = "",
    on_failure: OnFailure = "raise",
) -> Function:
    """Turn a Python function of sequences into a reward."""
    return Function(
        fn, name or getattr(fn, "__name__", "function").strip("<>"), unit, on_failure=on_failure
    )


class Counted(Reward):
    """Count the designs a reward scores (`calls`), and the relaxed ones (`relaxed_calls`)."""

    def __init__(self, inner: Reward, role: str = "guide") -> None:
        """Start at zero."""
        self.inner = inner
        self.role = role
        self.calls = 0
        self.relaxed_calls = 0
        _inherit(self, inner)

    def __call__(self, designs: Designs) -> Tensor:
        """Score designs, (B, K)."""
        self.calls += designs.shape[0] * designs.shape[1]
        return self.inner(designs)

    def relaxed(self, x: Tensor) -> Tensor:
        """Score relaxed designs, (B, K)."""
        self.calls += x.shape[0] * x.shape[1]
        self.relaxed_calls += x.shape[0] * x.shape[1]
        return self.inner.relaxed(x)

    def graded(self, designs: Designs) -> Tensor:
        """Score continuous designs, (B, K), differentiably."""
        n = designs.shape[0] * designs.shape[1]
        self.calls, self.relaxed_calls = self.calls + n, self.relaxed_calls + n
        return self.inner.graded(designs)


class Cached(Reward):
    """Score identical designs once, ever: the memory holds one float per distinct design."""

    def __init__(self, inner: Reward) -> None:
        """Start empty."""
        self.inner = inner
        self.memory: dict[bytes, float] = {}
        _inherit(self, inner)

    def __call__(self, designs: Designs) -> Tensor:
        """Score designs, (B, K)."""
        b, k = designs.shape
        # islands of different length: the mask is part of the design, the letters of the padding
        # are not
        mask = designs.event_mask
        x = designs.x if mask is None else torch.where(mask[:, None], designs.x, 0)
        flat = x.flatten(0, 1)
        rows = flat.cpu().contiguous().numpy()
        masks = [b""] * b if mask is None else [m.cpu().numpy().tobytes() for m in mask]
        if designs.prompts is not None:
            masks = [m + p.encode() + b"\0" for m, p in zip(masks, designs.prompts, strict=True)]
        # a digest: the bytes of an image would fill the memory
        keys = [
            blake2b(masks[i // k] + rows[i].tobytes(), digest_size=16).digest()
            for i in range(b * k)
        ]
        new = {key: i for i, key in enumerate(keys) if key not in self.memory}
        if new:
            picks = torch.tensor(list(new.values()), device=flat.device)
            if mask is None and designs.prompts is None:
                asked = replace(designs, x=flat[picks][None])
                values = evaluate(self.inner, asked)[0]
            else:
                # what belongs to an island goes with each of its designs
                own = [i // k for i in new.values()]
                asked = replace(
                    designs,
                    x=flat[picks][:, None],
                    event_mask=None if mask is None else mask[picks // k],
                    prompts=designs.prompts and tuple(designs.prompts[j] for j in own),
                )
                values = evaluate(self.inner, asked)[:, 0]
            self.memory.update(zip(new, values.tolist(), strict=True))
        answer = torch.tensor(
            [self.memory[key] for key in keys], dtype=torch.float64, device=flat.device
        )
        return answer.reshape(b, k)

    def relaxed(self, x: Tensor) -> Tensor:
        """Score relaxed designs, (B, K); never cached, they hardly repeat."""
        return self.inner.relaxed(x)

    def graded(self, designs: Designs) -> Tensor:
        """Score continuous designs, (B, K); never cached, they hardly repeat."""
        return self.inner.graded(designs)


class Chunked(Reward):
    """Score at most `size` designs per call, never mixing islands; memory stays flat in K."""

    def __init__(self, inner: Reward, size: int) -> None:
        """Fix the size."""
        if size < 1:
            raise ValueError(f"Chunk size must be >= 1, got {size}.")
        self.inner = inner
        self.size = size
        _inherit(self, inner)

    def _pieces(self, shape: tuple[int, int]) -> list[list[tuple[slice, slice]]]:
        b, k = shape
        return [
            [(slice(i, i + 1), slice(j, j + self.size)) for j in range(0, k, self.size)]
            for i in range(b)
        ]

    def __call__(self, designs: Designs) -> Tensor:
        """Score designs, (B, K)."""
        rows = self._pieces(designs.shape)
        return torch.cat(
            [torch.cat([evaluate(self.inner, designs[at]) for at in row], 1) for row in rows]
        )

    def relaxed(self, x: Tensor) -> Tensor:
        """Score relaxed designs, (B, K)."""
        rows = self._pieces((x.shape[0], x.shape[1]))
        return torch.cat([torch.cat([self.inner.relaxed(x[at]) for at in row], 1) for row in rows])

    def graded(self, designs: Designs) -> Tensor:
        """Score continuous designs, (B, K), differentiably."""
        rows = self._pieces(designs.shape)
        return torch.cat(
            [torch.cat([self.inner.graded(designs[at]) for at in row], 1) for row in rows]
        )
