"""Runs side by side: what each method reached and what it asked of the network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seqalign.campaign.store import RunFolder

__all__ = ["compare"]


def compare(folders: Sequence[RunFolder]) -> dict[str, Any]:
    """Return the rows of several finished runs of the same model and rewards.

    Keys: runs (name, folder, seed, designs, network_calls, reward_calls, seconds), labels, units,
    diversity (its unit),
    rows (run, row, which, designs, means of every reward, network_calls of the sampler behind the
    row), notes (sentences on what differs and bears on the comparison). Means of the summed
    objective are left out where runs have other z-score constants.

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
    summaries = [folder.read_json("summary.json") for folder in folders]
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
    labels = [*first["guides"], *first["finals"], *first["holdouts"]]
    notes = []
    same_scale = all(s["zscore"] == first["zscore"] for s in summaries)
    if not same_scale:
        notes.append("z-score constants differ, so the summed objective is not comparable.")
    if len({s["diversity"]["width"] for s in summaries if "diversity" in s}) > 1:
        notes.append("Vendi scores have kernels of different widths, each of its own run.")
    for key in ("design", "constraints", "select"):
        if any(c[key] != configs[0][key] for c in configs):
            notes.append(f"{key} differs between the runs.")
    rows: list[dict[str, Any]] = []
    keys = [*labels, *(["total"] if same_scale else [])]
    keys += ["n_mut", "prior_per_residue", "diversity", "vendi"]
    for name, summary, config in zip(names, summaries, configs, strict=True):
        for row in summary["rows"]:
            if row["row"] == "wild type" and any(r["row"] == "wild type" for r in rows):
                continue
            arm = _arm(row["row"])
            method = config["resolved"]["arms"].get(arm, {}).get("name")
            rows.append(
                {
                    "run": "" if row["row"] == "wild type" else name,
                    "row": row["row"],
                    "which": row["which"],
                    "method": method,
                    "designs": row["designs"],
                    **{k: row[k] for k in keys if k in row},
                    "network_calls": summary["network_calls"].get(arm),
                }
            )
    calls = {s["network_calls"]["aligned"] for s in summaries}
    if max(calls) > 1.05 * min(calls):
        notes.append("The aligned samplers made different numbers of network calls.")
    return {
        "runs": [
            {
                "name": name,
                "folder": str(folder.path),
                "seed": summary["seed"],
                "designs": summary["designs"],
                "network_calls": summary["network_calls"],
                "reward_calls": summary["reward_calls"],
                "seconds": sum(summary["seconds"].values()),
            }
            for name, folder, summary in zip(names, folders, summaries, strict=True)
        ],
        "labels": labels,
        "diversity": first.get("diversity", {}).get("unit", "mutations apart"),
        "units": first["units"],
        "rows": rows,
        "notes": notes,
    }


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


def _difference(one: dict[str, Any], other: dict[str, Any]) -> str | None:
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
