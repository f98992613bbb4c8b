"""The outcome of a campaign: run its arms, compare them, choose designs, write the run folder."""

from __future__ import annotations

import math
import shlex
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from seqalign.executor import Progress, run_arm, settle
from seqalign.metrics import diversity, mutations, pareto_rank, prior_log_likelihood, recovery
from seqalign.metrics import survivors as surviving
from seqalign.objective import Reward, Sum, ZScore, evaluate
from seqalign.particles import Samples
from seqalign.plan import FILTER, PRIOR_ORDERS, Plan
from seqalign.process import Designs
from seqalign.report import render
from seqalign.store import RunFolder, fasta, to_csv

__all__ = ["TOP", "run"]

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
    objective: Reward,
    sequences: Sequence[str],
    evaluating: Callable[[int], None] | None,
) -> _Scored:
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
    columns["total"] = evaluate(objective, designs)[0].tolist()
    calls = 0

    def count(some: int) -> None:
        nonlocal calls
        calls += some
        if evaluating is not None:
            evaluating(some)

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
            names_ = mutations(s, model.wild_type)
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

    kept, rejected = _select(plan, scored, *flat["aligned"])
    labels = [t.label for t in plan.terms]
    guides = [t.label for t in plan.guides()]
    columns = [
        "id",
        "sequence",
        *(("mutations", "n_mut", "seq_recovery") if model.wild_type is not None else ()),
        *labels,
        *(f"{x}_scaled" for x in guides),
        "total",
        "prior",
        "prior_per_residue",
        "log_w",
        "copies",
        "method",
        "seed",
    ]
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
    folder.write("designs.fasta", _fasta(plan, scored, kept))
    folder.write_lines("trace.jsonl", _trace(plan, results))

    aligned = results["aligned"]
    network = {name: s.network_calls for name, s in results.items()}
    summary: dict[str, Any] = {
        "name": campaign.name,
        "command": _command(plan),
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
    if source.file == "demo.yaml":
        return f"seqalign demo --seed {plan.campaign.seed}"
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


_TESTS: dict[str, Callable[[float, float], bool]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}


def _select(
    plan: Plan, scored: _Scored, sequences: Sequence[str], log_w: Sequence[float]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return designs kept, best first, and those rejected with a reason; equal designs are one."""
    select, seed = plan.campaign.select, plan.campaign.seed
    weights: dict[str, list[float]] = {}
    for s, w in zip(sequences, log_w, strict=True):
        weights.setdefault(s, []).append(w)
    pool = []
    for s, ws in weights.items():
        log_sum = float(np.logaddexp.reduce(ws))
        pool.append(
            {
                **scored.rows[s],
                "log_w": log_sum,
                "copies": len(ws),
                "method": plan.campaign.sampler.name,
                "seed": seed,
            }
        )
    good: list[dict[str, Any]] = []
    bad: list[dict[str, Any]] = []
    for row in pool:
        reason = _fault(plan, row)
        (good if reason is None else bad).append(
            row if reason is None else {**row, "reason": reason}
        )
    good = _ranked(plan, good)
    apart = select.diversity.min_mutations_apart
    kept: list[dict[str, Any]] = []
    for row in good:
        near = next(
            (
                k
                for k in kept
                if apart
                and sum(a != b for a, b in zip(k["sequence"], row["sequence"], strict=True)) < apart
            ),
            None,
        )
        if near is not None:
            bad.append(
                {
                    **row,
                    "reason": f"closer than {apart} mutations to a better design",
                }
            )
        elif select.top is not None and len(kept) >= select.top:
            bad.append({**row, "reason": f"below the top {select.top}"})
        else:
            kept.append(row)
    width = max(4, len(str(len(kept))))
    for n, row in enumerate(kept, 1):
        row["id"] = f"d{n:0{width}d}"
    for n, row in enumerate(bad, 1):
        row["id"] = f"r{n:0{width}d}"
    return kept, bad


def _fault(plan: Plan, row: Mapping[str, Any]) -> str | None:
    broken = plan.model.space.violations(row["sequence"])
    if broken:
        return f"constraint: {broken[0]}"
    for t in plan.guides():
        if row[t.label] == -math.inf:
            return f"rejected by {t.label}"
    for text in plan.campaign.select.filters:
        match = FILTER.match(text)
        assert match is not None
        if not _TESTS[match[2]](float(row[match[1]]), float(match[3])):
            return f"filter: {text} (is {float(row[match[1]]):.4g})"
    return None


def _ranked(plan: Plan, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rank = plan.campaign.select.rank_by
    if rank == "pareto":
        labels = [t for t in plan.terms if t.spec.role in ("guide", "final")]
        if not rows:
            return rows
        values = np.array(
            [[math.copysign(1, t.spec.weight) * r[t.label] for t in labels] for r in rows]
        )
        fronts = pareto_rank(values)
        order = sorted(
            range(len(rows)), key=lambda i: (fronts[i], -rows[i]["total"], rows[i]["sequence"])
        )
        return [rows[i] for i in order]
    sign = 1.0 if rank.startswith("-") else -1.0
    key = rank.removeprefix("-")
    return sorted(rows, key=lambda r: (sign * float(r[key]), r["sequence"]))


def _fasta(plan: Plan, scored: _Scored, kept: Sequence[Mapping[str, Any]]) -> str:
    if plan.campaign.output.fasta_style == "plain":
        return fasta((str(row["id"]), str(row["sequence"])) for row in kept)
    records = []
    wild = plan.model.wild_type
    labels = [t.label for t in plan.terms]
    if wild is not None:
        own = scored.rows[wild]
        header = f"{plan.campaign.name}, wild_type, score={-own['prior_per_residue']:.4f}"
        header += f", seed={plan.campaign.seed}"
        records.append((header + "".join(f", {x}={own[x]:.4f}" for x in labels), wild))
    for n, row in enumerate(kept, 1):
        header = f"T={plan.model.process.temperature:g}, sample={n}"
        header += f", score={-row['prior_per_residue']:.4f}"
        if "seq_recovery" in row:
            header += f", seq_recovery={row['seq_recovery']:.4f}"
        header += f", id={row['id']}, total={row['total']:.4f}"
        header += "".join(f", {x}={row[x]:.4f}" for x in labels)
        if "mutations" in row:
            header += f", mutations={row['mutations'] or 'none'}"
        records.append((header, str(row["sequence"])))
    return fasta(records)


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
