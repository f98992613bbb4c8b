"""Ligands in a campaign: what a model does not see is said, with a line that can be used."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from backbones import network
from commands import call, words

from seqalign.campaign.new import new
from seqalign.files.structure import read_structure
from seqalign.models.ligand_mpnn import ContextEncoder

LIGAND = Path(__file__).parents[1] / "files" / "cases" / "ligand.pdb"


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    state = {**network(21).state_dict(), **ContextEncoder(16, 2, 8).state_dict()}
    path = tmp_path / "ligand.pt"
    torch.save({"model_state_dict": state, "num_edges": 8, "atom_context_num": 5}, path)
    return path


def test_the_line_that_new_shows_fixes_what_is_near(tmp_path):
    made = new(LIGAND, tmp_path / "c.yaml")
    assert any(note.startswith("ZN A101 is not seen") for note in made.notes)
    assert any("nucleic acids: ligandmpnn." in note for note in made.notes)
    (tmp_path / "c.yaml").write_text(re.sub("# fix:", "fix:", made.text))
    fix = yaml.safe_load((tmp_path / "c.yaml").read_text())["design"]["fix"]
    assert fix == "near ZN"
    numbering = read_structure(LIGAND).known_numbering
    said = words(call("check", tmp_path / "c.yaml"))
    assert f"{len(numbering.positions(fix))} fixed" in said
    # what is done is not asked for again
    assert "ZN A101 is not seen; within 5 Å: A4, A7-9, A11, all kept." in said
    assert "To keep" not in said
    said = words(call("check", tmp_path / "c.yaml", "--set", "design.fix=A4"))
    assert "ZN A101 is not seen; within 5 Å: A4, A7-9, A11. To keep them: fix:" in said


def test_a_model_that_sees_the_ligand_says_so_everywhere(tmp_path, checkpoint):
    made = new(LIGAND, tmp_path / "c.yaml", "ligandmpnn")
    assert any(note.startswith("ZN A101 is seen (1 atom)") for note in made.notes)
    assert "not seen" not in made.text
    text = made.text.replace("name: ligandmpnn", f"name: ligandmpnn\n  checkpoint: {checkpoint}")
    text = re.sub("particles: 64", "particles: 4", text)
    (tmp_path / "c.yaml").write_text(text)
    said = words(call("check", tmp_path / "c.yaml"))
    assert "ZN A101 is seen (1 atom); within 5 Å: A4, A7-9, A11." in said
    assert 'whatever rewards say: fix: "near ZN"' in said
    said = words(call("check", tmp_path / "c.yaml", "--set", "model.context_atoms=false"))
    assert "ZN A101 is not seen; within 5 Å" in said
    result = call("run", tmp_path / "c.yaml")
    assert result.exit_code == 0, result.output
    report = next(tmp_path.rglob("report.html")).read_text()
    assert "ZN A101 is seen (1 atom)" in report


def test_the_report_of_a_model_that_sees_chains_alone_says_so(tmp_path):
    made = new(LIGAND, tmp_path / "c.yaml")
    (tmp_path / "c.yaml").write_text(made.text.replace("particles: 64", "particles: 4"))
    result = call("run", tmp_path / "c.yaml")
    assert result.exit_code == 0, result.output
    report = next(tmp_path.rglob("report.html")).read_text()
    assert "ZN A101 is not seen; within 5 Å: A4, A7-9, A11." in report
    assert "fix: &#34;near ZN&#34;" in report
