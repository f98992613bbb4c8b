"""What people bring to `score`, `new` and `input.wild_type`: read, noted, or skipped in words."""

from __future__ import annotations

import csv
import io
import json
import random
import re
from importlib.resources import files

import pytest
import toy_plugin
from commands import call, sets, words

from seqalign.campaign.check import check
from seqalign.campaign.new import new
from seqalign.campaign.score import read_candidates
from seqalign.campaign.yaml import read

GB1 = "MQYKLILNGKTLKGETTTEAVDAATAEKVFKQYANDNGVDGEWTYDDATKTFTVTE"
FOUR = """version: 1
name: gb1
design: {residues: "39-41, 54"}
model: {python: "own.py:model"}
rewards: {a: {oracle: charge}}
sampler: {name: smc, particles: 4}
"""
FASTA = {
    "star.fasta": (f">gb1\n{GB1}*\n", "a final '*' (a stop codon) is left out"),
    "pir.fasta": (f">P1;gb1\nprotein G\n{GB1}*\n", ""),
    "bom.fasta": (f"\ufeff>gb1\n{GB1}\n", ""),
    "lower.fa": (f">gb1\r{GB1.lower()}\r", ""),
    "gaps.a3m": (f">gb1\n{GB1[:9]}--{GB1[9:]}\n", "gaps ('-' and '.') are left out"),
    "wt.txt": (f">gb1\n1 {GB1[:30].lower()}\n31 {GB1[30:].lower()}\n", "numbers that count"),
    "gb1.pir": (f">P1;gb1\n\n{GB1}*\n", ""),
    "latin.fasta": (f">Müller\n{GB1}\n".encode("cp1252"), "Windows-1252"),
}


def write(path, text):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def toy(wild):
    """The code of a model of one wild type; its own file, so that no other test meets it."""
    return re.sub('WILD = ".*"', f'WILD = "{wild}"', toy_plugin.CODE)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A campaign of four sites of protein G, with a toy model."""
    folder = tmp_path_factory.mktemp("gb1")
    write(folder / "own.py", toy(GB1))
    return write(folder / "c.yaml", FOUR)


def scored(place, path, *more):
    return call("score", path, "-c", place, "--no-prior", *more)


def rows(result):
    return list(csv.DictReader(io.StringIO(result.stdout)))


@pytest.mark.parametrize("name", FASTA)
def test_one_wild_type_in_any_dress(place, tmp_path, name):
    """`new`, `input.wild_type` and `score` read the same sequence, and say what was left out."""
    text, note = FASTA[name]
    path = write(tmp_path / name, text)
    draft = new(path, tmp_path / "c.yaml", "esm2")
    shown = [line.split()[-1] for line in draft.text.splitlines() if "#" in line and line.split()]
    assert GB1 == "".join(x for x in shown if set(x) <= set(GB1) and x in GB1 and len(x) > 4)
    said = [n for n in draft.notes if "weights" not in n]
    result = call("check", place, *sets([f"input.wild_type={path}"]))
    assert result.exit_code == 0, result.output
    data = json.loads(call("check", place, *sets([f"input.wild_type={path}"]), "--json").stdout)
    assert data["notes"] == said
    plan = check(*read(place, [f"input.wild_type={path}"]))
    assert plan.model.wild_type == GB1
    assert plan.config["resolved"]["wild_type"] == GB1
    result = scored(place, path)
    assert result.exit_code == 0, result.output
    assert [r["sequence"] for r in rows(result)] == [GB1]
    assert len(said) == bool(note)
    if note:
        assert note in said[0]
        assert f"note: {said[0]}" in words(result)


def test_what_cannot_be_a_wild_type_is_a_sentence(place, tmp_path):
    for text, cause in (
        (f">a\n{GB1[:9]}*{GB1[9:]}\n", "letter 10 is '*', a stop codon inside"),
        (f">a\n{GB1}\n>a\n{GB1}\n", "2 sequences"),
        (f"{GB1}\n", "starts with '>'"),
    ):
        path = write(tmp_path / "wt.fasta", text)
        with pytest.raises(ValueError, match=r"wt\.fasta") as error:
            new(path, tmp_path / "c.yaml")
        assert cause in str(error.value)
        result = call("check", place, *sets([f"input.wild_type={path}"]))
        assert result.exit_code == 2
        assert cause in words(result)
        assert "input.wild_type" in words(result)
    result = call("check", place, *sets([f"input.wild_type={GB1[:9]}?{GB1[9:]}"]))
    assert (result.exit_code, "letter 10 is '?'" in words(result)) == (2, True)
    result = call("check", place, *sets([f"input.wild_type={GB1.lower()}*"]))
    assert (result.exit_code, "wild_type: a final '*'" in words(result)) == (0, True)


def test_a_table_of_a_spreadsheet(tmp_path):
    """The case semicolon_bom.csv: a mark, semicolons, decimal commas, a column `Variant`."""
    wild = "AFSSEQLARLKREFNE"
    text = "\ufeffName;Variant;Sequence;dG\nv1;A1L;LFSSEQLARLKREFNE;1,5\n"
    only = "\ufeffName;Variant;dG\r\nv1;A1L;1,5\r\nwt;;0,0\r\n"
    write(tmp_path / "own.py", toy(wild))
    campaign = write(
        tmp_path / "c.yaml",
        "version: 1\nname: own\nmodel: {python: 'own.py:model'}\n"
        "rewards: {a: {oracle: charge}}\nsampler: {name: smc, particles: 4}\n",
    )
    for table, letters in ((text, "L"), (only, "LA")):
        result = scored(campaign, write(tmp_path / "own.csv", table))
        assert result.exit_code == 0, result.output
        assert [r["sequence"] for r in rows(result)] == [a + wild[1:] for a in letters]
        assert rows(result)[0]["mutations"] == "A1L"


def test_one_bad_record_of_a_thousand_is_skipped_and_said(place, tmp_path):
    rng = random.Random(2)
    combos = ["".join(rng.choices("ACDEFGHIKLMNPQRSTVWY", k=4)) for _ in range(1000)]
    lines = [f"v{i};{combo}" for i, combo in enumerate(combos)]
    lines[7], lines[500] = "v7;VDGX", "v500;A39V"
    path = write(tmp_path / "own.csv", "\n".join(["Name;Variant", *lines, ""]))
    out = tmp_path / "scores.csv"
    result = scored(place, path, "--out", out)
    assert result.exit_code == 2
    said = result.stderr.splitlines()
    assert said[-1] == "error: 998 scored, 2 skipped."
    bad = "the letter at 54 is 'X'; allowed are ACDEFGHIKLMNPQRSTVWY."
    assert said[0] == f"skipped: {path}:9 (v7): {bad}"
    assert said[1] == f"skipped: {path}:502 (v500): the wild type at 39 is V, not A as A39V says."
    table = list(csv.DictReader(out.open()))
    assert [r["id"] for r in table] == [f"v{i}" for i in range(1000)]
    for i, (row, combo) in enumerate(zip(table, combos, strict=True)):
        if i in (7, 500):
            assert row["skipped"]
            assert {v for k, v in row.items() if k not in ("id", "skipped")} == {""}
        else:
            assert row["sequence"] == GB1[:38] + combo[:3] + GB1[41:53] + combo[3] + GB1[54:]
            assert row["a"]
            assert not row["skipped"]
    result = scored(place, path, "--json")
    data = json.loads(result.stdout)
    assert result.exit_code == 2
    assert len(data["rows"]) == 998
    assert [s["id"] for s in data["skipped"]] == ["v7", "v500"]
    assert "skipped" not in data["rows"][0]


def test_all_fine_has_no_column_of_the_skipped(place, tmp_path):
    result = scored(place, write(tmp_path / "own.tsv", "mutant\tx\nV39A:D40G\t1\nWT\t2\n"))
    assert result.exit_code == 0
    assert [r["id"] for r in rows(result)] == ["V39A:D40G", "WT"]
    assert "skipped" not in rows(result)[0]
    assert result.stderr == ""


def test_many_skipped_are_counted(place, tmp_path):
    lines = ["id,variant", *(f"x{i},V39del" for i in range(50)), "good,V39A", ""]
    result = scored(place, write(tmp_path / "own.csv", "\n".join(lines)))
    assert result.exit_code == 2
    said = result.stderr.splitlines()
    assert sum("is a deletion" in line for line in said) == 20
    assert "and 30 more" in result.stderr
    assert said[-1] == "error: 1 scored, 50 skipped."
    assert sum(bool(r["skipped"]) for r in rows(result)) == 50


def test_nothing_to_score_is_an_error_of_its_own(place, tmp_path):
    out = tmp_path / "scores.csv"
    path = write(tmp_path / "own.fasta", f">a\n{GB1[1:]}\n>b\nMK?\n")
    result = scored(place, path, "--out", out)
    assert result.exit_code == 2
    assert "none of its 2 records can be scored" in words(result)
    assert "55 letters, the model designs 56" in words(result)
    assert "letter 3 is '?'" in words(result)
    assert not out.exists()


def test_numbers_of_somebody_else_are_named(place, tmp_path):
    """A file that counts from zero on a construct without the first Met: +2."""
    body = GB1[1:]
    lines = [f"{body[i]}{i}A,{body[i + 3]}{i + 3}G" for i in range(2, 50)]
    path = write(tmp_path / "own.tsv", "\n".join(["variant", *lines, ""]))
    result = scored(place, path)
    assert result.exit_code == 2
    said = "all 48 variants of this file would fit with an offset of +2: add 2 to the numbers"
    assert said in words(result)
    # T16 is a Thr in both numberings: nobody means it while all others are off
    path = write(tmp_path / "own.tsv", "\n".join(["variant", "T16A", *lines, "WT", ""]))
    result = scored(place, path)
    assert [r["id"] for r in rows(result) if r["sequence"]] == ["WT"]
    assert "'T16A' fits as it is, but all 49 variants" in words(result)
    # with some right and some wrong, the right ones are scored
    own = [f"{GB1[i]}{i + 1}{'A' if GB1[i] != 'A' else 'G'}" for i in range(1, 50)]
    path = write(tmp_path / "own.tsv", "\n".join(["variant", *own, "A39V", "Q40G", ""]))
    result = scored(place, path)
    assert [r["id"] for r in rows(result) if r["sequence"]] == own
    assert "offset" not in words(result)


def test_what_a_record_says_twice_must_agree(place, tmp_path):
    changed = GB1[:38] + "A" + GB1[39:]
    text = (
        "name,variant,Mutations,sequence,Combo\n"
        f"a,V39A,,{changed},ADGV\nb,V39G,,{changed},\nc,clone 7,,{changed},\n"
        f"d,V39A,V39G,,\ne,,p.Val39Ala,,ADGV\nf,V39del,,{changed},\ng,,,{changed},ADGG\n"
    )
    result = scored(place, write(tmp_path / "own.csv", text))
    assert result.exit_code == 2
    found = {r["id"]: r for r in rows(result)}
    assert {k: r["sequence"] for k, r in found.items() if r["sequence"]} == dict.fromkeys(
        "ace", changed
    )
    for name, cause in (
        ("b", "'variant' and 'sequence' disagree: at 39 the one has G, the other A"),
        ("d", "'variant' and 'Mutations' disagree: at 39 the one has A, the other G"),
        ("f", "'V39del' is a deletion"),
        ("g", "'sequence' and 'Combo' disagree: at 54 the one has V, the other G"),
    ):
        assert cause in found[name]["skipped"]
    assert "'variant' is not read where it is no variant; 'sequence' counts" in words(result)


def test_gaps_may_stand_for_missing_residues(tmp_path):
    """As many tools write a broken chain; elsewhere they are gaps of an alignment."""
    source = files("seqalign").joinpath("data", "3a4r.pdb").read_text().splitlines()
    kept = [*range(340, 344), *range(345, 349)]
    atoms = [x for x in source if x.startswith("ATOM") and int(x[22:26]) in kept]
    write(tmp_path / "x.pdb", "\n".join([*atoms, "TER", "END", ""]))
    assert call("new", tmp_path / "x.pdb", "--out", tmp_path / "c.yaml").exit_code == 0
    options = sets(["rewards={c: {oracle: charge}}", "sampler.particles=2"])
    letters = "MKTAYIAK"
    texts = ["MKTA-YIAK", "MKTAXYIAK", letters, "MK-TA.YIAK"]
    path = write(tmp_path / "own.fasta", "".join(f">{i}\n{t}\n" for i, t in enumerate(texts)))
    result = scored(tmp_path / "c.yaml", path, "--json", *options)
    assert result.exit_code == 0, result.output
    found = {row["sequence"].replace("X", "") for row in json.loads(result.stdout)["rows"]}
    assert found == {letters}


def test_tied_chains_follow(tmp_path):
    """A Combo and a mutation of one chain of a homo-dimer hold for the other."""
    write(tmp_path / "own.py", toy("MKTMKT").replace('keep="1", ', ""))
    campaign = write(
        tmp_path / "c.yaml",
        "version: 1\nname: own\nmodel: {python: 'own.py:model'}\ndesign: {residues: '2,3,5,6'}\n"
        "constraints: {tie: [[2, 5], [3, 6]]}\nrewards: {a: {oracle: charge}}\n"
        "sampler: {name: smc, particles: 4}\n",
    )
    path = write(tmp_path / "own.csv", "variant\nAT\nK2A\nK5A\nK2A:K5A\nAG\n")
    result = scored(campaign, path)
    assert result.exit_code == 0, result.output
    assert [r["sequence"] for r in rows(result)] == ["MATMAT"] * 4 + ["MAGMAG"]


def test_names_may_repeat(place, tmp_path):
    path = write(tmp_path / "own.fasta", f">a\n{GB1}\n>a\n{GB1[:38]}A{GB1[39:]}\n>a\n{GB1}\n")
    result = scored(place, path)
    assert [(r["id"], r["mutations"]) for r in rows(result)] == [
        ("a", ""),
        ("a", "V39A"),
        ("a", ""),
    ]


def test_damaged_files_end_in_entries_or_a_sentence(place, tmp_path):
    """Whatever is read is L letters of the alphabet; nothing else ends in a traceback."""
    plan = check(*read(place))
    rng = random.Random(9)
    seeds = [
        f">a\n{GB1}\n>b\n{GB1[:38]}A{GB1[39:]}*\n",
        "id;Variant;Sequence\n"
        + f"a;V39A;{GB1[:38]}A{GB1[39:]}\nb;WT;\nc;p.[Val39Ala;Asp40Gly];\n",
        "Combo\tfitness\nVDGV\t1,0\nADGV\t0,06\nFWAA\t8,7\n",
    ]
    ends = {"read": 0, "partly": 0, "refused": 0}
    for _ in range(300):
        text = rng.choice(seeds)
        for _ in range(rng.randint(1, 4)):
            at = rng.randint(0, len(text))
            odd = rng.choice("*-.;,:\t\"'>0A\n=\x00é[)")
            text = text[:at] + odd * rng.randint(0, 1) + text[at + rng.randint(0, 2) :]
        path = write(tmp_path / "f.txt", text)
        try:
            found = read_candidates(path, plan)
        except ValueError as error:
            ends["refused"] += str(path) in str(error)
            continue
        assert all(len(s) == 56 and set(s) <= set("ACDEFGHIKLMNPQRSTVWY") for s in found.sequences)
        assert all(e.skipped and str(path) in e.place for e in found.skipped)
        ends["partly" if found.skipped else "read"] += 1
    assert sum(ends.values()) == 300
    assert min(ends.values()) > 10, ends
