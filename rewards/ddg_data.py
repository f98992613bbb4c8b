"""Measured stabilities and natural backbones, grouped by homology and dealt to folds.

Proteins are grouped by single linkage of local alignments (BLOSUM62, gaps 11/1) with an E-value
below 1e-3 by Karlin and Altschul's statistics, in a search space of the two lengths. Groups with a
natural mini-protein in them are never trained on. The other groups are dealt to folds, the largest
first, each to the fold with the fewest rows.

References:
    Methods for assessing the statistical significance of molecular sequence features by using
    general scoring schemes, Karlin and Altschul, 1990, PNAS 87:2264-2268.
    ProTherm, version 4.0, Bava et al., 2004, Nucleic Acids Research 32:D120-D121.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import torch
from Bio.Align import PairwiseAligner, substitution_matrices
from torch import Tensor

from seqalign.core.sequence import PROTEIN
from seqalign.rewards.descriptors import Geometry, geometry

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

E_VALUE: Final = 1e-3
CLIP: Final = 6.0
"""kcal/mol."""
FOLDS: Final = 5
DESIGNED: Final = ("EA_", "EEHEE_", "EHEE_", "GG_", "HHH_", "XX_")
"""Mini-proteins without a natural family; a chance alignment must not make one."""


@dataclass(frozen=True)
class Chain:
    """A chain: letters (L,) int64, coords (L, 4, 3) Å, and the cluster it belongs to."""

    name: str
    letters: Tensor
    coords: Tensor
    cluster: str

    @property
    def sequence(self) -> str:
        """The letters as text."""
        return PROTEIN.decode(self.letters[None])[0]

    def describe(self, noise: Tensor | None = None) -> Geometry:
        """Return the geometry, of coordinates with noise (L, 4, 3) added."""
        coords = self.coords if noise is None else self.coords + noise
        return geometry(coords, torch.zeros(len(coords), dtype=torch.int64))


@dataclass(frozen=True)
class Row:
    """One measured mutation; `stability` is −ΔΔG in kcal/mol."""

    protein: str
    chain: str
    position: int
    wild: int
    mutant: int
    stability: float


def _lines(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt") as file:
        return [json.loads(line) for line in file]


def _chain(record: Mapping[str, Any], name: str, cluster: str) -> Chain:
    coords = np.array([record["coords"][a] for a in ("N", "CA", "C", "O")], dtype=np.float64)
    xyz = torch.from_numpy(coords).permute(1, 0, 2)
    complete = xyz.isfinite().flatten(1).all(1)
    standard = torch.tensor([a in PROTEIN.letters for a in record["seq"]])
    kept = (complete & standard).nonzero()[:, 0]
    letters = [PROTEIN.letters.index(record["seq"][i]) for i in kept.tolist()]
    return Chain(name, torch.tensor(letters, dtype=torch.int64), xyz[kept], cluster)


def natural_chains(data: Path) -> list[Chain]:
    """Return the natural chains of 30 residues or more."""
    chains = []
    for file in ("chains_train", "chains_extra"):
        for record in _lines(data / "structures" / f"{file}.jsonl.gz"):
            chain = _chain(record, record["name"], str(record["cluster"]))
            if len(chain.letters) >= 30:
                chains.append(chain)
    return chains


def measured(
    data: Path, table: Literal["protherm", "megascale"] = "protherm"
) -> tuple[dict[tuple[str, str], Chain], list[Row]]:
    """Return the chains of the measured proteins, and the rows.

    Raises:
        ValueError: a row does not fit its backbone.
    """
    chains, numbers = {}, {}
    for record in _lines(data / "stability" / f"{table}_backbones.jsonl.gz"):
        key = (record["pdb"], record["chain"])
        chains[key] = _chain(record, record["pdb"], record["pdb"])
        numbers[key] = record["author"]
        if len(chains[key].letters) != len(record["seq"]):
            raise ValueError(f"The backbone {key} has missing atoms or letters; leave it out.")
    rows = []
    path = data / "stability" / f"{table}_ddg.csv"
    packed = path.with_suffix(".csv.gz")
    with path.open() if path.is_file() else gzip.open(packed, "rt") as file:
        for line in csv.DictReader(file):
            chain, mutation = line["mutations"].split(":")
            key = (line["pdb"], chain)
            position = numbers[key].index(mutation[1:-1])
            wild, mutant = (PROTEIN.letters.index(a) for a in (mutation[0], mutation[-1]))
            if int(chains[key].letters[position]) != wild:
                raise ValueError(f"{key}: {mutation} does not fit the backbone's letter.")
            if mutant == wild:  # two rows of ProTherm are no mutations
                continue
            rows.append(Row(*key, position, wild, mutant, -float(line["ddg_kcal_mol"])))
    used = {(r.protein, r.chain) for r in rows}
    return {key: chain for key, chain in chains.items() if key in used}, rows


def mini_table(data: Path) -> list[dict[str, str]]:
    """Return the rows of the mini-protein table."""
    with (data / "structures" / "minis.csv").open() as file:
        return list(csv.DictReader(file))


@lru_cache(maxsize=1)
def _aligner() -> PairwiseAligner:
    aligner = PairwiseAligner()  # type: ignore[no-untyped-call]
    aligner.mode = "local"
    matrix = substitution_matrices.load("BLOSUM62")  # type: ignore[no-untyped-call]
    aligner.substitution_matrix = matrix
    aligner.open_gap_score, aligner.extend_gap_score = -12, -1
    return aligner


def e_value(first: str, second: str) -> float:
    """Return how many local alignments as good as the best chance gives two such sequences."""
    score: float = _aligner().score(first, second)  # type: ignore[no-untyped-call]
    return 0.041 * len(first) * len(second) * math.exp(-0.267 * score)


def homology_groups(sequences: Mapping[tuple[str, str], str]) -> dict[str, str]:
    """Return the group (one of its proteins) of each protein, by single linkage over its chains."""
    parent = {protein: protein for protein, _ in sequences}

    def root(protein: str) -> str:
        while parent[protein] != protein:
            protein = parent[protein]
        return protein

    keys = sorted(sequences)
    for n, a in enumerate(keys):
        for b in keys[:n]:
            first, second = sorted((root(a[0]), root(b[0])))
            if first != second and e_value(sequences[a], sequences[b]) < E_VALUE:
                parent[second] = first
    return {protein: root(protein) for protein in parent}


@dataclass(frozen=True)
class Split:
    """Group and fold of each protein, and what is kept out."""

    group: dict[str, str]
    kept_out: frozenset[str]
    fold: dict[str, int]


def _deal(sizes: Mapping[str, int], hands: int) -> dict[str, int]:
    """Return a hand per group: the largest first, each to the hand with the fewest rows."""
    load, dealt = [0] * hands, {}
    for group in sorted(sizes, key=lambda g: (-sizes[g], g)):
        dealt[group] = load.index(min(load))
        load[dealt[group]] += sizes[group]
    return dealt


def split(
    chains: Mapping[tuple[str, str], Chain], rows: Sequence[Row], minis: Mapping[str, str]
) -> Split:
    """Return the split of the measured proteins.

    Args:
        chains: the measured chains.
        rows: the measurements.
        minis: wild-type sequence of each mini-protein.
    """
    sequences = {key: chain.sequence for key, chain in chains.items()}
    group = homology_groups(sequences)
    natural = [s for name, s in minis.items() if not name.startswith(DESIGNED)]
    family = {
        group[key[0]]
        for key, sequence in sequences.items()
        if any(e_value(sequence, s) < E_VALUE for s in natural)
    }
    kept_out = frozenset(protein for protein in group if group[protein] in family)
    sizes = Counter(group[r.protein] for r in rows if r.protein not in kept_out)
    folds = _deal(sizes, FOLDS)
    free = [protein for protein in group if protein not in kept_out]
    return Split(
        group,
        kept_out,
        {protein: folds[group[protein]] for protein in free},
    )


def strangers(chains: Sequence[Chain], known: Iterable[str]) -> list[Chain]:
    """Return the chains of clusters in which no chain is alike to a known sequence."""
    known = sorted(set(known))
    seen = {c.cluster for c in chains if any(e_value(c.sequence, s) < E_VALUE for s in known)}
    return [c for c in chains if c.cluster not in seen]
