"""CLIP: a network as two functions to unit embeddings, of images and of prompts.

Read from a folder in transformers' format, or from a file in open_clip's.

References:
    Learning Transferable Visual Models From Natural Language Supervision (Radford et al., 2021),
    https://arxiv.org/abs/2103.00020.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqalign.core.objective import shared
from seqalign.models.devices import Precision
from seqalign.rewards.checkpoints import fill, like, read_json, read_tensors
from seqalign.rewards.preprocessing import Preprocessing
from seqalign.weights import sound

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["HEADS", "TOKENIZER", "Embedder", "from_open_clip", "load_clip"]

HEADS: Final = 16
"""Attention heads of both towers of CLIP ViT-H/14 and of BLIP's ViT-L/16; no file states them."""

TOKENIZER: Final = (
    "The vocabulary of CLIP is vocab.json and merges.txt (1.5 MB, MIT), the same for every CLIP: "
    "run `hf download openai/clip-vit-large-patch14 vocab.json merges.txt`, or give the path of a "
    "folder that holds them as tokenizer."
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Embedder:
    """A CLIP of transformers as two functions to unit embeddings; a prompt is encoded once, ever.

    Attributes:
        name: the checkpoint.
        network: transformers' `CLIPModel`, in evaluation mode, frozen.
        words: the folder of its vocabulary, read with the first prompt.
    """

    name: str
    network: nn.Module = field(repr=False)
    words: Path = field(repr=False, default=Path())
    _texts: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def tokenizer(self) -> Any:
        """Transformers' `CLIPTokenizer`.

        Raises:
            FileNotFoundError: the vocabulary is missing.
        """
        from transformers import CLIPTokenizer

        # a missing vocabulary would give an empty one, without a word
        if not (self.words / "tokenizer.json").is_file():
            for name in ("vocab.json", "merges.txt"):
                if not (self.words / name).is_file():
                    raise FileNotFoundError(f"{self.words / name} is missing. {TOKENIZER}")
        return CLIPTokenizer.from_pretrained(self.words, local_files_only=True)

    @property
    def config(self) -> Any:
        """The settings of the network."""
        return self.network.config

    @property
    def size(self) -> int:
        """Pixels of a side of the images it sees."""
        return int(self.config.vision_config.image_size)

    @property
    def width(self) -> int:
        """Numbers in an embedding."""
        return int(self.config.projection_dim)

    @property
    def scale(self) -> float:
        """Exp(logit scale), what the cosine is multiplied by in training."""
        return math.exp(float(self.network.logit_scale))  # type: ignore[arg-type]

    @property
    def cost(self) -> float:
        """Seconds per image, at 50 GFLOP/s on a CPU and 50 TFLOP/s on a GPU."""
        vision: nn.Module = self.network.vision_model  # type: ignore[assignment]
        patches = (self.size // self.config.vision_config.patch_size) ** 2
        weights_ = sum(p.numel() for p in vision.parameters())
        kind = next(vision.parameters()).device.type
        return float(2 * weights_ * patches / (5e10 if kind == "cpu" else 5e13))

    def images(self, pixels: Tensor) -> Tensor:
        """Return the unit embeddings (n, width) of preprocessed images (n, 3, size, size)."""
        return _unit(self._run("image", pixel_values=like(pixels, self.network)))

    def see(self, images: Tensor, preprocessing: Preprocessing) -> Tensor:
        """Return the unit embeddings (n, width) of images; the terms of a sum share them."""
        return shared(
            ("embedding", id(self), preprocessing),
            images,
            lambda: self.images(preprocessing(images)),
        )

    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Return the unit embeddings (n, width) of n prompts."""
        for prompt in dict.fromkeys(prompts):
            if prompt not in self._texts:
                # each alone: padding and company never change an embedding
                self._texts[prompt] = self._text(prompt)
        return torch.stack([self._texts[prompt] for prompt in prompts])

    def _text(self, prompt: str) -> Tensor:
        settings = self.config.text_config
        ids = self.tokenizer(
            prompt,
            truncation=True,
            max_length=settings.max_position_embeddings,
            return_tensors="pt",
        ).input_ids
        if int(ids.max()) >= settings.vocab_size:
            raise ValueError(
                f"The tokenizer of {self.name} gives token {int(ids.max())}, and its network knows "
                f"{settings.vocab_size}. Give the vocabulary of CLIP."
            )
        place = next(self.network.parameters()).device
        with torch.no_grad():
            return _unit(self._run("text", input_ids=ids.to(place)))[0]

    def _run(self, kind: str, **inputs: Tensor) -> Tensor:
        found = getattr(self.network, f"get_{kind}_features")(**inputs)
        # transformers 5 returns an object, earlier ones the tensor itself
        out: Tensor = found if isinstance(found, Tensor) else found.pooler_output
        return out


def _unit(x: Tensor) -> Tensor:
    """Normalize in at least single precision."""
    return F.normalize(x if x.dtype == torch.float64 else x.float(), dim=-1)


@lru_cache(maxsize=4)
def load_clip(where: Path, stamp: int, words: Path, device: str, precision: Precision) -> Embedder:
    """Return the CLIP of a folder in transformers' format, or of an open_clip file."""
    network = _clip_folder(where) if where.is_dir() else _clip_file(where)
    network = network.to(device=device, dtype=getattr(torch, precision)).eval()
    return Embedder(name=where.name, network=network.requires_grad_(False), words=words)


def _clip_folder(folder: Path) -> nn.Module:
    from transformers import CLIPModel

    settings = read_json(folder / "config.json")
    if settings.get("model_type") != "clip":
        raise ValueError(
            f"{folder / 'config.json'}: model_type is {settings.get('model_type')!r}, not 'clip'. "
            "Give a checkpoint of CLIP."
        )
    try:
        # pairs with output_loading_info, whatever the annotations say
        loaded: Any = CLIPModel.from_pretrained(
            folder, local_files_only=True, output_loading_info=True
        )
    except OSError as error:
        raise FileNotFoundError(
            f"{folder} has no model.safetensors or pytorch_model.bin. Put the weights there."
        ) from error
    network: nn.Module = loaded[0]
    missing = sorted(k for k in loaded[1]["missing_keys"] if not k.endswith("position_ids"))
    if missing:
        raise ValueError(
            f"The weights in {folder} lack {missing[:3]}. Give the folder as it was downloaded."
        )
    sound(network.named_parameters(), folder)
    return network


def _clip_file(file: Path) -> nn.Module:
    from transformers import CLIPConfig, CLIPModel

    try:
        settings, state = from_open_clip(read_tensors(file))
    except KeyError as error:
        raise ValueError(
            f"{file} holds no {error.args[0]}, so it is no CLIP in open_clip's format. Give the "
            f"published file."
        ) from error
    return fill(CLIPModel(CLIPConfig(**settings)), state, file, "CLIP ViT-H/14")


def from_open_clip(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return settings and tensors of transformers' `CLIPModel` from a state dict of open_clip.

    The architecture is CLIP ViT-H/14's: 16 heads in both towers, exact GELU; sizes are those of the
    tensors. Queries, keys and values, which open_clip stacks, are taken apart, and projections,
    which it multiplies from the right, are transposed.

    Raises:
        KeyError: a tensor is missing; its name is the argument.
    """
    tower = {"": "text_model.", "visual.": "vision_model."}
    parts = {
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
        "attn.out_proj": "self_attn.out_proj",
    }
    plain = {
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "ln_final.weight": "text_model.final_layer_norm.weight",
        "ln_final.bias": "text_model.final_layer_norm.bias",
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        # transformers spells it so
        "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
        "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
        "visual.ln_post.weight": "vision_model.post_layernorm.weight",
        "visual.ln_post.bias": "vision_model.post_layernorm.bias",
        "logit_scale": "logit_scale",
    }
    out = {
        "text_projection.weight": state["text_projection"].T.contiguous(),
        "visual_projection.weight": state["visual.proj"].T.contiguous(),
    }
    block = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)\.(weight|bias)")
    stacked = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)")
    for key, tensor in state.items():
        if match := stacked.fullmatch(key):
            start = f"{tower[match[1] or '']}encoder.layers.{match[2]}.self_attn."
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                out[f"{start}{letter}_proj.{match[3]}"] = part.contiguous()
        elif match := block.fullmatch(key):
            start = f"{tower[match[1] or '']}encoder.layers.{match[2]}."
            out[f"{start}{parts.get(match[3], match[3])}.{match[4]}"] = tensor
        elif key in plain:
            out[plain[key]] = tensor
        elif key not in ("text_projection", "visual.proj", "attn_mask"):
            # what is not known stays, so that the network refuses it
            out[key] = tensor
    conv, table = state["visual.conv1.weight"], state["token_embedding.weight"]
    spots = state["visual.positional_embedding"].shape[0] - 1

    def layers(start: str) -> int:
        return sum(key.startswith(start) and key.endswith("ln_1.weight") for key in state)

    def inner(start: str) -> int:
        return state[f"{start}transformer.resblocks.0.mlp.c_fc.weight"].shape[0]

    shared = {"num_attention_heads": HEADS, "hidden_act": "gelu"}
    settings = {
        "projection_dim": state["visual.proj"].shape[1],
        "vision_config": {
            **shared,
            "hidden_size": conv.shape[0],
            "intermediate_size": inner("visual."),
            "num_hidden_layers": layers("visual.transformer."),
            "patch_size": conv.shape[-1],
            "image_size": math.isqrt(spots) * conv.shape[-1],
        },
        "text_config": {
            **shared,
            "hidden_size": table.shape[1],
            "intermediate_size": inner(""),
            "num_hidden_layers": layers("transformer."),
            "vocab_size": table.shape[0],
            "max_position_embeddings": state["positional_embedding"].shape[0],
            "bos_token_id": table.shape[0] - 2,
            "eos_token_id": table.shape[0] - 1,
        },
    }
    return settings, out
