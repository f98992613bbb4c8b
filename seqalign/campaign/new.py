"""A first campaign for a backbone or a wild type, with every constraint shown on its residues."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from textwrap import wrap
from typing import Any

from jinja2 import Environment, StrictUndefined

from seqalign import weights
from seqalign.campaign.inputs import sees_beside
from seqalign.core.sequence import PROTEIN
from seqalign.files.numbering import Numbering
from seqalign.files.remarks import remarks, to_fix
from seqalign.files.residues import LETTERS
from seqalign.files.sequences import is_fasta, read_fasta
from seqalign.files.states import InputState, match_all
from seqalign.files.structure import Structure, read_structure
from seqalign.load import Model, load_model
from seqalign.registry import (
    SpecError,
    checkpoint_of,
    draws_images,
    names,
    parameters,
    takers,
)
from seqalign.space.installed import find, keys
from seqalign.space.positions import ConstraintError, Positions

_STRUCTURES = (".pdb", ".ent", ".cif", ".mmcif", ".bcif")
_FASTA = (".fasta", ".fa", ".faa", ".fas", ".fsa", ".pir", ".a2m", ".a3m")
_TABLES = (".csv", ".tsv", ".txt", ".xlsx", ".xls", ".parquet")
_LANGUAGE = "Residues: A39, A1-56, A82A (insertion code), a chain as A, lists, and not A10."


@dataclass(frozen=True)
class Draft:
    """The text of a campaign file, its model, and what a person should know, in sentences."""

    text: str
    model: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Reading:
    """How a structure is read, as keys of `input` say it: all chains and names by default."""

    chains: Sequence[str] = ()
    context: Sequence[str] = ()
    map: Mapping[str, str] = field(default_factory=dict)
    ignore: Sequence[str] = ()
    fill: str = "none"

    @property
    def given(self) -> Mapping[str, Any]:
        """What was said, by key of `input`."""
        every = {key: getattr(self, key) for key in ("chains", "context", "map", "ignore", "fill")}
        return {key: value for key, value in every.items() if value and value != "none"}


def new(
    given: Path,
    out: Path,
    model: str | None = None,
    *,
    design: str | None = None,
    reading: Reading = Reading(),
    others: Sequence[Path] = (),
) -> Draft:
    """Write the campaign of a structure or FASTA file, to be stored at `out`.

    With other structures it is of several states, for which one sequence is designed; what is
    designed is what all of them have.

    Args:
        given: the file.
        out: where the campaign will be.
        model: by name; one that fits the file if None.
        design: residues to be designed, in the residue language; all if None.
        reading: how structures are read.
        others: more states of the same protein; the first file names the residues.

    Raises:
        ValueError: a file cannot be read or is of another kind, the states are not of one sequence,
            the model does not fit, or `design` names what is not there.
    """
    suffix, *more = (_suffix(file) for file in (given, *others))
    for file, kind in zip((given, *others), (suffix, *more), strict=True):
        if others and kind not in _STRUCTURES:
            raise ValueError(
                f"{file} holds no structure, and several files are states of one protein, each a "
                f"structure ({', '.join(_STRUCTURES)}). Give one file, or structures."
            )
    if len({file.resolve() for file in (given, *others)}) <= len(others):
        raise ValueError("A file is given twice. Keep one; states are different structures.")
    if model is not None and draws_images(model):
        raise SpecError(
            f"The model {model!r} draws images, which need prompts and no file of letters: write "
            "version, name, input.prompts, model and rewards, and say seqalign check."
        )
    notes: list[str] = []
    if suffix in _STRUCTURES:
        found = dict(_of_structure((given, *others), model or backbone_model(), reading))
        notes = found.pop("notes")
    else:
        if reading.given:
            raise ValueError(
                f"{given} holds a sequence, and --{next(iter(reading.given))} is about a "
                "structure. Leave it out."
            )
        found = dict(_of_sequence(given, model, notes))
    if design is not None:
        found["at"].named.positions(design, "--design")
        found["residues"] = design
    del found["at"]
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", given.name.partition(".")[0]).strip("-_.") or "campaign"
    values = {
        **found,
        "name": f"{stem[:80]}-design",
        "path": _relative(given, out.parent),
        "states": _stated((given, *others), out.parent, found.pop("own")) if others else [],
        "file": out.name,
        "version": version("seqalign"),
        "takes": parameters("model", found["model"]),
        "language": _LANGUAGE,
    }
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["yaml"] = _yaml
    template = files("seqalign").joinpath("templates", "campaign.yaml.j2").read_text("utf-8")
    text = environment.from_string(template).render(values) + "\n"
    return Draft(text, found["model"], (*notes, *_notes(found["model"])))


def _suffix(given: Path) -> str:
    """Return the ending of a file that is there and may be read.

    Raises:
        ValueError: there is no such file, or it is of another kind.
    """
    suffix = Path(given.name.lower().removesuffix(".gz")).suffix
    if suffix == ".txt" and given.is_file() and is_fasta(given):
        suffix = ".fasta"
    if suffix in _TABLES:
        raise ValueError(
            f"{given}: measured data as input cannot be done yet in version {version('seqalign')}. "
            "Give a structure (.pdb, .cif) or a wild type (.fasta); seqalign score reads a CSV of "
            "your own sequences."
        )
    if suffix not in (*_STRUCTURES, *_FASTA):
        raise ValueError(
            f"{given}: {suffix or 'a name without an ending'} is not known. Give a structure "
            f"({', '.join(_STRUCTURES)}, .gz too) or a wild type ({', '.join(_FASTA)})."
        )
    if not given.is_file():
        raise ValueError(f"{given}: there is no such file. Check the path.")
    return suffix


def _stated(files: Sequence[Path], start: Path, own: Sequence[list[str]]) -> list[Any]:
    """Return the entries of input.states: a path, and chains where they have other names."""
    paths = [_relative(file, start) for file in files]
    return [
        {"structure": path, "chains": chains} if chains else path
        for path, chains in zip(paths, own, strict=True)
    ]


def _yaml(value: Any) -> str:
    """Return flow YAML on one line: keys that need no quotes are bare, text is as JSON."""
    if isinstance(value, dict):
        pairs = (
            f"{k if re.fullmatch('[A-Za-z_]+', k) else json.dumps(k)}: {_yaml(v)}"
            for k, v in value.items()
        )
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_yaml, value))}]"
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w./-]*", value):
        if value.lower() not in ("null", "true", "false"):
            return value
    return json.dumps(value, ensure_ascii=False)


def _relative(path: Path, start: Path) -> str:
    try:
        text = Path(os.path.relpath(path.absolute(), start.absolute())).as_posix()
    except ValueError:  # another drive
        text = path.absolute().as_posix()
    # a campaign takes text without a dot or slash for a sequence
    return text if re.search(r"[./\\]", text) else f"./{text}"


def backbone_model() -> str:
    """Return the model of a backbone here: proteinmpnn where its weights are, else mpnn-mini."""
    name = checkpoint_of("proteinmpnn") if "proteinmpnn" in names("model") else None
    try:
        return "proteinmpnn" if name is not None and weights.path(name) else "mpnn-mini"
    except weights.MissingWeights:
        return "mpnn-mini"


def _about_model(model: str) -> str:
    """Return the comment behind the name of a model of a backbone."""
    if model == "mpnn-mini":
        return "embedded; seqalign fetch proteinmpnn brings the published network"
    name = checkpoint_of(model)
    return f"with the published weights {name}" if name is not None else ""


def _notes(model: str) -> tuple[str, ...]:
    """Return what is missing on this machine for a model, in words."""
    name = checkpoint_of(model)
    try:
        if name is not None:
            weights.path(name)
    except weights.MissingWeights as error:
        return (str(error),)
    return ()


# what is given ------------------------------------------------------------------------------------


def _of_structure(files: Sequence[Path], model: str, reading: Reading) -> Mapping[str, Any]:
    """Return what the template asks for: the words about structures, and their constraints."""
    file, *_ = files
    if "structure" not in parameters("model", model):
        raise SpecError(
            f"The model {model!r} does not look at a structure, and {file} is one. Models that "
            f"do: {', '.join(takers('model', 'structure'))}."
        )
    structure, *others = (read_structure(file, **reading.given) for file in files)
    states = match_all([structure, *others]) if others else ()
    numbering, letters = structure.known_numbering, structure.wild_type
    names = dict.fromkeys(structure.numbering.chains)
    pairs = zip(structure.numbering.chains, structure.design.tolist(), strict=True)
    designed = {chain for chain, may in pairs if may}
    chains, context = ([c for c in names if (c in designed) is which] for which in (True, False))
    everywhere = [all(int(state.at[p]) >= 0 for state in states) for p in range(len(letters))]
    may = tuple(
        p
        for p, i in enumerate(structure.known.tolist(), 1)
        if bool(structure.design[i]) and everywhere[p - 1]
    )
    if not may:
        raise ValueError(
            f"No residue of {file} is in all of the states with a letter and a whole backbone. "
            "Complete the structures, or give one."
        )
    fixed = "".join(PROTEIN.mask_symbol if p in may else a for p, a in enumerate(letters, 1))
    at = Positions(PROTEIN, len(letters), letters, fixed, numbering)
    seen = sees_beside(model, {})
    blind = () if seen else takers("model", "context_atoms")
    said = remarks(structure, seen, blind)
    if states:
        each = (structure, *others)
        said = [f"{s.name}: {line}" for s in each for line in remarks(s, seen, blind)]
        said = [_of_states(states), *(note for s in states for note in s.notes), *said]
    designs = [_designed(s) for s in (structure, *others)]
    same = all(set(some) == set(designs[0]) for some in designs)
    seen_only = list(reading.context) if states else context
    title = f"Sequences for the backbone {structure.name}, {len(letters)} residues."
    if states:
        title = f"One sequence for {len(states)} states, {', '.join(s.name for s in each)}."
    return {
        "title": title,
        "own": [[] if same or reading.chains else some for some in designs],
        "model": model,
        "about_model": _about_model(model),
        "at": at,
        "notes": said,
        "about": [*_about(structure), *(line for r in said for line in wrap(r, 92))],
        "ends": to_fix(structure) or numbering.name(1),
        "active": "max_homopolymer",
        "guides": "stability",
        "alpha": 0.1,
        "chains": chains if all(chains) and same else [],
        "given": {
            **({"context": seen_only} if all(seen_only) and seen_only else {}),
            **{k: v for k, v in reading.given.items() if k not in ("chains", "context")},
        },
        "residues": _text_of(numbering, may),
        **_constraints(at),
    }


def _designed(structure: Structure) -> list[str]:
    """Return the chains that are designed, in order."""
    pairs = zip(structure.numbering.chains, structure.design.tolist(), strict=True)
    return list(dict.fromkeys(chain for chain, may in pairs if may))


def _of_states(states: Sequence[InputState]) -> str:
    """Return in a sentence which structures one sequence is designed for."""
    first, *rest = (state.structure.name for state in states)
    apart = "; ".join(f"{s.structure.name} is {s.rmsd:.1f} Å away from it" for s in states[1:])
    return (
        f"One sequence for {first} and {', '.join(rest)}. {first} names the residues; {apart} (CA)."
    )


def _of_sequence(file: Path, model: str | None, notes: list[str]) -> Mapping[str, Any]:
    """Return what the template asks for: the words about a wild type, and its constraints."""
    records = read_fasta(file, notes.append)
    if len(records) > 1:
        raise ValueError(
            f"{file} holds {len(records)} sequences; a campaign has one wild type. Keep one record."
        )
    header, letters = records[0]
    for n, letter in enumerate(letters, 1):
        if letter not in LETTERS:
            cure = "Chains joined by '/' need a structure" if letter == "/" else "Replace it"
            raise ValueError(
                f"{file}: letter {n} is {letter!r}; a protein has {LETTERS}. {cure}, or leave it "
                "out."
            )
    if len(letters) >= 20 and set(letters) <= set("ACGTUN"):
        raise ValueError(f"{file} looks like DNA or RNA. Translate it: a wild type is a protein.")
    if model is None:
        at_home = "pdz-mini" in names("model") and _loaded("pdz-mini").wild_type == letters
        model = "pdz-mini" if at_home else "esm2"
    takes = parameters("model", model)
    if "structure" in takes:
        raise SpecError(
            f"The model {model!r} designs for a backbone, and {file} holds a sequence. Give a PDB "
            "or mmCIF file, or take another model."
        )
    kept: set[int] = set()
    numbering = Numbering.plain(len(letters))
    if "wild_type" not in takes:
        known = _loaded(model)
        if known.wild_type != letters:
            raise SpecError(
                f"The model {model!r} knows one construct of {len(known.wild_type or '')} residues"
                f", and the {len(letters)} of {file} are another sequence. Leave --model out, or "
                "take esm2."
            )
        kept = set(numbering.positions(getattr(known.process, "keep", ""), "keep"))
    fixed = "".join(a if i in kept else PROTEIN.mask_symbol for i, a in enumerate(letters, 1))
    at = Positions(PROTEIN, len(letters), letters, fixed)
    about = [f"Wild type {header[:60]}, {len(letters)} residues, counted from 1"]
    about += [f"{i + 1:>5} {letters[i : i + 50]}" for i in range(0, len(letters), 50)]
    if kept:
        shown = numbering.names(sorted(kept))
        about.append(f"The model knows nothing about {shown}; they keep the wild type.")
    guides, alpha = ("pdz3", 0.15) if model == "pdz-mini" else ("", 0.5)
    return {
        "title": f"Variants of {header[:60] or file.name}, {len(letters)} residues.",
        "model": model,
        "about_model": "",
        "at": at,
        "given": {},
        "about": about,
        "ends": at.name(at.free[0]),
        "active": "max_mutations",
        "guides": guides,
        "alpha": alpha,
        "chains": None,
        "residues": None,
        **_constraints(at),
    }


def _loaded(model: str) -> Model:
    """Return a model of sequences."""
    found = load_model(model)
    if found.space is None:
        raise SpecError(f"The model {model!r} draws images. Leave --model out.")
    return found


def _text_of(numbering: Numbering, wanted: tuple[int, ...]) -> str | None:
    """Return text that names all 1-based positions of some chains: ranges if they can be read."""
    runs: dict[str, list[int]] = {}
    for i in wanted:
        runs.setdefault(numbering.chains[i - 1], []).append(i)
    ranges = ", ".join(
        numbering.name(r[0]) + (f"-{numbering.numbers[r[-1] - 1]}" if len(r) > 1 else "")
        for r in runs.values()
    )
    for text in (ranges, ", ".join(runs), numbering.names(wanted)):
        try:
            if numbering.positions(text) == wanted:
                return text
        except ValueError:
            continue
    return None


def _about(structure: Structure) -> list[str]:
    """Say which residues the chains have, with author numbers."""
    known = set(structure.known.tolist())
    numbering = structure.numbering
    lines = []
    for chain in dict.fromkeys(numbering.chains):
        here = [i for i, c in enumerate(numbering.chains) if c == chain]
        name = f"Chain {chain}" if chain else "The chain"
        seen = [i for i in here if i in known]
        may = bool(structure.design[here[0]])
        lines.append(
            f"{name}: {len(seen)} residues that {'can be designed' if may else 'are only seen'}."
        )
        for start in range(0, len(seen), 50):
            text = "".join(structure.sequence[i] for i in seen[start : start + 50])
            lines.append(f"{numbering.name(seen[start] + 1):>7} {text}")
    return lines


def _constraints(at: Positions) -> Mapping[str, Any]:
    """Return (key, example, comment) of every constraint, each valid for this protein."""
    found, absent = [], []
    for key in keys():
        try:
            found.append(find(key))
        except ConstraintError as error:
            absent.append(str(error))
    shown = []
    for c in sorted(found, key=lambda c: (c.rank, c.key)):
        example = c.example(at)
        if example is None:
            absent.append(f"{c.key}: nothing to show for this protein.")
        else:
            shown.append((c.key, *example))
    return {"constraints": shown, "absent": absent}
