"""Train and evaluate the rewards of scanned proteins: thermodynamics with a Gaussian-process prior.

    python -m seqalign.rewards.train_scans NAME --data DATA --out rewards/  # train, write weights
    python -m seqalign.rewards.train_scans NAME --data DATA --evaluate      # the cards' figures

NAME is pdz3 or grb2. The unknowns are ΔΔG_fold and ΔΔG_bind of all 19 L substitutions. Both scans
share the folding energies. Each set of energies has a Gaussian prior whose covariance is a sum of
terms (`scan_prior`); the weight of each term is a variance component learned from the training rows
alone, so an unseen substitution is predicted from its position, from similar letters and from
similar positions, and shrunk as far as the data say. The posterior is found by Gauss-Newton steps,
and the ensemble is drawn from its Laplace approximation. Every step is deterministic. One file: the
scans, the fit and what judges it are one recipe.

What the rows do not decide (the terms of the prior, their length scales, the pinned globals) was
chosen on the first two splits of pdz3 with seed 10, apart from the reported seeds 0 to 4, and on
the one split that singles → doubles has, whose figure is therefore a little optimistic. For grb2
nothing was chosen but the floors and spans of its scans, which its scores show.

Splits, all rules in `seqalign.models.splits`: random rows (by variant, in both scans at once);
unseen substitutions (a row is a test row if a substitution other than the backgrounds is held
out; the backgrounds stay in training); singles → doubles (no randomness: one value for all seeds).
The rewards of pdz3 learn half A of the substitutions and their hold-out twins half B; a row that
carries only backgrounds belongs to the half of its own hash. The twins have a poorer prior on
purpose, without backbone and natural family: a mistake of those cannot fool guide and twin alike.
Those of grb2 learn all rows and have no twins: its doubles join any two substitutions, so that
halves would leave a quarter of the rows to each.

References:
    Mapping the energetic and allosteric landscapes of protein binding domains
    (Faure et al., 2022), https://doi.org/10.1038/s41586-022-04586-4.
    Gaussian Processes for Machine Learning (Rasmussen and Williams, 2006), chapters 2.7 and 3.4.
    Bayesian interpolation (MacKay, 1992): the fixed point of the variance components.
"""

from __future__ import annotations

import argparse
import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import scipy.linalg
import scipy.optimize
import scipy.sparse
import torch
from safetensors.torch import save_file
from scipy.special import expit
from scipy.stats import spearmanr

from seqalign.core.process import Designs
from seqalign.core.sequence import PROTEIN
from seqalign.models.splits import substitution_half, substitution_held_out, variant_held_out
from seqalign.rewards import scans as shipped
from seqalign.rewards.scan_prior import LETTERS, Construct, Prior, covariances
from seqalign.rewards.scans import RT, Landscape

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

Variant = tuple[str, ...]


SCANS: Final = ("abundance", "binding")
SPLITS: Final = ("random rows", "unseen substitutions", "singles → doubles")

KINDS: Final = {"abundance": "stability", "binding": "affinity"}
BLOCK: Final = 8192
"""Rows whose leverage is computed at once."""
# What is pinned: the free energies of the wild type and the floors and spans of the scans.
GLOBALS_SD: Final = np.array([0.02, 0.02, 0.04, 0.04, 0.04, 0.04])


@dataclass(frozen=True)
class Protein:
    """A protein with a scan of abundance and one of binding.

    Attributes:
        construct: what was scanned.
        scans: the names of its files begin with it.
        backgrounds: substitutions (0-based) that nearly every double mutant carries.
        pinned: folding and binding free energy of the wild type (kcal/mol), then floor and span of
            each scan. The free energies are at Faure et al.'s scale for PDZ3: the scans identify
            them poorly, and a free fit drifts to a straight line. The floors are the scores of dead
            variants, the spans put the wild type at 0.
        trained: which rows ("A", "B" or "all"), by which prior, what follows the name.
    """

    construct: Construct
    scans: str
    backgrounds: tuple[str, ...]
    pinned: tuple[float, ...]
    trained: tuple[tuple[str, Prior, str], ...]

    def read(self, data: Path) -> dict[str, Scan]:
        """Return both scans."""
        return {s: read_scan(data / f"landscapes/{self.scans}-{s}.tsv.gz", self) for s in SCANS}


PROTEINS: Final = {
    "pdz3": Protein(
        Construct(
            "PRRIVIHRGSTGLGFNIVGGEDGEGIFISFILAGGPADLSGELRKGDQILSVNGVDLRNASHEQAAIALKNAGQTVTIIAQYKP",
            "6qji_p_trunc_2022_A",
            "msas/pf00595_pdz.fasta.gz",
        ),
        "dlg4-2022",
        ("P0G", "V4R", "S9I", "L12R", "G13V", "S39A", "I48L", "N52R"),
        (-1.0, -1.0, -1.25, 1.5, -1.25, 1.6),
        (("A", "full", ""), ("B", "scan", "-holdout")),
    ),
    "grb2": Protein(
        Construct("TYVQALFDFDPQEDGELGFRRGDFIHVMDNSDPNWWKGACHGQTGMFPRNYVTPVN", "1GCQ_r_b-matched_A"),
        "grb2",
        (),
        (-1.0, -1.0, -1.22, 1.45, -0.8, 0.98),
        (("all", "full", ""),),
    ),
}
# The wild type is 0 by definition of the scores; it counts as this many rows.
WILD_TYPE_ROWS: Final = 20
# Least noise variance of a score: singles alone cannot tell noise from individual effects.
NOISE_FLOOR: Final = 0.003
# Where the variance components of folding begin, kcal²/mol²; the training rows move them.
START: Final = {
    "position": 0.05,
    "letter at the position": 0.05,
    "letter": 0.05,
    "wild letter and letter": 0.03,
    "individual": 0.03,
    "change at the position": 0.1,
    "position in space": 0.1,
    "letter in the environment": 0.03,
    "natural frequency": 0.3,
}


@dataclass(frozen=True)
class Scan:
    """Measured variants and their log scores; the wild type is 0.

    Attributes:
        variants: n tuples of substitutions such as ("P0A", "V4R").
        scores: (n,).
    """

    variants: list[Variant]
    scores: Array

    def take(self, keep: NDArray[np.bool_]) -> Scan:
        """Return the rows where `keep` (n,) is true."""
        return Scan([v for v, k in zip(self.variants, keep, strict=True) if k], self.scores[keep])


def read_scan(path: Path, of: Protein) -> Scan:
    """Read a scan (columns variant, num_mutations, score; gzipped, tab-separated).

    Raises:
        ValueError: a variant does not fit the wild type.
    """
    variants: list[Variant] = []
    scores: list[float] = []
    with gzip.open(path, "rt") as file:
        next(file)
        for number, line in enumerate(file, start=2):
            name, _, score = line.split("\t")
            variant = tuple(name.split(","))
            for substitution in variant:
                if substitution not in of.construct.index:
                    raise ValueError(
                        f"{path}, line {number}: {substitution!r} is no substitution of the "
                        f"construct; write wild-type letter, 0-based position, new letter "
                        f"({next(iter(of.construct.index))})."
                    )
            variants.append(variant)
            scores.append(float(score))
    return Scan(variants, np.array(scores))


@dataclass(frozen=True)
class Posterior:
    """The fitted model: a Gaussian over energies and globals around the most probable ones.

    Attributes:
        of: the protein.
        mean: (2 · 19 L + 6,): ΔΔG_fold, ΔΔG_bind in kcal/mol, then the globals.
        scale: the prior's Cholesky factors of folding, binding and globals.
        precision: lower Cholesky factor of the posterior precision in whitened coordinates.
        components: variance (kcal²/mol²) of each prior term, for folding and binding.
        noise: (2, 2) noise variance of dead and of wild-type-like variants, per scan.
    """

    of: Protein
    mean: Array
    scale: tuple[Array, Array, Array]
    precision: Array
    components: tuple[dict[str, float], dict[str, float]]
    noise: Array

    def predict(self, scan: str, variants: Sequence[Variant]) -> Array:
        """Return the expected log scores (n,) of variants in a scan."""
        design = _design(self.of, variants)
        return _scores(self.mean, design, design)[SCANS.index(scan)][0]

    def draw(self, pairs: int, seed: int) -> Array:
        """Draw members (2 · pairs, size) from the posterior, antithetic around the mean."""
        noise = np.random.default_rng(seed).standard_normal((len(self.mean), pairs))
        white = scipy.linalg.solve_triangular(self.precision, noise, lower=True, trans="T")
        parts = [s @ white[b] for s, b in zip(self.scale, _blocks(self.of), strict=True)]
        step = np.concatenate(parts).T
        return np.concatenate([self.mean + step, self.mean - step])


def _blocks(of: Protein) -> tuple[slice, slice, slice]:
    size = of.construct.size
    return slice(0, size), slice(size, 2 * size), slice(2 * size, 2 * size + len(of.pinned))


def _design(of: Protein, variants: Sequence[Variant]) -> scipy.sparse.csr_matrix:
    rows = [n for n, variant in enumerate(variants) for _ in variant]
    columns = [of.construct.index[s] for variant in variants for s in variant]
    return scipy.sparse.csr_matrix(
        (np.ones(len(rows)), (rows, columns)), shape=(len(variants), of.construct.size)
    )


def _scores(
    theta: Array, abundance: scipy.sparse.csr_matrix, binding: scipy.sparse.csr_matrix
) -> tuple[tuple[Array, scipy.sparse.csr_matrix, Array], ...]:
    """Return expected scores, Jacobian and occupied fraction over the wild type's, per scan."""
    size = abundance.shape[1]
    fold, bind = theta[:size], theta[size : 2 * size]
    g_fold, g_bind, *affine = theta[2 * size :]

    def column(v: Array) -> scipy.sparse.csr_matrix:
        return scipy.sparse.csr_matrix(v[:, None])

    def none(n: int, m: int) -> scipy.sparse.csr_matrix:
        return scipy.sparse.csr_matrix((n, m))

    u = (g_fold + abundance @ fold) / RT
    p = expit(-u)
    slope = -affine[1] * p * (1 - p) / RT
    n = len(p)
    jacobian_a = scipy.sparse.hstack(
        [
            *(scipy.sparse.diags(slope) @ abundance, none(n, size)),
            *(column(slope), none(n, 1), column(np.ones(n)), column(p), none(n, 2)),
        ]
    ).tocsr()
    u = (g_fold + binding @ fold) / RT
    q = expit(-(g_bind + binding @ bind) / RT - np.logaddexp(0.0, u))
    slope = -affine[3] * q * (1 - q) / RT
    n = len(q)
    via_fold = slope * expit(u)
    jacobian_b = scipy.sparse.hstack(
        [
            *(scipy.sparse.diags(via_fold) @ binding, scipy.sparse.diags(slope) @ binding),
            *(column(via_fold), column(slope), none(n, 2), column(np.ones(n)), column(q)),
        ]
    ).tocsr()
    p_wild = expit(-g_fold / RT)
    q_wild = expit(-g_bind / RT - np.logaddexp(0.0, g_fold / RT))
    return (
        (affine[0] + affine[1] * p, jacobian_a, np.minimum(p / p_wild, 1.0)),
        (affine[2] + affine[3] * q, jacobian_b, np.minimum(q / q_wild, 1.0)),
    )


def fit(
    of: Protein,
    scans: Mapping[str, Scan],
    terms: Mapping[str, Array],
    *,
    iterations: int = 7,
    report: Callable[[str], None] | None = None,
) -> Posterior:
    """Fit the thermodynamic model to training rows of both scans by Gauss-Newton steps.

    Between steps the variance components move to MacKay's fixed point, c ← c · αᵀKα / tr(PK), and
    the noise, a function of the occupied fraction, to the residuals.

    Args:
        of: the protein.
        scans: "abundance" and "binding".
        terms: prior covariance terms of `covariances`, shared by folding and binding.
        iterations: steps; the last two keep the variances.
        report: called with one line per step.
    """
    wild = [()] * WILD_TYPE_ROWS
    size = of.construct.size
    designs = tuple(_design(of, [*scans[s].variants, *wild]) for s in SCANS)
    target = np.concatenate([np.r_[scans[s].scores, np.zeros(WILD_TYPE_ROWS)] for s in SCANS])
    cut = len(scans["abundance"].variants) + WILD_TYPE_ROWS
    rows = (slice(0, cut), slice(cut, None))
    blocks = _blocks(of)
    offset = np.concatenate([np.zeros(2 * size), np.array(of.pinned)])
    theta = offset.copy()
    components = tuple({name: START[name] * v for name in terms} for v in (1.0, 0.4))
    noise = np.array([[0.04, 0.01], [0.04, 0.01]])

    def step(at: Array) -> tuple[Array, scipy.sparse.csr_matrix, list[Array]]:
        (m_a, j_a, f_a), (m_b, j_b, f_b) = _scores(at, *designs)
        return np.r_[m_a, m_b], scipy.sparse.vstack([j_a, j_b]).tocsr(), [f_a, f_b]

    model, jacobian, fraction = step(theta)
    for iteration in range(iterations):
        spread = np.concatenate(
            [noise[s, 0] * (1 - f) + noise[s, 1] * f for s, f in enumerate(fraction)]
        )
        hessian = (jacobian.T @ scipy.sparse.diags(1 / spread) @ jacobian).toarray()
        pull = jacobian.T @ ((target - model + jacobian @ (theta - offset)) / spread)
        factors = tuple(
            scipy.linalg.cholesky(
                sum(c[name] * term for name, term in terms.items()) + 1e-6 * np.eye(size),
                lower=True,
            )
            for c in components
        )
        scale = (*factors, np.diag(GLOBALS_SD))
        product = np.empty_like(hessian)
        for block, factor in zip(blocks, scale, strict=True):
            product[:, block] = hessian[:, block] @ factor
        whitened = np.empty_like(hessian)
        for block, factor in zip(blocks, scale, strict=True):
            whitened[block] = factor.T @ product[block]
        whitened[np.diag_indices(len(offset))] += 1.0
        precision = scipy.linalg.cholesky(whitened, lower=True)
        white = np.concatenate([f.T @ pull[b] for b, f in zip(blocks, scale, strict=True)])
        white = scipy.linalg.cho_solve((precision, True), white)
        new = np.concatenate([f @ white[b] for b, f in zip(blocks, scale, strict=True)]) + offset

        def loss(at: Array, scale: tuple[Array, ...] = scale, spread: Array = spread) -> float:
            free = at - offset
            parts = [
                scipy.linalg.solve_triangular(f, free[b], lower=True)
                for b, f in zip(blocks, scale, strict=True)
            ]
            (m_a, *_), (m_b, *_) = _scores(at, *designs)
            misfit = ((target - np.r_[m_a, m_b]) ** 2 / spread).sum()
            return 0.5 * float(misfit + sum((part**2).sum() for part in parts))

        before, length = loss(theta), 1.0
        while length > 0.02 and not loss(theta + length * (new - theta)) <= before:
            length /= 2
        theta = theta + length * (new - theta)
        model, jacobian, fraction = step(theta)
        if report:
            report(
                f"step {iteration}: length {length:g}, loss {before:.1f}, noise "
                f"{np.sqrt(noise).round(3).tolist()}, globals {theta[2 * size :].round(3).tolist()}"
            )
        if iteration >= iterations - 2:
            continue
        lower, _ = scipy.linalg.lapack.dpotri(precision, lower=1)
        covariance = np.tril(lower) + np.tril(lower, -1).T
        for block, factor, parts in zip(blocks, factors, components, strict=False):
            alpha = scipy.linalg.cho_solve((factor, True), theta[block])
            inverse, _ = scipy.linalg.lapack.dtrtri(factor, lower=1)
            inner = inverse.T @ (np.eye(size) - covariance[block, block]) @ inverse
            for name, term in terms.items():
                ratio = float(alpha @ term @ alpha) / max(float(np.vdot(inner, term)), 1e-12)
                parts[name] = max(parts[name] * float(np.clip(ratio, 0.05, 20.0)), 1e-6)
        # What the fit explains of each row: its leverage makes residuals too small. Single
        # precision is enough for a mean of squares.
        single = covariance.astype(np.float32)
        for block, factor in zip(blocks, scale, strict=True):
            single[block] = factor.astype(np.float32) @ single[block]
        for block, factor in zip(blocks, scale, strict=True):
            single[:, block] = single[:, block] @ factor.astype(np.float32).T
        parts_of = (jacobian[n : n + BLOCK] for n in range(0, len(target), BLOCK))
        explained = [np.asarray(j.multiply(j @ single).sum(1)).ravel() for j in parts_of]
        leverage = np.concatenate(explained) / spread
        square = (target - model) ** 2 / np.maximum(1 - leverage, 0.2)
        for s, part in enumerate(rows):
            weight = (1 / spread[part])[:-WILD_TYPE_ROWS]
            share = np.stack([1 - fraction[s], fraction[s]], axis=1)[:-WILD_TYPE_ROWS]
            found, _ = scipy.optimize.nnls(
                share * weight[:, None], square[part][:-WILD_TYPE_ROWS] * weight
            )
            noise[s] = np.maximum(found, NOISE_FLOOR)
    return Posterior(of, theta, scale, precision, (components[0], components[1]), noise)


def held_out(name: str, variant: Variant, split: str, seed: int) -> bool:
    """Return whether a protein's variant is a test row of a split, by one rule for both scans.

    Raises:
        ValueError: there is no such split.
    """
    if split == "random rows":
        return variant_held_out(",".join(variant), f"{name}-rows-{seed}")
    if split == "unseen substitutions":
        salt = f"{name}-substitutions-{seed}"
        own = [s for s in variant if s not in PROTEINS[name].backgrounds]
        return any(substitution_held_out(int(s[1:-1]), s[-1], salt) for s in own)
    if split == "singles → doubles":
        return len(variant) > 1
    raise ValueError(f"There is no split {split!r}; use one of {', '.join(map(repr, SPLITS))}.")


def half(of: Protein, variant: Variant) -> str:
    """Return "A", "B" or, where substitutions of both halves meet, "mixed"."""
    own = {substitution_half(int(s[1:-1]), s[-1]) for s in variant if s not in of.backgrounds}
    if not own:
        return "A" if variant_held_out(",".join(variant), "halves", 2) else "B"
    return own.pop() if len(own) == 1 else "mixed"


def choose(scans: Mapping[str, Scan], keep: Callable[[Variant], bool]) -> dict[str, Scan]:
    """Return the rows of both scans whose variant `keep` accepts."""
    return {
        name: scan.take(np.array([keep(v) for v in scan.variants], dtype=bool))
        for name, scan in scans.items()
    }


def ridge(of: Protein, train: Scan, test: Scan) -> tuple[Array, float]:
    """Return what an additive one-hot ridge says of the test rows (n,), and its penalty.

    The penalty is the best of ten on the TEST rows, so the comparison favors the ridge.
    """
    x, y = (
        scipy.sparse.hstack([_design(of, s.variants), np.ones((len(s.variants), 1))]).tocsr()
        for s in (train, test)
    )
    gram, moment = (x.T @ x).toarray(), x.T @ train.scores
    found = []
    for penalty in (0.03, 0.1, 0.3, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0):
        shrink = np.full(x.shape[1], penalty)
        shrink[-1] = 1e-6
        weights = np.linalg.solve(gram + np.diag(shrink), moment)
        found.append((_spearman(y @ weights, test.scores), penalty, y @ weights))
    best = max(found, key=lambda f: f[:2])
    return best[2], best[1]


def tables(of: Construct, members: Array) -> tuple[Array, Array, Array]:
    """Return folding and binding tables (M, L, 20) and wild-type folding energies (M,)."""
    out = np.zeros((2, len(members), len(of.wild_type), len(LETTERS)))
    out[0][:, of.position, of.letter] = members[:, : of.size]
    out[1][:, of.position, of.letter] = members[:, of.size : 2 * of.size]
    return out[0], out[1], members[:, 2 * of.size]


def train(name: str, data: Path, out: Path, *, pairs: int = 8) -> None:
    """Train the two rewards of a protein, and their twins where it has any."""
    of = PROTEINS[name]
    scans = of.read(data)
    for part, prior, suffix in of.trained:
        rows = scans
        if part != "all":
            rows = choose(scans, lambda v, part=part: half(of, v) == part)  # type: ignore[misc]
        posterior = fit(of, rows, covariances(of.construct, data, prior), report=print)
        members = tables(of.construct, posterior.draw(pairs, seed=0))
        fold, bind, wild = (torch.from_numpy(a.astype(np.float32)) for a in members)
        both = {"folding": fold, "wild_type_folding": wild}
        meta = {"wild_type": of.construct.wild_type, "half": part, "prior": prior}
        meta["letters"] = LETTERS
        save_file(both, out / f"{name}-stability{suffix}.safetensors", meta)
        save_file(both | {"binding": bind}, out / f"{name}-affinity{suffix}.safetensors", meta)


def _spearman(x: Array, y: Array) -> float:
    return float(spearmanr(x, y).statistic)


def evaluate_splits(name: str, data: Path, seeds: Sequence[int]) -> list[dict[str, object]]:
    """Print and return the split table: Spearman on test rows, model against ridge."""
    of = PROTEINS[name]
    scans, terms = of.read(data), covariances(of.construct, data, "full")
    found: list[dict[str, object]] = []
    for split in SPLITS:
        cells: dict[str, list[tuple[float, float]]] = {s: [] for s in SCANS}
        # Singles → doubles has no randomness.
        used = list(seeds) if split != "singles → doubles" else [0]
        for seed in used:
            train_rows = choose(scans, lambda v, a=split, b=seed: not held_out(name, v, a, b))  # type: ignore[misc]
            test_rows = choose(scans, lambda v, a=split, b=seed: held_out(name, v, a, b))  # type: ignore[misc]
            posterior = fit(of, train_rows, terms)
            for s in SCANS:
                test = test_rows[s]
                said = posterior.predict(s, test.variants)
                plain, penalty = ridge(of, train_rows[s], test)
                model, line = _spearman(said, test.scores), _spearman(plain, test.scores)
                cells[s].append((model, line))
                print(
                    f"{split:22s} seed {seed} {s:10s} {len(test.scores):5d} test rows: model "
                    f"{model:.3f}, ridge {line:.3f} (penalty {penalty:g}), {model - line:+.3f}; "
                    f"{_tail('model', said, test.scores)}; {_tail('ridge', plain, test.scores)}",
                    flush=True,
                )
        for s in SCANS:
            model_mean, ridge_mean = (float(m) for m in np.mean(cells[s], axis=0))
            gains = [m - r for m, r in cells[s]]
            found.append(
                {
                    "what": f"Spearman of the model, {s} score, against an additive one-hot ridge "
                    f"trained on the same rows ({ridge_mean:.3f})",
                    "scan": s,
                    "split": split,
                    "seeds": list(seeds),
                    "value": round(model_mean, 3),
                    "ridge": round(ridge_mean, 3),
                    "gain": round(model_mean - ridge_mean, 3),
                    "range": [round(min(gains), 3), round(max(gains), 3)],
                }
            )
    _table(found)
    return found


def _tail(who: str, said: Array, measured: Array) -> str:
    """Return what the hundred rows of highest prediction are like."""
    best = measured[np.argsort(-said)[:100]]
    return f"top 100 of {who} {best.mean():+.2f}, {100 * (best > 0).mean():.0f} % above 0"


def _table(figures: Sequence[Mapping[str, object]]) -> None:
    print(f"\n{'split':22s} {'scan':10s} {'Spearman':>8s} {'ridge':>8s} {'gain':>8s} (least, most)")
    for f in figures:
        print(
            f"{f['split']:22s} {f['scan']:10s} {f['value']:8.3f} {f['ridge']:8.3f} "
            f"{f['gain']:+8.3f} {f['range']}"
        )


def evaluate_twins(name: str, data: Path, seeds: Sequence[int]) -> None:
    """Print how much the guides and their twins share, on rows that neither was trained on.

    Per seed a fifth of the substitutions is held out of both; each learns its half of the rest with
    its prior.
    """
    of = PROTEINS[name]
    scans = of.read(data)
    priors = {part: covariances(of.construct, data, prior) for part, prior, _ in of.trained}
    split = "unseen substitutions"
    rows: dict[str, list[list[float]]] = {s: [] for s in SCANS}
    for seed in seeds:
        test_rows = choose(scans, lambda v, b=seed: held_out(name, v, split, b))  # type: ignore[misc]
        posteriors = []
        for part in priors:

            def keep(v: Variant, part: str = part, seed: int = seed) -> bool:
                return half(of, v) == part and not held_out(name, v, split, seed)

            posteriors.append(fit(of, choose(scans, keep), priors[part]))
        for s in SCANS:
            test = test_rows[s]
            guide, twin = (p.predict(s, test.variants) for p in posteriors)
            values = [
                _spearman(guide, test.scores),
                _spearman(twin, test.scores),
                float(np.corrcoef(guide, twin)[0, 1]),
                float(np.corrcoef(guide - test.scores, twin - test.scores)[0, 1]),
            ]
            rows[s].append(values)
            print(
                f"twins seed {seed} {s:10s}: Spearman of guide {values[0]:.3f}, of twin "
                f"{values[1]:.3f}; correlation of predictions {values[2]:.3f}, of errors "
                f"{values[3]:.3f}",
                flush=True,
            )
    for s in SCANS:
        mean = np.mean(rows[s], axis=0)
        print(
            f"twins mean   {s:10s}: Spearman of guide {mean[0]:.3f}, of twin {mean[1]:.3f}; "
            f"correlation of predictions {mean[2]:.3f}, of errors {mean[3]:.3f}"
        )


def evaluate_weights(name: str, data: Path) -> None:
    """Print how the shipped weights rank the half of the rows they were not trained on."""
    of = PROTEINS[name]
    scans = of.read(data)
    for part, _, suffix in of.trained:
        rows = choose(scans, lambda v, part=part: half(of, v) in {"A", "B"} - {part})  # type: ignore[misc]
        for s in SCANS:
            reward = shipped.landscape(registered=f"{name}-{KINDS[s]}{suffix}")
            sequences = [_mutate(of.construct, v) for v in rows[s].variants]
            score = reward(Designs.of(sequences, PROTEIN))[0].numpy()
            other = "A" if part == "B" else "B"
            print(
                f"shipped {reward.name:22s}: Spearman {_spearman(score, rows[s].scores):.3f} on "
                f"{len(score)} {s} rows of half {other}"
            )


def evaluate_designs(name: str, seed: int = 0, mutations: int = 8, chains: int = 200) -> None:
    """Print what the twins say of designs climbed under the guides, at a budget of mutations.

    Designs are drawn by Metropolis from uniform letters times exp((stability + affinity) / alpha)
    with exactly `mutations` substitutions; the baseline is the best of as many designs drawn
    uniformly as the chains scored: a comparison at equal calls.
    """
    rng = np.random.default_rng(seed)
    names = [f"{name}-{kind}" for kind in KINDS.values()]
    guides = [shipped.landscape(registered=n) for n in names]
    twins = [shipped.landscape(registered=f"{n}-holdout") for n in names]
    wild = PROTEIN.encode([guides[0].wild_type])[0].numpy()

    def total(x: NDArray[np.int64], rewards: Sequence[Landscape]) -> Array:
        designs = Designs(torch.from_numpy(x)[None], PROTEIN)
        return np.asarray(sum(r(designs)[0] for r in rewards))

    def fresh(n: int) -> NDArray[np.int64]:
        x = np.tile(wild, (n, 1))
        for row in x:
            for i in rng.choice(len(wild), mutations, replace=False):
                row[i] = (row[i] + rng.integers(1, len(LETTERS))) % len(LETTERS)
        return x

    steps, alpha = 300, 0.1
    x = fresh(chains)
    value = total(x, guides)
    for _ in range(steps):
        new = x.copy()
        for row in new:
            gone = rng.choice(np.flatnonzero(row != wild))
            row[gone] = wild[gone]
            put = rng.choice(np.flatnonzero(row == wild))
            row[put] = (wild[put] + rng.integers(1, len(LETTERS))) % len(LETTERS)
        score = total(new, guides)
        accept = np.log(rng.random(chains)) < (score - value) / alpha
        x[accept], value[accept] = new[accept], score[accept]
    pool = fresh(chains * (steps + 1))
    base = total(pool, guides)
    top, best = np.argsort(-value)[:10], np.argsort(-base)[:10]
    climbed, chosen = total(x[top], twins), total(pool[best], twins)
    draws = rng.integers(0, 10, (2, 10_000, 10))
    gap = climbed[draws[0]].mean(1) - chosen[draws[1]].mean(1)
    low, high = np.quantile(gap, [0.025, 0.975])
    print(
        f"designs with {mutations} mutations, stability + affinity, top 10, kcal/mol: guide "
        f"{value[top].mean():.2f} aligned, {base[best].mean():.2f} best of {len(pool)}; twin "
        f"{climbed.mean():.2f} aligned, {chosen.mean():.2f} best of {len(pool)}; twin gain "
        f"{climbed.mean() - chosen.mean():.2f} (95 % interval {low:.2f} to {high:.2f})"
    )


def _mutate(of: Construct, variant: Variant) -> str:
    letters = list(of.wild_type)
    for s in variant:
        letters[int(s[1:-1])] = s[-1]
    return "".join(letters)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line: `--out` trains, `--evaluate` prints the figures of the cards."""
    parser = argparse.ArgumentParser(description="Train or evaluate the rewards of a scan.")
    parser.add_argument("name", choices=PROTEINS)
    parser.add_argument("--data", type=Path, required=True, help="folder with landscapes/, msas/")
    parser.add_argument("--out", type=Path, help="train, and write the weights here")
    parser.add_argument("--evaluate", nargs="?", const="all", choices=(*EVALUATIONS, "all"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    given = parser.parse_args(arguments)
    if given.out is None and given.evaluate is None:
        parser.error("nothing to do: give --out FOLDER to train or --evaluate to print the figures")
    twins = len(PROTEINS[given.name].trained) > 1
    if given.evaluate in ("twins", "weights") and not twins:
        parser.error(
            f"{given.name} learned all rows and has no twins: there is no row to judge its weights "
            f"by. Its figures are those of --evaluate splits."
        )
    torch.set_num_threads(1)
    if given.out is not None:
        train(given.name, given.data, given.out)
    if given.evaluate in ("splits", "all"):
        evaluate_splits(given.name, given.data, given.seeds)
    if given.evaluate in ("twins", "all") and twins:
        evaluate_twins(given.name, given.data, given.seeds)
    if given.evaluate in ("weights", "all") and twins:
        evaluate_weights(given.name, given.data)
        evaluate_designs(given.name)


EVALUATIONS: Final = ("splits", "twins", "weights")

if __name__ == "__main__":
    main()
