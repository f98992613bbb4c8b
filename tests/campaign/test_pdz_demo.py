"""Law 4 on `pdz-mini`: islands {3, 7} alone are islands 3 and 7 of 0..15, bit for bit."""

import pytest
import torch

import seqalign as sa


@pytest.fixture(scope="module")
def problem():
    # six open positions keep it quick; chunks of 3 leave a padded one per island of 4 particles
    model = sa.load_model("pdz-mini", design="10-15", max_mutations=3, chunk=3)
    reward = 1.0 * sa.load_reward("pdz3-stability") + 1.0 * sa.load_reward("pdz3-affinity")
    return model, reward


@pytest.mark.parametrize("name", ["das", "smc", "nested_is"])
def test_islands_alone_equal_islands_together(problem, name):
    model, reward = problem
    method = sa.load_method(name, alpha=0.3)

    def run(islands):
        rng = sa.Streams(5, islands)
        return method(model.process, reward, (len(islands), 4), rng=rng, space=model.space)

    together, alone = run(tuple(range(16))), run((3, 7))
    rows = torch.tensor([3, 7])
    assert torch.equal(together.designs.x[rows], alone.designs.x)
    assert torch.equal(together.rewards[rows], alone.rewards)
    assert torch.equal(together.log_w[rows], alone.log_w)
    assert torch.equal(together.log_z[rows], alone.log_z)


def test_every_method_stays_in_the_space(problem):
    model, reward = problem
    for name in ("best_of_n", "tds", "fk_steering", "svdd", "beam", "guidance"):
        method = sa.load_method(name, alpha=0.3)
        samples = method(model.process, reward, (1, 4), rng=sa.Streams(1, (0,)), space=model.space)
        assert bool(model.space.contains(samples.designs.x).all()), name
