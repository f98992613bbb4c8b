"""Best-of-N: run the base process, look at the reward at the end.

Exact as weighted samples (importance sampling from p_pre), not as its best design, whose law
depends on N.

References:
    Uehara et al., arXiv 2501.09685, section 1 (best-of-N). Robert & Casella, "Monte Carlo
    statistical methods", section 3.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seqalign.core.method import Looped
from seqalign.core.selection import Keep

__all__ = ["BestOfN"]


@dataclass(frozen=True)
class BestOfN(Looped):
    """Importance sampling from the pretrained model."""

    def parts(self) -> Mapping[str, Any]:
        """Look at the reward at the end only, and keep every particle."""
        return {"value": None, "selection": Keep()}
