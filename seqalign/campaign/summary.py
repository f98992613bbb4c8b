"""What a finished run says of itself: `summary.json`, typed, with one function each way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, PlainSerializer, TypeAdapter

from seqalign.campaign.asked import Asked
from seqalign.core.health import Health
from seqalign.files.backbone import Backbone
from seqalign.files.orderable import Orderable
from seqalign.files.sheet import Sheet

Number = float | None


@dataclass(frozen=True)
class Row:
    """One line of the comparison: a sampler's designs, all of them or the best.

    Attributes:
        row: whose designs.
        which: which of them, in words.
        designs: how many.
        mean: per reward, "total" and what else a medium counts, the mean of the finite values.
        sd: their standard deviations, where there are two or more.
        diversity: mean distance of all pairs, in the unit of the medium.
        vendi: effective number of different designs; None where it is not counted.
    """

    row: str
    which: str
    designs: int
    mean: Mapping[str, Number]
    sd: Mapping[str, float]
    diversity: Number = None
    vendi: Number = None

    def value(self, key: str) -> Number:
        """Return one number of the line; one design has no diversity."""
        if key == "diversity":
            return self.diversity if self.designs > 1 else None
        return self.vendi if key == "vendi" else self.mean.get(key)


@dataclass(frozen=True)
class Column:
    """One column of the comparison beside the rewards, and the digits people want to see."""

    key: str
    head: str
    unit: str
    digits: int


@dataclass(frozen=True)
class Gain:
    """What the best aligned designs gain in one reward; None where there is nothing to compare."""

    over_wild_type: Number
    over_unguided: Number
    over_best_of_n: Number
    in_unguided_sd: Number

    @classmethod
    def of(cls, wild: Number, gain: Number, best: Number, plain: Row | None, label: str) -> Gain:
        """Return what is gained, also in standard deviations of the row of unguided designs."""
        sd = None if plain is None else plain.sd.get(label)
        return cls(wild, gain, best, gain / sd if gain is not None and sd else None)


Kind = Literal["foreign", "unknown", "twin"]


@dataclass(frozen=True)
class Verdict:
    """How a guide gained and how much of it a hold-out kept, in deviations of unguided designs.

    Attributes:
        guide: its label; "total" for the sum of the guides.
        held: the label of the hold-out.
        gain: of the guide.
        kept: of the hold-out.
        oracle: what the hold-out is, by its registered name; "" for one of the user's.
        shared: per guide, and "prior", what the hold-out shares with it; None where that is not
            known.
        error: standard error of `kept`.
    """

    guide: str
    held: str
    gain: float
    kept: float
    oracle: str = ""
    shared: Mapping[str, tuple[str, ...] | None] = field(default_factory=dict)
    error: float = 0.0

    @property
    def kind(self) -> Kind:
        """Whether the hold-out is of another kind than the guides and the prior, or a twin."""
        if any(self.shared.values()):
            return "twin"
        known = self.shared and None not in self.shared.values()
        return "foreign" if known else "unknown"

    @property
    def none(self) -> bool:
        """Whether the guide gained nothing."""
        return not self.gain > 0

    @property
    def ratio(self) -> float:
        """What part of the gain the hold-out shows; NaN without a gain."""
        return self.kept / self.gain if self.gain > 0 else math.nan

    @property
    def flag(self) -> bool:
        """Whether they part."""
        return self.ratio < 0.5

    @property
    def rises(self) -> bool:
        """Whether the hold-out rises by more than two standard errors."""
        return self.kept > 2 * self.error

    @property
    def sound(self) -> bool:
        """Whether both can be told."""
        return math.isfinite(self.gain) and math.isfinite(self.kept)


@dataclass(frozen=True)
class Ruling:
    """What is said of the gain in one guide, wherever it is said.

    Attributes:
        judge: the hold-out that has the word; "" if there is none.
        kind: "good", "bad", or "open" where nothing was decided.
        badge: the verdict in two words.
        text: in sentences.
    """

    judge: str
    kind: Literal["good", "bad", "open"]
    badge: str
    text: str


@dataclass(frozen=True)
class Versus:
    """Means of two samplers over the same pairs, and the mean gain with its 95 % interval."""

    aligned: Number = None
    other: Number = None
    gain: Number = None
    low: Number = None
    high: Number = None


@dataclass(frozen=True)
class Paired:
    """Comparisons pair by pair, per reward: with the best of best-of-N, the mean of unguided ones.

    `over` says what a pair is, in words.
    """

    over: str
    pairs: int
    best_of_n: Mapping[str, Versus] = field(default_factory=dict)
    unguided: Mapping[str, Versus] = field(default_factory=dict)


@dataclass(frozen=True)
class Spread:
    """How distances are measured: of what, their unit, and the width of the kernel of Vendi scores.

    `designs` is the largest number of different designs of one prompt.
    """

    of: str
    unit: str
    width: float
    designs: int


@dataclass(frozen=True)
class Line:
    """What is shown of one prompt: per sampler, files with their numbers."""

    prompt: str
    arms: Mapping[str, tuple[Mapping[str, Any], ...]]


def _flat(row: Row) -> Mapping[str, Any]:
    """Return a row as a table has it: means by name, deviations as NAME_sd."""
    spread = {"diversity": row.diversity} | ({} if row.vendi is None else {"vendi": row.vendi})
    head = {"row": row.row, "which": row.which, "designs": row.designs}
    return {**head, **row.mean, **{f"{key}_sd": v for key, v in row.sd.items()}, **spread}


def _row(data: Any) -> Any:
    if not isinstance(data, Mapping):
        return data
    own = {key: data.get(key) for key in ("row", "which", "designs", "diversity", "vendi")}
    rest = {key: v for key, v in data.items() if key not in own}
    sd = {key.removesuffix("_sd"): v for key, v in rest.items() if key.endswith("_sd")}
    return {**own, "mean": {k: v for k, v in rest.items() if not k.endswith("_sd")}, "sd": sd}


@dataclass(frozen=True)
class Summary:
    """A finished run in numbers.

    Attributes:
        kind: the medium that was designed in.
        command: that runs it again.
        select: the options designs were chosen by.
        seqalign: the version that ran it.
        designs: kept ones.
        rejected: distinct designs that were not kept.
        drawn: by the aligned sampler, with copies.
        distinct: among them.
        rows: the comparison.
        guides: labels of the rewards that guided; holdouts were never optimized, finals only
            scored at the end.
        zscore: mean and standard deviation of each reward that is a z-score.
        network_calls: per sampler, calibration and evaluation.
        reward_calls: per sampler.
        log_z: estimates of log Z per island; None for methods that are not consistent.
        ess: effective sample size per island at the end, as a fraction.
        weighted_mean: per reward, mean under the weights.
        seconds: per sampler, and of the evaluation.
        verdicts: every guide beside its hold-outs, where both can be told; None in runs of older
            versions.
        rulings: per guide, whether its gain is real.
        judges: per guide without a hold-out of another kind, the rewards here that would be one.
        health: whether the aligned sampler was well; None in runs of older versions.
        asked: what became of `budget.designs`; None where it set no number of different designs.
        fasta: what designs.fasta says beside the designs; letters only.
        orderable: how designs are printed as chains; letters only.
        backbone: the structure as points, to draw; letters only.
        prior_orders: reveal orders behind each log-likelihood; letters only.
        prompts: what was asked for; images only.
        paired: comparisons pair by pair; images only.
        diversity: how distances are measured; images only.
        gallery: what the contact sheet shows; images only.
        kl: KL(p* || p_pre) in nats as the run saw it; images only.
    """

    kind: str
    name: str
    command: str
    select: Mapping[str, Any]
    seqalign: str
    seed: int
    designs: int
    rejected: int
    drawn: int
    distinct: int
    rows: tuple[Annotated[Row, BeforeValidator(_row), PlainSerializer(_flat)], ...]
    guides: tuple[str, ...]
    holdouts: tuple[str, ...]
    finals: tuple[str, ...]
    units: Mapping[str, str]
    zscore: Mapping[str, Mapping[str, Number]]
    gains: Mapping[str, Gain]
    network_calls: Mapping[str, int]
    reward_calls: Mapping[str, int]
    log_z: tuple[Number, ...] | None
    ess: tuple[Number, ...]
    weighted_mean: Mapping[str, Number]
    seconds: Mapping[str, float]
    verdicts: tuple[Verdict, ...] | None = None
    rulings: Mapping[str, Ruling] = field(default_factory=dict)
    judges: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    health: Health | None = None
    asked: Asked | None = None
    fasta: Sheet | None = None
    orderable: Orderable | None = None
    backbone: Backbone | None = None
    prior_orders: int | None = None
    prompts: tuple[str, ...] | None = None
    paired: Paired | None = None
    diversity: Spread | None = None
    gallery: tuple[Line, ...] | None = None
    kl: Number = None

    @property
    def labels(self) -> tuple[str, ...]:
        """Every reward: guides, finals, hold-outs."""
        return (*self.guides, *self.finals, *self.holdouts)

    @property
    def columns(self) -> tuple[Column, ...]:
        """What the comparison has beside the rewards."""
        apart, there = self.diversity, self.rows[-1].mean
        found = [
            Column("n_mut", "mutations", "", 1),
            Column("prior_per_residue", "log-likelihood", "nats/residue", 3),
        ]
        found = [column for column in found if column.key in there]
        if apart is None:
            return (*found, Column("diversity", "diversity", "mutations apart", 1))
        vendi = Column("vendi", "Vendi score", "per prompt", 2)
        return (*found, Column("diversity", "diversity", apart.unit, 3), vendi)

    def row(self, name: str) -> Row | None:
        """Return the first line of the comparison with this name."""
        return next((row for row in self.rows if row.row == name), None)


@cache
def _adapter() -> TypeAdapter[Summary]:
    return TypeAdapter(Summary)


def to_json(summary: Summary) -> Mapping[str, Any]:
    """Return what summary.json holds; what another medium would say is left out."""
    data = _adapter().dump_python(summary, mode="json")
    # a gallery has prompts and a KL, or says that there are none
    said = {"log_z"} if summary.gallery is None else {"log_z", "prompts", "kl"}
    return {key: v for key, v in data.items() if v is not None or key in said}


def from_json(data: Mapping[str, Any]) -> Summary:
    """Return the summary of a run from what summary.json holds.

    Raises:
        ValueError: something is missing or does not fit.
    """
    return _adapter().validate_python(data)
