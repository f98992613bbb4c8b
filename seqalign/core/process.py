"""The nouns every process shares: designs, posteriors, transitions, processes.

A *process* is a pretrained reverse diffusion. Time runs from 1 to 0; one step goes from t to s < t.
Shapes: B islands, K particles per island, event = (L,) tokens or (C, H, W) values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self, runtime_checkable

from torch import Tensor

from seqalign.core.sequence import Alphabet
from seqalign.core.streams import Streams

__all__ = ["Designs", "Metered", "Posterior", "Process", "Transition", "draw"]


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
        """B lists of K strings.

        Raises:
            TypeError: the designs are continuous.
        """
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
    def mean(self) -> Tensor:
        """Relaxed mean: (B, K, L, V) letter probabilities, or (B, K, *event) values."""
        ...

    @property
    def mode(self) -> Tensor:
        """Most likely x_0, (B, K, *event)."""
        ...

    def sample(self, n: int, rng: Streams) -> Tensor:
        """Draw n independent x_0 per particle, (B, K, n, *event)."""
        ...

    def map(self, f: Any) -> Self:
        """Apply `f` to every (B, K, ...) tensor: the one door for gathering and slicing."""
        ...


@runtime_checkable
class Transition(Protocol):
    """The reverse kernel p(x_s | x_t)."""

    def sample(self, rng: Streams) -> Tensor:
        """Draw x_s, (B, K, *event)."""
        ...

    def log_prob(self, x_s: Tensor) -> Tensor:
        """Return the log-density of x_s in nats, (B, K), float64, summed over the event."""
        ...

    def tilt(self, g: Tensor) -> Transition:
        """Return the normalized density ∝ p · exp(<g, relax(x_s)>)."""
        ...


class Process(Protocol):
    """A pretrained, possibly conditioned, reverse diffusion."""

    @property
    def times(self) -> Tensor:
        """(T + 1,) decreasing from 1 to 0."""
        ...

    @property
    def differentiable(self) -> bool:
        """Whether the network accepts a relaxed state."""
        ...

    @property
    def takes_time(self) -> bool:
        """Whether the posterior of an unchanged state still depends on t."""
        ...

    @property
    def discrete(self) -> bool:
        """Whether states are tokens."""
        ...

    @property
    def chunk(self) -> int | None:
        """Particles per network call; None sends everything at once."""
        ...

    @property
    def event_mask(self) -> Tensor | None:
        """(B, L) bool for islands of different length."""
        ...

    def take(self, islands: Sequence[int]) -> Process:
        """Return the process of a subset of its islands."""
        ...

    def prior(self, shape: tuple[int, int], rng: Streams) -> Tensor:
        """Draw x_T, (B, K, *event)."""
        ...

    def relax(self, x: Tensor) -> Tensor:
        """One-hot (..., L, V or V + 1), or the identity."""
        ...

    def posterior(self, x: Tensor, t: float) -> Posterior:
        """Call the network on x = x_t or relax(x_t): the one network call per particle per step."""
        ...

    def transition(self, x_t: Tensor, posterior: Any, t: float, s: float) -> Transition:
        """Return p(x_s | x_t)."""
        ...

    def corrupt(self, x_0: Tensor, t: float, rng: Streams) -> Tensor:
        """Draw x_t from the forward process."""
        ...

    def decode(self, x_0: Tensor) -> Designs:
        """Turn finished states into designs."""
        ...


class Metered:
    """A process that counts the particles its network sees, and is otherwise itself.

    A process whose network sees each particle more than once per step (classifier-free guidance:
    twice) says so by `calls_per_state`.
    """

    def __init__(self, process: Process, total: Metered | None = None) -> None:
        """Start at zero calls, or count into another meter's total."""
        self._process = process
        self._total = self if total is None else total
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        """Forward everything but `posterior` and `take`."""
        return getattr(self._process, name)

    def posterior(self, x: Tensor, t: float) -> Posterior:
        """Count (B·K) calls and forward."""
        self._total.calls += self.count(x)
        return self._process.posterior(x, t)

    def count(self, x: Tensor) -> int:
        """Return the network calls that one visit of states (B, K, *event) costs."""
        each: int = getattr(self._process, "calls_per_state", 1)
        return each * x.shape[0] * x.shape[1]

    def take(self, islands: Sequence[int]) -> Metered:
        """Return the metered process of a subset, counting into this one's total."""
        return Metered(self._process.take(islands), self._total)


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
    joint = getattr(q, "weigh", None)
    if joint is not None:
        x_s, shift = joint(base, rng)
        return x_s, shift
    x_s, log_q = draw(q, rng)
    return x_s, base.log_prob(x_s) - log_q
