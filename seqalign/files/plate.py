"""Plates: which well holds what, as a list and as a picture of the plate in text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar

__all__ = ["Plate", "fill", "grid", "wells"]

Plate = Literal[24, 96, 384]
T = TypeVar("T")
_SIZES: dict[int, tuple[str, int]] = {
    24: ("ABCD", 6),
    96: ("ABCDEFGH", 12),
    384: ("ABCDEFGHIJKLMNOP", 24),
}


def wells(plate: Plate) -> list[str]:
    """Return the wells of a plate, row by row: A01, A02, ..., H12."""
    rows, columns = _SIZES[plate]
    return [f"{row}{column:02d}" for row in rows for column in range(1, columns + 1)]


def fill(
    designs: Sequence[Sequence[T]], plate: Plate, controls: Sequence[T] = ()
) -> list[list[tuple[str, T]]]:
    """Return plate after plate the wells that are filled, in their order, and what with.

    Args:
        designs: what each has of wells, side by side and never on two plates.
        plate: wells of each.
        controls: what fills the last wells of every plate.

    Raises:
        ValueError: a design needs more wells than a plate has beside its controls.
    """
    places = wells(plate)
    room = len(places) - len(controls)
    widest = max((len(some) for some in designs), default=0)
    if widest > room:
        raise ValueError(
            f"a design takes {widest} well{'s' * (widest > 1)}, one per chain, and "
            f"{len(controls)} of the {plate} wells are controls. Ask for fewer controls."
        )
    plates: list[list[T]] = [[]]
    for some in designs:
        if len(plates[-1]) + len(some) > room:
            plates.append([])
        plates[-1] += some
    last = list(zip(places[room:], controls, strict=True))
    return [[*zip(places, some, strict=False), *last] for some in plates]


def grid(plate: Plate, names: Mapping[str, str]) -> str:
    """Return a plate as it lies on the bench: a name per well, "." where it is empty."""
    rows, columns = _SIZES[plate]
    table = [["", *(str(n) for n in range(1, columns + 1))]]
    table += [
        [row, *(names.get(f"{row}{n:02d}", ".") for n in range(1, columns + 1))] for row in rows
    ]
    widths = [max(len(line[i]) for line in table) for i in range(columns + 1)]
    padded = ("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in table)
    return "".join(f"{line.rstrip()}\n" for line in padded)
