"""The trace of CA atoms as the page turns it: points, colors and what a pointer says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from seqalign.campaign.report.profile import Residue
from seqalign.files.backbone import Backbone


def facing(points: np.ndarray) -> np.ndarray:
    """Return points (n, 3) centered and turned so that the flat side faces the reader.

    Turned and never mirrored: proteins have a hand.
    """
    centered = points - points.mean(0)
    axes = np.linalg.svd(centered, full_matrices=True)[2]
    # the sign of an axis is arbitrary; the first residues stand on the left, at the bottom
    for axis in axes[:2]:
        axis *= -1 if axis @ centered[0] > 0 else 1
    axes[2] = np.cross(axes[0], axes[1])
    return np.asarray(centered @ axes.T)


def trace(backbone: Backbone, residues: Sequence[Residue]) -> Mapping[str, Any]:
    """Return what the page draws a backbone from: plain lists, a value per residue."""
    points = facing(np.array(backbone.points))
    return {
        "xyz": [[round(v, 1) for v in xyz] for xyz in points.tolist()],
        "starts": list(backbone.starts),
        "design": [int(c) for c in backbone.design],
        "names": [f"{r.wild} {r.name}" for r in residues],
        "letters": [r.letters for r in residues],
        "values": {
            "mutated": [round(100 * r.mutated) for r in residues],
            "buried": list(backbone.neighbors),
            "gain": [None if r.gain is None else round(r.gain, 2) for r in residues],
        },
    }
