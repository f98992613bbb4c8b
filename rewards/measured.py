"""Measured variants: a table with a column of numbers, read against the wild types it is about.

A table is about one protein, given by a structure or its letters, or about many, whose backbones
lie in files with a JSON object per line. Rows that do not fit are skipped, with the cause.
"""

from __future__ import annotations

import gzip
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from seqalign.core.sequence import PROTEIN
from seqalign.files.candidates import Candidate, tabulated
from seqalign.files.numbering import Numbering
from seqalign.files.structure import Structure
from seqalign.files.tables import Table, column_key
from seqalign.files.variants import NotAVariant, VariantError, Variants, WrongWildType

__all__ = ["Measured", "Row", "read_backbones", "read_measured"]

Homes = Mapping[str, Sequence[Structure]] | Structure | str
"""The chains of each protein; or the structure or the wild type of the only one, "" for none."""

_PROTEINS: Final = ("protein", "pdb", "pdbid", "structure", "target", "domain", "wtname", "namewt")
_VALUES: Final = re.compile(r"ddg.*|dg|deltag|score.*|fitness.*|measured.*|activity|value|y")
_DECIMAL_COMMA: Final = re.compile(r"[-+]?\d+,\d+")


@dataclass(frozen=True)
class Row:
    """A measured variant.

    Attributes:
        protein: its name; "" where the table is about one.
        sequence: L letters.
        changes: how many differ from the wild type; -1 without one.
        measured: higher is better.
    """

    protein: str
    sequence: str
    changes: int
    measured: float


@dataclass(frozen=True)
class Measured:
    """What a table holds.

    Attributes:
        column: what was measured.
        rows: the variants, without the wild type.
        homes: the structure of each protein; None where there is none.
        wild: the wild type of each protein; "" where none is known.
        skipped: (place, cause) of the rows that could not be read.
        notes: on how the table was read, in sentences.
    """

    column: str
    rows: tuple[Row, ...]
    homes: Mapping[str, Structure | None]
    wild: Mapping[str, str]
    skipped: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    @cached_property
    def values(self) -> NDArray[np.float64]:
        """The measured values (n,), higher is better."""
        return np.array([row.measured for row in self.rows])

    @cached_property
    def proteins(self) -> NDArray[np.str_]:
        """The protein of each row (n,)."""
        return np.array([row.protein for row in self.rows], dtype=np.str_)

    @cached_property
    def changes(self) -> NDArray[np.int64]:
        """The substitutions of each row (n,)."""
        return np.array([row.changes for row in self.rows], dtype=np.int64)


def read_backbones(paths: Iterable[Path]) -> dict[str, list[Structure]]:
    """Return the chains of each protein in files of backbones, a JSON object per line.

    The keys are `pdb` or `name`, `seq`, `coords` (N, CA, C and O, each L times x, y, z in Å),
    `chain` and `author` (L numbers); without the last two, chain "A" and 1..L.

    Raises:
        ValueError: a line is none; the message names file and line.
    """
    found: dict[str, list[Structure]] = defaultdict(list)
    for path in paths:
        for number, line in enumerate(_lines(path), 1):
            try:
                record = json.loads(line)
                name = str(record.get("pdb") or record["name"])
                sequence = str(record["seq"])
                chain = str(record.get("chain", "A"))
                numbers = record.get("author") or range(1, len(sequence) + 1)
                atoms = [np.array(record["coords"][a], dtype=float) for a in ("N", "CA", "C", "O")]
                numbering = Numbering((chain,) * len(sequence), tuple(map(str, numbers)))
                coords = torch.from_numpy(np.stack(atoms, axis=1))
                found[name].append(Structure.of(name, sequence, coords, numbering))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"{path}, line {number}: is no backbone ({type(error).__name__}: {error}). "
                    f"Give JSON with pdb, chain, author, seq and coords of N, CA, C and O."
                ) from error
    return dict(found)


def _lines(path: Path) -> Iterator[str]:
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file. Give backbones as .jsonl or .jsonl.gz.")
    opened = gzip.open(path, "rt") if path.suffix == ".gz" else path.open()
    with opened as file:
        yield from (line for line in file if line.strip())


def read_measured(
    path: Path,
    homes: Homes,
    *,
    column: str | None = None,
    protein: str | None = None,
    lower_is_better: bool = False,
    offset: int = 0,
    zero: float = 0.0,
) -> Measured:
    """Return the measured variants of a table.

    Args:
        path: CSV or TSV, gzipped or not.
        homes: the chains of each protein; or the structure or the wild type of the only one, ""
            where there is none and the table holds whole sequences.
        column: what was measured; by default the only column that sounds like it.
        protein: the column that names the protein; by default the only one that sounds like it.
        lower_is_better: whether the measured value is to be turned round.
        offset: what is added to the numbers of residues in the table.
        zero: the measured value of the wild type.

    Raises:
        ValueError: the table cannot be read, or no row of it; the message says why.
    """
    found, table = tabulated(path)
    at = _measured_column(path, table, column)
    whose = _protein_column(path, table, protein, homes)
    reader = _Reader(homes, offset)
    rows, wild_rows, skipped = list[Row](), list[Row](), list[tuple[str, str]]()
    astray: dict[str, list[str]] = defaultdict(list)
    for given, cells in zip(found, (row.cells for row in table.rows), strict=True):
        name = cells[whose] if whose is not None and cells else ""
        try:
            if given.refused:
                raise VariantError(given.refused)
            value = _number(cells[at], table.columns[at])
            home, sequence = reader.read(name, given)
        except VariantError as error:
            if isinstance(error, WrongWildType):
                astray[name] += [c.text for c in given.claims if c.kind == "variant"]
            cause = str(error).removeprefix(given.place).lstrip(" :").rstrip(".")
            skipped.append((given.place, cause))
            continue
        wild = reader.wild(home)
        changes = sum(a != b for a, b in zip(sequence, wild, strict=True)) if wild else -1
        measured = (zero - value) if lower_is_better else (value - zero)
        (rows if changes else wild_rows).append(Row(home, sequence, changes, measured))
    _said_astray(path, reader, astray, found)
    if not rows:
        causes = [f"{place}: {cause}." for place, cause in skipped[:3]]
        raise ValueError(
            f"{path}: none of its {len(found):,} rows can be judged.\n{causes}".strip()
        )
    notes = [f"{note}." for note in table.notes]
    if wild_rows:
        mean = float(np.mean([row.measured for row in wild_rows]))
        rows_hold = "1 row holds" if len(wild_rows) == 1 else f"{len(wild_rows):,} rows hold"
        notes.append(
            f"{rows_hold} the wild type and no variant; left out, at {mean:+.3f} on average where "
            f"the wild type should be 0 (--zero VALUE)."
        )
    return Measured(
        table.columns[at],
        tuple(rows),
        reader.homes,
        {home: reader.wild(home) for home in reader.homes},
        tuple(skipped),
        tuple(notes),
    )


def _said_astray(
    path: Path, reader: _Reader, astray: Mapping[str, list[str]], found: Sequence[Candidate]
) -> None:
    """Raise if another offset of the numbers fits every variant of a table of one protein."""
    if set(astray) != {""}:
        return
    texts = [c.text for given in found for c in given.claims if c.kind == "variant"]
    (variants,) = reader.variants("")
    better = variants.offset(texts)
    if better is not None and better.fitting == better.variants:
        raise ValueError(
            f"{path}: {better}; say --offset {reader.offset + better.by}. (The first that does not "
            f"fit as it is: {astray[''][0]}.)"
        )


class _Reader:
    """Reads the claims of rows against the wild types of proteins."""

    def __init__(self, homes: Homes, offset: int) -> None:
        self.offset = offset
        self.homes: dict[str, Structure | None] = {}
        self._given = homes
        self._read: dict[str, list[tuple[str, Variants]]] = {}
        self._wild: dict[str, str] = {}

    def wild(self, home: str) -> str:
        """Return the wild type of a home that `read` returned."""
        return self._wild[home]

    def variants(self, protein: str) -> list[Variants]:
        """Return what reads the variants of a protein, one per chain."""
        return [v for _, v in self._of(protein)]

    def _of(self, protein: str) -> list[tuple[str, Variants]]:
        if protein not in self._read:
            self._read[protein] = list(self._made(protein))
        return self._read[protein]

    def _made(self, protein: str) -> Iterator[tuple[str, Variants]]:
        if isinstance(self._given, str):
            plain = Numbering.plain(len(self._given))
            yield self._home("", None, self._given, plain)
            return
        if isinstance(self._given, Structure):
            one = self._given
            yield self._home("", one, one.wild_type, one.known_numbering)
            return
        chains = self._given.get(protein, ())
        if not chains:
            known = f"the file has {len(self._given):,}, {next(iter(self._given), '')} first"
            raise VariantError(f"there is no backbone of {protein!r}; {known}")
        for one in chains:
            name = protein if len(chains) == 1 else f"{protein}:{one.numbering.chains[0]}"
            yield self._home(name, one, one.wild_type, one.known_numbering)

    def _home(
        self, name: str, structure: Structure | None, wild: str, numbering: Numbering
    ) -> tuple[str, Variants]:
        self._wild[name] = wild
        shifted = tuple(_shifted(n, -self.offset) for n in numbering.numbers)
        names = Numbering(numbering.chains, shifted)
        return name, Variants(names, wild, tuple(range(len(wild))))

    def read(self, protein: str, given: Candidate) -> tuple[str, str]:
        """Return the home of a row and its letters.

        Raises:
            VariantError: the row does not fit, or says two things.
        """
        errors: list[VariantError] = []
        for name, variants in self._of(protein):
            try:
                sequence = _agreed(given, variants)
            except VariantError as error:
                errors.append(error)
                continue
            if name not in self.homes:
                self.homes[name] = self._structure(protein, name)
            return name, sequence
        # what comes closest: a chain that is there has the row's own numbers
        raise next((e for e in errors if not isinstance(e, NotAVariant)), errors[0])

    def _structure(self, protein: str, name: str) -> Structure | None:
        if isinstance(self._given, str):
            return None
        if isinstance(self._given, Structure):
            return self._given
        chains = self._given[protein]
        return chains[[n for n, _ in self._of(protein)].index(name)]


def _shifted(number: str, by: int) -> str:
    digits = re.sub("[A-Za-z]$", "", number)
    return f"{int(digits) + by}{number[len(digits) :]}"


def _agreed(given: Candidate, variants: Variants) -> str:
    """Return the letters that a row's sequence and variants name, which must be the same."""
    read: list[tuple[str, str]] = []
    unread: list[NotAVariant] = []
    for claim in given.claims:
        try:
            if claim.kind == "sequence":
                read.append((claim.column, _whole(claim.text.replace("/", ""), variants)))
            elif not variants.wild_type:
                raise NotAVariant(
                    f"{claim.text[:40]!r} needs a wild type: give --structure, --backbones or "
                    f"--wild-type"
                )
            else:
                read.append((claim.column, variants.letters(claim.text)))
        except NotAVariant as error:
            unread.append(error)
    if not read:
        raise unread[0]
    (first, letters), *others = read
    for column, text in others:
        if text != letters:
            raise VariantError(f"{first!r} and {column!r} disagree; correct one, or empty it")
    return letters


def _whole(text: str, variants: Variants) -> str:
    size = len(variants.wild_type)
    if size and len(text) != size:
        raise VariantError(
            f"the sequence has {len(text)} letters and the wild type {size}; insertions and "
            f"deletions cannot be judged"
        )
    odd = sorted(set(text) - set(PROTEIN.letters))
    if odd:
        raise VariantError(f"the sequence holds {odd[0]!r}; allowed are {PROTEIN.letters}")
    return text


def _number(cell: str, column: str) -> float:
    text = cell.replace(",", ".") if _DECIMAL_COMMA.fullmatch(cell) else cell
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        what = f"is {cell[:40]!r}" if cell else "is empty"
        raise VariantError(f"{column!r} {what}, which is no number; fill it in, or remove the row")
    return value


def _is_number(cell: str) -> bool:
    try:
        _number(cell, "")
    except VariantError:
        return False
    return True


def _named(path: Path, table: Table, name: str, option: str) -> int:
    keys = [column_key(c) for c in table.columns]
    if name in table.columns:
        return table.columns.index(name)
    if column_key(name) in keys:
        return keys.index(column_key(name))
    known = ", ".join(map(repr, table.columns))
    raise ValueError(f"{path}: there is no column {name!r} ({option}); the columns are {known}.")


def _measured_column(path: Path, table: Table, name: str | None) -> int:
    if name is not None:
        return _named(path, table, name, "--measured")
    judged = [row.cells for row in table.rows if row.cells][:200]
    numeric = [
        i for i in range(len(table.columns)) if any(_is_number(cells[i]) for cells in judged)
    ]
    found = [i for i in numeric if _VALUES.fullmatch(column_key(table.columns[i]))]
    if len(found) == 1:
        return found[0]
    some = ", ".join(repr(table.columns[i]) for i in found or numeric) or "none"
    raise ValueError(
        f"{path}: say which column was measured, --measured COLUMN; columns of numbers: {some}."
    )


def _protein_column(
    path: Path,
    table: Table,
    name: str | None,
    homes: Homes,
) -> int | None:
    if isinstance(homes, (Structure, str)):
        return None
    if name is not None:
        return _named(path, table, name, "--protein")
    found = [i for i, c in enumerate(table.columns) if column_key(c) in _PROTEINS]
    if len(found) == 1:
        return found[0]
    known = ", ".join(map(repr, table.columns))
    raise ValueError(
        f"{path}: say which column names the protein, --protein COLUMN; the columns are {known}."
    )
