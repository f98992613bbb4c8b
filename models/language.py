"""esm2, dplm: protein language models as masked diffusion, for campaigns without a structure.

ESM-2 was trained to fill in masked residues, DPLM (the same architecture) to undo masked diffusion.
Run as order-agnostic masked diffusion, either is a law of protein sequences of any length: a step
masks nothing new, asks the network for the letters of all masked positions, and reveals one. What a
design space fixes is revealed from the start, so a campaign around a wild type masks only what it
may change.

The network sees <cls>, the residues (<mask> where a letter is open), <eos>. Its 33 logits are cut
to the twenty letters: X, B, U, Z, O, gaps and special tokens are never produced. Islands of
different length are padded with <pad>, which no residue attends to.

*Token dropout.* ESM-2 zeroes the embeddings of masked tokens and scales all others by
(1 − 0.12) / (1 − observed mask ratio), at inference too. Both libraries do this in their own
forward, which is what runs here; DPLM does so if its config says so.

References:
    Evolutionary-scale prediction of atomic-level protein structure with a language model, Lin et
    al., Science 379:1123, 2023, https://doi.org/10.1126/science.ade2574 (ESM-2)
    Diffusion language models are versatile protein learners, Wang et al., ICML 2024,
    https://arxiv.org/abs/2402.18567 (DPLM)
    Language models enable zero-shot prediction of the effects of mutations on protein function,
    Meier et al., 2021, https://doi.org/10.1101/2021.07.09.450648 (token dropout: appendix)
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from torch import Tensor, nn

from seqalign import weights
from seqalign.core.discrete import CategoricalPosterior, MaskedProcess, OpenPosterior
from seqalign.core.sequence import PROTEIN
from seqalign.models.devices import Precision, device_of
from seqalign.models.language_checkpoints import read_checkpoint

if TYPE_CHECKING:
    from seqalign.core.discrete import Order

SPECIAL: Final = ("<cls>", "<pad>", "<eos>", "<mask>")


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A protein language model as a function of tokens over the twenty letters.

    Attributes:
        name: the checkpoint.
        network: fair-esm's `ESM2` or transformers' `EsmForMaskedLM`, in evaluation mode, frozen.
        vocabulary: (21,) the network's token of each letter of `PROTEIN`, and of the mask.
        cls: its token before the residues.
        pad: its token of padding.
        eos: its token behind the residues.
        token_dropout: whether the network zeroes masks and rescales the rest.
        library: "fair-esm" or "transformers".
        device: where the network lives.
        precision: of its matrix products; logits are float32 in any case.
        note: why a checkpoint is read by another library than its own; empty if it is not.
    """

    name: str
    network: nn.Module = field(repr=False)
    vocabulary: Tensor = field(repr=False)
    cls: int = field(repr=False)
    pad: int = field(repr=False)
    eos: int = field(repr=False)
    token_dropout: bool
    library: str
    device: str = "cpu"
    precision: Precision = "float32"
    note: str = ""

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(p.numel() for p in self.network.parameters())

    def __call__(self, x: Tensor, t: float = 0.0, event_mask: Tensor | None = None) -> Tensor:
        """Return logits (B, K, L, 20), float32, of tokens (B, K, L) or states (B, K, L, 21).

        Args:
            x: letters 0..19 and the mask 20, or one column each, which may be fractional: the
                embedding is then the mixture, and a gradient flows to x.
            t: ignored; the network sees in x how much is masked.
            event_mask: (B, L) bool, False where an island has no residue: not shown to the network,
                logits 0.
        """
        b, k, length = x.shape[:3]
        if event_mask is None:
            event_mask = torch.ones(b, length, dtype=torch.bool, device=x.device)
        elif event_mask.shape != (b, length):
            raise ValueError(
                f"event_mask has shape {tuple(event_mask.shape)} for tokens of {b} islands and "
                f"{length} positions; give one row per island."
            )
        exists = event_mask.to(self.device).repeat_interleave(k, 0)
        count = exists.sum(-1, keepdim=True)
        width = int(event_mask.sum(-1).max()) + 2
        # residues stand behind <cls>; positions that do not exist go to a column that is cut off
        place = torch.where(exists, exists.long().cumsum(-1), width)
        rows = x.to(self.device).flatten(0, 1)
        mixed = rows.is_floating_point()
        letters = torch.zeros_like(place) if mixed else rows
        ids = torch.full((b * k, width + 1), self.pad, device=self.device)
        ids[:, 0] = self.cls
        ids.scatter_(1, count + 1, self.eos)
        ids.scatter_(1, place, self.vocabulary.to(self.device)[letters])
        logits = self._mixed(ids[:, :width], rows, place) if mixed else self._run(ids[:, :width])
        logits = logits[..., self.vocabulary[:-1].to(self.device)].float()
        index = place.clamp(max=width - 1)[..., None].expand(-1, -1, len(PROTEIN))
        logits = logits.gather(1, index).masked_fill(~exists[..., None], 0.0)
        return logits.reshape(b, k, length, len(PROTEIN)).to(x.device)

    def _run(self, ids: Tensor) -> Tensor:
        """Return all logits, (N, W, 33), of the network's own tokens (N, W)."""
        half = self.precision != "float32"
        kind = torch.device(self.device).type
        with torch.autocast(kind, getattr(torch, self.precision) if half else None, enabled=half):
            if self.library == "fair-esm":
                logits: Tensor = self.network(ids)["logits"]
            else:
                logits = self.network(input_ids=ids, attention_mask=(ids != self.pad).long()).logits
        return logits

    def _mixed(self, ids: Tensor, x: Tensor, place: Tensor) -> Tensor:
        """Return all logits, (N, W, 33), with states x (N, L, 21) in the places (N, L) of `ids`.

        The network's own forward runs on ids without a mask, so its token dropout scales by
        1 − 0.12; the rest of the scale, 1 / (1 − observed ratio), is part of the embeddings that
        take the place of its own.
        """
        embedding = (
            self.network.embed_tokens
            if self.library == "fair-esm"
            else self.network.esm.embeddings.word_embeddings  # type: ignore[union-attr]
        )
        assert isinstance(embedding, nn.Embedding)
        table = embedding.weight[self.vocabulary.to(self.device)]
        if self.token_dropout:
            table = torch.cat((table[:-1], torch.zeros_like(table[-1:])))
        width, size = ids.shape[1], table.shape[1]
        # one column more, for the positions that do not exist
        own = torch.cat((embedding.weight[ids], table.new_zeros(len(ids), 1, size)), 1)
        index = place[..., None].expand(-1, -1, size)
        states = own.scatter(1, index, x.to(table.dtype) @ table)[:, :width]
        if self.token_dropout:
            masks = torch.where(place < width, x[..., -1], 0.0).sum(-1)
            ratio = masks / (ids != self.pad).sum(-1)
            states = states / (1 - ratio)[:, None, None].to(states.dtype)
        hook = embedding.register_forward_hook(lambda module, args, output: states)
        try:
            return self._run(ids)
        finally:
            hook.remove()


@dataclass(frozen=True, eq=False)
class LanguageProcess(MaskedProcess):
    """A masked process whose network is told which positions of an island are padding."""

    def posterior(self, x: Tensor, t: float, *before: Any) -> CategoricalPosterior | OpenPosterior:
        """Call the network on tokens (B, K, L) or relaxed states (B, K, L, 21)."""
        if self.event_mask is None:
            return super().posterior(x, t)
        network = partial(cast(LanguageModel, self.network), event_mask=self.event_mask)
        return MaskedProcess.posterior(replace(self, network=network), x, t)


def load_language_model(
    checkpoint: str | Path, *, device: str = "auto", precision: Precision = "float32"
) -> LanguageModel:
    """Return the language model of a checkpoint: a name of `seqalign fetch`, a file or a folder.

    Args:
        checkpoint: "esm2_t6_8M_UR50D", "dplm_150m", ...; a .pt file of fair-esm; a folder in
            transformers' format.
        device: "cpu", "cuda", "cuda:1", ...; "auto" is cuda where there is one.
        precision: of matrix products; "bfloat16" and "float16" are for accelerators.

    Raises:
        FileNotFoundError: the weights are not on this machine; the message says what to do.
        ModuleNotFoundError: neither library that reads the format is installed.
        ValueError: the file is no such checkpoint, or device or precision is unknown.
    """
    device = device_of(device, precision)
    where = weights.path(checkpoint).resolve()
    network, tokens, dropout, library, note = read_checkpoint(
        where, where.stat().st_mtime_ns, device
    )
    unknown = [token for token in (*SPECIAL, *PROTEIN.letters) if token not in tokens]
    if unknown:
        raise ValueError(f"The vocabulary of {where} has no {', '.join(unknown)}.")
    return LanguageModel(
        name=str(checkpoint) if str(checkpoint) in weights.catalog() else where.name,
        network=network,
        vocabulary=torch.tensor([tokens[token] for token in (*PROTEIN.letters, "<mask>")]),
        cls=tokens["<cls>"],
        pad=tokens["<pad>"],
        eos=tokens["<eos>"],
        token_dropout=dropout,
        library=library,
        device=device,
        precision=precision,
        note=note,
    )


def _process(
    name: str,
    model: LanguageModel,
    wild_type: str | None,
    length: int | None,
    steps: int | None,
    order: Order,
    temperature: float,
    chunk: int | None,
) -> LanguageProcess:
    if wild_type is not None:
        PROTEIN.encode([wild_type])
        if length not in (None, len(wild_type)):
            raise ValueError(
                f"{name}: length is {length}, but wild_type has {len(wild_type)} letters. Leave "
                "length out, or give another wild type."
            )
        length = len(wild_type)
    if length is None:
        raise ValueError(f"{name} needs wild_type (a sequence), or length to design from nothing.")
    if length < 1:
        raise ValueError(f"{name}: there is nothing to design in a length of {length}.")
    return LanguageProcess(
        network=model,
        alphabet=PROTEIN,
        length=length,
        steps=length if steps is None else steps,
        order=order,
        temperature=temperature,
        differentiable=True,
        chunk=chunk,
        wild_type=wild_type,
        name=name,
    )


def esm2(
    *,
    checkpoint: str | Path = "esm2_t6_8M_UR50D",
    wild_type: str | None = None,
    length: int | None = None,
    steps: int | None = None,
    order: Order = "random",
    temperature: float = 1.0,
    chunk: int | None = 32,
    device: str = "auto",
    precision: Precision = "float32",
) -> LanguageProcess:
    """Return ESM-2 as masked diffusion over protein sequences of any length.

    For islands of different length, give the longest as `length` and `dataclasses.replace` the
    process's `event_mask`.

    Args:
        checkpoint: a name of `seqalign fetch`, a .pt file, or a folder in transformers' format.
        wild_type: the natural sequence; a design space masks what it may change.
        length: number of residues, where there is no wild type.
        steps: number of steps; by default one per position.
        order: "random" reveals one uniformly random position a step; "parallel" reveals several.
        temperature: divides the logits.
        chunk: particles per network call.
        device: "cpu", "cuda", ...; "auto" is cuda where there is one.
        precision: of matrix products; "bfloat16" and "float16" are for accelerators.

    Raises:
        FileNotFoundError: the weights are not on this machine.
        ValueError: neither wild_type nor length is given, or they disagree, or a letter is unknown.
    """
    model = load_language_model(checkpoint, device=device, precision=precision)
    return _process("esm2", model, wild_type, length, steps, order, temperature, chunk)


def dplm(
    *,
    checkpoint: str | Path = "dplm_150m",
    wild_type: str | None = None,
    length: int | None = None,
    steps: int | None = None,
    order: Order = "random",
    temperature: float = 1.0,
    chunk: int | None = 32,
    device: str = "auto",
    precision: Precision = "float32",
) -> LanguageProcess:
    """Return DPLM as masked diffusion over protein sequences of any length.

    Arguments and errors are those of `esm2`; a checkpoint is in transformers' format.
    """
    model = load_language_model(checkpoint, device=device, precision=precision)
    return _process("dplm", model, wild_type, length, steps, order, temperature, chunk)
