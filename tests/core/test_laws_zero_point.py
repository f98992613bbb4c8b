"""The zero point of a reward: a constant added to it changes no design and shifts log Z by
constant/alpha, also where intermediate values fail; and what fails leaves the target exact.
"""

from __future__ import annotations

import math
from dataclasses import replace

import exact
import pytest
import torch

from seqalign.core.look import filled
from seqalign.core.objective import Reward
from seqalign.core.potential import Max, Sum
from seqalign.core.process import Designs
from seqalign.core.proposal import Tilted
from seqalign.core.selection import Resample
from seqalign.core.smc import SMC
from seqalign.core.streams import Streams
from seqalign.core.tempering import Adaptive, Constant, Linear
from seqalign.core.value import PosteriorMode
from seqalign.methods.beam import Beam
from seqalign.methods.best_of_n import BestOfN
from seqalign.methods.das import DAS
from seqalign.methods.fk_steering import FKSteering
from seqalign.methods.guidance import Guidance
from seqalign.methods.nested_is import NestedIS
from seqalign.methods.smc import PlainSMC
from seqalign.methods.svdd import SVDD
from seqalign.methods.tds import TDS

ALWAYS = Resample("ssp", 1.0)
METHODS = {
    "best_of_n": BestOfN(),
    "smc": PlainSMC(resample=Resample("ssp", 0.6)),
    "smc-mode": PlainSMC(value=PosteriorMode(), resample=ALWAYS),
    "tds": TDS(resample=Resample("systematic", 0.6)),
    "das": DAS(tempering=Adaptive(0.8), resample=Resample("ssp", 0.9)),
    "fk-max": FKSteering(potential=Max(), tempering=Linear(), proposal=Tilted(), resample=ALWAYS),
    "fk-sum": FKSteering(potential=Sum(), tempering=Constant(0.1), resample=ALWAYS),
    "nested_is": NestedIS(branch=2, resample=ALWAYS),
    "nested_is-tilted": NestedIS(branch=2, proposal=Tilted(), tempering=Constant(0.7)),
    "svdd": SVDD(branch=3),
    "greedy": SVDD(alpha=0.0, branch=3),
    "beam": Beam(branch=3),
    "guidance": Guidance(),
}
CONSISTENT = [name for name, method in METHODS.items() if method.consistent]


class Offset(Reward):
    """A reward with a constant; it fails for some states, rejects some designs.

    Attributes:
        failing: how large a part of the relaxed designs fails, roughly: any function of the state.
    """

    name = "offset"
    differentiable = True

    def __init__(self, length: int, constant: float, failing: float) -> None:
        self.inner = exact.PairReward(length, 3, 11, 0.6)
        self.constant, self.failing = constant, failing

    def relaxed(self, x: torch.Tensor) -> torch.Tensor:
        r = self.inner.relaxed(x) + self.constant
        odd = torch.arange(1.0, 1.0 + x[0, 0].numel()).view(x[0, 0].shape)
        number = 37.77 * (x.detach() * odd).sum((-1, -2))
        return torch.where(torch.frac(number) < self.failing, torch.nan, r)

    def __call__(self, designs: Designs) -> torch.Tensor:
        r = self.inner(designs) + self.constant
        return torch.where(designs.x[..., 0] == 1, -torch.inf, r)


PROBLEMS = {
    "random": lambda r: exact.masked("random", length=4, steps=4, reward=r),
    # most particles stay as they are at a step: what is remembered of them counts
    "parallel": lambda r: exact.masked("parallel", steps=6, bias=0.3, reward=r),
    "uniform": lambda r: exact.uniform(reward=r),
}


def problem(kind: str, constant: float, failing: float) -> exact.Problem:
    return PROBLEMS[kind](Offset(4 if kind == "random" else 3, constant, failing))


@pytest.mark.parametrize("failing", [0.0, 0.4, 0.9])
@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize("method", METHODS)
def test_a_constant_changes_no_design_and_shifts_log_z(method, kind, failing):
    chosen, shape = METHODS[method], (150, 4)
    here = problem(kind, 0.0, failing).run(chosen, shape, 3)
    for constant in (-300.0, -50.0, -5.0, 5.0, 50.0):
        there = problem(kind, constant, failing).run(chosen, shape, 3)
        same = (here.designs.x == there.designs.x).flatten(1).all(-1)
        # a rounded weight may tip one decision in a while, and decides between equals where the
        # best is taken
        least = 0.75 if method in ("greedy", "beam") else 0.99
        assert float(same.double().mean()) >= least, constant
        if here.log_z is not None:
            shift = (there.log_z - here.log_z)[same & torch.isfinite(here.log_z)]
            assert torch.allclose(shift, torch.full_like(shift, constant), atol=1e-8), constant


@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize("method", CONSISTENT)
def test_what_fails_leaves_the_target_exact(method, kind):
    p = problem(kind, -50.0, 0.5)
    exact.assert_exact(p.run(METHODS[method], (14_000, 2), 7), p, error=0.015)


def test_alpha_divides_the_constant():
    p = problem("random", 0.0, 0.4)
    runs = []
    for constant in (0.0, 30.0):
        reward = Offset(4, constant, 0.4)
        runs.append(PlainSMC(alpha=0.5)(p.process, reward, (50, 8), rng=Streams(1, range(50))))
    alive = torch.isfinite(runs[0].log_z)
    shift = (runs[1].log_z - runs[0].log_z)[alive]
    assert torch.allclose(shift, torch.full_like(shift, 60.0), atol=1e-8)


def test_a_failed_value_follows_its_island():
    nan = torch.nan
    value = torch.tensor([[5.0, nan, 9.0, nan], [nan, nan, nan, nan], [2.0, nan, -math.inf, 50.0]])
    before = torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0], [nan, nan, nan, nan]])
    alive = torch.tensor([[True] * 4, [True] * 4, [True, True, True, False]])
    want = torch.tensor([[5.0, 7.0, 9.0, 9.0], [1.0, 2.0, 3.0, 4.0], [2.0, 2.0, 2.0, 50.0]])
    assert torch.equal(filled(value, before, alive), want)
    nothing = filled(value[1:2], torch.full((1, 4), nan), alive[:1])
    assert bool(torch.isnan(nothing).all())


def test_an_island_that_knows_nothing_keeps_its_weights_even():
    p = problem("random", 7.0, 2.0)
    loop = SMC(p.process, p.reward, 1.0, tempering=Linear())
    state, _ = loop.run((20, 4), Streams(0, range(20)), stop=3)
    assert bool((state.log_w == 0).all())
    assert bool((state.log_twist == 0).all())
    assert bool(torch.isnan(state.value).all())


def test_the_spread_does_not_grow_with_the_constant():
    """The case that was met: failures at some states, offsets far from zero, many particles."""
    spread = []
    for constant in (0.0, -300.0):
        p = problem("random", constant, 0.4)
        s = p.run(TDS(resample=Resample("ssp", 0.5)), (1000, 16), 7)
        ratio = torch.exp(s.log_z - p.log_z)
        assert abs(float(ratio.mean()) - 1) <= exact.FALSE_ALARM * float(ratio.std()) / 1000**0.5
        spread.append(float(ratio.std()))
    assert math.isclose(*spread, rel_tol=1e-3)


def test_offsets_are_exact_for_islands_of_different_length():
    live = torch.tensor([[True] * 4, [True, True, True, False]]).repeat(25, 1)
    runs = []
    for constant in (0.0, -50.0):
        p = problem("random", constant, 0.5)
        process = replace(p.process, event_mask=live)
        runs.append(PlainSMC()(process, p.reward, (50, 4), rng=Streams(5, range(50))))
    assert torch.equal(runs[0].designs.x, runs[1].designs.x)
