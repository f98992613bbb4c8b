"""Inverse problems: how well an image explains a noisy measurement of it, y = A x + sigma · noise.

r(x) = −||y − A x||² / (2 sigma²) in nats, the log-likelihood but for a constant, so that with
alpha = 1 the target p_pre(x) · exp(r(x)) is the posterior of x given y. A keeps some pixels
(`inpainting`), averages blocks of them (`super-resolution`) or blurs (`deblurring`). Images are
(B, K, C, H, W), float, in the units of the measurement; all islands share the measurement.

References:
    Chung et al., "Diffusion posterior sampling for general noisy inverse problems", ICLR 2023,
    arXiv 2209.14687, equation 1 and section 4 (the three operators).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from seqalign.core.objective import Reward, RewardError
from seqalign.core.process import Designs

__all__ = [
    "Deblurring",
    "Inpainting",
    "Measured",
    "SuperResolution",
    "deblurring",
    "inpainting",
    "read",
    "super_resolution",
]

Source = Tensor | str | Path


@dataclass(frozen=True, eq=False)
class Measured(Reward):
    """−||y − A x||² / (2 sigma²); what A is, `operate` says. This one is A = 1: denoising.

    Attributes:
        measurement: y, (C, h, w), in the units of the images.
        sigma: standard deviation of the noise of y, in the same units.
    """

    measurement: Tensor = field(repr=False)
    sigma: float
    name: str = "denoising"
    unit: str = "nats"
    cost: float = 1e-5
    differentiable: bool = True

    def __post_init__(self) -> None:
        """Refuse what is no measurement.

        Raises:
            ValueError: sigma is not positive, or y is not a finite (C, h, w) tensor of floats.
        """
        if not 0 < self.sigma < math.inf:
            raise ValueError(
                f"{self.name}: sigma is {self.sigma}; give the standard deviation of the noise of "
                f"the measurement, > 0, in the units of the image."
            )
        y = self.measurement
        if y.dim() != 3 or not y.is_floating_point() or not bool(torch.isfinite(y).all()):
            raise ValueError(
                f"{self.name}: the measurement has shape {tuple(y.shape)} and type {y.dtype}; give "
                f"finite floats of shape (C, h, w), in the units of the image."
            )

    def operate(self, x: Tensor) -> Tensor:
        """Return A x, (B, K, C, h, w), of images (B, K, C, H, W)."""
        return x

    def relaxed(self, x: Tensor) -> Tensor:
        """Score images (B, K, C, H, W) as (B, K), in nats, differentiably.

        Raises:
            RewardError: A x and y differ in shape.
        """
        seen, y = self.operate(x), self.measurement.to(x.device)
        if seen.shape[2:] != y.shape:
            raise RewardError(
                f"Reward {self.name!r}: an image {tuple(x.shape[2:])} would be measured as "
                f"{tuple(seen.shape[2:])}, but the measurement is {tuple(y.shape)}. Give a "
                f"measurement of an image of that size."
            )
        return self.score(seen.double() - y.double())

    def score(self, gap: Tensor) -> Tensor:
        """Return r, (B, K), of the residuals A x − y, (B, K, C, h, w)."""
        r: Tensor = -0.5 * (gap / self.sigma).square().flatten(2).sum(-1)
        return r

    def __call__(self, designs: Designs) -> Tensor:
        """Score designs, (B, K), in nats."""
        if designs.alphabet is not None:
            raise RewardError(
                f"Reward {self.name!r} measures images, and these designs are sequences."
            )
        with torch.no_grad():
            return self.relaxed(designs.x)


@dataclass(frozen=True, eq=False)
class Inpainting(Measured):
    """Some pixels of the image are known.

    Attributes:
        mask: (C, H, W) bool, True where a value was measured; y says nothing elsewhere.
    """

    name: str = "inpainting"
    mask: Tensor = field(repr=False, kw_only=True)

    def __post_init__(self) -> None:
        """Refuse a mask that does not fit the measurement, or keeps nothing."""
        super().__post_init__()
        if self.mask.dtype != torch.bool or self.mask.shape != self.measurement.shape:
            raise ValueError(
                f"inpainting: the mask has shape {tuple(self.mask.shape)} and type "
                f"{self.mask.dtype}; give booleans of the shape of the measurement, "
                f"{tuple(self.measurement.shape)}, or of its last two sizes."
            )
        if not bool(self.mask.any()):
            raise ValueError("inpainting: the mask keeps no pixel, so nothing was measured.")

    def score(self, gap: Tensor) -> Tensor:
        """Return r, (B, K), of residuals; those outside the mask count nothing."""
        return super().score(gap * self.mask.to(gap.device))


@dataclass(frozen=True, eq=False)
class SuperResolution(Measured):
    """The means of blocks of `factor` × `factor` pixels are known.

    Attributes:
        factor: pixels on the side of a block, >= 2.
    """

    name: str = "super-resolution"
    factor: int = field(kw_only=True)

    def __post_init__(self) -> None:
        """Refuse a factor that averages nothing."""
        super().__post_init__()
        if self.factor < 2:
            raise ValueError(
                f"super-resolution: factor is {self.factor}; give a whole number >= 2."
            )

    def operate(self, x: Tensor) -> Tensor:
        """Return the means of blocks.

        Raises:
            RewardError: the sides of the image are no multiples of the factor.
        """
        if x.shape[-1] % self.factor or x.shape[-2] % self.factor:
            raise RewardError(
                f"Reward {self.name!r}: the image is {x.shape[-2]} × {x.shape[-1]}, which factor "
                f"{self.factor} does not divide. Give a factor that does."
            )
        pooled: Tensor = functional.avg_pool2d(x.flatten(0, 1), self.factor)
        rows: Tensor = pooled.unflatten(0, x.shape[:2])
        return rows


@dataclass(frozen=True, eq=False)
class Deblurring(Measured):
    """The image is known through a separable blur; beyond its edge the last pixel repeats.

    Attributes:
        kernel: (2n + 1,) weights of the blur along each side, summing to 1.
    """

    name: str = "deblurring"
    kernel: Tensor = field(kw_only=True)

    def __post_init__(self) -> None:
        """Refuse weights without a middle."""
        super().__post_init__()
        if self.kernel.dim() != 1 or len(self.kernel) % 2 == 0:
            raise ValueError(
                f"deblurring: the kernel has shape {tuple(self.kernel.shape)}; give an odd number "
                f"of weights."
            )

    def operate(self, x: Tensor) -> Tensor:
        """Return the blurred images, (B, K, C, H, W)."""
        n = len(self.kernel) // 2
        k = self.kernel.to(x)
        flat = functional.pad(x.flatten(0, 2)[:, None], (n, n, n, n), mode="replicate")
        flat = functional.conv2d(flat, k[None, None, :, None])
        return functional.conv2d(flat, k[None, None, None, :])[:, 0].reshape(x.shape)


# building from files ------------------------------------------------------------------------------


def read(source: Source, what: str = "measurement") -> Tensor:
    """Return a tensor as it is, a PNG as (3, H, W) RGB in [0, 1], or the array of an NPY file.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: a PNG needs pillow.
        ValueError: the file is neither, or a PNG with transparency.
    """
    if isinstance(source, Tensor):
        return source
    path = Path(source).expanduser()
    if path.suffix.lower() == ".npy":
        return torch.from_numpy(np.load(path, allow_pickle=False))
    if path.suffix.lower() != ".png":
        raise ValueError(f"{what} {str(path)!r} is neither a .png nor a .npy file. Convert it.")
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            f'Reading {path} needs pillow: pip install "seqalign[images]", or give a .npy file.'
        ) from error
    with Image.open(path) as image:
        if "A" in image.getbands() or "transparency" in image.info:
            raise ValueError(
                f"{what} {str(path)!r} has transparent pixels, which have no color of their own. "
                f"Flatten it onto a background first."
            )
        rgb = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(rgb).permute(2, 0, 1).contiguous()


def inpainting(measurement: Source, sigma: float, mask: Source) -> Inpainting:
    """Return the log-likelihood of an image of which some pixels are known.

    Args:
        measurement: the image, (C, H, W) floats or a file (PNG, NPY); any value where `mask` is
            False.
        sigma: standard deviation of its noise, in the units of the image.
        mask: (H, W) or (C, H, W) booleans, or a file: an NPY of booleans, or a PNG that is white
            where a pixel was measured and black elsewhere.

    Raises:
        ValueError: the mask is not black and white, or does not fit.
    """
    y, keep = read(measurement), read(mask, "mask")
    if not isinstance(mask, Tensor) and Path(mask).suffix.lower() == ".png":
        if not bool(((keep == 0) | (keep == 1)).all()):
            raise ValueError(f"mask {str(mask)!r} has colors or grays; give black and white.")
        keep = keep[0] == 1
    if keep.dim() == 2 and keep.shape == y.shape[-2:]:
        keep = keep.expand(y.shape)
    return Inpainting(y, sigma, mask=keep)


def super_resolution(measurement: Source, sigma: float, factor: int = 4) -> SuperResolution:
    """Return the log-likelihood of an image of which the means of blocks of pixels are known.

    Args:
        measurement: the small image, (C, H / factor, W / factor) floats or a file (PNG, NPY).
        sigma: standard deviation of its noise, in the units of the image.
        factor: pixels on the side of a block.
    """
    return SuperResolution(read(measurement), sigma, factor=factor)


def deblurring(
    measurement: Source,
    sigma: float,
    width: float = 1.0,
    kernel: Literal["gaussian", "box"] = "gaussian",
) -> Deblurring:
    """Return the log-likelihood of an image that is known through a blur.

    Args:
        measurement: the blurred image, (C, H, W) floats or a file (PNG, NPY).
        sigma: standard deviation of its noise, in the units of the image.
        width: of the blur, in pixels: the standard deviation of a Gaussian (cut at three of them),
            or the side of a box, an odd whole number.
        kernel: the shape of the blur.

    Raises:
        ValueError: the kernel is unknown or the width does not fit it.
    """
    if kernel == "gaussian" and width > 0:
        n = math.ceil(3 * width)
        weights = torch.exp(-0.5 * (torch.arange(-n, n + 1, dtype=torch.float64) / width) ** 2)
    elif kernel == "box" and width > 0 and width % 2 == 1:
        weights = torch.ones(int(width), dtype=torch.float64)
    else:
        raise ValueError(
            f"deblurring: kernel {kernel!r} of width {width} is unknown; give 'gaussian' with a "
            f"width > 0, or 'box' with an odd whole number of pixels."
        )
    return Deblurring(read(measurement), sigma, kernel=weights / weights.sum())
