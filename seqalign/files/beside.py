"""What stands beside the chains of a file: ions, ligands, nucleic acids, and chains left out.

Networks that look beside the chains read its atoms but those of hydrogen or of no known element,
and those of occupancy 0; at one place the first of the alternate locations counts. Water is left
out, and protein is none of it.

References:
    Atomic context-conditioned protein sequence design using LigandMPNN, Dauparas et al., Nature
    Methods 2025 (which atoms are read).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from seqalign.files.atoms import WATERS, Atom
from seqalign.files.elements import HYDROGEN
from seqalign.files.residues import Residue

__all__ = ["Beside", "ContextAtoms", "beside", "is_hydrogen"]

_SUGARS: Final = set(
    "NAG NDG BMA MAN FUC FUL GAL GLA GLC BGC SIA XYS XYP NGA A2G BOG SUC TRE MAL LMT".split()
)
_NUCLEIC: Final = set("A C G U I N DA DC DG DT DU DI ADE CYT GUA THY URA".split())


@dataclass(frozen=True, eq=False)
class Beside:
    """What stands beside the chains that are read, and only few networks see.

    Attributes:
        kind: "ion", "ligand", "sugar", "nucleic" (a chain of it), or "chain" (a protein left out).
        residue: its name in the file, "ZN"; "" for a chain.
        chain, number: where it is, "A" and "101"; no number for a chain.
        size: residues.
        xyz: (n, 3) float32, Å, its heavy atoms.
        element: (n,) int64, atomic numbers; 0 for an atom that no network reads. Or empty.
        atoms: n names, "A:BTN5100:C11"; or none.
    """

    kind: str
    residue: str
    chain: str
    number: str
    size: int
    xyz: Tensor
    element: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    atoms: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class ContextAtoms:
    """The M atoms that a network which looks beside the chains reads.

    Attributes:
        xyz: (M, 3) float32, Å.
        element: (M,) int64, atomic numbers.
        names: M names, "A:BTN5100:C11".
    """

    xyz: Tensor = field(default_factory=lambda: torch.zeros(0, 3))
    element: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def of(cls, atoms: Sequence[Atom]) -> ContextAtoms:
        """Return those of some atoms that are read."""
        some = [a for a in atoms if readable(a)]
        if not some:
            return cls()
        return cls(
            torch.tensor([a.xyz for a in some]),
            torch.tensor([a.element for a in some]),
            tuple(name_of(a) for a in some),
        )

    @classmethod
    def beside(cls, things: Sequence[Beside], more: ContextAtoms) -> ContextAtoms:
        """Return the atoms of what stands beside the chains but protein, and some more."""
        parts = [more]
        for thing in things:
            if thing.kind != "chain" and len(thing.element):
                read = thing.element > 0
                names = [n for n, r in zip(thing.atoms, read.tolist(), strict=True) if r]
                parts.append(cls(thing.xyz[read], thing.element[read], tuple(names)))
        return cls(
            torch.cat([part.xyz for part in parts]),
            torch.cat([part.element for part in parts]),
            tuple(name for part in parts for name in part.names),
        )


def name_of(atom: Atom) -> str:
    """Return the name of an atom, "A:BTN5100:C11"."""
    return f"{atom.chain}:{atom.residue}{atom.number}{atom.code}:{atom.name}"


def readable(atom: Atom) -> bool:
    """Whether a network that looks beside the chains reads an atom: what it is, and it is there."""
    return atom.element > HYDROGEN and atom.occupancy > 0


def is_hydrogen(atom: str) -> bool:
    """Whether the name of an atom is that of a hydrogen; of an ion it can be another element's."""
    return atom.lstrip("0123456789").startswith(("H", "D"))


def beside(atoms: Sequence[Atom], residues: Sequence[Residue]) -> tuple[Beside, ...]:
    """Return what the atoms that are not read are: chains as one, all else by residue."""
    proteins = {id(a) for _, some in residues for a in some}
    groups: dict[tuple[str, ...], list[Atom]] = {}
    # of the alternate locations at one place, whatever their residues are called
    first: dict[tuple[str, str, str], str] = {}
    for a in atoms:
        if a.residue in WATERS or _hydrogen(a):
            continue
        kind = "chain" if id(a) in proteins else "nucleic" if a.residue in _NUCLEIC else ""
        groups.setdefault(
            (kind, a.chain, *(() if kind else (a.number + a.code, a.residue))), []
        ).append(a)
        if a.altloc:
            place = (a.chain, a.number, a.code)
            first[place] = min(first.get(place, a.altloc), a.altloc)
    found = []
    for (kind, chain, *rest), every in groups.items():
        number, residue = rest or ("", "")
        some = [
            a for a in every if a.altloc in ("", first.get((a.chain, a.number, a.code), a.altloc))
        ]
        if not some:
            continue
        kind = kind or ("sugar" if residue in _SUGARS else "ion" if len(some) == 1 else "ligand")
        size = len({(a.number, a.code) for a in some})
        xyz = torch.tensor([a.xyz for a in some])
        element = torch.tensor([a.element if readable(a) else 0 for a in some])
        names = tuple(name_of(a) for a in some)
        found.append(Beside(kind, residue, chain, number, size, xyz, element, names))
    return tuple(found)


def _hydrogen(atom: Atom) -> bool:
    if atom.element:
        return atom.element == HYDROGEN
    return is_hydrogen(atom.name) and atom.name != atom.residue
