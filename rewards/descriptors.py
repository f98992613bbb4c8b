"""Descriptors: what the geometry of a backbone (N, CA, C, O) says of its sites and its contacts.

References:
    Dictionary of protein secondary structure, Kabsch and Sander, 1983, Biopolymers 22:2577-2637
    (the energy of a hydrogen bond).
    New scheme of protein solvent exposure, Hamelryck, 2005, Proteins 59:38-48 (half spheres).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor

__all__ = ["REACH", "Geometry", "geometry"]

REACH: Final = 11.0
"""CB-CB distance in Å up to which two residues are a pair."""
# of residues whose distances to all others are computed together
ROWS: Final = 256


@dataclass(frozen=True)
class Geometry:
    """What a backbone of L residues says about its sites and its P pairs, float64.

    Attributes:
        sites: (L, 84) what the network reads of a site.
        environment: (L, 11) what the regression reads of a site; column 1 is the burial.
        pairs: (2, P) int64, i < j, residues with CB within `REACH`.
        contacts: (P, 41) what the network reads of a pair.
        envelope: (P,) 1 in contact, falling smoothly to 0 at `REACH`.
    """

    sites: Tensor
    environment: Tensor
    pairs: Tensor
    contacts: Tensor
    envelope: Tensor

    @property
    def burial(self) -> Tensor:
        """(L,) neighbors in the cone of the side chain, 1 where half buried."""
        return self.environment[:, 1]


def _unit(v: Tensor) -> Tensor:
    length: Tensor = v.norm(dim=-1, keepdim=True)
    return v / (length + 1e-9)


def _dihedral(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Return the angle in radians around b-c of points (n, 3)."""
    u, v, w = b - a, c - b, d - c
    n1, n2 = torch.linalg.cross(u, v), torch.linalg.cross(v, w)
    return torch.atan2((torch.linalg.cross(n1, n2) * _unit(v)).sum(-1), (n1 * n2).sum(-1))


def _shifted(values: Tensor, run: Tensor, k: int) -> Tensor:
    """Return (L, n) the values k residues further along the same run; 0 beyond its ends."""
    out = torch.zeros_like(values)
    if k > 0 and len(values) > k:
        out[:-k] = torch.where((run[k:] == run[:-k])[:, None], values[k:], 0.0)
    elif k < 0 and len(values) > -k:
        out[-k:] = torch.where((run[-k:] == run[:k])[:, None], values[:k], 0.0)
    return out


def _apart(run: Tensor, index: Tensor, rows: slice) -> Tensor:
    """Return how far rows are from all along the chain; 99 for residues of two runs."""
    same = run[rows, None] == run[None]
    return torch.where(same, index[rows, None] - index[None], 99)


def _blocks(length: int) -> list[slice]:
    """Return blocks of rows; the last one is large, since few rows may be rounded differently."""
    starts = [*range(0, max(length - ROWS, 1), ROWS), length]
    return [slice(a, b) for a, b in pairwise(starts)]


def _inverse(a: Tensor, b: Tensor) -> Tensor:
    return 1 / torch.cdist(a, b).clamp(min=0.5)


def geometry(coords: Tensor, chain: Tensor) -> Geometry:
    """Describe a backbone.

    Args:
        coords: (L, 4, 3) Å, atoms N, CA, C, O, all of them there.
        chain: (L,) int64, equal within a chain; chains are contiguous.

    Raises:
        ValueError: an atom is missing.
    """
    if not bool(coords.isfinite().all()):
        raise ValueError(
            "geometry: an atom is missing (nan); describe residues with N, CA, C and O only."
        )
    coords = coords.double()
    n, ca, c, o = coords.unbind(1)
    length = len(coords)
    b1, b2 = ca - n, c - ca
    cb = -0.58273431 * torch.linalg.cross(b1, b2) + 0.56802827 * b1 - 0.54067466 * b2 + ca
    side = _unit(cb - ca)
    # about where the middle of a side chain is
    middle = ca + 3.0 * side
    index = torch.arange(length)

    # a run is a stretch of bonded residues; bonded[i] is the bond from i - 1 to i
    bonded = torch.zeros(length + 1, dtype=torch.bool)
    bonded[1:length] = ((c[:-1] - n[1:]).norm(dim=-1) < 2.0) & (chain[1:] == chain[:-1])
    before, after = bonded[:-1], bonded[1:]
    run = (~before).long().cumsum(0)

    angles = torch.zeros(length, 6, dtype=torch.float64)
    for k, angle, real in (
        (0, _dihedral(c[:-1], n[1:], ca[1:], c[1:]), before[1:]),
        (2, _dihedral(n[:-1], ca[:-1], c[:-1], n[1:]), after[:-1]),
        (4, _dihedral(ca[:-1], c[:-1], n[1:], ca[1:]), before[1:]),
    ):
        rows = slice(0, -1) if k == 2 else slice(1, None)
        angles[rows, k] = torch.where(real, angle.sin(), 0.0)
        angles[rows, k + 1] = torch.where(real, angle.cos(), 0.0)

    # what is between all pairs, some rows at a time: a few of them stay in the processor's cache
    distance, middles, bond, weight, facing = (
        torch.empty(length, length, dtype=torch.float64) for _ in range(5)
    )
    hydrogen = n.clone()
    hydrogen[1:] += _unit(c[:-1] - o[:-1])
    counts: list[list[Tensor]] = []
    most = torch.full((3, length), torch.inf, dtype=torch.float64)
    for rows in _blocks(length):
        apart = _apart(run, index, rows)
        myself = index[rows, None] == index
        d = distance[rows] = torch.cdist(cb[rows], cb)
        m = middles[rows] = torch.cdist(middle[rows], middle)
        ahead = (_unit(cb[None] - cb[rows, None]) * side[rows, None]).sum(-1)
        cone = ((ahead + 0.5).clamp(min=0) / 1.5) ** 2

        def near(d: Tensor, r: float, width: float = 1.0, myself: Tensor = myself) -> Tensor:
            return d.neg().add_(r).div_(width).sigmoid_().masked_fill_(myself, 0.0)

        close, around_ = near(d, 9), near(d, 13)
        row = [close.mul(cone).sum(-1) / 4]
        row += [(around_ * (ahead > 0)).sum(-1) / 12, (around_ * (ahead <= 0)).sum(-1) / 12]
        touching, around = torch.zeros_like(row[0]), torch.zeros_like(row[0])
        for atom in range(4):
            to = torch.cdist(middle[rows], coords[:, atom])
            touching, around = touching + near(to, 5, 0.7).sum(-1), around + near(to, 7).sum(-1)
        row += [touching / 6, around / 20]
        # Kabsch and Sander's energy, donor i and acceptor j, the hydrogen opposite to the carbonyl
        energy = 27.9 * (
            _inverse(n[rows], o)
            + _inverse(hydrogen[rows], c)
            - _inverse(hydrogen[rows], o)
            - _inverse(n[rows], c)
        )
        no_donor = (~before[rows])[:, None] | (apart.abs() < 2)
        energy = torch.where(no_donor | (energy > -0.2), 0.0, energy).clamp(min=-3.5)
        bond[rows] = energy
        for k, kind in enumerate((apart == 4, apart == 3, apart.abs() > 4)):
            chosen = torch.where(kind, energy, 0.0)
            row.append(chosen.amin(1) / -2.0)
            most[k] = torch.minimum(most[k], chosen.amin(0))
        row += [near(d, r).sum(-1) / scale for r, scale in _COUNTS]
        row += [near(m, 6, 0.7).sum(-1) / 3, near(m, 8).sum(-1) / 6]
        weight[rows] = close * (apart.abs() > 1)
        facing[rows] = weight[rows] * ((ahead + 0.5).clamp(min=0) / 1.5)
        counts.append(row)
    burial, upper, lower, touching, around, *rest = (
        torch.cat(parts) for parts in zip(*counts, strict=True)
    )
    donors, shells = rest[:3], rest[3:]
    bonds = [b for k in range(3) for b in (donors[k], most[k] / -2.0)]
    helix, strand = bonds[0] + bonds[1], bonds[4] + bonds[5]

    spans = []
    for k in (2, 3, 4):
        span = torch.zeros(length, dtype=torch.float64)
        if length > k:
            d = (ca[k:] - ca[:-k]).norm(dim=-1) / (3.8 * k) * 2 - 1
            span[:-k] = torch.where(run[k:] == run[:-k], d, 0.0)
        back = torch.zeros_like(span)
        back[k:] = span[:-k]
        spans += [span, back]
    _, which = chain.unique(return_inverse=True)
    blank = torch.zeros(int(which.max()) + 1, dtype=torch.int64)
    start_, stop = (
        blank.scatter_reduce(0, which, index, kind, include_self=False)[which]
        for kind in ("amin", "amax")
    )
    ends = [torch.exp((start_ - index) / 3.0).double(), torch.exp((index - stop) / 3.0).double()]

    local = torch.cat([angles[:, :4], torch.stack([burial, helix, strand], -1)], -1)
    window = [_shifted(local, run, k) for k in (-3, -2, -1, 1, 2, 3)]
    kinds = torch.stack([burial, helix, strand, torch.ones_like(burial)], -1)
    columns = [
        *shells[:-2],
        *(burial, upper, lower),
        *shells[-2:],
        *(touching, around, *bonds, *spans, *ends, before.double(), after.double()),
    ]
    sites = torch.cat(
        [torch.stack(columns, -1), angles, *window, weight @ kinds / 6, facing @ kinds / 4], -1
    )
    environment = torch.stack(
        [
            torch.ones_like(burial),
            burial,
            (burial - 1) ** 2,
            touching,
            upper,
            (bonds[0] + bonds[1]).clamp(0, 2) / 1.5,
            strand / 1.5,
            torch.sigmoid(6 * angles[:, 0]),
            bonds[1] - bonds[0],
            torch.maximum(*ends),
            columns[3],
        ],
        -1,
    )

    i, j = ((distance < REACH) & (index[:, None] < index[None])).nonzero(as_tuple=True)
    d, line = distance[i, j], _unit(cb[j] - cb[i])

    def radial(x: Tensor, centers: Tensor, width: float) -> Tensor:
        return torch.exp(-(((x[:, None] - centers) / width) ** 2))

    # j - i, or 99 between two runs
    steps = torch.where(run[i] == run[j], j - i, 99)
    along = [steps == k for k in range(1, 6)]
    contacts = torch.cat(
        [
            radial(d, torch.arange(3, 12), 1.0),
            radial(middles[i, j], torch.arange(2, 15, 2), 2.0),
            torch.stack(
                [
                    (ca[i] - ca[j]).norm(dim=-1) / 10,
                    (side[i] * line).sum(-1),
                    -(side[j] * line).sum(-1),
                    (side[i] * side[j]).sum(-1),
                    burial[i],
                    burial[j],
                ],
                -1,
            ),
            angles[i][:, :4],
            angles[j][:, :4],
            torch.stack(
                [
                    (_unit(c[i] - n[i]) * line).sum(-1),
                    (_unit(c[j] - n[j]) * line).sum(-1),
                    (_unit(o[i] - c[i]) * _unit(o[j] - c[j])).sum(-1),
                    bond[i, j],
                    bond[j, i],
                    *(a.double() for a in along),
                    (steps > 5).double(),
                ],
                -1,
            ),
        ],
        -1,
    )
    envelope = 0.5 * (1 + torch.cos(math.pi * ((d - REACH + 3) / 3).clamp(0, 1)))
    return Geometry(sites, environment, torch.stack([i, j]), contacts, envelope)


_COUNTS: Final = ((6.0, 4.0), (8.0, 8.0), (10.0, 14.0), (12.0, 20.0), (14.0, 28.0))
"""Radii in Å of the neighbor counts, and what each count is divided by."""
