"""Random mutants of a wild type, and their one-hot states."""

import numpy as np
import torch

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
