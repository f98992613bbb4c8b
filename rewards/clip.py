"""aesthetic, clip-score, pick-score, hps-v2: scores linear in CLIP's embeddings of an image.

| reward | value | network |
|---|---|---|
| aesthetic | w · e + b, with e the unit embedding of the image | CLIP ViT-L/14, and LAION's head |
| clip-score | cosine of the embeddings of image and prompt | any CLIP; ViT-L/14 by default |
| pick-score | that cosine times exp(logit scale), about 100 | PickScore v1, a CLIP ViT-H/14 |
| hps-v2 | that cosine | HPS v2 or v2.1, a CLIP ViT-H/14 |

All are differentiable in the pixels, see prompts encoded once per prompt, and share a network that
is the same. Images go through `preprocessing`, the head of `aesthetic` is one linear map (`heads`),
and weights are found on this machine (`checkpoints`); `hps-v2` reads the published file
HPS_v2.1_compressed.pt.

References:
    LAION-5B (Schuhmann et al., 2022), https://arxiv.org/abs/2210.08402 (the aesthetic predictor).
    CLIPScore (Hessel et al., 2021), https://arxiv.org/abs/2104.08718, equation 1 without its factor
    2.5 and its cut at 0.
    Pick-a-Pic (Kirstain et al., 2023), https://arxiv.org/abs/2305.01569, equation 1.
    Human Preference Score v2 (Wu et al., 2023), https://arxiv.org/abs/2306.09341.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from torch import Tensor

from seqalign.models.devices import Precision, device_of
from seqalign.rewards.checkpoints import (
    locate,
    need_transformers,
    read_tensors,
    stamp,
)
from seqalign.rewards.clip_network import TOKENIZER, Embedder, load_clip
from seqalign.rewards.heads import LinearHead, fold
from seqalign.rewards.images import ImageScore, check_chunk
from seqalign.rewards.preprocessing import Preprocessing, preprocessing_of

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Aesthetic", "Similarity", "aesthetic", "clip_score", "hps_v2", "pick_score"]


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
}


# preprocessing ------------------------------------------------------------------------------------


# heads --------------------------------------------------------------------------------------------


# finding and reading weights ----------------------------------------------------------------------


# CLIP ---------------------------------------------------------------------------------------------


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


def _embedder(
    name: str,
    checkpoint: str | Path,
    tokenizer: str | Path | None,
    device: str,
    precision: Precision,
    file: str = "config.json",
) -> tuple[Embedder, Path]:
    """Return a CLIP and where it lies: a folder in transformers' format, or an open_clip file."""
    need_transformers()
    device = device_of(device, precision)
    where = locate(checkpoint, _NEEDS[name], file).resolve()
    if where.is_dir() and not (where / "config.json").is_file():
        if not (where / file).is_file():
            raise FileNotFoundError(f"{where / file} is missing. {_NEEDS[name]}")
        where = where / file
    if tokenizer is None:
        words = where if where.is_dir() else where.parent
    else:
        words = locate(tokenizer, TOKENIZER, "vocab.json").resolve()
    embedder = load_clip(where, stamp(where), words, device, precision)
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
        folded = fold(read_tensors(where))
    except ValueError as error:
        raise ValueError(f"{where} is not LAION's head: {error} {_NEEDS['head']}") from error
    embedder, folder = _embedder("aesthetic", checkpoint, None, device, precision)
    steps = preprocessing_of(folder, embedder.size, eight_bit)
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

    Arguments and errors are those of `aesthetic`; `checkpoint` is any CLIP.
    """
    embedder, folder = _embedder("clip-score", checkpoint, None, device, precision)
    return Similarity(
        embedder=embedder,
        preprocessing=preprocessing_of(folder, embedder.size, eight_bit),
        chunk=chunk,
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

    Arguments and errors are those of `aesthetic`; `tokenizer` is a folder or repository with CLIP's
    vocabulary, by default the checkpoint's.
    """
    embedder, folder = _embedder("pick-score", checkpoint, tokenizer, device, precision)
    return Similarity(
        embedder=embedder,
        preprocessing=preprocessing_of(folder, embedder.size, eight_bit),
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

    Arguments and errors are those of `pick_score`, but for these: `version` "v2.1" reads
    HPS_v2.1_compressed.pt, "v2.0" HPS_v2_compressed.pt, where `checkpoint` is a folder or a
    repository; it may also be that file (open_clip's format) or the same network as a folder in
    transformers' format. `eight_bit` rounds the pixels of the image itself, which is resized in
    floats either way.
    """
    files = {"v2.1": "HPS_v2.1_compressed.pt", "v2.0": "HPS_v2_compressed.pt"}
    if version not in files:
        raise ValueError(f"Reward 'hps-v2': version is {version!r}; give 'v2.1' or 'v2.0'.")
    embedder, _ = _embedder("hps-v2", checkpoint, tokenizer, device, precision, files[version])
    steps = Preprocessing(embedder.size, "hps", eight_bit=eight_bit)
    return Similarity(embedder=embedder, preprocessing=steps, chunk=chunk, name="hps-v2")


# ImageReward --------------------------------------------------------------------------------------
