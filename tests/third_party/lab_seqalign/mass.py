"""Bounds on the molecular mass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from seqalign.space.constraint import Constraint, Positions
from seqalign.space.counter import Counter

# average masses of residues in whole daltons, and of the water at the ends
MASS = {
    "A": 71, "C": 103, "D": 115, "E": 129, "F": 147, "G": 57, "H": 137, "I": 113, "K": 128,
    "L": 113, "M": 131, "N": 114, "P": 97, "Q": 128, "R": 156, "S": 87, "T": 101, "V": 99,
    "W": 186, "Y": 163,
}  # fmt: skip
WATER = 18


@dataclass(frozen=True)
class MolecularMass(Constraint, key="molecular_mass"):
    """The mass of a protein lies between min and max, in daltons.

    References:
        Low, "Heavy letters", Letters on Weighing 2022.
    """

    min: int | None = None
    max: int | None = None

    def counter(self, at: Positions) -> Counter:
        weight = np.array([[MASS[a] for a in at.alphabet.letters]] * at.length)
        weight[0] += WATER
        return Counter(self.key, weight, self.min, self.max)
