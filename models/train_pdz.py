"""Train and evaluate pdz-mini, the masked diffusion model of PDZ domains.

    python -m seqalign.models.train_pdz --data ../shared/data --split 60 --out runs/pdz-60
    python -m seqalign.models.train_pdz --data ../shared/data --split 60 --evaluate FILE

`--data` is a folder with `msas/pf00595_pdz.fasta.gz`, or an aligned FASTA file of 82 columns.

*Rows.* Distinct rows with less than 25 % gaps; a row with any other character than the twenty
letters and '-' is left out. *Gaps* are visible input and never predicted.

*Objective.* Any-order masked diffusion: of the n residues of a row a uniform number 1..n is
masked, and the loss is the mean cross-entropy of the masked ones. This is, per residue, the exact
expectation of -log p over uniformly random generation orders (Hoogeboom et al. 2022, eq. 4), and
the continuous-time bound of masked diffusion (Sahoo et al. 2024, eq. 10).

*Weights.* A row counts 1 / (rows of its cluster at 80 % identity), in training and in profiles.

*Held out.* Whole clusters at 60 or 80 % identity, by `seqalign.models.splits`: about 10 % test
and 5 % validation. The comparison is the site-independent profile of the same training rows and
weights, its pseudocount chosen on the validation rows for its own benefit.

*Reproducibility.* Every step draws from a generator seeded by (seed, step), so that a run that was
stopped and continued with `--resume` ends with the same weights as an undisturbed one.

One file: the rows, the objective, and the profile that the figures are read against are one recipe.

References:
    Simple and effective masked diffusion language models, Sahoo et al., 2024,
    https://arxiv.org/abs/2406.07524
    Autoregressive diffusion models, Hoogeboom et al., 2022, https://arxiv.org/abs/2110.02037
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import gzip
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Unpack

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor

from seqalign.core.sequence import PROTEIN
from seqalign.models import training
from seqalign.models.pdz import (
    BACKGROUND,
    COLUMN_OF,
    COLUMNS,
    NO_COLUMN,
    WILD_TYPE,
    OnConstruct,
    PDZNetwork,
    load_weights,
)
from seqalign.models.splits import (
    GAP,
    cluster_parts,
    nearest_identity,
    redundancy_weights,
    sequence_clusters,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ALIGNMENT: Final = "msas/pf00595_pdz.fasta.gz"
MAX_GAPS: Final = 0.25
REDUNDANCY: Final = 0.8
MASK: Final = PROTEIN.mask
PSEUDOCOUNTS: Final = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
EVALUATION_SEED: Final = 2024
# hyper-parameters that the command line sets, with --split
OPTIONS: Final = ("seed", "steps", "batch", "dropout", "learning_rate", "weight_decay")


@dataclass(frozen=True, kw_only=True)
class Settings(training.Settings):
    """Hyper-parameters of one training run; stored in its metrics and checked by `--resume`."""

    split: int = 60
    steps: int = 9000
    batch: int = 32
    width: int = 96
    depth: int = 3
    heads: int = 4
    hidden: int = 384
    dropout: float = 0.05
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    corruption: float = 0.0
    gap_masking: float = 0.1
    smoothing: float = 0.0


@dataclass(frozen=True)
class Rows:
    """Aligned rows: tokens (N, 82), weights (N,), and the cluster (N,) each belongs to."""

    tokens: Tensor
    weights: Tensor
    clusters: Tensor

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.tokens)


def read_alignment(path: Path) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the distinct, gap-poor, standard rows of an aligned FASTA file, sorted, (N, 82).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a row has another length than 82, or no row is left.
    """
    if path.is_dir():
        path = path / ALIGNMENT
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; give --data a folder with {ALIGNMENT}.")
    opened = gzip.open(path, "rt") if path.suffix == ".gz" else path.open()
    with opened as lines:
        rows = ["".join(entry.split("\n")[1:]) for entry in lines.read().split(">")[1:]]
    for number, row in enumerate(rows, start=1):
        if len(row) != COLUMNS:
            raise ValueError(
                f"{path}: sequence {number} has {len(row)} columns and this family has {COLUMNS}; "
                "give the alignment with insertions deleted."
            )
    standard = set(PROTEIN.letters) | {"-"}
    kept = sorted(
        {row for row in rows if set(row) <= standard and row.count("-") < MAX_GAPS * COLUMNS}
    )
    if not kept:
        raise ValueError(
            f"{path}: none of its {len(rows)} sequences has less than {MAX_GAPS:.0%} gaps and only "
            "standard letters."
        )
    token = {letter: i for i, letter in enumerate(PROTEIN.letters)} | {"-": GAP}
    return np.array([[token[letter] for letter in row] for row in kept], dtype=np.int64)


def split_rows(tokens: np.ndarray[Any, np.dtype[np.int64]], split: int) -> dict[str, Rows]:
    """Return the rows of 'train', 'validation' and 'test' with whole clusters at `split` %."""
    clusters = sequence_clusters(tokens, split / 100)
    parts = cluster_parts(tokens, clusters, salt=f"pdz-{split}")
    weights = redundancy_weights(sequence_clusters(tokens, REDUNDANCY))
    return {
        name: Rows(
            torch.from_numpy(tokens[parts == name]),
            torch.from_numpy(weights[parts == name]),
            torch.from_numpy(clusters[parts == name]),
        )
        for name in ("train", "validation", "test")
    }


def fit_profile(rows: Rows, pseudocount: float) -> Tensor:
    """Return the log-frequencies (82, 20) of letters per column, given that there is one.

    `pseudocount` sequences of background composition are added to each column.
    """
    counts = torch.zeros(COLUMNS, GAP + 1, dtype=torch.float64)
    for letter in range(len(PROTEIN)):
        counts[:, letter] = ((rows.tokens == letter) * rows.weights[:, None]).sum(0)
    counts = counts[:, : len(PROTEIN)]
    background = counts.sum(0) / counts.sum()
    smoothed = counts + pseudocount * background
    return (smoothed / smoothed.sum(1, keepdim=True)).log()


def profile_nll(profile: Tensor, rows: Rows) -> Tensor:
    """Return the negative log-likelihood in nats of each row's residues, shape (N,)."""
    known = rows.tokens != GAP
    letters = rows.tokens.where(known, 0)
    log_p = profile[torch.arange(COLUMNS), letters]
    return -(log_p * known).sum(1)


def best_profile(parts: dict[str, Rows]) -> tuple[Tensor, float]:
    """Return the training profile (82, 20) whose pseudocount is best on the validation rows."""
    validation = parts["validation"]
    profiles = [(fit_profile(parts["train"], p), p) for p in PSEUDOCOUNTS]
    return min(
        profiles,
        key=lambda fit: float((profile_nll(fit[0], validation) * validation.weights).sum()),
    )


def mask_rows(tokens: Tensor, levels: Tensor, ranks: Tensor) -> Tensor:
    """Return which residues (N, 82) are masked: the first 1 + floor(level * n) by random rank.

    Args:
        tokens: (N, 82) aligned rows.
        levels: (N,) in [0, 1).
        ranks: (N, 82) uniform numbers, one per column.
    """
    residue = tokens != GAP
    count = 1 + (levels * residue.sum(1)).long()
    order = ranks.masked_fill(~residue, 2.0).argsort(1).argsort(1)
    return order < count[:, None]


@torch.inference_mode()
def any_order_nll(
    network: Callable[[Tensor], Tensor],
    rows: Rows,
    *,
    orders: int,
    seed: int,
    control: Tensor | None = None,
    batch: int = 256,
) -> Tensor:
    """Return an unbiased estimate of each row's any-order -log p in nats, shape (N,).

    For a uniformly random order, -log p of a row with n residues is the sum over k = 1..n of the
    -log p of the next residue when k are masked; its expectation is n times the mean
    cross-entropy of the masked residues at uniform k. `orders` random orders are drawn per row,
    each looked at in one state, with the k of a row stratified over 1..n. With a profile as
    `control` (82, 20), the sample estimates the difference from the profile, whose own
    likelihood is the same in every order and known: much less noise, no bias.
    """
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(len(rows), dtype=torch.float64)
    for j in range(orders):
        levels = (j + torch.rand(len(rows), generator=generator)) / orders
        ranks = torch.rand(rows.tokens.shape, generator=generator)
        hidden = mask_rows(rows.tokens, levels, ranks)
        for start in range(0, len(rows), batch):
            part = slice(start, start + batch)
            tokens, masked = rows.tokens[part], hidden[part]
            logits = network(tokens.masked_fill(masked, MASK))
            target = tokens.masked_fill(~masked, -100)
            loss = F.cross_entropy(logits.transpose(1, 2).double(), target, reduction="none")
            if control is not None:
                known = control.expand(len(tokens), -1, -1).transpose(1, 2)
                loss = loss - F.cross_entropy(known, target, reduction="none")
            total[part] += loss.sum(1) / masked.sum(1)
    nll = total / orders * (rows.tokens != GAP).sum(1)
    return nll if control is None else nll + profile_nll(control, rows)


def perplexity(nll: Tensor, rows: Rows, *, weighted: bool = True) -> float:
    """Return exp of the mean -log p per residue, rows counted by their weight or all alike."""
    weights = rows.weights if weighted else torch.ones_like(rows.weights)
    residues = (rows.tokens != GAP).sum(1)
    return math.exp(float((weights * nll).sum() / (weights * residues).sum()))


def new_network(settings: Settings) -> PDZNetwork:
    """Return an untrained network of the size that `settings` names."""
    return PDZNetwork(
        settings.width, settings.depth, settings.heads, settings.hidden, settings.dropout
    )


def training_batch(rows: Rows, settings: Settings) -> tuple[Tensor, Tensor]:
    """Return one batch's inputs and targets, (batch, 82) each; -100 is a target not asked for."""
    n = settings.batch
    tokens = rows.tokens[torch.multinomial(rows.weights, n, replacement=True)]
    # One number of masked residues per stratum: the loss depends on it far more than on the row.
    levels = (torch.randperm(n) + torch.rand(n)) / n
    masked = mask_rows(tokens, levels, torch.rand(tokens.shape))
    target = tokens.masked_fill(~masked, -100)
    inputs = tokens.masked_fill(masked, MASK)
    if settings.gap_masking > 0:
        # In some rows the gaps look like masked residues: their pattern says less than it could.
        blurred = (torch.rand(n, 1) < settings.gap_masking) & (tokens == GAP)
        inputs = inputs.masked_fill(blurred, MASK)
    if settings.corruption > 0:
        letter = torch.randint(len(PROTEIN), tokens.shape)
        wrong = (torch.rand(tokens.shape) < settings.corruption) & (inputs < MASK)
        inputs = torch.where(wrong, letter, inputs)
    return inputs, target


def train(
    parts: dict[str, Rows],
    settings: Settings,
    out: Path,
    **watch: Unpack[training.Watch],
) -> PDZNetwork:
    """Train one network and return it with its averaged weights, which are also written to `out`.

    Args:
        parts: from `split_rows`.
        settings: hyper-parameters.
        out: folder for `checkpoint.pt` and `pdz-mini.safetensors`.
        watch: how the run is cut, saved and watched.

    Raises:
        ValueError: the checkpoint was written under other settings.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.step_seed(settings.seed, 2**31))
        network = new_network(settings)
        profile, _ = best_profile(parts)
        with torch.no_grad():
            network.profile.copy_(profile)
        parameters = training.groups(network.named_parameters(), undecayed=["profile"])
        run = training.Run(network, parameters, out, settings)

        def loss() -> Tensor:
            inputs, target = training_batch(parts["train"], settings)
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.bfloat16):
                logits = network(inputs)
            each = F.cross_entropy(
                logits.float().transpose(1, 2),
                target,
                reduction="none",
                label_smoothing=settings.smoothing,
            )
            return (each.sum(1) / (target >= 0).sum(1)).mean()

        def averaged() -> PDZNetwork:
            shown = new_network(settings)
            shown.load_state_dict(run.average)
            return shown.eval()

        def look(done: int) -> str:
            nll = any_order_nll(averaged(), parts["validation"], orders=8, seed=EVALUATION_SEED)
            return f"validation perplexity {perplexity(nll, parts['validation']):.4f}"

        whole = run.loop(
            loss,
            lambda step: settings.warm_cosine(step, math.pi * step / settings.steps),
            look,
            seed=settings.seed,
            steps=settings.steps,
            **watch,
        )
        if not whole:
            return averaged()
        training.write_weights(run.average, out / "pdz-mini.safetensors")
        return load_weights((out / "pdz-mini.safetensors").read_bytes())


def held_out(
    network: PDZNetwork,
    parts: dict[str, Rows],
    split: int,
    *,
    orders: int,
    seed: int = EVALUATION_SEED,
    part: str = "test",
) -> dict[str, Any]:
    """Return the any-order perplexity of a network beside the profile's on held-out rows.

    The interval of the reduction is the 2.5 to 97.5 % range of 2,000 bootstrap samples of whole
    clusters. `far` repeats the figures for the rows without any training row at `split` % identity
    or more: greedy clusters may have close neighbors across their border.
    """
    rows = parts[part]
    profile, pseudocount = best_profile(parts)
    nll = any_order_nll(network, rows, orders=orders, seed=seed, control=profile)
    base = profile_nll(profile, rows)
    identity = torch.from_numpy(
        nearest_identity(rows.tokens.numpy(), parts["train"].tokens.numpy())
    )
    far = identity < split / 100
    result: dict[str, Any] = {
        "split": split,
        "part": part,
        "orders": orders,
        "order_seed": seed,
        "pseudocount": pseudocount,
        "train_rows": len(parts["train"]),
        "nearest_training_identity_quartiles": [
            round(float(q), 3)
            for q in identity.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
        ],
        "all": compare(nll, base, rows),
        "far": compare(nll[far], base[far], chosen(rows, far)),
    }
    return result


def chosen(rows: Rows, which: Tensor) -> Rows:
    """Return the rows where `which` (N,) is true."""
    return Rows(rows.tokens[which], rows.weights[which], rows.clusters[which])


def compare(nll: Tensor, base: Tensor, rows: Rows) -> dict[str, Any]:
    """Return the perplexities of two models, (N,) nats each, and how much lower the first is."""
    if not len(rows):
        return {"rows": 0}
    _, cluster = torch.unique(rows.clusters, return_inverse=True)
    n = int(cluster.max()) + 1
    residues = (rows.tokens != GAP).sum(1).double()
    sums = torch.zeros(n, 3, dtype=torch.float64)
    sums.index_add_(0, cluster, rows.weights[:, None] * torch.stack((nll, base, residues), 1))
    draws = np.random.default_rng(EVALUATION_SEED).multinomial(n, np.full(n, 1 / n), size=2000)
    drawn = torch.from_numpy(draws).double() @ sums
    reduction = 1 - ((drawn[:, 0] - drawn[:, 1]) / drawn[:, 2]).exp()
    low, high = reduction.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    model, profile = perplexity(nll, rows), perplexity(base, rows)
    return {
        "rows": len(rows),
        "clusters": n,
        "perplexity": round(model, 4),
        "profile": round(profile, 4),
        "reduction_percent": round(100 * (1 - model / profile), 2),
        "interval_percent": [round(100 * low, 2), round(100 * high, 2)],
        "perplexity_unweighted": round(perplexity(nll, rows, weighted=False), 4),
        "profile_unweighted": round(perplexity(base, rows, weighted=False), 4),
    }


def describe(result: dict[str, Any]) -> str:
    """Return the figures of `held_out` as lines for a person."""
    lines = []
    for name, about in (
        ("all", f"held-out clusters at {result['split']} %"),
        ("far", f"of these, no training row at {result['split']} % identity or more"),
    ):
        figures = result[name]
        if not figures["rows"]:
            continue
        low, high = figures["interval_percent"]
        lines += [
            f"{result['part']}, {about}: {figures['rows']} rows, {figures['clusters']} clusters",
            f"  perplexity {figures['perplexity']:.3f}, profile {figures['profile']:.3f}, "
            f"{figures['reduction_percent']:.1f} % lower (95 % interval {low:.1f} to {high:.1f})",
            f"  rows unweighted: {figures['perplexity_unweighted']:.3f}, "
            f"profile {figures['profile_unweighted']:.3f}",
        ]
    return "\n".join(lines)


def mutation_scores(network: PDZNetwork, profile: Tensor) -> tuple[Tensor, Tensor]:
    """Return log p(a) - log p(wild type) of each letter a, (84, 20): the network's, the profile's.

    The network sees the whole wild type but the position in question.
    """
    wild = PROTEIN.encode([WILD_TYPE])[0]
    rows = wild.repeat(len(wild), 1)
    rows.fill_diagonal_(MASK)
    with torch.inference_mode():
        logits = OnConstruct(network)(rows)
    at = torch.arange(len(wild))
    seen = logits[at, at].log_softmax(-1).double()
    blank = torch.tensor(BACKGROUND, dtype=torch.float64).log()[None]
    alone = torch.cat((profile, blank))[list(COLUMN_OF)]
    return seen - seen[at, wild][:, None], alone - alone[at, wild][:, None]


def landscapes(network: PDZNetwork, profile: Tensor, folder: Path) -> dict[str, dict[str, float]]:
    """Return Spearman's rho between measured single mutants and both models' scores, per assay.

    Only positions with a column count. Nothing of the measurements was used in training.
    """
    found: dict[str, dict[str, float]] = {}
    seen, alone = mutation_scores(network, profile)
    for assay in ("abundance", "binding"):
        path = folder / "landscapes" / f"dlg4-2022-{assay}.tsv.gz"
        if not path.exists():
            continue
        with gzip.open(path, "rt") as lines:
            table = list(csv.DictReader(lines, delimiter="\t"))
        singles = [
            (int(row["variant"][1:-1]), row["variant"][-1], float(row["score"]))
            for row in table
            if "," not in row["variant"] and row["variant"][-1] in PROTEIN.letters
        ]
        singles = [single for single in singles if single[0] not in NO_COLUMN]
        position = torch.tensor([p for p, _, _ in singles])
        letter = torch.tensor([PROTEIN.letters.index(a) for _, a, _ in singles])
        measured = [score for _, _, score in singles]
        found[assay] = {
            "variants": len(singles),
            "spearman": round(float(spearmanr(seen[position, letter], measured)[0]), 3),
            "spearman_profile": round(float(spearmanr(alone[position, letter], measured)[0]), 3),
        }
    return found


def script(args: argparse.Namespace) -> None:
    """Train, or judge weights; print the figures."""
    tokens = read_alignment(args.data)
    parts = split_rows(tokens, args.split)
    print(
        f"{len(tokens)} rows: "
        + ", ".join(f"{len(rows)} {name}" for name, rows in parts.items())
        + f"; {sum(len(torch.unique(rows.clusters)) for rows in parts.values())} clusters at "
        f"{args.split} %, {sum(float(rows.weights.sum()) for rows in parts.values()):.0f} at "
        f"{100 * REDUNDANCY:.0f} %",
        flush=True,
    )
    metrics: dict[str, Any] = {}
    if args.out is not None:
        given = {name: getattr(args, name) for name in ("split", *OPTIONS)}
        settings = Settings(**given)
        with training.progress(settings.steps) as (advance, log):
            network = train(parts, settings, args.out, resume=args.resume, log=log, advance=advance)
        metrics["settings"] = dataclasses.asdict(settings)
    else:
        network = load_weights(training.weights_file(args.evaluate))
    metrics["parameters"] = sum(p.numel() for p in network.parameters())
    metrics["held_out"] = held_out(
        network, parts, args.split, orders=args.orders, seed=args.order_seed, part=args.part
    )
    profile, _ = best_profile(parts)
    metrics["landscapes"] = landscapes(network, profile, args.data)
    print(describe(metrics["held_out"]))
    for assay, figures in metrics["landscapes"].items():
        print(
            f"PSD-95 PDZ3 {assay}, {figures['variants']} single mutants: Spearman "
            f"{figures['spearman']:.2f}, profile {figures['spearman_profile']:.2f}"
        )
    text = json.dumps(metrics, indent=1) + "\n"
    if args.out is not None:
        training.write_atomically(args.out / "metrics.json", lambda path: path.write_text(text))
    else:
        print(text, end="")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    p = training.parser(
        "seqalign.models.train_pdz",
        "Train pdz-mini, or print the held-out figures of a weights file.",
        data=f"folder with {ALIGNMENT}, or a FASTA",
        settings=Settings,
        fields=OPTIONS,
    )
    p.add_argument("--split", type=int, choices=(60, 80), default=60, help="cluster identity, %%")
    p.add_argument(
        "--part", choices=("validation", "test"), default="test", help="rows to judge on"
    )
    p.add_argument("--orders", type=int, default=16, help="random orders per row, in evaluation")
    p.add_argument("--order-seed", type=int, default=EVALUATION_SEED, help="seed of these orders")
    return training.command_line(p, arguments, script)


if __name__ == "__main__":
    raise SystemExit(main())
