"""Structure geometry: invariance, limits, and the values of Biopython, biotite and brute force."""

import math

import numpy as np
import pytest
import torch
from Bio.SVDSuperimposer import SVDSuperimposer
from hypothesis import given, settings
from hypothesis import strategies as st

from seqalign.core.sequence import PROTEIN
from seqalign.rewards import geometry

MEASURES = {
    "rmsd": geometry.rmsd,
    "drmsd": geometry.drmsd,
    "lddt": geometry.lddt,
    "tm_score": geometry.tm_score,
}
each = pytest.mark.parametrize("name", MEASURES)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def rotation(seed=0):
    q, _ = torch.linalg.qr(torch.randn(3, 3, generator=rng(seed), dtype=torch.float64))
    return q if torch.linalg.det(q) > 0 else q * torch.tensor([1.0, 1.0, -1.0])


def moved(x, seed=0):
    return x.double() @ rotation(seed) + torch.tensor([3.0, -40.0, 12.0])


def chain(n, seed=0, batch=()):
    """A random walk with steps of 3.8 Å."""
    steps = torch.randn(*batch, n, 3, generator=rng(seed), dtype=torch.float64)
    return (3.8 * steps / steps.norm(dim=-1, keepdim=True)).cumsum(-2)


def helix(n, rise=1.5, turn=100.0, radius=2.3):
    """The α-carbons of an ideal helix; a strand is rise 3.3, turn 180, radius 0.9."""
    angle = torch.arange(n).double() * math.radians(turn)
    z = rise * torch.arange(n)
    return torch.stack([radius * angle.cos(), radius * angle.sin(), z], -1).double()


def strand(n):
    return helix(n, 3.3, 180.0, 0.9)


# two structures -----------------------------------------------------------------------------------


@each
@pytest.mark.parametrize("n", [3, 5, 8, 40, 90])
def test_a_moved_copy_is_the_same_structure(name, n):
    x = chain(n, seed=n)
    value = float(MEASURES[name](moved(x), x))
    assert value == pytest.approx(1.0 if name in ("lddt", "tm_score") else 0.0, abs=1e-9)


@each
def test_rigid_motions_change_nothing(name):
    x, y = chain(30, 1), chain(30, 2)
    y = 0.3 * y + 0.7 * x
    base = float(MEASURES[name](x, y))
    assert 0.01 < base
    assert base != pytest.approx(1.0, abs=0.01)
    for seed in range(3):
        assert float(MEASURES[name](moved(x, seed), y)) == pytest.approx(base, abs=1e-6)
        assert float(MEASURES[name](x, moved(y, seed))) == pytest.approx(base, abs=1e-6)


@each
def test_a_batch_is_its_members(name):
    x, y = chain(25, 3, (2, 3)), chain(25, 4)
    together = MEASURES[name](x, y)
    assert together.shape == (2, 3)
    alone = torch.stack([MEASURES[name](m, y) for m in x.flatten(0, 1)])
    torch.testing.assert_close(together.flatten(), alone, rtol=0, atol=1e-10)


@pytest.mark.parametrize("seed", range(8))
def test_rmsd_is_biopythons(seed):
    x, y = chain(4 + 5 * seed, seed), chain(4 + 5 * seed, seed + 100)
    theirs = SVDSuperimposer()
    theirs.set(y.numpy(), x.numpy())
    theirs.run()
    assert float(geometry.rmsd(x, y)) == pytest.approx(theirs.get_rms(), abs=1e-9)
    np.testing.assert_allclose(geometry.superpose(x, y), theirs.get_transformed(), atol=1e-8)


def test_no_rotation_beats_the_superposition():
    x, y = chain(12, 5), chain(12, 6)
    best = float(geometry.rmsd(x, y))
    centered = [a - a.mean(0) for a in (x, y)]
    tried = [
        float((centered[0] @ rotation(s) - centered[1]).square().sum(-1).mean().sqrt())
        for s in range(300)
    ]
    assert best <= min(tried)
    assert best == pytest.approx(min(tried), rel=0.2)


def test_weights_choose_what_is_fitted():
    x = chain(20, 7)
    y = moved(x, 3).clone()
    y[10:] += torch.randn(10, 3, generator=rng(1), dtype=torch.float64) * 5
    weights = torch.zeros(20)
    weights[:10] = 1
    fitted = geometry.superpose(x, y, weights)
    torch.testing.assert_close(fitted[:10], y[:10], rtol=0, atol=1e-9)
    assert float((fitted[10:] - y[10:]).norm(dim=-1).min()) > 0.5
    ones = geometry.superpose(x, y, torch.full((20,), 3.0))
    torch.testing.assert_close(ones, geometry.superpose(x, y), rtol=0, atol=1e-9)


def test_mirror_images_differ_except_in_their_distances():
    x = helix(20)
    mirror = x * torch.tensor([1.0, 1.0, -1.0])
    assert float(geometry.rmsd(x, mirror)) > 1.0
    assert float(geometry.tm_score(x, mirror)) < 0.9
    assert float(geometry.drmsd(x, mirror)) == pytest.approx(0.0, abs=1e-9)
    assert float(geometry.lddt(x, mirror)) == pytest.approx(1.0)


def test_drmsd_is_its_double_loop():
    x, y = chain(9, 8), chain(9, 9)
    gaps = [
        float((x[i] - x[j]).norm() - (y[i] - y[j]).norm()) ** 2 for i in range(9) for j in range(i)
    ]
    assert float(geometry.drmsd(x, y)) == pytest.approx(math.sqrt(sum(gaps) / len(gaps)))


@pytest.mark.parametrize("noise", [0.3, 1.0, 3.0])
def test_lddt_is_biotites(noise):
    struc = pytest.importorskip("biotite.structure")
    y = chain(40, 10)
    x = y + noise * torch.randn(40, 3, generator=rng(2), dtype=torch.float64)
    atoms = struc.AtomArray(40)
    atoms.coord = y.numpy()
    atoms.res_id = np.arange(40)
    theirs = struc.lddt(atoms, x.numpy().astype(np.float32))
    assert float(geometry.lddt(x, y)) == pytest.approx(float(theirs), abs=1e-6)


def test_lddt_needs_a_contact():
    with pytest.raises(ValueError, match="neighboring residues"):
        geometry.lddt(torch.zeros(1, 3), torch.zeros(1, 3))


def tm_of(distances, n):
    d0 = max(1.24 * max(n - 15, 0) ** (1 / 3) - 1.8, 0.5)
    return float((1 / (1 + (distances / d0) ** 2)).mean())


@pytest.mark.parametrize("n", [4, 12, 40, 80])
def test_tm_score_finds_what_any_superposition_finds(n):
    y = chain(n, n)
    x = moved(0.85 * y + 0.15 * chain(n, n + 1))
    best = float(geometry.tm_score(x, y))
    assert best >= tm_of((geometry.superpose(x, y) - y).norm(dim=-1), n) - 1e-9
    for seed in range(60):
        weights = torch.rand(n, generator=rng(seed)) ** 4
        assert best >= tm_of((geometry.superpose(x, y, weights) - y).norm(dim=-1), n) - 0.02


def test_tm_score_finds_a_domain_that_moved():
    n, half = 60, 40
    y = chain(n, 11)
    x = y.clone()
    x[half:] = moved(x[half:], 5)
    score = float(geometry.tm_score(x, y))
    assert score >= half / n
    assert score < half / n + 0.15
    whole = tm_of((geometry.superpose(x, y) - y).norm(dim=-1), n)
    assert score > whole + 0.2


def test_tm_score_agrees_with_biotite_on_the_same_superposition():
    tm = pytest.importorskip("biotite.structure")
    y = chain(50, 12)
    x = y + 0.8 * torch.randn(50, 3, generator=rng(3), dtype=torch.float64)

    def atoms(coords):
        array = tm.AtomArray(50)
        array.coord, array.res_id = coords.numpy(), np.arange(50)
        array.res_name[:], array.atom_name[:] = "GLY", "CA"
        return array

    every = np.arange(50)
    theirs = tm.tm_score(atoms(y), atoms(geometry.superpose(x, y)), every, every)
    assert float(geometry.tm_score(x, y)) == pytest.approx(theirs, abs=0.01)
    assert float(geometry.tm_score(x, y)) >= theirs - 1e-6


@settings(max_examples=40, deadline=None)
@given(n=st.integers(2, 30), seed=st.integers(0, 10**6), noise=st.floats(0, 20))
def test_measures_stay_in_their_range(n, seed, noise):
    y = chain(n, seed)
    x = y + noise * torch.randn(n, 3, generator=rng(seed), dtype=torch.float64)
    assert 0 <= float(geometry.lddt(x, y)) <= 1
    assert 0 < float(geometry.tm_score(x, y)) <= 1 + 1e-12
    assert 0 <= float(geometry.rmsd(x, y)) < math.inf
    assert 0 <= float(geometry.drmsd(x, y)) < math.inf


# one structure ------------------------------------------------------------------------------------


def test_a_sphere_is_most_globular_and_a_rod_least():
    directions = torch.randn(200, 3, generator=rng(4), dtype=torch.float64)
    shell = directions / directions.norm(dim=-1, keepdim=True)
    # mirrored, so that its centroid is its center
    sphere = 10 * torch.cat([shell, -shell])
    ball = sphere * torch.rand(200, 1, generator=rng(5)).repeat(2, 1) ** (1 / 3)
    rod = torch.zeros(400, 3)
    rod[:, 0] = torch.linspace(-10, 10, 400)
    spreads = [float(geometry.radial_spread(moved(x))) for x in (sphere, ball, rod)]
    assert spreads == sorted(spreads)
    assert spreads[0] == pytest.approx(0, abs=1e-9)
    # |x| of a uniform rod on [-10, 10] is uniform on [0, 10]
    assert spreads[2] == pytest.approx(10 / math.sqrt(12), rel=0.01)


@pytest.mark.parametrize("m", [3, 4, 6, 9])
def test_a_ring_is_symmetric_and_a_bent_one_is_not(m):
    ring = helix(m, rise=0.0, turn=360 / m, radius=20.0)
    assert float(geometry.asymmetry(moved(ring))) == pytest.approx(0, abs=1e-9)
    bent = ring.clone()
    bent[0] += torch.tensor([4.0, 1.0, 2.0])
    assert float(geometry.asymmetry(bent)) > 0.5
    shuffled = ring[torch.randperm(m, generator=rng(1))]
    # in a ring of more than three the order counts, over all pairs it does not
    assert float(geometry.asymmetry(shuffled, "all")) == pytest.approx(
        float(geometry.asymmetry(ring, "all"))
    )
    if m > 3:
        assert float(geometry.asymmetry(ring, "all")) > 1


def test_all_pairs_are_equal_in_a_tetrahedron_only():
    corners = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    assert float(geometry.asymmetry(corners, "all")) == pytest.approx(0, abs=1e-12)


def test_secondary_structure_of_ideal_elements():
    pytest.importorskip("biotite")
    assert geometry.secondary_structure(helix(20), [20]).count("H") >= 17
    assert geometry.secondary_structure(strand(12), [12]).count("E") >= 8
    assert set(geometry.secondary_structure(helix(20), [20])) <= set("HC")
    assert geometry.secondary_structure(moved(helix(20)), [20]) == geometry.secondary_structure(
        helix(20), [20]
    )


def test_pieces_do_not_run_into_each_other():
    pytest.importorskip("biotite")
    a, b = helix(14), moved(strand(12))
    parts = geometry.secondary_structure(a, [14]) + geometry.secondary_structure(b, [12])
    assert geometry.secondary_structure(torch.cat([a, b]), [14, 12]) == parts
    # cut in two, a helix of eight loses what needs five in a row
    assert geometry.secondary_structure(helix(8), [8]) != geometry.secondary_structure(
        helix(8), [4, 4]
    )
    gap = helix(14)
    gap[6] = torch.nan
    assert geometry.secondary_structure(gap, [14])[6] == "."


def test_the_atom_table_is_the_one_of_the_folding_network():
    constants = pytest.importorskip("transformers.models.esm.openfold_utils.residue_constants")
    for letter in PROTEIN.letters:
        names = constants.restype_name_to_atom14_names[constants.restype_1to3[letter]]
        assert geometry.ATOMS[letter] == tuple(n for n in names if n)
    assert sorted(geometry.ATOMS) == list(PROTEIN.letters)


def test_atoms_in_the_open_are_exposed_and_buried_ones_are_not():
    pytest.importorskip("biotite")
    n = 125
    sequence = "G" * n
    coords = torch.full((n, 14, 3), torch.nan)
    grid = torch.stack(torch.meshgrid(*[torch.arange(5.0)] * 3, indexing="ij"), -1).reshape(-1, 3)
    offsets = torch.tensor([[0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]]) * 1.2
    coords[:, :4] = 2.4 * grid[:, None] + offsets
    exposed = geometry.exposed_atoms(sequence, coords)
    inner = ((grid > 0) & (grid < 4)).all(-1)
    assert not bool(exposed[inner & (grid == 2).all(-1)].any())
    assert bool(exposed[(grid == 0).all(-1)].any())
    assert not bool(exposed[:, 4:].any())
    apart = geometry.exposed_atoms(sequence, coords + 20 * grid[:, None])
    assert int(apart.sum()) == 4 * n
    assert torch.equal(exposed, geometry.exposed_atoms(sequence, coords + 7.0))


def test_without_biotite_the_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(geometry, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'seqalign\[folding\]'"):
        geometry.secondary_structure(helix(10), [10])
