"""The verb `export`: designs of a run for the bench, as FASTA, CSV, plates and DNA.

One record per designed chain everywhere. Letters that nobody knows (X) stay in FASTA and CSV;
plates and DNA, which are ordered from, refuse them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seqalign.campaign.medium import for_programs
from seqalign.campaign.store import RunFolder
from seqalign.campaign.summary import Summary
from seqalign.files.gene import Gene, Order, genbank, gene
from seqalign.files.orderable import Orderable
from seqalign.files.plate import Plate, fill, grid
from seqalign.files.text import fasta, to_csv, write_atomic

__all__ = ["Exported", "export"]


FAILURES = 4
"""Genes that are tried in vain before an export is given up."""


@dataclass(frozen=True)
class Exported:
    """What was written: files, and sentences on what was done to the sequences."""

    files: tuple[Path, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Chain:
    """One chain of one design, as it is ordered."""

    id: str
    design: str
    chain: str
    sequence: str


def export(
    folder: RunFolder,
    out: Path,
    *,
    as_fasta: bool = False,
    as_csv: bool = False,
    plate: Plate | None = None,
    controls: int = 0,
    dna: Order | None = None,
    top: int | None = None,
    force: bool = False,
) -> Exported:
    """Write designs of a finished run, best first.

    Chains are called d0001_A, d0001_B, and d0001 where only one is designed.

    Args:
        folder: the run.
        out: the folder to write to.
        as_fasta: designs.fasta, a record per chain.
        as_csv: designs.csv, the columns that people read.
        plate: plate-1.csv, ...: well, id, chain, sequence, a well per chain, in the order A01, A02,
            ...; and plate-1.txt, ..., the same as a picture.
        controls: wells of the wild type, per chain, at the end of every plate; with `dna` it gets
            a gene.
        dna: what genes are like, for dna.csv, dna.fasta and dna.gb, a gene per chain.
        top: how many designs; all if None.
        force: replace files that are there.

    Raises:
        ImportError: DNA needs an extra that is not installed.
        ValueError: the run is not finished or kept no design, a letter is not known that an order
            needs, no DNA keeps all bounds, a control without a wild type, images asked for as
            sequences, or files that would be replaced.
    """
    if not (as_fasta or as_csv or plate or dna):
        raise ValueError("Say what to write: --fasta, --csv, --plate 96, --dna, or several.")
    if controls and plate is None and dna is None:
        raise ValueError("--control is a well of a plate. Say --plate 96 too.")
    summary = folder.summary()
    rows = folder.read_csv("designs.csv")
    if not rows:
        raise ValueError(
            f"{folder.path} kept no design: all {summary.rejected} were rejected, "
            "rejected.csv says why. Loosen the filters with seqalign select."
        )
    rows = rows[:top]
    chains = summary.orderable
    written: dict[Path, str] = {}
    notes: list[str] = []
    if as_csv:
        columns = [c for c in rows[0] if not for_programs(c)]
        if chains is not None and len(chains.records) > 1:
            # each chain has its own column
            columns.remove("sequence")
        written[out / "designs.csv"] = to_csv(rows, columns)
    if as_fasta or plate or dna:
        if chains is None:
            raise ValueError(
                f"{folder.path} holds images, which have no letters. Say --csv; the files are in "
                f"{folder.path / 'images'}."
            )
        config = folder.read_config()
        designs = [_chains(chains, row["id"], row["sequence"]) for row in rows]
        wild = _wild(chains, config, controls)
        if as_fasta:
            written[out / "designs.fasta"] = fasta(
                (x.id, x.sequence) for some in designs for x in some
            )
        if plate is not None:
            _refuse_unknown(chains, config, rows, f"--plate {plate}")
            fill(designs, plate, wild * controls)  # what has no room is said before genes are made
        genes: dict[str, Gene] = {}
        if dna is not None:
            _refuse_unknown(chains, config, rows, "--dna")
            _refuse_other_letters(rows[0], summary)
            dna = replace(dna, seed=summary.seed)
            every = [x for some in (*designs, wild) for x in some]
            genes = _genes(every, dna)
            written |= _dna(out, every, genes, f"{summary.name}, {dna.organism}, {dna.limits}")
            notes += _notes(dna, list(genes.values()))
        if plate is not None:
            written |= _plates(out, designs, plate, wild * controls, genes)
    for path, text in written.items():
        same = path.is_file() and path.read_bytes() == text.encode()
        if path.exists() and not same and not force:
            raise ValueError(
                f"{path} is there and differs. Choose another --out, or say --force to replace it."
            )
    for path, text in written.items():
        write_atomic(path, text)
    return Exported(tuple(written), tuple(notes))


def _chains(chains: Orderable, design: str, sequence: str) -> list[_Chain]:
    """Return the chains of a design."""
    parts = zip(chains.ids(design), chains.records, sequence.split("/"), strict=True)
    return [
        # a cell that begins with "=" is a formula where tables are read
        _Chain(name, design, re.sub(r"[^\w=-]|^=", "_", record.name), letters)
        for name, record, letters in parts
    ]


def _wild(chains: Orderable, config: Mapping[str, Any], controls: int) -> list[_Chain]:
    """Return the chains of the wild type, if it is asked for."""
    letters = config["resolved"]["wild_type"]
    if not controls:
        return []
    if letters is None:
        raise ValueError("--control needs a wild type, and this campaign has none.")
    return _chains(chains, "wild_type", chains.text(letters))


def _refuse_unknown(
    chains: Orderable, config: Mapping[str, Any], rows: Sequence[Mapping[str, str]], option: str
) -> None:
    """Refuse letters that nobody knows."""
    unknown = chains.unknown()
    if not unknown:
        return
    where = "; ".join(f"chain {name}: {', '.join(found)}" for name, found in unknown.items())
    whose = f"{rows[0]['id']} has" if len(rows) == 1 else f"{rows[0]['id']} and all others have"
    cures = chains.cures(config["input"].get("fill", "none") != "none")
    raise ValueError(
        f"{option}: an order needs every letter, and {whose} an X where nobody knows it ({where}). "
        f"In the campaign, {', and '.join(cures)}; run it again. --fasta and --csv keep the X."
    )


def _refuse_other_letters(row: Mapping[str, str], summary: Summary) -> None:
    if "liabilities" not in row:
        raise ValueError(
            f"--dna translates proteins back, and the designs of {summary.name} are none. Say "
            "--fasta."
        )


def _genes(chains: Sequence[_Chain], order: Order) -> dict[str, Gene]:
    """Return a gene per chain by its id."""
    genes, failed = {}, []
    for x in chains:
        try:
            genes[x.id] = gene(x.id, x.sequence, order)
        except ValueError as error:
            failed.append((x.id, error))
            if len(failed) == FAILURES:
                break
    if failed:
        others = ", ".join(name for name, _ in failed[1:])
        more = " and perhaps more" if len(failed) == FAILURES else ""
        so = f" Nor for {others}{more}." * bool(others)
        raise ValueError(f"--dna: {failed[0][1]}{so}") from failed[0][1]
    return genes


def _plates(
    out: Path,
    designs: Sequence[Sequence[_Chain]],
    plate: Plate,
    controls: Sequence[_Chain],
    genes: Mapping[str, Gene],
) -> dict[Path, str]:
    """Return the files of the plates, with DNA where there is some."""
    files = {}
    for n, filled in enumerate(fill(designs, plate, controls), 1):
        table = [
            {"well": well, "id": x.id, "chain": x.chain, "sequence": x.sequence}
            | ({"dna": genes[x.id].dna} if genes else {})
            for well, x in filled
        ]
        files[out / f"plate-{n}.csv"] = to_csv(table, list(table[0]))
        files[out / f"plate-{n}.txt"] = grid(plate, {well: x.id for well, x in filled})
    return files


def _dna(
    out: Path, chains: Sequence[_Chain], genes: Mapping[str, Gene], about: str
) -> dict[Path, str]:
    """Return the files of the genes."""
    table = [
        {
            "id": x.id,
            "design": x.design,
            "chain": x.chain,
            "dna": genes[x.id].dna,
            "length": len(genes[x.id].dna),
            "gc": round(genes[x.id].gc, 4),
            "protein": genes[x.id].protein,
        }
        for x in chains
    ]
    made = list(genes.values())
    return {
        out / "dna.csv": to_csv(table, list(table[0])),
        out / "dna.fasta": fasta((one.name, one.dna) for one in made),
        out / "dna.gb": genbank(made, about),
    }


def _notes(order: Order, genes: Sequence[Gene]) -> list[str]:
    """Return what was done to the sequences, in words."""
    sizes = [len(one.dna) for one in genes]
    span = f"{min(sizes)}-{max(sizes)}" if min(sizes) < max(sizes) else str(sizes[0])
    shares = [one.gc for one in genes]
    found = [
        f"{len(genes)} genes for {order.organism}, {span} bp, GC {min(shares):.0%} to "
        f"{max(shares):.0%}; every one was read back and keeps all bounds ({order.limits})."
    ]
    met = sum(one.met for one in genes)
    if met:
        found.append(f"A start M was put before {met} of {len(genes)}, which begin without one.")
    if not order.start_met:
        bare = sum(not one.protein.startswith("M") for one in genes)
        found += [f"{bare} of {len(genes)} begin without M, as asked."] if bare else []
    found += [f"{site}." for site in order.flanked()]
    if not order.stop:
        found.append("The genes end without a stop codon, as asked.")
    return found
