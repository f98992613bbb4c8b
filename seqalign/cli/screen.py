"""What a person sees: errors in a sentence, bars that move, tables and notes."""

from __future__ import annotations

import functools
import json
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, ParamSpec, TypeVar

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from seqalign import registry, weights
from seqalign.campaign.asked import plural, spaced
from seqalign.campaign.compare import Comparison
from seqalign.campaign.estimate import Estimate
from seqalign.campaign.medium import Plan
from seqalign.campaign.status import Status
from seqalign.campaign.store import RunFolder
from seqalign.campaign.summary import Paired, Ruling, Summary
from seqalign.campaign.yaml import CampaignError
from seqalign.core.devices import NoDevice
from seqalign.core.objective import walk
from seqalign.core.particles import Step
from seqalign.core.states import OverStates

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
CampaignFile = Annotated[Path, typer.Argument(metavar="CAMPAIGN.yaml", help="The campaign.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a value: --set sampler.alpha=0.2 (repeatable)."),
]
P = ParamSpec("P")
R = TypeVar("R")


def terminal() -> Console:
    """Return where results go."""
    # a pipe has no width: keep tables whole; what is in brackets is a user's unit, and no style
    if sys.stdout.isatty():
        return Console(markup=False)
    return Console(width=160, color_system=None, markup=False)


def show_json(data: Any) -> None:
    """Print what a program reads."""
    typer.echo(json.dumps(data, default=str, ensure_ascii=False))


def say(console: Console, *parts: Any, style: str = "bold") -> None:
    """Print a line as it is, the first of several parts in a style."""
    first = parts[:1] if len(parts) == 1 else [(parts[0], style)]
    console.print(Text.assemble(*first, *parts[1:]), soft_wrap=True)


def show(*things: Table | str) -> None:
    """Print results, one below the other."""
    for thing in things:
        if isinstance(thing, str):
            say(terminal(), thing)
        else:
            terminal().print(thing)


def number(value: Any, digits: int = 2) -> str:
    """Return a number for a table; a dash for None."""
    return "–" if value is None else f"{value:.{digits}f}"


def duration(seconds: float) -> str:
    """Return seconds in the unit that people would take."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def fail(message: str, code: int) -> typer.Exit:
    """Print an error, and return what ends the program with an exit code."""
    for line in message.splitlines():
        say(Console(stderr=True), "error: ", line, style="bold red")
    return typer.Exit(code)


def _ours(error: BaseException) -> bool:
    """Whether our own code raised the error on purpose, so that its message is meant for people."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    name = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))
    return name.partition(".")[0] == "seqalign"


def _lacks(error: BaseException | None) -> bool:
    """Whether an error goes back to what is not on this machine: weights, a device, an extra."""
    while error is not None and not isinstance(error, (weights.MissingWeights, NoDevice)):
        if isinstance(error, ImportError) and "pip install" in str(error):
            return True
        error = error.__cause__
    return error is not None


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """Turn errors of the user into a message and an exit code; others keep their traceback."""

    @functools.wraps(command)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        again = shlex.join(["seqalign", *sys.argv[1:]])
        try:
            return command(*args, **kwargs)
        except weights.MissingWeights as error:
            raise fail(str(error), 4) from None
        except (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError) as error:
            said = f"{error.filename or ''}: {error.strerror or error}"
            raise fail(f"{said}. Check the path and its rights.", 2) from None
        except KeyboardInterrupt:
            said = "interrupted; finished islands are kept. Continue with"
            raise fail(f"{said}: {again}", 5) from None
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise _no_memory(error, again) from None
        except (ValueError, TypeError) as error:
            if isinstance(error, (CampaignError, registry.SpecError)) or _ours(error):
                raise fail(str(error), 4 if _lacks(error) else 2) from None
            raise
        except ImportError as error:
            if _lacks(error) and _ours(error):
                raise fail(str(error), 4) from None
            raise
        except RuntimeError as error:
            if "allocate memory" in str(error):
                raise _no_memory(error, again) from None
            raise

    return inner


def _no_memory(error: BaseException, again: str) -> typer.Exit:
    detail = str(error).splitlines()[0] if str(error) else "no detail"
    return fail(
        f"out of memory ({detail}); finished islands are kept. Lower sampler.particles (and raise "
        f"islands) and start with --fresh, or continue on a larger machine with: {again}",
        4,
    )


@contextmanager
def terminable() -> Iterator[None]:
    """Treat a polite kill like Ctrl-C: say how to continue."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def bar(*columns: ProgressColumn, quiet: bool = False) -> Progress:
    """Return a bar on stderr, if that is a terminal: what is done, how much of it, time left."""
    some = (TextColumn("{task.description}"), BarColumn(), *columns, TimeRemainingColumn())
    disable = quiet or not sys.stderr.isatty()
    return Progress(*some, console=Console(stderr=True), transient=True, disable=disable)


_CALLS = TextColumn("{task.completed:,.0f}/{task.total:,.0f} calls")


class Watch:
    """Show calls, best reward and time left: a bar on a terminal, one line per tenth elsewhere."""

    def __init__(self, plan: Plan, quiet: bool) -> None:
        self.plan, self.quiet = plan, quiet
        self.total = plan.network_calls + sum(plan.medium.beside(plan).values())
        self.done, self.tenth, self.best = 0, 0, -float("inf")
        self.begin = time.perf_counter()
        self.bar = bar(_CALLS, TextColumn("{task.fields[best]}"), quiet=quiet)
        self.task = self.bar.add_task("starting", total=self.total, best="")

    def __enter__(self) -> Watch:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def step(self, arm: str, island: int, step: Step) -> None:
        """Take one step of one island."""
        if arm == "aligned":
            value = float(step.value_max.max()) * self.plan.arms[0].method.alpha
            self.best = max(self.best, value)
        if island >= self.plan.islands:
            # too few designs so far: the run goes on, and baselines will follow
            self.plan = self.plan.of(island + 1)
            self.total = self.plan.network_calls + sum(self.plan.medium.beside(self.plan).values())
            self.bar.update(self.task, total=self.total)
        where = f"{arm}, island {island + 1}/{self.plan.islands}" if self.plan.islands > 1 else arm
        self._advance(step.network_calls, where)

    def evaluate(self, calls: int) -> None:
        """Take calls of the evaluation after the run."""
        self._advance(calls, "log-likelihoods")

    def _advance(self, calls: int, what: str) -> None:
        self.done += calls
        best = f"best reward {self.best:.3f}" if self.best > -float("inf") else ""
        done = min(self.done, self.total)
        self.bar.update(self.task, completed=done, description=what, best=best)
        if self.bar.disable and not self.quiet and 10 * self.done // self.total > self.tenth:
            self.tenth = 10 * self.done // self.total
            spent = time.perf_counter() - self.begin
            left = spent * max(self.total - self.done, 0) / max(self.done, 1)
            typer.echo(
                f"{min(10 * self.tenth, 100):3d} %  {self.done:,}/{self.total:,} network calls  "
                f"{what}  {best}  {spent:.0f} s spent, about {left:.0f} s left",
                err=True,
            )


@contextmanager
def counted(total: int, what: str, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Yield a function that takes calls as they are made; a bar on a terminal shows them."""
    with bar(_CALLS, quiet=quiet) as shown:
        task = shown.add_task(what, total=total)
        yield lambda calls: shown.advance(task, calls)


# tables -------------------------------------------------------------------------------------------


def _columns(table: Table, heads: Iterable[tuple[str, str | None]]) -> None:
    """Add columns of numbers, each a label above its unit."""
    for label, unit in heads:
        table.add_column(f"{label}\n{unit}" if unit else label, justify="right")


def table_of(summary: Summary) -> Table:
    """Return the comparison of a run as a table."""
    title = f"{summary.name}, seed {summary.seed}: means over the designs of each row"
    table = Table("", "designs", title=title, title_justify="left")
    _columns(table, ((label, summary.units.get(label)) for label in summary.labels))
    _columns(table, ((column.head, column.unit) for column in summary.columns))
    for row in summary.rows:
        cells = [number(row.mean.get(label)) for label in summary.labels]
        cells += [number(row.value(column.key), column.digits) for column in summary.columns]
        table.add_row(row.row, row.which, *cells, style="bold" if row.row == "aligned" else None)
    return table


def notes(summary: Summary, folder: RunFolder) -> list[str]:
    """Return what stands below the table: calls, gains in pairs, where the files are."""
    paired = summary.paired
    calls = ", ".join(f"{name} {count:,}" for name, count in summary.network_calls.items())
    rewards = ", ".join(f"{name} {count:,}" for name, count in summary.reward_calls.items())
    return [
        f"{'top' if paired is None else 'best'}: by the sum of the guiding rewards "
        f"({', '.join(summary.guides)}), higher is better; hold-outs were never optimized.",
        *(() if paired is None else _gained(paired, (*summary.guides, *summary.holdouts))),
        *rulings(summary.rulings),
        f"Network calls: {calls}. Reward calls: {rewards}.",
        f"{summary.designs} designs kept, {summary.rejected} rejected.",
        *(() if summary.asked is None else (summary.asked.sentence,)),
        f"Designs: {folder.path / 'designs.csv'}",
        *([] if summary.gallery is None else [f"Images:  {folder.path / 'contact-sheet.png'}"]),
        f"Report:  {folder.path / 'report.html'}",
        *(() if summary.health is None else summary.health.sentences),
    ]


def rulings(found: Mapping[str, Ruling]) -> list[str]:
    """Say of each guide whether its gain is real."""
    return [_ruled(label, said.badge, said.text) for label, said in found.items()]


def _ruled(label: str, badge: str, text: str) -> str:
    return f"{label}: {badge}. {text}"


def ruled(found: Comparison) -> list[str]:
    """Say of each run and guide whether its gain is real."""
    return [
        _ruled(f"{run['name']}, {label}", said["badge"], said["text"])
        for run in found.runs
        for label, said in run["rulings"].items()
    ]


def _gained(paired: Paired, labels: Sequence[str]) -> list[str]:
    """Say what the best aligned design of each pair gains over best-of-N."""
    lines = []
    for label in labels:
        row = paired.best_of_n.get(label)
        if row is not None and row.gain is not None:
            text = f"{label}: {row.gain:+.2f} over best-of-N at equal network calls"
            if row.low is not None:
                between = f"95 % interval {row.low:+.2f} to {row.high:+.2f}"
                text += f" (paired over {paired.pairs} {paired.over}, {between})"
            lines.append(text + ".")
    return lines


def progress(found: Status) -> Table:
    """Return how far each sampler of a run is as a table."""
    table = Table("", "method", "islands done", "designs per island", "best objective", "time")
    for name, arm in found.arms.items():
        done = f"{arm.done} of {arm.islands}"
        if arm.most is not None and arm.most > arm.islands:
            done += f" to {arm.most}"
        best, seconds = number(arm.best, 3), duration(arm.seconds)
        table.add_row(name, arm.method, done, str(arm.particles), best, seconds)
    return table


def side_by_side(found: Comparison) -> Table:
    """Return runs side by side as a table."""
    heads = {
        "total": ("sum of", "the guides"),
        "n_mut": ("mutations", None),
        "prior_per_residue": ("log-likelihood", "nats/residue"),
        "diversity": ("diversity", found.diversity),
        "vendi": ("Vendi score", "per prompt"),
    }
    keys = [k for k in heads if any(k in row.numbers for row in found.rows)]
    table = Table("run", "row", "method", "designs")
    _columns(table, ((label, found.units.get(label)) for label in found.labels))
    _columns(table, (*(heads[k] for k in keys), ("network", "calls")))
    last = None
    for row in found.rows:
        if last not in (None, "", row.run):
            table.add_section()
        calls = row.network_calls
        table.add_row(
            row.run if row.run != last else "",
            row.row,
            row.method or "",
            row.which,
            *(number(row.numbers.get(k)) for k in found.labels),
            *(number(row.numbers.get(k), 3 if k == "prior_per_residue" else 2) for k in keys),
            "" if calls is None else f"{calls:,}",
            style="bold" if row.row == "aligned" else None,
        )
        last = row.run
    return table


def say_parts(plan: Plan, cost: Estimate, say: Callable[[str], object]) -> None:
    """Say what rewards and samplers there are, and what they cost."""
    spec = plan.campaign.model
    about = registry.describe("model", spec.name) if spec.python is None else "your own process"
    say(f"\nModel\n  {spec.name}: {about}\n  runs on {_where(plan.model.process)}\n\nRewards")
    for t in plan.terms:
        oracle = t.spec.oracle
        what = registry.describe("reward", oracle) if oracle else t.spec.python or t.spec.command
        weight = f"weight {t.spec.weight:g}" if t.spec.role == "guide" else t.spec.role
        unit = f" [{t.raw.unit}]" if t.raw.unit else ""
        gradient = "with gradient" if t.raw.differentiable else "no gradient"
        over = next((r.over for r in walk(t.raw) if isinstance(r, OverStates)), None)
        states = "" if over is None else f", {over} over {len(plan.model.states)} states"
        if isinstance(t.spec.states, int):
            states = f", in state {t.spec.states} alone"
        say(f"  {t.label}{unit}: {weight}{states}, {gradient}. {what}")
    say("\nSamplers")
    growing = plan.most is not None and plan.most > plan.islands
    for arm in plan.arms:
        rule = registry.to_mapping(arm.method)
        islands = f"{plan.islands} to {plan.most}" if growing else str(plan.islands)
        particles = f"{islands} × {arm.particles} particles"
        say(f"  {arm.name}: {rule.pop('name')}, {particles}, {_flow(rule)}")
    say_asked(plan, say)
    say("\nEstimate" if cost.most is None else f"\nEstimate for {_islands(plan.islands)}")
    say_cost(cost, say)
    if cost.most is not None and plan.most is not None:
        say(f"At most, for {_islands(plan.most)}")
        say_cost(cost.most, say)


def _where(process: Any) -> str:
    """Return the device on which a process runs, in words."""
    place = torch.device(getattr(process, "device", "cpu"))
    if place.type != "cuda":
        return "the CPU" if place.type == "cpu" else str(place)
    return f"{place} ({torch.cuda.get_device_name(place)})"


def _islands(number: int) -> str:
    return plural(number, "island")


def say_asked(plan: Plan, say: Callable[[str], object]) -> None:
    """Say what `budget.designs` will do."""
    asked, top = plan.campaign.budget.designs, plan.campaign.select.top
    if asked is None:
        return
    kept = "all that pass the filters are kept" if top is None else f"select.top keeps {top}"
    if plan.most is None:
        drawn = plan.islands * plan.arms[0].particles
        say(f"  budget.designs: {asked} asked, {drawn} drawn in whole islands; {kept}")
        return
    apart = spaced(plan.campaign.select.diversity.min_mutations_apart)
    say(
        f"  budget.designs: islands are drawn until {plural(asked, 'different design')} of the "
        f"target law pass the filters{apart}: {_islands(plan.islands)} at best, {plan.most} at "
        f"most ({plan.limit}); {kept}"
    )


def say_cost(cost: Estimate, say: Callable[[str], object]) -> None:
    """Say what a run costs."""
    network, oracles = (
        ", ".join(f"{k} {v:,}" for k, v in calls.items()) for calls in (cost.network, cost.oracle)
    )
    say(f"  network calls: {sum(cost.network.values()):,} ({network})")
    say(f"  oracle calls, at most: {oracles}")
    say(
        f"  time: about {duration(cost.seconds)} on this machine ({torch.get_num_threads()} "
        f"threads); memory: about {cost.gigabytes:.1f} GB"
    )


def _flow(rule: Any, inside: bool = False) -> str:
    if isinstance(rule, list):
        return f"[{', '.join(_flow(item, True) for item in rule)}]"
    if not isinstance(rule, Mapping):
        return str(rule)
    text = ", ".join(f"{k}: {_flow(v, True)}" for k, v in rule.items())
    return f"{{{text}}}" if inside else text
