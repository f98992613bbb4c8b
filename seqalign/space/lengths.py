"""A design space on islands of different length: what it counts ends where an island ends.

Every length is a design space of its own over the positions that exist: budgets and runs see their
letters alone, fractions are of their number, a chain and `$` end where they end. A constraint that
names positions holds for those that are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from seqalign.core.discrete import Categorical, CategoricalPosterior
from seqalign.core.process import Transition, draw
from seqalign.core.proposal import defended
from seqalign.core.streams import Streams
from seqalign.space.automaton import Automaton
from seqalign.space.constraint import Constraint
from seqalign.space.counter import Counter, Flags
from seqalign.space.positions import ConstraintError, Positions

__all__ = ["Lengths", "Within"]


@dataclass(frozen=True)
class Within(Constraint, key="within"):
    """A constraint of all positions, on some of them.

    Attributes:
        inner: the constraint.
        whole: all positions, which it may name.
        live: the 0-based indices of those that exist, ascending.
    """

    inner: Constraint
    whole: Positions
    live: tuple[int, ...]

    @property
    def path(self) -> tuple[str, ...]:
        """Where it is written."""
        return self.inner.path

    @property
    def title(self) -> str:
        """What messages call it, and where."""
        return f"{self.inner.title} on {len(self.live)} positions"

    def flags(self, at: Positions) -> Flags | None:
        """Return what the constraint says of the positions that exist."""
        flags = self.inner.flags(self.whole)
        return None if flags is None else flags[list(self.live)]

    def counter(self, at: Positions) -> Counter | None:
        """Count what exists, within bounds for as many letters."""
        return self.inner.counter(at)

    def automaton(self, at: Positions) -> Automaton | None:
        """Read what exists."""
        return self.inner.automaton(at)


@dataclass(frozen=True)
class _Group:
    """Islands of one length.

    Attributes:
        space: a design space over their n positions.
        islands: their rows, (b,).
        columns: the positions, (n,).
    """

    space: Any
    islands: Tensor
    columns: Tensor

    def of(self, v: Tensor) -> Tensor:
        """Return (b, K, n, ...) of (B, K, L, ...)."""
        return v[self.islands][:, :, self.columns]

    def into(self, out: Tensor, v: Tensor) -> None:
        """Put (b, K, n, ...) into (B, K, L, ...)."""
        rows = out[self.islands]
        rows[:, :, self.columns] = v.to(out.dtype)
        out[self.islands] = rows


@dataclass(frozen=True, eq=False)
class Lengths:
    """A design space on B islands of different length.

    Attributes:
        space: the design space of all positions; without ties.
        event_mask: (B, L) bool, True where a position exists.

    Raises:
        ConstraintError: the space ties positions, or leaves no sequence of some length.
    """

    space: Any
    event_mask: Tensor

    def __post_init__(self) -> None:
        if self.space.blocks:
            raise ConstraintError(
                "tied positions and islands of different length cannot be combined; run the "
                "lengths one by one."
            )
        if not bool(self.event_mask.any(-1).all()):
            raise ConstraintError("an island without any position has no design.")
        _ = self._groups  # read now, so that what is wrong is said before any call

    @property
    def blocks(self) -> tuple[tuple[int, ...], ...]:
        """Nothing is tied."""
        return ()

    @property
    def discount(self) -> float:
        """How much less than fully the look-ahead counts at t = 1."""
        found: float = self.space.discount
        return found

    def take(self, islands: Sequence[int]) -> Lengths:
        """Return the space of some islands, by row."""
        return Lengths(self.space, self.event_mask[list(islands)])

    def within(self, event_mask: Tensor) -> Lengths:
        """Return the space of other lengths."""
        return Lengths(self.space, event_mask)

    @cached_property
    def _groups(self) -> tuple[_Group, ...]:
        rows: dict[tuple[int, ...], list[int]] = {}
        place = self.event_mask.device
        for b, mask in enumerate(self.event_mask):
            rows.setdefault(tuple(mask.nonzero()[:, 0].tolist()), []).append(b)
        return tuple(
            _Group(self.space.only(live), *(torch.tensor(v, device=place) for v in (some, live)))
            for live, some in rows.items()
        )

    def start(self, x_T: Tensor) -> Tensor:
        """Reveal the fixed letters in masked states (B, K, L): conditioning, not weighting."""
        out = x_T.clone()
        for g in self._groups:
            g.into(out, g.space.start(g.of(x_T)))
        return out

    def contains(self, x_0: Tensor) -> Tensor:
        """Return whether designs (B, K, L) are in A, (B, K) bool."""
        out = torch.ones(x_0.shape[:2], dtype=torch.bool, device=x_0.device)
        for g in self._groups:
            out[g.islands] = g.space.contains(g.of(x_0))
        return out

    def condition(
        self, posterior: Any, x: Tensor, unknown: Tensor
    ) -> tuple[Tensor, CategoricalPosterior]:
        """Return log h(x), (B, K), and the posterior given A: its marginals."""
        given = posterior.log_probs.clone()
        log_h = torch.zeros(x.shape[:2], dtype=torch.float64, device=x.device)
        for g in self._groups:
            part = CategoricalPosterior(g.of(posterior.log_probs))
            log_h[g.islands], guide = g.space.condition(part, g.of(x), g.of(unknown))
            g.into(given, guide.log_probs)
        return log_h, CategoricalPosterior(given)

    def restrict(self, q: Transition, x_t: Tensor, guide: Any, unknown: Tensor) -> Transition:
        """Keep a proposal that reveals several letters at once inside A."""
        if not isinstance(q, Categorical):
            return q
        parts = []
        for g in self._groups:
            law = CategoricalPosterior(g.of(guide.log_probs))
            one = Categorical(g.of(q.log_probs))
            parts.append((g, g.space.restrict(one, g.of(x_t), law, g.of(unknown))))
        return _Reveal(tuple(parts), x_t)


@dataclass(frozen=True)
class _Reveal:
    """A proposal for every length; what does not exist stays as it is in x_t, (B, K, L)."""

    parts: tuple[tuple[_Group, Any], ...]
    x_t: Tensor

    def sample(self, rng: Streams) -> Tensor:
        """Draw x_s, (B, K, L)."""
        return self.draw(rng)[0]

    def draw(self, rng: Streams) -> tuple[Tensor, Tensor]:
        """Draw x_s (B, K, L) with its log-probability (B, K)."""
        x_s = self.x_t.clone()
        log_q = torch.zeros(x_s.shape[:2], dtype=torch.float64, device=x_s.device)
        for g, q in self.parts:
            letters, log_q[g.islands] = draw(q, rng.take(g.islands.tolist()))
            g.into(x_s, letters)
        return x_s, log_q

    def log_prob(self, x_s: Tensor) -> Tensor:
        """Return the log-probability of x_s, (B, K)."""
        log_q = torch.zeros(x_s.shape[:2], dtype=torch.float64, device=x_s.device)
        same = torch.ones_like(log_q, dtype=torch.bool)
        for g, q in self.parts:
            log_q[g.islands] = q.log_prob(g.of(x_s))
            kept = self.x_t[g.islands].clone()
            kept[:, :, g.columns] = g.of(x_s)
            same[g.islands] = (kept == x_s[g.islands]).all(-1)
        return torch.where(same, log_q, -torch.inf)

    def tilt(self, g: Tensor) -> _Reveal:
        """Tilt the letters; g (B, K, L, V [+ 1])."""
        return _Reveal(tuple((group, q.tilt(group.of(g))) for group, q in self.parts), self.x_t)

    def defended(self, wide: _Reveal, share: float) -> _Reveal:
        """Mix another proposal into that of every length."""
        pairs = zip(self.parts, wide.parts, strict=True)
        return _Reveal(tuple((g, defended(q, w, share)) for (g, q), (_, w) in pairs), self.x_t)
