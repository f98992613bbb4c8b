"""A backbone encoded once by one network, and its decoder over many sequences.

The first linear map of a message acts on [h_i, e_ij, letter_j, h_j] and is split over the four: the
edge's share is kept per structure, the letter's share is a table with a row per letter, and the two
others are computed per residue, not per edge. The last linear map of a message comes after the sum
over neighbors. In the first decoder layer h is the encoder's, so a message depends on an edge and a
letter only: all of them are computed once, and the layer is one sum of table rows. Nothing of this
approximates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from seqalign.models.mpnn import MPNN, SCALE, DecoderLayer, Graph, of

# numbers in one piece of messages: about a megabyte, so that they stay in a processor's cache
PIECE: Final = 1 << 18
# and elsewhere, where one large call is faster than many small ones: a quarter of a gigabyte
WIDE_PIECE: Final = 1 << 26
# sequences that share a call of the maps over residues on a processor
PARTICLES: Final = 4


def piece(device: torch.device) -> int:
    """Return how many numbers of messages are made at once."""
    return PIECE if device.type == "cpu" else WIDE_PIECE


@dataclass(frozen=True, eq=False)
class Layer:
    """What a decoder layer needs of the structure and of the letter table.

    Attributes:
        edge: (N, K, H) the first map's share of edges and bias; in layer 0 of both residues too.
        letters: (V + 1, H) its share of each letter; the last row is "no letter", zero.
        ahead: (N, H) its share of the encoder's residues, for a neighbor that is not decoded yet.
    """

    edge: Tensor
    letters: Tensor
    ahead: Tensor


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

    All but `sent` may have leading dimensions, or lack those of `at`.

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
        m = m + edge if mine is None else m + edge + mine[..., None, :]
        m = F.gelu(F.linear(F.gelu(m), weight, bias))
    else:
        # in place: new memory costs as much as the sums
        m += edge
        if mine is not None:
            m += mine[..., None, :]
        m = torch.ops.aten.gelu_(F.linear(torch.ops.aten.gelu_(m), weight, bias))
    return m.sum(-2) if mask is None else (m * mask[..., None]).sum(-2)


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
        room: bytes that a table of layer 0's messages may take.
    """

    network: MPNN
    graph: Graph
    h: Tensor
    e: Tensor
    layers: tuple[Layer, ...]
    compiled: bool = False
    room: int = 1 << 29

    def __repr__(self) -> str:
        """Return one line: a process is printed with its network."""
        size = sum(w.numel() for w in self.network.parameters())
        return f"Backbone({len(self.h)} residues, {size} parameters)"

    @property
    def device(self) -> torch.device:
        """Where it is read."""
        return self.h.device

    @property
    def together(self) -> int:
        """How many sequences are read in one call."""
        if self.device.type == "cpu":
            return PARTICLES
        return max(PARTICLES, WIDE_PIECE // self.layers[0].edge.numel())

    @classmethod
    @torch.no_grad()
    def encode(
        cls,
        network: MPNN,
        graph: Graph,
        *,
        encoded: tuple[Tensor, Tensor] | None = None,
        room: int = 1 << 29,
    ) -> Backbone:
        """Encode a structure.

        What encoded it otherwise gives its residues (N, H) and edges (N, K, H).
        """
        h, e = network.encode(graph) if encoded is None else encoded
        width = e.shape[-1]
        embedded = F.pad(network.W_s.weight, (0, 0, 0, 1))
        layers = []
        for number, layer in enumerate(network.decoder):
            own, edge, letter, other = layer.W1.weight.split((width,) * 4, 1)
            kept = F.linear(e, edge, layer.W1.bias)
            ahead, letters = F.linear(h, other), F.linear(embedded, letter)
            if number == 0:
                kept += F.linear(h, own)[:, None] + ahead[graph.index]
            layers.append(Layer(kept, letters, ahead))
        return cls(network, graph, h, e, tuple(layers), room=room)

    @cached_property
    def table(self) -> Tensor | None:
        """Layer 0's message of each edge for each letter, (N · K · (V + 1), H), if there is room.

        It costs as much as these messages of V + 1 sequences.
        """
        first, layer = self.layers[0], self.network.decoder[0]
        n, k, width = first.edge.shape
        count = len(first.letters)
        if n * k * count * width * first.edge.element_size() > self.room:
            return None
        with torch.no_grad():
            table = first.edge.new_empty(n, k, count, width)
            for a, row in enumerate(first.letters):
                table[:, :, a] = F.gelu(layer.W2(F.gelu(first.edge + row)))
        return table.view(-1, width)

    def tabled(self, sequences: int) -> Tensor | None:
        """Return the table, if it pays for so many sequences that are read once."""
        return self.table if sequences >= len(self.layers[0].letters) else None

    def to(self, dtype: torch.dtype) -> Backbone:
        """Return the same in another precision."""
        layers = tuple(
            Layer(
                kept.edge.to(dtype),
                kept.letters.to(dtype),
                kept.ahead.to(dtype),
            )
            for kept in self.layers
        )
        made = Backbone(
            of(self.network.state_dict()).to(dtype),
            self.graph,
            self.h.to(dtype),
            self.e.to(dtype),
            layers,
            self.compiled,
            self.room,
        )
        # what is added up is rounded once
        vars(made)["table"] = None if self.table is None else self.table.to(dtype)
        return made

    def hidden(
        self, tokens: Tensor, seen: Tensor | None = None, sequences: int | None = None
    ) -> list[Tensor]:
        """Return the residues (P, N, H) after each decoder layer.

        Args:
            tokens: (P, N), or relaxed (P, N, V): a share of each row of the letter table.
            seen: (P, N, K) bool, whether a residue sees a neighbor's letter and state, or only
                the structure there; None: all are seen.
            sequences: how many are read in all, if a table of messages may not pay.
        """
        table = self.table if sequences is None else self.tabled(sequences)
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
                total = self._first(layer, kept, at, table)
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
            h = self.ended(layer, h, total, self.graph.mask)
            states.append(h)
        return states

    def ended(self, layer: DecoderLayer, h: Tensor, total: Tensor, mask: Tensor | None) -> Tensor:
        """Return residues (..., H) after a layer, of those before it and their summed messages."""
        count = self.graph.index.shape[1] if mask is None else mask.sum(-1, keepdim=True)
        message = F.linear(total / SCALE, layer.W3.weight) + layer.W3.bias * (count / SCALE)
        h = layer.norm1(h + message)
        out: Tensor = layer.norm2(h + layer.dense(h))
        return out

    def first(self, node: Tensor, letter: Tensor, table: Tensor | None) -> Tensor:
        """Return layer 0's summed messages (R, H) of nodes (R,), given edges' letters (R, K)."""
        kept, mask = self.layers[0], self.graph.mask
        if table is None:
            return self.gathered(0, node, None, kept.letters, letter)
        k = letter.shape[1]
        row = (node[:, None] * k + torch.arange(k, device=node.device)) * len(kept.letters)
        weight = None if mask is None else mask[node]
        return F.embedding_bag(letter + row, table, mode="sum", per_sample_weights=weight)

    def gathered(
        self, number: int, node: Tensor, mine: Tensor | None, sent: Tensor, at: Tensor
    ) -> Tensor:
        """Return a layer's summed messages (R, H) of some nodes (R,).

        Args:
            number: of the layer.
            node: (R,) nodes.
            mine: (R, H) their own share, or None.
            sent: (S, H) what is sent.
            at: (R, K) rows of `sent`.
        """
        layer, kept, mask = self.network.decoder[number], self.layers[number], self.graph.mask
        size = max(1, piece(node.device) // (at.shape[1] * kept.edge.shape[-1]))
        parts = [slice(i, i + size) for i in range(0, len(node), size)]
        sums = [
            messages(
                sent,
                at[part],
                kept.edge.index_select(0, node[part]),
                None if mine is None else mine[part],
                None if mask is None else mask[node[part]],
                layer.W2.weight,
                layer.W2.bias,
            )
            for part in parts
        ]
        return torch.cat(sums)

    def _first(
        self, layer: DecoderLayer, kept: Layer, letter: Tensor, table: Tensor | None
    ) -> Tensor:
        """Return layer 0's summed messages (P, N, H), given each edge's letter (P, N, K)."""
        p, n, k = letter.shape
        count = len(kept.letters)
        if table is None:
            sent = kept.letters.expand(p, *kept.letters.shape)
            return self._sum(layer, kept.edge, None, sent, letter)
        row = torch.arange(n * k, device=letter.device).view(n, k) * count
        weight = None
        if self.graph.mask is not None:
            weight = self.graph.mask.expand(p, n, k).reshape(p * n, k)
        bag = F.embedding_bag(
            (letter + row).view(p * n, k), table, mode="sum", per_sample_weights=weight
        )
        return bag.view(p, n, -1)

    def _sum(
        self, layer: DecoderLayer, edge: Tensor, mine: Tensor | None, sent: Tensor, at: Tensor
    ) -> Tensor:
        """Return Σ_j gelu(W2 gelu(edge_ij + mine_i + sent_at(ij))), (P, N, H).

        Particles and residues are taken in pieces that stay in the processor's cache; on another
        device all are taken at once.
        """
        p, n, k = at.shape
        grad = torch.is_grad_enabled() and sent.requires_grad
        pieces = _compiled() if self.compiled and not grad else messages
        if at.device.type != "cpu":
            start = torch.arange(p, device=at.device)[:, None, None] * sent.shape[1]
            weights = layer.W2.weight, layer.W2.bias
            return pieces(sent.flatten(0, 1), at + start, edge, mine, self.graph.mask, *weights)
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
        blank = torch.zeros(1, n, dtype=torch.int64, device=self.device)
        nothing = torch.zeros(1, n, k, dtype=torch.bool, device=self.device)
        return self.logits(blank, nothing)[0]
