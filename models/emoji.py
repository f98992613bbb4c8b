"""emoji-mini: text-conditioned pixel diffusion of 32x32 emoji, small enough for one core.

A U-Net on 2x2 blocks of pixels: 16x16 positions of 12 values, one level down to 8x8 with
self-attention. Time and text act on every block by a scale and a shift per channel. It predicts the
velocity v = a·noise − b·x_0 of the cosine path, so that x_0 = a·x_t − b·v has a bounded error at
every time, the pure noise of t = 1 included (Salimans & Ho 2022, section 4 and appendix D).

*States* are RGB in [-1, 1]; `decode` clamps to it and maps it to [0, 1]. *Text* is a bag of words,
spelling and kinds (`seqalign.models.emoji_data.tokens`), encoded once per prompt when the process
is made: no network call encodes it again.

Weights, data, held-out figures, samples and limits: `cards/emoji-mini.yaml`. Training:
`train_emoji`.

References:
    Progressive distillation for fast sampling of diffusion models, Salimans & Ho, 2022,
    https://arxiv.org/abs/2202.00512 (v-prediction, cosine path)
    Classifier-free diffusion guidance, Ho & Salimans, 2022, https://arxiv.org/abs/2207.12598
    FiLM: visual reasoning with a general conditioning layer, Perez et al., 2018,
    https://arxiv.org/abs/1709.07871
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F
from safetensors.torch import load
from torch import Tensor, nn

from seqalign.core.gaussian import GaussianProcess
from seqalign.models.emoji_data import BUCKETS, SIZE, bags
from seqalign.weights import sound

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Cosine", "EmojiDenoiser", "EmojiNetwork", "emoji_mini", "load_weights"]

GROUPS: Final = 8
"""Groups of channels that are normalized together."""

WAVES: Final = 16
"""Frequencies by which the network sees the time."""

AUGMENTS: Final = 7
"""Numbers that tell the network how a training image was changed; all 0 for a drawing as it is."""


@dataclass(frozen=True)
class Cosine:
    """a = cos(πt/2), b = sin(πt/2): pure noise at t = 1, the image at t = 0.

    References:
        Salimans & Ho, arXiv 2202.00512, section 2.
    """

    def __call__(self, t: float) -> tuple[float, float]:
        """Return (a, b) at time t."""
        # 1 - t and not cos: exactly 0 at t = 1
        return math.sin(0.5 * math.pi * (1.0 - t)), math.sin(0.5 * math.pi * t)


class Block(nn.Module):
    """Two convolutions around a residual; the condition scales and shifts the second's input."""

    def __init__(self, before: int, after: int, condition: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.norm_in = nn.GroupNorm(GROUPS, before)
        self.conv_in = nn.Conv2d(before, after, 3, padding=1)
        self.film = nn.Linear(condition, 2 * after)
        self.norm_out = nn.GroupNorm(GROUPS, after)
        self.conv_out = nn.Conv2d(after, after, 3, padding=1)
        self.skip = nn.Conv2d(before, after, 1) if before != after else nn.Identity()
        nn.init.zeros_(self.conv_out.weight)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        """Return (N, after, H, W) from (N, before, H, W) and the condition (N, D)."""
        inner = self.conv_in(F.silu(self.norm_in(h)))
        scale, shift = self.film(condition)[:, :, None, None].chunk(2, 1)
        inner = F.silu(self.norm_out(inner) * (1 + scale) + shift)
        if self.training and self.dropout > 0:
            inner = F.dropout2d(inner, self.dropout)
        out: Tensor = self.skip(h) + self.conv_out(inner)
        return out


class Attention(nn.Module):
    """Self-attention over the positions of a small map, with a residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(GROUPS, width)
        self.qkv = nn.Linear(width, 3 * width)
        self.join = nn.Linear(width, width)
        nn.init.zeros_(self.join.weight)

    def forward(self, h: Tensor) -> Tensor:
        """Return (N, C, H, W) from (N, C, H, W)."""
        n, c, height, width = h.shape
        rows = self.norm(h).flatten(2).transpose(1, 2)
        qkv = self.qkv(rows).view(n, height * width, 3, self.heads, c // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        # Written out: on few positions the backward pass of the fused kernel is ten times slower.
        share = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(-1).to(v.dtype)
        mixed = (share @ v).transpose(1, 2).reshape(rows.shape)
        out: Tensor = h + self.join(mixed).transpose(1, 2).reshape(h.shape)
        return out


class EmojiNetwork(nn.Module):
    """Predict the velocity of noisy emoji, given time and text."""

    frequencies: Tensor

    def __init__(
        self,
        width: int = 64,
        depth: int = 2,
        middle: int = 3,
        heads: int = 4,
        words: int = 64,
        condition: int = 256,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        inner = 2 * width
        self.words = nn.Parameter(torch.randn(BUCKETS, words) * 0.5)
        self.text = nn.Sequential(
            nn.Linear(words, condition), nn.SiLU(), nn.Linear(condition, condition)
        )
        self.time = nn.Sequential(
            nn.Linear(2 * WAVES, condition), nn.SiLU(), nn.Linear(condition, condition)
        )
        self.augment = nn.Linear(AUGMENTS, condition, bias=False)
        self.enter = nn.Conv2d(12, width, 3, padding=1)
        self.place = nn.Parameter(torch.zeros(width, SIZE // 2, SIZE // 2))
        self.down = nn.ModuleList(Block(width, width, condition, 0.0) for _ in range(depth))
        self.shrink = nn.Conv2d(4 * width, inner, 1)
        self.middle = nn.ModuleList(Block(inner, inner, condition, dropout) for _ in range(middle))
        self.attention = nn.ModuleList(Attention(inner, heads) for _ in range(middle))
        self.grow = nn.Conv2d(inner, 4 * width, 1)
        self.up = nn.ModuleList(Block(2 * width, width, condition, 0.0) for _ in range(depth))
        self.norm = nn.GroupNorm(GROUPS, width)
        self.leave = nn.Conv2d(width, 12, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        waves = torch.exp(torch.linspace(0.0, math.log(100.0), WAVES))
        self.register_buffer("frequencies", waves, persistent=False)

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], heads: int = 4) -> EmojiNetwork:
        """Return the network that `weights` (a state dict) belong to, loaded, whatever its size."""
        count = {
            part: 1 + max(int(name.split(".")[1]) for name in weights if name.startswith(part))
            for part in ("down.", "middle.")
        }
        network = cls(
            width=len(weights["enter.weight"]),
            depth=count["down."],
            middle=count["middle."],
            heads=heads,
            words=weights["words"].shape[1],
            condition=len(weights["text.0.weight"]),
        )
        network.load_state_dict(dict(weights))
        return network

    def encode(self, bag: Tensor) -> Tensor:
        """Return the encodings (N, D) of text features (N, `BUCKETS`); zeros mean no text."""
        encoded: Tensor = self.text(bag @ self.words)
        return encoded

    def forward(self, x: Tensor, t: Tensor, text: Tensor, augment: Tensor | None = None) -> Tensor:
        """Return the velocities (N, 3, 32, 32).

        Args:
            x: (N, 3, 32, 32) noisy images.
            t: (N,) times in [0, 1].
            text: (N, D) from `encode`.
            augment: (N, `AUGMENTS`), how the images were changed in training; None for not at all.
        """
        angle = t[:, None] * self.frequencies
        condition = self.time(torch.cat((angle.sin(), angle.cos()), 1)) + text
        if augment is not None:
            condition = condition + self.augment(augment)
        condition = F.silu(condition)
        h = F.pixel_unshuffle(x, 2).contiguous(memory_format=torch.channels_last)
        h = self.enter(h) + self.place
        kept = []
        for block in self.down:
            h = block(h, condition)
            kept.append(h)
        h = self.shrink(F.pixel_unshuffle(h, 2))
        for block, attention in zip(self.middle, self.attention, strict=True):
            h = attention(block(h, condition))
        h = F.pixel_shuffle(self.grow(h), 2)
        for block in self.up:
            h = block(torch.cat((h, kept.pop()), 1), condition)
        return F.pixel_shuffle(self.leave(F.silu(self.norm(h))), 2)


class EmojiDenoiser:
    """The network as a process calls it: noisy states to the mean of x_0, with the text at hand.

    Attributes:
        network: in evaluation mode.
        text: (B, D) encodings, one per prompt.
        nothing: (1, D), the encoding of no text.
        guidance: weight w of classifier-free guidance, x_0 = none + w·(with text − none). 1 is the
            plain conditional model, 0 the unconditional one, each by ONE network call; any other
            weight makes two calls, and an equal-budget comparison counts them as two.
    """

    def __init__(
        self, network: EmojiNetwork, text: Tensor, nothing: Tensor, guidance: float = 1.0
    ) -> None:
        self.network = network
        self.text = text
        self.nothing = nothing
        self.guidance = guidance

    def __repr__(self) -> str:
        """Return one line: a process is printed with its network."""
        size = sum(p.numel() for p in self.network.parameters())
        return (
            f"EmojiDenoiser({size} parameters, {len(self.text)} prompts, guidance {self.guidance})"
        )

    @property
    def calls_per_state(self) -> int:
        """Network calls that one visit of a state costs: 2 for a guidance pair."""
        return 1 if self.guidance in (0.0, 1.0) else 2

    def take(self, islands: Sequence[int]) -> EmojiDenoiser:
        """Return the denoiser of some of the islands, in the given order; one prompt serves all."""
        if len(self.text) == 1:
            return self
        return EmojiDenoiser(self.network, self.text[list(islands)], self.nothing, self.guidance)

    def __call__(self, x: Tensor, t: float) -> Tensor:
        """Return the mean of x_0, (B, K, 3, 32, 32), of states (B, K, 3, 32, 32) at time t.

        Raises:
            ValueError: there are neither B prompts nor one.
        """
        b = x.shape[0]
        if len(self.text) not in (1, b):
            raise ValueError(
                f"emoji-mini holds {len(self.text)} prompts and was asked for {b} islands; give "
                "one prompt per island, or a single prompt for all."
            )
        if self.guidance == 1:
            return self._mean(x, t, self.text)
        nothing = self._mean(x, t, self.nothing)
        if self.guidance == 0:
            return nothing
        return nothing + self.guidance * (self._mean(x, t, self.text) - nothing)

    def _mean(self, x: Tensor, t: float, text: Tensor) -> Tensor:
        b, k = x.shape[:2]
        rows = x.flatten(0, 1)
        text = text.expand(b, -1).repeat_interleave(k, 0)
        v: Tensor = self.network(rows, rows.new_full((b * k,), t), text)
        a, b_t = Cosine()(t)
        return (a * rows - b_t * v).reshape(x.shape)


def to_images(x: Tensor) -> Tensor:
    """Return RGB in [0, 1] of states: [-1, 1], clamped; inside it gradients pass."""
    return (0.5 + 0.5 * x).clamp(0.0, 1.0)


def load_weights(data: bytes, file: str = "emoji-mini.safetensors") -> EmojiNetwork:
    """Return the network of a safetensors file's bytes: in evaluation mode, float32, frozen."""
    state = sound(load(data).items(), file)
    network = EmojiNetwork.of({name: w.float() for name, w in state.items()})
    # convolutions over many channels are faster with the channels last in memory
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval().requires_grad_(False)


@cache
def shipped() -> EmojiNetwork:
    """Return the network of the weights in this package, loaded once."""
    return load_weights(files("seqalign.models").joinpath("emoji-mini.safetensors").read_bytes())


@cache
def _network_of(path: str) -> EmojiNetwork:
    return load_weights(Path(path).expanduser().read_bytes(), path)


def emoji_mini(
    prompt: str | None = None,
    prompts: Sequence[str] | None = None,
    *,
    steps: int = 50,
    eta: float = 1.0,
    guidance: float = 1.0,
    chunk: int | None = 16,
    weights: str | None = None,
) -> GaussianProcess:
    """Return the diffusion of emoji that fit a text, one prompt per island.

    Args:
        prompt: the text of every island, such as "smiling cat face".
        prompts: one text per island, instead of `prompt`.
        steps: number of steps, one network call per particle each.
        eta: 1 is ancestral sampling; 0 is deterministic, which no particle method can weigh.
        guidance: weight of classifier-free guidance. 1, the default, is the plain conditional
            model; any other weight than 0 and 1 makes TWO network calls where 1 makes one, which
            equal-budget comparisons must count, and its p_pre is another law than the trained one.
        chunk: particles per network call; None sends all at once.
        weights: path of a safetensors file that `train_emoji` wrote; by default the shipped one.

    Raises:
        FileNotFoundError: there is no file `weights`.
        ValueError: neither or both of `prompt` and `prompts` are given, a prompt has no letter and
            no digit, or `guidance` is negative or not finite.
    """
    if (prompt is None) == (prompts is None):
        raise ValueError(
            "emoji_mini needs either prompt='...', one text for every island, or prompts=[...], "
            "one text per island."
        )
    if isinstance(prompts, str):
        raise ValueError(
            f"emoji_mini: prompts={prompts!r} is one string; give a list, or prompt={prompts!r}."
        )
    texts = (prompt,) if prompt is not None else tuple(prompts or ())
    if not texts:
        raise ValueError("emoji_mini: prompts is empty; give at least one text.")
    if not (math.isfinite(guidance) and guidance >= 0):
        raise ValueError(
            f"emoji_mini: guidance={guidance}; give 1 for the plain conditional model, or a number "
            "above 1 to follow the text more strictly."
        )
    network = shipped() if weights is None else _network_of(weights)
    return process_of(network, texts, steps=steps, eta=eta, guidance=guidance, chunk=chunk)


def process_of(
    network: EmojiNetwork,
    prompts: Sequence[str],
    *,
    steps: int = 50,
    eta: float = 1.0,
    guidance: float = 1.0,
    chunk: int | None = None,
) -> GaussianProcess:
    """Return the process of any network of this kind, in its precision; see `emoji_mini`."""
    dtype = network.words.dtype
    with torch.no_grad():
        # each by itself: the bits of a prompt do not depend on its company
        rows = torch.from_numpy(bags(prompts)).to(dtype).split(1)
        text = torch.cat([network.encode(row) for row in rows])
        nothing = network.encode(torch.zeros(1, BUCKETS, dtype=dtype))
    return GaussianProcess(
        denoiser=EmojiDenoiser(network, text, nothing, float(guidance)),
        event=(3, SIZE, SIZE),
        steps=steps,
        schedule=Cosine(),
        eta=eta,
        differentiable=True,
        chunk=chunk,
        decoder=to_images,
        dtype=dtype,
        name="emoji-mini",
        prompts=tuple(prompts),
    )
