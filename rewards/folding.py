"""ESMFold as a reward: does the design fold, into the target, and what does the fold look like?

A `Folder` predicts structures; `esmfold(metric=...)` turns a prediction into a number. Every metric
is HIGHER IS BETTER:

| metric | value | unit |
|---|---|---|
| plddt | mean predicted lDDT of the heavy atoms, 0..1 | |
| ptm | predicted TM-score, 0..1 | |
| rmsd | − RMSD to the target over Cα (self-consistency) | Å |
| crmsd | − RMSD to the target over N, Cα, C | Å |
| drmsd | − root mean square difference of all distances between N, Cα, C | Å |
| tm | TM-score to the target over Cα, 0..1 | |
| lddt | lDDT to the target over Cα, 0..1 | |
| hydrophobic | − fraction of the heavy atoms of V, I, L, F, M, W that water can touch | |
| surface | fraction of the heavy atoms that water can touch | |
| ss-match | fraction of residues with the wanted helix, strand or coil | |
| symmetry | − standard deviation of the distances between the centers of the protomers | Å |
| globularity | − standard deviation of the distances of N, Cα, C to their centroid | Å |

The list and the definitions are those of the tutorial's protein experiments, with two differences:
there, drmsd has no minus sign, and TM-score aligns residues that correspond here by construction.

References:
    Reward-Guided Iterative Refinement in Diffusion Models at Test-Time with Applications to Protein
    and DNA Design (Uehara et al., 2025), https://arxiv.org/abs/2502.14944.
    A high-level programming language for generative protein design (Hie et al., 2022),
    https://doi.org/10.1101/2022.12.21.521526.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NoReturn

import torch

from seqalign import weights as published
from seqalign.core.objective import Reward
from seqalign.core.sequence import PROTEIN
from seqalign.files.numbering import Numbering
from seqalign.files.structure import Structure, read_structure
from seqalign.rewards import geometry
from seqalign.rewards.esmfold import CHEAPER, Fold, Folder, Precision, folder, one_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from seqalign.core.process import Designs

__all__ = ["ESMFold", "Metric", "Target", "esmfold"]

Metric = Literal[
    "plddt",
    "ptm",
    "rmsd",
    "crmsd",
    "drmsd",
    "tm",
    "lddt",
    "hydrophobic",
    "surface",
    "ss-match",
    "symmetry",
    "globularity",
]

HYDROPHOBIC: Final = "VILFMW"
"""The residues whose exposure counts, as in the tutorial's code."""


_TO_TARGET: Final = ("rmsd", "crmsd", "drmsd", "tm", "lddt")
_IN_ANGSTROM: Final = ("rmsd", "crmsd", "drmsd", "symmetry", "globularity")
_WITH_BIOTITE: Final = ("hydrophobic", "surface", "ss-match")


@dataclass(frozen=True, eq=False)
class Target:
    """The structure that designs are made for, as far as it is folded: the chains to be designed.

    Attributes:
        name: what messages call it.
        length: positions of a design, L.
        positions: (n,) those that are folded, in order.
        chains: lengths of the folded chains; they sum to n.
        pieces: lengths of the unbroken pieces of these chains; they sum to n.
        coords: (n, 4, 3) Å, atoms N, CA, C, O; nan where missing.
        numbering: names of the n folded positions.
    """

    name: str
    length: int
    positions: Tensor
    chains: tuple[int, ...]
    pieces: tuple[int, ...]
    coords: Tensor
    numbering: Numbering

    @classmethod
    def of(cls, structure: Structure) -> Target:
        """Return the chains of a structure that may be designed; context chains are left out.

        Raises:
            ValueError: no residue can be designed.
        """
        known = structure.known
        folded = known[structure.design[known]]
        if len(folded) == 0:
            raise ValueError(
                f"{structure.name}: no residue of a chain to be designed has all its backbone "
                f"atoms, so there is nothing to fold. Name other chains."
            )
        chain = structure.chain_index[folded]
        # a residue left out in between ends a piece as a broken bond does
        jump = folded.diff() != 1
        broken = structure.breaks.cumsum(0)[folded].diff() != 0
        return cls(
            name=structure.name,
            length=len(known),
            positions=structure.design[known].nonzero()[:, 0],
            chains=_runs(chain.diff() != 0),
            pieces=_runs(jump | broken),
            coords=structure.coords[folded],
            numbering=structure.numbering.take(folded.tolist()),
        )


def _runs(new: Tensor) -> tuple[int, ...]:
    """Return the lengths of runs, given (n - 1,) whether the next element begins another one."""
    ends = [0, *(new.nonzero()[:, 0] + 1).tolist(), len(new) + 1]
    return tuple(b - a for a, b in pairwise(ends))


@dataclass(frozen=True, eq=False, kw_only=True)
class ESMFold(Reward):
    """One metric of the structure that ESMFold predicts for a design; higher is better.

    Attributes:
        metric: what is measured; see the table of this module.
        folder: what predicts.
        target: what designs are compared with, and how they divide into chains; None folds a design
            as one chain.
        residues: the residues that are measured, in the mini-language; None is all of them.
        secondary: wanted H, E, C or "." (any) per folded residue; None takes the target's.
        protomers: equal parts of the folded sequence that are copies; None takes its chains.
        neighbors: which protomers are measured against each other.

    Raises:
        ValueError: a setting is not allowed, or does not fit the metric or the target.
    """

    metric: Metric = "plddt"
    folder: Folder = field(repr=False)
    target: Target | None = field(default=None, repr=False)
    residues: str | None = None
    secondary: str | None = None
    protomers: int | None = None
    neighbors: geometry.Neighbors = "ring"

    def __post_init__(self) -> None:
        """Refuse, before anything is folded, what cannot be measured."""
        one_of("metric", self.metric, Metric)
        one_of("neighbors", self.neighbors, geometry.Neighbors)
        takers = {"secondary": "ss-match", "protomers": "symmetry"}
        for key, metric in takers.items():
            if getattr(self, key) is not None and self.metric != metric:
                self._fail(f"{key} is for metric {metric} only; leave it out")
        if self.residues is not None and self.metric in ("ptm", "symmetry"):
            self._fail("it is measured on the whole fold; leave residues out")
        if self.target is None:
            if self.metric in _TO_TARGET:
                self._fail("it compares with a target; give structure")
            if self.metric == "ss-match" and self.secondary is None:
                self._fail("give the wanted secondary structure, or a structure that has it")
            if self.metric == "symmetry" and self.protomers is None:
                self._fail("give protomers, or a structure with one chain per protomer")
        else:
            self._check(len(self.target.positions), self.target.chains)

    @property
    def name(self) -> str:  # type: ignore[override]
        """What messages and tables call it."""
        return f"esmfold-{self.metric}"

    @property
    def unit(self) -> str:  # type: ignore[override]
        """Å, or nothing for a score in 0..1."""
        return "Å" if self.metric in _IN_ANGSTROM else ""

    @property
    def cost(self) -> float:  # type: ignore[override]
        """Seconds per design, an order of magnitude for 100 residues."""
        return 1.0 if self.folder.device.type == "cuda" else 60.0

    def __call__(self, designs: Designs) -> Tensor:
        """Score designs (B, K), float64.

        Raises:
            TypeError: the designs have no letters.
            ValueError: another alphabet or length, a masked position, or a setting that does not
                fit this length.
            MemoryError: one sequence alone does not fit into memory.
        """
        if designs.alphabet is None:
            raise TypeError(
                f"Reward {self.name!r} scores protein sequences, and these designs are continuous. "
                f"Use it with a process over protein letters."
            )
        if designs.alphabet.letters != PROTEIN.letters:
            self._fail(
                f"it scores designs over {PROTEIN.letters!r}, got the alphabet "
                f"{designs.alphabet.letters!r}; use a protein model"
            )
        chains = [[self._chains(s) for s in island] for island in designs.sequences]
        distinct = list(dict.fromkeys(s for island in chains for s in island))
        folds = self.folder(distinct)
        value = {s: self._value(fold, s) for s, fold in zip(distinct, folds, strict=True)}
        rows = [[value[s] for s in island] for island in chains]
        return torch.tensor(rows, dtype=torch.float64, device=designs.x.device)

    def _chains(self, sequence: str) -> str:
        """Return what is folded of a design, ":" between chains."""
        if self.target is None:
            return sequence
        if len(sequence) != self.target.length:
            self._fail(
                f"{self.target.name} has {self.target.length} residues to design, got a design of "
                f"{len(sequence)}; use the structure that the model designs for"
            )
        ends = accumulate(self.target.chains, initial=0)
        folded = "".join(sequence[i] for i in self.target.positions.tolist())
        return ":".join(folded[a:b] for a, b in pairwise(ends))

    def _value(self, fold: Fold, sequence: str) -> float:
        """Return the metric of one fold."""
        lengths = tuple(len(chain) for chain in sequence.split(":"))
        sequence = sequence.replace(":", "")
        if self.target is None:
            self._check(len(sequence), lengths)
        rows = self._rows(len(sequence))
        backbone = fold.coords[rows, :3]
        if self.metric == "plddt":
            return float(fold.plddt[rows].double().nanmean())
        if self.metric == "ptm":
            return fold.ptm
        if self.metric == "globularity":
            return -float(geometry.radial_spread(backbone.flatten(0, 1)))
        if self.metric == "symmetry":
            parts = fold.coords[:, :3].split(self._protomers(lengths))
            centers = torch.stack([part.double().mean((0, 1)) for part in parts])
            return -float(geometry.asymmetry(centers, self.neighbors))
        if self.metric == "ss-match":
            pieces = lengths if self.target is None else self.target.pieces
            found = geometry.secondary_structure(fold.coords[:, 1], pieces)
            hits = [found[i] == self._wanted[i] for i in rows if self._wanted[i] != "."]
            return sum(hits) / len(hits)
        if self.metric in ("surface", "hydrophobic"):
            exposed = geometry.exposed_atoms(sequence, fold.coords)
            atoms = fold.coords[..., 0].isfinite()
            if self.metric == "surface":
                return float(exposed[rows].sum() / atoms[rows].sum())
            rows = [i for i in rows if sequence[i] in HYDROPHOBIC]
            # without such residues nothing of them is exposed
            return -float(exposed[rows].sum() / atoms[rows].sum().clamp(min=1))
        assert self.target is not None
        wanted = self.target.coords[rows, :3]
        measures = {
            "rmsd": lambda: -geometry.rmsd(backbone[:, 1], wanted[:, 1]),
            "tm": lambda: geometry.tm_score(backbone[:, 1], wanted[:, 1]),
            "lddt": lambda: geometry.lddt(backbone[:, 1], wanted[:, 1]),
            "crmsd": lambda: -geometry.rmsd(backbone.flatten(0, 1), wanted.flatten(0, 1)),
            "drmsd": lambda: -geometry.drmsd(backbone.flatten(0, 1), wanted.flatten(0, 1)),
        }
        return float(measures[self.metric]())

    @cached_property
    def _wanted(self) -> str:
        """The wanted secondary structure, per folded residue."""
        if self.secondary is not None:
            return self.secondary
        assert self.target is not None
        return geometry.secondary_structure(self.target.coords[:, 1], self.target.pieces)

    def _rows(self, n: int) -> list[int]:
        """Return the indices of the residues that are measured, of n folded ones."""
        if self.residues is None:
            return list(range(n))
        names = Numbering.plain(n) if self.target is None else self.target.numbering
        return [i - 1 for i in names.positions(self.residues, f"{self.name}: residues")]

    def _protomers(self, chains: tuple[int, ...]) -> list[int]:
        """Return the lengths of the protomers."""
        if self.protomers is None:
            return list(chains)
        return [sum(chains) // self.protomers] * self.protomers

    def _check(self, n: int, chains: tuple[int, ...]) -> None:
        """Refuse settings that do not fit n folded residues in these chains."""
        rows = self._rows(n)
        if not rows:
            self._fail("residues is empty; name some, or leave it out")
        if self.metric in _TO_TARGET:
            assert self.target is not None
            atoms = [1] if self.metric in ("rmsd", "tm", "lddt") else [0, 1, 2]
            present = self.target.coords[rows][:, atoms].isfinite().flatten(1).all(1)
            if not bool(present.all()):
                missing = rows[int((~present).nonzero()[0])]
                self._fail(
                    f"{self.target.name} lacks backbone atoms of residue "
                    f"{self.target.numbering.name(missing + 1)}; take metric rmsd, tm or lddt, or "
                    f"leave the residue out with residues"
                )
            if len(rows) < 3:
                self._fail(f"{len(rows)} residues have no shape to compare; measure at least 3")
        if self.metric == "ss-match":
            wanted = self._wanted
            if set(wanted) - set("HEC."):
                self._fail(
                    f"secondary is {wanted!r}; write H (helix), E (strand), C (coil) or . (any) "
                    f"for each residue"
                )
            if len(wanted) != n:
                self._fail(f"secondary has {len(wanted)} letters for {n} folded residues")
            if all(wanted[i] == "." for i in rows):
                self._fail("secondary wants nothing of the residues measured")
        if self.metric == "symmetry":
            count = len(chains) if self.protomers is None else self.protomers
            if isinstance(count, bool) or not isinstance(count, int) or count < 3:
                self._fail(
                    f"{count!r} protomers have one distance, which is always symmetric; give at "
                    f"least 3 as protomers, or a structure with 3 chains or more"
                )
            if self.protomers is not None and n % count:
                self._fail(f"{n} folded residues cannot be divided into {count} equal protomers")

    def _fail(self, why: str) -> NoReturn:
        raise ValueError(f"Reward {self.name!r}: {why}.")


def esmfold(
    *,
    metric: Metric = "plddt",
    structure: str | Path | Structure | None = None,
    chains: str | Sequence[str] | None = None,
    context: str | Sequence[str] | None = None,
    numbering: str = "author",
    residues: str | None = None,
    secondary: str | None = None,
    protomers: int | None = None,
    neighbors: geometry.Neighbors = "ring",
    weights: str | Path = "esmfold_v1",
    recycles: int = 3,
    precision: Precision = "auto",
    device: str = "auto",
) -> ESMFold:
    """Return one metric of the structure that ESMFold predicts; higher is better.

    Args:
        metric: plddt, ptm, rmsd, crmsd, drmsd, tm, lddt, hydrophobic, surface, ss-match, symmetry
            or globularity; see the table of this module.
        structure: the target; its chains to be designed are folded together, context is not.
        chains: chains of the target to be designed.
        context: chains of the target that are seen and not designed.
        numbering: author, label or index.
        residues: the residues that are measured, such as "A1-20"; all by default.
        secondary: for ss-match: H, E, C or "." (any) per folded residue; the target's by default.
        protomers: for symmetry: equal parts that are copies; the target's chains by default.
        neighbors: for symmetry: "ring" (each with the next) or "all" pairs.
        weights: a name of `seqalign fetch`, or a folder in transformers' format.
        recycles: passes through the trunk after the first; fewer is faster and less accurate.
        precision: auto, float32, bfloat16 or float16.
        device: auto, cpu, cuda or cuda:1.

    Raises:
        ImportError: transformers is not installed, or biotite for a metric that needs it.
        FileNotFoundError: the weights are not on this machine.
        ValueError: a setting is not allowed, or does not fit the metric or the target.
    """
    one_of("metric", metric, Metric)
    if metric in _WITH_BIOTITE:
        geometry.need_biotite()
    target = None
    if structure is not None:
        target = Target.of(
            read_structure(structure, chains=chains, context=context, numbering=numbering)
        )
    try:
        path = published.path(weights)
    except published.MissingWeights as error:
        raise FileNotFoundError(f"{error} (8.4 GB, MIT). {CHEAPER}") from error
    return ESMFold(
        metric=metric,
        folder=folder(path.absolute(), device, precision, recycles),
        target=target,
        residues=residues,
        secondary=secondary,
        protomers=protomers,
        neighbors=neighbors,
    )
