"""Train and evaluate emoji-match and its hold-out twin.

    python -m seqalign.rewards.train_emoji_match --data DATA --out runs/guide
    python -m seqalign.rewards.train_emoji_match --data DATA --twin holdout --out runs/holdout
    python -m seqalign.rewards.train_emoji_match --data DATA --evaluate rewards/

`--data` is a folder with `images/noto_emoji_png32.tar.xz`. The first two commands train and write
one weights file each, the last prints every figure of the cards.

*Data.* The training part of `seqalign.models.emoji_data`, dealt to the twins by `dealt`: a family
of names with a word that no other family has is learned by both, or one of them would not know the
word; each of the others by one of them. The twins also differ in network, seed and augmentation.
The bank of both is one name of each training family.

*Objective.* InfoNCE: each picture of a batch against all names of the twin, and the name of each
picture against the pictures of the batch, with a learned temperature. Text features are dropped at
random.

*Augmentation.* Pictures are turned, stretched, shifted, recolored and partly covered, and then made
to look like what a diffusion model shows on its way: mixed with a mean of other pictures, blurred,
noisy. Half of a batch is then moved against its names by one gradient step of random length
(adversarial training), so that a small change of pixels does not raise the score.

*Scale.* Names that training never showed are found with less confidence than others. So the scale
of the cosines is the one with the best score on validation names (temperature scaling).

*Reproducibility.* Every step draws from a generator seeded by (seed, step), so that a run that was
stopped and continued with `--resume` ends with the same weights as an undisturbed one.

One file: what is shown, how it is attacked and what judges it are one recipe.

One file: the data, the objective and the figures of the cards are one recipe, run as one command.

References:
    Representation learning with contrastive predictive coding, van den Oord, Li & Vinyals, 2018,
    https://arxiv.org/abs/1807.03748 (equation 4).
    Explaining and harnessing adversarial examples, Goodfellow, Shlens & Szegedy, ICLR 2015,
    https://arxiv.org/abs/1412.6572 (here with a step of bounded Euclidean length).
    On calibration of modern neural networks, Guo et al., ICML 2017,
    https://arxiv.org/abs/1706.04599 (section 4.2).
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Unpack

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save as to_bytes
from torch import Tensor

from seqalign.core.gaussian import GaussianPosterior
from seqalign.core.process import Designs
from seqalign.core.streams import Streams
from seqalign.models import training
from seqalign.models.emoji import emoji_mini
from seqalign.models.emoji_data import ARCHIVE, SIZE, Emoji, family, load, words_of
from seqalign.models.splits import bucket
from seqalign.rewards.emoji import (
    EmojiMatch,
    Layout,
    MatchNetwork,
    load_weights,
    pack,
    plain,
)

NAMES: Final = {"guide": "emoji-match", "holdout": "emoji-match-holdout"}
EVALUATION_SEED: Final = 2024


@dataclass(frozen=True, kw_only=True)
class Settings(training.Settings):
    """Hyper-parameters of one training run; stored in its checkpoint and checked by `--resume`.

    Attributes:
        layout: sizes of the network. Text features do not decay, and learn faster.
        steps: of the optimizer.
        batch: pictures per step.
        token_dropout: of text features.
        text_pace: how much faster text features learn.
        degraded: probability of each of mixing, blur and noise.
        attack: longest adversarial step, Euclidean length over the pixels of a picture.
        turn: degrees, at most, either way.
        stretch: log of the scale, at most, either way.
        shift: pixels, at most, either way.
        color: relative change of a channel, at most, either way.
        hole: probability of a covered rectangle.
        weight_text: weight of the loss that asks for the picture of a name.
    """

    layout: Layout
    steps: int = 1000
    batch: int = 96
    warmup: int = 100
    ema: float = 0.995
    dropout: float = 0.2
    token_dropout: float = 0.3
    text_pace: float = 5.0
    degraded: float = 0.6
    attack: float = 0.5
    turn: float = 10.0
    stretch: float = 0.15
    shift: float = 3.0
    color: float = 0.1
    hole: float = 0.3
    weight_text: float = 0.5


GUIDE: Final = Settings(layout=Layout("residual", (32, 64, 96), (1, 1, 1)), seed=0, attack=1.5)
HOLDOUT: Final = Settings(
    layout=Layout("depthwise", (24, 64, 128), (1, 1, 1), embedding=56),
    seed=1,
    turn=15.0,
    token_dropout=0.5,
    stretch=0.2,
    shift=2.0,
    color=0.15,
    hole=0.5,
    bfloat16=False,
)
SETTINGS: Final = {"guide": GUIDE, "holdout": HOLDOUT}


def moved(x: Tensor, settings: Settings) -> Tensor:
    """Turn, stretch and shift pictures (n, 3, 32, 32) at random; what comes in is white."""
    n = len(x)
    angle = (torch.rand(n) * 2 - 1) * math.radians(settings.turn)
    scale = torch.exp((torch.rand(n, 2) * 2 - 1) * settings.stretch)
    shift = (torch.rand(n, 2) * 2 - 1) * settings.shift * 2 / SIZE
    cosine, sine = angle.cos(), angle.sin()
    matrix = torch.stack(
        (
            torch.stack((cosine * scale[:, 0], -sine * scale[:, 1], shift[:, 0]), 1),
            torch.stack((sine * scale[:, 0], cosine * scale[:, 1], shift[:, 1]), 1),
        ),
        1,
    )
    grid = F.affine_grid(matrix, [n, 3, SIZE, SIZE], align_corners=False)
    return 1 - F.grid_sample(1 - x, grid, align_corners=False)


def blurred(x: Tensor, sigma: Tensor) -> Tensor:
    """Blur pictures (n, 3, 32, 32), each by a Gaussian of its own sigma (n,) in pixels."""
    at = torch.arange(SIZE, dtype=x.dtype)
    kernel = torch.exp(-0.5 * ((at[:, None] - at) / sigma.clamp(min=0.05)[:, None, None]) ** 2)
    kernel = (kernel / kernel.sum(-1, keepdim=True))[:, None]
    return kernel @ x @ kernel.transpose(-1, -2)


def recolored(x: Tensor, settings: Settings) -> Tensor:
    """Change the contrast and brightness of each channel a little, and cover a rectangle."""
    n = len(x)
    gain = 1 + (torch.rand(n, 3, 1, 1) * 2 - 1) * settings.color
    x = 1 + (x - 1) * gain + (torch.rand(n, 3, 1, 1) * 2 - 1) * settings.color / 2
    size = 4 + 10 * torch.rand(n, 2, 1)
    corner = torch.rand(n, 2, 1) * (SIZE - size)
    at = torch.arange(SIZE) + 0.5
    inside = (at > corner) & (at < corner + size)
    hole = inside[:, 0, :, None] & inside[:, 1, None, :] & (torch.rand(n, 1, 1) < settings.hole)
    return torch.where(hole[:, None], torch.rand(n, 3, 1, 1), x)


def degraded(x: Tensor, others: Tensor, share: float) -> Tensor:
    """Make a share of pictures look like posterior means of a diffusion: mixed, blurred, noisy.

    Args:
        x: (n, 3, 32, 32) pictures.
        others: (n, 3, 32, 32) what they are mixed with.
        share: probability of each of the three.
    """
    n = len(x)

    def some() -> Tensor:
        return (torch.rand(n) < share) * torch.rand(n)

    x = torch.lerp(x, others, 0.7 * some()[:, None, None, None])
    x = blurred(x, 2.5 * some())
    return x + 0.4 * (some() ** 2)[:, None, None, None] * torch.randn(x.shape)


def augmented(x: Tensor, settings: Settings) -> Tensor:
    """Return pictures (n, 3, 32, 32) as training sees them, in [0, 1]."""
    x = recolored(moved(x, settings), settings)
    others = torch.stack([x[torch.randperm(len(x))] for _ in range(4)]).mean(0)
    return degraded(x, others, settings.degraded).clamp(0, 1)


def losses(network: MatchNetwork, x: Tensor, own: Tensor, t: Tensor, settings: Settings) -> Tensor:
    """Return the InfoNCE loss in nats: pictures against all names, and names against the batch.

    Args:
        network: the towers.
        x: (n, 3, 32, 32) pictures.
        own: (n,) which name belongs to each.
        t: (N, d) embeddings of all names.
        settings: hyper-parameters.
    """
    with torch.autocast("cpu", torch.bfloat16, enabled=settings.bfloat16):
        e = network.images(x, settings.dropout).float()
    logits = network.log_scale.exp() * (e @ t.T)
    to_name = F.cross_entropy(logits, own)
    to_picture = F.cross_entropy(logits[:, own].T, torch.arange(len(own)))
    w = settings.weight_text
    return (1 - w) * to_name + w * to_picture


def train(
    pixels: Tensor,
    names: Sequence[str],
    settings: Settings,
    out: Path,
    **watch: Unpack[training.Watch],
) -> MatchNetwork:
    """Train one network and return it folded, with averaged weights in half precision.

    Args:
        pixels: (N, 3, 32, 32) uint8.
        names: N names.
        settings: hyper-parameters.
        out: folder for `checkpoint.pt`.
        watch: how the run is cut, saved and watched.

    Raises:
        ValueError: the checkpoint was written under other settings or names.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.step_seed(settings.seed, 2**31))
        network = MatchNetwork(settings.layout, folded=False)
        features = network.features.weight
        parameters = training.groups(
            (n, p) for n, p in network.named_parameters() if p is not features
        )
        # They begin at zero and must reach the size of one.
        parameters += [{"params": [features], "pace": settings.text_pace, "weight_decay": 0.0}]
        run = training.Run(network, parameters, out, settings, names=list(names))
        numbers, offsets, weights = pack(names)

        def loss() -> Tensor:
            own = torch.randperm(len(names))[: settings.batch]
            x = augmented(pixels[own].float() / 255, settings)
            kept = (torch.rand(len(numbers)) >= settings.token_dropout).float()
            t = network.read(numbers, offsets, weights * kept / (1 - settings.token_dropout))
            if settings.attack > 0:
                x = attacked(network, x, own, t.detach(), settings)
            return losses(network, x, own, t, settings)

        @torch.no_grad()
        def bounded() -> None:
            network.log_scale.clamp_(max=math.log(30.0))

        how: training.Watch = {"save_every": 200, "check_every": 100, **watch}
        run.loop(
            loss,
            lambda step: settings.warm_cosine(step, math.pi * step / settings.steps),
            lambda done: f"scale {network.log_scale.exp().item():.2f}",
            seed=settings.seed,
            steps=settings.steps,
            after=bounded,
            **how,
        )
        trained = MatchNetwork(settings.layout, folded=False)
        trained.load_state_dict(run.average)
    folded = MatchNetwork(settings.layout)
    # Half precision on disk; the figures are those of the weights as they will be read back.
    folded.load_state_dict({k: v.half().float() for k, v in trained.fold().items()})
    return folded.eval().requires_grad_(False)


def attacked(
    network: MatchNetwork, x: Tensor, own: Tensor, t: Tensor, settings: Settings
) -> Tensor:
    """Move half of the pictures against their names by one step of length up to `attack`."""
    half = len(x) // 2
    some = x[:half].clone().requires_grad_()
    network.eval()
    with torch.autocast("cpu", torch.bfloat16, enabled=settings.bfloat16):
        e = network.images(some).float()
    logits = network.log_scale.exp() * (e @ t.T)
    (g,) = torch.autograd.grad(F.cross_entropy(logits, own[:half], reduction="sum"), some)
    network.train()
    length = settings.attack * torch.rand(half, 1, 1, 1)
    g = g / g.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None, None]
    return torch.cat([(some.detach() + length * g).clamp(0, 1), x[half:]])


def dealt(names: Sequence[str]) -> list[str]:
    """Return for each training name who learns it: "guide", "holdout" or "both".

    A family with a word that no other family has is learned by both, or one of them would not know
    the word. The others are dealt, those with the rarest words first: each to the twin that knows
    fewer of its words so far, then to the one with fewer names. So both know every word, and half
    of what words mean together is seen by one of them only. Families are never divided.
    """
    families: dict[str, list[str]] = defaultdict(list)
    for name in names:
        families[family(name)].append(name)
    words = {key: {w for name in some for w in words_of(name)} for key, some in families.items()}
    count = Counter(w for some in words.values() for w in some)

    def turn(key: str) -> tuple[int, int, str]:
        return min(count[w] for w in words[key]), bucket(key, "emoji-match", 2**32), key

    known: dict[str, Counter[str]] = {twin: Counter() for twin in NAMES}
    size = dict.fromkeys(NAMES, 0)
    found: dict[str, str] = {}
    # Those that both learn come first: their rarest word is in one family.
    for key in sorted(families, key=turn):
        twins = list(NAMES)
        if min(count[w] for w in words[key]) > 1:
            score = {t: sum(known[t][w] / count[w] for w in words[key]) for t in NAMES}
            twins = [min(NAMES, key=lambda t: (score[t], size[t]))]
        for twin in twins:
            known[twin].update(words[key])
            size[twin] += len(families[key])
        found[key] = twins[0] if len(twins) == 1 else "both"
    return [found[family(name)] for name in names]


def banked(names: Sequence[str]) -> tuple[str, ...]:
    """Return one name of each family, as the networks see names, in the order of the first."""
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(family(name), plain(name))
    return tuple(dict.fromkeys(first.values()))


def stacked(emoji: Sequence[Emoji]) -> Tensor:
    """Return the pixels of n emoji, (n, 3, 32, 32) uint8."""
    return torch.from_numpy(np.stack([e.pixels for e in emoji]))


def views(x: Tensor, seed: int = EVALUATION_SEED) -> dict[str, Tensor]:
    """Return pictures (n, 3, 32, 32) as drawn and as a diffusion sees them on its way."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.lerp(x, x.mean(0), 0.4)
    noise = 0.1 * torch.randn(x.shape, generator=generator)
    return {
        "as drawn": x,
        "blurred by 1.5 pixels": blurred(x, torch.full((len(x),), 1.5)),
        "40 % mean picture, blurred by 1 pixel, noise 0.1": (
            blurred(mixed, torch.full((len(x),), 1.0)) + noise
        ).clamp(0, 1),
    }


def calibrate(
    network: MatchNetwork, bank: Sequence[str], emoji: Sequence[Emoji]
) -> tuple[float, float]:
    """Return the scale whose score finds the names of held-out emoji best, and that score.

    The score is the mean over the views of the log-odds of the true name against the bank, in
    nats: temperature scaling on names that training never showed.
    """
    with torch.no_grad():
        known, said = network.texts(bank), network.texts([e.name for e in emoji])
        seen = [network.images(v) for v in views(stacked(emoji).float() / 255).values()]
    own = torch.cat([(e * said).sum(-1, keepdim=True) for e in seen])
    cosines = torch.cat([own, torch.cat(seen) @ known.T], 1)
    grid = [float(s) for s in np.geomspace(1.0, 40.0, 75)]
    found = {
        s: float((s * cosines).log_softmax(-1)[:, 0].mean()) + math.log(len(bank) + 1) for s in grid
    }
    best = max(found, key=lambda s: found[s])
    return best, found[best]


def write(path: Path, network: MatchNetwork, bank: Sequence[str], scale: float) -> None:
    """Write a folded network in half precision with its bank and scale."""
    metadata = {
        "layout": json.dumps(dataclasses.asdict(network.layout)),
        "bank": json.dumps(list(bank)),
        "scale": f"{scale:.4f}",
    }
    halves = {k: v.half().contiguous() for k, v in network.state_dict().items()}
    training.write_atomically(path, lambda p: p.write_bytes(to_bytes(halves, metadata=metadata)))


def retrieval(cosines: Tensor, some: Tensor) -> dict[str, float]:
    """Return top-1 and top-5 accuracy both ways in percent, for the rows `some` (n,) of (n, n)."""
    found = {}
    for way, s in (("picture to name", cosines), ("name to picture", cosines.T)):
        rank = (s > s.diagonal()[:, None]).sum(1)[some]
        for k in (1, 5):
            found[f"{way}, top {k}"] = round(100 * float((rank < k).double().mean()), 1)
    return found


def interval(values: Tensor) -> tuple[float, float, float]:
    """Return the mean of (n,) paired values with its 95 % interval, by 10,000 bootstrap samples."""
    draws = torch.from_numpy(
        np.random.default_rng(EVALUATION_SEED).integers(0, len(values), (10_000, len(values)))
    )
    low, high = values.double()[draws].mean(1).quantile(torch.tensor([0.025, 0.975]).double())
    return float(values.mean()), float(low), float(high)


def correlation(a: Tensor, b: Tensor) -> float:
    """Return the correlation of two tensors of one shape, all values alike."""
    return float(torch.corrcoef(torch.stack((a.flatten(), b.flatten())))[0, 1])


def climbed(reward: EmojiMatch, x: Tensor, prompts: tuple[str, ...], length: float) -> Tensor:
    """Return pictures (B, K, 3, 32, 32) moved up the reward by 40 steps, at most `length` away."""
    start = x
    for _ in range(40):
        x = x.detach().requires_grad_()
        (g,) = torch.autograd.grad(reward.graded(Designs(x, prompts=prompts)).sum(), x)
        g = g / g.flatten(2).norm(dim=2).clamp(min=1e-12)[..., None, None, None]
        move = (x.detach() + length / 10 * g).clamp(0, 1) - start
        size = move.flatten(2).norm(dim=2).clamp(min=1e-12)[..., None, None, None]
        x = start + move * (length / size).clamp(max=1.0)
    return x.detach()


def both(folder: Path) -> list[EmojiMatch]:
    """Return guide and twin from the weights in `folder`."""
    found = []
    for name in NAMES.values():
        network, bank, scale = load_weights((folder / f"{name}.safetensors").read_bytes())
        found.append(EmojiMatch(name=name, network=network, bank=bank, scale=scale))
    return found


def spelled(emoji: Sequence[Emoji], part: str) -> tuple[list[Emoji], Tensor]:
    """Return the emoji of a part, and (n,) whether all words of each occur in training names."""
    some = [e for e in emoji if e.part == part]
    words = {w for e in emoji if e.part == "train" for w in words_of(e.name)}
    return some, torch.tensor([all(w in words for w in words_of(e.name)) for e in some])


def evaluate_samples(
    emoji: Sequence[Emoji],
    folder: Path,
    weights: str | None,
    log: Callable[[str], None] = print,
    *,
    prompts: int = 20,
    particles: int = 16,
    steps: int = 25,
) -> None:
    """Print what the twins say of unguided pictures of emoji-mini, prompted by held-out names.

    Args:
        emoji: from `load`.
        folder: with both weights files.
        weights: a weights file of emoji-mini; None is the shipped one.
        log: takes one line at a time.
        prompts: how many test names of training words, by hash.
        particles: pictures per prompt.
        steps: of the diffusion.
    """
    rewards = both(folder)
    test, known = spelled(emoji, "test")
    names = [e.name for e, k in zip(test, known.tolist(), strict=True) if k]
    names = sorted(names, key=lambda name: bucket(name, "emoji-match samples", 2**32))[:prompts]
    process = emoji_mini(prompts=names, steps=steps, weights=weights)
    rng = Streams(EVALUATION_SEED, tuple(range(len(names))))
    times = process.times.tolist()
    with torch.no_grad():
        x = process.prior((len(names), particles), rng.at("prior"))
        for i, (t, s) in enumerate(itertools.pairwise(times)):
            means = [process.take([b]).posterior(x[b : b + 1], t).mean for b in range(len(names))]
            posterior = GaussianPosterior(torch.cat(means))
            x = process.transition(x, posterior, t, s).sample(rng.at("step", i))
        designs = process.decode(x)
    scores = [r(designs) for r in rewards]
    centered = [s - s.mean(1, keepdim=True) for s in scores]
    within = torch.stack(
        [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(*scores, strict=True)]
    )
    mean, low, high = interval(within)
    log(
        f"{len(names)} held-out prompts, {particles} unguided pictures of emoji-mini each, {steps} "
        f"steps: correlation of the twins within a prompt {mean:.3f} (95 % interval {low:.3f} to "
        f"{high:.3f}), pooled {correlation(*centered):.3f}"
    )
    best = scores[0].argmax(1, keepdim=True)
    for reward, s, c in zip(rewards, scores, centered, strict=True):
        mean, low, high = interval(c.gather(1, best)[:, 0])
        log(
            f"{reward.name}: mean {float(s.mean()):.2f} nats, standard deviation within a prompt "
            f"{float(s.std(1).mean()):.2f}; the picture that emoji-match likes best of {particles} "
            f"is {mean:+.2f} (95 % interval {low:+.2f} to {high:+.2f}) from the mean"
        )


def evaluate(emoji: Sequence[Emoji], folder: Path, log: Callable[[str], None] = print) -> None:
    """Print the figures of the cards, from the weights in `folder`."""
    rewards = both(folder)
    test, known = spelled(emoji, "test")
    names = tuple(e.name for e in test)
    n = len(test)
    log(
        f"{n} test emoji, {int(known.sum())} of them with training words only; chance is "
        f"{100 / n:.1f} % for top 1, {500 / n:.1f} % for top 5"
    )
    shown = views(stacked(test).float() / 255)
    for reward in rewards:
        about = f"{reward.name}: scale {reward.scale:.2f}, bank {len(reward.bank)}"
        log(f"{about}, at most {reward.most:.2f} nats")
        for view, x in shown.items():
            with torch.no_grad():
                cosines = reward.network.images(x) @ reward.network.texts(names).T
            for what, some in (("all", torch.ones_like(known)), ("known words", known)):
                log(f"{reward.name}, {view}, {what}: {retrieval(cosines, some)}")
    # Every prompt with every picture, so that a row holds what a sampler must choose from.
    for view, x in shown.items():
        with torch.no_grad():
            scores = [
                r.compare(r.network.images(x).expand(n, -1, -1), names).double() for r in rewards
            ]
        right = [s.diagonal() for s in scores]
        wrong = [s.masked_select(~torch.eye(n, dtype=torch.bool)).reshape(n, n - 1) for s in scores]
        for reward, a, b in zip(rewards, right, wrong, strict=True):
            log(
                f"{reward.name}, {view}: {float(a.mean()):.2f} nats for the right picture "
                f"({float(a[known].mean()):.2f} with known words), {float(b.mean()):.2f} for "
                f"another, standard deviation {float(b.std(1).mean()):.2f} within a prompt"
            )
        centered = [b - b.mean(1, keepdim=True) for b in wrong]
        log(
            f"twins, {view}: correlation over wrong pictures within a prompt "
            f"{correlation(*centered):.3f} ({correlation(*(c[known] for c in centered)):.3f} with "
            f"known words), of the scores of right pictures {correlation(*right):.3f}"
        )
    x = shown["40 % mean picture, blurred by 1 pixel, noise 0.1"]
    prompts = tuple(name for name, k in zip(names, known.tolist(), strict=True) if k)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(EVALUATION_SEED))[:8]
    start = x[order].expand(len(prompts), -1, -1, -1, -1)
    for length in (1.0, 4.0):
        end = climbed(rewards[0], start, prompts, length)
        gains = [
            (r(Designs(end, prompts=prompts)) - r(Designs(start, prompts=prompts))).mean(1)
            for r in rewards
        ]
        for reward, gain in zip(rewards, gains, strict=True):
            mean, low, high = interval(gain)
            log(
                f"{reward.name}: {mean:+.2f} nats (95 % interval {low:+.2f} to {high:+.2f}) after "
                f"climbing the guide by at most {length:g} from 8 other pictures, "
                f"{len(prompts)} prompts"
            )


def script(args: argparse.Namespace) -> None:
    """Train one twin, or judge both."""
    emoji = load(args.data)
    if args.evaluate is not None:
        evaluate(emoji, args.evaluate)
        if args.samples:
            evaluate_samples(emoji, args.evaluate, args.emoji_mini)
        return
    settings = SETTINGS[args.twin]
    if args.steps is not None:
        settings = dataclasses.replace(settings, steps=args.steps)
    learned = [e for e in emoji if e.part == "train"]
    bank = banked([e.name for e in learned])
    twins = dealt([e.name for e in learned])
    own = [e for e, twin in zip(learned, twins, strict=True) if twin in (args.twin, "both")]
    names = [e.name for e in own]
    with training.progress(settings.steps) as (advance, log):
        log(f"{NAMES[args.twin]}: {len(own)} emoji")
        network = train(
            stacked(own), names, settings, args.out, resume=args.resume, log=log, advance=advance
        )
    scale, nats = calibrate(network, bank, [e for e in emoji if e.part == "validation"])
    print(f"scale {scale:.2f}: {nats:.2f} nats for the name of a validation emoji")
    write(args.out / f"{NAMES[args.twin]}.safetensors", network, bank, scale)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    p = training.parser(
        "seqalign.rewards.train_emoji_match",
        "Train emoji-match or its hold-out twin, or print the figures of their cards from the "
        "folder of both weights files.",
        data=f"folder with {ARCHIVE}",
        threads=1,
    )
    p.add_argument("--twin", choices=tuple(NAMES), default="guide", help="which of the two")
    p.add_argument("--steps", type=int, help="steps of training; what was shipped by default")
    p.add_argument(
        "--samples", action="store_true", help="with --evaluate: judge pictures of emoji-mini too"
    )
    p.add_argument("--emoji-mini", metavar="FILE", help="its weights; the shipped ones by default")
    return training.command_line(p, arguments, script)


if __name__ == "__main__":
    raise SystemExit(main())
