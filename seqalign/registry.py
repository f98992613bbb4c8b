"""Find rewards, models and methods by name, and build them from plain mappings.

Everything is found through entry points (groups `seqalign.rewards`, `seqalign.models` and
`seqalign.methods`) and imported only when it is used, so third parties plug in through the same
door as the package's own. What a name means is written in its card, `cards/<name>.yaml` beside the
module, which is read without importing the module.
"""

from __future__ import annotations

import difflib
import inspect
import reprlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.resources import files
from importlib.util import find_spec
from itertools import groupby
from typing import Any, Literal, Protocol, cast, get_args, get_origin, get_type_hints

import yaml
from torch import Tensor

from seqalign.core import potential, tempering, value
from seqalign.core.discrete import MaskedProcess
from seqalign.core.objective import Reward
from seqalign.core.particles import Particles, Samples
from seqalign.core.process import Process
from seqalign.core.proposal import Base, Tilted
from seqalign.core.selection import Resample
from seqalign.core.smc import Observe
from seqalign.core.streams import Streams
from seqalign.files.numbering import Numbering
from seqalign.space.constraint import Constraint, ConstraintError
from seqalign.space.space import DesignSpace

__all__ = [
    "ImageModel",
    "Kind",
    "Method",
    "Model",
    "SpecError",
    "build_method",
    "card",
    "describe",
    "draws_images",
    "entry",
    "load_method",
    "load_model",
    "load_reward",
    "names",
    "nearest",
    "parameters",
    "to_mapping",
]

Kind = Literal["reward", "model", "method", "constraint"]
_GROUPS: dict[str, str] = {kind: f"seqalign.{kind}s" for kind in get_args(Kind)}


class SpecError(ValueError):
    """A name, key or value is wrong; `path` says where, below what was being built."""

    def __init__(self, message: str, path: Sequence[str | int] = ()) -> None:
        """Keep the place beside the message."""
        super().__init__(message)
        self.path = tuple(path)


class Method(Protocol):
    """An alignment method: a frozen dataclass of hyper-parameters that can be called."""

    @property
    def alpha(self) -> float:
        """Temperature of the target, in units of the reward."""
        ...

    @property
    def consistent(self) -> bool:
        """Whether its weighted samples approach p*."""
        ...

    def __call__(
        self,
        process: Process,
        reward: Reward,
        shape: tuple[int, int],
        *,
        rng: Streams,
        space: DesignSpace | None = None,
        start: Particles | Tensor | None = None,
        observe: Observe | None = None,
    ) -> Samples:
        """Draw (B, K) designs."""
        ...


@dataclass(frozen=True)
class Model:
    """A pretrained process together with what may be designed.

    Attributes:
        name: the model's name.
        process: the reverse diffusion, with as many steps as the design space needs.
        space: hard constraints.
        card: what the model's card says.
        params: parameters the model was built with.
    """

    name: str
    process: MaskedProcess
    space: DesignSpace
    card: Mapping[str, Any]
    params: Mapping[str, Any]

    @property
    def wild_type(self) -> str | None:
        """The sequence that mutations are counted from."""
        return self.space.wild_type

    @property
    def residues(self) -> tuple[str, ...]:
        """Names of the L positions in mutations: author numbers, with the chain if several."""
        numbering = self.process.numbering or Numbering.plain(self.process.length)
        if len(set(numbering.chains)) == 1:
            return numbering.numbers
        return tuple(numbering.name(i) for i in range(1, len(numbering) + 1))

    @property
    def chains(self) -> tuple[int, ...]:
        """Lengths of the chains, in order; FASTA joins them by '/'."""
        numbering = self.process.numbering or Numbering.plain(self.process.length)
        return tuple(len(list(run)) for _, run in groupby(numbering.chains))


@dataclass(frozen=True)
class ImageModel:
    """A pretrained continuous process and what it is asked to draw.

    Attributes:
        name: the model's name.
        process: the reverse diffusion, with one prompt per row or without text.
        card: what the model's card says.
        params: parameters the model was built with.
    """

    name: str
    process: Process
    card: Mapping[str, Any]
    params: Mapping[str, Any]

    @classmethod
    def of(cls, process: Process) -> ImageModel:
        """Wrap a process that is at hand.

        Raises:
            SpecError: it is no continuous process.
        """
        missing = [a for a in ("posterior", "transition", "decode") if not hasattr(process, a)]
        if missing:
            raise SpecError(
                f"{type(process).__name__} is no model: it has no {missing[0]}. Give what "
                "load_model returns, or wrap a diffusers pipeline first: "
                "seqalign.models.pipelines.from_pipeline(pipeline, prompt='...')."
            )
        name = str(getattr(process, "name", type(process).__name__))
        if process.discrete:
            raise SpecError(
                f"{name!r} draws sequences, which need a design space: load it by name with "
                "load_model."
            )
        return cls(name, process, {}, {})

    @property
    def prompts(self) -> tuple[str, ...] | None:
        """What is drawn, in words; None without text."""
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

    def one(self, condition: int) -> Process:
        """Return the process of one prompt, by its row."""
        return self.process if self.prompts is None else self.process.take([condition])


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the end of an error: the nearest known word, and all known ones."""
    known = sorted(known)
    close = difflib.get_close_matches(str(word).lower(), [k.lower() for k in known], 1, 0.5)
    hint = f"Did you mean {next(k for k in known if k.lower() == close[0])!r}? " if close else ""
    return f"{hint}Known: {', '.join(known) or 'none'}."


@cache
def _scan(group: str, search_path: tuple[str, ...]) -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        found.setdefault(point.name, point)
    return dict(sorted(found.items()))


def _entries(kind: Kind) -> dict[str, EntryPoint]:
    return _scan(_GROUPS[kind], tuple(sys.path))


def names(kind: Kind) -> list[str]:
    """Return the names of all installed rewards, models or methods."""
    return list(_entries(kind))


def entry(kind: Kind, name: str) -> EntryPoint:
    """Return the entry point of a name.

    Raises:
        SpecError: the name is unknown; the message names the nearest one.
    """
    found = _entries(kind)
    if name not in found:
        raise SpecError(f"There is no {kind} {name!r}. {nearest(name, found)}")
    return found[name]


def _load(kind: Kind, name: str) -> Callable[..., Any]:
    point = entry(kind, name)
    try:
        return cast(Callable[..., Any], point.load())
    except ImportError as error:
        missing = getattr(error, "name", None) or point.module
        raise SpecError(
            f"The {kind} {name!r} ({point.value}) cannot be imported: {error}. Install what "
            f"provides {missing!r}, or "
            f"choose another {kind}: {', '.join(n for n in names(kind) if n != name)}."
        ) from error
    except AttributeError as error:
        raise SpecError(f"The {kind} {name!r} names {point.value}, which is not there.") from error


def card(kind: Kind, name: str) -> dict[str, Any]:
    """Return the card of a reward, model or method; without one, what its entry point tells."""
    point = entry(kind, name)
    if kind == "method":
        return _method_card(name)
    package = point.module
    parent = package.rpartition(".")[0]
    spec = find_spec(package) if not parent or find_spec(parent) else None
    if spec is None or spec.submodule_search_locations is None:
        package = parent
    if package:
        path = files(package).joinpath("cards", f"{name}.yaml")
        if path.is_file():
            try:
                data = yaml.safe_load(path.read_text("utf-8"))
            except yaml.YAMLError as error:
                raise SpecError(
                    f"The card of {kind} {name!r} ({path}) is no YAML: {error}"
                ) from error
            if isinstance(data, dict):
                return {"name": name, **data}
    return {"name": name, "entry_point": point.value}


def _method_card(name: str) -> dict[str, Any]:
    cls = _load("method", name)
    text = inspect.getdoc(sys.modules[cls.__module__]) or ""
    body, _, references = text.partition("References:")
    title, _, detail = body.strip().partition("\n\n")
    rules = {f.name: _plain(f.default) for f in fields(cast(Any, cls)) if f.init}
    return {
        "name": name,
        "summary": title,
        "detail": detail.strip(),
        "consistent": bool(getattr(cls, "consistent", False)),
        "parameters": rules,
        "references": " ".join(references.split()),
        "entry_point": entry("method", name).value,
    }


def describe(kind: Kind, name: str) -> str:
    """Return one line that says what a name is."""
    try:
        data = card(kind, name)
    except SpecError as error:
        return f"({error})".replace("\n", " ")
    for key in ("summary", "predicts", "description", "what", "title"):
        if data.get(key):
            return " ".join(str(data[key]).split())
    return str(data.get("entry_point", ""))


# building from mappings ---------------------------------------------------------------------------

_CHOICES: dict[str, dict[str, type]] = {
    "value": {
        "automatic": value.Automatic,
        "posterior_mean": value.PosteriorMean,
        "posterior_mode": value.PosteriorMode,
        "posterior_sample": value.PosteriorSample,
        "rollout": value.Rollout,
    },
    "tempering": {
        "constant": tempering.Constant,
        "linear": tempering.Linear,
        "geometric": tempering.Geometric,
        "adaptive": tempering.Adaptive,
    },
    "potential": {
        "difference": potential.Difference,
        "max": potential.Max,
        "sum": potential.Sum,
    },
    "proposal": {"base": Base, "tilted": Tilted},
}
# fields whose class is known, so that a mapping needs no name; a bare word sets the first field
_FIXED: dict[str, tuple[type, str]] = {
    "resample": (Resample, "scheme"),
    "tilt": (Tilted, "through"),
}


def _settable(cls: Any) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {f.name: hints[f.name] for f in fields(cls) if f.init and f.repr and f.name != "reward"}


def _scalar(hint: Any, given: Any, path: tuple[str, ...]) -> Any:
    """Check one plain value against its annotation; whole numbers may stand for floats."""
    options = get_args(hint) if get_origin(hint) is not None else (hint,)
    if get_origin(hint) is Literal:
        if given in options:
            return given
        raise SpecError(f"{given!r} is not allowed. {nearest(given, map(str, options))}", path)
    names_ = []
    for option in options:
        if option is type(None):
            names_.append("nothing")
            if given is None:
                return None
        elif get_origin(option) is Literal:
            names_.extend(repr(a) for a in get_args(option))
            if given in get_args(option):
                return given
        elif option is float:
            names_.append("a number")
            if isinstance(given, (int, float)) and not isinstance(given, bool):
                return float(given)
        elif isinstance(option, type):
            names_.append(
                {int: "a whole number", str: "text", bool: "true or false"}.get(
                    option, option.__name__
                )
            )
            if isinstance(given, option) and (option is bool or not isinstance(given, bool)):
                return given
    raise SpecError(f"{given!r} does not fit: give {' or '.join(names_)}.", path)


def _make(cls: type, given: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    known = _settable(cls)
    arguments: dict[str, Any] = {}
    for key, item in given.items():
        if key not in known:
            raise SpecError(f"{cls.__name__} has no {key!r}. {nearest(key, known)}", (*path, key))
        arguments[key] = _field(key, known[key], item, (*path, key))
    try:
        return cls(**arguments)
    except SpecError:
        raise
    except (TypeError, ValueError) as error:
        raise SpecError(str(error), path) from error


def _field(key: str, hint: Any, given: Any, path: tuple[str, ...]) -> Any:
    if is_dataclass(given) and not isinstance(given, type):
        return given
    if key in _FIXED:
        cls, first = _FIXED[key]
        mapping = given if isinstance(given, Mapping) else {first: given}
        return _make(cls, mapping, path)
    if key in _CHOICES:
        mapping = dict(given) if isinstance(given, Mapping) else {"name": given}
        if "name" not in mapping:
            raise SpecError(f"needs a name. {nearest('', _CHOICES[key])}", path)
        name = mapping.pop("name")
        if not isinstance(name, str) or name not in _CHOICES[key]:
            raise SpecError(f"{name!r} is no {key}. {nearest(str(name), _CHOICES[key])}", path)
        return _make(_CHOICES[key][name], mapping, path)
    return _scalar(hint, given, path)


def build_method(name: str, params: Mapping[str, Any]) -> Method:
    """Build a method from plain values: `tempering: adaptive` or `{name: adaptive, ess: 0.6}`.

    Raises:
        SpecError: the name or a parameter is unknown or does not fit; `path` says which.
    """
    cls = _load("method", name)
    known = _settable(cls)
    for key in params:
        if key not in known:
            raise SpecError(
                f"The method {name!r} has no parameter {key!r}. {nearest(key, known)}", (key,)
            )
    return cast(Method, _make(cast(type, cls), params, ()))


def load_method(name: str, /, **params: Any) -> Method:
    """Return a method by name: `load_method("das", alpha=0.3, tempering="adaptive")`."""
    return build_method(name, params)


def _plain(given: Any) -> Any:
    """Turn a strategy into a plain mapping."""
    if given is MISSING:
        return None
    if not is_dataclass(given):
        return given
    known = _settable(type(given))
    mapping = {key: _plain(getattr(given, key)) for key in known}
    for choices in _CHOICES.values():
        for name, cls in choices.items():
            if type(given) is cls and not isinstance(given, Tilted):
                return {"name": name, **mapping}
    return mapping


def to_mapping(method: Method) -> dict[str, Any]:
    """Turn a method back into the mapping that builds it, with every default; its name comes first.

    Raises:
        SpecError: the method is not registered.
    """
    for name, point in _entries("method").items():
        if point.value == f"{type(method).__module__}:{type(method).__qualname__}":
            mapping = {key: _plain(getattr(method, key)) for key in _settable(type(method))}
            if isinstance(getattr(method, "proposal", None), Tilted):
                mapping["proposal"] = {"name": "tilted", **mapping["proposal"]}
            return {"name": name, **mapping}
    raise SpecError(
        f"{type(method).__name__} is not a registered method. {nearest('', names('method'))}"
    )


def _call(
    kind: Kind,
    name: str,
    factory: Callable[..., Any],
    params: Mapping[str, Any],
    more: Sequence[str] = (),
) -> Any:
    """Call a factory after its signature has been compared with the parameters.

    `more` are names that would have been understood, too.
    """
    known = inspect.signature(factory).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in known.values()):
        for key in params:
            if key not in known:
                near = nearest(key, [*known, *more])
                raise SpecError(f"The {kind} {name!r} has no parameter {key!r}. {near}", (key,))
    for key, p in known.items():
        if (
            p.default is p.empty
            and key not in params
            and p.kind
            in (
                p.POSITIONAL_OR_KEYWORD,
                p.KEYWORD_ONLY,
            )
        ):
            raise SpecError(f"The {kind} {name!r} needs the parameter {key!r}.", (key,))
    try:
        return factory(**params)
    except ImportError as error:
        raise SpecError(f"The {kind} {name!r} lacks a package. {error}") from error
    except FileNotFoundError as error:
        cure = "" if error.errno is None else " Install the package again, or give its path."
        raise SpecError(f"The {kind} {name!r} misses a file: {error}{cure}") from error
    except Exception as error:
        # a plugin may fail in any way on values it did not expect; the cause stays attached
        given = ", ".join(f"{key}={reprlib.repr(value)}" for key, value in params.items())
        raise SpecError(
            f"The {kind} {name!r} cannot be built from ({given}): {type(error).__name__}: {error}"
        ) from error


def parameters(kind: Kind, name: str) -> list[str]:
    """Return the parameters a reward or model takes.

    Raises:
        SpecError: the name is unknown, or what it needs is not installed.
    """
    return list(inspect.signature(_load(kind, name)).parameters)


def draws_images(name: str) -> bool:
    """Return whether a model is a continuous one, as far as its signature tells.

    Raises:
        SpecError: the name is unknown, or what it needs is not installed.
    """
    factory = _load("model", name)
    signature = inspect.signature(factory)
    made = signature.return_annotation
    if isinstance(made, str):
        made = vars(sys.modules[factory.__module__]).get(made)
    discrete = getattr(made, "discrete", None)
    if isinstance(discrete, bool):
        return not discrete
    return bool({"prompt", "prompts"} & set(signature.parameters))


def load_reward(name: str, /, **params: Any) -> Reward:
    """Return a reward by name.

    Raises:
        SpecError: the name or a parameter is unknown, or what it needs is not installed.
    """
    made = _call("reward", name, _load("reward", name), params)
    if not isinstance(made, Reward):
        raise SpecError(f"The reward {name!r} made a {type(made).__name__}, not a Reward.")
    return made


def load_model(
    name: str,
    /,
    *,
    wild_type: str | None = None,
    design: str | Sequence[int | str] | None = None,
    fix: str | Sequence[int | str] | Mapping[int | str, str] = "",
    constraints: Sequence[Constraint] = (),
    steps: int | None = None,
    **params: Any,
) -> Model | ImageModel:
    """Return a `Model` of sequences by name, with its design space, or an `ImageModel`.

    An image model takes `prompt` or `prompts` and what else its factory does, and none of the
    arguments about letters.

    Residues are named as in the structure ("A1-56, not A30"), or count from 1 where there is none.
    Positions the model knows nothing about, and chains that are only seen, keep the wild type
    unless `design` names them. Every installed constraint is a keyword, with the value it has in a
    campaign: `max_mutations=8, residues={"A9": {"allow": "ILV"}}`; or give objects as
    `constraints`. Order "random" gets one step per free position unless `steps` is given; what
    else is given goes to the model.

    Raises:
        SpecError: the name or a parameter is unknown, or does not fit the kind of model.
        ConstraintError: the constraints cannot be met, or leave nothing to design.
    """
    factory = _load("model", name)
    known = inspect.signature(factory).parameters
    named = {k: params.pop(k) for k in names("constraint") if k in params and k not in known}
    letters = {
        "wild_type": wild_type,
        "design": design,
        "fix": fix,
        "constraints": constraints,
        **named,
    }
    if draws_images(name):
        return _image_model(name, factory, letters, steps, params)
    if wild_type is not None and "wild_type" in known:
        params["wild_type"] = wild_type
    process = _call("model", name, factory, params, names("constraint"))
    if getattr(process, "discrete", True) is False:
        # a plugin whose signature does not tell
        return _image_model(name, factory, letters, steps, params)
    if not isinstance(process, MaskedProcess):
        raise SpecError(
            f"The model {name!r} is a {type(process).__name__}; sequence design needs a "
            "MaskedProcess."
        )
    wild_type = wild_type or process.wild_type
    length = process.length
    numbering = process.numbering or Numbering.plain(length)
    wanted = design
    if wanted is None and process.keep:
        kept = set(numbering.positions(process.keep, "keep"))
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
    process = replace(process, bias=space.bias, blocks=space.blocks)
    # tied positions are revealed together, in one step
    if steps is None and process.order == "random":
        steps = space.reveals
    if steps is not None:
        if process.order == "random" and steps < space.reveals:
            raise SpecError(
                f"steps = {steps} is too few: order 'random' reveals one position per step and "
                f"{space.reveals} are free. "
                f"Leave steps out, or set steps >= {space.reveals}.",
                ("steps",),
            )
        process = replace(process, steps=steps)
    return Model(name, process, space, card("model", name), dict(params))


def _image_model(
    name: str,
    factory: Callable[..., Any],
    letters: Mapping[str, Any],
    steps: int | None,
    params: Mapping[str, Any],
) -> ImageModel:
    """Build a continuous model; what speaks of letters is refused."""
    wrong = [k for k, v in letters.items() if v is not None and v not in ("", (), [], {})]
    if wrong:
        raise SpecError(
            f"The model {name!r} draws images, and {wrong[0]} is about the letters of sequences. "
            "Leave it out.",
            (wrong[0],),
        )
    given = dict(params) if steps is None else {**params, "steps": steps}
    process = _call("model", name, factory, given)
    if getattr(process, "discrete", True) or not hasattr(process, "posterior"):
        raise SpecError(f"The model {name!r} made a {type(process).__name__}, no image process.")
    return ImageModel(name, process, card("model", name), given)
