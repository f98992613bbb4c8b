"""`check`: places resolved, large assemblies at the cost of few calls, counts that stay exact."""

import json
import string
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from commands import call, words

import seqalign as sa
from seqalign.campaign import rehearsal
from seqalign.campaign.check import check as prepare
from seqalign.campaign.estimate import estimate
from seqalign.campaign.letters import Letters
from seqalign.campaign.yaml import read
from seqalign.core.discrete import UniformProcess
from seqalign.core.sequence import Alphabet
from seqalign.core.value import Rollout
from seqalign.files.numbering import Numbering
from seqalign.files.structure import demo_backbone, read_structure
from seqalign.load import Model
from seqalign.models.inverse_folding import OnBackbone
from seqalign.registry import names
from seqalign.rewards import descriptors
from seqalign.space.space import DesignSpace

CAMPAIGN = """version: 1
name: places
input: {structure: s.pdb}
model: {name: mpnn-mini}
rewards: {q: {oracle: ddg-mini}}
sampler: {name: smc, particles: 16}
"""


def assembly(copies: int) -> str:
    """Return PDB text of copies of the demo backbone in a row, each in touch with the next."""
    s, lines = demo_backbone(), []
    for k in range(copies):
        shift = torch.tensor([16.0 * k, 0.0, 0.0])
        chain = Numbering((string.ascii_uppercase[k],) * len(s), s.numbering.numbers)
        lines += replace(s, coords=s.coords + shift, numbering=chain).to_pdb().splitlines()[:-1]
    return "\n".join([*lines, "END", ""])


@pytest.fixture
def campaign(tmp_path):
    path = tmp_path / "c.yaml"
    zinc = "HETATM 9999 ZN    ZN A 501    {:8.3f}{:8.3f}{:8.3f}  1.00  0.00          ZN\n"
    at = demo_backbone().coords[10, 1] + torch.tensor([2.0, 1.0, 1.0])
    text = assembly(2).replace("END", zinc.format(*at.tolist()) + "END")
    (tmp_path / "s.pdb").write_text(text)
    path.write_text(CAMPAIGN)
    return path


def test_check_shows_words_resolved(campaign):
    campaign.write_text(
        CAMPAIGN
        + 'design: {residues: "interface A B, within 5 of ZN", fix: ["core 4", "not A"]}\n'
        + "constraints: {residues: {surface of A: {omit: P}}, tie: [[A339, within 2 of A341]]}\n"
    )
    numbering = read_structure(campaign.parent / "s.pdb").known_numbering
    said = words(call("check", campaign, "--set", "constraints.tie=null"))
    for key, text in (
        ("design.residues", "interface A B, within 5 of ZN"),
        ("design.residues", "interface A B"),
        ("design.residues", "within 5 of ZN"),
        ("design.fix", "core 4, not A"),
        ("design.fix", "core 4"),
        ("constraints.residues", "surface of A"),
    ):
        found = numbering.names(numbering.positions(text))
        assert found
        assert f"{key}: {text} = {found}" in said
    assert "constraints.residues: surface of A =" in said
    as_json = json.loads(call("check", campaign, "--json", "--set", "constraints.tie=null").stdout)
    assert as_json["places"]["design.fix: core 4"] == numbering.names(numbering.positions("core 4"))
    # a campaign without words says nothing of them
    campaign.write_text(CAMPAIGN)
    assert json.loads(call("check", campaign, "--json").stdout)["places"] == {}


def test_a_word_that_cannot_be_read_ends_at_its_line(campaign):
    campaign.write_text(CAMPAIGN + "design:\n  residues: whithin 6 of B\n")
    result = call("check", campaign)
    assert result.exit_code == 2
    assert "c.yaml:8: design.residues" in words(result)
    assert "Did you mean 'within 6 of B'?" in words(result)


def test_words_choose_what_is_designed(campaign):
    s = read_structure(campaign.parent / "s.pdb")
    model = sa.load_model("mpnn-mini", structure=s, design="interface A B", fix="near ZN")
    chosen = set(s.known_numbering.positions("interface A B"))
    chosen -= set(s.known_numbering.positions("near ZN"))
    assert model.space.at.free == tuple(sorted(i - 1 for i in chosen))


# large assemblies ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "constraints", ["", "max_homopolymer: 3, max_mutations: 500, forbid: [KR]"]
)
def test_a_thousand_residues_take_few_calls(tmp_path, monkeypatch, constraints):
    path = tmp_path / "c.yaml"
    (tmp_path / "s.pdb").write_text(assembly(14))
    path.write_text(CAMPAIGN + f"constraints: {{{constraints}}}\n")
    made = {"network": 0, "conditions": 0, "judged": 0}

    def counted(owner, name, key):
        real = getattr(owner, name)

        def call(self, *given):
            made[key] += 1
            return real(self, *given)

        monkeypatch.setattr(owner, name, call)

    counted(OnBackbone, "_tokens", "network")
    counted(DesignSpace, "violations", "judged")
    real = DesignSpace.condition

    def condition(self, *given):
        made["conditions"] += self.length > 500
        return real(self, *given)

    monkeypatch.setattr(DesignSpace, "condition", condition)
    # nothing that grows with the length is done more than a few times
    plan = prepare(*read(path, []))
    cost = estimate(plan)
    assert plan.model.space.free == 14 * 74
    assert made["network"] <= 3 * 4
    assert made["conditions"] <= 3
    assert made["judged"] <= 70
    # and what is promised is what it would have counted
    assert cost.network["aligned"] == cost.network["best_of_n"] == 16 * 14 * 74


def test_short_rehearsals_tell_long_ones(monkeypatch):
    s = demo_backbone()
    model = sa.load_model("mpnn-mini", structure=s, max_mutations=20, fix="A339-350")
    reward = sa.load_reward("ddg-mini", structure=s)
    methods = [sa.load_method(name) for name in names("method")]
    methods = [m for m in methods if "discrete" in getattr(m, "kinds", ("discrete",))]
    methods.append(sa.load_method("smc", value=Rollout(2)))
    assert len(methods) > 6

    def counts(short):
        monkeypatch.setattr(rehearsal, "SHORT", short)
        return [Letters().rehearse(m, model, reward, 2) for m in methods]

    assert counts(5) == counts(1000)
    # a design with its own number of steps, more than it has letters to reveal
    model = sa.load_model("mpnn-mini", structure=s, fix="A339-350", steps=70)
    assert counts(5) == counts(1000)


def test_chains_are_rehearsed_at_their_most_and_in_their_own_number(monkeypatch):
    s = demo_backbone()
    model = sa.load_model("mpnn-mini", structure=s, fix="A339-350")
    reward = sa.load_reward("ddg-mini", structure=s)
    some = {"chains": 3}
    method = sa.load_method("tds", alpha=0.1, resample=some, move="redraw")

    def counts(short):
        monkeypatch.setattr(rehearsal, "SHORT", short)
        return Letters().rehearse(method, model, reward, 12)

    assert counts(5) == counts(1000)
    # three chains of four make nine moves for twelve particles, at every step between the ends
    steps = model.steps
    assert counts(5).network == pytest.approx(steps + (steps - 1) * 9 / 12)
    drawn = sa.sample(model, reward, method, particles=12)
    assert drawn.network_calls <= 12 * counts(5).network
    with pytest.raises(ValueError, match="divisor of the particles"):
        Letters().rehearse(method, model, reward, 10)


def test_rehearsals_of_a_uniform_process_and_of_a_parallel_order(monkeypatch):
    ab = Alphabet("ABC")
    uniform = UniformProcess(lambda x, t: torch.zeros(*x.shape, 3), ab, 7, 60)
    reward = sa.reward(lambda seqs: [float(len(s)) for s in seqs])
    method = sa.load_method("smc")
    space = DesignSpace(ab, 7)

    def counts(process, short):
        monkeypatch.setattr(rehearsal, "SHORT", short)
        return Letters().rehearse(method, Model.of(process, space), reward, 2)

    assert counts(uniform, 5) == counts(uniform, 1000)
    assert counts(uniform, 5).network == 60


def test_counts_on_no_parabola_are_not_followed():
    assert rehearsal._followed([1.0, 2.0, 3.0, 4.0], 10 * rehearsal.SHORT) == 10.0
    assert rehearsal._followed([1.0, 4.0, 9.0, 16.0], 10 * rehearsal.SHORT) == 100.0
    assert rehearsal._followed([1.0, 4.0, 9.0, 17.0], 10 * rehearsal.SHORT) is None


def test_features_do_not_depend_on_the_blocks_they_are_computed_in(monkeypatch):
    s = demo_backbone()
    whole = descriptors.geometry(s.coords, s.chain_index)
    for rows in (16, 30, 74):
        monkeypatch.setattr(descriptors, "ROWS", rows)
        parts = descriptors.geometry(s.coords, s.chain_index)
        for name in ("sites", "environment", "contacts", "envelope"):
            assert torch.allclose(getattr(whole, name), getattr(parts, name), rtol=1e-9, atol=1e-9)
        assert torch.equal(whole.pairs, parts.pairs)


def test_check_loads_nothing_that_it_does_not_use(campaign):
    code = (
        "import sys; from seqalign.cli.main import app\n"
        "try: app()\nexcept SystemExit: pass\n"
        "print(*sorted({'matplotlib', 'torch._dynamo', 'sympy'} & {*sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "check", str(campaign), "--set", "sampler.name=das"],
        capture_output=True,
        text=True,
    )
    assert "fine" in done.stdout
    loaded = done.stdout.splitlines()[-1].split()
    assert not {"matplotlib", "torch._dynamo", "sympy"} & set(loaded)
