"""Bias: the logits moved by a reward's gradient, and nothing weighed.

What ProteinMPNN's `bias_by_res` does with a table of residues and letters, for any reward with a
gradient: causal SMC without weights and resampling. Fast and biased; a baseline.

References:
    Dauparas et al., "Robust deep learning-based protein sequence design using ProteinMPNN",
    Science 2022 (biases).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from seqalign.core.method import Looped
from seqalign.core.proposal import Tilted
from seqalign.core.selection import Keep
from seqalign.core.tempering import Constant, Tempering
from seqalign.core.value import PosteriorMean

__all__ = ["Bias"]


@dataclass(frozen=True)
class Bias(Looped):
    """Logits moved by the gradient of r/alpha, unweighted."""

    tempering: Tempering = Constant()
    tilt: Tilted = Tilted()
    consistent: ClassVar[bool] = False
    kinds: ClassVar[tuple[str, ...]] = ("revealing",)
    one_position: ClassVar[bool] = True

    def parts(self) -> Mapping[str, Any]:
        """Keep every particle."""
        return {"value": PosteriorMean(), "selection": Keep()}
