"""Numbers that describe finished designs: mutations, diversity, log-likelihood under the prior."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from seqalign.discrete import MaskedProcess
from seqalign.streams import Streams

__all__ = [
    "composition",
    "diversity",
    "mutations",
    "pareto_rank",
    "prior_log_likelihood",
    "recovery",
    "survivors",
]


def mutations(sequence: str, wild_type: str, residues: Sequence[str] | None = None) -> list[str]:
    """Return mutations such as V39A: wild type, residue, letter.

    `residues` names the positions; by default they count from 1 along the wild type.

    Raises:
        ValueError: the lengths differ.
    """
    if len(sequence) != len(wild_type):
        raise ValueError(
            f"A design of {len(sequence)} letters cannot be compared with a wild type of "
            f"{len(wild_type)}."
        )
    residues = residues or [str(i) for i in range(1, len(wild_type) + 1)]
    return [f"{w}{i}{a}" for i, a, w in zip(residues, sequence, wild_type, strict=True) if a != w]


def recovery(sequence: str, wild_type: str, free: Sequence[int] | None = None) -> float:
    """Return the fraction of positions (0-based `free` ones, or all) that keep the wild type."""
    chosen = range(len(wild_type)) if free is None else free
    same = [sequence[i] == wild_type[i] for i in chosen]
    return sum(same) / len(same) if same else 1.0


def diversity(sequences: Sequence[str]) -> float:
    """Return the mean Hamming distance over all pairs, in positions; 0 for fewer than two."""
    n = len(sequences)
    if n < 2:
        return 0.0
    letters = np.array([list(s) for s in sequences])
    same = 0.0
    for column in letters.T:
        counts = np.unique(column, return_counts=True)[1]
        same += float((counts * (counts - 1)).sum())
    return float(letters.shape[1] - same / (n * (n - 1)))


def composition(sequences: Sequence[str], letters: str) -> list[float]:
    """Return the fraction of each letter over all sequences."""
    text = "".join(sequences)
    return [text.count(a) / max(len(text), 1) for a in letters]


def pareto_rank(values: np.ndarray) -> list[int]:
    """Return the front of each row of (n, m) values, 0 for the best; higher is better."""
    left = set(range(len(values)))
    ranks = [0] * len(values)
    front = 0
    while left:
        rows = sorted(left)
        some = values[rows]
        beats = (some[:, None] >= some[None]).all(-1) & (some[:, None] > some[None]).any(-1)
        dominated = np.asarray(beats.any(axis=0))
        first = [r for r, out in zip(rows, dominated, strict=True) if not out]
        for r in first:
            ranks[r] = front
        left -= set(first)
        front += 1
    return ranks


def survivors(ancestors: Sequence[Tensor | None], particles: int) -> list[int]:
    """Return how many first particles have descendants after each step; ancestors (K,) per step."""
    roots = torch.arange(particles)
    counts = []
    for parents in ancestors:
        if parents is not None:
            roots = roots[parents]
        counts.append(len(set(roots.tolist())))
    return counts


def _distinct(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct rows of (n, L) tokens, and for each row the index of its equal."""
    rows, which = np.unique(x.numpy(), axis=0, return_inverse=True)
    return torch.from_numpy(rows), torch.from_numpy(which.reshape(-1))


def prior_log_likelihood(
    process: MaskedProcess,
    x: Tensor,
    free: Sequence[int],
    *,
    orders: int = 2,
    seed: int = 0,
    observe: Callable[[int], None] | None = None,
) -> Tensor:
    """Return the log-likelihood in nats, (n,), of designs (n, L) at free positions (0-based).

    Given all other positions: the mean over `orders` random orders of the log-probability of
    revealing the letters one by one (any-order autoregression). All designs share the orders, which
    depend on the seed alone, so that differences are fair. At most n · orders · len(free) network
    calls, reported to `observe` as they happen.

    References:
        Hoogeboom et al., "Autoregressive diffusion models", ICLR 2022, arXiv 2110.02037, eq. 4.
    """
    index = torch.tensor(list(free), dtype=torch.int64)
    rng = Streams(seed, (0,)).at("prior_log_likelihood")
    keys = rng.uniform((1, orders, len(index)))[0]
    total = torch.zeros(len(x), dtype=torch.float64)
    times = torch.linspace(1, 0, len(index) + 1, dtype=torch.float64).tolist()
    chunk = process.chunk or 128
    with torch.no_grad():
        for order in keys.argsort(-1):
            path = index[order]
            for j in range(0, len(x), chunk):
                some = x[j : j + chunk]
                state = some.clone()
                state[:, index] = process.alphabet.mask
                for n, i in enumerate(path.tolist()):
                    # designs that agree so far are one state, and one network call
                    seen, which = _distinct(state)
                    law = process.posterior(seen[None], times[n]).log_probs[0, :, i][which]
                    letter = some[:, i]
                    total[j : j + chunk] += law.gather(-1, letter[:, None])[:, 0]
                    state[:, i] = letter
                    if observe is not None:
                        observe(len(seen))
    return total / max(orders, 1)
