"""The command line: one verb per function, from `new` and `check` to `run`, `select`, `export`.

Each reads its options, calls the function of the same name in `campaign/`, and shows what it
returns. Exit codes: 0 done, 2 bad input, 3 nothing passed the filters, 4 resources, 5 interrupted
and resumable.
"""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from importlib.metadata import version
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import typer

from seqalign import registry
from seqalign.campaign.check import check
from seqalign.campaign.compare import compare
from seqalign.campaign.estimate import Estimate, estimate
from seqalign.campaign.export import export
from seqalign.campaign.medium import Plan
from seqalign.campaign.new import Reading, backbone_model, new
from seqalign.campaign.report.page import report
from seqalign.campaign.run import run
from seqalign.campaign.score import evaluation_calls, read_candidates, score, stored_constants
from seqalign.campaign.select import select, without_likelihood
from seqalign.campaign.status import status
from seqalign.campaign.store import RunFolder
from seqalign.campaign.summary import Summary, to_json
from seqalign.campaign.yaml import parse, read
from seqalign.cli import catalog, screen
from seqalign.cli.screen import CampaignFile, Json, Set, fail
from seqalign.core.objective import open_zscores
from seqalign.files.gene import Order
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
        Path | None, typer.Option("--out", help="Run folder; by default seqalign-demo-WHICH-MODEL.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A small run of a few seconds.")] = False,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Another seed.")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="For backbone; by default proteinmpnn where its weights are, else mpnn-mini.",
        ),
    ] = None,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Run a whole campaign; nothing is downloaded.

    backbone: sequences for the SUMO-like domain of PDB entry 3A4R that should be more stable than
    its own, by the published ProteinMPNN where it was fetched. pdz3: variants of PSD-95 PDZ3 that
    are more stable and bind more tightly, by an embedded model.
    """
    overrides = ["sampler.particles=12"] if quick else []
    if seed is not None:
        overrides.append(f"seed={seed}")
    said, place = "", f"seqalign-demo-{which.value}"
    if which is _Demo.backbone:
        chosen = model or backbone_model()
        overrides.append(f"model.name={chosen}")
        place += f"-{chosen}"
        if model is None and chosen == "mpnn-mini":
            said = (
                "Designed with mpnn-mini, a small embedded network, as the published weights of "
                "ProteinMPNN are not on this machine; seqalign fetch proteinmpnn brings them."
            )
    elif model is not None:
        raise fail(f"--model {model}: pdz3 has a model of its own. Leave --model out.", 2)
    if said:
        typer.echo(said, err=as_json)
    name = f"demo-{which.value}.yaml"
    with as_file(files("seqalign").joinpath("data")) as folder:
        plan = check(*parse((folder / name).read_text("utf-8"), name, folder, overrides))
    if said:
        resolved = plan.config["resolved"]
        notes = [said, *resolved.get("notes", ())]
        plan = replace(plan, config={**plan.config, "resolved": {**resolved, "notes": notes}})
    _execute(plan, RunFolder(out or Path(place)), fresh, as_json)


def _plan(path: Path, overrides: list[str] | None) -> Plan:
    plan = check(*read(path, overrides or []))
    for note in plan.notes:
        typer.echo(f"note: {note}", err=True)
    return plan


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


def _most(plan: Plan, cost: Estimate | None) -> dict[str, Any]:
    """Return what the longest run costs, where a run stops by itself."""
    if cost is None:
        return {}
    calls = {"network_calls": cost.network, "oracle_calls": cost.oracle}
    return {"at_most": {"islands": plan.most, **calls, "seconds": cost.seconds}}


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
                "islands": plan.islands,
                "network_calls": cost.network,
                "oracle_calls": cost.oracle,
                "seconds": cost.seconds,
                "gigabytes": finite(cost.gigabytes),
                **_most(plan, cost.most),
            }
        )
        return
    console = screen.terminal()
    say = functools.partial(console.print, highlight=False, markup=False, soft_wrap=True)
    say(f"{plan.source.file}: fine.", style="bold green")
    plan.medium.say(plan, say)
    screen.say_parts(plan, cost, say)


# around a run -------------------------------------------------------------------------------------


def _completed(incomplete: str) -> list[str]:
    return [name for name in registry.names("model") if name.startswith(incomplete)]


class _Fill(StrEnum):
    none = "none"
    gaps = "gaps"
    seqres = "seqres"


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(word for word in re.split(r"[,\s]+", text or "") if word)


@_verb
def new_(
    given: Annotated[
        list[Path],
        typer.Argument(
            metavar="X...",
            help="A structure (.pdb, .cif) or wild type (.fasta); of several structures, which are "
            "states of one protein, the first names the residues.",
        ),
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
    chains: Annotated[
        str | None, typer.Option("--chains", help="Chains to design and order: A,B; else all.")
    ] = None,
    context: Annotated[
        str | None, typer.Option("--context", help="Chains that are seen and never ordered.")
    ] = None,
    design: Annotated[
        str | None, typer.Option("--design", help='Residues that may change: "A1-56, not A10".')
    ] = None,
    maps: Annotated[
        list[str] | None,
        typer.Option(
            "--map", help="Read residues as letters, X for kept as they are: 7T2=A,SEP=S."
        ),
    ] = None,
    ignore: Annotated[
        str | None, typer.Option("--ignore", help="Residue names to leave out: 7T2,IAE.")
    ] = None,
    fill: Annotated[
        _Fill, typer.Option("--fill", help="Letters without atoms: from SEQRES, in gaps only.")
    ] = _Fill.none,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Write a commented campaign.yaml for a structure, several states of one, or a wild type."""
    if out.is_dir():
        raise fail(f"{out} is a folder; give --out a file name, as {out / 'campaign.yaml'}.", 2)
    if out.exists() and not force:
        raise fail(f"{out} is there already. Choose another --out, or say --force.", 2)
    maps = [text for some in maps or () for text in some.split(",")]
    odd = [text for text in maps if not re.fullmatch(r"\s*\w+\s*=\s*\w\s*", text)]
    if odd:
        raise fail(f"--map {odd[0]}: write NAME=LETTER, as --map 7T2=A.", 2)
    reading = Reading(
        chains=_words(chains),
        context=_words(context),
        map={name.strip(): a.strip().upper() for name, a in (m.split("=") for m in maps)},
        ignore=_words(ignore),
        fill=fill.value,
    )
    made = new(given[0], out, model, design=design, reading=reading, others=given[1:])
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
        Path,
        typer.Argument(
            metavar="FILE",
            help="FASTA, or a table (CSV, TSV) with a column sequence, variant (V39A:D40G, "
            "p.Val39Ala, WT) or Combo (letters at the designed positions).",
        ),
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
        bool | None,
        typer.Option(
            "--prior/--no-prior",
            help="Log-likelihoods, most of the time; by default as output.likelihoods says.",
        ),
    ] = None,
    overrides: Set = None,
    as_json: Json = False,
) -> None:
    """Score your own sequences by a campaign's rewards, prior and constraints.

    A record that cannot be read is skipped, and said; the others are scored. Exit code 0: all were
    scored. 2: some or all were skipped; the scores of the others are written all the same, and
    tables have a column "skipped" with the cause.
    """
    plan = _plan(campaign, overrides)
    candidates = read_candidates(path, plan)
    for note in candidates.notes:
        typer.echo(f"note: {note}", err=True)
    for line in candidates.said():
        typer.echo(f"skipped: {line}", err=True)
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
    sequences = candidates.sequences
    calls = evaluation_calls(plan, len(set(sequences)))
    if prior is None and not plan.campaign.output.likelihoods:
        prior = False
        cause = "the campaign has output.likelihoods: false; --prior finds them"
        typer.echo(f"note: no columns prior and prior_per_residue: {cause}.", err=True)
    with screen.counted(calls, "log-likelihoods", as_json or prior is False) as count:
        rows, columns = score(plan, sequences, constants=constants, prior=prior, evaluating=count)
    scored, skipped = iter(rows), candidates.skipped
    rows = [
        {"id": entry.name, "skipped": entry.skipped, **({} if entry.skipped else next(scored))}
        for entry in candidates.entries
    ]
    columns = ["id", *columns]
    if as_json:
        some = [{k: finite(row[k]) for k in columns} for row in rows if not row["skipped"]]
        missed = [{"id": e.name, "place": e.place, "cause": e.skipped} for e in skipped]
        said = {"rows": some, "skipped": missed, "notes": candidates.notes}
        screen.show_json({"campaign": plan.campaign.name, **said})
    columns += ["skipped"] if skipped else []
    if out is not None:
        write_atomic(out, to_csv(rows, columns))
    elif not as_json:
        typer.echo(to_csv(rows, columns), nl=False)
    if skipped:
        raise fail(f"{len(sequences):,} scored, {len(skipped):,} skipped.", 2)


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
        if unknown := without_likelihood(run_folder):
            typer.echo(
                f"note: {unknown} of them have no log-likelihood and no score in designs.fasta: "
                "the run finds both for what it keeps, seqalign score for any file of sequences.",
                err=True,
            )
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
        lines += () if found.asked is None else (found.asked,)
        lines += () if found.health is None else found.health.sentences
    else:
        if found.seconds_left is not None:
            about = "About" if found.asked is None else "At least"
            lines.append(f"{about} {screen.duration(found.seconds_left)} of sampling left.")
        lines += () if found.asked is None else (found.asked,)
        if not found.running:
            lines.append("The command that started it continues it.")
    screen.say(screen.terminal(), found.name, f": {state}")
    screen.show(screen.progress(found), *lines)


class _Plate(StrEnum):
    deep = "24"
    small = "96"
    large = "384"


class _Met(StrEnum):
    auto = "auto"
    never = "never"


def _dna(text: str) -> Any:
    """An option that says what genes are like; the help tells its default."""
    return typer.Option(help=f"DNA: {text}")


@_verb
def export_(
    folder: _Dir,
    as_fasta: Annotated[
        bool, typer.Option("--fasta", help="designs.fasta: a record per designed chain.")
    ] = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="designs.csv: the columns that people read.")
    ] = False,
    plate: Annotated[
        _Plate | None,
        typer.Option("--plate", help="plate-1.csv, ...: well, id, chain, sequence; and a picture."),
    ] = None,
    control: Annotated[
        bool, typer.Option("--control", help="The wild type at the end of every plate.")
    ] = False,
    controls: Annotated[
        int, typer.Option("--controls", min=0, help="The wild type so many times per plate.")
    ] = 0,
    dna: Annotated[
        bool, typer.Option("--dna", help="dna.csv, dna.fasta, dna.gb: a gene per chain.")
    ] = False,
    organism: Annotated[
        str | None, _dna("whose codons; e_coli, or h_sapiens, s_cerevisiae, ...")
    ] = None,
    gc: Annotated[
        tuple[float, float] | None, _dna("share of G and C in the fragment; 0.3 0.65.")
    ] = None,
    gc_window: Annotated[
        tuple[int, float, float] | None, _dna("the same in every stretch of so many; 50 0.2 0.8.")
    ] = None,
    avoid: Annotated[
        str | None, _dna("enzymes or sites that do not cut; BsaI, or BsaI,NdeI,GAATTC, or none.")
    ] = None,
    max_run: Annotated[int | None, _dna("the longest run of one base; 8.")] = None,
    repeat: Annotated[
        int | None, _dna("no stretch of so many bases comes twice; 20, 0 for any.")
    ] = None,
    start_met: Annotated[
        _Met | None, _dna("auto puts an M before proteins without one; never.")
    ] = None,
    n_tag: Annotated[
        str | None, _dna('letters before the protein, "-" between parts: MHHHHHH-GS.')
    ] = None,
    c_tag: Annotated[str | None, _dna("letters behind the protein.")] = None,
    stop: Annotated[bool | None, _dna("a stop codon at the end, unless --no-stop.")] = None,
    prefix: Annotated[str | None, _dna("bases before the gene, kept as they are.")] = None,
    suffix: Annotated[str | None, _dna("bases behind the gene, kept as they are.")] = None,
    max_length: Annotated[int | None, _dna("the longest fragment in bp.")] = None,
    top: Annotated[int | None, typer.Option("--top", min=1, help="The best so many.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write to; by default DIR/export.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    as_json: Json = False,
) -> None:
    """Write the designs of a run as FASTA, CSV, plates or DNA, best first."""
    text = {"n_tag": n_tag, "c_tag": c_tag, "prefix": prefix, "suffix": suffix}
    asked: dict[str, Any] = {
        **{key: value and "".join(value.split()).upper() for key, value in text.items()},
        "organism": organism,
        "gc": gc,
        "window": gc_window,
        "avoid": None if avoid is None else _sites(avoid),
        "run": max_run,
        "repeat": repeat,
        "start_met": None if start_met is None else start_met is _Met.auto,
        "stop": stop,
        "max_length": max_length,
    }
    asked = {key: value for key, value in asked.items() if value is not None}
    if asked and not dna:
        options = {"window": "gc-window", "run": "max-run"}
        name = next(iter(asked))
        raise fail(f"--{options.get(name, name).replace('_', '-')} is about DNA. Say --dna too.", 2)
    size: Any = None if plate is None else int(plate)
    found = export(
        RunFolder(folder),
        out or folder.resolve() / "export",
        as_fasta=as_fasta,
        as_csv=as_csv,
        plate=size,
        controls=max(controls, int(control)),
        dna=Order(**asked) if dna else None,
        top=top,
        force=force,
    )
    if as_json:
        screen.show_json({"files": found.files, "notes": found.notes})
    else:
        screen.show(*found.notes)
        typer.echo("\n".join(map(str, found.files)))


def _sites(text: str) -> tuple[str, ...]:
    """Return what an option lists; "none" lists nothing."""
    names = [name.strip() for name in text.split(",")]
    return tuple(dict.fromkeys(n for n in names if n and n.lower() != "none"))


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
    notes = [f"note: {note}" for note in found.notes]
    screen.show(screen.side_by_side(found), *screen.ruled(found), *notes)


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
