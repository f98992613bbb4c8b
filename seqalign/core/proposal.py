"""Proposals: what the next state is drawn from; weights correct for it.

References:
    Dhariwal & Nichol, "Diffusion models beat GANs on image synthesis", NeurIPS 2021, arXiv
    2105.05233 (guidance). Wu et al., "Practical and asymptotically exact conditional sampling"
    (TDS), NeurIPS 2023, arXiv 2306.17775.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Base", "Proposal", "Tilted"]


@dataclass(frozen=True)
class Base:
    """The pretrained transition itself."""


@dataclass(frozen=True)
class Tilted:
    """The transition tilted by scale · lam · the gradient of v/alpha.

    Attributes:
        through: "posterior" takes the gradient with respect to the posterior mean (no backward pass
            through the network; discrete processes only), "network" with respect to the state,
            "auto" chooses "posterior" for discrete and "network" for continuous processes.
        scale: multiplies the gradient; any value is exact.
    """

    through: Literal["auto", "posterior", "network"] = "auto"
    scale: float = 1.0


Proposal = Base | Tilted
