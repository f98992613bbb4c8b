"""Your model: any network is a process, and a process is all that `sample` needs.

Run python examples/tutorials/3_your_model.py; it takes seconds, and with --quick draws fewer.
"""

import sys
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import one_hot, pad

import seqalign as sa
from seqalign.core.gaussian import VariancePreserving

particles = 16 if "--quick" in sys.argv else 64
length = 12
follows = torch.tensor([[0.0, 0, 0, 2], [0, 0, 2, 0], [0, 2, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0]])


# Masked diffusion: letters are revealed one by one. The network maps tokens (B, K, L), in which
# V = 4 is the mask, to logits (B, K, L, V). This one knows DNA whose letters like to have their
# complement beside them; a masked neighbor says nothing.
def network(x: Tensor, t: float) -> Tensor:
    """Return logits given the letters to the left and to the right."""
    return follows[pad(x, (1, -1), value=4)] + follows[pad(x, (-1, 1), value=4)]


masked = sa.MaskedProcess(network, sa.DNA, length, steps=length)


# Uniform diffusion: every letter may change at any step. There is no mask, and the logits are those
# of the final letters: the later it is (t runs from 1 to 0), the more they are what stands there.
def denoise(x: Tensor, t: float) -> Tensor:
    """Return logits of the final letters."""
    return network(x, t) + 6 * (1 - t) * one_hot(x, 4)


uniform = sa.UniformProcess(denoise, sa.DNA, length, steps=24)

# For a process at hand, hard constraints are a `DesignSpace`, and a function is a reward.
space = sa.DesignSpace.build(sa.DNA, length, max_homopolymer=2, fix={1: "A", 2: "T"})
guanines = sa.reward(lambda sequences: [s.count("G") for s in sequences], "guanines")
draw = partial(sa.sample, particles=particles, seed=1)
for process in (masked, uniform):
    print(draw(process, guanines, "smc", space=space, alpha=0.5), "\n")


# Gaussian diffusion: the denoiser returns the mean of x_0 given x_t = a·x_0 + b·noise, for images,
# latents or vectors of any shape. For a normal law of points in the plane it is a formula.
def mean(x: Tensor, t: float) -> Tensor:
    """Return E[x_0 | x_t] where x_0 is standard normal."""
    a, b = VariancePreserving()(t)
    return x * a / (a * a + b * b)


plane = sa.GaussianProcess(mean, event=(2,), steps=100)
near = sa.reward(lambda x: -(x - torch.tensor([1.0, 2.0])).square().sum(-1), "near (1, 2)")
result = draw(plane, near, "smc", alpha=2.0, islands=particles)
points, weights = result.samples.designs.x, result.samples.weights[..., None]
print(result, "\nmean of the target:", (weights * points).sum((0, 1)), "exact: [0.5, 1]")

# A campaign takes a process out of a file, `model: {python: 3_your_model.py:masked}`, or by name
# from a package, by one line in its pyproject.toml; see CONTRIBUTING.md.
