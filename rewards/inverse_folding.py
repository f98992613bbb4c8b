"""Rewards read from inverse-folding networks: two stability oracles, and a sequence's own score.

- `thermompnn`: ThermoMPNN's ΔΔG of point mutations. A ProteinMPNN trunk sees the whole wild type;
  at a mutated site the decoder's states of the last layers (last first) and the embedding of the
  wild-type letter pass through light attention and an MLP to one number per letter. On one site the
  attention's softmax is over one entry, so it is 1, and of the convolution only the central tap
  meets anything: together a linear map. The trunk never sees a design, so the reward is a table,
  additive over mutations: exact for one, an approximation for more.
- `drakes-stability`: the tutorial's stability oracle (masked-diffusion network, 22 letters): the
  decoder's residues, each seeing all letters, averaged and read by an MLP. It predicts the
  stability of a whole sequence relative to the wild type of its training data, which is not 0.
- `mpnn-score`: mean log-probability per designed residue, in nats: minus what ProteinMPNN's headers
  call score.
- `mpnn-log-odds`: log-odds of a design's letters against the wild type's, each given the structure
  and all other letters of the wild type, in nats: a table, exact for one mutation.

Published weights come from `seqalign fetch`; the networks are those of `seqalign.models`.

References:
    Transfer learning to leverage larger datasets for improved prediction of protein stability
    changes, Dieckhaus et al., 2024, PNAS 121:e2314853121,
    https://doi.org/10.1073/pnas.2314853121 (figure 1: the head).
    Light attention predicts protein location from the language of life, Stärk et al., 2021,
    Bioinformatics Advances 1:vbab035 (equations 1-3).
    Fine-tuning discrete diffusion models via reward optimization with applications to DNA and
    protein design, Wang et al., 2024, https://arxiv.org/abs/2410.13643 (the oracle).
    Robust deep learning-based protein sequence design using ProteinMPNN, Dauparas et al., 2022,
    Science 378:49-56, https://doi.org/10.1126/science.add2187.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from seqalign import weights as published
from seqalign.core.objective import Reward
from seqalign.core.sequence import PROTEIN
from seqalign.files.structure import Structure, read_structure
from seqalign.models.devices import device_of
from seqalign.models.membrane import Label
from seqalign.models.mpnn import of
from seqalign.models.mpnn_weights import MASKED, Weights, load_checkpoint, shipped
from seqalign.rewards.letters import letter_probabilities, letter_tokens

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from seqalign.core.process import Designs
    from seqalign.models.backbone import Backbone

__all__ = [
    "Additive",
    "SequenceScore",
    "StabilityOracle",
    "drakes_stability",
    "mpnn_log_odds",
    "mpnn_score",
    "point_mutations",
    "thermompnn",
]

LETTERS: Final = len(PROTEIN)
NEIGHBORS: Final = 48
"""Neighbors of the trunk that ThermoMPNN was trained on (v_48_020)."""
CHUNK: Final = 16
"""Designs per network call."""

Mode = Literal["any-order", "unconditional"]


@dataclass(frozen=True, eq=False)
class _Place:
    """Where the designs' letters go in a network's residues.

    Attributes:
        tokens: (N,) int64, the structure's own letters.
        slots: (n,) int64, the node of each position of a design.
        free: (N,) bool, nodes that are positions of chains to be designed.
    """

    tokens: Tensor
    slots: Tensor
    free: Tensor

    @classmethod
    def of(cls, source: Weights, structure: Structure) -> _Place:
        nodes = source.nodes(structure)
        at = torch.full((len(structure),), -1)
        at[nodes] = torch.arange(len(nodes))
        free = torch.zeros(len(nodes), dtype=torch.bool)
        free[at[structure.known]] = structure.design[structure.known]
        if not bool(free.any()):
            raise ValueError(
                f"{structure.name}: no residue of a chain to be designed has a letter and a whole "
                f"backbone. Check the file and the chains."
            )
        return cls(source.native(structure), at[structure.known], free)

    def to(self, device: torch.device | str) -> _Place:
        return _Place(*(v.to(device) for v in (self.tokens, self.slots, self.free)))

    def fill(self, x: Tensor) -> Tensor:
        """Return node tokens (P, N) of design tokens (P, n)."""
        full = self.tokens.repeat(len(x), 1)
        full[:, self.slots] = x
        return full

    def fill_relaxed(self, x: Tensor, rows: int) -> Tensor:
        """Return shares (P, N, rows) of the letter table of letter probabilities (P, n, 20)."""
        full = functional.one_hot(self.tokens, rows).to(x).repeat(len(x), 1, 1)
        return full.index_copy(1, self.slots, functional.pad(x, (0, rows - LETTERS)))


@dataclass(frozen=True, eq=False, kw_only=True)
class Additive(Reward):
    """A table of one number per letter and site, summed over a design.

    Attributes:
        name: what messages and tables call it.
        wild_type: the L letters of the structure.
        table: (L, 20) float64, in `unit`.
        unit: the unit of the sum.
        cost: seconds per design.
        differentiable: True.
    """

    name: str
    wild_type: str
    table: Tensor = field(repr=False)
    unit: str
    cost: float = 1e-5
    differentiable: bool = True
    follows = True

    def __call__(self, designs: Designs) -> Tensor:
        """Score designs (B, K), float64.

        Raises:
            TypeError: the designs have no letters.
            ValueError: another alphabet, another length, or a position still masked.
        """
        x = letter_tokens(designs, self.name, len(self.wild_type))
        rows = x.flatten(0, 1) + LETTERS * torch.arange(x.shape[-1], device=x.device)
        flat = self.table.to(x.device).reshape(-1, 1)
        return functional.embedding_bag(rows, flat, mode="sum").reshape(x.shape[:2])

    def relaxed(self, x: Tensor) -> Tensor:
        """Score letter probabilities (B, K, L, 20) as (B, K), differentiably: the mean.

        Raises:
            ValueError: x has another shape.
        """
        x = letter_probabilities(x, self.name, len(self.wild_type))
        return (x.to(torch.float64) * self.table.to(x.device)).sum((-1, -2))


# ThermoMPNN ---------------------------------------------------------------------------------------


def _lightning(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a ThermoMPNN checkpoint, the leading "model." taken off."""
    file = published.path(path)
    try:
        content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{file}: cannot be read as a PyTorch checkpoint of plain tensors "
            f"({type(error).__name__}). Give the .pt or .ckpt file of ThermoMPNN; a file that "
            f"holds other objects must be saved again as {{'state_dict': tensors}}."
        ) from None
    state = content.get("state_dict") if isinstance(content, dict) else None
    needed = ("prot_mpnn.W_s.weight", "both_out.1.weight", "ddg_out.weight")
    found = {k.removeprefix("model."): v for k, v in (state or {}).items()}
    missing = [k for k in needed if k not in found]
    if missing:
        raise ValueError(
            f"{file}: is no ThermoMPNN checkpoint, it has no tensor 'model.{missing[0]}' in its "
            f"'state_dict'. Give the file that seqalign fetch thermompnn brings."
        )
    return published.sound(found.items(), file)


@torch.no_grad()
def point_mutations(state: Mapping[str, Tensor], structure: Structure) -> Tensor:
    """Return −ΔΔG (L, 20) in kcal/mol of every single mutation of the structure's own letters.

    Args:
        state: ThermoMPNN's tensors: `prot_mpnn.*`, `light_attention.*` (may be absent),
            `both_out.*`, `ddg_out.*`.
        structure: L residues with a letter.

    Raises:
        ValueError: the head does not fit the trunk.
    """
    state = {k: v.float() for k, v in state.items()}
    prefix = "prot_mpnn."
    trunk = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    source = Weights(of(trunk), NEIGHBORS)
    place = _Place.of(source, structure)
    backbone = source.encode(structure)
    states = backbone.hidden(place.tokens[None])[::-1]
    width = backbone.h.shape[-1]
    size = state["both_out.1.weight"].shape[1]
    layers, rest = divmod(size - width, width)
    if rest or not 0 <= layers <= len(states):
        raise ValueError(
            f"ThermoMPNN: the head reads {size} numbers per site, and the trunk has {len(states)} "
            f"decoder layers of {width} and an embedding of {width}. The file is damaged."
        )
    h = torch.cat([s[0] for s in states[:layers]] + [source.network.W_s(place.tokens)], -1)
    convolution = state.get("light_attention.feature_convolution.weight")
    if convolution is not None:
        center = convolution[:, :, convolution.shape[2] // 2]
        h = functional.linear(h, center, state["light_attention.feature_convolution.bias"])
    numbers = sorted(
        int(k.split(".")[1]) for k in state if k.startswith("both_out.") and k.endswith(".weight")
    )
    for n in numbers:
        h = functional.linear(
            functional.relu(h), state[f"both_out.{n}.weight"], state[f"both_out.{n}.bias"]
        )
    out = (h[place.slots, :LETTERS] * state["ddg_out.weight"].squeeze()).double()
    wild = place.tokens[place.slots, None]
    return out.gather(1, wild) - out


def thermompnn(
    *,
    structure: str | Path | Structure,
    checkpoint: str | Path = "thermompnn",
    chains: str | Sequence[str] | None = None,
    context: str | Sequence[str] | None = None,
    numbering: str = "author",
) -> Additive:
    """Return ThermoMPNN's change of stability, −ΔΔG in kcal/mol, summed over mutations.

    Args:
        structure: a structure file or a Structure; its own letters are the wild type and score 0.
        checkpoint: a file in ThermoMPNN's format, or a name that `seqalign fetch` lists.
        chains: chains to be designed; all but `context` by default.
        context: chains that are seen and not designed.
        numbering: how residues are numbered, "author", "label" or "index".

    Raises:
        FileNotFoundError: the weights are not on this machine; the message says how to get them.
        ValueError: the file is no ThermoMPNN checkpoint.
    """
    state = _lightning(checkpoint)
    read = read_structure(structure, chains=chains, context=context, numbering=numbering)
    table = point_mutations(state, read)
    return Additive(name="thermompnn", wild_type=read.wild_type, table=table, unit="kcal/mol")


def _chunk(backbone: Backbone) -> int:
    """Return how many designs share a network call."""
    return CHUNK if backbone.device.type == "cpu" else backbone.together


# the stability oracle of DRAKES -------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True)
class StabilityOracle(Reward):
    """The predicted stability of a whole sequence on a backbone, in kcal/mol.

    Attributes:
        name: what messages and tables call it.
        wild_type: the L letters of the structure; they do not score 0.
        source: network and readout.
        backbone: the structure, encoded once.
        place: where letters go.
        unit: "kcal/mol".
        cost: seconds per design of about 100 residues.
        differentiable: True.
    """

    name: str
    wild_type: str
    source: Weights = field(repr=False)
    backbone: Backbone = field(repr=False)
    place: _Place = field(repr=False)
    unit: str = "kcal/mol"
    cost: float = 0.02
    differentiable: bool = True
    follows = True

    def __call__(self, designs: Designs) -> Tensor:
        """Score designs (B, K) in kcal/mol, float64.

        Raises:
            TypeError: the designs have no letters.
            ValueError: another alphabet, another length, or a position still masked.
        """
        x = letter_tokens(designs, self.name, len(self.wild_type))
        flat = x.flatten(0, 1).to(self.backbone.device)
        with torch.no_grad():
            parts = [
                self._read(self.place.fill(some)) for some in flat.split(_chunk(self.backbone))
            ]
        return torch.cat(parts).reshape(x.shape[:2]).double().to(x.device)

    def _read(self, tokens: Tensor) -> Tensor:
        """Return scores (P,) of tokens (P, N) or of shares (P, N, V)."""
        assert self.source.head is not None
        mean = self.backbone.hidden(tokens)[-1].mean(1)
        scores: Tensor = self.source.head(mean)[:, 0]
        return scores

    def relaxed(self, x: Tensor) -> Tensor:
        """Score letter probabilities (B, K, L, 20) as (B, K) in kcal/mol, differentiably.

        The letters' embeddings are mixed by x, as in the tutorial; a one-hot x scores what
        `__call__` scores.

        Raises:
            ValueError: x has another shape.
        """
        x = letter_probabilities(x, self.name, len(self.wild_type))
        rows = self.source.network.W_s.num_embeddings
        flat = x.flatten(0, 1).to(self.backbone.device, torch.float32)
        size = _chunk(self.backbone)
        parts = [self._read(self.place.fill_relaxed(some, rows)) for some in flat.split(size)]
        return torch.cat(parts).reshape(x.shape[:2]).to(x)


def drakes_stability(
    *,
    structure: str | Path | Structure,
    checkpoint: str | Path = "drakes-stability",
    chains: str | Sequence[str] | None = None,
    context: str | Sequence[str] | None = None,
    numbering: str = "author",
    neighbors: int | None = None,
    device: str = "auto",
) -> StabilityOracle:
    """Return the tutorial's stability oracle, in kcal/mol, higher is more stable.

    Args:
        structure: a structure file or a Structure.
        checkpoint: a file in the oracle's format, or a name that `seqalign fetch` lists
            ("drakes-stability" guides, "drakes-stability-eval" is the authors' hold-out).
        chains: chains to be designed; all but `context` by default.
        context: chains that are seen and not designed.
        numbering: how residues are numbered, "author", "label" or "index".
        neighbors: of the network; by default what the file says, and 30 where it says nothing.
        device: "cpu", "cuda", ...; "auto" is cuda where there is one.

    Raises:
        FileNotFoundError: the weights are not on this machine; the message says how to get them.
        ValueError: the file is another network's.
    """
    source = load_checkpoint(checkpoint, neighbors=neighbors)
    if source.head is None:
        raise ValueError(
            f"{checkpoint}: is a model of sequences, which has no readout of stability. Give the "
            f"file that seqalign fetch drakes-stability brings."
        )
    read = read_structure(structure, chains=chains, context=context, numbering=numbering)
    home = device_of(device)
    return StabilityOracle(
        name="drakes-stability",
        wild_type=read.wild_type,
        source=source.to(home),
        backbone=source.encode(read, device=home),
        place=_Place.of(source, read).to(home),
    )


# the score of an inverse-folding model ------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True)
class SequenceScore(Reward):
    """The mean log-probability per designed residue along fixed orders, in nats.

    A residue is predicted from the structure and the letters that come before it; context chains
    and residues without a letter come first. The orders are drawn once, by a seed, and are the
    same for all designs. A network with 21 letters takes one pass per order, one that sees a mask
    takes a pass per residue and order.

    Attributes:
        name: what messages and tables call it.
        wild_type: the L letters of the structure.
        source: the network.
        backbone: the structure, encoded once.
        place: where letters go.
        orders: (n, N) int64, nodes in decoding order.
        unit: "nats" per residue.
    """

    name: str
    wild_type: str
    source: Weights = field(repr=False)
    backbone: Backbone = field(repr=False)
    place: _Place = field(repr=False)
    orders: Tensor = field(repr=False)
    unit: str = "nats"
    follows = True

    @property
    def cost(self) -> float:  # type: ignore[override]
        """Seconds per design, at 10 ms per pass."""
        passes = len(self.wild_type) if self.source.sees_masks else 1
        return 0.01 * passes * len(self.orders)

    def __call__(self, designs: Designs) -> Tensor:
        """Score designs (B, K) in nats per residue, float64.

        Raises:
            TypeError: the designs have no letters.
            ValueError: another alphabet, another length, or a position still masked.
        """
        x = letter_tokens(designs, self.name, len(self.wild_type))
        full = self.place.fill(x.flatten(0, 1).to(self.backbone.device))
        with torch.no_grad():
            if self.source.sees_masks:
                found = torch.stack([self._masked(row) for row in full])
            elif full.device.type == "cpu":
                found = torch.stack([self._forced(row) for row in full])
            else:
                found = self._together(full)
        return found.reshape(x.shape[:2]).to(x.device)

    def _together(self, tokens: Tensor) -> Tensor:
        """Return the scores (P,) of tokens (P, N): all of them in one pass for an order."""
        total = torch.zeros(len(tokens), dtype=torch.float64, device=tokens.device)
        size = _chunk(self.backbone)
        for order in self.orders.split(1):
            seen = self.backbone.seen(order)
            for first in range(0, len(tokens), size):
                rows = tokens[first : first + size]
                logits = self.backbone.logits(rows, seen.expand(len(rows), -1, -1))
                own = logits.double().log_softmax(-1).gather(-1, rows[..., None])
                total[first : first + size] += own[:, self.place.free].sum((-1, -2))
        return total / (len(self.orders) * self.place.free.sum())

    def _forced(self, tokens: Tensor) -> Tensor:
        """Return the score () of tokens (N,), all residues of an order in one pass."""
        total = torch.zeros((), dtype=torch.float64, device=tokens.device)
        for order in self.orders.split(CHUNK):
            rows = tokens.expand(len(order), -1)
            log_p = self.backbone.logits(rows, self.backbone.seen(order)).double().log_softmax(-1)
            total += log_p.gather(-1, rows[..., None])[:, self.place.free].sum()
        return total / (len(self.orders) * self.place.free.sum())

    def _masked(self, tokens: Tensor) -> Tensor:
        """Return the score () of tokens (N,), the letters not yet drawn masked."""
        total = torch.zeros((), dtype=torch.float64, device=tokens.device)
        for order in self.orders:
            rank = order.argsort()
            turns = self.place.free.nonzero()[:, 0]
            for some in turns.split(_chunk(self.backbone)):
                hidden = (rank >= rank[some, None]) & self.place.free
                logits = self.backbone.logits(torch.where(hidden, MASKED, tokens))
                at = torch.arange(len(some), device=some.device)
                own = logits[at, some, :LETTERS].double().log_softmax(-1)
                total += own.gather(-1, tokens[some, None]).sum()
        return total / (len(self.orders) * self.place.free.sum())


def mpnn_score(
    *,
    structure: str | Path | Structure,
    checkpoint: str | Path | None = None,
    mode: Mode = "any-order",
    orders: int = 1,
    seed: int = 0,
    chains: str | Sequence[str] | None = None,
    context: str | Sequence[str] | None = None,
    numbering: str = "author",
    label: Label | None = None,
    device: str = "auto",
) -> SequenceScore | Additive:
    """Return how likely an inverse-folding model finds a sequence: mean log-probability, in nats.

    Args:
        structure: a structure file or a Structure.
        checkpoint: ProteinMPNN's, LigandMPNN's (which sees ligands) or the masked-diffusion
            network's file, or a name that `seqalign fetch` lists; mpnn-mini by default.
        mode: "any-order" conditions each residue on those before it; "unconditional" on the
            structure alone, which is one table, additive and differentiable.
        orders: how many random orders are averaged ("any-order").
        seed: of the orders.
        chains: chains to be designed; all but `context` by default.
        context: chains that are seen and not designed.
        numbering: how residues are numbered, "author", "label" or "index".
        label: membrane networks only: where the residues are.
        device: "cpu", "cuda", ...; "auto" is cuda where there is one.

    Raises:
        FileNotFoundError: the weights are not on this machine; the message says how to get them.
        ValueError: a parameter has no meaning, or the file is an oracle's.
    """
    if mode not in get_args(Mode):
        raise ValueError(
            f"mpnn-score: mode is {mode!r}; give 'any-order' or 'unconditional' (a table)."
        )
    if orders < 1:
        raise ValueError(f"mpnn-score: orders is {orders}; give 1 or more.")
    source = _model_of_sequences(checkpoint)
    read = read_structure(structure, chains=chains, context=context, numbering=numbering)
    # one table is soon made anywhere, and goes where the designs are
    home = device_of(device) if mode == "any-order" else "cpu"
    place, backbone = _Place.of(source, read), source.encode(read, label=label, device=home)
    if mode == "unconditional":
        log_p = unconditional(source, backbone, place)
        table = torch.where(place.free[:, None], log_p, 0.0) / place.free.sum()
        return Additive(
            name="mpnn-score",
            wild_type=read.wild_type,
            table=table[place.slots],
            unit="nats",
        )
    draws = torch.rand(orders, len(place.free), generator=torch.Generator().manual_seed(seed))
    return SequenceScore(
        name="mpnn-score",
        wild_type=read.wild_type,
        source=source,
        backbone=backbone,
        place=place.to(home),
        # what is not designed comes first
        orders=(draws + place.free).argsort(-1).to(home),
    )


@torch.no_grad()
def conditional(source: Weights, backbone: Backbone, place: _Place, draws: Tensor) -> Tensor:
    """Return log p (L, 20) of each position's letter given all other letters of the wild type.

    A network that sees a mask sees it at the residue alone. One that does not decodes the residue
    last, and the log-probabilities are means over orders of the others.

    Args:
        source: the network.
        backbone: the structure, encoded.
        place: where letters go; its own letters are the wild type's.
        draws: (n, N) in [0, 1), the orders.
    """
    total = torch.zeros(len(place.slots), LETTERS, dtype=torch.float64)
    draws = draws[:1] if source.sees_masks else draws
    for draw in draws:
        rows = []
        for some in place.slots.split(CHUNK):
            own = torch.arange(len(draw)) == some[:, None]
            tokens = place.tokens.expand(len(some), -1)
            if source.sees_masks:
                logits = backbone.logits(torch.where(own, MASKED, tokens))
            else:
                logits = backbone.logits(tokens, backbone.seen((draw + own).argsort(-1)))
            at = logits[torch.arange(len(some)), some, :LETTERS]
            rows.append(at.double().log_softmax(-1))
        total += torch.cat(rows)
    return total / len(draws)


@torch.no_grad()
def unconditional(source: Weights, backbone: Backbone, place: _Place) -> Tensor:
    """Return log p (N, 20) of each residue's letter given the structure and what is not designed.

    Of a network without masks, given the structure alone.
    """
    if source.sees_masks:
        logits = backbone.logits(torch.where(place.free, MASKED, place.tokens)[None])[0]
        return logits[:, :LETTERS].double().log_softmax(-1)
    return backbone.unconditional().double().log_softmax(-1)[:, :LETTERS]


def mpnn_log_odds(
    *,
    structure: str | Path | Structure,
    checkpoint: str | Path | None = None,
    mode: Literal["conditional", "unconditional"] = "conditional",
    orders: int = 1,
    seed: int = 0,
    chains: str | Sequence[str] | None = None,
    context: str | Sequence[str] | None = None,
    numbering: str = "author",
) -> Additive:
    """Return the log-odds of a design's letters against the wild type's, summed, in nats.

    Args:
        structure: a structure file or a Structure; its own letters are the wild type and score 0.
        checkpoint: as for `mpnn_score`; mpnn-mini by default.
        mode: "conditional" on all other letters of the wild type; "unconditional", on the structure
            alone, is a pass instead of one per residue.
        orders: how many random orders of the other residues are averaged ("conditional"), where
            letters are decoded one after another.
        seed: of the orders.
        chains: chains to be designed; all but `context` by default.
        context: chains that are seen and not designed.
        numbering: how residues are numbered, "author", "label" or "index".

    Raises:
        FileNotFoundError: the weights are not on this machine; the message says how to get them.
        ValueError: a parameter has no meaning, or the file is an oracle's.
    """
    if mode not in ("conditional", "unconditional"):
        raise ValueError(f"mpnn-log-odds: mode is {mode!r}; give 'conditional' or 'unconditional'.")
    if orders < 1:
        raise ValueError(f"mpnn-log-odds: orders is {orders}; give 1 or more.")
    source = _model_of_sequences(checkpoint)
    read = read_structure(structure, chains=chains, context=context, numbering=numbering)
    place, backbone = _Place.of(source, read), source.encode(read)
    if mode == "unconditional":
        log_p = unconditional(source, backbone, place)[place.slots]
    else:
        size = (orders, len(place.tokens))
        draws = torch.rand(size, generator=torch.Generator().manual_seed(seed))
        log_p = conditional(source, backbone, place, draws)
    wild = PROTEIN.encode([read.wild_type])[0]
    table = log_p - log_p.gather(-1, wild[:, None])
    # letters of context chains are kept, and count nothing
    table = torch.where(place.free[place.slots, None], table, 0.0)
    return Additive(name="mpnn-log-odds", wild_type=read.wild_type, table=table, unit="nats")


def _model_of_sequences(checkpoint: str | Path | None) -> Weights:
    source = shipped() if checkpoint is None else load_checkpoint(checkpoint)
    if source.head is not None:
        raise ValueError(
            f"{checkpoint}: is an oracle, which has no letters to say. Give a model of sequences, "
            f"or use the reward drakes-stability."
        )
    return source
