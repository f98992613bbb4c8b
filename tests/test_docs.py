"""What is written for people is true of the tree: files exist, commands are verbs, code runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from seqalign import registry
from seqalign.cli.main import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", "examples/benchmarks/README.md"]
TUTORIALS = sorted((ROOT / "examples" / "tutorials").glob("*.py"))


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_is_named_exists(page):
    text = (ROOT / page).read_text()
    named = set(
        re.findall(r"(?<![\w/.-])(?:seqalign|rewards|models|tests|examples|\.ci)/[\w./-]*", text)
    )
    named |= set(re.findall(r"`([\w-]+\.(?:md|toml))`", text))
    assert named
    missing = [name for name in named if not (ROOT / name.rstrip(".")).exists()]
    linked = re.findall(r"\]\(([^)#]+)\)", text)
    missing += [link for link in linked if not ((ROOT / page).parent / link).exists()]
    assert not missing, f"{page} names what is not there: {missing}"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_every_command_that_is_named_is_a_verb(page):
    verbs = set(typer.main.get_command(app).commands)
    named = re.findall(r"(?:^    |`)seqalign ([a-z]+)", (ROOT / page).read_text(), flags=re.M)
    assert named
    assert set(named) <= verbs
    targets = re.findall(r"^    make (\w+)", (ROOT / page).read_text(), flags=re.M)
    assert set(targets) <= set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.M))


def test_the_readme_is_short_and_its_code_runs(tmp_path, monkeypatch, capsys):
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    assert len([line for line in code.splitlines() if line]) <= 12
    # a folder that looks like the repository's, so that what is written is written elsewhere
    (tmp_path / "seqalign").symlink_to(ROOT / "seqalign")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert "tds on mpnn-mini" in capsys.readouterr().out
    assert (tmp_path / "runs" / "designs.fasta").read_text().count(">") == 5


def test_the_readme_lists_every_method_and_what_it_claims():
    rows = re.findall(
        r"^\| ((?:`\w+`(?:, )?)+) \|.*\| (yes|no)[^|]* \|$",
        (ROOT / "README.md").read_text(),
        re.M,
    )
    assert {name: said for names, said in rows for name in re.findall(r"\w+", names)} == {
        name: "yes" if registry.card("method", name)["consistent"] else "no"
        for name in registry.names("method")
        if registry.package("method", name) == "seqalign"
    }


def test_the_house_has_a_map():
    text = (ROOT / "CONTRIBUTING.md").read_text().split("## The house")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+\?) \| `([^`]+)`", text, flags=re.M)
    assert len(rows) >= 10
    assert all((ROOT / path).is_file() for _, path in rows)


def test_tutorials_are_short_and_named_in_the_readme():
    assert len(TUTORIALS) == 5
    readme = (ROOT / "README.md").read_text()
    for path in TUTORIALS:
        text = path.read_text()
        assert len([line for line in text.splitlines() if line]) <= 60, path.name
        assert '"--quick" in sys.argv' in text
        assert f"examples/tutorials/{path.name}" in readme
