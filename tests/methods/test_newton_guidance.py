"""Newton guidance: forward passes only, and a linear constraint is met to tolerance."""

from __future__ import annotations

import exact
import numpy as np
import pytest
import torch
from networks import forward_only

from seqalign.core.streams import Streams
from seqalign.core.wrappers import Counted
from seqalign.methods.guidance import Guidance
from seqalign.methods.newton_guidance import NewtonGuidance
from seqalign.rewards.inverse_problems import inpainting

STEPS, SIDE = 20, 6


def field() -> np.ndarray:
    i = np.arange(SIDE)
    near = np.exp(-0.5 * ((i[:, None] - i) / 1.0) ** 2) + 0.2 * np.eye(SIDE)
    return np.kron(near, near)


@pytest.fixture(scope="module")
def problem():
    """Inpainting of the middle of a 6 × 6 field, measured almost without noise."""
    c, sigma = field(), 1e-3
    rng = np.random.default_rng(0)
    truth = np.linalg.cholesky(c) @ rng.normal(size=len(c))
    y = torch.tensor(truth.reshape(1, SIDE, SIDE))
    mask = torch.ones(SIDE, SIDE, dtype=torch.bool)
    mask[2:4, 1:5] = False
    reward = inpainting(y, sigma, mask)
    a = np.eye(len(c))[mask.flatten().numpy()]
    slope, quad = a.T @ (a @ truth) / sigma**2, a.T @ a / sigma**2
    return exact.linear_gaussian(
        np.zeros(len(c)), c, slope, quad, reward=reward, event=(1, SIDE, SIDE), steps=STEPS
    )


@pytest.mark.parametrize("moves", [1, 3, 6])
def test_a_linear_constraint_is_met_by_a_known_number_of_forward_calls(problem, moves):
    process, calls = forward_only(problem.process)
    method, reward = NewtonGuidance(iterations=moves), Counted(problem.reward)
    samples = method(process, reward, (1, 8), rng=Streams(0, [0]))
    assert samples.network_calls == sum(calls) == 8 * STEPS * (1 + 3 * moves)
    assert samples.reward_calls == reward.calls == 8 * (STEPS * (2 * moves + 1) + 1)
    gap = (samples.designs.x - problem.reward.measurement)[..., problem.reward.mask[0]]
    tolerance = {1: 0.1, 3: 5e-3, 6: 1e-4}[moves]
    assert float(gap.square().mean().sqrt()) < tolerance
    # what was not measured still varies
    assert float(samples.designs.x[0, :, 0, 2, 2].std()) > 0.05


def test_it_solves_where_guidance_of_the_same_forward_calls_diverges(problem):
    # the gradient of a sharp likelihood needs a step made for it; the secant finds its own
    samples = Guidance()(problem.process, problem.reward, (1, 8), rng=Streams(0, [0]))
    gap = (samples.designs.x - problem.reward.measurement)[..., problem.reward.mask[0]]
    assert not float(gap.abs().max()) < 10


def test_one_move_is_the_best_one_along_the_inexact_newton_direction():
    m, c = np.array([0.3, -0.2, 0.5]), np.array([[0.9, 0.3, 0.0], [0.3, 0.6, -0.1], [0, -0.1, 0.4]])
    slope, quad = np.array([0.5, -0.3, 1.0]), np.diag([1.0, 0.0, 3.0])
    p = exact.linear_gaussian(m, c, slope, quad, steps=1)
    x = np.array([0.4, 1.0, -0.7])
    # one step: x_T is moved and its posterior mean is the design
    samples = NewtonGuidance(iterations=1)(
        p.process, p.reward, (1, 1), rng=Streams(0, [0]), start=torch.tensor(x)[None, None]
    )
    a, b = p.process.schedule(1.0)
    jacobian = a * c @ np.linalg.inv(a * a * c + b * b * np.eye(3))
    x_0 = m + jacobian @ (x - a * m)
    e = slope - quad @ x_0
    d = jacobian @ e
    change = jacobian @ d
    length = (e @ change) / (change @ quad @ change)
    # no longer than the noise of x_t
    length = min(length, b / np.sqrt(np.mean(d**2)))
    want = x_0 + length * change
    assert np.allclose(samples.designs.x[0, 0], want, atol=1e-9)
    assert float(samples.rewards) > float(p.reward.relaxed(torch.tensor(x_0)))


def test_chunks_and_islands_change_nothing(problem):
    method = NewtonGuidance()
    whole = method(problem.process, problem.reward, (3, 5), rng=Streams(1, range(3)))
    process, calls = forward_only(problem.process, chunk=2)
    parts = method(process, problem.reward, (3, 5), rng=Streams(1, range(3)))
    assert parts.network_calls == sum(calls)
    assert max(calls) == 2
    assert torch.allclose(whole.designs.x, parts.designs.x, atol=1e-6)
    alone = method(problem.process, problem.reward, (1, 5), rng=Streams(1, [2]))
    assert torch.allclose(alone.designs.x[0], whole.designs.x[2], atol=1e-6)
