"""The verb `score`: a user's own sequences by the rewards, the prior and the constraints."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from seqalign.campaign import letters
from seqalign.campaign.medium import Plan, Record
from seqalign.campaign.metrics import PRIOR_ORDERS
from seqalign.campaign.store import RunFolder
from seqalign.core.objective import Reward, ZScore, open_zscores
from seqalign.files.orderable import Orderable
from seqalign.files.text import read_sequences
from seqalign.load import Model

Constants = Mapping[str, Mapping[str, float | None]]
"""Mean and std of each z-score, as in the summary of a run."""


def score(
    plan: Plan,
    sequences: Sequence[str],
    *,
    constants: Constants | None = None,
    prior: bool = True,
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
        prior: whether to ask the model for log-likelihoods.
        evaluating: told of network calls.

    Returns:
        A row per sequence, in the order given, and the columns.
    """
    objective: Reward | None = plan.objective
    if open_zscores(plan.objective):
        objective = None if constants is None else _closed(plan.objective, constants)
    scored = letters.score(plan, objective, sequences)
    if prior:
        scored = letters.with_prior(plan, scored, sequences, evaluating)
    space = letters.space_of(plan.model)
    rows = [{**scored.rows[s], "violations": "; ".join(space.violations(s))} for s in sequences]
    columns = plan.medium.columns(plan.campaign.rewards, plan.model)
    there = [c for c in columns if c in rows[0]]
    return rows, [*there, "violations"]


def evaluation_calls(plan: Plan, n: int) -> int:
    """Return the network calls that the log-likelihoods of n sequences take, at most."""
    return n * PRIOR_ORDERS * letters.space_of(plan.model).free


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
    resolved = ("model", "rewards", "structure_sha256", "wild_type")
    same = all(before.get(k) == now.get(k) for k in keys) and all(
        before["resolved"].get(k) == now["resolved"].get(k) for k in resolved
    )
    return folder.summary().zscore if same else None


def read_candidates(path: Path, plan: Plan) -> list[tuple[str, str]]:
    """Return (id, sequence) of the sequences in a FASTA or CSV file, L letters each.

    Chains are joined by "/", as in designs.csv; where there is a structure also as ProteinMPNN
    prints them (gaps in the numbers as X, copies of a chain apart), or context chains too.

    Raises:
        ValueError: the campaign draws images, the file cannot be read, or a sequence does not fit
            the campaign; the message names the record.
    """
    model = plan.model
    if model.space is None:
        raise plan.source.error(
            ("model", "name"),
            f"{model.name!r} draws images, and this needs a campaign that designs sequences.",
        )
    rows = read_sequences(path)
    ways = [letters.chains_of(model)]
    if plan.structure is not None:
        ways.append(Orderable.by_numbers(ways[0].base, plan.structure))
    return [(name, _fitted(text, where, model, ways)) for where, name, text in rows]


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
        wanted = " or ".join(" / ".join(map(str, way.sizes)) for way in ways)
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
