"""Unresolved residues: the letters of a chain that its file names and has no atoms for.

SEQRES of a PDB file and `_entity_poly_seq` of mmCIF give the sequence of the molecule that was
made; which of its letters have atoms is found by where the pieces of the chain fit.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["unresolved"]


def unresolved(
    whole: str,
    seen: str,
    broken: Sequence[bool],
    steps: Sequence[int],
    labels: Sequence[str] = (),
    names: Sequence[str] = (),
) -> list[str]:
    """Return the letters without atoms before each of n residues, and after the last: n + 1 texts.

    Args:
        whole: the letters of the molecule, "X" where one is not standard.
        seen: the n letters with atoms, in order.
        broken: whether the chain is broken before each.
        steps: how much further its number is than the one before; the first does not count.
        labels: 1-based places in `whole` where the file gives them (mmCIF).
        names: of the residues, for messages.

    Raises:
        ValueError: they do not fit, or in more than one way; a sentence without a head.
    """
    n = len(seen)
    if labels and all(labels):
        places = [int(label) - 1 for label in labels]
    else:
        places = _placed(whole, seen, broken, steps, names)
    for i, at in enumerate(places):
        before = places[i - 1] if i else -1
        if not before < at < len(whole) or not _alike(whole[at], seen[i]):
            raise ValueError(f"residue {i + 1} ({seen[i]}) is not letter {at + 1} of it")
    edges = [-1, *places, len(whole)]
    return [whole[edges[i] + 1 : edges[i + 1]] for i in range(n + 1)]


def _alike(a: str, b: str) -> bool:
    return a == b or "X" in (a, b)


def _placed(
    whole: str, seen: str, broken: Sequence[bool], steps: Sequence[int], names: Sequence[str]
) -> list[int]:
    """Return the 0-based place of each residue: whole pieces, as the numbers say if it can be."""
    starts = [i for i in range(len(seen)) if i == 0 or broken[i]]
    ends = [*starts[1:], len(seen)]
    # how many letters may be missing in all
    slack = len(whole) - len(seen)
    fits = [
        [
            at
            for at in range(start, start + slack + 1)
            if all(map(_alike, whole[at : at + end - start], seen[start:end]))
        ]
        for start, end in zip(starts, ends, strict=True)
    ]
    # from the last piece to the first: where the one before ends -> the least disagreement with the
    # numbers from here on, in how many ways, and one of them
    best: dict[int, tuple[float, int, tuple[int, ...]]] = {}
    for piece in reversed(range(len(starts))):
        size = ends[piece] - starts[piece]
        later = best if piece < len(starts) - 1 else None
        best = {}
        after_all = {0} if not piece else {at + starts[piece] for at in range(slack + 1)}
        for after in after_all:
            found: tuple[float, int, tuple[int, ...]] = (float("inf"), 0, ())
            for at in fits[piece]:
                if at < after:
                    continue
                cost, ways, rest = (0.0, 1, ()) if later is None else later[at + size]
                cost += abs(at - after - steps[starts[piece]] + 1) if piece else 0
                if ways and cost <= found[0]:
                    same = cost == found[0]
                    found = (cost, ways + found[1], found[2]) if same else (cost, ways, (at, *rest))
            best[after] = found
    _, ways, places = best.get(0, (0.0, 0, ()))
    if not ways:
        odd = next((k for k, some in enumerate(fits) if not some), None)
        if odd is None or slack < 0:
            raise ValueError("the residues that have atoms are not found in it in their order")
        lost = seen[starts[odd] : ends[odd]]

        def unlike(at: int) -> list[int]:
            return [k for k, a in enumerate(lost) if not _alike(whole[at + k], a)]

        at = min(range(starts[odd], starts[odd] + slack + 1), key=lambda at: len(unlike(at)))
        k = unlike(at)[0]
        name = names[starts[odd] + k] if names else f"residue {starts[odd] + k + 1}"
        raise ValueError(f"{name} is {lost[k]} by its atoms and {whole[at + k]} in it")
    if ways > 1:
        raise ValueError("the residues that have atoms can be found in it in more than one way")
    return [
        at + k
        for at, start, end in zip(places, starts, ends, strict=True)
        for k in range(end - start)
    ]
