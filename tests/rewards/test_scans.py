"""The rewards of scans: reference point, relaxation, gradients, ensembles, training and cards."""

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
from seqalign.rewards import scan_prior, scans, train_scans

TWINS = [f"pdz3-{kind}{twin}" for twin in ("", "-holdout") for kind in ("stability", "affinity")]
NAMES = [*TWINS, "grb2-stability", "grb2-affinity"]
FACTORIES = {name: partial(scans.landscape, registered=name) for name in NAMES}
FOLDER = Path(scans.__file__).parent
PDZ3 = train_scans.PROTEINS["pdz3"]
# 84 and 56 residues
WILDS = {name: p.construct.wild_type for name, p in train_scans.PROTEINS.items()}
WILD = PROTEIN.encode([WILDS["pdz3"]])[0]

each = pytest.mark.parametrize("name", FACTORIES)


def wild_of(name):
    return WILDS[name.partition("-")[0]]


def mutants(b, k, mutations, name="pdz3"):
    return reward_laws.mutants(wild_of(name), b, k, mutations)


@each
def test_wild_type_scores_zero(name):
    wild = Designs(PROTEIN.encode([wild_of(name)])[0].repeat(2, 3, 1), PROTEIN)
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
    reward, designs = FACTORIES[name](kappa=kappa), mutants(2, 5, 6, name)
    relaxed = reward.relaxed(one_hot(designs))
    assert relaxed.shape == (2, 5)
    torch.testing.assert_close(relaxed, reward(designs), rtol=0, atol=1e-9)


@each
@pytest.mark.parametrize("kappa", [0.0, 0.7])
def test_gradient_equals_finite_differences(name, kappa):
    reward = FACTORIES[name](kappa=kappa)
    x = 0.9 * one_hot(mutants(1, 2, 4, name)) + 0.1 / 20
    where = ((0, 0, 3, 4), (0, 1, 40, 9), (0, 1, 55, 0))
    reward_laws.gradient_equals_finite_differences(reward, x, where, 1e-5, rel=1e-4, abs=1e-6)


@each
def test_gradient_is_finite_at_the_wild_type(name):
    x = one_hot(Designs.of([wild_of(name)], PROTEIN)).requires_grad_()
    (gradient,) = torch.autograd.grad(FACTORIES[name](kappa=1.0).relaxed(x).sum(), x)
    assert bool(gradient.isfinite().all())


@each
def test_islands_and_batches_do_not_change_a_score(name):
    reward, designs = FACTORIES[name](), mutants(3, 4, 5, name)
    score, before = reward(designs), designs.x.clone()
    assert score.shape == (3, 4)
    assert score.dtype == torch.float64
    assert torch.equal(score[1:2, 2:3], reward(designs[1:2, 2:3]))
    assert torch.equal(designs.x, before)


@each
def test_extrapolation_is_finite_bounded_and_falls_with_damage(name):
    reward = FACTORIES[name]()
    many = torch.cat([reward(mutants(1, 50, m, name)) for m in (1, 8, 20, 40, 56)])
    assert bool(many.isfinite().all())
    assert float(many.max()) < reward.bound
    assert bool((many.mean(1).diff() < 0).all())
    # The best letter everywhere is the kindest prediction: still below the bound.
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
    reward = scans.Landscape(
        name="test",
        wild_type=WILDS["pdz3"],
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


@pytest.mark.parametrize("name", TWINS)
def test_uncertainty_is_larger_for_substitutions_the_half_never_held(name):
    reward = FACTORIES[name]()
    known = "B" if name.endswith("holdout") else "A"
    seen, unseen = [], []
    for i, a in PDZ3.construct.substitutions:
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
    designs = mutants(1, 10, 5, name)
    mean, low = FACTORIES[name]()(designs), FACTORIES[name](kappa=1.0)(designs)
    spread = FACTORIES[name]().uncertainty(designs)
    torch.testing.assert_close(mean - low, spread, rtol=0, atol=2e-4)


def test_twins_share_no_row_and_no_substitution_but_the_backgrounds():
    variants = [
        ("P0A",),
        ("P0G",),
        ("P0G", "V4A"),
        ("P0G", "V4R"),
        *((substitution,) for substitution in PDZ3.construct.index),
    ]
    halves = {part: [v for v in variants if train_scans.half(PDZ3, v) == part] for part in "AB"}
    own = {
        part: {s for v in rows for s in v if s not in PDZ3.backgrounds}
        for part, rows in halves.items()
    }
    assert not own["A"] & own["B"]
    assert not set(halves["A"]) & set(halves["B"])
    assert 0.45 < len(own["A"]) / (len(own["A"]) + len(own["B"])) < 0.55
    for name in FACTORIES:
        half = "all" if name not in TWINS else "B" if name.endswith("holdout") else "A"
        with safe_open(FOLDER / f"{name}.safetensors", framework="pt") as stored:
            assert stored.metadata()["half"] == half
            assert stored.metadata()["wild_type"] == wild_of(name)


def test_twins_agree_on_designs_neither_was_trained_on():
    designs = mutants(1, 300, 8)
    for guide, twin in zip(TWINS[:2], TWINS[2:], strict=True):
        pair = torch.stack([FACTORIES[name]()(designs)[0] for name in (guide, twin)])
        assert float(torch.corrcoef(pair)[0, 1]) > 0.7


def test_split_rules():
    held_out = partial(train_scans.held_out, "pdz3")
    assert not held_out(("P0G",), "unseen substitutions", 0)
    for split in train_scans.SPLITS:
        assert held_out(("P0A", "V4R"), split, 0) in (True, False)
    seed = next(s for s in range(99) if held_out(("P0A",), "unseen substitutions", s))
    assert held_out(("P0A", "V4R"), "unseen substitutions", seed)
    assert held_out(("P0A", "V4R"), "singles → doubles", 0)
    with pytest.raises(ValueError, match="There is no split 'rows'"):
        held_out(("P0A",), "rows", 0)


SMALL = dataclasses.replace(PDZ3, construct=scan_prior.Construct(WILDS["pdz3"][:10]))
"""Ten positions instead of 84, for speed."""


def tiny_scans():
    """A synthetic scan of ten positions in the thermodynamic form."""
    rng = np.random.default_rng(0)
    names = list(SMALL.construct.index)
    energy = rng.gamma(2.0, 0.5, len(names))
    variants = [(n,) for n in names]
    variants += [(n, m) for n, m in zip(names, names[19:], strict=False)]
    found = {}
    for scan in train_scans.SCANS:
        fold = np.array([sum(energy[SMALL.construct.index[s]] for s in v) for v in variants])
        part = 1 / (1 + np.exp((fold - 1.0) / scans.RT))
        score = 1.5 * (part - 1 / (1 + np.exp(-1.0 / scans.RT))) + rng.normal(0, 0.05, len(part))
        found[scan] = train_scans.Scan(variants, score)
    return found, energy


def test_training_is_deterministic_and_recovers_a_synthetic_scan():
    found, energy = tiny_scans()
    terms = scan_prior.covariances(SMALL.construct, None, "scan")
    first, second = (train_scans.fit(SMALL, found, terms, iterations=5) for _ in range(2))
    assert np.array_equal(first.mean, second.mean)
    assert np.array_equal(first.draw(2, 0), second.draw(2, 0))
    assert np.corrcoef(first.mean[: len(energy)], energy)[0, 1] > 0.85
    folding, binding, wild = train_scans.tables(SMALL.construct, first.draw(2, 0))
    assert folding.shape == binding.shape == (4, 10, 20)
    assert wild.shape == (4,)


def test_leverage_in_blocks_changes_no_bit(monkeypatch):
    found, _ = tiny_scans()
    terms = scan_prior.covariances(SMALL.construct, None, "scan")
    whole = train_scans.fit(SMALL, found, terms, iterations=4)
    monkeypatch.setattr(train_scans, "BLOCK", 100)
    assert np.array_equal(train_scans.fit(SMALL, found, terms, iterations=4).mean, whole.mean)


def test_ridge_recovers_an_additive_scan():
    found, energy = tiny_scans()
    line = train_scans.Scan(
        found["binding"].variants,
        np.array(
            [-sum(energy[SMALL.construct.index[s]] for s in v) for v in found["binding"].variants]
        ),
    )
    said, _ = train_scans.ridge(SMALL, line, line)
    assert np.corrcoef(said, line.scores)[0, 1] > 0.99


def test_a_backbone_must_hold_the_construct(tmp_path):
    import gzip
    import json

    rng = np.random.default_rng(0)
    path = tmp_path / "chains.jsonl.gz"
    atoms = {a: rng.normal(0, 9, (14, 3)).tolist() for a in ("N", "CA", "C", "O")}
    with gzip.open(path, "wt") as file:
        file.write(json.dumps({"name": "x", "seq": "GG" + WILDS["pdz3"][:12], "coords": atoms}))
    there = scan_prior.Construct(WILDS["pdz3"][:12], "x")
    distance, burial = scan_prior.read_backbone(path, there)
    assert distance.shape == (12, 12)
    assert burial.shape == (12, 2)
    # the construct begins at the third residue
    with gzip.open(path, "wt") as file:
        some = {a: xyz[2:] for a, xyz in atoms.items()}
        file.write(json.dumps({"name": "x", "seq": WILDS["pdz3"][:12], "coords": some}))
    alone = scan_prior.read_backbone(path, there)
    assert np.array_equal(distance, alone[0])
    assert np.array_equal(burial, alone[1])
    for chain, wild in (("x", "ACDEF"), ("y", WILDS["pdz3"][:12])):
        with pytest.raises(ValueError, match="has no chain"):
            scan_prior.read_backbone(path, scan_prior.Construct(wild, chain))


def test_full_prior_needs_data():
    with pytest.raises(ValueError, match="give `data`"):
        scan_prior.covariances(PDZ3.construct, None, "full")


def test_scan_reader_names_file_and_line(tmp_path):
    import gzip

    path = tmp_path / "scan.tsv.gz"
    with gzip.open(path, "wt") as file:
        file.write("variant\tnum_mutations\tscore\nA0P\t1\t0.1\n")
    for name, first in (("pdz3", "P0A"), ("grb2", "T0A")):
        with pytest.raises(ValueError, match=rf"line 2: 'A0P'.*\({first}\)"):
            train_scans.read_scan(path, train_scans.PROTEINS[name])


def test_what_has_no_twins_is_not_judged_by_them(capsys):
    for what in ("twins", "weights"):
        with pytest.raises(SystemExit):
            train_scans.main(["grb2", "--data", "nowhere", "--evaluate", what])
        assert "has no twins" in capsys.readouterr().err


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
    card = reward_laws.card_of(FOLDER, FACTORIES[name]())
    if name in TWINS:
        reward_laws.check_twin(card)
    assert all(f"train_scans {name.partition('-')[0]}" in f["command"] for f in card["figures"])


def test_factories_are_plain_values():
    a, b = FACTORIES["pdz3-stability"](kappa=0.5), FACTORIES["pdz3-stability"](kappa=0.5)
    assert repr(a) == repr(b)
    assert "tensor" not in repr(a)
    with pytest.raises(dataclasses.FrozenInstanceError):
        a.kappa = 1.0
