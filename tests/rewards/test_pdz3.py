"""The PDZ3 rewards: reference point, relaxation, gradients, ensembles, training and cards."""

import dataclasses
import importlib.util
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import reward_laws
import torch
from reward_laws import one_hot
from safetensors import safe_open

from seqalign.core.process import Designs
from seqalign.core.sequence import DNA, PROTEIN
from seqalign.models.splits import substitution_half
from seqalign.rewards import pdz3, pdz3_prior, train_pdz3

NAMES = [f"pdz3-{kind}{twin}" for twin in ("", "-holdout") for kind in ("stability", "affinity")]
FACTORIES = {name: partial(pdz3.landscape, registered=name) for name in NAMES}
FOLDER = Path(pdz3.__file__).parent
WILD = PROTEIN.encode([pdz3.WILD_TYPE])[0]

each = pytest.mark.parametrize("name", FACTORIES)


mutants = partial(reward_laws.mutants, pdz3.WILD_TYPE)


@each
def test_wild_type_scores_zero(name):
    wild = Designs(WILD.repeat(2, 3, 1), PROTEIN)
    for kappa in (0.0, 1.0):
        reward = FACTORIES[name](kappa=kappa)
        assert reward.name == name
        assert reward.unit == "kcal/mol"
        assert reward.differentiable
        torch.testing.assert_close(reward(wild), torch.zeros(2, 3, dtype=torch.float64))
        torch.testing.assert_close(reward.uncertainty(wild), torch.zeros(2, 3).double())


@each
@pytest.mark.parametrize("kappa", [0.0, 0.7])
def test_one_hot_relaxation_equals_call(name, kappa):
    reward, designs = FACTORIES[name](kappa=kappa), mutants(2, 5, 6)
    relaxed = reward.relaxed(one_hot(designs))
    assert relaxed.shape == (2, 5)
    torch.testing.assert_close(relaxed, reward(designs), rtol=0, atol=1e-9)


@each
@pytest.mark.parametrize("kappa", [0.0, 0.7])
def test_gradient_equals_finite_differences(name, kappa):
    reward = FACTORIES[name](kappa=kappa)
    x = 0.9 * one_hot(mutants(1, 2, 4)) + 0.1 / 20
    where = ((0, 0, 3, 4), (0, 1, 40, 9), (0, 1, 83, 0))
    reward_laws.gradient_equals_finite_differences(reward, x, where, 1e-5, rel=1e-4, abs=1e-6)


@each
def test_gradient_is_finite_at_the_wild_type(name):
    x = one_hot(Designs(WILD.repeat(1, 1, 1), PROTEIN)).requires_grad_()
    (gradient,) = torch.autograd.grad(FACTORIES[name](kappa=1.0).relaxed(x).sum(), x)
    assert bool(gradient.isfinite().all())


@each
def test_islands_and_batches_do_not_change_a_score(name):
    reward, designs = FACTORIES[name](), mutants(3, 4, 5)
    score, before = reward(designs), designs.x.clone()
    assert score.shape == (3, 4)
    assert score.dtype == torch.float64
    assert torch.equal(score[1:2, 2:3], reward(designs[1:2, 2:3]))
    assert torch.equal(designs.x, before)


@each
def test_extrapolation_is_finite_bounded_and_falls_with_damage(name):
    reward = FACTORIES[name]()
    many = torch.cat([reward(mutants(1, 50, m)) for m in (1, 8, 20, 40, 84)])
    assert bool(many.isfinite().all())
    assert float(many.max()) < reward.bound
    assert bool((many.mean(1).diff() < 0).all())
    # The best letter everywhere is 84 mutations of the kindest prediction: still below the bound.
    table = reward.folding.mean(0) + reward.binding.mean(0)
    best = Designs(table.argmin(-1)[None, None], PROTEIN)
    assert float(reward(best)) <= reward.bound


def test_gains_saturate_and_losses_are_additive():
    reward = FACTORIES["pdz3-stability"]()
    table = reward.folding.double().mean(0)
    designs = mutants(1, 20, 12)
    sums = -table[torch.arange(84), designs.x].sum(-1)
    lost = sums < -6
    torch.testing.assert_close(reward(designs)[lost], sums[lost], rtol=0, atol=1e-4)


def test_affinity_is_lost_with_the_fold_and_not_gained_with_stability():
    zeros = torch.zeros(1, 84, 20)
    fold = zeros.clone()
    fold[0, 0, 0], fold[0, 1, 0] = -5.0, 5.0
    reward = pdz3.Landscape(
        name="test",
        kind="affinity",
        folding=fold,
        binding=zeros,
        wild_type_folding=torch.tensor([-1.0]),
    )
    x = WILD.repeat(1, 2, 1)
    x[0, 0, 0], x[0, 1, 1] = 0, 0
    stable, unfolded = reward(Designs(x, PROTEIN))[0].tolist()
    assert 0 < stable < 0.2
    assert -5.0 < unfolded < -3.5


@each
def test_uncertainty_is_larger_for_substitutions_the_half_never_held(name):
    reward = FACTORIES[name]()
    known = "B" if name.endswith("holdout") else "A"
    seen, unseen = [], []
    for i, a in pdz3_prior.SUBSTITUTIONS:
        x = WILD.clone()
        x[i] = PROTEIN.letters.index(a)
        (seen if substitution_half(i, a) == known else unseen).append(x)
    means = [
        float(reward.uncertainty(Designs(torch.stack(rows)[None], PROTEIN)).mean())
        for rows in (seen, unseen)
    ]
    assert means[1] > 1.2 * means[0]


@each
def test_kappa_lowers_the_score(name):
    designs = mutants(1, 10, 5)
    mean, low = FACTORIES[name]()(designs), FACTORIES[name](kappa=1.0)(designs)
    spread = FACTORIES[name]().uncertainty(designs)
    torch.testing.assert_close(mean - low, spread, rtol=0, atol=2e-4)


def test_twins_share_no_row_and_no_substitution_but_the_backgrounds():
    variants = [
        ("P0A",),
        ("P0G",),
        ("P0G", "V4A"),
        ("P0G", "V4R"),
        *((f"{pdz3.WILD_TYPE[i]}{i}{a}",) for i, a in pdz3_prior.SUBSTITUTIONS),
    ]
    halves = {part: [v for v in variants if train_pdz3.half(v) == part] for part in "AB"}
    own = {
        part: {s for v in rows for s in v if s not in pdz3.BACKGROUNDS}
        for part, rows in halves.items()
    }
    assert not own["A"] & own["B"]
    assert not set(halves["A"]) & set(halves["B"])
    assert 0.45 < len(own["A"]) / (len(own["A"]) + len(own["B"])) < 0.55
    for name in FACTORIES:
        with safe_open(FOLDER / f"{name}.safetensors", framework="pt") as stored:
            assert stored.metadata()["half"] == ("B" if name.endswith("holdout") else "A")
            assert stored.metadata()["wild_type"] == pdz3.WILD_TYPE


def test_twins_agree_on_designs_neither_was_trained_on():
    designs = mutants(1, 300, 8)
    for guide, twin in zip(NAMES[:2], NAMES[2:], strict=True):
        pair = torch.stack([FACTORIES[name]()(designs)[0] for name in (guide, twin)])
        assert float(torch.corrcoef(pair)[0, 1]) > 0.7


def test_split_rules():
    assert not train_pdz3.held_out(("P0G",), "unseen substitutions", 0)
    for split in train_pdz3.SPLITS:
        assert train_pdz3.held_out(("P0A", "V4R"), split, 0) in (True, False)
    seed = next(s for s in range(99) if train_pdz3.held_out(("P0A",), "unseen substitutions", s))
    assert train_pdz3.held_out(("P0A", "V4R"), "unseen substitutions", seed)
    assert train_pdz3.held_out(("P0A", "V4R"), "singles → doubles", 0)
    with pytest.raises(ValueError, match="There is no split 'rows'"):
        train_pdz3.held_out(("P0A",), "rows", 0)


def tiny_scans():
    """A synthetic scan of ten positions in the thermodynamic form."""
    rng = np.random.default_rng(0)
    names = [n for n in pdz3_prior.INDEX if int(n[1:-1]) < 10]
    energy = dict(zip(names, rng.gamma(2.0, 0.5, len(names)), strict=True))
    variants = [(n,) for n in names]
    variants += [(n, m) for n, m in zip(names, names[19:], strict=False)]
    scans = {}
    for scan in train_pdz3.SCANS:
        fold = np.array([sum(energy[s] for s in v) for v in variants])
        part = 1 / (1 + np.exp((fold - 1.0) / pdz3.RT))
        score = 1.5 * (part - 1 / (1 + np.exp(-1.0 / pdz3.RT))) + rng.normal(0, 0.05, len(part))
        scans[scan] = train_pdz3.Scan(variants, score)
    return scans, energy


def test_training_is_deterministic_and_recovers_a_synthetic_scan(monkeypatch):
    # Ten positions instead of 84, for speed; every table is built from these names.
    small = [n for n, (i, _) in enumerate(pdz3_prior.SUBSTITUTIONS) if i < 10]
    pairs = [pdz3_prior.SUBSTITUTIONS[n] for n in small]
    names = [f"{pdz3.WILD_TYPE[i]}{i}{a}" for i, a in pairs]
    few = {
        "SUBSTITUTIONS": pairs,
        "INDEX": {n: k for k, n in enumerate(names)},
        "SIZE": len(small),
        "POSITION": pdz3_prior.POSITION[small],
        "LETTER": pdz3_prior.LETTER[small],
    }
    for name, value in few.items():
        monkeypatch.setattr(pdz3_prior, name, value)
        monkeypatch.setattr(train_pdz3, name, value, raising=False)
    scans, energy = tiny_scans()
    terms = pdz3_prior.covariances(None, "scan")
    first, second = (train_pdz3.fit(scans, terms, iterations=5) for _ in range(2))
    assert np.array_equal(first.mean, second.mean)
    assert np.array_equal(first.draw(2, 0), second.draw(2, 0))
    truth = np.array([energy[n] for n in names])
    assert np.corrcoef(first.mean[: len(small)], truth)[0, 1] > 0.85
    folding, binding, wild = train_pdz3.tables(first.draw(2, 0))
    assert folding.shape == binding.shape == (4, 84, 20)
    assert wild.shape == (4,)


def test_full_prior_needs_data():
    with pytest.raises(ValueError, match="give `data`"):
        pdz3_prior.covariances(None, "full")


def test_scan_reader_names_file_and_line(tmp_path):
    import gzip

    path = tmp_path / "scan.tsv.gz"
    with gzip.open(path, "wt") as file:
        file.write("variant\tnum_mutations\tscore\nA0P\t1\t0.1\n")
    with pytest.raises(ValueError, match="line 2: 'A0P'"):
        train_pdz3.read_scan(path)


def test_errors_are_sentences():
    reward = FACTORIES["pdz3-stability"]()
    with pytest.raises(ValueError, match="84 residues"):
        reward(Designs.of(["ACDEF"], PROTEIN))
    masked = WILD.clone()
    masked[7] = 20
    with pytest.raises(ValueError, match="position 8 holds token 20"):
        reward(Designs(masked[None, None], PROTEIN))
    with pytest.raises(ValueError, match="Use a protein model"):
        reward(Designs.of(["ACGT"], DNA))
    with pytest.raises(TypeError, match="continuous"):
        reward(Designs(torch.zeros(1, 1, 84)))
    with pytest.raises(ValueError, match="column of the mask"):
        reward.relaxed(torch.zeros(1, 1, 84, 21))
    with pytest.raises(ValueError, match="kappa is -1"):
        FACTORIES["pdz3-stability"](kappa=-1)
    with pytest.raises(ValueError, match="bound is 0"):
        FACTORIES["pdz3-affinity"](bound=0)


def test_padded_designs_are_refused():
    mask = torch.ones(1, 84, dtype=torch.bool)
    mask[0, -1] = False
    with pytest.raises(ValueError, match="length 83"):
        FACTORIES["pdz3-stability"]()(Designs(WILD[None, None], PROTEIN, mask))


def test_package_refuses_another_name():
    spec = importlib.util.spec_from_file_location("rewards", FOLDER / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.raises(ImportError, match=r"import seqalign\.rewards"):
        spec.loader.exec_module(module)
    assert "seqalign.rewards" in sys.modules


@each
def test_card(name):
    reward_laws.check_twin(reward_laws.card_of(FOLDER, FACTORIES[name]()))


def test_factories_are_plain_values():
    a, b = FACTORIES["pdz3-stability"](kappa=0.5), FACTORIES["pdz3-stability"](kappa=0.5)
    assert repr(a) == repr(b)
    assert "tensor" not in repr(a)
    with pytest.raises(dataclasses.FrozenInstanceError):
        a.kappa = 1.0
