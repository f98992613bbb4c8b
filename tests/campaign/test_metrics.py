import itertools

import numpy as np
import pytest
import torch

from seqalign.campaign.metrics import (
    composition,
    diversity,
    mean_distance,
    paired_interval,
    pareto_rank,
    pooled_pixels,
    prior_log_likelihood,
    radial_kernel,
    recovery,
    survivors,
    vendi,
)
from seqalign.core.discrete import MaskedProcess
from seqalign.core.sequence import Alphabet


def test_recovery_looks_at_free_positions():
    assert recovery("MAT", "MKT") == pytest.approx(2 / 3)
    assert recovery("MAT", "MKT", [1]) == 0
    assert recovery("MAT", "MKT", []) == 1


def test_diversity_is_the_mean_over_pairs():
    rng = np.random.default_rng(0)
    sequences = ["".join(rng.choice(list("ACG"), 7)) for _ in range(9)]
    pairs = [
        sum(a != b for a, b in zip(s, t, strict=True))
        for s, t in itertools.combinations(sequences, 2)
    ]
    assert diversity(sequences) == pytest.approx(np.mean(pairs))
    assert diversity(sequences[:1]) == 0


def test_composition_sums_to_one():
    assert sum(composition(["AACG", "GGGA"], "ACG")) == pytest.approx(1)


def test_pareto_fronts():
    values = np.array([[3, 1], [1, 3], [2, 2], [1, 1], [2, 1.5]])
    assert pareto_rank(values) == [0, 0, 0, 2, 1]


def test_survivors_compose_ancestors():
    steps = [None, torch.tensor([0, 0, 1, 2]), None, torch.tensor([0, 1, 1, 1])]
    assert survivors(steps, 4) == [4, 3, 3, 1]


def test_log_likelihood_of_an_autoregressive_law_is_exact():
    """A network whose conditionals come from one joint law gives that law in every order."""
    alphabet, length = Alphabet("ab"), 3
    g = torch.Generator().manual_seed(0)
    joint = torch.rand((2,) * length, generator=g, dtype=torch.float64)
    joint = joint / joint.sum()
    every = torch.tensor(list(itertools.product(range(2), repeat=length)))

    def network(x, t):
        flat = x.reshape(-1, length)
        logits = torch.zeros(len(flat), length, 2, dtype=torch.float64)
        for n, row in enumerate(flat):
            fits = ((row == 2) | (every == row)).all(-1)
            for i in range(length):
                for a in range(2):
                    logits[n, i, a] = torch.log(
                        joint[tuple(every[fits & (every[:, i] == a)].T)].sum()
                    )
        return logits.reshape(*x.shape, 2)

    process = MaskedProcess(network, alphabet, length, length, chunk=5)
    seen = []
    got = prior_log_likelihood(process, every, range(length), orders=3, observe=seen.append)
    assert torch.allclose(got, torch.log(joint.flatten()))
    # 1, 2 and 4 distinct states in an order, in two chunks that cover all letters but the last
    assert 3 * (1 + 2 + 4) <= sum(seen) <= 3 * 3 * 8
    # the rest is given, not scored
    part = prior_log_likelihood(process, every[:1], [1], orders=1)
    assert part[0] == pytest.approx(float(torch.log(joint[0, 0, 0] / joint[0, :, 0].sum())))


# images -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 7])
def test_the_vendi_score_counts_different_designs(n):
    assert vendi(torch.ones(n, n)) == pytest.approx(1)
    assert vendi(torch.eye(n)) == pytest.approx(n)
    # m kinds, as many of each: m
    kinds = torch.arange(3 * n) % 3
    assert vendi((kinds[:, None] == kinds[None]).double()) == pytest.approx(3)
    assert vendi(torch.zeros(0, 0)) == 0


def test_the_vendi_score_is_the_exponential_of_an_entropy():
    # two designs of similarity c: eigenvalues (1 ± c)/2
    for c in (0.0, 0.3, 0.9, 1.0):
        p = np.array([(1 + c) / 2, (1 - c) / 2])
        want = np.exp(-sum(x * np.log(x) for x in p if x > 0))
        assert vendi(torch.tensor([[1.0, c], [c, 1.0]])) == pytest.approx(want)


def test_the_vendi_score_does_not_know_the_order():
    g = torch.Generator().manual_seed(0)
    features = torch.randn(12, 5, generator=g, dtype=torch.float64)
    kernel = radial_kernel(features, 1.3)
    assert torch.linalg.matrix_rank(kernel) == 12, "of full rank, where products have rank 5"
    assert torch.linalg.matrix_rank(features @ features.T) == 5
    order = torch.randperm(12, generator=g)
    assert vendi(kernel[order][:, order]) == pytest.approx(vendi(kernel))
    assert 1 < vendi(kernel) < 12
    # a copy of what is there adds nothing new: fewer per design
    double = radial_kernel(torch.cat((features, features)), 1.3)
    assert vendi(double) == pytest.approx(vendi(kernel))


def test_a_wide_kernel_sees_one_design_and_a_narrow_one_sees_all():
    features = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    assert vendi(radial_kernel(features, 1e4)) == pytest.approx(1, abs=1e-3)
    assert vendi(radial_kernel(features, 1e-3)) == pytest.approx(6, abs=1e-3)
    with pytest.raises(ValueError, match="must be > 0"):
        radial_kernel(features, 0.0)


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (torch.ones(2, 3), "matrix"),
        (torch.tensor([[1.0, 0.2], [0.3, 1.0]]), "symmetric"),
        (2 * torch.eye(2), "1 on the diagonal"),
    ],
)
def test_similarities_must_be_similarities(matrix, words):
    with pytest.raises(ValueError, match=words):
        vendi(matrix)


def test_distances_of_images_are_root_mean_squares():
    a = torch.zeros(1, 3, 32, 32)
    b = a.clone()
    b[:, :, :, 16:] = 0.5  # half of the cells differ by one half
    features = pooled_pixels(torch.cat((a, b)))
    assert features.shape == (2, 3 * 64)
    assert mean_distance(features) == pytest.approx(np.sqrt(0.5 * 0.25))
    assert mean_distance(features[:1]) == 0
    three = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])
    assert mean_distance(three) == pytest.approx(10 / 3)


def test_a_paired_interval_is_that_of_students_t():
    a, b = [1.0, 2.0, 4.0], [0.5, 1.0, 2.0]
    mean, low, high = paired_interval(a, b)
    # t of 2 degrees of freedom at 0.975 is 4.302653
    half = 4.302653 * np.std([0.5, 1, 2], ddof=1) / np.sqrt(3)
    assert (mean, low, high) == pytest.approx((3.5 / 3, 3.5 / 3 - half, 3.5 / 3 + half))
    assert paired_interval([1.0], [3.0]) == (-2.0, None, None)
