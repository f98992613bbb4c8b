"""ESMFold: predicts the structure of each distinct sequence once.

Designs of one length are predicted together, as many at a time as memory allows. All rewards with
the same weights and settings share one `Folder`, so a campaign that asks for confidence, RMSD and
exposure pays for one prediction per design.

References:
    Evolutionary-scale prediction of atomic-level protein structure with a language model (Lin et
    al., 2023), https://doi.org/10.1126/science.ade2574.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import torch

from seqalign.core.sequence import PROTEIN
from seqalign.models.devices import device_of
from seqalign.weights import sound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = ["CHEAPER", "Fold", "Folder", "Precision", "folder", "one_of"]

Precision = Literal["auto", "float32", "bfloat16", "float16"]

LINKER: Final = 25
"""Glycines between two chains; ESMFold has seen single chains only."""

JUMP: Final = 512
"""What the residue numbers skip between two chains, beyond the reach of relative positions."""

CHEAPER: Final = (
    "A cheaper choice: ddg-mini (stability on the target backbone, no download) or esm2-pll "
    "(8 million parameters suffice)."
)

_ORDER: Final = "ARNDCQEGHILKMFPSTWYV"


@dataclass(frozen=True, eq=False)
class Fold:
    """A predicted structure of n residues, all chains after one another.

    Attributes:
        coords: (n, 14, 3) Å, float32, atoms in the order of `geometry.ATOMS`; nan where a residue
            has no such atom.
        plddt: (n, 14) predicted lDDT of each atom in 0..1; nan likewise.
        ptm: predicted TM-score in 0..1.
    """

    coords: Tensor
    plddt: Tensor
    ptm: float


class Folder:
    """ESMFold with a memory: predicts the structure of each distinct sequence once.

    Attributes:
        path: folder of the weights in transformers' format.
        device: where the network runs.
        precision: float32, or of the numbers inside the 48 blocks of the folding trunk; then the
            language model runs in float16, in which it was published. What the blocks add to, the
            structure module and the coordinates are float32 always.
        recycles: passes through the trunk after the first; 3 is what the network was trained for.
        at_once: residues predicted together, halved whenever they do not fit.
        remembered: sequences kept; the one not asked for longest goes first.
        predictions: sequences predicted so far.
    """

    def __init__(
        self,
        path: Path,
        *,
        device: torch.device,
        precision: Precision = "float32",
        recycles: int = 3,
        at_once: int = 1024,
        remembered: int = 4096,
    ) -> None:
        """Start without a prediction; the weights are read at the first."""
        self.path = path
        self.device = device
        self.precision = precision
        self.recycles = recycles
        self.at_once = at_once
        self.remembered = remembered
        self.predictions = 0
        self._memory: OrderedDict[str, Fold] = OrderedDict()
        # rows of attention computed together; None is all of them
        self._rows: int | None = None

    def __call__(self, sequences: Sequence[str]) -> list[Fold]:
        """Return the structure of each sequence; ":" separates chains that are folded together.

        Raises:
            ValueError: a letter is none of the 20 amino acids, or the weights are not ESMFold's.
            MemoryError: the weights or one sequence alone do not fit into memory.
            ArithmeticError: the network overflowed.
        """
        known = {s: self._memory[s] for s in sequences if s in self._memory}
        # in the order asked for: rounding depends on the batch, and a run must repeat to the bit
        new = sorted(dict.fromkeys(s for s in sequences if s not in known), key=_chain_lengths)
        for lengths, group in groupby(new, key=_chain_lengths):
            known.update(self._fold(list(group), lengths))
        for sequence in known:
            self._memory[sequence] = known[sequence]
            self._memory.move_to_end(sequence)
        while len(self._memory) > self.remembered:
            self._memory.popitem(last=False)
        return [known[s] for s in sequences]

    def _fold(self, sequences: list[str], chains: tuple[int, ...]) -> dict[str, Fold]:
        """Predict sequences with the same chain lengths, as many at a time as fit."""
        network = self._network  # read here: weights that do not fit are no reason to halve a batch
        total = sum(chains) + LINKER * (len(chains) - 1)
        folds: dict[str, Fold] = {}
        while len(folds) < len(sequences):
            size = max(1, self.at_once // total)
            batch = sequences[len(folds) : len(folds) + size]
            try:
                folds.update(zip(batch, self._predict(network, batch, chains), strict=True))
                fits = True
            except (MemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                fits = False
            if not fits:
                # not in the handler: there the traceback still holds the tensors
                self._shrink(network, len(batch), total)
        return folds

    def _shrink(self, network: Any, size: int, total: int) -> None:
        """Ask for less memory from now on, `size` sequences of `total` residues being too much.

        Raises:
            MemoryError: there is nothing left to ask less of.
        """
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if size > 1:
            self.at_once = size // 2 * total
        elif self._rows is None or self._rows > 4:
            self._rows = 64 if self._rows is None else self._rows // 4
            network.trunk.set_chunk_size(self._rows)
        else:
            raise MemoryError(
                f"ESMFold does not fit {total} residues into the memory of {self.device}, even one "
                f"sequence at a time and {self._rows} rows of attention at once. Use a device with "
                f"more memory, or fewer chains. {CHEAPER}"
            )

    def _predict(self, network: Any, sequences: list[str], chains: tuple[int, ...]) -> list[Fold]:
        """Run the network on one batch."""
        letters = ["G" * LINKER if i % 2 else "" for i in range(2 * len(chains) - 1)]
        rows = []
        for sequence in sequences:
            letters[::2] = sequence.split(":")
            rows.append([_ORDER.index(a) for a in "".join(letters)])
        # chains and linkers in turn; a linker is numbered on from its chain
        lengths = [LINKER if i % 2 else chains[i // 2] for i in range(2 * len(chains) - 1)]
        part = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
        numbers = torch.arange(len(part)) + JUMP * (part // 2)
        real = (part % 2 == 0).to(self.device)
        tokens = torch.tensor(rows, device=self.device)
        with torch.no_grad():
            out = network(
                tokens,
                torch.ones_like(tokens),
                position_ids=numbers.to(self.device).expand(len(rows), -1),
                num_recycles=self.recycles,
            )
        exists = out.atom14_atom_exists[:, real] > 0
        coords = out.positions[-1].float()[:, real]
        plddt = out.plddt.float()[:, real].gather(-1, out.residx_atom14_to_atom37[:, real])
        # the network's own value is one for the whole batch
        ptm = _predicted_tm(out.ptm_logits[:, real][:, :, real])
        self.predictions += len(sequences)
        for name, value in (("coordinates", coords[exists]), ("pLDDT", plddt[exists])):
            if not bool(value.isfinite().all()):
                raise ArithmeticError(
                    f"ESMFold in {self.precision} gave {name} that are not finite for "
                    f"{sequences[0]!r} or one predicted with it. Use precision: float32."
                )
        nothing = torch.tensor(torch.nan)
        return [
            Fold(x, p, t)
            for x, p, t in zip(
                torch.where(exists.cpu()[..., None], coords.cpu(), nothing),
                torch.where(exists.cpu(), plddt.cpu(), nothing),
                ptm.tolist(),
                strict=True,
            )
        ]

    @cached_property
    def _network(self) -> Any:
        """Read the weights, all of them, and set the precision."""
        from transformers import EsmForProteinFolding

        loaded: Any = EsmForProteinFolding.from_pretrained(
            self.path, local_files_only=True, output_loading_info=True, dtype=torch.float32
        )
        network, report = loaded
        # never read when folding, or computed
        unread = ("esm.contact_head.", "inv_freq", "position_ids", "af2_to_esm")
        absent = [k for k in report["missing_keys"] if not any(u in k for u in unread)]
        absent += [str(k) for k in report["mismatched_keys"]]
        if absent:
            raise ValueError(
                f"{self.path} does not hold ESMFold: {len(absent)} of its weights are missing or "
                f"have another shape, {sorted(absent)[0]!r} for one. Give the folder of "
                f"facebook/esmfold_v1."
            )
        sound(network.named_parameters(), self.path)
        network = network.float().eval()
        if self.precision != "float32":
            network.esm.half()
            cast = torch.autocast(self.device.type, dtype=getattr(torch, self.precision))
            for block in network.trunk.blocks:
                block.forward = cast(block.forward)
        try:
            return network.to(self.device)
        except torch.OutOfMemoryError as error:
            raise MemoryError(
                f"The weights of ESMFold do not fit into the memory of {self.device}; they take "
                f"about 8.4 GB in half precision and 14 GB in float32. Use device: cpu. {CHEAPER}"
            ) from error


def _chain_lengths(sequence: str) -> tuple[int, ...]:
    """Return the lengths of the chains of a sequence.

    Raises:
        ValueError: a letter cannot be folded, or a chain is empty.
    """
    for i, letter in enumerate(sequence, 1):
        if letter not in PROTEIN.letters and letter != ":":
            raise ValueError(
                f"ESMFold folds the letters {PROTEIN.letters!r}, and position {i} of {sequence!r} "
                f"is {letter!r}. Score finished designs only."
            )
    lengths = tuple(len(chain) for chain in sequence.split(":"))
    if 0 in lengths:
        raise ValueError(f"ESMFold cannot fold a chain without residues: {sequence!r}.")
    return lengths


def _out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; torch on a CPU says so in words only."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return any(words in str(error) for words in ("not enough memory", "can't allocate memory"))


def _predicted_tm(logits: Tensor) -> Tensor:
    """Return the predicted TM-score (B,) of aligned-error logits (B, n, n, 64), bins of 0.5 Å.

    References:
        Highly accurate protein structure prediction with AlphaFold (Jumper et al., 2021),
        supplement 1.9.7.
    """
    n, bins = logits.shape[-2:]
    d0 = 1.24 * (max(n, 19) - 15) ** (1 / 3) - 1.8
    step = 31 / (bins - 2)
    error = (torch.arange(bins, device=logits.device) + 0.5) * step
    expected = logits.float().softmax(-1) @ (1 / (1 + (error / d0) ** 2))
    per_frame: Tensor = expected.mean(-1)
    return per_frame.amax(-1)


@lru_cache(maxsize=4)
def folder(path: Path, device: str, precision: Precision, recycles: int) -> Folder:
    """Return the `Folder` of these settings, always the same one.

    Args:
        path: folder of the weights.
        device: "auto" (a GPU if there is one) or a name torch knows, such as "cuda:1".
        precision: "auto" is bfloat16 on a GPU that has it, float16 on another one, else float32.
        recycles: passes through the trunk after the first.

    Raises:
        ImportError: transformers is not installed.
        ValueError: a setting is not allowed.
        FileNotFoundError: the folder holds no weights.
    """
    if find_spec("transformers") is None:
        raise ImportError(
            "ESMFold needs transformers, which is not installed. "
            f"Run: pip install 'seqalign[folding]'. {CHEAPER}"
        )
    one_of("precision", precision, Precision)
    if isinstance(recycles, bool) or not isinstance(recycles, int) or recycles < 0:
        raise ValueError(f"recycles is {recycles!r}; give a whole number from 0, usually 3.")
    if not (path / "config.json").is_file():
        raise FileNotFoundError(
            f"{path} holds no config.json, so it is not the folder of ESMFold in transformers' "
            f"format. Run: seqalign fetch esmfold_v1 (8.4 GB). {CHEAPER}"
        )
    place = torch.device(device_of(device))
    if precision == "auto":
        precision = "float32"
        if place.type == "cuda":
            precision = "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    return Folder(path, device=place, precision=precision, recycles=recycles)


def one_of(key: str, given: object, literal: Any) -> None:
    """Refuse a value that is not in a Literal."""
    if given not in get_args(literal):
        raise ValueError(
            f"esmfold: {key} is {given!r}; give one of {', '.join(get_args(literal))}."
        )
