import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Literal

import pytest
import toy_plugin
import yaml

import seqalign as sa
from seqalign import build, registry
from seqalign.build import settable
from seqalign.campaign.letters import Letters
from seqalign.core.proposal import Base, Proposal, Tilted
from seqalign.core.selection import Keep, OneChild, Resample, Selection, TopK
from seqalign.core.tempering import Adaptive, Linear, Tempering
from seqalign.core.value import PosteriorSample
from seqalign.entries import load


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


def varied(part):
    """Return a dataclass with every plain number and flag of it, nested ones included, moved."""
    moved = {}
    for f in (f for f in fields(part) if f.init and f.repr):
        now = getattr(part, f.name)
        if is_dataclass(now):
            moved[f.name] = varied(now)
        elif isinstance(now, bool):
            moved[f.name] = not now
        elif isinstance(now, (int, float)):
            moved[f.name] = now + 1 if isinstance(now, int) else 0.5 * now
    return replace(part, **moved)


def every_strategy(hint):
    """Yield every registered strategy of an annotation, as it is and with all numbers moved."""
    kind = build.kind_of(hint)
    for name in registry.names(kind) if kind else ():
        strategy = load(kind, name)()
        yield from (strategy, varied(strategy))


@pytest.mark.parametrize("name", registry.names("method"))
def test_building_from_the_mapping_is_the_identity(name):
    plain = registry.build_method(name, {})
    methods = [plain, varied(plain)]
    for key, hint in settable(type(plain)).items():
        methods += [replace(plain, **{key: strategy}) for strategy in every_strategy(hint)]
    for method in methods:
        mapping = registry.to_mapping(method)
        # as it is after a trip through a file
        mapping = yaml.safe_load(yaml.safe_dump(mapping))
        assert mapping.pop("name") == name
        assert registry.build_method(name, mapping) == method


@dataclass(frozen=True)
class Inner:
    size: int = 3
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Other:
    rate: float


@dataclass(frozen=True)
class Outer:
    """Every shape of annotation that a field may have."""

    needed: float
    tempering: Tempering | None = None
    proposal: Proposal | None = None
    selection: Selection = Keep()
    schedule: float | Tempering = 1.0
    one: Inner | None = None
    either: Inner | Other = Inner()
    many: tuple[Tempering, ...] = ()
    pair: tuple[int, Inner] = (1, Inner())
    words: tuple[str, ...] | None = None
    whole: int | None = None
    mode: Literal["x", "y"] | None = None
    ready: bool = False


@pytest.mark.parametrize(
    "outer",
    [
        Outer(0.5),
        Outer(1.0, Adaptive(0.6), Tilted(scale=2.0), OneChild(then=Resample("systematic"))),
        Outer(1.0, schedule=Linear(2.0), one=Inner(4, "b"), either=Other(0.1)),
        Outer(1.0, many=(Linear(), Adaptive()), pair=(2, Inner(5)), words=("a", "b"), whole=7),
        Outer(1.0, proposal=Base(), selection=TopK(), mode="y", ready=True, words=()),
    ],
)
def test_any_dataclass_comes_back_from_its_plain_values(outer):
    mapping = yaml.safe_load(yaml.safe_dump(build.plain(outer)))
    assert build.make(Outer, mapping) == outer


@pytest.mark.parametrize(
    ("given", "path", "words"),
    [
        ({}, ("needed",), "Outer needs 'needed'"),
        ({"needed": 1, "one": {"sise": 3}}, ("one", "sise"), "Did you mean 'size'"),
        ({"needed": 1, "one": {"size": 1.5}}, ("one", "size"), "a whole number"),
        ({"needed": 1, "one": {"kind": "c"}}, ("one", "kind"), "Known: a, b"),
        ({"needed": 1, "either": {"rate": 3}}, ("either",), "needs a name. Known: Inner, Other"),
        ({"needed": 1, "schedule": True}, ("schedule",), "True is no tempering"),
        ({"needed": 1, "many": ["linear", 3]}, ("many", 1), "3 is no tempering"),
        ({"needed": 1, "many": "linear"}, ("many",), "does not fit"),
        ({"needed": 1, "pair": [1]}, ("pair",), "give 2 values"),
        ({"needed": 1, "tempering": {"name": ["linear"]}}, ("tempering",), "is no tempering"),
        ({"needed": None}, ("needed",), "None does not fit: give a number"),
        ({"needed": 1, "ready": 1}, ("ready",), "true or false"),
    ],
)
def test_wrong_plain_values_say_where_and_what(given, path, words):
    with pytest.raises(registry.SpecError, match=re.escape(words)) as caught:
        build.make(Outer, given)
    assert caught.value.path == path


def test_an_unregistered_strategy_has_no_mapping():
    @dataclass(frozen=True)
    class Mine(Linear):
        pass

    method = sa.load_method("smc", tempering=Mine())
    assert method.tempering == Mine()
    with pytest.raises(registry.SpecError, match=r"Mine is no registered tempering.*temperings"):
        registry.to_mapping(method)


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
        kinds = getattr(method, "kinds", ("discrete",))
        if not {"discrete", "revealing"} & set(kinds):
            with pytest.raises(TypeError, match="continuous"):
                Letters().rehearse(method, model, reward, 2)
            continue
        counted = Letters().rehearse(method, model, reward, 6)
        result = sa.sample(model, reward, name, particles=6, alpha=1.0, seed=1)
        # one position a step: the state that all start from is a call that no particle makes alone
        off = 3 if "revealing" in kinds else 0
        assert abs(result.samples.network_calls - counted.network * 6) <= off, name
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


# plugins that fail --------------------------------------------------------------------------------

BAD = {
    "raises.py": "raise RuntimeError('no license\\nfor today')",
    "leaves.py": "import sys\nsys.exit(0)",
    "three.py": "F = 3",
    "heavy.py": "import a_package_that_is_not_there",
    "broken/__init__.py": "1 / 0",
    "broken/part.py": "",
    "needy/__init__.py": "import another_package_that_is_not_there",
    "mine.py": """
from seqalign.core.callables import function

def charge():
    return function(lambda s: [99.0] * len(s), "charge")

class Bare:
    alpha = 1.0
""",
}
BAD_POINTS = """[seqalign.rewards]
raises = raises:make
leaves = leaves:make
three = three:F
absent = mine:nothing
heavy = heavy:make
parent = broken.part:make
needy = needy:make
charge = mine:charge
good = mine:charge

[seqalign.models]
left = leaves:make

[seqalign.methods]
das = mine:Bare
bare = mine:Bare
"""


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    root = tmp_path_factory.mktemp("bad")
    for name, code in BAD.items():
        path = root / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
    info = root / "site" / "bad_lab-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bad-lab\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(BAD_POINTS)
    return root


def seqalign(bad: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    env = os.environ | {
        "PYTHONPATH": f"{bad / 'site'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    }
    command = [sys.executable, "-m", "seqalign.cli.main", *map(str, arguments)]
    return subprocess.run(command, cwd=bad, env=env, capture_output=True, text=True)


ENDS = {
    "raises": "cannot be imported: RuntimeError: no license for today.",
    "leaves": "cannot be imported: its module calls sys.exit(0).",
    "three": "(three:F) is 3; a reward is a class or a function.",
    "absent": "(mine:nothing) is not there: mine has no 'nothing'.",
    "heavy": "Install what provides 'a_package_that_is_not_there'",
    "needy": "Install what provides 'another_package_that_is_not_there'",
    "parent": "cannot be imported: ZeroDivisionError: division by zero.",
}


def test_a_plugin_that_fails_is_named_in_one_sentence(bad):
    path = bad / "c.yaml"
    text = (
        "version: 1\nname: c\nmodel: {name: pdz-mini}\nrewards: {a: {oracle: ORACLE}}\n"
        "sampler: {name: smc}\n"
    )
    for name in ("leaves", "raises"):
        path.write_text(text.replace("ORACLE", name))
        done = seqalign(bad, "check", path)
        assert done.returncode == 2, done
        assert done.stderr.count("error:") == len(done.stderr.splitlines()) == 1
        assert (
            f"c.yaml:4: rewards.a.oracle: The reward {name!r} of package 'bad-lab'" in done.stderr
        )
        assert ENDS[name] in done.stderr


def test_doctor_lists_what_fails_and_what_is_not_used(bad):
    done = seqalign(bad, "doctor", "--json")
    assert done.returncode == 4, done
    problems = json.loads(done.stdout)["problems"]
    for name, end in ENDS.items():
        (said,) = [p for p in problems if f"{name!r} of package 'bad-lab'" in p]
        assert end in said
    assert any(p.startswith("The model 'left' of package 'bad-lab'") for p in problems)
    assert any("'bare'" in p and "a method is a frozen dataclass" in p for p in problems)
    for name in ("charge", "das"):
        (said,) = [p for p in problems if f"is not used as {name!r}" in p]
        assert "belongs to 'seqalign'" in said
    assert len(problems) == len(ENDS) + 4


def test_the_others_work_and_no_name_is_taken(bad, monkeypatch):
    monkeypatch.syspath_prepend(str(bad / "site"))
    for name in ENDS:
        with pytest.raises(registry.SpecError, match="of package 'bad-lab'"):
            sa.load_reward(name)
    for name in ("parent", "needy"):
        assert "bad-lab" in registry.describe("reward", name), "no traceback from its card either"
    assert sa.load_reward("good")(sa.Designs.of(["MK"], sa.PROTEIN)).item() == 99.0
    with pytest.warns(UserWarning, match="is not used as 'charge'"):
        assert sa.load_reward("charge")(sa.Designs.of(["MK"], sa.PROTEIN)).item() < 2
    with pytest.warns(UserWarning, match="is not used as 'das'"):
        assert sa.load_method("das").consistent
    assert "emoji-mini" not in registry.takers("model", "structure")
    assert "proteinmpnn" in registry.takers("model", "structure")
