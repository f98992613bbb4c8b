"""The command line: one verb per function, from `new` and `check` to `run`, `select`, `export`.

Each reads its options, calls the function of the same name in `campaign/`, and shows what it
returns. Exit codes: 0 done, 2 bad input, 3 nothing passed the filters, 4 resources, 5 interrupted
and resumable.
"""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable
from enum import StrEnum
from importlib.metadata import version
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, ParamSpec, TypeVar

import typer

from seqalign import registry
from seqalign.campaign.check import check
from seqalign.campaign.compare import compare
from seqalign.campaign.design_map import places
from seqalign.campaign.estimate import estimate
from seqalign.campaign.export import Wells, export
from seqalign.campaign.medium import Plan
from seqalign.campaign.new import new
from seqalign.campaign.report.page import report
from seqalign.campaign.run import run
from seqalign.campaign.score import evaluation_calls, read_candidates, score, stored_constants
from seqalign.campaign.select import select
from seqalign.campaign.status import status
from seqalign.campaign.store import RunFolder
from seqalign.campaign.summary import Summary, to_json
from seqalign.campaign.yaml import parse, read
from seqalign.cli import catalog, screen
from seqalign.cli.screen import CampaignFile, Json, Set, fail
from seqalign.core.objective import open_zscores
from seqalign.files.text import finite, to_csv, write_atomic

P = ParamSpec("P")
R = TypeVar("R")
app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Reward-guided design of biological sequences and images from pretrained diffusion "
    "models.",
    epilog="Exit codes: 0 done, 2 bad input, 3 nothing passed the filters, 4 resources, "
    "5 interrupted (the same command continues).",
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


def _verb(command: Callable[P, R]) -> Callable[P, R]:
    """Make a function a verb; an underscore tells it from the function it calls."""
    return app.command(name=command.__name__.removesuffix("_"))(screen.guarded(command))


# campaigns ----------------------------------------------------------------------------------------

Out = Annotated[
    Path | None,
    typer.Option("--out", help="Run folder; by default output.dir/name beside the file."),
]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Start over: delete what the run folder holds.")
]


def _execute(plan: Plan, folder: RunFolder, fresh: bool, as_json: bool) -> None:
    finished = folder.done and not fresh
    with screen.terminable(), screen.Watch(plan, quiet=as_json) as watch:
        summary = run(plan, folder, fresh=fresh, progress=watch.step, evaluating=watch.evaluate)
    if as_json:
        screen.show_json({**finite(to_json(summary)), "folder": str(folder.path)})
    else:
        if finished:
            screen.show("This run was already complete; --fresh starts over.\n")
        screen.show(screen.table_of(summary), *screen.notes(summary, folder))
    _kept(summary, folder)


def _kept(summary: Summary, folder: RunFolder) -> None:
    """Say so where no design was kept."""
    if not summary.designs:
        raise fail(
            f"nothing passed: all {summary.rejected} designs were rejected. "
            f"{folder.path / 'rejected.csv'} and the report say why.",
            3,
        )


class _Demo(StrEnum):
    backbone = "backbone"
    pdz3 = "pdz3"


@_verb
def demo(
    which: Annotated[
        _Demo, typer.Argument(help="backbone: inverse folding. pdz3: around a wild type.")
    ] = _Demo.backbone,
    out: Annotated[
        Path | None, typer.Option("--out", help="Run folder; by default seqalign-demo-WHICH.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A small run of a few seconds.")] = False,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Another seed.")] = None,
    fresh: Fresh = False,
    as_json: Json = False,
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
        plan = check(*parse((folder / name).read_text("utf-8"), name, folder, overrides))
    _execute(plan, RunFolder(out or Path(f"seqalign-demo-{which.value}")), fresh, as_json)


def _plan(path: Path, overrides: list[str] | None) -> Plan:
    return check(*read(path, overrides or []))


@_verb
def run_(
    path: CampaignFile,
    out: Out = None,
    fresh: Fresh = False,
    overrides: Set = None,
    as_json: Json = False,
) -> None:
    """Run a campaign, or continue it: the same command after a crash loses no finished island."""
    plan = _plan(path, overrides)
    _execute(plan, RunFolder(out or plan.folder), fresh, as_json)


@_verb
def check_(path: CampaignFile, overrides: Set = None, as_json: Json = False) -> None:
    """Validate everything before anything runs: design map, calls, time, memory."""
    plan = _plan(path, overrides)
    cost = estimate(plan)
    if as_json:
        screen.show_json(
            {
                "ok": True,
                "name": plan.campaign.name,
                **plan.medium.asked(plan),
                "places": places(plan.campaign, plan.model),
                "islands": plan.islands,
                "network_calls": cost.network,
                "oracle_calls": cost.oracle,
                "seconds": cost.seconds,
                "gigabytes": finite(cost.gigabytes),
            }
        )
        return
    console = screen.terminal()
    say = functools.partial(console.print, highlight=False, markup=False, soft_wrap=True)
    say(f"{plan.source.file}: fine.", style="bold green")
    plan.medium.say(plan, say)
    for text, residues in places(plan.campaign, plan.model).items():
        say(f"  {text} = {residues}")
    screen.say_parts(plan, cost, say)


# around a run -------------------------------------------------------------------------------------


def _completed(incomplete: str) -> list[str]:
    return [name for name in registry.names("model") if name.startswith(incomplete)]


@_verb
def new_(
    given: Annotated[
        Path, typer.Argument(metavar="X", help="A structure (.pdb, .cif) or wild type (.fasta).")
    ],
    out: Annotated[Path, typer.Option("--out", help="The file to write.")] = Path("campaign.yaml"),
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="A model; by default one that fits the file.",
            autocompletion=_completed,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Write a commented campaign.yaml for a structure or a wild type."""
    if out.is_dir():
        raise fail(f"{out} is a folder; give --out a file name, as {out / 'campaign.yaml'}.", 2)
    if out.exists() and not force:
        raise fail(f"{out} is there already. Choose another --out, or say --force.", 2)
    made = new(given, out, model)
    write_atomic(out, made.text)
    if as_json:
        screen.show_json({"campaign": out, "model": made.model, "notes": made.notes})
        return
    for note in made.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"{out}\nNext: {shlex.join(['seqalign', 'check', str(out)])}")


@_verb
def score_(
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
    overrides: Set = None,
    as_json: Json = False,
) -> None:
    """Score your own sequences by a campaign's rewards, prior and constraints."""
    plan = _plan(campaign, overrides)
    candidates = read_candidates(path, plan)
    folder = run_folder or plan.folder
    constants = None
    if open_zscores(plan.objective):
        constants = stored_constants(plan, RunFolder(folder))
        if constants is None and run_folder is not None:
            raise fail(f"{run_folder} is no finished run of this campaign. Leave --run out.", 2)
        if constants is None:
            typer.echo(
                "note: no scaled columns and no total: z-score constants are fixed by a run of "
                f"this campaign, and {folder} holds none.",
                err=True,
            )
    sequences = [sequence for _, sequence in candidates]
    calls = evaluation_calls(plan, len(set(sequences)))
    with screen.counted(calls, "log-likelihoods", as_json or not prior) as count:
        rows, columns = score(plan, sequences, constants=constants, prior=prior, evaluating=count)
    rows = [{"id": name, **row} for (name, _), row in zip(candidates, rows, strict=True)]
    columns = ["id", *columns]
    if as_json:
        some = [{k: finite(row[k]) for k in columns} for row in rows]
        screen.show_json({"campaign": plan.campaign.name, "rows": some})
    if out is not None:
        write_atomic(out, to_csv(rows, columns))
    elif not as_json:
        typer.echo(to_csv(rows, columns), nl=False)


_Dir = Annotated[Path, typer.Argument(metavar="DIR", help="A finished run folder.")]


@_verb
def select_(
    folder: _Dir,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Change an option of the run: --set select.top=24, select.filters, "
            "select.rank_by, select.diversity.min_mutations_apart (repeatable).",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Filter and rank the designs of a run again; nothing is sampled or scored.

    Each call starts from the options the run had, so without --set its own choice comes back.
    """
    run_folder = RunFolder(folder)
    summary = select(run_folder, overrides or [])
    if as_json:
        screen.show_json(
            {key: getattr(summary, key) for key in ("name", "designs", "rejected", "select")}
            | {"folder": run_folder.path}
        )
    else:
        typer.echo(f"{summary.designs} designs kept, {summary.rejected} rejected.")
        typer.echo(f"Designs: {run_folder.path / 'designs.csv'}")
        typer.echo(f"Report:  {run_folder.path / 'report.html'}")
    _kept(summary, run_folder)


@_verb
def status_(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run folder.")],
    as_json: Json = False,
) -> None:
    """Show how far a run is: islands done, best reward, time left."""
    found = status(RunFolder(folder))
    if as_json:
        screen.show_json(found.to_json())
        return
    state = "finished" if found.finished else "running" if found.running else "not running"
    lines = []
    if found.finished:
        lines.append(f"{found.designs} designs kept, {found.rejected} rejected.")
        if found.best is not None:
            words = [v for v in found.best.values() if v and isinstance(v, str)]
            numbers = {k: v for k, v in found.best.items() if not isinstance(v, str)}
            lines.append(f"Best: {' '.join(words)}")
            lines.append("  " + ", ".join(f"{k} {screen.number(v, 3)}" for k, v in numbers.items()))
    else:
        if found.seconds_left is not None:
            lines.append(f"About {screen.duration(found.seconds_left)} of sampling left.")
        if not found.running:
            lines.append("The command that started it continues it.")
    screen.say(screen.terminal(), found.name, f": {state}")
    screen.show(screen.progress(found), *lines)


class _Plate(StrEnum):
    small = "96"
    large = "384"


@_verb
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
    as_json: Json = False,
) -> None:
    """Write the designs of a run as FASTA, CSV or plate maps, best first."""
    size: Wells | None = None if plate is None else 96 if plate is _Plate.small else 384
    paths = export(
        RunFolder(folder),
        out or folder.resolve() / "export",
        as_fasta=as_fasta,
        as_csv=as_csv,
        plate=size,
        control=control,
        top=top,
        force=force,
    )
    if as_json:
        screen.show_json({"files": paths})
    else:
        typer.echo("\n".join(map(str, paths)))


@_verb
def compare_(
    folders: Annotated[list[Path], typer.Argument(metavar="A B ...", help="Finished run folders.")],
    as_json: Json = False,
) -> None:
    """Show the methods of several runs side by side, with the network calls of each."""
    found = compare([RunFolder(folder) for folder in folders])
    if as_json:
        screen.show_json(found.to_json())
        return
    screen.show(screen.side_by_side(found), *(f"note: {note}" for note in found.notes))


@_verb
def report_(folder: _Dir) -> None:
    """Write report.html of a finished run again: one offline file."""
    typer.echo(report(RunFolder(folder)))


# what there is ------------------------------------------------------------------------------------

for _each in catalog.__all__:
    _verb(getattr(catalog, _each))


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
