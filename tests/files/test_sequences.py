"""FASTA and PIR as people have them: read as a plain reader would, noted, or refused in words."""

from __future__ import annotations

import gzip
import io
import random
import re

import pytest
from Bio import SeqIO

from seqalign.files.sequences import (
    COLON,
    COUNTS,
    GAPS,
    STOP,
    is_fasta,
    lines_of,
    read_fasta,
    read_records,
    spelled,
)

GB1 = "MQYKLILNGKTLKGETTTEAVDAATAEKVFKQYANDNGVDGEWTYDDATKTFTVTE"
BLANKS = " \t\n\r\v\f\xa0\u2000\u2002\u2003\u2009\u202f\u3000"


def genbank(sequence):
    """The sequence as GenBank's ORIGIN prints it."""
    rows = []
    for start in range(0, len(sequence), 60):
        row = sequence[start : start + 60].lower()
        tens = " ".join(row[i : i + 10] for i in range(0, len(row), 10))
        rows.append(f"{start + 1:>9} {tens}")
    return "\n".join(rows)


def ruled(sequence):
    """The sequence as UniProt prints it, tens above."""
    tens = [sequence[i : i + 10] for i in range(0, len(sequence), 10)]
    ruler = " ".join(f"{10 * (i + 1):>10}" for i, t in enumerate(tens) if len(t) == 10)
    return f"{ruler}\n{' '.join(tens)}"


# what a file holds, and which notes a user must see
FILES = {
    "plain": (f">gb1\n{GB1}\n", set()),
    "star": (f">gb1\n{GB1}*\n", {STOP}),
    "star below": (f">gb1\n{GB1}\n*\n", {STOP}),
    "PIR": (f">P1;gb1\nprotein G\n{GB1}*\n", set()),
    "PIR without a description": (f">P1;gb1\n\n{GB1[:30]}\n{GB1[30:]}*\n", set()),
    "PIR with text below": (f">P1;gb1\nprotein G\n{GB1}*\nC;Species: Streptococcus\n", set()),
    "PIR of a modeller": (f">P1;gb1\nsequence:gb1:1::56:::::\n{GB1[:9]}--{GB1[9:]}*\n", {GAPS}),
    "byte-order mark": (f"\ufeff>gb1\n{GB1}\n", set()),
    "mark inside": (f">gb1\n{GB1}\n\ufeff>b\nMKT\n", set()),
    "lower case": (f">gb1\n{GB1.lower()}\n", set()),
    "gaps": (f">gb1\n--{GB1[:9]}-..-{GB1[9:]}-\n", {GAPS}),
    "gaps and a stop": (f">gb1\n{GB1}*--\n", {STOP, GAPS}),
    "blocks of ten": (">gb1\n" + " ".join(GB1[i : i + 10] for i in range(0, 56, 10)), set()),
    "GenBank": (f">gb1\n{genbank(GB1)}\n", {COUNTS}),
    "UniProt": (f">gb1\n{ruled(GB1)}\n", {COUNTS}),
    "counted at the end": (f">gb1\n{GB1[:30]} 30\n{GB1[30:]} 56\n", {COUNTS}),
    "comments": (f"; made today\n>gb1\n;said by someone\n{GB1}\n# end\n", set()),
    "A3M": (f"#56\t1\n>gb1\n{GB1}\n", set()),
    "CR": (f">gb1\r{GB1[:20]}\r{GB1[20:]}\r", set()),
    "CRLF": (f">gb1\r\n{GB1[:20]}\r\n\r\n{GB1[20:]}\r\n", set()),
    "CR CR LF": (f">gb1\r\r\n{GB1[:20]}\r\r\n{GB1[20:]}\r\r\n", set()),
    "blank lines": (f"\n\n>gb1\n\n{GB1[:20]}\n\n{GB1[20:]}\n\n", set()),
    "hard spaces": (f">gb1\n{GB1[:20]}\xa0{GB1[20:]}\xa0\n", set()),
    "form feed in a header": (f">gb1\x0cprotein\u2028G\n{GB1}\n", set()),
    "no line end": (f">gb1\n{GB1}", set()),
    "no header": (f">\n{GB1}\n", set()),
}


def write(path, text):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize("name", FILES)
def test_one_sequence_in_any_dress_is_the_same(tmp_path, name):
    text, expected = FILES[name]
    path = write(tmp_path / "a.fasta", text)
    records, _ = read_records(path)
    assert records[0].found is not None, records[0].refused
    assert records[0].found.letters == GB1
    assert set(records[0].found.notes) == expected
    said = []
    assert read_fasta(path, said.append)[0][1] == GB1
    assert len(said) == len(expected)
    assert all("record 1" in note for note in said)
    # where nobody could be told, nothing is left out
    if expected:
        with pytest.raises(ValueError, match="plain sequence"):
            read_fasta(path)
    assert is_fasta(path)


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
@pytest.mark.parametrize("packed", [False, True])
def test_one_sequence_in_any_encoding_is_the_same(tmp_path, codec, packed):
    data = f">gb1 Müller’s\n{GB1}\n".encode(codec)
    path = write(tmp_path / "a.fasta", gzip.compress(data) if packed else data)
    said = []
    assert read_fasta(path, said.append) == [("gb1 Müller’s", GB1)]
    assert ["Windows-1252" in text for text in said] == [True] * (codec == "cp1252")


REFUSED = {
    "a stop inside": (f">a\n{GB1[:9]}*{GB1[9:]}\n", "letter 10 is '*', a stop codon"),
    "two stops": (f">a\n{GB1}**\n", "letter 57 is '*'"),
    "a digit": (f">a\n{GB1[:9]}7{GB1[9:]}\n", "letter 10 is '7', a digit"),
    "a number that does not count": (f">a\n5 {GB1}\n", "letter 1 is '5'"),
    "a joined record": (f">a\n{GB1}>b\n{GB1}\n", "letter 57 is '>'"),
    "a letter that only looks like S": (">a\nMKſT\n", "LATIN SMALL LETTER LONG S"),
    "a zero-width space": (">a\nMK\u200bT\n", "ZERO WIDTH SPACE"),
    "a control character": (">a\nMK\x1cT\n", "letter 3 is '\\x1c'"),
    "a dash of an editor": (">a\nMK\u2013T\n", "EN DASH"),
    "a question mark": (">a\nMK?T\n", "letter 3 is '?'"),
    "nothing": (">a\n\n>b\nMKT\n", "record 1 (a): the sequence is empty"),
    "only gaps": (">a\n---\n", "the sequence is empty"),
    "PIR whose description is missing": (f">P1;a\n{GB1}*\n", "the description in PIR"),
    "letters below the end of PIR": (f">P1;a\nb\n{GB1}*\nMKT\n", "letter 57 is '*'"),
    "no header": (f"{GB1}\n", "starts with '>'"),
    "Stockholm": (f"# STOCKHOLM 1.0\ngb1 {GB1}\n//\n", "starts with '>'"),
    "Excel": (b"PK\x03\x04....", "is an Excel workbook or another zip archive, not text"),
    "rich text": (b"{\\rtf1\\ansi >gb1}", "rich text"),
    "PDF": (b"%PDF-1.7", "is a PDF"),
    "bytes": (b">a\nMK\x81T\n", "is not text"),
    "UTF-16 without its mark": (f">a\n{GB1}".encode("utf-16-le"), "NUL"),
    "half of UTF-16": (b"\xff\xfe>\0a", "is not text"),
    "damaged gzip": (gzip.compress(b">a\nMKT\n")[:-6], "damaged"),
    "empty": ("", "is empty"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_a_sentence(tmp_path, name):
    data, said = REFUSED[name]
    path = write(tmp_path / "a.fasta", data)
    with pytest.raises(ValueError, match=re.escape(str(path))) as error:
        read_fasta(path, print)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_one_bad_record_spoils_no_other(tmp_path):
    text = f">a\n{GB1}\n>b\n{GB1[:9]}*{GB1}\n>a\n{GB1.lower()}*\n>\n{GB1}\n"
    records, notes = read_records(write(tmp_path / "a.fasta", text))
    assert [r.header for r in records] == ["a", "b", "a", ""]
    assert [r.found and r.found.letters for r in records] == [GB1, None, GB1, GB1]
    assert notes == ()


def test_chains_are_kept_apart():
    assert spelled("mkt/\nAAA") == spelled("MKT/AAA")
    found = spelled("MKT*:AAA*")
    assert (found.letters, set(found.notes)) == ("MKT/AAA", {STOP, COLON})
    assert spelled("MK-T/-A").aligned == "MK-T/-A"


# thousands of damaged files --------------------------------------------------------------------

SEEDS = [text for text, _ in FILES.values()] + [
    f">a one, two\n{GB1}\n>b\n{GB1[::-1]}\n>c id=7\n{GB1.lower()}*\n",
    f">a\n-{GB1[:20]}--\n{GB1[20:]}\n>b\n..{GB1}\n",
    f">P1;a\nfirst\n{GB1}*\n\n>P1;b\nsecond\n{GB1[:20]}\n{GB1[20:]}*\n",
    f">a\n{GB1}/{GB1}\n>b\n{GB1}:{GB1}\n",
]
ODD = "*-.>;#/:0123456789 \t\n\r\x0b\x0c\x1c\x85\xa0\u2028\ufeffſıßÅé\x00\x1bxXbBzZuUoOjJ"
CODECS = ["utf-8"] * 6 + ["utf-8-sig", "utf-16", "cp1252", "latin-1"]


def damaged(rng, text):
    """Return the bytes of a text with a few accidents."""
    for _ in range(rng.randint(0, 3)):
        lines = re.split(r"(?<=\n)", text)
        i = rng.randrange(len(lines))
        match rng.randrange(7):
            case 0:
                lines.insert(i, lines[i])
            case 1:
                del lines[i]
            case 2:
                j = rng.randrange(len(lines))
                lines[i], lines[j] = lines[j], lines[i]
            case 3:
                lines = [line.replace("\n", rng.choice(("\r", "\r\n", "\r\r\n"))) for line in lines]
            case kind:
                at, odd = rng.randint(0, len(text)), rng.choice(ODD)
                lines = [text[:at], odd * (kind != 4), text[at + (kind != 5) :]]
        text = "".join(lines)
    data = text.encode(rng.choice(CODECS), "replace")
    if rng.random() < 0.5 and data:
        data = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    if rng.random() < 0.1:
        data = data[: rng.randint(0, len(data))]
    return bytes(data)


def decoded(data):
    if data.startswith(b"\xff\xfe\0\0"):
        return data.decode("utf-32")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252")


def bare(text):
    return "".join(c for c in text if c not in BLANKS)


def _by_biopython(rows):
    if re.match(r"(P1|F1|D[LC]|R[LC]|N[13]|XX);", rows[0]):
        about, *body = rows[1:] or [""]
        kept = [r for r in body if not re.match(r"[A-Z];|[;#]", r)]
        text, style = f">{rows[0]}\n{about}\n{''.join(kept).replace('*', '')}*\n", "pir"
    else:
        kept = [bare(r) for r in rows[1:] if r[:1] not in (";", "#")]
        text, style = "\n".join([f">{rows[0]}", *kept, ""]), "fasta"
    [record] = SeqIO.parse(io.StringIO(text), style)
    return str(record.seq)


def plainly(text):
    """What Biopython reads, record by record, comments and marks between files removed.

    None where a letter is not ASCII, which Biopython does not hold.
    """
    lines = [line.strip("\ufeff" + BLANKS) for line in re.split(r"\r\n|\r|\n", text)]
    start = next(i for i, line in enumerate(lines) if line.startswith(">"))
    found = []
    for block in "\n".join(lines[start:])[1:].split("\n>"):
        head, *body = block.split("\n")
        rows = [head.strip(BLANKS), *body[:1], *map(bare, body[1:])]
        try:
            found.append(bare(_by_biopython(rows)).upper())
        except (UnicodeError, IndexError):
            found.append(None)
    return found


def read_like_biopython(path, data):
    """Assert that a file is refused in a sentence or read letter by letter; say how it ended."""
    path.write_bytes(data)
    try:
        records, _ = read_records(path)
    except ValueError as error:
        return "refused" if str(path) in str(error) else "unsaid"
    text = decoded(data)
    expected = plainly(text)
    assert len(records) == len(expected), "a record vanished"
    for record, letters in zip(records, expected, strict=True):
        if record.found is None:
            assert record.refused
            continue
        if COUNTS in record.found.notes:
            letters = re.sub("[0-9]", "", letters)
        if COLON in record.found.notes:
            letters = letters.replace(":", "/")
        if STOP in record.found.notes:
            letters = re.sub(r"\*(?=[-.]*(/|$))", "", letters)
        assert record.found.aligned == letters, "letters changed"
        if GAPS in record.found.notes:
            letters = re.sub("[-.]", "", letters)
        assert record.found.letters == letters, "letters changed"
    return "read" if all(record.found for record in records) else "partly"


def fuzz(tmp_path, start, stop):
    ends = dict.fromkeys(("refused", "read", "partly"), 0)
    for seed in range(start, stop):
        rng = random.Random(seed)
        data = damaged(rng, rng.choice(SEEDS))
        try:
            ends[read_like_biopython(tmp_path / "f.fasta", data)] += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}: {data!r}") from error
    return ends


def test_damaged_fasta_is_read_right_or_refused(tmp_path):
    ends = fuzz(tmp_path, 0, 300)
    assert min(ends.values()) > 5, ends


@pytest.mark.slow
def test_thousands_of_damaged_fasta_files(tmp_path):
    ends = fuzz(tmp_path, 300, 2_800)
    assert min(ends.values()) > 50, ends


def test_lines_end_where_any_system_ends_them():
    assert lines_of("a\rb\nc\r\nd\x0c\x85\u2028e") == ["a", "b", "c", "d\x0c\x85\u2028e"]
