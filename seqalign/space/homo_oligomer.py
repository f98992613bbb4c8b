"""Equal chains, tied position by position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from seqalign.space.constraint import Constraint, ConstraintError, Positions

__all__ = ["HomoOligomer", "twins"]


@dataclass(frozen=True)
class HomoOligomer(
    Constraint,
    key="homo_oligomer",
    rank=40,
    schema=list[list[str]],
    said=("Copies", "chains {chains}"),
):
    """Chains that are copies of one sequence."""

    chains: tuple[str, ...]

    @classmethod
    def example(cls, at: Positions) -> tuple[Any, str] | None:
        """Show two chains of one numbering; None where there are no such chains."""
        pair = list(twins(at))
        return ([pair], "chains tied position by position") if pair else None

    def ties(self, at: Positions) -> Sequence[tuple[int, ...]]:
        """Return a group for each position of a chain."""
        found = _chains(at)
        unknown = [c for c in self.chains if c not in found]
        if len(self.chains) < 2 or unknown:
            known = ", ".join(c or "(no name)" for c in found)
            raise ConstraintError(
                f"homo_oligomer: {list(self.chains)} must be two or more chains of {known}"
                f"{f'; there is no {unknown[0]!r}' if unknown else ''}.",
                self.path,
            )
        one = self.chains[0]
        for other in self.chains[1:]:
            a, b = _numbers(at, one), _numbers(at, other)
            if len(a) != len(b) or (a != b and not _parallel(a, b)):
                shared = next((n for n in a if n in b), None)
                pair = (
                    [found[c][_numbers(at, c).index(shared)] for c in (one, other)]
                    if shared
                    else []
                )
                hint = f", as [[{', '.join(at.name(i) for i in pair)}]]" if pair else ""
                lone = sorted(set(a) ^ set(b), key=lambda n: [*a, *b].index(n))
                raise ConstraintError(
                    f"homo_oligomer: chains {one} ({len(a)} positions) and {other} ({len(b)}) "
                    f"cannot be tied position by position: residue {lone[0]} is in one of them "
                    f"only. Tie what they share with tie{hint}, and fix the rest.",
                    self.path,
                )
        groups = zip(*(found[c] for c in self.chains), strict=True)
        return [tuple(i + 1 for i in group) for group in groups]


def twins(at: Positions) -> dict[str, int]:
    """Return two chains with the same residue numbers, and where each begins; empty without."""
    found = _chains(at)
    for a, b in combinations(found, 2):
        if _numbers(at, a) == _numbers(at, b):
            return {a: found[a][0], b: found[b][0]}
    return {}


def _chains(at: Positions) -> dict[str, list[int]]:
    """Return the 0-based indices of each chain."""
    found: dict[str, list[int]] = {}
    for i, chain in enumerate(at.named.chains):
        found.setdefault(chain, []).append(i)
    return found


def _numbers(at: Positions, chain: str) -> list[str]:
    return [at.named.numbers[i] for i in _chains(at)[chain]]


def _parallel(a: list[str], b: list[str]) -> bool:
    """Return whether two chains are numbered alike but for a constant."""
    try:
        return len({int(m) - int(n) for m, n in zip(a, b, strict=True)}) == 1
    except ValueError:  # insertion codes
        return False
