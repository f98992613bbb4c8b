"""Law 1 in many dimensions: a Gaussian field of 64 values and a linear-quadratic reward.

The chain that is run is linear, so Z and every E[f] of its own tilted law are known in closed form.
Prior: a smooth field on 8 × 8, eigenvalues over four decades. Reward: a slope and noisy averages
over all 64 values. Resampling is forced; one standard error is at most 1 %.
"""

from __future__ import annotations

import math

import exact
import numpy as np
import pytest

from seqalign.core.gaussian import RectifiedFlow
from seqalign.core.proposal import Tilted
from seqalign.core.selection import Resample
from seqalign.core.tempering import Adaptive
from seqalign.methods.das import DAS
from seqalign.methods.smc import PlainSMC
from seqalign.methods.tds import TDS

STEPS, PARTICLES = 6, 6000
ALWAYS = Resample("ssp", 1.0)
METHODS = {
    "smc": PlainSMC(resample=ALWAYS),
    "tds": TDS(resample=ALWAYS),
    "das": DAS(resample=ALWAYS),
    "das-late": DAS(tempering=Adaptive(pace=2.0), tilt=Tilted(scale=0.5)),
}


def field(side: int = 8, scale: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of a smooth, not centered field."""
    i = np.arange(side)
    near = np.exp(-0.5 * ((i[:, None] - i) / scale) ** 2) + 0.01 * np.eye(side)
    ramp = 0.1 * (i[:, None] - 0.5 * i).flatten()
    return ramp, 0.5 * np.kron(near, near)


def look() -> tuple[np.ndarray, np.ndarray]:
    """Slope and curvature of the reward."""
    rng = np.random.default_rng(7)
    averages = rng.normal(size=(8, 64)) / 64
    return 0.03 * rng.normal(size=64) + 1.5 * averages.sum(0), 4.0 * averages.T @ averages


def problem(schedule=None, **settings) -> exact.Problem:
    return exact.linear_gaussian(*field(), *look(), schedule, steps=STEPS, **settings)


def test_the_answer_is_that_of_the_chain_and_it_matters():
    m, c = field()
    assert np.linalg.cond(c) > 1e4
    slope, quad = look()
    # log Z and E[x] if the chain sampled the prior exactly, from the definition of a Gaussian tilt
    post = np.linalg.inv(np.linalg.inv(c) + quad)
    center = post @ (np.linalg.solve(c, m) + slope)
    log_z = 0.5 * (np.linalg.slogdet(post)[1] - np.linalg.slogdet(c)[1])
    log_z += 0.5 * (center @ np.linalg.solve(post, center) - m @ np.linalg.solve(c, m))
    p = problem()
    assert abs(p.log_z - log_z) > 0.05, "the law could not tell the chain from its ideal"
    assert np.abs(p.expected[:64].numpy() - m).max() > 0.1, "the reward hardly tilts"
    fine = exact.linear_gaussian(m, c, slope, quad, steps=4000)
    assert math.isclose(fine.log_z, log_z, abs_tol=2e-3)
    assert np.allclose(fine.expected[:64], center, atol=2e-3)


@pytest.mark.parametrize(
    ("method", "k", "schedule", "eta"),
    [
        ("smc", 2, None, 1.0),
        ("tds", 2, None, 1.0),
        ("das", 2, None, 1.0),
        ("das-late", 8, None, 1.0),
        ("das", 8, RectifiedFlow(), 0.7),
    ],
)
def test_methods_are_exact_in_64_dimensions(method, k, schedule, eta):
    p = problem(schedule, eta=eta)
    exact.assert_exact(p.run(METHODS[method], (PARTICLES // k, k), seed=1), p)
