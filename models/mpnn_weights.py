"""Weights of inverse folding: a network with what goes with it, read from published checkpoints.

One network runs them all: ProteinMPNN's weights (21 letters, the last X), those of the
masked-diffusion variant (22 letters, the last the mask) and of its stability oracle, which has a
readout. Our own small ones, mpnn-mini, are of the second kind. LigandMPNN adds a context encoder to
the first, and a membrane network a label.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load
from torch import Tensor, nn

from seqalign import weights
from seqalign.core.sequence import PROTEIN
from seqalign.files.structure import Structure, read_structure
from seqalign.models.backbone import Backbone
from seqalign.models.ligand_mpnn import ContextEncoder, nearest, take_context
from seqalign.models.membrane import Label, LabelEncoder, labels, take_labels
from seqalign.models.mpnn import MPNN, neighbor_graph, of, residue_numbers

LETTERS: Final = "ACDEFGHIKLMNPQRSTVWYX"
"""Rows of the token tables: twenty letters, X for an unknown one; in some checkpoints the mask."""

# of mpnn-mini
NEIGHBORS: Final = 24
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
        context: LigandMPNN's encoder of atoms beside the chains; None for all others.
        atoms: how many of them a residue sees.
        labels: the embedding of a membrane network's labels; None for all others.
        name: of the checkpoint, which says what kind of labels those are.
    """

    network: MPNN
    neighbors: int
    geometric: bool = False
    head: nn.Module | None = None
    context: ContextEncoder | None = None
    atoms: int = 25
    labels: LabelEncoder | None = None
    name: str = ""

    def to(self, device: torch.device | str) -> Weights:
        """Return the same on a device; these stay where they are."""
        wanted, here = torch.device(device), self.network.W_s.weight.device
        if wanted.type == here.type and wanted.index in (None, here.index):
            return self
        parts: dict[str, Any] = {
            name: part if part is None else copy.deepcopy(part).to(device)
            for name in ("network", "head", "context", "labels")
            for part in [getattr(self, name)]
        }
        return replace(self, **parts)

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

    @torch.no_grad()
    def encode(
        self,
        structure: Structure,
        *,
        bfloat16: bool = False,
        compiled: bool = False,
        context_atoms: bool = True,
        label: Label | None = None,
        device: torch.device | str = "cpu",
    ) -> Backbone:
        """Encode a structure: residues with a whole backbone, in file order.

        With `bfloat16` the decoder runs in half precision, with `compiled` through torch.compile.
        Neither need be faster on a processor; the speed and error of both are measured in
        examples/benchmarks/inverse_folding.py. On another `device` the network is a copy; who is
        whose neighbor is found on the processor either way. LigandMPNN reads the structure's
        context atoms unless `context_atoms` is False, and a membrane network needs its `label`.

        Raises:
            ValueError: there is nothing to design, or the label is missing, or is one too many.
        """
        if label is not None and self.labels is None:
            raise ValueError("label: only the membrane networks know labels. Leave it out.")
        nodes = self.nodes(structure)
        coords = structure.coords[nodes]
        if self.geometric:
            numbers, chains = residue_numbers(coords), torch.zeros(len(coords), dtype=torch.int64)
        else:
            numbers, chains = structure.residue_index[nodes], structure.chain_index[nodes]
        graph = neighbor_graph(coords, numbers, chains, self.neighbors).to(device)
        own, start = self.to(device), None
        if own.labels is not None:
            start = own.labels(labels(structure, label, self.name)[nodes].to(device))
        h, e = own.network.encode(graph, start)
        if own.context is not None:
            beside = structure.context_atoms
            most = self.atoms if context_atoms else 0
            near = nearest(coords, beside.xyz, beside.element, most).to(device)
            h = own.context(h, coords.to(device), near)
        backbone = Backbone.encode(own.network, graph, encoded=(h, e))
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
        pieces = [backbone.hidden(some)[-1].mean(1) for some in tokens.split(backbone.together)]
        scores: Tensor = self.head(torch.cat(pieces).float())[:, 0]
        return scores


WIDE: Final = 416
"""Inputs of the edge embedding of whole backbones: 16 of residue numbers, 25 distances of 16."""


def other_kind(state: Mapping[str, Tensor]) -> str | None:
    """Return which relative of ProteinMPNN tensors belong to, by their names and shapes.

    Returns:
        "side-chain packer", "LigandMPNN", "membrane" or "CA-only"; None for none of these.
    """
    if "W_torsions.weight" in state:
        return "side-chain packer"
    if "features.y_nodes.weight" in state or "W_nodes_y.weight" in state:
        return "LigandMPNN"
    if "features.node_embedding.weight" in state or "W_v.weight" in state:
        edges = state.get("features.edge_embedding.weight")
        return "membrane" if edges is not None and edges.shape[-1] >= WIDE else "CA-only"
    return None


def refusal(kind: str) -> str:
    """Return what a relative of ProteinMPNN is, and what reads it, as the end of a sentence.

    Those for membranes are no such relative: ProteinMPNN's model reads them.
    """
    reader = "nothing here reads it yet"
    if kind == "LigandMPNN":
        reader = "the model ligandmpnn reads it"
    what = {
        "side-chain packer": "is the side-chain packer of LigandMPNN, which places side chains on "
        "a given sequence and draws no letters",
        "LigandMPNN": "is a LigandMPNN, which also sees the atoms of ligands",
        "CA-only": "is a CA-only ProteinMPNN, which sees no other atoms and has other features",
    }
    own = (
        "The model proteinmpnn reads vanilla, soluble and membrane ones, as v_48_020 and "
        "soluble-v_48_020"
    )
    return f"{what[kind]}; {reader}. {own}."


def load_checkpoint(path: str | Path, *, neighbors: int | None = None) -> Weights:
    """Return the network of a published checkpoint.

    Args:
        path: a file, or a name that `seqalign fetch` lists. ProteinMPNN (vanilla, soluble and
            membrane), LigandMPNN, the masked-diffusion variant (22 letters) and its stability
            oracle have one format: a dictionary with `model_state_dict`.
        neighbors: K; by default what the file says (`num_edges`), and 30 where it says nothing,
            which is what the masked-diffusion networks were trained with.

    Raises:
        ValueError: the file is no such checkpoint.
    """
    entry = weights.find(path, weights.catalog()) if isinstance(path, str) else None
    if entry is not None and entry.name.startswith("ca-"):
        # before anybody is told to fetch it
        raise ValueError(f"{path}: {refusal('CA-only')}")
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
    state = weights.sound(content["model_state_dict"].items(), file)
    kind = other_kind(state)
    head = context = told = None
    try:
        if kind == "LigandMPNN":
            context = take_context(state)
        elif kind == "membrane":
            told = take_labels(state)
        elif kind is not None:
            raise ValueError(f"{file}: {refusal(kind)}")
    except (KeyError, RuntimeError) as error:
        raise ValueError(
            f"{file}: its tensors are not those of the {kind} network that it looks like: "
            f"{' '.join(str(error).split())[:200]}."
        ) from None
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
    return Weights(
        network,
        neighbors or int(content.get("num_edges", 30)),
        head=head,
        context=context,
        atoms=int(content.get("atom_context_num", 25)),
        labels=told,
        name=f"{Path(path).name} {file.name}" if told else "",
    )


@cache
def shipped() -> Weights:
    """Return mpnn-mini's weights of this package, loaded once."""
    data = files("seqalign.models").joinpath("mpnn-mini.safetensors").read_bytes()
    state = weights.sound(load(data).items(), "mpnn-mini.safetensors")
    return Weights(of(state), NEIGHBORS, geometric=True)


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
