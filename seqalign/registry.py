"""Names: what is installed (`entries`), explained by its card and built from plain values.

The card of a reward or model is `cards/<name>.yaml` beside its module, read without importing the
module; the card of a method or strategy is its docstring. A name or parameter that is unknown, does
not fit, or cannot be imported is a SpecError; its `path` says which.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import reprlib
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from importlib.resources import files
from importlib.util import find_spec
from typing import Any, cast

import yaml

from seqalign import weights
from seqalign.build import STRATEGIES, make, plain, settable
from seqalign.core.devices import NoDevice
from seqalign.core.method import Method
from seqalign.entries import (
    KINDS,
    Kind,
    SpecError,
    entry,
    load,
    name_of,
    names,
    nearest,
    package,
    problems,
)  # fmt: skip

__all__ = [
    "KINDS", "Kind", "SpecError", "build_method", "call", "card", "card_id", "describe",
    "draws_images", "entry", "names", "nearest", "package", "parameters", "problems",
    "process_class", "references", "strategies", "takers", "to_mapping",
]  # fmt: skip


# cards --------------------------------------------------------------------------------------------


def card(kind: Kind, name: str) -> dict[str, Any]:
    """Return the card of a name; without one, what its entry point tells.

    The card of a reward or a model is a file; the one of a method or strategy is its docstring.
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
        load(kind, name)  # says what is wrong
        raise
    if path is not None and path.is_file():
        try:
            data = yaml.safe_load(path.read_text("utf-8"))
        except yaml.YAMLError as error:
            raise SpecError(f"The card of {kind} {name!r} ({path}) is no YAML: {error}") from error
        if isinstance(data, dict):
            _check_shares(data, f"The card of {kind} {name!r} ({path})")
            return {"name": name, **data}
    return {"name": name, "entry_point": point.value}


def _check_shares(data: Mapping[str, Any], what: str) -> None:
    """Refuse what says neither which features nor which data a reward or model may share."""
    given = data.get("shares")
    if given is None:
        return
    said = "it is {features: [NAME, ...], data: [NAME, ...]}, of which either may be left out"
    if not isinstance(given, dict):
        raise SpecError(f"{what}: shares is {given!r}; {said}.")
    for key, names_ in given.items():
        if key not in ("features", "data"):
            raise SpecError(f"{what}: shares has no key {key!r}; {said}.")
        if not isinstance(names_, list) or not all(isinstance(n, str) and n for n in names_):
            raise SpecError(f"{what}: shares.{key} is {names_!r}, no list of names; {said}.")


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
    cls = load(kind, name)
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
            found[f.name] = plain(given, hints[f.name])
        except SpecError:
            found[f.name] = repr(given)
    return found


def references(kind: Kind, name: str) -> list[str]:
    """Return what a name rests on, as BibTeX or in words.

    From its card, or else from the References of its docstring, or its module's.
    """
    data = card(kind, name) if kind in ("reward", "model") else {}
    found: list[str] = []
    for key in ("bibtex", "references", "paper", "citation"):
        given = data.get(key) or []
        found += map(str, [given] if isinstance(given, str) else given)
    if not found:
        made = load(kind, name)
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


def build_method(name: str, params: Mapping[str, Any]) -> Method:
    """Build a method from plain values: `tempering: adaptive` or `{name: adaptive, ess: 0.6}`."""
    made: Method = make(load("method", name), params, what=f"The method {name!r}")
    return made


def to_mapping(method: Method) -> dict[str, Any]:
    """Turn a method back into the mapping that builds it, name first, with every default."""
    name = name_of("method", type(method))
    if name is None:
        raise SpecError(
            f"{type(method).__name__} is not a registered method. {nearest('', names('method'))}"
        )
    return {"name": name, **plain(method)}


def strategies(method: Method) -> list[tuple[Kind, str]]:
    """Return the kind and registered name of every strategy in a method, nested ones included."""
    found: list[tuple[Kind, str]] = []

    def look(part: Any) -> None:
        for item in part if isinstance(part, tuple) else (part,):
            if not is_dataclass(item):
                continue
            named = ((k, name_of(k, type(item))) for k in STRATEGIES)
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
    except NoDevice as error:
        raise SpecError(f"{what}: {error}", ("device",)) from error
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
    """Return the parameters a reward or model takes."""
    return list(_signature(f"The {kind} {name!r}", load(kind, name)))


def checkpoint_of(model: str) -> str | None:
    """Return the published weights that a model takes by default, by name; None without any."""
    known = inspect.signature(entry("model", model).load()).parameters
    name = known["checkpoint"].default if "checkpoint" in known else None
    return name if isinstance(name, str) and name in weights.catalog() else None


def takers(kind: Kind, parameter: str) -> list[str]:
    """Return the names of those that take a parameter; what cannot be loaded takes none."""
    found = []
    for name in names(kind):
        with suppress(SpecError):
            if parameter in parameters(kind, name):
                found.append(name)
    return found


def process_class(name: str) -> Any:
    """Return the class of process that a model's signature promises; None if it does not tell."""
    factory = load("model", name)
    _signature(f"The model {name!r}", factory)
    made = inspect.signature(factory).return_annotation
    return getattr(_home(factory), made, None) if isinstance(made, str) else made


def draws_images(name: str) -> bool:
    """Return whether a model is a continuous one, as far as its signature tells."""
    discrete = getattr(process_class(name), "discrete", None)
    if isinstance(discrete, bool):
        return not discrete
    return bool({"prompt", "prompts"} & set(parameters("model", name)))
