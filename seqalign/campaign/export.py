"""Designs of a run for the bench: FASTA, a short CSV, and plate maps.

DNA is left out: back-translation needs an organism's codon usage, and no dependency of this
package ships one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from seqalign.campaign.store import RunFolder
from seqalign.files.text import fasta, to_csv, write_atomic

Wells = Literal[96, 384]
_ROWS: dict[int, tuple[str, int]] = {96: ("ABCDEFGH", 12), 384: ("ABCDEFGHIJKLMNOP", 24)}


def wells(plate: Wells) -> list[str]:
    """Return the wells of a plate, row by row: A01, A02, ..., H12."""
    rows, columns = _ROWS[plate]
    return [f"{row}{column:02d}" for row in rows for column in range(1, columns + 1)]


def export(
    folder: RunFolder,
    out: Path,
    *,
    as_fasta: bool = False,
    as_csv: bool = False,
    plate: Wells | None = None,
    control: bool = False,
    top: int | None = None,
    force: bool = False,
) -> list[Path]:
    """Write designs of a finished run, best first, and return the files.

    Args:
        folder: the run.
        out: the folder to write to.
        as_fasta: designs.fasta, one sequence per design named by its id, chains joined by "/".
        as_csv: designs.csv, with id, sequence, mutations and rewards.
        plate: plate-1.csv, plate-2.csv, ...: well, id, sequence, in the order A01, A02, ..., H12.
        control: the wild type in the last well of every plate.
        top: how many designs; all if None.
        force: replace files that are there.

    Raises:
        ValueError: the run is not finished or kept no design, a control without a wild type,
            images asked for as sequences, or files that would be replaced.
    """
    if not (as_fasta or as_csv or plate):
        raise ValueError("Say what to write: --fasta, --csv, --plate 96, or several of them.")
    if control and plate is None:
        raise ValueError("--control is a well of a plate. Say --plate 96 too.")
    summary = folder.summary()
    config = folder.read_config()
    rows = folder.read_csv("designs.csv")
    if not rows:
        raise ValueError(
            f"{folder.path} kept no design: all {summary.rejected} were rejected, "
            "rejected.csv says why. Loosen the filters with seqalign select."
        )
    rows = rows[:top]
    if "sequence" not in rows[0] and (as_fasta or plate):
        raise ValueError(
            f"{folder.path} holds images, which have no letters. Say --csv; the files are in "
            f"{folder.path / 'images'}."
        )
    wild = config["resolved"]["wild_type"]
    if control and wild is None:
        raise ValueError("--control needs a wild type, and this campaign has none.")
    sizes = config["resolved"]["chains"]
    written: dict[Path, str] = {}
    if as_fasta:
        records = ((row["id"], _joined(row["sequence"], sizes)) for row in rows)
        written[out / "designs.fasta"] = fasta(records)
    if as_csv:
        own = ("prompt", "file", "sequence", "mutations", "n_mut", "seq_recovery")
        columns = [c for c in ("id", *own, *summary.labels, "total") if c in rows[0]]
        written[out / "designs.csv"] = to_csv(rows, columns)
    if plate is not None:
        places = wells(plate)
        room = places[:-1] if control else places
        for n, start in enumerate(range(0, len(rows), len(room)), 1):
            some = zip(room, rows[start : start + len(room)], strict=False)
            lines = [(well, row["id"], row["sequence"]) for well, row in some]
            lines += [(places[-1], "wild_type", wild)] if control else []
            table = [
                {"well": well, "id": name, "sequence": _joined(sequence, sizes)}
                for well, name, sequence in lines
            ]
            written[out / f"plate-{n}.csv"] = to_csv(table, ["well", "id", "sequence"])
    for path, text in written.items():
        same = path.is_file() and path.read_bytes() == text.encode()
        if path.exists() and not same and not force:
            raise ValueError(
                f"{path} is there and differs. Choose another --out, or say --force to replace it."
            )
    for path, text in written.items():
        write_atomic(path, text)
    return list(written)


def _joined(sequence: str, sizes: Sequence[int]) -> str:
    parts, start = [], 0
    for size in sizes:
        parts.append(sequence[start : start + size])
        start += size
    return "/".join(parts)
