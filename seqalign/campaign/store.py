"""The run folder: every file is written whole (temporary name, then rename), never in part.

`summary.json` is written last: it means done.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from seqalign.campaign.summary import Summary, from_json
from seqalign.core.particles import Samples, Step
from seqalign.core.process import Designs
from seqalign.files import cells
from seqalign.files.text import finite, write_atomic
from seqalign.load import Model

try:
    import fcntl
except ImportError:  # no such locks on Windows
    fcntl = None  # type: ignore[assignment]

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
SO_FAR = "state/designs.json"
"""How many different designs a run that goes on until there are enough has found so far."""
_STEP = ("ess", "lam", "log_z", "value_mean", "value_max")
# what a step may lack, and folders of older versions do
_SHARES = ("accepted", "failed_values", "failed_gradients")


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
        there = self.path.iterdir() if self.path.is_dir() and not stored.is_file() else ()
        if any(p.name not in (*_OURS, "state") and not p.name.startswith(".") for p in there):
            raise ValueError(
                f"{self.path} is not empty and is no run folder (it has no config.yaml). "
                "Choose another --out."
            )
        if fresh:
            self.clear()
        config = json.loads(json.dumps(config))
        if stored.is_file():
            changes = list(_differences(self.read_config(), config))
            if changes:
                raise ValueError(
                    f"{self.path} holds a run with another configuration: {'; '.join(changes[:4])}"
                    f"{'; ...' if len(changes) > 4 else ''}. Use --fresh to start over, or --out "
                    "for another folder."
                )
        else:
            text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100)
            head = "# What was run, with every default. Written by seqalign.\n"
            write_atomic(stored, head + text)
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
        if fcntl is None:
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

    @property
    def running(self) -> bool:
        """Whether a process holds the folder; asking neither makes the file nor keeps the lock."""
        try:
            with (self.path / ".lock").open("r") as file:
                if fcntl is not None:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return isinstance(error, BlockingIOError)
        return False

    # islands --------------------------------------------------------------------------------------

    def _island(self, arm: str, island: int) -> Path:
        return self.path / "state" / f"{arm}-{island:05d}.safetensors"

    def save_island(self, arm: str, island: int, samples: Samples, seconds: float) -> None:
        """Keep one finished island (B = 1)."""
        trace = samples.trace
        stay = torch.arange(samples.rewards.shape[1])[None]
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
        none = torch.full_like(samples.log_w[:, 0], torch.nan)
        for name in _SHARES:
            shares = [getattr(s, name) for s in trace]
            if any(share is not None for share in shares):
                tensors[name] = torch.stack([none if v is None else v for v in shares])
        if samples.log_z is not None:
            tensors["log_z_end"] = samples.log_z
        data = save({k: v.contiguous() for k, v in tensors.items()})
        write_atomic(self._island(arm, island), data)

    def load_island(
        self, arm: str, island: int, model: Model | None = None, replicates: int = 1
    ) -> tuple[Samples, float] | None:
        """Return a finished island and its seconds, or None if it has not been run.

        The letters and the prompt are those of `model`, which has `replicates` islands per prompt.
        """
        data = read_island(self._island(arm, island))
        if data is None:
            return None
        trace = tuple(
            Step(
                step=int(row[0]),
                ancestors=data["ancestors"][i] if bool(data["moved"][i]) else None,
                network_calls=int(row[1]),
                reward_calls=int(row[2]),
                **{name: data[name][i] for name in _SHARES if name in data},
                **{name: data[name][i] for name in _STEP},
            )
            for i, row in enumerate(data["calls"])
        )
        alphabet, prompts = None, None
        if model is not None:
            alphabet = None if model.space is None else model.space.alphabet
            prompts = None if model.prompts is None else (model.prompts[island // replicates],)
        samples = Samples(
            Designs(data["x"], alphabet, prompts=prompts),
            data["rewards"],
            data["log_w"],
            data.get("log_z_end"),
            trace,
            # images are kept, their latents are not
            None if alphabet is None else data["x"],
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

    def _read(self, name: str, otherwise: str) -> str:
        """Return the text of a file of the run; `otherwise` says what it means if there is none."""
        path = self.path / name
        if not self.path.is_dir():
            raise ValueError(f"{self.path} is no run folder: there is no such folder.")
        if not path.is_file():
            raise ValueError(otherwise)
        return path.read_text("utf-8")

    def read_json(self, name: str) -> Mapping[str, Any]:
        """Return a JSON file of a finished run."""
        otherwise = (
            f"{self.path / name} does not exist: {self.path} is not a finished run. Run its "
            "campaign first (seqalign run)."
        )
        data: dict[str, Any] = json.loads(self._read(name, otherwise))
        return data

    def summary(self) -> Summary:
        """Return what the run says of itself.

        Raises:
            ValueError: the run is not finished, or an older version wrote it.
        """
        data = self.read_json("summary.json")
        if data.get("kind", "letters") == "letters" and {"fasta", "orderable"} - data.keys():
            raise ValueError(
                f"{self.path} was written by an older version, which stored too little to choose "
                "again. Run its campaign with --fresh."
            )
        return from_json({"kind": "letters", **data})

    def read_config(self) -> Mapping[str, Any]:
        """Return the resolved configuration."""
        otherwise = f"{self.path} is no run folder: it has no config.yaml."
        data: dict[str, Any] = yaml.safe_load(self._read("config.yaml", otherwise))
        return data

    def read_lines(self, name: str) -> list[Mapping[str, Any]]:
        """Return the rows of a JSON-lines file; none if there is no file."""
        path = self.path / name
        lines = path.read_text("utf-8").splitlines() if path.is_file() else []
        return [json.loads(line) for line in lines]

    def read_header(self, name: str) -> list[str]:
        """Return the columns of a CSV file; none if there is no file."""
        path = self.path / name
        if not path.is_file():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            return next(csv.reader(file), [])

    def read_csv(self, name: str) -> list[dict[str, str]]:
        """Return the rows of a CSV file; none if there is no file."""
        path = self.path / name
        if not path.is_file():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return [{_text(k): _text(v) for k, v in row.items()} for row in rows]


def _text(cell: Any) -> Any:
    """Return the text of a cell; a row someone made shorter or longer has cells that are none."""
    return cells.text(cell) if isinstance(cell, str) else cell


def read_island(path: Path) -> Mapping[str, Tensor] | None:
    """Return what the file of an island holds; None if there is none, or a part of one."""
    try:
        data: Mapping[str, Tensor] = load(path.read_bytes())
    except (SafetensorError, FileNotFoundError):
        return None
    return data


def _differences(before: Any, after: Any, path: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted({*before, *after}, key=str):
            here = f"{path}.{key}" if path else str(key)
            yield from _differences(before.get(key), after.get(key), here)
    elif before != after:
        yield f"{path} was {before!r} and is now {after!r}"
