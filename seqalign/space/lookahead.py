"""The look-ahead h = P(all constraints hold) with independent letters, and every marginal given it.

What is open is a row of *units*, each with a law over V letters; a unit is a position, or a tied
group that takes one letter. A sequence is allowed if every unit has an allowed letter, every
counter ends within its bounds and an automaton accepts every chain. Forward and backward messages
over (automaton state × counter values) give h and all conditional marginals at once. Where that
product is too large, constraints are split into groups, each exact, and h is the product of
P(group | allowed letters): finite wherever a completion exists, so weights stay exact, but larger
or smaller than the truth, and perhaps positive at a dead end.

Shapes: N particles, U units, V letters; inside a chain the particles come last, (..., N), so that
every operation works on whole rows of them.

References:
    Rabiner, "A tutorial on hidden Markov models", Proc. IEEE 1989 (scaled forward-backward). Chen,
    Dempster & Liu, "Weighted finite population sampling", Biometrika 1994 (Poisson-binomial).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from seqalign.space.automaton import Automaton
from seqalign.space.bound import Bound
from seqalign.space.chain import Chain, Filter, Reading
from seqalign.space.counter import Counter, Flags
from seqalign.space.rings import LOGARITHMIC, SCALED, Ring

__all__ = ["Lookahead"]


@dataclass(frozen=True, eq=False)
class Lookahead:
    """h and its marginals for allowed letters, counters and an automaton.

    Attributes:
        allowed: (U, V) flags.
        sites: units in reading order, one tuple per chain.
        automaton: what every chain must obey, or None.
        counters: the bounds.
        limit: numbers per site and particle up to which constraints share one pass; beyond, they
            are split into groups.
        fixed: (U,) flags, which units are fixed; None is none.
    """

    allowed: Flags
    sites: tuple[tuple[int, ...], ...]
    automaton: Automaton | None
    counters: tuple[Counter, ...]
    limit: int = 1000
    fixed: Flags | None = None

    @cached_property
    def _once(self) -> tuple[tuple[int, ...], ...]:
        """The chains without repetitions: tied copies of a chain say everything twice."""
        return tuple(dict.fromkeys(self.sites))

    @property
    def relaxed(self) -> bool:
        """Whether tied positions are read by the automaton as if they were independent."""
        units = [u for chain in self._once for u in chain]
        return self.automaton is not None and len(set(units)) < len(units)

    @cached_property
    def _reading(self) -> Reading:
        assert self.automaton is not None
        return Reading(self.allowed, self._once, self.automaton, self.fixed)

    @property
    def readable(self) -> bool:
        """Whether the automaton accepts some sequence of allowed letters, tied ones or not."""
        return self.automaton is None or bool(self._reading.reach[0])

    @cached_property
    def _chains(self) -> tuple[Chain, ...]:
        """Constraints that are exact together."""
        counters = [c for c in (c.reduced(self.allowed) for c in self.counters) if c is not None]
        chains: list[Chain] = []
        if self.automaton is not None:
            chains.append(Chain(self._reading, ()))
        # small counters first: they cost least together
        for c in sorted(counters, key=lambda c: c.high or 0):
            for n, chain in enumerate(chains):
                if chain.reading.automaton is not None and self.relaxed:
                    continue
                wider = self._join(chain, c)
                if wider.cost() <= self.limit:
                    chains[n] = wider
                    break
            else:
                chains.append(self._join(None, c))
        return tuple(chains)

    def _join(self, chain: Chain | None, counter: Counter) -> Chain:
        counters = (*(chain.counters if chain else ()), counter)
        if chain is not None and chain.reading.automaton is not None:
            return Chain(chain.reading, counters)
        able = np.any([c.weight.max(1) > 0 for c in counters], 0)
        units = tuple(int(u) for u in able.nonzero()[0])
        return Chain(Reading(self.allowed, (units,), None), counters)

    @cached_property
    def groups(self) -> tuple[Chain | Bound, ...]:
        """The chains; a bound instead where one does."""
        groups: list[Chain | Bound] = []
        for chain in self._chains:
            one = chain.counters[0] if len(chain.counters) == 1 else None
            plain = one is not None and one.low is None and one.weight.max() == 1
            light = plain and chain.reading.automaton is None
            groups.append(Bound(one, self.allowed) if one and light else chain)
        return tuple(groups)

    @property
    def _bound(self) -> Bound | None:
        """The one group, if it is a bound."""
        only = self.groups[0] if len(self.groups) == 1 else None
        return only if isinstance(only, Bound) else None

    @property
    def exact(self) -> bool:
        """Whether h is P(all constraints hold) and not a product over groups."""
        return len(self.groups) <= 1 and not (self.relaxed and self.groups)

    @property
    def note(self) -> str:
        """One sentence on how h is computed."""
        parts = [" with ".join(group.names) for group in self.groups]
        if self.exact:
            return f"exact, {parts[0] if parts else 'a product over positions'}"
        tied = ", tied positions read as independent by the patterns" if self.relaxed else ""
        return f"approximate, a product of {len(parts)} exact parts: {'; '.join(parts)}{tied}"

    @cached_property
    def _allowed(self) -> Tensor:
        return torch.tensor(self.allowed)

    @cached_property
    def _barred(self) -> Tensor | None:
        """-inf at letters that are not allowed, (U, V); None if all are."""
        return None if self.allowed.all() else torch.where(self._allowed, 0.0, -torch.inf)

    def legal(self, log_p: Tensor) -> Tensor:
        """Return (N, U, V) log-probabilities with -inf at letters that are not allowed."""
        return log_p if self._barred is None else log_p + self._barred.to(log_p)

    def known_allowed(self, x: Tensor) -> Tensor:
        """Return whether letters x (..., U) are allowed where they stand; any mask is a letter."""
        units = torch.arange(x.shape[-1], device=x.device)
        return self._allowed.to(x.device)[units, x.clamp(max=self.allowed.shape[1] - 1)]

    def open(
        self, log_p: Tensor, x: Tensor, columns: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None] | None:
        """Return what `condition` does, and the marginals as numbers, for the open units alone.

        `log_p` (B, K, m, V) are the letters at `columns` (B, K, m), the same number of open units
        in every particle; `x` (B, K, U) are tokens, V where open. None where `condition` must be
        asked, as about particles with h = 0.
        """
        if self._bound is not None:
            return self._bound.open(log_p, x, columns)
        if self.groups:
            return None
        if self._barred is not None:
            log_p = log_p + self._barred.to(log_p)[columns]
        mass = torch.logsumexp(log_p, -1, keepdim=True)
        log_h = mass[..., 0].double().sum(-1)
        known = (x == log_p.shape[-1]) | self.known_allowed(x)
        return (log_h, log_p - mass, None) if bool(known.all()) else None

    def condition(self, log_p: Tensor, x: Tensor, unknown: Tensor) -> tuple[Tensor, Tensor]:
        """Return log h, (N,), and the marginals given that all holds, log-probabilities (N, U, V).

        `log_p` (N, U, V) are the letters of each unit, a point mass at known ones; they need not be
        normalized. `x` (N, U) are tokens, `unknown` (N, U) marks the open units. Where h is 0 the
        marginals mean nothing.
        """
        legal = self.legal(log_p)
        known = (unknown | self.known_allowed(x)).all(-1)
        if self._bound is not None:
            log_h, shifts = self._bound.condition(legal, x, unknown)
            return torch.where(known, log_h, -torch.inf), self._bound.shifted(legal, shifts)
        mass = torch.where(unknown, torch.logsumexp(legal, -1).double(), 0.0)
        if not self.groups:
            log_h = torch.where(known, mass.sum(-1), -torch.inf)
            return log_h, legal - mass[..., None].to(legal.dtype)
        law = legal - mass[..., None].nan_to_num(neginf=0.0).to(legal.dtype)
        log_h, given = mass.sum(-1), law
        for group in self.groups:
            if isinstance(group, Bound):
                more, shifts = group.condition(law, x, unknown)
                given = group.shifted(given, shifts)
            else:
                more, shift = group.condition(law.flatten(0, -3))
                more, shift = more.reshape(x.shape[:-1]), shift.reshape(law.shape)
                given = given + shift.to(law.dtype)
            log_h = log_h + more
        dead = ~known | torch.isneginf(log_h)
        if not self.exact:
            # a unit without a letter that all groups allow: no completion, whatever each one says
            whole = torch.logsumexp(given, -1, keepdim=True)
            dead = dead | torch.isneginf(whole[..., 0]).any(-1)
            given = given - whole
        return torch.where(dead, -torch.inf, log_h), given

    def draw(
        self,
        log_p: Tensor,
        chosen: Tensor,
        given: Tensor | None,
        noise: Tensor | None,
        wide: Tensor | None = None,
        share: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        """Draw the chosen letters one after another, q(a) ∝ p(a) · h(what is drawn, and a).

        `log_p` (N, U, V) are the laws of the chosen and of all other open letters, point masses at
        known ones; `chosen` (N, U) marks what is drawn: from Gumbel `noise` (N, U, V), or read from
        `given` (N, U). With probability `share` a letter comes from `wide` (N, U, V) instead, as
        far as h is not 0. Return the letters (N, U) and their log-probability (N,); -inf where
        nothing is possible.
        """
        law = self.legal(log_p).double().permute(1, 2, 0)
        top = law.amax(1, keepdim=True)
        law = (law - torch.where(torch.isfinite(top), top, 0.0)).contiguous()
        rest = (
            chosen,
            given,
            noise,
            (None if wide is None else wide.double().permute(1, 2, 0)),
            share,
        )
        letters, log_q, weak = self._walk(SCALED, law, *rest)
        if weak:
            letters, log_q, _ = self._walk(LOGARITHMIC, law, *rest)
        return letters, log_q

    def _walk(
        self,
        ring: Ring,
        law: Tensor,
        chosen: Tensor,
        given: Tensor | None,
        noise: Tensor | None,
        wide: Tensor | None,
        share: float,
    ) -> tuple[Tensor, Tensor, bool]:
        p = ring.enter(law.clone())
        filters = [Filter(c, ring, p) for c in self._chains]
        letters = torch.zeros_like(chosen, dtype=torch.int64)
        log_q = torch.zeros(chosen.shape[:1], dtype=torch.float64, device=law.device)
        for u in chosen.any(0).nonzero()[:, 0].tolist():
            here, logits = chosen[:, u], law[u]
            for f in filters:
                ahead = f.ahead(u)
                logits = logits if ahead is None else logits + ahead
            if wide is not None:
                # what h leaves, without what it thinks of that
                more = wide[u].masked_fill(torch.isneginf(logits), -torch.inf)
                more = torch.log_softmax(more, 0).nan_to_num(nan=-torch.inf) + math.log(share)
                logits = torch.log_softmax(logits, 0).nan_to_num(nan=-torch.inf)
                logits = torch.logaddexp(logits + math.log1p(-share), more)
            logits = torch.log_softmax(logits, 0).nan_to_num(nan=-torch.inf, neginf=-torch.inf).T
            if noise is not None:
                a = (logits + noise[:, u]).argmax(-1)
            else:
                assert given is not None
                a = torch.where(here, given[:, u], 0)
            letters[:, u] = torch.where(here, a, 0)
            log_q = log_q + torch.where(here, logits.gather(-1, a[:, None])[:, 0], 0.0)
            point = torch.full_like(p[u], ring.zero).scatter_(0, a[None], ring.one)
            p[u] = torch.where(here, point, p[u])
        return letters, log_q, any(f.weak for f in filters)
