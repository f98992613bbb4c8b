"""Designs that are letters: their tables, their files."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from seqalign.campaign.metrics import (
    PRIOR_ORDERS,
    diversity,
    prior_log_likelihood,
    recovery,
)
from seqalign.campaign.plan import Plan
from seqalign.campaign.report.page import render
from seqalign.campaign.schema import RewardSpec
from seqalign.campaign.store import RunFolder
from seqalign.campaign.summary import from_json
from seqalign.campaign.tables import TOP, _command, _signs, _trace, _weighted, choose, rounded
from seqalign.core.objective import Reward, Sum, evaluate
from seqalign.core.particles import Samples
from seqalign.core.process import Designs
from seqalign.files.numbering import mutations
from seqalign.files.sheet import Layout, Sheet
from seqalign.files.text import finite, to_csv

__all__ = []


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
    model, space = plan.letters, plan.letters.space
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
    if plan.letters.wild_type is not None:
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
    campaign, model = plan.campaign, plan.letters
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
        "fasta": asdict(sheet),
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
    folder.write("report.html", render(folder, from_json({"kind": "letters", **finite(summary)})))
    folder.write_json("summary.json", summary)
    return summary


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
    broken = plan.letters.space.violations(row["sequence"])
    if broken:
        return f"constraint: {broken[0]}"
    for t in plan.guides():
        if row[t.label] == -math.inf:
            return f"rejected by {t.label}"
    return None


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
    campaign, model, structure = plan.campaign, plan.letters, plan.structure
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
    space, process = plan.letters.space, plan.letters.process
    fixed = [i for i, a in enumerate(space.fixed) if a != space.alphabet.mask_symbol]
    x = space.alphabet.encode([wild, space.fixed])
    free = x[1] == space.alphabet.mask
    x[:, free] = space.alphabet.mask
    found = prior_log_likelihood(process, x, fixed, orders=PRIOR_ORDERS, seed=plan.campaign.seed)
    return float(found[0]), float(found[1])
