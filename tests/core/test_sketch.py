"""Chains that ask for one position a step: what they are told, and what they draw unguided."""

from functools import partial

import exact
import pytest
import torch
from backbones import backbone_of, network

from seqalign.core.objective import Reward
from seqalign.core.process import Designs
from seqalign.core.streams import Streams
from seqalign.methods.best_of_n import BestOfN
from seqalign.methods.bias import Bias
from seqalign.methods.causal_smc import CausalSMC
from seqalign.models.inverse_folding import process
from seqalign.models.mpnn_weights import Weights


class Flat(Reward):
    """0 for all."""

    name = "flat"
    differentiable = True

    def __call__(self, designs: Designs) -> torch.Tensor:
        return torch.zeros(designs.x.shape[:2], dtype=torch.float64)

    def relaxed(self, x: torch.Tensor) -> torch.Tensor:
        return 0.0 * x.double().sum((-1, -2))


@pytest.mark.parametrize("make", [exact.remembering, exact.masked])
def test_without_a_gain_it_draws_what_the_chain_draws(make):
    p = make()
    flat = Flat()
    rng = Streams(2, range(3))
    plain = BestOfN()(p.process, flat, (3, 40), rng=rng)
    moved = Bias()(p.process, flat, (3, 40), rng=rng)
    assert torch.equal(plain.designs.x, moved.designs.x)


def test_a_network_is_asked_what_it_would_have_said():
    p = process(Weights(network(21), 6), structure=backbone_of(9))
    net, rng = p.network, torch.Generator().manual_seed(0)
    x = torch.full((2, 3, 9), p.alphabet.mask)
    whole = asked = net.advance(x, None)
    for step in range(9):
        order = torch.rand(2, 3, 9, generator=rng)
        at = torch.where(x == p.alphabet.mask, order, -1.0).argmax(-1)
        logits, made = net.ask(asked, at)
        rows = whole.logits.gather(2, at[..., None, None].expand(2, 3, 1, 20))[:, :, 0]
        assert torch.allclose(logits, rows, atol=1e-4), step
        letters = torch.randint(20, (2, 3, 1), generator=rng)
        x = x.scatter(-1, at[..., None], letters)
        asked, whole = net.tell(x, asked, at, made), net.advance(x, whole)
        # what is kept moves with the particles
        turn = torch.randperm(3, generator=rng)
        moved = partial(torch.index_select, dim=1, index=turn)
        asked, whole, x = asked.map(moved), whole.map(moved), moved(x)


def test_states_with_unequal_numbers_of_open_positions_are_refused():
    p = exact.remembering()
    start = torch.tensor([[[3, 3, 3], [0, 3, 3]]])
    with pytest.raises(ValueError, match="unequal numbers of open positions"):
        CausalSMC()(p.process, p.reward, (1, 2), rng=Streams(0, [0]), start=start)
    begun = torch.tensor([[[3, 1, 3], [0, 3, 3]]])
    found = CausalSMC()(p.process, p.reward, (1, 2), rng=Streams(0, [0]), start=begun, begin=1)
    assert found.x[0, 0, 1] == 1
    assert found.x[0, 1, 0] == 0
