"""A chain that nobody looks at before its end: a step computes the one position that it reveals.

For a network that remembers. The draws are those that the loop makes from the same streams.
Constraints of single positions (fixed letters, omit, residues) take letters from the one row that
a step computes. A count or a pattern over several does not: its look-ahead is P(allowed) with every
open letter drawn from its own row, told all that is revealed, and a network that remembers has a
row only where it computes the position. Such chains take the loop, which computes all of them.

References:
    Dauparas et al., "Robust deep learning-based protein sequence design using ProteinMPNN",
    Science 2022 (its sampler).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from seqalign.core.budget import Budget
from seqalign.core.discrete import inverted
from seqalign.core.objective import evaluate
from seqalign.core.particles import Particles, Step
from seqalign.core.process import Process, Space
from seqalign.core.smc import SMC, Observe
from seqalign.core.streams import Streams

__all__ = ["able", "draw", "sweep"]


def able(process: Process, space: Space | None) -> bool:
    """Whether a chain can be drawn so: it remembers, and single positions alone are constrained."""
    of: Any = process
    if not getattr(of, "remembers", False) or of.order != "random" or of.blocks:
        return False
    return of.event_mask is None and (space is None or getattr(space, "sites", None) is not None)


def draw(
    process: Any,
    x: Tensor,
    rng: Streams,
    *,
    first: int = 1,
    allowed: Tensor | None = None,
    defense: float = 0.0,
    observe: Callable[[Tensor, Tensor], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Fill the open positions of x (B, K, L) as the unguided chain does.

    Args:
        process: masked, its network remembers; it reveals one random position a step. If it is
            metered, its calls are counted.
        x: as many open positions in each.
        rng: streams of the islands.
        first: the step that reveals the first position.
        allowed: (L, V) letters that the proposal is restricted to.
        defense: see `SMC`; the same draws need the same share.
        observe: told tokens (B, K, L) and log-weights (B, K) when they have been looked at.

    Returns:
        Tokens (B, K, L) and log p − log q, (B, K), nats.
    """
    lead, mask, meter = x.shape[:2], process.alphabet.mask, getattr(process, "meter", None)
    open_ = process.unknown(x).sum(-1)
    m = int(open_.max())
    if int(open_.min()) < m:
        raise ValueError("States with unequal numbers of open positions are drawn by the loop.")
    shift, u = torch.zeros(lead, dtype=torch.float64, device=x.device), torch.empty(0)
    allowed = None if allowed is None else allowed.to(x.device)

    def place(i: int, x: Tensor) -> Tensor:
        nonlocal u
        at = rng.at(first + i).at("proposal")
        u = at.at("reveal").uniform((*lead, 2), x.device)
        if allowed is not None and defense:
            # inside single positions what is mixed in has the law of the proposal itself
            away = at.at("away").uniform(lead, x.device) < defense
            wide = at.at("wide").at("reveal").uniform((*lead, 2), x.device)
            u = torch.where(away[..., None], wide, u)
        if meter is not None:
            meter.charge(network=len(x))
        u = u.flatten(0, 1)
        columns = (x == mask).nonzero()[:, 1].view(len(x), -1)
        even = torch.full_like(columns, -math.log(columns.shape[1]), dtype=torch.float64)
        position: Tensor = columns.gather(1, inverted(even, u[:, :1]))[:, 0]
        return position

    def choose(i: int, at: Tensor, logits: Tensor) -> Tensor:
        nonlocal shift
        if observe is not None:
            observe(x, shift)
        log_p: Tensor = torch.log_softmax(process.cooled(logits, at), -1).double()
        if allowed is not None:
            log_p = torch.where(allowed[at], log_p, -torch.inf)
            shift = shift + torch.logsumexp(log_p, -1).view(lead)
        letter: Tensor = inverted(torch.log_softmax(log_p, -1), u[:, 1:])[:, 0]
        return letter

    for filled in process.network.decode(x.flatten(0, 1), place, choose):
        x = filled.view(x.shape)
    return x, shift


def sweep(
    loop: SMC, shape: tuple[int, int], rng: Streams, budget: Budget | None, observe: Observe | None
) -> tuple[Particles, list[Step]]:
    """Run a loop that looks at nothing before its end; return (B, K) particles and a row a step.

    The log-weights on the way are those of what was drawn, without what is to come.
    """
    process, space, meter, trace = loop.process, loop.space, loop.meter, list[Step]()
    steps = len(process.times) - 1
    x = process.prior(shape, rng.at("prior"))
    process.check(steps, space, x)
    x = x if space is None else space.start(x)
    zero = torch.zeros(shape, dtype=torch.float64, device=x.device)
    flat = torch.zeros(shape[0], dtype=torch.float64, device=x.device)
    stay = torch.arange(shape[1], device=x.device).expand(shape)
    sound = torch.zeros_like(zero, dtype=torch.bool)
    now = Particles(0, x, zero, zero, zero, zero, zero, stay, flat, flat, sound, sound)
    before = meter.calls

    def note(**found: Any) -> None:
        nonlocal now, before
        now = replace(now, step=len(trace), **found)
        trace.append(Step.of(now, None, meter.since(before)))
        before = meter.calls
        if observe is not None:
            observe(trace[-1], now)

    with meter.within(budget):
        x_0, log_w = draw(
            process,
            x,
            rng,
            allowed=getattr(space, "sites", None),
            defense=loop.defense / steps,
            observe=lambda x, log_w: note(x=x, log_w=log_w),
        )
        while len(trace) < steps:
            note(x=x_0, log_w=log_w)
        reward = evaluate(loop.reward, process.decode(x_0))
        if space is not None:
            log_w = torch.where(space.contains(x_0), log_w, -torch.inf)
        value = reward / loop.alpha
        end = {"x": x_0, "log_w": log_w + value, "log_twist": value, "value": value}
        note(**end, reward=reward, lam=torch.ones_like(flat))
    return now, trace
