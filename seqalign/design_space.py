"""Hard constraints: fixed letters, allowed letters per position, and a mutation budget.

A design space restricts the PROPOSAL; the base transition stays unrestricted, so that the weights
carry the correction and the target is p* restricted to the allowed set A. The look-ahead is h(x_t)
= P(x_0 in A) with the open letters drawn independently from the posterior, exact by dynamic
programming over the number of mutations (a Poisson-binomial law). Its gradient gives every
conditional marginal P(letter i = a | A) at once, which is what the next letters are drawn from.

References:
    Whiteley & Lee, "Twisted particle filters", Annals of Statistics 2014, arXiv 1210.0220
    (look-ahead twisting). Chen, Dempster & Liu, "Weighted finite population sampling", Biometrika
    1994 (Poisson-binomial, conditional draws).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

from seqalign.discrete import Categorical, CategoricalPosterior
from seqalign.process import Transition
from seqalign.sequence import Alphabet
from seqalign.streams import Streams

__all__ = ["DesignSpace", "RestrictedReveal", "positions"]


def positions(
    expression: str | Sequence[int], length: int, where: str = "positions"
) -> tuple[int, ...]:
    """Read 1-based positions such as "1-5, A12, not 3" (a chain letter is optional), sorted.

    Raises:
        ValueError: the text cannot be read or a position lies outside 1..length.
    """
    if not isinstance(expression, str):
        expression = ", ".join(str(i) for i in expression)
    chosen: set[int] = set()
    removed: set[int] = set()
    if expression.strip().lower().startswith("not"):
        chosen = set(range(1, length + 1))
    for part in (p.strip() for p in expression.split(",")):
        if not part:
            continue
        negative = part.lower().startswith("not ")
        match = re.fullmatch(
            r"[A-Za-z]?(\d+)(?:\s*-\s*[A-Za-z]?(\d+))?", part[4:].strip() if negative else part
        )
        if match is None:
            raise ValueError(
                f"{where}: cannot read {part!r}. Write positions as 12, A12, 1-5 or 'not 12', "
                f"separated by commas."
            )
        lo, hi = int(match[1]), int(match[2] or match[1])
        if not 1 <= lo <= hi <= length:
            hint = f" Did you mean {hi}-{lo}?" if lo > hi else ""
            raise ValueError(f"{where}: {part!r} is outside positions 1-{length}.{hint}")
        (removed if negative else chosen).update(range(lo, hi + 1))
    return tuple(sorted(chosen - removed))


@dataclass(frozen=True)
class DesignSpace:
    """The allowed set A of sequences of length L.

    Attributes:
        alphabet: the letters.
        fixed: L characters, a letter where it is fixed and the mask symbol where it is free.
        allowed: L strings of allowed letters.
        wild_type: L letters, needed for a budget.
        max_mutations: largest number of positions that differ from the wild type; None for no
            limit.
        discount: how much less than fully the look-ahead counts at t = 1. Neighboring letters
            support each other, so a product of independent letters overstates the cost of the wild
            type while much is still open. Twisting by h^(1 − discount·t) is exact for any discount
            (h is whole at t = 0) and lowers the variance.

    Raises:
        ValueError: the set is empty, or a field does not fit; the message names the position and
            the smallest feasible budget. Nothing has been run by then.
    """

    alphabet: Alphabet
    fixed: str
    allowed: tuple[str, ...]
    wild_type: str | None = None
    max_mutations: int | None = None
    discount: float = 0.4

    def __post_init__(self) -> None:
        """Decide feasibility."""
        if not 0 <= self.discount < 1:
            raise ValueError(f"DesignSpace: discount must be in [0, 1), got {self.discount}.")
        length, letters = len(self.fixed), self.alphabet.letters
        if len(self.allowed) != length or (
            self.wild_type is not None and len(self.wild_type) != length
        ):
            raise ValueError(
                f"DesignSpace: fixed has {length} positions, allowed {len(self.allowed)}, "
                f"wild_type "
                f"{None if self.wild_type is None else len(self.wild_type)}; they must agree."
            )
        for name, text in (("fixed", self.fixed), ("wild_type", self.wild_type or "")):
            for i, letter in enumerate(text):
                if letter not in letters and not (
                    name == "fixed" and letter == self.alphabet.mask_symbol
                ):
                    raise ValueError(
                        f"DesignSpace: {name} position {i + 1} is {letter!r}, not one of "
                        f"{letters!r}."
                    )
        for i, some in enumerate(self.allowed):
            unknown = set(some) - set(letters)
            if unknown:
                raise ValueError(
                    f"DesignSpace: allowed letters {sorted(unknown)} at position {i + 1} are not "
                    f"in {letters!r}."
                )
            if not some:
                raise ValueError(
                    f"DesignSpace: no letter is allowed at position {i + 1}; allow at least one of "
                    f"{letters!r}."
                )
            if self.fixed[i] != self.alphabet.mask_symbol and self.fixed[i] not in some:
                raise ValueError(
                    f"DesignSpace: position {i + 1} is fixed to {self.fixed[i]!r}, which is not "
                    f"among the letters allowed "
                    f"there, {some!r}. Allow it or free the position."
                )
        if self.max_mutations is None:
            return
        if self.wild_type is None:
            raise ValueError("DesignSpace: max_mutations needs a wild_type to count from.")
        if self.max_mutations < 0:
            raise ValueError(f"DesignSpace: max_mutations must be >= 0, got {self.max_mutations}.")
        forced = [i + 1 for i in range(length) if self.wild_type[i] not in self._options(i)]
        if len(forced) > self.max_mutations:
            raise ValueError(
                f"DesignSpace: max_mutations is {self.max_mutations}, but {len(forced)} positions "
                f"cannot keep the wild "
                f"type ({', '.join(map(str, forced[:10]))}{', ...' if len(forced) > 10 else ''}); "
                f"the smallest feasible "
                f"value is {len(forced)}."
            )

    @classmethod
    def build(
        cls,
        alphabet: Alphabet,
        length: int,
        *,
        wild_type: str | None = None,
        fix: str | Sequence[int] | Mapping[int, str] = "",
        design: str | Sequence[int] | None = None,
        omit: str = "",
        allow: Mapping[str, str] | None = None,
        omit_at: Mapping[str, str] | None = None,
        max_mutations: int | None = None,
    ) -> DesignSpace:
        """Build a design space from 1-based positions.

        `fix` (positions keep the wild type, or a mapping position → letter) wins over everything;
        positions outside `design` are fixed too; `omit` removes letters everywhere, `omit_at` and
        `allow` per position expression.
        """
        free = alphabet.mask_symbol
        wanted = (
            set(positions(design, length, "design"))
            if design is not None
            else set(range(1, length + 1))
        )
        letters: dict[int, str] = {}
        if isinstance(fix, Mapping):
            letters = {int(i): a for i, a in fix.items()}
            for i in letters:
                positions([i], length, "fix")
            kept: set[int] = set()
        else:
            kept = set(positions(fix, length, "fix"))
        kept |= set(range(1, length + 1)) - wanted - set(letters)
        if kept and wild_type is None:
            raise ValueError(
                f"Positions {sorted(kept)[:5]} are fixed to the wild type, but no wild_type was "
                f"given."
            )
        if wild_type is not None and len(wild_type) != length:
            raise ValueError(f"wild_type has {len(wild_type)} letters, the model designs {length}.")
        fixed = "".join(
            letters.get(i, wild_type[i - 1] if i in kept and wild_type else free)
            for i in range(1, length + 1)
        )
        for a in omit:
            if a not in alphabet.letters:
                raise ValueError(f"omit: {a!r} is not one of {alphabet.letters!r}.")
        allowed = ["".join(a for a in alphabet.letters if a not in omit) for _ in range(length)]
        for expression, some in (allow or {}).items():
            for i in positions(expression, length, "allow"):
                allowed[i - 1] = "".join(
                    a for a in some if a in allowed[i - 1] or a not in alphabet.letters
                )
        for expression, some in (omit_at or {}).items():
            for i in positions(expression, length, "omit"):
                allowed[i - 1] = "".join(a for a in allowed[i - 1] if a not in some)
        # a fixed position is what the user said: omit does not speak about it
        allowed = [f if f != free else a for f, a in zip(fixed, allowed, strict=True)]
        return cls(alphabet, fixed, tuple(allowed), wild_type, max_mutations)

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

    @cached_property
    def _fixed(self) -> Tensor:
        return self.alphabet.encode([self.fixed])[0]

    @cached_property
    def _allowed(self) -> Tensor:
        return torch.tensor(
            [[a in self._options(i) for a in self.alphabet.letters] for i in range(self.length)]
        )

    @cached_property
    def _all_allowed(self) -> bool:
        return bool(self._allowed.all())

    @cached_property
    def _wild(self) -> Tensor:
        return self.alphabet.encode([self.wild_type or self.alphabet.letters[0] * self.length])[0]

    @cached_property
    def _hot(self) -> Tensor:
        return torch.nn.functional.one_hot(self._wild, len(self.alphabet)).bool()

    def start(self, x_T: Tensor) -> Tensor:
        """Reveal the fixed letters in masked states (B, K, L): conditioning, not weighting."""
        free = self._fixed == self.alphabet.mask
        return torch.where(free | (x_T != self.alphabet.mask), x_T, self._fixed)

    def contains(self, x_0: Tensor) -> Tensor:
        """Return whether designs (B, K, L) are in A, (B, K) bool."""
        i = torch.arange(self.length, device=x_0.device)
        ok = self._allowed[i, x_0].all(-1)
        if self.max_mutations is not None:
            ok = ok & ((x_0 != self._wild).sum(-1) <= self.max_mutations)
        return ok

    def violations(self, sequence: str) -> list[str]:
        """Return one sentence per broken constraint of a sequence; empty if it is in A."""
        if len(sequence) != self.length:
            return [f"has {len(sequence)} letters, the design space {self.length}"]
        broken = [
            f"position {i + 1} is {a!r}, allowed are {self._options(i)!r}"
            for i, a in enumerate(sequence)
            if a not in self._options(i)
        ]
        if self.max_mutations is not None and self.wild_type is not None:
            count = sum(a != w for a, w in zip(sequence, self.wild_type, strict=True))
            if count > self.max_mutations:
                broken.append(f"{count} mutations, at most {self.max_mutations} are allowed")
        return broken

    def condition(
        self, posterior: CategoricalPosterior, x: Tensor, unknown: Tensor
    ) -> tuple[Tensor, CategoricalPosterior]:
        """Return log h(x), (B, K), and the posterior given A: its exact marginals.

        `x` (B, K, L) are tokens, `unknown` (B, K, L) marks the open positions. Where h is 0 the
        posterior is returned as is.
        """
        log_pi = posterior.log_probs
        legal = log_pi if self._all_allowed else log_pi.masked_fill(~self._allowed, -torch.inf)
        known_ok = (unknown | self._known_allowed(x)).all(-1)
        if self.max_mutations is None:
            mass = torch.where(unknown, torch.logsumexp(legal, -1).double(), 0.0)
            log_h = torch.where(known_ok, mass.sum(-1), -torch.inf)
            given = legal - mass[..., None].to(legal.dtype)
        else:
            split = _Split.of(legal, self._wild, unknown)
            used = ((x != self._wild) & ~unknown).sum(-1)
            log_h, keep, change = _budget(split, self.max_mutations - used)
            log_h = torch.where(known_ok, log_h, -torch.inf)
            # known positions stay; what cannot happen has log-probability -inf before and after,
            # and no shift
            keep = torch.where(unknown, keep - split.keep, 0.0).nan_to_num(
                -torch.inf, neginf=-torch.inf
            )
            change = torch.where(unknown, change - split.change, 0.0)
            change = change.nan_to_num(-torch.inf, neginf=-torch.inf)
            wild = self._wild.expand(x.shape)[..., None]
            kept = legal.gather(-1, wild) + keep[..., None].to(legal.dtype)
            given = (legal + change[..., None].to(legal.dtype)).scatter(-1, wild, kept)
        dead = torch.isneginf(log_h)
        if bool(dead.any()):
            given = torch.where(dead[..., None, None], log_pi, given)
        return log_h, CategoricalPosterior(given)

    def _known_allowed(self, x: Tensor) -> Tensor:
        v = len(self.alphabet)
        i = torch.arange(self.length, device=x.device)
        return self._allowed[i, x.clamp(max=v - 1)]

    def restrict(
        self, q: Transition, x_t: Tensor, guide: CategoricalPosterior, unknown: Tensor
    ) -> Transition:
        """Keep a proposal that reveals several letters at once inside A.

        `q` was built from the conditioned posterior `guide`. One letter at a time needs nothing
        more; a parallel kernel must spend the budget jointly.
        """
        if self.max_mutations is None or not isinstance(q, Categorical):
            return q
        return RestrictedReveal(self, q, x_t, guide, unknown)


@dataclass(frozen=True)
class _Split:
    """Log-mass of keeping and of changing the wild type, (..., L); (0, -inf) at known positions."""

    keep: Tensor
    change: Tensor

    @classmethod
    def of(cls, legal: Tensor, wild: Tensor, unknown: Tensor) -> _Split:
        index = wild.expand(unknown.shape)[..., None]
        keep = legal.gather(-1, index)[..., 0].double()
        change = legal.exp().scatter(-1, index, 0.0).sum(-1).double().log()
        if bool(torch.isneginf(change).any()):
            # either nothing else is allowed or it is too unlikely for exp: only the logarithms can
            # tell
            change = torch.logsumexp(legal.scatter(-1, index, -torch.inf), -1).double()
        return cls(torch.where(unknown, keep, 0.0), torch.where(unknown, change, -torch.inf))


def _budget(split: _Split, left: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return log P(changes <= left), (...,), and log P(kept), log P(changed) given that, (..., L).

    A product tree over positions of the polynomials keep + change·z, cut at the largest budget. z
    is scaled so that the mean number of changes is at most the budget and every factor is a
    probability: what counts then lies near one, so that nothing over- or underflows and nothing
    cancels. The conditional probabilities are the derivatives of log P.
    """
    degree = int(left.max().clamp(min=0))
    has = torch.isfinite(split.keep)
    base = torch.where(has, split.keep, split.change)
    odds = torch.where(has, split.change - base, -torch.inf)
    # a position that cannot keep its letter spends one mutation whatever the scale
    room = (left - (~has).sum(-1)).clamp(min=1)
    scale = (odds.logsumexp(-1) - torch.log(room.double())).clamp(min=0.0)
    if float((scale * room).max()) > 300:
        # odds so uneven that Σ odds says little about the mean: bisect for mean = budget
        low, high = torch.zeros_like(scale), scale
        for _ in range(16):
            middle = 0.5 * (low + high)
            many = torch.sigmoid(odds - middle[..., None]).sum(-1) > room
            low, high = torch.where(many, middle, low), torch.where(many, high, middle)
        scale = high
    odds = torch.where(has, odds, 0.0) - scale[..., None]
    logs = torch.stack((torch.where(has, 0.0, -torch.inf), odds), -1)
    norm = logs.logsumexp(-1)
    # coefficients first, (n, N, L): every product of two halves is one multiplication and one small
    # matrix product
    rows, length = split.keep.shape[:-1], split.keep.shape[-1]
    factors = (logs - norm[..., None]).exp().movedim(-1, 0).flatten(1, -2)
    tree = [factors]
    while tree[-1].shape[-1] > 1:
        if tree[-1].shape[-1] % 2:
            one = torch.zeros_like(tree[-1][..., :1])
            one[0] = 1.0
            tree[-1] = torch.cat((tree[-1], one), -1)
        a, b = tree[-1].chunk(2, -1)
        n = a.shape[0]
        terms = _convolution(n, n, min(2 * n - 1, degree + 1)).to(a)
        tree.append((terms @ (a[:, None] * b).flatten(2).flatten(0, 1)).unflatten(-1, a.shape[1:]))
    coefficients = tree[-1][..., 0].movedim(0, -1).unflatten(0, rows)
    order = torch.arange(coefficients.shape[-1], device=left.device)
    counts = (coefficients > 0) & (order <= left[..., None])
    lift = order * scale[..., None]
    lifted = torch.where(counts, coefficients.log() + lift, -torch.inf)
    log_p = torch.logsumexp(lifted, -1)
    # down again: what each coefficient adds to P, relative to P
    slope = torch.where(counts, torch.exp(lift - log_p[..., None]), 0.0)
    slope = slope.flatten(0, -2).movedim(-1, 0)[..., None]
    for children in reversed(tree[:-1]):
        half = children.shape[-1] // 2
        other = torch.roll(children, half, -1)
        pair = slope[..., :half].repeat(1, 1, 2)
        n, m = children.shape[0], pair.shape[0]
        terms = _convolution(n, n, m).reshape(m, n, n).transpose(0, 1).reshape(n, m * n).to(other)
        slope = (terms @ (pair[:, None] * other).flatten(2).flatten(0, 1)).unflatten(
            -1, other.shape[1:]
        )
    marginal = (slope * tree[0])[..., :length].clamp(min=0.0)
    keep, change = torch.log(marginal).unflatten(1, rows).unbind(0)
    return log_p + (base + norm).sum(-1), keep, change


@lru_cache(maxsize=256)
def _convolution(n: int, m: int, width: int) -> Tensor:
    """Return the 0/1 matrix (width, n·m) that adds the products a[j]·b[i] with j + i = k."""
    j, i, k = torch.arange(n)[:, None], torch.arange(m), torch.arange(width)[:, None, None]
    return (j + i == k).double().flatten(1)


@dataclass(frozen=True)
class RestrictedReveal:
    """A parallel reveal whose letters are drawn one after another under the remaining budget.

    The set of positions to reveal comes from `q`; then q(a) ∝ q_i(a) · h(so far, i = a), where h
    counts the later revealed positions with the letters of `q` and all others with the posterior
    `guide`.
    """

    space: DesignSpace
    q: Categorical
    x_t: Tensor
    guide: CategoricalPosterior
    unknown: Tensor

    def sample(self, rng: Streams) -> Tensor:
        """Draw x_s, (B, K, L)."""
        return self.draw(rng)[0]

    def draw(self, rng: Streams) -> tuple[Tensor, Tensor]:
        """Draw x_s (B, K, L) with its log-probability (B, K)."""
        v = len(self.space.alphabet)
        pattern = self.q.sample(rng.at("set"))
        chosen = self.unknown & (pattern < v)
        return self._walk(chosen, rng.at("letters"), None)

    def log_prob(self, x_s: Tensor) -> Tensor:
        """Return the log-probability of x_s, (B, K)."""
        v = len(self.space.alphabet)
        same = ((x_s == self.x_t) | self.unknown).all(-1)
        _, log_q = self._walk(self.unknown & (x_s < v), None, x_s)
        return torch.where(same, log_q, -torch.inf)

    def tilt(self, g: Tensor) -> RestrictedReveal:
        """Tilt the letters and the reveal rate; the budget holds as before."""
        return RestrictedReveal(self.space, self.q.tilt(g), self.x_t, self.guide, self.unknown)

    def _walk(
        self, chosen: Tensor, rng: Streams | None, given: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        space = self.space
        v, length = len(space.alphabet), self.x_t.shape[-1]
        letters = self.q.log_probs[..., :v]
        mass = torch.logsumexp(letters, -1)
        letters = letters - mass[..., None]
        # the reveal pattern: hidden with the mask's probability, shown with the rest
        log_q = torch.where(chosen, mass, 0.0)
        if self.q.log_probs.shape[-1] > v:
            log_q = log_q + torch.where(self.unknown & ~chosen, self.q.log_probs[..., v], 0.0)
        log_q = log_q.sum(-1)
        source = torch.where(chosen[..., None], letters, self.guide.log_probs)
        legal = torch.where(space._allowed, source, -torch.inf)
        split = _Split.of(legal, space._wild, self.unknown)
        assert space.max_mutations is not None
        left = space.max_mutations - ((self.x_t != space._wild) & ~self.unknown).sum(-1)
        after = self._after(split, chosen, int(left.max().clamp(min=0)))
        noise = None if rng is None else rng.uniform((*chosen.shape, v))
        x_s = self.x_t.clone()
        for i in range(length):
            here = chosen[..., i]
            if not bool(here.any()):
                continue
            tail = after[i]
            top = tail.shape[-1] - 1
            room = tail.gather(-1, left.clamp(0, top)[..., None])
            less = tail.gather(-1, (left - 1).clamp(0, top)[..., None])
            less = torch.where((left < 1)[..., None], -torch.inf, less)
            room = torch.where((left < 0)[..., None], -torch.inf, room)
            logits = legal[..., i, :] + torch.where(space._hot[i], room, less)
            logits = torch.log_softmax(logits, -1).nan_to_num(nan=-torch.inf, neginf=-torch.inf)
            if noise is not None:
                a = (logits - torch.log(-torch.log(noise[..., i, :]))).argmax(-1)
            else:
                assert given is not None
                a = torch.where(here, given[..., i], 0)
            x_s[..., i] = torch.where(here, a, x_s[..., i])
            log_q = log_q + torch.where(here, logits.gather(-1, a[..., None])[..., 0], 0.0)
            left = left - (here & (a != space._wild[i])).long()
        return x_s, log_q

    def _after(self, split: _Split, chosen: Tensor, degree: int) -> list[Tensor]:
        """Return, per position, log P(at most n changes in all that is not yet drawn)."""
        poly = torch.full((*chosen.shape[:-1], degree + 1), -torch.inf, dtype=torch.float64)
        poly[..., 0] = 0.0
        length = chosen.shape[-1]
        hidden = self.unknown & ~chosen
        for i in range(length):
            poly = _extend(poly, split.keep[..., i], split.change[..., i], hidden[..., i])
        tails: list[Any] = [None] * length
        for i in reversed(range(length)):
            tails[i] = torch.logcumsumexp(poly, -1)
            poly = _extend(poly, split.keep[..., i], split.change[..., i], chosen[..., i])
        return tails


def _extend(poly: Tensor, keep: Tensor, change: Tensor, where: Tensor) -> Tensor:
    """Multiply a log-polynomial (..., n) by keep + change·z where asked."""
    shifted = torch.nn.functional.pad(poly[..., :-1], (1, 0), value=-torch.inf)
    grown = torch.logaddexp(poly + keep[..., None], shifted + change[..., None])
    return torch.where(where[..., None], grown, poly)
