"""Numbers that describe finished designs: mutations, diversity, log-likelihood under the prior."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from seqalign.core.causal import along
from seqalign.core.devices import onto
from seqalign.core.discrete import MaskedProcess, UniformProcess
from seqalign.core.streams import Streams

PRIOR_ORDERS = 2
"""Random reveal orders behind each reported log-likelihood."""


def mean(values: Iterable[float]) -> float | None:
    """Return the mean of the finite values; None if there is none."""
    finite = [float(v) for v in values if math.isfinite(v)]
    return statistics.fmean(finite) if finite else None


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


# images -------------------------------------------------------------------------------------------


def pooled_pixels(images: Tensor, size: int = 8) -> Tensor:
    """Return features (n, D) of images (n, C, H, W) in [0, 1]: averages over size × size cells.

    Scaled so that the distance of two rows is the root mean square difference of their cells.
    """
    cells = F.adaptive_avg_pool2d(images.double(), size).flatten(1)
    return cells / math.sqrt(cells.shape[1])


def mean_distance(features: Tensor) -> float:
    """Return the mean Euclidean distance over all pairs of (n, D) rows; 0 for fewer than two."""
    n = len(features)
    return float(torch.pdist(features.double()).mean()) if n > 1 else 0.0


def radial_kernel(features: Tensor, width: float) -> Tensor:
    """Return exp(−d² / (2·width²)) for all pairs of (n, D) rows: (n, n), of full rank.

    Raises:
        ValueError: the width is not positive.
    """
    if not width > 0:
        raise ValueError(f"The width of a kernel must be > 0, got {width}.")
    features = features.double()
    # by differences: the shortcut through products would leave the diagonal below 1
    d = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
    return torch.exp(-d.square() / (2 * width * width))


def vendi(similarity: Tensor) -> float:
    """Return the effective number of different designs, 1 to n, from similarities (n, n).

    exp of the entropy of the eigenvalues of K/n; 0 for no designs.

    Raises:
        ValueError: the matrix is not square and symmetric with a unit diagonal.

    References:
        Friedman & Dieng, "The Vendi score: a diversity evaluation metric for machine learning",
        TMLR 2023, arXiv 2210.02410, definition 3.1.
    """
    k = similarity.detach().double().cpu()
    if k.dim() != 2 or k.shape[0] != k.shape[1]:
        raise ValueError(f"Similarities must be an (n, n) matrix, got shape {tuple(k.shape)}.")
    if not len(k):
        return 0.0
    one = torch.ones(len(k), dtype=k.dtype)
    if not torch.allclose(k, k.T, atol=1e-4) or not torch.allclose(k.diagonal(), one, atol=1e-4):
        raise ValueError(
            "Similarities must be symmetric and 1 on the diagonal; divide by the norms first."
        )
    share = torch.linalg.eigvalsh((k + k.T) / 2).clamp(min=0) / len(k)
    return float(torch.exp(-torch.xlogy(share, share).sum()))


def paired_interval(
    a: Sequence[float], b: Sequence[float], level: float = 0.95
) -> tuple[float, float | None, float | None]:
    """Return the mean of a − b over n pairs and its t-interval; no interval for fewer than two."""
    d = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    mean = float(d.mean())
    if len(d) < 2:
        return mean, None, None
    from scipy.stats import t

    half = float(t.ppf(0.5 + level / 2, len(d) - 1) * d.std(ddof=1) / math.sqrt(len(d)))
    return mean, mean - half, mean + half


def weighted_mean(values: Sequence[float], log_w: Sequence[float]) -> float | None:
    """Return the mean of the finite values under log-weights; None if no weight is left."""
    pairs = [
        (math.exp(w), v)
        for v, w in zip(values, log_w, strict=True)
        if w > -math.inf and math.isfinite(v)
    ]
    total = sum(w for w, _ in pairs)
    return sum(w * v for w, v in pairs) / total if total > 0 else None


# sampling -----------------------------------------------------------------------------------------


def survivors(ancestors: Sequence[Tensor | None], particles: int) -> list[int]:
    """Return how many first particles have descendants after each step; ancestors (K,) per step."""
    roots = torch.arange(particles)
    counts = []
    for parents in ancestors:
        if parents is not None:
            roots = roots[parents]
        counts.append(len(set(roots.tolist())))
    return counts


def likelihood_calls(process: Any, free: int) -> int:
    """Return the network calls that the log-likelihood of a design takes, at most."""
    return PRIOR_ORDERS * (1 if getattr(process, "remembers", False) else free)


def prior_log_likelihood(
    process: MaskedProcess | UniformProcess,
    x: Tensor,
    free: Sequence[int],
    *,
    orders: int = 2,
    seed: int = 0,
    observe: Callable[[int], None] | None = None,
) -> Tensor:
    """Return the log-likelihood in nats, (n,), of designs (n, L) at free positions (0-based).

    At temperature 1 and without bias, however the designs were drawn: the score of the published
    inverse-folding models with its sign turned. Given all other positions: the mean over `orders`
    random orders of the log-probability of revealing the letters one by one (any-order
    autoregression). All designs share the orders, which depend on the seed alone, so that
    differences are fair. A network that remembers is passed once for an order; others at most
    n · orders · len(free) times, reported to `observe` as it happens. A uniform process knows no
    such thing: NaN.

    References:
        Hoogeboom et al., "Autoregressive diffusion models", ICLR 2022, arXiv 2110.02037, eq. 4.
    """
    if not isinstance(process, MaskedProcess):
        return torch.full((len(x),), torch.nan, dtype=torch.float64)
    process = replace(process, temperature=1.0, bias=None)
    x = onto(process, x)
    index = torch.tensor(list(free), dtype=torch.int64, device=x.device)
    rng = Streams(seed, (0,)).at("prior_log_likelihood")
    keys = rng.uniform((1, orders, len(index)), x.device)[0]
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    times = torch.linspace(1, 0, len(index) + 1, dtype=torch.float64).tolist()
    chunk = process.chunk or 128
    with torch.no_grad():
        for order in keys.argsort(-1):
            path = index[order]
            if process.remembers:
                total += along(process, x, path)
                if observe is not None:
                    observe(len(x))
                continue
            for j in range(0, len(x), chunk):
                some = x[j : j + chunk]
                state = some.clone()
                state[:, index] = process.alphabet.mask
                for n, i in enumerate(path.tolist()):
                    # designs that agree so far are one state, and one network call
                    rows, which = np.unique(state.cpu().numpy(), axis=0, return_inverse=True)
                    seen = torch.from_numpy(rows).to(x.device)
                    law = process.posterior(seen[None], times[n]).log_probs
                    law = law[0, :, i][torch.from_numpy(which.reshape(-1)).to(x.device)]
                    letter = some[:, i]
                    total[j : j + chunk] += law.gather(-1, letter[:, None])[:, 0]
                    state[:, i] = letter
                    if observe is not None:
                        observe(len(seen))
    return (total / max(orders, 1)).cpu()
