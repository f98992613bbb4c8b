"""PnP-ULA on a linear-Gaussian problem is a linear chain: its law after any number of iterations,
and its stationary law, are known, bias of step and blur included.
"""

from __future__ import annotations

import math
from dataclasses import replace

import exact
import numpy as np
import pytest
import scipy.linalg
import torch
from checks import mean_is
from networks import forward_only

from seqalign.core.streams import Streams
from seqalign.core.wrappers import Counted
from seqalign.methods.pnp_ula import PnPULA

M = np.array([0.7, -0.4, 0.2])
C = np.array([[0.9, 0.3, 0.0], [0.3, 0.6, -0.1], [0.0, -0.1, 0.2]])
SLOPE, QUAD = np.array([0.5, -0.3, 1.0]), np.diag([1.0, 0.2, 3.0])
METHOD = PnPULA(alpha=0.8, iterations=6, sigma=0.5, step=0.6)


@pytest.fixture(scope="module")
def problem():
    return exact.linear_gaussian(M, C, SLOPE, QUAD, steps=20)


def chain(p: exact.Problem, method: PnPULA) -> tuple[np.ndarray, np.ndarray, float]:
    """x ← slope x + shift + N(0, noise), written from the paper's formula."""
    grid = [(t, *p.process.schedule(t)) for t in p.process.times.tolist()[:-1]]
    _, a, b = min(grid, key=lambda v: abs(v[2] / v[1] - method.sigma))
    epsilon = (b / a) ** 2
    assert abs(math.sqrt(epsilon) - method.sigma) < 0.1
    delta, eye = method.step * epsilon, np.eye(3)
    # D(x) = E[x_0 | x_0 + sqrt(epsilon)·noise = x]
    denoise = C @ np.linalg.inv(C + epsilon * eye)
    slope = eye + delta / epsilon * (denoise - eye) - delta * QUAD / method.alpha
    shift = delta / epsilon * (M - denoise @ M) + delta * SLOPE / method.alpha
    return slope, shift, 2 * delta


def moments_are(x: torch.Tensor, mean: np.ndarray, cov: np.ndarray) -> None:
    gap = x - torch.tensor(mean)
    mean_is(gap, 0.0)
    mean_is(gap[:, :, None] * gap[:, None, :], torch.tensor(cov))


def test_the_law_after_six_iterations(problem):
    slope, shift, noise = chain(problem, METHOD)
    x = np.array([2.0, -1.0, 0.5])
    mean, cov = x, np.zeros((3, 3))
    for _ in range(METHOD.iterations):
        mean, cov = slope @ mean + shift, slope @ cov @ slope.T + noise * np.eye(3)
    start = torch.tensor(x).expand(1, 20_000, 3)
    rng = Streams(0, [0])
    samples = METHOD(problem.process, problem.reward, (1, 20_000), rng=rng, start=start)
    moments_are(samples.designs.x[0], mean, cov)
    assert samples.log_z is None
    assert bool((samples.log_w == 0).all())


def test_the_stationary_law_is_the_fixed_point(problem):
    slope, shift, noise = chain(problem, METHOD)
    mean = np.linalg.solve(np.eye(3) - slope, shift)
    cov = scipy.linalg.solve_discrete_lyapunov(slope, noise * np.eye(3))
    # the bias it is known for: neither the posterior's mean nor its covariance
    post = np.linalg.inv(np.linalg.inv(C) + QUAD / METHOD.alpha)
    center = post @ (np.linalg.solve(C, M) + SLOPE / METHOD.alpha)
    assert np.abs(mean - center).max() > 0.01
    assert np.abs(cov - post).max() > 0.05
    long = replace(METHOD, iterations=40)
    assert np.abs(np.linalg.matrix_power(slope, 40)).max() < 1e-3
    x = long(problem.process, problem.reward, (1, 6000), rng=Streams(1, [0])).designs.x[0]
    moments_are(x, mean, cov)


def test_shorter_steps_and_less_blur_approach_the_posterior(problem):
    post = np.linalg.inv(np.linalg.inv(C) + QUAD)
    center = post @ (np.linalg.solve(C, M) + SLOPE)
    off = []
    for sigma, step, iterations in ((0.5, 0.5, 40), (0.2, 0.3, 200)):
        method = PnPULA(iterations=iterations, sigma=sigma, step=step)
        x = (
            method(problem.process, problem.reward, (1, 1500), rng=Streams(2, [0]))
            .designs.x[0]
            .numpy()
        )
        off.append(np.abs(np.cov(x.T) - post).max() + np.abs(x.mean(0) - center).max())
    assert off[1] < 0.5 * off[0]


def test_outside_the_box_it_is_pulled_back(problem):
    slope, shift, _ = chain(problem, METHOD)
    x = np.array([2.0, -1.0, 0.5])
    # the pull is (Π(x) − x)·delta/lambda, and lambda is epsilon
    pull = METHOD.step * (np.clip(x, -0.8, 0.8) - x)
    one = replace(METHOD, iterations=1, box=0.8)
    start = torch.tensor(x).expand(1, 20_000, 3)
    rng = Streams(3, [0])
    samples = one(problem.process, problem.reward, (1, 20_000), rng=rng, start=start)
    mean_is(samples.designs.x[0], torch.tensor(slope @ x + shift + pull))


@pytest.mark.parametrize("chunk", [None, 4])
def test_one_forward_call_per_iteration_and_no_gradient_through_the_network(problem, chunk):
    process, calls = forward_only(problem.process, chunk=chunk, eta=0.0)
    reward = Counted(problem.reward)
    samples = METHOD(process, reward, (2, 8), rng=Streams(4, range(2)))
    assert samples.network_calls == sum(calls) == 16 * METHOD.iterations
    assert samples.reward_calls == reward.calls == 16 * (METHOD.iterations + 1)
    whole = METHOD(problem.process, problem.reward, (2, 8), rng=Streams(4, range(2)))
    assert torch.allclose(samples.designs.x, whole.designs.x, atol=1e-12)
    alone = METHOD(process, problem.reward, (1, 8), rng=Streams(4, [1]))
    assert torch.allclose(alone.designs.x[0], whole.designs.x[1], atol=1e-12)


def test_settings_that_cannot_work_are_refused(problem):
    for bad in ({"sigma": 0.0}, {"step": -0.1}, {"iterations": 0}, {"box": 0.0}):
        with pytest.raises(ValueError, match="must be > 0"):
            PnPULA(**bad)(problem.process, problem.reward, (1, 2), rng=Streams(0, [0]))
