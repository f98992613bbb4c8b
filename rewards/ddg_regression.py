"""The regression of ddg-mini: features of substitutions, ridge by folds, how gains are read.

Features are differences of letters times the principal components of the residues and products of
the first, the network's own log-odds, and pairs of letter descriptors times the principal
components of the edges. They are linear and there is no intercept, so a fit is antisymmetric, and
one set of weights (width,) is the head of a reward (`ddg.energy`). A sum over folds of normal
equations gives every fit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor

from seqalign.core.sequence import PROTEIN
from seqalign.rewards.ddg import Calibration, Described, on_grid, products
from seqalign.rewards.potts import SCALES
from seqalign.rewards.stability_data import FOLDS

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from seqalign.files.structure import Structure
    from seqalign.rewards.stability_data import Mutant

    Array = NDArray[np.float64]

SITES, CURVED, EDGES, RANK = 64, 10, 9, 5
"""Principal components of residues, those multiplied, and of edges; numbers describing a letter."""
COLUMNS: Final = SITES + CURVED * (CURVED + 1) // 2 + 1
"""Features of a residue: components, products, one."""
RIDGE, RIDGE_CURVED, RIDGE_MEAN, RIDGE_PAIRS, RIDGE_ODDS = 100.0, 1000.0, 0.1, 4e4, 0.01
CLIP: Final = 4.0
"""kcal/mol."""
ENOUGH: Final = 10
"""Multiple mutants that a share of them needs."""
USUAL: Final = 0.95
"""Share of the gains of multiple mutants that lie below the ceiling."""
SURE: Final = 0.8
"""Share of multiple mutants with a positive `lower` that are to be stabilized."""


# features -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Components:
    """Principal components: (x − mean) @ turn, (F,) and (F, C)."""

    mean: Tensor
    turn: Tensor

    @classmethod
    def of(cls, x: Tensor, count: int) -> Components:
        """Return the first components of standardized rows x (n, F), the first of variance 1."""
        mean, scale = x.mean(0), x.std(0) + 1e-3
        values, vectors = torch.linalg.eigh(((x - mean) / scale).T.cov())
        first = vectors[:, -count:].flip(1)
        # the sign of an eigenvector is the library's choice; this one is ours
        first = first * first.sum(0).sign()
        return cls(mean, first / scale[:, None] / values[-1].sqrt())

    def __call__(self, x: Tensor) -> Tensor:
        """Return (..., C + 1) of x (..., F), the last column one."""
        made = (x.double() - self.mean) @ self.turn
        return torch.cat((made, torch.ones_like(made[..., :1])), -1)


@dataclass(frozen=True)
class Reduction:
    """What residues and edges are reduced to, and how letters are described.

    Attributes:
        residues: principal components of residues.
        spread: (CURVED,) standard deviation of the first of them.
        edges: principal components of edges.
        basis: (20, R) numbers that describe a letter.
    """

    residues: Components
    spread: Tensor
    edges: Components
    basis: Tensor

    @classmethod
    def of(cls, seen: Sequence[Described]) -> Reduction:
        """Return that of the described backbones; no measurement is used."""
        scales = (SCALES - SCALES.mean(0)) / SCALES.std(0)
        basis = torch.linalg.svd(scales, full_matrices=False)[0][:, :RANK] * len(PROTEIN) ** 0.5
        edges = torch.cat([s.edges.flatten(0, 1)[::97].double() for s in seen])
        residues = torch.cat([s.residues.double() for s in seen])
        components = Components.of(residues, SITES)
        return cls(
            components,
            components(residues)[:, :CURVED].std(0),
            Components.of(edges, EDGES),
            on_grid(basis * basis.sum(0).sign(), 2.0**-6),
        )

    def columns(self, residues: Tensor) -> Tensor:
        """Return the features (n, COLUMNS) of described residues (n, F)."""
        z = self.residues(residues)
        return torch.cat((z[:, :-1], products(z[:, :CURVED] / self.spread), z[:, -1:]), -1)

    @property
    def width(self) -> int:
        """How many features a row has: sites, log-odds, pairs."""
        return self._sites + 1 + RANK**2 * (EDGES + 1)

    @property
    def _sites(self) -> int:
        return len(PROTEIN) * COLUMNS

    def rows(self, seen: Described, wild: Tensor, changes: Tensor) -> Tensor:
        """Return the features (n, width) of single substitutions (n, 3): place, wild, new."""
        i, w, m = changes.T
        n, every = len(changes), torch.arange(len(changes))
        x = torch.zeros(n, self.width, dtype=torch.float64)
        sites = x[:, : self._sites].view(n, len(PROTEIN), -1)
        sites[every, m] = self.columns(seen.residues)[i]
        sites[every, w] = -sites[every, m]
        odds = seen.residues[:, -21:].double()
        x[:, self._sites] = odds[i, m] - odds[i, w]
        u = self.basis[wild]
        edges = self.edges(seen.edges) * seen.weight[..., None].double()
        out = torch.einsum("nkc,nks->nsc", edges, u[seen.near])
        sent = torch.einsum("nkc,nr->nkrc", edges, u).flatten(0, 1)
        into = torch.zeros_like(out).index_add_(0, seen.near.flatten(), sent)
        d = self.basis[m] - self.basis[w]
        pairs = torch.einsum("nr,nsc->nrsc", d, out[i]) + torch.einsum("nrc,ns->nrsc", into[i], d)
        x[:, self._sites + 1 :] = pairs.flatten(1)
        return x

    def together(self, seen: Described, changes: Tensor) -> Tensor:
        """Return the features (width,) of what substitutions (n, 3) do to each other."""
        i, w, m = changes.T
        d = self.basis[m] - self.basis[w]
        meets = (seen.near[i][:, :, None] == i).double() * seen.weight[i][..., None].double()
        edges = torch.einsum("nkj,nkc->njc", meets, self.edges(seen.edges[i]))
        x = torch.zeros(self.width, dtype=torch.float64)
        x[self._sites + 1 :] = torch.einsum("nr,js,njc->rsc", d, d, edges).flatten()
        return x

    def head(self, theta: Tensor, calibration: Calibration) -> dict[str, Tensor]:
        """Return the tensors of a reward: the maps of `ddg.energy` that weights (width,) make."""
        b = theta[: self._sites].view(len(PROTEIN), -1)
        sites = b[:, :SITES] @ self.residues.turn.T
        bias = b[:, -1] - sites @ self.residues.mean
        sites[:, -21:-1] += theta[self._sites] * torch.eye(len(PROTEIN), dtype=torch.float64)
        c = theta[self._sites + 1 :].view(RANK**2, -1)
        pairs = c[:, :-1] @ self.edges.turn.T
        return {
            "sites": sites,
            "bias": bias,
            "center": self.residues.mean,
            "turn": self.residues.turn[:, :CURVED] / self.spread,
            "curved": b[:, SITES:-1],
            "basis": self.basis,
            "pairs": pairs,
            "pairs_bias": c[:, -1] - pairs @ self.edges.mean,
            "calibration": torch.tensor(
                [
                    calibration.slope,
                    calibration.top,
                    calibration.penalty,
                    calibration.ceiling,
                    *calibration.letters,
                ],
                dtype=torch.float64,
            ),
        }


@dataclass(frozen=True)
class Table:
    """Measured variants with their features.

    Attributes:
        rows: n variants.
        single: (m, width) the features of all their substitutions, one variant after another.
        owner: (m,) int64, the variant of each.
        joint: (n, width) of what these do to each other; None where all are single.
    """

    rows: list[Mutant]
    single: Tensor
    owner: Tensor
    joint: Tensor | None

    @property
    def y(self) -> Array:
        """The measured −ΔΔG, (n,) kcal/mol."""
        return np.array([r.stability for r in self.rows])


def tabled(
    reduction: Reduction, seen: Mapping[str, Described], structures: Mapping[str, Structure],
    rows: Sequence[Mutant],
) -> Table:  # fmt: skip
    """Return the features of variants, protein after protein."""
    ordered: list[Mutant] = []
    owner: list[int] = []
    single, joint = [], []
    for name in seen:
        own = [r for r in rows if r.protein == name]
        if not own:
            continue
        wild = PROTEIN.encode([structures[name].sequence])[0]
        changes = [torch.tensor(r.changes) for r in own]
        single.append(reduction.rows(seen[name], wild, torch.cat(changes)))
        owner += [len(ordered) + n for n, c in enumerate(changes) for _ in c]
        if any(len(c) > 1 for c in changes):
            joint += [reduction.together(seen[name], c) for c in changes]
        ordered += own
    stacked = torch.stack(joint) if joint else None
    return Table(ordered, torch.cat(single), torch.tensor(owner), stacked)


# the regression -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Normal:
    """Normal equations per fold: (5, width, width) and (5, width), and the fits made of them."""

    left: Tensor
    right: Tensor
    fits: dict[frozenset[int], Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, table: Table, fold: Mapping[str, int]) -> Normal:
        """Return those of single mutants, each fold a part."""
        sizes = {g: sum(r.group == g for r in table.rows) for g in {r.group for r in table.rows}}
        weight = torch.tensor([sizes[r.group] ** -0.25 for r in table.rows], dtype=torch.float64)
        y = torch.from_numpy(table.y).clamp(-CLIP, CLIP)
        of_row = torch.tensor([fold[r.group] for r in table.rows])
        left, right = [], []
        for f in range(FOLDS):
            x = table.single[of_row == f]
            weighted = x * weight[of_row == f, None]
            left.append(weighted.T @ x)
            right.append(weighted.T @ y[of_row == f])
        return cls(torch.stack(left), torch.stack(right))

    def fit(self, folds: Collection[int]) -> Tensor:
        """Return the ridge regression's weights (width,) of some folds."""
        if (key := frozenset(folds)) not in self.fits:
            ridge = torch.full((self.right.shape[1],), RIDGE_PAIRS, dtype=torch.float64)
            sites = ridge[: len(PROTEIN) * COLUMNS].view(len(PROTEIN), -1)
            sites[:, :SITES], sites[:, SITES:-1], sites[:, -1] = RIDGE, RIDGE_CURVED, RIDGE_MEAN
            ridge[sites.numel()] = RIDGE_ODDS
            some = sorted(key)
            factor = torch.linalg.cholesky(self.left[some].sum(0) + ridge.diag())
            right = self.right[some].sum(0)[:, None]
            self.fits[key] = torch.cholesky_solve(right, factor)[:, 0]
        return self.fits[key]


# how gains are read -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Predicted:
    """Raw predictions of n variants, of their m substitutions and of what these do together.

    Attributes:
        gains: (m,) of single substitutions, kcal/mol.
        letters: (m,) their new letters, tokens.
        owner: (m,) the variant of each.
        joint: (n,) of what they do to each other.
        y: (n,) measured.
    """

    gains: Array
    letters: NDArray[np.int64]
    owner: NDArray[np.int64]
    joint: Array
    y: Array

    @classmethod
    def of(
        cls, table: Table, fits: Sequence[Tensor], which: Sequence[int] | None = None
    ) -> Predicted:
        """Return the predictions of variants, each by one of the fits; by the first if not said."""
        by = torch.stack(list(fits), 1)
        fit = torch.zeros(len(table.rows), dtype=torch.int64)
        if which is not None:
            fit = torch.tensor(which)
        gains = (table.single @ by).gather(1, fit[table.owner, None])[:, 0]
        joint = torch.zeros(len(fit), dtype=torch.float64)
        if table.joint is not None:
            joint = (table.joint @ by).gather(1, fit[:, None])[:, 0]
        new = np.array([letter for r in table.rows for _, _, letter in r.changes])
        return cls(gains.numpy(), new, table.owner.numpy(), joint.numpy(), table.y)

    def take(self, kept: NDArray[np.bool_]) -> Predicted:
        """Return some of the variants."""
        place = np.cumsum(kept) - 1
        inside = kept[self.owner]
        owner = place[self.owner[inside]]
        return Predicted(
            self.gains[inside], self.letters[inside], owner, self.joint[kept], self.y[kept]
        )

    def score(self, calibration: Calibration | None, penalty: bool = True) -> Array:
        """Return the score of each variant: `raw` without a calibration, else lower or not."""
        if calibration is None:
            return np.bincount(self.owner, self.gains, len(self.y)) + self.joint
        worth = calibration.mapped(torch.from_numpy(self.gains)).numpy()
        worth = worth - np.array(calibration.letters)[self.letters] - calibration.penalty * penalty
        total = np.bincount(self.owner, worth, len(self.y)) + self.joint
        return calibration.saturated(torch.from_numpy(total)).numpy()


def calibrated(single: Predicted, multiple: Predicted) -> Calibration:
    """Fit how gains are read to predictions that were made out of fold.

    In turn, the map of gains by least squares on single mutants that are predicted to gain, and
    the cost of each new letter as the mean of what is left of all. The penalty is the least with
    which, and with all greater ones, SURE of the multiple mutants with a positive `lower` are
    stabilized; the ceiling is a gain that few multiple mutants were measured above.
    """
    gains, y = single.gains, single.y[single.owner]
    some, costs, slope, top = gains > 0, np.zeros(len(PROTEIN)), 1.0, 1.0

    def mapped(slope: float, top: float, gains: Array) -> Array:
        return Calibration(slope, top, 0, 1).mapped(torch.from_numpy(gains)).numpy()

    for _ in range(3):
        target = y[some] + costs[single.letters[some]]
        _, slope, top = min(
            (float(((mapped(s, t, gains[some]) - target) ** 2).sum()), s, t)
            for s in np.arange(5, 101, 5) / 100
            for t in np.arange(2, 31, 2) / 10
        )
        left = mapped(slope, top, gains) - y
        n = np.bincount(single.letters, minlength=len(PROTEIN))
        total = np.bincount(single.letters, left, len(PROTEIN))
        costs = np.maximum(total / np.maximum(n, 1), 0.0)
    letters = tuple(costs.tolist())
    # a handful of entries says far more, which has not been seen again
    ceiling = float(np.quantile(multiple.y[multiple.y > 0], USUAL))
    chosen = 0.0
    for penalty in np.arange(100) / 100:
        score = multiple.score(Calibration(slope, top, penalty, ceiling, letters))
        positive = multiple.y[score > 0] > 0
        if len(positive) >= ENOUGH and positive.mean() < SURE:
            chosen = penalty + 0.01
    return Calibration(float(slope), float(top), float(chosen), ceiling, letters)
