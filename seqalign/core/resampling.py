"""Resampling, vectorized over islands: pure functions of log-weights and uniforms.

Every scheme is unbiased, E[offspring_i] = n · w_i. Islands never exchange particles and a weight of
zero never survives.

References:
    Chopin & Papaspiliopoulos, "An introduction to sequential Monte Carlo", 2020, chapter 9.
    Gerber, Chopin & Whiteley, "Negative association, ordering and convergence of resampling
    methods", Annals of Statistics 2019, arXiv 1707.01845 (SSP). Srinivasan, "Distributions on
    level-sets with applications to approximation algorithms", FOCS 2001 (tree form).
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

__all__ = [
    "SCHEMES", "Resampler", "Scheme", "ess", "multinomial", "residual", "ssp", "stratified",
    "systematic",
]  # fmt: skip

Scheme = Literal["multinomial", "stratified", "systematic", "residual", "ssp"]


class Resampler(Protocol):
    """A pure function of weights and uniforms."""

    def __call__(self, log_w: Tensor, u: Tensor, n: int | None = None) -> Tensor:
        """Return (B, n) ancestors from (B, K) log-weights and uniforms (B, n or more).

        There are as many ancestors as uniforms if n is None.
        """


def ess(log_w: Tensor) -> Tensor:
    """Effective sample size of (B, K) log-weights as a count in [0, K], (B,); 0 if all are -inf."""
    w = torch.softmax(log_w, -1)
    # a dead island has no weights to normalize: NaN here, nothing there
    return torch.nan_to_num(1.0 / (w * w).sum(-1), nan=0.0)


def _weights(log_w: Tensor) -> Tensor:
    if torch.isnan(log_w).any() or (log_w == torch.inf).any():
        raise ValueError("Log-weights contain NaN or +inf; a reward or a transition is broken.")
    top = log_w.amax(-1, keepdim=True)
    dead = torch.isneginf(top[:, 0]).nonzero()
    if len(dead):
        raise ValueError(
            f"Island {int(dead[0, 0])}: every log-weight is -inf, nothing can be resampled."
        )
    w = torch.exp(log_w.double() - top)
    return w / w.sum(-1, keepdim=True)


def _invert(w: Tensor, points: Tensor) -> Tensor:
    """Return the first index whose cumulative weight exceeds each point of [0, 1)."""
    total = w.cumsum(-1)
    index = torch.searchsorted(total, points * total[:, -1:], right=True)
    # rounding may put a point on the total itself: the last index with mass takes it
    count = torch.arange(w.shape[-1], device=w.device)
    last = torch.where(w > 0, count, -1).amax(-1, keepdim=True)
    return torch.minimum(index, last)


def multinomial(log_w: Tensor, u: Tensor, n: int | None = None) -> Tensor:
    """Draw n independent ancestors."""
    return _invert(_weights(log_w), u[:, :n])


def stratified(log_w: Tensor, u: Tensor, n: int | None = None) -> Tensor:
    """Draw one ancestor per stratum of length 1/n."""
    u = u[:, :n]
    n = u.shape[-1]
    return _invert(_weights(log_w), (torch.arange(n, device=u.device) + u) / n)


def systematic(log_w: Tensor, u: Tensor, n: int | None = None) -> Tensor:
    """Draw one ancestor per stratum with one shared uniform: floor or ceil of n·w offspring."""
    n = u.shape[-1] if n is None else n
    return _invert(_weights(log_w), (torch.arange(n, device=u.device) + u[:, :1]) / n)


def _expand(counts: Tensor, n: int) -> Tensor:
    """Turn (B, K) offspring counts that sum to n into (B, n) sorted ancestors."""
    slots = torch.arange(n, device=counts.device).expand(counts.shape[0], n).contiguous()
    return torch.searchsorted(counts.cumsum(-1), slots, right=True).clamp(max=counts.shape[-1] - 1)


def residual(log_w: Tensor, u: Tensor, n: int | None = None) -> Tensor:
    """Copy floor(n·w) times, then draw the rest multinomially from the remainders."""
    u = u[:, :n]
    n = u.shape[-1]
    scaled = n * _weights(log_w)
    counts = scaled.floor()
    rest = scaled - counts
    missing = n - counts.sum(-1, keepdim=True)
    # islands without a remainder keep a harmless distribution that no draw uses
    rest = torch.where(missing > 0, rest, scaled)
    drawn = _invert(rest / rest.sum(-1, keepdim=True), u)
    used = (torch.arange(n, device=u.device) < missing).double()
    return _expand(counts.scatter_add(-1, drawn, used).long(), n)


def ssp(log_w: Tensor, u: Tensor, n: int | None = None) -> Tensor:
    """Round n·w to integers by pairwise duels on a tree: floor or ceil, negatively associated.

    Each duel settles one of two fractional parts and keeps both expectations; a tree needs log2 K
    vectorized rounds.

    References:
        Srinivasan 2001; Gerber, Chopin & Whiteley 2019, algorithm 3 (the same duels, along a line).
    """
    k = log_w.shape[-1]
    if u.shape[-1] < k:
        raise ValueError(
            f"SSP needs at least one uniform per particle, got {u.shape[-1]} for {k} particles."
        )
    n = u.shape[-1] if n is None else n
    scaled = n * _weights(log_w)
    counts = torch.floor(scaled + 1e-10)
    part = (scaled - counts).clamp(min=0.0)
    owner = torch.arange(k, device=u.device).expand(part.shape)
    used, settled, rounded = 0, [], []
    while part.shape[-1] > 1:
        pairs, odd = divmod(part.shape[-1], 2)
        over = None
        if odd:
            over = part[:, -1:], owner[:, -1:]
            part, owner = part[:, :-1], owner[:, :-1]
        p, q = part.reshape(-1, pairs, 2).unbind(-1)
        first, second = owner.reshape(-1, pairs, 2).unbind(-1)
        total = p + q
        full = total >= 1
        # below one the loser gets 0 and the winner p + q; above, the winner gets 1 and the loser p
        # + q − 1; the first wins with chance p / total, or (1 − q) / (2 − total)
        share = torch.where(full, 1 - q, p)
        wins = u[:, used : used + pairs] * torch.where(full, 2 - total, total) < share
        used += pairs
        owner = torch.where(wins ^ full, first, second)
        settled.append(first + second - owner)
        rounded.append(full)
        part = total - full.double()
        if over is not None:
            part, owner = torch.cat((part, over[0]), -1), torch.cat((owner, over[1]), -1)
    # the last part is an integer but for rounding
    settled.append(owner)
    rounded.append(part > 0.5)
    counts = counts.scatter_add(-1, torch.cat(settled, -1), torch.cat(rounded, -1).double())
    return _expand(counts.long(), n)


SCHEMES: dict[str, Resampler] = {
    scheme.__name__: scheme for scheme in (multinomial, stratified, systematic, residual, ssp)
}
