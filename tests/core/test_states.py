"""Several states, one sequence: the product of two laws is sampled exactly, whatever the method."""

from dataclasses import replace

import exact
import numpy as np
import pytest
import torch

from seqalign.core.causal import Causal, along
from seqalign.core.objective import Reward, evaluate
from seqalign.core.process import Designs
from seqalign.core.selection import Resample
from seqalign.core.states import OVER, InState, OverStates, Placed, alone, product
from seqalign.core.streams import Streams
from seqalign.core.unguided import able
from seqalign.methods.best_of_n import BestOfN
from seqalign.methods.das import DAS
from seqalign.methods.nested_is import NestedIS
from seqalign.methods.smc import PlainSMC
from seqalign.methods.tds import TDS

WEIGHTS = (1.0, 0.5)
ALWAYS = Resample("ssp", 1.0)
METHODS = {
    "best_of_n": BestOfN(),
    "smc": PlainSMC(resample=ALWAYS),
    "tds": TDS(resample=ALWAYS),
    "das": DAS(),
    "nested_is": NestedIS(branch=2, resample=ALWAYS),
}
SPACES = {
    "free": None,
    "fixed": exact.space(fixed="_B_"),
    "budget": exact.space(wild_type="CAB", budget=1),
}


def multiplied(tables, weights):
    """The table of the normalized product of posteriors, Π softmax(logits)^w / Z, row by row."""
    p = np.ones(tables[0].logits.shape)
    for table, weight in zip(tables, weights, strict=True):
        p = p * torch.softmax(table.logits, -1).numpy() ** weight
    return replace(tables[0], logits=torch.tensor(np.log(p / p.sum(-1, keepdims=True))))


@pytest.mark.parametrize("kind", ["table", "remembering"])
def test_a_state_alone_says_what_its_own_process_says(kind):
    both, _ = two(kind)
    joint = product(both, WEIGHTS)
    x = torch.tensor([[0, 1, 2], [2, 2, 0]])
    for k, one in enumerate(both):
        own = alone(joint, k)
        assert torch.allclose(own.network(x, 0.5), one.network(x, 0.5))
        if kind == "remembering":
            order = torch.tensor([2, 0, 1])
            assert torch.allclose(along(own, x, order), along(one, x, order))


def two(kind, space=None, weights=WEIGHTS):
    """Two processes and the enumerated problem of their product."""
    if kind == "remembering":
        one = exact.remembering(space=space)
        rng = np.random.default_rng(21)
        logits = torch.tensor(0.9 * rng.normal(size=one.process.network.logits.shape))
        other = replace(one.process, network=replace(one.process.network, logits=logits))
    else:
        one = exact.masked("random", space=space)
        other = replace(one.process, network=exact.any_order_table(3, 3, 31, 0.5))
    both = [one.process, other]
    table = multiplied([p.network for p in both], weights)
    start = [3, 3, 3] if space is None else space.alphabet.encode([space.fixed])[0].tolist()
    law = exact.path_law(table, start) if kind == "remembering" else None
    law = exact.masked_law(table, 3, "random", start) if law is None else law
    return both, exact.enumerated(product(both, weights), one.reward, 1.0, law, space)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["table", "remembering"])
def test_two_states_are_exact(kind, method, space):
    _, p = two(kind, SPACES[space])
    assert isinstance(p.process.network, Causal) == (kind == "remembering")
    # neither state's law, nor the other weights', would pass
    for weights in ((1.0, 1e-9), (1e-9, 1.0), (1.0, 1.0)):
        _, other = two(kind, SPACES[space], weights)
        assert abs(p.target - other.target).sum() > 0.05
    exact.assert_exact(p.run(METHODS[method], (20_000, 2), 51), p)


@pytest.mark.parametrize("kind", ["table", "remembering"])
def test_one_state_twice_is_that_state_and_their_order_is_nothing(kind):
    (a, b), p = two(kind)
    x = torch.tensor([[[3, 3, 3], [3, 1, 3], [0, 3, 2]]])
    alone = a.posterior(x, 0.5).log_probs
    assert torch.allclose(product([a, a]).posterior(x, 0.5).log_probs, alone, atol=1e-12)
    there, back = product([a, b], WEIGHTS), product([b, a], WEIGHTS[::-1])
    assert torch.allclose(
        there.posterior(x, 0.5).log_probs, back.posterior(x, 0.5).log_probs, atol=1e-12
    )
    for method in (BestOfN(), TDS()):
        one, two_ = (method(q, p.reward, (20, 4), rng=Streams(4, range(20))) for q in (there, back))
        assert torch.equal(one.designs.x, two_.designs.x)
        assert torch.allclose(one.log_w, two_.log_w, atol=1e-9)


@pytest.mark.parametrize("space", ["free", "fixed"])
def test_a_position_a_step_draws_what_the_loop_draws(space):
    _, p = two("remembering", SPACES[space])
    assert able(p.process, p.space)
    quick = BestOfN()(p.process, p.reward, (3, 40), rng=Streams(2, range(3)), space=p.space)
    loop = BestOfN().loop(p.process, p.reward, p.space)
    slow, _ = loop.run((3, 40), Streams(2, range(3)))
    assert torch.equal(quick.designs.x, slow.x)
    assert torch.allclose(quick.log_w, slow.log_w, atol=1e-12)


@pytest.mark.parametrize("states", [2, 3])
def test_one_pass_gives_the_likelihood_step_by_step(states):
    (a, b), _ = two("remembering")
    process = product([a, b, a][:states], [1.0, 0.5, 0.3][:states])
    x, order = torch.tensor(exact.grid(3, 3)), torch.tensor([2, 0, 1])
    state, want = torch.full_like(x, 3), torch.zeros(len(x), dtype=torch.float64)
    posterior = process.posterior(state[None], 1.0)
    for i in order.tolist():
        want += posterior.log_probs[0, :, i].gather(-1, x[:, i : i + 1])[:, 0]
        state = state.clone()
        state[:, i] = x[:, i]
        posterior = process.posterior(state[None], 0.5, posterior)
    found = along(process, x, order)
    assert torch.allclose(found, want, atol=1e-12)
    assert abs(float(found.exp().sum()) - 1) < 1e-9


def test_a_state_with_letters_of_its_own_and_its_positions_elsewhere():
    """The second state has five positions, of which two are the first's; its own two never change.

    The first's middle position is not in it, and is fixed.
    """
    rng = np.random.default_rng(3)
    wide = exact.any_order_table(3, 5, 6, 0.5)
    process = exact.masked("random").process
    other = replace(process, network=wide, length=5, steps=5)
    placed = [
        Placed(torch.arange(3), torch.zeros(3, dtype=torch.int64)),
        Placed(torch.tensor([4, -1, 0]), torch.tensor([0, 2, 1, 0, 1])),
    ]
    both = product([process, other], (1.0, 0.5), placed)
    start = torch.tensor([[[3, 1, 3], [2, 1, 3], [3, 1, 0]]])
    logits = both.network(start, 1.0)
    for row, x in zip(logits[0], start[0].tolist(), strict=True):
        theirs = wide(torch.tensor([[[x[2], 2, 1, 0, x[0]]]]), 1.0)[0, 0]
        own = process.network(torch.tensor([[x]]), 1.0)[0, 0]
        assert torch.allclose(row[0], own[0] + 0.5 * theirs[4], atol=1e-12)
        assert torch.allclose(row[2], own[2] + 0.5 * theirs[0], atol=1e-12)
    relaxed = both.relax(start)
    assert torch.allclose(both.network(relaxed, 1.0), logits, atol=1e-9)
    # a reward there is told the same letters
    seen = []

    class Tells(Reward):
        differentiable = True

        def __call__(self, designs):
            seen.append(designs.x)
            return designs.x.double().sum(-1)

        def relaxed(self, x):
            seen.append(x.argmax(-1))
            return x.sum((-1, -2))

    full = torch.from_numpy(rng.integers(0, 3, (2, 4, 3)))
    inside = InState(Tells(), placed[1])
    evaluate(inside, Designs(full, process.alphabet))
    inside.relaxed(torch.nn.functional.one_hot(full, 3).double())
    for x in seen:
        assert torch.equal(x[..., [4, 0]], full[..., [0, 2]])
        assert bool((x[..., 1:4] == torch.tensor([2, 1, 0])).all())


def test_states_that_remember_have_positions_elsewhere_too():
    """The chain of a reveal a step, the loop and one pass agree where positions are permuted."""
    (a, b), p = two("remembering")
    turned = Placed(torch.tensor([2, 0, 1]), torch.zeros(3, dtype=torch.int64))
    here = Placed(torch.arange(3), torch.zeros(3, dtype=torch.int64))
    process = product([a, b], WEIGHTS, [here, turned])
    quick = BestOfN()(process, p.reward, (3, 40), rng=Streams(2, range(3)))
    slow, _ = BestOfN().loop(process, p.reward).run((3, 40), Streams(2, range(3)))
    assert torch.equal(quick.designs.x, slow.x)
    order = torch.tensor([1, 2, 0])
    x = torch.tensor(exact.grid(3, 3))
    logits = [
        torch.cat([found for _, found in q.network.follow(letters, way)])
        for q, letters, way in ((a, x, order), (b, x[:, [1, 2, 0]], turned.at[order]))
    ]
    log_p = torch.log_softmax(logits[0] + 0.5 * logits[1], -1)
    want = log_p.gather(-1, x[:, order, None])[..., 0].sum(-1)
    assert torch.allclose(along(process, x, order), want, atol=1e-12)
    alone = product([a, b], WEIGHTS)
    assert float((along(alone, x, order) - want).abs().max()) > 0.05


@pytest.mark.parametrize("over", OVER)
def test_what_becomes_of_the_values_of_states(over):
    x = torch.tensor(exact.grid(3, 3))[None]
    some = [exact.PairReward(3, 3, seed) for seed in (1, 2, 3)]
    values = torch.stack([r(Designs(x, exact.ABC)) for r in some])
    first, second, third = values
    want = {
        "mean": values.mean(0),
        "sum": first + second + third,
        "min": values.min(0).values,
        "difference": first - torch.maximum(second, third),
    }[over]
    reward = OverStates(tuple(some), over)
    assert torch.allclose(reward(Designs(x, exact.ABC)), want)
    hot = torch.nn.functional.one_hot(x, 3).double().requires_grad_()
    assert torch.allclose(reward.relaxed(hot), want)
    (gradient,) = torch.autograd.grad(reward.relaxed(hot).sum(), hot)
    step = torch.zeros_like(hot)
    step[..., 1, 2] = 1e-6
    up, down = reward.relaxed(hot.detach() + step), reward.relaxed(hot.detach() - step)
    assert torch.allclose(gradient[..., 1, 2], (up - down) / 2e-6, atol=1e-5)
    # rejected in one state is rejected, also where it is subtracted
    rejects = exact.Rejecting(some[1], letter=1)
    lost = torch.isneginf(rejects(Designs(x, exact.ABC)))
    assert bool(lost.any())
    for order in ((some[0], rejects), (rejects, some[0])):
        found = OverStates(order, over)(Designs(x, exact.ABC))
        assert torch.equal(torch.isneginf(found), lost)
        assert bool(torch.isfinite(found[~lost]).all())


def test_what_does_not_go_together_is_refused():
    p, r = exact.masked("random").process, exact.remembering().process
    for processes, weights, said in (
        ([p], None, "two states or more"),
        ([p, p], [1.0], "one for each"),
        ([p, p], [1.0, 0.0], "number > 0"),
        ([p, p], [1.0, float("nan")], "number > 0"),
        ([p, replace(p, temperature=0.5)], None, "has temperature 0.5"),
        ([p, r], None, "one kind"),
        ([p, exact.masked("parallel").process], None, "has order 'parallel'"),
        ([p, exact.uniform().process], None, "is a UniformProcess"),
        ([p, replace(p, length=2)], None, "has 2 positions"),
    ):
        with pytest.raises(ValueError, match=said):
            product(processes, weights)
    with pytest.raises(ValueError, match="mean, sum, min, difference"):
        OverStates((exact.PairReward(3, 3, 1),), "max")
