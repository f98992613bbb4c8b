"""designs.fasta: what its headers need beside the rows of designs.csv, kept in summary.json."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator

from seqalign.files.mpnn_fasta import Native, Sample, mpnn_fasta
from seqalign.files.mpnn_numbering import by_chain
from seqalign.files.structure import Structure
from seqalign.files.text import fasta

__all__ = ["Layout", "Sheet"]


@dataclass(frozen=True)
class Layout:
    """How the positions of a process are printed as chains of a structure.

    Attributes:
        name: of the structure.
        chains: the designed chains in the order they are printed.
        designed: the same chains in the order of the file.
        fixed: the chains that are only seen.
        places: per printed chain, the 0-based position behind each letter; None is a gap, "X".
    """

    name: str
    chains: tuple[str, ...]
    designed: tuple[str, ...]
    fixed: tuple[str, ...]
    places: tuple[tuple[int | None, ...], ...]

    @classmethod
    def of(cls, structure: Structure) -> Layout:
        """Return the layout of a structure: chains by name, gaps in the numbers as X."""
        every = dict.fromkeys(structure.numbering.chains)
        pairs = zip(structure.numbering.chains, structure.design.tolist(), strict=True)
        designed = {chain for chain, may in pairs if may}
        # one private letter per position shows where by_chain puts it
        known = structure.known.tolist()
        letters = "".join(chr(0xF0000 + i) for i in range(len(known)))
        printed = by_chain(letters, structure.numbering, sorted(designed), known)
        return cls(
            structure.name,
            tuple(sorted(designed)),
            tuple(c for c in every if c in designed),
            tuple(c for c in every if c not in designed),
            tuple(
                tuple(None if a == "X" else ord(a) - 0xF0000 for a in chain)
                for chain in printed.split("/")
            ),
        )

    def text(self, letters: str) -> str:
        """Return the letters of all positions as chains joined by '/'."""
        return "/".join(
            "".join("X" if i is None else letters[i] for i in chain) for chain in self.places
        )

    def letters(self, text: str, wild_type: str) -> str:
        """Return the letters of all positions from chains joined by '/'; others as `wild_type`.

        Raises:
            ValueError: the chains have other lengths, or a gap has a letter.
        """
        parts = text.split("/")
        sizes = [len(chain) for chain in self.places]
        if [len(part) for part in parts] != sizes:
            want = ", ".join(
                f"{c or 'no name'} {n}" for c, n in zip(self.chains, sizes, strict=True)
            )
            raise ValueError(
                f"has {' / '.join(str(len(part)) for part in parts)} letters, but the designed "
                f"chains of {self.name} are {want} (gaps in the numbers as X, chains joined by '/')"
            )
        found = list(wild_type)
        for name, chain, part in zip(self.chains, self.places, parts, strict=True):
            for n, (i, letter) in enumerate(zip(chain, part, strict=True), 1):
                if i is not None:
                    found[i] = letter
                elif letter not in "X-":
                    raise ValueError(
                        f"has {letter!r} as letter {n} of chain {name or 'without a name'}, where "
                        f"{self.name} has no residue to design; write X"
                    )
        return "".join(found)


def _with_rejected(row: Any) -> Any:
    """Return a row as it was before it was stored: null stands for a rejected reward."""
    return row and {k: -math.inf if v is None else v for k, v in row.items()}


@dataclass(frozen=True)
class Sheet:
    """What designs.fasta says beside the designs.

    Attributes:
        style: "mpnn" or "plain".
        name: of the campaign.
        seed: of the run.
        model: its name.
        temperature: of sampling.
        labels: the rewards, which headers list.
        wild: the row of the wild type, if there is one.
        layout: where there is a structure, how its chains are printed.
        fixed: log-likelihoods in nats of the fixed letters before all others, of the wild type and
            of designs; with a structure only.
    """

    style: str
    name: str
    seed: int
    model: str
    temperature: float
    labels: tuple[str, ...]
    wild: Annotated[Mapping[str, Any] | None, BeforeValidator(_with_rejected)]
    layout: Layout | None = None
    fixed: tuple[float, float] = (0.0, 0.0)

    def fasta(self, kept: Sequence[Mapping[str, Any]]) -> str:
        """Return the text of designs.fasta."""
        if self.style == "plain":
            return fasta((str(row["id"]), str(row["sequence"])) for row in kept)
        if self.layout is not None:
            return self._of_structure(self.layout, kept)
        records = []
        if self.wild is not None:
            header = f"{self.name}, wild_type, score={-self.wild['prior_per_residue']:.4f}"
            header += f", seed={self.seed}{self._rewards(self.wild)}"
            records.append((header, str(self.wild["sequence"])))
        for n, row in enumerate(kept, 1):
            header = f"T={self.temperature:g}, sample={n}, score={-row['prior_per_residue']:.4f}"
            if "seq_recovery" in row:
                header += f", seq_recovery={row['seq_recovery']:.4f}"
            header += f", id={row['id']}, total={row['total']:.4f}{self._rewards(row)}"
            if "mutations" in row:
                header += f", mutations={row['mutations'] or 'none'}"
            records.append((header, str(row["sequence"])))
        return fasta(records)

    def _rewards(self, row: Mapping[str, Any]) -> str:
        return "".join(f", {x}={row[x]:.4f}" for x in self.labels)

    def _of_structure(self, layout: Layout, kept: Sequence[Mapping[str, Any]]) -> str:
        """Return the designs as ProteinMPNN writes them, with our columns appended."""
        own = self.wild
        assert own is not None  # a structure has a sequence

        def extra(row: Mapping[str, Any]) -> dict[str, str]:
            found = {"id": str(row["id"]), "total": f"{row['total']:.4f}"} if "id" in row else {}
            return found | {x: f"{row[x]:.4f}" for x in self.labels}

        size = len(own["sequence"])
        first = Native(
            layout.name,
            layout.text(own["sequence"]),
            -own["prior_per_residue"],
            -(self.fixed[0] + own["prior"]) / size,
            layout.fixed,
            layout.designed,
            self.model,
            self.seed,
            extra=extra(own),
        )
        samples = [
            Sample(
                layout.text(str(row["sequence"])),
                self.temperature,
                n,
                -row["prior_per_residue"],
                -(self.fixed[1] + row["prior"]) / size,
                row["seq_recovery"],
                extra=extra(row) | {"mutations": str(row["mutations"]) or "none"},
            )
            for n, row in enumerate(kept, 1)
        ]
        return mpnn_fasta(first, samples)
