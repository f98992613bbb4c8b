"""Counter-based random streams, so that a result never depends on how work was split.

Every number is a pure function of (seed, purpose, global island id, particle, position): island 7
of 16 draws what island 7 alone draws, a chunk of particles draws what it would have drawn in the
whole, and a checkpoint is (seed, ids, step). There is no state to save and none to corrupt. Bits
are made on the CPU, so every device sees the same.

References:
    Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011
    (Philox4x32-10).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["Streams", "philox"]

_WORD = 0xFFFFFFFF
_LOW, _SHIFT, _HIGH, _REST = (np.uint64(n) for n in (_WORD, 32, 21, 11))
_MULTIPLIER = np.array((0xD2511F53, 0xCD9E8D57), dtype=np.uint64)
_KEYS = np.arange(10, dtype=np.uint64)[:, None] * np.array(
    (0x9E3779B9, 0xBB67AE85), dtype=np.uint64
)
Words = npt.NDArray[np.uint64]
# steps whose numbers are made at once, and how many numbers that may be
_STEPS, _MANY = 16, 2**16


def philox(counter: tuple[Any, Any, Any, Any], key: tuple[Any, Any]) -> tuple[Words, ...]:
    """Return four arrays of 32-bit words (as uint64) for broadcastable counters and keys of words.

    References:
        Salmon et al. 2011, section 3.3 (Philox4x32-10).
    """
    shape = np.broadcast_shapes(*(np.shape(c) for c in (*counter, *key)))
    # words 0 and 2 are multiplied, 1 and 3 only mixed in: two lanes share every operation
    words = np.empty((2, 2, *shape), dtype=np.uint64)
    for word, lane, value in zip((0, 1, 0, 1), (0, 0, 1, 1), counter, strict=True):
        words[word, lane] = value
    even, odd = words
    lanes = np.stack([np.asarray(k, dtype=np.uint64) for k in key])
    lanes = lanes.reshape(2, *[1] * (len(shape) + 1 - lanes.ndim), *lanes.shape[1:])
    ones = [1] * len(shape)
    multiplier = _MULTIPLIER.reshape(2, *ones)
    for mixed in (lanes + _KEYS.reshape(10, 2, *ones)) & _LOW:
        product = even * multiplier
        even = product[::-1] >> _SHIFT
        even ^= odd
        even ^= mixed
        product &= _LOW
        odd = product[::-1]
    return even[0], odd[0], even[1], odd[1]


Path = tuple[str | int, ...]


def _uniform(
    seed: int, paths: list[Path], islands: tuple[int, ...], first: int, size: tuple[int, int]
) -> npt.NDArray[np.float64]:
    """Return the uniforms of several purposes, (purposes, islands, particles, numbers)."""
    keys = []
    for path in paths:
        digest = hashlib.blake2b(repr((seed, path)).encode(), digest_size=8).digest()
        keys.append((int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")))
    lanes = np.array(keys, dtype=np.uint64).T[..., None, None, None]
    particles, count = size
    block = np.arange((count + 1) // 2, dtype=np.uint64)
    particle = np.arange(first, first + particles, dtype=np.uint64)[:, None]
    island = np.array(islands, dtype=np.uint64)[:, None, None]
    words = philox((block, particle, island & _LOW, island >> _SHIFT), (lanes[0], lanes[1]))
    # 53 bits and a half: the smallest value is 2^-54, the largest 1 - 2^-54, rounded down
    bits = np.stack([(words[i] << _HIGH) | (words[i + 1] >> _REST) for i in (0, 2)], -1)
    u = np.minimum((bits.astype(np.float64) + 0.5) * 2.0**-53, 1 - 2.0**-53)
    return u.reshape(len(paths), len(islands), particles, -1)[..., :count]


@lru_cache(maxsize=32)
def _steps(
    seed: int,
    path: tuple[Path, Path],
    window: int,
    islands: tuple[int, ...],
    first: int,
    size: tuple[int, int],
) -> npt.NDArray[np.float64]:
    """Return the uniforms of `_STEPS` steps in a row; `path` is what stands before and after."""
    steps = range(window * _STEPS, (window + 1) * _STEPS)
    return _uniform(seed, [(*path[0], i, *path[1]) for i in steps], islands, first, size)


@dataclass(frozen=True)
class Streams:
    """Random numbers for B islands.

    Attributes:
        seed: the run's seed.
        islands: global island ids, length B.
        path: what the numbers are for; grown by `at`.
        first: global index of the first particle, non-zero for a chunk.
    """

    seed: int
    islands: tuple[int, ...]
    path: tuple[str | int, ...] = ()
    first: int = 0

    def __post_init__(self) -> None:
        """Make seed, ids and steps Python integers: a NumPy integer would name other streams."""
        path = tuple(p if isinstance(p, str) else int(p) for p in self.path)
        object.__setattr__(self, "seed", int(self.seed))
        object.__setattr__(self, "islands", tuple(int(i) for i in self.islands))
        object.__setattr__(self, "path", path)
        if any(i < 0 for i in self.islands):
            raise ValueError(f"Island ids must be >= 0, got {self.islands}.")

    def at(self, *purpose: str | int) -> Streams:
        """Return the independent streams of a purpose: a step, a name, or both."""
        return replace(self, path=(*self.path, *purpose))

    def take(self, rows: Sequence[int]) -> Streams:
        """Return the streams of some islands, by row."""
        return replace(self, islands=tuple(self.islands[r] for r in rows))

    def particles(self, first: int) -> Streams:
        """Return the streams of the particles from `first` on."""
        return replace(self, first=self.first + first)

    def uniform(self, shape: Sequence[int], device: torch.device | str | None = None) -> Tensor:
        """Draw float64 uniforms in the open interval (0, 1), shape (B, K, ...) or (B,)."""
        if not shape or shape[0] != len(self.islands):
            raise ValueError(
                f"Shape {tuple(shape)} must start with the number of islands, {len(self.islands)}."
            )
        size = shape[1] if len(shape) > 1 else 1, math.prod(shape[2:])
        # a step asks for little at a time, and the next one will ask for the same
        at = max((n for n, p in enumerate(self.path) if isinstance(p, int)), default=-1)
        step, many = self.path[at] if at >= 0 else -1, shape[0] * size[0] * size[1] * _STEPS
        if isinstance(step, int) and step >= 0 and many <= _MANY:
            window, n = divmod(step, _STEPS)
            path = self.path[:at], self.path[at + 1 :]
            u = _steps(self.seed, path, window, self.islands, self.first, size)[n]
        else:
            u = _uniform(self.seed, [self.path], self.islands, self.first, size)[0]
        return torch.tensor(u.reshape(tuple(shape)), device=device)

    def normal(self, shape: Sequence[int], device: torch.device | str | None = None) -> Tensor:
        """Draw float64 standard normals, shape (B, K, ...)."""
        z: Tensor = torch.special.ndtri(self.uniform(shape, device))
        return z

    def categorical(self, logits: Tensor) -> Tensor:
        """Draw indices over the last dimension of (B, K, ..., n) logits by the Gumbel maximum.

        A logit of -inf is never drawn unless all are.
        """
        u = self.uniform(logits.shape, logits.device)
        return (logits.double() - torch.log(-torch.log(u))).argmax(-1)
