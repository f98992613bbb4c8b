"""How far a run is, read from its folder while it runs or after."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from seqalign.campaign.asked import plural
from seqalign.campaign.store import SO_FAR, RunFolder, read_island
from seqalign.core.health import Health


@dataclass(frozen=True)
class Arm:
    """One sampler of a run: what draws, how many islands are done of all, and designs per island.

    Where the run goes on until there are as many designs as were asked, islands are the fewest
    that are known to be needed, and there may be `most`.

    The seconds are those of finished islands; the best objective is None before the first.
    """

    method: str
    done: int
    islands: int
    particles: int
    seconds: float
    best: float | None
    most: int | None = None

    @property
    def left(self) -> float | None:
        """Seconds of sampling to come; None where they cannot be told."""
        missing = max(self.islands - self.done, 0)
        if not missing:
            return 0.0
        return missing * self.seconds / self.done if self.done else None


@dataclass(frozen=True)
class Status:
    """What a run has done and what is left.

    Attributes:
        running: whether another process holds the folder.
        seconds: spent; on finished islands, while there is more to do.
        seconds_left: of sampling; None where some sampler has no finished island.
        started: UNIX time.
        changed: UNIX time of the last island.
        now: UNIX time.
        designs: kept ones of a finished run, `rejected` the others.
        best: of the first of them its id, columns of text, rewards and their sum; None without
            any.
        health: whether its sampler was well; None while it runs, and of older versions.
        asked: how many different designs were asked for with `budget.designs`, and what became of
            it in a sentence; None where none were.
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
    best: Mapping[str, Any] | None = None
    health: Health | None = None
    asked: str | None = None

    def to_json(self) -> Mapping[str, Any]:
        """Return what `seqalign status --json` prints; designs are those of a finished run."""
        arms = self.arms.values()
        counts = {
            "islands_done": sum(arm.done for arm in arms),
            "islands": sum(arm.islands for arm in arms),
        }
        data = {**asdict(self), **counts}
        late = () if self.finished else ("designs", "rejected", "best", "health")
        left_out = (*late, *(() if self.asked is not None else ("asked",)))
        return {key: value for key, value in data.items() if key not in left_out}


def status(folder: RunFolder) -> Status:
    """Return what a run has done and what is left.

    Raises:
        ValueError: the folder holds no run.
    """
    config = folder.read_config()
    resolved, state = config["resolved"], folder.path / "state"
    number = 5 * "[0-9]"
    islands, most = int(resolved["islands"]), resolved.get("islands_most")
    arms: dict[str, Arm] = {}
    for name, rule in resolved["arms"].items():
        arm = _arm(rule, islands, state.glob(f"{name}-{number}*.safetensors"))
        if most is not None:
            # baselines have as many as the aligned arm, which comes first
            islands = max(islands, arm.done)
            arm = replace(arm, islands=islands, most=None if folder.done else int(most))
        arms[name] = arm
    left = [arm.left for arm in arms.values()]
    written = [(folder.path / "config.yaml").stat().st_mtime]
    written += [p.stat().st_mtime for p in state.glob("[!.]*.safetensors") if p.exists()]
    found = Status(
        name=config["name"],
        folder=str(folder.path),
        finished=folder.done,
        running=folder.running,
        arms=arms,
        seconds=sum(arm.seconds for arm in arms.values()),
        seconds_left=None if None in left else sum(x for x in left if x is not None),
        started=written[0],
        changed=max(written),
        now=time.time(),
        asked=None if most is None else _so_far(folder, config["budget"]["designs"]),
    )
    if not found.finished:
        return found
    summary = folder.summary()
    best: dict[str, Any] | None = None
    for row in folder.read_csv("designs.csv")[:1]:
        best = {key: row[key] for key in ("id", "sequence", "prompt", "file") if key in row}
        best |= {label: float(row[label]) for label in (*summary.labels, "total")}
    return replace(
        found,
        seconds=sum(summary.seconds.values()),
        seconds_left=0.0,
        designs=summary.designs,
        rejected=summary.rejected,
        best=best,
        health=summary.health,
        asked=None if summary.asked is None else summary.asked.sentence,
    )


def _so_far(folder: RunFolder, designs: int) -> str:
    """Say how many different designs an unfinished run has found."""
    what = f"{plural(designs, 'different design')} asked"
    if not (folder.path / SO_FAR).is_file():
        return f"{what}."
    found = folder.read_json(SO_FAR)
    islands = plural(found["islands"], "island")
    return f"{what}, {found['found']:,} found so far in {islands}."


def _arm(rule: Mapping[str, Any], islands: int, files: Iterable[Path]) -> Arm:
    seconds, best, done = 0.0, -math.inf, 0
    for path in sorted(files):
        data = read_island(path)
        if data is None:
            continue  # a run would draw it again
        done += 1
        seconds += float(data["seconds"])
        alive = data["rewards"][data["log_w"] > -math.inf]
        best = max(best, float(alive.max())) if alive.numel() else best
    top = best if best > -math.inf else None
    return Arm(rule["name"], done, islands, rule["particles"], seconds, top)
