"""Gaussian reverse kernels: DDIM with eta = 1 is DDPM's posterior, and exact denoisers keep exact
marginals.
"""

from __future__ import annotations

import itertools
import math

import exact
import pytest
import torch
from checks import mean_is
from scipy import stats

from seqalign.core.gaussian import (
    Gaussian,
    GaussianPosterior,
    GaussianProcess,
    RectifiedFlow,
    VariancePreserving,
)
from seqalign.core.proposal import Tilted
from seqalign.core.selection import Keep, OneChild, Resample
from seqalign.core.smc import SMC
from seqalign.core.streams import Streams
from seqalign.methods.beam import Beam
from seqalign.methods.best_of_n import BestOfN
from seqalign.methods.das import DAS
from seqalign.methods.fk_steering import FKSteering
from seqalign.methods.nested_is import NestedIS
from seqalign.methods.smc import PlainSMC
from seqalign.methods.svdd import SVDD
from seqalign.methods.tds import TDS

SCHEDULES = [VariancePreserving(), VariancePreserving(0.5, 15.0), RectifiedFlow()]
M, S = 0.7, 0.5  # mean and standard deviation of x_0


class Exact:
    """The exact denoiser of x_0 ~ N(M, S²)."""

    def __init__(self, schedule) -> None:
        self.schedule = schedule

    def __call__(self, x: torch.Tensor, t: float) -> torch.Tensor:
        a, b = self.schedule(t)
        return M + S * S * a * (x - a * M) / (a * a * S * S + b * b)


def process(schedule, steps: int = 10, eta: float = 1.0, **more) -> GaussianProcess:
    return GaussianProcess(Exact(schedule), (2,), steps, schedule, eta, **more)


def test_variance_preserving_preserves_variance_and_follows_its_integral():
    schedule = VariancePreserving(0.1, 20.0)
    for t in (0.0, 1e-6, 0.3, 1.0):
        a, b = schedule(t)
        assert abs(a * a + b * b - 1) < 1e-12
        # beta(u) = 0.1 + 19.9 u, integrated from 0 to t
        assert abs(2 * math.log(a) + 0.1 * t + 19.9 * t * t / 2) < 1e-12
    assert schedule(0.0) == (1.0, 0.0)
    assert schedule(1.0)[0] < 0.01


def test_rectified_flow_is_the_straight_path():
    assert RectifiedFlow()(0.0) == (1.0, 0.0)
    assert RectifiedFlow()(0.25) == (0.75, 0.25)
    assert RectifiedFlow()(1.0) == (0.0, 1.0)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("t", "s"), [(1.0, 0.8), (0.5, 0.3), (0.2, 0.0)])
def test_eta_one_is_the_ancestral_posterior(schedule, t, s):
    """q(x_s | x_t, x_0) from Bayes: prior N(a_s x_0, b_s²), likelihood N(x_t; (a_t/a_s) x_s, b_t² −
    (a_t/a_s)² b_s²).
    """
    (a_t, b_t), (a_s, b_s) = schedule(t), schedule(s)
    x_t, x_0 = torch.tensor([[[0.3, -1.2]]]).double(), torch.tensor([[[0.9, 0.1]]]).double()
    ratio = a_t / a_s
    noise = b_t**2 - ratio**2 * b_s**2
    if b_s == 0:
        variance, mean = 0.0, a_s * x_0
    else:
        precision = 1 / b_s**2 + ratio**2 / noise
        variance = 1 / precision
        mean = variance * (a_s * x_0 / b_s**2 + ratio * x_t / noise)
    p = process(schedule).transition(x_t, GaussianPosterior(x_0), t, s)
    assert isinstance(p, Gaussian)
    assert abs(p.sigma**2 - variance) < 1e-12
    assert torch.allclose(p.mean, mean, atol=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_the_kernel_keeps_the_marginal_of_every_known_x0(schedule, eta):
    """If x_t ~ N(a_t x_0, b_t²), then x_s ~ N(a_s x_0, b_s²), for every eta: the DDIM identity."""
    x_0 = 1.3
    for t, s in ((0.9, 0.7), (0.4, 0.1)):
        (a_t, b_t), (a_s, b_s) = schedule(t), schedule(s)
        low, high = (
            process(schedule, eta=eta).transition(
                torch.tensor([[[x, x]]]).double(),
                GaussianPosterior(torch.full((1, 1, 2), x_0, dtype=torch.float64)),
                t,
                s,
            )
            for x in (0.0, 1.0)
        )
        slope = float(high.mean[0, 0, 0] - low.mean[0, 0, 0])
        mean = float(low.mean[0, 0, 0]) + slope * a_t * x_0
        variance = slope**2 * b_t**2 + low.sigma**2
        assert abs(mean - a_s * x_0) < 1e-12
        assert abs(variance - b_s**2) < 1e-12


def moments(chain: GaussianProcess) -> tuple[float, float]:
    """Mean and variance of the law of x_0 under the chain: with a linear denoiser they are a
    recursion.
    """
    times = chain.times.tolist()
    mean, variance = 0.0, 1.0
    for t, s in itertools.pairwise(times):
        low, high = (
            chain.transition(x, chain.posterior(x, t), t, s)
            for x in (torch.zeros(1, 1, 2).double(), torch.ones(1, 1, 2).double())
        )
        slope = float((high.mean - low.mean)[0, 0, 0])
        mean = slope * mean + float(low.mean[0, 0, 0])
        variance = slope**2 * variance + low.sigma**2
    return mean, variance


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_many_steps_reach_the_law_of_x0(schedule):
    gaps = []
    for steps in (50, 400):
        mean, variance = moments(process(schedule, steps))
        gaps.append(abs(mean - M) + abs(math.sqrt(variance) - S))
    assert gaps[1] < 0.015
    assert gaps[1] < gaps[0] / 4


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_samples_of_the_chain_have_those_moments(schedule):
    chain, rng = process(schedule, 12), Streams(0, (0,))
    x = chain.prior((1, 20000), rng)
    times = chain.times.tolist()
    for i, (t, s) in enumerate(itertools.pairwise(times)):
        x = chain.transition(x, chain.posterior(x, t), t, s).sample(rng.at(i))
    mean, variance = moments(chain)
    mean_is(x[0], mean)
    mean_is((x[0] - mean) ** 2, variance)
    mean_is((x[0, :, 0] - mean) * (x[0, :, 1] - mean), 0.0)


def test_the_prior_is_standard_and_the_forward_process_has_its_moments():
    chain = process(VariancePreserving(), 10)
    z = chain.prior((1, 20000), Streams(0, (0,)))
    assert z.shape == (1, 20000, 2)
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-5
    x_0 = torch.tensor([1.0, -2.0]).double().expand(1, 20000, 2)
    a, b = VariancePreserving()(float(chain.times[7]))
    x_t = chain.corrupt(x_0, 7, Streams(1, (0,)))
    mean_is(x_t[0], a * x_0[0, 0])
    mean_is((x_t[0] - a * x_0[0, 0]) ** 2, b * b)
    assert torch.equal(chain.corrupt(x_0, 10, Streams(1, (0,))), x_0)


def test_nothing_is_open_and_letters_are_refused():
    chain = process(RectifiedFlow())
    x = chain.prior((1, 3), Streams(0, (0,)))
    assert not bool(chain.unknown(x).any())
    assert chain.lift(x, GaussianPosterior(x)) is x
    chain.check(1)
    with pytest.raises(TypeError, match="DesignSpace holds letters"):
        chain.check(4, object())
    with pytest.raises(TypeError, match="DesignSpace holds letters"):
        chain.corrupt(x, 1, Streams(0, (0,)), object())


def test_the_last_step_is_deterministic():
    chain = process(RectifiedFlow())
    x = chain.prior((1, 3), Streams(0, (0,)))
    posterior = chain.posterior(x, 0.1)
    p = chain.transition(x, posterior, 0.1, 0.0)
    assert p.sigma == 0
    assert torch.allclose(p.mean, posterior.mean)


COPYING = {
    "smc": PlainSMC(resample=Resample(ess_below=1.0)),
    "tds": TDS(resample=Resample(ess_below=1.0)),
    "das": DAS(resample=Resample(ess_below=1.0)),
    "fk_steering": FKSteering(resample=Resample(ess_below=1.0, every=1)),
    "nested_is": NestedIS(resample=Resample(ess_below=1.0)),
    "svdd": SVDD(),
    "beam": Beam(),
}


@pytest.mark.parametrize("eta", [1.0, 0.5])
def test_no_design_is_copied_where_no_noise_parts_copies(eta):
    """Whatever resamples at every step, or keeps the best children, ends with different designs."""
    p = exact.gaussian(eta=eta)
    for name, method in COPYING.items():
        rows = []
        rng, watch = Streams(0, range(20)), lambda row, _, rows=rows: rows.append(row)
        found = method(p.process, p.reward, (20, 6), rng=rng, observe=watch)
        distinct = [len(x.unique(dim=0)) for x in found.designs.x]
        assert distinct == [6] * 20, name
        chosen = [row.ancestors is not None for row in rows]
        # parents of several children choose one of each at every step
        often = [False, *[True] * (len(rows) - 3), False, False]
        assert chosen == often or hasattr(method, "branch"), name


def test_posterior_draws_and_mode():
    p = GaussianPosterior(torch.full((1, 1, 2), 3.0).double(), 0.5)
    x = p.sample(20000, Streams(0, (0,)))
    assert x.shape == (1, 1, 20000, 2)
    mean_is(x[0, 0], 3.0)
    mean_is((x[0, 0] - 3) ** 2, 0.25)
    assert torch.equal(p.mode, p.mean)
    assert p.map(lambda v: v.repeat_interleave(2, 1)).mean.shape == (1, 2, 2)


def test_decoder_and_identity():
    x = torch.ones(1, 2, 2)
    assert torch.equal(process(RectifiedFlow()).decode(x).x, x)
    assert torch.equal(process(RectifiedFlow(), decoder=lambda z: 2 * z).decode(x).x, 2 * x)
    assert process(RectifiedFlow()).relax(x) is x


def test_bad_hyper_parameters_are_refused():
    with pytest.raises(ValueError, match="steps >= 1"):
        process(RectifiedFlow(), steps=0)
    with pytest.raises(ValueError, match="eta >= 0"):
        process(RectifiedFlow(), eta=-1.0)
    still = exact.gaussian(eta=0.0)
    for words, parts in {
        "copies of a particle never part": {},
        "children of a particle are alike": {"branch": 2, "selection": OneChild()},
        "no noise that could be tilted": {"proposal": Tilted(), "selection": Keep()},
    }.items():
        with pytest.raises(ValueError, match=f"eta = 0 .*{words}"):
            SMC(still.process, still.reward, 1.0, **parts)


def test_a_chain_without_noise_is_weighed_where_nothing_needs_any():
    """Best of N only weighs where it began: E[Ẑ] = Z of the deterministic chain's law."""
    p = exact.gaussian(eta=0.0)
    exact.assert_exact(p.run(BestOfN(), (15_000, 2)), p)
