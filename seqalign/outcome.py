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
import torch.nn.functional as F
import yaml
from torch import Tensor

from seqalign.campaign import CampaignError, RewardSpec, read
from seqalign.executor import Progress, open_zscores, run_arm, settle
from seqalign.metrics import (
    diversity,
    mean_distance,
    mutations,
    paired_interval,
    pooled_pixels,
    prior_log_likelihood,
    radial_kernel,
    recovery,
    vendi,
)
from seqalign.metrics import survivors as surviving
from seqalign.objective import Clip, Reward, Sum, ZScore, evaluate
from seqalign.particles import Samples
from seqalign.plan import FILTER, PRIOR_ORDERS, Plan, check_select
from seqalign.process import Designs
from seqalign.registry import ImageModel
from seqalign.report import render
from seqalign.sheet import Layout, Sheet
from seqalign.shortlist import HARD, choose, rounded
from seqalign.store import RunFolder, contact_sheet, png, read_png, to_csv

__all__ = ["TOP", "reselect", "run", "score_table", "stored_constants"]

TOP = 10
"""Designs in the "top" rows of the comparison."""
SHOWN = 4
"""Images per prompt and sampler in the contact sheet."""
FILES = 256
"""Designs up to which every one becomes an image file; beyond, only those kept do."""


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
    broken = plan.letters.space.violations(row["sequence"])
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


# images -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Drawn:
    """The images of one arm, with every number that tables need.

    Attributes:
        arm: its name.
        samples: (B, K) designs.
        numbers: per column, (B, K).
        log_w: (B, K) log-weights, normalized over the islands of each prompt.
        first: (B, K) flat index of the first equal design of the same prompt.
    """

    arm: str
    samples: Samples
    numbers: Mapping[str, np.ndarray]
    log_w: np.ndarray
    first: np.ndarray

    @property
    def best(self) -> np.ndarray:
        """The particle with the highest total of each island, (B,)."""
        return np.asarray(self.numbers["total"].argmax(-1))

    def of_best(self, key: str) -> np.ndarray:
        """Return a column at the best particle of each island, (B,)."""
        return np.asarray(np.take_along_axis(self.numbers[key], self.best[:, None], 1)[:, 0])

    def row(self, b: int, k: int) -> dict[str, Any]:
        """Return the numbers of one design."""
        return {key: float(values[b, k]) for key, values in self.numbers.items()}


def _rescaled(reward: Reward, raw: Reward, values: Tensor) -> Tensor:
    """Return what a reward makes of the values of the oracle inside it."""
    if reward is raw:
        return values
    if isinstance(reward, Clip):
        inner = _rescaled(reward.inner, raw, values)
        return torch.where(torch.isneginf(inner), inner, inner.clamp(reward.lo, reward.hi))
    assert isinstance(reward, ZScore)
    assert reward.mean is not None
    assert reward.std is not None
    return (_rescaled(reward.inner, raw, values) - reward.mean) / reward.std


def _judge(plan: Plan, objective: Reward, arm: str, samples: Samples) -> _Drawn:
    """Score images; from the finished designs alone, so that a continued run finds the same."""
    shape = samples.designs.shape
    firsts = np.zeros(shape, dtype=np.int64)
    numbers = {t.label: np.zeros(shape) for t in plan.terms}
    log_w = np.full(shape, -np.inf)
    for begin in range(0, shape[0], plan.replicates):
        known: dict[bytes, int] = {}
        for b in range(begin, begin + plan.replicates):
            for k in range(shape[1]):
                key = samples.designs.x[b, k].contiguous().numpy().tobytes()
                firsts[b, k] = known.setdefault(key, b * shape[1] + k)
        mine = slice(begin, begin + plan.replicates)
        some = Samples(
            samples.designs[mine, slice(None)],
            samples.rewards[mine],
            samples.log_w[mine],
            None if samples.log_z is None else samples.log_z[mine],
        )
        log_w[mine] = torch.log(some.weights).numpy()
    flat = np.arange(firsts.size).reshape(shape)
    for b in range(shape[0]):
        new = np.flatnonzero(firsts[b] == flat[b])
        if not len(new):
            continue
        designs = samples.designs[slice(b, b + 1), torch.from_numpy(new)]
        with torch.no_grad():
            for t in plan.terms:
                numbers[t.label][b, new] = evaluate(t.raw, designs)[0].cpu().numpy()
    numbers = {label: values.reshape(-1)[firsts] for label, values in numbers.items()}
    assert isinstance(objective, Sum)
    scaled = {term.name: (weight, term) for weight, term in objective.terms}
    total = torch.zeros(shape, dtype=torch.float64)
    for t in plan.guides():
        weight, term = scaled[t.label]
        value = _rescaled(term, t.raw, torch.from_numpy(numbers[t.label]))
        numbers[f"{t.label}_scaled"] = value.numpy()
        total += torch.where(torch.isneginf(value), -torch.inf, weight * value)
    numbers["total"] = total.numpy()
    return _Drawn(arm, samples, numbers, log_w, firsts)


@dataclass(frozen=True)
class _Ruler:
    """How different images are.

    Attributes:
        of: what is compared.
        unit: of distances.
        features: (n, C, H, W) to (n, D).
        half: whether distances are halved squares, 1 − cosine for unit rows.
        width: of the kernel of the Vendi score.
    """

    of: str
    unit: str
    features: Callable[[Tensor], Tensor]
    half: bool
    width: float = 1.0

    def apart(self, x: Tensor) -> float:
        """Return the mean distance of all pairs of rows."""
        if not self.half:
            return mean_distance(x)
        n = len(x)
        return float((n - x.sum(0).square().sum() / n) / (n - 1)) if n > 1 else 0.0


def _ruler(plan: Plan) -> _Ruler:
    """Return the embedding of a reward, best of one that was not optimized, or else pixels."""
    for role in ("holdout", "final", "guide"):
        for t in plan.terms:
            embed = getattr(getattr(t.raw, "inner", None), "embed", None)
            if t.spec.role == role and embed is not None:

                def unit(images: Tensor, embed: Callable[[Tensor], Tensor] = embed) -> Tensor:
                    with torch.no_grad():
                        return F.normalize(embed(images).double(), dim=-1).cpu()

                return _Ruler(f"embedding of {t.label}", "1 − cosine", unit, True)
    return _Ruler("averages over 8 × 8 cells", "root mean square", pooled_pixels, False)


def _spread(
    plan: Plan, ruler: _Ruler, drawn: Sequence[_Drawn]
) -> tuple[dict[str, dict[str, Any]], float]:
    """Return diversity of all and of the best designs per arm, and the width of the kernel.

    Every arm shows as many designs per prompt as the aligned one draws, as far as it has them.
    """
    most = next(d.samples.rewards.shape[1] for d in drawn if d.arm == "aligned")
    features: dict[str, Tensor] = {}
    for d in drawn:
        x = d.samples.designs.x
        features[d.arm] = torch.stack([ruler.features(x[b]) for b in range(len(x))])
    base = features.get("best_of_n", features["aligned"])[:, :most]
    gaps = torch.cat([torch.pdist(f) for f in _prompts_of(plan, base)])
    width = float(gaps.median()) if len(gaps) and float(gaps.median()) > 0 else 1.0
    found: dict[str, dict[str, Any]] = {}
    for d in drawn:
        tops = features[d.arm][torch.arange(len(d.best)), torch.from_numpy(d.best)][:, None]
        for key, some in (("all", features[d.arm][:, :most]), ("best", tops)):
            groups = _prompts_of(plan, some)
            several = [g for g in groups if len(g) > 1]
            found[f"{d.arm} {key}"] = {
                "diversity": _mean([ruler.apart(g) for g in several]),
                "vendi": _mean([vendi(radial_kernel(g, width)) for g in several]),
            }
    return found, width


def _prompts_of(plan: Plan, features: Tensor) -> list[Tensor]:
    """Return the rows (n, D) of each prompt from (B, K, D)."""
    return [part.flatten(0, 1) for part in features.split(plan.replicates)]


def _mean(values: Sequence[float] | np.ndarray) -> float | None:
    some = [float(v) for v in values if math.isfinite(v)]
    return statistics.fmean(some) if some else None


def _image_rows(
    plan: Plan, drawn: Sequence[_Drawn], spread: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the lines of the comparison: all designs of an arm, and the best of each island."""
    keys = [*(t.label for t in plan.terms), "total"]
    rows: list[dict[str, Any]] = []

    def add(d: _Drawn, name: str, which: str) -> None:
        best = which == "best"
        values = {key: d.of_best(key) if best else d.numbers[key].ravel() for key in keys}
        row: dict[str, Any] = {
            "row": name,
            "which": f"best of each island ({len(d.best)})" if best else f"all {d.first.size}",
            "designs": len(d.best) if best else d.first.size,
        }
        for key, some in values.items():
            row[key] = _mean(some)
            finite = some[np.isfinite(some)]
            if len(finite) > 1:
                row[f"{key}_sd"] = float(finite.std(ddof=1))
        rows.append({**row, **spread[f"{d.arm} {which}"]})

    for d in [*drawn[1:], drawn[0]]:
        if d.arm != "best_of_n":
            add(d, d.arm, "all")
            add(d, d.arm, "best")
            continue
        if plan.unguided:
            add(d, "unguided", "all")
        if "best_of_n" in plan.campaign.baselines:
            add(d, f"best of {d.first.shape[1]}", "best")
    return rows


def _paired(plan: Plan, drawn: Mapping[str, _Drawn]) -> dict[str, Any]:
    """Compare the aligned arm with best-of-N and unguided designs, pair by pair.

    A pair is a prompt, or an island where there is one prompt: the best design of each arm at equal
    network calls, and the mean of all designs.
    """
    prompts = plan.islands // plan.replicates
    over = "prompts" if prompts > 1 else "islands"

    def unit(values: np.ndarray) -> np.ndarray:
        """Return one number per pair from (B,) or (B, K); what was rejected does not count."""
        grid = values.reshape(prompts if prompts > 1 else plan.islands, -1)
        return np.asarray(np.ma.masked_invalid(grid).mean(-1).filled(np.nan))

    def against(a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
        both = np.isfinite(a) & np.isfinite(b)
        if not both.any():
            return {"aligned": None, "other": None, "gain": None, "low": None, "high": None}
        a, b = a[both], b[both]
        gain, low, high = paired_interval(a.tolist(), b.tolist())
        return {
            "aligned": float(a.mean()),
            "other": float(b.mean()),
            "gain": gain,
            "low": low,
            "high": high,
        }

    found: dict[str, Any] = {"over": over, "pairs": prompts if prompts > 1 else plan.islands}
    aligned, other = drawn["aligned"], drawn.get("best_of_n")
    if other is None:
        return {**found, "best_of_n": {}, "unguided": {}}
    keys = [*(t.label for t in plan.terms), "total"]
    found["best_of_n"] = {
        key: against(unit(aligned.of_best(key)), unit(other.of_best(key))) for key in keys
    }
    found["unguided"] = {
        key: against(unit(aligned.numbers[key]), unit(other.numbers[key])) for key in keys
    }
    return found


def _file(arm: str, island: int, particle: int) -> str:
    name = f"{island:03d}-{particle:03d}.png"
    return f"images/{name}" if arm == "aligned" else f"images/{arm}-{name}"


def _image_table(plan: Plan, d: _Drawn) -> list[dict[str, Any]]:
    """Return the distinct designs of an arm as rows with the numbers that tables print."""
    prompts = d.samples.designs.prompts
    rows = []
    for flat in np.unique(d.first).tolist():
        b, k = divmod(flat, d.first.shape[1])
        same = d.first == flat
        rows.append(
            rounded(
                {
                    "prompt": prompts[b] if prompts is not None else "",
                    "file": _file(d.arm, b, k),
                    **d.row(b, k),
                    "log_w": float(np.logaddexp.reduce(d.log_w[same])),
                    "copies": int(same.sum()),
                    "method": plan.campaign.sampler.name if d.arm == "aligned" else d.arm,
                    "seed": plan.campaign.seed,
                    "island": b,
                }
            )
        )
    return rows


def _image_columns(rewards: Mapping[str, RewardSpec]) -> list[str]:
    guides = [label for label, spec in rewards.items() if spec.role == "guide"]
    return [
        "id",
        "prompt",
        "file",
        *rewards,
        *(f"{x}_scaled" for x in guides),
        "total",
        "log_w",
        "copies",
        "method",
        "seed",
        "island",
    ]


def _draw(folder: RunFolder, files: Sequence[str]) -> None:
    """Write the image files that are not there yet, from the islands the run has kept.

    Raises:
        ValueError: an island is missing.
    """
    wanted: dict[tuple[str, int], list[tuple[str, int]]] = {}
    for name in dict.fromkeys(files):
        match = re.fullmatch(r"images/(?:(.+)-)?(\d+)-(\d+)\.png", name)
        assert match is not None
        if not (folder.path / name).is_file():
            at = (match[1] or "aligned", int(match[2]))
            wanted.setdefault(at, []).append((name, int(match[3])))
    for (arm, island), some in wanted.items():
        kept = folder.load_island(arm, island, None)
        if kept is None:
            raise ValueError(
                f"{folder.path} has no state of island {island} of {arm}, from which {some[0][0]} "
                "would be drawn. Run its campaign again."
            )
        for name, particle in some:
            folder.write(name, png(kept[0].designs.x[0, particle]))


def _shown(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[dict[str, Any]]:
    return [{k: row[k] for k in ("file", *keys)} for row in rows[:SHOWN]]


def _image_sheet(folder: RunFolder, gallery: Sequence[Mapping[str, Any]], keys: list[str]) -> bytes:
    """Return the contact sheet: aligned designs beside best-of-N and unguided ones."""
    words = {"aligned": "aligned", "best_of_n": "best of N", "unguided": "unguided"}
    lines = []
    for prompt in gallery:
        groups = []
        for arm, word in words.items():
            cells = []
            for row in prompt["arms"].get(arm, ()):
                image = read_png((folder.path / row["file"]).read_bytes())
                cells.append((image, "\n".join([word, *(f"{row[key]:.2f}" for key in keys)])))
            groups.append(cells)
        if any(groups):
            lines.append((str(prompt["prompt"]), groups))
    return contact_sheet(lines, f"Under each image: {', '.join(keys)}.")


def _by_prompt(
    prompts: Sequence[str] | None, rows: Sequence[dict[str, Any]]
) -> list[tuple[str, list[dict[str, Any]]]]:
    return [(text, [r for r in rows if r["prompt"] == text]) for text in prompts or [""]]


def _finish_images(
    plan: Plan,
    folder: RunFolder,
    objective: Reward,
    results: Mapping[str, Samples],
    seconds: Mapping[str, float],
    calibration: int,
    constants: Mapping[str, Any],
) -> dict[str, Any]:
    campaign, model = plan.campaign, plan.model
    assert isinstance(model, ImageModel)
    begin = time.perf_counter()
    drawn = {name: _judge(plan, objective, name, samples) for name, samples in results.items()}
    ruler = _ruler(plan)
    spread, width = _spread(plan, ruler, list(drawn.values()))
    judged = time.perf_counter() - begin
    rows = _image_rows(plan, list(drawn.values()), spread)
    paired = _paired(plan, drawn)

    pool = _image_table(plan, drawn["aligned"])
    kept, rejected = choose(
        pool,
        campaign.select,
        _signs(campaign.rewards),
        lambda row: _failed(plan, row),
        key="file",
        each="prompt",
    )
    labels = [t.label for t in plan.terms]
    keys = [*labels, "total"]
    columns = _image_columns(campaign.rewards)
    others = [row for name in drawn if name != "aligned" for row in _image_table(plan, drawn[name])]
    gallery: list[dict[str, Any]] = []
    plain = [row for row in others if row["method"] == "best_of_n"]
    for text, mine in _by_prompt(model.prompts, kept):
        arms = {"aligned": _shown(mine, keys)}
        first = [row for row in plain if row["prompt"] == text]
        if first:
            top = sorted(first, key=lambda r: (-r["total"], r["file"]))
            arms |= {"best_of_n": _shown(top, keys), "unguided": _shown(first, keys)}
        gallery.append({"prompt": text, "arms": arms})
    files = [row["file"] for row in (pool if len(pool) <= FILES else kept)]
    files += [row["file"] for line in gallery for arm in line["arms"].values() for row in arm]
    _draw(folder, files)
    for n, row in enumerate(others, 1):
        row["id"] = f"{row['method']}-{n:04d}"
        row["file"] = row["file"] if (folder.path / row["file"]).is_file() else ""
    folder.write("designs.csv", to_csv(kept, columns))
    folder.write("rejected.csv", to_csv(rejected, [*columns, "reason"]))
    folder.write("baselines.csv", to_csv(others, columns))
    folder.write_lines("trace.jsonl", _trace(plan, results))
    if kept or plain:
        folder.write("contact-sheet.png", _image_sheet(folder, gallery, labels))

    aligned = results["aligned"]
    summary: dict[str, Any] = {
        "kind": "images",
        "name": campaign.name,
        "command": _command(plan),
        "select": campaign.select.model_dump(mode="json"),
        "seqalign": version("seqalign"),
        "seed": campaign.seed,
        "prompts": None if model.prompts is None else list(model.prompts),
        "designs": len(kept),
        "rejected": len(rejected),
        "drawn": aligned.rewards.numel(),
        "distinct": len(pool),
        "rows": rows,
        "guides": [t.label for t in plan.guides()],
        "holdouts": [t.label for t in plan.terms if t.spec.role == "holdout"],
        "finals": [t.label for t in plan.terms if t.spec.role == "final"],
        "units": {t.label: t.raw.unit for t in plan.terms},
        "zscore": constants,
        "gains": _image_gains(plan, paired, rows),
        "paired": paired,
        "diversity": {
            "of": ruler.of,
            "unit": ruler.unit,
            "width": width,
            "designs": aligned.rewards.shape[1] * plan.replicates,
        },
        "gallery": gallery,
        "network_calls": {
            **{name: s.network_calls for name, s in results.items()},
            **({"calibration": calibration} if calibration else {}),
        },
        "reward_calls": {name: s.reward_calls for name, s in results.items()},
        "log_z": None if aligned.log_z is None else aligned.log_z.tolist(),
        "kl": _divergence(plan, drawn["aligned"]),
        "ess": (aligned.ess / aligned.rewards.shape[1]).tolist(),
        "weighted_mean": {
            x: _weighted(
                drawn["aligned"].numbers[x].ravel().tolist(),
                drawn["aligned"].log_w.ravel().tolist(),
            )
            for x in keys
        },
        "seconds": {**seconds, "evaluation": judged},
    }
    folder.write("report.html", render(folder, summary))
    folder.write_json("summary.json", summary)
    return summary


def _failed(plan: Plan, row: Mapping[str, Any]) -> str | None:
    """Return why an image can never be kept."""
    for t in plan.guides():
        if row[t.label] == -math.inf:
            return f"rejected by {t.label}"
    return None


def _image_gains(
    plan: Plan, paired: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, float | None]]:
    """Return, per reward, what the aligned designs gain over the others."""
    plain = next((r for r in rows if r["row"] == "unguided"), {})
    gains: dict[str, dict[str, float | None]] = {}
    for t in plan.terms:
        over = {arm: paired[arm].get(t.label, {}).get("gain") for arm in ("best_of_n", "unguided")}
        deviation, gain = plain.get(f"{t.label}_sd"), over["unguided"]
        gains[t.label] = {
            "over_wild_type": None,
            "over_unguided": gain,
            "over_best_of_n": over["best_of_n"],
            "in_unguided_sd": gain / deviation if gain is not None and deviation else None,
        }
    return gains


def _divergence(plan: Plan, aligned: _Drawn) -> float | None:
    """Return KL(p* || p_pre) in nats, mean over islands: E*[r]/alpha − log Z, as the run saw it.

    None for methods that are not consistent.
    """
    samples = aligned.samples
    if samples.log_z is None:
        return None
    w = torch.softmax(samples.log_w, -1)
    mean = torch.where(w > 0, w * samples.rewards, 0.0).sum(-1)
    return _mean((mean / plan.arms[0].method.alpha - samples.log_z).tolist())


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
        images = summary.get("kind") == "images"
        if "fasta" not in summary and not images:
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
        check_select(campaign, source, images)
        sheet = None if images else Sheet.from_json(summary["fasta"])
        columns = (
            _image_columns(campaign.rewards)
            if sheet is None
            else _columns(campaign.rewards, sheet.wild is not None)
        )
        key = "file" if images else "sequence"
        rows = [*folder.read_csv("rejected.csv"), *folder.read_csv("designs.csv")]
        pool: dict[str, dict[str, Any]] = {}
        for row in rows:
            # rejected.csv comes first: it has the reasons
            pool.setdefault(row[key], _stored(row))
        used = [campaign.select.rank_by.removeprefix("-")]
        used += [match[1] for f in campaign.select.filters if (match := FILTER.match(f))]
        for name in used:
            if name not in (*columns, "pareto"):
                raise source.error(("select",), f"this run has no column {name!r}.")
        reasons = {s: row.get("reason", "") for s, row in pool.items()}

        def hard(row: Mapping[str, Any]) -> str | None:
            reason = reasons[row[key]]
            return reason if reason.startswith(HARD) else None

        kept, rejected = choose(
            list(pool.values()),
            campaign.select,
            _signs(campaign.rewards),
            hard,
            key=key,
            each="prompt" if images else None,
        )
        # every design is in rejected.csv while designs.csv changes
        folder.write("rejected.csv", to_csv([*rejected, *kept], [*columns, "reason"]))
        folder.write("designs.csv", to_csv(kept, columns))
        folder.write("rejected.csv", to_csv(rejected, [*columns, "reason"]))
        if sheet is not None:
            folder.write("designs.fasta", sheet.fasta(kept))
        again = "".join(f" --set {shlex.quote(text)}" for text in overrides)
        first = str(summary["command"]).partition("\n")[0]
        summary |= {
            "command": f"{first}\nseqalign select DIR{again}" if overrides else first,
            "select": campaign.select.model_dump(mode="json"),
            "designs": len(kept),
            "rejected": len(rejected),
        }
        if images:
            labels = list(campaign.rewards)
            chosen = _by_prompt(summary["prompts"], kept)
            for line, (_, mine) in zip(summary["gallery"], chosen, strict=True):
                line["arms"]["aligned"] = _shown(mine, [*labels, "total"])
            _draw(folder, [row["file"] for row in kept])
            if any(arm for line in summary["gallery"] for arm in line["arms"].values()):
                sheet_ = _image_sheet(folder, summary["gallery"], labels)
                folder.write("contact-sheet.png", sheet_)
        folder.write("report.html", render(folder, summary))
        folder.write_json("summary.json", summary)
        return summary


def _stored(row: Mapping[str, str]) -> dict[str, Any]:
    """Return a row of a table with its numbers as numbers."""
    text = ("id", "sequence", "mutations", "method", "reason", "prompt", "file")
    whole = ("n_mut", "copies", "seed", "island")
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
    space = plan.letters.space
    rows = [{**scored.rows[s], "violations": "; ".join(space.violations(s))} for s in sequences]
    columns = _columns(plan.campaign.rewards, plan.letters.wild_type is not None)
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
