"""Sequences as people have them: FASTA and PIR read letter by letter, and what was left out said.

- Lower case is read as upper, white space does not count, and lines that begin with ";" or "#" are
  comments. Chains are joined by "/".
- What is left out is noted: gaps ("-" and "."), a final "*" (a stop codon), numbers that count the
  letters of their line. So is ":" where it joins chains.
- Everything else that is no letter refuses its record, and no other.

References:
    W. R. Pearson and D. J. Lipman, PNAS 1988 (FASTA); the NBRF/PIR format of the Protein
    Information Resource: ">P1;NAME", a line of description, the sequence up to "*".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from seqalign.files.text import text_of

__all__ = [
    "BLANK", "Fasta", "Spelled", "is_fasta", "lines_of", "read_fasta", "read_records", "spelled",
    "summed",
]  # fmt: skip

STOP: Final = "a final '*' (a stop codon) is left out"
GAPS: Final = "gaps ('-' and '.') are left out; what is read is the sequence, not its alignment"
COUNTS: Final = "numbers that count the letters of a line are left out"
COLON: Final = "':' between chains is read as '/'"

# isspace would also take control characters, as a damaged file has them
BLANK: Final = " \t\n\r\v\f\u00a0\u2000\u2002\u2003\u2009\u202f\u3000"
_PIR = re.compile(r"(?:P1|F1|D[LC]|R[LC]|N[13]|XX);")
# what follows the "*" of a PIR record: C;Species: ..., R;author
_PIR_TEXT = re.compile(r"[A-Z];")


@dataclass(frozen=True)
class Spelled:
    """What a text says as a sequence.

    Attributes:
        letters: upper case, chains joined by "/".
        aligned: the same with its gaps, "-" or ".".
        notes: what was left out.
    """

    letters: str
    aligned: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fasta:
    """A record of a FASTA file: what it says, or why it cannot be read.

    Attributes:
        place: of the record, for messages.
        header: the line without ">"; the name and the description of PIR.
        found: the sequence; None if it was refused.
        refused: why, in a sentence without its full stop.
    """

    place: str
    header: str
    found: Spelled | None
    refused: str = ""


def spelled(text: str, notes: Iterable[str] = ()) -> Spelled:
    """Return the sequence that a text spells.

    Raises:
        ValueError: a character is no letter, with its place; or there are none.
    """
    said = list(notes)
    plain = "".join(_words(text))
    if ":" in plain:
        said.append(COLON)
        plain = plain.replace(":", "/")
    chains = []
    n = 0
    for chain in plain.split("/"):
        bare = chain.rstrip("-.")
        if bare.endswith("*"):
            said.append(STOP)
            chain = bare[:-1] + chain[len(bare) :]
        for letter in chain:
            n += letter not in "-."
            if not (letter.isascii() and letter.isalpha()) and letter not in "-.":
                raise ValueError(f"letter {n} is {_odd(letter)}")
        chains.append(chain.upper())
    aligned = "/".join(chains)
    letters = aligned.replace("-", "").replace(".", "")
    if letters != aligned:
        said.append(GAPS)
    if not letters.replace("/", ""):
        raise ValueError("the sequence is empty; fill it in, or remove it")
    return Spelled(letters, aligned, tuple(dict.fromkeys(said)))


def _odd(letter: str) -> str:
    """Say what is wrong with a character."""
    if letter == "*":
        return "'*', a stop codon inside the sequence; only a final one is left out"
    if letter == ">":
        return "'>', which begins a record: a line end is missing before it"
    if letter.isdigit():
        return f"{letter!r}, a digit that does not count letters; remove it"
    name = "" if letter.isascii() else f" ({unicodedata.name(letter, f'U+{ord(letter):04X}')})"
    return f"{letter!r}{name}; a sequence has the letters A-Z, and '/' between chains"


def lines_of(text: str) -> list[str]:
    """Return the lines of a text that end as on any system, and nowhere else."""
    # splitlines would also break headers at form feeds and U+2028
    return re.split(r"\r\n|\r|\n", text)


def _bare(line: str) -> str:
    """Return a line without white space around; files joined by cat have marks inside."""
    return line.strip("\ufeff" + BLANK)


def _words(text: str) -> list[str]:
    return [word for word in re.split(f"[{BLANK}]+", text) if word]


def is_fasta(path: Path) -> bool:
    """Whether the first line of a file that says anything begins with ">"."""
    lines = map(_bare, lines_of(text_of(path, "give plain text")[0]))
    return next((line for line in lines if line and line[0] not in ";#"), "").startswith(">")


def read_records(path: Path) -> tuple[list[Fasta], tuple[str, ...]]:
    """Return the records of a FASTA or PIR file, in order, and notes on the whole file.

    Raises:
        ValueError: the file is none, or is empty.
    """
    text, notes = text_of(path, "give a FASTA file, as plain text")
    blocks: list[tuple[str, list[str]]] = []
    for n, line in enumerate(map(_bare, lines_of(text)), 1):
        if line.startswith(">"):
            blocks.append((line[1:].strip(), []))
        elif blocks:
            blocks[-1][1].append(line)
        elif line and line[0] not in ";#":
            raise ValueError(
                f"{path}:{n}: a FASTA file starts with '>' and a name, but this line is "
                f"{line[:40]!r}."
            )
    if not blocks:
        raise ValueError(
            f"{path} is empty: give a FASTA file with one sequence, or the sequence itself."
        )
    return [_record(path, n, *block) for n, block in enumerate(blocks, 1)], notes


def _record(path: Path, n: int, header: str, lines: Sequence[str]) -> Fasta:
    pir = _PIR.match(header)
    try:
        if pir:
            name, lines = header[pir.end() :].strip(), _of_pir(lines)
            header = f"{name} {lines[0]}".strip()
            lines = lines[1:]
        found = spelled(*_counted(line for line in lines if line[:1] not in (";", "#")))
    except ValueError as error:
        return Fasta(_place(path, n, header), header, None, str(error))
    if pir:  # the "*" is the end of the record there
        notes = tuple(note for note in found.notes if note != STOP)
        found = Spelled(found.letters, found.aligned, notes)
    return Fasta(_place(path, n, header), header, found)


def _place(path: Path, n: int, header: str) -> str:
    shown = "".join(c if c.isprintable() else " " for c in header)
    words = shown.replace(",", " ").split()
    return f"{path}, record {n}" + (f" ({words[0][:40]})" if words else "")


def _of_pir(lines: Sequence[str]) -> list[str]:
    """Return the description of a PIR record and the lines of its sequence."""
    about = lines[0] if lines else ""
    if re.fullmatch(r"[A-Za-z]{20,}\*?", about):
        raise ValueError(
            f"the line below '>P1;...' is the description in PIR, and this one looks like "
            f"letters of the sequence: {about[:30]}...; put a line before it, which may be blank, "
            "or write '>' and a name without 'P1;'"
        )
    end = next((i for i, line in enumerate(lines) if i and line.endswith("*")), len(lines) - 1)
    rest = [line for line in lines[end + 1 :] if not _PIR_TEXT.match(line)]
    return [about, *lines[1 : end + 1], *rest]


def _counted(lines: Iterable[str]) -> tuple[str, list[str]]:
    """Return lines as one text without the numbers that count their letters, and notes."""
    found: list[str] = []
    notes: list[str] = []
    so_far = 0
    for line in lines:
        words = _words(line)
        letters = sum(c.isalpha() for c in line)
        if words and not letters and all(w.isdecimal() and int(w) % 10 == 0 for w in words):
            words = []  # a ruler: 10 20 30
        elif len(words) > 1 and _says(words[0], so_far + 1):
            words = words[1:]
        elif len(words) > 1 and _says(words[-1], so_far + letters):
            words = words[:-1]
        if words != _words(line):
            notes = [COUNTS]
        so_far += letters
        found += words
    return "".join(found), notes


def _says(word: str, number: int) -> bool:
    return word.isdecimal() and len(word) < 9 and int(word) == number


def read_fasta(path: Path, note: Callable[[str], object] | None = None) -> list[tuple[str, str]]:
    """Return the (header, sequence) records of a FASTA or PIR file; each has a sequence.

    Args:
        path: the file.
        note: takes a sentence on what was left out; without it nothing may be.

    Raises:
        ValueError: the file or a record of it cannot be read; the message names the record.
    """
    records, said = read_records(path)
    for record in records:
        if record.found is None:
            raise ValueError(f"{record.place}: {record.refused}.")
        if note is None and record.found.notes:
            clause = record.found.notes[0]
            raise ValueError(f"{record.place}: write the plain sequence here; elsewhere {clause}.")
    if note is not None:
        pairs = [(r.place, text) for r in records if r.found for text in r.found.notes]
        for text in (*(f"{whole}." for whole in said), *summed(pairs)):
            note(text)
    return [(r.header, r.found.letters) for r in records if r.found]


def summed(notes: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield one sentence per kind of note of (place, note) pairs, with the first place."""
    kinds: dict[str, list[str]] = {}
    for place, text in notes:
        kinds.setdefault(text, []).append(place)
    for text, places in kinds.items():
        more = f" and {len(places) - 1:,} more" if len(places) > 1 else ""
        yield f"{places[0]}{more}: {text}."
