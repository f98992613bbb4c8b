"""How far a run is, read from its folder while it runs or after."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load

from seqalign.campaign.store import RunFolder

__all__ = ["Arm", "Best", "Status", "status"]


@dataclass(frozen=True)
class Arm:
    """One sampler of a run.

    Attributes:
        method: that draws.
        done: islands that are finished.
        islands: of all.
        particles: designs per island.
        seconds: the finished islands took.
        best: the highest objective so far; None before the first island.
    """

    method: str
    done: int
    islands: int
    particles: int
    seconds: float
    best: float | None

    @property
    def left(self) -> float | None:
        """Seconds of sampling to come; None where they cannot be told."""
        missing = max(self.islands - self.done, 0)
        if not missing:
            return 0.0
        return missing * self.seconds / self.done if self.done else None


@dataclass(frozen=True)
class Best:
    """The first design of a finished run.

    Attributes:
        id: its name.
        design: its columns of text.
        numbers: its rewards and their sum.
    """

    id: str
    design: Mapping[str, str]
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class Status:
    """What a run has done and what is left.

    Attributes:
        name: of the campaign.
        folder: of the run.
        finished: whether it is complete.
        running: whether another process holds the folder.
        arms: per sampler.
        seconds: spent; on finished islands, while there is more to do.
        seconds_left: of sampling; None where some sampler has no finished island.
        started: UNIX time.
        changed: UNIX time of the last island.
        now: UNIX time.
        designs: kept ones of a finished run.
        rejected: the others.
        best: the first of them; None without any.
    """

    name: str
    folder: str
    finished: bool
    running: bool
    arms: Mapping[str, Arm]
    seconds: float
    seconds_left: float | None
    started: float
    changed: float
    now: float
    designs: int = 0
    rejected: int = 0
    best: Best | None = None

    def to_json(self) -> Mapping[str, Any]:
        """Return what `seqalign status --json` prints; designs are those of a finished run."""
        arms = self.arms.values()
        counts = {
            "islands_done": sum(arm.done for arm in arms),
            "islands": sum(arm.islands for arm in arms),
        }
        best = self.best and {"id": self.best.id, **self.best.design, **self.best.numbers}
        end = {"designs": self.designs, "rejected": self.rejected, "best": best}
        data = {**asdict(self), **counts}
        return data | end if self.finished else {k: v for k, v in data.items() if k not in end}


def status(folder: RunFolder) -> Status:
    """Return what a run has done and what is left.

    Raises:
        ValueError: the folder holds no run.
    """
    if not folder.path.is_dir():
        raise ValueError(f"{folder.path} is no run folder: there is no such folder.")
    config = folder.read_config()
    resolved = config["resolved"]
    files = _islands(folder.path / "state")
    arms = {
        name: _arm(rule, int(resolved["islands"]), files.get(name, []))
        for name, rule in resolved["arms"].items()
    }
    left = [arm.left for arm in arms.values()]
    written = [(folder.path / "config.yaml").stat().st_mtime]
    written += [p.stat().st_mtime for some in files.values() for p in some if p.exists()]
    found = Status(
        name=config["name"],
        folder=str(folder.path),
        finished=folder.done,
        running=_held(folder.path / ".lock"),
        arms=arms,
        seconds=sum(arm.seconds for arm in arms.values()),
        seconds_left=None if None in left else sum(x for x in left if x is not None),
        started=written[0],
        changed=max(written),
        now=time.time(),
    )
    if not found.finished:
        return found
    summary = folder.summary()
    return replace(
        found,
        seconds=sum(summary.seconds.values()),
        seconds_left=0.0,
        designs=summary.designs,
        rejected=summary.rejected,
        best=next((_best(row, summary.labels) for row in folder.read_csv("designs.csv")), None),
    )


def _arm(rule: Mapping[str, Any], islands: int, files: Sequence[Path]) -> Arm:
    seconds, best, done = 0.0, -math.inf, 0
    for path in files:
        try:
            data = load(path.read_bytes())
        except (SafetensorError, FileNotFoundError):
            continue  # a run would draw it again
        done += 1
        seconds += float(data["seconds"])
        alive = data["rewards"][data["log_w"] > -math.inf]
        best = max(best, float(alive.max())) if alive.numel() else best
    top = best if best > -math.inf else None
    return Arm(rule["name"], done, islands, rule["particles"], seconds, top)


def _best(row: Mapping[str, str], labels: Sequence[str]) -> Best:
    return Best(
        row["id"],
        {key: row[key] for key in ("sequence", "prompt", "file") if key in row},
        {label: float(row[label]) for label in (*labels, "total")},
    )


def _islands(state: Path) -> dict[str, list[Path]]:
    """Return the files of finished islands, by arm."""
    found: dict[str, list[Path]] = {}
    for path in sorted(state.glob("*.safetensors")) if state.is_dir() else []:
        match = re.fullmatch(r"([^.].*)-(\d{5,})\.safetensors", path.name)
        if match is not None:
            found.setdefault(match[1], []).append(path)
    return found


def _held(lock: Path) -> bool:
    """Whether a process holds the folder; asking neither makes the file nor keeps the lock."""
    try:
        import fcntl
    except ImportError:  # no such locks on Windows
        return False
    try:
        with lock.open("r") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
            return False
    except OSError:
        return False
