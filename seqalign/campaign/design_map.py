"""The design map: which residues may change, and to what."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from seqalign.campaign.schema import Campaign
from seqalign.files.numbering import Numbering, ResidueError, split, spoken
from seqalign.load import Model
from seqalign.space.space import DesignSpace


def design_map(model: Model, space: DesignSpace) -> list[str]:
    """Draw the design map, chain by chain: wild type, and below it what may change."""
    names, called = model.residues, model.numbering or Numbering.plain(space.length)
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
        lines.append(f"  {called.names([i + 1 for i in where])}: {text}")
    for c in space.constraints:
        label, said = c.words()
        lines.append(f"  {c.key}: {label[0].lower()}{label[1:]} {said}")
    return lines


def places(campaign: Campaign, model: Model) -> dict[str, str]:
    """Return what each expression with a word of place means: "KEY: interface A B" -> residues.

    What holds several words is told as a whole, and word by word below.
    """
    numbering = model.numbering
    if numbering is None or numbering.places is None:
        return {}
    asked = [("design.residues", campaign.design.residues), ("design.fix", campaign.design.fix)]
    asked += [(f"constraints.{key}", value) for key, value in campaign.constraints.items()]
    found: dict[str, str] = {}
    for key, value in asked:
        for expression in _expressions(value):
            parts = [re.sub(r"^(?i:not)\s+", "", p) for p in split(expression)]
            words = [p for p in parts if spoken(p)]
            # letters in capitals may be a pattern, or a set of them
            if not words or (key.startswith("constraints.") and expression.isupper()):
                continue
            for text in dict.fromkeys([", ".join(split(expression)), *words]):
                found[f"{key}: {text}"] = _resolved(numbering, text)
    return found


def _resolved(numbering: Numbering, text: str) -> str:
    try:
        return numbering.names(numbering.positions(text, absent=True))
    except ResidueError:
        # alone it names nobody: it was read before, with others
        return "none"


def _expressions(value: Any) -> Iterator[str]:
    """Yield the texts of a value; a list of texts is one expression, or several alone."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, below in value.items():
            yield from (str(key), *_expressions(below))
    elif isinstance(value, Sequence):
        some = [v for v in value if isinstance(v, str | int)]
        if some:
            yield ", ".join(map(str, some))
        for below in value:
            if not isinstance(below, str | int):
                yield from _expressions(below)
