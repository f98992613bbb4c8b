"""ddg-pairs: antisymmetry, relaxation, gradients, geometry, messages, cards."""

import math
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
from seqalign.rewards import ddg_pairs
from seqalign.rewards.descriptors import geometry

FACTORIES = {n: partial(ddg_pairs.pair_energy, registered=n) for n in ("ddg-pairs",)}
FOLDER = Path(ddg_pairs.__file__).parent
each = pytest.mark.parametrize("name", FACTORIES)


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
def test_wild_type_scores_exactly_zero(name):
    reward = FACTORIES[name](structure=structure())
    assert reward.name == name
    assert reward.unit == "kcal/mol"
    assert reward.differentiable
    wild = Designs.of([WILD] * 3, PROTEIN)
    assert torch.equal(reward(wild), torch.zeros(1, 3, dtype=torch.float64))


@each
@pytest.mark.parametrize("mutations", [1, 2, 9, LENGTH])
def test_swapping_wild_type_and_mutant_changes_the_sign_bit_by_bit(name, mutations):
    designs = mutants(1, 8, mutations, seed=mutations)
    forward = FACTORIES[name](structure=structure())(designs)[0]
    assert bool((forward != 0).all())
    for value, sequence in zip(forward, designs.sequences[0], strict=True):
        backward = FACTORIES[name](structure=structure(sequence))
        assert torch.equal(backward(Designs.of([WILD], PROTEIN))[0, 0], -value)


@each
def test_differences_close_in_a_triangle(name):
    a, b = mutants(1, 1, 5, seed=1), mutants(1, 1, 7, seed=2)
    from_wild = FACTORIES[name](structure=structure())
    from_a = FACTORIES[name](structure=structure(a.sequences[0][0]))
    torch.testing.assert_close(from_a(b), from_wild(b) - from_wild(a), rtol=0, atol=1e-10)


@each
def test_one_hot_relaxation_equals_call(name):
    reward, designs = FACTORIES[name](structure=structure()), mutants(2, 5, 9)
    relaxed = reward.relaxed(one_hot(designs))
    assert relaxed.shape == (2, 5)
    torch.testing.assert_close(relaxed, reward(designs), rtol=0, atol=1e-9)


@each
def test_relaxation_is_the_mean_over_independent_letters(name):
    # three uncertain residues, two letters each: eight designs can be enumerated
    reward = FACTORIES[name](structure=structure())
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
def test_gradient_equals_finite_differences(name):
    reward = FACTORIES[name](structure=structure())
    x = 0.9 * one_hot(mutants(1, 2, 4)) + 0.1 / 20
    where = ((0, 0, 3, 4), (0, 1, 20, 9), (0, 1, LENGTH - 1, 0))
    reward_laws.gradient_equals_finite_differences(reward, x, where, 1e-4, rel=1e-6, abs=1e-8)


@each
def test_islands_and_batches_do_not_change_a_bit(name):
    reward, designs = FACTORIES[name](structure=structure()), mutants(3, 4, 5)
    score, before = reward(designs), designs.x.clone()
    assert score.shape == (3, 4)
    assert score.dtype == torch.float64
    assert torch.equal(score[1:2, 2:3], reward(designs[1:2, 2:3]))
    order = torch.tensor([3, 1, 0, 2])
    assert torch.equal(score[:, order], reward(Designs(designs.x[:, order], PROTEIN)))
    assert torch.equal(designs.x, before)


@each
def test_two_mutations_in_contact_are_not_additive_and_far_ones_are(name):
    reward = FACTORIES[name](structure=structure())
    i, j = (
        int(v) for v in reward.energy.pairs[:, reward.energy.coefficients.abs().sum(1).argmax()]
    )
    touching = set(map(tuple, reward.energy.pairs.T.tolist()))
    far = next(n for n in range(LENGTH) if n != i and (min(n, i), max(n, i)) not in touching)

    def score(*changes):
        row = PROTEIN.encode([WILD])[0]
        for place_, letter in changes:
            row[place_] = PROTEIN.letters.index(letter)
        return float(reward(Designs(row[None, None], PROTEIN)))

    assert WILD[i] != "W"
    assert WILD[j] != "W"
    assert WILD[far] != "W"
    joint = score((i, "W"), (j, "W")) - score((i, "W")) - score((j, "W"))
    apart = score((i, "W"), (far, "W")) - score((i, "W")) - score((far, "W"))
    assert abs(joint) > 1e-3
    assert abs(apart) < 1e-10


# geometry -----------------------------------------------------------------------------------------


def test_a_helix_has_helical_bonds_and_a_strand_has_none():
    both = geometry(
        torch.cat([backbone([HELIX] * 16), backbone([STRAND] * 16) + 60]),
        torch.tensor([0] * 16 + [1] * 16),
    )
    helix = both.environment[:, 5]
    assert bool((helix[5:11] > 1.2).all())
    assert bool((helix[16:] == 0).all())
    # the two chains are 60 Å apart: no pair joins them
    assert bool(((both.pairs < 16).all(0) | (both.pairs >= 16).all(0)).all())


def test_geometry_does_not_change_when_the_backbone_moves():
    x = backbone(HAIRPIN)
    rotation, _ = torch.linalg.qr(
        torch.randn(3, 3, generator=torch.Generator().manual_seed(1)).double()
    )
    rotation[:, 0] *= torch.linalg.det(rotation)
    chain = torch.zeros(LENGTH, dtype=torch.int64)
    still, moved = geometry(x, chain), geometry(x @ rotation.T + 12.5, chain)
    assert torch.equal(still.pairs, moved.pairs)
    for field in ("sites", "environment", "contacts", "envelope"):
        torch.testing.assert_close(getattr(still, field), getattr(moved, field), rtol=0, atol=1e-9)


def test_geometry_of_two_distant_chains_is_that_of_each():
    a, b = backbone([HELIX] * 12), backbone([STRAND] * 9)
    joint = geometry(torch.cat([a, b + 500]), torch.tensor([0] * 12 + [3] * 9))
    for rows, alone in ((slice(0, 12), a), (slice(12, 21), b)):
        own = geometry(alone, torch.zeros(len(alone), dtype=torch.int64))
        torch.testing.assert_close(joint.sites[rows], own.sites, rtol=0, atol=1e-9)
        torch.testing.assert_close(joint.environment[rows], own.environment, rtol=0, atol=1e-9)


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_short_chains_have_finite_scores(length):
    reward = ddg_pairs.pair_energy(structure=structure(WILD[:length], backbone(HAIRPIN[:length])))
    assert bool(reward(reward_laws.mutants(WILD[:length], 1, 3, 1)).isfinite().all())


def test_geometry_refuses_missing_atoms():
    x = backbone(HAIRPIN)
    x[3, 1] = math.nan
    with pytest.raises(ValueError, match="an atom is missing"):
        geometry(x, torch.zeros(LENGTH, dtype=torch.int64))


# structures ---------------------------------------------------------------------------------------


def test_residues_without_a_letter_or_atoms_have_no_position():
    coords = backbone(HAIRPIN)
    coords[5, 3] = math.nan
    sequence = f"{WILD[:9]}X{WILD[10:]}"
    reward = ddg_pairs.pair_energy(structure=structure(sequence, coords))
    assert reward.wild_type == WILD[:5] + WILD[6:9] + WILD[10:]
    wild = Designs.of([reward.wild_type], PROTEIN)
    assert float(reward(wild)) == 0.0


def test_a_context_chain_buries_what_it_covers():
    one = backbone([STRAND] * 10)
    two = torch.cat([one, one + torch.tensor([0.0, 0.0, 5.0])])
    alone = ddg_pairs.pair_energy(structure=structure(WILD[:10], one))
    covered = ddg_pairs.pair_energy(
        structure=structure(
            WILD[:10] * 2,
            two,
            "A" * 10 + "B" * 10,
            torch.tensor([True] * 10 + [False] * 10),
        )
    )
    assert len(covered.wild_type) == 20
    assert not torch.allclose(covered.energy.sites[:10], alone.energy.sites)


def test_a_file_scores_what_its_structure_scores(tmp_path):
    made = structure()
    (tmp_path / "x.pdb").write_text(made.to_pdb())
    designs = mutants(1, 4, 6)
    read = ddg_pairs.pair_energy(structure=tmp_path / "x.pdb")
    torch.testing.assert_close(
        read(designs), ddg_pairs.pair_energy(structure=made)(designs), rtol=0, atol=0.05
    )


def test_ca_only_structures_are_refused():
    coords = backbone(HAIRPIN)
    coords[:, (0, 2, 3)] = math.nan
    made = replace(structure(coords=coords), require=("CA",))
    with pytest.raises(ValueError, match=r"needs N, CA, C and O.*A1 lacks one"):
        ddg_pairs.pair_energy(structure=made)


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
        ddg_pairs.pair_energy(structure=structure())(designs)


def test_relaxed_refuses_another_shape():
    with pytest.raises(ValueError, match="leave out the column of the mask"):
        ddg_pairs.pair_energy(structure=structure()).relaxed(torch.zeros(1, 1, LENGTH, 21))


# files --------------------------------------------------------------------------------------------


@each
def test_card_and_weights(name):
    card = yaml.safe_load((FOLDER / "cards" / f"{name}.yaml").read_text())
    assert card["name"] == name
    assert card["unit"] == "kcal/mol"
    assert card["direction"] == "higher is better"
    assert (FOLDER / f"{name}.safetensors").stat().st_size < 2**20
    weights = ddg_pairs.read_weights(FOLDER / f"{name}.safetensors")
    assert all(bool(w.isfinite().all()) for w in weights.values())


def test_missing_weights_say_how_to_train_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="train_ddg_pairs"):
        ddg_pairs.read_weights(tmp_path / "ddg-pairs.safetensors")
