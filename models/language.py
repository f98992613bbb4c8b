"""esm2, dplm: protein language models as masked diffusion, for campaigns without a structure.

ESM-2 was trained to fill in masked residues, DPLM (the same architecture) to undo masked diffusion.
Run as order-agnostic masked diffusion, either is a law of protein sequences of any length: a step
masks nothing new, asks the network for the letters of all masked positions, and reveals one. What a
design space fixes is revealed from the start, so a campaign around a wild type masks only what it
may change.

The network sees <cls>, the residues (<mask> where a letter is open), <eos>. Its 33 logits are cut
to the twenty letters: X, B, U, Z, O, gaps and special tokens are never produced. Islands of
different length are padded with <pad>, which no residue attends to.

*Token dropout.* ESM-2 zeroes the embeddings of masked tokens and scales all others by
(1 − 0.12) / (1 − observed mask ratio), at inference too. Both libraries do this in their own
forward, which is what runs here; DPLM does so if its config says so.

*Checkpoints.* A `.pt` file of fair-esm (`cfg` and `model`), or a folder in transformers' format
(`config.json`, `vocab.txt` and `model.safetensors` or `pytorch_model.bin`), or a state dict beside
such a `config.json`; the keys may carry a prefix, such as the "net." of DPLM's own training.
Facts about the formats: fair-esm 2.0.0 (`esm.pretrained`), transformers (`EsmForMaskedLM`), and the
public repository bytedance/dplm (`EsmForDPLM`, a subclass with the same parameters).

References:
    Evolutionary-scale prediction of atomic-level protein structure with a language model, Lin et
    al., Science 379:1123, 2023, https://doi.org/10.1126/science.ade2574 (ESM-2)
    Diffusion language models are versatile protein learners, Wang et al., ICML 2024,
    https://arxiv.org/abs/2402.18567 (DPLM)
    Language models enable zero-shot prediction of the effects of mutations on protein function,
    Meier et al., 2021, https://doi.org/10.1101/2021.07.09.450648 (token dropout: appendix)
"""

from __future__ import annotations

import json
import pickle
import re
import warnings
from argparse import Namespace
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from seqalign import weights
from seqalign.core.discrete import CategoricalPosterior, MaskedProcess, OpenPosterior
from seqalign.core.sequence import PROTEIN
from seqalign.models.devices import Precision, device_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from seqalign.core.discrete import Order

VOCABULARY: Final = (
    *("<cls>", "<pad>", "<eos>", "<unk>"),
    *"LAGVSERTIDPKQNFYMHWCXBUZO.-",
    *("<null_1>", "<mask>"),
)
"""The 33 tokens of ESM-1b and ESM-2, in order."""

SPECIAL: Final = ("<cls>", "<pad>", "<eos>", "<mask>")


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A protein language model as a function of tokens over the twenty letters.

    Attributes:
        name: the checkpoint.
        network: fair-esm's `ESM2` or transformers' `EsmForMaskedLM`, in evaluation mode, frozen.
        vocabulary: (21,) the network's token of each letter of `PROTEIN`, and of the mask.
        cls: its token before the residues.
        pad: its token of padding.
        eos: its token behind the residues.
        token_dropout: whether the network zeroes masks and rescales the rest.
        library: "fair-esm" or "transformers".
        device: where the network lives.
        precision: of its matrix products; logits are float32 in any case.
        note: why a checkpoint is read by another library than its own; empty if it is not.
    """

    name: str
    network: nn.Module = field(repr=False)
    vocabulary: Tensor = field(repr=False)
    cls: int = field(repr=False)
    pad: int = field(repr=False)
    eos: int = field(repr=False)
    token_dropout: bool
    library: str
    device: str = "cpu"
    precision: Precision = "float32"
    note: str = ""

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(p.numel() for p in self.network.parameters())

    def __call__(self, x: Tensor, t: float = 0.0, event_mask: Tensor | None = None) -> Tensor:
        """Return logits (B, K, L, 20), float32, of tokens (B, K, L) or states (B, K, L, 21).

        Args:
            x: letters 0..19 and the mask 20, or one column each, which may be fractional: the
                embedding is then the mixture, and a gradient flows to x.
            t: ignored; the network sees in x how much is masked.
            event_mask: (B, L) bool, False where an island has no residue: not shown to the network,
                logits 0.
        """
        b, k, length = x.shape[:3]
        if event_mask is None:
            event_mask = torch.ones(b, length, dtype=torch.bool, device=x.device)
        elif event_mask.shape != (b, length):
            raise ValueError(
                f"event_mask has shape {tuple(event_mask.shape)} for tokens of {b} islands and "
                f"{length} positions; give one row per island."
            )
        exists = event_mask.to(self.device).repeat_interleave(k, 0)
        count = exists.sum(-1, keepdim=True)
        width = int(event_mask.sum(-1).max()) + 2
        # residues stand behind <cls>; positions that do not exist go to a column that is cut off
        place = torch.where(exists, exists.long().cumsum(-1), width)
        rows = x.to(self.device).flatten(0, 1)
        mixed = rows.is_floating_point()
        letters = torch.zeros_like(place) if mixed else rows
        ids = torch.full((b * k, width + 1), self.pad, device=self.device)
        ids[:, 0] = self.cls
        ids.scatter_(1, count + 1, self.eos)
        ids.scatter_(1, place, self.vocabulary.to(self.device)[letters])
        logits = self._mixed(ids[:, :width], rows, place) if mixed else self._run(ids[:, :width])
        logits = logits[..., self.vocabulary[:-1].to(self.device)].float()
        index = place.clamp(max=width - 1)[..., None].expand(-1, -1, len(PROTEIN))
        logits = logits.gather(1, index).masked_fill(~exists[..., None], 0.0)
        return logits.reshape(b, k, length, len(PROTEIN)).to(x.device)

    def _run(self, ids: Tensor) -> Tensor:
        """Return all logits, (N, W, 33), of the network's own tokens (N, W)."""
        half = self.precision != "float32"
        kind = torch.device(self.device).type
        with torch.autocast(kind, getattr(torch, self.precision) if half else None, enabled=half):
            if self.library == "fair-esm":
                logits: Tensor = self.network(ids)["logits"]
            else:
                logits = self.network(input_ids=ids, attention_mask=(ids != self.pad).long()).logits
        return logits

    def _mixed(self, ids: Tensor, x: Tensor, place: Tensor) -> Tensor:
        """Return all logits, (N, W, 33), with states x (N, L, 21) in the places (N, L) of `ids`.

        The network's own forward runs on ids without a mask, so its token dropout scales by
        1 − 0.12; the rest of the scale, 1 / (1 − observed ratio), is part of the embeddings that
        take the place of its own.
        """
        embedding = (
            self.network.embed_tokens
            if self.library == "fair-esm"
            else self.network.esm.embeddings.word_embeddings  # type: ignore[union-attr]
        )
        assert isinstance(embedding, nn.Embedding)
        table = embedding.weight[self.vocabulary.to(self.device)]
        if self.token_dropout:
            table = torch.cat((table[:-1], torch.zeros_like(table[-1:])))
        width, size = ids.shape[1], table.shape[1]
        # one column more, for the positions that do not exist
        own = torch.cat((embedding.weight[ids], table.new_zeros(len(ids), 1, size)), 1)
        index = place[..., None].expand(-1, -1, size)
        states = own.scatter(1, index, x.to(table.dtype) @ table)[:, :width]
        if self.token_dropout:
            masks = torch.where(place < width, x[..., -1], 0.0).sum(-1)
            ratio = masks / (ids != self.pad).sum(-1)
            states = states / (1 - ratio)[:, None, None].to(states.dtype)
        hook = embedding.register_forward_hook(lambda module, args, output: states)
        try:
            return self._run(ids)
        finally:
            hook.remove()


@dataclass(frozen=True, eq=False)
class LanguageProcess(MaskedProcess):
    """A masked process whose network is told which positions of an island are padding."""

    def posterior(self, x: Tensor, t: float) -> CategoricalPosterior | OpenPosterior:
        """Call the network on tokens (B, K, L) or relaxed states (B, K, L, 21)."""
        if self.event_mask is None:
            return super().posterior(x, t)
        network = partial(cast(LanguageModel, self.network), event_mask=self.event_mask)
        return MaskedProcess.posterior(replace(self, network=network), x, t)


# reading checkpoints ------------------------------------------------------------------------------


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
def _load(where: Path, stamp: int, device: str) -> tuple[nn.Module, dict[str, int], bool, str, str]:
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


def load_language_model(
    checkpoint: str | Path, *, device: str = "auto", precision: Precision = "float32"
) -> LanguageModel:
    """Return the language model of a checkpoint: a name of `seqalign fetch`, a file or a folder.

    Args:
        checkpoint: "esm2_t6_8M_UR50D", "dplm_150m", ...; a .pt file of fair-esm; a folder in
            transformers' format.
        device: "cpu", "cuda", "cuda:1", ...; "auto" is cuda where there is one.
        precision: of matrix products; "bfloat16" and "float16" are for accelerators.

    Raises:
        FileNotFoundError: the weights are not on this machine; the message says what to do.
        ModuleNotFoundError: neither library that reads the format is installed.
        ValueError: the file is no such checkpoint, or device or precision is unknown.
    """
    device = device_of(device, precision)
    where = weights.path(checkpoint).resolve()
    network, tokens, dropout, library, note = _load(where, where.stat().st_mtime_ns, device)
    unknown = [token for token in (*SPECIAL, *PROTEIN.letters) if token not in tokens]
    if unknown:
        raise ValueError(f"The vocabulary of {where} has no {', '.join(unknown)}.")
    return LanguageModel(
        name=str(checkpoint) if str(checkpoint) in weights.catalog() else where.name,
        network=network,
        vocabulary=torch.tensor([tokens[token] for token in (*PROTEIN.letters, "<mask>")]),
        cls=tokens["<cls>"],
        pad=tokens["<pad>"],
        eos=tokens["<eos>"],
        token_dropout=dropout,
        library=library,
        device=device,
        precision=precision,
        note=note,
    )


# processes ----------------------------------------------------------------------------------------


def _process(
    name: str,
    model: LanguageModel,
    wild_type: str | None,
    length: int | None,
    steps: int | None,
    order: Order,
    temperature: float,
    chunk: int | None,
) -> LanguageProcess:
    if wild_type is not None:
        PROTEIN.encode([wild_type])
        if length not in (None, len(wild_type)):
            raise ValueError(
                f"{name}: length is {length}, but wild_type has {len(wild_type)} letters. Leave "
                "length out, or give another wild type."
            )
        length = len(wild_type)
    if length is None:
        raise ValueError(f"{name} needs wild_type (a sequence), or length to design from nothing.")
    if length < 1:
        raise ValueError(f"{name}: there is nothing to design in a length of {length}.")
    return LanguageProcess(
        network=model,
        alphabet=PROTEIN,
        length=length,
        steps=length if steps is None else steps,
        order=order,
        temperature=temperature,
        differentiable=True,
        chunk=chunk,
        wild_type=wild_type,
        name=name,
    )


def esm2(
    *,
    checkpoint: str | Path = "esm2_t6_8M_UR50D",
    wild_type: str | None = None,
    length: int | None = None,
    steps: int | None = None,
    order: Order = "random",
    temperature: float = 1.0,
    chunk: int | None = 32,
    device: str = "auto",
    precision: Precision = "float32",
) -> LanguageProcess:
    """Return ESM-2 as masked diffusion over protein sequences of any length.

    For islands of different length, give the longest as `length` and `dataclasses.replace` the
    process's `event_mask`.

    Args:
        checkpoint: a name of `seqalign fetch`, a .pt file, or a folder in transformers' format.
        wild_type: the natural sequence; a design space masks what it may change.
        length: number of residues, where there is no wild type.
        steps: number of steps; by default one per position.
        order: "random" reveals one uniformly random position a step; "parallel" reveals several.
        temperature: divides the logits.
        chunk: particles per network call.
        device: "cpu", "cuda", ...; "auto" is cuda where there is one.
        precision: of matrix products; "bfloat16" and "float16" are for accelerators.

    Raises:
        FileNotFoundError: the weights are not on this machine.
        ValueError: neither wild_type nor length is given, or they disagree, or a letter is unknown.
    """
    model = load_language_model(checkpoint, device=device, precision=precision)
    return _process("esm2", model, wild_type, length, steps, order, temperature, chunk)


def dplm(
    *,
    checkpoint: str | Path = "dplm_150m",
    wild_type: str | None = None,
    length: int | None = None,
    steps: int | None = None,
    order: Order = "random",
    temperature: float = 1.0,
    chunk: int | None = 32,
    device: str = "auto",
    precision: Precision = "float32",
) -> LanguageProcess:
    """Return DPLM as masked diffusion over protein sequences of any length; see `esm2`.

    Args:
        checkpoint: a name of `seqalign fetch`, or a folder in transformers' format.
        wild_type: the natural sequence; a design space masks what it may change.
        length: number of residues, where there is no wild type.
        steps: number of steps; by default one per position.
        order: "random" reveals one uniformly random position a step; "parallel" reveals several.
        temperature: divides the logits.
        chunk: particles per network call.
        device: "cpu", "cuda", ...; "auto" is cuda where there is one.
        precision: of matrix products; "bfloat16" and "float16" are for accelerators.

    Raises:
        FileNotFoundError: the weights are not on this machine.
        ValueError: neither wild_type nor length is given, or they disagree, or a letter is unknown.
    """
    model = load_language_model(checkpoint, device=device, precision=precision)
    return _process("dplm", model, wild_type, length, steps, order, temperature, chunk)
