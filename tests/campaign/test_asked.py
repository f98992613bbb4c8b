"""`budget.designs`: a run goes on until it holds so many different draws from its target law, or
says how far it came; it stops at the same island whoever draws the islands, and when.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from checks import counts_are
from commands import call, campaign_of, sets, words

from seqalign.campaign.asked import LIGHT, NEAR, Asked, draws
from seqalign.campaign.check import check
from seqalign.campaign.run import run
from seqalign.campaign.schema import Campaign
from seqalign.campaign.select import select
from seqalign.campaign.status import status
from seqalign.campaign.store import RunFolder
from seqalign.campaign.summary import from_json, to_json
from seqalign.campaign.yaml import read
from seqalign.core.particles import Samples

BASE = ["sampler.islands=null", "budget.designs=30", "baselines=[]", "rewards.a.scale=none"]
FEW = [*BASE, "sampler.alpha=3", "sampler.islands=60", "constraints.max_mutations=1"]


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    with campaign_of(tmp_path_factory.mktemp("asked")) as path:
        yield path


@pytest.fixture(autouse=True)
def _quick_report(request, monkeypatch):
    """Drawing a report takes seconds."""
    if request.node.get_closest_marker("drawn") is None and "drawn" not in request.fixturenames:
        monkeypatch.setattr("seqalign.campaign.select.render", lambda *_: "")


@pytest.fixture
def drawn():
    """Asked for by tests that look at the report."""


def plan_of(campaign, *overrides, base=BASE):
    return check(*read(campaign, [*base, *overrides]))


def done(campaign, path, *overrides, base=BASE):
    folder = RunFolder(path)
    return folder, run(plan_of(campaign, *overrides, base=base), folder)


def files(folder):
    names = ("designs.csv", "designs.fasta", "baselines.csv", "rejected.csv", "trace.jsonl")
    return {n: (folder.path / n).read_bytes() for n in names}


def letters(folder):
    return [row["sequence"] for row in folder.read_csv("designs.csv")]


def differ(a: str, b: str) -> int:
    return sum(map(str.__ne__, a, b))


# the law ------------------------------------------------------------------------------------------


def samples_of(log_w, log_z=None) -> Samples:
    return Samples(None, torch.zeros_like(log_w), log_w, log_z)


def test_a_particle_is_a_draw_with_its_share_of_the_weight():
    log_w = torch.tensor([[0.0, -1.0, -3.0, -torch.inf], [2.0, 0.0, 0.5, 0.5]]).double()
    some = samples_of(log_w, torch.tensor([0.3, -0.9]).double())
    n = 4000
    counts = sum(draws(some, seed).long() for seed in range(n))
    share = (8 * some.weights).clamp(max=1)
    assert len(set(share.flatten().tolist())) > 4
    for count, p in zip(counts.flatten().tolist(), share.flatten().tolist(), strict=True):
        if 0 < p < 1:
            counts_are(
                torch.tensor([count, n - count]), torch.tensor([p, 1 - p], dtype=torch.float64)
            )
        else:
            assert count == n * p


def test_without_weights_every_particle_is_a_draw():
    assert all(
        bool(draws(samples_of(torch.zeros(3, 7).double()), seed).all()) for seed in range(50)
    )


def test_another_island_changes_draws_by_the_shares_alone():
    g = torch.Generator().manual_seed(1)
    log_w, log_z = torch.randn(5, 6, generator=g).double(), torch.zeros(5).double()
    all_ = samples_of(log_w, log_z)
    for islands in (1, 2, 4):
        part = samples_of(log_w[:islands], log_z[:islands])
        # of equal islands each has the share that it has alone
        assert torch.equal(draws(part, 3), draws(all_, 3)[:islands])


# runs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("apart", [0, 1, 4, 6])
def test_a_run_stops_with_the_first_island_that_makes_as_many(campaign, tmp_path, apart):
    option = f"select.diversity.min_mutations_apart={apart}"
    folder, summary = done(campaign, tmp_path / "run", option, "constraints.max_mutations=11")
    asked, kept = summary.asked, letters(folder)
    assert asked.found == len(kept) == summary.designs >= 30
    assert not asked.short
    assert asked.islands == len(summary.ess) <= asked.most == 24
    assert min(differ(a, b) for a, b in combinations(kept, 2)) >= max(apart, 1)
    near = [r["sequence"] for r in folder.read_csv("rejected.csv") if r["reason"].startswith(NEAR)]
    assert all(min(differ(s, k) for k in kept) < apart for s in near)
    assert near if apart == 6 else not near
    assert "30 different designs asked" in asked.sentence
    assert ("apart" in asked.sentence) == (apart > 1)
    if asked.islands > 3:
        fewer = f"sampler.islands={asked.islands - 1}"
        _, less = done(campaign, tmp_path / "less", option, "constraints.max_mutations=11", fewer)
        assert less.asked.found < 30
        assert less.asked.islands == less.asked.most == asked.islands - 1
        assert f"sampler.islands above {asked.islands - 1}" in less.asked.sentence
    # with room to spare it stops where it stopped
    folder_, more = done(
        campaign, tmp_path / "more", option, "constraints.max_mutations=11", "sampler.islands=30"
    )
    assert replace(more.asked, most=24) == asked
    assert files(folder_) == files(folder)


def test_what_counts_has_weight_and_the_rest_says_why(campaign, tmp_path):
    folder, summary = done(campaign, tmp_path / "run", "sampler.name=smc", "sampler.alpha=0.4")
    plan = plan_of(campaign, "sampler.name=smc", "sampler.alpha=0.4")
    parts = [folder.load_island("aligned", n, plan.model)[0] for n in range(summary.asked.islands)]
    log_z = torch.cat([p.log_z for p in parts])
    inner = torch.log_softmax(torch.cat([p.log_w for p in parts]), -1) + log_z[:, None]
    share = torch.softmax(inner.flatten(), 0) * inner.numel()
    sequences = [s for p in parts for s in p.designs.sequences[0]]
    sure = {s for s, w in zip(sequences, share.tolist(), strict=True) if w > 1 + 1e-9}
    light = {r["sequence"] for r in folder.read_csv("rejected.csv") if r["reason"] == LIGHT}
    assert light
    assert sure
    assert not light & sure
    assert light | {*letters(folder)} == {*sequences}


@pytest.mark.parametrize(
    "options",
    [
        ["select.filters=[n_mut > 2]", "select.diversity.min_mutations_apart=3"],
        ["sampler.name=svdd", "select.filters=[seq_recovery < 0.9]", "select.top=5"],
        ["constraints.max_mutations=1", "select.rank_by=pareto"],
        ["sampler.name=best_of_n", "sampler.alpha=0.3"],
    ],
)
def test_every_particle_is_accounted_for(campaign, tmp_path, options):
    folder, summary = done(campaign, tmp_path / "run", *options)
    asked, lost = summary.asked, summary.asked.lost
    assert asked.found + sum(lost.values()) == summary.drawn == 12 * asked.islands
    assert lost["within"] + lost["between"] == summary.drawn - summary.distinct
    reasons = [row["reason"] for row in folder.read_csv("rejected.csv")]
    assert lost["light"] == reasons.count(LIGHT)
    assert (asked.effective is None) == ("svdd" in options[0])
    top = 5 if "select.top=5" in options else asked.found
    assert summary.designs == min(top, asked.found)
    assert from_json(json.loads(json.dumps(to_json(summary)))) == summary


def test_few_sequences_are_said_to_be_few(campaign, tmp_path):
    """One mutation of eleven positions: 210 sequences, and hardly as many that carry weight."""
    folder, summary = done(campaign, tmp_path / "run", "budget.designs=300", base=FEW)
    asked = summary.asked
    assert asked.short
    assert asked.islands == asked.most == 60
    assert asked.found == len({*letters(folder)}) <= 210
    assert max(asked.lost, key=asked.lost.get) == "between"
    for part in (
        f"300 different designs asked, {asked.found} found, as draws from the target law",
        "in 60 islands, of 60 at most",
        f"Of 720 particles {asked.lost['within']:,} were copies",
        "More islands would find the same ones again",
        "constraints.max_mutations (now 1)",
    ):
        assert part in asked.sentence
    # asked for less than there are, the same campaign finds them
    _, easy = done(campaign, tmp_path / "easy", "budget.designs=20", base=FEW)
    assert not easy.asked.short
    assert easy.asked.islands < 20


def test_a_run_killed_at_every_island_finds_the_same_designs(campaign, tmp_path):
    options = [
        "baselines=[unguided]",
        "rewards.a.scale=zscore",
        "select.diversity.min_mutations_apart=3",
        "select.filters=[a_scaled > -9]",
    ]
    whole, summary = done(campaign, tmp_path / "whole", *options)
    killed, seen = RunFolder(tmp_path / "killed"), set()
    said = set()

    def once(arm, island, step):
        """Stop in the middle of every island that has not been begun before."""
        if (arm, island) not in seen and step.step == 5:
            seen.add((arm, island))
            raise KeyboardInterrupt

    for _ in range(100):
        try:
            again = run(plan_of(campaign, *options), killed, progress=once)
            break
        except KeyboardInterrupt:
            said.add(status(killed).asked)
    assert len([1 for arm, _ in seen if arm == "aligned"]) == summary.asked.islands > 3
    assert len([1 for arm, _ in seen if arm == "best_of_n"]) == summary.asked.islands
    assert files(killed) == files(whole)
    assert again.asked == summary.asked
    # what it found so far was told in between
    assert "30 different designs asked." in said
    for n in range(3, summary.asked.islands):
        assert any(text.endswith(f"found so far in {n} islands.") for text in said)


def test_choosing_again_counts_again(campaign, tmp_path):
    folder, summary = done(campaign, tmp_path / "run", "constraints.max_mutations=11")
    before = summary.asked
    assert select(folder, ["select.top=3"]).asked == before
    far = select(folder, ["select.diversity.min_mutations_apart=7"])
    assert far.designs == far.asked.found < 30
    assert "Lower select.diversity.min_mutations_apart (now 7)" in far.asked.sentence
    none = select(folder, ["select.filters=[n_mut < 0]"])
    assert none.asked.found == 0
    assert "first of all n_mut < 0" in none.asked.sentence
    assert select(folder).asked == before
    same = done(campaign, tmp_path / "same", "constraints.max_mutations=11")[0]
    assert files(same) == files(folder)


# words --------------------------------------------------------------------------------------------


def test_check_says_what_will_happen_and_the_most_it_may_cost(campaign):
    options = [*BASE, "baselines=[unguided]", "select.diversity.min_mutations_apart=3"]
    said = words(call("check", campaign, *sets(options)))
    for part in (
        "until 30 different designs of the target law pass the filters, any two at least 3",
        "3 islands at best, 24 at most (sampler.islands)",
        "3 to 24 × 12 particles",
        "Estimate for 3 islands",
        "At most, for 24 islands",
    ):
        assert part in said
    data = json.loads(call("check", campaign, "--json", *sets(options)).output)
    most = data["at_most"]
    assert (data["islands"], most["islands"]) == (3, 24)
    assert most["network_calls"]["aligned"] == 8 * data["network_calls"]["aligned"]
    assert most["oracle_calls"]["held"] > data["oracle_calls"]["held"]
    plain = json.loads(call("check", campaign, "--json").output)
    assert "at_most" not in plain


def test_calls_that_may_be_made_limit_the_islands(campaign, tmp_path):
    options = ["budget.designs=140", "sampler.alpha=0.3", "constraints.max_mutations=2"]
    one = plan_of(campaign).of(1).network_calls
    limit = f"budget.calls.network={14 * one + 3}"
    plan = plan_of(campaign, *options, limit)
    assert (plan.islands, plan.most, plan.limit) == (12, 14, "budget.calls.network")
    _, summary = done(campaign, tmp_path / "run", *options, limit)
    assert summary.asked.short
    assert summary.asked.islands == 14
    assert summary.network_calls["aligned"] <= 14 * one + 3
    assert "raise budget.calls.network" in summary.asked.sentence or (
        "find the same ones again" in summary.asked.sentence
    )
    result = call("check", campaign, *sets([*BASE, f"budget.calls.network={one}"]))
    assert result.exit_code == 2
    assert "budget.calls.network" in words(result)


def test_designs_are_counted_before_they_have_a_log_likelihood(campaign):
    for option in ("select.filters=[prior_per_residue > -3]", "select.rank_by=-prior"):
        result = call("check", campaign, *sets([*BASE, option]))
        assert result.exit_code == 2
        assert "budget.designs counts designs before they have a prior" in words(result)
        assert call("check", campaign, *sets([option])).exit_code == 0


def test_the_number_is_told_everywhere(campaign, tmp_path, drawn):
    for options, short in ([], False), (["sampler.islands=3", "sampler.alpha=0.2"], True):
        out = tmp_path / f"run-{short}"
        ran = call("run", campaign, "--out", out, *sets([*BASE, *options]))
        asked = RunFolder(out).summary().asked
        assert asked.short == short
        page = " ".join((out / "report.html").read_text().split())
        assert asked.sentence in page
        assert ("<b>Fewer designs than asked.</b>" in page) == short
        assert "<span>Find</span> 30 different designs" in page
        assert asked.sentence in words(ran)
        assert asked.sentence in words(call("status", out))
        data = json.loads(call("status", out, "--json").output)
        assert data["asked"] == asked.sentence
        assert data["islands"] == data["islands_done"] == asked.islands


LOST = ("within", "between", "light", "refused", "near")


@pytest.mark.parametrize("constraints", [{}, {"omit": "C"}, {"max_mutations": 2}])
@pytest.mark.parametrize("limit", ["sampler.islands", "budget.calls.network"])
@pytest.mark.parametrize("worst", LOST)
def test_a_sentence_names_settings_that_exist(worst, limit, constraints):
    model = {"version": 1, "name": "x", "model": {"name": "y"}, "constraints": constraints}
    campaign = Campaign.model_validate({**model, "rewards": {"a": {"oracle": "o"}}})
    reasons = [LIGHT] * (9 if worst == "light" else 1) + [f"{NEAR} 3 mutations"]
    reasons += [f"{NEAR} 3 mutations"] * 8 * (worst == "near")
    for refused in ("filter: n_mut < 3 (is 4)", "rejected by a", "constraint: a rule"):
        every = reasons + [refused] * (9 if worst == "refused" else 1)
        lost = {name: 9 if name == worst else 1 for name in ("within", "between")}
        asked = Asked(96, 8, 8, limit, 2.5, lost).after(campaign, 7, every)
        assert max(asked.lost, key=asked.lost.get) == worst
        named = re.findall(
            r"\b((?:sampler|select|constraints|rewards|budget|design)(?:\.\w+)+)", asked.sentence
        )
        assert named
        for path in named:
            _exists(path.split("."), constraints)
        assert asked.sentence.endswith(".")
        assert "is 4" not in asked.sentence


def _exists(path, constraints):
    section, *rest = path
    if section == "constraints":
        assert set(rest) <= set(constraints)
        return
    model = Campaign.model_fields[section].annotation
    for key in rest:
        fields = getattr(model, "model_fields", None)
        if fields is None or (section == "sampler" and key == "alpha"):
            return
        assert key in fields, path
        model = fields[key].annotation
