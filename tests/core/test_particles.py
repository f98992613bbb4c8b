"""Particles move as one: no field is left behind by a selection; samples pool islands by their
weights.
"""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
from checks import counts_are
from exact import PairReward
from torch import Tensor

from seqalign.core.discrete import MaskedProcess
from seqalign.core.particles import Particles, Samples, log_mean_exp
from seqalign.core.process import Designs
from seqalign.core.proposal import Tilted
from seqalign.core.selection import Keep, OneChild, Resample, TopK, fitted
from seqalign.core.sequence import Alphabet
from seqalign.core.smc import SMC
from seqalign.core.streams import Streams
from seqalign.methods.fk_steering import FKSteering

ABC = Alphabet("ABC")
B, K, L, V = 3, 5, 4, 3


def network(x: Tensor, t: float) -> Tensor:
    gen = torch.Generator().manual_seed(0)
    weight = torch.randn(L * (V + 1), L * V, generator=gen, dtype=torch.float64)
    hot = torch.nn.functional.one_hot(x, V + 1).double().flatten(-2)
    return (hot @ weight).unflatten(-1, (L, V))


def particles() -> Particles:
    loop = SMC(
        MaskedProcess(network, ABC, L, L),
        PairReward(L, V, 0),
        1.0,
        proposal=Tilted(),
        selection=Keep(),
    )
    state, _ = loop.run((B, K), Streams(0, tuple(range(B))), stop=2)
    # no two particles alike in any field, or a field left behind would go unseen
    unlike = torch.arange(B * K, dtype=torch.float64).reshape(B, K)
    names = ("log_w", "log_twist", "log_h", "value", "memo", "parent")
    names += ("failed_value", "failed_gradient")
    return dataclasses.replace(state, **{n: unlike + 0.1 * i for i, n in enumerate(names)})


def per_particle(p: Particles) -> dict[str, Tensor]:
    """Every (B, K, ...) tensor of the state, whatever it is called.

    The `rows` of a posterior are found again from the rest, and do not move.
    """
    found: dict[str, Tensor] = {}
    for item in dataclasses.fields(p):
        value = getattr(p, item.name)
        if isinstance(value, Tensor) and value.dim() >= 2:
            found[item.name] = value
        elif dataclasses.is_dataclass(value):
            for inner in dataclasses.fields(value):
                tensor = getattr(value, inner.name)
                if isinstance(tensor, Tensor) and inner.name != "rows":
                    found[f"{item.name}.{inner.name}"] = tensor
    return found


def test_the_state_has_all_its_fields():
    names = set(per_particle(particles()))
    assert {"x", "log_w", "log_twist", "log_h", "value", "memo", "parent", "score"} <= names
    open_ = {f"{law}.{part}" for law in ("posterior", "guide") for part in ("x_t", "columns")}
    assert open_ | {"posterior.log_rows", "guide.log_rows"} <= names


def test_gather_moves_every_field_and_no_island():
    p = particles()
    ancestors = torch.tensor([[0, 0, 4, 3, 3], [1, 1, 1, 1, 1], [4, 3, 2, 1, 0]])
    moved = p.gather(ancestors)
    before, after = per_particle(p), per_particle(moved)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        for b in range(B):
            assert torch.equal(after[name][b], tensor[b][ancestors[b]]), name
    assert torch.equal(moved.log_z, p.log_z)
    assert torch.equal(moved.lam, p.lam)


def test_branch_copies_side_by_side():
    p = particles()
    wide = p.branch(3)
    for name, tensor in per_particle(p).items():
        copy = per_particle(wide)[name]
        assert copy.shape[1] == 3 * K
        for m in range(3):
            assert torch.equal(copy[:, m::3], tensor), name
    assert p.branch(1) is p


def test_take_keeps_whole_islands():
    p = particles()
    some = p.take(torch.tensor([2, 0]))
    for name, tensor in per_particle(p).items():
        assert torch.equal(per_particle(some)[name], tensor[[2, 0]]), name
    assert torch.equal(some.lam, p.lam[[2, 0]])
    assert torch.equal(some.log_z, p.log_z[[2, 0]])


def test_the_state_is_what_a_fresh_look_at_it_says():
    """After any selection: twist = lam·value, value and posterior those of x. What went stale would
    disagree.
    """
    process, reward = MaskedProcess(network, ABC, L, L), PairReward(L, V, 0)
    for selection, branch in (
        (Resample("multinomial", 1.0), 1),
        (Resample("ssp", 1.0), 1),
        (OneChild(weigh=True, then=Resample("systematic", 1.0)), 3),
        (TopK(), 3),
    ):
        loop = SMC(process, reward, 0.5, proposal=Tilted(), selection=selection, branch=branch)
        for stop in (1, 2, 3):
            p, _ = loop.run((B, K), Streams(1, tuple(range(B))), stop=stop)
            fresh = process.posterior(p.x, 0.5)
            assert torch.allclose(p.posterior.mean, fresh.mean)
            v = reward.relaxed(fresh.mean) / 0.5
            assert torch.allclose(p.value, v)
            assert torch.allclose(p.log_twist, p.lam[:, None] * v)
            mean = fresh.mean.clone().requires_grad_()
            (g,) = torch.autograd.grad((reward.relaxed(mean) / 0.5).sum(), mean)
            assert torch.allclose(p.score, process.lift(g, fresh))


def test_a_rejected_design_keeps_its_verdict():
    """-inf is a value at the end, not a failure to be bridged by the value before."""

    class Picky(PairReward):
        def __call__(self, designs: Designs) -> Tensor:
            return torch.where(designs.x[..., 0] == 0, -torch.inf, super().__call__(designs))

    loop = SMC(MaskedProcess(network, ABC, L, L), Picky(L, V, 0), 0.5, proposal=Tilted())
    p, trace = loop.run((40, K), Streams(2, tuple(range(40))))
    rejected = torch.isneginf(p.reward)
    assert bool((rejected == (p.x[..., 0] == 0)).all())
    assert 0 < int(rejected.sum()) < rejected.numel()
    assert torch.equal(p.value, p.reward / 0.5)
    assert torch.equal(torch.isneginf(p.log_w), rejected)
    assert torch.equal(torch.isneginf(trace[-1].value_mean), rejected.any(-1))


# selections ---------------------------------------------------------------------------------------


def weighted(log_w: Tensor) -> Particles:
    p = particles()
    twist = torch.linspace(-1, 1, B * K).reshape(B, K).double()
    return dataclasses.replace(p, log_w=log_w, log_twist=twist, log_z=torch.arange(B).double())


def test_resampling_moves_weight_to_log_z_only_where_it_happens():
    log_w = torch.full((B, K), -2.0, dtype=torch.float64)
    log_w[1] = torch.tensor([5.0, 0, 0, 0, 0])
    log_w[2] = -math.inf
    p = weighted(log_w)
    out = Resample("ssp", 0.5)(p, K, Streams(0, (0, 1, 2)))
    # island 0 is even, island 2 is dead: both stay as they were
    for b in (0, 2):
        assert torch.equal(out.log_w[b], p.log_w[b])
        assert torch.equal(out.x[b], p.x[b])
        assert float(out.log_z[b]) == float(p.log_z[b])
    assert bool((out.log_w[1] == 0).all())
    assert abs(float(out.log_z[1]) - (1 + float(log_mean_exp(log_w[1])))) < 1e-12
    # what is known about Z does not change by resampling
    for b in (0, 1):
        before = p.log_z[b] + log_mean_exp(p.log_w[b])
        assert abs(float(out.log_z[b] + log_mean_exp(out.log_w[b]) - before)) < 1e-12


def test_resample_waits_for_its_step_and_leaves_finished_designs_weighted():
    p = weighted(torch.arange(B * K).reshape(B, K).double())
    assert Resample(ess_below=1.0, every=3)(p, K, Streams(0, (0, 1, 2))) is p
    done = dataclasses.replace(p, reward=torch.zeros(B, K))
    assert Resample(ess_below=1.0)(done, K, Streams(0, (0, 1, 2))) is done
    assert Resample(ess_below=0.0)(p, K, Streams(0, (0, 1, 2))) is p
    # a conditional sweep waits for the same
    for select, x in (
        (Resample(ess_below=1.0, every=3), p),
        (Resample(ess_below=0.0), p),
        (Resample(ess_below=1.0), done),
        (Keep(), p),
    ):
        assert select.pinned(x, K, Streams(0, (0, 1, 2))) is x
    moved = Resample(ess_below=1.0).pinned(p, K, Streams(0, (0, 1, 2)))
    assert bool((moved.parent[:, 0] == p.parent[:, 0]).all())
    assert bool((moved.log_w == 0).all())
    with pytest.raises(ValueError, match="unknown"):
        Resample("best")
    with pytest.raises(ValueError, match="every >= 1"):
        Resample(every=0)


@pytest.mark.parametrize("steps", [1, 2, 4, 10, 24, 25, 100])
def test_every_fits_the_chain(steps):
    chain = SimpleNamespace(times=torch.linspace(1, 0, steps + 1))

    def fit(every, then=False):
        resample = Resample(every=every)
        part = OneChild(weigh=True, then=resample) if then else resample
        part = fitted(part, chain, 2 if then else 1, False)
        return part.then if then else part

    # what a method does by default resamples in any chain that has a step before its end
    assert FKSteering().resample.every is None
    for then in (False, True):
        free = fit(None, then).every
        due = [i for i in range(1, steps) if i % free == 0]
        assert len(due) >= min(4, steps - 1)
        assert free == 5 or steps < 25
        assert fit(1, then).every == 1
        # a number that never comes is refused, with one that does
        last = max(1, steps - 1)
        assert fit(last, then).every == last
        with pytest.raises(ValueError, match=f"never resamples .* {steps} steps.* <= {last}"):
            fit(last + 1, then)


@pytest.mark.parametrize("selection", [Keep(), Resample()])
def test_children_need_a_selection_that_chooses_among_them(selection):
    with pytest.raises(ValueError, match=r"branch = 2 .*does not choose among them: use OneChild"):
        fitted(selection, SimpleNamespace(times=torch.linspace(1, 0, 4)), 2, False)


def test_one_child_keeps_each_parent_and_the_mean_weight():
    gen = torch.Generator().manual_seed(0)
    p = particles().branch(4)
    log_w = torch.randn(B, 4 * K, generator=gen, dtype=torch.float64)
    log_w[0, :4] = -math.inf
    p = dataclasses.replace(p, log_w=log_w)
    out = OneChild(weigh=True)(p, K, Streams(0, (0, 1, 2)))
    assert torch.allclose(out.log_w, log_mean_exp(log_w.unflatten(1, (K, 4))))
    assert float(out.log_w[0, 0]) == -math.inf
    assert torch.equal(out.parent, particles().parent)
    assert bool((OneChild()(p, K, Streams(0, (0, 1, 2))).log_w == 0).all())


def test_one_child_is_drawn_by_weight():
    n, w = 20000, torch.tensor([0.1, 0.6, 0.3], dtype=torch.float64)
    zero = torch.zeros(1, 3 * n, dtype=torch.float64)
    p = Particles(
        1, torch.arange(3).repeat(n)[None, :, None], w.log().repeat(n)[None], *[zero] * 5,
        torch.zeros(1), torch.zeros(1), zero, zero
    )  # fmt: skip
    counts_are(torch.bincount(OneChild()(p, n, Streams(0, (0,))).x[0, :, 0], minlength=3), w)


def test_greedy_and_top_k_choose_by_value():
    p = weighted(torch.zeros(B, K, dtype=torch.float64)).branch(2)
    value = torch.randn(B, 2 * K, generator=torch.Generator().manual_seed(1)).double()
    p = dataclasses.replace(p, log_twist=value, log_h=torch.zeros_like(value))
    greedy = OneChild(greedy=True)(p, K, Streams(0, (0, 1, 2)))
    assert torch.equal(greedy.log_twist, value.unflatten(1, (K, 2)).amax(-1))
    top = TopK()(p, K, Streams(0, (0, 1, 2)))
    assert torch.equal(top.log_twist, value.sort(descending=True).values[:, :K])


# samples ------------------------------------------------------------------------------------------


def samples() -> Samples:
    words = [["AAB", "BBC", "AAB"], ["CCC", "BBC", "ABC"]]
    x = torch.stack([ABC.encode(w) for w in words])
    rewards = torch.tensor([[1.0, 3.0, 1.0], [2.0, 3.0, -math.inf]]).double()
    log_w = torch.tensor([[0.0, 1.0, -math.inf], [2.0, 0.0, -math.inf]]).double()
    return Samples(Designs(x, ABC), rewards, log_w, torch.tensor([0.5, -1.0]).double())


def test_weights_pool_islands_by_their_log_z():
    s = samples()
    w = s.weights
    assert abs(float(w.sum()) - 1) < 1e-12
    share = torch.softmax(torch.tensor([0.5, -1.0]).double(), 0)
    assert torch.allclose(w.sum(-1), share)
    assert torch.allclose(w[0] / share[0], torch.softmax(s.log_w[0], -1))
    assert abs(float(s.mean(s.rewards)) - float((w * s.rewards.clamp(min=-9)).sum())) < 1e-12
    assert torch.allclose(s.ess[0], 1 / (torch.softmax(s.log_w[0], -1) ** 2).sum())


def test_weights_without_log_z_and_with_dead_islands():
    s = samples()
    flat = dataclasses.replace(s, log_w=torch.zeros(2, 3).double(), log_z=None)
    assert torch.allclose(flat.weights, torch.full((2, 3), 1 / 6, dtype=torch.float64))
    dead = torch.tensor([0.5, -math.inf]).double()
    log_w = s.log_w.clone()
    log_w[1] = -math.inf
    half = dataclasses.replace(s, log_w=log_w, log_z=dead)
    assert torch.allclose(half.weights.sum(-1), torch.tensor([1.0, 0.0]).double())
    gone = dataclasses.replace(
        s, log_w=torch.full((2, 3), -math.inf).double(), log_z=torch.full((2,), -math.inf).double()
    )
    assert bool((gone.weights == 0).all())


def test_best_counts_equal_designs_once_and_never_a_rejected_one():
    s = samples()
    assert s.best().tolist() == [[0, 1]]
    assert s.best(3).tolist() == [[0, 1], [1, 0], [0, 0]]
    assert s.best(9).tolist() == [[0, 1], [1, 0], [0, 0]]


def test_resample_draws_by_weight():
    s, n = samples(), 20000
    u = Streams(0, (0,)).uniform((1, n))
    picks = s.resample(n, u)
    counts = torch.bincount(picks[:, 0] * 3 + picks[:, 1], minlength=6)
    assert bool(((counts - n * s.weights.flatten()).abs() <= 1 + 1e-6).all())


def test_log_mean_exp():
    x = torch.tensor([[0.0, math.log(3.0)], [-math.inf, -math.inf]]).double()
    assert torch.allclose(log_mean_exp(x)[0], torch.tensor(math.log(2.0)).double())
    assert float(log_mean_exp(x)[1]) == -math.inf
    assert torch.allclose(log_mean_exp(x[:1].T, 0), torch.tensor([math.log(2.0)]).double())
