"""Train and evaluate `ddg-mini` and its hold-out twin.

    python -m seqalign.rewards.train_ddg_pairs --data DATA --out rewards/   # train and write
    python -m seqalign.rewards.train_ddg_pairs --data DATA --evaluate       # every figure

Two stages, both deterministic on one thread:

1. A network of log-odds, from natural backbones only. Every chain that an alignment finds alike to
   a measured protein or a mini-protein is left out, with its whole cluster. Each epoch draws one
   description per cluster (a chain as it is, or with 0.1 Å of noise) and maximizes the
   pseudo-likelihood of its letters, a random share of the neighbors' letters hidden, plus 0.3 times
   the likelihood of the site terms alone.
2. A ridge regression of −ΔΔG on differences of the site's columns, mutant minus wild type, with no
   intercept: it is antisymmetric. ΔΔG is clipped to ±6 kcal/mol (one row says 17.4); a row of a
   protein with n rows weighs n^(−1/4), because one protein is a quarter of the rows.

`ddg-mini` learns half A of proteins and chains, its twin half B: none is shared (`ddg_data`).
"""

from __future__ import annotations

import argparse
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
    FOLDS,
    Chain,
    Row,
    chain_half,
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
NAMES: Final = {"A": "ddg-mini", "B": "ddg-mini-b"}


# data ---------------------------------------------------------------------------------------------


# homology -----------------------------------------------------------------------------------------


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


def perplexity(network: Potts, chains: Sequence[Chain]) -> tuple[float, float]:
    """Return perplexities per residue: of the sites alone, and with all neighbors' letters."""
    sums = np.zeros(3)
    with torch.no_grad():
        for chain in chains:
            d = _Described.of(chain, None)
            own, full = pseudo_logits(network, d, torch.ones(len(d.letters)))
            for k, logits in enumerate((own, full)):
                sums[k] += float(F.cross_entropy(logits, d.letters, reduction="sum"))
            sums[2] += len(d.letters)
    return float(np.exp(sums[0] / sums[2])), float(np.exp(sums[1] / sums[2]))


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
    """Train the reward and its twin, and write both files into `out`."""
    chains, rows = measured(data)
    minis = {r["name"]: r["sequence"] for r in mini_table(data) if r["mutant"] == "False"}
    groups = split(chains, rows, minis)
    known = [*(c.sequence for c in chains.values()), *minis.values()]
    everyone = natural_chains(data)
    natural = strangers(everyone, known)
    print(
        f"{len(everyone)} natural chains, {len(natural)} of {len({c.cluster for c in natural})} "
        f"clusters without a measured protein; {len(rows)} rows, "
        f"{sum(r.protein in groups.kept_out for r in rows)} of them of mini families "
        f"({', '.join(sorted(groups.kept_out))})",
        flush=True,
    )
    out.mkdir(parents=True, exist_ok=True)
    for half, name in NAMES.items():
        other = [c for c in natural if chain_half(c.cluster) != half]
        mine = [c for c in natural if chain_half(c.cluster) == half]
        own = [r for r in rows if groups.half.get(r.protein) == half]
        print(f"{name}: {len(mine)} chains, {len(own)} rows", flush=True)
        network = train_network(mine, seed="AB".index(half), epochs=epochs)
        site, full = perplexity(network, other)
        print(f"{name}: perplexity on the other half: sites {site:.2f}, with pairs {full:.2f}")
        theta = fit(differences(network, chains, own), own)
        save_file(packed(network, theta), out / f"{name}.safetensors")


# evaluation ---------------------------------------------------------------------------------------


def correlations(rows: Sequence[Row], prediction: Array) -> tuple[float, int, float]:
    """Return the mean Spearman per protein with enough rows, their number, and the pooled one."""
    y = np.array([r.stability for r in rows])
    protein = np.array([r.protein for r in rows])
    names = [p for p, n in sorted(Counter(protein.tolist()).items()) if n >= ENOUGH]
    own = [float(spearmanr(prediction[protein == p], y[protein == p]).statistic) for p in names]
    return float(np.mean(own)), len(own), float(spearmanr(prediction, y).statistic)


def _show(what: str, rows: Sequence[Row], prediction: Array) -> None:
    mean, n, pooled = correlations(rows, prediction)
    print(
        f"{what}: mean Spearman {mean:.3f} over {n} proteins, pooled {pooled:.3f}, "
        f"{len(rows)} rows",
        flush=True,
    )


def _shipped(half: str) -> tuple[Weights, Potts]:
    weights = ddg_pairs.read_weights(
        Path(ddg_pairs.__file__).with_name(f"{NAMES[half]}.safetensors")
    )
    potts = {k.removeprefix("potts."): v for k, v in weights.items() if k.startswith("potts.")}
    return weights, Potts.of(potts)


def _theta(weights: Weights) -> Array:
    parts = [weights[k].flatten() for k in ("prior", "letters", "letters_buried", "products")]
    return np.asarray(torch.cat(parts).double().numpy())


def evaluate(data: Path) -> None:
    """Print every figure of the two cards."""
    chains, rows = measured(data)
    minis = {r["name"]: r["sequence"] for r in mini_table(data) if r["mutant"] == "False"}
    groups = split(chains, rows, minis)
    free = [r for r in rows if r.protein not in groups.kept_out]
    family = [r for r in rows if r.protein in groups.kept_out]
    fold = np.array([groups.fold[r.protein] for r in free])
    half = np.array([groups.half[r.protein] for r in free])
    x = {h: differences(_shipped(h)[1], chains, free) for h in "AB"}
    out = {key: np.zeros(len(free)) for key in ("A", "B", "A half", "B half")}
    for k in range(FOLDS):
        test = fold == k
        for h in "AB":
            for key, used in ((h, ~test), (f"{h} half", ~test & (half == h))):
                theta = fit(x[h][used], [r for r, u in zip(free, used, strict=True) if u])
                out[key][test] = x[h][test] @ theta
    for h, name in NAMES.items():
        _show(f"{name}, {FOLDS}-fold by homology group, recipe on all groups", free, out[h])
        _show(
            f"{name}, {FOLDS}-fold, recipe on half {h} of the other folds", free, out[f"{h} half"]
        )
    y = np.clip([r.stability for r in free], -CLIP, CLIP)
    a, b = out["A half"], out["B half"]
    print(
        f"twins on rows neither saw: correlation of predictions {np.corrcoef(a, b)[0, 1]:.3f}, "
        f"of errors {np.corrcoef(y - a, y - b)[0, 1]:.3f}"
    )
    for h, name in NAMES.items():
        weights, network = _shipped(h)
        other = half != h
        theta = _theta(weights)
        _show(
            f"{name} as shipped, proteins of the other half",
            [r for r, o in zip(free, other, strict=True) if o],
            x[h][other] @ theta,
        )
        _show(
            f"{name} as shipped, mini families",
            family,
            differences(network, chains, family) @ theta,
        )
    evaluate_minis(data)
    evaluate_designs(data)


def _mini_structures(data: Path) -> dict[str, Structure]:
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(data / "structures" / "minis_pdb.tar.xz") as tar:
            tar.extractall(folder, filter="data")
        return {p.stem: read_structure(p) for p in sorted(Path(folder).rglob("*.pdb"))}


def evaluate_minis(data: Path) -> None:
    """Print the correlations on the mini-proteins, which nothing was trained on."""
    table, structures = mini_table(data), _mini_structures(data)
    for h, name in NAMES.items():
        weights, _ = _shipped(h)
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
            reward = ddg_pairs.of_structure(name, weights, structure)
            score = float(reward(Designs.of([r["sequence"]], PROTEIN)))
            (single if changes == 1 else several).append((score, -float(r["ddg_exp"])))
        s, m = np.array(single), np.array(several)
        print(
            f"{name} as shipped, mini-proteins: pooled Spearman {spearmanr(*s.T).statistic:.3f} "
            f"over {len(s)} single mutants, {spearmanr(*m.T).statistic:.3f} over {len(m)} "
            f"multiple; no fitting backbone: {', '.join(sorted(left_out)) or 'none'}",
            flush=True,
        )


def evaluate_designs(data: Path, mutations: int = 8, designs: int = 2000, seed: int = 0) -> None:
    """Print what the twin says of random designs, and of those that the guide ranks highest."""
    structures = _mini_structures(data)
    rng = np.random.default_rng(seed)
    rows = []
    for name in rng.choice(sorted(structures), 20, replace=False).tolist():
        wild = structures[name].wild_type
        x = PROTEIN.encode([wild])[0].repeat(designs, 1)
        for row in x:
            places = torch.from_numpy(rng.choice(len(wild), mutations, replace=False))
            row[places] = (row[places] + torch.from_numpy(rng.integers(1, 20, mutations))) % 20
        guide, twin = (
            ddg_pairs.of_structure(NAMES[h], _shipped(h)[0], structures[name])(
                Designs(x[None], PROTEIN)
            )[0].numpy()
            for h in "AB"
        )
        top = np.argsort(-guide)[:10]
        agreement = float(spearmanr(guide, twin).statistic)
        rows.append((agreement, guide.mean(), guide[top].mean(), twin.mean(), twin[top].mean()))
    mean = np.mean(rows, axis=0)
    print(
        f"20 mini-proteins, {designs} designs each with {mutations} random mutations: Spearman of "
        f"guide and twin {mean[0]:.3f} (least {min(r[0] for r in rows):.3f}); guide {mean[1]:.2f}, "
        f"its top 10 {mean[2]:.2f}; twin {mean[3]:.2f}, of the guide's top 10 {mean[4]:.2f} "
        f"kcal/mol; the twin gains on {sum(r[4] > r[3] for r in rows)} of 20",
        flush=True,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line: `--out` trains, `--evaluate` prints the figures of the cards."""
    parser = argparse.ArgumentParser(description="Train or evaluate the ddG rewards.")
    parser.add_argument("--data", type=Path, required=True, help="folder with structures/, ...")
    parser.add_argument("--out", type=Path, help="train, and write the weights here")
    parser.add_argument("--evaluate", action="store_true", help="print the figures of the cards")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    given = parser.parse_args(arguments)
    if given.out is None and not given.evaluate:
        parser.error("nothing to do: give --out FOLDER to train or --evaluate to print the figures")
    torch.set_num_threads(1)
    if given.out is not None:
        train(given.data, given.out, given.epochs)
    if given.evaluate:
        evaluate(given.data)


if __name__ == "__main__":
    main()
