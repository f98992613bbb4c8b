"""The schema of a campaign: every key, its type and its default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from seqalign.core.callables import OnFailure
from seqalign.space.constraint import ConstraintError
from seqalign.space.installed import keys, schema


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, strict=True)


class StateSpec(_Strict):
    """One structure of several; what is not said of how it is read is as `input` says."""

    structure: str
    chains: list[str] | None = Field(default=None, min_length=1)
    context: list[str] | None = Field(default=None, min_length=1)
    map: dict[str, str] | None = None
    ignore: list[str] | None = None
    weight: float | None = Field(default=None, gt=0, allow_inf_nan=False)


def _state(given: Any) -> Any:
    return {"structure": given} if isinstance(given, str) else given


class InputSpec(_Strict):
    """What is given: a backbone or several, a wild type, prompts, or nothing but the model's own.

    `states` are structures that one sequence is designed for: the prior is the product of their
    posteriors to the power of their weights, 1 / n each by default; the first names the residues.
    """

    structure: str | None = None
    states: list[Annotated[StateSpec, BeforeValidator(_state)]] = Field(default_factory=list)
    numbering: Literal["author", "label", "index"] = "author"
    chains: list[str] | None = Field(default=None, min_length=1)
    context: list[str] | None = Field(default=None, min_length=1)
    map: dict[str, str] = Field(default_factory=dict)
    ignore: list[str] = Field(default_factory=list)
    fill: Literal["none", "gaps", "seqres"] = "none"
    wild_type: str = "model"
    prompts: str | list[str] | None = None
    negative_prompt: str | None = None


class DesignSpec(_Strict):
    """Which residues may change, in the residue language."""

    residues: str | int | list[str | int] | None = None
    fix: str | int | list[str | int] | dict[str, str] = ""
    proteinmpnn: dict[str, str] = Field(default_factory=dict)


def _constraints(given: Any) -> Any:
    """Return constraints by key, each checked by its own schema; what is not said is left out."""
    if not isinstance(given, Mapping):
        return given
    there = {key: value for key, value in given.items() if value is not None}
    try:
        model = schema(key for key in there if key in keys())
    except ConstraintError as error:
        said = PydanticCustomError("constraint", "{said}", {"said": str(error)})
        raise ValidationError.from_exception_data(
            "Constraints", [{"type": said, "loc": error.path, "input": None}]
        ) from error
    return model.model_validate(there).model_dump(exclude_none=True, exclude_unset=True)


# hard constraints by key, as plain values: what is installed decides which there are
Constraints = Annotated[dict[str, Any], BeforeValidator(_constraints)]


class ModelSpec(_Open):
    """A model by name, or a process in a file; what is not listed goes to the model."""

    name: str
    python: str | None = None
    steps: int | None = Field(default=None, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        """Call a process of a file by its place there."""
        if not isinstance(given, dict) or not isinstance(given.get("python"), str):
            return given
        if given.get("name", given["python"]) != given["python"]:
            raise ValueError("give one of name and python, not both")
        return {**given, "name": given["python"]}


class RewardSpec(_Strict):
    """A reward: exactly one of oracle, python, command.

    Of several input.states, `states` says what becomes of the rewards in each: mean (the default),
    sum, min, difference (the first less the highest of the others), or the number of one, from 1.
    """

    oracle: str | None = None
    python: str | None = None
    command: str | None = None
    weight: float = Field(default=1.0, allow_inf_nan=False)
    scale: Literal["none", "zscore"] = "none"
    clip: list[float | None] | None = Field(default=None, min_length=2, max_length=2)
    role: Literal["guide", "final", "holdout"] = "guide"
    on_failure: OnFailure = "raise"
    unit: str = ""
    states: Literal["mean", "sum", "min", "difference"] | int | None = None
    params: dict[str, Any] = Field(default_factory=dict)


class SamplerSpec(_Open):
    """A method by name; what is not listed goes to the method.

    Islands are those of the run, or, with prompts, of each prompt; with `budget.designs` the most
    that sequences may take.
    """

    name: str = "das"
    islands: int | None = Field(default=None, ge=1)
    particles: int = Field(default=64, ge=1)


class BudgetSpec(_Strict):
    """Limits.

    `designs` is how many different sequences a run shall find: draws from the target law, at least
    `select.diversity.min_mutations_apart` apart, that pass every filter. Islands are drawn one by
    one until so many are there, and all are kept, or the `select.top` of them. There are at most
    `sampler.islands`, or without it eight times those that would do if no particle were lost, and
    never more than `calls` allow; then the run says how far it came, and why. Of images, which
    never come twice, it is how many are drawn. `calls` are the most of "network" and of each
    reward.
    """

    designs: int | None = Field(default=None, ge=1)
    calls: dict[str, int] = Field(default_factory=dict)


class DiversitySpec(_Strict):
    """How far selected designs must be apart."""

    min_mutations_apart: int = Field(default=0, ge=0)


class SelectSpec(_Strict):
    """What is kept; with prompts, `top` of each."""

    filters: list[str] = Field(default_factory=list)
    rank_by: str = "total"
    diversity: DiversitySpec = DiversitySpec()
    top: int | None = Field(default=None, ge=1)


class OutputSpec(_Strict):
    """Where results go, and whether designs that are kept get their log-likelihoods."""

    dir: str = "runs"
    likelihoods: bool = True
    fasta_style: Literal["mpnn", "plain"] = "mpnn"


class Campaign(_Strict):
    """The whole file."""

    version: Literal[1]
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)
    seed: int = Field(default=0, ge=0)
    input: InputSpec = InputSpec()
    design: DesignSpec = DesignSpec()
    constraints: Constraints = Field(default_factory=dict)
    model: ModelSpec
    rewards: dict[str, RewardSpec] = Field(min_length=1)
    sampler: SamplerSpec = SamplerSpec()
    baselines: list[str] = Field(default_factory=lambda: ["unguided", "best_of_n"])
    budget: BudgetSpec = BudgetSpec()
    select: SelectSpec = SelectSpec()
    output: OutputSpec = OutputSpec()
