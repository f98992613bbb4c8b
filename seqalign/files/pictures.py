"""Image files and contact sheets."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["contact_sheet", "data_uri", "png", "read_png"]


def _pillow() -> Any:
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise ImportError(
            'Image files need Pillow, which is not installed. Run: pip install "seqalign[images]"',
            name=error.name,
        ) from error
    return Image, ImageDraw, ImageFont


def _picture(image: Tensor) -> Any:
    """Return a PIL image of (1 or 3, H, W) values in [0, 1]; what lies outside is clamped."""
    if image.dim() != 3 or image.shape[0] not in (1, 3):
        raise ValueError(
            f"Designs of shape {tuple(image.shape)} are no images, which have shape (1, H, W) or "
            "(3, H, W); read `.x` instead."
        )
    levels = (image.detach().double().clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    array = levels.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
    return _pillow()[0].fromarray(array)


def _png(picture: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()


def png(image: Tensor) -> bytes:
    """Return an image (1 or 3, H, W) with values in [0, 1] as a PNG of 8 bits a channel."""
    return _png(_picture(image))


def data_uri(image: Tensor) -> str:
    """Return an image (1 or 3, H, W) with values in [0, 1] as the text of a PNG in HTML."""
    return f"data:image/png;base64,{base64.b64encode(png(image)).decode('ascii')}"


def read_png(data: bytes) -> Tensor:
    """Return the image (3, H, W) in [0, 1], float32, of a PNG file."""
    picture = _pillow()[0].open(io.BytesIO(data)).convert("RGB")
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def contact_sheet(
    lines: Sequence[tuple[str, Sequence[Sequence[tuple[Tensor, str]]]]],
    note: str = "",
) -> bytes:
    """Return a PNG of lines of images: each with a title, in groups set apart, with captions.

    Args:
        lines: (title, groups), a group being (image (C, H, W), caption) pairs.
        note: a line above all.

    Small images are enlarged by a whole factor, large ones reduced.

    Raises:
        ValueError: there is no image, or a shape is not that of one.
        ImportError: Pillow is not installed.
    """
    if not any(group for _, groups in lines for group in groups):
        raise ValueError("There is no image for a contact sheet.")
    Image, Draw, Font = _pillow()
    from matplotlib import get_data_path

    folder = Path(get_data_path()) / "fonts" / "ttf"
    bold = Font.truetype(str(folder / "DejaVuSans-Bold.ttf"), 15)
    plain = Font.truetype(str(folder / "DejaVuSans.ttf"), 12)
    margin, gap, between, leading, heading = 18, 10, 26, 16, 26
    sides = [max(image.shape[-2:]) for _, groups in lines for group in groups for image, _ in group]
    tile = 112 if max(sides) <= 112 else 192

    def fitted(image: Tensor) -> Any:
        picture = _picture(image)
        most = max(picture.size)
        scale = tile // most if tile >= 2 * most else min(tile / most, 1)
        way = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
        return picture.resize(tuple(max(1, round(n * scale)) for n in picture.size), way)

    # (x, y, picture or text, font or None); drawn once the size of the sheet is known
    things: list[tuple[int, int, Any, Any]] = []
    y, right = margin, 0
    if note:
        things.append((margin, y, note, plain))
        right, y = margin + int(plain.getlength(note)), y + heading
    for words, groups in lines:
        title = " ".join(words.split())
        title = title if len(title) <= 90 else title[:89] + "…"
        if title:
            things.append((margin, y, title, bold))
            right, y = max(right, margin + int(bold.getlength(title))), y + heading
        x, bottom = margin, y
        for group in groups:
            for image, caption in group:
                picture = fitted(image)
                width, height = picture.size
                things.append((x, y, picture, None))
                rows = caption.splitlines()
                for n, row in enumerate(rows):
                    things.append((x, y + height + 3 + n * leading, row, plain))
                bottom = max(bottom, y + height + len(rows) * leading + 3)
                right = max(right, x + width)
                x += max(width, tile) + gap
            x += between - gap if group else 0
        y = bottom + 14
    sheet = Image.new("RGB", (right + margin, y + margin - 14), "#ffffff")
    pen = Draw.Draw(sheet)
    for x, top, thing, font in things:
        if font is None:
            width, height = thing.size
            sheet.paste(thing, (x, top))
            pen.rectangle((x - 1, top - 1, x + width, top + height), outline="#d5d2ca")
        else:
            pen.text((x, top), thing, fill="#1c2430" if font is bold else "#57606c", font=font)
    return _png(sheet)
