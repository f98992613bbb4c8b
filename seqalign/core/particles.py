"""The state of a run, what a person looks at while it runs, and what comes back.

`Particles` is all that the next step needs; `gather` and `branch` move every field at once, so that
nothing can go stale after a selection.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from seqalign.core.process import over_tensors
from seqalign.core.resampling import ess, systematic

__all__ = ["Particles", "Samples", "Step", "join", "log_mean_exp"]


def log_mean_exp(log_w: Tensor, dim: int = -1) -> Tensor:
    """Return log mean exp over a dimension; -inf where all are -inf."""
    return torch.logsumexp(log_w, dim) - math.log(log_w.shape[dim])


@dataclass(frozen=True)
class Particles:
    """B islands of K weighted particles at times[step].

    Attributes:
        step: index into the process's times.
        x: states (B, K, *event).
        log_w: log-weights since the last resampling, (B, K) float64.
        log_twist: log of the product of all potentials so far, (B, K).
        log_h: log look-ahead P(x_0 in the design space | x), (B, K).
        value: v/alpha, (B, K); a stand-in where it failed, NaN while nothing of an island is known.
        memo: what the potential remembers, (B, K).
        parent: index of each particle's parent at the last selection, (B, K).
        lam: tempering, (B,).
        log_z: log of the normalizing constant collected at resamplings, (B,).
        failed_value: whether the value was no number at the last visit, (B, K) bool.
        failed_gradient: whether the score was none there, so that nothing guides, (B, K) bool.
        posterior: p(x_0 | x), or None before it is needed.
        guide: the posterior conditioned on the design space; the posterior itself without one.
        score: gradient of v/alpha for the proposal, (B, K, *event[, V + 1]), at open positions
            alone (B, K, m, V), or None.
        reward: raw reward of finished designs, (B, K), or None before the end.
        order: the step at which each position was revealed, (B, K, L), 0 if it is open or was
            given; None if no move asks.
        odds: log of the base probability with which it was, (B, K, L), 0 if it is open or was
            given; None if no move asks.
    """

    step: int
    x: Tensor
    log_w: Tensor
    log_twist: Tensor
    log_h: Tensor
    value: Tensor
    memo: Tensor
    parent: Tensor
    lam: Tensor
    log_z: Tensor
    failed_value: Tensor
    failed_gradient: Tensor
    posterior: Any = None
    guide: Any = None
    score: Tensor | None = None
    reward: Tensor | None = None
    order: Tensor | None = None
    odds: Tensor | None = None

    @cached_property
    def ess(self) -> Tensor:
        """Effective sample size per island, a count, (B,)."""
        return ess(self.log_w)

    def _map(self, f: Callable[[Tensor], Tensor]) -> Particles:
        moved: dict[str, Any] = {}
        # the state, its posterior and its guide share tensors, and still do afterwards; a tensor's
        # hash is its identity
        f = cache(f)
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name in ("posterior", "guide"):
                moved[item.name] = None if value is None else value.map(f)
            elif isinstance(value, Tensor) and value.dim() >= 2:
                moved[item.name] = f(value)
        if self.guide is self.posterior:
            moved["guide"] = moved["posterior"]
        return replace(self, **moved)

    def gather(self, ancestors: Tensor) -> Particles:
        """Return the particles at (B, N) ancestors; every per-particle field moves."""
        b, k = self.x.shape[:2]
        rows = (ancestors + k * torch.arange(b, device=ancestors.device)[:, None]).flatten()
        return self._map(lambda v: v.flatten(0, 1).index_select(0, rows).view(b, -1, *v.shape[2:]))

    def branch(self, m: int) -> Particles:
        """Copy each particle m times, (B, K·m), copies side by side."""
        return self if m == 1 else self._map(lambda v: v.repeat_interleave(m, 1))

    def take(self, islands: Tensor) -> Particles:
        """Return some islands, by row."""
        moved = self._map(lambda v: v[islands])
        return replace(moved, lam=self.lam[islands], log_z=self.log_z[islands])


@dataclass(frozen=True)
class Step:
    """One row of a run's trace, taken before selection; (B,) each unless said.

    Attributes:
        step: index into the process's times.
        ess: effective sample size as a fraction of the particles.
        lam: tempering.
        log_z: running estimate of log Z.
        value_mean: mean of v/alpha.
        value_max: largest v/alpha.
        ancestors: (B, K) parents chosen at this step, or None if nothing moved.
        network_calls: particles the network saw in this step, all islands together; a backward pass
            counts as two.
        reward_calls: designs the reward scored in this step, relaxed ones too.
        accepted: fraction of the move's proposals that were accepted, NaN if there were none; None
            without a move.
        failed_values: share of the particles with weight whose value was no number when they were
            last visited (at the end before it); None if it was not counted.
        failed_gradients: share of them whose gradient was none, so that nothing guided them.
    """

    step: int
    ess: Tensor
    lam: Tensor
    log_z: Tensor
    value_mean: Tensor
    value_max: Tensor
    ancestors: Tensor | None
    network_calls: int
    reward_calls: int
    accepted: Tensor | None = None
    failed_values: Tensor | None = None
    failed_gradients: Tensor | None = None

    def cpu(self) -> Step:
        """Return the same on the CPU."""
        return over_tensors(self, Tensor.cpu)

    def island(self, row: int) -> Step:
        """Return one island, by row; calls, counted together, are shared out evenly."""
        n, one = len(self.ess), over_tensors(self, lambda v: v[row : row + 1])
        network, reward = ((c + n - 1 - row) // n for c in (self.network_calls, self.reward_calls))
        return replace(one, network_calls=network, reward_calls=reward)

    @classmethod
    def of(
        cls,
        moved: Particles,
        chosen: Particles | None,
        calls: tuple[int, int],
        accepted: Tensor | None = None,
    ) -> Step:
        """Describe particles before selection, what was chosen of them, and what they cost."""
        alive = ~torch.isneginf(moved.log_w)
        count = alive.sum(-1).clamp(min=1).double()
        return cls(
            step=moved.step,
            ess=moved.ess / moved.log_w.shape[1],
            lam=moved.lam,
            log_z=moved.log_z + log_mean_exp(moved.log_w),
            value_mean=moved.value.mean(-1),
            value_max=moved.value.amax(-1),
            ancestors=None if chosen is None or chosen is moved else chosen.parent,
            network_calls=calls[0],
            reward_calls=calls[1],
            accepted=accepted,
            failed_values=(moved.failed_value & alive).sum(-1) / count,
            failed_gradients=(moved.failed_gradient & alive).sum(-1) / count,
        )


@dataclass(frozen=True)
class Samples:
    """Weighted designs of B islands, or what a run that was stopped before its end goes on from.

    Attributes:
        designs: (B, K) designs; None before the end.
        rewards: (B, K) rewards; NaN before the end.
        log_w: (B, K) log-weights; zero for methods that are not consistent.
        log_z: (B,) estimates of log Z, or None for methods that have none: a biased one, a chain.
        trace: one `Step` per step.
        x: (B, K, *event) states that the designs were decoded from; None if they were not kept (a
            run folder keeps images and not their latents).
        particles: the state before the end, which `start` takes to go on with the same bits; None
            at the end.
    """

    designs: Any
    rewards: Tensor
    log_w: Tensor
    log_z: Tensor | None
    trace: tuple[Step, ...] = ()
    x: Tensor | None = None
    particles: Particles | None = None

    @property
    def finished(self) -> bool:
        """Whether the run went to its end, so that there are designs."""
        return self.designs is not None

    def cpu(self) -> Samples:
        """Return finished samples on the CPU: an accelerator keeps nothing of them."""
        if not self.finished or self.log_w.device.type == self.designs.x.device.type == "cpu":
            return self
        designs = over_tensors(self.designs, Tensor.cpu)
        there = replace(self, designs=designs, trace=tuple(step.cpu() for step in self.trace))
        return over_tensors(there, Tensor.cpu)

    def take(self, islands: slice) -> Samples:
        """Return some islands of finished samples, without the trace of all."""
        return Samples(
            self.designs[islands, slice(None)],
            self.rewards[islands],
            self.log_w[islands],
            None if self.log_z is None else self.log_z[islands],
        )

    def island(self, row: int) -> Samples:
        """Return one island of finished samples, by row, with its part of the trace."""
        x = None if self.x is None else self.x[row : row + 1]
        trace = tuple(step.island(row) for step in self.trace)
        return replace(self.take(slice(row, row + 1)), trace=trace, x=x)

    @property
    def network_calls(self) -> int:
        """Network calls of the whole run."""
        return sum(s.network_calls for s in self.trace)

    @property
    def reward_calls(self) -> int:
        """Reward calls of the whole run."""
        return sum(s.reward_calls for s in self.trace)

    @property
    def weights(self) -> Tensor:
        """Weights (B, K) of the islands pooled by their log Z; they sum to 1 over everything."""
        log_w = self.log_w - torch.log(torch.tensor(float(self.log_w.shape[1])))
        if self.log_z is not None:
            inner = log_w - torch.logsumexp(log_w, -1, keepdim=True).nan_to_num(neginf=0.0)
            log_w = inner + self.log_z[:, None]
        total = torch.logsumexp(log_w.flatten(), 0)
        if torch.isneginf(total):
            return torch.zeros_like(log_w)
        return torch.exp(log_w - total)

    @property
    def ess(self) -> Tensor:
        """Effective sample size per island, a count."""
        return ess(self.log_w)

    def mean(self, values: Tensor) -> Tensor:
        """Return the weighted mean over all islands of (B, K) values."""
        w = self.weights
        return torch.where(w > 0, w * values, 0.0).sum()

    def best(self, n: int = 1) -> Tensor:
        """Return (n, 2) island and particle of the n highest rewards, equal designs once."""
        if self.designs is None:
            step = None if self.particles is None else self.particles.step
            raise ValueError(
                f"This run was stopped at step {step} and has no designs yet. Go on with start = "
                f"samples.particles."
            )
        order = self.rewards.flatten().argsort(dim=0, descending=True, stable=True)
        flat = self.designs.x.flatten(0, 1)
        seen: set[bytes] = set()
        picks: list[int] = []
        for i in order.tolist():
            key = flat[i].cpu().contiguous().numpy().tobytes()
            if key not in seen and float(self.rewards.flatten()[i]) > -torch.inf:
                seen.add(key)
                picks.append(i)
            if len(picks) == n:
                break
        k = self.rewards.shape[1]
        return torch.tensor([[i // k, i % k] for i in picks], dtype=torch.int64).reshape(-1, 2)

    def resample(self, n: int, u: Tensor) -> Tensor:
        """Return (n, 2) island and particle of n equally weighted draws; u (1, n) uniforms."""
        picks = systematic(torch.log(self.weights.flatten())[None], u[:, :n])[0]
        k = self.rewards.shape[1]
        return torch.stack((picks // k, picks % k), -1)


def join(parts: Sequence[Samples]) -> Samples:
    """Put islands side by side, (B, K)."""
    first, steps = parts[0], []
    stay = torch.arange(first.log_w.shape[1])[None]
    per_island = ("ess", "lam", "log_z", "value_mean", "value_max")
    shares = ("accepted", "failed_values", "failed_gradients")
    for rows in zip(*(p.trace for p in parts), strict=True):
        known = [(name, [getattr(s, name) for s in rows]) for name in shares]
        moved = [stay if s.ancestors is None else s.ancestors for s in rows]
        steps.append(
            Step(
                step=rows[0].step,
                ancestors=torch.cat(moved) if any(s.ancestors is not None for s in rows) else None,
                network_calls=sum(s.network_calls for s in rows),
                reward_calls=sum(s.reward_calls for s in rows),
                **{name: torch.cat(v) for name, v in known if all(s is not None for s in v)},
                **{name: torch.cat([getattr(s, name) for s in rows]) for name in per_island},
            )
        )
    log_z = [p.log_z for p in parts if p.log_z is not None]
    states = [p.x for p in parts if p.x is not None]
    designs = None
    if first.finished:
        prompts = first.designs.prompts and tuple(t for p in parts for t in p.designs.prompts)
        x = torch.cat([p.designs.x for p in parts])
        designs = replace(first.designs, x=x, prompts=prompts)
    return Samples(
        designs,
        torch.cat([p.rewards for p in parts]),
        torch.cat([p.log_w for p in parts]),
        torch.cat(log_z) if len(log_z) == len(parts) else None,
        tuple(steps),
        torch.cat(states) if len(states) == len(parts) else None,
    )
