"""A masked chain that is looked at through a sketch, so that a step asks for one position.

What guides a chain (values, gradients, the look-ahead of a design space) may be anything that is
finite: the weights pay for it. Here it is the letters that the network gave each position before
the first reveal, π⁰, with what is known by now. The network itself is asked for the one position of
each particle that is revealed, and answers p. For a reward Σ_i S_i(x_i) that is

    q(a) ∝ π_i(a | prefix) exp(S_i(a)/alpha),    log-weight += log z_i − log c_i,

with z_i the normalizer of q and c_i = Σ_a π⁰_i(a) exp(S_i(a)/alpha) the twist of an open position;
for any other S is the gradient at the sketch's mean, and the end imposes the reward. The order of
the reveals is the pretrained chain's own and is not tilted.

References:
    Whiteley & Lee, "Twisted particle filters", Annals of Statistics 2014, arXiv 1210.0220. Zhao et
    al., "Probabilistic inference in language models via twisted sequential Monte Carlo", ICML 2024,
    arXiv 2404.17546. Dauparas et al., Science 2022 (random orders).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from seqalign.core.budget import Meter, Metered
from seqalign.core.causal import Causal
from seqalign.core.discrete import (
    CategoricalPosterior,
    MaskedProcess,
    OpenPosterior,
    inverted,
)
from seqalign.core.process import Process, Transition, over_tensors
from seqalign.core.streams import Streams

__all__ = ["Asked", "AskedReveal", "Sketched", "sketched"]

# a sketch that is sure of a letter would rule out what the network may say later
LEAST = -50.0


@dataclass(frozen=True, eq=False)
class Asked:
    """What a sketch knows of (B, K) states beside itself.

    Attributes:
        log_rows: (B, K, m, V) the sketch at the open positions.
        inner: what a network that remembers keeps; None for one that does not.
    """

    log_rows: Tensor
    inner: Any = None

    def map(self, f: Callable[[Tensor], Tensor]) -> Asked:
        """Apply `f` to every tensor."""
        return over_tensors(self, f)


@dataclass(frozen=True)
class Answer:
    """What the network answered last.

    Attributes:
        about: the sketch of the states that it was asked about, which says which ones.
        at: (B, K) the positions.
        log_p: (B, K, V) their letters.
        made: what a network that remembers needs to go on.
    """

    about: Tensor
    at: Tensor
    log_p: Tensor
    made: Any


@dataclass(frozen=True, eq=False)
class AskedReveal:
    """Reveal one open position, each as likely as the others, by letters that are asked for.

    Attributes:
        x_t: (B, K, L) tokens, V = mask.
        columns: (B, K, m) the open positions.
        letters: V.
        ask: positions (B, K) to log-probabilities (B, K, V) in float64.
        gain: (B, K, m, V) added to them before they are normalized; None adds nothing.
        wide: (B, K, m, V) the same of laws mixed in; None is none.
        share: how much of them.
    """

    x_t: Tensor
    columns: Tensor
    letters: int
    ask: Callable[[Tensor], Tensor]
    gain: Tensor | None = None
    wide: Tensor | None = None
    share: float = 0.0

    def sample(self, rng: Streams) -> Tensor:
        """Draw x_s, (B, K, L)."""
        return self._draw(rng)[0]

    def draw(self, rng: Streams) -> tuple[Tensor, Tensor]:
        """Draw x_s (B, K, L) with its log-probability (B, K)."""
        x_s, _, log_q = self._draw(rng)
        return x_s, log_q - math.log(self.columns.shape[-1])

    def weigh(self, base: Transition, rng: Streams) -> tuple[Tensor, Tensor]:
        """Draw x_s (B, K, L) with log base(x_s) − log q(x_s), (B, K)."""
        x_s, log_p, log_q = self._draw(rng)
        if not isinstance(base, AskedReveal) or base.gain is not None:
            log_p = base.log_prob(x_s) + math.log(self.columns.shape[-1])
        # a proposal that can draw nothing says so
        return x_s, torch.where(torch.isneginf(log_q), log_q, log_p - log_q)

    def log_prob(self, x_s: Tensor) -> Tensor:
        """Return the log-probability of x_s, (B, K); -inf unless one mask became a letter."""
        changed = x_s != self.x_t
        at = changed.int().argmax(-1, keepdim=True)
        row = (self.columns == at).int().argmax(-1, keepdim=True)
        a = x_s.gather(-1, at)
        _, log_q = self._laws(row)
        v, masked = self.letters, self.x_t.gather(-1, at) == self.letters
        found = log_q.gather(-1, a.clamp(max=v - 1)) - math.log(self.columns.shape[-1])
        legal = (changed.sum(-1, keepdim=True) == 1) & masked & (a < v)
        return torch.where(legal, found, -torch.inf)[..., 0]

    def tilt(self, g: Tensor) -> AskedReveal:
        """Return the letters ∝ p · exp(g[i, a] − g[i, mask]) at each position.

        g is (B, K, L, V + 1), or (B, K, m, V) if it is relative to the mask.
        """
        if g.shape[-1] > self.letters:
            g = g.gather(2, self.columns[..., None].expand(*self.columns.shape, g.shape[-1]))
            g = g[..., :-1] - g[..., -1:]
        return replace(self, gain=g if self.gain is None else self.gain + g)

    def defended(self, wide: AskedReveal, share: float) -> AskedReveal:
        """Mix other letters in."""
        none = torch.zeros((), dtype=torch.float64, device=self.x_t.device)
        return replace(self, wide=none if wide.gain is None else wide.gain, share=share)

    def _laws(self, row: Tensor) -> tuple[Tensor, Tensor]:
        """Return log p and log q (B, K, V) of the letters at one open position, row (B, K, 1)."""
        log_p = self.ask(self.columns.gather(-1, row)[..., 0])

        def law(gain: Tensor | None) -> Tensor:
            if gain is None or gain.dim() == 0:
                return log_p
            own = log_p + gain.gather(2, row[..., None].expand(*row.shape, gain.shape[-1]))[:, :, 0]
            mass = torch.logsumexp(own, -1, keepdim=True)
            return torch.where(torch.isneginf(mass), -torch.inf, own - mass)

        log_q = law(self.gain)
        if self.wide is not None:
            other = law(self.wide) + math.log(self.share)
            log_q = torch.where(
                torch.isneginf(log_q.amax(-1, keepdim=True)),
                log_q,
                torch.logaddexp(log_q + math.log1p(-self.share), other),
            )
        return log_p, log_q

    def _draw(self, rng: Streams) -> tuple[Tensor, Tensor, Tensor]:
        """Return x_s (B, K, L), and log p and log q (B, K) of its letter."""
        u = rng.at("reveal").uniform((*self.x_t.shape[:2], 2), self.x_t.device)
        even = torch.full_like(self.columns, -math.log(self.columns.shape[-1]), dtype=torch.float64)
        row = inverted(even, u[..., :1])
        log_p, log_q = self._laws(row)
        a = inverted(log_q, u[..., 1:])
        x_s = self.x_t.scatter(-1, self.columns.gather(-1, row), a)
        return x_s, log_p.gather(-1, a)[..., 0], log_q.gather(-1, a)[..., 0]


class Sketched:
    """A masked process looked at through a sketch, and otherwise itself; it counts its own calls.

    Every position of a particle that the network is asked for is a call, and so is each different
    state that a run starts from.
    """

    remembers: ClassVar[bool] = True
    differentiable: ClassVar[bool] = False
    chunk: ClassVar[None] = None
    calls_per_state: ClassVar[int] = 0

    def __init__(self, process: MaskedProcess, meter: Meter) -> None:
        self._process = process
        self.meter = meter
        self._last: Answer | None = None

    def __getattr__(self, name: str) -> Any:
        """Forward everything else."""
        return getattr(self._process, name)

    def take(self, islands: Sequence[int]) -> Sketched:
        """Return the process of a subset of its islands."""
        return Sketched(self._process.take(islands), self.meter)

    def posterior(
        self, x: Tensor, t: float, before: Any = None
    ) -> OpenPosterior | CategoricalPosterior:
        """Return the sketch of states x (B, K, L), which became of those of `before`.

        Raises:
            ValueError: the states have unequal numbers of open positions.
        """
        if before is None:
            return self._begun(x, t)
        kept, columns = before.kept, before.columns
        if columns is None or torch.equal(x, before.x_t):
            return before  # type: ignore[no-any-return]
        inner = self._told(x, before)
        left = x.gather(-1, columns) == self._process.alphabet.mask
        b, k, m = columns.shape
        if m == 1:
            return self._finished(x)
        row = left.nonzero()[:, 2].view(b, k, m - 1)
        wide = row[..., None].expand(b, k, m - 1, kept.log_rows.shape[-1])
        log_rows = kept.log_rows.gather(2, wide)
        return OpenPosterior(x, columns.gather(-1, row), log_rows, kept=Asked(log_rows, inner))

    def _begun(self, x: Tensor, t: float) -> OpenPosterior | CategoricalPosterior:
        """Ask about states that nothing is known of; equal ones are asked about once."""
        process = self._process
        b, k, _ = x.shape
        if not bool(process.unknown(x).any()):
            return self._finished(x)
        distinct, which = torch.unique(x.flatten(0, 1), dim=0, return_inverse=True)
        self.meter.charge(network=len(distinct))
        found = process.posterior(distinct[None], t)
        if not isinstance(found, OpenPosterior):
            raise ValueError(
                "States with unequal numbers of open positions: this method reveals one position "
                "of each a step. Start from states with as many, or use tds."
            )

        def spread(v: Tensor) -> Tensor:
            return v[0, which].view(b, k, *v.shape[2:])

        log_rows = spread(found.log_rows).clamp(min=LEAST)
        inner = None if found.kept is None else found.kept.map(spread)
        return OpenPosterior(x, spread(found.columns), log_rows, kept=Asked(log_rows, inner))

    def _finished(self, x: Tensor) -> CategoricalPosterior:
        """Return the point masses of states without an open position."""
        hot = self._process.relax(x)[..., :-1]
        return CategoricalPosterior(torch.log(hot).float())

    def _ask(self, x: Tensor, t: float, kept: Asked, at: Tensor) -> Answer:
        """Return what the network says of the letters at positions (B, K)."""
        process, last = self._process, self._last
        if last is not None and last.about is kept.log_rows and torch.equal(last.at, at):
            return last
        self.meter.charge(network=at.numel())
        made = None
        if kept.inner is None:
            rows = process.posterior(x, t).log_probs
            wide = at[..., None, None].expand(*at.shape, 1, rows.shape[-1])
            log_p = rows.gather(2, wide)[:, :, 0]
        else:
            logits, made = cast("Causal", process.network).ask(kept.inner, at)
            log_p = process.cooled(logits.flatten(0, 1), at.flatten()).view(logits.shape)
        log_p = torch.log_softmax(log_p.double(), -1)
        self._last = Answer(kept.log_rows, at, log_p, made)
        return self._last

    def _told(self, x: Tensor, before: OpenPosterior) -> Any:
        """Return what a network that remembers keeps of x, one letter after `before`."""
        kept: Asked = before.kept
        if kept.inner is None:
            return None
        at = (x != before.x_t).int().argmax(-1)
        made = self._ask(before.x_t, 0.0, kept, at).made
        return cast("Causal", self._process.network).tell(x, kept.inner, at, made)

    def transition(
        self, x_t: Tensor, posterior: OpenPosterior | CategoricalPosterior, t: float, s: float
    ) -> Transition:
        """Return p(x_s | x_t), or what the sketch given more makes of it."""
        kept: Asked | None = posterior.kept
        if kept is None:
            return self._process.transition(x_t, posterior, t, s)
        b, k, m, v = kept.log_rows.shape
        gain = None
        if isinstance(posterior, OpenPosterior):
            columns, rows = posterior.columns, posterior.log_rows
        else:
            columns = (x_t == self._process.alphabet.mask).nonzero()[:, 2].view(b, k, m)
            rows = posterior.log_probs.gather(2, columns[..., None].expand(b, k, m, v))
        if rows is not kept.log_rows:
            gain = rows.double() - kept.log_rows.double()
        return AskedReveal(x_t, columns, v, lambda at: self._ask(x_t, t, kept, at).log_p, gain)


def sketched(process: Process, name: str) -> Metered:
    """Return a process that is looked at through a sketch, its calls counted.

    Args:
        process: masked, one random position a step.
        name: of the method that asks, for messages.

    Raises:
        TypeError: the process is of another kind.
    """
    meter = process.meter if isinstance(process, Metered) else Meter()
    bare: Any = process._process if isinstance(process, Metered) else process
    why = ""
    if not isinstance(bare, MaskedProcess) or bare.order != "random":
        why = "reveals one random position a step, and this process does not"
    elif bare.blocks:
        why = "reveals one position a step, and tied positions are revealed together"
    elif bare.event_mask is not None:
        why = "reveals a position of every island a step, and these are of different length"
    if why:
        raise TypeError(f"{name} {why}: process {bare.name!r}. Use tds.")
    return Metered(Sketched(bare, meter), meter)
