"""Overhead of the loop on the PDZ3 demo: time of a run ÷ bare replay of its calls.

    python examples/benchmarks/overhead.py [--quick] [--repeats 5] [--threads 1]

The run is the demo's sampler (one island, 64 particles, one reveal per step, a budget of 8
mutations, posterior score). What its network and rewards are asked, and what they answer, is
recorded once. The replay asks the bare network and the bare rewards (with their gradients) the same
in the same order, and does nothing else. The loop alone is the run with the recorded answers in
place of network and rewards. The three alternate in one process with pinned threads; times are of
the wall and of the processor, which other programs disturb less.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.resources import files
from typing import Any, cast

import torch
import yaml
from torch import Tensor

import seqalign as sa
from seqalign.objective import Reward
from seqalign.process import Designs

# what was asked, in order: (kind, question, answer, gradient)
Calls = list[tuple[str, Any, Tensor, Tensor | None]]


class Recorder(Reward):
    """A reward that remembers what it was asked and what it said."""

    differentiable = True

    def __init__(self, inner: Reward, calls: Calls) -> None:
        self.inner, self.name, self.calls = inner, inner.name, calls

    def __call__(self, designs: Designs) -> Tensor:
        """Score designs, (B, K)."""
        answer = self.inner(designs)
        self.calls.append(("score", designs, answer, None))
        return answer

    def relaxed(self, x: Tensor) -> Tensor:
        """Score relaxed designs, (B, K)."""
        leaf = x.detach().clone().requires_grad_()
        answer = self.inner.relaxed(leaf)
        (gradient,) = torch.autograd.grad(answer.sum(), leaf)
        self.calls.append(("relaxed", x.detach().clone(), answer.detach(), gradient))
        return cast(Tensor, _Known.apply(x, answer.detach(), gradient))


class _Known(torch.autograd.Function):
    """A function whose value and gradient are known."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, answer: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return answer.clone()

    @staticmethod
    def backward(ctx: Any, *outward: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return outward[0].to(gradient)[..., None, None] * gradient, None, None


class Tape(Reward):
    """A reward that answers from a record."""

    differentiable = True

    def __init__(self, name: str, answers: Iterator[Any]) -> None:
        self.name, self.answers = name, answers

    def __call__(self, designs: Designs) -> Tensor:
        """Return the recorded scores, (B, K)."""
        return cast(Tensor, next(self.answers)[2])

    def relaxed(self, x: Tensor) -> Tensor:
        """Return the recorded scores, (B, K), with their gradient."""
        _, _, answer, gradient = next(self.answers)
        return cast(Tensor, _Known.apply(x, answer, gradient))


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds of wall and processor that `work` takes."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def main() -> None:
    """Print the ratio of every pair and their median."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="1 repeat, 10 particles")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--particles", type=int, default=64)
    args = parser.parse_args()
    repeats, particles = (1, 10) if args.quick else (args.repeats, args.particles)
    torch.set_num_threads(args.threads)
    model = sa.load_model("pdz-mini", max_mutations=8)
    reward = 1.0 * sa.load_reward("pdz3-stability") + 1.0 * sa.load_reward("pdz3-affinity")
    process: Any = model.process
    network = process.network
    calls: Calls = []

    def recording(x: Tensor, t: float) -> Tensor:
        answer = network(x, t)
        calls.append(("network", x.clone(), answer.clone(), None))
        return cast(Tensor, answer)

    demo = yaml.safe_load((files("seqalign") / "data" / "demo-pdz3.yaml").read_text())
    sampler = {k: v for k, v in demo["sampler"].items() if k not in ("islands", "particles")}
    method = sa.load_method(sampler.pop("name"), **sampler)

    def run(process: Any, reward: Reward) -> sa.Samples:
        rng = sa.Streams(0, (0,))
        return cast(sa.Samples, method(process, reward, (1, particles), rng=rng, space=model.space))

    recorded = run(replace(process, network=recording), Recorder(reward, calls))

    def replay() -> None:
        for kind, asked, _, _ in calls:
            if kind == "network":
                with torch.no_grad():
                    network(asked, 0.0)
            elif kind == "relaxed":
                leaf = asked.requires_grad_()
                torch.autograd.grad(reward.relaxed(leaf).sum(), leaf)
            else:
                reward(asked)

    def alone() -> sa.Samples:
        answers = iter(calls)
        # the posterior is computed in place of the logits
        spoken = replace(process, network=lambda x, t: next(answers)[2])
        return run(spoken, Tape(reward.name, answers))

    if not torch.equal(alone().designs.x, recorded.designs.x):
        raise SystemExit("The recorded answers lead to other designs: this measures nothing.")
    replay()
    rows = []
    for _ in range(repeats):
        rows.append([timed(lambda: run(process, reward)), timed(replay), timed(alone)])
        (wall, cpu), (bare_wall, bare_cpu), (own_wall, own_cpu) = rows[-1]
        print(
            f"run {wall:6.3f} s  replay {bare_wall:6.3f} s  ratio {wall / bare_wall:.3f}   "
            f"processor: {cpu:6.3f} s, {bare_cpu:6.3f} s, {cpu / bare_cpu:.3f}   "
            f"loop alone {own_wall:.3f} s, processor {own_cpu:.3f} s",
            flush=True,
        )
    steps = len(recorded.trace) - 1
    medians = [statistics.median(r[0][i] / r[1][i] for r in rows) for i in (0, 1)]
    own = [min(r[2][i] for r in rows) for i in (0, 1)]
    bare = [min(r[1][i] for r in rows) for i in (0, 1)]
    print(
        f"{sum(c[0] == 'network' for c in calls)} network calls of up to {particles} particles, "
        f"{steps} steps, {args.threads} threads.\n"
        f"Median ratio: wall {medians[0]:.3f}, processor {medians[1]:.3f}.\n"
        f"Loop alone, best of {repeats}: {1e3 * own[0] / steps:.2f} ms a step, processor "
        f"{1e3 * own[1] / steps:.2f}; network and rewards {1e3 * bare[0] / steps:.1f}, "
        f"processor {1e3 * bare[1] / steps:.1f}."
    )


if __name__ == "__main__":
    main()
