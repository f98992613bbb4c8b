"""Impossible letters, -inf logits that depend on the state: exact inside constraints, never NaN.

Random rules of the kind "once this letter stands here, that one cannot stand there", on enumerable
processes of both orders and a uniform one; dead ends have weight zero and count.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import exact
import numpy as np
import pytest
import torch
from torch import Tensor

from seqalign.core.discrete import CategoricalPosterior, MaskedProcess, UniformProcess
from seqalign.core.proposal import Tilted
from seqalign.core.selection import Resample
from seqalign.core.streams import Streams
from seqalign.core.tempering import Adaptive
from seqalign.methods.beam import Beam
from seqalign.methods.best_of_n import BestOfN
from seqalign.methods.das import DAS
from seqalign.methods.guidance import Guidance
from seqalign.methods.nested_is import NestedIS
from seqalign.methods.smc import PlainSMC
from seqalign.methods.svdd import SVDD
from seqalign.methods.tds import TDS
from seqalign.space.impossible import NEVER, hoped, marked, recalled
from seqalign.space.space import DesignSpace

V = 3
METHODS = {
    "best_of_n": BestOfN(),
    "smc": PlainSMC(resample=Resample("ssp", 0.6)),
    "tds": TDS(resample=Resample("ssp", 0.6)),
    "das": DAS(tempering=Adaptive(0.8), resample=Resample("systematic", 0.9)),
    "nested_is": NestedIS(branch=2, proposal=Tilted(), resample=Resample("ssp", 0.6)),
}
SPACES: dict[str, Callable[[], DesignSpace]] = {
    **exact.CONSTRAINED,
    "allow": lambda: exact.constrained(residues={"1": {"allow": "AD"}, "3": {"omit": "K"}}),
    "budget": lambda: exact.constrained(wild_type="AKDA", max_mutations=1),
}


def ruled(table: exact.Table, seed: int, share: float = 0.3) -> exact.Table:
    """The same network, which calls a random part of the letters impossible in every state."""
    rng = np.random.default_rng(seed)
    logits = table.logits.numpy().copy()
    never = rng.random(logits.shape) < share
    # one letter is left everywhere
    np.put_along_axis(never, rng.integers(0, V, (*never.shape[:-1], 1)), False, -1)
    logits[never] = -np.inf
    return replace(table, logits=torch.tensor(logits))


def problem(order: str, space: DesignSpace | None, seed: int, length: int = 4) -> exact.Problem:
    letters = exact.AKD if space is None else space.alphabet
    reward: Any = exact.PairReward(length, V, 11, 0.25)
    if order == "uniform":
        plain = exact.uniform(length=length, steps=2, space=space, scale=0.3).process.network
        table = ruled(plain, seed)
        process: Any = UniformProcess(table, letters, length, 2, differentiable=True)
        return exact.enumerated(process, reward, 1.0, exact.uniform_law(table, 2), space)
    table = ruled(exact.any_order_table(V, length, seed, 0.3), seed)
    blocks = () if space is None else space.blocks
    process = MaskedProcess(
        table, letters, length, length, order=order, differentiable=True, blocks=blocks
    )  # type: ignore[arg-type]
    start = [V] * length if space is None else letters.encode([space.fixed])[0].tolist()
    law = exact.masked_law(table, length, order, start, blocks=blocks)
    return exact.enumerated(process, reward, 1.0, law, space)


@pytest.mark.parametrize("order", ["random", "parallel"])
@pytest.mark.parametrize("name", SPACES)
def test_impossible_letters_are_exact_inside_every_constraint(name, order):
    turn = list(SPACES).index(name) + (order == "parallel")
    method = list(METHODS)[turn % len(METHODS)]
    p = problem(order, SPACES[name](), 2 + turn)
    exact.assert_exact(p.run(METHODS[method], (4000, (1, 2, 4)[turn % 3]), 40), p, error=0.09)


@pytest.mark.parametrize("name", ["allow", "budget", "forbid", "charge-both", "all-split"])
def test_impossible_letters_are_exact_on_a_uniform_process(name):
    p = problem("uniform", SPACES[name](), 5)
    exact.assert_exact(p.run(METHODS["smc"], (8000, 2), 41), p, error=0.03)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("order", ["random", "parallel"])
def test_impossible_letters_are_exact_without_constraints(order, method):
    p = problem(order, None, 3)
    exact.assert_exact(p.run(METHODS[method], (10_000, 2), 42), p, error=0.02)


@pytest.mark.parametrize("order", ["random", "parallel"])
def test_many_random_rules_are_exact_together(order):
    """One pooled test over many small problems: a bias of three percent shows."""
    off, spread = 0.0, 0.0
    for seed in range(24):
        name = list(SPACES)[seed % len(SPACES)]
        p = problem(order, SPACES[name](), 100 + seed)
        ratio = torch.exp(p.run(METHODS["smc"], (800, 4), seed).log_z - p.log_z)
        assert not bool(torch.isnan(ratio).any())
        off += float(ratio.mean()) - 1
        spread += float(ratio.var()) / len(ratio)
    assert math.sqrt(spread) / 24 < 0.012
    assert abs(off) <= exact.FALSE_ALARM * math.sqrt(spread)


@pytest.mark.parametrize("method", [SVDD(branch=3), Beam(branch=3), Guidance()], ids=repr)
@pytest.mark.parametrize("name", ["allow", "budget", "charge-both", "tie-budget"])
def test_methods_without_weights_draw_no_dead_end_where_another_is_left(name, method):
    p = problem("random", SPACES[name](), 6)
    samples = method(p.process, p.reward, (40, 6), rng=Streams(2, range(40)), space=p.space)
    inside = p.space.contains(samples.designs.x)
    assert not bool(torch.isnan(samples.log_w).any())
    assert bool((torch.isneginf(samples.log_w) | inside).all())


@pytest.mark.parametrize("method", [SVDD(alpha=0.0, branch=4), Beam(branch=4)], ids=repr)
def test_the_best_is_no_dead_end_while_another_lives(method):
    """A high value at a dead end must not win: what is chosen keeps a path to the end."""
    space = DesignSpace.build(exact.AKD, 2, residues={"1": {"allow": "AD"}})
    process = MaskedProcess(after_k, exact.AKD, 2, 2)
    loop = method.loop(process, exact.Plain(exact.PairReward(2, V, 1)), space)
    state, _ = loop.init((200, 3), Streams(0, range(200)))
    moved, _ = loop.step(state, Streams(0, range(200)))
    log_w = torch.where(torch.arange(12) % 4 == 1, -torch.inf, 0.0).expand(200, 12).double()
    wide = replace(moved.branch(4), log_w=log_w)
    wide = replace(wide, log_twist=torch.where(torch.isneginf(log_w), 9.0, 0.0).double())
    marks = torch.arange(12).double().expand(200, 12)
    chosen = loop.selection(replace(wide, memo=marks), 3, Streams(1, range(200)))
    assert not bool((chosen.memo % 4 == 1).any())


def after_k(x: Tensor, t: float) -> Tensor:
    """Once position 2 is K, position 1 must be K."""
    z = torch.zeros(*x.shape, V, dtype=torch.float64)
    z[..., 0, 0] = z[..., 0, 2] = torch.where(x[..., 1] == 1, -math.inf, 0.0)
    return z


@pytest.mark.parametrize("k", [1, 2, 4])
def test_a_dead_end_has_weight_zero_and_counts(k):
    """Position 1 may be A or D: first, or after a position 2 that is not K."""
    space = DesignSpace.build(exact.AKD, 2, residues={"1": {"allow": "AD"}})
    process = MaskedProcess(after_k, exact.AKD, 2, 2)
    z = (2 / 3 + 2 / 3 * 2 / 3) / 2
    samples = BestOfN()(process, exact.Zero(), (6000, k), rng=Streams(0, range(6000)), space=space)
    assert not bool(torch.isnan(samples.log_w).any())
    ratio = samples.log_z.exp() / z
    error = float(ratio.std()) / math.sqrt(len(ratio))
    assert abs(float(ratio.mean()) - 1) <= exact.FALSE_ALARM * error < 0.05
    assert 0 < int(torch.isneginf(samples.log_w).sum())


def test_what_is_finite_is_not_touched():
    log_p = torch.log_softmax(torch.randn(2, 3, 4, V) * 300, -1)
    same, never = hoped(log_p)
    assert same is log_p
    assert never is None
    assert torch.equal(recalled(log_p), log_p)


def test_what_is_marked_is_never_drawn_now_and_counts_later():
    log_p = torch.tensor([[0.2, 0.8, 0.0], [1.0, 0.0, 0.0]]).log()[None, None]
    full, never = hoped(log_p)
    assert never is not None
    assert bool(torch.isfinite(full).all())
    # the second position may only be what is impossible now: whatever it is, it has a law
    given = torch.tensor([[-1.0, -2.0, -3.0], [-math.inf, -1.0, -math.inf]])[None, None]
    after = marked(given, never)
    assert float(after[0, 0, 0, 2]) == NEVER
    assert math.isclose(float(after[0, 0, 0].exp().sum()), 1.0, rel_tol=1e-6)
    assert torch.equal(after[0, 0, 1], given[0, 0, 1])
    assert bool((recalled(after)[0, 0, 0] > -3).all())


def test_the_look_ahead_is_positive_wherever_the_target_has_mass():
    """Every state from which the chain can still end in A has h > 0, and so has every letter."""
    for name in ("allow", "budget", "forbid", "all", "all-split"):
        space = SPACES[name]()
        p = problem("random", space, 8)
        states = torch.tensor(exact.grid(V + 1, 4))[None]
        posterior = CategoricalPosterior(
            p.process.posterior(states, 0.5).whole().log_probs,
        )
        log_h, guide = space.condition(posterior, states, states == V)
        designs = torch.tensor(exact.grid(V, 4))
        good = designs[space.contains(designs[None])[0]]
        for state, h, law in zip(states[0], log_h[0], guide.log_probs[0], strict=True):
            open_ = state == V
            fits = good[((good == state) | open_).all(-1)]
            # a product of groups may hope in vain
            assert bool(torch.isfinite(h)) or not len(fits), (name, state)
            if not space.exact_lookahead:
                continue
            assert bool(len(fits)) or not bool(torch.isfinite(h)), (name, state)
            if len(fits):
                for i in open_.nonzero()[:, 0].tolist():
                    assert bool(torch.isfinite(law[i, fits[:, i]]).all())
