"""Law 2: every resampling scheme is unbiased, revives no zero weight and never mixes islands."""

from __future__ import annotations

import math

import pytest
import torch
from checks import SIGMAS, mean_is
from hypothesis import given, settings
from hypothesis import strategies as st

from seqalign.core.resampling import SCHEMES, ess, multinomial, ssp
from seqalign.core.streams import Streams

NAMES = sorted(SCHEMES)
SORTED = [n for n in NAMES if n != "multinomial"]
INF = math.inf


def uniforms(shape: tuple[int, int], seed: int = 0) -> torch.Tensor:
    return Streams(seed, tuple(range(shape[0]))).at("resampling").uniform(shape)


def offspring(ancestors: torch.Tensor, k: int) -> torch.Tensor:
    counts = torch.zeros(ancestors.shape[0], k, dtype=torch.float64)
    return counts.scatter_add(-1, ancestors, torch.ones_like(ancestors, dtype=torch.float64))


def logs(weights: list[float]) -> torch.Tensor:
    return torch.log(torch.tensor(weights, dtype=torch.float64))


def linear(k: int) -> torch.Tensor:
    return torch.log(torch.arange(1, k + 1, dtype=torch.float64))


WEIGHTS = {
    "one": logs([3.0]),
    "two": logs([0.3, 0.7]),
    "three": logs([0.5, 0.0, 0.5]),
    "five": logs([0.11, 0.2, 0.0, 0.29, 0.4]),
    "uniform": torch.zeros(7, dtype=torch.float64) - 900,
    "one-hot": logs([0, 0, 1.0, 0]),
    "tiny": logs([1e-300, 1.0, 1e-300, 0.4, 0.0]),
    "heavy": logs([1e3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1e-9]),
    "hundred": linear(100),
}


@pytest.mark.parametrize("scheme", NAMES)
@pytest.mark.parametrize("case", WEIGHTS)
def test_offspring_are_unbiased(scheme, case):
    log_w = WEIGHTS[case]
    k, n = len(log_w), 20000 if len(WEIGHTS[case]) < 50 else 4000
    counts = offspring(SCHEMES[scheme](log_w.expand(n, k), uniforms((n, k))), k)
    w = torch.softmax(log_w, -1)
    # a mean of 1e-9 copies cannot be seen in n draws: such counts must be zero, or nearly
    seen = w * k * n > 20
    if bool(seen.any()):
        mean_is(counts[:, seen], k * w[seen], slack=1e-9)
    assert float(counts[:, ~seen].sum(0).max() if bool((~seen).any()) else 0) <= 60
    assert bool((counts[:, w == 0] == 0).all())
    assert bool((counts.sum(-1) == k).all())


@pytest.mark.parametrize("scheme", NAMES)
def test_more_or_fewer_children_than_parents_are_unbiased_too(scheme):
    log_w = logs([0.1, 0.55, 0.05, 0.3])
    for n in (9, 3):
        if scheme == "ssp" and n < 4:
            continue
        counts = offspring(SCHEMES[scheme](log_w.expand(20000, 4), uniforms((20000, n))), 4)
        mean_is(counts, n * torch.softmax(log_w, -1))


@st.composite
def weights(draw):
    k = draw(st.sampled_from([1, 2, 3, 5, 7, 16, 33, 100]))
    b = draw(st.integers(1, 4))
    seed = draw(st.integers(0, 10**6))
    gen = torch.Generator().manual_seed(seed)
    scale = draw(st.sampled_from([0.0, 0.1, 1.0, 10.0, 300.0]))
    log_w = torch.randn(b, k, generator=gen, dtype=torch.float64) * scale
    log_w = log_w + draw(st.sampled_from([0.0, -1e4, 700.0]))
    dead = torch.rand(b, k, generator=gen) < draw(st.sampled_from([0.0, 0.5, 0.95]))
    dead[:, draw(st.integers(0, k - 1))] = False
    return torch.where(dead, -INF, log_w), seed


@pytest.mark.parametrize("scheme", NAMES)
@settings(max_examples=60, deadline=None)
@given(case=weights())
def test_any_weights(scheme, case):
    log_w, seed = case
    b, k = log_w.shape
    u = uniforms((b, k), seed)
    before = log_w.clone(), u.clone()
    ancestors = SCHEMES[scheme](log_w, u)
    assert torch.equal(log_w, before[0])
    assert torch.equal(u, before[1])
    assert ancestors.shape == (b, k)
    assert ancestors.dtype == torch.int64
    # a dead particle never survives
    assert bool(torch.isfinite(log_w.gather(-1, ancestors)).all())
    counts = offspring(ancestors, k)
    scaled = k * torch.softmax(log_w, -1)
    if scheme in ("systematic", "ssp"):
        assert bool((counts >= torch.floor(scaled - 1e-9) - 1e-9).all())
        assert bool((counts <= torch.ceil(scaled + 1e-9) + 1e-9).all())
        assert bool((counts >= torch.floor(scaled + 1e-9) - 1).all())
    if scheme == "residual":
        assert bool((counts >= torch.floor(scaled - 1e-9)).all())
    if scheme == "stratified":
        assert bool((counts - scaled).abs().max() < 2 + 1e-9)
    if scheme in SORTED:
        assert bool((ancestors.diff(dim=-1) >= 0).all())
    # islands: each one's answer is what it gets alone
    for i in range(b):
        assert torch.equal(SCHEMES[scheme](log_w[i : i + 1], u[i : i + 1])[0], ancestors[i])


@pytest.mark.parametrize("scheme", ["systematic", "ssp"])
def test_integer_expectations_are_met_exactly(scheme):
    log_w = logs([3, 0, 2, 1, 0, 1, 1, 0, 0, 2])
    ancestors = SCHEMES[scheme](log_w.expand(500, 10), uniforms((500, 10)))
    assert bool((offspring(ancestors, 10) == torch.exp(log_w).round()).all())
    even = SCHEMES[scheme](torch.full((500, 7), -3.3), uniforms((500, 7), 1))
    assert bool((even == torch.arange(7)).all())


@pytest.mark.parametrize("scheme", NAMES)
def test_a_cumulative_sum_below_one_revives_nobody(scheme):
    # 1000 float32 weights of 1/1000 sum to 0.99999...; what lies behind them must stay dead
    k = 1024
    log_w = torch.full((64, k), -INF, dtype=torch.float32)
    log_w[:, :1000] = math.log(1e-3)
    u = uniforms((64, k))
    u[0], u[1] = 1 - 2.0**-53, 2.0**-54
    u[2, ::2], u[3, 1::2] = 1 - 2.0**-53, 1 - 2.0**-53
    ancestors = SCHEMES[scheme](log_w, u)
    assert int(ancestors.max()) < 1000
    first = SCHEMES[scheme](log_w.flip(-1), u)
    assert int(first.min()) >= k - 1000


@pytest.mark.parametrize("scheme", NAMES)
def test_large_islands_are_unbiased_to_the_last_particle(scheme):
    k = 2**16
    log_w = torch.zeros(1, k, dtype=torch.float64)
    log_w[:, ::2] = math.log(3.1)
    log_w[:, : k // 2] += 0.3
    counts = offspring(SCHEMES[scheme](log_w, uniforms((1, k))), k)[0]
    w = k * torch.softmax(log_w, -1)[0]
    # cumulative counts follow cumulative weights; the slack of independent draws is a Brownian
    # bridge
    gap = float((counts.cumsum(0) - w.cumsum(0)).abs().max())
    loose = {"multinomial": SIGMAS * math.sqrt(k / 4), "residual": SIGMAS * math.sqrt(k / 4)}
    assert gap <= loose.get(scheme, 64.0 if scheme == "ssp" else 1.0 + 1e-6)
    if scheme in ("systematic", "ssp"):
        assert bool((counts >= torch.floor(w - 1e-9)).all())
        assert bool((counts <= torch.ceil(w + 1e-9)).all())


@pytest.mark.parametrize("scheme", NAMES)
def test_extreme_uniforms(scheme):
    for value in (2.0**-54, 0.5, 1 - 2.0**-53):
        for log_w in WEIGHTS.values():
            u = torch.full((1, len(log_w)), value, dtype=torch.float64)
            ancestors = SCHEMES[scheme](log_w[None], u)
            assert bool(torch.isfinite(log_w[ancestors]).all())


@pytest.mark.parametrize("scheme", NAMES)
def test_a_dead_island_is_named(scheme):
    log_w = torch.zeros(3, 4, dtype=torch.float64)
    log_w[1] = -INF
    with pytest.raises(ValueError, match="Island 1"):
        SCHEMES[scheme](log_w, uniforms((3, 4)))


@pytest.mark.parametrize("scheme", NAMES)
@pytest.mark.parametrize("bad", [math.nan, INF])
def test_nan_and_infinity_are_refused(scheme, bad):
    log_w = torch.zeros(2, 3, dtype=torch.float64)
    log_w[1, 2] = bad
    with pytest.raises(ValueError, match="NaN"):
        SCHEMES[scheme](log_w, uniforms((2, 3)))


@pytest.mark.parametrize("scheme", SORTED)
def test_variance_is_at_most_multinomial(scheme):
    n, log_w = 20000, logs([0.05, 0.3, 0.12, 0.2, 0.08, 0.25])
    values = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0, 0.2], dtype=torch.float64)
    w = torch.softmax(log_w, -1)
    ancestors = SCHEMES[scheme](log_w.expand(n, 6), uniforms((n, 6)))
    mean = values[ancestors].mean(-1)
    exact = float((w * values**2).sum() - (w * values).sum() ** 2) / 6
    # the variance of a variance of n draws, bounded by its normal law
    assert float(mean.var()) <= exact * (1 + SIGMAS * math.sqrt(2 / n))


def test_ssp_offspring_are_negatively_associated():
    n, log_w = 40000, logs([0.17, 0.31, 0.22, 0.09, 0.21])
    counts = offspring(ssp(log_w.expand(n, 5), uniforms((n, 5))), 5)
    centered = counts - counts.mean(0)
    multi = offspring(multinomial(log_w.expand(n, 5), uniforms((n, 5), 2)), 5)
    for i in range(5):
        assert float(counts[:, i].var()) <= float(multi[:, i].var())
        for j in range(i):
            product = centered[:, i] * centered[:, j]
            assert float(product.mean()) <= SIGMAS * float(product.std()) / math.sqrt(n)


def test_ssp_needs_one_uniform_per_particle():
    with pytest.raises(ValueError, match="one uniform per particle"):
        ssp(torch.zeros(1, 4), uniforms((1, 3)))


def test_effective_sample_size():
    log_w = torch.stack((torch.zeros(4), logs([1, 0, 0, 0]), logs([1, 1, 0, 0]) - 1e5)).double()
    log_w = torch.cat((log_w, torch.full((1, 4), -INF)))
    assert torch.allclose(ess(log_w), torch.tensor([4.0, 1.0, 2.0, 0.0], dtype=torch.float64))
    w = torch.rand(5, 9, generator=torch.Generator().manual_seed(0)).double()
    assert torch.allclose(ess(w.log()), w.sum(-1) ** 2 / (w * w).sum(-1))
