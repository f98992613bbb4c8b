"""Networks for tests: sizes of tiny transformers, and one that may only be asked forward."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from seqalign.core.gaussian import GaussianProcess


def forward_only(process: GaussianProcess, **changes: Any) -> tuple[GaussianProcess, list[int]]:
    """The process with changes, whose network refuses gradients, and the states of each call."""
    calls: list[int] = []

    def denoiser(x: Tensor, t: float) -> Tensor:
        assert not x.requires_grad
        assert not torch.is_grad_enabled()
        calls.append(x.shape[0] * x.shape[1])
        return process.denoiser(x, t)

    return replace(process, denoiser=denoiser, differentiable=False, **changes), calls


def two_layers(width: int, inner: int, heads: int = 2) -> dict[str, int]:
    """The sizes of a tiny transformer, as the settings of `transformers` name them."""
    sizes = {"hidden_size": width, "intermediate_size": inner, "num_attention_heads": heads}
    return sizes | {"num_hidden_layers": 2}
