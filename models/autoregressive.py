"""ProteinMPNN read in process positions, its decoder states kept: a reveal costs what it touches.

A residue's state is computed once, when its letter becomes known, from the letters known then. So
the chain that reveals one random position a step draws from the published law, and what a residue
sends to its neighbors (two vectors of it) travels with the particles. A new letter changes the
posteriors of the open residues that have it among their neighbors, and no others.

Letters that are given (fixed residues, context, a state that a run starts from) are decoded first,
in one fixed order: a pseudo-random permutation of the residues, `canonical_order`.

References:
    Robust deep learning-based protein sequence design using ProteinMPNN, Dauparas et al., Science
    2022, https://doi.org/10.1126/science.add2187
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from seqalign.core.causal import Choose, Place
from seqalign.core.process import over_tensors
from seqalign.core.sequence import PROTEIN
from seqalign.models.backbone import Backbone


def canonical_order(n: int) -> Tensor:
    """Return the fixed pseudo-random permutation (n,) in which given residues are decoded."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(n))


@dataclass(frozen=True, eq=False)
class Decoded:
    """What is kept of (B, K) states: letters, and what the network made of them.

    Attributes:
        x: (B, K, n) tokens, mask 20.
        sent: (B, K, D − 1, N, H) what each residue sends to its neighbors in the layers after the
            first: of open ones, what the structure tells.
        logits: (B, K, n, 20) of the open positions; those of known ones mean nothing.
    """

    x: Tensor
    sent: Tensor
    logits: Tensor

    def map(self, f: Callable[[Tensor], Tensor]) -> Self:
        """Apply `f` to every tensor."""
        return over_tensors(self, f)


@dataclass(frozen=True, eq=False)
class Sent:
    """What is kept of (B, K) states that are asked about one position at a time.

    Attributes:
        x: (B, K, n) tokens, mask 20.
        sent: (B, K, D − 1, N, H) as in `Decoded`.
    """

    x: Tensor
    sent: Tensor

    def map(self, f: Callable[[Tensor], Tensor]) -> Self:
        """Apply `f` to every tensor."""
        return over_tensors(self, f)


@dataclass(frozen=True, eq=False)
class Autoregressive:
    """A backbone read and written in process positions, by a network that decodes in an order.

    Attributes:
        backbone: the encoded structure.
        slots: (n,) int64, the node of each position.
        tokens: (N,) int64, the letters of the nodes; those that are no position are never changed.
            All three are on one device.
    """

    backbone: Backbone
    slots: Tensor
    tokens: Tensor

    @property
    def device(self) -> torch.device:
        """Where it is read, and where states live."""
        return self.backbone.device

    def __repr__(self) -> str:
        """Return one line: a process is printed with its network."""
        return f"Autoregressive({self.backbone}, {len(self.slots)} positions)"

    def __call__(self, x: Tensor, t: float = 0.0) -> Tensor:
        """Return logits (..., n, 20) of tokens (..., n), mask 20, all of whose letters are given.

        There is no time input: how much is masked can be seen in x.

        Raises:
            TypeError: x is relaxed; this network reads letters.
        """
        if x.is_floating_point():
            raise TypeError(
                "A network that decodes takes letters, not relaxed states. Take gradients through "
                "the posterior only, or use fmif or mpnn-mini."
            )
        flat = x.reshape(-1, x.shape[-1])
        read = [self._given(p) for p in flat.split(self.backbone.together)]
        logits = torch.cat([self._read(full, rank, len(flat))[-1] for full, _, rank in read])
        return logits.view(*x.shape, len(PROTEIN))

    def _given(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return nodes' letters (P, N), which are known (P, N), and ranks (P, N) of tokens (P, n).

        Known ones come in their order, the masked ones after them and blind to each other.
        """
        full = self.tokens.repeat(len(x), 1)
        full[:, self.slots] = x
        known = torch.ones_like(full, dtype=torch.bool)
        known[:, self.slots] = x != PROTEIN.mask
        return full, known, torch.where(known, self._canonical, full.shape[1])

    def _read(self, full: Tensor, rank: Tensor, sequences: int) -> tuple[list[Tensor], Tensor]:
        """Return the residues (P, N, H) after each layer and the positions' logits (P, n, 20)."""
        index = self.backbone.graph.index
        states = self.backbone.hidden(full, rank[:, index] < rank[:, :, None], sequences)
        logits: Tensor = self.backbone.network.W_out(states[-1][:, self.slots])
        return states, logits[..., : len(PROTEIN)].float()

    @torch.no_grad()
    def advance(self, x: Tensor, before: Decoded | None) -> Decoded:
        """Return what is kept of tokens x (B, K, n), which became of the states of `before`.

        Letters revealed at once do not see each other. Without `before` all letters are given.
        """
        lead = x.shape[:2]
        if before is None:
            sent, logits = self._begun(x.flatten(0, 1))
            return Decoded(x, sent.unflatten(0, lead), logits.unflatten(0, lead))
        old, sent, logits = before.x.flatten(0, 1), before.sent.flatten(0, 1), before.logits
        fresh = (x.flatten(0, 1) != old).nonzero()
        if not len(fresh):
            return replace(before, x=x)
        # the letters known so far, and no more, are what the new ones were drawn from
        inputs, _ = self._rows(old, sent, fresh, self.backbone.table, last=False)
        sent, new = sent.clone(), x.flatten(0, 1)
        row, at = fresh.unbind(1)
        self._tell(new, sent, row, at, inputs)
        touched = torch.zeros(old.shape, dtype=torch.bool, device=x.device)
        hit = self._near[self.slots[at]]
        touched.view(-1).index_put_(
            ((row[:, None] * old.shape[1] + torch.arange(old.shape[1], device=x.device))[hit],),
            hit.new_ones(()),
        )
        rows = (touched & (new == PROTEIN.mask)).nonzero()
        logits = logits.clone()
        if len(rows):
            _, found = self._rows(new, sent, rows, self.backbone.table)
            logits.flatten(0, 1)[rows[:, 0], rows[:, 1]] = found
        return Decoded(x, sent.unflatten(0, lead), logits)

    def _tell(self, x: Tensor, sent: Tensor, row: Tensor, at: Tensor, inputs: list[Tensor]) -> None:
        """Write into `sent` (P, D − 1, N, H) what new letters send, x (P, n) at (row, at), (R,)."""
        letters, node = x[row, at], self.slots[at]
        for number, h in enumerate(inputs[1:]):
            kept = self.backbone.layers[number + 1].letters[letters]
            sent[row, number, node] = kept + F.linear(h, self._split[number + 1][3])

    def _begun(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what residues send (P, D − 1, N, H) and logits (P, n, 20) of given letters (P, n).

        Equal states are read once.
        """
        distinct, which = torch.unique(x, dim=0, return_inverse=True)
        made = [self._begin(p, len(distinct)) for p in distinct.split(self.backbone.together)]
        sent, logits = (torch.cat(v)[which] for v in zip(*made, strict=True))
        return sent, logits

    def _begin(self, x: Tensor, sequences: int) -> tuple[Tensor, Tensor]:
        full, known, rank = self._given(x)
        states, logits = self._read(full, rank, sequences)
        sent = []
        for number, h in enumerate(states[:-1]):
            kept = self.backbone.layers[number + 1]
            letters = kept.letters[torch.where(known, full, len(kept.letters) - 1)]
            told = letters + F.linear(h, self._split[number + 1][3])
            sent.append(torch.where(known[..., None], told, kept.ahead))
        empty = logits.new_zeros(len(x), 0, *self.backbone.h.shape)
        return torch.stack(sent, 1) if sent else empty, logits

    @cached_property
    def _canonical(self) -> Tensor:
        """(N,) the rank of each node in the fixed order."""
        return canonical_order(len(self.tokens)).argsort().to(self.device)

    @cached_property
    def _split(self) -> list[tuple[Tensor, ...]]:
        """Per layer the first map's shares of residue, edge, letter and neighbor, (H, H) each."""
        width = self.backbone.h.shape[-1]
        return [layer.W1.weight.split((width,) * 4, 1) for layer in self.backbone.network.decoder]

    @cached_property
    def _near(self) -> Tensor:
        """(N, n) bool: whether a node is among the neighbors of a position."""
        index = self.backbone.graph.index
        near = torch.zeros(len(index), len(index), dtype=torch.bool, device=index.device)
        return near.scatter_(1, index, True)[self.slots].T.contiguous()

    def _rows(
        self,
        x: Tensor,
        sent: Tensor,
        rows: Tensor,
        table: Tensor | None,
        last: bool = True,
    ) -> tuple[list[Tensor], Tensor]:
        """Return the inputs (R, H) of each layer, and logits (R, 20), of open positions.

        Args:
            x: (P, n) tokens.
            sent: (P, D − 1, N, H).
            rows: (R, 2) particle and position.
            table: of layer 0's messages, or None.
            last: the last layer and the logits too.
        """
        backbone, decoder = self.backbone, self.backbone.network.decoder
        row, node = rows[:, 0], self.slots[rows[:, 1]]
        full = self.tokens.repeat(len(x), 1)
        full[:, self.slots] = x
        near = backbone.graph.index[node]
        letters = full[row[:, None], near]
        blank = len(backbone.layers[0].letters) - 1
        # the mask's number is a letter's row too, that of X
        open_ = torch.zeros_like(full, dtype=torch.bool)
        open_[:, self.slots] = x == PROTEIN.mask
        letters = torch.where(open_[row[:, None], near], blank, letters)
        mask = None if backbone.graph.mask is None else backbone.graph.mask[node]
        inputs, n = [backbone.h[node]], len(self.tokens)
        for number, layer in enumerate(decoder if last else decoder[:-1]):
            h = inputs[-1]
            if number:
                start = (row * sent.shape[1] + number - 1) * n
                mine = F.linear(h, self._split[number][0])
                told = sent.flatten(0, 2)
                total = backbone.gathered(number, node, mine, told, near + start[:, None])
            else:
                total = backbone.first(node, letters, table)
            inputs.append(backbone.ended(layer, h, total, mask))
        if not last:
            return inputs, inputs[-1]
        logits: Tensor = backbone.network.W_out(inputs[-1])
        return inputs[:-1], logits[:, : len(PROTEIN)].float()

    @torch.no_grad()
    def ask(self, before: Decoded | Sent, at: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the logits (B, K, 20) at open positions (B, K), and what `tell` needs."""
        x, sent = before.x.flatten(0, 1), before.sent.flatten(0, 1)
        rows = torch.stack((torch.arange(len(x), device=x.device), at.flatten()), 1)
        inputs, logits = self._rows(x, sent, rows, self.backbone.tabled(len(x)))
        return logits.view(*at.shape, -1), inputs

    @torch.no_grad()
    def tell(self, x: Tensor, before: Decoded | Sent, at: Tensor, made: list[Tensor]) -> Sent:
        """Return what is kept of tokens x (B, K, n), letters at positions (B, K) more."""
        new, sent = x.flatten(0, 1), before.sent.flatten(0, 1).clone()
        self._tell(new, sent, torch.arange(len(new), device=x.device), at.flatten(), made)
        return Sent(x, sent.view(before.sent.shape))

    def decode(self, x: Tensor, place: Place, choose: Choose) -> Iterator[Tensor]:
        """Yield tokens (P, n) after each reveal; see `Causal`."""
        x = x.clone()
        with torch.no_grad():
            sent = self._begun(x)[0].clone()
        rows, table = torch.arange(len(x), device=x.device), self.backbone.tabled(len(x))
        for i in range(int((x == PROTEIN.mask).sum(-1).max())):
            at = place(i, x)
            with torch.no_grad():
                inputs, logits = self._rows(x, sent, torch.stack((rows, at), 1), table)
                x = x.clone()
                x[rows, at] = choose(i, at, logits)
                self._tell(x, sent, rows, at, inputs)
            yield x

    def follow(self, x: Tensor, order: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield pieces of tokens (P, n) with the logits (p, m, 20) along an order (m,).

        What is masked and not in the order is not seen.
        """
        n, index = len(self.tokens), self.backbone.graph.index
        size = self.backbone.together
        for start in range(0, len(x), size):
            part = slice(start, start + size)
            full, known, rank = self._given(x[part])
            rank = torch.where(known, rank, 3 * n)
            rank[:, self.slots[order]] = n + torch.arange(len(order), device=x.device)
            with torch.no_grad():
                seen = rank[:, index] < rank[:, :, None]
                states = self.backbone.hidden(full, seen, len(x))
                logits: Tensor = self.backbone.network.W_out(states[-1][:, self.slots[order]])
            yield part, logits[..., : len(PROTEIN)].float()
