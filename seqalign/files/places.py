"""Places: the residues near a chain, a ligand or other residues, buried or bare, or in a CDR.

A text such as "within 6 of B" names residues by where they are. Distances are in Å between heavy
atoms, side chains of the file included.

References:
    LayerSelector of Rosetta: Leaver-Fay et al., "ROSETTA3: an object-oriented software suite for
    the simulation and design of macromolecules", Methods in Enzymology 2011; the count of
    neighbors in a cone as documented at docs.rosettacommons.org, its default parameters.
    Lefranc et al., "IMGT unique numbering for immunoglobulin and T cell receptor variable domains",
    Developmental and Comparative Immunology 2003. Kabat et al., "Sequences of proteins of
    immunological interest", 5th edition 1991. Al-Lazikani, Lesk & Chothia, "Standard conformations
    for the canonical structures of immunoglobulins", Journal of Molecular Biology 1997.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from seqalign.files.beside import Beside
from seqalign.files.numbering import Numbering, ResidueError, spoken

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CDRS", "CONTACT", "Geometry", "Places"]

# Å between heavy atoms: what "near" and "interface" mean
CONTACT: Final = 5.0
# characters of one expression; words within words have an end
LONGEST: Final = 1000
# neighbors in the cone: the core has more, the surface fewer
CORE: Final = 5.2
SURFACE: Final = 2.0
# Å, and how far the cone reaches beyond a right angle
MIDPOINT: Final = 9.0
SHIFT: Final = 0.5

_LAYERS: Final = ("surface", "core", "boundary")
_KINDS: Final = {
    **dict.fromkeys(("ligand", "ligands"), "ligand"),
    **dict.fromkeys(("ion", "ions", "metal", "metals"), "ion"),
    **dict.fromkeys(("sugar", "sugars", "glycan", "glycans"), "sugar"),
    **dict.fromkeys(("nucleic", "nucleic acid", "nucleic acids", "dna", "rna"), "nucleic"),
}
# first and last number of the three loops; insertion codes belong to their number
CDRS: Final = {
    ("imgt", ""): ((27, 38), (56, 65), (105, 117)),
    ("kabat", "light"): ((24, 34), (50, 56), (89, 97)),
    ("kabat", "heavy"): ((31, 35), (50, 65), (95, 102)),
    ("chothia", "light"): ((26, 32), (50, 52), (91, 96)),
    ("chothia", "heavy"): ((26, 32), (52, 56), (96, 101)),
}
# by these the schemes are told: cysteine, tryptophan, cysteine
_MARKS: Final = {
    ("imgt", ""): ("23", "41", "104"),
    ("kabat", "light"): ("23", "35", "88"),
    ("kabat", "heavy"): ("22", "36", "92"),
    ("chothia", "light"): ("23", "35", "88"),
    ("chothia", "heavy"): ("22", "36", "92"),
}


@dataclass(frozen=True, eq=False, repr=False)
class Geometry:
    """What the words of place are read from: all L residues of a structure, and what is beside.

    Attributes:
        residues: the names of the L residues.
        sequence: L letters.
        coords: (L, 4, 3) float32, Å, atoms N, CA, C, O; nan where missing.
        beta: (L, 3) float32, Å, CB at ideal geometry.
        heavy: (n, 3) float32, Å, heavy atoms of all residues.
        heavy_of: (n,) int64, the residue of each.
        beside: what is not read.
        require: the backbone atoms that a residue needs to be a position.
    """

    residues: Numbering
    sequence: str
    coords: Tensor
    beta: Tensor
    heavy: Tensor
    heavy_of: Tensor
    beside: Sequence[Beside]
    require: tuple[str, ...]

    @cached_property
    def _atoms(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Heavy atoms and whose they are; those of the backbone where nobody gave them."""
        if len(self.heavy):
            return self.heavy.double().numpy(), self.heavy_of.numpy()
        flat = self.coords.flatten(0, 1).double().numpy()
        there = np.isfinite(flat).all(-1)
        return flat[there], np.arange(len(self.coords)).repeat(4)[there]

    def lacks(self, index: int) -> str:
        """Say why a residue, by its 0-based index, is no position that can be designed."""
        name, letter = self.residues.name(index + 1), self.sequence[index]
        missing = [
            atom
            for atom, xyz in zip(("N", "CA", "C", "O"), self.coords[index], strict=True)
            if atom in self.require and not bool(xyz.isfinite().all())
        ]
        if missing:
            verb = "is" if len(missing) == 1 else "are"
            return (
                f"{name} has no whole backbone ({', '.join(missing)} {verb} missing): its letter "
                f"{letter} is kept and it cannot be designed"
            )
        return f"{name} has no standard letter: it is kept as it is and cannot be designed"

    def read(self, text: str) -> frozenset[int]:
        """Return the 0-based residues that a text names which begins with a word of place.

        Raises:
            ResidueError: it cannot be read, or speaks of what is not there.
        """
        if len(text) > LONGEST:
            raise ResidueError(f"{_shown(text)} is too long; name the residues themselves.")
        word = spoken(text)
        assert word is not None
        rest = text[len(word) :].strip()
        if word == "within":
            found = re.fullmatch(
                r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(?:Å|a|angstroms?)?\s+of\s+(.+)", rest, re.I
            )
            if found is None or not 0 < float(found[1]) <= 1000:
                raise ResidueError(
                    f"cannot read {_shown(text)}. Write a distance in Å and from what: within 6 of "
                    f"B, within 5 of A39, within 8 of A39-45, within 5 of ZN."
                )
            return self._around(found[2], float(found[1]))
        if word == "near":
            if not rest:
                raise ResidueError(
                    f"'near' says nothing alone; write near ZN or near ligand ({CONTACT:g} Å)."
                )
            return self._around(rest, CONTACT)
        if word == "interface":
            return self._interface(rest)
        if word in _LAYERS:
            return self._layer(word, rest)
        return self._cdr(word, rest)

    # distances ------------------------------------------------------------------------------------

    def _close(self, to: npt.NDArray[np.float64], distance: float) -> frozenset[int]:
        """Return the residues with a heavy atom at most so far from any of some points."""
        from scipy.spatial import KDTree

        atoms, owner = self._atoms
        if not len(to) or not len(atoms):
            return frozenset()
        # the bound itself does not count
        gap, _ = KDTree(to).query(atoms, distance_upper_bound=np.nextafter(distance, np.inf))
        return frozenset(owner[np.isfinite(gap)].tolist())

    def _of(self, residues: frozenset[int]) -> npt.NDArray[np.float64]:
        atoms, owner = self._atoms
        return atoms[np.isin(owner, list(residues))]

    def _around(self, target: str, distance: float) -> frozenset[int]:
        """Return the residues around a target, and not the target's own."""
        residues, others = self._target(target)
        points = [self._of(residues), *(b.xyz.double().numpy() for b in others)]
        return self._close(np.concatenate(points), distance) - residues

    def _target(self, text: str) -> tuple[frozenset[int], list[Beside]]:
        """Return what a text names: residues, and what stands beside the chains."""
        text = text.strip().strip("\"'").strip()
        found = self._one(text)
        if found is None:
            # several, one after another
            some = [t for t in re.split(r"\s*,\s*|\s+(?:(?:and|or)\s+)?", text) if t]
            each = [self._one(t) for t in some] if len(some) > 1 else []
            if each and None not in each:
                pairs = [pair for pair in each if pair is not None]
                return frozenset().union(*(r for r, _ in pairs)), [b for _, o in pairs for b in o]
            raise ResidueError(self._nothing(text))
        return found

    def _one(self, text: str) -> tuple[frozenset[int], list[Beside]] | None:
        """Return what one name means; None if nothing has it."""
        kind = _KINDS.get(text.lower())
        word = spoken(text)
        residues: frozenset[int] = frozenset()
        if word is not None:
            residues = self.read(text)
        else:
            chain = re.sub(r"^(?i:chain)\s+", "", text)
            try:
                residues = frozenset(i - 1 for i in self.residues.positions(chain))
            except ResidueError:
                residues = frozenset()
        others = [b for b in self.beside if _is(b, text) or (kind is not None and b.kind == kind)]
        if residues and others:
            b = others[0]
            own = self.residues.names([i + 1 for i in sorted(residues)])
            chain = f"{text}:" if text in self.residues.chains else _shown(own)[1:-1]
            raise ResidueError(
                f"{_shown(text)} can be read as residues and as {_called(b)} beside the chains; "
                f"write {chain} for the residues, or {_called(b)}."
            )
        return (residues, others) if residues or others else None

    def _nothing(self, text: str) -> str:
        """Say that nothing has a name, and what there is."""
        kind = _KINDS.get(text.lower())
        names = list(dict.fromkeys(self.residues.chains))
        chains = ", ".join(c or "(no name)" for c in names[:12]) + ", ..." * (len(names) > 12)
        others = ", ".join(_called(b) for b in self.beside[:8]) + ", ..." * (len(self.beside) > 8)
        beside = f"beside the chains stands {others}" if others else "nothing stands beside them"
        near = get_close_matches(
            text.upper(), [*names, *(b.residue for b in self.beside if b.residue)], 1, 0.5
        )
        hint = f" Did you mean {near[0]}?" if near and near[0] != text else ""
        if kind is not None:
            return f"there is no {text.lower()}: the chains are {chains}; {beside}.{hint}"
        if re.search("[0-9]", text):
            try:
                self.residues.positions(text, "")
            except ResidueError as error:
                return f"{str(error).removeprefix(': ')} And {beside}."
        return (
            f"{_shown(text)} is no chain or residue and nothing beside them: the chains are "
            f"{chains}; {beside}.{hint}"
        )

    # interfaces -----------------------------------------------------------------------------------

    @cached_property
    def _chains(self) -> dict[str, frozenset[int]]:
        found: dict[str, list[int]] = {}
        for i, chain in enumerate(self.residues.chains):
            found.setdefault(chain, []).append(i)
        return {chain: frozenset(some) for chain, some in found.items()}

    def _named(self, rest: str) -> list[str]:
        """Return the chains of a list, those of amino acids or beside them."""
        words = re.split(r"[\s,+&/]+", rest.strip().strip("\"'"))
        fill = ("", "and", "with", "to", "between", "of", "chain", "chains")
        known = [*self._chains, *(b.chain for b in self.beside if b.kind in ("chain", "nucleic"))]
        names = []
        for word in words:
            name = word.removesuffix(":")
            if name in known and word:
                names.append(name)
            elif word.lower() not in fill:
                near = [c for c in known if c.lower() == name.lower()]
                hint = f" Did you mean {near[0]}?" if near else ""
                shown = ", ".join(c or "(no name)" for c in dict.fromkeys(known[:20]))
                raise ResidueError(
                    f"there is no chain {name!r}; there is {shown}.{hint} Chains stand one after "
                    f"another, as in interface A B."
                )
        return list(dict.fromkeys(names))

    def _interface(self, rest: str) -> frozenset[int]:
        names = self._named(rest)
        if not names and rest:
            raise ResidueError(f"cannot read 'interface {rest}'; write interface A B.")
        sides: dict[str, tuple[frozenset[int], npt.NDArray[np.float64]]] = {
            chain: (some, self._of(some)) for chain, some in self._chains.items()
        }
        for b in self.beside:
            if b.kind in ("chain", "nucleic"):
                own, atoms = sides.get(b.chain, (frozenset(), np.zeros((0, 3))))
                sides[b.chain] = own, np.concatenate([atoms, b.xyz.double().numpy()])
        if len(names) > 1:
            pairs = list(combinations(names, 2))
        else:
            some = names or list(self._chains)
            pairs = [(a, b) for a in some for b in sides if a != b]
        found: frozenset[int] = frozenset()
        for chain in dict.fromkeys(c for pair in pairs for c in pair):
            others = {b if a == chain else a for a, b in pairs if chain in (a, b)}
            atoms = np.concatenate([sides[c][1] for c in others])
            found |= self._close(atoms, CONTACT) & sides[chain][0]
        return found

    # layers ---------------------------------------------------------------------------------------

    def neighbors(self, among: Sequence[int]) -> npt.NDArray[np.float64]:
        """Return how many CA of some residues lie in the cone from CA along CB, for each of them.

        A neighbor at distance d (Å) from CB, at angle θ from CA→CB, counts as
        1 / (1 + exp(d − 9)) · max(0, (cos θ + 0.5) / 1.5)². CB is the virtual one, of glycine too,
        so a backbone is enough. nan where N, CA or C is missing.
        """
        ca, cb = (x.double().numpy()[list(among)] for x in (self.coords[:, 1], self.beta))
        side = (cb - ca) / np.linalg.norm(cb - ca, axis=-1, keepdims=True)
        counts = np.zeros(len(among))
        for start in range(0, len(among), 256):
            rows = slice(start, start + 256)
            to = ca[None] - cb[rows, None]
            d = np.linalg.norm(to, axis=-1)
            ahead = np.einsum("ijk,ik->ij", to, side[rows]) / np.maximum(d, 1e-9)
            angle = np.maximum((ahead + SHIFT) / (1 + SHIFT), 0.0) ** 2
            # far away exp would overflow, and counts nothing
            worth = angle / (1 + np.exp(np.minimum(d - MIDPOINT, 500.0)))
            own = np.arange(start, start + len(worth))
            worth[np.arange(len(worth)), own] = 0.0
            # a residue without CA is nobody's neighbor
            counts[rows] = np.where(np.isnan(ca).any(-1), 0.0, worth).sum(-1)
        return np.where(np.isnan(side).any(-1), np.nan, counts)

    def _layer(self, word: str, rest: str) -> frozenset[int]:
        among: Sequence[int] = range(len(self.sequence))
        rest = re.sub(r"^(?i:layer)\b\s*", "", rest)
        cut = re.match(r"[0-9]+(\.[0-9]*)?(?![^\s])\s*", rest) if word != "boundary" else None
        rest = rest[cut.end() :] if cut else rest
        core, surface = (float(cut[0]),) * 2 if cut else (CORE, SURFACE)
        if rest:
            of = re.fullmatch(r"of\s+(.+)", rest, re.I)
            chains = self._named(of[1]) if of else []
            if not chains:
                raise ResidueError(
                    f"cannot read {_shown(f'{word} {rest}')}. Write {word}, or {word} of A for the "
                    f"layers of chain A alone, or core 4 for more than 4 neighbors."
                )
            among = sorted(frozenset().union(*(self._chains.get(c, frozenset()) for c in chains)))
        counts = self.neighbors(among)
        if len(counts) and np.isnan(counts).all():
            raise ResidueError(
                f"{word} is told by N, CA and C, and no residue has all three. Name residues."
            )
        chosen = {
            "core": counts >= core,
            "surface": counts <= surface,
            "boundary": (counts < core) & (counts > surface),
        }[word]
        return frozenset(np.asarray(among)[chosen].tolist())

    # complementarity-determining regions ----------------------------------------------------------

    def _cdr(self, word: str, rest: str) -> frozenset[int]:
        words = [w for w in re.split(r"[\s,+&]+", rest) if w]
        low = [w.lower() for w in words]
        forms = (
            "Write cdr imgt H, cdr kabat heavy H, cdr chothia light L, or cdr3 imgt H for one loop."
        )
        scheme = next((w for w in low if w in ("imgt", "kabat", "chothia")), None)
        if scheme is None:
            raise ResidueError(
                f"{_shown(f'{word} {rest}'.strip())} does not say by which scheme the file numbers "
                f"its residues: imgt, kabat or chothia. {forms}"
            )
        kinds = [w for w in low if w in ("heavy", "light")]
        loops = {int(word[3:]) - 1} if len(word) > 3 else {0, 1, 2}
        names = [w for w in words if w.lower() not in (scheme, "heavy", "light", "chain", "of")]
        if not names:
            # the names that antibodies have, or a chain alone
            names = [c for c in ("H", "L") if c in self._chains and not kinds]
            names = names or (list(self._chains) if len(self._chains) == 1 else [])
            if not names:
                raise ResidueError(f"name the chains whose loops are meant. {forms}")
        found: set[int] = set()
        for name in names:
            chain, which = name.removesuffix(":"), loops
            if chain not in self._chains and chain[:-1] in self._chains and chain[-1] in "123":
                # H3 is the third loop of H
                chain, which = chain[:-1], {int(chain[-1]) - 1}
            if chain not in self._chains:
                there = ", ".join(c or "(no name)" for c in self._chains)
                raise ResidueError(f"there is no chain {chain!r}; there is {there}. {forms}")
            kind = "" if scheme == "imgt" else next(iter(kinds), _LIKELY.get(chain, ""))
            if scheme != "imgt" and not kind:
                raise ResidueError(
                    f"{scheme} numbers heavy and light chains differently; say which {chain} is: "
                    f"cdr {scheme} heavy {chain}, or cdr {scheme} light {chain}."
                )
            self._recognized(chain, scheme, kind)
            ranges = [CDRS[scheme, kind][n] for n in which]
            for i in self._chains[chain]:
                number = int(re.sub("[A-Za-z]", "", self.residues.numbers[i]))
                if any(first <= number <= last for first, last in ranges):
                    found.add(i)
        return frozenset(found)

    def _recognized(self, chain: str, scheme: str, kind: str) -> None:
        """Refuse a chain that is not numbered by a scheme: two of its three marks must be there."""
        at = {self.residues.numbers[i]: self.sequence[i] for i in self._chains[chain]}
        marks = [(n, a, at.get(n, "")) for n, a in zip(_MARKS[scheme, kind], "CWC", strict=True)]
        if sum(a == there for _, a, there in marks) < 2:
            said = ", ".join(f"{n} is {there or 'missing'}" for n, _, there in marks)
            wanted = ", ".join(f"{a} at {n}" for n, a, _ in marks)
            what = f"{kind} chain" if kind else "variable domain"
            raise ResidueError(
                f"chain {chain} is not numbered by {scheme.upper() if not kind else scheme}: a "
                f"{what} has {wanted}; here {said}. Name the residues, or bring a file that is "
                f"numbered so."
            )


_LIKELY: Final = {"H": "heavy", "L": "light"}


def _is(b: Beside, text: str) -> bool:
    """Whether a text names what stands beside: ZN, ZN A101, A101, or a chain."""
    if b.kind in ("chain", "nucleic"):
        return text.removesuffix(":") == b.chain or text.lower() in (
            f"chain {b.chain.lower()}",
            f"{b.kind} {b.chain.lower()}",
        )
    place, name = f"{b.chain}{b.number}", text.upper()
    first, _, last = name.partition(" ")
    where = (place.upper(), f"{b.chain}:{b.number}".upper())
    return name in (b.residue, *where) or (first == b.residue and last.strip() in where)


def _called(b: Beside) -> str:
    if b.kind in ("chain", "nucleic"):
        return f"{b.kind} {b.chain}"
    return f"{b.residue} {b.chain}{b.number}"


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


@dataclass(frozen=True, eq=False, repr=False)
class Places:
    """Where n positions are among the residues of a structure.

    Attributes:
        geometry: of all residues.
        at: n 0-based residues, ascending or not.
    """

    geometry: Geometry
    at: tuple[int, ...]

    def take(self, indices: Sequence[int]) -> Places:
        """Return the places of some positions, given by 0-based indices."""
        return replace(self, at=tuple(self.at[i] for i in indices))

    @property
    def residues(self) -> Numbering:
        """The names of all residues."""
        return self.geometry.residues

    def read(self, text: str) -> list[int]:
        """Return the ascending 1-based positions of a text that begins with a word of place."""
        return self.positions([i + 1 for i in self.geometry.read(text)])

    @cached_property
    def _position(self) -> dict[int, int]:
        return {residue + 1: i for i, residue in enumerate(self.at, 1)}

    def positions(self, residues: Sequence[int]) -> list[int]:
        """Return the ascending positions that some residues are, all 1-based; some are none."""
        return sorted(self._position[i] for i in residues if i in self._position)

    def lacks(self, residue: int) -> str:
        """Say why a residue, 1-based, is no position."""
        return self.geometry.lacks(residue - 1)
