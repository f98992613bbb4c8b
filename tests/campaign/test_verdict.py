"""Verdicts: a twin never confirms, a judge of another kind may, and all that speak say the same."""

import html as markup
import json
import math
import shutil
import sys
from dataclasses import replace
from importlib.resources import as_file, files

import pytest
from commands import call, campaign_of, words
from hypothesis import given, settings
from hypothesis import strategies as st

from seqalign.campaign import judges
from seqalign.campaign.check import check as prepare
from seqalign.campaign.media import MEDIA
from seqalign.campaign.report.page import render
from seqalign.campaign.report.parts import Run
from seqalign.campaign.run import run
from seqalign.campaign.store import RunFolder
from seqalign.campaign.summary import Verdict, from_json, to_json
from seqalign.campaign.verdict import judged, ruling, speaker
from seqalign.campaign.yaml import parse, read
from seqalign.kinship import kin

GAINS = st.floats(-5, 5, allow_nan=False)
SHARED = st.dictionaries(
    st.sampled_from(["a", "b", "prior"]),
    st.none() | st.sampled_from([(), ("data x",), ("features y", "data x")]),
)
VERDICTS = st.builds(
    Verdict,
    st.sampled_from(["a", "b", "total"]),
    st.sampled_from(["p", "q", "r"]),
    GAINS,
    GAINS,
    st.sampled_from(["", "oracle"]),
    SHARED,
    st.floats(0, 2),
)


few = settings(max_examples=60, deadline=None)


# the laws -----------------------------------------------------------------------------------------


@few
@given(VERDICTS)
def test_a_twin_never_confirms_and_a_foreign_judge_does_where_it_agrees(v):
    label = "a" if v.guide == "total" else v.guide
    said = ruling(label, [v])
    agrees = v.gain > 0 and v.kept >= 0.5 * v.gain
    if any(v.shared.values()):
        assert said.kind != "good"
        assert said.badge == "Withheld" or not agrees
    else:
        assert (said.badge == "Confirmed") is agrees
        assert ("unknown: not compared" in said.text) is (
            v.gain > 0 and (not v.shared or None in v.shared.values())
        )
        # what rises, and by less than half of the gain, is neither
        in_part = v.gain > 0 and v.kept > 2 * v.error and not agrees
        assert (said.badge == "In part") is in_part
        if in_part:
            assert said.kind == "open"
            return
    # nobody is milder on a gain that is none or is not kept
    assert (said.kind == "bad") is not agrees


@few
@given(st.lists(VERDICTS, max_size=5), st.randoms(use_true_random=False))
def test_who_speaks_does_not_depend_on_the_order(found, draw):
    shuffled = list(found)
    draw.shuffle(shuffled)
    assert ruling("a", found).kind == ruling("a", shuffled).kind


@few
@given(st.lists(VERDICTS, min_size=1, max_size=5))
def test_the_judge_of_another_kind_speaks_then_the_strictest(found):
    best = speaker("a", found)
    own = [v for v in found if v.guide in ("a", "total")]
    if best is None:
        assert not own
        assert ruling("a", found).badge == "Not checked"
        return
    if any(v.kind == "foreign" for v in own):
        assert best.kind == "foreign"
    rivals = [v for v in own if v.kind == best.kind and v.guide == best.guide and v.gain > 0]
    if best.gain > 0:
        assert all(best.ratio <= v.ratio for v in rivals)


def test_words_name_the_judge_and_what_it_shares():
    foreign = {"a": (), "prior": ()}
    v = Verdict("a", "check", 2.0, 1.2, "ddg-pairs", foreign)
    said = ruling("a", [v], prior="proteinmpnn").text
    assert "check (ddg-pairs), never optimized, confirms 60 % of the gain in a" in said
    assert "neither features nor data with a and proteinmpnn" in said
    v = replace(v, shared={"a": ("data x",), "prior": ("features y",)})
    said = ruling("a", [v], ["ddg-pairs", "other"], "proteinmpnn").text
    assert "shares data x with a; features y with proteinmpnn" in said
    assert "ddg-pairs or other would judge it" in said
    assert "check: {oracle: ddg-pairs, role: holdout}" in said
    v = replace(v, shared={"a": (), "prior": None})
    said = ruling("a", [v], prior="mine").text
    assert "What it shares with mine is unknown: not compared" in said
    v = replace(v, guide="total", shared=foreign, kept=-1.0)
    said = ruling("a", [v]).text
    assert "confirms nothing of the gain in the sum of the guides: nothing vouches for it" in said
    assert ruling("a", [replace(v, gain=-1.0)]).text.startswith("The best designs are no better")


# a campaign ---------------------------------------------------------------------------------------


CARD = "summary: {0}\nunit: kcal/mol\nreferences: none\nshares: {1}\n"


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Forget another test's plugin of the same name, and the units on its cards."""
    for name in [n for n in sys.modules if n.split(".")[0] == "toy_seqalign"]:
        monkeypatch.delitem(sys.modules, name)
    judges._unit.cache_clear()


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    where = tmp_path_factory.mktemp("verdict")
    with campaign_of(where) as path, pytest.MonkeyPatch.context() as patch:
        # another test may have imported the plugin from another folder, with other cards
        for name in [n for n in sys.modules if n.split(".")[0] == "toy_seqalign"]:
            patch.delitem(sys.modules, name)
        (cards,) = where.rglob("toy_seqalign/cards")
        (cards / "toy.yaml").write_text("summary: toy\nshares: {features: [toy-net]}\n")
        (cards / "toy-linear.yaml").write_text(CARD.format("linear", "{data: [scan]}"))
        (cards / "toy-twin.yaml").write_text(CARD.format("twin", "{data: [elsewhere]}"))
        yield path


@pytest.fixture(scope="module")
def folder(campaign):
    made = RunFolder(campaign.parent / "run")
    run(prepare(*read(campaign)), made)
    return made


def test_report_terminal_summary_and_compare_say_the_same(campaign, folder):
    summary = folder.summary()
    assert set(summary.rulings) == {"a", "b"}
    page = markup.unescape((folder.path / "report.html").read_text())
    shown = words(call("run", campaign, "--out", folder.path))
    other = folder.path.parent / "again"
    shutil.copytree(folder.path, other)
    compared = words(call("compare", folder.path, other))
    stored = json.loads((folder.path / "summary.json").read_text())["rulings"]
    runs = json.loads(call("compare", folder.path, other, "--json").output)["runs"]
    for label, said in summary.rulings.items():
        assert said.judge == "held"
        assert said.text in page
        assert f'<span class="badge {said.kind}">{said.badge}</span>' in page
        assert f"{label}: {said.badge}. {said.text}" in shown
        assert f"{label}: {said.badge}. {said.text}" in compared
        assert stored[label]["text"] == runs[0]["rulings"][label]["text"] == said.text
    assert to_json(from_json(to_json(summary))) == to_json(summary)


def test_another_kinship_of_the_same_designs_withholds_the_verdict(folder):
    now = Run.of(folder, folder.summary())
    centered = MEDIA["letters"].compared(now).centered
    assert now.config["resolved"]["shared"] == {"held": {"a": [], "b": [], "prior": []}}

    def of(**shared):
        resolved = {**now.config["resolved"], "shared": {"held": shared}}
        return judged(replace(now, config={**now.config, "resolved": resolved}), centered)

    (before,) = folder.summary().verdicts
    for again in (of(a=["data scan"], b=[], prior=[]), of(a=[], b=[], prior=["features toy-net"])):
        (after,) = again.verdicts
        assert (after.gain, after.kept) == (before.gain, before.kept)
        assert {said.badge for said in again.rulings.values()} <= {
            "Withheld",
            "They part",
            "No gain",
        }
    assert of().verdicts[0].kind == of(a=None, b=[], prior=[]).verdicts[0].kind == "unknown"


def test_runs_of_older_versions_are_judged_when_they_are_reported(folder):
    summary = folder.summary()
    bare = replace(summary, verdicts=None, rulings={})
    assert from_json({k: v for k, v in to_json(bare).items() if k != "judges"}).rulings == {}
    assert summary.rulings["a"].text in markup.unescape(render(folder, bare))


def test_check_names_a_judge_that_fits_where_only_a_twin_is_there(campaign):
    line = "check: {oracle: toy-twin, role: holdout}"
    # it shares nothing, and there is one
    assert line not in words(call("check", campaign))
    twin = call("check", campaign, "--set", "rewards.held.oracle=toy-linear")
    assert twin.exit_code == 0
    assert line in words(twin)
    assert "judges a and b" in words(twin)
    # others with this unit need a structure or another length
    plan = prepare(*read(campaign, ["rewards.held.oracle=toy-linear"]))
    assert plan.judges == {"a": ("toy-twin",), "b": ("toy-twin",)}
    # a label that is taken is not offered
    taken = call("check", campaign, "--set", "rewards.check={oracle: toy-linear, role: final}",
                 "--set", "rewards.held.oracle=toy-linear")  # fmt: skip
    assert "judge: {oracle: toy-twin, role: holdout}" in words(taken)


def test_one_of_the_users_own_is_not_compared(campaign):
    (campaign.parent / "own.py").write_text("def own(s):\n    return [len(x) for x in s]\n")
    given = ["rewards.held={python: own.py:own, role: holdout}"]
    plan = prepare(*read(campaign, given))
    assert plan.config["resolved"]["shared"] == {"held": {"a": None, "b": None, "prior": None}}
    assert plan.judges == {}


def test_hold_outs_speak_of_the_guide_with_their_unit(folder):
    now = Run.of(folder, folder.summary())

    def pairs(**units):
        return replace(now, summary=replace(now.summary, units=units)).pairs()

    assert pairs(a="kcal/mol", b="nats", held="kcal/mol") == [("a", "held")]
    assert pairs(a="kcal/mol", b="kcal/mol", held="kcal/mol") == [("total", "held")]
    assert pairs(a="", b="", held="") == [("total", "held")]
    assert not math.isnan(folder.summary().verdicts[0].gain)


@pytest.mark.parametrize(
    ("demo", "judge"), [("demo-backbone", "check"), ("demo-pdz3", "stability-check")]
)
def test_the_demos_bring_a_judge_of_another_kind(demo, judge, tmp_path, monkeypatch):
    # files that a reward reads lie beside the campaign, wherever one stands
    monkeypatch.chdir(tmp_path)
    with as_file(files("seqalign").joinpath("data")) as folder:
        text = (folder / f"{demo}.yaml").read_text()
        plan = prepare(*parse(text, f"{demo}.yaml", folder, ["sampler.particles=2"]))
    found = plan.config["resolved"]["shared"]
    assert not any(found[judge].values())
    assert all(any(s.values()) for label, s in found.items() if label != judge)
    guide = kin("reward", plan.campaign.rewards["stability"].oracle, {})
    assert (found[judge]["stability"] == []) is (guide is not None)
