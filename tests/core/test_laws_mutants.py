"""Laws of the loop that published bugs have broken and that exactness alone may not notice.

Each kills a mutant of `tests/mutants.py`: what comes back belongs together, islands are their own,
the schedule starts at 0
and ends by counting steps.
"""

from __future__ import annotations

import exact
import pytest
import torch

from seqalign.core.discrete import MaskedProcess
from seqalign.core.particles import log_mean_exp
from seqalign.core.potential import Max, Sum
from seqalign.core.proposal import DEFENSE, Tilted, defended
from seqalign.core.resampling import ess
from seqalign.core.selection import Keep, Resample
from seqalign.core.smc import SMC
from seqalign.core.streams import Streams
from seqalign.core.tempering import Adaptive, Linear
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
    "smc": PlainSMC(resample=ALWAYS),
    "tds": TDS(resample=ALWAYS),
    "das": DAS(resample=ALWAYS),
    "fk": FKSteering(potential=Max(), resample=ALWAYS),
    "svdd": SVDD(branch=3),
    "greedy": SVDD(alpha=0.0, branch=3),
    "nested_is": NestedIS(branch=3),
    "beam": Beam(branch=3),
    "guidance": Guidance(),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("order", ["random", "parallel"])
def test_designs_and_rewards_belong_together(order, method):
    """A method returns the particles it weighed, not the mode of what it saw one step before."""
    p = exact.masked(order)
    samples = METHODS[method](p.process, p.reward, (20, 4), rng=Streams(0, range(20)))
    assert torch.allclose(samples.rewards, p.reward(samples.designs))


@pytest.mark.parametrize("method", ["best_of_n", "smc", "tds", "das", "fk", "nested_is"])
def test_each_island_has_the_log_z_it_has_alone(method):
    """No logsumexp runs over the batch: neither log Z nor weights know the other islands."""
    p = exact.masked("random")
    whole = METHODS[method](p.process, p.reward, (6, 5), rng=Streams(0, range(6)))
    for b in (0, 3):
        alone = METHODS[method](p.process, p.reward, (1, 5), rng=Streams(0, [b]))
        assert torch.allclose(alone.log_z[0], whole.log_z[b], atol=1e-9)
        assert torch.allclose(alone.log_w[0], whole.log_w[b], atol=1e-9)
    assert float(whole.log_z.std()) > 0


@pytest.mark.parametrize("potential", [Max(), Sum()])
def test_potentials_telescope(potential):
    """Without resampling a run of any potential ends with the weights of importance sampling."""
    p = exact.masked("random")
    rng = Streams(3, range(30))
    loop = SMC(p.process, p.reward, 1.0, potential=potential, selection=Keep(), tempering=Linear())
    state, trace = loop.run((30, 4), rng)
    assert torch.allclose(state.log_w, state.reward, atol=1e-9)
    assert torch.allclose(trace[-1].log_z, log_mean_exp(state.reward), atol=1e-9)


def test_tilted_weights_telescope_too():
    """Σ log p − log q, step by step from the trace of states, is what the weight says."""
    p = exact.masked("parallel")
    rng = Streams(4, range(10))
    loop = SMC(p.process, p.reward, 1.0, proposal=Tilted(), selection=Keep(), tempering=Linear())
    state, _ = loop.init((10, 4), rng)
    shift = torch.zeros(10, 4, dtype=torch.float64)
    times = p.process.times.tolist()
    for i in range(1, len(times)):
        before = state
        state, _ = loop.step(state, rng)
        base = p.process.transition(
            before.x, p.process.posterior(before.x, times[i - 1]), times[i - 1], times[i]
        )
        lam = (
            torch.ones(10).double()
            if i == len(times) - 1
            else torch.full((10,), i / (len(times) - 1))
        )
        tilted = base.tilt(lam.double()[:, None, None, None] * before.score)
        q = defended(tilted, base, DEFENSE / (len(times) - 1))
        shift = shift + base.log_prob(state.x) - q.log_prob(state.x)
    assert torch.allclose(state.log_w, state.reward + shift, atol=1e-8)


def test_tempering_starts_at_zero_and_keeps_its_pace():
    p = exact.masked("random")
    loop = SMC(p.process, p.reward, 1.0, tempering=Adaptive(0.5, 1.0))
    state, _ = loop.init((8, 16), Streams(0, range(8)))
    assert bool((state.lam == 0).all())
    assert bool((state.log_twist == 0).all())
    n = len(p.process.times) - 1
    state, trace = loop.run((8, 16), Streams(0, range(8)))
    for step in trace[:-1]:
        assert bool((step.lam <= step.step / n + 1e-12).all())
    assert bool((trace[-1].lam == 1).all())


class Rounding(MaskedProcess):
    """A chain whose last time is a rounding error away from 0, as repeated subtraction gives."""

    @property
    def times(self):
        out, t = [1.0], 1.0
        for _ in range(self.steps):
            t -= 1.0 / self.steps
            out.append(t)
        assert out[-1] != 0
        return torch.tensor(out, dtype=torch.float64)


def test_the_last_step_is_counted_not_compared():
    p = exact.masked("random")
    odd = Rounding(p.process.network, p.process.alphabet, 3, 3)
    rng = Streams(0, range(50))
    loop = SMC(odd, p.reward, 1.0, tempering=Linear(), selection=ALWAYS)
    state, _ = loop.run((50, 4), rng)
    assert state.reward is not None
    assert bool((state.lam == 1).all())
    plain = MaskedProcess(p.process.network, p.process.alphabet, 3, 3)
    want, _ = SMC(plain, p.reward, 1.0, tempering=Linear(), selection=ALWAYS).run((50, 4), rng)
    assert torch.allclose(state.log_z, want.log_z, atol=1e-9)


def test_resampling_keeps_what_is_known_about_z():
    """log_z + log mean w is the same before and after selection, and islands that did not resample
    keep their weights.
    """
    p = exact.masked("random")
    rng = Streams(5, range(200))
    free = SMC(p.process, p.reward, 0.3, tempering=Linear(), selection=Keep())
    tied = SMC(p.process, p.reward, 0.3, tempering=Linear(), selection=Resample("ssp", 0.8))
    before, _ = free.run((200, 4), rng, stop=1)
    after, _ = tied.run((200, 4), rng, stop=1)
    moved = ess(before.log_w) < 0.8 * 4
    assert 10 < int(moved.sum()) < 190
    known = [s.log_z + log_mean_exp(s.log_w) for s in (before, after)]
    assert torch.allclose(known[0], known[1], atol=1e-9)
    assert torch.equal(before.log_w[~moved], after.log_w[~moved])
    assert bool((after.log_w[moved] == 0).all())
