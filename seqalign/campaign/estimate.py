"""What a campaign will cost: calls, seconds, memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from seqalign.campaign.medium import Plan


@dataclass(frozen=True)
class Estimate:
    """What a run will cost.

    Network calls are per arm, with calibration and evaluation, oracle calls per reward, at most;
    the peak of memory is a guess. `most` is what the longest run costs, where a run stops by itself
    and this is the shortest.
    """

    network: Mapping[str, int]
    oracle: Mapping[str, int]
    seconds: float
    gigabytes: float
    most: Estimate | None = None


def estimate(plan: Plan) -> Estimate:
    """Time one small network call and one call of each reward, and multiply."""
    call, each, gigabytes = plan.medium.cost(plan)

    def cost(plan: Plan) -> Estimate:
        network = {a.name: plan.arm_calls(a) for a in plan.arms} | dict(plan.medium.beside(plan))
        oracle = {t.label: plan.medium.oracle_calls(plan, t.spec.role) for t in plan.terms}
        seconds = call * sum(network.values())
        seconds += sum(each[label] * calls for label, calls in oracle.items())
        return Estimate(network, oracle, seconds, gigabytes)

    most = None if plan.most is None else cost(plan.of(plan.most))
    return replace(cost(plan), most=most)
