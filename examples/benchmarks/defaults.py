"""Each default against its alternatives, where the answer is known and where it is not.

    python examples/benchmarks/defaults.py [--only markov] [--seeds 2] [--quick]

Everything runs at the network calls of plain SMC with the same number of particles. Rows are the
methods with their defaults, and below them the same with one setting changed; "published" undoes
what is our own: the value of the posterior mean, a lam that is held to i/n, resampling below half.
A row is the mean over seeds and islands; sd is the spread of log Ẑ over islands, which an exact
log Z tells apart from luck: E[log Ẑ] lies below log Z, by more the worse the sampler.

- markov: the exactly solvable chain of `markov.py` (exact values in the header of each alpha).
- mixtures: both Gaussian mixtures of the DAS paper; distance is the earth mover's to exact draws.
- pdz3: the demo, two guides and two hold-outs; apart is the mean distance of pairs of designs.
- backbone: mpnn-mini on the demo's backbone with at most 8 mutations, warm and cold.
- emoji: three names, the best design of each of eight small islands.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from emoji import FEW, Bench, best
from exact import Testbed
from gaussian_mixtures import mixtures, reference
from gaussian_mixtures import run as run_mixture
from markov import run as run_markov

import seqalign as sa

MEAN = {"value": "posterior_mean"}
HALF = {"resample": {"ess_below": 0.5}}
PACE = {"tempering": {"name": "adaptive", "pace": 1.0}}
LATE = {"tempering": "linear"}
# (method, what is changed, settings)
LETTERS: list[tuple[str, str, dict[str, Any]]] = [
    ("das", "", {}),
    ("das", "held to i/n", PACE),
    ("das", "published", MEAN | PACE),
    ("tds", "", {}),
    ("tds", "ess_below 0.5", HALF),
    ("tds", "published", MEAN | HALF),
    ("smc", "", {}),
    ("smc", "linear lam", LATE),
    ("smc", "published", MEAN | LATE | HALF),
    ("nested_is", "", {}),
    ("nested_is", "published", MEAN | LATE | HALF),
    ("fk_steering", "", {}),
    ("fk_steering", "max", {"potential": "max"}),
    ("fk_steering", "sum", {"potential": "sum"}),
    ("fk_steering", "published", MEAN | {"tempering": "constant"}),
    ("best_of_n", "", {}),
]
PICTURES: list[tuple[str, str, dict[str, Any]]] = [
    ("das", "", {}),
    ("das", "held to i/n", PACE),
    ("das", "pace 0", {"tempering": {"name": "adaptive", "pace": 0.0}}),
    ("das", "tilt limit 1", {"tilt": {"limit": 1.0}}),
    ("das", "no tilt limit", {"tilt": {"limit": float("inf")}}),
    ("das", "half the gradient", {"tilt": {"scale": 0.5}}),
    ("tds", "", {}),
    ("smc", "", {}),
    ("best_of_n", "", {}),
]
Rows = list[tuple[str, str, dict[str, Any]]]


def table(title: str, columns: str, rows: Rows, run: Callable[[Any, str], list[float]]) -> None:
    """Print what `run` says of each method; a row without a change is a default."""
    print(f"\n{title}\n{'':32s} {columns}")
    for name, change, settings in rows:
        numbers = run(settings, name)
        shown = " ".join(f"{number:8.2f}" for number in numbers)
        print(f"{'  ' + change if change else name:32s} {shown}", flush=True)


def spread(x: torch.Tensor) -> tuple[float, float]:
    """Return the distinct designs and the mean distance of pairs of tokens (K, L)."""
    apart = (x[:, None] != x).sum(-1).double()
    return float(len(x.unique(dim=0))), float(apart.sum() / max(1, len(x) * (len(x) - 1)))


def told(runs: list[sa.Samples], rewards: list[sa.Reward]) -> list[float]:
    """Return log Ẑ, its spread, the weighted means of rewards, distinct designs and distance."""
    log_z = torch.cat([s.log_z for s in runs if s.log_z is not None])
    means = [np.mean([float(s.mean(r(s.designs))) for s in runs]) for r in rewards]
    pairs = [spread(x) for s in runs for x in s.designs.x]
    return [float(log_z.mean()), float(log_z.std()), *means, *np.mean(pairs, 0)]


def markov(seeds: int, quick: bool) -> None:
    """Print the tables of the solvable chain."""
    bed, islands = (Testbed.load(length=12), 4) if quick else (Testbed.load(), 16)
    for alpha in (1.0,) if quick else (2.0, 1.0, 0.5):
        for seed in range(1 if quick else seeds):

            def run(
                settings: Any, name: str, alpha: float = alpha, seed: int = seed
            ) -> list[float]:
                method = sa.load_method(name, alpha=alpha, **settings)
                k = 64 // getattr(method, "branch", 1)
                s = run_markov(method, bed, islands, k, seed)
                return told([s], [bed.reward])

            title = (
                f"Markov chain, alpha {alpha:g}, seed {seed}, {islands} islands of 64: exact "
                f"log Z {bed.log_z(alpha):.2f}, E[r] {bed.mean_reward(alpha):.2f}"
            )
            columns = f"{'log Z':>8s} {'sd':>8s} {'E[r]':>8s} {'distinct':>8s} {'apart':>8s}"
            table(title, columns, LETTERS[:4] if quick else LETTERS, run)


def gaussian(seeds: int, quick: bool) -> None:
    """Print the tables of the Gaussian mixtures."""
    islands, steps = (8, 20) if quick else (60, 100)
    for problem in mixtures():
        chain, _, log_z = reference(problem, 20_000 if quick else 400_000, steps)

        def run(settings: Any, name: str, problem: Any = problem) -> list[float]:
            method = sa.load_method(name, **settings)
            found = run_mixture(method, problem, islands, 100, steps, 1 if quick else 2 * seeds)
            return [found.log_z, found.mean, found.error, found.emd, found.emd_floor]

        columns = f"{'log Z':>8s} {'E[r]':>8s} {'± se':>8s} {'distance':>8s} {'floor':>8s}"
        title = f"Gaussian mixture, {problem.name}: log Z {log_z:.2f}, E[r] {chain:.2f}"
        table(title, columns, PICTURES[:2] if quick else PICTURES, run)


def repeated(
    title: str,
    model: Any,
    rewards: list[sa.Reward],
    names: list[str],
    guides: int,
    alpha: float,
    shape: tuple[int, int],
    rows: Rows,
) -> None:
    """Print a table of a model; `shape` is seeds and particles, the first `guides` are guides."""
    objective = sum((1.0 * guide for guide in rewards[1:guides]), start=1.0 * rewards[0])

    def run(settings: Any, name: str) -> list[float]:
        method = sa.load_method(name, alpha=alpha, **settings)
        k = max(1, shape[1] // getattr(method, "branch", 1))
        every = [
            method(model.process, objective, (1, k), rng=sa.Streams(s, (0,)), space=model.space)
            for s in range(shape[0])
        ]
        return told(every, rewards)

    columns = " ".join(f"{c:>8s}" for c in ("log Z", "sd", *names, "distinct", "apart"))
    table(f"{title}, {shape[0]} seeds of {shape[1]} particles", columns, rows, run)


def pdz3(seeds: int, quick: bool) -> None:
    """Print the table of the PDZ3 demo."""
    demo = yaml.safe_load((files("seqalign") / "data" / "demo-pdz3.yaml").read_text())
    model = sa.load_model(demo["model"]["name"], chunk=64, **demo["constraints"])
    specs = [spec for spec in demo["rewards"].values() if "params" not in spec]
    rewards = [sa.load_reward(spec["oracle"]) for spec in specs]
    names = ["stable", "affine", "stable h", "affine h"]
    alpha, rows = demo["sampler"]["alpha"], LETTERS[:2] if quick else LETTERS[:10]
    rows = [*rows, ("tds", "mode", {"value": "posterior_mode"}), *rows[-1:]][: len(rows) + 1]
    shape = (2, 8) if quick else (3 * seeds, 64)
    repeated(f"PDZ3, alpha {alpha}", model, rewards, names, 2, alpha, shape, rows)


def backbone(seeds: int, quick: bool) -> None:
    """Print the tables of a backbone with few mutations."""
    path = str(files("seqalign") / "data" / "3a4r.pdb")
    rewards = [sa.load_reward(n, structure=path) for n in ("ddg-mini", "ddg-pairs")]
    for temperature in (1.0,) if quick else (1.0, 0.3, 0.1):
        model = sa.load_model(
            "mpnn-mini", structure=path, temperature=temperature, max_mutations=8, chunk=32
        )
        rows = LETTERS[:2] if quick else LETTERS[:9]
        title, shape = f"3A4R, T {temperature:g}, alpha 1", (2, 8) if quick else (2 * seeds, 32)
        repeated(title, model, rewards, ["ddg", "ddg h"], 1, 1.0, shape, rows)
        drawn = [independent(model, 8, shape[1], seed) for seed in range(shape[0])]
        print(f"different ones among as many exact draws of independent letters: {drawn}")


def independent(model: sa.Model, most: int, n: int, seed: int) -> int:
    """Count the different ones among n exact draws of a simpler law, at most `most` mutations.

    Each letter follows the model's law given all others of the wild type, and nothing else: what
    the budget and the temperature leave of diversity, were there no interactions and no reward.
    """
    process = model.process
    x = process.alphabet.encode([model.wild_type])[0]
    at = torch.arange(len(x))
    open_ = x.repeat(len(x), 1)
    open_[at, at] = process.alphabet.mask
    log_p = process.posterior(open_[None], 0.5).log_probs[0, at, at].double()
    odds = log_p - log_p.gather(1, x[:, None])
    odds = odds.scatter(1, x[:, None], -torch.inf)
    one = torch.logsumexp(odds, 1).tolist()
    # ahead[i][b]: log of the mass of all ways to spend at most b mutations from position i on
    ahead = [[0.0] * (most + 1) for _ in range(len(x) + 1)]
    for i in range(len(x) - 1, -1, -1):
        for b in range(most + 1):
            spend = one[i] + ahead[i + 1][b - 1] if b else -np.inf
            ahead[i][b] = float(np.logaddexp(ahead[i + 1][b], spend))
    rng, found = np.random.default_rng(seed), set()
    for _ in range(n):
        left, made = most, []
        for i in range(len(x)):
            chance = one[i] + ahead[i + 1][left - 1] - ahead[i][left] if left else -np.inf
            if rng.random() < np.exp(chance):
                made.append((i, int(rng.choice(20, p=torch.softmax(odds[i], 0).numpy()))))
                left -= 1
        found.add(tuple(made))
    return len(found)


def emoji(seeds: int, quick: bool) -> None:
    """Print the table of three emoji."""
    bench = Bench(12, 3) if quick else Bench(50, 8)

    def run(settings: Any, name: str) -> list[float]:
        method, found = sa.load_method(name, alpha=0.05, **settings), []
        k = 12 if name in ("best_of_n", "smc") else 4
        for prompt in FEW[: 1 if quick else None]:
            samples = bench.run(method, bench.guide, prompt, k, "defaults")
            assert samples.log_z is not None
            log_z = [float(samples.log_z.mean()), float(samples.log_z.std())]
            found.append([*log_z, *bench.tell(best(samples), prompt)[:5]])
        return [float(v) for v in np.mean(found, 0)]

    columns = ("log Z", "sd", "match", "match h", "pixel", "percept", "embed")
    title = "Emoji, alpha 0.05, at equal network calls"
    table(title, " ".join(f"{c:>8s}" for c in columns), PICTURES[:2] if quick else PICTURES, run)


PARTS = {"markov": markov, "mixtures": gaussian, "pdz3": pdz3, "backbone": backbone, "emoji": emoji}
Part = Literal["markov", "mixtures", "pdz3", "backbone", "emoji"]


def main(
    quick: Annotated[bool, typer.Option("--quick", help="a few rows of each, seconds")] = False,
    only: Annotated[Part | None, typer.Option(help="one of the parts")] = None,
    seeds: int = 2,
) -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    for name, part in PARTS.items():
        if only in (None, name):
            part(seeds, quick)


if __name__ == "__main__":
    typer.run(main)
