"""Random problems against their enumerated answers: is E[Ẑ] = Z whatever a user combines?

    python examples/benchmarks/random_problems.py [--quick] [--problems 300] [--seed 0]

A problem is a process (masked in random or parallel order, with blocks, ties or islands of
different length; uniform; linear-Gaussian), a network that is wrong, sharp or flat and may call
letters impossible, a reward that may fail, reject designs or carry an offset of ±50 nats, hard
constraints, and an installed method that is consistent, with random parts. log Z is known in closed
form or by enumeration of the chain. `--only N` runs one problem again.

Every problem has as many islands as a pilot of its own thinks are needed for a standard error of
1.2 %, within bounds, and problems are pooled with weights islands / variance of the PILOT: the
variance of the same sample is small where Ẑ happens to be, which would bias the pool. Networks in
chunks are called island by island, which is slow, so some islands are run again in chunks and must
give what they gave at once. The script fails if the pool is off by more than 3 standard errors (one
false alarm in 370), or a problem by more than FALSE_ALARM = 4.5 (7e-6 each, if Ẑ were normal; it is
skewed, so that a problem that is off is run again with other random numbers and four times as many
islands, and counts only if it is off again).
"""

from __future__ import annotations

import itertools
import math
import random
import sys
import time
from dataclasses import dataclass, fields, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
import exact

from seqalign.core.discrete import MaskedProcess, UniformProcess
from seqalign.core.gaussian import RectifiedFlow, VariancePreserving
from seqalign.core.method import Looped
from seqalign.core.moves import Redraw
from seqalign.core.objective import Reward
from seqalign.core.potential import Difference, Max, Sum
from seqalign.core.process import Designs
from seqalign.core.proposal import Base, Tilted
from seqalign.core.resampling import SCHEMES
from seqalign.core.selection import Resample
from seqalign.core.sequence import Alphabet
from seqalign.core.streams import Streams
from seqalign.core.tempering import Adaptive, Constant, Even, Fitted, Geometric, Linear
from seqalign.core.value import (
    Automatic,
    Linearized,
    PosteriorMean,
    PosteriorMode,
    PosteriorSample,
    Rollout,
)  # fmt: skip
from seqalign.files.numbering import Numbering
from seqalign.space.constraint import ConstraintError
from seqalign.space.space import DesignSpace

FAMILIES = ("random", "parallel", "uniform", "gaussian")
ERROR, PILOT, MOST = 0.012, 500, 6_000


class Odd(Reward):
    """A reward with a constant; it fails for some relaxed designs and rejects some finished ones.

    Attributes:
        constant: added everywhere.
        failing: which part of the relaxed designs gives NaN.
        rejected: the first letter of designs that give -inf; None rejects nothing.
    """

    name = "odd"
    differentiable = True

    def __init__(self, inner: Any, constant: float, failing: float, rejected: int | None) -> None:
        self.inner, self.constant, self.failing, self.rejected = inner, constant, failing, rejected

    def relaxed(self, x: torch.Tensor) -> torch.Tensor:
        """Return the reward of relaxed designs, NaN for some."""
        r = self.inner.relaxed(x) + self.constant
        odd = torch.arange(1.0, 1.0 + x[0, 0].numel()).view(x[0, 0].shape)
        number = 37.77 * (x.detach() * odd).sum(tuple(range(2, x.dim())))
        return torch.where(torch.frac(number).abs() < self.failing, torch.nan, r)

    def __call__(self, designs: Designs) -> torch.Tensor:
        """Return the reward of finished designs, -inf for some."""
        r: torch.Tensor = self.inner(designs) + self.constant
        if self.rejected is None:
            return r
        return torch.where(designs.x[..., 0] == self.rejected, -torch.inf, r)


@dataclass(frozen=True)
class Case:
    """A problem: what is run, and log Z of the islands in turn."""

    family: str
    process: Any
    reward: Reward
    alpha: float
    method: Any
    space: DesignSpace | None
    k: int
    log_z: tuple[float, ...]
    note: str

    def ratios(self, islands: int, seed: int, offset: int = 0, chunk: int = 0) -> torch.Tensor:
        """Ẑ/Z of each island, (B,)."""
        turns = len(self.log_z)
        process, rows = self.process, range(offset, offset + islands)
        if chunk:
            process = replace(process, chunk=chunk)
        if turns > 1:
            process = process.take([i % turns for i in rows])
        rng = Streams(seed, rows)
        found = self.method(process, self.reward, (islands, self.k), rng=rng, space=self.space)
        want = torch.tensor([self.log_z[i % turns] for i in rows], dtype=torch.float64)
        return torch.exp(found.log_z - want)


def methods() -> list[type[Looped]]:
    """The installed methods that are one weighted sweep of any chain, with an estimate of Z."""
    found = (e.load() for e in entry_points(group="seqalign.methods"))
    loops = [m for m in found if isinstance(m, type) and issubclass(m, Looped)]
    plain = [m for m in loops if m.__call__ is Looped.__call__ and not m.one_position]
    some = [m for m in plain if m.consistent]
    return sorted(some, key=lambda m: m.__name__)


def method(r: random.Random, alpha: float, gaussian: bool, network: bool, steps: int) -> Looped:
    """Draw a method and its parts for a chain of so many steps."""
    kind = r.choice(methods())
    through = r.choice(["auto", "network"]) if network or gaussian else "posterior"
    tilt = Tilted(through, r.choice([0.3, 0.7, 1.0]))  # type: ignore[arg-type]
    values = [PosteriorMean(), PosteriorMode(), PosteriorSample(1), PosteriorSample(3), Rollout(1)]
    values += [Automatic()] if gaussian else [Automatic(), Linearized(), Linearized()]
    resample = Resample(
        r.choice(sorted(SCHEMES)),  # type: ignore[arg-type]
        r.choice([0.5, 0.8, 1.0]),
        r.choice([1, 1, 2 if steps > 2 else 1]),
    )
    parts: dict[str, Any] = {
        "alpha": alpha,
        "value": r.choice(values),
        "tempering": r.choice(
            [
                *(Constant(), Constant(0.4), Linear(), Linear(2.0), Geometric(), Fitted(), Even()),
                *(Adaptive(0.5, 0.0), Adaptive(0.5)),
            ]
        ),
        "potential": r.choice([Difference(), Difference(), Max(), Sum()]),
        "proposal": r.choice([Base(), tilt]),
        "tilt": tilt,
        "resample": resample,
        "branch": r.choice([1, 2, 3]),
    }
    plain = not parts["tempering"].adaptive and isinstance(parts["potential"], Difference)
    parts["move"] = r.choice([None, Redraw(), Redraw(0.5, 2)]) if plain else None
    return kind(**{f.name: parts[f.name] for f in fields(kind) if f.name in parts})


def rules(r: random.Random, letters: str, length: int, tied: bool) -> dict[str, Any]:
    """Draw constraints; they may leave no sequence."""
    a, b = r.choice(letters), r.choice(letters)
    some: dict[str, Any] = {
        "max_homopolymer": r.choice([1, 2]),
        "composition": {a: {"max": r.choice([0.3, 0.5, 0.7])}},
        "net_charge": r.choice([{"max": 1}, {"min": 0}, {"min": -1, "max": 1}]),
        "forbid": r.choice([[a + b], [a + "." + b, b + b], ["^" + a, b + "$"], [f"{a}{b}|{b}{a}"]]),
        "max_mutations": r.randint(1, length - 1),
        "residues": {str(r.randint(1, length)): {"omit": a}},
        "fix": {r.randint(1, length): b},
        "tie": [r.sample(range(1, length + 1), 2)],
    }
    if not tied:
        del some["tie"]
    return {key: some[key] for key in r.sample(sorted(some), r.choice([1, 1, 2, 3, 4]))}


def space(r: random.Random, alphabet: Alphabet, length: int, tied: bool) -> DesignSpace:
    """Draw a design space that is not empty."""
    while True:
        named = rules(r, alphabet.letters, length, tied)
        wild = "".join(r.choice(alphabet.letters) for _ in range(length))
        cut, numbering = r.randint(1, length), None
        if cut < length and not {"fix", "residues", "tie"} & set(named):
            names = [*range(1, cut + 1), *range(1, length - cut + 1)]
            numbering = Numbering(
                ("A",) * cut + ("B",) * (length - cut), tuple(str(n) for n in names)
            )
        try:
            built = DesignSpace.build(
                alphabet, length, wild_type=wild, numbering=numbering, **named
            )
        except ConstraintError:
            continue
        limit, discount = r.choice([0, 1000, 1000]), r.choice([0.0, 0.4, 0.8])
        return replace(built, joint_limit=limit, discount=discount)


def live_law(space: DesignSpace | None, mask: tuple[bool, ...], sequences: list[str]) -> np.ndarray:
    """Which of all sequences are allowed where some positions are padding."""
    if space is None:
        return np.ones(len(sequences))
    live = tuple(i for i, ok in enumerate(mask) if ok)
    small = space.only(live)
    return np.array([not small.violations("".join(s[i] for i in live)) for s in sequences]) * 1.0


def discrete(r: random.Random, family: str) -> Case | None:
    """Draw a problem of letters; None if Z is 0 or the parts do not fit."""
    letters = "AKDE"[: r.randint(2, 4)]
    v, length = len(letters), r.randint(2, 5)
    if family == "uniform":
        length = min(length, 3)
    while (v + 1) ** length > 700:
        length -= 1
    alphabet, rng = Alphabet(letters), np.random.default_rng(r.getrandbits(32))
    seed, sharp = r.getrandbits(31), r.choice([0.1, 0.4, 1.0])
    drift = r.choice([0.0, 0.0, 0.4])
    live = (True,) * length
    masks = [live]
    if length > 2 and r.random() < 0.3:
        masks = [live, (True,) * (length - 1) + (False,)]
    spaced = r.random() < 0.6
    some = space(r, alphabet, length, tied=len(masks) == 1) if spaced else None
    event_mask = torch.tensor(masks) if len(masks) > 1 else None
    never = r.random() < 0.25
    if family == "uniform":
        steps = r.randint(1, 3)
        joint = np.exp(rng.normal(size=v**length))
        sizes = (v**length, length, v)
        noise = [torch.tensor(0.4 * sharp * rng.normal(size=sizes)) for _ in range(2)]
        table: Any = exact.UniformTable(*noise, v, joint / joint.sum())
        law, network = table, True
        process: Any = UniformProcess(
            table, alphabet, length, steps, differentiable=True, event_mask=event_mask
        )
        laws = [exact.uniform_law(table, steps, mask) for mask in masks]
    else:
        temperature = r.choice([1.0, 1.0, 0.5, 2.0])
        table = exact.any_order_table(v, length, seed, sharp, drift)
        if never:
            # impossible letters that depend on the state, never all of a position
            gone = torch.tensor(rng.random(table.logits.shape) < 0.15)
            gone[..., int(rng.integers(v))] = False
            table = replace(table, logits=table.logits.masked_fill(gone, -torch.inf))
        bias = torch.tensor(0.5 * rng.normal(size=(length, v))) if r.random() < 0.3 else None
        more = 0.0 if bias is None else bias
        law = replace(
            table, logits=(table.logits + more) / temperature, drift=table.drift / temperature
        )
        blocks: tuple[tuple[int, ...], ...] = () if some is None else some.blocks
        if some is None and event_mask is None and length > 2 and r.random() < 0.2:
            blocks = ((1, 3),)
        steps = length if family == "random" else r.randint(1, 4)
        network = not never
        process = MaskedProcess(
            table, alphabet, length, steps, order=family, temperature=temperature,  # type: ignore[arg-type]
            takes_time=bool(drift), differentiable=network, event_mask=event_mask, bias=bias,
            blocks=blocks,
        )  # fmt: skip
        laws = []
        for mask in masks:
            fixed = [v] * length if some is None else alphabet.encode([some.fixed])[0].tolist()
            start = [a if ok else 0 for a, ok in zip(fixed, mask, strict=True)]
            laws.append(exact.masked_law(law, steps, family, start, blocks=blocks))
    alpha = r.choice([0.7, 1.0, 2.0])
    constant = alpha * r.choice([0.0, 0.0, 50.0, -50.0])
    failing = r.choice([0.0, 0.0, 0.2])
    rejected = r.choice([None, None, None, 1])
    inner = exact.PairReward(length, v, seed, r.choice([0.2, 0.5]))
    reward = Odd(inner, constant, failing, rejected)
    full = torch.tensor(exact.grid(v, length))
    sequences, log_z = alphabet.decode(full), []
    for mask, p in zip(masks, laws, strict=True):
        event = torch.tensor([mask]) if event_mask is not None else None
        gain = np.exp(
            reward(Designs(full[None], alphabet, event))[0].numpy() / alpha - constant / alpha
        )
        try:
            z = float((p * gain * live_law(some, mask, sequences)).sum())
        except ConstraintError:
            return None
        if not z > 1e-6:
            return None
        log_z.append(math.log(z) + constant / alpha)
    found = method(r, alpha, False, network, steps)
    note = f"V {v}, L {length}, {steps} steps, {found}, {some and some.constraints}"
    k = r.randint(1, 7)
    return Case(family, process, reward, alpha, found, some, k, tuple(log_z), note)


def continuous(r: random.Random) -> Case | None:
    """Draw a linear-Gaussian problem."""
    rng, dim = np.random.default_rng(r.getrandbits(32)), r.randint(1, 4)
    root, bend = rng.normal(size=(dim, dim)), rng.normal(size=(dim, dim))
    c = 0.3 * root @ root.T + 0.4 * np.eye(dim)
    quad, slope = 0.1 * bend @ bend.T, 0.4 * rng.normal(size=dim)
    alpha, steps = r.choice([0.7, 1.0, 2.0]), r.randint(2, 5)
    constant = alpha * r.choice([0.0, 50.0, -50.0])
    reward = Odd(exact.Quadratic(slope, quad), constant, r.choice([0.0, 0.0, 0.2]), None)
    p = exact.linear_gaussian(
        rng.normal(size=dim), c, slope, quad, r.choice([VariancePreserving(), RectifiedFlow()]),
        steps=steps, eta=r.choice([0.4, 0.7, 1.0]), alpha=alpha, reward=reward, constant=constant,
    ) if dim > 1 else None  # fmt: skip
    if p is None:
        return None
    found, k = method(r, alpha, True, True, steps), r.randint(1, 7)
    note = f"{dim} dimensions, {steps} steps, {found}"
    return Case("gaussian", p.process, reward, alpha, found, None, k, (p.log_z,), note)


def case(seed: int, n: int) -> Case:
    """Draw problem n; what does not fit is drawn again."""
    family = FAMILIES[n % len(FAMILIES)]
    for turn in itertools.count():
        r = random.Random(f"{seed}/{n}/{turn}")
        found = continuous(r) if family == "gaussian" else discrete(r, family)
        if found is not None:
            return found
    raise AssertionError("unreachable")


def measured(problem: Case, islands: int, seed: int) -> tuple[float, float]:
    """E[Ẑ]/Z − 1 and its standard error."""
    ratio = problem.ratios(islands, seed)
    if not bool(torch.isfinite(ratio).all()):
        return math.inf, 0.0
    # rounding has no standard error of its own
    return float(ratio.mean()) - 1, max(float(ratio.std()) / math.sqrt(islands), 1e-9)


def pooled(rows: list[tuple[float, float, float]]) -> tuple[float, float]:
    """Pool (bias, standard error, weight)."""
    total = sum(w for _, _, w in rows)
    bias = sum(w * b for b, _, w in rows) / total
    return bias, math.sqrt(sum((w * s) ** 2 for _, s, w in rows)) / total


Quick = Annotated[bool, typer.Option("--quick", help="20 problems with few islands")]


def main(
    quick: Quick = False,
    problems: int = 300,
    seed: int = 0,
    only: Annotated[int, typer.Option(help="one problem, with what it is")] = -1,
) -> None:
    """Print a line per family and the pool; exit with 1 if anything is off."""
    torch.set_num_threads(1)
    problems, most = (20, 1_000) if quick else (problems, MOST)
    numbers = [only] if only >= 0 else range(problems)
    clock, wrong = time.perf_counter(), []
    rows: dict[str, list[tuple[float, float, float]]] = {}
    worst = (0.0, -1)
    for n in numbers:
        problem = case(seed, n)
        if only >= 0:
            print(problem.note)
        pilot = problem.ratios(PILOT, 2 * n + 1_000_001)
        spread = max(float(pilot.std()), 0.05)
        islands = max(PILOT, min(most, int((spread / ERROR) ** 2)))
        islands -= islands % 2
        bias, error = measured(problem, islands, 2 * n)
        z = bias / error if error else math.inf
        if abs(z) > exact.FALSE_ALARM and abs(bias) > 1e-9:
            again, error_again = measured(problem, 4 * islands, 2 * n + 2_000_003)
            off = again / error_again if error_again else math.inf
            print(f"problem {n}: {bias:+.4f} ({z:+.1f} se), again {again:+.4f} ({off:+.1f} se)")
            print(f"  {problem.note}", flush=True)
            if abs(off) > exact.FALSE_ALARM:
                wrong.append(n)
        worst = max(worst, (abs(z) if abs(bias) > 1e-9 else 0.0, n))
        rows.setdefault(problem.family, []).append((bias, error, islands / spread**2))
        # chunks that do not divide K, on a few islands: the same numbers
        few, size = 6, 2 + n % 3
        whole = problem.ratios(few, 2 * n)
        parts = problem.ratios(few, 2 * n, chunk=size)
        if not torch.allclose(whole, parts, rtol=1e-7, atol=1e-9):
            print(f"problem {n}: chunks of {size} for {problem.k} particles change the answer")
            print(f"  {problem.note}", flush=True)
            wrong.append(n)
        if only < 0 and n % 50 == 49:
            print(f"  {n + 1} problems, {time.perf_counter() - clock:.0f} s", flush=True)
    every = [row for some in rows.values() for row in some]
    for name, some in [*rows.items(), ("all", every)]:
        bias, error = pooled(some)
        print(f"{name:9s} {len(some):4d} problems: E[Ẑ]/Z − 1 = {bias:+.5f} ± {error:.5f}")
    print(f"worst: problem {worst[1]}, {worst[0]:.1f} standard errors")
    bias, error = pooled(every)
    if abs(bias) > 3 * error or wrong:
        raise SystemExit(f"E[Ẑ] is not Z: problems {wrong}, pool {bias / error:+.1f}")


if __name__ == "__main__":
    typer.run(main)
