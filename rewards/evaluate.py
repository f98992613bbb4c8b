r"""Rewards beside measurements: ranks, tails and calibration on a table of measured variants.

    python -m seqalign.rewards.evaluate ddg-mini --data scan.csv --structure x.pdb
    python -m seqalign.rewards.evaluate ddg-mini mpnn-log-odds:checkpoint=v_48_020 \
        --data megascale_ddg.csv.gz --backbones megascale_backbones.jsonl.gz --lower-is-better

The table has a column of variants or sequences, read as `seqalign score` reads it, and one of
numbers. What is judged is a gain: the reward of a design minus that of its wild type.

- ranks: Spearman and Pearson correlation, pooled and, with several proteins, the mean of Spearman
  over those with 10 rows or more;
- tails: of the variants that a reward predicts to gain so much, how many there are, their measured
  mean, and the share that is above the wild type; and Spearman among all with a predicted gain;
- calibration: slope and intercept of the measured over the predicted value, for all and among
  predicted gains. A slope of 0.5 says that half of a predicted difference is there.

Single and multiple mutants are judged together and apart. Rows that hold the wild type are left
out. Exit codes: 0 all rows were judged, 2 bad input, or some rows were skipped, 4 weights or a
package are missing.
"""

from __future__ import annotations

import argparse
import inspect
import json
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from scipy.stats import linregress, pearsonr, spearmanr

from seqalign import entries
from seqalign.core.objective import Reward
from seqalign.core.process import Designs
from seqalign.core.sequence import PROTEIN
from seqalign.files.structure import Structure, read_structure
from seqalign.rewards.measured import Homes, Measured, read_backbones, read_measured
from seqalign.weights import MissingWeights

__all__ = ["BINS", "Bin", "Figures", "figures", "predict", "reward_of"]

Array = NDArray[np.float64]

BINS: Final = (0.0, 0.25, 0.5, 1.0, 2.0, math.inf)
"""Bounds of the bins of predicted gains."""
LEAST: Final = 10
"""Rows that a protein needs for a rank correlation of its own."""
BATCH: Final = 2048


# what rewards say ---------------------------------------------------------------------------------


def reward_of(text: str, structure: Structure | None) -> Reward:
    """Return a registered reward of letters, "NAME" or "NAME:key=value,key=value".

    Raises:
        ValueError: the name or a parameter is unknown, or the reward needs a structure.
    """
    name, _, rest = text.partition(":")
    params: dict[str, Any] = {}
    for pair in filter(None, rest.split(",")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"{text}: {pair!r} is no parameter; write {name}:key=value.")
        params[key.strip()] = yaml.safe_load(value)
    factory = entries.load("reward", name)
    known = inspect.signature(factory).parameters
    for key in params:
        if key not in known or key == "registered":
            raise ValueError(
                f"The reward {name!r} has no parameter {key!r}. {entries.nearest(key, known)}"
            )
    if "structure" in known and "structure" not in params:
        if structure is None and known["structure"].default is inspect.Parameter.empty:
            raise ValueError(f"The reward {name!r} needs a structure: give --structure X.pdb.")
        params["structure"] = structure
    if "registered" in known:
        params["registered"] = name
    empty = inspect.Parameter.empty
    lacking = [k for k, p in known.items() if p.default is empty and k not in params]
    if lacking:
        raise ValueError(
            f"The reward {name!r} needs {lacking[0]}: write {name}:{lacking[0]}=VALUE."
        )
    made = factory(**params)
    if not isinstance(made, Reward):
        raise ValueError(f"The reward {name!r} made a {type(made).__name__}, not a Reward.")
    return made


def predict(
    text: str, measured: Measured, step: Callable[[int], None] | None = None
) -> tuple[Array, str]:
    """Return what a reward says of the rows, above their wild type where one is known; its unit.

    Args:
        text: the reward, as for `reward_of`.
        measured: the rows.
        step: told of rows as they are scored.
    """
    said = np.full(len(measured.rows), np.nan)
    where: dict[str, list[int]] = defaultdict(list)
    for n, row in enumerate(measured.rows):
        where[row.protein].append(n)
    unit = ""
    for protein, rows in where.items():
        reward = reward_of(text, measured.homes[protein])
        unit = reward.unit or ""
        wild = measured.wild[protein]
        base = float(_scores(reward, [wild])[0]) if wild else 0.0
        for start in range(0, len(rows), BATCH):
            some = rows[start : start + BATCH]
            said[some] = _scores(reward, [measured.rows[n].sequence for n in some]) - base
            if step is not None:
                step(len(some))
    return said, unit


def _scores(reward: Reward, sequences: Sequence[str]) -> Array:
    """Return the scores (n,) of sequences, those of one length together."""
    lengths: dict[int, list[int]] = defaultdict(list)
    for n, sequence in enumerate(sequences):
        lengths[len(sequence)].append(n)
    out = np.empty(len(sequences))
    for some in lengths.values():
        designs = Designs.of([sequences[n] for n in some], PROTEIN)
        with torch.no_grad():
            out[some] = reward(designs)[0].double().numpy()
    return out


# what becomes of both -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Bin:
    """Rows whose predicted gain is above `low` and at most `high`: how many, and what they are.

    Attributes:
        low: lower bound.
        high: upper bound.
        n: rows.
        measured: their mean; None without rows.
        above: the share that is measured above the wild type; None without rows.
    """

    low: float
    high: float
    n: int
    measured: float | None
    above: float | None


@dataclass(frozen=True)
class Figures:
    """What a reward is worth beside measurements; None where rows are too few or all alike.

    Attributes:
        n: rows.
        proteins: how many they are of.
        spearman: of all rows.
        pearson: of all rows.
        per_protein: mean of Spearman over the proteins with 10 rows or more.
        judged: how many those are.
        slope: of the measured over the predicted value.
        intercept: of the same line.
        gains: rows with a predicted gain.
        spearman_of_gains: among these.
        slope_of_gains: among these.
        bins: of predicted gains.
    """

    n: int
    proteins: int
    spearman: float | None
    pearson: float | None
    per_protein: float | None
    judged: int
    slope: float | None
    intercept: float | None
    gains: int
    spearman_of_gains: float | None
    slope_of_gains: float | None
    bins: tuple[Bin, ...]


def figures(predicted: Array, measured: Array, proteins: NDArray[np.str_]) -> Figures:
    """Return the figures of predictions (n,) beside measurements (n,), higher is better in both.

    Args:
        predicted: gains over the wild type.
        measured: the same, as it was measured.
        proteins: what each row is of.
    """
    gain = predicted > 0
    own = []
    for protein in np.unique(proteins):
        rows = proteins == protein
        if rows.sum() >= LEAST:
            found = _rank(predicted[rows], measured[rows])
            own += [] if found is None else [found]
    line = linregress(predicted, measured) if _vary(predicted, measured) else None
    top = linregress(predicted[gain], measured[gain]) if _vary(predicted[gain]) else None
    bins = []
    for low, high in pairwise(BINS):
        there = measured[(predicted > low) & (predicted <= high)]
        some = len(there) > 0
        mean = float(there.mean()) if some else None
        bins.append(Bin(low, high, len(there), mean, float((there > 0).mean()) if some else None))
    return Figures(
        len(measured),
        len(np.unique(proteins)),
        _rank(predicted, measured),
        float(pearsonr(predicted, measured).statistic) if _vary(predicted, measured) else None,
        float(np.mean(own)) if own else None,
        len(own),
        None if line is None else float(line.slope),
        None if line is None else float(line.intercept),
        int(gain.sum()),
        _rank(predicted[gain], measured[gain]),
        None if top is None else float(top.slope),
        tuple(bins),
    )


def _vary(*values: Array) -> bool:
    """Whether there are three rows or more, and they are not all alike."""
    return all(len(v) > 2 and float(np.ptp(v)) > 0 for v in values)


def _rank(predicted: Array, measured: Array) -> float | None:
    if not _vary(predicted, measured):
        return None
    return float(spearmanr(predicted, measured).statistic)


# the command line ---------------------------------------------------------------------------------


def _parts(measured: Measured) -> dict[str, NDArray[np.bool_]]:
    """Return the rows that are judged together: all, and singles and multiples where there are."""
    single, several = measured.changes == 1, measured.changes > 1
    every = np.ones(len(measured.rows), dtype=bool)
    if single.any() and several.any():
        return {"all": every, "single mutants": single, "multiple mutants": several}
    return {
        "single mutants" if single.any() else "multiple mutants" if several.any() else "all": every
    }


def _cell(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _ranks(title: str, found: Mapping[str, Figures]) -> Table:
    first = next(iter(found.values()))
    several = first.proteins > 1
    table = Table(title=title, title_justify="left")
    table.add_column("reward", overflow="fold")
    heads = ["Spearman", "Pearson"]
    heads += [f"Spearman per protein\n({first.judged} with {LEAST} rows)"] if several else []
    heads += ["slope", "intercept", "predicted gains", "Spearman\namong them", "slope\namong them"]
    for head in heads:
        table.add_column(head, justify="right")
    for name, f in found.items():
        cells = [_cell(f.spearman), _cell(f.pearson)]
        cells += [_cell(f.per_protein)] if several else []
        cells += [_cell(f.slope), _cell(f.intercept), f"{f.gains:,}"]
        table.add_row(name, *cells, _cell(f.spearman_of_gains), _cell(f.slope_of_gains))
    return table


def _tails(found: Mapping[str, Figures], units: Mapping[str, str]) -> Table:
    table = Table(
        "predicted gain", title="measured where a gain is predicted: n, mean, share above 0"
    )
    table.title_justify = "left"
    for name in found:
        table.add_column(f"{name}\n{units[name]}", justify="right")
    for n, (low, high) in enumerate(pairwise(BINS)):
        cells = []
        for f in found.values():
            b = f.bins[n]
            share = "–" if b.above is None else f"{100 * b.above:.0f} %"
            cells.append(f"{b.n:,}  {'–' if b.measured is None else f'{b.measured:+.2f}'}  {share}")
        table.add_row(f"{low:g} to {high:g}" if math.isfinite(high) else f"above {low:g}", *cells)
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m seqalign.rewards.evaluate",
        description="Judge rewards by measured variants: ranks, tails, calibration.",
        epilog="Exit codes: 0 all rows were judged, 2 bad input or rows that were skipped, "
        "4 weights or a package are missing.",
    )
    parser.add_argument(
        "names", metavar="NAME", nargs="+", help="a reward; with parameters as NAME:key=value,..."
    )
    parser.add_argument("--data", type=Path, required=True, help="a table (CSV, TSV; also .gz)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--structure", type=Path, help="the structure the table is about")
    where.add_argument(
        "--backbones", type=Path, nargs="+", help="those of many proteins (.jsonl, .jsonl.gz)"
    )
    where.add_argument("--wild-type", default="", help="its letters, where there is no structure")
    parser.add_argument("--chains", help="chains of the structure that the table is about")
    parser.add_argument("--measured", metavar="COLUMN", help="what was measured")
    parser.add_argument("--protein", metavar="COLUMN", help="the protein, with --backbones")
    parser.add_argument(
        "--lower-is-better",
        action="store_true",
        help="low values are good, as with ΔΔG that is positive where it destabilizes",
    )
    parser.add_argument(
        "--offset", type=int, default=0, help="add to residue numbers: 1 if they count from 0"
    )
    parser.add_argument("--zero", type=float, default=0.0, help="what the wild type is measured at")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _homes(given: argparse.Namespace) -> Homes:
    if given.backbones:
        return read_backbones(given.backbones)
    if given.structure is not None:
        return read_structure(given.structure, chains=given.chains)
    wild = str(given.wild_type).upper()
    odd = sorted(set(wild) - set(PROTEIN.letters))
    if odd:
        raise ValueError(f"--wild-type holds {odd[0]!r}; allowed are {PROTEIN.letters}.")
    # a reward of one protein knows its wild type; one of a structure says that it needs it
    built = [reward_of(name, None) for name in given.names]
    known = (str(getattr(reward, "wild_type", "")) for reward in built)
    return wild or next(filter(None, known), "")


def _judge(given: argparse.Namespace, errors: Console) -> int:
    measured = read_measured(
        given.data,
        _homes(given),
        column=given.measured,
        protein=given.protein,
        lower_is_better=given.lower_is_better,
        offset=given.offset,
        zero=given.zero,
    )
    for note in measured.notes:
        errors.print(f"note: {note}", soft_wrap=True)
    for place, cause in measured.skipped[:20]:
        errors.print(f"skipped: {place}: {cause}.", soft_wrap=True)
    if len(measured.skipped) > 20:
        errors.print(f"skipped: and {len(measured.skipped) - 20:,} more.")
    said: dict[str, Array] = {}
    units: dict[str, str] = {}
    quiet = given.json or not sys.stderr.isatty()
    with Progress(console=errors, transient=True, disable=quiet) as bar:
        for name in dict.fromkeys(given.names):
            task = bar.add_task(name, total=len(measured.rows))
            said[name], units[name] = predict(name, measured, lambda n, t=task: bar.advance(t, n))  # type: ignore[misc]
    found = {
        part: {
            name: figures(values[rows], measured.values[rows], measured.proteins[rows])
            for name, values in said.items()
        }
        for part, rows in _parts(measured).items()
    }
    if given.json:
        print(json.dumps(_plain(given, measured, units, found), ensure_ascii=False))
    else:
        _show(given, measured, units, found)
    ranks = [f.spearman for f in next(iter(found.values())).values() if f.spearman is not None]
    if ranks and max(ranks) < 0:
        turned = "without" if given.lower_is_better else "with"
        errors.print(
            f"note: every rank correlation is negative; is {measured.column!r} better where it is "
            f"{'higher' if given.lower_is_better else 'lower'}? Try {turned} --lower-is-better.",
            soft_wrap=True,
        )
    if measured.skipped:
        total = len(measured.skipped) + len(measured.rows)
        errors.print(f"error: {len(measured.skipped):,} of {total:,} rows were skipped.")
    return 2 if measured.skipped else 0


def _plain(
    given: argparse.Namespace,
    measured: Measured,
    units: Mapping[str, str],
    found: Mapping[str, Mapping[str, Figures]],
) -> dict[str, Any]:
    rewards = []
    for name, unit in units.items():
        parts = {part: asdict(some[name]) for part, some in found.items()}
        for part in parts.values():
            # JSON has no infinity
            part["bins"][-1]["high"] = None
        rewards.append({"name": name, "unit": unit, "parts": parts})
    return {
        "data": str(given.data),
        "measured": measured.column,
        "lower_is_better": given.lower_is_better,
        "rows": len(measured.rows),
        "rewards": rewards,
        "skipped": [{"place": p, "cause": c} for p, c in measured.skipped],
        "notes": list(measured.notes),
    }


def _show(
    given: argparse.Namespace,
    measured: Measured,
    units: Mapping[str, str],
    found: Mapping[str, Mapping[str, Figures]],
) -> None:
    # a pipe has no width: keep tables whole; what is in brackets is a user's own
    seen = sys.stdout.isatty()
    console = Console(markup=False) if seen else Console(width=160, color_system=None, markup=False)
    better = (
        "lower is better, so its sign is turned" if given.lower_is_better else "higher is better"
    )
    console.print(f"{given.data}: {measured.column} ({better})", highlight=False, soft_wrap=True)
    for part, some in found.items():
        first = next(iter(some.values()))
        of = f" of {first.proteins} proteins" if first.proteins > 1 else ""
        console.print()
        console.print(_ranks(f"{part}: {first.n:,} rows{of}", some))
        if all(measured.wild.values()):
            console.print(_tails(some, units))
    if not all(measured.wild.values()):
        console.print(
            "Without a wild type there is no gain, so tails are left out and calibration is of the "
            "reward itself. Give --structure or --wild-type.",
            soft_wrap=True,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    given = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    errors = Console(stderr=True, markup=False, highlight=False)
    try:
        return _judge(given, errors)
    except (ValueError, TypeError, OSError, ImportError) as error:
        for line in str(error).splitlines():
            errors.print(f"error: {line}", soft_wrap=True)
        return 4 if isinstance(error, (MissingWeights, ImportError)) else 2


if __name__ == "__main__":
    sys.exit(main())
