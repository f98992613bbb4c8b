"""Images: designs are pictures, drawn for prompts, each prompt with islands of its own.

One file: nothing else in the tool knows that a design is a picture.
"""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from seqalign.api import even, references
from seqalign.campaign import metrics
from seqalign.campaign.inputs import load_images
from seqalign.campaign.medium import Judged, Loaded, Plan, Record, Rehearsal, Say, columns, rounded
from seqalign.campaign.rehearsal import rehearse
from seqalign.campaign.report.images import compared, figures
from seqalign.campaign.report.parts import Compared, Figures, Groups, Run
from seqalign.campaign.schema import Campaign
from seqalign.campaign.store import RunFolder
from seqalign.campaign.summary import Gain, Line, Paired, Row, Spread, Summary, Versus
from seqalign.campaign.yaml import Source
from seqalign.core.gaussian import GaussianProcess
from seqalign.core.method import Method
from seqalign.core.objective import Reward, Wrapper, evaluate, open_zscores, terms
from seqalign.core.particles import Samples
from seqalign.core.process import Designs, Process
from seqalign.core.streams import Streams
from seqalign.files.pictures import contact_sheet, png, read_png
from seqalign.load import Model

SHOWN = 4
"""Images per prompt and sampler in the contact sheet."""
FILES = 256
"""Designs up to which every one becomes an image file; beyond, only those kept do."""


@dataclass(frozen=True)
class _Drawn:
    """The images of one arm, with every number that tables need."""

    arm: str
    samples: Samples
    numbers: Mapping[str, np.ndarray]  # per column, (B, K)
    log_w: np.ndarray  # (B, K), normalized over the islands of each prompt
    first: np.ndarray  # (B, K), flat index of the first equal design of the same prompt

    @property
    def best(self) -> np.ndarray:
        """The particle with the highest total of each island, (B,)."""
        return np.asarray(self.numbers["total"].argmax(-1))

    def of_best(self, key: str) -> np.ndarray:
        """Return a column at the best particle of each island, (B,)."""
        return np.asarray(np.take_along_axis(self.numbers[key], self.best[:, None], 1)[:, 0])


def _rescaled(reward: Reward, raw: Reward, values: Tensor) -> Tensor:
    """Return what a reward makes of the values of the oracle inside it."""
    if reward is raw:
        return values
    assert isinstance(reward, Wrapper)
    return reward.of(_rescaled(reward.inner, raw, values))


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
        log_w[mine] = torch.log(samples.take(mine).weights).numpy()
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
    scaled = {term.name: (weight, term) for weight, term in terms(objective)}
    total = torch.zeros(shape, dtype=torch.float64)
    for t in plan.role("guide"):
        weight, term = scaled[t.label]
        value = _rescaled(term, t.raw, torch.from_numpy(numbers[t.label]))
        numbers[f"{t.label}_scaled"] = value.numpy()
        total += torch.where(torch.isneginf(value), -torch.inf, weight * value)
    numbers["total"] = total.numpy()
    return _Drawn(arm, samples, numbers, log_w, firsts)


def _apart(x: Tensor) -> float:
    """Return the mean of 1 − cosine over all pairs of unit rows (n, D)."""
    n = len(x)
    return float((n - x.sum(0).square().sum() / n) / (n - 1)) if n > 1 else 0.0


@dataclass(frozen=True)
class _Ruler:
    """How different images are: what is compared, and the unit of distances."""

    of: str
    unit: str
    features: Callable[[Tensor], Tensor]  # (n, C, H, W) to (n, D)
    apart: Callable[[Tensor], float]  # mean distance of all pairs of (n, D) rows


def _ruler(plan: Plan) -> _Ruler:
    """Return the embedding of a reward, best of one that was not optimized, or else pixels."""
    for role in ("holdout", "final", "guide"):
        for t in plan.terms:
            embed = getattr(getattr(t.raw, "inner", None), "embed", None)
            if t.spec.role == role and embed is not None:

                def unit(images: Tensor, embed: Callable[[Tensor], Tensor] = embed) -> Tensor:
                    with torch.no_grad():
                        return F.normalize(embed(images).double(), dim=-1).cpu()

                return _Ruler(f"embedding of {t.label}", "1 − cosine", unit, _apart)
    cells, distance = metrics.pooled_pixels, metrics.mean_distance
    return _Ruler("averages over 8 × 8 cells", "root mean square", cells, distance)


def _spread(
    plan: Plan, ruler: _Ruler, drawn: Sequence[_Drawn]
) -> tuple[dict[str, tuple[float | None, float | None]], float]:
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
    found: dict[str, tuple[float | None, float | None]] = {}
    for d in drawn:
        tops = features[d.arm][torch.arange(len(d.best)), torch.from_numpy(d.best)][:, None]
        for key, some in (("all", features[d.arm][:, :most]), ("best", tops)):
            groups = _prompts_of(plan, some)
            several = [g for g in groups if len(g) > 1]
            kernels = [metrics.radial_kernel(g, width) for g in several]
            apart = metrics.mean([ruler.apart(g) for g in several])
            found[f"{d.arm} {key}"] = apart, metrics.mean([metrics.vendi(k) for k in kernels])
    return found, width


def _prompts_of(plan: Plan, features: Tensor) -> list[Tensor]:
    """Return the rows (n, D) of each prompt from (B, K, D)."""
    return [part.flatten(0, 1) for part in features.split(plan.replicates)]


def _rows(
    plan: Plan,
    drawn: Mapping[str, _Drawn],
    spread: Mapping[str, tuple[float | None, float | None]],
) -> tuple[Row, ...]:
    """Return the lines of the comparison: all designs of an arm, and the best of each island."""
    rows = []
    for arm, name, best in plan.lines(1):
        d = drawn[arm]
        n = len(d.best) if best else d.first.size
        mean: dict[str, float | None] = {}
        sd: dict[str, float] = {}
        for key in plan.shown:
            some = d.of_best(key) if best else d.numbers[key].ravel()
            mean[key] = metrics.mean(some)
            finite = some[np.isfinite(some)]
            if len(finite) > 1:
                sd[key] = float(finite.std(ddof=1))
        which = f"best of each island ({n})" if best else f"all {n}"
        rows.append(Row(name, which, n, mean, sd, *spread[f"{arm} {'best' if best else 'all'}"]))
    return tuple(rows)


def _paired(plan: Plan, drawn: Mapping[str, _Drawn]) -> Paired:
    """Compare the aligned arm with best-of-N and unguided designs, pair by pair.

    A pair is a prompt, or an island where there is one prompt: the best design of each arm at equal
    network calls, and the mean of all designs.
    """
    prompts = plan.islands // plan.replicates
    pairs = prompts if prompts > 1 else plan.islands
    over = "prompts" if prompts > 1 else "islands"

    def unit(values: np.ndarray) -> np.ndarray:
        """Return one number per pair from (B,) or (B, K); what was rejected does not count."""
        return np.asarray(np.ma.masked_invalid(values.reshape(pairs, -1)).mean(-1).filled(np.nan))

    def against(a: np.ndarray, b: np.ndarray) -> Versus:
        a, b = unit(a), unit(b)
        both = np.isfinite(a) & np.isfinite(b)
        if not both.any():
            return Versus()
        a, b = a[both], b[both]
        gain, low, high = metrics.paired_interval(a.tolist(), b.tolist())
        return Versus(float(a.mean()), float(b.mean()), gain, low, high)

    aligned, other = drawn["aligned"], drawn.get("best_of_n")
    if other is None:
        return Paired(over, pairs)
    best = {key: against(aligned.of_best(key), other.of_best(key)) for key in plan.shown}
    every = {key: against(aligned.numbers[key], other.numbers[key]) for key in plan.shown}
    return Paired(over, pairs, best, every)


def _gains(plan: Plan, paired: Paired, rows: Sequence[Row]) -> dict[str, Gain]:
    """Return, per reward, what the aligned designs gain over the others."""
    plain = next((r for r in rows if r.row == "unguided"), None)
    gains = {}
    for label in (t.label for t in plan.terms):
        best, every = (some.get(label, Versus()) for some in (paired.best_of_n, paired.unguided))
        gains[label] = Gain.of(None, every.gain, best.gain, plain, label)
    return gains


def _file(arm: str, island: int, particle: int) -> str:
    name = f"{island:03d}-{particle:03d}.png"
    return f"images/{name}" if arm == "aligned" else f"images/{arm}-{name}"


def _table(plan: Plan, d: _Drawn) -> list[Record]:
    """Return the distinct designs of an arm as rows with the numbers that tables print."""
    prompts = d.samples.designs.prompts
    rows = []
    for flat in np.unique(d.first).tolist():
        b, k = divmod(flat, d.first.shape[1])
        same = d.first == flat
        row = {
            "prompt": prompts[b] if prompts is not None else "",
            "file": _file(d.arm, b, k),
            **{key: float(values[b, k]) for key, values in d.numbers.items()},
            "log_w": float(np.logaddexp.reduce(d.log_w[same])),
            "copies": int(same.sum()),
            "method": plan.campaign.sampler.name if d.arm == "aligned" else d.arm,
            "seed": plan.campaign.seed,
            "island": b,
        }
        rows.append(rounded(row))
    return rows


def _draw(folder: RunFolder, files: Sequence[str]) -> None:
    """Write the image files that are not there yet, from the islands the run has kept."""
    load = lru_cache(1)(folder.load_island)  # files of an island follow one another
    for name in sorted({*files}):
        match = re.fullmatch(r"images/(?:(.+)-)?(\d+)-(\d+)\.png", name)
        assert match is not None
        if (folder.path / name).is_file():
            continue
        arm, island, particle = match[1] or "aligned", int(match[2]), int(match[3])
        kept = load(arm, island)
        if kept is None:
            raise ValueError(
                f"{folder.path} has no state of island {island} of {arm}, from which {name} would "
                "be drawn. Run its campaign again."
            )
        folder.write(name, png(kept[0].designs.x[0, particle]))


def _shown(rows: Sequence[Record], labels: Sequence[str]) -> tuple[Record, ...]:
    return tuple({k: row[k] for k in ("file", *labels, "total")} for row in rows[:SHOWN])


def _sheet(folder: RunFolder, gallery: Sequence[Line], labels: Sequence[str]) -> bytes:
    """Return the contact sheet: aligned designs beside best-of-N and unguided ones."""
    words = {"aligned": "aligned", "best_of_n": "best of N", "unguided": "unguided"}
    lines = []
    for line in gallery:
        groups = []
        for arm, word in words.items():
            cells = []
            for row in line.arms.get(arm, ()):
                image = read_png((folder.path / row["file"]).read_bytes())
                cells.append((image, "\n".join([word, *(f"{row[key]:.2f}" for key in labels)])))
            groups.append(cells)
        if any(groups):
            lines.append((line.prompt, groups))
    return contact_sheet(lines, f"Under each image: {', '.join(labels)}.")


def _divergence(plan: Plan, aligned: _Drawn) -> float | None:
    """Return KL(p* || p_pre) in nats, mean over islands: E*[r]/alpha − log Z, as the run saw it.

    None for methods that are not consistent.
    """
    samples = aligned.samples
    if samples.log_z is None:
        return None
    w = torch.softmax(samples.log_w, -1)
    mean = torch.where(w > 0, w * samples.rewards, 0.0).sum(-1)
    return metrics.mean((mean / plan.arms[0].method.alpha - samples.log_z).tolist())


@dataclass(frozen=True)
class _Zero:
    """A denoiser that costs nothing and counts like another."""

    calls_per_state: int

    def __call__(self, x: Tensor, t: float) -> Tensor:
        return 0.0 * x


def _each(model: Model) -> int:
    """Return the network calls that one visit of a state costs."""
    return int(getattr(model.process, "calls_per_state", 1))


def _gigabytes(device: torch.device) -> float:
    """Return the peak of memory so far: a step that was timed has had all that a run needs."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        import resource
    except ImportError:  # no such count on Windows
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)


@dataclass(frozen=True)
class Images:
    """Pictures (1 or 3, H, W) with values in [0, 1], one law per prompt."""

    kind: ClassVar[str] = "images"
    key: ClassVar[str] = "file"
    each: ClassVar[str | None] = "prompt"
    recurs: ClassVar[bool] = False

    # before a run ---------------------------------------------------------------------------------

    def load(self, campaign: Campaign, source: Source, own: Process | None) -> Loaded:
        """Build the model of a campaign, with its prompts."""
        loaded = load_images(campaign, source, own)
        x = self.probe(loaded.model)[0].x
        if x.dim() != 5 or x.shape[2] not in (1, 3):
            raise source.error(
                ("model", "name"),
                f"designs of {campaign.model.name!r} have shape {tuple(x.shape[2:])} and are no "
                "images (1 or 3, H, W). Use seqalign.sample in Python.",
            )
        return loaded

    def probe(self, model: Model, n: int = 3) -> tuple[Designs, str]:
        """Return n images of decoded noise, (1, n), and what they are in words."""
        process = model.one(0)
        with torch.no_grad():
            noise = process.prior((1, n), Streams(0, (0,)).at("probe"))
            return process.decode(noise), "decoded noise"

    def graded(self, reward: Reward, designs: Designs) -> Tensor:
        """Return the differentiable score of designs, (B, K); NaN where its gradient is."""
        x = designs.x.detach().clone().requires_grad_()
        found = reward.graded(replace(designs, x=x))
        if found.requires_grad:
            (slope,) = torch.autograd.grad(found.sum(), x, retain_graph=True)
            if not bool(torch.isfinite(slope).all()):
                return torch.full_like(found, math.nan)
        return found

    def rehearse(self, method: Method, model: Model, reward: Reward, particles: int) -> Rehearsal:
        """Run a method with the network and the reward taken out: exact counts at no cost.

        They include what pads the last chunk of so many particles.
        """
        real = model.process
        # one number per state: what is counted does not depend on the size of an image
        free = GaussianProcess(
            _Zero(_each(model)),
            (1,),
            model.steps,
            eta=getattr(real, "eta", 1.0),
            differentiable=real.differentiable,
            chunk=real.chunk,
            name=model.name,
        )
        states = particles * int(getattr(method, "branch", 1))
        return rehearse(method, even(free, states), reward, particles, None)

    def oracle_calls(self, plan: Plan, role: str) -> int:
        """Return the calls of one reward, at most."""
        return plan.drawn + (plan.reward_calls if role == "guide" else 0)

    def beside(self, plan: Plan) -> Mapping[str, int]:
        """Return the network calls of a calibration."""
        if not open_zscores(plan.objective):
            return {}
        islands, designs = references(plan.model)
        return {"calibration": islands * designs * plan.model.steps * _each(plan.model)}

    def cost(self, plan: Plan) -> tuple[float, Mapping[str, float], float]:
        """Time one network call of a full chunk, and one call of each reward with its gradient."""
        process = plan.model.one(0)
        n = min(plan.arms[0].particles, process.chunk or 16)
        x = process.prior((1, n), Streams(0, (0,)).at("estimate"))
        t = float(process.times[0])

        def lap(job: Callable[[], Any]) -> float:
            """Return seconds per design; the first lap warms up, unless it is long itself."""
            best = math.inf
            for _ in range(2):
                begin = time.perf_counter()
                job()
                if x.device.type == "cuda":
                    torch.cuda.synchronize(x.device)
                best = min(best, time.perf_counter() - begin)
                if best > 2:
                    break
            return best / n

        with torch.no_grad():
            mean = process.posterior(x, t).mean
            call = lap(lambda: process.posterior(x, t)) / _each(plan.model)
            designs = process.decode(mean)

        def gradient(reward: Reward) -> None:
            leaf = mean.detach().requires_grad_()
            torch.autograd.grad(reward.graded(process.decode(leaf)).sum(), leaf)

        seconds = {}
        for term in plan.terms:
            guided = term.spec.role == "guide" and term.raw.differentiable
            job: Callable[[Reward], Any] = gradient if guided else lambda r: r(designs)
            seconds[term.label] = lap(partial(job, term.raw))
        return call, seconds, _gigabytes(x.device)

    def resolved(self, plan: Plan) -> Mapping[str, Any]:
        """Return prompts, islands per prompt and steps."""
        model = plan.model
        return {
            "prompts": None if model.prompts is None else list(model.prompts),
            "islands_per_prompt": plan.replicates,
            "wild_type": None,
            "residues": [],
            "chains": [],
            "steps": model.steps,
        }

    def asked(self, plan: Plan) -> Mapping[str, Any]:
        """Return what a campaign asks of its model, for programs."""
        found = self.resolved(plan)
        return {key: found[key] for key in ("prompts", "islands_per_prompt", "steps")}

    def say(self, plan: Plan, say: Say) -> None:
        """Say what will be drawn."""
        prompts, n = plan.model.prompts, plan.replicates
        islands = f"{n} island{'s' if n > 1 else ''}"
        if prompts is None:
            say(f"\nImages without a prompt, {islands}")
            return
        some = f"{len(prompts)} prompt{'s' if len(prompts) > 1 else ''}"
        say("\n  ".join([f"\n{some}, {islands} each, {plan.model.steps} steps", *prompts]))

    def columns(self, campaign: Campaign, model: Model) -> list[str]:
        """Return the columns of designs.csv."""
        return columns(campaign.rewards, ("prompt", "file"), programs=("island",))

    # after it -------------------------------------------------------------------------------------

    def judge(
        self,
        plan: Plan,
        objective: Reward,
        results: Mapping[str, Samples],
        tell: Callable[[int], None] | None,
        kept: Callable[[Sequence[Record]], Sequence[Record]],
    ) -> Judged:
        """Score every distinct image once, and measure how different they are."""
        drawn = {name: _judge(plan, objective, name, samples) for name, samples in results.items()}
        aligned = drawn["aligned"]
        ruler = _ruler(plan)
        spread, width = _spread(plan, ruler, list(drawn.values()))
        rows, paired = _rows(plan, drawn, spread), _paired(plan, drawn)
        labels = [t.label for t in plan.terms]
        others = [row for name in drawn if name != "aligned" for row in _table(plan, drawn[name])]
        gallery = _gallery(plan.model.prompts, others, labels)
        files = {row["file"] for line in gallery for arm in line.arms.values() for row in arm}
        for n, row in enumerate(others, 1):
            row["id"] = f"{row['method']}-{n:04d}"
            row["file"] = row["file"] if row["file"] in files else ""
        samples = aligned.samples
        most = samples.rewards.shape[1] * plan.replicates
        log_w = aligned.log_w.ravel().tolist()
        return Judged(
            _table(plan, aligned),
            others,
            rows,
            _gains(plan, paired, rows),
            {
                x: metrics.weighted_mean(aligned.numbers[x].ravel().tolist(), log_w)
                for x in plan.shown
            },
            own={
                "prompts": plan.model.prompts,
                "paired": paired,
                "diversity": Spread(ruler.of, ruler.unit, width, most),
                "gallery": gallery,
                "kl": _divergence(plan, aligned),
            },
        )

    def pool(
        self, plan: Plan, objective: Reward, samples: Samples, known: dict[str, Record]
    ) -> Sequence[Record]:
        """Score every image; none comes again."""
        return _table(plan, _judge(plan, objective, "aligned", samples))

    def broken(self, model: Model, row: Record) -> str | None:
        """Return None: images have no constraints."""
        return None

    def publish(
        self, folder: RunFolder, summary: Summary, kept: Sequence[Record], every: Sequence[Record]
    ) -> Summary:
        """Write image files and the contact sheet."""
        assert summary.gallery is not None
        labels = list(summary.units)
        gallery = tuple(
            # what another choice showed of the aligned designs goes, the baselines stay
            Line(line.prompt, {"aligned": (), **line.arms} | {"aligned": _shown(mine, labels)})
            for line in summary.gallery
            for mine in [[row for row in kept if row["prompt"] == line.prompt]]
        )
        files = [row["file"] for row in (every if len(every) <= FILES else kept)]
        files += [row["file"] for line in gallery for arm in line.arms.values() for row in arm]
        _draw(folder, files)
        if any(arm for line in gallery for arm in line.arms.values()):
            folder.write("contact-sheet.png", _sheet(folder, gallery, labels))
        return replace(summary, gallery=gallery)

    def compared(self, run: Run) -> Compared:
        """Return what its verdicts compare."""
        return compared(run)

    def figures(self, run: Run, groups: Groups) -> Figures:
        """Draw rewards prompt by prompt and altogether."""
        return figures(run, groups)


def _gallery(
    prompts: Sequence[str] | None, others: Sequence[Record], labels: Sequence[str]
) -> tuple[Line, ...]:
    """Return what is shown of the baselines, prompt by prompt."""
    lines = []
    for text in prompts or [""]:
        arms = {}
        first = [r for r in others if r["method"] == "best_of_n" and r["prompt"] == text]
        if first:
            top = sorted(first, key=lambda r: (-r["total"], r["file"]))
            arms = {"best_of_n": _shown(top, labels), "unguided": _shown(first, labels)}
        lines.append(Line(text, arms))
    return tuple(lines)
