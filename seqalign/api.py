"""The Python door: sample designs from a model aligned to a reward.

One island is the unit of work: its random streams are keyed by its global id, and it is sent
through the network alone, so that nothing else changes its result. The streams of a prompt are
keyed by its words: what it gives does not depend on the prompts beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from seqalign.core.budget import Budget, OverBudget
from seqalign.core.callables import Command, Function, as_reward, function
from seqalign.core.devices import abreast
from seqalign.core.method import Looped, Method
from seqalign.core.objective import Reward, calibrate, open_zscores
from seqalign.core.particles import Particles, Samples, Step, join
from seqalign.core.process import Process
from seqalign.core.streams import Streams
from seqalign.load import Model
from seqalign.methods.best_of_n import BestOfN
from seqalign.registry import SpecError, build_method
from seqalign.result import Result
from seqalign.space.space import DesignSpace

__all__ = ["RewardMaker", "draw", "draw_abreast", "even", "references", "sample", "settle"]

REFERENCES = 64
"""Unguided designs that fix the constants of a zscore."""


class RewardMaker:
    """Turn a Python function or an external command into a reward, in one line."""

    # a function from n sequences to n numbers; higher is better
    __call__ = staticmethod(function)

    @staticmethod
    def command(
        command: str, name: str | None = None, *, unit: str = "", timeout: float = 3600.0
    ) -> Command:
        """Wrap a program: `{fasta}` becomes a file of sequences, stdout is one number per line."""
        return Command(command, name or command.split()[0], unit, timeout=timeout)


# islands ------------------------------------------------------------------------------------------


def _place(model: Model, island: int, seed: int, replicates: int) -> tuple[Process, Streams]:
    """Return the process and the random streams of one island."""
    if model.prompts is None:
        return model.process, Streams(seed, (island,))
    row, replicate = divmod(island, replicates)
    text = model.prompts[row]
    replicate += replicates * model.prompts[:row].count(text)
    return model.one(row), Streams(seed, (replicate,)).at("prompt", text)


def even(process: Process, states: int) -> Process:
    """Return a process whose chunks of `states` particles are of one size: fewer are padded."""
    if process.discrete or process.chunk is None or states <= process.chunk:
        return process
    pieces = math.ceil(states / process.chunk)
    changed: Process = replace(cast(Any, process), chunk=math.ceil(states / pieces))
    return changed


def draw(
    model: Model,
    method: Method,
    reward: Reward,
    particles: int,
    *,
    seed: int,
    island: int,
    replicates: int = 1,
    streams: Sequence[str] = (),
    **options: Any,
) -> Samples:
    """Draw one island, (1, K), on the CPU; `options` go to the method.

    `replicates` islands in a row belong to each prompt; `streams` is the purpose of the random
    numbers.

    Raises:
        RewardError: a reward broke its contract.
        RuntimeError: a design breaks a constraint, which would be a bug in the sampler.
    """
    process, rng = _place(model, island, seed, replicates)
    process = even(process, particles * int(getattr(method, "branch", 1)))
    samples = method(
        process, reward, (1, particles), rng=rng.at(*streams), space=model.space, **options
    ).cpu()
    if model.space is not None and samples.finished:
        _check(samples, model.space)
    return samples


def draw_abreast(
    model: Model,
    method: Method,
    reward: Reward,
    particles: int,
    *,
    seed: int,
    islands: Sequence[int],
    streams: Sequence[str] = (),
    **options: Any,
) -> list[Samples]:
    """Draw islands of a model without prompts at once; each is what `draw` gives, to rounding."""
    rng = Streams(seed, tuple(islands)).at(*streams)
    shape = len(islands), particles
    samples = method(model.process, reward, shape, rng=rng, space=model.space, **options).cpu()
    if model.space is not None and samples.finished:
        _check(samples, model.space)
    return [samples.island(row) for row in range(len(islands))]


def _check(samples: Samples, space: DesignSpace) -> None:
    """Check every emitted design once more; one with weight zero carries no claim."""
    sequences = samples.designs.sequences
    for b, k in (samples.log_w > -torch.inf).nonzero().tolist():
        if broken := space.violations(sequences[b][k]):
            raise RuntimeError(
                f"Design {k} of island {b} breaks a constraint ({'; '.join(broken[:3])}): "
                f"{sequences[b][k]}. "
                f"This is a bug in seqalign; please report it with the campaign and the seed."
            )


def references(model: Model) -> tuple[int, int]:
    """Return islands and designs per island of a calibration: every prompt has its share."""
    return model.conditions, max(math.ceil(REFERENCES / model.conditions), 2)


def settle(
    model: Model, reward: Reward, seed: int, draw_island: Callable[..., Samples] = draw
) -> tuple[Reward, int]:
    """Fix open zscores from unguided designs; return the reward and the network calls."""
    if not open_zscores(reward):
        return reward, 0
    islands, particles = references(model)
    nothing = Function(lambda items: [0.0] * len(items), "nothing")
    plain = partial(draw_island, model, BestOfN(), nothing, particles, streams=("calibrate",))
    unguided = join([plain(seed=seed, island=island) for island in range(islands)])
    return calibrate(reward, unguided.designs), unguided.network_calls


# the door -----------------------------------------------------------------------------------------


def sample(
    model: Model | Process,
    reward: Reward | Callable[[Any], Any],
    method: str | Method = "das",
    *,
    islands: int = 1,
    particles: int = 64,
    alpha: float | None = None,
    seed: int = 0,
    space: DesignSpace | None = None,
    start: Tensor | Sequence[Particles] | None = None,
    begin: int = 0,
    stop: int | None = None,
    budget: Budget | None = None,
    observe: Callable[[Step, Particles], None] | None = None,
    **params: Any,
) -> Result:
    """Sample islands × particles designs from p_pre(x) · exp(reward(x) / alpha).

    Args:
        model: what `load_model` returns, or any process; `space` restricts a process of letters.
        reward: what to align to; a plain function takes n designs and returns n numbers.
        method: its name, or an object.
        islands: independent runs; with prompts, of each prompt.
        particles: designs per island.
        alpha: temperature of the target, in units of the reward.
        seed: of the random numbers.
        space: hard constraints, with a bare process.
        start: states (islands, particles, *event) at step `begin`, or `Result.particles` to go
            on from.
        begin: step to begin at.
        stop: step to end at.
        budget: network and reward calls that the whole run must not exceed; a calibration spends
            network calls of it.
        observe: sees every step and its particles, island by island.
        **params: the method's: `sample(model, reward, "das", alpha=0.3, tempering="adaptive")`.

    Raises:
        OverBudget: the next call would exceed the budget; it has not been made.
        SpecError: the method or a parameter is unknown, or `start` does not fit the run.
        TypeError: the method needs a gradient that the reward or the model lacks.
    """
    if islands < 1 or particles < 1:
        raise SpecError(f"islands and particles must be >= 1, got {islands} and {particles}.")
    model = Model.of(model, space)
    reward = as_reward(reward)
    if isinstance(method, str):
        given = params if alpha is None else {"alpha": alpha, **params}
        method = build_method(method, given)
    elif params or alpha is not None:
        said = ", ".join([*params, *["alpha"] * (alpha is not None)])
        raise SpecError(
            f"The method is already built ({method!r}); set {said} there, or give the method's "
            "name."
        )
    if isinstance(method, Looped):
        # what cannot work is refused before the designs of a calibration are drawn
        method.loop(model.process, reward, model.space)
    n = islands * model.conditions
    states = _starts(start, n, particles)
    done: list[Samples] = []

    def unguided(*given: Any, **options: Any) -> Samples:
        left = budget and Budget(_left(budget, 0, done).network)
        done.append(draw(*given, budget=left, **options))
        return done[-1]

    fixed, calls = settle(model, reward, seed, unguided)
    options: dict[str, Any] = {"seed": seed, "replicates": islands}
    options |= {"begin": begin, "stop": stop, "observe": observe}
    parts: list[Samples] = []
    if start is None and begin == 0 and stop is None and budget is None and observe is None:
        many = abreast(model.process, particles)
        while many > 1 and len(parts) < n:
            some = range(n)[len(parts) : len(parts) + many]
            parts += draw_abreast(model, method, fixed, particles, seed=seed, islands=some)
    for island, state in list(enumerate(states))[len(parts) :]:
        options |= {"start": state, "budget": budget and _left(budget, calls, parts)}
        try:
            parts.append(draw(model, method, fixed, particles, island=island, **options))
        except OverBudget as error:
            where = f"This was island {island + 1} of {n}, with what was left of {budget}."
            raise OverBudget(f"{error} {where}") from error
    open_ = tuple(p.particles for p in parts if p.particles is not None)
    return Result(join(parts), model, fixed, method, seed, islands, calls, open_)


def _starts(
    start: Tensor | Sequence[Particles] | None, islands: int, particles: int
) -> Sequence[Particles | Tensor | None]:
    """Return what each island starts from.

    Raises:
        SpecError: there are states of more or fewer islands or particles than the run has.
    """
    if start is None:
        return [None] * islands
    some = list(start.split(1)) if isinstance(start, Tensor) else list(start)
    for state in some:
        held = (state if isinstance(state, Tensor) else state.x).shape[1]
        if held != particles:
            raise SpecError(f"start holds {held} particles an island, the run has {particles}.")
    if len(some) != islands:
        raise SpecError(
            f"start holds {len(some)} islands, the run has {islands}. Give the states of every "
            "island; a run has particles if it was stopped before its end."
        )
    return some


def _left(budget: Budget, calibration: int, parts: Sequence[Samples]) -> Budget:
    """Return what is left of a budget."""
    network = calibration + sum(p.network_calls for p in parts)
    reward = sum(p.reward_calls for p in parts)
    return Budget(
        None if budget.network is None else budget.network - network,
        None if budget.reward is None else budget.reward - reward,
    )
