"""Statistical checks at the one false-alarm rate of all tests."""

from __future__ import annotations

import math

from exact import FALSE_ALARM as SIGMAS
from scipy import stats
from torch import Tensor

P_VALUE = 2 * float(stats.norm.sf(SIGMAS))


def mean_is(draws: Tensor, expected: Tensor | float, dim: int = 0, slack: float = 1e-12) -> None:
    """Assert that the mean over `dim` of independent draws is `expected`, within 4.5 standard
    errors.
    """
    n = draws.shape[dim]
    error = draws.double().std(dim) / math.sqrt(n)
    gap = (draws.double().mean(dim) - expected).abs()
    worst = ((gap - slack) / error.clamp(min=1e-300)).max()
    assert bool((gap <= SIGMAS * error + slack).all()), f"off by {float(worst):.1f} standard errors"


def counts_are(counts: Tensor, probabilities: Tensor) -> None:
    """Assert by a chi-square test that (n,) counts come from (n,) probabilities; zeros must not
    occur.
    """
    counts, probabilities = counts.double().flatten(), probabilities.double().flatten()
    assert abs(float(probabilities.sum()) - 1) < 1e-9, "probabilities do not sum to 1"
    assert float(counts[probabilities < 1e-15].sum()) == 0, "drawn with probability 0"
    expected = probabilities * counts.sum()
    # rare outcomes share one cell, as the chi-square law asks
    rare = expected < 5
    seen, want = counts[~rare].tolist(), expected[~rare].tolist()
    if float(expected[rare].sum()) >= 5:
        seen.append(float(counts[rare].sum()))
        want.append(float(expected[rare].sum()))
    else:
        assert float(counts[rare].sum()) <= 40, "rare outcomes are frequent"
    chi = sum((a - b) ** 2 / b for a, b in zip(seen, want, strict=True))
    p = float(stats.chi2.sf(chi, max(len(seen) - 1, 1)))
    assert p > P_VALUE, f"chi-square p = {p:.2g}"
