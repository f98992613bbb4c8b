"""Your model: any network is a process, and a process is all that `sample` needs.

python examples/tutorials/3_your_model.py          # seconds; --quick draws fewer
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

import seqalign as sa
from seqalign.core.gaussian import VariancePreserving

particles = 16 if "--quick" in sys.argv else 64
LENGTH = 12

# The network of a masked model maps tokens (B, K, L), in which V = 4 is the mask, to logits
# (B, K, L, V). This one knows DNA in which a letter likes to be followed by its complement.
follows = torch.tensor([[0.0, 0, 0, 2], [0, 0, 2, 0], [0, 2, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0]])


def network(x: Tensor, t: float) -> Tensor:
    """Logits given the letter to the left and the one to the right; unknown ones say nothing."""
    left = torch.nn.functional.pad(x, (1, -1), value=4)
    right = torch.nn.functional.pad(x, (-1, 1), value=4)
    return follows[left] + follows[right]


masked = sa.MaskedProcess(network, sa.DNA, LENGTH, steps=LENGTH)

# A reward of your own, and hard constraints for a process at hand: they are a `DesignSpace`.
guanines = sa.reward(lambda sequences: [s.count("G") for s in sequences], "guanines")
space = sa.DesignSpace.build(sa.DNA, LENGTH, max_homopolymer=2, fix={1: "A", 2: "T"})
print(sa.sample(masked, guanines, "smc", particles=particles, space=space, alpha=0.5, seed=1), "\n")


# In uniform diffusion every letter may change at any step, until t = 0. The network sees no mask,
# and returns logits of the final letters: here, mostly those that stand there when t is small.
def denoise(x: Tensor, t: float) -> Tensor:
    return network(x, t) + 6 * (1 - t) * torch.nn.functional.one_hot(x, 4)


uniform = sa.UniformProcess(denoise, sa.DNA, LENGTH, steps=24)
print(
    sa.sample(uniform, guanines, "smc", particles=particles, space=space, alpha=0.5, seed=1), "\n"
)


# A Gaussian process asks for the mean of x_0 given x_t = a·x_0 + b·noise, in any shape: images,
# latents, vectors. For points of the plane around the origin it is known in closed form.
def mean(x: Tensor, t: float) -> Tensor:
    a, b = VariancePreserving()(t)
    return x * a / (a * a + b * b)


plane = sa.GaussianProcess(mean, event=(2,), steps=50)
near = sa.reward(lambda x: -(x - torch.tensor([1.0, 2.0])).square().sum(-1), "near (1, 2)")
result = sa.sample(plane, near, "smc", particles=16 * particles, alpha=2.0, seed=1)
print(result)
points, weights = result.samples.designs.x, result.samples.weights[..., None]
print("mean of the target:", (weights * points).sum((0, 1)), "exact: [0.5, 1.0]")

# A campaign takes a process out of your file: model: {python: 3_your_model.py:masked}. To give it
# a name, add an entry point and a card to your package; CONTRIBUTING.md says how.
