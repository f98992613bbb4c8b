"""Does alignment pay? Arms at equal processor seconds, against best-of-N by the fastest sampler.

    python examples/benchmarks/pays.py --data DIR [--model proteinmpnn] [--temperature 0.1]
        [--seconds 4] [--seeds 3] [--backbones 10] [--judge ddg-pairs] [--quick]

The task is the redesign of whole mini-protein backbones (structures/minis_pdb.tar.xz below DIR,
drawn by `--draw`) for `--guide`. Per backbone a pilot of 256 unguided designs gives the standard
deviation σ of the guide, and alpha = σ / `--sharp`. Every arm gets as many particles as fit into
`--seconds` of one thread, by its own cost on this backbone; the pilot is in nobody's budget. Of
each arm the ten best different designs by the guide are looked at:

shift    of the guide over the unguided mean, in σ
guide    over the unguided mean, in its unit; judge likewise: what nobody optimized
prior    log-likelihood, nats per residue, over that of unguided designs
KL       of the arm's law from the prior, nats per residue: (E[r]/alpha − log Ẑ)/L, ln(N)/L of
         best-of-N; unknown without weights
distinct share of all particles of the arm that differ

Rows are means over backbones and seeds; the interval beside a difference from best-of-N is that of
a t-test over backbones, 95 %. Without `--data`, and with `--quick`, the embedded demo backbone
stands in.
"""

from __future__ import annotations

import math
import runpy
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import scipy.stats
import torch
import typer

import seqalign as sa
from seqalign.campaign.metrics import prior_log_likelihood
from seqalign.files.structure import Structure

MINIS = runpy.run_path(str(Path(__file__).with_name("minis.py")))
PILOT = 256
COLUMNS = ("shift", "guide", "judge", "prior", "KL", "distinct")


def seconds(arm: Any, model: sa.Model, guide: sa.Reward, k: int, seed: int) -> tuple[float, Any]:
    """Return processor seconds and samples of one run of k particles."""
    clock = time.process_time()
    rng = sa.Streams(seed, (0,)).at(type(arm).__name__)
    samples = arm(model.process, guide, (1, k), rng=rng, space=model.space)
    return time.process_time() - clock, samples


class Look:
    """What a backbone's arms are compared with."""

    def __init__(
        self, structure: Structure, model: str, temperature: float, names: list[str], quick: bool
    ) -> None:
        self.top, size = (2, 8) if quick else (10, PILOT)
        self.model = sa.load_model(model, structure=structure, temperature=temperature)
        self.guide, self.judge = (sa.load_reward(n, structure=structure) for n in names)
        self.free = list(range(self.model.process.length))
        _, pilot = seconds(sa.load_method("best_of_n"), self.model, self.guide, size, 12345)
        r = pilot.rewards[0]
        self.sigma, self.plain = float(r.std()), float(r.mean())
        some = replace(pilot.designs, x=pilot.designs.x[:, : 2 if quick else 32])
        self.judged, self.prior = self._means(some)

    def _means(self, designs: Any) -> tuple[float, float]:
        x = designs.x
        prior = prior_log_likelihood(self.model.process, x[0], self.free, orders=1, seed=0)
        return float(self.judge(designs).mean()), float(prior.mean()) / len(self.free)

    def row(self, samples: Any, alpha: float, unguided: bool) -> list[float]:
        """Return the columns of an arm."""
        best = samples.best(self.top)
        x = samples.designs.x[best[:, 0], best[:, 1]]
        judged, prior = self._means(replace(samples.designs, x=x[None]))
        guide = float(samples.rewards[best[:, 0], best[:, 1]].mean())
        k = samples.rewards.shape[1]
        kl = math.nan
        if unguided:
            kl = math.log(k) / len(self.free)
        elif samples.log_z is not None:
            mean = float((samples.log_w.softmax(-1) * samples.rewards).sum())
            kl = (mean / alpha - float(samples.log_z)) / len(self.free)
        gain = guide - self.plain
        found = len(samples.designs.x[0].unique(dim=0)) / k
        return [gain / self.sigma, gain, judged - self.judged, prior - self.prior, kl, found]


Quick = Annotated[bool, typer.Option("--quick", help="the demo backbone, two arms, one seed")]


def main(
    quick: Quick = False,
    data: Annotated[Path | None, typer.Option(help="folder of structures/")] = None,
    backbones: int = 10,
    draw: Annotated[int, typer.Option(help="seed of the draw of backbones")] = 1,
    seeds: int = 3,
    seconds_each: Annotated[float, typer.Option("--seconds", help="of an arm and run")] = 4.0,
    sharp: Annotated[float, typer.Option(help="alpha is σ over this")] = 8.0,
    model: str = "proteinmpnn",
    temperature: float = 0.1,
    guide: str = "ddg-mini",
    judge: str = "ddg-pairs",
    arms: str = "bias,causal_smc,tds,das,smc",
) -> None:
    """Print a row per arm, and its difference from best-of-N."""
    torch.set_num_threads(1)
    if quick:
        data, seeds, seconds_each, model, arms = None, 1, 0.3, "mpnn-mini", "causal_smc,tds"
    pair = (2, 4) if quick else (8, 16)
    with tempfile.TemporaryDirectory() as folder:
        structures = MINIS["draw_backbones"](data, backbones, draw, Path(folder))
    print(f"{model}, T = {temperature}, alpha = sigma / {sharp:g}, {seconds_each:g} s an arm")
    names = ["best_of_n", *arms.split(",")]
    table: dict[str, list[list[list[float]]]] = {name: [] for name in names}
    for structure in structures:
        look = Look(structure, model, temperature, [guide, judge], quick)
        alpha, sizes = look.sigma / sharp, {}
        print(f"{structure.name} ({len(look.free)}): sigma {look.sigma:.3f}, particles", end="")
        for name in names:
            arm = sa.load_method(name, alpha=alpha)
            few, many = (seconds(arm, look.model, look.guide, k, 99)[0] for k in pair)
            slope = max((many - few) / pair[0], 1e-4)
            k = max(2, int((seconds_each - (few - pair[0] * slope)) / slope))
            rows = []
            for seed in range(seeds):
                spent, samples = seconds(arm, look.model, look.guide, k, seed)
                rows.append(look.row(samples, alpha, name == "best_of_n"))
            sizes[name] = f"{k} ({spent:.1f} s)"
            table[name].append(rows)
            print(f"  {name} {sizes[name]}", end="", flush=True)
        print(flush=True)
    print(f"\n{'':11s}" + "".join(f"{c:>9s}" for c in COLUMNS) + "   over best-of-N: guide, judge")
    base = np.array(table["best_of_n"]).mean(1)
    for name in names:
        rows = np.array(table[name]).mean(1)
        line = f"{name:11s}" + "".join(f"{v:9.3f}" for v in rows.mean(0))
        for j in (1, 2) if name != "best_of_n" else ():
            gap = rows[:, j] - base[:, j]
            line += f"   {gap.mean():+.2f}"
            if len(gap) > 1:
                interval = scipy.stats.ttest_1samp(gap, 0.0).confidence_interval(0.95)
                line += f" ({interval.low:+.2f} .. {interval.high:+.2f})"
        print(line)


if __name__ == "__main__":
    typer.run(main)
