"""The outcome of a campaign: run its arms, compare them, choose designs, write the run folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from seqalign.campaign.images import (
    _finish_images,
)
from seqalign.campaign.islands import Progress, run_arm, settle
from seqalign.campaign.letters import _finish
from seqalign.campaign.plan import Plan
from seqalign.campaign.store import RunFolder
from seqalign.core.objective import Reward, ZScore, walk
from seqalign.core.particles import Samples
from seqalign.registry import ImageModel

__all__ = ["run"]


def run(
    plan: Plan,
    folder: RunFolder,
    *,
    fresh: bool = False,
    progress: Progress | None = None,
    evaluating: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Run or continue a campaign in a folder and return its summary; a finished run is only read.

    Raises:
        ValueError: the folder holds another run.
        RewardError: a reward broke its contract during the run; finished islands are kept.
    """
    with folder.lock():
        folder.open(plan.config, fresh)
        if folder.done:
            return folder.read_json("summary.json")
        # images are dear: a continued run does not draw its references again
        kept = folder if isinstance(plan.model, ImageModel) else None
        objective, calibration = settle(
            plan.model, plan.objective, plan.campaign.seed, progress, kept
        )
        constants = _constants(objective)
        results: dict[str, Samples] = {}
        seconds: dict[str, float] = {}
        for arm in plan.arms:
            results[arm.name], seconds[arm.name] = run_arm(
                arm,
                plan.model,
                objective,
                seed=plan.campaign.seed,
                islands=range(plan.islands),
                replicates=plan.replicates,
                folder=folder,
                progress=progress,
            )
        if isinstance(plan.model, ImageModel):
            return _finish_images(plan, folder, objective, results, seconds, calibration, constants)
        return _finish(
            plan, folder, objective, results, seconds, calibration, constants, evaluating
        )


def _constants(reward: Reward) -> dict[str, dict[str, float | None]]:
    return {r.name: {"mean": r.mean, "std": r.std} for r in walk(reward) if isinstance(r, ZScore)}


# images -------------------------------------------------------------------------------------------


# selection again ----------------------------------------------------------------------------------


# sequences of the user ----------------------------------------------------------------------------
