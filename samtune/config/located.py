"""A configuration as a tree of values, each of which knows where it was written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from samtune.errors import SpaceError

Path = tuple[str | int, ...]
"""Keys and indices from the root of a tree; a key may have dots itself (`search: {training.lr: …}`)."""


@dataclass(frozen=True)
class Place:
    """Where a value was written, and what messages call it.

    Attributes:
        source: name of the file, or what stands in its place.
        key: dotted path.
        line: of the file, from 1; None where no line has the value.
        branches: the options of choices that the value is in, from the outermost.
        option: the option of the command line that set the value, e.g. `--set training.lr`; None: it is the file's.
        option_keys: the keys that the option itself names.
    """

    source: str
    key: str = ""
    line: int | None = None
    branches: tuple[str, ...] = ()
    option: str | None = None
    option_keys: tuple[str, ...] = ()

    def inside(self, part: str | int, line: int | None = None) -> Place:
        """The place of a key or an item of the value that is here."""
        return replace(self, key=join(self.key, str(part) or "''"), line=line or self.line)

    @property
    def label(self) -> str:
        """The key, with the branches that it is in: `method.rho (in branch sam)`."""
        return f"{self.key} (in {', '.join(self.branches)})" if self.branches else self.key

    def message(self, problem: str) -> str:
        """One line: where the value stands, and what is wrong with it."""
        where = self.source if self.line is None or self.option else f"{self.source}:{self.line}"
        if self.option is not None:
            where = f"{where} with {self.option}"
            if not self.branches and self.key in self.option_keys:
                return f"{where}: {problem}"
        return f"{where}: {self.label}: {problem}" if self.key else f"{where}: {problem}"


@dataclass(frozen=True)
class Located:
    """A value and its place.

    Attributes:
        value: a scalar, a dict or a list of located values; in the tree of a search space (`template`) also a
            distribution, an expression or a choice between branches.
    """

    value: Any
    place: Place = field(compare=False)

    def plain(self) -> Any:
        """The value without places."""
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        return [item.plain() for item in self.value] if isinstance(self.value, list) else self.value

    def child(self, part: str | int) -> Located | None:
        """The value of a key or an index; None where there is none."""
        if isinstance(self.value, dict):
            return self.value.get(part)
        if isinstance(self.value, list) and str(part).isdecimal() and int(part) < len(self.value):
            item: Located = self.value[int(part)]
            return item
        return None

    def at(self, path: Iterable[str | int]) -> Located | None:
        """The value at a path; None where there is none."""
        node: Located | None = self
        for part in path:
            node = node.child(part) if node is not None else None
        return node

    def place_of(self, path: Iterable[str | int]) -> Place:
        """Where the value at a path was written; where it was not, the place that is nearest, under the path's key."""
        node, place = self, self.place
        parts = list(path)
        for index, part in enumerate(parts):
            inner = node.child(part)
            if inner is None:
                key = ".".join(str(rest) for rest in parts[index:])
                return replace(place, key=join(place.key, key))
            node, place = inner, inner.place
        return place

    def with_items(self, items: dict[str, Located] | list[Located]) -> Located:
        """The same place with other items."""
        return replace(self, value=items)


@dataclass(frozen=True)
class Problem:
    """A broken rule and the place of the value that breaks it.

    Attributes:
        got: the value, as text, where the rule does not name it.
        kind: whether the value is wrong, or its key, or whether the key is missing.
    """

    place: Place
    rule: str
    got: str | None = None
    kind: Literal["value", "key", "missing"] = "value"

    @property
    def text(self) -> str:
        """The rule, and the value."""
        return self.rule if self.got is None else f"{self.rule} (got {self.got})"

    def __str__(self) -> str:
        return self.place.message(self.text)


class RefusedError(ValueError):
    """Rules are broken: `problems`, at least one."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(dict.fromkeys(problems))
        super().__init__("; ".join(map(str, self.problems)))

    def space_error(self) -> SpaceError:
        """The same for the user: a line for each problem."""
        return SpaceError("\n".join(dict.fromkeys(map(str, self.problems))))


def locate(value: Any, place: Place) -> Located:
    """Plain nested values as a located tree.

    Raises:
        RefusedError: a key is not text.
    """
    if isinstance(value, Located):
        return value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise RefusedError([Problem(place, "keys must be text", repr(key), "key")])
        return Located({key: locate(item, place.inside(key)) for key, item in value.items()}, place)
    if isinstance(value, list | tuple):
        return Located([locate(item, place.inside(index)) for index, item in enumerate(value)], place)
    return Located(value, place)


def leaves(node: Located, path: Path = ()) -> Iterator[tuple[Path, Located]]:
    """The values of a tree that are no mapping and no list, with their paths."""
    if isinstance(node.value, dict | list):
        items = node.value.items() if isinstance(node.value, dict) else enumerate(node.value)
        for part, item in items:
            yield from leaves(item, (*path, part))
    else:
        yield path, node


def join(key: str, inner: str) -> str:
    """Two parts of a dotted key; either may be empty."""
    return f"{key}.{inner}" if key and inner else key or inner
