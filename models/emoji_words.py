"""What WordNet knows of a word: its hypernyms, so that an unseen "donkey" is still an equine.

`ancestors("donkey")` gives numbers of the synsets above the word, from the specific to the general.
Two words that mean similar things share many. They are read from `emoji-words.txt.xz`, a tree of
nouns made from WordNet 3.1 by

    python -m seqalign.models.emoji_words FOLDER models/emoji-words.txt.xz

where FOLDER holds WordNet's `data.noun`, `index.noun` and `index.sense`.

*Which nouns.* Lower-case, of 3 to 14 letters, at least as frequent as noun as in any other part of
speech, and either concrete (animal, artifact, body, food, object, phenomenon, plant, shape,
substance) or seen in WordNet's tagged text. Two-word names only of concrete things: seen in tagged
text, or food.
*Which sense.* The first concrete one, else the first; the animal before its meat.
*The tree.* A line is a node: its depth, then its words. A synset without words that has one child
is left out. Of several hypernyms the first counts.

The tree is a modification of WordNet, whose license goes with every copy:

    This software and database is being provided to you, the LICENSEE, by
    Princeton University under the following license.  By obtaining, using
    and/or copying this software and database, you agree that you have
    read, understood, and will comply with these terms and conditions.:

    Permission to use, copy, modify and distribute this software and
    database and its documentation for any purpose and without fee or
    royalty is hereby granted, provided that you agree to comply with
    the following copyright notice and statements, including the disclaimer,
    and that the same appear on ALL copies of the software, database and
    documentation, including modifications that you make for internal
    use or for distribution.

    WordNet 3.1 Copyright 2011 by Princeton University.  All rights reserved.

    THIS SOFTWARE AND DATABASE IS PROVIDED "AS IS" AND PRINCETON
    UNIVERSITY MAKES NO REPRESENTATIONS OR WARRANTIES, EXPRESS OR
    IMPLIED.  BY WAY OF EXAMPLE, BUT NOT LIMITATION, PRINCETON
    UNIVERSITY MAKES NO REPRESENTATIONS OR WARRANTIES OF MERCHANT-
    ABILITY OR FITNESS FOR ANY PARTICULAR PURPOSE OR THAT THE USE
    OF THE LICENSED SOFTWARE, DATABASE OR DOCUMENTATION WILL NOT
    INFRINGE ANY THIRD PARTY PATENTS, COPYRIGHTS, TRADEMARKS OR
    OTHER RIGHTS.

    The name of Princeton University or Princeton may not be used in
    advertising or publicity pertaining to distribution of the software
    and/or database.  Title to copyright in this software, database and
    any associated documentation shall at all times remain with
    Princeton University and LICENSEE agrees to preserve same.

References:
    WordNet: a lexical database for English, Miller, 1995, https://doi.org/10.1145/219717.219748
"""

from __future__ import annotations

import argparse
import lzma
import re
from collections import defaultdict
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["ancestors", "build"]

FILE: Final = "emoji-words.txt.xz"

SKIPPED: Final = 3
"""Depth of the nodes that are too general to say anything: entity, object, whole."""

_ANIMAL: Final = 5
_FOOD: Final = 13
_CONCRETE: Final = frozenset((_ANIMAL, 6, 8, _FOOD, 17, 19, 20, 25, 27))


@cache
def _tree() -> tuple[Mapping[str, int], Sequence[int]]:
    """Return the node of each word, and the parent of each node, -1 for none or too general."""
    text = lzma.decompress(files("seqalign.models").joinpath(FILE).read_bytes()).decode()
    node: dict[str, int] = {}
    parents: list[int] = []
    open_nodes: list[int] = []
    for number, line in enumerate(text.splitlines()):
        depth, *words = line.split(" ")
        del open_nodes[int(depth) :]
        parents.append(open_nodes[-1] if len(open_nodes) > SKIPPED else -1)
        open_nodes.append(number)
        for word in words:
            node[word] = number
    return node, parents


def ancestors(word: str) -> tuple[int, ...]:
    """Return the numbers of the nodes of `word`, its own first; empty for an unknown word.

    Two words are joined by an underscore: "palm_tree". An unknown plural is read as its singular.
    """
    node, parents = _tree()
    forms = [word]
    if word.endswith("s"):
        forms += [word[:-1], word.removesuffix("es"), word.removesuffix("ies") + "y"]
    found = next((node[form] for form in forms if form in node), -1)
    chain = []
    while found >= 0:
        chain.append(found)
        found = parents[found]
    return tuple(chain)


def build(folder: Path) -> str:
    """Return the text of the tree, made from the files of WordNet in `folder`."""
    field: dict[str, int] = {}
    spellings: dict[str, set[str]] = {}
    above: dict[str, str | None] = {}
    for line in _entries(folder / "data.noun"):
        offset, lexicographer, _, count, *rest = line.split("|")[0].split()
        words = int(count, 16)
        field[offset] = int(lexicographer)
        spellings[offset] = set(rest[: 2 * words : 2])
        pointers = rest[2 * words + 1 :]
        kinds, targets = pointers[::4], pointers[1::4]
        above[offset] = next((o for k, o in zip(kinds, targets, strict=False) if k[0] == "@"), None)
    counts: defaultdict[str, list[int]] = defaultdict(lambda: [0] * 6)
    for line in (folder / "index.sense").read_text().splitlines():
        key, _, _, count = line.split()
        lemma, sense = key.split("%")
        counts[lemma][int(sense[0])] += int(count)
    words_at: defaultdict[str, list[str]] = defaultdict(list)
    for line in _entries(folder / "index.noun"):
        lemma, _, _, pointers_count, *rest = line.split()
        tagged, *offsets = rest[int(pointers_count) + 1 :]
        if not re.fullmatch(r"[a-z]{3,14}(_[a-z]{3,12})?", lemma):
            continue
        if counts[lemma][1] < max(counts[lemma][2:]):
            continue
        concrete = [o for o in offsets if field[o] in _CONCRETE]
        chosen = concrete[0] if concrete else offsets[0]
        if field[chosen] == _FOOD:
            chosen = next((o for o in concrete if field[o] == _ANIMAL), chosen)
        common = tagged != "0"
        if lemma not in spellings[chosen]:  # written with a capital: a proper name or a taxon
            continue
        if "_" in lemma:
            keep = bool(concrete) and (common or field[chosen] == _FOOD)
        else:
            keep = bool(concrete) or common
        if keep:
            words_at[chosen].append(lemma)
    children: defaultdict[str | None, list[str]] = defaultdict(list)
    reached: set[str] = set()
    for offset in sorted(words_at):
        here: str | None = offset
        while here is not None and here not in reached:
            reached.add(here)
            children[above[here]].append(here)
            here = above[here]
    lines: list[str] = []
    stack = [(root, 0) for root in sorted(children[None], reverse=True)]
    while stack:
        here, depth = stack.pop()
        below = sorted(children[here], reverse=True)
        if words_at[here] or len(below) != 1 or depth <= SKIPPED:
            lines.append(" ".join((str(depth), *sorted(words_at[here]))))
            depth += 1
        stack += [(child, depth) for child in below]
    return "\n".join(lines) + "\n"


def _entries(path: Path) -> list[str]:
    """Return the lines of a file of WordNet without its licence, which is indented."""
    return [line for line in path.read_text().splitlines() if not line.startswith("  ")]


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m seqalign.models.emoji_words", description="Make the tree of nouns."
    )
    parser.add_argument("folder", type=Path, help="WordNet 3.1: data.noun, index.noun, index.sense")
    parser.add_argument("out", type=Path, help=f"{FILE} to write")
    args = parser.parse_args()
    args.out.write_bytes(lzma.compress(build(args.folder).encode(), preset=9))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
