"""What every reward of letters is tested on and for: mutants, gradients, its card."""

import numpy as np
import pytest
import torch
import yaml

from seqalign.core.process import Designs
from seqalign.core.sequence import PROTEIN


def mutants(wild, b, k, mutations, seed=0):
    """Return (b, k) designs, each with as many substitutions of the wild type."""
    rng = np.random.default_rng(seed)
    x = PROTEIN.encode([wild])[0].repeat(b, k, 1)
    for row in x.flatten(0, 1):
        for i in rng.choice(len(wild), mutations, replace=False):
            row[i] = (row[i] + rng.integers(1, 20)) % 20
    return Designs(x, PROTEIN)


def one_hot(designs):
    return torch.nn.functional.one_hot(designs.x, 20).double()


def gradient_equals_finite_differences(reward, x, where, step, **tolerance):
    x = x.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(reward.relaxed(x).sum(), x)
    for index in where:
        up, down = x.detach().clone(), x.detach().clone()
        up[index] += step
        down[index] -= step
        difference = float((reward.relaxed(up) - reward.relaxed(down)).sum()) / (2 * step)
        assert float(gradient[index]) == pytest.approx(difference, **tolerance)


def card_of(folder, reward):
    """Return the card of a reward, after what all cards have in common is checked."""
    card = yaml.safe_load((folder / "cards" / f"{reward.name}.yaml").read_text(encoding="utf-8"))
    assert card["name"] == reward.name
    assert card["kind"] == "reward"
    assert card["unit"] == reward.unit
    assert card["differentiable"] is True
    assert card["references"]
    assert all(r.lstrip().startswith("@") for r in card["references"])
    return card


def check_twin(card):
    """Check the card of one of two twins, a guide and its hold-out."""
    assert all({"what", "split", "seeds", "value", "command"} <= set(f) for f in card["figures"])
    if not card["name"].endswith("holdout"):
        assert card["holdout_twin"] == f"{card['name']}-holdout"
