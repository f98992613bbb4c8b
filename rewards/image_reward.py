"""image-reward: BLIP reads the prompt while it looks at the image, and a linear head scores it.

The value is (w · h + b − mean) / std with a joint encoding h of ImageReward v1.0, a BLIP ViT-L/16.
The published file ImageReward.pt is read.

References:
    ImageReward (Xu et al., 2023), https://arxiv.org/abs/2304.05977.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from seqalign.models.devices import Precision, device_of
from seqalign.rewards.checkpoints import fill, like, locate, need_transformers, read_tensors, stamp
from seqalign.rewards.clip_network import HEADS
from seqalign.rewards.heads import LinearHead, fold
from seqalign.rewards.images import ImageScore, check_chunk
from seqalign.rewards.preprocessing import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ImageReward", "from_image_reward", "image_reward"]

TEXT_HEADS: Final = 12
"""Attention heads of BLIP's text encoder, a BERT-base."""

WORDS: Final = 35
"""Tokens of a prompt that ImageReward reads, padding included."""

REWARD_MEAN: Final = 0.16717362830052426
"""The mean of ImageReward's raw score over its data, which the published score subtracts."""

REWARD_STD: Final = 1.0333394966054072
"""Its standard deviation, by which the published score divides."""

_WEIGHTS: Final = (
    "ImageReward is ImageReward.pt of zai-org/ImageReward on Hugging Face (1.8 GB, Apache-2.0): "
    "run `hf download zai-org/ImageReward ImageReward.pt`, or give the path of that file or its "
    "folder as checkpoint."
)
_WORDS: Final = (
    "Its vocabulary is the vocab.txt of google-bert/bert-base-uncased (0.2 MB, Apache-2.0): run "
    "`hf download google-bert/bert-base-uncased vocab.txt`, or give the path of a folder that "
    "holds it as tokenizer."
)


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageReward(ImageScore):
    """ImageReward: BLIP reads the prompt while looking at the image, and a linear head scores it.

    The prompt's encoding depends on the image from the first layer on, so that only its tokens are
    kept.

    Attributes:
        vision: transformers' `BlipVisionModel`, in evaluation mode, frozen.
        text: transformers' `BlipTextModel`, in evaluation mode, frozen.
        head: from the encoding of the first token to the raw score.
        tokenizer: BERT's, uncased.
        preprocessing: from the image to what `vision` sees.
        chunk: images per call of the networks; None is all at once.
        name: what messages and tables call it.

    Raises:
        ValueError: head and encoding do not fit, or `chunk` is below 1.
    """

    vision: nn.Module = field(repr=False)
    text: nn.Module = field(repr=False)
    head: LinearHead = field(repr=False)
    tokenizer: Any = field(repr=False)
    preprocessing: Preprocessing
    chunk: int | None = 8
    name: str = "image-reward"
    differentiable: bool = True
    reads_prompts: bool = True
    _tokens: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse a head for another encoding."""
        check_chunk(self.name, self.chunk)
        width = self.text.config.hidden_size  # type: ignore[union-attr]
        if len(self.head.weight) != width:
            raise ValueError(
                f"Reward {self.name!r}: the head takes {len(self.head.weight)} numbers, and the "
                f"text encoder gives {width}. Give the published file."
            )

    @property
    def cost(self) -> float:  # type: ignore[override]
        """Seconds per image, at 50 GFLOP/s on a CPU and 50 TFLOP/s on a GPU."""
        count = sum(p.numel() for p in self.vision.parameters())
        kind = next(self.vision.parameters()).device.type
        return 2 * count * 196 / (5e10 if kind == "cpu" else 5e13)

    def _score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        pixels = like(self.preprocessing(images), self.vision)
        seen = self.vision(pixel_values=pixels).last_hidden_state
        rows = [self._read(prompt) for prompt in prompts]
        read = self.text(
            input_ids=torch.stack([ids for ids, _ in rows]).to(seen.device),
            attention_mask=torch.stack([mask for _, mask in rows]).to(seen.device),
            encoder_hidden_states=seen,
            is_decoder=False,
        ).last_hidden_state[:, 0]
        return (self.head(read) - REWARD_MEAN) / REWARD_STD

    def _read(self, prompt: str) -> tuple[Tensor, Tensor]:
        if prompt not in self._tokens:
            found = self.tokenizer(
                prompt, padding="max_length", truncation=True, max_length=WORDS, return_tensors="pt"
            )
            self._tokens[prompt] = (found.input_ids[0], found.attention_mask[0])
        return self._tokens[prompt]


def from_image_reward(
    state: Mapping[str, Tensor],
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Tensor], dict[str, Tensor], LinearHead]:
    """Return settings of vision and text, their tensors, and the head from ImageReward.pt.

    The settings are those of transformers' `BlipVisionModel` (16 heads) and `BlipTextModel` (12
    heads, as in BERT); sizes are those of the tensors.

    Raises:
        KeyError: a tensor is missing; its name is the argument.
        ValueError: the head is no chain of linear layers.
    """
    swaps = {
        "norm1": "layer_norm1",
        "norm2": "layer_norm2",
        "attn.qkv": "self_attn.qkv",
        "attn.proj": "self_attn.projection",
    }
    plain = {
        "cls_token": "embeddings.class_embedding",
        "pos_embed": "embeddings.position_embedding",
        "patch_embed.proj.weight": "embeddings.patch_embedding.weight",
        "patch_embed.proj.bias": "embeddings.patch_embedding.bias",
        "norm.weight": "post_layernorm.weight",
        "norm.bias": "post_layernorm.bias",
    }
    vision: dict[str, Tensor] = {}
    text: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if key.startswith("blip.text_encoder."):
            name = key.removeprefix("blip.text_encoder.")
            # the order of the positions is no weight
            if not name.endswith("position_ids"):
                text[name] = tensor
        elif key.startswith("blip.visual_encoder."):
            name = key.removeprefix("blip.visual_encoder.")
            if match := re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", name):
                part = swaps.get(match[2], match[2])
                vision[f"encoder.layers.{match[1]}.{part}.{match[3]}"] = tensor
            else:
                vision[plain.get(name, name)] = tensor
    start = "blip.visual_encoder."
    conv = state[f"{start}patch_embed.proj.weight"]
    spots = state[f"{start}pos_embed"].shape[1] - 1
    table = state["blip.text_encoder.embeddings.word_embeddings.weight"]
    inner = "blip.text_encoder.encoder.layer.0.intermediate.dense.weight"
    seeing = {
        "hidden_size": conv.shape[0],
        "intermediate_size": state[f"{start}blocks.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": sum(k.endswith(".layer_norm1.weight") for k in vision),
        "num_attention_heads": HEADS,
        "patch_size": conv.shape[-1],
        "image_size": math.isqrt(spots) * conv.shape[-1],
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
    }
    reading = {
        "vocab_size": table.shape[0],
        "hidden_size": table.shape[1],
        "encoder_hidden_size": conv.shape[0],
        "intermediate_size": state[inner].shape[0],
        "num_hidden_layers": sum(k.endswith(".intermediate.dense.weight") for k in text),
        "num_attention_heads": TEXT_HEADS,
        "max_position_embeddings": state[
            "blip.text_encoder.embeddings.position_embeddings.weight"
        ].shape[0],
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "is_decoder": True,
    }
    return seeing, reading, vision, text, fold(state, "mlp.layers.")


@lru_cache(maxsize=2)
def _blip(
    where: Path, stamp: int, device: str, precision: Precision
) -> tuple[nn.Module, nn.Module, LinearHead]:
    from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

    try:
        seeing, reading, vision, text, head = from_image_reward(read_tensors(where))
    except KeyError as error:
        raise ValueError(
            f"{where} holds no {error.args[0]}, so it is not ImageReward. Give the published file."
        ) from error
    networks = (
        fill(BlipVisionModel(BlipVisionConfig(**seeing)), vision, where, "BLIP's ViT-L/16"),
        fill(
            BlipTextModel(BlipTextConfig(**reading), add_pooling_layer=False),
            text,
            where,
            "BLIP's text encoder",
        ),
    )
    kind = getattr(torch, precision)
    see, read = (n.to(device=device, dtype=kind).eval().requires_grad_(False) for n in networks)
    return see, read, head


def image_reward(
    *,
    checkpoint: str | Path = "zai-org/ImageReward",
    tokenizer: str | Path = "google-bert/bert-base-uncased",
    chunk: int | None = 8,
    device: str = "auto",
    precision: Precision = "float32",
    eight_bit: bool = True,
) -> ImageReward:
    """Return ImageReward v1.0, standardized as published (0 on average, one standard deviation).

    Args:
        checkpoint: the published ImageReward.pt, a folder that holds it, or a Hugging Face
            repository in the cache of this machine.
        tokenizer: a folder or repository with BERT's uncased vocab.txt.
        chunk: images per call of the networks.
        device: "cpu", "cuda", ...; "auto" is cuda where there is one.
        precision: of the networks; "bfloat16" and "float16" are for accelerators.
        eight_bit: round pixels as the published scorer does; False is smooth.

    Raises:
        ImportError: transformers is not installed.
        FileNotFoundError: the weights are not on this machine; the message says what to do.
        ValueError: a file is not what it should be, or device or precision is unknown.
    """
    need_transformers()
    device = device_of(device, precision)
    where = locate(checkpoint, _WEIGHTS, "ImageReward.pt").resolve()
    where = where / "ImageReward.pt" if where.is_dir() else where
    if not where.is_file():
        raise FileNotFoundError(f"{where} is missing. {_WEIGHTS}")
    words = locate(tokenizer, _WORDS, "vocab.txt")
    if not (words / "vocab.txt").is_file():
        raise FileNotFoundError(f"{words / 'vocab.txt'} is missing. {_WORDS}")
    from transformers import BertTokenizer

    vision, text, head = _blip(where, stamp(where), device, precision)
    size = int(vision.config.image_size)  # type: ignore[union-attr, arg-type]
    return ImageReward(
        vision=vision,
        text=text,
        head=head,
        tokenizer=BertTokenizer.from_pretrained(words, local_files_only=True, do_lower_case=True),
        preprocessing=Preprocessing(size, "torchvision", eight_bit=eight_bit),
        chunk=chunk,
    )
