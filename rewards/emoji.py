"""How well a small picture shows what a prompt says, learned from 32x32 emoji.

The embedded stand-in for CLIP: an image network and a text network whose embeddings e and t meet on
a unit sphere, trained by InfoNCE (`train_emoji_match`). The score is not the cosine itself, which
has no scale, but the log-odds it stands for. Against a bank of n names with embeddings t_j,

    r(x, c) = s<e, t_c> − log[(exp(s<e, t_c>) + Σ_j exp(s<e, t_j>)) / (n + 1)]   in nats,

an estimate of log p(c | x) / p(c) = log p(x | c) / p(x), the pointwise mutual information of the
picture and the prompt c: 0 says that the picture is no evidence about c, and log(n + 1) is the most
there is. Where the bank holds c itself, it is one of n and counted once. The bank is the same for
every prompt. So p(x | c)·exp(r / alpha) with alpha = 1 is classifier guidance of weight one more.
s is calibrated on names that training did not see.

The guide and its hold-out twin differ in network, seed and augmentation, and each learns emoji that
the other does not (a fifth of its own; those with a word of their own are learned by both). The
guide is a residual network with a mean over the picture at its end, the twin a network of depthwise
convolutions on 2x2 patches that keeps the places apart. Everything is smooth (SiLU, GELU), and so
is the gradient; batch normalization is part of training only and folded into the convolutions.

References:
    Learning transferable visual models from natural language supervision, Radford et al., ICML
    2021, https://arxiv.org/abs/2103.00020
    Representation learning with contrastive predictive coding, van den Oord, Li & Vinyals, 2018,
    https://arxiv.org/abs/1807.03748 (section 2.3: the best critic of InfoNCE is log p(x|c)/p(x)).
    A ConvNet for the 2020s, Liu et al., CVPR 2022, https://arxiv.org/abs/2201.03545
"""

from __future__ import annotations

import copy
import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
import torch.nn.functional as F
from safetensors.torch import load
from torch import Tensor, nn

from seqalign.core.objective import Reward, RewardError
from seqalign.models.emoji_data import BUCKETS, SIZE, tokens, words_of
from seqalign.weights import sound

if TYPE_CHECKING:
    from seqalign.core.process import Designs

__all__ = [
    "EmojiMatch",
    "Layout",
    "MatchNetwork",
    "emoji_match",
    "load_weights",
]

Kind = Literal["residual", "depthwise"]

OVERSHOOT: Final = 0.75
"""How far a pixel may lie outside [0, 1]: a posterior mean may overshoot; [-1, 1] is refused."""


@dataclass(frozen=True)
class Layout:
    """The sizes of one network.

    Attributes:
        kind: "residual" (3x3 convolutions, mean over the picture) or "depthwise" (5x5 depthwise
            convolutions, all places of the last map side by side).
        widths: channels at 16x16, 8x8 and 4x4.
        blocks: blocks at each of the three.
        text: width of the text features.
        embedding: dimension of the sphere.
    """

    kind: Kind
    widths: tuple[int, int, int]
    blocks: tuple[int, int, int]
    text: int = 32
    embedding: int = 64

    def __post_init__(self) -> None:
        """Refuse another kind."""
        if self.kind not in ("residual", "depthwise"):
            raise ValueError(f"Layout: kind is {self.kind!r}; give 'residual' or 'depthwise'.")


class Convolution(nn.Module):
    """A convolution; batch normalization follows in training and is folded into shipped weights.

    Args:
        n: input channels.
        m: output channels.
        size: of the kernel.
        stride: of the kernel.
        groups: of channels.
        folded: whether there is a bias instead of the normalization.
    """

    def __init__(
        self, n: int, m: int, size: int, stride: int = 1, groups: int = 1, *, folded: bool
    ) -> None:
        super().__init__()
        padding = (size - stride + 1) // 2
        self.filter = nn.Conv2d(n, m, size, stride, padding, groups=groups, bias=folded)
        self.norm: nn.BatchNorm2d | None = None if folded else nn.BatchNorm2d(m)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, m, H / stride, W / stride) from (N, n, H, W)."""
        h: Tensor = self.filter(x)
        return h if self.norm is None else self.norm(h)

    def fold(self) -> tuple[Tensor, Tensor]:
        """Return the weight and bias that do what convolution and normalization do together."""
        if self.norm is None:
            assert self.filter.bias is not None  # folded convolutions have one
            return self.filter.weight.detach(), self.filter.bias.detach()
        mean, variance = self.norm.running_mean, self.norm.running_var
        assert mean is not None  # as it is built above
        assert variance is not None
        gain = self.norm.weight.detach() / torch.sqrt(variance + self.norm.eps)
        bias = self.norm.bias.detach() - gain * mean
        return self.filter.weight.detach() * gain[:, None, None, None], bias


class Block(nn.Module):
    """One residual block of either kind, (N, width, H, W) to the same."""

    def __init__(self, kind: Kind, width: int, *, folded: bool) -> None:
        super().__init__()
        if kind == "residual":
            self.first = Convolution(width, width, 3, folded=folded)
            self.second = Convolution(width, width, 3, folded=folded)
        else:
            self.first = Convolution(width, width, 5, groups=width, folded=folded)
            self.up = nn.Conv2d(width, 2 * width, 1)
            self.second = Convolution(2 * width, width, 1, folded=folded)
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, width, H, W)."""
        if self.kind == "residual":
            changed: Tensor = self.second(F.silu(self.first(x)))
            return F.silu(x + changed)
        changed = self.second(F.gelu(self.up(self.first(x))))
        return x + changed


class MatchNetwork(nn.Module):
    """An image network and a text network that embed on one sphere.

    Args:
        layout: its sizes.
        folded: whether batch normalization is folded into the convolutions.
    """

    def __init__(self, layout: Layout, *, folded: bool = True) -> None:
        super().__init__()
        self.layout = layout
        stages: list[nn.Module] = []
        before, sizes = 3, (4, 3, 3) if layout.kind == "residual" else (2, 2, 2)
        for width, blocks, size in zip(layout.widths, layout.blocks, sizes, strict=True):
            stages += [Convolution(before, width, size, 2, folded=folded), nn.SiLU()]
            stages += [Block(layout.kind, width, folded=folded) for _ in range(blocks)]
            before = width
        self.stages = nn.Sequential(*stages)
        places = 1 if layout.kind == "residual" else 16
        self.picture = nn.Linear(places * before, layout.embedding)
        self.features = nn.Embedding(BUCKETS, layout.text)
        self.mix = nn.Linear(layout.text, 2 * layout.text)
        self.say = nn.Linear(2 * layout.text, layout.embedding)
        self.skip = nn.Linear(layout.text, layout.embedding, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(8.0)))
        # A feature that training never shows stays zero: it says nothing.
        nn.init.zeros_(self.features.weight)

    def images(self, x: Tensor, drop: float = 0.0) -> Tensor:
        """Embed pictures (N, 3, 32, 32) in [0, 1] on the unit sphere, (N, embedding)."""
        # The background of an emoji is white: it becomes 0, as the padding of a convolution is.
        x = (2.0 * (x - 1.0)).contiguous(memory_format=torch.channels_last)
        h: Tensor = self.stages(x)
        h = h.mean((2, 3)) if self.layout.kind == "residual" else h.flatten(1)
        e: Tensor = self.picture(F.dropout(h, drop, self.training))
        return F.normalize(e, dim=-1, eps=1e-3)

    def read(self, numbers: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
        """Embed bags of text features on the unit sphere, (n, embedding).

        Args:
            numbers: features of all texts, one text after the other.
            offsets: (n,) where each text begins.
            weights: of each number.
        """
        h = F.embedding_bag(
            numbers, self.features.weight, offsets, mode="sum", per_sample_weights=weights
        )
        t: Tensor = self.say(F.silu(self.mix(h))) + self.skip(h)
        return F.normalize(t, dim=-1, eps=1e-3)

    def texts(self, names: Sequence[str]) -> Tensor:
        """Embed texts on the unit sphere, (n, embedding).

        Raises:
            ValueError: a text has no letter and no digit.
        """
        numbers, offsets, weights = pack(names)
        where = self.features.weight
        return self.read(numbers.to(where.device), offsets.to(where.device), weights.to(where))

    def fold(self) -> dict[str, Tensor]:
        """Return the state of the same network with its normalization folded in."""
        state = {k: v for k, v in self.state_dict().items() if ".norm." not in k}
        for name, module in self.named_modules():
            if isinstance(module, Convolution):
                state[f"{name}.filter.weight"], state[f"{name}.filter.bias"] = module.fold()
        return state


def pack(names: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the text features of n names for `MatchNetwork.read`; each bag has unit length.

    Raises:
        ValueError: a name has no letter and no digit.
    """
    bags = [tokens(name) for name in names]
    counts = torch.tensor([len(bag) for bag in bags])
    numbers = torch.tensor([number for bag in bags for number in bag])
    weights = counts.double().rsqrt().repeat_interleave(counts)
    return numbers, counts.cumsum(0) - counts, weights.float()


def plain(name: str) -> str:
    """Return a name as the networks see it: its words in lower case, in order."""
    return " ".join(words_of(name))


@dataclass(frozen=True, eq=False, kw_only=True)
class EmojiMatch(Reward):
    """The pointwise mutual information of a picture and its island's prompt, in nats.

    Attributes:
        name: what messages and tables call it.
        network: the two towers, in evaluation mode.
        bank: n names, without repetition, that the prompt is compared with.
        scale: of the cosines, in nats.
        unit: "nats".
        cost: seconds per picture.
        differentiable: True, through `graded`.
        reach: one standard deviation of a step's noise, measured in examples/benchmarks.

    Raises:
        ValueError: `scale` is not positive, or the bank is empty.
    """

    name: str
    network: MatchNetwork = field(repr=False)
    bank: tuple[str, ...] = field(repr=False)
    scale: float
    unit: str = "nats"
    cost: float = 1e-3
    differentiable: bool = True
    reach: float | None = 1.0

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if not self.scale > 0:
            raise ValueError(
                f"Reward {self.name!r}: scale is {self.scale}; give a positive number of nats per "
                f"unit of cosine, or None for the calibrated one."
            )
        if not self.bank:
            raise ValueError(
                f"Reward {self.name!r}: the bank is empty; give names to compare with."
            )

    @property
    def most(self) -> float:
        """The upper bound of the score in nats: log of the size of the bank with the prompt."""
        return math.log(len(self.bank) + 1)

    def __call__(self, designs: Designs) -> Tensor:
        """Score pictures (B, K, 3, H, W) as (B, K) in nats, float64.

        Raises:
            RewardError: there are no prompts, or the pictures are none.
        """
        with torch.no_grad():
            return self.graded(designs).double()

    def graded(self, designs: Designs) -> Tensor:
        """Score pictures (B, K, 3, H, W) in [0, 1] as (B, K) in nats, differentiably in designs.x.

        Computed in the precision of the pictures, at least single.

        Raises:
            RewardError: there are no prompts, or the pictures are none.
        """
        x = self._pictures(designs)
        b, k = designs.shape
        e = _cast(self.network, x.dtype, x.device).images(x.flatten(0, 1)).reshape(b, k, -1)
        return self.compare(e, designs.prompts)

    def compare(self, e: Tensor, prompts: tuple[str, ...] | None) -> Tensor:
        """Score embeddings (B, K, d) of pictures against B prompts as (B, K) in nats.

        Raises:
            RewardError: there are no prompts, another number than B, or one without a word.
        """
        said, known, same = self._prompts(prompts, len(e))
        own = self.scale * (e * said.to(e)[:, None]).sum(-1, keepdim=True)
        others = self.scale * (e @ known.to(e).T)
        others = others.masked_fill(same.to(e.device)[:, None], -math.inf)
        # The prompt is one of the n + 1 names; where the bank holds it too, one of n.
        size = len(self.bank) + 1 - same.sum(-1, keepdim=True).to(e)
        return own[..., 0] - torch.logsumexp(torch.cat([own, others], -1), -1) + size.log()

    def embed(self, images: Tensor) -> Tensor:
        """Return unit embeddings (n, d) of pictures (n, 3, 32, 32) in [0, 1]."""
        with torch.no_grad():
            return _cast(self.network, images.dtype, images.device).images(images)

    def _pictures(self, designs: Designs) -> Tensor:
        """Return (B, K, 3, 32, 32) in single precision at least, averaged over areas."""
        x = designs.x
        if designs.alphabet is not None or x.ndim != 5 or x.shape[2] != 3:
            raise RewardError(
                f"Reward {self.name!r} scores RGB pictures of shape (B, K, 3, H, W), got "
                f"designs of shape {tuple(x.shape)}. Use it with a process over images."
            )
        if not x.is_floating_point():
            raise RewardError(
                f"Reward {self.name!r} scores floats in [0, 1], got {x.dtype}. Divide by 255."
            )
        height, width = x.shape[-2:]
        if height != width or height % SIZE or not height:
            raise RewardError(
                f"Reward {self.name!r} sees {SIZE}x{SIZE} pixels and averages over areas of larger "
                f"pictures, got {height}x{width}. Give squares whose side is a multiple of {SIZE}."
            )
        low, high = (float(v) for v in x.detach().aminmax())
        if low < -OVERSHOOT or high > 1 + OVERSHOOT:
            raise RewardError(
                f"Reward {self.name!r} scores pictures in [0, 1], got values from {low:.3g} to "
                f"{high:.3g}. Let the decoder of the process map its states to [0, 1]."
            )
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if height > SIZE:
            x = F.avg_pool2d(x.flatten(0, 1), height // SIZE).reshape(*x.shape[:3], SIZE, SIZE)
        return x

    def _prompts(
        self, prompts: tuple[str, ...] | None, islands: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return prompts (B, d), bank (n, d), and where in the bank the prompt is, (B, n) bool."""
        if prompts is None:
            raise RewardError(
                f"Reward {self.name!r} compares pictures with words, and these designs have "
                f"no prompts. Use a process with a prompt, or Designs(x, prompts=(...,)), one for "
                f"each island."
            )
        if len(prompts) != islands:
            raise RewardError(
                f"Reward {self.name!r}: there are {islands} islands and {len(prompts)} prompts; "
                f"give one prompt for each island."
            )
        spoken = [plain(prompt) for prompt in prompts]
        for prompt, words in zip(prompts, spoken, strict=True):
            if not words:
                raise RewardError(
                    f"Reward {self.name!r}: the prompt {prompt!r} has no letter and no digit; give "
                    f"words, such as 'smiling cat face'."
                )
        said = torch.cat([_embedded(self.network, (words,)) for words in spoken])
        same = torch.zeros(islands, len(self.bank), dtype=torch.bool)
        for row, words in zip(same, spoken, strict=True):
            if words in self.bank:
                row[self.bank.index(words)] = True
        return said, _embedded(self.network, self.bank), same


@lru_cache(maxsize=8)
def _cast(network: MatchNetwork, dtype: torch.dtype, device: torch.device) -> MatchNetwork:
    """Return the network in another precision or place; itself where nothing changes."""
    weight = network.picture.weight
    if (weight.dtype, weight.device) == (dtype, device):
        return network
    return copy.deepcopy(network).to(dtype=dtype, device=device)


@lru_cache(maxsize=4096)
def _embedded(network: MatchNetwork, names: tuple[str, ...]) -> Tensor:
    """Embed texts once, ever, (n, embedding)."""
    with torch.no_grad():
        return network.texts(names)


def load_weights(
    data: bytes, file: str = "emoji-match"
) -> tuple[MatchNetwork, tuple[str, ...], float]:
    """Return the network, the bank and the calibrated scale in the bytes of a weights file.

    Raises:
        ValueError: the file is not one that `train_emoji_match` wrote.
    """
    (length,) = struct.unpack("<Q", data[:8])
    about = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    if not {"layout", "bank", "scale"} <= set(about):
        raise ValueError(
            f"The weights hold {sorted(about)} beside the tensors, and layout, bank and scale are "
            f"needed. Train them with `python -m seqalign.rewards.train_emoji_match --data DATA "
            f"--out FOLDER`."
        )
    sizes: dict[str, Any] = json.loads(about["layout"])
    sizes = {key: tuple(v) if isinstance(v, list) else v for key, v in sizes.items()}
    network = MatchNetwork(Layout(**sizes))
    state = sound(load(data).items(), file)
    network.load_state_dict({name: w.float() for name, w in state.items()})
    network.eval().requires_grad_(False)
    return network, tuple(json.loads(about["bank"])), float(about["scale"])


@cache
def _shipped(file: str) -> tuple[MatchNetwork, tuple[str, ...], float]:
    return load_weights(files("seqalign.rewards").joinpath(file).read_bytes(), file)


def emoji_match(*, registered: str = "emoji-match", scale: float | None = None) -> EmojiMatch:
    """Return how well a 32x32 picture shows its prompt, in nats.

    Args:
        registered: "emoji-match", or its hold-out twin "emoji-match-holdout": reported, never
            optimized.
        scale: of the cosines, in nats; None is the scale calibrated on validation names.
    """
    network, bank, calibrated = _shipped(f"{registered}.safetensors")
    scale = calibrated if scale is None else float(scale)
    return EmojiMatch(name=registered, network=network, bank=bank, scale=scale)
