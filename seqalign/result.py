"""What a run gives back: weighted designs, the best of them, and how they are shown and written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path
from textwrap import wrap
from typing import Any

from torch import Tensor
from torch.nn.functional import interpolate

from seqalign.core.health import Health, examine
from seqalign.core.method import Method
from seqalign.core.objective import Reward
from seqalign.core.particles import Particles, Samples, Step
from seqalign.core.process import Designs
from seqalign.files.logo import LETTERS, logo
from seqalign.files.pictures import contact_sheet, data_uri, png
from seqalign.files.text import fasta, to_csv, write_atomic
from seqalign.load import Model
from seqalign.registry import SpecError, to_mapping

__all__ = ["Picks", "Result"]

SHOWN = 8
"""Designs that a result prints; with prompts, so many of all of them."""
ROWS, COLUMNS, WIDTH, SIDE = 18, 12, 120, 128
"""What a table shows at most: rows, columns of HTML, characters of a line, pixels of a picture."""


_LOGO = (
    "max-width:100%;text-anchor:middle;font:10px ui-monospace,monospace;fill:currentColor;"
    "--native:#b4bac2;--ink:currentColor"
)


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
        return len(self.rewards)

    def __repr__(self) -> str:
        return _text(self.rows())

    def _repr_html_(self) -> str:
        return _html(self.rows(), self._images()) + self._logo()

    def _logo(self) -> str:
        """Return the logo of what is ordered as HTML that needs no style sheet; "" without one."""
        chains, wild = self.model.orderable, self.model.wild_type
        letters = [s.replace("/", "") for s in self.sequences] if chains is not None else []
        if chains is None or len(letters) < 2 or not {*"".join(letters)} <= {*LETTERS, "X"}:
            return ""
        several = len(chains.records) > 1
        names = [f"{r.chains[0]}{n}" if several else n for r in chains.records for n in r.numbers]
        native = None if wild is None else chains.text(wild).replace("/", "")
        wide = 22 * min(len(names), 42)
        return f'<div style="width:{wide}px;{_LOGO}">{logo(letters, native, names)}</div>'

    @property
    def sequences(self) -> list[str]:
        """Each design as it is ordered: designed chains by name, joined by "/".

        `designs.sequences` has the letters of all positions of the model, as rewards see them.

        Raises:
            TypeError: the designs are continuous.
        """
        chains = self.model.orderable
        return [row[0] if chains is None else chains.text(row[0]) for row in self.designs.sequences]

    @property
    def images(self) -> Tensor:
        """The values of each design, (n, *event); images (C, H, W) in [0, 1]."""
        return self.designs.x[:, 0]

    @property
    def prompts(self) -> list[str] | None:
        """What each was asked for; None without text."""
        return None if self.designs.prompts is None else list(self.designs.prompts)

    def mutations(self) -> list[str]:
        """Return the mutations of each design, V39A:D40G or A:V39A+B:D40G; "" without wild type."""
        wild, chains = self.model.wild_type, self.model.orderable
        if wild is None or chains is None:
            return [""] * len(self)
        return [chains.mutated(row[0], wild) for row in self.designs.sequences]

    def rows(self) -> list[dict[str, str | int | float]]:
        """Return one row per design: what it is, its reward and its log-weight.

        A vector has its numbers in columns x1, x2, ...; an image has none.
        """
        letters = self.designs.alphabet is not None
        columns: dict[str, Sequence[str | int | float]] = {"sample": range(1, len(self) + 1)}
        if letters:
            columns["sequence"] = self.sequences
        if self.model.wild_type is not None:
            columns["mutations"] = self.mutations()
        if self.prompts is not None:
            columns["prompt"] = self.prompts
        columns |= {"reward": self.rewards, "log_w": self.log_w}
        if not letters and self.designs.x.dim() == 3:
            columns |= {f"x{i}": column for i, column in enumerate(self.images.T.tolist(), 1)}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def to_fasta(self, path: str | Path) -> None:
        """Write FASTA, a record per design and designed chain.

        The header says sample, reward and, given a wild type, mutations; of several chains which.
        """
        records, chains = [], self.model.orderable
        for row, sequence in zip(self.rows(), self.sequences, strict=True):
            header = f"sample={row['sample']}, reward={row['reward']:.4f}"
            if "mutations" in row:
                header += f", mutations={row['mutations'] or 'none'}"
            parts = {"": sequence} if chains is None else chains.split(sequence)
            for name, letters in parts.items():
                which = f", chain={name}" if len(parts) > 1 else ""
                records.append((header + which, letters))
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
        cells = zip(texts, self.images, self.rewards, strict=True)
        rows: list[tuple[str, list[list[tuple[Tensor, str]]]]] = []
        for text, some in groupby(cells, lambda cell: cell[0]):
            line = [(image, f"{reward:.2f}") for _, image, reward in some]
            # a prompt that needs several lines is written once
            for n in range(0, len(line), per_line):
                rows.append(("" if n else text, [line[n : n + per_line]]))
        write_atomic(Path(path), contact_sheet(rows))

    def _images(self) -> list[str]:
        """Return the images a table shows as data URIs; none where the designs are no images."""
        x = self.designs.x
        if self.designs.alphabet is not None or x.dim() != 5 or x.shape[2] not in (1, 3):
            return []
        small = self.images[:ROWS]
        if max(small.shape[-2:]) > SIDE:
            scale = SIDE / max(small.shape[-2:])
            size = [max(1, round(scale * n)) for n in small.shape[-2:]]
            small = interpolate(small, size, mode="area")
        return [data_uri(image) for image in small]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _cell(value: str | int | float) -> str:
    """Return a value as one line of text."""
    return f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split())


def _text(rows: Sequence[Mapping[str, str | int | float]]) -> str:
    """Return rows as aligned text; where a line is too long, its widest columns are cut."""
    if not rows:
        return "no designs"
    table = [list(rows[0]), *([_cell(v) for v in row.values()] for row in rows[:ROWS])]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    while sum(widths) + 2 * (len(widths) - 1) > WIDTH and max(widths) > 16:
        widths[widths.index(max(widths))] -= 1
    lines = [
        "  ".join(_cut(cell, n).ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
    more = [f"… {len(rows) - ROWS} more"] * (len(rows) > ROWS)
    return "\n".join([*(_cut(line, WIDTH) for line in lines), *more])


def _html(rows: Sequence[Mapping[str, str | int | float]], images: Sequence[str]) -> str:
    """Return rows as an HTML table, with a picture in each where there are pictures."""
    if not rows:
        return "<p>no designs</p>"
    keys = ["image"] * bool(images) + list(rows[0])[:COLUMNS]
    head = "".join(f"<th>{escape(key)}</th>" for key in keys)
    body = ""
    for n, row in enumerate(rows[:ROWS]):
        cells = [f'<td><img src="{images[n]}" alt="" width="64"></td>'] if images else []
        shown = list(row.values())[:COLUMNS]
        cells += [f"<td>{escape(_cut(_cell(v), WIDTH))}</td>" for v in shown]
        body += f"<tr>{''.join(cells)}</tr>"
    more = f"<p>… {len(rows) - ROWS} more</p>" if len(rows) > ROWS else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


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
        """Reward calls of the run, without those of a calibration."""
        return self.samples.reward_calls

    @property
    def health(self) -> Health:
        """Whether the sampler was well, in numbers and sentences; islands are compared by prompt.

        Raises:
            ValueError: the run was stopped before its end.
        """
        alone = None if self.model.prompts is None else self.replicates
        return examine(self.samples, self.method, alone)

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
        every, some = len(self.samples.log_w), self.samples
        whole = every if self.model.prompts is None else self.replicates
        rows: list[int] = []
        columns: list[int] = []
        for begin in range(0, every, whole):
            for b, k in some.take(slice(begin, begin + whole)).best(n).tolist():
                rows.append(begin + b)
                columns.append(k)
        rewards, log_w = some.rewards[rows, columns], some.log_w[rows, columns]
        designs = some.designs.each(rows, columns)
        return Picks(designs, rewards.tolist(), log_w.tolist(), self.model)

    @property
    def _all(self) -> Picks:
        return self.best(self.samples.rewards.numel())

    def to_csv(self, path: str | Path) -> None:
        """Write every distinct design as CSV, best first."""
        self._all.to_csv(path)

    def to_dataframe(self) -> Any:
        """Return every distinct design as a pandas data frame, best first."""
        return self._all.to_dataframe()

    def to_images(self, folder: str | Path) -> list[Path]:
        """Write every distinct image as PNG, best first within a prompt; return the paths."""
        return self._all.to_images(folder)

    def contact_sheet(self, path: str | Path, n: int = 8) -> None:
        """Write one PNG of the n best images of each prompt, with their rewards."""
        self.best(n).contact_sheet(path, per_line=min(n, 8))

    def _head(self) -> list[str]:
        """Return how the run went, line by line."""
        b, k = self.samples.log_w.shape
        islands = f"{b} island{'s' if b > 1 else ''} of {k} particles"
        said = [f"{self.network_calls:,} network calls", f"{self.reward_calls:,} reward calls"]
        if self.log_z is not None:
            said.append(f"effective sample size {float(self.samples.ess.mean()):.1f} of {k}")
            spread = float(self.log_z.std()) if b > 1 else math.nan
            over = f" ± {spread:.2f} over islands" if math.isfinite(spread) else ""
            said.append(f"log Z {float(self.log_z.mean()):.2f}{over}")
        try:
            method = to_mapping(self.method)["name"]
        except SpecError:  # it is not registered
            method = type(self.method).__name__
        lines = [
            f"{method} on {self.model.name}, alpha {self.method.alpha:g}, {islands}, "
            f"seed {self.seed}",
            f"reward {self.reward.name}",
            ", ".join(said),
        ]
        if not self.samples.finished:
            lines.append(f"stopped after step {self.particles[0].step} of {self.model.steps}")
        return [_cut(_cell(line), WIDTH) for line in lines]

    def _ill(self) -> str:
        """Return the gravest that is wrong, in the words of `sample`; "" if nothing is."""
        findings = self.health.findings if self.samples.finished else ()
        if not findings:
            return ""
        said = findings[0].sentence.replace("sampler.name", "method").replace("sampler.", "")
        more = f" And {len(findings) - 1} more in result.health.sentences." * (len(findings) > 1)
        return said + more

    def _shown(self) -> Picks:
        return self.best(max(1, SHOWN // self.model.conditions))

    def __repr__(self) -> str:
        if not self.samples.finished:
            return "\n".join(self._head())
        count = f"{len(self._all)} distinct designs, the best:"
        return "\n".join([*self._head(), *wrap(self._ill(), WIDTH), count, repr(self._shown())])

    def _repr_html_(self) -> str:
        said = [*self._head(), *filter(None, [self._ill()])]
        head = "".join(f"<p>{escape(line)}</p>" for line in said)
        return head + (self._shown()._repr_html_() if self.samples.finished else "")
