"""Stability by a substitution matrix, burial and helix propensity: ΔΔG with three coefficients.

    r(x) = Σ_i burial_i · (c_1 S(w_i, x_i) + c_2 ΔH_i) + c_3 helix_i ΔP_i

with the wild type w, S(a, b) = B(a, b) − (B(a, a) + B(b, b)) / 2 of BLOSUM62 (0 for the same
letter, else below it), ΔH and ΔP the change of hydrophobicity and of helix propensity. It has no
network and hardly a fit: a judge of rewards that have both, and too poor a guide.
`train_ddg_burial` prints the coefficients.

References:
    Amino acid substitution matrices from protein blocks, Henikoff and Henikoff, 1992, PNAS
    89:10915-10919.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from Bio.Align import substitution_matrices

from seqalign.core.sequence import PROTEIN
from seqalign.files.structure import Structure, read_structure
from seqalign.rewards.descriptors import Geometry, geometry
from seqalign.rewards.inverse_folding import Additive
from seqalign.rewards.potts import HELIX, HYDROPHOBICITY

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

__all__ = ["COEFFICIENTS", "ddg_burial", "terms"]

COEFFICIENTS: Final = (0.187, 0.702, -0.355)
"""kcal/mol per unit of each term."""


def _substitutions() -> Tensor:
    """Return S (20, 20), in half bits."""
    matrix = substitution_matrices.load("BLOSUM62")  # type: ignore[no-untyped-call]
    b = torch.tensor(np.array([[matrix[x][y] for y in PROTEIN.letters] for x in PROTEIN.letters]))
    own = b.diagonal()
    return (b - (own[:, None] + own) / 2).double()


_S: Final = _substitutions()
_H: Final = torch.tensor(HYDROPHOBICITY, dtype=torch.float64)
# proline ends a helix, which the scale says too loudly
_P: Final = torch.tensor(HELIX, dtype=torch.float64).clamp(max=2.0)


def terms(described: Geometry, wild: Tensor) -> Tensor:
    """Return (L, 20, 3): what the three coefficients multiply, for each letter at each site.

    Args:
        described: the backbone of L residues.
        wild: (L,) int64, their letters.
    """
    burial, helix = described.burial[:, None], described.environment[:, 5, None]
    columns = (burial * _S[wild], burial * (_H - _H[wild, None]), helix * (_P - _P[wild, None]))
    return torch.stack(columns, -1)


def ddg_burial(
    *,
    structure: str | Path | Structure,
    chains: str | Sequence[str] | None = None,
    context: str | Sequence[str] | None = None,
    numbering: str = "author",
) -> Additive:
    """Return the change of stability on a backbone, −ΔΔG in kcal/mol, summed over mutations.

    Args:
        structure: a structure file or a Structure; its own letters are the wild type and score 0.
        chains: chains to be designed; all by default.
        context: chains that are seen and not designed.
        numbering: how residues are numbered, "author", "label" or "index".

    Raises:
        ValueError: a residue with a letter lacks N, CA, C or O, or none has a letter.
    """
    read = read_structure(structure, chains=chains, context=context, numbering=numbering)
    seen = read.coords.isfinite().flatten(1).all(1).nonzero()[:, 0]
    place = torch.full((len(read),), -1)
    place[seen] = torch.arange(len(seen))
    known = place[read.known]
    if not len(known) or bool((known < 0).any()):
        raise ValueError(
            f"Reward 'ddg-burial' needs N, CA, C and O of every designed residue of {read.name!r}, "
            f"and a letter. Bring a structure with full backbones."
        )
    described = geometry(read.coords[seen], read.chain_index[seen])
    wild = torch.zeros(len(seen), dtype=torch.int64)
    wild[known] = PROTEIN.encode([read.wild_type])[0]
    table = terms(described, wild) @ torch.tensor(COEFFICIENTS, dtype=torch.float64)
    return Additive(
        name="ddg-burial", wild_type=read.wild_type, table=table[known], unit="kcal/mol"
    )
