"""ddg-mini and its twin: antisymmetry, variants, relaxation, gradients, structures, cards."""

import math
import random
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import reward_laws
import torch
import yaml
from backbones import HELIX, STRAND, TURN, backbone
from reward_laws import one_hot

from seqalign.core.process import Designs
from seqalign.core.sequence import DNA, PROTEIN
from seqalign.files.numbering import Numbering
from seqalign.files.structure import Structure
from seqalign.rewards import ddg
from seqalign.rewards.ddg import VARIANTS, Calibration

FACTORIES = {n: partial(ddg.ddg_mini, registered=n) for n in ("ddg-mini", "ddg-mini-b")}
FOLDER = Path(ddg.__file__).parent
each = pytest.mark.parametrize("name", FACTORIES)
every = pytest.mark.parametrize("variant", VARIANTS)

HAIRPIN = [*[HELIX] * 12, TURN, STRAND, TURN, *[STRAND] * 6, TURN, TURN, *[STRAND] * 6]
LENGTH = len(HAIRPIN)
WILD = "".join(PROTEIN.letters[(7 * i) % 20] for i in range(LENGTH))


def structure(sequence=WILD, coords=None, chains=None, design=None):
    coords = backbone(HAIRPIN) if coords is None else coords
    length = len(coords)
    chains = chains or "A" * length
    numbers = [str(sum(c == chains[i] for c in chains[: i + 1])) for i in range(length)]
    return Structure(
        name="made-up",
        sequence=sequence,
        coords=coords.float(),
        numbering=Numbering(tuple(chains), tuple(numbers)),
        design=torch.ones(length, dtype=torch.bool) if design is None else design,
        residue_index=torch.arange(length),
    )


mutants = partial(reward_laws.mutants, WILD)


@each
@every
def test_wild_type_scores_exactly_zero(name, variant):
    reward = FACTORIES[name](structure=structure(), variant=variant)
    assert (reward.name, reward.unit, reward.differentiable) == (name, "kcal/mol", True)
    wild = Designs.of([WILD] * 3, PROTEIN)
    assert torch.equal(reward(wild), torch.zeros(1, 3, dtype=torch.float64))
    assert torch.equal(reward.relaxed(one_hot(wild)), torch.zeros(1, 3, dtype=torch.float64))


def test_the_lower_bound_is_the_default():
    assert ddg.ddg_mini(structure=structure()).variant == "lower"


@each
@pytest.mark.parametrize("mutations", [1, 2, 9, LENGTH])
def test_swapping_wild_type_and_mutant_changes_the_sign_bit_by_bit(name, mutations):
    designs = mutants(1, 8, mutations, seed=mutations)
    forward = FACTORIES[name](structure=structure(), variant="raw")(designs)[0]
    assert bool((forward != 0).all())
    for value, sequence in zip(forward, designs.sequences[0], strict=True):
        backward = FACTORIES[name](structure=structure(sequence), variant="raw")
        assert torch.equal(backward(Designs.of([WILD], PROTEIN))[0, 0], -value)


@each
def test_differences_close_in_a_triangle(name):
    a, b = mutants(1, 1, 5, seed=1), mutants(1, 1, 7, seed=2)
    from_wild = FACTORIES[name](structure=structure(), variant="raw")
    from_a = FACTORIES[name](structure=structure(a.sequences[0][0]), variant="raw")
    assert torch.equal(from_a(b), from_wild(b) - from_wild(a))


@each
@pytest.mark.parametrize("variant", ["calibrated", "lower"])
def test_there_and_back_again_never_gains(name, variant):
    for mutations in (1, 3, LENGTH):
        designs = mutants(1, 8, mutations, seed=mutations)
        forward = FACTORIES[name](structure=structure(), variant=variant)(designs)[0]
        for value, sequence in zip(forward, designs.sequences[0], strict=True):
            back = FACTORIES[name](structure=structure(sequence), variant=variant)
            assert float(value + back(Designs.of([WILD], PROTEIN))[0, 0]) <= 0


@each
def test_variants_are_in_order_and_no_total_passes_the_ceiling(name):
    by = {v: FACTORIES[name](structure=structure(), variant=v) for v in VARIANTS}
    designs = mutants(1, 40, 1)
    best = torch.stack([by["raw"].energy.gains(by["raw"]._wild).argmax(1)] * 2)[None]
    for some in (designs, mutants(1, 40, 12), Designs(best, PROTEIN)):
        raw, calibrated, lower = (by[v](some) for v in ("raw", "calibrated", "lower"))
        assert bool((lower <= calibrated).all())
        assert bool((calibrated <= raw).all())
        assert float(calibrated.max()) < by["lower"].calibration.ceiling
    # what loses is as it was, but for the new letter's cost and the penalty
    calibration, single = by["lower"].calibration, by["raw"](designs)
    loses = single < 0
    assert bool(loses.any())
    new = designs.x[designs.x != PROTEIN.encode([WILD])[0]].view(1, 40)
    worth = single - torch.tensor(calibration.letters, dtype=torch.float64)[new]
    close = partial(torch.testing.assert_close, rtol=0, atol=1e-6)
    close(by["calibrated"](designs)[loses], worth[loses])
    close(by["lower"](designs)[loses], worth[loses] - calibration.penalty)
    assert min(calibration.letters) >= 0
    assert calibration.penalty >= 0


def test_the_map_and_the_saturation_are_concave_increasing_and_below_the_diagonal():
    draw = random.Random(3)
    for _ in range(20):
        c = Calibration(draw.uniform(0.05, 1), draw.uniform(0.1, 3), 0.1, draw.uniform(0.5, 6))
        x = torch.linspace(-3, 6, 400, dtype=torch.float64)
        for f in (c.mapped, c.saturated):
            y = f(x)
            assert torch.equal(y[x <= 0], x[x <= 0])
            assert bool((y <= x + 1e-12).all())
            assert bool((y.diff() > 0).all())
            assert bool((y.diff().diff() < 1e-12).all())
        assert float(c.mapped(x).max()) < c.top
        assert float(c.saturated(x).max()) < c.ceiling


@each
@every
def test_one_hot_relaxation_equals_call(name, variant):
    reward, designs = FACTORIES[name](structure=structure(), variant=variant), mutants(2, 5, 9)
    relaxed = reward.relaxed(one_hot(designs))
    assert relaxed.shape == (2, 5)
    assert torch.equal(relaxed, reward(designs))


@each
def test_relaxation_is_the_mean_over_independent_letters(name):
    # three uncertain residues, two letters each: eight designs can be enumerated
    reward = FACTORIES[name](structure=structure(), variant="raw")
    x = one_hot(Designs.of([WILD], PROTEIN))
    places, letters, share = (15, 16, 22), (3, 9, 18), (0.2, 0.7, 0.45)
    for i, a, p in zip(places, letters, share, strict=True):
        x[0, 0, i] = x[0, 0, i] * (1 - p)
        x[0, 0, i, a] += p
    total = 0.0
    for bits in range(8):
        row, weight = PROTEIN.encode([WILD])[0], 1.0
        for n, (i, a, p) in enumerate(zip(places, letters, share, strict=True)):
            if bits >> n & 1:
                row[i] = a
            weight *= p if bits >> n & 1 else 1 - p
        total += weight * float(reward(Designs(row[None, None], PROTEIN)))
    assert float(reward.relaxed(x)) == pytest.approx(total, abs=1e-9)


@each
@every
def test_gradient_equals_finite_differences(name, variant):
    reward = FACTORIES[name](structure=structure(), variant=variant)
    x = 0.9 * one_hot(mutants(1, 2, 4)) + 0.1 / 20
    where = ((0, 0, 3, 4), (0, 1, 20, 9), (0, 1, LENGTH - 1, 0))
    reward_laws.gradient_equals_finite_differences(reward, x, where, 1e-5, rel=1e-5, abs=1e-8)


def test_the_gradient_is_that_of_gains_where_the_total_saturates():
    reward = ddg.ddg_mini(structure=structure(), variant="calibrated")
    best = one_hot(Designs(reward.table.argmax(1)[None, None], PROTEIN))
    assert float(reward.relaxed(best)) > 0
    reward_laws.gradient_equals_finite_differences(
        reward, best, ((0, 0, 3, 4), (0, 0, 20, 9)), 1e-5, rel=1e-4, abs=1e-8
    )


@each
@every
def test_islands_and_batches_do_not_change_a_bit(name, variant):
    reward, designs = FACTORIES[name](structure=structure(), variant=variant), mutants(3, 4, 5)
    score, before = reward(designs), designs.x.clone()
    assert score.shape == (3, 4)
    assert score.dtype == torch.float64
    assert torch.equal(score[1:2, 2:3], reward(designs[1:2, 2:3]))
    order = torch.tensor([3, 1, 0, 2])
    assert torch.equal(score[:, order], reward(Designs(designs.x[:, order], PROTEIN)))
    assert torch.equal(designs.x, before)


def test_large_tables_of_pairs_are_sparse_and_score_the_same(monkeypatch):
    designs = mutants(1, 6, 9)
    dense = ddg.ddg_mini(structure=structure())
    monkeypatch.setattr(ddg, "DENSE", 1)
    sparse = ddg.ddg_mini(structure=structure())
    assert sparse.energy.pairs.is_sparse
    assert not dense.energy.pairs.is_sparse
    assert torch.equal(dense(designs), sparse(designs))
    x = one_hot(designs).requires_grad_()
    (one,) = torch.autograd.grad(sparse.relaxed(x).sum(), x)
    (other,) = torch.autograd.grad(dense.relaxed(x).sum(), x)
    torch.testing.assert_close(one, other)


@each
def test_only_what_is_near_is_not_additive(name):
    reward = FACTORIES[name](structure=structure(), variant="raw")
    blocks = reward.energy.pairs.view(LENGTH, 5, LENGTH, 5).abs().amax((1, 3))
    i, j = divmod(int(blocks.argmax()), LENGTH)
    far = int((blocks[i] + torch.eye(LENGTH)[i]).argmin())

    def score(*changes):
        row = PROTEIN.encode([WILD])[0]
        for place_, letter in changes:
            row[place_] = letter
        return float(reward(Designs(row[None, None], PROTEIN)))

    def apart(one, two):
        pairs = [((one, a), (two, b)) for a in (0, 4, 8, 18) for b in (2, 9, 15)]
        return max(abs(score(*both) - sum(score(c) for c in both)) for both in pairs)

    assert not bool(blocks.diagonal().any())
    assert apart(i, j) > 1e-3
    assert apart(i, far) < 0.1 * apart(i, j)


# structures ---------------------------------------------------------------------------------------


def test_a_moved_backbone_scores_the_same():
    x = backbone(HAIRPIN)
    turn, _ = torch.linalg.qr(
        torch.randn(3, 3, generator=torch.Generator().manual_seed(1)).double()
    )
    turn[:, 0] *= torch.linalg.det(turn)
    designs = mutants(1, 6, 8)
    still, moved = (ddg.ddg_mini(structure=structure(coords=c)) for c in (x, x @ turn.T + 12.5))
    torch.testing.assert_close(still(designs), moved(designs), rtol=0, atol=1e-3)


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_short_chains_have_finite_scores(length):
    reward = ddg.ddg_mini(structure=structure(WILD[:length], backbone(HAIRPIN[:length])))
    assert bool(reward(reward_laws.mutants(WILD[:length], 1, 3, 1)).isfinite().all())


def test_residues_without_a_letter_or_atoms_have_no_position():
    coords = backbone(HAIRPIN)
    coords[5, 3] = math.nan
    sequence = f"{WILD[:9]}X{WILD[10:]}"
    reward = ddg.ddg_mini(structure=structure(sequence, coords))
    assert reward.wild_type == WILD[:5] + WILD[6:9] + WILD[10:]
    wild = Designs.of([reward.wild_type], PROTEIN)
    assert float(reward(wild)) == 0.0


def test_a_context_chain_changes_what_it_covers_and_has_positions():
    one = backbone([STRAND] * 10)
    two = torch.cat([one, one + torch.tensor([0.0, 0.0, 5.0])])
    alone = ddg.ddg_mini(structure=structure(WILD[:10], one))
    covered = ddg.ddg_mini(
        structure=structure(
            WILD[:10] * 2, two, "A" * 10 + "B" * 10, torch.tensor([True] * 10 + [False] * 10)
        )
    )
    assert len(covered.wild_type) == 20
    assert not torch.allclose(covered.energy.sites[:10], alone.energy.sites)


def test_distant_chains_do_not_interact():
    a, b = backbone([HELIX] * 12), backbone([STRAND] * 9)
    joint = structure(WILD[:21], torch.cat([a, b + 500]), "A" * 12 + "B" * 9)
    pairs = ddg.ddg_mini(structure=joint).energy.pairs
    assert not bool(pairs[:60, 60:].any())
    assert bool(pairs[:60, :60].any())


def test_a_file_scores_what_its_structure_scores(tmp_path):
    made = structure()
    (tmp_path / "x.pdb").write_text(made.to_pdb())
    designs = mutants(1, 4, 6)
    read = ddg.ddg_mini(structure=tmp_path / "x.pdb")
    torch.testing.assert_close(
        read(designs), ddg.ddg_mini(structure=made)(designs), rtol=0, atol=0.05
    )


def test_ca_only_structures_are_refused():
    coords = backbone(HAIRPIN)
    coords[:, (0, 2, 3)] = math.nan
    made = replace(structure(coords=coords), require=("CA",))
    with pytest.raises(ValueError, match=r"needs N, CA, C and O.*A1 lacks one"):
        ddg.ddg_mini(structure=made)


@pytest.mark.parametrize(
    ("designs", "error", "words"),
    [
        (Designs.of([WILD[:-1]], PROTEIN), ValueError, f"{LENGTH} residues.*length {LENGTH - 1}"),
        (Designs.of(["ACGT" * 8], DNA), ValueError, "alphabet 'ACGT'"),
        (Designs(torch.zeros(1, 1, LENGTH)), TypeError, "continuous"),
        (Designs.of(["_" + WILD[1:]], PROTEIN), ValueError, "position 1 holds token 20"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_a_sentence(designs, error, words):
    with pytest.raises(error, match=words):
        ddg.ddg_mini(structure=structure())(designs)


def test_relaxed_refuses_another_shape():
    with pytest.raises(ValueError, match="leave out the column of the mask"):
        ddg.ddg_mini(structure=structure()).relaxed(torch.zeros(1, 1, LENGTH, 21))


def test_an_unknown_variant_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"'upper'.*lower, calibrated, raw"):
        ddg.ddg_mini(structure=structure(), variant="upper")
    reward = ddg.ddg_mini(structure=structure())
    with pytest.raises(ValueError, match=r"'upper'.*lower, calibrated, raw"):
        replace(reward, variant="upper")
    with pytest.raises(ValueError, match="wild type has 3 letters"):
        replace(reward, wild_type="AAA")


# what a score has meant ---------------------------------------------------------------------------


def row(low, high, n, share, kind="multiple"):
    return {
        "variant": "lower", "kind": kind, "low": low, "high": high, "n": n, "mean": 0.1,
        "share": share,
    }  # fmt: skip


CARD = {"calibration": [row(-4, 0, 50, 0.2), row(0, 0.5, 30, 0.8), row(0.5, 1.7, 20, 0.9)]}


def test_a_reading_tells_the_share_that_was_stabilized():
    assert "80 % were truly stabilized (n = 30" in ddg.reading(CARD, "lower", 0.3)
    assert "20 % were truly stabilized" in ddg.reading(CARD, "lower", -3.0)
    assert "80 %" in ddg.reading(CARD, "lower", 0.5)


def test_a_reading_beyond_the_calibration_says_so():
    for value, share in ((3.0, "90 %"), (-9.0, "20 %")):
        said = ddg.reading(CARD, "lower", value)
        assert "beyond" in said
        assert "-4 to +1.7" in said
        assert share in said
    assert "beyond" not in ddg.reading(CARD, "lower", 1.7)


def test_a_reading_without_a_calibration_says_so():
    assert "Nothing measured" in ddg.reading(CARD, "raw", 0.3)
    assert "Nothing measured" in ddg.reading(CARD, "lower", 0.3, substitutions=1)
    assert "Nothing measured" in ddg.reading({}, "lower", 0.3)


# files --------------------------------------------------------------------------------------------


@each
def test_card_and_weights(name):
    reward = ddg.ddg_mini(registered=name, structure=structure())
    card = reward_laws.card_of(FOLDER, reward)
    assert card["direction"] == "higher is better"
    assert "MIT" in card["licence"]
    assert (FOLDER / f"{name}.safetensors").stat().st_size < 4 * 2**20
    weights = ddg.read_weights(FOLDER / f"{name}.safetensors")
    assert all(bool(w.isfinite().all()) for w in weights.values())
    for at in card["calibration"]:
        assert set(at) == {"variant", "kind", "low", "high", "n", "mean", "share"}
        assert at["variant"] in VARIANTS
        assert at["kind"] in ("single", "multiple")
        assert at["low"] < at["high"]
        assert 0 <= at["share"] <= 1
    assert "truly stabilized" in reward.reading(0.1)
    assert "beyond" in reward.reading(50.0)


def test_the_twins_have_different_weights_and_one_network():
    a, b = (ddg.read_weights(FOLDER / f"{name}.safetensors") for name in FACTORIES)
    assert not torch.allclose(a["sites"], b["sites"])
    assert not any(k.startswith("network.") for k in b)
    cards = [yaml.safe_load((FOLDER / "cards" / f"{n}.yaml").read_text()) for n in FACTORIES]
    assert cards[0]["holdout_twin"] == cards[1]["name"]
    assert cards[1]["twin_of"] == cards[0]["name"]


@pytest.mark.weights("proteinmpnn-v_48_020")
def test_the_frozen_network_is_the_published_one_in_half_precision():
    from seqalign.models.mpnn_weights import load_checkpoint

    ours = ddg.network().network.state_dict()
    for key, value in load_checkpoint("v_48_020").network.state_dict().items():
        assert torch.equal(ours[key], value.half().float())


def test_missing_weights_say_how_to_train_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="train_ddg"):
        ddg.read_weights(tmp_path / "ddg-mini.safetensors")
