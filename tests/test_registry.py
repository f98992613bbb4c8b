import re
from dataclasses import fields

import pytest
import toy_plugin

import seqalign as sa
from seqalign import registry
from seqalign.campaign.letters import Letters
from seqalign.core.tempering import Adaptive
from seqalign.core.value import PosteriorSample


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(toy_plugin.install(tmp_path)))


def test_every_method_builds_and_round_trips():
    for name in registry.names("method"):
        method = sa.load_method(name)
        mapping = registry.to_mapping(method)
        assert mapping.pop("name") == name
        assert registry.build_method(name, mapping) == method
        assert set(mapping) == {f.name for f in fields(method)}


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("das", {"tempering": {"name": "adaptive", "ess": 0.6}, "tilt": {"scale": 2}}),
        ("das", {"value": {"name": "posterior_sample", "n": 4}, "resample": "systematic"}),
        ("das", {"tilt": {"through": "network", "scale": 1}}),
        ("fk_steering", {"potential": "max", "proposal": "base"}),
        ("fk_steering", {"potential": "sum", "proposal": {"name": "tilted", "scale": 0.5}}),
        ("smc", {"resample": {"scheme": "ssp", "ess_below": 0.5}, "tempering": "geometric"}),
    ],
)
def test_nested_fields_round_trip(name, params):
    method = registry.build_method(name, params)
    mapping = registry.to_mapping(method)
    assert registry.build_method(mapping.pop("name"), mapping) == method
    assert method != registry.build_method(name, {})


def test_short_and_long_forms_agree():
    a = sa.load_method("das", tempering="adaptive", value="posterior_sample")
    b = sa.load_method("das", tempering={"name": "adaptive"}, value={"name": "posterior_sample"})
    assert a == b == sa.load_method("das", tempering=Adaptive(), value=PosteriorSample())


@pytest.mark.parametrize(
    ("params", "path", "words"),
    [
        ({"alhpa": 1}, ("alhpa",), "alpha"),
        ({"alpha": "x"}, ("alpha",), "a number"),
        ({"alpha": True}, ("alpha",), "a number"),
        ({"tempering": "adptive"}, ("tempering",), "'adaptive'"),
        ({"tempering": {"name": "adaptive", "es": 0.5}}, ("tempering", "es"), "'ess'"),
        ({"tempering": {"ess": 0.5}}, ("tempering",), "name"),
        ({"tempering": {"name": "adaptive", "ess": 2}}, ("tempering",), "0 < ess < 1"),
        ({"resample": {"scheme": "sp"}}, ("resample", "scheme"), "ssp"),
        ({"tilt": {"through": "posteror"}}, ("tilt", "through"), "posterior"),
        ({"value": 3}, ("value",), "posterior_mean"),
    ],
)
def test_wrong_parameters_say_where_and_what(params, path, words):
    with pytest.raises(registry.SpecError, match=re.escape(words)) as caught:
        registry.build_method("das", params)
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: sa.load_method("dass"), "Did you mean 'das'"),
        (lambda: sa.load_reward("toy-lineer"), "Did you mean 'toy-linear'"),
        (lambda: sa.load_model("toyy"), "Did you mean 'toy'"),
        (lambda: sa.load_reward("toy-linear", sed=1), "Did you mean 'seed'"),
        (lambda: sa.load_model("toy", temprature=2.0), "Did you mean 'temperature'"),
        (lambda: sa.load_model("toy-broken"), "cannot be imported"),
        (lambda: sa.load_model("toy", steps=3), "steps >= 11"),
        (lambda: sa.load_model("toy", design="1-3", fix="1-3"), "Nothing is left"),
    ],
)
def test_unknown_names_name_the_nearest(plugin, call, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        call()


def test_models_keep_what_they_know_nothing_about(plugin):
    model = sa.load_model("toy")
    assert model.wild_type == "MKTAYIAKQRQW"
    assert model.space.fixed == "M" + "_" * 11  # position 1 is the model's `keep`
    assert model.process.steps == 11
    assert sa.load_model("toy", design="1-4").space.fixed == "____YIAKQRQW"
    assert sa.load_model("toy", fix={1: "A"}).space.fixed[0] == "A"
    assert sa.load_model("toy", order="parallel", steps=5).process.steps == 5


def test_cards_are_read_without_importing_the_module(plugin):
    import sys

    sys.modules.pop("toy_seqalign.parts", None)
    assert registry.card("reward", "toy-linear")["unit"] == "kcal/mol"
    assert "toy_seqalign.parts" not in sys.modules
    assert registry.card("reward", "toy-nan") == {
        "name": "toy-nan",
        "entry_point": "toy_seqalign.parts:nan",
    }
    assert registry.describe("method", "das").startswith("DAS")


def test_a_rehearsal_counts_exactly(plugin):
    model = sa.load_model("toy", max_mutations=4)
    reward = sa.load_reward("toy-linear")
    for name in registry.names("method"):
        method = sa.load_method(name)
        if "discrete" not in getattr(method, "kinds", ("discrete", "continuous")):
            with pytest.raises(TypeError, match="continuous"):
                Letters().rehearse(method, model, reward, 2)
            continue
        counted = Letters().rehearse(method, model, reward, 2)
        result = sa.sample(model, reward, name, particles=6, alpha=1.0, seed=1)
        assert result.samples.network_calls == counted.network * 6, name
        assert result.samples.reward_calls == counted.reward * 6, name
        assert len(result.trace) == counted.steps


def test_the_python_door(plugin, tmp_path):
    model = sa.load_model("toy", max_mutations=3, omit="C")
    reward = 1.0 * sa.load_reward("toy-linear").zscore() - 0.1 * sa.reward(
        lambda seqs: [s.count("W") for s in seqs], name="tryptophans"
    )
    with pytest.raises(TypeError, match="gradient-free"):
        sa.sample(model, reward, "das", particles=8)
    result = sa.sample(model, reward, "smc", particles=8, islands=2, alpha=0.5, seed=7)
    assert result.samples.designs.shape == (2, 8)
    assert result.log_z is not None
    assert result.log_z.shape == (2,)
    assert result.calibration_calls == 64 * 11
    best = result.best(5)
    assert best.rewards == sorted(best.rewards, reverse=True)
    assert not any(model.space.violations(s) for s in best.sequences)
    best.to_fasta(tmp_path / "a.fasta")
    best.to_csv(tmp_path / "a.csv")
    assert (tmp_path / "a.fasta").read_text().count(">") == len(best)
    assert (tmp_path / "a.csv").read_text().startswith("sample,sequence,mutations,reward,log_w\n")


def test_islands_do_not_depend_on_each_other(plugin):
    model, reward = sa.load_model("toy"), sa.load_reward("toy-linear")
    two = sa.sample(model, reward, "das", particles=8, islands=2, alpha=0.5, seed=3).samples
    one = sa.sample(model, reward, "das", particles=8, islands=1, alpha=0.5, seed=3).samples
    assert two.designs.sequences[0] == one.designs.sequences[0]
    assert (two.log_w[0] == one.log_w[0]).all()
    assert two.designs.sequences[1] != one.designs.sequences[0]


def test_commands_become_rewards(plugin, tmp_path):
    script = tmp_path / "score.sh"
    script.write_text("#!/bin/sh\ngrep -v '>' $1 | awk '{print gsub(/K/, \"\")}'\n")
    script.chmod(0o755)
    reward = sa.reward.command(f"{script} {{fasta}}")
    designs = sa.Designs.of(["MKK", "MMM"], sa.PROTEIN)
    assert reward(designs).tolist() == [[2.0, 0.0]]
