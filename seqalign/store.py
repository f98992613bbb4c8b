"""The run folder: every file is written whole (temporary name, then rename), never in part.

`summary.json` is written last: it means done.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from seqalign.particles import Samples, Step
from seqalign.process import Designs
from seqalign.sequence import Alphabet

__all__ = [
    "RunFolder",
    "contact_sheet",
    "fasta",
    "finite",
    "png",
    "read_fasta",
    "read_png",
    "to_csv",
    "write_atomic",
]

_OURS = (
    "config.yaml",
    "designs.csv",
    "designs.fasta",
    "contact-sheet.png",
    "baselines.csv",
    "trace.jsonl",
    "rejected.csv",
    "summary.json",
    "report.html",
)
_STEP = ("ess", "lam", "log_z", "value_mean", "value_max")


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write a file so that readers see the old one or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    raw = data.encode() if isinstance(data, str) else data
    try:
        with temporary.open("wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def to_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return CSV text; floats with six significant digits."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    return text.getvalue()


def fasta(records: Iterable[tuple[str, str]]) -> str:
    """Return FASTA text of (header, sequence) records, one line per sequence."""
    return "".join(f">{header}\n{sequence}\n" for header, sequence in records)


def read_fasta(path: Path) -> list[tuple[str, str]]:
    """Return the (header, sequence) records of a FASTA file.

    Raises:
        ValueError: the file holds no sequence, or text comes before the first header.
    """
    records: list[tuple[str, list[str]]] = []
    try:
        lines = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not text ({error.reason} at byte {error.start}); give a FASTA file."
        ) from error
    for n, line in enumerate(lines, 1):
        line = line.strip()
        if line.startswith(">"):
            records.append((line[1:].strip(), []))
        elif line and not records:
            raise ValueError(
                f"{path}:{n}: a FASTA file starts with '>' and a name, but this line is "
                f"{line[:40]!r}."
            )
        elif line:
            records[-1][1].append("".join(line.split()).upper())
    found = [(header, "".join(parts)) for header, parts in records]
    if not found:
        raise ValueError(
            f"{path} is empty: give a FASTA file with one sequence, or the sequence itself."
        )
    for header, sequence in found:
        if not sequence:
            raise ValueError(f"{path}: the record {header!r} has no sequence.")
    return found


# images -------------------------------------------------------------------------------------------


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
    """Return an image (1 or 3, H, W) with values in [0, 1] as a PNG file of 8 bits a channel.

    Raises:
        ValueError: the shape is not that of an image.
        ImportError: Pillow is not installed.
    """
    return _png(_picture(image))


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


def finite(value: Any) -> Any:
    """Replace what JSON cannot say (infinities, NaN) by null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return value


@dataclass(frozen=True)
class RunFolder:
    """One run on disk."""

    path: Path

    def __post_init__(self) -> None:
        """Make the path absolute."""
        object.__setattr__(self, "path", Path(self.path).resolve())

    @property
    def done(self) -> bool:
        """Whether the run is complete."""
        return (self.path / "summary.json").is_file()

    def open(self, config: Mapping[str, Any], fresh: bool = False) -> None:
        """Start or continue a run with a resolved configuration.

        Raises:
            ValueError: the folder holds another run, or files that are not a run's.
        """
        stored = self.path / "config.yaml"
        if self.path.is_dir() and any(self.path.iterdir()) and not stored.is_file():
            if any(
                p.name not in (*_OURS, "state") and not p.name.startswith(".")
                for p in self.path.iterdir()
            ):
                raise ValueError(
                    f"{self.path} is not empty and is no run folder (it has no config.yaml). "
                    "Choose another --out."
                )
        if fresh:
            self.clear()
        if stored.is_file():
            before = yaml.safe_load(stored.read_text("utf-8"))
            changes = list(_differences(before, json.loads(json.dumps(config))))
            if changes:
                raise ValueError(
                    f"{self.path} holds a run with another configuration: {'; '.join(changes[:4])}"
                    f"{'; ...' if len(changes) > 4 else ''}. Use --fresh to start over, or --out "
                    "for another folder."
                )
        else:
            text = yaml.safe_dump(
                json.loads(json.dumps(config)), sort_keys=False, allow_unicode=True, width=100
            )
            write_atomic(
                stored, "# What was run, with every default. Written by seqalign.\n" + text
            )
        (self.path / "state").mkdir(exist_ok=True)

    def clear(self) -> None:
        """Remove the run's own files and nothing else; the summary first, the configuration last.

        A folder `images` counts as the run's own where there is a configuration.
        """
        (self.path / "summary.json").unlink(missing_ok=True)
        if (self.path / "config.yaml").is_file():
            shutil.rmtree(self.path / "images", ignore_errors=True)
        shutil.rmtree(self.path / "state", ignore_errors=True)
        for name in reversed(_OURS):
            (self.path / name).unlink(missing_ok=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep a second process out of the folder.

        Raises:
            ValueError: another process is running here.
        """
        try:
            import fcntl
        except ImportError:  # no such locks on Windows
            yield
            return
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ValueError(
                    f"Another process is running in {self.path}. Wait for it, or choose another "
                    "--out."
                ) from error
            yield

    # islands --------------------------------------------------------------------------------------

    def _island(self, arm: str, island: int) -> Path:
        return self.path / "state" / f"{arm}-{island:05d}.safetensors"

    def save_island(self, arm: str, island: int, samples: Samples, seconds: float) -> None:
        """Keep one finished island (B = 1)."""
        trace = samples.trace
        k = samples.rewards.shape[1]
        stay = torch.arange(k)[None]
        tensors: dict[str, Tensor] = {
            "x": samples.designs.x,
            "rewards": samples.rewards,
            "log_w": samples.log_w,
            "calls": torch.tensor([[s.step, s.network_calls, s.reward_calls] for s in trace]),
            "moved": torch.tensor([s.ancestors is not None for s in trace]),
            "ancestors": torch.stack([stay if s.ancestors is None else s.ancestors for s in trace]),
            "seconds": torch.tensor(seconds, dtype=torch.float64),
            **{name: torch.stack([getattr(s, name).double() for s in trace]) for name in _STEP},
        }
        if samples.log_z is not None:
            tensors["log_z_end"] = samples.log_z
        write_atomic(
            self._island(arm, island), save({k: v.contiguous() for k, v in tensors.items()})
        )

    def load_island(
        self,
        arm: str,
        island: int,
        alphabet: Alphabet | None,
        prompts: tuple[str, ...] | None = None,
    ) -> tuple[Samples, float] | None:
        """Return a finished island and its seconds, or None if it has not been run."""
        path = self._island(arm, island)
        if not path.is_file():
            return None
        try:
            data = load(path.read_bytes())
        except SafetensorError:
            return None
        trace = tuple(
            Step(
                step=int(row[0]),
                ancestors=data["ancestors"][i] if bool(data["moved"][i]) else None,
                network_calls=int(row[1]),
                reward_calls=int(row[2]),
                **{name: data[name][i] for name in _STEP},
            )
            for i, row in enumerate(data["calls"])
        )
        samples = Samples(
            Designs(data["x"], alphabet, prompts=prompts),
            data["rewards"],
            data["log_w"],
            data.get("log_z_end"),
            trace,
        )
        return samples, float(data["seconds"])

    # files ----------------------------------------------------------------------------------------

    def write(self, name: str, data: str | bytes) -> None:
        """Write one file of the run, whole."""
        write_atomic(self.path / name, data)

    def write_json(self, name: str, data: Mapping[str, Any]) -> None:
        """Write JSON; infinities become null."""
        self.write(name, json.dumps(finite(data), indent=2, ensure_ascii=False) + "\n")

    def write_lines(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write JSON lines."""
        self.write(name, "".join(json.dumps(finite(row)) + "\n" for row in rows))

    def read_json(self, name: str) -> dict[str, Any]:
        """Return a JSON file of the run.

        Raises:
            ValueError: the run has no such file yet.
        """
        path = self.path / name
        if not path.is_file():
            raise ValueError(
                f"{path} does not exist: {self.path} is not a finished run. Run its campaign first "
                "(seqalign run)."
            )
        data: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return data

    def read_lines(self, name: str) -> list[dict[str, Any]]:
        """Return the rows of a JSON-lines file."""
        path = self.path / name
        return (
            [json.loads(line) for line in path.read_text("utf-8").splitlines()]
            if path.is_file()
            else []
        )

    def read_csv(self, name: str) -> list[dict[str, str]]:
        """Return the rows of a CSV file; none if there is no file."""
        path = self.path / name
        if not path.is_file():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def read_config(self) -> dict[str, Any]:
        """Return the resolved configuration.

        Raises:
            ValueError: the folder holds no run.
        """
        path = self.path / "config.yaml"
        if not path.is_file():
            raise ValueError(f"{self.path} is no run folder: it has no config.yaml.")
        data: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
        return data


def _differences(before: Any, after: Any, path: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted({*before, *after}, key=str):
            yield from _differences(
                before.get(key), after.get(key), f"{path}.{key}" if path else str(key)
            )
    elif before != after:
        yield f"{path} was {before!r} and is now {after!r}"
