"""Problems whose answer is known: the yardsticks of the exactness laws.

Three kinds of process, each with the law of the chain that is actually run (T, reveal order,
inconsistent networks and all), derived here from the definitions and never from the core's
transitions:

* enumerable masked diffusion, both reveal orders (`masked`);
* enumerable uniform diffusion (`uniform`);
* linear-Gaussian diffusion with a linear-quadratic reward (`gaussian`);

and one that is too large to enumerate but still exact, a Markov-chain prior (`Testbed`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqalign.core.discrete import MaskedProcess, UniformProcess
from seqalign.core.gaussian import GaussianProcess, RectifiedFlow, VariancePreserving
from seqalign.core.objective import Reward
from seqalign.core.particles import Samples
from seqalign.core.process import Designs
from seqalign.core.selection import Keep
from seqalign.core.sequence import PROTEIN, Alphabet
from seqalign.core.smc import SMC
from seqalign.core.streams import Streams
from seqalign.files.numbering import Numbering
from seqalign.space.max_mutations import MaxMutations
from seqalign.space.residues import Residues
from seqalign.space.space import DesignSpace

# the one false-alarm rate of all statistical tests, in standard errors (two-sided 7e-6 each)
FALSE_ALARM = 4.5
ABC = Alphabet("ABC")
# letters with charges 0, +1 and -1
AKD = Alphabet("AKD")
TESTBED = Path(__file__).parent / "data" / "markov_testbed.npz"


# rewards ------------------------------------------------------------------------------------------


class PairReward(Reward):
    """Σ_i additive[i, x_i] + Σ_{i<j} pair[i, j, x_i, x_j]: asymmetric, multilinear, so relaxed
    designs are exact means.
    """

    name = "pairs"
    differentiable = True

    def __init__(self, length: int, v: int, seed: int, scale: float = 1.0) -> None:
        rng = np.random.default_rng(seed)
        self.additive = torch.tensor(rng.normal(size=(length, v)) * scale)
        self.pair = torch.tensor(rng.normal(size=(length, length, v, v)) * scale)
        self.length, self.v = length, v

    def relaxed(self, x: Tensor) -> Tensor:
        r = (x * self.additive).sum((-1, -2))
        for i, j in itertools.combinations(range(self.length), 2):
            # elementwise, not a matrix product, whose last bit may depend on the size of the batch
            r = r + (x[..., i, :, None] * self.pair[i, j] * x[..., j, None, :]).sum((-1, -2))
        return r

    def __call__(self, designs: Designs) -> Tensor:
        r = self.relaxed(torch.nn.functional.one_hot(designs.x, self.v).double())
        # islands of different length: the padding says nothing
        if designs.event_mask is not None:
            hot = torch.nn.functional.one_hot(designs.x, self.v).double()
            r = self.relaxed(hot * designs.event_mask[:, None, :, None])
        return r


class Plain(Reward):
    """A reward without its gradient."""

    name = "plain"

    def __init__(self, inner: Reward) -> None:
        self.inner = inner

    def __call__(self, designs: Designs) -> Tensor:
        return self.inner(designs)


class Rejecting(Reward):
    """-inf for designs whose first letter is `letter` and NaN for some relaxed ones: failures of
    both kinds.
    """

    name = "rejecting"
    differentiable = True

    def __init__(self, inner: Reward, letter: int, broken: bool = False) -> None:
        self.inner, self.letter, self.broken = inner, letter, broken

    def __call__(self, designs: Designs) -> Tensor:
        return torch.where(designs.x[..., 0] == self.letter, -torch.inf, self.inner(designs))

    def relaxed(self, x: Tensor) -> Tensor:
        r = self.inner.relaxed(x)
        # any rule that is a function of the state will do
        return torch.where(x[..., 0, 0] > x[..., 1, 1], torch.nan, r) if self.broken else r


class Quadratic(Reward):
    """c·x − x'Ax/2."""

    name = "quadratic"
    differentiable = True

    def __init__(self, c: np.ndarray, a: np.ndarray) -> None:
        self.c, self.a = torch.tensor(c), torch.tensor(a)

    def relaxed(self, x: Tensor) -> Tensor:
        return x @ self.c - 0.5 * torch.einsum("...i,ij,...j->...", x, self.a, x)

    def __call__(self, designs: Designs) -> Tensor:
        return self.relaxed(designs.x)


# networks -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Table:
    """A tabular network: logits per state, linear in t; on relaxed states the multilinear extension
    of the table.

    Attributes:
        logits: (W^L, L, V).
        drift: (W^L, L, V), added times t.
        width: W, the tokens a state is made of.
    """

    logits: Tensor
    drift: Tensor
    width: int

    def at(self, t: float) -> Tensor:
        """(W^L, L, V) logits at time t."""
        return self.logits + t * self.drift

    def __call__(self, x: Tensor, t: float) -> Tensor:
        length, table = self.logits.shape[1], self.at(t)
        if not x.is_floating_point():
            powers = self.width ** torch.arange(length - 1, -1, -1)
            return table[(x * powers).sum(-1)]
        weight = x[..., 0, :]
        for i in range(1, length):
            weight = (weight[..., None] * x[..., i, None, :]).flatten(-2)
        return torch.einsum("...s,slv->...lv", weight, table)


@dataclass(frozen=True, eq=False)
class UniformTable(Table):
    """The exact denoiser of a joint law under uniform noise, plus `logits` and t · `drift` that
    make it wrong.

    Attributes:
        joint: (V^L,) the law of x_0.
    """

    joint: np.ndarray
    memory: dict[float, Tensor] = field(default_factory=dict)

    def at(self, t: float) -> Tensor:
        """(V^L, L, V) logits at time t."""
        if t not in self.memory:
            v, length = self.width, self.logits.shape[1]
            noise = (1 - t) * np.eye(v) + t / v
            full, likely = grid(v, length), np.ones((1, 1))
            for _ in range(length):
                likely = np.kron(likely, noise)
            law = likely.T * self.joint
            hot = full[:, :, None] == np.arange(v)
            log_pi = np.log(np.einsum("sx,xla->sla", law, hot))
            self.memory[t] = torch.tensor(log_pi) + super().at(t)
        return self.memory[t]


def grid(width: int, length: int) -> np.ndarray:
    """All (W^L, L) token rows; row n is n in base W."""
    return np.array(list(itertools.product(range(width), repeat=length)))


def any_order_table(v: int, length: int, seed: int, bias: float = 0.0, drift: float = 0.0) -> Table:
    """Conditionals p(x_i = a | revealed letters) of a random, not factorized joint law; `bias`
    breaks their consistency.
    """
    rng = np.random.default_rng(seed)
    full = grid(v, length)
    p = np.exp(1.0 * rng.normal(size=len(full)))
    p /= p.sum()
    states = grid(v + 1, length)
    probs = np.full((len(states), length, v), 1.0 / v)
    for n, state in enumerate(states):
        fits = np.all((state == v) | (state == full), -1)
        for i in np.flatnonzero(state == v):
            probs[n, i] = [p[fits & (full[:, i] == a)].sum() for a in range(v)]
    logits = np.log(probs) + bias * rng.normal(size=probs.shape)
    return Table(torch.tensor(logits), torch.tensor(drift * rng.normal(size=probs.shape)), v + 1)


# chain laws ---------------------------------------------------------------------------------------


def _softmax(logits: np.ndarray) -> np.ndarray:
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def masked_law(
    table: Table,
    steps: int,
    order: str,
    start: Sequence[int],
    begin: int = 0,
    blocks: Sequence[Sequence[int]] = (),
) -> np.ndarray:
    """p_pre over all V^L designs of a masked chain from `start` at step `begin`, by enumeration
    of its states; 1-based positions of a block are revealed together, letter by letter.
    """
    v, length = table.width - 1, table.logits.shape[1]
    inside = {i for group in blocks for i in group}
    groups = [[i - 1 for i in group] for group in blocks]
    groups += [[i] for i in range(length) if i + 1 not in inside]
    law = {tuple(start): 1.0}
    for n in range(begin, steps):
        t, s = 1 - n / steps, 1 - (n + 1) / steps
        probs, nxt = _softmax(table.at(t).numpy()), {}
        for state, mass in law.items():
            pi = probs[int(np.dot(state, (v + 1) ** np.arange(length - 1, -1, -1)))]
            masked = [[i for i in group if state[i] == v] for group in groups]
            masked = [group for group in masked if group]

            def shown(
                group: list[int], state: tuple[int, ...] = state, pi: np.ndarray = pi
            ) -> list[tuple[dict[int, int], float]]:
                """Every reveal of a group and its probability."""
                return [
                    (dict(zip(group, some, strict=True)), math.prod(pi[group, some]))
                    for some in itertools.product(range(v), repeat=len(group))
                ]

            if order == "random":
                moves = [
                    (tuple(new.get(i, a) for i, a in enumerate(state)), p / len(masked))
                    for group in masked
                    for new, p in shown(group)
                ] or [(state, 1.0)]
            else:
                moves = []
                options = [
                    [({}, s / t), *((new, (1 - s / t) * p) for new, p in shown(group))]
                    for group in masked
                ]
                for choice in itertools.product(*options):
                    new = {i: a for part, _ in choice for i, a in part.items()}
                    child = tuple(new.get(i, a) for i, a in enumerate(state))
                    moves.append((child, math.prod(p for _, p in choice)))
            for child, p in moves:
                nxt[child] = nxt.get(child, 0.0) + mass * p
        law = nxt
    return np.array([law.get(tuple(x), 0.0) for x in grid(v, length).tolist()])


def uniform_law(table: Table, steps: int, live: Sequence[bool] | None = None) -> np.ndarray:
    """p_pre over all V^L designs of a uniform chain: Bayes' rule on the forward process, position
    by position.

    Positions that are not `live` are padding and hold token 0.
    """
    v, length = table.width, table.logits.shape[1]
    states = grid(v, length)

    def forward(keep: float) -> np.ndarray:
        return keep * np.eye(v) + (1 - keep) / v

    live = [True] * length if live is None else live
    law = np.all((states == 0) | np.array(live), -1).astype(float)
    law /= law.sum()
    for n in range(steps):
        t, s = 1 - n / steps, 1 - (n + 1) / steps
        probs, nxt = _softmax(table.at(t).numpy()), np.zeros(len(states))
        to_t, to_s, s_to_t = forward(1 - t), forward(1 - s), forward((1 - t) / (1 - s))
        for x_t, pi, mass in zip(states, probs, law, strict=True):
            rows = []
            for i in range(length):
                row = np.zeros(v)
                for b in range(v):
                    for a in range(v):
                        bayes = s_to_t[b, x_t[i]] * to_s[a, b] / to_t[a, x_t[i]]
                        row[b] += pi[i, a] * bayes
                rows.append(row if live[i] else np.eye(v)[0])
            nxt += mass * np.prod([rows[i][states[:, i]] for i in range(length)], 0)
        law = nxt
    return law


def gaussian_law(
    m: np.ndarray,
    c: np.ndarray,
    schedule: Callable[[float], tuple[float, float]],
    steps: int,
    eta: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the DDIM chain that starts at N(0, I) and uses the exact posterior
    mean of N(m, C).
    """
    eye = np.eye(len(m))
    mean, cov = np.zeros(len(m)), eye
    for n in range(steps):
        (a_t, b_t), (a_s, b_s) = schedule(1 - n / steps), schedule(1 - (n + 1) / steps)
        gain = a_t * c @ np.linalg.inv(a_t**2 * c + b_t**2 * eye)
        # DDPM's posterior variance of x_s given x_t and x_0, scaled by eta²
        var = eta**2 * (b_s**2 / b_t**2) * (b_t**2 - (a_t / a_s) ** 2 * b_s**2)
        back = math.sqrt(max(b_s**2 - var, 0.0)) / b_t
        # x_s = a_s x̂ + back (x_t − a_t x̂) + noise, with x̂ = m + gain (x_t − a_t m)
        slope = (a_s - back * a_t) * gain + back * eye
        shift = (a_s - back * a_t) * (m - a_t * gain @ m)
        mean, cov = slope @ mean + shift, slope @ cov @ slope.T + var * eye
    return mean, cov


# problems -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Problem:
    """A process, a reward and the exact target.

    Attributes:
        log_z: exact log Z of the (restricted) target.
        features: (B, K, *event) designs to (B, K, F) test functions.
        expected: (F,) their exact means under the target.
        space: hard constraints, or None.
    """

    process: Any
    reward: Reward
    alpha: float
    log_z: float
    features: Callable[[Tensor], Tensor]
    expected: Tensor
    space: DesignSpace | None = None
    p_pre: np.ndarray = field(default_factory=lambda: np.zeros(0))
    target: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def run(self, method: Any, shape: tuple[int, int], seed: int = 0) -> Samples:
        """Draw samples."""
        return method(
            self.process, self.reward, shape, rng=Streams(seed, range(shape[0])), space=self.space
        )


def target_paths(p: Problem, n: int, seed: int) -> list[Tensor]:
    """Draw whole trajectories from the target by rejection: (N, *event) at each of T + 1 times.

    N is what is left of n draws of the pretrained chain.
    """
    base = SMC(p.process, p.reward, p.alpha, value=None, selection=Keep())
    rng = Streams(seed, [0])
    state, _ = base.init((1, n), rng)
    path = [state.x[0]]
    for _ in range(len(p.process.times) - 1):
        state, _ = base.step(state, rng)
        path.append(state.x[0])
    log_w = state.log_w[0]
    if p.space is not None:
        log_w = torch.where(p.space.contains(state.x[0][None])[0], log_w, -torch.inf)
    kept = torch.log(rng.at("accept").uniform((1, n)))[0] < log_w - log_w.max()
    return [x[kept] for x in path]


def enumerated(
    process: Any, reward: Reward, alpha: float, p_pre: np.ndarray, space: DesignSpace | None = None
) -> Problem:
    """Tilt and restrict an enumerated p_pre."""
    letters, length = process.alphabet, process.length
    v = len(letters)
    full = torch.tensor(grid(v, length))
    r = reward(Designs(full[None], letters))[0].numpy()
    weight = p_pre * np.exp(r / alpha)
    if space is not None:
        weight = weight * np.array([not space.violations(s) for s in letters.decode(full)])
    z = weight.sum()
    target = weight / z
    common = torch.tensor(np.flatnonzero(target > 0.005))
    powers = v ** torch.arange(length - 1, -1, -1)

    def features(x: Tensor) -> Tensor:
        hot = torch.nn.functional.one_hot(x, v).double().flatten(-2)
        code = (x * powers).sum(-1)
        score = torch.tensor(np.where(np.isfinite(r), r, 0.0))[code]
        return torch.cat((hot, score[..., None], (code[..., None] == common).double()), -1)

    expected = (torch.tensor(target)[:, None] * features(full)).sum(0)
    return Problem(process, reward, alpha, math.log(z), features, expected, space, p_pre, target)


def masked(
    order: str = "random",
    *,
    length: int = 3,
    steps: int = 3,
    bias: float = 0.5,
    drift: float = 0.0,
    scale: float = 0.6,
    space: DesignSpace | None = None,
    reward: Reward | None = None,
) -> Problem:
    """An enumerable masked problem; `bias` and `drift` make the network inconsistent and
    dependent on time.
    """
    letters = ABC if space is None else space.alphabet
    blocks = () if space is None else space.blocks
    table = any_order_table(len(letters), length, 1, bias, drift)
    process = MaskedProcess(
        table,
        letters,
        length,
        steps,
        order=order,  # type: ignore[arg-type]
        takes_time=bool(drift),
        differentiable=True,
        blocks=blocks,
    )
    start = [len(letters)] * length
    if space is not None:
        start = letters.encode([space.fixed])[0].tolist()
    p_pre = masked_law(table, steps, order, start, blocks=blocks)
    reward = PairReward(length, len(letters), 11, scale) if reward is None else reward
    return enumerated(process, reward, 1.0, p_pre, space)


def uniform(
    *,
    length: int = 3,
    steps: int = 3,
    bias: float = 0.2,
    scale: float = 0.6,
    space: DesignSpace | None = None,
    reward: Reward | None = None,
) -> Problem:
    """An enumerable uniform problem with an inexact network."""
    letters = ABC if space is None else space.alphabet
    rng, v = np.random.default_rng(2), len(letters)
    joint = np.exp(rng.normal(size=v**length))
    sizes = (v**length, length, v)
    logits, drift = (
        torch.tensor(bias * rng.normal(size=sizes)),
        torch.tensor(bias * rng.normal(size=sizes)),
    )
    table = UniformTable(logits, drift, v, joint / joint.sum())
    process = UniformProcess(table, letters, length, steps, differentiable=True)
    reward = PairReward(length, v, 12, scale) if reward is None else reward
    return enumerated(process, reward, 1.0, uniform_law(table, steps), space)


def linear_gaussian(
    m: np.ndarray,
    c: np.ndarray,
    slope: np.ndarray,
    quad: np.ndarray,
    schedule: Any = None,
    *,
    steps: int = 4,
    eta: float = 1.0,
    alpha: float = 1.0,
    chunk: int | None = None,
    reward: Reward | None = None,
    constant: float = 0.0,
    event: tuple[int, ...] | None = None,
) -> Problem:
    """The exact denoiser of N(m, C) and the reward slope·x − x'Qx/2 + constant, in any dimension.

    `reward` is that function of designs of shape `event`, if it is not to be `Quadratic`.
    """
    schedule = VariancePreserving() if schedule is None else schedule
    dim = len(m)
    reward = Quadratic(slope, quad) if reward is None else reward
    event = (dim,) if event is None else event
    m_t, c_t, gains = torch.tensor(m), torch.tensor(c), dict[float, Tensor]()

    def denoiser(x: Tensor, t: float) -> Tensor:
        a, b = schedule(t)
        if t not in gains:
            eye = torch.eye(dim, dtype=torch.float64)
            gains[t] = a * c_t @ torch.linalg.inv(a * a * c_t + b * b * eye)
        return (m_t + (x.flatten(2) - a * m_t) @ gains[t].T).reshape(x.shape)

    process = GaussianProcess(denoiser, event, steps, schedule, eta, chunk=chunk)
    mean, cov = gaussian_law(m, c, schedule, steps, eta)
    precision = np.linalg.inv(cov)
    post = np.linalg.inv(precision + quad / alpha)
    h = precision @ mean + slope / alpha
    center = post @ h
    log_z = constant / alpha + 0.5 * (
        h @ center
        - mean @ precision @ mean
        - np.linalg.slogdet(cov)[1]
        + np.linalg.slogdet(post)[1]
    )
    second = post + np.outer(center, center)
    mean_r = constant + slope @ center - 0.5 * np.trace(quad @ second)

    def features(x: Tensor) -> Tensor:
        flat, r = x.flatten(2), reward.relaxed(x)[..., None]
        return torch.cat((flat, flat * flat, flat[..., :1] * flat[..., 1:2], r), -1)

    expected = torch.tensor(np.concatenate((center, np.diag(second), [second[0, 1]], [mean_r])))
    return Problem(process, reward, alpha, float(log_z), features, expected)


def gaussian(schedule: Any = None, *, eta: float = 1.0) -> Problem:
    """A linear-Gaussian problem in the plane with a linear-quadratic reward."""
    rng = np.random.default_rng(3)
    root = rng.normal(size=(2, 2))
    c = 0.3 * root @ root.T + 0.4 * np.eye(2)
    m = rng.normal(size=2)
    bend = rng.normal(size=(2, 2))
    quad = 0.2 * bend @ bend.T
    slope = 0.7 * rng.normal(size=2)
    return linear_gaussian(m, c, slope, quad, schedule, eta=eta)


@dataclass(frozen=True)
class Remembered:
    """What `PathTable` keeps: tokens (B, K, L), the code of their path (B, K), logits."""

    x: Tensor
    code: Tensor
    logits: Tensor

    def map(self, f: Callable[[Tensor], Tensor]) -> Remembered:
        return Remembered(f(self.x), f(self.code), f(self.logits))


@dataclass(frozen=True, eq=False)
class PathTable:
    """A network whose logits are any function of the letters and of the order in which they came.

    Attributes:
        logits: ((L · V + 1)^L, L, V), one row per path: its reveals, position · V + letter + 1, are
            the digits of its code.
        v: number of letters.
    """

    logits: Tensor
    v: int

    def __call__(self, x: Tensor, t: float) -> Tensor:
        lead = x.shape[:-1]
        kept = self.advance(x.reshape(1, -1, x.shape[-1]), None)
        return kept.logits.view(*lead, *kept.logits.shape[2:])

    def advance(self, x: Tensor, before: Remembered | None) -> Remembered:
        old = torch.full_like(x, self.v) if before is None else before.x
        code = torch.zeros_like(x[..., 0]) if before is None else before.code
        for i in range(x.shape[-1]):
            longer = code * (x.shape[-1] * self.v + 1) + i * self.v + x[..., i] + 1
            code = torch.where(x[..., i] != old[..., i], longer, code)
        # a path that cannot be is no row of the table
        return Remembered(x, code, self.logits[code % len(self.logits)])

    def ask(self, before: Remembered, at: Tensor) -> tuple[Tensor, None]:
        wide = at[..., None, None].expand(*at.shape, 1, self.v)
        return before.logits.gather(2, wide)[:, :, 0], None

    def tell(self, x: Tensor, before: Remembered, at: Tensor, made: None) -> Remembered:
        return self.advance(x, before)

    def decode(self, x: Tensor, place: Any, choose: Any) -> Any:
        rows, kept = torch.arange(len(x)), self.advance(x[None], None)
        for i in range(int((x == self.v).sum(-1).max())):
            at, x = place(i, x), x.clone()
            x[rows, at] = choose(i, at, kept.logits[0, rows, at])
            kept = self.advance(x[None], kept)
            yield x

    def follow(self, x: Tensor, order: Tensor) -> Any:
        y, found = x.clone(), []
        y[:, order] = self.v
        kept = self.advance(y[None], None)
        for i in order.tolist():
            found.append(kept.logits[0, :, i])
            y = y.clone()
            y[:, i] = x[:, i]
            kept = self.advance(y[None], kept)
        yield slice(None), torch.stack(found, 1)


def path_law(table: PathTable, start: Sequence[int]) -> np.ndarray:
    """p_pre over all V^L designs of a chain that reveals one random position a step."""
    v, length = table.v, table.logits.shape[1]
    probs = _softmax(table.logits.numpy())
    base, code, law = length * v + 1, 0, np.zeros(v**length)
    for i, a in enumerate(start):
        code = code * base + i * v + a + 1 if a < v else code
    states = [(tuple(start), code, 1.0)]
    while states:
        state, code, mass = states.pop()
        open_ = [i for i, a in enumerate(state) if a == v]
        if not open_:
            law[int(np.dot(state, v ** np.arange(length - 1, -1, -1)))] += mass
        for i, a in itertools.product(open_, range(v)):
            child = (*state[:i], a, *state[i + 1 :])
            p = mass * probs[code, i, a] / len(open_)
            states.append((child, code * base + i * v + a + 1, p))
    return law


def remembering(
    *, length: int = 3, scale: float = 0.45, spread: float = 0.7, space: DesignSpace | None = None
) -> Problem:
    """An enumerable masked problem whose network remembers the order of its letters."""
    letters = ABC if space is None else space.alphabet
    v, rng = len(letters), np.random.default_rng(8)
    size = ((length * v + 1) ** length, length, v)
    table = PathTable(torch.tensor(spread * rng.normal(size=size)), v)
    process = MaskedProcess(table, letters, length, length)
    start = [v] * length if space is None else letters.encode([space.fixed])[0].tolist()
    reward = PairReward(length, v, 13, scale)
    return enumerated(process, reward, 1.0, path_law(table, start), space)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "masked-random": lambda: masked("random"),
    "masked-remembering": remembering,
    "masked-parallel": lambda: masked("parallel", bias=0.3, drift=0.5),
    "uniform": uniform,
    "gaussian-vp": gaussian,
    "gaussian-flow": lambda: gaussian(RectifiedFlow(), eta=0.5),
}


def space(
    fixed: str | None = None,
    allowed: Sequence[str] | None = None,
    wild_type: str | None = None,
    budget: int | None = None,
    length: int = 3,
) -> DesignSpace:
    """Build a design space over ABC."""
    length = length if fixed is None else len(fixed)
    some = [Residues(str(i), letters) for i, letters in enumerate(allowed or (), 1)]
    most = () if budget is None else (MaxMutations(budget),)
    return DesignSpace(ABC, length, (*some, *most), fixed or "", wild_type)


def constrained(length: int = 4, cut: int | None = None, **constraints: Any) -> DesignSpace:
    """Build a design space over AKD; `cut` ends chain A and begins chain B after a position."""
    numbering = None
    if cut is not None:
        chains = ("A",) * cut + ("B",) * (length - cut)
        numbers = [*range(1, cut + 1), *range(1, length - cut + 1)]
        numbering = Numbering(chains, tuple(map(str, numbers)))
    limit = constraints.pop("joint_limit", None)
    built = DesignSpace.build(AKD, length, numbering=numbering, **constraints)
    return built if limit is None else replace(built, joint_limit=limit)


# every constraint alone, then together; `joint_limit` 0 splits them: h is approximate then
CONSTRAINED: dict[str, Callable[[], DesignSpace]] = {
    "run": lambda: constrained(max_homopolymer=1),
    "run-chains": lambda: constrained(max_homopolymer=1, cut=2),
    "composition-max": lambda: constrained(composition={"A": {"max": 0.3}}),
    "composition-min": lambda: constrained(composition={"KD": {"min": 0.7}}),
    "composition-both": lambda: constrained(composition={"K": {"min": 0.25, "max": 0.5}}),
    "forbid": lambda: constrained(forbid=["K.D", "AA"]),
    "forbid-ends": lambda: constrained(forbid=["^A", "D$"], cut=2),
    "charge-max": lambda: constrained(net_charge={"max": -1}),
    "charge-both": lambda: constrained(net_charge={"min": 0, "max": 1}),
    "tie": lambda: constrained(tie=[[1, 4]]),
    "tie-fixed": lambda: constrained(tie=[[1, 3]], fix={1: "K"}),
    "tie-budget": lambda: constrained(tie=[[2, 3]], wild_type="AKDA", max_mutations=2),
    "tie-charge": lambda: constrained(tie=[[1, 2]], net_charge={"min": 1}),
    "copies": lambda: constrained(homo_oligomer=[["A", "B"]], forbid=["AA|DK"], cut=2),
    "tie-forbid": lambda: constrained(tie=[[1, 3]], forbid=["A.A", "DK"]),
    "all": lambda: constrained(
        wild_type="AKDA", max_mutations=3, max_homopolymer=2, composition={"A": {"max": 0.5}},
        net_charge={"min": -1}, forbid=["KD"], residues={"2": {"omit": "A"}},
    ),
    "all-split": lambda: constrained(
        wild_type="AKDA", max_mutations=3, max_homopolymer=2, composition={"A": {"max": 0.5}},
        net_charge={"min": -1}, forbid=["KD"], residues={"2": {"omit": "A"}}, joint_limit=0,
    ),
    "all-tied": lambda: constrained(
        wild_type="AKDA", max_mutations=3, tie=[["A1", "B2"]], composition={"K": {"max": 0.5}},
        net_charge={"max": 1}, forbid=["DD"], cut=2, joint_limit=0,
    ),
}  # fmt: skip


# the law ------------------------------------------------------------------------------------------


def assert_exact(samples: Samples, problem: Problem, *, error: float = 0.01) -> None:
    """Law 1: E[Ẑ] = Z, and the pooled weighted samples follow the target.

    Ẑ_b Σ_k w_bk f(x_bk) is unbiased for Z·E*[f], so Ẑ_b Σ_k w_bk (f − E*[f]) has mean zero for
    every test function f: a plain test over islands, without the bias of a ratio.
    """
    assert samples.log_z is not None
    assert not torch.isnan(samples.log_z).any()
    ratio = torch.exp(samples.log_z - problem.log_z)
    n = ratio.numel()
    se = float(ratio.std()) / math.sqrt(n)
    assert se <= error, f"one standard error is {se:.4f}; use more islands"
    bias = float(ratio.mean()) - 1
    assert abs(bias) <= FALSE_ALARM * se, (
        f"E[Ẑ]/Z - 1 = {bias:.4f}, {bias / se:.1f} standard errors"
    )

    top = samples.log_w.amax(-1, keepdim=True)
    w = torch.exp(samples.log_w - torch.where(torch.isfinite(top), top, 0.0))
    w = w / w.sum(-1, keepdim=True).clamp(min=1e-300) * ratio[:, None]
    gap = (w[..., None] * (problem.features(samples.designs.x) - problem.expected)).sum(1)
    error_f = gap.std(0) / math.sqrt(n)
    off = gap.mean(0).abs() / error_f.clamp(min=1e-12)
    worst = int(off.argmax())
    assert float(off.max()) <= FALSE_ALARM, (
        f"test function {worst}: off by {float(gap.mean(0)[worst]):.4f}, "
        f"{float(off[worst]):.1f} standard errors"
    )
    if problem.space is not None:
        alive = w > 0
        assert bool(problem.space.contains(samples.designs.x)[alive].all())


# the Markov testbed -------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ForwardBackward:
    """The exact any-order denoiser of a Markov chain: logits of p(x_i | revealed letters), in
    float64.
    """

    initial: Tensor
    transition: Tensor

    def __call__(self, x: Tensor, t: float) -> Tensor:
        v, (*shape, length) = len(self.initial), x.shape
        flat = x.reshape(-1, length)
        hot = torch.nn.functional.one_hot(flat, v + 1)
        seen = (hot[..., :v] + hot[..., v:]).double().transpose(0, 1).contiguous()
        n = flat.shape[0]
        left = torch.empty(length, n, v, dtype=torch.float64)
        message = self.initial.expand(n, v)
        for i in range(length):
            left[i] = message
            message = (message * seen[i]) @ self.transition
            message = message / message.sum(-1, keepdim=True)
        message = torch.ones(n, v, dtype=torch.float64)
        for i in reversed(range(length)):
            left[i] *= message
            message = (message * seen[i]) @ self.transition.T
            message = message / message.sum(-1, keepdim=True)
        return torch.log(left).transpose(0, 1).reshape(*shape, length, v)


class ChainReward(Reward):
    """Σ_i additive[x_i] + Σ_i pair[x_i, x_{i+1}], multilinear."""

    name = "chain"
    differentiable = True

    def __init__(self, additive: Tensor, pair: Tensor) -> None:
        self.additive, self.pair = additive, pair

    def __call__(self, designs: Designs) -> Tensor:
        x = designs.x
        return self.additive[x].sum(-1) + self.pair[x[..., :-1], x[..., 1:]].sum(-1)

    def relaxed(self, x: Tensor) -> Tensor:
        r = (x @ self.additive).sum(-1)
        return r + ((x[..., :-1, :] @ self.pair) * x[..., 1:, :]).sum((-1, -2))


class Zero(Reward):
    """Nothing to gain: Z is then P(A)."""

    name = "zero"
    differentiable = True

    def __call__(self, designs: Designs) -> Tensor:
        return torch.zeros(designs.shape, dtype=torch.float64)

    def relaxed(self, x: Tensor) -> Tensor:
        return 0.0 * x.sum((-1, -2))


@dataclass(frozen=True, eq=False)
class Testbed:
    """A Markov chain over 20 letters with an additive plus nearest-neighbor reward: the tilted
    law is a Markov chain too.
    """

    __test__ = False
    initial: np.ndarray
    transition: np.ndarray
    additive: np.ndarray
    pair: np.ndarray
    length: int
    alphas: np.ndarray
    log_zs: np.ndarray
    mean_rewards: np.ndarray

    @classmethod
    def load(cls, path: Path = TESTBED, length: int | None = None) -> Testbed:
        """Read the file; another length is the same chain, shorter or longer."""
        d = np.load(path)
        return cls(
            d["initial"],
            d["transition"],
            d["additive"],
            d["pair"],
            int(d["length"]) if length is None else length,
            d["alphas"],
            d["log_z"],
            d["mean_reward"],
        )

    @cached_property
    def process(self) -> MaskedProcess:
        """One reveal per step, no time-discretization error: the law of the chain is the Markov
        chain itself.
        """
        network = ForwardBackward(torch.tensor(self.initial), torch.tensor(self.transition))
        return MaskedProcess(
            network, PROTEIN, self.length, self.length, order="random", name="markov"
        )

    @cached_property
    def reward(self) -> ChainReward:
        """The reward."""
        return ChainReward(torch.tensor(self.additive), torch.tensor(self.pair))

    def _factors(self, alpha: float) -> tuple[np.ndarray, np.ndarray]:
        """Log-weights of the first letter and of each step."""
        first = np.log(self.initial) + self.additive / alpha
        return first, np.log(self.transition) + (self.pair + self.additive[None]) / alpha

    def _messages(self, alpha: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        first, step = self._factors(alpha)
        left, right = [first], [np.zeros(len(first))]
        for _ in range(self.length - 1):
            left.append(np.logaddexp.reduce(left[-1][:, None] + step, 0))
            right.append(np.logaddexp.reduce(step + right[-1][None], 1))
        return np.array(left), np.array(right[::-1]), step

    def log_z(self, alpha: float) -> float:
        """Exact log Z."""
        return float(np.logaddexp.reduce(self._messages(alpha)[0][-1]))

    def marginals(self, alpha: float) -> np.ndarray:
        """(L, V) letter probabilities of the target."""
        left, right, _ = self._messages(alpha)
        log_p = left + right
        return np.exp(log_p - np.logaddexp.reduce(log_p, 1)[:, None])

    def mean_reward(self, alpha: float) -> float:
        """E[r] under the target."""
        left, right, step = self._messages(alpha)
        pairs = left[:-1, :, None] + step[None] + right[1:, None, :]
        pairs = np.exp(pairs - np.logaddexp.reduce(left[-1]))
        return float((self.marginals(alpha) @ self.additive).sum() + (pairs * self.pair).sum())

    def restricted_log_z(self, alpha: float, wild: np.ndarray, budget: int) -> float:
        """Exact log Σ over designs within `budget` mutations of `wild`; alpha = inf gives log
        P(A).
        """
        first, step = self._factors(alpha)
        v = len(first)
        table = np.full((v, budget + 2), -np.inf)
        for a in range(v):
            table[a, int(a != wild[0])] = first[a]
        for i in range(1, self.length):
            moved = np.logaddexp.reduce(table[:, None, :] + step[:, :, None], 0)
            table = np.full_like(table, -np.inf)
            for a in range(v):
                if a == wild[i]:
                    table[a] = moved[a]
                else:
                    table[a, 1:] = moved[a, :-1]
            table[:, budget + 1] = -np.inf
        return float(np.logaddexp.reduce(table[:, : budget + 1], None))

    def natural(self, seed: int = 0) -> np.ndarray:
        """A natural sequence: a draw from the prior, (L,)."""
        rng = np.random.default_rng(seed)
        x = [rng.choice(20, p=self.initial)]
        while len(x) < self.length:
            x.append(rng.choice(20, p=self.transition[x[-1]]))
        return np.array(x)

    def run(
        self,
        method: Any,
        shape: tuple[int, int] = (64, 64),
        seed: int = 0,
        reward: Reward | None = None,
        space: DesignSpace | None = None,
    ) -> list[Samples]:
        """Run (B, K) in blocks of islands that fit the cache; the split changes nothing (law 4)."""
        islands, k = shape
        size, reward = max(1, 1024 // k), self.reward if reward is None else reward
        blocks = [range(i, min(i + size, islands)) for i in range(0, islands, size)]
        return [
            method(self.process, reward, (len(b), k), rng=Streams(seed, b), space=space)
            for b in blocks
        ]

    def budget(self, wild: np.ndarray, mutations: int) -> DesignSpace:
        """The design space of a mutation budget."""
        letters = "".join(PROTEIN.letters[a] for a in wild)
        return DesignSpace(PROTEIN, self.length, (MaxMutations(mutations),), wild_type=letters)


def replaced(problem: Problem, **changes: Any) -> Problem:
    """The same problem with another process setting that leaves its law alone."""
    return replace(problem, process=replace(problem.process, **changes))
