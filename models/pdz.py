"""pdz-mini: masked diffusion over natural PDZ domains, placed on the PSD-95 PDZ3 construct.

A bidirectional transformer over the 82 match columns of the Pfam family PF00595. Each column has
its own embedding, each pair of columns its own attention bias per head, and each column its own
output bias, which starts at the family's log-profile: before the first training step the network
is the site-independent profile, and everything it learns is context.

*Gaps* are input that is always visible, and never predicted: on a construct the pattern of gaps is
known. Only residues are masked and predicted, over the twenty letters. There is no time input: how
much is masked can be seen in the input itself.

*On the construct.* The domain is residues 0..83 (0-based) of the construct measured by Faure et
al. 2022. 75 of them have a column (`COLUMN_OF`); seven columns are gaps in it; nine residues have
no column (`NO_COLUMN`): their logits are the log of the family's letter frequencies, which is no
evidence about them at all, so `FIX` keeps them at the wild type.

Weights, data, held-out figures and limits: `cards/pdz-mini.yaml`. Training: `train_pdz`.

References:
    Simple and effective masked diffusion language models, Sahoo et al., 2024,
    https://arxiv.org/abs/2406.07524
    Mapping the energetic and allosteric landscapes of protein binding domains, Faure et al., 2022,
    https://doi.org/10.1038/s41586-022-04586-4
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F
from safetensors.torch import load
from torch import Tensor, nn

from seqalign.core.discrete import MaskedProcess
from seqalign.core.sequence import PROTEIN
from seqalign.models.splits import GAP
from seqalign.weights import sound

if TYPE_CHECKING:
    from collections.abc import Mapping

    from seqalign.core.discrete import Order

COLUMNS: Final = 82
"""Match columns of the Pfam family PF00595."""

WILD_TYPE: Final = (
    "PRRIVIHRGSTGLGFNIVGGEDGEGIFISFILAGGPADLSGELRKGDQILSVNGVDLRNASHEQAAIALKNAGQTVTIIAQYKP"
)
"""The PSD-95 PDZ3 construct, 84 residues."""

NO_COLUMN: Final = (0, 1, 2, 41, 79, 80, 81, 82, 83)
"""Construct positions (0-based) without a column: the model knows nothing there."""

FIX: Final = "1-3, 42, 80-84"
"""The positions of `NO_COLUMN` as a design space writes them, 1-based."""

FAMILY_ROW: Final = (
    "-IVIHR-GSTGLGFNIVGGEDGE---GIFISFILAGGPADLSGLRKGDQILSVNGVDLRNASHEQAAIALKNAGQTVTII--"
)
"""The construct's own row of the alignment: its fragment, a gap where it has no residue."""

POSITION_OF: Final = tuple(
    len(WILD_TYPE)
    if letter == "-"
    else [p for p in range(len(WILD_TYPE)) if p not in NO_COLUMN][
        sum(a != "-" for a in FAMILY_ROW[:column])
    ]
    for column, letter in enumerate(FAMILY_ROW)
)
"""Construct position of each column; 84, one past the end, where the construct has a gap."""

COLUMN_OF: Final = tuple(
    POSITION_OF.index(p) if p not in NO_COLUMN else COLUMNS for p in range(len(WILD_TYPE))
)
"""Column of each construct position; 82, one past the end, where it has none."""

# fmt: off
BACKGROUND: Final = (
    0.0660, 0.0093, 0.0593, 0.0576, 0.0232, 0.1185, 0.0214, 0.0826, 0.0567, 0.0995,
    0.0166, 0.0409, 0.0325, 0.0388, 0.0502, 0.0667, 0.0454, 0.1002, 0.0029, 0.0115,
)
# fmt: on
"""Letter frequencies of the family: the weighted training rows of the split at 60 %."""

PAIR_SCALE: Final = 10.0
"""Unit of the learned attention biases: they must reach several nats at Adam's pace."""

TOKENS: Final = GAP + 1
"""What a column can hold: twenty letters, the mask, the gap."""


class Block(nn.Module):
    """One pre-norm layer: attention with a learned bias per pair of columns, then a GELU MLP."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.pairs = nn.Parameter(torch.zeros(heads, COLUMNS, COLUMNS))
        self.join = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, h: Tensor) -> Tensor:
        """Return (N, 82, width) from (N, 82, width)."""
        n, length, width = h.shape
        qkv = self.qkv(self.norm_attention(h)).view(n, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        pairs = PAIR_SCALE * self.pairs
        if self.training:
            # Written out: the fused kernel has no backward pass for a learned bias.
            scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + pairs.to(q.dtype)
            mixed = scores.softmax(-1).to(v.dtype) @ v
        else:
            # Expanded to the batch, the bias reaches the fused kernel: four times faster.
            pairs = pairs.expand(n, -1, -1, -1)
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=pairs)
        h = h + self.drop(self.join(mixed.transpose(1, 2).reshape(n, length, width)))
        return h + self.drop(self.down(F.gelu(self.up(self.norm_mlp(h)))))

    def drop(self, h: Tensor) -> Tensor:
        """Drop whole features of a row in training: cheaper than single entries, and stronger."""
        if not self.training or self.dropout == 0.0:
            return h
        keep = torch.rand(len(h), 1, h.shape[-1]) >= self.dropout
        return h * (keep / (1.0 - self.dropout)).to(h.dtype)


class PDZNetwork(nn.Module):
    """Predict the letters of the masked columns of an aligned PDZ domain."""

    def __init__(
        self,
        width: int = 96,
        depth: int = 3,
        heads: int = 4,
        hidden: int = 384,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        # Started with unit-like spread, so that attention can tell letters and columns at once.
        self.letters = nn.Parameter(torch.randn(TOKENS, width) * 0.5)
        self.columns = nn.Parameter(torch.randn(COLUMNS, width) * 0.5)
        self.blocks = nn.ModuleList(Block(width, heads, hidden, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.read = nn.Linear(width, len(PROTEIN), bias=False)
        self.profile = nn.Parameter(torch.zeros(COLUMNS, len(PROTEIN)))
        nn.init.zeros_(self.read.weight)

    @classmethod
    def of(cls, weights: Mapping[str, Tensor]) -> PDZNetwork:
        """Return the network that `weights` (a state dict) belong to, loaded, whatever its size."""
        hidden, width = weights["blocks.0.up.weight"].shape
        depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
        network = cls(width, depth, len(weights["blocks.0.pairs"]), hidden)
        network.load_state_dict(dict(weights))
        return network

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, 82, 20) of tokens (N, 82) or of relaxed columns (N, 82, 22)."""
        h = x @ self.letters if x.is_floating_point() else F.embedding(x, self.letters)
        h = h + self.columns
        for block in self.blocks:
            h = block(h)
        logits: Tensor = self.read(self.norm(h)) + self.profile
        return logits


class OnConstruct(nn.Module):
    """A `PDZNetwork` read and written in construct positions: what the process calls."""

    position_of: Tensor
    column_of: Tensor
    background: Tensor

    def __init__(self, network: PDZNetwork) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("position_of", torch.tensor(POSITION_OF))
        self.register_buffer("column_of", torch.tensor(COLUMN_OF))
        self.register_buffer("background", torch.tensor(BACKGROUND).log())

    def __repr__(self) -> str:
        """Return one line: a process is printed with its network."""
        return f"OnConstruct({sum(p.numel() for p in self.network.parameters())} parameters)"

    def forward(self, x: Tensor, t: float = 0.0) -> Tensor:
        """Return logits (..., 84, 20) of tokens (..., 84) or relaxed states (..., 84, 21).

        Args:
            x: letters 0..19 and the mask 20, or one column each.
            t: ignored; the network sees in x how much is masked.
        """
        if x.is_floating_point():
            lead = x.shape[:-2]
            # A construct column, relaxed, has no gap entry: add it, and one position that is a gap.
            x = F.pad(x.to(self.background.dtype).flatten(0, -3), (0, 1, 0, 1))
            gap = F.one_hot(torch.tensor(GAP, device=x.device), TOKENS).to(x.dtype)
            x = torch.cat((x[:, :-1], gap.expand(len(x), 1, TOKENS)), 1)
        else:
            lead = x.shape[:-1]
            x = F.pad(x.flatten(0, -2), (0, 1), value=GAP)
        logits = self.network(x[:, self.position_of])
        logits = torch.cat((logits, self.background.expand(len(logits), 1, -1)), 1)
        return logits[:, self.column_of].reshape(*lead, len(WILD_TYPE), len(PROTEIN))


def load_weights(data: bytes) -> PDZNetwork:
    """Return the network of a safetensors file's bytes: in evaluation mode, float32, frozen."""
    state = sound(load(data).items(), "pdz-mini.safetensors")
    network = PDZNetwork.of({name: w.float() for name, w in state.items()})
    return network.eval().requires_grad_(False)


@cache
def shipped() -> PDZNetwork:
    """Return the network of the weights in this package, loaded once."""
    return load_weights(files("seqalign.models").joinpath("pdz-mini.safetensors").read_bytes())


def pdz_mini(
    *,
    steps: int | None = None,
    order: Order = "random",
    temperature: float = 1.0,
    chunk: int | None = None,
) -> MaskedProcess:
    """Return the masked diffusion of the PSD-95 PDZ3 construct, 84 positions of 20 letters.

    The process itself is unrestricted. `seqalign.load_model("pdz-mini")` adds a design space,
    which keeps the positions of `FIX` at the wild type, and takes one step per free position.

    Args:
        steps: number of steps; by default 84, one per position.
        order: "random" reveals one uniformly random position a step, as the model was trained and
            judged; "parallel" reveals several.
        temperature: divides the logits.
        chunk: particles per network call.
    """
    return MaskedProcess(
        network=OnConstruct(shipped()),
        alphabet=PROTEIN,
        length=len(WILD_TYPE),
        steps=len(WILD_TYPE) if steps is None else steps,
        order=order,
        temperature=temperature,
        differentiable=True,
        chunk=chunk,
        wild_type=WILD_TYPE,
        keep=FIX,
        name="pdz-mini",
    )
