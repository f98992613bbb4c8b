"""emoji-mini: names, text features and split; the network's laws; its training; the weights."""

import io
import json
import lzma
import math
import os
import tarfile
from collections import Counter, defaultdict
from dataclasses import replace
from importlib.resources import files
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import seqalign.models
from seqalign.core.streams import Streams
from seqalign.models import emoji, emoji_words, train_emoji
from seqalign.models.emoji import (
    AUGMENTS,
    Cosine,
    EmojiDenoiser,
    EmojiNetwork,
    emoji_mini,
    process_of,
    shipped,
    to_images,
)
from seqalign.models.emoji_data import (
    ARCHIVE,
    BUCKETS,
    SIZE,
    Emoji,
    bags,
    family,
    load,
    part_of,
    spell,
    tokens,
)
from seqalign.models.emoji_words import ancestors, build
from seqalign.models.train_emoji import (
    Drawings,
    Settings,
    augmented,
    controls,
    denoising,
    dropped,
    learning_rate,
    main,
    nearest,
    noisy,
    sampled,
    sheet,
    split_drawings,
    train,
    velocity_losses,
)

DATA = Path(os.environ.get("SEQALIGN_DATA", "/nowhere"))
needs_data = pytest.mark.skipif(
    not (DATA / ARCHIVE).exists(), reason=f"set SEQALIGN_DATA to a folder with {ARCHIVE}"
)
needs_pillow = pytest.mark.skipif(find_spec("PIL") is None, reason="needs Pillow")
HELD_OUT = Path(__file__).parents[1] / "data" / "emoji_held_out.npz"
SIZES = {"width": 8, "depth": 1, "middle": 1, "heads": 2, "words": 4, "condition": 8}
TINY = Settings(steps=6, batch=4, warmup=2, cooldown=2, **SIZES)


def small(seed: int = 0, dtype: torch.dtype = torch.float32) -> EmojiNetwork:
    """A small network with random weights everywhere: a fresh one predicts zero."""
    network = EmojiNetwork(**SIZES)
    generator = torch.Generator().manual_seed(seed)
    for p in network.parameters():
        p.data = 0.3 * torch.randn(p.shape, generator=generator)
    return network.to(dtype).eval().requires_grad_(False)


def made(n: int = 40, seed: int = 0) -> list[Emoji]:
    """Emoji whose color and shape follow from their names; all parts occur."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(n):
        color, shape = ("red", "green", "blue")[i % 3], ("square", "bar")[i % 2]
        pixels = np.full((3, SIZE, SIZE), 255, dtype=np.uint8)
        wide = slice(8, 24) if shape == "square" else slice(2, 30)
        pixels[:, 8:24, wide] = 0
        pixels[("red", "green", "blue").index(color), 8:24, wide] = 200 + rng.integers(50)
        found.append(Emoji((i,), f"{color} {shape} number{i}", pixels))
    return found


def held_out() -> Drawings:
    with np.load(HELD_OUT) as file:
        pixels, names = file["pixels"], [str(name) for name in file["names"]]
    return Drawings.of(
        [Emoji((i,), n, p) for i, (n, p) in enumerate(zip(names, pixels, strict=True))]
    )


# text --------------------------------------------------------------------------------------------


def test_the_text_is_a_bag_of_words_without_case_order_and_punctuation():
    assert tokens("Smiling CAT, face!") == tokens("face cat cat smiling")
    assert tokens("cat") != tokens("dog")
    assert set(tokens("cat")) < set(tokens("cat face"))
    assert all(0 <= token < BUCKETS for token in tokens("an entirely unseen zyxwv"))


def test_unseen_words_share_features_with_what_they_resemble():
    def shared(a: str, b: str) -> int:
        return len(set(tokens(a)) & set(tokens(b)))

    assert shared("donkey", "zebra") > 5 > 1 >= shared("donkey", "hammer")
    assert shared("snowboarder", "snowflake") >= 2
    assert shared("taco", "pizza") >= 3
    assert set(ancestors("dog")) & set(ancestors("hot_dog")) == set()
    # a name of two words speaks for both of them
    dog = {t for t in tokens("dog") if t in tokens("cat")}
    assert dog
    assert not dog & set(tokens("hot dog"))


def test_synsets_go_from_the_specific_to_the_general_and_plurals_are_read_as_singulars():
    donkey, horse, insect = ancestors("donkey"), ancestors("horse"), ancestors("beetle")
    common = [node for node in donkey if node in horse]
    assert common == [node for node in horse if node in donkey]
    assert len(common) > len(set(donkey) & set(insect)) > 0
    assert ancestors("donkeys") == donkey
    assert ancestors("cherries") == ancestors("cherry") != ()
    assert ancestors("zyxwv") == ()


def test_bags_sum_tokens_to_unit_length():
    rows = bags(["cat face", "hammer"])
    assert rows.shape == (2, BUCKETS)
    assert np.allclose((rows**2).sum(1), 1, atol=1e-6)
    assert tuple(np.flatnonzero(rows[0])) == tokens("cat face")
    with pytest.raises(ValueError, match="'!!' has no letter and no digit"):
        bags(["cat", "!!"])


def test_the_tree_of_nouns_is_built_from_the_files_of_wordnet(tmp_path):
    synset = "{:08d} {:02d} n 01 {} 0 {} | gloss\n".format
    rows = [(1, 3, "entity", 0), (2, 3, "thing", 1), (3, 3, "whole", 2), (4, 5, "animal", 3)]
    rows += [(5, 5, "equine", 4), (6, 5, "donkey", 5), (7, 13, "meat", 3), (8, 5, "Equus", 4)]
    (tmp_path / "data.noun").write_text(
        "  1 a licence\n"
        + "".join(
            synset(o, lex, word, f"001 @ {up:08d} n 0000" if up else "000")
            for o, lex, word, up in rows
        )
    )
    index = {"donkey": [7, 6], "meat": [7], "thing": [2], "equus": [8], "run": [4], "ab": [4]}
    # of several meanings the animal comes before its meat
    (tmp_path / "data.noun").write_text(
        (tmp_path / "data.noun").read_text().replace("01 meat 0", "02 meat 0 donkey 0")
    )
    (tmp_path / "index.noun").write_text(
        "".join(
            f"{lemma} n {len(at)} 1 @ {len(at)} {int(lemma == 'thing')} "
            + " ".join(f"{o:08d}" for o in at)
            + "\n"
            for lemma, at in index.items()
        )
    )
    (tmp_path / "index.sense").write_text("run%1:00:00:: 1 1 2\nrun%2:00:00:: 1 1 9\n")
    # "equine" has no word and one child, "equus" is a proper name, "run" is mostly a verb
    assert build(tmp_path) == "0\n1 thing\n2\n3\n4 donkey\n3 meat\n"


def test_the_tree_that_is_shipped_has_a_root_and_no_jump():
    text = lzma.decompress(files("seqalign.models").joinpath(emoji_words.FILE).read_bytes())
    depths = [int(line.split(b" ")[0]) for line in text.splitlines()]
    assert depths[0] == 0
    assert all(b <= a + 1 for a, b in pairwise(depths))


# names and split ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("points", "name"),
    [
        ((0x1F600,), "grinning face"),
        ((0x1FACF,), "donkey"),  # not in every version's unicodedata
        ((0x1F3FD,), "emoji modifier fitzpatrick type-4"),
        ((0x1F44B, 0x1F3FD), None),
        ((0x1F468, 0x200D, 0x1F3A8), "man artist palette"),
        ((0x1F3C3, 0x200D, 0x2640, 0xFE0F), "woman runner"),
        ((0x1F408, 0x200D, 0x2B1B), "cat black"),
        ((0x31, 0xFE0F, 0x20E3), "keycap digit one"),
        ((0xFE82B,), None),
    ],
)
def test_code_points_are_spelled(points, name):
    assert spell(points) == name


def test_variants_of_one_drawing_share_a_family():
    assert family("woman runner facing right") == family("man runner") == family("runner")
    assert family("man artist palette") != family("man microphone")
    assert family("clock face one oclock") == family("clock face nine-thirty")
    assert family("woman") == family("man man girl boy") == "person"


def test_the_split_is_a_hash_of_the_family():
    # frozen: another split would judge the shipped weights on drawings they were trained on
    seen = {name: part_of(name) for name in ("taco", "lizard", "grinning face", "woman vampire")}
    assert seen == {
        "taco": "test",
        "lizard": "validation",
        "grinning face": "train",
        "woman vampire": "test",
    }
    assert {part_of(name) for name in held_out().names} == {"test"}


@needs_data
@needs_pillow
def test_the_split_of_the_archive_keeps_families_whole():
    drawn = load(DATA)
    assert len(drawn) == len({e.name for e in drawn}) == 1692
    parts = defaultdict(set)
    for e in drawn:
        parts[family(e.name)].add(e.part)
    assert max(len(p) for p in parts.values()) == 1
    assert Counter(e.part for e in drawn) == {"train": 1401, "test": 197, "validation": 94}
    assert [e.points for e in drawn] == sorted(e.points for e in drawn)
    by_name = {e.name: e.pixels for e in drawn}
    drawings = held_out()
    for name, image in zip(drawings.names, drawings.images, strict=True):
        assert np.array_equal(by_name[name] / np.float32(127.5) - 1, image.numpy())


def archive_of(path: Path, images: dict[str, "np.ndarray"]) -> Path:
    from PIL import Image

    with tarfile.open(path, "w:xz") as archive:
        for name, pixels in images.items():
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "png")
            info = tarfile.TarInfo(name)
            info.size = buffer.tell()
            buffer.seek(0)
            archive.addfile(info, buffer)
    return path


@needs_pillow
def test_drawings_are_read_on_white(tmp_path):
    rgba = np.zeros((SIZE, SIZE, 4), dtype=np.uint8)
    rgba[0, 1] = (200, 100, 0, 128)
    rgba[2, 0] = (10, 20, 30, 255)
    (only,) = load(archive_of(tmp_path / "a.tar.xz", {"32/emoji_u1f600.png": rgba}))
    assert (only.points, only.name, only.part) == ((0x1F600,), "grinning face", "train")
    assert only.pixels.shape == (3, SIZE, SIZE)
    assert (only.pixels[:, 0, 0] == 255).all()
    assert only.pixels[:, 2, 0].tolist() == [10, 20, 30]
    mix = 128 / 255
    expected = [round(c * mix + 255 * (1 - mix)) for c in (200, 100, 0)]
    assert only.pixels[:, 0, 1].tolist() == expected
    with pytest.raises(ValueError, match="read-only"):
        only.pixels[0, 0, 0] = 1


@needs_pillow
def test_wrong_archives_are_refused_in_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.tar\.xz: no such file; give --data"):
        load(tmp_path / "none.tar.xz")
    square = np.zeros((SIZE, SIZE, 4), dtype=np.uint8)
    small_image = archive_of(tmp_path / "b.tar.xz", {"32/emoji_u1f600.png": square[:8]})
    with pytest.raises(ValueError, match="is 32x8 pixels; 32x32 are needed"):
        load(small_image)
    odd = archive_of(tmp_path / "c.tar.xz", {"smile.png": square})
    with pytest.raises(ValueError, match=r"'smile\.png' is not named like"):
        load(odd)
    twice = {"a/emoji_u1f600.png": square, "b/emoji_u1f600.png": square}
    with pytest.raises(ValueError, match="both named 'grinning face'"):
        load(archive_of(tmp_path / "d.tar.xz", twice))


# the process -------------------------------------------------------------------------------------


def test_the_cosine_path_keeps_the_variance_and_ends_exactly():
    schedule = Cosine()
    for t in (0.0, 0.1, 0.5, 0.77, 1.0):
        a, b = schedule(t)
        assert a * a + b * b == pytest.approx(1, abs=1e-15)
    assert schedule(0.0) == (1.0, 0.0)
    assert schedule(1.0) == (0.0, 1.0)
    assert schedule(0.3)[0] == pytest.approx(math.cos(0.15 * math.pi), abs=1e-15)


def test_the_mean_follows_from_the_velocity():
    """x_0 = a·x_t − b·v, and a network that knows v gets x_0 back at every time."""
    images = torch.rand(5, 3, SIZE, SIZE) * 2 - 1
    t = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0])
    x, v = noisy(images, t, torch.randn(images.shape))
    a, b = zip(*(Cosine()(float(s)) for s in t), strict=True)
    shape = (5, 1, 1, 1)
    again = torch.tensor(a).view(shape) * x - torch.tensor(b).view(shape) * v
    torch.testing.assert_close(again, images, atol=1e-6, rtol=0)
    # through the denoiser: at t = 0 the state is the image, whatever the network says
    process = process_of(small(), ["cat"])
    assert torch.equal(process.posterior(images[None], 0.0).mean, images[None])


def test_islands_alone_equal_islands_of_all():
    names = [
        f"{animal} face" for animal in ("cat", "dog", "cow", "pig", "bear", "frog", "fox", "ape")
    ]
    whole = process_of(small(), names)
    some = whole.take([3, 7])
    assert some.prompts == ("pig face", "ape face")
    x = whole.prior((8, 4), Streams(0, tuple(range(8))))
    assert torch.equal(some.prior((2, 4), Streams(0, (3, 7))), x[[3, 7]])
    # at equal chunk, to the bit: each island is one call of four particles
    for i in (3, 7):
        alone = process_of(small(), [names[i]])
        found = [
            process.posterior(x[i : i + 1], 0.6).mean
            for process in (alone, whole.take([i]), some.take([(3, 7).index(i)]))
        ]
        assert torch.equal(found[0], found[1])
        assert torch.equal(found[0], found[2])
    # all at once: the same up to the order of sums
    together = whole.posterior(x, 0.6).mean
    torch.testing.assert_close(
        some.posterior(x[[3, 7]], 0.6).mean, together[[3, 7]], atol=1e-5, rtol=1e-5
    )
    different = whole.posterior(x[:1].expand(8, -1, -1, -1, -1), 0.6).mean
    assert float((different[0] - different[1]).abs().max()) > 1e-3


def test_one_prompt_serves_every_island():
    network = small()
    x = torch.randn(3, 2, 3, SIZE, SIZE)
    one, three = process_of(network, ["cat"]), process_of(network, ["cat"] * 3)
    assert torch.equal(one.denoiser(x, 0.4), three.denoiser(x, 0.4))
    assert one.denoiser.take([2]) is one.denoiser
    with pytest.raises(ValueError, match="holds 2 prompts and was asked for 3 islands"):
        process_of(network, ["cat", "dog"]).denoiser(x, 0.4)


def test_guidance_extrapolates_and_a_pair_is_two_calls():
    network, seen = small(), []
    network.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    x = torch.randn(2, 3, 3, SIZE, SIZE)
    means, calls = {}, {}
    for weight in (0.0, 1.0, 2.5):
        denoiser = process_of(network, ["cat", "hammer"], guidance=weight).denoiser
        seen.clear()
        means[weight] = denoiser(x, 0.5)
        calls[weight] = len(seen)
        assert calls[weight] == denoiser.calls_per_state
    assert calls == {0.0: 1, 1.0: 1, 2.5: 2}
    expected = means[0.0] + 2.5 * (means[1.0] - means[0.0])
    torch.testing.assert_close(means[2.5], expected)
    # without text, prompts say nothing
    other = process_of(network, ["dog", "apple"], guidance=0.0).denoiser
    assert torch.equal(other(x, 0.5), means[0.0])


def test_the_gradient_through_network_and_decoder_is_that_of_finite_differences():
    process = process_of(small(dtype=torch.float64), ["cat"], guidance=1.5)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, 1, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)
    weight = torch.randn(x.shape, generator=generator, dtype=torch.float64)

    def value(state: torch.Tensor) -> torch.Tensor:
        return (weight * process.decode(process.posterior(state, 0.7).mean).x).sum()

    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(leaf), leaf)
    assert float(gradient.abs().max()) > 0
    for seed in range(3):
        direction = torch.randn(x.shape, generator=generator.manual_seed(seed), dtype=x.dtype)
        h = 1e-6
        slope = (value(x + h * direction) - value(x - h * direction)) / (2 * h)
        torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-5, atol=1e-6)


def test_images_are_states_mapped_to_the_unit_interval():
    x = torch.tensor([-3.0, -1.0, 0.0, 0.5, 1.0, 2.0], requires_grad=True)
    shown = to_images(x)
    assert shown.tolist() == [0.0, 0.0, 0.5, 0.75, 1.0, 1.0]
    (gradient,) = torch.autograd.grad(shown.sum(), x)
    assert gradient[2:4].tolist() == [0.5, 0.5]
    assert gradient[[0, 5]].tolist() == [0.0, 0.0]


def test_a_network_is_rebuilt_from_its_weights_whatever_its_size():
    network = EmojiNetwork(width=16, depth=1, middle=2, heads=4, words=4, condition=8)
    again = EmojiNetwork.of(network.state_dict())
    x, t = torch.randn(2, 3, SIZE, SIZE), torch.tensor([0.2, 0.9])
    text = network.encode(torch.from_numpy(bags(["cat", "dog"])))
    assert torch.equal(again.eval()(x, t, text), network.eval()(x, t, text))
    zero = torch.zeros(2, AUGMENTS)
    assert torch.equal(network(x, t, text, zero), network(x, t, text))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "needs either prompt"),
        ({"prompt": "a", "prompts": ["a"]}, "needs either prompt"),
        ({"prompts": []}, "prompts is empty"),
        ({"prompts": "cat"}, "is one string"),
        ({"prompt": "?!"}, "'\\?!' has no letter and no digit"),
        ({"prompt": "cat", "guidance": -1.0}, "guidance=-1.0; give 1"),
        ({"prompt": "cat", "guidance": math.nan}, "guidance=nan"),
    ],
)
def test_wrong_input_is_refused_in_one_sentence(given, sentence, monkeypatch):
    monkeypatch.setattr(emoji, "shipped", small)
    with pytest.raises(ValueError, match=sentence):
        emoji_mini(**given)


def test_missing_weights_are_a_missing_file():
    with pytest.raises(FileNotFoundError):
        emoji_mini("cat", weights="/nowhere/emoji.safetensors")


# training ----------------------------------------------------------------------------------------


def test_augmentation_says_what_it_did():
    torch.manual_seed(0)
    images = torch.rand(64, 3, SIZE, SIZE) * 2 - 1
    images[:, :, :3], images[:, :, -3:] = 1.0, 1.0
    images[:, :, :, :3], images[:, :, :, -3:] = 1.0, 1.0
    same, said = augmented(images, 0.0)
    assert torch.equal(same, images)
    assert not said.any()
    changed, said = augmented(images, 0.5)
    untouched = ~said.any(1)
    assert untouched.any()
    assert torch.equal(changed[untouched], images[untouched])
    for row in range(64):
        if said[row, 3:].any():
            continue
        right, down = (3 * said[row, 1:3]).round().int().tolist()
        expected = images[row].flip(2) if said[row, 0] else images[row]
        assert torch.equal(changed[row], expected.roll((down, right), (1, 2))), row
    # gray stays gray when colors turn; red turned by 120 degrees is green or blue
    gray = torch.full((32, 3, SIZE, SIZE), 0.25)
    gray, _ = augmented(gray, 1.0)
    assert torch.allclose(gray[:, :, 10:20, 10:20], torch.tensor(0.25), atol=1e-6)


def test_dropped_text_is_a_part_of_the_text():
    torch.manual_seed(0)
    text = torch.from_numpy(bags([f"smiling cat face with number {i}" for i in range(400)]))
    kept = dropped(text, 0.25)
    assert torch.all((kept > 0) <= (text > 0))
    length = kept.norm(dim=1)
    assert torch.all((length < 1e-6) | ((length - 1).abs() < 1e-5))
    without = float((length == 0).double().mean())
    assert abs(without - 0.25) < 4.5 * math.sqrt(0.25 * 0.75 / 400)
    whole = float(((kept > 0) == (text > 0)).all(1).double().mean())
    assert 0.25 < whole < 0.5


def test_the_rate_warms_up_stays_and_cools_down():
    rates = [
        learning_rate(step, replace(TINY, steps=10, warmup=4, cooldown=4)) for step in range(10)
    ]
    top = TINY.learning_rate
    assert rates == pytest.approx([top * f for f in (0.25, 0.5, 0.75, 1, 1, 1, 1, 0.75, 0.5, 0.25)])


def test_training_learns_and_continues_bit_for_bit(tmp_path):
    parts = split_drawings(made())
    whole = train(parts, TINY, tmp_path / "whole", log=lambda _: None, check_every=3)
    train(parts, TINY, tmp_path / "cut", stop=3, log=lambda _: None)
    again = train(parts, TINY, tmp_path / "cut", resume=True, log=lambda _: None)
    for name, p in whole.state_dict().items():
        assert torch.equal(p, again.state_dict()[name]), name
    assert (tmp_path / "whole" / "emoji-mini-3.safetensors").exists()
    settings = replace(TINY, steps=60, batch=16, learning_rate=1e-2, cooldown=20, bfloat16=False)
    before = float(velocity_losses(train_emoji.new_network(TINY).eval(), parts["test"]).mean())
    trained = train(parts, settings, tmp_path / "longer", log=lambda _: None)
    after = float(velocity_losses(trained, parts["test"]).mean())
    assert after < 0.7 * before


def test_a_run_continues_only_with_its_own_settings_but_may_be_lengthened(tmp_path):
    parts = split_drawings(made())
    quiet = {"log": lambda _: None}
    train(parts, TINY, tmp_path, stop=3, **quiet)
    with pytest.raises(ValueError, match=r"checkpoint\.pt: it was written at step 3"):
        train(parts, replace(TINY, seed=1), tmp_path, resume=True, **quiet)
    longer = replace(TINY, steps=8)
    found = train(parts, longer, tmp_path, resume=True, **quiet)
    straight = train(parts, longer, tmp_path / "straight", **quiet)
    for name, p in straight.state_dict().items():
        assert torch.equal(p, found.state_dict()[name]), name
    # step 8 is behind the constant part
    with pytest.raises(ValueError, match="only before the cool-down"):
        train(parts, replace(TINY, steps=12), tmp_path, resume=True, **quiet)


def test_the_control_of_the_text_is_paired_and_never_the_own():
    parts = split_drawings(made())
    drawings = parts["train"]
    shuffled = controls(drawings)["shuffled"]
    assert sorted(shuffled.argmax(1).tolist()) == sorted(drawings.text.argmax(1).tolist())
    assert not (shuffled == drawings.text).all(1).any()
    network = small()
    one = velocity_losses(network, drawings, draws=2)
    assert torch.equal(one, velocity_losses(network, drawings, draws=2))
    torch.testing.assert_close(
        one[:5], velocity_losses(network, drawings, draws=2, batch=5)[:5], atol=1e-5, rtol=1e-5
    )


def test_copies_are_found_mirrored_and_shifted():
    torch.manual_seed(0)
    others = torch.rand(6, 3, SIZE, SIZE)
    others[:, :, :4], others[:, :, -4:] = 1.0, 1.0
    others[:, :, :, :4], others[:, :, :, -4:] = 1.0, 1.0
    copy = others[4].flip(2).roll((1, -2), (1, 2))
    distance, which = nearest(torch.stack((copy, torch.zeros_like(copy))), others)
    assert float(distance[0]) < 1e-3
    assert int(which[0]) == 4
    rms = (others**2).mean((1, 2, 3)).sqrt().min()
    assert float(distance[1]) == pytest.approx(float(rms), rel=0.02)


def test_samples_do_not_depend_on_the_other_prompts():
    network = small()
    two = sampled(process_of(network, ["cat", "dog"], steps=3), 2, 2, seed=5)
    one = sampled(process_of(network, ["cat"], steps=3), 1, 2, seed=5)
    torch.testing.assert_close(two[:1], one, atol=1e-4, rtol=0)
    assert float(two.min()) >= 0
    assert float(two.max()) <= 1


@needs_pillow
def test_the_command_line_trains_judges_and_draws(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train_emoji, "load", lambda _: made())
    monkeypatch.setattr(train_emoji, "copies", lambda *_: {})
    common = ["--data", "x", "--draws", "1"]
    small_run = [
        f"--{name.replace('_', '-')}={getattr(TINY, name)}"
        for name in ("steps", "batch", "width", "depth", "middle", "heads", "words", "condition")
    ]
    out = tmp_path / "run"
    assert main([*common, "--out", str(out), *small_run]) == 0
    figures = json.loads((out / "metrics.json").read_text())
    assert figures["denoising"]["test"]["drawings"] == figures["drawings"]["test"]
    capsys.readouterr()
    weights = out / "emoji-mini.safetensors"
    assert main([*common, "--evaluate", str(weights)]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["denoising"] == figures["denoising"]
    assert main(common) == 2
    assert "Give either --out" in capsys.readouterr().err
    assert main([*common, "--evaluate", str(tmp_path / "none")]) == 2
    assert "no such file" in capsys.readouterr().err
    parts = split_drawings(made(200))
    sheet(small(), parts, tmp_path / "sheet.png", steps=2)
    assert (tmp_path / "sheet.png").read_bytes()[:4] == b"\x89PNG"


# the weights -------------------------------------------------------------------------------------


def test_the_shipped_weights_read_the_text_of_held_out_drawings():
    drawings = held_out()
    figures = denoising(shipped(), drawings, draws=4, seed=0)
    assert figures["own"] < 0.12
    assert figures["own"] < figures["shuffled"]["loss"]
    assert figures["own_text_wins"] > 0.5


def test_the_shipped_process_is_ready_for_a_run():
    process = emoji_mini(prompts=["taco", "broom"], steps=4)
    assert process.prompts == ("taco", "broom")
    assert (process.event, process.dtype, process.differentiable) == (
        (3, 32, 32),
        torch.float32,
        True,
    )
    assert isinstance(process.denoiser, EmojiDenoiser)
    images = sampled(process, 2, 1, seed=0)
    assert images.shape == (2, 1, 3, 32, 32)
    # emoji stand on white
    assert float(images[:, :, :, 0, 0].mean()) > 0.8
    assert repr(process.denoiser).startswith("EmojiDenoiser(")


def test_the_card_says_what_is_shipped():
    text = files("seqalign.models").joinpath("cards", "emoji-mini.yaml").read_text()
    card = yaml.safe_load(text)
    assert card["parameters"] == sum(p.numel() for p in shipped().parameters())
    folder = Path(next(iter(seqalign.models.__path__)))
    assert (folder / "emoji-mini.safetensors").stat().st_size < 8e6
    for key in ("name", "summary", "kind", "predicts", "licence", "data", "training", "figures"):
        assert card[key], key
    assert all("command" in figure for figure in card["figures"])
