"""What a person should know of a structure as it was read: what is odd, kept, or not seen."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from seqalign.files.beside import Beside
from seqalign.files.elements import MOLYBDENUM
from seqalign.files.numbering import ResidueError
from seqalign.files.places import CONTACT
from seqalign.files.residues import BACKBONE
from seqalign.files.structure import Structure

__all__ = ["remarks", "to_fix"]


def remarks(
    structure: Structure,
    seen: bool = False,
    models: Sequence[str] = (),
    free: Collection[int] | None = None,
) -> list[str]:
    """Return sentences, the weightiest first: gaps, incomplete and odd residues, what is unseen.

    Args:
        structure: the structure.
        seen: whether the model looks beside the chains.
        models: those that do, to be named where this one does not.
        free: 1-based positions that may change; None: all that can be designed.
    """
    found = [*structure.said, *_gaps(structure), *_incomplete(structure)]
    numbering = structure.numbering
    if structure.modified:
        shown = (
            f"{r} {numbering.name(i + 1)} as {structure.sequence[i]}" for i, r in structure.modified
        )
        found.append(f"Read {_some(list(shown), 8)}.")
    return [*found, *_beside(structure, seen, models, free)]


def _some(words: Sequence[str], most: int) -> str:
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


def _gaps(structure: Structure) -> list[str]:
    """Say where chains to be designed are broken, or where letters without atoms were added."""
    numbering, chains = structure.numbering, structure.numbering.chains
    if structure.unresolved is not None:
        added = [
            f"{letters} {_where(structure, chain, i)}" for chain, i, letters in structure.unresolved
        ]
        said = f"Without atoms, from the file's own sequence, and fixed: {_some(added, 8)}."
        return [said] if added else []
    pairs = [
        f"{numbering.name(i)} and {numbering.name(i + 1)}"
        for i in range(1, len(structure))
        if bool(structure.breaks[i]) and chains[i - 1] == chains[i] and bool(structure.design[i])
    ]
    if not pairs:
        return []
    cure = (
        "The file does not have the letters (no SEQRES, no _entity_poly_seq); that of the PDB may."
    )
    if structure.polymers:
        cure = "input.fill: seqres takes the letters from the file."
    return [
        f"The chain is broken between {_some(pairs, 6)}: X stands for what is missing, and plates "
        f"and DNA refuse it. {cure}"
    ]


def _where(structure: Structure, chain: str, i: int) -> str:
    """Say where letters stand that go before residue i."""
    chains, name = structure.numbering.chains, structure.numbering.name
    if i > 0 and chains[i - 1] == chain:
        return f"after {name(i)}"
    return f"before {name(i + 1)}"


def _incomplete(structure: Structure) -> list[str]:
    """Name residues to be designed that keep their letter as their backbone is not whole."""
    some = []
    for i in (structure.design & ~structure.mask).nonzero()[:, 0].tolist():
        there = structure.coords[i].isfinite().all(-1).tolist()
        lacks = [a for a, ok in zip(BACKBONE, there, strict=True) if not ok]
        name = structure.numbering.name(i + 1)
        some.append(f"{structure.sequence[i]} {name} (no {', '.join(lacks)})")
    return (
        [f"Kept and not designed, as backbone atoms are missing: {_some(some, 8)}."] if some else []
    )


@dataclass(frozen=True, eq=False)
class _Thing:
    """What stands beside the chains under one name, and what is near it.

    Attributes:
        name: what it is called, with its places.
        kind: as in `Beside`.
        near: the residues to be designed within 5 Å, as 1-based positions.
        words: the text of residues that means these, checked; "" for none.
        element: of its heavy atoms, 0 for those that no network reads.
    """

    name: str
    kind: str
    near: tuple[int, ...]
    words: str
    element: Tensor


def to_fix(structure: Structure) -> str:
    """Return the text for design.fix that keeps all residues near what stands beside; or ""."""
    return _together(structure, [t for t in _things(structure) if t.kind != "chain"])


def _together(structure: Structure, things: Sequence[_Thing]) -> str:
    near = sorted({i for thing in things for i in thing.near})
    return _meaning(structure, near, [", ".join(t.words for t in things if t.near)])


def _meaning(structure: Structure, near: Sequence[int], words: Sequence[str]) -> str:
    """Return the first text that names these positions and no other that can be designed."""
    numbering, may = structure.known_numbering, _designed(structure)
    for text in words:
        try:
            found = numbering.positions(text)
        except ResidueError:
            continue
        if [i for i in found if i in may] == list(near):
            return text
    return numbering.names(near)


def _designed(structure: Structure) -> set[int]:
    return {i for i, d in enumerate(structure.design[structure.known].tolist(), 1) if d}


def _things(structure: Structure) -> list[_Thing]:
    from scipy.spatial import KDTree

    designed = _designed(structure)
    may = {r: i for i, r in enumerate(structure.known.tolist(), 1) if i in designed}
    mine = torch.tensor([i in may for i in structure.heavy_of.tolist()], dtype=torch.bool)
    heavy, owner = structure.heavy[mine].numpy(), structure.heavy_of[mine].numpy()
    alike: dict[tuple[str, str], list[Beside]] = {}
    for thing in structure.beside:
        whole = thing.kind in ("nucleic", "chain")
        alike.setdefault((thing.kind, thing.chain if whole else thing.residue), []).append(thing)
    found = []
    for (kind, key), some in alike.items():
        xyz = torch.cat([thing.xyz for thing in some]).numpy()
        gap = KDTree(xyz).query(heavy)[0] if len(heavy) else np.zeros(0)
        near = tuple(may[i] for i in np.unique(owner[gap <= CONTACT]).tolist())
        size = sum(thing.size for thing in some)
        if kind == "nucleic":
            name = f"DNA or RNA chain {key or '(no name)'} ({size} nucleotides)"
            words = [f"within {CONTACT:g} of {key}", "near nucleic"]
        elif kind == "chain":
            name = f"Chain {key or '(no name)'} ({size} residues)"
            words = [f"within {CONTACT:g} of {key}"]
        else:
            places = [f"{thing.chain}{thing.number}" for thing in some]
            name = f"{key} {_some(places, 12)}"
            words = [f"near {key}", f"near {key} {places[0]}", f"near {places[0]}"]
        element = torch.cat([thing.element for thing in some])
        text = _meaning(structure, near, words) if near else ""
        found.append(_Thing(name, kind, near, text, element))
    return found


def _beside(
    structure: Structure, seen: bool, models: Sequence[str], free: Collection[int] | None
) -> list[str]:
    """Name what stands beside the chains, with the residues to be designed that are near it."""
    names = structure.known_numbering.names
    found = []
    visible, hidden = [], []
    for thing in _things(structure):
        near = f"within {CONTACT:g} Å: {names(thing.near)}"
        if not thing.near:
            near = f"no designed residue is within {CONTACT:g} Å"
        loose = bool(thing.near) and (free is None or any(i in free for i in thing.near))
        kept = ", all kept" if thing.near and not loose else ""
        if thing.kind == "chain":
            ask = ": name it in context?" if thing.near else "."
            found.append(f"{thing.name} is not seen; {near}{ask}")
            continue
        read = int((thing.element > 0).sum())
        if seen and read:
            part = "" if read == len(thing.element) else f" of {len(thing.element)}"
            odd = "; the published script leaves molybdenum out"
            odd = odd if bool((thing.element == MOLYBDENUM).any()) else ""
            atoms = f"{read}{part} atom{'s' if read > 1 or part else ''}"
            found.append(f"{thing.name} is seen ({atoms}{odd}); {near}{kept}.")
            visible += [thing] * loose
            continue
        why = " (its atoms have occupancy 0, or no known element)" if seen else ""
        cure = f'. To keep them: fix: "{thing.words}"' if loose else f"{kept}."
        found.append(f"{thing.name} is not seen{why}; {near}{cure}")
        hidden.append((thing, loose))
    open_ = [thing for thing, loose in hidden if loose]
    if len(open_) > 1:
        count = len({i for thing in open_ for i in thing.near})
        text = _together(structure, open_)
        found.append(f'To keep all {count} residues near these: fix: "{text}"')
    if hidden and models and not seen:
        found.append(
            f"Models that see ligands, ions, glycans and nucleic acids: {', '.join(models)}."
        )
    if visible:
        text = _together(structure, visible)
        found.append(
            f"What the model sees a reward need not see: some read the chains alone. To keep the "
            f'residues near these whatever rewards say: fix: "{text}"'
        )
    return found
