import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from commands import campaign_of, exchanged, sets

from seqalign.campaign.check import check as prepare
from seqalign.campaign.estimate import estimate
from seqalign.campaign.run import run
from seqalign.campaign.store import RunFolder
from seqalign.campaign.summary import to_json
from seqalign.campaign.yaml import CampaignError, read


@pytest.fixture
def campaign(tmp_path):
    with campaign_of(tmp_path) as path:
        yield path


def _plan(path, *overrides):
    return prepare(*read(path, overrides))


def test_yaml_follows_version_1_2(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(
        "version: 1\nname: NO\n"
        "model: {name: on, a: 1e-3, b: 1:56, c: 010, d: yes, e: 2024-01-01, f: ~}\n"
        "rewards: {r: {oracle: off, weight: 1}}\n"
    )
    campaign, _ = read(path)
    assert campaign.name == "NO"
    assert campaign.model.name == "on"
    assert campaign.model.model_extra == {
        "a": 0.001,
        "b": "1:56",
        "c": 10,
        "d": "yes",
        "e": "2024-01-01",
        "f": None,
    }
    assert campaign.rewards["r"].oracle == "off"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("version: 1\nversion: 1\n", "c.yaml:2: version: the key is given twice (first in line 1)"),
        ("a: [1\n", "c.yaml:2: this is not YAML"),
        ("- 1\n", "a campaign is a mapping"),
        ("", "a campaign is a mapping"),
        ("a: &a [*a]\n", "alias"),
        ("a: !!python/object:os.system x\n", "cannot read"),
        ("? [1]\n: 2\n", "a key must be plain text"),
    ],
)
def test_bad_yaml_names_the_line(tmp_path, text, words):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(CampaignError) as caught:
        read(path)
    assert words in str(caught.value)


def test_errors_point_at_the_line(campaign):
    line = exchanged(campaign, "alpha: 0.8", "alhpa: 0.8")
    with pytest.raises(CampaignError, match=rf"c\.yaml:{line}: sampler\.alhpa: .*'alpha'"):
        _plan(campaign)


def test_every_problem_of_the_schema_is_listed(campaign):
    with pytest.raises(CampaignError) as caught:
        read(campaign, ["sead=1", "seed=NO", "output.fasta_style=pdf"])
    assert len(str(caught.value).splitlines()) == 3


def test_the_resolved_file_says_everything(campaign):
    config = _plan(campaign, "rewards.a.clip=[-1, 2]").config
    assert config["resolved"]["wild_type"] == "MKTAYIAKQRQW"
    assert config["resolved"]["steps"] == 11
    assert config["resolved"]["sampler"]["resample"] == {
        "scheme": "ssp",
        "ess_below": 0.75,
        "every": 1,
        "chains": None,
    }
    assert config["resolved"]["rewards"]["a"]["version"] == "0.3"
    assert config["rewards"]["a"]["clip"] == [-1, 2]


def test_baselines_get_the_same_network_calls(campaign):
    plan = _plan(campaign, "sampler.name=svdd", "sampler.branch=3", "baselines=[best_of_n, beam]")
    calls = {a.name: plan.rehearsals[a.name].network * a.particles for a in plan.arms}
    assert calls["aligned"] <= calls["best_of_n"] < calls["aligned"] + 11
    assert calls["aligned"] <= calls["beam"] < calls["aligned"] + 11 * 4


def test_estimates(campaign):
    plan = _plan(campaign)
    cost = estimate(plan)
    assert cost.network["aligned"] == cost.network["best_of_n"] == 2 * 12 * 11
    assert cost.seconds > 0
    assert cost.oracle["held"] == 49


def test_a_run_writes_its_folder(campaign, tmp_path):
    folder = RunFolder(tmp_path / "run")
    seen = []
    plan = _plan(campaign, "select.filters=[n_mut >= 3]", "select.top=8")
    summary = to_json(run(plan, folder, progress=lambda *step: seen.append(step)))
    assert {p.name for p in folder.path.iterdir() if not p.name.startswith(".")} == {
        "config.yaml",
        "designs.csv",
        "designs.fasta",
        "baselines.csv",
        "trace.jsonl",
        "rejected.csv",
        "summary.json",
        "report.html",
        "state",
    }
    rows = folder.read_csv("designs.csv")
    assert len(rows) == summary["designs"] == 8
    totals = [float(r["total"]) for r in rows]
    assert totals == sorted(totals, reverse=True)
    for row in rows:
        assert not plan.model.space.violations(row["sequence"])
        assert int(row["n_mut"]) == len(row["mutations"].split(":")) >= 3
        scaled = float(row["a_scaled"]) + float(row["b_scaled"])
        assert float(row["total"]) == pytest.approx(scaled, abs=1e-4)
    reasons = {r["reason"].split(" (")[0] for r in folder.read_csv("rejected.csv")}
    assert reasons <= {"filter: n_mut >= 3", "below the top 8"}
    assert summary["designs"] + summary["rejected"] == summary["distinct"]
    trace = folder.read_lines("trace.jsonl")
    assert all(t["failed_values"] == t["failed_gradients"] == 0 for t in trace)
    assert sum(t["network_calls"] for t in trace if t["arm"] == "aligned") == plan.network_calls / 2
    assert summary["network_calls"]["aligned"] == summary["network_calls"]["best_of_n"]
    assert [r["row"] for r in summary["rows"]] == [
        "wild type",
        "unguided",
        "best of 24",
        "aligned",
        "aligned",
    ]
    assert summary["zscore"]["a"]["std"] > 0
    lines = folder.path.joinpath("designs.fasta").read_text().splitlines()
    assert lines[2].startswith(">T=1, sample=1, score=")
    assert "seq_recovery=" in lines[2]
    assert seen
    # a finished run is only read
    count = len(seen)
    assert run(plan, folder, progress=lambda *step: seen.append(step)).designs == 8
    assert len(seen) == count


def _files(folder):
    names = ("designs.csv", "designs.fasta", "baselines.csv", "rejected.csv", "trace.jsonl")
    return {n: (folder.path / n).read_bytes() for n in names}


def test_a_run_that_lost_an_island_gives_the_same_designs(campaign, tmp_path):
    folder = RunFolder(tmp_path / "run")
    plan = _plan(campaign)
    run(plan, folder)
    before = _files(folder)
    (folder.path / "summary.json").unlink()
    (folder.path / "state" / "aligned-00001.safetensors").unlink()
    (folder.path / "state" / "best_of_n-00000.safetensors").unlink()
    run(_plan(campaign), folder)
    assert _files(folder) == before


def test_a_killed_process_continues_to_the_same_designs(campaign, tmp_path):
    """Kill a subprocess in the middle, run again, compare with an undisturbed run."""
    whole, killed = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "killed")
    overrides = [
        "rewards.s.oracle=toy-slow",
        "sampler.name=smc",
        "sampler.islands=4",
        "baselines=[]",
    ]
    run(_plan(campaign, *overrides), whole)
    path = os.pathsep.join([str(tmp_path / "plugin"), os.environ.get("PYTHONPATH", "")])
    command = [
        sys.executable,
        "-m",
        "seqalign.cli.main",
        "run",
        str(campaign),
        "--out",
        str(killed.path),
    ]
    command += sets(overrides)
    process = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 90
    while not list(killed.path.glob("state/aligned-*.safetensors")):
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stderr is not None
    process.stderr.close()
    assert not killed.done
    assert len(list(killed.path.glob("state/*.safetensors"))) < 4
    run(_plan(campaign, *overrides), killed)
    assert _files(killed) == _files(whole)


def test_a_changed_campaign_needs_fresh(campaign, tmp_path):
    folder = RunFolder(tmp_path / "run")
    run(_plan(campaign, "sampler.islands=1", "baselines=[]"), folder)
    plan = _plan(campaign, "sampler.islands=1", "baselines=[]", "sampler.alpha=0.4")
    with pytest.raises(ValueError, match=r"alpha was 0\.8 and is now 0\.4.*--fresh"):
        run(plan, folder)
    assert run(plan, folder, fresh=True).designs


def test_rewards_of_every_kind(campaign, tmp_path):
    (tmp_path / "mine.py").write_text("def tryptophans(s):\n    return [x.count('W') for x in s]\n")
    data = yaml.safe_load(campaign.read_text())
    data["rewards"] = {
        "w": {"python": "mine.py:tryptophans", "weight": 0.5},
        "k": {
            "command": "sh -c \"grep -v '>' $0 | awk '{print gsub(/K/, 1)}'\" {fasta}",
            "role": "final",
        },
    }
    data["sampler"] = {"name": "smc", "islands": 1, "particles": 8}
    data["select"] = {"rank_by": "pareto", "diversity": {"min_mutations_apart": 2}}
    campaign.write_text(yaml.safe_dump(data))
    folder = RunFolder(tmp_path / "run")
    summary = to_json(run(_plan(campaign), folder))
    rows = folder.read_csv("designs.csv")
    assert summary["finals"] == ["k"]
    for row in rows:
        assert float(row["w"]) == row["sequence"].count("W")
        assert float(row["k"]) == row["sequence"].count("K")
    for i, a in enumerate(rows):
        for b in rows[:i]:
            assert sum(x != y for x, y in zip(a["sequence"], b["sequence"], strict=True)) >= 2


def test_rejected_designs_are_never_kept(campaign, tmp_path):
    (tmp_path / "mine.py").write_text(
        "def no_k(s):\n    return [float('nan') if 'K' in x[2:] else 1.0 for x in s]\n"
    )
    data = yaml.safe_load(campaign.read_text())
    data["rewards"] = {"n": {"python": "mine.py:no_k", "on_failure": "reject"}}
    data["sampler"] = {"name": "best_of_n", "islands": 2, "particles": 16}
    data["constraints"] = {}
    campaign.write_text(yaml.safe_dump(data))
    folder = RunFolder(tmp_path / "run")
    summary = to_json(run(_plan(campaign), folder))
    assert not any("K" in r["sequence"][2:] for r in folder.read_csv("designs.csv"))
    assert summary["rejected"] > 0
    assert {r["reason"] for r in folder.read_csv("rejected.csv")} == {"rejected by n"}
