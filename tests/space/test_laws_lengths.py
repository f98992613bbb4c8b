"""Islands of different length inside constraints: what counts ends where an island ends.

The target of a short island is enumerated with a design space that was built for its length alone.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import exact
import numpy as np
import pytest
import torch

from seqalign.core.process import Designs
from seqalign.core.proposal import Tilted
from seqalign.core.selection import Resample
from seqalign.core.streams import Streams
from seqalign.files.numbering import Numbering
from seqalign.methods.beam import Beam
from seqalign.methods.best_of_n import BestOfN
from seqalign.methods.das import DAS
from seqalign.methods.guidance import Guidance
from seqalign.methods.nested_is import NestedIS
from seqalign.methods.smc import PlainSMC
from seqalign.methods.svdd import SVDD
from seqalign.methods.tds import TDS
from seqalign.space.constraint import ConstraintError
from seqalign.space.space import DesignSpace

L, V = 4, 3
METHODS = {
    "best_of_n": BestOfN(),
    "smc": PlainSMC(resample=Resample("ssp", 0.7)),
    "tds": TDS(resample=Resample("ssp", 0.7)),
    "das": DAS(resample=Resample("systematic", 0.9)),
    "nested_is": NestedIS(branch=2, proposal=Tilted(), resample=Resample("ssp", 0.7)),
}
# what is asked of four positions, and the same of the first three and the first two
RULES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "budget": tuple({"wild_type": "AKDA"[:n], "max_mutations": 1} for n in (4, 3, 2)),
    "run": ({"max_homopolymer": 1},) * 3,
    "fraction": ({"composition": {"K": {"min": 0.3, "max": 0.6}}},) * 3,
    "charge": ({"net_charge": {"min": 0, "max": 1}},) * 3,
    "end": ({"forbid": ["^A", "D$", "KK"]},) * 3,
    "named": (
        {"residues": {"2": {"allow": "KD"}, "4": {"allow": "A"}}, "fix": {1: "D"}},
        {"residues": {"2": {"allow": "KD"}}, "fix": {1: "D"}},
        {"residues": {"2": {"allow": "KD"}}, "fix": {1: "D"}},
    ),
    "all": tuple(
        {
            "wild_type": "AKDA"[:n], "max_mutations": 2, "max_homopolymer": 2,
            "composition": {"A": {"max": 0.7}}, "forbid": ["KD$"], "net_charge": {"max": 1},
        }
        for n in (4, 3, 2)
    ),
}  # fmt: skip
MASKS = ([True] * 4, [True] * 3 + [False], [True] * 2 + [False] * 2)


def problem(order: str, name: str) -> tuple[exact.Problem, DesignSpace, list[float]]:
    """A problem without constraints, its space on four positions, and Z of every length."""
    spaces = [
        DesignSpace.build(exact.AKD, n, **rules)
        for n, rules in zip((4, 3, 2), RULES[name], strict=True)
    ]
    p = (
        exact.uniform(length=L, steps=2, scale=0.3, bias=0.1)
        if order == "uniform"
        else exact.masked(order, length=L, steps=L, bias=0.3, scale=0.3)
    )
    process = replace(p.process, alphabet=exact.AKD)
    designs, found = exact.grid(V, L), []
    for space, mask in zip(spaces, MASKS, strict=True):
        live = sum(mask)
        if order == "uniform":
            law = exact.uniform_law(process.network, 2, mask)
        else:
            fixed = exact.AKD.encode([space.fixed])[0].tolist()
            law = exact.masked_law(process.network, L, order, fixed + [0] * (L - live))
        inside = [not space.violations(w[:live]) for w in exact.AKD.decode(torch.tensor(designs))]
        full = Designs(torch.tensor(designs)[None], exact.AKD, torch.tensor([mask]))
        weight = torch.exp(p.reward(full)[0]).numpy()
        found.append(float((law * weight * np.array(inside)).sum()))
    return replace(p, process=process), spaces[0], found


@pytest.mark.parametrize("order", ["random", "parallel", "uniform"])
@pytest.mark.parametrize("name", RULES)
def test_every_length_has_the_target_it_has_alone(name, order):
    turn = list(RULES).index(name) + ["random", "parallel", "uniform"].index(order)
    method = METHODS[list(METHODS)[turn % len(METHODS)]]
    p, space, z = problem(order, name)
    islands = 7500
    live = torch.tensor(MASKS).repeat(islands // 3, 1)
    process = replace(p.process, event_mask=live)
    samples = method(
        process, p.reward, (islands, 2), rng=Streams(turn, range(islands)), space=space
    )
    assert not bool(torch.isnan(samples.log_z).any())
    inside = [DesignSpace.build(exact.AKD, 4 - n, **r) for n, r in enumerate(RULES[name])]
    for row, exactly in enumerate(z):
        ratio = samples.log_z[row::3].exp() / exactly
        error = float(ratio.std()) / math.sqrt(len(ratio))
        assert abs(float(ratio.mean()) - 1) <= exact.FALSE_ALARM * error + 1e-9, row
        assert error < 0.08
        alive = torch.isfinite(samples.log_w[row::3])
        words = [w for some in samples.designs.sequences[row::3][:200] for w in some]
        for word, counts in zip(words, alive.flatten().tolist(), strict=False):
            assert not counts or not inside[row].violations(word), (row, word)


@pytest.mark.parametrize("order", ["random", "parallel", "uniform"])
def test_an_island_draws_what_it_draws_alone(order):
    """Neither the company of other lengths nor chunks change an island."""
    p, space, _ = problem(order, "all")
    live = torch.tensor(MASKS).repeat(2, 1)
    method = METHODS["tds"]
    together = method(
        replace(p.process, event_mask=live), p.reward, (6, 4), rng=Streams(1, range(6)), space=space
    )
    for b in range(6):
        alone = replace(p.process, event_mask=live[b : b + 1])
        one = method(alone, p.reward, (1, 4), rng=Streams(1, [b]), space=space)
        assert torch.equal(one.designs.x[0], together.designs.x[b])
        assert torch.allclose(one.log_z[0], together.log_z[b], atol=1e-9)
    pieces = replace(p.process, event_mask=live, chunk=3)
    chunked = method(pieces, p.reward, (6, 4), rng=Streams(1, range(6)), space=space)
    assert torch.allclose(chunked.log_z, together.log_z, atol=1e-9)


@pytest.mark.parametrize("method", [SVDD(branch=2), Beam(branch=2), Guidance()], ids=repr)
def test_methods_without_weights_stay_inside_on_every_length(method):
    p, space, _ = problem("random", "all")
    process = replace(p.process, event_mask=torch.tensor(MASKS))
    samples = method(process, p.reward, (3, 8), rng=Streams(1, range(3)), space=space)
    for n, rules, words in zip((4, 3, 2), RULES["all"], samples.designs.sequences, strict=True):
        short = DesignSpace.build(exact.AKD, n, **rules)
        assert all(not short.violations(word) for word in words)


def test_a_gap_and_a_second_chain_end_where_they_end():
    """Positions may be missing anywhere; a run does not go on in the next chain."""
    numbering = Numbering(("A", "A", "B", "B"), ("1", "2", "1", "2"))
    space = DesignSpace.build(exact.AKD, 4, max_homopolymer=1, numbering=numbering)
    live = torch.tensor([[True, False, True, True], [True, True, True, False]])
    bound = space.within(live)
    words = exact.AKD.encode(["AAAK", "AAKK", "AKKA", "AADA"])
    inside = bound.contains(words[None].expand(2, -1, -1))
    # A1, B1, B2: only KK of B counts; then A1, A2, B1: only AA of A counts
    assert inside.tolist() == [[True, False, True, True], [False, False, True, False]]


def test_what_no_short_island_can_be_is_refused_before_any_call():
    p, calls = exact.masked("random", length=L, steps=L), []

    def network(x, t):
        calls.append(t)
        return p.process.network(x, t)

    process = replace(
        p.process, network=network, alphabet=exact.AKD, event_mask=torch.tensor(MASKS)
    )
    # three of four positions may be K, and of two positions none can be "at least .7, at most .8"
    space = DesignSpace.build(exact.AKD, L, composition={"K": {"min": 0.7, "max": 0.8}})
    with pytest.raises(ConstraintError, match=r"composition of 'K'.* [23] "):
        PlainSMC()(process, p.reward, (3, 2), rng=Streams(0, range(3)), space=space)
    tied = DesignSpace.build(exact.AKD, L, tie=[[1, 2]])
    with pytest.raises(ValueError, match="run the lengths one by one"):
        PlainSMC()(process, p.reward, (3, 2), rng=Streams(0, range(3)), space=tied)
    empty = replace(process, event_mask=torch.zeros(3, L, dtype=torch.bool))
    free = DesignSpace.build(exact.AKD, L)
    with pytest.raises(ValueError, match="without any position"):
        PlainSMC()(empty, p.reward, (3, 2), rng=Streams(0, range(3)), space=free)
    assert not calls
