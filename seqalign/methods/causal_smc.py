"""Causal SMC: a tilted chain that asks the network for one position a step, made exact by weights.

The twist of an open position comes from the letters that the network gave it before the first
reveal; for a reward that is a sum over positions it is Σ_a π⁰(a) exp(S(a)/alpha), and any other
reward is linearized at the sketch's mean. With a network that caches its decoder states a step
costs what a step of its own sampler costs, guided or not. Weights vary more than those of `tds`,
whose twist knows the letters that came.

References:
    Whiteley & Lee, "Twisted particle filters", Annals of Statistics 2014, arXiv 1210.0220. Zhao et
    al., "Probabilistic inference in language models via twisted sequential Monte Carlo", ICML 2024,
    arXiv 2404.17546.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from seqalign.core.method import Looped
from seqalign.core.proposal import Tilted
from seqalign.core.selection import Resample
from seqalign.core.tempering import Constant, Tempering
from seqalign.core.value import Automatic, Value

__all__ = ["CausalSMC"]


@dataclass(frozen=True)
class CausalSMC(Looped):
    """SMC whose steps cost one position each; for chains that reveal one random position a step."""

    value: Value = Automatic()
    tempering: Tempering = Constant()
    tilt: Tilted = Tilted()
    resample: Resample = Resample()
    kinds: ClassVar[tuple[str, ...]] = ("revealing",)
    one_position: ClassVar[bool] = True
