"""Ideal backbones from torsion angles, for tests of what reads geometry."""

from __future__ import annotations

import math

import torch
from torch import Tensor

HELIX, STRAND, TURN = (-60.0, -45.0), (-120.0, 130.0), (60.0, 40.0)


def _next(a: Tensor, b: Tensor, c: Tensor, length: float, angle: float, dihedral: float) -> Tensor:
    """Place the atom at a bond length (Å), angle and dihedral (degrees) behind a, b, c."""
    angle, dihedral = math.radians(angle), math.radians(dihedral)
    bc = (c - b) / (c - b).norm()
    n = torch.linalg.cross(b - a, bc)
    n = n / n.norm()
    m = torch.linalg.cross(n, bc)
    return (
        c
        - bc * length * math.cos(angle)
        + m * length * math.sin(angle) * math.cos(dihedral)
        + n * length * math.sin(angle) * math.sin(dihedral)
    )


def backbone(torsions: list[tuple[float, float]]) -> Tensor:
    """Build (L, 4, 3) N, CA, C, O of a chain with these (phi, psi) in degrees, ideal otherwise."""
    n = torch.zeros(3, dtype=torch.float64)
    ca = torch.tensor([1.46, 0, 0], dtype=torch.float64)
    c = ca + 1.52 * torch.tensor([math.cos(1.21), math.sin(1.21), 0], dtype=torch.float64)
    residues = []
    for (_, psi), (next_phi, _) in zip(torsions, [*torsions[1:], (0, 0)], strict=True):
        o = _next(n, ca, c, 1.23, 120.5, psi + 180)
        residues.append(torch.stack([n, ca, c, o]))
        next_n = _next(n, ca, c, 1.33, 116.2, psi)
        next_ca = _next(ca, c, next_n, 1.46, 121.7, 180)
        n, ca, c = next_n, next_ca, _next(c, next_n, next_ca, 1.52, 111.0, next_phi)
    return torch.stack(residues)
