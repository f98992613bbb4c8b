"""ProtParam properties of a sequence as rewards: charge, hydropathy, pI, instability and others.

Every value is the one of `Bio.SeqUtils.ProtParam.ProteinAnalysis`, whose tables are read here and
applied to whole batches; aliphatic index is ExPASy's. All are functions of letter counts, terminal
letters or neighboring pairs, so all extend to letter probabilities and have gradients (the value of
the expected composition, not the expected value). Nothing here is trained and nothing is better or
worse by itself: the card states the direction, and a negative weight turns it around.

References:
    Biopython: freely available Python tools for computational molecular biology and bioinformatics
    (Cock et al., 2009), https://doi.org/10.1093/bioinformatics/btp163.
    Protein Identification and Analysis Tools on the ExPASy Server (Gasteiger et al., 2005),
    https://doi.org/10.1385/1-59259-890-0:571.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import torch
from Bio.Data.IUPACData import protein_weights
from Bio.SeqUtils import IsoelectricPoint as pk
from Bio.SeqUtils import ProtParamData
from Bio.SeqUtils import molecular_weight as bio_molecular_weight
from Bio.SeqUtils.ProtParam import ProteinAnalysis

from seqalign.core.objective import Reward
from seqalign.core.sequence import PROTEIN
from seqalign.rewards.letters import letter_probabilities, letter_tokens

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from seqalign.core.process import Designs

__all__ = [
    "Charge", "Composition", "Flexibility", "InstabilityIndex", "IsoelectricPoint", "ProtParam",
    "charge", "composition", "flexibility", "instability_index", "isoelectric_point",
]  # fmt: skip

LETTERS: Final = PROTEIN.letters


class ProtParam(Reward):
    """A property of letter probabilities; a design is scored as its one-hot letters."""

    cost: float = 1e-5
    differentiable: bool = True
    follows = True

    def __call__(self, designs: Designs) -> Tensor:
        """Score designs (B, K), float64, of any length.

        Raises:
            TypeError: the designs have no letters.
            ValueError: another alphabet, a masked position or a sequence that is too short.
        """
        x, mask = letter_tokens(designs, self.name), designs.event_mask
        if mask is None:
            return self.relaxed(self._hot(x))
        # Islands of different length are scored one by one, without their padding.
        return torch.cat([self.relaxed(self._hot(x[b : b + 1, :, mask[b]])) for b in range(len(x))])

    def relaxed(self, x: Tensor) -> Tensor:
        """Score letter probabilities (B, K, L, 20) as (B, K), differentiably.

        Raises:
            ValueError: x has another shape or too few positions.
        """
        x = letter_probabilities(x, self.name)
        if x.shape[-2] == 0:
            raise ValueError(f"Reward {self.name!r} cannot score a sequence without residues.")
        return self._value(x.double())

    @staticmethod
    def _hot(tokens: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(tokens, len(LETTERS)).double()

    @abstractmethod
    def _value(self, x: Tensor) -> Tensor:
        """Return the property (B, K) of float64 letter probabilities (B, K, L, 20)."""


@dataclass(frozen=True)
class Composition(ProtParam):
    """A sum or a mean of one number per letter, plus a constant.

    Attributes:
        name: what messages and tables call it.
        unit: of the value.
        values: 20 numbers in the order of the alphabet.
        constant: added once.
        mean: divide the sum by the length.
    """

    name: str
    unit: str
    values: tuple[float, ...] = field(repr=False, default=())
    constant: float = 0.0
    mean: bool = True

    def _value(self, x: Tensor) -> Tensor:
        total = (x @ torch.tensor(self.values, dtype=x.dtype, device=x.device)).sum(-1)
        return (total / x.shape[-2] if self.mean else total) + self.constant


@lru_cache(maxsize=64)
def _constants() -> tuple[tuple[float, ...], ...]:
    """Return pK and sign per side chain, then the pK of the letter as N- and C-terminus."""
    sides = {**pk.positive_pKs, **pk.negative_pKs}
    value = tuple(sides.get(a, 0.0) for a in LETTERS)
    sign = tuple(float(a in pk.positive_pKs) - float(a in pk.negative_pKs) for a in LETTERS)
    first = tuple(pk.pKnterminal.get(a, pk.positive_pKs["Nterm"]) for a in LETTERS)
    last = tuple(pk.pKcterminal.get(a, pk.negative_pKs["Cterm"]) for a in LETTERS)
    return value, sign, first, last


def _charge(x: Tensor, ph: Tensor) -> Tensor:
    """Return the net charge (B, K) of letter probabilities (B, K, L, 20) at pH ph (B, K)."""
    value, sign, first, last = (x.new_tensor(c) for c in _constants())

    def partial(constant: Tensor, sign: Tensor | float) -> Tensor:
        # Henderson-Hasselbalch: a base is charged below its pK, an acid above.
        return sign / (1 + 10 ** (sign * (ph[..., None] - constant)))

    sides = (x.sum(-2) * partial(value, sign)).sum(-1)
    ends = (x[..., 0, :] * partial(first, 1.0)).sum(-1)
    return sides + ends + (x[..., -1, :] * partial(last, -1.0)).sum(-1)


@dataclass(frozen=True)
class Charge(ProtParam):
    """Net charge at a pH, in elementary charges.

    Attributes:
        ph: the pH.
        name: what messages and tables call it.
        unit: elementary charges.

    Raises:
        ValueError: the pH is outside 0..14.
    """

    ph: float = 7.4
    name: str = "charge"
    unit: str = "e"

    def __post_init__(self) -> None:
        """Refuse a pH outside 0..14."""
        if not 0 <= self.ph <= 14:
            raise ValueError(f"Reward 'charge': ph is {self.ph}; give a pH between 0 and 14.")

    def _value(self, x: Tensor) -> Tensor:
        return _charge(x, torch.full(x.shape[:2], self.ph, dtype=x.dtype, device=x.device))


@dataclass(frozen=True)
class IsoelectricPoint(ProtParam):
    """The pH at which the net charge is zero, searched in 4.05..12 as Biopython does.

    Attributes:
        name: what messages and tables call it.
        unit: "pH".
    """

    name: str = "isoelectric-point"
    unit: str = "pH"

    def _value(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            low = torch.full(x.shape[:2], 4.05, dtype=x.dtype, device=x.device)
            high = torch.full_like(low, 12.0)
            point = torch.full_like(low, 7.775)
            while bool((high - low > 1e-4).any()):
                positive = _charge(x, point) > 0
                low, high = torch.where(positive, point, low), torch.where(positive, high, point)
                point = (low + high) / 2
        if not (torch.is_grad_enabled() and x.requires_grad):
            return point
        # Implicit function theorem: d pI = -d charge / (∂ charge / ∂ pH), the value unchanged.
        with torch.no_grad():
            slope = (_charge(x, point + 1e-4) - _charge(x, point - 1e-4)) / 2e-4
        balance = _charge(x, point)
        return point - (balance - balance.detach()) / slope


@dataclass(frozen=True)
class InstabilityIndex(ProtParam):
    """Instability index from neighboring pairs; above 40 a protein is called unstable.

    Attributes:
        name: what messages and tables call it.
        unit: none.
    """

    name: str = "instability-index"
    unit: str = ""

    def _value(self, x: Tensor) -> Tensor:
        pairs = [[ProtParamData.DIWV[a][b] for b in LETTERS] for a in LETTERS]
        weight = torch.tensor(pairs, dtype=x.dtype, device=x.device)
        score = ((x[..., :-1, :] @ weight) * x[..., 1:, :]).sum((-1, -2))
        return 10.0 / x.shape[-2] * score


@lru_cache(maxsize=64)
def _flexibility_weights(length: int) -> tuple[float, ...]:
    """Return the weight of each position in the mean of Biopython's windows.

    Read off Biopython by probes, one position changed at a time, so that both always agree.
    """
    low, high = "W", "K"
    step = ProtParamData.Flex[high] - ProtParamData.Flex[low]

    def mean(sequence: str) -> float:
        windows = ProteinAnalysis(sequence).flexibility()  # type: ignore[no-untyped-call]
        return float(sum(windows) / len(windows))

    base = mean(low * length)
    probes = (low * i + high + low * (length - i - 1) for i in range(length))
    return tuple((mean(probe) - base) / step for probe in probes)


@dataclass(frozen=True)
class Flexibility(ProtParam):
    """Mean of Vihinen's flexibility over Biopython's windows of nine residues.

    Attributes:
        name: what messages and tables call it.
        unit: none.
    """

    name: str = "flexibility"
    unit: str = ""

    def _value(self, x: Tensor) -> Tensor:
        length = x.shape[-2]
        if length < 10:
            raise ValueError(
                f"Reward 'flexibility' averages windows of nine residues and needs at least 10 "
                f"residues, got {length}. Drop it for peptides."
            )
        scale = torch.tensor([ProtParamData.Flex[a] for a in LETTERS], dtype=x.dtype)
        weight = torch.tensor(_flexibility_weights(length), dtype=x.dtype)
        return ((x @ scale.to(x.device)) * weight.to(x.device)).sum(-1)


# one residue more adds its weight less one water
_WATER: Final = 2 * protein_weights["G"] - float(
    bio_molecular_weight("GG", seq_type="protein")  # type: ignore[no-untyped-call]
)


def _of(name: str, values: Mapping[str, float], unit: str = "", **more: Any) -> Composition:
    return Composition(name, unit, tuple(float(values.get(a, 0.0)) for a in LETTERS), **more)


_COMPOSITIONS: Final = {
    reward.name: reward
    for reward in (
        # grand average of hydropathy (GRAVY, Kyte and Doolittle), -4.5..4.5
        _of("hydropathy", ProtParamData.kd),
        _of(
            "molecular-weight",
            {a: protein_weights[a] - _WATER for a in LETTERS},
            "Da",
            constant=_WATER,
            mean=False,
        ),
        # Ikai's, the relative volume of the side chains of A, V, I and L
        _of("aliphatic-index", {"A": 100.0, "V": 290.0, "I": 390.0, "L": 390.0}),
        # at 280 nm, cysteines reduced
        _of("extinction-coefficient", {"W": 5500.0, "Y": 1490.0}, "1/(M cm)", mean=False),
        _of("aromaticity", dict.fromkeys("FWY", 1.0)),
        # letters that favor the structure
        _of("helix-fraction", dict.fromkeys("AEKLM", 1.0)),
        _of("turn-fraction", dict.fromkeys("DGNPS", 1.0)),
        _of("sheet-fraction", dict.fromkeys("FILTVWY", 1.0)),
    )
}


def composition(*, registered: str) -> Composition:
    """Return the property of this name that is a sum or a mean over letters."""
    return _COMPOSITIONS[registered]


def charge(*, ph: float = 7.4) -> Charge:
    """Return the net charge at pH `ph`, in elementary charges (Bjellqvist's pK values)."""
    return Charge(ph)


def instability_index() -> InstabilityIndex:
    """Return the instability index of Guruprasad; use a negative weight."""
    return InstabilityIndex()


def isoelectric_point() -> IsoelectricPoint:
    """Return the isoelectric point, in pH units."""
    return IsoelectricPoint()


def flexibility() -> Flexibility:
    """Return the mean flexibility of Vihinen, over windows of nine residues."""
    return Flexibility()
