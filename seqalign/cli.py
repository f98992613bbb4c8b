"""The command line: demo, check, run, report, rewards, models, methods, cite, doctor.

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
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.resources import as_file, files
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, ParamSpec, TypeVar

import torch
import typer
import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from seqalign import registry, report
from seqalign.campaign import CampaignError, Source, read
from seqalign.executor import REFERENCES, open_zscores
from seqalign.outcome import run as execute
from seqalign.particles import Step
from seqalign.plan import PRIOR_ORDERS, Plan, estimate, prepare
from seqalign.store import RunFolder

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Reward-guided design of biological sequences from pretrained diffusion models.",
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


def _guarded(command: Callable[P, R]) -> Callable[P, R]:
    """Turn errors of the user into a message and an exit code; others keep their traceback."""

    @functools.wraps(command)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        again = shlex.join(["seqalign", *sys.argv[1:]])
        try:
            return command(*args, **kwargs)
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
                raise _fail(str(error), 2) from None
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
    """Reward-guided design of biological sequences."""


# progress -----------------------------------------------------------------------------------------


class _Watch:
    """Show calls, best reward and time left: a bar on a terminal, one line per tenth elsewhere."""

    def __init__(self, plan: Plan, quiet: bool) -> None:
        self.plan, self.quiet = plan, quiet
        space = plan.model.space
        designs = sum(a.particles for a in plan.arms) * plan.islands + 1
        self.total = plan.network_calls + designs * PRIOR_ORDERS * space.free
        if open_zscores(plan.objective):
            self.total += REFERENCES * space.free
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
    table.add_column("log-likelihood\nnats/residue", justify="right")
    table.add_column("diversity\nmutations apart", justify="right")
    for row in summary["rows"]:
        cells = [_number(row.get(label)) for label in labels]
        if any("n_mut" in r for r in summary["rows"]):
            cells.append(_number(row.get("n_mut"), 1))
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
    lines = [
        f"top: by the sum of the guiding rewards ({', '.join(summary['guides'])}), higher is "
        "better; hold-outs were never optimized.",
        f"Network calls: {', '.join(parts)}. Reward calls: "
        f"{', '.join(f'{k} {v:,}' for k, v in summary['reward_calls'].items())}.",
        f"{summary['designs']} designs kept, {summary['rejected']} rejected.",
        f"Designs: {folder.path / 'designs.csv'}",
        f"Report:  {folder.path / 'report.html'}",
    ]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


@app.command()
@_guarded
def demo(
    out: Annotated[Path, typer.Option("--out", help="Run folder.")] = Path("seqalign-demo"),
    quick: Annotated[bool, typer.Option("--quick", help="A small run of a few seconds.")] = False,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Another seed.")] = None,
    fresh: _Fresh = False,
    as_json: _Json = False,
) -> None:
    """Design PSD-95 PDZ3 variants that are more stable and bind tighter; nothing to download."""
    overrides = ["sampler.particles=12"] if quick else []
    if seed is not None:
        overrides.append(f"seed={seed}")
    with as_file(files("seqalign").joinpath("data", "demo.yaml")) as path:
        plan = prepare(*read(path, overrides, label="demo.yaml"))
    _execute(plan, RunFolder(out), fresh, as_json)


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
    space = plan.model.space
    if as_json:
        data = {
            "ok": True,
            "name": plan.campaign.name,
            "length": space.length,
            "free": space.free,
            "fixed": space.length - space.free,
            "allowed": {
                str(i + 1): a
                for i, a in enumerate(space.allowed)
                if space.fixed[i] == space.alphabet.mask_symbol
            },
            "max_mutations": space.max_mutations,
            "islands": plan.islands,
            "network_calls": dict(cost.network),
            "oracle_calls": dict(cost.oracle),
            "seconds": cost.seconds,
            "gigabytes": cost.gigabytes,
        }
        typer.echo(json.dumps(data))
        return
    console = _out()
    say = functools.partial(console.print, highlight=False, soft_wrap=True)
    say(f"{plan.source.file}: fine.", style="bold green")
    say(
        f"\nDesign map ({space.length} positions, {space.free} free, {space.length - space.free} "
        "fixed"
        + (f", at most {space.max_mutations} mutations" if space.max_mutations is not None else "")
        + ")"
    )
    for line in _map(plan):
        say(line)
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
    """Draw the design map: wild type, and below it . fixed, * free, + free with fewer letters."""
    space = plan.model.space
    free = space.alphabet.mask_symbol
    letters = space.alphabet.letters
    top = space.wild_type or "".join(a if a != free else "?" for a in space.fixed)
    marks = "".join(
        "." if space.fixed[i] != free else ("*" if len(space.allowed[i]) == len(letters) else "+")
        for i in range(space.length)
    )
    lines = []
    for start in range(0, space.length, 60):
        ruler = "".join(f"{i + 1:<10d}" for i in range(start, min(start + 60, space.length), 10))
        lines += [
            f"  {ruler.rstrip()}",
            f"  {top[start : start + 60]}",
            f"  {marks[start : start + 60]}",
        ]
    lines.append("  . fixed   * free   + free, fewer letters")
    groups: dict[str, list[int]] = {}
    for i, some in enumerate(space.allowed):
        if marks[i] == "+":
            groups.setdefault(some, []).append(i + 1)
    for some, where in groups.items():
        missing = "".join(a for a in letters if a not in some)
        text = f"all but {missing}" if len(missing) < len(some) else some
        lines.append(f"  {_ranges(where)}: {text}")
    return lines


def _ranges(numbers: list[int]) -> str:
    parts: list[list[int]] = []
    for n in numbers:
        if parts and n == parts[-1][-1] + 1:
            parts[-1].append(n)
        else:
            parts.append([n])
    return ", ".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else str(p[0]) for p in parts)


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
def cite(
    path: Annotated[Path, typer.Argument(metavar="CAMPAIGN.yaml", help="The campaign.")],
    overrides: _Set = None,
) -> None:
    """Print BibTeX of exactly what a campaign uses."""
    campaign, source = read(path, overrides or [])
    library = yaml.safe_load(
        files("seqalign").joinpath("data", "references.yaml").read_text("utf-8")
    )
    found: list[str] = [*library["always"], *library["parts"]["masked"], *library["parts"]["prior"]]
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
