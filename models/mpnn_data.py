"""Backbones to train and judge inverse folding on: read, cut to one copy, split by cluster.

A chain that repeats its first 25 letters later (two copies of a unit under one name) is cut to the
first copy. C and N further apart than 2 Å are a chain break: the residue numbers jump.

*Held out.* 60 clusters for testing and 30 for validation, drawn with a seed among those whose chain
in chains_train has 40-400 residues; no chain of them is trained on. Clusters with a chain that
contains more than a fifth of the 4-letter words of a benchmark mini protein are left out.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import random
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from seqalign.files.structure import read_structure
from seqalign.models.mpnn import Graph, neighbor_graph, residue_numbers
from seqalign.models.mpnn_weights import LETTERS

TRAIN: Final = "structures/chains_train.jsonl.gz"
EXTRA: Final = "structures/chains_extra.jsonl.gz"
MINIS: Final = "structures/minis_pdb.tar.xz"
TEST: Final = 60
VALIDATION: Final = 30
LENGTHS: Final = (40, 400)
# of a mini's 4-letter words: a cluster with a chain that contains more is left out
LEAK: Final = 0.2
# letters: a chain that shows its first ones again is two copies
COPY: Final = 25


@dataclass(frozen=True, eq=False)
class Lessons:
    """What a teacher says of states of a chain (`teacher`).

    Attributes:
        tokens: (S, L) uint8, the letters; of the first states they are the chain's own.
        hidden: (S, L) bool, which of them are masked.
        log_probs: (S, L, 20) float16, of the masked ones given the others.
    """

    tokens: Tensor
    hidden: Tensor
    log_probs: Tensor


@dataclass(frozen=True, eq=False)
class Chain:
    """A backbone with its letters.

    Attributes:
        name: of the chain.
        cluster: chains of one cluster stay together in every split.
        coords: (L, 4, 3) in Å, N, CA, C, O.
        tokens: (L,) int64.
        numbers: (L,) int64, residue numbers.
        lessons: of a teacher, or None.
    """

    name: str
    cluster: str
    coords: Tensor
    tokens: Tensor
    numbers: Tensor
    lessons: Lessons | None = None

    def __len__(self) -> int:
        """Count the residues."""
        return len(self.tokens)

    @classmethod
    def of(cls, name: str, cluster: str, letters: str, coords: Tensor) -> Chain:
        """Return the chain of these letters and coordinates."""
        tokens = torch.tensor([LETTERS.index(a) for a in letters])
        return cls(name, cluster, coords, tokens, residue_numbers(coords))

    def window(self, start: int, length: int) -> Chain:
        """Return `length` residues from `start` on."""
        part = slice(start, start + length)
        own = self.lessons
        return dataclasses.replace(
            self,
            coords=self.coords[part],
            tokens=self.tokens[part],
            numbers=self.numbers[part],
            lessons=own and Lessons(*(v[:, part] for v in vars(own).values())),
        )

    def graph(self, neighbors: int, noise: float = 0.0) -> Graph:
        """Return the neighbor graph; of coordinates with Gaussian noise of this many Å if asked."""
        coords = self.coords + noise * torch.randn(self.coords.shape) if noise else self.coords
        return neighbor_graph(coords, self.numbers, torch.zeros_like(self.numbers), neighbors)


def read_chains(path: Path) -> list[Chain]:
    """Return the chains of a gzipped jsonl file; two copies under one name become one.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; give --data a folder with {TRAIN}.")
    chains = []
    with gzip.open(path, "rt") as lines:
        for line in lines:
            row = json.loads(line)
            atoms = [torch.tensor(row["coords"][a]) for a in ("N", "CA", "C", "O")]
            coords = torch.stack(atoms, 1).float()
            letters = row["seq"]
            # up to ten residues of the first copy may be missing
            again = letters.find(letters[:COPY], max(COPY, len(letters) // 2 - 10))
            chain = Chain.of(row["name"], row["cluster"], letters, coords)
            chains.append(chain if again < 0 else chain.window(0, again))
    return chains


def read_minis(path: Path) -> list[Chain]:
    """Return the benchmark's mini-protein backbones, whole residues with a standard letter."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; give --data a folder with {MINIS}.")
    chains = []
    with tarfile.open(path) as archive, tempfile.TemporaryDirectory() as folder:
        for member in sorted(archive.getmembers(), key=lambda m: m.name):
            content = archive.extractfile(member)
            if content is not None and member.name.endswith(".pdb"):
                file = Path(folder) / Path(member.name).name
                file.write_bytes(content.read())
                s = read_structure(file)
                chains.append(Chain.of(file.stem, file.stem, s.wild_type, s.coords[s.known]))
    return chains


def words(tokens: Tensor) -> set[int]:
    """Return the 4-letter words of (L,) tokens."""
    return set((tokens.unfold(0, 4, 1) * torch.tensor([1, 21, 441, 9261])).sum(1).tolist())


@dataclass(frozen=True)
class Parts:
    """The clusters to train on, each a list of chains, and one chain of each held-out cluster."""

    train: list[list[Chain]]
    validation: list[Chain]
    test: list[Chain]


def split(chains: Sequence[Chain], extra: Sequence[Chain], minis: Sequence[Chain]) -> Parts:
    """Split whole clusters; held-out ones are represented by their chain among `chains`."""
    known = [words(m.tokens) for m in minis]
    clusters: dict[str, list[Chain]] = defaultdict(list)
    leaking = set()
    for chain in (*chains, *extra):
        clusters[chain.cluster].append(chain)
        own = words(chain.tokens)
        if any(len(own & m) > LEAK * len(m) for m in known):
            leaking.add(chain.cluster)
    least, most = LENGTHS
    fit = [c for c in chains if c.cluster not in leaking and least <= len(c) <= most]
    if len(fit) < TEST + VALIDATION + 1:
        raise ValueError(
            f"Only {len(fit)} clusters have a chain of {least}-{most} residues; "
            f"{TEST + VALIDATION + 1} are needed. Give --data the whole set."
        )
    drawn = random.Random(0).sample(sorted(fit, key=lambda c: c.name), TEST + VALIDATION)
    out = {c.cluster for c in drawn} | leaking
    train = [group for name, group in sorted(clusters.items()) if name not in out]
    return Parts(train, drawn[TEST:], drawn[:TEST])


def read_parts(data: Path, log: Callable[[str], None] = print) -> Parts:
    """Read and split the data of a folder."""
    chains, extra = read_chains(data / TRAIN), read_chains(data / EXTRA)
    parts = split(chains, extra, read_minis(data / MINIS))
    log(
        f"{len(parts.train)} clusters with {sum(map(len, parts.train))} chains to train on, "
        f"{len(parts.validation)} to validate, {len(parts.test)} to test"
    )
    return parts


def background(parts: Parts) -> Tensor:
    """Return the frequencies (20,) of letters, one chain per training cluster."""
    counts = torch.bincount(torch.cat([g[0].tokens for g in parts.train]), minlength=22) + 1.0
    return counts[:20] / counts[:20].sum()
