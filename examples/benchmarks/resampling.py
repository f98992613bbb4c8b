"""Resampling and tempering: one call for all islands against one call per island.

    python examples/benchmarks/resampling.py [--quick]

Prints, per scheme and for adaptive tempering, the ratio of wall times (median over interleaved
repeats).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Annotated

import torch
import typer
from torch import Tensor

from seqalign.core.resampling import SCHEMES, ess
from seqalign.core.tempering import Adaptive


def ratio(together: Callable[[], object], apart: Callable[[], object], repeats: int) -> float:
    """Return the median of time(apart) / time(together), interleaved."""
    ratios = []
    for _ in range(repeats + 1):
        clock = [time.perf_counter()]
        for run in (together, apart):
            run()
            clock.append(time.perf_counter())
        ratios.append((clock[2] - clock[1]) / (clock[1] - clock[0]))
    # the first pair warms up
    return statistics.median(ratios[1:])


Quick = Annotated[bool, typer.Option("--quick", help="3 repeats instead of 15")]


def main(quick: Quick = False, islands: int = 256, particles: int = 64) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    b, k, repeats = islands, particles, 3 if quick else 15
    generator = torch.Generator().manual_seed(0)
    log_w = torch.randn(b, k, generator=generator, dtype=torch.float64)
    u = torch.rand(b, k, generator=generator, dtype=torch.float64)
    print(
        f"{b} islands, {k} particles, one thread, median of {repeats}: island by island / together"
    )
    for name, scheme in SCHEMES.items():

        def apart(scheme: Callable[[Tensor, Tensor], Tensor] = scheme) -> None:
            for row in range(b):
                scheme(log_w[row : row + 1], u[row : row + 1])

        print(f"{name:12s} {ratio(lambda scheme=scheme: scheme(log_w, u), apart, repeats):6.1f}x")
    value = 3.0 * torch.randn(b, k, generator=generator, dtype=torch.float64)
    tempering, lam = Adaptive(ess=0.7, pace=0.0), torch.zeros(b, dtype=torch.float64)

    def adapt(rows: slice) -> Tensor:
        return tempering(1, 10, lam[rows], lambda c: ess(c[:, None] * value[rows]) / k)

    def adapt_apart() -> None:
        for row in range(b):
            adapt(slice(row, row + 1))

    print(f"{'adaptive lam':12s} {ratio(lambda: adapt(slice(None)), adapt_apart, repeats):6.1f}x")


if __name__ == "__main__":
    typer.run(main)
