"""Train and evaluate mpnn-mini, the embedded inverse-folding model.

    python -m seqalign.models.teacher --data ../shared/data --out runs/teacher.safetensors
    python -m seqalign.models.train_mpnn --data ../shared/data --out runs/mpnn --teacher FILE
    python -m seqalign.models.train_mpnn --data ../shared/data --evaluate mpnn-mini.safetensors

`--data` is a folder with `structures/`: chains_train.jsonl.gz, chains_extra.jsonl.gz and, for the
benchmark backbones that are never trained on, minis_pdb.tar.xz.

*Chains.* Data and split are those of `mpnn_data`. One chain per cluster and pass, drawn from the
cluster; of a longer chain than `crop` a random window is taken. Gaussian noise is added to all
coordinates, anew in every pass.

*Objective.* Any-order masked diffusion: of n residues a uniform number m in 1..n is masked
(stratified over the chains of a batch), and the loss is the cross-entropy of the masked ones, each
weighted by n / m. That is the exact expectation of -log p over uniformly random orders (Hoogeboom
et al. 2022, eq. 4); in training, not in evaluation, the weight is bounded by 8.

*Teacher.* With `--teacher` a state is one of the chain's lessons (`teacher`), three fourths of them
with its own letters; the loss is then `share` times the cross-entropy of the teacher's posteriors
and the rest that of the chain's letters, and the former alone where the letters are not its own.

*Reproducibility.* The data and the masks of a pass are drawn from (seed, pass), so that a run that
was stopped and started again with the same options ends with the same weights, given the number of
threads. With two or more threads each is a process of its own with its share of every batch.

References:
    Robust deep learning-based protein sequence design using ProteinMPNN, Dauparas et al., Science
    2022, https://doi.org/10.1126/science.add2187
    Autoregressive diffusion models, Hoogeboom et al., ICLR 2022, https://arxiv.org/abs/2110.02037
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
import torch.nn.functional as F
from Bio import Align
from safetensors.torch import load
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from seqalign.models import training
from seqalign.models.backbone import Backbone
from seqalign.models.mpnn import MPNN, join, of
from seqalign.models.mpnn_data import (
    MINIS,
    Chain,
    Parts,
    background,
    read_minis,
    read_parts,
)
from seqalign.models.mpnn_weights import LETTERS, MASKED, NEIGHBORS
from seqalign.models.teacher import DRAWN, OWN, taught

# identity to every training chain below which a held-out chain is also reported apart
APART: Final = 0.3
MOST_WEIGHT: Final = 8.0
# lessons with the chain's own letters, of all that a student is given
OWN_SHARE: Final = 0.75
EVALUATION_SEED: Final = 2024


@dataclass(frozen=True, kw_only=True)
class Settings(training.Settings):
    """Hyper-parameters of one training run; stored in its checkpoint and checked on resuming."""

    passes: int = 75
    threads: int = 1
    residues: int = 2048
    crop: int = 400
    width: int = 96
    depth: int = 3
    neighbors: int = NEIGHBORS
    noise: float = 0.1
    ema: float = 0.998
    share: float = 0.75


# training -----------------------------------------------------------------------------------------


def batches(
    groups: list[list[Chain]], settings: Settings, draw: random.Random
) -> Iterator[list[Chain]]:
    """Yield batches of one pass: one chain per cluster, windows that add up to a fixed size."""
    batch: list[Chain] = []
    room = settings.residues
    for group in draw.sample(groups, len(groups)):
        chain = draw.choice(group)
        length = min(len(chain), settings.crop, room)
        batch.append(chain.window(draw.randrange(len(chain) - length + 1), length))
        room -= length
        if room < 30:
            yield batch
            batch, room = [], settings.residues
    # what does not fill a batch comes again in the next pass


def masked_counts(lengths: Sequence[int]) -> list[int]:
    """Return how many residues to mask in each chain: uniform in 1..n, stratified over chains."""
    levels = (torch.randperm(len(lengths)) + torch.rand(len(lengths))) / len(lengths)
    return [1 + int(u * n) for u, n in zip(levels.tolist(), lengths, strict=True)]


@dataclass(frozen=True)
class State:
    """What a network is asked about one chain.

    Attributes:
        tokens: (n,) the letters shown.
        hidden: (n,) bool, which are masked.
        soft: (n, 20) what it should say of the masked ones.
    """

    tokens: Tensor
    hidden: Tensor
    soft: Tensor

    @property
    def weights(self) -> Tensor:
        """(n,), n over the number of masked ones, bounded."""
        n, m = len(self.tokens), int(self.hidden.sum())
        # a chain with few masked residues would speak through them alone, and loudly
        return torch.full((n,), min(n / max(m, 1), MOST_WEIGHT))


def masked(batch: Sequence[Chain]) -> list[State]:
    """Return a state of each chain with its own letters, which are what is to be said."""
    states = []
    lengths = [len(c) for c in batch]
    for chain, m in zip(batch, masked_counts(lengths), strict=True):
        hidden = torch.zeros(len(chain), dtype=torch.bool)
        hidden[torch.randperm(len(chain))[:m]] = True
        states.append(State(chain.tokens, hidden, F.one_hot(chain.tokens, 20).float()))
    return states


def taught_states(batch: Sequence[Chain], share: float) -> list[State]:
    """Return one of the lessons of each chain; the levels of masking are stratified."""
    states = []
    levels = (torch.randperm(len(batch)) + torch.rand(len(batch))) / len(batch)
    for chain, level, own in zip(
        batch, levels.tolist(), (torch.rand(len(batch)) < OWN_SHARE).tolist(), strict=True
    ):
        given = chain.lessons
        if given is None:
            raise ValueError(f"Chain {chain.name} has no lessons; give them to all chains.")
        row = int(level * OWN) if own else OWN + int(level * DRAWN)
        soft = given.log_probs[row].float().exp()
        if own:
            soft = share * soft + (1 - share) * F.one_hot(chain.tokens, 20)
        states.append(State(given.tokens[row].long(), given.hidden[row], soft))
    return states


def training_loss(network: MPNN, batch: Sequence[Chain], settings: Settings) -> Tensor:
    """Return the any-order cross-entropy per residue in nats, its weights bounded."""
    learned = any(c.lessons for c in batch)
    states = taught_states(batch, settings.share) if learned else masked(batch)
    hidden = torch.cat([s.hidden for s in states])
    tokens = torch.cat([s.tokens for s in states])
    graph = join([c.graph(settings.neighbors, settings.noise) for c in batch])
    with torch.autocast("cpu", torch.bfloat16, enabled=settings.bfloat16):
        logits = network(graph, tokens.masked_fill(hidden, MASKED))
    soft, weight = (torch.cat([getattr(s, k) for s in states])[hidden] for k in ("soft", "weights"))
    loss = F.cross_entropy(logits.float()[hidden][:, :20], soft, reduction="none")
    return (loss * weight).sum() / len(tokens)


def new_network(settings: Settings, frequencies: Tensor | None = None) -> MPNN:
    """Return an untrained network; with frequencies (20,) it starts near them."""
    network = MPNN(settings.width, settings.depth, MASKED + 1, settings.dropout)
    if frequencies is not None:
        with torch.no_grad():
            network.W_out.weight.mul_(0.1)
            network.W_out.bias.zero_()
            network.W_out.bias[:20] = frequencies.log()
    return network


def train(
    parts: Parts,
    settings: Settings,
    out: Path,
    rank: int = 0,
    *,
    check_every: int = 5,
    stop: int | None = None,
    log: Callable[[str], None] = print,
) -> MPNN:
    """Train one network and return it with its averaged weights.

    Args:
        parts: from `split`.
        settings: hyper-parameters.
        out: folder of `checkpoint.pt`, from which an interrupted run continues.
        rank: which of the `settings.threads` processes this is.
        check_every: passes between checkpoints, each with a look at the validation chains.
        stop: end after this many passes, as an interruption would, with a checkpoint.
        log: takes one line of progress at a time.

    Raises:
        ValueError: the checkpoint was written under other settings.
    """
    torch.manual_seed(settings.seed)
    network = new_network(settings, background(parts))
    run = training.Run(network, training.groups(network.named_parameters()), out, settings)
    state = run.resume()
    first, spent = state.get("pass", 0), state.get("spent", 0.0)
    began = time.monotonic() - spent
    parameters = list(network.parameters())
    share = partial(_share_gradients, parameters, settings.threads)

    def averaged() -> MPNN:
        shown = new_network(settings)
        shown.load_state_dict(run.average)
        return shown.eval()

    last = settings.passes if stop is None else min(stop, settings.passes)
    for number in range(first, last):
        seed = settings.seed * 1_000_003 + number
        work = list(batches(parts.train, settings, random.Random(seed)))
        network.train()
        torch.manual_seed(seed * settings.threads + rank)
        total = 0.0
        for i, batch in enumerate(work):
            angle = math.pi * ((number + i / len(work)) / settings.passes)
            total += run.update(
                training_loss(network, batch[rank :: settings.threads], settings),
                settings.warm_cosine(run.step, angle),
                share=share if settings.threads > 1 else None,
            )
        if rank == 0 and ((number + 1) % check_every == 0 or number + 1 == last):
            spent = time.monotonic() - began
            value = perplexity(averaged(), parts.validation, settings.neighbors, states=4)
            log(
                f"pass {number + 1}/{settings.passes}  {spent / 60:.1f} min  "
                f"loss {total / max(len(work), 1):.4f}  validation perplexity {value:.4f}"
            )
            run.save(**{"pass": number + 1, "spent": spent})
    return averaged()


def _share_gradients(parameters: Sequence[Tensor], workers: int) -> None:
    """Replace every gradient by its mean over the processes."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    pieces = (flat / workers).split([g.numel() for g in gradients])
    for g, piece in zip(gradients, pieces, strict=True):
        g.copy_(piece.view_as(g))


# evaluation ---------------------------------------------------------------------------------------


@torch.no_grad()
def any_order_nll(backbone: Backbone, tokens: Tensor, *, states: int, seed: int) -> float:
    """Return an unbiased estimate of a chain's any-order -log p in nats.

    For a uniformly random order, -log p of n residues is the sum over m = 1..n of the -log p of the
    next residue when m are masked; its expectation is n times the mean cross-entropy of the masked
    residues at uniform m. `states` states are looked at, their m stratified.
    """
    generator = torch.Generator().manual_seed(seed)
    n = len(tokens)
    hidden = torch.zeros(states, n, dtype=torch.bool)
    for j in range(states):
        m = 1 + int((j + torch.rand((), generator=generator).item()) / states * n)
        hidden[j, torch.randperm(n, generator=generator)[:m]] = True
    x = torch.where(hidden, MASKED, tokens)
    logits = torch.cat([backbone.logits(piece) for piece in x.split(4)])[..., :20]
    target = tokens.expand(states, n)[..., None]
    loss = -logits.double().log_softmax(-1).gather(-1, target)[..., 0]
    per_state = (loss * hidden).sum(1) / hidden.sum(1)
    return n * float(per_state.mean())


def perplexity(network: MPNN, chains: Sequence[Chain], neighbors: int, *, states: int) -> float:
    """Return the any-order perplexity per residue of some chains."""
    total = sum(
        any_order_nll(
            Backbone.encode(network, c.graph(neighbors)), c.tokens, states=states, seed=7 + i
        )
        for i, c in enumerate(chains)
    )
    return math.exp(total / sum(map(len, chains)))


@torch.no_grad()
def sampled(backbone: Backbone, n: int, *, temperature: float, draws: int, seed: int) -> Tensor:
    """Return sequences (draws, n) drawn from all-mask, one uniformly random position a step."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.full((draws, n), MASKED)
    rows = torch.arange(draws)
    for i in torch.rand(draws, n, generator=generator).argsort(-1).T:
        logits = backbone.logits(x)[rows, i, :20].double()
        p = (logits / temperature).softmax(-1)
        x[rows, i] = torch.multinomial(p, 1, generator=generator)[:, 0]
    return x


def interval(values: Tensor, weights: Tensor, seed: int = 0) -> tuple[float, float]:
    """Return a 95 % bootstrap interval of a weighted mean, whole chains drawn 2,000 times."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(values), (2000, len(values)), generator=generator)
    means = ((values * weights)[rows].sum(1) / weights[rows].sum(1)).sort().values
    return float(means[49]), float(means[1949])


@dataclass(frozen=True)
class Score:
    """The figures of one chain: nats per residue and shares; `base` is the background's.

    Attributes:
        length: residues.
        nll: any-order -log p per residue.
        recovery: share of native letters in sequences drawn from all-mask.
        base_nll: -log p per residue of the background frequencies.
        base_recovery: share of the most frequent letter, the background's sharpest guess.
    """

    length: int
    nll: float
    recovery: float
    base_nll: float
    base_recovery: float


def evaluate(
    network: MPNN,
    chains: Sequence[Chain],
    frequencies: Tensor,
    *,
    neighbors: int = NEIGHBORS,
    states: int = 32,
    draws: int = 2,
    temperature: float = 0.1,
) -> list[Score]:
    """Return the figures of each chain, its coordinates without noise."""
    scores = []
    common = int(frequencies.argmax())
    for i, chain in enumerate(chains):
        backbone = Backbone.encode(network, chain.graph(neighbors))
        seed = EVALUATION_SEED + i
        x = sampled(backbone, len(chain), temperature=temperature, draws=draws, seed=seed)
        scores.append(
            Score(
                length=len(chain),
                nll=any_order_nll(backbone, chain.tokens, states=states, seed=seed) / len(chain),
                recovery=float((x == chain.tokens).double().mean()),
                base_nll=-float(frequencies.log()[chain.tokens].double().mean()),
                base_recovery=float((chain.tokens == common).double().mean()),
            )
        )
    return scores


def summary(scores: Sequence[Score]) -> dict[str, Any]:
    """Return perplexities per residue, mean recoveries of chains, and bootstrap intervals."""
    column = {
        field.name: torch.tensor([float(getattr(s, field.name)) for s in scores]).double()
        for field in dataclasses.fields(Score)
    }
    length = column["length"]

    def per_residue(name: str) -> float:
        return math.exp(float((column[name] * length).sum() / length.sum()))

    low, high = interval(column["nll"], length)
    return {
        "chains": len(scores),
        "residues": int(length.sum()),
        "perplexity": per_residue("nll"),
        "perplexity_interval": (math.exp(low), math.exp(high)),
        "perplexity_background": per_residue("base_nll"),
        "recovery": float(column["recovery"].mean()),
        "recovery_interval": interval(column["recovery"], torch.ones_like(length)),
        "recovery_median": float(column["recovery"].median()),
        "recovery_background": float(column["base_recovery"].mean()),
    }


def nearest_identity(chains: Sequence[Chain], others: Sequence[Chain]) -> list[float]:
    """Return each chain's largest identity to one of the others, over half of its length or more.

    Of the five best local alignments (BLOSUM62, gaps 11 and 1); 0 where none covers half.
    """
    # biopython has no annotations
    bio: Any = Align
    aligner = bio.PairwiseAligner(
        mode="local",
        substitution_matrix=bio.substitution_matrices.load("BLOSUM62"),
        open_gap_score=-11,
        extend_gap_score=-1,
    )
    known = ["".join(LETTERS[a] for a in c.tokens.tolist()) for c in others]
    nearest = []
    for chain in chains:
        query = "".join(LETTERS[a] for a in chain.tokens.tolist())
        score = [aligner.score(query, k) for k in known]
        identity = 0.0
        for i in sorted(range(len(known)), key=lambda i: -score[i])[:5]:
            counts = aligner.align(query, known[i])[0].counts()
            pairs = counts.identities + counts.mismatches
            if 2 * pairs >= len(query):
                identity = max(identity, counts.identities / pairs)
        nearest.append(identity)
    return nearest


@contextmanager
def without_denormals() -> Iterator[None]:
    """Let numbers too small to matter be zero, in here only: they take ten times as long."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@without_denormals()
def worker(
    rank: int, data: Path, settings: Settings, out: Path, teacher: Path | None = None
) -> None:
    """Train in one of several processes, one thread each."""
    torch.set_num_threads(1)
    if settings.threads > 1:
        meeting = f"file://{(out / 'meeting').absolute()}"
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=settings.threads)
    parts = read_parts(data)
    network = train(parts if teacher is None else taught(parts, teacher), settings, out, rank)
    if rank == 0:
        training.write_weights(network.state_dict(), out / "mpnn-mini.safetensors")


@without_denormals()
def passes_in(data: Path, settings: Settings, minutes: float) -> int:
    """Return how many passes fit in these minutes, from the time of twenty steps."""
    torch.set_num_threads(1)
    parts = read_parts(data, log=lambda line: None)
    network = new_network(settings).train()
    work = list(batches(parts.train, settings, random.Random(0)))
    clock = time.monotonic()
    for batch in work[:20]:
        training_loss(network, batch, settings).backward()
    step = (time.monotonic() - clock) / 20 / settings.threads
    return max(1, int(60 * minutes / (step * len(work))))


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, or evaluate with `--evaluate`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/mpnn"))
    parser.add_argument("--evaluate", type=Path, metavar="FILE", help="weights to evaluate")
    parser.add_argument("--teacher", type=Path, metavar="FILE", help="lessons of `teacher`")
    parser.add_argument("--minutes", type=float, help="as many passes as fit, instead of --passes")
    parser.add_argument("--draws", type=int, default=2, help="sequences per chain (evaluation)")
    parser.add_argument("--states", type=int, default=32, help="states per chain (evaluation)")
    parser.add_argument(
        "--apart",
        action="store_true",
        help="also those without a training chain of 30 % identity or more (takes minutes)",
    )
    parser.add_argument(
        "--parts", nargs="+", default=["test", "minis"], choices=["test", "validation", "minis"]
    )
    for field in dataclasses.fields(Settings):
        if isinstance(field.default, bool):
            continue
        parser.add_argument(
            f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default
        )
    options = vars(parser.parse_args(arguments))
    names = {field.name for field in dataclasses.fields(Settings)}
    settings = Settings(**{k: v for k, v in options.items() if k in names})
    data, out = options["data"], options["out"]
    if options["evaluate"] is not None:
        torch.set_num_threads(settings.threads)
        network = of(load(options["evaluate"].read_bytes()))
        parts = read_parts(data)
        frequencies = background(parts)
        for name in options["parts"]:
            chains = read_minis(data / MINIS) if name == "minis" else getattr(parts, name)
            scores = evaluate(
                network, chains, frequencies, states=options["states"], draws=options["draws"]
            )
            print(json.dumps({"part": name, **summary(scores)}), flush=True)
            if options["apart"]:
                near = nearest_identity(chains, [c for group in parts.train for c in group])
                far = [s for s, n in zip(scores, near, strict=True) if n < APART]
                print(json.dumps({"part": f"{name}, apart", **summary(far)}), flush=True)
        return
    out.mkdir(parents=True, exist_ok=True)
    (out / "meeting").unlink(missing_ok=True)
    if options["minutes"] is not None:
        passes = passes_in(data, settings, options["minutes"])
        settings = dataclasses.replace(settings, passes=passes)
        print(f"{passes} passes fit; the same run again: --passes {passes}")
    if settings.threads == 1:
        worker(0, data, settings, out, options["teacher"])
    else:
        spawn(worker, (data, settings, out, options["teacher"]), nprocs=settings.threads)


if __name__ == "__main__":
    main()
