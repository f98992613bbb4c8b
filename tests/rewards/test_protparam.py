"""ProtParam rewards agree with Biopython, extend to probabilities and have gradients."""

from pathlib import Path

import pytest
import reward_laws
import torch
from Bio.SeqUtils.ProtParam import ProteinAnalysis

from seqalign.core.process import Designs
from seqalign.core.sequence import DNA, PROTEIN
from seqalign.load import load_reward
from seqalign.rewards import protparam

REFERENCE = {
    "charge": lambda p: p.charge_at_pH(7.4),
    "hydropathy": lambda p: p.gravy(),
    "instability-index": lambda p: p.instability_index(),
    "isoelectric-point": lambda p: p.isoelectric_point(),
    "aromaticity": lambda p: p.aromaticity(),
    "molecular-weight": lambda p: p.molecular_weight(),
    "helix-fraction": lambda p: p.secondary_structure_fraction()[0],
    "turn-fraction": lambda p: p.secondary_structure_fraction()[1],
    "sheet-fraction": lambda p: p.secondary_structure_fraction()[2],
    "extinction-coefficient": lambda p: p.molar_extinction_coefficient()[0],
    "flexibility": lambda p: sum(p.flexibility()) / len(p.flexibility()),
    "aliphatic-index": lambda p: (
        100
        * (
            p.sequence.count("A")
            + 2.9 * p.sequence.count("V")
            + 3.9 * (p.sequence.count("I") + p.sequence.count("L"))
        )
        / p.length
    ),
}


def factory(name):
    return load_reward(name)


def random_designs(b=2, k=20, length=30):
    tokens = torch.randint(0, 20, (b, k, length), generator=torch.Generator().manual_seed(1))
    return Designs(tokens, PROTEIN)


@pytest.mark.parametrize("name", REFERENCE)
def test_equals_biopython(name):
    designs, reward = random_designs(), factory(name)
    expected = [[REFERENCE[name](ProteinAnalysis(s)) for s in row] for row in designs.sequences]
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(reward(designs), expected, rtol=1e-8, atol=1e-8)
    assert reward.name == name


@pytest.mark.parametrize("ph", [2.0, 5.5, 7.4, 11.0])
def test_charge_at_other_ph(ph):
    designs = random_designs()
    expected = [[ProteinAnalysis(s).charge_at_pH(ph) for s in row] for row in designs.sequences]
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(protparam.charge(ph=ph)(designs), expected)


def test_isoelectric_point_of_extremes_is_clamped_as_in_biopython():
    for sequence in ("D" * 20, "R" * 20, "G" * 20):
        designs = Designs.of([sequence], PROTEIN)
        expected = ProteinAnalysis(sequence).isoelectric_point()
        assert float(protparam.isoelectric_point()(designs)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", sorted(set(REFERENCE) - {"isoelectric-point"}))
def test_gradient_equals_finite_differences(name):
    x = torch.rand(1, 2, 12, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    x = x / x.sum(-1, keepdim=True)
    where = ((0, 0, 0, 2), (0, 1, 5, 8), (0, 1, 11, 3))
    reward_laws.gradient_equals_finite_differences(
        factory(name), x, where, 1e-4, rel=1e-5, abs=1e-5
    )


def test_gradient_of_the_isoelectric_point_keeps_the_charge_at_zero():
    # The bisection stops at 1e-4, too coarse for differences of pI: follow the charge instead.
    x = torch.rand(1, 1, 12, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    x = (x / x.sum(-1, keepdim=True)).requires_grad_()
    point = protparam.isoelectric_point().relaxed(x)
    (gradient,) = torch.autograd.grad(point.sum(), x)
    ph = float(point.detach())
    moved = x.detach() + 1e-3 * gradient
    ahead = ph + 1e-3 * float((gradient**2).sum())
    before = float(protparam.charge(ph=ph).relaxed(x.detach()))
    after = float(protparam.charge(ph=ahead).relaxed(moved))
    still = float(protparam.charge(ph=ph).relaxed(moved))
    assert abs(after - before) < 0.02 * abs(still - before)


def test_islands_of_different_length_are_scored_without_padding():
    designs = random_designs(2, 3, 15)
    mask = torch.ones(2, 15, dtype=torch.bool)
    mask[1, 11:] = False
    padded = Designs(designs.x, PROTEIN, mask)
    for name in REFERENCE:
        reward = factory(name)
        score = reward(padded)
        assert score.shape == (2, 3)
        alone = reward(Designs(designs.x[1:, :, :11], PROTEIN))
        torch.testing.assert_close(score[1:], alone)


def test_input_is_not_changed_and_types_are_kept():
    designs = random_designs()
    before = designs.x.clone()
    for name in REFERENCE:
        score = factory(name)(designs)
        assert score.dtype == torch.float64
        assert bool(score.isfinite().all())
    assert torch.equal(designs.x, before)


def test_errors_are_sentences():
    with pytest.raises(ValueError, match="is no letter of"):
        protparam.charge()(Designs(torch.full((1, 1, 5), 20), PROTEIN))
    with pytest.raises(ValueError, match="Use a protein model"):
        protparam.charge()(Designs.of(["ACGT"], DNA))
    with pytest.raises(TypeError, match="continuous"):
        protparam.charge()(Designs(torch.zeros(1, 1, 5)))
    with pytest.raises(ValueError, match="between 0 and 14"):
        protparam.charge(ph=20.0)
    with pytest.raises(ValueError, match="column of the mask"):
        protparam.charge().relaxed(torch.zeros(1, 1, 5, 21))
    with pytest.raises(ValueError, match="at least 10"):
        protparam.flexibility()(Designs.of(["ACDEF"], PROTEIN))


@pytest.mark.parametrize("name", REFERENCE)
def test_card(name):
    reward_laws.card_of(Path(protparam.__file__).parent, factory(name))
