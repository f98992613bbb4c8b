"""The verb `run`: draw the islands of every arm, judge, choose, and write the run folder."""

from __future__ import annotations

import math
import re
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version

from torch import Tensor

from seqalign.campaign.asked import LIGHT, Asked
from seqalign.campaign.islands import Progress, calibrate, run_arm
from seqalign.campaign.medium import Judged, Plan, Record
from seqalign.campaign.metrics import survivors
from seqalign.campaign.select import account, candidates, choose, write
from seqalign.campaign.store import SO_FAR, RunFolder
from seqalign.campaign.summary import Summary
from seqalign.core.health import examine
from seqalign.core.objective import Reward, constants
from seqalign.core.particles import Samples
from seqalign.files.text import to_csv


def run(
    plan: Plan,
    folder: RunFolder,
    *,
    fresh: bool = False,
    progress: Progress | None = None,
    evaluating: Callable[[int], None] | None = None,
) -> Summary:
    """Run or continue a campaign in a folder and return its summary; a finished run is only read.

    Raises:
        ValueError: the folder holds another run.
        RewardError: a reward broke its contract during the run; finished islands are kept.
    """
    with folder.lock():
        folder.open(plan.config, fresh)
        if folder.done:
            return folder.summary()
        seed = plan.campaign.seed
        # what hardly ever comes again is dear: a continued run does not draw its references again
        kept = None if plan.medium.recurs else folder
        objective, calibration = calibrate(plan.model, plan.objective, seed, kept, progress)
        results: dict[str, Samples] = {}
        seconds: dict[str, float] = {}
        for arm in plan.arms:
            enough = None
            if arm is plan.arms[0] and plan.most is not None:
                plan, enough = plan.of(plan.most), _enough(plan, folder, objective)
            results[arm.name], seconds[arm.name] = run_arm(
                arm,
                plan.model,
                objective,
                seed=seed,
                islands=range(plan.islands),
                replicates=plan.replicates,
                folder=folder,
                progress=progress,
                enough=enough,
            )
            if enough is not None:
                # the baselines have as many, for the same calls
                plan = plan.of(len(results[arm.name].log_w))
        begin = time.perf_counter()
        judged = plan.medium.judge(plan, objective, results, evaluating, _kept(plan))
        seconds["evaluation"] = time.perf_counter() - begin
        return _finish(plan, folder, objective, results, judged, seconds, calibration)


def _enough(plan: Plan, folder: RunFolder, objective: Reward) -> Callable[[Samples], bool]:
    """Return what tells whether islands hold as many different designs as were asked for.

    It sees islands 0 to n − 1, whoever drew them and when: a continued run stops where it would
    have stopped. What it finds is kept for `status`.
    """
    known: dict[str, Record] = {}

    def enough(samples: Samples) -> bool:
        islands = len(samples.log_w)
        if islands < plan.islands:
            return False
        pool = plan.medium.pool(plan, objective, samples, known)
        found = _account(plan.of(islands), samples, pool)
        folder.write_json(SO_FAR, {"islands": islands, "found": found.found})
        return not found.short

    return enough


def _account(plan: Plan, samples: Samples, pool: Sequence[Record]) -> Asked:
    """Return what became of `budget.designs`."""
    campaign = plan.campaign
    assert campaign.budget.designs is not None
    assert plan.most is not None
    asked = Asked.of(samples, campaign.budget.designs, plan.most, plan.limit)
    return account(asked, pool, campaign, plan.medium, _hard(plan))


def _hard(plan: Plan) -> Callable[[Record], str | None]:
    """Return what says why a design can never be kept."""
    guides = [t.label for t in plan.role("guide")]

    def hard(row: Record) -> str | None:
        broken = plan.medium.broken(plan.model, row)
        if broken is not None:
            return f"constraint: {broken}"
        refused = next((f"rejected by {x}" for x in guides if row[x] == -math.inf), None)
        return refused or (LIGHT if row.get("light") else None)

    return hard


def _kept(plan: Plan) -> Callable[[Sequence[Record]], Sequence[Record]]:
    """Return what says which rows of a pool will be kept, or may be."""

    def kept(pool: Sequence[Record]) -> Sequence[Record]:
        return candidates(pool, plan.campaign, plan.medium, _hard(plan))

    return kept


def _finish(
    plan: Plan,
    folder: RunFolder,
    objective: Reward,
    results: Mapping[str, Samples],
    judged: Judged,
    seconds: Mapping[str, float],
    calibration: int,
) -> Summary:
    campaign, medium, aligned = plan.campaign, plan.medium, results["aligned"]
    guides = [t.label for t in plan.role("guide")]
    kept, rejected = choose(judged.pool, campaign, medium, _hard(plan))
    calls = {name: s.network_calls for name, s in results.items()}
    calls |= {"calibration": calibration} if calibration else {}
    calls |= {} if judged.evaluation is None else {"evaluation": judged.evaluation}
    summary = Summary(
        kind=medium.kind,
        name=campaign.name,
        command=_command(plan),
        select=campaign.select.model_dump(mode="json"),
        seqalign=version("seqalign"),
        seed=campaign.seed,
        designs=len(kept),
        rejected=len(rejected),
        drawn=aligned.rewards.numel(),
        distinct=len(judged.pool),
        rows=judged.rows,
        guides=tuple(guides),
        holdouts=tuple(t.label for t in plan.role("holdout")),
        finals=tuple(t.label for t in plan.role("final")),
        units={t.label: t.raw.unit for t in plan.terms},
        zscore=constants(objective),
        gains=judged.gains,
        network_calls=calls,
        reward_calls={name: s.reward_calls for name, s in results.items()},
        log_z=None if aligned.log_z is None else tuple(aligned.log_z.tolist()),
        ess=tuple((aligned.ess / aligned.log_w.shape[1]).tolist()),
        weighted_mean=judged.weighted_mean,
        seconds=seconds,
        health=examine(aligned, plan.arms[0].method, _shared(plan)),
        judges=plan.judges,
        asked=None if plan.most is None else _account(plan, aligned, judged.pool),
        **judged.own,
    )
    columns = medium.columns(campaign, plan.model)
    there = [c for c in columns if not judged.others or c in judged.others[0]]
    folder.write("baselines.csv", to_csv(judged.others, there))
    folder.write_lines("trace.jsonl", _trace(plan, results))
    return write(folder, medium, summary, columns, kept, rejected)


def _shared(plan: Plan) -> int:
    """Return how many islands in a row have one target: those of a prompt, or all."""
    return plan.islands if plan.model.prompts is None else plan.replicates


def _command(plan: Plan) -> str:
    """Return the command that runs the campaign again."""
    source = plan.source
    demo = re.fullmatch(r"demo-(\w+)\.yaml", source.file)
    if demo is not None:
        named = ("model", "name") in source.given
        model = f" --model {plan.campaign.model.name}" if named else ""
        return f"seqalign demo {demo[1]} --seed {plan.campaign.seed}{model}"
    changes = [f" --set {shlex.quote(text)}" for text in source.given.values()]
    return f"seqalign run {shlex.quote(source.file)}{''.join(changes)}"


def _share(shares: Tensor | None, island: int) -> float | None:
    return None if shares is None else float(shares[island])


def _trace(plan: Plan, results: Mapping[str, Samples]) -> Iterator[Record]:
    for arm in plan.arms:
        samples = results[arm.name]
        for b in range(plan.islands):
            parents = [None if s.ancestors is None else s.ancestors[b] for s in samples.trace]
            alive = survivors(parents, arm.particles)
            for s, count in zip(samples.trace, alive, strict=True):
                yield {
                    "arm": arm.name,
                    "island": b,
                    "step": s.step,
                    "ess": float(s.ess[b]),
                    "lam": float(s.lam[b]),
                    "log_z": float(s.log_z[b]),
                    "value_mean": float(s.value_mean[b]) * arm.method.alpha,
                    "value_max": float(s.value_max[b]) * arm.method.alpha,
                    "failed_values": _share(s.failed_values, b),
                    "failed_gradients": _share(s.failed_gradients, b),
                    "survivors": count,
                    "resampled": s.ancestors is not None,
                    "network_calls": s.network_calls // plan.islands,
                    "reward_calls": s.reward_calls // plan.islands,
                }
