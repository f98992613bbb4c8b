"""What is no `Reward` yet: a function of sequences, or a program, as one."""

from __future__ import annotations

import itertools
import shlex
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from seqalign.core.objective import Reward, RewardError
from seqalign.core.process import Designs

__all__ = ["Command", "Function", "OnFailure", "as_reward", "function"]

OnFailure = Literal["raise", "reject"]


@dataclass(frozen=True)
class Function(Reward):
    """Any Python function of a list of sequences (or a tensor of continuous designs) as a reward.

    Attributes:
        fn: list of n strings (tensor (n, *event) for continuous designs) to n numbers.
        on_failure: "raise", or "reject" to turn NaN, +inf and exceptions into -inf at the end.
    """

    fn: Callable[[Any], Any]
    name: str = "function"
    unit: str = ""
    cost: float = 0.0
    on_failure: OnFailure = "raise"

    def __call__(self, designs: Designs) -> Tensor:
        """Score designs, (B, K)."""
        b, k = designs.shape
        items: Any = (
            designs.x.flatten(0, 1)
            if designs.alphabet is None
            else list(itertools.chain.from_iterable(designs.sequences))
        )
        try:
            values = torch.as_tensor(self.fn(items), dtype=torch.float64)
        except Exception as error:
            if self.on_failure == "raise":
                raise RewardError(
                    f"Reward {self.name!r} failed on {b * k} designs: {error}"
                ) from error
            values = torch.stack([self._one(item) for item in items])
        if values.shape != (b * k,):
            raise RewardError(
                f"Reward {self.name!r} returned {tuple(values.shape)} values for {b * k} designs; "
                f"return a flat list with one number per design."
            )
        if self.on_failure == "reject":
            values = torch.where(torch.isnan(values) | (values == torch.inf), -torch.inf, values)
        return values.reshape(b, k).to(designs.x.device)

    def _one(self, item: Any) -> Tensor:
        # one bad design must not reject its whole batch
        try:
            value = self.fn([item] if isinstance(item, str) else item[None])
            return torch.as_tensor(value, dtype=torch.float64).reshape(())
        except Exception:
            return torch.tensor(-torch.inf, dtype=torch.float64)


@dataclass(frozen=True)
class Command(Reward):
    """An external program as a reward: `{fasta}` becomes a file, stdout one number per line."""

    command: str
    name: str = "command"
    unit: str = ""
    cost: float = 1.0
    timeout: float = 3600.0

    def __post_init__(self) -> None:
        if "{fasta}" not in self.command:
            raise ValueError(
                f"Reward command {self.command!r} must contain {{fasta}}, the file of sequences."
            )

    def __call__(self, designs: Designs) -> Tensor:
        """Score designs, (B, K)."""
        b, k = designs.shape
        sequences = list(itertools.chain.from_iterable(designs.sequences))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "designs.fasta"
            path.write_text("".join(f">{n}\n{s}\n" for n, s in enumerate(sequences)))
            argv = [part.replace("{fasta}", str(path)) for part in shlex.split(self.command)]
            try:
                done = subprocess.run(argv, capture_output=True, text=True, timeout=self.timeout)
            except (OSError, subprocess.TimeoutExpired) as error:
                raise RewardError(
                    f"Reward {self.name!r}: {shlex.join(argv)} did not run: {error}."
                ) from error
        if done.returncode:
            raise RewardError(
                f"Reward {self.name!r}: {self.command!r} exited {done.returncode}: "
                f"{done.stderr.strip()[-500:]}"
            )
        lines = done.stdout.split()
        try:
            values = [float(line) for line in lines]
        except ValueError as error:
            raise RewardError(
                f"Reward {self.name!r}: {self.command!r} printed something else: {error}."
            ) from error
        if len(values) != b * k:
            raise RewardError(
                f"Reward {self.name!r}: {self.command!r} printed {len(values)} numbers for {b * k} "
                f"sequences."
            )
        return torch.tensor(values, dtype=torch.float64).reshape(b, k)


def function(
    fn: Callable[[Any], Any],
    name: str | None = None,
    *,
    unit: str = "",
    on_failure: OnFailure = "raise",
) -> Function:
    """Turn a Python function of sequences into a reward.

    It sees the letters of all positions of the model, chain after chain: of a structure the
    residues with a whole backbone, context chains too, which can be fewer than are ordered.
    """
    return Function(
        fn, name or getattr(fn, "__name__", "function").strip("<>"), unit, on_failure=on_failure
    )


def as_reward(given: Reward | Callable[[Any], Any], name: str | None = None) -> Reward:
    """Return a reward as it is, and any other function of sequences as one, under a name."""
    if isinstance(given, Reward):
        return given
    if isinstance(given, type) or not callable(given):
        what = f"the class {given.__name__}" if isinstance(given, type) else repr(given)
        raise TypeError(
            f"{what} is no reward: give a Reward, or a function from a list of sequences (a tensor "
            "of continuous designs) to one number per design."
        )
    return function(given, name)
