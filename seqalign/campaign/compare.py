"""Runs side by side: what each method reached and what it asked of the network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from seqalign.campaign.store import RunFolder
from seqalign.campaign.summary import Summary

# what must be equal, and what is said where it is not
_SAME = {
    "structure_sha256": "the backbones are different files",
    "state_weights": "the states have other weights",
    "prompts": "the prompts differ",
    "residues": "the positions are different",
    "wild_type": "the wild types differ",
}


@dataclass(frozen=True)
class Entry:
    """One row of one run, whose name is "" for what all runs share.

    `numbers` are means by reward and what else the medium counts; `method` drew the designs, if one
    did, with `network_calls`.
    """

    run: str
    row: str
    which: str
    method: str | None
    designs: int
    numbers: Mapping[str, float | None]
    network_calls: int | None


@dataclass(frozen=True)
class Comparison:
    """Finished runs of the same model and rewards.

    Attributes:
        runs: in the order given: the name (a folder, with as many parents as tell it apart), the
            folder, seed, number of kept designs, calls per sampler, seconds altogether, rulings.
        labels: of the rewards.
        diversity: its unit.
        units: per label.
        rows: the wild type once, then run after run. Means of the summed objective are left out
            where runs have other z-score constants.
        notes: sentences on what differs and bears on the comparison.
    """

    runs: tuple[Mapping[str, Any], ...]
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
            shared = row.row == "wild type"
            if shared and rows:
                continue
            plain = row.row == "unguided" or row.row.startswith("best of ")
            arm = "best_of_n" if plain else row.row
            numbers = {k: row.mean[k] for k in keys if k in row.mean} | {"diversity": row.diversity}
            numbers |= {} if summary.diversity is None else {"vendi": row.vendi}
            method = config["resolved"]["arms"].get(arm, {}).get("name")
            calls = summary.network_calls.get(arm)
            head = ("" if shared else name, row.row, row.which, method, row.designs)
            rows.append(Entry(*head, numbers, calls))
    runs = tuple(
        {
            "name": name,
            "folder": str(folder.path),
            "seed": summary.seed,
            "designs": summary.designs,
            "network_calls": summary.network_calls,
            "reward_calls": summary.reward_calls,
            "seconds": sum(summary.seconds.values()),
            "rulings": {label: asdict(said) for label, said in summary.rulings.items()},
        }
        for name, folder, summary in zip(names, folders, summaries, strict=True)
    )
    unit = first.diversity.unit if first.diversity is not None else "mutations apart"
    notes = tuple(_notes(summaries, configs, same_scale))
    return Comparison(runs, first.labels, unit, first.units, tuple(rows), notes)


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
    off = [not c.get("output", {}).get("likelihoods", True) for c in configs]
    if any(off) and not all(off):
        yield "Some of the runs have no log-likelihoods (output.likelihoods: false)."
    calls = [s.network_calls["aligned"] for s in summaries]
    if max(calls) > 1.05 * min(calls):
        yield "The aligned samplers made different numbers of network calls."


def _names(folders: Sequence[RunFolder]) -> list[str]:
    """Return folder names, with as many parents as tell them apart."""
    for depth in range(1, 50):
        names = [str(Path(*f.path.parts[-depth:])) for f in folders]
        if len(set(names)) == len(names):
            return names
    return [str(f.path) for f in folders]


def _changed(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return sorted(k for k in {*one, *other} if one.get(k) != other.get(k))


def _difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """Say what keeps two runs from being compared."""
    a, b = one["resolved"], other["resolved"]
    name, second = one["model"]["name"], other["model"]["name"]
    if name != second:
        return f"the model is {name} in one and {second} in the other"
    if a["model"] != b["model"]:
        return f"the model {name} has another version or card"
    for key in _changed(one["model"], other["model"]):
        if key not in ("steps", "device"):
            return f"the model's {key} differs"
    for key, said in _SAME.items():
        if a.get(key) != b.get(key):
            return said
    for label in sorted({*one["rewards"]} ^ {*other["rewards"]}):
        return f"the reward {label!r} is in one of them only"
    for label, mine in one["rewards"].items():
        its = other["rewards"][label]
        for key in _changed(mine, its):
            values = f"{mine.get(key)!r} in one and {its.get(key)!r} in the other"
            return f"the reward {label!r} has {key} {values}"
        if a["rewards"][label] != b["rewards"][label]:
            return f"the reward {label!r} has another version or card"
    return None
