"""A table holds text and no formula, and gives back what was put in."""

import csv
import io
import random

import pytest

from seqalign.files.cells import cell, text
from seqalign.files.text import to_csv

FORMULAS = ("=1+1", "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "＝1", "-")
NUMBERS = ("-1.5", "+3", "-1e-5", "-inf", "nan", "-.5", "0", "-7")


@pytest.mark.parametrize("given", FORMULAS)
def test_what_a_spreadsheet_would_compute_is_text(given):
    assert cell(given) == "'" + given
    assert text(cell(given)) == given


@pytest.mark.parametrize("given", [*NUMBERS, "", "A:S52aF", "it's", "'", "'a'", "MKT/MKA", "a=1"])
def test_numbers_and_words_stay_as_they_are(given):
    assert cell(given) == given
    assert text(given) == given


def test_every_text_comes_back_and_none_begins_like_a_formula():
    rng = random.Random(5)
    for _ in range(5000):
        given = "".join(rng.choice("'=+-@\t\r\n,\"a1.e ") for _ in range(rng.randrange(7)))
        held = cell(given)
        assert text(held) == given
        assert held == given or held == f"'{given}"
        try:
            float(held)
        except ValueError:
            assert held[:1] not in tuple("=+-@\t\r"), held


def test_a_table_comes_back_as_it_was(tmp_path):
    from seqalign.campaign.store import RunFolder

    rng = random.Random(7)
    pieces = (*FORMULAS, *NUMBERS, "'=1", "''-x", "a,b", 'a"b', "two\nlines", "é")
    names = ["id", "=name", "-total"]
    rows = [{name: rng.choice(pieces) for name in names} for _ in range(60)]
    written = to_csv(rows, names)
    (tmp_path / "designs.csv").write_bytes(written.encode())
    assert RunFolder(tmp_path).read_csv("designs.csv") == rows
    seen = [c for line in csv.reader(io.StringIO(written, newline="")) for c in line]
    assert not [c for c in seen if c[:1] in tuple("=+-@") and c not in NUMBERS]
    # a number stays one
    assert to_csv([{"x": -1.5, "n": -3}], ["x", "n"]) == "x,n\n-1.5,-3\n"
