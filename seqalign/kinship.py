"""Kinship: what two rewards, or a reward and a model, share, as their cards say it.

    shares: {features: [proteinmpnn], data: [megascale]}

`features` are the networks, descriptors or counts whose output is read; `data` the measurements,
or the family or collection of one's own, that parameters were fitted to. Natural sequences and
structures at large, which nearly every network has seen, are not listed, nor are constants of
letters such as their hydrophobicity. Either list may be left out, and both may be empty: `shares:
{}` says that there is nothing to share.

Two of them are of another kind if no name is in both. A card without the field, a function of the
user's and weights from a file of the user's are not compared: what they share is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seqalign import weights
from seqalign.entries import Kind
from seqalign.registry import card

__all__ = ["Kin", "kin", "shared"]


@dataclass(frozen=True)
class Kin:
    """What a reward or model is made of, by names.

    A reward with its own weights is among its features: used twice, it is its twin.
    """

    features: frozenset[str] = frozenset()
    data: frozenset[str] = frozenset()


def kin(kind: Kind, name: str, params: Mapping[str, Any]) -> Kin | None:
    """Return what a reward or model with these parameters is made of; None if nobody says it.

    Published weights, given as `checkpoint`, bring features of their own.

    Raises:
        SpecError: the name is unknown, or its card damaged.
    """
    said = card(kind, name).get("shares")
    if said is None:
        return None
    features = frozenset(said.get("features", ()))
    # one network with two sets of weights is two judges
    itself = {name} if kind == "reward" and params.get("checkpoint") is None else set()
    if (given := params.get("checkpoint")) is not None:
        entry = weights.find(str(given), weights.catalog())
        if entry is None or not entry.features:
            return None
        features = frozenset(entry.features)
    return Kin(features | itself, frozenset(said.get("data", ())))


def shared(one: Kin | None, other: Kin | None) -> tuple[str, ...] | None:
    """Return what both are made of, "features x" and "data y"; None if one of them is unknown."""
    if one is None or other is None:
        return None
    return (
        *(f"features {name}" for name in sorted(one.features & other.features)),
        *(f"data {name}" for name in sorted(one.data & other.data)),
    )
