"""What each key of a section is for: the docstring below the field.

Read when somebody asks, and not when the classes are made, as pydantic would: that takes a tenth of a second in each
process of a search.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from functools import cache
from typing import Any

from samtune.config.base import Config


@cache
def field_texts(cls: type[Config]) -> dict[str, str]:
    """The texts of a section's fields by their names, those that it has from its bases included."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if issubclass(base, Config) and base is not Config:
            texts |= _own_texts(base)
    return {name: text for name, text in texts.items() if name in cls.model_fields}


def json_schema(cls: type[Config]) -> dict[str, Any]:
    """The JSON Schema of a section, by the names that the YAML has, with what each key is for."""
    schema = cls.model_json_schema(by_alias=True)
    definitions = schema.get("$defs", {})
    for config in _all_sections(Config):
        found = schema if config is cls else definitions.get(config.__name__)
        if found is None:
            continue
        for name, text in field_texts(config).items():
            key = config.model_fields[name].alias or name
            if key in found.get("properties", {}):
                found["properties"][key].setdefault("description", text)
    return schema


def _all_sections(cls: type[Config]) -> Iterator[type[Config]]:
    for section in cls.__subclasses__():
        yield section
        yield from _all_sections(section)


def _own_texts(cls: type[Config]) -> dict[str, str]:
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(definition, ast.ClassDef)
    texts = {}
    for field, text in zip(definition.body, definition.body[1:], strict=False):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                texts[name] = inspect.cleandoc(words)
    return texts
