"""ProteinMPNN's network: message passing over a backbone.

Residues are nodes, each with edges to its K nearest ones (itself included); an encoder reads the
structure, a decoder the letters. Maps of concatenated inputs are split over the inputs, so that
each is computed once per residue or per edge. Parameters are named as in the published checkpoints.

References:
    Robust deep learning-based protein sequence design using ProteinMPNN, Dauparas et al., Science
    2022, https://doi.org/10.1126/science.add2187 (the network)
    Generative models for graph-based protein design, Ingraham et al., NeurIPS 2019 (its ancestor)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RADIAL: Final = 16
REACH: Final = 32
SCALE: Final = 30.0
# the 25 ordered pairs of (N, CA, C, O, CB) in the order of the checkpoints' edge embedding
PAIRS: Final = tuple(
    ("N CA C O CB".split().index(a), "N CA C O CB".split().index(b))
    for a, b in (
        pair.split("-")
        for pair in (
            "CA-CA N-N C-C O-O CB-CB CA-N CA-C CA-O CA-CB N-C N-O N-CB CB-C CB-O O-C "
            "N-CA C-CA O-CA CB-CA C-N O-N CB-N C-CB O-CB C-O"
        ).split()
    )
)


@dataclass(frozen=True)
class Graph:
    """The nearest neighbors of N residues, several backbones after one another if need be.

    Attributes:
        index: (N, K) int64, the neighbors of each residue, itself first.
        offset: (N, K) int64, 0..64 the clipped difference of residue numbers, 65 another chain.
        distance: (N, K, 25) float32, Å, between the five atoms of two residues.
        mask: (N, K) float32, 0 at neighbors that do not exist; None where all do.
    """

    index: Tensor
    offset: Tensor
    distance: Tensor
    mask: Tensor | None = None

    def to(self, device: torch.device | str) -> Graph:
        """Return the same on a device."""
        index, offset, distance = (v.to(device) for v in (self.index, self.offset, self.distance))
        return Graph(index, offset, distance, None if self.mask is None else self.mask.to(device))


def beta(coords: Tensor) -> Tensor:
    """Return the virtual CB (L, 3) of N, CA, C, O (L, 4, 3), Å."""
    n, ca, c, _ = coords.unbind(1)
    b1, b2 = ca - n, c - ca
    cb: Tensor = -0.58273431 * torch.cross(b1, b2, dim=-1) + 0.56802827 * b1 - 0.54067466 * b2 + ca
    return cb


def neighbor_graph(
    coords: Tensor, residue_index: Tensor, chain_index: Tensor, neighbors: int
) -> Graph:
    """Return the graph of one backbone: coords (L, 4, 3) in Å of N, CA, C, O."""
    ca = coords[:, 1]
    atoms = torch.cat((coords, beta(coords)[:, None]), 1)
    k = min(neighbors, len(coords))
    d = ((ca[:, None] - ca[None]) ** 2).sum(-1).add(1e-6).sqrt()
    index = d.topk(k, largest=False).indices
    first, second = (list(x) for x in zip(*PAIRS, strict=True))
    delta = atoms[:, None, first] - atoms[index][:, :, second]
    distance = (delta**2).sum(-1).add(1e-6).sqrt()
    offset = (residue_index[:, None] - residue_index[index] + REACH).clamp(0, 2 * REACH)
    same = chain_index[:, None] == chain_index[index]
    return Graph(index, torch.where(same, offset, 2 * REACH + 1), distance)


def residue_numbers(coords: Tensor) -> Tensor:
    """Return (L,) running numbers with a jump of 100 where C-N is longer than 2 Å, (L, 4, 3)."""
    gap = (coords[1:, 0] - coords[:-1, 2]).norm(dim=-1) > 2.0
    return torch.arange(len(coords)) + 100 * F.pad(gap.long().cumsum(0), (1, 0))


def join(graphs: list[Graph]) -> Graph:
    """Return one graph of several backbones; short ones get neighbors that do not exist."""
    k = max(g.index.shape[1] for g in graphs)
    short = any(g.index.shape[1] < k for g in graphs)
    start, parts, masks = 0, [], []
    for g in graphs:
        n, have = g.index.shape
        index = F.pad(g.index + start, (0, k - have))
        index[:, have:] = torch.arange(start, start + n)[:, None]
        offset = F.pad(g.offset, (0, k - have))
        parts.append((index, offset, F.pad(g.distance, (0, 0, 0, k - have))))
        masks.append((torch.arange(k) < have).float().expand(n, k))
        start += n
    index, offset, distance = (torch.cat(x) for x in zip(*parts, strict=True))
    return Graph(index, offset, distance, torch.cat(masks) if short else None)


class FeedForward(nn.Module):
    """Two linear maps with a GELU between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.W_in = nn.Linear(width, 4 * width)
        self.W_out = nn.Linear(4 * width, width)

    def forward(self, h: Tensor) -> Tensor:
        """Return (..., H) of (..., H)."""
        out: Tensor = self.W_out(F.gelu(self.W_in(h)))
        return out


def summed(hidden: Tensor, last: nn.Linear, mask: Tensor | None) -> Tensor:
    """Return Σ_neighbors last(hidden) / 30; the linear map comes after the sum."""
    if mask is None:
        total, count = hidden.sum(-2), hidden.shape[-2]
        return F.linear(total / SCALE, last.weight, last.bias * (count / SCALE))
    total = (hidden * mask[..., None]).sum(-2)
    return F.linear(total / SCALE, last.weight) + last.bias * (mask.sum(-1, keepdim=True) / SCALE)


class EncoderLayer(nn.Module):
    """Messages along edges to residues, then to the edges themselves."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.W1, self.W11 = (nn.Linear(3 * width, width) for _ in range(2))
        self.W2, self.W3, self.W12, self.W13 = (nn.Linear(width, width) for _ in range(4))
        self.dense = FeedForward(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, e: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """Return residues (N, H) and edges (N, K, H) of the same."""
        m = F.gelu(self.W2(F.gelu(_mix(self.W1, h, e, graph.index))))
        h = self.norm1(h + self.dropout(summed(m, self.W3, graph.mask)))
        h = self.norm2(h + self.dropout(self.dense(h)))
        m = self.W13(F.gelu(self.W12(F.gelu(_mix(self.W11, h, e, graph.index)))))
        return h, self.norm3(e + m * self.dropout(m.new_ones(len(m), 1, m.shape[-1])))


def _mix(first: nn.Linear, h: Tensor, e: Tensor, index: Tensor) -> Tensor:
    """Return first([h_i, e_ij, h_j]), split over its three inputs."""
    width = h.shape[-1]
    own, edge, other = first.weight.split((width, width, width), 1)
    return (
        F.linear(e, edge)
        + F.linear(h, own, first.bias)[:, None]
        + F.linear(h, other)[index.flatten()].view(*index.shape, -1)
    )


class DecoderLayer(nn.Module):
    """Messages to residues along edges that also carry the neighbor's letter."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width) for _ in range(2))
        self.W1 = nn.Linear(4 * width, width)
        self.W2, self.W3 = (nn.Linear(width, width) for _ in range(2))
        self.dense = FeedForward(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, e: Tensor, letters: Tensor, graph: Graph) -> Tensor:
        """Return residues (N, H) of residues, edges (N, K, H) and embedded letters (N, H)."""
        width = h.shape[-1]
        own, edge, letter, other = self.W1.weight.split((width,) * 4, 1)
        sent = F.linear(letters, letter) + F.linear(h, other)
        first = (
            F.linear(e, edge)
            + F.linear(h, own, self.W1.bias)[:, None]
            + sent[graph.index.flatten()].view(*graph.index.shape, -1)
        )
        m = F.gelu(self.W2(F.gelu(first)))
        h = self.norm1(h + self.dropout(summed(m, self.W3, graph.mask)))
        out: Tensor = self.norm2(h + self.dropout(self.dense(h)))
        return out


def radial_basis(distance: Tensor) -> Tensor:
    """Return (..., 16 · n) of distances (..., n) in Å: Gaussians at 2-22 Å of width 1.25 Å."""
    r = distance[..., None] - torch.linspace(2.0, 22.0, RADIAL, device=distance.device)
    # e^-80 is zero beside one, and far smaller numbers take ten times as long
    return r.div_(20.0 / RADIAL).square_().neg_().clamp_(min=-80.0).exp_().flatten(-2)


class Positions(nn.Module):
    """The embedding of clipped differences of residue numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * REACH + 2, 16)


class Features(nn.Module):
    """Edges from distances and residue numbers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embeddings = Positions()
        self.edge_embedding = nn.Linear(16 + RADIAL * len(PAIRS), width, bias=False)
        self.norm_edges = nn.LayerNorm(width)

    def forward(self, graph: Graph) -> Tensor:
        """Return edges (N, K, H)."""
        radial = radial_basis(graph.distance)
        position, radius = self.edge_embedding.weight.split((16, RADIAL * len(PAIRS)), 1)
        # 66 rows, one per difference: the one-hot map and its share of the edge embedding
        linear = self.embeddings.linear
        table = F.linear(linear.weight.T + linear.bias, position)
        e: Tensor = self.norm_edges(F.linear(radial, radius) + F.embedding(graph.offset, table))
        return e


class MPNN(nn.Module):
    """Message passing over a backbone: its parameters are named as in the published checkpoints."""

    def __init__(
        self, width: int = 128, depth: int = 3, letters: int = 21, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.features = Features(width)
        self.W_e = nn.Linear(width, width)
        self.W_s = nn.Embedding(letters, width)
        self.encoder_layers = nn.ModuleList(EncoderLayer(width, dropout) for _ in range(depth))
        self.decoder_layers = nn.ModuleList(DecoderLayer(width, dropout) for _ in range(depth))
        self.W_out = nn.Linear(width, letters)

    @property
    def decoder(self) -> list[DecoderLayer]:
        """The decoder's layers."""
        return cast("list[DecoderLayer]", list(self.decoder_layers))

    def encode(self, graph: Graph, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return residues (N, H) and edges (N, K, H); residues begin at zero, or at `start`."""
        e = self.W_e(self.features(graph))
        h = e.new_zeros(len(e), e.shape[-1]) if start is None else start
        for layer in self.encoder_layers:
            h, e = layer(h, e, graph)
        return h, e

    def forward(self, graph: Graph, tokens: Tensor) -> Tensor:
        """Return logits (N, letters) of tokens (N,), all of them seen by all."""
        return self.decode(*self.encode(graph), graph, tokens)

    def decode(self, h: Tensor, e: Tensor, graph: Graph, tokens: Tensor) -> Tensor:
        """Return logits (N, letters) of tokens (N,) on an encoded backbone."""
        letters = self.W_s(tokens)
        for layer in self.decoder_layers:
            h = layer(h, e, letters, graph)
        out: Tensor = self.W_out(h)
        return out


def of(state: Mapping[str, Tensor]) -> MPNN:
    """Return the frozen network that a state dict belongs to, whatever its size."""
    state = {name: w.float() for name, w in state.items()}
    letters, width = state["W_s.weight"].shape
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("encoder_layers."))
    # an oracle has no letters to say: its output map stays, unused, at zero
    state.setdefault("W_out.weight", torch.zeros(letters, width))
    state.setdefault("W_out.bias", torch.zeros(letters))
    # initial weights are not drawn from the caller's random numbers; on no device ("meta") drawing
    # them would load torch's compiler, which takes seconds
    with torch.random.fork_rng(devices=[]):
        network = MPNN(width, depth, letters)
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False)
