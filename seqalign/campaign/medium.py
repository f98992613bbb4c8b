"""What is designed, as a protocol: everything else in the tool works without knowing which it is.

`letters.py` and `images.py` are the only files that know; another medium is one more file and a
line in `media.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import Tensor

from seqalign.campaign.report.parts import Compared, Figures, Groups, Run
from seqalign.campaign.schema import Campaign, RewardSpec
from seqalign.campaign.store import RunFolder
from seqalign.campaign.summary import Gain, Row, Summary
from seqalign.campaign.terms import Term
from seqalign.campaign.yaml import Source
from seqalign.core.method import Method
from seqalign.core.objective import Reward
from seqalign.core.particles import Samples
from seqalign.core.process import Designs, Process
from seqalign.files.structure import Structure
from seqalign.load import Model

Record = dict[str, Any]
"""One row of a table of designs: text and numbers by column."""
Say = Callable[[str], object]


def rounded(row: Mapping[str, Any]) -> Record:
    """Return a row with its numbers as tables print them, six significant digits."""
    return {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in row.items()}


def columns(
    rewards: Mapping[str, RewardSpec],
    head: Sequence[str],
    behind: Sequence[str] = (),
    programs: Sequence[str] = (),
) -> list[str]:
    """Return the columns of designs.csv: what people read, then what programs do.

    Args:
        rewards: by label; one that is called like a column of a medium's own takes its place.
        head: what comes before the rewards.
        behind: what comes after them and their sum.
        programs: what only programs read.
    """
    first, last = ([c for c in some if c not in rewards] for some in (head, behind))
    scaled = (f"{label}_scaled" for label, spec in rewards.items() if spec.role == "guide")
    end = ("log_w", "copies", "method", "seed")
    return ["id", *first, *rewards, "total", *last, *scaled, *programs, *end]


def is_likelihood(column: str) -> bool:
    """Return whether a column is a log-likelihood, which is dear: only what is kept has one."""
    return column == "prior" or column.startswith("prior_per_residue")


def for_programs(column: str) -> bool:
    """Return whether people can do without a column of designs.csv."""
    own = ("island", "log_w", "copies", "method", "seed")
    return column in own or column.endswith("_scaled") or is_likelihood(column)


@dataclass(frozen=True)
class Arm:
    """One sampler of a run: the aligned one, or a baseline.

    Attributes:
        name: unique within the run.
        method: what draws.
        particles: designs per island.
        streams: purpose of its random numbers; () for the aligned arm, as in `seqalign.sample`.
    """

    name: str
    method: Method
    particles: int
    streams: tuple[str, ...] = ()

    @property
    def states(self) -> int:
        """States of an island that the network sees at once."""
        return self.particles * int(getattr(self.method, "branch", 1))


@dataclass(frozen=True)
class Rehearsal:
    """What one island will ask for: calls per particle, and the reports it will make.

    A backward pass through the network counts as two calls; `reward` is calls of every guide.
    """

    network: float
    reward: float
    steps: int


@dataclass(frozen=True)
class Loaded:
    """What the input of a campaign became: a model, and a backbone if there is one.

    `digests` are the SHA-256 of the files it came from; None where there is none. `notes` say in
    sentences what was left out of them.
    """

    model: Model
    structure: Structure | None
    digests: Mapping[str, str | None]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Judged:
    """The designs of a run, with every number that tables need.

    Attributes:
        pool: the distinct designs of the aligned arm; "light" ones are no draws from the target.
        others: the designs of the baselines.
        rows: the comparison.
        weighted_mean: per reward, mean under the weights.
        evaluation: network calls it took; None where a medium makes none.
        own: what only this medium says in a `Summary`, by field.
    """

    pool: Sequence[Record]
    others: Sequence[Record]
    rows: tuple[Row, ...]
    gains: Mapping[str, Gain]
    weighted_mean: Mapping[str, float | None]
    evaluation: int | None = None
    own: Mapping[str, Any] = field(default_factory=dict)


class Medium(Protocol):
    """What is designed.

    Attributes:
        kind: its name.
        key: the column that tells designs apart.
        each: the column whose values are chosen from one by one; None chooses from all.
        recurs: whether a design comes again, so that scores are worth remembering.
    """

    kind: ClassVar[str]
    key: ClassVar[str]
    each: ClassVar[str | None]
    recurs: ClassVar[bool]

    # before a run

    def load(self, campaign: Campaign, source: Source, own: Process | None) -> Loaded:
        """Build the model of a campaign, around a process of the user's if there is one.

        Raises:
            CampaignError: the input does not fit; the message names the key.
        """

    def probe(self, model: Model, n: int = 3) -> tuple[Designs, str]:
        """Return n designs to try a reward on, (1, n), and what they are in words."""

    def graded(self, reward: Reward, designs: Designs) -> Tensor:
        """Return the differentiable score of designs, (B, K), after taking its gradient."""

    def rehearse(self, method: Method, model: Model, reward: Reward, particles: int) -> Rehearsal:
        """Run a method with the network and the reward taken out: exact counts at no cost.

        Raises:
            TypeError: the method needs a gradient that the reward or model lacks.
            ValueError: a hyper-parameter is out of range.
        """

    def oracle_calls(self, plan: Plan, role: str) -> int:
        """Return the calls of one reward, at most."""

    def beside(self, plan: Plan) -> Mapping[str, int]:
        """Return the network calls beside those of the arms, by what they are for."""

    def cost(self, plan: Plan) -> tuple[float, Mapping[str, float], float]:
        """Return seconds per network call and per call of each reward, and gigabytes at most."""

    def resolved(self, plan: Plan) -> Mapping[str, Any]:
        """Return what config.yaml says of the model's input."""

    def asked(self, plan: Plan) -> Mapping[str, Any]:
        """Return what a campaign asks of its model, for programs."""

    def say(self, plan: Plan, say: Say) -> None:
        """Say what a campaign asks of its model, for people."""

    def columns(self, campaign: Campaign, model: Model) -> list[str]:
        """Return the columns of designs.csv."""

    # after it

    def judge(
        self,
        plan: Plan,
        objective: Reward,
        results: Mapping[str, Samples],
        tell: Callable[[int], None] | None,
        kept: Callable[[Sequence[Record]], Sequence[Record]],
    ) -> Judged:
        """Score everything a run drew; `tell` hears of network calls.

        `kept` says which rows of a pool will be kept, or may be where that is still open.
        """

    def pool(
        self, plan: Plan, objective: Reward, samples: Samples, known: dict[str, Record]
    ) -> Sequence[Record]:
        """Return the pool that `judge` makes of the aligned arm, without log-likelihoods.

        Rows that are `known` are not scored again; new ones join them.
        """

    def broken(self, model: Model, row: Record) -> str | None:
        """Return which constraint a design breaks, if any."""

    def publish(
        self, folder: RunFolder, summary: Summary, kept: Sequence[Record], every: Sequence[Record]
    ) -> Summary:
        """Write the files beside the tables, and return the summary that speaks of them."""

    def compared(self, run: Run) -> Compared:
        """Return the rows that verdicts on a run compare."""

    def figures(self, run: Run, groups: Groups) -> Figures:
        """Draw a run for its report, by its rows in groups."""


@dataclass(frozen=True)
class Plan:
    """A campaign whose every part has been found, built and tried.

    Attributes:
        arms: the aligned sampler first, then baselines.
        islands: of the run, all prompts together; where it stops by itself, the fewest.
        rehearsals: per arm, what one island asks for.
        config: resolved configuration, with every default, hash and version.
        replicates: islands per prompt.
        notes: what a person should know of the input, in sentences.
        most: islands at most, where a run stops by itself with as many designs as were asked.
        limit: the key that says so.
        judges: per guide without a hold-out of another kind, the rewards here that would be one.
    """

    campaign: Campaign
    source: Source
    medium: Medium
    model: Model
    structure: Structure | None
    terms: tuple[Term, ...]
    objective: Reward
    arms: tuple[Arm, ...]
    islands: int
    rehearsals: Mapping[str, Rehearsal]
    config: Mapping[str, Any]
    replicates: int = 1
    notes: tuple[str, ...] = ()
    most: int | None = None
    limit: str = "sampler.islands"
    judges: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def of(self, islands: int) -> Plan:
        """Return a plan without prompts with so many islands."""
        return replace(self, islands=islands, replicates=islands)

    @property
    def drawn(self) -> int:
        """Designs of all arms, with copies."""
        return sum(a.particles for a in self.arms) * self.islands

    @property
    def folder(self) -> Path:
        """Where the run goes by default."""
        return self.source.folder / self.campaign.output.dir / self.campaign.name

    @property
    def shown(self) -> list[str]:
        """The columns that comparisons speak of: every reward, and the sum of the guides."""
        return [*(t.label for t in self.terms), "total"]

    def role(self, role: str) -> list[Term]:
        """Return the rewards of one role: guide, final or holdout."""
        return [t for t in self.terms if t.spec.role == role]

    def lines(self, counted: int) -> Iterator[tuple[str, str, bool]]:
        """Yield the lines of the comparison: an arm, what it is called, and whether its best is.

        Best-of-N is called by its N, which is the particles of `counted` islands; all its designs
        are the unguided ones.
        """
        for arm in (*self.arms[1:], self.arms[0]):
            plain = arm.name == "best_of_n"
            if not plain or "unguided" in self.campaign.baselines:
                yield arm.name, "unguided" if plain else arm.name, False
            if not plain or "best_of_n" in self.campaign.baselines:
                yield arm.name, f"best of {counted * arm.particles}" if plain else arm.name, True

    @property
    def network_calls(self) -> int:
        """Network calls of all arms."""
        return sum(self.arm_calls(a) for a in self.arms)

    def arm_calls(self, arm: Arm) -> int:
        """Return the network calls of one arm, all islands together."""
        return round(self.rehearsals[arm.name].network * arm.particles) * self.islands

    @property
    def reward_calls(self) -> int:
        """Calls of every guide reward in all arms."""
        calls = (round(self.rehearsals[a.name].reward * a.particles) for a in self.arms)
        return sum(calls) * self.islands
