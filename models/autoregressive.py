"""ProteinMPNN's own sampler, its decoder states kept: a step costs one position.

A residue's state is computed once, when its letter is drawn, from the letters known then. A process
would need these states (three vectors a residue) in its particles, gathered with them.

References:
    Robust deep learning-based protein sequence design using ProteinMPNN, Dauparas et al., Science
    2022, https://doi.org/10.1126/science.add2187
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from seqalign.core.sequence import PROTEIN
from seqalign.models.backbone import Backbone
from seqalign.models.mpnn import SCALE

if TYPE_CHECKING:
    from seqalign.core.streams import Streams


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
    """Draw from ProteinMPNN's own law.

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
