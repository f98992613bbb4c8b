"""Stability and affinity of one protein, learned from its scans of abundance and of binding.

Free energies are additive over substitutions; what a scan measures is not. A substitution i → a
changes the folding free energy by ΔΔG_fold(i, a) and the free energy of binding a partner by
ΔΔG_bind(i, a). With F and B the sums over the substitutions of a design,

    folded fraction  = 1 / (1 + exp((g_fold + F) / RT))
    bound fraction   = 1 / (1 + exp((g_bind + B) / RT) · (1 + exp((g_fold + F) / RT)))

and each scan reads an affine function of its fraction. `train_scans` fits the tables; at run time
a reward is two (L, 20) tables per ensemble member, so scoring is a table look-up. The proteins are
PSD-95 PDZ3 (its partner the CRIPT peptide) and the C-terminal SH3 domain of GRB2 (its GAB2).

- Stability is −F, in kcal/mol: 0 for the wild type, positive for a more stable design.
- Affinity is minus the change of the *apparent* binding free energy,
  −(B + RT ln[(1 + exp((g_fold + F)/RT)) / (1 + exp(g_fold/RT))]), in kcal/mol. The scan counts
  bound molecules among all of them, folded or not, so this is the quantity it identifies; B alone
  is confounded with F wherever a variant is unfolded. It is 0 for the wild type, additive in B,
  linear in F for unfolded designs and flat in F for well-folded ones: stability cannot buy
  affinity.

Gains above the wild type saturate smoothly at `bound` (the scans cannot resolve more), losses stay
linear so that the gradient never vanishes. The ensemble holds draws from the posterior of the
tables, so a substitution that was never measured is uncertain as well as shrunk.

References:
    Mapping the energetic and allosteric landscapes of protein binding domains
    (Faure, Domingo, Schmiedel, Hidalgo-Carcedo, Diss, Lehner, 2022), Nature 604:175-183,
    https://doi.org/10.1038/s41586-022-04586-4. The three-state model is its figure 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import torch
from safetensors import safe_open
from torch.nn import functional

from seqalign.core.objective import Reward
from seqalign.core.sequence import PROTEIN
from seqalign.rewards.letters import letter_probabilities, letter_tokens
from seqalign.weights import sound

if TYPE_CHECKING:
    from torch import Tensor

    from seqalign.core.process import Designs

__all__ = ["RT", "Landscape", "landscape"]

RT: Final = 0.0019872 * 303.15
"""Thermal energy in kcal/mol at 30 °C, the temperature of the yeast growth assay."""

LETTERS: Final = len(PROTEIN)

Kind = Literal["stability", "affinity"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Landscape(Reward):
    """A free-energy landscape of one protein: an ensemble of additive tables and one read-out.

    Attributes:
        name: what messages and tables call it.
        wild_type: the L letters of the construct that was scanned.
        kind: "stability" reads −ΔΔG_fold, "affinity" minus the apparent ΔΔG_bind.
        kappa: standard deviations subtracted from the ensemble mean; 0 is the plain mean.
        bound: kcal/mol at which a gain over the wild type saturates.
        folding: (M, L, 20) ΔΔG_fold in kcal/mol per member; 0 at the wild-type letter.
        binding: (M, L, 20) ΔΔG_bind in kcal/mol per member.
        wild_type_folding: (M,) folding free energy of the wild type in kcal/mol.
        unit: "kcal/mol".
        cost: seconds per design.
        differentiable: True.

    Raises:
        ValueError: `kappa` is negative or `bound` is not positive.
    """

    name: str
    wild_type: str
    kind: Kind
    kappa: float = 0.0
    bound: float = 3.0
    folding: Tensor = field(repr=False)
    binding: Tensor = field(repr=False)
    wild_type_folding: Tensor = field(repr=False)
    unit: str = "kcal/mol"
    cost: float = 1e-5
    differentiable: bool = True
    follows = True

    def __post_init__(self) -> None:
        """Refuse parameters without a meaning."""
        if self.kappa < 0:
            raise ValueError(
                f"Reward {self.name!r}: kappa is {self.kappa}; give 0 (the ensemble mean) or a "
                f"positive number of standard deviations to subtract."
            )
        if self.bound <= 0:
            raise ValueError(
                f"Reward {self.name!r}: bound is {self.bound} kcal/mol; give a positive gain at "
                f"which the reward saturates, such as 3.0."
            )

    def __call__(self, designs: Designs) -> Tensor:
        """Score designs (B, K) in kcal/mol, float64; the wild type scores 0.

        Raises:
            TypeError: the designs have no letters.
            ValueError: another alphabet, another length than L, or a position still masked.
        """
        return self._reduce(self._members(designs))

    def uncertainty(self, designs: Designs) -> Tensor:
        """Return the ensemble's standard deviation (B, K) in kcal/mol; 0 for the wild type.

        Raises:
            TypeError: the designs have no letters.
            ValueError: another alphabet, another length than L, or a position still masked.
        """
        return self._members(designs).std(dim=-1, correction=0)

    def relaxed(self, x: Tensor) -> Tensor:
        """Score letter probabilities (B, K, L, 20) as (B, K) in kcal/mol, differentiably.

        The tables are averaged over the letters before the read-out, so a one-hot x scores what
        `__call__` scores.

        Raises:
            ValueError: x has another shape.
        """
        x = letter_probabilities(x, self.name, len(self.wild_type))
        table = self._table(x.device)
        return self._reduce(self._read(x.flatten(-2).to(table.dtype) @ table))

    def _table(self, device: torch.device) -> Tensor:
        """Return the tables as one (L · 20, 2M) matrix, folding first."""
        stack = torch.cat([self.folding, self.binding]).flatten(1).T
        return stack.to(device=device, dtype=torch.float64)

    def _members(self, designs: Designs) -> Tensor:
        """Score designs with each member, (B, K, M)."""
        words = ("scores whole constructs of {} residues", f"Start from {self.wild_type}")
        tokens = letter_tokens(designs, self.name, len(self.wild_type), words)
        table = self._table(tokens.device)
        rows = tokens + LETTERS * torch.arange(len(self.wild_type), device=tokens.device)
        # A sum of table rows per design: independent of the batch, bit by bit.
        sums = functional.embedding_bag(rows.flatten(0, 1), table, mode="sum")
        return self._read(sums.reshape(*tokens.shape[:2], -1))

    def _read(self, sums: Tensor) -> Tensor:
        """Turn summed tables (B, K, 2M) into a capped reward per member, (B, K, M)."""
        fold, bind = sums.chunk(2, dim=-1)
        if self.kind == "stability":
            gain = -fold
        else:
            base = self.wild_type_folding.to(sums)
            unfolded = functional.softplus((base + fold) / RT) - functional.softplus(base / RT)
            gain = -(bind + RT * unfolded)
        # tanh leaves 0 with slope 1 and no curvature, so the two pieces join smoothly.
        return torch.where(gain > 0, self.bound * torch.tanh(gain / self.bound), gain)

    def _reduce(self, members: Tensor) -> Tensor:
        """Return the mean minus kappa standard deviations over the members, (B, K)."""
        mean = members.mean(dim=-1)
        if self.kappa == 0:
            return mean
        # The offset keeps the gradient of the square root finite at the wild type, where all agree.
        variance = members.var(dim=-1, correction=0)
        return mean - self.kappa * (torch.sqrt(variance + 1e-8) - 1e-4)


@lru_cache(maxsize=8)
def _weights(file: str) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of a file, and the wild type that they belong to."""
    path = Path(__file__).with_name(file)
    if not path.is_file():
        raise FileNotFoundError(
            f"The weights {file} are not in {path.parent}. Reinstall seqalign, or train them with "
            f"`python -m seqalign.rewards.train_scans {file.partition('-')[0]} --data DATA --out "
            f"rewards/`."
        )
    with safe_open(path, framework="pt") as stored:
        found = sound(((key, stored.get_tensor(key)) for key in stored.keys()), path)
        return found, str(stored.metadata()["wild_type"])


def landscape(*, registered: str, kappa: float = 0.0, bound: float = 3.0) -> Landscape:
    """Return −ΔΔG_fold or −apparent ΔΔG_bind of a scanned protein, kcal/mol.

    Args:
        registered: "pdz3-stability" or "pdz3-affinity" (to CRIPT), trained on half A of the
            substitutions; its hold-out twin, "...-holdout", trained on half B without structure and
            family; "grb2-stability" or "grb2-affinity" (to GAB2), trained on all rows.
        kappa: ensemble standard deviations to subtract.
        bound: kcal/mol at which a gain saturates.
    """
    weights, wild_type = _weights(f"{registered}.safetensors")
    folding = weights["folding"]
    return Landscape(
        name=registered,
        wild_type=wild_type,
        kind="affinity" if "affinity" in registered else "stability",
        kappa=kappa,
        bound=bound,
        folding=folding,
        # The stability files leave out what stability does not read.
        binding=weights.get("binding", torch.zeros_like(folding)),
        wild_type_folding=weights["wild_type_folding"],
    )
