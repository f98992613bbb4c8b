"""Inverse problems: the operators are the matrices they say, r is the log-likelihood, and weighted
methods reach the posterior of a Gaussian prior, which unweighted guidance misses.
"""

from __future__ import annotations

import itertools
import math

import exact
import numpy as np
import pytest
import torch
from PIL import Image

from seqalign.core.objective import RewardError
from seqalign.core.process import Designs
from seqalign.core.proposal import Tilted
from seqalign.core.selection import Resample
from seqalign.core.sequence import PROTEIN
from seqalign.core.tempering import Adaptive
from seqalign.methods.das import DAS
from seqalign.methods.guidance import Guidance
from seqalign.methods.tds import TDS
from seqalign.rewards import inverse_problems as ip

C, H, W = 1, 4, 4
SIGMA = 1.0


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def made() -> dict[str, ip.Measured]:
    mask = noise(H, W, seed=1) > -0.3
    return {
        "inpainting": ip.inpainting(noise(C, H, W), SIGMA, mask),
        "super-resolution": ip.super_resolution(noise(C, H // 2, W // 2), SIGMA, 2),
        "deblurring": ip.deblurring(noise(C, H, W), SIGMA, 0.8),
        "deblurring-box": ip.deblurring(noise(C, H, W), SIGMA, 3, "box"),
        "denoising": ip.Measured(noise(C, H, W), SIGMA),
    }


def matrix(reward: ip.Measured) -> tuple[np.ndarray, np.ndarray]:
    """A and y, (m, C·H·W) and (m,), by the operator's action on every single pixel."""
    basis = torch.eye(C * H * W, dtype=torch.float64).reshape(1, -1, C, H, W)
    a = reward.operate(basis)[0].flatten(1).T
    y = reward.measurement.flatten()
    keep = reward.mask.flatten() if isinstance(reward, ip.Inpainting) else torch.ones(len(y)) > 0
    return a[keep].numpy(), y[keep].numpy()


each = pytest.mark.parametrize("name", made())


# operators ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [2, 3])
def test_super_resolution_averages_blocks(factor):
    x = noise(2, 3, 3, 6, 12)
    got = ip.super_resolution(noise(3, 6 // factor, 12 // factor), 1.0, factor).operate(x)
    assert got.shape == (2, 3, 3, 6 // factor, 12 // factor)
    for i, j in itertools.product(range(6 // factor), range(12 // factor)):
        rows, columns = slice(factor * i, factor * (i + 1)), slice(factor * j, factor * (j + 1))
        block = x[..., rows, columns].mean((-1, -2))
        assert torch.allclose(got[..., i, j], block, atol=1e-12)


@pytest.mark.parametrize(("kernel", "width"), [("gaussian", 0.6), ("gaussian", 1.0), ("box", 5)])
def test_blurs_repeat_the_edge(kernel, width):
    # by hand: every neighbor outside is the pixel on the border
    reward = ip.deblurring(noise(2, 5, 7), 1.0, width, kernel)
    x = noise(1, 2, 2, 5, 7, seed=3)
    n = 2 if kernel == "box" else math.ceil(3 * width)
    reach = range(-n, n + 1)
    tap = {i: 1.0 if kernel == "box" else math.exp(-0.5 * (i / width) ** 2) for i in reach}
    total = sum(tap.values())
    want = torch.zeros_like(x)
    for i, j, u, v in itertools.product(range(5), range(7), reach, reach):
        row, column = min(max(i + u, 0), 4), min(max(j + v, 0), 6)
        want[..., i, j] += tap[u] * tap[v] / total**2 * x[..., row, column]
    assert torch.allclose(reward.operate(x), want, atol=1e-12)
    flat = torch.full((1, 1, 2, 5, 7), 0.3, dtype=torch.float64)
    assert torch.allclose(reward.operate(flat), flat, atol=1e-12)


def test_pixels_outside_the_mask_say_nothing():
    reward = made()["inpainting"]
    x = noise(1, 5, C, H, W, seed=4)
    moved = torch.where(reward.mask, x, x + noise(C, H, W, seed=5))
    assert torch.equal(reward.relaxed(x), reward.relaxed(moved))
    other = torch.where(reward.mask, reward.measurement, 1e6)
    assert torch.equal(ip.Inpainting(other, SIGMA, mask=reward.mask).relaxed(x), reward.relaxed(x))


# the log-likelihood -------------------------------------------------------------------------------


@each
def test_r_is_the_log_likelihood_and_its_gradient(name):
    reward = made()[name]
    a, y = matrix(reward)
    x = noise(3, 4, C, H, W, seed=6).requires_grad_()
    r = reward.relaxed(x)
    assert r.shape == (3, 4)
    gap = x.detach().flatten(2).numpy() @ a.T - y
    assert np.allclose(r.detach(), -0.5 * (gap**2).sum(-1) / SIGMA**2, atol=1e-10)
    # differences of r are differences of the Gaussian log-density of y given x
    law = torch.distributions.Normal(torch.tensor(gap + y), SIGMA)
    log_p = law.log_prob(torch.tensor(y)).sum(-1)
    assert torch.allclose(r - r[0, 0], log_p - log_p[0, 0], atol=1e-10)
    (g,) = torch.autograd.grad(r.sum(), x)
    assert np.allclose(g.flatten(2), -gap @ a / SIGMA**2, atol=1e-10)
    designs = Designs(x.detach())
    assert torch.equal(reward(designs), r.detach())
    assert not reward(Designs(x)).requires_grad
    assert torch.allclose(reward.relaxed(x.float()).double(), r, atol=1e-4)
    assert (reward.unit, reward.differentiable) == ("nats", True)


def posterior(reward: ip.Measured, **settings) -> exact.Problem:
    """A smooth Gaussian prior on images and the reward as its log-likelihood."""
    a, y = matrix(reward)
    i = np.arange(H)
    near = np.exp(-0.5 * ((i[:, None] - i) / 1.2) ** 2) + 0.05 * np.eye(H)
    c = np.kron(0.5 * np.eye(C), np.kron(near, near))
    return exact.linear_gaussian(
        np.full(C * H * W, 0.2),
        c,
        a.T @ y / SIGMA**2,
        a.T @ a / SIGMA**2,
        reward=reward,
        constant=-0.5 * float(y @ y) / SIGMA**2,
        event=(C, H, W),
        steps=5,
        **settings,
    )


@pytest.mark.parametrize("name", ["inpainting", "super-resolution", "deblurring"])
def test_tds_and_das_reach_the_posterior_and_guidance_does_not(name):
    p = posterior(made()[name])
    methods = {
        "tds": TDS(resample=Resample("ssp", 0.8)),
        "das": DAS(tempering=Adaptive(pace=2.0), tilt=Tilted(scale=0.5)),
    }
    for method in methods.values():
        exact.assert_exact(p.run(method, (250, 12), seed=2), p, error=0.05)
    biased = p.run(Guidance(), (1, 3000), seed=2)
    gap = p.features(biased.designs.x)[0] - p.expected
    off = gap.mean(0).abs() / (gap.std(0) / math.sqrt(len(gap)))
    assert float(off.max()) > 3 * exact.FALSE_ALARM, "DPS looks unbiased here"


# files and errors ---------------------------------------------------------------------------------


def test_measurements_and_masks_from_files(tmp_path):
    rgb = (torch.rand(5, 4, 3, generator=torch.Generator().manual_seed(0)) * 255).byte().numpy()
    keep = rgb[..., 0] > 120
    Image.fromarray(rgb).save(tmp_path / "y.png")
    Image.fromarray(keep).save(tmp_path / "mask.png")
    np.save(tmp_path / "y.npy", rgb.transpose(2, 0, 1) / np.float32(255))
    np.save(tmp_path / "mask.npy", keep)
    x = torch.rand(1, 2, 3, 5, 4, generator=torch.Generator().manual_seed(1))
    scores = [
        ip.inpainting(tmp_path / f"y.{y}", 0.1, str(tmp_path / f"mask.{m}")).relaxed(x)
        for y in ("png", "npy")
        for m in ("png", "npy")
    ]
    scores.append(ip.inpainting(torch.tensor(rgb).permute(2, 0, 1) / 255, 0.1, torch.tensor(keep)))
    scores[-1] = scores[-1].relaxed(x)
    assert all(torch.allclose(s, scores[0]) for s in scores)
    seen = ip.read(tmp_path / "y.png")
    assert seen.shape == (3, 5, 4)
    assert np.allclose(seen.permute(1, 2, 0) * 255, rgb)


def test_wrong_input_gives_one_clear_sentence(tmp_path):
    y = noise(3, 8, 8)
    with pytest.raises(ValueError, match="sigma is 0"):
        ip.super_resolution(y, 0.0)
    with pytest.raises(ValueError, match="finite floats"):
        ip.super_resolution(torch.full((3, 2, 2), torch.nan), 0.1)
    with pytest.raises(ValueError, match="finite floats"):
        ip.deblurring(torch.zeros(3, 2, 2, dtype=torch.uint8), 0.1)
    with pytest.raises(ValueError, match="factor is 1"):
        ip.super_resolution(y, 0.1, 1)
    with pytest.raises(ValueError, match="odd whole number"):
        ip.deblurring(y, 0.1, 2, "box")
    with pytest.raises(ValueError, match="'disk'"):
        ip.deblurring(y, 0.1, 2, "disk")
    with pytest.raises(ValueError, match="keeps no pixel"):
        ip.inpainting(y, 0.1, torch.zeros(8, 8, dtype=torch.bool))
    with pytest.raises(ValueError, match="the mask has shape"):
        ip.inpainting(y, 0.1, torch.ones(8, 7, dtype=torch.bool))
    with pytest.raises(ValueError, match="booleans"):
        ip.inpainting(y, 0.1, torch.ones(8, 8))
    with pytest.raises(ValueError, match="odd number of weights"):
        ip.Deblurring(y, 0.1, kernel=torch.ones(2))
    with pytest.raises(RewardError, match=r"factor 3 does not divide"):
        ip.super_resolution(y, 0.1, 3).relaxed(noise(1, 1, 3, 8, 8))
    with pytest.raises(RewardError, match=r"measured as \(3, 2, 2\)"):
        ip.super_resolution(y, 0.1, 4).relaxed(noise(1, 1, 3, 8, 8))
    with pytest.raises(RewardError, match="sequences"):
        ip.super_resolution(y, 0.1)(Designs.of(["ACD"], PROTEIN))
    with pytest.raises(ValueError, match=r"neither a \.png nor a \.npy"):
        ip.deblurring(tmp_path / "y.jpg", 0.1)
    Image.new("RGBA", (4, 4), (1, 2, 3, 100)).save(tmp_path / "clear.png")
    with pytest.raises(ValueError, match="transparent"):
        ip.deblurring(tmp_path / "clear.png", 0.1)
    Image.new("L", (4, 4), 100).save(tmp_path / "gray.png")
    with pytest.raises(ValueError, match="black and white"):
        ip.inpainting(y, 0.1, tmp_path / "gray.png")
    with pytest.raises(FileNotFoundError):
        ip.deblurring(tmp_path / "no.png", 0.1)
