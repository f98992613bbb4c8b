"""Variants as people write them, read against a wild type: A1L, A:S52aF, p.Val39Ala, WT, Combo.

A variant is a list of mutations: V39A, chain forms A:V39A and VA39A, insertion codes S52aF, three
letters Val39Ala, all in either case, joined by ":" "," ";" "+" "/" "_" or white space, and
HGVS p.(Val39Ala) or p.[Val39Ala;Asp40Gly]. Numbers are those of the campaign. Letters alone are a
Combo, one letter per designed position in order, or the whole sequence. Whatever is no
substitution (deletion, insertion, stop, frameshift) is refused in words.

References:
    den Dunnen et al., "HGVS recommendations for the description of sequence variants", Human
    Mutation 2016, doi 10.1002/humu.22981.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from seqalign.files.numbering import Numbering, ResidueError
from seqalign.files.residues import LETTERS, standard_letters

__all__ = [
    "Mutation", "NotAVariant", "Offset", "VariantError", "Variants", "WrongWildType",
    "is_wild_type",
]  # fmt: skip

_ONE = re.compile(r"([A-Za-z])(-?[0-9]{1,9})([A-Za-z]?)([A-Za-z=*])")
_CHAIN_INSIDE = re.compile(r"([A-Za-z])([A-Za-z]{1,3})(-?[0-9]{1,9})([A-Za-z]?)([A-Za-z])")
_THREE = re.compile(r"([A-Za-z]{3})(-?[0-9]{1,9})([A-Za-z]?)([A-Za-z]{3}|[=*])")
# HGVS and the words of tables, the longer before what it contains
_OTHER: Final = (
    (r"delins|indel", "exchanges a stretch for another"),
    (r"fs|frameshift", "is a frameshift"),
    (r"dup", "is a duplication"),
    (r"ins", "is an insertion"),
    (r"del|[Δ∆]", "is a deletion"),
    (r"ext", "is an extension"),
    (r"ter\b|stop|[*]|nonsense", "is a stop codon"),
    (r"\?|xaa", "is an unknown change"),
)
_PLACE = re.compile(r"[A-Za-z]{0,3}-?[0-9]+")
_NUCLEOTIDES = re.compile(r"(?:^|:)[cgmnr]\.|[0-9][ACGTU]>[ACGTU]")
# "p." of HGVS, perhaps after a reference sequence: NP_000509.1:p.Glu7Val
_PREFIX = re.compile(r"(?:\b(?:[NXY]P_[0-9.]+|ENS[A-Z]*P[0-9.]+|LRG_\w+):)?\bp\.")
_WORDS: Final = {"wt", "wildtype", "none", "p=", "="}


class VariantError(ValueError):
    """A variant that says something else than substitutions of this wild type."""


class NotAVariant(VariantError):
    """A text that says nothing about residues: a name, or a change of DNA."""


class WrongWildType(VariantError):
    """A variant whose place or wild-type letter is not that of the campaign: other numbers?"""


@dataclass(frozen=True)
class Mutation:
    """A substitution as it is written.

    Attributes:
        chain: None where none is named.
        number: in the numbers of the text.
        code: insertion code, in the case it is written.
        wild: the letter that should be there.
        letter: the letter that replaces it.
    """

    chain: str | None
    number: int
    code: str
    wild: str
    letter: str

    def __str__(self) -> str:
        chain = f"{self.chain}:" if self.chain else ""
        return f"{chain}{self.wild}{self.number}{self.code}{self.letter}"


@dataclass(frozen=True)
class Offset:
    """What the numbers of a file lack: `fitting` of its `variants` would fit with `by` added."""

    by: int
    fitting: int
    variants: int

    def __str__(self) -> str:
        whole = self.fitting == self.variants
        some = f"all {self.fitting:,}" if whole else f"{self.fitting:,} of the {self.variants:,}"
        cure = f"add {self.by} to" if self.by > 0 else f"subtract {-self.by} from"
        return (
            f"{some} variants of this file would fit with an offset of {self.by:+d}: {cure} the "
            "numbers"
        )


def _inside(text: str) -> str:
    """Return what brackets around a text hold."""
    while match := re.fullmatch(r"\[([^\[\]]*)\]|\(([^()]*)\)", text):
        text = match[1] or match[2] or ""
    return text


def is_wild_type(text: str) -> bool:
    """Whether a text names the wild type: WT, _wt, wild type, p.=, none."""
    # _sy is Enrich2's word for a change of DNA that leaves the protein as it is
    return text == "_sy" or re.sub(r"[\s_.()\[\]-]", "", text.casefold()) in _WORDS


@dataclass(frozen=True)
class Variants:
    """Reads variants of a wild type.

    Attributes:
        numbering: the names of the L positions.
        wild_type: L letters.
        free: the 0-based designed positions.
        ties: groups of 0-based positions that take one letter: what a variant says of one holds
            for the others, and a Combo has one letter for them.
        alphabet: the letters that may be.
    """

    numbering: Numbering
    wild_type: str
    free: tuple[int, ...]
    ties: tuple[tuple[int, ...], ...] = ()
    alphabet: str = LETTERS

    def letters(self, text: str) -> str:
        """Return the L letters of a variant.

        Raises:
            NotAVariant: the text says nothing about residues.
            WrongWildType: a residue is not there or has another letter.
            VariantError: it is no list of substitutions.
        """
        text = text.strip()
        alone = text.isascii() and text.isalpha()
        sizes = (len(self.sites), len(self.wild_type))
        if is_wild_type(text):
            if alone and len(text) in sizes and set(text.upper()) <= set(self.alphabet):
                raise VariantError(
                    f"{text!r} is both the wild type and letters of the {len(text)} designed "
                    "positions; name the column 'Combo', or write p.= for the wild type"
                )
            return self.wild_type
        if alone and len(text) in sizes:
            return self.combo(text)
        return self._replaced(self.mutations(text))

    @cached_property
    def sites(self) -> tuple[int, ...]:
        """The 0-based positions that the letters of a Combo stand for; tied ones count once."""
        first = {i: min(group) for group in self.ties for i in group}
        return tuple(i for i in self.free if first.get(i, i) == i)

    def _with(self, letters: Mapping[int, str]) -> str:
        """Return the wild type with some letters replaced, at tied positions too."""
        found = list(self.wild_type)
        for group in self.ties:
            given = [letters[i] for i in group if i in letters]
            for i in group if given else ():
                found[i] = given[0]
        for i, letter in letters.items():
            if letter not in self.alphabet:
                raise VariantError(
                    f"the letter at {self.numbering.name(i + 1)} is {letter!r}; allowed are "
                    f"{self.alphabet}"
                )
            found[i] = letter
        return "".join(found)

    def combo(self, text: str) -> str:
        """Return the L letters of a Combo, of a whole sequence, or of the wild type by a word."""
        # upper() makes two letters of some that are not ASCII
        letters = text.upper() if text.isascii() and text.isalpha() else ""
        if len(letters) != len(self.sites) and is_wild_type(text):
            return self.wild_type
        if letters and len(letters) == len(self.wild_type):
            return self._with(dict(enumerate(letters)))
        if not letters or len(letters) != len(self.sites):
            raise VariantError(
                f"{text[:40]!r} is no Combo of this campaign: it takes {len(self.sites)} letters, "
                "one for each designed position in order"
            )
        return self._with(dict(zip(self.sites, letters, strict=True)))

    def mutations(self, text: str) -> list[Mutation]:
        """Return the substitutions a text lists.

        Raises:
            NotAVariant: the text says nothing about residues.
            VariantError: it is no list of substitutions; the message says what it is.
        """
        if _NUCLEOTIDES.search(text):
            raise NotAVariant(
                f"{text[:40]!r} is a change of DNA or RNA; give the protein's, as p.Val39Ala"
            )
        body = _inside(_PREFIX.sub("", text).strip())
        if re.search(r"\]\s*;\s*\[", body):
            raise VariantError(f"{text[:40]!r} names two alleles; give one sequence per record")
        for stretch in re.split(r"[\s:,;+/&|]+", body):
            self._refuse_other(_inside(stretch))
        found: list[Mutation] = []
        odd: list[str] = []
        chain: str | None = None
        pieces = re.split(r"([\s:,;+/&|_]+)", body)
        for piece, after in zip(map(_inside, pieces[::2]), [*pieces[1::2], ""], strict=True):
            mutation = self._mutation(piece, chain)
            if mutation is not None:
                found.append(mutation)
                chain = None
            elif after.strip() == ":" and chain is None and self._is_chain(piece):
                chain = piece
            elif piece:
                odd.append(piece)
        if chain is not None:
            odd.append(chain)
        if odd:
            kind = VariantError if found else NotAVariant  # V1 may be a name
            raise kind(
                f"cannot read {odd[0][:40]!r} as a mutation; write V39A, A:V39A or p.Val39Ala, "
                f"several joined by ':', WT, or a Combo of {len(self.sites)} letters, one for each "
                "designed position"
            )
        if not found:
            raise NotAVariant("the variant is empty; write WT where the wild type is meant")
        return found

    def _refuse_other(self, text: str) -> None:
        """Refuse what is at a place and no substitution."""
        one, three = _ONE.fullmatch(text), _THREE.fullmatch(text)
        if one and not one[3] and one[4].isalpha():
            return
        if three and {three[1].upper(), three[4].upper()} <= {*standard_letters(), "="}:
            return
        # S52fS is no frameshift where there is a residue 52F
        coded = one is not None and one[3] and f"{one[2]}{one[3]}".lower() in self._coded
        if _PLACE.search(text) and not coded:
            for words, what in _OTHER:
                if re.search(words, text, re.I):
                    raise VariantError(f"{text[:40]!r} {what}; only substitutions can be scored")
            if re.fullmatch(r"[A-Za-z]{0,3}-?[0-9]+-", text):
                raise VariantError(f"{text!r} is a deletion; only substitutions can be scored")

    def _is_chain(self, text: str) -> bool:
        """Whether a text can be the name of a chain, there or not, and no mutation gone wrong."""
        if set(self.numbering.chains) == {""}:
            return re.fullmatch("[A-Za-z]", text) is not None
        return text in self.numbering.chains or re.fullmatch("[A-Za-z]{1,4}", text) is not None

    def _mutation(self, text: str, chain: str | None) -> Mutation | None:
        """Return the substitution a text is, if it is one."""
        three = _THREE.fullmatch(text)
        if three:
            table = standard_letters()
            wild, new = table.get(three[1].upper()), table.get(three[4].upper())
            if three[4] == "=":
                new = wild
            if wild is not None and new is not None:
                return Mutation(chain, int(three[2]), three[3], wild, new)
            return None
        one = _ONE.fullmatch(text)
        if one:
            wild, new = one[1].upper(), one[4].upper()
            return Mutation(chain, int(one[2]), one[3], wild, wild if new == "=" else new)
        inside = _CHAIN_INSIDE.fullmatch(text)
        if inside and chain is None and inside[2] in self.numbering.chains:
            wild, new = inside[1].upper(), inside[5].upper()
            return Mutation(inside[2], int(inside[3]), inside[4], wild, new)
        return None

    def _replaced(self, mutations: Sequence[Mutation]) -> str:
        seen: dict[int, Mutation] = {}
        for m in mutations:
            i = self._index(m, 0)
            if i is None:
                several = (m.chain, m.number, m.code) in self._places
                raise (VariantError if several else WrongWildType)(self._absent(m))
            if self.wild_type[i] != m.wild:
                name, there = self.numbering.name(i + 1), self.wild_type[i]
                raise WrongWildType(f"the wild type at {name} is {there}, not {m.wild} as {m} says")
            if i in seen:
                raise VariantError(f"{seen[i]} and {m} are about the same residue; keep one")
            seen[i] = m
        return self._with({i: m.letter for i, m in seen.items()})

    def _absent(self, m: Mutation) -> str:
        """Say why a mutation is nowhere, in the words of the residue language."""
        homes = [c for c, n, code in self._places if c and (n, code) == (m.number, m.code)]
        if not m.chain and len(homes) > 1:
            return (
                f"{m} can be of several chains; write {' or '.join(f'{c}:{m}' for c in homes[:4])}"
            )
        place = f"{m.chain}:{m.number}{m.code}" if m.chain else f"{m.number}{m.code}"
        try:
            self.numbering.positions(place, str(m))
        except ResidueError as error:
            return str(error).rstrip(".")
        return f"{m} can be read in several ways; name the chain, as A:{m}"

    # the position of a mutation ----------------------------------------------------------------

    @cached_property
    def _places(self) -> dict[tuple[str | None, int, str], int | None]:
        """(chain, number, code) -> 0-based index.

        Chain None names a number without its chain: None where several chains have it, unless
        these are tied.
        """
        table: dict[tuple[str | None, int, str], int | None] = {}
        group = {i: g for g, some in enumerate(self.ties) for i in some}
        names = zip(self.numbering.chains, self.numbering.numbers, strict=True)
        for i, (chain, text) in enumerate(names):
            match = re.fullmatch(r"(-?[0-9]+)([A-Za-z]?)", text)
            assert match is not None  # a numbering says so
            number, code = int(match[1]), match[2]
            table[chain, number, code] = i
            first = table.setdefault((None, number, code), i)
            if first is not None and first != i and group.get(first, -1) != group.get(i, -2):
                table[None, number, code] = None
        return table

    @cached_property
    def _coded(self) -> frozenset[str]:
        """Numbers with an insertion code, in lower case."""
        return frozenset(n.lower() for n in self.numbering.numbers if n[-1:].isalpha())

    def _index(self, m: Mutation, offset: int) -> int | None:
        """Return the 0-based position of a mutation whose number is changed by an offset."""
        chain = m.chain
        if chain is not None and set(self.numbering.chains) == {""}:
            chain = ""  # any one name will do where chains have none
        # S52aF: codes are often written small, and 52A in the file
        for code in dict.fromkeys((m.code, m.code.swapcase())):
            i = self._places.get((chain, m.number + offset, code))
            if i is not None:
                return i
        return None

    def _fits(self, m: Mutation, offset: int) -> bool:
        i = self._index(m, offset)
        return i is not None and self.wild_type[i] == m.wild

    def offset(self, texts: Iterable[str]) -> Offset | None:
        """Return the offset of the numbers that fits most of some variants, if it fits half."""
        lists = []
        for text in texts:
            try:
                lists.append(self.mutations(text))
            except VariantError:
                continue
        common = Counter(m for ms in lists for m in ms)
        some = {(m.chain, m.number, m.code, m.wild): m for m, _ in common.most_common(1000)}
        # a letter or two fit somewhere by chance
        if len(some) < 3:
            return None
        votes: Counter[int] = Counter()
        for m in list(some.values())[:60]:
            there = ((n, i) for (_, n, _), i in self._places.items() if i is not None)
            votes.update({n - m.number for n, i in there if self.wild_type[i] == m.wild})
        tried = {0, *sorted(votes, key=lambda d: (-votes[d], abs(d), d))[:8]}
        fits = {d: {m: self._fits(m, d) for m in common} for d in tried}
        counts = {d: sum(all(map(fits[d].__getitem__, ms)) for ms in lists) for d in tried}
        most = max(counts.values())
        best = [d for d in counts if counts[d] == most]
        if len(best) > 1 or 0 in best or 2 * most < len(lists):
            return None
        return Offset(best[0], most, len(lists))
