"""Aligned emoji against best-of-N: emoji-mini, guided by emoji-match, judged by its hold-out twin.

    python examples/benchmarks/emoji.py --data DIR [--choose [--figure FILE]] [--pareto FILE]

Twenty names are drawn by seed 0 from those that no network was trained on (the test part of
images/noto_emoji_png32.tar.xz below DIR). For each, every arm runs `--islands` small independent
islands and returns the best design of each by emoji-match, so that all arms return as many designs:

- aligned: `--particles` particles per island.
- best-of-N: N particles per island, at equal network calls. A backward pass through the network
  counts as two calls.
- unguided: the first particle of each island of best-of-N.

A row is the mean over prompts; its paired 95 % t-interval is over prompts. Diversity is the mean
pairwise distance of a prompt's designs, in three ways. "pixel" is what the report shows, the root
mean square difference over 8 x 8 cells, and knows nothing of either network. "perceptual" is LPIPS
with unit weights (Zhang et al., CVPR 2018, equation 1): squared differences of the unit feature
vectors at every place of the hold-out twin's three feature maps, averaged. "embedding" is 1 − cos
of the twin's embeddings of what the pictures mean; pictures that all show their prompt are alike by
it. The Vendi score is the effective number of distinct designs in the embedding. The same distances
over all pairs of all prompts' designs, as the published evaluation of DAS takes them, follow in a
line. `--choose` runs a grid of alphas on twenty other names (the validation part) instead;
`--figure` draws it. `--pareto` mixes emoji-match with JPEG compressibility, which has no gradient,
by weights w and 1 − w, and draws both. Without `--data`, and with `--quick`, a few fixed names
stand in.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import typer
from torch import Tensor

import seqalign as sa
from seqalign.campaign.metrics import mean_distance, paired_interval, pooled_pixels, vendi
from seqalign.models.emoji import emoji_mini
from seqalign.rewards.emoji import Convolution, MatchNetwork, emoji_match

COLUMNS = (
    "emoji-match",
    "emoji-match-holdout",
    "pixel diversity",
    "perceptual diversity",
    "embedding diversity",
    "Vendi score",
)
GRID = (0.025, 0.05, 0.1, 0.2, 0.4)
FEW = ("crying cat face", "red apple", "sailboat")


def names(data: Path | None, part: str, n: int, seed: int, known_words: bool) -> list[str]:
    """Return n names of a part of the emoji, drawn by a seed; a few fixed ones without data."""
    if data is None:
        return list(FEW)
    from seqalign.models.emoji_data import load, part_of, words_of

    emoji = load(data)
    taught = {w for e in emoji if part_of(e.name) == "train" for w in words_of(e.name)}
    some = sorted(e.name for e in emoji if part_of(e.name) == part)
    if known_words:
        some = [name for name in some if set(words_of(name)) <= taught]
    print(f"{n} of {len(some)} names of the {part} part")
    return random.Random(seed).sample(some, n)


def perceptual(network: MatchNetwork, images: Tensor) -> float:
    """Return the mean LPIPS distance with unit weights over all pairs of images (n, 3, 32, 32)."""
    n = len(images)
    if n < 2:
        return 0.0
    h, total, maps = 2.0 * (images - 1.0), 0.0, 0
    with torch.no_grad():
        for i, layer in enumerate(network.stages):
            h = layer(h)
            last = i + 1 == len(network.stages) or isinstance(network.stages[i + 1], Convolution)
            # a map is what the next convolution, which halves it, is given
            if last and not isinstance(layer, Convolution):
                unit = F.normalize(h, dim=1).flatten(1)
                places = h.shape[2] * h.shape[3]
                total += float(torch.pdist(unit).square().mean()) / places
                maps += 1
    return total / maps


class Bench:
    """The rewards, and how an arm is run and told."""

    def __init__(self, steps: int, islands: int) -> None:
        """Load the rewards."""
        self.guide, self.holdout = emoji_match(), emoji_match(registered="emoji-match-holdout")
        self.steps, self.islands = steps, islands

    def run(
        self, method: Any, reward: sa.Reward, prompt: str, particles: int, arm: str
    ) -> sa.Samples:
        """Run the islands of one prompt."""
        process = emoji_mini(prompts=[prompt] * self.islands, steps=self.steps)
        rng = sa.Streams(0, range(self.islands)).at(arm, prompt)
        samples: sa.Samples = method(process, reward, (self.islands, particles), rng=rng)
        return samples

    def diversity(self, images: Tensor, e: Tensor) -> list[float]:
        """Return mean pixel, perceptual and embedding distance of pairs; e embeds the images."""
        n = len(images)
        apart = float((1 - e @ e.T).sum() / (n * (n - 1))) if n > 1 else 0.0
        cells = mean_distance(pooled_pixels(images))
        return [cells, perceptual(self.holdout.network, images), apart]

    def tell(self, images: Tensor, prompt: str) -> list[float]:
        """Describe the designs (n, 3, 32, 32) of one prompt, in the order of `COLUMNS`."""
        designs = sa.Designs(images[None], prompts=(prompt,))
        e = self.holdout.embed(images)
        scores = [float(r(designs).mean()) for r in (self.guide, self.holdout)]
        return [*scores, *self.diversity(images, e), vendi(e @ e.T)]


def best(samples: sa.Samples) -> Tensor:
    """Return the design with the highest reward of each island, (B, 3, 32, 32)."""
    rows = torch.arange(len(samples.rewards))
    found: Tensor = samples.designs.x[rows, samples.rewards.argmax(-1)]
    return found


def table(title: str, a: Any, b: Any, what: str) -> None:
    """Print means and the paired difference with its 95 % interval."""
    print(f"\n{title}, {len(a)} prompts")
    print(f"{'':22s} {'aligned':>9s} {what:>10s} {'difference':>10s}   95 % interval")
    for j, column in enumerate(COLUMNS):
        line = f"{column:22s} {a[:, j].mean():9.3f} {b[:, j].mean():10.3f} "
        mean, low, high = paired_interval(a[:, j], b[:, j])
        print(f"{line}{mean:+10.3f}" + ("" if low is None else f"   {low:+.3f} .. {high:+.3f}"))


def compare(
    bench: Bench, prompts: Sequence[str], method: Any, particles: int
) -> tuple[Any, Any, Any]:
    """Return what `Bench.tell` says of aligned, best-of-N and unguided designs, (n, 6) each."""
    rows: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
    shown: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
    plain = sa.load_method("best_of_n", alpha=1.0)
    for prompt in prompts:
        clock = time.perf_counter()
        aligned = bench.run(method, bench.guide, prompt, particles, "aligned")
        each = aligned.network_calls / (bench.islands * bench.steps)
        other = bench.run(plain, bench.guide, prompt, round(each), "best_of_n")
        designs = (best(aligned), best(other), other.designs.x[:, 0])
        for row, arm, images in zip(rows, shown, designs, strict=True):
            row.append(bench.tell(images, prompt))
            arm.append(images)
        print(
            f"{prompt:44s} aligned {rows[0][-1][0]:6.2f} {rows[0][-1][1]:6.2f}  "
            f"best of {round(each)} {rows[1][-1][0]:6.2f} {rows[1][-1][1]:6.2f}  "
            f"unguided {rows[2][-1][0]:6.2f} {rows[2][-1][1]:6.2f}  "
            f"{aligned.network_calls} and {other.network_calls} calls, "
            f"{time.perf_counter() - clock:.0f} s",
            flush=True,
        )
    for name, arm in zip(("aligned", "best-of-N", "unguided"), shown, strict=True):
        every = torch.cat(arm)
        cells, percepts, apart = bench.diversity(every, bench.holdout.embed(every))
        print(
            f"over all prompts, {name:9s}: pixel diversity {cells:.3f}, perceptual {percepts:.3f}, "
            f"embedding {apart:.3f}"
        )
    return np.array(rows[0]), np.array(rows[1]), np.array(rows[2])


def draw_alphas(points: Sequence[tuple[str, Any]], path: Path) -> None:
    """Draw both rewards against perceptual diversity; points are labels and means (6,)."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8.0, 3.6), sharex=True, layout="constrained")
    for j, axis in enumerate(axes):
        line = np.array([(m[3], m[j]) for label, m in points if label.startswith("alpha")])
        axis.plot(line[:, 0], line[:, 1], "o-", ms=5)
        for i, (label, m) in enumerate(points):
            if not label.startswith("alpha"):
                axis.plot(m[3], m[j], "s", color="0.4", ms=6)
            # neighbors on a line write to different sides
            by, side = (((-7, -3), "right"), ((7, -3), "left"))[i % 2]
            if not label.startswith("alpha"):
                by, side = (0, -14), "center"
            axis.annotate(label, (m[3], m[j]), by, textcoords="offset points", fontsize=8, ha=side)
        axis.set(xlabel="perceptual diversity", ylabel=f"{COLUMNS[j]}, nats")
        axis.margins(0.5, 0.15)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=140)
    print(f"wrote {path}")


def draw_weights(points: Mapping[str, Sequence[float]], path: Path) -> None:
    """Draw emoji-match (nats) against minus the size as JPEG (kB); points by label."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5.0, 3.8), layout="constrained")
    front = np.array([v for k, v in points.items() if k != "unguided"])
    axis.plot(-front[:, 1], front[:, 0], "o-", ms=5)
    axis.plot(-points["unguided"][1], points["unguided"][0], "s", color="0.4", ms=6)
    for label, (match, kb) in points.items():
        axis.annotate(label, (-kb, match), (6, 5), textcoords="offset points", fontsize=8)
    axis.set(xlabel="size as JPEG, kB", ylabel="emoji-match, nats")
    axis.margins(0.15)
    axis.invert_xaxis()
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=140)
    print(f"wrote {path}")


def draw_pareto(bench: Bench, prompts: Sequence[str], particles: int, path: Path) -> None:
    """Draw emoji-match against the size of the JPEG for several weights, by gradient-free SMC."""
    size = sa.load_reward("jpeg-compressibility")
    # both rewards are divided by what unguided designs vary by, fixed before any run
    plain = sa.load_method("best_of_n", alpha=1.0)
    before = [bench.run(plain, bench.guide, p, particles, "unguided") for p in prompts]
    spread = torch.cat([s.rewards.flatten() for s in before]).std()
    weights = torch.cat([size(s.designs).flatten() for s in before])
    points = {"unguided": [float(torch.cat([s.rewards.flatten() for s in before]).mean())]}
    points["unguided"].append(float(weights.mean()))
    match, kb = points["unguided"]
    print(f"unguided: emoji-match {match:.3f} nats, JPEG {-kb:.3f} kB", flush=True)
    for w in (0.0, 0.25, 0.5, 0.75, 1.0):
        terms = [
            (w / float(spread)) * bench.guide if w > 0 else None,
            ((1 - w) / float(weights.std())) * size if w < 1 else None,
        ]
        mixed = [t for t in terms if t is not None]
        reward = mixed[0] if len(mixed) == 1 else mixed[0] + mixed[1]
        method = sa.load_method("smc", alpha=0.25, value="posterior_mode")
        found = [best(bench.run(method, reward, p, particles, f"w={w}")) for p in prompts]
        shown = [sa.Designs(x[None], prompts=(p,)) for x, p in zip(found, prompts, strict=True)]
        points[f"w = {w:g}"] = [
            float(torch.cat([r(d) for d in shown]).mean()) for r in (bench.guide, size)
        ]
        print(
            f"w = {w:4.2f}: emoji-match {points[f'w = {w:g}'][0]:.3f} nats, "
            f"JPEG {-points[f'w = {w:g}'][1]:.3f} kB",
            flush=True,
        )
    draw_weights(points, path)


Quick = Annotated[bool, typer.Option("--quick", help="2 prompts, 3 islands, 12 steps")]
Data = Annotated[Path | None, typer.Option(help="folder with images/noto_emoji_png32.tar.xz")]


def main(
    quick: Quick = False,
    data: Data = None,
    choose: Annotated[
        bool, typer.Option("--choose", help="a grid of alphas on other names")
    ] = False,
    figure: Annotated[Path | None, typer.Option(help="of --choose, over alpha")] = None,
    pareto: Annotated[Path | None, typer.Option(help="of both rewards, over w")] = None,
    prompts: int = 20,
    known_words: Annotated[
        bool,
        typer.Option("--known-words", help="only names all of whose words were trained on"),
    ] = False,
    steps: int = 50,
    islands: Annotated[int, typer.Option(help="designs per prompt and arm")] = 8,
    particles: Annotated[int, typer.Option(help="per island of the aligned arm")] = 4,
    method: str = "das",
    alpha: float = 0.1,
    grid: Annotated[
        list[float] | None, typer.Option(help="alphas of --choose, the option once for each")
    ] = None,
    scale: Annotated[float, typer.Option(help="of the gradient")] = 1.0,
    held: Annotated[
        bool, typer.Option("--held", help="das with lam held to i/n and no limit of the tilt")
    ] = False,
    threads: int = 1,
) -> None:
    """Print the tables."""
    torch.set_num_threads(threads)
    data = None if quick else data
    bench = Bench(12 if quick else steps, 3 if quick else islands)

    def at(alpha: float) -> Any:
        tilt: dict[str, Any] = {"scale": scale}
        if not held:
            return sa.load_method(method, alpha=alpha, tilt=tilt)
        pace = {"name": "adaptive", "pace": 1.0}
        tilt["limit"] = math.inf
        return sa.load_method(method, alpha=alpha, tilt=tilt, tempering=pace)

    if choose:
        chosen = names(data, "validation", prompts, 0, known_words)
        points: list[tuple[str, Any]] = []
        for alpha in grid or GRID:
            print(f"\nalpha {alpha}", flush=True)
            found = compare(bench, chosen, at(alpha), particles)
            table(f"alpha {alpha}", found[0], found[1], "best-of-N")
            table(f"alpha {alpha}", found[0], found[2], "unguided")
            points.append((f"alpha {alpha:g}", found[0].mean(0)))
        points += [("best of N", found[1].mean(0)), ("unguided", found[2].mean(0))]
        if figure is not None:
            draw_alphas(points, figure)
        return
    chosen = names(data, "test", prompts, 0, known_words)[: 2 if quick else None]
    aligned, other, plain = compare(bench, chosen, at(alpha), particles)
    print(at(alpha))
    table("equal network calls", aligned, other, "best-of-N")
    table("against the model alone", aligned, plain, "unguided")
    if pareto is not None:
        draw_pareto(bench, chosen[:5], 4 if quick else 16, pareto)


if __name__ == "__main__":
    typer.run(main)
