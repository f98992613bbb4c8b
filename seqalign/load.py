"""Load a model, a reward or a method by name; a model also around a process at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Any

from seqalign.core.discrete import MaskedProcess, UniformProcess
from seqalign.core.method import Method
from seqalign.core.objective import Reward
from seqalign.core.process import Process
from seqalign.entries import SpecError, load, names
from seqalign.files.numbering import Numbering
from seqalign.files.orderable import Orderable
from seqalign.files.structure import Structure, read_structure
from seqalign.registry import build_method, call, card, draws_images, parameters
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
        structure: the backbone it designs for, if it does.
    """

    name: str
    process: Process
    space: DesignSpace | None
    card: Mapping[str, Any]
    params: Mapping[str, Any]
    structure: Structure | None = None

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
    arguments chains, context, numbering, map, ignore and fill. Order "random" gets one step per
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
    structure = None
    if "structure" in known and params.get("structure") is not None:
        structure = params["structure"] = _structure(params)
    reading = _READING if "structure" in known else ()
    process = _process(name, own, params, [*names("constraint"), "design", "fix", *reading])
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
    model = Model(name, process, space, about, dict(params), structure)
    # what no design can obey is said now
    _ = model.whole
    return model


def _structure(params: dict[str, Any]) -> Structure:
    """Return the structure that parameters give, and take out how it is read."""
    given, how = params["structure"], {k: params.pop(k) for k in _READING if k in params}
    if isinstance(given, Structure) and how:
        key = next(iter(how))
        raise SpecError(
            f"The structure {given.name} is read already; give {key} to read_structure, or give "
            "the file here.",
            (key,),
        )
    return read_structure(given, **how)


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


def load_reward(name: str, /, **params: Any) -> Reward:
    """Return a reward by name; one of a backbone reads `structure` as `load_model` does."""
    known = parameters("reward", name)
    if "structure" in known and params.get("structure") is not None:
        params["structure"] = _structure(params)
    made = call(f"The reward {name!r}", load("reward", name), params, name)
    if not isinstance(made, Reward):
        raise SpecError(f"The reward {name!r} made a {type(made).__name__}, not a Reward.")
    return made
