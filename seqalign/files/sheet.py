"""designs.fasta: what its headers need beside the rows of designs.csv, kept in summary.json."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator

from seqalign.files.mpnn_fasta import Native, Sample, mpnn_fasta
from seqalign.files.orderable import Orderable
from seqalign.files.text import fasta

__all__ = ["Sheet"]


def _with_rejected(row: Any) -> Any:
    """Return a row as it was before it was stored: null stands for a rejected reward."""
    return row and {k: -math.inf if v is None else v for k, v in row.items()}


def _fit(text: str) -> str:
    """Return a text as a header can hold it: chains of a file may be called "[x" or "a,b"."""
    return re.sub(r"^\[|[,\n\r]", "_", text)


def _score(row: Mapping[str, Any]) -> str:
    """Return what a header says of a row's log-likelihood: nothing where it is not known."""
    known = row.get("prior_per_residue")
    return "" if known is None else f", score={-known:.4f}"


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
        fixed: log-likelihoods in nats of the fixed letters before all others, of the wild type and
            of designs, None each where the run has none; None without a structure.
    """

    style: str
    name: str
    seed: int
    model: str
    temperature: float
    labels: tuple[str, ...]
    wild: Annotated[Mapping[str, Any] | None, BeforeValidator(_with_rejected)]
    fixed: tuple[float | None, float | None] | None = None

    def fasta(self, kept: Sequence[Mapping[str, Any]], chains: Orderable) -> str:
        """Return the text of designs.fasta; `chains` says how designs are printed."""
        if self.style == "plain":
            return fasta(
                (name, letters)
                for row in kept
                for name, letters in zip(
                    chains.ids(str(row["id"])), str(row["sequence"]).split("/"), strict=True
                )
            )
        if self.fixed is not None:
            return self._of_structure(self.fixed, chains, kept)
        records = []
        if self.wild is not None:
            header = f"{self.name}, wild_type{_score(self.wild)}"
            header += f", seed={self.seed}{self._rewards(self.wild)}"
            records.append((header, str(self.wild["sequence"])))
        for n, row in enumerate(kept, 1):
            header = f"T={self.temperature:g}, sample={n}{_score(row)}"
            if "seq_recovery" in row:
                header += f", seq_recovery={row['seq_recovery']:.4f}"
            header += f", id={row['id']}, total={row['total']:.4f}{self._rewards(row)}"
            if "mutations" in row:
                header += f", mutations={row['mutations'] or 'none'}"
            records.append((header, str(row["sequence"])))
        return fasta(records)

    def _rewards(self, row: Mapping[str, Any]) -> str:
        return "".join(f", {x}={row[x]:.4f}" for x in self.labels)

    def _of_structure(
        self,
        fixed: tuple[float | None, float | None],
        chains: Orderable,
        kept: Sequence[Mapping[str, Any]],
    ) -> str:
        """Return the designs as ProteinMPNN writes them, with our columns appended."""
        own = self.wild
        assert own is not None  # a structure has a sequence

        def extra(row: Mapping[str, Any]) -> dict[str, str]:
            found = {"id": str(row["id"]), "total": f"{row['total']:.4f}"} if "id" in row else {}
            return found | {x: f"{row[x]:.4f}" for x in self.labels}

        def score(
            row: Mapping[str, Any], others: float | None
        ) -> tuple[float | None, float | None]:
            """Return the score of the designed letters, and of all of them."""
            if row.get("prior") is None or others is None:
                return None, None
            return -row["prior_per_residue"], -(others + row["prior"]) / len(chains.base)

        first = Native(
            chains.name,
            str(own["sequence"]),
            *score(own, fixed[0]),
            chains.context,
            chains.designed,
            self.model,
            self.seed,
            extra=extra(own),
        )
        samples = [
            Sample(
                str(row["sequence"]),
                self.temperature,
                n,
                *score(row, fixed[1]),
                row["seq_recovery"],
                extra=extra(row) | {"mutations": _fit(str(row["mutations"])) or "none"},
            )
            for n, row in enumerate(kept, 1)
        ]
        return mpnn_fasta(first, samples)
