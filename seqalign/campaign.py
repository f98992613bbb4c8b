"""A campaign: the YAML file, everything that is checked before anything runs, and the run itself.

YAML is read by the rules of version 1.2 (NO stays a string, 1e-3 is a number, 1:56 a string), duplicate keys are
errors, and every message names the file, the line, the key, the value and the cure. Input is never repaired in silence.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from seqalign.executor import (
    REFERENCES,
    Arm,
    Progress,
    Rehearsal,
    reference_designs,
    rehearse,
    run_arm,
    settle,
)
from seqalign.metrics import diversity, mutations, pareto_rank, prior_log_likelihood, recovery
from seqalign.metrics import survivors as surviving
from seqalign.objective import Cached, Command, OnFailure, Reward, RewardError, Sum, evaluate, function
from seqalign.particles import Samples
from seqalign.process import Designs
from seqalign.registry import (
    Model,
    SpecError,
    build_method,
    card,
    entry,
    load_model,
    load_reward,
    names,
    nearest,
    to_mapping,
)
from seqalign.report import render
from seqalign.sequence import Alphabet
from seqalign.store import RunFolder, fasta, read_fasta, to_csv

__all__ = ["Campaign", "CampaignError", "Estimate", "Plan", "Source", "Term", "estimate", "prepare", "read", "run"]

PRIOR_ORDERS = 2
"""Random reveal orders behind each reported log-likelihood."""
TOP = 10
"""Designs in the "top" rows of the comparison."""


class CampaignError(ValueError):
    """The campaign is wrong; the message names place, value and cure."""


# reading -----------------------------------------------------------------------------------------------------------


class _Yaml12(yaml.SafeLoader):
    """The core schema of YAML 1.2."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


_Yaml12.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Yaml12.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Yaml12.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789"))
_Yaml12.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)

Path_ = tuple[str | int, ...]


@dataclass(frozen=True)
class Source:
    """Where the values of a campaign come from.

    Attributes:
        file: name for messages.
        folder: what relative paths start from.
        lines: line of every key path.
        given: key paths set on the command line, with their text.
    """

    file: str
    folder: Path
    lines: Mapping[Path_, int]
    given: Mapping[Path_, str]

    def error(self, path: Sequence[str | int], message: str) -> CampaignError:
        """Return the error of a key path."""
        return CampaignError(self.place(path) + message)

    def place(self, path: Sequence[str | int]) -> str:
        """Return "FILE:LINE: key.path: " of the nearest place that is written down."""
        path = tuple(path)
        key = ".".join(map(str, path))
        for n in range(len(path), -1, -1):
            if path[:n] in self.given:
                return f"--set {self.given[path[:n]]}: {key}: "
            if path[:n] in self.lines:
                return f"{self.file}:{self.lines[path[:n]]}: {key + ': ' if key else ''}"
        return f"{self.file}: {key + ': ' if key else ''}"


def _construct(
    loader: _Yaml12, node: yaml.Node, path: Path_, file: str, lines: dict[Path_, int], open_: tuple[int, ...]
) -> Any:
    lines.setdefault(path, node.start_mark.line + 1)
    if id(node) in open_ or len(lines) > 20_000:
        raise CampaignError(f"{file}:{node.start_mark.line + 1}: an alias refers to itself, or too often. Write it out.")
    open_ = (*open_, id(node))
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise CampaignError(f"{file}:{line}: a key must be plain text, not a list or mapping.")
            key = str(key_node.value)
            if key in mapping:
                raise CampaignError(
                    f"{file}:{line}: {'.'.join(map(str, (*path, key)))}: the key is given twice (first in line "
                    f"{lines[(*path, key)]}). Keep one."
                )
            lines[(*path, key)] = line
            mapping[key] = _construct(loader, value_node, (*path, key), file, lines, open_)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_construct(loader, n, (*path, i), file, lines, open_) for i, n in enumerate(node.value)]
    try:
        return loader.construct_object(node)  # type: ignore[no-untyped-call]
    except (yaml.YAMLError, ValueError) as error:
        raise CampaignError(
            f"{file}:{node.start_mark.line + 1}: cannot read {str(node.value)[:60]!r}; write plain text, numbers, "
            f"true, false or null, without tags."
        ) from error


def _parse(text: str, file: str) -> tuple[Any, dict[Path_, int]]:
    lines: dict[Path_, int] = {}
    try:
        loader = _Yaml12(text)
        try:
            node = loader.get_single_node()
            data = None if node is None else _construct(loader, node, (), file, lines, ())
        finally:
            loader.dispose()  # type: ignore[no-untyped-call]
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise CampaignError(
            f"{file}{line}: this is not YAML: {error.problem or error.context}. Check indentation, quotes and brackets."
        ) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise CampaignError(f"{file}: this is not YAML: {str(error) or 'nested too deeply'}.") from error
    return data, lines


# the schema --------------------------------------------------------------------------------------------------------


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, strict=True)


class InputSpec(_Strict):
    """What is given."""

    wild_type: str = "model"


class DesignSpec(_Strict):
    """Which positions may change; 1-based."""

    residues: str | list[int] | None = None
    fix: str | list[int] | dict[str, str] = ""


class ResidueSpec(_Strict):
    """Letters of some positions."""

    allow: str | None = None
    omit: str | None = None


class ConstraintSpec(_Strict):
    """Hard constraints."""

    omit: str = ""
    residues: dict[str, ResidueSpec] = Field(default_factory=dict)
    max_mutations: int | None = Field(default=None, ge=0)


class ModelSpec(_Open):
    """A model by name; what is not listed goes to the model."""

    name: str
    steps: int | None = Field(default=None, ge=1)
    device: Literal["auto", "cpu"] = "auto"


class RewardSpec(_Strict):
    """A reward: exactly one of oracle, python, command."""

    oracle: str | None = None
    python: str | None = None
    command: str | None = None
    weight: float = Field(default=1.0, allow_inf_nan=False)
    scale: Literal["none", "zscore"] = "none"
    clip: list[float | None] | None = Field(default=None, min_length=2, max_length=2)
    role: Literal["guide", "final", "holdout"] = "guide"
    on_failure: OnFailure = "raise"
    unit: str = ""
    params: dict[str, Any] = Field(default_factory=dict)


class SamplerSpec(_Open):
    """A method by name; what is not listed goes to the method."""

    name: str = "das"
    islands: int | None = Field(default=None, ge=1)
    particles: int = Field(default=64, ge=1)


class BudgetSpec(_Strict):
    """Limits."""

    designs: int | None = Field(default=None, ge=1)
    calls: dict[str, int] = Field(default_factory=dict)


class DiversitySpec(_Strict):
    """How far selected designs must be apart."""

    min_mutations_apart: int = Field(default=0, ge=0)


class SelectSpec(_Strict):
    """What is kept."""

    filters: list[str] = Field(default_factory=list)
    rank_by: str = "total"
    diversity: DiversitySpec = DiversitySpec()
    top: int | None = Field(default=None, ge=1)


class OutputSpec(_Strict):
    """Where results go."""

    dir: str = "runs"
    fasta_style: Literal["mpnn", "plain"] = "mpnn"


class Campaign(_Strict):
    """The whole file."""

    version: Literal[1]
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)
    seed: int = Field(default=0, ge=0)
    input: InputSpec = InputSpec()
    design: DesignSpec = DesignSpec()
    constraints: ConstraintSpec = ConstraintSpec()
    model: ModelSpec
    rewards: dict[str, RewardSpec] = Field(min_length=1)
    sampler: SamplerSpec = SamplerSpec()
    baselines: list[str] = Field(default_factory=lambda: ["unguided", "best_of_n"])
    budget: BudgetSpec = BudgetSpec()
    select: SelectSpec = SelectSpec()
    output: OutputSpec = OutputSpec()


_LATER: dict[tuple[str, ...], str] = {
    ("input", "structure"): "backbones as input",
    ("input", "numbering"): "author numbering (positions count from 1 along the wild type)",
    ("input", "chains"): "several chains",
    ("input", "prompts"): "image campaigns",
    ("data",): "measured data as input",
    ("constraints", "tie"): "tied positions",
    ("constraints", "homo_oligomer"): "tied chains",
    ("constraints", "max_homopolymer"): "a limit on homopolymers",
    ("constraints", "composition"): "a limit on composition",
    ("constraints", "forbid"): "forbidden patterns",
    ("constraints", "net_charge"): "a range of net charge",
    ("constraints", "residues", "*", "bias"): "soft biases",
    ("budget", "minutes"): "a limit in minutes",
}


def _refuse_later(data: Any, source: Source, path: Path_ = ()) -> None:
    if not isinstance(data, Mapping):
        return
    for key, item in data.items():
        here = (*path, key)
        for pattern, what in _LATER.items():
            if len(pattern) == len(here) and all(p in ("*", h) for p, h in zip(pattern, here, strict=True)):
                raise source.error(
                    here, f"{what} cannot be done yet in version {version('seqalign')}. Remove this key."
                )
        _refuse_later(item, source, here)


def _known_keys(path: Path_) -> tuple[str, ...]:
    """Return the keys the schema knows in the mapping at a path."""
    model: Any = Campaign
    for part in path:
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return ()
        field = model.model_fields.get(str(part))
        if field is None:
            return ()
        hint = field.annotation
        args = getattr(hint, "__args__", ())
        model = next((a for a in args if isinstance(a, type) and issubclass(a, BaseModel)), hint)
        if getattr(hint, "__origin__", None) is dict:
            rest = path[path.index(part) + 1 :]
            return tuple(model.model_fields) if len(rest) == 1 and hasattr(model, "model_fields") else ()
    return tuple(model.model_fields) if hasattr(model, "model_fields") else ()


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _sentence(error: Mapping[str, Any], source: Source) -> str:
    path = tuple(p for p in error["loc"] if not (isinstance(p, str) and p.startswith(("function-", "list[", "dict["))))
    # a union adds the name of each member it tried
    while path and path[-1] in ("str", "int", "float", "bool"):
        path = path[:-1]
    kind, value = error["type"], error.get("input")
    place = source.place(path)
    if kind == "extra_forbidden":
        return f"{place}unknown key. {nearest(str(path[-1]), _known_keys(path[:-1]))}"
    if kind == "missing":
        return f"{place}this key is required and missing. Add it."
    if kind == "literal_error":
        return f"{place}{_short(value)} is not allowed; choose {error['ctx']['expected']}."
    if kind == "string_pattern_mismatch":
        return f"{place}{_short(value)}: use letters, digits, '_', '-' and '.', beginning with a letter or digit."
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"{place}{_short(value)} is not a mapping; write 'key: value' lines below it."
    if kind == "too_short" and path == ("rewards",):
        return f"{place}give at least one reward. Known: {', '.join(names('reward')) or 'none'}."
    return f"{place}{_short(value)} does not fit: {error['msg'][0].lower() + error['msg'][1:]}."


def read(path: str | Path, overrides: Sequence[str] = (), label: str | None = None) -> tuple[Campaign, Source]:
    """Read a campaign file; `overrides` are texts such as "sampler.alpha=0.2".

    Raises:
        CampaignError: the file is missing, is not YAML, or does not fit the schema.
    """
    path = Path(path)
    file = label or str(path)
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError as error:
        raise CampaignError(f"{file}: there is no such file. Give the path of a campaign.yaml.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CampaignError(f"{file}: cannot be read as text: {error}.") from error
    data, lines = _parse(text, file)
    given: dict[Path_, str] = {}
    source = Source(file, path.resolve().parent, lines, given)
    if not isinstance(data, dict):
        raise CampaignError(
            f"{file}: a campaign is a mapping that starts with 'version: 1', this is {_short(data)}."
        )
    for item in overrides:
        key, equals, value = item.partition("=")
        parts = tuple(key.strip().split("."))
        if not equals or not all(parts):
            raise CampaignError(f"--set {item}: write key.path=value, for example sampler.alpha=0.2.")
        target = data
        for part in parts[:-1]:
            inner = target.setdefault(part, {})
            if not isinstance(inner, dict):
                raise CampaignError(f"--set {item}: {part!r} is {_short(inner)}, which has no keys.")
            target = inner
        target[parts[-1]] = _parse(value, f"--set {item}")[0]
        given[parts] = item
    _refuse_later(data, source)
    try:
        campaign = Campaign.model_validate(data)
    except ValidationError as error:
        problems = list(dict.fromkeys(_sentence(dict(e), source) for e in error.errors()))
        raise CampaignError("\n".join(problems[:8])) from error
    return campaign, source


# planning ----------------------------------------------------------------------------------------------------------


class _Oracle(Reward):
    """A reward under its campaign label; failures are turned into rejections if asked."""

    def __init__(self, label: str, inner: Reward, on_failure: OnFailure, unit: str) -> None:
        self.inner, self.name, self.on_failure = inner, label, on_failure
        self.unit = unit or inner.unit
        self.cost, self.differentiable = inner.cost, inner.differentiable

    def __call__(self, designs: Designs) -> Tensor:
        if self.on_failure == "raise":
            return self.inner(designs)
        try:
            r = self.inner(designs)
        except RewardError:
            b, k = designs.shape
            if b * k == 1:
                return torch.full((1, 1), -torch.inf, dtype=torch.float64)
            return torch.stack(
                [torch.cat([self(designs[i : i + 1, j : j + 1])[0] for j in range(k)]) for i in range(b)]
            )
        if tuple(r.shape) != designs.shape:
            return r
        return torch.where(torch.isnan(r) | (r == torch.inf), -torch.inf, r)

    def relaxed(self, x: Tensor) -> Tensor:
        return self.inner.relaxed(x)


@dataclass(frozen=True)
class Term:
    """One reward of a campaign.

    Attributes:
        label: its name in tables.
        raw: the oracle, cached.
        scaled: after clip and zscore; what guides.
    """

    label: str
    raw: Reward
    scaled: Reward
    spec: RewardSpec


@dataclass(frozen=True)
class Plan:
    """A campaign whose every part has been found, built and tried.

    Attributes:
        arms: the aligned sampler first, then baselines.
        unguided: whether the table has a row for unguided designs.
        rehearsals: per arm, what one island asks for.
        config: resolved configuration, with every default, hash and version.
    """

    campaign: Campaign
    source: Source
    model: Model
    terms: tuple[Term, ...]
    objective: Reward
    arms: tuple[Arm, ...]
    islands: int
    unguided: bool
    rehearsals: Mapping[str, Rehearsal]
    config: Mapping[str, Any]

    def guides(self) -> list[Term]:
        """Return the rewards that guide."""
        return [t for t in self.terms if t.spec.role == "guide"]

    @property
    def network_calls(self) -> int:
        """Network calls of all arms."""
        return sum(round(self.rehearsals[a.name].network * a.particles) for a in self.arms) * self.islands

    @property
    def reward_calls(self) -> int:
        """Calls of every guide reward in all arms."""
        return sum(round(self.rehearsals[a.name].reward * a.particles) for a in self.arms) * self.islands


_RESERVED = (
    "id",
    "rank",
    "sequence",
    "mutations",
    "n_mut",
    "seq_recovery",
    "total",
    "log_w",
    "copies",
    "prior",
    "prior_per_residue",
    "method",
    "seed",
    "island",
    "reason",
)


def _wild_type(campaign: Campaign, source: Source, alphabet: Alphabet, length: int) -> tuple[str | None, str | None]:
    """Return the given wild type (None for the model's own) and the hash of its file."""
    given, path = campaign.input.wild_type, ("input", "wild_type")
    if given == "model":
        return None, None
    digest = None
    text = "".join(given.split())
    if not text:
        raise source.error(path, "the wild type is empty. Give a sequence, a FASTA file, or 'model'.")
    if any(c in "./\\" for c in text):
        file = source.folder / given
        try:
            records = read_fasta(file)
        except FileNotFoundError as error:
            raise source.error(path, f"{given!r}: there is no file {file}. Paths start from the campaign's folder.") from error
        except OSError as error:
            raise source.error(path, f"{given!r} cannot be read: {error}.") from error
        except ValueError as error:
            raise source.error(path, str(error)) from error
        if len(records) > 1:
            raise source.error(
                path, f"{given!r} holds {len(records)} sequences; a campaign has one wild type. Keep one record."
            )
        text = records[0][1]
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
    for i, letter in enumerate(text):
        if letter not in alphabet.letters:
            raise source.error(path, f"position {i + 1} is {letter!r}, not one of {alphabet.letters!r}. Replace it.")
    if len(text) != length:
        raise source.error(
            path,
            f"the wild type has {len(text)} letters, but the model {campaign.model.name!r} designs exactly {length}. "
            f"Give a sequence aligned to the model's construct, or 'model' for its own.",
        )
    return text, digest


def _load_space(campaign: Campaign, source: Source) -> tuple[Model, str | None]:
    spec = campaign.model
    try:
        bare = load_model(spec.name, steps=spec.steps, **(spec.model_extra or {}))
    except SpecError as error:
        at = ("model", *(error.path or ("name",)))
        raise source.error(at, str(error)) from error
    except ValueError as error:
        raise source.error(("model",), str(error)) from error
    alphabet, length = bare.process.alphabet, bare.process.length
    wild, digest = _wild_type(campaign, source, alphabet, length)
    fix = campaign.design.fix
    if isinstance(fix, dict):
        for key in fix:
            if not re.fullmatch(r"[A-Za-z]?\d+", key):
                raise source.error(("design", "fix", key), f"{key!r} is not one position; write 12 or A12.")
        fix_: Any = {int(re.sub(r"\D", "", key)): a for key, a in fix.items()}
    else:
        fix_ = fix
    residues = campaign.constraints.residues
    try:
        model = load_model(
            spec.name,
            wild_type=wild,
            design=campaign.design.residues,
            fix=fix_,
            omit=campaign.constraints.omit,
            allow={k: v.allow for k, v in residues.items() if v.allow is not None},
            omit_at={k: v.omit for k, v in residues.items() if v.omit is not None},
            max_mutations=campaign.constraints.max_mutations,
            steps=spec.steps,
            **(spec.model_extra or {}),
        )
    except SpecError as error:
        raise source.error(("model", *error.path), str(error)) from error
    except (ValueError, TypeError) as error:
        raise source.error(_blame(str(error), campaign), str(error)) from error
    return model, digest


def _blame(message: str, campaign: Campaign) -> Path_:
    """Guess the key an error of the design space is about."""
    if "max_mutations" in message:
        return ("constraints", "max_mutations")
    start = message.partition(":")[0]
    table: dict[str, Path_] = {"design": ("design", "residues"), "fix": ("design", "fix")}
    if start in table:
        return table[start]
    if start in ("allow", "omit"):
        for key in campaign.constraints.residues:
            if any(f"{part.strip()!r}" in message for part in key.split(",")):
                return ("constraints", "residues", key)
        return ("constraints", "omit" if start == "omit" else "residues")
    at = re.search(r"position (\d+)", message)
    if at is not None:
        if "fixed" in message and "is fixed to" in message:
            return ("design", "fix")
        for key in campaign.constraints.residues:
            if re.search(rf"(?<!\d){at[1]}(?!\d)", key) or "-" in key:
                return ("constraints", "residues", key)
    return ("design",) if "design" in message else ("constraints",)


def _python(text: str, source: Source, path: Path_) -> Callable[[Any], Any]:
    file, colon, name = text.rpartition(":")
    target = source.folder / file
    if not colon or not file or not name:
        raise source.error(path, f"{text!r}: write FILE.py:FUNCTION.")
    if not target.is_file():
        raise source.error(path, f"{text!r}: there is no file {target}. Paths start from the campaign's folder.")
    spec = importlib.util.spec_from_file_location(f"seqalign_user_{target.stem}", target)
    if spec is None or spec.loader is None:
        raise source.error(path, f"{text!r} is not a Python file; write FILE.py:FUNCTION.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise source.error(path, f"{target} cannot be imported: {type(error).__name__}: {error}") from error
    found = getattr(module, name, None)
    if not callable(found):
        known = [k for k, v in vars(module).items() if callable(v) and not k.startswith("_")]
        raise source.error(path, f"{target} has no function {name!r}. {nearest(name, known)}")
    return found  # type: ignore[no-any-return]


def _load_term(label: str, spec: RewardSpec, source: Source) -> Term:
    path: Path_ = ("rewards", label)
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", label) or label in _RESERVED:
        raise source.error(
            path,
            f"{label!r} cannot name a column: use letters, digits, '_' and '-', beginning with a letter, and none of "
            f"{', '.join(_RESERVED)}.",
        )
    kinds = [k for k in ("oracle", "python", "command") if getattr(spec, k) is not None]
    if len(kinds) != 1:
        raise source.error(
            path, f"give exactly one of oracle, python and command, not {' and '.join(kinds) or 'none'}. "
            f"Known oracles: {', '.join(names('reward'))}."
        )
    if spec.oracle is not None:
        try:
            inner = load_reward(spec.oracle, **spec.params)
        except SpecError as error:
            at = (*path, "params", *error.path) if error.path else (*path, "oracle")
            raise source.error(at, str(error)) from error
    elif spec.params:
        raise source.error((*path, "params"), "only an oracle takes params. Remove them.")
    elif spec.python is not None:
        inner = function(_python(spec.python, source, (*path, "python")), label)
    else:
        assert spec.command is not None
        try:
            inner = Command(spec.command, label)
        except ValueError as error:
            raise source.error((*path, "command"), str(error)) from error
    if spec.role == "guide" and spec.weight == 0:
        raise source.error((*path, "weight"), "a guide of weight 0 guides nothing. Use role: final, or another weight.")
    if spec.on_failure == "reject" and spec.weight < 0:
        raise source.error(
            (*path, "weight"), "a negative weight would turn a rejected design into the best one. Use on_failure: raise."
        )
    raw = Cached(_Oracle(label, inner, spec.on_failure, spec.unit))
    scaled: Reward = raw
    if spec.clip is not None:
        try:
            scaled = scaled.clip(*spec.clip)
        except ValueError as error:
            raise source.error((*path, "clip"), str(error)) from error
    if spec.scale == "zscore":
        scaled = scaled.zscore()
    return Term(label, raw, scaled, spec)


def _probe(term: Term, model: Model, source: Source) -> None:
    """Try a reward on three allowed designs, and its gradient if it says it has one."""
    designs = reference_designs(model)
    path = ("rewards", term.label)
    try:
        evaluate(term.raw, designs)
        if term.raw.differentiable:
            hot = torch.nn.functional.one_hot(designs.x, len(model.process.alphabet)).double()
            got = term.raw.relaxed(hot)
            if tuple(got.shape) != designs.shape or not bool(torch.isfinite(got).all()):
                raise RewardError(
                    f"Reward {term.label!r} gives shape {tuple(got.shape)} or values that are not finite on relaxed "
                    f"designs; it must give (B, K) finite numbers."
                )
    except (ValueError, TypeError) as error:
        raise source.error(path, f"tried on {model.wild_type and 'the wild type' or 'a first design'}: {error}") from error


def _card_id(kind: Literal["reward", "model"], name: str) -> dict[str, str]:
    data = card(kind, name)
    point = entry(kind, name)
    dist = point.dist
    text = yaml.safe_dump(data, sort_keys=True)
    return {
        "name": name,
        "from": point.value,
        "version": str(data.get("version", dist.version if dist is not None else "unknown")),
        "card_sha256": hashlib.sha256(text.encode()).hexdigest()[:16],
    }


_FILTER = re.compile(r"^\s*([A-Za-z][\w-]*)\s*(<=|>=|==|!=|<|>)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*$")


def _columns(campaign: Campaign) -> list[str]:
    labels = list(campaign.rewards)
    numbers = ["n_mut", "seq_recovery", "total", "log_w", "copies", "prior", "prior_per_residue"]
    return [*numbers, *labels, *(f"{x}_scaled" for x in labels)]


def _check_select(campaign: Campaign, source: Source) -> None:
    known = _columns(campaign)
    for i, text in enumerate(campaign.select.filters):
        match = _FILTER.match(text)
        if match is None:
            raise source.error(
                ("select", "filters", i), f"cannot read {text!r}: write COLUMN < NUMBER, with one of < <= > >= == !=."
            )
        if match[1] not in known:
            raise source.error(("select", "filters", i), f"there is no column {match[1]!r}. {nearest(match[1], known)}")
    rank = campaign.select.rank_by
    if rank != "pareto" and rank.removeprefix("-") not in known:
        raise source.error(
            ("select", "rank_by"), f"there is no column {rank!r}. {nearest(rank, ['pareto', *known])}"
        )


def prepare(campaign: Campaign, source: Source) -> Plan:
    """Find, build and try every part of a campaign; nothing expensive runs.

    Raises:
        CampaignError: something is wrong; the message names place, value and cure.
    """
    for label, spec in campaign.rewards.items():
        if spec.oracle is not None:
            try:
                entry("reward", spec.oracle)
            except SpecError as error:
                raise source.error(("rewards", label, "oracle"), str(error)) from error
    known = ["unguided", *names("method")]
    for i, name in enumerate(campaign.baselines):
        if name not in known:
            raise source.error(("baselines", i), f"there is no baseline {name!r}. {nearest(name, known)}")
        if name in campaign.baselines[:i]:
            raise source.error(("baselines", i), f"{name!r} is given twice. Keep one.")
    _check_select(campaign, source)
    sampler = campaign.sampler
    try:
        method = build_method(sampler.name, sampler.model_extra or {})
    except SpecError as error:
        raise source.error(("sampler", *(error.path or ("name",))), str(error)) from error
    islands = sampler.islands
    if campaign.budget.designs is not None:
        needed = math.ceil(campaign.budget.designs / sampler.particles)
        if islands is None:
            islands = needed
        elif islands * sampler.particles < campaign.budget.designs:
            raise source.error(
                ("budget", "designs"),
                f"{campaign.budget.designs} designs need {needed} islands of {sampler.particles} particles, but "
                f"sampler.islands is {islands}. Raise islands, or leave it out.",
            )
    islands = islands or 1
    model, digest = _load_space(campaign, source)
    if model.wild_type is None:
        used = [t for t in (*campaign.select.filters, campaign.select.rank_by) if re.match(r"-?(n_mut|seq_recovery)", t)]
        if used:
            raise source.error(("select",), f"{used[0]!r} needs a wild type. Give input.wild_type.")
    terms = tuple(_load_term(label, spec, source) for label, spec in campaign.rewards.items())
    guides = [t for t in terms if t.spec.role == "guide"]
    if not guides:
        raise source.error(("rewards",), "no reward has role: guide, so there is nothing to align to. Give one that role.")
    objective = Sum(tuple((t.spec.weight, t.scaled) for t in guides))
    for term in terms:
        _probe(term, model, source)
    try:
        first = rehearse(method, model, objective)
    except (TypeError, ValueError) as error:
        raise source.error(("sampler",), str(error)) from error
    arms = [Arm("aligned", method, sampler.particles)]
    rehearsals = {"aligned": first}
    wanted = list(dict.fromkeys("best_of_n" if n == "unguided" else n for n in campaign.baselines))
    for i, name in enumerate(wanted):
        if name == sampler.name and not sampler.model_extra:
            continue
        try:
            other = build_method(name, {"alpha": method.alpha})
            trial = rehearse(other, model, objective)
        except (SpecError, TypeError, ValueError) as error:
            raise source.error(("baselines", i), str(error)) from error
        # the same number of network calls, at least
        size = max(1, math.ceil(first.network * sampler.particles / trial.network))
        arms.append(Arm(name if name != "aligned" else "baseline-aligned", other, size, ("baseline", name)))
        rehearsals[name] = trial
    config = {
        "seqalign": version("seqalign"),
        **campaign.model_dump(mode="json"),
        "resolved": {
            "wild_type": model.wild_type,
            "input_sha256": digest,
            "islands": islands,
            "steps": model.process.steps,
            "free": "".join("1" if a == model.space.alphabet.mask_symbol else "0" for a in model.space.fixed),
            "sampler": to_mapping(method),
            "arms": {a.name: {**to_mapping(a.method), "particles": a.particles} for a in arms},
            "model": _card_id("model", campaign.model.name),
            "rewards": {
                t.label: _card_id("reward", t.spec.oracle)
                if t.spec.oracle is not None
                else {"python": t.spec.python, "sha256": _file_hash(source.folder / t.spec.python.rpartition(":")[0])}
                if t.spec.python is not None
                else {"command": t.spec.command}
                for t in terms
            },
        },
    }
    plan = Plan(
        campaign, source, model, terms, objective, tuple(arms), islands, "unguided" in campaign.baselines, rehearsals, config
    )
    for key, limit in campaign.budget.calls.items():
        path = ("budget", "calls", key)
        if key == "network":
            need = plan.network_calls
        elif key in campaign.rewards:
            need = plan.reward_calls if campaign.rewards[key].role == "guide" else _designs(plan)
        else:
            raise source.error(path, f"there is no {key!r} to count. {nearest(key, ['network', *campaign.rewards])}")
        if need > limit:
            raise source.error(
                path, f"the run needs {need} calls of {key}, more than {limit}. Lower sampler.particles or islands, "
                f"drop baselines, or raise the limit."
            )
    return plan


def _file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _designs(plan: Plan) -> int:
    return sum(a.particles for a in plan.arms) * plan.islands + 1


@dataclass(frozen=True)
class Estimate:
    """What a run will cost.

    Attributes:
        network: network calls per arm, calibration and evaluation included.
        oracle: calls per reward, at most.
        seconds: from one timed network call and one timed call of each reward.
        gigabytes: a guess at the peak of memory.
    """

    network: Mapping[str, int]
    oracle: Mapping[str, int]
    seconds: float
    gigabytes: float


def estimate(plan: Plan) -> Estimate:
    """Time one small network call and one call of each reward, and multiply."""
    process, n = plan.model.process, min(plan.arms[0].particles, 16)
    network = {
        a.name: round(plan.rehearsals[a.name].network * a.particles) * plan.islands for a in plan.arms
    }
    if any(t.spec.scale == "zscore" for t in plan.guides()):
        network["calibration"] = REFERENCES * plan.model.space.free
    network["evaluation"] = _designs(plan) * PRIOR_ORDERS * plan.model.space.free
    oracle = {
        t.label: plan.reward_calls if t.spec.role == "guide" else _designs(plan) for t in plan.terms
    }
    x = torch.full((1, n, process.length), process.alphabet.mask)
    x = plan.model.space.start(x)
    laps = []
    with torch.no_grad():
        for _ in range(3):
            begin = time.perf_counter()
            law = process.posterior(x, 1.0)
            plan.model.space.condition(law, x, process.unknown(x))
            laps.append((time.perf_counter() - begin) / n)
    seconds = min(laps[1:]) * sum(network.values())
    hot = law.mean
    for t in plan.terms:
        begin = time.perf_counter()
        if t.spec.role == "guide" and t.raw.differentiable:
            with torch.no_grad():
                t.raw.relaxed(hot)
            each = 3 * (time.perf_counter() - begin) / n  # and its gradient
        else:
            each = t.raw.cost
        seconds += each * oracle[t.label]
    most = max(a.particles * getattr(a.method, "branch", 1) for a in plan.arms)
    state = most * process.length * (len(process.alphabet) + 1) * 8
    return Estimate(network, oracle, seconds, 0.6 + 40 * state / 1e9)


# running -----------------------------------------------------------------------------------------------------------


def run(
    plan: Plan,
    folder: RunFolder,
    *,
    fresh: bool = False,
    progress: Progress | None = None,
    evaluating: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Run or continue a campaign in a folder and return its summary; a finished run is only read.

    Raises:
        ValueError: the folder holds another run.
        RewardError: a reward broke its contract during the run; finished islands are kept.
    """
    with folder.lock():
        folder.open(plan.config, fresh)
        if folder.done:
            return folder.read_json("summary.json")
        objective, calibration = settle(plan.model, plan.objective, plan.campaign.seed)
        constants = _constants(objective)
        results: dict[str, Samples] = {}
        seconds: dict[str, float] = {}
        for arm in plan.arms:
            results[arm.name], seconds[arm.name] = run_arm(
                arm,
                plan.model,
                objective,
                seed=plan.campaign.seed,
                islands=range(plan.islands),
                folder=folder,
                progress=progress,
            )
        return _finish(plan, folder, objective, results, seconds, calibration, constants, evaluating)


def _constants(reward: Reward) -> dict[str, dict[str, float]]:
    found = {}
    for _, term in reward.terms if isinstance(reward, Sum) else ():
        if hasattr(term, "mean") and hasattr(term, "std"):
            found[term.name] = {"mean": term.mean, "std": term.std}
    return found


@dataclass(frozen=True)
class _Scored:
    """Distinct sequences with every number that tables need."""

    rows: Mapping[str, dict[str, Any]]

    def of(self, sequences: Sequence[str], key: str) -> list[float]:
        return [float(self.rows[s][key]) for s in sequences]


def _score(
    plan: Plan, objective: Reward, sequences: Sequence[str], evaluating: Callable[[int], None] | None
) -> _Scored:
    model, space = plan.model, plan.model.space
    distinct = list(dict.fromkeys(sequences))
    designs = Designs.of(distinct, space.alphabet)
    free = [i for i, a in enumerate(space.fixed) if a == space.alphabet.mask_symbol]
    columns: dict[str, list[float]] = {}
    scaled = {term.name: term for _, term in objective.terms} if isinstance(objective, Sum) else {}
    for t in plan.terms:
        columns[t.label] = evaluate(t.raw, designs)[0].tolist()
        if t.label in scaled:
            columns[f"{t.label}_scaled"] = evaluate(scaled[t.label], designs)[0].tolist()
    columns["total"] = evaluate(objective, designs)[0].tolist()
    prior = prior_log_likelihood(
        model.process, designs.x[0], free, orders=PRIOR_ORDERS, seed=plan.campaign.seed, observe=evaluating
    )
    columns["prior"] = prior.tolist()
    columns["prior_per_residue"] = (prior / len(free)).tolist()
    rows = {}
    for i, s in enumerate(distinct):
        row: dict[str, Any] = {"sequence": s, **{k: v[i] for k, v in columns.items()}}
        if model.wild_type is not None:
            names_ = mutations(s, model.wild_type)
            row |= {
                "mutations": ":".join(names_),
                "n_mut": len(names_),
                "seq_recovery": recovery(s, model.wild_type, free),
            }
        rows[s] = row
    return _Scored(rows)


def _flat(samples: Samples) -> tuple[list[str], list[float]]:
    """Return all sequences and their log-weights, islands pooled by their log Z."""
    sequences = [s for row in samples.designs.sequences for s in row]
    return sequences, torch.log(samples.weights).flatten().tolist()


def _row(
    plan: Plan, scored: _Scored, name: str, which: str, sequences: Sequence[str]
) -> dict[str, Any]:
    """Return one line of the comparison: means over the sequences given."""
    keys = [*(t.label for t in plan.terms), "total", "prior", "prior_per_residue"]
    if plan.model.wild_type is not None:
        keys += ["n_mut"]
    row: dict[str, Any] = {"row": name, "which": which, "n": len(sequences)}
    for key in keys:
        finite = [v for v in scored.of(sequences, key) if math.isfinite(v)]
        row[key] = statistics.fmean(finite) if finite else None
        if len(finite) > 1 and key not in ("prior", "n_mut"):
            row[f"{key}_sd"] = statistics.stdev(finite)
    row["diversity"] = diversity(sequences)
    return row


def _top(scored: _Scored, sequences: Sequence[str], n: int = TOP) -> list[str]:
    distinct = list(dict.fromkeys(sequences))
    finite = [s for s in distinct if scored.rows[s]["total"] > -math.inf]
    return sorted(finite, key=lambda s: -scored.rows[s]["total"])[:n]


def _finish(
    plan: Plan,
    folder: RunFolder,
    objective: Reward,
    results: Mapping[str, Samples],
    seconds: Mapping[str, float],
    calibration: int,
    constants: Mapping[str, Any],
    evaluating: Callable[[int], None] | None,
) -> dict[str, Any]:
    campaign, model = plan.campaign, plan.model
    flat = {name: _flat(samples) for name, samples in results.items()}
    everything = [s for sequences, _ in flat.values() for s in sequences]
    if model.wild_type is not None:
        everything = [model.wild_type, *everything]
    begin = time.perf_counter()
    scored = _score(plan, objective, everything, evaluating)
    judged = time.perf_counter() - begin

    rows = []
    if model.wild_type is not None:
        rows.append(_row(plan, scored, "wild type", "1 sequence", [model.wild_type]))
    for arm in plan.arms[1:]:
        sequences = flat[arm.name][0]
        if arm.name == "best_of_n":
            if plan.unguided:
                rows.append(_row(plan, scored, "unguided", f"all {len(sequences)}", sequences))
            if "best_of_n" in campaign.baselines:
                top = _top(scored, sequences)
                rows.append(_row(plan, scored, f"best of {len(sequences)}", f"top {len(top)}", top))
        else:
            top = _top(scored, sequences)
            rows.append(_row(plan, scored, arm.name, f"all {len(sequences)}", sequences))
            rows.append(_row(plan, scored, arm.name, f"top {len(top)}", top))
    sequences = flat["aligned"][0]
    top = _top(scored, sequences)
    rows.append(_row(plan, scored, "aligned", f"all {len(sequences)}", sequences))
    rows.append(_row(plan, scored, "aligned", f"top {len(top)}", top))

    kept, rejected = _select(plan, scored, *flat["aligned"])
    labels = [t.label for t in plan.terms]
    guides = [t.label for t in plan.guides()]
    columns = [
        "id",
        "sequence",
        *(("mutations", "n_mut", "seq_recovery") if model.wild_type is not None else ()),
        *labels,
        *(f"{x}_scaled" for x in guides),
        "total",
        "prior",
        "prior_per_residue",
        "log_w",
        "copies",
        "method",
        "seed",
    ]
    folder.write("designs.csv", to_csv(kept, columns))
    folder.write("rejected.csv", to_csv(rejected, [*columns, "reason"]))
    others = [
        {**scored.rows[s], "id": f"{a.name}-{n:04d}", "log_w": w, "method": a.name, "seed": campaign.seed}
        for a in plan.arms[1:]
        for n, (s, w) in enumerate(zip(*flat[a.name], strict=True), 1)
    ]
    folder.write("baselines.csv", to_csv(others, [c for c in columns if c != "copies"]))
    folder.write("designs.fasta", _fasta(plan, scored, kept))
    folder.write_lines("trace.jsonl", _trace(plan, results))

    aligned = results["aligned"]
    network = {name: s.network_calls for name, s in results.items()}
    free = model.space.free
    summary: dict[str, Any] = {
        "name": campaign.name,
        "seqalign": version("seqalign"),
        "seed": campaign.seed,
        "designs": len(kept),
        "rejected": len(rejected),
        "drawn": len(sequences),
        "distinct": len(set(sequences)),
        "rows": rows,
        "guides": guides,
        "holdouts": [t.label for t in plan.terms if t.spec.role == "holdout"],
        "finals": [t.label for t in plan.terms if t.spec.role == "final"],
        "units": {t.label: t.raw.inner.unit if isinstance(t.raw, Cached) else t.raw.unit for t in plan.terms},
        "zscore": constants,
        "gains": _gains(plan, rows, scored),
        "network_calls": {
            **network,
            **({"calibration": calibration} if calibration else {}),
            "evaluation": len(scored.rows) * PRIOR_ORDERS * free,
        },
        "reward_calls": {name: s.reward_calls for name, s in results.items()},
        "prior_orders": PRIOR_ORDERS,
        "log_z": None if aligned.log_z is None else aligned.log_z.tolist(),
        "ess": (aligned.ess / aligned.rewards.shape[1]).tolist(),
        "weighted_mean": {
            x: _weighted(scored.of(sequences, x), flat["aligned"][1]) for x in [*labels, "total"]
        },
        "seconds": {**seconds, "evaluation": judged},
    }
    folder.write("report.html", render(folder, summary))
    folder.write_json("summary.json", summary)
    return summary


def _weighted(values: Sequence[float], log_w: Sequence[float]) -> float | None:
    pairs = [(math.exp(w), v) for v, w in zip(values, log_w, strict=True) if w > -math.inf and math.isfinite(v)]
    total = sum(w for w, _ in pairs)
    return sum(w * v for w, v in pairs) / total if total > 0 else None


def _gains(plan: Plan, rows: Sequence[Mapping[str, Any]], scored: _Scored) -> dict[str, dict[str, float | None]]:
    """Return, per reward, the gain of the aligned top over the wild type, unguided designs and best-of-N."""
    by = {(r["row"], str(r["which"]).split()[0]): r for r in rows}
    aligned = by[("aligned", "top")]
    best = next((r for r in rows if str(r["row"]).startswith("best of ")), None)
    plain = by.get(("unguided", "all"))
    wild = next((r for r in rows if r["row"] == "wild type"), None)
    gains: dict[str, dict[str, float | None]] = {}
    for t in plan.terms:
        def over(row: Mapping[str, Any] | None, label: str = t.label) -> float | None:
            if row is None or row[label] is None or aligned[label] is None:
                return None
            return float(aligned[label] - row[label])

        deviation = plain.get(f"{t.label}_sd") if plain else None
        gain = over(plain)
        gains[t.label] = {
            "over_wild_type": over(wild),
            "over_unguided": gain,
            "over_best_of_n": over(best),
            "in_unguided_sd": gain / deviation if gain is not None and deviation else None,
        }
    return gains


_TESTS: dict[str, Callable[[float, float], bool]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}


def _select(
    plan: Plan, scored: _Scored, sequences: Sequence[str], log_w: Sequence[float]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return designs kept, best first, and designs rejected with a reason; equal designs are one."""
    select, seed = plan.campaign.select, plan.campaign.seed
    weights: dict[str, list[float]] = {}
    for s, w in zip(sequences, log_w, strict=True):
        weights.setdefault(s, []).append(w)
    pool = []
    for s, ws in weights.items():
        log_sum = float(np.logaddexp.reduce(ws))
        pool.append(
            {**scored.rows[s], "log_w": log_sum, "copies": len(ws), "method": plan.campaign.sampler.name, "seed": seed}
        )
    good: list[dict[str, Any]] = []
    bad: list[dict[str, Any]] = []
    for row in pool:
        reason = _fault(plan, row)
        (good if reason is None else bad).append(row if reason is None else {**row, "reason": reason})
    good = _ranked(plan, good)
    apart, kept = select.diversity.min_mutations_apart, []
    for row in good:
        near = next(
            (k for k in kept if apart and sum(a != b for a, b in zip(k["sequence"], row["sequence"], strict=True)) < apart),
            None,
        )
        if near is not None:
            bad.append({**row, "reason": f"closer than {apart} mutations to {near['mutations'] if 'mutations' in near else near['sequence']}"})
        elif select.top is not None and len(kept) >= select.top:
            bad.append({**row, "reason": f"below the top {select.top}"})
        else:
            kept.append(row)
    width = max(4, len(str(len(kept))))
    for n, row in enumerate(kept, 1):
        row["id"] = f"d{n:0{width}d}"
    for n, row in enumerate(bad, 1):
        row["id"] = f"r{n:0{width}d}"
    return kept, bad


def _fault(plan: Plan, row: Mapping[str, Any]) -> str | None:
    broken = plan.model.space.violations(row["sequence"])
    if broken:
        return f"constraint: {broken[0]}"
    for t in plan.guides():
        if row[t.label] == -math.inf:
            return f"rejected by {t.label}"
    for text in plan.campaign.select.filters:
        match = _FILTER.match(text)
        assert match is not None
        if not _TESTS[match[2]](float(row[match[1]]), float(match[3])):
            return f"filter: {text} (is {float(row[match[1]]):.4g})"
    return None


def _ranked(plan: Plan, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rank = plan.campaign.select.rank_by
    if rank == "pareto":
        labels = [t for t in plan.terms if t.spec.role in ("guide", "final")]
        if not rows:
            return rows
        values = np.array([[math.copysign(1, t.spec.weight) * r[t.label] for t in labels] for r in rows])
        fronts = pareto_rank(values)
        order = sorted(range(len(rows)), key=lambda i: (fronts[i], -rows[i]["total"], rows[i]["sequence"]))
        return [rows[i] for i in order]
    sign = 1.0 if rank.startswith("-") else -1.0
    key = rank.removeprefix("-")
    return sorted(rows, key=lambda r: (sign * float(r[key]), r["sequence"]))


def _fasta(plan: Plan, scored: _Scored, kept: Sequence[Mapping[str, Any]]) -> str:
    if plan.campaign.output.fasta_style == "plain":
        return fasta((str(row["id"]), str(row["sequence"])) for row in kept)
    records = []
    wild = plan.model.wild_type
    labels = [t.label for t in plan.terms]
    if wild is not None:
        row = scored.rows[wild]
        extra = "".join(f", {x}={row[x]:.4f}" for x in labels)
        records.append(
            (f"{plan.campaign.name}, wild_type, score={-row['prior_per_residue']:.4f}, seed={plan.campaign.seed}{extra}", wild)
        )
    for n, row in enumerate(kept, 1):
        header = f"T={plan.model.process.temperature:g}, sample={n}, score={-row['prior_per_residue']:.4f}"
        if "seq_recovery" in row:
            header += f", seq_recovery={row['seq_recovery']:.4f}"
        header += f", id={row['id']}, total={row['total']:.4f}"
        header += "".join(f", {x}={row[x]:.4f}" for x in labels)
        if "mutations" in row:
            header += f", mutations={row['mutations'] or 'none'}"
        records.append((header, str(row["sequence"])))
    return fasta(records)


def _trace(plan: Plan, results: Mapping[str, Samples]) -> Iterator[dict[str, Any]]:
    for arm in plan.arms:
        samples = results[arm.name]
        for b in range(plan.islands):
            alive = surviving(
                [None if s.ancestors is None else s.ancestors[b] for s in samples.trace], arm.particles
            )
            for s, count in zip(samples.trace, alive, strict=True):
                yield {
                    "arm": arm.name,
                    "island": b,
                    "step": s.step,
                    "ess": float(s.ess[b]),
                    "lam": float(s.lam[b]),
                    "log_z": float(s.log_z[b]),
                    "value_mean": float(s.value_mean[b]) * arm.method.alpha,
                    "value_max": float(s.value_max[b]) * arm.method.alpha,
                    "survivors": count,
                    "resampled": s.ancestors is not None,
                    "network_calls": s.network_calls // plan.islands,
                    "reward_calls": s.reward_calls // plan.islands,
                }
