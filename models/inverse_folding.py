"""Inverse folding: message passing over a backbone, and the masked diffusions of its sequences.

One network in ProteinMPNN's shape runs three kinds of weights. Residues are nodes, each with edges
to its K nearest ones (itself included); an encoder reads the structure, a decoder the letters.

*proteinmpnn.* The published order-agnostic autoregressive model (21 letters, the last X). A residue
that is decoded sees the letters decoded before it, and of the others only the structure.
*fmif.* The masked-diffusion variant of the tutorial (22 letters, the last the mask): every residue
sees every neighbor's letter, its own included, so its posterior is a function of the tokens.
*mpnn-mini.* Our own small weights, of the second kind; data and figures: `cards/mpnn-mini.yaml`.

**ProteinMPNN as masked diffusion.** Revealing one uniformly random position a step is decoding in
a uniformly random order. The states of decoded residues depend on that order, but a process here is
a function of its tokens, so its posterior at x_t decodes the known letters in one fixed order (a
pseudo-random permutation of the residues, `canonical_order`), and each masked position last, seeing
all known ones. Every such conditional is one the network was trained on, and the process is exactly
Markov on tokens. It is not the published sampler to the letter: there a residue's state was
computed at the time of its own decoding, from the letters known then. `sample_autoregressive` is
that sampler: with the states kept, a step costs one position. A process would need those states
(three vectors a residue) in its particles, gathered with them.

**What is exact and fast.** A structure is encoded once (`Backbone`). The first linear map of a
message acts on [h_i, e_ij, letter_j, h_j] and is split over the four: the edge's share is kept per
structure, the letter's share is a table with a row per letter, and the two others are computed per
residue, not per edge. The last linear map of a message comes after the sum over neighbors. In the
first decoder layer h is the encoder's, so a message depends on an edge and a letter only: all of
them are computed once, and the layer is one sum of table rows. Nothing of this approximates.

References:
    Robust deep learning-based protein sequence design using ProteinMPNN, Dauparas et al., Science
    2022, https://doi.org/10.1126/science.add2187 (the network)
    Generative models for graph-based protein design, Ingraham et al., NeurIPS 2019 (its ancestor)
    Fine-tuning discrete diffusion models via reward optimization with applications to DNA and
    protein design, Wang et al., ICLR 2025, https://arxiv.org/abs/2410.13643 (fmif, its oracle)
    Autoregressive diffusion models, Hoogeboom et al., ICLR 2022, https://arxiv.org/abs/2110.02037
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import torch
import torch.nn.functional as F
from safetensors.torch import load
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from seqalign import weights
from seqalign.core.discrete import MaskedProcess
from seqalign.core.sequence import PROTEIN
from seqalign.files.structure import Structure, read_structure

if TYPE_CHECKING:
    from seqalign.core.discrete import Order
    from seqalign.core.streams import Streams

LETTERS: Final = "ACDEFGHIKLMNPQRSTVWYX"
"""Rows of the token tables: twenty letters, X for an unknown one; in some checkpoints the mask."""

RADIAL: Final = 16
REACH: Final = 32
SCALE: Final = 30.0
# numbers in one piece of messages: about a megabyte
PIECE: Final = 1 << 18
# particles that share a call of the maps over residues
PARTICLES: Final = 4
# of mpnn-mini
NEIGHBORS: Final = 24
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


def neighbor_graph(
    coords: Tensor, residue_index: Tensor, chain_index: Tensor, neighbors: int
) -> Graph:
    """Return the graph of one backbone: coords (L, 4, 3) in Å of N, CA, C, O."""
    n, ca, c, _ = coords.unbind(1)
    b1, b2 = ca - n, c - ca
    cb = -0.58273431 * torch.cross(b1, b2, dim=-1) + 0.56802827 * b1 - 0.54067466 * b2 + ca
    atoms = torch.cat((coords, cb[:, None]), 1)
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


def _summed(hidden: Tensor, last: nn.Linear, mask: Tensor | None) -> Tensor:
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
        h = self.norm1(h + self.dropout(_summed(m, self.W3, graph.mask)))
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
        h = self.norm1(h + self.dropout(_summed(m, self.W3, graph.mask)))
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

    def encode(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """Return residues (N, H) and edges (N, K, H)."""
        e = self.W_e(self.features(graph))
        h = e.new_zeros(len(e), e.shape[-1])
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


# a backbone, encoded once -------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Layer:
    """What a decoder layer needs of the structure and of the letter table.

    Attributes:
        edge: (N, K, H) the first map's share of edges and bias; in layer 0 of both residues too.
        letters: (V + 1, H) its share of each letter; the last row is "no letter", zero.
        ahead: (N, H) its share of the encoder's residues, for a neighbor that is not decoded yet.
        messages: (N · K · (V + 1), H) layer 0 only: the message of each edge for each letter.
    """

    edge: Tensor
    letters: Tensor
    ahead: Tensor
    messages: Tensor | None = None


def messages(
    sent: Tensor,
    at: Tensor,
    edge: Tensor,
    mine: Tensor | None,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor,
) -> Tensor:
    """Return Σ_j mask_ij gelu(W gelu(edge_ij + mine_i + sent_at(ij))), (n, H).

    Args:
        sent: (N, H) what residues send.
        at: (n, K) rows of `sent`.
        edge: (n, K, H).
        mine: (n, H), or None for nothing.
        mask: (n, K), or None for ones.
        weight: (H, H) of the linear map.
        bias: (H,).
    """
    m = sent.index_select(0, at.reshape(-1)).view(*at.shape, -1)
    if m.requires_grad or torch.compiler.is_compiling():
        m = m + edge if mine is None else m + edge + mine[:, None]
        m = F.gelu(F.linear(F.gelu(m), weight, bias))
    else:
        # in place: new memory costs as much as the sums
        m += edge
        if mine is not None:
            m += mine[:, None]
        m = torch.ops.aten.gelu_(F.linear(torch.ops.aten.gelu_(m), weight, bias))
    return m.sum(1) if mask is None else (m * mask[..., None]).sum(1)


@cache
def _compiled() -> Callable[..., Tensor]:
    return cast("Callable[..., Tensor]", torch.compile(messages, dynamic=True))


@dataclass(frozen=True, eq=False)
class Backbone:
    """A structure encoded once by one network.

    Attributes:
        network: the network, frozen.
        graph: the neighbors.
        h: (N, H) the encoder's residues.
        e: (N, K, H) the encoder's edges.
        layers: what is kept per decoder layer.
        compiled: run the messages through torch.compile.
    """

    network: MPNN
    graph: Graph
    h: Tensor
    e: Tensor
    layers: tuple[Layer, ...]
    compiled: bool = False

    def __repr__(self) -> str:
        """Return one line: a process is printed with its network."""
        size = sum(w.numel() for w in self.network.parameters())
        return f"Backbone({len(self.h)} residues, {size} parameters)"

    @classmethod
    @torch.no_grad()
    def encode(cls, network: MPNN, graph: Graph, *, table: int = 1 << 29) -> Backbone:
        """Encode a structure; layer 0's messages are tabulated if they fit in `table` bytes."""
        h, e = network.encode(graph)
        n, k, width = e.shape
        count = network.W_s.num_embeddings + 1
        embedded = F.pad(network.W_s.weight, (0, 0, 0, 1))
        layers = []
        for number, layer in enumerate(network.decoder):
            own, edge, letter, other = layer.W1.weight.split((width,) * 4, 1)
            kept = F.linear(e, edge, layer.W1.bias)
            ahead, letters, table_0 = F.linear(h, other), F.linear(embedded, letter), None
            if number == 0:
                kept += F.linear(h, own)[:, None] + ahead[graph.index]
                if n * k * count * width * h.element_size() <= table:
                    table_0 = torch.empty(n, k, count, width, dtype=h.dtype)
                    for a, row in enumerate(letters):
                        table_0[:, :, a] = F.gelu(layer.W2(F.gelu(kept + row)))
                    table_0 = table_0.view(-1, width)
            layers.append(Layer(kept, letters, ahead, table_0))
        return cls(network, graph, h, e, tuple(layers))

    def to(self, dtype: torch.dtype) -> Backbone:
        """Return the same in another precision."""
        layers = tuple(
            Layer(
                kept.edge.to(dtype),
                kept.letters.to(dtype),
                kept.ahead.to(dtype),
                None if kept.messages is None else kept.messages.to(dtype),
            )
            for kept in self.layers
        )
        return Backbone(
            of(self.network.state_dict()).to(dtype),
            self.graph,
            self.h.to(dtype),
            self.e.to(dtype),
            layers,
            self.compiled,
        )

    def hidden(self, tokens: Tensor, seen: Tensor | None = None) -> list[Tensor]:
        """Return the residues (P, N, H) after each decoder layer.

        Args:
            tokens: (P, N), or relaxed (P, N, V): a share of each row of the letter table.
            seen: (P, N, K) bool, whether a residue sees a neighbor's letter and state, or only
                the structure there; None: all are seen.
        """
        relaxed = tokens.is_floating_point()
        index = self.graph.index
        n, k = index.shape
        h = self.h.expand(len(tokens), *self.h.shape)
        states: list[Tensor] = []
        for layer, kept in zip(self.network.decoder, self.layers, strict=True):
            own, _, _, other = layer.W1.weight.split((h.shape[-1],) * 4, 1)
            letters = tokens.to(h.dtype) @ kept.letters[:-1] if relaxed else kept.letters[tokens]
            if not states and not relaxed:
                at = tokens[:, index]
                if seen is not None:
                    at = torch.where(seen, at, len(kept.letters) - 1)
                total = self._first(layer, kept, at)
            else:
                # in layer 0 both residues' shares are in the edge already
                mine = F.linear(h, own) if states else torch.zeros_like(h)
                sent = letters + F.linear(h, other) if states else letters
                at = index.expand(len(tokens), n, k)
                if seen is not None:
                    waiting = kept.ahead if states else torch.zeros_like(kept.ahead)
                    sent = torch.cat((sent, waiting.expand(sent.shape)), 1)
                    at = torch.where(seen, at, at + n)
                total = self._sum(layer, kept.edge, mine, sent, at)
            count = k if self.graph.mask is None else self.graph.mask.sum(-1, keepdim=True)
            message = F.linear(total / SCALE, layer.W3.weight) + layer.W3.bias * (count / SCALE)
            h = layer.norm1(h + message)
            h = layer.norm2(h + layer.dense(h))
            states.append(h)
        return states

    def _first(self, layer: DecoderLayer, kept: Layer, letter: Tensor) -> Tensor:
        """Return layer 0's summed messages (P, N, H), given each edge's letter (P, N, K)."""
        p, n, k = letter.shape
        count = len(kept.letters)
        if kept.messages is None:
            sent = kept.letters.expand(p, *kept.letters.shape)
            return self._sum(layer, kept.edge, None, sent, letter)
        row = torch.arange(n * k).view(n, k) * count
        weight = None
        if self.graph.mask is not None:
            weight = self.graph.mask.expand(p, n, k).reshape(p * n, k)
        bag = F.embedding_bag(
            (letter + row).view(p * n, k), kept.messages, mode="sum", per_sample_weights=weight
        )
        return bag.view(p, n, -1)

    def _sum(
        self, layer: DecoderLayer, edge: Tensor, mine: Tensor | None, sent: Tensor, at: Tensor
    ) -> Tensor:
        """Return Σ_j gelu(W2 gelu(edge_ij + mine_i + sent_at(ij))), (P, N, H).

        Particles and residues are taken in pieces that stay in the processor's cache.
        """
        p, n, k = at.shape
        grad = torch.is_grad_enabled() and sent.requires_grad
        pieces = _compiled() if self.compiled and not grad else messages
        size = n if grad else max(1, PIECE // (k * edge.shape[-1]))
        parts = [slice(start, start + size) for start in range(0, n, size)]
        return torch.stack(
            [
                torch.cat(
                    [
                        pieces(
                            sent[particle],
                            at[particle, part],
                            edge[part],
                            None if mine is None else mine[particle, part],
                            None if self.graph.mask is None else self.graph.mask[part],
                            layer.W2.weight,
                            layer.W2.bias,
                        )
                        for part in parts
                    ]
                )
                for particle in range(p)
            ]
        )

    def logits(self, tokens: Tensor, seen: Tensor | None = None) -> Tensor:
        """Return logits (P, N, V), float32; arguments as for `hidden`."""
        logits: Tensor = self.network.W_out(self.hidden(tokens, seen)[-1])
        return logits.float()

    def seen(self, order: Tensor) -> Tensor:
        """Return (P, N, K): is the neighbor decoded before, (P, N) residues in decoding order."""
        rank = order.argsort(-1)
        return rank[:, self.graph.index] < rank[:, :, None]

    def unconditional(self) -> Tensor:
        """Return logits (N, V) of each residue given the structure alone (no letter seen)."""
        n, k = self.graph.index.shape
        blank = torch.zeros(1, n, dtype=torch.int64)
        return self.logits(blank, torch.zeros(1, n, k, dtype=torch.bool))[0]


# weights ------------------------------------------------------------------------------------------

MASKED: Final = 21
"""The mask's row in the letter table of networks with 22 letters; row 20 is X."""


@dataclass(frozen=True, eq=False)
class Weights:
    """A network with what goes with it.

    Attributes:
        network: in evaluation mode, frozen.
        neighbors: K.
        geometric: residue numbers are told by the coordinates (`residue_numbers`) instead of the
            structure's own numbers and chains.
        head: the readout of a stability oracle; None for a model of sequences.
    """

    network: MPNN
    neighbors: int
    geometric: bool = False
    head: nn.Module | None = None

    @property
    def sees_masks(self) -> bool:
        """Whether masked letters are input (22 letters) or nothing is seen there (21)."""
        return self.network.W_s.num_embeddings == MASKED + 1

    def nodes(self, structure: Structure) -> Tensor:
        """Return (N,) int64, the residues of a structure that the network sees: whole backbones.

        Raises:
            ValueError: a residue that is to be designed has no whole backbone, or there is none.
        """
        whole = structure.coords.isfinite().all(-1).all(-1)
        for i in structure.known.tolist():
            if not whole[i]:
                raise ValueError(
                    f"{structure.name}: residue {structure.numbering.name(i + 1)} lacks backbone "
                    "atoms, and this network needs N, CA, C and O. Read the structure with "
                    "require: [N, CA, C, O], which leaves such residues out."
                )
        if not len(structure.known):
            raise ValueError(
                f"{structure.name}: no residue has a standard letter and a whole backbone, so "
                "there is nothing to design. Check the file and the chains."
            )
        return whole.nonzero()[:, 0]

    def encode(
        self, structure: Structure, *, bfloat16: bool = False, compiled: bool = False
    ) -> Backbone:
        """Encode a structure: residues with a whole backbone, in file order.

        With `bfloat16` the decoder runs in half precision, with `compiled` through torch.compile.
        Neither need be faster on a processor; the speed and error of both are measured in
        examples/benchmarks/inverse_folding.py.
        """
        nodes = self.nodes(structure)
        coords = structure.coords[nodes]
        if self.geometric:
            numbers, chains = residue_numbers(coords), torch.zeros(len(coords), dtype=torch.int64)
        else:
            numbers, chains = structure.residue_index[nodes], structure.chain_index[nodes]
        backbone = Backbone.encode(
            self.network, neighbor_graph(coords, numbers, chains, self.neighbors)
        )
        backbone = replace(backbone, compiled=compiled)
        return backbone.to(torch.bfloat16) if bfloat16 else backbone

    def native(self, structure: Structure) -> Tensor:
        """Return (N,) tokens of a structure's own letters; X is 20."""
        return torch.tensor([LETTERS.index(structure.sequence[i]) for i in self.nodes(structure)])

    @torch.no_grad()
    def score(self, backbone: Backbone, tokens: Tensor) -> Tensor:
        """Return an oracle's scores (P,) of tokens (P, N): the readout of the mean residue.

        Raises:
            TypeError: these weights have no readout.
        """
        if self.head is None:
            raise TypeError("These weights are a model of sequences, no oracle: they have no head.")
        pieces = [backbone.hidden(piece)[-1].mean(1) for piece in tokens.split(PARTICLES)]
        scores: Tensor = self.head(torch.cat(pieces).float())[:, 0]
        return scores


def load_checkpoint(path: str | Path, *, neighbors: int | None = None) -> Weights:
    """Return the network of a published checkpoint.

    Args:
        path: a file, or a name that `seqalign fetch` lists. ProteinMPNN (vanilla and soluble), the
            masked-diffusion variant (22 letters) and its stability oracle have one format: a
            dictionary with `model_state_dict`.
        neighbors: K; by default what the file says (`num_edges`), and 30 where it says nothing,
            which is what the masked-diffusion networks were trained with.

    Raises:
        ValueError: the file is no such checkpoint.
    """
    file = weights.path(path)
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{file}: cannot be read as a PyTorch checkpoint ({type(error).__name__}). Give the "
            ".pt file of ProteinMPNN or of the masked-diffusion network."
        ) from None
    if not isinstance(content, Mapping) or not isinstance(content.get("model_state_dict"), Mapping):
        raise ValueError(
            f"{file}: has no 'model_state_dict'; this is not a ProteinMPNN checkpoint. Give the "
            ".pt file of ProteinMPNN or of the masked-diffusion network."
        )
    state = dict(content["model_state_dict"])
    if "features.node_embedding.weight" in state or "W_v.weight" in state:
        raise ValueError(
            f"{file}: is a CA-only ProteinMPNN, which has other features. Use a vanilla or soluble "
            "one, with whole backbones."
        )
    head = None
    if "W_out_mlp.0.weight" in state:
        first, last = state["W_out_mlp.0.weight"], state["W_out_mlp.2.weight"]
        head = nn.Sequential(nn.Linear(*first.shape[::-1]), nn.ReLU(), nn.Linear(*last.shape[::-1]))
        prefix = "W_out_mlp."
        head.load_state_dict(
            {k.removeprefix(prefix): state.pop(k) for k in list(state) if k.startswith(prefix)}
        )
        head.eval().requires_grad_(False)
    try:
        network = of(state)
    except (KeyError, RuntimeError) as error:
        raise ValueError(
            f"{file}: its tensors are not those of a ProteinMPNN network: "
            f"{' '.join(str(error).split())[:200]}."
        ) from None
    return Weights(network, neighbors or int(content.get("num_edges", 30)), head=head)


def of(state: Mapping[str, Tensor]) -> MPNN:
    """Return the frozen network that a state dict belongs to, whatever its size."""
    state = {name: w.float() for name, w in state.items()}
    letters, width = state["W_s.weight"].shape
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("encoder_layers."))
    # an oracle has no letters to say: its output map stays, unused, at zero
    state.setdefault("W_out.weight", torch.zeros(letters, width))
    state.setdefault("W_out.bias", torch.zeros(letters))
    # on no device: initial weights would be drawn from the caller's random numbers
    with torch.device("meta"):
        network = MPNN(width, depth, letters)
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False)


@cache
def shipped() -> Weights:
    """Return mpnn-mini's weights of this package, loaded once."""
    data = files("seqalign.models").joinpath("mpnn-mini.safetensors").read_bytes()
    return Weights(of(load(data)), NEIGHBORS, geometric=True)


# processes ----------------------------------------------------------------------------------------


def canonical_order(n: int) -> Tensor:
    """Return the fixed pseudo-random permutation (n,) in which known residues are decoded."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(n))


@dataclass(frozen=True, eq=False)
class OnBackbone:
    """A backbone read and written in process positions: what a process calls.

    Attributes:
        backbone: the encoded structure.
        slots: (n,) int64, the node of each position.
        tokens: (N,) int64, the letters of the nodes; those that are no position are never changed.
        masks: masked letters are input; otherwise a masked position is decoded last.
    """

    backbone: Backbone
    slots: Tensor
    tokens: Tensor
    masks: bool

    def __repr__(self) -> str:
        """Return one line: a process is printed with its network."""
        return f"OnBackbone({self.backbone}, {len(self.slots)} positions)"

    def __call__(self, x: Tensor, t: float = 0.0) -> Tensor:
        """Return logits (..., n, 20) of tokens (..., n), mask 20, or relaxed states (..., n, 21).

        There is no time input: how much is masked can be seen in x.
        """
        relaxed = x.is_floating_point()
        lead = x.shape[:-2] if relaxed else x.shape[:-1]
        flat = x.reshape(-1, *x.shape[len(lead) :])
        piece = self._relaxed if relaxed else self._tokens
        if x.requires_grad and len(flat) > 4 * PARTICLES:
            # what a gradient needs is computed again, piece by piece, or memory would grow
            piece = partial(recomputed, piece, use_reentrant=False)
        logits = torch.cat([piece(p) for p in flat.split(PARTICLES)])
        return logits.view(*lead, len(self.slots), len(PROTEIN))

    def _read(self, full: Tensor, seen: Tensor | None = None) -> Tensor:
        return self.backbone.logits(full, seen)[:, self.slots, : len(PROTEIN)]

    def _tokens(self, x: Tensor) -> Tensor:
        full = self.tokens.repeat(len(x), 1)
        if self.masks:
            full[:, self.slots] = torch.where(x == PROTEIN.mask, MASKED, x)
            return self._read(full)
        full[:, self.slots] = x
        known = torch.ones_like(full, dtype=torch.bool)
        known[:, self.slots] = x != PROTEIN.mask
        rank = canonical_order(full.shape[1]).argsort().expand(full.shape)
        # known ones in their order, the masked ones after them and blind to each other
        rank = torch.where(known, rank, full.shape[1])
        index = self.backbone.graph.index
        return self._read(full, rank[:, index] < rank[:, :, None])

    def _relaxed(self, x: Tensor) -> Tensor:
        if not self.masks:
            raise TypeError(
                "proteinmpnn's network takes letters, not relaxed states. Take gradients through "
                "the posterior only, or use fmif or mpnn-mini."
            )
        width = self.backbone.network.W_s.num_embeddings
        full = F.one_hot(self.tokens, width).to(x.dtype).repeat(len(x), 1, 1)
        letters, mask = x[..., :-1], x[..., -1:]
        full[:, self.slots] = torch.cat((letters, torch.zeros_like(mask), mask), -1)
        return self._read(full)


def process(
    source: Weights,
    structure: str | Path | Structure,
    *,
    chains: str | Sequence[str] | None = None,
    context: str | Sequence[str] | None = None,
    numbering: str = "author",
    steps: int | None = None,
    order: Order = "random",
    temperature: float = 1.0,
    chunk: int | None = None,
    bfloat16: bool = False,
    compiled: bool = False,
    name: str = "inverse-folding",
) -> MaskedProcess:
    """Return the masked diffusion of a structure's sequences, one position per known residue.

    Args:
        source: network weights.
        structure: a file, or what `read_structure` returned.
        chains: chains to design, in a file; all but `context` by default.
        context: chains that are seen and not designed; their positions are kept.
        numbering: "author", "label" or "index", in a file.
        steps: number of steps; by default one per position.
        order: "random" reveals one uniformly random position a step; "parallel" several.
        temperature: divides the logits.
        chunk: particles per call; None: all, which lets the driver leave out exactly those that did
            not change. Memory does not grow with their number either way.
        bfloat16: run the decoder in half precision.
        compiled: run it through torch.compile.
        name: of the process.

    Raises:
        TypeError: the weights are an oracle's.
    """
    if source.head is not None:
        raise TypeError(
            f"{name}: these weights are those of an oracle, which scores sequences and draws none."
        )
    structure = read_structure(structure, chains=chains, context=context, numbering=numbering)
    nodes = source.nodes(structure)
    at = torch.full((len(structure),), -1)
    at[nodes] = torch.arange(len(nodes))
    names = structure.known_numbering
    kept = [
        names.name(j + 1) for j, i in enumerate(structure.known.tolist()) if not structure.design[i]
    ]
    return MaskedProcess(
        network=OnBackbone(
            source.encode(structure, bfloat16=bfloat16, compiled=compiled),
            at[structure.known],
            source.native(structure),
            source.sees_masks,
        ),
        alphabet=PROTEIN,
        length=len(structure.known),
        steps=len(structure.known) if steps is None else steps,
        order=order,
        temperature=temperature,
        differentiable=source.sees_masks,
        chunk=chunk,
        wild_type=structure.wild_type,
        keep=", ".join(kept),
        numbering=names,
        name=name,
    )


def mpnn_mini(
    *,
    structure: str | Path | Structure,
    chains: str | Sequence[str] | None = None,
    context: str | Sequence[str] | None = None,
    numbering: str = "author",
    steps: int | None = None,
    order: Order = "random",
    temperature: float = 1.0,
    chunk: int | None = None,
) -> MaskedProcess:
    """Return the embedded masked diffusion of a structure's sequences; arguments: `process`."""
    return process(
        shipped(),
        structure,
        chains=chains,
        context=context,
        numbering=numbering,
        steps=steps,
        order=order,
        temperature=temperature,
        chunk=chunk,
        name="mpnn-mini",
    )


def proteinmpnn(
    *,
    structure: str | Path | Structure,
    checkpoint: str | Path = "proteinmpnn-v_48_020",
    chains: str | Sequence[str] | None = None,
    context: str | Sequence[str] | None = None,
    numbering: str = "author",
    steps: int | None = None,
    order: Order = "random",
    temperature: float = 1.0,
    chunk: int | None = None,
    bfloat16: bool = False,
    compiled: bool = False,
) -> MaskedProcess:
    """Return published ProteinMPNN weights as one-reveal-per-step masked diffusion.

    Arguments as for `process`; `checkpoint` is a file in the official format (vanilla or soluble)
    or a name that `seqalign fetch` lists. What the posterior is: see the module.

    Raises:
        ValueError: the checkpoint is another network's.
    """
    source = load_checkpoint(checkpoint)
    if source.sees_masks or source.head is not None:
        raise ValueError(
            f"{checkpoint}: is no ProteinMPNN, which has 21 letters. Use the model fmif for the "
            "masked-diffusion network with 22."
        )
    return process(
        source,
        structure,
        chains=chains,
        context=context,
        numbering=numbering,
        steps=steps,
        order=order,
        temperature=temperature,
        chunk=chunk,
        bfloat16=bfloat16,
        compiled=compiled,
        name="proteinmpnn",
    )


def fmif(
    *,
    structure: str | Path | Structure,
    checkpoint: str | Path = "fmif",
    chains: str | Sequence[str] | None = None,
    context: str | Sequence[str] | None = None,
    numbering: str = "author",
    steps: int | None = None,
    order: Order = "random",
    temperature: float = 1.0,
    chunk: int | None = None,
    bfloat16: bool = False,
    compiled: bool = False,
) -> MaskedProcess:
    """Return the tutorial's masked-diffusion inverse folding.

    Arguments as for `process`; `checkpoint` is a file in its format or a name that `seqalign fetch`
    lists.

    Raises:
        ValueError: the checkpoint is another network's.
    """
    source = load_checkpoint(checkpoint)
    if not source.sees_masks or source.head is not None:
        raise ValueError(
            f"{checkpoint}: is no masked-diffusion network, which has 22 letters and reads letters "
            "out. Use the model proteinmpnn for 21 letters; an oracle is a reward."
        )
    return process(
        source,
        structure,
        chains=chains,
        context=context,
        numbering=numbering,
        steps=steps,
        order=order,
        temperature=temperature,
        chunk=chunk,
        bfloat16=bfloat16,
        compiled=compiled,
        name="fmif",
    )


# what others read of a structure ------------------------------------------------------------------


@dataclass(frozen=True)
class Embeddings:
    """What a network says about the n known residues of a structure, sequence apart.

    Attributes:
        residues: (n, H) the encoder's residues: the structure alone.
        log_probs: (n, 20) log-probabilities of the letters with no letter known.
    """

    residues: Tensor
    log_probs: Tensor


@torch.no_grad()
def embeddings(structure: str | Path | Structure, source: Weights | None = None) -> Embeddings:
    """Return residue embeddings and unconditional log-probabilities; of mpnn-mini by default."""
    source = shipped() if source is None else source
    structure = read_structure(structure)
    backbone = source.encode(structure)
    at = torch.full((len(structure),), -1)
    at[source.nodes(structure)] = torch.arange(len(backbone.h))
    slots = at[structure.known]
    if source.sees_masks:
        tokens = source.native(structure)
        tokens[slots] = MASKED
        logits = backbone.logits(tokens[None])[0]
    else:
        logits = backbone.unconditional()
    return Embeddings(backbone.h[slots], logits[slots, : len(PROTEIN)].log_softmax(-1))


@torch.no_grad()
def sample_autoregressive(
    backbone: Backbone,
    tokens: Tensor,
    free: Tensor,
    *,
    rng: Streams,
    temperature: float = 1.0,
    order: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw from ProteinMPNN's own law, its decoder states kept: a step costs one position.

    A residue's state is computed once, when its letter is drawn, from the letters known then.

    Args:
        backbone: encoded with a network of 21 letters.
        tokens: (P, N) letters; those of fixed residues are kept and decoded first.
        free: (N,) bool, the residues to draw.
        rng: streams of one island; particles are rows.
        temperature: divides the logits.
        order: (P, N) residues in decoding order; uniformly random by default, fixed residues first.

    Returns:
        Tokens (P, N), and the log-probability (P,) of the drawn letters given the order.
    """
    network, graph = backbone.network, backbone.graph
    index = graph.index
    p, n = tokens.shape
    x = tokens.clone()
    if order is None:
        u = rng.at("order").uniform((1, p, n))[0]
        order = torch.where(free, u, u - 1.0).argsort(-1)
    rows = torch.arange(p)
    width = backbone.h.shape[-1]
    depth = len(backbone.layers)
    # what each residue sends to its neighbors: until it is decoded, what the structure tells
    sent = [kept.ahead.expand(p, n, width).clone() for kept in backbone.layers]
    log_p = torch.zeros(p, dtype=torch.float64)
    splits = [layer.W1.weight.split((width,) * 4, 1) for layer in network.decoder]
    base = [kept.edge for kept in backbone.layers]
    # layer 0's edges hold the neighbors' structure already: what is sent there is letters only
    sent[0].zero_()
    for step in range(n):
        i = order[:, step]
        near = index[i]
        h = backbone.h[i]
        inputs = [h]
        for number, layer in enumerate(network.decoder):
            m = base[number][i] + sent[number][rows[:, None], near]
            if number:
                m = m + F.linear(h, splits[number][0])[:, None]
            m = F.gelu(layer.W2(F.gelu(m)))
            count: Tensor | int = near.shape[1]
            if graph.mask is not None:
                m = m * graph.mask[i][..., None]
                count = graph.mask[i].sum(-1, keepdim=True)
            total = F.linear(m.sum(1) / SCALE, layer.W3.weight) + layer.W3.bias * (count / SCALE)
            h = layer.norm1(h + total)
            h = layer.norm2(h + layer.dense(h))
            inputs.append(h)
        logits = network.W_out(h)[:, : len(PROTEIN)].double() / temperature
        log_pi = logits.log_softmax(-1)
        drawn = rng.at("letter", step).categorical(log_pi[None])[0]
        x[rows, i] = torch.where(free[i], drawn, x[rows, i])
        chosen = log_pi.gather(1, x[rows, i].clamp(max=len(PROTEIN) - 1)[:, None])[:, 0]
        log_p += torch.where(free[i], chosen, 0.0)
        for number in range(depth):
            letter = backbone.layers[number].letters[x[rows, i]]
            if number:
                letter = letter + F.linear(inputs[number], splits[number][3])
            sent[number][rows, i] = letter
    return x, log_p
