"""The command line as the tests call it, on a campaign file of a plugin installed for them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import toy_plugin
from typer.testing import CliRunner

from seqalign.cli.main import app

runner = CliRunner()


def call(*argv: object) -> Any:
    """Run a command; whatever goes wrong must end in an exit code, not in a traceback."""
    result = runner.invoke(app, [str(a) for a in argv])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise AssertionError(f"traceback for {argv}") from result.exception
    return result


def words(result: Any) -> str:
    """What a command said, without its line breaks."""
    return " ".join(result.output.split())


def sets(options: Iterable[str]) -> list[str]:
    """`--set` before each option."""
    return [part for text in options for part in ("--set", text)]


def refuses(campaign: Path, change: str, said: Iterable[str]) -> None:
    """Assert that `check` of a changed campaign ends with code 2 and says all of `said`."""
    result = call("check", campaign, "--set", change)
    assert result.exit_code == 2, result.output
    for part in said:
        assert part in words(result)
    assert "Traceback" not in result.output


def imported(modules: str, libraries: Iterable[str]) -> list[str]:
    """Which of the libraries a fresh interpreter has loaded once it has imported the modules."""
    code = f"import sys, {modules}; print(*sorted({set(libraries)} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def exchanged(path: Path, old: str, new: str) -> int:
    """Exchange one text of a file for another line's; gives the number of that line."""
    text = path.read_text().replace(old, new)
    path.write_text(text)
    return text[: text.index(new)].count("\n") + 1


@contextmanager
def campaign_of(
    folder: Path,
    text: str = toy_plugin.CAMPAIGN,
    install: Callable[[Path], Path] = toy_plugin.install,
) -> Iterator[Path]:
    """Install a plugin below a folder for a while; gives the campaign's file, folder/c.yaml."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(install(folder)))
        path = folder / "c.yaml"
        path.write_text(text)
        yield path
