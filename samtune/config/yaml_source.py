"""Reading YAML so that every error can name the file, the line, the dotted key, the rule and the value."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from samtune.config.base import Config
from samtune.errors import SpaceError, one_line


class _Loader(yaml.SafeLoader):
    """Safe YAML with the two things people expect of it: 1e-4 is a number, and a key stands once."""


# YAML 1.1, which PyYAML reads, takes 1e-4 (no dot) for a string; YAML 1.2 and everybody else for a number.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)$"),
    list("-+.0123456789"),
)


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    result: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node)
        try:
            known = key in result
        except TypeError:
            raise yaml.constructor.ConstructorError(
                None, None, "a key must be plain text", key_node.start_mark
            ) from None
        if known:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", key_node.start_mark)
        result[key] = loader.construct_object(value_node, deep=True)
    return result


_Loader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)


@dataclass(frozen=True)
class Source:
    """Where a configuration came from: a name for messages, and the line of each key in the file.

    `overrides` are the dotted keys that were set over what the file says: no line of it is to blame for them. What was
    not set with `--set` but with an option of its own is in `options`, by key.
    """

    name: str
    lines: Mapping[tuple[str, ...], int] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    relocate: Callable[[tuple[str, ...]], tuple[str, ...]] = tuple
    """From the path of a value in what is validated to its path in what was written."""

    def overridden_by(self, keys: Iterable[str]) -> Source:
        """The same source with dotted keys set over it."""
        return replace(self, overrides=(*self.overrides, *keys))

    def with_options(self, options: Mapping[str, str]) -> Source:
        """The same source, with the options that stand for keys that are set over it."""
        return replace(self, options={**self.options, **options})

    def written_as(self, relocate: Callable[[tuple[str, ...]], tuple[str, ...]]) -> Source:
        """The same source for a form of it whose paths `relocate` takes back to those in the file."""
        return replace(self, relocate=relocate)

    def error(self, key: Iterable[str | int] | str, problem: str) -> SpaceError:
        """An error about the value at `key` (a path, or a dotted key)."""
        path = tuple(key.split(".")) if isinstance(key, str) else tuple(str(part) for part in key)
        path = self.relocate(path)
        if any(".".join(path[:n]) in self.overrides for n in range(1, len(path) + 1)):
            key = ".".join(path)
            return SpaceError(f"{self.name} with {self.options.get(key, f'--set {key}')}: {problem}")
        line = next((self.lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.lines), None)
        where = self.name if line is None else f"{self.name}:{line}"
        return SpaceError(f"{where}: {'.'.join(path)}: {problem}" if path else f"{where}: {problem}")


def parse_yaml(text: str, name: str) -> tuple[Any, Source]:
    """Parses YAML text.

    Returns:
        The data, and the source whose lines are those of its keys.

    Raises:
        SpaceError: the text is not valid YAML; names line and column.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        data = None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise SpaceError(f"{where}: not valid YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise SpaceError(f"{name}: not valid YAML: {one_line(error)}") from error
    finally:
        loader.dispose()
    lines: dict[tuple[str, ...], int] = {}
    _collect_lines(node, (), lines)
    return data, Source(name, lines)


def _collect_lines(node: yaml.Node | None, path: tuple[str, ...], lines: dict[tuple[str, ...], int]) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            # Searched keys are dotted themselves (`search: {training.lr: …}`), so paths are kept split at dots.
            inner = (*path, *str(key.value).split("."))
            lines[inner] = key.start_mark.line + 1
            _collect_lines(value, inner, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*path, str(index))] = item.start_mark.line + 1
            _collect_lines(item, (*path, str(index)), lines)


def parse_value(text: str) -> Any:
    """Parses the right-hand side of `--set key=value` as YAML, e.g. `1e-3`, `true`, `[0.1, 0.2]`."""
    return yaml.load(text, Loader=_Loader)


def did_you_mean(word: str, options: Iterable[str], otherwise: str | None = None) -> str:
    """`; did you mean 'x'?`, or when none is near, the list of options or what is given for it."""
    options = list(options)
    near = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    if otherwise is not None:
        return f"; {otherwise}"
    return f"; valid are {', '.join(options)}" if options else ""


def translate(error: ValidationError, config: type[Config], raw: Any, source: Source, prefix: str = "") -> SpaceError:
    """Turns pydantic's report into one line about the first problem, in the words of the YAML's author."""
    path, problem = explain(error, config, raw)
    return source.error((*(prefix.split(".") if prefix else ()), *path), problem)


def explain(error: ValidationError, config: type[Config], raw: Any) -> tuple[tuple[str, ...], str]:
    """The path of the first problem in pydantic's report, as its author wrote it, and the problem in our words."""
    reports = error.errors(include_url=False)
    details = reports[0]
    path, key_options, value = _author_path(details["loc"], config, raw)
    # The members of a plain union (a number, or one of some words) each report that they do not match.
    alike = [report for report in reports if _author_path(report["loc"], config, raw)[0] == path]
    more = len(reports) - len(alike)
    if len(alike) > 1 and not any(report["type"] == "space_rule" for report in alike):
        problem = f"{' or '.join(dict.fromkeys(map(rule_of, alike)))} (got {value!r})".replace(" or must be", ", or")
    else:
        problem = _problem(details, path, key_options, value)
    if key := details.get("ctx", {}).get("key"):
        path = tuple(str(key).split("."))
    if more:
        problem += f" (and {more} more problem{'s' if more > 1 else ''})"
    return path, problem


def _problem(details: ErrorDetails, path: tuple[str, ...], key_options: list[str], value: Any) -> str:
    kind, context = details["type"], details.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown key{did_you_mean(path[-1], key_options)}"
    if kind == "missing":
        return "is required"
    if kind == "union_tag_not_found":
        return "needs a name, e.g. {name: …}"
    if kind == "union_tag_invalid":
        tags = re.findall(r"'([^']*)'", str(context.get("expected_tags", "")))
        return f"unknown name {context.get('tag')!r}{did_you_mean(str(context.get('tag')), tags)}"
    if kind == "literal_error":
        options = re.findall(r"'([^']*)'", str(context.get("expected", "")))
        return f"{rule_of(details)} (got {value!r}{did_you_mean(str(value), options) if options else ''})"
    if kind in ("value_error", "space_rule"):  # our own rules state the value themselves
        return rule_of(details)
    return f"{rule_of(details)} (got {value!r})"


def rule_of(details: ErrorDetails) -> str:
    """The broken rule in our words: `must be greater than 0`."""
    if details["type"] in ("model_type", "model_attributes_type"):
        return "must be a mapping of keys to values"
    message = details["msg"].removeprefix("Value error, ")
    return (message[:1].lower() + message[1:]).replace("input should", "must")


def _author_path(loc: tuple[int | str, ...], config: type[Config], raw: Any) -> tuple[tuple[str, ...], list[str], Any]:
    """The path as the author wrote it (pydantic adds the tags of unions), the keys valid there, and the value."""
    path: list[str] = []
    annotation: Any = config
    value, options = raw, list(fields_of(config))
    for part in loc:
        owner = config_class(annotation, value)
        fields = fields_of(owner) if owner else {}
        if (isinstance(value, Mapping) and part in value) or part in fields:
            options = list(fields)
            annotation = fields[str(part)].annotation if part in fields else None
            value = value.get(part) if isinstance(value, Mapping) else None
            path += str(part).split(".")
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value, annotation = value[part], _item_annotation(annotation)
            path.append(str(part))
        # Anything else is the tag of a union, which the author never wrote.
    return tuple(path), options, value


def config_class(annotation: Any, raw: Any = None) -> type[Config] | None:
    """The config class an annotation stands for; of a union, the one whose `name` the raw mapping gives."""
    classes = list(config_classes(annotation))
    if len(classes) <= 1:
        return classes[0] if classes else None
    name = raw.get("name") if isinstance(raw, Mapping) else None
    fallback = next((cls for cls in classes if ":" in str(name) and not names_of(cls)), None)
    return next((cls for cls in classes if name in names_of(cls)), fallback)


def fields_of(config: type[Config]) -> dict[str, FieldInfo]:
    """The fields of a config class by their names in the YAML (`lambda`, which cannot be a name in Python)."""
    return {field.alias or name: field for name, field in config.model_fields.items()}


def _item_annotation(annotation: Any) -> Any:
    """What an item of a sequence is, where all are alike."""
    origin = get_origin(annotation)
    if origin is typing.Annotated:
        return _item_annotation(get_args(annotation)[0])
    return get_args(annotation)[0] if origin in (list, tuple) else None


def config_classes(annotation: Any) -> Iterable[type[Config]]:
    """All config classes in an annotation (through Annotated, unions and Optional)."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        yield annotation
    elif get_origin(annotation) in (typing.Annotated, typing.Union, types.UnionType):
        for argument in get_args(annotation):
            yield from config_classes(argument)


def names_of(config: type[Config]) -> tuple[str, ...]:
    """The values of the `name` that selects this class in a union; empty where it has none."""
    name = config.model_fields.get("name")
    return get_args(name.annotation) if name is not None and get_origin(name.annotation) is Literal else ()
