"""Letters: what rewards of proteins ask of designs and of letter probabilities, before scoring."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seqalign.core.sequence import PROTEIN

if TYPE_CHECKING:
    from torch import Tensor

    from seqalign.core.process import Designs

__all__ = ["ON_BACKBONE", "letter_probabilities", "letter_tokens"]

ON_BACKBONE = (
    "has a backbone with {} residues that have a letter",
    "Give the reward the structure and chains that the model designs",
)
"""What a reward of one backbone says of its length, and the cure."""


def letter_tokens(
    designs: Designs, name: str, length: int | None = None, words: tuple[str, str] = ON_BACKBONE
) -> Tensor:
    """Return the tokens (B, K, L) of finished protein designs; padding may hold anything.

    Args:
        designs: what is scored.
        name: of the reward.
        length: L, if it must be this one.
        words: how the reward says so, and what to do instead.

    Raises:
        TypeError: the designs have no letters.
        ValueError: another alphabet, another length, or a position still masked.
    """
    x, mask = designs.x, designs.event_mask
    if designs.alphabet is None:
        raise TypeError(
            f"Reward {name!r} scores protein sequences, and these designs are continuous. Use it "
            f"with a process over protein letters."
        )
    if designs.alphabet.letters != PROTEIN.letters:
        raise ValueError(
            f"Reward {name!r} scores designs over {PROTEIN.letters!r}, got the alphabet "
            f"{designs.alphabet.letters!r}. Use a protein model."
        )
    lengths = [x.shape[-1]] if mask is None else sorted(set(mask.sum(-1).tolist()))
    if length is not None and (x.shape[-1] != length or lengths != [length]):
        raise ValueError(
            f"Reward {name!r} {words[0].format(length)}, got designs of length "
            f"{', '.join(map(str, lengths))}. {words[1]}."
        )
    outside = (x < 0) | (x >= len(PROTEIN))
    if mask is not None:
        outside = outside & mask[:, None].to(x.device)
    if bool(outside.any()):
        b, k, i = (int(n) for n in outside.nonzero()[0])
        raise ValueError(
            f"Reward {name!r}: island {b}, particle {k}, position {i + 1} holds token "
            f"{int(x[b, k, i])}, which is no letter of {PROTEIN.letters!r} ({PROTEIN.mask} is the "
            f"mask). Score finished designs only."
        )
    return x


def letter_probabilities(x: Tensor, name: str, length: int | None = None) -> Tensor:
    """Return letter probabilities (B, K, L, 20), of this length if one is given.

    Raises:
        ValueError: x has another shape.
    """
    if x.ndim != 4 or x.shape[-1] != len(PROTEIN) or length not in (None, x.shape[-2]):
        raise ValueError(
            f"Reward {name!r} needs letter probabilities of shape (B, K, {length or 'L'}, "
            f"{len(PROTEIN)}), got {tuple(x.shape)}. Design what the reward is for, and leave out "
            f"the column of the mask."
        )
    return x
