"""Letters: designs are sequences, with a design space, mutations and a log-likelihood each."""

from __future__ import annotations

import math
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from seqalign.api import references
from seqalign.campaign import metrics
from seqalign.campaign.asked import draws
from seqalign.campaign.design_map import design_map, places
from seqalign.campaign.inputs import load_letters, sees_beside
from seqalign.campaign.medium import (
    Judged,
    Loaded,
    Plan,
    Record,
    Rehearsal,
    Say,
    columns,
    is_likelihood,
    rounded,
)
from seqalign.campaign.metrics import PRIOR_ORDERS, likelihood_calls, prior_log_likelihood
from seqalign.campaign.rehearsal import chained, rehearse
from seqalign.campaign.report.letters import compared, figures
from seqalign.campaign.report.parts import Compared, Figures, Groups, Run
from seqalign.campaign.schema import Campaign
from seqalign.campaign.store import RunFolder
from seqalign.campaign.summary import Gain, Row, Summary
from seqalign.campaign.yaml import Source
from seqalign.core.devices import beside
from seqalign.core.discrete import MaskedProcess
from seqalign.core.method import Method
from seqalign.core.objective import Reward, evaluate, open_zscores, terms
from seqalign.core.particles import Samples
from seqalign.core.process import Designs, Process
from seqalign.core.states import alone
from seqalign.core.streams import Streams
from seqalign.files.backbone import Backbone
from seqalign.files.orderable import Orderable
from seqalign.files.ordering import Ordering
from seqalign.files.remarks import remarks
from seqalign.files.sheet import Sheet
from seqalign.files.structure import Structure
from seqalign.load import Model
from seqalign.registry import checkpoint_of, takers
from seqalign.space.max_mutations import MaxMutations
from seqalign.space.space import DesignSpace

TOP = 10
"""Designs in the "top" rows of the comparison."""
REFERENCES = 16
"""Designs of an arm, spread over its islands, whose log-likelihoods stand for all of it."""
WARM = 0.5
"""Temperature from which a reward has room among few mutations."""


def space_of(model: Model) -> DesignSpace:
    """Return the design space that every model of letters has."""
    assert model.space is not None
    return model.space


def _remarks(plan: Plan) -> list[str]:
    """Return what a person should know of the structure, and of what its model does not see."""
    spec = plan.campaign.model
    if plan.structure is None:
        return []
    seen = spec.python is None and sees_beside(spec.name, spec.model_extra or {})
    free, others = free_positions(space_of(plan.model)), takers("model", "context_atoms")

    def about(structure: Structure, free: Sequence[int]) -> list[str]:
        return remarks(structure, seen, () if seen else others, {i + 1 for i in free})

    states = plan.model.states
    if not states:
        return about(plan.structure, free)
    found = _states(plan.model)
    for state in states:
        there = about(state.structure, state.at[free].tolist())
        found += [f"{state.structure.name}: {line}" for line in there]
    return found


def _states(model: Model) -> list[str]:
    """Return in sentences which structures one sequence is designed for."""
    first, *rest = model.states
    each = zip(model.states, model.state_weights, strict=True)
    named = ", ".join(f"{s.structure.name} (weight {w:.3g})" for s, w in each)
    apart = "; ".join(f"{s.structure.name} is {s.rmsd:.1f} Å away from it (CA)" for s in rest)
    said = (
        f"One sequence for {len(model.states)} states: {named}. {first.structure.name} names the "
        f"residues; {apart}."
    )
    return [said, *(note for s in rest for note in s.notes)]


def _notes(plan: Plan) -> list[str]:
    """Return what cannot work as well as it might."""
    space, heat = space_of(plan.model), float(getattr(plan.model.process, "temperature", 1.0))
    few = [c for c in space.constraints if isinstance(c, MaxMutations)]
    if not few or heat >= WARM:
        return []
    return [
        f"max_mutations with model.temperature {heat:g}: among few mutations a cold model has one "
        f"best answer, which outweighs the reward and leaves few different designs; "
        f"temperature: {WARM:g} gives both room."
    ]


def _given(model: Model) -> str:
    return " (shown with the letters of the wild type)" if model.wild_type else ""


def free_positions(space: DesignSpace) -> list[int]:
    """Return the 0-based positions that may change."""
    return [i for i, a in enumerate(space.fixed) if a == space.alphabet.mask_symbol]


def chains_of(model: Model) -> Orderable:
    """Return how designs of a model of letters are ordered."""
    assert model.orderable is not None
    return model.orderable


def ordering(model: Model) -> Ordering:
    """Return the columns that designs of a model have for ordering."""
    return Ordering(chains_of(model), space_of(model).alphabet.letters, model.wild_type)


@dataclass(frozen=True)
class Scored:
    """Distinct sequences with every number that tables need, and the network calls it took.

    `rows` are by the letters of all positions.
    """

    rows: Mapping[str, Record]
    network_calls: int

    def of(self, sequences: Sequence[str], key: str) -> list[float]:
        """Return one column; NaN is not known."""
        found = (self.rows[s][key] for s in sequences)
        return [math.nan if value is None else float(value) for value in found]

    def top(self, sequences: Sequence[str], n: int = TOP) -> list[str]:
        """Return the n distinct sequences with the highest total."""
        distinct = list(dict.fromkeys(sequences))
        finite = [s for s in distinct if self.rows[s]["total"] > -math.inf]
        return sorted(finite, key=lambda s: -self.rows[s]["total"])[:n]


def score(
    plan: Plan,
    objective: Reward | None,
    sequences: Sequence[str],
) -> Scored:
    """Score distinct sequences; without an objective there are no scaled columns and no total."""
    model, space = plan.model, space_of(plan.model)
    distinct = list(dict.fromkeys(sequences))
    designs = Designs.of(distinct, space.alphabet)
    free = free_positions(space)
    columns: dict[str, list[float]] = {}
    scaled = {term.name: term for _, term in terms(objective)} if objective is not None else {}
    for t in plan.terms:
        columns[t.label] = evaluate(t.raw, designs)[0].tolist()
        if t.label in scaled:
            columns[f"{t.label}_scaled"] = evaluate(scaled[t.label], designs)[0].tolist()
    if objective is not None:
        columns["total"] = evaluate(objective, designs)[0].tolist()
    rows, own = {}, ordering(model)
    chains = own.chains
    for i, s in enumerate(distinct):
        text = chains.text(s)
        row: Record = own.row(text) | {k: v[i] for k, v in columns.items()}
        row |= {"sequence": text, "letters": s}
        if model.wild_type is not None:
            names_ = chains.mutations(s, model.wild_type)
            row |= {
                "mutations": chains.mutated(s, model.wild_type),
                "n_mut": len(names_),
                "seq_recovery": metrics.recovery(s, model.wild_type, free),
            }
        rows[s] = row
    return Scored(rows, 0)


def with_prior(
    plan: Plan, scored: Scored, sequences: Sequence[str], tell: Callable[[int], None] | None
) -> Scored:
    """Return scored sequences with the log-likelihoods of some of them; None of the others.

    Nothing of it is known from sampling, which is at another temperature, and along an order of
    each sequence's own where these share theirs.
    """
    model, calls, orders = plan.model, [scored.network_calls], PRIOR_ORDERS
    free = free_positions(space_of(model))
    chosen = list(dict.fromkeys(sequences))

    def count(some: int) -> None:
        calls.append(some)
        if tell is not None:
            tell(some)

    x = Designs.of(chosen, space_of(model).alphabet).x[0]
    process, seed = cast(Any, model.process), plan.campaign.seed
    found = prior_log_likelihood(process, x, free, orders=orders, seed=seed, observe=count)
    columns = {"prior": found, "prior_per_residue": found / len(free)}
    for column, k in by_state(model).items():
        one = alone(process, k)
        found = prior_log_likelihood(one, x, free, orders=orders, seed=seed, observe=count)
        columns[column] = found / len(free)
    known = {
        s: {c: v if math.isfinite(v) else None for c, v in zip(columns, values, strict=True)}
        for s, values in zip(chosen, torch.stack([*columns.values()], -1).tolist(), strict=True)
    }
    nothing: Record = dict.fromkeys(columns)
    return Scored({s: row | known.get(s, nothing) for s, row in scored.rows.items()}, sum(calls))


def by_state(model: Model) -> dict[str, int]:
    """Return a column for each of several states, in which designs have its own likelihood."""
    found: dict[str, int] = {}
    for k, state in enumerate(model.states):
        name = f"prior_per_residue_{re.sub(r'[^A-Za-z0-9-]+', '_', state.structure.name)}"
        found[name if name not in found else f"{name}_{k + 1}"] = k
    return found


def calls_of_likelihood(model: Model) -> int:
    """Return the network calls that the log-likelihoods of a design take, at most."""
    calls = likelihood_calls(model.process, space_of(model).free)
    # of the product, and of each state alone
    return calls * (1 + len(model.states))


def _stand_in(sequences: Sequence[str], n: int = REFERENCES) -> list[str]:
    """Return n of an arm's draws, spread evenly over its islands, or all if there are fewer."""
    step = max(len(sequences) / n, 1.0)
    return [sequences[int(i * step)] for i in range(min(n, len(sequences)))]


def _flat(samples: Samples) -> tuple[list[str], list[float]]:
    """Return all sequences and their log-weights, islands pooled by their log Z."""
    sequences = [s for row in samples.designs.sequences for s in row]
    return sequences, torch.log(samples.weights).flatten().tolist()


def _row(plan: Plan, scored: Scored, name: str, which: str, sequences: Sequence[str]) -> Row:
    """Return one line of the comparison: means over the sequences given.

    Of log-likelihoods those that stand for all tell, whatever is kept beside them.
    """
    likelihoods = ["prior", "prior_per_residue"] * plan.campaign.output.likelihoods
    keys = [*plan.shown, *likelihoods]
    if plan.model.wild_type is not None:
        keys += ["n_mut"]
    mean: dict[str, float | None] = {}
    sd: dict[str, float] = {}
    for key in keys:
        some = _stand_in(sequences) if key in likelihoods else sequences
        finite = [v for v in scored.of(some, key) if math.isfinite(v)]
        mean[key] = metrics.mean(finite)
        if len(finite) > 1 and key not in ("prior", "n_mut"):
            sd[key] = statistics.stdev(finite)
    return Row(name, which, len(sequences), mean, sd, metrics.diversity(sequences))


def _rows(plan: Plan, scored: Scored, drawn: Mapping[str, Sequence[str]]) -> tuple[Row, ...]:
    """Return the comparison: the wild type, the baselines, the aligned designs."""
    rows = []
    wild = plan.model.wild_type
    if wild is not None:
        rows.append(_row(plan, scored, "wild type", "1 sequence", [wild]))
    for arm, name, best in plan.lines(plan.islands):
        some = scored.top(drawn[arm]) if best else drawn[arm]
        rows.append(_row(plan, scored, name, f"{'top' if best else 'all'} {len(some)}", some))
    return tuple(rows)


def _gains(plan: Plan, rows: Sequence[Row]) -> dict[str, Gain]:
    """Return, per reward, what the aligned top gains over each other row."""
    aligned = next(r for r in rows if r.row == "aligned" and r.which.startswith("top"))
    others = [
        next((r for r in rows if r.row.startswith(name)), None)
        for name in ("wild type", "unguided", "best of ")
    ]

    def over(row: Row | None, label: str) -> float | None:
        mine, other = aligned.mean[label], None if row is None else row.mean[label]
        return None if mine is None or other is None else float(mine - other)

    gains = {}
    for label in (t.label for t in plan.terms):
        wild, gain, best = (over(row, label) for row in others)
        gains[label] = Gain.of(wild, gain, best, others[1], label)
    return gains


def _pool(plan: Plan, scored: Scored, samples: Samples) -> list[Record]:
    """Return the distinct designs as rows with the numbers that tables print."""
    sequences, log_w = _flat(samples)
    weights: dict[str, list[float]] = {}
    for s, w in zip(sequences, log_w, strict=True):
        weights.setdefault(s, []).append(w)
    light: set[str] = set()
    if plan.most is not None:
        drawn = draws(samples, plan.campaign.seed).flatten().tolist()
        light = weights.keys() - {s for s, d in zip(sequences, drawn, strict=True) if d}
    origin = {"method": plan.campaign.sampler.name, "seed": plan.campaign.seed}
    return [
        rounded(scored.rows[s] | {"log_w": float(np.logaddexp.reduce(ws)), "copies": len(ws)})
        | {"light": s in light, **origin}
        for s, ws in weights.items()
    ]


def _sheet(plan: Plan, scored: Scored) -> Sheet:
    """Return what designs.fasta says beside the designs."""
    campaign, model, structure = plan.campaign, plan.model, plan.structure
    wild = model.wild_type
    style = campaign.output.fasta_style
    shaped = structure is not None and wild is not None and style == "mpnn"
    return Sheet(
        style,
        campaign.name,
        campaign.seed,
        _published(model),
        float(getattr(model.process, "temperature", 1.0)),
        tuple(t.label for t in plan.terms),
        None if wild is None else rounded(scored.rows[wild]),
        _fixed_log_likelihood(plan, wild) if shaped and wild is not None else None,
    )


def _published(model: Model) -> str:
    """Return what a header calls a model: published weights as their authors do, v_48_020."""
    given = model.params.get("checkpoint") or checkpoint_of(model.name)
    found = re.search(r"v_\d+_\d+(_\d+)?$", Path(str(given)).stem)
    return found[0] if found else model.name


def _fixed_log_likelihood(plan: Plan, wild: str) -> tuple[float | None, float | None]:
    """Return the log-likelihood of the fixed letters before all others: natives, then designs'.

    None each where the campaign has log-likelihoods switched off.
    """
    if not plan.campaign.output.likelihoods:
        return None, None
    space, process = space_of(plan.model), cast(Any, plan.model.process)
    fixed = [i for i, a in enumerate(space.fixed) if a != space.alphabet.mask_symbol]
    x = space.alphabet.encode([wild, space.fixed])
    free = x[1] == space.alphabet.mask
    x[:, free] = space.alphabet.mask
    found = prior_log_likelihood(process, x, fixed, orders=PRIOR_ORDERS, seed=plan.campaign.seed)
    return float(found[0]), float(found[1])


@dataclass(frozen=True)
class Letters:
    """Sequences over an alphabet, in a design space."""

    kind: ClassVar[str] = "letters"
    key: ClassVar[str] = "sequence"
    each: ClassVar[str | None] = None
    recurs: ClassVar[bool] = True

    # before a run ---------------------------------------------------------------------------------

    def load(self, campaign: Campaign, source: Source, own: Process | None) -> Loaded:
        """Build the model of a campaign, and its design space."""
        loaded = load_letters(campaign, source, own)
        columns = ordering(loaded.model)
        for text in (*campaign.select.filters, campaign.select.rank_by):
            name = re.match(r"-?([\w-]*)", text.strip())
            column = name[1] if name else ""
            compared = column in ("n_mut", "seq_recovery", "new_liabilities")
            if column in campaign.rewards:
                continue
            if compared and loaded.model.wild_type is None:
                raise source.error(
                    ("select",), f"{text!r} needs a wild type. Give input.wild_type."
                )
            if is_likelihood(column) and not campaign.output.likelihoods:
                raise source.error(
                    ("select",),
                    f"{text!r}: with output.likelihoods: false designs have no {column}. Leave one "
                    "of the two out.",
                )
            if campaign.budget.designs is not None and is_likelihood(column):
                raise source.error(
                    ("select",),
                    f"{text!r}: budget.designs counts designs before they have a {column}. Leave "
                    "one of them out, as sampler.islands may set the number of islands, and "
                    "seqalign select chooses again after the run.",
                )
            if why := columns.lacks(column):
                raise source.error(
                    ("select",),
                    f"{text!r}: {column} has no value, as {why}. Leave it out, or "
                    f"{', or '.join(columns.chains.cures(campaign.input.fill != 'none'))}.",
                )
        return loaded

    def probe(self, model: Model, n: int = 3) -> tuple[Designs, str]:
        """Return n allowed sequences near the wild type, (1, n), and what they are in words."""
        space = space_of(model)
        letters = space.allowed
        base = [
            space.wild_type[i] if space.wild_type and space.wild_type[i] in some else some[0]
            for i, some in enumerate(letters)
        ]
        found = ["".join(base)]
        # where no single change is allowed, many tries would find none either
        for i in [i for i, some in enumerate(letters) if len(some) > 1][:64]:
            if len(found) >= n:
                break
            other = next(a for a in letters[i] if a != base[i])
            trial = "".join([*base[:i], other, *base[i + 1 :]])
            if not space.violations(trial):
                found.append(trial)
        what = "the wild type" if model.wild_type else "a first design"
        return Designs.of([found[i % len(found)] for i in range(n)], space.alphabet), what

    def graded(self, reward: Reward, designs: Designs) -> Tensor:
        """Return the score of designs as letter probabilities, (B, K)."""
        assert designs.alphabet is not None
        return reward.relaxed(F.one_hot(designs.x, len(designs.alphabet)).double())

    def rehearse(self, method: Method, model: Model, reward: Reward, particles: int) -> Rehearsal:
        """Run a method with the network and the reward taken out: exact counts at no cost."""
        space, process = space_of(model), cast(Any, model.process)
        v = len(space.alphabet)

        def flat(x: Tensor, t: float) -> Tensor:
            if x.is_floating_point():
                return 0.0 * x[..., :v]
            return torch.zeros((*x.shape, v), dtype=torch.float64)

        free = replace(process, network=flat, chunk=None)
        # the machinery's own cost per step is the same for any number of particles
        size = particles if hasattr(method, "burn_in") or chained(method) else 2
        return rehearse(method, free, reward, size, space)

    def oracle_calls(self, plan: Plan, role: str) -> int:
        """Return the calls of one reward, at most."""
        # the wild type, too; what guided a run is in its memory at the end
        return plan.reward_calls if role == "guide" else plan.drawn + 1

    def beside(self, plan: Plan) -> Mapping[str, int]:
        """Return the network calls of a calibration and of the log-likelihoods."""
        calls = {}
        if open_zscores(plan.objective):
            islands, designs = references(plan.model)
            calls["calibration"] = islands * designs * plan.model.calls
        if isinstance(plan.model.process, MaskedProcess) and plan.campaign.output.likelihoods:
            # the wild type has one, too
            select = plan.campaign.select
            aligned, *others = (a.particles * plan.islands for a in plan.arms)
            by = [re.split(r"[^\w-]", text.strip().lstrip("-"))[0] for text in select.filters]
            by.append(select.rank_by.removeprefix("-"))
            kept = aligned if select.top is None or any(map(is_likelihood, by)) else select.top
            known = min(aligned, kept + REFERENCES + TOP) + 1
            known += sum(min(n, REFERENCES + TOP) for n in others)
            calls["evaluation"] = known * calls_of_likelihood(plan.model)
        return calls

    def cost(self, plan: Plan) -> tuple[float, Mapping[str, float], float]:
        """Time one small network call with its look-ahead, and one call of each reward."""
        space, process = space_of(plan.model), cast(Any, plan.model.process)
        # the look of a large assembly is timed on fewer particles
        n = min(plan.arms[0].particles, 16, max(1, 16000 // space.length))
        x = process.prior((1, n), Streams(0, (0,)))
        if isinstance(process, MaskedProcess):
            x = space.start(x)
        laps: list[float] = []
        with torch.no_grad():
            # the first one warms up, and is enough where it is slow
            while len(laps) < 3 and sum(laps) * n < 1:
                begin = time.perf_counter()
                law = process.posterior(x, 1.0)
                log_h, _ = space.condition(law, x, process.unknown(x))
                # what a GPU still has to do is done once a number is read
                log_h.sum().item()
                laps.append((time.perf_counter() - begin) / n)
        seconds, hot = {}, law.mean
        for t in plan.terms:
            seconds[t.label] = t.raw.cost
            if t.spec.role == "guide" and t.raw.differentiable:
                begin = time.perf_counter()
                with torch.no_grad():
                    beside(t.raw, process).relaxed(hot).sum().item()
                seconds[t.label] = 3 * (time.perf_counter() - begin) / n  # and its gradient
        state = max(a.states for a in plan.arms) * space.length * (len(space.alphabet) + 1) * 8
        return min(laps[1:] or laps), seconds, 0.6 + 40 * state / 1e9

    def resolved(self, plan: Plan) -> Mapping[str, Any]:
        """Return wild type, residues, chains, steps, which positions are free, and remarks."""
        model, space = plan.model, space_of(plan.model)
        return {
            "wild_type": model.wild_type,
            "residues": list(model.residues),
            "chains": list(model.chains),
            "steps": model.steps,
            "free": "".join("1" if a == space.alphabet.mask_symbol else "0" for a in space.fixed),
            "notes": _remarks(plan),
            **({"state_weights": list(model.state_weights)} if model.states else {}),
        }

    def asked(self, plan: Plan) -> Mapping[str, Any]:
        """Return what a campaign asks of its model, for programs."""
        space, free = space_of(plan.model), set(free_positions(space_of(plan.model)))
        names = plan.model.residues
        return {
            "length": space.length,
            "free": space.free,
            "fixed": space.length - space.free,
            "allowed": {names[i]: a for i, a in enumerate(space.allowed) if i in free},
            "ordered": chains_of(plan.model).chains(plan.model.wild_type or space.fixed),
            "notes": [*plan.notes, *_notes(plan), *_remarks(plan)],
            "constraints": plan.campaign.constraints,
            "places": places(plan.campaign, plan.model),
        }

    def say(self, plan: Plan, say: Say) -> None:
        """Say which letters may change, and where."""
        space = space_of(plan.model)
        say(
            f"\nDesign map ({space.length} positions, {space.free} free, "
            f"{space.length - space.free} fixed)"
        )
        for line in design_map(plan.model, space):
            say(line)
        for text, residues in places(plan.campaign, plan.model).items():
            say(f"  {text} = {residues}")
        if space.constraints:
            say(f"  look-ahead: {space.lookahead_note}; the weights are exact either way")
        chains = chains_of(plan.model)
        one = plan.model.wild_type or chains.base
        say(f"\nOrdered, one record per designed chain{_given(plan.model)}")
        for record in chains.records:
            letters = record.letters(one)
            say(f"  {f'{record.name}: ' * bool(record.name)}{len(letters)} letters")
            for at in range(0, len(letters), 60):
                say(f"    {letters[at : at + 60]}")
            for where in record.unknown():
                say(f"    X: {where}; plates and DNA refuse it")
            beside = [p for p in record.places if isinstance(p, str) and p != "X"]
            if beside:
                say(
                    f"    {len(beside)} of these letters have no whole backbone: models and "
                    "rewards do not see them, and a design that breaks a constraint by them is "
                    "rejected"
                )
        for note in _notes(plan):
            say(f"  {note}")
        if notes := _remarks(plan):
            say("\nThe structure as it was read")
            for note in notes:
                say(f"  {note}")

    def columns(self, campaign: Campaign, model: Model) -> list[str]:
        """Return the columns of designs.csv."""
        own = ordering(model)
        every = ("prior", "prior_per_residue", *by_state(model))
        likelihoods = every if campaign.output.likelihoods else ()
        changed = ("mutations", "n_mut", "seq_recovery") if model.wild_type else ()
        head = ("sequence", *own.sequences, *changed, *own.whole)
        return columns(campaign.rewards, head, own.each, likelihoods)

    # after it -------------------------------------------------------------------------------------

    def judge(
        self,
        plan: Plan,
        objective: Reward,
        results: Mapping[str, Samples],
        tell: Callable[[int], None] | None,
        kept: Callable[[Sequence[Record]], Sequence[Record]],
    ) -> Judged:
        """Score every distinct sequence once; log-likelihoods, which are dear, of those shown.

        These are the designs that are kept, and of each arm its best and some that stand for all.
        """
        flat = {name: _flat(samples) for name, samples in results.items()}
        every = [s for sequences, _ in flat.values() for s in sequences]
        if plan.model.wild_type is not None:
            every = [plan.model.wild_type, *every]
        scored = score(plan, objective, every)
        if plan.campaign.output.likelihoods:
            pool = _pool(plan, scored, results["aligned"])
            known = [s for s in every[:1] if plan.model.wild_type is not None]
            known += [row["letters"] for row in kept(pool)]
            for drawn, _ in flat.values():
                known += _stand_in(drawn) + scored.top(drawn)
            scored = with_prior(plan, scored, known, tell)
        rows = _rows(plan, scored, {name: sequences for name, (sequences, _) in flat.items()})
        sequences, log_w = flat["aligned"]
        seed = plan.campaign.seed
        others = [
            scored.rows[s] | {"id": f"{a.name}-{n:04d}", "log_w": w, "method": a.name, "seed": seed}
            for a in plan.arms[1:]
            for n, (s, w) in enumerate(zip(*flat[a.name], strict=True), 1)
        ]
        return Judged(
            _pool(plan, scored, results["aligned"]),
            others,
            rows,
            _gains(plan, rows),
            {x: metrics.weighted_mean(scored.of(sequences, x), log_w) for x in plan.shown},
            scored.network_calls if plan.campaign.output.likelihoods else None,
            {
                "fasta": _sheet(plan, scored),
                "orderable": chains_of(plan.model),
                "backbone": None if plan.structure is None else Backbone.of(plan.structure),
                "prior_orders": PRIOR_ORDERS if plan.campaign.output.likelihoods else None,
            },
        )

    def pool(
        self, plan: Plan, objective: Reward, samples: Samples, known: dict[str, Record]
    ) -> Sequence[Record]:
        """Score the sequences that are new."""
        every = _flat(samples)[0]
        new = [s for s in every if s not in known]
        known |= score(plan, objective, new).rows if new else {}
        return _pool(plan, Scored(known, 0), samples)

    def broken(self, model: Model, row: Record) -> str | None:
        """Return the first constraint a design breaks, in words."""
        return next(iter(model.violations(row["letters"])), None)

    def publish(
        self, folder: RunFolder, summary: Summary, kept: Sequence[Record], every: Sequence[Record]
    ) -> Summary:
        """Write designs.fasta."""
        assert summary.fasta is not None
        assert summary.orderable is not None
        folder.write("designs.fasta", summary.fasta.fasta(kept, summary.orderable))
        return summary

    def compared(self, run: Run) -> Compared:
        """Return what its verdicts compare."""
        return compared(run)

    def figures(self, run: Run, groups: Groups) -> Figures:
        """Draw logo, mutations, composition and distances."""
        return figures(run, groups)
