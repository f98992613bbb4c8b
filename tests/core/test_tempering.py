"""Tempering: schedules stay in [0, 1], never decrease, and the adaptive one meets its target by
bisection.
"""

from __future__ import annotations

import math

import exact
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from seqalign.core.potential import Difference, Max, Sum
from seqalign.core.resampling import ess
from seqalign.core.selection import Resample
from seqalign.core.streams import Streams
from seqalign.core.tempering import (
    HURRY,
    Adaptive,
    Constant,
    Even,
    Fitted,
    Geometric,
    Linear,
    ahead,
    fit,
)  # fmt: skip
from seqalign.methods.das import DAS
from seqalign.methods.nested_is import NestedIS
from seqalign.methods.particle_gibbs import ParticleGibbs

N = 20


def never(lam: Tensor) -> Tensor:
    raise AssertionError("this schedule must not look at the weights")


def values(b: int, k: int, seed: int, scale: float) -> Tensor:
    gen = torch.Generator().manual_seed(seed)
    return scale * torch.randn(b, k, generator=gen, dtype=torch.float64)


def ess_of(v: Tensor, base: Tensor | float = 0.0):
    return lambda lam: ess(base + lam[:, None] * v) / v.shape[1]


@pytest.mark.parametrize(
    ("schedule", "law"),
    [
        (Constant(), lambda i: 1.0),
        (Constant(0.0), lambda i: 0.0),
        (Linear(), lambda i: i / N),
        (Linear(2.0), lambda i: (i / N) ** 2),
        (Geometric(), lambda i: 2 ** (i / N) - 1),
        (Geometric(0.2), lambda i: min(1.2**i - 1, 1)),
    ],
)
def test_schedules_are_their_formulas(schedule, law):
    assert not schedule.adaptive
    lam = torch.zeros(3, dtype=torch.float64)
    for i in range(1, N + 1):
        after = schedule(i, N, lam, never)
        assert after.shape == (3,)
        assert torch.allclose(after, torch.full((3,), law(i), dtype=torch.float64))
        assert bool((after >= lam).all() and (after <= 1).all())
        lam = after


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    scale=st.floats(0.01, 1000),
    target=st.floats(0.1, 0.95),
    pace=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
)
def test_adaptive_keeps_its_target_and_its_pace(seed, scale, target, pace):
    v, lam = values(4, 30, seed, scale), torch.zeros(4, dtype=torch.float64)
    schedule = Adaptive(target, pace, iterations=20)
    for i in (1, 5, 12, N - 1):
        after = schedule(i, N, lam, ess_of(v))
        ceiling = (i / N) ** pace
        assert bool((after >= lam).all())
        assert bool((after <= ceiling + 1e-12).all())
        size = ess_of(v)(after)
        moved = after > lam
        assert bool((size[moved] >= target - 1e-9).all())
        # the largest such lam: a little more breaks the target, unless the pace is reached
        free = after >= ceiling - 1e-12
        beyond = ess_of(v)((after + 4 * 2.0**-20).clamp(max=1))
        assert bool((beyond[~free] < target).all())
        lam = after


def test_adaptive_bisection_finds_the_root_for_hard_shapes():
    """One particle in front, a plateau, then a cliff: a gradient step overshoots, bisection does
    not.
    """
    v = torch.zeros(2, 50, dtype=torch.float64)
    v[0, 0] = 1e4
    v[1] = torch.linspace(0, 3000, 50, dtype=torch.float64) ** 2
    after = Adaptive(0.5, 0.0, iterations=20)(1, N, torch.zeros(2, dtype=torch.float64), ess_of(v))
    assert bool((ess_of(v)(after) >= 0.5).all())
    # row 0: (49 + e)² = 25 (49 + e²) for e = exp(1e4 · lam), a quadratic
    root = (49 + math.sqrt(49**2 + 24 * (49**2 - 25 * 49))) / 24
    assert abs(float(after[0]) - math.log(root) / 1e4) < 4 * 2.0**-20


def test_adaptive_does_not_spend_everything_where_all_values_are_equal():
    """At the start every lam keeps the weights even: without a pace lam would jump to 1 and
    tempering were over.
    """
    v, lam = torch.full((3, 16), 2.0, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for i in range(1, N):
        lam = Adaptive(pace=1.0)(i, N, lam, ess_of(v))
        assert torch.allclose(lam, torch.full((3,), i / N, dtype=torch.float64))
    assert bool((Adaptive(pace=0.0)(1, N, torch.zeros(3).double(), ess_of(v)) == 1).all())


def test_a_rough_value_is_waited_for_where_that_costs_nothing():
    """lam runs ahead of i/n only in islands that the whole reward would leave to a few particles.

    Decided for each island by itself; a pace that was given is kept.
    """
    start = torch.zeros(6, dtype=torch.float64)
    v = values(6, 40, 5, 1.0) * torch.tensor([0.0, 0.3, 0.6, 3.0, 30.0, 3e4]).double()[:, None]
    few = ess_of(v)(torch.ones_like(start)) < HURRY
    assert few.tolist() == [False] * 3 + [True] * 3
    lam = Adaptive()(1, 200, start, ess_of(v))
    assert lam[:3].tolist() == [1 / 200] * 3
    assert torch.equal(lam[3:], Adaptive(pace=0.0)(1, 200, start[3:], ess_of(v[3:])))
    assert bool((lam[3:5] > 1 / 200).all())
    assert bool((ess_of(v)(lam) >= 0.7).all())
    assert bool((Adaptive(pace=1.0)(1, 200, start, ess_of(v)) <= 1 / 200).all())
    for b in range(6):
        alone = Adaptive()(1, 200, start[b : b + 1], ess_of(v[b : b + 1]))
        assert torch.equal(alone, lam[b : b + 1])


class Known:
    calibrated = True


def test_what_is_left_open_fits_the_value_and_the_potential():
    """A rough value gets a pace, an estimate of the soft value counts at once."""
    for value, pace in ((object(), None), (Known(), 0.0)):
        assert fit(Adaptive(0.6), value, Difference(), 0.7) == Adaptive(0.6, pace)
        assert fit(Adaptive(0.6, 0.3), value, Difference(), 0.7) == Adaptive(0.6, 0.3)
        assert fit(Fitted(), value, Sum(), 0.5) == fit(Fitted(), value, Max(), 0.5) == Even()
        for fixed in (Constant(0.3), Linear(2.0), Geometric()):
            assert fit(fixed, value, Sum(), 0.0) == fixed
    assert fit(Fitted(), object(), Difference(), 0.5) == Linear()
    assert fit(Fitted(), Known(), Difference(), 0.5) == Constant()


@pytest.mark.parametrize("below", [0.0, 0.3, 0.69])
def test_tempering_and_resampling_may_not_wait_for_each_other(below):
    """Between the two thresholds lam would freeze, and jump to 1 at the end."""
    with pytest.raises(ValueError, match=r"Set resample.ess_below to 0.7 or more"):
        fit(Adaptive(0.7), object(), Difference(), below)
    assert fit(Adaptive(0.7), object(), Difference(), 0.7).ess == 0.7
    p = exact.masked("random")
    with pytest.raises(ValueError, match="lam would stand still"):
        DAS(resample=Resample(ess_below=below)).loop(p.process, p.reward)
    # whatever it is that resamples in the end
    for method in (NestedIS, ParticleGibbs):
        chosen = method(tempering=Adaptive(), resample=Resample(ess_below=below))
        with pytest.raises(ValueError, match="lam would stand still"):
            chosen(p.process, p.reward, (1, 2), rng=Streams(0, (0,)))


@pytest.mark.parametrize("alpha", [1.0, 1e-3, 1e-6, 1e-9])
def test_adaptive_moves_at_any_temperature(alpha):
    """Steps are relative to what is needed: a fixed grid of 2^-10 rounds a small lam to 0."""
    v = values(3, 40, 2, 1.0) / alpha
    lam = Adaptive(0.7, 0.0)(1, N, torch.zeros(3, dtype=torch.float64), ess_of(v))
    assert bool((lam > 0).all())
    size = ess_of(v)(lam)
    assert bool(((size >= 0.7) & ((size < 0.702) | (lam == 1))).all())


def test_adaptive_takes_the_best_where_none_will_do():
    """A proposal that ran ahead leaves weights that a larger lam makes even again."""
    v = values(2, 30, 3, 20.0)
    base = -0.6 * v
    lam = torch.full((2,), 0.1, dtype=torch.float64)
    found = Adaptive(0.999, 0.0)(3, N, lam, ess_of(v, base))
    assert bool((found > 0.5).all() and (found < 0.7).all())


def test_the_tilt_is_not_behind_the_tempering():
    """An island at its pace is tilted by what its next lam will be; one held back by its own."""
    lam = torch.tensor([0.0, 0.25, 0.1], dtype=torch.float64)
    assert ahead(Adaptive(pace=1.0), 6, N, lam).tolist() == [0.0, 6 / N, 0.1]
    assert ahead(Adaptive(pace=0.0), 1, N, lam).tolist() == [1.0, 1.0, 1.0]
    assert ahead(Adaptive(pace=0.0), 6, N, lam).tolist() == lam.tolist()
    assert ahead(Linear(), 6, N, lam).tolist() == [6 / N] * 3
    assert ahead(Linear(), N, N, lam).tolist() == [1.0] * 3


def test_adaptive_is_per_island_and_never_goes_back():
    v, lam = values(4, 25, 1, 30.0), torch.tensor([0.0, 0.5, 0.9, 1.0], dtype=torch.float64)
    schedule = Adaptive(0.6, 1.0)
    whole = schedule(10, N, lam, ess_of(v))
    assert bool((whole >= lam).all())
    assert bool((whole <= lam.clamp(min=0.5)).all())
    for b in range(4):
        alone = schedule(10, N, lam[b : b + 1], ess_of(v[b : b + 1]))
        assert torch.equal(alone, whole[b : b + 1])


def test_adaptive_stays_when_the_weights_are_uneven_already():
    base = torch.zeros(1, 10, dtype=torch.float64)
    base[0, 0] = 50.0
    lam = torch.tensor([0.2], dtype=torch.float64)
    v = torch.arange(10, dtype=torch.float64)[None].flip(-1) * 0.1
    assert abs(float(Adaptive()(10, N, lam, ess_of(v, base))) - 0.2) < 1e-3


def test_adaptive_survives_a_dead_island():
    v = torch.full((1, 4), -torch.inf, dtype=torch.float64)
    lam = Adaptive()(5, N, torch.zeros(1, dtype=torch.float64), lambda lam: ess(v) / 4)
    assert bool(torch.isfinite(lam).all())


@pytest.mark.parametrize("bad", [0.0, 1.0, -1.0, 2.0])
def test_the_target_is_checked(bad):
    with pytest.raises(ValueError, match="0 < ess < 1"):
        Adaptive(bad)
