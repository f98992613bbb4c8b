"""Training: one loop of steps that averages weights, writes checkpoints and goes on bit for bit.

A `Run` is a network with its optimizer, its averaged weights and the checkpoint on disk. Every step
of `Run.loop` draws from a generator seeded by (seed, step), so that a run that was stopped and
resumed ends with the same weights as an undisturbed one, and no state of a generator is stored.
"""

from __future__ import annotations

import argparse
import math
import os
import reprlib
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

__all__ = [
    "Run", "Settings", "Watch", "command_line", "groups", "parser", "progress", "step_seed",
    "weights_file", "write_atomically", "write_weights",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Hyper-parameters that every run has; each script adds its own, and its defaults.

    Attributes:
        seed: of every draw.
        learning_rate: the highest.
        warmup: steps until then.
        weight_decay: of matrices and filters.
        ema: share of the averaged weights that a step keeps.
        dropout: in training.
        bfloat16: whether the network runs in it while training.
    """

    seed: int = 0
    learning_rate: float = 2e-3
    warmup: int = 200
    weight_decay: float = 0.05
    ema: float = 0.999
    dropout: float = 0.1
    bfloat16: bool = True

    def warm_cosine(self, step: int, angle: float) -> float:
        """Return the rate of a step: linear warm-up, then a cosine to 0 as the angle goes to π."""
        rise = min(1.0, (step + 1) / self.warmup)
        return self.learning_rate * rise * 0.5 * (1 + math.cos(angle))


class Watch(TypedDict, total=False):
    """How a run is cut, saved and watched; what `train` of every script passes on to `Run.loop`.

    Attributes:
        resume: continue from the checkpoint, if there is one.
        save_every: steps between checkpoints.
        check_every: steps between two lines of progress.
        stop: end after this many steps, as an interruption would, with a checkpoint.
        log: takes one line of progress at a time.
        advance: told how many steps are done after each of them, for a progress bar.
    """

    resume: bool
    save_every: int
    check_every: int
    stop: int | None
    log: Callable[[str], None]
    advance: Callable[[int], None] | None


def step_seed(seed: int, step: int) -> int:
    """Return the seed of one training step, so that no state of a generator is to be stored."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 1)


def groups(
    named: Iterable[tuple[str, nn.Parameter]], undecayed: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Return two groups of parameters: matrices and filters decay, the rest and `undecayed` not."""
    split: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    for name, p in named:
        split[p.ndim <= 1 or name in undecayed].append(p)
    return [{"params": split[0]}, {"params": split[1], "weight_decay": 0.0}]


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write through a temporary name: a file under its own name is always complete."""
    temporary = path.with_name(path.name + ".part")
    write(temporary)
    os.replace(temporary, path)


def write_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write weights in half precision; figures are those of the weights as they are read back."""
    halves = {name: w.half().contiguous() for name, w in weights.items()}
    write_atomically(path, lambda temporary: temporary.write_bytes(to_bytes(halves)))


class Run:
    """A network in training.

    Attributes:
        network: being trained.
        average: its averaged weights and buffers.
        step: steps done.
    """

    def __init__(
        self,
        network: nn.Module,
        parameters: list[dict[str, Any]],
        out: Path,
        settings: Settings,
        **more: Any,
    ) -> None:
        """Begin in the folder `out`.

        Args:
            network: to be trained.
            parameters: its `groups`; one with a "pace" learns that much faster.
            out: folder of `checkpoint.pt`.
            settings: of the run; a checkpoint fits no other ones.
            more: what else a checkpoint must agree with.
        """
        out.mkdir(parents=True, exist_ok=True)
        self.network = network
        self.optimizer = torch.optim.AdamW(
            parameters, betas=(0.9, 0.98), weight_decay=settings.weight_decay
        )
        self.checkpoint = out / "checkpoint.pt"
        self.ema = settings.ema
        self.settings = {**asdict(settings), **more}
        self.average = {name: w.detach().clone() for name, w in network.state_dict().items()}
        self.step = 0

    def save(self, **more: object) -> None:
        """Write the checkpoint, and what `more` names with it."""
        state = {
            "settings": self.settings,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "step": self.step,
            **more,
        }
        write_atomically(self.checkpoint, lambda path: torch.save(state, path))

    def resume(self, cooldown: int | None = None) -> dict[str, Any]:
        """Go on from the checkpoint, if there is one, and return it.

        Args:
            cooldown: last steps of a run; before them its number of steps may still change.

        Raises:
            ValueError: the checkpoint was written under other settings.
        """
        if not self.checkpoint.exists():
            return {}
        state: dict[str, Any] = torch.load(self.checkpoint, weights_only=True)
        written, own = state["settings"], self.settings
        other = [key for key in own if written.get(key) != own[key]]
        if cooldown is not None and other == ["steps"]:
            # until then, runs of different lengths are one and the same
            other *= state["step"] > min(written["steps"], own["steps"]) - cooldown
        if other:
            differ = ", ".join(
                f"{key} {reprlib.repr(written.get(key))} instead of {reprlib.repr(own[key])}"
                for key in other
            )
            raise ValueError(
                f"{self.checkpoint}: it was written at step {state['step']} with {differ}; use the "
                "same options or another --out."
                + (
                    " Only the number of steps may change, and only before the cool-down."
                    if cooldown
                    else ""
                )
            )
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average, self.step = state["average"], state["step"]
        return state

    def update(
        self,
        loss: Tensor,
        rate: float,
        *,
        share: Callable[[], None] | None = None,
        after: Callable[[], None] | None = None,
    ) -> float:
        """Take one step down the gradient of a loss, and return the loss.

        Args:
            loss: a scalar.
            rate: of learning.
            share: called between backward pass and step, to share gradients.
            after: called when the step is taken, before it is averaged.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = group.get("pace", 1.0) * rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if share is not None:
            share()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        if after is not None:
            after()
        # The average follows closely at first, so that it never remembers the start.
        keep = min(self.ema, (1 + self.step) / (10 + self.step))
        for name, w in self.network.state_dict().items():
            if w.is_floating_point():
                self.average[name].lerp_(w, 1 - keep)
            else:
                self.average[name].copy_(w)
        self.step += 1
        return loss.item()

    def loop(
        self,
        loss: Callable[[], Tensor],
        rate: Callable[[int], float],
        look: Callable[[int], str],
        *,
        seed: int,
        steps: int,
        cooldown: int | None = None,
        after: Callable[[], None] | None = None,
        resume: bool = False,
        save_every: int = 500,
        check_every: int = 1000,
        stop: int | None = None,
        log: Callable[[str], None] = print,
        advance: Callable[[int], None] | None = None,
    ) -> bool:
        """Take the steps that are left, and return whether these were all.

        Args:
            loss: the loss of a batch, drawn from torch's own generator.
            rate: of learning, by step.
            look: what there is to tell after so many steps.
            seed: of the run.
            steps: of the run.
            cooldown: see `resume`.
            after: called after every step, before it is averaged.
            resume: this and the others: see `Watch`.
            save_every: steps.
            check_every: steps.
            stop: step.
            log: of lines.
            advance: of a bar.

        Raises:
            ValueError: the checkpoint was written under other settings.
        """
        if resume:
            self.resume(cooldown)
        began, first, total = time.monotonic(), self.step, 0.0
        last = steps if stop is None else min(stop, steps)
        for step in range(first, last):
            torch.manual_seed(step_seed(seed, step))
            self.network.train()
            total += self.update(loss(), rate(step), after=after)
            done = step + 1
            if advance is not None:
                advance(done)
            if done % save_every == 0 or done == last:
                self.save()
            if done % check_every == 0 or done == steps:
                news = look(done)
                seconds = time.monotonic() - began
                left = seconds / (done - first) * (steps - done)
                log(
                    f"step {done}/{steps}  loss {total / check_every:.5f}  {news}  "
                    f"{seconds:.0f} s, {left:.0f} s left"
                )
                total = 0.0
        return last == steps


@contextmanager
def progress(total: int) -> Iterator[tuple[Callable[[int], None] | None, Callable[[str], None]]]:
    """Yield `advance` and `log`: a progress bar on a terminal, plain lines elsewhere."""
    if not sys.stderr.isatty():
        yield None, lambda line: print(line, flush=True)
        return
    with Progress(
        *Progress.get_default_columns(), TimeElapsedColumn(), console=Console(stderr=True)
    ) as bar:
        task = bar.add_task("training", total=total)
        yield lambda done: bar.update(task, completed=done), bar.console.print


# command lines ------------------------------------------------------------------------------------


def parser(
    module: str,
    description: str,
    *,
    data: str,
    settings: type[Settings] | None = None,
    fields: Sequence[str] = (),
    threads: int | None = None,
) -> argparse.ArgumentParser:
    """Return the options that the scripts share.

    Args:
        module: of the script.
        description: what it does.
        data: what --data is.
        settings: hyper-parameters with defaults.
        fields: those of them that are options.
        threads: of torch; its own choice by default.
    """
    p = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    p.add_argument("--data", type=Path, required=True, help=data)
    p.add_argument("--out", type=Path, help="train; folder for checkpoint and weights")
    p.add_argument("--resume", action="store_true", help="continue from the checkpoint in --out")
    p.add_argument("--evaluate", type=Path, metavar="PATH", help="only judge the weights there")
    p.add_argument("--threads", type=int, default=threads, help="threads of torch")
    for name in fields:
        default = getattr(settings, name)
        p.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    return p


def command_line(
    options: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    script: Callable[[argparse.Namespace], None],
) -> int:
    """Run a script, which either trains or judges; return the exit code."""
    args = options.parse_args(arguments)
    if (args.out is None) == (args.evaluate is None):
        print("Give either --out DIR, to train, or --evaluate PATH.", file=sys.stderr)
        return 2
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    try:
        script(args)
    except (FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def weights_file(path: Path) -> bytes:
    """Return what is in a weights file.

    Raises:
        FileNotFoundError: there is none.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; train it with --out DIR.")
    return path.read_bytes()
