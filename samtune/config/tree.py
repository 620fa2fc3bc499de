"""What is searched, as a tree: distributions and expressions by key, and choices between whole branches of keys.

A *configuration* is what a search draws: dotted key -> plain value. Of a choice between branches it holds which one was
taken, under `KEY.name` where the branches have names of their own, else under KEY itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from samtune.config.distributions import KINDS, Choice, Distribution, kind_of, list_text, parse_distribution
from samtune.config.expressions import Expression
from samtune.study import Scalar

MISSING: Any = object()
"""Stands for a value that a configuration does not have."""

Suggest = Callable[[str, str, Distribution], Any]
"""(parameter's name, key, distribution) -> value, or MISSING to leave the key out."""


@dataclass(frozen=True)
class Expr:
    """A value computed from other keys, written `{expr: "5e-4 * lr / 0.1"}`."""

    expr: str

    @cached_property
    def expression(self) -> Expression:
        return Expression(self.expr)

    def __str__(self) -> str:
        return f"= {self.expr}"


@dataclass(frozen=True)
class Option:
    """One branch: what it fixes, and what is searched in it (by key relative to the choice's, "" for itself)."""

    label: Scalar
    fixed: Any = MISSING
    nodes: Mapping[str, Node] = field(default_factory=dict)


@dataclass(frozen=True)
class Branches:
    """A choice between branches: `{choice: [{name: sgd}, {name: sam, rho: {log_uniform: [0.01, 0.5]}}]}`."""

    options: tuple[Option, ...]
    written: Any

    @cached_property
    def has_keys(self) -> bool:
        """Whether the options are mappings of keys, not values."""
        return any(isinstance(option.fixed, dict) for option in self.options)

    @cached_property
    def labels(self) -> Choice:
        return Choice(choice=[option.label for option in self.options])

    def selector(self, key: str) -> str:
        """The key of a configuration that says which branch was taken."""
        names = [option.fixed.get("name") if isinstance(option.fixed, dict) else None for option in self.options]
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
    fixed = option.fixed if isinstance(option.fixed, dict) else {}
    return bool(fixed) and all(str(config.get(f"{key}.{name}", MISSING)) == str(value) for name, value in fixed.items())


def _allows(option: Option, value: Scalar) -> bool:
    """Whether an option that is no mapping can have this value."""
    node = option.nodes.get("")
    if isinstance(node, tuple(KINDS.values())):
        return node.contains(value)  # type: ignore[union-attr]
    return type(option.label) is type(value) and option.label == value


# -- from YAML and back ----------------------------------------------------------------------------------------------


def is_node(value: Any) -> bool:
    """Whether a value of the YAML stands for something searched or computed."""
    if not isinstance(value, Mapping):
        return False
    return kind_of(value) is not None or set(value) == {"expr"} or _is_misspelled(value)


def _is_misspelled(value: Mapping[Any, Any]) -> bool:
    """`{log_unifrom: [0.1, 1]}`: no section has such a key, and who wrote it shall hear of the right one."""
    import difflib

    if len(value) != 1:
        return False
    ((key, inner),) = value.items()
    return isinstance(inner, list) and bool(difflib.get_close_matches(str(key), KINDS, n=1, cutoff=0.75))


def parse_node(value: Any) -> Node:
    """Turns what the YAML says of a searched key into a node.

    Raises:
        ValueError: (pydantic's included) it is none.
    """
    if isinstance(value, Expr | Branches):
        return value
    if isinstance(value, Mapping) and set(value) == {"expr"}:
        if not isinstance(value["expr"], str):
            raise ValueError(f'expr takes a text, e.g. {{expr: "0.5 * training.lr"}} (got {value["expr"]!r})')
        node = Expr(value["expr"])
        assert node.expression  # parsed here, so that a mistake in it is said here
        return node
    if kind_of(value) == "choice" and len(value) == 1 and isinstance(value["choice"], list):
        options = flat_options(value["choice"])
        if any(isinstance(option, Mapping) for option in options):
            return Branches(_label([_option(option) for option in options]), value)
        return parse_distribution({"choice": options})
    return parse_distribution(value)


def flat_options(options: list[Any]) -> list[Any]:
    """A choice as an option of a choice gives its options to it."""
    flat: list[Any] = []
    for option in options:
        inner = option["choice"] if kind_of(option) == "choice" else None
        flat += flat_options(inner) if isinstance(inner, list) else [option]
    return flat


def _option(value: Any) -> Option:
    if is_node(value):
        node = parse_node(value)
        return Option(node.expr if isinstance(node, Expr) else str(node), MISSING, {"": node})
    fixed, nodes = split(value)
    if not isinstance(value, Mapping):
        return Option(list_text(value) if isinstance(value, list) else value, fixed, nodes)
    scalars = {key: item for key, item in fixed.items() if not isinstance(item, Mapping | list)}
    return Option(
        scalars.get("name", ", ".join(f"{key}={item}" for key, item in scalars.items()) or "option"), fixed, nodes
    )


def _label(options: list[Option]) -> tuple[Option, ...]:
    """Gives branches that would go by the same label what else they fix, or their position."""
    for rename in (_described, lambda option, index: f"{option.label} #{index + 1}"):
        counts = Counter((type(option.label), option.label) for option in options)
        for index, option in enumerate(options):
            if counts[type(option.label), option.label] > 1:
                if options.count(option) > 1 and not option.nodes:
                    raise ValueError(f"choice lists a value twice (got {option.label!r})")
                options[index] = Option(rename(option, index), option.fixed, option.nodes)
    return tuple(options)


def _described(option: Option, index: int) -> str:
    fixed = option.fixed if isinstance(option.fixed, dict) else {}
    others = [f"{key}={value}" for key, value in fixed.items() if key != "name" and not isinstance(value, Mapping)]
    return ", ".join([str(option.label), *others])


def split(value: Any, key: str = "") -> tuple[Any, dict[str, Node]]:
    """Separates what a part of the YAML fixes from what is searched in it, by dotted key below `key`.

    An item of a list that is searched leaves a value in the list, to be replaced.
    """
    if is_node(value):
        return MISSING, {key: parse_node(value)}
    if isinstance(value, Mapping):
        fixed: dict[Any, Any] = {}
        nodes: dict[str, Node] = {}
        for name, item in value.items():
            inner, found = split(item, join(key, str(name)))
            nodes |= found
            if inner is not MISSING:
                fixed[name] = inner
        return fixed, nodes
    if isinstance(value, list):
        parts = [split(item, join(key, str(index))) for index, item in enumerate(value)]
        items = [first_value(next(iter(found.values()))) if inner is MISSING else inner for inner, found in parts]
        return items, {name: node for _, found in parts for name, node in found.items()}
    return value, {}


def first_value(node: Node) -> Any:
    """A value that stands for a searched one where something must stand."""
    if isinstance(node, Expr):
        return 1
    if isinstance(node, Branches):
        option = node.options[0]
        return first_value(option.nodes[""]) if option.fixed is MISSING else option.fixed
    return node.decode(node.extremes()[0])


def dump_node(node: Node) -> Any:
    """The node as YAML has it."""
    if isinstance(node, Expr):
        return {"expr": node.expr}
    return node.written if isinstance(node, Branches) else node.model_dump(mode="json")


def says(value: Any, key: str) -> bool:
    """Whether a part of the YAML says something of a dotted key below it; what is searched as a whole does of all."""
    for part in key.split("."):
        if is_node(value):
            return True
        if not isinstance(value, Mapping) or part not in value:
            return False
        value = value[part]
    return True


def join(key: str, inner: str) -> str:
    return f"{key}.{inner}" if key and inner else key or inner


# -- the tree --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Leaf:
    """A distribution or expression in the tree; `name` is its parameter's in the sampler, `where` its place."""

    key: str
    name: str
    node: Distribution | Expr
    where: str
    selects: bool = False
    """Whether other keys depend on its value."""


class Tree:
    """The searched keys of a space, in the order of drawing: names and branches first, they decide what else exists.

    Args:
        nodes: by dotted key.
        is_active: (key, configuration so far) -> whether the trial has the key.
    """

    def __init__(self, nodes: Mapping[str, Node], is_active: Callable[[str, Mapping[str, Scalar]], bool]) -> None:
        first = [key for key, node in nodes.items() if key.endswith(".name") or isinstance(node, Branches)]
        self.nodes = {key: nodes[key] for key in dict.fromkeys([*sorted(first, key=_depth), *nodes])}
        self._is_active = is_active
        self._counts: Counter[str] = Counter()
        self._counts.update([leaf.name for leaf in self.leaves()])  # by names that do not yet tell branches apart

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tree) and self.nodes == other.nodes

    __hash__ = None  # type: ignore[assignment]

    def leaves(self) -> Iterator[Leaf]:
        """All distributions and expressions, the choices between branches among them."""
        for key, node in self.nodes.items():
            yield from self._leaves(key, node, (), f"search.{key}")

    def _leaves(self, key: str, node: Node, labels: tuple[Scalar, ...], where: str) -> Iterator[Leaf]:
        if not isinstance(node, Branches):
            yield Leaf(key, self._name(key, labels), node, where, key.endswith(".name"))
            return
        yield Leaf(node.selector(key), self._selector_name(key, node, labels), node.labels, where, True)
        for index, option in enumerate(node.options):
            for inner, child in option.nodes.items():
                place = join(f"{where}.choice.{index}", inner)
                yield from self._leaves(join(key, inner), child, (*labels, option.label), place)

    def _name(self, key: str, labels: Iterable[Scalar]) -> str:
        """The parameter's name in the sampler: the key, and its branch where others search the same key."""
        return f"{key} ({', '.join(map(str, labels))})" if self._counts[key] > 1 and labels else key

    def _selector_name(self, key: str, node: Branches, labels: Iterable[Scalar]) -> str:
        return self._name(node.selector(key) if node.has_keys else f"{key}.choice", labels)

    def draw(self, suggest: Suggest) -> dict[str, Scalar]:
        """A configuration, each value asked of `suggest`; keys that it does not have are not asked for."""
        config: dict[str, Scalar] = {}
        for key, node in self.nodes.items():
            if self._is_active(key, config):
                self._draw(key, node, (), config, suggest)
        return config

    def _draw(
        self, key: str, node: Node, labels: tuple[Scalar, ...], config: dict[str, Scalar], suggest: Suggest
    ) -> None:
        if isinstance(node, Expr):
            return
        if not isinstance(node, Branches):
            value = suggest(self._name(key, labels), key, node)
            if value is not MISSING:
                config[key] = value
            return
        selector = node.selector(key)
        label = suggest(self._selector_name(key, node, labels), selector, node.labels)
        if label is MISSING:
            return
        option = next(o for o in node.options if type(o.label) is type(label) and o.label == label)
        if node.has_keys or option.fixed is not MISSING or isinstance(option.nodes.get(""), Expr):
            config[selector] = label
        for inner, child in option.nodes.items():
            self._draw(join(key, inner), child, (*labels, option.label), config, suggest)

    def apply(self, config: Mapping[str, Scalar], assign: Callable[[str, Any], None]) -> None:
        """Tells `assign` the value, or Expr, of every key that the configuration decides."""
        for key, node in self.nodes.items():
            if self._is_active(key, config):
                self._apply(key, node, config, assign)

    def _apply(self, key: str, node: Node, config: Mapping[str, Scalar], assign: Callable[[str, Any], None]) -> None:
        if isinstance(node, Expr):
            assign(key, node)
        elif isinstance(node, Branches):
            option = node.chosen(key, config)
            if option.fixed is not MISSING:
                assign(key, option.fixed)
            for inner, child in option.nodes.items():
                self._apply(join(key, inner), child, config, assign)
        elif key in config:
            assign(key, node.decode(config[key]))

    def encode(self, config: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """The sampler's parameters for what a configuration, or part of one, says."""
        return {name: value for name, _, value in self._parameters(config)}

    def encoded_keys(self, config: Mapping[str, Scalar]) -> set[str]:
        """The keys whose values `encode` gives, those among them that the configuration only implies included."""
        return {key for _, key, _ in self._parameters(config)}

    def _parameters(self, config: Mapping[str, Scalar]) -> Iterator[tuple[str, str, Scalar]]:
        for key, node in self.nodes.items():
            if self._is_active(key, config):
                yield from self._encode(key, node, (), config)

    def _encode(
        self, key: str, node: Node, labels: tuple[Scalar, ...], config: Mapping[str, Scalar]
    ) -> Iterator[tuple[str, str, Scalar]]:
        """(parameter's name, key, value) of what the configuration says of a node."""
        if isinstance(node, Branches):
            option = node.find(key, config)
            if option is None:
                return
            yield self._selector_name(key, node, labels), node.selector(key), option.label
            for inner, child in option.nodes.items():
                yield from self._encode(join(key, inner), child, (*labels, option.label), config)
        elif not isinstance(node, Expr) and key in config and node.contains(config[key]):
            yield self._name(key, labels), key, config[key]

    def enumerate(self, values: Callable[[str, str, Distribution], Any]) -> Iterator[dict[str, Scalar]]:
        """Every configuration whose values are among `values(name, key, distribution)`, sequences of at least one."""
        path: list[int] = []
        while True:
            counts: list[int] = []

            def suggest(name: str, key: str, node: Distribution, counts: list[int] = counts) -> Any:
                options = values(name, key, node)
                index = len(counts)
                counts.append(len(options))
                if index == len(path):
                    path.append(0)
                return options[path[index]]

            yield self.draw(suggest)
            while path and path[-1] == counts[len(path) - 1] - 1:
                path.pop()
            if not path:
                return
            path[-1] += 1


def _depth(key: str) -> int:
    return key.count(".")
