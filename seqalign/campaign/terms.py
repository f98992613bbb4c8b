"""The rewards of a campaign: found, built, tried on a few designs, and combined."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from seqalign.campaign.python import build_object, load_object
from seqalign.campaign.schema import RewardSpec
from seqalign.campaign.yaml import KeyPath, Source
from seqalign.core.callables import Command, OnFailure, as_reward
from seqalign.core.objective import Reward, RewardError, Wrapper
from seqalign.core.process import Designs
from seqalign.core.wrappers import Cached
from seqalign.files.states import InputState
from seqalign.files.structure import Structure
from seqalign.load import load_reward
from seqalign.registry import SpecError, card_id, names, parameters


class _Oracle(Wrapper):
    """A reward under its campaign label; failures are turned into rejections if asked."""

    def __init__(self, label: str, inner: Reward, on_failure: OnFailure, unit: str) -> None:
        super().__init__(inner)
        self.name, self.unit, self.on_failure = label, unit or inner.unit, on_failure

    def __call__(self, designs: Designs) -> Tensor:
        if self.on_failure == "raise":
            return self.inner(designs)
        try:
            r = self.inner(designs)
        except RewardError:
            b, k = designs.shape
            if b * k == 1:
                return torch.full((1, 1), -torch.inf, dtype=torch.float64)
            one = [self(designs[i : i + 1, j : j + 1]) for i in range(b) for j in range(k)]
            return torch.cat(one).reshape(b, k)
        if tuple(r.shape) != designs.shape:
            return r
        return torch.where(torch.isnan(r) | (r == torch.inf), -torch.inf, r)


@dataclass(frozen=True)
class Term:
    """One reward of a campaign: by label, raw, and `scaled` after clip and zscore, which guides.

    Raw rewards are cached for sequences, which come again, and not for images.
    """

    label: str
    raw: Reward
    scaled: Reward
    spec: RewardSpec


# what tables call their own columns
_RESERVED = (
    *("id", "rank", "sequence", "mutations", "n_mut", "seq_recovery", "total", "log_w", "copies"),
    *("prior", "prior_per_residue", "method", "seed", "island", "reason", "row", "which"),
    *("designs", "diversity", "prompt", "file", "vendi", "letters", "liabilities"),
)


def _python(label: str, spec: RewardSpec, source: Source) -> Reward:
    """Return what `python: FILE.py:NAME` names: a Reward, an object of its class, or a function."""
    path: KeyPath = ("rewards", label)
    text, params = str(spec.python), dict(spec.params)
    found = load_object(text, source, (*path, "python"))
    if isinstance(found, type) and issubclass(found, Reward):
        found = build_object(f"The reward {text}", found, params, source, (*path, "params"))
    elif params:
        raise source.error(
            (*path, "params"),
            f"an oracle or a class takes params, and {text} is none. Remove them.",
        )
    try:
        return as_reward(found, label)
    except TypeError as error:
        raise source.error((*path, "python"), f"{text}: {error}") from error


def _about_states(
    spec: RewardSpec, source: Source, path: KeyPath, states: Sequence[InputState]
) -> None:
    """Refuse to say what becomes of several states where there is one, or a reward of none."""
    if spec.states is None:
        return
    said = None
    if not states:
        said = "states is about several structures. Give input.states, or leave it out"
    elif spec.oracle is None:
        said = "an oracle is built for each state; what python and command name is one. Remove it"
    elif "structure" in spec.params:
        said = "params.structure names one structure. Keep one of the two"
    elif "structure" not in parameters("reward", spec.oracle):
        said = f"{spec.oracle} does not look at a structure, so it is the same in all. Remove it"
    if said is not None:
        raise source.error((*path, "states"), f"{said}.")


def _placed(params: Mapping[str, Any], source: Source) -> dict[str, Any]:
    """Return parameters with `structure` relative to the campaign, where there is such a file."""
    given = params.get("structure")
    there = isinstance(given, str) and (source.folder / given).is_file()
    return {**params, **({"structure": str(source.folder / str(given))} if there else {})}


def load_term(
    label: str,
    spec: RewardSpec,
    source: Source,
    structure: Structure | None,
    recurs: bool,
    states: Sequence[InputState] = (),
    device: str = "auto",
) -> Term:
    """Build one reward; `recurs` says whether designs are worth remembering, as sequences are.

    One that looks at a backbone is built of each of the states, where there are several. One with
    a network of its own runs on `device`, that of the model, unless told otherwise.
    """
    path: KeyPath = ("rewards", label)
    taken = label in _RESERVED or label.endswith(("_scaled", "_sd"))
    taken = taken or label.startswith(("sequence_", "prior_per_residue"))
    if taken or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", label):
        raise source.error(
            path,
            f"{label!r} cannot name a column: use letters, digits, '_' and '-', beginning with a "
            f"letter, not with sequence_, not ending in _scaled or _sd, and none of "
            f"{', '.join(_RESERVED)}.",
        )
    kinds = [k for k in ("oracle", "python", "command") if getattr(spec, k) is not None]
    if len(kinds) != 1:
        raise source.error(
            path,
            f"give exactly one of oracle, python and command, not {' and '.join(kinds) or 'none'}. "
            f"Known oracles: {', '.join(names('reward'))}.",
        )
    _about_states(spec, source, path, states)
    if spec.oracle is not None:
        params = _placed(spec.params, source)
        try:
            # a reward that looks at a backbone looks at the campaign's, unless told otherwise
            if "structure" not in params and "structure" in parameters("reward", spec.oracle):
                if states:
                    over = "mean" if spec.states is None else spec.states
                    params |= {"states": states, "over": over}
                elif structure is not None:
                    params["structure"] = structure
            if device != "auto" and "device" in parameters("reward", spec.oracle):
                params.setdefault("device", device)
            inner = load_reward(spec.oracle, **params)
        except SpecError as error:
            at = (*path, "params", *error.path) if error.path else (*path, "oracle")
            at = (*path, "states") if error.path == ("over",) else at
            raise source.error(at, str(error)) from error
    elif spec.python is not None:
        inner = _python(label, spec, source)
    elif spec.params:
        raise source.error((*path, "params"), "a command takes no params. Remove them.")
    elif not recurs:
        raise source.error(
            (*path, "command"),
            "a command scores a file of sequences, and this campaign draws images. Use python: "
            "FILE.py:FUNCTION, from a tensor (n, 3, H, W) to n numbers.",
        )
    else:
        assert spec.command is not None
        with source.blame((*path, "command"), ValueError):
            inner = Command(spec.command, label)
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
    raw: Reward = Cached(oracle) if recurs else oracle
    with source.blame((*path, "clip"), ValueError):
        scaled = raw if spec.clip is None else raw.clip(*spec.clip)
    return Term(label, raw, scaled.zscore() if spec.scale == "zscore" else scaled, spec)


def origin(
    kind: Literal["reward", "model"], name: str | None, python: str | None, source: Source
) -> Mapping[str, str]:
    """Return what a run folder says of where a reward or model comes from."""
    if name is None or python is not None:
        assert python is not None
        code = (source.folder / python.rpartition(":")[0]).read_bytes()
        return {"python": python, "sha256": hashlib.sha256(code).hexdigest()}
    return card_id(kind, name)
