"""Fit and evaluate `ddg-burial`, whose three coefficients stand in its file.

    python -m seqalign.rewards.train_ddg_burial --data DATA

Least squares without an intercept on −ΔΔG of ProTherm, clipped and weighted as for `ddg-pairs`; the
same folds, and mini families kept out. It prints the coefficients and every figure of the card.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from seqalign.rewards.ddg_burial import COEFFICIENTS, terms
from seqalign.rewards.ddg_data import CLIP, FOLDS, Chain, Row, measured, mini_table, split
from seqalign.rewards.train_ddg_pairs import show, tail

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float64]


def columns(chains: Mapping[tuple[str, str], Chain], rows: Sequence[Row]) -> Array:
    """Return the three terms (n, 3) of measured mutations."""
    cache = {key: terms(chain.describe(), chain.letters) for key, chain in chains.items()}
    found = [cache[r.protein, r.chain][r.position, r.mutant] for r in rows]
    return np.asarray(torch.stack(found).numpy())


def fit(x: Array, rows: Sequence[Row]) -> Array:
    """Return the coefficients (3,) from terms x (n, 3)."""
    y = np.clip([r.stability for r in rows], -CLIP, CLIP)
    n = Counter(r.protein for r in rows)
    w = np.array([n[r.protein] ** -0.25 for r in rows])
    return np.asarray(np.linalg.solve(x.T @ (w[:, None] * x), x.T @ (w * y)))


def evaluate(data: Path) -> None:
    """Print the coefficients and the figures of the card."""
    chains, rows = measured(data)
    minis = {r["name"]: r["sequence"] for r in mini_table(data) if r["mutant"] == "False"}
    groups = split(chains, rows, minis)
    free = [r for r in rows if r.protein not in groups.kept_out]
    x, fold = columns(chains, free), np.array([groups.fold[r.protein] for r in free])
    print(f"coefficients: {', '.join(f'{c:.3f}' for c in fit(x, free))}")
    out = np.zeros(len(free))
    for k in range(FOLDS):
        test = fold == k
        out[test] = x[test] @ fit(x[~test], [r for r, t in zip(free, test, strict=True) if not t])
    show(f"ddg-burial, {FOLDS}-fold by homology group", free, out)
    others, measurements = measured(data, "megascale")
    prediction = columns(others, measurements) @ np.array(COEFFICIENTS)
    show("ddg-burial, mega-scale", measurements, prediction)
    print("\n".join(tail(np.array([r.stability for r in measurements]), prediction)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Fit and evaluate ddg-burial.")
    parser.add_argument("--data", type=Path, required=True, help="folder with structures/, ...")
    torch.set_num_threads(1)
    evaluate(parser.parse_args(arguments).data)


if __name__ == "__main__":
    main()
