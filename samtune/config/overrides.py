"""Setting keys over what a space's file says: `--set training.lr=0.1`, `SearchSpace.replace`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import yaml

from samtune.config.inline import NAMED, classes_of, rename_key, set_in_branches, spell_out, stop_inline
from samtune.config.tree import MISSING, is_node, says
from samtune.config.trial import SECTIONS
from samtune.config.yaml_source import Source, fields_of, parse_value
from samtune.errors import SpaceError, one_line

Overrides = Mapping[str, Any] | Sequence[str]
"""Dotted keys to set: a mapping, or `key=value` texts with values in YAML."""


def apply_overrides(data: Mapping[str, Any], overrides: Overrides, source: Source) -> dict[str, Any]:
    """A copy of `data` with dotted keys set.

    What is set stands instead of all that the file says of the key: setting one that is searched fixes it, or searches
    it otherwise. Setting a `name` (`method.name=sgd`, or `method=sgd` for short) keeps what the file says beside it, as
    far as the new name has it.

    Raises:
        SpaceError: a text is not `key=value`, or a key lies below one that has none.
    """
    raw: dict[str, Any] = {key: _copy(value) for key, value in data.items()}
    pairs = overrides.items() if isinstance(overrides, Mapping) else map(parse_override, overrides)
    for written, given in pairs:
        key = rename_key(f"{written}.name" if written in NAMED and isinstance(given, str) else written)
        first, _, rest = key.partition(".")
        if first == "search" and rest:  # searched keys are dotted themselves
            _search_otherwise(raw, rest, given)
        else:
            _say_otherwise(raw, key, spell_out({key: given})[key], source)
    return raw


def _search_otherwise(raw: dict[str, Any], key: str, value: Any) -> None:
    """Searches a key, whatever the file says of it."""
    _stop_searching(raw, [k for k in _searched_keys(raw) if _says(value, key, k)])
    raw["search"] = {**_search_of(raw), **spell_out({key: value})}
    stop_inline(raw, key)
    if key in SECTIONS:
        raw.pop(key, None)


def _say_otherwise(raw: dict[str, Any], key: str, value: Any, source: Source) -> None:
    """Sets a key, whatever the file says of it."""
    first, _, rest = key.partition(".")
    if first in SECTIONS and first not in raw and first in _search_of(raw):
        raw[first] = raw["search"].pop(first)
    if first in SECTIONS and rest and is_node(raw.get(first)):
        changed = set_in_branches(raw[first], rest.split("."), value, partial(_fields, first))
        if changed is MISSING:
            raise source.error(key, f"no choice of {first} has this key (--set {key}={value})")
        raw[first] = changed
    else:
        _set(raw, key, value, source)
    _stop_searching(raw, [k for k in _searched_keys(raw) if k == key or _says(value, key, k)])
    if key == "search" and isinstance(value, dict):
        _stop_searching(raw, [k for k in _searched_keys(raw) if k not in value])
        for searched in value:
            stop_inline(raw, str(searched))
    if rest == "name" and first in NAMED and not is_node(value) and (fields := _fields(first, value)):
        raw[first] = {k: v for k, v in raw[first].items() if k in fields}
        absent = [k for k in _searched_keys(raw) if k.startswith(f"{first}.") and k[len(first) + 1 :] not in fields]
        _stop_searching(raw, absent)


def _says(value: Any, key: str, searched: str) -> bool:
    """Whether a value that is set at a key says something of a searched key below it."""
    return searched.startswith(f"{key}.") and says(value, searched[len(key) + 1 :])


def _set(raw: dict[str, Any], key: str, value: Any, source: Source) -> None:
    node, *parts = [raw, *key.split(".")]
    for depth, part in enumerate(parts[:-1]):
        if node.get(part) is None:
            node[part] = {}
        node = node[part]
        if not isinstance(node, dict):
            raise source.error(parts[: depth + 1], f"has no keys below it (--set {key}={value})")
    node[parts[-1]] = value
    if key == "objective.metric":
        node.pop("mode", None)  # the file's is of the file's metric
    if key in ("training.epochs", "training.passes"):  # two ways to say how long: the one that is set
        other = {"epochs": "passes", "passes": "epochs"}[parts[-1]]
        node.pop(other, None)
        _stop_searching(raw, [f"training.{other}"])


def override_keys(overrides: Overrides) -> list[str]:
    """The dotted keys that are set."""
    return list(overrides) if isinstance(overrides, Mapping) else [text.partition("=")[0].strip() for text in overrides]


def _search_of(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What is listed under `search`; nothing where that is no mapping, which is said later."""
    return raw["search"] if isinstance(raw.get("search"), dict) else {}


def _searched_keys(raw: Mapping[str, Any]) -> set[str]:
    """The keys of the search and of the initial points."""
    points = raw["initial"] if isinstance(raw.get("initial"), list) else []
    keys = set(_search_of(raw)).union(*(point for point in points if isinstance(point, dict)))
    return {str(key) for key in keys}


def _stop_searching(raw: dict[str, Any], gone: Sequence[str]) -> None:
    """Takes keys out of the search and of the initial points."""
    if isinstance(raw.get("search"), dict):
        raw["search"] = {key: value for key, value in raw["search"].items() if key not in gone}
    if isinstance(raw.get("initial"), list):
        raw["initial"] = [
            {key: value for key, value in point.items() if key not in gone} if isinstance(point, dict) else point
            for point in raw["initial"]
        ]


def _fields(section: str, name: Any) -> list[str]:
    """The keys of the section's class of that name; empty where there is none."""
    classes = classes_of(section, name)
    return [key for cls in classes for key in fields_of(cls)] if len(classes) == 1 else []


def parse_override(text: str) -> tuple[str, Any]:
    """`training.lr=1e-3` -> ("training.lr", 0.001).

    Raises:
        SpaceError: there is no `=`, or the value is not valid YAML.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise SpaceError(f"--set {text}: must be dotted.key=value, e.g. --set training.epochs=5")
    try:
        return key.strip(), parse_value(value)
    except (yaml.YAMLError, ValueError) as error:
        raise SpaceError(f"--set {text}: the value is not valid YAML: {one_line(error)}") from error


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(inner) for key, inner in value.items()}
    return [_copy(inner) for inner in value] if isinstance(value, list) else value
