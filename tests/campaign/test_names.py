"""Whatever a user calls things, a run ends, its tables are text and its report is markup of ours.

Names come from structures (chains, the file itself), from the campaign (units) and from prompts.
"""

import csv
import json
import random
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from commands import call

from seqalign.campaign.check import check as prepare
from seqalign.campaign.report.page import render
from seqalign.campaign.run import run
from seqalign.campaign.store import RunFolder
from seqalign.campaign.yaml import parse, read
from seqalign.files.text import to_csv

CASES = Path(__file__).parents[1] / "files" / "cases"
NASTY = (
    "\"'onx=1 <evil-x onx=1>&lt;{{7*7}}{% raw %}{#</script></style></title></textarea>"
    "<!--]]>$\\frac$ $\\kcal$"
)
CAMPAIGN = """
version: 1
name: x
input: {structure: %s, chains: %s}
design: {residues: %s}
model: {name: mpnn-mini}
rewards:
  s: {python: "own.py:lysines", unit: %s}
  s-holdout: {python: "own.py:arginines", role: holdout, unit: %s}
sampler: {name: smc, alpha: 0.5, particles: 3}
"""
OWN = """
def lysines(sequences):
    return [s.count("K") for s in sequences]

def arginines(sequences):
    return [s.count("R") for s in sequences]
"""


class Page(HTMLParser):
    """The tags of a page, with their attributes, and the text between them."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.text, self.scripts, self.open = [], set(), [], {}, []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.text += [value for name, value in attrs if name != "d" and value]
        self.open = [dict(attrs)] if tag == "script" else []

    def handle_data(self, data):
        if self.open:
            self.scripts[self.open[0].get("id", len(self.scripts))] = data
            self.open = []
        else:
            self.text.append(data)


def judged(html, *named):
    """Assert that a page holds names as text and nothing of them as markup."""
    page = Page(html)
    assert "evil-x" not in page.tags
    assert "onx" not in page.attributes
    assert page.tags.count("script") == html.count("<script") == html.count("</script>")
    assert page.tags.count("style") == html.count("</style>") == 1
    assert {"footer", "body"} <= set(page.tags), "something swallowed the page"
    assert not re.search(r"<\s*/?\s*evil", html)
    assert "49" not in re.findall(r"onx=1 .{0,40}", html), "evaluated"
    text = "\n".join(page.text)
    for name in named:
        assert name in text, name
    for kind in ("table", "trace-data"):
        if kind in page.scripts:
            json.loads(page.scripts[kind])
    return page


@pytest.fixture
def campaign(tmp_path):
    (tmp_path / "own.py").write_text(OWN)

    def write(source, name="f.cif", chains="null", residues="null", units=("K", "R")):
        (tmp_path / name).write_text(source)
        path = tmp_path / "c.yaml"
        quoted = [json.dumps(u) for u in (name, *units)]
        path.write_text(CAMPAIGN % (quoted[0], chains, residues, *quoted[1:]))
        return path

    return write


def test_chains_of_markup_and_formulas(campaign, tmp_path):
    """The case as it was found: chains called <b>chain</b> and =1+1, a unit $\\kcal$."""
    source, units = (CASES / "markup_chain.cif").read_text(), ("$\\kcal$", "$\\frac$</script><b>")
    # only the second chain, so that its name begins the cell of mutations
    path = campaign(source, residues='"=1+1:"', units=units)
    assert call("run", path).exit_code == 0
    folder = RunFolder(tmp_path / "runs" / "x")
    html = (folder.path / "report.html").read_text()
    assert "<b>chain" not in html
    judged(html, "<b>chain</b>", "=1+1", "$\\kcal$", "$\\frac$</script><b>")
    for name in ("designs.csv", "baselines.csv", "rejected.csv"):
        with (folder.path / name).open(newline="", encoding="utf-8") as file:
            for cell in (c for line in csv.reader(file) for c in line):
                assert cell[:1] not in ("=", "@", "+"), cell
                if cell[:1] == "-":
                    float(cell)
    mutations = [row["mutations"] for row in folder.read_csv("designs.csv")]
    assert any(m.startswith("=1+1:") for m in mutations), "a cell that would be a formula"
    before = {p: (folder.path / p).read_bytes() for p in ("designs.csv", "report.html")}
    assert call("select", folder.path).exit_code == 0
    assert before == {p: (folder.path / p).read_bytes() for p in before}


ODD = (
    "{{x}}",
    "</script>",
    "@SUM",
    "-2+3",
    "[x",
    "y]'",
    "c>d",
    "a=b",
    "$\\frac$",
    "%7B",
    "+",
    "a/b",
)


def test_any_chain_name_runs_to_the_end(campaign, tmp_path):
    source, rng = (CASES / "markup_chain.cif").read_text(), random.Random(3)
    # the first was refused by designs.fasta, when all was computed
    for one, other in (("[x", "y]'"), rng.sample(ODD, 2)):
        text = source.replace("<b>chain</b>", "\0").replace("=1+1", other).replace("\0", one)
        path = campaign(text)
        result = call("run", path, "--fresh")
        assert result.exit_code == 0, (one, other, result.output)
        folder = RunFolder(tmp_path / "runs" / "x")
        judged((folder.path / "report.html").read_text(), one, other)
        again = call("score", folder.path / "designs.fasta", "-c", path, "--no-prior")
        assert again.exit_code == 0, (one, other, again.output)


STEMS = ("T=0.1_x", "1abc,A", "a>b", "<evil-x>", "{{7*7}}", "$\\frac$", "T=", "=1+1", "[x")


def test_any_structure_name_runs_to_the_end(campaign, tmp_path):
    source = (CASES / "jump.pdb").read_text()
    for stem in random.Random(2).sample(STEMS, 3):
        path = campaign(source, f"{stem}.pdb")
        result = call("run", path, "--fresh", "--set", "baselines=[]")
        assert result.exit_code == 0, (stem, result.output)
        folder = RunFolder(tmp_path / "runs" / "x")
        judged((folder.path / "report.html").read_text(), f"{stem}.pdb")
        again = call("score", folder.path / "designs.fasta", "-c", path, "--no-prior")
        assert again.exit_code == 0, (stem, again.output)


def test_units_in_brackets_are_words_on_the_terminal(campaign):
    path = campaign((CASES / "jump.pdb").read_text(), "f.pdb", units=("per [/x] site", "[red]"))
    result = call("run", path, "--set", "baselines=[]")
    assert result.exit_code == 0, result.output
    assert "per [/x] site" in result.output
    assert "[red]" in result.output


def renamed(value, name):
    """Put a name before every text of a configuration."""
    if isinstance(value, dict):
        return {k: renamed(v, name) for k, v in value.items()}
    if isinstance(value, list):
        return [renamed(v, name) for v in value]
    return name + value if isinstance(value, str) else value


def disguised(folder, where, name):
    """Return a finished run and its summary with a name in every text that a user gives."""
    config, summary = dict(folder.read_config()), folder.summary()
    resolved = dict(config["resolved"])
    for key in ("residues", "prompts"):
        resolved[key] = renamed(resolved.get(key), name)
    config["resolved"] = {**resolved, "notes": [name]}
    config["input"], config["design"] = (
        renamed(config["input"], name),
        renamed(config["design"], name),
    )
    config["constraints"] = {"gone": name}
    orderable = summary.orderable
    if orderable is not None:
        records = [replace(r, chains=tuple(name + c for c in r.chains)) for r in orderable.records]
        orderable = replace(orderable, records=tuple(records), name=name)
    gallery = summary.gallery
    if gallery is not None:
        gallery = tuple(replace(line, prompt=name + line.prompt) for line in gallery)
    summary = replace(
        summary,
        name=name,
        command=name,
        units=dict.fromkeys(summary.units, name),
        select={**summary.select, "filters": [name]},
        prompts=None if summary.prompts is None else tuple(name + p for p in summary.prompts),
        orderable=orderable,
        gallery=gallery,
    )
    for table in ("designs.csv", "rejected.csv", "baselines.csv"):
        rows = [
            {
                k: name + v if k in ("prompt", "mutations", "reason", "file") else v
                for k, v in row.items()
            }
            for row in folder.read_csv(table)
        ]
        if rows:
            (where / table).write_text(to_csv(rows, list(rows[0])))
    (where / "trace.jsonl").write_text((folder.path / "trace.jsonl").read_text())
    (where / "config.yaml").write_text(yaml.safe_dump(config))
    return RunFolder(where), summary


def test_no_name_of_a_user_is_markup_in_a_report_of_letters(campaign, tmp_path):
    path = campaign((CASES / "dimer.pdb").read_text(), "f.pdb", chains="[A, B]")
    folder = RunFolder(tmp_path / "run")
    run(prepare(*read(path, ["select.top=2"])), folder)
    assert folder.read_csv("designs.csv")
    assert folder.read_csv("rejected.csv")
    (tmp_path / "other").mkdir()
    page = judged(render(*disguised(folder, tmp_path / "other", NASTY)), NASTY)
    # every place it was put in shows it, and the page is otherwise the same
    plain = Page(render(folder, folder.summary()))
    assert set(page.tags) == set(plain.tags)
    assert page.attributes == plain.attributes
    assert sum(t.count("onx=1") for t in page.text) > 100


IMAGES = """
version: 1
name: x
input: {prompts: [red apple, sailboat]}
model: {name: emoji-mini, steps: 2}
rewards:
  match: {oracle: emoji-match}
  match-holdout: {oracle: emoji-match-holdout, role: holdout}
sampler: {name: smc, islands: 2, particles: 2, alpha: 0.05}
select: {top: 1}
"""


def test_no_name_of_a_user_is_markup_in_a_report_of_images(tmp_path):
    folder = RunFolder(tmp_path / "run")
    run(prepare(*parse(IMAGES, "c.yaml", tmp_path)), folder)
    (tmp_path / "other").mkdir()
    page = judged(render(*disguised(folder, tmp_path / "other", NASTY)), NASTY)
    plain = Page(render(folder, folder.summary()))
    assert set(page.tags) == set(plain.tags)
    assert page.attributes == plain.attributes
