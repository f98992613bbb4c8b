"""An energy of sequences on a described backbone: letters at sites and pairs of letters in contact.

A small network reads log-odds of letters and of pairs of letters from natural backbones, by
pseudo-likelihood. A regression weighs them and adds products of letter scales and of descriptors of
the site.

References:
    Robust and accurate prediction of residue-residue interactions across protein interfaces using
    evolutionary information, Ovchinnikov, Kamisetty and Baker, 2014, eLife 3:e02030
    (pseudo-likelihood of a Potts model).
    Neural network-derived Potts models for structure-based protein design using backbone atomic
    coordinates and tertiary motifs, Li et al., 2023, Protein Science 32:e4554 (tables from
    geometry).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn

from seqalign.core.sequence import PROTEIN
from seqalign.rewards.descriptors import Geometry

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["LETTERS", "SCALES", "Potts", "Tables", "tables"]

LETTERS: Final = len(PROTEIN)

# One value per letter of ACDEFGHIKLMNPQRSTVWY.
# fmt: off
HYDROPHOBICITY: Final = (
    0.31, 1.54, -0.77, -0.64, 1.79, 0.00, 0.13, 1.80, -0.99, 1.70,
    1.23, -0.60, 0.72, -0.22, -1.01, -0.04, 0.26, 1.22, 2.25, 0.96,
)
"""π of octanol and water (Fauchère and Pliška, 1983)."""
HYDROPATHY: Final = (
    1.8, 2.5, -3.5, -3.5, 2.8, -0.4, -3.2, 4.5, -3.9, 3.8,
    1.9, -3.5, -1.6, -3.5, -4.5, -0.8, -0.7, 4.2, -0.9, -1.3,
)
"""Kyte and Doolittle, 1982."""
VOLUME: Final = (
    88.6, 108.5, 111.1, 138.4, 189.9, 60.1, 153.2, 166.7, 168.6, 166.7,
    162.9, 114.1, 112.7, 143.8, 173.4, 89.0, 116.1, 140.0, 227.8, 193.6,
)
"""Å³ (Zamyatnin, 1972)."""
HELIX: Final = (
    0.00, 0.68, 0.69, 0.40, 0.54, 1.00, 0.61, 0.41, 0.26, 0.21,
    0.24, 0.65, 3.16, 0.39, 0.21, 0.50, 0.66, 0.61, 0.49, 0.53,
)
"""kcal/mol above alanine (Pace and Scholtz, 1998)."""
STRAND: Final = (
    0.00, -0.52, 0.94, -0.01, -0.86, 1.20, 0.02, -1.00, -0.27, -0.51,
    -0.72, 0.08, 3.00, -0.23, -0.45, -0.70, -1.10, -0.82, -0.54, -0.96,
)
"""kcal/mol, alanine 0, lower is better (Minor and Kim, 1994)."""
# fmt: on


def _scales() -> Tensor:
    """Return the (20, 14) letter scales of the regression, each of about unit size."""

    def of(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64)

    def among(letters: str) -> Tensor:
        return of([float(a in letters) for a in PROTEIN.letters])

    columns = [
        of(HYDROPHOBICITY),
        of(HYDROPATHY) / 3,
        (of(VOLUME) - 130) / 40,
        of(HELIX).clamp(max=1.2) * 2,
        of(STRAND).clamp(max=1.3),
        among("KR") - among("DE"),
        *(among(s) for s in ("KRDE", "FWYH", "VIT", "G", "P", "NDST", "C", "NQSTH")),
    ]
    return torch.stack(columns, dim=-1)


SCALES: Final = _scales()


class Potts(nn.Module):
    """Logits of letters and couplings of pairs of letters, from the geometry alone.

    A coupling is J(a, b) = Σ_r c_r left_r(a) right_r(b), with one c (R,) per pair.
    """

    site_mean: Tensor
    site_scale: Tensor
    contact_mean: Tensor
    contact_scale: Tensor

    def __init__(
        self,
        width: int,
        rank: int,
        dropout: float = 0.0,
        site_features: int = 84,
        contact_features: int = 41,
    ) -> None:
        super().__init__()
        self.site = nn.Sequential(
            nn.Linear(site_features, 2 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(2 * width, width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(width, LETTERS),
        )
        self.contact = nn.Sequential(
            nn.Linear(contact_features, width),
            nn.GELU(),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, rank),
        )
        self.left = nn.Parameter(torch.randn(rank, LETTERS) * 0.2)
        self.right = nn.Parameter(torch.randn(rank, LETTERS) * 0.2)
        for name, n in (("site", site_features), ("contact", contact_features)):
            self.register_buffer(f"{name}_mean", torch.zeros(n))
            self.register_buffer(f"{name}_scale", torch.ones(n))

    @classmethod
    def of(cls, weights: Mapping[str, Tensor]) -> Potts:
        """Return the network that `weights` (a state dict) belong to, in evaluation mode."""
        rank, width = weights["contact.4.weight"].shape
        network = cls(width, rank)
        network.load_state_dict(dict(weights))
        return network.eval().requires_grad_(False)

    def letters(self, sites: Tensor) -> Tensor:
        """Return logits (L, 20) of sites (L, 84)."""
        logits: Tensor = self.site((sites - self.site_mean) / self.site_scale)
        return logits

    def couplings(self, contacts: Tensor, envelope: Tensor) -> Tensor:
        """Return the coefficients (P, R) of contacts (P, 41)."""
        c: Tensor = self.contact((contacts - self.contact_mean) / self.contact_scale)
        return 0.3 * c * envelope[:, None]

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return left and right (R, 20) without their means: pairs hold what sites cannot.

        Cysteine couples to nothing: in natural chains it would stand for disulfides, which a
        design may not form.
        """
        free = torch.tensor([a != "C" for a in PROTEIN.letters]).to(self.left)
        left, right = ((f - f.mean(1, keepdim=True)) * free for f in (self.left, self.right))
        return left, right


@dataclass(frozen=True)
class Tables:
    """The energy of sequences of L letters, in kcal/mol, float64, higher is more stable.

    Attributes:
        sites: (L, 20).
        pairs: (2, P) int64.
        coefficients: (P, R) per pair.
        left: (R, 20) of the first letter of a pair.
        right: (R, 20) of the second.
    """

    sites: Tensor
    pairs: Tensor
    coefficients: Tensor
    left: Tensor
    right: Tensor

    @cached_property
    def coupled(self) -> Tensor:
        """(P, 20, 20), the energy of every pair of letters."""
        return torch.einsum("pr,ra,rb->pab", self.coefficients, self.left, self.right)

    def take(self, residues: Tensor) -> Tables:
        """Return the tables of some residues (n,), in increasing order, and the pairs of these."""
        place = torch.full((len(self.sites),), -1)
        place[residues] = torch.arange(len(residues))
        pairs = place[self.pairs]
        kept = (pairs >= 0).all(0)
        return Tables(
            self.sites[residues], pairs[:, kept], self.coefficients[kept], self.left, self.right
        )


def tables(weights: Mapping[str, Tensor], described: Geometry) -> Tables:
    """Return the energy on a described backbone.

    Args:
        weights: `potts.*` the network, and of the regression `prior` (4,), `letters` (20,),
            `letters_buried` (20,), `products` (11, 14).
        described: the backbone of L residues.
    """
    network = Potts.of(
        {k.removeprefix("potts."): w for k, w in weights.items() if k.startswith("potts.")}
    ).double()
    w = {k: v.double() for k, v in weights.items()}
    burial = described.burial
    odds = network.letters(described.sites).log_softmax(-1)
    sites = (
        (w["prior"][0] + w["prior"][1] * burial)[:, None] * odds
        + described.environment @ w["products"] @ SCALES.T
        + w["letters"]
        + burial[:, None] * w["letters_buried"]
    )
    i, j = described.pairs
    strength = w["prior"][2] + w["prior"][3] * (burial[i] + burial[j]) / 2
    couplings = network.couplings(described.contacts, described.envelope)
    left, right = network.factors()
    return Tables(sites, described.pairs, strength[:, None] * couplings, left, right)
