"""emoji-match and its twin: mutual information, gradients, invariances, training and cards.

The fixture holds 24 drawings of Noto Emoji (Apache-2.0), 32x32 RGB: names of the test part,
by hash, all of whose words occur in training names.
"""

import copy
import dataclasses
import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import reward_laws
import torch
from safetensors.torch import save

from seqalign.core.objective import RewardError
from seqalign.core.process import Designs
from seqalign.core.sequence import PROTEIN
from seqalign.core.wrappers import Cached
from seqalign.methods.das import DAS
from seqalign.models.emoji import emoji_mini
from seqalign.models.emoji_data import family, part_of, words_of
from seqalign.rewards import emoji, train_emoji_match
from seqalign.rewards.inverse_problems import inpainting

NAMES = ("emoji-match", "emoji-match-holdout")
FACTORIES = {name: partial(emoji.emoji_match, registered=name) for name in NAMES}
FOLDER = Path(emoji.__file__).parent
FIXTURE = Path(__file__).parents[1] / "data" / "emoji_known_words.npz"

each = pytest.mark.parametrize("name", FACTORIES)
kinds = pytest.mark.parametrize("kind", ["residual", "depthwise"])


def held_out():
    with np.load(FIXTURE) as stored:
        names = tuple(str(n) for n in stored["names"])
        return names, torch.from_numpy(stored["pixels"]).float() / 255


def pictures(b, k, seed=0, dtype=torch.float32):
    """Held-out drawings, mixed with noise, (b, k, 3, 32, 32), with a prompt for each island."""
    names, x = held_out()
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(x), (b, k), generator=generator)
    noise = torch.rand((b, k, 3, 32, 32), generator=generator)
    return Designs((0.8 * x[rows] + 0.2 * noise).to(dtype), prompts=names[:b])


def small(kind="residual", *, folded=True):
    torch.manual_seed(0)
    return emoji.MatchNetwork(emoji.Layout(kind, (4, 6, 8), (1, 1, 1), 8, 8), folded=folded)


@each
def test_scores_are_bounded_float64_and_leave_their_input_alone(name):
    reward, designs = FACTORIES[name](), pictures(3, 4)
    before = designs.x.clone()
    score = reward(designs)
    assert reward.name == name
    assert reward.unit == "nats"
    assert reward.differentiable
    assert score.shape == (3, 4)
    assert score.dtype == torch.float64
    assert float(score.max()) <= reward.most == math.log(len(reward.bank) + 1)
    assert torch.equal(before, designs.x)
    torch.testing.assert_close(score, reward.graded(designs).double(), rtol=0, atol=0)


@each
def test_the_exponential_of_the_score_has_mean_one_over_the_bank(name):
    # p(c | x) / p(c) with uniform p(c): the law that makes the score a mutual information
    reward = FACTORIES[name]()
    with torch.no_grad():
        e = reward.network.images(pictures(1, 3).x[0]).double()
    score = reward.compare(e.expand(len(reward.bank), -1, -1), reward.bank)
    torch.testing.assert_close(score.exp().mean(0), torch.ones(3).double(), rtol=1e-6, atol=0)


@each
def test_a_prompt_outside_the_bank_is_compared_with_all_of_it(name):
    reward, designs = FACTORIES[name](), pictures(1, 3, dtype=torch.float64)
    prompt = "grinning rocket"
    assert prompt not in reward.bank
    network = reward.network
    with torch.no_grad():
        e = copy.deepcopy(network).double().images(designs.x[0])
        t = network.texts((prompt, *reward.bank)).double()
    logits = reward.scale * e @ t.T
    expected = logits.log_softmax(-1)[:, 0] + reward.most
    score = reward(dataclasses.replace(designs, prompts=(prompt,)))[0]
    torch.testing.assert_close(score, expected, rtol=0, atol=1e-5)


@each
def test_gradient_equals_finite_differences(name):
    reward, designs = FACTORIES[name](), pictures(2, 2, dtype=torch.float64)
    x = designs.x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(reward.graded(dataclasses.replace(designs, x=x)).sum(), x)
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        u = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        up, down = (
            reward(dataclasses.replace(designs, x=designs.x + s * 1e-5 * u)) for s in (1, -1)
        )
        difference = (up - down) / 2e-5
        slope = (gradient * u).flatten(2).sum(-1)
        torch.testing.assert_close(slope, difference, rtol=1e-5, atol=1e-7)


@each
def test_the_gradient_is_finite_where_there_is_nothing_to_see(name):
    x = torch.ones(1, 3, 3, 32, 32) * torch.tensor([0.0, 0.5, 1.0])[:, None, None, None]
    x.requires_grad_()
    score = FACTORIES[name]().graded(Designs(x, prompts=("red heart",)))
    (gradient,) = torch.autograd.grad(score.sum(), x)
    assert bool(gradient.isfinite().all())
    assert bool((gradient.flatten(2).norm(dim=-1) > 0).all())


@each
def test_islands_and_batches_do_not_change_a_score(name):
    reward, designs = FACTORIES[name](), pictures(3, 4)
    score = reward(designs)
    for b in range(3):
        alone = dataclasses.replace(
            designs, x=designs.x[b : b + 1, 1:3], prompts=designs.prompts[b : b + 1]
        )
        torch.testing.assert_close(reward(alone), score[b : b + 1, 1:3], rtol=0, atol=1e-4)
    backwards = dataclasses.replace(designs, x=designs.x.flip(0), prompts=designs.prompts[::-1])
    torch.testing.assert_close(reward(backwards), score.flip(0), rtol=0, atol=1e-4)


@each
def test_a_prompt_matters_and_its_spelling_does_not(name):
    reward, x = FACTORIES[name](), pictures(1, 3).x

    def score(prompt):
        return reward(Designs(x, prompts=(prompt,)))

    assert torch.equal(score("smiling cat face"), score("  Smiling: CAT-face!"))
    assert float((score("smiling cat face") - score("red apple")).abs().min()) > 0.05


@each
def test_larger_pictures_are_averaged_over_areas(name):
    reward, designs = FACTORIES[name](), pictures(2, 2)
    large = designs.x.repeat_interleave(3, -1).repeat_interleave(3, -2)
    # An offset with mean zero over each area cannot be seen.
    offset = torch.tensor([[0.1, -0.1, 0.0]] * 3).repeat(32, 32)
    for x in (large, large + offset):
        torch.testing.assert_close(
            reward(dataclasses.replace(designs, x=x)), reward(designs), rtol=0, atol=1e-4
        )
    with pytest.raises(RewardError, match=r"multiple of 32"):
        reward(Designs(torch.rand(1, 1, 3, 48, 48), prompts=("cat",)))
    with pytest.raises(RewardError, match=r"multiple of 32"):
        reward(Designs(torch.rand(1, 1, 3, 32, 64), prompts=("cat",)))


def test_errors_are_sentences():
    reward, x = emoji.emoji_match(), torch.rand(2, 1, 3, 32, 32)
    with pytest.raises(RewardError, match="have no prompts"):
        reward(Designs(x))
    with pytest.raises(RewardError, match="2 islands and 1 prompts"):
        reward(Designs(x, prompts=("cat",)))
    with pytest.raises(RewardError, match=r"'\?!' has no letter"):
        reward(Designs(x, prompts=("cat", "?!")))
    with pytest.raises(RewardError, match="RGB pictures of shape"):
        reward(Designs(x[:, :, :1], prompts=("cat", "dog")))
    with pytest.raises(RewardError, match="process over images"):
        reward(Designs.of(["ACDE"], PROTEIN))
    with pytest.raises(RewardError, match="Divide by 255"):
        reward(Designs((255 * x).to(torch.uint8), prompts=("cat", "dog")))
    flat = x.clone()
    flat[0, 0, 0, 0, 0], flat[1, 0, 0, 0, 0] = -1.0, 1.0
    with pytest.raises(RewardError, match=r"values from -1 to 1\b"):
        reward(Designs(flat, prompts=("cat", "dog")))
    with pytest.raises(ValueError, match=r"scale is 0\.0"):
        emoji.emoji_match(scale=0)
    with pytest.raises(ValueError, match="the bank is empty"):
        emoji.EmojiMatch(name="r", network=small(), bank=(), scale=1.0)
    with pytest.raises(ValueError, match="'residual' or 'depthwise'"):
        emoji.Layout("dense", (1, 1, 1), (1, 1, 1))
    with pytest.raises(ValueError, match="layout, bank and scale"):
        emoji.load_weights(save({"a": torch.zeros(1)}))


@each
def test_held_out_names_are_found_far_above_chance(name):
    names, x = held_out()
    assert all(part_of(n) == "test" for n in names)
    reward = FACTORIES[name]()
    assert not set(names) & set(reward.bank)
    score = reward(Designs(x.expand(len(names), -1, -1, -1, -1), prompts=names))
    rank = (score > score.diagonal()[:, None]).sum(1)
    # 24 names: chance is 5 of them among the first five, 8.2 at five standard deviations
    assert int((rank < 5).sum()) >= 10


def test_twins_agree_on_which_held_out_picture_a_prompt_means():
    names, x = held_out()
    guide, twin = (
        f()(Designs(x.expand(len(names), -1, -1, -1, -1), prompts=names))
        for f in FACTORIES.values()
    )
    pair = torch.stack([(s - s.mean(1, keepdim=True)).flatten() for s in (guide, twin)])
    assert float(torch.corrcoef(pair)[0, 1]) > 0.3
    assert len({f().network.layout.kind for f in FACTORIES.values()}) == 2


@kinds
def test_folding_the_normalization_changes_nothing(kind):
    network = small(kind, folded=False).double()
    x = torch.rand(16, 3, 32, 32, dtype=torch.float64)
    network.train()
    for _ in range(3):
        network.images(x)
    folded = small(kind).double()
    folded.load_state_dict(network.fold())
    network.eval()
    torch.testing.assert_close(folded.images(x), network.images(x), rtol=0, atol=1e-12)
    again = small(kind).double()
    again.load_state_dict(folded.fold())
    assert torch.equal(again.images(x), folded.images(x))


@kinds
def test_embeddings_lie_on_the_sphere_and_an_unknown_feature_says_nothing(kind):
    network = small(kind)
    torch.nn.init.normal_(network.features.weight)
    e, t = network.images(torch.rand(5, 3, 32, 32)), network.texts(["red heart", "cat"])
    assert e.shape == (5, 8)
    assert t.shape == (2, 8)
    for v in (e, t):
        torch.testing.assert_close(v.norm(dim=1), torch.ones(len(v)), rtol=0, atol=1e-5)
    # Two names alone are the two names together.
    torch.testing.assert_close(network.texts(["cat"]), t[1:], rtol=0, atol=1e-6)
    torch.nn.init.zeros_(network.features.weight)
    silent = network.texts(["red heart", "cat"])
    torch.testing.assert_close(silent[0], silent[1])


def test_augmentations():
    settings = dataclasses.replace(
        train_emoji_match.GUIDE, turn=0.0, stretch=0.0, shift=0.0, color=0.0, hole=0.0, degraded=0.0
    )
    x = held_out()[1][:6]
    torch.testing.assert_close(train_emoji_match.augmented(x, settings), x, rtol=0, atol=1e-5)
    flat = torch.full((3, 3, 32, 32), 0.3)
    sigma = torch.tensor([0.0, 1.0, 5.0])
    torch.testing.assert_close(train_emoji_match.blurred(flat, sigma), flat)
    b = train_emoji_match.blurred(x[:3], sigma)
    torch.testing.assert_close(b[0], x[0])
    rough = [float((v.diff(dim=-1) ** 2).sum()) for v in (x[2], b[2])]
    assert rough[1] < 0.2 * rough[0]
    torch.manual_seed(0)
    moved = train_emoji_match.moved(torch.ones(4, 3, 32, 32), train_emoji_match.HOLDOUT)
    torch.testing.assert_close(moved, torch.ones(4, 3, 32, 32))
    out = train_emoji_match.augmented(x, train_emoji_match.GUIDE)
    assert float(out.min()) >= 0
    assert float(out.max()) <= 1


COLORS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "black": (0, 0, 0)}


def shapes():
    """Twelve synthetic pictures: a square, a bar and a frame in four colors."""
    names, rows = [], []
    for color, rgb in COLORS.items():
        for shape in ("square", "bar", "frame"):
            mask = torch.zeros(32, 32)
            mask[8:24, 8:24] = 1
            if shape == "bar":
                mask = torch.zeros(32, 32)
                mask[13:19, 2:30] = 1
            if shape == "frame":
                mask[12:20, 12:20] = 0
            x = 1 - mask * (1 - torch.tensor(rgb, dtype=torch.float32)[:, None, None])
            names.append(f"{color} {shape}")
            rows.append((255 * x).to(torch.uint8))
    return torch.stack(rows), names


@kinds
def test_training_learns_and_continues_where_it_was_stopped(kind, tmp_path):
    pixels, names = shapes()
    settings = train_emoji_match.Settings(
        layout=emoji.Layout(kind, (8, 12, 16), (1, 1, 1), 16, 16),
        seed=3,
        steps=60,
        batch=12,
        learning_rate=5e-3,
        warmup=5,
        ema=0.9,
        color=0.05,
        hole=0.0,
        degraded=0.2,
    )
    lines, done = [], []
    whole = train_emoji_match.train(
        pixels,
        names,
        settings,
        tmp_path / "a",
        check_every=30,
        log=lines.append,
        advance=done.append,
    )
    assert done == list(range(1, 61))
    assert [line.split()[1] for line in lines] == ["30/60", "60/60"]
    with torch.no_grad():
        cosines = whole.images(pixels.float() / 255) @ whole.texts(names).T
    found = train_emoji_match.retrieval(cosines, torch.ones(12, dtype=torch.bool))
    assert found["picture to name, top 1"] >= 75
    out = tmp_path / "b"
    train_emoji_match.train(pixels, names, settings, out, stop=25, log=lines.append)
    again = train_emoji_match.train(pixels, names, settings, out, resume=True, log=lines.append)
    for one, other in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ValueError, match="with names"):
        train_emoji_match.train(pixels, names[::-1], settings, out, resume=True)


def test_calibration_is_the_best_scale_of_the_reward_itself():
    class Drawing:
        def __init__(self, name, pixels):
            self.name, self.pixels = name, pixels.numpy()

    pixels, names = shapes()
    network = small()
    torch.manual_seed(1)
    torch.nn.init.normal_(network.features.weight)
    network.eval().requires_grad_(False)
    bank = tuple(f"bank {n}" for n in "abcdefgh")
    drawings = [Drawing(n, p) for n, p in zip(names, pixels, strict=True)]
    scale, nats = train_emoji_match.calibrate(network, bank, drawings)
    shown = train_emoji_match.views(pixels.float() / 255)

    def mean(s):
        reward = emoji.EmojiMatch(name="r", network=network, bank=bank, scale=s)
        scores = [reward(Designs(x[:, None], prompts=tuple(names))) for x in shown.values()]
        return float(torch.stack(scores).mean())

    assert mean(scale) == pytest.approx(nats, abs=1e-5)
    assert all(mean(scale * f) <= nats + 1e-6 for f in (0.8, 1.25) if scale * f >= 1)


def test_weights_survive_a_round_trip(tmp_path):
    network = small("depthwise").half().float()
    path = tmp_path / "w.safetensors"
    train_emoji_match.write(path, network, ("a cat", "b"), 7.25)
    again, bank, scale = emoji.load_weights(path.read_bytes())
    assert (bank, scale, again.layout) == (("a cat", "b"), 7.25, network.layout)
    for one, other in zip(network.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert not any(p.requires_grad for p in again.parameters())


def test_retrieval_counts_ranks():
    every = torch.ones(4, dtype=torch.bool)
    assert set(train_emoji_match.retrieval(torch.eye(4), every).values()) == {100.0}
    s = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    found = train_emoji_match.retrieval(s, every[:2])
    assert found["picture to name, top 1"] == 50.0
    assert found["name to picture, top 5"] == 100.0


def test_twins_know_the_same_words_from_different_emoji():
    things = ("cat", "dog", "car", "hat")
    names = [f"{color} {thing}" for color in COLORS for thing in things]
    names += ["zebra", "woman surfer", "man surfer", "surfer", "clock face one", "clock face two"]
    learned = dict(zip(names, train_emoji_match.dealt(names), strict=True))
    # words of one family alone are known to both
    assert {learned[n] for n in names[16:]} == {"both"}
    halves = {t: [n for n in names[:16] if learned[n] == t] for t in train_emoji_match.NAMES}
    assert [len(half) for half in halves.values()] == [8, 8]
    for half in halves.values():
        assert {w for n in half for w in words_of(n)} == {*COLORS, *things}
    again = dict(zip(names[::-1], train_emoji_match.dealt(names[::-1]), strict=True))
    assert again == learned
    parts = {family(n): set() for n in names}
    for n in names:
        parts[family(n)].add(learned[n])
    assert all(len(some) == 1 for some in parts.values())
    bank = train_emoji_match.banked(["Woman surfer", "surfer", "clock face one", "clock face two"])
    assert bank == ("woman surfer", "clock face one")


def test_command_line(tmp_path, capsys):
    assert train_emoji_match.main(["--data", str(tmp_path)]) == 2
    assert "--out DIR" in capsys.readouterr().err
    assert train_emoji_match.main(["--data", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "noto_emoji" in capsys.readouterr().err


@each
def test_card(name):
    reward_laws.check_twin(reward_laws.card_of(FOLDER, FACTORIES[name]()))
    assert (FOLDER / f"{name}.safetensors").stat().st_size < 1.5e6


@each
def test_factories_are_plain_values(name):
    a, b = FACTORIES[name](scale=9), FACTORIES[name](scale=9)
    assert repr(a) == repr(b)
    assert len(repr(a)) < 200
    assert a.scale == 9.0
    assert a.network is b.network
    with pytest.raises(dataclasses.FrozenInstanceError):
        a.scale = 1.0
    assert json.dumps(list(a.bank))


def test_its_gradient_is_followed_by_one_standard_deviation_at_most():
    """In every formula, as campaigns wrap it; another reward leaves the tilt as it is."""
    process = emoji_mini(prompt="red apple", steps=4)
    whole = (0.5 * Cached(emoji.emoji_match())).clip(-9.0, 9.0)
    assert DAS().loop(process, whole).proposal.limit == 1.0
    known = inpainting(torch.zeros(3, 32, 32), 0.1, torch.ones(32, 32, dtype=torch.bool))
    assert DAS().loop(process, known).proposal.limit == math.inf
