"""Score a user's own sequences by the rewards, the prior and the constraints of a campaign."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from seqalign.campaign.islands import open_zscores
from seqalign.campaign.letters import _columns, _score
from seqalign.campaign.plan import Plan
from seqalign.campaign.store import RunFolder
from seqalign.core.objective import Reward, Sum, ZScore
from seqalign.files.sheet import Layout
from seqalign.files.text import read_sequences
from seqalign.registry import Model

__all__ = ["read_candidates", "score_table", "stored_constants"]


def score_table(
    plan: Plan,
    sequences: Sequence[str],
    *,
    constants: Mapping[str, Mapping[str, float | None]] | None = None,
    prior: bool = True,
    evaluating: Callable[[int], None] | None = None,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Score sequences by the rewards, the prior and the constraints of a campaign.

    Constraints do not stop a sequence from being scored: the column "violations" says which it
    breaks. Where a reward is a z-score without `constants`, scaled columns and "total" are left
    out: only a run fixes them.

    Args:
        plan: the campaign.
        sequences: L letters each.
        constants: mean and std of each z-score, as in the summary of a run.
        prior: whether to ask the model for log-likelihoods.
        evaluating: told of network calls.

    Returns:
        A row per sequence, in the order given, and the columns.

    Raises:
        RewardError: a reward broke its contract.
    """
    objective: Reward | None = plan.objective
    if open_zscores(plan.objective):
        objective = None if constants is None else _closed(plan.objective, constants)
    scored = _score(plan, objective, sequences, evaluating, prior)
    space = plan.letters.space
    rows = [{**scored.rows[s], "violations": "; ".join(space.violations(s))} for s in sequences]
    columns = _columns(plan.campaign.rewards, plan.letters.wild_type is not None)
    there = [c for c in columns if c in rows[0]]
    return rows, [*there, "violations"]


def _closed(
    objective: Reward, constants: Mapping[str, Mapping[str, float | None]]
) -> Reward | None:
    """Return the objective with the constants of a run; None if one is missing."""
    assert isinstance(objective, Sum)
    terms: list[tuple[float, Reward]] = []
    for weight, term in objective.terms:
        if isinstance(term, ZScore) and term.mean is None:
            given = constants.get(term.name, {})
            mean, std = given.get("mean"), given.get("std")
            if mean is None or std is None:
                return None
            term = replace(term, mean=mean, std=std)
        terms.append((weight, term))
    return Sum(tuple(terms))


def stored_constants(
    plan: Plan, folder: RunFolder
) -> Mapping[str, Mapping[str, float | None]] | None:
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
    if not same:
        return None
    found: Mapping[str, Mapping[str, float | None]] = folder.read_json("summary.json")["zscore"]
    return found


def read_candidates(path: Path, plan: Plan) -> list[tuple[str, str]]:
    """Return (id, sequence) of the sequences in a FASTA or CSV file, L letters each.

    Chains are joined by "/": as ProteinMPNN prints them where there is a structure (the designed
    chains by name, gaps in the numbers as X), else one after another.

    Raises:
        ValueError: the campaign draws images, the file cannot be read, or a sequence does not fit
            the campaign; the message names the record.
    """
    model = plan.letters
    rows = read_sequences(path)
    layout = None if plan.structure is None else Layout.of(plan.structure)
    return [(name, _fitted(text, where, model, layout)) for where, name, text in rows]


def _fitted(text: str, where: str, model: Model, layout: Layout | None) -> str:
    """Return the letters of all positions."""
    alphabet, length = model.space.alphabet, model.space.length
    plain = text.replace("/", "")
    if (
        layout is not None
        and model.wild_type is not None
        and ("/" in text or len(text) != length or "X" in text)
    ):
        try:
            plain = layout.letters(text, model.wild_type)
        except ValueError as error:
            raise ValueError(f"{where} {error}.") from error
    elif "/" in text and [len(part) for part in text.split("/")] != list(model.chains):
        sizes = " / ".join(map(str, model.chains))
        raise ValueError(
            f"{where}: the chains have {' / '.join(str(len(p)) for p in text.split('/'))} letters, "
            f"the model designs {sizes}."
        )
    if len(plain) != length:
        raise ValueError(
            f"{where} has {len(plain)} letters, the model designs {length}. Insertions and "
            "deletions cannot be scored."
        )
    for n, letter in enumerate(plain):
        if letter not in alphabet.letters:
            raise ValueError(
                f"{where}: the letter at {model.residues[n]} is {letter!r}; allowed are "
                f"{alphabet.letters}."
            )
    return plain
