"""A trial with its choices still open: the sections as a tree, of which configurations are drawn.

A *configuration* is what a search draws: dotted key -> plain value. Of a choice between branches it holds which one was
taken, under `KEY.name` where the branches have names of their own, else under KEY itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from samtune.config.distributions import Distribution
from samtune.config.located import Located, Place, join, locate
from samtune.config.searched import MISSING, Branches, Expr, Node, Option, is_parsed, searched_in
from samtune.config.sections import keys_of
from samtune.config.trial import OPEN_SECTION, SECTIONS
from samtune.study import Scalar

Suggest = Callable[[str, str, Distribution], Any]
"""(parameter's name, key, distribution) -> value, or MISSING to leave the key out."""


@dataclass(frozen=True)
class Leaf:
    """A distribution or expression in the tree; `name` is its parameter's in the sampler."""

    key: str
    name: str
    node: Distribution | Expr
    place: Place
    selects: bool = False
    """Whether other keys depend on its value."""


class Template:
    """The sections of a trial, and what is searched in them.

    Args:
        sections: by name; what is searched where its value would stand is in them.
        listed: what is searched by its dotted key (`search: {training.lr: …}`).
        source: what messages call the file.

    Attributes:
        nodes: dotted key -> what is searched, in the order of drawing: names and branches first, they decide what else
            exists.
    """

    def __init__(self, sections: Mapping[str, Located], listed: Mapping[str, Located], source: str = "") -> None:
        self.sections = {s: sections.get(s) or listed.get(s) or Located({}, Place(source, s)) for s in SECTIONS}
        self.listed = {key: node for key, node in listed.items() if key not in SECTIONS}
        inline = {key: node for s, node in sections.items() for key, node in searched_in(node, s)}
        found = inline | dict(listed)
        first = [key for key, node in found.items() if key.endswith(".name") or isinstance(node.value, Branches)]
        self.located = {key: found[key] for key in dict.fromkeys([*sorted(first, key=_depth), *found])}
        self.nodes: dict[str, Node] = {key: node.value for key, node in self.located.items()}
        self._counts: Counter[str] = Counter()
        self._counts.update([leaf.name for leaf in self.leaves()])  # by names that do not yet tell branches apart

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, Template)
        return same and (self.sections, self.listed) == (other.sections, other.listed)  # type: ignore[attr-defined]

    __hash__ = None  # type: ignore[assignment]

    # -- which keys exist --------------------------------------------------------------------------------------------

    def is_active(self, key: str, config: Mapping[str, Scalar]) -> bool:
        """Whether a searched key exists, given the names drawn so far (`method.rho` does not with `sgd`)."""
        section, _, path = key.partition(".")
        if path in ("", "name") or section == OPEN_SECTION:
            return True
        return path.partition(".")[0] in self.fields(section, self.name(section, config))

    def fields(self, section: str, name: Any = None) -> list[str]:
        """The keys of a section: of the class called `name`, or of every class that the search can choose."""
        names = [name] if name is not None else self.names(section)
        return list(dict.fromkeys(key for n in names for key in keys_of(section, n)))

    def names(self, section: str) -> list[Any]:
        """The names that a section can have; None where it has none."""
        whole, name = self.nodes.get(section), self.nodes.get(f"{section}.name")
        if isinstance(whole, Branches):
            return [option.name for option in whole.options]
        if name is not None and not isinstance(name, Expr):
            return list((name.labels if isinstance(name, Branches) else name).extremes())
        return [self._written_name(section)]

    def name(self, section: str, config: Mapping[str, Scalar]) -> Any:
        """The name of a section in a configuration; where that does not say, as written, or the first that fits."""
        whole = self.nodes.get(section)
        if isinstance(whole, Branches):
            return whole.chosen(section, config).name
        key = f"{section}.name"
        if key in config:
            return config[key]
        written = self._written_name(section)
        if written is not None or key not in self.nodes:
            return written
        fixed, names = self.sections[section].value.keys() - {"name"}, self.names(section)
        return next((name for name in names if fixed <= set(keys_of(section, name))), names[0])

    def _written_name(self, section: str) -> Any:
        name = self.sections[section].child("name")
        return None if name is None or is_parsed(name.value) else name.plain()

    # -- the search --------------------------------------------------------------------------------------------------

    def leaves(self) -> Iterator[Leaf]:
        """All distributions and expressions, the choices between branches among them."""
        for key, located in self.located.items():
            yield from self._leaves(key, located, ())

    def _leaves(self, key: str, located: Located, labels: tuple[Scalar, ...]) -> Iterator[Leaf]:
        node = located.value
        if not isinstance(node, Branches):
            yield Leaf(key, self._name(key, labels), node, located.place, key.endswith(".name"))
            return
        yield Leaf(node.selector(key), self._selector_name(key, node, labels), node.labels, located.place, True)
        for option in node.options:
            for inner, child in option.nodes.items():
                yield from self._leaves(join(key, inner), child, (*labels, option.label))

    def _name(self, key: str, labels: Iterable[Scalar]) -> str:
        """The parameter's name in the sampler: the key, and its branch where others search the same key."""
        return f"{key} ({', '.join(map(str, labels))})" if self._counts[key] > 1 and labels else key

    def _selector_name(self, key: str, node: Branches, labels: Iterable[Scalar]) -> str:
        return self._name(node.selector(key) if node.has_keys else f"{key}.choice", labels)

    def draw(self, suggest: Suggest) -> dict[str, Scalar]:
        """A configuration, each value asked of `suggest`; keys that it does not have are not asked for."""
        config: dict[str, Scalar] = {}
        for key, node in self.nodes.items():
            if self.is_active(key, config):
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
        if _is_told(node, option):
            config[selector] = label
        for inner, child in option.nodes.items():
            self._draw(join(key, inner), child.value, (*labels, option.label), config, suggest)

    def encode(self, config: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """The sampler's parameters for what a configuration, or part of one, says."""
        return {name: value for name, _, value in self._parameters(config)}

    def encoded_keys(self, config: Mapping[str, Scalar]) -> set[str]:
        """The keys whose values `encode` gives, those among them that the configuration only implies included."""
        return {key for _, key, _ in self._parameters(config)}

    def _parameters(self, config: Mapping[str, Scalar]) -> Iterator[tuple[str, str, Scalar]]:
        for key, node in self.nodes.items():
            if self.is_active(key, config):
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
                yield from self._encode(join(key, inner), child.value, (*labels, option.label), config)
        elif not isinstance(node, Expr) and key in config and node.contains(config[key]):
            yield self._name(key, labels), key, node.encode(config[key])

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

    def completions(self, config: Mapping[str, Scalar]) -> Iterator[Mapping[str, Scalar]]:
        """A part of a configuration as it is, and with the other keys at their first and at their last values."""
        yield config
        params = self.encode(config)
        for end in (0, -1):

            def suggest(name: str, key: str, node: Distribution, end: int = end) -> Any:
                return params.get(name, node.extremes()[end])

            complete = self.draw(suggest)
            if config.items() <= complete.items():
                yield complete

    # -- one trial ---------------------------------------------------------------------------------------------------

    def resolve(self, config: Mapping[str, Scalar]) -> Located:
        """The sections with the values of a configuration in place of what is searched; expressions are left.

        A key that the configuration does not say has the value that is written beside the search, or is left out.
        """
        sections: dict[str, Located] = {}
        for section, node in self.sections.items():
            resolved = _resolved(node, section, config)
            sections[section] = self._with_name(section, resolved, config)
        root = Located(sections, Place(self.sections["data"].place.source))
        for key, node in self.listed.items():
            if self.is_active(key, config) and (value := _resolved(node, key, config)) is not MISSING:
                _assign(root, key.split("."), value)
        return root

    def _with_name(self, section: str, resolved: Located, config: Mapping[str, Scalar]) -> Located:
        """A section whose name is searched has only the keys of the class that is chosen."""
        searched = self.located.get(f"{section}.name")
        if searched is None or not isinstance(resolved.value, dict):
            return resolved
        name = self.name(section, config)
        gone = set(self.fields(section)) - set(self.fields(section, name))
        kept = {key: value for key, value in resolved.value.items() if key not in gone}
        at = resolved.child("name")
        named = at if at is not None and at.value == name else Located(name, searched.place)
        return resolved.with_items({"name": named, **{k: v for k, v in kept.items() if k != "name"}})


def _is_told(node: Branches, option: Option) -> bool:
    """Whether a configuration says that the option was taken; else the value that is drawn in it does."""
    return node.has_keys or not option.is_searched or isinstance(option.body.value, Expr)


def _resolved(node: Located, key: str, config: Mapping[str, Scalar]) -> Any:
    """A part of the tree with a configuration's values; MISSING where it has none."""
    value = node.value
    if isinstance(value, dict):
        items = {name: _resolved(item, join(key, name), config) for name, item in value.items()}
        return node.with_items({name: item for name, item in items.items() if item is not MISSING})
    if isinstance(value, list):
        return node.with_items([_item(item, join(key, str(index)), config) for index, item in enumerate(value)])
    if isinstance(value, Branches):
        return _resolved(value.chosen(key, config).body, key, config)
    if isinstance(value, Distribution):
        return locate(value.decode(config[key]), node.place) if key in config else MISSING
    return node


def _item(node: Located, key: str, config: Mapping[str, Scalar]) -> Located:
    """An item of a list, which cannot be left out: the first of its values where the configuration does not say."""
    found: Any = _resolved(node, key, config)
    if found is MISSING:
        found = locate(node.value.decode(node.value.extremes()[0]), node.place)
    return found  # type: ignore[no-any-return]


def _assign(root: Located, path: list[str], value: Located) -> None:
    """Sets a value in a tree that is nobody else's."""
    node = root
    for part in path[:-1]:
        inner = node.child(part)
        if inner is None or not isinstance(inner.value, dict | list):
            inner = Located({}, value.place)
            _put(node, part, inner)
        node = inner
    _put(node, path[-1], value)


def _put(node: Located, part: str, value: Located) -> None:
    if isinstance(node.value, dict):
        node.value[part] = value
    elif part.isdecimal() and int(part) < len(node.value):
        node.value[int(part)] = value


def _depth(key: str) -> int:
    return key.count(".")
