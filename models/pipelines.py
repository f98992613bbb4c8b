"""Pretrained image pipelines of diffusers as processes: `from_pipeline(pipe, prompt="a fox")`.

One protocol serves every pretrained image model, `Adapter`: encode the prompts once, draw x_T,
predict x̂0, give the mean and deviation of a step, decode. Any adapter makes a `PretrainedProcess`;
`from_pipeline` makes the adapter of a diffusers pipeline from its networks and its scheduler's
coefficients. The pipeline's own loop never runs, so that chunks of particles, gradients and
log-probabilities are those of the engine.

| pipeline | latent | guidance | kernel |
|---|---|---|---|
| DDPMPipeline, DDIMPipeline | no | none | DDIM with eta |
| StableDiffusionPipeline (1.x, 2.x), StableDiffusionXLPipeline | yes | pair | DDIM with eta |
| the same with an LCMScheduler, LatentConsistencyModelPipeline | yes | an input | consistency |
| StableDiffusion3Pipeline | yes | pair | rectified-flow SDE |
| FluxPipeline | yes, packed | an input, or pair | rectified-flow SDE |

This module needs neither diffusers nor transformers by itself: whoever holds a pipeline has them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from seqalign.core.gaussian import Continuous, Gaussian, GaussianPosterior
from seqalign.core.process import Designs
from seqalign.core.streams import Streams
from seqalign.models.diffusion_kernels import Kernel, kernel_of, moments
from seqalign.models.diffusion_networks import (
    NETWORKS,
    UNCONDITIONAL,
    Condition,
    Encoding,
    LatentDecoder,
    Network,
    Wish,
    pixels,
)

__all__ = ["Adapter", "Checkpointing", "DiffusersAdapter", "PretrainedProcess", "from_pipeline"]

Checkpointing = Literal["none", "decoder", "all"]


class Adapter(Protocol):
    """A pretrained image model, whatever library it comes from."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    @property
    def times(self) -> Tensor:
        """(T + 1,) decreasing from 1 to 0."""
        ...

    @property
    def eta(self) -> float:
        """Scale of the noise of a step; 0 is deterministic, and no particle method can weigh it."""
        ...

    @property
    def calls_per_state(self) -> int:
        """Network calls per particle and step: 2 with classifier-free guidance."""
        ...

    @property
    def device(self) -> torch.device:
        """Where states live."""
        ...

    def schedule(self, t: float) -> tuple[float, float]:
        """Return (a, b) of x_t = a·x_0 + b·noise."""
        ...

    def encode(self, prompts: Sequence[str], negatives: Sequence[str]) -> Condition | None:
        """Encode P prompts, once per job; None for a model without text."""
        ...

    def init(self, shape: tuple[int, int], rng: Streams) -> Tensor:
        """Draw x_T, (B, K, C, H, W)."""
        ...

    def predict(self, x: Tensor, t: float, condition: Condition | None) -> Tensor:
        """Return x̂0 (B, K, C, H, W) for states (B, K, C, H, W), differentiably."""
        ...

    def kernel(self, x_t: Tensor, x_0: Tensor, t: float, s: float) -> tuple[Tensor, float]:
        """Return mean (B, K, C, H, W) and standard deviation of p(x_s | x_t, x̂0)."""
        ...

    def decode(self, x_0: Tensor) -> Tensor:
        """Return images (B, K, 3, H, W) in [0, 1], differentiably."""
        ...


@dataclass(frozen=True, eq=False)
class DiffusersAdapter:
    """The networks of a diffusers pipeline with the coefficients of its scheduler.

    Attributes:
        name: the class of the pipeline, or what the caller says.
        event: (C, H, W) of a state.
        network: states, timestep and encoded texts to raw output.
        coefficients: the grid and the kernels.
        decoder: x̂0 to images.
        dtype: precision of states; the network has its own.
    """

    name: str
    event: tuple[int, int, int]
    network: Network
    coefficients: Kernel
    decoder: Callable[[Tensor], Tensor]
    dtype: torch.dtype = torch.float32

    @property
    def times(self) -> Tensor:
        """(T + 1,) decreasing from 1 to 0."""
        return self.coefficients.times

    @property
    def eta(self) -> float:
        """Scale of the noise of a step."""
        return self.coefficients.eta

    @property
    def calls_per_state(self) -> int:
        """2 for a guidance pair, else 1."""
        return 1 if self.network.pair is None else 2

    @property
    def device(self) -> torch.device:
        """Where the network lives."""
        return torch.device(self.network.module.device)

    def schedule(self, t: float) -> tuple[float, float]:
        """Return (a, b) at t."""
        return self.coefficients.schedule(t)

    def encode(self, prompts: Sequence[str], negatives: Sequence[str]) -> Condition | None:
        """Encode P prompts with their negative prompts, each distinct pair once and by itself."""
        memory: dict[tuple[str, str], Condition | None] = {}
        for pair in zip(prompts, negatives, strict=True):
            if pair not in memory:
                with torch.no_grad():
                    memory[pair] = self.network.encode(*pair)
        found = [memory[pair] for pair in zip(prompts, negatives, strict=True)]
        known = [condition for condition in found if condition is not None]
        if not known:
            return None
        like = self.network.module
        return Condition.cat(known).map(lambda v: v.to(like.device, like.dtype))

    def init(self, shape: tuple[int, int], rng: Streams) -> Tensor:
        """Draw x_T ~ N(0, I), (B, K, C, H, W)."""
        return rng.normal((*shape, *self.event), self.device).to(self.dtype)

    def predict(self, x: Tensor, t: float, condition: Condition | None) -> Tensor:
        """Return x̂0, (B, K, C, H, W); a guidance pair is one call on twice the rows.

        References:
            Ho & Salimans, "Classifier-free diffusion guidance", arXiv 2207.12598, equation 6.
        """
        b, k = x.shape[:2]
        flat = x.flatten(0, 1).to(self.network.module.dtype)
        timestep, pair = self.coefficients.timestep(t), self.network.pair
        texts = None if condition is None else condition.rows(b, k)
        if texts is None or texts.unwanted is None or pair is None:
            output = self.network(flat, timestep, None if texts is None else texts.wanted)
            output = output.to(x.dtype)
        else:
            both = Encoding.cat([texts.unwanted, texts.wanted])
            away, toward = self.network(torch.cat((flat, flat)), timestep, both).chunk(2)
            # the difference is small and its factor large: full precision
            output = torch.lerp(away.to(x.dtype), toward.to(x.dtype), pair)
        return self.coefficients.clean(x, output.unflatten(0, (b, k)), t)

    def kernel(self, x_t: Tensor, x_0: Tensor, t: float, s: float) -> tuple[Tensor, float]:
        """Return mean and standard deviation of p(x_s | x_t, x̂0)."""
        return moments(self.coefficients, x_t, x_0, t, s)

    def decode(self, x_0: Tensor) -> Tensor:
        """Return images (B, K, 3, H, W) in [0, 1]."""
        return self.decoder(x_0)


@dataclass(frozen=True, eq=False)
class PretrainedProcess(Continuous):
    """A pretrained image model as a reverse diffusion with Gaussian kernels.

    Attributes:
        adapter: the model.
        condition: encoded prompts, one per island or one for all; None without text.
        prompts: the same in words.
        chunk: particles per network call (a guidance pair counts once); None sends all at once.
    """

    adapter: Adapter
    condition: Condition | None = field(default=None, repr=False)
    prompts: tuple[str, ...] | None = None
    chunk: int | None = None
    differentiable: bool = True
    takes_time: bool = True
    discrete: bool = False
    event_mask: Tensor | None = None

    def __post_init__(self) -> None:
        """Check chunk."""
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"chunk must be >= 1, or None for no chunks; got {self.chunk}.")

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.adapter.name

    @property
    def times(self) -> Tensor:
        """(T + 1,) decreasing from 1 to 0."""
        return self.adapter.times

    @property
    def steps(self) -> int:
        """T."""
        return len(self.times) - 1

    @property
    def eta(self) -> float:
        """Scale of the noise of a step."""
        return self.adapter.eta

    @property
    def calls_per_state(self) -> int:
        """Network calls per particle and step."""
        return self.adapter.calls_per_state

    @property
    def device(self) -> torch.device:
        """Where states live."""
        return self.adapter.device

    def schedule(self, t: float) -> tuple[float, float]:
        """Return (a, b) of x_t = a·x_0 + b·noise."""
        return self.adapter.schedule(t)

    def take(self, islands: Sequence[int]) -> PretrainedProcess:
        """Return the process of a subset of its islands; one prompt serves any number."""
        if self.prompts is None or len(self.prompts) == 1 or self.condition is None:
            return self
        prompts = tuple(self.prompts[i] for i in islands)
        return replace(self, condition=self.condition.take(islands), prompts=prompts)

    def prior(self, shape: tuple[int, int], rng: Streams) -> Tensor:
        """Draw x_T, (B, K, C, H, W)."""
        self._asked(shape[0])
        return self.adapter.init(shape, rng)

    def posterior(self, x: Tensor, t: float, *before: Any) -> GaussianPosterior:
        """Call the network: x̂0 and the deviation of x_0 if its prior were a unit normal."""
        a, b = self.schedule(t)
        mean = self.adapter.predict(x, t, self.condition)
        return GaussianPosterior(mean, b / math.hypot(a, b))

    def transition(self, x_t: Tensor, posterior: GaussianPosterior, t: float, s: float) -> Gaussian:
        """Return p(x_s | x_t)."""
        return Gaussian(*self.adapter.kernel(x_t, posterior.mean, t, s))

    def decode(self, x_0: Tensor) -> Designs:
        """Turn finished states into images (B, K, 3, H, W) in [0, 1] with their prompts."""
        return Designs(self.adapter.decode(x_0), prompts=self._asked(x_0.shape[0]))

    def _asked(self, b: int) -> tuple[str, ...] | None:
        if self.prompts is None or len(self.prompts) == b:
            return self.prompts
        if len(self.prompts) == 1:
            return self.prompts * b
        raise ValueError(
            f"There are {len(self.prompts)} prompts for {b} islands: give one per island, or one "
            f"for all."
        )


# from a pipeline ----------------------------------------------------------------------------------


def from_pipeline(
    pipeline: Any,
    *,
    prompt: str | None = None,
    prompts: Sequence[str] | None = None,
    negative_prompt: str | Sequence[str] = "",
    steps: int = 50,
    guidance: float | None = None,
    true_guidance: float = 1.0,
    eta: float = 1.0,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    chunk: int | None = None,
    height: int | None = None,
    width: int | None = None,
    max_sequence_length: int | None = None,
    checkpointing: Checkpointing = "decoder",
    name: str | None = None,
) -> PretrainedProcess:
    """Return a diffusers pipeline as a process; its scheduler and its settings stay as they are.

    The pipeline's networks are frozen and put into evaluation mode, and, if `device` or `dtype`
    say so, moved as `pipeline.to` does. A half-precision autoencoder that overflows (SDXL's, by its
    `force_upcast`) is turned to float32. Safety checkers and watermarks do not run.

    States are float32 (float64 if the network is), whatever the precision of the network;
    log-probabilities are float64 sums over all coordinates.

    Args:
        pipeline: one of the kinds in the table of this module.
        prompt: what to draw, on every island.
        prompts: one prompt per island, instead.
        negative_prompt: what to lead away from: one text, or one per prompt. "" is the model's own.
        steps: network calls per particle, or pairs of calls.
        guidance: scale of classifier-free guidance; None is the pipeline's usual (SD 7.5, SDXL 5,
            LCM 8.5, SD3 7, Flux 3.5), 1 is none and halves the calls.
        true_guidance: scale of a guidance pair for Flux, beside the guidance that its network takes
            as an input; 1 is none.
        eta: scale of the noise; for DDPM-trained models 1 is ancestral sampling, for flows "a" of
            Flow-GRPO, where 0.7 is usual. At 0 steps are deterministic and no method can weigh.
        dtype: precision of the networks; None leaves it. Gradients underflow in float16 more easily
            than in bfloat16.
        device: where the networks go; None leaves them.
        chunk: particles per network call (a pair counts once); None sends all at once.
        height: pixels; None is the size that the model was made for.
        width: pixels.
        max_sequence_length: tokens that a T5 encoder reads (SD3 256, Flux 512, Flux schnell 256).
        checkpointing: "decoder" computes the autoencoder's activations again on the way back, one
            image at a time; "all" does it for the network's blocks, too; "none" keeps them.
        name: what messages call it; the class of the pipeline by default.

    Raises:
        TypeError: the pipeline is of another kind.
        ValueError: an argument does not fit the pipeline; the message says what would.

    References:
        Kim, Kim & Park, "Test-time alignment of diffusion models without reward over-optimization",
        arXiv 2501.05803 (DAS on Stable Diffusion, SDXL and LCM).
    """
    kind = next((c.__name__ for c in type(pipeline).__mro__ if c.__name__ in NETWORKS), None)
    if kind is None:
        raise TypeError(
            f"{type(pipeline).__name__} is none of {', '.join(NETWORKS)}. If it shares their "
            f"parts, give e.g. StableDiffusionPipeline(**pipeline.components), or write an Adapter."
        )
    if checkpointing not in get_args(Checkpointing):
        raise ValueError(
            f"checkpointing is {checkpointing!r}; give one of {', '.join(get_args(Checkpointing))}."
        )
    asked, negatives = _prompts(kind, prompt, prompts, negative_prompt)
    if device is not None:
        pipeline.to(device)
    if dtype is not None:
        pipeline.to(dtype)
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            part.requires_grad_(False).eval()

    size, factor = _size(pipeline, kind, height, width)
    wish = Wish(guidance, true_guidance, any(negatives), max_sequence_length)
    network = NETWORKS[kind](pipeline, size, wish)
    channels = _channels(network.module, kind)
    event = (channels, size[0] // factor, size[1] // factor)
    patch = getattr(network.module.config, "patch_size", 1) if kind != "FluxPipeline" else 2
    kernel = kernel_of(
        pipeline.scheduler,
        steps,
        eta=eta,
        tokens=(event[1] // patch) * (event[2] // patch),
        linear=kind == "FluxPipeline",
    )
    if checkpointing == "all":
        network.module.enable_gradient_checkpointing()
    decoder: Callable[[Tensor], Tensor] = pixels
    vae = getattr(pipeline, "vae", None)
    if vae is not None:
        if vae.dtype == torch.float16 and getattr(vae.config, "force_upcast", False):
            vae.to(torch.float32)
        decoder = LatentDecoder(vae, recompute=checkpointing != "none")
    states = torch.float64 if network.module.dtype == torch.float64 else torch.float32
    adapter = DiffusersAdapter(name or kind, event, network, kernel, decoder, states)
    condition = None if asked is None else adapter.encode(asked, negatives)
    return PretrainedProcess(adapter, condition, asked, chunk)


def _prompts(
    kind: str,
    prompt: str | None,
    prompts: Sequence[str] | None,
    negative_prompt: str | Sequence[str],
) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """Return the prompts and a negative prompt for each."""
    single = isinstance(negative_prompt, str)
    if kind in UNCONDITIONAL:
        if prompt is not None or prompts is not None:
            raise ValueError(f"{kind} has no text condition: leave prompt and prompts out.")
        return None, (negative_prompt,) if isinstance(negative_prompt, str) else ("?",)
    if (prompt is None) == (prompts is None):
        raise ValueError(
            f"{kind} needs prompt (one text for all islands) or prompts (one per island), and not "
            f"both."
        )
    asked = (prompt,) if prompts is None else tuple(prompts)
    if isinstance(prompts, str) or not asked or not all(isinstance(p, str) for p in asked):
        raise ValueError(f"prompts must be a list of texts, one per island, got {prompts!r}.")
    negatives = (str(negative_prompt),) * len(asked) if single else tuple(negative_prompt)
    if len(negatives) != len(asked):
        raise ValueError(
            f"There are {len(negatives)} negative prompts for {len(asked)} prompts: give one text, "
            f"or one per prompt."
        )
    return tuple(str(p) for p in asked), negatives


def _size(
    pipeline: Any, kind: str, height: int | None, width: int | None
) -> tuple[tuple[int, int], int]:
    """Return (height, width) in pixels, and how many of them are one coordinate of the state."""
    factor: int = getattr(pipeline, "vae_scale_factor", 1)
    transformer = getattr(pipeline, "transformer", None)
    if transformer is not None:
        # Flux names no size of its own; it was made for 1024 pixels
        sample = pipeline.default_sample_size
        multiple = factor * (2 if kind == "FluxPipeline" else transformer.config.patch_size)
    else:
        sample = pipeline.unet.config.sample_size
        multiple = factor
        if kind in UNCONDITIONAL:
            multiple = 2 ** (len(pipeline.unet.config.block_out_channels) - 1)
    if sample is None and (height is None or width is None):
        raise ValueError(f"This {kind} names no size: give height and width in pixels.")
    own = (0, 0) if sample is None else (sample, sample) if isinstance(sample, int) else sample
    size = (height or own[0] * factor, width or own[1] * factor)
    if any(n < 1 or n % multiple for n in size):
        raise ValueError(
            f"An image of {size[0]} x {size[1]} pixels does not fit this {kind}: height and width "
            f"must be multiples of {multiple}."
        )
    return size, factor


def _channels(module: Any, kind: str) -> int:
    """Return the channels of a state."""
    config = module.config
    given = int(config.in_channels)
    if kind == "FluxPipeline":
        return given // 4
    back = int(getattr(config, "out_channels", given) or given)
    if given != back:
        raise ValueError(
            f"The network of this {kind} maps {given} channels to {back}: it takes more than the "
            f"state (inpainting), or predicts its variance, too. Neither is supported."
        )
    if kind in UNCONDITIONAL and given not in (1, 3):
        raise ValueError(f"Images have 1 or 3 channels; this {kind} has {given}.")
    return given
