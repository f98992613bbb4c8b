"""Train and evaluate emoji-mini, the text-conditioned diffusion model of 32x32 emoji.

    python -m seqalign.models.train_emoji --data ../shared/data --out runs/emoji --threads 1
    python -m seqalign.models.train_emoji --data ../shared/data --evaluate FILE --sheet SHEET.png

`--data` is a folder with `images/noto_emoji_png32.tar.xz`. `--resume` goes on from the checkpoint
in `--out`.

*Objective.* The mean squared error of the velocity at a uniform time of the cosine path (Salimans &
Ho 2022): on x_0 this weighs a time by 1 / b². Times are stratified over the batch.

*Text.* In 10 % of the images there is no text, for classifier-free guidance and as the control of
the evaluation. In half of the others tokens are dropped, up to 80 % of them: each training name is
unique, and a network that sees all of its words can know the picture by heart. What is left, often
the kind and a piece of spelling, is what a held-out name looks like.

*Augmentation.* Mirrored, shifted by up to 3 pixels, turned in hue, each in 30 % of the images, and
told to the network, which is asked for none of it afterwards (Karras et al. 2022, appendix F.2):
1,400 drawings are few, and text such as "red" or "left" keeps its meaning.

*Held out.* Names by `seqalign.models.emoji_data.part_of`: 10 % test and 5 % validation. A test
drawing never influenced a weight; the validation drawings chose among the checkpoints of a run
(`Settings.check_every` steps apart).

*Reproducibility.* Every step draws from a generator seeded by (seed, step), so that a run that was
stopped and continued with `--resume` ends with the same weights as an undisturbed one.

One file: what is drawn, how it is denoised and what judges it are one recipe.

References:
    Progressive distillation for fast sampling of diffusion models, Salimans & Ho, 2022,
    https://arxiv.org/abs/2202.00512
    Elucidating the design space of diffusion-based generative models, Karras et al., 2022,
    https://arxiv.org/abs/2206.00364
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Unpack

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from seqalign.core.streams import Streams
from seqalign.models import training
from seqalign.models.emoji import AUGMENTS, EmojiNetwork, load_weights, process_of
from seqalign.models.emoji_data import ARCHIVE, SIZE, bags, family, load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seqalign.core.gaussian import GaussianProcess
    from seqalign.models.emoji_data import Emoji

EVALUATION_SEED: Final = 2024


@dataclass(frozen=True, kw_only=True)
class Settings(training.Settings):
    """Hyper-parameters of one training run; stored in its checkpoint and checked by `--resume`."""

    steps: int = 12000
    batch: int = 32
    width: int = 64
    depth: int = 2
    middle: int = 3
    heads: int = 4
    words: int = 64
    condition: int = 256
    learning_rate: float = 1e-3
    cooldown: int = 3000
    weight_decay: float = 0.01
    no_text: float = 0.1
    augment: float = 0.3


OPTIONS: Final = tuple(f.name for f in dataclasses.fields(Settings) if f.name != "bfloat16")
"""Those that the command line sets."""


@dataclass(frozen=True)
class Drawings:
    """Names, text features (N, `BUCKETS`) and images (N, 3, 32, 32) in [-1, 1]."""

    names: tuple[str, ...]
    text: Tensor
    images: Tensor

    def __len__(self) -> int:
        """Count the drawings."""
        return len(self.names)

    @classmethod
    def of(cls, emoji: Sequence[Emoji]) -> Drawings:
        """Return emoji as tensors."""
        names = tuple(e.name for e in emoji)
        pixels = torch.from_numpy(np.stack([e.pixels for e in emoji]))
        return cls(names, torch.from_numpy(bags(names)), pixels.float() / 127.5 - 1.0)


def split_drawings(emoji: Sequence[Emoji]) -> dict[str, Drawings]:
    """Return the drawings of "train", "validation" and "test".

    Raises:
        ValueError: a part is empty.
    """
    parts = {}
    for name in ("train", "validation", "test"):
        chosen = [e for e in emoji if e.part == name]
        if not chosen:
            raise ValueError(f"None of the {len(emoji)} emoji falls in the {name} part.")
        parts[name] = Drawings.of(chosen)
    return parts


def new_network(settings: Settings) -> EmojiNetwork:
    """Return an untrained network of the size that `settings` names."""
    network = EmojiNetwork(
        settings.width,
        settings.depth,
        settings.middle,
        settings.heads,
        settings.words,
        settings.condition,
        settings.dropout,
    )
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def augmented(images: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Return changed images (N, 3, 32, 32) and what was done to them (N, `AUGMENTS`).

    Each of mirror, shift and turn of hue happens to a `share` of the images. The numbers are: 1 if
    mirrored; right and down in pixels / 3; and cos − 1, sin, sin 2θ and cos 2θ − 1 of the angle by
    which colors are turned about the gray axis.
    """
    n = len(images)
    said = torch.zeros(n, AUGMENTS)
    mirrored = torch.rand(n) < share
    images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    said[:, 0] = mirrored.float()
    # a shift cuts from a white margin
    padded = F.pad(images, (3, 3, 3, 3), value=1.0)
    by = torch.randint(-3, 4, (n, 2)) * (torch.rand(n, 1) < share)
    at = torch.arange(SIZE)
    rows, columns = at + 3 - by[:, 1:], at + 3 - by[:, :1]
    images = padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    images = images.permute(0, 3, 1, 2)
    said[:, 1:3] = by / 3
    angle = 2 * math.pi * torch.rand(n) * (torch.rand(n) < share)
    cos, sin = angle.cos(), angle.sin()
    # rotation about (1, 1, 1) / √3: a circulant matrix
    first = cos + (1 - cos) / 3
    second = (1 - cos) / 3 - sin / math.sqrt(3)
    third = (1 - cos) / 3 + sin / math.sqrt(3)
    turn = torch.stack((first, second, third, third, first, second, second, third, first), 1)
    turned = torch.einsum("nij,njhw->nihw", turn.view(n, 3, 3), images).clamp(-1.0, 1.0)
    images = torch.where((angle != 0)[:, None, None, None], turned, images)
    said[:, 3:] = torch.stack((cos - 1, sin, (2 * angle).sin(), (2 * angle).cos() - 1), 1)
    return images, said


def dropped(text: Tensor, no_text: float) -> Tensor:
    """Return text features (N, `BUCKETS`) with tokens left out, rows of unit length or zero.

    A share `no_text` loses all; half of the others lose a uniform share of up to 80 %.
    """
    n = len(text)
    lose = 0.8 * torch.rand(n, 1) * (torch.rand(n, 1) < 0.5)
    kept = text * (torch.rand(text.shape) >= lose) * (torch.rand(n, 1) >= no_text)
    out: Tensor = kept / kept.norm(dim=1, keepdim=True).clamp(min=1e-6)
    return out


def stratified(n: int) -> Tensor:
    """Return (n,) times, one uniform time in each n-th part of [0, 1], in random order."""
    return (torch.randperm(n) + torch.rand(n)) / n


def noisy(images: Tensor, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return the noisy images and their velocities, both (N, 3, 32, 32)."""
    angle = (0.5 * math.pi * t)[:, None, None, None]
    a, b = angle.cos(), angle.sin()
    return a * images + b * noise, a * noise - b * images


def learning_rate(step: int, settings: Settings) -> float:
    """Return the rate of a step: linear warm-up, constant, linear to zero in the cool-down."""
    rise = min(1.0, (step + 1) / settings.warmup)
    return settings.learning_rate * min(rise, (settings.steps - step) / settings.cooldown, 1.0)


@torch.inference_mode()
def velocity_losses(
    network: EmojiNetwork,
    drawings: Drawings,
    *,
    text: Tensor | None = None,
    draws: int = 4,
    seed: int = EVALUATION_SEED,
    batch: int = 128,
) -> Tensor:
    """Return each drawing's mean squared error of the velocity over all times, (N,).

    The same times and noise whatever the text: differences between texts are paired.

    Args:
        network: in evaluation mode.
        drawings: what to denoise.
        text: (N, `BUCKETS`) instead of the drawings' own.
        draws: noisy versions of each drawing, their times stratified over [0, 1].
        seed: of times and noise.
        batch: images per network call.
    """
    generator = torch.Generator().manual_seed(seed)
    encoded = network.encode(drawings.text if text is None else text)
    total = torch.zeros(len(drawings), dtype=torch.float64)
    for j in range(draws):
        t = (j + torch.rand(len(drawings), generator=generator)) / draws
        noise = torch.randn(drawings.images.shape, generator=generator)
        x, v = noisy(drawings.images, t, noise)
        for start in range(0, len(drawings), batch):
            part = slice(start, start + batch)
            error = network(x[part], t[part], encoded[part]) - v[part]
            total[part] += error.square().mean((1, 2, 3)).double()
    return total / draws


def controls(drawings: Drawings, seed: int = EVALUATION_SEED) -> dict[str, Tensor]:
    """Return the text features (N, `BUCKETS`) of the two controls: another drawing's, and none."""
    order = torch.randperm(len(drawings), generator=torch.Generator().manual_seed(seed))
    # each drawing gets its successor on one random cycle: never its own
    other = torch.empty_like(order)
    other[order] = order.roll(1)
    return {"shuffled": drawings.text[other], "none": torch.zeros_like(drawings.text)}


def train(
    parts: dict[str, Drawings],
    settings: Settings,
    out: Path,
    **watch: Unpack[training.Watch],
) -> EmojiNetwork:
    """Train one network and return it with its averaged weights, which are also written to `out`.

    Args:
        parts: from `split_drawings`.
        settings: hyper-parameters.
        out: folder for `checkpoint.pt`, `emoji-mini.safetensors` and, at every look at the
            validation drawings, `emoji-mini-STEP.safetensors`.
        watch: how the run is cut, saved and watched.

    Raises:
        ValueError: the checkpoint was written under other settings.
    """
    drawings = parts["train"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.step_seed(settings.seed, 2**31))
        network = new_network(settings)
        parameters = training.groups(network.named_parameters())
        run = training.Run(network, parameters, out, settings)

        def loss() -> Tensor:
            chosen = torch.randint(len(drawings), (settings.batch,))
            images, said = augmented(drawings.images[chosen], settings.augment)
            text = dropped(drawings.text[chosen], settings.no_text)
            t = stratified(settings.batch)
            x, v = noisy(images, t, torch.randn(images.shape))
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.bfloat16):
                found = network(x, t, network.encode(text), said)
            return F.mse_loss(found.float(), v)

        def look(done: int) -> str:
            shown = new_network(settings)
            shown.load_state_dict(run.average)
            shown.eval()
            text = controls(parts["validation"])["shuffled"]
            own = float(velocity_losses(shown, parts["validation"]).mean())
            other = float(velocity_losses(shown, parts["validation"], text=text).mean())
            known = float(velocity_losses(shown, few(drawings, 128)).mean())
            training.write_weights(run.average, out / f"emoji-mini-{done}.safetensors")
            return (
                f"validation {own:.5f}, with another's text {other:.5f}  "
                f"some training drawings {known:.5f}"
            )

        whole = run.loop(
            loss,
            lambda step: learning_rate(step, settings),
            look,
            seed=settings.seed,
            steps=settings.steps,
            cooldown=settings.cooldown,
            **watch,
        )
    if not whole:
        network.load_state_dict(run.average)
        return network.eval()
    training.write_weights(run.average, out / "emoji-mini.safetensors")
    return load_weights((out / "emoji-mini.safetensors").read_bytes())


def few(drawings: Drawings, n: int) -> Drawings:
    """Return `n` of the drawings, evenly spaced."""
    at = torch.linspace(0, len(drawings) - 1, min(n, len(drawings))).long()
    return Drawings(tuple(drawings.names[i] for i in at), drawings.text[at], drawings.images[at])


def sampled(process: GaussianProcess, islands: int, particles: int, seed: int) -> Tensor:
    """Return unguided samples, RGB in [0, 1], (islands, particles, 3, 32, 32)."""
    rng = Streams(seed, tuple(range(islands)))
    x = process.prior((islands, particles), rng.at("prior"))
    times = process.times.tolist()
    with torch.no_grad():
        for i, (t, s) in enumerate(pairwise(times)):
            step = process.transition(x, process.posterior(x, t), t, s)
            x = step.sample(rng.at(i, "proposal"))
        return process.decode(x).x


def nearest(images: Tensor, others: Tensor, within: int = 2) -> tuple[Tensor, Tensor]:
    """Return each image's distance (N,) to the nearest of `others`, and which that is (N,).

    The distance is the root mean square over pixels and channels of the difference in RGB,
    the least over shifts of `others` by up to `within` pixels, mirrored or not: a copy stays one.

    Args:
        images: (N, 3, 32, 32) in [0, 1].
        others: (M, 3, 32, 32) in [0, 1].
        within: largest shift.
    """
    rows = images.flatten(1)
    best = torch.full((len(images),), math.inf)
    which = torch.zeros(len(images), dtype=torch.int64)
    padded = F.pad(others, (within,) * 4, value=1.0)
    for down in range(2 * within + 1):
        for right in range(2 * within + 1):
            moved = padded[:, :, down : down + SIZE, right : right + SIZE]
            for candidates in (moved, moved.flip(3)):
                distance, at = torch.cdist(rows, candidates.flatten(1)).min(1)
                which = torch.where(distance < best, at, which)
                best = torch.minimum(best, distance)
    return best / rows.shape[1] ** 0.5, which


def quartiles(values: Tensor) -> list[float]:
    """Return the 5, 25, 50, 75 and 95 % points of values (N,)."""
    at = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=values.dtype)
    return [round(q, 4) for q in values.quantile(at).tolist()]


def denoising(network: EmojiNetwork, drawings: Drawings, draws: int, seed: int) -> dict[str, Any]:
    """Return the velocity losses of drawings with their own text and with the two controls.

    The intervals are the 2.5 to 97.5 % range of 2,000 bootstrap samples of whole families of
    names. `own_text_wins` is the share of drawings whose own text denoises them better than the
    shuffled one.
    """
    own = velocity_losses(network, drawings, draws=draws, seed=seed)
    keys = {key: i for i, key in enumerate(sorted({family(name) for name in drawings.names}))}
    member = torch.tensor([keys[family(name)] for name in drawings.names])
    weight = np.random.default_rng(seed).multinomial(
        len(keys), np.full(len(keys), 1 / len(keys)), size=2000
    )
    found: dict[str, Any] = {
        "drawings": len(drawings),
        "families": len(keys),
        "own": round(float(own.mean()), 5),
    }
    for name, text in controls(drawings, seed).items():
        other = velocity_losses(network, drawings, text=text, draws=draws, seed=seed)
        sums = torch.zeros(len(keys), 2, dtype=torch.float64)
        sums.index_add_(0, member, torch.stack((own, other), 1))
        drawn = torch.from_numpy(weight).double() @ sums
        lower = 100 * (1 - drawn[:, 0] / drawn[:, 1])
        found[name] = {
            "loss": round(float(other.mean()), 5),
            "own_lower_percent": round(100 * (1 - float(own.mean() / other.mean())), 2),
            "interval": [round(q, 2) for q in np.quantile(lower.numpy(), (0.025, 0.975)).tolist()],
        }
        if name == "shuffled":
            found["own_text_wins"] = round(float((own < other).double().mean()), 3)
    return found


def copies(
    network: EmojiNetwork, parts: dict[str, Drawings], steps: int, seed: int
) -> dict[str, Any]:
    """Return how far samples are from the nearest training drawing, beside held-out drawings.

    One sample for every test name, and one for as many training names. `below_0.05` is the share
    nearer than 0.05: what a person would call the same picture.
    """
    known = 0.5 + 0.5 * parts["train"].images
    some = few(parts["train"], len(parts["test"]))
    found: dict[str, Any] = {}
    rows = {"held_out_drawings": 0.5 + 0.5 * parts["test"].images}
    for label, drawings in (
        ("samples_of_test_names", parts["test"]),
        ("samples_of_training_names", some),
    ):
        process = process_of(network, drawings.names, steps=steps)
        rows[label] = sampled(process, len(drawings), 1, seed)[:, 0]
    for label, images in rows.items():
        distance, _ = nearest(images, known)
        found[label] = {
            "images": len(images),
            "quantiles_5_25_50_75_95": quartiles(distance),
            "below_0.05": round(float((distance < 0.05).double().mean()), 3),
        }
    own = (rows["samples_of_training_names"] - (0.5 + 0.5 * some.images)).square().mean((1, 2, 3))
    found["samples_of_training_names"]["distance_to_own_drawing"] = quartiles(own.sqrt())
    return found


def sheet(
    network: EmojiNetwork, parts: dict[str, Drawings], path: Path, *, seed: int = 0, steps: int = 50
) -> None:
    """Write a PNG: twelve test names drawn by seed, each with its drawing and seven samples."""
    from PIL import Image, ImageDraw

    drawings = parts["test"]
    order = torch.randperm(len(drawings), generator=torch.Generator().manual_seed(seed))
    rows = order[:12].tolist()
    names = [drawings.names[i] for i in rows]
    images = sampled(process_of(network, names, steps=steps), len(rows), 7, seed)
    scale, label, gap = 2, 12, 8
    cell = SIZE * scale
    out = Image.new("RGB", (8 * cell + gap, len(rows) * (cell + label)), "white")
    pen = ImageDraw.Draw(out)
    for row, (name, i) in enumerate(zip(names, rows, strict=True)):
        top = row * (cell + label)
        pen.text((2, top), f"{name}  (left: the held-out drawing)", fill="black")
        shown = torch.cat((0.5 + 0.5 * drawings.images[i : i + 1], images[row]))
        for column, pixels in enumerate((shown * 255).round().byte()):
            tile = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
            left = column * cell + (gap if column else 0)
            out.paste(tile.resize((cell, cell), Image.Resampling.NEAREST), (left, top + label))
    # a palette of 128 colors is a third of the size
    out.quantize(128).save(path, optimize=True)


def script(args: argparse.Namespace) -> None:
    """Train, or judge weights; print the figures."""
    parts = split_drawings(load(args.data))
    metrics: dict[str, Any] = {
        "families": {name: len({family(n) for n in part.names}) for name, part in parts.items()},
        "drawings": {name: len(part) for name, part in parts.items()},
    }
    if args.out is not None:
        settings = Settings(**{name: getattr(args, name) for name in OPTIONS})
        with training.progress(settings.steps) as (advance, log):
            network = train(parts, settings, args.out, resume=args.resume, log=log, advance=advance)
        metrics["settings"] = dataclasses.asdict(settings)
    else:
        network = load_weights(training.weights_file(args.evaluate))
    metrics["parameters"] = sum(p.numel() for p in network.parameters())
    shown = {"test": parts["test"], "train": few(parts["train"], len(parts["test"]))}
    metrics["denoising"] = {
        name: denoising(network, drawings, args.draws, args.draw_seed)
        for name, drawings in shown.items()
    }
    metrics["nearest_training_drawing"] = copies(network, parts, 50, args.draw_seed)
    if args.sheet is not None:
        sheet(network, parts, args.sheet)
    text = json.dumps(metrics, indent=1) + "\n"
    if args.out is not None:
        training.write_atomically(args.out / "metrics.json", lambda path: path.write_text(text))
    print(text, end="")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    p = training.parser(
        "seqalign.models.train_emoji",
        "Train emoji-mini, or print the held-out figures of a weights file.",
        data=f"folder with {ARCHIVE}",
        settings=Settings,
        fields=OPTIONS,
    )
    p.add_argument("--sheet", type=Path, metavar="PNG", help="write a sheet of samples")
    p.add_argument("--draws", type=int, default=16, help="noisy versions per drawing, evaluation")
    p.add_argument("--draw-seed", type=int, default=EVALUATION_SEED, help="seed of the evaluation")
    return training.command_line(p, arguments, script)


if __name__ == "__main__":
    raise SystemExit(main())
