"""Two conformations, one sequence: what does it cost to satisfy both?

    python examples/benchmarks/states.py [--data DIR] [--states A B] [--model NAME] [--quick]

Unguided designs at T = 0.1 for the first state alone, for the second alone, and for both (the prior
is the geometric mean of the two posteriors), with the same number of sequences each. Every design
is then judged in each state alone: log-likelihood in nats per residue at temperature 1. Three
figures say what two states cost: how much less likely two-state designs are in a state than designs
for it alone, how much less those for the other state are, and what drawing for both gains over
drawing for one and choosing for both (the eight best in their worse state, of twice as many).

With `--data`, four pairs of crystal structures of one protein are taken from
structures/chains_*.jsonl.gz below DIR; models of sequences may have been trained on them, so the
figures are of states, not of the model. Without data there is one pair, and it is made: the
embedded domain and a copy turned about one bond, by 2.5 Å or a little more. Its bonds are those of
the crystal, but nothing else was relaxed: it is no conformation that anybody has seen.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor

import seqalign as sa
from seqalign.campaign.metrics import prior_log_likelihood
from seqalign.campaign.new import backbone_model
from seqalign.core.process import Designs
from seqalign.files.numbering import Numbering
from seqalign.files.states import match
from seqalign.files.structure import Structure, demo_backbone, read_structure

# unbound and bound to a partner, or open and closed: names in the data
PAIRS = {
    "Ras": ("1HE8_l_u_B", "1BKD_l_b-matched_B"),
    "LFA-1 I domain": ("3EOA_l_b_I", "3HI6_l_u_B"),
    "LFA-1 I domain, other crystals": ("3HI6_l_b_B", "3EOA_l_u_B"),
    "LAO-binding protein": ("6MLP_A_A", "6ML0_A_A"),
}
# Å: how far the copy is bent, at least
BENT = 2.5
# random orders of a log-likelihood, and designs that are chosen by it
ORDERS, KEPT = 4, 8


def turn(structure: Structure, hinge: int, degrees: float) -> Structure:
    """Return a copy whose chain is turned about the N-CA bond of a residue, from there on."""
    coords = structure.coords.double()
    n, ca = coords[hinge, :2]
    x, y, z = (ca - n) / (ca - n).norm()
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    rotation = torch.linalg.matrix_exp(math.radians(degrees) * cross)
    moved = (coords - ca) @ rotation.T + ca
    # the nitrogen of the hinge stays, and its other atoms go along
    moved[:hinge], moved[hinge, 0] = coords[:hinge], n
    return replace(structure, coords=moved.float(), name=f"{structure.name}-bent")


def closest(structure: Structure) -> float:
    """Return the distance of the two nearest CA that are no near neighbors, Å."""
    apart = torch.cdist(structure.coords[:, 1], structure.coords[:, 1])
    return float(apart[torch.ones_like(apart).triu(4) > 0].min())


def bend(structure: Structure) -> tuple[Structure, str]:
    """Return the copy, turned at one residue, that keeps its CA furthest apart; and its hinge."""
    found = []
    for hinge in range(10, len(structure) - 10):
        for sign in (1, -1):
            turned = (turn(structure, hinge, sign * degrees) for degrees in range(5, 90, 5))
            far = next((t for t in turned if match(structure, t).rmsd >= BENT), None)
            if far is not None:
                found.append((closest(far), structure.numbering.name(hinge + 1), far))
    _, at, best = max(found, key=lambda some: some[0])
    return best, at


def natural(data: Path) -> Iterator[tuple[str, Structure, Structure]]:
    """Yield the pairs of crystal structures below a folder."""
    wanted, found = {name for pair in PAIRS.values() for name in pair}, {}
    for part in ("train", "extra"):
        with gzip.open(data / "structures" / f"chains_{part}.jsonl.gz", "rt") as lines:
            rows = (json.loads(line) for line in lines)
            found |= {row["name"]: row for row in rows if row["name"] in wanted}
    for name, pair in PAIRS.items():
        a, b = (found[key] for key in pair)
        yield name, _structure(a), _structure(b)


def _structure(row: dict[str, Any]) -> Structure:
    n = len(row["seq"])
    coords = torch.stack([torch.tensor(row["coords"][k]) for k in ("N", "CA", "C", "O")], 1)
    return Structure(
        name=row["name"],
        sequence=row["seq"],
        coords=coords.float(),
        numbering=Numbering(("A",) * n, tuple(str(i + 1) for i in range(n))),
        design=torch.ones(n, dtype=torch.bool),
        residue_index=torch.arange(n),
    )


@dataclass(frozen=True, eq=False)
class Indifferent(sa.Reward):
    """A reward of 0."""

    name: str = "nothing"

    def __call__(self, designs: Designs) -> Tensor:
        """Score designs (B, K)."""
        return torch.zeros(designs.shape, dtype=torch.float64)


@dataclass(frozen=True)
class Pair:
    """Two states of one sequence with a model of each and of both."""

    models: tuple[sa.Model, sa.Model]
    both: sa.Model

    def draw(self, model: sa.Model, n: int, seed: int) -> Tensor:
        """Return the nats per residue, (n, 2), of n unguided designs in either state."""
        result = sa.sample(model, Indifferent(), method="best_of_n", particles=n, seed=seed)
        return self.judge(result.samples.designs.x[0])

    def judge(self, x: Tensor) -> Tensor:
        """Return the nats per residue, (n, 2), of sequences (n, L) in either state."""
        free = range(x.shape[1])
        each = [prior_log_likelihood(m.process, x, free, orders=ORDERS) for m in self.models]
        return torch.stack(each, -1) / x.shape[1]

    def measure(self, n: int, seed: int) -> dict[str, Tensor]:
        """Return the same of every set of designs by what it is."""
        first, second = (self.draw(m, n, seed) for m in self.models)
        both = self.draw(self.both, n, seed)
        single = torch.cat((first, second))
        native = self.models[0].space.alphabet.encode([self.models[0].wild_type])
        return {
            "native": self.judge(native),
            "for the first": first,
            "for the second": second,
            "for both": both,
            f"best {KEPT} of {2 * n} for one": _best(single),
            f"best {KEPT} of {n} for both": _best(both),
        }


def _best(scores: Tensor) -> Tensor:
    """Return those that are best in their worse state."""
    return scores[scores.min(-1).values.topk(min(KEPT, len(scores))).indices]


def report(name: str, a: Structure, b: Structure, found: list[dict[str, Tensor]]) -> np.ndarray:
    """Print the table of a pair; return (seeds, 3): losses, and the gain of choosing after."""
    rmsd = match(a, b).rmsd
    print(f"\n{name}: {a.name} and {b.name}, {len(a.known)} residues, CA rmsd {rmsd:.1f} Å")
    print(f"  {'designs':<26}{'in first':>10}{'in second':>11}{'in its worse':>14}")
    for key in found[0]:
        rows = torch.cat([seed[key] for seed in found])
        in_first, in_second = rows.mean(0).tolist()
        worse = float(rows.min(-1).values.mean())
        print(f"  {key:<26}{in_first:>10.3f}{in_second:>11.3f}{worse:>14.3f}")
    losses = []
    for seed in found:
        first, second, both = (
            seed[f"for {k}"].mean(0) for k in ("the first", "the second", "both")
        )
        own = (first[0] + second[1]) / 2
        other = (second[0] + first[1]) / 2
        chosen = [v.min(-1).values.mean() for k, v in seed.items() if k.startswith("best")]
        losses.append([own - both.mean(), own - other, chosen[1] - chosen[0]])
    return np.array(losses)


def main(
    states: Annotated[
        tuple[Path, Path] | None, typer.Option(help="Two structures of one sequence.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="A folder with structures/.")] = None,
    model: Annotated[str | None, typer.Option(help="That of `seqalign new` by default.")] = None,
    designs: Annotated[int, typer.Option(help="Sequences per set and seed.")] = 32,
    seeds: int = 3,
    quick: bool = False,
) -> None:
    """Measure, and print a table for each pair."""
    if quick:
        designs, seeds = 8, 1
    name = model or backbone_model()
    if states is not None:
        pairs = [("given", *(read_structure(file) for file in states))]
    elif data is not None:
        pairs = list(natural(data))
    else:
        one = demo_backbone()
        other, at = bend(one)
        pairs = [("made, not observed", one, other)]
        print(
            f"The second state is the first turned at {at}; its nearest CA are {closest(other):.1f}"
            f" Å apart, and {closest(one):.1f} Å before."
        )
    print(f"{name}, T = 0.1, {designs} designs per set, {seeds} seeds; nats per residue at T = 1")
    every = []
    for what, a, b in pairs:
        one, two = (sa.load_model(name, structure=s) for s in (a, b))
        pair = Pair((one, two), sa.load_model(name, states=[a, b]))
        found = [pair.measure(designs, seed) for seed in range(seeds)]
        every.append(report(what, a, b, found).mean(0))
        print(
            "  below designs for that state alone: two-state {:.3f}, the other state's {:.3f}\n"
            "  in the worse state, chosen two-state less chosen single-state: {:+.3f}".format(
                *every[-1]
            )
        )
    if len(every) > 1:
        mean = np.mean(every, 0)
        print(
            f"\nMean of {len(every)} pairs: two-state designs are {mean[0]:.3f} nats per residue "
            f"below designs for one state, those for the other state {mean[1]:.3f}."
        )


if __name__ == "__main__":
    typer.run(main)
