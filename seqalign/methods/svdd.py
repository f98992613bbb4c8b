"""SVDD: M children per particle, one survives with probability ∝ exp(v/alpha).

No weights are carried, so its law is not p*, but it never needs a gradient.

References:
    Li et al., "Derivative-free guidance in continuous and discrete diffusion models with soft
    value-based decoding", arXiv 2408.08252, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from seqalign.core.method import Looped
from seqalign.core.selection import OneChild
from seqalign.core.value import Automatic, Value

__all__ = ["SVDD"]


@dataclass(frozen=True)
class SVDD(Looped):
    """Soft value-based decoding; alpha = 0 is greedy."""

    branch: int = 8
    value: Value = Automatic()
    consistent: ClassVar[bool] = False

    def parts(self) -> Mapping[str, Any]:
        """Keep one child per parent, drawn by its value."""
        return {"alpha": self.alpha or 1.0, "selection": OneChild(greedy=self.alpha == 0)}
