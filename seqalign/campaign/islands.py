"""Run islands: one island is the unit of work, and nothing else changes its result.

Random streams are keyed by the global island id and every island is sent through the network
alone, so a run that was interrupted and continued gives the bits of an undisturbed one. An image
model has one island per prompt, or several, and the streams of a prompt are keyed by its words:
what it gives does not depend on the prompts beside it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast, overload

import torch
from torch import Tensor

from seqalign.api import ImageResult, Result
from seqalign.campaign.store import RunFolder
from seqalign.core.discrete import MaskedProcess
from seqalign.core.gaussian import GaussianProcess
from seqalign.core.objective import (
    Cached,
    Chunked,
    Clip,
    Counted,
    Function,
    Reward,
    Sum,
    ZScore,
    calibrate,
)
from seqalign.core.particles import Samples, Step
from seqalign.core.process import Designs, Process
from seqalign.core.streams import Streams
from seqalign.registry import ImageModel, Method, Model, SpecError, build_method, load_method
from seqalign.space.space import DesignSpace

__all__ = [
    "REFERENCES",
    "Arm",
    "Progress",
    "Rehearsal",
    "check_designs",
    "join",
    "open_zscores",
    "reference_designs",
    "references",
    "rehearse",
    "run_arm",
    "sample",
    "settle",
]

# (arm, island, step)
Progress = Callable[[str, int, Step], None]
REFERENCES = 64
"""Unguided designs that fix the constants of a zscore."""


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
    prompts = None
    if first.designs.prompts is not None:
        prompts = tuple(prompt for p in parts for prompt in p.designs.prompts)
    return Samples(
        replace(first.designs, x=torch.cat([p.designs.x for p in parts]), prompts=prompts),
        torch.cat([p.rewards for p in parts]),
        torch.cat([p.log_w for p in parts]),
        torch.cat(log_z) if len(log_z) == len(parts) else None,
        tuple(steps),
    )


def _place(
    model: Model | ImageModel, island: int, seed: int, replicates: int
) -> tuple[Process, Streams]:
    """Return the process and the random streams of one island."""
    if isinstance(model, Model):
        return model.process, Streams(seed, (island,))
    row, replicate = divmod(island, replicates)
    if model.prompts is None:
        return model.one(row), Streams(seed, (replicate,))
    text = model.prompts[row]
    replicate += replicates * model.prompts[:row].count(text)
    return model.one(row), Streams(seed, (replicate,)).at("prompt", text)


def _even(process: Process, states: int) -> Process:
    """Return a process whose chunks of `states` particles are of one size: fewer are padded."""
    if process.chunk is None or states <= process.chunk:
        return process
    pieces = math.ceil(states / process.chunk)
    changed: Process = replace(cast(Any, process), chunk=math.ceil(states / pieces))
    return changed


def _on_cpu(samples: Samples) -> Samples:
    """Return samples as a run folder gives them back; an accelerator keeps nothing of them."""
    if samples.rewards.device.type == "cpu" and samples.designs.x.device.type == "cpu":
        return samples

    def moved(step: Step) -> Step:
        names = ("ess", "lam", "log_z", "value_mean", "value_max")
        there = {name: getattr(step, name).cpu() for name in names}
        parents = None if step.ancestors is None else step.ancestors.cpu()
        return replace(step, ancestors=parents, **there)

    return Samples(
        replace(samples.designs, x=samples.designs.x.cpu()),
        samples.rewards.cpu(),
        samples.log_w.cpu(),
        None if samples.log_z is None else samples.log_z.cpu(),
        tuple(moved(step) for step in samples.trace),
    )


def run_arm(
    arm: Arm,
    model: Model | ImageModel,
    reward: Reward,
    *,
    seed: int,
    islands: Iterable[int],
    replicates: int = 1,
    folder: RunFolder | None = None,
    progress: Progress | None = None,
) -> tuple[Samples, float]:
    """Run, or load, the islands of an arm; return (B, K) samples and the seconds they took.

    `replicates` islands in a row belong to each prompt of an image model.

    Raises:
        RewardError: a reward broke its contract.
        RuntimeError: a design breaks a constraint, which would be a bug in the sampler.
    """
    parts: list[Samples] = []
    total = 0.0
    space = model.space if isinstance(model, Model) else None
    alphabet = model.process.alphabet if isinstance(model, Model) else None
    for island in islands:
        process, rng = _place(model, island, seed, replicates)
        if isinstance(model, ImageModel):
            process = _even(process, _states(arm.method, arm.particles))
        known = None
        if folder is not None:
            prompts = getattr(process, "prompts", None)
            known = folder.load_island(arm.name, island, alphabet, prompts)
        if known is None:
            begin = time.perf_counter()

            def observe(step: Step, island: int = island) -> None:
                if progress is not None:
                    progress(arm.name, island, step)

            samples = _on_cpu(
                arm.method(
                    process,
                    reward,
                    (1, arm.particles),
                    rng=rng.at(*arm.streams),
                    space=space,
                    observe=observe,
                )
            )
            seconds = time.perf_counter() - begin
            if space is not None:
                check_designs(samples, space)
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


def _states(method: Method, particles: int) -> int:
    """Return how many states of an island the network sees at once."""
    return particles * int(getattr(method, "branch", 1))


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


def references(model: Model | ImageModel) -> tuple[int, int]:
    """Return islands and designs per island of a calibration: every prompt has its share."""
    if isinstance(model, Model):
        return 1, REFERENCES
    return model.conditions, max(math.ceil(REFERENCES / model.conditions), 2)


def settle(
    model: Model | ImageModel,
    reward: Reward,
    seed: int,
    progress: Progress | None = None,
    folder: RunFolder | None = None,
) -> tuple[Reward, int]:
    """Fix open zscores from unguided designs; return the reward and network calls.

    The designs are kept in a folder, if one is given.
    """
    if not open_zscores(reward):
        return reward, 0
    islands, particles = references(model)
    arm = Arm("calibration", load_method("best_of_n"), particles, ("calibrate",))
    nothing = Function(lambda items: [0.0] * len(items), "nothing")
    samples, _ = run_arm(
        arm,
        model,
        nothing,
        seed=seed,
        islands=range(islands),
        folder=folder,
        progress=progress,
    )
    return calibrate(reward, samples.designs), samples.network_calls


# rehearsal ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rehearsal:
    """What one island will ask for, counted with an empty network.

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


@dataclass(frozen=True)
class _Zero:
    """A denoiser that costs nothing and counts like another."""

    calls_per_state: int

    def __call__(self, x: Tensor, t: float) -> Tensor:
        return 0.0 * x


def _free_images(model: ImageModel) -> GaussianProcess:
    """Return a process that asks for the same calls as a model's and makes none."""
    real = model.process
    # one number per state: what is counted does not depend on the size of an image
    return GaussianProcess(
        _Zero(getattr(real, "calls_per_state", 1)),
        (1,),
        model.steps,
        eta=getattr(real, "eta", 1.0),
        differentiable=real.differentiable,
        chunk=real.chunk,
        name=model.name,
    )


def _free(model: Model) -> MaskedProcess:
    """Return a process that asks for the same calls as a model's and makes none."""
    v = len(model.process.alphabet)

    def flat(x: Tensor, t: float) -> Tensor:
        if x.is_floating_point():
            return 0.0 * x[..., :v]
        return torch.zeros((*x.shape, v), dtype=torch.float64)

    return replace(model.process, network=flat, chunk=None)


def rehearse(
    method: Method, model: Model | ImageModel, reward: Reward, particles: int = 2
) -> Rehearsal:
    """Run a method with the network and the reward taken out: exact counts at no cost.

    Counts of an image model include what pads the last chunk of so many `particles`.

    Raises:
        TypeError: the method needs a gradient that the reward or model lacks.
        ValueError: a hyper-parameter is out of range.
    """
    process: Process
    if isinstance(model, ImageModel):
        n, space = particles, None
        process = _even(_free_images(model), _states(method, n))
    else:
        # the machinery's own cost per step is the same for any number of particles
        n, process, space = 2, _free(model), model.space
    samples = method(
        process,
        _named(_Blank(reward.differentiable), reward.name),
        (1, n),
        rng=Streams(0, (0,)),
        space=space,
    )
    return Rehearsal(samples.network_calls / n, samples.reward_calls / n, len(samples.trace))


def _named(blank: _Blank, name: str) -> _Blank:
    blank.name = name
    return blank


def reference_designs(model: Model | ImageModel, n: int = 3) -> Designs:
    """Return n allowed sequences near the wild type, or decoded noise, (1, n), to try a reward."""
    if isinstance(model, ImageModel):
        process = model.one(0)
        with torch.no_grad():
            return process.decode(process.prior((1, n), Streams(0, (0,)).at("probe")))
    space = model.space
    letters = space.allowed
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


@overload
def sample(  # noqa: D418 (everything public says what it is)
    model: Model,
    reward: Reward,
    method: str | Method = ...,
    *,
    islands: int = ...,
    particles: int = ...,
    alpha: float | None = ...,
    seed: int = ...,
    progress: Progress | None = ...,
    **params: Any,
) -> Result:
    """Sample sequences."""


@overload
def sample(  # noqa: D418
    model: ImageModel | Process,
    reward: Reward,
    method: str | Method = ...,
    *,
    islands: int = ...,
    particles: int = ...,
    alpha: float | None = ...,
    seed: int = ...,
    progress: Progress | None = ...,
    **params: Any,
) -> ImageResult:
    """Sample images."""


def sample(
    model: Model | ImageModel | Process,
    reward: Reward,
    method: str | Method = "das",
    *,
    islands: int = 1,
    particles: int = 64,
    alpha: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    **params: Any,
) -> Result | ImageResult:
    """Sample islands × particles designs from p_pre(x) · exp(reward(x) / alpha).

    `params` are the method's: `sample(model, reward, "das", alpha=0.3, tempering="adaptive")`. For
    an image model, or any continuous process, `islands` are those of each prompt.

    Raises:
        SpecError: the method or a parameter is unknown.
        TypeError: the method needs a gradient that the reward or the model lacks.
    """
    if islands < 1 or particles < 1:
        raise SpecError(f"islands and particles must be >= 1, got {islands} and {particles}.")
    if not isinstance(model, (Model, ImageModel)):
        model = ImageModel.of(model)
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
    every = islands * (model.conditions if isinstance(model, ImageModel) else 1)
    samples, _ = run_arm(
        arm,
        model,
        fixed,
        seed=seed,
        islands=range(every),
        replicates=islands,
        progress=progress,
    )
    if isinstance(model, ImageModel):
        return ImageResult(samples, model, fixed, method, seed, islands, calls)
    return Result(samples, model, fixed, method, seed, calls)
