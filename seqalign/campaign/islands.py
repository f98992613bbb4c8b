"""The islands of a run: drawn one by one, kept when they are finished, never drawn twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from seqalign.api import draw, draw_abreast, settle
from seqalign.campaign.medium import Arm
from seqalign.campaign.store import RunFolder
from seqalign.core.devices import abreast
from seqalign.core.method import Method
from seqalign.core.objective import Reward
from seqalign.core.particles import Particles, Samples, Step, join
from seqalign.load import Model

# (arm, island, step)
Progress = Callable[[str, int, Step], None]


def run_arm(
    arm: Arm,
    model: Model,
    reward: Reward,
    *,
    seed: int,
    islands: Iterable[int],
    replicates: int = 1,
    folder: RunFolder | None = None,
    progress: Progress | None = None,
    enough: Callable[[Samples], bool] | None = None,
) -> tuple[Samples, float]:
    """Run, or load, the islands of an arm; return (B, K) samples and the seconds they took.

    `replicates` islands in a row belong to each prompt; those after the first that are `enough`
    are not drawn. What `draw` raises goes through.
    """
    parts: list[tuple[Samples, float]] = []
    drawn: dict[int, tuple[Samples, float]] = {}
    waiting = list(islands)
    while waiting:
        island = waiting[0]
        known = None if folder is None else folder.load_island(arm.name, island, model, replicates)
        if known is not None:
            for step in known[0].trace:
                if progress is not None:
                    progress(arm.name, island, step)
        else:
            if island not in drawn:
                # how many will do is not known: as many again as there are
                most = len(waiting) if enough is None else len(parts) + 1
                drawn = _drawn(arm, model, reward, seed, waiting[:most], replicates, progress)
            known = drawn.pop(island)
            if folder is not None:
                folder.save_island(arm.name, island, *known)
        parts.append(known)
        # what was drawn tells, and not how
        if enough is not None and enough(join([replace(s, trace=()) for s, _ in parts])):
            break
        waiting = waiting[1:]
    return join([samples for samples, _ in parts]), sum(seconds for _, seconds in parts)


def _drawn(
    arm: Arm,
    model: Model,
    reward: Reward,
    seed: int,
    islands: Sequence[int],
    replicates: int,
    progress: Progress | None,
) -> dict[int, tuple[Samples, float]]:
    """Draw the first of some islands, with those that are best drawn beside it, and time it."""
    some = islands[: abreast(model.process, arm.particles) if model.prompts is None else 1]

    def observe(step: Step, particles: Particles) -> None:
        if progress is not None:
            for row, island in enumerate(some):
                progress(arm.name, island, step.island(row))

    given: dict[str, Any] = {"seed": seed, "streams": arm.streams, "observe": observe}
    asked, begin = (model, arm.method, reward, arm.particles), time.perf_counter()
    if len(some) > 1:
        found = draw_abreast(*asked, islands=some, **given)
    else:
        found = [draw(*asked, island=some[0], replicates=replicates, **given)]
    seconds = (time.perf_counter() - begin) / len(some)
    return {island: (samples, seconds) for island, samples in zip(some, found, strict=True)}


def calibrate(
    model: Model,
    reward: Reward,
    seed: int,
    folder: RunFolder | None = None,
    progress: Progress | None = None,
) -> tuple[Reward, int]:
    """Fix open zscores from unguided designs; return the reward and network calls.

    The designs are kept in a folder, if one is given.
    """

    def kept(model: Model, method: Method, reward: Reward, particles: int, **where: Any) -> Samples:
        arm = Arm("calibration", method, particles, where["streams"])
        return run_arm(
            arm,
            model,
            reward,
            seed=seed,
            islands=[where["island"]],
            folder=folder,
            progress=progress,
        )[0]

    return settle(model, reward, seed, kept)
