"""CLIP and BLIP scorers on tiny random networks: the published steps, formats and gradients."""

import dataclasses
import itertools
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from imports import loaded_by
from torch import nn

from seqalign import weights
from seqalign.core.gaussian import GaussianProcess, VariancePreserving
from seqalign.core.objective import Cached, Chunked, RewardError
from seqalign.core.process import Designs
from seqalign.core.sequence import PROTEIN
from seqalign.core.streams import Streams
from seqalign.methods.best_of_n import BestOfN
from seqalign.methods.das import DAS
from seqalign.rewards import checkpoints, clip
from seqalign.rewards import image_reward as scorer
from seqalign.rewards.checkpoints import read_tensors
from seqalign.rewards.clip_network import Embedder, load_clip
from seqalign.rewards.heads import fold
from seqalign.rewards.preprocessing import MEAN, STD, Preprocessing, preprocessing_of

transformers = pytest.importorskip(
    "transformers", reason="needs transformers: pip install 'seqalign[images]'"
)
PIL = pytest.importorskip("PIL.Image", reason="needs Pillow: pip install 'seqalign[images]'")

# transformers 5 has a reference without torchvision under a name of its own
Reference = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
WORDS = ("a red cat", "a blue dog on a mat")
SIZES = [(512, 512), (32, 32), (100, 70), (71, 300), (224, 301), (224, 224), (300, 224)]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    """A folder with the vocabulary of letters, in CLIP's format and in BERT's."""
    folder = tmp_path_factory.mktemp("words")
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*letters, *(f"{a}</w>" for a in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    bert = [*special, *letters, *(f"##{a}" for a in letters)]
    (folder / "vocab.txt").write_text("\n".join(bert) + "\n")
    return folder


def shake(network, seed=0):
    """Give every weight a size at which scores differ."""
    rng = torch.Generator().manual_seed(seed)
    for name, weight in network.named_parameters():
        if name == "logit_scale":
            weight.data.fill_(3.0)
        elif "norm" in name.lower() and name.endswith("weight"):
            weight.data.copy_(1 + 0.1 * torch.randn(weight.shape, generator=rng))
        else:
            fan = weight[0].numel() if weight.ndim > 1 else 10
            weight.data.copy_(torch.randn(weight.shape, generator=rng) / max(fan, 4) ** 0.5)
    return network


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, vocabulary):
    """The folder of a random CLIP of 32 × 32 pixels, in the format of the published ones."""
    config = transformers.CLIPConfig(
        projection_dim=16,
        text_config={
            "vocab_size": 54,
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 20,
            "bos_token_id": 52,
            "eos_token_id": 53,
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 32,
            "patch_size": 8,
        },
    )
    folder = tmp_path_factory.mktemp("clip")
    shake(transformers.CLIPModel(config)).save_pretrained(folder)
    for name in ("vocab.json", "merges.txt"):
        (folder / name).write_bytes((vocabulary / name).read_bytes())
    stated = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps({**stated, "resample": 3}))
    return folder


def random_head(width, seed=3):
    rng = torch.Generator().manual_seed(seed)
    sizes = (width, 64, 16, 8, 1)
    state = {}
    # gaps in the numbers, as dropout layers leave them
    for i, (n, m) in zip((0, 2, 4, 5), itertools.pairwise(sizes), strict=True):
        state[f"layers.{i}.weight"] = torch.randn(m, n, generator=rng) / n**0.5
        state[f"layers.{i}.bias"] = torch.randn(m, generator=rng)
    return state


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    path = tmp_path_factory.mktemp("head") / "head.pth"
    torch.save(random_head(16), path)
    return path


def random_images(b=2, k=3, size=(40, 36), seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (b, k, 3, *size), generator=rng).double() / 255


def levels(x):
    return (x * 255).round().byte()


def designs(x=None, prompts=WORDS):
    return Designs(random_images() if x is None else x, prompts=prompts)


def load(name, tiny, head, **options):
    options = {"device": "cpu", **options}
    if name == "aesthetic":
        return clip.aesthetic(checkpoint=tiny, head=head, **options)
    return getattr(clip, name.replace("-", "_"))(checkpoint=tiny, **options)


CLIPS = ("aesthetic", "clip-score", "pick-score")


# preprocessing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("side", [224, 30])
def test_preprocessing_is_the_reference_processors(size, side):
    """Of random 8-bit images: the largest difference after normalization is below 1e-5."""
    reference = Reference(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    x = random_images(1, 2, size)[0]
    expected = reference(list(levels(x)), return_tensors="pt").pixel_values
    found = Preprocessing(side)(x.float())
    assert found.dtype == torch.float32
    assert float((found - expected).abs().max()) < 1e-5


@pytest.mark.parametrize("size", [(99, 71), (71, 99), (64, 33), (16, 31), (30, 30)])
def test_preprocessing_of_torchvision_is_resize_and_a_rounded_crop(size):
    side, x = 30, random_images(1, 1, size)[0]
    found = Preprocessing(side, "torchvision")(x)
    image = PIL.fromarray(levels(x[0]).permute(1, 2, 0).numpy())
    w, h = (int(side * n / min(image.size)) for n in image.size)
    image = image.resize((w, h), PIL.BICUBIC)
    top, left = round((h - side) / 2.0), round((w - side) / 2.0)
    cut = np.asarray(image)[top : top + side, left : left + side]
    expected = (cut / 255 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(found[0].permute(1, 2, 0).numpy(), expected, atol=1e-9)


def test_the_two_crops_differ_by_a_pixel_when_an_odd_number_is_cut_off():
    x = random_images(1, 1, (30, 33))[0]
    here, there = Preprocessing(30)(x), Preprocessing(30, "torchvision")(x)
    assert torch.equal(here[..., 1:], there[..., :-1])


@pytest.mark.parametrize("size", [(99, 71), (71, 99), (17, 30), (30, 30), (16, 16)])
def test_preprocessing_of_hps_resizes_floats_and_pads_with_black(size):
    side, x = 30, random_images(1, 2, size)[0]
    found = Preprocessing(side, "hps")(x)
    h, w = (round(n * side / max(size)) for n in size)
    inner = F.interpolate(x, (h, w), mode="bicubic", antialias=True)
    top, left = (side - h) // 2, (side - w) // 2
    expected = F.pad(inner, (left, side - w - left, top, side - h - top))
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (MEAN, STD))
    torch.testing.assert_close(found, (expected - mean) / std, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("size", "gap"), [(512, 0.1), (32, 0.5)])
def test_smooth_preprocessing_is_torchs_resize_and_near_the_published_one(size, gap):
    x = random_images(1, 2, (size, size))[0]
    smooth = Preprocessing(224, eight_bit=False)(x)
    torchs = F.interpolate(x, (224, 224), mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (MEAN, STD))
    torch.testing.assert_close(smooth, (torchs - mean) / std, rtol=0, atol=1e-9)
    # 8 bits: half a level after each pass, and levels cut after the first
    difference = (Preprocessing(224)(x) - smooth).abs()
    assert 1e-3 < float(difference.max()) < gap
    assert float(difference.mean()) < 0.006


@pytest.mark.parametrize("recipe", ["transformers", "torchvision", "hps"])
@pytest.mark.parametrize("size", [(7, 9), (25, 20)])
def test_smooth_preprocessing_has_the_gradient_of_finite_differences(recipe, size):
    rng = torch.Generator().manual_seed(1)
    steps = Preprocessing(12, recipe, eight_bit=False)
    x = (0.3 + 0.4 * random_images(1, 1, size)[0]).requires_grad_()
    weight = torch.randn(1, 3, 12, 12, generator=rng, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((weight * steps(x)).sum(), x)
    way = torch.randn(x.shape, generator=rng, dtype=torch.float64)
    up, down = ((weight * steps(x.detach() + s * way)).sum() for s in (1e-5, -1e-5))
    assert float((gradient * way).sum()) == pytest.approx(float(up - down) / 2e-5, rel=1e-6)
    # rounding leaves the gradient alone
    rounded = dataclasses.replace(steps, eight_bit=True)
    (other,) = torch.autograd.grad((weight * rounded(x)).sum(), x)
    torch.testing.assert_close(other, gradient, rtol=1e-4, atol=1e-4)


def test_a_folder_that_states_another_preprocessing_is_refused(tmp_path):
    file = tmp_path / "preprocessor_config.json"
    for stated in ({"resample": 2}, {"crop_size": 30}, {"do_center_crop": False}):
        file.write_text(json.dumps({"size": 32, "crop_size": 32, **stated}))
        with pytest.raises(ValueError, match="another preprocessing than CLIP's"):
            preprocessing_of(tmp_path, 32, True)
    file.write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}))
    assert preprocessing_of(tmp_path, 32, True).mean == (0.5, 0.5, 0.5)


# the aesthetic head -------------------------------------------------------------------------------


def chain(state, prefix="layers."):
    numbers = sorted(int(k.split(".")[-2]) for k in state if k.endswith("weight"))
    layers = []
    for i in numbers:
        weight, bias = (state[f"{prefix}{i}.{part}"].double() for part in ("weight", "bias"))
        layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64)
        layer.weight.data, layer.bias.data = weight, bias
        layers.append(layer)
    return nn.Sequential(*layers)


def test_a_chain_of_linear_layers_folds_into_one():
    state = random_head(40)
    x = torch.randn(50, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    folded = fold(state)
    torch.testing.assert_close(folded(x), chain(state)(x)[:, 0].detach(), rtol=0, atol=1e-12)
    assert folded.weight.shape == (40,)


def test_the_published_head_equals_its_linear_map():
    data = os.environ.get("SEQALIGN_DATA")
    if data is None:
        pytest.skip("needs the head of LAION: set SEQALIGN_DATA to the folder of the data")
    path = Path(data) / "images" / "laion_aesthetic_vit_l14_mlp.pth"
    state = torch.load(path, map_location="cpu", weights_only=True)
    x = F.normalize(torch.randn(200, 768, generator=torch.Generator().manual_seed(0)).double())
    folded = fold(read_tensors(path))
    assert folded.weight.shape == (768,)
    difference = (folded(x) - chain(state)(x)[:, 0].detach()).abs().max()
    assert float(difference) < 1e-9
    assert float(folded(x).std()) > 0.1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.clear(), "holds no layers.0.weight"),
        (lambda s: s.pop("layers.2.bias"), "layers.2.weight has shape (16, 64)"),
        (lambda s: s.pop("layers.2.weight"), "layers.4.weight has shape (8, 16)"),
        (lambda s: s.pop("layers.5.weight"), "gives 8 numbers"),
    ],
)
def test_what_is_no_chain_is_refused(change, words, tmp_path, tiny):
    state = random_head(16)
    change(state)
    with pytest.raises(ValueError, match=re.escape(words)):
        fold(state)
    path = tmp_path / "other.pth"
    torch.save(state, path)
    with pytest.raises(ValueError, match="is not LAION's head"):
        clip.aesthetic(checkpoint=tiny, head=path, device="cpu")


def test_a_head_for_another_network_is_refused(tiny, tmp_path):
    torch.save(random_head(20), tmp_path / "head.pth")
    with pytest.raises(ValueError, match=r"takes 20 numbers, and .* gives 16"):
        clip.aesthetic(checkpoint=tiny, head=tmp_path / "head.pth", device="cpu")


# scores -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference(tiny):
    """What transformers itself says: features of images, and logits of images with prompts."""
    model = transformers.CLIPModel.from_pretrained(tiny).eval()
    tokenizer = transformers.CLIPTokenizer.from_pretrained(tiny)
    side = {"height": 32, "width": 32}
    processor = Reference(size={"shortest_edge": 32}, crop_size=side)

    def run(x):
        pixels = processor(list(levels(x).flatten(0, 1)), return_tensors="pt").pixel_values
        words = tokenizer(list(WORDS), padding=True, truncation=True, max_length=20)
        text = {k: torch.tensor(v) for k, v in words.items()}
        with torch.no_grad():
            return model(pixel_values=pixels, **text), float(model.logit_scale.exp())

    return run


def test_scores_are_those_of_the_published_code(tiny, head, reference):
    x = random_images()
    out, scale = reference(x)
    # images of island b with prompt b
    logits = out.logits_per_image.reshape(2, 3, 2)
    own = torch.stack([logits[0, :, 0], logits[1, :, 1]]).double()
    pick, cosine = load("pick-score", tiny, head), load("clip-score", tiny, head)
    torch.testing.assert_close(pick(designs(x)), own, rtol=0, atol=1e-4)
    torch.testing.assert_close(cosine(designs(x)), own / scale, rtol=0, atol=1e-5)
    assert float(own.std()) > 0.1
    state = torch.load(head, weights_only=True)
    expected = chain(state)(out.image_embeds.double())[:, 0].detach().reshape(2, 3)
    found = load("aesthetic", tiny, head)(designs(x, None))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert float(expected.std()) > 0.01


@pytest.mark.parametrize("name", CLIPS)
def test_chunks_islands_and_company_change_nothing(name, tiny, head):
    x = random_images()
    together = load(name, tiny, head)(designs(x))
    assert together.shape == (2, 3)
    assert together.dtype == torch.float64
    for chunk in (1, 2, 4, None):
        found = load(name, tiny, head, chunk=chunk)(designs(x))
        torch.testing.assert_close(found, together, rtol=0, atol=1e-5)
    reward = load(name, tiny, head)
    for wrapped in (Cached(reward), Chunked(reward, 2)):
        torch.testing.assert_close(wrapped(designs(x)), together, rtol=0, atol=1e-5)
    for i in range(2):
        for j in range(3):
            alone = reward(designs(x[i : i + 1, j : j + 1], WORDS[i : i + 1]))
            torch.testing.assert_close(alone[0, 0], together[i, j], rtol=0, atol=1e-5)


def double(reward):
    """The same reward in float64, without rounding."""
    network = Embedder(
        name="double",
        network=type(reward.embedder.network)(reward.embedder.config).double(),
        words=reward.embedder.words,
    )
    network.network.load_state_dict(reward.embedder.network.state_dict())
    network.network.eval().requires_grad_(False)
    steps = dataclasses.replace(reward.preprocessing, eight_bit=False)
    return dataclasses.replace(reward, embedder=network, preprocessing=steps)


@pytest.mark.parametrize("name", CLIPS)
def test_gradient_equals_finite_differences(name, tiny, head):
    published = load(name, tiny, head)
    reward = double(published)
    x = (0.2 + 0.6 * random_images(1, 2)).requires_grad_()
    (gradient,) = torch.autograd.grad(reward.graded(designs(x, WORDS[:1])).sum(), x)
    rng = torch.Generator().manual_seed(2)
    for _ in range(3):
        way = torch.randn(x.shape, generator=rng, dtype=torch.float64)
        up, down = (
            reward(designs(x.detach() + step * way, WORDS[:1])).sum() for step in (1e-5, -1e-5)
        )
        slope = float(up - down) / 2e-5
        assert float((gradient * way).sum()) == pytest.approx(slope, rel=1e-5, abs=1e-9)
    # through the rounding of the published score: nearly the same direction
    (rounded,) = torch.autograd.grad(published.graded(designs(x, WORDS[:1])).sum(), x)
    assert float(F.cosine_similarity(gradient.flatten(), rounded.flatten(), dim=0)) > 0.98
    difference = reward(designs(x.detach(), WORDS[:1])) - published(designs(x.detach(), WORDS[:1]))
    assert float(difference.abs().max()) < 0.05


@pytest.mark.parametrize("name", CLIPS)
def test_graded_says_what_the_call_says_and_lets_the_gradient_through(name, tiny, head):
    reward = load(name, tiny, head)
    x = random_images().float().requires_grad_()
    value = reward.graded(designs(x))
    torch.testing.assert_close(value, reward(designs(x)), rtol=0, atol=0)
    assert not reward(designs(x)).requires_grad
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert float(gradient.abs().amax((2, 3, 4)).min()) > 0
    assert all(not weight.requires_grad for weight in reward.embedder.network.parameters())


def test_two_objectives_add_up_with_their_gradients(tiny, head):
    """w · aesthetic + (1 − w) · 20 · clip, for w between its ends, by reward algebra."""
    beauty, match = load("aesthetic", tiny, head), load("clip-score", tiny, head)
    x = random_images().requires_grad_()
    single = [torch.autograd.grad(r.graded(designs(x)).sum(), x)[0] for r in (beauty, match)]
    for w in (0.0, 0.3, 1.0):
        both = w * beauty + (1 - w) * 20 * match
        assert both.differentiable
        value = both.graded(designs(x))
        expected = w * beauty(designs(x)) + (1 - w) * 20 * match(designs(x))
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(both(designs(x)), expected)
        (gradient,) = torch.autograd.grad(value.sum(), x)
        wanted = w * single[0] + (1 - w) * 20 * single[1]
        torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-6)
    assert beauty.embedder is match.embedder, "one network serves both"


def test_the_terms_of_a_sum_see_an_image_once(tiny, head, monkeypatch):
    beauty, match = load("aesthetic", tiny, head), load("clip-score", tiny, head)
    calls, plain = [], Embedder.images
    monkeypatch.setattr(
        Embedder,
        "images",
        lambda self, pixels: (calls.append(len(pixels)), plain(self, pixels))[1],
    )
    both = 0.3 * beauty + 14.0 * match
    x = random_images().requires_grad_()
    for score in (both, both.graded):
        calls.clear()
        score(designs(x))
        assert calls == [6]
    with torch.inference_mode():
        calls.clear()
        both(designs(random_images()))
        assert calls == [6]
    # through wrappers and sums of sums, in chunks
    calls.clear()
    sliced = [dataclasses.replace(r, chunk=4) for r in (beauty, match)]
    (sliced[0].zscore(5.0, 1.0) + 0.5 * (sliced[1].clip(-1.0, 1.0) + sliced[1]))(designs(x))
    assert calls == [4, 2]
    # another image, other pixels in the same place, another preprocessing, no sum: seen again
    calls.clear()
    y = random_images(seed=1)
    first = both(designs(y))
    y.copy_(random_images(seed=2))
    assert not torch.allclose(first, both(designs(y)))
    (
        beauty
        + dataclasses.replace(
            match, preprocessing=dataclasses.replace(match.preprocessing, eight_bit=False)
        )
    )(designs(y))
    beauty(designs(y)), match(designs(y))
    assert calls == [6] * 6


def test_the_algebra_of_rewards_applies(tiny, head):
    reward, x = load("clip-score", tiny, head), random_images()
    own = reward(designs(x))
    middle = float(own.mean())
    torch.testing.assert_close(reward.clip(middle)(designs(x)), own.clamp(min=middle))
    scaled = reward.zscore(middle, 0.5)
    torch.testing.assert_close(scaled.graded(designs(x)), (own - middle) / 0.5)


def test_a_prompt_is_encoded_once(tiny, head, monkeypatch):
    load_clip.cache_clear()
    reward = load("clip-score", tiny, head, chunk=2)
    seen = []
    inner = reward.embedder._text

    def listen(self, prompt):
        seen.append(prompt)
        return inner(prompt)

    monkeypatch.setattr(Embedder, "_text", listen)
    x = random_images(2, 5)
    for _ in range(3):
        reward(designs(x))
        reward.graded(designs(x.requires_grad_()))
        reward(designs(x[:1].detach(), WORDS[1:]))
    assert sorted(seen) == sorted(WORDS)
    assert not any(text.requires_grad for text in reward.embedder._texts.values())


def test_prompts_too_long_are_cut_as_published(tiny, head):
    reward = load("clip-score", tiny, head)
    long = "a very long prompt of many words" * 3
    ids = reward.embedder.tokenizer(long, truncation=True, max_length=20).input_ids
    assert len(ids) == 20
    assert ids[-1] == 53
    assert bool(torch.isfinite(reward(designs(random_images(1, 1), (long,)))).all())


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", CLIPS)
def test_half_precision_is_near(name, precision, tiny, head):
    full, half = load(name, tiny, head), load(name, tiny, head, precision=precision)
    assert next(half.embedder.network.parameters()).dtype == getattr(torch, precision)
    x = random_images().float().requires_grad_()
    expected, found = full(designs(x)), half.graded(designs(x))
    # in units of the unit embedding
    scale = full.scale if name != "aesthetic" else float(full.head.weight.norm())
    assert float((found.detach() - expected).abs().max()) / scale < 0.05
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert bool(torch.isfinite(gradient).all())
    assert float(gradient.abs().max()) > 0


def test_earlier_transformers_return_the_features_themselves():
    features = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))

    class Old(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def get_image_features(self, pixel_values):
            return features

    class New(Old):
        def get_image_features(self, pixel_values):
            return SimpleNamespace(pooler_output=features)

    old, new = (Embedder(name="", network=kind()).images(torch.zeros(2, 3)) for kind in (Old, New))
    assert torch.equal(old, new)
    torch.testing.assert_close(old.norm(dim=-1), torch.ones(2))


# the published formats ----------------------------------------------------------------------------


def draw(shapes, seed):
    rng = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        fan = torch.Size(shape[1:]).numel() if len(shape) > 1 else 10
        state[name] = torch.randn(shape, generator=rng) / max(fan, 4) ** 0.5
        if re.search(r"(ln_\w+|norm\w*|LayerNorm)\.weight$", name):
            state[name] = 1 + 0.3 * state[name]
    return state


def open_clip_state(seed=0):
    """A random CLIP with 16 heads per tower, named and shaped as open_clip does."""
    shapes = {
        "positional_embedding": (20, 32),
        "text_projection": (32, 16),
        "token_embedding.weight": (54, 32),
        "visual.class_embedding": (48,),
        "visual.positional_embedding": (17, 48),
        "visual.proj": (48, 16),
        "visual.conv1.weight": (48, 3, 8, 8),
    }
    for name, width in (("ln_final", 32), ("visual.ln_pre", 48), ("visual.ln_post", 48)):
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    for tower, width, inner in (("", 32, 40), ("visual.", 48, 64)):
        for i in range(2):
            start = f"{tower}transformer.resblocks.{i}."
            for part, shape in {
                "attn.in_proj_": (3 * width, width),
                "attn.out_proj.": (width, width),
                "mlp.c_fc.": (inner, width),
                "mlp.c_proj.": (width, inner),
            }.items():
                shapes |= {f"{start}{part}weight": shape, f"{start}{part}bias": shape[:1]}
            for part in ("ln_1.", "ln_2."):
                shapes |= {f"{start}{part}weight": (width,), f"{start}{part}bias": (width,)}
    return {**draw(shapes, seed), "logit_scale": torch.tensor(3.0)}


def blocks(state, start, x, mask=None):
    """Pre-norm transformer blocks of open_clip's names, with PyTorch's own attention."""
    i = 0
    while f"{start}{i}.ln_1.weight" in state:
        s = {k.removeprefix(f"{start}{i}."): v for k, v in state.items()}
        width = x.shape[-1]
        attention = nn.MultiheadAttention(width, 16, batch_first=True)
        attention.load_state_dict({k[5:]: v for k, v in s.items() if k.startswith("attn.")})
        y = F.layer_norm(x, (width,), s["ln_1.weight"], s["ln_1.bias"])
        x = x + attention(y, y, y, attn_mask=mask, need_weights=False)[0]
        y = F.layer_norm(x, (width,), s["ln_2.weight"], s["ln_2.bias"])
        y = F.gelu(F.linear(y, s["mlp.c_fc.weight"], s["mlp.c_fc.bias"]))
        x = x + F.linear(y, s["mlp.c_proj.weight"], s["mlp.c_proj.bias"])
        i += 1
    return x


def open_clip(state, pixels, ids):
    """Unit embeddings of images, and of one padded row of tokens, from the formulas of CLIP."""
    s = state
    x = F.conv2d(pixels, s["visual.conv1.weight"], stride=8).flatten(2).transpose(1, 2)
    first = s["visual.class_embedding"].expand(len(x), 1, -1)
    x = torch.cat((first, x), 1) + s["visual.positional_embedding"]
    x = F.layer_norm(x, (48,), s["visual.ln_pre.weight"], s["visual.ln_pre.bias"])
    x = blocks(s, "visual.transformer.resblocks.", x)[:, 0]
    x = F.layer_norm(x, (48,), s["visual.ln_post.weight"], s["visual.ln_post.bias"])
    y = s["token_embedding.weight"][ids] + s["positional_embedding"]
    causal = torch.full((20, 20), -torch.inf).triu(1)
    y = blocks(s, "transformer.resblocks.", y[None], causal)[0]
    y = F.layer_norm(y, (32,), s["ln_final.weight"], s["ln_final.bias"])[int(ids.argmax())]
    return F.normalize(x @ s["visual.proj"], dim=-1), F.normalize(y @ s["text_projection"], dim=-1)


@pytest.mark.parametrize("version", ["v2.1", "v2.0"])
def test_hps_reads_the_published_format(version, vocabulary, tmp_path):
    file = tmp_path / {"v2.1": "HPS_v2.1_compressed.pt", "v2.0": "HPS_v2_compressed.pt"}[version]
    state = open_clip_state(len(version + file.name))
    half = {k: v.half() for k, v in state.items()}
    torch.save({"epoch": 1, "name": "HPS", "state_dict": half}, file)
    x = random_images(2, 2, (40, 24))
    found = [
        clip.hps_v2(version=version, checkpoint=c, tokenizer=vocabulary, device="cpu")
        for c in (file, tmp_path)
    ]
    assert found[0].embedder is found[1].embedder
    tokenizer = transformers.CLIPTokenizer.from_pretrained(vocabulary)
    pixels = Preprocessing(32, "hps")(x.flatten(0, 1).float())
    expected = []
    for i, prompt in enumerate(WORDS):
        ids = torch.zeros(20, dtype=torch.long)  # open_clip pads with 0
        own = torch.tensor(tokenizer(prompt, truncation=True, max_length=20).input_ids)
        ids[: len(own)] = own
        seen, asked = open_clip({k: v.float() for k, v in half.items()}, pixels, ids)
        expected.append((seen @ asked)[2 * i : 2 * i + 2])
    expected = torch.stack(expected).double().detach()
    torch.testing.assert_close(found[0](designs(x)), expected, rtol=0, atol=1e-5)
    assert float(expected.std()) > 0.01
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(found[0].graded(designs(x)).sum(), x)
    assert float(gradient.abs().amax((2, 3, 4)).min()) > 0


def test_hps_reads_a_folder_in_transformers_format(tiny):
    a = clip.hps_v2(checkpoint=tiny, tokenizer=None, device="cpu")
    b = clip.clip_score(checkpoint=tiny, device="cpu")
    assert a.embedder is b.embedder
    assert a.preprocessing.recipe == "hps"
    # on a square of the network's own size, nothing is resized or cut
    x = random_images(1, 2, (32, 32))
    torch.testing.assert_close(a(designs(x, WORDS[:1])), b(designs(x, WORDS[:1])))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("visual.proj"), "holds no visual.proj"),
        (lambda s: s.pop("visual.ln_pre.bias"), "missing ['vision_model.pre_layrnorm.bias']"),
        (lambda s: s.update(extra=torch.zeros(1)), "not expected ['extra']"),
        (
            lambda s: s.update({"visual.ln_pre.bias": torch.zeros(3)}),
            "another shape ['vision_model.pre_layrnorm.bias']",
        ),
    ],
)
def test_a_file_that_is_no_hps_says_what_is_wrong(change, words, vocabulary, tmp_path):
    state = open_clip_state()
    change(state)
    torch.save({"state_dict": state}, tmp_path / "HPS_v2.1_compressed.pt")
    with pytest.raises(ValueError, match=re.escape(words)):
        clip.hps_v2(checkpoint=tmp_path, tokenizer=vocabulary, device="cpu")


def image_reward_state(seed=0):
    """A random ImageReward with 16 and 12 heads, named and shaped as the published file."""
    see, read = "blip.visual_encoder.", "blip.text_encoder."
    shapes = {
        f"{see}cls_token": (1, 1, 32),
        f"{see}pos_embed": (1, 17, 32),
        f"{see}patch_embed.proj.weight": (32, 3, 8, 8),
        f"{see}patch_embed.proj.bias": (32,),
        f"{see}norm.weight": (32,),
        f"{see}norm.bias": (32,),
        f"{read}embeddings.word_embeddings.weight": (57, 24),
        f"{read}embeddings.position_embeddings.weight": (40, 24),
        f"{read}embeddings.LayerNorm.weight": (24,),
        f"{read}embeddings.LayerNorm.bias": (24,),
        # what the published file holds and nobody reads
        "blip.vision_proj.weight": (8, 32),
        "blip.text_proj.weight": (8, 24),
    }

    def linear(name, out, inner):
        return {f"{name}.weight": (out, inner), f"{name}.bias": (out,)}

    for i in range(2):
        start = f"{see}blocks.{i}."
        shapes |= linear(f"{start}attn.qkv", 96, 32) | linear(f"{start}attn.proj", 32, 32)
        shapes |= linear(f"{start}mlp.fc1", 48, 32) | linear(f"{start}mlp.fc2", 32, 48)
        for part in ("norm1", "norm2"):
            shapes |= {f"{start}{part}.weight": (32,), f"{start}{part}.bias": (32,)}
        start = f"{read}encoder.layer.{i}."
        for part, inner in (("attention", 24), ("crossattention", 32)):
            for letter in ("key", "value"):
                shapes |= linear(f"{start}{part}.self.{letter}", 24, inner)
            shapes |= linear(f"{start}{part}.self.query", 24, 24)
            shapes |= linear(f"{start}{part}.output.dense", 24, 24)
        shapes |= linear(f"{start}intermediate.dense", 40, 24)
        shapes |= linear(f"{start}output.dense", 24, 40)
        for part in ("attention.output", "crossattention.output", "output"):
            name = f"{start}{part}.LayerNorm"
            shapes |= {f"{name}.weight": (24,), f"{name}.bias": (24,)}
    state = draw(shapes, seed)
    state |= {f"mlp.{k}": v for k, v in random_head(24).items()}
    return {**state, f"{read}embeddings.position_ids": torch.arange(40)[None]}


def attend(q, k, v, heads, mask=None):
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)


def blip_score(state, pixels, ids, mask):
    """The score of images (n, 3, 32, 32) with one row of tokens, from the formulas of BLIP."""

    def linear(name, x):
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(name, x, eps):
        weight, bias = (state[f"{name}.{part}"] for part in ("weight", "bias"))
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps)

    see, read = "blip.visual_encoder.", "blip.text_encoder."
    patch = state[f"{see}patch_embed.proj.weight"], state[f"{see}patch_embed.proj.bias"]
    x = F.conv2d(pixels, *patch, stride=8).flatten(2).transpose(1, 2)
    x = torch.cat((state[f"{see}cls_token"].expand(len(x), -1, -1), x), 1)
    x = x + state[f"{see}pos_embed"]
    for i in range(2):
        at = f"{see}blocks.{i}."
        qkv = linear(f"{at}attn.qkv", norm(f"{at}norm1", x, 1e-6)).chunk(3, -1)
        x = x + linear(f"{at}attn.proj", attend(*qkv, 16))
        hidden = F.gelu(linear(f"{at}mlp.fc1", norm(f"{at}norm2", x, 1e-6)))
        x = x + linear(f"{at}mlp.fc2", hidden)
    x = norm(f"{see}norm", x, 1e-6)

    y = state[f"{read}embeddings.word_embeddings.weight"][ids]
    y = y + state[f"{read}embeddings.position_embeddings.weight"][: len(ids)]
    y = norm(f"{read}embeddings.LayerNorm", y, 1e-12).expand(len(x), -1, -1)
    seen = mask.bool()[None, None, None]
    for i in range(2):
        for part, other, keep in (("attention", None, seen), ("crossattention", x, None)):
            at = f"{read}encoder.layer.{i}.{part}."
            source = y if other is None else other
            q = linear(f"{at}self.query", y)
            k, v = (linear(f"{at}self.{letter}", source) for letter in ("key", "value"))
            mixed = linear(f"{at}output.dense", attend(q, k, v, 12, keep))
            y = norm(f"{at}output.LayerNorm", y + mixed, 1e-12)
        at = f"{read}encoder.layer.{i}."
        hidden = linear(f"{at}output.dense", F.gelu(linear(f"{at}intermediate.dense", y)))
        y = norm(f"{at}output.LayerNorm", y + hidden, 1e-12)
    head = {k.removeprefix("mlp."): v for k, v in state.items() if k.startswith("mlp.")}
    raw = chain(head)(y[:, 0].double())[:, 0]
    return (raw - 0.16717362830052426) / 1.0333394966054072


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("image-reward")
    torch.save(image_reward_state(), folder / "ImageReward.pt")
    return folder


def test_image_reward_reads_the_published_format(published, vocabulary):
    reward = scorer.image_reward(checkpoint=published, tokenizer=vocabulary, device="cpu")
    x = random_images(2, 2, (40, 33))
    pixels = Preprocessing(32, "torchvision")(x.flatten(0, 1).float())
    tokenizer = transformers.BertTokenizer.from_pretrained(vocabulary)
    expected = []
    for i, prompt in enumerate(WORDS):
        words = tokenizer(prompt, padding="max_length", truncation=True, max_length=35)
        ids, mask = torch.tensor(words.input_ids), torch.tensor(words.attention_mask)
        assert 2 == int(ids[0])
        expected.append(blip_score(image_reward_state(), pixels[2 * i : 2 * i + 2], ids, mask))
    expected = torch.stack(expected).detach()
    torch.testing.assert_close(reward(designs(x)), expected, rtol=0, atol=1e-4)
    assert float(expected.std()) > 0.05
    # too small to show in a score
    assert reward.vision.config.layer_norm_eps == 1e-6
    assert reward.text.config.layer_norm_eps == 1e-12
    torch.testing.assert_close(
        dataclasses.replace(reward, chunk=1)(designs(x)), expected, rtol=0, atol=1e-4
    )
    x.requires_grad_()
    value = reward.graded(designs(x))
    torch.testing.assert_close(value, reward(designs(x)), rtol=0, atol=0)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert float(gradient.abs().amax((2, 3, 4)).min()) > 0


def test_image_reward_has_the_gradient_of_finite_differences(published, vocabulary):
    scorer._blip.cache_clear()
    reward = scorer.image_reward(
        checkpoint=published, tokenizer=vocabulary, device="cpu", eight_bit=False
    )
    reward.vision.double()
    reward.text.double()
    x = (0.2 + 0.6 * random_images(1, 2)).requires_grad_()
    (gradient,) = torch.autograd.grad(reward.graded(designs(x, WORDS[:1])).sum(), x)
    way = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    up, down = (reward(designs(x.detach() + step * way, WORDS[:1])).sum() for step in (1e-5, -1e-5))
    assert float((gradient * way).sum()) == pytest.approx(float(up - down) / 2e-5, rel=1e-5)
    scorer._blip.cache_clear()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("blip.visual_encoder.pos_embed"), "holds no blip.visual_encoder.pos_emb"),
        (lambda s: s.pop("blip.visual_encoder.norm.bias"), "missing ['post_layernorm.bias']"),
        (lambda s: s.update({"blip.text_encoder.x": torch.zeros(1)}), "not expected ['x']"),
    ],
)
def test_a_file_that_is_no_image_reward_says_what_is_wrong(change, words, vocabulary, tmp_path):
    state = image_reward_state()
    change(state)
    torch.save(state, tmp_path / "ImageReward.pt")
    with pytest.raises(ValueError, match=re.escape(words)):
        scorer.image_reward(checkpoint=tmp_path, tokenizer=vocabulary, device="cpu")


# a run --------------------------------------------------------------------------------------------


def test_das_guides_images_of_two_prompts(tiny, head):
    """White noise, with its exact denoiser: guided images score higher than unguided ones."""
    reward = load("aesthetic", tiny, head) + 20 * load("clip-score", tiny, head)
    schedule = VariancePreserving()
    process = GaussianProcess(
        denoiser=lambda x, t: schedule(t)[0] * x,
        event=(3, 12, 12),
        steps=8,
        schedule=schedule,
        differentiable=True,
        decoder=torch.sigmoid,
        prompts=WORDS,
    )
    found = {}
    for method in (DAS(alpha=0.05), BestOfN(alpha=0.05)):
        samples = method(process, reward, (2, 6), rng=Streams(0, (0, 1)))
        assert samples.designs.prompts == WORDS
        torch.testing.assert_close(
            samples.rewards, reward(samples.designs), rtol=0, atol=1e-4, check_dtype=False
        )
        found[type(method)] = samples.rewards.mean(-1)
    assert bool((found[DAS] > found[BestOfN]).all())


# refusals -----------------------------------------------------------------------------------------


def test_importing_the_rewards_imports_no_heavy_library():
    modules = ", ".join(f"seqalign.rewards.{m}" for m in ("clip", "image_reward", "judge"))
    assert loaded_by(modules, ("transformers", "diffusers", "PIL")) == []


def test_a_missing_library_says_which_extra_to_install(tiny, head, monkeypatch):
    monkeypatch.setattr(checkpoints, "find_spec", lambda name: None)
    for name in CLIPS:
        with pytest.raises(ImportError, match=re.escape('pip install "seqalign[images]"')):
            load(name, tiny, head)
    with pytest.raises(ImportError, match=re.escape('pip install "seqalign[images]"')):
        scorer.image_reward(device="cpu")


@pytest.fixture
def nothing(tmp_path, monkeypatch):
    """A machine without any weights."""
    monkeypatch.setenv("SEQALIGN_WEIGHTS", str(tmp_path / "none"))
    monkeypatch.setattr(transformers.utils.hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda h: clip.aesthetic(head=h), "openai/clip-vit-large-patch14 --include"),
        (lambda h: clip.aesthetic(), "sac+logos+ava1-l14-linearMSE.pth (3.7 MB"),
        (lambda h: clip.clip_score(), "1.7 GB"),
        (lambda h: clip.clip_score(checkpoint="clip"), "1.7 GB"),
        (lambda h: clip.clip_score(checkpoint="/no/such/folder"), "/no/such/folder"),
        (lambda h: clip.pick_score(), "3.9 GB"),
        (lambda h: clip.hps_v2(), "HPS_v2.1_compressed.pt"),
        (lambda h: clip.hps_v2(version="v2.0"), "HPS_v2_compressed.pt of xswu/HPSv2"),
        (lambda h: scorer.image_reward(), "ImageReward.pt"),
    ],
)
def test_missing_weights_say_what_to_put_where(call, words, nothing, head):
    with pytest.raises(FileNotFoundError, match=re.escape(words)):
        call(head)
    assert not (nothing / "cache").exists() or not any((nothing / "cache").rglob("*.safetensors"))


def test_a_repository_in_the_cache_is_found(tiny, nothing):
    snapshot = nothing / "cache" / "models--someone--tiny" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    for file in tiny.iterdir():
        (snapshot / file.name).write_bytes(file.read_bytes())
    found = clip.clip_score(checkpoint="someone/tiny", device="cpu")
    x = random_images()
    expected = clip.clip_score(checkpoint=tiny, device="cpu")(designs(x))
    assert torch.equal(found(designs(x)), expected)


def test_what_fetch_has_brought_is_found_under_the_name_of_its_repository(
    tiny, nothing, monkeypatch
):
    files = {f"tiny-clip/{file.name}": {"url": "", "bytes": None} for file in tiny.iterdir()}
    entry = {"summary": "", "licence": "", "source": "", "paper": "", "folder": True}
    listed = weights.read_catalog(yaml.safe_dump({"tiny-clip": {**entry, "files": files}}))
    monkeypatch.setattr(weights, "catalog", lambda: listed)
    with pytest.raises(FileNotFoundError, match="Or run: seqalign fetch tiny-clip"):
        clip.clip_score(checkpoint="someone/tiny-clip", device="cpu")
    folder = nothing / "none" / "tiny-clip"
    folder.mkdir(parents=True)
    for file in tiny.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    for name in ("someone/tiny-clip", "tiny-clip"):
        assert clip.clip_score(checkpoint=name, device="cpu").embedder.words == folder


def test_a_folder_without_its_parts_is_refused(tiny, head, tmp_path):
    def copy(*names):
        folder = tmp_path / "-".join(names)
        folder.mkdir()
        for name in names:
            (folder / name).write_bytes((tiny / name).read_bytes())
        return folder

    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        clip.clip_score(checkpoint=copy("vocab.json"), device="cpu")
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors"):
        clip.clip_score(checkpoint=copy("config.json", "vocab.json"), device="cpu")
    with pytest.raises(FileNotFoundError, match=r"merges\.txt is missing"):
        clip.clip_score(
            checkpoint=copy("config.json", "model.safetensors", "vocab.json"), device="cpu"
        )
    # who reads no prompt needs no vocabulary
    lean = copy("config.json", "model.safetensors")
    x = random_images()
    assert clip.aesthetic(checkpoint=lean, head=head, device="cpu")(Designs(x)).shape == (2, 3)


def test_a_checkpoint_that_lacks_weights_is_refused(tiny, tmp_path):
    from safetensors.torch import load_file, save_file

    for name in ("config.json", "vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((tiny / name).read_bytes())
    state = load_file(tiny / "model.safetensors")
    state.pop("visual_projection.weight")
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lack \['visual_projection\.weight'\]"):
        clip.clip_score(checkpoint=tmp_path, device="cpu")
    (tmp_path / "config.json").write_text('{"model_type": "blip"}')
    with pytest.raises(ValueError, match="model_type is 'blip', not 'clip'"):
        clip.clip_score(checkpoint=tmp_path, device="cpu")


def test_a_vocabulary_of_another_network_is_refused(tiny, tmp_path):
    for file in tiny.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tokens = json.loads((tmp_path / "vocab.json").read_text())
    tokens["<|endoftext|>"] = 70
    (tmp_path / "vocab.json").write_text(json.dumps(tokens))
    reward = clip.clip_score(checkpoint=tmp_path, device="cpu")
    with pytest.raises(ValueError, match="token 70, and its network knows 54"):
        reward(designs())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"chunk": 0}, "chunk is 0"),
        ({"precision": "float8"}, "precision is 'float8'"),
        ({"device": "cuda:99"}, "device is 'cuda:99'"),
        ({"device": "gpu"}, "device is 'gpu'"),
    ],
)
@pytest.mark.parametrize("name", CLIPS)
def test_options_without_a_meaning_are_refused(name, options, words, tiny, head):
    with pytest.raises(ValueError, match=re.escape(words)):
        load(name, tiny, head, **options)


def test_an_unknown_version_is_refused():
    with pytest.raises(ValueError, match="version is 'v3'"):
        clip.hps_v2(version="v3")


def test_wrong_designs_say_what_is_wrong(tiny, head):
    reward = load("pick-score", tiny, head)
    with pytest.raises(RewardError, match="compares an image with its prompt"):
        reward(designs(prompts=None))
    with pytest.raises(RewardError, match="compares an image with its prompt"):
        reward.relaxed(random_images())
    with pytest.raises(RewardError, match="1 prompts for 2 islands"):
        reward(designs(prompts=WORDS[:1]))
    with pytest.raises(TypeError, match="these designs are sequences"):
        reward(Designs.of(["MKV"], PROTEIN))
    beauty = load("aesthetic", tiny, head)
    x = random_images()
    torch.testing.assert_close(beauty.relaxed(x), beauty(Designs(x)), rtol=0, atol=0)


@pytest.mark.parametrize("name", [*CLIPS, "hps-v2", "image-reward"])
def test_card(name, tiny, head, published, vocabulary):
    card = yaml.safe_load((Path(clip.__file__).parent / "cards" / f"{name}.yaml").read_text())
    if name == "image-reward":
        reward = scorer.image_reward(checkpoint=published, tokenizer=vocabulary, device="cpu")
    elif name == "hps-v2":
        reward = clip.hps_v2(checkpoint=tiny, tokenizer=tiny, device="cpu")
    else:
        reward = load(name, tiny, head)
    assert card["name"] == reward.name == name
    assert card["unit"] == reward.unit
    assert card["differentiable"] is reward.differentiable is True
    assert 0 < reward.cost < 1
    for key in ("summary", "direction", "licence", "data", "figures", "validity", "references"):
        assert card[key]
