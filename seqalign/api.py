"""The Python door: sample designs from a model aligned to a reward, and look at what comes back.

One island is the unit of work: its random streams are keyed by its global id, and it is sent
through the network alone, so that nothing else changes its result. The streams of a prompt are
keyed by its words: what it gives does not depend on the prompts beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from seqalign.core.budget import Budget
from seqalign.core.callables import Command, Function, OnFailure, as_reward, function
from seqalign.core.method import Looped, Method
from seqalign.core.objective import Reward, calibrate, open_zscores
from seqalign.core.particles import Particles, Samples, Step, join
from seqalign.core.process import Designs, Process
from seqalign.core.streams import Streams
from seqalign.files.numbering import mutations
from seqalign.files.pictures import contact_sheet, data_uri, png
from seqalign.files.text import fasta, to_csv, write_atomic
from seqalign.load import Model
from seqalign.methods.best_of_n import BestOfN
from seqalign.registry import SpecError, build_method
from seqalign.space.space import DesignSpace

__all__ = ["Picks", "Result", "RewardMaker", "draw", "references", "sample", "settle"]

REFERENCES = 64
"""Unguided designs that fix the constants of a zscore."""
SHOWN = 8
"""Designs that a result prints."""


class RewardMaker:
    """Turn a Python function or an external command into a reward, in one line."""

    def __call__(
        self,
        fn: Callable[[Any], Any],
        name: str | None = None,
        *,
        unit: str = "",
        on_failure: OnFailure = "raise",
    ) -> Function:
        """Wrap a function from n sequences to n numbers; higher is better."""
        return function(fn, name, unit=unit, on_failure=on_failure)

    def command(
        self, command: str, name: str | None = None, *, unit: str = "", timeout: float = 3600.0
    ) -> Command:
        """Wrap a program: `{fasta}` becomes a file of sequences, stdout is one number per line."""
        return Command(command, name or command.split()[0], unit, timeout=timeout)


# islands ------------------------------------------------------------------------------------------


def _place(model: Model, island: int, seed: int, replicates: int) -> tuple[Process, Streams]:
    """Return the process and the random streams of one island."""
    if model.prompts is None:
        return model.process, Streams(seed, (island,))
    row, replicate = divmod(island, replicates)
    text = model.prompts[row]
    replicate += replicates * model.prompts[:row].count(text)
    return model.one(row), Streams(seed, (replicate,)).at("prompt", text)


def even(process: Process, states: int) -> Process:
    """Return a process whose chunks of `states` particles are of one size: fewer are padded."""
    if process.discrete or process.chunk is None or states <= process.chunk:
        return process
    pieces = math.ceil(states / process.chunk)
    changed: Process = replace(cast(Any, process), chunk=math.ceil(states / pieces))
    return changed


def draw(
    model: Model,
    method: Method,
    reward: Reward,
    particles: int,
    *,
    seed: int,
    island: int,
    replicates: int = 1,
    streams: Sequence[str] = (),
    **options: Any,
) -> Samples:
    """Draw one island, (1, K), on the CPU; `options` go to the method.

    `replicates` islands in a row belong to each prompt; `streams` is the purpose of the random
    numbers.

    Raises:
        RewardError: a reward broke its contract.
        RuntimeError: a design breaks a constraint, which would be a bug in the sampler.
    """
    process, rng = _place(model, island, seed, replicates)
    process = even(process, particles * int(getattr(method, "branch", 1)))
    samples = method(
        process, reward, (1, particles), rng=rng.at(*streams), space=model.space, **options
    ).cpu()
    if model.space is not None and samples.finished:
        _check(samples, model.space)
    return samples


def _check(samples: Samples, space: DesignSpace) -> None:
    """Check every emitted design once more, letter by letter.

    A design with weight zero (its reward was rejected, or its island died) carries no claim and
    is left out.
    """
    for b, row in enumerate(samples.designs.sequences):
        for k, sequence in enumerate(row):
            broken = space.violations(sequence)
            if broken and float(samples.log_w[b, k]) > -torch.inf:
                raise RuntimeError(
                    f"Design {k} of island {b} breaks a constraint ({'; '.join(broken[:3])}): "
                    f"{sequence}. "
                    f"This is a bug in seqalign; please report it with the campaign and the seed."
                )


def references(model: Model) -> tuple[int, int]:
    """Return islands and designs per island of a calibration: every prompt has its share."""
    return model.conditions, max(math.ceil(REFERENCES / model.conditions), 2)


def settle(
    model: Model, reward: Reward, seed: int, draw_island: Callable[..., Samples] = draw
) -> tuple[Reward, int]:
    """Fix open zscores from unguided designs; return the reward and the network calls."""
    if not open_zscores(reward):
        return reward, 0
    islands, particles = references(model)
    nothing = Function(lambda items: [0.0] * len(items), "nothing")
    unguided = join(
        [
            draw_island(
                model,
                BestOfN(),
                nothing,
                particles,
                seed=seed,
                island=island,
                streams=("calibrate",),
            )
            for island in range(islands)
        ]
    )
    return calibrate(reward, unguided.designs), unguided.network_calls


# results ------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Picks:
    """Some designs of a result, best first; with prompts, prompt by prompt.

    Attributes:
        designs: (n, 1), each an island of its own.
        rewards: one per design.
        log_w: one per design.
        model: what they were drawn from.
    """

    designs: Designs
    rewards: list[float]
    log_w: list[float]
    model: Model

    def __len__(self) -> int:
        """Count the designs."""
        return len(self.rewards)

    def __repr__(self) -> str:
        """Show the designs as a table of text."""
        return _text(self.rows())

    def _repr_html_(self) -> str:
        return _html(self.rows(), self._images())

    @property
    def sequences(self) -> list[str]:
        """The letters of each design.

        Raises:
            TypeError: the designs are continuous.
        """
        return [row[0] for row in self.designs.sequences]

    @property
    def images(self) -> Tensor:
        """The values of each design, (n, *event); images (C, H, W) in [0, 1]."""
        return self.designs.x[:, 0]

    @property
    def prompts(self) -> list[str] | None:
        """What each was asked for; None without text."""
        return None if self.designs.prompts is None else list(self.designs.prompts)

    def mutations(self) -> list[str]:
        """Return the mutations of each design, such as V39A:D40G; "" without a wild type."""
        wild = self.model.wild_type
        if wild is None:
            return [""] * len(self)
        return [":".join(mutations(s, wild, self.model.residues)) for s in self.sequences]

    def rows(self) -> list[dict[str, str | int | float]]:
        """Return one row per design: what it is, its reward and its log-weight."""
        found: list[dict[str, str | int | float]] = []
        letters = self.designs.alphabet is not None
        for n, (r, w) in enumerate(zip(self.rewards, self.log_w, strict=True)):
            row: dict[str, str | int | float] = {"sample": n + 1}
            if letters:
                row |= {"sequence": self.sequences[n], "mutations": self.mutations()[n]}
            if self.prompts is not None:
                row["prompt"] = self.prompts[n]
            found.append({**row, "reward": r, "log_w": w})
        return found

    def to_fasta(self, path: str | Path) -> None:
        """Write FASTA with sample, reward and, given a wild type, mutations in the header."""
        records = []
        said = self.mutations()
        for n, (s, r) in enumerate(zip(self.sequences, self.rewards, strict=True)):
            header = f"sample={n + 1}, reward={r:.4f}"
            if self.model.wild_type is not None:
                header += f", mutations={said[n] or 'none'}"
            records.append((header, s))
        write_atomic(Path(path), fasta(records))

    def to_csv(self, path: str | Path) -> None:
        """Write CSV with what each design is, its reward and its log-weight."""
        rows = self.rows()
        write_atomic(Path(path), to_csv(rows, list(rows[0]) if rows else ["sample"]))

    def to_dataframe(self) -> Any:
        """Return a pandas data frame of `rows`.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError(
                "A data frame needs pandas, which is not installed. Run: pip install pandas; or "
                "take rows(), or to_csv(path).",
                name=error.name,
            ) from error
        return pd.DataFrame(self.rows())

    def to_images(self, folder: str | Path) -> list[Path]:
        """Write PNG files 0001.png, 0002.png, ... and return their paths.

        Raises:
            ValueError: the designs are no images.
        """
        paths = [Path(folder) / f"{n:04d}.png" for n in range(1, len(self) + 1)]
        for path, image in zip(paths, self.images, strict=True):
            write_atomic(path, png(image))
        return paths

    def contact_sheet(self, path: str | Path, per_line: int = 8) -> None:
        """Write one PNG of all images with their rewards, a prompt after the other.

        Raises:
            ValueError: the designs are no images.
        """
        texts = self.prompts or [""] * len(self)
        lines: list[tuple[str, list[tuple[Tensor, str]]]] = []
        for image, reward, text in zip(self.images, self.rewards, texts, strict=True):
            fresh = not lines or lines[-1][0] != text
            if fresh or len(lines[-1][1]) == per_line:
                lines.append((text, []))
            lines[-1][1].append((image, f"{reward:.2f}"))
        # a prompt that needs several lines is written once
        titles = [t if n == 0 or lines[n - 1][0] != t else "" for n, (t, _) in enumerate(lines)]
        rows = [(t, [cells]) for t, (_, cells) in zip(titles, lines, strict=True)]
        write_atomic(Path(path), contact_sheet(rows))

    def _images(self) -> list[str]:
        """Return the images as data URIs; none where the designs are no images."""
        x = self.designs.x
        if self.designs.alphabet is not None or x.dim() != 5 or x.shape[2] not in (1, 3):
            return []
        return [data_uri(image) for image in self.images]


def _cut(value: str | int | float, most: int = 72) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= most else text[: most - 1] + "…"


def _text(rows: Sequence[Mapping[str, str | int | float]]) -> str:
    """Return rows as aligned text."""
    if not rows:
        return "no designs"
    table = [list(rows[0]), *([_cut(v) for v in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip()
        for row in table
    )


def _html(rows: Sequence[Mapping[str, str | int | float]], images: Sequence[str]) -> str:
    """Return rows as an HTML table, with a picture in each where there are pictures."""
    if not rows:
        return "<p>no designs</p>"
    head = "".join(
        f"<th>{escape(key)}</th>" for key in (["image"] if images else []) + list(rows[0])
    )
    body = ""
    for n, row in enumerate(rows):
        cells = [f'<td><img src="{images[n]}" alt="" width="64"></td>'] if images else []
        cells += [f"<td>{escape(_cut(v))}</td>" for v in row.values()]
        body += f"<tr>{''.join(cells)}</tr>"
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


@dataclass(frozen=True, repr=False)
class Result:
    """Weighted designs and how they came about; printing it shows the best.

    Attributes:
        samples: (B, K) weighted designs; islands prompt by prompt, `replicates` of each.
        model: what was sampled from.
        reward: what was aligned to, with every constant fixed.
        method: how.
        seed: the run's seed.
        replicates: islands per prompt.
        calibration_calls: network calls spent on zscore constants before the run.
        particles: of each island of a run that was stopped; `sample(start=...)` goes on from them.
    """

    samples: Samples
    model: Model
    reward: Reward
    method: Method
    seed: int
    replicates: int = 1
    calibration_calls: int = 0
    particles: tuple[Particles, ...] = ()

    @property
    def log_z(self) -> Tensor | None:
        """Estimates of log Z, (B,); None for methods that are not consistent."""
        return self.samples.log_z

    @property
    def trace(self) -> tuple[Step, ...]:
        """One `Step` per step."""
        return self.samples.trace

    @property
    def network_calls(self) -> int:
        """Network calls of the run, calibration included."""
        return self.samples.network_calls + self.calibration_calls

    @property
    def reward_calls(self) -> int:
        """Reward calls of the run."""
        return self.samples.reward_calls

    def _groups(self) -> Iterator[tuple[int, Samples]]:
        """Yield the islands of each prompt, with the first one's row."""
        whole = len(self.samples.log_w) if self.model.prompts is None else self.replicates
        for begin in range(0, len(self.samples.log_w), whole):
            yield begin, self.samples.take(slice(begin, begin + whole))

    def best(self, n: int = 1) -> Picks:
        """Return the n distinct designs with the highest reward; with prompts, of each prompt.

        Raises:
            ValueError: the run was stopped before its end.
        """
        if not self.samples.finished:
            raise ValueError(
                "The run was stopped before its end and has no designs yet: go on with "
                "sample(..., start=result.particles), or run without stop."
            )
        found = [(begin + b, k) for begin, some in self._groups() for b, k in some.best(n).tolist()]
        rows, columns = [b for b, _ in found], [k for _, k in found]
        designs = self.samples.designs
        return Picks(
            designs.each(rows, columns),
            self.samples.rewards[rows, columns].tolist(),
            self.samples.log_w[rows, columns].tolist(),
            self.model,
        )

    @cached_property
    def _all(self) -> Picks:
        return self.best(self.samples.rewards.numel())

    def to_csv(self, path: str | Path) -> None:
        """Write every distinct design as CSV, best first."""
        self._all.to_csv(path)

    def to_dataframe(self) -> Any:
        """Return every distinct design as a pandas data frame, best first.

        Raises:
            ImportError: pandas is not installed.
        """
        return self._all.to_dataframe()

    def to_images(self, folder: str | Path) -> list[Path]:
        """Write every distinct image as PNG, best first within a prompt; return the paths."""
        return self._all.to_images(folder)

    def contact_sheet(self, path: str | Path, n: int = 8) -> None:
        """Write one PNG of the n best images of each prompt, with their rewards."""
        self.best(n).contact_sheet(path, per_line=min(n, 8))

    def _head(self) -> str:
        b, k = self.samples.log_w.shape
        islands = f"{b} island{'s' if b > 1 else ''} of {k} particles"
        lines = [
            f"{type(self.method).__name__} on {self.model.name}, reward {_cut(self.reward.name)}, "
            f"alpha {self.method.alpha:g}, {islands}, seed {self.seed}"
        ]
        ess = self.samples.ess
        said = [f"{self.network_calls:,} network calls", f"{self.reward_calls:,} reward calls"]
        said.append(f"effective sample size {float(ess.mean()):.1f} of {k}")
        if self.log_z is not None:
            spread = f" ± {float(self.log_z.std()):.2f} over islands" if b > 1 else ""
            said.append(f"log Z {float(self.log_z.mean()):.2f}{spread}")
        return "\n".join([*lines, ", ".join(said)])

    def _shown(self) -> Picks:
        return self.best(max(1, SHOWN // self.model.conditions))

    def __repr__(self) -> str:
        """Show how the run went and its best designs, on one screen."""
        if not self.samples.finished:
            return f"{self._head()}\nstopped after step {self.samples.trace[-1].step}"
        lines = repr(self._shown()).splitlines()
        most = 20
        more = [f"… {len(lines) - most} more"] if len(lines) > most else []
        count = f"{len(self._all)} distinct designs, the best:"
        return "\n".join([self._head(), count, *lines[:most], *more])

    def _repr_html_(self) -> str:
        head = "".join(f"<p>{escape(line)}</p>" for line in self._head().splitlines())
        return head + (self._shown()._repr_html_() if self.samples.finished else "")


# the door -----------------------------------------------------------------------------------------


def sample(
    model: Model | Process,
    reward: Reward | Callable[[Any], Any],
    method: str | Method = "das",
    *,
    islands: int = 1,
    particles: int = 64,
    alpha: float | None = None,
    seed: int = 0,
    space: DesignSpace | None = None,
    start: Tensor | Sequence[Particles] | None = None,
    begin: int = 0,
    stop: int | None = None,
    budget: Budget | None = None,
    observe: Callable[[Step, Particles], None] | None = None,
    **params: Any,
) -> Result:
    """Sample islands × particles designs from p_pre(x) · exp(reward(x) / alpha).

    Args:
        model: what `load_model` returns, or any process; `space` restricts a process of letters.
        reward: what to align to; a plain function takes n designs and returns n numbers.
        method: its name, or an object.
        islands: independent runs; with prompts, of each prompt.
        particles: designs per island.
        alpha: temperature of the target, in units of the reward.
        seed: of the random numbers.
        space: hard constraints, with a bare process.
        start: states (islands, particles, *event) at step `begin`, or `Result.particles` to go
            on from.
        begin: step to begin at.
        stop: step to end at.
        budget: network and reward calls that the whole run must not exceed.
        observe: sees every step and its particles, island by island.
        **params: the method's: `sample(model, reward, "das", alpha=0.3, tempering="adaptive")`.

    Raises:
        SpecError: the method or a parameter is unknown.
        TypeError: the method needs a gradient that the reward or the model lacks.
    """
    if islands < 1 or particles < 1:
        raise SpecError(f"islands and particles must be >= 1, got {islands} and {particles}.")
    model = Model.of(model, space)
    reward = as_reward(reward)
    if isinstance(method, str):
        given = params if alpha is None else {"alpha": alpha, **params}
        method = build_method(method, given)
    elif params or alpha is not None:
        raise SpecError(
            f"The method is already built ({method!r}); set "
            f"{', '.join([*params, *(['alpha'] if alpha is not None else [])])} "
            f"there, or give the method's name."
        )
    if isinstance(method, Looped):
        # what cannot work is refused before the designs of a calibration are drawn
        method.loop(model.process, reward, model.space)
    fixed, calls = settle(model, reward, seed)
    parts: list[Samples] = []
    for island in range(islands * model.conditions):
        parts.append(
            draw(
                model,
                method,
                fixed,
                particles,
                seed=seed,
                island=island,
                replicates=islands,
                start=_start(start, island),
                begin=begin,
                stop=stop,
                budget=_left(budget, calls, parts),
                observe=observe,
            )
        )
    states = tuple(p.particles for p in parts if p.particles is not None)
    return Result(join(parts), model, fixed, method, seed, islands, calls, states)


def _start(start: Tensor | Sequence[Particles] | None, island: int) -> Particles | Tensor | None:
    """Return what one island starts from."""
    if start is None:
        return None
    return start[island : island + 1] if isinstance(start, Tensor) else start[island]


def _left(budget: Budget | None, calibration: int, parts: Sequence[Samples]) -> Budget | None:
    """Return what is left of a budget."""
    if budget is None:
        return None
    network = calibration + sum(p.network_calls for p in parts)
    reward = sum(p.reward_calls for p in parts)
    return Budget(
        None if budget.network is None else budget.network - network,
        None if budget.reward is None else budget.reward - reward,
    )
