"""One counter of zeros and ones with an upper bound: cumulative sums instead of a chain."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from seqalign.core.discrete import probabilities
from seqalign.space.counter import Counter, Flags
from seqalign.space.rings import LOGARITHMIC, SCALED, Ring

__all__ = ["Bound"]

# above these odds, and above this power of their scale, plain numbers are no longer trusted
MOST_ODDS, MOST_POWER = 1e25, 300.0


@dataclass(frozen=True, eq=False)
class Bound:
    """One counter of zeros and ones with an upper bound: a Poisson-binomial law.

    Attributes:
        counter: reduced, weights 0 and 1.
        allowed: (U, V) flags.
    """

    counter: Counter
    allowed: Flags

    @property
    def names(self) -> list[str]:
        """What the group holds together."""
        return [self.counter.name]

    @cached_property
    def _weight(self) -> Tensor:
        return torch.tensor(self.counter.weight)

    @cached_property
    def _able(self) -> Flags:
        """Which units have a letter that counts, (U,)."""
        able: Flags = self.counter.weight.max(1) > 0
        return able

    @cached_property
    def keep(self) -> Tensor | None:
        """The one letter of each unit that does not count, (U,); None if a unit has several.

        Where no letter counts, all fare alike and any stands for them.
        """
        zero = self.allowed & (self.counter.weight == 0)
        single = (zero.sum(1) == 1) | ~self._able
        return torch.tensor(zero.argmax(1)) if single.all() else None

    @cached_property
    def _still(self) -> Tensor | None:
        """Units none of whose letters count; None if there are none."""
        return None if self._able.all() else torch.tensor(~self._able).nonzero()[:, 0]

    @cached_property
    def _barred(self) -> Tensor | None:
        """-inf at letters that are not allowed where something counts, (U, V); None if all are."""
        bad = ~self.allowed & self._able[:, None]
        return torch.tensor(np.where(bad, -np.inf, 0.0)) if bad.any() else None

    @cached_property
    def _price(self) -> Tensor:
        """What a letter takes from the bound, (U, V + 1): all of it if it is barred.

        A mask takes nothing, but all where no letter counts.
        """
        all_ = self._high + len(self.allowed) + 1
        price = np.where(self.allowed, self.counter.weight, all_)
        return torch.tensor(np.concatenate((price, np.where(self._able, 0, all_)[:, None]), 1))

    @cached_property
    def _high(self) -> int:
        assert self.counter.high is not None
        return self.counter.high

    def open(
        self, legal: Tensor, x: Tensor, columns: Tensor
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        """Return log P(the bound holds), (B, K), and the letters given that, in logs and plain.

        `legal` (B, K, m, V) are letters at the open `columns` (B, K, m); `x` (B, K, U) are tokens,
        any mask is V. In plain numbers, which is fast: None where only logarithms can tell, where
        several letters of a unit do not count, where a unit cannot count and where P is 0.
        """
        if self.keep is None:
            return None
        if self._barred is not None:
            legal = legal + self._barred.to(legal)[columns]
        price, keep = self._price.to(x.device), self.keep.to(x.device)
        shape = (*columns.shape, 1)
        units = torch.arange(0, price.numel(), price.shape[1], device=x.device)
        spent = price.view(-1).index_select(0, (x + units).flatten()).view(-1, len(units)).sum(-1)
        index = keep.index_select(0, columns.flatten()).view(shape)
        p = probabilities(legal)
        kept = p.gather(-1, index)
        odds = (p.scatter_(-1, index, 0.0).sum(-1, keepdim=True) / kept).double()
        found = _plain(odds.view(-1, shape[2]), (self._high - spent).double())
        if found is None:
            return None
        log_h, still, slope = found
        change = slope.to(p.dtype).view(shape) / kept
        still = still.to(p.dtype).view(shape)
        given = (legal + change.log()).scatter_(-1, index, still.log())
        p = p.mul_(change).scatter_(-1, index, still)
        log_kept = legal.gather(-1, index).sum((-1, -2), dtype=torch.float64)
        return log_h.view(shape[:2]) + log_kept, given, p

    def condition(self, legal: Tensor, x: Tensor, unknown: Tensor) -> tuple[Tensor, Tensor]:
        """Return log P(the bound holds), (N,), and the shifts of letters that do not, do count.

        The shifts (2, N, U) are log P(a | the bound) − log P(a). `legal` (N, U, V) need not be
        normalized.
        """
        units = torch.arange(x.shape[-1], device=x.device)
        known = self._weight.to(x.device)[units, x.clamp(max=legal.shape[-1] - 1)]
        left = self._high - (known * ~unknown).sum(-1)
        still = None if self._still is None else self._still.to(x.device)
        able = torch.tensor(self._able, device=x.device)
        open_ = unknown if still is None else unknown & able
        split = self._split(legal, open_)
        # what is not open keeps its letters for sure
        idle = torch.tensor((0.0, -torch.inf), dtype=split.dtype, device=split.device)
        split = torch.where(open_, split, idle.reshape(2, *[1] * open_.dim()))
        log_h, given = _budget(split, left)
        shifts = torch.where(open_, _shift_of(given, split), 0.0)
        if still is not None and bool(unknown[..., still].any()):
            # what counts nothing is a factor, and normalized on its own
            mass = torch.logsumexp(legal[..., still, :], -1).double()
            mass = torch.where(unknown[..., still], mass, 0.0)
            log_h = log_h + mass.sum(-1)
            shifts[..., still] = -mass
        return log_h, shifts

    def _split(self, legal: Tensor, open_: Tensor) -> Tensor:
        """Return the log-mass of the letters of a unit that do not count and that do, (2, N, U)."""
        p = probabilities(legal)
        change = (p * self._weight.to(p)).sum(-1).double().log()
        faint = torch.isneginf(change)
        if self.keep is not None:
            index = self.keep.to(legal.device).expand(legal.shape[:-1])[..., None]
            keep = legal.gather(-1, index)[..., 0].double()
        else:
            keep = (p * (1 - self._weight).to(p)).sum(-1).double().log()
            faint = faint | torch.isneginf(keep)
        if bool((faint & open_).any()):
            # either nothing of the kind is allowed or it is too unlikely for exp: only the
            # logarithms can tell
            one = (self._weight == 1).to(legal.device)
            change = torch.logsumexp(legal.masked_fill(~one, -torch.inf), -1).double()
            keep = torch.logsumexp(legal.masked_fill(one, -torch.inf), -1).double()
        return torch.stack((keep, change))

    def shifted(self, law: Tensor, shifts: Tensor) -> Tensor:
        """Add the shifts (2, N, U) to log-probabilities (N, U, V)."""
        kept, changed = shifts.to(law.dtype)[..., None]
        if self.keep is None:
            return law + torch.where(self._weight.to(law.device) == 1, changed, kept)
        index = self.keep.to(law.device).expand(law.shape[:-1])[..., None]
        letters = law.gather(-1, index) + kept
        out: Tensor = (law + changed).scatter_(-1, index, letters)
        return out


def _shift_of(after: Tensor, before: Tensor) -> Tensor:
    """Return how log-probabilities move; what cannot happen, before or after, goes to -inf."""
    out: Tensor = (after - before).nan_to_num_(-torch.inf, neginf=-torch.inf)
    return out


def _budget(split: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
    """Return log P(changes <= left), (N,), and log P(kept), log P(changed) given that, (2, N, U).

    `split` (2, N, U) are the log-masses of keeping and of changing each unit.
    """
    rows, split, left = left.shape, split.flatten(1, -2), left.flatten()
    has = torch.isfinite(split[0])
    base = torch.where(has, split[0], split[1])
    # a unit that cannot keep its letter spends one change whatever happens
    log_odds = torch.where(has, split[1] - base, -torch.inf)
    left = (left - (~has).sum(-1)).double()
    found = _plain(probabilities(log_odds.clamp(max=700.0)), left)
    if found is not None:
        log_p, keep, change = found[0], found[1].log(), found[2].log() + log_odds
    else:
        order = torch.arange(max(int(left.max()), 0), -1, -1, device=left.device)[:, None]
        weight = torch.where(order <= left, 0.0, -torch.inf).double()
        log_p, keep, change = _prefixes(LOGARITHMIC, log_odds, weight)
        keep, change = (v - log_p[:, None] for v in (keep, change + log_odds))
    forced = base.new_tensor((-torch.inf, 0.0)).view(2, 1, 1)
    given = torch.where(has, torch.stack((keep, change)), forced)
    given = torch.where(torch.isfinite(log_p)[:, None], given, -torch.inf)
    return (log_p + base.sum(-1)).unflatten(0, rows), given.unflatten(1, rows)


def _plain(odds: Tensor, left: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return log Σ_{j <= left} e_j, (N,), P(kept) and P(changed) / odds given that, (N, U).

    e_j are the elementary symmetric polynomials of the odds (N, U) of changing. In plain numbers,
    with odds scaled so that the expected number of changes is at most the bound: what counts then
    lies near one. None if the odds are too uneven for that, or if nothing is `left` (N,) to count.
    """
    room = left.clamp(min=1.0)
    times = (odds.sum(-1) / room).clamp(min=1.0)
    scale = times.log()
    power = scale * room
    most, highest, least, degree = torch.stack((odds.max(), power.max(), *left.aminmax())).tolist()
    if not (most < MOST_ODDS and highest < MOST_POWER and least >= 0):
        return None
    order = torch.arange(degree, -1.0, -1.0, dtype=left.dtype, device=left.device)[:, None]
    # relative to the largest count that is worth something
    weight = torch.where(order <= left, torch.exp((order - left) * scale), 0.0)
    total, keep, slope = _prefixes(SCALED, odds / times[:, None], weight)
    keep, slope = keep / total[:, None], slope / (total * times)[:, None]
    return total.log() + left * scale, keep, slope


def _prefixes(ring: Ring, odds: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return Σ_j weight_j·e_j, (N,), its part without each unit, and its slope in the odds, (N, U).

    `weight` (D + 1, N) is what D, D − 1, ..., 0 changes are worth. e_j of the first units is a
    cumulative sum of odds times e_{j−1} of those before; what the remaining units add to j changes
    is one from the right. Both run at once.

    References:
        Chen, Dempster & Liu 1994, section 2 (the recursion in j and units).
    """
    n, units = odds.shape
    y = odds.new_full((len(weight), 2 * n, units), ring.zero)
    y[0, :n], y[0, n:], y[1:, n:, 0] = ring.one, weight[0][:, None], weight[1:]
    odds_ = torch.cat((odds, odds.flip(1)))[:, :-1]
    levels, before, after = y.unbind(), y[:, :, :-1].unbind(), y[:, :, 1:].unbind()
    for j in range(1, len(levels)):
        ring.mul(odds_, before[j - 1], out=after[j])
        ring.accumulate(levels[j])
    left, right = y[:, :n], y[:, n:].flip(0, 2)
    keep = ring.total(ring.mul(left, right), 0)
    slope = ring.total(ring.mul(left[:-1], right[1:]), 0)
    first = ring.mul(odds[:, :1], slope[:, :1])
    return ring.total(torch.cat((keep[:, :1], first), 1), 1), keep, slope
