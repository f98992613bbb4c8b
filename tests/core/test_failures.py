"""A value or a gradient that is no number is exact, and counted: by steps, and in health."""

from __future__ import annotations

from dataclasses import replace

import exact
import pytest
import torch

from seqalign.core.health import examine
from seqalign.core.objective import Reward
from seqalign.core.particles import join
from seqalign.core.proposal import Tilted
from seqalign.core.selection import Keep, Resample
from seqalign.core.smc import SMC
from seqalign.core.streams import Streams
from seqalign.core.tempering import Linear
from seqalign.core.value import Linearized, PosteriorMean, PosteriorMode
from seqalign.methods.particle_gibbs import ParticleGibbs
from seqalign.methods.smc import PlainSMC
from seqalign.methods.tds import TDS

ALWAYS = Resample("ssp", 1.0)


def lost(mean: torch.Tensor) -> torch.Tensor:
    """Which letter probabilities (B, K, L, V) are in trouble: any rule will do."""
    return mean[..., 0, 0] > mean[..., 1, 1]


class NoGradient(Reward):
    """The same reward, whose derivative is NaN for some letter probabilities."""

    name = "no gradient"
    differentiable = True

    def __init__(self, inner: Reward) -> None:
        self.inner = inner

    def __call__(self, designs):
        return self.inner(designs)

    def relaxed(self, x):
        bad = lost(x)
        z = (x - x.detach()).sum((-1, -2))
        # √z² is 0 with derivative 0/0
        return self.inner.relaxed(x) + torch.sqrt(torch.where(bad, z * z, 1.0)) - 1.0 + bad.double()


class Root(Reward):
    """Σ a[i, x_i], as the square roots of probabilities have it: steep only where nothing is."""

    name = "roots"
    differentiable = True

    def __init__(self) -> None:
        self.a = exact.PairReward(3, 3, 11, 0.6).additive

    def relaxed(self, x):
        return (x.sqrt() * self.a).sum((-1, -2))

    def __call__(self, designs):
        return self.relaxed(torch.nn.functional.one_hot(designs.x, 3).double())


BROKEN = NoGradient(exact.PairReward(3, 3, 11, 0.6))


def counted(loop: SMC, shape: tuple[int, int], rng: Streams):
    """Return the share of particles in trouble at each step but the last, by hand, and the rows."""
    shares = []

    def observe(row, particles):
        mean = loop.process.posterior(particles.x, loop._times[row.step]).mean
        shares.append(lost(mean).double().mean(-1))

    _, rows = loop.run(shape, rng, observe=observe)
    return shares[:-1], rows[:-1]


@pytest.mark.parametrize("value", [PosteriorMean(), Linearized(), PosteriorMode()], ids=repr)
@pytest.mark.parametrize("through", ["posterior", "network"])
def test_failed_gradients_are_counted(through, value):
    p = exact.masked("random", reward=BROKEN)
    loop = SMC(
        p.process, p.reward, 1.0, proposal=Tilted(through), value=value, selection=Keep(),
        tempering=Linear(),
    )  # fmt: skip
    shares, rows = counted(loop, (5, 8), Streams(0, range(5)))
    assert 0 < float(torch.stack(shares).mean()) < 1
    for share, row in zip(shares, rows, strict=True):
        assert torch.equal(row.failed_gradients, share)
        # a value made linear is no better than its gradient
        assert torch.equal(row.failed_values, share * isinstance(value, Linearized))
    # in chunks, the particles that did not change keep their count
    chunked = replace(loop, process=replace(p.process, chunk=3))
    shares, rows = counted(chunked, (5, 8), Streams(0, range(5)))
    for share, row in zip(shares, rows, strict=True):
        assert torch.equal(row.failed_gradients, share)


def test_failed_values_are_counted_with_and_without_a_gradient():
    broken = exact.Rejecting(exact.PairReward(3, 3, 11, 0.6), letter=1, broken=True)
    for reward, value in ((broken, PosteriorMean()), (BROKEN, Linearized())):
        p = exact.masked("random", reward=reward)
        loop = SMC(p.process, p.reward, 1.0, value=value, selection=Keep(), tempering=Linear())
        shares, rows = counted(loop, (5, 8), Streams(1, range(5)))
        assert 0 < float(torch.stack(shares).mean()) < 1
        for share, row in zip(shares, rows, strict=True):
            assert torch.equal(row.failed_values, share)
            assert bool((row.failed_gradients == 0).all())


@pytest.mark.parametrize(
    "method",
    [TDS(value=PosteriorMean()), TDS(), PlainSMC()],
    ids=["tds", "linear", "smc"],
)
def test_a_failing_gradient_is_exact(method):
    p = exact.masked("random", reward=BROKEN)
    samples = p.run(replace(method, resample=ALWAYS), (8_000, 2), 2)
    exact.assert_exact(samples, p)
    assert bool((samples.trace[1].failed_values + samples.trace[1].failed_gradients > 0).any())


@pytest.mark.parametrize("value", [PosteriorMean(), Linearized()], ids=repr)
def test_a_letter_that_cannot_come_needs_no_gradient(value):
    p = exact.masked("random", reward=Root())
    samples = p.run(TDS(value=value, resample=ALWAYS), (8_000, 2), 3)
    exact.assert_exact(samples, p)
    for row in samples.trace:
        assert float(row.failed_gradients.max()) == float(row.failed_values.max()) == 0


@pytest.mark.parametrize("name", exact.CONSTRAINED)
def test_no_constraint_fails_a_sound_reward(name):
    space = exact.CONSTRAINED[name]()
    p = exact.masked("random", length=4, steps=4, space=space, scale=0.3)
    for through in ("posterior", "network"):
        samples = p.run(TDS(tilt=Tilted(through), resample=ALWAYS), (10, 4), 4)
        for row in samples.trace:
            assert float(row.failed_gradients.max()) == float(row.failed_values.max()) == 0


def test_dead_particles_are_not_counted():
    # what breaks the design space has no value, and that is no fault of the reward
    p = exact.masked("random", space=exact.space(wild_type="CAB", budget=1))
    samples = p.run(PlainSMC(value=PosteriorMode(), resample=ALWAYS), (40, 4), 5)
    for row in samples.trace:
        assert float(row.failed_values.max()) == 0


def test_health_tells_what_failed_and_a_chain_of_sweeps_counts_too():
    p = exact.masked("random", reward=BROKEN)
    parts = [p.run(TDS(), (2, 16), seed) for seed in (6, 7)]
    health = examine(join(parts), TDS())
    early = [s for part in parts for s in part.trace[:-1]]
    for name in ("failed_gradients", "failed_values"):
        by_hand = torch.stack([getattr(s, name) for s in early]).mean()
        assert getattr(health, name) == pytest.approx(float(by_hand))
    assert {"unguided", "failed"} <= {f.what for f in health.findings}
    # nothing was counted in runs of older versions
    old = [replace(part, trace=tuple(_old(s) for s in part.trace)) for part in parts]
    health = examine(join(old), TDS())
    assert health.failed_values is health.failed_gradients is None
    assert not {"unguided", "failed"} & {f.what for f in health.findings}
    gibbs = ParticleGibbs(proposal=Tilted(), particles=4, burn_in=2)
    health = examine(p.run(gibbs, (2, 16), 8), gibbs)
    assert 0.01 < health.failed_gradients < 1
    assert "unguided" in {f.what for f in health.findings}


def _old(step):
    return replace(step, failed_values=None, failed_gradients=None)
