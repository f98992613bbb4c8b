"""`seqalign demo`: which model designs, and that a stand-in says so first and in the report."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import yaml
from commands import call, words

from seqalign import weights
from seqalign.models.mpnn import MPNN

SAID = "Designed with mpnn-mini, a small embedded network, as the published weights of ProteinMPNN"


@pytest.fixture
def few(monkeypatch):
    """Two designs, without baselines: the demo's words are looked at, not its designs."""
    from seqalign.cli import main

    real = main.parse
    short = ["sampler.particles=2", "baselines=[]", "design.residues=A345-351", "design.fix=A345"]
    short += ["constraints={omit: C}"]
    monkeypatch.setattr(main, "parse", lambda t, n, f, o: real(t, n, f, [*o, *short]))


def test_without_proteinmpnn_the_embedded_network_designs_and_says_so(tmp_path, few, monkeypatch):
    monkeypatch.setenv("SEQALIGN_WEIGHTS", str(tmp_path / "none"))
    result = call("demo", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(SAID)
    assert "seqalign fetch proteinmpnn brings them" in result.stdout.splitlines()[0]
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["model"]["name"] == "mpnn-mini"
    report = (tmp_path / "run" / "report.html").read_text()
    assert SAID in report
    assert "seqalign demo backbone --seed 7 --model mpnn-mini" in report
    # the same command goes on; what is asked for is no stand-in
    assert call("demo", "--out", tmp_path / "run").exit_code == 0
    asked = call("demo", "--out", tmp_path / "asked", "--model", "mpnn-mini", "--json")
    assert SAID not in asked.output
    assert SAID not in (tmp_path / "asked" / "report.html").read_text()
    json.loads(asked.stdout)


def test_where_proteinmpnn_was_fetched_it_designs(tmp_path, few, monkeypatch):
    name = "proteinmpnn-v_48_020"
    entry = weights.catalog()[name]
    # small random numbers in the place of the published ones
    small = replace(entry, parts=(replace(entry.parts[0], size=None),))
    monkeypatch.setattr(weights, "catalog", lambda: {name: small})
    monkeypatch.setenv("SEQALIGN_WEIGHTS", str(tmp_path / "weights"))
    target = small.location(tmp_path / "weights")
    target.parent.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save({"model_state_dict": MPNN(16, 1, 21).state_dict(), "num_edges": 10}, target)
    result = call("demo", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert SAID not in result.output
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["model"]["name"] == "proteinmpnn"
    assert SAID not in (tmp_path / "run" / "report.html").read_text()


def test_the_demo_of_a_wild_type_has_its_own_model(tmp_path):
    result = call("demo", "pdz3", "--model", "mpnn-mini", "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "pdz3 has a model of its own" in words(result)
