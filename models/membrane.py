"""Membrane networks: ProteinMPNN whose encoder begins with what each residue is said to be.

Two networks were published. One label for all residues: 0 soluble, 1 transmembrane; or one for
each: 0 elsewhere, 1 at the interface of membrane and water, 2 buried in the membrane. Parameters
are named as in their checkpoints.

References:
    Atomic context-conditioned protein sequence design using LigandMPNN, Dauparas et al., Nature
    Methods 2025, https://doi.org/10.1038/s41592-025-02626-1 (published with it)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

import torch
from torch import Tensor, nn

from seqalign.files.structure import Structure

__all__ = ["Label", "LabelEncoder", "labels", "take_labels"]

Label: TypeAlias = str | Mapping[str, str | Sequence[str]]
"""soluble or transmembrane, for all residues; or {buried: RESIDUES, interface: RESIDUES}."""

_WHOLE: Final = {"soluble": 0, "transmembrane": 1}
_EACH: Final = {"interface": 1, "buried": 2}


class LabelEncoder(nn.Module):
    """What a residue is said to be, where the encoder of a membrane network begins: three kinds."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.features = nn.ModuleDict(
            {"node_embedding": nn.Linear(3, width, bias=False), "norm_nodes": nn.LayerNorm(width)}
        )
        self.W_v = nn.Linear(width, width)

    def forward(self, label: Tensor) -> Tensor:
        """Return residues (N, H) of labels (N,), 0 to 2."""
        kinds = self.features["norm_nodes"](self.features["node_embedding"].weight.T)
        out: Tensor = self.W_v(kinds)[label]
        return out


def take_labels(state: dict[str, Tensor]) -> LabelEncoder:
    """Return the frozen embedding of labels in a state dict, and take its tensors out."""
    with torch.random.fork_rng(devices=[]):
        encoder = LabelEncoder(len(state["W_v.weight"]))
    own = {name: state.pop(name).float() for name in encoder.state_dict()}
    encoder.load_state_dict(own, assign=True)
    return encoder.eval().requires_grad_(False)


def labels(structure: Structure, label: Label | None, name: str = "") -> Tensor:
    """Return (L,) int64 labels of the residues of a structure.

    Args:
        structure: the structure.
        label: what was said.
        name: of the checkpoint, which says what kind of label it knows ("global", "per_residue").

    Raises:
        ValueError: there is no label, or one of the other network, or it names what is not there.
    """
    whole = "soluble or transmembrane"
    each = "{buried: RESIDUES, interface: RESIDUES}"
    if "residue" in name:
        asked = each
    elif "global" in name:
        asked = whole
    else:
        asked = f"{whole}, for the network with one label for all residues, else {each}"
    if isinstance(label, str) and label in _WHOLE and asked != each:
        return torch.full((len(structure),), _WHOLE[label])
    if not isinstance(label, Mapping) or not label or set(label) - set(_EACH) or asked == whole:
        raise ValueError(
            f"label is {'missing' if label is None else repr(label)}: this membrane network is "
            f"told where its residues are. Give {asked}."
        )
    found = torch.zeros(len(structure), dtype=torch.int64)
    for kind, text in label.items():
        at = structure.known[[i - 1 for i in structure.known_numbering.positions(text, kind)]]
        if bool((found[at] > 0).any()):
            twice = structure.numbering.name(int(at[found[at] > 0][0]) + 1)
            raise ValueError(f"label: residue {twice} is both buried and interface; choose one.")
        found[at] = _EACH[kind]
    return found
