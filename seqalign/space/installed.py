"""The installed constraints, by key: found, checked and built from what a user writes."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ValidationError, create_model
from pydantic.fields import FieldInfo

from seqalign.space.constraint import Constraint, ConstraintError, Schema

__all__ = ["constraints", "find", "keys", "known", "schema"]


@cache
def _scan(search_path: tuple[str, ...]) -> dict[str, EntryPoint]:
    points = entry_points(group="seqalign.constraints")
    # nobody takes the name of one of our own
    own = {p.name: p for p in points if p.module.startswith("seqalign.")}
    return dict(sorted(({p.name: p for p in points} | own).items()))


def keys() -> list[str]:
    """Return the keys of all installed constraints."""
    return list(_scan(tuple(sys.path)))


@cache
def _load(point: EntryPoint) -> type[Constraint]:
    found = point.load()
    if not (isinstance(found, type) and issubclass(found, Constraint)) or found.key != point.name:
        raise TypeError(f"it is no Constraint with the key {point.name!r}")
    return found


def find(key: str) -> type[Constraint]:
    """Return the constraint of a key.

    Raises:
        ConstraintError: there is none, or its package cannot be imported.
    """
    point = _scan(tuple(sys.path)).get(key)
    if point is None:
        raise ConstraintError(
            f"There is no constraint {key!r}. Known: {', '.join(keys())}.", (key,)
        )
    try:
        return _load(point)
    except Exception as error:
        # a plugin may fail in any way; the cause stays attached
        package = point.dist.name if point.dist is not None else point.module
        raise ConstraintError(
            f"The constraint {key!r} ({point.value} of {package}) cannot be used: "
            f"{type(error).__name__}: {error}. Mend or remove the package.",
            (key,),
        ) from error


def _value(cls: type[Constraint]) -> Any:
    """Return the type of a constraint's value."""
    if cls.schema is not None:
        return cls.schema
    hints = get_type_hints(cls)
    given: dict[str, Any] = {
        f.name: (hints[f.name], ... if f.default is MISSING else f.default)
        for f in fields(cls)  # type: ignore[arg-type]
    }
    return create_model(cls.__name__, __base__=Schema, **given)


@cache
def _schema(some: tuple[type[Constraint], ...]) -> type[BaseModel]:
    given: dict[str, Any] = {cls.key: (_value(cls), None) for cls in some}
    return create_model("Constraints", __base__=Schema, **given)


def schema(some: Iterable[str]) -> type[BaseModel]:
    """Return the mapping of some constraints by key, in the order in which they count.

    Raises:
        ConstraintError: a package cannot be imported.
    """
    return _schema(tuple(sorted(map(find, some), key=lambda c: (c.rank, c.key))))


def known(model: Any, path: tuple[str | int, ...]) -> tuple[str, ...]:
    """Return the keys that a pydantic model knows in the mapping at a path below it."""
    for part in path:
        if get_origin(model) is dict:
            model = get_args(model)[1]
        elif str(part) in _fields(model):
            model = _fields(model)[str(part)].annotation
        else:
            return ()
    return tuple(_fields(model))


def _fields(hint: Any) -> dict[str, FieldInfo]:
    """Return the fields of a model, alone or in a list or union."""
    some = (hint, *(() if get_origin(hint) is dict else get_args(hint)))
    models = (h for h in some if hasattr(h, "model_fields"))
    return next((model.model_fields for model in models), {})


def _plain(value: Any) -> Any:
    """Return mappings and sequences as YAML would hold them."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def constraints(given: Mapping[str, Any]) -> tuple[Constraint, ...]:
    """Return the constraints that values by key mean: `{"max_mutations": 8}`; None is none.

    Raises:
        ConstraintError: a key is unknown or a value does not fit; `path` says where.
    """
    there = {k: _plain(v) for k, v in given.items() if v is not None}
    model = schema(there)
    try:
        fits = model.model_validate(there).model_dump(exclude_none=True, exclude_unset=True)
    except ValidationError as error:
        first = error.errors()[0]
        path, message = first["loc"], first["msg"]
        said = f"{first['input']!r} does not fit: {message[0].lower()}{message[1:]}."
        if first["type"] == "extra_forbidden":
            said = f"unknown key. Known: {', '.join(known(model, path[:-1]))}."
        raise ConstraintError(f"{'.'.join(map(str, path))}: {said}", path) from error
    return tuple(made for key, value in fits.items() for made in find(key).of(value))
