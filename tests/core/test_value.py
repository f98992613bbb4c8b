"""Values: each is its definition by enumeration, and a random one is unbiased for exp(v/alpha)."""

from __future__ import annotations

import itertools

import pytest
import torch
from checks import mean_is
from exact import PairReward, Plain
from torch import Tensor

from seqalign.core.callables import function
from seqalign.core.discrete import MaskedProcess
from seqalign.core.objective import RewardError
from seqalign.core.sequence import Alphabet
from seqalign.core.streams import Streams
from seqalign.core.value import (
    Automatic,
    LearnedValue,
    PosteriorMean,
    PosteriorMode,
    PosteriorSample,
    Rollout,
)

ABC = Alphabet("ABC")
V, L, ALPHA = 3, 3, 0.7
REWARD = PairReward(L, V, 3)


def network(x: Tensor, t: float) -> Tensor:
    gen = torch.Generator().manual_seed(0)
    weight = torch.randn(L * (V + 1), L * V, generator=gen, dtype=torch.float64)
    hot = torch.nn.functional.one_hot(x, V + 1).double().flatten(-2)
    return (hot @ weight).unflatten(-1, (L, V))


def setting(n: int = 1, order: str = "random"):
    process = MaskedProcess(network, ABC, L, L, order)
    x = torch.tensor([[[3, 1, 3]]]).expand(1, n, L).contiguous()
    return process, x, process.posterior(x, 2 / 3), 2 / 3


def scores(x: Tensor) -> Tensor:
    return REWARD.relaxed(torch.nn.functional.one_hot(x, V).double())


def test_posterior_mean_scores_the_relaxed_mean():
    process, x, posterior, t = setting()
    v = PosteriorMean().bind(REWARD)(process, x, posterior, t, ALPHA, Streams(0, (0,)))
    assert torch.allclose(v, REWARD.relaxed(posterior.mean) / ALPHA)
    with pytest.raises(TypeError, match="cannot score a relaxed design"):
        PosteriorMean().bind(Plain(REWARD))


def test_posterior_mode_scores_the_most_likely_design():
    process, x, posterior, t = setting()
    v = PosteriorMode().bind(Plain(REWARD))(process, x, posterior, t, ALPHA, Streams(0, (0,)))
    assert torch.allclose(v, scores(posterior.mode) / ALPHA)


@pytest.mark.parametrize("n", [1, 3])
def test_posterior_sample_is_unbiased_for_the_soft_value_of_the_posterior(n):
    process, x, posterior, t = setting(20000)
    v = PosteriorSample(n).bind(Plain(REWARD))(process, x, posterior, t, ALPHA, Streams(0, (0,)))
    every = torch.tensor(list(itertools.product(range(V), repeat=L)))
    p = posterior.mean[0, 0][torch.arange(L), every].prod(-1)
    mean_is(torch.exp(v[0]), float((p * torch.exp(scores(every) / ALPHA)).sum()))


@pytest.mark.parametrize("n", [1, 2])
def test_rollout_is_unbiased_for_the_true_soft_value(n):
    """From _B_ the chain reveals either end first, then the other, given the first."""
    process, x, posterior, t = setting(20000)
    v = Rollout(n).bind(Plain(REWARD))(process, x, posterior, t, ALPHA, Streams(0, (0,)))
    exact, pi = 0.0, posterior.mean[0, 0]
    for first, last in ((0, 2), (2, 0)):
        for a in range(V):
            y = x[:1, :1].clone()
            y[0, 0, first] = a
            rho = process.posterior(y, 1 / 3).mean[0, 0]
            for b in range(V):
                z = y.clone()
                z[0, 0, last] = b
                p = 0.5 * float(pi[first, a]) * float(rho[last, b])
                exact += p * float(torch.exp(scores(z)[0, 0] / ALPHA))
    mean_is(torch.exp(v[0]), exact)


def test_random_values_follow_the_particle_and_not_the_chunk():
    process, x, posterior, t = setting(6)
    for value in (PosteriorSample(2).bind(REWARD), Rollout(2).bind(REWARD)):
        rng = Streams(0, (4,)).at("value")
        whole = value(process, x, posterior, t, ALPHA, rng)
        part = value(
            process, x[:, 2:], posterior.map(lambda v: v[:, 2:]), t, ALPHA, rng.particles(2)
        )
        assert torch.allclose(whole[:, 2:], part, rtol=1e-11, atol=1e-11)


def test_automatic_chooses_by_the_gradient():
    assert isinstance(Automatic().bind(REWARD), PosteriorMean)
    assert isinstance(Automatic().bind(Plain(REWARD)), PosteriorMode)
    process, x, posterior, t = setting()
    with pytest.raises(TypeError, match="'Automatic' object is not callable"):
        Automatic()(process, x, posterior, t, ALPHA, Streams(0, (0,)))


def test_learned_value_divides_by_alpha():
    process, x, posterior, t = setting(2)
    learned = LearnedValue(lambda x, t: x.sum(-1).float() * t)
    v = learned.bind(REWARD)(process, x, posterior, t, ALPHA, Streams(0, (0,)))
    assert v.dtype == torch.float64
    assert torch.allclose(v, x.sum(-1).double() * t / ALPHA, rtol=1e-6)


def test_a_rejecting_draw_has_weight_zero_in_the_mean():
    process, x, posterior, t = setting(50)
    reject = function(lambda s: [-torch.inf if w[0] == "A" else 1.0 for w in s])
    v = PosteriorSample(4).bind(reject)(process, x, posterior, t, 1.0, Streams(0, (0,)))
    assert not bool(torch.isnan(v).any())
    seen = torch.exp(v) * 4 / torch.exp(torch.tensor(1.0))
    assert torch.allclose(seen, seen.round(), atol=1e-6)
    broken = function(lambda s: [float("nan")] * len(s), "broken")
    with pytest.raises(RewardError, match="broken"):
        PosteriorSample().bind(broken)(process, x, posterior, t, 1.0, Streams(0, (0,)))


def test_values_are_hyper_parameters_only():
    assert repr(Rollout(3)) == "Rollout(n=3)"
    assert PosteriorSample(2) == PosteriorSample(2)
    assert hash(PosteriorMean()) == hash(PosteriorMean())
