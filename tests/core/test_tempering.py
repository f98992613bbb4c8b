"""Tempering: schedules stay in [0, 1], never decrease, and the adaptive one meets its target by
bisection.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from seqalign.core.resampling import ess
from seqalign.core.tempering import Adaptive, Constant, Geometric, Linear

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
    # the default has a pace, and its limit bites at every step before the last
    default = Adaptive()
    assert default.pace > 0
    for i in range(1, N):
        lam = default(i, N, torch.zeros(3, dtype=torch.float64), ess_of(v))
        assert bool((lam < 1).all())
        assert torch.allclose(lam, torch.full((3,), (i / N) ** default.pace, dtype=torch.float64))
    assert bool((Adaptive(pace=0.0)(1, N, torch.zeros(3).double(), ess_of(v)) == 1).all())


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
