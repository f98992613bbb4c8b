"""A hard mutation budget on an exactly solvable problem: log Ẑ against dynamic programming.

    python examples/benchmarks/budget.py [--quick] [--islands 64] [--seeds 2]

The prior is the Markov chain of markov.py (20 letters, L = 64). The wild type of a seed is a draw
from it, and at most ten of its letters may change, so that A has a log-probability of about -80.
With no reward, Z is P(A); with one it is the restricted log Z. Both are known by dynamic
programming over (letter, mutations so far). The estimate is the log of the mean Ẑ over islands;
"distinct" counts the different designs of an island. Any design outside A would end the script.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from exact import Testbed, Zero

from seqalign.core.particles import log_mean_exp
from seqalign.methods.das import DAS
from seqalign.methods.smc import PlainSMC

Quick = Annotated[bool, typer.Option("--quick", help="length 12, 4 islands, 3 mutations")]


def main(
    quick: Quick = False,
    islands: int = 64,
    particles: int = 64,
    alpha: float = 2.0,
    mutations: int = 10,
    seeds: Annotated[int, typer.Option(help="wild types")] = 2,
) -> None:
    """Print a line per seed and target."""
    torch.set_num_threads(1)
    bed = Testbed.load(length=12) if quick else Testbed.load()
    islands, most = (4, 3) if quick else (islands, mutations)
    print(f"L {bed.length}, at most {most} mutations, {islands} islands x {particles}")
    print(f"{'seed':4s} {'target':22s} {'exact':>8s} {'estimate':>9s} {'off':>6s} distinct     s")
    for seed in range(seeds):
        wild = bed.natural(seed)
        for name, method, reward, strength in (
            ("no reward, smc", PlainSMC(alpha), Zero(), np.inf),
            (f"alpha {alpha:g}, das", DAS(alpha), bed.reward, alpha),
        ):
            clock = time.perf_counter()
            shape, space = (islands, particles), bed.budget(wild, most)
            parts = bed.run(method, shape, seed, reward, space)
            for samples in parts:
                spent = int((samples.designs.x != torch.tensor(wild)).sum(-1).max())
                if spent > most:
                    raise SystemExit(f"A design has {spent} mutations, not {most}.")
            distinct = [len(set(row)) for p in parts for row in p.designs.sequences]
            found = float(log_mean_exp(torch.cat([p.log_z for p in parts])))
            want = bed.restricted_log_z(strength, wild, most)
            print(
                f"{seed:4d} {name:22s} {want:8.2f} {found:9.2f} {found - want:+6.2f} "
                f"{np.mean(distinct):8.1f} {time.perf_counter() - clock:5.0f}",
                flush=True,
            )


if __name__ == "__main__":
    typer.run(main)
