"""Processor time of a design by ProteinMPNN, relative to the published sampler.

    python examples/benchmarks/proteinmpnn_sampler.py [--quick] [--repeats 3] [--designs 32]
    python examples/benchmarks/proteinmpnn_sampler.py --device cuda [--designs 256]

The baseline is `Published.sample` of inverse_folding.py: the published sampler as it is written,
one position a step, decoder states kept, every input of a message gathered anew. Both sides have
the same weights (v_48_020 where it was fetched, else random ones of its size), an ideal helical
bundle, T = 0.1 and one thread, and alternate in one process; the encoding is part of both.

unguided    `best_of_n`, without constraints.
guided      `tds`: a table of one number per position and letter as reward, every open position's
            letters known at every step.
causal      `causal_smc`: the same with one position's letters a step, and four times the particles.
scores      one pass for the likelihood of a sequence along an order, against a published pass.

Numbers are times: published time over ours, above 1 is faster.

With `--device` the published sampler is left out: wall seconds, sequences per second, and the share
of the time that passes in the network (the device is waited for around every call of it).
"""

from __future__ import annotations

import functools
import runpy
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

import seqalign as sa
from seqalign import weights
from seqalign.core.causal import along
from seqalign.core.objective import Reward
from seqalign.core.process import Designs
from seqalign.files.structure import Structure
from seqalign.models.autoregressive import Autoregressive
from seqalign.models.backbone import Backbone
from seqalign.models.devices import device_of
from seqalign.models.inverse_folding import process
from seqalign.models.mpnn_weights import Weights, load_checkpoint

BASE = runpy.run_path(str(Path(__file__).with_name("inverse_folding.py")))


class Table(Reward):
    """Σ_i table[i, x_i]."""

    name = "table"
    differentiable = True
    follows = True

    def __init__(self, table: Tensor) -> None:
        self.table = table

    def relaxed(self, x: Tensor) -> Tensor:
        """Score letter probabilities (..., L, 20)."""
        return (x * self.table).sum((-1, -2)).double()

    def __call__(self, designs: Designs) -> Tensor:
        """Score designs, (B, K)."""
        return self.relaxed(torch.nn.functional.one_hot(designs.x, 20).float())


def network() -> tuple[Weights, str]:
    """Return ProteinMPNN's weights, and what they are."""
    try:
        weights.path("proteinmpnn-v_48_020")
    except weights.MissingWeights:
        return Weights(BASE["random_network"](21), 48), "random weights"
    return load_checkpoint("proteinmpnn-v_48_020"), "v_48_020"


def timed(device: str) -> tuple[Callable[[], float], Callable[[], float]]:
    """Return a clock that waits for a device, and one of the time spent in decoders so far."""
    spent = 0.0

    def clock() -> float:
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter()

    def within(call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def inner(*args: Any, **kwargs: Any) -> Any:
            nonlocal spent
            begin = clock()
            try:
                return call(*args, **kwargs)
            finally:
                spent += clock() - begin

        return inner

    # every pass through the decoder is one of these, and none of them calls another
    for kind, name in ((Autoregressive, "_rows"), (Autoregressive, "_tell"), (Backbone, "hidden")):
        setattr(kind, name, within(getattr(kind, name)))
    return clock, lambda: spent


def on_device(device: str, lengths: Sequence[int], designs: int) -> None:
    """Print sequences per second on a device, and the share of the time in the network."""
    source, name = network()
    clock, spent = timed(device)
    what = torch.cuda.get_device_name() if device.startswith("cuda") else "the CPU"
    print(f"{name}, T = 0.1, {designs} designs at once on {what}")
    for length in lengths:
        table = torch.randn(length, 20, generator=torch.Generator().manual_seed(0)).to(device)
        p = process(source, BASE["bundle"](length), temperature=0.1, device=device)
        for row, method in (("unguided", "best_of_n"), ("guided", "tds"), ("causal", "causal_smc")):
            aligner, reward = sa.load_method(method, alpha=1.0), Table(table)
            # the first run warms up: libraries are loaded, tables made
            for n in (2, designs):
                begin, before = clock(), spent()
                aligner(p, reward, (1, n), rng=sa.Streams(0, (0,)))
                wall, inside = clock() - begin, spent() - before
            print(
                f"{length} residues, {row}: {wall:.2f} s, {designs / wall:.1f} sequences/s, "
                f"{inside / wall:.0%} in the network",
                flush=True,
            )


Quick = Annotated[bool, typer.Option("--quick", help="one repeat, 74 residues")]


Device = Annotated[str | None, typer.Option(help="cuda or cpu: sequences per second there")]


def main(
    quick: Quick = False,
    repeats: int = 3,
    designs: int = 32,
    particles: int = 32,
    device: Device = None,
) -> None:
    """Print, per length and kind of run, how many times as fast as the published sampler."""
    torch.set_num_threads(1)
    if device is not None:
        on_device(device_of(device), (40,) if quick else (74, 300), designs)
        return
    source, name = network()
    published = BASE["Published"](source.network.state_dict(), source.neighbors)
    print(f"{name}, T = 0.1, one thread, processor seconds per design")
    for length in (40,) if quick else (74, 300):
        structure = BASE["bundle"](length)
        table = torch.randn(length, 20, generator=torch.Generator().manual_seed(0))

        def theirs(n: int, structure: Structure = structure) -> None:
            shape = (n, len(structure))
            coords = structure.coords.expand(n, -1, -1, -1)
            numbers = structure.residue_index.expand(shape)
            chains = torch.zeros(shape, dtype=torch.int64)
            with torch.no_grad():
                published.sample(coords, torch.ones(shape), numbers, chains, 0.1)

        def method(
            name: str, n: int, structure: Structure = structure, table: Tensor = table
        ) -> None:
            p = process(source, structure, temperature=0.1)
            aligner = sa.load_method(name, alpha=1.0)
            aligner(p, Table(table), (1, n), rng=sa.Streams(0, (0,)))

        def scores(n: int, structure: Structure = structure) -> None:
            p = process(source, structure, temperature=1.0)
            x = torch.randint(20, (n, len(structure)))
            along(p, x, torch.randperm(len(structure)))

        def passes(n: int, structure: Structure = structure) -> None:
            shape = (n, len(structure))
            order = torch.rand(shape).argsort(-1)
            coords = structure.coords.expand(n, -1, -1, -1)
            numbers = structure.residue_index.expand(shape)
            zero = torch.zeros(shape, dtype=torch.int64)
            with torch.no_grad():
                published.hidden(coords, torch.ones(shape), numbers, zero, zero, order=order)

        rows: dict[str, tuple[int, Callable[[int], None], Callable[[int], None]]] = {
            "unguided": (designs, theirs, lambda n: method("best_of_n", n)),
            "guided": (particles, theirs, lambda n: method("tds", n)),
            "causal": (4 * particles, theirs, lambda n: method("causal_smc", n)),
            "scores": (designs, passes, scores),
        }
        for row, (n, baseline, ours) in rows.items():
            ratios, costs = [], []
            for _ in range(1 if quick else repeats):
                clock = time.process_time()
                baseline(designs)
                middle = time.process_time()
                ours(n)
                base, mine = (middle - clock) / designs, (time.process_time() - middle) / n
                ratios.append(base / mine)
                costs.append((base, mine))
            base, mine = (statistics.median(v) for v in zip(*costs, strict=True))
            low, high = min(ratios), max(ratios)
            print(
                f"{length} residues, {row}: published {base:.4f} s, here {mine:.4f} s, "
                f"{statistics.median(ratios):.2f}x ({low:.2f}-{high:.2f})",
                flush=True,
            )


if __name__ == "__main__":
    typer.run(main)
