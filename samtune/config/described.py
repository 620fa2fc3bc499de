"""What there is to choose from, and what its keys are: read from the classes that validate a space."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from samtune.config.base import Config
from samtune.config.field_texts import field_texts, json_schema
from samtune.config.sections import classes_of, names_of
from samtune.config.yaml_source import did_you_mean
from samtune.errors import UsageError


@dataclass(frozen=True)
class Key:
    """A key of a section: its rule (type and range) and default as text, and what it is for."""

    name: str
    rule: str
    default: str
    text: str


@dataclass(frozen=True)
class Part:
    """One of a section's choices.

    Attributes:
        name: as the space names it; what is the user's own has `package.module:name`.
        text: its description, with its source; the first line is a summary.
        keys: those that belong to it beside `name`.
    """

    name: str
    text: str
    keys: tuple[Key, ...]

    @property
    def summary(self) -> str:
        return self.text.partition("\n")[0]

    def to_dict(self) -> dict[str, Any]:
        """JSON types only."""
        return asdict(self)


def parts_of(section: str) -> list[Part]:
    """All choices of a section: `model`, `data`, `method`, `sampler`."""
    return [
        Part(name, inspect.cleandoc(cls.__doc__ or ""), tuple(_keys(cls)))
        for cls in classes_of(section)
        for name in names_of(cls) or (_own_name(cls),)
    ]


def part_of(section: str, name: str) -> Part:
    """The choice of that name. Raises UsageError where there is none, with the nearest."""
    parts = {part.name: part for part in parts_of(section)}
    if name not in parts:
        near = did_you_mean(name, list(parts), f"there are {', '.join(parts)}")
        raise UsageError(f"{name}: no such {section}{near}")
    return parts[name]


def _own_name(cls: type[Config]) -> str:
    text = field_texts(cls).get("name", "")
    return text.split("`")[1] if "`" in text else "package.module:function"


def _keys(cls: type[Config]) -> Iterator[Key]:
    """Those of the class itself first, then what it has in common with others."""
    schema = json_schema(cls)
    required = schema.get("required", [])
    own = [field.alias or name for name, field in cls.model_fields.items() if name in cls.__annotations__]
    for name in sorted(schema["properties"], key=lambda name: name not in own):
        if name == "name":
            continue
        found = schema["properties"][name]
        default = "required" if name in required else _shown(found.get("default"))
        text = " ".join(found.get("description", "").split())
        yield Key(name, _rule(found, schema.get("$defs", {})), default, text)


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _rule(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Type and range, in words."""
    if "$ref" in schema:
        return _rule(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "const" in schema:
        return _shown(schema["const"])
    if "enum" in schema:
        return ", ".join(map(_shown, schema["enum"]))
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " or ".join(dict.fromkeys(_rule(option, definitions) for option in schema[several]))
    match schema.get("type"):
        case "number" | "integer" as kind:
            return f"{kind}{_range(schema)}"
        case "boolean":
            return "true or false"
        case "array":
            return f"list of {_rule(schema.get('items', {}), definitions)}"
        case "null":
            return "none"
        case "object":
            return "mapping"
        case "string":
            return "package.module:name" if ":" in schema.get("pattern", "") else "text"
    return "any"


def _range(schema: dict[str, Any]) -> str:
    if "minimum" in schema and "maximum" in schema:
        return f" from {schema['minimum']} to {schema['maximum']}"
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    return " and".join(f" {sign} {schema[key]}" for key, sign in signs.items() if key in schema)
