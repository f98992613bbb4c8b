"""Potentials are cumulative: the log-twist after a step is the sum of all log-potentials so far, by
hand.
"""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqalign.core.potential import Difference, Max, Sum

B, K, T = 2, 3, 5


def path(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    gen = torch.Generator().manual_seed(seed)
    v = torch.randn(T, B, K, generator=gen, dtype=torch.float64)
    return v, torch.rand(T, B, generator=gen, dtype=torch.float64).cumsum(0) / T


def run(potential, v, lam):
    twist = torch.zeros(B, K, dtype=torch.float64)
    memo = torch.full_like(twist, potential.start)
    rows = []
    for i in range(T):
        twist, memo = potential(twist, memo, lam[i], v[i])
        rows.append(twist)
    return torch.stack(rows)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_difference_forgets_the_path(seed):
    v, lam = path(seed)
    assert torch.allclose(run(Difference(), v, lam), lam[..., None] * v)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_max_adds_the_best_so_far_once_per_step(seed):
    v, lam = path(seed)
    best = v.cummax(0).values
    assert torch.allclose(run(Max(), v, lam), (lam[..., None] * best).cumsum(0))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_sum_adds_the_running_sum_once_per_step(seed):
    v, lam = path(seed)
    assert torch.allclose(run(Sum(), v, lam), (lam[..., None] * v.cumsum(0)).cumsum(0))


def test_particles_and_islands_do_not_mix():
    v, lam = path(0)
    for potential in (Difference(), Max(), Sum()):
        whole = run(potential, v, lam)
        order = torch.tensor([2, 0, 1])
        assert torch.equal(run(potential, v[..., order], lam), whole[..., order])
        assert torch.equal(run(potential, v.flip(1), lam.flip(1)), whole.flip(1))


def test_lam_zero_adds_nothing():
    v, _ = path(1)
    for potential in (Difference(), Max(), Sum()):
        assert bool((run(potential, v, torch.zeros(T, B).double()) == 0).all())
