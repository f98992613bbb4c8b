"""ProteinMPNN's own files: its option files (jsonl) are read, its FASTA is written and read.

ProteinMPNN counts the residues of each chain from 1, from the lowest author number to the highest,
missing numbers included ("gaps", printed as X) and insertion codes in alphabetical order. Its
option files speak of these indices; everything here translates them to author numbers.

Two things differ on purpose. An entry for a gap is left out, as ProteinMPNN leaves it without
effect; but a tied group that contains a gap loses that member only, where ProteinMPNN gives up the
whole group. And a file is checked: what ProteinMPNN overwrites or skips in silence is an error.

One thing cannot be told from numbers: of modified residues written as HETATM ProteinMPNN counts
selenomethionine only, which shifts its indices if another one is the first residue of a chain.

References:
    Dauparas et al., "Robust deep learning-based protein sequence design using ProteinMPNN",
    Science 2022, doi 10.1126/science.add2187; file formats as in its repository's helper scripts.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from seqalign.core.sequence import PROTEIN
from seqalign.files.numbering import Numbering
from seqalign.files.text import fasta, read_fasta

__all__ = ["Native", "Sample", "by_chain", "import_options", "mpnn_fasta", "read_mpnn_fasta"]

LETTERS = PROTEIN.letters + "X"
_FILES = (
    "chain_id",
    "fixed_positions",
    "tied_positions",
    "omit_AA",
    "bias_AA",
    "bias_by_res",
    "pssm",
)
_LONGEST = 100_000


# where ProteinMPNN counts -------------------------------------------------------------------------


def _indices(numbering: Numbering) -> dict[str, list[int | None]]:
    """Return, per chain, our 1-based index at each of ProteinMPNN's; None where it has a gap."""
    homes: dict[str, dict[int, list[tuple[str, int]]]] = {}
    for i, (chain, text) in enumerate(zip(numbering.chains, numbering.numbers, strict=True), 1):
        code = text[-1] if text[-1].isalpha() else ""
        number = int(text.removesuffix(code) if code else text)
        homes.setdefault(chain, {}).setdefault(number, []).append((code, i))
    found: dict[str, list[int | None]] = {}
    for chain, numbers in homes.items():
        low, high = min(numbers), max(numbers)
        if high - low >= _LONGEST:
            raise ValueError(
                f"Chain {chain} is numbered from {low} to {high}: ProteinMPNN would count that "
                "many residues. Renumber it."
            )
        row: list[int | None] = []
        for number in range(low, high + 1):
            row += [i for _, i in sorted(numbers[number])] if number in numbers else [None]
        found[chain] = row
    return found


def by_chain(
    letters: str,
    numbering: Numbering,
    chains: Sequence[str] | None = None,
    known: Sequence[int] | None = None,
) -> str:
    """Return a sequence as ProteinMPNN prints it: chains by name, joined by '/', X for gaps.

    Args:
        letters: one letter per position of the numbering, or per `known` position.
        numbering: the L residues of the structure, all chains.
        chains: the designed ones, which alone are printed; all if None.
        known: 0-based positions that `letters` speaks of; the others are printed as X.

    Raises:
        ValueError: the number of letters does not fit.
    """
    where = range(len(numbering)) if known is None else known
    if len(letters) != len(where):
        raise ValueError(f"{len(letters)} letters do not fit {len(where)} positions.")
    full = ["X"] * len(numbering)
    for i, letter in zip(where, letters, strict=True):
        full[i] = letter
    table = _indices(numbering)
    return "/".join(
        "".join("X" if i is None else full[i - 1] for i in table[chain])
        for chain in sorted(table if chains is None else chains)
    )


# option files -------------------------------------------------------------------------------------


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
        if option not in (*_FILES, "omit_AAs"):
            near = difflib.get_close_matches(option, (*_FILES, "omit_AAs"), n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"{key!r} is no option file of ProteinMPNN; there are {', '.join(_FILES[:-1])} and "
                f"omit_AAs.{hint}"
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
    reader = _Options(name, numbering, _indices(numbering), tuple(i + 1 for i in known))
    omitted = _letters(given.pop("omit_AAs", ""), _Place("omit_AAs", 1))
    tables = {option: _read(Path(value)) for option, value in given.items()}
    return reader.keys(tables, omitted)


def _read(path: Path) -> _Table:
    """Return what a jsonl file holds, by its outermost keys, with the line of each."""
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not text ({error.reason} at byte {error.start}); give a jsonl file."
        ) from error
    table: _Table = {}
    for n, line in enumerate(text.split("\n"), 1):
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
    keys = [k for k, _ in pairs]
    twice = next((k for k in keys if keys.count(k) > 1), None) if len(set(keys)) < len(keys) else 0
    if isinstance(twice, str):
        raise ValueError(f"the key {twice!r} stands twice; keep one")
    return dict(pairs)


def _letters(value: Any, place: _Place) -> str:
    """Return amino acids in the order of the alphabet; X, which is never designed, is left out."""
    if not isinstance(value, str) or set(value) - set(LETTERS):
        raise place.error(f"must be letters of {LETTERS}, got {_shown(value)}.")
    return "".join(a for a in PROTEIN.letters if a in value)


def _number(value: Any, place: _Place) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise place.error(f"must be a number, got {_shown(value)}.")
    try:
        if math.isfinite(value):
            return float(value)
    except OverflowError:
        pass
    raise place.error(f"must be a finite number, got {_shown(value)}.")


def _mapping(value: Any, place: _Place) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise place.error(f"must be a dictionary, got {_shown(value)}.")
    return value


def _list(value: Any, place: _Place) -> list[Any]:
    if not isinstance(value, list):
        raise place.error(f"must be a list, got {_shown(value)}.")
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
        for chain, value in _mapping(*own).items():
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
        lists = _list(value, place)
        if len(lists) != 2:
            raise place.error("must be two lists: the chains to design and those to keep.")
        named: list[str] = []
        for some in lists:
            for chain in _list(some, place):
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
        fixed = set()
        for chain, value, place in self._chains(table):
            for p in _list(value, place):
                fixed.add(self._position(chain, p, place))
        return {i for i in fixed if i is not None}

    def _tied(self, table: _Table | None) -> list[list[str]]:
        own = self._own(table)
        groups: list[list[str]] = []
        seen: dict[int, int] = {}
        for n, item in enumerate(_list(*own) if own else [], 1):
            assert own is not None
            group: list[int] = []
            for chain, value in _mapping(item, own[1] / n).items():
                place = own[1] / n / chain
                if chain not in self.indices:
                    raise self._no_chain(chain, place)
                places = _list(value, place)
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
            for item in _list(value, place):
                pair = _list(item, place)
                if len(pair) != 2:
                    raise place.error(f"an entry is [[positions], letters], got {_shown(item)}.")
                some = _letters(pair[1], place)
                for p in _list(pair[0], place):
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
            given = _list(value, place)
            if len(given) != length:
                raise place.error(
                    f"has {len(given)} rows, but chain {chain} has {length} positions as "
                    "ProteinMPNN counts them (missing residues included)."
                )
            for p, row in enumerate(given, 1):
                numbers = [_number(x, place / p) for x in _list(row, place / p)]
                if len(numbers) != len(LETTERS):
                    raise (place / p).error(
                        f"has {len(numbers)} numbers, not {len(LETTERS)}: one for each of {LETTERS}"
                        "."
                    )
                i = self.indices[chain][p - 1]
                if i in rows:
                    rows[i] = numbers
        # X is never designed, so that its bias says nothing
        sums = {
            i: {
                a: row[k] + common.get(a, 0.0)
                for k, a in enumerate(PROTEIN.letters)
                if row[k] + common.get(a, 0.0) != 0.0
            }
            for i, row in rows.items()
        }
        return {i: bias for i, bias in sums.items() if bias}

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


# FASTA --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Native:
    """The first record of ProteinMPNN's FASTA: the sequence that came with the backbone.

    Attributes:
        name: of the structure.
        sequence: the designed chains, joined by '/' (`by_chain`).
        score: mean negative log-probability of the designed residues, nats.
        global_score: the same over all residues.
        fixed_chains: seen, not designed.
        designed_chains: the chains of `sequence`.
        model_name: of the network, such as v_48_020.
        seed: of the run.
        git_hash: of ProteinMPNN's checkout; "unknown", as it prints itself, everywhere else.
        ca_only: the network sees CA atoms only; the key is then CA_model_name.
        extra: what we append, by key, as it is printed.
    """

    name: str
    sequence: str
    score: float
    global_score: float
    fixed_chains: tuple[str, ...]
    designed_chains: tuple[str, ...]
    model_name: str
    seed: int
    git_hash: str = "unknown"
    ca_only: bool = False
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def header(self) -> str:
        """The header line without '>'."""
        model = "CA_model_name" if self.ca_only else "model_name"
        return (
            f"{self.name}, score={_four(self.score)}, global_score={_four(self.global_score)}, "
            f"fixed_chains={list(self.fixed_chains)}, "
            f"designed_chains={list(self.designed_chains)}, {model}={self.model_name}, "
            f"git_hash={self.git_hash}, seed={self.seed}{_appended(self.extra)}"
        )


@dataclass(frozen=True)
class Sample:
    """A designed sequence in ProteinMPNN's FASTA.

    Attributes:
        sequence: the designed chains, joined by '/' (`by_chain`).
        temperature: of sampling.
        sample: its number, from 1.
        score: mean negative log-probability of the designed residues, nats.
        global_score: the same over all residues.
        seq_recovery: share of the designed residues that are the native ones.
        extra: what we append, by key, as it is printed.
    """

    sequence: str
    temperature: float
    sample: int
    score: float
    global_score: float
    seq_recovery: float
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def header(self) -> str:
        """The header line without '>'."""
        return (
            f"T={float(self.temperature)}, sample={self.sample}, score={_four(self.score)}, "
            f"global_score={_four(self.global_score)}, "
            f"seq_recovery={_four(self.seq_recovery)}{_appended(self.extra)}"
        )


def _four(value: float) -> str:
    # the numbers of the official script are single precision and printed like this
    return np.format_float_positional(np.float32(value), unique=False, precision=4)


def _appended(extra: Mapping[str, str]) -> str:
    for key, value in extra.items():
        if not re.fullmatch(r"\w[\w-]*", key) or not re.fullmatch(r"[^\[,\n\r][^,\n\r]*", value):
            raise ValueError(
                f"A header cannot hold {key!r}={value!r}: keys are letters, digits, _ and -, "
                "values have neither commas nor line ends."
            )
    return "".join(f", {key}={value}" for key, value in extra.items())


def mpnn_fasta(native: Native | None, samples: Iterable[Sample]) -> str:
    """Return FASTA text as protein_mpnn_run.py writes it, ours appended to each header.

    Raises:
        ValueError: something that a header cannot hold.
    """
    if native is not None and not re.fullmatch(r"(?!T=)[^,=\n\r>]+", native.name):
        raise ValueError(
            f"{native.name!r} cannot be a name in a FASTA header: commas, '=' and '>' separate."
        )
    records: list[Native | Sample] = [] if native is None else [native]
    records += samples
    return fasta((r.header, r.sequence) for r in records)


_PAIR = re.compile(r"\s*(\w[\w-]*)=(\[[^\]]*\]|[^,]*)(?:,|$)")
_NATIVE = ("score", "global_score", "fixed_chains", "designed_chains", "git_hash", "seed")
_SAMPLE = ("T", "sample", "score", "global_score", "seq_recovery")


def read_mpnn_fasta(path: Path) -> tuple[Native | None, list[Sample]]:
    """Return the records of a FASTA file in ProteinMPNN's style, official or ours.

    Raises:
        ValueError: a header that is not of this style; the message names the record and the key.
    """
    native: Native | None = None
    samples: list[Sample] = []
    for n, (header, sequence) in enumerate(read_fasta(path), 1):
        where = f"{path}, record {n}"
        name, pairs = _pairs(header, where)
        try:
            if name is None:
                samples.append(
                    Sample(
                        sequence,
                        float(pairs["T"]),
                        int(pairs["sample"]),
                        float(pairs["score"]),
                        float(pairs["global_score"]),
                        float(pairs["seq_recovery"]),
                        {k: v for k, v in pairs.items() if k not in _SAMPLE},
                    )
                )
                continue
            if native is not None or samples:
                raise ValueError("a native sequence stands first or nowhere")
            model = "CA_model_name" if "CA_model_name" in pairs else "model_name"
            native = Native(
                name,
                sequence,
                float(pairs["score"]),
                float(pairs["global_score"]),
                _names(pairs["fixed_chains"]),
                _names(pairs["designed_chains"]),
                pairs[model],
                int(pairs["seed"]),
                pairs["git_hash"],
                model == "CA_model_name",
                {k: v for k, v in pairs.items() if k not in (*_NATIVE, model)},
            )
        except KeyError as error:
            raise ValueError(
                f"{where}: the header has no {error.args[0]}=; this is not ProteinMPNN's style."
            ) from error
        except ValueError as error:
            raise ValueError(f"{where}: {error}.") from error
    return native, samples


def _pairs(header: str, where: str) -> tuple[str | None, dict[str, str]]:
    """Split a header into the name, if there is one, and its key=value pairs."""
    name, at = None, 0
    if not header.startswith("T="):
        name, comma, _ = header.partition(",")
        at = len(name) + len(comma)
    pairs: dict[str, str] = {}
    while at < len(header):
        match = _PAIR.match(header, at)
        if match is None or match[1] in pairs:
            raise ValueError(
                f"{where}: cannot read the header from {header[at : at + 40]!r} on; it should be "
                "key=value pairs with ', ' between, no key twice."
            )
        pairs[match[1]] = match[2].strip()
        at = match.end()
    return name, pairs


def _names(text: str) -> tuple[str, ...]:
    if not re.fullmatch(r"\[(?:'[^']*'(?:, *'[^']*')*)?\]", text):
        raise ValueError(f"{text!r} is no list of chains such as ['A', 'B']")
    return tuple(re.findall(r"'([^']*)'", text))
