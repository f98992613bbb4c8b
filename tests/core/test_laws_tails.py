"""No invisible tails: what holds a part of the target has a probability in the proposal, too.

The weights of what is never drawn are never seen, and the others look healthy. So the law of the
proposal chain is enumerated here, state by state, and not sampled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import exact
import numpy as np
import pytest
import torch

from seqalign.core.discrete import MaskedProcess
from seqalign.core.method import samples
from seqalign.core.objective import Reward
from seqalign.core.process import Designs
from seqalign.core.proposal import Base, Tilted
from seqalign.core.selection import Resample
from seqalign.core.smc import SMC
from seqalign.core.streams import Streams
from seqalign.core.tempering import Linear
from seqalign.space.space import DesignSpace

LENGTH, V = 4, 3
# what holds a percent of the target is met by some of this many particles
PARTICLES = 80_000


class Discouraging(Reward):
    """-30 for every D, and all of it back for nothing but D: a gradient that is far too sure."""

    name = "discouraging"
    differentiable = True

    def relaxed(self, x: torch.Tensor) -> torch.Tensor:
        d = x[..., 2]
        return 30.0 * (LENGTH * d.prod(-1) - d.sum(-1))

    def __call__(self, designs: Designs) -> torch.Tensor:
        return self.relaxed(torch.nn.functional.one_hot(designs.x, V).double())


def modes() -> exact.Table:
    """The any-order conditionals of a law with two rare pure modes among mixed sequences."""
    full = exact.grid(V, LENGTH)
    # A and K in turn, which the constraints below forbid; independent letters know of no turns
    p = np.full(len(full), 1e-9)
    mixed = (full < 2).all(1) & (np.ptp(full, axis=1) > 0)
    p[mixed] = 0.98 / mixed.sum()
    p[0] = p[-1] = 0.01
    states = exact.grid(V + 1, LENGTH)
    probs = np.full((len(states), LENGTH, V), 1.0 / V)
    for n, state in enumerate(states):
        fits = np.all((state == V) | (state == full), -1)
        for i in np.flatnonzero(state == V):
            probs[n, i] = [p[fits & (full[:, i] == a)].sum() for a in range(V)]
            probs[n, i] /= probs[n, i].sum()
    return exact.Table(torch.tensor(np.log(probs)), torch.zeros(probs.shape), V + 1)


def problem(order: str, reward: Reward, space: DesignSpace | None) -> exact.Problem:
    table, blocks = modes(), () if space is None else space.blocks
    process: Any = MaskedProcess(
        table,
        exact.AKD,
        LENGTH,
        LENGTH,
        order=order,
        blocks=blocks,  # type: ignore[arg-type]
    )
    p_pre = exact.masked_law(table, LENGTH, order, [V] * LENGTH, blocks=blocks)
    return exact.enumerated(process, reward, 1.0, p_pre, space)


def proposal_law(p: exact.Problem, proposal: Base | Tilted) -> np.ndarray:
    """The law of finished designs under the proposal, without weights, by enumeration: (V^L,)."""
    loop = SMC(p.process, p.reward, 1.0, proposal=proposal, space=p.space)
    times = p.process.times.tolist()
    law = {(V,) * LENGTH: 1.0}
    for i in range(1, LENGTH + 1):
        pairs = [
            (x, y)
            for x in law
            for y in map(tuple, exact.grid(V + 1, LENGTH).tolist())
            if all(a in (b, V) for a, b in zip(x, y, strict=True))
        ]
        # states of an island have as many open letters
        nxt: dict[tuple[int, ...], float] = {}
        for count in {x.count(V) for x in law}:
            some = [pair for pair in pairs if pair[0].count(V) == count]
            x, y = (torch.tensor(part)[:, None] for part in zip(*some, strict=True))
            streams = Streams(0, range(len(some)))
            state = loop._look(x, times[i - 1], streams).begin(x, i - 1, 0.0)
            _, shift = loop._propose(state, i, streams, y[:, 0])
            base = p.process.transition(x, state.posterior, times[i - 1], times[i]).log_prob(y)
            # what the base cannot do has no weight; nor has what the proposal cannot
            never = torch.isneginf(base) | torch.isneginf(shift)
            q = torch.where(never, 0.0, torch.exp(base - shift))[:, 0].tolist()
            for (before, after), chance in zip(some, q, strict=True):
                if chance > 0:
                    nxt[after] = nxt.get(after, 0.0) + law[before] * chance
        law = nxt
    return np.array([law.get(tuple(x), 0.0) for x in exact.grid(V, LENGTH).tolist()])


PURE = ["AK|KA|AD|DA|KD|DK"]
SPACES: dict[str, Callable[[], DesignSpace | None]] = {
    "none": lambda: None,
    "letters": lambda: exact.constrained(residues={"1": {"allow": "AD"}}),
    "patterns": lambda: exact.constrained(forbid=PURE),
    # several groups: h is a product
    "split": lambda: exact.constrained(
        forbid=PURE, composition={"K": {"max": 0.5}}, net_charge={"min": -9}, joint_limit=0
    ),
    "tied": lambda: exact.constrained(forbid=PURE, tie=[[1, 4]]),
}
CASES = {
    "sure look-ahead": (exact.Zero, Base(), ("patterns", "split", "tied")),
    "sure gradient": (Discouraging, Tilted(), tuple(SPACES)),
}


@pytest.mark.parametrize("order", ["random", "parallel"])
@pytest.mark.parametrize(
    ("case", "space"), [(case, space) for case, (_, _, some) in CASES.items() for space in some]
)
def test_what_holds_a_percent_of_the_target_is_drawn(case, space, order):
    reward, proposal, _ = CASES[case]
    p = problem(order, reward(), SPACES[space]())
    found = proposal_law(p, proposal)
    if p.space is None or p.space.exact_lookahead:
        assert abs(found.sum() - 1) < 1e-6, "the proposal is a law, with no dead end"
    if p.space is not None and p.space.exact_lookahead:
        full = torch.tensor(exact.grid(V, LENGTH))
        inside = p.space.contains(full[None])[0].numpy()
        assert found[~inside].sum() < 1e-12
    held = np.flatnonzero(p.target >= 0.01)
    worst = held[found[held].argmin()]
    assert found[worst] * PARTICLES >= 1, (
        f"{exact.grid(V, LENGTH)[worst]} holds {p.target[worst]:.3f} of the target and is drawn "
        f"with probability {found[worst]:.1e}"
    )


MIXED: dict[str, tuple[Callable[[Any], exact.Problem], Any]] = {
    "random": (lambda space: exact.masked("random", space=space), None),
    "parallel": (lambda space: exact.masked("parallel", space=space), None),
    "uniform": (lambda space: exact.uniform(space=space), exact.space(fixed="_B_")),
    "gaussian": (lambda space: exact.gaussian(), None),
    "patterns": (
        lambda space: exact.masked("parallel", length=4, steps=4, bias=0.2, space=space, scale=0.3),
        exact.CONSTRAINED["forbid"](),
    ),
    "split": (
        lambda space: exact.masked("random", length=4, steps=4, bias=0.2, space=space, scale=0.3),
        exact.CONSTRAINED["all-split"](),
    ),
    "tied": (
        lambda space: exact.masked("random", length=4, steps=4, bias=0.2, space=space, scale=0.3),
        exact.CONSTRAINED["tie-budget"](),
    ),
    "tied-parallel": (
        lambda space: exact.masked("parallel", length=4, steps=4, bias=0.2, space=space, scale=0.3),
        exact.CONSTRAINED["tie-charge"](),
    ),
}


@pytest.mark.parametrize("name", MIXED)
def test_any_defense_is_exact(name):
    # a share of almost all, so that the weights of what is mixed in count
    make, space = MIXED[name]
    p = make(space)
    loop = SMC(
        p.process, p.reward, 1.0, proposal=Tilted(), tempering=Linear(), space=space, defense=0.9,
        selection=Resample("ssp", 1.0),
    )  # fmt: skip
    shape = (12_000, 2)
    exact.assert_exact(samples(loop, *loop.run(shape, Streams(40, range(shape[0])))), p, error=0.02)
