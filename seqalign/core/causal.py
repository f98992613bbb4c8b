"""Networks that keep what they made of the letters revealed so far.

The state of a revealed position is computed once, from the letters known then. A process over such
a network is a function of its states and of the order in which their letters came, which travels
with the particles in the posterior. Where nothing looks at a chain before its end (unguided
sampling, `seqalign.core.unguided`; the likelihood of a sequence) one position is computed a step.

References:
    Uria, Murray & Larochelle, "A deep and tractable density estimator", ICML 2014 (one order at a
    time). Dauparas et al., "Robust deep learning-based protein sequence design using ProteinMPNN",
    Science 2022.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

__all__ = ["Causal", "Choose", "Place", "along"]

Place = Callable[[int, Tensor], Tensor]
Choose = Callable[[int, Tensor, Tensor], Tensor]


@runtime_checkable
class Causal(Protocol):
    """A network that remembers; called on tokens alone it takes all letters as given."""

    def __call__(self, x: Tensor, t: float) -> Tensor:
        """Return logits (..., L, V) of tokens (..., L)."""

    def advance(self, x: Tensor, before: Any) -> Any:
        """Return what is kept of tokens x (B, K, L) that became of those of `before`, or of none.

        It has `logits` (B, K, L, V), right at the open positions, and `map`.
        """

    def ask(self, before: Any, at: Tensor) -> tuple[Tensor, Any]:
        """Return the logits (B, K, V) at open positions (B, K), and what `tell` needs.

        `before` is what `advance` or `tell` returned.
        """

    def tell(self, x: Tensor, before: Any, at: Tensor, made: Any) -> Any:
        """Return what is kept of tokens x (B, K, L): those of `before` with letters at (B, K).

        It is good for `ask` and `tell`, and has `map`. `made` is what `ask` returned there.
        """

    def decode(self, x: Tensor, place: Place, choose: Choose) -> Iterator[Tensor]:
        """Yield tokens (P, L) after each reveal, for as long as positions are open.

        `place(i, x)` says which position (P,) is the i-th, `choose(i, at, logits)` which letter
        (P,) it gets, told its logits (P, V).
        """

    def follow(self, x: Tensor, order: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield pieces of x (P, L) with the logits (p, m, V) at the positions of an order (m,).

        Each is told the letters before it in the order, and all that are not in it.
        """


def along(process: Any, x: Tensor, order: Tensor) -> Tensor:
    """Return log p (P,), nats, of the letters of x (P, L) at the positions of an order (m,).

    One pass over the network instead of one a letter: each is told those before it.
    """
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for part, logits in process.network.follow(x, order):
        log_p = torch.log_softmax(process.cooled(logits.double(), order), -1)
        total[part] = log_p.gather(-1, x[part][:, order, None])[..., 0].sum(-1)
    return total
