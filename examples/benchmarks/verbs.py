"""Whole commands as a user waits for them: check of small and large structures, a run of 96.

    python examples/benchmarks/verbs.py [--quick]

Structures are copies of the demo's backbone, side by side, or its first residues. Prints seconds of
wall time, a fresh process each, imports included.
"""

from __future__ import annotations

import string
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from seqalign.files.structure import demo_backbone

CAMPAIGN = """
version: 1
name: verbs
input: {structure: x.pdb}
design: {residues: "%s"}
model: {name: mpnn-mini}
rewards: {s: {oracle: ddg-mini}, h: {oracle: ddg-pairs, role: holdout}}
sampler: {name: tds, alpha: 0.5, particles: %d}
select: {top: 96, diversity: {min_mutations_apart: 3}}
"""


def campaign(folder: Path, copies: int, particles: int, length: int = 74) -> tuple[Path, int]:
    """Write a campaign on copies of the first residues, all designed; return it and its size."""
    structure = demo_backbone()
    first = int(structure.numbering.numbers[0])
    lines = structure.to_pdb().splitlines()
    atoms = [x for x in lines if x.startswith("ATOM") and int(x[22:26]) < first + length]
    chains = string.ascii_letters[:copies]
    lines = []
    for k, chain in enumerate(chains):
        for x in atoms:
            place = [float(x[30:38]) + 60 * (k % 7), float(x[38:46]) + 60 * (k // 7)]
            moved = "".join(f"{v:8.3f}" for v in place)
            lines.append(f"{x[:21]}{chain}{x[22:30]}{moved}{x[46:]}")
        lines.append("TER")
    (folder / "x.pdb").write_text("\n".join([*lines, "END", ""]))
    path = folder / "c.yaml"
    path.write_text(CAMPAIGN % (", ".join(chains), particles))
    return path, copies * length


def seconds(verb: str, path: Path) -> float:
    """Return the wall time of a command in a process of its own."""
    begin = time.perf_counter()
    argv = [sys.executable, "-m", "seqalign.cli.main", verb, str(path)]
    subprocess.run(argv, check=True, capture_output=True)
    return time.perf_counter() - begin


def main(
    quick: Annotated[
        bool, typer.Option("--quick", help="two copies; 20 residues, 4 particles")
    ] = False,
) -> None:
    """Time the verbs."""
    for copies in (1, 2) if quick else (1, 46):
        with tempfile.TemporaryDirectory() as folder:
            path, size = campaign(Path(folder), copies, 128)
            print(f"check, {size} residues, all designed: {seconds('check', path):.1f} s")
    with tempfile.TemporaryDirectory() as folder:
        path, size = campaign(Path(folder), 1, 4 if quick else 128, 20 if quick else 50)
        took = seconds("run", path)
        kept = sum(1 for _ in (Path(folder) / "runs" / "verbs" / "designs.csv").open()) - 1
        print(f"run, {size} residues, {kept} designs at least 3 mutations apart: {took:.1f} s")


if __name__ == "__main__":
    typer.run(main)
