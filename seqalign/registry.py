"""Names: what is installed, found through entry points, imported when used, explained by its card.

Rewards, models, methods, their strategies and constraints are entry points (`seqalign.rewards`,
`seqalign.models`, `seqalign.temperings`, ...), so third parties plug in through the same door as
the package's own. A plugin that fails is named with its package and its error, and none takes the
name of another. The card of a reward or model is `cards/<name>.yaml` beside its module, read
without importing the module; the card of a method or strategy is its docstring.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import reprlib
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.resources import files
from importlib.util import find_spec
from typing import Any, Literal, cast, get_args

import yaml

from seqalign.build import SpecError, make, nearest, plain, settable
from seqalign.core.method import Method
from seqalign.core.potential import Potential
from seqalign.core.proposal import Proposal
from seqalign.core.selection import Selection
from seqalign.core.tempering import Tempering
from seqalign.core.value import Value

__all__ = [
    "KINDS",
    "Kind",
    "SpecError",
    "build_method",
    "call",
    "card",
    "card_id",
    "describe",
    "draws_images",
    "entry",
    "names",
    "nearest",
    "package",
    "parameters",
    "problems",
    "process_class",
    "references",
    "strategies",
    "takers",
    "to_mapping",
]

Kind = Literal[
    "reward", "model", "method", "value", "tempering", "proposal", "potential", "selection",
    "constraint",
]  # fmt: skip
KINDS: tuple[Kind, ...] = get_args(Kind)
_GROUPS: dict[Kind, str] = {kind: f"seqalign.{kind}s" for kind in KINDS}
# what a field of a method may be annotated with, by the kind of name it then takes
_STRATEGIES: dict[Kind, Any] = {
    "value": Value,
    "tempering": Tempering,
    "proposal": Proposal,
    "potential": Potential,
    "selection": Selection,
}
_DATACLASSES: tuple[Kind, ...] = ("method", *_STRATEGIES)
_OWN = "seqalign"


# entry points -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Found:
    """The entry points of a kind: those in use, and what says why others are not."""

    points: dict[str, EntryPoint]
    shadowed: dict[str, str]


def _package(point: EntryPoint) -> str:
    """Return the name of the package that an entry point belongs to."""
    name = None if point.dist is None else point.dist.name
    return str(name or point.module.partition(".")[0])


@cache
def _scan(group: str, search_path: tuple[str, ...]) -> _Found:
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
    return _Found({name: by_name[name][0] for name in sorted(by_name)}, shadowed)


def _found(kind: Kind) -> _Found:
    return _scan(_GROUPS[kind], tuple(sys.path))


def names(kind: Kind) -> list[str]:
    """Return the names of all that is installed of a kind."""
    return list(_found(kind).points)


def entry(kind: Kind, name: str) -> EntryPoint:
    """Return the entry point of a name.

    Raises:
        SpecError: the name is unknown; the message names the nearest one.
    """
    found = _found(kind)
    if name not in found.points:
        raise SpecError(f"There is no {kind} {name!r}. {nearest(name, found.points)}")
    if name in found.shadowed:
        warnings.warn(found.shadowed[name], stacklevel=3)
    return found.points[name]


def package(kind: Kind, name: str) -> str:
    """Return the name of the package that provides a name.

    Raises:
        SpecError: the name is unknown.
    """
    return _package(entry(kind, name))


def _load(kind: Kind, name: str) -> Callable[..., Any]:
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
    if kind in _DATACLASSES and not (isinstance(found, type) and is_dataclass(found)):
        raise SpecError(f"{who} is {reprlib.repr(found)}; a {kind} is a frozen dataclass.")
    if not callable(found):
        raise SpecError(f"{who} is {reprlib.repr(found)}; a {kind} is a class or a function.")
    return cast(Callable[..., Any], found)


def problems() -> list[str]:
    """Return a sentence for each entry point that cannot be loaded or is not used."""
    found: list[str] = []
    for kind in KINDS:
        found += _found(kind).shadowed.values()
        for name in names(kind):
            try:
                _load(kind, name)
            except SpecError as error:
                found.append(str(error))
    return found


# cards --------------------------------------------------------------------------------------------


def card(kind: Kind, name: str) -> dict[str, Any]:
    """Return the card of a name; without one, what its entry point tells.

    The card of a reward or a model is a file; the one of a method or strategy is its docstring.

    Raises:
        SpecError: the name is unknown, its card is no YAML, or its package cannot be imported.
    """
    point = entry(kind, name)
    if kind not in ("reward", "model"):
        return _class_card(kind, name)
    try:
        # this imports the packages above the module, and not the module
        spec = find_spec(point.module)
        inside = spec is not None and spec.submodule_search_locations is not None
        holder = point.module if inside else point.module.rpartition(".")[0]
        path = files(holder).joinpath("cards", f"{name}.yaml") if holder else None
    except (Exception, SystemExit):
        _load(kind, name)  # says what is wrong
        raise
    if path is not None and path.is_file():
        try:
            data = yaml.safe_load(path.read_text("utf-8"))
        except yaml.YAMLError as error:
            raise SpecError(f"The card of {kind} {name!r} ({path}) is no YAML: {error}") from error
        if isinstance(data, dict):
            return {"name": name, **data}
    return {"name": name, "entry_point": point.value}


def card_id(kind: Kind, name: str) -> dict[str, str]:
    """Return what tells one version of a reward or model from another."""
    data, point = card(kind, name), entry(kind, name)
    text = yaml.safe_dump(data, sort_keys=True)
    version = point.dist.version if point.dist is not None else "unknown"
    return {
        "name": name,
        "from": point.value,
        "version": str(data.get("version", version)),
        "card_sha256": hashlib.sha256(text.encode()).hexdigest()[:16],
    }


def _doc(found: Any) -> tuple[str, str]:
    """Return what an object's docstring says before its sections, and below References."""
    text = "" if found is None else inspect.getdoc(found) or ""
    if is_dataclass(found) and text.startswith(f"{getattr(found, '__name__', '')}("):
        text = ""  # the signature, which a dataclass without words gets
    said, *sections = re.split(r"^([A-Z]\w*):\s*$", text, flags=re.M)
    below = dict(zip(sections[::2], sections[1::2], strict=True))
    return said.strip(), inspect.cleandoc(below.get("References", ""))


def _home(found: Any) -> Any:
    """Return the module an object was made in, if it says so."""
    return sys.modules.get(getattr(found, "__module__", ""))


def _class_card(kind: Kind, name: str) -> dict[str, Any]:
    cls = cast(Any, _load(kind, name))
    module = _home(cls)
    said, source = _doc(cls)
    # a file that holds nothing else speaks for its class
    if not said or getattr(module, "__all__", None) == [cls.__name__]:
        said = _doc(module)[0] or said
    title, _, detail = said.partition("\n\n")
    return {
        "name": name,
        "summary": " ".join(title.split()),
        "detail": detail.strip(),
        **({"consistent": bool(getattr(cls, "consistent", False))} if kind == "method" else {}),
        "parameters": _defaults(cls) if is_dataclass(cls) else {},
        "references": " ".join((source or _doc(module)[1]).split()),
        "entry_point": entry(kind, name).value,
    }


def _defaults(cls: Any) -> dict[str, Any]:
    """Return the default of every parameter, as plain values; None where one must be given."""
    hints = settable(cls)
    found: dict[str, Any] = {}
    for f in (f for f in fields(cls) if f.name in hints):
        given = None if f.default is MISSING else f.default
        if f.default_factory is not MISSING:
            given = f.default_factory()
        try:
            found[f.name] = plain(given, _choices, hints[f.name])
        except SpecError:
            found[f.name] = repr(given)
    return found


def references(kind: Kind, name: str) -> list[str]:
    """Return what a name rests on, as BibTeX or in words.

    From its card, or else from the References of its docstring, or its module's.

    Raises:
        SpecError: the name is unknown, or cannot be imported.
    """
    data = card(kind, name) if kind in ("reward", "model") else {}
    found: list[str] = []
    for key in ("bibtex", "references", "paper", "citation"):
        given = data.get(key) or []
        found += map(str, [given] if isinstance(given, str) else given)
    if not found:
        made = _load(kind, name)
        text = _doc(made)[1] or _doc(_home(made))[1]
        found = [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]
    return found


def describe(kind: Kind, name: str) -> str:
    """Return one line that says what a name is."""
    try:
        data = card(kind, name)
    except SpecError as error:
        return f"({error})".replace("\n", " ")
    for key in ("summary", "predicts", "description", "what", "title"):
        if data.get(key):
            return " ".join(str(data[key]).split())
    return str(data.get("entry_point", ""))


# methods ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Registered:
    """The registered strategies of one kind."""

    kind: Kind

    def names(self) -> list[str]:
        return names(self.kind)

    def load(self, name: str) -> type:
        return cast(type, _load(self.kind, name))

    def name_of(self, cls: type) -> str | None:
        """Return the name of a class; a class at hand has been imported, so nothing else is."""
        for name, point in _found(self.kind).points.items():
            found: Any = sys.modules.get(point.module)
            for attribute in point.attr.split("."):
                found = getattr(found, attribute, None)
            if found is cls:
                return name
        return None


def _choices(hint: Any) -> _Registered | None:
    kind = next((k for k, protocol in _STRATEGIES.items() if hint == protocol), None)
    return None if kind is None else _Registered(kind)


def build_method(name: str, params: Mapping[str, Any]) -> Method:
    """Build a method from plain values: `tempering: adaptive` or `{name: adaptive, ess: 0.6}`.

    Raises:
        SpecError: the name or a parameter is unknown or does not fit; `path` says which.
    """
    cls = cast(type, _load("method", name))
    return cast(Method, make(cls, params, _choices, what=f"The method {name!r}"))


def to_mapping(method: Method) -> dict[str, Any]:
    """Turn a method back into the mapping that builds it, with every default; its name comes first.

    Raises:
        SpecError: the method, or a strategy of it, is not registered.
    """
    name = _Registered("method").name_of(type(method))
    if name is None:
        raise SpecError(
            f"{type(method).__name__} is not a registered method. {nearest('', names('method'))}"
        )
    return {"name": name, **plain(method, _choices)}


def strategies(method: Method) -> list[tuple[Kind, str]]:
    """Return the kind and registered name of every strategy in a method, nested ones included."""
    found: list[tuple[Kind, str]] = []

    def look(part: Any) -> None:
        for item in part if isinstance(part, tuple) else (part,):
            if not is_dataclass(item):
                continue
            named = ((k, _Registered(k).name_of(type(item))) for k in _STRATEGIES)
            found.extend((k, name) for k, name in named if name is not None)
            for key in settable(cast(type, type(item))):
                look(getattr(item, key))

    look(method)
    return found


# rewards and models -------------------------------------------------------------------------------


def _signature(what: str, factory: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters that users see: the name a factory is told is not theirs."""
    try:
        known = dict(inspect.signature(factory).parameters)
    except (TypeError, ValueError) as error:
        raise SpecError(f"{what} ({factory!r}) has no signature that Python can read.") from error
    known.pop("registered", None)
    return known


def call(
    what: str,
    factory: Callable[..., Any],
    params: Mapping[str, Any],
    registered: str | None = None,
    more: Sequence[str] = (),
) -> Any:
    """Call a factory of a user or plugin after its signature has been compared with `params`.

    A factory with a parameter `registered` is told the name it was found by; `more` are names that
    would have been understood, too.

    Raises:
        SpecError: a parameter is unknown or missing (`path` says which), or the factory fails.
    """
    known = _signature(what, factory)
    asks = "registered" in inspect.signature(factory).parameters
    told = {"registered": registered} if asks else {}
    open_ = any(p.kind is p.VAR_KEYWORD for p in known.values())
    for key in params:
        if key not in known and (not open_ or key == "registered"):
            near = nearest(key, [*known, *more])
            raise SpecError(f"{what} has no parameter {key!r}. {near}", (key,))
    for key, p in known.items():
        needed = p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        if needed and key not in params:
            raise SpecError(f"{what} needs the parameter {key!r}.", (key,))
    try:
        return factory(**params, **told)
    except ImportError as error:
        raise SpecError(f"{what} lacks a package. {error}") from error
    except FileNotFoundError as error:
        cure = "" if error.errno is None else " Install the package again, or give its path."
        raise SpecError(f"{what} misses a file: {error}{cure}") from error
    except (Exception, SystemExit) as error:
        # a plugin may fail in any way on values it did not expect; the cause stays attached
        given = ", ".join(f"{key}={reprlib.repr(value)}" for key, value in params.items())
        raise SpecError(
            f"{what} cannot be built from ({given}): {type(error).__name__}: {error}"
        ) from error


def parameters(kind: Kind, name: str) -> list[str]:
    """Return the parameters a reward or model takes.

    Raises:
        SpecError: the name is unknown, or what it needs is not installed.
    """
    return list(_signature(f"The {kind} {name!r}", _load(kind, name)))


def takers(kind: Kind, parameter: str) -> list[str]:
    """Return the names of those that take a parameter; what cannot be loaded takes none."""
    found = []
    for name in names(kind):
        with suppress(SpecError):
            if parameter in parameters(kind, name):
                found.append(name)
    return found


def process_class(name: str) -> Any:
    """Return the class of process that a model's signature promises; None if it does not tell.

    Raises:
        SpecError: the name is unknown, or what it needs is not installed.
    """
    factory = _load("model", name)
    _signature(f"The model {name!r}", factory)
    made = inspect.signature(factory).return_annotation
    return getattr(_home(factory), made, None) if isinstance(made, str) else made


def draws_images(name: str) -> bool:
    """Return whether a model is a continuous one, as far as its signature tells.

    Raises:
        SpecError: the name is unknown, or what it needs is not installed.
    """
    discrete = getattr(process_class(name), "discrete", None)
    if isinstance(discrete, bool):
        return not discrete
    return bool({"prompt", "prompts"} & set(parameters("model", name)))
