"""What is kept of a backbone is the backbone."""

from pathlib import Path

import torch

from seqalign.files.backbone import Backbone
from seqalign.files.structure import demo_backbone, read_structure

CASES = Path(__file__).parent / "cases"


def test_points_are_the_ca_atoms_of_the_known_residues():
    structure = demo_backbone()
    kept = Backbone.of(structure)
    ca = structure.coords[structure.known, 1]
    assert (torch.tensor(kept.points) - ca).abs().max() <= 0.051
    assert len(kept.neighbors) == len(kept.design) == len(ca)
    assert kept.starts == (0,)


def test_neighbors_are_counted_one_by_one():
    structure = demo_backbone()
    cb = structure.virtual_cb[structure.known].tolist()
    for i, count in enumerate(Backbone.of(structure).neighbors):
        near = [
            j
            for j, other in enumerate(cb)
            if j != i and sum((a - b) ** 2 for a, b in zip(cb[i], other, strict=True)) < 100
        ]
        assert len(near) == count


def test_a_piece_begins_at_every_break_and_every_chain_and_nowhere_else():
    assert Backbone.of(read_structure(CASES / "jump.pdb")).starts == (0,)
    assert Backbone.of(read_structure(CASES / "gap.pdb")).starts == (0, 9)
    dimer = read_structure(CASES / "dimer.pdb", chains=["A"], context=["B"])
    kept = Backbone.of(dimer)
    first = kept.design.index("0")
    assert kept.starts == (0, first)
    assert set(kept.design[first:]) == {"0"}
    alone = Backbone.of(read_structure(CASES / "dimer.pdb", chains=["A"]))
    # the partner buries, whether it is designed or not
    assert all(a <= b for a, b in zip(alone.neighbors, kept.neighbors, strict=False))
