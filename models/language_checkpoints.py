"""Checkpoints of ESM-2 and DPLM, in the formats of fair-esm and of transformers.

A `.pt` file of fair-esm (`cfg` and `model`), or a folder in transformers' format (`config.json`,
`vocab.txt` and `model.safetensors` or `pytorch_model.bin`), or a state dict beside such a
`config.json`; the keys may carry a prefix, such as the "net." of DPLM's own training. Facts about
the formats: fair-esm 2.0.0 (`esm.pretrained`), transformers (`EsmForMaskedLM`), and the public
repository bytedance/dplm (`EsmForDPLM`, a subclass with the same parameters).
"""

from __future__ import annotations

import json
import pickle
import re
import warnings
from argparse import Namespace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from seqalign.weights import sound

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["VOCABULARY", "read_checkpoint", "to_transformers", "without_fair_esm"]

VOCABULARY: Final = (
    *("<cls>", "<pad>", "<eos>", "<unk>"),
    *"LAGVSERTIDPKQNFYMHWCXBUZO.-",
    *("<null_1>", "<mask>"),
)
"""The 33 tokens of ESM-1b and ESM-2, in order."""


def without_fair_esm() -> str:
    """Return why fair-esm cannot be used here; empty if it can.

    Two packages install the import name `esm`: fair-esm (ESM-2) and EvolutionaryScale's esm (ESM-3,
    ESM C), which cannot read ESM-2 checkpoints.
    """
    spec = find_spec("esm")
    if spec is None:
        return "the package fair-esm is not installed (pip install fair-esm)"
    folders = [Path(p) for p in spec.submodule_search_locations or ()]
    foreign = any((f / "models" / "esmc.py").exists() or (f / "sdk").exists() for f in folders)
    if foreign or not any((f / "model" / "esm2.py").exists() for f in folders):
        return (
            "the package installed under the name 'esm' is not fair-esm but another one "
            "(EvolutionaryScale's ESM-3 package has this name, too), which cannot read ESM-2 "
            "checkpoints (pip uninstall esm, then pip install --force-reinstall fair-esm)"
        )
    return ""


def _without_transformers() -> str:
    """Return why transformers cannot be used here; empty if it can."""
    if find_spec("transformers") is None:
        return "the package transformers is not installed (pip install 'seqalign[language]')"
    return ""


def _json(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON ({error}). Fetch it again.") from error
    if not isinstance(data, dict):
        raise ValueError(f"{file} holds a {type(data).__name__} and no settings. Fetch it again.")
    return data


def _read(file: Path) -> Mapping[str, Any]:
    """Return what a checkpoint file, or an index of several, holds: tensors and plain values."""
    if file.name.endswith(".index.json"):
        parts = sorted(set(_json(file)["weight_map"].values()))
        return {k: v for part in parts for k, v in _read(file.with_name(part)).items()}
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        # the settings of fair-esm's checkpoints are an argparse.Namespace
        with torch.serialization.safe_globals([Namespace]):
            data = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, SafetensorError) as error:
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        raise ValueError(
            f"{file} cannot be read: it holds a {foreign[1]}, and only tensors and plain values "
            "are read. Save its state dict alone."
            if foreign
            else f"{file} cannot be read: it is no file of torch or safetensors, or a damaged one. "
            "Fetch it again."
        ) from error
    if not isinstance(data, dict):
        raise ValueError(f"{file} holds a {type(data).__name__} and no checkpoint.")
    return data


_PARTS: Final = {
    "self_attn.q_proj": "attention.self.query",
    "self_attn.k_proj": "attention.self.key",
    "self_attn.v_proj": "attention.self.value",
    "self_attn.out_proj": "attention.output.dense",
    "self_attn.rot_emb": "attention.self.rotary_embeddings",
    "self_attn_layer_norm": "attention.LayerNorm",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
    "final_layer_norm": "LayerNorm",
    "embed_tokens": "esm.embeddings.word_embeddings",
    "emb_layer_norm_after": "esm.encoder.emb_layer_norm_after",
    "contact_head.regression": "esm.contact_head.regression",
}
"""The modules of fair-esm's ESM-2, and what transformers calls them."""


def to_transformers(model: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a state dict of fair-esm's ESM-2 to the names of transformers' `EsmForMaskedLM`."""
    renamed = {}
    for key, tensor in model.items():
        name = key.removeprefix("encoder.").removeprefix("sentence_encoder.")
        if name == "lm_head.weight":
            name = "lm_head.decoder.weight"
        module, _, parameter = name.rpartition(".")
        if layer := re.fullmatch(r"layers\.(\d+)\.(.+)", module):
            part = _PARTS.get(layer[2], layer[2])
            module = f"esm.encoder.layer.{layer[1]}.{part}"
        renamed[f"{_PARTS.get(module, module)}.{parameter}"] = tensor
    return renamed


def _by_fair_esm(data: Mapping[str, Any], where: Path) -> tuple[nn.Module, dict[str, int], bool]:
    from esm.pretrained import load_model_and_alphabet_core

    try:
        with warnings.catch_warnings():
            # contacts are never asked for
            warnings.filterwarnings("ignore", message="Regression weights not found")
            network, alphabet = load_model_and_alphabet_core("esm2", dict(data), None)
    except RuntimeError as error:
        raise ValueError(f"{where} does not fit ESM-2 as its settings describe it: {error}") from (
            error
        )
    sound(network.named_parameters(), where)
    return network, alphabet.to_dict(), bool(network.token_dropout)


def _by_transformers(
    settings: Mapping[str, Any], state: Mapping[str, Tensor], where: Path
) -> tuple[nn.Module, bool]:
    from transformers import EsmConfig, EsmForMaskedLM

    config: Any = EsmConfig.from_dict(dict(settings))
    words = "esm.embeddings.word_embeddings.weight"
    prefix = next((key.removesuffix(words) for key in state if key.endswith(words)), None)
    if prefix is None:
        raise ValueError(
            f"{where} holds no {words}, so it is no ESM-2 or DPLM checkpoint in transformers' "
            "format. Give the folder as it was downloaded."
        )
    if config.position_embedding_type != "rotary":
        raise ValueError(
            f"{where}: position_embedding_type is {config.position_embedding_type!r}; ESM-2 and "
            "DPLM have 'rotary'. Give a checkpoint of ESM-2 or DPLM."
        )
    sound(state.items(), where)
    state = {k.removeprefix(prefix): v.float() for k, v in state.items() if k.startswith(prefix)}
    # transformers has two names for what a layer norm holds, and writes either
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        state = {k.removesuffix(old) + new if k.endswith(old) else k: v for k, v in state.items()}
    network = EsmForMaskedLM(config)
    # the output layer shares the weights of the embedding unless the checkpoint holds its own
    decoder = state.pop("lm_head.decoder.weight", state[words]).clone()
    try:
        found = network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ValueError(f"{where} does not fit its config.json: {error}") from error
    # contacts are never asked for; position tables and frequencies follow from the config
    spare = re.compile(
        r"contact_head\.|position_ids$|inv_freq$|position_embeddings\.weight$|decoder\.(weight|bias)$"
    )
    missing = [k for k in found.missing_keys if not spare.search(k)]
    unexpected = [k for k in found.unexpected_keys if not spare.search(k)]
    if missing or unexpected:
        raise ValueError(
            f"{where} does not fit its config.json: missing {missing[:3]}, not expected "
            f"{unexpected[:3]}. Give the folder as it was downloaded."
        )
    network.lm_head.decoder.weight = nn.Parameter(decoder)
    return network, bool(config.token_dropout)


def _folder(folder: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the settings and the vocabulary of a folder in transformers' format."""
    file = folder / "config.json"
    settings = _json(file)
    if settings.get("model_type") != "esm":
        raise ValueError(
            f"{file}: model_type is {settings.get('model_type')!r}, not 'esm'. Give a checkpoint "
            "of ESM-2 or DPLM."
        )
    listed = folder / "vocab.txt"
    if not listed.is_file():
        raise FileNotFoundError(
            f"{listed} is missing: it says which token is which letter. Put the vocab.txt of the "
            "checkpoint's page there."
        )
    tokens = {token: i for i, token in enumerate(listed.read_text("utf-8").split())}
    if settings.get("mask_token_id") != tokens.get("<mask>"):
        raise ValueError(
            f"{file}: mask_token_id is {settings.get('mask_token_id')}, but in vocab.txt <mask> is "
            f"token {tokens.get('<mask>')}. Give config.json and vocab.txt of one checkpoint."
        )
    return settings, tokens


def _states(folder: Path) -> Path | None:
    """Return the file of a folder that holds the weights."""
    names = ("model.safetensors", "pytorch_model.bin", "last.ckpt")
    found = next((folder / n for n in names if (folder / n).is_file()), None)
    return found if found is not None else next(folder.glob("*.index.json"), None)


def _state(data: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """Return the state dict within what a file holds: trainers put something around it."""
    for key in ("module", "state_dict", "model"):
        if isinstance(data.get(key), dict):
            data = data[key]
    return {k: v for k, v in data.items() if isinstance(v, Tensor)}


@lru_cache(maxsize=4)
def read_checkpoint(
    where: Path, stamp: int, device: str
) -> tuple[nn.Module, dict[str, int], bool, str, str]:
    """Return network, vocabulary, token dropout, library and note of the checkpoint at a place.

    `stamp` is the time of its last change: a place that changed is read again.
    """
    network, vocabulary, dropout, library, note = _open(where)
    return network.to(device).eval().requires_grad_(False), vocabulary, dropout, library, note


def _open(where: Path) -> tuple[nn.Module, dict[str, int], bool, str, str]:
    folder = where if where.is_dir() else where.parent
    described = (folder / "config.json").is_file()
    file = _states(where) if where.is_dir() else where
    if file is None or (where.is_dir() and not described):
        raise FileNotFoundError(
            f"The folder {where} is no checkpoint in transformers' format: put config.json, "
            "vocab.txt and model.safetensors (or pytorch_model.bin) there."
        )
    data = _read(file)
    if not {"cfg", "model"} <= set(data):
        if not described:
            raise ValueError(
                f"{file} is no ESM-2 checkpoint of fair-esm (which holds 'cfg' and 'model'), and "
                f"without config.json and vocab.txt beside it, it is none in transformers' format. "
                "Give the .pt file of ESM-2, or put those files there."
            )
        if why := _without_transformers():
            raise ModuleNotFoundError(f"{where} is in transformers' format, and {why}.")
        settings, vocabulary = _folder(folder)
        network, dropout = _by_transformers(settings, _state(data), file)
        return network, vocabulary, dropout, "transformers", ""
    if not (why := without_fair_esm()):
        network, vocabulary, dropout = _by_fair_esm(data, file)
        return network, vocabulary, dropout, "fair-esm", ""
    if other := _without_transformers():
        raise ModuleNotFoundError(f"{file} is in fair-esm's format; {why}, and {other}.")
    note = f"{file.name} is read with transformers: {why}"
    warnings.warn(note, stacklevel=5)
    cfg = data["cfg"]["model"]
    settings = {
        "vocab_size": len(VOCABULARY),
        "mask_token_id": VOCABULARY.index("<mask>"),
        "pad_token_id": VOCABULARY.index("<pad>"),
        "hidden_size": cfg.encoder_embed_dim,
        "num_hidden_layers": cfg.encoder_layers,
        "num_attention_heads": cfg.encoder_attention_heads,
        "intermediate_size": 4 * cfg.encoder_embed_dim,
        "position_embedding_type": "rotary",
        "emb_layer_norm_before": False,
        "token_dropout": cfg.token_dropout,
        "layer_norm_eps": 1e-5,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    network, dropout = _by_transformers(settings, to_transformers(data["model"]), file)
    vocabulary = {token: i for i, token in enumerate(VOCABULARY)}
    return network, vocabulary, dropout, "transformers", note
