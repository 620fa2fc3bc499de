"""The keys of one trial and their values, expressions computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import PydanticUndefined

from samtune.config.expressions import Absent
from samtune.config.inline import classes_of
from samtune.config.training import DEFAULT_EPOCHS
from samtune.config.tree import Expr
from samtune.config.yaml_source import fields_of


class ExpressionError(ValueError):
    """An expression has no value in a trial; `key` is the key that it stands for."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}")
        self.key, self.problem = key, problem


class Values:
    """The values of a trial by dotted key, defaults included.

    Args:
        sections: what is set of each section; expressions in it are replaced by their values.
        names: name in an expression -> the dotted key that it means.
        more: keys that expressions may use and that are in no section.
    """

    def __init__(self, sections: dict[str, Any], names: Mapping[str, str], more: Mapping[str, Any]) -> None:
        self._sections, self._names, self._more = sections, names, more
        self._open: list[str] = []

    def assign(self, key: str, value: Any) -> None:
        """Sets a key; a mapping is copied, so that keys below it can be set."""
        holder, last = self._holder(key, create=True)
        holder[last] = _copied(value)

    def compute(self) -> dict[str, Any]:
        """The sections with every expression replaced by its value. Raises ExpressionError where one has none."""
        for key in list(_expressions(self._sections)):
            self.value(key)
        return self._sections

    def lookup(self, name: str) -> Any:
        """The value of a name in an expression. Raises Absent where the trial has no such key."""
        return self.value(self._names[name])

    def value(self, key: str) -> Any:
        """The value of a dotted key."""
        if key in self._more:
            return self._more[key]
        try:
            holder, last = self._holder(key)
            value = holder[last]
        except LookupError:
            return self._default(key)
        return self._computed(key, value) if isinstance(value, Expr) else value

    def _computed(self, key: str, expr: Expr) -> Any:
        if key in self._open:
            circle = " -> ".join([*self._open[self._open.index(key) :], key])
            raise ExpressionError(key, f"expressions go in a circle: {circle}")
        self._open.append(key)
        try:
            value = expr.expression.evaluate(self.lookup)
        except Absent as absent:
            raise ExpressionError(key, f"{expr.expr!r} uses {absent}, which the trial does not have") from None
        except ExpressionError:
            raise
        except ValueError as error:
            raise ExpressionError(key, str(error)) from None
        finally:
            self._open.pop()
        holder, last = self._holder(key)
        holder[last] = value
        return value

    def _holder(self, key: str, create: bool = False) -> tuple[Any, Any]:
        """The mapping or list that holds a key, and the key in it."""
        *path, last = key.split(".")
        holder: Any = self._sections
        for part in path:
            if isinstance(holder, list):
                holder = holder[int(part)]
                continue
            if create and not isinstance(holder.get(part), dict | list):
                holder[part] = {}
            holder = holder[part]
        if not isinstance(holder, dict | list):
            raise KeyError(key)
        return holder, int(last) if isinstance(holder, list) else last

    def _default(self, key: str) -> Any:
        section, *path = key.split(".")
        classes = classes_of(section, self._sections[section].get("name"))
        field = fields_of(classes[0]).get(path[0]) if len(classes) == 1 else None
        if field is None:
            raise Absent(key)
        value = field.get_default(call_default_factory=True, validated_data={})
        for part in path[1:]:
            value = getattr(value, part, PydanticUndefined)
        if value is PydanticUndefined:
            raise Absent(key)
        if key == "training.epochs" and self.value("training.passes") is None:
            return DEFAULT_EPOCHS
        return value


def _expressions(tree: Any, prefix: str = "") -> list[str]:
    if isinstance(tree, Expr):
        return [prefix[:-1]]
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [key for name, item in items for key in _expressions(item, f"{prefix}{name}.")]


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value
