"""The sequences a gene is ordered from: one record per designed chain, every letter accounted for.

Tables, FASTA files, plates, DNA and `score` print and read designs through this one notion:

- context chains are no part of it, and copies of a chain (a homo-oligomer) are one record;
- residues that no design changes keep their letter, also where their backbone is not whole;
- "X" stands where the chain is broken in space (C-N distance) and nobody knows the letters, as many
  as the numbers say, at least one; or for a residue without a standard letter. Never for a jump in
  the numbers of an unbroken chain.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from seqalign.files.mpnn_numbering import indices
from seqalign.files.numbering import Numbering
from seqalign.files.structure import JUMP, Structure

__all__ = ["Orderable", "Record"]


@dataclass(frozen=True)
class Record:
    """One chain as it is ordered.

    Attributes:
        chains: its name in the file, and those of its copies; "" where there are no names.
        places: per letter the 0-based position of the model, or a letter that no design changes.
        numbers: per letter its number, with a lower-case insertion code: "52a"; "" without atoms.
    """

    chains: tuple[str, ...]
    places: tuple[int | str, ...]
    numbers: tuple[str, ...]

    @property
    def name(self) -> str:
        """The names of the chain and its copies, joined by "=": "A", "A=B"."""
        return "=".join(self.chains)

    def letters(self, positions: str) -> str:
        """Return the letters of the chain from those of all positions."""
        return "".join(positions[p] if isinstance(p, int) else p for p in self.places)

    def unknown(self) -> list[str]:
        """Return where the letters are not known, in words: "3 residues after A9"."""
        chain = self.chains[0]
        # "1:368": digits behind digits would be read as one number
        chain += ":" * (chain != "" and not chain.isalpha())
        found = []
        at = 0
        for odd, run in groupby(self.places, lambda p: p == "X"):
            size = len(list(run))
            if odd:
                named = [chain + n for n in self.numbers[at : at + size] if n]
                before = [chain + n for n in self.numbers[:at] if n]
                where = (
                    f"at {', '.join(named)}" if named else f"after {(before or ['the start'])[-1]}"
                )
                found.append(f"{size} residue{'s' * (size > 1)} {where}")
            at += size
        return found


@dataclass(frozen=True)
class Orderable:
    """How the positions of a model are printed as chains, and read back.

    Attributes:
        name: of the structure, fit for a FASTA header; "" without one.
        records: the designed chains, by name.
        designed: their names in the order of the file, copies too.
        context: the chains that are only seen.
        base: a letter per position of the model, the mask symbol where it is open.
        copies: pairs of 0-based positions (that is read, of which it is a copy).
    """

    name: str
    records: tuple[Record, ...]
    designed: tuple[str, ...]
    context: tuple[str, ...]
    base: str
    copies: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(
        cls,
        base: str,
        numbering: Numbering,
        structure: Structure | None = None,
        ties: Sequence[Sequence[int]] = (),
        mask: str = "_",
    ) -> Orderable:
        """Return how a model's designs are ordered.

        Args:
            base: a letter per position, `mask` where it is open.
            numbering: the names of the positions.
            structure: the backbone; its known residues are the positions.
            ties: groups of 1-based positions that take one letter.
            mask: the letter of an open position.
        """
        if structure is None:
            # a chain is all that has its name
            name, context = "", tuple[str, ...]()
            records = [
                Record((chain,), tuple(some), tuple(numbering.numbers[i].lower() for i in some))
                for chain, some in _by_chain(numbering.chains).items()
            ]
        else:
            name = re.sub(r"[^\w.+-]+", "_", structure.name).strip("_") or "structure"
            seen = structure.numbering.chains
            designs = {c for c, may in zip(seen, structure.design.tolist(), strict=True) if may}
            context = tuple(c for c in dict.fromkeys(seen) if c not in designs)
            records = [_record(structure, chain) for chain in sorted(designs)]
        merged, copies = _merged(records, base, ties, mask)
        names = dict.fromkeys(numbering.chains if structure is None else seen)
        designed = tuple(c for c in names if c not in context)
        return cls(name, merged, designed, context, base, copies)

    @classmethod
    def by_numbers(cls, base: str, structure: Structure) -> Orderable:
        """Return how ProteinMPNN prints the same designs: each gap in the numbers is an X."""
        position = {residue + 1: p for p, residue in enumerate(structure.known.tolist())}
        own = cls.of(base, structure.known_numbering, structure)
        records = []
        for chain, row in sorted(indices(structure.numbering).items()):
            places = tuple(position.get(i or 0, "X") for i in row)
            if chain in own.designed:
                records.append(Record((chain,), places, ("",) * len(places)))
        return replace(own, records=tuple(records), copies=())

    @property
    def sizes(self) -> list[int]:
        """The letters of each record."""
        return [len(record.places) for record in self.records]

    @property
    def labels(self) -> list[str]:
        """The first chain of each record, fit for the name of a column or file; all different."""
        found: list[str] = []
        for record in self.records:
            first = label = re.sub(r"[^\w-]+", "_", record.chains[0])
            n = 1
            while label in found or (not label and len(self.records) > 1):
                n += 1
                label = f"{first}{n}"
            found.append(label)
        return found

    def ids(self, design: str) -> list[str]:
        """Return the id of each record of a design: d0001, or d0001_A and d0001_B."""
        return [f"{design}_{label}" if len(self.records) > 1 else design for label in self.labels]

    def chains(self, positions: str) -> dict[str, str]:
        """Return the letters of each record by its name, from those of all positions."""
        return {record.name: record.letters(positions) for record in self.records}

    def text(self, positions: str) -> str:
        """Return the records joined by "/", from the letters of all positions."""
        return "/".join(self.chains(positions).values())

    def split(self, text: str) -> dict[str, str]:
        """Return the letters of each record by its name, from what `text` gave."""
        return dict(zip((r.name for r in self.records), text.split("/"), strict=True))

    def letters(self, text: str) -> str:
        """Return the letters of all positions from records joined by "/".

        Raises:
            ValueError: the chains have other lengths, or a letter that no design changes is
                another; a sentence without a head.
        """
        parts = text.split("/")
        if [len(part) for part in parts] != self.sizes:
            pairs = zip(self.records, self.sizes, strict=True)
            want = ", ".join(f"{r.name or 'no name'} {n}" for r, n in pairs)
            raise ValueError(
                f"has {' / '.join(str(len(part)) for part in parts)} letters, but the designed "
                f"chains{f' of {self.name}' if self.name else ''} are {want} (joined by '/')"
            )
        found = list(self.base)
        for record, part in zip(self.records, parts, strict=True):
            for n, (place, letter) in enumerate(zip(record.places, part, strict=True), 1):
                if isinstance(place, int):
                    found[place] = letter
                elif letter not in (place, "X", "-"):
                    there = "no residue" if place == "X" else f"{place!r} and no whole backbone"
                    raise ValueError(
                        f"has {letter!r} as letter {n} of chain {record.name or 'without a name'}, "
                        f"where {self.name} has {there} to design; write {place}"
                    )
        for copy, origin in self.copies:
            found[copy] = found[origin]
        return "".join(found)

    @property
    def _several(self) -> bool:
        """Whether a number alone may be that of another chain, one that is only seen or a copy."""
        return len(self.records) + len(self.context) > 1

    def mutations(self, positions: str, wild_type: str) -> list[str]:
        """Return what changed, "S52aF", or "A:S52aF" where the structure has several chains."""
        several = self._several
        return [
            f"{f'{r.chains[0]}:' * several}{wild_type[p]}{number}{positions[p]}"
            for r in self.records
            for p, number in zip(r.places, r.numbers, strict=True)
            if isinstance(p, int) and positions[p] != wild_type[p]
        ]

    def mutated(self, positions: str, wild_type: str) -> str:
        """Return the mutations as one text: V39A:D40G, or A:V39A+B:D40G of several chains."""
        joint = "+" if self._several else ":"
        return joint.join(self.mutations(positions, wild_type))

    def cures(self, filled: bool) -> list[str]:
        """Return what makes unknown letters known, in words; `filled`: input.fill was said."""
        places, found = " ".join(w for some in self.unknown().values() for w in some), []
        if " after " in places:
            cure = "give a structure that has" if filled else "say input.fill: seqres for"
            found.append(f"{cure} residues without atoms, where the file has their letters")
        if " at " in places:
            found.append("say input.map for a residue without a letter, such as {SEP: S}")
        return found

    def unknown(self) -> dict[str, list[str]]:
        """Return where letters are not known, in words, by record; records without such are not."""
        return {r.name: found for r in self.records if (found := r.unknown())}


def _by_chain(chains: Sequence[str]) -> dict[str, list[int]]:
    """Return the 0-based indices of each chain."""
    found: dict[str, list[int]] = {}
    for i, chain in enumerate(chains):
        found.setdefault(chain, []).append(i)
    return found


def _record(structure: Structure, chain: str) -> Record:
    """Return a chain of a structure, with what stands between its residues."""
    position = {residue: p for p, residue in enumerate(structure.known.tolist())}
    asked = structure.unresolved is not None
    filled = {i: text for c, i, text in structure.unresolved or () if c == chain}
    here = _by_chain(structure.numbering.chains)[chain]
    places: list[int | str] = []
    numbers: list[str] = []
    for i in [*here, here[-1] + 1]:
        broken = not asked and here[0] < i <= here[-1] and bool(structure.breaks[i])
        between = "X" * _missing(structure, i) if broken else filled.get(i, "")
        places += between
        numbers += [""] * len(between)
        if i <= here[-1]:
            places.append(position.get(i, structure.sequence[i]))
            numbers.append(structure.numbering.numbers[i].lower())
    return Record((chain,), tuple(places), tuple(numbers))


def _missing(structure: Structure, i: int) -> int:
    """Return how many residues the numbers say are missing before residue i, at least one."""
    step = int(structure.residue_index[i] - structure.residue_index[i - 1])
    return step - 1 if 1 < step and step != JUMP else 1


def _merged(
    records: Sequence[Record], base: str, ties: Sequence[Sequence[int]], mask: str
) -> tuple[tuple[Record, ...], tuple[tuple[int, int], ...]]:
    """Return the records with those that every design makes equal as one, and who copies whom."""
    group = {i - 1: g for g, some in enumerate(ties) for i in some}

    def alike(a: int | str, b: int | str) -> bool:
        if "X" in (a, b):
            return True
        one, other = (base[p] if isinstance(p, int) else p for p in (a, b))
        if mask not in (one, other):
            return one == other
        return isinstance(a, int) and isinstance(b, int) and group.get(a, -1) == group.get(b, -2)

    kept: list[Record] = []
    copies: list[tuple[int, int]] = []
    for record in records:
        # a chain without an open letter is nobody's copy: it is there because it was asked for
        is_open = any(isinstance(p, int) and base[p] == mask for p in record.places)
        twins = (
            k
            for k, other in enumerate(kept)
            if is_open and len(other.places) == len(record.places)
            if all(map(alike, other.places, record.places))
        )
        if (k := next(twins, None)) is None:
            kept.append(record)
            continue
        # what one of them lacks the other may have
        pairs = list(zip(kept[k].places, record.places, strict=True))
        copies += [(b, a) for a, b in pairs if isinstance(a, int) and isinstance(b, int)]
        places = tuple(b if a == "X" else a for a, b in pairs)
        numbers = zip(kept[k].numbers, record.numbers, strict=True)
        named = tuple(one or other for one, other in numbers)
        kept[k] = Record((*kept[k].chains, *record.chains), places, named)
    return tuple(kept), tuple(copies)
