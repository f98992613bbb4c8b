"""A laboratory in the computer: of the measured mutants of a domain, which would each judge order?

    python examples/benchmarks/stabilize.py --data DATA [--quick] [--judges ddg-burial]

The proteins of mega-scale are the laboratory: all their single mutants are measured. Each judge
ranks those of one protein, the first k are ordered, and what counts is their mean measured −ΔΔG
(kcal/mol, higher is more stable). Judges are the oracle `ddg-mini`, the log-odds of ProteinMPNN
(its published weights where they are, else mpnn-mini), both by the sum of their ranks, other
registered rewards by name, and chance; "the best" is what measuring everything would find.

The oracle has seen neither the protein that it judges nor anything alike: where `ddg-mini` and its
twin learned from mega-scale, from two halves of its homology groups, each judges the half of the
other, and what is alike to both halves is left out. The differences are paired over proteins, with
95 % bootstrap intervals that resample whole homology groups. Multiple mutants (`multi_mutants`) are
a second laboratory, with few mutants for each protein.
"""

from __future__ import annotations

import csv
import gzip
import sys
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from scipy.stats import rankdata

from seqalign.rewards.evaluate import predict
from seqalign.rewards.measured import Measured, read_backbones, read_measured
from seqalign.weights import MissingWeights, path

Array = NDArray[np.float64]
SIZES = (1, 5, 10, 20)
DRAWS = 10_000
TWINS = ("ddg-mini", "ddg-mini-b")
ORACLE, MPNN, BOTH, CHANCE, BEST = "oracle", "ProteinMPNN", "both", "chance", "the best"


@dataclass(frozen=True)
class Laboratory:
    """Measured mutants, the homology group of each protein, and what each judge says of each."""

    measured: Measured
    group: dict[str, str]
    said: dict[str, Array]


def groups_of(table: Path) -> dict[str, str]:
    """Return the homology group of each protein of a table."""
    with gzip.open(table, "rt") as file:
        return {row["pdb"]: row["group"] for row in csv.DictReader(file)}


def learned(data: Path, name: str) -> dict[str, set[str]] | None:
    """Return which oracles learned from each protein of a table, or from one alike.

    The keys are entry and chain, "1AOY_A". None if the oracles learned from neither table.
    """
    if find_spec("seqalign.rewards.stability_data") is None:
        return None
    from seqalign.rewards import stability_data
    from seqalign.rewards.train_ddg import half_of

    structures, rows = stability_data.scans(data)
    half = half_of(rows)
    if name == "megascale_ddg":
        return {row.protein: {half[row.group]} for row in rows}
    # how gains add up was fitted on multiple mutants
    others, several = stability_data.multiples(data)
    turn = half_of(several)
    near = stability_data.alike(others, structures, {row.protein: row.group for row in rows})
    return {r.protein: {turn[r.group], *(half[g] for g in near[r.protein])} for r in several}


def unseen(measured: Measured, seen: dict[str, set[str]] | None) -> dict[str, str]:
    """Return the oracle that judges each protein, of those that no oracle's data is alike to."""
    judges = {}
    for protein, home in measured.homes.items():
        assert home is not None  # of a file of backbones
        key = f"{protein.partition(':')[0]}_{home.numbering.chains[0]}"
        free = [twin for twin in TWINS if seen is None or twin not in seen[key]]
        judges |= {protein: free[0]} if free else {}
    return judges


def of(measured: Measured, kept: Collection[str]) -> Measured:
    """Return the rows of some proteins."""
    rows = tuple(row for row in measured.rows if row.protein in kept)
    return Measured(measured.column, rows, measured.homes, measured.wild, (), measured.notes)


def laboratory(
    data: Path, name: str, backbones: list[str], mpnn: str, others: list[str], proteins: int | None
) -> Laboratory:
    """Return a laboratory in which every judge has spoken."""
    folder = data / "stability"
    table = folder / f"{name}.csv.gz"
    homes = read_backbones([folder / f"{file}_backbones.jsonl.gz" for file in backbones])
    measured = read_measured(table, homes, lower_is_better=True)
    seen = learned(data, name)
    judge = unseen(measured, seen)
    kept = [p for p in measured.homes if p in judge][:proteins]
    measured = of(measured, kept)
    named = groups_of(table)
    group = {p: named[p.partition(":")[0]] for p in kept}
    oracle = np.empty(len(measured.rows))
    for twin in sorted({judge[p] for p in kept}):
        there = [p for p in kept if judge[p] == twin]
        what = "nothing alike" if seen is not None else "ProTherm, in which some are alike"
        print(f"{twin} judges {len(there)} proteins of {name}; it learned from {what}")
        oracle[np.isin(measured.proteins, there)] = predict(twin, of(measured, there))[0]
    said = {ORACLE: oracle, MPNN: predict(mpnn, measured)[0]}
    said |= {other: predict(other, measured)[0] for other in others}
    return Laboratory(measured, group, said)


def ordered(lab: Laboratory, k: int) -> tuple[list[str], dict[str, Array], dict[str, Array]]:
    """Return the proteins with 2k mutants or more, and of each judge's k: mean, share above 0."""
    names = [p for p in lab.group if (lab.measured.proteins == p).sum() >= 2 * k]
    judges = [*lab.said, BOTH, CHANCE, BEST]
    means: dict[str, list[float]] = {judge: [] for judge in judges}
    above: dict[str, list[float]] = {judge: [] for judge in judges}
    for protein in names:
        rows = lab.measured.proteins == protein
        truth = lab.measured.values[rows]
        said = {judge: values[rows] for judge, values in lab.said.items()}
        said[BOTH] = rankdata(said[ORACLE]) + rankdata(said[MPNN])
        said[BEST] = truth
        for judge in judges:
            # chance is the mean over all draws
            chosen = truth
            if judge != CHANCE:
                # ties keep the order of the table
                chosen = truth[np.argsort(-said[judge], kind="stable")[:k]]
            means[judge].append(float(chosen.mean()))
            above[judge].append(float((chosen > 0).mean()))
    return names, *({j: np.array(v) for j, v in found.items()} for found in (means, above))


def interval(values: Array, groups: list[str], seed: int = 0) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a mean over proteins; whole groups are drawn."""
    members: dict[str, list[int]] = defaultdict(list)
    for n, group in enumerate(groups):
        members[group].append(n)
    sums = np.array([values[rows].sum() for rows in members.values()])
    sizes = np.array([len(rows) for rows in members.values()])
    draws = np.random.default_rng(seed).integers(0, len(sums), (DRAWS, len(sums)))
    low, high = np.quantile(sums[draws].sum(1) / sizes[draws].sum(1), [0.025, 0.975])
    return float(low), float(high)


def show(title: str, lab: Laboratory) -> None:
    """Print the table of a laboratory."""
    first = True
    for k in SIZES:
        names, means, above = ordered(lab, k)
        if len(names) < 2:
            continue
        groups = [lab.group[p] for p in names]
        if first:
            rows = len(lab.measured.rows)
            print(f"\n{title}: {rows:,} mutants of {len(lab.group)} proteins, kcal/mol")
            print(
                f"{'':24s} {'top':>4s} {'mean':>6s} {'95 % interval':>16s} {'above 0':>8s}", end=""
            )
            print(f" {'over ProteinMPNN':>26s} {'over chance':>26s}")
            first = False
        print(f"top {k}, {len(names)} proteins of {len(set(groups))} groups")
        for judge, values in means.items():
            low, high = interval(values, groups)
            line = f"  {judge:22s} {k:4d} {values.mean():+6.2f} {f'{low:+.2f} .. {high:+.2f}':>16s}"
            line += f" {100 * above[judge].mean():6.0f} %"
            for other in (MPNN, CHANCE):
                if judge in (other, BEST) or (judge, other) == (CHANCE, MPNN):
                    line += f" {'':>26s}"
                    continue
                gap = values - means[other]
                low, high = interval(gap, groups)
                line += f" {f'{gap.mean():+.2f} ({low:+.2f} .. {high:+.2f})':>26s}"
            print(line.rstrip())


Quick = Annotated[bool, typer.Option("--quick", help="four proteins, mpnn-mini")]
Data = Annotated[Path | None, typer.Option(help="folder with stability/")]


def main(
    quick: Quick = False,
    data: Data = None,
    judges: Annotated[str, typer.Option(help="other rewards, NAME,NAME")] = "",
    mode: Annotated[str, typer.Option(help="of the log-odds: conditional, unconditional")] = (
        "conditional"
    ),
    only: Annotated[str | None, typer.Option(help="one laboratory: single, multiple")] = None,
    threads: int = 1,
) -> None:
    """Print the tables."""
    if data is None:
        print("stabilize.py needs --data, a folder with stability/megascale_ddg.csv.gz: skipped")
        return
    if not (data / "stability" / "megascale_ddg.csv.gz").is_file():
        sys.exit(f"{data}/stability/megascale_ddg.csv.gz is not there; give another --data.")
    torch.set_num_threads(threads)
    mpnn = f"mpnn-log-odds:mode={mode}"
    try:
        path("v_48_020")
        if not quick:
            mpnn += ",checkpoint=v_48_020"
    except (MissingWeights, FileNotFoundError):
        print("ProteinMPNN's weights are not on this machine: its log-odds are those of mpnn-mini")
    others = [name for name in judges.split(",") if name]
    print(f"{MPNN}: {mpnn}")
    limit = 4 if quick else None
    if only != "multiple":
        found = laboratory(data, "megascale_ddg", ["megascale"], mpnn, others, limit)
        show("single mutants", found)
    if only != "single":
        found = laboratory(data, "multi_mutants", ["protherm", "multi"], mpnn, others, limit)
        show("multiple mutants", found)


if __name__ == "__main__":
    typer.run(main)
