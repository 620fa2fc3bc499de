"""The sections of a search space: their classes and keys, and the short and the other ways to write them."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from samtune.config.base import Config
from samtune.config.data import NoDataConfig
from samtune.config.distributions import kind_of
from samtune.config.library_model import LibraryModelConfig, library_of
from samtune.config.located import Located
from samtune.config.method import OTHER_NAMES
from samtune.config.model import NoModelConfig, OwnModelConfig
from samtune.config.own_method import OwnMethodConfig
from samtune.config.samplers import SamplerConfig
from samtune.config.search import SchedulerConfig
from samtune.config.trial import OPEN_SECTION, SECTIONS, TrialSpec

NAMED = ("data", "model", "method", "sampler", "scheduler")
"""What may be given by its name alone."""


# -- classes ---------------------------------------------------------------------------------------------------------


def classes_of(section: str, name: Any = None) -> list[type[Config]]:
    """The config classes of a section, the sampler or the scheduler: all that may be written, or those of a name."""
    others = {"sampler": SamplerConfig, "scheduler": SchedulerConfig}
    classes = list(config_classes(others.get(section) or TrialSpec.model_fields[section].annotation))
    if name is None or len(classes) == 1:
        return [cls for cls in classes if cls not in (NoDataConfig, NoModelConfig)]
    return [cls for cls in classes if name in names_of(cls)] or [cls for cls in classes if _is_path_of(cls, name)]


def keys_of(section: str, name: Any = None) -> list[str]:
    """The keys of a section's class of that name; of all its classes where there is no name."""
    return list(dict.fromkeys(key for cls in classes_of(section, name) for key in fields_of(cls)))


def config_class(annotation: Any, name: Any = None) -> type[Config] | None:
    """The config class of an annotation; of a union, the one of that name."""
    classes = list(config_classes(annotation))
    if len(classes) <= 1:
        return classes[0] if classes else None
    fallback = next((cls for cls in classes if _is_path_of(cls, name)), None)
    return next((cls for cls in classes if name in names_of(cls)), fallback)


def config_classes(annotation: Any) -> Iterable[type[Config]]:
    """All config classes in an annotation (through Annotated, unions and Optional)."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        yield annotation
    elif get_origin(annotation) in (typing.Annotated, typing.Union, types.UnionType):
        for argument in get_args(annotation):
            yield from config_classes(argument)


def fields_of(config: type[Config]) -> dict[str, FieldInfo]:
    """The fields of a config class by their names in the YAML (`lambda`, which cannot be a name in Python)."""
    return {field.alias or name: field for name, field in config.model_fields.items()}


def names_of(config: type[Config]) -> tuple[str, ...]:
    """The values of the `name` that selects this class in a union; empty where it has none."""
    name = config.model_fields.get("name")
    return get_args(name.annotation) if name is not None and get_origin(name.annotation) is Literal else ()


def _is_path_of(config: type[Config], name: Any) -> bool:
    """Whether a class without names takes this one: a library's network, or what is the user's own."""
    if names_of(config) or ":" not in str(name):
        return False
    if issubclass(config, LibraryModelConfig):
        return config.library == library_of(name)
    return config is not OwnModelConfig or library_of(name) is None


def item_annotation(annotation: Any) -> Any:
    """The annotation of a sequence's items, where all are alike."""
    origin = get_origin(annotation)
    if origin is typing.Annotated:
        return item_annotation(get_args(annotation)[0])
    return get_args(annotation)[0] if origin in (list, tuple) else None


# -- spelling --------------------------------------------------------------------------------------------------------


def spell_out(root: Located) -> Located:
    """A configuration with its short forms written out.

    `method: sam` is `method: {name: sam}`, in a choice too; the papers' names of keys become ours; the options of a
    method by import path may stand beside its name; `x-…` at the top holds anchors only; `sampler: null` is the
    default, as if the key were not there.
    """
    items = {key: node for key, node in root.value.items() if not str(key).startswith("x-")}
    return root.with_items({key: spell_key(key, node) for key, node in without_nulls(items).items()})


def without_nulls(items: Mapping[str, Located]) -> dict[str, Located]:
    """The keys of the top but those that are null, which have their default; what has none keeps its null."""
    return {key: node for key, node in items.items() if node.value is not None or key in ("data", "model", "method")}


def spell_key(key: str, node: Located) -> Located:
    """What stands under one key of the top, or of `search`, with its short forms written out."""
    if key in NAMED:
        node = _with_name(node)
    if key == "method":
        node = _with_options(node)
    if key.partition(".")[0] == OPEN_SECTION:
        return node
    if key in SECTIONS or "." in key:
        return _rename(node)
    if key == "search" and isinstance(node.value, dict):
        return node.with_items({rename_key(inner): spell_key(inner, item) for inner, item in node.value.items()})
    if key == "initial" and isinstance(node.value, list):
        return node.with_items([_rename_point(point) for point in node.value])
    return node


def rename_key(key: str) -> str:
    """A dotted key in our own words."""
    if key.partition(".")[0] == OPEN_SECTION:
        return key
    head, options, rest = key.partition(".options.")  # what the user's own function takes has the user's names
    return ".".join(OTHER_NAMES.get(part, part) for part in head.split(".")) + options + rest


def _with_name(node: Located) -> Located:
    if isinstance(node.value, str):
        return node.with_items({"name": Located(node.value, node.place.inside("name"))})
    if kind_of(node.value) == "choice" and isinstance(node.value["choice"].value, list):
        options: Located = node.value["choice"]
        return node.with_items(
            {**node.value, "choice": options.with_items([_with_name(option) for option in options.value])}
        )
    return node


def _with_options(node: Located) -> Located:
    """A method by import path with what is not of all methods under `options`, in each branch of a choice."""
    if kind_of(node.value) == "choice" and isinstance(node.value["choice"].value, list):
        branches: Located = node.value["choice"]
        return node.with_items(
            {**node.value, "choice": branches.with_items([_with_options(branch) for branch in branches.value])}
        )
    name = node.child("name") if isinstance(node.value, dict) else None
    if name is None or not isinstance(name.value, str) or ":" not in name.value:
        return node
    items: dict[str, Located] = dict(node.value)
    beside = {key: items.pop(key) for key in list(items) if key not in OwnMethodConfig.model_fields}
    written = items.get("options") or Located({}, node.place.inside("options"))
    if beside and isinstance(written.value, dict):
        items["options"] = written.with_items({**written.value, **beside})
    return node.with_items(items)


def _rename(node: Located) -> Located:
    if isinstance(node.value, dict):
        renamed = {
            OTHER_NAMES.get(str(key), str(key)): item if key == "options" else _rename(item)
            for key, item in node.value.items()
        }
        return node.with_items(renamed)
    return node.with_items([_rename(item) for item in node.value]) if isinstance(node.value, list) else node


def _rename_point(point: Located) -> Located:
    if not isinstance(point.value, dict):
        return point
    return replace(point, value={rename_key(key): value for key, value in point.value.items()})
