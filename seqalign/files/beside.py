"""What stands beside the chains of a file: ions, ligands, nucleic acids, and chains left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from seqalign.files.atoms import WATERS, Atom
from seqalign.files.residues import Residue

__all__ = ["Beside", "beside", "is_hydrogen"]

_SUGARS: Final = set(
    "NAG NDG BMA MAN FUC FUL GAL GLA GLC BGC SIA XYS XYP NGA A2G BOG SUC TRE MAL LMT".split()
)
_NUCLEIC: Final = set("A C G U I N DA DC DG DT DU DI ADE CYT GUA THY URA".split())


@dataclass(frozen=True, eq=False)
class Beside:
    """What stands beside the chains that are read, and no network here sees.

    Attributes:
        kind: "ion", "ligand", "sugar", "nucleic" (a chain of it), or "chain" (a protein left out).
        residue: its name in the file, "ZN"; "" for a chain.
        chain, number: where it is, "A" and "101"; no number for a chain.
        size: residues.
        xyz: (n, 3) float32, Å, its heavy atoms.
    """

    kind: str
    residue: str
    chain: str
    number: str
    size: int
    xyz: Tensor


def is_hydrogen(atom: str) -> bool:
    """Whether the name of an atom is that of a hydrogen; of an ion it can be another element's."""
    return atom.lstrip("0123456789").startswith(("H", "D"))


def beside(atoms: Sequence[Atom], residues: Sequence[Residue]) -> tuple[Beside, ...]:
    """Return what the atoms that are not read are: chains as one, all else by residue."""
    proteins = {id(a) for _, some in residues for a in some}
    groups: dict[tuple[str, ...], list[Atom]] = {}
    for a in atoms:
        if a.residue in WATERS or (is_hydrogen(a.name) and a.name != a.residue):
            continue
        kind = "chain" if id(a) in proteins else "nucleic" if a.residue in _NUCLEIC else ""
        groups.setdefault(
            (kind, a.chain, *(() if kind else (a.number + a.code, a.residue))), []
        ).append(a)
    found = []
    for (kind, chain, *rest), some in groups.items():
        number, residue = rest or ("", "")
        # of alternate locations the first of each residue
        first: dict[tuple[str, str], str] = {}
        for a in some:
            if a.altloc:
                first.setdefault((a.number, a.code), a.altloc)
        xyz = torch.tensor([a.xyz for a in some if a.altloc in ("", first.get((a.number, a.code)))])
        kind = kind or ("sugar" if residue in _SUGARS else "ion" if len(xyz) == 1 else "ligand")
        size = len({(a.number, a.code) for a in some})
        found.append(Beside(kind, residue, chain, number, size, xyz))
    return tuple(found)
