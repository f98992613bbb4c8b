"""Plain values to frozen dataclasses and back, by annotation: YAML to methods.

A field annotated with a protocol (`Tempering`, `Value`, ...) is a strategy, chosen by its
registered name: `adaptive`, or `{name: adaptive, ess: 0.6}`. A field annotated with one dataclass
(`Resample`) needs no name, and a bare word sets that class's first field. Everything else is a
plain value, a tuple of them, or nothing. What is unknown, is missing or does not fit is a SpecError
whose `path` says where.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import reduce
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from seqalign.core.moves import Move
from seqalign.core.potential import Potential
from seqalign.core.proposal import Proposal
from seqalign.core.selection import Selection
from seqalign.core.tempering import Tempering
from seqalign.core.value import Value
from seqalign.entries import Kind, SpecError, load, name_of, names, nearest

__all__ = ["STRATEGIES", "kind_of", "make", "plain", "settable"]

# what a field of a method may be annotated with, by the kind of name it then takes
STRATEGIES: dict[Kind, Any] = {
    "value": Value,
    "tempering": Tempering,
    "proposal": Proposal,
    "potential": Potential,
    "selection": Selection,
    "move": Move,
}

_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
_Path = tuple[str | int, ...]


def kind_of(hint: Any) -> Kind | None:
    """Return the kind of strategy that an annotation asks for; None if it asks for none."""
    return next((k for k, protocol in STRATEGIES.items() if hint == protocol), None)


def settable(cls: type) -> dict[str, Any]:
    """Return the fields of a dataclass that plain values set, with their annotations."""
    try:
        hints = get_type_hints(cls)
    except Exception as error:
        raise SpecError(f"An annotation of {cls.__qualname__} cannot be read: {error}.") from error
    return {f.name: hints[f.name] for f in fields(cls) if f.init and f.repr}


def _options(hint: Any) -> tuple[list[Kind], list[type], list[Any]]:
    """Split an annotation into strategies, dataclasses and the rest."""
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    some = [m for m in members if m is not type(None)]
    # a kind may itself be a union of classes
    whole = kind_of(reduce(operator.or_, some)) if len(some) > 1 else None
    if whole is not None:
        return [whole], [], [m for m in members if m is type(None)]
    kinds = [k for m in members if (k := kind_of(m)) is not None]
    rest = [m for m in members if kind_of(m) is None]
    classes = [m for m in rest if isinstance(m, type) and is_dataclass(m)]
    return kinds, classes, [m for m in rest if m not in classes]


def _fits(hint: Any, given: Any) -> tuple[bool, Any]:
    """Return whether a value is one of an annotation, and the value; 1 may stand for 1.0."""
    if get_origin(hint) is Literal:
        return given in get_args(hint), given
    if hint is type(None):
        return given is None, None
    if hint is float:
        fits = isinstance(given, (int, float)) and not isinstance(given, bool)
        return fits, float(given) if fits else given
    if not isinstance(hint, type):
        return hint is Any, given
    return isinstance(given, hint) and (hint is bool or not isinstance(given, bool)), given


def _says(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    if hint is type(None):
        return "nothing"
    return _WORDS.get(hint, getattr(hint, "__name__", str(hint)))


def _field(hint: Any, given: Any, path: _Path) -> Any:
    """Return the value of a field that plain values, or an object at hand, describe."""
    kinds, classes, rest = _options(hint)
    for option in rest:
        if get_origin(option) is tuple and isinstance(given, (list, tuple)):
            return _items(option, given, path)
        fits, found = _fits(option, given)
        if fits:
            return found
    if is_dataclass(given) and (kinds or isinstance(given, tuple(classes))):
        return given
    if kinds or len(classes) > 1:
        return _named(kinds, classes, given, path)
    if classes:
        (cls,) = classes
        first = next(iter(settable(cls)), "")
        return make(cls, given if isinstance(given, Mapping) else {first: given}, path)
    if len(rest) == 1 and get_origin(rest[0]) is Literal:
        allowed = nearest(given, map(str, get_args(rest[0])))
        raise SpecError(f"{given!r} is not allowed. {allowed}", path)
    raise SpecError(f"{given!r} does not fit: give {' or '.join(map(_says, rest))}.", path)


def _each(hint: Any, n: int) -> tuple[Any, ...]:
    """Return the annotations of the n items of a tuple."""
    hints = get_args(hint)
    return (hints[0],) * n if hints[1:] == (Ellipsis,) else hints


def _items(hint: Any, given: Sequence[Any], path: _Path) -> tuple[Any, ...]:
    hints = _each(hint, len(given))
    if len(hints) != len(given):
        raise SpecError(f"{list(given)!r} does not fit: give {len(hints)} values.", path)
    pairs = enumerate(zip(hints, given, strict=True))
    return tuple(_field(h, item, (*path, i)) for i, (h, item) in pairs)


def _named(kinds: Sequence[Kind], classes: Sequence[type], given: Any, path: _Path) -> Any:
    """Return the strategy of a name, alone or under `name` beside its own values."""
    known = {n: k for k in reversed(kinds) for n in names(k)}
    own = {cls.__name__: cls for cls in classes}
    mapping = dict(given) if isinstance(given, Mapping) else {"name": given}
    if "name" not in mapping:
        raise SpecError(f"needs a name. {nearest('', [*known, *own])}", path)
    name = mapping.pop("name")
    if isinstance(name, str) and name in known:
        return make(load(known[name], name), mapping, path)
    if isinstance(name, str) and name in own:
        return make(own[name], mapping, path)
    kind = " or ".join(kinds) or "choice"
    raise SpecError(f"{name!r} is no {kind}. {nearest(str(name), [*known, *own])}", path)


def make(cls: type, given: Mapping[str, Any], path: _Path = (), what: str = "") -> Any:
    """Build a dataclass from plain values; `what` it is called in errors, its class by default."""
    known, what = settable(cls), what or cls.__name__
    arguments: dict[str, Any] = {}
    for key, item in given.items():
        if key not in known:
            raise SpecError(f"{what} has no {key!r}. {nearest(key, known)}", (*path, key))
        arguments[key] = _field(known[key], item, (*path, key))
    for f in fields(cls):
        needed = f.init and f.default is MISSING and f.default_factory is MISSING
        if needed and f.name not in arguments:
            raise SpecError(f"{what} needs {f.name!r}.", (*path, f.name))
    try:
        return cls(**arguments)
    except SpecError:
        raise
    except (TypeError, ValueError) as error:
        raise SpecError(str(error), path) from error


def plain(given: Any, hint: Any = None) -> Any:
    """Return the plain values that `make` builds an object from, with every default."""
    if isinstance(given, tuple):
        tuples = [o for o in _options(hint)[2] if get_origin(o) is tuple]
        pairs = zip(given, _each((*tuples, tuple[Any, ...])[0], len(given)), strict=True)
        return [plain(item, h) for item, h in pairs]
    if not is_dataclass(given) or isinstance(given, type):
        return given
    cls = type(given)
    mapping = {key: plain(getattr(given, key), h) for key, h in settable(cls).items()}
    kinds, classes, _ = _options(hint)
    if hint is None or (not kinds and classes == [cls]):
        return mapping
    name = next((n for k in kinds if (n := name_of(k, cls)) is not None), None)
    if name is None and cls not in classes:
        kind = " or ".join(kinds) or "choice"
        raise SpecError(
            f"{cls.__name__} is no registered {kind}, so no name stands for it. Register it in the "
            f"entry-point group seqalign.{kind}s."
        )
    return {"name": name or cls.__name__, **mapping}
