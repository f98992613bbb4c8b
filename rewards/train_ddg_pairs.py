"""Train and evaluate `ddg-pairs`.

    python -m seqalign.rewards.train_ddg_pairs --data DATA --out rewards/   # train and write
    python -m seqalign.rewards.train_ddg_pairs --data DATA --evaluate       # figures of the card
    python -m seqalign.rewards.train_ddg_pairs --data DATA --megascale      # and on mega-scale

Two stages, both deterministic on one thread:

1. A network of log-odds, from natural backbones only. Every chain that an alignment finds alike to
   a measured protein or a mini-protein is left out, with its whole cluster. Each epoch draws one
   description per cluster (a chain as it is, or with 0.1 Å of noise) and maximizes the
   pseudo-likelihood of its letters, a random share of the neighbors' letters hidden, plus 0.3 times
   the likelihood of the site terms alone.
2. A ridge regression of −ΔΔG of ProTherm on differences of the site's columns, mutant minus wild
   type, with no intercept: it is antisymmetric. ΔΔG is clipped to ±6 kcal/mol (one row says 17.4);
   a row of a protein with n rows weighs n^(−1/4), because one protein is a quarter of the rows.

It is trained on ProTherm alone, so that it can judge what learned from mega-scale data.
"""

from __future__ import annotations

import argparse
import itertools
import math
import tarfile
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from scipy.stats import spearmanr
from torch import Tensor, nn

from seqalign.core.process import Designs
from seqalign.core.sequence import PROTEIN
from seqalign.files.structure import Structure, read_structure
from seqalign.rewards import ddg_pairs
from seqalign.rewards.ddg_data import (
    CLIP,
    E_VALUE,
    FOLDS,
    Chain,
    Row,
    e_value,
    measured,
    mini_table,
    natural_chains,
    split,
    strangers,
)
from seqalign.rewards.potts import LETTERS, SCALES, Potts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Weights = dict[str, Tensor]

NOISE: Final = 0.1
"""Å, standard deviation of the noise of a second copy of each chain."""
WIDTH, RANK, EPOCHS, BATCH, RATE = 96, 24, 24, 8, 2e-3
RIDGE_PRIOR, RIDGE = 0.02, 2.0
"""Ridge per unit of row weight: of the four columns of the network, and of all others."""
ENOUGH: Final = 10
"""Rows a protein needs for a rank correlation of its own."""
NAME: Final = "ddg-pairs"


# stage 1: log-odds from natural backbones ---------------------------------------------------------


@dataclass(frozen=True)
class _Described:
    letters: Tensor
    sites: Tensor
    pairs: Tensor
    contacts: Tensor
    envelope: Tensor

    @classmethod
    def of(cls, chain: Chain, noise: Tensor | None) -> _Described:
        g = chain.describe(noise)
        return cls(chain.letters, g.sites.float(), g.pairs, g.contacts.float(), g.envelope.float())


def _joined(some: Sequence[_Described]) -> _Described:
    start = np.cumsum([0, *(len(d.letters) for d in some)]).tolist()
    return _Described(
        torch.cat([d.letters for d in some]),
        torch.cat([d.sites for d in some]),
        torch.cat([d.pairs + s for d, s in zip(some, start, strict=False)], 1),
        torch.cat([d.contacts for d in some]),
        torch.cat([d.envelope for d in some]),
    )


def pseudo_logits(network: Potts, d: _Described, shown: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits (L, 20) of each site: its own, and with the letters of shown (L,) neighbors."""
    own = network.letters(d.sites)
    c = network.couplings(d.contacts, d.envelope)
    left, right = network.factors()
    i, j = d.pairs
    zero = own.new_zeros(len(own), len(left))
    first = zero.index_add(0, i, c * right.T[d.letters[j]] * shown[j, None])
    second = zero.index_add(0, j, c * left.T[d.letters[i]] * shown[i, None])
    return own, own + first @ left + second @ right


def train_network(
    chains: Sequence[Chain], seed: int, epochs: int = EPOCHS, width: int = WIDTH, rank: int = RANK
) -> Potts:
    """Return a network of log-odds trained on natural chains."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    pools: dict[str, list[_Described]] = {}
    for chain in chains:
        noise = NOISE * torch.randn(chain.coords.shape, generator=generator, dtype=torch.float64)
        pool = pools.setdefault(chain.cluster, [])
        pool += [_Described.of(chain, None), _Described.of(chain, noise)]
    network = Potts(width, rank, dropout=0.1)
    everything = [d for pool in pools.values() for d in pool]
    for kind in ("site", "contact"):
        values = torch.cat([getattr(d, f"{kind}s")[::5] for d in everything]).double()
        getattr(network, f"{kind}_mean").copy_(values.mean(0))
        getattr(network, f"{kind}_scale").copy_(values.std(0) + 1e-3)
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=1e-2)
    clusters = sorted(pools)
    steps = epochs * math.ceil(len(clusters) / BATCH)
    step = 0
    network.train()
    for epoch in range(epochs):
        order = torch.randperm(len(clusters), generator=generator).tolist()
        total = count = 0.0
        for start in range(0, len(order), BATCH):
            some = []
            for k in order[start : start + BATCH]:
                pool = pools[clusters[k]]
                some.append(pool[int(torch.randint(len(pool), (), generator=generator))])
            d = _joined(some)
            hidden = 0.6 * torch.rand((), generator=generator)
            shown = (torch.rand(len(d.letters), generator=generator) > hidden).float()
            own, full = pseudo_logits(network, d, shown)
            loss = F.cross_entropy(full, d.letters) + 0.3 * F.cross_entropy(own, d.letters)
            warm = min(1.0, (step + 1) / 50)
            for group in optimizer.param_groups:
                group["lr"] = RATE * warm * (0.5 * (1 + math.cos(math.pi * step / steps)) + 0.01)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            step += 1
            total += float(F.cross_entropy(full.detach(), d.letters)) * len(d.letters)
            count += len(d.letters)
        print(f"epoch {epoch + 1}/{epochs}: perplexity {math.exp(total / count):.2f}", flush=True)
    return network.eval().requires_grad_(False)


# stage 2: regression on measured ΔΔG --------------------------------------------------------------


def columns(network: Potts, chain: Chain) -> Tensor:
    """Return (L, 20, 198): what the energy of each letter at each site is linear in.

    Columns: the network's log-odds and pair energies with the chain's own letters around, each
    plain and times burial; the letter; the letter times burial; environment times scales.
    """
    g = chain.describe()
    network = Potts.of(network.state_dict()).double()
    odds = network.letters(g.sites).log_softmax(-1)
    c = network.couplings(g.contacts, g.envelope)
    left, right = network.factors()
    i, j = g.pairs
    burial = g.burial[:, None]
    between = (burial[i] + burial[j]) / 2
    zero = odds.new_zeros(len(odds), len(left))

    def paired(c: Tensor) -> Tensor:
        first = zero.index_add(0, i, c * right.T[chain.letters[j]])
        second = zero.index_add(0, j, c * left.T[chain.letters[i]])
        return first @ left + second @ right

    prior = torch.stack([odds, odds * burial, paired(c), paired(c * between)], -1)
    one = torch.eye(LETTERS, dtype=torch.float64).expand(len(odds), -1, -1)
    products = g.environment[:, None, :, None] * SCALES[None, :, None, :]
    return torch.cat([prior, one, one * burial[..., None], products.flatten(2)], -1)


def differences(
    network: Potts, chains: Mapping[tuple[str, str], Chain], rows: Sequence[Row]
) -> Array:
    """Return (n, 198) columns of the mutant minus those of the wild type."""
    cache = {key: columns(network, chain) for key, chain in chains.items()}
    out = []
    for r in rows:
        site = cache[r.protein, r.chain][r.position]
        out.append(site[r.mutant] - site[r.wild])
    return np.asarray(torch.stack(out).numpy())


def fit(x: Array, rows: Sequence[Row]) -> Array:
    """Return the 198 weights of the regression, trained on rows with differences x (n, 198)."""
    y = np.clip([r.stability for r in rows], -CLIP, CLIP)
    n = Counter(r.protein for r in rows)
    w = np.array([n[r.protein] ** -0.25 for r in rows])
    scale = np.sqrt((x**2).mean(0))
    # a column that hardly varies in the rows must not get a large weight
    scale = np.maximum(scale, 0.05 * np.median(scale))
    z = x / scale
    ridge = np.where(np.arange(x.shape[1]) < 4, RIDGE_PRIOR, RIDGE) * w.sum()
    theta = np.linalg.solve(z.T @ (w[:, None] * z) + np.diag(ridge), z.T @ (w * y))
    return np.asarray(theta / scale)


def packed(network: Potts, theta: Array) -> Weights:
    """Return the tensors of a weights file."""
    t = torch.from_numpy(theta).float()
    parts = {
        "prior": t[:4],
        "letters": t[4:24],
        "letters_buried": t[24:44],
        "products": t[44:].reshape(-1, SCALES.shape[1]),
    }
    potts = {f"potts.{k}": v for k, v in network.state_dict().items()}
    return {k: v.clone().contiguous() for k, v in (potts | parts).items()}


def train(data: Path, out: Path, epochs: int = EPOCHS) -> None:
    """Train the reward, and write its file into `out`."""
    chains, rows = measured(data)
    minis = {r["name"]: r["sequence"] for r in mini_table(data) if r["mutant"] == "False"}
    groups = split(chains, rows, minis)
    known = [*(c.sequence for c in chains.values()), *minis.values()]
    everyone = natural_chains(data)
    natural = strangers(everyone, known)
    own = [r for r in rows if r.protein not in groups.kept_out]
    print(
        f"{len(natural)} of {len(everyone)} natural chains, {len({c.cluster for c in natural})} "
        f"clusters without a measured protein; {len(own)} of {len(rows)} rows, the others of mini "
        f"families ({', '.join(sorted(groups.kept_out))})",
        flush=True,
    )
    out.mkdir(parents=True, exist_ok=True)
    network = train_network(natural, seed=0, epochs=epochs)
    theta = fit(differences(network, chains, own), own)
    save_file(packed(network, theta), out / f"{NAME}.safetensors")


# evaluation ---------------------------------------------------------------------------------------


def correlations(rows: Sequence[Row], prediction: Array) -> tuple[float, int, float]:
    """Return the mean Spearman per protein with enough rows, their number, and the pooled one."""
    y = np.array([r.stability for r in rows])
    protein = np.array([r.protein for r in rows])
    names = [p for p, n in sorted(Counter(protein.tolist()).items()) if n >= ENOUGH]
    own = [float(spearmanr(prediction[protein == p], y[protein == p]).statistic) for p in names]
    return float(np.mean(own)), len(own), float(spearmanr(prediction, y).statistic)


def show(what: str, rows: Sequence[Row], prediction: Array) -> None:
    """Print the rank correlations of a prediction."""
    mean, n, pooled = correlations(rows, prediction)
    print(
        f"{what}: mean Spearman {mean:.3f} over {n} proteins, pooled {pooled:.3f}, "
        f"{len(rows)} rows",
        flush=True,
    )


def _shipped() -> tuple[Weights, Potts]:
    weights = ddg_pairs.read_weights(Path(ddg_pairs.__file__).with_name(f"{NAME}.safetensors"))
    potts = {k.removeprefix("potts."): v for k, v in weights.items() if k.startswith("potts.")}
    return weights, Potts.of(potts)


def _theta(weights: Weights) -> Array:
    parts = [weights[k].flatten() for k in ("prior", "letters", "letters_buried", "products")]
    return np.asarray(torch.cat(parts).double().numpy())


def evaluate(data: Path) -> None:
    """Print the figures of the card on ProTherm and on mini-proteins."""
    chains, rows = measured(data)
    minis = {r["name"]: r["sequence"] for r in mini_table(data) if r["mutant"] == "False"}
    groups = split(chains, rows, minis)
    free = [r for r in rows if r.protein not in groups.kept_out]
    family = [r for r in rows if r.protein in groups.kept_out]
    fold = np.array([groups.fold[r.protein] for r in free])
    weights, network = _shipped()
    x, out = differences(network, chains, free), np.zeros(len(free))
    for k in range(FOLDS):
        test = fold == k
        theta = fit(x[~test], [r for r, t in zip(free, test, strict=True) if not t])
        out[test] = x[test] @ theta
    show(f"{NAME}, {FOLDS}-fold by homology group", free, out)
    theta = _theta(weights)
    show(f"{NAME} as shipped, mini families", family, differences(network, chains, family) @ theta)
    evaluate_minis(data)


def evaluate_megascale(data: Path) -> None:
    """Print what the reward says of mega-scale rows, which nothing was trained on.

    With all proteins, and without those that an alignment finds alike to a protein of ProTherm.
    """
    known, measurements = measured(data)
    minis = {r["name"]: r["sequence"] for r in mini_table(data) if r["mutant"] == "False"}
    kept_out = split(known, measurements, minis).kept_out
    trained = {c.sequence for (protein, _), c in known.items() if protein not in kept_out}
    chains, rows = measured(data, "megascale")
    alike = {
        key[0]
        for key, c in chains.items()
        if any(e_value(c.sequence, s) < E_VALUE for s in trained)
    }
    weights, network = _shipped()
    prediction = differences(network, chains, rows) @ _theta(weights)
    apart = np.array([r.protein not in alike for r in rows])
    show(f"{NAME} as shipped, mega-scale", rows, prediction)
    show(
        f"{NAME} as shipped, mega-scale without {len(alike)} relatives of trained proteins",
        [r for r, a in zip(rows, apart, strict=True) if a],
        prediction[apart],
    )
    y = np.array([r.stability for r in rows])
    for line in tail(y, prediction):
        print(line, flush=True)


TAIL: Final = (0.0, 0.25, 0.5, 1.0, math.inf)
"""kcal/mol, borders of predicted gains."""


def tail(y: Array, prediction: Array) -> list[str]:
    """Return what was measured where gains were predicted, a line per range."""
    gains = prediction > 0
    lines = [
        f"measured: mean {y.mean():.2f} kcal/mol, {100 * (y > 0).mean():.0f} % stabilizing; rank "
        f"correlation among predicted gains {spearmanr(prediction[gains], y[gains]).statistic:.3f}"
    ]
    for low, high in itertools.pairwise(TAIL):
        some = y[(prediction > low) & (prediction <= high)]
        said = f"predicted {low:g} to {high:g}: {len(some)} rows"
        if len(some):
            said += (
                f", measured mean {some.mean():.2f}, {100 * (some > 0).mean():.0f} % stabilizing"
            )
        lines.append(said)
    return lines


def _mini_structures(data: Path) -> dict[str, Structure]:
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(data / "structures" / "minis_pdb.tar.xz") as tar:
            tar.extractall(folder, filter="data")
        return {p.stem: read_structure(p) for p in sorted(Path(folder).rglob("*.pdb"))}


def evaluate_minis(data: Path) -> None:
    """Print the correlations on the mini-proteins, which nothing was trained on."""
    table, structures = mini_table(data), _mini_structures(data)
    weights, _ = _shipped()
    single: list[tuple[float, float]] = []
    several: list[tuple[float, float]] = []
    left_out = set()
    for r in table:
        if r["mutant"] == "False":
            continue
        structure = structures.get(r["name_wt"])
        natural = structure.wild_type if structure else ""
        named = len(r["name"].removeprefix(r["name_wt"]).strip("_").split("_"))
        changes = sum(p != q for p, q in zip(r["sequence"], natural, strict=False))
        # a silent change may be named, but nothing else may differ
        if structure is None or len(natural) != len(r["sequence"]) or changes > named:
            left_out.add(r["name_wt"])
            continue
        reward = ddg_pairs.of_structure(NAME, weights, structure)
        score = float(reward(Designs.of([r["sequence"]], PROTEIN)))
        (single if changes == 1 else several).append((score, -float(r["ddg_exp"])))
    s, m = np.array(single), np.array(several)
    print(
        f"{NAME} as shipped, mini-proteins: pooled Spearman {spearmanr(*s.T).statistic:.3f} "
        f"over {len(s)} single mutants, {spearmanr(*m.T).statistic:.3f} over {len(m)} "
        f"multiple; no fitting backbone: {', '.join(sorted(left_out)) or 'none'}",
        flush=True,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line: `--out` trains, the others print the figures of the card."""
    parser = argparse.ArgumentParser(description="Train or evaluate ddg-pairs.")
    parser.add_argument("--data", type=Path, required=True, help="folder with structures/, ...")
    parser.add_argument("--out", type=Path, help="train, and write the weights here")
    parser.add_argument("--evaluate", action="store_true", help="print the figures of the card")
    parser.add_argument("--megascale", action="store_true", help="print those on mega-scale rows")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    given = parser.parse_args(arguments)
    if given.out is None and not (given.evaluate or given.megascale):
        parser.error("nothing to do: give --out FOLDER to train, or --evaluate or --megascale")
    torch.set_num_threads(1)
    if given.out is not None:
        train(given.data, given.out, given.epochs)
    if given.evaluate:
        evaluate(given.data)
    if given.megascale:
        evaluate_megascale(given.data)


if __name__ == "__main__":
    main()
