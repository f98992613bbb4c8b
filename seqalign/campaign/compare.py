"""Runs side by side: what each method reached and what it asked of the network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from seqalign.campaign.store import RunFolder
from seqalign.campaign.summary import Row, Summary

__all__ = ["Comparison", "Entry", "Side", "compare"]

Number = float | None


@dataclass(frozen=True)
class Side:
    """One of the runs.

    Attributes:
        name: its folder, with as many parents as tell it apart.
        folder: the same, whole.
        seed: of the run.
        designs: kept ones.
        network_calls: per sampler.
        reward_calls: per sampler.
        seconds: altogether.
    """

    name: str
    folder: str
    seed: int
    designs: int
    network_calls: Mapping[str, int]
    reward_calls: Mapping[str, int]
    seconds: float


@dataclass(frozen=True)
class Entry:
    """One row of one run.

    Attributes:
        run: its name; "" for what all runs share.
        row: whose designs.
        which: which of them, in words.
        method: that drew them, if one did.
        designs: how many.
        numbers: means by reward, and what else the medium counts.
        network_calls: of the sampler behind the row.
    """

    run: str
    row: str
    which: str
    method: str | None
    designs: int
    numbers: Mapping[str, Number]
    network_calls: int | None


@dataclass(frozen=True)
class Comparison:
    """Finished runs of the same model and rewards.

    Attributes:
        runs: in the order given.
        labels: of the rewards.
        diversity: its unit.
        units: per label.
        rows: the wild type once, then run after run. Means of the summed objective are left out
            where runs have other z-score constants.
        notes: sentences on what differs and bears on the comparison.
    """

    runs: tuple[Side, ...]
    labels: tuple[str, ...]
    diversity: str
    units: Mapping[str, str]
    rows: tuple[Entry, ...]
    notes: tuple[str, ...]

    def to_json(self) -> Mapping[str, Any]:
        """Return what `seqalign compare --json` prints."""
        rows = [asdict(entry) for entry in self.rows]
        for row in rows:
            numbers, calls = row.pop("numbers"), row.pop("network_calls")
            row |= {**numbers, "network_calls": calls}
        return {**asdict(self), "rows": rows}


def compare(folders: Sequence[RunFolder]) -> Comparison:
    """Put finished runs side by side.

    Raises:
        ValueError: fewer than two runs, one that is not finished, or another model, backbone, wild
            type or reward.
    """
    if len(folders) < 2:
        raise ValueError("Give two or more run folders to compare.")
    if len({f.path for f in folders}) < len(folders):
        raise ValueError("A run folder is given twice. Keep one.")
    for folder in folders:
        if not folder.path.is_dir():
            raise ValueError(f"{folder.path} is no run folder: there is no such folder.")
    summaries = [folder.summary() for folder in folders]
    configs = [folder.read_config() for folder in folders]
    names = _names(folders)
    for name, config in zip(names[1:], configs[1:], strict=True):
        found = _difference(configs[0], config)
        if found is not None:
            raise ValueError(
                f"{names[0]} and {name} cannot be compared: {found}. Compare runs of one model and "
                "one set of rewards."
            )
    first = summaries[0]
    same_scale = all(s.zscore == first.zscore for s in summaries)
    keys = [*first.labels, *(["total"] if same_scale else []), "n_mut", "prior_per_residue"]
    rows: list[Entry] = []
    for name, summary, config in zip(names, summaries, configs, strict=True):
        for row in summary.rows:
            arm = _arm(row.row)
            if arm or not rows:
                rows.append(_entry(name, arm, row, keys, summary, config))
    return Comparison(
        tuple(
            Side(
                name,
                str(folder.path),
                summary.seed,
                summary.designs,
                summary.network_calls,
                summary.reward_calls,
                sum(summary.seconds.values()),
            )
            for name, folder, summary in zip(names, folders, summaries, strict=True)
        ),
        first.labels,
        first.diversity.unit if first.diversity is not None else "mutations apart",
        first.units,
        tuple(rows),
        tuple(_notes(summaries, configs, same_scale)),
    )


def _notes(
    summaries: Sequence[Summary], configs: Sequence[Mapping[str, Any]], same_scale: bool
) -> Iterator[str]:
    """Yield what differs and bears on the comparison."""
    if not same_scale:
        yield "z-score constants differ, so the summed objective is not comparable."
    if len({s.diversity.width for s in summaries if s.diversity is not None}) > 1:
        yield "Vendi scores have kernels of different widths, each of its own run."
    for key in ("design", "constraints", "select"):
        if any(c[key] != configs[0][key] for c in configs):
            yield f"{key} differs between the runs."
    calls = [s.network_calls["aligned"] for s in summaries]
    if max(calls) > 1.05 * min(calls):
        yield "The aligned samplers made different numbers of network calls."


def _entry(
    run: str,
    arm: str,
    row: Row,
    keys: Sequence[str],
    summary: Summary,
    config: Mapping[str, Any],
) -> Entry:
    numbers = {k: row.mean[k] for k in keys if k in row.mean}
    numbers["diversity"] = row.diversity
    if summary.diversity is not None:
        numbers["vendi"] = row.vendi
    return Entry(
        run if arm else "",
        row.row,
        row.which,
        config["resolved"]["arms"].get(arm, {}).get("name"),
        row.designs,
        numbers,
        summary.network_calls.get(arm),
    )


def _names(folders: Sequence[RunFolder]) -> list[str]:
    """Return folder names, with as many parents as tell them apart."""
    depth = 1
    while depth < 50:
        names = [str(Path(*f.path.parts[-depth:])) for f in folders]
        if len(set(names)) == len(names):
            return names
        depth += 1
    return [str(f.path) for f in folders]


def _arm(row: str) -> str:
    if row == "unguided" or row.startswith("best of "):
        return "best_of_n"
    return "" if row == "wild type" else row


def _difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """Say what keeps two runs from being compared."""
    a, b = one["resolved"], other["resolved"]
    if one["model"]["name"] != other["model"]["name"]:
        return (
            f"the model is {one['model']['name']} in one and {other['model']['name']} in the other"
        )
    if a["model"] != b["model"]:
        return f"the model {one['model']['name']} has another version or card"
    changed = [
        k
        for k in sorted({*one["model"], *other["model"]} - {"steps", "device"})
        if one["model"].get(k) != other["model"].get(k)
    ]
    if changed:
        return f"the model's {changed[0]} differs"
    if a["structure_sha256"] != b["structure_sha256"]:
        return "the backbones are different files"
    if a.get("prompts") != b.get("prompts"):
        return "the prompts differ"
    if a["residues"] != b["residues"]:
        return "the positions are different"
    if a["wild_type"] != b["wild_type"]:
        return "the wild types differ"
    only = sorted({*one["rewards"]} ^ {*other["rewards"]})
    if only:
        return f"the reward {only[0]!r} is in one of them only"
    for label in one["rewards"]:
        first, second = one["rewards"][label], other["rewards"][label]
        keys = sorted(k for k in {*first, *second} if first.get(k) != second.get(k))
        if keys:
            return (
                f"the reward {label!r} has {keys[0]} {first.get(keys[0])!r} in one and "
                f"{second.get(keys[0])!r} in the other"
            )
        if a["rewards"][label] != b["rewards"][label]:
            return f"the reward {label!r} has another version or card"
    return None
