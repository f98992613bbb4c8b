"""Counter-based random streams, so that a result never depends on how work was split.

Every number is a pure function of (seed, purpose, global island id, particle, position): island 7 of 16 draws what
island 7 alone draws, a chunk of particles draws what it would have drawn in the whole, and a checkpoint is
(seed, ids, step). There is no state to save and none to corrupt.

References:
    Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Philox4x32-10).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["Streams", "philox"]

_WORD = 0xFFFFFFFF


def philox(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]
) -> tuple[Tensor, ...]:
    """Return four tensors of 32-bit words (in int64) for broadcastable counters of 32-bit words.

    References:
        Salmon et al. 2011, section 3.3 (Philox4x32-10).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # int64 products wrap modulo 2^64, which keeps both 32-bit halves exact
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _WORD) ^ c1 ^ k0,
            p1 & _WORD,
            ((p0 >> 32) & _WORD) ^ c3 ^ k1,
            p0 & _WORD,
        )
        k0, k1 = (k0 + 0x9E3779B9) & _WORD, (k1 + 0xBB67AE85) & _WORD
    return c0, c1, c2, c3


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
        """Normalize seed, ids and steps to Python integers: a NumPy integer would name other streams."""
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
        """Draw float64 uniforms in the open interval (0, 1), shape (B, K, ...) or (B,).

        Raises:
            ValueError: the first size is not the number of islands.
        """
        if not shape or shape[0] != len(self.islands):
            raise ValueError(
                f"Shape {tuple(shape)} must start with the number of islands, {len(self.islands)}."
            )
        particles = shape[1] if len(shape) > 1 else 1
        count = math.prod(shape[2:])
        digest = hashlib.blake2b(repr((self.seed, self.path)).encode(), digest_size=8).digest()
        key = int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")
        block = torch.arange((count + 1) // 2, device=device)
        particle = torch.arange(self.first, self.first + particles, device=device)[:, None]
        island = torch.tensor(self.islands, dtype=torch.int64, device=device)[:, None, None]
        words = philox((block, particle, island & _WORD, island >> 32), key)
        a, b, c, d = (w.expand(len(self.islands), particles, block.shape[0]) for w in words)
        # 53 bits and a half: the smallest value is 2^-54, the largest 1 - 2^-54 (rounded to 1 - 2^-53)
        high, low = torch.stack((a, c), -1), torch.stack((b, d), -1)
        bits = (high << 21) | (low >> 11)
        u = ((bits.double() + 0.5) * 2.0**-53).clamp_(max=1 - 2.0**-53)
        return u.flatten(2)[..., :count].reshape(tuple(shape))

    def normal(self, shape: Sequence[int], device: torch.device | str | None = None) -> Tensor:
        """Draw float64 standard normals, shape (B, K, ...)."""
        return torch.special.ndtri(self.uniform(shape, device))

    def categorical(self, logits: Tensor) -> Tensor:
        """Draw indices over the last dimension of (B, K, ..., n) logits by the Gumbel maximum in float64.

        A logit of -inf is never drawn unless all are.
        """
        u = self.uniform(logits.shape, logits.device)
        return (logits.double() - torch.log(-torch.log(u))).argmax(-1)
