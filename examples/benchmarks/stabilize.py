"""A laboratory in the computer: of the measured mutants of a domain, which would each judge order?

    python examples/benchmarks/stabilize.py --data DATA [--quick] [--judges ddg-burial]

The proteins of mega-scale are the laboratory: all their single mutants are measured. Each judge
ranks those of one protein, the first k are ordered, and what counts is their mean measured −ΔΔG
(kcal/mol, higher is more stable). Judges are the oracle `ddg-mini`, the log-odds of ProteinMPNN
(its published weights where they are, else mpnn-mini), both by the sum of their ranks, other
registered rewards by name, and chance; "the best" is what measuring everything would find.

The oracle has not seen the protein that it judges: where `ddg-mini` and `ddg-mini-b` learned from
mega-scale, from halves of its homology groups, each judges the half of the other. The differences
are paired over proteins, with 95 % bootstrap intervals that resample whole homology groups.
Multiple mutants (`multi_mutants`) are a second laboratory, with few mutants for each protein.
"""

from __future__ import annotations

import csv
import gzip
import sys
from collections import defaultdict
from dataclasses import dataclass
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
GUIDES = {"A": "ddg-mini", "B": "ddg-mini-b"}
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


def halves(data: Path) -> dict[str, str] | None:
    """Return the half, A or B, whose oracle learned from each group; None if none learned from any.

    `ddg-mini` learned from half A, its twin from half B.
    """
    try:
        from seqalign.rewards import stability_data
    except ImportError:
        return None
    found: dict[str, str] = stability_data.halves(data)
    return found


def few(measured: Measured, proteins: int) -> Measured:
    """Return the rows of the first proteins."""
    kept = set(list(dict.fromkeys(row.protein for row in measured.rows))[:proteins])
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
    if proteins is not None:
        measured = few(measured, proteins)
    named = groups_of(table)
    group = {p: named[p.partition(":")[0]] for p in np.unique(measured.proteins)}
    half = halves(data)
    if half is None:
        oracle = predict(GUIDES["A"], measured)[0]
    else:
        by = {part: predict(guide, measured)[0] for part, guide in GUIDES.items()}
        # each protein by the oracle of the other half; what is in none by the guide
        own = np.array([half.get(group[p], "B") for p in measured.proteins])
        oracle = np.where(own == "B", by["A"], by["B"])
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
            # chance is the mean over all draws; ties keep the order of the table
            chosen = (
                truth if judge == CHANCE else truth[np.argsort(-said[judge], kind="stable")[:k]]
            )
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
    seen = halves(data)
    print(
        f"oracle: {GUIDES['A']}" + ("" if seen is None else f" or {GUIDES['B']}, unseen proteins")
    )
    print(f"{MPNN}: {mpnn}")
    limit = 4 if quick else None
    show("single mutants", laboratory(data, "megascale_ddg", ["megascale"], mpnn, others, limit))
    several = ["protherm", "multi"]
    show("multiple mutants", laboratory(data, "multi_mutants", several, mpnn, others, limit))


if __name__ == "__main__":
    typer.run(main)
