"""The published ProteinMPNN, where it was fetched: its own outputs, its names."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

import seqalign as sa
from seqalign import weights
from seqalign.files.numbering import Numbering
from seqalign.files.structure import Structure, demo_backbone, read_structure
from seqalign.models.mpnn_weights import LETTERS, Weights, load_checkpoint

# outputs of the published code on streptavidin: a slice of the arrays that it was asked for
SLICE = Path(__file__).parents[1] / "data" / "published_1MK5_A.npz"
COMPLEXES = Path(os.environ.get("SEQALIGN_DATA", "absent")).parent / "fixtures" / "complexes"
TOLERANCE = 1e-4
NETWORKS = [
    pytest.param("mpnn", "v_48_020", marks=pytest.mark.weights("proteinmpnn-v_48_020")),
    pytest.param("soluble", "soluble_v_48_020", marks=pytest.mark.weights("soluble-v_48_020")),
]


def streptavidin(z) -> Structure:
    n = len(z["residue_idx"])
    return Structure(
        name="1MK5",
        sequence=str(z["sequence"]),
        coords=torch.tensor(z["coords_N_CA_C_O"]),
        numbering=Numbering(("A",) * n, tuple(str(i) for i in z["residue_idx"])),
        design=torch.ones(n, dtype=torch.bool),
        residue_index=torch.tensor(z["residue_idx"]).long(),
    )


def far(source: Weights, structure: Structure, z, prefix: str) -> dict[str, float]:
    """The largest difference of each kind of log-probabilities that is there."""
    backbone, native = source.encode(structure), source.native(structure)
    n = len(native)
    order = torch.tensor(z["decoding_order"]).long()
    found = {
        "log_probs": backbone.logits(native[None], backbone.seen(order[None]))[0],
        "unconditional_log_probs": backbone.unconditional(),
    }
    if f"{prefix}_masked_log_probs" in z:
        # each masked residue decoded after the visible ones, blind to the other masked ones
        visible, hidden = (torch.tensor(z[k]).long() for k in ("visible_order", "masked_positions"))
        rank = torch.full((n,), n)
        rank[visible] = torch.arange(len(visible))
        index = backbone.graph.index
        seen = (rank[index] < rank[:, None])[None]
        blank = native.clone()
        blank[hidden] = LETTERS.index("A")
        found["masked_log_probs"] = backbone.logits(blank[None], seen)[0][hidden]
    return {
        kind: float((logits.log_softmax(-1) - torch.tensor(z[f"{prefix}_{kind}"])).abs().max())
        for kind, logits in found.items()
        if f"{prefix}_{kind}" in z
    }


@pytest.mark.parametrize(("prefix", "name"), NETWORKS)
def test_log_probabilities_are_the_published_ones(prefix, name):
    z = dict(np.load(SLICE))
    found = far(load_checkpoint(name), streptavidin(z), z, prefix)
    assert set(found) >= {"log_probs"}
    assert max(found.values()) <= TOLERANCE, found


@pytest.mark.parametrize(("prefix", "name"), NETWORKS)
@pytest.mark.skipif(not COMPLEXES.is_dir(), reason="needs fixtures/complexes; set SEQALIGN_DATA")
def test_a_file_that_is_read_here_gives_the_published_log_probabilities(prefix, name):
    z = dict(np.load(COMPLEXES / "1MK5_A.npz"))
    structure = read_structure(COMPLEXES / "1MK5_A.cif.gz")
    assert structure.sequence == str(z["sequence"])
    found = far(load_checkpoint(name), structure, z, prefix)
    assert set(found) == {"log_probs", "unconditional_log_probs", "masked_log_probs"}
    assert max(found.values()) <= TOLERANCE, found


@pytest.mark.weights("proteinmpnn-v_48_002")
def test_another_checkpoint_is_noticed():
    """The test above can fail: a network trained with other noise is far from it."""
    z = dict(np.load(SLICE))
    assert max(far(load_checkpoint("v_48_002"), streptavidin(z), z, "mpnn").values()) > 0.1


@pytest.mark.weights("proteinmpnn-v_48_020")
def test_the_short_name_is_the_default():
    structure = demo_backbone()
    one, two = (
        sa.load_model("proteinmpnn", structure=structure, **how).process
        for how in ({}, {"checkpoint": "v_48_020"})
    )
    x = torch.full((1, 1, one.length), 20)
    assert torch.equal(one.posterior(x, 1.0).mean, two.posterior(x, 1.0).mean)


@pytest.mark.weights("ca-v_48_020")
def test_ca_only_files_are_called_so():
    with pytest.raises(ValueError, match=r"v_48_020\.pt: is a CA-only ProteinMPNN"):
        load_checkpoint(weights.path("ca-v_48_020"))
