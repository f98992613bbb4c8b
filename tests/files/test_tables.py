"""Tables as laboratories export them: the same records in any dress, each row read or refused."""

from __future__ import annotations

import csv
import gzip
import io
import random
import re

import pytest

from seqalign.files.candidates import _KNOWN, candidates
from seqalign.files.sequences import GAPS, STOP
from seqalign.files.tables import column_key, read_table

A, B = "MKTAYIAKQRQW", "MKTAYIAKQRQF"
ROWS = [("v1", "Q11A", A, "1,5"), ("v2", "W12F", B, "0,25"), ("v3", "", A.lower(), "")]
HEAD = ("Name", "Variant", "Sequence", "dG")


def exported(separator, rows=ROWS, head=HEAD, quote=csv.QUOTE_MINIMAL, end="\n"):
    text = io.StringIO()
    csv.writer(text, delimiter=separator, quoting=quote, lineterminator=end).writerows(
        [head, *rows]
    )
    return text.getvalue()


def write(path, text):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def said(found):
    """(name, what each column says) of every record; None if it was refused."""
    return [
        (c.name, None if c.refused else {claim.column: claim.text for claim in c.claims})
        for c in found
    ]


PLAIN = [
    ("v1", {"Variant": "Q11A", "Sequence": A}),
    ("v2", {"Variant": "W12F", "Sequence": B}),
    ("v3", {"Sequence": A}),
]
DRESSES = {
    "comma": exported(","),
    "semicolon": exported(";"),
    "tab": exported("\t"),
    "bar": exported("|"),
    "all quoted": exported(";", quote=csv.QUOTE_ALL),
    "mark": "\ufeff" + exported(";"),
    "CRLF": exported(";", end="\r\n"),
    "CR": exported(",", end="\r"),
    "UTF-16, as Excel's Unicode text": exported("\t", end="\r\n").encode("utf-16"),
    "gzip": gzip.compress(exported(",").encode()),
    "sep=": "sep=;\r\n" + exported(";", end="\r\n"),
    "sep=, no other sign": "sep=|\n" + exported("|"),
    "rows of separators": exported(";") + ";;;\n;;;\n\n",
    "cells to the right": re.sub(r"(?m)$", ";;", exported(";").rstrip()) + "\n",
    "spaces": exported(";").replace(";", " ; "),
    "no last line end": exported(";").rstrip("\n"),
    "text protected for Excel": exported(",", [(n, v and f'="{v}"', s, d) for n, v, s, d in ROWS]),
    "a line end in the header": exported(";", head=(*HEAD[:3], "dG\n(kcal/mol)")),
    "a line end in a cell": exported(",", [("v1", "Q11A", f"{A[:5]}\n{A[5:]}", "1"), *ROWS[1:]]),
    "short rows": "Name,Variant,Sequence,dG\nv1,Q11A," + A + "\nv2,W12F," + B + ",0\nv3,," + A,
}


@pytest.mark.parametrize("name", DRESSES)
@pytest.mark.parametrize("ending", [".csv", ".tsv", ".txt"])
def test_one_table_in_any_dress_is_the_same(tmp_path, name, ending):
    if "gzip" in name:
        ending += ".gz"
    found, notes = candidates(write(tmp_path / f"a{ending}", DRESSES[name]))
    assert said(found) == PLAIN
    assert notes == ()


def test_what_stands_above_and_between_is_noted(tmp_path):
    text = "Plate 3;;;\nmade today;;;\n\n" + exported(";") + "\ufeff" + exported(";")
    found, notes = candidates(write(tmp_path / "a.csv", text))
    assert said(found) == PLAIN + PLAIN
    assert ["line 4" in note for note in notes] == [True, False]
    assert "the header is there once more" in notes[1]
    assert [c.place.split(":")[-1] for c in found[-1:]] == ["11 (v3)"]


def test_windows_letters_are_read_and_noted(tmp_path):
    text = exported(";", [("Müller", "Q11A", A, ""), ("β", "", B, "")])
    found, notes = candidates(write(tmp_path / "a.csv", text.replace("β", "ß").encode("cp1252")))
    assert [c.name for c in found] == ["Müller", "ß"]
    assert "Windows-1252" in notes[0]


@pytest.mark.parametrize(
    ("kind", "names"),
    {
        "sequence": [
            "sequence", "SEQ", "aa_seq", "Protein Sequence", "Sequence (AA)", "mutated_sequence",
        ],
        "variant": [
            "variant", "Mutations", "Mutation(s)", "mutant", "HGVSp", "hgvs_pro", "AA change",
        ],
        "combo": ["Combo", "COMBO"],
    }.items(),
)  # fmt: skip
def test_columns_by_their_usual_names(tmp_path, kind, names):
    for name in names:
        found, _ = candidates(write(tmp_path / "a.csv", f"id,{name}\nx,AAAA\n"))
        assert [(c.name, c.claims[0].kind) for c in found] == [("x", kind)], name
    assert column_key("Protein_Sequence [AA] (5' to 3')") == "proteinsequence"


def test_every_record_has_a_name(tmp_path):
    text = "variant,id,name\nA1L,,first\nA2L,x,\nA3L,,\n,,WT\nA1L,x,y\n"
    found, _ = candidates(write(tmp_path / "a.csv", text))
    assert [c.name for c in found] == ["first", "x", "A3L", "WT", "x"]
    assert found[3].claims[0].text == "WT"
    assert candidates(write(tmp_path / "b.csv", f"seq\n{A}\n{A}\n"))[0][1].name == "row2"


ONE_BAD = {
    "a decimal comma": ("v4,A1L,1,5", "the row has 4 cells and the header 3"),
    "an open quote": ('v4,"A1L,1', "quotation marks"),
    "text behind a quote": ('v4,"A1L"x,1', "quotation marks"),
    "nothing": ("v4,,1", "'variant' is empty"),
}


@pytest.mark.parametrize("name", ONE_BAD)
def test_one_bad_row_spoils_no_other(tmp_path, name):
    row, cause = ONE_BAD[name]
    lines = [f"v{i},A{i}L,{i}" for i in range(1, 1001)]
    lines[500] = row
    found, _ = candidates(write(tmp_path / "a.csv", "\n".join(["name,variant,dG", *lines, ""])))
    assert len(found) == 1000
    [bad] = [c for c in found if c.refused]
    assert cause in bad.refused
    assert ":502 (" in bad.place
    rest = [c for c in found if not c.refused]
    assert [c.claims[0].text for c in rest] == [f"A{i}L" for i in range(1, 1001) if i != 501]


def test_two_open_quotes_swallow_no_row(tmp_path):
    for between in (0, 1, 5):
        lines = [f"v{i},A{i}L,note" for i in range(2, 10)]
        lines[1] = 'v3,A3L,"'
        lines[2 + between] = 'vx,A1L,"'
        path = write(tmp_path / "a.csv", "\n".join(["name,variant,x", *lines, ""]))
        found, _ = candidates(path)
        assert len(found) == 8
        assert sum(bool(c.refused) for c in found) == 2


def test_a_column_without_a_separator_holds_any(tmp_path):
    found, _ = candidates(write(tmp_path / "a.csv", 'Variant\nA1L,K2M\nA1L;K2M\n"A1L|K2M"\n'))
    assert [c.claims[0].text for c in found] == ["A1L,K2M", "A1L;K2M", "A1L|K2M"]


def test_notes_and_letters_of_cells(tmp_path):
    text = f"id,sequence\na,{A}*\nb,{A[:5]}--{A[5:]}\nc,MK?T\nd,MKſT\n"
    found, _ = candidates(write(tmp_path / "a.csv", text))
    assert [c.notes for c in found] == [(STOP,), (GAPS,), (), ()]
    assert [c.claims[0].text for c in found[:2]] == [A, A]
    assert ["letter 3" in c.refused for c in found] == [False, False, True, True]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.csv", "x;y\n1;2\n", "the columns are 'x', 'y'"),
        ("a.csv", "", "is empty"),
        ("a.csv", "sequence\n", "no rows"),
        ("a.csv", b"PK\x03\x04..", "Excel workbook"),
        ("a.xlsx", b"PK\x03\x04..", "save the table as CSV"),
        ("a.csv", b"sequence\nMK\x81T\n", "not text"),
        ("a.csv", b"s\0e\0q\0\n\0", "NUL"),
        ("none.csv", None, "no such file"),
    ],
)
def test_what_is_no_table_is_a_sentence(tmp_path, name, data, words):
    path = tmp_path / name
    if data is not None:
        write(path, data)
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        candidates(path)
    assert str(path) in str(error.value)


def test_fasta_in_a_text_file_is_fasta(tmp_path):
    found, _ = candidates(write(tmp_path / "a.txt", f">a b\n{A}\n>id=7\n{B}\n>x, id=y\n{A}\n"))
    assert [(c.name, c.claims[0].text) for c in found] == [("a", A), ("7", B), ("y", A)]


# thousands of damaged files --------------------------------------------------------------------

SEEDS = [
    *((s, exported(s)) for s in ",;\t|"),
    (";", exported(";", [(f"v{i}", f"A{i}L", A, f"{i},5") for i in range(9)], end="\r\n")),
    (",", exported(",", [(f"v{i}", f"A{i}L,K2M", A, i) for i in range(5)])),
    (
        "\t",
        exported("\t", [("Müller, A", "p.Val39Ala", A + "*", "1"), ("x\ny", "WT", "-" + A, "")]),
    ),
    ("|", "note\n" + exported("|", quote=csv.QUOTE_ALL)),
    (",", "id,sequence\n" + "".join(f"{i},{A}\n" for i in range(9))),
]
ODD = ",;\t|\"'= \n\r\x0b\x0c\x1c\x85\xa0\u2028\ufeffſıß\x00*-.>#0é"
CODECS = ["utf-8"] * 6 + ["utf-8-sig", "utf-16", "cp1252"]


def damaged(rng, separator, text):
    """Return the separator and the bytes of a table with a few accidents."""
    if rng.random() < 0.15:
        new = rng.choice(",;\t|")
        separator, text = new, text.replace(separator, new)
    for _ in range(rng.randint(0, 3)):
        lines = re.split(r"(?<=\n)", text)
        i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
        match rng.randrange(6):
            case 0:
                lines.insert(j, lines[i])
            case 1:
                del lines[i]
            case 2:
                lines[i], lines[j] = lines[j], lines[i]
            case 3:
                end = rng.choice(("\r", "\r\n"))
                lines = [line.replace("\n", end) for line in lines]
            case kind:
                at, odd = rng.randint(0, len(text)), rng.choice(ODD)
                lines = [text[:at], odd * (kind != 4), text[at + (kind != 5) :]]
        text = "".join(lines)
    data = bytearray(text.encode(rng.choice(CODECS), "replace"))
    for _ in range(rng.choice((0, 0, 1, 3)) if data else 0):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return separator, bytes(data[: rng.randint(0, len(data))] if rng.random() < 0.1 else data)


def decoded(data):
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252")


BLANKS = " \t\n\r\v\f\xa0\u2000\u2002\u2003\u2009\u202f\u3000"


def bare(text):
    return "".join(c for c in text if c not in BLANKS)


def read_like_csv(path, data, separator):
    """Assert that a file is refused in a sentence or read as the csv module does, cell by cell."""
    path.write_bytes(data)
    try:
        found, _ = candidates(path)
    except ValueError as error:
        return "refused" if str(path) in str(error) else "unsaid"
    text = re.sub("(?m)^\ufeff+", "", decoded(data))
    if text.lstrip().startswith(">"):
        return "read"  # as FASTA
    lines = [f"{line}\n" for line in re.split(r"\r\n|\r|\n", text)]
    heads = [
        (i, s, head)
        for s in dict.fromkeys((separator, *",;\t|"))
        for i in range(len(lines))
        for head in [next(csv.reader(lines[i : i + 40], delimiter=s))]
        if any(column_key(cell) in _KNOWN for cell in head)
    ]
    for c in found:
        line = int(re.match(r":(\d+) ", c.place.removeprefix(str(path)))[1])
        for claim in c.claims:
            # some way to split the file has this cell, below a header of this name
            cells = [
                bare(row[head.index(h)])
                for i, s, head in heads
                if i < line - 1
                for h in head
                if h.strip(BLANKS) == claim.column
                for row in [next(csv.reader([*lines[line - 1 : line + 40]], delimiter=s))]
                if len(row) > head.index(h)
            ]
            texts = [re.fullmatch(r'(?:="(.*)"|(.*))', cell) for cell in cells]
            texts = [m[1] or m[2] or "" for m in texts]
            if claim.kind == "sequence":
                texts = [t.upper() for t in texts]
                if STOP in c.notes:
                    texts = [re.sub(r"\*(?=[-.]*(/|$))", "", t) for t in texts]
                if GAPS in c.notes:
                    texts = [re.sub("[-.]", "", t) for t in texts]
                texts = [t.replace(":", "/") for t in texts]
            assert bare(claim.text) in texts, (claim, cells)
    if '"' not in text and "sep=" not in text:
        # no row vanishes: each line below the first header is a record, or says nothing
        i, s, head = min(heads, key=lambda h: (h[1] != separator, h[0]))
        rows = [[cell.strip(BLANKS) for cell in line.split(s)] for line in lines[i + 1 :]]
        rows = [r for r in rows if any(r) and r != [cell.strip(BLANKS) for cell in head]]
        assert len(found) == len(rows), "a row vanished"
    return "partly" if any(c.refused for c in found) else "read"


def fuzz(tmp_path, start, stop):
    ends = dict.fromkeys(("refused", "read", "partly"), 0)
    for seed in range(start, stop):
        rng = random.Random(seed)
        separator, data = damaged(rng, *rng.choice(SEEDS))
        try:
            ends[read_like_csv(tmp_path / "f.csv", data, separator)] += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}, {separator!r}: {data!r}") from error
    return ends


def test_damaged_tables_are_read_right_or_refused(tmp_path):
    ends = fuzz(tmp_path, 0, 300)
    assert min(ends.values()) > 5, ends


@pytest.mark.slow
def test_thousands_of_damaged_tables(tmp_path):
    ends = fuzz(tmp_path, 300, 2_800)
    assert min(ends.values()) > 50, ends


def test_a_long_table_is_read_row_by_row(tmp_path):
    text = "Combo;fitness\n" + "".join(f"{i:04d};{i},5\n" for i in range(20_000))
    table = read_table(write(tmp_path / "a.csv", text), {"combo"}, "'Combo'")
    assert [row.cells for row in table.rows] == [(f"{i:04d}", f"{i},5") for i in range(20_000)]
