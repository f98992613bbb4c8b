"""Structures: backbones with the names of their residues, read from PDB, mmCIF and BinaryCIF.

A file is read into a flat table of atoms (biopython splits PDB columns and mmCIF tokens), and the
rules below turn the table into residues. They are stated because every one of them is a choice:

- A chain is its amino acids. Waters, ions, ligands and nucleic acids are not part of it. A HETATM
  residue with a peptide backbone is, unless it stands apart: after its chain's last ATOM residue
  and TER, or without a label number in mmCIF.
- Of alternate locations the one with the highest mean backbone occupancy counts, at a tie the
  first letter.
- A modified residue with a known parent (MSE) has the parent's letter. Any other needs a `map` or
  an `ignore` where it stands in a chain to be designed, and is a static "X" in a context chain.
- A residue can be designed if N, CA, C and O are there (`known`). One that lacks some is kept, its
  missing atoms nan; one that lacks all four is as if it were not there. Nothing is rebuilt.

References:
    Berman, Henrick & Nakamura, "Announcing the worldwide Protein Data Bank", Nat. Struct. Biol.
    2003 (the formats). Sehnal et al., "BinaryCIF and CIFTools", PLoS Comput. Biol. 2020.
    Dauparas et al., "Robust deep learning-based protein sequence design using ProteinMPNN",
    Science 2022 (virtual CB, residue numbers across chains).
"""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import as_file, files
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seqalign.files.numbering import Numbering, ResidueError

__all__ = ["Structure", "StructureError", "demo_backbone", "read_structure"]

BACKBONE: Final = ("N", "CA", "C", "O")
LETTERS: Final = "ACDEFGHIKLMNPQRSTVWY"
# Å: a C-N pair further apart is no peptide bond, a CA-CA pair no neighbor
BOND, STRIDE = 2.0, 4.5
# Å: what N-CA, CA-C and C-O can be in a file that means ångströms
NEAREST, FARTHEST = 0.5, 5.0
# Å: no assembly is that large
HUGE = 1e5
# an unpacked file larger than this, or a table with more rows, is refused
BYTES, ROWS = 1 << 30, 50_000_000
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

    Raises:
        StructureError: a field has another shape, or a letter is none.
    """

    name: str
    sequence: str
    coords: Tensor
    numbering: Numbering
    design: Tensor
    residue_index: Tensor
    modified: tuple[tuple[int, str], ...] = ()
    require: tuple[str, ...] = BACKBONE

    def __post_init__(self) -> None:
        """Refuse fields that do not fit each other."""
        length = len(self.sequence)
        shapes = {
            "coords": (self.coords, (length, 4, 3), torch.float32),
            "design": (self.design, (length,), torch.bool),
            "residue_index": (self.residue_index, (length,), torch.int64),
        }
        for field, (value, shape, dtype) in shapes.items():
            if value.shape != shape or value.dtype != dtype:
                raise StructureError(
                    f"{self.name}: {field} must be {dtype} of shape {shape}, got {value.dtype} of "
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

    def __len__(self) -> int:
        """Count the residues (L)."""
        return len(self.sequence)

    def __eq__(self, other: object) -> bool:
        """Compare content; missing atoms are equal to missing atoms."""
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
        """Agree with `==`."""
        return hash(self._key)

    @property
    def _key(self) -> tuple[Any, ...]:
        return self.name, self.sequence, self.numbering, self.modified, self.require

    def __repr__(self) -> str:
        """Return a line that a person can read."""
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

    @property
    def known_numbering(self) -> Numbering:
        """The n names of the known residues."""
        return self.numbering.take(self.known.tolist())

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
        """Return the backbone as PDB text; modified residues keep their names.

        Raises:
            StructureError: a chain name, number, residue name or coordinate does not fit the
                format's columns.
        """
        three = {letter: name for name, letter in _standard().items()}
        modified = dict(self.modified)
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


# atoms of a file ----------------------------------------------------------------------------------

# ends reading with a sentence about the file
_Fail: TypeAlias = Callable[[str], NoReturn]


class _Atom(NamedTuple):
    """One row of a file."""

    model: str
    chain: str
    number: str
    code: str
    residue: str
    hetero: bool
    name: str
    altloc: str
    occupancy: float
    xyz: tuple[float, float, float]
    place: str
    # does the file say that the residue is part of a chain (its TER comes later, it has a label
    # number) or not (mmCIF: no label number)? None: it does not say
    inside: bool | None = None
    label_chain: str = ""
    label: str = ""


class _Recorder:
    """What biopython's PDB parser calls instead of its builder: writes atoms down as they come."""

    def __init__(self, lines: list[tuple[int, str]]) -> None:
        self.lines = lines
        self.atoms: list[tuple[int, _Atom]] = []
        self.row, self.model, self.chain = 0, "0", ""
        self.residue: tuple[str, str, str, bool] = ("", "", "", False)
        self.ends: dict[tuple[str, str], int] = {}

    def set_line_counter(self, row: int) -> None:
        """Note the row, and which chain a TER ends."""
        self.row = row
        if self.lines[row - 1][1].startswith("TER"):
            self.ends[self.model, self.chain] = row

    def init_model(self, index: int, serial: int | None = None) -> None:
        """Begin a model; models count from 1 whatever their serial."""
        self.model = str(index + 1)

    def init_chain(self, chain: str) -> None:
        """Begin a chain."""
        self.chain = chain.strip()

    def init_residue(self, name: str, field: str, number: int, code: str) -> None:
        """Begin a residue."""
        self.residue = (name.upper(), str(number), code.strip(), field != " ")

    def init_atom(
        self,
        name: str,
        coord: npt.NDArray[np.float32],
        b_factor: float,
        occupancy: float | None,
        altloc: str,
        *rest: object,
    ) -> None:
        """Write an atom down."""
        number, line = self.lines[self.row - 1]
        # int() and float() read 1_0 as 10, and biopython takes the first of two words
        if (
            not re.fullmatch("-?[0-9]+", line[22:26].strip())
            or "_" in line[30:54]
            or np.isnan(coord).any()
        ):
            raise ValueError("not a number")
        residue, seq, code, hetero = self.residue
        x, y, z = (float(v) for v in coord)
        atom = _Atom(
            self.model,
            self.chain,
            seq,
            code,
            residue,
            hetero,
            name.strip(),
            altloc.strip(),
            1.0 if occupancy is None else occupancy,
            (x, y, z),
            f"line {number}",
        )
        self.atoms.append((self.row, atom))

    def get_structure(self) -> list[_Atom]:
        """Return the atoms, each with whether its chain's TER is still to come."""
        return [
            atom._replace(inside=True) if row < self.ends.get((atom.model, atom.chain), 0) else atom
            for row, atom in self.atoms
        ]

    def set_header(self, header: object) -> None:
        """Ignore the header."""

    init_structure = init_seg = set_header


def _pdb_atoms(text: str, fail: _Fail) -> list[_Atom]:
    """Read PDB text; END without ENDMDL also ends a model, as trajectory writers have it."""
    from Bio.PDB.PDBExceptions import PDBConstructionException
    from Bio.PDB.PDBParser import PDBParser

    lines: list[tuple[int, str]] = []
    for number, line in enumerate(text.split("\n"), 1):
        record = line[:6].rstrip()
        # the parser stops at CONECT and stumbles over damaged headers and ANISOU: not its business
        if record in ("ATOM", "HETATM"):
            # waters are no part of a chain, and overflow their columns in simulations
            if line[17:21].strip() not in _WATERS:
                lines.append((number, line))
        elif record in ("MODEL", "ENDMDL"):
            lines.append((number, line))
        elif record == "END" or record.split(" ")[0] == "TER":
            lines.append((number, "ENDMDL" if record == "END" else "TER   "))
    if not re.search("(?m)^(ATOM  |HETATM)", text):
        if re.match(r"\s*(#.*\s+)*data_", text):
            fail("is mmCIF, not PDB; name it .cif")
        fail("has no ATOM or HETATM line; it is not a PDB file, or an empty one")
    recorder = _Recorder(lines)
    parser = PDBParser(structure_builder=recorder, QUIET=True)  # type: ignore[no-untyped-call]
    try:
        # what overflows is infinite, and refused later with its residue's name
        with np.errstate(over="ignore"):
            text = "\n".join(line for _, line in lines)
            parser.get_structure("", io.StringIO(text))  # type: ignore[no-untyped-call]
    except (ValueError, IndexError, PDBConstructionException):
        number, line = lines[max(recorder.row, 1) - 1]
        number_column = line[22:26]
        hint = "coordinates belong into columns 31-54, eight each"
        if not re.fullmatch("-?[0-9]+", number_column.strip()):
            hint = f"the residue number in columns 23-26 is {number_column!r}, not a whole number"
            if re.fullmatch("[A-Za-z][0-9A-Za-z]{3}", number_column):
                hint += " (hybrid-36 is not read; bring the mmCIF file)"
        fail(f"line {number} cannot be read, {line[:54]!r}: {hint}")
    return recorder.get_structure()


def _cif_atoms(text: str, fail: _Fail) -> list[_Atom]:
    """Read mmCIF text."""
    from Bio.PDB.MMCIF2Dict import MMCIF2Dict

    blocks = len(re.findall(r"(?m)^\s*_atom_site\.Cartn_x\b", text))
    if blocks == 0:
        if re.search("(?m)^(ATOM  |HETATM)", text) and not re.search("(?m)^_", text):
            fail("is PDB, not mmCIF; name it .pdb")
        fail("has no _atom_site.Cartn_x; it is not an mmCIF file with coordinates")
    if blocks > 1:
        fail(f"has {blocks} tables of atoms; split it into one file per structure")
    try:
        table = MMCIF2Dict(io.StringIO(text))  # type: ignore[no-untyped-call]
    except Exception as error:
        # what it raises on damaged text depends on the damage
        fail(f"cannot be read as mmCIF ({type(error).__name__}: {str(error)[:80]})")
    prefix = "_atom_site."
    columns = {k[len(prefix) :]: v for k, v in table.items() if k.startswith(prefix)}
    return _table_atoms(columns, fail)


def _bcif_atoms(data: bytes, fail: _Fail) -> list[_Atom]:
    """Read BinaryCIF bytes."""
    import msgpack

    # a msgpack map
    if not (0x80 <= data[0] <= 0x8F or data[0] == 0xDE):
        fail("is not BinaryCIF; text with data_ at its head is mmCIF, name it .cif")
    columns: dict[str, list[str]] = {}
    try:
        tree = msgpack.unpackb(data)
        tables = [
            category
            for block in tree["dataBlocks"]
            for category in block["categories"]
            if category["name"].lower() == "_atom_site"
        ]
        for column in tables[0]["columns"] if tables else []:
            columns[column["name"]] = _decoded_column(column)
    except Exception as error:
        # damaged bytes can be anything at all, at any depth
        fail(f"cannot be read as BinaryCIF ({type(error).__name__}: {str(error)[:80]})")
    if len(tables) != 1:
        fail(f"has {len(tables)} tables of atoms; it should have one")
    return _table_atoms(columns, fail)


def _decoded_column(column: dict[str, Any]) -> list[str]:
    """Return the values of a BinaryCIF column as mmCIF would print them."""
    values = _decoded(column["data"]["data"], column["data"]["encoding"])
    text = [str(v) for v in values.tolist()]
    if column.get("mask") is not None:
        mask = _decoded(column["mask"]["data"], column["mask"]["encoding"])
        text = [".?"[m - 1] if m else v for v, m in zip(text, mask.tolist(), strict=True)]
    return text


# BinaryCIF type codes
_TYPES: Final = {1: "i1", 2: "<i2", 3: "<i4", 4: "u1", 5: "<u2", 6: "<u4", 32: "<f4", 33: "<f8"}


def _decoded(data: Any, encodings: list[dict[str, Any]]) -> npt.NDArray[Any]:
    """Undo the encodings of BinaryCIF, the last one first.

    biopython's own decoder ignores masks and has neither label numbers nor author chains.
    """
    for step in reversed(encodings):
        kind = step["kind"]
        if kind == "ByteArray":
            data = np.frombuffer(data, _TYPES[step["type"]])
        elif kind == "FixedPoint":
            data = data / step["factor"]
        elif kind == "IntervalQuantization":
            width = (step["max"] - step["min"]) / (step["numSteps"] - 1)
            data = step["min"] + data * width
        elif kind == "RunLength":
            runs = data.reshape(-1, 2).astype(np.int64)
            if runs[:, 1].min(initial=0) < 0 or runs[:, 1].sum() > ROWS:
                raise ValueError("a run is negative or too long")
            data = np.repeat(runs[:, 0], runs[:, 1])
        elif kind == "Delta":
            data = np.cumsum(data, dtype=np.int64) + step["origin"]
        elif kind == "IntegerPacking":
            # a number at the edge of its type goes on in the next one
            limits = np.iinfo(data.dtype)
            full = (data == limits.max) | (data == limits.min) & (limits.min < 0)
            sums = np.cumsum(data, dtype=np.int64)[~full]
            data = np.diff(sums, prepend=0)
        elif kind == "StringArray":
            offsets = _decoded(step["offsets"], step["offsetEncoding"]).tolist()
            words = [step["stringData"][a:b] for a, b in pairwise(offsets)]
            index = _decoded(data, step["dataEncoding"])
            # -1 stands for a value that is not there
            data = np.array([*words, ""], dtype=object)[index]
        else:
            raise ValueError(f"encoding {kind!r} is unknown")
    if len(data) > ROWS:
        raise ValueError("too many rows")
    return np.asarray(data)


def _table_atoms(columns: Mapping[str, list[str]], fail: _Fail) -> list[_Atom]:
    """Turn the columns of an _atom_site table into atoms."""
    needed = ("group_PDB", "label_atom_id", "label_comp_id", "label_asym_id")
    for key in (*needed, "Cartn_x", "Cartn_y", "Cartn_z"):
        if key not in columns:
            fail(f"has no _atom_site.{key}, which a table of atoms needs")
    rows = len(columns["Cartn_x"])
    for key, values in columns.items():
        if len(values) != rows:
            fail(
                f"has {rows} values of _atom_site.Cartn_x and {len(values)} of _atom_site.{key}; "
                f"the table is cut off or damaged"
            )

    def column(key: str, default: str) -> list[str]:
        return [default if v in (".", "?") else v for v in columns.get(key, [default] * rows)]

    xyz = [columns[f"Cartn_{axis}"] for axis in "xyz"]
    ids, models = column("id", "?"), column("pdbx_PDB_model_num", "1")
    chains, numbers = column("auth_asym_id", ""), column("auth_seq_id", "")
    codes, altlocs = column("pdbx_PDB_ins_code", ""), column("label_alt_id", "")
    occupancies = column("occupancy", "1")
    label_chains, labels = column("label_asym_id", ""), column("label_seq_id", "")
    says = "label_seq_id" in columns
    atoms = []
    for i in range(rows):
        place = f"atom {ids[i]}"
        try:
            x, y, z = (_number_of(values[i]) for values in xyz)
            occupancy = _number_of(occupancies[i])
        except ValueError:
            fail(
                f"{place} has the coordinates {' '.join(values[i] for values in xyz)} and the "
                f"occupancy {occupancies[i]}; they must be numbers. Leave missing atoms out"
            )
        for key, value in (("auth_seq_id", numbers[i]), ("label_seq_id", labels[i])):
            if value and not re.fullmatch("-?[0-9]{1,9}", value):
                fail(f"{place} has the {key} {value!r}, not a whole number")
        inside = None if not says or columns["group_PDB"][i] == "ATOM" else labels[i] != ""
        atoms.append(
            _Atom(
                models[i],
                chains[i],
                str(int(numbers[i])) if numbers[i] else "",
                codes[i],
                columns["label_comp_id"][i].upper(),
                columns["group_PDB"][i] != "ATOM",
                columns["label_atom_id"][i],
                altlocs[i],
                occupancy,
                (x, y, z),
                place,
                inside,
                label_chains[i],
                str(int(labels[i])) if labels[i] else "",
            )
        )
    return atoms


def _number_of(text: str) -> float:
    value = float(text)
    if "_" in text or np.isnan(value):
        raise ValueError(text)
    return value


_WATERS: Final = {"HOH", "WAT", "DOD", "H2O", "SOL", "TIP", "TIP3", "TIP4", "TIP5", "SPC"}
_FORMATS: Final = {
    ".pdb": "pdb", ".ent": "pdb", ".cif": "cif", ".mmcif": "cif", ".bcif": "bcif",
}  # fmt: skip


def _format(file: Path) -> tuple[str, str]:
    """Return the name without extensions, and the format, "" if it is none that is read."""
    base = Path(file.name[:-3] if file.name.lower().endswith(".gz") else file.name)
    kind = _FORMATS.get(base.suffix.lower(), "")
    return base.stem, kind


def _file_atoms(file: Path, fail: _Fail) -> list[_Atom]:
    """Read the atoms of a file of any format."""
    _, kind = _format(file)
    if not kind:
        fail(f"has an unknown extension; give one of {', '.join(_FORMATS)}, perhaps with .gz")
    try:
        data = file.read_bytes()
    except (OSError, ValueError) as error:
        fail(f"cannot be opened ({getattr(error, 'strerror', None) or error})")
    packed = data[:2] == b"\x1f\x8b"
    if packed != file.name.lower().endswith(".gz") and data:
        cure = "is compressed; name it .gz" if packed else "is not compressed; drop the .gz"
        fail(f"{cure}, or check what it is")
    if packed:
        try:
            with gzip.open(io.BytesIO(data)) as stream:
                data = stream.read(BYTES + 1)
        except (OSError, EOFError, zlib.error) as error:
            fail(f"cannot be unpacked ({error}); it is damaged or cut off, fetch it again")
    if len(data) > BYTES:
        fail(f"is larger than {BYTES >> 20} MiB; cut out the chains you need")
    if not data.strip():
        fail("is empty")
    if kind == "bcif":
        return _bcif_atoms(data, fail)
    if b"\0" in data:
        fail("holds binary data, not text; BinaryCIF is named .bcif")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        # an Å or a name in an old remark; every byte is a letter in this encoding
        text = data.decode("latin-1")
    text = re.sub("\r\n?", "\n", text)
    return _pdb_atoms(text, fail) if kind == "pdb" else _cif_atoms(text, fail)


# residues -----------------------------------------------------------------------------------------


# protonation states as force fields name them; biopython's table is the PDB's dictionary
_PROTONATED: Final = {
    "HID": "H", "HIE": "H", "HSD": "H", "HSP": "H", "CYX": "C", "ASH": "D",
}  # fmt: skip
# names with one meaning in the PDB's dictionary and another in force fields: an atom decides
_TWO_MEANINGS: Final = {"HSE": {"OG": "S", "ND1": "H"}, "GLH": {"OE2": "E", "NE2": "Q"}}
# other names of the oxygen at a chain's end
_OXYGENS: Final = ("O", "OT1", "OC1", "O1")


def _standard() -> dict[str, str]:
    from Bio.Data.PDBData import protein_letters_3to1

    return dict(protein_letters_3to1)


def _parents() -> dict[str, str]:
    """Residue name -> letter for all that have one."""
    from Bio.Data.PDBData import protein_letters_3to1_extended

    table = {k.strip(): v for k, v in protein_letters_3to1_extended.items() if v in LETTERS}
    table = {k: v for k, v in table.items() if k not in _TWO_MEANINGS}
    return {**table, **_PROTONATED}


# one amino acid, with all its locations: (chain, number, code) and its atoms
_Residue: TypeAlias = tuple[tuple[str, str, str], list[_Atom]]


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
    name, kind = _format(file)
    if numbering == "label" and kind == "pdb":
        fail("has author numbers only, as every PDB file; use author or index, or bring the mmCIF")
    atoms = _file_atoms(file, fail)
    models = list(dict.fromkeys(a.model for a in atoms))
    if not 1 <= model <= len(models):
        fail(f"has {len(models)} model{'s' * (len(models) > 1)}; there is no model {model}")
    atoms = [a for a in atoms if a.model == models[model - 1]]
    if numbering == "label":
        # what is no polymer has no label number
        atoms = [a._replace(chain=a.label_chain, number=a.label, code="") for a in atoms if a.label]
    table = _parents() | {k.upper(): v for k, v in (map or {}).items()}
    dropped = {residue.upper() for residue in ignore}
    residues = _amino_acids([a for a in atoms if a.residue not in dropped], table, fail)
    designed, wanted = _choose(residues, chains, context, fail)
    chosen = [r for r in residues if r[0][0] in wanted]

    standard = _standard()
    rows, letters, modified = [], [], []
    unknown: dict[str, str] = {}
    for i, (key, all_atoms) in enumerate(chosen):
        residue, place = _conformer(all_atoms)
        letter = table.get(residue) or next(
            (v for atom, v in _TWO_MEANINGS.get(residue, {}).items() if atom in place), "X"
        )
        if letter == "X" and key[0] in designed and residue not in table:
            unknown.setdefault(residue, f"{key[0]}{key[1]}{key[2]}")
        if standard.get(residue) != letter:
            modified.append((i, residue))
        oxygen = next((place[o] for o in _OXYGENS if o in place), _NOWHERE)
        rows.append([*(place.get(a, _NOWHERE) for a in BACKBONE[:3]), oxygen])
        letters.append(letter)
    if unknown:
        which = ", ".join(f"{residue!r} ({at})" for residue, at in list(unknown.items())[:5])
        first = next(iter(unknown))
        fail(
            f"has residues without a standard letter in the chains to be designed: {which}. Say "
            f"map={{{first!r}: 'A'}} to read one as a letter, 'X' to keep it as fixed context, or "
            f"ignore=[{first!r}] to leave it out"
        )
    coords = torch.tensor(rows, dtype=torch.float64)
    keys = [key for key, _ in chosen]
    _check_places(coords, keys, fail)
    coords = coords.float()
    try:
        names = _names(keys, numbering)
    except ResidueError as error:
        fail(str(error).rstrip("."))
    structure = Structure(
        name=name,
        sequence="".join(letters),
        coords=coords,
        numbering=names,
        design=torch.tensor([key[0] in designed for key in keys]),
        residue_index=_residue_index(coords, keys),
        modified=tuple(modified),
        require=needs,
    )
    if not structure.design[structure.known].any():
        finite = coords.isfinite().all(-1).any(0).tolist()
        have = ", ".join(a for a, there in zip(BACKBONE, finite, strict=True) if there)
        fail(
            f"has no residue to be designed with a letter and all of {', '.join(needs)}; of these "
            f"atoms it has {have}. A network that needs fewer reads it with require, as ('CA',)"
        )
    return structure


_NOWHERE: Final = (float("nan"),) * 3


def _amino_acids(atoms: Sequence[_Atom], table: Mapping[str, str], fail: _Fail) -> list[_Residue]:
    """Return the residues of the chains, chain after chain, in file order."""
    groups: dict[tuple[str, str, str, str], list[_Atom]] = {}
    for atom in atoms:
        groups.setdefault((atom.chain, atom.number, atom.code, atom.residue), []).append(atom)
    by_chain: dict[str, list[list[_Atom]]] = {}
    for (chain, _, _, residue), group in groups.items():
        names = {a.name for a in group}
        named = residue in table or residue in _TWO_MEANINGS
        if names >= {"N", "CA", "C"} or (
            "CA" in names
            if named and group[0].hetero
            else names & set(BACKBONE)
            if named
            else residue == "UNK" and "CA" in names
        ):
            by_chain.setdefault(chain, []).append(group)
    residues: dict[tuple[str, str, str], list[_Atom]] = {}
    for chain, members in by_chain.items():
        last = max((i for i, group in enumerate(members) if not group[0].hetero), default=-1)
        before: list[_Atom] = []
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


def _peptide(first: Sequence[_Atom], second: Sequence[_Atom]) -> bool:
    """Whether a C of the first residue is bonded to an N of the second."""
    carbons = [np.array(a.xyz) for a in first if a.name == "C"]
    nitrogens = [np.array(a.xyz) for a in second if a.name == "N"]
    return any(bool(np.linalg.norm(c - n) <= BOND) for c in carbons for n in nitrogens)


def _check_copies(name: str, atoms: Sequence[_Atom], fail: _Fail) -> None:
    """Refuse a residue that is there twice; alternate locations are not."""
    seen: dict[tuple[str, str], _Atom] = {}
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


def _choose(
    residues: Sequence[_Residue],
    chains: str | Sequence[str] | None,
    context: str | Sequence[str] | None,
    fail: _Fail,
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


def _conformer(atoms: Sequence[_Atom]) -> tuple[str, dict[str, tuple[float, float, float]]]:
    """Return the residue name and the places of the atoms of the location that counts."""

    def occupancy(some: Sequence[_Atom]) -> float:
        values = [a.occupancy if np.isfinite(a.occupancy) else 0.0 for a in some]
        return sum(values) / len(values)

    backbone = [a for a in atoms if a.name in (*BACKBONE, *_OXYGENS)]
    letters = sorted({a.altloc for a in backbone if a.altloc})
    shares = {x: occupancy([a for a in backbone if a.altloc == x]) for x in letters}
    best = max(letters, key=lambda x: shares[x], default="")
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


def _check_places(coords: Tensor, keys: Sequence[tuple[str, str, str]], fail: _Fail) -> None:
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
