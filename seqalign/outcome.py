"""The outcome of a campaign: run its arms, compare them, choose designs, write the run folder."""

from __future__ import annotations

import json
import math
import re
import shlex
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from seqalign.campaign import CampaignError, RewardSpec, read
from seqalign.executor import Progress, open_zscores, run_arm, settle
from seqalign.metrics import diversity, mutations, prior_log_likelihood, recovery
from seqalign.metrics import survivors as surviving
from seqalign.objective import Reward, Sum, ZScore, evaluate
from seqalign.particles import Samples
from seqalign.plan import FILTER, PRIOR_ORDERS, Plan, check_select
from seqalign.process import Designs
from seqalign.report import render
from seqalign.sheet import Layout, Sheet
from seqalign.shortlist import HARD, choose, rounded
from seqalign.store import RunFolder, to_csv

__all__ = ["TOP", "reselect", "run", "score_table", "stored_constants"]

TOP = 10
"""Designs in the "top" rows of the comparison."""


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
        objective, calibration = settle(plan.model, plan.objective, plan.campaign.seed, progress)
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
                folder=folder,
                progress=progress,
            )
        return _finish(
            plan, folder, objective, results, seconds, calibration, constants, evaluating
        )


def _constants(reward: Reward) -> dict[str, dict[str, float | None]]:
    terms = reward.terms if isinstance(reward, Sum) else ()
    return {t.name: {"mean": t.mean, "std": t.std} for _, t in terms if isinstance(t, ZScore)}


@dataclass(frozen=True)
class _Scored:
    """Distinct sequences with every number that tables need."""

    rows: Mapping[str, dict[str, Any]]
    network_calls: int

    def of(self, sequences: Sequence[str], key: str) -> list[float]:
        return [float(self.rows[s][key]) for s in sequences]


def _score(
    plan: Plan,
    objective: Reward | None,
    sequences: Sequence[str],
    evaluating: Callable[[int], None] | None,
    with_prior: bool = True,
) -> _Scored:
    """Score distinct sequences; without an objective there are no scaled columns and no total."""
    model, space = plan.model, plan.model.space
    distinct = list(dict.fromkeys(sequences))
    designs = Designs.of(distinct, space.alphabet)
    free = [i for i, a in enumerate(space.fixed) if a == space.alphabet.mask_symbol]
    columns: dict[str, list[float]] = {}
    scaled = {term.name: term for _, term in objective.terms} if isinstance(objective, Sum) else {}
    for t in plan.terms:
        columns[t.label] = evaluate(t.raw, designs)[0].tolist()
        if t.label in scaled:
            columns[f"{t.label}_scaled"] = evaluate(scaled[t.label], designs)[0].tolist()
    if objective is not None:
        columns["total"] = evaluate(objective, designs)[0].tolist()
    calls = 0

    def count(some: int) -> None:
        nonlocal calls
        calls += some
        if evaluating is not None:
            evaluating(some)

    if with_prior:
        prior = prior_log_likelihood(
            model.process,
            designs.x[0],
            free,
            orders=PRIOR_ORDERS,
            seed=plan.campaign.seed,
            observe=count,
        )
        columns["prior"] = prior.tolist()
        columns["prior_per_residue"] = (prior / len(free)).tolist()
    rows = {}
    for i, s in enumerate(distinct):
        row: dict[str, Any] = {"sequence": s, **{k: v[i] for k, v in columns.items()}}
        if model.wild_type is not None:
            names_ = mutations(s, model.wild_type, model.residues)
            row |= {
                "mutations": ":".join(names_),
                "n_mut": len(names_),
                "seq_recovery": recovery(s, model.wild_type, free),
            }
        rows[s] = row
    return _Scored(rows, calls)


def _flat(samples: Samples) -> tuple[list[str], list[float]]:
    """Return all sequences and their log-weights, islands pooled by their log Z."""
    sequences = [s for row in samples.designs.sequences for s in row]
    return sequences, torch.log(samples.weights).flatten().tolist()


def _row(
    plan: Plan, scored: _Scored, name: str, which: str, sequences: Sequence[str]
) -> dict[str, Any]:
    """Return one line of the comparison: means over the sequences given."""
    keys = [*(t.label for t in plan.terms), "total", "prior", "prior_per_residue"]
    if plan.model.wild_type is not None:
        keys += ["n_mut"]
    row: dict[str, Any] = {"row": name, "which": which, "designs": len(sequences)}
    for key in keys:
        finite = [v for v in scored.of(sequences, key) if math.isfinite(v)]
        row[key] = statistics.fmean(finite) if finite else None
        if len(finite) > 1 and key not in ("prior", "n_mut"):
            row[f"{key}_sd"] = statistics.stdev(finite)
    row["diversity"] = diversity(sequences)
    return row


def _top(scored: _Scored, sequences: Sequence[str], n: int = TOP) -> list[str]:
    distinct = list(dict.fromkeys(sequences))
    finite = [s for s in distinct if scored.rows[s]["total"] > -math.inf]
    return sorted(finite, key=lambda s: -scored.rows[s]["total"])[:n]


def _finish(
    plan: Plan,
    folder: RunFolder,
    objective: Reward,
    results: Mapping[str, Samples],
    seconds: Mapping[str, float],
    calibration: int,
    constants: Mapping[str, Any],
    evaluating: Callable[[int], None] | None,
) -> dict[str, Any]:
    campaign, model = plan.campaign, plan.model
    flat = {name: _flat(samples) for name, samples in results.items()}
    everything = [s for sequences, _ in flat.values() for s in sequences]
    if model.wild_type is not None:
        everything = [model.wild_type, *everything]
    begin = time.perf_counter()
    scored = _score(plan, objective, everything, evaluating)
    judged = time.perf_counter() - begin

    rows = []
    if model.wild_type is not None:
        rows.append(_row(plan, scored, "wild type", "1 sequence", [model.wild_type]))
    for arm in plan.arms[1:]:
        sequences = flat[arm.name][0]
        if arm.name == "best_of_n":
            if plan.unguided:
                rows.append(_row(plan, scored, "unguided", f"all {len(sequences)}", sequences))
            if "best_of_n" in campaign.baselines:
                top = _top(scored, sequences)
                rows.append(_row(plan, scored, f"best of {len(sequences)}", f"top {len(top)}", top))
        else:
            top = _top(scored, sequences)
            rows.append(_row(plan, scored, arm.name, f"all {len(sequences)}", sequences))
            rows.append(_row(plan, scored, arm.name, f"top {len(top)}", top))
    sequences = flat["aligned"][0]
    top = _top(scored, sequences)
    rows.append(_row(plan, scored, "aligned", f"all {len(sequences)}", sequences))
    rows.append(_row(plan, scored, "aligned", f"top {len(top)}", top))

    pool = _pool(plan, scored, *flat["aligned"])
    kept, rejected = choose(
        pool, campaign.select, _signs(campaign.rewards), lambda row: _hard(plan, row)
    )
    labels = [t.label for t in plan.terms]
    guides = [t.label for t in plan.guides()]
    columns = _columns(campaign.rewards, model.wild_type is not None)
    sheet = _sheet(plan, scored)
    folder.write("designs.csv", to_csv(kept, columns))
    folder.write("rejected.csv", to_csv(rejected, [*columns, "reason"]))
    others = [
        {
            **scored.rows[s],
            "id": f"{a.name}-{n:04d}",
            "log_w": w,
            "method": a.name,
            "seed": campaign.seed,
        }
        for a in plan.arms[1:]
        for n, (s, w) in enumerate(zip(*flat[a.name], strict=True), 1)
    ]
    folder.write("baselines.csv", to_csv(others, [c for c in columns if c != "copies"]))
    folder.write("designs.fasta", sheet.fasta(kept))
    folder.write_lines("trace.jsonl", _trace(plan, results))

    aligned = results["aligned"]
    network = {name: s.network_calls for name, s in results.items()}
    summary: dict[str, Any] = {
        "name": campaign.name,
        "command": _command(plan),
        "select": campaign.select.model_dump(mode="json"),
        "fasta": sheet.to_json(),
        "seqalign": version("seqalign"),
        "seed": campaign.seed,
        "designs": len(kept),
        "rejected": len(rejected),
        "drawn": len(sequences),
        "distinct": len(set(sequences)),
        "rows": rows,
        "guides": guides,
        "holdouts": [t.label for t in plan.terms if t.spec.role == "holdout"],
        "finals": [t.label for t in plan.terms if t.spec.role == "final"],
        "units": {t.label: t.raw.unit for t in plan.terms},
        "zscore": constants,
        "gains": _gains(plan, rows, scored),
        "network_calls": {
            **network,
            **({"calibration": calibration} if calibration else {}),
            "evaluation": scored.network_calls,
        },
        "reward_calls": {name: s.reward_calls for name, s in results.items()},
        "prior_orders": PRIOR_ORDERS,
        "log_z": None if aligned.log_z is None else aligned.log_z.tolist(),
        "ess": (aligned.ess / aligned.rewards.shape[1]).tolist(),
        "weighted_mean": {
            x: _weighted(scored.of(sequences, x), flat["aligned"][1]) for x in [*labels, "total"]
        },
        "seconds": {**seconds, "evaluation": judged},
    }
    folder.write("report.html", render(folder, summary))
    folder.write_json("summary.json", summary)
    return summary


def _command(plan: Plan) -> str:
    """Return the command that runs the campaign again."""
    source = plan.source
    demo = re.fullmatch(r"demo-(\w+)\.yaml", source.file)
    if demo is not None:
        return f"seqalign demo {demo[1]} --seed {plan.campaign.seed}"
    changes = [f" --set {shlex.quote(text)}" for text in source.given.values()]
    return f"seqalign run {shlex.quote(source.file)}{''.join(changes)}"


def _weighted(values: Sequence[float], log_w: Sequence[float]) -> float | None:
    pairs = [
        (math.exp(w), v)
        for v, w in zip(values, log_w, strict=True)
        if w > -math.inf and math.isfinite(v)
    ]
    total = sum(w for w, _ in pairs)
    return sum(w * v for w, v in pairs) / total if total > 0 else None


def _gains(
    plan: Plan, rows: Sequence[Mapping[str, Any]], scored: _Scored
) -> dict[str, dict[str, float | None]]:
    """Return, per reward, what the aligned top gains over each other row."""
    by = {(r["row"], str(r["which"]).split()[0]): r for r in rows}
    aligned = by[("aligned", "top")]
    best = next((r for r in rows if str(r["row"]).startswith("best of ")), None)
    plain = by.get(("unguided", "all"))
    wild = next((r for r in rows if r["row"] == "wild type"), None)
    gains: dict[str, dict[str, float | None]] = {}
    for t in plan.terms:

        def over(row: Mapping[str, Any] | None, label: str = t.label) -> float | None:
            if row is None or row[label] is None or aligned[label] is None:
                return None
            return float(aligned[label] - row[label])

        deviation = plain.get(f"{t.label}_sd") if plain else None
        gain = over(plain)
        gains[t.label] = {
            "over_wild_type": over(wild),
            "over_unguided": gain,
            "over_best_of_n": over(best),
            "in_unguided_sd": gain / deviation if gain is not None and deviation else None,
        }
    return gains


def _pool(
    plan: Plan, scored: _Scored, sequences: Sequence[str], log_w: Sequence[float]
) -> list[dict[str, Any]]:
    """Return the distinct designs as rows with the numbers that tables print."""
    weights: dict[str, list[float]] = {}
    for s, w in zip(sequences, log_w, strict=True):
        weights.setdefault(s, []).append(w)
    return [
        rounded(
            {
                **scored.rows[s],
                "log_w": float(np.logaddexp.reduce(ws)),
                "copies": len(ws),
                "method": plan.campaign.sampler.name,
                "seed": plan.campaign.seed,
            }
        )
        for s, ws in weights.items()
    ]


def _hard(plan: Plan, row: Mapping[str, Any]) -> str | None:
    """Return why a design can never be kept, whatever `select` says."""
    broken = plan.model.space.violations(row["sequence"])
    if broken:
        return f"constraint: {broken[0]}"
    for t in plan.guides():
        if row[t.label] == -math.inf:
            return f"rejected by {t.label}"
    return None


def _signs(rewards: Mapping[str, RewardSpec]) -> dict[str, float]:
    """Return which way each reward is better, of those a Pareto ranking looks at."""
    return {
        label: math.copysign(1, spec.weight)
        for label, spec in rewards.items()
        if spec.role in ("guide", "final")
    }


def _columns(rewards: Mapping[str, RewardSpec], wild: bool) -> list[str]:
    guides = [label for label, spec in rewards.items() if spec.role == "guide"]
    return [
        "id",
        "sequence",
        *(("mutations", "n_mut", "seq_recovery") if wild else ()),
        *rewards,
        *(f"{x}_scaled" for x in guides),
        "total",
        "prior",
        "prior_per_residue",
        "log_w",
        "copies",
        "method",
        "seed",
    ]


def _sheet(plan: Plan, scored: _Scored) -> Sheet:
    """Return what designs.fasta says beside the designs."""
    campaign, model, structure = plan.campaign, plan.model, plan.structure
    wild = model.wild_type
    style = campaign.output.fasta_style
    shaped = structure is not None and wild is not None and style == "mpnn"
    return Sheet(
        style,
        campaign.name,
        campaign.seed,
        model.name,
        float(model.process.temperature),
        tuple(t.label for t in plan.terms),
        None if wild is None else rounded(scored.rows[wild]),
        Layout.of(structure) if shaped and structure is not None else None,
        _fixed_log_likelihood(plan, wild) if shaped and wild is not None else (0.0, 0.0),
    )


def _fixed_log_likelihood(plan: Plan, wild: str) -> tuple[float, float]:
    """Return the log-likelihood of the fixed letters before all others: natives, then designs'."""
    space, process = plan.model.space, plan.model.process
    fixed = [i for i, a in enumerate(space.fixed) if a != space.alphabet.mask_symbol]
    x = space.alphabet.encode([wild, space.fixed])
    free = x[1] == space.alphabet.mask
    x[:, free] = space.alphabet.mask
    found = prior_log_likelihood(process, x, fixed, orders=PRIOR_ORDERS, seed=plan.campaign.seed)
    return float(found[0]), float(found[1])


def _trace(plan: Plan, results: Mapping[str, Samples]) -> Iterator[dict[str, Any]]:
    for arm in plan.arms:
        samples = results[arm.name]
        for b in range(plan.islands):
            alive = surviving(
                [None if s.ancestors is None else s.ancestors[b] for s in samples.trace],
                arm.particles,
            )
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
                    "survivors": count,
                    "resampled": s.ancestors is not None,
                    "network_calls": s.network_calls // plan.islands,
                    "reward_calls": s.reward_calls // plan.islands,
                }


# selection again ----------------------------------------------------------------------------------


def reselect(folder: RunFolder, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Choose again among the designs of a finished run, and write every table anew.

    Starts from the options the run was started with; `overrides` are texts such as
    "select.top=24". Nothing is drawn or scored. A process killed at any moment loses no design:
    the same call again finds them all.

    Raises:
        ValueError: the run is not finished, or another process works in its folder.
        CampaignError: an option is wrong.
    """
    if not folder.path.is_dir():
        raise ValueError(f"{folder.path} is no run folder: there is no such folder.")
    with folder.lock():
        summary = folder.read_json("summary.json")
        config = folder.read_config()
        if "fasta" not in summary:
            raise ValueError(
                f"{folder.path} was written by an older version, which stored too little to choose "
                "again. Run its campaign with --fresh."
            )
        for text in overrides:
            if not text.strip().startswith("select."):
                raise CampaignError(
                    f"--set {text}: only select.* can change without sampling, such as "
                    "select.top=24. Change the campaign and run it for anything else."
                )
        plain = {k: v for k, v in config.items() if k not in ("seqalign", "resolved")}
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "config.yaml"
            path.write_text(yaml.safe_dump(plain, sort_keys=False), "utf-8")
            campaign, source = read(path, overrides, label=str(folder.path / "config.yaml"))
        check_select(campaign, source)
        sheet = Sheet.from_json(summary["fasta"])
        columns = _columns(campaign.rewards, sheet.wild is not None)
        rows = [*folder.read_csv("rejected.csv"), *folder.read_csv("designs.csv")]
        pool: dict[str, dict[str, Any]] = {}
        for row in rows:
            # rejected.csv comes first: it has the reasons
            pool.setdefault(row["sequence"], _stored(row))
        used = [campaign.select.rank_by.removeprefix("-")]
        used += [match[1] for f in campaign.select.filters if (match := FILTER.match(f))]
        for key in used:
            if key not in (*columns, "pareto"):
                raise source.error(("select",), f"this run has no column {key!r}.")
        reasons = {s: row.get("reason", "") for s, row in pool.items()}

        def hard(row: Mapping[str, Any]) -> str | None:
            reason = reasons[row["sequence"]]
            return reason if reason.startswith(HARD) else None

        kept, rejected = choose(
            list(pool.values()), campaign.select, _signs(campaign.rewards), hard
        )
        # every design is in rejected.csv while designs.csv changes
        folder.write("rejected.csv", to_csv([*rejected, *kept], [*columns, "reason"]))
        folder.write("designs.csv", to_csv(kept, columns))
        folder.write("rejected.csv", to_csv(rejected, [*columns, "reason"]))
        folder.write("designs.fasta", sheet.fasta(kept))
        again = "".join(f" --set {shlex.quote(text)}" for text in overrides)
        first = str(summary["command"]).partition("\n")[0]
        summary |= {
            "command": f"{first}\nseqalign select DIR{again}" if overrides else first,
            "select": campaign.select.model_dump(mode="json"),
            "designs": len(kept),
            "rejected": len(rejected),
        }
        folder.write("report.html", render(folder, summary))
        folder.write_json("summary.json", summary)
        return summary


def _stored(row: Mapping[str, str]) -> dict[str, Any]:
    """Return a row of a table with its numbers as numbers."""
    text = ("id", "sequence", "mutations", "method", "reason")
    whole = ("n_mut", "copies", "seed")
    return {
        k: v if k in text else int(v) if k in whole else float(v)
        for k, v in row.items()
        if v is not None
    }


# sequences of the user ----------------------------------------------------------------------------


def score_table(
    plan: Plan,
    sequences: Sequence[str],
    *,
    constants: Mapping[str, Mapping[str, float | None]] | None = None,
    prior: bool = True,
    evaluating: Callable[[int], None] | None = None,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Score sequences by the rewards, the prior and the constraints of a campaign.

    Constraints do not stop a sequence from being scored: the column "violations" says which it
    breaks. Where a reward is a z-score without `constants`, scaled columns and "total" are left
    out: only a run fixes them.

    Args:
        plan: the campaign.
        sequences: L letters each.
        constants: mean and std of each z-score, as in the summary of a run.
        prior: whether to ask the model for log-likelihoods.
        evaluating: told of network calls.

    Returns:
        A row per sequence, in the order given, and the columns.

    Raises:
        RewardError: a reward broke its contract.
    """
    objective: Reward | None = plan.objective
    if open_zscores(plan.objective):
        objective = None if constants is None else _closed(plan.objective, constants)
    scored = _score(plan, objective, sequences, evaluating, prior)
    space = plan.model.space
    rows = [{**scored.rows[s], "violations": "; ".join(space.violations(s))} for s in sequences]
    columns = _columns(plan.campaign.rewards, plan.model.wild_type is not None)
    there = [c for c in columns if c in rows[0]]
    return rows, [*there, "violations"]


def _closed(
    objective: Reward, constants: Mapping[str, Mapping[str, float | None]]
) -> Reward | None:
    """Return the objective with the constants of a run; None if one is missing."""
    assert isinstance(objective, Sum)
    terms: list[tuple[float, Reward]] = []
    for weight, term in objective.terms:
        if isinstance(term, ZScore) and term.mean is None:
            given = constants.get(term.name, {})
            mean, std = given.get("mean"), given.get("std")
            if mean is None or std is None:
                return None
            term = replace(term, mean=mean, std=std)
        terms.append((weight, term))
    return Sum(tuple(terms))


def stored_constants(
    plan: Plan, folder: RunFolder
) -> Mapping[str, Mapping[str, float | None]] | None:
    """Return the z-score constants of a finished run of this campaign.

    None if there is no such run, or its model, backbone or rewards are others.
    """
    if not folder.done:
        return None
    before, now = folder.read_config(), json.loads(json.dumps(plan.config))
    keys = ("model", "rewards", "constraints", "design")
    resolved = ("model", "rewards", "structure_sha256", "wild_type")
    same = all(before.get(k) == now.get(k) for k in keys) and all(
        before["resolved"].get(k) == now["resolved"].get(k) for k in resolved
    )
    if not same:
        return None
    found: Mapping[str, Mapping[str, float | None]] = folder.read_json("summary.json")["zscore"]
    return found
