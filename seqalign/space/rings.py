"""Two ways to add and multiply probabilities: plain numbers, and their logarithms."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["LOGARITHMIC", "SCALED", "Ring"]


class _Scaled:
    """Plain sums of numbers scaled to a largest of one: fast, and enough almost always."""

    zero, one = 0.0, 1.0

    def enter(self, log_p: Tensor) -> Tensor:
        return log_p.exp()

    def log(self, x: Tensor) -> Tensor:
        return x.log()

    def mul(self, x: Tensor, y: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.mul(x, y, out=out)

    def total(self, x: Tensor, dim: int) -> Tensor:
        return x.sum(dim)

    def accumulate(self, x: Tensor) -> None:
        """Sum cumulatively over the last dimension, in place."""
        x.cumsum_(-1)

    def dot(self, a: Tensor, x: Tensor) -> Tensor:
        """Multiply a 0/1 matrix (n, m) with (m, ..., N)."""
        out: Tensor = (a @ x.flatten(1)).unflatten(1, x.shape[1:])
        return out

    def scaled(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Divide (D, R, N) by its largest number per particle; return that too, (N,)."""
        top = x.amax((0, 1))
        return x / top.clamp(min=1e-300), top


class _Logarithmic:
    """The same in logarithms, for particles whose sums span too many orders of magnitude."""

    zero, one = -math.inf, 0.0

    def enter(self, log_p: Tensor) -> Tensor:
        return log_p

    def log(self, x: Tensor) -> Tensor:
        return x

    def mul(self, x: Tensor, y: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.add(x, y, out=out)

    def total(self, x: Tensor, dim: int) -> Tensor:
        return torch.logsumexp(x, dim)

    def accumulate(self, x: Tensor) -> None:
        x.copy_(x.logcumsumexp(-1))

    def dot(self, a: Tensor, x: Tensor) -> Tensor:
        top = x.amax(0)
        top = torch.where(torch.isfinite(top), top, 0.0)
        out: Tensor = (a @ (x - top).exp().flatten(1)).log().unflatten(1, x.shape[1:]) + top
        return out

    def scaled(self, x: Tensor) -> tuple[Tensor, Tensor]:
        top = x.amax((0, 1))
        return x - torch.where(torch.isfinite(top), top, 0.0), top


Ring = _Scaled | _Logarithmic
SCALED, LOGARITHMIC = _Scaled(), _Logarithmic()
