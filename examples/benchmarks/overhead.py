"""Overhead of the loop: time of a run ÷ bare replay of its network and reward calls.

    python examples/benchmarks/overhead.py [--images] [--quick] [--repeats 5] [--block 15]

The run is the PDZ3 demo's sampler (one island, 64 particles, one reveal per step, a budget of 8
mutations, posterior score); with `--images`, das on emoji-mini guided by emoji-match (two prompts,
16 particles each, 50 steps, gradients through the network). What network and rewards are asked is
recorded once. The replay asks the bare network and the bare rewards (with their gradients) the same
in the same order, and does nothing else. Every few steps the run stands still while the replay does
what it has just done, so that a machine whose pace changes changes both; one process, pinned
threads, times of the wall and of the processor, which other programs disturb less. The loop alone,
of the demo only, is the run with recorded answers in place of network and rewards.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.resources import files
from typing import Annotated, Any, cast

import torch
import typer
import yaml
from torch import Tensor

import seqalign as sa
from seqalign.core.objective import Reward
from seqalign.core.particles import Step
from seqalign.core.process import Designs
from seqalign.core.smc import Observe
from seqalign.models.emoji import emoji_mini, to_images

# what was asked, in order: (kind, question, answer, gradient)
Calls = list[tuple[str, Any, Tensor, Tensor | None]]
Work = Callable[[], object]
Run = Callable[[Observe], sa.Samples]
# a run; a replay of its calls from one to another; how many calls were made by the end of each step
Pair = tuple[Run, Callable[[int, int], None], list[int]]


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


def now() -> Tensor:
    """Return the seconds of wall and processor."""
    return torch.tensor((time.perf_counter(), time.process_time()), dtype=torch.float64)


def timed(work: Work) -> Tensor:
    """Return the seconds of wall and processor that `work` takes."""
    start = now()
    work()
    return now() - start


def side_by_side(pair: Pair, block: int) -> tuple[Tensor, Tensor]:
    """Return the times of a run and of its replay, taking turns every `block` steps."""
    run, replay, marks = pair
    spent, bare, done = torch.zeros(2).double(), torch.zeros(2).double(), 0
    start = now()

    def observe(step: Step, _: sa.Particles) -> None:
        nonlocal start, spent, bare, done
        if step.step % block and step.step < len(marks) - 1:
            return
        spent = spent + now() - start
        first, done = done, marks[step.step]
        bare = bare + timed(lambda: replay(first, done))
        start = now()

    run(observe)
    return spent + now() - start, bare


def sampler_of(demo: str) -> Any:
    """Return the method of a demo's file."""
    text = (files("seqalign") / "data" / demo).read_text()
    options = yaml.safe_load(text)["sampler"]
    return sa.load_method(
        options.pop("name"),
        **{k: v for k, v in options.items() if k not in ("islands", "particles")},
    )


def demo_pair(particles: int) -> tuple[Pair, Work | None, str]:
    """Return run, replay and the loop alone of the PDZ3 demo, and what they are."""
    model = sa.load_model("pdz-mini", max_mutations=8)
    reward = 1.0 * sa.load_reward("pdz3-stability") + 1.0 * sa.load_reward("pdz3-affinity")
    process: Any = model.process
    network, method = process.network, sampler_of("demo-pdz3.yaml")
    calls: Calls = []
    marks: list[int] = []

    def recording(x: Tensor, t: float) -> Tensor:
        answer = network(x, t)
        calls.append(("network", x.clone(), answer.clone(), None))
        return cast(Tensor, answer)

    def run(process: Any, reward: Reward, observe: Observe | None = None) -> sa.Samples:
        more = {"rng": sa.Streams(0, (0,)), "space": model.space, "observe": observe}
        return cast(sa.Samples, method(process, reward, (1, particles), **more))

    recorded = run(
        replace(process, network=recording),
        Recorder(reward, calls),
        lambda *_: marks.append(len(calls)),
    )

    def replay(first: int, last: int) -> None:
        for kind, asked, _, _ in calls[first:last]:
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
        spoken = replace(process, network=lambda x, t: next(answers)[2])
        return run(spoken, Tape(reward.name, answers))

    if not torch.equal(alone().designs.x, recorded.designs.x):
        raise SystemExit("The recorded answers lead to other designs: this measures nothing.")
    what = f"PDZ3 demo, {particles} particles, {len(recorded.trace) - 1} steps"
    return (lambda observe: run(process, reward, observe), replay, marks), alone, what


class Overheard:
    """A denoiser that remembers what it was asked."""

    def __init__(self, inner: Any, calls: list[Any]) -> None:
        self.inner, self.calls = inner, calls

    def take(self, islands: Sequence[int]) -> Overheard:
        """Return the denoiser of some of the islands."""
        return Overheard(self.inner.take(islands), self.calls)

    def __call__(self, x: Tensor, t: float) -> Tensor:
        """Denoise."""
        self.calls.append((self.inner, x.detach().clone(), t))
        return cast(Tensor, self.inner(x, t))


def images_pair(particles: int, steps: int) -> tuple[Pair, Work | None, str]:
    """Return run and replay of aligned emoji, and what they are."""
    prompts = ["crying cat face", "sailboat"]
    process = emoji_mini(prompts=prompts, steps=steps)
    reward = sa.load_reward("emoji-match")
    method = sa.load_method("das", alpha=0.1)
    calls: list[Any] = []
    marks: list[int] = []

    def run(process: Any, observe: Observe) -> sa.Samples:
        rng, shape = sa.Streams(0, range(2)), (len(prompts), particles)
        return cast(sa.Samples, method(process, reward, shape, rng=rng, observe=observe))

    heard = replace(process, denoiser=Overheard(process.denoiser, calls))
    recorded = run(heard, lambda *_: marks.append(len(calls)))
    # chunks lie within islands, one island after the other
    each = len(calls) // (steps * len(prompts))
    spoken = [p for p in prompts for _ in range(each)] * steps

    def replay(first: int, last: int) -> None:
        for (denoiser, x, t), prompt in zip(calls[first:last], spoken[first:last], strict=True):
            leaf = x.requires_grad_()
            shown = to_images(denoiser(leaf, t))
            scores = reward.graded(Designs(shown, prompts=(prompt,)))
            torch.autograd.grad(scores.sum(), leaf)
        if last == len(calls):
            reward(recorded.designs)

    what = f"emoji, {len(prompts)} prompts x {particles} particles, {steps} steps"
    return (lambda observe: run(process, observe), replay, marks), None, what


Quick = Annotated[bool, typer.Option("--quick", help="1 repeat, few particles and steps")]


def main(
    images: Annotated[
        bool, typer.Option("--images", help="emoji instead of the PDZ3 demo")
    ] = False,
    quick: Quick = False,
    repeats: int = 5,
    threads: int = 1,
    block: Annotated[int, typer.Option(help="steps between turns")] = 15,
    particles: Annotated[int | None, typer.Option(help="64 of the demo, 16 emoji")] = None,
) -> None:
    """Print the ratio of every pair and their median."""
    repeats = 1 if quick else repeats
    torch.set_num_threads(threads)
    particles = particles or (4 if quick else 16 if images else 64)
    if images:
        pair, alone, what = images_pair(particles, 6 if quick else 50)
    else:
        pair, alone, what = demo_pair(particles)
    side_by_side(pair, block)
    runs, bares, own = [], [], []
    for _ in range(repeats):
        run, bare = side_by_side(pair, block)
        runs.append(run)
        bares.append(bare)
        (wall, cpu), (wall_, cpu_), (ratio, ratio_) = (v.tolist() for v in (run, bare, run / bare))
        line = f"run {wall:7.3f} s  replay {wall_:7.3f} s  ratio {ratio:.3f}   "
        line += f"processor {cpu:7.3f} s, {cpu_:7.3f} s, {ratio_:.3f}"
        if alone is not None:
            own.append(float(timed(alone)[1]))
            line += f"   loop alone {own[-1]:.3f} s"
        print(line, flush=True)
    (wall, cpu) = (torch.stack(runs).sum(0) / torch.stack(bares).sum(0)).tolist()
    median = statistics.median(float((r / b)[0]) for r, b in zip(runs, bares, strict=True))
    print(
        f"{what}, {threads} threads: ratio of all {repeats} runs {wall:.3f}, median "
        f"{median:.3f}, of processor time {cpu:.3f}"
    )
    if own:
        least = min(float(b[1]) for b in bares)
        print(f"loop alone {min(own):.3f} s of processor, network and rewards {least:.3f} s")


if __name__ == "__main__":
    typer.run(main)
