"""The names of positions, and the mini-language that speaks of them: "A1-56, A82A, not A10"."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from itertools import groupby
from typing import Final, NamedTuple, Protocol, Self

__all__ = ["Numbering", "ResidueError", "Surroundings", "split", "spoken"]

# what a text begins with that names residues by where they are
_WORDS: Final = tuple("within near interface surface core boundary cdr cdr1 cdr2 cdr3".split())


class ResidueError(ValueError):
    """A residue expression that cannot be read, or names what is not there."""


class Surroundings(Protocol):
    """Where positions are among the residues of a structure (`seqalign.files.places`)."""

    @property
    def residues(self) -> Numbering:
        """The names of all residues."""

    def take(self, indices: Sequence[int]) -> Self:
        """Return those of some positions, given by 0-based indices."""

    def read(self, text: str) -> list[int]:
        """Return the ascending 1-based positions of a text that begins with a word of place.

        Raises:
            ResidueError: it cannot be read, or speaks of what is not there.
        """

    def positions(self, residues: Sequence[int]) -> list[int]:
        """Return the ascending positions that some residues are, all 1-based; some are none."""

    def lacks(self, residue: int) -> str:
        """Say why a residue, 1-based, is no position."""


@dataclass(frozen=True)
class Numbering:
    """The names of L positions, always in the order of the positions, never of the numbers.

    An expression is a list of residues ("A39", "A82A" with an insertion code, "A-3", "AA12"),
    ranges ("A1-56", in file order, insertion codes between included), whole chains ("A") and any
    of these after "not". The chain can be left out where only one chain has the residue. "A:39" is
    "A39" for chains whose names end in a digit, "1:" is the chain 1.

    Positions of a structure are also named by where they are (distances in Å between heavy atoms):

    - "within 6 of B", "within 5 of A39", "within 8 of A39-45": what is around, and not B itself.
    - "near ZN", "near NAG A102", "near ligand" (or ion, sugar, nucleic): within 5 of what stands
      beside the chains; "within 4 of ZN" for another distance.
    - "interface A B": residues of either within 5 of the other; "interface A": with all else.
    - "core", "boundary", "surface": by the neighbors in the cone of the side chain (more than 5.2,
      fewer than 2); "core 4" for another number, which small domains need; "surface of A" for the
      chain alone.
    - "cdr imgt H", "cdr3 kabat heavy H", "cdr chothia light L": loops of an antibody, by the
      numbers of the file in the scheme that is named; without a chain those of H and L.

    Case does not matter to these words. A chain that has such a name is written "surface:".

    Attributes:
        chains: L chain names; "" for a chain without one.
        numbers: L numbers as text, with the insertion code: "39", "82A", "-3".
        places: where the positions are; None without a structure. Two numberings with the same
            names are equal wherever they are.
    """

    chains: tuple[str, ...]
    numbers: tuple[str, ...]
    places: Surroundings | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.chains) != len(self.numbers):
            raise ResidueError(
                f"Numbering: {len(self.chains)} chains and {len(self.numbers)} numbers; every "
                f"position needs both."
            )
        for chain in set(self.chains):
            if re.search(r"[\s,:]", chain):
                raise ResidueError(
                    f"Numbering: chain {chain!r} holds white space, a comma or a colon; rename it."
                )
        seen: dict[tuple[str, str], int] = {}
        for i, (chain, number) in enumerate(zip(self.chains, self.numbers, strict=True), 1):
            if not re.fullmatch(r"(0|-?[1-9][0-9]*)[A-Za-z]?", number):
                raise ResidueError(
                    f"Numbering: position {i} is numbered {number!r}; a number is digits, perhaps "
                    f"a minus before and a letter behind."
                )
            j = seen.setdefault((chain, number), i)
            if j != i:
                raise ResidueError(
                    f"Numbering: positions {j} and {i} are both {chain}{number}; give them "
                    f"different names, or use numbering='index'."
                )

    def __len__(self) -> int:
        return len(self.numbers)

    @classmethod
    def plain(cls, length: int) -> Numbering:
        """Return the numbers 1..L of one chain without a name; any one letter may stand before."""
        return cls(("",) * length, tuple(str(i) for i in range(1, length + 1)))

    def take(self, indices: Sequence[int]) -> Numbering:
        """Return the names of some positions, given by 0-based indices."""
        return Numbering(
            tuple(self.chains[i] for i in indices),
            tuple(self.numbers[i] for i in indices),
            None if self.places is None else self.places.take(indices),
        )

    def name(self, index: int) -> str:
        """Return the name of the position with this 1-based index, as `positions` reads it."""
        if not 1 <= index <= len(self):
            raise ResidueError(f"There is no position {index}; there are 1-{len(self)}.")
        return self._join(self.chains[index - 1], self.numbers[index - 1])

    def _join(self, chain: str, number: str) -> str:
        if set(self._chains) == {""}:
            return number
        return f"{chain}{number}" if self._simple else f"{chain}:{number}"

    @cached_property
    def _simple(self) -> bool:
        """Whether chains are letters: then digits, and nobody can read that in two ways."""
        return all(re.fullmatch("[A-Za-z]+", c) for c in self._chains)

    @cached_property
    def _chains(self) -> dict[str, dict[str, int]]:
        """Chain -> number -> 1-based index, both in file order."""
        table: dict[str, dict[str, int]] = {}
        for i, (chain, number) in enumerate(zip(self.chains, self.numbers, strict=True), 1):
            table.setdefault(chain, {})[number] = i
        return table

    @cached_property
    def _by_name(self) -> dict[str, int]:
        """Name -> 1-based index, where a whole name can mean nothing else."""
        return {self.name(i): i for i in range(1, len(self) + 1)} if self._simple else {}

    def positions(
        self,
        expression: str | Sequence[int] | Sequence[str],
        where: str = "positions",
        absent: bool = False,
    ) -> tuple[int, ...]:
        """Return the 1-based indices an expression names, sorted; blank text names none.

        A text that begins with "not" starts from all positions. `where` opens the message. With
        `absent`, residues of the structure that are no positions may be named, and say nothing.

        Raises:
            ResidueError: the text cannot be read, can be read in two ways, names a residue or
                chain that is not there, or leaves nothing.
        """
        parts = split(expression)
        if parts and not len(self):
            shown = _shown(", ".join(parts))
            raise ResidueError(f"{where}: {shown} names residues, and there are none.")
        chosen: set[int] = set()
        removed: set[int] = set()
        quiet = False
        for k, part in enumerate(parts):
            negative = re.match(r"(?i:not)\s+", part)
            if negative and k == 0:
                chosen.update(range(1, len(self) + 1))
            text = part[negative.end() :] if negative else part
            _refuse_comma(parts[k - 1 : k + 1], self._chains, where)
            found = self._read(text, part, where, absent or bool(negative))
            quiet = quiet or not (found or negative or spoken(text))
            (removed if negative else chosen).update(found)
        if parts and not chosen - removed and not (absent and quiet and not chosen):
            nobody = " (no position is there)" if not chosen and any(map(spoken, parts)) else ""
            raise ResidueError(
                f"{where}: {_shown(', '.join(parts))} leaves no residue{nobody}. There are "
                f"{self._extent()}."
            )
        return tuple(sorted(chosen - removed))

    def names(self, indices: Sequence[int]) -> str:
        """Return ascending 1-based indices as the shortest text that `positions` reads as them."""
        runs = groupby(enumerate(indices), lambda pair: (pair[1] - pair[0], self._of(pair[1])))
        parts = []
        for _, run in runs:
            some = [i for _, i in run]
            text = f"{self.name(some[0])}-{self.numbers[some[-1] - 1]}"
            try:
                whole = len(some) > 1 and self.positions(text) == tuple(some)
            except ResidueError:
                whole = False
            parts += [text] if whole else [self.name(i) for i in some]
        return ", ".join(parts)

    def _of(self, index: int) -> str:
        return self.chains[index - 1]

    def _read(self, text: str, part: str, where: str, absent: bool) -> Sequence[int]:
        """Return the indices of one part, which must be readable in exactly one way."""
        places = self.places
        if places is None:
            return self._plainly(text, part, where)
        if spoken(text) and not self._readings(text).found:
            try:
                return places.read(text)
            except ResidueError as error:
                raise ResidueError(f"{where}: {error}") from None
        # all residues of the file are read, so that names mean the same whatever can be designed
        there = places.residues._plainly(text, part, where)
        found = places.positions(there)
        if not found and not absent:
            raise ResidueError(f"{where}: {places.lacks(there[0])}. Leave it out.")
        return found

    def _plainly(self, text: str, part: str, where: str) -> Sequence[int]:
        """Return the indices that names of residues and chains mean."""
        found, reversed_range, crossing = self._readings(text)
        word = spoken(text)
        if len(found) > 1:
            raise ResidueError(
                f"{where}: {_shown(part)} can be read as {' or '.join(list(found)[:4])}; write "
                f"the one you mean like this, with the colon."
            )
        if found:
            return next(iter(found.values()))
        if word is not None:
            raise ResidueError(
                f"{where}: {_shown(part)} names residues by where they are, and there is no "
                f"structure. Give one (input.structure), or name the residues."
            )
        likely = meant(text)
        if likely is not None:
            raise ResidueError(f"{where}: cannot read {_shown(part)}. Did you mean {likely!r}?")
        if reversed_range:
            chain, low, high = reversed_range
            raise ResidueError(
                f"{where}: {_shown(part)} runs backward: in the file {low} stands before {high}. "
                f"Did you mean {self._join(chain, low)}-{high}?"
            )
        if crossing:
            (a, first), (b, last) = crossing
            raise ResidueError(
                f"{where}: {_shown(part)} runs from chain {a or 'without a name'} into chain "
                f"{b or 'without a name'}; write one range per chain, as "
                f"{self._join(a, first)}-{list(self._chains[a])[-1]}, "
                f"{self._join(b, next(iter(self._chains[b])))}-{last}."
            )
        raise ResidueError(f"{where}: {self._why(text, part)}")

    def _readings(self, text: str) -> _Readings:
        """Return every way to read a text as a chain, a residue or a range."""
        found: dict[str, list[int]] = {}
        if text in self._by_name:
            found[text] = [self._by_name[text]]
            return _Readings(found, None, None)
        for chain in self._chains:
            if text in (chain, f"{chain}:") and text:
                found[f"{chain}:"] = list(self._chains[chain].values())
        for chain, number in self._residues(text):
            found[f"{chain}:{number}"] = [self._chains[chain][number]]
        reversed_range = crossing = None
        for dash in re.finditer("-", text):
            left, right = text[: dash.start()].strip(), text[dash.end() :].strip()
            if not left or not right:
                continue
            starts = list(self._residues(left))
            # a bare number after the dash is in the chain before it
            ends = [(c, n) for c, _ in starts if (n := self._number(c, right))]
            if ":" not in left or ":" in right:
                ends += [e for e in self._residues(right) if e not in ends]
            pairs = [(a, b) for a in starts for b in ends if a[0] == b[0]]
            if starts and ends and not pairs and crossing is None:
                crossing = starts[0], ends[0]
            for (chain, first), (_, last) in pairs:
                lo, hi = self._chains[chain][first], self._chains[chain][last]
                if lo > hi:
                    reversed_range = (chain, last, first)
                    continue
                inside = self._chains[chain].values()
                found[f"{chain}:{first}-{last}"] = [i for i in inside if lo <= i <= hi]
        return _Readings(found, reversed_range, crossing)

    def _number(self, chain: str, text: str) -> str | None:
        """Return the number as the chain has it, or None; leading zeros do not count."""
        numbers = self._chains[chain]
        if text in numbers:
            return text
        short = re.sub(r"^(-?)0+(?=[0-9])", r"\1", text)
        return short if short in numbers else None

    def _residues(self, text: str) -> Iterator[tuple[str, str]]:
        """Yield every (chain, number) that this text can name."""
        if ":" in text:
            chain, _, rest = text.partition(":")
            if chain in self._chains and (number := self._number(chain, rest.strip())):
                yield chain, number
            return
        yield from (
            (chain, number)
            for chain in self._chains
            if chain and text.startswith(chain)
            if (number := self._number(chain, text[len(chain) :].strip()))
        )
        if set(self._chains) == {""} and re.match("[A-Za-z]", text):
            text = text[1:].strip()
        bare = [(chain, n) for chain in self._chains if (n := self._number(chain, text))]
        if len(bare) == 1:
            yield bare[0]

    def _extent(self) -> str:
        """Say what is there: chain A: 1-56; chain B: 3-60."""
        if set(self._chains) == {""}:
            numbers = list(self._chains[""])
            return f"positions {numbers[0]}-{numbers[-1]}"
        spans = []
        for chain, table in list(self._chains.items())[:8]:
            numbers = list(table)
            spans.append(f"{self._join(chain, numbers[0])}-{numbers[-1]}")
        more = ", ..." if len(self._chains) > 8 else ""
        return f"residues {', '.join(spans)}{more}"

    def _why(self, text: str, part: str) -> str:
        """Say why nothing answers to a text, and what was likely meant."""
        shown = _shown(part)
        forms = (
            "Write residues as A12, A82A, A1-56, a chain as A, or any of them after 'not ', "
            "separated by commas."
        )
        if set(self._chains) == {""}:
            forms = forms.replace("a chain as A, ", "").replace("A12, A82A, A1-56", "12, A12, 1-5")
        number = r"-?[0-9]+[A-Za-z]?"
        prefix = r"(?:[A-Za-z0-9_-]*?:?)"
        match = re.fullmatch(rf"({prefix})\s*({number})(?:\s*-\s*({prefix})\s*({number}))?", text)
        if match is None or len(text) > 60:
            named = re.fullmatch(r"([A-Za-z0-9]{1,4}):?", text)
            if named and set(self._chains) - {""}:
                return f"there is no chain {named[1]!r}{self._chain_hint(named[1])}"
            return f"cannot read {shown}. {forms}"
        ends = [(match[1], match[2])]
        if match[4] is not None:
            ends.append((match[3] or match[1], match[4]))
        for given, wanted in ends:
            chain = given.rstrip(":")
            if set(self._chains) == {""} and re.fullmatch("[A-Za-z]?", chain):
                chain = ""
            if given and chain not in self._chains:
                if set(self._chains) == {""}:
                    return f"cannot read {shown}. {forms}"
                return f"{shown} names chain {chain!r}, which is not there{self._chain_hint(chain)}"
            homes = [chain] if given else list(self._chains)
            there = [c for c in homes if self._number(c, wanted)]
            if len(there) > 1:
                choices = " or ".join(self._join(c, wanted) for c in there[:4])
                return f"{shown} is in several chains; write {choices}."
            if not there:
                if set(self._chains) == {""}:
                    return f"{shown} is outside {self._extent()}."
                return self._missing(shown, homes, wanted)
        return f"cannot read {shown}. {forms}"

    def _chain_hint(self, chain: str) -> str:
        near = [c for c in self._chains if c.lower() == chain.lower()]
        hint = f" Did you mean {near[0]}?" if near else ""
        names = [c or "(no name)" for c in self._chains]
        more = ", ..." if len(names) > 12 else ""
        plural = "chains are" if len(names) > 1 else "chain is"
        return f"; the {plural} {', '.join(names[:12])}{more}.{hint}"

    def _missing(self, shown: str, homes: list[str], wanted: str) -> str:
        """Say that a number is not there, with the range that is and the likely meant one."""
        match = re.fullmatch(r"(-?[0-9]+)([A-Za-z]?)", wanted)
        assert match is not None
        # int() refuses thousands of digits; no residue has them
        number = int(match[1][:12])
        where = self._extent()
        if len(homes) == 1:
            numbers = list(self._chains[homes[0]])
            name = f"chain {homes[0]}" if homes[0] else "the chain without a name"
            where = f"{name} has residues {numbers[0]}-{numbers[-1]}"
        else:
            where = f"there are {where}"
        hint = ""
        for chain in homes:
            numbers = list(self._chains[chain])
            same = [n for n in numbers if re.fullmatch(rf"{re.escape(match[1])}[A-Za-z]", n)]
            plain = self._number(chain, match[1])
            order = [int(re.sub("[A-Za-z]", "", n)) for n in numbers]
            if same and not match[2]:
                hint = f" Did you mean {' or '.join(self._join(chain, n) for n in same[:4])}?"
            elif plain and match[2]:
                hint = f" There is {self._join(chain, plain)}, without the insertion code."
            else:
                if min(order) < number < max(order):
                    below = max((o, k) for k, o in enumerate(order) if o < number)[1]
                    above = min((o, k) for k, o in enumerate(order) if o > number)[1]
                    hint = (
                        f" The file has no residue between {self._join(chain, numbers[below])} "
                        f"and {self._join(chain, numbers[above])}."
                    )
                if 1 <= number <= len(numbers):
                    meant = self._join(chain, numbers[number - 1])
                    hint += f" Counted from 1, residue {number} is {meant}; did you mean that?"
            if hint:
                break
        if not hint:
            others = [c for c in self._chains if c not in homes and self._number(c, wanted)]
            if others:
                hint = f" Did you mean {self._join(others[0], wanted)}?"
            else:
                chain = homes[0]
                numbers = list(self._chains[chain])
                order = [int(re.sub("[A-Za-z]", "", n)) for n in numbers]
                nearest = min(range(len(order)), key=lambda i: abs(order[i] - number))
                hint = f" The nearest is {self._join(chain, numbers[nearest])}."
        return f"{shown} is not in the structure: {where}.{hint}"


def spoken(text: str) -> str | None:
    """Return the word of place that a text begins with, in lower case, or None."""
    first = re.match(r"[A-Za-z]+[0-9]?(?![^\s])", text)
    word = first[0].lower() if first else ""
    return word if word in _WORDS else None


def meant(text: str) -> str | None:
    """Return a text with the word of place that its first word is likely meant to be, or None."""
    first = re.match(r"[A-Za-z]{3,}(?![^\s])", text)
    near = get_close_matches(first[0].lower(), _WORDS, 1, 0.75) if first else []
    return near[0] + text[first.end() :] if first and near else None


class _Readings(NamedTuple):
    """The ways to read a text, and what is wrong if there is none."""

    found: dict[str, list[int]]
    reversed_range: tuple[str, str, str] | None
    crossing: tuple[tuple[str, str], tuple[str, str]] | None


def split(expression: str | Sequence[int] | Sequence[str]) -> list[str]:
    """Return the parts of an expression: what stands between commas that are not in quotes."""
    text = expression if isinstance(expression, str) else ",".join(str(i) for i in expression)
    commas = r',(?=(?:[^"]*"[^"]*")*[^"]*$)' if text.count('"') % 2 == 0 else ","
    return [p for p in (p.strip() for p in re.split(commas, text)) if p]


def _refuse_comma(pair: Sequence[str], chains: dict[str, dict[str, int]], where: str) -> None:
    """Refuse "interface A, B", which would be the interface of A and the whole of B."""
    if len(pair) == 2 and pair[1] in chains:
        chain = re.fullmatch(r"(?i:interface)\s+([^\s]+)", pair[0])
        if chain and chain[1].removesuffix(":") in chains:
            raise ResidueError(
                f"{where}: {_shown(', '.join(pair))} would be the interface of {chain[1]} and all "
                f"of {pair[1]}. Write interface {chain[1]} {pair[1]} without the comma, or "
                f"{pair[1]}: for the whole chain."
            )


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
