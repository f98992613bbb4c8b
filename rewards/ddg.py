"""Stability of any sequence on a backbone relative to its wild type: ΔΔG from an energy.

A backbone alone decides an energy of sequences, letters at sites and pairs of letters in contact:

    f(x) = Σ_i S_i(x_i) + Σ_(i,j) J_ij(x_i, x_j),    r(x) = f(x) − f(wild type),

in kcal/mol, higher is more stable. The tables S and J come from geometry (N, CA, C, O) and never
see a letter. So the reward is antisymmetric by construction: with wild type and design swapped on
one backbone it changes its sign, bit by bit; it is 0 for the wild type, defined for any number of
mutations, and quadratic, hence smooth, in letter probabilities.

Two things are learned, by `train_ddg`. A small network reads log-odds of letters and of pairs of
letters from natural backbones, by pseudo-likelihood. A ridge regression on measured ΔΔG of single
mutants weighs them and adds products of letter scales and of descriptors of the site. Letters of
context chains count, too; of a residue without a standard letter only the backbone does.

References:
    Robust and accurate prediction of residue-residue interactions across protein interfaces using
    evolutionary information, Ovchinnikov, Kamisetty and Baker, 2014, eLife 3:e02030
    (pseudo-likelihood of a Potts model).
    Neural network-derived Potts models for structure-based protein design using backbone atomic
    coordinates and tertiary motifs, Li et al., 2023, Protein Science 32:e4554 (tables from
    geometry).
    Dictionary of protein secondary structure, Kabsch and Sander, 1983, Biopolymers 22:2577-2637
    (the energy of a hydrogen bond).
    New scheme of protein solvent exposure, Hamelryck, 2005, Proteins 59:38-48 (half spheres).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional

from seqalign.core.objective import Reward
from seqalign.core.sequence import PROTEIN
from seqalign.files.structure import Structure, read_structure
from seqalign.rewards.letters import letter_probabilities, letter_tokens

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from seqalign.core.process import Designs

__all__ = [
    "Geometry",
    "Potts",
    "StabilityChange",
    "Tables",
    "ddg_mini",
    "geometry",
    "of_structure",
    "read_weights",
    "tables",
]

LETTERS: Final = len(PROTEIN)
REACH: Final = 11.0
"""CB-CB distance in Å up to which two residues are a pair."""

# One value per letter of ACDEFGHIKLMNPQRSTVWY.
# fmt: off
HYDROPHOBICITY: Final = (
    0.31, 1.54, -0.77, -0.64, 1.79, 0.00, 0.13, 1.80, -0.99, 1.70,
    1.23, -0.60, 0.72, -0.22, -1.01, -0.04, 0.26, 1.22, 2.25, 0.96,
)
"""π of octanol and water (Fauchère and Pliška, 1983)."""
HYDROPATHY: Final = (
    1.8, 2.5, -3.5, -3.5, 2.8, -0.4, -3.2, 4.5, -3.9, 3.8,
    1.9, -3.5, -1.6, -3.5, -4.5, -0.8, -0.7, 4.2, -0.9, -1.3,
)
"""Kyte and Doolittle, 1982."""
VOLUME: Final = (
    88.6, 108.5, 111.1, 138.4, 189.9, 60.1, 153.2, 166.7, 168.6, 166.7,
    162.9, 114.1, 112.7, 143.8, 173.4, 89.0, 116.1, 140.0, 227.8, 193.6,
)
"""Å³ (Zamyatnin, 1972)."""
HELIX: Final = (
    0.00, 0.68, 0.69, 0.40, 0.54, 1.00, 0.61, 0.41, 0.26, 0.21,
    0.24, 0.65, 3.16, 0.39, 0.21, 0.50, 0.66, 0.61, 0.49, 0.53,
)
"""kcal/mol above alanine (Pace and Scholtz, 1998)."""
STRAND: Final = (
    0.00, -0.52, 0.94, -0.01, -0.86, 1.20, 0.02, -1.00, -0.27, -0.51,
    -0.72, 0.08, 3.00, -0.23, -0.45, -0.70, -1.10, -0.82, -0.54, -0.96,
)
"""kcal/mol, alanine 0, lower is better (Minor and Kim, 1994)."""
# fmt: on


def _scales() -> Tensor:
    """Return the (20, 14) letter scales of the regression, each of about unit size."""

    def of(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64)

    def among(letters: str) -> Tensor:
        return of([float(a in letters) for a in PROTEIN.letters])

    columns = [
        of(HYDROPHOBICITY),
        of(HYDROPATHY) / 3,
        (of(VOLUME) - 130) / 40,
        of(HELIX).clamp(max=1.2) * 2,
        of(STRAND).clamp(max=1.3),
        among("KR") - among("DE"),
        *(among(s) for s in ("KRDE", "FWYH", "VIT", "G", "P", "NDST", "C", "NQSTH")),
    ]
    return torch.stack(columns, dim=-1)


SCALES: Final = _scales()


# geometry -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Geometry:
    """What a backbone of L residues says about its sites and its P pairs, float64.

    Attributes:
        sites: (L, 84) what the network reads of a site.
        environment: (L, 11) what the regression reads of a site; column 1 is the burial.
        pairs: (2, P) int64, i < j, residues with CB within `REACH`.
        contacts: (P, 41) what the network reads of a pair.
        envelope: (P,) 1 in contact, falling smoothly to 0 at `REACH`.
    """

    sites: Tensor
    environment: Tensor
    pairs: Tensor
    contacts: Tensor
    envelope: Tensor

    @property
    def burial(self) -> Tensor:
        """(L,) neighbors in the cone of the side chain, 1 where half buried."""
        return self.environment[:, 1]


def _unit(v: Tensor) -> Tensor:
    length: Tensor = v.norm(dim=-1, keepdim=True)
    return v / (length + 1e-9)


def _dihedral(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Return the angle in radians around b-c of points (n, 3)."""
    u, v, w = b - a, c - b, d - c
    n1, n2 = torch.linalg.cross(u, v), torch.linalg.cross(v, w)
    return torch.atan2((torch.linalg.cross(n1, n2) * _unit(v)).sum(-1), (n1 * n2).sum(-1))


def _shifted(values: Tensor, run: Tensor, k: int) -> Tensor:
    """Return (L, n) the values k residues further along the same run; 0 beyond its ends."""
    out = torch.zeros_like(values)
    if k > 0 and len(values) > k:
        out[:-k] = torch.where((run[k:] == run[:-k])[:, None], values[k:], 0.0)
    elif k < 0 and len(values) > -k:
        out[-k:] = torch.where((run[-k:] == run[:k])[:, None], values[:k], 0.0)
    return out


def geometry(coords: Tensor, chain: Tensor) -> Geometry:
    """Describe a backbone.

    Args:
        coords: (L, 4, 3) Å, atoms N, CA, C, O, all of them there.
        chain: (L,) int64, equal within a chain; chains are contiguous.

    Raises:
        ValueError: an atom is missing.
    """
    if not bool(coords.isfinite().all()):
        raise ValueError(
            "geometry: an atom is missing (nan); describe residues with N, CA, C and O only."
        )
    coords = coords.double()
    n, ca, c, o = coords.unbind(1)
    length = len(coords)
    b1, b2 = ca - n, c - ca
    cb = -0.58273431 * torch.linalg.cross(b1, b2) + 0.56802827 * b1 - 0.54067466 * b2 + ca
    side = _unit(cb - ca)
    # about where the middle of a side chain is
    middle = ca + 3.0 * side
    index = torch.arange(length)
    myself = torch.eye(length, dtype=torch.bool)

    # a run is a stretch of bonded residues; bonded[i] is the bond from i - 1 to i
    bonded = torch.zeros(length + 1, dtype=torch.bool)
    bonded[1:length] = ((c[:-1] - n[1:]).norm(dim=-1) < 2.0) & (chain[1:] == chain[:-1])
    before, after = bonded[:-1], bonded[1:]
    run = (~before).long().cumsum(0)
    same = run[:, None] == run[None]
    # far apart along the chain, as residues of two runs are, is 99
    apart = torch.where(same, index[:, None] - index[None], 99)

    angles = torch.zeros(length, 6, dtype=torch.float64)
    for k, angle, real in (
        (0, _dihedral(c[:-1], n[1:], ca[1:], c[1:]), before[1:]),
        (2, _dihedral(n[:-1], ca[:-1], c[:-1], n[1:]), after[:-1]),
        (4, _dihedral(ca[:-1], c[:-1], n[1:], ca[1:]), before[1:]),
    ):
        rows = slice(0, -1) if k == 2 else slice(1, None)
        angles[rows, k] = torch.where(real, angle.sin(), 0.0)
        angles[rows, k + 1] = torch.where(real, angle.cos(), 0.0)

    def near(d: Tensor, r: float, width: float = 1.0) -> Tensor:
        return torch.sigmoid((r - d) / width).masked_fill(myself, 0.0)

    distance = torch.cdist(cb, cb)
    ahead = (_unit(cb[None] - cb[:, None]) * side[:, None]).sum(-1)
    cone = ((ahead + 0.5).clamp(min=0) / 1.5) ** 2
    burial = near(distance, 9).mul(cone).sum(-1) / 4
    upper = (near(distance, 13) * (ahead > 0)).sum(-1) / 12
    lower = (near(distance, 13) * (ahead <= 0)).sum(-1) / 12
    middles = torch.cdist(middle, middle)
    touching, around = torch.zeros_like(burial), torch.zeros_like(burial)
    for atom in range(4):
        d = torch.cdist(middle, coords[:, atom])
        touching, around = touching + near(d, 5, 0.7).sum(-1), around + near(d, 7).sum(-1)
    touching, around = touching / 6, around / 20

    # Kabsch and Sander's energy, donor i and acceptor j, the hydrogen opposite to the carbonyl
    hydrogen = n.clone()
    hydrogen[1:] += _unit(c[:-1] - o[:-1])

    def inverse(a: Tensor, b: Tensor) -> Tensor:
        return 1 / torch.cdist(a, b).clamp(min=0.5)

    bond = 27.9 * (inverse(n, o) + inverse(hydrogen, c) - inverse(hydrogen, o) - inverse(n, c))
    no_donor = (~before)[:, None] | (apart.abs() < 2)
    bond = torch.where(no_donor | (bond > -0.2), 0.0, bond).clamp(min=-3.5)
    bonds = []
    for kind in (apart == 4, apart == 3, apart.abs() > 4):
        chosen = torch.where(kind, bond, 0.0)
        bonds += [chosen.amin(1) / -2.0, chosen.amin(0) / -2.0]
    helix, strand = bonds[0] + bonds[1], bonds[4] + bonds[5]

    spans = []
    for k in (2, 3, 4):
        span = torch.zeros(length, dtype=torch.float64)
        if length > k:
            d = (ca[k:] - ca[:-k]).norm(dim=-1) / (3.8 * k) * 2 - 1
            span[:-k] = torch.where(run[k:] == run[:-k], d, 0.0)
        back = torch.zeros_like(span)
        back[k:] = span[:-k]
        spans += [span, back]
    start = torch.stack([index[chain == i].min() for i in chain])
    stop = torch.stack([index[chain == i].max() for i in chain])
    ends = [torch.exp((start - index) / 3.0).double(), torch.exp((index - stop) / 3.0).double()]

    local = torch.cat([angles[:, :4], torch.stack([burial, helix, strand], -1)], -1)
    window = [_shifted(local, run, k) for k in (-3, -2, -1, 1, 2, 3)]
    kinds = torch.stack([burial, helix, strand, torch.ones_like(burial)], -1)
    weight = near(distance, 9) * (apart.abs() > 1)
    facing = weight * ((ahead + 0.5).clamp(min=0) / 1.5)
    columns = [
        *(near(distance, r).sum(-1) / scale for r, scale in _COUNTS),
        *(burial, upper, lower),
        *(near(middles, 6, 0.7).sum(-1) / 3, near(middles, 8).sum(-1) / 6),
        *(touching, around, *bonds, *spans, *ends, before.double(), after.double()),
    ]
    sites = torch.cat(
        [torch.stack(columns, -1), angles, *window, weight @ kinds / 6, facing @ kinds / 4], -1
    )
    environment = torch.stack(
        [
            torch.ones_like(burial),
            burial,
            (burial - 1) ** 2,
            touching,
            upper,
            (bonds[0] + bonds[1]).clamp(0, 2) / 1.5,
            strand / 1.5,
            torch.sigmoid(6 * angles[:, 0]),
            bonds[1] - bonds[0],
            torch.maximum(*ends),
            columns[3],
        ],
        -1,
    )

    i, j = ((distance < REACH) & (index[:, None] < index[None])).nonzero(as_tuple=True)
    d, line = distance[i, j], _unit(cb[j] - cb[i])

    def radial(x: Tensor, centers: Tensor, width: float) -> Tensor:
        return torch.exp(-(((x[:, None] - centers) / width) ** 2))

    steps = apart[j, i]
    along = [steps == k for k in range(1, 6)]
    contacts = torch.cat(
        [
            radial(d, torch.arange(3, 12), 1.0),
            radial(middles[i, j], torch.arange(2, 15, 2), 2.0),
            torch.stack(
                [
                    (ca[i] - ca[j]).norm(dim=-1) / 10,
                    (side[i] * line).sum(-1),
                    -(side[j] * line).sum(-1),
                    (side[i] * side[j]).sum(-1),
                    burial[i],
                    burial[j],
                ],
                -1,
            ),
            angles[i][:, :4],
            angles[j][:, :4],
            torch.stack(
                [
                    (_unit(c[i] - n[i]) * line).sum(-1),
                    (_unit(c[j] - n[j]) * line).sum(-1),
                    (_unit(o[i] - c[i]) * _unit(o[j] - c[j])).sum(-1),
                    bond[i, j],
                    bond[j, i],
                    *(a.double() for a in along),
                    (steps > 5).double(),
                ],
                -1,
            ),
        ],
        -1,
    )
    envelope = 0.5 * (1 + torch.cos(math.pi * ((d - REACH + 3) / 3).clamp(0, 1)))
    return Geometry(sites, environment, torch.stack([i, j]), contacts, envelope)


_COUNTS: Final = ((6.0, 4.0), (8.0, 8.0), (10.0, 14.0), (12.0, 20.0), (14.0, 28.0))
"""Radii in Å of the neighbor counts, and what each count is divided by."""


# the energy ---------------------------------------------------------------------------------------


class Potts(nn.Module):
    """Logits of letters and couplings of pairs of letters, from the geometry alone.

    A coupling is J(a, b) = Σ_r c_r left_r(a) right_r(b), with one c (R,) per pair.
    """

    site_mean: Tensor
    site_scale: Tensor
    contact_mean: Tensor
    contact_scale: Tensor

    def __init__(
        self,
        width: int,
        rank: int,
        dropout: float = 0.0,
        site_features: int = 84,
        contact_features: int = 41,
    ) -> None:
        super().__init__()
        self.site = nn.Sequential(
            nn.Linear(site_features, 2 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(2 * width, width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(width, LETTERS),
        )
        self.contact = nn.Sequential(
            nn.Linear(contact_features, width),
            nn.GELU(),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, rank),
        )
        self.left = nn.Parameter(torch.randn(rank, LETTERS) * 0.2)
        self.right = nn.Parameter(torch.randn(rank, LETTERS) * 0.2)
        for name, n in (("site", site_features), ("contact", contact_features)):
            self.register_buffer(f"{name}_mean", torch.zeros(n))
            self.register_buffer(f"{name}_scale", torch.ones(n))

    @classmethod
    def of(cls, weights: Mapping[str, Tensor]) -> Potts:
        """Return the network that `weights` (a state dict) belong to, in evaluation mode."""
        rank, width = weights["contact.4.weight"].shape
        network = cls(width, rank)
        network.load_state_dict(dict(weights))
        return network.eval().requires_grad_(False)

    def letters(self, sites: Tensor) -> Tensor:
        """Return logits (L, 20) of sites (L, 84)."""
        logits: Tensor = self.site((sites - self.site_mean) / self.site_scale)
        return logits

    def couplings(self, contacts: Tensor, envelope: Tensor) -> Tensor:
        """Return the coefficients (P, R) of contacts (P, 41)."""
        c: Tensor = self.contact((contacts - self.contact_mean) / self.contact_scale)
        return 0.3 * c * envelope[:, None]

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return left and right (R, 20) without their means: pairs hold what sites cannot.

        Cysteine couples to nothing: in natural chains it would stand for disulfides, which a
        design may not form.
        """
        free = torch.tensor([a != "C" for a in PROTEIN.letters]).to(self.left)
        left, right = ((f - f.mean(1, keepdim=True)) * free for f in (self.left, self.right))
        return left, right


@dataclass(frozen=True)
class Tables:
    """The energy of sequences of L letters, in kcal/mol, float64, higher is more stable.

    Attributes:
        sites: (L, 20).
        pairs: (2, P) int64.
        coefficients: (P, R) per pair.
        left: (R, 20) of the first letter of a pair.
        right: (R, 20) of the second.
    """

    sites: Tensor
    pairs: Tensor
    coefficients: Tensor
    left: Tensor
    right: Tensor

    @cached_property
    def coupled(self) -> Tensor:
        """(P, 20, 20), the energy of every pair of letters."""
        return torch.einsum("pr,ra,rb->pab", self.coefficients, self.left, self.right)

    def take(self, residues: Tensor) -> Tables:
        """Return the tables of some residues (n,), in increasing order, and the pairs of these."""
        place = torch.full((len(self.sites),), -1)
        place[residues] = torch.arange(len(residues))
        pairs = place[self.pairs]
        kept = (pairs >= 0).all(0)
        return Tables(
            self.sites[residues], pairs[:, kept], self.coefficients[kept], self.left, self.right
        )


def tables(weights: Mapping[str, Tensor], described: Geometry) -> Tables:
    """Return the energy on a described backbone.

    Args:
        weights: `potts.*` the network, and of the regression `prior` (4,), `letters` (20,),
            `letters_buried` (20,), `products` (11, 14).
        described: the backbone of L residues.
    """
    network = Potts.of(
        {k.removeprefix("potts."): w for k, w in weights.items() if k.startswith("potts.")}
    ).double()
    w = {k: v.double() for k, v in weights.items()}
    burial = described.burial
    odds = network.letters(described.sites).log_softmax(-1)
    sites = (
        (w["prior"][0] + w["prior"][1] * burial)[:, None] * odds
        + described.environment @ w["products"] @ SCALES.T
        + w["letters"]
        + burial[:, None] * w["letters_buried"]
    )
    i, j = described.pairs
    strength = w["prior"][2] + w["prior"][3] * (burial[i] + burial[j]) / 2
    couplings = network.couplings(described.contacts, described.envelope)
    left, right = network.factors()
    return Tables(sites, described.pairs, strength[:, None] * couplings, left, right)


# the reward ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True)
class StabilityChange(Reward):
    """f(x) − f(wild type) on one backbone, in kcal/mol; higher is more stable.

    Attributes:
        name: what messages and tables call it.
        wild_type: the L letters that score 0.
        energy: the tables of the backbone.
        unit: "kcal/mol".
        cost: seconds per design.
        differentiable: True.

    Raises:
        ValueError: the wild type is not as long as the tables.
    """

    name: str
    wild_type: str
    energy: Tables = field(repr=False)
    unit: str = "kcal/mol"
    cost: float = 1e-4
    differentiable: bool = True

    def __post_init__(self) -> None:
        """Refuse a wild type of another length."""
        if len(self.wild_type) != len(self.energy.sites):
            raise ValueError(
                f"Reward {self.name!r}: the wild type has {len(self.wild_type)} letters and the "
                f"backbone {len(self.energy.sites)} residues; they must agree."
            )

    def __call__(self, designs: Designs) -> Tensor:
        """Score designs (B, K) in kcal/mol, float64; the wild type scores 0.

        Raises:
            TypeError: the designs have no letters.
            ValueError: another alphabet, another length, or a position still masked.
        """
        x = letter_tokens(designs, self.name, len(self.wild_type))
        return self._total(x.flatten(0, 1)).reshape(x.shape[:2]) - self._wild.to(x.device)

    @cached_property
    def _wild(self) -> Tensor:
        """The energy of the wild type, ()."""
        return self._total(PROTEIN.encode([self.wild_type]))[0]

    def _total(self, x: Tensor) -> Tensor:
        """Return f (n,) of tokens (n, L): sums of table rows, so that no batch changes a bit."""
        e = self.energy
        i, j = (p.to(x.device) for p in e.pairs)
        coupled = e.coupled.to(x.device)
        site = LETTERS * torch.arange(x.shape[1], device=x.device)
        pair = LETTERS**2 * torch.arange(len(i), device=x.device)
        rows = max(1, 4_000_000 // max(1, len(i)))
        parts = []
        for some in x.split(rows):
            total = _looked_up(some + site, e.sites.to(x.device))
            parts.append(
                total + _looked_up(some[:, i] * LETTERS + some[:, j] + pair, coupled)
                if len(i)
                else total
            )
        return torch.cat(parts)

    def relaxed(self, x: Tensor) -> Tensor:
        """Score letter probabilities (B, K, L, 20) as (B, K) in kcal/mol, differentiably.

        f is multilinear in the letters, so this is the mean over independently drawn letters, and
        a one-hot x scores what `__call__` scores.

        Raises:
            ValueError: x has another shape.
        """
        x = letter_probabilities(x, self.name, len(self.wild_type))
        e = self.energy
        x = x.to(torch.float64)
        i, j = (p.to(x.device) for p in e.pairs)
        first = (x @ e.left.T.to(x.device))[:, :, i]
        second = (x @ e.right.T.to(x.device))[:, :, j]
        pairs = (first * second * e.coefficients.to(x.device)).sum((-1, -2))
        total = (x * e.sites.to(x.device)).sum((-1, -2)) + pairs
        return total - self._wild.to(x.device)


def _looked_up(rows: Tensor, table: Tensor) -> Tensor:
    """Return (n,) sums of the entries that rows (n, m) name in a flattened table."""
    return functional.embedding_bag(rows, table.reshape(-1, 1), mode="sum")[:, 0]


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
        return {key: stored.get_tensor(key) for key in stored.keys()}


def of_structure(name: str, weights: Mapping[str, Tensor], structure: Structure) -> StabilityChange:
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
    with torch.no_grad():
        described = geometry(structure.coords[seen], structure.chain_index[seen])
        energy = tables(weights, described).take(known)
    return StabilityChange(name=name, wild_type=structure.wild_type, energy=energy)


def ddg_mini(
    *,
    registered: str = "ddg-mini",
    structure: str | Path | Structure,
    chains: str | Sequence[str] | None = None,
    context: str | Sequence[str] | None = None,
    numbering: str = "author",
) -> StabilityChange:
    """Return the change of stability on a backbone, −ΔΔG in kcal/mol.

    Args:
        registered: "ddg-mini", trained on half A of the proteins and chains, or its hold-out twin
            "ddg-mini-b", trained on half B.
        structure: a structure file or a Structure; its own letters are the wild type.
        chains: chains to be designed; all by default.
        context: chains that are seen and not designed.
        numbering: how residues are numbered, "author", "label" or "index".
    """
    weights = read_weights(Path(__file__).with_name(f"{registered}.safetensors"))
    read = read_structure(structure, chains=chains, context=context, numbering=numbering)
    return of_structure(registered, weights, read)
