"""What lies in the weights folder is what the catalog says: verified by hash, and put there whole.

A file is written as NAME.part, verified there, and moved to its name. One that nothing is known of
has its sha256 recorded beside it when it comes, and is verified against that from then on.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from seqalign.weights import Part

__all__ = [
    "BROKEN",
    "FetchError",
    "Fetched",
    "Opened",
    "alone",
    "copied",
    "keep",
    "known",
    "room",
    "verify",
]

_CHUNK = 1 << 20
BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)
"""What reading an archive that is none, or is damaged, raises."""
Opened = Callable[[], IO[bytes]]


class FetchError(RuntimeError):
    """A file could not be had; the message says why and which file to put where by hand."""


@dataclass(frozen=True)
class Fetched:
    """One file that is there.

    Attributes:
        path: where.
        verified: "sha256" or "git_sha1" of the catalog; "record", the sha256 that was recorded
            when it came; "recorded", nothing to verify by, so that its sha256 was recorded now.
        sha256: of the file.
        new: it came now.
        source: from where, in words; None if it was there.
    """

    path: Path
    verified: str
    sha256: str
    new: bool
    source: str | None = None


def verify(part: Part, root: Path) -> Fetched:
    """Verify a file that is there by the catalog, or the record of its download."""
    path = root / part.path
    fault, kind, sha256 = _compare(part, path, _record(path))
    if fault:
        raise FetchError(
            f"{path} is not the file that {part.url} gave: {fault}. Move it away and fetch again, "
            "or keep it elsewhere and give its path instead of the name."
        )
    return _noted(Fetched(path, kind, sha256, new=False))


def copied(opened: Opened, part: Part, root: Path, source: str) -> Fetched:
    """Write what can be opened to where a file belongs, verified.

    Args:
        opened: opens it for reading.
        part: the file.
        root: the weights folder.
        source: where it comes from, in words.

    Raises:
        FetchError: it is another file, or cannot be read or written.
    """
    target = root / part.path
    piece = target.with_name(target.name + ".part")
    with alone(piece, part, root):
        try:
            with opened() as given, piece.open("wb") as file:
                shutil.copyfileobj(given, file, _CHUNK)
        except BaseException as error:
            # a half that is no beginning of the file: a download must not go on from it
            piece.unlink(missing_ok=True)
            if isinstance(error, OSError):
                said = f"{source} cannot be copied to {piece} ({error.strerror})."
                raise FetchError(said) from error
            raise
        return keep(part, piece, target, source)


def keep(part: Part, piece: Path, target: Path, source: str | None = None) -> Fetched:
    """Verify what came under a partial name and give it its name; remove it if it is another."""
    # a record of an earlier copy says nothing about a new one
    fault, kind, sha256 = _compare(part, piece, None)
    if fault:
        piece.unlink(missing_ok=True)
        raise FetchError(
            f"{source or part.url} gave another file than the catalog says: {fault}. It was "
            "removed. Try again; if it stays, the publisher changed the file: report it, and if "
            "you trust the new one, give its path instead of the name."
        )
    os.replace(piece, target)
    return _noted(Fetched(target, kind, sha256, True, source or part.url))


def _compare(part: Part, path: Path, record: str | None) -> tuple[str, str, str]:
    """Return what is wrong ("" if nothing), what was compared, and the sha256 of the file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        own = hashlib.file_digest(file, "sha256").hexdigest()
    if part.size is not None and size != part.size:
        return f"it has {size:,} bytes, not {part.size:,}", "size", own
    if part.sha256 is not None:
        wrong = own != part.sha256
        return f"its sha256 is {own}, not {part.sha256}" if wrong else "", "sha256", own
    if part.git_sha1 is not None:
        with path.open("rb") as file:
            blob = hashlib.file_digest(file, lambda: hashlib.sha1(b"blob %d\0" % size))
        git = blob.hexdigest()
        wrong = git != part.git_sha1
        return f"its git id is {git}, not {part.git_sha1}" if wrong else "", "git_sha1", own
    if record is not None:
        fault = f"its sha256 is {own}, not {record} as recorded when it came"
        return fault if own != record else "", "record", own
    return "", "recorded", own


def _noted(file: Fetched) -> Fetched:
    """Record the sha256 of a file that nothing else verifies, as sha256sum writes it."""
    if file.verified == "recorded":
        _record_path(file.path).write_text(f"{file.sha256}  {file.path.name}\n", "utf-8")
    return file


def _record_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _record(path: Path) -> str | None:
    """Return the recorded sha256 of a file, None if there is no record."""
    record = _record_path(path)
    if not record.is_file():
        return None
    text = record.read_text("utf-8").split()
    if not text or len(text[0]) != 64:
        raise FetchError(f"{record} is no record of a sha256; remove it and fetch again.")
    return text[0]


@contextmanager
def alone(partial: Path, part: Part, root: Path) -> Iterator[None]:
    """Keep a second process from writing the same partial file."""
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        file = partial.open("ab")
    except OSError as error:
        raise FetchError(
            f"{partial} cannot be written ({error.strerror}). Set SEQALIGN_WEIGHTS to a folder "
            "that you may write to."
        ) from error
    try:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # no such locks on Windows
            pass
        except OSError as error:
            raise FetchError(
                f"Another process is fetching {root / part.path}. Wait for it."
            ) from error
        yield
    finally:
        file.close()
        if partial.is_file() and not partial.stat().st_size:
            partial.unlink()


def known(part: Part) -> bool:
    """Return whether the catalog knows a hash of a file."""
    return part.sha256 is not None or part.git_sha1 is not None


def room(part: Part, partial: Path, start: int) -> None:
    """Refuse a file for which there is no room beside `partial`, of which `start` bytes came."""
    if part.size is None:
        return
    free = shutil.disk_usage(partial.parent).free
    if free < part.size - start:
        raise FetchError(
            f"{partial.parent} has room for {free:,} bytes, and {part.path} needs "
            f"{part.size - start:,}. Make room, or set SEQALIGN_WEIGHTS to another folder."
        )


def _known(part: Part) -> bool:
    return part.sha256 is not None or part.git_sha1 is not None
