"""export on runs of structures: one record per designed chain, whole letters on plates and in DNA.

What a designed position holds is free; every other letter is the one of the file, read here by its
columns.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from Bio import SeqIO
from Bio.Data.IUPACData import protein_letters_3to1
from Bio.Seq import Seq
from commands import call, words

from seqalign.files.plate import wells
from seqalign.files.sequences import read_fasta

genes = pytest.mark.skipif(
    find_spec("dnachisel") is None, reason="genes need the extra: pip install 'seqalign[dna]'"
)
CASES = Path(__file__).parents[1] / "files" / "cases"
CAMPAIGN = """
version: 1
name: x
seed: 1
input: {structure: %s, %s}
design: {residues: "%s"}
model: {name: mpnn-mini}
rewards:
  charge: {oracle: charge}
sampler: {name: smc, alpha: 0.5, particles: 6}
baselines: []
"""


@pytest.fixture(scope="module", autouse=True)
def _no_report():
    """Drawing a report takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seqalign.campaign.select.render", lambda *_: "")
        yield


def native(name: str, chain: str) -> str:
    """The letters of a chain of a PDB file, by the residues of its ATOM lines."""
    lines = [x for x in (CASES / name).read_text().splitlines() if x.startswith("ATOM")]
    found = dict.fromkeys((x[22:27], x[17:20]) for x in lines if x[21] == chain)
    return "".join(protein_letters_3to1[three.capitalize()] for _, three in found)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def ran(folder: Path, name: str, read: str, residues: str, code: int = 0) -> Path:
    """Run a campaign on a case; gives its run folder."""
    (folder / name).write_bytes((CASES / name).read_bytes())
    (folder / "c.yaml").write_text(CAMPAIGN % (name, read, residues))
    result = call("run", folder / "c.yaml")
    assert result.exit_code == code, result.output
    return folder / "runs" / "x"


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    """Chain A designed in part, chain B only seen."""
    read = "chains: [A], context: [B]"
    return ran(tmp_path_factory.mktemp("context"), "dimer.pdb", read, "A10-16")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Two chains designed in part."""
    read = "chains: [A, B]"
    return ran(tmp_path_factory.mktemp("both"), "dimer.pdb", read, "A10-16, B10-16")


@pytest.fixture(scope="module")
def gap(tmp_path_factory):
    """A chain with three letters that nobody knows."""
    return ran(tmp_path_factory.mktemp("gap"), "gap.pdb", "chains: [A]", "A1-3")


def free(sequence: str) -> str:
    """The letters before the designed ones."""
    return sequence[:9]


@genes
def test_a_context_chain_is_nowhere(context, tmp_path):
    result = call("export", context, "--fasta", "--plate", "96", "--dna", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    rows = table(context / "designs.csv")
    designs = {row["id"]: row["sequence"] for row in rows}
    assert dict(read_fasta(tmp_path / "designs.fasta")) == designs
    plate = table(tmp_path / "plate-1.csv")
    assert {w["id"]: w["sequence"] for w in plate} == designs
    assert {w["chain"] for w in plate} == {"A"}
    own = native("dimer.pdb", "A")
    assert all(len(s) == len(own) and free(s) == free(own) for s in designs.values())
    assert {g["id"]: g["protein"] for g in table(tmp_path / "dna.csv")} == {
        name: "M" * (s[0] != "M") + s for name, s in designs.items()
    }


@genes
def test_two_chains_are_two_records_side_by_side(both, tmp_path):
    result = call("export", both, "--fasta", "--csv", "--plate", "24", "--control", "--dna",
                  "--out", tmp_path)  # fmt: skip
    assert result.exit_code == 0, result.output
    rows = table(both / "designs.csv")
    pairs = {row["id"]: row["sequence"].split("/") for row in rows}
    expected = [
        (f"{name}_{c}", s) for name, pair in pairs.items() for c, s in zip("AB", pair, strict=True)
    ]
    assert read_fasta(tmp_path / "designs.fasta") == expected
    plate = table(tmp_path / "plate-1.csv")
    assert not (tmp_path / "plate-2.csv").exists()
    assert [(w["id"], w["sequence"]) for w in plate[:-2]] == expected
    assert [w["well"] for w in plate] == [*wells(24)[: len(expected)], "D05", "D06"]
    natives = [native("dimer.pdb", c) for c in "AB"]
    assert [(w["id"], w["chain"], w["sequence"]) for w in plate[-2:]] == [
        (f"wild_type_{c}", c, s) for c, s in zip("AB", natives, strict=True)
    ]
    for pair in pairs.values():
        assert [free(s) for s in pair] == [free(s) for s in natives]
    for row, short in zip(rows, table(tmp_path / "designs.csv"), strict=True):
        assert "sequence" not in short
        assert [short["sequence_A"], short["sequence_B"]] == row["sequence"].split("/")
        assert {k: row[k] for k in short} == short
        assert not {"log_w", "copies", "prior", "charge_scaled"} & set(short)
    picture = (tmp_path / "plate-1.txt").read_text()
    assert picture.split()[7:10] == ["d0001_A", "d0001_B", "d0002_A"]
    genes = {g["id"]: g for g in table(tmp_path / "dna.csv")}
    assert list(genes) == [w["id"] for w in plate]
    for well in plate:
        gene = genes[well["id"]]
        assert well["dna"] == gene["dna"]
        assert str(Seq(gene["dna"]).translate()) == gene["protein"] + "*"
        assert gene["protein"].endswith(well["sequence"])
    assert read_fasta(tmp_path / "dna.fasta") == [(k, g["dna"]) for k, g in genes.items()]
    records = SeqIO.parse(io.StringIO((tmp_path / "dna.gb").read_text()), "genbank")
    assert {r.id: str(r.seq) for r in records} == {k: g["dna"] for k, g in genes.items()}


@genes
@pytest.mark.parametrize("what", [["--plate", "96"], ["--dna"]])
def test_what_is_ordered_has_no_unknown_letter(gap, tmp_path, what):
    result = call("export", gap, *what, "--fasta", "--out", tmp_path / "e")
    assert result.exit_code == 2
    for said in (what[0], "d0001", "chain A", "3 residues after A9", "input.fill: seqres"):
        assert said in words(result)
    assert not (tmp_path / "e").exists()


def test_fasta_and_csv_keep_what_is_not_known(gap, tmp_path):
    assert call("export", gap, "--fasta", "--csv", "--out", tmp_path).exit_code == 0
    own = native("gap.pdb", "A")
    for _, sequence in read_fasta(tmp_path / "designs.fasta"):
        assert sequence[3:] == own[3:9] + "XXX" + own[9:]
    for row in table(tmp_path / "designs.csv"):
        assert [row[k] for k in ("mw", "pI", "eps280", "cysteines")] == [""] * 4
        assert row["length"] == str(len(own) + 3)


def test_numbers_that_are_not_known_are_no_filter(gap):
    result = call("select", gap, "--set", "select.filters=[length > 3, mw < 9000]")
    assert result.exit_code == 3, result.output
    rejected = table(gap / "rejected.csv")
    assert {row["reason"] for row in rejected} == {"filter: mw < 9000 (is not known)"}
    result = call("check", gap.parents[1] / "c.yaml", "--set", "select.filters=[mw < 9000]")
    assert result.exit_code == 2
    assert "3 residues after A9" in words(result)
    assert call("select", gap, "--set", "select.rank_by=pI").exit_code == 0


@genes
def test_genes_of_the_filled_chain(gap, tmp_path):
    again = tmp_path / "filled"
    again.mkdir()
    run = ran(again, "gap.pdb", "chains: [A], fill: seqres", "A1-3")
    result = call("export", run, "--dna", "--json", "--n-tag", "mhhhhhh-gs", "--max-length", "300")
    assert result.exit_code == 0, result.output
    assert "genes for e_coli" in json.loads(result.stdout)["notes"][0]
    own = native("gap.pdb", "A")
    for gene in table(run / "export" / "dna.csv"):
        assert gene["protein"].startswith("MHHHHHHGS")
        assert gene["protein"][12:] == own[3:9] + "LKR" + own[9:]


def test_filters_by_chain_and_by_all(both):
    rows = table(both / "designs.csv")
    middle = sorted(float(r["pI_B"]) for r in rows)[len(rows) // 2]
    call("select", both, "--set", f"select.filters=[pI_B <= {middle}, cysteines == 0]")
    kept = table(both / "designs.csv")
    good = [r for r in rows if float(r["pI_B"]) <= middle and r["cysteines"] == "0"]
    assert {r["sequence"] for r in kept} == {r["sequence"] for r in good}
    assert call("select", both).exit_code == 0
    same = ("log_w", "eps280_A", "mw", "liabilities", "new_liabilities")
    assert [[r[k] for k in same] for r in table(both / "designs.csv")] == [
        [r[k] for k in same] for r in rows
    ]
    for row in rows:
        assert float(row["mw"]) == pytest.approx(float(row["mw_A"]) + float(row["mw_B"]), abs=0.2)


def test_a_reward_takes_the_column_of_its_name(context):
    """Here a reward is called charge: there is one such column, and it is the reward's."""
    header = (context / "designs.csv").read_text().splitlines()[0].split(",")
    assert header.count("charge") == 1
    assert header.index("charge") == header.index("total") - 1
    for row in table(context / "designs.csv"):
        assert float(row["total"]) == float(row["charge"])


@genes
def test_a_run_without_the_columns_says_so(both, tmp_path):
    lines = {}
    for name in ("designs.csv", "rejected.csv"):
        path = both / name
        lines[path] = path.read_text()
        rows = table(path)
        header = lines[path].splitlines()[0].split(",")
        kept = [c for c in header if c not in ("pI", "liabilities")]
        text = io.StringIO()
        writer = csv.DictWriter(text, kept, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        path.write_text(text.getvalue())
    try:
        result = call("select", both, "--set", "select.filters=[pI < 9]")
        assert result.exit_code == 2
        assert "no column 'pI'" in words(result)
        assert "--fresh" in words(result)
        assert "liabilities" not in (both / "designs.csv").read_text().split("n_liabilities")[0]
        assert "translates proteins" in words(call("export", both, "--dna", "--out", tmp_path))
    finally:
        for path, text in lines.items():
            path.write_text(text)


def test_without_the_extra_the_install_line_is_said(context, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "dnachisel", None)
    result = call("export", context, "--dna", "--out", tmp_path)
    assert result.exit_code == 4
    assert 'pip install "seqalign[dna]"' in words(result)
    assert call("export", context, "--plate", "96", "--out", tmp_path).exit_code == 0


@genes
def test_impossible_genes_are_named_with_their_bound(both, tmp_path):
    result = call("export", both, "--dna", "--gc", "0.1", "0.2", "--out", tmp_path / "e")
    assert result.exit_code == 2
    assert "d0001_A: no DNA keeps all bounds" in words(result)
    assert "Nor for d0001_B, d0002_A, d0002_B and perhaps more" in words(result)
    assert not (tmp_path / "e").exists()
