"""Whether a sampler was well: numbers from a finished run, and what to change where it was not.

Everything is read off `Samples`, their trace included; nothing is drawn or called again. Only
methods with weights can be told from their ancestors, lam and log Ẑ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from seqalign.core.particles import Samples
from seqalign.core.potential import Difference

__all__ = ["Finding", "Health", "examine"]

# few ancestors alone are no harm, since their descendants may part again; few designs with them are
ROOTS = 0.1
# fewer different designs by weight than a quarter of the particles: most of the work was for copies
DIFFERENT = 0.25
# hardly more than one design, whatever the number of particles
ONE = 1.5
# below a tenth of the particles, weighted means follow single designs
ESS = 0.1
# with no hindrance lam comes close to 1 by itself; below half of the way the last step decides
LAM = 0.5
# nats; chains of noisy estimates of Z do best with 0.9 to 1.8 (Doucet, Pitt, Deligiannidis & Kohn,
# Biometrika 2015; Sherlock, Thiery, Roberts & Rosenthal, Annals of Statistics 2015); with more, a
# pool follows its luckiest island
SPREAD = 1.5
# any step at which nothing is known steers nothing; a few at the start are no harm
UNKNOWN = 0.05
# a value fails where a design cannot be scored, which happens; a gradient by a reward's mistake
UNGUIDED = 0.01
# below, a hundred moves change one particle or two, and each costs a network call or more
ACCEPTED = 0.02
# where resampling as rare as this still leaves copies, rarer resampling is no cure
RARE = 0.3

Number = float | None


@dataclass(frozen=True)
class Finding:
    """What is wrong, by a name that stays, and in a sentence that names settings that cure it."""

    what: str
    sentence: str


@dataclass(frozen=True)
class Health:
    """How well a run was; what cannot be told of a method is None.

    Attributes:
        particles: per island.
        distinct: different designs with weight, per island.
        different: effective number of different designs by their weights, per island; of designs
            in real numbers, of their ancestors half-way.
        roots: first particles with living descendants, per island.
        ess: effective sample size at the end, as a fraction, per island.
        lam: tempering before the last step, per island.
        spread: standard deviation of log Ẑ in nats over the islands of a target, per target.
        largest: weight of the heaviest island in the pool of its target, per target.
        unknown: share of steps before the end at which no value of an island was known.
        failed_values: share of the particles on the way whose value was no number, the neighbors'
            standing in.
        failed_gradients: share of them whose gradient was none, so that nothing guided them.
        accepted: mean accepted fraction of moves.
        findings: what is wrong, the gravest first.
    """

    particles: int
    distinct: tuple[int, ...]
    different: tuple[float, ...]
    roots: tuple[int, ...] | None = None
    ess: tuple[float, ...] | None = None
    lam: tuple[float, ...] | None = None
    spread: tuple[Number, ...] | None = None
    largest: tuple[Number, ...] | None = None
    unknown: Number = None
    failed_values: Number = None
    failed_gradients: Number = None
    accepted: Number = None
    findings: tuple[Finding, ...] = ()

    @property
    def sentences(self) -> tuple[str, ...]:
        """What to tell a person."""
        return tuple(f.sentence for f in self.findings) or ("The sampler looks healthy.",)


def examine(samples: Samples, method: Any, replicates: int | None = None) -> Health:
    """Return how well a finished run of a method was.

    Args:
        samples: (B, K), islands side by side.
        method: that drew them; its own fields alone are proposed as cures.
        replicates: how many islands in a row share a target; None for all. Only those are compared.

    Raises:
        ValueError: the run was stopped before its end, or islands are left over.
    """
    if not samples.finished:
        raise ValueError(
            "A run that was stopped before its end has no health yet; go on with start = "
            "samples.particles."
        )
    samples = samples.cpu()
    islands, k = samples.log_w.shape
    replicates = islands if replicates is None else replicates
    if replicates < 1 or islands % replicates:
        raise ValueError(f"{islands} islands are no multiple of {replicates} per target.")
    x, log_w = samples.designs.x.flatten(2), samples.log_w
    kinds = x
    if x.is_floating_point():
        # no two pictures are equal; those that part in the second half vary one composition
        kinds = _lines(samples, len(samples.trace) // 2)[..., None]
    distinct = [_weights(*row) for row in zip(x, log_w, strict=True)]
    different = [_weights(*row) for row in zip(kinds, log_w, strict=True)]
    early = samples.trace[:-1]
    silent = [~torch.isfinite(s.value_mean) for s in early]
    numbers: dict[str, Any] = {
        "particles": k,
        "distinct": tuple(len(w) for w in distinct),
        "different": tuple(1 / sum(v * v for v in w) if w else 0.0 for w in different),
        "unknown": float(torch.cat(silent).double().mean()) if silent else None,
        "failed_values": _mean([s.failed_values for s in early]),
        "failed_gradients": _mean([s.failed_gradients for s in early]),
        "accepted": _mean([s.accepted for s in samples.trace]),
    }
    if samples.log_z is not None:
        pools = samples.log_z.split(replicates)
        roots = _lines(samples)[..., None]
        ess = (samples.ess / k).nan_to_num(nan=0.0)
        numbers |= {
            "roots": tuple(len(_weights(*row)) for row in zip(roots, log_w, strict=True)),
            "ess": tuple(ess.tolist()),
            "lam": tuple(early[-1].lam.tolist()) if len(early) > 1 else None,
            "spread": tuple(_spread(pool) for pool in pools),
            "largest": tuple(_largest(pool) for pool in pools),
        }
    health = Health(**numbers)
    return replace(health, findings=tuple(_findings(health, method)))


# numbers ------------------------------------------------------------------------------------------


def _weights(kinds: Tensor, log_w: Tensor) -> list[float]:
    """Return what each different row of kinds (K, n) weighs together; nothing where it is 0."""
    weight: dict[bytes, float] = {}
    rows = kinds.contiguous().numpy()
    for row, w in zip(rows, torch.softmax(log_w, -1).nan_to_num().tolist(), strict=True):
        if w > 0:
            weight[row.tobytes()] = weight.get(row.tobytes(), 0.0) + w
    return list(weight.values())


def _lines(samples: Samples, begin: int = 0) -> Tensor:
    """Return which particle before row `begin` of the trace each one descends from, (B, K)."""
    lines = torch.arange(samples.log_w.shape[1]).expand_as(samples.log_w)
    for step in samples.trace[begin:]:
        if step.ancestors is not None:
            lines = lines.gather(1, step.ancestors)
    return lines


def _mean(shares: Sequence[Tensor | None]) -> Number:
    """Return the mean of what is known."""
    known = torch.cat([torch.empty(0), *(s for s in shares if s is not None)])
    known = known[torch.isfinite(known)]
    return float(known.mean()) if known.numel() else None


def _spread(log_z: Tensor) -> Number:
    known = log_z[torch.isfinite(log_z)]
    return float(known.std()) if len(known) > 1 else None


def _largest(log_z: Tensor) -> Number:
    alone = len(log_z) < 2 or not bool(torch.isfinite(log_z).any())
    return None if alone else float(torch.softmax(log_z, 0).max())


# findings -----------------------------------------------------------------------------------------


def _findings(health: Health, method: Any) -> Iterator[Finding]:
    """Say what is wrong, the gravest first."""
    grave = _dead, _unguided, _stalled, _collapsed, _copies, _light, _apart
    for find in (*grave, _unknown, _failed, _refused):
        sentence = find(health, method)
        if sentence is not None:
            yield Finding(find.__name__.removeprefix("_"), sentence)


def _where(sick: Sequence[bool]) -> str:
    return f"in {sum(sick)} of {len(sick)} islands" if len(sick) > 1 else "in the one island"


def _worst(values: Sequence[float], sick: Sequence[bool]) -> float:
    return min(v for v, bad in zip(values, sick, strict=True) if bad)


def _held(method: Any) -> bool:
    """Return whether the weights may hold lam back."""
    return bool(getattr(getattr(method, "tempering", None), "adaptive", False))


def _dead(health: Health, method: Any) -> str | None:
    dead = [n == 0 for n in health.distinct]
    if not any(dead):
        return None
    return (
        f"No design has weight {_where(dead)}: a reward or a constraint refused all. Raise "
        f"sampler.particles, or loosen constraints."
    )


def _stalled(health: Health, method: Any) -> str | None:
    stalled = [lam < LAM for lam in health.lam or ()]
    if health.lam is None or not _held(method) or not any(stalled):
        return None
    ess = getattr(method.tempering, "ess", None)
    lower = "R" if ess is None else f"Lower sampler.tempering.ess (now {ess:g}), or r"
    return (
        f"Tempering stalled {_where(stalled)}: lam was {_worst(health.lam, stalled):.2g} before "
        f"the last step, where the rest of the reward came at once. {lower}aise sampler.alpha."
    )


def _collapsed(health: Health, method: Any) -> str | None:
    if health.roots is None or health.particles == 1:
        return None
    few, kinds = max(1.0, ROOTS * health.particles), max(ONE, DIFFERENT * health.particles)
    pairs = zip(health.roots, health.different, strict=True)
    gone = [0 < roots <= few and n < kinds for roots, n in pairs]
    if not any(gone):
        return None
    cures = ["Raise sampler.particles or sampler.alpha"]
    if not _held(method):
        alone = isinstance(getattr(method, "potential", Difference()), Difference)
        if alone and getattr(method, "move", "none") is None:
            cures.append("set sampler.move to redraw")
        below = getattr(getattr(method, "resample", None), "ess_below", 0.0)
        if below > RARE:
            cures.append(f"lower sampler.resample.ess_below (now {below:g})")
    return (
        f"Collapsed {_where(gone)}: as few as {_worst(health.roots, gone):g} of "
        f"{health.particles} first particles have living descendants, and by weight only "
        f"{_worst(health.different, gone):.1f} designs differ. {', or '.join(cures)}."
    )


def _copies(health: Health, method: Any) -> str | None:
    few = [0 < n < DIFFERENT * health.particles for n in health.distinct]
    if health.roots is not None or not any(few):
        return None
    return (
        f"Copies {_where(few)}: {_worst(health.distinct, few):g} of {health.particles} designs are "
        f"different. Raise sampler.islands, which share nothing, or set sampler.name to tds, which "
        f"keeps weights."
    )


def _light(health: Health, method: Any) -> str | None:
    light = [0 < size < ESS for size in health.ess or ()]
    if health.ess is None or not any(light):
        return None
    cure = "Raise sampler.particles or sampler.alpha"
    if not hasattr(method, "value"):
        cure += ", or set sampler.name to tds, which looks at the reward on the way"
    elif getattr(getattr(method, "resample", None), "ess_below", 1.0) < RARE:
        cure += f", or raise sampler.resample.ess_below (now {method.resample.ess_below:g})"
    return (
        f"Few designs carry the weight {_where(light)}: at the end the effective sample size is "
        f"{100 * _worst(health.ess, light):.1f} % of {health.particles} particles. {cure}."
    )


def _apart(health: Health, method: Any) -> str | None:
    if health.spread is None or health.largest is None:
        return None
    pairs = list(zip(health.spread, health.largest, strict=True))
    apart = [(sd, top) for sd, top in pairs if sd is not None and top is not None and sd > SPREAD]
    if not apart:
        return None
    sd, top = max(apart)
    of = f" for {len(apart)} of {len(pairs)} prompts" if len(pairs) > 1 else ""
    return (
        f"Islands disagree{of}: log Ẑ differs between them by {sd:.1f} nats (standard deviation), "
        f"and the heaviest has {100 * top:.0f} % of the weight. Raise sampler.particles, which "
        f"helps where more sampler.islands do not, or sampler.alpha."
    )


def _unguided(health: Health, method: Any) -> str | None:
    if health.failed_gradients is None or health.failed_gradients <= UNGUIDED:
        return None
    return (
        f"Gradients failed: at {100 * health.failed_gradients:.2g} % of the particles on the way "
        f"the gradient of the reward was no number, and guided nothing. Mend its derivative in "
        f"rewards, or set sampler.name to smc, which needs none."
    )


def _unknown(health: Health, method: Any) -> str | None:
    if health.unknown is None or health.unknown <= UNKNOWN:
        return None
    other = "Choose another sampler.value, or mend" if hasattr(method, "value") else "Mend"
    return (
        f"Values unknown: at {100 * health.unknown:.0f} % of the steps no value of an island was "
        f"finite, so that the reward steered nothing. {other} what fails in rewards."
    )


def _failed(health: Health, method: Any) -> str | None:
    told = _unknown(health, method) is not None
    if told or health.failed_values is None or health.failed_values <= UNKNOWN:
        return None
    other = "Choose another sampler.value, or mend" if hasattr(method, "value") else "Mend"
    return (
        f"Values failed: at {100 * health.failed_values:.2g} % of the particles on the way the "
        f"value was no number, and the others' stood in. {other} what fails in rewards."
    )


def _refused(health: Health, method: Any) -> str | None:
    if health.accepted is None or health.accepted >= ACCEPTED:
        return None
    return (
        f"Moves refused: {100 * health.accepted:.1f} % of those proposed were accepted. Leave "
        f"sampler.move out, or raise sampler.move.every to spend fewer calls on it."
    )
