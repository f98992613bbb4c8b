"""Families of designs: which belong together, and which one stands for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

# families are not split further, and not at all where no split is clearer than this
MOST: Final = 6
CLEAR: Final = 0.25


@dataclass(frozen=True)
class Family:
    """Designs that are nearer to each other than to the rest.

    Attributes:
        members: 0-based, in the order given.
        center: the member nearest to all others, which stands for them.
        apart: mean distance of two members, in positions; 0 for one.
        marks: what it has and the others have not: "A345I", the most telling first.
    """

    members: tuple[int, ...]
    center: int
    apart: float
    marks: tuple[str, ...]


def families(letters: Sequence[str], names: Sequence[str]) -> list[Family]:
    """Return the families of designs of equal length, the one of the first design first.

    Average linkage on the number of positions that differ, cut into two to six families where the
    mean silhouette is highest; one family where it is below 0.25, for then there are none.

    References:
        Rousseeuw, "Silhouettes", J. Comput. Appl. Math. 1987 (the choice of their number).
        Kaufman & Rousseeuw, "Finding groups in data", Wiley 1990 (what is no structure).
    """
    if not letters:
        return []
    grid = np.array([list(s) for s in letters])
    apart = distances(grid)
    labels = _labels(apart)
    found = []
    for label in dict.fromkeys(labels.tolist()):
        own = np.flatnonzero(labels == label)
        inner = apart[np.ix_(own, own)]
        mean = float(inner.sum() / max(len(own) * (len(own) - 1), 1))
        center = int(own[inner.sum(1).argmin()])
        found.append(
            Family(tuple(own.tolist()), center, mean, _marks(grid, labels == label, names))
        )
    return found


def distances(grid: np.ndarray) -> np.ndarray:
    """Return how many letters differ in each pair of rows of (n, L): (n, n)."""
    return np.array([(grid != row).sum(1) for row in grid])


def _labels(apart: np.ndarray) -> np.ndarray:
    from scipy.cluster.hierarchy import cut_tree, linkage
    from scipy.spatial.distance import squareform

    one = np.zeros(len(apart), dtype=int)
    if len(apart) < 4 or not apart.any():
        return one
    tree = linkage(squareform(apart), "average")
    tries = [cut_tree(tree, k)[:, 0] for k in range(2, min(MOST, len(apart) - 1) + 1)]
    scores = [silhouette(apart, labels) for labels in tries]
    best = int(np.argmax(scores))
    return np.asarray(tries[best]) if scores[best] >= CLEAR else one


def silhouette(apart: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean silhouette of a clustering, -1 to 1; one alone in its cluster counts 0."""
    member = labels[:, None] == np.unique(labels)
    sizes = member.sum(0)
    sums = apart @ member
    own = member.argmax(1)
    rows = np.arange(len(labels))
    within = sums[rows, own] / np.maximum(sizes[own] - 1, 1)
    others = np.where(member, np.inf, sums / sizes).min(1)
    top = np.maximum(within, others)
    score = np.where((sizes[own] > 1) & (top > 0), (others - within) / np.where(top > 0, top, 1), 0)
    return float(score.mean())


def _marks(grid: np.ndarray, here: np.ndarray, names: Sequence[str], n: int = 4) -> tuple[str, ...]:
    """Return the letters that a family has more often than the others by more than a half."""
    if here.all():
        return ()
    found = []
    for i, name in enumerate(names):
        for letter in sorted({*grid[here, i].tolist()}):
            has = grid[:, i] == letter
            more = float(has[here].mean() - has[~here].mean())
            if more > 0.5:
                found.append((-more, i, f"{name}{letter}"))
    return tuple(text for _, _, text in sorted(found)[:n])
