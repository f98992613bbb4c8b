"""How a reward is called, never what it says: counted, cached, in chunks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b

import torch
from torch import Tensor

from seqalign.core.objective import Reward, Wrapper, evaluate
from seqalign.core.process import Designs

__all__ = ["Cached", "Chunked", "Counted"]


class Counted(Wrapper):
    """Count the designs a reward scores (`calls`), and the relaxed ones (`relaxed_calls`)."""

    def __init__(self, inner: Reward) -> None:
        """Start at zero."""
        super().__init__(inner)
        self.calls = self.relaxed_calls = 0

    def _relaxed(self, n: int) -> None:
        self.calls += n
        self.relaxed_calls += n

    def __call__(self, designs: Designs) -> Tensor:
        """Score designs, (B, K)."""
        self.calls += designs.shape[0] * designs.shape[1]
        return self.inner(designs)

    def relaxed(self, x: Tensor) -> Tensor:
        """Score relaxed designs, (B, K)."""
        self._relaxed(x.shape[0] * x.shape[1])
        return self.inner.relaxed(x)

    def graded(self, designs: Designs) -> Tensor:
        """Score continuous designs, (B, K), differentiably."""
        self._relaxed(designs.shape[0] * designs.shape[1])
        return self.inner.graded(designs)


class Cached(Wrapper):
    """Score identical designs once, ever: the memory holds one float per distinct design.

    Relaxed designs are never cached, they hardly repeat.
    """

    def __init__(self, inner: Reward) -> None:
        """Start empty."""
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
                own = [i // k for i in new.values()]
                asked = replace(
                    designs,
                    x=flat[picks][:, None],
                    event_mask=None if mask is None else mask[picks // k],
                    prompts=designs.prompts and tuple(designs.prompts[j] for j in own),
                )
                values = evaluate(self.inner, asked)[:, 0]
            self.memory.update(zip(new, values.tolist(), strict=True))
        answer = torch.tensor(
            [self.memory[key] for key in keys], dtype=torch.float64, device=flat.device
        )
        return answer.reshape(b, k)


class Chunked(Wrapper):
    """Score at most `size` designs per call, never mixing islands; memory stays flat in K."""

    def __init__(self, inner: Reward, size: int) -> None:
        """Fix the size."""
        if size < 1:
            raise ValueError(f"Chunk size must be >= 1, got {size}.")
        super().__init__(inner)
        self.size = size

    def _pieces(self, shape: tuple[int, int]) -> list[list[tuple[slice, slice]]]:
        b, k = shape
        return [
            [(slice(i, i + 1), slice(j, j + self.size)) for j in range(0, k, self.size)]
            for i in range(b)
        ]

    def __call__(self, designs: Designs) -> Tensor:
        """Score designs, (B, K)."""
        rows = self._pieces(designs.shape)
        return torch.cat(
            [torch.cat([evaluate(self.inner, designs[at]) for at in row], 1) for row in rows]
        )

    def relaxed(self, x: Tensor) -> Tensor:
        """Score relaxed designs, (B, K)."""
        rows = self._pieces((x.shape[0], x.shape[1]))
        return torch.cat([torch.cat([self.inner.relaxed(x[at]) for at in row], 1) for row in rows])

    def graded(self, designs: Designs) -> Tensor:
        """Score continuous designs, (B, K), differentiably."""
        rows = self._pieces(designs.shape)
        return torch.cat(
            [torch.cat([self.inner.graded(designs[at]) for at in row], 1) for row in rows]
        )
