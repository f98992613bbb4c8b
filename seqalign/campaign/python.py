"""FILE.py:NAME: an object out of a user's own Python file."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from seqalign.campaign.yaml import KeyPath, Source
from seqalign.registry import SpecError, call, nearest


def load_object(text: str, source: Source, path: KeyPath) -> Any:
    """Run FILE.py, named from the campaign's folder, and return its NAME."""
    file, colon, name = text.rpartition(":")
    target = source.folder / file
    if not colon or not file or not name:
        raise source.error(path, f"{text!r}: write FILE.py:NAME.")
    if not target.is_file():
        raise source.error(
            path, f"{text!r}: there is no file {target}. Paths start from the campaign's folder."
        )
    # two files of one name are two modules
    digest = blake2b(str(target.resolve()).encode(), digest_size=4).hexdigest()
    spec = importlib.util.spec_from_file_location(f"seqalign_user_{target.stem}_{digest}", target)
    if spec is None or spec.loader is None:
        raise source.error(path, f"{text!r} is not a Python file; write FILE.py:NAME.")
    module = importlib.util.module_from_spec(spec)
    # dataclasses, pickle and annotations look a module up by its name
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[spec.name]
        raise source.error(
            path, f"{target} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if not hasattr(module, name):
        own = [k for k, v in vars(module).items() if getattr(v, "__module__", None) == spec.name]
        raise source.error(path, f"{target} has no {name!r}. {nearest(name, own)}")
    return getattr(module, name)


def build_object(
    what: str, factory: Any, params: Mapping[str, Any], source: Source, path: KeyPath
) -> Any:
    """Call a class or function of a user's file with the parameters of a campaign."""
    try:
        return call(what, factory, params)
    except SpecError as error:
        raise source.error((*path, *error.path), str(error)) from error
