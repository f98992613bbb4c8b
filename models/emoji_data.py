"""The emoji of both embedded image networks: pixels, names, split and text features.

*Pixels.* `noto_emoji_png32.tar.xz` holds 32x32 RGBA drawings, one file per emoji, named by its
code points. They are composited on white.

*Names.* The lower-case Unicode name. `unicodedata` knows more names in newer versions of Python,
so the 27 emoji that came with Unicode 15 and 16 are named in a table here: the set, and so the
split, is the same under every version. What is not a single code point:

- A skin-tone variant (a person with a modifier) is left out: 1,885 files, a recoloring of 300
  drawings, which would be half of the data. The five modifiers themselves are emoji and stay.
- A joined sequence is read as its parts, signs put into words: MAN + ARTIST PALETTE is "man artist
  palette", RUNNER + FEMALE SIGN is "woman runner", CAT + BLACK LARGE SQUARE is "cat black".
- A keycap is "keycap digit one". Flags of countries are not in the archive.
- U+FE82B, a private code point, has no name and is left out.

1,692 emoji remain, each with a name of its own.

*Split.* By the hash of `family(name)`, the name without words that only tell variants of one
drawing apart ("woman", "man", "facing right", the hour of a clock face): the woman and the man who
surf, nearly the same picture, are in one part. About 10 % test and 5 % validation.

*Text.* `tokens(name)` is a bag of numbers: each word, the 4-grams of its letters, and the synsets
above it in WordNet (`seqalign.models.emoji_words`), all by a hash. It has no vocabulary: a word
that no training name has still shares its kind with known words (a donkey is an equine, a mammal,
an animal) and its spelling ("snowboarder", "snowflake"). The order of words is not seen, upper
case and punctuation are not either.

References:
    Enriching word vectors with subword information, Bojanowski et al., 2017,
    https://arxiv.org/abs/1607.04606 (section 3.2: the n-grams of a word in angle brackets, hashed).
"""

from __future__ import annotations

import io
import re
import tarfile
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from seqalign.models.emoji_words import ancestors
from seqalign.models.splits import Part, bucket, part

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["ARCHIVE", "BUCKETS", "SIZE", "Emoji", "bags", "family", "load", "part_of", "tokens"]

ARCHIVE: Final = "images/noto_emoji_png32.tar.xz"
"""Where the drawings lie in the data folder."""

SIZE: Final = 32
"""Height and width of a drawing, in pixels."""

SALT: Final = "emoji"
"""Name of the split, see `seqalign.models.splits`."""

BUCKETS: Final = 8192
"""Number of text features: `tokens` gives numbers in 0..BUCKETS - 1."""

GRAM: Final = 4
"""Length of the character n-grams, angle brackets included."""

_TONES: Final = frozenset(range(0x1F3FB, 0x1F400))
_JOINERS: Final = frozenset((0x200D, 0xFE0F))
_KEYCAP: Final = 0x20E3

# Signs that mean something else when they are joined to an emoji than alone.
_JOINED: Final = {
    0x2640: "woman",
    0x2642: "man",
    0x27A1: "facing right",
    0x2B1B: "black",
    0x1F7E9: "green",
    0x1F7EB: "brown",
    0x2764: "heart",
    0x26A7: "transgender",
    0x1F9B0: "red hair",
    0x1F9B1: "curly hair",
    0x1F9B2: "bald",
    0x1F9B3: "white hair",
}

# Unicode 15.0 and later: not known to every version of Python.
_RECENT: Final = {
    0x1F6DC: "wireless",
    0x1FA75: "light blue heart",
    0x1FA76: "grey heart",
    0x1FA77: "pink heart",
    0x1FA87: "maracas",
    0x1FA88: "flute",
    0x1FA89: "harp",
    0x1FA8F: "shovel",
    0x1FAAD: "folding hand fan",
    0x1FAAE: "hair pick",
    0x1FAAF: "khanda",
    0x1FABB: "hyacinth",
    0x1FABC: "jellyfish",
    0x1FABD: "wing",
    0x1FABE: "leafless tree",
    0x1FABF: "goose",
    0x1FAC6: "fingerprint",
    0x1FACE: "moose",
    0x1FACF: "donkey",
    0x1FADA: "ginger root",
    0x1FADB: "pea pod",
    0x1FADC: "root vegetable",
    0x1FADF: "splatter",
    0x1FAE8: "shaking face",
    0x1FAE9: "face with bags under eyes",
    0x1FAF7: "leftwards pushing hand",
    0x1FAF8: "rightwards pushing hand",
}

_VARIANT: Final = frozenset(
    "adult baby boy boys child female girl girls male man men person woman women older family "
    "facing right".split()
)
_SERIES: Final = ("clock face", "keycap", "regional indicator symbol letter", "emoji modifier")


@dataclass(frozen=True, eq=False)
class Emoji:
    """One drawing.

    Attributes:
        points: its code points, joiners included.
        name: lower-case text, unique among the emoji that `load` gives.
        pixels: (3, 32, 32) uint8, RGB on white; read-only.
    """

    points: tuple[int, ...]
    name: str
    pixels: NDArray[np.uint8]

    @property
    def part(self) -> Part:
        """The part of the split it belongs to: "train", "validation" or "test"."""
        return part_of(self.name)


def spell(points: Sequence[int]) -> str | None:
    """Return the name of a code point sequence; None for what the docstring above leaves out."""
    shown = [p for p in points if p not in _JOINERS]
    if len(shown) > 1 and _TONES.intersection(shown):
        return None
    if len(shown) == 2 and shown[1] == _KEYCAP:
        return f"keycap {unicodedata.name(chr(shown[0])).lower()}"
    words: list[str] = []
    for i, point in enumerate(shown):
        name = _JOINED.get(point) if i else None
        name = name or _RECENT.get(point) or unicodedata.name(chr(point), "").lower()
        if not name:
            return None
        # The sex of a person comes first, as in speech: "woman surfer".
        if i and point in (0x2640, 0x2642):
            words.insert(0, name)
        else:
            words.append(name)
    return " ".join(words)


def words_of(name: str) -> list[str]:
    """Return the lower-case words of a text: runs of letters and digits."""
    return re.findall(r"[^\W_]+", name.lower())


def family(name: str) -> str:
    """Return the key that the split hashes: `name` without what only tells variants apart."""
    words = words_of(name)
    plain = " ".join(words)
    for series in _SERIES:
        if plain.startswith(series):
            return series
    return " ".join(word for word in words if word not in _VARIANT) or "person"


def part_of(name: str) -> Part:
    """Return "train", "validation" or "test": about 85, 5 and 10 % of the families of names."""
    return part(family(name), SALT)


def tokens(name: str) -> tuple[int, ...]:
    """Return the text features of `name`: sorted distinct numbers in 0..`BUCKETS` - 1.

    Each word "cat" gives itself, "<cat>", the 4-grams of "<cat>" and its synsets in WordNet. Two
    words that WordNet knows as one name ("hot dog") give the synsets of that name only.

    Raises:
        ValueError: `name` has no letter and no digit.
    """
    words = words_of(name)
    if not words:
        raise ValueError(
            f"The prompt {name!r} has no letter and no digit, so it says nothing; give words, such "
            "as 'smiling cat face', or None for no condition."
        )
    found: set[int] = set()
    synsets: set[int] = set()
    joined = False
    for word, following in zip(words, [*words[1:], ""], strict=True):
        pair = ancestors(f"{word}_{following}")
        if not joined:
            synsets.update(pair or ancestors(word))
        joined = bool(pair)
        marked = f"<{word}>"
        found.add(bucket(marked, "emoji-word", BUCKETS))
        for i in range(len(marked) - GRAM + 1):
            found.add(bucket(marked[i : i + GRAM], "emoji-gram", BUCKETS))
    found.update(bucket(str(synset), "emoji-synset", BUCKETS) for synset in synsets)
    return tuple(sorted(found))


def bags(names: Sequence[str]) -> NDArray[np.float32]:
    """Return the text features of n names as rows of unit length, (n, `BUCKETS`).

    A row has the same value at each of its `tokens` and 0 elsewhere. Multiplied with a matrix
    (`BUCKETS`, width) it sums the embeddings of the tokens.
    """
    out = np.zeros((len(names), BUCKETS), dtype=np.float32)
    for row, name in zip(out, names, strict=True):
        found = list(tokens(name))
        row[found] = len(found) ** -0.5
    return out


def load(data: Path) -> list[Emoji]:
    """Return the emoji of a data folder, sorted by code points.

    Args:
        data: folder with `images/noto_emoji_png32.tar.xz`, or that file.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: Pillow is missing.
        ValueError: a drawing is not 32x32, a file name is not one of code points, or a name occurs
            twice.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            'Emoji are read by Pillow, which is missing; run: pip install "seqalign[images]"'
        ) from error
    path = data / ARCHIVE if data.is_dir() else data
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; give --data a folder with {ARCHIVE}.")
    found: list[Emoji] = []
    seen: dict[str, str] = {}
    with tarfile.open(path) as archive:
        for member in archive:
            if not member.isfile():
                continue
            points = _points(path, member.name)
            name = spell(points)
            if name is None:
                continue
            if name in seen:
                raise ValueError(f"{path}: {member.name} and {seen[name]} are both named {name!r}.")
            seen[name] = member.name
            file = archive.extractfile(member)
            assert file is not None  # a regular file has content
            pixels = _on_white(Image.open(io.BytesIO(file.read())).convert("RGBA"))
            if pixels.shape != (3, SIZE, SIZE):
                raise ValueError(
                    f"{path}: {member.name} is {pixels.shape[2]}x{pixels.shape[1]} pixels; "
                    f"{SIZE}x{SIZE} are needed."
                )
            found.append(Emoji(points, name, pixels))
    return sorted(found, key=lambda emoji: emoji.points)


def _points(path: Path, name: str) -> tuple[int, ...]:
    match = re.fullmatch(r"(?:.*/)?emoji_u([0-9a-f]+(?:_[0-9a-f]+)*)\.png", name)
    if match is None:
        raise ValueError(
            f"{path}: {name!r} is not named like emoji_u1f600.png, by code points in hexadecimal."
        )
    return tuple(int(point, 16) for point in match[1].split("_"))


def _on_white(image: Any) -> NDArray[np.uint8]:
    """Return (3, H, W) RGB of an RGBA image composited on white, rounded to the nearest."""
    rgba = np.asarray(image, dtype=np.float64)
    alpha = rgba[..., 3:] / 255.0
    pixels = np.rint(rgba[..., :3] * alpha + 255.0 * (1.0 - alpha)).astype(np.uint8)
    pixels = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    pixels.setflags(write=False)
    return pixels
