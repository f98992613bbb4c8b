"""Law 4: gather, batch and chunk. A result never depends on how particles were permuted, islands
grouped or calls split.

Gather: every per-particle field of a state moves at once, and permuting particles commutes with a
step. Batch: islands {3, 7} alone are islands 3 and 7 of 0..15. Their streams are the same; what is
computed from them is equal to rounding, since processors treat the end of a vector otherwise than
its middle, so that the last bit of a number depends on the width of the batch and on the width of
the processor's vectors. In the same place of the same shape an island has the same bits, whoever
its neighbors are. Chunk: padded chunks never straddle islands.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import exact
import pytest
import torch

from seqalign.core.discrete import MaskedProcess
from seqalign.core.particles import Particles
from seqalign.core.potential import Max
from seqalign.core.proposal import Tilted
from seqalign.core.selection import Keep, Resample
from seqalign.core.smc import SMC
from seqalign.core.streams import Streams
from seqalign.core.tempering import Linear
from seqalign.core.value import LearnedValue, PosteriorMode, PosteriorSample, Rollout
from seqalign.methods.beam import Beam
from seqalign.methods.best_of_n import BestOfN
from seqalign.methods.das import DAS
from seqalign.methods.fk_steering import FKSteering
from seqalign.methods.guidance import Guidance
from seqalign.methods.nested_is import NestedIS
from seqalign.methods.smc import PlainSMC
from seqalign.methods.svdd import SVDD
from seqalign.methods.tds import TDS

METHODS = {
    "best_of_n": BestOfN(),
    "smc": PlainSMC(resample=Resample("multinomial", 0.9)),
    "smc-random-value": PlainSMC(value=PosteriorSample(2), resample=Resample("residual", 0.9)),
    "smc-rollout": PlainSMC(value=Rollout(1)),
    "tds": TDS(resample=Resample("systematic", 0.9)),
    "das": DAS(resample=Resample("ssp", 0.9)),
    "fk_steering": FKSteering(potential=Max(), resample=Resample("stratified", 1.0)),
    "nested_is": NestedIS(branch=3),
    "svdd": SVDD(branch=3),
    "svdd-greedy": SVDD(0.0, branch=3),
    "beam": Beam(branch=3),
    "guidance": Guidance(),
}
SOME = (3, 7)


@pytest.fixture(scope="module")
def problems():
    made = {name: make() for name, make in exact.PROBLEMS.items()}
    made["masked-skip"] = exact.masked("parallel", steps=7, bias=0.3)
    made["masked-budget"] = exact.masked(
        "parallel", space=exact.space(wild_type="CAB", budget=2, allowed=("ABC", "AC", "ABC"))
    )
    return made


PROBLEMS = [*exact.PROBLEMS, "masked-skip", "masked-budget"]


def ids(particles: Particles) -> dict[str, torch.Tensor]:
    """Return every tensor of a state by name."""
    found = {}
    for item in fields(particles):
        value = getattr(particles, item.name)
        if item.name in ("posterior", "guide") and value is not None:
            value.map(lambda v, name=item.name: found.setdefault(f"{name}.{len(found)}", v))
        elif isinstance(value, torch.Tensor):
            found[item.name] = value
    return found


def some_state(p: exact.Problem, b: int = 3, k: int = 6, stop: int = 2) -> tuple[SMC, Particles]:
    loop = SMC(
        p.process,
        p.reward,
        1.0,
        proposal=Tilted(),
        tempering=Linear(),
        selection=Resample("multinomial", 0.8),
        space=p.space,
    )
    particles, _ = loop.run((b, k), Streams(0, range(b)), stop=stop)
    return loop, particles


@pytest.mark.parametrize("problem", PROBLEMS)
def test_gather_moves_every_field(problems, problem):
    _, state = some_state(problems[problem])
    b, k = state.log_w.shape
    # distinct numbers in every cell, so that a stale field cannot hide behind a coincidence
    marks = torch.arange(b * k, dtype=torch.float64).reshape(b, k)

    def mark(v: torch.Tensor) -> torch.Tensor:
        return marks.reshape(b, k, *[1] * (v.dim() - 2)).expand(v.shape).clone()

    marked = state._map(mark)
    index = torch.tensor([[5, 5, 0, 1, 3, 3], [0, 1, 2, 3, 4, 5], [2, 2, 2, 2, 2, 2]])
    moved, want = marked.gather(index), marks.gather(1, index)
    seen = ids(moved)
    assert {"x", "log_w", "log_twist", "log_h", "value", "memo", "parent", "score"} <= set(seen)
    assert sum(name.startswith(("posterior", "guide")) for name in seen) >= 2
    for name, v in seen.items():
        if name in ("lam", "log_z"):
            assert torch.equal(v, getattr(state, name)), name
        else:
            assert torch.equal(v, want.reshape(b, k, *[1] * (v.dim() - 2)).expand(v.shape)), name
    for name, v in ids(marked.branch(2)).items():
        if name not in ("lam", "log_z"):
            assert torch.equal(
                v.flatten(2).double()[..., 0] if v.dim() > 2 else v, marks.repeat_interleave(2, 1)
            ), name
    assert (moved.guide is moved.posterior) == (state.guide is state.posterior)


@dataclass(frozen=True)
class _Permuted(Streams):
    """Streams whose particle k draws what particle order[b, k] would have drawn."""

    order: Any = None

    def uniform(self, shape, device=None):
        u = super().uniform(shape, device)
        rows = torch.arange(u.shape[0])[:, None]
        return u[rows, self.order] if u.dim() > 1 and u.shape[1] == self.order.shape[1] else u


@pytest.mark.parametrize(
    "value", [None, PosteriorSample(2), PosteriorMode()], ids=["mean", "sample", "mode"]
)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_permuting_particles_commutes_with_a_step(problems, problem, value):
    # the particles move with their noise; then the step must give the same, moved
    p = problems[problem]
    loop, state = some_state(p)
    change = {} if value is None else {"value": value}
    loop = replace(loop, process=p.process, reward=p.reward, selection=Keep(), **change)
    if problem == "masked-skip" and isinstance(value, PosteriorSample):
        # changed particles share a rectangle of draws there: equal in law only
        loop = replace(loop, process=replace(p.process, takes_time=True))
    order = torch.stack(
        [torch.randperm(6, generator=torch.Generator().manual_seed(b)) for b in range(3)]
    )
    rng = Streams(5, range(3))
    one, _ = loop.step(state, rng)
    two, _ = loop.step(state.gather(order), _Permuted(5, tuple(range(3)), order=order))
    one = replace(one.gather(order), parent=two.parent)
    for (name, a), b in zip(ids(one).items(), ids(two).values(), strict=True):
        assert torch.allclose(a.double(), b.double(), rtol=1e-11, atol=1e-11, equal_nan=True), name


def rounded(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors are equal to rounding; whole numbers are equal or not."""
    if not a.is_floating_point():
        return torch.equal(a, b)
    return torch.allclose(a, b, rtol=1e-11, atol=1e-11)


def same(equal, one, rows, other, others) -> None:
    """Compare all that is said of some rows of one run with other rows of another."""
    assert equal(one.designs.x[rows], other.designs.x[others])
    for name in ("rewards", "log_w", "log_z"):
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None)
        assert a is None or equal(a[rows], b[others]), name
    for a, b in zip(one.trace, other.trace, strict=True):
        for name in ("ess", "lam", "log_z", "value_mean", "value_max"):
            assert equal(getattr(a, name)[rows], getattr(b, name)[others]), name


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("chunk", [None, 4])
def test_some_islands_alone_are_those_islands(problems, problem, method, chunk):
    p = problems[problem]
    p = exact.replaced(p, chunk=chunk)
    k = 6  # chunks of 4 leave a padded one
    run, space = METHODS[method], p.space
    whole = run(p.process, p.reward, (16, k), rng=Streams(9, range(16)), space=space)
    alone = run(p.process.take(SOME), p.reward, (2, k), rng=Streams(9, SOME), space=space)
    same(rounded, whole, list(SOME), alone, [0, 1])


# the others pack the particles that changed, and how many an island packs its neighbors decide
@pytest.mark.parametrize("problem", exact.PROBLEMS)
@pytest.mark.parametrize("method", METHODS)
def test_an_island_has_the_same_bits_in_the_same_place_of_the_same_shape(problems, problem, method):
    p, run = problems[problem], METHODS[method]
    one, other = (
        run(p.process, p.reward, (4, 6), rng=Streams(9, islands), space=p.space)
        for islands in ((0, 3, 2, 7), (9, 3, 8, 7))
    )
    same(torch.equal, one, [1, 3], other, [1, 3])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("chunk", [1, 4])
def test_chunks_change_nothing_but_rounding(problems, problem, method, chunk):
    p = problems[problem]
    run = METHODS[method]
    whole = run(p.process, p.reward, (3, 10), rng=Streams(4, range(3)), space=p.space)
    split = exact.replaced(p, chunk=chunk)
    parts = run(split.process, p.reward, (3, 10), rng=Streams(4, range(3)), space=p.space)
    assert torch.allclose(whole.designs.x.double(), parts.designs.x.double(), rtol=1e-9)
    for name in ("rewards", "log_w", "log_z"):
        a, b = getattr(whole, name), getattr(parts, name)
        assert a is None or torch.allclose(a, b, rtol=1e-9, atol=1e-9), name


def test_chunks_are_padded_and_never_straddle_islands():
    seen = []
    p = exact.masked("parallel", steps=4)

    def network(x: torch.Tensor, t: float) -> torch.Tensor:
        seen.append(tuple(x.shape))
        return p.process.network(x, t)

    process = replace(p.process, network=network, chunk=4, takes_time=True)
    assert isinstance(process, MaskedProcess)
    PlainSMC()(process, p.reward, (3, 10), rng=Streams(0, range(3)))
    assert set(seen) == {(1, 4, 3)}
    assert len(seen) == 4 * 3 * 3


@pytest.mark.parametrize("method", [PlainSMC(), DAS()])
def test_islands_that_start_with_more_and_less_open(method):
    """Rows for open positions alone do not fit together then; rows for all do."""
    p = exact.masked("random")
    mask = p.process.alphabet.mask
    start = torch.full((3, 6, 3), mask)
    start[1, :, 0], start[2, ::2, 1] = 1, 0
    seen = []
    for process in (p.process, replace(p.process, chunk=2), replace(p.process, chunk=1)):
        run = method(process, p.reward, (3, 6), rng=Streams(3, range(3)), start=start)
        one = method(process, p.reward, (1, 6), rng=Streams(3, [1]), start=start[1:2])
        assert torch.equal(run.designs.x[1:2], one.designs.x)
        assert rounded(run.log_w[1:2], one.log_w)
        seen.append(run)
    for other in seen[1:]:
        assert torch.equal(other.designs.x, seen[0].designs.x)
        assert rounded(other.log_z, seen[0].log_z)


def test_islands_of_different_length_alone():
    live = torch.ones(16, 3, dtype=torch.bool)
    live[::2, 2] = False
    for kind in ("random", "parallel", "uniform"):
        p = exact.uniform() if kind == "uniform" else exact.masked(kind)
        process = replace(p.process, event_mask=live)
        for method in (PlainSMC(), DAS(), DAS(tilt=Tilted("network"))):
            whole = method(process, p.reward, (16, 5), rng=Streams(2, range(16)))
            alone = method(process.take((4, 7)), p.reward, (2, 5), rng=Streams(2, (4, 7)))
            assert torch.equal(whole.designs.x[[4, 7]], alone.designs.x)
            assert rounded(whole.log_w[[4, 7]], alone.log_w)


def test_a_bad_value_stays_with_its_island():
    p = exact.masked("random")

    def value(x: torch.Tensor, t: float) -> torch.Tensor:
        return torch.where((x == 0).any(-1), torch.nan, x.double().sum(-1))

    method = PlainSMC(value=LearnedValue(value), resample=Resample("ssp", 1.0))
    whole = method(p.process, p.reward, (16, 6), rng=Streams(9, range(16)))
    alone = method(p.process, p.reward, (2, 6), rng=Streams(9, SOME))
    assert torch.isfinite(whole.log_w).all()
    assert rounded(whole.log_w[list(SOME)], alone.log_w)
