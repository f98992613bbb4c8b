"""Discrete diffusion: masked (absorbing) and uniform processes with their reverse kernels.

One file: a posterior, the kernels it makes and their tilts read the same rows of letters, and are
exact only together.

References:
    Austin et al., "Structured denoising diffusion models in discrete state-spaces", NeurIPS 2021,
    arXiv 2107.03006. Sahoo et al., "Simple and effective masked diffusion language models", NeurIPS
    2024, arXiv 2406.07524. Uehara et al., arXiv 2501.09685, sections 2 and 6.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from seqalign.core.causal import Causal
from seqalign.core.process import Designs, Space, Transition, Whole, over_tensors
from seqalign.core.sequence import Alphabet, Names
from seqalign.core.streams import Streams

__all__ = [
    "BlockReveal", "Categorical", "CategoricalPosterior", "MaskedProcess", "Network", "OneReveal",
    "OpenPosterior", "Order", "UniformProcess", "inverted", "limited", "probabilities",
]  # fmt: skip

Order = Literal["random", "parallel"]
# (B, K, L) tokens or (B, K, L, V [+ 1]) relaxed states, and t, to (B, K, L, V) logits
Network = Callable[[Tensor, float], Tensor]


def probabilities(log_p: Tensor) -> Tensor:
    """Return exp(log_p), 0 where it is below the smallest normal numbers.

    The same as exp, which is ten times slower wherever it meets -inf or underflows.
    """
    tiny = 4 * torch.finfo(log_p.dtype).tiny
    p = log_p.clamp(min=math.log(tiny)).exp_()
    return F.threshold(p, 2 * tiny, 0.0, inplace=True)


@dataclass(frozen=True)
class CategoricalPosterior(Whole):
    """Independent letters given x_t.

    Attributes:
        log_probs: (B, K, L, V) in the network's precision; a known position is a point mass.
            Transitions normalize what they draw from in float64.
        relaxed: (B, K, L, V) the same as probabilities, kept only where a gradient flows through
            the network.
        kept: what a network that remembers made of these states.
    """

    log_probs: Tensor
    relaxed: Tensor | None = None
    kept: Any = None

    @cached_property
    def mean(self) -> Tensor:
        """Letter probabilities, (B, K, L, V)."""
        return probabilities(self.log_probs) if self.relaxed is None else self.relaxed

    @property
    def mode(self) -> Tensor:
        """Most likely letters, (B, K, L)."""
        return self.log_probs.argmax(-1)

    def sample(self, n: int, rng: Streams) -> Tensor:
        """Draw n sequences per particle, (B, K, n, L)."""
        b, k, length, v = self.log_probs.shape
        return rng.categorical(self.log_probs[:, :, None].expand(b, k, n, length, v))

    def expect(self, g: Tensor) -> Tensor:
        """Return E[<g, x_0>], (B, K); g (B, K, L, V)."""
        return (self.mean * g).double().sum((-1, -2))

    def tilt(self, g: Tensor) -> tuple[Tensor, Self]:
        """Return log E[exp(<g, x_0>)], (B, K), and the law ∝ π · exp(<g, x_0>); g (B, K, L, V)."""
        letters = self.log_probs + g
        mass = torch.logsumexp(letters, -1, keepdim=True)
        return mass.double().sum((-1, -2)), replace(self, log_probs=letters - mass, relaxed=None)

    def at(self, mean: Tensor) -> Self:
        """Return the same with another mean, (B, K, L, V), in which a gradient is taken."""
        return replace(self, relaxed=mean)


@dataclass(frozen=True)
class OpenPosterior:
    """Independent letters where x_t is masked, at as many positions in every particle.

    What is known keeps its letter, and needs neither memory nor time; on average over a run that is
    half of a sequence. `log_probs`, `mean`, `mode` and `sample` speak of all L positions.

    Attributes:
        x_t: (B, K, L) tokens, V = mask.
        columns: (B, K, m) the masked positions, ascending.
        log_rows: (B, K, m, V) their letters, in the network's precision.
        rows: (B, K, m, V) the same as probabilities, if they are at hand.
        relaxed: (B, K, L, V) what stands for the mean where a gradient is taken in it.
        kept: what a network that remembers made of these states.
    """

    x_t: Tensor
    columns: Tensor
    log_rows: Tensor
    rows: Tensor | None = None
    relaxed: Tensor | None = None
    kept: Any = None

    @classmethod
    def of(cls, x_t: Tensor, mask: int, logits: Tensor) -> OpenPosterior | None:
        """Read logits (B, K, L, V) where x_t is masked; None unless all particles have m >= 1."""
        b, k, length = x_t.shape
        place = (x_t == mask).flatten().nonzero()[:, 0]
        m, rest = divmod(len(place), b * k)
        if rest or not m:
            return None
        # in order: if every m of them lie in one particle, each particle has m
        columns = place.view(b, k, m) - _first(x_t)
        low, high = torch.stack(columns.aminmax()).tolist()
        if low < 0 or high >= length:
            return None
        rows = logits.reshape(-1, logits.shape[-1]).index_select(0, place)
        return cls(x_t, columns, torch.log_softmax(rows, -1).view(b, k, m, -1))

    @cached_property
    def index(self) -> Tensor:
        """(B · K · m,) the masked positions among all B · K · L."""
        return (self.columns + _first(self.x_t)).flatten()

    @cached_property
    def letters(self) -> Tensor:
        """Letter probabilities at the masked positions, (B, K, m, V)."""
        return probabilities(self.log_rows) if self.rows is None else self.rows

    def _spread(self, rows: Tensor, never: float, surely: float) -> Tensor:
        """Put (B, K, m, V) at the masked positions between point masses, (B, K, L, V)."""
        v = rows.shape[-1]
        points = rows.new_full((v + 1, v), never)
        points.fill_diagonal_(surely)
        out = points.index_select(0, self.x_t.flatten())
        return out.index_copy_(0, self.index, rows.reshape(-1, v)).view(*self.x_t.shape, v)

    @cached_property
    def log_probs(self) -> Tensor:
        """Letter log-probabilities, (B, K, L, V); a known position is a point mass."""
        return self._spread(self.log_rows, -torch.inf, 0.0)

    @cached_property
    def mean(self) -> Tensor:
        """Letter probabilities, (B, K, L, V)."""
        return self._spread(self.letters, 0.0, 1.0) if self.relaxed is None else self.relaxed

    @property
    def mode(self) -> Tensor:
        """Most likely letters, (B, K, L)."""
        return self.x_t.scatter(-1, self.columns, self.log_rows.argmax(-1))

    def sample(self, n: int, rng: Streams) -> Tensor:
        """Draw n sequences per particle, (B, K, n, L)."""
        return self.whole().sample(n, rng)

    def _rows(self, g: Tensor) -> Tensor:
        """Return what (B, K, L, V) says of the open positions, (B, K, m, V)."""
        return g.reshape(-1, g.shape[-1]).index_select(0, self.index).view(self.log_rows.shape)

    def expect(self, g: Tensor) -> Tensor:
        """Return E[<g, x_0>] of the open positions, (B, K); g (B, K, L, V)."""
        return (self.letters * self._rows(g)).double().sum((-1, -2))

    def tilt(self, g: Tensor) -> tuple[Tensor, Self]:
        """Return log E[exp(<g, x_0>)] of the open positions, (B, K), and the law ∝ π · exp(…)."""
        letters = self.log_rows + self._rows(g)
        mass = torch.logsumexp(letters, -1, keepdim=True)
        tilted = replace(self, log_rows=letters.sub_(mass), rows=None, relaxed=None)
        return mass.double().sum((-1, -2)), tilted

    def at(self, mean: Tensor) -> Self:
        """Return the same with another mean, (B, K, L, V), in which a gradient is taken."""
        return replace(self, relaxed=mean)

    def whole(self) -> CategoricalPosterior:
        """Return the same posterior with a row for every position."""
        return CategoricalPosterior(self.log_probs, self.relaxed, self.kept)

    def whole_score(self, score: Tensor) -> Tensor:
        """Turn a score relative to the mask, (B, K, m, V), into (B, K, L, V + 1)."""
        return F.pad(self._spread(score, 0.0, 0.0), (0, 1))

    def map(self, f: Callable[[Tensor], Tensor]) -> Self:
        """Apply `f` to every tensor; `rows` are found again where they are wanted."""
        return over_tensors(replace(self, rows=None), f)


def limited(
    posterior: CategoricalPosterior | OpenPosterior, guide: CategoricalPosterior | OpenPosterior
) -> CategoricalPosterior | OpenPosterior:
    """Return a posterior without the letters that are impossible in another of the same states.

    Letters that it calls impossible itself stay possible where there are no others.
    """
    if isinstance(posterior, OpenPosterior) and isinstance(guide, OpenPosterior):
        log_rows = _limited(posterior.log_rows, guide.log_rows)
        return replace(posterior, log_rows=log_rows, rows=None, relaxed=None)
    log_probs = _limited(posterior.log_probs, guide.log_probs)
    return CategoricalPosterior(log_probs, kept=posterior.kept)


def _limited(log_p: Tensor, other: Tensor) -> Tensor:
    # finite and as good as nothing in every precision
    return log_p.clamp(min=-8192.0).masked_fill_(torch.isneginf(other), -torch.inf)


def _first(x: Tensor) -> Tensor:
    """Return where each particle of (B, K, L) begins in the flattened tensor, (B, K, 1)."""
    b, k, length = x.shape
    return torch.arange(0, b * k * length, length, device=x.device).view(b, k, 1)


@dataclass(frozen=True)
class Categorical:
    """Independent positions: log_probs (B, K, L, W), normalized; W is V, or V + 1 with mask."""

    log_probs: Tensor

    def sample(self, rng: Streams) -> Tensor:
        """Draw x_s, (B, K, L)."""
        return rng.categorical(self.log_probs)

    def log_prob(self, x_s: Tensor) -> Tensor:
        """Return the log-probability of x_s, (B, K)."""
        return self.log_probs.gather(-1, x_s[..., None])[..., 0].sum(-1)

    def tilt(self, g: Tensor) -> Categorical:
        """Return the density ∝ p · exp(Σ_i g[i, x_s[i]]), normalized; g (B, K, L, W)."""
        return Categorical(torch.log_softmax(self.log_probs + g, -1))


@dataclass(frozen=True)
class OneReveal:
    """Reveal one masked position: the position first, then its letter. With nothing masked, stay.

    Attributes:
        x_t: (B, K, L) tokens, V = mask.
        log_position: (B, K, m) normalized over the masked positions.
        log_letter: (B, K, m, V) letters at the masked positions; the row that is drawn from is
            normalized in float64.
        columns: (B, K, m) the masked positions; None if there is a row for each of the L.
    """

    x_t: Tensor
    log_position: Tensor
    log_letter: Tensor
    columns: Tensor | None = None

    @property
    def masked(self) -> Tensor:
        """Masked positions, (B, K, L) bool."""
        return self.x_t == self.log_letter.shape[-1]

    def _row(self, i: Tensor) -> Tensor:
        """Return the normalized letters (B, K, V) of one row per particle, i (B, K, 1)."""
        row = self.log_letter.gather(2, i[..., None].expand(*i.shape, self.log_letter.shape[-1]))
        return torch.log_softmax(row[:, :, 0].double(), -1)

    def sample(self, rng: Streams) -> Tensor:
        """Draw x_s, (B, K, L)."""
        return self.draw(rng)[0]

    def draw(self, rng: Streams) -> tuple[Tensor, Tensor]:
        """Draw x_s (B, K, L) with its log-probability (B, K)."""
        x_s, log_q, _, _ = self._draw(rng)
        return x_s, log_q

    def weigh(self, base: Transition, rng: Streams) -> tuple[Tensor, Tensor]:
        """Draw x_s (B, K, L) with log base(x_s) − log q(x_s), (B, K)."""
        x_s, log_q, row, a = self._draw(rng)
        if isinstance(base, OneReveal) and base.columns is self.columns is not None:
            log_p = base.log_position.gather(-1, row) + base._row(row).gather(-1, a)
            return x_s, log_p[..., 0] - log_q
        return x_s, base.log_prob(x_s) - log_q

    def _draw(self, rng: Streams) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return x_s, its log-probability, and the row and letter that were drawn, (B, K, 1)."""
        u = rng.at("reveal").uniform((*self.x_t.shape[:2], 2), self.x_t.device)
        row = inverted(self.log_position, u[..., :1])
        letters = self._row(row)
        a = inverted(letters, u[..., 1:])
        log_q = (self.log_position.gather(-1, row) + letters.gather(-1, a))[..., 0]
        if self.columns is not None:
            return self.x_t.scatter(-1, self.columns.gather(-1, row), a), log_q, row, a
        open_ = self.masked.any(-1, keepdim=True)
        x_s = self.x_t.scatter(-1, row, torch.where(open_, a, self.x_t.gather(-1, row)))
        return x_s, torch.where(open_[..., 0], log_q, 0.0), row, a

    def log_prob(self, x_s: Tensor) -> Tensor:
        """Return the log-probability of x_s, (B, K); -inf unless one mask became a letter."""
        v = self.log_letter.shape[-1]
        changed = x_s != self.x_t
        i = changed.int().argmax(-1, keepdim=True)
        a = x_s.gather(-1, i)
        row = i if self.columns is None else (self.columns == i).int().argmax(-1, keepdim=True)
        letters = self._row(row).gather(-1, a.clamp(max=v - 1))
        log_q = self.log_position.gather(-1, row) + letters
        legal = (changed.sum(-1, keepdim=True) == 1) & (self.x_t.gather(-1, i) == v) & (a < v)
        if self.columns is not None:
            return torch.where(legal, log_q, -torch.inf)[..., 0]
        stay = ~self.masked.any(-1, keepdim=True) & ~changed.any(-1, keepdim=True)
        return torch.where(legal, log_q, torch.where(stay, 0.0, -torch.inf))[..., 0]

    def tilt(self, g: Tensor) -> OneReveal:
        """Return q(i, a) ∝ p(i, a) · exp(g[i, a] − g[i, mask]).

        g is (B, K, L, V + 1), or (B, K, m, V) if it is relative to the mask.
        """
        letters = self.log_letter + self._relative(g)
        mass = letters.clamp(min=-86.0).exp_().sum(-1).log()
        low, high = torch.stack(mass.aminmax()).tolist()
        if not (low > -60 and high < 80):
            # plain numbers of single precision over- or underflow
            mass = torch.logsumexp(letters, -1)
        log_letter = letters.sub_(mass[..., None])
        log_position, hidden = self.log_position + mass, None
        if self.columns is None:
            hidden = ~self.masked
            log_position = log_position.masked_fill(hidden, -torch.inf)
        log_position = log_position - torch.logsumexp(log_position, -1, keepdim=True)
        if hidden is not None:
            # an island with nothing masked has no position to normalize over
            log_position = log_position.masked_fill(hidden, -torch.inf)
        return OneReveal(self.x_t, log_position, log_letter, self.columns)

    def _relative(self, g: Tensor) -> Tensor:
        """Return how much more each letter gains than the mask, (B, K, m, V)."""
        if g.shape[-1] == self.log_letter.shape[-1]:
            return g
        if self.columns is not None:
            g = g.gather(2, self.columns[..., None].expand(*self.columns.shape, g.shape[-1]))
        return g[..., :-1] - g[..., -1:]


def inverted(log_p: Tensor, u: Tensor) -> Tensor:
    """Return the index (B, K, 1) at which the cumulative sum of (B, K, n) passes u (B, K, 1).

    One uniform per draw instead of n; what has probability 0 is never drawn.
    """
    total = log_p.double().exp().cumsum(-1)
    index = torch.searchsorted(total, u * total[..., -1:], right=True)
    return index.clamp_(max=log_p.shape[-1] - 1)


@dataclass(frozen=True)
class BlockReveal:
    """Reveal whole blocks of positions; letters inside a block are independent given x_t.

    Attributes:
        x_t: (B, K, L) tokens, V = mask.
        block: (L,) the block of each position, 0..U-1.
        log_show: (B, K, U) log-probability that a masked block is shown.
        log_hide: (B, K, U) that it stays masked, each block on its own; None shows exactly one
            block, and `log_show` is normalized over the masked ones.
        log_letter: (B, K, L, V) letters at the masked positions.
    """

    x_t: Tensor
    block: Tensor
    log_show: Tensor
    log_hide: Tensor | None
    log_letter: Tensor

    @property
    def masked(self) -> Tensor:
        """Masked positions, (B, K, L) bool."""
        return self.x_t == self.log_letter.shape[-1]

    def _sum(self, values: Tensor) -> Tensor:
        """Sum (B, K, L) over each block, (B, K, U)."""
        return torch.zeros_like(self.log_show).index_add_(-1, self.block, values.double())

    def sample(self, rng: Streams) -> Tensor:
        """Draw x_s, (B, K, L)."""
        if self.log_hide is None:
            picked = rng.at("position").categorical(self.log_show)[..., None]
            shown = torch.zeros_like(self.log_show, dtype=torch.bool).scatter(-1, picked, True)
        else:
            u = rng.at("position").uniform(self.log_show.shape, self.x_t.device)
            shown = torch.log(u) < self.log_show
        letters = rng.at("letter").categorical(self.log_letter)
        return torch.where(self.masked & shown[..., self.block], letters, self.x_t)

    def log_prob(self, x_s: Tensor) -> Tensor:
        """Return the log-probability of x_s, (B, K); -inf unless whole blocks became letters."""
        v, masked, changed = self.log_letter.shape[-1], self.masked, x_s != self.x_t
        rows = torch.log_softmax(self.log_letter.double(), -1)
        letters = rows.gather(-1, x_s.clamp(max=v - 1)[..., None])[..., 0]
        log_q = torch.where(changed, letters, 0.0).sum(-1)
        count, size = self._sum(changed), self._sum(masked)
        shown, open_ = count > 0, size > 0
        log_q = log_q + torch.where(shown, self.log_show, 0.0).sum(-1)
        legal = ((~changed | (masked & (x_s < v))).all(-1)) & ((count == 0) | (count == size)).all(
            -1
        )
        if self.log_hide is None:
            legal = legal & (shown.sum(-1) == open_.any(-1).long())
        else:
            log_q = log_q + torch.where(open_ & ~shown, self.log_hide, 0.0).sum(-1)
        return torch.where(legal, log_q, -torch.inf)

    def tilt(self, g: Tensor) -> BlockReveal:
        """Return q ∝ p · exp(Σ of g[i, a] − g[i, mask] over what is shown); g (B, K, L, V + 1)."""
        letters = self.log_letter.double() + (g[..., :-1] - g[..., -1:])
        mass = torch.logsumexp(letters, -1) - torch.logsumexp(self.log_letter.double(), -1)
        gain = self._sum(torch.where(self.masked, mass, 0.0))
        log_letter = torch.log_softmax(letters, -1)
        if self.log_hide is None:
            open_ = self._sum(self.masked) > 0
            log_show = torch.where(open_, self.log_show + gain, -torch.inf)
            log_show = log_show - torch.logsumexp(log_show, -1, keepdim=True)
            log_show = torch.where(open_, log_show, -torch.inf)
            return BlockReveal(self.x_t, self.block, log_show, None, log_letter)
        total = torch.logaddexp(self.log_show + gain, self.log_hide)
        return BlockReveal(
            self.x_t, self.block, self.log_show + gain - total, self.log_hide - total, log_letter
        )


def _answered(log_p: Tensor, name: str, t: float) -> Tensor:
    """Return the letters (B, K, ..., V) that a network answered.

    Raises:
        ValueError: a row is no law: it holds NaN or +inf, or no letter is possible.
    """
    # a draw from NaN is a letter like any other, and nobody would see where it came from
    if math.isnan(float(log_p.sum())):
        b, k = torch.isnan(log_p).flatten(2).any(-1).nonzero()[0].tolist()
        raise ValueError(
            f"The network of {name!r} answered island {b}, particle {k} at t = {t:g} with NaN, "
            f"+inf, or no possible letter at a position. Its weights, its input or its precision "
            f"are at fault: try another checkpoint, or float32."
        )
    return log_p


def _known_(log_pi: Tensor, x: Tensor, known: Tensor) -> Tensor:
    """Replace known positions by point masses at x, in place where memory allows."""
    log_pi, v = log_pi.contiguous(), log_pi.shape[-1]
    letter = x.clamp(max=v - 1)[..., None]
    point = torch.where(known[..., None], 0.0, log_pi.gather(-1, letter))
    # filling whole rows is three times faster than a mask over letters
    log_pi.view(-1, v).index_fill_(0, known.flatten().nonzero()[:, 0], -torch.inf)
    return log_pi.scatter_(-1, letter, point)


def _settle(process: Any, *names: str) -> None:
    """Move what a process of letters was given, if anything, to its device."""
    for name in names:
        if (given := getattr(process, name)) is not None:
            object.__setattr__(process, name, given.to(process.device))


@dataclass(frozen=True, eq=False)
class MaskedProcess:
    """Masked diffusion: x_T is all mask, letters are revealed and then stay.

    order "random" reveals one uniformly random position per step and has no time-discretization
    error; it needs steps >= masked positions. order "parallel" keeps each mask with probability
    s/t.

    Attributes:
        network: tokens (B, K, L) (or relaxed (B, K, L, V + 1) if `differentiable`) and t to logits
            (B, K, L, V).
        temperature: divides the logits; part of p_pre.
        takes_time: False lets the driver skip particles whose state did not change.
        chunk: particles per network call.
        event_mask: (B, L) bool, False at padding.
        wild_type: the natural sequence the model is placed on, if there is one.
        keep: positions (1-based expression) about which the model knows nothing; kept at the wild
            type by default.
        numbering: what the L positions are called; None counts them from 1.
        bias: (L, V) added to the logits before the temperature divides them; part of p_pre, a
            preference and no constraint. None adds nothing.
        blocks: groups of 1-based positions that are revealed together, each in one step; part of
            p_pre. Their letters are independent given x_t; a design space with these ties makes
            them equal.
    """

    network: Network
    alphabet: Alphabet
    length: int
    steps: int
    order: Order = "random"
    temperature: float = 1.0
    takes_time: bool = False
    differentiable: bool = False
    chunk: int | None = None
    event_mask: Tensor | None = None
    wild_type: str | None = None
    keep: str = ""
    numbering: Names | None = None
    bias: Tensor | None = None
    blocks: tuple[tuple[int, ...], ...] = ()
    name: str = "masked"
    discrete: bool = True
    absorbing: ClassVar[bool] = True
    calls_per_state: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"MaskedProcess steps must be >= 1, got {self.steps}.")
        if self.order not in ("random", "parallel"):
            raise ValueError(
                f"MaskedProcess order must be 'random' or 'parallel', got {self.order!r}."
            )
        if not self.temperature > 0:
            raise ValueError(f"MaskedProcess temperature must be > 0, got {self.temperature}.")
        wanted = (self.length, len(self.alphabet))
        if self.bias is not None and tuple(self.bias.shape) != wanted:
            raise ValueError(
                f"MaskedProcess bias has shape {tuple(self.bias.shape)}; it holds one number per "
                f"position and letter, {wanted}."
            )
        inside = [i for group in self.blocks for i in group]
        if len(set(inside)) < len(inside) or not set(inside) <= set(range(1, self.length + 1)):
            raise ValueError(
                f"MaskedProcess blocks {self.blocks} must be disjoint groups of positions "
                f"1-{self.length}."
            )
        if self.blocks and self.event_mask is not None:
            raise ValueError(
                "MaskedProcess: blocks and islands of different length cannot be combined; run "
                "the lengths one by one."
            )
        _settle(self, "event_mask", "bias")
        if self.numbering is not None and len(self.numbering) != self.length:
            raise ValueError(
                f"MaskedProcess numbering names {len(self.numbering)} positions, the process has "
                f"{self.length}."
            )

    @cached_property
    def times(self) -> Tensor:
        """(T + 1,) from 1 to 0."""
        return torch.linspace(1, 0, self.steps + 1, dtype=torch.float64)

    def take(self, islands: Sequence[int]) -> MaskedProcess:
        """Return the process of a subset of its islands."""
        if self.event_mask is None:
            return self
        return replace(self, event_mask=self.event_mask[list(islands)])

    @cached_property
    def _block(self) -> Tensor:
        """(L,) the block of each position, numbered by first position."""
        leader = {i: min(group) for group in self.blocks for i in group}
        names: dict[int, int] = {}
        order = (leader.get(i, i) for i in range(1, self.length + 1))
        return torch.tensor([names.setdefault(i, len(names)) for i in order], device=self.device)

    @property
    def device(self) -> torch.device:
        """Where states live: where the network says that it is, or on the CPU."""
        return torch.device(getattr(self.network, "device", "cpu"))

    def reveals(self, x: Tensor) -> Tensor:
        """Count the reveals left, (B, K): masked positions, a block counting once."""
        masked = x == self.alphabet.mask
        if not self.blocks:
            return masked.sum(-1)
        return self._masked_blocks(masked).sum(-1)

    def _masked_blocks(self, masked: Tensor) -> Tensor:
        count = int(self._block.max()) + 1
        zeros = torch.zeros((*masked.shape[:-1], count), dtype=torch.int64, device=masked.device)
        return zeros.index_add_(-1, self._block, masked.long()) > 0

    def unknown(self, x: Tensor) -> Tensor:
        """Positions whose final letter is open, (B, K, L) bool."""
        return x == self.alphabet.mask

    def prior(self, shape: tuple[int, int], rng: Streams) -> Tensor:
        """Return x_T, (B, K, L): all mask; padding holds token 0."""
        size = (*shape, self.length)
        x = torch.full(size, self.alphabet.mask, dtype=torch.int64, device=self.device)
        return x if self.event_mask is None else torch.where(self.event_mask[:, None], x, 0)

    def relax(self, x: Tensor) -> Tensor:
        """One-hot (..., L, V + 1)."""
        return F.one_hot(x, len(self.alphabet) + 1).double()

    def lift(self, g: Tensor, posterior: CategoricalPosterior | OpenPosterior) -> Tensor:
        """Turn a gradient in the mean, (..., V), into a score (..., V + 1); mask: Σ_a π_a g_a.

        At the open positions alone it is relative to the mask, (B, K, m, V).
        """
        if isinstance(posterior, OpenPosterior):
            rows = g.reshape(-1, g.shape[-1]).index_select(0, posterior.index)
            rows = rows.view(posterior.log_rows.shape)
            return rows.sub_((posterior.letters * rows).sum(-1, keepdim=True))
        return torch.cat((g, (posterior.mean * g).sum(-1, keepdim=True)), -1)

    @property
    def remembers(self) -> bool:
        """Whether the network keeps the states of the letters revealed so far."""
        return isinstance(self.network, Causal)

    def cooled(self, logits: Tensor, at: Tensor | None = None) -> Tensor:
        """Return logits (..., L, V), or those of positions `at`, with bias and temperature."""
        if self.bias is not None:
            bias = self.bias.to(logits)
            logits = logits + (bias if at is None else bias[at])
        return logits if self.temperature == 1 else logits / self.temperature

    def posterior(
        self, x: Tensor, t: float, before: Any = None
    ) -> CategoricalPosterior | OpenPosterior:
        """Call the network on tokens (B, K, L) or relaxed states (B, K, L, V + 1).

        `before` is the posterior of the states that these became of, for a network that remembers;
        without it all letters are taken as given.
        """
        kept = None
        if isinstance(self.network, Causal) and not x.is_floating_point():
            kept = self.network.advance(x, None if before is None else before.kept)
        logits = self.cooled(self.network(x, t) if kept is None else kept.logits)
        if not x.is_floating_point():
            logits = logits.detach()
            # islands of different length stay as they are alone: with a row for every position
            if self.order == "random" and not self.blocks and self.event_mask is None:
                found = OpenPosterior.of(x, self.alphabet.mask, logits)
                if found is not None:
                    _answered(found.log_rows, self.name, t)
                    return replace(found, kept=kept)
            log_pi = _known_(torch.log_softmax(logits, -1), x, x != self.alphabet.mask)
            return CategoricalPosterior(_answered(log_pi, self.name, t), kept=kept)
        log_pi = torch.log_softmax(logits, -1)
        known = x.detach()[..., -1] < 0.5
        log_probs = _known_(log_pi.detach().clone(), x.detach().argmax(-1), known)
        return CategoricalPosterior(
            _answered(log_probs, self.name, t),
            torch.where(known[..., None], x[..., :-1], log_pi.exp()),
        )

    def transition(
        self, x_t: Tensor, posterior: CategoricalPosterior | OpenPosterior, t: float, s: float
    ) -> OneReveal | BlockReveal | Categorical:
        """Return p(x_s | x_t)."""
        if isinstance(posterior, OpenPosterior):
            columns = posterior.columns
            log_position = torch.full_like(
                columns, -math.log(columns.shape[-1]), dtype=torch.float64
            )
            return OneReveal(x_t, log_position, posterior.log_rows, columns)
        masked = x_t == self.alphabet.mask
        log_pi = posterior.log_probs
        if self.blocks:
            open_ = self._masked_blocks(masked)
            one = torch.zeros(open_.shape, dtype=torch.float64, device=x_t.device)
            if self.order == "random":
                count = open_.sum(-1, keepdim=True).clamp(min=1).double()
                show = torch.where(open_, -torch.log(count), -torch.inf)
                return BlockReveal(x_t, self._block, show, None, log_pi)
            hide = one + (math.log(s / t) if s > 0 else -math.inf)
            return BlockReveal(x_t, self._block, one + math.log1p(-s / t), hide, log_pi)
        if self.order == "random":
            count = masked.sum(-1, keepdim=True).clamp(min=1).double()
            return OneReveal(x_t, torch.where(masked, -torch.log(count), -torch.inf), log_pi)
        stay = math.log(s / t) if s > 0 else -math.inf
        log_pi = torch.log_softmax(log_pi.double(), -1)
        log_probs = F.pad(log_pi + math.log1p(-s / t), (0, 1), value=stay)
        return Categorical(_known_(log_probs, x_t, ~masked))

    def corrupt(self, x_0: Tensor, step: int, rng: Streams, space: Space | None = None) -> Tensor:
        """Draw x_t at times[step]: each free position masked with probability t.

        Order "random" masks round(t · free positions). Blocks are masked as a whole, and what a
        space fixes is not free.
        """
        t, x_T = float(self.times[step]), self.prior((x_0.shape[0], x_0.shape[1]), rng)
        free = self.unknown(x_T if space is None else space.start(x_T)).to(x_0.device)
        free = self._masked_blocks(free) if self.blocks else free
        u = torch.where(free, rng.uniform(free.shape, x_0.device), torch.inf)
        if self.order == "random":
            live = free.sum(-1, keepdim=True)
            hit = u.argsort(-1).argsort(-1) < torch.round(t * live.double())
        else:
            hit = u < t
        if self.blocks:
            hit = hit[..., self._block]
        return torch.where(hit, self.alphabet.mask, x_0)

    def check(self, steps: int, space: Space | None = None, x: Tensor | None = None) -> None:
        """Refuse fewer steps than reveals in order "random", and ties that are not its blocks."""
        if space is not None and self.blocks != space.blocks:
            raise ValueError(
                f"The design space ties {space.blocks or 'nothing'}, and the process reveals "
                f"{self.blocks or 'no positions'} together. Use replace(process, "
                f"blocks=space.blocks)."
            )
        if self.order != "random":
            return
        if x is None:
            islands = range(1 if self.event_mask is None else len(self.event_mask))
            x = self.prior((len(islands), 1), Streams(0, tuple(islands)))
        open_ = int(self.reveals(x if space is None else space.start(x)).max())
        if open_ > steps:
            raise ValueError(
                f"Order 'random' reveals one position per step: {open_} positions are masked but "
                f"only {steps} steps are left. Set steps >= {open_}."
            )

    def decode(self, x_0: Tensor) -> Designs:
        """Turn finished tokens into designs; a ValueError if a position is still masked."""
        if (x_0 == self.alphabet.mask).any():
            raise ValueError(
                f"{int((x_0 == self.alphabet.mask).sum())} positions are still masked at the end: "
                f"order 'random' needs at least as many steps as masked positions (steps = "
                f"{self.steps})."
            )
        return Designs(x_0, self.alphabet, self.event_mask)


@dataclass(frozen=True, eq=False)
class UniformProcess:
    """Uniform-noise discrete diffusion: each letter is kept with probability 1 − t, else uniform.

    Attributes:
        network: tokens (B, K, L) (or relaxed (B, K, L, V)) and t to logits (B, K, L, V) of p(x_0 |
            x_t).
    """

    network: Network
    alphabet: Alphabet
    length: int
    steps: int
    differentiable: bool = False
    chunk: int | None = None
    event_mask: Tensor | None = None
    name: str = "uniform"
    takes_time: bool = True
    discrete: bool = True
    absorbing: ClassVar[bool] = False
    remembers: ClassVar[bool] = False
    calls_per_state: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _settle(self, "event_mask")

    @property
    def device(self) -> torch.device:
        """Where states live: where the network says that it is, or on the CPU."""
        return torch.device(getattr(self.network, "device", "cpu"))

    @cached_property
    def times(self) -> Tensor:
        """(T + 1,) from 1 to 0."""
        return torch.linspace(1, 0, self.steps + 1, dtype=torch.float64)

    def take(self, islands: Sequence[int]) -> UniformProcess:
        """Return the process of a subset of its islands."""
        if self.event_mask is None:
            return self
        return replace(self, event_mask=self.event_mask[list(islands)])

    def unknown(self, x: Tensor) -> Tensor:
        """Positions whose final letter is open, (B, K, L) bool: all but padding."""
        if self.event_mask is None:
            return torch.ones_like(x, dtype=torch.bool)
        return self.event_mask[:, None].expand(x.shape)

    def prior(self, shape: tuple[int, int], rng: Streams) -> Tensor:
        """Draw x_T, (B, K, L): uniform letters; padding holds token 0."""
        v = len(self.alphabet)
        x = (rng.uniform((*shape, self.length), self.device) * v).long().clamp(max=v - 1)
        return x if self.event_mask is None else torch.where(self.event_mask[:, None], x, 0)

    def relax(self, x: Tensor) -> Tensor:
        """One-hot (..., L, V)."""
        return F.one_hot(x, len(self.alphabet)).double()

    def lift(self, g: Tensor, posterior: CategoricalPosterior) -> Tensor:
        """Turn a gradient in the posterior mean, (B, K, L, V), into a score of the same shape."""
        return g

    def posterior(self, x: Tensor, t: float, *before: Any) -> CategoricalPosterior:
        """Call the network on tokens (B, K, L) or relaxed states (B, K, L, V)."""
        log_pi = torch.log_softmax(self.network(x, t).double(), -1)
        tokens = x.detach().argmax(-1) if x.is_floating_point() else x
        padding = ~self.unknown(tokens)
        log_probs = _known_(log_pi.detach().clone(), tokens, padding)
        _answered(log_probs, self.name, t)
        if not x.is_floating_point():
            return CategoricalPosterior(log_probs)
        return CategoricalPosterior(log_probs, torch.where(padding[..., None], x, log_pi.exp()))

    def transition(
        self, x_t: Tensor, posterior: CategoricalPosterior, t: float, s: float
    ) -> Categorical:
        """Return p(x_s | x_t) = Σ_{x_0} q(x_s | x_t, x_0) π(x_0 | x_t).

        References:
            Austin et al. 2021, equation 3 with the uniform matrix of appendix A.2.1.
        """
        v = len(self.alphabet)
        keep_t, keep_s = 1.0 - t, 1.0 - s
        hot = F.one_hot(x_t, v).double()
        ratio = posterior.mean.double() / (keep_t * hot + (1 - keep_t) / v)
        step = keep_t / keep_s
        back = step * hot + (1 - step) / v
        probs = back * (keep_s * ratio + (1 - keep_s) / v * ratio.sum(-1, keepdim=True))
        log_probs = torch.log(probs)
        log_probs = log_probs - torch.logsumexp(log_probs, -1, keepdim=True)
        return Categorical(_known_(log_probs, x_t, ~self.unknown(x_t)))

    def corrupt(self, x_0: Tensor, step: int, rng: Streams, space: Space | None = None) -> Tensor:
        """Draw x_t at times[step] from the forward process; what a space fixes stays."""
        noise = self.prior((x_0.shape[0], x_0.shape[1]), rng.at("noise"))
        hit = rng.at("keep").uniform(x_0.shape, x_0.device) < float(self.times[step])
        if space is not None:
            blank = torch.full_like(x_0, self.alphabet.mask)
            hit = hit & (space.start(blank) == blank)
        return torch.where(hit, noise, x_0)

    def check(self, steps: int, space: Space | None = None, x: Tensor | None = None) -> None:
        """Refuse nothing: any number of steps and any space will do."""

    def decode(self, x_0: Tensor) -> Designs:
        """Turn finished tokens into designs."""
        return Designs(x_0, self.alphabet, self.event_mask)
