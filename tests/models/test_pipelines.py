"""Pretrained image pipelines as processes: tiny random networks of every kind, built offline."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import two_layers
from torch import Tensor

from seqalign import weights
from seqalign.core.budget import Metered
from seqalign.core.gaussian import Gaussian
from seqalign.core.objective import Reward
from seqalign.core.process import Designs
from seqalign.core.proposal import Tilted
from seqalign.core.smc import SMC
from seqalign.core.streams import Streams
from seqalign.core.tempering import Geometric
from seqalign.methods.das import DAS
from seqalign.models import image_models
from seqalign.models.diffusion_kernels import DDIM, FlowSDE, kernel_of, moments, timesteps
from seqalign.models.diffusion_networks import Condition, Encoding
from seqalign.models.pipelines import PretrainedProcess, from_pipeline
from seqalign.registry import entry

pytest.importorskip("diffusers", reason="diffusers is not installed: pip install seqalign[images]")
pytest.importorskip("transformers", reason="transformers is not installed")

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TEXT = ("sd", "sdxl", "lcm", "sd3", "flux")
KINDS = ("ddpm", "ddim", *TEXT)
STEPS = 4
PROMPTS = ("a red fox", "two blue cats")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Networks this small lose time on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# tiny pipelines -----------------------------------------------------------------------------------


@cache
def folder() -> Path:
    """A folder with a vocabulary of single letters, in CLIP's format."""
    where = Path(tempfile.mkdtemp(prefix="clip-vocabulary-"))
    words = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(c + "</w>" for c in LETTERS)]
    (where / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (where / "merges.txt").write_text("#version: 0.2\n")
    return where


def clip_tokenizer() -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(str(folder()), model_max_length=16)


def clip_encoder(projected: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    letters = {"vocab_size": 54, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    sizes = {"projection_dim": 8, "max_position_embeddings": 16}
    config = CLIPTextConfig(**two_layers(8, 8), **letters, **sizes)
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


@cache
def t5_tokenizer() -> Any:
    """A tokenizer of single letters in T5's format, read from a folder as published ones are."""
    from tokenizers import Tokenizer, models
    from transformers import T5TokenizerFast

    where = tempfile.mkdtemp(prefix="t5-vocabulary-")
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    letters = models.Unigram([*pieces, *((c, -3.0) for c in LETTERS)], unk_id=2)
    T5TokenizerFast(tokenizer_object=Tokenizer(letters), extra_ids=0).save_pretrained(where)
    return T5TokenizerFast.from_pretrained(where)


def t5_encoder() -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(vocab_size=32, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    )


def autoencoder(**more: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
        **more,
    )


UNET: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
}


def text_unet(**more: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **{**UNET, "attention_head_dim": 4, "cross_attention_dim": 8, **more},
    )


def unet() -> Any:
    from diffusers import UNet2DModel

    return UNet2DModel(
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
        **UNET,
    )


def ddpm() -> Any:
    from diffusers import DDPMPipeline, DDPMScheduler

    return DDPMPipeline(unet(), DDPMScheduler(clip_sample=True, clip_sample_range=2.0))


def ddim() -> Any:
    from diffusers import DDIMPipeline, DDIMScheduler

    pipeline = DDIMPipeline(unet(), DDIMScheduler())
    # the constructor of the pipeline makes its own scheduler of one that is none of its kind
    pipeline.scheduler = DDIMScheduler(clip_sample=False, prediction_type="sample")
    return pipeline


def latent_scheduler(**more: Any) -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        **more,
    )


def latent(pipeline: Any, scheduler: Any, **more: Any) -> Any:
    """A latent pipeline with one text encoder; `more` goes to its network."""
    return pipeline(
        vae=autoencoder(),
        text_encoder=clip_encoder(),
        tokenizer=clip_tokenizer(),
        unet=text_unet(**more),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sd(**more: Any) -> Any:
    from diffusers import StableDiffusionPipeline

    return latent(StableDiffusionPipeline, latent_scheduler(**more))


def sdxl() -> Any:
    from diffusers import StableDiffusionXLPipeline

    return StableDiffusionXLPipeline(
        vae=autoencoder(
            latents_mean=[0.1, 0.2, -0.1, 0.0], latents_std=[0.9, 1.1, 1.0, 1.2], force_upcast=True
        ),
        text_encoder=clip_encoder(),
        text_encoder_2=clip_encoder(projected=True),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=text_unet(
            cross_attention_dim=16,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=6 * 4 + 8,
            transformer_layers_per_block=1,
        ),
        scheduler=latent_scheduler(prediction_type="v_prediction"),
        add_watermarker=False,
    )


def lcm() -> Any:
    from diffusers import LatentConsistencyModelPipeline, LCMScheduler

    # so small a scaling that c_skip and c_out matter
    scheduler = LCMScheduler(timestep_scaling=0.001)
    return latent(LatentConsistencyModelPipeline, scheduler, time_cond_proj_dim=8)


def sd3() -> Any:
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )

    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            attention_head_dim=4,
            num_attention_heads=2,
            joint_attention_dim=16,
            caption_projection_dim=8,
            pooled_projection_dim=16,
            pos_embed_max_size=8,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(shift_factor=0.06, scaling_factor=1.5),
        text_encoder=clip_encoder(projected=True),
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip_encoder(projected=True),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=None,
        tokenizer_3=None,
    )


def flux(guided: bool = True) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    return FluxPipeline(
        transformer=FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=8,
            pooled_projection_dim=8,
            guidance_embeds=guided,
            axes_dims_rope=(2, 2, 4),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=autoencoder(shift_factor=0.1, scaling_factor=0.4),
        text_encoder=clip_encoder(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5_encoder(),
        tokenizer_2=t5_tokenizer(),
    )


@cache
def pipeline(kind: str) -> Any:
    """A tiny random pipeline in float64, whose scheduler has float64 coefficients."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(KINDS.index(kind))
        pipe = globals()[kind]()
    pipe.set_progress_bar_config(disable=True)
    pipe.to(torch.float64)
    for name in ("alphas_cumprod", "final_alpha_cumprod", "one"):
        if hasattr(pipe.scheduler, name):
            setattr(pipe.scheduler, name, getattr(pipe.scheduler, name).double())
    return pipe


def process(kind: str, **more: Any) -> PretrainedProcess:
    """The process of a tiny pipeline, with a guidance pair where the pipeline has one."""
    given: dict[str, Any] = {"steps": STEPS}
    if kind in TEXT:
        given["prompts"] = PROMPTS
    if kind == "sd":
        given["negative_prompt"] = "blurry"
    if kind in ("sd3", "flux"):
        given.update(max_sequence_length=16, eta=0.7)
    if kind == "flux":
        given.update(height=16, width=16)
    return from_pipeline(pipeline(kind), **{**given, **more})


def states(made: PretrainedProcess, k: int = 2, seed: int = 0) -> Tensor:
    b = 1 if made.prompts is None else len(made.prompts)
    return made.prior((b, k), Streams(seed, tuple(range(b))))


def rollout(made: PretrainedProcess, x: Tensor, noise: Callable[[Tensor], Tensor]) -> Tensor:
    """Run the base chain from x with given noise; returns images."""
    times = made.times.tolist()
    with torch.no_grad():
        for t, s in itertools.pairwise(times):
            mean, std = made.adapter.kernel(x, made.posterior(x, t).mean, t, s)
            x = mean if std == 0 else mean + std * noise(x)
    return made.decode(x).x


class Brightness(Reward):
    """Mean of all channels and pixels, with a little curvature."""

    name = "brightness"
    differentiable = True

    def __call__(self, designs: Designs) -> Tensor:
        with torch.no_grad():
            return self.relaxed(designs.x)

    def relaxed(self, x: Tensor) -> Tensor:
        return (x + 0.3 * x * x).flatten(2).mean(-1)


def das(
    made: PretrainedProcess, k: int = 3, seed: int = 5, islands: tuple[int, ...] = (0, 1)
) -> Any:
    method = DAS(alpha=0.05, tempering=Geometric(0.5))
    return method(made, Brightness(), (len(islands), k), rng=Streams(seed, islands))


# against the libraries' own loops -----------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_chain_is_that_of_the_pipelines_own_loop(kind: str) -> None:
    """Prompts, guidance, timesteps, x̂0, mean, deviation and decoding: same noise, same images.

    The pipeline's own loop draws its noise from a generator, step by step; here it is handed to
    the kernels' mean and deviation.
    """
    flow = kind in ("sd3", "flux")
    # a flow in diffusers is deterministic
    made = process(kind, steps=5, eta=0.0 if flow else 1.0)
    x = states(made, k=1)
    given: dict[str, Any] = {"num_inference_steps": 5, "output_type": "pt"}
    generator = torch.Generator().manual_seed(3)
    if kind in TEXT:
        given["prompt"] = list(PROMPTS)
        given["latents"] = x[:, 0]
    if kind == "flux":
        from seqalign.models.diffusion_networks import _packed

        given.update(latents=_packed(x[:, 0]), height=16, width=16, max_sequence_length=16)
    if kind == "sd":
        given.update(negative_prompt=["blurry"] * 2, eta=1.0)
    if kind == "sdxl":
        given.update(eta=1.0)
    if kind == "sd3":
        given["max_sequence_length"] = 16
    if kind == "ddim":
        given["eta"] = 1.0
    pipe = pipeline(kind)
    want = pipe(**given, generator=generator).images

    again = torch.Generator().manual_seed(3)
    if kind not in TEXT:
        # these two draw x_T, too, and hand over an array unless asked for a tensor
        x = torch.randn((1, *made.adapter.event), generator=again, dtype=torch.float64)[None]
    got = rollout(
        made,
        x,
        lambda x: torch.randn(x.flatten(0, 1).shape, generator=again, dtype=torch.float64).reshape(
            x.shape
        ),
    )
    want = torch.as_tensor(want)
    if want.shape[-1] == 3:
        want = want.permute(0, 3, 1, 2)
    assert got.shape == (len(PROMPTS) if kind in TEXT else 1, 1, 3, *want.shape[-2:])
    assert float(want.std()) > 1e-3
    torch.testing.assert_close(got[:, 0], want.double(), rtol=0, atol=2e-5 if flow else 1e-6)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("one", [True, False])
def test_ddim_is_the_schedulers_own_step(prediction: str, spacing: str, one: bool) -> None:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(
        prediction_type=prediction,
        timestep_spacing=spacing,
        set_alpha_to_one=one,
        steps_offset=1 if spacing == "leading" else 0,
        beta_schedule="squaredcos_cap_v2",
        clip_sample_range=1.5,
    )
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.double()
    kernel = kernel_of(scheduler, 10, eta=0.6)
    # asking for a kernel leaves the scheduler alone
    assert scheduler.num_inference_steps is None
    scheduler.set_timesteps(10)
    generator = torch.Generator().manual_seed(0)
    x, output, noise = torch.randn(3, 2, 3, 4, 4, generator=generator, dtype=torch.float64)
    times = kernel.times.tolist()
    for i, step in enumerate(scheduler.timesteps):
        assert kernel.timestep(times[i]) == int(step)
        want, x_0 = scheduler.step(
            output,
            step,
            x,
            eta=0.6,
            use_clipped_model_output=True,
            variance_noise=noise,
            return_dict=False,
        )
        found = kernel.clean(x, output, times[i])
        mean, std = moments(kernel, x, found, times[i], times[i + 1])
        torch.testing.assert_close(found, x_0, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(mean + std * noise, want, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [1, 3, 7, 50, 999])
def test_timesteps_are_those_of_the_scheduler(spacing: str, steps: int) -> None:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    assert list(timesteps(scheduler.config, steps)) == scheduler.timesteps.tolist()


@pytest.mark.parametrize(
    "name", ["DDPM", "PNDM", "EulerDiscrete", "DPMSolverMultistep", "UniPCMultistep"]
)
def test_any_scheduler_of_a_ddpm_gives_the_same_coefficients(name: str) -> None:
    import diffusers

    config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    scheduler = getattr(diffusers, f"{name}Scheduler")(**config, timestep_spacing="leading")
    kernel = kernel_of(scheduler, 8)
    assert isinstance(kernel, DDIM)
    assert kernel.timesteps == tuple(range(875, -1, -125))
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    want = (1 - betas).cumprod(0)
    torch.testing.assert_close(
        torch.tensor(kernel.alphas, dtype=torch.float64), want, rtol=1e-4, atol=0
    )


# the stochastic flow ------------------------------------------------------------------------------


def test_the_flow_keeps_its_marginals() -> None:
    """Of one image, x_t = (1 − t)·x_0 + t·noise at every t: means add up, and so do variances."""
    kernel = kernel_of(pipeline("sd3").scheduler, 9, eta=0.7)
    times = kernel.times.tolist()
    assert times[0] == 1
    assert times[-1] == 0
    for t, s in itertools.pairwise(times):
        one = torch.ones(1, 1, 1, dtype=torch.float64)
        mean_of_x0, std = moments(kernel, (1 - t) * one, one, t, s)
        mean_of_noise, _ = moments(kernel, t * one, 0 * one, t, s)
        assert float(mean_of_x0) == pytest.approx(1 - s, abs=1e-12)
        assert float(mean_of_noise) ** 2 + std**2 == pytest.approx(s**2, abs=1e-12)
    # the last step leaves no noise in the image
    assert kernel.std(times[-2], 0.0) == 0
    # the start, where 1 − t is 0, has the noise of the next sigma
    assert kernel.std(1.0, times[1]) == pytest.approx(min(0.7, times[1]), abs=1e-12)


def test_the_flow_is_flow_grpos_to_first_order() -> None:
    """The mean of its equation for one step of Euler and Maruyama; the error falls as dt²."""
    gaps = []
    for dt in (1e-2, 5e-3, 2.5e-3):
        t, a = 0.4, 0.7
        kernel = FlowSDE((1.0, 0.5, t, t - dt, 0.0), eta=a)
        generator = torch.Generator().manual_seed(1)
        x, v = torch.randn(2, 1, 3, 2, 2, generator=generator, dtype=torch.float64)
        mean, std = moments(kernel, x, kernel.clean(x, v, t), t, t - dt)
        sigma = a * math.sqrt(t / (1 - t))
        drift = v + sigma**2 / (2 * t) * (x + (1 - t) * v)
        assert std == pytest.approx(sigma * math.sqrt(dt), rel=1e-12)
        gaps.append(float((mean - (x - dt * drift)).abs().max()))
        assert gaps[-1] < 0.1 * dt * float(drift.abs().max())
    assert gaps[0] / gaps[1] == pytest.approx(4, rel=0.1)
    assert gaps[1] / gaps[2] == pytest.approx(4, rel=0.1)


def test_the_shift_of_flux_depends_on_the_size_and_that_of_sd3_does_not() -> None:
    small, large = (process("flux", height=n, width=n).times for n in (16, 32))
    assert float(large[1]) > float(small[1])
    assert process("sd3").times.equal(process("sd3", height=8, width=8).times)


# laws of the process ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_log_prob_is_the_normal_density_summed_over_all_coordinates(kind: str) -> None:
    made = process(kind)
    x = states(made)
    t, s = made.times.tolist()[1:3]
    with torch.no_grad():
        law = made.transition(x, made.posterior(x, t), t, s)
    assert isinstance(law, Gaussian)
    x_s = law.sample(Streams(1, tuple(range(x.shape[0]))))
    mean, std = made.adapter.kernel(x, made.posterior(x, t).mean, t, s)
    want = torch.distributions.Normal(mean, std).log_prob(x_s).flatten(2).sum(-1)
    got = law.log_prob(x_s)
    assert got.dtype == torch.float64
    assert std > 0
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_a_decoded_reward_agrees_with_finite_differences(kind: str) -> None:
    made = process(kind)
    x = states(made, k=1)
    # where pixels are neither black nor white, so that there is a gradient everywhere
    t = float(made.times[2])

    def reward(state: Tensor) -> Tensor:
        return Brightness().graded(made.decode(made.posterior(state, t).mean)).sum()

    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(reward(leaf), leaf)
    assert float(gradient.norm()) > 1e-6
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for _ in range(3):
            way = torch.randn(x.shape, generator=generator, dtype=torch.float64)
            way = way / way.norm()
            h = 1e-5
            slope = (reward(x + h * way) - reward(x - h * way)) / (2 * h)
            assert float(slope) == pytest.approx(
                float((gradient * way).sum()), rel=2e-4, abs=1e-4 * float(gradient.norm())
            )


@pytest.mark.parametrize("kind", KINDS)
def test_a_das_run_has_finite_weights_and_counts_its_calls(kind: str) -> None:
    made = process(kind)
    samples = das(made)
    assert samples.designs.x.shape[:3] == (2, 3, 3)
    assert samples.designs.prompts == (PROMPTS if kind in TEXT else None)
    assert 0 <= float(samples.designs.x.min())
    assert float(samples.designs.x.max()) <= 1
    assert torch.isfinite(samples.log_w).all()
    assert torch.isfinite(samples.log_z).all()
    assert samples.log_w.dtype == torch.float64
    # a gradient costs two more calls, a guidance pair doubles all, and the last step needs none
    pair = 2 if kind in ("sd", "sdxl", "sd3") else 1
    assert made.calls_per_state == pair
    assert sum(step.network_calls for step in samples.trace) == 3 * pair * 2 * 3 * STEPS


@pytest.mark.parametrize("kind", TEXT)
def test_several_prompts_at_once_are_each_alone(kind: str) -> None:
    both, one = process(kind), process(kind, prompt=PROMPTS[1], prompts=None)
    whole, part = das(both), das(both.take([1]), islands=(1,))
    alone = das(one, islands=(1,))
    for other in (part, alone):
        assert other.designs.prompts == (PROMPTS[1],)
        torch.testing.assert_close(other.designs.x, whole.designs.x[1:], rtol=0, atol=1e-7)
        torch.testing.assert_close(other.log_w, whole.log_w[1:], rtol=0, atol=1e-6)
    # the prompt matters
    x = states(both)
    same = x[:1].expand_as(x)
    with torch.no_grad():
        first, second = both.posterior(same, 1.0).mean
    assert float((first - second).abs().max()) > 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_change_nothing(kind: str) -> None:
    whole, pieces = das(process(kind)), das(process(kind, chunk=1))
    torch.testing.assert_close(pieces.designs.x, whole.designs.x, rtol=0, atol=1e-7)
    torch.testing.assert_close(pieces.log_w, whole.log_w, rtol=0, atol=1e-6)


# memory -------------------------------------------------------------------------------------------


class Saved:
    """A tensor that a graph keeps; counts the bytes alive."""

    alive = 0
    peak = 0

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.size = tensor, tensor.numel() * tensor.element_size()
        Saved.alive += self.size
        Saved.peak = max(Saved.peak, Saved.alive)

    def __del__(self) -> None:
        Saved.alive -= self.size


@contextmanager
def batches(module: Any) -> Iterator[list[int]]:
    """The number of rows of each call of a network."""
    rows: list[int] = []

    def see(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        rows.append((args[0] if args else kwargs["hidden_states"]).shape[0])

    handle = module.register_forward_pre_hook(see, with_kwargs=True)
    try:
        yield rows
    finally:
        handle.remove()


def guided_step(kind: str, k: int, **more: Any) -> tuple[int, int]:
    """Rows of the largest network call of one guided step, and the peak of its graph in bytes."""
    made = process(kind, **more)
    loop = SMC(made, Brightness(), 0.1, proposal=Tilted())
    streams = Streams(0, (0, 1))
    Saved.alive = Saved.peak = 0
    with (
        batches(made.adapter.network.module) as rows,
        torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor),
    ):
        loop.run((2, k), streams, stop=1)
    assert sum(rows) == 2 * 2 * k * made.calls_per_state
    return max(rows), Saved.peak


@pytest.mark.parametrize("kind", ["ddpm", "sd", "flux"])
def test_memory_of_a_guided_step_grows_with_the_chunk_and_not_with_the_particles(kind: str) -> None:
    pair = 2 if kind == "sd" else 1
    four, eight = (guided_step(kind, k, chunk=2) for k in (4, 8))
    assert four[0] == eight[0] == 2 * pair
    assert four[1] == eight[1] > 0
    rows, peak = guided_step(kind, 8, chunk=4)
    assert rows == 4 * pair
    assert peak > 1.5 * eight[1]
    # without chunks the particles of all islands share one call
    rows, peak = guided_step(kind, 8)
    assert rows == 16 * pair
    assert peak > 5 * eight[1]


def test_the_decoder_keeps_no_activations_and_sees_one_image_at_a_time() -> None:
    kept = guided_step("sd", 2, checkpointing="none")[1]
    again = guided_step("sd", 2)[1]
    assert again < 0.7 * kept
    made = process("sd")
    with batches(pipeline("sd").vae.decoder) as rows:
        made.decode(states(made, k=3))
    assert rows == [1] * 6


def test_recomputing_the_network_changes_no_gradient() -> None:
    unet = pipeline("sd").unet
    results = []
    peaks = []
    for mode in ("decoder", "all"):
        peaks.append(guided_step("sd", 2, checkpointing=mode)[1])
        results.append(das(process("sd", checkpointing=mode)))
    unet.disable_gradient_checkpointing()
    torch.testing.assert_close(results[0].log_w, results[1].log_w, rtol=0, atol=1e-8)
    assert peaks[1] < peaks[0]


# guidance, precision, prompts ---------------------------------------------------------------------


def test_guidance_mixes_two_calls_and_its_scale_of_one_needs_one() -> None:
    x = states(process("sd"))
    with torch.no_grad():
        bare = process("sd", guidance=1.0, negative_prompt="")
        away = process("sd", guidance=1.0, negative_prompt="", prompt="blurry", prompts=None)
        pair = process("sd", guidance=3.0)
        assert (bare.calls_per_state, pair.calls_per_state) == (1, 2)
        wanted, unwanted = bare.posterior(x, 0.5).mean, away.posterior(x, 0.5).mean
        # x̂0 is linear in the output of the network
        torch.testing.assert_close(pair.posterior(x, 0.5).mean, unwanted + 3 * (wanted - unwanted))


def test_sdxl_without_a_negative_prompt_is_led_away_from_zeros() -> None:
    empty, word = process("sdxl").condition, process("sdxl", negative_prompt="x").condition
    assert empty is not None
    assert word is not None
    assert empty.unwanted is not None
    assert word.unwanted is not None
    assert float(empty.unwanted.text.abs().max()) == 0
    assert float(word.unwanted.text.abs().max()) > 0


def test_guidance_of_distilled_networks_is_an_input() -> None:
    for kind in ("lcm", "flux"):
        low, high = (process(kind, guidance=g) for g in (1.0, 9.0))
        x = states(low)
        with torch.no_grad():
            gap = low.posterior(x, 0.5).mean - high.posterior(x, 0.5).mean
        assert float(gap.abs().max()) > 1e-7
        assert low.calls_per_state == high.calls_per_state == 1
    true = process("flux", true_guidance=2.0, negative_prompt="blurry")
    assert true.calls_per_state == 2


def test_negative_prompts_go_with_their_prompts() -> None:
    whole = process("sd", negative_prompt=["blurry", "dark"])
    x = states(whole)
    with torch.no_grad():
        mean = whole.posterior(x, 0.5).mean
        for i, word in enumerate(["blurry", "dark"]):
            alone = process("sd", prompts=[PROMPTS[i]], negative_prompt=word)
            torch.testing.assert_close(alone.posterior(x[i : i + 1], 0.5).mean[0], mean[i])


def test_each_distinct_prompt_is_encoded_once() -> None:
    with batches_of_text(pipeline("sd").text_encoder) as rows:
        made = process("sd", prompts=["a fox"] * 3 + ["a cat"], guidance=1.0, negative_prompt="")
        das(made, islands=(0, 1, 2, 3), k=1)
    assert rows == [1, 1]


@contextmanager
def batches_of_text(module: Any) -> Iterator[list[int]]:
    rows: list[int] = []
    handle = module.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    try:
        yield rows
    finally:
        handle.remove()


def test_one_prompt_serves_any_number_of_islands() -> None:
    made = process("sd", prompts=None, prompt="a fox")
    assert made.take([2]) is made
    samples = das(made, islands=(4, 5, 6), k=1)
    assert samples.designs.prompts == ("a fox",) * 3
    with pytest.raises(ValueError, match="2 prompts for 3 islands"):
        das(process("sd"), islands=(0, 1, 2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_network_has_float32_states_and_float64_weights(
    dtype: torch.dtype,
) -> None:
    some = torch.zeros(1, 1, 64, 8, dtype=dtype)
    try:
        torch.nn.functional.scaled_dot_product_attention(some, some, some)
    except RuntimeError as error:
        # torch chooses it by the processor, and then minds ATEN_CPU_CAPABILITY
        pytest.skip(f"attention in {dtype}: {error}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        pipe = sdxl()
    made = from_pipeline(pipe, prompt="a fox", steps=3, dtype=dtype, guidance=2.0)
    assert pipe.unet.dtype == dtype
    # this autoencoder overflows in float16
    assert pipe.vae.dtype == (torch.float32 if dtype == torch.float16 else dtype)
    assert made.condition is not None
    assert made.condition.wanted.text.dtype == dtype
    samples = das(made, islands=(0,), k=2)
    assert samples.designs.x.dtype == torch.float32
    assert samples.log_w.dtype == torch.float64
    assert torch.isfinite(samples.log_w).all()


def test_networks_are_frozen_and_the_scheduler_stays_as_it_is() -> None:
    pipe = pipeline("lcm")
    before = dict(pipe.scheduler.config), pipe.scheduler.num_inference_steps
    process("lcm", steps=2)
    assert (dict(pipe.scheduler.config), pipe.scheduler.num_inference_steps) == before
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        assert not part.training
        assert not any(p.requires_grad for p in part.parameters())


def test_a_stable_diffusion_with_the_lcm_scheduler_is_a_consistency_model() -> None:
    from diffusers import LCMScheduler

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        pipe = sd()
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    made = from_pipeline(pipe, prompt="a fox", steps=2, guidance=1.0)
    t, s = made.times.tolist()[:2]
    assert made.adapter.coefficients.std(t, s) == made.schedule(s)[1] > 0


def test_refinement_starts_from_a_noised_image() -> None:
    made = process("sd")
    t = float(made.times[2])
    a, b = made.schedule(t)
    x_0 = states(made, k=2000, seed=3)[:, :1].expand(2, 2000, 4, 8, 8)
    x_t = made.corrupt(x_0, 2, Streams(9, (0, 1)))
    rest = (x_t - a * x_0) / b
    assert float(rest.mean()) == pytest.approx(0, abs=5 / math.sqrt(rest.numel()))
    assert float(rest.std()) == pytest.approx(1, abs=5 / math.sqrt(rest.numel()))


def test_between_two_points_of_the_grid_schedule_and_network_agree() -> None:
    kernel = process("sd").adapter.coefficients
    for t in (0.9, 0.62, 0.1):
        a, b = kernel.schedule(t)
        assert a == math.sqrt(kernel.alphas[int(kernel.timestep(t))])
        assert a * a + b * b == pytest.approx(1)
    assert 251 < kernel.timestep(0.62) < 501
    with pytest.raises(ValueError, match="from 1 to 0"):
        kernel.timestep(1.5)


def test_the_core_refuses_a_deterministic_chain() -> None:
    with pytest.raises(ValueError, match="eta = 0"):
        das(process("ddim", eta=0.0))


def test_the_meter_counts_a_pair_as_two() -> None:
    made = Metered(process("sd"))
    with torch.no_grad():
        made.posterior(states(process("sd"), k=3), 1.0)
    assert made.meter.calls == (2 * 2 * 3, 0)


def test_conditions_join_and_come_apart() -> None:
    parts = [
        Condition(Encoding(torch.full((1, 2, 3), float(i)), torch.full((1, 4), float(i))))
        for i in range(3)
    ]
    whole = Condition.cat(parts)
    assert whole.size == 3
    picked = whole.take([2, 0])
    assert picked.wanted.text[:, 0, 0].tolist() == [2, 0]
    rows = picked.rows(2, 2)
    assert rows.wanted.pooled is not None
    assert rows.wanted.pooled[:, 0].tolist() == [2, 2, 0, 0]
    with pytest.raises(ValueError, match="3 prompts for 2 islands"):
        whole.rows(2, 1)


# what is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("ddpm", {"prompt": "a fox"}, "no text condition: leave prompt"),
        ("ddpm", {"guidance": 3.0}, "no text condition: leave guidance"),
        ("ddpm", {"max_sequence_length": 8}, "has no T5 encoder"),
        ("sd", {"max_sequence_length": 8}, "has no T5 encoder"),
        ("ddpm", {"negative_prompt": "x"}, "no text condition: leave guidance"),
        ("sd", {"prompts": None}, "needs prompt"),
        ("sd", {"prompt": "a fox"}, "and not both"),
        ("sd", {"prompts": "a fox"}, "a list of texts"),
        ("sd", {"prompts": []}, "a list of texts"),
        ("sd", {"negative_prompt": ["x"]}, "1 negative prompts for 2 prompts"),
        ("sd", {"guidance": 0.5}, "guidance must be >= 1"),
        ("sd", {"guidance": 1.0}, "scale is 1"),
        ("sd", {"true_guidance": 2.0}, "is for Flux"),
        ("sd", {"height": 17}, "multiples of 2"),
        ("sd", {"steps": 0}, "steps must be >= 1"),
        ("sd", {"steps": 1000}, "Give fewer steps"),
        ("sd", {"eta": -1.0}, "eta >= 0"),
        ("sd", {"chunk": 0}, "chunk must be >= 1"),
        ("sd", {"checkpointing": "some"}, "none, decoder, all"),
        ("sd", {"prompts": ["a" * 40, "b"]}, "has 42 tokens, and the text encoder reads 16"),
        ("lcm", {"negative_prompt": "x"}, "leave negative_prompt out"),
        ("lcm", {"eta": 0.5}, "leave eta at 1"),
        ("flux", {"negative_prompt": "x"}, "true_guidance > 1"),
        ("flux", {"height": 18}, "multiples of 4"),
        ("flux", {"prompts": ["a" * 40]}, "has 42 tokens, and the text encoder reads 16"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_cure(
    kind: str, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        process(kind, **given)


def test_foreign_pipelines_and_schedulers_are_refused() -> None:
    from diffusers import (
        DDIMScheduler,
        EDMEulerScheduler,
        FlowMatchEulerDiscreteScheduler,
        StableDiffusionImg2ImgPipeline,
    )

    other = StableDiffusionImg2ImgPipeline(**sd().components, requires_safety_checker=False)
    with pytest.raises(TypeError, match="is none of DDPMPipeline"):
        from_pipeline(other, prompt="a fox")
    with pytest.raises(ValueError, match="neither alphas_cumprod nor sigmas"):
        kernel_of(EDMEulerScheduler(), 4)
    with pytest.raises(ValueError, match="thresholding=False"):
        kernel_of(DDIMScheduler(thresholding=True), 4)
    with pytest.raises(ValueError, match="stochastic_sampling"):
        kernel_of(FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), 4)
    with pytest.raises(ValueError, match="zero signal"):
        kernel_of(DDIMScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing"), 4)
    unguided = flux(guided=False)
    assert from_pipeline(unguided, prompt="a", height=16, width=16).calls_per_state == 1
    with pytest.raises(ValueError, match="without guidance"):
        from_pipeline(unguided, prompt="a", height=16, width=16, guidance=2.0)


def test_zero_terminal_signal_works_with_v_prediction() -> None:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        prediction_type="v_prediction",
        clip_sample=False,
    )
    kernel = kernel_of(scheduler, 4)
    assert kernel.schedule(1.0)[0] == pytest.approx(0, abs=1e-3)
    x, v = torch.ones(2, 1, 1, 2, 2, dtype=torch.float64)
    mean, std = moments(kernel, x, kernel.clean(x, v, 1.0), 1.0, 0.75)
    assert torch.isfinite(mean).all()
    assert 0 < std < 1


# published models by name -------------------------------------------------------------------------


def published(name: str, **given: Any) -> Any:
    return entry("model", name).load()(registered=name, **given)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("stable-diffusion-v1-5", "sd"),
        ("stable-diffusion-2-1", "sd"),
        ("sdxl", "sdxl"),
        ("lcm", "lcm"),
        ("ddpm", "ddpm"),
        ("sd3", "sd3"),
        ("flux", "flux"),
    ],
)
def test_a_published_model_is_read_from_its_folder(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        pipe = globals()[kind]()
    pipe.save_pretrained(tmp_path / name)
    given: dict[str, Any] = {"steps": 3, "device": "cpu"}
    if kind in TEXT:
        given["prompt"] = "a fox"
    if kind in ("sd3", "flux"):
        given.update(precision="float32", max_sequence_length=16)
    if kind == "flux":
        given.update(height=16, width=16)
    # by path, and by its name in the weights folder
    monkeypatch.setenv("SEQALIGN_WEIGHTS", str(tmp_path))
    by_name = published(name, **given)
    by_path = published(name, path=str(tmp_path / name), **given)
    assert by_name.name == name
    own = from_pipeline(
        pipe,
        eta=by_name.eta,
        **{k: v for k, v in given.items() if k not in ("device", "precision")},
    )
    x = states(own)
    for made in (by_name, by_path):
        with torch.no_grad():
            torch.testing.assert_close(
                made.decode(made.posterior(x, 1.0).mean).x, own.decode(own.posterior(x, 1.0).mean).x
            )


@pytest.mark.parametrize("name", list(image_models.PUBLISHED))
def test_absent_weights_say_what_to_put_where(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEQALIGN_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(image_models, "_cached", lambda repository: None)
    given = {} if name == "ddpm" else {"prompt": "a fox"}
    with pytest.raises(weights.MissingWeights) as caught:
        published(name, **given)
    own = image_models.PUBLISHED[name]
    for part in (own.repository, own.licence, f"{tmp_path / name}", "GB"):
        assert part in str(caught.value)


def test_a_repository_of_the_local_cache_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("SEQALIGN_WEIGHTS", str(tmp_path / "nothing"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    place = tmp_path / "models--google--ddpm-cat-256"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0123abc")
    ddpm().save_pretrained(place / "snapshots" / "0123abc")
    for path in (None, "google/ddpm-cat-256"):
        assert published("ddpm", path=path, steps=2, device="cpu").adapter.event == (3, 8, 8)
    with pytest.raises(weights.MissingWeights, match="google/other"):
        published("ddpm", path="google/other")


def test_wrong_folders_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(weights.MissingWeights, match=r"has no model_index\.json"):
        published("sdxl", prompt="a fox", path=tmp_path / "empty")
    with pytest.raises(weights.MissingWeights, match="There is no folder"):
        published("sdxl", prompt="a fox", path=tmp_path / "absent")
    (tmp_path / "empty" / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(ValueError, match=r"holds a FluxPipeline.* Ask for flux with this path"):
        published("sdxl", prompt="a fox", path=tmp_path / "empty")
    with pytest.raises(ValueError, match="precision is 'half'"):
        published("sdxl", prompt="a fox", precision="half")


def test_nothing_heavy_is_imported_before_a_model_is_asked_for() -> None:
    code = """
import sys
import seqalign.models.image_models as m
heavy = {"diffusers", "transformers", "PIL", "huggingface_hub"} & set(sys.modules)
assert not heavy, heavy
for name in ("diffusers", "transformers"):
    sys.modules[name] = None
try:
    m.text_to_image(registered="sdxl", prompt="a fox")
except ImportError as error:
    assert 'pip install "seqalign[images]"' in str(error), error
else:
    raise AssertionError("no ImportError")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_published_model_has_a_card_that_names_it() -> None:
    import yaml

    cards = Path(image_models.__file__).parent / "cards"
    for name, published in image_models.PUBLISHED.items():
        card = yaml.safe_load((cards / f"{name}.yaml").read_text("utf-8"))
        assert card["name"] == name
        assert card["kind"] == "model"
        assert all(isinstance(limit, str) for limit in card["limits"])
        assert published.licence in card["licence"]
        assert published.repository in json.dumps(card)
