"""Mega-scale and multiple mutants: measured stabilities with backbones, folds and halves.

Rows are of one or several substitutions in one chain. Homology groups are those of the data (single
linkage of local alignments, E < 1e-3, as in `ddg_data`); a protein measured elsewhere belongs to
the mega-scale groups that it is alike to. Groups are never split.

References:
    Mega-scale experimental analysis of protein folding stability in biology and design, Tsuboyama
    et al., 2023, Nature 620:434-444.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

from seqalign.core.sequence import PROTEIN
from seqalign.files.numbering import Numbering
from seqalign.files.structure import Structure
from seqalign.models.mpnn import residue_numbers
from seqalign.rewards.ddg_data import E_VALUE, e_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

FOLDS: Final = 5


@dataclass(frozen=True)
class Mutant:
    """A measured variant; `stability` is −ΔΔG in kcal/mol, higher is more stable.

    Attributes:
        protein: a key of the structures.
        group: homology group, as the data names it.
        changes: (0-based position, wild-type letter, new letter) of each substitution, as tokens.
        stability: −ΔΔG, kcal/mol.
        near_benchmark: alike to a protein of a public benchmark.
    """

    protein: str
    group: str
    changes: tuple[tuple[int, int, int], ...]
    stability: float
    near_benchmark: bool = False


def structure_of(
    name: str, sequence: str, coords: torch.Tensor, author: Sequence[str]
) -> Structure:
    """Return one whole chain A as a Structure; coords (L, 4, 3) Å."""
    return Structure(
        name=name,
        sequence=sequence,
        coords=coords,
        numbering=Numbering(("A",) * len(sequence), tuple(author)),
        design=torch.ones(len(sequence), dtype=torch.bool),
        residue_index=residue_numbers(coords),
    )


def _lines(path: Path) -> Iterable[dict[str, Any]]:
    with gzip.open(path, "rt") as file:
        for line in file:
            yield json.loads(line)


def _table(path: Path) -> list[dict[str, str]]:
    opened = gzip.open(path, "rt") if path.suffix == ".gz" else path.open()
    with opened as file:
        return list(csv.DictReader(file))


def _measured(
    data: Path, backbones: Sequence[str], rows: Sequence[Mapping[str, str]]
) -> tuple[dict[str, Structure], list[Mutant]]:
    """Return the structures that rows name as pdb and chain, and the rows.

    Raises:
        ValueError: a row does not fit its backbone.
    """
    used = {(r["pdb"], r["mutations"].partition(":")[0]) for r in rows}
    structures, found = {}, []
    for file in backbones:
        for record in _lines(data / "stability" / f"{file}_backbones.jsonl.gz"):
            if (key := (record["pdb"], record["chain"])) in used and "_".join(
                key
            ) not in structures:
                xyz = torch.tensor([record["coords"][a] for a in ("N", "CA", "C", "O")])
                name = "_".join(key)
                structures[name] = structure_of(
                    name, record["seq"], xyz.permute(1, 0, 2).contiguous(), record["author"]
                )
    for row in rows:
        changes: list[tuple[int, int, int]] = []
        name = f"{row['pdb']}_{row['mutations'].partition(':')[0]}"
        structure = structures[name]
        for change in row["mutations"].split("+"):
            wild, number, new = (text := change.partition(":")[2])[0], text[1:-1], text[-1]
            position = structure.numbering.numbers.index(number)
            if structure.sequence[position] != wild:
                raise ValueError(f"{name}: {change} does not fit the backbone's letter.")
            changes.append((position, PROTEIN.letters.index(wild), PROTEIN.letters.index(new)))
        found.append(
            Mutant(
                name,
                row.get("group", name),
                tuple(changes),
                -float(row["ddg_kcal_mol"]),
                row.get("near_benchmark") == "true",
            )
        )
    return structures, found


def scans(data: Path) -> tuple[dict[str, Structure], list[Mutant]]:
    """Return the domains of mega-scale and their single mutants."""
    return _measured(data, ("megascale",), _table(data / "stability" / "megascale_ddg.csv.gz"))


def multiples(data: Path) -> tuple[dict[str, Structure], list[Mutant]]:
    """Return the proteins with multiple mutants, and these."""
    rows = _table(data / "stability" / "multi_mutants.csv.gz")
    return _measured(data, ("multi", "protherm"), rows)


def protherm(data: Path) -> tuple[dict[str, Structure], list[Mutant]]:
    """Return the proteins of ProTherm and their single mutants, alike to a benchmark or not."""
    near = {
        (r["pdb"], r["chain"]): r["near_benchmark"]
        for r in _table(data / "stability" / "protherm_near_benchmark.csv.gz")
    }
    rows = [
        {**r, "near_benchmark": near[r["pdb"], r["mutations"].partition(":")[0]]}
        for r in _table(data / "stability" / "protherm_ddg.csv")
        if (change := r["mutations"].partition(":")[2])[0] != change[-1]
    ]
    return _measured(data, ("protherm",), rows)


def alike(
    structures: Mapping[str, Structure], known: Mapping[str, Structure], group: Mapping[str, str]
) -> dict[str, frozenset[str]]:
    """Return the groups of known proteins that each structure is alike to (E < 1e-3)."""
    return {
        name: frozenset(
            group[other]
            for other, there in known.items()
            if e_value(structure.sequence, there.sequence) < E_VALUE
        )
        for name, structure in structures.items()
    }


def dealt(rows: Iterable[Mutant], hands: int) -> dict[str, int]:
    """Return a hand per group: the largest first, each to the hand with the fewest rows."""
    sizes = Counter(r.group for r in rows)
    load, found = [0] * hands, {}
    for group in sorted(sizes, key=lambda g: (-sizes[g], g)):
        found[group] = load.index(min(load))
        load[found[group]] += sizes[group]
    return found
