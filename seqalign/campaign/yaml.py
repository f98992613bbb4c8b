"""A campaign file as text: YAML with the line of every key, and errors that name it.

YAML is read by the rules of version 1.2 (NO stays a string, 1e-3 is a number, 1:56 a string),
duplicate keys are errors, and every message names the file, the line, the key, the value and the
cure. Input is never repaired in silence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from seqalign.campaign.schema import Campaign
from seqalign.registry import names, nearest
from seqalign.space.installed import known, schema


class CampaignError(ValueError):
    """The campaign is wrong; the message names place, value and cure.

    Whatever is given a `Source` raises it.
    """


class _Yaml12(yaml.SafeLoader):
    """The core schema of YAML 1.2."""


_Yaml12.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+0123456789."),
    ),
):
    _regex = re.compile(f"^(?:{_pattern})$")
    _Yaml12.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _regex, _first)
# 010 is ten, not eight
_Yaml12.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))
_Yaml12.add_constructor(
    "tag:yaml.org,2002:float",
    lambda loader, node: float(re.sub(r"\.(?=inf|nan)", "", node.value.lower())),
)

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Source:
    """Where the values of a campaign come from.

    Attributes:
        file: name for messages.
        folder: what relative paths start from.
        lines: line of every key path.
        given: key paths set on the command line, with their text.
    """

    file: str
    folder: Path
    lines: Mapping[KeyPath, int]
    given: Mapping[KeyPath, str]

    def error(self, path: Sequence[str | int], message: str) -> CampaignError:
        """Return the error of a key path."""
        return CampaignError(self.place(path) + message)

    @contextmanager
    def blame(self, path: Sequence[str | int], *kinds: type[Exception]) -> Iterator[None]:
        """Give errors of some kinds that are raised inside the place of a key path."""
        try:
            yield
        except kinds as error:
            raise self.error(path, str(error)) from error

    def place(self, path: Sequence[str | int]) -> str:
        """Return "FILE:LINE: key.path: " of the nearest place that is written down."""
        path = tuple(path)
        key = ".".join(map(str, path))
        deeper = next((text for at, text in self.given.items() if at[: len(path)] == path), None)
        if deeper is not None and path not in self.lines:
            return f"--set {deeper}: {key}: "
        for n in range(len(path), -1, -1):
            if path[:n] in self.given:
                return f"--set {self.given[path[:n]]}: {key}: "
            if path[:n] in self.lines:
                return f"{self.file}:{self.lines[path[:n]]}: {key + ': ' if key else ''}"
        return f"{self.file}: {key + ': ' if key else ''}"


def _parse(text: str, file: str) -> tuple[Any, dict[KeyPath, int]]:
    """Return what a text says, and the line of every key path."""
    lines: dict[KeyPath, int] = {}

    def error(node: yaml.Node, message: str) -> CampaignError:
        return CampaignError(f"{file}:{node.start_mark.line + 1}: {message}")

    def construct(node: yaml.Node, path: KeyPath, open_: tuple[int, ...]) -> Any:
        lines.setdefault(path, node.start_mark.line + 1)
        if id(node) in open_ or len(lines) > 20_000:
            raise error(node, "an alias refers to itself, or too often. Write it out.")
        open_ = (*open_, id(node))
        if isinstance(node, yaml.SequenceNode):
            return [construct(n, (*path, i), open_) for i, n in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            try:
                return loader.construct_object(node)
            except (yaml.YAMLError, ValueError) as wrong:
                raise error(
                    node,
                    f"cannot read {str(node.value)[:60]!r}; write plain text, numbers, true, false "
                    "or null, without tags.",
                ) from wrong
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise error(key_node, "a key must be plain text, not a list or mapping.")
            key = str(key_node.value)
            here = (*path, key)
            if key in mapping:
                first = f"(first in line {lines[here]})"
                raise error(
                    key_node,
                    f"{'.'.join(map(str, here))}: the key is given twice {first}. Keep one.",
                )
            lines[here] = key_node.start_mark.line + 1
            mapping[key] = construct(value_node, here, open_)
        return mapping

    try:
        loader = _Yaml12(text)
        try:
            node = loader.get_single_node()
            return None if node is None else construct(node, (), ()), lines
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as wrong:
        line = f":{wrong.problem_mark.line + 1}" if wrong.problem_mark else ""
        raise CampaignError(
            f"{file}{line}: this is not YAML: {wrong.problem or wrong.context}. Check "
            "indentation, quotes and brackets."
        ) from wrong
    except (yaml.YAMLError, RecursionError) as wrong:
        why = str(wrong) or "nested too deeply"
        raise CampaignError(f"{file}: this is not YAML: {why}.") from wrong


_LATER: dict[KeyPath, str] = {
    ("data",): "measured data as input",
    ("budget", "minutes"): "a limit in minutes",
}


def _refuse_later(data: Any, source: Source) -> None:
    for path, what in _LATER.items():
        around = _at(data, path[:-1])
        if isinstance(around, Mapping) and path[-1] in around:
            now = version("seqalign")
            raise source.error(
                path, f"{what} cannot be done yet in version {now}. Remove this key."
            )


def _known_keys(path: KeyPath) -> tuple[str, ...]:
    """Return the keys the schema knows in the mapping at a path."""
    if path[:1] == ("constraints",):
        below = path[1:]
        return known(schema([str(below[0])]), below) if below else tuple(names("constraint"))
    return known(Campaign, path)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _path(loc: Sequence[str | int]) -> KeyPath:
    """Return the key path of a validation error, without what pydantic adds for its own types."""
    path = tuple(p for p in loc if not str(p).startswith(("function-", "list[", "dict[")))
    while path and path[-1] in ("str", "int", "float", "bool"):
        path = path[:-1]
    return path


def _at(data: Any, path: KeyPath) -> Any:
    for part in path:
        if isinstance(data, Mapping) and part in data:
            data = data[part]
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            return None
    return data


# what a key takes that may be one thing or another
_RESIDUES = "Write text, such as 'A1-5, 12', or a list of numbers."
_PROMPTS = "Write a list of texts, or the name of a file with one on each line."


def _sentence(error: Mapping[str, Any], source: Source) -> str:
    path = _path(error["loc"])
    kind, value = error["type"], error.get("input")
    place = source.place(path)
    if kind == "extra_forbidden":
        return f"{place}unknown key. {nearest(str(path[-1]), _known_keys(path[:-1]))}"
    if kind == "missing":
        return f"{place}this key is required and missing. Add it."
    if kind == "constraint":
        return f"{place}{error['msg']}"
    if kind == "literal_error":
        return f"{place}{_short(value)} is not allowed; choose {error['ctx']['expected']}."
    if kind == "string_pattern_mismatch":
        rule = "use letters, digits, '_', '-' and '.', beginning with a letter or digit"
        return f"{place}{_short(value)}: {rule}."
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"{place}{_short(value)} is not a mapping; write 'key: value' lines below it."
    if kind == "too_short" and path == ("rewards",):
        return f"{place}give at least one reward. Known: {', '.join(names('reward')) or 'none'}."
    return f"{place}{_short(value)} does not fit: {error['msg'][0].lower() + error['msg'][1:]}."


def read(path: str | Path, overrides: Sequence[str] = ()) -> tuple[Campaign, Source]:
    """Read a campaign file; `overrides` are texts such as "sampler.alpha=0.2".

    Raises:
        CampaignError: the file is missing, is not YAML, or does not fit the schema.
    """
    path = Path(path)
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError as error:
        raise CampaignError(
            f"{path}: there is no such file. Give the path of a campaign.yaml."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise CampaignError(f"{path}: cannot be read as text: {error}.") from error
    return parse(text, str(path), path.resolve().parent, overrides)


def parse(
    text: str, file: str, folder: Path, overrides: Sequence[str] = ()
) -> tuple[Campaign, Source]:
    """Return the campaign of a text that messages call `file`, with paths from a folder."""
    data, lines = _parse(text, file)
    given: dict[KeyPath, str] = {}
    source = Source(file, folder, lines, given)
    if not isinstance(data, dict):
        raise CampaignError(
            f"{file}: a campaign is a mapping that starts with 'version: 1', this is "
            f"{_short(data)}."
        )
    for item in overrides:
        key, equals, value = item.partition("=")
        parts = tuple(key.strip().split("."))
        if not equals or not all(parts):
            raise CampaignError(
                f"--set {item}: write key.path=value, for example sampler.alpha=0.2."
            )
        target = data
        for part in parts[:-1]:
            inner = target.setdefault(part, {})
            if not isinstance(inner, dict):
                raise CampaignError(
                    f"--set {item}: {part!r} is {_short(inner)}, which has no keys."
                )
            target = inner
        target[parts[-1]] = _parse(value, f"--set {item}")[0]
        given[parts] = item
    _refuse_later(data, source)
    try:
        return Campaign.model_validate(data), source
    except ValidationError as error:
        found: dict[KeyPath, list[str]] = {}
        for problem in error.errors():
            # a union complains once for each member
            found.setdefault(_path(problem["loc"]), []).append(_sentence(dict(problem), source))
        for at, some in found.items():
            if len(some) > 1:
                cure = _PROMPTS if at == ("input", "prompts") else _RESIDUES
                some[0] = f"{source.place(at)}{_short(_at(data, at))} does not fit. {cure}"
        raise CampaignError("\n".join([some[0] for some in found.values()][:8])) from error
