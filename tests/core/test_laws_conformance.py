"""Law 5, conformance: what every method that can be found through an entry point promises.

A frozen dataclass of hyper-parameters, documented with references; same streams → same bits; one
island or many; inputs are never mutated; repr is the method again.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib.metadata
import inspect
import pkgutil
import sys

import exact
import pytest
import torch

import seqalign.methods
from seqalign.core import potential, proposal, selection, tempering, value
from seqalign.core.method import Looped
from seqalign.core.particles import Samples
from seqalign.core.streams import Streams
from seqalign.space import space as design_space

ENTRIES = {e.name: e for e in importlib.metadata.entry_points(group="seqalign.methods")}
OWN = sorted(name for name, e in ENTRIES.items() if e.value.startswith("seqalign."))


def kinds(name: str) -> tuple[str, ...]:
    """What states a method is made for; one that says nothing takes both."""
    return getattr(ENTRIES[name].load(), "kinds", ("discrete", "continuous"))


def fits(problem: str, name: str) -> bool:
    """Whether a method is made for the states of a problem."""
    if problem.startswith("gaussian"):
        return "continuous" in kinds(name)
    # chains that reveal one random position a step
    revealing = problem in ("masked-random", "masked-remembering")
    return "discrete" in kinds(name) or (revealing and "revealing" in kinds(name))


PAIRS = [(n, p) for n in sorted(ENTRIES) for p in exact.PROBLEMS if fits(p, n)]
STRANGE = [(n, p) for n in sorted(ENTRIES) for p in exact.PROBLEMS if not fits(p, n)]


@pytest.fixture(scope="module")
def problems():
    return {name: make() for name, make in exact.PROBLEMS.items()}


def names() -> dict[str, object]:
    """Everything a repr may mention."""
    found: dict[str, object] = {}
    for module in (design_space, potential, proposal, selection, tempering, value):
        found |= {n: getattr(module, n) for n in module.__all__}
    return found


def estimates(name: str) -> bool:
    """Whether a method says log Z: it is consistent, and no Markov chain."""
    return ENTRIES[name].load().consistent and name != "particle_gibbs"


def last(name: str, method, p: exact.Problem, k: int) -> int:
    """The last step of a run: iterations and sweeps are counted where a method has them."""
    if name == "pnp_ula":
        return method.iterations
    return method.burn_in + k - 1 if name == "particle_gibbs" else len(p.process.times) - 1


def run(p: exact.Problem, method, b: int, k: int, seed: int = 0) -> Samples:
    return method(p.process, p.reward, (b, k), rng=Streams(seed, range(b)), space=p.space)


def test_every_method_file_is_registered_and_the_other_way_round():
    files = {m.name for m in pkgutil.iter_modules(seqalign.methods.__path__)}
    assert {
        e.value.split(":")[0].rsplit(".", 1)[1] for e in ENTRIES.values() if e.name in OWN
    } == files
    assert len(OWN) == len(files)


@pytest.mark.parametrize("name", OWN)
def test_frozen_documented_and_readable(name):
    cls = ENTRIES[name].load()
    assert dataclasses.is_dataclass(cls)
    assert cls.__dataclass_params__.frozen
    assert cls.__bases__ in ((object,), (Looped,)), "no inheritance among methods"
    method = cls()
    field = dataclasses.fields(cls)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(method, field, 3.0)
    module = sys.modules[cls.__module__]
    assert "References:" in module.__doc__
    for item in dataclasses.fields(cls):
        said = cls.__doc__ + (Looped.__doc__ if issubclass(cls, Looped) else "")
        assert f"{item.name}:" in said, f"{name}.{item.name} is not documented"
    assert isinstance(cls.consistent, bool)
    # repr = hash = YAML
    scope = names() | {cls.__name__: cls}
    again = eval(repr(method), {"inf": float("inf")}, scope)
    assert again == method
    assert hash(again) == hash(method)
    assert hash(cls(alpha=0.5)) != hash(method)


@pytest.mark.parametrize("name", OWN)
def test_signature(name):
    parameters = list(inspect.signature(ENTRIES[name].load().__call__).parameters.values())
    assert [
        p.name for p in parameters
    ] == "self process reward shape rng space start begin stop budget observe".split()
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters[4:])


@pytest.mark.parametrize(("name", "problem"), PAIRS)
def test_same_streams_same_bits(problems, problem, name):
    p, method = problems[problem], ENTRIES[name].load()()
    first = run(p, method, 3, 8)
    # other work in between, of another size, must leave no trace
    run(p, method, 2, 3, seed=99)
    torch.manual_seed(1)
    second, other = run(p, method, 3, 8), run(p, method, 3, 8, seed=1)
    assert torch.equal(first.designs.x, second.designs.x)
    assert torch.equal(first.rewards, second.rewards)
    assert torch.equal(first.log_w, second.log_w)
    assert not torch.equal(first.designs.x, other.designs.x)
    if estimates(name):
        assert torch.equal(first.log_z, second.log_z)


@pytest.mark.parametrize(("name", "problem"), PAIRS)
def test_a_run_that_was_stopped_goes_on_with_the_same_bits(problems, problem, name):
    p, seen = problems[problem], []
    short = {"pnp_ula": {"iterations": 3}, "particle_gibbs": {"burn_in": 2}}
    method = ENTRIES[name].load()(**short.get(name, {}))
    more = {"rng": Streams(4, range(3)), "space": p.space}
    whole = method(p.process, p.reward, (3, 4), **more)
    for cut in range(len(whole.trace) - 1):
        half = method(
            p.process, p.reward, (3, 4), stop=cut, observe=lambda _, x: seen.append(x), **more
        )
        # there are states and no designs yet, and nobody can take them for finished ones
        assert half.particles is seen[-1]
        assert half.x is half.particles.x
        assert half.designs is None
        assert bool(half.rewards.isnan().all())
        assert half.rewards.shape == half.log_w.shape == (3, 4)
        with pytest.raises(ValueError, match=f"stopped at step {cut}.*particles"):
            half.best()
        rest = method(p.process, p.reward, (3, 4), start=half.particles, **more)
        assert rest.particles is None
        for a, b in ((rest.designs.x, whole.designs.x), (rest.x, whole.x)):
            assert torch.equal(a, b)
        for field in ("rewards", "log_w", "log_z"):
            a, b = getattr(rest, field), getattr(whole, field)
            assert (a is None) == (b is None) == (not estimates(name) and field == "log_z")
            assert a is None or torch.equal(a, b)
        trace = half.trace + rest.trace
        for field in ("step", "network_calls", "reward_calls"):
            assert [getattr(s, field) for s in trace] == [getattr(s, field) for s in whole.trace]
        for a, b in zip(trace, whole.trace, strict=True):
            assert torch.equal(a.log_z, b.log_z)
            assert torch.equal(a.lam, b.lam)


@pytest.mark.parametrize(("begin", "stop"), [(-1, None), (2, 1), (0, 99), (1, None)])
def test_steps_outside_the_chain_are_refused(problems, begin, stop):
    p = problems["masked-random"]
    with pytest.raises(ValueError, match="is no part of a chain of 3 steps"):
        ENTRIES["smc"].load()()(
            p.process, p.reward, (1, 2), rng=Streams(0, [0]), begin=begin, stop=stop
        )


@pytest.mark.parametrize(("name", "problem"), PAIRS)
@pytest.mark.parametrize(("b", "k"), [(1, 1), (1, 8), (4, 1), (4, 8)])
def test_shapes(problems, problem, name, b, k):
    p, method, steps = problems[problem], ENTRIES[name].load()(), []
    rng = Streams(0, range(b))
    samples = method(p.process, p.reward, (b, k), rng=rng, observe=lambda s, _: steps.append(s))
    assert samples.designs.shape == (b, k)
    assert samples.rewards.shape == samples.log_w.shape == (b, k)
    # a matrix product's last bit depends on the size of the batch
    again = p.reward(samples.designs).double()
    assert torch.allclose(samples.rewards, again, rtol=1e-12, atol=1e-12)
    assert samples.log_w.dtype == torch.float64
    assert (samples.log_z is not None) == estimates(name)
    if samples.log_z is not None:
        assert samples.log_z.shape == (b,)
    assert torch.isclose(samples.weights.sum(), torch.tensor(1.0, dtype=torch.float64))
    assert tuple(steps) == samples.trace
    assert [s.step for s in steps] == list(range(last(name, method, p, k) + 1))
    for s in steps:
        assert (
            s.ess.shape
            == s.lam.shape
            == s.log_z.shape
            == s.value_mean.shape
            == s.value_max.shape
            == (b,)
        )
        assert s.ancestors is None or s.ancestors.shape == (b, k)
    assert len(samples.best(3)) <= 3
    best = samples.rewards[tuple(samples.best(1)[0])]
    assert best == samples.rewards.max()


@pytest.mark.parametrize(("name", "problem"), PAIRS)
def test_inputs_are_never_mutated(name, problem):
    p = exact.PROBLEMS[problem]()
    method = ENTRIES[name].load()()
    process, reward = p.process, p.reward
    rng, start = Streams(0, range(2)), p.process.prior((2, 5), Streams(7, range(2)))
    held = {
        "start": start.clone(),
        "times": process.times.clone(),
        "method": repr(method),
        "rng": copy.deepcopy(rng),
        "reward": {k: copy.deepcopy(v) for k, v in vars(reward).items()},
        "process": {f.name: getattr(process, f.name) for f in dataclasses.fields(process)},
    }
    network = getattr(process, "network", None)
    table = None if network is None else network.logits.clone()
    method(process, reward, (2, 5), rng=rng, start=start)
    assert torch.equal(start, held["start"])
    assert torch.equal(process.times, held["times"])
    assert repr(method) == held["method"]
    assert rng == held["rng"]
    assert vars(reward).keys() == held["reward"].keys()
    for key, v in held["reward"].items():
        assert (
            torch.equal(v, getattr(reward, key))
            if isinstance(v, torch.Tensor)
            else v == getattr(reward, key)
        )
    for key, v in held["process"].items():
        assert getattr(process, key) is v, key
    if table is not None:
        assert torch.equal(network.logits, table)
        assert network.logits.grad is None


@pytest.mark.parametrize(("name", "problem"), STRANGE)
def test_a_kind_it_is_not_made_for_is_refused_before_any_call(problems, name, problem):
    p = problems[problem]
    calls = []
    slot = "network" if p.process.discrete else "denoiser"
    process = dataclasses.replace(p.process, **{slot: lambda x, t: calls.append(x)})
    with pytest.raises(TypeError, match=rf"{name}.*(continuous states|one random position)"):
        ENTRIES[name].load()()(process, p.reward, (1, 4), rng=Streams(0, [0]))
    assert not calls


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for name in OWN
        for kind in ("masked", "parallel", "uniform")
        if fits({"masked": "masked-random"}.get(kind, kind), name)
    ],
)
def test_every_design_obeys_the_design_space(name, kind):
    space = exact.space(allowed=("AB", "ABC", "BC"), wild_type="ABC", budget=1)
    p = (
        exact.uniform(space=space)
        if kind == "uniform"
        else exact.masked({"masked": "random"}.get(kind, kind), space=space)
    )
    samples = run(p, ENTRIES[name].load()(), 4, 16)
    assert bool(space.contains(samples.designs.x).all())
    assert not any(space.violations(s) for island in samples.designs.sequences for s in island)


@pytest.mark.parametrize("name", OWN)
def test_what_cannot_work_is_refused_before_any_call(name):
    p, method = exact.masked(), ENTRIES[name].load()
    calls = []

    def network(x, t):
        calls.append(x.shape)
        return p.process.network(x, t)

    process = dataclasses.replace(p.process, network=network)
    rng = Streams(0, [0])
    known = p if fits("masked-random", name) else exact.gaussian()
    with pytest.raises(ValueError, match="alpha"):
        method(alpha=-1.0)(known.process, known.reward, (1, 4), rng=rng)
    if "revealing" in kinds(name):
        with pytest.raises(TypeError, match="gradient"):
            method()(process, exact.Plain(p.reward), (1, 4), rng=rng)
        for blocks in (((1, 3),),):
            tied = dataclasses.replace(process, blocks=blocks)
            with pytest.raises(TypeError, match="tied positions are revealed together"):
                method()(tied, p.reward, (1, 4), rng=rng)
        assert not calls
        return
    with pytest.raises(TypeError, match="DesignSpace"):
        method()(
            exact.gaussian().process, exact.gaussian().reward, (1, 4), rng=rng, space=exact.space()
        )
    gaussian = exact.gaussian(eta=0.0)
    # these take no step of the process, move what they denoise, or only weigh
    if name not in ("pnp_ula", "newton_guidance", "best_of_n"):
        with pytest.raises(ValueError, match="eta = 0"):
            method()(gaussian.process, gaussian.reward, (1, 4), rng=rng)
    if name in ("tds", "das", "guidance"):
        with pytest.raises(TypeError, match="gradient"):
            method()(process, exact.Plain(p.reward), (1, 4), rng=rng)
    elif name in ("pnp_ula", "newton_guidance"):
        with pytest.raises(TypeError, match="gradient"):
            method()(gaussian.process, exact.Plain(gaussian.reward), (1, 4), rng=rng)
    else:
        method()(p.process, exact.Plain(p.reward), (1, 4), rng=rng)
    assert not calls
