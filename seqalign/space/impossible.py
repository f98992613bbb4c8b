"""Letters that a network calls impossible, -inf logits, as the look-ahead takes them.

What is impossible now may be possible once other letters are known. So neither h nor a proposal may
be 0 for what has to wait, or a part of the target is never drawn: there such a letter has what a
letter has on average. What is revealed now is another matter: the base transition cannot draw it,
so that the proposal need not. It is marked in the posterior given A by a logarithm that is finite
and as good as none.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["NEVER", "hoped", "marked", "recalled"]

# exact in every precision; exp is 0, and what knows only such letters still has a law
NEVER = -8192.0


def _floor(log_p: Tensor) -> float:
    """Return what stands for an impossible letter; any number is exact, smaller ones vary more."""
    return -math.log(log_p.shape[-1])


def hoped(log_p: Tensor, open_: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Return log-probabilities (..., L, V) without -inf at open letters, and where it stood.

    `open_` (..., L) marks the open positions, by default all; None where there is no -inf.
    """
    never = torch.isneginf(log_p)
    if open_ is not None:
        never = never & open_[..., None]
    return (log_p.masked_fill(never, _floor(log_p)), never) if bool(never.any()) else (log_p, None)


def marked(given: Tensor, never: Tensor) -> Tensor:
    """Return laws (..., L, V) given A in which letters that are impossible now are marked.

    Where only such letters are left in A the law stays: whatever is drawn has weight zero.
    """
    left = torch.logsumexp(given.masked_fill(never, -torch.inf), -1, keepdim=True)
    return torch.where(torch.isfinite(left), (given - left).masked_fill(never, NEVER), given)


def recalled(given: Tensor) -> Tensor:
    """Return laws in which what is marked counts again, for letters that have to wait."""
    return given.masked_fill(given == NEVER, _floor(given))
