"""Hard constraints: what may stand where, how often, how many changes, and which patterns never.

A design space restricts the PROPOSAL; the base transition stays unrestricted, so that the weights
carry the correction and the target is p* restricted to the allowed set A. The look-ahead is h(x_t)
= P(x_0 in A) with the open letters drawn independently from the posterior, by dynamic programming
(`seqalign.space.lookahead`). Its gradient gives every conditional marginal P(letter i = a | A) at
once, which is what the next letters are drawn from.

h is exact while the joint automaton is small. Where it is too large, or where tied positions meet
patterns within a chain, h is a product of exact parts (`exact_lookahead` is False then): the
indicator of A at the end keeps every weight exact, but weights vary more, and a particle can meet a
dead end, which its weight of zero says. With exact h and finite logits there is none.

References:
    Whiteley & Lee, "Twisted particle filters", Annals of Statistics 2014, arXiv 1210.0220
    (look-ahead twisting). Chen, Dempster & Liu, "Weighted finite population sampling", Biometrika
    1994 (Poisson-binomial, conditional draws).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, reduce
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
from seqalign.core.process import Transition
from seqalign.core.sequence import Alphabet
from seqalign.files.numbering import Numbering
from seqalign.space import impossible
from seqalign.space.automaton import Automaton, product
from seqalign.space.constraint import Constraint, ConstraintError
from seqalign.space.counter import Counter, Flags
from seqalign.space.feasibility import Part, Problem, Undecided
from seqalign.space.installed import constraints as read
from seqalign.space.lengths import Lengths, Within
from seqalign.space.lookahead import Lookahead
from seqalign.space.positions import Positions
from seqalign.space.restrict import RestrictedReveal, TiedReveal
from seqalign.space.units import Units, merged

__all__ = ["DesignSpace"]


@dataclass(frozen=True)
class DesignSpace:
    """The allowed set A of sequences of length L.

    Patterns and runs are read within a chain of `numbering` and never across its end (residues
    missing from a structure do not interrupt a chain); counts are over all L letters, fixed ones
    too, and a tied letter counts at each of its positions.

    Attributes:
        alphabet: the letters.
        length: number of positions, L.
        constraints: what every design obeys; kept by rank and key, whatever order is given.
        fixed: L characters, a letter where it is fixed and the mask symbol where it is free; "" is
            all free. A fixed position wins over every other letter of a constraint, and a tied
            group with one is fixed as a whole.
        wild_type: L letters, needed for a budget.
        numbering: names of the L positions; None counts from 1.
        discount: how much less than fully the look-ahead counts at t = 1. Neighboring letters
            support each other, so a product of independent letters overstates the cost of the wild
            type while much is still open. Twisting by h^(1 − discount·t) is exact for any discount
            (h is whole at t = 0) and lowers the variance.
        joint_limit: constraints share one exact look-ahead while it touches at most so many numbers
            per site and particle; beyond, they are split. Larger is slower and varies less.

    Raises:
        ConstraintError: the set is empty, or a field does not fit; the message names the position,
            or the constraint with its smallest feasible value. Nothing has been run by then.
    """

    alphabet: Alphabet
    length: int
    constraints: tuple[Constraint, ...] = ()
    fixed: str = ""
    wild_type: str | None = None
    numbering: Numbering | None = None
    discount: float = 0.4
    joint_limit: int = 1000

    def __post_init__(self) -> None:
        if not 0 <= self.discount < 1:
            raise ValueError(f"DesignSpace: discount must be in [0, 1), got {self.discount}.")
        ranked = tuple(sorted(self.constraints, key=lambda c: (c.rank, c.key)))
        object.__setattr__(self, "constraints", ranked)
        object.__setattr__(self, "fixed", self._tied(self.at.fixed))
        object.__setattr__(self, "at", replace(self.at, fixed=self.fixed))
        _ = self.bias  # read now, so that what is wrong is said now
        self._decide()

    @classmethod
    def build(
        cls,
        alphabet: Alphabet,
        length: int,
        *,
        constraints: Sequence[Constraint] = (),
        wild_type: str | None = None,
        fix: str | Sequence[int | str] | Mapping[Any, str] = "",
        design: str | Sequence[int | str] | None = None,
        numbering: Numbering | None = None,
        **named: Any,
    ) -> DesignSpace:
        """Build a design space from what a user writes about named positions.

        `fix` (positions keep the wild type, or a mapping position → letter) wins over everything;
        positions outside `design` are fixed too. Every installed constraint is a keyword, with the
        value it has in a campaign: `max_mutations=8, residues={"A9": {"allow": "ILV"}}`. Positions
        are those of `numbering`, 1..length without one.

        Raises:
            ConstraintError: a text cannot be read, or the constraints leave no sequence.
        """
        at = Positions(alphabet, length, wild_type, numbering=numbering)
        given = (*constraints, *read(named))
        return cls(alphabet, length, given, at.fixing(fix, design), wild_type, numbering)

    # letters and ties ----------------------------------------------------------------------------

    @cached_property
    def at(self) -> Positions:
        """The positions, as constraints are told of them."""
        return Positions(self.alphabet, self.length, self.wild_type, self.fixed, self.numbering)

    @cached_property
    def blocks(self) -> tuple[tuple[int, ...], ...]:
        """Disjoint groups of 1-based positions that take one letter and are revealed together."""
        return merged([group for c in self.constraints for group in c.ties(self.at)])

    def _tying(self, group: tuple[int, ...], why: str) -> ConstraintError:
        """Return the error of a tied group, at the constraint that ties it."""
        some = (c for c in self.constraints if any(set(g) <= set(group) for g in c.ties(self.at)))
        names = ", ".join(self.at.name(i - 1) for i in group)
        return ConstraintError(f"tie of {names}: {why}", next(some).path)

    def _tied(self, fixed: str) -> str:
        """Spread fixed letters over tied groups."""
        spread, free = list(fixed), self.alphabet.mask_symbol
        for group in self.blocks:
            letters = {fixed[i - 1] for i in group} - {free}
            if len(letters) > 1:
                raise self._tying(
                    group,
                    f"fixed to {' and '.join(sorted(letters))}. Tied positions take one letter; "
                    f"fix them alike, free them or untie them.",
                )
            for i in group:
                spread[i - 1] = next(iter(letters), free)
        return "".join(spread)

    @cached_property
    def allowed(self) -> tuple[str, ...]:
        """L strings of allowed letters; one letter where it is fixed."""
        letters, free = self.alphabet.letters, self.alphabet.mask_symbol
        flags = np.ones((self.length, len(letters)), dtype=bool)
        for c in self.constraints:
            more = c.flags(self.at)
            flags &= True if more is None else more
            none = (i for i in self.at.free if not flags[i].any())
            if (i := next(none, None)) is not None:
                raise ConstraintError(
                    f"{c.key}: no letter is allowed at position {self.at.name(i)}; allow at least "
                    f"one of {letters!r}.",
                    c.path,
                )
        allowed = tuple(
            "".join(a for a, ok in zip(letters, row, strict=True) if ok) if a == free else a
            for row, a in zip(flags, self.fixed, strict=True)
        )
        for group in self.blocks:
            some = [allowed[i - 1] for i in group]
            if not set.intersection(*map(set, some)):
                raise self._tying(
                    group,
                    f"no letter is allowed at all of them ({', '.join(some)}). Allow a common "
                    f"letter or untie them.",
                )
        return allowed

    @cached_property
    def sites(self) -> Tensor | None:
        """(L, V) bool, the allowed letters, if nothing else is constrained; else None."""
        if self.blocks or self.lookahead.groups:
            return None
        letters = self.alphabet.letters
        return torch.tensor([[a in some for a in letters] for some in self.allowed])

    @property
    def free(self) -> int:
        """Number of positions that are not fixed."""
        return len(self.at.free)

    @property
    def reveals(self) -> int:
        """Number of steps that order "random" needs: free positions, a tied group counting once."""
        return len(self._units.of[list(self.at.free)].unique())

    @cached_property
    def bias(self) -> Tensor | None:
        """What the constraints add to the logits of the process, (L, V) in nats, or None."""
        some = [b for b in (c.logits(self.at) for c in self.constraints) if b is not None]
        return reduce(torch.add, some) if some else None

    # tables --------------------------------------------------------------------------------------

    @cached_property
    def _units(self) -> Units:
        return Units(self.blocks, self.at.chains, self.alphabet.mask)

    @cached_property
    def _flags(self) -> Flags:
        """(U, V) letters allowed at every position of a unit."""
        letters = self.alphabet.letters
        return self._units.flags(np.array([[a in some for a in letters] for some in self.allowed]))

    @cached_property
    def _fixed(self) -> Flags:
        """(U,) which units are fixed; a tied group is, or is not, as a whole."""
        free = self.alphabet.mask_symbol
        return np.array([self.fixed[i] != free for i in self._units.leader.tolist()], dtype=bool)

    @cached_property
    def _parts(self) -> tuple[Part, ...]:
        """What every constraint counts and reads."""
        asked = (Part.of(c, self.at, self._units) for c in self.constraints)
        return tuple(p for p in asked if p.counter is not None or p.automaton is not None)

    @cached_property
    def _counters(self) -> tuple[Counter, ...]:
        return tuple(p.counter for p in self._parts if p.counter is not None)

    @cached_property
    def _automaton(self) -> Automaton | None:
        """What reads every chain for all constraints at once."""
        whole: Automaton | None = None
        for p in self._parts:
            try:
                whole = (
                    product(whole, p.automaton) if whole and p.automaton else whole or p.automaton
                )
            except ValueError as error:
                c = p.constraint
                raise ConstraintError(f"{c.title}: {error}", c.path) from error
        return whole

    @property
    def exact_lookahead(self) -> bool:
        """Whether h is P(x_0 in A) for independent letters; otherwise it approximates that."""
        return self.lookahead.exact

    @property
    def lookahead_note(self) -> str:
        """One sentence on how the look-ahead is computed."""
        return self.lookahead.note

    @cached_property
    def lookahead(self) -> Lookahead:
        """The look-ahead over units."""
        parts = self._automaton, self._counters
        return Lookahead(self._flags, self._units.sites, *parts, self.joint_limit, self._fixed)

    # feasibility ---------------------------------------------------------------------------------

    def _decide(self) -> None:
        """Raise if A is empty."""
        some = [(c, c.reduced(self._flags)) for c in self._counters]
        active = [r for _, r in some if r is not None]
        easy = len(active) <= 1 and all(r.low is None and (r.high or 0) >= 0 for r in active)
        # what no letter can change
        total = self._flags.argmax(1).tolist()
        met = not any(c.misses(c.total(total)) for c, r in some if r is None)
        if easy and met and self._automaton is None:
            return
        # the search is exact, and slow where automata are large: what is plain needs none
        near = self._near()
        if near is not None and not self.violations(near):
            if bool(self.contains(self.alphabet.encode([near])[None])):
                return
        if not self._counters and not self.lookahead.relaxed and self.lookahead.readable:
            return
        if found := _conflict(self):
            raise ConstraintError(*found)

    def _near(self) -> str | None:
        """The wild type with what is fixed and allowed, tied letters alike; None without one."""
        if self.wild_type is None:
            return None
        pairs = zip(self.wild_type, self.allowed, strict=True)
        near = [w if w in some else some[0] for w, some in pairs]
        for group in self.blocks:
            common = set.intersection(*(set(self.allowed[i - 1]) for i in group))
            letter = near[group[0] - 1]
            for i in group:
                near[i - 1] = letter if letter in common else min(common)
        return "".join(near)

    # lengths -------------------------------------------------------------------------------------

    def within(self, event_mask: Tensor) -> Lengths:
        """Return the space on islands of different length, (B, L) bool: what exists counts."""
        return Lengths(self, event_mask)

    def take(self, islands: Sequence[int]) -> DesignSpace:
        """Return itself: it is the same on every island."""
        return self

    def only(self, live: tuple[int, ...]) -> DesignSpace:
        """Return the space of the positions with these 0-based indices, as if there were no others.

        Raises:
            ConstraintError: the constraints leave no sequence there.
        """
        return _only(self, live)

    # membership ----------------------------------------------------------------------------------

    def start(self, x_T: Tensor) -> Tensor:
        """Reveal the fixed letters in masked states (B, K, L): conditioning, not weighting."""
        # where it is free, what is written is the mask itself
        fixed = self.alphabet.encode([self.fixed])[0].to(x_T.device)
        return torch.where(x_T != self.alphabet.mask, x_T, fixed)

    def contains(self, x_0: Tensor) -> Tensor:
        """Return whether designs (B, K, L) are in A, (B, K) bool."""
        device = x_0.device
        x = x_0[..., self._units.leader.to(device)]
        same = (x_0 == x[..., self._units.of.to(device)]).all(-1)
        ok = self.lookahead.known_allowed(x).all(-1) & same
        units = torch.arange(x.shape[-1], device=x.device)
        for c in self._counters:
            total = torch.tensor(c.weight, device=device)[units, x].sum(-1)
            ok = ok & (total >= (total if c.low is None else c.low))
            ok = ok & (total <= (total if c.high is None else c.high))
        if self._automaton is not None:
            # -1, the last row, is where what is refused stays
            rows = [*self._automaton.step, (-1,) * len(self._automaton.step[0])]
            step = torch.tensor(rows, device=device)
            column = x
            if self._automaton.kept:
                column = x + len(self.alphabet) * torch.tensor(self._fixed, device=device)
            ends = torch.tensor([*self._automaton.ends, False], device=device)
            for chain in dict.fromkeys(self._units.sites):
                state = torch.zeros_like(x[..., 0])
                for u in chain:
                    state = step[state, column[..., u]]
                ok = ok & ends[state]
        return ok

    def violations(self, sequence: str) -> list[str]:
        """Return one sentence per broken constraint of a sequence; empty if it is in A."""
        if len(sequence) != self.length:
            return [f"has {len(sequence)} letters, the design space {self.length}"]
        broken = [
            f"position {self.at.name(i)} is {a!r}, allowed are {self.allowed[i]!r}"
            for i, a in enumerate(sequence)
            if a not in self.allowed[i]
        ]
        for group in self.blocks:
            if len({sequence[i - 1] for i in group}) > 1:
                shown = ", ".join(f"{self.at.name(i - 1)} is {sequence[i - 1]!r}" for i in group)
                broken.append(f"tied positions differ: {shown}")
        if set(sequence) - set(self.alphabet.letters):
            return broken
        return broken + [said for c in self.constraints for said in c.broken(sequence, self.at)]

    # looking ahead -------------------------------------------------------------------------------

    def condition(
        self, posterior: CategoricalPosterior | OpenPosterior, x: Tensor, unknown: Tensor
    ) -> tuple[Tensor, CategoricalPosterior | OpenPosterior]:
        """Return log h(x), (B, K), and the posterior given A: its marginals.

        `x` (B, K, L) are tokens, `unknown` (B, K, L) marks the open positions. Where h is 0 the
        posterior is returned as is. Letters that the network calls impossible count in h as
        `seqalign.space.impossible` says.
        """
        if posterior.columns is not None and not self.blocks:
            log_rows, never = impossible.hoped(posterior.log_rows)
            found = self.lookahead.open(log_rows, x, posterior.columns)
            if found is not None:
                log_h, given, rows = found
                if never is not None:
                    given, rows = impossible.marked(given, never), None
                return log_h, replace(posterior, log_rows=given, rows=rows)
        log_pi = posterior.log_probs
        hoped, never = impossible.hoped(log_pi, unknown)
        law, tokens, open_ = self._units.law(hoped, x, unknown)
        log_h, given = self.lookahead.condition(law, tokens, open_)
        if never is not None:
            given = impossible.marked(given, self._units.any(never))
        if self.blocks:
            # a known group whose letters differ is outside A
            apart = torch.isneginf(law.amax(-1)).any(-1)
            log_h = torch.where(apart, -torch.inf, log_h)
            given = given.index_select(2, self._units.of.to(given.device))
        dead = torch.isneginf(log_h)
        if bool(dead.any()):
            given = torch.where(dead[..., None, None], log_pi, given)
        return log_h, CategoricalPosterior(given, kept=posterior.kept)

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
        if not self.blocks:
            if not self.lookahead.groups or not isinstance(q, Categorical):
                return q
            return RestrictedReveal(self.lookahead, q, x_t, guide, unknown)
        # every position of a group has the same law given A
        leader = self._units.leader.to(x_t.device)
        # what a network keeps has no row per position
        laws = replace(guide, kept=None).map(lambda v: v.index_select(2, leader))
        _, tokens, open_ = self._units.law(guide.log_probs, x_t, unknown)
        if isinstance(q, Categorical):
            inner: Transition = Categorical(q.log_probs.index_select(2, leader))
        elif isinstance(q, BlockReveal) and q.log_hide is None:
            one = OneReveal(tokens, q.log_show, laws.log_probs)
            return TiedReveal(one, self._units, x_t, unknown)
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
            inner = RestrictedReveal(self.lookahead, inner, tokens, laws, open_)
        return TiedReveal(inner, self._units, x_t, unknown)


@lru_cache(maxsize=128)
def _only(space: DesignSpace, live: tuple[int, ...]) -> DesignSpace:
    if len(live) == space.length:
        return space
    wild = space.wild_type
    return replace(
        space,
        length=len(live),
        constraints=tuple(Within(c, space.at, live) for c in space.constraints),
        fixed="".join(space.fixed[i] for i in live),
        wild_type=None if wild is None else "".join(wild[i] for i in live),
        numbering=None if space.numbering is None else space.numbering.take(live),
    )


@lru_cache(maxsize=128)
def _conflict(space: DesignSpace) -> tuple[str, tuple[str, ...]] | None:
    """Return why no sequence obeys all constraints, and where that is written; None if one does.

    Raises:
        Undecided: the search took too long.
    """
    problem = Problem(space.at, space._units, space._flags, space._parts)
    found = problem.solve()
    if found is None:
        return problem.conflict(space.allowed)
    sequence = "".join(space.alphabet.letters[found[u]] for u in space._units.of.tolist())
    wrong = space.violations(sequence)
    if wrong:
        raise Undecided(
            f"The search for a first sequence went wrong: {sequence} breaks {wrong}. Please report "
            f"this with the constraints."
        )
    return None
