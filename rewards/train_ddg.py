"""Train and evaluate `ddg-mini` and its hold-out twin.

    python -m seqalign.rewards.train_ddg --data DATA --out rewards/   # train and write
    python -m seqalign.rewards.train_ddg --data DATA --evaluate       # every figure of the cards

One ridge regression of −ΔΔG on what the frozen network says of a backbone (`ddg_regression`). ΔΔG
is clipped to ±4 kcal/mol, and a row of a homology group with n rows weighs n^(−1/4).

Groups are dealt to five folds; `ddg-mini` learns three of them, its twin the other two. Everything
is fitted on mega-scale. How gains are read is fitted on predictions that were made out of fold: the
map of gains and the cost of new letters on single, the penalty on multiple mutants. Evaluation is
nested: what is fitted for a fold, map and penalty included, has seen no row of it. Deterministic
on one thread.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
import yaml
from safetensors.torch import save_file
from scipy.stats import spearmanr

from seqalign.core.process import Designs
from seqalign.core.sequence import PROTEIN
from seqalign.models.mpnn import of
from seqalign.models.mpnn_weights import Weights, load_checkpoint
from seqalign.rewards.ddg import (
    NEIGHBORS,
    VARIANTS,
    Calibration,
    StabilityChange,
    described,
    network,
    of_structure,
    read_weights,
)
from seqalign.rewards.ddg_regression import Normal, Predicted, Reduction, Table, calibrated, tabled
from seqalign.rewards.stability_data import FOLDS, alike, dealt, multiples, protherm, scans

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from seqalign.rewards.stability_data import Mutant

    Array = NDArray[np.float64]

ENOUGH: Final = 10
"""Rows a protein needs for a rank correlation of its own."""
HALVES: Final = {"ddg-mini": (0, 1, 2), "ddg-mini-b": (3, 4)}
"""The folds of groups that each learns."""
HALVES_OF: Final = {fold: name for name, folds in HALVES.items() for fold in folds}
BINS: Final = (-2.0, -1.0, -0.5, 0.0, 0.25, 0.5, 1.0)
"""kcal/mol, between the rows of the tables of the cards."""


def half_of(rows: Sequence[Mutant]) -> dict[str, str]:
    """Return which of the twins learns each homology group of mega-scale."""
    return {group: HALVES_OF[fold] for group, fold in dealt(rows, FOLDS).items()}


# data ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Data:
    """Everything measured, with features.

    Attributes:
        single: mega-scale.
        multiple: multiple mutants of other proteins.
        fold: of the homology groups of mega-scale.
        barred: the folds that must not have been learned where a protein of `multiple` is judged.
        turn: the fold in which a multiple mutant is judged.
    """

    reduction: Reduction
    single: Table
    multiple: Table
    fold: dict[str, int]
    barred: dict[str, frozenset[int]]
    turn: dict[str, int]

    @classmethod
    def read(cls, data: Path, source: Weights) -> Data:
        """Read and describe mega-scale and the multiple mutants."""
        structures, rows = scans(data)
        others, several = multiples(data)
        seen = {name: described(source, s) for name, s in structures.items()}
        reduction = Reduction.of(list(seen.values()))
        fold, turn = dealt(rows, FOLDS), dealt(several, FOLDS)
        near = alike(others, structures, {r.protein: r.group for r in rows})
        barred = {name: frozenset(fold[g] for g in groups) for name, groups in near.items()}
        single = tabled(reduction, seen, structures, rows)
        seen = {name: described(source, s) for name, s in others.items()}
        return cls(reduction, single, tabled(reduction, seen, others, several), fold, barred, turn)

    def predicted(
        self, normal: Normal, learned: Collection[int], judged: Collection[int]
    ) -> tuple[Predicted, Predicted]:
        """Return out-of-fold predictions of the variants of the judged folds.

        Each is predicted by the regression on the learned folds, without its own and those that
        hold something alike to it.
        """
        out = []
        for table, without, fold in (
            (self.single, [frozenset({self.fold[r.group]}) for r in self.single.rows], self.fold),
            (
                self.multiple,
                [self.barred[r.protein] | {self.turn[r.group]} for r in self.multiple.rows],
                self.turn,
            ),
        ):
            asked = np.array([fold[r.group] in judged for r in table.rows])
            kept = [frozenset(learned) - w for w in without]
            used = {k for k, a in zip(kept, asked, strict=True) if a} or set(kept[:1])
            sets = sorted(used, key=sorted)
            which = [sets.index(k) if a else 0 for k, a in zip(kept, asked, strict=True)]
            fits = [normal.fit(some) for some in sets]
            out.append(Predicted.of(table, fits, which).take(asked))
        return out[0], out[1]


def published(out: Path) -> Weights:
    """Write the frozen network in half precision, and return it as it will be read."""
    state = load_checkpoint("v_48_020").network.state_dict()
    half = {f"network.{name}": w.half().contiguous() for name, w in state.items()}
    out.mkdir(parents=True, exist_ok=True)
    save_file(half, out / "ddg-mini.safetensors")
    return Weights(of({k.removeprefix("network."): w for k, w in half.items()}), NEIGHBORS)


def train(data: Path, out: Path) -> None:
    """Train guide and twin on their folds and write them."""
    source = published(out)
    every = Data.read(data, source)
    normal = Normal.of(every.single, every.fold)
    for name, folds in HALVES.items():
        single, _ = every.predicted(normal, folds, folds)
        # the penalty is one number: all multiple mutants, of which the regression knows none
        _, several = every.predicted(normal, folds, range(FOLDS))
        calibration = calibrated(single, several)
        head = every.reduction.head(normal.fit(folds), calibration)
        frozen = {f"network.{k}": w.half() for k, w in source.network.state_dict().items()}
        tensors = {**head, **(frozen if name == "ddg-mini" else {})}
        save_file({k: w.contiguous() for k, w in tensors.items()}, out / f"{name}.safetensors")
        print(f"{name}: folds {folds}, {calibration}", flush=True)


# evaluation ---------------------------------------------------------------------------------------


def ranks(proteins: Sequence[str], y: Array, p: Array) -> str:
    """Return Spearman per protein, pooled and among predicted gains, as text."""
    names = np.array(proteins)
    own = [
        float(spearmanr(y[at], p[at]).statistic)
        for at in (names == name for name in sorted(set(proteins)))
        if at.sum() >= ENOUGH
    ]
    gains = p > 0
    among = float(spearmanr(y[gains], p[gains]).statistic) if gains.sum() > 2 else float("nan")
    return (
        f"Spearman per protein {np.mean(own):.3f} ({len(own)} proteins), pooled "
        f"{float(spearmanr(y, p).statistic):.3f}, among {int(gains.sum())} gains {among:.3f}"
    )


def rows_of_card(variant: str, kind: str, y: Array, p: Array) -> list[dict[str, Any]]:
    """Return the rows of a card's `calibration` (`ddg.reading`), which end where predictions do."""
    found = []
    edges = [float(np.floor(20 * p.min())) / 20 - 0.05, *BINS, float(np.ceil(20 * p.max())) / 20]
    edges = [e for e in edges if edges[0] <= e <= edges[-1]]
    for low, high in pairwise(edges):
        inside = (p > low) & (p <= high)
        if inside.any():
            found.append(
                {
                    "variant": variant,
                    "kind": kind,
                    "low": round(low, 2),
                    "high": round(high, 2),
                    "n": int(inside.sum()),
                    "mean": round(float(y[inside].mean()), 2),
                    "share": round(float((y[inside] > 0).mean()), 2),
                }
            )
    return found


def nested(every: Data, normal: Normal, learned: Collection[int]) -> dict[str, Array]:
    """Return scores of all variants by what was fitted without their fold, map and penalty too."""
    n, m = len(every.single.rows), len(every.multiple.rows)
    score = {f"{v}-{k}": np.zeros(c) for v in ("raw", "calibrated", "lower") for k, c in
             (("single", n), ("multiple", m))}  # fmt: skip
    for f in sorted(learned):
        rest = frozenset(learned) - {f}
        calibration = calibrated(*every.predicted(normal, rest, rest))
        print(f"without fold {f}: {calibration}", flush=True)
        at = np.array([every.fold[r.group] == f for r in every.single.rows])
        own = np.array([every.turn[r.group] == f for r in every.multiple.rows])
        for kind, where, made in zip(
            ("single", "multiple"), (at, own), every.predicted(normal, learned, {f}), strict=True
        ):
            score[f"raw-{kind}"][where] = made.score(None)
            score[f"calibrated-{kind}"][where] = made.score(calibration, penalty=False)
            score[f"lower-{kind}"][where] = made.score(calibration)
    return score


def letters(every: Data, p: Array) -> str:
    """Return the mean prediction and measurement of substitutions to each letter, as text."""
    new = np.array([r.changes[0][2] for r in every.single.rows])
    y, said, worst = every.single.y, [], 0.0
    for a, letter in enumerate(PROTEIN.letters):
        mean, truth = float(p[new == a].mean()), float(y[new == a].mean())
        worst = max(worst, abs(mean - truth))
        said.append(f"{letter} {mean:+.2f} ({truth:+.2f})")
    return (
        f"mean prediction (measured) per new letter, largest difference {worst:.3f}: "
        + ", ".join(said)
    )


def redesigns(rewards: Sequence[StabilityChange], seed: int = 0) -> str:
    """Return what random 48-fold redesigns are predicted to do, 50 of each of the proteins."""
    rng, values = np.random.default_rng(seed), []
    for reward in rewards:
        x = PROTEIN.encode([reward.wild_type])[0].repeat(50, 1)
        for row in x:
            places = torch.from_numpy(rng.choice(len(row), 48, replace=False))
            row[places] = (row[places] + torch.from_numpy(rng.integers(1, 20, 48))) % 20
        values.append(reward(Designs(x[None], PROTEIN))[0].numpy())
    v = np.concatenate(values)
    return (
        f"random 48-fold redesigns of {len(rewards)} proteins, {rewards[0].variant}: mean "
        f"{v.mean():.2f} kcal/mol, highest {v.max():.2f}, share above 0 {(v > 0).mean():.3f}"
    )


def evaluate(data: Path, card: Path | None = None) -> None:
    """Print the figures of the cards; the rows of `calibration` go to a file if one is given."""
    source = network()
    every = Data.read(data, source)
    normal = Normal.of(every.single, every.fold)
    proteins, y = [r.protein for r in every.single.rows], every.single.y
    others, truth = [r.protein for r in every.multiple.rows], every.multiple.y

    def said(what: str, score: Mapping[str, Array], at: NDArray[np.bool_] | None = None) -> None:
        for variant in VARIANTS:
            p = score[f"{variant}-single"]
            here = np.ones(len(p), bool) if at is None else at
            chosen = [n for n, h in zip(proteins, here, strict=True) if h]
            print(f"{what}, {variant}: {ranks(chosen, y[here], p[here])}")
            q = score[f"{variant}-multiple"]
            share = (truth[q > 0] > 0).mean()
            print(
                f"  multiple mutants: {ranks(others, truth, q)}; of {(q > 0).sum()} predicted to "
                f"gain {share:.3f} are stabilized, mean {truth[q > 0].mean():+.2f}"
            )
            for row in rows_of_card(variant, "single", y[here], p[here]):
                print("   ", row)
            for row in rows_of_card(variant, "multiple", truth, q):
                print("   ", row)

    score = nested(every, normal, range(FOLDS))
    said("five folds, nested", score)
    for variant in VARIANTS:
        print(f"{variant}: {letters(every, score[f'{variant}-single'])}", flush=True)
    rows = [
        row
        for variant in VARIANTS
        for kind, measured in (("single", y), ("multiple", truth))
        for row in rows_of_card(variant, kind, measured, score[f"{variant}-{kind}"])
    ]
    if card is not None:
        card.write_text(yaml.safe_dump(rows, sort_keys=False))
    names = np.array([HALVES_OF[every.fold[r.group]] for r in every.single.rows])
    for name, folds in HALVES.items():
        head = read_weights(Path(__file__).with_name(f"{name}.safetensors"))
        calibration = Calibration.read(head["calibration"])
        unseen = names != name
        theta = normal.fit(folds)
        again = every.reduction.head(theta, calibration)["sites"]
        if not torch.allclose(head["sites"], again, rtol=0, atol=1e-4):
            raise ValueError(f"{name}.safetensors is not what this data gives: train it again.")
        single, several = (Predicted.of(table, [theta]) for table in (every.single, every.multiple))
        shipped = {}
        for kind, p in (("single", single), ("multiple", several)):
            shipped[f"raw-{kind}"] = p.score(None)
            shipped[f"calibrated-{kind}"] = p.score(calibration, penalty=False)
            shipped[f"lower-{kind}"] = p.score(calibration)
        said(f"{name} as shipped ({calibration}), groups of the other half", shipped, unseen)
        structures, _ = scans(data)
        some = [s for s in structures.values() if len(s) >= 60][::3]
        for variant in VARIANTS:
            print(
                redesigns([of_structure(name, head, s, variant=variant) for s in some]), flush=True
            )
    without(data, every, normal)


def without(data: Path, every: Data, normal: Normal) -> None:
    """Print what ProTherm adds, and the regression without what is near a public benchmark."""
    structures, rows = protherm(data)
    seen = {name: described(network(), s) for name, s in structures.items()}
    table = tabled(every.reduction, seen, structures, rows)

    domains, measured = scans(data)
    near = alike(structures, domains, {r.protein: r.group for r in measured})
    others = tabled(every.reduction, seen, structures, [r for r in rows if not near[r.protein]])
    more = Normal.of(others, {r.group: 0 for r in others.rows})
    both = Normal(
        torch.cat((normal.left, more.left[:1])), torch.cat((normal.right, more.right[:1]))
    )
    fits = [both.fit({*range(FOLDS), FOLDS} - {f}) for f in range(FOLDS)]
    p = Predicted.of(every.single, fits, [every.fold[r.group] for r in every.single.rows])
    names = [r.protein for r in every.single.rows]
    print(
        f"five folds with {len(others.rows)} rows of ProTherm alike to no domain of mega-scale: "
        f"{ranks(names, every.single.y, p.score(None))}",
        flush=True,
    )

    kept = torch.tensor([not r.near_benchmark for r in every.single.rows])
    far_rows = [r for r in every.single.rows if not r.near_benchmark]
    far = Table(far_rows, every.single.single[kept], torch.arange(len(far_rows)), None)
    p = Predicted.of(table, [Normal.of(far, every.fold).fit(range(FOLDS))])
    for what, marked in (("near", True), ("not near", False)):
        at = np.array([r.near_benchmark == marked for r in table.rows])
        chosen = [r.protein for r in table.rows if r.near_benchmark == marked]
        x = p.take(at)
        print(
            f"trained on {len(far_rows)} rows not near a public benchmark; ProTherm {what} one, "
            f"{at.sum()} rows: {ranks(chosen, x.y, x.score(None))}, Pearson "
            f"{np.corrcoef(x.y, x.score(None))[0, 1]:.3f}",
            flush=True,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line: `--out` trains, `--evaluate` prints the figures of the cards."""
    parser = argparse.ArgumentParser(description="Train or evaluate ddg-mini and its twin.")
    parser.add_argument("--data", type=Path, required=True, help="folder with stability/")
    parser.add_argument("--out", type=Path, help="train, and write the weights here")
    parser.add_argument("--evaluate", action="store_true", help="print the figures of the cards")
    parser.add_argument("--rows", type=Path, help="with --evaluate: write `calibration` here")
    given = parser.parse_args(arguments)
    if given.out is None and not given.evaluate:
        parser.error("nothing to do: give --out FOLDER to train or --evaluate to print the figures")
    torch.set_num_threads(1)
    if given.out is not None:
        train(given.data, given.out)
    if given.evaluate:
        evaluate(given.data, given.rows)


if __name__ == "__main__":
    main()
