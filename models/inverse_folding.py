"""mpnn-mini, proteinmpnn, ligandmpnn, fmif: masked diffusions of the sequences of a backbone.

*proteinmpnn.* The published order-agnostic autoregressive model. A residue that is decoded sees the
letters decoded before it, and of the others only the structure.
*ligandmpnn.* The same, and the encoder also reads the atoms beside the chains: ligands, metals and
nucleic acids (`ligand_mpnn`).
*fmif.* The masked-diffusion variant of the tutorial: every residue sees every neighbor's letter,
its own included, so its posterior is a function of the tokens.
*mpnn-mini.* Our own small weights, of the second kind; data and figures: `cards/mpnn-mini.yaml`.

**ProteinMPNN as masked diffusion.** Revealing one uniformly random position a step is decoding in
a uniformly random order: the published law, whose decoder states the particles carry
(`seqalign.models.autoregressive`).

References:
    Robust deep learning-based protein sequence design using ProteinMPNN, Dauparas et al., Science
    2022, https://doi.org/10.1126/science.add2187
    Fine-tuning discrete diffusion models via reward optimization with applications to DNA and
    protein design, Wang et al., ICLR 2025, https://arxiv.org/abs/2410.13643 (fmif, its oracle)
    Autoregressive diffusion models, Hoogeboom et al., ICLR 2022, https://arxiv.org/abs/2110.02037
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recomputed

from seqalign import weights
from seqalign.core.discrete import MaskedProcess
from seqalign.core.sequence import PROTEIN
from seqalign.files.structure import Structure, read_structure
from seqalign.models.autoregressive import Autoregressive
from seqalign.models.backbone import PARTICLES, Backbone
from seqalign.models.devices import device_of
from seqalign.models.membrane import Label
from seqalign.models.mpnn_weights import (
    MASKED,
    Weights,
    load_checkpoint,
    refusal,
    shipped,
)

if TYPE_CHECKING:
    from seqalign.core.discrete import Order


TEMPERATURE: Final = 0.1


@dataclass(frozen=True, eq=False)
class OnBackbone:
    """A backbone read and written in process positions, by a network that reads masks.

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
        return f"OnBackbone({self.backbone}, {len(self.slots)} positions)"

    def __call__(self, x: Tensor, t: float = 0.0) -> Tensor:
        """Return logits (..., n, 20) of tokens (..., n), mask 20, or relaxed states (..., n, 21).

        There is no time input: how much is masked can be seen in x.
        """
        relaxed = x.is_floating_point()
        lead = x.shape[:-2] if relaxed else x.shape[:-1]
        flat = x.reshape(-1, *x.shape[len(lead) :])
        piece = self._relaxed if relaxed else self._tokens
        size = self.backbone.together
        if x.requires_grad and len(flat) > 4 * PARTICLES:
            # what a gradient needs is computed again, piece by piece, or memory would grow
            piece = partial(recomputed, piece, use_reentrant=False)
        logits = torch.cat([piece(p) for p in flat.split(size)])
        return logits.view(*lead, len(self.slots), len(PROTEIN))

    def _read(self, full: Tensor) -> Tensor:
        return self.backbone.logits(full)[:, self.slots, : len(PROTEIN)]

    def _tokens(self, x: Tensor) -> Tensor:
        full = self.tokens.repeat(len(x), 1)
        full[:, self.slots] = torch.where(x == PROTEIN.mask, MASKED, x)
        return self._read(full)

    def _relaxed(self, x: Tensor) -> Tensor:
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
    temperature: float = TEMPERATURE,
    chunk: int | None = None,
    bfloat16: bool = False,
    compiled: bool = False,
    context_atoms: bool = True,
    label: Label | None = None,
    device: str = "cpu",
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
        temperature: divides the logits; 0.1 to 0.3 is what people sample at, and a score is always
            that of temperature 1.
        chunk: particles per call; None: all, which lets the driver leave out exactly those that did
            not change. Memory does not grow with their number either way.
        bfloat16: run the decoder in half precision.
        compiled: run it through torch.compile.
        context_atoms: LigandMPNN only: see ligands, metals and nucleic acids.
        label: membrane networks only: where the residues are, see `membrane`.
        device: "cpu", "cuda", ...; "auto" is cuda where there is one. States live there too.
        name: of the process.

    Raises:
        NoDevice: there is no such device.
        TypeError: the weights are an oracle's.
    """
    place = device_of(device)
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
        network=(OnBackbone if source.sees_masks else Autoregressive)(
            source.encode(
                structure,
                bfloat16=bfloat16,
                compiled=compiled,
                context_atoms=context_atoms,
                label=label,
                device=place,
            ),
            at[structure.known].to(place),
            source.native(structure).to(place),
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
    temperature: float = TEMPERATURE,
    chunk: int | None = None,
    device: str = "auto",
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
        device=device,
        name="mpnn-mini",
    )


def published(
    *,
    registered: str,
    structure: str | Path | Structure,
    checkpoint: str | Path,
    chains: str | Sequence[str] | None = None,
    context: str | Sequence[str] | None = None,
    numbering: str = "author",
    steps: int | None = None,
    order: Order = "random",
    temperature: float = TEMPERATURE,
    chunk: int | None = None,
    bfloat16: bool = False,
    compiled: bool = False,
    label: Label | None = None,
    device: str = "auto",
) -> MaskedProcess:
    """Return published weights by name: ProteinMPNN, or the tutorial's masked diffusion (`fmif`).

    Arguments as for `process`; `checkpoint` is a file in the official format or a name that
    `seqalign fetch` lists; `label` is for the membrane networks. What the posterior of ProteinMPNN
    is: see the module.

    Raises:
        ValueError: the checkpoint is another network's.
    """
    return process(
        _source(checkpoint, registered),
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
        label=label,
        device=device,
        name=registered,
    )


def ligandmpnn(
    *,
    structure: str | Path | Structure,
    checkpoint: str | Path = "ligandmpnn-v_32_010_25",
    chains: str | Sequence[str] | None = None,
    context: str | Sequence[str] | None = None,
    numbering: str = "author",
    steps: int | None = None,
    order: Order = "random",
    temperature: float = TEMPERATURE,
    chunk: int | None = None,
    bfloat16: bool = False,
    compiled: bool = False,
    context_atoms: bool = True,
    device: str = "auto",
) -> MaskedProcess:
    """Return LigandMPNN: ProteinMPNN that sees ligands, metals and nucleic acids.

    Arguments as for `process`; without `context_atoms` its context layers see no atom, which is not
    ProteinMPNN.

    Raises:
        ValueError: the checkpoint is another network's.
    """
    return process(
        _source(checkpoint, "ligandmpnn"),
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
        context_atoms=context_atoms,
        device=device,
        name="ligandmpnn",
    )


_WANTED: Final = {
    "proteinmpnn": "is no ProteinMPNN, which has 21 letters",
    "ligandmpnn": "is no LigandMPNN, which has layers for the atoms of ligands",
    "fmif": "is no masked-diffusion network, which has 22 letters and reads letters out",
}
_CURES: Final = {
    "proteinmpnn": "Use the model proteinmpnn for 21 letters",
    "fmif": "Use the model fmif for the masked-diffusion network with 22",
    "oracle": "An oracle is a reward",
}
# as the names of the catalog begin
_FAMILIES: Final = {
    "proteinmpnn": "proteinmpnn",
    "soluble": "proteinmpnn",
    "membrane": "proteinmpnn",
    "ligandmpnn": "ligandmpnn",
    "fmif": "fmif",
}


def _source(checkpoint: str | Path, wanted: str) -> Weights:
    """Return the weights of a checkpoint, once they are those of a model.

    Raises:
        ValueError: they are another's; a name is refused before anybody is told to fetch it.
    """
    entry = weights.find(checkpoint, weights.catalog()) if isinstance(checkpoint, str) else None
    kind = None if entry is None else _FAMILIES.get(entry.name.partition("-")[0])
    source = load_checkpoint(checkpoint) if kind in (None, wanted) else None
    if source is not None:
        kind = "proteinmpnn" if source.context is None else "ligandmpnn"
        kind = "fmif" if source.sees_masks else kind
        kind = "oracle" if source.head is not None else kind
    if source is None or kind != wanted:
        if kind == "ligandmpnn":
            raise ValueError(f"{checkpoint}: {refusal('LigandMPNN')}")
        raise ValueError(f"{checkpoint}: {_WANTED[wanted]}. {_CURES[kind or 'oracle']}.")
    return source


# what `seqalign new` and the catalog tell of a checkpoint stands in the signature
proteinmpnn = partial(published, checkpoint="proteinmpnn-v_48_020")
fmif = partial(published, checkpoint="fmif")
