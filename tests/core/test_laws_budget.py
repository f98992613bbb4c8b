"""Law 6, the budget: calls reported = calls made.

A call is one particle seen by the network, or one design (relaxed or not) scored by the reward; a
backward pass through the network counts as two more calls. Caching changes what is asked, never
what is answered.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import exact
import pytest
import torch
from torch import Tensor

from seqalign.core.budget import Budget, OverBudget
from seqalign.core.objective import Reward
from seqalign.core.process import Designs
from seqalign.core.proposal import Tilted
from seqalign.core.smc import SMC
from seqalign.core.streams import Streams
from seqalign.core.value import PosteriorMode, PosteriorSample, Rollout
from seqalign.core.wrappers import Cached, Chunked, Counted
from seqalign.methods.beam import Beam
from seqalign.methods.best_of_n import BestOfN
from seqalign.methods.bias import Bias
from seqalign.methods.causal_smc import CausalSMC
from seqalign.methods.das import DAS
from seqalign.methods.fk_steering import FKSteering
from seqalign.methods.guidance import Guidance
from seqalign.methods.nested_is import NestedIS
from seqalign.methods.smc import PlainSMC
from seqalign.methods.svdd import SVDD
from seqalign.methods.tds import TDS

METHODS = {
    "best_of_n": BestOfN(),
    "smc": PlainSMC(),
    "smc-mode": PlainSMC(value=PosteriorMode()),
    "smc-sample": PlainSMC(value=PosteriorSample(3)),
    "smc-rollout": PlainSMC(value=Rollout(2)),
    "tds": TDS(),
    "tds-network": TDS(tilt=Tilted("network")),
    "das": DAS(),
    "das-mode": DAS(value=PosteriorMode()),
    "fk_steering": FKSteering(),
    "nested_is": NestedIS(branch=3),
    "nested_is-tilted": NestedIS(branch=3, proposal=Tilted()),
    "svdd": SVDD(branch=3),
    "beam": Beam(branch=3),
    "guidance": Guidance(),
}


# a position of each particle a step, and the state that all start from
REVEALING = {"causal_smc": CausalSMC(), "bias": Bias()}


class Backward(torch.autograd.Function):
    """The identity, counting two calls per particle when a gradient comes back through the
    network.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, network: Network) -> Tensor:
        ctx.network, ctx.size = network, x.shape[0] * x.shape[1]
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        ctx.network.calls += 2 * ctx.size
        return g, None


class Network:
    """Count from inside the network."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.calls = inner, 0

    def __call__(self, x: Tensor, t: float) -> Tensor:
        self.calls += x.shape[0] * x.shape[1]
        return self.inner(Backward.apply(x, self) if x.requires_grad else x, t)


class Remembering(Network):
    """The same of a network that remembers: a state that it goes on from is one call."""

    def advance(self, x: Tensor, before: Any) -> Any:
        self.calls += x.shape[0] * x.shape[1]
        return self.inner.advance(x, before)

    def ask(self, before: Any, at: Tensor) -> Any:
        self.calls += at.numel()
        return self.inner.ask(before, at)

    def tell(self, x: Tensor, before: Any, at: Tensor, made: Any) -> Any:
        return self.inner.tell(x, before, at, made)

    def decode(self, x: Tensor, place: Any, choose: Any) -> Any:
        def counting(i: int, x: Tensor) -> Tensor:
            self.calls += len(x)
            return place(i, x)

        return self.inner.decode(x, counting, choose)

    def follow(self, x: Tensor, order: Tensor) -> Any:
        self.calls += len(x)
        return self.inner.follow(x, order)


class Tally(Reward):
    """Count from inside the reward."""

    def __init__(self, inner: Reward) -> None:
        self.inner, self.calls = inner, 0
        self.name, self.differentiable = inner.name, inner.differentiable

    def __call__(self, designs: Designs) -> Tensor:
        self.calls += designs.x.shape[0] * designs.x.shape[1]
        return self.inner(designs)

    def relaxed(self, x: Tensor) -> Tensor:
        self.calls += x.shape[0] * x.shape[1]
        return self.inner.relaxed(x)


def counted(p: exact.Problem) -> tuple[Any, Network, Tally]:
    """Put the counters inside."""
    slot = "network" if p.process.discrete else "denoiser"
    kind = Remembering if getattr(p.process, "remembers", False) else Network
    network = kind(getattr(p.process, slot))
    return replace(p.process, **{slot: network}), network, Tally(p.reward)


def reads_letters(p: exact.Problem, method: str) -> None:
    """Skip a gradient through a network that has none."""
    if method.endswith("network") and not getattr(p.process, "differentiable", True):
        pytest.skip("the network reads letters, no relaxed states")


PROBLEMS = {
    **exact.PROBLEMS,
    "masked-skip": lambda: exact.masked("parallel", steps=7),
    "masked-space": lambda: exact.masked(
        "random", space=exact.space(fixed="A__", wild_type="ABC", budget=1)
    ),
    "uniform-space": lambda: exact.uniform(space=exact.space(wild_type="ABC", budget=1)),
}


@pytest.mark.parametrize("chunk", [None, 4])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_calls_reported_are_calls_made(problem, method, chunk):
    p = exact.replaced(PROBLEMS[problem](), chunk=chunk)
    reads_letters(p, method)
    process, network, reward = counted(p)
    steps, made = [], []

    def observe(step: Any, _: Any) -> None:
        steps.append(step)
        made.append((network.calls, reward.calls))

    samples = METHODS[method](
        process, reward, (2, 6), rng=Streams(0, range(2)), space=p.space, observe=observe
    )
    assert samples.network_calls == network.calls
    assert samples.reward_calls == reward.calls
    # step by step, not only in total
    for n, step in enumerate(steps):
        before = made[n - 1] if n else (0, 0)
        assert (step.network_calls, step.reward_calls) == (
            made[n][0] - before[0],
            made[n][1] - before[1],
        ), n


@pytest.mark.parametrize("chunk", [None, 4])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("problem", ["masked-space", "uniform", "gaussian-vp"])
def test_a_budget_is_kept_before_it_is_exceeded(problem, method, chunk):
    p = exact.replaced(PROBLEMS[problem](), chunk=chunk)
    more = {"rng": Streams(0, range(2)), "space": p.space}
    free = METHODS[method](p.process, p.reward, (2, 6), **more)
    spent = Budget(free.network_calls, free.reward_calls)
    enough = METHODS[method](p.process, p.reward, (2, 6), budget=spent, **more)
    assert torch.equal(free.log_w, enough.log_w)
    for what in ("network", "reward"):
        most = getattr(spent, what) - 1
        process, network, reward = counted(p)
        with pytest.raises(OverBudget, match=rf"budget of {most} {what} calls.*Allow more"):
            METHODS[method](process, reward, (2, 6), budget=replace(spent, **{what: most}), **more)
        assert network.calls <= spent.network - (what == "network")
        assert reward.calls <= spent.reward - (what == "reward")


@pytest.mark.parametrize("method", REVEALING)
@pytest.mark.parametrize(
    "problem", ["masked-random", "masked-remembering", "masked-space", "remembering-run"]
)
def test_one_position_a_step_is_counted(problem, method):
    run = exact.constrained(length=3, max_homopolymer=1)
    p = exact.remembering(space=run) if problem == "remembering-run" else PROBLEMS[problem]()
    process, network, reward = counted(p)
    made: list[tuple[int, int]] = []
    samples = REVEALING[method](
        process,
        reward,
        (2, 6),
        rng=Streams(0, range(2)),
        space=p.space,
        observe=lambda step, _: made.append((network.calls, reward.calls)),
    )
    assert samples.network_calls == network.calls
    assert samples.reward_calls == reward.calls
    open_ = 3 if p.space is None else p.space.free
    assert network.calls == 1 + 2 * 6 * open_
    assert [(s.network_calls, s.reward_calls) for s in samples.trace] == [
        (now[0] - then[0], now[1] - then[1])
        for then, now in zip([(0, 0), *made], made, strict=False)
    ]
    spent = Budget(samples.network_calls, samples.reward_calls)
    more = {"rng": Streams(0, range(2)), "space": p.space}
    enough = REVEALING[method](p.process, p.reward, (2, 6), budget=spent, **more)
    assert torch.equal(enough.x, samples.x)
    less = replace(spent, network=spent.network - 1)
    with pytest.raises(OverBudget):
        REVEALING[method](p.process, p.reward, (2, 6), budget=less, **more)


def test_a_budget_ends_with_its_run():
    p = exact.masked("random")
    loop = SMC(p.process, p.reward, 1.0)
    for seed in range(3):
        # the meter goes on, every run has the whole budget
        _, trace = loop.run((1, 4), Streams(seed, [0]), budget=Budget(12, 16))
        assert sum(s.network_calls for s in trace) == 12
    with pytest.raises(OverBudget, match="0 were made, and the next call needs 4"):
        loop.run((1, 4), Streams(0, [0]), budget=Budget(network=3))
    loop.run((1, 4), Streams(0, [0]))
    assert loop.meter.calls == (4 * 12, 4 * 16)


@pytest.mark.parametrize(
    ("method", "factor", "last"),
    [("best_of_n", 1, 1), ("smc", 1, 1), ("tds", 1, 1), ("tds-network", 3, 1), ("guidance", 1, 1)],
)
def test_one_call_per_particle_and_step(method, factor, last):
    # K particles, T steps: the forward that weighs x_s is the one that proposes the next step, and
    # x_0 needs none
    p = exact.masked("random")
    process, network, _ = counted(p)
    METHODS[method](process, p.reward, (2, 6), rng=Streams(0, range(2)))
    assert network.calls == factor * 2 * 6 * 3


def test_branches_cost_their_children():
    p = exact.masked("random")
    process, network, _ = counted(p)
    NestedIS(branch=3)(process, p.reward, (2, 6), rng=Streams(0, range(2)))
    assert network.calls == 2 * 6 * (1 + 3 * 2)


def test_unchanged_particles_cost_nothing():
    p = exact.masked("parallel", steps=40)
    process, network, _ = counted(p)
    PlainSMC()(process, p.reward, (1, 8), rng=Streams(0, [0]))
    # three letters change at most three times
    assert network.calls <= 8 * 4
    process, network, _ = counted(exact.replaced(p, takes_time=True))
    PlainSMC()(process, p.reward, (1, 8), rng=Streams(0, [0]))
    assert network.calls == 8 * 40


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_wrappers_change_no_sample(problem, method):
    p = PROBLEMS[problem]()
    reads_letters(p, method)
    run, rng = METHODS[method], Streams(3, range(3))
    plain = run(p.process, p.reward, (3, 8), rng=rng, space=p.space)
    asked = Tally(p.reward)
    for reward in (Cached(asked), Counted(p.reward), Chunked(p.reward, 3)):
        other = run(p.process, reward, (3, 8), rng=rng, space=p.space)
        # a wrapper calls in other shapes: letters are the same, numbers to rounding
        for a, b in ((plain.designs.x, other.designs.x), (plain.log_w, other.log_w)):
            assert torch.allclose(a.double(), b.double(), rtol=1e-11, atol=1e-11)
        assert plain.reward_calls == other.reward_calls
    if p.process.discrete and method in ("smc-mode", "smc-sample"):
        assert asked.calls <= 27 < plain.reward_calls, "27 designs exist, each is scored once"
