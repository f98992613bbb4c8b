"""How far a run is, read from its folder while it runs or after."""

from __future__ import annotations

import math
import re
import time
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load

from seqalign.campaign.store import RunFolder

__all__ = ["status"]


def status(folder: RunFolder) -> dict[str, Any]:
    """Return what a run has done and what is left.

    Keys: name, folder, finished, running (another process holds the folder), arms (per sampler:
    done and all islands, particles, seconds, best: the highest objective so far, null before the
    first island), islands_done, islands, seconds (spent on finished islands), seconds_left (for
    samplers with a finished island; null where none can be told), started and changed (UNIX times),
    and of a finished run designs, rejected and best (row of the first design).

    Raises:
        ValueError: the folder holds no run.
    """
    if not folder.path.is_dir():
        raise ValueError(f"{folder.path} is no run folder: there is no such folder.")
    config = folder.read_config()
    resolved = config["resolved"]
    islands = int(resolved["islands"])
    files = _islands(folder.path / "state")
    arms: dict[str, dict[str, Any]] = {}
    left: list[float | None] = []
    for name, rule in resolved["arms"].items():
        seconds, best, done = 0.0, -math.inf, 0
        for path in files.get(name, []):
            try:
                data = load(path.read_bytes())
            except (SafetensorError, FileNotFoundError):
                continue  # a run would draw it again
            done += 1
            seconds += float(data["seconds"])
            alive = data["rewards"][data["log_w"] > -math.inf]
            best = max(best, float(alive.max())) if alive.numel() else best
        missing = max(islands - done, 0)
        left.append(0.0 if not missing else missing * seconds / done if done else None)
        arms[name] = {
            "method": rule["name"],
            "done": done,
            "islands": islands,
            "particles": rule["particles"],
            "seconds": seconds,
            "best": best if best > -math.inf else None,
        }
    written = [(folder.path / "config.yaml").stat().st_mtime]
    written += [p.stat().st_mtime for some in files.values() for p in some if p.exists()]
    found: dict[str, Any] = {
        "name": config["name"],
        "folder": str(folder.path),
        "finished": folder.done,
        "running": _held(folder.path / ".lock"),
        "arms": arms,
        "islands_done": sum(arm["done"] for arm in arms.values()),
        "islands": islands * len(arms),
        "seconds": sum(arm["seconds"] for arm in arms.values()),
        "seconds_left": None if None in left else sum(x for x in left if x is not None),
        "started": written[0],
        "changed": max(written),
        "now": time.time(),
    }
    if folder.done:
        summary = folder.read_json("summary.json")
        designs = folder.read_csv("designs.csv")
        labels = [*summary["guides"], *summary["finals"], *summary["holdouts"], "total"]
        found |= {
            "designs": summary["designs"],
            "rejected": summary["rejected"],
            "seconds": sum(summary["seconds"].values()),
            "seconds_left": 0.0,
            "best": {
                "id": designs[0]["id"],
                **{k: designs[0][k] for k in ("sequence", "prompt", "file") if k in designs[0]},
                **{label: float(designs[0][label]) for label in labels},
            }
            if designs
            else None,
        }
    return found


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
