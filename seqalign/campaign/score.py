"""The verb `score`: a user's own sequences by the rewards, the prior and the constraints."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from seqalign.campaign import letters
from seqalign.campaign.medium import Plan, Record
from seqalign.campaign.store import RunFolder
from seqalign.core.objective import Reward, ZScore, open_zscores
from seqalign.files.candidates import Candidate, Claim, candidates
from seqalign.files.orderable import Orderable
from seqalign.files.sequences import summed
from seqalign.files.variants import NotAVariant, VariantError, Variants, WrongWildType
from seqalign.load import Model

Constants = Mapping[str, Mapping[str, float | None]]
"""Mean and std of each z-score, as in the summary of a run."""


def score(
    plan: Plan,
    sequences: Sequence[str],
    *,
    constants: Constants | None = None,
    prior: bool | None = None,
    evaluating: Callable[[int], None] | None = None,
) -> tuple[list[Record], list[str]]:
    """Score sequences by the rewards, the prior and the constraints of a campaign.

    Constraints do not stop a sequence from being scored: the column "violations" says which it
    breaks. Where a reward is a z-score without `constants`, scaled columns and "total" are left
    out: only a run fixes them.

    Args:
        plan: the campaign.
        sequences: L letters each.
        constants: of the z-scores.
        prior: whether to ask the model for log-likelihoods; as output.likelihoods says if None.
        evaluating: told of network calls.

    Returns:
        A row per sequence, in the order given, and the columns.
    """
    objective: Reward | None = plan.objective
    if open_zscores(plan.objective):
        objective = None if constants is None else _closed(plan.objective, constants)
    scored = letters.score(plan, objective, sequences)
    prior = plan.campaign.output.likelihoods if prior is None else prior
    output = plan.campaign.output.model_copy(update={"likelihoods": prior})
    asked = plan.campaign.model_copy(update={"output": output})
    if prior:
        scored = letters.with_prior(plan, scored, sequences, evaluating)
    rows = [
        {**scored.rows[s], "violations": "; ".join(plan.model.violations(s))} for s in sequences
    ]
    columns = plan.medium.columns(asked, plan.model)
    there = [c for c in columns if c in rows[0]]
    return rows, [*there, "violations"]


def evaluation_calls(plan: Plan, n: int) -> int:
    """Return the network calls that the log-likelihoods of n sequences take, at most."""
    return n * letters.calls_of_likelihood(plan.model)


def _closed(objective: Reward, constants: Constants) -> Reward | None:
    """Return the objective with the constants of a run; None if one is missing."""

    def close(reward: Reward) -> Reward:
        whole = reward.map(close)
        if not isinstance(whole, ZScore) or not whole.open:
            return whole
        given = constants.get(whole.name, {})
        return whole.inner.zscore(given.get("mean"), given.get("std"))

    closed = close(objective)
    return None if open_zscores(closed) else closed


def stored_constants(plan: Plan, folder: RunFolder) -> Constants | None:
    """Return the z-score constants of a finished run of this campaign.

    None if there is no such run, or its model, backbone or rewards are others.
    """
    if not folder.done:
        return None
    before, now = folder.read_config(), json.loads(json.dumps(plan.config))
    keys = ("model", "rewards", "constraints", "design")
    resolved = ("model", "rewards", "structure_sha256", "state_weights", "wild_type")
    same = all(before.get(k) == now.get(k) for k in keys) and all(
        before["resolved"].get(k) == now["resolved"].get(k) for k in resolved
    )
    return folder.summary().zscore if same else None


@dataclass(frozen=True)
class Entry:
    """A record of a user's file.

    Attributes:
        name: its own; not always unique.
        place: file, line or record, and name.
        sequence: L letters; None if the record is skipped.
        skipped: why, in words.
    """

    name: str
    place: str
    sequence: str | None
    skipped: str = ""


@dataclass(frozen=True)
class Candidates:
    """What a user's file holds, in its order, and notes on how it was read."""

    entries: tuple[Entry, ...]
    notes: tuple[str, ...]

    @property
    def sequences(self) -> list[str]:
        """The sequences that can be scored."""
        return [entry.sequence for entry in self.entries if entry.sequence is not None]

    @property
    def skipped(self) -> list[Entry]:
        """The records that cannot."""
        return [entry for entry in self.entries if entry.sequence is None]

    def said(self, most: int = 20) -> list[str]:
        """Return a line on each of the first skipped records, and on how many more there are."""
        lines = [f"{entry.place}: {entry.skipped}." for entry in self.skipped[:most]]
        more = len(self.skipped) - most
        return [*lines, f"and {more:,} more."] if more > 0 else lines


def read_candidates(path: Path, plan: Plan) -> Candidates:
    """Return the sequences in a FASTA file or a table, L letters each.

    Chains are joined by "/", as in designs.csv; where there is a structure also as ProteinMPNN
    prints them (gaps in the numbers as X, copies of a chain apart), or context chains too. A
    variant is read against the wild type; what a record says in several columns must agree.

    Raises:
        ValueError: the campaign draws images, the file cannot be read, or no record of it fits the
            campaign; the message names the records.
    """
    model = plan.model
    if model.space is None:
        raise plan.source.error(
            ("model", "name"),
            f"{model.name!r} draws images, and this needs a campaign that designs sequences.",
        )
    found, notes = candidates(path)
    ways = [letters.chains_of(model)]
    if plan.structure is not None:
        # numbers too far apart are nothing that ProteinMPNN prints
        with suppress(ValueError):
            ways.append(Orderable.by_numbers(ways[0].base, plan.structure))
    variants = _variants(model)
    entries: list[Entry] = []
    said: list[tuple[str, str]] = []
    astray: list[int] = []
    for n, given in enumerate(found):
        text, cause = None, given.refused
        try:
            if not cause:
                text, more = _agreed(given, model, ways, variants)
                said += [(given.place, note) for note in (*given.notes, *more)]
        except ValueError as error:
            cause = str(error).removeprefix(given.place).lstrip(" :")
            astray += [n] if isinstance(error, WrongWildType) else []
        entries.append(Entry(given.name, given.place, text, cause.rstrip(".")))
    if astray:
        claims = (claim for given in found for claim in given.claims if claim.kind == "variant")
        offset = variants.offset(claim.text for claim in claims)
        for n in astray if offset else ():
            entries[n] = replace(entries[n], skipped=f"{entries[n].skipped}; {offset}")
        # where all numbers are off, those that fit do so by chance
        for n, entry in enumerate(entries) if offset and offset.fitting == offset.variants else ():
            if entry.sequence and all(map(_numbered, found[n].claims)):
                cause = f"{found[n].claims[0].text[:40]!r} fits as it is, but {offset}"
                entries[n] = replace(entry, sequence=None, skipped=cause)
    read = Candidates(tuple(entries), (*(f"{note}." for note in notes), *summed(said)))
    if not read.sequences:
        none = f"{path}: none of its {len(entries):,} records can be scored."
        raise ValueError("\n".join([*read.said(), none] if len(entries) > 1 else read.said()))
    return read


def _numbered(claim: Claim) -> bool:
    """Whether a record's claim rests on the numbers of residues."""
    return claim.kind == "variant" and re.search("[0-9]", claim.text) is not None


def _variants(model: Model) -> Variants:
    """Return what reads the variants of a model's wild type."""
    space, numbering = letters.space_of(model), model.numbering
    assert numbering is not None
    return Variants(
        numbering,
        space.wild_type or space.fixed,
        tuple(letters.free_positions(space)),
        tuple(tuple(i - 1 for i in group) for group in space.blocks),
        space.alphabet.letters,
    )


def _agreed(
    given: Candidate, model: Model, ways: Sequence[Orderable], variants: Variants
) -> tuple[str, list[str]]:
    """Return the letters of all positions that a record speaks of in one or several columns."""
    read: list[tuple[Claim, str]] = []
    unread: list[tuple[Claim, NotAVariant]] = []
    notes: list[str] = []
    for claim in given.claims:
        if claim.kind == "sequence":
            read.append((claim, _of_sequence(claim, given.place, model, ways)))
            order = ways[0].text(read[-1][1])
            if order.upper() != claim.text and len(ways[0].sizes) == claim.text.count("/") + 1:
                notes.append("letters without a whole backbone are those of the structure")
            continue
        try:
            if claim.kind == "combo":
                text = variants.combo(claim.text)
            elif model.wild_type is None:
                raise NotAVariant("the campaign has no wild type that variants could change")
            else:
                text = variants.letters(claim.text)
            read.append((claim, text))
        except NotAVariant as error:
            unread.append((claim, error))
    if not read:
        raise unread[0][1]
    (first, found), *others = read
    for claim, text in others:
        for n, (a, b) in enumerate(zip(found, text, strict=True)):
            if a != b:
                raise VariantError(
                    f"{first.column!r} and {claim.column!r} disagree: at {model.residues[n]} the "
                    f"one has {a}, the other {b} ({claim.text[:40]}); correct one, or empty it"
                )
    return found, notes + [
        f"{claim.column!r} is not read where it is no variant; {first.column!r} counts"
        for claim, _ in unread
    ]


def _of_sequence(claim: Claim, where: str, model: Model, ways: Sequence[Orderable]) -> str:
    """Return the letters of all positions of a sequence, in which gaps may stand for missing."""
    if claim.aligned != claim.text:
        try:
            return _fitted(re.sub("[-.]", "X", claim.aligned), where, model, ways)
        except ValueError:
            pass  # an alignment, then
    return _fitted(claim.text, where, model, ways)


def _fitted(text: str, where: str, model: Model, ways: Sequence[Orderable]) -> str:
    """Return the letters of all positions: printed as orderable, as ProteinMPNN does, or as all."""
    alphabet = letters.space_of(model).alphabet
    sizes, whole = [len(part) for part in text.split("/")], text.replace("/", "")
    way = next((way for way in ways if way.sizes == sizes), None)
    if way is not None:
        try:
            whole = way.letters(text)
        except ValueError as error:
            raise ValueError(f"{where} {error}.") from error
    elif sizes not in ([sum(model.chains)], list(model.chains)):
        every = (*(way.sizes for way in ways), list(model.chains))
        wanted = " or ".join(dict.fromkeys(" / ".join(map(str, some)) for some in every))
        raise ValueError(
            f"{where} has {' / '.join(map(str, sizes))} letters, the model designs {wanted}. "
            "Insertions and deletions cannot be scored."
        )
    for n, letter in enumerate(whole):
        if letter not in alphabet.letters:
            raise ValueError(
                f"{where}: the letter at {model.residues[n]} is {letter!r}; allowed are "
                f"{alphabet.letters}."
            )
    return whole
