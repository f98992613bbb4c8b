"""What a campaign is given: structure, wild type, prompts and option files, made into a model."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from seqalign.campaign.medium import Loaded
from seqalign.campaign.python import build_object, load_object
from seqalign.campaign.schema import Campaign, DesignSpec
from seqalign.campaign.yaml import KeyPath, Source
from seqalign.core.process import Process
from seqalign.files.mpnn_options import import_options
from seqalign.files.sequences import read_fasta, spelled, summed
from seqalign.files.structure import Structure, read_structure
from seqalign.load import load_model
from seqalign.registry import SpecError, names, parameters, takers
from seqalign.space.constraint import ConstraintError
from seqalign.space.installed import constraints

# keys that people look for below `model`, or that a constraint's error names, and where they are
_ELSEWHERE: dict[str, KeyPath] = {
    **{
        key: ("input", key)
        for key in (
            "structure",
            "states",
            "chains",
            "context",
            "numbering",
            "map",
            "ignore",
            "fill",
            "wild_type",
        )
    },
    "design": ("design", "residues"),
    "fix": ("design", "fix"),
}


def _bytes(given: str, source: Source, path: KeyPath, cure: str = "") -> bytes:
    """Return what a file holds that an input names."""
    file = source.folder / given
    try:
        return file.read_bytes()
    except FileNotFoundError as error:
        said = f"there is no file {file}. Paths start from the campaign's folder{cure}."
        raise source.error(path, f"{given!r}: {said}") from error
    except OSError as error:
        raise source.error(path, f"{given!r} cannot be read: {error}.") from error


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _wild_type(
    campaign: Campaign, source: Source
) -> tuple[str | None, str | None, tuple[str, ...]]:
    """Return the given wild type (None for the model's own), the hash of its file, and notes."""
    given, path = campaign.input.wild_type, ("input", "wild_type")
    if given in ("model", "structure"):
        return None, None, ()
    text = "".join(given.split())
    if not text:
        raise source.error(
            path, "the wild type is empty. Give a sequence, a FASTA file, or 'model'."
        )
    chains = re.fullmatch("[A-Z]+(/[A-Z]+)+", text) and not (source.folder / text).exists()
    if chains or not any(c in "./\\" for c in text):
        with source.blame(path, ValueError):
            found = spelled(text)
        return found.letters, None, tuple(summed((str(path[-1]), note) for note in found.notes))
    data = _bytes(given, source, path)
    notes: list[str] = []
    with source.blame(path, ValueError):
        records = read_fasta(source.folder / given, notes.append)
    if len(records) > 1:
        raise source.error(
            path,
            f"{given!r} holds {len(records)} sequences; a campaign has one wild type. Keep one "
            "record.",
        )
    return records[0][1], _hash(data), tuple(notes)


_HOW: Final = ("chains", "context", "map", "ignore", "fill")


def _structure(campaign: Campaign, source: Source) -> tuple[Structure | None, str | None]:
    """Return the backbone of a campaign, if it has one, and the hash of its file."""
    given = campaign.input
    if given.structure is None:
        for key in _HOW:
            if getattr(given, key) not in (None, {}, [], "none"):
                raise source.error(
                    ("input", key), f"{key} is about a structure. Give input.structure too."
                )
        return None, None
    how = {key: getattr(given, key) for key in (*_HOW, "numbering")}
    return _read(given.structure, source, ("input", "structure"), how)


def _read(
    given: str, source: Source, path: KeyPath, how: Mapping[str, Any]
) -> tuple[Structure, str]:
    """Return a structure and the hash of its file."""
    file = source.folder / given
    with source.blame(path, OSError, ValueError):
        return read_structure(file, **how), _hash(file.read_bytes())


def _states(
    campaign: Campaign, source: Source
) -> tuple[list[Structure], list[float] | None, str | None]:
    """Return the structures that one sequence is designed for, their weights and hash, if any."""
    given, path = campaign.input, ("input", "states")
    if not given.states:
        return [], None, None
    if given.structure is not None:
        raise source.error(
            path, "structure is given, too. Keep one; the first of the states names the residues."
        )
    read = []
    for i, state in enumerate(given.states):
        own = {key: getattr(state, key, None) for key in _HOW}
        how = {key: getattr(given, key) if v is None else v for key, v in own.items()}
        how["numbering"] = given.numbering
        read.append(_read(state.structure, source, (*path, i), how))
    weights = [state.weight for state in given.states]
    unsaid = [i for i, weight in enumerate(weights) if weight is None]
    if unsaid and len(unsaid) < len(weights):
        raise source.error(
            (*path, unsaid[0]),
            "it has no weight, and another has one. Give each a weight, or none: then all weigh "
            f"{1 / len(weights):.3g}.",
        )
    digest = _hash("".join(digest for _, digest in read).encode())
    known = None if unsaid else [float(w) for w in weights if w is not None]
    return [structure for structure, _ in read], known, digest


def own_process(campaign: Campaign, source: Source) -> Process | None:
    """Return the process in a user's file, made with the model's parameters; None by name."""
    spec, path = campaign.model, ("model", "python")
    if spec.python is None:
        return None
    found = load_object(spec.python, source, path)
    if isinstance(found, type) or not hasattr(found, "posterior"):
        if not callable(found):
            raise source.error(
                path, f"{spec.python} is {found!r}: give a process, or what makes it."
            )
        params = spec.model_extra or {}
        found = build_object(f"The model {spec.python}", found, params, source, ("model",))
    elif spec.model_extra:
        key = next(iter(spec.model_extra))
        raise source.error(
            ("model", key), f"{spec.python} is built; only what makes it takes {key}."
        )
    missing = [a for a in ("posterior", "transition", "decode") if not hasattr(found, a)]
    if missing:
        raise source.error(
            path, f"{spec.python} gives a {type(found).__name__}, no process: no {missing[0]}."
        )
    process: Process = found
    return process


def _takes(campaign: Campaign) -> list[str]:
    """Return the parameters of a model that an input may go to; a user's own takes none."""
    return parameters("model", campaign.model.name) if campaign.model.python is None else []


def sees_beside(model: str, params: Mapping[str, Any]) -> bool:
    """Whether a model reads ligands, ions and nucleic acids: it takes `context_atoms`."""
    key = "context_atoms"
    return key in parameters("model", model) and params.get(key, True) is not False


def _params(
    campaign: Campaign, source: Source, own: Process | None, elsewhere: Mapping[str, KeyPath]
) -> Mapping[str, Any]:
    """Return what a model by name is built with, without what has its place elsewhere."""
    params = dict(campaign.model.model_extra or {})
    for key in params:
        if key in elsewhere:
            place = ".".join(map(str, elsewhere[key]))
            raise source.error(("model", key), f"this does not belong here; write {place}.")
    return params if own is None else {}


def _device(campaign: Campaign, source: Source, takes: Sequence[str]) -> dict[str, Any]:
    """Return what a model is told of its device; one that takes none runs on the CPU."""
    device = campaign.model.device
    if "device" in takes:
        return {"device": device}
    if device == "cuda":
        said = f"{campaign.model.name!r} runs on the CPU; choose 'auto' or 'cpu'."
        raise source.error(("model", "device"), said)
    return {}


def load_letters(campaign: Campaign, source: Source, own: Process | None) -> Loaded:
    """Return the model of a sequence campaign, with its backbone if it has one."""
    states, weights, structure_hash = _states(campaign, source)
    structure = states[0] if states else None
    if structure is None:
        structure, structure_hash = _structure(campaign, source)
    spec, takes = campaign.model, _takes(campaign)
    other = {key: ("constraints", key) for key in names("constraint") if key not in takes}
    params = dict(_params(campaign, source, own, _ELSEWHERE | other))
    params |= _device(campaign, source, takes)
    for key in ("prompts", "negative_prompt"):
        if getattr(campaign.input, key) is not None:
            raise source.error(
                ("input", key),
                f"the model {spec.name!r} designs sequences and reads no prompts. Remove the key, "
                "or choose an image model.",
            )
    wild, digest, notes = _wild_type(campaign, source)
    if structure is not None:
        if "structure" not in takes:
            raise source.error(
                ("model", "name"),
                f"the model {spec.name!r} does not look at a structure, and input."
                f"{'states' if states else 'structure'} gives one. Models that do: "
                f"{', '.join(takers('model', 'structure'))}.",
            )
        if states:
            params |= {"states": states, "state_weights": weights}
        else:
            params["structure"] = structure
    elif "structure" in takes:
        raise source.error(
            ("model", "name"),
            f"the model {spec.name!r} designs for a backbone. Give input.structure, a PDB or mmCIF "
            "file.",
        )
    fix: Any = campaign.design.fix
    given = dict(_imported(campaign, source, structure))
    imported = given.pop("fix", "")
    if imported:
        if isinstance(fix, dict):
            raise source.error(
                ("design", "fix"),
                "letters cannot be given here when design.proteinmpnn fixes residues too. Name "
                "residues, or leave one of the two out.",
            )
        parts = fix if isinstance(fix, list) else [fix] if fix else []
        fix = ", ".join([*map(str, parts), imported])
    for key, value in given.items():
        for both in campaign.constraints.get(key, {}) if isinstance(value, dict) else ():
            if both in value:
                raise source.error(
                    ("constraints", key, both), "design.proteinmpnn speaks about it too. Keep one."
                )
    try:
        model = load_model(
            own or spec.name,
            wild_type=wild,
            design=_text(campaign.design.residues),
            fix=_text(fix),
            constraints=(*constraints(campaign.constraints), *constraints(given)),
            steps=spec.steps,
            **params,
        )
    except SpecError as error:
        home = "input" if error.path == ("states",) else "model"
        raise source.error((home, *error.path), str(error)) from error
    except ConstraintError as error:
        # what is no constraint has its own place
        place = _ELSEWHERE.get(".".join(map(str, error.path)), ("constraints", *error.path))
        raise source.error(place, str(error)) from error
    except (ValueError, TypeError) as error:
        raise source.error(("model",), str(error)) from error
    if model.space is None:
        raise source.error(
            ("model", "name"),
            f"{spec.name!r} draws images, which nothing about it says: its factory needs the class "
            "of its process as return annotation.",
        )
    digests = {"input_sha256": digest, "structure_sha256": structure_hash}
    return Loaded(model, structure, digests, notes)


def _prompts(campaign: Campaign, source: Source) -> tuple[list[str] | None, str | None]:
    """Return the prompts, and the hash of the file they come from."""
    given, path = campaign.input.prompts, ("input", "prompts")
    digest = None
    if isinstance(given, str):
        data = _bytes(given, source, path, "; write a single prompt as a list, [...]")
        try:
            lines = [line.strip() for line in data.decode("utf-8").splitlines()]
        except UnicodeDecodeError as error:
            raise source.error(path, f"{given!r} cannot be read as text: {error}.") from error
        given, digest = [line for line in lines if line], _hash(data)
    if given is None:
        return None, None
    if not given:
        raise source.error(path, "there is no prompt. Write at least one.")
    for i, text in enumerate(given):
        if not text.strip():
            raise source.error((*path, i), "the prompt is empty. Write words, or remove it.")
        if text in given[:i]:
            raise source.error(
                (*path, i),
                f"{text!r} is given twice. Keep one; sampler.islands says how many runs each "
                "prompt gets.",
            )
    return given, digest


def load_images(campaign: Campaign, source: Source, own: Process | None) -> Loaded:
    """Return the model of an image campaign, with its prompts."""
    spec, asked = campaign.model, campaign.input
    said: dict[KeyPath, bool] = {
        ("input", "structure"): asked.structure is not None,
        ("input", "states"): bool(asked.states),
        ("input", "chains"): asked.chains is not None,
        ("input", "context"): asked.context is not None,
        ("input", "numbering"): asked.numbering != "author",
        ("input", "map"): bool(asked.map),
        ("input", "ignore"): bool(asked.ignore),
        ("input", "fill"): asked.fill != "none",
        ("input", "wild_type"): asked.wild_type != "model",
        ("design",): campaign.design != DesignSpec(),
        ("constraints",): bool(campaign.constraints),
    }
    for path, there in said.items():
        if there:
            raise source.error(
                path,
                f"the model {spec.name!r} draws images, and this is about the letters of "
                "sequences. Remove it.",
            )
    prompt: KeyPath = ("input", "prompts")
    elsewhere = {"prompt": prompt, "prompts": prompt}
    elsewhere["negative_prompt"] = ("input", "negative_prompt")
    params = dict(_params(campaign, source, own, elsewhere))
    takes = _takes(campaign)
    prompts, digest = _prompts(campaign, source)
    if "prompts" in takes:
        if prompts is None:
            raise source.error(
                prompt,
                f"the model {spec.name!r} draws what it is asked for. Give input.prompts, a list "
                "of texts or a file with one on each line.",
            )
        params["prompts"] = prompts
    elif prompts is not None:
        raise source.error(prompt, f"the model {spec.name!r} reads no prompts. Remove the key.")
    if asked.negative_prompt is not None:
        if "negative_prompt" not in takes:
            raise source.error(
                ("input", "negative_prompt"),
                f"the model {spec.name!r} takes no negative prompt. Remove the key.",
            )
        params["negative_prompt"] = asked.negative_prompt
    params |= _device(campaign, source, takes)
    try:
        model = load_model(own or spec.name, steps=spec.steps, **params)
    except SpecError as error:
        where = error.path or ("name",)
        at = ("input", *where) if where[0] in ("prompts", "negative_prompt") else ("model", *where)
        raise source.error(at, str(error)) from error
    return Loaded(model, None, {"input_sha256": digest, "structure_sha256": None})


def _text(given: Any) -> Any:
    return str(given) if isinstance(given, int) else given


def _imported(campaign: Campaign, source: Source, structure: Structure | None) -> Mapping[str, Any]:
    """Return what ProteinMPNN's option files say, as keys of our own."""
    files, path = campaign.design.proteinmpnn, ("design", "proteinmpnn")
    if not files:
        return {}
    if structure is None or campaign.input.numbering != "author":
        raise source.error(
            path, "option files count along a structure. Give input.structure, author numbering."
        )
    there = {k: v if k == "omit_AAs" else source.folder / v for k, v in files.items()}
    with source.blame(path, OSError, ValueError):
        return import_options(there, structure.name, structure.numbering, structure.known.tolist())
