"""A third-party constraint as a folder: the molecular mass, one file and one entry-point line."""

from __future__ import annotations

from pathlib import Path

CODE = '''
"""Bounds on the molecular mass."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from seqalign.space.constraint import Constraint, Positions
from seqalign.space.counter import Counter

# average masses of residues in whole daltons, and of the water at the ends
MASS = dict(zip("ACDEFGHIKLMNPQRSTVWY", (
    71, 103, 115, 129, 147, 57, 137, 113, 128, 113, 131, 114, 97, 128, 156, 87, 101, 99, 186, 163,
), strict=True))
WATER = 18


@dataclass(frozen=True)
class MolecularMass(Constraint):
    """The mass of a protein lies between min and max, in daltons."""

    min: int | None = None
    max: int | None = None
    key: ClassVar[str] = "molecular_mass"

    def counter(self, at: Positions) -> Counter:
        weight = np.array([[MASS[a] for a in at.alphabet.letters]] * at.length)
        weight[0] += WATER
        return Counter(self.key, weight, self.min, self.max)
'''

POINTS = """[seqalign.constraints]
molecular_mass = mass_seqalign:MolecularMass
broken_mass = mass_seqalign_nowhere:MolecularMass
"""


def install(folder: Path) -> Path:
    """Write the plugin below a folder and return the path to put on sys.path."""
    root = folder / "mass"
    root.mkdir(parents=True)
    (root / "mass_seqalign.py").write_text(CODE)
    info = root / "mass_seqalign-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mass-seqalign\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(POINTS)
    return root
