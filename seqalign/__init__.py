"""seqalign: reward-guided sampling from pretrained diffusion models.

Example:
    >>> import seqalign as sa
    >>> model = sa.load_model("pdz-mini", max_mutations=8)
    >>> reward = sa.load_reward("pdz3-stability") + sa.load_reward("pdz3-affinity")
    >>> result = sa.sample(model, reward, method="das", particles=64, alpha=0.3, seed=7)
    >>> result.best(10).to_fasta("designs.fasta")
"""

# two threads that spin while they wait cost up to 100x on a busy machine; set before torch loads
import os as _os

_os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from importlib.metadata import PackageNotFoundError as _NotFound
from importlib.metadata import version as _version

from seqalign.allocator import keep_freed_memory as _keep_freed_memory
from seqalign.api import RewardMaker, sample
from seqalign.core.budget import Budget
from seqalign.core.callables import function
from seqalign.core.discrete import MaskedProcess, UniformProcess
from seqalign.core.gaussian import GaussianProcess
from seqalign.core.method import Method
from seqalign.core.objective import Reward, RewardError, calibrate, evaluate
from seqalign.core.particles import Particles, Samples, Step
from seqalign.core.process import Designs
from seqalign.core.sequence import DNA, PROTEIN, RNA, Alphabet
from seqalign.core.smc import SMC
from seqalign.core.streams import Streams
from seqalign.core.wrappers import Cached, Chunked, Counted
from seqalign.load import Model, load_method, load_model, load_reward
from seqalign.registry import SpecError
from seqalign.result import Picks, Result
from seqalign.space.space import DesignSpace

_keep_freed_memory()

try:
    __version__ = _version("seqalign")
except _NotFound:  # a source tree that was never installed
    __version__ = "0+unknown"

reward = RewardMaker()

__all__ = [
    "DNA",
    "PROTEIN",
    "RNA",
    "SMC",
    "Alphabet",
    "Budget",
    "Cached",
    "Chunked",
    "Counted",
    "DesignSpace",
    "Designs",
    "GaussianProcess",
    "MaskedProcess",
    "Method",
    "Model",
    "Particles",
    "Picks",
    "Result",
    "Reward",
    "RewardError",
    "RewardMaker",
    "Samples",
    "SpecError",
    "Step",
    "Streams",
    "UniformProcess",
    "calibrate",
    "evaluate",
    "function",
    "load_method",
    "load_model",
    "load_reward",
    "reward",
    "sample",
]
