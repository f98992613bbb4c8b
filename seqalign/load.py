"""Load a model, a reward or a method by name; a model also around a process at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from seqalign.core.discrete import MaskedProcess, UniformProcess
from seqalign.core.method import Method
from seqalign.core.objective import Reward
from seqalign.core.process import Process
from seqalign.core.sequence import PROTEIN
from seqalign.core.states import OVER, InState, Over, OverStates, Placed, product
from seqalign.entries import SpecError, load, names
from seqalign.files.numbering import Numbering
from seqalign.files.orderable import Orderable
from seqalign.files.states import InputState, match_all
from seqalign.files.structure import Structure, StructureError, read_structure
from seqalign.registry import build_method, call, card, draws_images, parameters, takers
from seqalign.space.constraint import Constraint, ConstraintError
from seqalign.space.space import DesignSpace
from seqalign.space.whole import Whole

__all__ = ["Model", "load_method", "load_model", "load_reward"]


# how a structure is read, if its file is given
_READING = ("chains", "context", "numbering", "map", "ignore", "fill")


@dataclass(frozen=True)
class Model:
    """A pretrained process together with what may be designed.

    Attributes:
        name: the model's name.
        process: the reverse diffusion; with letters, it has as many steps as the space needs.
        space: hard constraints on letters; None where there are no letters, or no constraints.
        card: what the model's card says.
        params: parameters the model was built with.
        structure: the backbone it designs for, if it does; of several the first.
        states: the backbones, where one sequence is designed for several.
        state_weights: of each in the prior.
    """

    name: str
    process: Process
    space: DesignSpace | None
    card: Mapping[str, Any]
    params: Mapping[str, Any]
    structure: Structure | None = None
    states: tuple[InputState, ...] = ()
    state_weights: tuple[float, ...] = ()

    @classmethod
    def of(cls, process: Any, space: DesignSpace | None = None) -> Model:
        """Wrap a process at hand; a model, which has a space of its own, stays what it is."""
        if isinstance(process, cls):
            if space is not None:
                raise SpecError(
                    f"The model {process.name!r} has a design space of its own. Give space with a "
                    "bare process, or constraints to load_model."
                )
            return process
        missing = [a for a in ("posterior", "transition", "decode") if not hasattr(process, a)]
        if missing:
            raise SpecError(
                f"{type(process).__name__} is no model: it has no {missing[0]}. Give what "
                "load_model returns, a process, or wrap a diffusers pipeline first: "
                "seqalign.models.pipelines.from_pipeline(pipeline, prompt='...')."
            )
        return cls(str(getattr(process, "name", type(process).__name__)), process, space, {}, {})

    @property
    def wild_type(self) -> str | None:
        """The sequence that mutations are counted from."""
        return None if self.space is None else self.space.wild_type

    @property
    def numbering(self) -> Numbering | None:
        """What positions are called; None without letters."""
        if self.space is None:
            return None
        return self.space.numbering or Numbering.plain(self.space.length)

    @property
    def residues(self) -> tuple[str, ...]:
        """Names of the L positions: author numbers, with the chain if several."""
        numbering = self.numbering or Numbering((), ())
        if len(set(numbering.chains)) == 1:
            return numbering.numbers
        return tuple(numbering.name(i) for i in range(1, len(numbering) + 1))

    @cached_property
    def orderable(self) -> Orderable | None:
        """How designs are printed as the chains a gene is ordered from; None without letters."""
        if self.space is None or self.numbering is None:
            return None
        mask, ties = self.space.alphabet.mask_symbol, self.space.blocks
        return Orderable.of(self.space.fixed, self.numbering, self.structure, ties, mask)

    @cached_property
    def whole(self) -> Whole | None:
        """What judges designs with the letters beside their positions; None where all are one."""
        if self.space is None or self.structure is None or self.numbering is None:
            return None
        mask = self.space.alphabet.mask_symbol
        apart = Orderable.of(self.space.fixed, self.numbering, self.structure, mask=mask)
        return Whole.of(self.space, apart)

    def violations(self, positions: str) -> list[str]:
        """Return one sentence per constraint that the letters of all positions break."""
        if self.space is None:
            return []
        more = [] if self.whole is None else self.whole.violations(positions)
        return [*self.space.violations(positions), *more]

    @property
    def chains(self) -> tuple[int, ...]:
        """Lengths of the chains that the model sees, in order."""
        chains = self.numbering.chains if self.numbering else ()
        return tuple(len(list(run)) for _, run in groupby(chains))

    @property
    def prompts(self) -> tuple[str, ...] | None:
        """What is asked for, in words; None without text."""
        prompts: tuple[str, ...] | None = getattr(self.process, "prompts", None)
        return prompts

    @property
    def conditions(self) -> int:
        """The number of prompts, 1 without text: each is an island of its own, or several."""
        return 1 if self.prompts is None else len(self.prompts)

    @property
    def steps(self) -> int:
        """Steps of the process."""
        return len(self.process.times) - 1

    @property
    def calls(self) -> int:
        """Visits of the network that one unguided design takes."""
        if self.space is None or not isinstance(self.process, MaskedProcess):
            return self.steps
        return self.space.reveals

    def one(self, condition: int) -> Process:
        """Return the process of one prompt, by its row."""
        return self.process if self.prompts is None else self.process.take([condition])


def load_model(
    name: str | Process,
    /,
    *,
    wild_type: str | None = None,
    design: str | Sequence[int | str] | None = None,
    fix: str | Sequence[int | str] | Mapping[int | str, str] = "",
    constraints: Sequence[Constraint] = (),
    steps: int | None = None,
    states: Sequence[str | Path | Structure] = (),
    state_weights: Sequence[float] | None = None,
    **params: Any,
) -> Model:
    """Return a model, of sequences with its design space.

    The model is named, or a process at hand, which takes no `params`.

    An image model takes `prompt` or `prompts` and what else its factory does, and none of the
    arguments about letters.

    Residues are named as in the structure ("A1-56, not A30"), or count from 1 where there is none.
    Positions the model knows nothing about, and chains that are only seen, keep the wild type
    unless `design` names them. Every installed constraint is a keyword, with the value it has in a
    campaign: `max_mutations=8, residues={"A9": {"allow": "ILV"}}`; or give objects as
    `constraints`. A model of backbones reads `structure` as `read_structure` does, with its
    arguments chains, context, numbering, map, ignore and fill. One sequence for several backbones:
    give `states` instead, all read alike, or each with `read_structure`; the prior is the product
    of their posteriors to the power of `state_weights`, 1 / n each by default, and the first one
    names the residues (`seqalign.core.states`). Order "random" gets one step per
    free position unless `steps` is given; what else is given goes to the model.

    Raises:
        SpecError: the name or a parameter is unknown, or does not fit the kind of model.
        ConstraintError: the constraints cannot be met, or leave nothing to design.
    """
    own = None
    if not isinstance(name, str):
        own, name = name, str(getattr(name, "name", type(name).__name__))
    known = [] if own is not None else parameters("model", name)
    named = {k: params.pop(k) for k in names("constraint") if k in params and k not in known}
    letters: dict[str, Any] = {"wild_type": wild_type, "design": design, "fix": fix}
    letters |= {"constraints": constraints, **named}
    if draws_images(name) if own is None else not own.discrete:
        return _image_model(name, own, letters, steps, params)
    if wild_type is not None and "wild_type" in known:
        params["wild_type"] = wild_type
    structure, seen = None, tuple[InputState, ...]()
    if states or state_weights is not None:
        seen = _states(f"The model {name!r}", "model", known, states, params)
        structure = params["structure"] = seen[0].structure
    elif "structure" in known and params.get("structure") is not None:
        structure = params["structure"] = _structure(params["structure"], _reading(params))
    reading = (*_READING, "states") if "structure" in known else ()
    more = [*names("constraint"), "design", "fix", *reading]
    process = _process(name, own, params, more)
    if seen:
        others = [_process(name, own, {**params, "structure": s.structure}) for s in seen[1:]]
        process = _product(name, [process, *others], seen, state_weights)
    if getattr(process, "discrete", True) is False:
        # a plugin whose signature does not tell
        return _image_model(name, own, letters, steps, params)
    if not isinstance(process, (MaskedProcess, UniformProcess)):
        raise SpecError(
            f"The model {name!r} is a {type(process).__name__}; sequence design needs a "
            "MaskedProcess or a UniformProcess."
        )
    wild_type = wild_type or getattr(process, "wild_type", None)
    length = process.length
    if structure is not None and wild_type and len(wild_type) != length:
        # chain by chain, with the letters that no design changes
        whole = Orderable.of(structure.wild_type, structure.known_numbering, structure)
        try:
            wild_type = whole.letters(wild_type)
        except ValueError as error:
            said = f"The wild type {error}; copies of a chain have theirs, too."
            raise ConstraintError(said, ("wild_type",)) from error
    numbering = getattr(process, "numbering", None) or Numbering.plain(length)
    wanted, keep = design, getattr(process, "keep", "")
    if wanted is None and keep:
        kept = set(numbering.positions(keep, "keep"))
        wanted = [numbering.name(i) for i in range(1, length + 1) if i not in kept]
    space = DesignSpace.build(
        process.alphabet,
        length,
        wild_type=wild_type,
        design=wanted,
        fix=fix,
        constraints=constraints,
        numbering=numbering,
        **named,
    )
    if not space.free:
        raise ConstraintError(
            f"Nothing is left to design: all {length} positions are fixed. Free some with design, "
            "or fix fewer.",
            ("fix" if fix else "design",),
        )
    _seen_everywhere(seen, space)
    order = getattr(process, "order", None)
    if isinstance(process, MaskedProcess):
        process = replace(process, bias=space.bias, blocks=space.blocks)
    elif space.bias is not None:
        raise ConstraintError(
            f"{name!r} is a UniformProcess; a bias is for masked models. Drop it.", ("residues",)
        )
    # tied positions are revealed together, in one step
    if steps is None and order == "random":
        steps = space.reveals
    if steps is not None:
        if order == "random" and steps < space.reveals:
            raise SpecError(
                f"steps = {steps} is too few: order 'random' reveals one position per step and "
                f"{space.reveals} are free. Leave steps out, or set steps >= {space.reveals}.",
                ("steps",),
            )
        process = replace(process, steps=steps)
    about = card("model", name) if own is None else {}
    weights = _weights(seen, state_weights)
    model = Model(name, process, space, about, dict(params), structure, seen, weights)
    # what no design can obey is said now
    _ = model.whole
    return model


def _reading(params: dict[str, Any]) -> dict[str, Any]:
    """Take out of parameters how a structure is read."""
    return {k: params.pop(k) for k in _READING if k in params}


def _structure(given: Any, how: Mapping[str, Any]) -> Structure:
    """Return a structure, read as is said if it is a file."""
    if isinstance(given, Structure) and how:
        key = next(iter(how))
        raise SpecError(
            f"The structure {given.name} is read already; give {key} to read_structure, or give "
            "the file here.",
            (key,),
        )
    return read_structure(given, **how)


def _states(
    what: str,
    kind: Literal["model", "reward"],
    known: Sequence[str],
    states: Sequence[Any],
    params: dict[str, Any],
) -> tuple[InputState, ...]:
    """Return the structures that one sequence is for, each matched to the first."""
    if "structure" not in known:
        raise SpecError(
            f"{what} does not look at a structure, and states are several. Those that do: "
            f"{', '.join(takers(kind, 'structure'))}.",
            ("states",),
        )
    if params.pop("structure", None) is not None:
        raise SpecError(
            f"{what} is given structure and states. Give one of them; the first of the states "
            "names the residues.",
            ("states",),
        )
    if isinstance(states, (str, Path, Structure)):
        raise SpecError(f"{what}: states is a list of structures. Give two or more.", ("states",))
    how = _reading(params)
    bare = [s.structure if isinstance(s, InputState) else s for s in states]
    try:
        return match_all([_structure(s, how) for s in bare])
    except StructureError as error:
        raise SpecError(str(error), ("states",)) from error


def _weights(states: Sequence[InputState], given: Sequence[float] | None) -> tuple[float, ...]:
    """Return the exponents of the states in the prior."""
    return tuple(given or (1 / len(states) for _ in states))


def _placed(state: InputState) -> Placed:
    return Placed(state.at, PROTEIN.encode([state.structure.wild_type])[0])


def _product(
    name: str,
    processes: Sequence[Any],
    states: Sequence[InputState],
    weights: Sequence[float] | None,
) -> MaskedProcess:
    """Return the process of all states."""
    for made, state in zip(processes, states, strict=True):
        positions = len(state.structure.known)
        if getattr(made, "length", None) != positions:
            raise SpecError(
                f"The model {name!r} has no position for each of the {positions} residues of "
                f"{state.structure.name}, which states need.",
                ("states",),
            )
    try:
        return product(processes, weights, [_placed(state) for state in states])
    except ValueError as error:
        raise SpecError(str(error), ("states",)) from error


def _seen_everywhere(states: Sequence[InputState], space: DesignSpace) -> None:
    """Refuse to design a residue about which a state cannot say anything."""
    mask, names = space.alphabet.mask_symbol, space.numbering or Numbering.plain(space.length)
    for state in states[1:]:
        gone = [i + 1 for i, a in enumerate(space.fixed) if a == mask and int(state.at[i]) < 0]
        if gone:
            listed = names.names(gone) if isinstance(names, Numbering) else str(gone[0])
            raise ConstraintError(
                f"{listed} of {states[0].structure.name} "
                f"{'is' if len(gone) == 1 else 'are'} to be designed, and {state.structure.name} "
                "has no such residue with a letter and a whole backbone, so this state cannot "
                f"judge it. Keep it (fix: {listed}), or complete that structure.",
                ("fix",),
            )


def _process(
    name: str, own: Process | None, params: Mapping[str, Any], more: Sequence[str] = ()
) -> Any:
    """Return the process at hand, or the one of a name."""
    if own is None:
        return call(f"The model {name!r}", load("model", name), params, name, more)
    if params:
        key = next(iter(params))
        raise SpecError(f"The process {name!r} is built: {key} is set where it is made.", (key,))
    return own


def _image_model(
    name: str,
    own: Process | None,
    letters: Mapping[str, Any],
    steps: int | None,
    params: Mapping[str, Any],
) -> Model:
    """Build a continuous model; what speaks of letters is refused."""
    wrong = [k for k, v in letters.items() if v is not None and v not in ("", (), [], {})]
    if wrong:
        raise SpecError(
            f"The model {name!r} draws images, and {wrong[0]} is about the letters of sequences. "
            "Leave it out.",
            (wrong[0],),
        )
    given = dict(params) if steps is None else {**params, "steps": steps}
    process = _process(name, own, given)
    if getattr(process, "discrete", True) or not hasattr(process, "posterior"):
        raise SpecError(f"The model {name!r} made a {type(process).__name__}, no image process.")
    return Model(name, process, None, card("model", name) if own is None else {}, given)


def load_method(name: str, /, **params: Any) -> Method:
    """Return a method by name: `load_method("das", alpha=0.3, tempering="adaptive")`."""
    return build_method(name, params)


def load_reward(
    name: str,
    /,
    *,
    states: Sequence[str | Path | Structure | InputState] = (),
    over: Over | int = "mean",
    **params: Any,
) -> Reward:
    """Return a reward by name; one of a backbone reads `structure` as `load_model` does.

    With `states` (of `load_model`, or `Model.states`) it is one reward per backbone, and `over`
    says what becomes of them: their mean, sum or min, the difference of the first and the highest
    of the others, or the one of a single state, counted from 1.

    Raises:
        SpecError: the name or a parameter is unknown, or does not fit.
    """
    known = parameters("reward", name)
    what = f"The reward {name!r}"
    if states:
        seen = _states(what, "reward", known, states, params)
        return _over_states(what, name, seen, over, params)
    if over != "mean":
        raise SpecError(f"{what}: over is about several structures. Give states too.", ("over",))
    if "structure" in known and params.get("structure") is not None:
        params["structure"] = _structure(params["structure"], _reading(params))
    return _reward(what, name, params)


def _reward(what: str, name: str, params: Mapping[str, Any]) -> Reward:
    made = call(what, load("reward", name), params, name)
    if not isinstance(made, Reward):
        raise SpecError(f"{what} made a {type(made).__name__}, not a Reward.")
    return made


def _over_states(
    what: str, name: str, states: Sequence[InputState], over: Over | int, params: Mapping[str, Any]
) -> Reward:
    """Return one reward of the rewards in each state."""
    numbered = isinstance(over, int) and not isinstance(over, bool)
    if over not in OVER and not (numbered and 1 <= int(over) <= len(states)):
        raise SpecError(
            f"{what}: over is {over!r}. Give one of {', '.join(OVER)}, or the number of a state, "
            f"1 to {len(states)}.",
            ("over",),
        )
    rewards = []
    for state in states if over in OVER else [states[int(over) - 1]]:
        made, placed = _reward(what, name, {**params, "structure": state.structure}), _placed(state)
        rewards.append(made if placed.same else InState(made, placed))
    return OverStates(tuple(rewards), over) if over in OVER else rewards[0]
