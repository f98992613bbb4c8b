"""jpeg-compressibility, brightness, colorfulness: rewards of the pixels alone, without any network.

| reward | value of an image with channels R, G, B in [0, 1] | unit | gradient |
|---|---|---|---|
| jpeg-compressibility | − bytes of its JPEG file at quality 95 / 1000 | kB | no |
| jpeg-incompressibility | + bytes of its JPEG file at quality 95 / 1000 | kB | no |
| brightness | mean over pixels of 0.299 R + 0.587 G + 0.114 B, 0..1 | | yes |
| colorfulness | √(σ²_rg + σ²_yb) + 0.3 √(μ²_rg + μ²_yb) of 255 R, 255 G, 255 B | | yes |

with rg = R − G and yb = (R + G)/2 − B, and μ and σ² their mean and variance over the pixels
(divided by their number). A kB is 1000 bytes. The JPEG file is Pillow's, with its default chroma
subsampling (4:2:0) and tables, of the image rounded to 8 bits.

`ImageScore` is what all rewards of images share: the check of the designs, chunks, and a gradient
to `designs.x`.

References:
    Training Diffusion Models with Reinforcement Learning (Black et al., 2023),
    https://arxiv.org/abs/2305.13301, section 5.1 (compressibility).
    Measuring colourfulness in natural images (Hasler & Süsstrunk, 2003),
    https://doi.org/10.1117/12.477378, the metric of section 7.
    Recommendation ITU-R BT.601 (the weights of brightness).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

import torch

from seqalign.core.objective import Reward, RewardError
from seqalign.core.process import Designs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = [
    "Brightness",
    "Colorfulness",
    "ImageScore",
    "JpegSize",
    "brightness",
    "colorfulness",
    "jpeg_size",
    "pillow",
]

LUMA: Final = (0.299, 0.587, 0.114)
"""The weights of R, G and B in the brightness of a pixel (ITU-R BT.601)."""

SLACK: Final = 1e-3
"""What a pixel may lie outside [0, 1]: rounding of a decoder, a quarter of an 8-bit level."""


class ImageScore(Reward):
    """A score of RGB images in [0, 1]; a differentiable one has a gradient to `designs.x`.

    Attributes:
        chunk: images scored at once; None scores all at once.
        reads_prompts: whether the score depends on what the island was asked for.
    """

    chunk: int | None = None
    reads_prompts: bool = False

    def __call__(self, designs: Designs) -> Tensor:
        """Score designs (B, K), float64.

        Raises:
            TypeError: the designs are sequences.
            RewardError: they are no RGB images in [0, 1], or prompts are needed and missing.
        """
        with torch.no_grad():
            return self._scores(designs)

    def graded(self, designs: Designs) -> Tensor:
        """Score designs (B, K), float64, differentiably in designs.x (B, K, 3, H, W).

        Raises:
            TypeError: the reward has no gradient, or the designs are sequences.
            RewardError: they are no RGB images in [0, 1], or prompts are needed and missing.
        """
        if not self.differentiable:
            return super().relaxed(designs.x)
        return self._scores(designs)

    def relaxed(self, x: Tensor) -> Tensor:
        """Score images (B, K, 3, H, W) as (B, K), float64, differentiably.

        Raises:
            TypeError: the reward has no gradient.
            RewardError: they are no RGB images in [0, 1], or prompts are needed: call `graded`.
        """
        return self.graded(Designs(x))

    def _scores(self, designs: Designs) -> Tensor:
        b, k = designs.shape
        rows = self._images(designs).flatten(0, 1)
        prompts = self._prompts(designs)
        size = len(rows) if self.chunk is None else self.chunk
        parts = [
            self._score(rows[i : i + size], prompts[i : i + size])
            for i in range(0, len(rows), size)
        ]
        return torch.cat(parts).double().reshape(b, k).to(designs.x.device)

    def _images(self, designs: Designs) -> Tensor:
        """Return the images, (B, K, 3, H, W), after a check."""
        x = designs.x
        if designs.alphabet is not None:
            raise TypeError(
                f"Reward {self.name!r} scores images, and these designs are sequences. Use it with "
                f"a model of images."
            )
        if x.ndim != 5 or x.shape[2] != 3 or not x.is_floating_point():
            raise RewardError(
                f"Reward {self.name!r} scores RGB images, floats of shape (B, K, 3, H, W), got "
                f"{x.dtype} of shape {tuple(x.shape)}. Give the process a decoder that returns "
                f"such images."
            )
        # a comparison that NaN fails, too
        if not bool(((x >= -SLACK) & (x <= 1 + SLACK)).all()):
            raise RewardError(
                f"Reward {self.name!r} scores images in [0, 1], got values from "
                f"{float(x.detach().min()):.3g} to {float(x.detach().max()):.3g}. Let the decoder "
                f"of the process map states to [0, 1] (x / 2 + 0.5, clamped)."
            )
        return x

    def _prompts(self, designs: Designs) -> tuple[str, ...]:
        """Return one prompt per design, in order, or nothing if the score does not read them."""
        if not self.reads_prompts:
            return ()
        b, k = designs.shape
        if designs.prompts is None:
            raise RewardError(
                f"Reward {self.name!r} compares an image with its prompt, and these designs have "
                f"none. Use a model that takes a prompt, or give Designs(x, prompts=...), one "
                f"prompt per island."
            )
        if len(designs.prompts) != b:
            raise RewardError(
                f"Reward {self.name!r}: {len(designs.prompts)} prompts for {b} islands; give one "
                f"prompt per island."
            )
        return tuple(prompt for prompt in designs.prompts for _ in range(k))

    @abstractmethod
    def _score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the scores (n,) of images (n, 3, H, W) and their prompts, if it reads any."""


def check_chunk(name: str, chunk: int | None) -> None:
    """Refuse a number of images that is none.

    Raises:
        ValueError: `chunk` is below 1.
    """
    if chunk is not None and chunk < 1:
        raise ValueError(f"Reward {name!r}: chunk is {chunk}; give 1 or more images.")


def pillow(x: Tensor) -> list[Any]:
    """Return images (n, 3, H, W) in [0, 1] as n Pillow images of 8 bits, rounded to the nearest.

    Raises:
        ImportError: Pillow is not installed.
    """
    if find_spec("PIL") is None:
        raise ImportError(
            "Images are written with Pillow, which is not installed. Run: "
            'pip install "seqalign[images]"'
        )
    from PIL import Image

    levels = (x.detach() * 255).round().clamp(0, 255).to(torch.uint8)
    return [Image.fromarray(rows) for rows in levels.permute(0, 2, 3, 1).cpu().numpy()]


@dataclass(frozen=True)
class JpegSize(ImageScore):
    """The size of an image as a JPEG file, in kB of 1000 bytes, with a sign.

    Attributes:
        sign: −1 rewards small files, +1 large ones.
        quality: of the JPEG file, 1..95.
        name: what messages and tables call it.
        unit: kB.
        cost: seconds for an image of 512 × 512.

    Raises:
        ValueError: the quality is outside 1..95.
    """

    sign: int
    quality: int = 95
    name: str = "jpeg-size"
    unit: str = "kB"
    cost: float = 5e-3

    def __post_init__(self) -> None:
        """Refuse a quality that Pillow advises against or does not know."""
        if not 1 <= self.quality <= 95:
            raise ValueError(
                f"Reward {self.name!r}: quality is {self.quality}; give 1..95 (95 as published)."
            )

    def _score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        sizes = []
        for image in pillow(images):
            file = BytesIO()
            image.save(file, format="JPEG", quality=self.quality)
            sizes.append(self.sign * len(file.getvalue()) / 1000)
        return torch.tensor(sizes, dtype=torch.float64)


@dataclass(frozen=True)
class Brightness(ImageScore):
    """The mean luma of an image, 0 (black) to 1 (white).

    Attributes:
        name: what messages and tables call it.
        cost: seconds for an image of 512 × 512.
        differentiable: the gradient of every pixel is its weight over the number of pixels.
    """

    name: str = "brightness"
    cost: float = 1e-3
    differentiable: bool = True

    def _score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        x = images.double()
        return x.mean((-2, -1)) @ x.new_tensor(LUMA)


@dataclass(frozen=True)
class Colorfulness(ImageScore):
    """How colorful an image is, 0 (gray) to about 110 and more, on the published scale of 0..255.

    The viewers of the publication called 15 slightly, 45 averagely and 82 highly colorful.

    Attributes:
        name: what messages and tables call it.
        cost: seconds for an image of 512 × 512.
        differentiable: everywhere; where a root is 0, as of a gray image, its gradient is 0.
    """

    name: str = "colorfulness"
    cost: float = 2e-3
    differentiable: bool = True

    def _score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        red, green, blue = (255 * images.double()).flatten(2).unbind(1)
        rg, yb = red - green, (red + green) / 2 - blue
        spread = rg.var(-1, correction=0) + yb.var(-1, correction=0)
        shift = rg.mean(-1) ** 2 + yb.mean(-1) ** 2
        return _root(spread) + 0.3 * _root(shift)


def _root(square: Tensor) -> Tensor:
    """Return the root of numbers from 0, with gradient 0 at 0, where the slope is infinite."""
    some = square > 0
    return torch.where(some, square, 1.0).sqrt() * some


def jpeg_size(*, registered: str, quality: int = 95) -> JpegSize:
    """Return minus the size of the image as a JPEG file, in kB, or the size itself.

    Args:
        registered: "jpeg-compressibility": smooth, simple images; "jpeg-incompressibility":
            detailed, busy ones.
        quality: of the JPEG file, 1..95; 95 as published.

    Raises:
        ValueError: the quality is outside 1..95.
    """
    return JpegSize(-1 if registered == "jpeg-compressibility" else +1, quality, registered)


def brightness() -> Brightness:
    """Return the mean luma of the image, 0..1."""
    return Brightness()


def colorfulness() -> Colorfulness:
    """Return the colorfulness of Hasler and Süsstrunk, on their scale."""
    return Colorfulness()
