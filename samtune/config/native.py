"""A written configuration in this package's own spelling, with a problem for each value in another tool's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from samtune.config.distributions import kind_of
from samtune.config.foreign import flow, recognize
from samtune.config.located import Located, Problem, join, locate
from samtune.config.sections import classes_of, fields_of, keys_of
from samtune.config.trial import SECTIONS
from samtune.config.yaml_source import SYNONYMS

_OWN = ("options",)
"""Keys below which the user's own functions say what a value means."""


def in_own_spelling(root: Located) -> tuple[Located, list[Problem]]:
    """The configuration with every foreign distribution replaced, so that what else is wrong is found too.

    Returns:
        The same configuration where nothing is foreign; and what to write in place of each that is.
    """
    reader = _Reader()
    items = dict(root.value)
    for section in SECTIONS:
        if section in items:
            items[section] = reader.section(items[section], section)
    search = items.get("search")
    if search is not None and isinstance(search.value, dict):
        listed = {key: reader.value(node, key) for key, node in search.value.items()}
        items["search"] = search.with_items({key: node for key, node in listed.items() if node is not None})
    return (root.with_items(items), reader.problems) if reader.problems else (root, [])


class _Reader:
    """Walks the written tree; `problems` are those of the foreign values it met."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def section(self, node: Located, section: str) -> Located:
        """A section, or a choice of several; it is no distribution itself."""
        if not isinstance(node.value, dict):
            return node
        if kind_of(node.value) == "choice":
            return self._choice(node, section)
        items: dict[str, Located] = {}
        for key, item in node.value.items():
            full = join(section, str(key))
            read = item if key in _OWN else self.value(item, full)
            if read is not None:
                renamed = _written(full) if read is not item else key  # what is to be written is looked at further
                items[key if renamed in node.value else renamed] = read
        return node.with_items(items)

    def value(self, node: Located, key: str) -> Located | None:
        """What stands under a key; None where it is a distribution that there is not."""
        plain = node.plain()
        if kind_of(node.value) == "choice":
            return self._choice(node, key)
        if isinstance(plain, list) and not _takes_lists(key):
            return self._replaced(node, key, {"choice": plain}, "takes one value; to try several write `{line}`")
        found = recognize(plain)
        if found is None:
            return node
        found = replace(found, native=_for_key(found.native, key))
        rule = found.advice(_written(key))
        if found.native is None:
            self.problems.append(Problem(node.place, rule, shown(plain)))
            return None
        return self._replaced(node, key, found.native, rule)

    def _choice(self, node: Located, key: str) -> Located:
        """The options of a choice, which may be branches with distributions in them."""
        options = node.value["choice"]
        if not isinstance(options.value, list):
            return node
        read = [self._option(option, key) if isinstance(option.value, dict) else option for option in options.value]
        return node.with_items({**node.value, "choice": options.with_items(read)})

    def _option(self, option: Located, key: str) -> Located:
        found = recognize(option.plain())
        return (self.value(option, key) or option) if found else self.section(option, key)

    def _replaced(self, node: Located, key: str, native: dict[str, Any], rule: str) -> Located:
        line = f"{_written(key)}: {flow(native)}"
        self.problems.append(Problem(node.place, rule.replace("{line}", line), shown(node.plain())))
        return locate(native, node.place)


def shown(value: Any) -> str:
    """A value as a message has it, on one line."""
    return value if isinstance(value, str) else flow(value)


def _written(key: str) -> str:
    """The last part of a key, in our own words: `lr` for `training.learning_rate`."""
    section, _, path = key.rpartition(".")
    known = keys_of(section) if section in SECTIONS else []
    return SYNONYMS.get(path, path) if path not in known else path


def _for_key(native: dict[str, Any] | None, key: str) -> dict[str, Any] | None:
    """The same with the numbers that the key takes: `{log_int: [1, 10]}` for `training.epochs`, reals for `lr`."""
    section, _, path = f"{key.rpartition('.')[0]}.{_written(key)}".partition(".")
    if native is None or section not in SECTIONS:
        return native
    fields = [fields_of(cls)[path].annotation for cls in classes_of(section) if path in fields_of(cls)]
    taken = {kind for annotation in fields for kind in _types(annotation)} - {type(None)}
    whole = {"uniform": "int", "log_uniform": "log_int"}
    if taken == {float}:
        return {{kind: real for real, kind in whole.items()}.get(kind, kind): ends for kind, ends in native.items()}
    bounds = [end for ends in native.values() for end in (ends if isinstance(ends, list) else [ends])]
    if taken != {int} or not all(isinstance(end, int) for end in bounds):
        return native
    return {whole.get(kind, kind): ends for kind, ends in native.items()}


def _types(annotation: Any) -> Iterator[Any]:
    """What a value may be, through Annotated, unions and Optional."""
    if get_origin(annotation) is Annotated:
        yield from _types(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for each in get_args(annotation):
            yield from _types(each)
    else:
        yield annotation


def _takes_lists(key: str) -> bool:
    """Whether a key's value may be a list, or is nobody's."""
    section, _, path = key.partition(".")
    if section not in SECTIONS or "." in path or not path:
        return True
    annotations = [str(fields_of(cls)[path].annotation) for cls in classes_of(section) if path in fields_of(cls)]
    return not annotations or any(word in text for text in annotations for word in ("list", "tuple", "Any", "dict"))
