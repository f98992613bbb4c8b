"""Downloading published weights: the only module that opens a connection.

A file is streamed to NAME.part, verified there, and moved to its name whole. A file whose hash the
catalog knows is resumed after an interruption; one without is fetched from its beginning, because
nothing could tell a half of one version from a half of another. `seqalign.weights` (which plugins
may import) holds the catalog and finds what is there.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

from seqalign.weights import Entry, Part

__all__ = ["FetchError", "Fetched", "fetch", "verify"]

_CHUNK = 1 << 20
_SECONDS = 60.0
Progress = Callable[[Part, int, int | None], None]


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
        new: it was downloaded now.
    """

    path: Path
    verified: str
    sha256: str
    new: bool


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


def fetch(
    entry: Entry,
    root: Path,
    *,
    catalog: Mapping[str, Entry] | None = None,
    progress: Progress | None = None,
    schemes: Sequence[str] = ("https",),
) -> list[Fetched]:
    """Bring the files of an entry into the weights folder and verify all of them.

    Args:
        entry: what to fetch; files that are there are verified only.
        root: the weights folder.
        catalog: further entries; those of its files that lie in a downloaded archive are taken
            out of it too, so that the archive is fetched once.
        progress: called with (file, bytes so far, bytes in all or None).
        schemes: the allowed kinds of address, redirections included.

    Raises:
        FetchError: no connection, no room, an interrupted transfer, or a file that is not what the
            catalog says (it is removed). What to do by hand is part of the message.
    """
    others = [p for e in (catalog or {}).values() for p in e.parts]
    done: dict[str, Fetched] = {}
    for part in entry.parts:
        if (root / part.path).is_file():
            done[part.path] = done.get(part.path) or verify(part, root)
            continue
        if part.member is None:
            done[part.path] = _single(part, root, progress, schemes)
            continue
        same = {p.path: p for p in (*others, *entry.parts) if p.url == part.url and p.member}
        wanted = [p for p in same.values() if not (root / p.path).is_file()]
        done.update(_archive(part, wanted, root, progress, schemes))
    return [done[p.path] for p in entry.parts]


def _single(part: Part, root: Path, progress: Progress | None, schemes: Sequence[str]) -> Fetched:
    target = root / part.path
    partial = target.with_name(target.name + ".part")
    with _alone(partial, part, root):
        _download(part, partial, root, progress, schemes)
        return _keep(part, partial, target)


def _archive(
    part: Part,
    wanted: Sequence[Part],
    root: Path,
    progress: Progress | None,
    schemes: Sequence[str],
) -> dict[str, Fetched]:
    """Download an archive, take the wanted files out and remove it."""
    address = urllib.parse.urlsplit(part.url)
    whole = Part(Path(address.path).name, part.url)
    partial = root / f"{whole.path}.part"
    done = {}
    with _alone(partial, part, root):
        _download(whole, partial, root, progress, schemes)
        try:
            with zipfile.ZipFile(partial) as archive:
                for p in wanted:
                    assert p.member is not None
                    found = [n for n in archive.namelist() if f"/{n}".endswith(f"/{p.member}")]
                    if len(found) != 1:
                        raise FetchError(
                            f"The archive {part.url} holds {len(found)} files {p.member}, not one: "
                            f"its publisher changed it. Put the file at {root / p.path} by hand."
                        )
                    target = root / p.path
                    target.parent.mkdir(parents=True, exist_ok=True)
                    piece = target.with_name(target.name + ".part")
                    with archive.open(found[0]) as source, piece.open("wb") as file:
                        shutil.copyfileobj(source, file, _CHUNK)
                    done[p.path] = _keep(p, piece, target)
        except zipfile.BadZipFile as error:
            raise FetchError(
                f"{part.url} did not give a zip archive ({error}). {_by_hand(part, root)}"
            ) from error
        finally:
            partial.unlink(missing_ok=True)
    return done


def _keep(part: Part, partial: Path, target: Path) -> Fetched:
    """Verify a finished download and give it its name; remove it if it is something else."""
    # a record of an earlier copy says nothing about a new one
    fault, kind, sha256 = _compare(part, partial, None)
    if fault:
        partial.unlink(missing_ok=True)
        raise FetchError(
            f"{part.url} gave another file than the catalog says: {fault}. It was removed. Try "
            "again; if it stays, the publisher changed the file: report it, and if you trust the "
            "new one, give its path instead of the name."
        )
    os.replace(partial, target)
    return _noted(Fetched(target, kind, sha256, new=True))


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
def _alone(partial: Path, part: Part, root: Path) -> Iterator[None]:
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


# the connection -----------------------------------------------------------------------------------


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirections to the allowed kinds of address only."""

    def __init__(self, schemes: Sequence[str]) -> None:
        self.schemes = schemes

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """Refuse a redirection to a less safe address."""
        _allowed(newurl, self.schemes)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _allowed(url: str, schemes: Sequence[str]) -> None:
    scheme = urllib.parse.urlsplit(url).scheme
    if scheme not in schemes:
        raise FetchError(f"{url} is refused: only {' and '.join(schemes)} addresses are fetched.")


def _download(
    part: Part, partial: Path, root: Path, progress: Progress | None, schemes: Sequence[str]
) -> None:
    """Stream one file to its partial name, from where an earlier attempt stopped if possible."""
    _allowed(part.url, schemes)
    start = partial.stat().st_size if partial.is_file() else 0
    if not _known(part) or (part.size is not None and start >= part.size):
        start = 0
    _room(part, partial, start)
    request = urllib.request.Request(
        part.url, headers={"User-Agent": f"seqalign/{version('seqalign')}"}
    )
    if start:
        request.add_header("Range", f"bytes={start}-")
    opener = urllib.request.build_opener(_Redirects(schemes))
    try:
        with opener.open(request, timeout=_SECONDS) as response:
            # a server that ignores the range starts over, and so do we
            range_ = str(response.headers.get("Content-Range", ""))
            if response.status != 206 or not range_.startswith(f"bytes {start}-"):
                start = 0
            left = response.headers.get("Content-Length")
            total = start + int(left) if left and left.isdigit() else part.size
            with partial.open("ab" if start else "wb") as file:
                so_far = _copy(response, file, start, total, part, progress)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            os.truncate(partial, 0)
        raise FetchError(
            f"{part.url} answered {error.code} {error.reason}. {_by_hand(part, root)}"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        host = urllib.parse.urlsplit(part.url).hostname
        raise FetchError(
            f"{host} cannot be reached, or broke off ({reason}). {_by_hand(part, root, partial)}"
        ) from error
    if total is not None and so_far < total:
        raise FetchError(
            f"The connection to {part.url} ended after {so_far:,} of {total:,} bytes. "
            f"{_by_hand(part, root, partial)}"
        )


def _copy(
    source: Any,
    file: BinaryIO,
    so_far: int,
    total: int | None,
    part: Part,
    progress: Progress | None,
) -> int:
    while chunk := source.read(_CHUNK):
        try:
            file.write(chunk)
        except OSError as error:
            raise FetchError(f"{part.path} cannot be written ({error.strerror}).") from error
        so_far += len(chunk)
        if progress is not None:
            progress(part, so_far, total)
    file.flush()
    os.fsync(file.fileno())
    return so_far


def _room(part: Part, partial: Path, start: int) -> None:
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


def _by_hand(part: Part, root: Path, partial: Path | None = None) -> str:
    """Say what is kept of a transfer that can go on, and which file to put where by hand."""
    kept = partial and _known(part) and partial.is_file() and partial.stat().st_size
    return (
        f"{'What came is kept: the same command goes on from there. ' if kept else ''}"
        f"Without a connection here, download {part.url} on another machine and put "
        f"{f'its file {part.member}' if part.member else 'the file'} at {root / part.path}; then "
        "run seqalign fetch again, which verifies it."
    )
