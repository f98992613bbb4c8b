"""The letters of some positions: allowed, left out, or made likelier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqalign.space.constraint import Constraint, ConstraintError, Positions, Schema
from seqalign.space.counter import Flags

__all__ = ["Residues"]


class _Letters(Schema):
    """Letters of some positions; `bias` is added to the model's logits and is no constraint."""

    allow: str | None = None
    omit: str | None = None
    bias: dict[str, float] | None = None


@dataclass(frozen=True)
class Residues(Constraint, key="residues", rank=20, schema=dict[str, _Letters]):
    """What may stand at the positions of one expression.

    Attributes:
        where: the positions, such as "A1-5, A9".
        allow: the only letters there; None for all.
        omit: letters that are not there.
        bias: (letter, nats) added to the model's logits. It changes p_pre; the rest is hard.
    """

    where: str
    allow: str | None = None
    omit: str = ""
    bias: tuple[tuple[str, float], ...] = ()

    @classmethod
    def example(cls, at: Positions) -> tuple[Any, str]:
        """Show each of the three at another position."""
        one, two, three = (at.free[len(at.free) * k // 4] for k in (1, 2, 3))
        wild = at.wild_type or "A" * at.length
        shown = {
            at.name(one): {"allow": wild[one] + "AILMV".replace(wild[one], "")},
            at.name(two): {"omit": "PG".replace(wild[two], "")},
            at.name(three): {"bias": {"K": -0.5}},
        }
        return shown, "bias adds to logits and is no constraint"

    @property
    def path(self) -> tuple[str, ...]:
        """Name the expression, too."""
        return self.key, self.where

    def words(self) -> tuple[str, str]:
        """Name the letters."""
        said = [] if self.allow is None else [f"allow {self.allow}"]
        said += [f"omit {self.omit}"] if self.omit else []
        said += ["bias " + ", ".join(f"{a} {n:+g}" for a, n in self.bias)] if self.bias else []
        return f"At {self.where}", "; ".join(said)

    def flags(self, at: Positions) -> Flags:
        """Restrict the letters at the positions."""
        flags = np.ones((at.length, len(at.alphabet)), dtype=bool)
        here = [i - 1 for i in at.read(self.where, *self.path)]
        only = at.alphabet.letters if self.allow is None else self.allow
        only_, never = at.letters(only, *self.path), at.letters(self.omit, *self.path)
        flags[here] = [a in only_ and a not in never for a in at.alphabet.letters]
        return flags

    def logits(self, at: Positions) -> Tensor | None:
        """Return (L, V) numbers to add to the logits, in nats."""
        if not self.bias:
            return None
        logits = torch.zeros(at.length, len(at.alphabet))
        where = [i - 1 for i in at.read(self.where, *self.path)]
        for letter, added in self.bias:
            if len(letter) != 1 or letter not in at.alphabet.letters:
                raise ConstraintError(
                    f"residues: bias of {letter!r} at {self.where!r} is not one of "
                    f"{at.alphabet.letters!r}.",
                    self.path,
                )
            logits[where, at.alphabet.letters.index(letter)] += added
        return logits
