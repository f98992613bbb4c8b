"""A model on a uniform process: letters that drift to a peptide's composition."""

from __future__ import annotations

import torch
from torch import Tensor

from seqalign.core.discrete import UniformProcess
from seqalign.core.sequence import PROTEIN


def soup(registered: str, length: int = 10, steps: int = 8, seed: int = 3) -> UniformProcess:
    """Return the process; every position has a table of its own."""
    rng = torch.Generator().manual_seed(seed)
    table = torch.randn(length, len(PROTEIN), generator=rng, dtype=torch.float64)

    def network(x: Tensor, t: float) -> Tensor:
        seen = x if x.is_floating_point() else torch.nn.functional.one_hot(x, len(PROTEIN))
        return table + 2 * (1 - t) * seen.double()

    return UniformProcess(network, PROTEIN, length, steps, name=registered)
