"""Several structures of one sequence: which residues of the others are those of the first.

The first structure names the residues. Those of another are the same by chain and number; where
the chains to be designed have other names, they go together in their order. Letters may differ at
a few residues, as in crystals of mutants; more are a sign of another numbering, which is refused.
What only one structure has stays in it: nothing is added, moved or left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from seqalign.files.numbering import Numbering
from seqalign.files.structure import Structure, StructureError

__all__ = ["InputState", "match", "match_all"]

# of the residues that two chains share, the part whose letters must agree
AGREE: Final = 0.9


@dataclass(frozen=True, eq=False)
class InputState:
    """One structure of several, and where the positions of the first are in it.

    Attributes:
        structure: the structure.
        at: (L,) int64, for each known residue of the first its place among those of this one; -1
            where it has none.
        notes: what differs, in sentences.
        rmsd: Å, of the CA of the designed residues in both after superposition.
    """

    structure: Structure
    at: Tensor
    notes: tuple[str, ...] = field(default=())
    rmsd: float = 0.0

    def __repr__(self) -> str:
        """Return one line."""
        return f"InputState({self.structure.name!r}, {int((self.at >= 0).sum())} residues)"


def _designed(structure: Structure) -> list[str]:
    """Return the chains that are designed, in order."""
    names = structure.numbering.chains
    return list(
        dict.fromkeys(c for c, d in zip(names, structure.design.tolist(), strict=True) if d)
    )


def _chains(first: Structure, other: Structure) -> dict[str, str]:
    """Return the chain of another structure for each designed one of the first."""
    ours, theirs = _designed(first), _designed(other)
    if len(ours) != len(theirs):
        raise StructureError(
            f"{other.name}: {len(theirs)} chains are to be designed ({', '.join(theirs)}), and "
            f"{len(ours)} in {first.name} ({', '.join(ours)}). The states are of one sequence: "
            "name with chains which are designed, and with context which are only seen."
        )
    by_name = set(ours) == set(theirs)
    return dict(zip(ours, ours if by_name else theirs, strict=True))


def _listed(numbering: Numbering, positions: Sequence[int]) -> str:
    return numbering.names([i + 1 for i in positions])


def match(first: Structure, other: Structure) -> InputState:
    """Find the known residues of one structure in another.

    Raises:
        StructureError: they are no states of one sequence, as far as chains, numbers and letters
            tell; the message names a residue and the cure.
    """
    ours, theirs = first.known_numbering, other.known_numbering
    pairs = zip(theirs.chains, theirs.numbers, strict=True)
    there = {pair: i for i, pair in enumerate(pairs)}
    here: dict[str, list[int]] = {}
    for i, chain in enumerate(ours.chains):
        here.setdefault(chain, []).append(i)
    chains, at = _chains(first, other), torch.full((len(ours),), -1)
    a, b = first.wild_type, other.wild_type
    differ: list[int] = []
    for chain, mine in here.items():
        if chain not in chains and chain in chains.values():
            continue
        found = [(i, there.get((chains.get(chain, chain), ours.numbers[i]), -1)) for i in mine]
        shared = [(i, j) for i, j in found if j >= 0]
        wrong = [(i, j) for i, j in shared if a[i] != b[j]]
        if chain in chains and not shared:
            raise StructureError(
                f"{other.name}: none of the residues of chain {chain} of {first.name} is there by "
                f"its number, such as {ours.name(mine[0] + 1)}. Where the files number one chain "
                "differently, read both with numbering: index."
            )
        if len(shared) - len(wrong) < AGREE * len(shared):
            if chain not in chains:
                # another partner, which happens to have the chain's name
                continue
            i, j = wrong[0]
            raise StructureError(
                f"{other.name}: residue {theirs.name(j + 1)} is {b[j]}, and {ours.name(i + 1)} is "
                f"{a[i]} in {first.name}; {len(wrong)} of {len(shared)} letters differ. States are "
                "structures of one sequence: where the files number it differently, read both "
                "with numbering: index."
            )
        for i, j in shared:
            if chain in chains or a[i] == b[j]:
                at[i] = j
        if chain in chains:
            differ += [i for i, _ in wrong]
    notes = []
    if differ:
        places = _listed(ours, differ)
        notes.append(
            f"{other.name} has other letters than {first.name} at {places}; those of {first.name} "
            "are the wild type, in both."
        )
    designed = first.design[first.known]
    missing = ((at < 0) & designed).nonzero()[:, 0].tolist()
    if missing:
        notes.append(f"{other.name} lacks {_listed(ours, missing)} of {first.name}.")
    more = other.design[other.known].clone()
    more[at[at >= 0]] = False
    if extra := more.nonzero()[:, 0].tolist():
        notes.append(
            f"{_listed(theirs, extra)} of {other.name} are not in {first.name}; they keep their "
            "letters there."
        )
    both = (at >= 0) & designed
    rmsd = _rmsd(first.coords[first.known[both], 1], other.coords[other.known[at[both]], 1])
    return InputState(other, at, tuple(notes), rmsd)


def _rmsd(a: Tensor, b: Tensor) -> float:
    """Return Å between points (n, 3) after the best superposition.

    References:
        Kabsch, "A solution for the best rotation to relate two sets of vectors", Acta
        Crystallographica A 1976.
    """
    a, b = (x.double() - x.double().mean(0) for x in (a, b))
    u, s, v = torch.linalg.svd(a.T @ b)
    s[-1] = s[-1] * torch.sign(torch.linalg.det(u) * torch.linalg.det(v))
    total = (a**2).sum() + (b**2).sum() - 2 * s.sum()
    return float((total / max(len(a), 1)).clamp(min=0).sqrt())


def match_all(structures: Sequence[Structure | InputState]) -> tuple[InputState, ...]:
    """Return every structure with where the residues of the first are in it.

    Raises:
        StructureError: there are fewer than two, or one does not match the first.
    """
    if len(structures) < 2:
        raise StructureError(
            f"states names {len(structures)} structures, and states are several. Give two or more, "
            "or a single one as structure."
        )
    bare = [s.structure if isinstance(s, InputState) else s for s in structures]
    own = InputState(bare[0], torch.arange(len(bare[0].known)))
    return (own, *(match(bare[0], other) for other in bare[1:]))
