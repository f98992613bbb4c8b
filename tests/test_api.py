"""The Python door: what goes in, how a run stops and goes on, and what a result shows."""

from __future__ import annotations

import csv
import sys
import types
from pathlib import Path

import pytest
import torch
from torch.nn.functional import one_hot

import seqalign as sa
from seqalign.core.budget import OverBudget
from seqalign.core.process import Designs
from seqalign.load import Model
from seqalign.registry import SpecError

WILD = "MKTAYIAKQR"
NUMBERS = torch.Generator().manual_seed(0)
TABLE = torch.randn(len(WILD), 20, generator=NUMBERS, dtype=torch.float64)


class Lysines(sa.Reward):
    """The number of lysines, with its gradient."""

    name, unit, differentiable = "lysines", "residues", True

    def __call__(self, designs: Designs) -> torch.Tensor:
        return self.relaxed(one_hot(designs.x, 20).double())

    def relaxed(self, x: torch.Tensor) -> torch.Tensor:
        return x[..., sa.PROTEIN.letters.index("K")].sum(-1)


class Middle(sa.Reward):
    """Minus the distance of all values from one half."""

    name, differentiable = "middle", True

    def __call__(self, designs: Designs) -> torch.Tensor:
        return self.relaxed(designs.x)

    def relaxed(self, x: torch.Tensor) -> torch.Tensor:
        return -(x - 0.5).pow(2).flatten(2).mean(-1)


def masked(steps: int = len(WILD), name: str = "masked") -> sa.MaskedProcess:
    return sa.MaskedProcess(
        lambda x, t: TABLE.expand(*x.shape[:2], *TABLE.shape), sa.PROTEIN, len(WILD), steps,
        wild_type=WILD, name=name,
    )  # fmt: skip


def uniform() -> sa.UniformProcess:
    def network(x: torch.Tensor, t: float) -> torch.Tensor:
        return TABLE + 3 * (1 - t) * one_hot(x, 20)

    return sa.UniformProcess(network, sa.PROTEIN, len(WILD), 6)


def gaussian(*event: int, prompts: tuple[str, ...] | None = None) -> sa.GaussianProcess:
    return sa.GaussianProcess(lambda x, t: x / (1 + t), event, 4, prompts=prompts)


def space(**constraints: object) -> sa.DesignSpace:
    return sa.DesignSpace.build(sa.PROTEIN, len(WILD), wild_type=WILD, **constraints)


def letters(**constraints: object) -> Model:
    return Model.of(masked(), space(**constraints))


def count(letter: str):
    return lambda sequences: [s.count(letter) for s in sequences]


def fits(text: str) -> list[str]:
    lines = text.splitlines()
    assert len(lines) <= 25, text
    assert max(map(len, lines)) <= 120, text
    return lines


# what goes in -------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", [masked(), uniform()], ids=["masked", "uniform"])
@pytest.mark.parametrize("method", ["smc", "das"])
def test_a_bare_process_of_letters_takes_a_space(process, method):
    allowed = space(fix={1: "M"}, omit="CW", max_mutations=4)
    result = sa.sample(process, Lysines(), method, particles=16, alpha=0.5, space=allowed)
    best = result.best(5)
    assert len(best) == 5
    assert not any(allowed.violations(s) for s in best.sequences)
    assert best.rewards == [s.count("K") for s in best.sequences]
    assert all(len(m.split(":")) <= 4 for m in best.mutations())
    free = sa.sample(process, Lysines(), method, particles=16, alpha=0.5)
    assert free.best(5).mutations() == [""] * 5


def test_a_bare_gaussian_process_samples_vectors():
    result = sa.sample(gaussian(3), Middle(), "das", islands=2, particles=8, alpha=0.1)
    assert result.samples.designs.shape == (2, 8)
    assert list(result.best(2).rows()[0]) == ["sample", "reward", "log_w", "x1", "x2", "x3"]
    assert result.best(2).rows()[1]["x2"] == float(result.best(2).images[1, 1])
    with pytest.raises(TypeError, match="DesignSpace holds letters"):
        sa.sample(gaussian(len(WILD)), Middle(), "smc", particles=4, space=space(omit="C"))


def test_a_plain_function_is_a_reward():
    named = sa.reward(count("K"), name="lysines")
    for reward in (count("K"), named, 2.0 * named - 1.0 * named):
        result = sa.sample(letters(omit="C"), reward, "smc", particles=16, alpha=0.5, seed=3)
        assert result.best(1).rewards[0] == result.best(1).sequences[0].count("K")
    assert repr(result).splitlines()[1] == "reward 2*lysines - lysines"
    vectors = sa.sample(gaussian(3), lambda x: -x.pow(2).sum(-1), "smc", particles=8)
    assert vectors.best(1).rewards[0] == pytest.approx(-float(vectors.best(1).images.pow(2).sum()))


@pytest.mark.parametrize("wrong", [3, "ddg-mini", Lysines])
def test_what_is_no_reward_stops_with_a_sentence(wrong):
    with pytest.raises(TypeError, match="is no reward: give a Reward, or a function"):
        sa.sample(letters(), wrong, "smc", particles=4)


def test_a_method_is_given_once():
    method = sa.load_method("smc", alpha=0.5)
    with pytest.raises(sa.SpecError, match="already built"):
        sa.sample(letters(), Lysines(), method, particles=4, alpha=0.3)
    with pytest.raises(sa.SpecError, match="has a design space of its own"):
        sa.sample(letters(), Lysines(), method, particles=4, space=space())


# stopping, going on, budgets ----------------------------------------------------------------------


@pytest.mark.parametrize("method", ["smc", "das", "svdd"])
def test_a_stopped_run_goes_on_to_the_same_designs(method):
    model, how = letters(omit="C"), {"islands": 3, "particles": 8, "alpha": 0.5, "seed": 5}
    whole = sa.sample(model, Lysines(), method, **how)
    half = sa.sample(model, Lysines(), method, **how, stop=4)
    assert len(half.particles) == 3
    assert {p.step for p in half.particles} == {4}
    rest = sa.sample(model, Lysines(), method, **how, start=half.particles)
    assert torch.equal(rest.samples.designs.x, whole.samples.designs.x)
    assert torch.equal(rest.samples.log_w, whole.samples.log_w)
    assert half.network_calls + rest.network_calls == whole.network_calls
    again = sa.sample(model, Lysines(), method, **how, start=half.particles, stop=4)
    assert fits(repr(again))[-1] == fits(repr(half))[-1] == "stopped after step 4 of 10"
    assert "stopped" in half._repr_html_()
    with pytest.raises(ValueError, match=r"go on with sample\(..., start=result.particles\)"):
        half.best(3)


def test_a_stopped_run_keeps_its_prompts_and_its_scale():
    process, how = gaussian(3, 4, 4, prompts=("a", "b")), {"islands": 2, "particles": 4, "seed": 2}
    reward = Middle().zscore()
    whole = sa.sample(process, reward, "das", **how)
    half = sa.sample(process, reward, "das", **how, stop=2)
    rest = sa.sample(process, half.reward, "das", **how, start=half.particles)
    assert torch.equal(rest.samples.designs.x, whole.samples.designs.x)
    assert rest.samples.designs.prompts == ("a", "a", "b", "b")
    assert (whole.calibration_calls, rest.calibration_calls) == (2 * 32 * 4, 0)


def test_a_run_starts_from_states():
    model = letters()
    x_0 = sa.PROTEIN.encode([WILD] * 12).view(2, 6, -1)
    x = model.process.corrupt(x_0, 7, sa.Streams(1, (0, 1)))
    result = sa.sample(model, Lysines(), "smc", islands=2, particles=6, start=x, begin=7)
    assert result.trace[0].step == 7
    known = x < 20
    assert (result.samples.designs.x == x)[known].all()


@pytest.mark.parametrize(
    ("islands", "particles", "words"),
    [
        (3, 8, "holds 2 islands, the run has 3"),
        (2, 6, "holds 8 particles an island, the run has 6"),
    ],
)
def test_a_start_that_does_not_fit_stops_with_a_sentence(islands, particles, words):
    half = sa.sample(letters(), Lysines(), "smc", islands=2, particles=8, stop=2)
    x = torch.cat([p.x for p in half.particles])
    for start, begin in ((half.particles, 0), (x, 2)):
        with pytest.raises(sa.SpecError, match=words):
            sa.sample(
                letters(), Lysines(), "smc", islands=islands, particles=particles, start=start,
                begin=begin,
            )  # fmt: skip
    done = sa.sample(letters(), Lysines(), "smc", particles=2)
    with pytest.raises(sa.SpecError, match="holds 0 islands"):
        sa.sample(letters(), Lysines(), "smc", particles=2, start=done.particles)


def test_a_budget_holds_for_all_islands_and_the_calibration():
    model, how = letters(), {"islands": 2, "particles": 8, "seed": 1}
    whole = sa.sample(model, Lysines(), "smc", **how)
    enough = sa.Budget(whole.network_calls, whole.reward_calls)
    same = sa.sample(model, Lysines(), "smc", **how, budget=enough)
    assert torch.equal(same.samples.designs.x, whole.samples.designs.x)
    for short in (
        sa.Budget(network=whole.network_calls - 1),
        sa.Budget(reward=whole.reward_calls - 1),
    ):
        with pytest.raises(OverBudget, match="Allow more, or take fewer") as caught:
            sa.sample(model, Lysines(), "smc", **how, budget=short)
        assert f"island 2 of 2, with what was left of {short}." in str(caught.value)
    # the 64 unguided designs of a scale come first
    with pytest.raises(OverBudget, match="budget of 600 network calls is spent"):
        sa.sample(model, Lysines().zscore(), "smc", **how, budget=sa.Budget(600))
    scaled = sa.sample(model, Lysines().zscore(), "smc", **how)
    exact = sa.Budget(scaled.network_calls)
    assert scaled.network_calls == whole.network_calls + 64 * 10
    sa.sample(model, Lysines().zscore(), "smc", **how, budget=exact)
    with pytest.raises(OverBudget):
        sa.sample(model, Lysines().zscore(), "smc", **how, budget=sa.Budget(exact.network - 1))


def test_observers_see_every_step_of_every_island():
    seen: list[tuple[int, int]] = []

    def watch(step: sa.Step, particles: sa.Particles) -> None:
        seen.append((step.step, particles.x.shape[1]))

    sa.sample(letters(), Lysines(), "smc", islands=2, particles=4, observe=watch)
    assert seen == [(i, 4) for i in range(11)] * 2


# what is shown ------------------------------------------------------------------------------------


def test_printing_sequences_fits_on_a_screen():
    result = sa.sample(letters(omit="C"), Lysines(), "smc", islands=3, particles=32, seed=4)
    lines = fits(repr(result))
    assert lines[0] == "smc on masked, alpha 1, 3 islands of 32 particles, seed 4"
    assert lines[1] == "reward lysines"
    assert "log Z" in lines[2]
    assert lines[3].endswith("distinct designs, the best:")
    assert lines[4].split() == ["sample", "sequence", "mutations", "reward", "log_w"]
    assert str(result) == repr(result)
    biased = sa.sample(letters(), Lysines(), "guidance", particles=4)
    assert "sample size" not in repr(biased)
    assert biased.log_z is None


def test_a_result_says_what_is_wrong_in_the_words_of_python():
    well = sa.sample(letters(), Lysines(), "smc", alpha=3.0, islands=2, particles=32, seed=4)
    assert well.health.findings == ()
    assert well._ill() == ""
    ill = sa.sample(letters(), Lysines(), "smc", alpha=0.02, islands=3, particles=32, seed=4)
    first, *others = ill.health.findings
    said = repr(ill).split("reward calls", 1)[1].split("\n", 1)[1].split("distinct designs")[0]
    assert " ".join(said.split()).startswith(first.sentence.replace("sampler.", ""))
    assert others
    assert f"And {len(others)} more in result.health.sentences." in " ".join(said.split())
    assert "sampler." not in repr(ill) + ill._repr_html_()
    assert first.sentence[:30] in ill._repr_html_()
    fits(repr(ill))
    # what is said can be done
    for name in ("alpha", "particles"):
        assert name in said
    best = sa.sample(letters(), Lysines(), "best_of_n", alpha=0.02, particles=32, seed=4)
    assert "set method to tds" in " ".join(repr(best).split())
    # with prompts or when stopped, nothing is compared that cannot be
    half = sa.sample(letters(), Lysines(), "smc", alpha=0.02, particles=8, stop=3)
    assert half._ill() == ""
    with pytest.raises(ValueError, match="no health yet"):
        half.health  # noqa: B018


def test_printing_long_things_fits_on_a_screen(monkeypatch):
    long = sa.MaskedProcess(
        lambda x, t: torch.zeros(*x.shape, 20), sa.PROTEIN, 400, 1, "parallel", name="m" * 200
    )
    wild = "A" * 400
    allowed = sa.DesignSpace.build(sa.PROTEIN, 400, wild_type=wild)
    reward = sum((sa.reward(count(a), name=f"number of {a}\n") for a in "DEFGHIK"), 1.0 * Lysines())
    result = sa.sample(long, reward, "best_of_n", particles=40, space=allowed)
    lines = fits(repr(result))
    # nothing guides the best of n designs, so that few have weight: two lines say so
    ill = lines[3:5]
    assert "".join(ill).startswith("Few designs carry the weight")
    assert len(lines) == 4 + 2 + 1 + 8
    assert all("…" in line for line in lines[7:])
    many = fits(repr(result.best(40)))
    assert many[-1] == "… 22 more"
    assert len(result.best(40).rows()) == 40
    assert result.best(40).rows()[0]["sequence"] == result.best(40).sequences[0]
    vectors = sa.sample(gaussian(300), Middle(), "smc", particles=4)
    fits(repr(vectors))
    assert vectors._repr_html_().count("<th>") == 12
    assert len(vectors.best(1).rows()[0]) == 303


def test_printing_prompts_fits_on_a_screen():
    texts = tuple(f"<b>prompt</b>\n{n} & more " * 20 for n in range(40))
    result = sa.sample(gaussian(3, 8, 8, prompts=texts), Middle(), "smc", particles=3)
    assert fits(repr(result))[-1] == "… 22 more"
    page = result._repr_html_()
    assert "<b>" not in page
    assert "&lt;b&gt;prompt&lt;/b&gt; 0 &amp; more" in page
    assert page.count('<img src="data:image/png;base64,') == 18
    assert page.count("<tr>") == 19
    few = sa.sample(gaussian(3, 8, 8, prompts=("a", "b")), Middle(), "smc", islands=2, particles=4)
    assert [row["prompt"] for row in few.best(3).rows()] == ["a"] * 3 + ["b"] * 3
    assert fits(repr(few))[4].split() == ["sample", "prompt", "reward", "log_w"]


def test_large_pictures_are_shown_small(tmp_path):
    result = sa.sample(gaussian(3, 8, 600), Middle(), "best_of_n", particles=2)
    assert len(result._repr_html_()) < 20_000
    assert result.best(1).images.shape == (1, 3, 8, 600)


def test_html_of_sequences_is_one_table():
    page = sa.sample(letters(), Lysines(), "smc", particles=8)._repr_html_()
    # a table of the best, and their logo, which needs no style sheet
    assert page.count("<svg") == 1
    assert "<style" not in page
    assert page.startswith("<p>smc on masked")
    assert page.count("<table>") == 1
    assert "<img" not in page
    assert "<td>" in page


def test_a_run_without_a_design_says_so(tmp_path):
    reward = sa.reward(lambda s: [float("nan")] * len(s), "never", on_failure="reject")
    result = sa.sample(letters(), reward, "best_of_n", islands=2, particles=4)
    lines = fits(repr(result))
    assert lines[-1] == "no designs"
    assert "log Z -inf" in lines[2]
    assert "nan" not in repr(result)
    assert "no designs" in result._repr_html_()
    result.to_csv(tmp_path / "none.csv")
    assert (tmp_path / "none.csv").read_text() == "sample\n"


def test_tables_hold_every_distinct_design(tmp_path, monkeypatch):
    result = sa.sample(letters(omit="C"), Lysines(), "smc", islands=2, particles=8, seed=4)
    result.to_csv(tmp_path / "all.csv")
    with (tmp_path / "all.csv").open() as file:
        rows = list(csv.DictReader(file))
    distinct = {s for row in result.samples.designs.sequences for s in row}
    assert {row["sequence"] for row in rows} == distinct
    assert len(rows) == len(distinct)
    rewards = [float(row["reward"]) for row in rows]
    assert rewards == sorted(rewards, reverse=True)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        result.to_dataframe()
    frames = types.SimpleNamespace(DataFrame=lambda given: given)
    monkeypatch.setitem(sys.modules, "pandas", frames)
    assert result.to_dataframe() == result.best(16).rows()
    assert len(result.best(3).to_dataframe()) == 3


def test_a_reward_reads_a_structure_as_a_model_does(tmp_path):
    path = Path(__file__).parent / "files" / "cases" / "noncanonical_chain.pdb"
    how = {"structure": path, "map": {"7T2": "F", "IAE": "E"}, "chains": ["A", "I"]}
    model = sa.load_model("mpnn-mini", **how)
    reward = sa.load_reward("ddg-mini", **how)
    assert reward.wild_type == model.wild_type
    assert len(model.wild_type) == 22
    with pytest.raises(SpecError, match="is read already; give chains to read_structure"):
        sa.load_reward("ddg-mini", structure=model.structure, chains="A")
