"""Waste-free resampling: E[Ẑ] = Z with every state of every chain kept, and chains are chains."""

from __future__ import annotations

from dataclasses import replace

import exact
import pytest
import torch

from seqalign.build import make, plain
from seqalign.core.moves import Redraw, Remask
from seqalign.core.proposal import Tilted
from seqalign.core.selection import OneChild, Resample
from seqalign.core.smc import SMC
from seqalign.core.streams import Streams
from seqalign.core.tempering import Adaptive, Constant
from seqalign.core.value import PosteriorSample
from seqalign.methods.das import DAS
from seqalign.methods.nested_is import NestedIS
from seqalign.methods.particle_gibbs import ParticleGibbs
from seqalign.methods.smc import PlainSMC
from seqalign.methods.tds import TDS

ISLANDS = 8_000
# two chains of three states, three of two
SIZES = ((6, 2), (6, 3))


def chained(method, chains, move=None, below=1.0, scheme="ssp"):
    resample = Resample(scheme, below, chains=chains)
    return replace(method, resample=resample, move=Redraw() if move is None else move)


@pytest.mark.parametrize("problem", exact.PROBLEMS)
def test_one_chain_of_two_is_exact_for_any_process_and_network(problem):
    p = exact.PROBLEMS[problem]()
    samples = p.run(chained(TDS(), 1), (ISLANDS, 2), 41)
    exact.assert_exact(samples, p)
    rates = torch.stack([s.accepted.mean() for s in samples.trace[1:-1]])
    # nothing is resampled, and so nothing moves, before a step without noise
    rates = rates[rates.isfinite()]
    assert len(rates)
    assert bool(((rates > 0.2) & (rates < 1)).all())


@pytest.mark.parametrize(("k", "chains"), SIZES)
def test_several_chains_are_exact(k, chains):
    p = exact.masked("random")
    exact.assert_exact(p.run(chained(PlainSMC(), chains), (ISLANDS // 2, k), 40), p)


@pytest.mark.parametrize("scheme", ["multinomial", "residual"])
def test_every_scheme_and_a_threshold_are_exact(scheme):
    p = exact.masked("random")
    samples = p.run(chained(PlainSMC(), 2, below=0.9, scheme=scheme), (ISLANDS // 2, 4), 42)
    exact.assert_exact(samples, p)
    moved = torch.stack([torch.isfinite(s.accepted).double().mean() for s in samples.trace[1:-1]])
    assert bool(((moved > 0.1) & (moved < 0.95)).any())


QUICK = ("forbid", "run")


@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in exact.CONSTRAINED],
)
def test_chains_are_exact_inside_every_constraint(name):
    p = exact.masked("random", length=4, steps=4, space=exact.CONSTRAINED[name](), scale=0.3)
    exact.assert_exact(p.run(chained(TDS(), 2), (ISLANDS, 4), 43), p)


@pytest.mark.parametrize(
    "space", [None, exact.space(wild_type="CAB", budget=1)], ids=("free", "budget")
)
def test_chains_of_remasked_letters_are_exact_where_conditionals_agree(space):
    p = exact.masked("random", bias=0.0, space=space)
    exact.assert_exact(p.run(chained(PlainSMC(), 1, Remask(share=1.0)), (ISLANDS, 2), 44), p)


def test_chains_of_mixed_noise_are_exact():
    p = exact.PROBLEMS["gaussian-vp"]()
    exact.assert_exact(p.run(chained(PlainSMC(), 1, Redraw(mix=0.6)), (ISLANDS, 3), 45), p)


@pytest.mark.parametrize("value", [PlainSMC().value, PosteriorSample(2)], ids=repr)
def test_random_and_failed_values_are_exact(value):
    reward = exact.Rejecting(exact.PairReward(3, 3, 11, 0.6), letter=1, broken=True)
    p = exact.masked("random", bias=0.0, reward=reward)
    exact.assert_exact(p.run(chained(PlainSMC(value=value), 2), (ISLANDS, 4), 46), p)


def test_the_states_of_a_chain_have_one_parent_and_what_is_known_of_them_is_theirs():
    p, k, chains = exact.masked("random", bias=0.0), 12, 3
    loop = chained(TDS(0.5, resample=Resample()), chains).loop(p.process, p.reward)
    before, _ = loop.run((40, k), Streams(47, range(40)), stop=1)
    after, row = loop.step(before, Streams(47, range(40)))
    lines = after.parent.unflatten(1, (chains, -1))
    assert bool((lines == lines[..., :1]).all())
    assert torch.equal(row.ancestors, after.parent)
    # a chain begins at a resampled particle, and does not stay there
    still, _ = replace(loop, selection=Resample("ssp", 1.0, chains=chains), move=Stay()).step(
        before, Streams(47, range(40))
    )
    heads = torch.arange(chains) * (k // chains)
    assert torch.equal(still.x[:, heads], after.x[:, heads])
    assert torch.equal(still.x, still.x[:, heads].repeat_interleave(k // chains, 1))
    x = after.x.unflatten(1, (chains, -1))
    assert 0.2 < float((x[:, :, 1:] != x[:, :, :-1]).any(-1).double().mean()) < 1
    # each is one reveal away from the parent, and known as a fresh look knows it
    came = before.gather(after.parent)
    assert bool(((came.x != after.x).sum(-1) <= 1).all())
    fresh = loop._look(after.x, loop._times[after.step], Streams(47, range(40)))
    assert torch.allclose(after.value, fresh.value)
    assert torch.allclose(after.log_twist, after.lam[:, None] * fresh.value)
    assert torch.allclose(after.posterior.whole().mean, fresh.posterior.whole().mean)
    assert torch.allclose(
        after.guide.whole_score(after.score), fresh.guide.whole_score(fresh.score), atol=1e-9
    )
    assert bool((after.log_w == 0).all())


class Stay:
    """A move that goes nowhere."""

    def check(self, loop, x=None):
        """Serve anything."""

    def __call__(self, loop, before, particles, able, rng):
        """Return the particles."""
        return particles, torch.zeros_like(particles.lam)


def test_an_island_that_is_not_resampled_stays_as_it_is():
    p, rng = exact.masked("random"), Streams(48, range(60))
    method = chained(PlainSMC(0.5), 2, below=0.8)
    loop = method.loop(p.process, p.reward)
    after, row = loop.run((60, 4), rng, stop=1)
    bare, _ = replace(loop, move=None, selection=Resample(ess_below=0.0)).run((60, 4), rng, stop=1)
    stay = torch.isnan(row[-1].accepted)
    assert 5 < int(stay.sum()) < 55
    assert torch.equal(after.x[stay], bare.x[stay])
    assert torch.equal(after.log_w[stay], bare.log_w[stay])
    assert bool((after.log_w[~stay] == 0).all())
    assert bool((after.log_w[stay] != 0).any())


@pytest.mark.parametrize("move", [Redraw(), Remask(share=1.0)], ids=repr)
def test_islands_alone_are_islands_together_and_calls_are_counted(move):
    p = exact.masked("random", bias=0.0)
    loop = chained(TDS(), 2, move).loop(p.process, p.reward)
    whole, trace = loop.run((6, 6), Streams(49, range(6)))
    alone, _ = loop.run((1, 6), Streams(49, (3,)))
    assert torch.equal(whole.x[3:4], alone.x)
    assert torch.equal(whole.log_w[3:4], alone.log_w)
    small, _ = replace(loop, process=replace(p.process, chunk=2)).run((6, 6), Streams(49, range(6)))
    assert torch.equal(whole.x, small.x)
    bare = replace(loop, selection=Resample("ssp", 1.0), move=None)
    steps = zip(trace, bare.run((6, 6), Streams(49, range(6)))[1], strict=True)
    more = [a.network_calls - b.network_calls for a, b in steps]
    # two chains, two moves in each
    each = 6 * 2 * 2 * (1 if isinstance(move, Redraw) else 2)
    assert more == [0, each, each, 0]


def test_what_cannot_make_chains_is_refused_before_any_call():
    p = exact.masked("random")
    some = Resample(chains=2)
    for method, cure in (
        (PlainSMC(resample=some), "set move to redraw or remask"),
        (NestedIS(resample=some, branch=2), "leave resample.chains out"),
        (ParticleGibbs(resample=some), "leave resample.chains out"),
        (PlainSMC(resample=some, move=Remask()), "set both to 1"),
        (PlainSMC(resample=some, move=Redraw(every=2)), "set both to 1"),
        (DAS(resample=some, move=Redraw(), tempering=Adaptive()), "linear or constant"),
    ):
        with pytest.raises(ValueError, match=cure):
            method.loop(p.process, p.reward)
    with pytest.raises(ValueError, match="chains >= 1"):
        Resample(chains=0)
    loop = PlainSMC(resample=some, move=Redraw()).loop(p.process, p.reward)
    for k in (5, 2):
        with pytest.raises(ValueError, match="divisor of the particles"):
            loop.run((1, k), Streams(0, (0,)))
    assert loop.meter.calls == (0, 0)
    with pytest.raises(ValueError, match="one child"):
        SMC(
            p.process, p.reward, 1.0, branch=2, tempering=Constant(), move=Redraw(),
            proposal=Tilted(), selection=OneChild(weigh=True),
        )  # fmt: skip
    # particles of another run go on only where they can be shared out
    state, _ = PlainSMC().loop(p.process, p.reward).run((1, 5), Streams(0, (0,)), stop=1)
    with pytest.raises(ValueError, match="divisor of the particles"):
        loop.run((1, 5), Streams(0, (0,)), start=state)


def test_chains_are_set_like_any_part():
    method = make(TDS, {"resample": {"chains": 8}, "move": "redraw"})
    assert method.resample == Resample(chains=8)
    assert make(TDS, plain(method)) == method
