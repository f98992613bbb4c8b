"""Hard constraints: what may stand where, how often, how many changes, and which patterns never.

A design space restricts the PROPOSAL; the base transition stays unrestricted, so that the weights
carry the correction and the target is p* restricted to the allowed set A. The look-ahead is h(x_t)
= P(x_0 in A) with the open letters drawn independently from the posterior, by dynamic programming
(`seqalign.space.lookahead`). Its gradient gives every conditional marginal P(letter i = a | A) at
once, which is what the next letters are drawn from.

h is exact for allowed letters, ties and one mutation budget, composition or charge bound, for
patterns and runs, and for all of these together while the joint automaton is small. Where it is
too large, or where tied positions meet patterns within a chain, h is a product of exact parts
(`exact_lookahead` is False then): the indicator of A at the end keeps every weight exact, but
weights vary more, and a particle can meet a dead end, which its weight of zero says. With exact h
and finite logits there is none.

References:
    Whiteley & Lee, "Twisted particle filters", Annals of Statistics 2014, arXiv 1210.0220
    (look-ahead twisting). Chen, Dempster & Liu, "Weighted finite population sampling", Biometrika
    1994 (Poisson-binomial, conditional draws).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from seqalign.core.discrete import (
    BlockReveal,
    Categorical,
    CategoricalPosterior,
    OneReveal,
    OpenPosterior,
)
from seqalign.core.process import Transition, draw
from seqalign.core.sequence import Alphabet
from seqalign.core.streams import Streams
from seqalign.files.numbering import Numbering
from seqalign.space.automaton import Automaton, Pattern, forbidding
from seqalign.space.feasibility import Problem, Undecided
from seqalign.space.lookahead import Counter, Lookahead

__all__ = ["CHARGE", "DesignSpace", "RestrictedReveal", "TiedReveal", "positions"]

# net charge counts side chains at neutral pH: histidine as 0, chain ends not at all
CHARGE = {"K": 1, "R": 1, "D": -1, "E": -1}
# a fraction of a whole number of positions is that number
ROUNDING = 1e-9


def positions(
    expression: str | Sequence[int], length: int, where: str = "positions"
) -> tuple[int, ...]:
    """Read 1-based positions such as "1-5, A12, not 3" (a chain letter is optional), sorted.

    Raises:
        ValueError: the text cannot be read or a position lies outside 1..length.
    """
    return Numbering.plain(length).positions(expression, where)


@dataclass(frozen=True)
class DesignSpace:
    """The allowed set A of sequences of length L.

    Patterns and runs are read within a chain of `numbering` and never across its end (residues
    missing from a structure do not interrupt a chain); mutations, composition and net charge count
    all L letters, fixed ones too, and a tied letter at each of its positions.

    Attributes:
        alphabet: the letters.
        fixed: L characters, a letter where it is fixed and the mask symbol where it is free. A tied
            group with a fixed position is fixed as a whole.
        allowed: L strings of allowed letters.
        wild_type: L letters, needed for a budget.
        max_mutations: largest number of positions that differ from the wild type; None for no
            limit.
        discount: how much less than fully the look-ahead counts at t = 1. Neighboring letters
            support each other, so a product of independent letters overstates the cost of the wild
            type while much is still open. Twisting by h^(1 − discount·t) is exact for any discount
            (h is whole at t = 0) and lowers the variance.
        ties: disjoint groups of 1-based positions that take one letter; each is one reveal block.
        max_homopolymer: largest number of equal letters in a row; None for no limit.
        composition: (letters, min, max) bounds on how large a part of the L letters is one of some
            letters, fractions in [0, 1]; None for no bound.
        forbid: regular expressions that match nowhere (see `seqalign.space.automaton`).
        net_charge: (min, max) of the number of K and R minus that of D and E; None for no bound.
        numbering: names of the L positions; None counts from 1.
        joint_limit: constraints share one exact look-ahead while it touches at most so many numbers
            per site and particle; beyond, they are split. Larger is slower and varies less.

    Raises:
        ValueError: the set is empty, or a field does not fit; the message names the position, or
            the constraint with its smallest feasible value. Nothing has been run by then.
    """

    alphabet: Alphabet
    fixed: str
    allowed: tuple[str, ...]
    wild_type: str | None = None
    max_mutations: int | None = None
    discount: float = 0.4
    ties: tuple[tuple[int, ...], ...] = ()
    max_homopolymer: int | None = None
    composition: tuple[tuple[str, float | None, float | None], ...] = ()
    forbid: tuple[str, ...] = ()
    net_charge: tuple[int | None, int | None] | None = None
    numbering: Numbering | None = None
    joint_limit: int = 1000

    def __post_init__(self) -> None:
        """Check every field, then decide feasibility."""
        if not 0 <= self.discount < 1:
            raise ValueError(f"DesignSpace: discount must be in [0, 1), got {self.discount}.")
        self._check_letters()
        self._check_ties()
        for i in range(self.length):
            if self.fixed[i] != self.alphabet.mask_symbol and self.fixed[i] not in self.allowed[i]:
                raise ValueError(
                    f"DesignSpace: position {self.name(i)} is fixed to {self.fixed[i]!r}, which is "
                    f"not among the letters allowed there, {self.allowed[i]!r}. Allow it or free "
                    f"the position."
                )
        self._check_bounds()
        self._decide()

    def _check_letters(self) -> None:
        length, letters = len(self.fixed), self.alphabet.letters
        if len(self.allowed) != length or (
            self.wild_type is not None and len(self.wild_type) != length
        ):
            raise ValueError(
                f"DesignSpace: fixed has {length} positions, allowed {len(self.allowed)}, "
                f"wild_type "
                f"{None if self.wild_type is None else len(self.wild_type)}; they must agree."
            )
        if self.numbering is not None and len(self.numbering) != length:
            raise ValueError(
                f"DesignSpace: numbering names {len(self.numbering)} positions, fixed has {length}."
            )
        for name, text in (("fixed", self.fixed), ("wild_type", self.wild_type or "")):
            for i, letter in enumerate(text):
                if letter not in letters and not (
                    name == "fixed" and letter == self.alphabet.mask_symbol
                ):
                    raise ValueError(
                        f"DesignSpace: {name} position {self.name(i)} is {letter!r}, not one of "
                        f"{letters!r}."
                    )
        for i, some in enumerate(self.allowed):
            unknown = set(some) - set(letters)
            if unknown:
                raise ValueError(
                    f"DesignSpace: allowed letters {sorted(unknown)} at position {self.name(i)} "
                    f"are not in {letters!r}."
                )
            if not some:
                raise ValueError(
                    f"DesignSpace: no letter is allowed at position {self.name(i)}; allow at least "
                    f"one of {letters!r}."
                )

    def _check_ties(self) -> None:
        """Check the tied groups and spread their fixed letters."""
        tied = [i for group in self.ties for i in group]
        if len(set(tied)) < len(tied) or not set(tied) <= set(range(1, self.length + 1)):
            raise ValueError(
                f"DesignSpace: ties {self.ties} must be disjoint groups of positions "
                f"1-{self.length}."
            )
        fixed = list(self.fixed)
        for group in self.ties:
            names = ", ".join(self.name(i - 1) for i in group)
            letters = {self.fixed[i - 1] for i in group} - {self.alphabet.mask_symbol}
            if len(letters) > 1:
                raise ValueError(
                    f"DesignSpace: tie of {names}: fixed to {' and '.join(sorted(letters))}. Tied "
                    f"positions take one letter; fix them alike, free them or untie them."
                )
            for i in group:
                fixed[i - 1] = next(iter(letters), self.alphabet.mask_symbol)
            if not set.intersection(*(set(self.allowed[i - 1]) for i in group)):
                raise ValueError(
                    f"DesignSpace: tie of {names}: no letter is allowed at all of them "
                    f"({', '.join(self.allowed[i - 1] for i in group)}). Allow a common letter or "
                    f"untie them."
                )
        object.__setattr__(self, "fixed", "".join(fixed))

    def _check_bounds(self) -> None:
        if self.max_mutations is not None and self.wild_type is None:
            raise ValueError("DesignSpace: max_mutations needs a wild_type to count from.")
        for name in ("max_mutations", "max_homopolymer"):
            bound, lowest = getattr(self, name), int(name == "max_homopolymer")
            if bound is not None and (not isinstance(bound, int) or bound < lowest):
                raise ValueError(f"DesignSpace: {name} must be >= {lowest}, got {bound}.")
        for letters, low, high in self.composition:
            unknown = sorted(set(letters) - set(self.alphabet.letters))
            if not letters or unknown or len(set(letters)) < len(letters):
                raise ValueError(
                    f"DesignSpace: composition of {letters!r}: the key is one or more different "
                    f"letters of {self.alphabet.letters!r}."
                )
            for bound in (low, high):
                if bound is not None and not 0 <= bound <= 1:
                    n = self.length
                    raise ValueError(
                        f"DesignSpace: composition of {letters!r}: {bound} is not a fraction of "
                        f"the {n} letters. Write a number from 0 to 1; 5 letters are {5 / n:.3g}."
                    )
            if low is not None and high is not None and low > high:
                raise ValueError(
                    f"DesignSpace: composition of {letters!r}: min {low} is above max {high}."
                )
            few, many = self._counts(low, high)
            if few is not None and many is not None and few > many:
                raise ValueError(
                    f"DesignSpace: composition of {letters!r}: no whole number of the "
                    f"{self.length} letters lies between min {low} and max {high}; "
                    f"{many} are {many / self.length:.3g}, {few} are {few / self.length:.3g}."
                )
        for pattern in self.forbid:
            Pattern(pattern, self.alphabet.letters)
        if self.net_charge is not None:
            if not set(CHARGE) & set(self.alphabet.letters):
                raise ValueError(
                    f"DesignSpace: net_charge counts {', '.join(CHARGE)}, and none of them is one "
                    f"of the letters {self.alphabet.letters!r}."
                )
            least, most = self.net_charge
            for end in self.net_charge:
                if end is not None and not isinstance(end, int):
                    raise ValueError(f"DesignSpace: net_charge {end!r} is not a whole number.")
            if least is not None and most is not None and least > most:
                raise ValueError(
                    f"DesignSpace: net_charge min {least} is above max {most}; swap them."
                )

    @classmethod
    def build(
        cls,
        alphabet: Alphabet,
        length: int,
        *,
        wild_type: str | None = None,
        fix: str | Sequence[int | str] | Mapping[Any, str] = "",
        design: str | Sequence[int | str] | None = None,
        omit: str = "",
        allow: Mapping[str, str] | None = None,
        omit_at: Mapping[str, str] | None = None,
        tie: Sequence[Sequence[int | str]] = (),
        homo_oligomer: Sequence[Sequence[str]] = (),
        max_mutations: int | None = None,
        max_homopolymer: int | None = None,
        composition: Mapping[str, Mapping[str, float]] | None = None,
        forbid: Sequence[str] = (),
        net_charge: Mapping[str, int] | None = None,
        numbering: Numbering | None = None,
    ) -> DesignSpace:
        """Build a design space from what a user writes about named positions.

        `fix` (positions keep the wild type, or a mapping position → letter) wins over everything;
        positions outside `design` are fixed too; `omit` removes letters everywhere, `omit_at` and
        `allow` per position expression. `tie` lists groups of positions that take one letter,
        `homo_oligomer` groups of chains that are tied position by position. `composition` maps
        letters ("A", or "DE" together) to {min, max} fractions of the length; `net_charge` is
        {min, max}. Positions are those of `numbering`, 1..length without one.

        Raises:
            ValueError: a text cannot be read, or the constraints leave no sequence.
        """
        named = Numbering.plain(length) if numbering is None else numbering
        if len(named) != length:
            raise ValueError(
                f"numbering names {len(named)} positions, the model designs {length}; they must "
                f"agree."
            )
        free = alphabet.mask_symbol
        everywhere = set(range(1, length + 1))
        wanted = everywhere
        if design is not None:
            wanted = set(named.positions(_parts(design), "design"))
        letters: dict[int, str] = {}
        kept: set[int] = set()
        if isinstance(fix, Mapping):
            for where, a in fix.items():
                letters |= dict.fromkeys(named.positions(str(where), "fix"), a)
        else:
            kept = set(named.positions(_parts(fix), "fix"))
        ties = _groups(
            [
                *(named.positions(_parts(group), "tie") for group in tie),
                *(pair for group in homo_oligomer for pair in _copies(named, group)),
            ],
            named,
        )
        kept |= everywhere - wanted - set(letters)
        if kept and wild_type is None:
            raise ValueError(
                f"Positions {[named.name(i) for i in sorted(kept)[:5]]} are fixed to the wild "
                f"type, but no wild_type was given."
            )
        if wild_type is not None and len(wild_type) != length:
            raise ValueError(f"wild_type has {len(wild_type)} letters, the model designs {length}.")
        fixed = [
            letters.get(i, wild_type[i - 1] if i in kept and wild_type else free)
            for i in range(1, length + 1)
        ]
        for a in omit:
            if a not in alphabet.letters:
                raise ValueError(f"omit: {a!r} is not one of {alphabet.letters!r}.")
        allowed = ["".join(a for a in alphabet.letters if a not in omit) for _ in range(length)]
        for expression, some in (allow or {}).items():
            for i in named.positions(str(expression), "allow"):
                allowed[i - 1] = "".join(
                    a for a in some if a in allowed[i - 1] or a not in alphabet.letters
                )
        for expression, some in (omit_at or {}).items():
            for a in some:
                if a not in alphabet.letters:
                    raise ValueError(
                        f"omit: {a!r} at {expression!r} is not one of {alphabet.letters!r}."
                    )
            for i in named.positions(str(expression), "omit"):
                allowed[i - 1] = "".join(a for a in allowed[i - 1] if a not in some)
        # a fixed position is what the user said: omit does not speak about it, nor about what is
        # tied to it
        settled = {j: fixed[i - 1] for g in ties for i in g for j in g if fixed[i - 1] != free}
        for i in range(1, length + 1):
            letter = fixed[i - 1] if fixed[i - 1] != free else settled.get(i, free)
            if letter != free:
                allowed[i - 1] = letter
        return cls(
            alphabet,
            "".join(fixed) if all(len(a) == 1 for a in fixed) else _not_one(fixed, named),
            tuple(allowed),
            wild_type,
            max_mutations,
            ties=ties,
            max_homopolymer=max_homopolymer,
            composition=tuple(
                (some, *_bounds(f"composition of {some!r}", ends))
                for some, ends in (composition or {}).items()
            ),
            forbid=(forbid,) if isinstance(forbid, str) else tuple(forbid),
            net_charge=None if net_charge is None else _bounds("net_charge", net_charge),
            numbering=numbering,
        )

    # names and tables ----------------------------------------------------------------------------

    def name(self, i: int) -> str:
        """Return what the position with the 0-based index i is called."""
        return str(i + 1) if self.numbering is None else self.numbering.name(i + 1)

    def _options(self, i: int) -> str:
        return self.allowed[i] if self.fixed[i] == self.alphabet.mask_symbol else self.fixed[i]

    @property
    def length(self) -> int:
        """Number of positions, L."""
        return len(self.fixed)

    @property
    def free(self) -> int:
        """Number of positions that are not fixed."""
        return self.fixed.count(self.alphabet.mask_symbol)

    @property
    def reveals(self) -> int:
        """Number of steps that order "random" needs: free positions, a tied group counting once."""
        mask = self.alphabet.mask_symbol
        return len({int(self._unit[i]) for i in range(self.length) if self.fixed[i] == mask})

    @property
    def blocks(self) -> tuple[tuple[int, ...], ...]:
        """The ties as the `blocks` that a MaskedProcess must reveal together."""
        return self.ties

    @property
    def exact_lookahead(self) -> bool:
        """Whether h is P(x_0 in A) for independent letters; otherwise it approximates that."""
        return self.lookahead.exact

    @property
    def lookahead_note(self) -> str:
        """One sentence on how the look-ahead is computed."""
        return self.lookahead.note

    @cached_property
    def _unit(self) -> Tensor:
        """(L,) the unit of each position: a tied group, or the position alone."""
        leader = {i: min(group) for group in self.ties for i in group}
        names: dict[int, int] = {}
        order = (leader.get(i, i) for i in range(1, self.length + 1))
        return torch.tensor([names.setdefault(i, len(names)) for i in order], dtype=torch.int64)

    @cached_property
    def _leader(self) -> Tensor:
        """(U,) the first position of each unit."""
        first: dict[int, int] = {}
        for i, u in enumerate(self._unit.tolist()):
            first.setdefault(u, i)
        return torch.tensor(list(first.values()), dtype=torch.int64)

    @cached_property
    def _sites(self) -> tuple[tuple[int, ...], ...]:
        """The units of each chain, in order."""
        chains = ("",) * self.length if self.numbering is None else self.numbering.chains
        units, out = self._unit.tolist(), []
        for i, u in enumerate(units):
            if i == 0 or chains[i] != chains[i - 1]:
                out.append([u])
            else:
                out[-1].append(u)
        return tuple(tuple(c) for c in out)

    def _counts(self, low: float | None, high: float | None) -> tuple[int | None, int | None]:
        """Return bounds on a fraction of the L letters as bounds on a number of letters."""
        least = None if low is None else math.ceil(low * self.length - ROUNDING)
        most = None if high is None else math.floor(high * self.length + ROUNDING)
        return least, most

    @cached_property
    def _counters(self) -> tuple[Counter, ...]:
        """The bounds on counts, with weights (L, V) summed over each unit."""
        letters, n = self.alphabet.letters, self.length
        raw: list[tuple[str, Any, int | None, int | None]] = []
        if self.max_mutations is not None and self.wild_type is not None:
            weight = [[int(a != w) for a in letters] for w in self.wild_type]
            raw.append(("max_mutations", weight, None, self.max_mutations))
        for some, low, high in self.composition:
            weight = [[int(a in some) for a in letters]] * n
            raw.append((f"composition of {some!r}", weight, *self._counts(low, high)))
        if self.net_charge is not None:
            weight = [[CHARGE.get(a, 0) for a in letters]] * n
            raw.append(("net_charge", weight, *self.net_charge))
        counters = []
        for name, weight, least, most in raw:
            table = np.zeros((len(self._leader), len(letters)), dtype=np.int64)
            np.add.at(table, self._unit.numpy(), np.array(weight, dtype=np.int64))
            counters.append(Counter(name, table, least, most))
        return tuple(counters)

    @cached_property
    def _flags(self) -> Any:
        """(U, V) letters allowed at every position of a unit."""
        flags = np.ones((len(self._leader), len(self.alphabet)), dtype=bool)
        for i, u in enumerate(self._unit.tolist()):
            flags[u] &= [a in self._options(i) for a in self.alphabet.letters]
        return flags

    @cached_property
    def _automaton(self) -> Automaton | None:
        run = self.max_homopolymer
        run = None if run is None or run >= max(map(len, self._sites)) else run
        if run is None and not self.forbid:
            return None
        return forbidding(self.forbid, self.alphabet.letters, run)

    @cached_property
    def lookahead(self) -> Lookahead:
        """The look-ahead over units."""
        return Lookahead(
            self._flags, self._sites, self._automaton, self._counters, self.joint_limit
        )

    @cached_property
    def _fixed(self) -> Tensor:
        return self.alphabet.encode([self.fixed])[0]

    @cached_property
    def _weights(self) -> Tensor:
        """(counters, U, V) what each letter counts."""
        return torch.tensor(np.stack([c.weight for c in self._counters]))

    # feasibility ---------------------------------------------------------------------------------

    def _decide(self) -> None:
        """Raise if A is empty."""
        active = [c for c in (c.reduced(self._flags) for c in self._counters) if c is not None]
        constant = [c for c in self._counters if c.reduced(self._flags) is None]
        single = len(active) <= 1 and all(c.low is None and (c.high or 0) >= 0 for c in active)
        if self._automaton is None and single and all(map(self._met, constant)):
            return
        message = _conflict(self)
        if message is not None:
            raise ValueError(f"DesignSpace: {message}")

    def _met(self, counter: Counter) -> bool:
        """Return whether a counter that no letter can change is within its bounds."""
        some = self._flags.argmax(1)
        total = int(counter.weight[np.arange(len(some)), some].sum())
        return _distance(counter, total) == 0

    # membership ----------------------------------------------------------------------------------

    def start(self, x_T: Tensor) -> Tensor:
        """Reveal the fixed letters in masked states (B, K, L): conditioning, not weighting."""
        free = self._fixed == self.alphabet.mask
        return torch.where(free | (x_T != self.alphabet.mask), x_T, self._fixed)

    def contains(self, x_0: Tensor) -> Tensor:
        """Return whether designs (B, K, L) are in A, (B, K) bool."""
        x = x_0[..., self._leader]
        ok = self.lookahead.known_allowed(x).all(-1) & (x_0 == x[..., self._unit]).all(-1)
        units = torch.arange(x.shape[-1], device=x.device)
        for n, c in enumerate(self._counters):
            total = self._weights[n][units, x].sum(-1)
            ok = ok & (total >= (total if c.low is None else c.low))
            ok = ok & (total <= (total if c.high is None else c.high))
        if self._automaton is not None:
            ok = ok & self._accepted(x)
        return ok

    def _accepted(self, x: Tensor) -> Tensor:
        """Return whether the automaton accepts every chain of units (B, K, U)."""
        assert self._automaton is not None
        states = len(self._automaton)
        refused = [states] * len(self.alphabet)
        step = torch.tensor(
            [[states if t < 0 else t for t in row] for row in self._automaton.step] + [refused]
        )
        ends = torch.tensor([*self._automaton.ends, False])
        ok = torch.ones(x.shape[:-1], dtype=torch.bool)
        for chain in dict.fromkeys(self._sites):
            state = torch.zeros(x.shape[:-1], dtype=torch.int64)
            for u in chain:
                state = step[state, x[..., u]]
            ok = ok & ends[state]
        return ok

    def violations(self, sequence: str) -> list[str]:
        """Return one sentence per broken constraint of a sequence; empty if it is in A."""
        if len(sequence) != self.length:
            return [f"has {len(sequence)} letters, the design space {self.length}"]
        broken = [
            f"position {self.name(i)} is {a!r}, allowed are {self._options(i)!r}"
            for i, a in enumerate(sequence)
            if a not in self._options(i)
        ]
        for group in self.ties:
            found = {sequence[i - 1] for i in group}
            if len(found) > 1:
                shown = ", ".join(f"{self.name(i - 1)} is {sequence[i - 1]!r}" for i in group)
                broken.append(f"tied positions differ: {shown}")
        if self.max_mutations is not None and self.wild_type is not None:
            count = sum(a != w for a, w in zip(sequence, self.wild_type, strict=True))
            if count > self.max_mutations:
                broken.append(f"{count} mutations, at most {self.max_mutations} are allowed")
        for some, low, high in self.composition:
            count = sum(a in some for a in sequence)
            part = f"{count} of {self.length} letters are {' or '.join(map(repr, some))}"
            least, most = self._counts(low, high)
            if most is not None and count > most:
                broken.append(f"{part}, at most {most} ({high:g}) are allowed")
            if least is not None and count < least:
                broken.append(f"{part}, at least {least} ({low:g}) are required")
        if self.net_charge is not None:
            charge, (least, most) = sum(CHARGE.get(a, 0) for a in sequence), self.net_charge
            if most is not None and charge > most:
                broken.append(f"the net charge is {charge:+d}, at most {most:+d} is allowed")
            if least is not None and charge < least:
                broken.append(f"the net charge is {charge:+d}, at least {least:+d} is required")
        start = 0
        for chain in self._sites:
            broken += self._matches(sequence[start : start + len(chain)], start)
            start += len(chain)
        return broken

    def _matches(self, chain: str, start: int) -> list[str]:
        """Return a sentence per long run and forbidden match in one chain."""

        def place(match: re.Match[str]) -> str:
            first, last = self.name(start + match.start()), self.name(start + match.end() - 1)
            return first if match.end() - match.start() == 1 else f"{first} to {last}"

        broken = []
        if self.max_homopolymer is not None:
            for match in re.finditer(r"(.)\1*", chain):
                if len(match[0]) > self.max_homopolymer:
                    broken.append(
                        f"{place(match)} is a run of {len(match[0])} {match[1]!r}, at most "
                        f"{self.max_homopolymer} are allowed"
                    )
        for pattern in self.forbid:
            broken += [
                f"{place(match)} is {match[0]!r}, which matches the forbidden {pattern!r}"
                for match in re.finditer(pattern, chain)
            ]
        return broken

    # looking ahead -------------------------------------------------------------------------------

    def condition(
        self, posterior: CategoricalPosterior | OpenPosterior, x: Tensor, unknown: Tensor
    ) -> tuple[Tensor, CategoricalPosterior | OpenPosterior]:
        """Return log h(x), (B, K), and the posterior given A: its marginals.

        `x` (B, K, L) are tokens, `unknown` (B, K, L) marks the open positions. Where h is 0 the
        posterior is returned as is.
        """
        if isinstance(posterior, OpenPosterior) and not self.ties:
            found = self.lookahead.open(posterior.log_rows, x, posterior.columns)
            if found is not None:
                log_h, given, rows = found
                return log_h, replace(posterior, log_rows=given, rows=rows)
        log_pi = posterior.log_probs
        law, tokens, open_ = self._by_unit(log_pi, x, unknown)
        log_h, given = self.lookahead.condition(law, tokens, open_)
        if self.ties:
            # a known group whose letters differ is outside A
            apart = torch.isneginf(law.amax(-1)).any(-1)
            log_h = torch.where(apart, -torch.inf, log_h)
            given = given.index_select(2, self._unit)
        dead = torch.isneginf(log_h)
        if bool(dead.any()):
            given = torch.where(dead[..., None, None], log_pi, given)
        return log_h, CategoricalPosterior(given)

    def _by_unit(self, log_pi: Tensor, x: Tensor, unknown: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return laws (B, K, U, V), tokens and open flags (B, K, U) of units."""
        if not self.ties:
            return log_pi, x, unknown
        # every position of a group takes the letter: a factor each, known ones a point mass
        shape = (*x.shape[:-1], len(self._leader), log_pi.shape[-1])
        law = torch.zeros(shape, dtype=log_pi.dtype, device=x.device)
        law.index_add_(2, self._unit, log_pi)
        count = torch.zeros(shape[:-1], dtype=torch.int64, device=x.device)
        open_ = count.index_add_(2, self._unit, unknown.long()) > 0
        tokens = torch.where(open_, self.alphabet.mask, x[..., self._leader])
        return law, tokens, open_

    def restrict(
        self,
        q: Transition,
        x_t: Tensor,
        guide: CategoricalPosterior | OpenPosterior,
        unknown: Tensor,
    ) -> Transition:
        """Keep a proposal that reveals several letters at once inside A.

        `q` was built from the conditioned posterior `guide`. One letter at a time needs nothing
        more; a parallel kernel must share the letters of a group, spend budgets jointly and look
        at neighbors, one letter after another.
        """
        if not self.ties:
            if not self.lookahead.groups or not isinstance(q, Categorical):
                return q
            return RestrictedReveal(self, q, x_t, guide, unknown)
        # every position of a group has the same law given A
        laws = guide.map(lambda v: v.index_select(2, self._leader))
        _, tokens, open_ = self._by_unit(guide.log_probs, x_t, unknown)
        if isinstance(q, Categorical):
            inner: Transition = Categorical(q.log_probs.index_select(2, self._leader))
        elif isinstance(q, BlockReveal) and q.log_hide is None:
            return TiedReveal(OneReveal(tokens, q.log_show, laws.log_probs), self, x_t, unknown)
        elif isinstance(q, BlockReveal) and q.log_hide is not None:
            letters = torch.log_softmax(laws.log_probs.double(), -1)
            shown = torch.cat((letters + q.log_show[..., None], q.log_hide[..., None]), -1)
            known = F.pad(letters, (0, 1), value=-torch.inf)
            inner = Categorical(torch.where(open_[..., None], shown, known))
        else:
            raise TypeError(
                f"DesignSpace: tied positions need a process that reveals them together; got a "
                f"{type(q).__name__}. Set blocks = space.blocks on the MaskedProcess."
            )
        if self.lookahead.groups:
            assert isinstance(inner, Categorical)
            inner = RestrictedReveal(self, inner, tokens, laws, open_)
        return TiedReveal(inner, self, x_t, unknown)


def _parts(expression: str | Sequence[int | str]) -> str:
    if isinstance(expression, str):
        return expression
    return ",".join(str(part) for part in expression)


def _bounds(what: str, ends: Mapping[str, Any]) -> tuple[Any, Any]:
    unknown = sorted(set(ends) - {"min", "max"})
    if unknown or not ends:
        raise ValueError(f"{what}: write min, max or both; got {dict(ends)!r}.")
    return ends.get("min"), ends.get("max")


def _not_one(fixed: list[str], named: Numbering) -> str:
    i = next(i for i, a in enumerate(fixed) if len(a) != 1)
    raise ValueError(f"fix: position {named.name(i + 1)} is {fixed[i]!r}; give one letter.")


def _groups(ties: list[tuple[int, ...]], named: Numbering) -> tuple[tuple[int, ...], ...]:
    """Merge overlapping groups; sort them."""
    merged: list[set[int]] = []
    for group in ties:
        if len(group) < 2:
            shown = ", ".join(named.name(i) for i in group) or "nothing"
            raise ValueError(f"tie: a group of {shown} ties nothing; name two positions or more.")
        touched = [m for m in merged if m & set(group)]
        merged = [m for m in merged if not m & set(group)] + [set(group).union(*touched)]
    return tuple(sorted(tuple(sorted(m)) for m in merged))


def _copies(named: Numbering, chains: Sequence[str]) -> list[tuple[int, ...]]:
    """Tie equal chains position by position."""
    found: dict[str, list[int]] = {}
    for i, chain in enumerate(named.chains, 1):
        found.setdefault(chain, []).append(i)
    unknown = [c for c in chains if c not in found]
    if isinstance(chains, str) or len(chains) < 2 or unknown:
        known = ", ".join(c or "(no name)" for c in found)
        raise ValueError(
            f"homo_oligomer: {list(chains)} must be two or more chains of {known}"
            f"{f'; there is no {unknown[0]!r}' if unknown else ''}."
        )
    first = found[chains[0]]
    for other in chains[1:]:
        second = found[other]
        a, b = ([named.numbers[i - 1] for i in row] for row in (first, second))
        if len(a) != len(b) or (a != b and not _parallel(a, b)):
            lone = sorted(set(a) ^ set(b), key=lambda n: [*a, *b].index(n))
            raise ValueError(
                f"homo_oligomer: chains {chains[0]} ({len(a)} positions) and {other} ({len(b)}) "
                f"cannot be tied position by position: residue {lone[0]} is in one of them only. "
                f"Tie what they share with tie, as [[{named.name(first[0])}, "
                f"{named.name(second[0])}]]."
            )
    return list(zip(*(found[c] for c in chains), strict=True))


def _parallel(a: list[str], b: list[str]) -> bool:
    """Return whether two chains are numbered alike but for a constant."""
    try:
        return len({int(m) - int(n) for m, n in zip(a, b, strict=True)}) == 1
    except ValueError:  # insertion codes
        return False


def _distance(counter: Counter, total: int) -> int:
    """Return by how much a total misses the bounds."""
    below = 0 if counter.low is None else counter.low - total
    above = 0 if counter.high is None else total - counter.high
    return max(0, below, above)


@lru_cache(maxsize=128)
def _conflict(space: DesignSpace) -> str | None:
    """Return why no sequence obeys all constraints, None if one does.

    Raises:
        Undecided: the search took too long.
    """
    letters = space.alphabet.letters
    patterns = tuple(forbidding((p,), letters, None) for p in space.forbid)
    whole = Problem(space._flags, space._sites, space._counters, space.max_homopolymer, patterns)
    found = whole.solve()
    if found is not None:
        sequence = "".join(letters[found[0][u]] for u in space._unit.tolist())
        wrong = space.violations(sequence)
        if wrong:
            raise Undecided(
                f"The search for a first sequence went wrong: {sequence} breaks {wrong}. Please "
                f"report this with the constraints."
            )
        return None
    # the one bound without which there would be a sequence, and how far it would have to give way
    for c in space._counters:
        others = tuple(o for o in space._counters if o is not c)
        without = replace(whole, counters=others).solve(nearest=c)
        if without is not None:
            tokens, _ = without
            total = int(sum(c.weight[u, a] for u, a in enumerate(tokens)))
            return _cure(space, c, total)
    if space.max_homopolymer is not None:
        low, high = space.max_homopolymer, max(map(len, space._sites))
        if replace(whole, run=None).solve() is not None:
            while high - low > 1:
                middle = (low + high) // 2
                fits = replace(whole, run=middle).solve() is not None
                low, high = (low, middle) if fits else (middle, high)
            return (
                f"max_homopolymer is {space.max_homopolymer}, which the other constraints make "
                f"impossible; the smallest feasible value is {high}."
            )
    for n, pattern in enumerate(space.forbid):
        rest = patterns[:n] + patterns[n + 1 :]
        if replace(whole, patterns=rest).solve() is not None:
            return (
                f"forbid: the other constraints make a match of {pattern!r} unavoidable. Leave it "
                f"out or loosen them."
            )
    return _clash(whole, space.forbid)


def _cure(space: DesignSpace, c: Counter, total: int) -> str:
    """Say to what a bound would have to give way."""
    n = space.length
    end = "max" if c.high is not None and total > c.high else "min"
    side = "smallest" if end == "max" else "largest"
    bound = c.high if end == "max" else c.low
    why = "which the other constraints make impossible"
    if c.name == "max_mutations":
        wild = space.wild_type or ""
        forced = [space.name(i) for i in range(n) if wild[i] not in space._options(i)]
        if len(forced) > space.max_mutations:  # type: ignore[operator]
            shown = f"{', '.join(forced[:10])}{', ...' if len(forced) > 10 else ''}"
            why = f"but {len(forced)} positions cannot keep the wild type ({shown})"
        return f"max_mutations is {bound}, {why}; the smallest feasible value is {total}."
    if c.name == "net_charge":
        return f"net_charge {end} is {bound}, {why}; the {side} feasible value is {total}."
    # rounded so that what is printed does allow the total
    scale = 10_000
    near = math.ceil(total / n * scale) if end == "max" else math.floor(total / n * scale)
    return (
        f"{c.name}: {end} allows {'at most' if end == 'max' else 'at least'} {bound} of {n} "
        f"letters, {why}; the {side} feasible value is {near / scale:g} ({total} letters)."
    )


def _clash(whole: Problem, forbid: tuple[str, ...]) -> str:
    """Name a smallest set of constraints that exclude one another."""
    kept = whole
    for c in whole.counters:
        less = replace(kept, counters=tuple(o for o in kept.counters if o is not c))
        kept = less if less.solve() is None else kept
    if kept.run is not None and (less := replace(kept, run=None)).solve() is None:
        kept = less
    for pattern in whole.patterns:
        less = replace(kept, patterns=tuple(p for p in kept.patterns if p is not pattern))
        kept = less if less.solve() is None else kept
    names = [c.name for c in kept.counters]
    names += ["max_homopolymer"] * (kept.run is not None)
    names += [
        f"forbid {text!r}"
        for text, p in zip(forbid, whole.patterns, strict=True)
        if any(p is k for k in kept.patterns)
    ]
    if len(names) == 1:
        return f"{names[0]} leaves no sequence among the allowed letters; loosen it."
    return f"{', '.join(names)} exclude one another; loosen at least one of them."


@dataclass(frozen=True)
class RestrictedReveal:
    """A parallel reveal whose letters are drawn one after another under the look-ahead.

    The set of units to reveal comes from `q`; then q(a) ∝ q_i(a) · h(so far, i = a), where h takes
    the later revealed units with the letters of `q` and all others with the posterior `guide`. A
    unit is a position, or a tied group; U = L without ties.

    Attributes:
        space: the constraints.
        q: (B, K, U, V [+ 1]) letters and mask.
        x_t: (B, K, U) tokens.
        guide: the conditioned posterior, (B, K, U, V).
        unknown: (B, K, U) open units.
    """

    space: DesignSpace
    q: Categorical
    x_t: Tensor
    guide: CategoricalPosterior | OpenPosterior
    unknown: Tensor

    def sample(self, rng: Streams) -> Tensor:
        """Draw x_s, (B, K, U)."""
        return self.draw(rng)[0]

    def draw(self, rng: Streams) -> tuple[Tensor, Tensor]:
        """Draw x_s (B, K, U) with its log-probability (B, K)."""
        v = len(self.space.alphabet)
        pattern = self.q.sample(rng.at("set"))
        chosen = self.unknown & (pattern < v)
        noise = rng.at("letters").uniform((*chosen.shape, v), chosen.device)
        return self._walk(chosen, -torch.log(-torch.log(noise)), None)

    def log_prob(self, x_s: Tensor) -> Tensor:
        """Return the log-probability of x_s, (B, K)."""
        v = len(self.space.alphabet)
        same = ((x_s == self.x_t) | self.unknown).all(-1)
        _, log_q = self._walk(self.unknown & (x_s < v), None, x_s)
        return torch.where(same, log_q, -torch.inf)

    def tilt(self, g: Tensor) -> RestrictedReveal:
        """Tilt the letters and the reveal rate; the constraints hold as before."""
        return RestrictedReveal(self.space, self.q.tilt(g), self.x_t, self.guide, self.unknown)

    def _walk(
        self, chosen: Tensor, noise: Tensor | None, given: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        v = len(self.space.alphabet)
        letters = self.q.log_probs[..., :v]
        mass = torch.logsumexp(letters, -1)
        # the reveal pattern: hidden with the mask's probability, shown with the rest
        log_q = torch.where(chosen, mass, 0.0)
        if self.q.log_probs.shape[-1] > v:
            log_q = log_q + torch.where(self.unknown & ~chosen, self.q.log_probs[..., v], 0.0)
        source = torch.where(chosen[..., None], letters - mass[..., None], self.guide.log_probs)
        rows = chosen.shape[:-1]
        a, more = self.space.lookahead.draw(
            source.flatten(0, 1),
            chosen.flatten(0, 1),
            None if given is None else given.flatten(0, 1),
            None if noise is None else noise.flatten(0, 1),
        )
        x_s = torch.where(chosen, a.unflatten(0, rows), self.x_t)
        return x_s, log_q.sum(-1) + more.unflatten(0, rows)


@dataclass(frozen=True)
class TiedReveal:
    """A proposal over units, read as one over positions: a tied group takes one letter.

    Attributes:
        inner: the proposal over units.
        space: the constraints.
        x_t: (B, K, L) tokens.
        unknown: (B, K, L) open positions.
    """

    inner: Any
    space: DesignSpace
    x_t: Tensor
    unknown: Tensor

    def sample(self, rng: Streams) -> Tensor:
        """Draw x_s, (B, K, L)."""
        return self._spread(self.inner.sample(rng))

    def draw(self, rng: Streams) -> tuple[Tensor, Tensor]:
        """Draw x_s (B, K, L) with its log-probability (B, K)."""
        units, log_q = draw(self.inner, rng)
        return self._spread(units), log_q

    def _spread(self, units: Tensor) -> Tensor:
        return torch.where(self.unknown, units[..., self.space._unit], self.x_t)

    def log_prob(self, x_s: Tensor) -> Tensor:
        """Return the log-probability of x_s, (B, K); -inf unless every group has one letter."""
        mask = self.space.alphabet.mask
        hidden = torch.zeros_like(x_s[..., self.space._leader])
        hidden = hidden.index_add_(-1, self.space._unit, (x_s == mask).long()) > 0
        units = torch.where(hidden, mask, x_s[..., self.space._leader])
        same = (self._spread(units) == x_s).all(-1)
        return torch.where(same, self.inner.log_prob(units), -torch.inf)

    def tilt(self, g: Tensor) -> TiedReveal:
        """Tilt each group by the sum over its open positions; g (B, K, L, V [+ 1])."""
        shape = (*g.shape[:2], len(self.space._leader), g.shape[-1])
        total = torch.zeros(shape, dtype=g.dtype, device=g.device)
        total.index_add_(2, self.space._unit, torch.where(self.unknown[..., None], g, 0.0))
        return replace(self, inner=self.inner.tilt(total))
