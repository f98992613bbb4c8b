"""A third-party plugin as a folder: a masked model and rewards behind real entry points."""

from __future__ import annotations

from pathlib import Path

CODE = '''
from dataclasses import dataclass

import torch

from seqalign.core.discrete import MaskedProcess
from seqalign.core.objective import Reward
from seqalign.core.callables import function
from seqalign.core.sequence import PROTEIN

WILD = "MKTAYIAKQRQW"


def model(temperature: float = 1.0, order: str = "random", steps: int = 0):
    """A site-independent model with a little context."""
    g = torch.Generator().manual_seed(3)
    table = torch.randn(len(WILD), 20, generator=g, dtype=torch.float64)
    table[torch.arange(len(WILD)), PROTEIN.encode([WILD])[0]] += 2.0

    def network(x, t):
        if x.is_floating_point():
            shown = x[..., :20].sum((-2, -1), keepdim=True)
        else:
            shown = (x < 20).sum(-1, keepdim=True)[..., None].double()
        return table * (1 + 0.02 * shown)

    return MaskedProcess(network, PROTEIN, len(WILD), steps or len(WILD), order, temperature,
                         wild_type=WILD, keep="1", name="toy")


@dataclass(frozen=True)
class Linear(Reward):
    table: torch.Tensor
    name: str = "linear"
    unit: str = "kcal/mol"
    differentiable: bool = True

    def __call__(self, designs):
        return self.relaxed(torch.nn.functional.one_hot(designs.x, 20).double())

    def relaxed(self, x):
        return (x * self.table).sum((-2, -1))


def linear(seed: int = 0, name: str = "linear"):
    g = torch.Generator().manual_seed(seed)
    return Linear(torch.randn(len(WILD), 20, generator=g, dtype=torch.float64), name)


def twin(seed: int = 0):
    a, b = linear(seed).table, linear(seed + 100).table
    return Linear(a + 0.5 * b, "twin")


def nan():
    return function(lambda s: [float("nan")] * len(s), "nan")


def shape():
    class Shape(Reward):
        name = "shape"

        def __call__(self, designs):
            return torch.zeros(3)
    return Shape()


def late():
    """Fine on the first few designs, then not a number."""
    calls = {"n": 0}

    def fn(s):
        calls["n"] += len(s)
        return [float("nan") if calls["n"] > 40 else 0.0] * len(s)
    return function(fn, "late")


def slow(seconds: float = 0.02):
    import time

    def fn(s):
        time.sleep(seconds)
        return [x.count("W") for x in s]
    return function(fn, "slow")
'''

POINTS = """[seqalign.models]
toy = toy_seqalign.parts:model
toy-broken = toy_seqalign.missing:model

[seqalign.rewards]
toy-linear = toy_seqalign.parts:linear
toy-twin = toy_seqalign.parts:twin
toy-nan = toy_seqalign.parts:nan
toy-shape = toy_seqalign.parts:shape
toy-late = toy_seqalign.parts:late
toy-slow = toy_seqalign.parts:slow
"""

CARD = """summary: a linear function of the letters
unit: kcal/mol
direction: higher is better
bibtex: |
  @article{toy, title = {Toy}}
"""

CAMPAIGN = """version: 1
name: toy
seed: 5
constraints:
  max_mutations: 4
model:
  name: toy
rewards:
  a:
    oracle: toy-linear
    scale: zscore
  b:
    oracle: toy-linear
    params: {seed: 1}
  held:
    oracle: toy-twin
    role: holdout
sampler:
  name: das
  islands: 2
  particles: 12
  alpha: 0.8
"""


def install(folder: Path) -> Path:
    """Write the plugin below a folder and return the path to put on sys.path."""
    root = folder / "plugin"
    package = root / "toy_seqalign"
    (package / "cards").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "parts.py").write_text(CODE)
    (package / "cards" / "toy-linear.yaml").write_text(CARD)
    info = root / "toy_seqalign-0.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-seqalign\nVersion: 0.3\n")
    (info / "entry_points.txt").write_text(POINTS)
    return root
