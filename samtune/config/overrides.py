"""Setting keys over what a space's file says: `--set training.lr=0.1`, `SearchSpace.replace`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from samtune.config.distributions import kind_of
from samtune.config.located import Located, Place, Problem, RefusedError, locate
from samtune.config.searched import flat_options, is_searched, says
from samtune.config.sections import NAMED, classes_of, keys_of, rename_key, spell_key, without_nulls
from samtune.config.training import LENGTHS
from samtune.config.trial import SECTIONS
from samtune.config.yaml_source import parse_value
from samtune.errors import SpaceError, one_line

Overrides = Mapping[str, Any] | Sequence[str]
"""Dotted keys to set: a mapping, or `key=value` texts with values in YAML."""


def apply_overrides(root: Located, overrides: Overrides, options: Mapping[str, str] | None = None) -> Located:
    """A configuration, spelled out, with dotted keys set.

    What is set stands instead of all that the file says of the key: setting one that is searched fixes it, or searches
    it otherwise. Setting a `name` (`method.name=sgd`, or `method=sgd` for short) keeps what the file says beside it, as
    far as the new name has it.

    Args:
        options: key -> the option of the command line that sets it, where that is not `--set key`.

    Raises:
        SpaceError: a text is not `key=value`.
        RefusedError: a key lies below one that has none.
    """
    edit = _Edit(root)
    pairs = overrides.items() if isinstance(overrides, Mapping) else map(parse_override, overrides)
    for written, given in pairs:
        key = rename_key(f"{written}.name" if written in NAMED and isinstance(given, str) else written)
        option = (options or {}).get(written, f"--set {written}")
        place = Place(root.place.source, key, option=option, option_keys=(written, key))
        first, _, rest = key.partition(".")
        if first == "search" and rest:  # searched keys are dotted themselves
            edit.search(rest, spell_key(rest, locate(given, place)))
        else:
            edit.put(key, spell_key(key, locate(given, place)))
    return Located(without_nulls(edit.root), root.place)


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
    except yaml.MarkedYAMLError as error:
        raise SpaceError(f"--set {text}: the value is not valid YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise SpaceError(f"--set {text}: the value is not valid YAML: {one_line(error)}") from error


class _Edit:
    """A tree that is being changed: `root` is its top. Located values are not changed but replaced."""

    def __init__(self, root: Located) -> None:
        self.root: dict[str, Located] = dict(root.value)

    def search(self, key: str, value: Located) -> None:
        """Searches a key, whatever the file says of it."""
        self._forget([k for k in self._searched_keys() if _says(value, key, k)])
        if key in SECTIONS:
            self.root.pop(key, None)
        if self._is_item(key):
            self._forget([key])
            self._set(key.split("."), value)
        else:
            self._list(key, value)
            self._stop_inline(key)

    def put(self, key: str, value: Located) -> None:
        """Sets a key, whatever the file says of it."""
        first, _, rest = key.partition(".")
        if first in SECTIONS and first not in self.root and first in self._listed():
            self.root[first] = self._listed()[first]
            self._forget([first])
        if first in SECTIONS and rest and first in self.root and is_searched(self.root[first]):
            self.root[first] = _set_in_branches(self.root[first], first, rest.split("."), value)
        else:
            self._set(key.split("."), value)
        self._forget([k for k in self._searched_keys() if k == key or _says(value, key, k)])
        if key == "search" and isinstance(value.value, dict):
            self._forget([k for k in self._searched_keys() if k not in value.value])
            for searched, node in value.value.items():
                if self._is_item(searched):
                    self.search(searched, node)
                self._stop_inline(searched)
        if rest == "name" and first in NAMED and not is_searched(value):
            self._keep_keys_of(first, value.plain())
        _drop_alternatives(self, key)

    def _set(self, parts: list[str], value: Located) -> None:
        first, *rest = parts
        if not rest:
            self.root[first] = value
            return
        held = self.root.get(first)
        self.root[first] = _with(held, parts[:1], rest, value) if held is not None else _nested(rest, value, first)

    def _keep_keys_of(self, section: str, name: Any) -> None:
        """Leaves behind what the section's class of another name had."""
        keys = keys_of(section, name) if len(classes_of(section, name)) == 1 else []
        held = self.root.get(section)
        if not keys or held is None or not isinstance(held.value, dict):
            return
        self.root[section] = held.with_items({k: v for k, v in held.value.items() if k in keys})
        prefix = f"{section}."
        self._forget([k for k in self._searched_keys() if k.startswith(prefix) and k[len(prefix) :] not in keys])

    # -- what is searched --------------------------------------------------------------------------------------------

    def _listed(self) -> dict[str, Located]:
        """What is listed under `search`; nothing where that is no mapping, which is refused later."""
        search = self.root.get("search")
        return search.value if search is not None and isinstance(search.value, dict) else {}

    def _list(self, key: str, value: Located) -> None:
        search = self.root.get("search")
        place = search.place if search is not None else value.place
        self.root["search"] = Located({**self._listed(), key: value}, place)

    def _points(self) -> list[Located]:
        initial = self.root.get("initial")
        return initial.value if initial is not None and isinstance(initial.value, list) else []

    def _searched_keys(self) -> set[str]:
        """The keys of the search and of the initial points."""
        points = [point.value for point in self._points() if isinstance(point.value, dict)]
        return set(self._listed()).union(*points)

    def _forget(self, gone: Iterable[str]) -> None:
        """Takes keys out of the search and of the initial points."""
        gone = set(gone)
        if gone & set(self._listed()):
            self.root["search"] = _without(self.root["search"], gone)
        if gone and self._points():
            points = self.root["initial"]
            self.root["initial"] = points.with_items([_without(point, gone) for point in points.value])

    def _stop_inline(self, key: str) -> None:
        """Takes away what a section searches under a key that is now searched otherwise."""
        section, *parts = key.split(".")
        held = self.root.get(section)
        if held is not None and parts:
            self.root[section] = _without_searched(held, parts)
        elif held is not None and is_searched(held):
            del self.root[section]

    def _is_item(self, key: str) -> bool:
        """Whether a key is an item of a list in a section."""
        *path, _ = key.split(".")
        holder = Located(self.root, Place("")).at(path)
        return holder is not None and isinstance(holder.value, list)


def _drop_alternatives(edit: _Edit, key: str) -> None:
    """What the file says that does not go with what is set."""
    if key == "objective.metric":
        edit.root["objective"] = _without(edit.root["objective"], {"mode"})  # the file's is of the file's metric
    if key == "train":  # the file's loop, with its data and its network, gives way to a function
        for section in ("data", "model"):
            edit.root.pop(section, None)
            edit._forget([k for k in edit._searched_keys() if k.partition(".")[0] == section])
    section, _, field = key.partition(".")
    if section == "training" and field in LENGTHS:  # ways to say how long: the one that is set
        others = {*LENGTHS, "evaluate_every"} - ({"steps", "evaluate_every"} if field == "steps" else {field})
        edit.root["training"] = _without(edit.root["training"], others)
        edit._forget([f"training.{other}" for other in sorted(others)])


def _says(value: Located, key: str, searched: str) -> bool:
    """Whether a value that is set at a key says something of a searched key below it."""
    return searched.startswith(f"{key}.") and says(value, searched[len(key) + 1 :])


def _without(node: Located, gone: Iterable[str]) -> Located:
    if not isinstance(node.value, dict):
        return node
    return node.with_items({key: value for key, value in node.value.items() if key not in gone})


def _without_searched(node: Located, parts: list[str]) -> Located:
    first, *rest = parts
    child = node.child(first) if isinstance(node.value, dict) else None
    if child is None:
        return node
    if not rest:
        return _without(node, {first}) if is_searched(child) else node
    return node.with_items({**node.value, first: _without_searched(child, rest)})


def _nested(parts: list[str], value: Located, key: str) -> Located:
    """A value under keys that are not there yet."""
    for depth in range(len(parts), 0, -1):
        place = Place(value.place.source, ".".join([key, *parts[: depth - 1]]), option=value.place.option)
        value = Located({parts[depth - 1]: value}, place)
    return value


def _with(node: Located, above: list[str], parts: list[str], value: Located) -> Located:
    """A part of the tree, which is under the keys `above`, with a value set below it."""
    if node.value is None:
        return _nested(parts, value, ".".join(above))
    first, *rest = parts
    if isinstance(node.value, list) and first.isdecimal() and int(first) < len(node.value):
        items = list(node.value)
        items[int(first)] = _with(items[int(first)], [*above, first], rest, value) if rest else value
        return node.with_items(items)
    if not isinstance(node.value, dict):
        place = Place(value.place.source, ".".join(above), option=value.place.option)
        raise RefusedError([Problem(place, "has no keys below it")])
    child = node.value.get(first)
    if not rest:
        return node.with_items({**node.value, first: value})
    inner = _with(child, [*above, first], rest, value) if child is not None else None
    return node.with_items({**node.value, first: inner or _nested(rest, value, ".".join([*above, first]))})


def _set_in_branches(written: Located, section: str, parts: list[str], value: Located) -> Located:
    """A searched section with a key set in every branch that has it; setting its name takes the branch of that name."""
    options = written.value["choice"].value if kind_of(written.value) == "choice" else None
    if not isinstance(options, list) or not all(isinstance(option.value, dict) for option in options):
        raise RefusedError([Problem(value.place, f"no choice of {section} has this key", repr(value.plain()))])
    options = flat_options(options)
    names = [option.child("name") for option in options]
    if parts == ["name"]:
        wanted = value.plain()
        same = (o for o, name in zip(options, names, strict=True) if name is not None and name.plain() == wanted)
        return next(same, Located({"name": value}, written.place))
    having = [
        not is_searched(option) and parts[0] in keys_of(section, None if name is None else name.plain())
        for option, name in zip(options, names, strict=True)
    ]
    if not any(having):
        raise RefusedError([Problem(value.place, f"no choice of {section} has this key", repr(value.plain()))])
    changed = [
        _with(option, [section], parts, value) if has else option for option, has in zip(options, having, strict=True)
    ]
    choice: Located = written.value["choice"]
    return written.with_items({**written.value, "choice": choice.with_items(changed)})
