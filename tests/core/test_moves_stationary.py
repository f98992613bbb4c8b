"""A move leaves the law of a particle alone: what is drawn from it exactly still follows it.

The target after some steps is enumerated from the definition: Π p along a path · h · exp(lam · v).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

import exact
import numpy as np
import pytest
import torch

from seqalign.core.gaussian import RectifiedFlow
from seqalign.core.moves import Redraw, Remask
from seqalign.core.particles import Particles
from seqalign.core.reorder import Reorder
from seqalign.core.selection import Resample
from seqalign.core.smc import SMC
from seqalign.core.streams import Streams
from seqalign.methods.smc import PlainSMC
from seqalign.methods.tds import TDS

ALWAYS = Resample("ssp", 1.0)
TIED = exact.constrained(tie=[[1, 4]])
N, LAM, LENGTH = 20_000, 0.7, 4


@dataclass(frozen=True)
class Law:
    """The target of a loop after n steps, over routes.

    Attributes:
        at: (R, n) positions in the order of their reveals.
        letters: (R, n) what they became.
        odds: (R, n) log-probability of each reveal.
        pi: (R,) the target.
    """

    loop: SMC
    at: np.ndarray
    letters: np.ndarray
    odds: np.ndarray
    pi: np.ndarray

    def state(self, which: np.ndarray, before: int = 0) -> Particles:
        """One island of particles that came by these routes, as they stand now or steps before."""
        loop, steps = self.loop, self.at.shape[1] - before
        at, letters, odds = (
            torch.tensor(v[which][None, :, :steps]) for v in (self.at, self.letters, self.odds)
        )
        x = loop.process.prior((1, len(which)), Streams(0, [0]))
        x = x if loop.space is None else loop.space.start(x)
        order = torch.zeros_like(x).scatter(-1, at, torch.arange(1, steps + 1).expand_as(at))
        x, odds = x.scatter(-1, at, letters), torch.zeros(x.shape).double().scatter(-1, at, odds)
        begun = loop._look(x, loop._times[steps], Streams(0, [0])).begin(x, steps, 0.0)
        lam, twist = torch.full((1,), LAM).double(), LAM * begun.value
        return replace(begun, lam=lam, log_twist=twist, order=order, odds=odds)

    def counts(self, particles: Particles, paths: bool) -> tuple[np.ndarray, np.ndarray]:
        """How many particles have each route, or are in each state, and the law of these."""
        own = named(self.state(np.arange(len(self.pi))), paths)
        names, place = np.unique(own, return_inverse=True)
        found, count = np.unique(named(particles, paths), return_counts=True)
        counts = np.zeros(len(names))
        counts[[int(np.flatnonzero(names == name)[0]) for name in found]] = count
        return counts, np.bincount(place, self.pi)


def named(particles: Particles, paths: bool) -> np.ndarray:
    """A number for the letters of each particle, and for the order in which they came."""
    assert particles.order is not None
    digits = torch.cat((particles.x[0], particles.order[0] * paths), -1)
    return (digits * 8 ** torch.arange(2 * LENGTH)).sum(-1).numpy()


def law(loop: SMC, step: int = 3) -> Law:
    """Enumerate the target after so many steps by the table of the network."""
    v = len(loop.process.alphabet)
    blank = loop.process.prior((1, 1), Streams(0, [0]))
    start = (blank if loop.space is None else loop.space.start(blank))[0, 0].numpy()
    open_ = np.flatnonzero(start == v)
    logits = loop.process.network.at(0.0) / loop.process.temperature
    probs = torch.log_softmax(logits, -1).numpy()
    some = itertools.product(
        itertools.permutations(open_.tolist(), step), itertools.product(range(v), repeat=step)
    )
    at, letters = (np.array(v) for v in zip(*some, strict=True))
    rows, x = np.arange(len(at)), np.tile(start, (len(at), 1))
    odds = np.zeros(at.shape)
    for n in range(step):
        state = x @ (v + 1) ** np.arange(LENGTH - 1, -1, -1)
        odds[:, n] = probs[state, at[:, n], letters[:, n]] - math.log(len(open_) - n)
        x[rows, at[:, n]] = letters[:, n]
    whole = Law(loop, at, letters, odds, np.zeros(len(at)))
    end = whole.state(rows)
    # a new particle's weight is h
    log_pi = odds.sum(-1) + (end.log_w + end.log_twist)[0].numpy()
    pi = np.exp(log_pi - log_pi.max())
    return replace(whole, pi=pi / pi.sum())


def drawn(pi: np.ndarray, n: int = N) -> np.ndarray:
    """Draw from a law, exactly."""
    return np.random.default_rng(1).choice(len(pi), n, p=pi)


def assert_follows(counts: np.ndarray, pi: np.ndarray) -> None:
    """Total variation as independent draws have it, and no count far off."""
    n = counts.sum()
    usual = (pi * (1 - pi)).clip(min=0) ** 0.5
    variation = 0.5 * np.abs(counts / n - pi).sum()
    bound = usual.sum() / math.sqrt(2 * math.pi * n) + exact.FALSE_ALARM / (2 * math.sqrt(n))
    assert variation <= bound, f"total variation {variation:.4f}, at most {bound:.4f} expected"
    often = n * pi > 20
    off = np.abs(counts - n * pi)[often] / math.sqrt(n) / usual[often]
    assert off.max() <= exact.FALSE_ALARM, f"a count is {off.max():.1f} standard errors off"


def moved(found: Law, move: Any, which: np.ndarray, seed: int = 2) -> tuple[Particles, float]:
    """Apply a move to particles that came by these routes."""
    particles, before = found.state(which), found.state(which, 1)
    able = torch.isfinite(particles.value) & torch.isfinite(particles.log_w)
    loop = replace(found.loop, move=move)
    out, rate = move(loop, before, particles, able, Streams(seed, [0]))
    return out, float(rate)


def loop_of(bias: float, space: Any, tilted: bool, **settings: Any) -> SMC:
    """The loop of a masked chain; `bias` makes its conditionals disagree."""
    p = exact.masked("random", length=LENGTH, steps=LENGTH, bias=bias, space=space)
    process = replace(p.process, **settings)
    return (TDS() if tilted else PlainSMC()).loop(process, p.reward, space)


MOVES = {
    "redraw": (Redraw(), 1.5),
    "remask-2": (Remask(share=1.0, sites=2), 0.0),
    "remask-3": (Remask(share=1.0, sites=3), 0.0),
    "reorder-1": (Reorder(share=1.0, depth=1), 1.5),
    "reorder": (Reorder(share=1.0, depth=3), 1.5),
    "reorder-2": (Reorder(share=1.0, sites=2, depth=4), 1.5),
}
# tilted proposals inside a space; with a fixed letter nothing is open any more
WHERE = {
    "free": (None, False),
    "budget": (exact.space(wild_type="CABA", budget=1, length=4), True),
    "all": (exact.space("C___", ("ABC", "AC", "ABC", "ABC"), "CBBA", 2), True),
}


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("name", MOVES)
def test_a_move_leaves_the_law_alone(name, where):
    (move, bias), (space, tilted) = MOVES[name], WHERE[where]
    found = law(loop_of(bias, space, tilted))
    out, rate = moved(found, replace(move, sweeps=2), drawn(found.pi))
    assert 0.05 < rate < 1
    assert_follows(*found.counts(out, paths=False))
    if isinstance(move, Reorder):
        assert_follows(*found.counts(out, paths=True))


@pytest.mark.parametrize("sites", [1, 2])
def test_a_short_path_is_moved_as_far_as_it_goes(sites):
    found = law(loop_of(1.5, None, True), step=2)
    move = Reorder(share=1.0, depth=4, sites=sites)
    out, rate = moved(found, move, drawn(found.pi))
    assert rate > 0.2
    assert_follows(*found.counts(out, paths=True))
    # what was open is revealed as often as what was hidden
    then = found.state(drawn(found.pi)).x
    assert float(((out.x == 3) != (then == 3)).any(-1).double().mean()) > 0.15


@pytest.mark.parametrize("name", ["remask-2", "reorder", "reorder-2"])
def test_a_shorter_island_keeps_its_padding(name):
    move, bias = MOVES[name]
    lengths = torch.tensor([[True, False, True, True]])
    found = law(loop_of(bias, None, True, event_mask=lengths))
    out, _ = moved(found, replace(move, sweeps=2), drawn(found.pi))
    assert_follows(*found.counts(out, paths=isinstance(move, Reorder)))


@pytest.mark.parametrize("move", [Remask(sites=2), Reorder(sites=2, depth=3)], ids=repr)
@pytest.mark.parametrize("chunk", [None, 3])
def test_islands_alone_are_islands_together(move, chunk):
    p = exact.masked("random", length=LENGTH, steps=LENGTH)
    p = exact.replaced(p, chunk=chunk)
    loop = TDS(resample=ALWAYS, move=move).loop(p.process, p.reward)
    whole, _ = loop.run((6, 4), Streams(36, range(6)))
    alone, _ = loop.run((1, 4), Streams(36, (3,)))
    assert torch.equal(whole.x[3:4], alone.x)
    assert torch.allclose(whole.log_w[3:4], alone.log_w, atol=1e-12)


@pytest.mark.parametrize(
    "move", [Remask(share=1.0, sites=2, sweeps=3), Reorder(share=1.0, depth=3, sweeps=3)], ids=repr
)
def test_where_conditionals_disagree_only_a_move_of_paths_is_exact(move):
    found = law(loop_of(0.5, None, False, temperature=0.4))
    counts, pi = found.counts(moved(found, move, drawn(found.pi))[0], paths=False)
    if isinstance(move, Reorder):
        assert_follows(counts, pi)
        return
    with pytest.raises(AssertionError):
        assert_follows(counts, pi)


@pytest.mark.parametrize("move", [m for m, _ in MOVES.values() if isinstance(m, Reorder)], ids=repr)
def test_a_path_is_remembered_as_it_was(move):
    found = law(loop_of(1.5, WHERE["budget"][0], True))
    out, _ = moved(found, replace(move, sweeps=4), drawn(found.pi, 500))
    routes = found.state(np.arange(len(found.pi)))
    names = named(routes, paths=True).tolist()
    now = named(out, paths=True).tolist()
    assert set(now) <= set(names)
    same = found.state(np.array([names.index(name) for name in now]))
    assert torch.allclose(out.odds, same.odds)
    assert torch.allclose(out.log_twist, same.log_twist)
    for field in ("value", "log_h", "score"):
        assert torch.allclose(getattr(out, field), getattr(same, field))


@pytest.mark.parametrize("name", ["remask-2", "reorder-2"])
def test_two_sites_swap_what_a_budget_lets_no_single_site_change(name):
    """A full budget: the one mutation can only go to another position together with its return."""
    move, bias = MOVES[name]
    found = law(loop_of(bias, WHERE["all"][0], True))
    wild = torch.tensor([2, 1, 1, 0])
    places = []
    for sites in (1, 2):
        which = drawn(found.pi, 4000)
        then = found.state(which).x[0] != wild
        now = moved(found, replace(move, sites=sites), which)[0].x[0] != wild
        full = then.sum(-1) == 2
        places.append(int((full & (now.sum(-1) == 2) & (now != then).any(-1)).sum()))
    assert places[0] == 0 < places[1]


@pytest.mark.parametrize("mix", [1.0, 0.7])
@pytest.mark.parametrize("eta", [1.0, 0.5])
def test_langevin_moves_leave_the_law_alone(eta, mix):
    """The law of the next state is Gaussian under a value that is quadratic: known, and drawn."""
    p = exact.gaussian(RectifiedFlow() if eta < 1 else None, eta=eta)
    move = Redraw(mix=mix, drift=True, sweeps=3)
    loop, step, lam = TDS(move=move).loop(p.process, p.reward), 2, torch.full((1,), 0.8).double()
    root = p.process.prior((1, 1), Streams(3, [0])).expand(1, N, 2)
    times = loop._times

    def state(x: torch.Tensor, i: int) -> Particles:
        begun = loop._look(x, times[i], Streams(0, [0])).begin(x, i, 0.0)
        return replace(begun, lam=lam, log_twist=lam[:, None] * begun.value)

    before = state(root, step - 1)
    base = p.process.transition(before.x, before.posterior, times[step - 1], times[step])
    # the gradient of the twist is linear: its slope and what it is at 0, from three states
    corners = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]]).double()
    g = 0.8 * state(corners, step).score[0]
    precision = torch.eye(2).double() / base.sigma**2 - (g[1:] - g[0])
    cov = torch.linalg.inv(precision)
    mean = cov @ (base.mean[0, 0] / base.sigma**2 + g[0])
    noise = Streams(4, [0]).normal((1, N, 2))
    x = mean + noise @ torch.linalg.cholesky(cov).T
    out, rate = move(loop, before, state(x, step), torch.ones(1, N).bool(), Streams(5, [0]))
    assert 0.3 < float(rate) <= 1
    assert float((out.x != x).any(-1).double().mean()) > 0.3
    z = torch.linalg.solve_triangular(torch.linalg.cholesky(cov), (out.x[0] - mean).T, upper=False)
    found = torch.stack((z[0], z[1], z[0] ** 2 - 1, z[1] ** 2 - 1, z[0] * z[1]))
    off = found.mean(-1).abs() / found.std(-1) * math.sqrt(N)
    assert float(off.max()) < exact.FALSE_ALARM


def test_langevin_moves_are_taken_more_often_than_those_without_a_drift():
    p = exact.gaussian()
    rates = []
    for drift in (False, True):
        method = TDS(resample=ALWAYS, move=Redraw(mix=0.8, drift=drift))
        samples = p.run(method, (4000, 2), 6)
        exact.assert_exact(samples, p, error=0.02)
        rates.append(float(torch.stack([s.accepted.mean() for s in samples.trace[1:-1]]).mean()))
    assert rates[1] > rates[0] + 0.02, rates


@pytest.mark.parametrize("where", ["free", "budget"])
def test_runs_with_moves_of_paths_are_exact(where):
    """From the first step to the last, with paths that selection copies."""
    space, tilted = WHERE[where]
    p = exact.masked("random", length=4, steps=4, bias=1.0, space=space, scale=0.4)
    method = (TDS if tilted else PlainSMC)(resample=ALWAYS, move=Reorder(sites=2, depth=3))
    exact.assert_exact(p.run(method, (8000, 2), 8), p, error=0.02)


def test_letters_that_were_given_stay_and_their_order_with_them():
    p = exact.masked("random", length=4, steps=4, bias=1.0)
    start = torch.tensor([2, 3, 3, 3]).expand(1, 64, 4)
    method = PlainSMC(move=Reorder(share=1.0, sweeps=4))
    seen = []
    method(
        p.process, p.reward, (1, 64), rng=Streams(0, (0,)), start=start, begin=1,
        observe=lambda _, particles: seen.append(particles),
    )  # fmt: skip
    assert all(bool((at.x[..., 0] == 2).all()) for at in seen)
    assert all(bool((at.order[..., 0] == 0).all()) for at in seen[1:])
    assert sorted(seen[-1].order[0, 0].tolist()) == [0, 2, 3, 4]


def test_calls_of_a_move_are_as_many_as_it_says():
    p = exact.masked("random", length=4, steps=4)
    plain = p.run(PlainSMC(), (3, 4)).network_calls
    for move, each in (
        (Remask(share=1.0, sites=2, every=3), 3), (Reorder(share=1.0, depth=3, every=3), 5),
        (Reorder(share=1.0, depth=3, sites=2, every=3), 7),
    ):  # fmt: skip
        assert p.run(PlainSMC(move=move), (3, 4)).network_calls == plain + 12 * each


def test_what_moves_of_several_letters_cannot_serve_is_refused():
    p, g = exact.masked("random"), exact.gaussian()
    parallel, tied = exact.masked("parallel"), exact.masked(length=4, steps=4, space=TIED)
    for problem, method, cure in (
        (g, TDS(move=Reorder()), "use redraw"),
        (parallel, TDS(move=Reorder()), "order 'random'"),
        (tied, TDS(move=Reorder()), "tied"),
        (p, TDS(move=Remask(sites=4)), "4 of 3"),
        (p, TDS(move=Reorder(sites=4)), "4 of 3"),
        (p, TDS(move=Redraw(drift=True)), "drift = false"),
        (g, PlainSMC(move=Redraw(drift=True)), "use tds"),
    ):
        with pytest.raises(ValueError, match=cure):
            method.loop(problem.process, problem.reward, problem.space)
    for broken in ({"sites": 0}, {"sites": 3, "depth": 2}, {"every": 0}):
        with pytest.raises(ValueError, match="needs"):
            Reorder(**broken)
