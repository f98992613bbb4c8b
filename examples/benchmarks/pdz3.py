"""The PDZ3 demo against best-of-N: paired differences over seeds, at equal calls.

    python examples/benchmarks/pdz3.py [--quick] [--seeds 10] [--oracle]

Both arms use the demo's model, rewards, alpha and design space (at most 8 mutations). From each
arm the ten best distinct designs by the guides are taken; the table gives the mean over seeds of
their mean reward and the paired difference with its 95 % t-interval, for both guides and for both
hold-out twins, which no arm sees. One network call is one particle seen once; one oracle call is
one design or relaxed design scored. `--oracle` gives best-of-N as many oracle calls as the aligned
arm made, which costs it about 75 times its network calls.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.resources import files
from typing import Annotated, Any

import numpy as np
import scipy.stats
import torch
import typer
import yaml

import seqalign as sa


def top(samples: sa.Samples, rewards: list[sa.Reward], n: int = 10) -> list[float]:
    """Return the mean of each reward over the n best distinct designs."""
    best = samples.best(n)
    designs = replace(samples.designs, x=samples.designs.x[best[:, 0], best[:, 1]][None])
    return [float(reward(designs).mean()) for reward in rewards]


def table(title: str, names: list[str], aligned: Any, other: Any) -> None:
    """Print means and the paired difference with its 95 % interval."""
    a, b = np.array(aligned), np.array(other)
    print(f"\n{title}, top 10 of each, {len(a)} seeds")
    print(f"{'':24s} {'aligned':>8s} {'best-of-N':>9s} {'difference':>10s}   95 % interval")
    for j, name in enumerate(names):
        difference = a[:, j] - b[:, j]
        line = f"{name:24s} {a[:, j].mean():8.2f} {b[:, j].mean():9.2f} {difference.mean():+10.2f}"
        if len(a) > 1:
            t = scipy.stats.ttest_rel(a[:, j], b[:, j]).confidence_interval(0.95)
            line += f"   {t.low:+.2f} .. {t.high:+.2f}"
        print(line)


Quick = Annotated[bool, typer.Option("--quick", help="2 seeds, 8 particles")]


def main(
    quick: Quick = False,
    seeds: int = 10,
    first: Annotated[int, typer.Option(help="first seed")] = 0,
    particles: Annotated[int, typer.Option(help="of the aligned arm")] = 64,
    oracle: Annotated[
        bool, typer.Option("--oracle", help="also at equal oracle calls (long)")
    ] = False,
    threads: int = 2,
) -> None:
    """Print the tables."""
    torch.set_num_threads(threads)
    folder = files("seqalign") / "data"
    demo = yaml.safe_load((folder / "demo-pdz3.yaml").read_text())
    # chunks keep the memory of a wide best-of-N flat
    model = sa.load_model(demo["model"]["name"], chunk=64, **demo["constraints"])
    names = [spec["oracle"] for spec in demo["rewards"].values()]
    # a judge reads the structure that lies beside the demo's campaign
    rewards = [
        sa.load_reward(
            spec["oracle"], **{k: str(folder / v) for k, v in spec.get("params", {}).items()}
        )
        for spec in demo["rewards"].values()
    ]
    guides = [r for r, s in zip(rewards, demo["rewards"].values(), strict=True) if "role" not in s]
    objective = sum((1.0 * guide for guide in guides[1:]), start=1.0 * guides[0])
    sampler = {k: v for k, v in demo["sampler"].items() if k not in ("islands", "particles")}
    method = sa.load_method(sampler.pop("name"), **sampler)
    if quick:
        particles, seeds = 8, 2
    best_of_n = sa.load_method("best_of_n", alpha=sampler["alpha"])

    def run(method: Any, k: int, seed: int, arm: str) -> sa.Samples:
        # the arms draw from their own streams
        rng = sa.Streams(seed, (0,)).at(arm)
        samples: sa.Samples = method(model.process, objective, (1, k), rng=rng, space=model.space)
        if not bool(model.space.contains(samples.designs.x).all()):
            sys.exit(f"seed {seed}: a design breaks a constraint")
        return samples

    print(f"{method}\n{particles} particles, {model.process.steps} steps")
    aligned, same_network, same_oracle = [], [], []
    for seed in range(first, first + seeds):
        samples = run(method, particles, seed, "aligned")
        other = run(best_of_n, particles, seed, "best_of_n")
        aligned.append(top(samples, rewards))
        same_network.append(top(other, rewards))
        line = f"seed {seed}: network calls {samples.network_calls} and {other.network_calls}"
        if oracle:
            wide = run(best_of_n, samples.reward_calls, seed, "best_of_n")
            same_oracle.append(top(wide, rewards))
            line += f"; oracle calls {samples.reward_calls} and {wide.reward_calls}"
        print(line, flush=True)
    table("equal network calls", names, aligned, same_network)
    if oracle:
        table("equal oracle calls", names, aligned, same_oracle)


if __name__ == "__main__":
    typer.run(main)
