"""Checkpoints of image scorers on this machine: found, read as tensors, and put into a network.

Nothing is downloaded. A checkpoint is a name of `seqalign fetch`, a folder or file, or the name of
a Hugging Face repository that is in this machine's own cache (`hf download NAME`).
"""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seqalign import weights

__all__ = ["fill", "like", "locate", "need_transformers", "read_json", "read_tensors", "stamp"]


def locate(checkpoint: str | Path, needs: str, file: str = "config.json") -> Path:
    """Return the folder or file of a checkpoint on this machine; nothing is downloaded.

    Args:
        checkpoint: a name of `seqalign fetch`, the path of a folder or file, or "owner/name" of a
            Hugging Face repository in the cache of this machine.
        needs: what the error says to put where.
        file: what such a repository must hold.

    Raises:
        FileNotFoundError: it is not on this machine.
    """
    name = str(checkpoint)
    own = name in weights.catalog() or os.path.exists(os.path.expanduser(name))
    if own or not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        try:
            return weights.path(checkpoint)
        except weights.MissingWeights as error:
            raise weights.MissingWeights(f"{error} {needs}") from error
    # what `seqalign fetch` has brought goes by the second half of the name
    listed = weights.catalog().get(name.partition("/")[2])
    if listed is not None and not listed.missing(weights.folder()):
        return weights.path(listed.name)
    need_transformers()
    from transformers.utils.hub import cached_file

    try:
        found = cached_file(name, file, local_files_only=True)
    except OSError:
        found = None
    if found is None:
        raise weights.MissingWeights(
            f"{file} of {name} is not in the Hugging Face cache of this machine, and there is no "
            f"folder of that name. {needs}"
            + ("" if listed is None else f" Or run: seqalign fetch {listed.name}")
        )
    return Path(found).parent


def need_transformers() -> None:
    """Refuse to go on without transformers.

    Raises:
        ImportError: it is not installed.
    """
    if find_spec("transformers") is None:
        raise ImportError(
            "Learned scores of images need transformers, which is not installed. Run: pip install "
            '"seqalign[images]". Without it: jpeg-compressibility, brightness, colorfulness.'
        )


def read_json(file: Path) -> dict[str, Any]:
    """Return the mapping in a JSON file.

    Raises:
        ValueError: it is none.
    """
    try:
        data = json.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{file} cannot be read as JSON: {error}.") from error
    if not isinstance(data, dict):
        raise ValueError(f"{file} holds no mapping. Give the file as it was downloaded.")
    return data


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a PyTorch file, by name, on the CPU; no code in it is run."""
    try:
        data = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        first = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"{file} is no PyTorch file of tensors: {first} Give the file as it was downloaded."
        ) from error
    if isinstance(data, dict) and isinstance(data.get("state_dict"), dict):
        data = data["state_dict"]
    if not isinstance(data, dict):
        raise ValueError(f"{file} holds no mapping of tensors. Give the file as it was downloaded.")
    found = ((k.removeprefix("module."), v) for k, v in data.items() if isinstance(v, Tensor))
    return weights.sound(found, file)


def fill(network: nn.Module, state: Mapping[str, Tensor], file: Path, what: str) -> nn.Module:
    """Put tensors into a network, which must need just these."""
    own = network.state_dict()
    missing = sorted(set(own) - set(state))
    spare = sorted(set(state) - set(own))
    other = [k for k in own if k in state and own[k].shape != state[k].shape]
    if missing or spare or other:
        raise ValueError(
            f"{file} does not fit {what}: missing {missing[:3]}, not expected {spare[:3]}, of "
            f"another shape {other[:3]}. Give the published file."
        )
    network.load_state_dict(dict(state))
    return network


def stamp(where: Path) -> int:
    """Return the time of the last change: a place that changed is read again."""
    return where.stat().st_mtime_ns


def like(x: Tensor, network: nn.Module) -> Tensor:
    """Return a tensor where, and in the precision in which, a network runs."""
    own = next(network.parameters())
    return x.to(own.device, own.dtype)
