"""Particle Gibbs: a Markov chain over whole trajectories with few particles and stationary law p*.

A sweep is SMC in which one particle follows the trajectory drawn in the sweep before; the first
keeps nothing. More sweeps do what more particles do in SMC, and every design weighs the same. Where
letters change, a kept trajectory draws new ancestors; a revealed letter stays, so that on masked
processes only the draw at the end renews it.

References:
    Andrieu, Doucet & Holenstein, "Particle Markov chain Monte Carlo methods", JRSS B 2010, section
    4.5. Lindsten, Jordan & Schön, "Particle Gibbs with ancestor sampling", JMLR 2014, algorithm 2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from seqalign.core.budget import Budget
from seqalign.core.gibbs import Ancestral, Chain, run
from seqalign.core.method import Looped, samples
from seqalign.core.objective import Reward
from seqalign.core.particles import Particles, Samples
from seqalign.core.process import Process, Space
from seqalign.core.proposal import Base, Proposal
from seqalign.core.selection import Resample
from seqalign.core.smc import SMC, Observe
from seqalign.core.streams import Streams
from seqalign.core.tempering import Fitted, Tempering
from seqalign.core.value import Automatic, Value

__all__ = ["ParticleGibbs"]


@dataclass(frozen=True)
class ParticleGibbs(Looped):
    """Conditional SMC sweeps: the K designs of an island are the draws of K sweeps in a row.

    An island is one chain: (burn_in + K) sweeps of `particles` each, so that it costs as much as
    SMC with particles · (burn_in + K). `stop` and the steps of the trace count sweeps, the first is
    0. States given as `start` at step `begin` of the process are where all trajectories begin, each
    of an island's as likely as the others.

    Attributes:
        particles: trajectories in a sweep, the kept one included; 2 or more.
        burn_in: sweeps before the first design is taken, the one that keeps nothing included.
    """

    particles: int = 8
    burn_in: int = 8
    value: Value = Automatic()
    tempering: Tempering = Fitted()
    proposal: Proposal = Base()
    resample: Resample = Resample()

    def __post_init__(self) -> None:
        """Refuse what is no chain."""
        if self.particles < 2 or self.burn_in < 0:
            raise ValueError(
                f"particle_gibbs needs particles >= 2, one of them kept, and burn_in >= 0; got "
                f"{self.particles} and {self.burn_in}."
            )

    def loop(self, process: Process, reward: Reward, space: Space | None = None) -> SMC:
        """Return the sampler of one sweep."""
        parts = self.value, self.proposal, self.tempering
        keep = Ancestral(self.resample, process)
        return SMC(process, reward, self.alpha, *parts, selection=keep, space=space)

    def __call__(
        self,
        process: Process,
        reward: Reward,
        shape: tuple[int, int],
        *,
        rng: Streams,
        space: Space | None = None,
        start: Particles | Tensor | None = None,
        begin: int = 0,
        stop: int | None = None,
        budget: Budget | None = None,
        observe: Observe | None = None,
    ) -> Samples:
        """Draw (B, K) designs, one per sweep; see `Method`. There is no estimate of log Z."""
        loop, steps = self.loop(process, reward, space), len(process.times) - 1
        state = start if isinstance(start, Particles) else None
        x = None if isinstance(start, Particles) else start
        chain = Chain(start=x, begin=begin) if state is None else state.posterior
        first, last = 0 if state is None else state.step, self.burn_in + shape[1] - 1
        stop = last if stop is None else stop
        if not first <= stop <= last:
            raise ValueError(f"stop counts sweeps: choose {first} <= stop <= {last}, not {stop}.")
        if not 0 <= begin < steps or (start is None and begin > 0):
            raise ValueError(
                f"begin = {begin} is no step of {steps} at which trajectories begin: choose "
                f"0 <= begin < {steps}, and give start where begin > 0."
            )
        done = run(loop, shape, self.particles, last, rng, state, chain, stop, budget, observe)
        return replace(samples(loop, *done), log_z=None)
