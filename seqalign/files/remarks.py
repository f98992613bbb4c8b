"""What a person should know of a structure as it was read: what is odd, kept, or not seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from seqalign.files.beside import Beside
from seqalign.files.places import CONTACT
from seqalign.files.residues import BACKBONE
from seqalign.files.structure import Structure

__all__ = ["remarks"]


def remarks(structure: Structure) -> list[str]:
    """Return sentences, the weightiest first: gaps, incomplete and odd residues, what is unseen."""
    found = [*structure.said, *_gaps(structure), *_incomplete(structure)]
    numbering = structure.numbering
    if structure.modified:
        shown = (
            f"{r} {numbering.name(i + 1)} as {structure.sequence[i]}" for i, r in structure.modified
        )
        found.append(f"Read {_some(list(shown), 8)}.")
    return [*found, *_unseen(structure)]


def _some(words: Sequence[str], most: int) -> str:
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


def _gaps(structure: Structure) -> list[str]:
    """Say where chains to be designed are broken, or where letters without atoms were added."""
    numbering, chains = structure.numbering, structure.numbering.chains
    if structure.unresolved is not None:
        added = [
            f"{letters} {_where(structure, chain, i)}" for chain, i, letters in structure.unresolved
        ]
        said = f"Without atoms, from the file's own sequence, and fixed: {_some(added, 8)}."
        return [said] if added else []
    pairs = [
        f"{numbering.name(i)} and {numbering.name(i + 1)}"
        for i in range(1, len(structure))
        if bool(structure.breaks[i]) and chains[i - 1] == chains[i] and bool(structure.design[i])
    ]
    if not pairs:
        return []
    cure = (
        "The file does not have the letters (no SEQRES, no _entity_poly_seq); that of the PDB may."
    )
    if structure.polymers:
        cure = "input.fill: seqres takes the letters from the file."
    return [
        f"The chain is broken between {_some(pairs, 6)}: X stands for what is missing, and plates "
        f"and DNA refuse it. {cure}"
    ]


def _where(structure: Structure, chain: str, i: int) -> str:
    """Say where letters stand that go before residue i."""
    chains, name = structure.numbering.chains, structure.numbering.name
    if i > 0 and chains[i - 1] == chain:
        return f"after {name(i)}"
    return f"before {name(i + 1)}"


def _incomplete(structure: Structure) -> list[str]:
    """Name residues to be designed that keep their letter as their backbone is not whole."""
    some = []
    for i in (structure.design & ~structure.mask).nonzero()[:, 0].tolist():
        there = structure.coords[i].isfinite().all(-1).tolist()
        lacks = [a for a, ok in zip(BACKBONE, there, strict=True) if not ok]
        name = structure.numbering.name(i + 1)
        some.append(f"{structure.sequence[i]} {name} (no {', '.join(lacks)})")
    return (
        [f"Kept and not designed, as backbone atoms are missing: {_some(some, 8)}."] if some else []
    )


def _unseen(structure: Structure) -> list[str]:
    """Name what no network here sees, with the residues to be designed that are near it."""
    numbering = structure.numbering
    from scipy.spatial import KDTree

    mine = structure.design[structure.heavy_of]
    heavy, owner = structure.heavy[mine].numpy(), structure.heavy_of[mine].numpy()
    alike: dict[tuple[str, str], list[Beside]] = {}
    for thing in structure.beside:
        whole = thing.kind in ("nucleic", "chain")
        alike.setdefault((thing.kind, thing.chain if whole else thing.residue), []).append(thing)
    found = []
    for (kind, key), things in alike.items():
        xyz = torch.cat([thing.xyz for thing in things]).numpy()
        gap = KDTree(xyz).query(heavy)[0] if len(heavy) else np.zeros(0)
        near = [numbering.name(i + 1) for i in np.unique(owner[gap <= CONTACT]).tolist()]
        size = sum(thing.size for thing in things)
        if kind == "nucleic":
            what = f"DNA or RNA chain {key or '(no name)'} ({size} nucleotides)"
        elif kind == "chain":
            what = f"Chain {key or '(no name)'} ({size} residues)"
        else:
            places = [f"{thing.chain}{thing.number}" for thing in things]
            what = f"{key} {_some(places, 4)}"
        word = (
            f"within {CONTACT:g} of {key}" if kind == "nucleic" and key else f"near {key or kind}"
        )
        if key.isdigit() and kind != "nucleic":
            word += f" {things[0].chain}{things[0].number}"
        ask = "name it in context?" if kind == "chain" else f'fix them, as "{word}"?'
        said = f"within {CONTACT:g} Å: {_some(near, 12)}: {ask}" if near else ""
        found.append(
            f"{what} is not seen; {said or f'no designed residue is within {CONTACT:g} Å.'}"
        )
    return found
