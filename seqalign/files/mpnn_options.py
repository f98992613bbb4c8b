"""ProteinMPNN's option files (jsonl) as keys of a campaign, on author numbers.

The files count residues as ProteinMPNN does (`mpnn_numbering`).
Two things differ on purpose. An entry for a gap is left out, as ProteinMPNN leaves it without
effect; but a tied group that contains a gap loses that member only, where ProteinMPNN gives up the
whole group. And a file is checked: what ProteinMPNN overwrites or skips in silence is an error.

References:
    Dauparas et al., "Robust deep learning-based protein sequence design using ProteinMPNN",
    Science 2022, doi 10.1126/science.add2187; file formats as in its repository's helper scripts.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from seqalign.core.sequence import PROTEIN
from seqalign.files.mpnn_numbering import indices
from seqalign.files.numbering import Numbering
from seqalign.files.text import read_text

__all__ = ["import_options"]

LETTERS = PROTEIN.letters + "X"
_OPTIONS = "chain_id fixed_positions tied_positions omit_AA bias_AA bias_by_res omit_AAs".split()


@dataclass(frozen=True)
class _Place:
    """Where a value stands, for messages."""

    file: str
    line: int
    keys: tuple[str, ...] = ()

    def __truediv__(self, key: object) -> _Place:
        return _Place(self.file, self.line, (*self.keys, str(key)))

    def error(self, text: str) -> ValueError:
        keys = f"{'.'.join(k if len(k) <= 40 else k[:37] + '...' for k in self.keys)}: "
        return ValueError(f"{self.file}:{self.line}: {keys if self.keys else ''}{text}")


T = TypeVar("T")
_Table = dict[str, tuple[Any, _Place]]


def import_options(
    files: Mapping[str, str | Path],
    name: str,
    numbering: Numbering,
    known: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Return the campaign keys that say what ProteinMPNN's option files say.

    Args:
        files: option -> file. Options are those of protein_mpnn_run.py, with or without `_jsonl`:
            chain_id, fixed_positions, tied_positions, omit_AA, bias_AA, bias_by_res; and omit_AAs,
            whose value is the letters themselves.
        name: the structure's name in the files (ProteinMPNN: the file name without .pdb).
        numbering: author numbers of all residues of the structure.
        known: 0-based positions that can be designed, all if None; entries for others are left
            out.

    Returns:
        Those of `fix` (an expression, to be added to the user's own), `tie` (groups of residues),
        `omit` (letters) and `residues` ({expression: {omit: letters, bias: {letter: number}}}, no
        position in two of them) that are not empty. Biases are added to the logits before they are
        divided by the temperature, as in ProteinMPNN.

    Raises:
        ValueError: a sentence with file, line and key for whatever cannot be read, is not there or
            is not supported (PSSMs, weighted ties).
    """
    given: dict[str, str | Path] = {}
    for key, value in files.items():
        option = key.removesuffix("_jsonl")
        if option not in (*_OPTIONS, "pssm"):
            near = difflib.get_close_matches(option, _OPTIONS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"{key!r} is no option file of ProteinMPNN; there are {', '.join(_OPTIONS)}.{hint}"
            )
        if option in given:
            raise ValueError(f"{option} is given twice, as {option} and {option}_jsonl; keep one.")
        given[option] = value
    if "pssm" in given:
        raise ValueError(
            f"{given['pssm']}: position-specific scoring matrices are not supported. Turn their "
            "log-odds into a bias_by_res file, which is."
        )
    known = range(len(numbering)) if known is None else known
    reader = _Options(name, numbering, indices(numbering), tuple(i + 1 for i in known))
    omitted = _letters(given.pop("omit_AAs", ""), _Place("omit_AAs", 1))
    tables = {option: _read(Path(value)) for option, value in given.items()}
    return reader.keys(tables, omitted)


def _read(path: Path) -> _Table:
    """Return what a jsonl file holds, by its outermost keys, with the line of each."""
    table: _Table = {}
    for n, line in enumerate(read_text(path, "give a jsonl file").split("\n"), 1):
        place = _Place(str(path), n)
        if not line.strip():
            continue
        try:
            data = json.loads(line, object_pairs_hook=_unique)
        except RecursionError as error:
            raise place.error("nested too deeply to be an option file.") from error
        except json.JSONDecodeError as error:
            raise place.error(
                f"not JSON ({error.msg}, column {error.colno}). Every line is one whole dictionary."
            ) from error
        except ValueError as error:
            raise place.error(f"{error}.") from error
        if not isinstance(data, dict):
            raise place.error("every line is one dictionary, {...}.")
        for key, value in data.items():
            if key in table:
                raise (place / key).error(f"stands in line {table[key][1].line} too; keep one.")
            table[key] = value, place / key
    if not table:
        raise ValueError(f"{path} is empty.")
    return table


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key that stands twice, of which JSON readers keep the last in silence."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} stands twice; keep one")
        found[key] = value
    return found


def _letters(value: Any, place: _Place) -> str:
    """Return amino acids in the order of the alphabet; X, which is never designed, is left out."""
    if not isinstance(value, str) or set(value) - set(LETTERS):
        raise place.error(f"must be letters of {LETTERS}, got {_shown(value)}.")
    return "".join(a for a in PROTEIN.letters if a in value)


def _number(value: Any, place: _Place) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise place.error(f"must be a number, got {_shown(value)}.")
    # an integer may be too large for a float
    if not abs(value) <= sys.float_info.max:
        raise place.error(f"must be a finite number, got {_shown(value)}.")
    return float(value)


def _is(kind: type[T], value: Any, place: _Place) -> T:
    if not isinstance(value, kind):
        what = "dictionary" if kind is dict else "list"
        raise place.error(f"must be a {what}, got {_shown(value)}.")
    return value


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except (RecursionError, ValueError):
        return f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


@dataclass(frozen=True)
class _Options:
    """The translation for one structure."""

    name: str
    numbering: Numbering
    indices: Mapping[str, list[int | None]]
    designable: tuple[int, ...]

    def keys(self, tables: Mapping[str, _Table], omitted: str) -> dict[str, Any]:
        """Return the campaign keys."""
        frozen = self._frozen_chains(tables.get("chain_id"))
        fixed = self._fixed(tables.get("fixed_positions"))
        fixed |= {i for i in self.designable if self.numbering.chains[i - 1] in frozen}
        omit = self._omit(tables.get("omit_AA"))
        bias = self._bias(tables.get("bias_AA"), tables.get("bias_by_res"))
        said = {
            i: (omit.get(i, ""), bias.get(i, {}))
            for i in self.designable
            if i not in fixed and (i in omit or i in bias)
        }
        found = {
            "fix": ", ".join(self._runs(sorted(fixed))),
            "tie": self._tied(tables.get("tied_positions")),
            "omit": omitted,
            "residues": self._grouped(said),
        }
        return {key: value for key, value in found.items() if value}

    def _own(self, table: _Table | None) -> tuple[Any, _Place] | None:
        """Return what a file says of this structure."""
        if table is None:
            return None
        if self.name not in table:
            place = next(iter(table.values()))[1]
            near = difflib.get_close_matches(self.name, table, n=1, cutoff=0.0)
            raise ValueError(
                f"{place.file} says nothing of the structure {self.name!r}; it speaks of "
                f"{', '.join(map(repr, list(table)[:6]))}{', ...' if len(table) > 6 else ''}. "
                f"Rename the key {near[0]!r} to {self.name!r}."
            )
        return table[self.name]

    def _chains(self, table: _Table | None) -> Iterator[tuple[str, Any, _Place]]:
        """Yield what a file says of each chain of this structure."""
        own = self._own(table)
        if own is None:
            return
        for chain, value in _is(dict, *own).items():
            place = own[1] / chain
            if chain in self.indices:
                yield chain, value, place
            elif value:
                raise self._no_chain(chain, place)

    def _no_chain(self, chain: str, place: _Place) -> ValueError:
        there = ", ".join(c or "(no name)" for c in self.indices)
        return place.error(f"there is no chain {chain!r} in the structure; it has {there}.")

    def _position(self, chain: str, value: Any, place: _Place) -> int | None:
        """Return our 1-based index, None where there is nothing to design."""
        row = self.indices[chain]
        if isinstance(value, bool) or not isinstance(value, int):
            raise place.error(f"a position is a whole number, got {_shown(value)}.")
        if not 1 <= value <= len(row):
            raise place.error(
                f"position {_shown(value)} is outside 1-{len(row)}, the positions of chain {chain} "
                "as ProteinMPNN counts them (from 1, missing residues included)."
            )
        index = row[value - 1]
        return index if index in self.designable else None

    def _frozen_chains(self, table: _Table | None) -> set[str]:
        own = self._own(table)
        if own is None:
            return set()
        value, place = own
        lists = _is(list, value, place)
        if len(lists) != 2:
            raise place.error("must be two lists: the chains to design and those to keep.")
        named: list[str] = []
        for some in lists:
            for chain in _is(list, some, place):
                if not isinstance(chain, str):
                    raise place.error(f"a chain is a name, got {_shown(chain)}.")
                if chain not in self.indices:
                    raise self._no_chain(chain, place)
                if chain in named:
                    raise place.error(f"chain {chain!r} is named twice.")
                named.append(chain)
        if missing := [c for c in self.indices if c not in named]:
            raise place.error(
                f"chain {missing[0]!r} is in neither list, so that ProteinMPNN does not see it. "
                "Leave it out of input.chains too, or name it here."
            )
        return set(lists[1])

    def _fixed(self, table: _Table | None) -> set[int]:
        return {
            i
            for chain, value, place in self._chains(table)
            for p in _is(list, value, place)
            if (i := self._position(chain, p, place))
        }

    def _tied(self, table: _Table | None) -> list[list[str]]:
        own = self._own(table)
        groups: list[list[str]] = []
        seen: dict[int, int] = {}
        for n, item in enumerate(_is(list, *own) if own else [], 1):
            assert own is not None
            group: list[int] = []
            for chain, value in _is(dict, item, own[1] / n).items():
                place = own[1] / n / chain
                if chain not in self.indices:
                    raise self._no_chain(chain, place)
                places = _is(list, value, place)
                if places and isinstance(places[0], list):
                    places = _unweighted(places, place)
                group += [i for p in places if (i := self._position(chain, p, place))]
            for i in group:
                if seen.setdefault(i, n) != n or group.count(i) > 1:
                    raise (own[1] / n).error(
                        f"{self.numbering.name(i)} is tied twice (groups {seen[i]} and {n}); put "
                        "everything that is tied to it into one group."
                    )
            if len(group) > 1:
                groups.append([self.numbering.name(i) for i in sorted(group)])
        return groups

    def _omit(self, table: _Table | None) -> dict[int, str]:
        found: dict[int, set[str]] = {}
        for chain, value, place in self._chains(table):
            for item in _is(list, value, place):
                pair = _is(list, item, place)
                if len(pair) != 2:
                    raise place.error(f"an entry is [[positions], letters], got {_shown(item)}.")
                some = _letters(pair[1], place)
                for p in _is(list, pair[0], place):
                    i = self._position(chain, p, place)
                    if i is not None and some:
                        found.setdefault(i, set()).update(some)
        return {i: "".join(a for a in PROTEIN.letters if a in s) for i, s in found.items()}

    def _bias(self, everywhere: _Table | None, table: _Table | None) -> dict[int, dict[str, float]]:
        common: dict[str, float] = {}
        for letter, (value, place) in (everywhere or {}).items():
            if len(letter) != 1 or letter not in LETTERS:
                raise place.error(f"must be one letter of {LETTERS}.")
            common[letter] = _number(value, place)
        rows: dict[int, list[float]] = {i: [0.0] * len(LETTERS) for i in self.designable}
        for chain, value, place in self._chains(table):
            length = len(self.indices[chain])
            given = _is(list, value, place)
            if len(given) != length:
                raise place.error(
                    f"has {len(given)} rows, but chain {chain} has {length} positions as "
                    "ProteinMPNN counts them (missing residues included)."
                )
            for p, row in enumerate(given, 1):
                numbers = [_number(x, place / p) for x in _is(list, row, place / p)]
                if len(numbers) != len(LETTERS):
                    raise (place / p).error(
                        f"has {len(numbers)} numbers, not {len(LETTERS)}: one for each of {LETTERS}"
                        "."
                    )
                i = self.indices[chain][p - 1]
                if i in rows:
                    rows[i] = numbers
        # X is never designed, so that its bias says nothing
        found = {}
        for i, row in rows.items():
            sums = {a: row[k] + common.get(a, 0.0) for k, a in enumerate(PROTEIN.letters)}
            if bias := {a: x for a, x in sums.items() if x}:
                found[i] = bias
        return found

    def _grouped(self, said: Mapping[int, tuple[str, dict[str, float]]]) -> dict[str, Any]:
        """Say the same thing of several residues once."""
        groups: dict[tuple[str, tuple[tuple[str, float], ...]], list[int]] = {}
        for i, (omit, bias) in said.items():
            groups.setdefault((omit, tuple(bias.items())), []).append(i)
        return {
            ", ".join(self._runs(where)): {
                **({"omit": omit} if omit else {}),
                **({"bias": dict(bias)} if bias else {}),
            }
            for (omit, bias), where in groups.items()
        }

    def _runs(self, where: Iterable[int]) -> Iterator[str]:
        """Write 1-based indices in the residue language, runs of plain numbers as ranges."""
        numbering = self.numbering
        runs: list[list[int]] = []
        for i in where:
            last = runs[-1][-1] if runs else 0
            plain = all(numbering.numbers[j - 1].isdigit() for j in (last, i) if j)
            same = last and numbering.chains[last - 1] == numbering.chains[i - 1]
            if same and plain and i == last + 1:
                runs[-1].append(i)
            else:
                runs.append([i])
        for run in runs:
            name = numbering.name(run[0])
            yield name if len(run) == 1 else f"{name}-{numbering.numbers[run[-1] - 1]}"


def _unweighted(value: list[Any], place: _Place) -> list[Any]:
    """Return the positions of [[positions], [weights]] if all weights are 1."""
    if len(value) != 2 or not isinstance(value[1], list) or len(value[0]) != len(value[1]):
        raise place.error(f"must be [positions] or [[positions], [weights]], got {_shown(value)}.")
    for weight in value[1]:
        if _number(weight, place) != 1.0:
            raise place.error(
                f"weighted ties are not supported (a weight is {_shown(weight)}): a tied group is "
                "drawn from the product of its members' probabilities. Set all weights to 1."
            )
    positions: list[Any] = value[0]
    return positions
