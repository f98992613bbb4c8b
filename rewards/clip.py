"""aesthetic, clip-score, pick-score, hps-v2, image-reward: what learned judges think of an image.

| reward | value | network |
|---|---|---|
| aesthetic | w · e + b, with e the unit embedding of the image | CLIP ViT-L/14, and LAION's head |
| clip-score | cosine of the embeddings of image and prompt | any CLIP; ViT-L/14 by default |
| pick-score | that cosine times exp(logit scale), about 100 | PickScore v1, a CLIP ViT-H/14 |
| hps-v2 | that cosine | HPS v2 or v2.1, a CLIP ViT-H/14 |
| image-reward | (w · h + b − mean) / std, h a joint encoding | ImageReward v1.0, a BLIP ViT-L/16 |

All are differentiable in the pixels, see prompts encoded (or tokenized) once per prompt, and share
a network that is the same. The heads of `aesthetic` and `image-reward` are chains of linear layers
without anything in between, so `fold` makes one linear map of them, in float64.

*Preprocessing.* The published scores are of 8-bit images that Pillow resized, which rounds after
each of its two passes. `Preprocessing` repeats that to the bit, and its gradient goes straight
through the rounding. `eight_bit=False` leaves every rounding out: a smooth function of the pixels,
for finite differences and second derivatives, which is not quite the published score.

*Weights.* Nothing is downloaded. A checkpoint is a name of `seqalign fetch`, a folder or file, or
the name of a Hugging Face repository that is in this machine's own cache (`hf download NAME`).
`hps-v2` and `image-reward` read the published files HPS_v2.1_compressed.pt and ImageReward.pt.

References:
    Learning Transferable Visual Models From Natural Language Supervision (Radford et al., 2021),
    https://arxiv.org/abs/2103.00020 (CLIP).
    LAION-5B (Schuhmann et al., 2022), https://arxiv.org/abs/2210.08402 (the aesthetic predictor).
    CLIPScore (Hessel et al., 2021), https://arxiv.org/abs/2104.08718, equation 1 without its factor
    2.5 and its cut at 0.
    Pick-a-Pic (Kirstain et al., 2023), https://arxiv.org/abs/2305.01569, equation 1.
    Human Preference Score v2 (Wu et al., 2023), https://arxiv.org/abs/2306.09341.
    ImageReward (Xu et al., 2023), https://arxiv.org/abs/2304.05977.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqalign import weights
from seqalign.core.objective import shared
from seqalign.rewards.images import ImageScore, check_chunk

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "Aesthetic",
    "Embedder",
    "ImageReward",
    "LinearHead",
    "Precision",
    "Preprocessing",
    "Similarity",
    "aesthetic",
    "clip_score",
    "fold",
    "from_image_reward",
    "from_open_clip",
    "hps_v2",
    "image_reward",
    "locate",
    "pick_score",
]

Precision = Literal["float32", "bfloat16", "float16"]
Recipe = Literal["transformers", "torchvision", "hps"]

MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
"""The mean of R, G and B that CLIP and BLIP subtract."""

STD: Final = (0.26862954, 0.26130258, 0.27577711)
"""What they divide by."""

HEADS: Final = 16
"""Attention heads of both towers of CLIP ViT-H/14 and of BLIP's ViT-L/16; no file states them."""

TEXT_HEADS: Final = 12
"""Attention heads of BLIP's text encoder, a BERT-base."""

WORDS: Final = 35
"""Tokens of a prompt that ImageReward reads, padding included."""

REWARD_MEAN: Final = 0.16717362830052426
"""The mean of ImageReward's raw score over its data, which the published score subtracts."""

REWARD_STD: Final = 1.0333394966054072
"""Its standard deviation, by which the published score divides."""

_FILES: Final = "config.json, model.safetensors, vocab.json and merges.txt"
_FETCH: Final = '--include "*.json" --include "*.txt" --include model.safetensors'
_CLIP: Final = (
    "openai/clip-vit-large-patch14 on Hugging Face (1.7 GB; MIT in the authors' code repository): "
    f"run `hf download openai/clip-vit-large-patch14 {_FETCH}`, or give the path of a folder with "
    f"{_FILES} as checkpoint."
)
_NEEDS: Final = {
    "aesthetic": f"CLIP ViT-L/14 is {_CLIP}",
    "head": (
        "The head is sac+logos+ava1-l14-linearMSE.pth (3.7 MB, Apache-2.0) of "
        "https://github.com/christophschuhmann/improved-aesthetic-predictor: download it and give "
        "its path as head."
    ),
    "clip-score": f"One that fits is {_CLIP}",
    "pick-score": (
        "PickScore is yuvalkirstain/PickScore_v1 on Hugging Face (3.9 GB; MIT in the authors' code "
        f"repository): run `hf download yuvalkirstain/PickScore_v1 {_FETCH}`, or give the path of "
        f"a folder with {_FILES} as checkpoint."
    ),
    "hps-v2": (
        "HPS is HPS_v2.1_compressed.pt (version v2.1) or HPS_v2_compressed.pt (v2.0) of xswu/HPSv2 "
        "on Hugging Face (2 GB each, Apache-2.0): run `hf download xswu/HPSv2 "
        "HPS_v2.1_compressed.pt`, or give the path of that file or its folder as checkpoint."
    ),
    "tokenizer": (
        "The vocabulary of CLIP is vocab.json and merges.txt (1.5 MB, MIT), the same for every "
        "CLIP: run `hf download openai/clip-vit-large-patch14 vocab.json merges.txt`, or give the "
        "path of a folder that holds them as tokenizer."
    ),
    "image-reward": (
        "ImageReward is ImageReward.pt of zai-org/ImageReward on Hugging Face (1.8 GB, "
        "Apache-2.0): run `hf download zai-org/ImageReward ImageReward.pt`, or give the path of "
        "that file or its folder as checkpoint."
    ),
    "words": (
        "Its vocabulary is the vocab.txt of google-bert/bert-base-uncased (0.2 MB, Apache-2.0): "
        "run `hf download google-bert/bert-base-uncased vocab.txt`, or give the path of a folder "
        "that holds it as tokenizer."
    ),
}


# preprocessing ------------------------------------------------------------------------------------


class _Straight(torch.autograd.Function):
    """Numbers rounded to 0..255, with the gradient of the unrounded ones, cut to 0..255."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, rounded: Tensor) -> Tensor:
        """Return what was rounded."""
        ctx.save_for_backward((y >= 0) & (y <= 255))
        return rounded.clamp(0, 255)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        """Pass the gradient on where nothing was cut."""
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None


def _straight(y: Tensor, rounded: Tensor) -> Tensor:
    out: Tensor = _Straight.apply(y, rounded)  # type: ignore[no-untyped-call]
    return out


@lru_cache(maxsize=64)
def _kernel(n: int, m: int, bits: int | None) -> Tensor:
    """Return the weights (m, n) that resize n pixels to m: bicubic (a = −1/2), antialiased.

    With `bits`, they are the multiples of 2^−bits nearest to them, as Pillow holds them.
    """
    scale = n / m
    # shrinking widens the kernel, so that no pixel is left out
    wide = max(scale, 1.0)
    center = (torch.arange(m, dtype=torch.float64)[:, None] + 0.5) * scale
    at = torch.arange(n, dtype=torch.float64)
    first = (center - 2 * wide + 0.5).floor().clamp(min=0)
    end = (center + 2 * wide + 0.5).floor().clamp(max=n)
    d = ((at + 0.5 - center) / wide).abs()
    near = (1.5 * d - 2.5) * d * d + 1
    far = ((2.5 - 0.5 * d) * d - 4) * d + 2
    w = torch.where(d < 1, near, torch.where(d < 2, far, 0.0))
    w = torch.where((at >= first) & (at < end), w, 0.0)
    w = w / w.sum(-1, keepdim=True)
    if bits is not None:
        w = w.sign() * (w.abs() * 2.0**bits + 0.5).floor() / 2.0**bits
    return w


def _resize(x: Tensor, height: int, width: int, *, levels: bool) -> Tensor:
    """Resize images (..., H, W), float64; with `levels`, of 0..255 and in Pillow's arithmetic.

    Pillow's weights are multiples of 2^−22, so its sums of integers are exact in float64, whatever
    their order, and a half is rounded up as it does.
    """
    for axis, size in ((-1, width), (-2, height)):
        if x.shape[axis] == size:
            continue
        w = _kernel(x.shape[axis], size, 22 if levels else None).to(x.device)
        x = x @ w.T if axis == -1 else w @ x
        if levels:
            x = _straight(x, (x.detach() + 0.5).floor())
    return x


@dataclass(frozen=True)
class Preprocessing:
    """From images in [0, 1] of any size to the normalized square that a network sees.

    Attributes:
        size: pixels of a side of the square.
        recipe: "transformers" and "torchvision" shrink the shorter side to `size` and cut the
            middle out, which differs by a pixel when an odd number is cut off; "hps" shrinks the
            longer side, without rounding, and pads with black.
        mean: subtracted from R, G and B.
        std: what they are divided by then.
        eight_bit: round as the published scorers do, with a gradient straight through; False keeps
            every step smooth.
    """

    size: int
    recipe: Recipe = "transformers"
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD
    eight_bit: bool = True

    def __call__(self, images: Tensor) -> Tensor:
        """Return (n, 3, size, size), float32 (or float64), of images (n, 3, H, W) in [0, 1]."""
        x = 255 * images.double()
        if self.eight_bit:
            x = _straight(x, x.detach().round())
        height, width = x.shape[-2:]
        if self.recipe == "hps":
            scale = self.size / max(height, width)
            h, w = round(height * scale), round(width * scale)
            x = _resize(x, h, w, levels=False)
            top, left = (self.size - h) // 2, (self.size - w) // 2
            x = F.pad(x, (left, self.size - w - left, top, self.size - h - top))
        else:
            short = min(height, width)
            h, w = (int(self.size * n / short) for n in (height, width))
            x = _resize(x, h, w, levels=self.eight_bit)
            if not self.eight_bit:
                x = x.clamp(0, 255)
            spare = ((h - self.size) / 2, (w - self.size) / 2)
            cut = round if self.recipe == "torchvision" else int
            top, left = cut(spare[0]), cut(spare[1])
            x = x[..., top : top + self.size, left : left + self.size]
        mean, std = (x.new_tensor(v)[:, None, None] for v in (self.mean, self.std))
        x = (x / 255 - mean) / std
        return x if images.dtype == torch.float64 else x.float()


def _listed(folder: Path, size: int, eight_bit: bool) -> Preprocessing:
    """Return the preprocessing that a folder in transformers' format states, else CLIP's own."""
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        return Preprocessing(size, eight_bit=eight_bit)
    stated = _json(file)
    sides = stated.get("size", size)
    crop = stated.get("crop_size", size)
    sides = sides.get("shortest_edge") if isinstance(sides, Mapping) else sides
    crop = set(crop.values()) if isinstance(crop, Mapping) else {crop}
    steps = all(stated.get(f"do_{step}", True) for step in ("resize", "center_crop", "normalize"))
    if sides != size or crop != {size} or stated.get("resample", 3) != 3 or not steps:
        raise ValueError(
            f"{file} describes another preprocessing than CLIP's (shorter side to {size} pixels, "
            f"bicubic, middle cut out, normalized). Give a checkpoint of CLIP."
        )
    mean, std = (stated.get(f"image_{k}", v) for k, v in (("mean", MEAN), ("std", STD)))
    return Preprocessing(size, mean=tuple(mean), std=tuple(std), eight_bit=eight_bit)


# heads --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class LinearHead:
    """One linear map from an embedding to a number, in float64.

    Attributes:
        weight: (d,) float64.
        bias: added.
    """

    weight: Tensor = field(repr=False)
    bias: float

    def __call__(self, features: Tensor) -> Tensor:
        """Return (n,) float64 of features (n, d)."""
        return features.double() @ self.weight.to(features.device) + self.bias


def fold(state: Mapping[str, Tensor], prefix: str = "layers.") -> LinearHead:
    """Return the one linear map that a chain of linear layers is, multiplied out in float64.

    Args:
        state: `{prefix}{i}.weight` (out, in) and `{prefix}{i}.bias` (out,) of layers that follow
            one another in the order of i; numbers may be left out (dropout layers have no weights).
        prefix: of the layers; other keys are not read.

    Raises:
        ValueError: there is no such layer, a bias is missing, or they do not follow one another
            from a vector to one number.
    """
    found = (re.fullmatch(re.escape(prefix) + r"(\d+)\.weight", key) for key in state)
    numbers = sorted(int(match[1]) for match in found if match)
    if not numbers:
        raise ValueError(f"It holds no {prefix}0.weight, so it is no chain of linear layers.")
    weight: Tensor | None = None
    bias = torch.zeros((), dtype=torch.float64)
    for i in numbers:
        w = state[f"{prefix}{i}.weight"].detach().double().cpu()
        b = state.get(f"{prefix}{i}.bias")
        fits = w.ndim == 2 and b is not None and b.shape == w.shape[:1]
        if b is None or not fits or (weight is not None and w.shape[1] != weight.shape[0]):
            raise ValueError(
                f"{prefix}{i}.weight has shape {tuple(w.shape)}, which does not follow what is "
                f"before it, or has no bias."
            )
        weight = w if weight is None else w @ weight
        bias = (w @ bias if bias.ndim else 0) + b.detach().double().cpu()
    assert weight is not None
    if weight.shape[0] != 1:
        raise ValueError(f"Its last layer gives {weight.shape[0]} numbers instead of one score.")
    return LinearHead(weight[0], float(bias))


# finding and reading weights ----------------------------------------------------------------------


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


def check_setup(device: str, precision: str) -> str:
    """Return the device that is meant.

    Raises:
        ValueError: there is no such device or precision.
    """
    if precision not in get_args(Precision):
        raise ValueError(
            f"precision is {precision!r}; give one of {', '.join(get_args(Precision))}."
        )
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device is {device!r}; give auto, cpu, cuda or cuda:1.") from error
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device is {device!r}, and torch sees {torch.cuda.device_count()} GPUs here. Give "
            f"device: auto."
        )
    return device


def _json(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{file} cannot be read as JSON: {error}.") from error
    if not isinstance(data, dict):
        raise ValueError(f"{file} holds no mapping. Give the file as it was downloaded.")
    return data


def _tensors(file: Path) -> dict[str, Tensor]:
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
    return {k.removeprefix("module."): v for k, v in data.items() if isinstance(v, Tensor)}


def _fill(network: nn.Module, state: Mapping[str, Tensor], file: Path, what: str) -> nn.Module:
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


def _stamp(where: Path) -> int:
    """Return the time of the last change: a place that changed is read again."""
    return where.stat().st_mtime_ns


# CLIP ---------------------------------------------------------------------------------------------


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
                    raise FileNotFoundError(
                        f"{self.words / name} is missing. {_NEEDS['tokenizer']}"
                    )
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
        return _unit(self._run("image", pixel_values=_like(pixels, self.network)))

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


def _like(x: Tensor, network: nn.Module) -> Tensor:
    own = next(network.parameters())
    return x.to(own.device, own.dtype)


def _unit(x: Tensor) -> Tensor:
    """Normalize in at least single precision."""
    return F.normalize(x if x.dtype == torch.float64 else x.float(), dim=-1)


@lru_cache(maxsize=4)
def _clip(where: Path, stamp: int, words: Path, device: str, precision: Precision) -> Embedder:
    """Return the CLIP of a folder in transformers' format, or of an open_clip file."""
    network = _clip_folder(where) if where.is_dir() else _clip_file(where)
    network = network.to(device=device, dtype=getattr(torch, precision)).eval()
    return Embedder(name=where.name, network=network.requires_grad_(False), words=words)


def _clip_folder(folder: Path) -> nn.Module:
    from transformers import CLIPModel

    settings = _json(folder / "config.json")
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
    return network


def _clip_file(file: Path) -> nn.Module:
    from transformers import CLIPConfig, CLIPModel

    try:
        settings, state = from_open_clip(_tensors(file))
    except KeyError as error:
        raise ValueError(
            f"{file} holds no {error.args[0]}, so it is no CLIP in open_clip's format. Give the "
            f"published file."
        ) from error
    return _fill(CLIPModel(CLIPConfig(**settings)), state, file, "CLIP ViT-H/14")


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


@dataclass(frozen=True, eq=False, kw_only=True)
class Aesthetic(ImageScore):
    """A linear function of the unit embedding of an image; no prompt is read.

    Attributes:
        embedder: what embeds images.
        head: the linear function.
        preprocessing: from the image to what `embedder` sees.
        chunk: images per call of the network; None is all at once.
        name: what messages and tables call it.

    Raises:
        ValueError: head and embedding do not fit, or `chunk` is below 1.
    """

    embedder: Embedder = field(repr=False)
    head: LinearHead = field(repr=False)
    preprocessing: Preprocessing
    chunk: int | None = 16
    name: str = "aesthetic"
    differentiable: bool = True

    def __post_init__(self) -> None:
        """Refuse a head for another embedding."""
        check_chunk(self.name, self.chunk)
        if len(self.head.weight) != self.embedder.width:
            raise ValueError(
                f"Reward {self.name!r}: the head takes {len(self.head.weight)} numbers, and "
                f"{self.embedder.name} gives {self.embedder.width}. LAION's head is for CLIP "
                f"ViT-L/14."
            )

    @property
    def cost(self) -> float:  # type: ignore[override]
        """Seconds per image, roughly."""
        return self.embedder.cost

    def _score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.head(self.embedder.see(images, self.preprocessing))


@dataclass(frozen=True, eq=False, kw_only=True)
class Similarity(ImageScore):
    """The cosine of the embeddings of image and prompt, times a number.

    Attributes:
        embedder: what embeds images and prompts.
        preprocessing: from the image to what `embedder` sees.
        scale: what the cosine is multiplied by.
        chunk: images per call of the network; None is all at once.
        name: what messages and tables call it.

    Raises:
        ValueError: `chunk` is below 1.
    """

    embedder: Embedder = field(repr=False)
    preprocessing: Preprocessing
    scale: float = 1.0
    chunk: int | None = 16
    name: str = "clip-score"
    differentiable: bool = True
    reads_prompts: bool = True

    def __post_init__(self) -> None:
        """Refuse a number of images that is none."""
        check_chunk(self.name, self.chunk)

    @property
    def cost(self) -> float:  # type: ignore[override]
        """Seconds per image, roughly."""
        return self.embedder.cost

    def _score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        seen = self.embedder.see(images, self.preprocessing)
        asked = self.embedder.texts(prompts)
        return self.scale * (seen.double() * asked.double()).sum(-1)


def _load_clip(
    name: str,
    checkpoint: str | Path,
    tokenizer: str | Path | None,
    device: str,
    precision: Precision,
    file: str = "config.json",
) -> tuple[Embedder, Path]:
    """Return a CLIP and where it lies: a folder in transformers' format, or an open_clip file."""
    need_transformers()
    device = check_setup(device, precision)
    where = locate(checkpoint, _NEEDS[name], file).resolve()
    if where.is_dir() and not (where / "config.json").is_file():
        if not (where / file).is_file():
            raise FileNotFoundError(f"{where / file} is missing. {_NEEDS[name]}")
        where = where / file
    if tokenizer is None:
        words = where if where.is_dir() else where.parent
    else:
        words = locate(tokenizer, _NEEDS["tokenizer"], "vocab.json").resolve()
    embedder = _clip(where, _stamp(where), words, device, precision)
    if name != "aesthetic":
        # now, not in the middle of a run
        _ = embedder.tokenizer
    return embedder, where


def aesthetic(
    *,
    checkpoint: str | Path = "openai/clip-vit-large-patch14",
    head: str | Path = "laion-aesthetic-v2",
    chunk: int | None = 16,
    device: str = "auto",
    precision: Precision = "float32",
    eight_bit: bool = True,
) -> Aesthetic:
    """Return LAION's aesthetic score, trained on human ratings from 1 to 10.

    Args:
        checkpoint: CLIP ViT-L/14: a name of `seqalign fetch`, a folder in transformers' format, or
            a Hugging Face repository in the cache of this machine.
        head: the head's file, or a name of `seqalign fetch`.
        chunk: images per call of the network.
        device: "cpu", "cuda", ...; "auto" is cuda where there is one.
        precision: of the network; "bfloat16" and "float16" are for accelerators.
        eight_bit: round pixels as the published scorer does; False is smooth.

    Raises:
        ImportError: transformers is not installed.
        FileNotFoundError: the weights are not on this machine; the message says what to do.
        ValueError: a file is not what it should be, or device or precision is unknown.
    """
    where = locate(head, _NEEDS["head"])
    try:
        folded = fold(_tensors(where))
    except ValueError as error:
        raise ValueError(f"{where} is not LAION's head: {error} {_NEEDS['head']}") from error
    embedder, folder = _load_clip("aesthetic", checkpoint, None, device, precision)
    steps = _listed(folder, embedder.size, eight_bit)
    return Aesthetic(embedder=embedder, head=folded, preprocessing=steps, chunk=chunk)


def clip_score(
    *,
    checkpoint: str | Path = "openai/clip-vit-large-patch14",
    chunk: int | None = 16,
    device: str = "auto",
    precision: Precision = "float32",
    eight_bit: bool = True,
) -> Similarity:
    """Return the cosine of CLIP's embeddings of image and prompt, −1..1.

    Args:
        checkpoint: any CLIP: a name of `seqalign fetch`, a folder in transformers' format, or a
            Hugging Face repository in the cache of this machine.
        chunk: images per call of the network.
        device: "cpu", "cuda", ...; "auto" is cuda where there is one.
        precision: of the network; "bfloat16" and "float16" are for accelerators.
        eight_bit: round pixels as the published scorer does; False is smooth.

    Raises:
        ImportError: transformers is not installed.
        FileNotFoundError: the weights are not on this machine; the message says what to do.
        ValueError: a file is not what it should be, or device or precision is unknown.
    """
    embedder, folder = _load_clip("clip-score", checkpoint, None, device, precision)
    return Similarity(
        embedder=embedder, preprocessing=_listed(folder, embedder.size, eight_bit), chunk=chunk
    )


def pick_score(
    *,
    checkpoint: str | Path = "yuvalkirstain/PickScore_v1",
    tokenizer: str | Path | None = None,
    chunk: int | None = 8,
    device: str = "auto",
    precision: Precision = "float32",
    eight_bit: bool = True,
) -> Similarity:
    """Return PickScore, exp(logit scale) · cosine, trained on the choices of users.

    Args:
        checkpoint: PickScore v1: a name of `seqalign fetch`, a folder in transformers' format, or a
            Hugging Face repository in the cache of this machine.
        tokenizer: a folder or repository with CLIP's vocabulary; by default the checkpoint's.
        chunk: images per call of the network.
        device: "cpu", "cuda", ...; "auto" is cuda where there is one.
        precision: of the network; "bfloat16" and "float16" are for accelerators.
        eight_bit: round pixels as the published scorer does; False is smooth.

    Raises:
        ImportError: transformers is not installed.
        FileNotFoundError: the weights are not on this machine; the message says what to do.
        ValueError: a file is not what it should be, or device or precision is unknown.
    """
    embedder, folder = _load_clip("pick-score", checkpoint, tokenizer, device, precision)
    return Similarity(
        embedder=embedder,
        preprocessing=_listed(folder, embedder.size, eight_bit),
        scale=embedder.scale,
        chunk=chunk,
        name="pick-score",
    )


def hps_v2(
    *,
    version: Literal["v2.1", "v2.0"] = "v2.1",
    checkpoint: str | Path = "xswu/HPSv2",
    tokenizer: str | Path | None = "openai/clip-vit-large-patch14",
    chunk: int | None = 8,
    device: str = "auto",
    precision: Precision = "float32",
    eight_bit: bool = True,
) -> Similarity:
    """Return the Human Preference Score v2 or v2.1, a cosine, trained on human choices.

    Args:
        version: "v2.1" reads HPS_v2.1_compressed.pt, "v2.0" HPS_v2_compressed.pt, where the
            checkpoint is a folder or a repository.
        checkpoint: the published file (open_clip's format), a folder that holds it, the same
            network as a folder in transformers' format, or a Hugging Face repository in the cache
            of this machine.
        tokenizer: a folder or repository with CLIP's vocabulary; None is the checkpoint's folder.
        chunk: images per call of the network.
        device: "cpu", "cuda", ...; "auto" is cuda where there is one.
        precision: of the network; "bfloat16" and "float16" are for accelerators.
        eight_bit: round the pixels of the image itself, which is resized in floats either way.

    Raises:
        ImportError: transformers is not installed.
        FileNotFoundError: the weights are not on this machine; the message says what to do.
        ValueError: a file is not what it should be, or version, device or precision is unknown.
    """
    files = {"v2.1": "HPS_v2.1_compressed.pt", "v2.0": "HPS_v2_compressed.pt"}
    if version not in files:
        raise ValueError(f"Reward 'hps-v2': version is {version!r}; give 'v2.1' or 'v2.0'.")
    embedder, _ = _load_clip("hps-v2", checkpoint, tokenizer, device, precision, files[version])
    steps = Preprocessing(embedder.size, "hps", eight_bit=eight_bit)
    return Similarity(embedder=embedder, preprocessing=steps, chunk=chunk, name="hps-v2")


# ImageReward --------------------------------------------------------------------------------------


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
        pixels = _like(self.preprocessing(images), self.vision)
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
        seeing, reading, vision, text, head = from_image_reward(_tensors(where))
    except KeyError as error:
        raise ValueError(
            f"{where} holds no {error.args[0]}, so it is not ImageReward. Give the published file."
        ) from error
    networks = (
        _fill(BlipVisionModel(BlipVisionConfig(**seeing)), vision, where, "BLIP's ViT-L/16"),
        _fill(
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
    device = check_setup(device, precision)
    where = locate(checkpoint, _NEEDS["image-reward"], "ImageReward.pt").resolve()
    where = where / "ImageReward.pt" if where.is_dir() else where
    if not where.is_file():
        raise FileNotFoundError(f"{where} is missing. {_NEEDS['image-reward']}")
    words = locate(tokenizer, _NEEDS["words"], "vocab.txt")
    if not (words / "vocab.txt").is_file():
        raise FileNotFoundError(f"{words / 'vocab.txt'} is missing. {_NEEDS['words']}")
    from transformers import BertTokenizer

    vision, text, head = _blip(where, _stamp(where), device, precision)
    size = int(vision.config.image_size)  # type: ignore[union-attr, arg-type]
    return ImageReward(
        vision=vision,
        text=text,
        head=head,
        tokenizer=BertTokenizer.from_pretrained(words, local_files_only=True, do_lower_case=True),
        preprocessing=Preprocessing(size, "torchvision", eight_bit=eight_bit),
        chunk=chunk,
    )
