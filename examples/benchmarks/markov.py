"""Every method on an exactly solvable problem, at equal network calls and at equal oracle calls.

    python examples/benchmarks/markov.py [--quick] [--islands 64] [--alpha 2]

The prior is a Markov chain over 20 letters, L = 64, with its exact any-order denoiser; the reward
is additive plus nearest neighbor, so the target is a Markov chain too and log Z and E[r] are known.
One network call is one particle seen once by the denoiser; one oracle call is one design or relaxed
design scored. Branching methods get fewer particles, best-of-N gets more at equal oracle calls.
E[r] is the weighted mean with islands pooled by their Ẑ (plain for methods without weights).
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from exact import Testbed

from seqalign.core.particles import Samples
from seqalign.core.potential import Max, Sum
from seqalign.core.tempering import Adaptive
from seqalign.methods.beam import Beam
from seqalign.methods.best_of_n import BestOfN
from seqalign.methods.das import DAS
from seqalign.methods.fk_steering import FKSteering
from seqalign.methods.guidance import Guidance
from seqalign.methods.nested_is import NestedIS
from seqalign.methods.smc import PlainSMC
from seqalign.methods.svdd import SVDD
from seqalign.methods.tds import TDS

COLUMNS = (("K", 5), ("network", 8), ("oracle", 8), ("log Z", 7), ("sd", 5), ("E[r]", 6))
HEADER = f"{'method':14s} " + " ".join(f"{c:>{n}s}" for c, n in COLUMNS) + " distinct     s"


def methods(alpha: float) -> dict[str, Any]:
    """Return every method at one alpha, otherwise with its defaults."""
    return {
        "best_of_n": BestOfN(alpha),
        "smc": PlainSMC(alpha),
        "tds": TDS(alpha),
        "das": DAS(alpha),
        "das fast": DAS(alpha, tempering=Adaptive(pace=0.5)),
        "fk difference": FKSteering(alpha),
        "fk max": FKSteering(alpha, potential=Max()),
        "fk sum": FKSteering(alpha, potential=Sum()),
        "nested_is": NestedIS(alpha),
        "svdd": SVDD(alpha),
        "svdd greedy": SVDD(0.0),
        "beam": Beam(alpha),
        "guidance": Guidance(alpha),
    }


def run(method: Any, bed: Testbed, islands: int, k: int, seed: int) -> Samples:
    """Run a method in blocks of islands and join them."""
    parts = bed.run(method, (islands, k), seed)
    designs = replace(parts[0].designs, x=torch.cat([p.designs.x for p in parts]))
    log_z = None if parts[0].log_z is None else torch.cat([p.log_z for p in parts])
    return Samples(
        designs,
        torch.cat([p.rewards for p in parts]),
        torch.cat([p.log_w for p in parts]),
        log_z,
        tuple(step for p in parts for step in p.trace),
    )


def row(name: str, method: Any, bed: Testbed, islands: int, k: int, seed: int) -> None:
    """Run one method and print its line."""
    clock = time.perf_counter()
    samples = run(method, bed, islands, k, seed)
    clock = time.perf_counter() - clock
    log_z, sd = "", ""
    mean = float(samples.rewards.mean())
    if samples.log_z is not None:
        log_z, sd = f"{float(samples.log_z.mean()):.2f}", f"{float(samples.log_z.std()):.2f}"
        mean = float(samples.mean(samples.rewards))
    distinct = np.mean([len(set(island)) for island in samples.designs.sequences])
    network, oracle = samples.network_calls // islands, samples.reward_calls // islands
    print(
        f"{name:14s} {k:5d} {network:8d} {oracle:8d} {log_z:>7s} {sd:>5s} {mean:6.2f} "
        f"{distinct:8.1f} {clock:5.1f}",
        flush=True,
    )


Quick = Annotated[bool, typer.Option("--quick", help="length 12, 4 islands")]


def main(
    quick: Quick = False, islands: int = 64, particles: int = 64, alpha: float = 2.0, seed: int = 0
) -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    bed = Testbed.load(length=12) if quick else Testbed.load()
    islands = 4 if quick else islands
    print(f"alpha {alpha:g}, L {bed.length}, {islands} islands, one reveal per step, seed {seed}")
    print(f"exact: log Z {bed.log_z(alpha):.2f}, E[r] {bed.mean_reward(alpha):.2f}")
    budgets = {
        "network": lambda branch, dear: particles // branch,
        "oracle": lambda branch, dear: (
            particles // branch if dear else particles * (bed.length + 1)
        ),
    }
    for what, size in budgets.items():
        print(f"\nequal {what} calls per island\n{HEADER}")
        for name, method in methods(alpha).items():
            k = max(1, math.floor(size(getattr(method, "branch", 1), name != "best_of_n")))
            if what == "oracle" and name != "best_of_n":
                print(f"{name:14s} {k:5d} as above")
                continue
            # best-of-N with a particle per oracle call is dear: an eighth of the islands must do
            count = islands if what == "network" else max(1, islands // 8)
            row(name, method, bed, count, k, seed)


if __name__ == "__main__":
    typer.run(main)
