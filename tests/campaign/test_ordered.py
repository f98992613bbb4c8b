"""What is ordered is one protein in every file of a run, whatever the structure looked like."""

import csv
from pathlib import Path

import pytest
from commands import call, words

from seqalign.files.sequences import read_fasta

CASES = Path(__file__).parents[1] / "files" / "cases"
CAMPAIGN = """
version: 1
name: x
input: {structure: %s, chains: %s}
design: {residues: %s}
model: {name: mpnn-mini}
rewards:
  s: {python: "own.py:lysines"}
sampler: {name: smc, alpha: 0.5, particles: 4}
baselines: []
"""
OWN = "def lysines(sequences):\n    return [s.count('K') for s in sequences]\n"


@pytest.fixture
def campaign(tmp_path):
    """Write a campaign on a case; its run folder is runs/x beside it."""
    (tmp_path / "own.py").write_text(OWN)

    def write(name, chains="[A]", residues="A", more=""):
        file = tmp_path / name
        file.write_bytes((CASES / name).read_bytes())
        path = tmp_path / "c.yaml"
        path.write_text(CAMPAIGN % (name, chains, f'"{residues}"') + more)
        return path

    return write


def ran(path):
    """Run a campaign; gives the sequences of designs.csv, of designs.fasta without the native."""
    result = call("run", path)
    assert result.exit_code == 0, result.output
    folder = path.parent / "runs" / "x"
    with (folder / "designs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    records = read_fasta(folder / "designs.fasta")
    assert [s for _, s in records[1:]] == [row["sequence"] for row in rows]
    return rows, records[0][1]


@pytest.mark.parametrize(
    ("name", "native"),
    [
        ("jump.pdb", "AFSSEQLARLKREFNE"),
        ("gap.pdb", "AFSSEQLARXXXEFNENRYLTE"),
        ("atoms.pdb", "AFSSEQLARLKREFNE"),
        ("no_oxygen.pdb", "AFSSEQLARLKREFNE"),
        ("ligand.pdb", "AFSSEQLARLKREFNE"),
    ],
)
def test_tables_fasta_and_score_hold_the_same_protein(campaign, name, native):
    path = campaign(name)
    rows, first = ran(path)
    assert first == native
    fixed = {0: "A", 7: "A"} if name == "atoms.pdb" else {}
    for row in rows:
        assert len(row["sequence"]) == len(native)
        assert [a == "X" for a in row["sequence"]] == [a == "X" for a in native]
        assert all(row["sequence"][i] == a for i, a in fixed.items())
    for file in ("designs.csv", "designs.fasta"):
        result = call("score", path.parent / "runs" / "x" / file, "-c", path, "--no-prior")
        again = list(csv.DictReader(result.stdout.splitlines()))
        assert [r["sequence"] for r in again][-len(rows) :] == [r["sequence"] for r in rows]
        assert [float(r["s"]) for r in again][-len(rows) :] == [float(r["s"]) for r in rows]


def test_the_letters_of_seqres_are_ordered_if_asked_for(campaign):
    path = campaign("gap.pdb")
    path.write_text(path.read_text().replace("chains: [A]", "fill: seqres"))
    rows, first = ran(path)
    assert first == "AFSSEQLARLKREFNENRYLTE"
    assert all(row["sequence"][9:12] == "LKR" for row in rows)


def test_context_is_never_ordered(campaign):
    path = campaign("dimer.pdb", "[A], context: [B]", "A10-16")
    rows, first = ran(path)
    assert first == "AFSSEQLARLKREFNE"
    assert {row["sequence"][:9] for row in rows} == {"AFSSEQLAR"}
    assert all(row["mutations"].count("/") == 0 for row in rows)


def test_copies_are_ordered_once_and_two_chains_apart(campaign):
    path = campaign("dimer.pdb", "[A, B]", "A, B", "constraints: {homo_oligomer: [[A, B]]}\n")
    rows, _ = ran(path)
    assert all(len(row["sequence"]) == 16 for row in rows)
    assert all(int(row["n_mut"]) <= 16 for row in rows)
    path.write_text(path.read_text().replace("constraints", "# ").replace("name: x", "name: x"))
    result = call("run", path, "--fresh")
    assert result.exit_code == 0, result.output
    rows, _ = ran(path)
    for row in rows:
        assert [len(part) for part in row["sequence"].split("/")] == [16, 16]
        assert all(m[:2] in ("A:", "B:") for m in row["mutations"].split("+"))


def test_check_says_what_will_be_ordered(campaign):
    said = words(call("check", campaign("gap.pdb")))
    assert "Ordered, one record per designed chain" in said
    assert "AFSSEQLARXXXEFNENRYLTE" in said
    assert "X: 3 residues after A9; plates and DNA refuse it" in said
    said = words(call("check", campaign("atoms.pdb")))
    assert "A A1 (no N), A A8 (no O)" in said
    said = words(call("check", campaign("ligand.pdb")))
    assert "ZN A101 is not seen; within 5 Å: A" in said


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("unknown_chain.pdb", [], "Chain P is kept as it is and not designed"),
        ("noncanonical_chain.pdb", [], "Chain I is kept as it is and not designed"),
        ("noncanonical_chain.pdb", ["--chains", "A"], "Chain I (6 residues) is not seen"),
        ("noncanonical_chain.pdb", ["--map", "7T2=F", "--map", "IAE=E"], "Read 7T2 I2 as F"),
        ("ligand.pdb", [], "ZN A101 is not seen; within 5 Å"),
        ("gap.pdb", ["--fill", "seqres"], "LKR after A9"),
        ("dimer.pdb", ["--context", "B", "--design", "A10-16"], ""),
        ("protonation.pdb", [], "GLH A7 as E"),
    ],
)
def test_new_writes_a_campaign_of_every_case_and_says_what_is_odd(tmp_path, name, options, said):
    out = tmp_path / "c.yaml"
    result = call("new", CASES / name, "--out", out, *options)
    assert result.exit_code == 0, result.output
    assert said in words(result)
    checked = call("check", out)
    assert checked.exit_code == 0, checked.output
    # which chains are designed the file says now; all else is said again
    said = "" if "kept" in said else said
    assert said.partition(" (")[0].partition(";")[0] in words(checked)


def test_new_refuses_what_does_not_fit(tmp_path):
    out = tmp_path / "c.yaml"
    for options, said in (
        (["--map", "7T2"], "write NAME=LETTER"),
        (["--map", "7T2=B"], "map reads 7T2 as 'B'"),
        (["--chains", "Z"], "has no chain 'Z'"),
        (["--design", "A99"], "A99"),
    ):
        result = call("new", CASES / "noncanonical_chain.pdb", "--out", out, *options)
        assert result.exit_code == 2
        assert said in words(result)
        assert not out.exists()
    (tmp_path / "x.fasta").write_text(">x\nMKVLAGMKVLAGMKVL\n")
    result = call("new", tmp_path / "x.fasta", "--out", out, "--chains", "A")
    assert result.exit_code == 2
    assert "--chains is about a structure" in words(result)


def test_a_wild_type_can_be_given_as_it_is_ordered(campaign):
    path = campaign("atoms.pdb")
    wild = "AFSSEQLAWLKREFNE"
    path.write_text(path.read_text().replace("input: {", f"input: {{wild_type: {wild}, "))
    _, first = ran(path)
    assert first == wild
    path.write_text(path.read_text().replace(wild, wild + "A"))
    result = call("check", path)
    assert result.exit_code == 2
    assert "has 17 letters, but the designed chains of atoms are A 16" in words(result)


def test_constraints_hold_for_all_that_is_ordered(campaign):
    """Letters without atoms count: a pattern across them, a charge with them."""
    path = campaign("gap.pdb")
    rules = 'constraints: {forbid: ["[FILV]LK"], net_charge: {min: -1, max: 1}}\n'
    text = (
        path.read_text()
        .replace("chains: [A]", "fill: seqres")
        .replace("particles: 4", "particles: 48")
    )
    path.write_text(text + rules)
    rows, _ = ran(path)
    with (path.parent / "runs" / "x" / "rejected.csv").open(newline="") as file:
        rejected = list(csv.DictReader(file))

    def breaks(s):
        charge = sum(s.count(a) for a in "KR") - sum(s.count(a) for a in "DE")
        return any(f"{a}LK" in s for a in "FILV") or abs(charge) > 1

    assert rows
    assert rejected
    assert not any(breaks(row["sequence"]) for row in rows)
    assert all(breaks(row["sequence"]) for row in rejected)
    assert all("with the letters that have no whole backbone" in r["reason"] for r in rejected)
    # score says the same of them
    table = path.parent / "runs" / "x" / "rejected.csv"
    found = call("score", table, "-c", path, "--no-prior").stdout
    assert all(row["violations"] for row in csv.DictReader(found.splitlines()))
    # L10 is there whatever is designed: what no design can obey is said before anything runs
    path.write_text(text + "constraints: {composition: {L: {max: 0.0}}}\n")
    result = call("check", path)
    assert result.exit_code == 2
    assert "with the letters that have no whole backbone" in words(result)
