"""`python: FILE.py:NAME`: functions, rewards and processes out of a user's own file."""

from __future__ import annotations

import sys

import pytest
import toy_plugin
import yaml

import seqalign as sa
from seqalign.campaign.check import check as prepare
from seqalign.campaign.islands import run_arm
from seqalign.campaign.yaml import CampaignError, read
from seqalign.core.objective import evaluate

FILE = '''"""What a user writes: dataclasses and annotations that are text."""
from __future__ import annotations

from dataclasses import dataclass, field

import torch

import seqalign as sa


@dataclass
class Weights:
    plus: float = 1.0
    minus: float = -1.0
    others: dict[str, float] = field(default_factory=dict)


def charge(sequences: list[str]) -> list[float]:
    w = Weights()
    return [sum(w.plus * (a in "KR") + w.minus * (a in "DE") for a in s) for s in sequences]


@dataclass(frozen=True)
class Lysines(sa.Reward):
    """Lysines, each at a price."""

    price: float
    name: str = "lysines"
    unit: str = "letters"
    differentiable: bool = True

    def __call__(self, designs: sa.Designs) -> torch.Tensor:
        return self.relaxed(torch.nn.functional.one_hot(designs.x, 20).double())

    def relaxed(self, x: torch.Tensor) -> torch.Tensor:
        return self.price * x[..., sa.PROTEIN.letters.index("K")].sum(-1)


ready = Lysines(0.5)
number = 3


def uniform(length: int = 6, steps: int = 5) -> sa.UniformProcess:
    table = torch.linspace(0, 1, length * 20, dtype=torch.float64).reshape(length, 20)
    return sa.UniformProcess(lambda x, t: table.expand(*x.shape[:2], length, 20),
                             sa.PROTEIN, length, steps)


masked = sa.MaskedProcess(
    lambda x, t: torch.zeros(*x.shape[:2], 5, 20, dtype=torch.float64), sa.PROTEIN, 5, 5,
    wild_type="MKTAY", name="mine")
light = lambda x: x.mean((1, 2, 3))
images = sa.GaussianProcess(lambda x, t: 0.0 * x, (3, 8, 8), 3)
'''


@pytest.fixture
def campaign(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(toy_plugin.install(tmp_path)))
    (tmp_path / "mine.py").write_text(FILE)

    def plan(rewards, **more):
        text = {"version": 1, "name": "c", "model": {"name": "toy"}, "rewards": rewards}
        text |= {"sampler": {"name": "smc", "particles": 6}, "baselines": [], **more}
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(text, sort_keys=False))
        return prepare(*read(tmp_path / "c.yaml"))

    return plan


def test_a_function_may_use_dataclasses_and_text_annotations(campaign):
    plan = campaign({"net": {"python": "mine.py:charge"}})
    raw = plan.terms[0].raw
    designs = sa.Designs.of(["MKTAYIAKQRQW", "DKTAYIAKQRQW"], sa.PROTEIN)
    assert evaluate(raw, designs).tolist() == [[3.0, 2.0]]
    assert not raw.differentiable
    found = [name for name in sys.modules if name.startswith("seqalign_user_mine_")]
    assert len(found) == 1
    assert plan.config["resolved"]["rewards"]["net"]["python"] == "mine.py:charge"


def test_a_reward_of_a_file_guides_with_its_gradient(campaign):
    plan = campaign(
        {
            "a": {"python": "mine.py:Lysines", "params": {"price": 2}},
            "b": {"python": "mine.py:ready", "unit": "K"},
        },
        sampler={"name": "tds", "particles": 6, "alpha": 0.1},
    )
    a, b = plan.terms
    assert (a.raw.name, a.raw.unit, b.raw.unit) == ("a", "letters", "K")
    designs = sa.Designs.of(["MKTAYIAKQRQW"], sa.PROTEIN)
    assert (evaluate(a.raw, designs).item(), evaluate(b.raw, designs).item()) == (4.0, 1.0)
    samples, _ = run_arm(plan.arms[0], plan.model, plan.objective, seed=0, islands=[0])
    assert all(s.count("K") >= 4 for s in samples.designs.sequences[0])


@pytest.mark.parametrize(
    ("reward", "words"),
    [
        ({"python": "mine.py"}, "rewards.r.python: 'mine.py': write FILE.py:NAME"),
        ({"python": "yours.py:f"}, "there is no file"),
        ({"python": "mine.py:chrage"}, "Did you mean 'charge'"),
        ({"python": "mine.py:number"}, "3 is no reward: give a Reward, or a function"),
        ({"python": "mine.py:Weights"}, "the class Weights is no reward"),
        ({"python": "mine.py:Lysines"}, "needs the parameter 'price'"),
        ({"python": "mine.py:Lysines", "params": {"prise": 1}}, "r.params.prise: The reward"),
        ({"python": "mine.py:charge", "params": {"x": 1}}, "takes params, and mine.py:charge is"),
        ({"command": "cat {fasta}", "params": {"x": 1}}, "a command takes no params"),
    ],
)
def test_what_is_no_reward_is_refused(campaign, reward, words):
    with pytest.raises(CampaignError) as caught:
        campaign({"r": reward})
    assert words in str(caught.value)


@pytest.mark.parametrize("code", ["import sys; sys.exit(0)", "1 / 0", "from . import x"])
def test_a_file_that_fails_is_named(campaign, tmp_path, code):
    (tmp_path / "bad.py").write_text(code)
    with pytest.raises(CampaignError, match=r"rewards\.r\.python: .*bad.py cannot be imported: "):
        campaign({"r": {"python": "bad.py:f"}})
    assert not [name for name in sys.modules if name.startswith("seqalign_user_bad_")]


def test_a_process_of_a_file_is_a_model(campaign):
    reward = {"net": {"python": "mine.py:charge"}}
    plan = campaign(reward, model={"python": "mine.py:masked"}, constraints={"max_mutations": 2})
    assert plan.model.wild_type == "MKTAY"
    assert [c.key for c in plan.model.space.constraints] == ["max_mutations"]
    assert plan.config["resolved"]["model"]["python"] == "mine.py:masked"
    plan = campaign(
        reward, model={"python": "mine.py:uniform", "length": 4}, constraints={"omit": "C"}
    )
    assert plan.model.process.length == 4
    assert plan.rehearsals["aligned"].network == 5
    samples, _ = run_arm(plan.arms[0], plan.model, plan.objective, seed=0, islands=[0])
    assert "C" not in "".join(samples.designs.sequences[0])


def test_a_continuous_process_of_a_file_draws_images(campaign):
    plan = campaign({"light": {"python": "mine.py:light"}}, model={"python": "mine.py:images"})
    assert plan.medium.kind == "images"
    assert plan.model.space is None
    assert plan.model.steps == 3


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"python": "mine.py:number"}, "model.python: mine.py:number is 3: give a process"),
        ({"python": "mine.py:Weights"}, "gives a Weights, no process: no posterior"),
        ({"python": "mine.py:masked", "length": 3}, "model.length: mine.py:masked is built"),
        ({"python": "mine.py:uniform", "lenght": 3}, "model.lenght: The model mine.py:uniform has"),
        ({"python": "mine.py:masked", "name": "toy"}, "give one of name and python"),
        ({"steps": 3}, "model.name: this key is required and missing"),
        ({"python": "mine.py:images", "steps": 4}, "model.steps: The process"),
    ],
)
def test_what_is_no_model_is_refused(campaign, model, words):
    with pytest.raises(CampaignError) as caught:
        campaign({"net": {"python": "mine.py:charge"}}, model=model)
    assert words in str(caught.value)
