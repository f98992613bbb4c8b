"""Which designs get a log-likelihood: those that are kept, and those that a page shows."""

from __future__ import annotations

import csv
import json
import math
import shutil

import pytest
from commands import call, campaign_of, refuses, sets, words

from seqalign.campaign import letters
from seqalign.campaign.letters import REFERENCES, TOP

TOP_4 = "select.top=4"
OFF = "output.likelihoods=false"


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def without(rows):
    """Rows without what only likelihoods can change."""
    return [{k: v for k, v in row.items() if not k.startswith("prior")} for row in rows]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with campaign_of(tmp_path_factory.mktemp("likelihoods")) as path:
        yield path


@pytest.fixture(scope="module")
def ran(place):
    """Runs of one campaign with other options, and the sequences whose likelihoods each asked."""
    done = {}

    def run(*options):
        if options not in done:
            asked = []

            def spy(process, x, free, **given):
                asked.extend(process.alphabet.decode(x))
                return found(process, x, free, **given)

            found = letters.prior_log_likelihood
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(letters, "prior_log_likelihood", spy)
                patch.setattr("seqalign.campaign.select.render", lambda _, s: s.name)
                folder = place.parent / f"run-{len(done)}"
                many = ["sampler.particles=48", "sampler.islands=2", *options]
                result = call("run", place, "--out", folder, *sets(many))
            assert result.exit_code == 0, result.output
            done[options] = folder, asked
        return done[options]

    return run


def test_what_is_kept_has_the_likelihood_it_has_where_all_have_one(ran):
    (whole, every), (some, asked) = ran(), ran(TOP_4)
    each = {r["sequence"]: r for r in table(whole / "designs.csv")}
    assert len(each) > REFERENCES + TOP + 4
    assert all(r["prior"] for r in each.values())
    kept = table(some / "designs.csv")
    assert len(kept) == 4
    for row in kept:
        assert without([row]) == without([{**each[row["sequence"]], "id": row["id"]}])
        assert row["prior_per_residue"] == each[row["sequence"]]["prior_per_residue"] != ""
    assert set(asked) < set(every)
    # the aligned arm and best-of-N each have what stands for them and their best, and the native
    assert len(asked) == len(set(asked)) <= 4 + 2 * (REFERENCES + TOP) + 1
    known = {r["sequence"] for r in table(some / "rejected.csv") if r["prior"]}
    assert known <= set(asked)
    assert any(not r["prior"] for r in table(some / "rejected.csv"))


def test_all_of_an_arm_is_told_by_draws_and_not_by_its_best(ran):
    folder, _ = ran(TOP_4)
    drawn = [r for r in table(folder / "baselines.csv") if r["method"] == "best_of_n"]
    step = len(drawn) / REFERENCES
    stand_in = [float(drawn[int(i * step)]["prior"]) for i in range(REFERENCES)]
    rows = json.loads((folder / "summary.json").read_text())["rows"]
    mean = next(r["prior"] for r in rows if r["row"] == "unguided")
    assert mean == pytest.approx(sum(stand_in) / REFERENCES, abs=1e-4)
    known = [float(r["prior"]) for r in drawn if r["prior"]]
    assert len(known) > REFERENCES
    assert mean != pytest.approx(sum(known) / len(known), abs=1e-4)


def test_a_choice_by_likelihood_is_that_among_all(ran, tmp_path, monkeypatch):
    monkeypatch.setattr("seqalign.campaign.select.render", lambda _, s: s.name)
    whole = shutil.copytree(ran()[0], tmp_path / "whole")
    every = sorted(float(r["prior_per_residue"]) for r in table(whole / "designs.csv"))
    bound = every[len(every) // 2]
    by = f"select.filters=[seq_recovery > 0.2, prior_per_residue > {bound}]"
    for options in ((by, "select.top=3"), ("select.rank_by=prior", "select.top=3", by)):
        folder, _ = ran(*options)
        assert call("select", whole, *sets(options)).exit_code == 0
        kept = table(folder / "designs.csv")
        assert kept == table(whole / "designs.csv")
        assert len(kept) == 3
        reasons = {r["sequence"]: r["reason"] for r in table(folder / "rejected.csv")}
        assert reasons == {r["sequence"]: r["reason"] for r in table(whole / "rejected.csv")}
    assert not any("not known" in r for r in reasons.values())


def test_switched_off_nothing_is_asked_and_everything_else_stays(ran, place):
    (whole, _), (off, asked) = ran(), ran(OFF)
    assert asked == []
    for name in ("designs.csv", "rejected.csv", "baselines.csv"):
        assert table(off / name) == without(table(whole / name))
    text = (off / "designs.fasta").read_text()
    assert "score=" not in text
    assert text.count("seq_recovery=") == text.count(">") - 1
    summary = json.loads((off / "summary.json").read_text())
    assert "evaluation" not in summary["network_calls"]
    assert "prior_orders" not in summary
    assert not any("prior" in key for row in summary["rows"] for key in row)
    said = words(call("check", place, "--set", OFF))
    assert "evaluation" not in said
    assert "evaluation" in words(call("check", place))


def test_switched_off_every_page_and_table_says_so(ran, place):
    off, _ = ran(OFF)
    assert call("report", off).exit_code == 0
    page = (off / "report.html").read_text()
    assert "Log-likelihoods were switched off (output.likelihoods: false)." in page
    assert "log-lik." not in page
    scored = call("score", off / "designs.fasta", "-c", place, "--set", OFF)
    assert "no columns prior and prior_per_residue: the campaign has output" in words(scored)
    assert "prior" not in scored.stdout
    asked = call("score", off / "designs.fasta", "-c", place, "--set", OFF, "--prior").stdout
    row = next(csv.DictReader(asked.splitlines()))
    assert math.isfinite(float(row["prior_per_residue"]))
    side = words(call("compare", ran()[0], off))
    assert "Some of the runs have no log-likelihoods" in side
    assert "nats/residue" in side
    refused = call("select", off, "--set", "select.rank_by=-prior")
    assert refused.exit_code == 2
    assert "output.likelihoods was false" in words(refused)


@pytest.mark.parametrize("change", ["select.rank_by=-prior", "select.filters=[prior < 0]"])
def test_a_choice_by_what_is_switched_off_is_refused(place, change, tmp_path):
    text = place.read_text() + "\noutput: {likelihoods: false}\n"
    path = tmp_path / "off.yaml"
    path.write_text(text)
    refuses(path, change, ["with output.likelihoods: false designs have no prior", "Leave one"])


def test_choosing_again_says_what_is_not_known(ran, monkeypatch):
    monkeypatch.setattr("seqalign.campaign.select.render", lambda _, s: s.name)
    folder, _ = ran(TOP_4, "seed=3")
    before = {r["sequence"]: r["prior"] for r in table(folder / "designs.csv")}
    result = call("select", folder, "--set", "select.top=40")
    assert result.exit_code == 0, result.output
    kept = table(folder / "designs.csv")
    unknown = [r for r in kept if not r["prior"]]
    assert 0 < len(unknown) < len(kept) == 40
    assert before.items() <= {r["sequence"]: r["prior"] for r in kept}.items()
    assert f"{len(unknown)} of them have no log-likelihood and no score" in words(result)
    headers = [x for x in (folder / "designs.fasta").read_text().splitlines() if x[0] == ">"]
    assert sum("score=" not in x for x in headers) == len(unknown)
    for option in ("select.rank_by=prior", "select.filters=[prior_per_residue > -9]"):
        refused = call("select", folder, *sets([option]))
        assert refused.exit_code == 2
        assert "designs have no prior" in words(refused)
        assert "--fresh" in words(refused)
    assert table(folder / "designs.csv") == kept
