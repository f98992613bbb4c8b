"""Rewards of the pixels: published formulas, file sizes, gradients, and refusals."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from seqalign.core.objective import RewardError, evaluate
from seqalign.core.process import Designs
from seqalign.core.sequence import PROTEIN
from seqalign.load import load_reward
from seqalign.rewards import images

PIL = pytest.importorskip("PIL.Image", reason="needs Pillow: pip install 'seqalign[images]'")

NAMES = ("jpeg-compressibility", "jpeg-incompressibility", "brightness", "colorfulness")
SMOOTH = ("brightness", "colorfulness")


def factory(name):
    return load_reward(name)


def random_images(b=2, k=3, size=(24, 20), seed=0):
    rng = torch.Generator().manual_seed(seed)
    levels = torch.randint(0, 256, (b, k, 3, *size), generator=rng)
    return levels.double() / 255


def one_color(red, green, blue, size=(6, 5)):
    return Designs(
        torch.tensor([red, green, blue])[None, None, :, None, None].expand(1, 1, 3, *size)
    )


@pytest.mark.parametrize("quality", [95, 50])
def test_jpeg_is_the_size_of_the_file_in_kilobytes(quality, tmp_path):
    x = random_images().float()
    small = load_reward("jpeg-compressibility", quality=quality)(Designs(x))
    large = load_reward("jpeg-incompressibility", quality=quality)(Designs(x))
    for i in range(2):
        for j in range(3):
            levels = (x[i, j] * 255).round().byte().permute(1, 2, 0).numpy()
            path = tmp_path / "image.jpg"
            PIL.fromarray(levels).save(path, quality=quality)
            assert float(large[i, j]) == path.stat().st_size / 1000
    torch.testing.assert_close(small, -large, rtol=0, atol=0)


def test_jpeg_sees_the_image_rounded_to_eight_bits():
    x = random_images()
    reward = load_reward("jpeg-incompressibility")
    for shift in (0.4 / 255, -0.4 / 255):
        near = Designs((x + shift).clamp(0, 1))
        assert torch.equal(reward(Designs(x)), reward(near))
    flat, noise = one_color(0.2, 0.5, 0.7, (24, 20)), Designs(x[:1, :1])
    assert float(reward(flat)) < float(reward(noise))


@pytest.mark.parametrize(
    ("color", "bright", "colorful"),
    [
        ((0.0, 0.0, 0.0), 0.0, 0.0),
        ((1.0, 1.0, 1.0), 1.0, 0.0),
        ((0.25, 0.25, 0.25), 0.25, 0.0),
        # one color has no spread: 0.3 · |(255 (R − G), 255 ((R + G)/2 − B))|
        ((1.0, 0.0, 0.0), 0.299, 0.3 * 255 * (1 + 0.25) ** 0.5),
        ((0.0, 1.0, 0.0), 0.587, 0.3 * 255 * (1 + 0.25) ** 0.5),
        ((0.0, 0.0, 1.0), 0.114, 0.3 * 255),
    ],
)
def test_one_color(color, bright, colorful):
    designs = one_color(*color)
    assert float(images.brightness()(designs)) == pytest.approx(bright, abs=1e-6)
    assert float(images.colorfulness()(designs)) == pytest.approx(colorful, abs=1e-4)


def test_colorfulness_of_two_colors_by_hand():
    # half red, half green: rg = ±255, yb = 127.5 everywhere
    x = torch.zeros(1, 1, 3, 4, 2)
    x[..., 0, :, 0], x[..., 1, :, 1] = 1, 1
    assert float(images.colorfulness()(Designs(x))) == pytest.approx(255 + 0.3 * 127.5, abs=1e-4)
    # the order of the pixels does not matter
    turned = Designs(x.flip(-1).transpose(-1, -2).contiguous())
    assert float(images.colorfulness()(turned)) == pytest.approx(255 + 0.3 * 127.5, abs=1e-4)


@pytest.mark.parametrize("name", SMOOTH)
def test_gradient_equals_finite_differences(name):
    x = random_images(1, 2, (5, 4)).clamp(0.01, 0.99).requires_grad_()
    reward = factory(name)
    assert reward.differentiable
    (gradient,) = torch.autograd.grad(reward.graded(Designs(x)).sum(), x)
    for index in ((0, 0, 0, 2, 1), (0, 1, 1, 4, 3), (0, 1, 2, 0, 0)):
        up, down = x.detach().clone(), x.detach().clone()
        up[index] += 1e-5
        down[index] -= 1e-5
        slope = (reward(Designs(up)).sum() - reward(Designs(down)).sum()) / 2e-5
        assert float(gradient[index]) == pytest.approx(float(slope), rel=1e-5, abs=1e-8)
    torch.testing.assert_close(reward.relaxed(x), reward(Designs(x)), rtol=0, atol=0)


def test_a_gray_image_has_no_gradient_but_a_number():
    x = torch.full((1, 1, 3, 4, 4), 0.5, requires_grad=True)
    (gradient,) = torch.autograd.grad(images.colorfulness().graded(Designs(x)).sum(), x)
    assert bool((gradient == 0).all())


@pytest.mark.parametrize("name", NAMES)
def test_an_image_scores_the_same_alone_and_in_company(name):
    x = random_images()
    reward, together = factory(name), factory(name)(Designs(x))
    assert together.shape == (2, 3)
    assert together.dtype == torch.float64
    for i in range(2):
        for j in range(3):
            alone = reward(Designs(x[i : i + 1, j : j + 1]))
            torch.testing.assert_close(alone[0, 0], together[i, j])
    assert torch.equal(evaluate(reward, Designs(x, prompts=("a", "b"))), together)


def test_sums_of_smooth_rewards_are_smooth():
    x = random_images().requires_grad_()
    total = 10 * images.brightness() - 0.1 * images.colorfulness()
    assert total.differentiable
    value = total.graded(Designs(x))
    torch.testing.assert_close(value, total(Designs(x)))
    assert float(torch.autograd.grad(value.sum(), x)[0].abs().min()) > 0
    assert not (total + load_reward("jpeg-compressibility")).differentiable


@pytest.mark.parametrize("name", ["jpeg-compressibility", "jpeg-incompressibility"])
def test_jpeg_has_no_gradient_and_says_so(name):
    with pytest.raises(TypeError, match="no gradient"):
        factory(name).graded(Designs(random_images()))
    with pytest.raises(TypeError, match="no gradient"):
        factory(name).relaxed(random_images())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("designs", "error", "words"),
    [
        (Designs.of(["MKV"], PROTEIN), TypeError, "these designs are sequences"),
        (Designs(torch.rand(1, 2, 3, 8)), RewardError, "(1, 2, 3, 8)"),
        (Designs(torch.rand(1, 2, 1, 8, 8)), RewardError, "(1, 2, 1, 8, 8)"),
        (Designs(torch.ones(1, 2, 3, 8, 8, dtype=torch.uint8)), RewardError, "torch.uint8"),
        (Designs(2 * torch.ones(1, 2, 3, 8, 8)), RewardError, "from 2 to 2"),
        (Designs(torch.full((1, 1, 3, 8, 8), torch.nan)), RewardError, "nan"),
    ],
)
def test_wrong_designs_say_what_is_wrong(name, designs, error, words):
    with pytest.raises(error, match=re.escape(words)):
        factory(name)(designs)


def test_a_quality_outside_the_scale_is_refused():
    with pytest.raises(ValueError, match=re.escape("quality is 100; give 1..95")):
        images.jpeg_size(registered="jpeg-compressibility", quality=100)


def test_eight_bit_images_round_trip():
    x = random_images(1, 4)[0]
    for picture, row in zip(images.pillow(x), x, strict=True):
        file = io.BytesIO()
        picture.save(file, format="PNG")
        back = torch.from_numpy(np.array(PIL.open(file)))
        assert torch.equal(back.permute(2, 0, 1).double() / 255, row)


def test_a_missing_library_says_which_extra_to_install(monkeypatch):
    monkeypatch.setattr(images, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=re.escape('pip install "seqalign[images]"')):
        load_reward("jpeg-compressibility")(Designs(random_images()))
    assert images.brightness()(Designs(random_images())).shape == (2, 3)


@pytest.mark.parametrize("name", NAMES)
def test_card(name):
    path = Path(images.__file__).parent / "cards" / f"{name}.yaml"
    card = yaml.safe_load(path.read_text())
    reward = factory(name)
    assert card["name"] == reward.name == name
    assert card["unit"] == reward.unit
    assert card["differentiable"] is reward.differentiable
    for key in ("summary", "direction", "licence", "data", "figures", "validity", "references"):
        assert card[key]
