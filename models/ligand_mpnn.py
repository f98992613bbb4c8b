"""LigandMPNN's context encoder: what ligands, metals and nucleic acids near a residue add to it.

ProteinMPNN's encoder reads the backbone; to each residue's state this one adds what the atoms
nearest to it say. Two graphs per residue: of the residue with its atoms (distances to N, CA, C, O
and CB, directions in the frame of N, CA, C, chemical elements), and of these atoms with each other.
Their layers take turns. All else, the decoder too, is ProteinMPNN's. Parameters are named as in the
published checkpoints.

References:
    Atomic context-conditioned protein sequence design using LigandMPNN, Dauparas et al., Nature
    Methods 2025, https://doi.org/10.1038/s41592-025-02626-1
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqalign.models.mpnn import RADIAL, FeedForward, beta, radial_basis, summed

__all__ = [
    "ContextEncoder", "Nearby", "directions", "group_and_period", "nearest", "take_context",
]  # fmt: skip

# rows of the tables of chemistry: atomic numbers, groups and periods, each from 0 for no element
ELEMENTS: Final = 120
GROUPS: Final = 19
PERIODS: Final = 8
_CHEMISTRY: Final = ELEMENTS + GROUPS + PERIODS
# residues whose atoms are looked at together: their pairs of atoms are what takes memory
RESIDUES: Final = 64
_NOBLE: Final = (0, 2, 10, 18, 36, 54, 86, 118)


def group_and_period(element: int) -> tuple[int, int]:
    """Return group (1-18) and period (1-7) of an atomic number; lanthanides are in group 3."""
    if not 0 < element <= _NOBLE[-1]:
        return 0, 0
    period = next(i for i, last in enumerate(_NOBLE) if element <= last)
    place, size = element - _NOBLE[period - 1], _NOBLE[period] - _NOBLE[period - 1]
    if place <= min(2, size - 1):
        return place, period
    # from the end a group is where it is in the long rows; what has no place there is group 3
    return max(3, 18 - size + place), period


def _one_hot() -> Tensor:
    """Return (120, 147): each element's number, group and period, one-hot."""
    rows = [(z, *group_and_period(z)) for z in range(ELEMENTS)]
    sizes = (ELEMENTS, GROUPS, PERIODS)
    columns = zip(torch.tensor(rows).T, sizes, strict=True)
    return torch.cat([F.one_hot(column, size) for column, size in columns], 1).float()


@dataclass(frozen=True, eq=False)
class Nearby:
    """The atoms nearest to each of N residues.

    Attributes:
        xyz: (N, M, 3) float32, Å.
        element: (N, M) int64, atomic numbers; 0 where there is no atom.
    """

    xyz: Tensor
    element: Tensor

    def to(self, device: torch.device | str) -> Nearby:
        """Return the same on a device."""
        return Nearby(self.xyz.to(device), self.element.to(device))


def nearest(coords: Tensor, xyz: Tensor, element: Tensor, count: int) -> Nearby:
    """Return for each residue the atoms nearest to its virtual CB, the nearest first.

    Args:
        coords: (N, 4, 3) Å, atoms N, CA, C, O.
        xyz: (A, 3) Å, all atoms.
        element: (A,) atomic numbers.
        count: how many; where there are fewer atoms each residue has all of them.
    """
    from scipy.spatial import KDTree

    k = min(count, len(xyz))
    if not k:
        return Nearby(torch.zeros(len(coords), 0, 3), torch.zeros(len(coords), 0).long())
    tree, at = KDTree(xyz.double().numpy()), beta(coords.double()).numpy()
    _, rows = tree.query(at, k=list(range(1, k + 1)))
    index = torch.from_numpy(rows).long()
    return Nearby(xyz[index], element[index])


def directions(coords: Tensor, xyz: Tensor) -> Tensor:
    """Return (N, M, 4): where atoms (N, M, 3) lie, seen from each residue (N, 4, 3).

    In the frame with CA at the origin, N on the first axis and C in the plane of the first two:
    cosine and sine of the azimuth, cosine and sine of the elevation.
    """
    n, ca, c, _ = coords.unbind(1)
    first = F.normalize(n - ca, dim=-1)
    rest = c - ca
    second = F.normalize(rest - first * (first * rest).sum(-1, keepdim=True), dim=-1)
    frame = torch.stack((first, second, torch.linalg.cross(first, second)), -1)
    local = (xyz - ca[:, None]) @ frame
    flat = (local[..., 0] ** 2 + local[..., 1] ** 2 + 1e-8).sqrt()
    far = local.norm(dim=-1) + 1e-8
    return torch.stack(
        (local[..., 0] / flat, local[..., 1] / flat, flat / far, local[..., 2] / far), -1
    )


class ContextLayer(nn.Module):
    """Messages to a node from M inputs of some parts each."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width) for _ in range(2))
        self.W1 = nn.Linear((1 + parts) * width, width)
        self.W2, self.W3 = (nn.Linear(width, width) for _ in range(2))
        self.dense = FeedForward(width)

    def forward(self, h: Tensor, parts: Sequence[Tensor], mask: Tensor | None) -> Tensor:
        """Return nodes (..., H) of nodes and parts (..., M, H), those with mask (..., M) 1."""
        own, *others = self.W1.weight.split(h.shape[-1], 1)
        m = F.linear(h, own, self.W1.bias)[..., None, :]
        for part, share in zip(parts, others, strict=True):
            m = m + F.linear(part, share)
        m = F.gelu(self.W2(F.gelu(m)))
        h = self.norm1(h + summed(m, self.W3, mask))
        out: Tensor = self.norm2(h + self.dense(h))
        return out


class ContextFeatures(nn.Module):
    """Atoms as a residue sees them, as they are, and in pairs."""

    def __init__(self, width: int, kinds: int) -> None:
        super().__init__()
        self.type_linear = nn.Linear(_CHEMISTRY, kinds)
        self.node_project_down = nn.Linear(5 * RADIAL + kinds + 4, width)
        self.norm_nodes = nn.LayerNorm(width)
        self.y_nodes = nn.Linear(_CHEMISTRY, width, bias=False)
        self.y_edges = nn.Linear(RADIAL, width, bias=False)
        self.norm_y_nodes, self.norm_y_edges = (nn.LayerNorm(width) for _ in range(2))

    def forward(self, coords: Tensor, near: Nearby) -> tuple[Tensor, Tensor, Tensor]:
        """Return atoms seen from residues (N, M, H), atoms (N, M, H) and pairs (N, M, M, H)."""
        table = _one_hot().to(near.element.device)[near.element]
        kind, node = self.type_linear(table), self.y_nodes(table)
        places = torch.cat((coords, beta(coords)[:, None]), 1)
        radial = radial_basis(_distance(near.xyz[:, :, None], places[:, None]))
        seen = torch.cat((radial, kind, directions(coords, near.xyz)), -1)
        pairs = radial_basis(_distance(near.xyz[:, :, None], near.xyz[:, None])[..., None])
        return (
            self.norm_nodes(self.node_project_down(seen)),
            self.norm_y_nodes(node),
            self.norm_y_edges(self.y_edges(pairs)),
        )


def _distance(a: Tensor, b: Tensor) -> Tensor:
    return ((a - b) ** 2).sum(-1).add(1e-6).sqrt()


class ContextEncoder(nn.Module):
    """Adds to residues what the atoms near them say."""

    def __init__(self, width: int = 128, depth: int = 2, kinds: int = 64) -> None:
        super().__init__()
        self.features = ContextFeatures(width, kinds)
        self.W_v, self.W_c, self.W_nodes_y, self.W_edges_y = (
            nn.Linear(width, width) for _ in range(4)
        )
        self.context_encoder_layers = nn.ModuleList(ContextLayer(width, 2) for _ in range(depth))
        self.y_context_encoder_layers = nn.ModuleList(ContextLayer(width, 1) for _ in range(depth))
        self.V_C = nn.Linear(width, width, bias=False)
        self.V_C_norm = nn.LayerNorm(width)

    def forward(self, h: Tensor, coords: Tensor, near: Nearby) -> Tensor:
        """Return residues (N, H) of the encoder's (N, H), N, CA, C, O (N, 4, 3) and their atoms."""
        pieces = zip(*(x.split(RESIDUES) for x in (h, coords, near.xyz, near.element)), strict=True)
        return torch.cat([self._piece(a, b, Nearby(c, d)) for a, b, c, d in pieces])

    def _piece(self, h: Tensor, coords: Tensor, near: Nearby) -> Tensor:
        seen, atoms, pairs = self.features(coords, near)
        there = near.element > 0
        mask = None if bool(there.all()) else there.to(h.dtype)
        both = None if mask is None else mask[:, :, None] * mask[:, None]
        around, seen = self.W_c(h), self.W_v(seen)
        atoms, pairs = self.W_nodes_y(atoms), self.W_edges_y(pairs)
        for layer, among in zip(
            self.context_encoder_layers, self.y_context_encoder_layers, strict=True
        ):
            atoms = among(atoms, [pairs], both)
            around = layer(around, [seen, atoms], mask)
        out: Tensor = h + self.V_C_norm(self.V_C(around))
        return out


def take_context(state: dict[str, Tensor]) -> ContextEncoder:
    """Return the frozen context encoder in a state dict, and take its tensors out."""
    width, kinds = len(state["W_c.weight"]), len(state["features.type_linear.weight"])
    prefix = "context_encoder_layers."
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith(prefix))
    with torch.random.fork_rng(devices=[]):
        encoder = ContextEncoder(width, depth, kinds)
    own = {name: state.pop(name).float() for name in encoder.state_dict()}
    encoder.load_state_dict(own, assign=True)
    return encoder.eval().requires_grad_(False)
