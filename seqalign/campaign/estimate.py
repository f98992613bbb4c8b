"""What a campaign will cost: calls, seconds, memory."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from seqalign.campaign.islands import references
from seqalign.campaign.plan import Plan, _oracle_calls
from seqalign.core.discrete import MaskedProcess
from seqalign.core.objective import Reward
from seqalign.core.streams import Streams
from seqalign.registry import (
    ImageModel,
)

__all__ = ["Estimate", "estimate"]


@dataclass(frozen=True)
class Estimate:
    """What a run will cost.

    Attributes:
        network: network calls per arm, calibration and evaluation included.
        oracle: calls per reward, at most.
        seconds: from one timed network call and one timed call of each reward.
        gigabytes: a guess at the peak of memory.
    """

    network: Mapping[str, int]
    oracle: Mapping[str, int]
    seconds: float
    gigabytes: float


def estimate(plan: Plan) -> Estimate:
    """Time one small network call and one call of each reward, and multiply."""
    network = {
        a.name: round(plan.rehearsals[a.name].network * a.particles) * plan.islands
        for a in plan.arms
    }
    oracle = {t.label: _oracle_calls(plan, t.spec.role) for t in plan.terms}
    islands, designs = references(plan.model)
    zscores = any(t.spec.scale == "zscore" for t in plan.guides())
    if isinstance(plan.model, ImageModel):
        if zscores:
            each = getattr(plan.model.process, "calls_per_state", 1)
            network["calibration"] = islands * designs * each * plan.model.steps
        return _estimate_images(plan, plan.model, network, oracle)
    model = plan.model
    process, n = model.process, min(plan.arms[0].particles, 16)
    if zscores:
        network["calibration"] = designs * model.calls
    if plan.evaluation_calls:
        network["evaluation"] = plan.evaluation_calls
    x = process.prior((1, n), Streams(0, (0,)))
    if isinstance(process, MaskedProcess):
        x = model.space.start(x)
    laps = []
    with torch.no_grad():
        for _ in range(3):
            begin = time.perf_counter()
            law = process.posterior(x, 1.0)
            model.space.condition(law, x, process.unknown(x))
            laps.append((time.perf_counter() - begin) / n)
    seconds = min(laps[1:]) * sum(network.values())
    hot = law.mean
    for t in plan.terms:
        begin = time.perf_counter()
        if t.spec.role == "guide" and t.raw.differentiable:
            with torch.no_grad():
                t.raw.relaxed(hot)
            each = 3 * (time.perf_counter() - begin) / n  # and its gradient
        else:
            each = t.raw.cost
        seconds += each * oracle[t.label]
    most = max(a.particles * getattr(a.method, "branch", 1) for a in plan.arms)
    state = most * process.length * (len(process.alphabet) + 1) * 8
    return Estimate(network, oracle, seconds, 0.6 + 40 * state / 1e9)


def _estimate_images(
    plan: Plan, model: ImageModel, network: Mapping[str, int], oracle: Mapping[str, int]
) -> Estimate:
    """Time one network call of a full chunk, and one call of each reward with its gradient."""
    process = model.one(0)
    n = min(plan.arms[0].particles, process.chunk or 16)
    x = process.prior((1, n), Streams(0, (0,)).at("estimate"))
    t = float(process.times[0])

    def lap(job: Callable[[], Any]) -> float:
        """Return seconds per design; the first lap warms up, unless it is long itself."""
        best = math.inf
        for _ in range(2):
            begin = time.perf_counter()
            job()
            if x.device.type == "cuda":
                torch.cuda.synchronize(x.device)
            best = min(best, time.perf_counter() - begin)
            if best > 2:
                break
        return best / n

    with torch.no_grad():
        mean = process.posterior(x, t).mean
        seconds = lap(lambda: process.posterior(x, t)) * sum(network.values())
        seconds /= getattr(process, "calls_per_state", 1)
        designs = process.decode(mean)

    def gradient(reward: Reward) -> None:
        leaf = mean.detach().requires_grad_()
        torch.autograd.grad(reward.graded(process.decode(leaf)).sum(), leaf)

    for term in plan.terms:
        if term.spec.role == "guide" and term.raw.differentiable:
            each = lap(lambda term=term: gradient(term.raw))  # type: ignore[misc]
        else:
            each = lap(lambda term=term: term.raw(designs))  # type: ignore[misc]
        seconds += each * oracle[term.label]
    return Estimate(network, oracle, seconds, _gigabytes(x.device))


def _gigabytes(device: torch.device) -> float:
    """Return the peak of memory so far: a step that was timed has had all that a run needs."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        import resource
    except ImportError:  # no such count on Windows
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)
