"""What may stand in place of a value: a distribution, an expression, or a choice between branches."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property
from typing import Any

from samtune.config.distributions import KINDS, Choice, Distribution, kind_of, list_text, parse_distribution
from samtune.config.expressions import Expression
from samtune.config.located import Located, Place, Problem, join
from samtune.config.problems import problem_of
from samtune.study import Scalar


class _Missing(Enum):
    MISSING = "missing"


MISSING: Any = _Missing.MISSING
"""In place of a value that a configuration does not have. The same object in every process."""


@dataclass(frozen=True)
class Expr:
    """A value computed from other keys, written `{expr: "5e-4 * lr / 0.1"}`."""

    expr: str

    @cached_property
    def expression(self) -> Expression:
        """Parsed. Raises ValueError where it is none."""
        return Expression(self.expr)

    def __str__(self) -> str:
        return f"= {self.expr}"


@dataclass(frozen=True)
class Option:
    """One option of a choice between branches.

    Attributes:
        label: what a configuration calls it.
        body: its keys and values, in which more may be searched.
    """

    label: Scalar
    body: Located

    @cached_property
    def nodes(self) -> dict[str, Located]:
        """What is searched in it, by dotted key below the choice; "" is the option itself."""
        return dict(searched_in(self.body))

    @property
    def has_keys(self) -> bool:
        """Whether it is a mapping of keys, not a value."""
        return isinstance(self.body.value, dict)

    @property
    def is_searched(self) -> bool:
        """Whether it is a distribution or an expression itself."""
        return "" in self.nodes

    @property
    def name(self) -> Any:
        """Its `name`, if that is a key of it and not searched; else None."""
        node = self.body.child("name") if self.has_keys else None
        return node.value if node is not None and not is_parsed(node.value) else None


@dataclass(frozen=True)
class Branches:
    """A choice between branches: `{choice: [{name: sgd}, {name: sam, rho: {log_uniform: [0.01, 0.5]}}]}`."""

    options: tuple[Option, ...]
    written: Located = field(compare=False)

    @cached_property
    def has_keys(self) -> bool:
        """Whether the options are mappings of keys, not values."""
        return any(option.has_keys for option in self.options)

    @cached_property
    def labels(self) -> Choice:
        """The choice of a branch, by label."""
        return Choice(choice=[option.label for option in self.options])

    def selector(self, key: str) -> str:
        """The key of a configuration that says which branch was taken."""
        names = [option.name for option in self.options]
        return f"{key}.name" if None not in names and len(set(names)) == len(names) else key

    def chosen(self, key: str, config: Mapping[str, Scalar]) -> Option:
        """The branch that a configuration takes; the first where it does not say."""
        return self.find(key, config) or self.options[0]

    def find(self, key: str, config: Mapping[str, Scalar]) -> Option | None:
        """The branch that a configuration takes, if it tells, if only by a key that one branch alone has."""
        label = config.get(self.selector(key), MISSING)
        if not self.has_keys:
            return next((option for option in self.options if label is not MISSING and _allows(option, label)), None)
        if label is not MISSING:
            return next((o for o in self.options if type(o.label) is type(label) and o.label == label), None)
        given = {name[len(key) + 1 :] for name in config if name.startswith(f"{key}.")}
        having = [option for option in self.options if given and given <= option.nodes.keys()]
        if len(having) != 1:
            having = [option for option in self.options if given & option.nodes.keys()]
        if len(having) != 1:  # the resolved keys of a trial of another study
            having = [option for option in self.options if _fixes(option, key, config)]
        return having[0] if len(having) == 1 else None

    def __str__(self) -> str:
        return "choice " + ", ".join(str(option.label) for option in self.options)


Node = Distribution | Expr | Branches


def _fixes(option: Option, key: str, config: Mapping[str, Scalar]) -> bool:
    """Whether a configuration has all that a branch fixes."""
    fixed = {name: node.plain() for name, node in option.body.value.items()} if option.has_keys else {}
    fixed = {name: value for name, value in fixed.items() if name not in option.nodes}
    return bool(fixed) and all(str(config.get(f"{key}.{name}", MISSING)) == str(value) for name, value in fixed.items())


def _allows(option: Option, value: Scalar) -> bool:
    """Whether an option that is no mapping can have this value."""
    node = option.body.value
    if isinstance(node, Distribution):
        return node.contains(value)
    return type(option.label) is type(value) and option.label == value


def is_parsed(value: Any) -> bool:
    """Whether the value of a located node is searched or computed."""
    return isinstance(value, (Expr, Branches, *KINDS.values()))


def searched_in(node: Located, key: str = "") -> Iterator[tuple[str, Located]]:
    """What is searched in a part of the tree, by dotted key; the keys of branches are the branches' own."""
    if is_parsed(node.value):
        yield key, node
    elif isinstance(node.value, dict | list):
        for name, item in node.value.items() if isinstance(node.value, dict) else enumerate(node.value):
            yield from searched_in(item, join(key, str(name)))


def dump_node(node: Node) -> Any:
    """The node as YAML has it."""
    if isinstance(node, Expr):
        return {"expr": node.expr}
    return node.written.plain() if isinstance(node, Branches) else node.model_dump(mode="json")


def says(node: Located, key: str) -> bool:
    """Whether a part of a tree says something of a dotted key below it; what is searched as a whole does of all."""
    for part in key.split("."):
        if is_searched(node) or is_parsed(node.value):
            return True
        child = node.child(part) if isinstance(node.value, dict) else None
        if child is None:
            return False
        node = child
    return True


# -- from what was written -------------------------------------------------------------------------------------------


def is_searched(node: Located) -> bool:
    """Whether a written value is meant to be searched or computed."""
    value = node.value
    if not isinstance(value, dict):
        return False
    return kind_of(value) is not None or set(value) == {"expr"} or _is_misspelled(value)


def _is_misspelled(value: Mapping[str, Located]) -> bool:
    """`{log_unifrom: [0.1, 1]}`: no section has such a key, and who wrote it shall hear of the right one."""
    if len(value) != 1:
        return False
    ((key, inner),) = value.items()
    return isinstance(inner.value, list) and bool(difflib.get_close_matches(str(key), KINDS, n=1, cutoff=0.75))


def flat_options(options: list[Located]) -> list[Located]:
    """A choice as an option of a choice gives its options to it."""
    flat: list[Located] = []
    for option in options:
        inner = option.value["choice"].value if kind_of(option.value) == "choice" else None
        flat += flat_options(inner) if isinstance(inner, list) else [option]
    return flat


class Parser:
    """Parses each searched value of a written tree, once. `problems` are those of the values that are none."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def tree(self, node: Located, place: Place | None = None) -> Located:
        """A part of the tree with what is searched in it parsed."""
        place = place or node.place
        if is_searched(node):
            return self.searched(node, place)
        if isinstance(node.value, dict):
            return Located({k: self.tree(item, _below(place, k, item)) for k, item in node.value.items()}, place)
        if isinstance(node.value, list):
            return Located([self.tree(item, _below(place, i, item)) for i, item in enumerate(node.value)], place)
        return Located(node.value, place)

    def searched(self, node: Located, place: Place) -> Located:
        """A value that must be searched or computed."""
        try:
            return Located(self._parse(node, place), place)
        except ValueError as error:
            self.problems.append(problem_of(error, place))
            return Located(MISSING, place)

    def _parse(self, node: Located, place: Place) -> Node:
        value = node.value
        if isinstance(value, dict) and set(value) == {"expr"}:
            text = value["expr"].plain()
            if not isinstance(text, str):
                raise ValueError(f'expr takes a text, e.g. {{expr: "0.5 * training.lr"}} (got {text!r})')
            expr = Expr(text)
            assert expr.expression  # parsed here, so that a mistake in it is found here
            return expr
        if kind_of(value) == "choice" and len(value) == 1 and isinstance(value["choice"].value, list):
            options = flat_options(value["choice"].value)
            if any(isinstance(option.value, dict) for option in options):
                return Branches(self._options(options, place), node)
            return parse_distribution({"choice": [option.plain() for option in options]})
        return parse_distribution(node.plain())

    def _options(self, written: list[Located], place: Place) -> tuple[Option, ...]:
        labels = _labels(written)
        options = []
        for index, (option, label) in enumerate(zip(written, labels, strict=True)):
            is_branch = isinstance(option.value, dict) and not is_searched(option)
            shown = f"branch {label}" if is_branch and label is not None else f"option {index + 1}"
            where = replace(option.place, key=place.key, branches=(*place.branches, shown))
            body = self.tree(option, where)
            if label is None:
                label = body.value.expr if isinstance(body.value, Expr) else str(body.value)
            options.append(Option(label, body))
        counts = Counter((type(option.label), option.label) for option in options)
        if twice := [label for (_, label), count in counts.items() if count > 1]:
            raise ValueError(f"choice lists a value twice (got {twice[0]!r})")
        return tuple(options)


def _below(place: Place, part: str | int, item: Located) -> Place:
    """The place of a key's value: its own line, under the key that the value above it goes by."""
    return replace(item.place, key=join(place.key, str(part)), branches=place.branches)


def _labels(options: list[Located]) -> list[Any]:
    """What configurations call the options: their name, what they fix, or their position; None: what is drawn there."""
    labels = [_label(option) for option in options]
    for rename in (_described, lambda option, label, index: f"{label} #{index + 1}"):
        counts = Counter((type(label), label) for label in labels)
        twice = [label is not None and counts[type(label), label] > 1 for label in labels]
        if any(twice[i] and options.count(options[i]) > 1 and not _searches(options[i]) for i in range(len(options))):
            return labels  # the same option twice, which is refused
        labels = [
            rename(option, label, index) if again else label
            for index, (option, label, again) in enumerate(zip(options, labels, twice, strict=True))
        ]
    return labels


def _searches(option: Located) -> bool:
    items = option.value.values() if isinstance(option.value, dict) else option.value
    inner = items if isinstance(option.value, dict | list) else ()
    return is_searched(option) or any(_searches(item) for item in inner)


def _label(option: Located) -> Any:
    if is_searched(option):
        return None
    if not isinstance(option.value, dict):
        return list_text(option.plain()) if isinstance(option.value, list) else option.value
    scalars = {key: item.value for key, item in option.value.items() if not isinstance(item.value, dict | list)}
    return scalars.get("name", ", ".join(f"{key}={value}" for key, value in scalars.items()) or "option")


def _described(option: Located, label: Any, index: int) -> str:
    """A label with what else the option fixes."""
    items = option.value if isinstance(option.value, dict) else {}
    fixed = {key: item.plain() for key, item in items.items() if not isinstance(item.value, dict) and key != "name"}
    return ", ".join([str(label), *(f"{key}={value}" for key, value in fixed.items())])
