"""A backbone small enough to keep with a run: what it takes to draw the trace of its CA atoms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

from seqalign.files.structure import Structure

__all__ = ["NEIGHBORHOOD", "Backbone"]

# Å: residues whose CB are nearer are neighbors
NEIGHBORHOOD: Final = 10.0


@dataclass(frozen=True)
class Backbone:
    """The known residues of a structure as points.

    Attributes:
        ca: their CA atoms, "x y z" in Å to one decimal, joined by ", ": a file stays readable.
        starts: 0-based positions at which a piece of chain begins.
        neighbors: per position, how many CB of other residues lie within 10 Å of its own: about 5
            on the surface, 25 in a core. Of all chains, context too.
        design: per position "1" in a chain to be designed, "0" in a context chain.
    """

    ca: str
    starts: tuple[int, ...]
    neighbors: tuple[int, ...]
    design: str

    @classmethod
    def of(cls, structure: Structure) -> Backbone | None:
        """Return the backbone of a structure; None where CA atoms are missing."""
        known = structure.known
        ca = structure.coords[known, 1]
        if not len(known) or not bool(ca.isfinite().all()):
            return None
        cb = structure.virtual_cb[known]
        cb = torch.where(cb.isfinite().all(-1, keepdim=True), cb, ca)
        near = (
            torch.cdist(cb, cb, compute_mode="donot_use_mm_for_euclid_dist") < NEIGHBORHOOD
        ).sum(-1) - 1
        pieces = structure.breaks.long().cumsum(0)[known]
        starts = pieces.diff(prepend=torch.tensor([-1])).nonzero()[:, 0]
        return cls(
            ", ".join(" ".join(f"{v:.1f}" for v in xyz) for xyz in ca.tolist()),
            tuple(starts.tolist()),
            tuple(near.tolist()),
            "".join("1" if may else "0" for may in structure.design[known].tolist()),
        )

    @property
    def points(self) -> list[tuple[float, ...]]:
        """The CA atoms, Å."""
        return [tuple(map(float, xyz.split())) for xyz in self.ca.split(", ")]
