"""The names of positions, and the mini-language that speaks of them: "A1-56, A82A, not A10"."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

__all__ = ["Numbering", "ResidueError", "mutations"]


class ResidueError(ValueError):
    """A residue expression that cannot be read, or names what is not there."""


@dataclass(frozen=True)
class Numbering:
    """The names of L positions, always in the order of the positions, never of the numbers.

    An expression is a list of residues ("A39", "A82A" with an insertion code, "A-3", "AA12"),
    ranges ("A1-56", in file order, insertion codes between included), whole chains ("A") and any
    of these after "not". The chain can be left out where only one chain has the residue. "A:39" is
    "A39" for chains whose names end in a digit, "1:" is the chain 1.

    Attributes:
        chains: L chain names; "" for a chain without one.
        numbers: L numbers as text, with the insertion code: "39", "82A", "-3".
    """

    chains: tuple[str, ...]
    numbers: tuple[str, ...]

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
            tuple(self.chains[i] for i in indices), tuple(self.numbers[i] for i in indices)
        )

    def name(self, index: int) -> str:
        """Return the name of the position with this 1-based index, as `positions` reads it."""
        if not 1 <= index <= len(self):
            raise ResidueError(f"There is no position {index}; there are 1-{len(self)}.")
        return self._join(self.chains[index - 1], self.numbers[index - 1])

    def _join(self, chain: str, number: str) -> str:
        if set(self._chains) == {""}:
            return number
        # letters, then digits: nobody can read that in two ways
        simple = all(re.fullmatch("[A-Za-z]+", c) for c in self._chains)
        return f"{chain}{number}" if simple else f"{chain}:{number}"

    @cached_property
    def _chains(self) -> dict[str, dict[str, int]]:
        """Chain -> number -> 1-based index, both in file order."""
        table: dict[str, dict[str, int]] = {}
        for i, (chain, number) in enumerate(zip(self.chains, self.numbers, strict=True), 1):
            table.setdefault(chain, {})[number] = i
        return table

    def positions(
        self, expression: str | Sequence[int] | Sequence[str], where: str = "positions"
    ) -> tuple[int, ...]:
        """Return the 1-based indices an expression names, sorted; blank text names none.

        A text that begins with "not" starts from all positions. `where` opens the message.

        Raises:
            ResidueError: the text cannot be read, can be read in two ways, names a residue or
                chain that is not there, or leaves nothing.
        """
        if not isinstance(expression, str):
            expression = ",".join(str(i) for i in expression)
        parts = [p for p in (p.strip() for p in expression.split(",")) if p]
        if parts and not len(self):
            raise ResidueError(f"{where}: {_shown(expression)} names residues, and there are none.")
        chosen: set[int] = set()
        removed: set[int] = set()
        for k, part in enumerate(parts):
            negative = re.match(r"(?i:not)\s+", part)
            if negative and k == 0:
                chosen.update(range(1, len(self) + 1))
            text = part[negative.end() :] if negative else part
            (removed if negative else chosen).update(self._read(text, part, where))
        if parts and not chosen - removed:
            raise ResidueError(
                f"{where}: {_shown(expression)} leaves no residue. There are {self._extent()}."
            )
        return tuple(sorted(chosen - removed))

    def _read(self, text: str, part: str, where: str) -> range | list[int]:
        """Return the indices of one part, which must be readable in exactly one way."""
        found: dict[str, range | list[int]] = {}
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
            crossing = crossing or (starts and ends and not pairs and (starts[0], ends[0]))
            for (chain, first), (_, last) in pairs:
                lo, hi = self._chains[chain][first], self._chains[chain][last]
                if lo > hi:
                    reversed_range = (chain, last, first)
                    continue
                inside = self._chains[chain].values()
                found[f"{chain}:{first}-{last}"] = [i for i in inside if lo <= i <= hi]
        if len(found) > 1:
            raise ResidueError(
                f"{where}: {_shown(part)} can be read as {' or '.join(list(found)[:4])}; write "
                f"the one you mean like this, with the colon."
            )
        if found:
            return next(iter(found.values()))
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


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def mutations(sequence: str, wild_type: str, residues: Sequence[str] | None = None) -> list[str]:
    """Return mutations such as V39A: wild type, residue (by default counted from 1), letter."""
    if len(sequence) != len(wild_type):
        raise ValueError(
            f"A design of {len(sequence)} letters cannot be compared with a wild type of "
            f"{len(wild_type)}."
        )
    residues = residues or [str(i) for i in range(1, len(wild_type) + 1)]
    return [f"{w}{i}{a}" for i, a, w in zip(residues, sequence, wild_type, strict=True) if a != w]
