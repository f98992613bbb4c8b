"""A rehearsal: a method run with the network and the reward taken out, to count its calls.

What is counted depends on how many letters are revealed and never on what they are, so sequences
are rehearsed with two letters and no constraint, and long ones by short ones: the counts of four
sizes lie on a parabola (a step costs the same everywhere, or as much as there are steps left),
which is followed to the length that is meant. Where they do not, the whole length is rehearsed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any, cast

import torch
from torch import Tensor

from seqalign.campaign.medium import Rehearsal
from seqalign.core.discrete import MaskedProcess, UniformProcess
from seqalign.core.method import Method
from seqalign.core.objective import Reward
from seqalign.core.process import Designs, Process
from seqalign.core.sequence import Alphabet
from seqalign.core.streams import Streams
from seqalign.space.space import DesignSpace

# a quarter of the steps up to which a run is rehearsed as a whole
SHORT = 24


class _Blank(Reward):
    """Zero, with or without a gradient."""

    def __init__(self, reward: Reward) -> None:
        self.name, self.differentiable = reward.name, reward.differentiable

    def __call__(self, designs: Designs) -> Tensor:
        return torch.zeros(designs.shape, dtype=torch.float64)

    def relaxed(self, x: Tensor) -> Tensor:
        return 0.0 * x.double().flatten(2).sum(-1)


def _flat(x: Tensor, t: float) -> Tensor:
    """Return equal logits for two letters."""
    return 0.0 * x[..., :2] if x.is_floating_point() else torch.zeros((*x.shape, 2)).double()


def rehearse(
    method: Method, process: Process, reward: Reward, particles: int, space: DesignSpace | None
) -> Rehearsal:
    """Run a method on a process whose network costs nothing, and count."""
    if chained(
        method
    ):  # they are made where rewards differ, as blank ones never do: count the most
        always = replace(cast(Any, method).resample, ess_below=1.0)
        method = replace(cast(Any, method), resample=always)
    spare = getattr(method, "burn_in", 0)
    if spare:  # a chain: one sweep for each design, and some before, all alike
        one = rehearse(replace(cast(Any, method), burn_in=0), process, reward, 1, space)
        each, sweeps = (spare + particles) / particles, spare + particles
        return Rehearsal(one.network * each, one.reward * each, sweeps)

    def run(process: Process, space: DesignSpace | None) -> Rehearsal:
        blank, rng = _Blank(reward), Streams(0, (0,))
        samples = method(process, blank, (1, particles), rng=rng, space=space)
        calls = samples.network_calls / particles, samples.reward_calls / particles
        return Rehearsal(*calls, len(samples.trace))

    standing = None if space is None else _standing(process, space)
    if standing is None:
        return run(process, space)
    size, make = standing
    if size <= 4 * SHORT:
        return run(*make(size))
    try:
        some = [run(*make(SHORT * k)) for k in (1, 2, 3, 4)]
    except ValueError:  # a setting that fits the length that is meant, and no shorter one
        return run(process, space)
    counts = [_followed([getattr(r, f) for r in some], size) for f in ("network", "reward")]
    steps = _followed([float(r.steps) for r in some], size)
    network, of_reward = counts
    if network is None or of_reward is None or steps is None:
        return run(process, space)
    return Rehearsal(network, of_reward, round(steps))


def chained(method: Method) -> bool:
    """Return whether a method makes chains of few resampled particles."""
    return getattr(getattr(method, "resample", None), "chains", None) is not None


def _followed(values: list[float], size: int) -> float | None:
    """Return the parabola through values at 1, 2, 3 and 4 times SHORT; None if they are on none."""
    a, b, c, d = map(Fraction, values)
    if d - 3 * c + 3 * b - a:
        return None
    s = Fraction(size - SHORT, SHORT)
    return float(a + s * (b - a) + s * (s - 1) / 2 * (c - 2 * b + a))


Made = tuple[Process, DesignSpace]


def _standing(process: Process, space: DesignSpace) -> tuple[int, Callable[[int], Made]] | None:
    """Return the reveals or steps of a process, and what makes one with others that counts alike.

    None where what is counted depends on which letters change.
    """
    two = Alphabet("AB")

    if type(process) is MaskedProcess and process.order == "random" and process.event_mask is None:
        spare, masked = process.steps - space.reveals, process

        def shorter(n: int) -> Made:
            given: dict[str, Any] = {
                "bias": None,
                "blocks": (),
                "numbering": None,
                "wild_type": None,
                "keep": "",
            }
            given |= {"alphabet": two, "length": n, "steps": n + spare, "network": _flat}
            return replace(masked, **given), DesignSpace(two, n, discount=space.discount)

        return space.reveals, shorter
    if type(process) is UniformProcess and process.event_mask is None:
        uniform = process

        def fewer(n: int) -> Made:
            other = replace(uniform, alphabet=two, length=2, steps=n, network=_flat)
            return other, DesignSpace(two, 2, discount=space.discount)

        return process.steps, fewer
    return None
