"""The design map: which residues may change, and to what."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from seqalign.load import Model
from seqalign.space.space import DesignSpace


def design_map(model: Model, space: DesignSpace) -> list[str]:
    """Draw the design map, chain by chain: wild type, and below it what may change."""
    names = model.residues
    free = space.alphabet.mask_symbol
    letters = space.alphabet.letters
    top = space.wild_type or "".join(a if a != free else "?" for a in space.fixed)
    marks = "".join(
        "." if space.fixed[i] != free else ("*" if len(space.allowed[i]) == len(letters) else "+")
        for i in range(space.length)
    )
    lines, begin = [], 0
    for size in model.chains:
        for start in range(begin, begin + size, 60):
            end = min(start + 60, begin + size)
            ruler = "".join(f"{names[i]:<10s}" for i in range(start, end, 10))
            lines += [f"  {ruler.rstrip()}", f"  {top[start:end]}", f"  {marks[start:end]}"]
        begin += size
    lines.append("  . fixed   * free   + free, fewer letters")
    groups: dict[str, list[int]] = {}
    for i, some in enumerate(space.allowed):
        if marks[i] == "+":
            groups.setdefault(some, []).append(i)
    for some, where in groups.items():
        missing = "".join(a for a in letters if a not in some)
        text = f"all but {missing}" if len(missing) < len(some) else some
        lines.append(f"  {ranges(where, names)}: {text}")
    for c in space.constraints:
        label, said = c.words()
        lines.append(f"  {c.key}: {label[0].lower()}{label[1:]} {said}")
    return lines


def ranges(indices: Sequence[int], names: Sequence[object]) -> str:
    """Return ascending indices as names, runs as FIRST-LAST."""
    parts = []
    for _, run in groupby(enumerate(indices), lambda pair: pair[1] - pair[0]):
        some = [names[i] for _, i in run]
        parts.append(f"{some[0]}-{some[-1]}" if len(some) > 1 else f"{some[0]}")
    return ", ".join(parts)
