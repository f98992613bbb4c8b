"""The networks of pretrained image pipelines as plain functions, with text encoded once.

A network here maps N noised states, a timestep and the encodings of N prompts to its raw output;
what that says about the clean image is the kernel's business (`seqalign.models.diffusion_kernels`).
The parts come from a diffusers pipeline that the user holds. Of the pipeline's own methods only
those that encode texts and numbers are used; its loop never runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol, Self

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recomputed

__all__ = [
    "Condition",
    "Encoding",
    "Flux",
    "LatentDecoder",
    "Network",
    "StableDiffusion3",
    "TextUNet",
    "UNet",
    "pixels",
]


@dataclass(frozen=True, eq=False)
class Encoding:
    """Encoded texts.

    Attributes:
        text: (P, S, D) one vector per token.
        pooled: (P, E) one vector per text, for networks that take it.
    """

    text: Tensor
    pooled: Tensor | None = None

    def map(self, f: Callable[[Tensor], Tensor]) -> Self:
        """Apply `f` to every tensor."""
        return replace(
            self, text=f(self.text), pooled=None if self.pooled is None else f(self.pooled)
        )

    @staticmethod
    def cat(parts: Sequence[Encoding]) -> Encoding:
        """Join encodings along their first dimension."""
        pooled = [part.pooled for part in parts if part.pooled is not None]
        return Encoding(
            torch.cat([part.text for part in parts]), torch.cat(pooled) if pooled else None
        )


@dataclass(frozen=True, eq=False)
class Condition:
    """What P prompts ask for, and what to lead away from if a guidance pair is wanted."""

    wanted: Encoding
    unwanted: Encoding | None = None

    @property
    def size(self) -> int:
        """P."""
        return self.wanted.text.shape[0]

    def map(self, f: Callable[[Tensor], Tensor]) -> Self:
        """Apply `f` to every tensor."""
        away = None if self.unwanted is None else self.unwanted.map(f)
        return replace(self, wanted=self.wanted.map(f), unwanted=away)

    def take(self, islands: Sequence[int]) -> Self:
        """Return the condition of some islands; one prompt serves any number."""
        return self if self.size == 1 else self.map(lambda v: v[list(islands)])

    def rows(self, b: int, k: int) -> Self:
        """Repeat every prompt for its K particles: (B·K, ...).

        Raises:
            ValueError: there are neither one nor B prompts.
        """
        if self.size not in (1, b):
            raise ValueError(
                f"There are {self.size} prompts for {b} islands: give one per island, or one for "
                f"all."
            )
        return self.map(
            lambda v: v[:, None].expand(b, k, *v.shape[1:]).reshape(b * k, *v.shape[1:])
        )

    @staticmethod
    def cat(parts: Sequence[Condition]) -> Condition:
        """Join conditions along their first dimension."""
        away = [part.unwanted for part in parts if part.unwanted is not None]
        return Condition(
            Encoding.cat([part.wanted for part in parts]), Encoding.cat(away) if away else None
        )


class Network(Protocol):
    """A pretrained network and its text encoders."""

    @property
    def module(self) -> Any:
        """The network itself, for its precision and its parameters."""
        ...

    @property
    def pair(self) -> float | None:
        """Scale of classifier-free guidance; None where one call does."""
        ...

    def encode(self, prompt: str, negative: str) -> Condition | None:
        """Encode one prompt; None without a text condition."""
        ...

    def __call__(self, x: Tensor, timestep: float, texts: Encoding | None) -> Tensor:
        """Return the output (N, C, H, W) for states (N, C, H, W) and encodings (N, ...)."""
        ...


def _fits(prompt: str, tokenizers: Sequence[tuple[Any, int | None]]) -> None:
    """Refuse a prompt of which every text encoder would cut off the end."""
    counts = []
    for tokenizer, limit in tokenizers:
        most = tokenizer.model_max_length if limit is None else limit
        counts.append((len(tokenizer(prompt).input_ids), most))
    if counts and all(count > most for count, most in counts):
        count, most = max(counts, key=lambda pair: pair[1])
        raise ValueError(
            f"The prompt {prompt[:60]!r}... has {count} tokens, and the text encoder reads {most}: "
            f"shorten it."
        )


@dataclass(frozen=True, eq=False)
class UNet:
    """An unconditional network (DDPM, DDIM)."""

    pipeline: Any = field(repr=False)
    pair: float | None = None

    @property
    def module(self) -> Any:
        """The network."""
        return self.pipeline.unet

    def encode(self, prompt: str, negative: str) -> None:
        """Return None: there is no text."""
        return None

    def __call__(self, x: Tensor, timestep: float, texts: Encoding | None) -> Tensor:
        """Return the network's output, (N, C, H, W)."""
        output: Tensor = self.pipeline.unet(x, int(timestep), return_dict=False)[0]
        return output


@dataclass(frozen=True, eq=False)
class TextUNet:
    """Stable Diffusion 1.5, 2.1 and XL, and latent consistency models.

    Attributes:
        pipeline: holds unet, tokenizers and text encoders.
        size: (height, width) in pixels, which the XL network is told.
        pair: scale of classifier-free guidance, or None.
        scale: guidance that the network takes as an input (distilled models), or None.
    """

    pipeline: Any = field(repr=False)
    size: tuple[int, int]
    pair: float | None = None
    scale: float | None = None

    @property
    def module(self) -> Any:
        """The network."""
        return self.pipeline.unet

    @property
    def pooled(self) -> bool:
        """Whether the network takes a pooled text and the size of the image (XL)."""
        return getattr(self.pipeline, "text_encoder_2", None) is not None

    def encode(self, prompt: str, negative: str) -> Condition:
        """Encode one prompt; an empty negative prompt means the model's own default."""
        pipe, guided = self.pipeline, self.pair is not None
        names = ("tokenizer", "tokenizer_2")
        tokenizers = [(getattr(pipe, n), None) for n in names if getattr(pipe, n, None) is not None]
        _fits(prompt, tokenizers)
        _fits(negative, tokenizers)
        away = negative or None
        if self.pooled:
            text, no_text, pooled, no_pooled = pipe.encode_prompt(
                prompt=prompt,
                device=pipe.unet.device,
                num_images_per_prompt=1,
                do_classifier_free_guidance=guided,
                negative_prompt=away,
            )
            unwanted = Encoding(no_text, no_pooled) if guided else None
            return Condition(Encoding(text, pooled), unwanted)
        text, no_text = pipe.encode_prompt(
            prompt, pipe.unet.device, 1, guided, negative_prompt=away
        )
        return Condition(Encoding(text), Encoding(no_text) if guided else None)

    def __call__(self, x: Tensor, timestep: float, texts: Encoding | None) -> Tensor:
        """Return the network's output, (N, C, H, W)."""
        assert texts is not None
        unet, n = self.pipeline.unet, x.shape[0]
        added, distilled = None, None
        if self.pooled:
            # original size, crop corner and target size: nothing was cropped
            ids = torch.tensor([*self.size, 0, 0, *self.size], dtype=x.dtype, device=x.device)
            added = {"text_embeds": texts.pooled, "time_ids": ids.expand(n, -1)}
        if self.scale is not None:
            # the embedding starts at no guidance, which is a scale of 1
            w, width = torch.full((n,), self.scale - 1), unet.config.time_cond_proj_dim
            distilled = self.pipeline.get_guidance_scale_embedding(w, embedding_dim=width).to(x)
        output: Tensor = unet(
            x,
            int(timestep),
            encoder_hidden_states=texts.text,
            timestep_cond=distilled,
            added_cond_kwargs=added,
            return_dict=False,
        )[0]
        return output


@dataclass(frozen=True, eq=False)
class StableDiffusion3:
    """Stable Diffusion 3 and 3.5: a transformer that predicts the velocity of a rectified flow.

    Attributes:
        pipeline: holds transformer, tokenizers and text encoders.
        pair: scale of classifier-free guidance, or None.
        tokens: tokens that the T5 encoder reads.
    """

    pipeline: Any = field(repr=False)
    pair: float | None = None
    tokens: int = 256

    @property
    def module(self) -> Any:
        """The network."""
        return self.pipeline.transformer

    def encode(self, prompt: str, negative: str) -> Condition:
        """Encode one prompt."""
        pipe, guided = self.pipeline, self.pair is not None
        tokenizers: list[tuple[Any, int | None]]
        tokenizers = [(pipe.tokenizer, None), (pipe.tokenizer_2, None)]
        if pipe.text_encoder_3 is not None:
            tokenizers.append((pipe.tokenizer_3, self.tokens))
        _fits(prompt, tokenizers)
        _fits(negative, tokenizers)
        text, no_text, pooled, no_pooled = pipe.encode_prompt(
            prompt=prompt,
            prompt_2=None,
            prompt_3=None,
            device=pipe.transformer.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=guided,
            negative_prompt=negative or None,
            max_sequence_length=self.tokens,
        )
        unwanted = Encoding(no_text, no_pooled) if guided else None
        return Condition(Encoding(text, pooled), unwanted)

    def __call__(self, x: Tensor, timestep: float, texts: Encoding | None) -> Tensor:
        """Return the velocity, (N, C, H, W)."""
        assert texts is not None
        output: Tensor = self.pipeline.transformer(
            hidden_states=x,
            timestep=torch.full((x.shape[0],), timestep, dtype=torch.float32, device=x.device),
            encoder_hidden_states=texts.text,
            pooled_projections=texts.pooled,
            return_dict=False,
        )[0]
        return output


@dataclass(frozen=True, eq=False)
class Flux:
    """Flux: a transformer over 2 × 2 patches of the latent image that predicts the velocity.

    Attributes:
        pipeline: holds transformer, tokenizers and text encoders.
        pair: scale of classifier-free guidance ("true" guidance), or None.
        scale: guidance that the network takes as an input, or None (Flux schnell).
        tokens: tokens that the T5 encoder reads.
    """

    pipeline: Any = field(repr=False)
    pair: float | None = None
    scale: float | None = None
    tokens: int = 512

    @property
    def module(self) -> Any:
        """The network."""
        return self.pipeline.transformer

    def encode(self, prompt: str, negative: str) -> Condition:
        """Encode one prompt."""
        wanted = self._one(prompt)
        return Condition(wanted, None if self.pair is None else self._one(negative))

    def _one(self, prompt: str) -> Encoding:
        _fits(prompt, [(self.pipeline.tokenizer_2, self.tokens)])
        text, pooled, _ = self.pipeline.encode_prompt(
            prompt=prompt,
            prompt_2=None,
            device=self.pipeline.transformer.device,
            num_images_per_prompt=1,
            max_sequence_length=self.tokens,
        )
        return Encoding(text, pooled)

    def __call__(self, x: Tensor, timestep: float, texts: Encoding | None) -> Tensor:
        """Return the velocity, (N, C, H, W)."""
        assert texts is not None
        n, c, h, w = x.shape
        rows, columns = torch.meshgrid(torch.arange(h // 2), torch.arange(w // 2), indexing="ij")
        places = torch.stack((torch.zeros_like(rows), rows, columns), -1).reshape(-1, 3).to(x)
        scale = None
        if self.scale is not None:
            scale = torch.full((n,), self.scale, dtype=torch.float32, device=x.device)
        # the network counts time from 0 to 1, and the schedule in thousandths
        output: Tensor = self.pipeline.transformer(
            hidden_states=_packed(x),
            timestep=torch.full((n,), timestep, dtype=x.dtype, device=x.device) / 1000,
            guidance=scale,
            pooled_projections=texts.pooled,
            encoder_hidden_states=texts.text,
            txt_ids=torch.zeros(texts.text.shape[1], 3, dtype=x.dtype, device=x.device),
            img_ids=places,
            return_dict=False,
        )[0]
        return _unpacked(output, c, h, w)


def _packed(x: Tensor) -> Tensor:
    """Turn latents (N, C, H, W) into tokens of 2 × 2 patches, (N, H·W/4, 4·C)."""
    n, c, h, w = x.shape
    patches = x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(n, h * w // 4, 4 * c)


def _unpacked(tokens: Tensor, c: int, h: int, w: int) -> Tensor:
    """Undo `_packed`."""
    n = tokens.shape[0]
    patches = tokens.reshape(n, h // 2, w // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(n, c, h, w)


# decoding -----------------------------------------------------------------------------------------


def pixels(x: Tensor) -> Tensor:
    """Turn images (..., C, H, W) in [-1, 1] into RGB (..., 3, H, W) in [0, 1]; gray is repeated."""
    if x.shape[-3] == 1:
        x = x.expand(*x.shape[:-3], 3, *x.shape[-2:])
    return (x / 2 + 0.5).clamp(0, 1)


@dataclass(frozen=True, eq=False)
class LatentDecoder:
    """A variational autoencoder's decoder, one image at a time.

    Attributes:
        vae: AutoencoderKL or a tiny one.
        recompute: keep no activations for the gradient, compute them again on the way back: the
            memory of one image, whatever the number of particles.
    """

    vae: Any = field(repr=False)
    recompute: bool = True

    def __call__(self, x: Tensor) -> Tensor:
        """Return images (B, K, 3, H, W) in [0, 1] of latents (B, K, C, h, w), differentiably."""
        flat = x.flatten(0, 1)
        again = self.recompute and torch.is_grad_enabled() and flat.requires_grad
        images = [
            recomputed(self._one, z, use_reentrant=False) if again else self._one(z) for z in flat
        ]
        return torch.stack(images).reshape(*x.shape[:2], *images[0].shape)

    def _one(self, z: Tensor) -> Tensor:
        config = self.vae.config
        mean, deviation = (getattr(config, f"latents_{n}", None) for n in ("mean", "std"))
        if mean is not None and deviation is not None:
            mean, deviation = (z.new_tensor(v)[:, None, None] for v in (mean, deviation))
            z = z * deviation / config.scaling_factor + mean
        else:
            z = z / config.scaling_factor + (getattr(config, "shift_factor", None) or 0.0)
        image: Tensor = self.vae.decode(z[None].to(self.vae.dtype), return_dict=False)[0][0]
        return pixels(image.to(z.dtype))


@dataclass(frozen=True)
class Wish:
    """What the caller of `from_pipeline` said about guidance."""

    guidance: float | None
    true_guidance: float
    negative: bool
    tokens: int | None

    def scale(self, default: float) -> float:
        """Return the guidance that was asked for."""
        return default if self.guidance is None else self.guidance


def _unconditional(pipeline: Any, size: tuple[int, int], wish: Wish) -> Network:
    if wish.guidance is not None or wish.negative or wish.true_guidance != 1:
        raise ValueError(
            f"{type(pipeline).__name__} has no text condition: leave guidance, true_guidance and "
            f"negative_prompt out."
        )
    _no_long_text(pipeline, wish)
    config = pipeline.unet.config
    if any(config.get(key) is not None for key in ("class_embed_type", "num_class_embeds")):
        raise ValueError("This network takes a class label, which has no place here yet.")
    return UNet(pipeline)


def _text_unet(pipeline: Any, size: tuple[int, int], wish: Wish) -> Network:
    _no_true_guidance(pipeline, wish)
    _no_long_text(pipeline, wish)
    if pipeline.unet.config.time_cond_proj_dim is not None:
        if wish.negative:
            raise ValueError(
                f"{type(pipeline).__name__} takes guidance as an input and was distilled with an "
                f"empty negative prompt: leave negative_prompt out."
            )
        return TextUNet(pipeline, size, scale=wish.scale(8.5))
    default = 5.0 if getattr(pipeline, "text_encoder_2", None) is not None else 7.5
    return TextUNet(pipeline, size, pair=_pair(wish.scale(default), wish))


def _stable_diffusion_3(pipeline: Any, size: tuple[int, int], wish: Wish) -> Network:
    _no_true_guidance(pipeline, wish)
    return StableDiffusion3(pipeline, _pair(wish.scale(7.0), wish), wish.tokens or 256)


def _flux(pipeline: Any, size: tuple[int, int], wish: Wish) -> Network:
    scale = wish.scale(3.5)
    if not pipeline.transformer.config.guidance_embeds:
        if wish.guidance is not None:
            raise ValueError(
                "This Flux network was distilled without guidance (schnell): leave guidance out."
            )
        return Flux(pipeline, _pair(wish.true_guidance, wish), None, wish.tokens or 256)
    return Flux(pipeline, _pair(wish.true_guidance, wish), scale, wish.tokens or 512)


def _pair(scale: float, wish: Wish) -> float | None:
    if scale < 1:
        raise ValueError(f"guidance must be >= 1 (1 is none), got {scale}.")
    if scale == 1 and wish.negative:
        raise ValueError(
            "A negative prompt acts through the guidance pair, and its scale is 1: give guidance > "
            "1 (Flux: true_guidance > 1)."
        )
    return None if scale == 1 else scale


def _no_true_guidance(pipeline: Any, wish: Wish) -> None:
    if wish.true_guidance != 1:
        raise ValueError(
            f"true_guidance is for Flux; {type(pipeline).__name__} takes guidance instead."
        )


def _no_long_text(pipeline: Any, wish: Wish) -> None:
    if wish.tokens is not None:
        raise ValueError(
            f"{type(pipeline).__name__} has no T5 encoder: leave max_sequence_length out."
        )


UNCONDITIONAL: Final = ("DDPMPipeline", "DDIMPipeline")
"""Pipelines that read no text."""

NETWORKS: Final[dict[str, Callable[[Any, tuple[int, int], Wish], Network]]] = {
    **dict.fromkeys(UNCONDITIONAL, _unconditional),
    "StableDiffusionPipeline": _text_unet,
    "StableDiffusionXLPipeline": _text_unet,
    "LatentConsistencyModelPipeline": _text_unet,
    "StableDiffusion3Pipeline": _stable_diffusion_3,
    "FluxPipeline": _flux,
}
