"""FASTA with ProteinMPNN's headers, written and read, our own keys appended to each.

References:
    Dauparas et al., "Robust deep learning-based protein sequence design using ProteinMPNN",
    Science 2022, doi 10.1126/science.add2187; file formats as in its repository's helper scripts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from seqalign.files.sequences import read_fasta
from seqalign.files.text import fasta

__all__ = ["Native", "Sample", "mpnn_fasta", "read_mpnn_fasta"]


@dataclass(frozen=True)
class Native:
    """The first record of ProteinMPNN's FASTA: the sequence that came with the backbone.

    Attributes:
        name: of the structure.
        sequence: the designed chains, joined by '/'.
        score: mean negative log-probability of the designed residues, nats; None is not known,
            and left out of headers.
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
    score: float | None
    global_score: float | None
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
            f"{self.name}, {_scores(self)}fixed_chains={list(self.fixed_chains)}, "
            f"designed_chains={list(self.designed_chains)}, {model}={self.model_name}, "
            f"git_hash={self.git_hash}, seed={self.seed}{_appended(self.extra)}"
        )


@dataclass(frozen=True)
class Sample:
    """A designed sequence in ProteinMPNN's FASTA.

    Attributes:
        sequence: the designed chains, joined by '/'.
        temperature: of sampling.
        sample: its number, from 1.
        score: mean negative log-probability of the designed residues, nats; None is not known,
            and left out of headers.
        global_score: the same over all residues.
        seq_recovery: share of the designed residues that are the native ones.
        extra: what we append, by key, as it is printed.
    """

    sequence: str
    temperature: float
    sample: int
    score: float | None
    global_score: float | None
    seq_recovery: float
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def header(self) -> str:
        """The header line without '>'."""
        return (
            f"T={float(self.temperature)}, sample={self.sample}, {_scores(self)}"
            f"seq_recovery={_four(self.seq_recovery)}{_appended(self.extra)}"
        )


def _four(value: float) -> str:
    # the numbers of the official script are single precision and printed like this
    return np.format_float_positional(np.float32(value), unique=False, precision=4)


def _scores(record: Native | Sample) -> str:
    known = {"score": record.score, "global_score": record.global_score}
    return "".join(f"{key}={_four(v)}, " for key, v in known.items() if v is not None)


def _appended(extra: Mapping[str, str]) -> str:
    for key, value in extra.items():
        if not re.fullmatch(r"\w[\w-]*", key) or not re.fullmatch(r"[^\[,\n\r][^,\n\r]*", value):
            raise ValueError(
                f"A header cannot hold {key!r}={value!r}: keys are letters, digits, _ and -, "
                "values have neither commas nor line ends."
            )
    return "".join(f", {key}={value}" for key, value in extra.items())


def mpnn_fasta(native: Native | None, samples: Iterable[Sample]) -> str:
    """Return FASTA text as protein_mpnn_run.py writes it, ours appended to each header."""
    if native is not None and not re.fullmatch(r"(?!T=)[^,=\n\r>]+", native.name):
        raise ValueError(
            f"{native.name!r} cannot be a name in a FASTA header: commas, '=' and '>' separate."
        )
    records: list[Native | Sample] = [] if native is None else [native]
    records += samples
    for n, record in enumerate(records, 1):
        if not any(map(str.isalpha, record.sequence)):
            raise ValueError(
                f"Record {n} has the sequence {record.sequence!r}, which has no letter: a FASTA "
                "record needs one; leave it out."
            )
    return fasta((r.header, r.sequence) for r in records)


_PAIR = re.compile(r"\s*(\w[\w-]*)=(\[[^\]]*\]|[^,]*)(?:,|$)")


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
                keys = ["T", "sample", "score", "global_score", "seq_recovery"]
                values = _values(pairs, keys)
                samples.append(replace(Sample(sequence, *values), extra=pairs))
                continue
            if native is not None or samples:
                raise ValueError("a native sequence stands first or nowhere")
            model = "CA_model_name" if "CA_model_name" in pairs else "model_name"
            keys = ["score", "global_score", "fixed_chains", "designed_chains", model, "seed"]
            values = _values(pairs, [*keys, "git_hash"])
            native = Native(name, sequence, *values)
            native = replace(native, ca_only=model == "CA_model_name", extra=pairs)
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


def _values(pairs: dict[str, str], keys: Sequence[str]) -> list[Any]:
    """Take values by their keys; a header without likelihoods has neither of the two scores."""
    scores = {"score", "global_score"}
    absent = scores if keys[-1] in pairs and not scores & pairs.keys() else set()
    return [None if key in absent else _READ[key](pairs.pop(key)) for key in keys]


def _names(text: str) -> tuple[str, ...]:
    if not re.fullmatch(r"\[(?:'[^']*'(?:, *'[^']*')*)?\]", text):
        raise ValueError(f"{text!r} is no list of chains such as ['A', 'B']")
    return tuple(re.findall(r"'([^']*)'", text))


_READ: Mapping[str, Callable[[str], Any]] = {
    **dict.fromkeys(("T", "score", "global_score", "seq_recovery"), float),
    **dict.fromkeys(("sample", "seed"), int),
    **dict.fromkeys(("fixed_chains", "designed_chains"), _names),
    **dict.fromkeys(("model_name", "CA_model_name", "git_hash"), str),
}
