"""A third party's package adds a reward, a model, two methods, a tempering and a constraint.

Each is one file and one entry-point line in tests/third_party; a campaign uses them like our own.
"""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import seqalign as sa
from seqalign import registry
from seqalign.cli.main import app

HERE = Path(__file__).with_name("third_party")


def install(project: Path, site: Path) -> Path:
    """Write what an installer leaves of a project's package, and return the place."""
    said = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    name, version = said["name"], said["version"]
    package = name.replace("-", "_")
    shutil.copytree(project / package, site / package)
    info = site / f"{package}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = []
    for group, points in said["entry-points"].items():
        lines += [f"[{group}]", *(f"{k} = {v}" for k, v in points.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return site


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(install(HERE, folder / "site")))
        shutil.copy(HERE / "campaign.yaml", folder)
        yield folder / "campaign.yaml"


def call(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_check_shows_every_part(campaign):
    text = call("check", campaign)
    assert "soup" in text
    assert "greasy [pairs]: weight 1, with gradient. " in text
    assert "aligned: ladder, 1 × 12 particles" in text
    assert "stairs: 3" in text
    assert "sled: sled" in text
    assert "molecular_mass: molecular mass max 900" in text


def test_run_and_report_show_every_part(campaign, tmp_path):
    call("run", campaign, "--out", tmp_path / "out", "--json")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["designs"] > 0
    assert summary["network_calls"]["aligned"] == 12 * 8
    assert summary["log_z"] is not None
    config = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())["resolved"]
    assert config["model"]["from"] == "lab_seqalign.soup:soup"
    assert config["model"]["version"] == "1.2"
    assert config["sampler"]["rungs"] == [{"name": "stairs", "stairs": 3}]
    report = (tmp_path / "out" / "report.html").read_text()
    for word in ("greasy", "soup", "ladder", "stairs", "pairs", "Molecular mass"):
        assert word in report, word
    limits = {"omit": "C", "max_homopolymer": 2, "molecular_mass": {"max": 900}}
    space = sa.load_model("soup", length=8, **limits).space
    rows = (tmp_path / "out" / "designs.csv").read_text().splitlines()[1:]
    assert not any(space.violations(row.split(",")[1]) for row in rows)
    # finished, it is only read; and a user's own sequences are scored
    call("run", campaign, "--out", tmp_path / "out", "--json")
    (tmp_path / "own.csv").write_text("sequence\nAKDEAKDE\n")
    assert "AKDEAKDE" in call("score", tmp_path / "own.csv", "-c", campaign, "--json")


def test_cite_reads_cards_and_docstrings(campaign):
    text = call("cite", campaign)
    assert "@misc{lab2020soup," in text
    assert "@inproceedings{austin2021d3pm," in text
    assert "sahoo2024mdlm" not in text
    assert "@article{poe2024sled," in text
    assert '% reward patches: Doe & Roe, "Sticky neighbors"' in text
    assert '% method ladder: Poe, "Ladders"' in text
    assert '% tempering stairs: Moe, "Stairs to a target"' in text
    assert '% constraint molecular_mass: Low, "Heavy letters"' in text


def test_two_methods_of_one_module_have_their_own_cards(campaign):
    ladder, sled = registry.card("method", "ladder"), registry.card("method", "sled")
    assert ladder["summary"] == "Ladder: tempered SMC that resamples on some rungs."
    assert ladder["detail"] == "Every rung is a step of the schedule."
    assert ladder["parameters"]["rungs"] == [{"name": "linear", "power": 1.0}]
    assert ladder["parameters"]["then"] is None
    assert sled["summary"] == "Sled: importance sampling, downhill."
    assert "poe2024sled" in sled["references"]
    assert registry.describe("tempering", "stairs").startswith("lam rises in equal stairs")


def test_a_factory_is_told_its_name_and_users_do_not_see_it(campaign):
    assert sa.load_model("soup").process.name == "soup"
    assert registry.parameters("model", "soup") == ["length", "steps", "seed"]
    with pytest.raises(registry.SpecError, match="no parameter 'registered'"):
        sa.load_model("soup", registered="other")


def test_strategies_of_a_third_party_fit_every_method(campaign):
    for name in registry.names("method"):
        if "tempering" in registry.card("method", name)["parameters"]:
            method = sa.load_method(name, tempering={"name": "stairs", "stairs": 5})
            mapping = registry.to_mapping(method)
            assert mapping["tempering"] == {"name": "stairs", "stairs": 5}
            assert registry.build_method(mapping.pop("name"), mapping) == method
    nested = {"rungs": ["adaptive", {"name": "stairs"}], "then": "systematic", "value": "rollout"}
    method = sa.load_method("ladder", **nested)
    mapping = registry.to_mapping(method)
    assert registry.build_method(mapping.pop("name"), mapping) == method
    assert set(registry.strategies(method)) >= {("tempering", "stairs"), ("value", "rollout")}
    with pytest.raises(registry.SpecError, match="Did you mean 'stairs'") as caught:
        sa.load_method("ladder", rungs=["adaptive", {"name": "stair"}])
    assert caught.value.path == ("rungs", 1)


def test_the_python_door_takes_them_too(campaign):
    model = sa.load_model("soup", length=6, fix={1: "M"}, max_mutations=2, wild_type="MKTAYI")
    result = sa.sample(model, sa.load_reward("patches"), "das", particles=16, alpha=0.5)
    space = model.space
    weighty = result.samples.log_w[0] > -float("inf")
    names = [s for s, w in zip(result.samples.designs.sequences[0], weighty, strict=True) if w]
    assert names
    assert not any(space.violations(s) for s in names)
    with pytest.raises(ValueError, match="bias is for masked models"):
        sa.load_model("soup", residues={"1": {"bias": {"A": 1.0}}})
    assert sa.load_model("soup", steps=4).process.steps == 4
