import json
import re

import pytest
import toy_plugin
import yaml
from commands import call, campaign_of, refuses, words
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    with campaign_of(folder) as path:
        (folder / "empty.fasta").write_text("")
        (folder / "two.fasta").write_text(">a\nMKT\n>b\nMKT\n")
        (folder / "wild.fasta").write_text(">a\nMKTAYIAKQRQF\n")
        yield path


WRONG = {
    "sampler.alhpa=1": ["sampler.alhpa", "'alpha'"],
    "sampler.alpha=-1": ["sampler", "alpha must be > 0, got -1"],
    "sampler.alpha=x": ["sampler.alpha", "a number"],
    "sampler.name=das2": ["sampler.name", "'das'"],
    "sampler.tempering=adptive": ["sampler.tempering", "'adaptive'"],
    "sampler.resample.scheme=sp": ["sampler.resample.scheme", "'ssp'"],
    "sampler.particles=0": ["sampler.particles", "0"],
    "rewards.a.orcale=x": ["rewards.a.orcale", "unknown key", "'oracle'"],
    "rewards.a.oracle=toy-lineer": ["rewards.a.oracle", "'toy-linear'"],
    "rewards.a.oracle=toy-nan": ["rewards.a", "is nan", "on_failure: reject"],
    "rewards.a.oracle=toy-shape": ["rewards.a", "shape (3,)", "one number per design"],
    "rewards.a.scale=zscoer": ["rewards.a.scale", "'zscore'"],
    "rewards.a.clip=[2, 1]": ["rewards.a.clip", "lo must not exceed hi"],
    "rewards.b.params.sed=1": ["rewards.b.params.sed", "'seed'"],
    "rewards.a.weight=0": ["rewards.a.weight", "role: final"],
    "rewards.a.command=ls": ["rewards.a", "exactly one"],
    "rewards.c.command=ls": ["rewards.c.command", "{fasta}"],
    "rewards.c.python=nofile.py:f": ["rewards.c.python", "no file"],
    "rewards.total.oracle=toy-linear": ["rewards.total", "column"],
    "rewards={}": ["rewards", "at least one"],
    "constraints.omitt=C": ["constraints.omitt", "'omit'"],
    "constraints.omit=B": ["constraints.omit", "'B'"],
    "constraints.omit=ACDEFGHIKLMNPQRSTVWY": ["constraints.omit", "no letter is allowed at"],
    "constraints.omit=KTAYI": ["constraints.max_mutations", "smallest feasible value is 7"],
    "constraints.max_mutations=-1": ["constraints.max_mutations", "-1"],
    "constraints.residues.A3.allow=B": ["constraints.residues.A3", "'B' at 'A3'"],
    "constraints.residues.A3.alow=B": ["constraints.residues.A3.alow", "'allow'"],
    "constraints.residues.A99.omit=P": ["constraints.residues.A99", "positions 1-12"],
    "constraints.forbid=['(']": ["constraints.forbid", "'('"],
    "constraints.net_charge={min: 3, max: 1}": ["constraints.net_charge", "3", "1"],
    "constraints.residues.A3.bias.B=1": ["constraints.residues.A3", "'B'"],
    "constraints.tie=[[A99, A3]]": ["constraints.tie", "99"],
    "constraints.homo_oligomer=[[A, B]]": ["constraints.homo_oligomer", "'A'"],
    "constraints.composition.A.min=2": ["constraints.composition.A", "2"],
    "constraints.composition.A.mx=1": ["constraints.composition.A.mx", "unknown key", "'max'"],
    "constraints.net_charge.max=2.5": ["constraints.net_charge.max", "2.5", "a valid integer"],
    "constraints.max_homopolymer=0": ["constraints.max_homopolymer", "0"],
    "design.proteinmpnn.tied=x": ["design.proteinmpnn", "input.structure"],
    "input.structure=a.pdb": ["input.structure", "a.pdb"],
    "input.chains=[A]": ["input.chains", "input.structure"],
    "design.residues=99": ["design.residues", "positions 1-12"],
    "design.fix=5-2": ["design.fix", "Did you mean 2-5"],
    "design.fix=1-12": ["design", "Nothing is left to design"],
    "input.wild_type=MKT": ["input.wild_type", "3 letters", "designs 12"],
    "input.wild_type=MKTAYIAKQRQB": ["input.wild_type", "position 12 is 'B'"],
    "input.wild_type=empty.fasta": ["input.wild_type", "empty.fasta is empty"],
    "input.wild_type=two.fasta": ["input.wild_type", "2 sequences"],
    "input.wild_type=none.fasta": ["input.wild_type", "no file"],
    "model.name=toi": ["model.name", "'toy'"],
    "model.name=toy-broken": ["model.name", "cannot be imported"],
    "model.temprature=2": ["model.temprature", "'temperature'"],
    "model.steps=3": ["model.steps", "steps >= 11"],
    "model.device=cuda": ["model.device", "'auto'"],
    "seed=NO": ["seed", "'NO'"],
    "version=2": ["version", "choose 1"],
    "name=../x": ["name", "letters, digits"],
    "baselines=[best_of]": ["baselines.0", "'best_of_n'"],
    "budget.calls.network=10": ["budget.calls.network", "needs 528"],
    "budget.designs=100": ["budget.designs", "9 islands"],
    "select.filters=[seq_recvery < 1]": ["select.filters.0", "'seq_recovery'"],
    "select.filters=[n_mut is 1]": ["select.filters.0", "COLUMN < NUMBER"],
    "select.rank_by=totl": ["select.rank_by", "'total'"],
    "sead=3": ["sead", "'seed'"],
    "nonsense": ["key.path=value"],
}


@pytest.mark.parametrize("change", WRONG)
def test_bad_input_stops_with_place_value_and_cure(campaign, change):
    refuses(campaign, change, WRONG[change])


def test_bad_input_starts_nothing(campaign, tmp_path):
    result = call("run", campaign, "--set", "rewards.a.oracle=toy-nan", "--out", tmp_path / "x")
    assert result.exit_code == 2
    assert not (tmp_path / "x").exists()


def test_a_missing_file(tmp_path):
    result = call("check", tmp_path / "none.yaml")
    assert result.exit_code == 2
    assert "there is no such file" in words(result)


def test_a_gradient_method_without_a_gradient_names_the_others(campaign):
    result = call("check", campaign, "--set", "rewards.c.oracle=toy-slow")
    assert result.exit_code == 2
    assert "gradient-free" in words(result)


def test_a_reward_that_fails_late_keeps_what_is_done(campaign, tmp_path):
    argv = ["run", campaign, "--set", "rewards.c.oracle=toy-late", "--set", "sampler.name=smc"]
    result = call(*argv, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "Reward 'c' is nan" in words(result)


def test_check_draws_the_design_map(campaign):
    result = call("check", campaign, "--set", "constraints.residues.3-4.allow=AT")
    assert result.exit_code == 0, result.output
    assert "MKTAYIAKQRQW\n  .*++********" in result.output
    assert "3-4: AT" in result.output
    assert "network calls" in result.output
    data = json.loads(call("check", campaign, "--json").output)
    assert data["free"] == 11
    assert data["network_calls"]["aligned"] == 264


def test_a_wild_type_from_fasta(campaign):
    result = call("check", campaign, "--set", "input.wild_type=wild.fasta")
    assert result.exit_code == 0, result.output
    assert "MKTAYIAKQRQF" in result.output


def test_run_report_and_run_again(campaign, tmp_path):
    out = tmp_path / "run"
    result = call("run", campaign, "--out", out)
    assert result.exit_code == 0, result.output
    for part in ("wild type", "unguided", "best of 24", "aligned", "report.html"):
        assert part in result.output
    assert "already complete" in call("run", campaign, "--out", out).output
    (out / "report.html").unlink()
    assert call("report", out).exit_code == 0
    assert (out / "report.html").is_file()
    changed = call("run", campaign, "--out", out, "--set", "seed=6")
    assert changed.exit_code == 2
    assert "--fresh" in changed.output
    data = json.loads(
        call("run", campaign, "--out", out, "--set", "seed=6", "--fresh", "--json").stdout
    )
    assert data["seed"] == 6


def test_nothing_passed_is_exit_3_with_a_report(campaign, tmp_path):
    result = call("run", campaign, "--out", tmp_path / "r", "--set", "select.filters=[n_mut > 90]")
    assert result.exit_code == 3
    assert "nothing passed" in words(result)
    assert "Nothing passed" in (tmp_path / "r" / "report.html").read_text()


def test_an_interrupt_is_exit_5_and_resumable(campaign, tmp_path, monkeypatch):
    import seqalign.campaign.run as outcome

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(outcome, "_finish", stop)
        result = call("run", campaign, "--out", tmp_path / "r")
    assert result.exit_code == 5
    assert "Continue with" in result.output
    assert len(list((tmp_path / "r" / "state").glob("*.safetensors"))) == 4
    assert call("run", campaign, "--out", tmp_path / "r").exit_code == 0


def test_no_memory_is_exit_4(campaign, tmp_path, monkeypatch):
    import seqalign.campaign.run as outcome

    def stop(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9e9")

    monkeypatch.setattr(outcome, "run_arm", stop)
    result = call("run", campaign, "--out", tmp_path / "r")
    assert result.exit_code == 4
    assert "sampler.particles" in result.output


def test_a_bug_keeps_its_traceback(campaign, tmp_path, monkeypatch):
    import seqalign.campaign.run as outcome

    def stop(*_, **__):
        return {}["bug"]

    monkeypatch.setattr(outcome, "run_arm", stop)
    with pytest.raises(AssertionError, match="traceback") as caught:
        call("run", campaign, "--out", tmp_path / "r")
    assert isinstance(caught.value.__cause__, KeyError)


def test_catalogs(campaign):
    for kind, name in (("methods", "das"), ("rewards", "toy-linear"), ("models", "toy")):
        result = call(kind)
        assert result.exit_code == 0
        assert name in result.output
        assert name in json.loads(call(kind, "--json").output)
        assert call(kind, name).exit_code == 0
        assert call(kind, name + "x").exit_code == 2
    assert "kcal/mol" in call("rewards", "toy-linear").output
    assert "2501.05803" in call("methods", "das").output


def test_cite_is_what_is_used(campaign):
    text = call("cite", campaign).output
    for key in ("kim2025das", "uehara2025inference", "sahoo2024mdlm", "@article{toy"):
        assert key in text
    assert "li2024svdd" not in text
    assert text.count("@") == len(set(re.findall(r"@\w+\{(\w+)", text)))


def test_every_method_can_be_cited():
    from importlib.resources import files

    from seqalign.registry import names

    library = yaml.safe_load(files("seqalign").joinpath("data/references.yaml").read_text())
    assert set(library["methods"]) == set(names("method"))


def test_doctor_and_version(campaign):
    data = json.loads(call("doctor", "--json").output)
    assert data["packages"]["torch"] != "missing"
    assert any("toy-broken" in p for p in data["problems"])
    assert call("--version").output.startswith("seqalign ")


KEYS = st.sampled_from(
    """version name seed input design constraints model rewards sampler baselines budget select
    output residues fix omit oracle weight scale clip role params particles alpha tempering resample
    steps max_mutations wild_type filters rank_by a tilt value islands seeed""".split()
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 20),
    st.floats(allow_nan=True),
    st.text("A1-,. xNO:/{}[]\n'\"", max_size=8),
    st.sampled_from(["das", "toy", "toy-linear", "adaptive", "model", "A1-5", "guide", "holdout"]),
)
VALUES = st.recursive(
    LEAVES,
    lambda s: st.one_of(st.lists(s, max_size=3), st.dictionaries(KEYS, s, max_size=3)),
    max_leaves=6,
)


def _paths(data, path=()):
    if path:
        yield path
    items = (
        data.items()
        if isinstance(data, dict)
        else enumerate(data)
        if isinstance(data, list)
        else ()
    )
    for key, item in items:
        yield from _paths(item, (*path, key))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_mutation_of_a_campaign_gives_a_traceback(campaign, data):
    content = yaml.safe_load(toy_plugin.CAMPAIGN)
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(sorted(_paths(content), key=str)))
        target = content
        for key in path[:-1]:
            target = target[key]
        action = data.draw(st.sampled_from(["set", "delete", "add"]))
        if action == "delete":
            del target[path[-1]]
        elif action == "add" and isinstance(target, dict):
            target[data.draw(KEYS)] = data.draw(VALUES)
        else:
            target[path[-1]] = data.draw(VALUES)
        if not content:
            break
    # a reward that runs a program is not for a fuzzer
    path = campaign.with_name("fuzz.yaml")
    path.write_text(yaml.safe_dump(content))
    result = call("check", path)
    assert result.exit_code in (0, 2), result.output
    if result.exit_code == 2:
        assert "fuzz.yaml" in result.output


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_damaged_text_gives_a_traceback(campaign, data):
    text = toy_plugin.CAMPAIGN
    at = data.draw(st.integers(0, len(text)))
    junk = data.draw(st.text(st.characters(codec="utf-8"), max_size=5))
    cut = data.draw(st.integers(0, 12))
    path = campaign.with_name("fuzz.yaml")
    path.write_text(text[:at] + junk + text[at + cut :], encoding="utf-8")
    result = call("check", path)
    assert result.exit_code in (0, 2), result.output
