"""Prior covariances of the energies of substitutions, from sequence, backbone and natural family.

Each term is a product of a similarity of positions and a similarity of amino acids.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from scipy.special import expit

from seqalign.core.sequence import PROTEIN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

Prior = Literal["full", "scan"]
LETTERS: Final = PROTEIN.letters


@dataclass(frozen=True)
class Construct:
    """A protein that was scanned, and what is known of it beside the scans.

    Attributes:
        wild_type: L letters; position 0 is the first.
        chain: its name among the natural chains; it holds the construct without a gap.
        family: a file of aligned natural sequences, this one among them; None without one.
    """

    wild_type: str
    chain: str = ""
    family: str | None = None

    @cached_property
    def substitutions(self) -> list[tuple[int, str]]:
        """The 19 L substitutions, by position and letter."""
        return [(i, a) for i, wild in enumerate(self.wild_type) for a in LETTERS if a != wild]

    @cached_property
    def index(self) -> dict[str, int]:
        """The number of each substitution by its name, "P0A"."""
        names = (f"{self.wild_type[i]}{i}{a}" for i, a in self.substitutions)
        return {name: n for n, name in enumerate(names)}

    @property
    def size(self) -> int:
        """How many substitutions there are."""
        return len(self.substitutions)

    @cached_property
    def position(self) -> NDArray[np.int64]:
        """The position of each substitution."""
        return np.array([i for i, _ in self.substitutions])

    @cached_property
    def letter(self) -> NDArray[np.int64]:
        """The number of the new letter of each substitution."""
        return np.array([LETTERS.index(a) for _, a in self.substitutions])

    @cached_property
    def wild(self) -> NDArray[np.int64]:
        """The number of the wild-type letter of each position."""
        return np.array([LETTERS.index(a) for a in self.wild_type])


# Kyte-Doolittle hydropathy; residue volume (Å3, Zamyatnin 1972); helix propensity (kcal/mol, Pace
# and Scholtz 1998, proline cut at 1.2); strand propensity (kcal/mol, Minor and Kim 1994, cut at
# -1.4).
def _scale(letters: str, values: str) -> dict[str, float]:
    return dict(zip(letters, map(float, values.split()), strict=True))


HYDROPATHY: Final = _scale(
    "ARNDCQEGHILKMFPSTWYV",
    "1.8 -4.5 -3.5 -3.5 2.5 -3.5 -3.5 -0.4 -3.2 4.5 3.8 -3.9 1.9 2.8 -1.6 -0.8 -0.7 -0.9 -1.3 4.2",
)


VOLUME: Final = _scale(
    "ARNDCQEGHILKMFPSTWYV",
    "88.6 173.4 114.1 111.1 108.5 143.8 138.4 60.1 153.2 166.7 "
    "166.7 168.6 162.9 189.9 112.7 89.0 116.1 227.8 193.6 140.0",
)


HELIX: Final = _scale(
    "ALRMKQEIWSYFHVNTCDGP",
    "0 0.21 0.21 0.24 0.26 0.39 0.40 0.41 0.49 0.50 0.53 0.54 0.61 0.61 0.65 0.66 0.68 0.69 1 1.2",
)


STRAND: Final = _scale(
    "TIYFVMSWCLRQKENHADGP",
    "1.1 1 0.96 0.86 0.82 0.72 0.7 0.54 0.52 0.51 "
    "0.45 0.23 0.27 0.01 -0.08 -0.02 0 -0.94 -1.2 -1.4",
)


CHARGE: Final = {"D": -1.0, "E": -1.0, "K": 1.0, "R": 1.0, "H": 0.2}


BACKGROUND_FREQUENCY: Final = np.array(
    [
        *(0.0825, 0.0137, 0.0545, 0.0675, 0.0386, 0.0707, 0.0227, 0.0596, 0.0584, 0.0966),
        *(0.0242, 0.0406, 0.0470, 0.0393, 0.0553, 0.0656, 0.0534, 0.0687, 0.0108, 0.0292),
    ]
)
"""Letter frequencies of UniProtKB/Swiss-Prot."""


def _standard(values: Sequence[float] | Array) -> Array:
    v = np.asarray(values, dtype=np.float64)
    return np.asarray((v - v.mean()) / v.std())


def _rbf(x: Array, length: float) -> Array:
    square = ((x[:, None] - x[None]) ** 2).sum(-1)
    return np.asarray(np.exp(-square / (2 * length**2)))


def letter_similarity() -> Array:
    """Return the similarity of amino acids, (20, 20), 1 on the diagonal."""
    descriptors = np.stack(
        [
            1.2 * _standard([HYDROPATHY[a] for a in LETTERS]),
            1.2 * _standard([VOLUME[a] for a in LETTERS]),
            _standard([CHARGE.get(a, 0.0) for a in LETTERS]),
            0.7 * _standard([HELIX[a] for a in LETTERS]),
            0.7 * _standard([STRAND[a] for a in LETTERS]),
            3.0 * np.array([a == "P" for a in LETTERS]),
            1.5 * np.array([a == "G" for a in LETTERS]),
            1.5 * np.array([a in "FWYH" for a in LETTERS]),
            1.2 * np.array([a in "VIT" for a in LETTERS]),
        ],
        axis=1,
    )
    return _rbf(descriptors, 2.0)


def read_backbone(path: Path, of: Construct) -> tuple[Array, Array]:
    """Read a construct's backbone: distances (L, L) between C-beta atoms in Å, and burial (L, 2).

    Burial is a soft count of neighbors within 9 Å and the count of C-beta atoms within 12 Å in the
    half sphere of the side chain.

    Raises:
        ValueError: the file does not hold the chain.
    """
    with gzip.open(path, "rt") as file:
        found = next((line for line in file if f'"{of.chain}"' in line), None)
    record: dict[str, Any] = {"seq": ""} if found is None else json.loads(found)
    first = record["seq"].find(of.wild_type)
    if first < 0:
        raise ValueError(
            f"{path} has no chain {of.chain!r} that holds {of.wild_type}; the backbone of the "
            f"construct is needed."
        )
    part = slice(first, first + len(of.wild_type))
    atoms = {k: np.array(v, dtype=np.float64)[part] for k, v in record["coords"].items()}
    to_alpha, to_carbonyl = atoms["CA"] - atoms["N"], atoms["C"] - atoms["CA"]
    # Ideal C-beta from the backbone.
    side = (
        -0.58273431 * np.cross(to_alpha, to_carbonyl)
        + 0.56802827 * to_alpha
        - 0.54067466 * to_carbonyl
    )
    beta = side + atoms["CA"]
    distance = np.linalg.norm(beta[:, None] - beta[None], axis=-1)
    neighbors = expit(9.0 - distance).sum(1)
    reach = beta[None] - atoms["CA"][:, None]
    span = np.linalg.norm(reach, axis=-1)
    ahead = np.einsum("ijk,ik->ij", reach, side) > 0
    half_sphere = (ahead & (span < 12.0)).sum(1)
    return distance, np.stack([neighbors, half_sphere], axis=1).astype(np.float64)


def read_family(path: Path, of: Construct) -> tuple[Array, Array]:
    """Read a family: log-frequencies (L, 20) near the construct, and per position (L, 2) features.

    Sequences are weighted by 1 / (number of sequences 80 % identical), and, for the
    log-frequencies, by their closeness to the construct. The features are entropy (nats) and mean
    hydropathy in the whole family. Positions without a column have the background frequencies.
    """
    with gzip.open(path, "rt") as file:
        lines = {line.strip() for line in file if not line.startswith(">")}
    rows = sorted(line for line in lines if line.count("-") < 20)
    codes = {a: n for n, a in enumerate(LETTERS)}
    tokens = np.array([[codes.get(a, 20) for a in row] for row in rows])
    # The construct itself is in the family: its row says which column holds which position.
    own = max((r for r in rows if _fits(r, of)), key=lambda r: len(r.replace("-", "")))
    start = of.wild_type.index(own.replace("-", "")[:20])
    column: dict[int, int] = {}
    position = start
    for c, letter in enumerate(own):
        if letter != "-":
            while of.wild_type[position] != letter:  # a position deleted from the alignment
                position += 1
            column[position] = c
            position += 1
    hot = np.eye(21, dtype=np.float32)[tokens].reshape(len(rows), -1)
    copies = np.concatenate(
        [
            ((hot[s : s + 500] @ hot.T) / tokens.shape[1] > 0.8).sum(1)
            for s in range(0, len(rows), 500)
        ]
    )
    weight = 1.0 / copies
    target = tokens[rows.index(own)]
    identity = ((tokens == target) & (target < 20)).sum(1) / (target < 20).sum()
    near = weight * np.exp(8.0 * (np.minimum(identity, 0.8) - 0.8)) * (identity > 0.25) * 20.0

    def frequencies(w: Array, pseudo: float) -> Array:
        out = np.tile(BACKGROUND_FREQUENCY, (len(of.wild_type), 1))
        for i, c in column.items():
            count = np.bincount(tokens[:, c], weights=w, minlength=21)[:20]
            out[i] = (count + pseudo * BACKGROUND_FREQUENCY) / (count.sum() + pseudo)
        return out

    whole, close = frequencies(weight, 20.0), np.log(frequencies(near, 5.0))
    close[[i for i in range(len(of.wild_type)) if i not in column]] = 0.0
    entropy = -(whole * np.log(whole)).sum(1)
    hydropathy = whole @ _standard([HYDROPATHY[a] for a in LETTERS])
    outside = [i for i in range(len(of.wild_type)) if i not in column]
    hydropathy[outside] = hydropathy.mean()
    return close, np.stack([entropy, hydropathy], axis=1)


def _fits(row: str, of: Construct) -> bool:
    """Whether a row of the alignment is the construct, some positions left out."""
    rest = iter(of.wild_type)
    return all(letter in rest for letter in row.replace("-", ""))


def covariances(of: Construct, data: Path | None, prior: Prior = "full") -> dict[str, Array]:
    """Return the terms of the prior covariance, each (19 L, 19 L) with mean diagonal 1.

    Args:
        of: the construct.
        data: folder with structures/ and msas/; only the "full" prior reads it.
        prior: "scan" knows the sequence only; "full" adds the backbone, and the natural family
            where there is one.

    Raises:
        ValueError: a "full" prior without `data`.
    """
    k_letter = letter_similarity()
    position, letter, own = of.position, of.letter, of.wild[of.position]
    same = (position[:, None] == position[None]).astype(np.float64)
    letters = k_letter[np.ix_(letter, letter)]
    wild = k_letter[np.ix_(own, own)]
    # Similarity of the changes (wild → a) and (wild → b) at one position.
    cross = k_letter[np.ix_(letter, own)]
    terms = {
        "position": same,
        "letter at the position": same * letters,
        "letter": letters,
        "wild letter and letter": wild * letters,
        "individual": np.eye(of.size),
    }
    if prior == "scan":
        terms["change at the position"] = same * (letters - cross - cross.T + wild)
    else:
        if data is None:
            raise ValueError(
                "The full prior reads the backbone and the natural family: give `data`, the folder "
                "with structures/ and msas/, or use prior='scan'."
            )
        distance, features = read_backbone(data / "structures/chains_extra.jsonl.gz", of)
        log_frequency = None
        if of.family is not None:
            log_frequency, family = read_family(data / of.family, of)
            features = np.concatenate([features, family], axis=1)
        features = (features - features.mean(0)) / features.std(0)
        environment = _rbf(features, 1.2)[np.ix_(position, position)]
        near = np.exp(-((distance / 7.0) ** 2) / 2)
        terms["position in space"] = near[np.ix_(position, position)]
        terms["letter in the environment"] = environment * letters
        if log_frequency is not None:
            loss = log_frequency[position, own] - log_frequency[position, letter]
            terms["natural frequency"] = np.outer(loss, loss)
    return {name: term * (of.size / np.trace(term)) for name, term in terms.items()}
