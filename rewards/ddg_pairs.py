"""Stability of any sequence on a backbone relative to its wild type: ΔΔG from an energy.

A backbone alone decides an energy of sequences, letters at sites and pairs of letters in contact:

    f(x) = Σ_i S_i(x_i) + Σ_(i,j) J_ij(x_i, x_j),    r(x) = f(x) − f(wild type),

in kcal/mol, higher is more stable. The tables S and J come from geometry (N, CA, C, O) and never
see a letter. So the reward is antisymmetric by construction: with wild type and design swapped on
one backbone it changes its sign, bit by bit; it is 0 for the wild type, defined for any number of
mutations, and quadratic, hence smooth, in letter probabilities.

Two things are learned, by `train_ddg_pairs`: the network and the regression of `potts`. Letters of
context chains count, too; of a residue without a standard letter only the backbone does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional

from seqalign.core.objective import Reward
from seqalign.core.sequence import PROTEIN
from seqalign.files.structure import Structure, read_structure
from seqalign.rewards.descriptors import geometry
from seqalign.rewards.letters import letter_probabilities, letter_tokens
from seqalign.rewards.potts import LETTERS, Tables, tables
from seqalign.weights import sound

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from seqalign.core.process import Designs

__all__ = ["StabilityChange", "of_structure", "pair_energy", "read_weights"]


@dataclass(frozen=True, eq=False, kw_only=True)
class StabilityChange(Reward):
    """f(x) − f(wild type) on one backbone, in kcal/mol; higher is more stable.

    Attributes:
        name: what messages and tables call it.
        wild_type: the L letters that score 0.
        energy: the tables of the backbone.
        unit: "kcal/mol".
        cost: seconds per design.
        differentiable: True.

    Raises:
        ValueError: the wild type is not as long as the tables.
    """

    name: str
    wild_type: str
    energy: Tables = field(repr=False)
    unit: str = "kcal/mol"
    cost: float = 1e-4
    differentiable: bool = True
    follows = True

    def __post_init__(self) -> None:
        """Refuse a wild type of another length."""
        if len(self.wild_type) != len(self.energy.sites):
            raise ValueError(
                f"Reward {self.name!r}: the wild type has {len(self.wild_type)} letters and the "
                f"backbone {len(self.energy.sites)} residues; they must agree."
            )

    def __call__(self, designs: Designs) -> Tensor:
        """Score designs (B, K) in kcal/mol, float64; the wild type scores 0.

        Raises:
            TypeError: the designs have no letters.
            ValueError: another alphabet, another length, or a position still masked.
        """
        x = letter_tokens(designs, self.name, len(self.wild_type))
        return self._total(x.flatten(0, 1)).reshape(x.shape[:2]) - self._wild.to(x.device)

    @cached_property
    def _wild(self) -> Tensor:
        """The energy of the wild type, ()."""
        return self._total(PROTEIN.encode([self.wild_type]))[0]

    def _total(self, x: Tensor) -> Tensor:
        """Return f (n,) of tokens (n, L): sums of table rows, so that no batch changes a bit."""
        e = self.energy
        i, j = (p.to(x.device) for p in e.pairs)
        coupled = e.coupled.to(x.device)
        site = LETTERS * torch.arange(x.shape[1], device=x.device)
        pair = LETTERS**2 * torch.arange(len(i), device=x.device)
        rows = max(1, 4_000_000 // max(1, len(i)))
        parts = []
        for some in x.split(rows):
            total = _looked_up(some + site, e.sites.to(x.device))
            parts.append(
                total + _looked_up(some[:, i] * LETTERS + some[:, j] + pair, coupled)
                if len(i)
                else total
            )
        return torch.cat(parts)

    def relaxed(self, x: Tensor) -> Tensor:
        """Score letter probabilities (B, K, L, 20) as (B, K) in kcal/mol, differentiably.

        f is multilinear in the letters, so this is the mean over independently drawn letters, and
        a one-hot x scores what `__call__` scores.

        Raises:
            ValueError: x has another shape.
        """
        x = letter_probabilities(x, self.name, len(self.wild_type))
        e = self.energy
        x = x.to(torch.float64)
        i, j = (p.to(x.device) for p in e.pairs)
        first = (x @ e.left.T.to(x.device))[:, :, i]
        second = (x @ e.right.T.to(x.device))[:, :, j]
        pairs = (first * second * e.coefficients.to(x.device)).sum((-1, -2))
        total = (x * e.sites.to(x.device)).sum((-1, -2)) + pairs
        return total - self._wild.to(x.device)


def _looked_up(rows: Tensor, table: Tensor) -> Tensor:
    """Return (n,) sums of the entries that rows (n, m) name in a flattened table."""
    return functional.embedding_bag(rows, table.reshape(-1, 1), mode="sum")[:, 0]


@lru_cache(maxsize=8)
def read_weights(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if not file.is_file():
        raise FileNotFoundError(
            f"The weights {file.name} are not in {file.parent}. Reinstall seqalign, or train them "
            f"with `python -m seqalign.rewards.train_ddg_pairs --data DATA --out rewards/`."
        )
    with safe_open(file, framework="pt") as stored:
        return sound(((key, stored.get_tensor(key)) for key in stored.keys()), file)


def of_structure(name: str, weights: Mapping[str, Tensor], structure: Structure) -> StabilityChange:
    """Return the reward of one structure; residues without N, CA, C and O are not seen.

    Raises:
        ValueError: no residue has a letter, or a position of the structure lacks an atom.
    """
    seen = structure.coords.isfinite().flatten(1).all(1).nonzero()[:, 0]
    place = torch.full((len(structure),), -1)
    place[seen] = torch.arange(len(seen))
    known = place[structure.known]
    if not len(known) or bool((known < 0).any()):
        lacking = structure.known[known < 0][:1].tolist()
        what = (
            f"residue {structure.numbering.name(lacking[0] + 1)} lacks one"
            if lacking
            else ("no residue has both them and a standard letter")
        )
        raise ValueError(
            f"Reward {name!r} needs N, CA, C and O of every designed residue of "
            f"{structure.name!r}: {what}. Bring a structure with full backbones."
        )
    with torch.no_grad():
        described = geometry(structure.coords[seen], structure.chain_index[seen])
        energy = tables(weights, described).take(known)
    return StabilityChange(name=name, wild_type=structure.wild_type, energy=energy)


def pair_energy(
    *,
    registered: str = "ddg-pairs",
    structure: str | Path | Structure,
    chains: str | Sequence[str] | None = None,
    context: str | Sequence[str] | None = None,
    numbering: str = "author",
) -> StabilityChange:
    """Return the change of stability on a backbone, −ΔΔG in kcal/mol.

    Args:
        registered: the name of the reward, which is that of its weights.
        structure: a structure file or a Structure; its own letters are the wild type.
        chains: chains to be designed; all by default.
        context: chains that are seen and not designed.
        numbering: how residues are numbered, "author", "label" or "index".
    """
    weights = read_weights(Path(__file__).with_name(f"{registered}.safetensors"))
    read = read_structure(structure, chains=chains, context=context, numbering=numbering)
    return of_structure(registered, weights, read)
