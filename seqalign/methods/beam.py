"""Beam search: M children per particle, the K best of K·M by value go on.

Finds high rewards, samples from no stated law.

References:
    Uehara et al., arXiv 2501.09685, section 5 (beam search for reward maximization).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from seqalign.core.method import Looped
from seqalign.core.selection import TopK
from seqalign.core.value import Automatic, Value

__all__ = ["Beam"]


@dataclass(frozen=True)
class Beam(Looped):
    """Keep the K best of K·M."""

    branch: int = 4
    value: Value = Automatic()
    consistent: ClassVar[bool] = False

    def parts(self) -> Mapping[str, Any]:
        """Keep the best of all children."""
        return {"selection": TopK()}
