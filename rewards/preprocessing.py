"""Preprocessing: from images in [0, 1] of any size to what a vision network sees.

The published scores are of 8-bit images that Pillow resized, which rounds after each of its two
passes. `Preprocessing` repeats that to the bit, and its gradient goes straight through the
rounding. `eight_bit=False` leaves every rounding out: a smooth function of the pixels, for finite
differences and second derivatives, which is not quite the published score.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from seqalign.rewards.checkpoints import read_json

__all__ = ["MEAN", "STD", "Preprocessing", "Recipe", "preprocessing_of"]

Recipe = Literal["transformers", "torchvision", "hps"]

MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
"""The mean of R, G and B that CLIP and BLIP subtract."""

STD: Final = (0.26862954, 0.26130258, 0.27577711)
"""What they divide by."""


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


def preprocessing_of(folder: Path, size: int, eight_bit: bool) -> Preprocessing:
    """Return the preprocessing that a folder in transformers' format states, else CLIP's own."""
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        return Preprocessing(size, eight_bit=eight_bit)
    stated = read_json(file)
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
