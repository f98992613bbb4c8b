"""Moves leave the target of a particle alone: E[Ẑ] = Z, whatever was moved and how often."""

from __future__ import annotations

from dataclasses import replace

import exact
import pytest
import torch

from seqalign.build import make, plain
from seqalign.core.moves import Redraw, Remask
from seqalign.core.potential import Max
from seqalign.core.reorder import Reorder
from seqalign.core.selection import OneChild, Resample
from seqalign.core.smc import SMC
from seqalign.core.streams import Streams
from seqalign.core.tempering import Adaptive, Constant, Linear
from seqalign.core.value import PosteriorSample
from seqalign.methods.fk_steering import FKSteering
from seqalign.methods.smc import PlainSMC
from seqalign.methods.tds import TDS

ISLANDS = 12_000
ALWAYS = Resample("ssp", 1.0)
SPACES = {
    "allowed": exact.space(allowed=("AB", "ABC", "C")),
    "budget-1": exact.space(wild_type="CAB", budget=1),
    "all": exact.space(fixed="C__", allowed=("ABC", "AC", "ABC"), wild_type="CBB", budget=1),
}


@pytest.mark.parametrize("method", [PlainSMC(resample=ALWAYS), TDS(resample=ALWAYS)], ids=repr)
@pytest.mark.parametrize("problem", exact.PROBLEMS)
def test_redraw_is_exact_for_any_process_and_network(problem, method):
    p = exact.PROBLEMS[problem]()
    samples = p.run(replace(method, move=Redraw(sweeps=2)), (ISLANDS, 2), 31)
    exact.assert_exact(samples, p)
    rates = torch.stack([s.accepted.mean() for s in samples.trace[1:-1]])
    assert bool(((rates > 0.2) & (rates < 1)).all())


@pytest.mark.parametrize("problem", ["gaussian-vp", "gaussian-flow"])
def test_mixed_noise_is_exact(problem):
    p = exact.PROBLEMS[problem]()
    exact.assert_exact(p.run(PlainSMC(resample=ALWAYS, move=Redraw(mix=0.6)), (ISLANDS, 2), 32), p)


@pytest.mark.parametrize("method", [PlainSMC(resample=ALWAYS), TDS(resample=ALWAYS)], ids=repr)
@pytest.mark.parametrize("space", [None, *SPACES])
def test_remask_is_exact_where_conditionals_agree(space, method):
    p = exact.masked("random", bias=0.0, space=None if space is None else SPACES[space])
    samples = p.run(replace(method, move=Remask(share=1.0, sweeps=2)), (2 * ISLANDS, 2), 33)
    exact.assert_exact(samples, p)


def test_remask_is_not_exact_where_conditionals_disagree_and_redraw_is():
    p = exact.masked("random", bias=1.5)
    exact.assert_exact(p.run(PlainSMC(resample=ALWAYS, move=Redraw()), (ISLANDS, 2), 34), p)
    moved = PlainSMC(resample=ALWAYS, move=Remask(share=1.0, sweeps=4))
    samples = p.run(moved, (ISLANDS, 2), 34)
    with pytest.raises(AssertionError):
        exact.assert_exact(samples, p)


@pytest.mark.parametrize("move", [Redraw(share=0.5), Remask(share=0.5)], ids=repr)
def test_random_and_failed_values_with_a_share_of_the_particles(move):
    reward = exact.Rejecting(exact.PairReward(3, 3, 11, 0.6), letter=1, broken=True)
    p = exact.masked("random", bias=0.0, reward=reward)
    for value in (PlainSMC().value, PosteriorSample(2)):
        method = PlainSMC(value=value, resample=ALWAYS, move=move)
        exact.assert_exact(p.run(method, (ISLANDS, 3), 35), p)


@pytest.mark.parametrize("move", [Redraw(), Remask(share=0.5, every=2)], ids=repr)
def test_islands_alone_are_islands_together_and_calls_are_counted(move):
    p = exact.masked("random", bias=0.0)
    loop = TDS(resample=ALWAYS, move=move).loop(p.process, p.reward)
    whole, trace = loop.run((6, 4), Streams(36, range(6)))
    alone, _ = loop.run((1, 4), Streams(36, (3,)))
    assert torch.equal(whole.x[3:4], alone.x)
    assert torch.equal(whole.log_w[3:4], alone.log_w)
    plain = replace(loop, move=None).run((6, 4), Streams(36, range(6)))[1]
    more = [a.network_calls - b.network_calls for a, b in zip(trace, plain, strict=True)]
    assert more == ([0, 24, 24, 0] if isinstance(move, Redraw) else [0, 0, 24, 0])


def test_what_a_move_cannot_serve_is_refused():
    p, g = exact.masked("random"), exact.gaussian()
    for method, cure in (
        (TDS(tempering=Adaptive(), move=Remask()), "linear or constant"),
        (FKSteering(potential=Max(), tempering=Linear(), move=Redraw()), "difference"),
        (TDS(move=Redraw(mix=0.5)), "mix = 1"),
    ):
        with pytest.raises(ValueError, match=cure):
            method.loop(p.process, p.reward)
    with pytest.raises(ValueError, match="one child"):
        SMC(
            p.process, p.reward, 1.0, branch=2, tempering=Constant(), move=Redraw(),
            selection=OneChild(weigh=True),
        )  # fmt: skip
    with pytest.raises(ValueError, match="use redraw"):
        TDS(move=Remask()).loop(g.process, g.reward)
    given = torch.tensor([[[0, 3, 3]]])
    with pytest.raises(ValueError, match="given"):
        TDS(move=Remask())(p.process, p.reward, (1, 1), rng=Streams(0, (0,)), start=given)


@pytest.mark.parametrize("name", [*[n for n in exact.CONSTRAINED if "tie" in n][:2], "forbid"])
def test_redraw_is_exact_with_ties_and_patterns(name):
    p = exact.masked("random", length=4, steps=4, space=exact.CONSTRAINED[name](), scale=0.3)
    exact.assert_exact(p.run(TDS(resample=ALWAYS, move=Redraw()), (ISLANDS, 2), 37), p)
    if p.process.blocks:
        with pytest.raises(ValueError, match="tied"):
            TDS(move=Remask()).loop(p.process, p.reward, p.space)


def test_a_move_is_named_like_any_part():
    spec = {"move": {"name": "remask", "share": 0.25}}
    method = make(TDS, spec)
    assert method.move == Remask(share=0.25)
    assert make(TDS, plain(method)) == method
    assert make(TDS, {"move": "redraw"}).move == Redraw()
    assert make(TDS, {"move": {"name": "reorder", "sites": 2}}).move == Reorder(sites=2)
    drift = {"name": "redraw", "mix": 0.5, "drift": True}
    assert make(TDS, {"move": drift}).move == Redraw(mix=0.5, drift=True)
