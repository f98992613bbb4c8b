"""Structures: backbones with the names of their residues, from PDB, mmCIF and BinaryCIF files.

A file is read into a flat table of atoms (`atoms`), and of the atoms those of the chains' amino
acids are kept (`residues`); what becomes of these is stated because it is a choice:

- A modified residue with a known parent (MSE) has the parent's letter. Any other needs a `map` or
  an `ignore` where it stands in a chain to be designed, and is a static "X" in a context chain.
- A residue can be designed if N, CA, C and O are there (`known`). One that lacks some is kept with
  its letter, its missing atoms nan. Nothing is rebuilt, but in a file without any O, where those
  of the backbone are placed by its geometry.
- A chain in which more than a fifth of the residues have no letter is context, unless it is asked
  for; letters without atoms (SEQRES) are added if asked for (`fill`).
- What stands beside the chains (ions, ligands, nucleic acids, chains left out) is kept by name and
  place (`beside`). Most networks do not see it; what LigandMPNN sees of it are `context_atoms`.

The file is long, as reading is one row of decisions about the same residues.

References:
    Dauparas et al., "Robust deep learning-based protein sequence design using ProteinMPNN",
    Science 2022 (virtual CB, residue numbers across chains).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
import torch
from torch import Tensor

from seqalign.files.atoms import Atom, Fail, format_of, read_atoms
from seqalign.files.beside import Beside, ContextAtoms, beside, is_hydrogen
from seqalign.files.numbering import Numbering, ResidueError
from seqalign.files.places import Geometry, Places
from seqalign.files.residues import (
    BACKBONE,
    BOND,
    LETTERS,
    OXYGENS,
    TWO_MEANINGS,
    Residue,
    amino_acids,
    conformer,
    letter_of,
    parents,
    relocated,
    standard_letters,
)
from seqalign.files.unresolved import unresolved

__all__ = ["Structure", "StructureError", "demo_backbone", "read_structure"]

# Å: a CA-CA pair further apart is no pair of neighbors
STRIDE: Final = 4.5
# Å: what N-CA, CA-C and C-O can be in a file that means ångströms
NEAREST, FARTHEST = 0.5, 5.0
# Å: no assembly is that large
HUGE = 1e5
# how far apart chains are in residue_index, as in Dauparas et al.
JUMP = 100


class StructureError(ValueError):
    """A file that cannot be read as a structure; the message names it, and the cure."""


@dataclass(frozen=True, eq=False, repr=False)
class Structure:
    """L residues with a backbone, in file order, chain after chain.

    A process over a structure has one position per `known` residue, chains to be designed and
    context chains alike.

    Attributes:
        name: what messages call it.
        sequence: L letters; "X" where there is no standard one.
        coords: (L, 4, 3) float32, Å, atoms N, CA, C, O; nan where missing.
        numbering: the names of the L residues.
        design: (L,) bool, False in context chains, which are seen and not designed.
        residue_index: (L,) int64, for relative positions: 1 apart where bonded, across missing
            residues as far as the author numbers say, 101 from one chain to the next.
        modified: (0-based index, residue name in the file) where that is not the letter's own.
        require: the atoms that a residue must have to be known.
        unresolved: None where nobody asked; else (chain, 0-based index, letters) of residues
            without atoms, which stand before the residue of that index, or at the chain's end.
        beside: what stands beside the chains.
        context_atoms: the atoms of it, and of side chains that no letter stands for (those of
            residues read as X), for networks that see them.
        heavy: (n, 3) float32, Å, the heavy atoms of all residues, side chains too.
        heavy_of: (n,) int64, the residue of each.
        said: what reading decided, in sentences.
        polymers: whether the file gives the sequences of its chains beside the atoms.
    """

    name: str
    sequence: str
    coords: Tensor
    numbering: Numbering
    design: Tensor
    residue_index: Tensor
    modified: tuple[tuple[int, str], ...] = ()
    require: tuple[str, ...] = BACKBONE
    unresolved: tuple[tuple[str, int, str], ...] | None = None
    beside: tuple[Beside, ...] = ()
    context_atoms: ContextAtoms = ContextAtoms()
    heavy: Tensor = field(default_factory=lambda: torch.zeros(0, 3))
    heavy_of: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    said: tuple[str, ...] = ()
    polymers: bool = False

    def __post_init__(self) -> None:
        length = len(self.sequence)
        shapes = {
            "coords": (self.coords, (length, 4, 3), torch.float32),
            "design": (self.design, (length,), torch.bool),
            "residue_index": (self.residue_index, (length,), torch.int64),
        }
        for name, (value, shape, dtype) in shapes.items():
            if value.shape != shape or value.dtype != dtype:
                raise StructureError(
                    f"{self.name}: {name} must be {dtype} of shape {shape}, got {value.dtype} of "
                    f"shape {tuple(value.shape)}."
                )
        if len(self.numbering) != length:
            raise StructureError(
                f"{self.name}: {length} residues and {len(self.numbering)} names; they must agree."
            )
        for i, letter in enumerate(self.sequence, 1):
            if letter not in LETTERS + "X":
                raise StructureError(
                    f"{self.name}: residue {self.numbering.name(i)} has the letter {letter!r}; "
                    f"allowed are {LETTERS} and X."
                )
        if not self.require or set(self.require) - set(BACKBONE):
            raise StructureError(
                f"{self.name}: require is {self.require!r}; name some of {', '.join(BACKBONE)}."
            )

    @classmethod
    def of(cls, name: str, sequence: str, coords: Tensor, numbering: Numbering) -> Structure:
        """Return the structure of chains at hand, all to be designed.

        Args:
            name: what messages call it.
            sequence: L letters, "X" where there is no standard one.
            coords: (L, 4, 3), Å, atoms N, CA, C, O; nan where missing.
            numbering: the names of the L residues.
        """
        found = coords.to(torch.float32)
        keys = [
            (chain, re.sub("[A-Za-z]$", "", number), "")
            for chain, number in zip(numbering.chains, numbering.numbers, strict=True)
        ]
        design = torch.ones(len(sequence), dtype=torch.bool)
        return cls(name, sequence, found, numbering, design, _residue_index(found, keys))

    def __len__(self) -> int:
        return len(self.sequence)

    def __eq__(self, other: object) -> bool:
        """Compare backbones, not side chains or what is beside; missing atoms equal missing."""
        if not isinstance(other, Structure):
            return NotImplemented
        return (
            self._key == other._key
            and torch.equal(self.design, other.design)
            and torch.equal(self.residue_index, other.residue_index)
            and torch.equal(self.coords.isnan(), other.coords.isnan())
            and torch.equal(self.coords.nan_to_num(), other.coords.nan_to_num())
        )

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[Any, ...]:
        own = self.name, self.sequence, self.numbering, self.modified, self.require
        return *own, self.unresolved

    def __repr__(self) -> str:
        chains = ", ".join(
            f"{chain or '(no name)'} {self.numbering.chains.count(chain)}"
            for chain in dict.fromkeys(self.numbering.chains)
        )
        return f"Structure({self.name!r}, residues per chain: {chains}, known: {len(self.known)})"

    @cached_property
    def mask(self) -> Tensor:
        """(L,) bool, whether all required atoms are there."""
        atoms = [BACKBONE.index(a) for a in self.require]
        return self.coords[:, atoms].isfinite().all(-1).all(-1)

    @cached_property
    def known(self) -> Tensor:
        """(n,) int64, the residues with a standard letter and all required atoms."""
        standard = torch.tensor([a != "X" for a in self.sequence], dtype=torch.bool)
        return (self.mask & standard).nonzero()[:, 0]

    @property
    def wild_type(self) -> str:
        """The n letters of the known residues."""
        return "".join(self.sequence[i] for i in self.known.tolist())

    @cached_property
    def known_numbering(self) -> Numbering:
        """The n names of the known residues, and where they are."""
        known = self.known.tolist()
        fields = self.coords, self.virtual_cb, self.heavy, self.heavy_of
        geometry = Geometry(self.numbering, self.sequence, *fields, self.beside, self.require)
        return replace(self.numbering.take(known), places=Places(geometry, tuple(known)))

    @cached_property
    def chain_index(self) -> Tensor:
        """(L,) int64, 0 for the first chain, 1 for the second."""
        order = {c: i for i, c in enumerate(dict.fromkeys(self.numbering.chains))}
        return torch.tensor([order[c] for c in self.numbering.chains], dtype=torch.int64)

    @cached_property
    def breaks(self) -> Tensor:
        """(L,) bool, True where a residue is not bonded to the one before it (C-N > 2 Å).

        Where C or N is missing the CA-CA distance decides (> 4.5 Å), and without CA the numbers.
        """
        start = self.chain_index.diff(prepend=torch.tensor([-1])) != 0
        bonded = _bonded(self.coords)
        follows = torch.where(
            bonded.isnan(), (self.residue_index.diff(prepend=torch.tensor([-1])) == 1), bonded == 1
        )
        return start | ~follows

    @cached_property
    def virtual_cb(self) -> Tensor:
        """(L, 3) float32, Å, CB at ideal geometry; nan where N, CA or C is missing.

        References:
            Dauparas et al., Science 2022 (the coefficients).
        """
        n, ca, c, _ = self.coords.unbind(1)
        b, d = ca - n, c - ca
        a = torch.linalg.cross(b, d)
        cb: Tensor = -0.58273431 * a + 0.56802827 * b - 0.54067466 * d + ca
        return cb

    def to_pdb(self) -> str:
        """Return the backbone as PDB text; modified residues keep names that say their letter."""
        three = {letter: name for name, letter in standard_letters().items()}
        # a name with two meanings says nothing without a side chain
        modified = {i: name for i, name in self.modified if name not in TWO_MEANINGS}
        lines: list[str] = []
        for i, (chain, number) in enumerate(
            zip(self.numbering.chains, self.numbering.numbers, strict=True)
        ):
            digits, code = (number, " ") if not number[-1].isalpha() else (number[:-1], number[-1])
            residue = modified.get(i, three.get(self.sequence[i], "UNK"))
            if len(chain) > 1 or len(digits) > 4 or len(residue) > 3:
                raise StructureError(
                    f"{self.name}: residue {self.numbering.name(i + 1)} ({residue}) does not fit "
                    f"the columns of a PDB file: one character of chain, four digits, three "
                    f"letters of residue name."
                )
            record = "HETATM" if i in modified else "ATOM"
            for atom, xyz in zip(BACKBONE, self.coords[i].tolist(), strict=True):
                if not all(np.isfinite(xyz)):
                    continue
                place = "".join(f"{x:8.3f}" for x in xyz)
                if len(place) > 24:
                    raise StructureError(
                        f"{self.name}: {atom} of residue {self.numbering.name(i + 1)} lies at "
                        f"{place.split()}, too far out for the columns of a PDB file."
                    )
                lines.append(
                    f"{record:<6}{(len(lines) + 1) % 100000:>5}  {atom:<3} {residue:>3} "
                    f"{chain or ' '}{digits:>4}{code}   {place}  1.00  0.00          {atom[0]:>2}"
                )
            if i + 1 == len(self) or self.numbering.chains[i + 1] != chain:
                lines.append("TER")
        return "\n".join([*lines, "END", ""])


def _bonded(coords: Tensor) -> Tensor:
    """(L,) 1 where bonded to the residue before, 0 where not, nan where the atoms do not tell."""
    n, ca, c, _ = coords.unbind(1)
    answer = torch.full((len(coords),), torch.nan)
    if len(coords) > 1:
        bond, stride = (c[:-1] - n[1:]).norm(dim=-1), (ca[:-1] - ca[1:]).norm(dim=-1)
        by_stride = torch.where(stride.isnan(), stride, (stride <= STRIDE).float())
        answer[1:] = torch.where(bond.isnan(), by_stride, (bond <= BOND).float())
    return answer


def demo_backbone() -> Structure:
    """Return the embedded backbone: PDB entry 3A4R, chain A, a SUMO-like domain, 74 residues."""
    with as_file(files("seqalign").joinpath("data", "3a4r.pdb")) as path:
        return read_structure(path)


def read_structure(
    path: str | Path | Structure,
    *,
    chains: str | Sequence[str] | None = None,
    context: str | Sequence[str] | None = None,
    model: int = 1,
    numbering: str = "author",
    map: Mapping[str, str] | None = None,
    ignore: Sequence[str] = (),
    require: Sequence[str] = BACKBONE,
    fill: str = "none",
) -> Structure:
    """Read a structure from a .pdb, .ent, .cif, .mmcif or .bcif file, each also as .gz.

    Args:
        path: the file; a Structure is returned as it is.
        chains: chains to be designed, as a list or as text ("A, B"); all but `context` by default.
        context: chains that are seen and not designed.
        model: which model of the file, counted from 1.
        numbering: "author"; "label" (mmCIF and BinaryCIF, chain names too); or "index", 1.. along
            each chain.
        map: residue name -> the letter to read it as, or "X" for fixed context.
        ignore: residue names to leave out.
        require: atoms that a residue needs to be known, of N, CA, C, O; ("CA",) for CA-only files.
        fill: letters of residues without atoms: "none"; "gaps", inside the chains, or "seqres",
            at their ends too, as SEQRES or _entity_poly_seq have them.

    Raises:
        StructureError: the file cannot be read or does not have what is asked for; one sentence
            with the file's name.
    """
    if isinstance(path, Structure):
        return path
    file = Path(path)

    def fail(text: str) -> NoReturn:
        raise StructureError(f"{file}: {text}{'' if text.endswith('?') else '.'}") from None

    if numbering not in ("author", "label", "index"):
        fail(f"numbering must be author, label or index, not {numbering!r}")
    for residue, letter in (map or {}).items():
        if letter not in tuple(LETTERS + "X"):
            fail(f"map reads {residue} as {letter!r}; allowed are the letters {LETTERS} and X")
    needs = tuple(a for a in BACKBONE if a in require)
    if not needs or set(require) - set(BACKBONE):
        fail(f"require is {require!r}; name some of {', '.join(BACKBONE)}")
    if fill not in ("none", "gaps", "seqres"):
        fail(f"fill must be none, gaps or seqres, not {fill!r}")
    name, kind = format_of(file)
    if numbering == "label" and kind == "pdb":
        fail("has author numbers only, as every PDB file; use author or index, or bring the mmCIF")
    atoms, polymers = read_atoms(file, fail)
    models = list(dict.fromkeys(a.model for a in atoms))
    if not 1 <= model <= len(models):
        fail(f"has {len(models)} model{'s' * (len(models) > 1)}; there is no model {model}")
    atoms = [a for a in atoms if a.model == models[model - 1]]
    apart: list[Atom] = []
    if numbering == "label":
        # what is no polymer has no label number: it keeps the author's
        apart = [a._replace(chain=a.label_chain) for a in atoms if not a.label]
        atoms = [a._replace(chain=a.label_chain, number=a.label, code="") for a in atoms if a.label]
    table = parents() | {k.upper(): v for k, v in (map or {}).items()}
    dropped = {residue.upper() for residue in ignore}
    residues = amino_acids([a for a in atoms if a.residue not in dropped], table, fail)
    read = [(key, *conformer(some)) for key, some in residues]
    odd: dict[str, list[str]] = {}
    for (chain, number, code), residue, place in read:
        if letter_of(residue, place, table) is None:
            odd.setdefault(chain, []).append(f"{residue} {chain}{number}{code}")
    designed, wanted = _choose(residues, chains, context, fail)
    said = []
    there = {a.residue for a in atoms}
    for option, asked in (("map", [k.upper() for k in map or ()]), ("ignore", sorted(dropped))):
        said += [
            f"{option}: no residue of the file is called {r}." for r in asked if r not in there
        ]
    if len(models) > 1:
        said.append(f"The file has {len(models)} models, and model {model} is read.")
    if chains is None:
        sizes = Counter(key[0] for key, *_ in read)
        strange = {c for c in designed if 5 * len(odd.get(c, ())) > sizes[c]}
        if strange < designed:
            designed -= strange
            said += [
                f"Chain {c} is kept as it is and not designed: {_some(odd[c])} "
                f"ha{'ve' if len(odd[c]) > 1 else 's'} no standard letter."
                for c in sorted(strange)
            ]
    chosen = [
        (*row, some) for row, (_, some) in zip(read, residues, strict=True) if row[0][0] in wanted
    ]

    standard = standard_letters()
    rows, letters, modified = [], [], []
    for i, ((chain, _, _), residue, place, _) in enumerate(chosen):
        known = letter_of(residue, place, table)
        if known is None and chain in designed:
            every = [r.split()[0] for c in designed for r in odd.get(c, ())]
            kinds = list(dict.fromkeys(every))[:5]
            yaml, told = (
                ", ".join(f"{r}: A" for r in kinds),
                " ".join(f"--map {r}=A" for r in kinds),
            )
            fail(
                f"has residues without a standard letter in the chains to be designed: "
                f"{_some([r for c in designed for r in odd.get(c, ())])}. Say which letter each is "
                f"read as, or X to keep it as it is: input.map: {{{yaml}}} in a campaign, seqalign "
                f"new {told}, map={dict.fromkeys(kinds, 'A')} in Python. Or leave it out, which "
                f"inside a chain leaves an X: input.ignore: [{', '.join(kinds)}], --ignore "
                f"{','.join(kinds)}, ignore={kinds}"
            )
        letter = known or "X"
        if standard.get(residue) != letter:
            modified.append((i, residue))
        oxygen = next((place[o] for o in OXYGENS if o in place), _NOWHERE)
        rows.append([*(place.get(a, _NOWHERE) for a in BACKBONE[:3]), oxygen])
        letters.append(letter)
    coords = torch.tensor(rows, dtype=torch.float64)
    keys = [key for key, *_ in chosen]
    _check_places(coords, keys, fail)
    coords = coords.float()
    if "O" in needs and not bool(coords[:, 3].isfinite().any()):
        coords = _with_oxygens(coords)
        if bool(coords[:, 3].isfinite().any()):
            said.append("The file has no backbone O; each was placed by the geometry of N, CA, C.")
    try:
        names = _names(keys, numbering)
    except ResidueError as error:
        fail(str(error).rstrip("."))
    places = [(i, relocated(some)) for i, (*_, some) in enumerate(chosen)]
    moved = [f"{names.name(i + 1)} ({at})" for i, at in places if at]
    if moved:
        said.append(
            f"Of alternate locations the likeliest counts, which is not the first listed (the one "
            f"that the published scripts take) at {_some(moved)}."
        )
    heavy = [
        (xyz, i)
        for i, (_, _, place, _) in enumerate(chosen)
        for atom, xyz in place.items()
        if not is_hydrogen(atom)
    ]
    mine = {id(a) for *_, some in chosen for a in some}
    others = beside([a for a in (*atoms, *apart) if id(a) not in mine], residues)
    odd_sides = [
        a
        for (*_, place, some), letter in zip(chosen, letters, strict=True)
        for a in some
        if letter == "X" and a.name not in _SEEN and place.get(a.name) == a.xyz
    ]
    structure = Structure(
        name=name,
        sequence="".join(letters),
        coords=coords,
        numbering=names,
        design=torch.tensor([key[0] in designed for key in keys]),
        residue_index=_residue_index(coords, keys),
        modified=tuple(modified),
        require=needs,
        beside=others,
        context_atoms=ContextAtoms.beside(others, ContextAtoms.of(odd_sides)),
        heavy=torch.tensor([xyz for xyz, _ in heavy]),
        heavy_of=torch.tensor([i for _, i in heavy]),
        said=tuple(said),
        polymers=bool(polymers),
    )
    if fill != "none":
        molecules = {
            chain: "".join(table.get(residue, "X") for residue in polymers.get(home, ()))
            for chain, home in _homes(chosen, kind == "pdb").items()
        }
        labels = [some[0].label for *_, some in chosen]
        structure = _filled(structure, molecules, labels, fill == "seqres", fail)
    if not structure.design[structure.known].any():
        finite = coords.isfinite().all(-1).any(0).tolist()
        have = ", ".join(a for a, there in zip(BACKBONE, finite, strict=True) if there) or "none"
        fail(
            f"has no residue to be designed with a letter and all of {', '.join(needs)}; of these "
            f"atoms it has {have}. Complete the backbone (homology modelling and protein repair "
            f"tools do), or take a file that has it"
        )
    return structure


_NOWHERE: Final = (float("nan"),) * 3
# what a network sees of every residue: its backbone, and CB by geometry
_SEEN: Final = (*BACKBONE, "CB", *OXYGENS, "OXT", "OT2", "OC2", "O2")


def _some(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _with_oxygens(coords: Tensor) -> Tensor:
    """Return (L, 4, 3) coordinates with O where N, CA and C are, 1.23 Å from C.

    It lies in the peptide plane, opposite to CA and the next N; at a chain's end opposite to CA and
    the own N, as in a strand.
    """
    n, ca, c, _ = coords.unbind(1)
    follows = torch.cat([n[1:], torch.full((1, 3), torch.nan)])
    follows = torch.where((follows - c).norm(dim=-1, keepdim=True) <= BOND, follows, torch.nan)
    # without a next N: in the plane of N, CA and C, on the other side of CA-C than N
    spare = c + torch.nn.functional.normalize(c - ca, dim=-1) + (n - ca)
    follows = torch.where(follows.isnan(), spare, follows)
    toward = [torch.nn.functional.normalize(x - c, dim=-1) for x in (ca, follows)]
    o = c - 1.23 * torch.nn.functional.normalize(toward[0] + toward[1], dim=-1)
    return torch.stack([n, ca, c, o], 1)


def _homes(chosen: Sequence[Any], pdb: bool) -> dict[str, str]:
    """Return by which name the file knows the polymer of each chain."""
    homes: dict[str, str] = {}
    for key, _, _, some in chosen:
        homes.setdefault(key[0], key[0] if pdb else some[0].label_chain)
    return homes


def _filled(
    structure: Structure,
    molecules: Mapping[str, str],
    labels: Sequence[str],
    ends: bool,
    fail: Fail,
) -> Structure:
    """Return a structure with the letters of its chains that have no atoms."""
    found = []
    steps = structure.residue_index.diff(prepend=torch.zeros(1, dtype=torch.int64)).tolist()
    designed = {
        c for c, d in zip(structure.numbering.chains, structure.design.tolist(), strict=True) if d
    }
    for chain in sorted(designed):
        here = [i for i, c in enumerate(structure.numbering.chains) if c == chain]
        whole, named = molecules.get(chain, ""), f"chain {chain}" if chain else "its chain"
        if not whole:
            fail(
                f"does not say the sequence of {named}: it has no SEQRES lines (PDB) or "
                f"_entity_poly_seq (mmCIF) for it. Leave fill out, or bring the file of the PDB"
            )
        try:
            missing = unresolved(
                whole,
                "".join(structure.sequence[i] for i in here),
                [bool(structure.breaks[i]) for i in here],
                [steps[i] for i in here],
                [labels[i] for i in here],
                [structure.numbering.name(i + 1) for i in here],
            )
        except ValueError as error:
            fail(f"fill: {named} does not fit the sequence the file gives for it: {error}")
        if not ends:
            missing[0] = missing[-1] = ""
        places = [*here, here[-1] + 1]
        found += [(chain, i, text) for i, text in zip(places, missing, strict=True) if text]
    return replace(structure, unresolved=tuple(found))


def _choose(
    residues: Sequence[Residue],
    chains: str | Sequence[str] | None,
    context: str | Sequence[str] | None,
    fail: Fail,
) -> tuple[set[str], set[str]]:
    """Return the chains to be designed, and all that are seen."""
    there = list(dict.fromkeys(key[0] for key, _ in residues))
    names = ", ".join(c or "(no name)" for c in there[:20])
    seen = set(_words(context))
    designed = set(there) - seen if chains is None else set(_words(chains))
    for chain in sorted(designed | seen):
        if chain not in there:
            near = [c for c in there if c.lower() == chain.lower()]
            hint = f". Did you mean {near[0]}?" if near else ""
            fail(f"has no chain {chain!r} with amino acids; there is {names}{hint}")
    if designed & seen:
        fail(f"chain {min(designed & seen)} is both designed and context; choose one")
    if not designed:
        fail(f"no chain is left to be designed; there is {names}")
    return designed, designed | seen


def _words(text: str | Sequence[str] | None) -> list[str]:
    if isinstance(text, str):
        return [word for word in re.split(r"[,\s]+", text) if word]
    return [str(word) for word in text or ()]


def _check_places(coords: Tensor, keys: Sequence[tuple[str, str, str]], fail: Fail) -> None:
    """Refuse places (L, 4, 3) that no protein has: infinite, far away, not in ångströms."""
    far = (coords.isinf() | (coords.abs() >= HUGE)).any(-1).any(-1)
    if bool(far.any()):
        i = int(far.nonzero()[0])
        fail(
            f"residue {''.join(keys[i])} lies {coords[i].abs().nan_to_num().max():g} Å from the "
            f"origin; check its coordinates"
        )
    for a, b in ((0, 1), (1, 2), (2, 3)):
        distance = (coords[:, a] - coords[:, b]).norm(dim=-1)
        odd = (distance < NEAREST) | (distance > FARTHEST)
        if bool(odd.any()):
            i = int(odd.nonzero()[0])
            fail(
                f"{BACKBONE[a]} and {BACKBONE[b]} of residue {''.join(keys[i])} are "
                f"{distance[i]:.2f} apart, and a bond has 1.2 to 1.6 Å; check its coordinates, "
                f"and that they are in Å"
            )


def _names(keys: Sequence[tuple[str, str, str]], numbering: str) -> Numbering:
    """Return the names of residues; "index" counts along each chain."""
    chains = tuple(chain for chain, _, _ in keys)
    if numbering != "index":
        return Numbering(chains, tuple(number + code for _, number, code in keys))
    count: dict[str, int] = {}
    numbers = []
    for chain in chains:
        count[chain] = count.get(chain, 0) + 1
        numbers.append(str(count[chain]))
    return Numbering(chains, tuple(numbers))


def _residue_index(coords: Tensor, keys: Sequence[tuple[str, str, str]]) -> Tensor:
    """Return (L,) int64 numbers for relative positions."""
    bonded = _bonded(coords).tolist()
    index = [0]
    for i in range(1, len(keys)):
        (chain, number, _), (before, last, _) = keys[i], keys[i - 1]
        step = int(number) - int(last)
        if chain != before:
            step = JUMP + 1
        elif bonded[i] == 1 or step == 0:
            step = 1
        elif step < 0:
            # a gap of unknown length, where numbers start again
            step = JUMP
        index.append(index[-1] + step)
    return torch.tensor(index, dtype=torch.int64)
