"""Law 1, exactness: E[Ẑ] = Z, and weighted samples follow the enumerated target.

Every consistent method, on an enumerable masked process (both orders), an enumerable uniform
process and a linear-Gaussian one; every resampling scheme, value, tempering and potential; failed
values, rejected designs, hard constraints, islands of different length, conditional sweeps. K = 2
wherever nothing else is said, resampling is forced, one standard error is at most 1 %.
"""

from __future__ import annotations

import math
from dataclasses import replace

import exact
import pytest
import torch

from seqalign.core.method import samples
from seqalign.core.particles import Particles
from seqalign.core.potential import Max, Sum
from seqalign.core.process import Designs
from seqalign.core.proposal import Base, Tilted
from seqalign.core.resampling import SCHEMES
from seqalign.core.selection import Keep, OneChild, Resample, TopK
from seqalign.core.smc import SMC
from seqalign.core.streams import Streams
from seqalign.core.tempering import Adaptive, Constant, Geometric, Linear
from seqalign.core.value import (
    LearnedValue,
    PosteriorMean,
    PosteriorMode,
    PosteriorSample,
    Rollout,
)
from seqalign.methods.best_of_n import BestOfN
from seqalign.methods.causal_smc import CausalSMC
from seqalign.methods.das import DAS
from seqalign.methods.fk_steering import FKSteering
from seqalign.methods.nested_is import NestedIS
from seqalign.methods.smc import PlainSMC
from seqalign.methods.tds import TDS

ISLANDS = 15_000
ALWAYS = Resample("ssp", 1.0)

METHODS = {
    "best_of_n": BestOfN(),
    "smc": PlainSMC(resample=ALWAYS),
    "tds": TDS(resample=Resample("systematic", 1.0)),
    "das": DAS(),
    "das-always": DAS(tempering=Adaptive(0.9, pace=0.0), resample=ALWAYS),
    "fk-difference": FKSteering(resample=Resample("multinomial", 1.0)),
    "fk-max": FKSteering(potential=Max(), resample=Resample("residual", 1.0)),
    "fk-sum-tilted": FKSteering(
        potential=Sum(),
        tempering=Constant(0.4),
        proposal=Tilted(),
        resample=Resample("stratified", 1.0),
    ),
    "nested_is": NestedIS(branch=2, resample=ALWAYS),
    "nested_is-tilted": NestedIS(
        branch=3, proposal=Tilted(), tempering=Constant(0.7), resample=ALWAYS
    ),
}


# one position a step: for chains that reveal one random position a step
REVEALING = {
    "causal_smc": CausalSMC(),
    "causal_smc-always": CausalSMC(resample=ALWAYS, tempering=Adaptive(0.9, pace=0.0)),
}
RANDOM = ("masked-random", "masked-remembering")


def noise(x: torch.Tensor, t: float) -> torch.Tensor:
    """A value that knows nothing: a rugged function of the state."""
    return 0.8 * torch.sin(7.3 * (x.double() + 1.7 * t).flatten(2).pow(2).sum(-1))


@pytest.fixture(scope="module")
def problems():
    return {name: make() for name, make in exact.PROBLEMS.items()}


def test_enumeration_agrees_with_the_joint_law():
    # a consistent network, revealed in any order, one letter at a time, gives back the joint law it
    # was made of
    table = exact.any_order_table(3, 3, seed=5)
    random = exact.masked_law(table, 3, "random", [3, 3, 3])
    many = exact.masked_law(table, 400, "parallel", [3, 3, 3])
    assert math.isclose(random.sum(), 1.0)
    assert abs(random - many).sum() < 0.02
    first = torch.softmax(table.logits, -1)[-1, 0].numpy()
    assert abs(random.reshape(3, 9).sum(1) - first).max() < 1e-12
    # a factorized law, or one the parallel kernel gets right, would test nothing
    assert abs(random - exact.masked_law(table, 3, "parallel", [3, 3, 3])).sum() > 0.05


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("problem", exact.PROBLEMS)
def test_every_consistent_method_is_exact(problems, problem, method):
    p = problems[problem]
    exact.assert_exact(p.run(METHODS[method], (ISLANDS, 2)), p)


@pytest.mark.parametrize("method", REVEALING)
@pytest.mark.parametrize("problem", RANDOM)
def test_one_position_a_step_is_exact(problems, problem, method):
    p = problems[problem]
    exact.assert_exact(p.run(REVEALING[method], (ISLANDS, 2)), p)


@pytest.mark.parametrize("name", exact.CONSTRAINED)
def test_one_position_a_step_is_exact_inside_every_constraint(name):
    space = exact.CONSTRAINED[name]()
    if space.blocks:
        pytest.skip("tied positions are revealed together")
    p = exact.masked("random", length=4, steps=4, bias=0.2, space=space, scale=0.3)
    samples = p.run(CausalSMC(), (12_000, 2), 30)
    exact.assert_exact(samples, p)
    if space.exact_lookahead:
        assert bool(space.contains(samples.designs.x).all()), "finite logits have no dead end"


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("problem", ["masked-random", "gaussian-vp"])
def test_every_resampling_scheme_is_exact(problems, problem, scheme):
    p = problems[problem]
    exact.assert_exact(p.run(PlainSMC(resample=Resample(scheme, 1.0)), (ISLANDS // 2, 5), 1), p)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_adaptive_everything_with_every_scheme(problems, scheme):
    # lam and the decision to resample look at the weights; both are made before selection
    p = problems["masked-parallel"]
    method = DAS(tempering=Adaptive(0.8), resample=Resample(scheme, 0.9))
    exact.assert_exact(p.run(method, (ISLANDS // 2, 3), 2), p)


def test_islands_that_hurry_and_islands_that_wait_are_exact():
    """Both occur, as the values of an island spread or agree."""
    p = exact.masked("parallel", bias=0.3, drift=0.5, scale=1.5)
    found = p.run(DAS(value=PosteriorMean()), (ISLANDS // 2, 6), 12)
    exact.assert_exact(found, p)
    ahead = (found.trace[1].lam > 1 / 3).double().mean()
    assert 0.05 < float(ahead) < 0.95


@pytest.mark.parametrize(
    "tempering",
    [Constant(), Constant(0.0), Linear(2.0), Geometric(), Geometric(0.5), Adaptive(0.6, 0.0)],
    ids=repr,
)
@pytest.mark.parametrize("proposal", [Base(), Tilted()], ids=["base", "tilted"])
def test_any_tempering_is_exact(problems, tempering, proposal):
    p = problems["masked-random"]
    exact.assert_exact(
        p.run(FKSteering(tempering=tempering, proposal=proposal, resample=ALWAYS), (ISLANDS, 2), 3),
        p,
    )


@pytest.mark.parametrize(
    "value",
    [PosteriorMode(), PosteriorSample(1), PosteriorSample(3), Rollout(1), LearnedValue(noise)],
    ids=["mode", "sample-1", "sample-3", "rollout", "noise"],
)
@pytest.mark.parametrize("problem", ["masked-random", "masked-parallel", "uniform", "gaussian-vp"])
def test_any_value_is_exact(problems, problem, value):
    # random values are stored and subtracted as drawn, bad ones only cost variance
    p = problems[problem]
    exact.assert_exact(p.run(PlainSMC(value=value, resample=ALWAYS), (ISLANDS, 2), 4), p)


@pytest.mark.parametrize("problem", ["masked-random", "uniform"])
def test_values_and_gradients_may_disagree(problems, problem):
    p = problems[problem]
    method = DAS(value=PosteriorSample(2), tilt=Tilted(scale=0.5), resample=ALWAYS)
    exact.assert_exact(p.run(method, (ISLANDS, 2), 5), p)


@pytest.mark.parametrize("problem", ["masked-random", "masked-parallel", "uniform"])
def test_gradient_through_the_network_is_exact(problems, problem):
    p = problems[problem]
    method = TDS(tempering=Linear(), tilt=Tilted("network", 0.7), resample=ALWAYS)
    exact.assert_exact(p.run(method, (ISLANDS, 2), 6), p)


@pytest.mark.parametrize("method", ["smc", "das-always", "fk-max", "nested_is"])
@pytest.mark.parametrize("kind", ["masked", "parallel", "uniform"])
def test_failed_values_and_rejected_designs(kind, method):
    reward = exact.Rejecting(exact.PairReward(3, 3, 11, 0.6), letter=1, broken=True)
    p = (
        exact.uniform(reward=reward)
        if kind == "uniform"
        else exact.masked({"masked": "random"}.get(kind, kind), reward=reward)
    )
    samples = p.run(METHODS[method], (ISLANDS, 2), 7)
    exact.assert_exact(samples, p)
    # islands that lost everything say Ẑ = 0 and are counted; to leave them out would censor
    dead = torch.isneginf(samples.log_z)
    assert 0 < int(dead.sum()) < ISLANDS // 2
    assert bool(torch.isneginf(samples.log_w[dead]).all())
    assert float(samples.weights[dead].sum()) == 0.0


SPACES = {
    "fixed": exact.space(fixed="_B_"),
    "allowed": exact.space(allowed=("AB", "ABC", "C")),
    "budget-0": exact.space(wild_type="CAB", budget=0),
    "budget-1": exact.space(wild_type="CAB", budget=1),
    "budget-2": exact.space(wild_type="CAB", budget=2),
    "all": exact.space(fixed="C__", allowed=("ABC", "AC", "ABC"), wild_type="CBB", budget=1),
}


@pytest.mark.parametrize("space", SPACES)
def test_design_space_one_position_a_step(space):
    p = exact.remembering(space=SPACES[space], scale=0.4)
    samples = p.run(CausalSMC(), (10_000, 2), 8)
    exact.assert_exact(samples, p)
    assert bool(p.space.contains(samples.designs.x).all()), "finite logits have no dead end"


@pytest.mark.parametrize("method", ["best_of_n", "smc", "tds", "das-always", "nested_is"])
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("order", ["random", "parallel", "remembering"])
def test_design_space_on_masked_processes(order, space, method):
    if order == "remembering":
        p = exact.remembering(space=SPACES[space], scale=0.4)
    else:
        p = exact.masked(
            order, bias=0.4, drift=0.3 if order == "parallel" else 0.0, space=SPACES[space]
        )
    samples = p.run(METHODS[method], (10_000, 2), 8)
    exact.assert_exact(samples, p)
    assert bool(p.space.contains(samples.designs.x).all()), "finite logits have no dead end"


@pytest.mark.parametrize("method", ["best_of_n", "smc", "tds", "das"])
@pytest.mark.parametrize("space", SPACES)
def test_design_space_on_a_uniform_process(space, method):
    p = exact.uniform(space=SPACES[space], scale=0.3)
    samples = p.run(METHODS[method], (ISLANDS, 2), 9)
    exact.assert_exact(samples, p)


def assert_constrained(order: str, name: str, method: str, islands: int, seed: int) -> None:
    space = exact.CONSTRAINED[name]()
    if order == "uniform":
        p = exact.uniform(length=4, steps=2, space=space, scale=0.3, bias=0.1)
    else:
        drift = 0.2 if order == "parallel" else 0.0
        p = exact.masked(order, length=4, steps=4, bias=0.2, drift=drift, space=space, scale=0.3)
    samples = p.run(METHODS[method], (islands, 2), seed)
    exact.assert_exact(samples, p)
    if space.exact_lookahead and order != "uniform":
        assert bool(space.contains(samples.designs.x).all()), "finite logits have no dead end"


TURNS = ("tds", "smc", "das-always")


@pytest.mark.parametrize("name", exact.CONSTRAINED)
def test_every_constraint_is_exact(name):
    turn = list(exact.CONSTRAINED).index(name)
    assert_constrained("random", name, TURNS[turn % 3], 12_000, 30)


@pytest.mark.parametrize("name", ["run-chains", "charge-both", "tie-budget", "copies", "all-tied"])
def test_every_constraint_is_exact_on_a_parallel_process(name):
    turn = list(exact.CONSTRAINED).index(name) + 1
    assert_constrained("parallel", name, TURNS[turn % 3], 24_000, 30)


@pytest.mark.parametrize("name", ["forbid", "charge-max", "tie", "all-tied"])
def test_every_constraint_is_exact_on_a_uniform_process(name):
    assert_constrained("uniform", name, "smc", ISLANDS, 31)


@pytest.mark.slow
@pytest.mark.parametrize("method", TURNS)
@pytest.mark.parametrize("order", ["random", "parallel"])
@pytest.mark.parametrize("name", exact.CONSTRAINED)
def test_every_constraint_is_exact_with_every_method(order, name, method):
    assert_constrained(order, name, method, 24_000 if order == "random" else 26_000, 32)


@pytest.mark.parametrize("through", ["posterior", "network"])
def test_design_space_with_tilted_budget(through):
    p = exact.masked("parallel", space=SPACES["budget-1"])
    method = FKSteering(potential=Max(), proposal=Tilted(through), resample=ALWAYS)
    exact.assert_exact(p.run(method, (ISLANDS, 2), 10), p)


@pytest.mark.parametrize("kind", ["random", "parallel", "uniform"])
def test_islands_of_different_length(kind):
    live = torch.tensor([[True, True, True], [True, True, False]]).repeat(ISLANDS // 2, 1)
    p = exact.uniform() if kind == "uniform" else exact.masked(kind)
    process = replace(p.process, event_mask=live)
    for method in (
        PlainSMC(tempering=Linear(), resample=ALWAYS),
        DAS(tempering=Adaptive(pace=1.0)),
    ):
        samples = method(process, p.reward, (ISLANDS, 2), rng=Streams(11, range(ISLANDS)))
        for row, mask in enumerate(([True] * 3, [True, True, False])):
            table = process.network
            if kind == "uniform":
                p_pre = exact.uniform_law(table, 3, mask)
            else:
                p_pre = exact.masked_law(table, 3, kind, [3 if m else 0 for m in mask])
            full = Designs(torch.tensor(exact.grid(3, 3))[None], exact.ABC, torch.tensor([mask]))
            z = float((torch.tensor(p_pre) * torch.exp(p.reward(full)[0])).sum())
            ratio = torch.exp(samples.log_z[row::2]) / z
            se = float(ratio.std()) / math.sqrt(ratio.numel())
            assert se <= 0.011
            assert abs(float(ratio.mean()) - 1) <= exact.FALSE_ALARM * se


@pytest.mark.parametrize("space", [None, "budget-1", "all"])
def test_skipping_unchanged_particles_changes_nothing_but_rounding(space):
    # with a space the look-ahead, which is discounted by time, must be that of now
    p = exact.masked("parallel", steps=6, bias=0.3, space=SPACES.get(space))
    for method in (
        PlainSMC(resample=ALWAYS),
        DAS(),
        TDS(tilt=Tilted("network")),
        NestedIS(branch=2),
    ):
        skipped = p.run(method, (4, 16), 12)
        whole = exact.replaced(p, takes_time=True).run(method, (4, 16), 12)
        for name in ("rewards", "log_w", "log_z"):
            a, b = getattr(skipped, name), getattr(whole, name)
            assert torch.allclose(a, b, rtol=1e-11, atol=1e-11), name
        assert torch.equal(skipped.designs.x, whole.designs.x)
        assert skipped.network_calls < whole.network_calls


@pytest.mark.parametrize("value", [None, PosteriorSample(1)], ids=["mean", "random"])
def test_skipping_unchanged_particles_is_exact(value):
    # a random value of an unchanged state is kept as drawn
    p = exact.masked("parallel", steps=6, bias=0.3)
    method = DAS(resample=ALWAYS) if value is None else PlainSMC(value=value, resample=ALWAYS)
    exact.assert_exact(p.run(method, (ISLANDS, 2), 13), p)


def test_starting_later_from_given_states():
    # refinement and trees begin anywhere: the target is then the law of the rest of the chain
    p = exact.masked("random", bias=0.4)
    loop = SMC(p.process, p.reward, 1.0, selection=ALWAYS, tempering=Linear())
    x = torch.tensor([3, 1, 3]).expand(ISLANDS, 2, 3)
    ran = samples(loop, *loop.run((ISLANDS, 2), Streams(14, range(ISLANDS)), start=x, begin=1))
    p_pre = exact.masked_law(p.process.network, 3, "random", [3, 1, 3], begin=1)
    exact.assert_exact(ran, exact.enumerated(p.process, p.reward, 1.0, p_pre))


@pytest.mark.parametrize("space", ["fixed", "all", "budget-1"])
@pytest.mark.parametrize("kind", ["random", "parallel", "uniform"])
def test_what_is_corrupted_can_be_refined_at_every_step(kind, space):
    # what a space fixes is never masked, so that as many reveals are left as steps
    make = exact.uniform if kind == "uniform" else lambda **more: exact.masked(kind, **more)
    p = make(space=SPACES[space])
    x = p.run(PlainSMC(), (20, 6)).designs.x
    blank = torch.full_like(x, p.process.alphabet.mask)
    given = p.space.start(blank)
    fixed = given != blank
    for step in range(len(p.process.times) - 1):
        rng = Streams(step, range(20))
        x_t = p.process.corrupt(x, step, rng, p.space)
        assert torch.equal(x_t[fixed], given[fixed])
        again = PlainSMC()(
            p.process, p.reward, (20, 6), rng=rng, space=p.space, start=x_t, begin=step
        )
        assert bool(p.space.contains(again.designs.x).all())


@pytest.mark.parametrize("problem", exact.PROBLEMS)
def test_a_run_in_pieces_is_the_run(problems, problem):
    p = problems[problem]
    rng = Streams(15, range(50))
    loop = SMC(
        p.process, p.reward, 1.0, proposal=Tilted(), tempering=Adaptive(), value=PosteriorSample(2)
    )
    whole, trace = loop.run((50, 4), rng)
    for cut in range(len(p.process.times)):
        half, first = loop.run((50, 4), rng, stop=cut)
        assert half.step == cut
        rest, second = loop.run((50, 4), rng, start=half)
        for name in ("x", "log_w", "log_twist", "lam", "log_z", "reward", "value"):
            assert torch.equal(getattr(rest, name), getattr(whole, name)), (cut, name)
        assert [s.step for s in first + second] == [s.step for s in trace]


@pytest.mark.parametrize("problem", ["masked-random", "uniform", "gaussian-vp"])
def test_the_move_slot(problems, problem):
    # a permutation leaves every target invariant; it must run after each selection but the last,
    # with its own streams
    p, seen = problems[problem], []

    class Shuffle:
        def check(self, loop: SMC, x: torch.Tensor | None = None) -> None:
            assert loop.alpha == 1.0

        def __call__(
            self,
            loop: SMC,
            before: Particles,
            particles: Particles,
            able: torch.Tensor,
            rng: Streams,
        ) -> tuple[Particles, torch.Tensor]:
            seen.append((particles.step, rng.path))
            order = rng.uniform(particles.log_w.shape).argsort(-1)
            return particles.gather(order), torch.ones_like(particles.lam)

    loop = SMC(
        p.process, p.reward, 1.0, selection=Resample("ssp", 0.9), tempering=Linear(), move=Shuffle()
    )
    exact.assert_exact(samples(loop, *loop.run((ISLANDS, 3), Streams(16, range(ISLANDS)))), p)
    assert [step for step, _ in seen] == list(range(1, len(p.process.times) - 1))
    assert len({path for _, path in seen}) == len(seen)


SWEEPS = {
    "masked-random": (lambda: exact.masked("random"), Tilted()),
    "masked-parallel": (lambda: exact.masked("parallel", drift=0.4), Base()),
    "masked-budget": (lambda: exact.masked("parallel", space=SPACES["budget-2"]), Tilted()),
    "uniform": (exact.uniform, Base()),
    "uniform-budget": (lambda: exact.uniform(space=SPACES["budget-2"]), Base()),
    "gaussian": (exact.gaussian, Tilted()),
}


SELECTIONS = {
    "always": {"selection": Resample("multinomial", 1.0)},
    "sometimes": {"selection": Resample("ssp", 0.7)},
    "every-second": {"selection": Resample("multinomial", 1.0, every=2)},
    "never": {"selection": Keep()},
    "nested": {"selection": OneChild(weigh=True, then=Resample("ssp", 1.0)), "branch": 2},
    "nested-alone": {"selection": OneChild(weigh=True), "branch": 3},
    # lam looks at the weights of all, the kept path's among them
    "adaptive": {"selection": Resample("ssp", 0.9), "tempering": Adaptive(0.8, pace=0.0)},
}


# every process with always, and with three of the others in turn
SWEPT = [
    (n, s) for i, n in enumerate(SWEEPS) for j, s in enumerate(SELECTIONS) if not j or (i + j) % 2
]


@pytest.mark.parametrize(("name", "select"), SWEPT)
def test_a_conditional_sweep_leaves_the_target_invariant(name, select):
    """Particle Gibbs: paths drawn from the target by rejection, one sweep, still the target."""
    make, proposal = SWEEPS[name]
    p = make()
    path = exact.target_paths(p, 60_000, 17)
    islands, k = len(path[0]), 3
    assert islands > 2_000

    parts = {"tempering": Linear(), "proposal": proposal, "space": p.space} | SELECTIONS[select]
    loop = SMC(p.process, p.reward, p.alpha, **parts)
    rng = Streams(18, range(islands))
    x = p.process.prior((islands, k), rng.at("prior"))
    x[:, 0] = path[0]
    state, _ = loop.init((islands, k), rng, x)
    for x_s in path[1:]:
        state, _ = loop.step(state, rng, pinned=x_s)
        assert state.x.shape[:2] == (islands, k)
        assert torch.equal(state.x[:, 0], x_s)
    w = torch.softmax(state.log_w, -1)
    mean = (w[..., None] * p.features(state.x)).sum(1)
    error = mean.std(0) / math.sqrt(islands)
    off = ((mean.mean(0) - p.expected) / error.clamp(min=1e-12)).abs()
    assert float(off.max()) <= exact.FALSE_ALARM, (
        f"{int(off.argmax())}: {float(off.max()):.1f} standard errors"
    )
    assert float(w[:, 1:].sum(-1).mean()) > 0.3, "the sweep hardly moves"


@pytest.mark.parametrize("selection", [OneChild(), OneChild(greedy=True, weigh=True), TopK()])
def test_a_path_is_kept_in_law_or_not_at_all(problems, selection):
    p = problems["masked-random"]
    loop, rng = SMC(p.process, p.reward, 1.0, selection=selection, branch=2), Streams(0, [0])
    state, _ = loop.init((1, 3), rng)
    with pytest.raises(ValueError, match="use "):
        loop.step(state, rng, pinned=torch.tensor([[3, 1, 3]]))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("problem", exact.PROBLEMS)
def test_every_consistent_method_is_exact_to_half_a_percent(problems, problem, method):
    p = problems[problem]
    exact.assert_exact(p.run(METHODS[method], (100_000, 2), 19), p, error=0.005)
