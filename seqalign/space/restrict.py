"""Proposals that reveal several letters at once and stay within the allowed set."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from seqalign.core.discrete import Categorical, CategoricalPosterior, OpenPosterior
from seqalign.core.process import draw
from seqalign.core.proposal import defended
from seqalign.core.streams import Streams
from seqalign.space import impossible
from seqalign.space.lookahead import Lookahead
from seqalign.space.units import Units

__all__ = ["RestrictedReveal", "TiedReveal"]


@dataclass(frozen=True)
class RestrictedReveal:
    """A parallel reveal whose letters are drawn one after another under the look-ahead.

    The set of units to reveal comes from `q`; then q(a) ∝ q_i(a) · h(so far, i = a), where h takes
    the later revealed units with the letters of `q` and all others with the posterior `guide`. A
    unit is a position, or a tied group; U = L without ties.

    Attributes:
        lookahead: over units.
        q: (B, K, U, V [+ 1]) letters and mask.
        x_t: (B, K, U) tokens.
        guide: the conditioned posterior, (B, K, U, V).
        unknown: (B, K, U) open units.
        wide: (B, K, U, V) laws mixed into that of each letter, as far as h is not 0; None is none.
        share: how much of them.
    """

    lookahead: Lookahead
    q: Categorical
    x_t: Tensor
    guide: CategoricalPosterior | OpenPosterior
    unknown: Tensor
    wide: Tensor | None = None
    share: float = 0.0

    def sample(self, rng: Streams) -> Tensor:
        """Draw x_s, (B, K, U)."""
        return self.draw(rng)[0]

    def draw(self, rng: Streams) -> tuple[Tensor, Tensor]:
        """Draw x_s (B, K, U) with its log-probability (B, K)."""
        v = self.lookahead.allowed.shape[1]
        chosen = self.unknown & (self.q.sample(rng.at("set")) < v)
        noise = rng.at("letters").uniform((*chosen.shape, v), chosen.device)
        return self._walk(chosen, -torch.log(-torch.log(noise)), None)

    def log_prob(self, x_s: Tensor) -> Tensor:
        """Return the log-probability of x_s, (B, K)."""
        v = self.lookahead.allowed.shape[1]
        same = ((x_s == self.x_t) | self.unknown).all(-1)
        _, log_q = self._walk(self.unknown & (x_s < v), None, x_s)
        return torch.where(same, log_q, -torch.inf)

    def tilt(self, g: Tensor) -> RestrictedReveal:
        """Tilt the letters and the reveal rate; the constraints hold as before."""
        return replace(self, q=self.q.tilt(g))

    def defended(self, wide: RestrictedReveal, share: float) -> RestrictedReveal:
        """Mix the letters of another reveal into those that the look-ahead leaves.

        Which units are revealed is mixed too. One letter in U / share is drawn so.
        """
        share = share / max(1, self.x_t.shape[-1])
        v = self.lookahead.allowed.shape[1]
        more = wide.q.log_probs
        mixed = torch.logaddexp(self.q.log_probs + math.log1p(-share), more + math.log(share))
        return replace(self, q=Categorical(mixed), wide=more[..., :v], share=share)

    def _walk(
        self, chosen: Tensor, noise: Tensor | None, given: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        v = self.lookahead.allowed.shape[1]
        letters = self.q.log_probs[..., :v]
        mass = torch.logsumexp(letters, -1)
        # the reveal pattern: hidden with the mask's probability, shown with the rest
        log_q = torch.where(chosen, mass, 0.0)
        if self.q.log_probs.shape[-1] > v:
            log_q = log_q + torch.where(self.unknown & ~chosen, self.q.log_probs[..., v], 0.0)
        later = impossible.recalled(self.guide.log_probs)
        source = torch.where(chosen[..., None], letters - mass[..., None], later)
        some, noise, wide = (
            None if v is None else v.flatten(0, 1) for v in (given, noise, self.wide)
        )
        laws, where = source.flatten(0, 1), chosen.flatten(0, 1)
        a, more = self.lookahead.draw(laws, where, some, noise, wide, self.share)
        x_s = torch.where(chosen, a.view_as(self.x_t), self.x_t)
        return x_s, log_q.sum(-1) + more.view(chosen.shape[:-1])


@dataclass(frozen=True)
class TiedReveal:
    """A proposal over units, read as one over positions: a tied group takes one letter.

    Attributes:
        inner: the proposal over units.
        units: the tied groups.
        x_t: (B, K, L) tokens.
        unknown: (B, K, L) open positions.
    """

    inner: Any
    units: Units
    x_t: Tensor
    unknown: Tensor

    def sample(self, rng: Streams) -> Tensor:
        """Draw x_s, (B, K, L)."""
        return self._spread(self.inner.sample(rng))

    def draw(self, rng: Streams) -> tuple[Tensor, Tensor]:
        """Draw x_s (B, K, L) with its log-probability (B, K)."""
        units, log_q = draw(self.inner, rng)
        return self._spread(units), log_q

    def defended(self, wide: TiedReveal, share: float) -> TiedReveal:
        """Mix another proposal into that over units."""
        return replace(self, inner=defended(self.inner, wide.inner, share))

    def _spread(self, units: Tensor) -> Tensor:
        return torch.where(self.unknown, units[..., self.units.of.to(units.device)], self.x_t)

    def log_prob(self, x_s: Tensor) -> Tensor:
        """Return the log-probability of x_s, (B, K); -inf unless every group has one letter."""
        mask = self.units.mask
        leaders = x_s[..., self.units.leader.to(x_s.device)]
        hidden = torch.zeros_like(leaders)
        hidden = hidden.index_add_(-1, self.units.of.to(x_s.device), (x_s == mask).long()) > 0
        units = torch.where(hidden, mask, leaders)
        same = (self._spread(units) == x_s).all(-1)
        return torch.where(same, self.inner.log_prob(units), -torch.inf)

    def tilt(self, g: Tensor) -> TiedReveal:
        """Tilt each group by the sum over its open positions; g (B, K, L, V [+ 1])."""
        shape = (*g.shape[:2], len(self.units.leader), g.shape[-1])
        total = torch.zeros(shape, dtype=g.dtype, device=g.device)
        of = self.units.of.to(g.device)
        total.index_add_(2, of, torch.where(self.unknown[..., None], g, 0.0))
        return replace(self, inner=self.inner.tilt(total))
