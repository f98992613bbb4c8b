"""Alignment on mini-protein backbones: stability by ddg-mini, judged by ddg-pairs, of another kind.

    python examples/benchmarks/minis.py --data DIR [--seeds 5] [--figure scaling.png] [--quick]
        [--model proteinmpnn] [--temperature 0.1] [--more 12]

Ten backbones of the mini-protein set (structures/minis_pdb.tar.xz below DIR) are drawn by `--draw`;
mpnn-mini and ddg-pairs know none of them, ddg-mini relatives of some. On each, an aligned sampler,
the model alone and best-of-N get the same network calls. From each arm the ten best distinct
designs by ddg-mini are taken. A table row is the mean over backbones and seeds; its paired 95 %
t-interval is over seeds, each seed's difference being the mean over backbones. One network call is
one particle seen once; best-of-N gets `--more` times as many, where a network that remembers draws
unguided designs so much faster, and processor seconds per backbone are printed. `--figure` runs
every arm at several budgets and draws reward against network calls. Without `--data`, and with
`--quick`, the embedded demo backbone stands in.
"""

from __future__ import annotations

import io
import tarfile
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import scipy.stats
import torch
import typer

import seqalign as sa
from seqalign.campaign.metrics import prior_log_likelihood, recovery
from seqalign.files.structure import Structure, demo_backbone, read_structure

COLUMNS = ("ddg-mini", "ddg-pairs", "recovery", "prior")


@dataclass(frozen=True)
class Target:
    """One backbone with its model and both rewards."""

    model: sa.Model
    guide: sa.Reward
    holdout: sa.Reward


def draw_backbones(data: Path | None, n: int, draw: int, folder: Path) -> list[Structure]:
    """Return n wild-type mini-protein backbones drawn by a seed, or the embedded one."""
    if data is None:
        return [demo_backbone()]
    with tarfile.open(data / "structures" / "minis_pdb.tar.xz") as tar:
        files = sorted(
            m.name for m in tar.getmembers() if m.isfile() and "_" not in Path(m.name).stem
        )
        chosen = np.random.default_rng(draw).permutation(len(files))[:n]
        found = []
        for i in sorted(chosen.tolist()):
            text = tar.extractfile(files[i])
            assert text is not None
            file = folder / Path(files[i]).name
            file.write_bytes(io.BytesIO(text.read()).getvalue())
            found.append(read_structure(file))
    return found


def target(structure: Structure, model: str, temperature: float) -> Target:
    """Load the model and the rewards on one backbone."""
    how = {"chunk": 4} if model == "mpnn-mini" else {}
    return Target(
        sa.load_model(model, structure=structure, temperature=temperature, **how),
        sa.load_reward("ddg-mini", structure=structure),
        sa.load_reward("ddg-pairs", structure=structure),
    )


def describe(t: Target, samples: sa.Samples, n: int | None) -> list[float]:
    """Return the mean of each column over the n best distinct designs, or over the first ten."""
    if n is None:
        x = samples.designs.x[0, :10]
    else:
        best = samples.best(n)
        x = samples.designs.x[best[:, 0], best[:, 1]]
    designs = replace(samples.designs, x=x[None])
    wild = t.model.wild_type or ""
    free = list(range(len(wild)))
    prior = prior_log_likelihood(t.model.process, x, free, orders=1, seed=0) / len(free)
    kept = [recovery(s, wild) for s in designs.sequences[0]]
    return [
        float(t.guide(designs).mean()),
        float(t.holdout(designs).mean()),
        float(np.mean(kept)),
        float(prior.mean()),
    ]


def run(t: Target, method: Any, k: int, seed: int, arm: str) -> sa.Samples:
    """Draw (1, k) designs; the arms draw from their own streams."""
    rng = sa.Streams(seed, (0,)).at(arm)
    samples: sa.Samples = method(t.model.process, t.guide, (1, k), rng=rng, space=t.model.space)
    return samples


def table(title: str, aligned: np.ndarray, other: np.ndarray, name: str) -> None:
    """Print means and paired differences; arrays are (seeds, backbones, columns)."""
    a, b = aligned.mean(1), other.mean(1)
    print(f"\n{title}: {a.shape[0]} seeds, {aligned.shape[1]} backbones")
    print(f"{'':14s} {'aligned':>9s} {name:>12s} {'difference':>11s}   95 % interval")
    for j, column in enumerate(COLUMNS):
        line = f"{column:14s} {a[:, j].mean():9.3f} {b[:, j].mean():12.3f} "
        line += f"{(a - b)[:, j].mean():+11.3f}"
        if len(a) > 1:
            interval = scipy.stats.ttest_rel(a[:, j], b[:, j]).confidence_interval(0.95)
            line += f"   {interval.low:+.3f} .. {interval.high:+.3f}"
        print(line)


def scaling(
    targets: Sequence[Target], methods: Mapping[str, Any], sizes: Sequence[int], seed: int
) -> dict[str, list[tuple[float, float, float]]]:
    """Return, per arm, (network calls, guide, hold-out) of the top ten, mean over backbones."""
    curves: dict[str, list[tuple[float, float, float]]] = {}
    for name, method in methods.items():
        for k in sizes:
            rows = []
            for t in targets:
                samples = run(t, method, k, seed, name)
                row = describe(t, samples, 10)
                rows.append((float(samples.network_calls), row[0], row[1]))
            mean = np.mean(rows, axis=0)
            curves.setdefault(name, []).append((mean[0], mean[1], mean[2]))
            print(f"{name:10s} {k:5d} particles {mean[0]:8.0f} calls {mean[1]:7.3f} {mean[2]:7.3f}")
    return curves


def draw_scaling(curves: Mapping[str, list[tuple[float, float, float]]], path: Path) -> None:
    """Draw reward and hold-out against network calls."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9.0, 3.6), sharex=True, layout="constrained")
    for name, points in curves.items():
        calls, guide, held = (np.array(c) for c in zip(*points, strict=True))
        axes[0].plot(calls, guide, "o-", ms=4, label=name)
        axes[1].plot(calls, held, "o-", ms=4, label=name)
    for axis, what in zip(axes, ("ddg-mini (guide)", "ddg-pairs (hold-out)"), strict=True):
        axis.set(xscale="log", xlabel="network calls per backbone", title=what)
        axis.set_ylabel("top 10 over the wild type, kcal/mol")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=160)
    print(f"wrote {path}")


Quick = Annotated[bool, typer.Option("--quick", help="2 seeds, 8 particles, 1 backbone")]
Data = Annotated[Path | None, typer.Option(help="folder with structures/minis_pdb.tar.xz")]


def main(
    quick: Quick = False,
    data: Data = None,
    backbones: int = 10,
    draw: Annotated[int, typer.Option(help="seed of the draw of backbones")] = 0,
    seeds: int = 5,
    first: Annotated[int, typer.Option(help="first seed")] = 0,
    method: str = "tds",
    alpha: float = 0.1,
    particles: Annotated[int, typer.Option(help="of the aligned arm")] = 64,
    model: str = "mpnn-mini",
    temperature: float = 0.1,
    more: Annotated[int, typer.Option(help="best-of-N draws so many times as many")] = 1,
    figure: Path | None = None,
    threads: int = 1,
) -> None:
    """Print the tables, and draw the figure if asked."""
    torch.set_num_threads(threads)
    if quick:
        particles, seeds, data = 8, 2, None
    with tempfile.TemporaryDirectory() as folder:
        structures = draw_backbones(data, backbones, draw, Path(folder))
    print("backbones:", ", ".join(f"{s.name} ({len(s.sequence)})" for s in structures))
    targets = [target(s, model, temperature) for s in structures]
    aligner = sa.load_method(method, alpha=alpha)
    best_of_n = sa.load_method("best_of_n", alpha=alpha)
    print(f"{aligner}\n{particles} particles")
    aligned, best, plain, spent = [], [], [], np.zeros(2)
    for seed in range(first, first + seeds):
        rows: list[list[list[float]]] = [[], [], []]
        for t in targets:
            clock = time.process_time()
            samples = run(t, aligner, particles, seed, "aligned")
            spent[0] += time.process_time() - clock
            # a gradient through the network would count in network_calls; as many go to best-of-N
            size = round(particles * samples.network_calls / (particles * t.model.process.steps))
            clock = time.process_time()
            other = run(t, best_of_n, max(size * more, 1), seed, "best_of_n")
            spent[1] += time.process_time() - clock
            rows[0].append(describe(t, samples, 10))
            rows[1].append(describe(t, other, 10))
            rows[2].append(describe(t, other, None))
        for arm, some in zip((aligned, best, plain), rows, strict=True):
            arm.append(some)
        means = [np.mean(some, axis=0)[:2].round(3).tolist() for some in rows]
        print(
            f"seed {seed}: aligned {means[0]} best-of-N {means[1]} unguided {means[2]}", flush=True
        )
    spent /= seeds * len(targets)
    print(f"processor seconds per backbone: aligned {spent[0]:.2f}, best-of-N {spent[1]:.2f}")
    said = "equal network calls" if more == 1 else f"best-of-N of {more} times as many"
    table(f"top 10 of each, {said}", np.array(aligned), np.array(best), "best-of-N")
    table("top 10 against 10 unguided designs", np.array(aligned), np.array(plain), "unguided")
    if figure:
        methods = {
            "best of N": best_of_n,
            "svdd": sa.load_method("svdd", alpha=alpha),
            "smc": sa.load_method("smc", alpha=alpha),
            "tds": sa.load_method("tds", alpha=alpha),
            "das": sa.load_method("das", alpha=alpha),
        }
        curves = scaling(targets, methods, (4, 16, 64) if quick else (8, 16, 32, 64, 128), 0)
        draw_scaling(curves, figure)


if __name__ == "__main__":
    typer.run(main)
