"""Reorder: a move on the path by which a particle was revealed, exact for any network.

The target of a particle is a law of paths, who was revealed when with which letter; where the
network's conditionals are not those of one joint law, the law of a state alone is a sum over all
its paths that nobody knows. So the path is moved: some of its last reveals are taken out and as
many new ones put in, and every letter revealed after one of them is weighed anew.

References:
    Uria, Murray & Larochelle, "A deep and tractable density estimator", ICML 2014, arXiv 1310.1757
    (orders of one network disagree). Green, "Reversible jump Markov chain Monte Carlo computation",
    Biometrika 1995 (taking out and putting in).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from seqalign.core.moves import Loop, hidden, shows_one, sound, sweeps, visit, walk
from seqalign.core.particles import Particles
from seqalign.core.streams import Streams

__all__ = ["Reorder"]


@dataclass(frozen=True)
class Reorder:
    """Take reveals out of a path and put others in, at other places of its order.

    Of the last `depth` reveals an even choice R of `sites` is hidden; as many positions are
    revealed again by the loop's own proposal q, as if last, and put into the path at an even choice
    R' of its last `depth` places. R and R' cancel, as they are drawn alike whatever the path is:
    the ratio is Π p(path') / Π p(path) · Π q(old) / Π q(new), times that of exp(twist) · h, p
    running over the last `depth` reveals and q over those that were hidden, from the same state y
    without them. Letters that were given stay.

    A moved particle costs `depth` + 2 · `sites` network calls in a sweep.

    Attributes:
        share: fraction of the particles that is moved.
        sweeps: proposals one after another.
        every: move at every n-th step.
        sites: reveals that are taken out and put in together; two can swap mutations.
        depth: how many of the last reveals may change, at least `sites`.
    """

    share: float = 0.5
    sweeps: int = 1
    every: int = 1
    sites: int = 1
    depth: int = 4
    paths: ClassVar[bool] = True

    def __post_init__(self) -> None:
        sound(self)
        if not 1 <= self.sites <= self.depth:
            raise ValueError(
                f"Reorder needs 1 <= sites <= depth, got sites = {self.sites} and depth = "
                f"{self.depth}."
            )

    def check(self, loop: Loop, x: Tensor | None = None) -> None:
        """Refuse processes in which a single reveal is no step."""
        shows_one("Reorder", loop)
        if self.sites > loop.process.length:
            raise ValueError(
                f"Reorder cannot hide {self.sites} of {loop.process.length} positions; set fewer "
                f"sites."
            )
        if getattr(loop.process, "blocks", ()):
            raise ValueError(
                "Reorder moves single positions, and tied ones are revealed together; use redraw."
            )

    def __call__(
        self, loop: Loop, before: Particles, particles: Particles, able: Tensor, rng: Streams
    ) -> tuple[Particles, Tensor]:
        """Return moved particles and the accepted fraction, (B,)."""
        return sweeps(self, loop, particles, able, rng, self._propose)

    def _propose(
        self, loop: Loop, old: Particles, rng: Streams
    ) -> tuple[Particles, Tensor, Tensor]:
        assert old.order is not None
        assert old.odds is not None
        n, length = self.sites, old.x.shape[-1]
        depth = min(self.depth, length)
        # places of the path, first reveals first; those of shorter paths begin with empty ones, of
        # positions beside the sequence
        when, path = (v.flip(-1) for v in old.order.topk(depth))
        there = when > 0
        path = torch.where(there, path, length)

        def split(name: str) -> Tensor:
            """Return the places, those of an even choice of n at the end."""
            u = torch.where(there, rng.at(name).uniform(there.shape, there.device), -1.0)
            chosen = torch.zeros_like(when).scatter(-1, u.topk(n).indices, 1)
            return chosen.argsort(dim=-1, stable=True)

        out, into = split("out"), split("into")
        kept, taken = path.gather(-1, out).split([depth - n, n], -1)
        here = taken < length
        root, way = hidden(loop, old, taken.clamp(max=length - 1), here, rng)
        new, back = walk(loop, root, rng, n), walk(loop, root, rng, n, way)
        shown = [a != b for a, b in zip(new.states, [root.x, *new.states], strict=False)]
        put = torch.stack([v.int().argmax(-1) for v in shown], -1)
        again = torch.empty_like(path).scatter(-1, into, torch.cat((kept, put), -1))
        x = new.states[-1]
        odds = self._odds(loop, root, x, again)
        gain = odds.sum(-1) - _beside(old.odds).gather(-1, path).sum(-1) + back.log_q - new.log_q
        moved = replace(
            visit(loop, old, x, old.step, rng.at("look")),
            order=_beside(old.order).scatter(-1, path, 0).scatter(-1, again, when)[..., :-1],
            odds=_beside(old.odds).scatter(-1, path, 0.0).scatter(-1, again, odds)[..., :-1],
        )
        # where there was nothing to draw, what was drawn is no path
        return moved, torch.where(torch.isneginf(new.log_q), new.log_q, gain), here.all(-1)

    def _odds(self, loop: Loop, root: Particles, x: Tensor, path: Tensor) -> Tensor:
        """Return the log-probability of every reveal of a path that ends in x, (B, K, depth)."""
        bare = replace(loop._look, value=None, slope=None, space=None, through="none")
        times, found = loop._times[root.step - 1 : root.step + 1], []
        letters = _beside(x).gather(-1, path)
        state = _beside(x).scatter(-1, path, loop.process.alphabet.mask)
        for j in range(path.shape[-1]):
            before, at = state[..., :-1], path[..., j : j + 1]
            look = bare(before, times[0], Streams(0, tuple(range(len(x)))))
            p = loop.process.transition(before, look.posterior, times[0], times[1])
            state = state.scatter(-1, at, letters[..., j : j + 1])
            there = at[..., 0] < x.shape[-1]
            found.append(torch.where(there, p.log_prob(state[..., :-1]), 0.0))
        return torch.stack(found, -1)


def _beside(v: Tensor) -> Tensor:
    """Return (B, K, L) with a position beside the sequence, for what is nowhere in it."""
    return F.pad(v, (0, 1))
