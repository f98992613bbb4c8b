"""Overhead of the loop on the PDZ3 demo: wall time of a run ÷ bare replay of its calls.

    python examples/benchmarks/overhead.py [--quick] [--repeats 5] [--threads 2]

The run is the demo's sampler (one island, 64 particles, one reveal per step, a budget of 8
mutations, posterior score). Its network inputs and relaxed designs are recorded once; the replay
sends the same inputs to the bare network and the bare rewards (with their gradients) and does
nothing else. Run and replay alternate in one process with pinned threads.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from importlib.resources import files
from typing import Any

import torch
import yaml
from torch import Tensor

import seqalign as sa
from seqalign.objective import Reward
from seqalign.process import Designs


class Recorder(Reward):
    """A reward that remembers what it was asked."""

    differentiable = True

    def __init__(self, inner: Reward) -> None:
        self.inner, self.name = inner, inner.name
        self.relaxed_inputs: list[Tensor] = []
        self.designs: list[Designs] = []

    def __call__(self, designs: Designs) -> Tensor:
        """Score designs, (B, K)."""
        self.designs.append(designs)
        return self.inner(designs)

    def relaxed(self, x: Tensor) -> Tensor:
        """Score relaxed designs, (B, K)."""
        self.relaxed_inputs.append(x.detach().clone())
        return self.inner.relaxed(x)


def main() -> None:
    """Print the ratio of every pair and their median."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="1 repeat, 10 particles")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--particles", type=int, default=64)
    args = parser.parse_args()
    repeats, particles = (1, 10) if args.quick else (args.repeats, args.particles)
    torch.set_num_threads(args.threads)
    model = sa.load_model("pdz-mini", max_mutations=8)
    reward = 1.0 * sa.load_reward("pdz3-stability") + 1.0 * sa.load_reward("pdz3-affinity")
    inputs: list[Tensor] = []
    process: Any = model.process
    network = process.network

    def recording(x: Tensor, t: float) -> Tensor:
        inputs.append(x.clone())
        return network(x, t)

    demo = yaml.safe_load((files("seqalign") / "data" / "demo-pdz3.yaml").read_text())
    sampler = {k: v for k, v in demo["sampler"].items() if k not in ("islands", "particles")}
    method = sa.load_method(sampler.pop("name"), **sampler)

    def run(process: Any, reward: Reward) -> float:
        clock = time.perf_counter()
        method(process, reward, (1, particles), rng=sa.Streams(0, (0,)), space=model.space)
        return time.perf_counter() - clock

    recorder = Recorder(reward)
    run(replace(process, network=recording), recorder)

    def replay() -> float:
        clock = time.perf_counter()
        with torch.no_grad():
            for x in inputs:
                network(x, 0.0)
        for x in recorder.relaxed_inputs:
            leaf = x.requires_grad_()
            torch.autograd.grad(reward.relaxed(leaf).sum(), leaf)
        for designs in recorder.designs:
            reward(designs)
        return time.perf_counter() - clock

    replay()
    pairs = [(run(process, reward), replay()) for _ in range(repeats)]
    for wall, bare in pairs:
        print(f"run {wall:7.3f} s   replay {bare:7.3f} s   ratio {wall / bare:.3f}")
    print(
        f"{len(inputs)} network calls of {particles} particles, {args.threads} threads: "
        f"median ratio {statistics.median(w / b for w, b in pairs):.3f}"
    )


if __name__ == "__main__":
    main()
