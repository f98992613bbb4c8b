"""Linear heads: chains of linear layers without anything in between, as one map in float64."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["LinearHead", "fold"]


@dataclass(frozen=True, eq=False)
class LinearHead:
    """One linear map from an embedding to a number, in float64.

    Attributes:
        weight: (d,) float64.
        bias: added.
    """

    weight: Tensor = field(repr=False)
    bias: float

    def __call__(self, features: Tensor) -> Tensor:
        """Return (n,) float64 of features (n, d)."""
        return features.double() @ self.weight.to(features.device) + self.bias


def fold(state: Mapping[str, Tensor], prefix: str = "layers.") -> LinearHead:
    """Return the one linear map that a chain of linear layers is, multiplied out in float64.

    Args:
        state: `{prefix}{i}.weight` (out, in) and `{prefix}{i}.bias` (out,) of layers that follow
            one another in the order of i; numbers may be left out (dropout layers have no weights).
        prefix: of the layers; other keys are not read.

    Raises:
        ValueError: there is no such layer, a bias is missing, or they do not follow one another
            from a vector to one number.
    """
    found = (re.fullmatch(re.escape(prefix) + r"(\d+)\.weight", key) for key in state)
    numbers = sorted(int(match[1]) for match in found if match)
    if not numbers:
        raise ValueError(f"It holds no {prefix}0.weight, so it is no chain of linear layers.")
    weight: Tensor | None = None
    bias = torch.zeros((), dtype=torch.float64)
    for i in numbers:
        w = state[f"{prefix}{i}.weight"].detach().double().cpu()
        b = state.get(f"{prefix}{i}.bias")
        fits = w.ndim == 2 and b is not None and b.shape == w.shape[:1]
        if b is None or not fits or (weight is not None and w.shape[1] != weight.shape[0]):
            raise ValueError(
                f"{prefix}{i}.weight has shape {tuple(w.shape)}, which does not follow what is "
                f"before it, or has no bias."
            )
        weight = w if weight is None else w @ weight
        bias = (w @ bias if bias.ndim else 0) + b.detach().double().cpu()
    assert weight is not None
    if weight.shape[0] != 1:
        raise ValueError(f"Its last layer gives {weight.shape[0]} numbers instead of one score.")
    return LinearHead(weight[0], float(bias))
