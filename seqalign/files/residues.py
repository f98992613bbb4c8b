"""Residues: which atoms of a file are the amino acids of its chains, and where each of them lies.

- A chain is its amino acids. Waters, ions, ligands and nucleic acids are not part of it. A HETATM
  residue with a peptide backbone is, unless it stands apart: after its chain's last ATOM residue
  and TER, or without a label number in mmCIF.
- Of alternate locations the one with the highest mean backbone occupancy counts, at a tie the
  first letter.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np

from seqalign.files.atoms import Atom, Fail

__all__ = [
    "BACKBONE", "BOND", "LETTERS", "OXYGENS", "TWO_MEANINGS", "Residue", "amino_acids",
    "conformer", "letter_of", "parents", "relocated", "standard_letters",
]  # fmt: skip

BACKBONE: Final = ("N", "CA", "C", "O")
LETTERS: Final = "ACDEFGHIKLMNPQRSTVWY"
# Å: a C-N pair further apart is no peptide bond
BOND: Final = 2.0
# protonation states as force fields name them; biopython's table is the PDB's dictionary
_PROTONATED: Final = {
    letter: names.split()
    for letter, names in {
        "H": "HID HIE HIP HSD HSP HISA HISB HISD HISE HISH HISP HIS1 HIS2",
        "C": "CYX CYM CYSH CYS2",
        "D": "ASH ASPH ASPP",
        "E": "GLUH GLUP",
        "K": "LYN LSN LYSH",
        "R": "ARN ARGN",
        "Y": "TYM",
    }.items()
}
# names with one meaning in the PDB's dictionary and another in force fields: an atom decides, and
# without one the force field, as the other meaning is hardly ever met
TWO_MEANINGS: Final = {
    "HSE": {"OG": "S", "ND1": "H", "": "H"},
    "GLH": {"NE2": "Q", "OE2": "E", "": "E"},
}
# other names of the oxygen at a chain's end
OXYGENS: Final = ("O", "OT1", "OC1", "O1")


def standard_letters() -> dict[str, str]:
    """Return the letter of each of the twenty residue names."""
    from Bio.Data.PDBData import protein_letters_3to1

    return dict(protein_letters_3to1)


def parents() -> dict[str, str]:
    """Return the letter of each residue name that has one, modified residues included."""
    from Bio.Data.PDBData import protein_letters_3to1_extended

    table = {k.strip(): v for k, v in protein_letters_3to1_extended.items() if v in LETTERS}
    table = {k: v for k, v in table.items() if k not in TWO_MEANINGS}
    return table | {name: letter for letter, some in _PROTONATED.items() for name in some}


def letter_of(residue: str, atoms: Collection[str], table: Mapping[str, str]) -> str | None:
    """Return the letter of a residue by its name, and by its atoms where that has two meanings."""
    meanings = TWO_MEANINGS.get(residue, {})
    return table.get(residue) or next((v for a, v in meanings.items() if not a or a in atoms), None)


# one amino acid, with all its locations: (chain, number, code) and its atoms
Residue: TypeAlias = tuple[tuple[str, str, str], list[Atom]]


def amino_acids(atoms: Sequence[Atom], table: Mapping[str, str], fail: Fail) -> list[Residue]:
    """Return the residues of the chains, chain after chain, in file order."""
    groups: dict[tuple[str, str, str, str], list[Atom]] = {}
    for atom in atoms:
        groups.setdefault((atom.chain, atom.number, atom.code, atom.residue), []).append(atom)
    by_chain: dict[str, list[list[Atom]]] = {}
    for (chain, _, _, residue), group in groups.items():
        names = {a.name for a in group}
        named = residue in table or residue in TWO_MEANINGS
        if names >= {"N", "CA", "C"} or (
            # what an ATOM line names is an amino acid of the chain whichever of its atoms are there
            (not group[0].hetero or "CA" in names) if named else residue == "UNK" and "CA" in names
        ):
            by_chain.setdefault(chain, []).append(group)
    residues: dict[tuple[str, str, str], list[Atom]] = {}
    for chain, members in by_chain.items():
        last = max((i for i, group in enumerate(members) if not group[0].hetero), default=-1)
        before: list[Atom] = []
        for i, group in enumerate(members):
            first = group[0]
            inside = first.inside
            if not first.hetero or (inside is None and i < last):
                inside = True
            if inside is None:
                following = members[i + 1] if i + 1 < len(members) else []
                inside = _peptide(before, group) or (not before and _peptide(group, following))
            if inside:
                if not first.number:
                    fail(f"{first.place} has no author number; read it with numbering='label'")
                residues.setdefault((chain, first.number, first.code), []).extend(group)
                before = group
    if not residues:
        there = ", ".join(list(dict.fromkeys(a.residue for a in atoms))[:5]) or "none"
        fail(f"has no amino acids with a backbone; the residues it has are {there}")
    for (chain, number, code), members_ in residues.items():
        _check_copies(f"{chain}{number}{code}", members_, fail)
    return list(residues.items())


def _peptide(first: Sequence[Atom], second: Sequence[Atom]) -> bool:
    """Whether a C of the first residue is bonded to an N of the second."""
    carbons = [np.array(a.xyz) for a in first if a.name == "C"]
    nitrogens = [np.array(a.xyz) for a in second if a.name == "N"]
    return any(bool(np.linalg.norm(c - n) <= BOND) for c in carbons for n in nitrogens)


def _check_copies(name: str, atoms: Sequence[Atom], fail: Fail) -> None:
    """Refuse a residue that is there twice; alternate locations are not."""
    seen: dict[tuple[str, str], Atom] = {}
    owner: dict[str, str] = {}
    cure = "Give copies different chain names or numbers, and alternate locations different letters"
    if not atoms[0].chain:
        cure = "The chain column is empty (segment names do not count); write chain letters into it"
    for atom in atoms:
        # atoms without a letter are shared, and named after one of the residues
        residue = owner.setdefault(atom.altloc, atom.residue)
        if residue != atom.residue:
            fail(f"residue {name} is both {residue} and {atom.residue} ({atom.place}). {cure}")
        if atom.name in BACKBONE:
            other = seen.setdefault((atom.name, atom.altloc), atom)
            if other is not atom:
                fail(
                    f"residue {name} has {atom.name} twice ({other.place} and {atom.place}). {cure}"
                )


def relocated(atoms: Sequence[Atom]) -> str:
    """Return the location of a residue that counts where it is not the first listed; else ""."""
    best, shares = _locations(atoms)
    first = next((a.altloc for a in atoms if a.altloc in shares), best)
    return "" if best == first else best


def _locations(atoms: Sequence[Atom]) -> tuple[str, dict[str, float]]:
    """Return the alternate location that counts, and the mean backbone occupancy of each."""

    def occupancy(some: Sequence[Atom]) -> float:
        values = [a.occupancy if np.isfinite(a.occupancy) else 0.0 for a in some]
        return sum(values) / len(values)

    backbone = [a for a in atoms if a.name in (*BACKBONE, *OXYGENS)] or list(atoms)
    letters = sorted({a.altloc for a in backbone if a.altloc})
    shares = {x: occupancy([a for a in backbone if a.altloc == x]) for x in letters}
    return max(letters, key=lambda x: shares[x], default=""), shares


def conformer(atoms: Sequence[Atom]) -> tuple[str, dict[str, tuple[float, float, float]]]:
    """Return the residue name and the places of the atoms of the location that counts."""
    backbone = [a for a in atoms if a.name in (*BACKBONE, *OXYGENS)] or list(atoms)
    best, shares = _locations(atoms)
    residue = next(a.residue for a in backbone if a.altloc == best or not best)
    places: dict[str, tuple[float, float, float]] = {}
    # the chosen location first, then what all share, then what only another one has
    order = sorted(
        (a for a in atoms if a.residue == residue or not a.altloc),
        key=lambda a: (a.altloc != best, a.altloc != "", -shares.get(a.altloc, 0.0), a.altloc),
    )
    for atom in order:
        places.setdefault(atom.name, atom.xyz)
    return residue, places
