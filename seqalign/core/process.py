"""What the loop knows by protocol: posteriors, transitions, processes, spaces; and designs.

A *process* is a pretrained reverse diffusion. Time runs from 1 to 0; one step goes from t to s < t.
Shapes: B islands, K particles per island, event = (L,) tokens or (C, H, W) values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Protocol, Self, TypeVar, runtime_checkable

import torch
from torch import Tensor

from seqalign.core.sequence import Alphabet
from seqalign.core.streams import Streams

__all__ = [
    "Designs", "Posterior", "Process", "Space", "Transition", "Whole", "draw", "over_tensors",
    "shifted", "weigh",
]  # fmt: skip

T = TypeVar("T")


@dataclass(frozen=True)
class Designs:
    """Finished designs: what a reward sees.

    Attributes:
        x: (B, K, *event); int64 tokens for sequences, floats for images and vectors.
        alphabet: the letters of the tokens; None for continuous designs.
        event_mask: (B, L) bool, True where a position exists, for islands of different length; None
            if all exist.
        prompts: what each of the B islands was asked for, in words; None without a text condition.
    """

    x: Tensor
    alphabet: Alphabet | None = None
    event_mask: Tensor | None = None
    prompts: tuple[str, ...] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Islands and particles, (B, K)."""
        return self.x.shape[0], self.x.shape[1]

    @property
    def sequences(self) -> list[list[str]]:
        """B lists of K strings; a TypeError if the designs are continuous."""
        if self.alphabet is None:
            raise TypeError("These designs are continuous and have no letters; read `.x` instead.")
        rows = []
        for b in range(self.x.shape[0]):
            tokens = self.x[b] if self.event_mask is None else self.x[b][:, self.event_mask[b]]
            rows.append(self.alphabet.decode(tokens))
        return rows

    def __getitem__(self, index: tuple[Any, Any]) -> Designs:
        """Select islands and particles by a pair of slices."""
        islands, particles = index
        mask = None if self.event_mask is None else self.event_mask[islands]
        prompts = None if self.prompts is None else self.prompts[islands]
        return replace(self, x=self.x[islands][:, particles], event_mask=mask, prompts=prompts)

    def each(self, islands: Sequence[int], particles: Sequence[int]) -> Designs:
        """Select n designs one by one, (n, 1): each is an island of its own."""
        rows = list(islands)
        mask = None if self.event_mask is None else self.event_mask[rows]
        prompts = None if self.prompts is None else tuple(self.prompts[i] for i in rows)
        x = self.x[rows, list(particles)][:, None]
        return replace(self, x=x, event_mask=mask, prompts=prompts)

    @classmethod
    def of(cls, sequences: Sequence[str], alphabet: Alphabet) -> Designs:
        """Wrap n sequences of one length as one island, (1, n, L)."""
        return cls(alphabet.encode(sequences)[None], alphabet)


class Posterior(Protocol):
    """p(x_0 | x_t) as the network sees it; indexable like the particles it belongs to."""

    @property
    def columns(self) -> Tensor | None:
        """(B, K, m) the open positions, where only these have rows; None if all positions do."""

    @property
    def mean(self) -> Tensor:
        """Relaxed mean: (B, K, L, V) letter probabilities, or (B, K, *event) values."""

    @property
    def mode(self) -> Tensor:
        """Most likely x_0, (B, K, *event)."""

    def sample(self, n: int, rng: Streams) -> Tensor:
        """Draw n independent x_0 per particle, (B, K, n, *event)."""

    def map(self, f: Any) -> Self:
        """Apply `f` to every (B, K, ...) tensor: the one door for gathering and slicing."""

    def at(self, mean: Tensor) -> Self:
        """Return the same with another mean, in which a gradient is taken."""

    def whole(self) -> Posterior:
        """Return the same with a row for every position."""

    def whole_score(self, score: Tensor) -> Tensor:
        """Return a score of these rows as one of `whole()`."""


def over_tensors(item: T, f: Callable[[Tensor], Tensor]) -> T:
    """Return a dataclass with f(v) for every tensor v among its fields, and in what has `map`."""
    found = {a.name: getattr(item, a.name) for a in fields(item)}  # type: ignore[arg-type]
    changed = {k: f(v) for k, v in found.items() if isinstance(v, Tensor)}
    changed |= {k: v.map(f) for k, v in found.items() if hasattr(v, "map")}
    return replace(item, **changed)  # type: ignore[type-var]


class Whole:
    """What every posterior with a row for every position answers alike."""

    columns: ClassVar[None] = None

    def map(self, f: Callable[[Tensor], Tensor]) -> Self:
        """Apply `f` to every tensor."""
        return over_tensors(self, f)

    def whole(self) -> Self:
        """Return itself."""
        return self

    def whole_score(self, score: Tensor) -> Tensor:
        """Return the score."""
        return score


@runtime_checkable
class Transition(Protocol):
    """The reverse kernel p(x_s | x_t)."""

    def sample(self, rng: Streams) -> Tensor:
        """Draw x_s, (B, K, *event)."""

    def log_prob(self, x_s: Tensor) -> Tensor:
        """Return the log-density of x_s in nats, (B, K), float64, summed over the event."""

    def tilt(self, g: Tensor) -> Transition:
        """Return the normalized density ∝ p · exp(<g, relax(x_s)>)."""


class Space(Protocol):
    """The allowed set A of designs, and the look-ahead h(x_t) = P(x_0 in A | x_t).

    `condition` and `restrict` are told which positions are still open: `unknown`, (B, K, L).
    """

    @property
    def blocks(self) -> tuple[tuple[int, ...], ...]:
        """Groups of 1-based positions that are tied and must be revealed together."""

    @property
    def discount(self) -> float:
        """How much less than fully the look-ahead counts at t = 1."""

    def within(self, event_mask: Tensor) -> Space:
        """Return the space on islands of different length, (B, L) bool."""

    def take(self, islands: Sequence[int]) -> Space:
        """Return the space of a subset of its islands."""

    def start(self, x_T: Tensor) -> Tensor:
        """Reveal the fixed letters in masked states (B, K, L): conditioning, not weighting."""

    def contains(self, x_0: Tensor) -> Tensor:
        """Return whether designs (B, K, L) are in A, (B, K) bool."""

    def condition(self, posterior: Any, x: Tensor, unknown: Tensor) -> tuple[Tensor, Any]:
        """Return log h(x), (B, K), and the posterior given A."""

    def restrict(self, q: Transition, x_t: Tensor, guide: Any, unknown: Tensor) -> Transition:
        """Keep a proposal built from the posterior given A, `guide`, inside A."""


class Process(Protocol):
    """A pretrained, possibly conditioned, reverse diffusion."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def times(self) -> Tensor:
        """(T + 1,) decreasing from 1 to 0."""

    @property
    def differentiable(self) -> bool:
        """Whether the network accepts a relaxed state."""

    @property
    def takes_time(self) -> bool:
        """Whether the posterior of an unchanged state still depends on t."""

    @property
    def discrete(self) -> bool:
        """Whether states are tokens."""

    @property
    def absorbing(self) -> bool:
        """Whether a letter that was revealed stays: a design space then holds at every step."""

    @property
    def remembers(self) -> bool:
        """Whether a posterior depends on the one before it; a process that does not say does not.

        `posterior(x, t, before)` is then told it.
        """

    @property
    def calls_per_state(self) -> int:
        """Network calls that one visit of a state costs: 2 with classifier-free guidance."""

    @property
    def chunk(self) -> int | None:
        """Particles per network call; None sends everything at once."""

    @property
    def event_mask(self) -> Tensor | None:
        """(B, L) bool for islands of different length."""

    def take(self, islands: Sequence[int]) -> Process:
        """Return the process of a subset of its islands."""

    def prior(self, shape: tuple[int, int], rng: Streams) -> Tensor:
        """Draw x_T, (B, K, *event)."""

    def relax(self, x: Tensor) -> Tensor:
        """One-hot (..., L, V or V + 1), or the identity."""

    def posterior(self, x: Tensor, t: float, *before: Any) -> Posterior:
        """Call the network on x = x_t or relax(x_t): the one network call per particle per step."""

    def transition(self, x_t: Tensor, posterior: Any, t: float, s: float) -> Transition:
        """Return p(x_s | x_t)."""

    def corrupt(self, x_0: Tensor, step: int, rng: Streams, space: Space | None = None) -> Tensor:
        """Draw x_t at times[step] from the forward process; what a space fixes stays."""

    def unknown(self, x: Tensor) -> Tensor:
        """Positions whose final letter is open, (B, K, L) bool; none of a continuous state."""

    def lift(self, score: Tensor, posterior: Any) -> Tensor:
        """Turn the score of a posterior's mean into a score of the state."""

    def check(self, steps: int, space: Space | None = None, x: Tensor | None = None) -> None:
        """Refuse, before any call, what this process cannot do in so many steps.

        The run starts from states x (B, K, *event); by default from those of the prior.

        Raises:
            TypeError: the process has no use for a design space.
            ValueError: the steps, the space or a setting cannot work; the message says why.
        """

    def decode(self, x_0: Tensor) -> Designs:
        """Turn finished states into designs."""


def draw(transition: Transition, rng: Streams) -> tuple[Tensor, Tensor]:
    """Draw x_s (B, K, *event) with its log-density (B, K); a joint `draw` saves work."""
    joint = getattr(transition, "draw", None)
    if joint is not None:
        x_s, log_q = joint(rng)
        return x_s, log_q
    x_s = transition.sample(rng)
    return x_s, transition.log_prob(x_s)


def weigh(q: Transition, base: Transition, rng: Streams) -> tuple[Tensor, Tensor]:
    """Draw x_s (B, K, *event) from q with log base − log q, (B, K); a joint `weigh` saves work."""
    if q is base:
        x_s = q.sample(rng)
        return x_s, torch.zeros(x_s.shape[:2], dtype=torch.float64, device=x_s.device)
    joint = getattr(q, "weigh", None)
    if joint is not None:
        x_s, shift = joint(base, rng)
        return x_s, shift
    x_s, log_q = draw(q, rng)
    return x_s, shifted(base, x_s, log_q)


def shifted(base: Transition, x_s: Tensor, log_q: Tensor) -> Tensor:
    """Return log base − log q of x_s (B, K, *event), (B, K)."""
    # a proposal that can draw nothing says so by -inf: a dead end, of weight zero
    return torch.where(torch.isneginf(log_q), log_q, base.log_prob(x_s) - log_q)
