"""Recovery of native sequences by ProteinMPNN's published weights.

    python examples/benchmarks/recovery.py --data DIR [--chains 40] [--designs 8] [--quick]

The chains are natural ones of structures/chains_train.jsonl.gz below DIR, drawn by a seed, with 40
to 199 residues; each gets unguided designs at T = 0.1. Recovery is the share of a chain's
residues that have the native letter; mean and median are over chains. `--quick`, and without
`--data`, the embedded demo backbone stands in.
"""

from __future__ import annotations

import runpy
import statistics
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

import seqalign as sa
from seqalign import weights
from seqalign.files.numbering import Numbering
from seqalign.files.structure import Structure, demo_backbone
from seqalign.models.mpnn_data import LENGTHS, TRAIN, read_chains
from seqalign.models.mpnn_weights import LETTERS, load_checkpoint

BASE = runpy.run_path(str(Path(__file__).with_name("inverse_folding.py")))

CHECKPOINTS = ("v_48_020", "v_48_002")
LONGEST = 200


def chains(data: Path, n: int) -> list[Structure]:
    """Return n chains drawn by a fixed seed, cut to one copy, their breaks in the numbers."""
    every = [c for c in read_chains(data / TRAIN) if LENGTHS[0] <= len(c.tokens) < LONGEST]
    chosen = np.random.default_rng(0).permutation(len(every))[:n]
    return [
        Structure(
            name=c.name,
            sequence="".join(LETTERS[i] for i in c.tokens.tolist()),
            coords=c.coords,
            numbering=Numbering.plain(len(c.tokens)),
            design=torch.ones(len(c.tokens), dtype=torch.bool),
            residue_index=c.numbers,
        )
        for c in (every[i] for i in sorted(chosen.tolist()))
    ]


def by_published(structure: Structure, checkpoint: str, n: int, temperature: float) -> float:
    """Return the recovery of n designs by a faithful copy of the published sampler."""
    source = load_checkpoint(checkpoint)
    sampler = BASE["Published"](source.network.state_dict(), source.neighbors)
    shape = (n, len(structure))
    with torch.no_grad():
        x = sampler.sample(
            structure.coords.expand(n, -1, -1, -1),
            torch.ones(shape),
            structure.residue_index.expand(shape),
            torch.zeros(shape, dtype=torch.int64),
            temperature,
        )
    return float((x == source.native(structure)).float().mean())


def main(
    quick: Annotated[bool, typer.Option("--quick", help="one backbone, two designs")] = False,
    data: Annotated[Path | None, typer.Option(help="folder with structures/")] = None,
    number: Annotated[int, typer.Option("--chains")] = 40,
    designs: int = 8,
    temperature: float = 0.1,
    published: Annotated[bool, typer.Option("--published", help="its own sampler, too")] = False,
) -> None:
    """Print mean and median recovery per checkpoint."""
    torch.set_num_threads(1)
    backbones = [demo_backbone()] if quick or data is None else chains(data, number)
    designs = 2 if quick else designs
    lengths = [len(s) for s in backbones]
    print(
        f"{len(backbones)} chains of {min(lengths)} to {max(lengths)} residues, {designs} designs"
    )
    nothing = sa.reward(lambda sequences: [0.0] * len(sequences))
    for checkpoint in CHECKPOINTS:
        try:
            weights.path(checkpoint)
        except weights.MissingWeights as missing:
            print(f"{checkpoint} skipped: {missing}")
            continue
        found, clock = [], time.process_time()
        for structure in backbones:
            model = sa.load_model(
                "proteinmpnn", structure=structure, checkpoint=checkpoint, temperature=temperature
            )
            result = sa.sample(model, nothing, "best_of_n", particles=designs, seed=1)
            native = model.wild_type or ""
            kept = [
                np.mean([a == b for a, b in zip(s, native, strict=True)])
                for s in result.samples.designs.sequences[0]
            ]
            found.append(float(np.mean(kept)))
        if published:
            theirs = [by_published(s, checkpoint, designs, temperature) for s in backbones]
            print(
                f"{checkpoint}, the published sampler: mean {statistics.mean(theirs):.3f}, median "
                f"{statistics.median(theirs):.3f}"
            )
        print(
            f"{checkpoint}: recovery at T = {temperature:g} mean {statistics.mean(found):.3f}, "
            f"median {statistics.median(found):.3f}; {time.process_time() - clock:.0f} s"
        )


if __name__ == "__main__":
    typer.run(main)
