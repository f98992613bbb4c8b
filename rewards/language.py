"""esm2-pll: how natural a protein language model finds a sequence.

The pseudo-log-likelihood per residue: the mean over positions i of log p(x_i | all other residues),
each from a forward pass in which only i is masked, in nats. It is −log of the model's
pseudo-perplexity. Probabilities are over the twenty letters.

*Cost.* A design of L residues takes L forward passes. `mode: unmasked` takes one: the mean of
log p(x_i | x), the letter itself in sight. It is another, larger number, since the network may copy
what it sees, and ranks sequences similarly at best; it is differentiable.

References:
    Masked language model scoring, Salazar et al., ACL 2020, https://arxiv.org/abs/1910.14659,
    equations 1-3.
    Evolutionary-scale prediction of atomic-level protein structure with a language model, Lin et
    al., Science 379:1123, 2023, https://doi.org/10.1126/science.ade2574 (pseudo-perplexity)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import torch
import torch.nn.functional as F

from seqalign.core.objective import Reward
from seqalign.core.sequence import PROTEIN
from seqalign.models.devices import Precision
from seqalign.models.language import load_language_model
from seqalign.rewards.letters import letter_tokens

if TYPE_CHECKING:
    from torch import Tensor

    from seqalign.core.process import Designs
    from seqalign.models.language import LanguageModel

__all__ = ["PseudoLikelihood", "pseudo_log_likelihood"]

Mode = Literal["masked", "unmasked"]


@dataclass(frozen=True, eq=False, kw_only=True)
class PseudoLikelihood(Reward):
    """The pseudo-log-likelihood per residue of a protein language model, in nats.

    Attributes:
        model: the language model.
        mode: "masked" masks one position at a time; "unmasked" takes one forward pass, an
            approximation.
        chunk: sequences per forward pass.
        name: what messages and tables call it.
        unit: "nats" per residue.

    Raises:
        ValueError: the mode is unknown or `chunk` is not positive.
    """

    model: LanguageModel = field(repr=False)
    mode: Mode = "masked"
    chunk: int = 32
    name: str = "esm2-pll"
    unit: str = "nats"

    def __post_init__(self) -> None:
        """Refuse parameters without a meaning."""
        if self.mode not in get_args(Mode):
            raise ValueError(
                f"Reward {self.name!r}: mode is {self.mode!r}; give 'masked' (one forward pass per "
                f"residue) or 'unmasked' (one per design, an approximation)."
            )
        if self.chunk < 1:
            raise ValueError(f"Reward {self.name!r}: chunk is {self.chunk}; give 1 or more.")

    @property
    def differentiable(self) -> bool:  # type: ignore[override]
        """Only the unmasked approximation is."""
        return self.mode == "unmasked"

    @property
    def cost(self) -> float:  # type: ignore[override]
        """Seconds for a design of 100 residues, at 50 GFLOP/s on a CPU and 50 TFLOP/s on a GPU."""
        passes = 100 if self.mode == "masked" else 1
        speed = 5e10 if self.model.device == "cpu" else 5e13
        return 2 * self.model.parameters * 102 * passes / speed

    def __call__(self, designs: Designs) -> Tensor:
        """Score designs (B, K) in nats per residue, float64.

        Raises:
            TypeError: the designs have no letters.
            ValueError: another alphabet than the twenty amino acids, or a position still masked.
        """
        x, exists = self._rows(designs)
        # every residue to be judged, as (row, position); flat memory: only indices are listed
        where = exists.nonzero()
        units = where if self.mode == "masked" else torch.arange(len(x))[:, None]
        total = torch.zeros(len(x), dtype=torch.float64)
        with torch.no_grad():
            for some in units.split(self.chunk):
                rows = some[:, 0]
                seen, shown = x[rows], exists[rows]
                if self.mode == "masked":
                    at = torch.arange(len(some))
                    seen[at, some[:, 1]] = PROTEIN.mask
                    logits = self.model(seen[:, None], event_mask=shown)[at, 0, some[:, 1]]
                    letter = x[rows, some[:, 1], None]
                    log_p = torch.log_softmax(logits.double(), -1).gather(-1, letter)[:, 0]
                else:
                    logits = self.model(seen[:, None], event_mask=shown)[:, 0]
                    log_p = torch.log_softmax(logits.double(), -1).gather(-1, seen[..., None])
                    log_p = torch.where(shown, log_p[..., 0], 0.0).sum(-1)
                total.index_add_(0, rows, log_p)
        scores = total / exists.sum(-1)
        return scores.reshape(designs.shape).to(designs.x.device)

    def relaxed(self, x: Tensor) -> Tensor:
        """Score letter probabilities (B, K, L, 20) as (B, K) in nats, differentiably.

        The embeddings are mixed by x, and so are the log-probabilities; a one-hot x scores what
        `__call__` scores. All particles take part in one call: chunk them outside.

        Raises:
            TypeError: the mode is "masked", which would need a backward pass per residue.
        """
        if not self.differentiable:
            raise TypeError(
                f"Reward {self.name!r} has no gradient with mode 'masked'. Use mode 'unmasked' (an "
                f"approximation) or a gradient-free method (best_of_n, smc, svdd, nested_is, beam)."
            )
        log_p = torch.log_softmax(self.model(F.pad(x, (0, 1))).to(x.dtype), -1)
        return (x * log_p).sum(-1).mean(-1)

    def _rows(self, designs: Designs) -> tuple[Tensor, Tensor]:
        """Return tokens (B·K, L) and which positions exist, (B·K, L) bool, on the CPU."""
        _, k = designs.shape
        x = letter_tokens(designs, self.name).cpu()
        mask = designs.event_mask
        exists = torch.ones_like(x[:, 0], dtype=torch.bool) if mask is None else mask.cpu()
        empty = (exists.sum(-1) == 0).nonzero()
        if len(empty):
            raise ValueError(
                f"Reward {self.name!r}: the designs of island {int(empty[0])} have no residues."
            )
        return x.flatten(0, 1), exists.repeat_interleave(k, 0)


def pseudo_log_likelihood(
    *,
    checkpoint: str | Path = "esm2_t6_8M_UR50D",
    mode: Mode = "masked",
    chunk: int = 32,
    device: str = "auto",
    precision: Precision = "float32",
) -> PseudoLikelihood:
    """Return the pseudo-log-likelihood per residue of ESM-2 (or DPLM), in nats.

    Args:
        checkpoint: a name of `seqalign fetch`, a .pt file, or a folder in transformers' format.
        mode: "masked" masks one position at a time, one forward pass per residue; "unmasked" takes
            one forward pass per design, an approximation.
        chunk: sequences per forward pass.
        device: "cpu", "cuda", ...; "auto" is cuda where there is one.
        precision: of matrix products; "bfloat16" and "float16" are for accelerators.

    Raises:
        FileNotFoundError: the weights are not on this machine.
        ValueError: a parameter has no meaning.
    """
    model = load_language_model(checkpoint, device=device, precision=precision)
    return PseudoLikelihood(model=model, mode=mode, chunk=chunk)
