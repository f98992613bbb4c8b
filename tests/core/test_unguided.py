"""The chain that is drawn a position at a time: the draws of the loop, and its likelihoods."""

import exact
import pytest
import torch

from seqalign.core.causal import along
from seqalign.core.streams import Streams
from seqalign.core.unguided import able
from seqalign.methods.best_of_n import BestOfN

SPACES = {
    "none": None,
    "fixed": exact.space(fixed="_B_"),
    "allowed": exact.space(allowed=("AB", "ABC", "C")),
    "both": exact.space(fixed="C__", allowed=("ABC", "AC", "ABC")),
}


@pytest.mark.parametrize("space", SPACES)
def test_its_draws_are_those_of_the_loop(space):
    p = exact.remembering(space=SPACES[space])
    method = BestOfN(alpha=0.7)
    assert able(p.process, p.space)
    quick = method(p.process, p.reward, (3, 40), rng=Streams(2, range(3)), space=p.space)
    loop = method.loop(p.process, p.reward, p.space)
    slow, _ = loop.run((3, 40), Streams(2, range(3)))
    assert torch.equal(quick.designs.x, slow.x)
    assert torch.allclose(quick.log_w, slow.log_w, atol=1e-12)


def test_what_looks_ahead_is_left_to_the_loop():
    tied = exact.space(wild_type="ABC", budget=1)
    p = exact.remembering()
    assert not able(p.process, tied)
    assert not able(exact.masked().process, None)
    assert not able(exact.uniform().process, None)


SINGLE = {
    "omit": {"omit": "K"},
    "residues": {"residues": {"2": {"allow": "AD"}, "3": {"allow": "K"}}},
    "omit-fixed": {"omit": "D", "fix": {1: "A"}},
    # limits that no sequence of three can exceed
    "idle": {"residues": {"1": {"allow": "KD"}}, "wild_type": "KDA", "max_mutations": 3},
    "idle-charge": {"omit": "A", "net_charge": {"min": -3, "max": 3}},
}


@pytest.mark.parametrize("name", SINGLE)
def test_constraints_of_single_positions_need_no_loop(name):
    """What a user writes as omit and residues; the draws, and their weights, are the loop's."""
    space = exact.constrained(3, **SINGLE[name])
    p = exact.remembering(space=space)
    assert able(p.process, space)
    method = BestOfN(alpha=0.7)
    quick = method(p.process, p.reward, (2, 60), rng=Streams(5, range(2)), space=space)
    slow, _ = method.loop(p.process, p.reward, space).run((2, 60), Streams(5, range(2)))
    assert torch.equal(quick.designs.x, slow.x)
    assert torch.allclose(quick.log_w, slow.log_w, atol=1e-12)
    assert torch.isfinite(quick.log_w).all()


@pytest.mark.parametrize("name", [*SINGLE, *exact.CONSTRAINED])
def test_a_sum_or_a_pattern_over_positions_is_left_to_the_loop(name):
    """What is drawn a position at a time allows each its letters, whatever stands elsewhere."""
    alone = name in SINGLE
    space = exact.constrained(3, **SINGLE[name]) if alone else exact.CONSTRAINED[name]()
    every = torch.tensor(exact.grid(3, space.length))
    inside = space.contains(every)
    some = [inside[every[:, i] == a].any() for i in range(space.length) for a in range(3)]
    sites = torch.stack(some).view(space.length, 3)
    apart = torch.equal(inside, sites[torch.arange(space.length), every].all(-1))
    assert apart or space.sites is None
    assert not alone or torch.equal(space.sites, sites)


def test_one_pass_gives_the_likelihood_of_an_order():
    p = exact.remembering()
    x = torch.tensor(exact.grid(3, 3))
    order = torch.tensor([2, 0, 1])
    found = along(p.process, x, order)
    state, want = torch.full_like(x, 3), torch.zeros(len(x), dtype=torch.float64)
    posterior = p.process.posterior(state[None], 1.0)
    for i in order.tolist():
        want += posterior.log_probs[0, :, i].gather(-1, x[:, i : i + 1])[:, 0]
        state = state.clone()
        state[:, i] = x[:, i]
        posterior = p.process.posterior(state[None], 0.5, posterior)
    assert torch.allclose(found, want, atol=1e-12)
    assert abs(float(found.exp().sum()) - 1) < 1e-9
