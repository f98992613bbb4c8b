"""Entry points: what is installed of each kind, by name; imported when used.

Third parties plug in through the same door as the package's own. A plugin that fails is named with
its package and its error, by a SpecError, and none takes the name of another.
"""

from __future__ import annotations

import difflib
import reprlib
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import is_dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, get_args

__all__ = [
    "KINDS", "Kind", "SpecError", "entry", "load", "name_of", "names", "nearest", "package",
    "problems",
]  # fmt: skip

Kind = Literal[
    "reward", "model", "method", "value", "tempering", "proposal", "potential", "selection",
    "move", "constraint",
]  # fmt: skip
KINDS: tuple[Kind, ...] = get_args(Kind)
_OWN = "seqalign"


class SpecError(ValueError):
    """A name, key or value is wrong; `path` says where, below what was being built."""

    def __init__(self, message: str, path: Sequence[str | int] = ()) -> None:
        super().__init__(message)
        self.path = tuple(path)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the end of an error: the nearest known word, and all known ones."""
    known = sorted(known)
    close = difflib.get_close_matches(str(word).lower(), [k.lower() for k in known], 1, 0.5)
    hint = f"Did you mean {next(k for k in known if k.lower() == close[0])!r}? " if close else ""
    return f"{hint}Known: {', '.join(known) or 'none'}."


def _package(point: EntryPoint) -> str:
    name = None if point.dist is None else point.dist.name
    return str(name or point.module.partition(".")[0])


@cache
def _scan(group: str, search_path: tuple[str, ...]) -> tuple[dict[str, EntryPoint], dict[str, str]]:
    """Return the entry points in use by name, and what says why others are not."""
    by_name: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=group):
        by_name.setdefault(point.name, []).append(point)
    shadowed: dict[str, str] = {}
    for name, some in by_name.items():
        # the package's own names come first, so that nobody else's takes their place
        if len(some) > 1:
            some.sort(key=lambda p: _package(p) != _OWN)
        for other in (p for p in some if p.value != some[0].value):
            shadowed[name] = (
                f"{other.value} of package {_package(other)!r} is not used as {name!r} in {group}: "
                f"that name belongs to {_package(some[0])!r}. Give it another name."
            )
    return {name: by_name[name][0] for name in sorted(by_name)}, shadowed


def _found(kind: Kind) -> tuple[dict[str, EntryPoint], dict[str, str]]:
    return _scan(f"seqalign.{kind}s", tuple(sys.path))


def names(kind: Kind) -> list[str]:
    """Return the names of all that is installed of a kind."""
    return list(_found(kind)[0])


def entry(kind: Kind, name: str) -> EntryPoint:
    """Return the entry point of a name."""
    points, shadowed = _found(kind)
    if name not in points:
        raise SpecError(f"There is no {kind} {name!r}. {nearest(name, points)}")
    if name in shadowed:
        warnings.warn(shadowed[name], stacklevel=3)
    return points[name]


def package(kind: Kind, name: str) -> str:
    """Return the name of the package that provides a name."""
    return _package(entry(kind, name))


def load(kind: Kind, name: str) -> Any:
    """Import what a name means; a plugin may fail in any way, and is named with its error."""
    point = entry(kind, name)
    who = f"The {kind} {name!r} of package {_package(point)!r} ({point.value})"
    try:
        found: Any = import_module(point.module)
    except (Exception, SystemExit) as error:
        what = " ".join(str(error).split())
        if isinstance(error, SystemExit):
            what = f"its module calls sys.exit({what})"
        elif not isinstance(error, ImportError):
            what = f"{type(error).__name__}: {what}"
        cure = f"Mend or remove package {_package(point)!r}"
        if isinstance(error, ModuleNotFoundError):
            cure = f"Install what provides {error.name!r}"
        others = ", ".join(n for n in names(kind) if n != name)
        raise SpecError(
            f"{who} cannot be imported: {what}. {cure}, or choose another {kind}: {others}."
        ) from error
    for attribute in point.attr.split("."):
        if not hasattr(found, attribute):
            raise SpecError(f"{who} is not there: {point.module} has no {point.attr!r}.")
        found = getattr(found, attribute)
    made = isinstance(found, type) and is_dataclass(found)
    if kind not in ("reward", "model", "constraint") and not made:
        raise SpecError(f"{who} is {reprlib.repr(found)}; a {kind} is a frozen dataclass.")
    if not callable(found):
        raise SpecError(f"{who} is {reprlib.repr(found)}; a {kind} is a class or a function.")
    return found


def name_of(kind: Kind, cls: type) -> str | None:
    """Return the name of a class; a class at hand has been imported, so nothing else is."""
    for name, point in _found(kind)[0].items():
        found: Any = sys.modules.get(point.module)
        for attribute in point.attr.split("."):
            found = getattr(found, attribute, None)
        if found is cls:
            return name
    return None


def problems() -> list[str]:
    """Return a sentence for each entry point that cannot be loaded or is not used."""
    found: list[str] = []
    for kind in KINDS:
        found += _found(kind)[1].values()
        for name in names(kind):
            try:
                load(kind, name)
            except SpecError as error:
                found.append(str(error))
    return found
