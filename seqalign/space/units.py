"""What takes one letter: a position alone, or a tied group of positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from seqalign.space.counter import Counter, Flags

__all__ = ["Units", "merged"]


def merged(groups: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """Return disjoint groups: those that share a position are one; sorted."""
    found: list[set[int]] = []
    for group in groups:
        touched = [m for m in found if m & set(group)]
        found = [m for m in found if not m & set(group)] + [set(group).union(*touched)]
    return tuple(sorted(tuple(sorted(m)) for m in found))


@dataclass(frozen=True, eq=False)
class Units:
    """L positions as U units.

    Attributes:
        ties: disjoint groups of 1-based positions.
        chains: the 0-based positions of each chain.
        mask: the token of what is open.
    """

    ties: tuple[tuple[int, ...], ...]
    chains: tuple[range, ...]
    mask: int

    @cached_property
    def of(self) -> Tensor:
        """(L,) the unit of each position."""
        leader = {i - 1: group[0] - 1 for group in self.ties for i in group}
        names: dict[int, int] = {}
        order = (leader.get(i, i) for chain in self.chains for i in chain)
        return torch.tensor([names.setdefault(i, len(names)) for i in order], dtype=torch.int64)

    @cached_property
    def leader(self) -> Tensor:
        """(U,) the first position of each unit."""
        first: dict[int, int] = {}
        for i, u in enumerate(self.of.tolist()):
            first.setdefault(u, i)
        return torch.tensor(list(first.values()), dtype=torch.int64)

    @cached_property
    def sites(self) -> tuple[tuple[int, ...], ...]:
        """The units of each chain, in order."""
        units = self.of.tolist()
        return tuple(tuple(units[i] for i in chain) for chain in self.chains)

    def flags(self, allowed: Flags) -> Flags:
        """Return which letters (L, V) are allowed at every position of a unit, (U, V)."""
        flags = np.ones((len(self.leader), allowed.shape[1]), dtype=bool)
        np.logical_and.at(flags, self.of.numpy(), allowed)
        return flags

    def counter(self, counter: Counter) -> Counter:
        """Return a counter of positions with its weights (L, V) summed over each unit."""
        table = np.zeros((len(self.leader), counter.weight.shape[1]), dtype=np.int64)
        np.add.at(table, self.of.numpy(), counter.weight)
        return Counter(counter.name, table, counter.low, counter.high)

    def any(self, flags: Tensor) -> Tensor:
        """Return whether a flag (B, K, L, V) is set at any position of a unit, (B, K, U, V)."""
        if not self.ties:
            return flags
        shape = (*flags.shape[:2], len(self.leader), flags.shape[-1])
        count = torch.zeros(shape, dtype=torch.int64, device=flags.device)
        return count.index_add_(2, self.of.to(flags.device), flags.long()) > 0

    def law(self, log_pi: Tensor, x: Tensor, unknown: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return laws (B, K, U, V), tokens and open flags (B, K, U) from those of positions."""
        if not self.ties:
            return log_pi, x, unknown
        # every position of a group takes the letter: a factor each, known ones a point mass
        shape = (*x.shape[:-1], len(self.leader), log_pi.shape[-1])
        law = torch.zeros(shape, dtype=log_pi.dtype, device=x.device)
        of = self.of.to(x.device)
        law.index_add_(2, of, log_pi)
        count = torch.zeros(shape[:-1], dtype=torch.int64, device=x.device)
        open_ = count.index_add_(2, of, unknown.long()) > 0
        tokens = torch.where(open_, self.mask, x[..., self.leader.to(x.device)])
        return law, tokens, open_
