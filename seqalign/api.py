"""The Python door: sample designs from a model aligned to a reward, and what comes back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from seqalign.core.method import Method
from seqalign.core.objective import (
    Command,
    Function,
    OnFailure,
    Reward,
    function,
)
from seqalign.core.particles import Samples, Step
from seqalign.files.numbering import mutations
from seqalign.files.pictures import contact_sheet, png
from seqalign.files.text import fasta, to_csv, write_atomic
from seqalign.registry import ImageModel, Model

__all__ = ["ImagePicks", "ImageResult", "Picks", "Result", "RewardMaker"]


class RewardMaker:
    """Turn a Python function or an external command into a reward, in one line."""

    def __call__(
        self,
        fn: Callable[[Any], Any],
        name: str | None = None,
        *,
        unit: str = "",
        on_failure: OnFailure = "raise",
    ) -> Function:
        """Wrap a function from n sequences to n numbers; higher is better."""
        return function(fn, name, unit=unit, on_failure=on_failure)

    def command(
        self, command: str, name: str | None = None, *, unit: str = "", timeout: float = 3600.0
    ) -> Command:
        """Wrap a program: `{fasta}` becomes a file of sequences, stdout is one number per line."""
        return Command(command, name or command.split()[0], unit, timeout=timeout)


@dataclass(frozen=True)
class Picks:
    """Some designs of a result, best first."""

    sequences: list[str]
    rewards: list[float]
    log_w: list[float]
    wild_type: str | None = None
    residues: Sequence[str] | None = None

    def __len__(self) -> int:
        """Count the designs."""
        return len(self.sequences)

    def to_fasta(self, path: str | Path) -> None:
        """Write FASTA with sample, reward and, given a wild type, mutations in the header."""
        records = []
        for n, (s, r) in enumerate(zip(self.sequences, self.rewards, strict=True), 1):
            header = f"sample={n}, reward={r:.4f}"
            if self.wild_type:
                header += (
                    f", mutations={':'.join(mutations(s, self.wild_type, self.residues)) or 'none'}"
                )
            records.append((header, s))
        write_atomic(Path(path), fasta(records))

    def to_csv(self, path: str | Path) -> None:
        """Write CSV with sequence, mutations, reward and log-weight."""
        rows = [
            {
                "sample": n,
                "sequence": s,
                "mutations": ":".join(mutations(s, self.wild_type, self.residues))
                if self.wild_type
                else "",
                "reward": r,
                "log_w": w,
            }
            for n, (s, r, w) in enumerate(
                zip(self.sequences, self.rewards, self.log_w, strict=True), 1
            )
        ]
        write_atomic(
            Path(path), to_csv(rows, ("sample", "sequence", "mutations", "reward", "log_w"))
        )


@dataclass(frozen=True)
class ImagePicks:
    """Some images of a result, prompt by prompt, best first.

    Attributes:
        images: (n, C, H, W) in [0, 1].
        rewards: one per image.
        log_w: one per image.
        prompts: what each was asked for; None without text.
    """

    images: Tensor
    rewards: list[float]
    log_w: list[float]
    prompts: list[str] | None = None

    def __len__(self) -> int:
        """Count the images."""
        return len(self.rewards)

    def to_images(self, folder: str | Path) -> list[Path]:
        """Write PNG files 0001.png, 0002.png, ... and return their paths."""
        paths = [Path(folder) / f"{n:04d}.png" for n in range(1, len(self) + 1)]
        for path, image in zip(paths, self.images, strict=True):
            write_atomic(path, png(image))
        return paths

    def contact_sheet(self, path: str | Path, per_line: int = 8) -> None:
        """Write one PNG of all images with their rewards, a prompt after the other."""
        texts = self.prompts or [""] * len(self)
        lines: list[tuple[str, list[tuple[Tensor, str]]]] = []
        for image, reward, text in zip(self.images, self.rewards, texts, strict=True):
            fresh = not lines or lines[-1][0] != text
            if fresh or len(lines[-1][1]) == per_line:
                lines.append((text, []))
            lines[-1][1].append((image, f"{reward:.2f}"))
        # a prompt that needs several lines is written once
        titles = [t if n == 0 or lines[n - 1][0] != t else "" for n, (t, _) in enumerate(lines)]
        rows = [(t, [cells]) for t, (_, cells) in zip(titles, lines, strict=True)]
        write_atomic(Path(path), contact_sheet(rows))


class _Tally:
    """What every result tells about its run."""

    samples: Samples
    calibration_calls: int

    @property
    def log_z(self) -> Tensor | None:
        """Estimates of log Z, (B,); None for methods that are not consistent."""
        return self.samples.log_z

    @property
    def trace(self) -> tuple[Step, ...]:
        """One `Step` per step."""
        return self.samples.trace

    @property
    def network_calls(self) -> int:
        """Network calls of the run, calibration included."""
        return self.samples.network_calls + self.calibration_calls

    @property
    def reward_calls(self) -> int:
        """Reward calls of the run."""
        return self.samples.reward_calls


@dataclass(frozen=True)
class Result(_Tally):
    """Weighted designs and how they came about.

    Attributes:
        samples: (B, K) weighted designs.
        model: what was sampled from.
        reward: what was aligned to, with every constant fixed.
        method: how.
        seed: the run's seed.
        calibration_calls: network calls spent on zscore constants before the run.
    """

    samples: Samples
    model: Model
    reward: Reward
    method: Method
    seed: int
    calibration_calls: int = 0

    def best(self, n: int = 1) -> Picks:
        """Return the n distinct designs with the highest reward."""
        picks = self.samples.best(n).tolist()
        names = self.samples.designs.sequences
        return Picks(
            [names[b][k] for b, k in picks],
            [float(self.samples.rewards[b, k]) for b, k in picks],
            [float(self.samples.log_w[b, k]) for b, k in picks],
            self.model.wild_type,
            self.model.residues,
        )


@dataclass(frozen=True)
class ImageResult(_Tally):
    """Weighted images and how they came about.

    Attributes:
        samples: (B, K) weighted designs; islands prompt by prompt, `replicates` of each.
        model: what was sampled from.
        reward: what was aligned to, with every constant fixed.
        method: how.
        seed: the run's seed.
        replicates: islands per prompt.
        calibration_calls: network calls spent on zscore constants before the run.
    """

    samples: Samples
    model: ImageModel
    reward: Reward
    method: Method
    seed: int
    replicates: int = 1
    calibration_calls: int = 0

    def best(self, n: int = 1) -> ImagePicks:
        """Return the n distinct images with the highest reward of each prompt."""
        samples = self.samples
        rows: list[int] = []
        columns: list[int] = []
        for begin in range(0, len(samples.rewards), self.replicates):
            mine = slice(begin, begin + self.replicates)
            some = Samples(
                samples.designs[mine, slice(None)],
                samples.rewards[mine],
                samples.log_w[mine],
                None,
            )
            for b, k in some.best(n).tolist():
                rows.append(begin + b)
                columns.append(k)
        prompts = samples.designs.prompts
        return ImagePicks(
            samples.designs.x[rows, columns],
            samples.rewards[rows, columns].tolist(),
            samples.log_w[rows, columns].tolist(),
            None if prompts is None else [prompts[b] for b in rows],
        )

    def to_images(self, folder: str | Path) -> list[Path]:
        """Write every distinct image as PNG, best first within a prompt; return the paths."""
        return self.best(self.samples.rewards.numel()).to_images(folder)

    def contact_sheet(self, path: str | Path, n: int = 8) -> None:
        """Write one PNG of the n best images of each prompt, with their rewards."""
        self.best(n).contact_sheet(path, per_line=min(n, 8))
