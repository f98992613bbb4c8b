"""Geometry of protein structures: how alike two of them are, and what one looks like.

Pure functions on coordinates in Å, computed in float64. Measures keep the sign of their definition
(a distance is a distance); a reward that wants "higher is better" negates them. Two structures are
compared residue by residue: row i of one is row i of the other.

References:
    A solution for the best rotation to relate two sets of vectors (Kabsch, 1976),
    https://doi.org/10.1107/S0567739476001873.
    Scoring function for automated assessment of protein structure template quality (Zhang and
    Skolnick, 2004), https://doi.org/10.1002/prot.20264.
    lDDT: a local superposition-free score for comparing protein structures and models using
    distance difference tests (Mariani et al., 2013), https://doi.org/10.1093/bioinformatics/btt473.
    P-SEA: a new efficient assignment of secondary structure from Cα trace of proteins (Labesse et
    al., 1997), https://doi.org/10.1093/bioinformatics/13.3.291.
    Environment and exposure to solvent of protein atoms (Shrake and Rupley, 1973),
    https://doi.org/10.1016/0022-2836(73)90011-9.
    A high-level programming language for generative protein design (Hie et al., 2022),
    https://doi.org/10.1101/2022.12.21.521526: exposure, symmetry and globularity as objectives.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from Bio.Data.IUPACData import protein_letters_1to3

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = [
    "ATOMS",
    "Neighbors",
    "asymmetry",
    "drmsd",
    "exposed_atoms",
    "lddt",
    "need_biotite",
    "radial_spread",
    "rmsd",
    "secondary_structure",
    "superpose",
    "tm_score",
]

Neighbors = Literal["ring", "all"]

ATOMS: Final = {
    letter: ("N", "CA", "C", "O", *side.split())
    for letter, side in {
        "A": "CB",
        "C": "CB SG",
        "D": "CB CG OD1 OD2",
        "E": "CB CG CD OE1 OE2",
        "F": "CB CG CD1 CD2 CE1 CE2 CZ",
        "G": "",
        "H": "CB CG ND1 CD2 CE1 NE2",
        "I": "CB CG1 CG2 CD1",
        "K": "CB CG CD CE NZ",
        "L": "CB CG CD1 CD2",
        "M": "CB CG SD CE",
        "N": "CB CG OD1 ND2",
        "P": "CB CG CD",
        "Q": "CB CG CD OE1 NE2",
        "R": "CB CG CD NE CZ NH1 NH2",
        "S": "CB OG",
        "T": "CB OG1 CG2",
        "V": "CB CG1 CG2",
        "W": "CB CG CD1 CD2 NE1 CE2 CE3 CZ2 CZ3 CH2",
        "Y": "CB CG CD1 CD2 CE1 CE2 CZ OH",
    }.items()
}
"""Names of the heavy atoms of each residue, in the order of the 14-atom representation."""


# two structures -----------------------------------------------------------------------------------


def superpose(mobile: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Move `mobile` onto `target` by the rotation and shift of least (weighted) squared distance.

    A mirror image is never made, whatever that would gain.

    Args:
        mobile: (..., n, 3) Å.
        target: (..., n, 3) Å.
        weights: (..., n), not negative, one of them positive; all equal if left out.

    Returns:
        (..., n, 3) Å, float64, all rows of `mobile` moved.

    References:
        Kabsch (1976), with the determinant of his 1978 correction.
    """
    x, y = mobile.double(), target.double()
    w = torch.ones_like(x[..., 0]) if weights is None else weights.double()
    w = (w / w.sum(-1, keepdim=True))[..., None]
    x = x - (w * x).sum(-2, keepdim=True)
    center = (w * y).sum(-2, keepdim=True)
    u, _, vt = torch.linalg.svd((w * x).mT @ (y - center))
    sign = torch.linalg.det(u @ vt)
    vt = torch.cat([vt[..., :2, :], sign[..., None, None] * vt[..., 2:, :]], -2)
    moved: Tensor = x @ (u @ vt) + center
    return moved


def rmsd(model: Tensor, reference: Tensor) -> Tensor:
    """Return the root mean square distance in Å after superposition, (...) of (..., n, 3)."""
    gap = superpose(model, reference) - reference.double()
    return gap.square().sum(-1).mean(-1).sqrt()


def drmsd(model: Tensor, reference: Tensor) -> Tensor:
    """Return the root mean square difference in Å of all n(n-1)/2 distances, (...) of (..., n, 3).

    It needs no superposition and cannot tell a structure from its mirror image.
    """
    gap = _distances(model) - _distances(reference)
    n = gap.shape[-1]
    return (gap.square().sum((-2, -1)) / max(n * (n - 1), 1)).sqrt()


def lddt(model: Tensor, reference: Tensor, cutoff: float = 15.0) -> Tensor:
    """Return the local distance difference test in 0..1, (...) of (..., n, 3).

    The fraction of distances below `cutoff` Å in the reference that the model keeps, averaged over
    the tolerances 0.5, 1, 2 and 4 Å.

    Raises:
        ValueError: a reference has no two points within `cutoff`.

    References:
        Mariani et al. (2013), for one atom per residue.
    """
    distance = _distances(reference)
    apart = ~torch.eye(distance.shape[-1], dtype=torch.bool, device=distance.device)
    counted = (distance < cutoff) & apart
    total = counted.sum((-2, -1))
    if bool((total == 0).any()):
        raise ValueError(
            f"lDDT compares distances below {cutoff:g} Å, and a reference of {counted.shape[-1]} "
            f"points has none. Compare at least two neighboring residues."
        )
    gap = (_distances(model) - distance).abs()
    kept = torch.stack([(gap < t) & counted for t in (0.5, 1.0, 2.0, 4.0)]).sum((-2, -1))
    return kept.double().mean(0) / total


def tm_score(model: Tensor, reference: Tensor) -> Tensor:
    """Return the TM-score in 0..1, (...) of (..., n, 3), normalized by the n residues compared.

    The largest mean of 1 / (1 + (d/d0)²) over superpositions. The residues correspond, so nothing
    is aligned. The search starts from fragments of length n, n/2, n/4, ... 4 all along the chain
    and refits with weights (1 + (d/d0)²)⁻², which are the slopes of the score in d²: it is convex
    in d², so no refit can lower it.

    References:
        Zhang and Skolnick (2004), equations 1 and 2; the fragments are those of its search.
    """
    shape = torch.broadcast_shapes(model.shape, reference.shape)
    pairs = zip(
        model.double().expand(shape).reshape(-1, *shape[-2:]),
        reference.double().expand(shape).reshape(-1, *shape[-2:]),
        strict=True,
    )
    # one pair at a time: its superpositions are a batch already
    scores = [_tm_score(x, y) for x, y in pairs]
    return torch.stack(scores).reshape(shape[:-2])


def _tm_score(model: Tensor, reference: Tensor) -> Tensor:
    n = len(reference)
    d0 = max(1.24 * max(n - 15, 0) ** (1 / 3) - 1.8, 0.5)
    weights = _fragments(n).to(model)
    for _ in range(30):
        gap = (superpose(model, reference, weights) - reference).square().sum(-1)
        near = 1 / (1 + gap / d0**2)
        weights = near.square()
    best: Tensor = near.mean(-1).max()
    return best


def _fragments(n: int) -> Tensor:
    """Return the fragments a search starts from, (number, n) bool."""
    rows = []
    length = n
    while True:
        starts = torch.arange(0, n - length + 1, max(1, length // 4))
        position = torch.arange(n)
        rows.append((position >= starts[:, None]) & (position < starts[:, None] + length))
        if length <= 4:
            return torch.cat(rows)
        length = max(4, length // 2)


def _distances(x: Tensor) -> Tensor:
    """Return (..., n, n) distances in Å of (..., n, 3)."""
    x = x.double()
    apart: Tensor = (x[..., :, None, :] - x[..., None, :, :]).norm(dim=-1)
    return apart


# one structure ------------------------------------------------------------------------------------


def radial_spread(coords: Tensor) -> Tensor:
    """Return the standard deviation in Å of the distances to the centroid, (...) of (..., n, 3).

    Points on a sphere have 0, a filled ball little and a rod much, so the negative is a measure of
    globularity.
    """
    x = coords.double()
    radius: Tensor = (x - x.mean(-2, keepdim=True)).norm(dim=-1)
    return radius.std(-1, correction=0)


def asymmetry(centers: Tensor, neighbors: Neighbors = "ring") -> Tensor:
    """Return the standard deviation in Å of the distances between m protomers, (...).

    Args:
        centers: (..., m, 3) Å, one point per protomer.
        neighbors: "ring" measures each protomer against the next, and the last against the first: 0
            for every regular m-gon. "all" measures every pair.
    """
    x = centers.double()
    gaps: Tensor
    if neighbors == "ring":
        gaps = (x - x.roll(1, dims=-2)).norm(dim=-1)
    else:
        i, j = torch.triu_indices(x.shape[-2], x.shape[-2], 1, device=x.device)
        gaps = (x[..., i, :] - x[..., j, :]).norm(dim=-1)
    return gaps.std(-1, correction=0)


def secondary_structure(alpha_carbons: Tensor, chains: Sequence[int]) -> str:
    """Return helix H, strand E and coil C per residue, from the α-carbons alone.

    Args:
        alpha_carbons: (n, 3) Å; nan where one is missing, which ends a segment and reads ".".
        chains: number of residues of each unbroken piece, in order; they sum to n.

    Raises:
        ImportError: biotite is not installed.

    References:
        Labesse et al. (1997), as `annotate_sse` of biotite implements it.
    """
    struc = _biotite()
    atoms = struc.AtomArray(len(alpha_carbons))
    atoms.coord = alpha_carbons.float().cpu().numpy()
    atoms.atom_name[:] = "CA"
    atoms.res_name[:] = "GLY"
    atoms.element[:] = "C"
    # a gap in the numbers keeps a segment from running on into the next piece
    piece = torch.arange(len(chains)).repeat_interleave(torch.tensor(chains))
    atoms.res_id[:] = (torch.arange(len(piece)) + 10 * piece).numpy()
    letters = {"a": "H", "b": "E", "c": "C", "": "."}
    return "".join(letters[str(s)] for s in struc.annotate_sse(atoms))


def exposed_atoms(sequence: str, coords: Tensor) -> Tensor:
    """Return which atoms a water of radius 1.4 Å can touch, (n, 14) bool.

    Args:
        sequence: n letters of the 20 amino acids.
        coords: (n, 14, 3) Å, atoms in the order of `ATOMS`; what lies beyond a residue's last atom
            is not read.

    Raises:
        ImportError: biotite is not installed.

    References:
        Shrake and Rupley (1973), as `sasa` of biotite implements it: 1000 points per atom, ProtOr
        radii.
    """
    struc = _biotite()
    names = [ATOMS[letter] for letter in sequence]
    real = torch.arange(14) < torch.tensor([len(n) for n in names])[:, None]
    atoms = struc.AtomArray(int(real.sum()))
    atoms.coord = coords.float().cpu()[real].numpy()
    atoms.atom_name = [name for residue in names for name in residue]
    atoms.element = [name[0] for residue in names for name in residue]
    three = [protein_letters_1to3[letter].upper() for letter in sequence]
    atoms.res_name = [t for t, residue in zip(three, names, strict=True) for _ in residue]
    atoms.res_id = [i for i, residue in enumerate(names, 1) for _ in residue]
    exposed = torch.zeros(len(sequence), 14, dtype=torch.bool)
    exposed[real] = torch.from_numpy(struc.sasa(atoms) > 0)
    return exposed


def need_biotite() -> None:
    """Say what to install if secondary structure and exposure cannot be computed.

    Raises:
        ImportError: biotite is not installed.
    """
    if find_spec("biotite") is None:
        raise ImportError(
            "Secondary structure and exposure need biotite, which is not installed. "
            "Run: pip install 'seqalign[folding]'"
        )


def _biotite() -> Any:
    need_biotite()
    import biotite.structure

    return biotite.structure
