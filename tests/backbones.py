"""Backbones for tests of what reads geometry, and a small network that reads them."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from seqalign.core.sequence import PROTEIN
from seqalign.files.numbering import Numbering
from seqalign.files.structure import Structure
from seqalign.models.mpnn import MPNN

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


def _benchmark():
    path = Path(__file__).parents[1] / "examples" / "benchmarks" / "inverse_folding.py"
    spec = importlib.util.spec_from_file_location("benchmark_inverse_folding", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BENCHMARK = _benchmark()


def backbone_of(length: int, seed: int = 0, chains: int = 1) -> Structure:
    """Return a perturbed helical bundle with random letters."""
    generator = torch.Generator().manual_seed(seed)
    ideal = BENCHMARK.bundle(length, helix=14)
    letters = torch.randint(20, (length,), generator=generator).tolist()
    names = tuple("ABC"[i * chains // length] for i in range(length))
    index = torch.arange(length) + 100 * torch.tensor(["ABC".index(c) for c in names])
    return replace(
        ideal,
        sequence="".join(PROTEIN.letters[a] for a in letters),
        coords=ideal.coords + 0.03 * torch.randn(length, 4, 3, generator=generator),
        numbering=Numbering(names, tuple(str(i + 1) for i in range(length))),
        residue_index=index,
    )


def network(letters: int = 22, width: int = 16, seed: int = 0) -> MPNN:
    """Return a small network whose outputs differ clearly."""
    torch.manual_seed(seed)
    net = MPNN(width, 3, letters)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
        net.W_out.weight.mul_(2)
        net.W_s.weight.mul_(5)
    return net.eval().requires_grad_(False)
