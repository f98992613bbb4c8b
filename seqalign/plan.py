"""A plan: a campaign whose every part has been found, built and tried before anything runs.

A name, a parameter, a constraint that cannot be met, a reward that breaks its contract: each stops
here, with the place in the file, at the cost of a few reward calls and no sampling.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import Tensor

from seqalign.campaign import (
    Campaign,
    ConstraintSpec,
    DesignSpec,
    KeyPath,
    ResidueSpec,
    RewardSpec,
    Source,
)
from seqalign.executor import Arm, Rehearsal, reference_designs, references, rehearse
from seqalign.mpnn_files import import_options
from seqalign.objective import (
    Cached,
    Command,
    OnFailure,
    Reward,
    RewardError,
    Sum,
    evaluate,
    function,
)
from seqalign.process import Designs
from seqalign.registry import (
    ImageModel,
    Model,
    SpecError,
    build_method,
    card,
    draws_images,
    entry,
    load_model,
    load_reward,
    names,
    nearest,
    parameters,
    to_mapping,
)
from seqalign.store import read_fasta
from seqalign.streams import Streams
from seqalign.structure import Structure, read_structure

__all__ = [
    "FILTER",
    "PRIOR_ORDERS",
    "Estimate",
    "Plan",
    "Term",
    "check_select",
    "estimate",
    "prepare",
]

PRIOR_ORDERS = 2
"""Random reveal orders behind each reported log-likelihood."""


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
                [
                    torch.cat([self(designs[i : i + 1, j : j + 1])[0] for j in range(k)])
                    for i in range(b)
                ]
            )
        if tuple(r.shape) != designs.shape:
            return r
        return torch.where(torch.isnan(r) | (r == torch.inf), -torch.inf, r)

    def relaxed(self, x: Tensor) -> Tensor:
        return self.inner.relaxed(x)

    def graded(self, designs: Designs) -> Tensor:
        return self.inner.graded(designs)


@dataclass(frozen=True)
class Term:
    """One reward of a campaign.

    Attributes:
        label: its name in tables.
        raw: the oracle; cached for sequences, which come again, and not for images.
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
        islands: of the run, all prompts together.
        rehearsals: per arm, what one island asks for.
        config: resolved configuration, with every default, hash and version.
        replicates: islands per prompt of an image model.
    """

    campaign: Campaign
    source: Source
    model: Model | ImageModel
    structure: Structure | None
    terms: tuple[Term, ...]
    objective: Reward
    arms: tuple[Arm, ...]
    islands: int
    unguided: bool
    rehearsals: Mapping[str, Rehearsal]
    config: Mapping[str, Any]
    replicates: int = 1

    @property
    def letters(self) -> Model:
        """The model of a campaign that designs sequences.

        Raises:
            CampaignError: the campaign draws images.
        """
        if isinstance(self.model, ImageModel):
            raise self.source.error(
                ("model", "name"),
                f"{self.model.name!r} draws images, and this needs a campaign that designs "
                "sequences.",
            )
        return self.model

    @property
    def drawn(self) -> int:
        """Designs of all arms, with copies."""
        return sum(a.particles for a in self.arms) * self.islands

    def guides(self) -> list[Term]:
        """Return the rewards that guide."""
        return [t for t in self.terms if t.spec.role == "guide"]

    @property
    def network_calls(self) -> int:
        """Network calls of all arms."""
        return (
            sum(round(self.rehearsals[a.name].network * a.particles) for a in self.arms)
            * self.islands
        )

    @property
    def reward_calls(self) -> int:
        """Calls of every guide reward in all arms."""
        return (
            sum(round(self.rehearsals[a.name].reward * a.particles) for a in self.arms)
            * self.islands
        )


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
    "row",
    "which",
    "designs",
    "diversity",
    "prompt",
    "file",
    "vendi",
)


def _wild_type(campaign: Campaign, source: Source) -> tuple[str | None, str | None]:
    """Return the given wild type (None for the model's own) and the hash of its file."""
    given, path = campaign.input.wild_type, ("input", "wild_type")
    if given in ("model", "structure"):
        return None, None
    digest = None
    text = "".join(given.split())
    if not text:
        raise source.error(
            path, "the wild type is empty. Give a sequence, a FASTA file, or 'model'."
        )
    if any(c in "./\\" for c in text):
        file = source.folder / given
        try:
            records = read_fasta(file)
        except FileNotFoundError as error:
            raise source.error(
                path, f"{given!r}: there is no file {file}. Paths start from the campaign's folder."
            ) from error
        except OSError as error:
            raise source.error(path, f"{given!r} cannot be read: {error}.") from error
        except ValueError as error:
            raise source.error(path, str(error)) from error
        if len(records) > 1:
            raise source.error(
                path,
                f"{given!r} holds {len(records)} sequences; a campaign has one wild type. Keep one "
                "record.",
            )
        text = records[0][1]
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return text, digest


_ELSEWHERE = {
    "structure": "input.structure",
    "chains": "input.chains",
    "context": "input.context",
    "numbering": "input.numbering",
    "wild_type": "input.wild_type",
    "design": "design.residues",
    "fix": "design.fix",
    "omit": "constraints.omit",
    "allow": "constraints.residues.RESIDUES.allow",
    "omit_at": "constraints.residues.RESIDUES.omit",
    "bias": "constraints.residues.RESIDUES.bias",
    "tie": "constraints.tie",
    "homo_oligomer": "constraints.homo_oligomer",
    "max_mutations": "constraints.max_mutations",
    "max_homopolymer": "constraints.max_homopolymer",
    "composition": "constraints.composition",
    "forbid": "constraints.forbid",
    "net_charge": "constraints.net_charge",
}


def _structure(campaign: Campaign, source: Source) -> tuple[Structure | None, str | None]:
    """Return the backbone of a campaign, if it has one, and the hash of its file."""
    given = campaign.input
    if given.structure is None:
        for key in ("chains", "context"):
            if getattr(given, key) is not None:
                raise source.error(
                    ("input", key), "chains belong to a structure. Give input.structure too."
                )
        return None, None
    file = source.folder / given.structure
    try:
        structure = read_structure(
            file, chains=given.chains, context=given.context, numbering=given.numbering
        )
    except (OSError, ValueError) as error:
        raise source.error(("input", "structure"), str(error)) from error
    return structure, _file_hash(file)


def _load_space(
    campaign: Campaign, source: Source, structure: Structure | None
) -> tuple[Model, str | None]:
    spec = campaign.model
    params = dict(spec.model_extra or {})
    for key in params:
        if key in _ELSEWHERE:
            other = _ELSEWHERE[key]
            raise source.error(("model", key), f"this does not belong here; write {other}.")
    if spec.device == "cuda":
        raise source.error(
            ("model", "device"), f"{spec.name!r} runs on the CPU; choose 'auto' or 'cpu'."
        )
    for key in ("prompts", "negative_prompt"):
        if getattr(campaign.input, key) is not None:
            raise source.error(
                ("input", key),
                f"the model {spec.name!r} designs sequences and reads no prompts. Remove the key, "
                "or choose an image model.",
            )
    wild, digest = _wild_type(campaign, source)
    takes = parameters("model", spec.name)
    if structure is not None:
        if "structure" not in takes:
            able = [n for n in names("model") if "structure" in parameters("model", n)]
            raise source.error(
                ("model", "name"),
                f"the model {spec.name!r} does not look at a structure, and input.structure gives "
                f"one. Models that do: {', '.join(able)}.",
            )
        params["structure"] = structure
    elif "structure" in takes:
        raise source.error(
            ("model", "name"),
            f"the model {spec.name!r} designs for a backbone. Give input.structure, a PDB or mmCIF "
            "file.",
        )
    constraints = campaign.constraints
    fix: Any = campaign.design.fix
    given = _imported(campaign, source, structure)
    if given.get("fix"):
        if isinstance(fix, dict):
            raise source.error(
                ("design", "fix"),
                "letters cannot be given here when design.proteinmpnn fixes residues too. Name "
                "residues, or leave one of the two out.",
            )
        fix = ", ".join(filter(None, (_joined(fix), given["fix"])))
    residues, charge = dict(constraints.residues), constraints.net_charge
    for key, item in given.get("residues", {}).items():
        if key in residues:
            raise source.error(
                ("constraints", "residues", key),
                "design.proteinmpnn speaks about it too. Keep one.",
            )
        residues[key] = ResidueSpec(**item)
    try:
        model = load_model(
            spec.name,
            wild_type=wild,
            design=_text(campaign.design.residues),
            fix=fix if isinstance(fix, dict) else _text(fix),
            omit="".join(dict.fromkeys(constraints.omit + given.get("omit", ""))),
            allow={k: v.allow for k, v in residues.items() if v.allow is not None},
            omit_at={k: v.omit for k, v in residues.items() if v.omit is not None},
            bias={k: v.bias for k, v in residues.items() if v.bias is not None},
            tie=[*constraints.tie, *given.get("tie", [])],
            homo_oligomer=constraints.homo_oligomer,
            max_mutations=constraints.max_mutations,
            max_homopolymer=constraints.max_homopolymer,
            composition={
                k: v.model_dump(exclude_none=True) for k, v in constraints.composition.items()
            },
            forbid=constraints.forbid,
            net_charge=None if charge is None else charge.model_dump(exclude_none=True),
            steps=spec.steps,
            **params,
        )
    except SpecError as error:
        raise source.error(("model", *error.path), str(error)) from error
    except (ValueError, TypeError) as error:
        raise source.error(_blame(str(error), campaign), str(error)) from error
    if not isinstance(model, Model):
        raise source.error(
            ("model", "name"),
            f"{spec.name!r} draws images, which nothing about it says: its factory needs the class "
            "of its process as return annotation.",
        )
    return model, digest


def _prompts(campaign: Campaign, source: Source) -> tuple[list[str] | None, str | None]:
    """Return the prompts, and the hash of the file they come from."""
    given, path = campaign.input.prompts, ("input", "prompts")
    digest = None
    if isinstance(given, str):
        file = source.folder / given
        try:
            data = file.read_bytes()
            lines = [line.strip() for line in data.decode("utf-8").splitlines()]
        except FileNotFoundError as error:
            raise source.error(
                path,
                f"{given!r}: there is no file {file}. Paths start from the campaign's folder; "
                "write a single prompt as a list, [...].",
            ) from error
        except (OSError, UnicodeDecodeError) as error:
            raise source.error(path, f"{given!r} cannot be read as text: {error}.") from error
        given, digest = [line for line in lines if line], hashlib.sha256(data).hexdigest()
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


def _load_images(campaign: Campaign, source: Source) -> tuple[ImageModel, str | None]:
    """Return the model of an image campaign, and the hash of the file of prompts."""
    spec, asked = campaign.model, campaign.input
    said: list[tuple[KeyPath, bool]] = [
        (("input", "structure"), asked.structure is not None),
        (("input", "chains"), asked.chains is not None),
        (("input", "context"), asked.context is not None),
        (("input", "wild_type"), asked.wild_type != "model"),
        (("design",), campaign.design != DesignSpec()),
        (("constraints",), campaign.constraints != ConstraintSpec()),
    ]
    for path, there in said:
        if there:
            raise source.error(
                path,
                f"the model {spec.name!r} draws images, and this is about the letters of "
                "sequences. Remove it.",
            )
    params = dict(spec.model_extra or {})
    for key in ("prompt", "prompts", "negative_prompt"):
        if key in params:
            other = "negative_prompt" if key == "negative_prompt" else "prompts"
            raise source.error(("model", key), f"this does not belong here; write input.{other}.")
    takes = parameters("model", spec.name)
    prompts, digest = _prompts(campaign, source)
    if "prompts" in takes:
        if prompts is None:
            raise source.error(
                ("input", "prompts"),
                f"the model {spec.name!r} draws what it is asked for. Give input.prompts, a list "
                "of texts or a file with one on each line.",
            )
        params["prompts"] = prompts
    elif prompts is not None:
        raise source.error(
            ("input", "prompts"), f"the model {spec.name!r} reads no prompts. Remove the key."
        )
    if asked.negative_prompt is not None:
        if "negative_prompt" not in takes:
            raise source.error(
                ("input", "negative_prompt"),
                f"the model {spec.name!r} takes no negative prompt. Remove the key.",
            )
        params["negative_prompt"] = asked.negative_prompt
    if "device" in takes:
        params["device"] = spec.device
    elif spec.device == "cuda":
        raise source.error(
            ("model", "device"), f"{spec.name!r} runs on the CPU; choose 'auto' or 'cpu'."
        )
    try:
        model = load_model(spec.name, steps=spec.steps, **params)
    except SpecError as error:
        where = error.path or ("name",)
        at = ("input", *where) if where[0] in ("prompts", "negative_prompt") else ("model", *where)
        raise source.error(at, str(error)) from error
    assert isinstance(model, ImageModel)
    return model, digest


def _text(given: Any) -> Any:
    return str(given) if isinstance(given, int) else given


def _joined(given: str | int | Sequence[str | int]) -> str:
    return ", ".join(map(str, given)) if isinstance(given, (list, tuple)) else str(given)


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
    try:
        return import_options(there, structure.name, structure.numbering, structure.known.tolist())
    except (OSError, ValueError) as error:
        raise source.error(path, str(error)) from error


def _blame(message: str, campaign: Campaign) -> KeyPath:
    """Return the key an error of the design space is about, as far as its words tell."""
    if message.startswith(("wild_type", "DesignSpace: wild_type")):
        return ("input", "wild_type")
    for key in ("design", "fix"):
        if message.startswith(f"{key}:"):
            return ("design", "residues" if key == "design" else key)
    start = message.partition(":")[0]
    if start in ("allow", "omit", "bias"):
        for key in campaign.constraints.residues:
            if any(f"{part.strip()!r}" in message for part in (key, *key.split(","))):
                return ("constraints", "residues", key)
        return ("constraints", "omit" if start == "omit" else "residues")
    # the constraint named first is the one that cannot be met
    found = [
        (place, key)
        for key in (
            "max_mutations",
            "tie",
            "homo_oligomer",
            "max_homopolymer",
            "composition",
            "forbid",
            "net_charge",
        )
        if (place := message.find(key)) >= 0
    ]
    if found:
        return ("constraints", min(found)[1])
    at = re.search(r"position (\w+)", message)
    if at is not None:
        if "is fixed to" in message:
            return ("design", "fix")
        for key in campaign.constraints.residues:
            if re.search(rf"(?<!\d){at[1]}(?!\w)", key) or "-" in key:
                return ("constraints", "residues", key)
    return ("design",) if "design" in message else ("constraints",)


def _python(text: str, source: Source, path: KeyPath) -> Callable[[Any], Any]:
    file, colon, name = text.rpartition(":")
    target = source.folder / file
    if not colon or not file or not name:
        raise source.error(path, f"{text!r}: write FILE.py:FUNCTION.")
    if not target.is_file():
        raise source.error(
            path, f"{text!r}: there is no file {target}. Paths start from the campaign's folder."
        )
    spec = importlib.util.spec_from_file_location(f"seqalign_user_{target.stem}", target)
    if spec is None or spec.loader is None:
        raise source.error(path, f"{text!r} is not a Python file; write FILE.py:FUNCTION.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise source.error(
            path, f"{target} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    found = getattr(module, name, None)
    if not callable(found):
        known = [k for k, v in vars(module).items() if callable(v) and not k.startswith("_")]
        raise source.error(path, f"{target} has no function {name!r}. {nearest(name, known)}")
    return found  # type: ignore[no-any-return]


def _load_term(
    label: str, spec: RewardSpec, source: Source, structure: Structure | None, images: bool
) -> Term:
    path: KeyPath = ("rewards", label)
    if (
        not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", label)
        or label in _RESERVED
        or label.endswith(("_scaled", "_sd"))
    ):
        raise source.error(
            path,
            f"{label!r} cannot name a column: use letters, digits, '_' and '-', beginning with a "
            "letter, and none of "
            f"{', '.join(_RESERVED)}.",
        )
    kinds = [k for k in ("oracle", "python", "command") if getattr(spec, k) is not None]
    if len(kinds) != 1:
        raise source.error(
            path,
            f"give exactly one of oracle, python and command, not {' and '.join(kinds) or 'none'}. "
            f"Known oracles: {', '.join(names('reward'))}.",
        )
    if spec.oracle is not None:
        params = dict(spec.params)
        try:
            # a reward that looks at a backbone looks at the campaign's, unless told otherwise
            if structure is not None and "structure" in parameters("reward", spec.oracle):
                params.setdefault("structure", structure)
            inner = load_reward(spec.oracle, **params)
        except SpecError as error:
            at = (*path, "params", *error.path) if error.path else (*path, "oracle")
            raise source.error(at, str(error)) from error
    elif spec.params:
        raise source.error((*path, "params"), "only an oracle takes params. Remove them.")
    elif spec.python is not None:
        inner = function(_python(spec.python, source, (*path, "python")), label)
    elif images:
        raise source.error(
            (*path, "command"),
            "a command scores a file of sequences, and this campaign draws images. Use python: "
            "FILE.py:FUNCTION, from a tensor (n, 3, H, W) to n numbers.",
        )
    else:
        assert spec.command is not None
        try:
            inner = Command(spec.command, label)
        except ValueError as error:
            raise source.error((*path, "command"), str(error)) from error
    if spec.role == "guide" and spec.weight == 0:
        raise source.error(
            (*path, "weight"),
            "a guide of weight 0 guides nothing. Use role: final, or another weight.",
        )
    if spec.on_failure == "reject" and spec.weight < 0:
        raise source.error(
            (*path, "weight"),
            "a negative weight would turn a rejected design into the best one. Use on_failure: "
            "raise.",
        )
    oracle = _Oracle(label, inner, spec.on_failure, spec.unit)
    # an image on its way hardly ever comes again, and its bytes are many
    raw: Reward = oracle if images else Cached(oracle)
    scaled = raw
    if spec.clip is not None:
        try:
            scaled = scaled.clip(*spec.clip)
        except ValueError as error:
            raise source.error((*path, "clip"), str(error)) from error
    if spec.scale == "zscore":
        scaled = scaled.zscore()
    return Term(label, raw, scaled, spec)


def _probe(term: Term, model: Model | ImageModel, designs: Designs, source: Source) -> None:
    """Try a reward on a few designs, and its gradient if it says it has one."""
    path = ("rewards", term.label)
    what = "decoded noise"
    if isinstance(model, Model):
        what = "the wild type" if model.wild_type else "a first design"
    try:
        evaluate(term.raw, designs)
        if term.raw.differentiable:
            x = designs.x.detach()
            if isinstance(model, Model):
                x = torch.nn.functional.one_hot(x, len(model.process.alphabet)).double()
                got = term.raw.relaxed(x)
            else:
                x = x.clone().requires_grad_()
                got = term.raw.graded(replace(designs, x=x))
            sound = tuple(got.shape) == designs.shape and bool(torch.isfinite(got).all())
            if sound and x.requires_grad:
                (slope,) = torch.autograd.grad(got.sum(), x)
                sound = bool(torch.isfinite(slope).all())
            if not sound:
                raise RewardError(
                    f"Reward {term.label!r} gives shape {tuple(got.shape)} or values that are not "
                    "finite on relaxed "
                    f"designs; it must give (B, K) finite numbers."
                )
    except (ValueError, TypeError) as error:
        raise source.error(path, f"tried on {what}: {error}") from error


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


FILTER = re.compile(
    r"^\s*([A-Za-z][\w-]*)\s*(<=|>=|==|!=|<|>)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*$"
)


def _columns(campaign: Campaign, images: bool) -> list[str]:
    labels = list(campaign.rewards)
    numbers = ["total", "log_w", "copies"]
    if not images:
        numbers += ["n_mut", "seq_recovery", "prior", "prior_per_residue"]
    guides = [x for x in labels if campaign.rewards[x].role == "guide"]
    return [*numbers, *labels, *(f"{x}_scaled" for x in guides)]


def check_select(campaign: Campaign, source: Source, images: bool = False) -> None:
    """Refuse filters and rankings by columns that the tables will not have.

    Raises:
        CampaignError: the message names the filter and the nearest column.
    """
    if images and campaign.select.diversity.min_mutations_apart:
        raise source.error(
            ("select", "diversity", "min_mutations_apart"),
            "images have no mutations. Remove it.",
        )
    known = _columns(campaign, images)
    for i, text in enumerate(campaign.select.filters):
        match = FILTER.match(text)
        if match is None:
            raise source.error(
                ("select", "filters", i),
                f"cannot read {text!r}: write COLUMN < NUMBER, with one of < <= > >= == !=.",
            )
        if match[1] not in known:
            raise source.error(
                ("select", "filters", i),
                f"there is no column {match[1]!r}. {nearest(match[1], known)}",
            )
    rank = campaign.select.rank_by
    if rank != "pareto" and rank.removeprefix("-") not in known:
        raise source.error(
            ("select", "rank_by"),
            f"there is no column {rank!r}. {nearest(rank, ['pareto', *known])}",
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
            raise source.error(
                ("baselines", i), f"there is no baseline {name!r}. {nearest(name, known)}"
            )
        if name in campaign.baselines[:i]:
            raise source.error(("baselines", i), f"{name!r} is given twice. Keep one.")
    try:
        images = draws_images(campaign.model.name)
    except SpecError as error:
        raise source.error(("model", "name"), str(error)) from error
    check_select(campaign, source, images)
    sampler = campaign.sampler
    try:
        method = build_method(sampler.name, sampler.model_extra or {})
    except SpecError as error:
        raise source.error(("sampler", *(error.path or ("name",))), str(error)) from error
    structure, structure_digest = None, None
    model: Model | ImageModel
    if images:
        model, digest = _load_images(campaign, source)
    else:
        structure, structure_digest = _structure(campaign, source)
        model, digest = _load_space(campaign, source, structure)
    replicates, islands = _islands(campaign, source, model)
    if isinstance(model, Model) and model.wild_type is None:
        used = [
            t
            for t in (*campaign.select.filters, campaign.select.rank_by)
            if re.match(r"-?(n_mut|seq_recovery)", t)
        ]
        if used:
            raise source.error(("select",), f"{used[0]!r} needs a wild type. Give input.wild_type.")
    terms = tuple(
        _load_term(label, spec, source, structure, images)
        for label, spec in campaign.rewards.items()
    )
    guides = [t for t in terms if t.spec.role == "guide"]
    if not guides:
        raise source.error(
            ("rewards",),
            "no reward has role: guide, so there is nothing to align to. Give one that role.",
        )
    objective = Sum(tuple((t.spec.weight, t.scaled) for t in guides))
    few = reference_designs(model)
    if images and (few.x.dim() != 5 or few.x.shape[2] not in (1, 3)):
        raise source.error(
            ("model", "name"),
            f"designs of {campaign.model.name!r} have shape {tuple(few.x.shape[2:])} and are no "
            "images (1 or 3, H, W). Use seqalign.sample in Python.",
        )
    for term in terms:
        _probe(term, model, few, source)
    try:
        first = rehearse(method, model, objective, sampler.particles)
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
        trial = rehearse(other, model, objective, size)
        arms.append(
            Arm(name if name != "aligned" else "baseline-aligned", other, size, ("baseline", name))
        )
        rehearsals[name] = trial
    config = {
        "seqalign": version("seqalign"),
        **campaign.model_dump(mode="json"),
        "resolved": {
            **_resolved_input(model, replicates),
            "input_sha256": digest,
            "structure_sha256": structure_digest,
            "islands": islands,
            "sampler": to_mapping(method),
            "arms": {a.name: {**to_mapping(a.method), "particles": a.particles} for a in arms},
            "model": _card_id("model", campaign.model.name),
            "rewards": {
                t.label: _card_id("reward", t.spec.oracle)
                if t.spec.oracle is not None
                else {
                    "python": t.spec.python,
                    "sha256": _file_hash(source.folder / t.spec.python.rpartition(":")[0]),
                }
                if t.spec.python is not None
                else {"command": t.spec.command}
                for t in terms
            },
        },
    }
    plan = Plan(
        campaign,
        source,
        model,
        structure,
        terms,
        objective,
        tuple(arms),
        islands,
        "unguided" in campaign.baselines,
        rehearsals,
        config,
        replicates,
    )
    for key, limit in campaign.budget.calls.items():
        path = ("budget", "calls", key)
        if key == "network":
            need = plan.network_calls
        elif key in campaign.rewards:
            need = _oracle_calls(plan, campaign.rewards[key].role)
        else:
            raise source.error(
                path,
                f"there is no {key!r} to count. {nearest(key, ['network', *campaign.rewards])}",
            )
        if need > limit:
            raise source.error(
                path,
                f"the run needs {need} calls of {key}, more than {limit}. Lower sampler.particles "
                "or islands, "
                f"drop baselines, or raise the limit.",
            )
    return plan


def _file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _resolved_input(model: Model | ImageModel, replicates: int) -> dict[str, Any]:
    """Return what a run folder says of the model's input."""
    if isinstance(model, ImageModel):
        return {
            "prompts": None if model.prompts is None else list(model.prompts),
            "islands_per_prompt": replicates,
            "wild_type": None,
            "residues": [],
            "chains": [],
            "steps": model.steps,
        }
    space = model.space
    return {
        "wild_type": model.wild_type,
        "residues": list(model.residues),
        "chains": list(model.chains),
        "steps": model.process.steps,
        "free": "".join("1" if a == space.alphabet.mask_symbol else "0" for a in space.fixed),
    }


def _islands(campaign: Campaign, source: Source, model: Model | ImageModel) -> tuple[int, int]:
    """Return islands per prompt, and of the run."""
    prompts = model.conditions if isinstance(model, ImageModel) else 1
    each, particles = campaign.sampler.islands, campaign.sampler.particles
    wanted = campaign.budget.designs
    if wanted is not None:
        needed = math.ceil(wanted / (particles * prompts))
        if each is None:
            each = needed
        elif each * particles * prompts < wanted:
            more = f" for each of {prompts} prompts" if prompts > 1 else ""
            raise source.error(
                ("budget", "designs"),
                f"{wanted} designs need {needed} islands of {particles} particles{more}, but "
                f"sampler.islands is {each}. Raise islands, or leave it out.",
            )
    each = each or 1
    return each, each * prompts


def _oracle_calls(plan: Plan, role: str) -> int:
    """Return the calls of one reward, at most."""
    if isinstance(plan.model, ImageModel):
        return plan.drawn + (plan.reward_calls if role == "guide" else 0)
    # the wild type, too; what guided a run is in its memory at the end
    return plan.reward_calls if role == "guide" else plan.drawn + 1


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
    network = {
        a.name: round(plan.rehearsals[a.name].network * a.particles) * plan.islands
        for a in plan.arms
    }
    oracle = {t.label: _oracle_calls(plan, t.spec.role) for t in plan.terms}
    islands, designs = references(plan.model)
    zscores = any(t.spec.scale == "zscore" for t in plan.guides())
    if isinstance(plan.model, ImageModel):
        if zscores:
            each = getattr(plan.model.process, "calls_per_state", 1)
            network["calibration"] = islands * designs * each * plan.model.steps
        return _estimate_images(plan, plan.model, network, oracle)
    model = plan.model
    process, n = model.process, min(plan.arms[0].particles, 16)
    if zscores:
        network["calibration"] = designs * model.space.reveals
    network["evaluation"] = (plan.drawn + 1) * PRIOR_ORDERS * model.space.free
    x = torch.full((1, n, process.length), process.alphabet.mask)
    x = model.space.start(x)
    laps = []
    with torch.no_grad():
        for _ in range(3):
            begin = time.perf_counter()
            law = process.posterior(x, 1.0)
            model.space.condition(law, x, process.unknown(x))
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


def _estimate_images(
    plan: Plan, model: ImageModel, network: Mapping[str, int], oracle: Mapping[str, int]
) -> Estimate:
    """Time one network call of a full chunk, and one call of each reward with its gradient."""
    process = model.one(0)
    n = min(plan.arms[0].particles, process.chunk or 16)
    x = process.prior((1, n), Streams(0, (0,)).at("estimate"))
    t = float(process.times[0])

    def lap(job: Callable[[], Any]) -> float:
        """Return seconds per design; the first lap warms up, unless it is long itself."""
        best = math.inf
        for _ in range(2):
            begin = time.perf_counter()
            job()
            if x.device.type == "cuda":
                torch.cuda.synchronize(x.device)
            best = min(best, time.perf_counter() - begin)
            if best > 2:
                break
        return best / n

    with torch.no_grad():
        mean = process.posterior(x, t).mean
        seconds = lap(lambda: process.posterior(x, t)) * sum(network.values())
        seconds /= getattr(process, "calls_per_state", 1)
        designs = process.decode(mean)

    def gradient(reward: Reward) -> None:
        leaf = mean.detach().requires_grad_()
        torch.autograd.grad(reward.graded(process.decode(leaf)).sum(), leaf)

    for term in plan.terms:
        if term.spec.role == "guide" and term.raw.differentiable:
            each = lap(lambda term=term: gradient(term.raw))  # type: ignore[misc]
        else:
            each = lap(lambda term=term: term.raw(designs))  # type: ignore[misc]
        seconds += each * oracle[term.label]
    return Estimate(network, oracle, seconds, _gigabytes(x.device))


def _gigabytes(device: torch.device) -> float:
    """Return the peak of memory so far: a step that was timed has had all that a run needs."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        import resource
    except ImportError:  # no such count on Windows
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)
