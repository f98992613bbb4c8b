import itertools

import numpy as np
import pytest
import torch

from seqalign.discrete import MaskedProcess
from seqalign.metrics import (
    composition,
    diversity,
    mutations,
    pareto_rank,
    prior_log_likelihood,
    recovery,
    survivors,
)
from seqalign.sequence import Alphabet


def test_mutations_count_from_one():
    assert mutations("MAT", "MKT") == ["K2A"]
    assert mutations("MKT", "MKT") == []
    with pytest.raises(ValueError, match="3 letters"):
        mutations("MKT", "MK")


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
