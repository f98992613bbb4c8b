"""The linearized value is the soft value where letters are independent and the reward is a sum.

Every path then has the same weight: log Ẑ is log Z to rounding on every island with one particle,
under every constraint whose look-ahead is exact, and a step of the loop draws from the target.
"""

from __future__ import annotations

import dataclasses
import math

import exact
import pytest
import torch

from seqalign.core.callables import function
from seqalign.core.discrete import MaskedProcess
from seqalign.core.method import samples
from seqalign.core.objective import Reward
from seqalign.core.particles import Samples
from seqalign.core.process import Designs
from seqalign.core.proposal import Tilted
from seqalign.core.sketch import sketched
from seqalign.core.smc import SMC
from seqalign.core.streams import Streams
from seqalign.core.tempering import Adaptive, Constant, Tempering
from seqalign.core.value import Linearized, PosteriorMean, Value
from seqalign.methods.smc import PlainSMC

ALPHA = 0.4


class Sum(Reward):
    """Σ_i s[i, x_i]: no pairs."""

    name = "sum"
    differentiable = True

    def __init__(self, length: int, v: int, constant: float = 0.0) -> None:
        gen = torch.Generator().manual_seed(4)
        self.score = torch.randn(length, v, generator=gen, dtype=torch.float64)
        self.constant = constant

    def relaxed(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.score).sum((-1, -2)) + self.constant

    def __call__(self, designs: Designs) -> torch.Tensor:
        hot = torch.nn.functional.one_hot(designs.x, self.score.shape[1]).double()
        return self.relaxed(hot)


def problem(space=None, length=4, constant=0.0) -> exact.Problem:
    """Independent letters, the same whatever is known."""
    letters = exact.ABC if space is None else space.alphabet
    gen = torch.Generator().manual_seed(9)
    logits = torch.randn(length, len(letters), generator=gen, dtype=torch.float64)
    process = MaskedProcess(
        lambda x, t: logits.expand(*x.shape[:2], *logits.shape),
        letters,
        length,
        length,
        blocks=() if space is None else space.blocks,
    )
    p = torch.softmax(logits, -1)
    full = torch.tensor(exact.grid(len(letters), length))
    p_pre = p[torch.arange(length), full].prod(-1)
    reward = Sum(length, len(letters), constant)
    return exact.enumerated(process, reward, ALPHA, p_pre.numpy(), space)


# what is fixed is conditioned on, which the enumeration here does not do
SPACES = {
    name: make
    for name, make in exact.CONSTRAINED.items()
    if make().exact_lookahead and name != "tie-fixed"
}


def sweep(p: exact.Problem, value: Value, tempering: Tempering, sketch: bool = False) -> SMC:
    """With no defense against values that are wrong."""
    return SMC(
        sketched(p.process, "causal_smc") if sketch else p.process,
        p.reward,
        ALPHA,
        value=value,
        proposal=Tilted(),
        tempering=tempering,
        space=p.space,
        defense=0.0,
    )


def run(
    p: exact.Problem, value: Value, tempering: Tempering, islands: int, sketch: bool = False
) -> Samples:
    """One particle per island."""
    loop = sweep(p, value, tempering, sketch)
    return samples(loop, *loop.run((islands, 1), Streams(1, range(islands))))


@pytest.mark.parametrize("way", ["tds", "das", "causal_smc"])
@pytest.mark.parametrize("name", ["none", *SPACES])
def test_every_weight_is_z(name, way):
    p = problem(None if name == "none" else SPACES[name]())
    sketch = way == "causal_smc"
    if sketch and p.space is not None and p.space.blocks:
        pytest.skip("tied positions are revealed together")
    tempering = Adaptive() if way == "das" else Constant()
    found = run(p, Linearized(), tempering, 8000, sketch)
    assert torch.allclose(found.log_z, torch.full_like(found.log_z, p.log_z), atol=1e-6)
    # with equal weights the draws themselves follow the target
    draws = found.designs.x[:, 0]
    places = len(p.process.alphabet) ** torch.arange(4).flip(0)
    seen = torch.bincount((draws * places).sum(-1), minlength=len(p.target)) / 8000
    target = torch.tensor(p.target)
    error = (target * (1 - target) / 8000).sqrt()
    often = target > 0.002
    assert bool(((seen - target).abs() <= exact.FALSE_ALARM * error)[often].all())
    # what the posterior mean knows does not suffice
    plain = run(p, PosteriorMean(), tempering, 400)
    assert float((plain.log_z - p.log_z).abs().max()) > 0.05


@pytest.mark.parametrize("name", ["none", *SPACES])
def test_all_is_known_at_every_step(name):
    p = problem(None if name == "none" else SPACES[name]())
    if p.space is not None:
        p = exact.enumerated(
            p.process, p.reward, ALPHA, p.p_pre, dataclasses.replace(p.space, discount=0.0)
        )
    loop = sweep(p, Linearized(), Constant())
    state, _ = loop.init((20, 1), Streams(0, range(20)))
    assert torch.allclose(state.value + state.log_h, torch.tensor(p.log_z).double(), atol=1e-6)
    for _ in range(4):
        state, row = loop.step(state, Streams(0, range(20)))
        assert torch.allclose(row.log_z, torch.tensor(p.log_z).double(), atol=1e-6), row.step


def test_the_value_is_the_soft_value():
    p = problem()
    x = p.process.prior((1, 1), Streams(0, (0,)))
    x[0, 0, 1] = 2
    posterior = p.process.posterior(x, 0.75)
    value = Linearized().bind(p.reward)
    v = value(p.process, x, posterior, 0.75, ALPHA, Streams(0, (0,)))
    full = torch.tensor(exact.grid(3, 4))
    some = full[full[:, 1] == 2]
    law = posterior.mean[0, 0][torch.arange(4), some].prod(-1)
    r = p.reward(Designs(some[None], exact.ABC))[0]
    want = math.log(float((law * torch.exp(r / ALPHA)).sum()))
    assert abs(float(v[0, 0]) - want) < 1e-9
    # whichever way the posterior keeps its rows
    again = value(p.process, x, posterior.whole(), 0.75, ALPHA, Streams(0, (0,)))
    assert torch.allclose(v, again)


def test_what_has_no_letters_or_no_gradient_is_refused():
    plain = exact.gaussian()
    with pytest.raises(TypeError, match="'posterior_mean'"):
        plain.run(PlainSMC(value=Linearized()), (2, 2), 0)
    with pytest.raises(TypeError, match="'posterior_mode'"):
        Linearized().bind(function(lambda s: [0.0] * len(s)))
