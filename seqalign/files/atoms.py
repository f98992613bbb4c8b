"""Atoms: a PDB, mmCIF or BinaryCIF file as a flat table of atoms, in file order.

Biopython splits mmCIF tokens; PDB columns and BinaryCIF are read here. Waters of PDB files are left
out. What is damaged is refused, with its line or atom.

References:
    Berman, Henrick & Nakamura, "Announcing the worldwide Protein Data Bank", Nat. Struct. Biol.
    2003 (the formats). Sehnal et al., "BinaryCIF and CIFTools", PLoS Comput. Biol. 2020.
"""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt

from seqalign.files.elements import element_of

__all__ = ["WATERS", "Atom", "Contents", "Fail", "format_of", "read_atoms"]

# an unpacked file larger than this, or a table with more rows, is refused
BYTES: Final = 1 << 30
ROWS: Final = 50_000_000

# ends reading with a sentence about the file
Fail: TypeAlias = Callable[[str], NoReturn]


class Atom(NamedTuple):
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
    # atomic number; 0 where nothing tells
    element: int = 0


class Contents(NamedTuple):
    """What a file holds: its atoms, and the residue names of each whole polymer.

    Polymers (SEQRES, _entity_poly_seq) are by author chain in PDB files, by label chain elsewhere.
    """

    atoms: list[Atom]
    polymers: dict[str, list[str]]


def _seqres(text: str) -> dict[str, list[str]]:
    """Return the residue names of each chain in the SEQRES lines of a PDB file."""
    found: dict[str, list[str]] = {}
    for line in re.findall("(?m)^SEQRES.*$", text):
        found.setdefault(line[11:12].strip(), []).extend(line[19:70].upper().split())
    return found


def _polymers(tables: Mapping[str, Mapping[str, list[str]]]) -> dict[str, list[str]]:
    """Return the residue names of each label chain from the tables of an mmCIF file."""
    poly, asym = tables.get("_entity_poly_seq", {}), tables.get("_struct_asym", {})
    entities: dict[str, dict[str, str]] = {}
    columns = (poly.get(key, []) for key in ("entity_id", "num", "mon_id"))
    for entity, num, residue in zip(*columns, strict=False):
        # of a mixture at one place the first counts
        entities.setdefault(entity, {}).setdefault(num, residue.upper())
    chains = zip(asym.get("id", []), asym.get("entity_id", []), strict=False)
    return {
        chain: list(entities[entity].values()) for chain, entity in chains if entity in entities
    }


def _pdb_atoms(text: str, fail: Fail) -> list[Atom]:
    """Read PDB text; END without ENDMDL also ends a model, as trajectory writers have it."""
    if not re.search("(?m)^(ATOM  |HETATM)", text):
        if re.match(r"\s*(#.*\s+)*data_", text):
            fail("is mmCIF, not PDB; name it .cif")
        fail("has no ATOM or HETATM line; it is not a PDB file, or an empty one")
    atoms: list[Atom] = []
    # models count from 1 whatever their serial
    model, is_open, chain = 0, False, ""
    # models that no MODEL line began, as END stood before them: the line
    implied: dict[str, int] = {}
    # how many atoms there were at the last TER of a model's chain
    ends: dict[tuple[str, str], int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        record = line[:6].rstrip()
        if record.split(" ")[0] == "TER":
            ends[str(model), chain] = len(atoms)
        elif record in ("END", "ENDMDL"):
            is_open = False
        elif line.startswith("MODEL "):
            model, is_open = model + 1, True
        # waters are no part of a chain, and overflow their columns in simulations
        elif line[:6] in ("ATOM  ", "HETATM") and line[17:21].strip() not in WATERS:
            if not is_open:
                model, is_open = model + 1, True
                implied[str(model)] = number
            field, numbered = line[22:26], re.fullmatch("-?[0-9]+", line[22:26].strip())
            try:
                # float() reads 1_0 as 10
                if not numbered or "_" in line[30:54]:
                    raise ValueError
                # what overflows is infinite, and refused later with its residue's name
                with np.errstate(over="ignore"):
                    xyz = np.array([float(line[i : i + 8]) for i in (30, 38, 46)], np.float32)
                if np.isnan(xyz).any():
                    raise ValueError
            except ValueError:
                hint = "coordinates belong into columns 31-54, eight each"
                if not numbered:
                    hint = f"the residue number in columns 23-26 is {field!r}, not a whole number"
                    if re.fullmatch("[A-Za-z][0-9A-Za-z]{3}", field):
                        hint += " (hybrid-36 is not read; bring the mmCIF file)"
                fail(f"line {number} cannot be read, {line[:54]!r}: {hint}")
            try:
                occupancy = float(line[54:60])
            except ValueError:
                occupancy = 1.0
            chain = line[21].strip()
            atoms.append(
                Atom(
                    str(model),
                    chain,
                    str(int(field.strip())),
                    line[26].strip(),
                    line[17:20].strip().upper(),
                    record == "HETATM",
                    line[12:16].strip(),
                    line[16].strip(),
                    occupancy,
                    tuple(xyz.tolist()),
                    f"line {number}",
                    element=element_of(line[76:78], line[12:16], line[17:20].strip()),
                )
            )
    _check_implied(atoms, implied, fail)
    # a chain's TER is still to come
    return [
        atom._replace(inside=True) if i < ends.get((atom.model, atom.chain), 0) else atom
        for i, atom in enumerate(atoms)
    ]


def _check_implied(atoms: Sequence[Atom], implied: Mapping[str, int], fail: Fail) -> None:
    """Refuse a file where END stands before atoms that the first model lacks, and would lose."""
    first: set[tuple[str, ...]] = set()
    for atom in atoms:
        key = (atom.chain, atom.number, atom.code, atom.residue, atom.name, atom.altloc)
        if atom.model == atoms[0].model:
            first.add(key)
        elif atom.model in implied and key not in first:
            fail(
                f"END stands before line {implied[atom.model]}, and yet other atoms follow "
                f"({atom.residue} {atom.chain}{atom.number}{atom.code}, {atom.place}), which would "
                f"be another model. Remove that END, or write MODEL and ENDMDL"
            )


_TABLES: Final = ("_atom_site", "_entity_poly_seq", "_struct_asym")


def _cif_atoms(text: str, fail: Fail) -> Contents:
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
    columns: dict[str, dict[str, list[str]]] = {name: {} for name in _TABLES}
    for key, values in table.items():
        name, _, column = key.partition(".")
        if name in columns:
            columns[name][column] = values
    return Contents(_table_atoms(columns["_atom_site"], fail), _polymers(columns))


def _bcif_atoms(data: bytes, fail: Fail) -> Contents:
    import msgpack

    # a msgpack map
    if not (0x80 <= data[0] <= 0x8F or data[0] == 0xDE):
        fail("is not BinaryCIF; text with data_ at its head is mmCIF, name it .cif")
    columns: dict[str, dict[str, list[str]]] = {name: {} for name in _TABLES}
    count = 0
    try:
        for category in (c for b in msgpack.unpackb(data)["dataBlocks"] for c in b["categories"]):
            name = category["name"].lower()
            count += name == "_atom_site"
            if name in columns and not columns[name]:
                columns[name] = {c["name"]: _decoded_column(c) for c in category["columns"]}
    except Exception as error:
        # damaged bytes can be anything at all, at any depth
        fail(f"cannot be read as BinaryCIF ({type(error).__name__}: {str(error)[:80]})")
    if count != 1:
        fail(f"has {count} tables of atoms; it should have one")
    return Contents(_table_atoms(columns["_atom_site"], fail), _polymers(columns))


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


def _table_atoms(columns: Mapping[str, list[str]], fail: Fail) -> list[Atom]:
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
    symbols = column("type_symbol", "")
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
            Atom(
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
                element_of(symbols[i], columns["label_atom_id"][i], columns["label_comp_id"][i]),
            )
        )
    return atoms


def _number_of(text: str) -> float:
    value = float(text)
    if "_" in text or np.isnan(value):
        raise ValueError(text)
    return value


WATERS: Final = {"HOH", "WAT", "DOD", "H2O", "SOL", "TIP", "TIP3", "TIP4", "TIP5", "SPC"}

_FORMATS: Final = {".pdb": "pdb", ".ent": "pdb", ".cif": "cif", ".mmcif": "cif", ".bcif": "bcif"}


def format_of(file: Path) -> tuple[str, str]:
    """Return the name without extensions, and the format, "" if it is none that is read."""
    base = Path(file.name[:-3] if file.name.lower().endswith(".gz") else file.name)
    kind = _FORMATS.get(base.suffix.lower(), "")
    return base.stem, kind


def read_atoms(file: Path, fail: Fail) -> Contents:
    """Read a file of any format."""
    _, kind = format_of(file)
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
    return (
        Contents(_pdb_atoms(text, fail), _seqres(text)) if kind == "pdb" else _cif_atoms(text, fail)
    )
