"""Speed of inverse folding, as ratios against the cost of the published implementation.

    python examples/benchmarks/inverse_folding.py [--quick] [--repeats 3]

`Published` is a straightforward implementation, written here, of the network's forward pass as the
published code runs it: features, encoder and decoder of every design at every step, messages from
concatenated inputs. It gives the same numbers (see tests/test_inverse_folding.py). Both sides use
the same random weights at the published size (width 128, 3 + 3 layers, 22 letters), one thread, the
same backbone (an ideal helical bundle, generated here), and alternate in one process.

What is counted, for 8 designs, 68 residues, 50 steps and 50 neighbors (the tutorial's setting):

plain    published: one forward pass of the batch a step. Ours: a run of the process through the
         driver, with its bookkeeping, the encoding included.
cached   the same 8 designs by ProteinMPNN's own sampler (21 letters, one position a step, decoder
         states kept), against the same published cost as the plain row.
SMC      published: three passes a step: one to propose, one on x_s to look ahead, one of the oracle
         (a network of the same size) on the sequence looked ahead to. Ours: a run of SMC whose
         value is the oracle on the posterior's mode.

Times are processor time of one thread, so that other work on the machine does not count. The C
library's allocator is left as it comes, as the published code has it; seqalign's own setting
(`seqalign.allocator`) would speed up the baseline by a quarter and our side less. Then: how
time grows with length (the slope of log time against log length, encoding included), the highest
resident memory of a process with 16 and with 1,024 particles, and the error of bfloat16 and of
torch.compile.
"""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from torch import Tensor

# 0 is the default; that it is set leaves the allocator alone
os.environ.setdefault("MALLOC_PERTURB_", "0")

import seqalign as sa
from seqalign.core.objective import Reward
from seqalign.core.process import Designs
from seqalign.core.unguided import draw
from seqalign.core.value import PosteriorMode
from seqalign.files.numbering import Numbering
from seqalign.files.structure import Structure
from seqalign.models.backbone import Backbone
from seqalign.models.inverse_folding import process
from seqalign.models.mpnn import MPNN
from seqalign.models.mpnn_weights import Weights

PAIRS = (
    "CA-CA N-N C-C O-O CB-CB CA-N CA-C CA-O CA-CB N-C N-O N-CB CB-C CB-O O-C N-CA C-CA O-CA CB-CA "
    "C-N O-N CB-N C-CB O-CB C-O"
).split()


def neighbors(x: Tensor, near: Tensor) -> Tensor:
    """Return x (B, L, H) at the neighbors (B, M, K) of residues, (B, M, K, H)."""
    flat = near.flatten(1)[..., None].expand(-1, -1, x.shape[-1])
    return x.gather(1, flat).view(*near.shape, x.shape[-1])


class Published:
    """The forward pass as published: nothing kept between calls, everything per design.

    Args:
        state: a state dict with the checkpoints' names.
        neighbors: K.
    """

    def __init__(self, state: Mapping[str, Tensor], neighbors: int) -> None:
        self.w, self.k = dict(state), neighbors

    def linear(self, name: str, x: Tensor) -> Tensor:
        """Apply a linear map by its name."""
        return F.linear(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"))

    def norm(self, name: str, x: Tensor) -> Tensor:
        """Apply a layer norm by its name."""
        return F.layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def message(self, layer: str, maps: tuple[str, str, str], x: Tensor) -> Tensor:
        """Apply the three maps of a message."""
        for name in maps[:2]:
            x = F.gelu(self.linear(f"{layer}.{name}", x))
        return self.linear(f"{layer}.{maps[2]}", x)

    def dense(self, layer: str, h: Tensor) -> Tensor:
        """Apply the map of each residue."""
        x = F.gelu(self.linear(f"{layer}.dense.W_in", h))
        return self.linear(f"{layer}.dense.W_out", x)

    def features(
        self, coords: Tensor, mask: Tensor, numbers: Tensor, chains: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return edges (B, L, K, H) and neighbors (B, L, K) of coords (B, L, 4, 3)."""
        n, ca, c, o = coords.unbind(2)
        b1, b2 = ca - n, c - ca
        b3 = torch.cross(b1, b2, dim=-1)
        cb = -0.58273431 * b3 + 0.56802827 * b1 - 0.54067466 * b2 + ca
        atoms = {"N": n, "CA": ca, "C": c, "O": o, "CB": cb}
        both = mask[:, :, None] * mask[:, None]
        d = both * ((ca[:, :, None] - ca[:, None]).square().sum(-1) + 1e-6).sqrt()
        d = d + (1 - both) * d.amax(-1, keepdim=True)
        near = d.topk(min(self.k, d.shape[1]), largest=False).indices
        mu = torch.linspace(2, 22, 16)
        edges = []
        for pair in PAIRS:
            first, second = pair.split("-")
            gap = atoms[first][:, :, None] - atoms[second][:, None]
            distance = (gap.square().sum(-1) + 1e-6).sqrt().gather(2, near)
            edges.append(torch.exp(-(((distance[..., None] - mu) / 1.25) ** 2)))
        offset = (numbers[:, :, None] - numbers[:, None]).gather(2, near)
        same = (chains[:, :, None] == chains[:, None]).gather(2, near)
        place = torch.where(same, (offset + 32).clamp(0, 64), 65)
        position = self.linear("features.embeddings.linear", F.one_hot(place, 66).float())
        e = self.linear("features.edge_embedding", torch.cat((position, *edges), -1))
        return self.norm("features.norm_edges", e), near

    def encoded(
        self, coords: Tensor, mask: Tensor, numbers: Tensor, chains: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return residues (B, L, H), edges (B, L, K, H), neighbors and which exist (B, L, K)."""
        e, near = self.features(coords, mask, numbers, chains)
        e = self.linear("W_e", e)
        h = torch.zeros(*mask.shape, e.shape[-1])
        alive = mask[:, :, None] * mask.unsqueeze(-1).expand(near.shape).gather(1, near)

        def gather(x: Tensor) -> Tensor:
            return neighbors(x, near)

        def own(x: Tensor) -> Tensor:
            return x[:, :, None].expand(*near.shape, x.shape[-1])

        for number in range(3):
            name = f"encoder_layers.{number}"
            m = self.message(name, ("W1", "W2", "W3"), torch.cat((own(h), e, gather(h)), -1))
            h = self.norm(f"{name}.norm1", h + (m * alive[..., None]).sum(2) / 30)
            h = self.norm(f"{name}.norm2", h + self.dense(name, h)) * mask[..., None]
            m = self.message(name, ("W11", "W12", "W13"), torch.cat((own(h), e, gather(h)), -1))
            e = self.norm(f"{name}.norm3", e + m)
        return h, e, near, alive

    def sample(
        self,
        coords: Tensor,
        mask: Tensor,
        numbers: Tensor,
        chains: Tensor,
        temperature: float,
        seed: int = 0,
    ) -> Tensor:
        """Return letters (B, L) drawn as published: one position a step, decoder states kept.

        The letters that a residue does not see are masked in the inputs of its messages, X is not
        drawn, every sequence has its own random order.
        """
        once = torch.Generator().manual_seed(seed)
        h, e, near, alive = self.encoded(coords, mask, numbers, chains)
        b, n, width = h.shape
        order = torch.randn(b, n, generator=once).abs().argsort(-1)
        rank = order.argsort(-1)
        seen = (rank[:, None] < rank[:, :, None]).gather(2, near)[..., None].float()
        forward = alive[..., None] * seen
        waiting = torch.cat((e, torch.zeros_like(e), neighbors(h, near)), -1)
        waiting = (alive[..., None] - forward) * waiting
        letters, stack = torch.zeros_like(h), [h] + [torch.zeros_like(h) for _ in range(3)]
        tokens = torch.zeros(b, n, dtype=torch.int64)
        for t in order.unbind(1):
            one = t[:, None]
            at = one[..., None, None]
            place = near.gather(1, one[..., None].expand(-1, 1, near.shape[-1]))
            edge = e.gather(1, at.expand(-1, 1, *e.shape[2:]))
            ahead = waiting.gather(1, at.expand(-1, 1, *waiting.shape[2:]))
            sees = forward.gather(1, at.expand(-1, 1, *forward.shape[2:]))
            known = torch.cat((edge, neighbors(letters, place)), -1)
            alone = one[..., None].expand(-1, 1, width)
            exists = mask.gather(1, one)[..., None]
            for number in range(3):
                name = f"decoder_layers.{number}"
                x = torch.cat((known, neighbors(stack[number], place)), -1)
                own = stack[number].gather(1, alone)
                wide = own[:, :, None].expand(-1, -1, x.shape[2], -1)
                x = torch.cat((wide, sees * x + ahead), -1)
                m = self.message(name, ("W1", "W2", "W3"), x)
                own = self.norm(f"{name}.norm1", own + m.sum(2) / 30)
                own = self.norm(f"{name}.norm2", own + self.dense(name, own)) * exists
                stack[number + 1].scatter_(1, alone, own)
            logits = self.linear("W_out", stack[3].gather(1, alone))[:, 0, :20] / temperature
            drawn = torch.multinomial(logits.softmax(-1), 1, generator=once)
            tokens.scatter_(1, one, drawn)
            letters.scatter_(1, alone, self.w["W_s.weight"][drawn])
        return tokens

    def hidden(
        self,
        coords: Tensor,
        mask: Tensor,
        numbers: Tensor,
        chains: Tensor,
        tokens: Tensor,
        order: Tensor | None = None,
        blind: bool = False,
    ) -> Tensor:
        """Return the decoder's residues (B, L, H).

        With `order` (B, L) a residue sees the letters decoded before it; without, all; `blind`,
        none.
        """
        h, e, near, alive = self.encoded(coords, mask, numbers, chains)

        def gather(x: Tensor) -> Tensor:
            return neighbors(x, near)

        def own(x: Tensor) -> Tensor:
            return x[:, :, None].expand(*near.shape, x.shape[-1])

        seen = torch.ones(*near.shape, 1)
        if order is not None:
            rank = order.argsort(-1)
            earlier = (rank[:, None] < rank[:, :, None]).gather(2, near)
            seen = earlier[..., None].float()
        if blind:
            seen = torch.zeros(*near.shape, 1)
        letters = self.w["W_s.weight"][tokens]
        waiting = torch.cat((e, torch.zeros_like(e), gather(h)), -1)
        for number in range(3):
            name = f"decoder_layers.{number}"
            x = torch.cat((e, gather(letters), gather(h)), -1)
            x = alive[..., None] * (seen * x + (1 - seen) * waiting)
            m = self.message(name, ("W1", "W2", "W3"), torch.cat((own(h), x), -1))
            h = self.norm(f"{name}.norm1", h + (m * alive[..., None]).sum(2) / 30)
            h = self.norm(f"{name}.norm2", h + self.dense(name, h)) * mask[..., None]
        return h


def bundle(length: int, *, helix: int = 22) -> Structure:
    """Return an ideal up-down helical bundle: helices of `helix` residues, 10 Å apart."""
    # N, CA, C, O of a residue in cylinder coordinates of an ideal alpha helix: radius, angle, rise
    atoms = ((1.55, -0.49, -0.88), (2.29, 0.0, 0.0), (1.65, 0.46, 1.08), (1.95, 0.49, 2.28))
    coords = torch.zeros(length, 4, 3)
    side = max(1, math.ceil(math.sqrt(math.ceil(length / helix))))
    for i in range(length):
        number, along = divmod(i, helix)
        up = number % 2 == 0
        step = along if up else helix - 1 - along
        for a, (radius, angle, rise) in enumerate(atoms):
            turn = math.radians(100) * step + (angle if up else -angle)
            xyz = (
                radius * math.cos(turn) + 10.0 * (number % side),
                radius * math.sin(turn) + 10.0 * (number // side),
                1.5 * step + (rise if up else -rise),
            )
            coords[i, a] = torch.tensor(xyz)
    return Structure(
        name="bundle",
        sequence="A" * length,
        coords=coords,
        numbering=Numbering.plain(length),
        design=torch.ones(length, dtype=torch.bool),
        residue_index=torch.arange(length),
    )


class Oracle(Reward):
    """A readout of a network of the same size: the mean residue, then a random direction."""

    name = "oracle"

    def __init__(self, backbone: Backbone, direction: Tensor) -> None:
        self.backbone, self.direction = backbone, direction

    def __call__(self, designs: Designs) -> Tensor:
        """Score designs, (B, K)."""
        flat = designs.x.flatten(0, 1)
        means = [self.backbone.hidden(piece)[-1].mean(1) for piece in flat.split(4)]
        return (torch.cat(means) @ self.direction).double().view(designs.shape)


def random_network(letters: int = 22) -> MPNN:
    """Return a network of the published size under fixed random weights."""
    torch.manual_seed(0)
    return MPNN(128, 3, letters).eval().requires_grad_(False)


class Setting:
    """One backbone, one network, both implementations."""

    def __init__(self, length: int, neighbors: int, designs: int, steps: int) -> None:
        self.structure = bundle(length)
        self.weights = Weights(random_network(), neighbors)
        self.designs, self.steps = designs, steps
        self.published = Published(self.weights.network.state_dict(), neighbors)
        self.direction = torch.randn(128, generator=torch.Generator().manual_seed(1))

    def published_pass(self, times: int) -> float:
        """Return the seconds of one batch of `times` published forward passes."""
        coords = self.structure.coords.expand(self.designs, -1, -1, -1)
        shape = coords.shape[:2]
        mask, chains = torch.ones(shape), torch.zeros(shape, dtype=torch.int64)
        numbers = self.structure.residue_index.expand(shape)
        tokens = torch.full(shape, 21)
        clock = time.process_time()
        with torch.no_grad():
            for _ in range(times):
                h = self.published.hidden(coords, mask, numbers, chains, tokens)
                self.published.linear("W_out", h).log_softmax(-1)
        return time.process_time() - clock

    def plain(self, designs: int | None = None) -> float:
        """Return the seconds of plain sampling, encoding included."""
        clock = time.process_time()
        p = process(self.weights, self.structure, steps=self.steps, order="parallel")
        method = sa.load_method("best_of_n", alpha=1.0)
        reward = sa.load_reward("charge")
        method(p, reward, (1, designs or self.designs), rng=sa.Streams(0, (0,)))
        return time.process_time() - clock

    def smc(self) -> float:
        """Return the seconds of SMC with a look-ahead value, both encodings included."""
        clock = time.process_time()
        p = process(self.weights, self.structure, steps=self.steps, order="parallel")
        oracle = Oracle(self.weights.encode(self.structure), self.direction)
        method = sa.load_method("smc", alpha=1.0, value=PosteriorMode())
        method(p, oracle, (1, self.designs), rng=sa.Streams(0, (0,)))
        return time.process_time() - clock

    def cached(self) -> float:
        """Return the seconds of ProteinMPNN's own sampler, encoding included."""
        clock = time.process_time()
        p = process(Weights(random_network(21), self.weights.neighbors), self.structure)
        rng = sa.Streams(0, (0,))
        draw(p, p.prior((1, self.designs), rng), rng)
        return time.process_time() - clock


def memory(particles: int) -> float:
    """Return the highest resident memory in MB of a fresh process that samples."""
    code = f"import runpy; m = runpy.run_path({__file__!r}); m['sample_and_tell']({particles})"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(out.stdout.split()[-1])


def sample_and_tell(particles: int) -> None:
    """Take two steps with so many particles; print the highest resident memory in MB (Linux)."""
    torch.set_num_threads(1)
    Setting(68, 50, particles, 2).plain()
    # not getrusage, whose maximum a child inherits
    lines = Path("/proc/self/status").read_text().splitlines()
    print(next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")))


def growth(lengths: tuple[int, ...], repeats: int) -> float:
    """Return the slope of log time against log length, two designs and ten steps."""
    settings = [Setting(length, 50, 2, 10) for length in lengths]
    times = [min(s.plain() for _ in range(repeats)) for s in settings]
    x = [math.log(length) for length in lengths]
    y = [math.log(t) for t in times]
    slope, _ = statistics.linear_regression(x, y)
    return slope


def option(setting: Setting, **how: bool) -> str:
    """Say how far off in log-probabilities an option is, and how fast against none."""
    x = torch.randint(21, (1, 8, 68), generator=torch.Generator().manual_seed(0))
    found, seconds = [], []
    for options in ({}, how):
        p = process(setting.weights, setting.structure, **options)
        with torch.no_grad():
            found.append(p.network(x, 0.5).log_softmax(-1))
            clock = time.process_time()
            for _ in range(5):
                p.network(x, 0.5)
            seconds.append(time.process_time() - clock)
    error = (found[0] - found[1]).abs()
    return (
        f"log-probabilities off by {float(error.mean()):.1e} on average, {float(error.max()):.1e} "
        f"at most; {seconds[0] / seconds[1]:.2f}x as fast"
    )


Quick = Annotated[bool, typer.Option("--quick", help="one repeat, no memory, no growth")]


def main(quick: Quick = False, repeats: int = 3) -> None:
    """Print ratios, the growth with length, memory and the error of half precision."""
    torch.set_num_threads(1)
    setting = Setting(68, 50, 8, 50)
    setting.published_pass(1)
    rows: dict[str, tuple[int, Callable[[], float]]] = {
        "plain": (1, setting.plain),
        "cached": (1, setting.cached),
        "SMC with look-ahead": (3, setting.smc),
    }
    ratios: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(1 if quick else repeats):
        for name, (passes, ours) in rows.items():
            # the published cost is the same at every step: a few are timed around each run
            before = setting.published_pass(1)
            mine = ours()
            after = before if quick else setting.published_pass(1)
            theirs = 50 * passes * (before + after) / 2
            ratios[name].append(theirs / mine)
            print(f"{name}: published {theirs:.2f} s, here {mine:.3f} s, {theirs / mine:.1f}x")
    for name, found in ratios.items():
        print(f"median, {name}: {statistics.median(found):.1f}x")
    print(f"bfloat16: {option(setting, bfloat16=True)}")
    if quick:
        return
    print(f"torch.compile: {option(setting, compiled=True)}")
    lengths = (68, 136, 272, 544)
    print(f"time grows as length ** {growth(lengths, repeats):.2f} over {lengths}")
    few, many = memory(16), memory(1024)
    print(f"resident memory: {few:.0f} MB with 16 particles, {many:.0f} MB with 1,024")


if __name__ == "__main__":
    typer.run(main)
