"""Law 7, the Markov testbed: a problem far too large to enumerate whose log Z, E[r] and marginals
are known.

A Markov-chain prior over 20 letters with its exact forward-backward denoiser, an additive plus
nearest-neighbor reward, one reveal per step; the tilted target is again a Markov chain. Quick
checks at L = 12, the full size (L = 64, 64 islands of 64) marked slow.
"""

from __future__ import annotations

import itertools
import math

import exact
import numpy as np
import pytest
import torch

from seqalign.core.particles import Samples, log_mean_exp
from seqalign.core.process import Designs
from seqalign.core.sequence import PROTEIN
from seqalign.core.tempering import Adaptive
from seqalign.methods.das import DAS
from seqalign.methods.smc import PlainSMC
from seqalign.methods.tds import TDS

ALPHA = 2.0
# the posterior mean of a Markov chain can be trusted early: temper faster than the default
FAST = DAS(ALPHA, tempering=Adaptive(pace=0.5))


@pytest.fixture(scope="module")
def bed():
    return exact.Testbed.load()


@pytest.fixture(scope="module")
def short():
    return exact.Testbed.load(length=12)


def summary(parts: list[Samples]) -> tuple[float, float, float, float]:
    """Return mean log Ẑ, log mean Ẑ, E[r] (mean over islands) and the distinct designs per
    island.
    """
    log_z = torch.cat([p.log_z for p in parts])
    mean_r = torch.cat([(torch.softmax(p.log_w, -1) * p.rewards).sum(-1) for p in parts])
    distinct = [len(set(row)) for p in parts for row in p.designs.sequences]
    log_mean = float(log_mean_exp(log_z))
    return float(log_z.mean()), log_mean, float(mean_r.mean()), float(np.mean(distinct))


def test_exact_answers_are_the_stored_ones(bed):
    for alpha, log_z, mean in zip(bed.alphas, bed.log_zs, bed.mean_rewards, strict=True):
        assert math.isclose(bed.log_z(alpha), log_z, abs_tol=1e-8)
        assert math.isclose(bed.mean_reward(alpha), mean, abs_tol=1e-8)
        # E[r] is the slope of log Z in 1/alpha
        step = 1e-5
        slope = (bed.log_z(1 / (1 / alpha + step)) - bed.log_z(1 / (1 / alpha - step))) / (2 * step)
        assert math.isclose(slope, mean, rel_tol=1e-6)
        assert np.allclose(bed.marginals(alpha).sum(1), 1)
    assert abs(bed.log_z(np.inf)) < 1e-6, "the prior is normalized"


def test_dynamic_programs_agree_with_enumeration():
    bed = exact.Testbed.load(length=3)
    full = exact.grid(20, 3)
    p = (
        bed.initial[full[:, 0]]
        * bed.transition[full[:, 0], full[:, 1]]
        * bed.transition[full[:, 1], full[:, 2]]
    )
    r = bed.reward(Designs(torch.tensor(full)[None], PROTEIN))[0].numpy()
    wild = np.array([3, 17, 8])
    for alpha, budget in itertools.product((0.5, 2.0, np.inf), (0, 1, 2, 3)):
        inside = (full != wild).sum(1) <= budget
        want = np.log((p * np.exp(r / alpha))[inside].sum())
        assert math.isclose(
            bed.restricted_log_z(alpha, wild, budget), want, rel_tol=1e-9, abs_tol=1e-9
        )
    w = p * np.exp(r / 2.0)
    assert math.isclose(bed.mean_reward(2.0), (w * r).sum() / w.sum())
    hot = full[:, :, None] == np.arange(20)
    assert np.allclose(bed.marginals(2.0), np.einsum("n,nla->la", w / w.sum(), hot))
    # the denoiser, against conditioning by enumeration
    for state in ([20, 20, 20], [20, 4, 20], [7, 20, 20], [20, 0, 9], [5, 20, 11]):
        fits = np.all((np.array(state) == 20) | (full == state), 1)
        got = torch.softmax(bed.process.network(torch.tensor([[state]]), 0.5), -1)[0, 0].numpy()
        for i in range(3):
            if state[i] == 20:
                law = np.array([p[fits & (full[:, i] == a)].sum() for a in range(20)])
                assert np.allclose(got[i], law / law.sum(), atol=1e-12)


def test_relaxed_reward_is_the_reward_at_the_corners(short):
    x = torch.randint(0, 20, (2, 5, 12), generator=torch.Generator().manual_seed(0))
    hot = torch.nn.functional.one_hot(x, 20).double()
    assert torch.allclose(short.reward.relaxed(hot), short.reward(Designs(x, PROTEIN)), atol=1e-12)


@pytest.mark.parametrize(
    "method", [PlainSMC(ALPHA), TDS(ALPHA), DAS(ALPHA)], ids=["smc", "tds", "das"]
)
def test_short_chain(short, method):
    parts = short.run(method, (32, 64))
    log_z, _, mean_r, _ = summary(parts)
    assert abs(log_z - short.log_z(ALPHA)) <= 0.2
    assert abs(mean_r - short.mean_reward(ALPHA)) <= 0.7
    hot = torch.nn.functional.one_hot(torch.cat([p.designs.x for p in parts]), 20).double()
    weights = torch.cat([torch.softmax(p.log_w, -1) for p in parts])
    got = (weights[..., None, None] * hot).sum(1)
    error = got.std(0) / math.sqrt(len(got))
    off = (got.mean(0) - torch.tensor(short.marginals(ALPHA))).abs()
    # self-normalized within islands: a bias of order 1/K besides the noise
    assert bool((off <= exact.FALSE_ALARM * error + 0.02).all())


@pytest.mark.parametrize("reward", [None, exact.Zero()], ids=["reward", "zero"])
def test_short_chain_with_a_mutation_budget(short, reward):
    wild = short.natural()
    parts = short.run(PlainSMC(ALPHA), (32, 64), reward=reward, space=short.budget(wild, 3))
    _, log_mean, _, _ = summary(parts)
    want = short.restricted_log_z(ALPHA if reward is None else np.inf, wild, 3)
    assert abs(log_mean - want) <= 0.5
    for p in parts:
        assert int((p.designs.x != torch.tensor(wild)).sum(-1).max()) <= 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "miss"),
    [(PlainSMC(ALPHA), 3.5), (TDS(ALPHA), 2.0), (FAST, 2.0)],
    ids=["smc", "tds", "das"],
)
def test_full_size(bed, method, miss):
    log_z, _, mean_r, _ = summary(bed.run(method))
    print(
        f"log Z {log_z:.2f} (exact {bed.log_z(ALPHA):.2f}), "
        f"E[r] {mean_r:.2f} ({bed.mean_reward(ALPHA):.2f})"
    )
    assert abs(log_z - bed.log_z(ALPHA)) <= 0.6
    assert abs(mean_r - bed.mean_reward(ALPHA)) <= miss


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "reward"), [(DAS(ALPHA), None), (PlainSMC(ALPHA), exact.Zero())], ids=["das", "zero"]
)
def test_full_size_with_a_mutation_budget(bed, method, reward):
    # forcing the wild type once the budget is spent is off by about 75, with one distinct design
    wild = bed.natural()
    parts = bed.run(method, reward=reward, space=bed.budget(wild, 10))
    _, log_mean, mean_r, distinct = summary(parts)
    want = bed.restricted_log_z(ALPHA if reward is None else np.inf, wild, 10)
    print(
        f"log mean Ẑ {log_mean:.2f} (exact {want:.2f}), E[r] {mean_r:.2f}, {distinct:.0f} distinct"
    )
    assert abs(log_mean - want) <= 2.5
    assert distinct >= 45
    for p in parts:
        assert int((p.designs.x != torch.tensor(wild)).sum(-1).max()) <= 10
