"""Stability of any sequence on a backbone relative to its wild type, calibrated where it gains.

A backbone alone decides an energy of sequences, letters at sites and pairs of letters in contact:

    f(x) = Σ_i S_i(x_i) + ½ Σ_ij u(x_i) · C_ij u(x_j),    raw(x) = f(x) − f(wild type),

in kcal/mol, higher is more stable; u (R,) describes a letter. S is linear in what ProteinMPNN,
frozen, says of a residue with no letter seen (the encoder's state, the decoder's three states, the
logits) and in products of its first principal components, and C in the encoder's edges. These maps
are one ridge regression on measured ΔΔG (`train_ddg`). Written from the wild type w, with
d_i = u(x_i) − u(w_i),

    raw(x) = Σ_i G_i(x_i) + ½ Σ_ij d_i · C_ij d_j,

G is what single substitutions gain and the rest what they do to each other. Three variants:

- `raw`, exactly antisymmetric: with wild type and design swapped on one backbone it changes its
  sign, bit by bit.
- `calibrated`: a predicted gain is worth less than it says, m(G) − o. The map m leaves losses as
  they are and bends gains, m(g) ≤ g; o ≥ 0, one number per new letter, is what the wild type's
  letter is worth because it is the wild type's, which no table of a backbone can know. Both are
  fitted on proteins that the prediction had not seen.
- `lower`, the default: m(G) − o − p for every letter but the wild type's; p ≥ 0 is fitted so
  that multiple mutants with a positive value are stabilized in truth.

The total t of the last two saturates where it is positive: c (1 − exp(−t / c)). All are 0 for the
wild type and differentiable in letter probabilities. For `calibrated` and `lower` antisymmetry is
a bound: there and back again never gains, v(w → x) + v(x → w) ≤ 0, as m(g) ≤ g.

References:
    Robust deep learning-based protein sequence design using ProteinMPNN, Dauparas et al., Science
    2022, https://doi.org/10.1126/science.add2187 (the frozen network; MIT)
    Mega-scale experimental analysis of protein folding stability in biology and design, Tsuboyama
    et al., 2023, Nature 620:434-444 (the measurements)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
import yaml
from safetensors import safe_open
from torch import Tensor

from seqalign.core.objective import Reward
from seqalign.core.sequence import PROTEIN
from seqalign.files.structure import Structure, read_structure
from seqalign.models.mpnn import of
from seqalign.models.mpnn_weights import Weights
from seqalign.rewards.letters import letter_probabilities, letter_tokens
from seqalign.weights import sound

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from seqalign.core.process import Designs

__all__ = [
    "VARIANTS", "Calibration", "Described", "Energy", "StabilityChange", "ddg_mini", "described",
    "energy", "network", "of_structure", "products", "read_weights", "reading",
]  # fmt: skip

VARIANTS: Final = ("lower", "calibrated", "raw")
NEIGHBORS: Final = 48
REACH: Final = 9.0
"""Å: pairs count by exp(−(distance of CB / REACH)²)."""
HOLDER: Final = "ddg-mini.safetensors"
"""The file with the frozen network, which the twin reads, too."""
SITE_GRID, PAIR_GRID = 2.0**-24, 2.0**-18
"""kcal/mol. What is a multiple of these adds up without rounding, in any order."""
DENSE: Final = 4096
"""Rows of the largest table of pairs that is not kept as a sparse one."""
CHUNK: Final = 256
"""Designs that are scored at once."""


def on_grid(x: Tensor, grid: float) -> Tensor:
    """Return x as float64, rounded to multiples of a power of two."""
    return (x.double() / grid).round() * grid


def products(z: Tensor) -> Tensor:
    """Return the products (..., n (n + 1) / 2) of pairs of the columns of z (..., n)."""
    i, j = torch.triu_indices(z.shape[-1], z.shape[-1])
    return z[..., i] * z[..., j]


@dataclass(frozen=True, eq=False)
class Described:
    """What the frozen network says of the N residues of a backbone, letters apart.

    Attributes:
        residues: (N, F) states and logits.
        edges: (N, K, H) states of the encoder.
        near: (N, K) int64, the neighbors.
        weight: (N, K) how much a pair counts, 0..1; 0 for a residue with itself.
    """

    residues: Tensor
    edges: Tensor
    near: Tensor
    weight: Tensor


@torch.no_grad()
def described(source: Weights, structure: Structure) -> Described:
    """Describe the residues of a structure that have whole backbones, in file order."""
    backbone = source.encode(structure)
    n, k = backbone.graph.index.shape
    blank, unseen = torch.zeros(1, n, dtype=torch.int64), torch.zeros(1, n, k, dtype=torch.bool)
    states = [s[0] for s in backbone.hidden(blank, unseen, sequences=1)]
    weight = torch.exp(-((backbone.graph.distance[..., 4] / REACH) ** 2))
    weight = weight * (backbone.graph.index != torch.arange(n)[:, None])
    residues = torch.cat((backbone.h, *states, source.network.W_out(states[-1])), -1)
    return Described(residues, backbone.e, backbone.graph.index, weight)


@dataclass(frozen=True, eq=False)
class Energy:
    """The tables of a backbone of L residues, kcal/mol, float64, on the grids.

    Attributes:
        sites: (L, 20), S.
        basis: (20, R), u.
        pairs: (L·R, L·R), C, symmetric; sparse if large.
    """

    sites: Tensor
    basis: Tensor
    pairs: Tensor

    def interaction(self, d: Tensor) -> Tensor:
        """Return ½ Σ_ij d_i · C_ij d_j, (n,) of d (n, L, R)."""
        flat = d.flatten(1)
        return 0.5 * (flat * (self.pairs @ flat.T).T).sum(-1)

    def gains(self, wild: Tensor) -> Tensor:
        """Return G (L, 20) from wild-type tokens (L,)."""
        u = self.basis[wild]
        field_ = (self.pairs @ u.reshape(-1, 1)).view(u.shape)
        table = self.sites + field_ @ self.basis.T
        return table - table.gather(1, wild[:, None])


def energy(head: Mapping[str, Tensor], seen: Described, known: Tensor) -> Energy:
    """Return the tables of the known (L,) of the described residues."""
    residues = seen.residues[known].double()
    curved = products((residues - head["center"].double()) @ head["turn"].double())
    sites = residues @ head["sites"].double().T + curved @ head["curved"].double().T
    sites = sites + head["bias"].double()
    basis = head["basis"].double()
    rank, (n, k) = basis.shape[1], seen.near.shape
    place = torch.full((n,), -1)
    place[known] = torch.arange(len(known))
    maps = head["pairs"].double()
    blocks = seen.edges.double().flatten(0, 1) @ maps.T + head["pairs_bias"].double()
    blocks = on_grid(blocks * seen.weight.double().reshape(-1, 1), PAIR_GRID)
    i = place[torch.arange(n).repeat_interleave(k)]
    j = place[seen.near.flatten()]
    kept = (i >= 0) & (j >= 0) & (i != j)
    letter = torch.arange(rank)
    rows = (i[kept, None, None] * rank + letter[:, None]).expand(-1, rank, rank).flatten()
    columns = (j[kept, None, None] * rank + letter).expand(-1, rank, rank).flatten()
    size = len(known) * rank
    at, value = torch.stack((rows, columns)), blocks[kept].flatten()
    both = torch.sparse_coo_tensor(
        torch.cat((at, at.flip(0)), 1),
        torch.cat((value, value)),
        (size, size),
        check_invariants=False,
    ).coalesce()
    return Energy(on_grid(sites, SITE_GRID), basis, both.to_dense() if size <= DENSE else both)


@dataclass(frozen=True)
class Calibration:
    """How gains are read; all in kcal/mol but the slope.

    Attributes:
        slope: of the map at 0, at most 1.
        top: what the largest gain of one substitution is worth.
        penalty: what every substitution costs in `lower`.
        ceiling: what the total comes close to.
        letters: (20,) what a new letter costs for not being the wild type's, at least 0.
    """

    slope: float
    top: float
    penalty: float
    ceiling: float
    letters: tuple[float, ...] = (0.0,) * len(PROTEIN)

    @classmethod
    def read(cls, values: Tensor) -> Calibration:
        """Return what `values` (24,), the numbers in the order of the attributes, say."""
        slope, top, penalty, ceiling, *letters = values.tolist()
        return cls(slope, top, penalty, ceiling, tuple(letters))

    def mapped(self, gain: Tensor) -> Tensor:
        """Return what substitutions are worth: losses as they are, gains g as top(1 − e^(−s g)).

        s is slope / top.
        """
        worth = self.top * -torch.expm1(-gain.clamp(min=0) * (self.slope / self.top))
        return torch.where(gain > 0, worth, gain)

    def saturated(self, total: Tensor) -> Tensor:
        """Return totals (...) that come close to the ceiling and never reach it."""
        worth = self.ceiling * -torch.expm1(-total.clamp(min=0) / self.ceiling)
        return torch.where(total > 0, worth, total)


@dataclass(frozen=True, eq=False, kw_only=True)
class StabilityChange(Reward):
    """The change of stability from the wild type on one backbone; higher is more stable.

    Attributes:
        name: what messages and tables call it, and whose card holds the calibration.
        wild_type: the L letters that score 0.
        energy: the tables of the backbone.
        calibration: how gains are read.
        variant: "lower", "calibrated" or "raw".
        unit: "kcal/mol".
        cost: seconds per design.
        differentiable: True.

    Raises:
        ValueError: the wild type is not as long as the tables, or there is no such variant.
    """

    name: str
    wild_type: str
    energy: Energy = field(repr=False)
    calibration: Calibration
    variant: str = "lower"
    unit: str = "kcal/mol"
    cost: float = 1e-5
    differentiable: bool = True

    def __post_init__(self) -> None:
        """Refuse a wild type of another length and an unknown variant."""
        if len(self.wild_type) != len(self.energy.sites):
            raise ValueError(
                f"Reward {self.name!r}: the wild type has {len(self.wild_type)} letters and the "
                f"backbone {len(self.energy.sites)} residues; they must agree."
            )
        if self.variant not in VARIANTS:
            raise ValueError(
                f"Reward {self.name!r}: there is no variant {self.variant!r}; choose one of "
                f"{', '.join(VARIANTS)}."
            )

    @cached_property
    def _wild(self) -> Tensor:
        """The tokens of the wild type, (L,)."""
        return PROTEIN.encode([self.wild_type])[0]

    @cached_property
    def table(self) -> Tensor:
        """What each single substitution is worth before the total saturates, (L, 20) kcal/mol."""
        gain = self.energy.gains(self._wild)
        if self.variant == "raw":
            return gain
        costs = torch.tensor(self.calibration.letters, dtype=torch.float64)
        worth = self.calibration.mapped(gain) - costs
        if self.variant == "lower":
            worth = worth - self.calibration.penalty
        # rounded down: what is worth no more stays so to the last bit
        worth = (worth.scatter(1, self._wild[:, None], 0.0) / SITE_GRID).floor() * SITE_GRID
        return worth

    def _value(self, single: Tensor, d: Tensor) -> Tensor:
        """Return (n,) of the summed table entries (n,) and differences of letters (n, L, R)."""
        total = single + self.energy.interaction(d)
        return total if self.variant == "raw" else self.calibration.saturated(total)

    def __call__(self, designs: Designs) -> Tensor:
        """Score designs (B, K) in kcal/mol, float64; the wild type scores 0.

        Raises:
            TypeError: the designs have no letters.
            ValueError: another alphabet, another length, or a position still masked.
        """
        x = letter_tokens(designs, self.name, len(self.wild_type))
        basis, site = self.energy.basis, torch.arange(x.shape[-1])
        values = []
        for some in x.cpu().flatten(0, 1).split(CHUNK):
            d = basis[some] - basis[self._wild]
            values.append(self._value(self.table[site, some].sum(-1), d))
        return torch.cat(values).reshape(x.shape[:2]).to(x.device)

    def relaxed(self, x: Tensor) -> Tensor:
        """Score letter probabilities (B, K, L, 20) as (B, K) in kcal/mol, differentiably.

        Below the ceiling this is the mean over independently drawn letters, and a one-hot x scores
        what `__call__` scores.

        Raises:
            ValueError: x has another shape.
        """
        x = letter_probabilities(x, self.name, len(self.wild_type))
        at = x.flatten(0, 1).to("cpu", torch.float64)
        d = at @ self.energy.basis - self.energy.basis[self._wild]
        value = self._value(at.flatten(1) @ self.table.flatten(), d)
        return value.reshape(x.shape[:2]).to(x.device)

    def reading(self, value: float, substitutions: int = 2) -> str:
        """Return what a score of this reward has meant, as a sentence.

        Args:
            value: a score, kcal/mol.
            substitutions: how many letters of the design differ from the wild type's.
        """
        return reading(_card(self.name), self.variant, value, substitutions)


def reading(card: Mapping[str, Any], variant: str, value: float, substitutions: int = 2) -> str:
    """Return what a card's `calibration` says of a value, as a sentence.

    `calibration` is a list of rows with `variant`; `kind`, "single" or "multiple" substitutions;
    `low` and `high`, predicted kcal/mol with low < value ≤ high; `n` measured variants of proteins
    that the prediction had not seen; `mean`, their −ΔΔG; and `share`, how many of them are above 0.
    Where the rows end the calibration ends.
    """
    kind = "multiple" if substitutions > 1 else "single"
    rows = [r for r in card.get("calibration", ()) if (r["variant"], r["kind"]) == (variant, kind)]
    if not rows:
        return f"Nothing measured says what {value:+.2f} kcal/mol ({variant}, {kind}) is worth."
    rows.sort(key=lambda r: float(r["low"]))
    low, high = rows[0]["low"], rows[-1]["high"]
    at = next((r for r in rows if value <= r["high"]), rows[-1])
    said = (
        f"Of {kind} mutants of other proteins that score like this ({at['low']:+g} to "
        f"{at['high']:+g} kcal/mol, {variant}), {100 * at['share']:.0f} % were truly stabilized "
        f"(n = {at['n']}, mean {at['mean']:+.2f})."
    )
    if low < value <= high:
        return said
    return (
        f"{value:+.2f} kcal/mol lies beyond all that was calibrated ({low:+g} to {high:+g}): take "
        f"it as an order, not as an energy. The nearest: {said}"
    )


@lru_cache(maxsize=8)
def _card(name: str) -> dict[str, Any]:
    text = Path(__file__).with_name("cards").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


@lru_cache(maxsize=8)
def read_weights(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if not file.is_file():
        raise FileNotFoundError(
            f"The weights {file.name} are not in {file.parent}. Reinstall seqalign, or train them "
            f"with `python -m seqalign.rewards.train_ddg --data DATA --out rewards/`."
        )
    with safe_open(file, framework="pt") as stored:
        return sound(((key, stored.get_tensor(key)) for key in stored.keys()), file)


@lru_cache(maxsize=2)
def network(folder: Path | None = None) -> Weights:
    """Return the frozen network, ProteinMPNN v_48_020 in half precision."""
    held = read_weights((folder or Path(__file__).parent) / HOLDER)
    state = {k.removeprefix("network."): w for k, w in held.items() if k.startswith("network.")}
    return Weights(of(state), NEIGHBORS)


def of_structure(
    name: str,
    head: Mapping[str, Tensor],
    structure: Structure,
    *,
    source: Weights | None = None,
    variant: str = "lower",
) -> StabilityChange:
    """Return the reward of one structure; residues without N, CA, C and O are not seen.

    Raises:
        ValueError: no residue has a letter, or a position of the structure lacks an atom.
    """
    seen = structure.coords.isfinite().flatten(1).all(1).nonzero()[:, 0]
    place = torch.full((len(structure),), -1)
    place[seen] = torch.arange(len(seen))
    known = place[structure.known]
    if not len(known) or bool((known < 0).any()):
        lacking = structure.known[known < 0][:1].tolist()
        what = (
            f"residue {structure.numbering.name(lacking[0] + 1)} lacks one"
            if lacking
            else ("no residue has both them and a standard letter")
        )
        raise ValueError(
            f"Reward {name!r} needs N, CA, C and O of every designed residue of "
            f"{structure.name!r}: {what}. Bring a structure with full backbones."
        )
    return StabilityChange(
        name=name,
        wild_type=structure.wild_type,
        energy=energy(head, described(source or network(), structure), known),
        calibration=Calibration.read(head["calibration"]),
        variant=variant,
    )


def ddg_mini(
    *,
    registered: str = "ddg-mini",
    structure: str | Path | Structure,
    chains: str | Sequence[str] | None = None,
    context: str | Sequence[str] | None = None,
    numbering: str = "author",
    variant: str = "lower",
) -> StabilityChange:
    """Return the change of stability on a backbone, −ΔΔG in kcal/mol.

    Args:
        registered: "ddg-mini" or its hold-out twin "ddg-mini-b", trained on other proteins.
        structure: a structure file or a Structure; its own letters are the wild type.
        chains: chains to be designed; all by default.
        context: chains that are seen and not designed.
        numbering: how residues are numbered, "author", "label" or "index".
        variant: "lower", a lower bound; "calibrated", what gains are worth on average; or "raw",
            the regression itself, exactly antisymmetric.
    """
    if variant not in VARIANTS:
        # before a structure is read
        raise ValueError(f"variant: {variant!r} is none of {', '.join(VARIANTS)}.")
    head = read_weights(Path(__file__).with_name(f"{registered}.safetensors"))
    read = read_structure(structure, chains=chains, context=context, numbering=numbering)
    return of_structure(registered, head, read, variant=variant)
