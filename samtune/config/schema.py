"""The JSON Schema of a search space, with distributions wherever a value may stand."""

from __future__ import annotations

from typing import Any

from samtune.config.distributions import KINDS, Choice, LogInt, LogUniform
from samtune.config.field_texts import json_schema
from samtune.config.method import OTHER_NAMES
from samtune.config.sections import NAMED
from samtune.config.space import SearchSpace
from samtune.config.trial import OPEN_SECTION, SECTIONS

_SEARCHED = {"$ref": "#/$defs/Searched"}
_NAME = {"type": "string", "description": "Its name alone; all else is as by default."}
_NOT_WRITTEN = {"NoDataConfig": "data", "NoModelConfig": "model"}
_SHOWN = ("title", "description", "default")
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def space_schema() -> dict[str, Any]:
    """The schema that a search space's YAML follows."""
    schema = json_schema(SearchSpace)
    definitions, properties = schema["$defs"], schema["properties"]
    for section in SECTIONS:
        names = [name for name in _references(properties[section]) if name not in _NOT_WRITTEN]
        for name in names:
            _allow_searched(definitions[name])
        if section == OPEN_SECTION:
            continue
        options: list[dict[str, Any]] = [{"$ref": f"#/$defs/{name}"} for name in names]
        if section in NAMED:
            options.append(_NAME)
        properties[section] = {"anyOf": [*options, _branches(options)], **_kept(properties[section])}
    for section in set(NAMED).difference(SECTIONS):
        properties[section] = {"anyOf": [_bare(properties[section]), _NAME], **_kept(properties[section])}
    for name, section in _NOT_WRITTEN.items():
        del definitions[name], properties[section]["default"]
    definitions["Searched"] = {
        "title": "Searched",
        "description": "A distribution, an expression of other keys, or a choice between branches.",
        "oneOf": [_distribution(kind) for kind in KINDS] + [_expression()],
    }
    properties["search"] |= {"additionalProperties": _SEARCHED}
    one = {"$ref": "#/$defs/ObjectiveConfig"}
    properties["objective"] = {
        "anyOf": [one, {"type": "array", "items": one, "minItems": 1}],
        **_kept(properties["objective"]),
    }
    # A section may be searched as a whole, and its name come from the search.
    schema["required"] = [key for key in schema["required"] if key not in SECTIONS]
    return {"$schema": _DIALECT, **schema, "title": "samtune search space"}


def _references(schema: dict[str, Any]) -> list[str]:
    """The definitions that a property is one of."""
    if "$ref" in schema:
        return [schema["$ref"].rpartition("/")[2]]
    options = schema.get("oneOf") or schema.get("anyOf") or []
    return [name for option in options for name in _references(option)]


def _allow_searched(definition: dict[str, Any]) -> None:
    """Every value of a section may be searched; those that must be given may come from the search."""
    properties = definition["properties"]
    for name, value in properties.items():
        bare = _bare(value)
        if bare.get("items"):
            bare["items"] = {"anyOf": [bare["items"], _SEARCHED]}
        properties[name] = {"anyOf": [bare, _SEARCHED], **_kept(value)}
    for other, name in OTHER_NAMES.items():
        if name in properties:
            properties[other] = {**properties[name], "deprecated": True}
    if not definition.get("additionalProperties"):  # a section that takes any key is told by its name
        definition.pop("required", None)


def _kept(schema: dict[str, Any]) -> dict[str, Any]:
    """What editors show of a property."""
    return {key: schema[key] for key in _SHOWN if key in schema}


def _bare(schema: dict[str, Any]) -> dict[str, Any]:
    """The rest of a property."""
    return {key: item for key, item in schema.items() if key not in _SHOWN}


def _branches(options: list[dict[str, Any]]) -> dict[str, Any]:
    """A section that is searched as a whole."""
    return {
        "title": "Branches",
        "description": "A choice between sections, each with what is searched in it.",
        "type": "object",
        "properties": {"choice": {"type": "array", "minItems": 1, "items": {"anyOf": [*options, _SEARCHED]}}},
        "required": ["choice"],
        "additionalProperties": False,
    }


def _distribution(kind: str) -> dict[str, Any]:
    cls = KINDS[kind]
    if issubclass(cls, Choice):
        properties: dict[str, Any] = {kind: {"type": "array", "minItems": 1}}
    else:
        number: dict[str, Any] = {"type": "integer" if "int" in kind else "number"}
        if issubclass(cls, LogUniform | LogInt):
            number["exclusiveMinimum"] = 0
        properties = {kind: {"type": "array", "items": number, "minItems": 2, "maxItems": 2}}
        if not issubclass(cls, LogUniform | LogInt):
            properties["step"] = {**number, "exclusiveMinimum": 0, "description": "Distance of neighbouring values."}
    properties[kind]["description"] = " ".join((cls.__doc__ or "").split())
    return {"type": "object", "properties": properties, "required": [kind], "additionalProperties": False}


def _expression() -> dict[str, Any]:
    text = {"type": "string", "description": "Arithmetic over other keys, e.g. 5e-4 * training.lr / 0.1."}
    return {"type": "object", "properties": {"expr": text}, "required": ["expr"], "additionalProperties": False}
