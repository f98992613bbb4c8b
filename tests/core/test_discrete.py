"""Masked and uniform processes: forward law, reverse kernels by brute force, padding, relaxed
states.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import pytest
import torch
from checks import counts_are, mean_is
from torch import Tensor
from torch.nn import functional as F

from seqalign.core.discrete import (
    Categorical,
    CategoricalPosterior,
    MaskedProcess,
    UniformProcess,
)
from seqalign.core.process import Designs
from seqalign.core.sequence import Alphabet
from seqalign.core.streams import Streams
from seqalign.files.numbering import Numbering

ABC = Alphabet("ABC")
V, L = 3, 4


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Mixer:
    """A network of tokens or relaxed states: every position sees every other, and t."""

    def __init__(self, width: int) -> None:
        self.a, self.b = randn(L * width, L * V, seed=1), randn(L * V, seed=2)
        self.width = width

    def __call__(self, x: Tensor, t: float) -> Tensor:
        soft = x if x.is_floating_point() else F.one_hot(x, self.width).double()
        return ((soft.flatten(-2) @ self.a) * (0.3 + t) + self.b).unflatten(-1, (L, V))


def masked(order: str = "random", steps: int = L, **more) -> MaskedProcess:
    return MaskedProcess(Mixer(V + 1), ABC, L, steps, order, differentiable=True, **more)


def uniform(steps: int = 3, **more) -> UniformProcess:
    return UniformProcess(Mixer(V), ABC, L, steps, differentiable=True, **more)


@dataclass(frozen=True)
class Fixing:
    """As much of a design space as a process looks at."""

    fixed: str
    blocks: tuple[tuple[int, ...], ...] = ()

    def start(self, x: Tensor) -> Tensor:
        return torch.where(x == ABC.mask, ABC.encode([self.fixed])[0], x)


PADDING = torch.tensor([[True, True, True, True], [True, True, False, False]])


def test_times_run_from_one_to_zero():
    for process in (masked(steps=6), uniform(steps=5)):
        times = process.times
        assert float(times[0]) == 1
        assert float(times[-1]) == 0
        assert bool((times.diff() < 0).all())
        assert len(times) == process.steps + 1


# forward ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [10, 7, 0])
def test_parallel_corruption_masks_each_position_with_probability_t(step):
    t = 1 - step / 10
    x_0 = torch.tensor([0, 1, 2, 1]).expand(1, 20000, L)
    x_t = masked("parallel", steps=10).corrupt(x_0, step, Streams(0, (0,)))
    hit = x_t == ABC.mask
    assert torch.equal(torch.where(hit, x_0, x_t), x_0)
    mean_is(hit[0].double(), t)
    pairs = hit[0].double()
    mean_is(pairs[:, 0] * pairs[:, 1], t * t)


@pytest.mark.parametrize("step", [4, 3, 2, 0])
def test_random_order_corruption_masks_a_uniform_subset(step):
    x_0 = torch.tensor([0, 1, 2, 1]).expand(1, 12000, L)
    x_t = masked(steps=4).corrupt(x_0, step, Streams(0, (0,)))
    hit = (x_t == ABC.mask)[0]
    count = L - step
    assert bool((hit.sum(-1) == count).all())
    assert torch.equal(torch.where(hit, x_0[0], x_t[0]), x_0[0])
    subsets = list(itertools.combinations(range(L), count))
    code = (hit.long() * 2 ** torch.arange(L)).sum(-1)
    counts = torch.tensor([int((code == sum(2**i for i in s)).sum()) for s in subsets])
    counts_are(counts, torch.full((len(subsets),), 1 / len(subsets), dtype=torch.float64))


@pytest.mark.parametrize("step", [10, 6, 0])
def test_uniform_corruption_keeps_with_probability_one_minus_t(step):
    t = 1 - step / 10
    x_0 = torch.tensor([0, 1, 2, 1]).expand(1, 20000, L)
    x_t = uniform(steps=10).corrupt(x_0, step, Streams(0, (0,)))
    for i in range(L):
        law = torch.full((V,), t / V, dtype=torch.float64)
        law[int(x_0[0, 0, i])] += 1 - t
        counts_are(torch.bincount(x_t[0, :, i], minlength=V), law)


def test_padding_is_never_touched():
    x_0 = torch.tensor([[2, 1, 0, 0]]).expand(2, 500, L)
    rng = Streams(0, (0, 1))
    for process in (
        masked(steps=4, event_mask=PADDING),
        masked("parallel", steps=4, event_mask=PADDING),
        uniform(steps=4, event_mask=PADDING),
    ):
        for x in (process.prior((2, 500), rng), process.corrupt(x_0, 2, rng)):
            assert bool((x[1, :, 2:] == 0).all())
        assert bool((process.corrupt(x_0, 0, rng)[0] != x_0[0]).any())
    hit = masked(steps=4, event_mask=PADDING).corrupt(x_0, 2, rng) == ABC.mask
    assert bool((hit[0].sum(-1) == 2).all())
    assert bool((hit[1].sum(-1) == 1).all())


@pytest.mark.parametrize("step", [0, 1, 2, 3])
@pytest.mark.parametrize("tied", [False, True])
def test_what_a_space_fixes_stays(step, tied):
    ties = ((2, 4),) if tied else ()
    space = Fixing("__C_", ties)
    x_0 = torch.tensor([0, 1, 2, 1]).expand(1, 6000, L)
    steps = 2 if tied else 3
    process = masked(steps=steps, blocks=ties)
    process.check(steps, space)
    hit = process.corrupt(x_0, min(step, steps), Streams(0, (0,)), space)[0] == ABC.mask
    assert not bool(hit[:, 2].any())
    # as many reveals are left as steps: what a run from the prior has open there
    left = steps - min(step, steps)
    assert bool((process.reveals(torch.where(hit, ABC.mask, x_0[0])) == left).all())
    mean_is(hit[:, 0].double(), left / steps)
    if tied:
        assert torch.equal(hit[:, 1], hit[:, 3])
    parallel = masked("parallel", steps=3, blocks=ties)
    hit = parallel.corrupt(x_0, step, Streams(0, (0,)), space)[0] == ABC.mask
    assert not bool(hit[:, 2].any())
    mean_is(hit[:, [0, 1, 3]].double(), 1 - step / 3)
    moved = uniform().corrupt(x_0, step, Streams(0, (0,)), space)
    assert bool((moved[..., 2] == 2).all())


def test_what_a_process_cannot_do_is_refused_without_a_call():
    def silent(x: Tensor, t: float) -> Tensor:
        raise AssertionError("the network was called")

    space = Fixing("A___", ((2, 4),))
    process = MaskedProcess(silent, ABC, L, 3)
    with pytest.raises(ValueError, match="4 positions are masked but only 3 steps"):
        process.check(3)
    process.check(4)
    process.check(3, None, torch.tensor([[[3, 3, 3, 0]]]))
    with pytest.raises(ValueError, match=r"ties .*no positions.*blocks=space\.blocks"):
        process.check(4, space)
    blocks = replace(process, blocks=space.blocks)
    with pytest.raises(ValueError, match="2 positions are masked but only 1 steps"):
        blocks.check(1, space)
    blocks.check(2, space)
    replace(process, order="parallel").check(1)
    # padding is never revealed
    replace(process, event_mask=PADDING[1:]).check(2)
    UniformProcess(silent, ABC, L, 1).check(1, space)


# posterior ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", [masked(), masked("parallel"), uniform()])
def test_a_relaxed_one_hot_state_is_the_state(process):
    x = process.prior((2, 5), Streams(0, (0, 1)))
    x[:, :3, 1] = 2
    tokens, relaxed = process.posterior(x, 0.5), process.posterior(process.relax(x), 0.5)
    assert torch.allclose(tokens.mean, relaxed.mean, atol=1e-12)
    assert torch.allclose(tokens.log_probs.exp(), relaxed.log_probs.exp(), atol=1e-12)
    assert torch.equal(tokens.mode, relaxed.mode)


@pytest.mark.parametrize(
    "process", [masked(event_mask=PADDING), uniform(event_mask=PADDING)], ids=["masked", "uniform"]
)
def test_a_relaxed_one_hot_state_is_the_state_under_padding(process):
    x = process.prior((2, 5), Streams(0, (0, 1)))
    tokens, relaxed = process.posterior(x, 0.5), process.posterior(process.relax(x), 0.5)
    assert torch.allclose(tokens.mean, relaxed.mean, atol=1e-12)
    assert torch.allclose(tokens.log_probs.exp(), relaxed.log_probs.exp(), atol=1e-12)


def test_the_relaxed_mean_has_a_gradient_and_the_log_probs_none():
    for process in (masked(), uniform()):
        leaf = process.relax(process.prior((1, 2), Streams(0, (0,)))).requires_grad_()
        posterior = process.posterior(leaf, 0.5)
        assert not posterior.log_probs.requires_grad
        (grad,) = torch.autograd.grad((posterior.mean * randn(1, 2, L, V)).sum(), leaf)
        assert float(grad.abs().max()) > 0


def test_known_positions_are_point_masses_and_rows_are_normalized():
    process = masked()
    x = torch.tensor([[[3, 0, 3, 2]]])
    p = process.posterior(x, 1.0)
    assert torch.allclose(p.mean.sum(-1), torch.ones(1, 1, L).double())
    assert p.mean[0, 0, 1].tolist() == [1, 0, 0]
    assert p.mean[0, 0, 3].tolist() == [0, 0, 1]
    assert bool((p.mean[0, 0, [0, 2]] > 0).all())


def test_temperature_divides_the_logits():
    x = masked().prior((1, 1), Streams(0, (0,)))
    cold = masked(temperature=0.5).posterior(x, 1.0).log_probs
    assert torch.allclose(cold, torch.log_softmax(Mixer(V + 1)(x, 1.0) / 0.5, -1))


def test_posterior_draws_follow_the_posterior():
    p = CategoricalPosterior(torch.log_softmax(randn(1, 1, L, V), -1))
    x = p.sample(20000, Streams(0, (0,)))
    assert x.shape == (1, 1, 20000, L)
    for i in range(L):
        counts_are(torch.bincount(x[0, 0, :, i], minlength=V), p.mean[0, 0, i])
    moved = p.map(lambda v: v.repeat_interleave(3, 1))
    assert moved.mean.shape == (1, 3, L, V)


def test_lift_gives_the_mask_the_mean_gradient():
    process = masked()
    p = process.posterior(process.prior((1, 2), Streams(0, (0,))), 1.0)
    g = randn(1, 2, L, V, seed=3)
    score = process.lift(g, p.whole())
    assert torch.equal(score[..., :V], g)
    assert torch.allclose(score[..., V], (p.mean * g).sum(-1))
    # at the open positions alone it is what a letter gains over the mask
    assert torch.allclose(process.lift(g, p), score[..., :V] - score[..., V:])


# open positions -----------------------------------------------------------------------------------


def opened(*patterns: str, seed: int = 0) -> tuple[MaskedProcess, Tensor]:
    """Return a process and states with random letters where a pattern has a dot."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.tensor([[c == "?" for c in p] for p in patterns])[None]
    x = torch.randint(0, V, hidden.shape, generator=generator).masked_fill(hidden, V)
    logits = 3 * randn(*x.shape, V, seed=seed + 1)
    return MaskedProcess(lambda x, t: logits[:, : x.shape[1]], ABC, x.shape[-1], x.shape[-1]), x


def test_open_rows_say_what_rows_for_every_position_say():
    process, x = opened("?.??.", "??.?.", "..???")
    p = process.posterior(x, 1.0)
    assert p.columns is not None
    assert p.columns.shape == (1, 3, 3)
    assert torch.equal(x.gather(-1, p.columns), torch.full((1, 3, 3), V))
    whole, logits = p.whole(), process.network(x, 1.0)
    want = torch.log_softmax(logits, -1)
    known = torch.nn.functional.one_hot(x.clamp(max=V - 1), V).double().log()
    want = torch.where((x == V)[..., None], want, known)
    for law in (p, whole):
        assert torch.allclose(law.log_probs, want)
        assert torch.allclose(law.mean, want.exp())
        assert torch.equal(law.mode, want.argmax(-1))
    assert torch.equal(p.sample(7, Streams(0, (0,))), whole.sample(7, Streams(0, (0,))))
    moved = p.map(lambda v: v.flip(1))
    assert torch.allclose(moved.log_probs, want.flip(1))
    assert torch.allclose(moved.mean, want.exp().flip(1))


@pytest.mark.parametrize(
    "patterns", [("?..", "??."), ("...", "..."), ("???", "..."), ("??.", "...")]
)
def test_rows_for_every_position_where_particles_differ_or_nothing_is_open(patterns):
    process, x = opened(*patterns)
    assert isinstance(process.posterior(x, 1.0), CategoricalPosterior)


def test_one_reveal_is_the_same_law_with_open_rows_and_with_all():
    process, x = opened("?.??.", "??.?.", "..???")
    p = process.posterior(x, 1.0)
    some, every = (process.transition(x, law, 1.0, 0.8) for law in (p, p.whole()))
    g = 2 * randn(1, 3, 5, V + 1, seed=5)
    f = process.lift(g[..., :V], p)
    pairs = [
        (some, every),
        (some.tilt(g), every.tilt(g)),
        (some.tilt(f), every.tilt(p.whole_score(f))),
        (some.tilt(60 * g).tilt(-59 * g), every.tilt(g)),
    ]
    for a, b in pairs:
        x_s, log_q = a.draw(Streams(0, (0,)))
        other, log_p = b.draw(Streams(0, (0,)))
        assert torch.equal(x_s, other)
        assert torch.allclose(log_q, log_p)
        assert torch.allclose(a.log_prob(x_s), log_q)
        assert torch.allclose(b.log_prob(x_s), log_q)
        drawn, shift = a.weigh(some, Streams(0, (0,)))
        assert torch.equal(drawn, x_s)
        assert torch.allclose(shift, every.log_prob(x_s) - log_q)
        # staying, moving a known letter and revealing two are impossible for both
        two = torch.where(x == V, 0, x)
        for wrong in (x, two, x_s.where(x == V, (x + 1) % V)):
            assert bool(torch.isneginf(a.log_prob(wrong)).all())
            assert bool(torch.isneginf(b.log_prob(wrong)).all())


# reverse ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("t", "s"), [(1.0, 2 / 3), (2 / 3, 1 / 3), (1 / 3, 0.0), (1.0, 0.0)])
def test_uniform_transition_is_the_sum_over_x0_of_the_bridge(t, s):
    """p(x_s | x_t) = Σ_{x_0} q(x_s | x_t, x_0) π(x_0 | x_t), position by position, from the forward
    matrices.
    """
    process = uniform()
    x_t = process.prior((1, 6), Streams(1, (0,)))
    posterior = process.posterior(x_t, t)
    p = process.transition(x_t, posterior, t, s)
    assert torch.allclose(p.log_probs.exp().sum(-1), torch.ones(1, 6, L).double(), atol=1e-12)
    keep_t, keep_s = 1 - t, 1 - s
    eye, flat = torch.eye(V).double(), torch.ones(V, V).double() / V
    from_0 = keep_s * eye + (1 - keep_s) * flat  # q(x_s | x_0)
    step = keep_t / keep_s * eye + (1 - keep_t / keep_s) * flat  # q(x_t | x_s)
    whole = keep_t * eye + (1 - keep_t) * flat  # q(x_t | x_0)
    assert torch.allclose(from_0 @ step, whole)
    for k in range(6):
        for i in range(L):
            now, law = int(x_t[0, k, i]), torch.zeros(V).double()
            for x_0 in range(V):
                bridge = from_0[x_0] * step[:, now] / whole[x_0, now]
                assert abs(float(bridge.sum()) - 1) < 1e-12
                law += bridge * posterior.mean[0, k, i, x_0]
            assert torch.allclose(p.log_probs[0, k, i].exp(), law, atol=1e-12)


def test_parallel_kernel_reveals_with_probability_one_minus_s_over_t():
    process, x_t = masked("parallel"), torch.tensor([[[3, 0, 3, 3]]])
    posterior = process.posterior(x_t, 0.75)
    p = process.transition(x_t, posterior, 0.75, 0.25).log_probs.exp()[0, 0]
    for i in (0, 2, 3):
        assert abs(float(p[i, V]) - 1 / 3) < 1e-12
        assert torch.allclose(p[i, :V], posterior.mean[0, 0, i] * 2 / 3)
    assert p[1].tolist() == [1, 0, 0, 0]
    end = process.transition(x_t, posterior, 0.25, 0.0).log_probs.exp()[0, 0]
    assert bool((end[:, V] == 0).all())
    assert torch.allclose(end[2, :V], posterior.mean[0, 0, 2])


def test_random_order_picks_each_masked_position_alike():
    process, x_t = masked(), torch.tensor([[[3, 0, 3, 3]]])
    posterior = process.posterior(x_t, 1.0)
    p = process.transition(x_t, posterior, 1.0, 0.75)
    for i in (0, 2, 3):
        for a in range(V):
            x_s = x_t.clone()
            x_s[0, 0, i] = a
            want = math.log(1 / 3) + float(posterior.log_probs[0, 0, i, a])
            assert abs(float(p.log_prob(x_s)) - want) < 1e-12


def test_imputation_uses_the_mask_of_the_state_itself():
    """After a step, letters just revealed are known to the next posterior; nothing else is."""
    process, x = masked(), masked().prior((2, 8), Streams(0, (0, 1)))
    rng = Streams(0, (0, 1))
    times = process.times.tolist()
    for i in range(1, L + 1):
        law = process.transition(x, process.posterior(x, times[i - 1]), times[i - 1], times[i])
        x = law.sample(rng.at(i))
        known = x != ABC.mask
        assert bool((known.sum(-1) == i).all())
        p = process.posterior(x, times[i])
        hot = F.one_hot(x.clamp(max=V - 1), V).double()
        assert torch.equal(p.mean[known], hot[known])
        assert bool((p.mean[~known] < 1).all())


def test_what_a_network_says_of_known_positions_does_not_matter():
    # attention over padding alone gives NaN; no known letter asks for it
    process = masked()
    x = torch.tensor([[[3, 0, 3, 2], [1, 3, 0, 0]]])

    def broken(x: torch.Tensor, t: float) -> torch.Tensor:
        said = process.network(x, t)
        return torch.where((x == ABC.mask)[..., None], said, torch.nan)

    whole, other = process.posterior(x, 0.5), replace(process, network=broken).posterior(x, 0.5)
    assert torch.equal(whole.log_probs, other.log_probs)
    assert torch.equal(whole.mean, other.mean)


def test_islands_of_different_length_finish_and_stay():
    process, rng = masked(event_mask=PADDING), Streams(0, (0, 1))
    x = process.prior((2, 6), rng)
    times = process.times.tolist()
    for i in range(1, L + 1):
        law = process.transition(x, process.posterior(x, times[i - 1]), times[i - 1], times[i])
        y = law.sample(rng.at(i))
        if i > 2:
            assert torch.equal(y[1], x[1])
            assert bool((law.log_prob(y)[1] == 0).all())
        x = y
    designs = process.decode(x)
    assert {len(s) for s in designs.sequences[0]} == {4}
    assert {len(s) for s in designs.sequences[1]} == {2}
    alone = process.take([1])
    assert torch.equal(alone.event_mask, PADDING[1:])


def test_uniform_padding_takes_identity_steps():
    process, rng = uniform(event_mask=PADDING), Streams(0, (0, 1))
    x = process.prior((2, 6), rng)
    law = process.transition(x, process.posterior(x, 1.0), 1.0, 2 / 3)
    assert isinstance(law, Categorical)
    assert bool((law.sample(rng)[1, :, 2:] == 0).all())
    assert bool((law.log_probs[1, :, 2:, 0] == 0).all())


# blocks and bias ----------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["random", "parallel"])
def test_a_block_is_revealed_as_a_whole_and_tilts_as_one(order):
    """The kernel is what its definition says, and its tilt is brute-force reweighting."""
    process = masked(order, blocks=((1, 3),))
    every = torch.tensor(list(itertools.product(range(V + 1), repeat=L)))
    for state in ([3, 3, 3, 3], [3, 0, 3, 2], [1, 3, 2, 3], [1, 0, 2, 2]):
        x_t = torch.tensor([[state]])
        posterior = process.posterior(x_t, 0.75)
        p = process.transition(x_t, posterior, 0.75, 0.5)
        open_ = [g for g in ([0, 2], [1], [3]) if state[g[0]] == V]
        g = randn(1, 1, L, V + 1, seed=5)
        base = torch.stack([p.log_prob(x[None, None])[0, 0] for x in every]).exp()
        tilted = torch.stack([p.tilt(g).log_prob(x[None, None])[0, 0] for x in every]).exp()
        want = torch.zeros(len(every)).double()
        for n, x in enumerate(every.tolist()):
            shown = [group for group in open_ if all(x[i] < V for i in group)]
            hidden = [group for group in open_ if all(x[i] == V for i in group)]
            still = all(x[i] == state[i] for i in range(L) if state[i] < V)
            if not still or len(shown) + len(hidden) < len(open_):
                continue
            if order == "random":
                want[n] = (1 / len(open_) if len(shown) == 1 else 0.0) if open_ else 1.0
            else:
                want[n] = (1 / 3) ** len(shown) * (2 / 3) ** len(hidden)
            for i in (i for group in shown for i in group):
                want[n] *= float(posterior.mean[0, 0, i, x[i]])
        assert torch.allclose(base, want, atol=1e-12)
        gain = torch.stack([g[0, 0, torch.arange(L), x].sum() for x in every])
        brute = want * gain.exp()
        assert torch.allclose(tilted, brute / brute.sum(), atol=1e-12)


@pytest.mark.parametrize("order", ["random", "parallel"])
def test_block_draws_follow_their_log_prob(order):
    process, n = masked(order, blocks=((1, 3),)), 20000
    x_t = process.prior((1, n), Streams(0, (0,)))
    p = process.transition(x_t, process.posterior(x_t, 0.75), 0.75, 0.5)
    x = p.sample(Streams(1, (0,)))
    every = torch.tensor(list(itertools.product(range(V + 1), repeat=L)))
    one = process.transition(x_t[:, :1], process.posterior(x_t[:, :1], 0.75), 0.75, 0.5)
    law = torch.stack([one.log_prob(y[None, None])[0, 0] for y in every]).exp()
    place = (V + 1) ** torch.arange(L).flip(0)
    counts_are(torch.bincount((x[0] * place).sum(-1), minlength=len(every)), law)
    assert torch.equal(process.reveals(x_t), torch.full((1, n), 3))


@pytest.mark.parametrize("order", ["random", "parallel"])
def test_corruption_masks_whole_blocks(order):
    process = masked(order, steps=3, blocks=((1, 3),))
    x_0 = torch.tensor([0, 1, 2, 1]).expand(1, 3000, L)
    hit = process.corrupt(x_0, 2, Streams(0, (0,)))[0] == ABC.mask
    assert torch.equal(hit[:, 0], hit[:, 2])
    mean_is(hit[:, 0].double(), 1 / 3)
    mean_is(hit[:, 3].double(), 1 / 3)


def test_bias_is_added_before_the_temperature_divides():
    x, bias = masked().prior((1, 1), Streams(0, (0,))), randn(L, V, seed=9)
    p = masked(temperature=0.5, bias=bias).posterior(x, 1.0).log_probs
    assert torch.allclose(p, torch.log_softmax((Mixer(V + 1)(x, 1.0) + bias) / 0.5, -1))


def test_decode_refuses_masks_and_prints_letters():
    x = torch.tensor([[[0, 1, 2, 0]]])
    assert masked().decode(x).sequences == [["ABCA"]]
    x[0, 0, 2] = ABC.mask
    with pytest.raises(ValueError, match="1 positions are still masked"):
        masked().decode(x)


def test_designs_select_and_refuse():
    designs = Designs(torch.tensor([[[0, 1], [1, 1]], [[2, 2], [0, 0]]]), ABC, PADDING[:, :2])
    assert designs.shape == (2, 2)
    assert designs[1:, :1].sequences == [["CC"]]
    assert Designs.of(["AB", "CA"], ABC).sequences == [["AB", "CA"]]
    with pytest.raises(TypeError, match="no letters"):
        _ = Designs(torch.zeros(1, 1, 3)).sequences


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"steps": 0}, "steps must be >= 1"),
        ({"order": "left"}, "'random' or 'parallel'"),
        ({"temperature": 0.0}, "temperature must be > 0"),
        ({"bias": torch.zeros(V, L)}, "one number per position and letter"),
        ({"numbering": Numbering.plain(L + 1)}, "names 5 positions"),
        ({"blocks": ((1, 2), (2, 3))}, "disjoint groups"),
        ({"blocks": ((1, 5),)}, "disjoint groups of positions 1-4"),
        ({"blocks": ((1, 2),), "event_mask": PADDING}, "cannot be combined"),
    ],
)
def test_bad_hyper_parameters_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        MaskedProcess(**({"network": Mixer(V + 1), "alphabet": ABC, "length": L, "steps": L} | bad))
