"""Run islands: one island is the unit of work, and nothing else changes its result.

Random streams are keyed by the global island id and every island is sent through the network
alone, so a run that was interrupted and continued gives the bits of an undisturbed one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seqalign.design_space import DesignSpace
from seqalign.discrete import MaskedProcess
from seqalign.metrics import mutations
from seqalign.objective import (
    Cached,
    Chunked,
    Clip,
    Command,
    Counted,
    Function,
    OnFailure,
    Reward,
    Sum,
    ZScore,
    calibrate,
    function,
)
from seqalign.particles import Samples, Step
from seqalign.process import Designs
from seqalign.registry import Method, Model, SpecError, build_method, load_method
from seqalign.store import RunFolder, fasta, to_csv, write_atomic
from seqalign.streams import Streams

__all__ = [
    "REFERENCES",
    "Arm",
    "Picks",
    "Progress",
    "Rehearsal",
    "Result",
    "RewardMaker",
    "check_designs",
    "join",
    "open_zscores",
    "reference_designs",
    "rehearse",
    "run_arm",
    "sample",
    "settle",
]

# (arm, island, step)
Progress = Callable[[str, int, Step], None]
REFERENCES = 64
"""Unguided designs that fix the constants of a zscore."""


class RewardMaker:
    """Turn a Python function or an external command into a reward, in one line."""

    def __call__(
        self,
        fn: Callable[[Any], Any],
        name: str | None = None,
        *,
        unit: str = "",
        on_failure: OnFailure = "raise",
    ) -> Function:
        """Wrap a function from n sequences to n numbers; higher is better."""
        return function(fn, name, unit=unit, on_failure=on_failure)

    def command(
        self, command: str, name: str | None = None, *, unit: str = "", timeout: float = 3600.0
    ) -> Command:
        """Wrap a program: `{fasta}` becomes a file of sequences, stdout is one number per line."""
        return Command(command, name or command.split()[0], unit, timeout=timeout)


@dataclass(frozen=True)
class Arm:
    """One sampler of a run: the aligned one, or a baseline.

    Attributes:
        name: unique within the run.
        method: what draws.
        particles: designs per island.
        streams: purpose of its random numbers; () for the aligned arm, as in `sample`.
    """

    name: str
    method: Method
    particles: int
    streams: tuple[str, ...] = ()


def join(parts: Sequence[Samples]) -> Samples:
    """Put islands side by side, (B, K)."""
    first = parts[0]
    steps = []
    for rows in zip(*(p.trace for p in parts), strict=True):
        moved = [
            torch.arange(p.rewards.shape[1])[None] if s.ancestors is None else s.ancestors
            for p, s in zip(parts, rows, strict=True)
        ]
        steps.append(
            Step(
                step=rows[0].step,
                ess=torch.cat([s.ess for s in rows]),
                lam=torch.cat([s.lam for s in rows]),
                log_z=torch.cat([s.log_z for s in rows]),
                value_mean=torch.cat([s.value_mean for s in rows]),
                value_max=torch.cat([s.value_max for s in rows]),
                ancestors=torch.cat(moved) if any(s.ancestors is not None for s in rows) else None,
                network_calls=sum(s.network_calls for s in rows),
                reward_calls=sum(s.reward_calls for s in rows),
            )
        )
    log_z = [p.log_z for p in parts if p.log_z is not None]
    return Samples(
        replace(first.designs, x=torch.cat([p.designs.x for p in parts])),
        torch.cat([p.rewards for p in parts]),
        torch.cat([p.log_w for p in parts]),
        torch.cat(log_z) if len(log_z) == len(parts) else None,
        tuple(steps),
    )


def run_arm(
    arm: Arm,
    model: Model,
    reward: Reward,
    *,
    seed: int,
    islands: Iterable[int],
    folder: RunFolder | None = None,
    progress: Progress | None = None,
) -> tuple[Samples, float]:
    """Run, or load, the islands of an arm; return (B, K) samples and the seconds they took.

    Raises:
        RewardError: a reward broke its contract.
        RuntimeError: a design breaks a constraint, which would be a bug in the sampler.
    """
    parts: list[Samples] = []
    total = 0.0
    for island in islands:
        known = folder.load_island(arm.name, island, model.process.alphabet) if folder else None
        if known is None:
            begin = time.perf_counter()

            def observe(step: Step, island: int = island) -> None:
                if progress is not None:
                    progress(arm.name, island, step)

            samples = arm.method(
                model.process,
                reward,
                (1, arm.particles),
                rng=Streams(seed, (island,)).at(*arm.streams),
                space=model.space,
                observe=observe,
            )
            seconds = time.perf_counter() - begin
            check_designs(samples, model.space)
            if folder is not None:
                folder.save_island(arm.name, island, samples, seconds)
        else:
            samples, seconds = known
            if progress is not None:
                for step in samples.trace:
                    progress(arm.name, island, step)
        parts.append(samples)
        total += seconds
    return join(parts), total


def check_designs(samples: Samples, space: DesignSpace) -> None:
    """Check every emitted design once more, letter by letter.

    A design with weight zero (its reward was rejected, or its island died) carries no claim and
    is left out.

    Raises:
        RuntimeError: a design breaks a constraint.
    """
    for b, row in enumerate(samples.designs.sequences):
        for k, sequence in enumerate(row):
            broken = space.violations(sequence)
            if broken and float(samples.log_w[b, k]) > -torch.inf:
                raise RuntimeError(
                    f"Design {k} of island {b} breaks a constraint ({'; '.join(broken[:3])}): "
                    f"{sequence}. "
                    f"This is a bug in seqalign; please report it with the campaign and the seed."
                )


# calibration --------------------------------------------------------------------------------------


def open_zscores(reward: Reward) -> bool:
    """Return whether a zscore in a reward still lacks its constants."""
    if isinstance(reward, Sum):
        return any(open_zscores(r) for _, r in reward.terms)
    if isinstance(reward, ZScore) and reward.mean is None:
        return True
    if isinstance(reward, (Clip, ZScore, Counted, Cached, Chunked)):
        return open_zscores(reward.inner)
    return False


def settle(
    model: Model, reward: Reward, seed: int, progress: Progress | None = None
) -> tuple[Reward, int]:
    """Fix open zscores from unguided designs of the space; return the reward and network calls."""
    if not open_zscores(reward):
        return reward, 0
    arm = Arm("calibration", load_method("best_of_n"), REFERENCES, ("calibrate",))
    nothing = Function(lambda items: [0.0] * len(items), "nothing")
    samples, _ = run_arm(arm, model, nothing, seed=seed, islands=[0], progress=progress)
    return calibrate(reward, samples.designs), samples.network_calls


# rehearsal ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rehearsal:
    """What one island will ask for, counted on two particles with an empty network.

    Attributes:
        network: network calls per particle; a backward pass counts as two.
        reward: calls of every guide reward per particle.
        steps: reports the run will make.
    """

    network: float
    reward: float
    steps: int


class _Blank(Reward):
    """Zero, with or without a gradient."""

    def __init__(self, differentiable: bool) -> None:
        self.name, self.differentiable = "rehearsal", differentiable

    def __call__(self, designs: Designs) -> Tensor:
        return torch.zeros(designs.shape, dtype=torch.float64)

    def relaxed(self, x: Tensor) -> Tensor:
        return 0.0 * x.double().flatten(2).sum(-1)


def rehearse(method: Method, model: Model, reward: Reward) -> Rehearsal:
    """Run a method with the network and the reward taken out: exact counts at no cost.

    Raises:
        TypeError: the method needs a gradient that the reward or model lacks.
        ValueError: a hyper-parameter is out of range.
    """
    v = len(model.process.alphabet)

    def flat(x: Tensor, t: float) -> Tensor:
        if x.is_floating_point():
            return 0.0 * x[..., :v]
        return torch.zeros((*x.shape, v), dtype=torch.float64)

    # the machinery's own cost per step is the same for any number of particles
    process: MaskedProcess = replace(model.process, network=flat, chunk=None)
    samples = method(
        process,
        _named(_Blank(reward.differentiable), reward.name),
        (1, 2),
        rng=Streams(0, (0,)),
        space=model.space,
    )
    return Rehearsal(samples.network_calls / 2, samples.reward_calls / 2, len(samples.trace))


def _named(blank: _Blank, name: str) -> _Blank:
    blank.name = name
    return blank


def reference_designs(model: Model, n: int = 3) -> Designs:
    """Return n allowed sequences near the wild type, (1, n), to try a reward on."""
    space = model.space
    letters = [space._options(i) for i in range(space.length)]
    base = [
        space.wild_type[i] if space.wild_type and space.wild_type[i] in some else some[0]
        for i, some in enumerate(letters)
    ]
    found = ["".join(base)]
    for i, some in enumerate(letters):
        other = [a for a in some if a != base[i]]
        if not other or len(found) >= n:
            continue
        trial = "".join([*base[:i], other[0], *base[i + 1 :]])
        if not space.violations(trial):
            found.append(trial)
    return Designs.of([found[i % len(found)] for i in range(n)], space.alphabet)


# the Python door ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picks:
    """Some designs of a result, best first."""

    sequences: list[str]
    rewards: list[float]
    log_w: list[float]
    wild_type: str | None = None
    residues: Sequence[str] | None = None

    def __len__(self) -> int:
        """Count the designs."""
        return len(self.sequences)

    def to_fasta(self, path: str | Path) -> None:
        """Write FASTA with sample, reward and, given a wild type, mutations in the header."""
        records = []
        for n, (s, r) in enumerate(zip(self.sequences, self.rewards, strict=True), 1):
            header = f"sample={n}, reward={r:.4f}"
            if self.wild_type:
                header += (
                    f", mutations={':'.join(mutations(s, self.wild_type, self.residues)) or 'none'}"
                )
            records.append((header, s))
        write_atomic(Path(path), fasta(records))

    def to_csv(self, path: str | Path) -> None:
        """Write CSV with sequence, mutations, reward and log-weight."""
        rows = [
            {
                "sample": n,
                "sequence": s,
                "mutations": ":".join(mutations(s, self.wild_type, self.residues))
                if self.wild_type
                else "",
                "reward": r,
                "log_w": w,
            }
            for n, (s, r, w) in enumerate(
                zip(self.sequences, self.rewards, self.log_w, strict=True), 1
            )
        ]
        write_atomic(
            Path(path), to_csv(rows, ("sample", "sequence", "mutations", "reward", "log_w"))
        )


@dataclass(frozen=True)
class Result:
    """Weighted designs and how they came about.

    Attributes:
        samples: (B, K) weighted designs.
        model: what was sampled from.
        reward: what was aligned to, with every constant fixed.
        method: how.
        seed: the run's seed.
        calibration_calls: network calls spent on zscore constants before the run.
    """

    samples: Samples
    model: Model
    reward: Reward
    method: Method
    seed: int
    calibration_calls: int = 0

    @property
    def log_z(self) -> Tensor | None:
        """Estimates of log Z, (B,); None for methods that are not consistent."""
        return self.samples.log_z

    @property
    def trace(self) -> tuple[Step, ...]:
        """One `Step` per step."""
        return self.samples.trace

    @property
    def network_calls(self) -> int:
        """Network calls of the run, calibration included."""
        return self.samples.network_calls + self.calibration_calls

    @property
    def reward_calls(self) -> int:
        """Reward calls of the run."""
        return self.samples.reward_calls

    def best(self, n: int = 1) -> Picks:
        """Return the n distinct designs with the highest reward."""
        picks = self.samples.best(n).tolist()
        names = self.samples.designs.sequences
        return Picks(
            [names[b][k] for b, k in picks],
            [float(self.samples.rewards[b, k]) for b, k in picks],
            [float(self.samples.log_w[b, k]) for b, k in picks],
            self.model.wild_type,
            self.model.residues,
        )


def sample(
    model: Model,
    reward: Reward,
    method: str | Method = "das",
    *,
    islands: int = 1,
    particles: int = 64,
    alpha: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    **params: Any,
) -> Result:
    """Sample islands × particles designs from p_pre(x) · exp(reward(x) / alpha).

    `params` are the method's: `sample(model, reward, "das", alpha=0.3, tempering="adaptive")`.

    Raises:
        SpecError: the method or a parameter is unknown.
        TypeError: the method needs a gradient that the reward or the model lacks.
    """
    if islands < 1 or particles < 1:
        raise SpecError(f"islands and particles must be >= 1, got {islands} and {particles}.")
    if isinstance(method, str):
        given = params if alpha is None else {"alpha": alpha, **params}
        method = build_method(method, given)
    elif params or alpha is not None:
        raise SpecError(
            f"The method is already built ({method!r}); set "
            f"{', '.join([*params, *(['alpha'] if alpha is not None else [])])} "
            f"there, or give the method's name."
        )
    rehearse(method, model, reward)
    fixed, calls = settle(model, reward, seed)
    arm = Arm("aligned", method, particles)
    samples, _ = run_arm(arm, model, fixed, seed=seed, islands=range(islands), progress=progress)
    return Result(samples, model, fixed, method, seed, calls)
