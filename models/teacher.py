"""Lessons for mpnn-mini: what a published network says of the training chains, written once.

    python -m seqalign.models.teacher --data ../shared/data --out runs/teacher.safetensors
    python -m seqalign.models.teacher --data ../shared/data --judge

A lesson is a state of a chain, some letters known and the others masked, and the teacher's
log-probabilities of every masked letter given the known ones. Nine of each chain: six with its own
letters, three with letters that the teacher drew at temperature 0.1, each given its own ones before
it in a random order: a student that draws sees such letters, not nature's. Of n residues a uniform
number in 1..n is masked, stratified over the lessons of a kind; the teacher reads the known letters
in a random order, and its coordinates have no noise.

`--judge` prints the teacher's own figures on the held-out chains. It was trained on the PDB, which
holds most of them, so they are no fair comparison and no upper bound.

References:
    Robust deep learning-based protein sequence design using ProteinMPNN, Dauparas et al., Science
    2022, https://doi.org/10.1126/science.add2187
    Distilling the knowledge in a neural network, Hinton, Vinyals & Dean, 2015,
    https://arxiv.org/abs/1503.02531
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from seqalign.models.autoregressive import Autoregressive
from seqalign.models.backbone import PARTICLES, Backbone
from seqalign.models.mpnn_data import Chain, Lessons, Parts, read_parts
from seqalign.models.mpnn_weights import LETTERS, Weights, load_checkpoint

OWN: Final = 6
DRAWN: Final = 3
TEMPERATURE: Final = 0.1


@dataclass(frozen=True)
class Teacher:
    """A network that decodes in any order, on one backbone."""

    backbone: Backbone

    @classmethod
    def of(cls, weights: Weights, chain: Chain) -> Teacher:
        """Encode a chain, its coordinates without noise."""
        return cls(Backbone.encode(weights.network, chain.graph(weights.neighbors)))

    @torch.no_grad()
    def log_probs(self, tokens: Tensor, rank: Tensor) -> Tensor:
        """Return (P, N, 20) of tokens (P, N), each given those of lower rank (P, N)."""
        index = self.backbone.graph.index
        seen = rank[:, index] < rank[:, :, None]
        return self.backbone.logits(tokens, seen)[..., :20].log_softmax(-1)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return sequences (count, N) drawn from nothing, in random orders."""
        n = len(self.backbone.h)
        blank = torch.full((n,), LETTERS.index("X"))
        decoder = Autoregressive(self.backbone, torch.arange(n), blank)
        order = torch.rand(count, n, generator=generator).argsort(-1)

        def choose(step: int, at: Tensor, logits: Tensor) -> Tensor:
            return letters(logits, generator)

        blank = blank.expand(count, n)
        return list(decoder.decode(blank, lambda step, _: order[:, step], choose))[-1]


def letters(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Return letters (...) drawn at `TEMPERATURE` of logits (..., 20)."""
    p = (logits.double() / TEMPERATURE).softmax(-1)
    drawn = torch.multinomial(p.flatten(0, -2), 1, generator=generator)
    return drawn.view(logits.shape[:-1])


def masks(count: int, n: int, generator: torch.Generator) -> Tensor:
    """Return (count, n) bool, uniform numbers in 1..n of masked residues, stratified."""
    hidden = torch.zeros(count, n, dtype=torch.bool)
    for row, u in enumerate(torch.rand(count, generator=generator).tolist()):
        m = 1 + int((row + u) / count * n)
        hidden[row, torch.randperm(n, generator=generator)[:m]] = True
    return hidden


def lessons(weights: Weights, chain: Chain, seed: int) -> Lessons:
    """Return the lessons of one chain."""
    generator = torch.Generator().manual_seed(seed)
    teacher, n = Teacher.of(weights, chain), len(chain)
    own = chain.tokens.expand(DRAWN, n)
    likely = teacher.log_probs(own, torch.rand(DRAWN, n, generator=generator))
    tokens = torch.cat((chain.tokens.expand(OWN, n), letters(likely, generator)))
    hidden = torch.cat((masks(OWN, n, generator), masks(DRAWN, n, generator)))
    order = torch.rand(tokens.shape, generator=generator)
    # masked residues come last and are blind to each other
    rank = torch.where(hidden, 2.0, order)
    pieces = zip(tokens.split(PARTICLES), rank.split(PARTICLES), strict=True)
    said = torch.cat([teacher.log_probs(t, r) for t, r in pieces])
    return Lessons(tokens.to(torch.uint8), hidden, said.half())


def write(checkpoint: str, parts: Parts, out: Path, processes: int) -> None:
    """Write the lessons of all training chains."""
    chains = [c for group in parts.train for c in group]
    began = time.monotonic()
    kept: dict[str, Any] = {}
    teach = partial(_lessons, checkpoint)
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        for i, made in enumerate(pool.map(teach, chains, range(len(chains)), chunksize=8)):
            kept |= {f"{i}.{name}": value for name, value in made.items()}
            if (i + 1) % 100 == 0:
                print(f"{i + 1} of {len(chains)}, {time.monotonic() - began:.0f} s", flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: torch.from_numpy(value) for name, value in kept.items()}, out)


def _lessons(checkpoint: str, chain: Chain, seed: int) -> dict[str, Any]:
    """Return the lessons of one chain as arrays, in a process of its own."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    return {k: v.numpy() for k, v in vars(lessons(_loaded(checkpoint), chain, seed)).items()}


_loaded = cache(load_checkpoint)


def taught(parts: Parts, file: Path) -> Parts:
    """Return the parts, each training chain with its lessons.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the lessons are those of other chains.
    """
    if not file.exists():
        raise FileNotFoundError(
            f"{file}: no such file; write it with `python -m seqalign.models.teacher`."
        )
    kept, i, train = load_file(file), 0, []
    for group in parts.train:
        with_lessons = []
        for chain in group:
            own = Lessons(*(kept[f"{i}.{name}"] for name in ("tokens", "hidden", "log_probs")))
            if not torch.equal(own.tokens[0].long(), chain.tokens):
                raise ValueError(
                    f"{file}: lesson {i} is not of chain {chain.name}; write the lessons again "
                    "from this data."
                )
            with_lessons.append(dataclasses.replace(chain, lessons=own))
            i += 1
        train.append(with_lessons)
    return dataclasses.replace(parts, train=train)


def judge(weights: Weights, chains: Sequence[Chain]) -> dict[str, float]:
    """Return the teacher's any-order perplexity and recovery at `TEMPERATURE` on some chains."""
    nll, recovery = 0.0, []
    for i, chain in enumerate(chains):
        generator = torch.Generator().manual_seed(i)
        teacher = Teacher.of(weights, chain)
        rank = torch.rand(8, len(chain), generator=generator)
        said = teacher.log_probs(chain.tokens.expand(8, -1), rank).double()
        nll -= float(said.gather(-1, chain.tokens.expand(8, -1)[..., None]).sum() / 8)
        drawn = teacher.draw(2, generator)
        recovery.append(float((drawn == chain.tokens).double().mean()))
    residues = sum(map(len, chains))
    return {
        "chains": len(chains),
        "residues": residues,
        "perplexity": math.exp(nll / residues),
        "recovery": sum(recovery) / len(recovery),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the lessons, or judge the teacher."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/teacher.safetensors"))
    parser.add_argument("--checkpoint", default="v_48_020", help="a name, or a file")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--judge", action="store_true", help="the teacher on held-out chains")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    parts = read_parts(options.data)
    if options.judge:
        print(json.dumps(judge(load_checkpoint(options.checkpoint), parts.test)))
    else:
        write(options.checkpoint, parts, options.out, options.processes)


if __name__ == "__main__":
    main()
