"""Published weights: the catalog of what there is, and where on this machine it lies.

Plugins ask `path("esm2_t6_8M_UR50D")` for a file (or, for an entry in transformers' format, a
folder) and get it, or a sentence that says what to run. Nothing here downloads: that is
`seqalign.fetch`, behind `seqalign fetch NAME`.

The folder is $SEQALIGN_WEIGHTS, else seqalign/weights in $XDG_CACHE_HOME, else in ~/.cache.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Entry", "MissingWeights", "Part", "catalog", "folder", "nearest", "path", "read_catalog",
    "sound",
]  # fmt: skip


class MissingWeights(FileNotFoundError):
    """Weights that are not on this machine; the message says how to get them."""


@dataclass(frozen=True)
class Part:
    """One file of an entry.

    Attributes:
        path: where it lies in the weights folder, with forward slashes.
        url: the official location.
        size: bytes, None if not established.
        sha256: 64 hexadecimal digits, None if not established.
        git_sha1: 40 hexadecimal digits, the id of the file in its git repository, or None.
        member: `url` is a zip archive; the end of the file's path in it.
    """

    path: str
    url: str
    size: int | None = None
    sha256: str | None = None
    git_sha1: str | None = None
    member: str | None = None

    def __post_init__(self) -> None:
        """Refuse a place outside the weights folder and a hash that is none."""
        steps = PurePosixPath(self.path)
        if not self.path or steps.is_absolute() or ".." in steps.parts or "\\" in self.path:
            raise ValueError(f"{self.path!r} must be a place inside the weights folder.")
        if self.size is not None and (type(self.size) is not int or self.size <= 0):
            raise ValueError(f"{self.path}: bytes must be a positive number, got {self.size!r}.")
        for name, digits, count in (("sha256", self.sha256, 64), ("git_sha1", self.git_sha1, 40)):
            if digits is not None and not re.fullmatch(f"[0-9a-f]{{{count}}}", str(digits)):
                raise ValueError(
                    f"{self.path}: {name} must be {count} hexadecimal digits, got {digits!r}."
                )


@dataclass(frozen=True)
class Entry:
    """Weights under one name.

    Attributes:
        name: what `seqalign fetch` and `path` take.
        summary: one line.
        licence: the licence of the weights, as the source states it.
        source: the page a person can look at.
        paper: the publication.
        whole: the entry is a folder (transformers' format); else its first file.
        parts: the files.
    """

    name: str
    summary: str
    licence: str
    source: str
    paper: str
    whole: bool
    parts: tuple[Part, ...]

    @property
    def size(self) -> int | None:
        """Bytes of all files, None if one of them is not established."""
        sizes = [p.size for p in self.parts]
        return None if None in sizes else sum(s for s in sizes if s is not None)

    def location(self, root: Path) -> Path:
        """Return what `path` gives once it is there."""
        first = root / self.parts[0].path
        return first.parent if self.whole else first

    def missing(self, root: Path) -> tuple[Path, ...]:
        """Return the files that are not there."""
        return tuple(root / p.path for p in self.parts if not (root / p.path).is_file())


_KEYS = {"summary", "licence", "source", "paper", "files"}
_FILE_KEYS = {"url", "bytes", "sha256", "git_sha1", "member"}


def read_catalog(text: str, where: str = "catalog") -> dict[str, Entry]:
    """Return the entries of catalog text (YAML), by name; a ValueError names what is wrong."""
    found: dict[str, Entry] = {}
    for name, data in (yaml.safe_load(text) or {}).items():
        try:
            found[name] = _entry(name, data)
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"{where}: {name}: {error}") from error
    return found


def _entry(name: str, data: Mapping[str, Any]) -> Entry:
    if set(data) - {"folder"} != _KEYS:
        raise ValueError(f"the keys must be {sorted(_KEYS)}, got {sorted(data)}")
    parts = []
    for path, file in data["files"].items():
        if not {"url", "bytes"} <= set(file) <= _FILE_KEYS:
            raise ValueError(f"{path}: the keys must be among {sorted(_FILE_KEYS)}, url and bytes")
        parts.append(Part(path, **{"size" if k == "bytes" else k: v for k, v in file.items()}))
    whole = bool(data.get("folder", False))
    if not parts:
        raise ValueError("files is empty")
    if whole and len({PurePosixPath(p.path).parent for p in parts}) != 1:
        raise ValueError("the files of a folder entry must lie in one folder")
    said = {key: data[key] for key in _KEYS - {"files"}}
    return Entry(name, **said, whole=whole, parts=tuple(parts))


@cache
def catalog() -> Mapping[str, Entry]:
    """Return the catalog that is shipped, by name."""
    file = files("seqalign").joinpath("data", "weights.yaml")
    return read_catalog(file.read_text("utf-8"), "weights.yaml")


def folder() -> Path:
    """Return the weights folder of this machine; it need not exist yet."""
    given = os.environ.get("SEQALIGN_WEIGHTS")
    if given:
        return Path(os.path.expanduser(given)).absolute()
    cache_home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(cache_home)).absolute() / "seqalign" / "weights"


def nearest(name: str, names: Mapping[str, Entry]) -> str:
    """Return ' Did you mean ...?' for a name that is not in the catalog, or nothing."""
    near = difflib.get_close_matches(name.lower(), {n.lower(): n for n in names}, n=1, cutoff=0.5)
    return next((f" Did you mean {n!r}?" for n in names if near and n.lower() == near[0]), "")


def path(name: str | Path) -> Path:
    """Return the existing file or folder of weights, by catalog name or by path.

    Use it in plugins as `weights.path(checkpoint)`: `name` is a name of `seqalign fetch`, such as
    "esm2_t6_8M_UR50D", or the path of the user's own file or folder. An entry in transformers'
    format ("esmfold_v1", "dplm_150m") gives a folder for `from_pretrained`; every other entry
    gives its checkpoint file.

    Raises:
        MissingWeights: a FileNotFoundError whose message says what to run or where to look.
    """
    entries = catalog()
    if isinstance(name, str) and name in entries:
        entry, root = entries[name], folder()
        if missing := entry.missing(root):
            raise MissingWeights(
                f"The weights {name!r} are not on this machine ({missing[0]} is missing). Run: "
                f"seqalign fetch {name}"
            )
        for part in entry.parts:
            size = (root / part.path).stat().st_size
            if part.size is not None and size != part.size:
                raise MissingWeights(
                    f"{root / part.path} has {size:,} bytes, but {name!r} has {part.size:,}. "
                    f"Remove the file and run: seqalign fetch {name}"
                )
        return entry.location(root)
    # os.path, unlike pathlib, answers for names that no file system can hold
    text = str(name)
    own = Path(text if "\0" in text else os.path.expanduser(text))
    if str(name).strip() and os.path.exists(own):
        return own
    if own.parent == Path(".") and not own.suffix:
        raise MissingWeights(
            f"{str(name)!r} is neither a name of published weights nor a file or folder."
            f"{nearest(str(name), entries)} seqalign fetch lists the names."
        )
    raise MissingWeights(
        f"There is no file or folder {own.absolute()}. Check the path, or give a name that "
        "seqalign fetch lists."
    )


def sound(tensors: Iterable[tuple[str, Tensor]], where: str | Path) -> dict[str, Tensor]:
    """Return named tensors of a checkpoint, once none of their numbers is NaN or infinite.

    Every loader of weights asks this before it builds a network: with NaN inside, a network still
    answers, and what is drawn from its answers looks like a design.

    Args:
        tensors: name and tensor, as `state_dict().items()` and `named_parameters()` give them.
        where: the file or folder that holds them, for the message.

    Raises:
        ValueError: a number is not finite; the message names the file and the tensor.
    """
    found = dict(tensors)
    for name, tensor in found.items():
        # what hides letters from attention is -inf in some published files, and no weight
        if not tensor.is_floating_point() or name.endswith("mask"):
            continue
        if not bool((finite := tensor.isfinite()).all()):
            raise ValueError(
                f"{where}: tensor {name!r} holds {int((~finite).sum()):,} of {tensor.numel():,} "
                f"numbers that are NaN or infinite. The file is damaged, or its training went "
                f"wrong: fetch it again, or give another checkpoint."
            )
    return found
