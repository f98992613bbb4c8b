"""select, status, score, export and compare on one toy run: they agree with the run itself."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import shutil
import subprocess
import sys
from importlib.resources import files
from importlib.util import find_spec

import pytest
from commands import call, campaign_of, sets, words

from seqalign.campaign.select import select as reselect
from seqalign.campaign.store import RunFolder
from seqalign.files.plate import wells
from seqalign.files.sequences import read_fasta

TABLES = ("designs.csv", "rejected.csv", "designs.fasta", "summary.json", "report.html")
SELECT = ["select.filters=[log_w > -9]", "select.rank_by=-held", "select.top=3"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verbs")
    with campaign_of(folder) as path:
        assert call("run", path).exit_code == 0
        yield folder


@pytest.fixture
def drawn():
    """Asked for by tests that look at the report."""


@pytest.fixture(autouse=True)
def _quick_report(request, monkeypatch):
    """Drawing a report takes seconds: elsewhere it says what was selected and no more."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr("seqalign.campaign.select.render", lambda _, s: json.dumps(s.select))


@pytest.fixture
def run(place, tmp_path):
    """A copy of the finished run that a test may change."""
    return shutil.copytree(place / "runs" / "toy", tmp_path / "toy")


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def bare(folder):
    """What the tables of a run say, without what differs by name, time or command.

    Log-likelihoods of rejected designs are those of the designs that a run kept first.
    """
    found = {name: (folder / name).read_text() for name in TABLES[:3]}
    found["rejected.csv"] = [
        {k: v for k, v in row.items() if not k.startswith("prior")}
        for row in table(folder / "rejected.csv")
    ]
    summary = json.loads((folder / "summary.json").read_text())
    del summary["network_calls"]["evaluation"]
    return found | {k: v for k, v in summary.items() if k not in ("seconds", "command")}


# select -------------------------------------------------------------------------------------------


def test_selecting_with_the_runs_own_options_changes_no_byte(run, drawn):
    before = {name: (run / name).read_bytes() for name in TABLES}
    assert call("select", run).exit_code == 0
    assert {name: (run / name).read_bytes() for name in TABLES} == before


@pytest.mark.parametrize(
    "options",
    [
        SELECT,
        ["select.rank_by=pareto", "select.diversity.min_mutations_apart=4"],
        ["select.filters=[seq_recovery >= 0.6, a_scaled > 0]"],
        ["output.fasta_style=plain", "select.top=2"],
    ],
)
def test_selecting_again_is_the_run_with_these_options(place, run, tmp_path, options):
    fresh = tmp_path / "fresh"
    code = call("run", place / "c.yaml", "--out", fresh, *sets(options)).exit_code
    changed = [o for o in options if o.startswith("select.")]
    if len(changed) < len(options):
        other = tmp_path / "other"
        call("run", place / "c.yaml", "--out", other, *sets(set(options) - set(changed)))
        run = other
    assert call("select", run, "--set", "select.top=1").exit_code == 0
    assert call("select", run, *sets(changed)).exit_code == code
    assert bare(run) == bare(fresh)
    assert call("select", run).exit_code == 0


def test_no_design_is_lost_or_doubled(place, run):
    everything = {r["sequence"] for r in table(run / "designs.csv")}
    result = call("select", run, *sets(SELECT))
    assert result.exit_code == 0, result.output
    kept, rejected = table(run / "designs.csv"), table(run / "rejected.csv")
    assert len(kept) == 3
    assert all(float(r["log_w"]) > -9 for r in kept)
    assert [r["id"] for r in kept] == ["d0001", "d0002", "d0003"]
    held = [float(r["held"]) for r in kept]
    assert held == sorted(held)
    assert sorted(r["sequence"] for r in (*kept, *rejected)) == sorted(everything)
    assert all(r["reason"] for r in rejected)
    assert len(read_fasta(run / "designs.fasta")) == 4  # and the wild type
    assert json.loads((run / "report.html").read_text())["top"] == 3


@pytest.mark.parametrize("after", range(6))
def test_a_kill_between_any_two_files_loses_nothing(run, tmp_path, monkeypatch, after):
    whole = shutil.copytree(run, tmp_path / "whole")
    reselect(RunFolder(whole), SELECT)
    call("select", run, "--set", "select.top=5")
    writes = []
    write = RunFolder.write

    def killed(self, name, data):
        if len(writes) == after:
            raise KeyboardInterrupt
        writes.append(name)
        write(self, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            reselect(RunFolder(run), SELECT[:1])
    assert len(writes) == after
    reselect(RunFolder(run), SELECT)
    assert bare(run) == bare(whole)


def test_what_constraints_and_rewards_rejected_stays_rejected(place, run):
    rows = table(run / "designs.csv")
    text = (run / "designs.csv").read_text().splitlines()
    header, lost = text[0], text[1]
    (run / "designs.csv").write_text("\n".join([header, *text[2:], ""]))
    (run / "rejected.csv").write_text(f"{header},reason\n{lost},rejected by a\n")
    assert call("select", run).exit_code == 0
    rejected = table(run / "rejected.csv")
    assert [r["sequence"] for r in rejected] == [rows[0]["sequence"]]
    assert rejected[0]["reason"] == "rejected by a"


def test_the_report_says_how_to_select_again(run, drawn):
    call("select", run, *sets(SELECT))
    text = (run / "report.html").read_text()
    assert "seqalign select DIR" in text
    assert "select.top=3" in text
    assert "log_w &gt; -9" in text


def test_nothing_left_is_exit_3_and_comes_back(run):
    count = len(table(run / "designs.csv"))
    result = call("select", run, "--set", "select.filters=[n_mut > 90]")
    assert result.exit_code == 3
    assert "nothing passed" in result.output
    assert table(run / "designs.csv") == []
    data = json.loads(call("select", run, "--json").stdout)
    assert data["designs"] == count
    assert data["select"]["filters"] == []


def test_the_run_command_still_sees_its_own_run(place, tmp_path):
    out = tmp_path / "r"
    call("run", place / "c.yaml", "--out", out)
    call("select", out, "--set", "select.top=2")
    again = call("run", place / "c.yaml", "--out", out)
    assert again.exit_code == 0
    assert "already complete" in again.output
    assert len(table(out / "designs.csv")) == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("select.tpo=3", "'top'"),
        ("select.top=0", "select.top"),
        ("select.filters=[n_mutt < 3]", "'n_mut'"),
        ("select.filters=[held_scaled < 3]", "no column 'held_scaled'"),
        ("select.rank_by=totl", "'total'"),
        ("sampler.alpha=2", "only select.*"),
        ("nonsense", "only select.*"),
    ],
)
def test_a_wrong_option_is_a_sentence_and_changes_nothing(run, change, said):
    before = {name: (run / name).read_bytes() for name in TABLES}
    result = call("select", run, "--set", change)
    assert result.exit_code == 2
    assert said in words(result)
    assert {name: (run / name).read_bytes() for name in TABLES} == before


def test_a_run_of_an_older_version_is_a_sentence(run):
    summary = json.loads((run / "summary.json").read_text())
    del summary["fasta"]
    (run / "summary.json").write_text(json.dumps(summary))
    result = call("select", run)
    assert result.exit_code == 2
    assert "older version" in words(result)


def unfinished(run):
    for name in ("summary.json", "designs.csv", "rejected.csv"):
        (run / name).unlink()
    next((run / "state").glob("aligned-00001*")).unlink()
    return run


@pytest.mark.parametrize(
    "verb", [["select"], ["export", "--fasta"], ["compare", "."], ["status"], ["report"]]
)
def test_a_folder_that_is_no_finished_run(run, tmp_path, verb):
    result = call(verb[0], tmp_path / "none", *verb[1:])
    assert result.exit_code == 2
    assert "none" in words(result)
    assert not (tmp_path / "none").exists()
    (tmp_path / "empty").mkdir()
    assert call(verb[0], tmp_path / "empty", *verb[1:]).exit_code == 2
    if verb[0] != "status":
        result = call(verb[0], unfinished(run), *verb[1:])
        assert result.exit_code == 2
        assert "not a finished run" in words(result) or "no run folder" in words(result)


LOCK = """import fcntl, sys, time
file = open(sys.argv[1] + "/.lock", "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(os.name == "nt", reason="no such locks on Windows")
def test_a_running_process_is_seen_and_not_disturbed(run):
    assert json.loads(call("status", run, "--json").stdout)["running"] is False
    with subprocess.Popen(
        [sys.executable, "-c", LOCK, str(run)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as other:  # fmt: skip
        assert other.stdout.readline() == "held\n"
        assert json.loads(call("status", run, "--json").stdout)["running"] is True
        result = call("select", run)
        assert result.exit_code == 2
        assert "Another process" in words(result)
        other.stdin.close()
    assert json.loads(call("status", run, "--json").stdout)["running"] is False


# status -------------------------------------------------------------------------------------------


def test_status_of_a_finished_run(run):
    data = json.loads(call("status", run, "--json").stdout)
    rows = table(run / "designs.csv")
    assert data["finished"] is True
    assert data["islands_done"] == data["islands"] == 4
    assert data["designs"] == len(rows)
    assert data["best"]["sequence"] == rows[0]["sequence"]
    assert data["best"]["total"] == float(rows[0]["total"])
    assert data["arms"]["aligned"]["best"] == pytest.approx(float(rows[0]["total"]), rel=1e-5)
    text = call("status", run).output
    for said in ("finished", "2 of 2", rows[0]["sequence"]):
        assert said in text


def test_status_of_an_unfinished_run(run):
    unfinished(run)
    data = json.loads(call("status", run, "--json").stdout)
    assert data["finished"] is False
    assert data["arms"]["aligned"]["done"] == 1
    assert data["arms"]["best_of_n"]["done"] == 2
    assert data["seconds_left"] == pytest.approx(data["arms"]["aligned"]["seconds"])
    assert "not running" in call("status", run).output
    for path in (run / "state").iterdir():
        path.unlink()
    data = json.loads(call("status", run, "--json").stdout)
    assert data["islands_done"] == 0
    assert data["seconds_left"] is None
    assert data["arms"]["aligned"]["best"] is None
    assert call("status", run).exit_code == 0


# score --------------------------------------------------------------------------------------------


def test_scoring_a_runs_designs_gives_its_own_numbers(place):
    run = place / "runs" / "toy"
    for name in ("designs.csv", "designs.fasta"):
        result = call("score", run / name, "-c", place / "c.yaml")
        assert result.exit_code == 0, result.output
        rows = {r["id"]: r for r in csv.DictReader(io.StringIO(result.stdout))}
        for row in table(run / "designs.csv"):
            mine = rows[row["id"]]
            assert mine.pop("violations") == ""
            same = {k: row[k] for k in mine}
            words_ = ("id", "sequence", "mutations", "liabilities")
            numbers = [k for k in mine if k not in words_]
            assert {k: v for k, v in mine.items() if k not in numbers} == {
                k: v for k, v in same.items() if k not in numbers
            }
            for k in numbers:
                assert float(mine[k]) == pytest.approx(float(same[k]), rel=1e-5, abs=1e-9)


def test_a_sequence_that_breaks_constraints_is_scored_and_said(place, tmp_path):
    path = tmp_path / "mine.fasta"
    path.write_text(">a\nmktayiakqrqw\n>b\nAAAAAAAAKRQW\n")
    out = tmp_path / "deep" / "scores.csv"
    result = call("score", path, "-c", place / "c.yaml", "--out", out, "--json")
    assert result.exit_code == 0
    data = json.loads(result.stdout)["rows"]
    assert [r["id"] for r in data] == ["a", "b"]
    assert data[0]["violations"] == ""
    assert "position 1 is 'A'" in data[1]["violations"]
    assert "at most 4" in data[1]["violations"]
    assert data[1]["n_mut"] == 7
    assert [r["id"] for r in table(out)] == ["a", "b"]
    assert float(table(out)[1]["total"]) == pytest.approx(data[1]["total"], rel=1e-5)


def test_without_a_run_there_is_no_z_score(place, tmp_path):
    shutil.copy(place / "c.yaml", tmp_path / "c.yaml")
    path = tmp_path / "mine.csv"
    path.write_text("\ufeffname,sequence\nfirst,MKTAYIAKQRQW\n,MKTAYIAKQRQF\n")
    result = call("score", path, "-c", tmp_path / "c.yaml", "--no-prior", "--json")
    assert result.exit_code == 0
    rows = json.loads(result.stdout)["rows"]
    assert [r["id"] for r in rows] == ["first", "row2"]
    assert not {"total", "a_scaled", "prior"} & set(rows[0])
    assert {"a", "b", "held", "mutations"} <= set(rows[0])
    assert "no total" in words(result)
    given = ["--run", place / "runs" / "toy"]
    result = call("score", path, "-c", tmp_path / "c.yaml", "--no-prior", *given)
    assert "total" in result.stdout.splitlines()[0]
    changed = ["--set", "rewards.b.weight=2"]
    result = call("score", path, "-c", tmp_path / "c.yaml", *given, *changed)
    assert result.exit_code == 2
    assert "no finished run of this campaign" in words(result)


def test_a_rejected_design_is_null_in_json(place, tmp_path):
    path = tmp_path / "mine.fasta"
    path.write_text(">a\nMKTAYIAKQRQW\n")
    argv = ["score", path, "-c", place / "c.yaml", "--no-prior"]
    # clip to -inf .. cannot be said; a reward that is nan here is
    (place / "bad.py").write_text(
        "def f(s):\n    return [float('nan') if x.endswith('RQW') else 1.0 for x in s]\n"
    )
    options = ["rewards={x: {python: bad.py:f, on_failure: reject}}", "sampler.name=smc"]
    rows = json.loads(call(*argv, *sets(options), "--json").stdout)["rows"]
    assert rows[0]["x"] is None
    (row,) = csv.DictReader(io.StringIO(call(*argv, *sets(options)).stdout))
    assert math.isinf(float(row["x"]))


BAD_FILES = {
    "a.csv": ("peptide\nMKT\n", "no column 'sequence'"),
    "b.csv": ("sequence\n", "no rows"),
    "c.csv": ("id,sequence\nx,\n", "'sequence' is empty"),
    "d.csv": ("", "is empty"),
    "e.fasta": (">x\nMKT\n", "3 letters, the model designs 12"),
    "f.fasta": (">x\nMKTAYIAKQRQB\n", "the letter at 12 is 'B'"),
    "g.fasta": (">x\nMKTAYI/AKQRQW\n", "has 6 / 6 letters, the model designs 12"),
    "h.fasta": ("", "is empty"),
    "i.xlsx": ("x", "save the table as CSV"),
    "j.csv": (b"sequence\n\x81\n", "not text"),
    "k.csv": (b"sequence\n\xff\n", "letter 1 is 'ÿ'"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_wrong_file_to_score_is_a_sentence(place, tmp_path, name):
    text, said = BAD_FILES[name]
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    result = call("score", tmp_path / name, "-c", place / "c.yaml")
    assert result.exit_code == 2, result.output
    assert said in words(result)
    assert name in words(result)
    assert call("score", tmp_path / "none.csv", "-c", place / "c.yaml").exit_code == 2


# export -------------------------------------------------------------------------------------------


def test_every_design_has_one_well(run, tmp_path):
    rows = table(run / "designs.csv")
    # more designs than a plate has wells
    many = [{**rows[i % len(rows)], "id": f"d{i + 1:04d}"} for i in range(200)]
    with (run / "designs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(many)
    out = tmp_path / "out"
    result = call("export", run, "--plate", "96", "--control", "--out", out)
    assert result.exit_code == 0, result.output
    plates = [table(out / f"plate-{n}.csv") for n in (1, 2, 3)]
    assert not (out / "plate-4.csv").exists()
    for plate in plates:
        last = {"well": "H12", "id": "wild_type", "chain": "", "sequence": "MKTAYIAKQRQW"}
        assert plate[-1] == last
        assert [p["well"] for p in plate[:-1]] == wells(96)[: len(plate) - 1]
    assert [p["id"] for plate in plates for p in plate[:-1]] == [r["id"] for r in many]
    assert call("export", run, "--plate", "96", "--top", "96", "--out", out).exit_code == 2
    files = json.loads(
        call(
            "export", run, "--plate", "96", "--top", "96", "--out", out, "--force", "--json"
        ).stdout
    )["files"]
    assert len(files) == 2  # and the picture
    assert table(out / "plate-1.csv")[-1]["id"] == "d0096"


def test_fasta_and_csv_hold_the_designs(run):
    assert call("export", run, "--fasta", "--csv").exit_code == 0
    rows = table(run / "designs.csv")
    assert read_fasta(run / "export" / "designs.fasta") == [(r["id"], r["sequence"]) for r in rows]
    short = table(run / "export" / "designs.csv")
    assert [r["total"] for r in short] == [r["total"] for r in rows]
    properties = ["length", "mw", "pI", "eps280", "charge", "cysteines", "liabilities",
                  "n_liabilities", "new_liabilities"]  # fmt: skip
    own = ["id", "sequence", "mutations", "n_mut", "seq_recovery"]
    assert list(short[0]) == [*own, *properties, "a", "b", "held", "total"]
    assert call("export", run, "--fasta", "--csv").exit_code == 0  # the same files again


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "Say what to write"),
        (["--control"], "--fasta"),
        (["--fasta", "--control"], "--plate 96"),
        (["--plate", "48"], "96"),
        (["--dna", "--organism", "moon"], "h_sapiens"),
        (["--dna", "--avoid", "BsaII"], "BsaI"),
        (["--dna", "--n-tag", "MHHB"], "'B' is none of the amino acids"),
        (["--dna", "--prefix", "AXG"], "'X' is none of the bases"),
        (["--dna", "--gc", "0.7", "0.3"], "--gc 0.7 0.3"),
        (["--dna", "--max-length", "30"], "d0001: the fragment has 39 bp"),
        (["--dna", "--gc", "0.9", "0.95"], "d0001: no DNA keeps all bounds"),
        (["--fasta", "--gc-window", "50", "0.3", "0.6"], "--gc-window is about DNA"),
        (["--fasta", "--no-stop"], "--stop is about DNA"),
        (["--fasta", "--top", "0"], "--top"),
    ],
)
def test_a_wrong_export_is_a_sentence(run, options, said):
    if "--dna" in options and find_spec("dnachisel") is None:
        pytest.skip("genes need the extra: pip install 'seqalign[dna]'")
    result = call("export", run, *options)
    assert result.exit_code == 2
    assert said in words(result)
    assert not (run / "export").exists()


def test_an_export_of_nothing_says_why(run):
    call("select", run, "--set", "select.filters=[n_mut > 90]")
    result = call("export", run, "--fasta")
    assert result.exit_code == 2
    assert "kept no design" in words(result)


# compare ------------------------------------------------------------------------------------------


def test_compare_shows_the_rows_of_each_run(place, run, tmp_path):
    other = tmp_path / "smc"
    call("run", place / "c.yaml", "--out", other, "--set", "sampler.name=smc")
    data = json.loads(call("compare", run, other, "--json").stdout)
    assert data["labels"] == ["a", "b", "held"]
    for name, folder in (("toy", run), ("smc", other)):
        summary = json.loads((folder / "summary.json").read_text())
        rows = [r for r in data["rows"] if r["run"] == name]
        wanted = [r for r in summary["rows"] if r["row"] != "wild type"]
        assert len(rows) == len(wanted)
        for mine, theirs in zip(rows, wanted, strict=True):
            assert all(mine[k] == theirs[k] for k in ("row", "which", "a", "held", "total"))
            arm = theirs["row"] if theirs["row"] == "aligned" else "best_of_n"
            assert mine["network_calls"] == summary["network_calls"][arm]
    assert [r["row"] for r in data["rows"]].count("wild type") == 1
    assert {r["method"] for r in data["rows"] if r["row"] == "aligned"} == {"das", "smc"}
    text = call("compare", run, other).output
    for said in ("toy", "smc", "best of 24", "264"):
        assert said in text


def test_runs_of_one_name_are_told_apart(run, tmp_path):
    other = shutil.copytree(run, tmp_path / "b" / "toy")
    names = {r["name"] for r in json.loads(call("compare", run, other, "--json").stdout)["runs"]}
    assert len(names) == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("rewards.b.weight=2", "the reward 'b' has weight"),
        ("rewards.b.params.seed=2", "the reward 'b' has params"),
        ("rewards.c.oracle=toy-twin", "the reward 'c' is in one"),
        ("model.temperature=0.5", "temperature differs"),
        ("input.wild_type=MKTAYIAKQRQF", "the wild types differ"),
    ],
)
def test_runs_of_other_questions_are_refused(place, run, tmp_path, change, said):
    other = tmp_path / "other"
    assert call("run", place / "c.yaml", "--out", other, "--set", change).exit_code == 0
    result = call("compare", run, other)
    assert result.exit_code == 2
    assert said in words(result)


def test_what_bears_on_a_comparison_is_noted(place, run, tmp_path):
    other = tmp_path / "other"
    changes = ["seed=9", "constraints.max_mutations=3", "sampler.particles=30"]
    call("run", place / "c.yaml", "--out", other, *sets(changes))
    data = json.loads(call("compare", run, other, "--json").stdout)
    notes = " ".join(data["notes"])
    for said in ("constraints differs", "z-score", "different numbers of network calls"):
        assert said in notes
    assert not any("total" in r for r in data["rows"])


def test_one_run_is_no_comparison(run):
    for folders in ([run], [run, run]):
        result = call("compare", *folders)
        assert result.exit_code == 2
        assert "twice" in words(result) or "two or more" in words(result)


# a backbone ---------------------------------------------------------------------------------------


def test_the_same_on_a_backbone_of_two_chains(tmp_path):
    """FASTA of a structure has gaps as X and chains by name: select and score speak it too."""
    source = files("seqalign").joinpath("data", "3a4r.pdb").read_text().splitlines()
    lines = []
    # chain B stands first in the file, and residue 344 of A is missing
    for k, (chain, last) in enumerate((("B", 346), ("A", 348))):
        for line in source:
            if line.startswith("ATOM") and 340 <= (n := int(line[22:26])) <= last:
                if (chain, n) != ("A", 344):
                    x = float(line[30:38]) + 60 * k
                    lines.append(f"{line[:21]}{chain}{line[22:30]}{x:8.3f}{line[38:]}")
        lines.append("TER")
    (tmp_path / "x.pdb").write_text("\n".join([*lines, "END", ""]))
    path = tmp_path / "c.yaml"
    assert call("new", tmp_path / "x.pdb", "--out", path).exit_code == 0
    options = ["rewards={c: {oracle: charge}}", "sampler.particles=4", "select.top=3"]
    out = tmp_path / "run"
    result = call("run", path, "--out", out, *sets(options))
    assert result.exit_code == 0, result.output
    before = bare(out)
    assert call("select", out, "--set", "select.top=1").exit_code == 0
    assert bare(out) != before
    assert call("select", out).exit_code == 0
    assert bare(out) == before
    printed = [s for _, s in read_fasta(out / "designs.fasta")]
    assert all([len(p) for p in s.split("/")] == [9, 7] and s[4] == "X" for s in printed)
    designs = table(out / "designs.csv")
    for name in ("designs.fasta", "designs.csv"):
        result = call("score", out / name, "-c", path, "--no-prior", "--json", *sets(options))
        rows = json.loads(result.stdout)["rows"][-len(designs) :]
        assert [r["sequence"] for r in rows] == [d["sequence"] for d in designs]
        assert [r["c"] for r in rows] == pytest.approx([float(d["c"]) for d in designs], rel=1e-5)
    wrong = tmp_path / "wrong.fasta"
    for text, said in (
        (printed[1].replace("X", "A"), "where x has no residue"),
        (printed[1] + "A", "9 / 8 letters"),
    ):
        wrong.write_text(f">w\n{text}\n")
        result = call("score", wrong, "-c", path, "--no-prior", *sets(options))
        assert result.exit_code == 2
        assert said in words(result)
