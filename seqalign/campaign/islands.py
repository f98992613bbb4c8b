"""The islands of a run: drawn one by one, kept when they are finished, never drawn twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from seqalign.api import draw, settle
from seqalign.campaign.medium import Arm
from seqalign.campaign.store import RunFolder
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
    for island in islands:

        def observe(step: Step, particles: Particles | None, island: int = island) -> None:
            if progress is not None:
                progress(arm.name, island, step)

        known = None if folder is None else folder.load_island(arm.name, island, model, replicates)
        if known is not None:
            for step in known[0].trace:
                observe(step, None)
        else:
            begin = time.perf_counter()
            samples = draw(
                model,
                arm.method,
                reward,
                arm.particles,
                seed=seed,
                island=island,
                replicates=replicates,
                streams=arm.streams,
                observe=observe,
            )
            known = samples, time.perf_counter() - begin
            if folder is not None:
                folder.save_island(arm.name, island, *known)
        parts.append(known)
        # what was drawn tells, and not how
        if enough is not None and enough(join([replace(s, trace=()) for s, _ in parts])):
            break
    return join([samples for samples, _ in parts]), sum(seconds for _, seconds in parts)


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
