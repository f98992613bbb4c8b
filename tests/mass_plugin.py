"""The mass bound of tests/third_party as a package of its own, and one that is broken."""

from __future__ import annotations

from pathlib import Path

CODE = Path(__file__).with_name("third_party") / "lab_seqalign" / "mass.py"

POINTS = """[seqalign.constraints]
molecular_mass = mass_seqalign:MolecularMass
broken_mass = mass_seqalign_nowhere:MolecularMass
"""


def install(folder: Path) -> Path:
    """Write the plugin below a folder and return the path to put on sys.path."""
    root = folder / "mass"
    root.mkdir(parents=True)
    (root / "mass_seqalign.py").write_text(CODE.read_text())
    info = root / "mass_seqalign-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mass-seqalign\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(POINTS)
    return root
