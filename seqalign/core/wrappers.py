"""How a reward is called, never what it says: counted, cached, in chunks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor

from seqalign.core.objective import Reward, Way, Wrapper, evaluate
from seqalign.core.process import Designs

__all__ = ["Cached", "Chunked", "Counted"]


class Counted(Wrapper):
    """Count the designs a reward scores (`calls`), and the relaxed ones (`relaxed_calls`)."""

    def __init__(self, inner: Reward) -> None:
        super().__init__(inner)
        self.calls = self.relaxed_calls = 0

    def ask(self, way: Way, given: Any) -> Tensor:
        """Count, and ask."""
        n = given.shape[0] * given.shape[1]
        self.calls += n
        self.relaxed_calls += 0 if way is evaluate else n
        return way(self.inner, given)


class Cached(Wrapper):
    """Score identical designs once, ever: the memory holds one float per distinct design.

    Relaxed designs are never cached, they hardly repeat.
    """

    def __init__(self, inner: Reward) -> None:
        super().__init__(inner)
        self.memory: dict[bytes, float] = {}

    def map(self, f: Callable[[Reward], Reward]) -> Cached:
        """Return the same around f(inner); what another reward said is not remembered."""
        inner = f(self.inner)
        return self if inner is self.inner else Cached(inner)

    def __call__(self, designs: Designs) -> Tensor:
        """Score designs, (B, K)."""
        b, k = designs.shape
        # islands of different length: the mask is part of the design, the letters of the padding
        # are not
        mask = designs.event_mask
        x = designs.x if mask is None else torch.where(mask[:, None], designs.x, 0)
        flat = x.flatten(0, 1)
        rows = flat.cpu().contiguous().numpy()
        masks = [b""] * b if mask is None else [m.cpu().numpy().tobytes() for m in mask]
        if designs.prompts is not None:
            masks = [m + p.encode() + b"\0" for m, p in zip(masks, designs.prompts, strict=True)]
        # a digest: the bytes of an image would fill the memory
        keys = [
            blake2b(masks[i // k] + rows[i].tobytes(), digest_size=16).digest()
            for i in range(b * k)
        ]
        new = {key: i for i, key in enumerate(keys) if key not in self.memory}
        if new:
            picks = torch.tensor(list(new.values()), device=flat.device)
            if mask is None and designs.prompts is None:
                asked = replace(designs, x=flat[picks][None])
                values = evaluate(self.inner, asked)[0]
            else:
                # what belongs to an island goes with each of its designs
                where = [divmod(i, k) for i in new.values()]
                asked = replace(designs, x=x).each(*zip(*where, strict=True))
                values = evaluate(self.inner, asked)[:, 0]
            self.memory.update(zip(new, values.tolist(), strict=True))
        answer = torch.tensor(
            [self.memory[key] for key in keys], dtype=torch.float64, device=flat.device
        )
        return answer.reshape(b, k)


class Chunked(Wrapper):
    """Score at most `size` designs per call, never mixing islands; memory stays flat in K."""

    def __init__(self, inner: Reward, size: int) -> None:
        if size < 1:
            raise ValueError(f"Chunk size must be >= 1, got {size}.")
        super().__init__(inner)
        self.size = size

    def ask(self, way: Way, given: Any) -> Tensor:
        """Ask piece by piece."""
        b, k = given.shape[:2]
        rows = []
        for i in range(b):
            pieces = [given[i : i + 1, j : j + self.size] for j in range(0, k, self.size)]
            rows.append(torch.cat([way(self.inner, piece) for piece in pieces], 1))
        return torch.cat(rows)
