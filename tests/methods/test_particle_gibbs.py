"""Particle Gibbs: the law p* of whole trajectories is stationary, and the chain forgets its start.

Trajectories drawn from the target by rejection are still of the target after some sweeps, with
every process, proposal and selection; a long run from nothing has the target's law.
"""

from __future__ import annotations

from dataclasses import replace

import exact
import pytest
import torch
from checks import mean_is

from seqalign.core import gibbs
from seqalign.core.proposal import Base, Tilted
from seqalign.core.selection import Resample
from seqalign.core.streams import Streams
from seqalign.core.tempering import Adaptive, Constant
from seqalign.core.value import PosteriorSample
from seqalign.core.wrappers import Counted
from seqalign.methods.particle_gibbs import ParticleGibbs

BUDGET = exact.space(wild_type="CAB", budget=2)
ALWAYS = Resample("ssp", 1.0)
CHAINS = {
    "random": (lambda: exact.masked("random"), ParticleGibbs(proposal=Tilted(), resample=ALWAYS)),
    "random-space": (
        lambda: exact.masked("random", space=BUDGET),
        ParticleGibbs(tempering=Adaptive(0.8, pace=0.0), resample=ALWAYS),
    ),
    "parallel": (
        lambda: exact.masked("parallel", drift=0.4, steps=5),
        ParticleGibbs(value=PosteriorSample(1), resample=ALWAYS),
    ),
    "parallel-space": (
        lambda: exact.masked("parallel", space=BUDGET),
        ParticleGibbs(proposal=Tilted(), tempering=Constant(0.6), resample=Resample("ssp", 0.8)),
    ),
    "uniform": (
        lambda: exact.uniform(steps=4),
        ParticleGibbs(tempering=Constant(), resample=ALWAYS),
    ),
    "uniform-space": (
        lambda: exact.uniform(steps=4, space=exact.space(wild_type="CAB", budget=1)),
        ParticleGibbs(tempering=Constant(), resample=ALWAYS),
    ),
    "gaussian": (exact.gaussian, ParticleGibbs(proposal=Tilted(), resample=ALWAYS)),
    "gaussian-base": (
        exact.PROBLEMS["gaussian-flow"],
        ParticleGibbs(tempering=Constant(), resample=Resample("ssp", 0.9)),
    ),
}


def along(path: torch.Tensor) -> torch.Tensor:
    """Test functions (N, F) of whole paths (N, T + 1, *event): states, and pairs of neighbors."""
    if path.is_floating_point():
        found = path, path * path, path[:, 1:] * path[:, :-1]
    else:
        hot = torch.nn.functional.one_hot(path, 4).double()
        pairs = hot[:, 1:, :, None, :, None] * hot[:, :-1, None, :, None, :]
        found = hot, pairs
    return torch.cat([f.flatten(1) for f in found], 1)


@pytest.mark.parametrize("name", CHAINS)
def test_the_target_is_stationary(name):
    make, method = CHAINS[name]
    p, method = make(), replace(method, particles=3)
    old = torch.stack(exact.target_paths(p, 40_000, 21), 1)
    islands, chain = len(old), gibbs.Chain(old)
    assert islands > 1_500
    loop = method.loop(p.process, p.reward, p.space)
    for sweep in range(2):
        streams = Streams(22, range(islands)).at(sweep)
        end, new, _ = gibbs.sweep(loop, (islands, 3), streams, chain)
        assert torch.equal(new[:, -1], end.x[:, 0])
        chain = replace(chain, path=new)
    assert float((new != old).flatten(1).any(1).double().mean()) > 0.6, "the chain hardly moves"
    mean_is(p.features(end.x)[:, 0], p.expected)
    # what the paths were drawn from, at every step: each island is compared with itself
    change = along(new) - along(old)
    mean_is(change[:, (change != 0).sum(0) > 200], 0.0)


@pytest.mark.parametrize("name", ["random-space", "parallel", "uniform"])
def test_a_long_run_has_the_law_of_the_target(name):
    """Total variation to the enumerated p*, whatever the chain begins with."""
    make, method = CHAINS[name]
    p, k = make(), 40
    samples = replace(method, particles=3, burn_in=10)(
        p.process, p.reward, (400, k), rng=Streams(23, range(400)), space=p.space
    )
    assert samples.log_z is None
    assert bool((samples.log_w == 0).all())
    v, length = len(p.process.alphabet), p.process.length
    code = (samples.designs.x * v ** torch.arange(length - 1, -1, -1)).sum(-1)
    # (islands, designs): how often each design stands in each chain
    often = torch.nn.functional.one_hot(code, v**length).double().mean(1)
    mean_is(often[:, p.target > 0.005], torch.tensor(p.target)[p.target > 0.005])
    gap = 0.5 * (often.mean(0) - torch.tensor(p.target)).abs().sum()
    # what as many chains that are right would be off by
    noise = 0.5 * (often.std(0) / 400**0.5).sum()
    assert float(gap) < 2 * float(noise), (float(gap), float(noise))
    # and not what the chain begins with: best of 3 would be far away
    first = replace(method, particles=3, burn_in=0)(
        p.process, p.reward, (16_000, 1), rng=Streams(24, range(16_000)), space=p.space
    )
    code = (first.designs.x * v ** torch.arange(length - 1, -1, -1)).sum(-1)
    law = torch.nn.functional.one_hot(code, v**length).double().mean((0, 1))
    assert float(0.5 * (law - torch.tensor(p.target)).abs().sum()) > 2 * float(gap)


def test_the_kept_path_is_renewed_to_its_beginning_where_letters_change():
    p = exact.gaussian()
    path = torch.stack(exact.target_paths(p, 4_000, 25), 1)
    chain, islands = gibbs.Chain(path), len(path)
    method = ParticleGibbs(particles=3, tempering=Constant(), resample=ALWAYS)
    loop = method.loop(p.process, p.reward)
    _, new, _ = gibbs.sweep(loop, (islands, 3), Streams(26, range(islands)), chain)
    # the end is the old one and its beginning is not: only a new ancestor does that
    same = (new[:, -1] == path[:, -1]).all(-1)
    fresh = (new[:, 0] != path[:, 0]).any(-1)
    assert int((same & fresh).sum()) > 0.02 * islands


def test_a_run_costs_its_sweeps_and_islands_are_chains_of_their_own():
    p = exact.masked("random")
    reward = Counted(p.reward)
    method = ParticleGibbs(particles=4, burn_in=3)
    whole = method(p.process, reward, (3, 5), rng=Streams(27, range(3)))
    steps, visits = len(p.process.times) - 1, 3 * 4 * 8
    assert whole.network_calls == visits * steps
    assert whole.reward_calls == reward.calls == visits * (steps + 1)
    assert len(whole.trace) == 8
    alone = method(p.process, p.reward, (1, 5), rng=Streams(27, [1]))
    assert torch.equal(alone.designs.x[0], whole.designs.x[1])
    # more designs go on with the same chain
    more = method(p.process, p.reward, (3, 7), rng=Streams(27, range(3)))
    assert torch.equal(more.designs.x[:, :5], whole.designs.x)
    assert whole.designs.x.flatten(0, 1).unique(dim=0).shape[0] > 3


def test_trajectories_begin_where_they_are_told():
    # refinement: from states at a step, each of an island's as likely as the others
    p = exact.masked("random", bias=0.4)
    x = torch.tensor([[3, 1, 3], [3, 2, 3]]).expand(300, 2, 3)
    method = ParticleGibbs(particles=3, burn_in=10, tempering=Constant(), resample=ALWAYS)
    rng = Streams(28, range(300))
    samples = method(p.process, p.reward, (300, 30), rng=rng, start=x, begin=1)
    laws = [exact.masked_law(p.process.network, 3, "random", [3, a, 3], begin=1) for a in (1, 2)]
    target = exact.enumerated(p.process, p.reward, 1.0, sum(laws) / 2)
    mean_is(target.features(samples.designs.x).mean(1), target.expected)


def test_a_chain_that_found_nothing_goes_on_until_it_does():
    reward = exact.Rejecting(exact.PairReward(3, 3, 11, 0.6), letter=1)
    p = exact.masked("random", reward=reward)
    method = ParticleGibbs(particles=2, burn_in=0, resample=ALWAYS)
    samples = method(p.process, p.reward, (200, 40), rng=Streams(29, range(200)))
    dead = torch.isneginf(samples.log_w)
    assert 0 < int(dead[:, 0].sum()) < 200
    assert int(dead[:, -1].sum()) == 0
    assert torch.equal(dead, torch.isneginf(samples.rewards))
    assert not bool((dead[:, 1:] & ~dead[:, :-1]).any()), "what was found is never lost"


def test_settings_that_cannot_work_are_refused():
    p = exact.masked("random")
    for bad in ({"particles": 1}, {"burn_in": -1}):
        with pytest.raises(ValueError, match="particles >= 2"):
            ParticleGibbs(**bad)
    run = {"rng": Streams(0, [0])}
    with pytest.raises(ValueError, match="stop counts sweeps: choose 0 <= stop <= 11"):
        ParticleGibbs()(p.process, p.reward, (1, 4), stop=12, **run)
    with pytest.raises(ValueError, match="give start where begin > 0"):
        ParticleGibbs()(p.process, p.reward, (1, 4), begin=1, **run)
    assert ParticleGibbs().proposal == Base()
