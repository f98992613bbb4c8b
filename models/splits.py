"""Held-out splits, in code: the rules of every training script and every card.

Two things are held out, and always whole:

- *Clusters of natural sequences.* `sequence_clusters` groups the rows of an alignment greedily;
  a cluster goes to test, validation or training by the hash of its representative.
- *Substitutions.* `substitution_key` names one (position, letter) pair; a measured variant is in
  the test set when it carries a held-out pair, whatever else it carries.

Both go through `bucket`, a salted hash, so that a split needs no stored list, does not depend on
the order of the rows, and stays what it is when rows are added.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from seqalign.core.sequence import PROTEIN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Part = Literal["train", "validation", "test"]

GAP: Final = len(PROTEIN) + 1
"""Token of an alignment gap, 21: after the twenty letters and the mask of the process, 20."""

BUCKETS: Final = 100
"""Number of buckets of `part`: one bucket is about one percent of the keys."""


def bucket(key: str, salt: str, n: int) -> int:
    """Return the bucket of `key`, in 0..n-1: a hash that is the same on every machine.

    Args:
        key: what is split: a sequence, a substitution, a name.
        salt: name of the split; two salts give independent splits of the same keys.
        n: number of buckets, at least 1.

    Raises:
        ValueError: `n` is not positive.
    """
    if n < 1:
        raise ValueError(f"bucket: n is {n}, and a split needs at least 1 bucket.")
    digest = blake2b(f"{salt}\n{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % n


def part(key: str, salt: str, *, test: int = 10, validation: int = 5) -> Part:
    """Return the part a key falls in, with `test` and `validation` given in percent of the keys.

    Raises:
        ValueError: the two shares are negative or leave nothing for training.
    """
    if min(test, validation) < 0 or test + validation >= BUCKETS:
        raise ValueError(
            f"part: test={test} and validation={validation} percent leave nothing for training; "
            f"give two shares of at least 0 that sum to less than {BUCKETS}."
        )
    b = bucket(key, salt, BUCKETS)
    if b < test:
        return "test"
    return "validation" if b < test + validation else "train"


def substitution_key(position: int, letter: str) -> str:
    """Return the key of a substitution: 0-based `position` and the new `letter`, as in '9I'."""
    return f"{position}{letter}"


def sequence_clusters(tokens: NDArray[np.int64], identity: float) -> NDArray[np.int64]:
    """Return for each row the row number of its cluster's representative, shape (N,).

    Greedy clustering: rows are visited from the fewest gaps to the most (ties in the order of
    their tokens, so that the order of the input does not matter). A row that no earlier
    representative has claimed becomes a representative and claims every free row at least
    `identity` identical to it. Identity counts equal letters over the columns where neither row
    has a gap. So each row is close to its representative, while two rows of different clusters
    may still be closer to one another than `identity`: report the distance to the training set
    beside a result (`nearest_identity`).

    Args:
        tokens: (N, L) aligned rows, `GAP` for a gap; distinct.
        identity: threshold in (0, 1].

    Raises:
        ValueError: `identity` is outside (0, 1], or `tokens` is not a matrix.
    """
    if not 0.0 < identity <= 1.0:
        raise ValueError(f"sequence_clusters: identity is {identity}; give a fraction in (0, 1].")
    if tokens.ndim != 2:
        raise ValueError(f"sequence_clusters: tokens has shape {tokens.shape}; (N, L) is needed.")
    rows = np.ascontiguousarray(tokens.astype(np.int8))
    gaps = (rows == GAP).sum(axis=1)
    # lexsort sorts by its last key first: gaps, then column 0, 1, ...
    free = np.lexsort((*rows.T[::-1], gaps))
    representative = np.full(len(rows), -1, dtype=np.int64)
    while free.size:
        chosen = free[0]
        row, others = rows[chosen], rows[free]
        seen = row != GAP
        aligned = ((others != GAP) & seen).sum(axis=1)
        equal = ((others == row) & seen).sum(axis=1)
        claimed = equal >= identity * np.maximum(aligned, 1)
        claimed[0] = True
        representative[free[claimed]] = chosen
        free = free[~claimed]
    return representative


def cluster_parts(
    tokens: NDArray[np.int64], representative: NDArray[np.int64], salt: str
) -> NDArray[np.str_]:
    """Return 'train', 'validation' or 'test' for each row, shape (N,); no cluster straddles.

    Args:
        tokens: (N, L) aligned rows.
        representative: (N,) from `sequence_clusters`; its letters are the key that is hashed.
        salt: name of the split.
    """
    chosen, inverse = np.unique(representative, return_inverse=True)
    parts = np.array([part(spell(tokens[row]), salt) for row in chosen])
    return np.asarray(parts[inverse])


def redundancy_weights(representative: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return 1 / (rows in the cluster) for each row, shape (N,); their sum counts clusters."""
    _, inverse, count = np.unique(representative, return_inverse=True, return_counts=True)
    return np.asarray(1.0 / count[inverse])


def nearest_identity(
    queries: NDArray[np.int64], references: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return each query's identity to its closest reference, shape (N,), as `sequence_clusters`.

    Args:
        queries: (N, L) aligned rows.
        references: (M, L) aligned rows.
    """
    # One-hot products: equal letters and shared columns are two matrix products.
    letters = np.arange(len(PROTEIN))
    known = (references != GAP).astype(np.float32)
    hot = (references[..., None] == letters).reshape(len(references), -1).astype(np.float32)
    out = np.empty(len(queries))
    for start in range(0, len(queries), 256):
        rows = queries[start : start + 256]
        equal = (rows[..., None] == letters).reshape(len(rows), -1).astype(np.float32) @ hot.T
        aligned = (rows != GAP).astype(np.float32) @ known.T
        out[start : start + 256] = (equal / np.maximum(aligned, 1)).max(axis=1)
    return out


def spell(row: Sequence[int] | NDArray[np.int64]) -> str:
    """Return an aligned row (L,) of tokens as letters, '-' for a gap."""
    return "".join("-" if token == GAP else PROTEIN.letters[token] for token in row)


def variant_held_out(variant: str, salt: str, n: int = 5) -> bool:
    """Return whether a measured variant, spelled 'P0A,V4R', is one of the 1 in `n` test rows.

    The key is the variant and not the row, so a variant measured twice is held out of both scans.
    """
    return bucket(variant, salt, n) == 0


def substitution_held_out(position: int, letter: str, salt: str, n: int = 5) -> bool:
    """Return whether (0-based `position`, new `letter`) is one of the 1 in `n` unseen."""
    return bucket(substitution_key(position, letter), salt, n) == 0


def substitution_half(position: int, letter: str, salt: str = "halves") -> Literal["A", "B"]:
    """Return the half of the substitutions that (0-based `position`, new `letter`) belongs to.

    A guide reward learns half A and its hold-out twin half B, so that no substitution is known
    to both.
    """
    return "A" if bucket(substitution_key(position, letter), salt, 2) == 0 else "B"
