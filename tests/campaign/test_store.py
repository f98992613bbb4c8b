import json
from dataclasses import replace

import pytest
import torch

from seqalign.campaign.store import RunFolder
from seqalign.core.particles import Samples, Step
from seqalign.core.process import Designs
from seqalign.core.sequence import PROTEIN
from seqalign.files.sequences import read_fasta
from seqalign.files.text import fasta, to_csv, write_atomic


def _samples():
    def step(i, ancestors):
        one = torch.full((1,), 0.1 * i, dtype=torch.float64)
        return Step(i, one, one, one - torch.inf, one, one, ancestors, 3 * i, 4 * i)

    trace = (step(0, None), step(1, torch.tensor([[0, 0, 2]])))
    log_w = torch.tensor([[0.0, -1.5, -torch.inf]], dtype=torch.float64)
    designs = Designs(torch.arange(12).reshape(1, 3, 4), PROTEIN)
    return Samples(designs, log_w + 1, log_w, torch.tensor([2.0], dtype=torch.float64), trace)


def test_an_island_comes_back_as_it_was(tmp_path):
    folder, samples = RunFolder(tmp_path), _samples()
    folder.save_island("aligned", 7, samples, 1.25)
    back, seconds = folder.load_island("aligned", 7)
    assert seconds == 1.25
    assert torch.equal(back.designs.x, samples.designs.x)
    for name in ("rewards", "log_w", "log_z"):
        assert torch.equal(getattr(back, name), getattr(samples, name))
    assert back.network_calls == samples.network_calls
    assert back.trace[0].ancestors is None
    assert torch.equal(back.trace[1].ancestors, samples.trace[1].ancestors)
    assert folder.load_island("aligned", 8) is None


def test_what_failed_comes_back_and_older_folders_do_not_know(tmp_path):
    folder, samples = RunFolder(tmp_path), _samples()
    folder.save_island("aligned", 1, samples, 0)
    back, _ = folder.load_island("aligned", 1)
    assert back.trace[1].failed_values is back.trace[1].failed_gradients is None
    first, second = samples.trace
    share = torch.full((1,), 0.25, dtype=torch.float64)
    second = replace(second, failed_values=share, failed_gradients=2 * share, accepted=3 * share)
    folder.save_island("aligned", 2, replace(samples, trace=(first, second)), 0)
    back, _ = folder.load_island("aligned", 2)
    assert torch.equal(back.trace[1].failed_values, share)
    assert torch.equal(back.trace[1].failed_gradients, 2 * share)
    assert torch.equal(back.trace[1].accepted, 3 * share)
    assert bool(torch.isnan(back.trace[0].failed_values).all())


def test_a_torn_checkpoint_is_run_again(tmp_path):
    folder = RunFolder(tmp_path)
    folder.save_island("aligned", 0, _samples(), 0)
    path = tmp_path / "state" / "aligned-00000.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    assert folder.load_island("aligned", 0) is None


def test_writing_is_atomic(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_atomic(path, "old")

    def broken(*_):
        raise OSError("no space")

    monkeypatch.setattr("os.replace", broken)
    with pytest.raises(OSError, match="no space"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_another_configuration_is_refused(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.open({"seed": 1, "a": {"b": [1, 2]}})
    folder.open({"seed": 1, "a": {"b": [1, 2]}})
    with pytest.raises(ValueError, match=r"a\.b was \[1, 2\] and is now \[1, 3\].*--fresh"):
        folder.open({"seed": 1, "a": {"b": [1, 3]}})
    folder.open({"seed": 2}, fresh=True)
    assert folder.read_config() == {"seed": 2}


def test_a_strangers_folder_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("dear")
    with pytest.raises(ValueError, match="no run folder"):
        RunFolder(tmp_path).open({}, fresh=True)
    assert (tmp_path / "thesis.tex").read_text() == "dear"


def test_fresh_removes_only_what_is_ours(tmp_path):
    folder = RunFolder(tmp_path)
    folder.open({"seed": 1})
    (tmp_path / "notes.txt").write_text("mine")
    folder.open({"seed": 2}, fresh=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_one_process_per_folder(tmp_path):
    with RunFolder(tmp_path).lock(), pytest.raises(ValueError, match="Another process"):
        with RunFolder(tmp_path).lock():
            pass


def test_json_has_no_infinities(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_json("a.json", {"x": float("-inf"), "y": [float("nan"), 1.0]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": None, "y": [None, 1.0]}


def test_fasta_and_csv(tmp_path):
    path = tmp_path / "a.fasta"
    path.write_text(fasta([("one, two", "MKT"), ("b", "MMM")]))
    assert read_fasta(path) == [("one, two", "MKT"), ("b", "MMM")]
    assert to_csv([{"a": 0.12345678, "b": "x", "c": 1}], ["a", "b"]) == "a,b\n0.123457,x\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("MKT", "starts with '>'"),
        (">a\n", "e is empty"),
    ],
)
def test_bad_fasta_says_why(tmp_path, text, words):
    path = tmp_path / "a.fasta"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        read_fasta(path)
