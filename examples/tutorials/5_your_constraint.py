"""Your constraint: one class that says what may stand where, and never a word about weights.

Run python examples/tutorials/5_your_constraint.py; with --quick it draws fewer.
"""

import itertools
import sys
from dataclasses import dataclass

import torch

import seqalign as sa
from seqalign.space.automaton import Automaton
from seqalign.space.constraint import Constraint, Positions


# Cysteines pair up in disulfide bonds, so we want an even number of them in every chain. A
# constraint says so by flags (which letter may stand where), a counter (a weighted sum of letters
# within bounds) or, as here, an automaton that reads a chain from left to right: state 0 is even,
# state 1 odd, and a chain must end in state 0.
@dataclass(frozen=True)
class Even(Constraint, key="even", schema=str):
    """An even number of one letter in every chain."""

    letter: str

    def automaton(self, at: Positions) -> Automaton:
        """Return the two states."""
        letters = at.alphabet.letters
        rows = [tuple(1 - s if a == self.letter else s for a in letters) for s in (0, 1)]
        return Automaton(tuple(rows), (True, False))

    def words(self) -> tuple[str, str]:
        """Say it in reports."""
        return "Even number", f"of {self.letter} in every chain"


# It holds for all 256 sequences of four letters: what the automaton accepts is what is even.
small = sa.Alphabet("ACDE")
space = sa.DesignSpace.build(small, 4, constraints=[Even("C")])
every = torch.tensor(list(itertools.product(range(4), repeat=4)))
assert space.contains(every[None])[0].tolist() == [
    s.count("C") % 2 == 0 for s in small.decode(every)
]

# From here on it is as hard as the others and combines with them: at least one cysteine in an even
# number is two or more. While letters are revealed, the proposal looks ahead and draws from what
# can still end well; the weights correct for that, so that the target is p* restricted to the
# constraints. What they leave empty is refused at once.
model = sa.load_model(
    "pdz-mini",
    design="18-45",
    max_mutations=6,
    composition={"C": {"min": 0.01}},
    constraints=[Even("C")],
)
particles = 16 if "--quick" in sys.argv else 64
stability = sa.load_reward("pdz3-stability")
result = sa.sample(model, stability, "tds", particles=particles, alpha=0.1, seed=7)
print(result)
assert {s.count("C") % 2 for s in result.best(particles).sequences} == {0}

# A package gives it a name by one line, and then campaigns (`constraints: {even: C}`), `check`,
# `new` and the report know it, and load_model takes even="C":
#   [project.entry-points."seqalign.constraints"]
#   even = "my_package.even:Even"
