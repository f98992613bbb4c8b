"""The command line: one verb per function, from `new` and `check` to `run`, `select`, `export`.

Exit codes: 0 done, 2 bad input, 3 nothing passed the filters, 4 resources, 5 interrupted and
resumable.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.resources import as_file, files
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, ParamSpec, TypeVar

import torch
import typer
import yaml
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from seqalign import fetch as downloads
from seqalign import registry, weights
from seqalign.campaign import report
from seqalign.campaign.candidates import read_candidates
from seqalign.campaign.check import prepare
from seqalign.campaign.compare import compare
from seqalign.campaign.estimate import Estimate, estimate
from seqalign.campaign.export import Wells, export
from seqalign.campaign.islands import open_zscores, references
from seqalign.campaign.metrics import PRIOR_ORDERS
from seqalign.campaign.new import draft
from seqalign.campaign.plan import Plan
from seqalign.campaign.run import run as execute
from seqalign.campaign.score import score_table, stored_constants
from seqalign.campaign.select import reselect
from seqalign.campaign.status import status
from seqalign.campaign.store import RunFolder
from seqalign.campaign.yaml import CampaignError, Source, read
from seqalign.core.particles import Step
from seqalign.files.text import finite, to_csv, write_atomic

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Reward-guided design of biological sequences and images from pretrained diffusion "
    "models.",
    epilog="Exit codes: 0 done, 2 bad input, 3 nothing passed the filters, 4 resources, "
    "5 interrupted (the same command continues).",
)
P = ParamSpec("P")
R = TypeVar("R")


def _out() -> Console:
    # a pipe has no width: keep tables whole
    return Console() if sys.stdout.isatty() else Console(width=160, color_system=None)


def _fail(message: str, code: int) -> typer.Exit:
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    for line in message.splitlines():
        console.print(Text.assemble(("error: ", "bold red"), line))
    return typer.Exit(code)


def _ours(error: BaseException) -> bool:
    """Whether our own code raised the error on purpose, so that its message is meant for people."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    name = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))
    return name.partition(".")[0] == "seqalign"


def _lacks(error: BaseException | None) -> bool:
    """Whether an error goes back to weights that are not on this machine, or to an extra."""
    while error is not None and not isinstance(error, weights.MissingWeights):
        if isinstance(error, ImportError) and "pip install" in str(error):
            return True
        error = error.__cause__
    return error is not None


def _guarded(command: Callable[P, R]) -> Callable[P, R]:
    """Turn errors of the user into a message and an exit code; others keep their traceback."""

    @functools.wraps(command)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        again = shlex.join(["seqalign", *sys.argv[1:]])
        try:
            return command(*args, **kwargs)
        except weights.MissingWeights as error:
            raise _fail(str(error), 4) from None
        except (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError) as error:
            raise _fail(
                f"{error.filename or ''}: {error.strerror or error}. Check the path and its "
                "rights.",
                2,
            ) from None
        except KeyboardInterrupt:
            raise _fail(
                f"interrupted; finished islands are kept. Continue with: {again}", 5
            ) from None
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise _no_memory(error, again) from None
        except (ValueError, TypeError) as error:
            if isinstance(error, (CampaignError, registry.SpecError)) or _ours(error):
                raise _fail(str(error), 4 if _lacks(error) else 2) from None
            raise
        except RuntimeError as error:
            if "allocate memory" in str(error):
                raise _no_memory(error, again) from None
            raise

    return inner


def _no_memory(error: BaseException, again: str) -> typer.Exit:
    return _fail(
        f"out of memory ({str(error).splitlines()[0] if str(error) else 'no detail'}); finished "
        "islands are kept. Lower "
        "sampler.particles (and raise islands) and start with --fresh, or continue on a larger "
        f"machine with: {again}",
        4,
    )


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"seqalign {version('seqalign')}")
        raise typer.Exit


@app.callback()
def _root(
    show: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Reward-guided design of biological sequences and images."""


# progress -----------------------------------------------------------------------------------------


class _Watch:
    """Show calls, best reward and time left: a bar on a terminal, one line per tenth elsewhere."""

    def __init__(self, plan: Plan, quiet: bool) -> None:
        self.plan, self.quiet = plan, quiet
        self.total = plan.network_calls
        islands, designs = references(plan.model)
        if isinstance(plan.model, registry.Model):
            self.total += (plan.drawn + 1) * PRIOR_ORDERS * plan.model.space.free
            each = plan.model.space.reveals
        else:
            each = plan.model.steps * getattr(plan.model.process, "calls_per_state", 1)
        if open_zscores(plan.objective):
            self.total += islands * designs * each
        self.done, self.tenth = 0, 0
        self.best = -float("inf")
        self.begin = time.perf_counter()
        self.bar: Progress | None = None
        self.task: Any = None
        self.arms = {a.name: a for a in plan.arms}

    def __enter__(self) -> _Watch:
        if not self.quiet and sys.stderr.isatty():
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:,.0f}/{task.total:,.0f} calls"),
                TextColumn("{task.fields[best]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self.bar.start()
            self.task = self.bar.add_task("starting", total=self.total, best="")
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def step(self, arm: str, island: int, step: Step) -> None:
        """Take one step of one island."""
        if arm == "aligned":
            value = float(step.value_max.max()) * self.arms[arm].method.alpha
            self.best = max(self.best, value)
        where = f"{arm}, island {island + 1}/{self.plan.islands}" if self.plan.islands > 1 else arm
        self._advance(step.network_calls, where)

    def evaluate(self, calls: int) -> None:
        """Take calls of the evaluation after the run."""
        self._advance(calls, "log-likelihoods")

    def _advance(self, calls: int, what: str) -> None:
        self.done += calls
        best = f"best reward {self.best:.3f}" if self.best > -float("inf") else ""
        if self.bar is not None:
            self.bar.update(
                self.task, completed=min(self.done, self.total), description=what, best=best
            )
        elif not self.quiet and 10 * self.done // self.total > self.tenth:
            self.tenth = 10 * self.done // self.total
            spent = time.perf_counter() - self.begin
            left = spent * max(self.total - self.done, 0) / max(self.done, 1)
            typer.echo(
                f"{min(10 * self.tenth, 100):3d} %  {self.done:,}/{self.total:,} network calls  "
                f"{what}  {best}  "
                f"{spent:.0f} s spent, about {left:.0f} s left",
                err=True,
            )


@contextmanager
def _terminable() -> Any:
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


# campaigns ----------------------------------------------------------------------------------------

_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a value: --set sampler.alpha=0.2 (repeatable)."),
]
_Out = Annotated[
    Path | None,
    typer.Option("--out", help="Run folder; by default output.dir/name beside the file."),
]
_Fresh = Annotated[
    bool, typer.Option("--fresh", help="Start over: delete what the run folder holds.")
]


def _execute(plan: Plan, folder: RunFolder, fresh: bool, as_json: bool) -> None:
    finished = folder.done and not fresh
    with _terminable(), _Watch(plan, quiet=as_json) as watch:
        summary = execute(plan, folder, fresh=fresh, progress=watch.step, evaluating=watch.evaluate)
    if as_json:
        typer.echo(json.dumps({**summary, "folder": str(folder.path)}, ensure_ascii=False))
    else:
        console = _out()
        if finished:
            console.print("This run was already complete; --fresh starts over.\n", highlight=False)
        console.print(_comparison(summary))
        _notes(console, summary, folder)
    if not summary["designs"]:
        raise _fail(
            f"nothing passed: all {summary['rejected']} designs were rejected. "
            f"{folder.path / 'rejected.csv'} and the report say why.",
            3,
        )


def _number(value: Any, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _comparison(summary: Mapping[str, Any]) -> Table:
    table = Table(
        title=f"{summary['name']}, seed {summary['seed']}: means over the designs of each row",
        title_justify="left",
    )
    table.add_column("")
    table.add_column("designs")
    labels = [*summary["guides"], *summary["finals"], *summary["holdouts"]]
    for label in labels:
        unit = summary["units"].get(label) or ""
        table.add_column(label + (f"\n{unit}" if unit else ""), justify="right")
    if any("n_mut" in row for row in summary["rows"]):
        table.add_column("mutations", justify="right")
    images = summary.get("kind") == "images"
    if images:
        table.add_column(f"diversity\n{summary['diversity']['unit']}", justify="right")
        table.add_column("Vendi score\nper prompt", justify="right")
    else:
        table.add_column("log-likelihood\nnats/residue", justify="right")
        table.add_column("diversity\nmutations apart", justify="right")
    for row in summary["rows"]:
        cells = [_number(row.get(label)) for label in labels]
        if any("n_mut" in r for r in summary["rows"]):
            cells.append(_number(row.get("n_mut"), 1))
        if images:
            cells += [_number(row.get("diversity"), 3), _number(row.get("vendi"))]
        else:
            cells += [
                _number(row.get("prior_per_residue"), 3),
                _number(row.get("diversity"), 1) if row["designs"] > 1 else "–",
            ]
        style = "bold" if row["row"] == "aligned" else None
        table.add_row(row["row"], row["which"], *cells, style=style)
    return table


def _notes(console: Console, summary: Mapping[str, Any], folder: RunFolder) -> None:
    calls = summary["network_calls"]
    parts = [f"{name} {count:,}" for name, count in calls.items()]
    images = summary.get("kind") == "images"
    lines = [
        f"{'best' if images else 'top'}: by the sum of the guiding rewards "
        f"({', '.join(summary['guides'])}), higher is better; hold-outs were never optimized.",
        f"Network calls: {', '.join(parts)}. Reward calls: "
        f"{', '.join(f'{k} {v:,}' for k, v in summary['reward_calls'].items())}.",
        f"{summary['designs']} designs kept, {summary['rejected']} rejected.",
        f"Designs: {folder.path / 'designs.csv'}",
        *([f"Images:  {folder.path / 'contact-sheet.png'}"] if images else []),
        f"Report:  {folder.path / 'report.html'}",
    ]
    if images:
        lines[1:1] = _gained(summary["paired"], summary["guides"] + summary["holdouts"])
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def _gained(paired: Mapping[str, Any], labels: Sequence[str]) -> list[str]:
    """Say what the best aligned design of each pair gains over best-of-N."""
    lines = []
    for label in labels:
        row = paired["best_of_n"].get(label)
        if row is not None and row["gain"] is not None:
            text = f"{label}: {row['gain']:+.2f} over best-of-N at equal network calls"
            if row["low"] is not None:
                text += (
                    f" (paired over {paired['pairs']} {paired['over']}, 95 % interval "
                    f"{row['low']:+.2f} to {row['high']:+.2f})"
                )
            lines.append(text + ".")
    return lines


class _Demo(StrEnum):
    backbone = "backbone"
    pdz3 = "pdz3"


@app.command()
@_guarded
def demo(
    which: Annotated[
        _Demo, typer.Argument(help="backbone: inverse folding. pdz3: around a wild type.")
    ] = _Demo.backbone,
    out: Annotated[
        Path | None, typer.Option("--out", help="Run folder; by default seqalign-demo-WHICH.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A small run of a few seconds.")] = False,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Another seed.")] = None,
    fresh: _Fresh = False,
    as_json: _Json = False,
) -> None:
    """Run a whole campaign on an embedded model; nothing to download.

    backbone: sequences for the SUMO-like domain of PDB entry 3A4R that should be more stable than
    its own. pdz3: variants of PSD-95 PDZ3 that are more stable and bind more tightly.
    """
    overrides = ["sampler.particles=12"] if quick else []
    if seed is not None:
        overrides.append(f"seed={seed}")
    name = f"demo-{which.value}.yaml"
    with as_file(files("seqalign").joinpath("data")) as folder:
        plan = prepare(*read(folder / name, overrides, label=name))
    _execute(plan, RunFolder(out or Path(f"seqalign-demo-{which.value}")), fresh, as_json)


def _plan(path: Path, overrides: list[str] | None) -> tuple[Plan, Source]:
    campaign, source = read(path, overrides or [])
    return prepare(campaign, source), source


@app.command()
@_guarded
def run(
    path: Annotated[Path, typer.Argument(metavar="CAMPAIGN.yaml", help="The campaign.")],
    out: _Out = None,
    fresh: _Fresh = False,
    overrides: _Set = None,
    as_json: _Json = False,
) -> None:
    """Run a campaign, or continue it: the same command after a crash loses no finished island."""
    plan, source = _plan(path, overrides)
    folder = out or source.folder / plan.campaign.output.dir / plan.campaign.name
    _execute(plan, RunFolder(folder), fresh, as_json)


@app.command()
@_guarded
def check(
    path: Annotated[Path, typer.Argument(metavar="CAMPAIGN.yaml", help="The campaign.")],
    overrides: _Set = None,
    as_json: _Json = False,
) -> None:
    """Validate everything before anything runs: design map, calls, time, memory."""
    plan, _ = _plan(path, overrides)
    cost = estimate(plan)
    if as_json:
        data = {
            "ok": True,
            "name": plan.campaign.name,
            **_asked(plan),
            "islands": plan.islands,
            "network_calls": dict(cost.network),
            "oracle_calls": dict(cost.oracle),
            "seconds": cost.seconds,
            "gigabytes": finite(cost.gigabytes),
        }
        typer.echo(json.dumps(data, ensure_ascii=False))
        return
    console = _out()
    say = functools.partial(console.print, highlight=False, markup=False, soft_wrap=True)
    say(f"{plan.source.file}: fine.", style="bold green")
    if isinstance(plan.model, registry.ImageModel):
        _say_prompts(plan.model, plan.replicates, say)
    else:
        _say_map(plan, plan.model, say)
    _say_parts(plan, cost, say)


def _asked(plan: Plan) -> dict[str, Any]:
    """Return what a campaign asks of its model, for programs."""
    if isinstance(plan.model, registry.ImageModel):
        prompts = plan.model.prompts
        return {
            "prompts": None if prompts is None else list(prompts),
            "islands_per_prompt": plan.replicates,
            "steps": plan.model.steps,
        }
    space = plan.model.space
    return {
        "length": space.length,
        "free": space.free,
        "fixed": space.length - space.free,
        "allowed": {
            plan.model.residues[i]: a
            for i, a in enumerate(space.allowed)
            if space.fixed[i] == space.alphabet.mask_symbol
        },
        "constraints": plan.campaign.constraints,
    }


def _say_prompts(model: registry.ImageModel, replicates: int, say: Callable[[str], object]) -> None:
    each = f"{replicates} island{'s' if replicates > 1 else ''} each"
    if model.prompts is None:
        say(f"\nImages without a prompt, {replicates} island{'s' if replicates > 1 else ''}")
        return
    n = len(model.prompts)
    say(f"\n{n} prompt{'s' if n > 1 else ''}, {each}, {model.steps} steps")
    for text in model.prompts:
        say(f"  {text}")


def _say_map(plan: Plan, model: registry.Model, say: Callable[[str], object]) -> None:
    space = model.space
    say(
        f"\nDesign map ({space.length} positions, {space.free} free, {space.length - space.free} "
        "fixed)"
    )
    for line in _map(plan):
        say(line)
    if space.constraints:
        say(f"  look-ahead: {space.lookahead_note}; the weights are exact either way")


def _say_parts(plan: Plan, cost: Estimate, say: Callable[[str], object]) -> None:
    say("\nRewards")
    for t in plan.terms:
        c = (
            registry.describe("reward", t.spec.oracle)
            if t.spec.oracle
            else (t.spec.python or t.spec.command or "")
        )
        weight = f"weight {t.spec.weight:g}" if t.spec.role == "guide" else t.spec.role
        unit = f" [{t.raw.unit}]" if t.raw.unit else ""
        gradient = "with gradient" if t.raw.differentiable else "no gradient"
        say(f"  {t.label}{unit}: {weight}, {gradient}. {c}")
    say("\nSamplers")
    for arm in plan.arms:
        rule = registry.to_mapping(arm.method)
        say(
            f"  {arm.name}: {rule.pop('name')}, {plan.islands} × {arm.particles} particles, "
            f"{_flow(rule)}"
        )
    say("\nEstimate")
    say(
        f"  network calls: {sum(cost.network.values()):,} "
        f"({', '.join(f'{k} {v:,}' for k, v in cost.network.items())})"
    )
    say(f"  oracle calls, at most: {', '.join(f'{k} {v:,}' for k, v in cost.oracle.items())}")
    say(
        f"  time: about {_duration(cost.seconds)} on this machine ({torch.get_num_threads()} "
        f"threads); memory: about {cost.gigabytes:.1f} GB"
    )


def _flow(rule: Any) -> str:
    if isinstance(rule, Mapping):
        return ", ".join(
            f"{k}: {{{_flow(v)}}}" if isinstance(v, Mapping) else f"{k}: {v}"
            for k, v in rule.items()
        )
    return str(rule)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _map(plan: Plan) -> list[str]:
    """Draw the design map, chain by chain: wild type, and below it what may change."""
    space, names = plan.letters.space, plan.letters.residues
    free = space.alphabet.mask_symbol
    letters = space.alphabet.letters
    top = space.wild_type or "".join(a if a != free else "?" for a in space.fixed)
    marks = "".join(
        "." if space.fixed[i] != free else ("*" if len(space.allowed[i]) == len(letters) else "+")
        for i in range(space.length)
    )
    lines, begin = [], 0
    for size in plan.letters.chains:
        for start in range(begin, begin + size, 60):
            end = min(start + 60, begin + size)
            ruler = "".join(f"{names[i]:<10s}" for i in range(start, end, 10))
            lines += [f"  {ruler.rstrip()}", f"  {top[start:end]}", f"  {marks[start:end]}"]
        begin += size
    lines.append("  . fixed   * free   + free, fewer letters")
    groups: dict[str, list[int]] = {}
    for i, some in enumerate(space.allowed):
        if marks[i] == "+":
            groups.setdefault(some, []).append(i)
    for some, where in groups.items():
        missing = "".join(a for a in letters if a not in some)
        text = f"all but {missing}" if len(missing) < len(some) else some
        lines.append(f"  {_ranges(where, names)}: {text}")
    for c in space.constraints:
        label, said = c.words()
        lines.append(f"  {c.key}: {label[0].lower()}{label[1:]} {said}")
    return lines


def _ranges(indices: list[int], names: Sequence[str]) -> str:
    """Return 0-based positions as residue names, runs as FIRST-LAST."""
    parts: list[list[int]] = []
    for n in indices:
        if parts and n == parts[-1][-1] + 1:
            parts[-1].append(n)
        else:
            parts.append([n])
    return ", ".join(f"{names[p[0]]}-{names[p[-1]]}" if len(p) > 1 else names[p[0]] for p in parts)


# around a run -------------------------------------------------------------------------------------


def _names_of(kind: registry.Kind) -> Callable[[str], list[str]]:
    """Return the completion of names of a kind."""
    return lambda incomplete: [n for n in registry.names(kind) if n.startswith(incomplete)]


@app.command()
@_guarded
def new(
    given: Annotated[
        Path, typer.Argument(metavar="X", help="A structure (.pdb, .cif) or wild type (.fasta).")
    ],
    out: Annotated[Path, typer.Option("--out", help="The file to write.")] = Path("campaign.yaml"),
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="A model; by default one that fits the file.",
            autocompletion=_names_of("model"),
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    as_json: _Json = False,
) -> None:
    """Write a commented campaign.yaml for a structure or a wild type."""
    if out.is_dir():
        raise _fail(f"{out} is a folder; give --out a file name, as {out / 'campaign.yaml'}.", 2)
    if out.exists() and not force:
        raise _fail(f"{out} is there already. Choose another --out, or say --force.", 2)
    made = draft(given, out, model)
    write_atomic(out, made.text)
    if as_json:
        typer.echo(json.dumps({"campaign": str(out), "model": made.model, "notes": made.notes}))
        return
    for note in made.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"{out}\nNext: {shlex.join(['seqalign', 'check', str(out)])}")


@app.command()
@_guarded
def score(
    path: Annotated[
        Path, typer.Argument(metavar="FILE", help="FASTA, or CSV with a column 'sequence'.")
    ],
    campaign: Annotated[
        Path, typer.Option("--campaign", "-c", metavar="CAMPAIGN.yaml", help="The campaign.")
    ],
    out: Annotated[Path | None, typer.Option("--out", help="A CSV file; else stdout.")] = None,
    run_folder: Annotated[
        Path | None,
        typer.Option(
            "--run", help="The run whose z-score constants hold; by default the campaign's own."
        ),
    ] = None,
    prior: Annotated[
        bool, typer.Option("--prior/--no-prior", help="Log-likelihoods; most of the time.")
    ] = True,
    overrides: _Set = None,
    as_json: _Json = False,
) -> None:
    """Score your own sequences by a campaign's rewards, prior and constraints."""
    plan, source = _plan(campaign, overrides)
    candidates = read_candidates(path, plan)
    folder = run_folder or source.folder / plan.campaign.output.dir / plan.campaign.name
    constants = None
    if open_zscores(plan.objective):
        constants = stored_constants(plan, RunFolder(folder))
        if constants is None and run_folder is not None:
            raise _fail(f"{run_folder} is no finished run of this campaign. Leave --run out.", 2)
        if constants is None:
            typer.echo(
                "note: no scaled columns and no total: z-score constants are fixed by a run of "
                f"this campaign, and {folder} holds none.",
                err=True,
            )
    sequences = [c.sequence for c in candidates]
    calls = len(set(sequences)) * PRIOR_ORDERS * plan.letters.space.free
    with _counted(calls, "log-likelihoods", as_json or not prior) as count:
        rows, columns = score_table(
            plan, sequences, constants=constants, prior=prior, evaluating=count
        )
    rows = [{"id": c.id, **row} for c, row in zip(candidates, rows, strict=True)]
    columns = ["id", *columns]
    if as_json:
        some = [{k: finite(row[k]) for k in columns} for row in rows]
        typer.echo(json.dumps({"campaign": plan.campaign.name, "rows": some}, ensure_ascii=False))
    if out is not None:
        write_atomic(out, to_csv(rows, columns))
    elif not as_json:
        typer.echo(to_csv(rows, columns), nl=False)


@contextmanager
def _counted(total: int, what: str, quiet: bool) -> Any:
    """Yield a function that takes calls as they are made; a bar on a terminal shows them."""
    if quiet or not sys.stderr.isatty():
        yield lambda calls: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} calls"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda calls: bar.advance(task, calls)


_Dir = Annotated[Path, typer.Argument(metavar="DIR", help="A finished run folder.")]


@app.command()
@_guarded
def select(
    folder: _Dir,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Change an option of the run: --set select.top=24, select.filters, "
            "select.rank_by, select.diversity.min_mutations_apart (repeatable).",
        ),
    ] = None,
    as_json: _Json = False,
) -> None:
    """Filter and rank the designs of a run again; nothing is sampled or scored.

    Each call starts from the options the run had, so without --set its own choice comes back.
    """
    run_folder = RunFolder(folder)
    summary = reselect(run_folder, overrides or [])
    if as_json:
        keys = ("name", "designs", "rejected", "select")
        data = {k: summary[k] for k in keys}
        typer.echo(json.dumps({**data, "folder": str(run_folder.path)}, ensure_ascii=False))
    else:
        for line in (
            f"{summary['designs']} designs kept, {summary['rejected']} rejected.",
            f"Designs: {run_folder.path / 'designs.csv'}",
            f"Report:  {run_folder.path / 'report.html'}",
        ):
            typer.echo(line)
    if not summary["designs"]:
        raise _fail(
            f"nothing passed: all {summary['rejected']} designs were rejected. "
            f"{run_folder.path / 'rejected.csv'} and the report say why.",
            3,
        )


@app.command(name="status")
@_guarded
def status_(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run folder.")],
    as_json: _Json = False,
) -> None:
    """Show how far a run is: islands done, best reward, time left."""
    found = status(RunFolder(folder))
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    state = "finished" if found["finished"] else "running" if found["running"] else "not running"
    console = _out()
    console.print(Text.assemble((found["name"], "bold"), f": {state}"))
    table = Table("", "method", "islands done", "designs per island", "best objective", "time")
    for name, arm in found["arms"].items():
        table.add_row(
            name,
            arm["method"],
            f"{arm['done']} of {arm['islands']}",
            str(arm["particles"]),
            _number(arm["best"], 3),
            _duration(arm["seconds"]),
        )
    console.print(table)
    lines = []
    if found["finished"]:
        lines.append(f"{found['designs']} designs kept, {found['rejected']} rejected.")
        if found["best"] is not None:
            best = dict(found["best"])
            name = best.pop("id")
            what = [best.pop(k) for k in ("sequence", "prompt", "file") if k in best]
            lines.append(f"Best: {name} {' '.join(filter(None, what))}")
            lines.append("  " + ", ".join(f"{k} {_number(v, 3)}" for k, v in best.items()))
    else:
        left = found["seconds_left"]
        if left is not None:
            lines.append(f"About {_duration(left)} of sampling left.")
        if not found["running"]:
            lines.append("The command that started it continues it.")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


class _Plate(StrEnum):
    small = "96"
    large = "384"


@app.command(name="export")
@_guarded
def export_(
    folder: _Dir,
    as_fasta: Annotated[bool, typer.Option("--fasta", help="designs.fasta: id, sequence.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="designs.csv: a short table.")] = False,
    plate: Annotated[
        _Plate | None, typer.Option("--plate", help="plate-1.csv, ...: well, id, sequence.")
    ] = None,
    control: Annotated[
        bool, typer.Option("--control", help="The wild type in the last well of every plate.")
    ] = False,
    top: Annotated[int | None, typer.Option("--top", min=1, help="The best so many.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write to; by default DIR/export.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    as_json: _Json = False,
) -> None:
    """Write the designs of a run as FASTA, CSV or plate maps, best first."""
    run_folder = RunFolder(folder)
    size: Wells | None = None if plate is None else 96 if plate is _Plate.small else 384
    paths = export(
        run_folder,
        out or run_folder.path / "export",
        as_fasta=as_fasta,
        as_csv=as_csv,
        plate=size,
        control=control,
        top=top,
        force=force,
    )
    if as_json:
        typer.echo(json.dumps({"files": [str(p) for p in paths]}, ensure_ascii=False))
    else:
        typer.echo("\n".join(map(str, paths)))


@app.command(name="compare")
@_guarded
def compare_(
    folders: Annotated[list[Path], typer.Argument(metavar="A B ...", help="Finished run folders.")],
    as_json: _Json = False,
) -> None:
    """Show the methods of several runs side by side, with the network calls of each."""
    found = compare([RunFolder(folder) for folder in folders])
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    keys = [
        k
        for k in ("total", "n_mut", "prior_per_residue", "diversity", "vendi")
        if k in found["rows"][-1]
    ]
    heads = {
        "total": "sum of\nthe guides",
        "n_mut": "mutations",
        "prior_per_residue": "log-likelihood\nnats/residue",
        "diversity": f"diversity\n{found['diversity']}",
        "vendi": "Vendi score\nper prompt",
    }
    table = Table("run", "row", "method", "designs")
    for label in found["labels"]:
        unit = found["units"].get(label) or ""
        table.add_column(label + (f"\n{unit}" if unit else ""), justify="right")
    for key in (*keys, "network_calls"):
        table.add_column(heads.get(key, "network\ncalls"), justify="right")
    last = None
    for row in found["rows"]:
        if last not in (None, "", row["run"]):
            table.add_section()
        calls = row["network_calls"]
        table.add_row(
            row["run"] if row["run"] != last else "",
            row["row"],
            row["method"] or "",
            row["which"],
            *(_number(row.get(k)) for k in found["labels"]),
            *(_number(row.get(k), 3 if k == "prior_per_residue" else 2) for k in keys),
            "" if calls is None else f"{calls:,}",
            style="bold" if row["row"] == "aligned" else None,
        )
        last = row["run"]
    console = _out()
    console.print(table)
    for note in found["notes"]:
        console.print(f"note: {note}", highlight=False, soft_wrap=True)


@app.command(name="report")
@_guarded
def report_(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A finished run folder.")],
) -> None:
    """Write report.html of a finished run again: one offline file."""
    run_folder = RunFolder(folder)
    summary = run_folder.read_json("summary.json")
    run_folder.write("report.html", report.render(run_folder, summary))
    typer.echo(run_folder.path / "report.html")


# what there is ------------------------------------------------------------------------------------


def _catalog(kind: registry.Kind, name: str | None, as_json: bool) -> None:
    console = _out()
    if name is not None:
        data = registry.card(kind, name)
        if as_json:
            typer.echo(json.dumps(data, default=str, ensure_ascii=False))
            return
        console.print(Text(name, style="bold"))
        for key, value in data.items():
            if key == "name" or value in (None, "", []):
                continue
            text = (
                value
                if isinstance(value, str)
                else yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)
            )
            text = text.strip().removesuffix("\n...")
            inline = "\n" not in text and len(text) < 100
            body = (
                f" {text}"
                if inline
                else "\n" + "\n".join(f"  {line}" for line in text.splitlines())
            )
            console.print(
                Text.assemble((f"{str(key).replace('_', ' ')}:", "bold"), body), soft_wrap=True
            )
        return
    found = {n: registry.describe(kind, n) for n in registry.names(kind)}
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    width = max(map(len, found), default=0)
    for n, text in found.items():
        console.print(Text.assemble((f"{n:<{width}}", "bold"), f"  {text}"), soft_wrap=True)
    console.print(f"\nseqalign {kind}s NAME shows the card.", highlight=False)


_Name = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="Show this card.", show_default=False)
]


@app.command()
@_guarded
def rewards(name: _Name = None, as_json: _Json = False) -> None:
    """List rewards, or show the card of one: what it predicts, unit, direction, needs, paper."""
    _catalog("reward", name, as_json)


@app.command()
@_guarded
def models(name: _Name = None, as_json: _Json = False) -> None:
    """List models, or show the card of one."""
    _catalog("model", name, as_json)


@app.command()
@_guarded
def methods(name: _Name = None, as_json: _Json = False) -> None:
    """List methods, or show the card of one."""
    _catalog("method", name, as_json)


@app.command()
@_guarded
def fetch(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="Published weights.", show_default=False),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: _Json = False,
) -> None:
    """Download published weights by name; without a name, list them. Nothing else downloads."""
    entries, root = weights.catalog(), weights.folder()
    if name is None:
        _weights(entries, root, as_json)
        return
    if name not in entries:
        raise _fail(
            f"There are no published weights {name!r}.{weights.nearest(name, entries)} "
            "seqalign fetch lists the names.",
            2,
        )
    entry = entries[name]
    err = Console(stderr=True, soft_wrap=True, highlight=False)
    missing = entry.missing(root)
    if missing:
        _announce(err, entry, root, missing)
        if not yes:
            if not sys.stdin.isatty():
                raise _fail(f"say yes to the above: seqalign fetch {name} --yes", 2)
            if not typer.confirm("Download?", default=True, err=True):
                raise _fail("nothing was downloaded", 5)
    try:
        with _terminable(), _transfer(err) as progress:
            found = downloads.fetch(entry, root, catalog=entries, progress=progress)
    except downloads.FetchError as error:
        raise _fail(str(error), 4) from None
    except KeyboardInterrupt:
        again = shlex.join(["seqalign", *sys.argv[1:]])
        raise _fail(f"interrupted. Continue with: {again}", 5) from None
    location = entry.location(root)
    if as_json:
        files_ = [
            {"path": str(f.path), "sha256": f.sha256, "verified": f.verified, "new": f.new}
            for f in found
        ]
        typer.echo(json.dumps({"name": name, "path": str(location), "files": files_}))
        return
    for f in found:
        err.print(f"{f.path}: {_VERIFIED[f.verified]}")
    typer.echo(location)


_VERIFIED = {
    "sha256": "verified by its sha256.",
    "git_sha1": "verified by its id in the publisher's git repository.",
    "record": "verified by the sha256 recorded when it came.",
    "recorded": "no hash of it is known here, so that nothing could verify it; its sha256 was "
    "recorded beside it and is checked from now on.",
}


def _size(size: int | None) -> str:
    if not size:
        return "size unknown"
    unit = next((u for u in ("kB", "MB") if size < 1000 ** (2 + (u == "MB"))), "GB")
    return f"{size / {'kB': 1e3, 'MB': 1e6, 'GB': 1e9}[unit]:.1f} {unit}"


def _weights(entries: Mapping[str, weights.Entry], root: Path, as_json: bool) -> None:
    """List the catalog and what is there already."""
    if as_json:
        rows = {
            n: {
                "summary": e.summary,
                "licence": e.licence,
                "bytes": e.size,
                "path": str(e.location(root)),
                "there": not e.missing(root),
            }
            for n, e in entries.items()
        }
        typer.echo(json.dumps(rows, ensure_ascii=False))
        return
    console = _out()
    width = max(map(len, entries))
    for n, e in entries.items():
        known = sum(p.size or 0 for p in e.parts)
        # where only some small files are of known size, that says nothing
        size = _size(e.size) if e.size or known < 1e6 else f"> {_size(known)}"
        there = "there" if not e.missing(root) else size
        console.print(
            Text.assemble((f"{n:<{width}}", "bold"), f"  {there:>12}  {e.summary}"),
            soft_wrap=True,
        )
    console.print(
        f"\nWeights folder: {root}\nseqalign fetch NAME shows size and licence, asks, downloads "
        "and verifies.",
        highlight=False,
        soft_wrap=True,
    )


def _announce(
    console: Console, entry: weights.Entry, root: Path, missing: tuple[Path, ...]
) -> None:
    """Say what would be downloaded, from where, under which licence."""
    rows = [
        (entry.name, entry.summary),
        ("licence", entry.licence),
        ("paper", entry.paper),
        ("source", entry.source),
    ]
    for key, text in rows:
        console.print(Text.assemble((f"{key}: ", "bold"), text))
    for part in entry.parts:
        if root / part.path in missing:
            known = part.sha256 and f"sha256 {part.sha256}"
            known = known or (part.git_sha1 and f"git id {part.git_sha1}")
            console.print(
                Text.assemble(
                    ("file: ", "bold"),
                    f"{root / part.path}, {_size(part.size)}, from {part.url}, "
                    f"{known or 'no published hash known here'}",
                )
            )


@contextmanager
def _transfer(console: Console) -> Any:
    """Show a bar on a terminal; elsewhere one line per file."""
    if not sys.stderr.isatty():
        seen: set[str] = set()

        def line(part: weights.Part, so_far: int, total: int | None) -> None:
            if part.path not in seen:
                seen.add(part.path)
                console.print(f"downloading {part.path}, {_size(total)}")

        yield line
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def update(part: weights.Part, so_far: int, total: int | None) -> None:
            if part.path not in tasks:
                tasks[part.path] = bar.add_task(part.path, total=total)
            bar.update(tasks[part.path], completed=so_far)

        yield update


@app.command()
@_guarded
def cite(
    path: Annotated[Path, typer.Argument(metavar="CAMPAIGN.yaml", help="The campaign.")],
    overrides: _Set = None,
) -> None:
    """Print BibTeX of exactly what a campaign uses."""
    campaign, source = read(path, overrides or [])
    library = yaml.safe_load(
        files("seqalign").joinpath("data", "references.yaml").read_text("utf-8")
    )
    try:
        images = registry.draws_images(campaign.model.name)
    except registry.SpecError as error:
        raise source.error(("model", "name"), str(error)) from error
    found: list[str] = list(library["always"])
    for part in ("gaussian", "vendi") if images else ("masked", "prior"):
        found += library["parts"][part]
    used = [campaign.sampler.name, *campaign.baselines]
    for name in used:
        found += library["methods"].get(name, [])
    try:
        method = registry.build_method(campaign.sampler.name, campaign.sampler.model_extra or {})
    except registry.SpecError as error:
        raise source.error(("sampler", *(error.path or ("name",))), str(error)) from error
    rule = registry.to_mapping(method)
    if rule.get("resample", {}).get("scheme") == "ssp":
        found += library["parts"]["ssp"]
    if rule.get("tempering", {}).get("name") == "adaptive":
        found += library["parts"]["adaptive"]
    loose = []
    cards: list[tuple[registry.Kind, str, tuple[str, ...]]] = [
        ("model", campaign.model.name, ("model", "name"))
    ]
    for label, spec in campaign.rewards.items():
        if spec.oracle is not None:
            cards.append(("reward", spec.oracle, ("rewards", label, "oracle")))
    for kind, name, where in cards:
        try:
            data = registry.card(kind, name)
        except registry.SpecError as error:
            raise source.error(where, str(error)) from error
        for key in ("bibtex", "references", "paper", "citation"):
            given = data.get(key) or []
            for text in [given] if isinstance(given, str) else given:
                if str(text).lstrip().startswith("@"):
                    found.append(str(text))
                else:
                    loose.append(f"% {kind} {name}: {' '.join(str(text).split())}")
    # a paper that several parts rest on is cited once, by its BibTeX key
    unique = {re.sub(r"^@\w+\{([^,]+),.*", r"\1", text.strip(), flags=re.S): text for text in found}
    typer.echo("\n\n".join(text.strip() for text in unique.values()))
    if loose:
        typer.echo("\n" + "\n".join(dict.fromkeys(loose)))


@app.command()
@_guarded
def doctor(as_json: _Json = False) -> None:
    """Show versions, devices, threads, extras, and what does not work."""
    packages = {}
    for name in (
        "seqalign",
        "torch",
        "numpy",
        "scipy",
        "pydantic",
        "typer",
        "rich",
        "matplotlib",
        "jinja2",
        "biopython",
        "fair-esm",
        "safetensors",
    ):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "missing"
    problems = [f"{n} is missing: pip install {n}" for n, v in packages.items() if v == "missing"]
    owners = sorted(set(packages_distributions().get("esm", [])))
    if len(owners) > 1:
        problems.append(
            f"{' and '.join(owners)} both install the import name 'esm', and one hides the other. "
            "Keep one per environment: "
            f"pip uninstall esm (EvolutionaryScale) if you use ESM-2 or ESM-IF through fair-esm."
        )
    broken = {}
    for kind in ("reward", "model", "method"):
        for name in registry.names(kind):
            try:
                registry.entry(kind, name).load()
            except Exception as error:
                broken[f"{kind} {name}"] = f"{type(error).__name__}: {error}"
    problems += [f"{what} cannot be loaded ({why})" for what, why in broken.items()]
    devices = ["cpu"]
    if torch.cuda.is_available():
        devices += [
            f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())
        ]
    if torch.backends.mps.is_available():
        devices.append("mps")
    data = {
        "python": sys.version.split()[0],
        "packages": packages,
        "devices": devices,
        "threads": torch.get_num_threads(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", ""),
        "esm": owners or ["nothing"],
        "found": {f"{k}s": len(registry.names(k)) for k in ("reward", "model", "method")},
        "problems": problems,
    }
    if as_json:
        typer.echo(json.dumps(data))
    else:
        console = _out()
        for key, value in data.items():
            if key == "problems":
                continue
            text = (
                ", ".join(f"{k} {v}" for k, v in value.items())
                if isinstance(value, dict)
                else value
            )
            text = ", ".join(map(str, text)) if isinstance(text, list) else text
            console.print(Text.assemble((f"{key}: ", "bold"), str(text)), soft_wrap=True)
        for line in problems:
            console.print(Text.assemble(("problem: ", "bold red"), line), soft_wrap=True)
        if not problems:
            console.print("No problems found.", style="green")
    if problems:
        raise typer.Exit(4)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
