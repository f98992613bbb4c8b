"""Designs that are images: their tables, their files."""

from __future__ import annotations

import math
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from seqalign.campaign.metrics import (
    mean_distance,
    paired_interval,
    pooled_pixels,
    radial_kernel,
    vendi,
)
from seqalign.campaign.plan import Plan
from seqalign.campaign.report.page import render
from seqalign.campaign.schema import RewardSpec
from seqalign.campaign.store import RunFolder
from seqalign.campaign.summary import from_json
from seqalign.campaign.tables import _command, _signs, _trace, _weighted, choose, rounded
from seqalign.core.objective import Clip, Reward, Sum, ZScore, evaluate
from seqalign.core.particles import Samples
from seqalign.files.pictures import contact_sheet, png, read_png
from seqalign.files.text import finite, to_csv
from seqalign.registry import ImageModel

__all__ = []


SHOWN = 4
"""Images per prompt and sampler in the contact sheet."""


FILES = 256
"""Designs up to which every one becomes an image file; beyond, only those kept do."""


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
    folder.write("report.html", render(folder, from_json({"kind": "letters", **finite(summary)})))
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
