"""Law 3: tilt(g) equals brute-force reweighting by exp(<g, relax(x_s)>), and its log_prob is
normalized.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import exact
import pytest
import torch
from checks import counts_are, mean_is
from torch import Tensor

from seqalign.core.discrete import Categorical, CategoricalPosterior, MaskedProcess, OneReveal
from seqalign.core.gaussian import Gaussian
from seqalign.core.process import draw
from seqalign.core.proposal import Tilted
from seqalign.core.sequence import Alphabet
from seqalign.core.streams import Streams
from seqalign.core.tempering import Adaptive
from seqalign.methods.das import DAS
from seqalign.methods.fk_steering import FKSteering
from seqalign.methods.guidance import Guidance
from seqalign.methods.pnp_ula import PnPULA
from seqalign.methods.tds import TDS
from seqalign.space.restrict import RestrictedReveal
from seqalign.space.space import DesignSpace

B, K, L, V = 2, 4, 3, 3
ABC = Alphabet("ABC")


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=gen(seed), dtype=torch.float64)


def states(letters: int, length: int = L) -> Tensor:
    return torch.tensor(list(itertools.product(range(letters), repeat=length)))


def log_probs(transition, support: Tensor, shape: tuple[int, int] = (B, K)) -> Tensor:
    """Return (B, K, S) log-probabilities of S states."""
    rows = [transition.log_prob(x.expand(*shape, -1).contiguous()) for x in support]
    return torch.stack(rows, -1)


def energy(g: Tensor, support: Tensor) -> Tensor:
    """Return <g, relax(x)> for S states, (B, K, S)."""
    return torch.stack([g[..., torch.arange(g.shape[-2]), x].sum(-1) for x in support], dim=-1)


def categorical(seed: int = 1) -> Categorical:
    logits = randn(B, K, L, V + 1, seed=seed, scale=2.0)
    logits[0, 0, 1, 2] = -torch.inf
    logits[1, 2, 0, :3] = -torch.inf
    return Categorical(torch.log_softmax(logits, -1))


def reveal(x_t: list[list[list[int]]], seed: int) -> OneReveal:
    states = torch.tensor(x_t)
    process = MaskedProcess(lambda x, t: randn(*x.shape, V, seed=seed, scale=2.0), ABC, L, L)
    transition = process.transition(states, process.posterior(states, 1.0), 1.0, 0.5)
    assert isinstance(transition, OneReveal)
    return transition


def one_reveal() -> OneReveal:
    first = [[3, 3, 3], [3, 0, 3], [1, 2, 3], [0, 1, 2]]
    return reveal([first, [[3, 1, 3], [2, 3, 0], [2, 2, 2], [3, 3, 0]]], seed=2)


def open_reveal() -> OneReveal:
    """As many open positions in every particle: rows for those alone."""
    first = [[3, 3, 0], [3, 0, 3], [1, 3, 3], [3, 3, 2]]
    transition = reveal([first, [[3, 1, 3], [3, 3, 0], [2, 3, 3], [3, 3, 0]]], seed=3)
    assert transition.columns is not None
    return transition


MAKERS = {"categorical": categorical, "one_reveal": one_reveal, "open_reveal": open_reveal}


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("scale", [0.0, 1.0, 20.0])
def test_tilt_is_brute_force_reweighting(maker, scale):
    p, support = MAKERS[maker](), states(V + 1)
    g = randn(B, K, L, V + 1, seed=5, scale=scale)
    base = log_probs(p, support)
    assert torch.allclose(base.exp().sum(-1), torch.ones(B, K).double(), atol=1e-12)
    brute = torch.log_softmax(base + energy(g, support), -1)
    tilted = log_probs(p.tilt(g), support)
    assert torch.allclose(tilted.exp().sum(-1), torch.ones(B, K).double(), atol=1e-12)
    assert torch.equal(torch.isneginf(tilted), torch.isneginf(brute))
    live = torch.isfinite(brute)
    assert torch.allclose(tilted[live], brute[live], atol=1e-10)


@pytest.mark.parametrize("maker", MAKERS)
def test_tilting_twice_tilts_by_the_sum_and_zero_changes_nothing(maker):
    p, support = MAKERS[maker](), states(V + 1)
    g, f = randn(B, K, L, V + 1, seed=6), randn(B, K, L, V + 1, seed=7)
    twice = log_probs(p.tilt(g).tilt(f), support).exp()
    assert torch.allclose(twice, log_probs(p.tilt(g + f), support).exp(), atol=1e-12)
    same = log_probs(p.tilt(torch.zeros_like(g)), support).exp()
    assert torch.allclose(same, log_probs(p, support).exp(), atol=1e-12)


@pytest.mark.parametrize("maker", MAKERS)
def test_a_constant_per_position_cancels(maker):
    p, support = MAKERS[maker](), states(V + 1)
    g = randn(B, K, L, V + 1, seed=6)
    shifted = g + randn(B, K, L, 1, seed=8, scale=5.0)
    a, b = log_probs(p.tilt(g), support).exp(), log_probs(p.tilt(shifted), support).exp()
    assert torch.allclose(a, b, atol=1e-10)


def many(transition, b: int, k: int, n: int):
    """Repeat one particle n times on one island."""

    def rows(v: Tensor) -> Tensor:
        return v[b : b + 1, k : k + 1].expand(1, n, *v.shape[2:])

    if isinstance(transition, Categorical):
        return Categorical(rows(transition.log_probs))
    return OneReveal(
        rows(transition.x_t),
        rows(transition.log_position),
        rows(transition.log_letter),
        None if transition.columns is None else rows(transition.columns).contiguous(),
    )


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("tilt", [False, True])
def test_samples_follow_log_prob(maker, tilt):
    n, support = 20000, states(V + 1)
    p = MAKERS[maker]()
    if tilt:
        p = p.tilt(randn(B, K, L, V + 1, seed=9, scale=1.5))
    law = log_probs(p, support).exp()
    place = (V + 1) ** torch.arange(L).flip(0)
    for b, k in ((0, 0), (0, 1), (1, 3), (1, 2)):
        q = many(p, b, k, n)
        x, log_q = draw(q, Streams(3, (b,)).at(k))
        assert torch.allclose(log_q, q.log_prob(x), atol=1e-12)
        counts = torch.bincount((x[0] * place).sum(-1), minlength=len(support))
        counts_are(counts, law[b, k])


def test_one_reveal_refuses_every_move_but_one_masked_position():
    p = one_reveal()
    x_t = p.x_t[0, 1]  # particle (0, 1) is _A_
    legal = dict.fromkeys(("AA_", "BA_", "CA_", "_AA", "_AB", "_AC"), True)
    wrong = ("AAA", "_A_", "_B_", "AB_", "_BA", "CBC", "__A", "A_A", "A__", "___")
    assert ABC.decode(x_t[None]) == ["_A_"]
    for word, ok in (legal | dict.fromkeys(wrong, False)).items():
        tokens = ABC.encode([word])[0].expand(B, K, L)
        assert bool(torch.isfinite(p.log_prob(tokens)[0, 1])) == ok, word


def test_a_finished_particle_stays_whatever_the_tilt():
    p = one_reveal().tilt(randn(B, K, L, V + 1, seed=3, scale=50.0))
    x, log_q = p.draw(Streams(0, (0, 1)))
    done = ~p.masked.any(-1)
    assert int(done.sum()) == 2
    assert torch.equal(x[done], p.x_t[done])
    assert bool((log_q[done] == 0).all())
    assert bool((p.log_prob(p.x_t)[done] == 0).all())
    assert bool(torch.isneginf(p.log_prob(p.x_t)[~done]).all())
    assert not bool(torch.isnan(p.log_letter[p.masked]).any())


def test_known_positions_contribute_nothing():
    """The tilt of the parallel kernel and of one reveal never counts letters that are already
    there.
    """
    x_t = torch.tensor([[[3, 0, 3], [1, 2, 3]]])
    for order in ("random", "parallel"):
        process = MaskedProcess(lambda x, t: randn(*x.shape, V, seed=4), ABC, L, L, order)
        p = process.transition(x_t, process.posterior(x_t, 1.0), 1.0, 0.5)
        g = randn(1, 2, L, V + 1, seed=5)
        other = torch.where((x_t == 3)[..., None], g, g + randn(1, 2, L, V + 1, seed=6, scale=9.0))
        support = states(V + 1)
        a = log_probs(p.tilt(g), support, (1, 2)).exp()
        assert torch.allclose(a, log_probs(p.tilt(other), support, (1, 2)).exp(), atol=1e-12)


def test_gaussian_tilt_is_brute_force_reweighting_by_quadrature():
    mean, g, sigma = randn(B, K, 1, seed=1), randn(B, K, 1, seed=2, scale=2.0), 0.7
    grid = torch.linspace(-15, 15, 6001, dtype=torch.float64)
    p = Gaussian(mean, sigma)
    step = float(grid[1] - grid[0])
    base = torch.stack([p.log_prob(x.expand(B, K, 1)) for x in grid], -1)
    assert torch.allclose(base.exp().sum(-1) * step, torch.ones(B, K).double(), atol=1e-9)
    brute = torch.log_softmax(base + g * grid, -1) - math.log(step)
    tilted = torch.stack([p.tilt(g).log_prob(x.expand(B, K, 1)) for x in grid], -1)
    assert torch.allclose(tilted.exp().sum(-1) * step, torch.ones(B, K).double(), atol=1e-9)
    near = brute > -200
    assert torch.allclose(tilted[near], brute[near], atol=1e-7)


def test_gaussian_events_add_up_and_tilts_compose():
    mean, g, f = (randn(B, K, 2, 3, seed=s) for s in (1, 2, 3))
    p, x = Gaussian(mean, 0.4), randn(B, K, 2, 3, seed=4)
    law = torch.distributions.Normal(mean, 0.4)
    assert torch.allclose(p.log_prob(x), law.log_prob(x).sum((-1, -2)))
    assert torch.allclose(p.tilt(g).tilt(f).mean, p.tilt(g + f).mean)
    # the log-ratio is <g, x> minus one constant per particle
    ratio = p.tilt(g).log_prob(x) - p.log_prob(x)
    y = randn(B, K, 2, 3, seed=5)
    other = p.tilt(g).log_prob(y) - p.log_prob(y)
    assert torch.allclose(ratio - other, (g * (x - y)).sum((-1, -2)))


def test_gaussian_samples_follow_the_density():
    p = Gaussian(torch.full((1, 40000, 1), 1.5).double(), 0.3).tilt(torch.tensor(2.0).double())
    x = p.sample(Streams(0, (0,)))[0, :, 0]
    mean_is(x, 1.5 + 0.09 * 2)
    mean_is((x - 1.68) ** 2, 0.09)


def test_sigma_zero_stays_and_adds_nothing():
    mean = randn(B, K, 2, seed=1)
    p = Gaussian(mean, 0.0)
    q = p.tilt(randn(B, K, 2, seed=2))
    assert torch.equal(q.mean, mean)
    assert torch.equal(q.sample(Streams(0, (0, 1))), mean)
    assert torch.equal(q.log_prob(mean), torch.zeros(B, K).double())


# the parallel kernel under a budget ---------------------------------------------------------------


def restricted(budget: int, seed: int, tilt: float = 0.0):
    """A budgeted parallel reveal with wild-type letters forbidden at one position and one known
    mutation.
    """
    length = 4
    space = exact.space("____", ("ABC", "BC", "AB", "ABC"), "AACB", budget)
    x_t = torch.tensor([[[3, 3, 3, 3], [3, 3, 1, 3], [3, 1, 3, 1], [0, 3, 3, 3]]])
    logits = randn(1, 4, length, V, seed=seed, scale=1.5)
    process = MaskedProcess(lambda x, t: logits, ABC, length, 4, "parallel")
    posterior = process.posterior(x_t, 0.75)
    log_h, guide = space.condition(posterior, x_t, x_t == 3)
    q = process.transition(x_t, guide, 0.75, 0.5)
    if tilt:
        q = q.tilt(randn(1, 4, length, V + 1, seed=seed + 1, scale=tilt))
    r = space.restrict(q, x_t, guide, x_t == 3)
    return space, x_t, guide, q, r, log_h


def brute_reveal(space: DesignSpace, x_t: Tensor, guide: CategoricalPosterior, q, k: int) -> dict:
    """Return the law of one particle: reveal set from q, letters ∝ Π q_i(a_i) · P(the rest stays in
    A).
    """
    law: dict[tuple[int, ...], float] = {}
    state = x_t[0, k].tolist()
    p, pi = q.log_probs[0, k].exp(), guide.log_probs[0, k].exp()
    letters = p[:, :V] / p[:, :V].sum(-1, keepdim=True)
    open_ = [i for i, a in enumerate(state) if a == V]
    for size in range(len(open_) + 1):
        for chosen in itertools.combinations(open_, size):
            hidden = [i for i in open_ if i not in chosen]
            rate = math.prod(float(p[i, :V].sum()) for i in chosen)
            rate *= math.prod(float(p[i, V]) for i in hidden)
            table: dict[tuple[int, ...], float] = {}
            for some in itertools.product(range(V), repeat=size):
                word = list(state)
                for i, a in zip(chosen, some, strict=True):
                    word[i] = a
                ahead = 0.0
                for rest in itertools.product(range(V), repeat=len(hidden)):
                    full = list(word)
                    for i, a in zip(hidden, rest, strict=True):
                        full[i] = a
                    if not space.violations(ABC.decode(torch.tensor([full]))[0]):
                        ahead += math.prod(
                            float(pi[i, a]) for i, a in zip(hidden, rest, strict=True)
                        )
                table[tuple(word)] = ahead * math.prod(
                    float(letters[i, a]) for i, a in zip(chosen, some, strict=True)
                )
            total = sum(table.values())
            for word, mass in table.items():
                if mass > 0:
                    law[word] = law.get(word, 0.0) + rate * mass / total
    return law


@pytest.mark.parametrize("budget", [2, 3, 4])
@pytest.mark.parametrize("tilt", [0.0, 1.0])
def test_restricted_reveal_is_the_conditional_law(budget, tilt):
    space, x_t, guide, q, r, log_h = restricted(budget, seed=budget, tilt=tilt)
    # four mutations of four positions are no constraint
    assert isinstance(r, RestrictedReveal if budget < 4 else Categorical)
    support = states(V + 1, 4)
    law = log_probs(r, support, (1, 4))
    for k in range(4):
        if not math.isfinite(float(log_h[0, k])):
            continue
        brute = brute_reveal(space, x_t, guide, q, k)
        assert abs(sum(brute.values()) - 1) < 1e-12
        assert abs(float(law[0, k].exp().sum()) - 1) < 1e-10
        for x, value in zip(support.tolist(), law[0, k].tolist(), strict=True):
            want = brute.get(tuple(x), 0.0)
            if want == 0:
                assert value == -math.inf
            else:
                assert abs(value - math.log(want)) < 1e-9


def test_restricted_reveal_draws_its_own_log_prob():
    n, support = 12000, states(V + 1, 4)
    space, x_t, guide, q, r, log_h = restricted(2, seed=3)
    law = log_probs(r, support, (1, 4)).exp()
    place = (V + 1) ** torch.arange(4).flip(0)
    assert bool(torch.isfinite(log_h[0, :2]).all())
    for k in (0, 1):

        def rows(v: Tensor, k: int = k) -> Tensor:
            return v[:, k : k + 1].expand(1, n, *v.shape[2:])

        wide = RestrictedReveal(
            space.lookahead, Categorical(rows(q.log_probs)), rows(x_t), guide.map(rows),
            rows(x_t) == V,
        )  # fmt: skip
        x, log_q = wide.draw(Streams(1, (0,)).at(k))
        assert torch.allclose(log_q, wide.log_prob(x), atol=1e-10)
        counts_are(torch.bincount((x[0] * place).sum(-1), minlength=len(support)), law[0, k])


@pytest.mark.parametrize("limit", [None, 0.3, 2.5, math.inf])
def test_a_tilt_moves_a_continuous_state_no_further_than_its_limit(limit):
    """At most so many standard deviations, along the gradient; below them by all of it."""
    q, lam = Gaussian(randn(2, 5, 3, 4, seed=1), 0.2), torch.tensor([0.5, 1.0], dtype=torch.float64)
    score = randn(2, 5, 3, 4, seed=2) * torch.logspace(-3, 6, 5).double()[:, None, None]
    score[1, 3] = 0.0
    moved = (Tilted(scale=0.7, limit=limit)(q, score, lam).mean - q.mean).flatten(2)
    whole = (0.2**2 * 0.7 * lam[:, None, None, None] * score).flatten(2)
    far, all_of_it = moved.norm(dim=-1) / 0.2, whole.norm(dim=-1) / 0.2
    most = math.inf if limit is None else limit
    assert torch.allclose(far, all_of_it.clamp(max=most), rtol=1e-9)
    assert torch.allclose(moved * all_of_it[..., None], whole * far[..., None], atol=1e-9)
    assert bool((all_of_it > most).any()) == (most != math.inf)


class Near(exact.Quadratic):
    """A reward whose gradient says little far away."""

    def __init__(self, inner: exact.Quadratic, reach: float | None) -> None:
        self.c, self.a, self.reach = inner.c, inner.a, reach


def test_a_limit_that_is_open_is_what_the_reward_reaches():
    """The nearest of all terms, under any wrapper; what carries no weights has none."""
    p = exact.gaussian()
    one, two, whole = (Near(p.reward, reach) for reach in (0.4, 2.0, None))
    for reward, most in (
        (whole, math.inf),
        (one, 0.4),
        (0.3 * two + 2.0 * whole, 2.0),
        (two.clip(-5.0, 5.0) - 1e-3 * one.zscore(0.0, 1.0), 0.4),
    ):
        for method in (DAS(), TDS(), FKSteering(proposal=Tilted())):
            assert method.loop(p.process, reward).proposal.limit == most
        assert DAS(tilt=Tilted(limit=7.0)).loop(p.process, reward).proposal.limit == 7.0
        for method in (Guidance(), PnPULA()):
            assert method.loop(p.process, reward).proposal.limit == math.inf
    assert Guidance(tilt=Tilted(limit=2.0)).loop(p.process, one).proposal.limit == 2.0


@pytest.mark.parametrize("method", [TDS(), DAS(tempering=Adaptive(0.5))], ids=["tds", "das"])
def test_any_limit_is_exact(method):
    p = exact.gaussian()
    near = replace(p, reward=Near(p.reward, 0.1))
    exact.assert_exact(near.run(method, (15_000, 2), 3), near)


def test_letters_know_no_standard_deviation():
    g = randn(B, K, L, V + 1, seed=4, scale=50.0)
    tilted = Tilted(limit=1e-3)(categorical(), g, torch.ones(B, dtype=torch.float64))
    assert torch.equal(tilted.log_probs, categorical().tilt(g).log_probs)
    with pytest.raises(ValueError, match="limit > 0, got 0"):
        Tilted(limit=0)
