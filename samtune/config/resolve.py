"""Resolves a configuration to its trial."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticUndefined

from samtune.config.expressions import Absent, Expression
from samtune.config.located import Located, Problem, RefusedError, leaves
from samtune.config.problems import problems_of
from samtune.config.searched import Expr
from samtune.config.sections import classes_of, fields_of
from samtune.config.template import Template
from samtune.config.training import DEFAULT_EPOCHS
from samtune.config.trial import TrialSpec
from samtune.study import Scalar


@dataclass(frozen=True)
class Resolver:
    """Resolves the configurations of a template.

    Attributes:
        settings: keys that expressions may use and that are in no section, with their values.
        names: name in an expression -> the dotted key that it means.
        constraints: conditions on a trial's keys.
        fixed: what every trial has besides its sections.
    """

    template: Template
    settings: Mapping[str, Any]
    names: Mapping[str, str] = field(default_factory=dict)
    constraints: tuple[Expression, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def sections(self, config: Mapping[str, Scalar]) -> Located:
        """The sections of a trial, expressions computed.

        Raises:
            RefusedError: an expression has no value.
        """
        values = _Values(self, config)
        values.compute()
        return values.root

    def trial(self, config: Mapping[str, Scalar]) -> tuple[TrialSpec, Located]:
        """The trial of a configuration, and the values that it was made of.

        Raises:
            RefusedError: an expression has no value, or the values break rules.
        """
        root = self.sections(config)
        return self.validate(root), root

    def first_trial(self, configs: Iterable[Mapping[str, Scalar]]) -> TrialSpec:
        """The trial of the first of some configurations that is valid; raises as `trial` does of the first."""
        refused: RefusedError | None = None
        for config in configs:
            try:
                return self.trial(config)[0]
            except RefusedError as error:
                refused = refused or error
        assert refused is not None
        raise refused

    def validate(self, sections: Located) -> TrialSpec:
        """The trial of resolved sections. Raises RefusedError where they break rules."""
        try:
            return TrialSpec.model_validate({**sections.plain(), **self.fixed})
        except ValidationError as error:
            raise RefusedError(problems_of(error, TrialSpec, sections)) from None

    def violations(self, config: Mapping[str, Scalar]) -> list[float]:
        """By how much a configuration misses each constraint; 0 where it holds.

        Raises:
            ValueError: (RefusedError included) an expression or constraint has no value.
        """
        if not self.constraints:
            return []
        values = _Values(self, config)
        values.compute()
        return [constraint.violation(values.lookup) for constraint in self.constraints]


class _Values:
    """The values of one trial by dotted key, defaults included."""

    def __init__(self, resolver: Resolver, config: Mapping[str, Scalar]) -> None:
        self.root = resolver.template.resolve(config)
        self._resolver = resolver
        self._open: list[str] = []

    def compute(self) -> None:
        """Replaces every expression by its value."""
        for path, node in list(leaves(self.root)):
            if isinstance(node.value, Expr):
                self.value(".".join(map(str, path)))

    def lookup(self, name: str) -> Any:
        """The value of a name in an expression. Raises Absent where the trial has no such key."""
        return self.value(self._resolver.names[name])

    def value(self, key: str) -> Any:
        """The value of a dotted key."""
        if key in self._resolver.settings:
            return self._resolver.settings[key]
        *path, last = key.split(".")
        holder = self.root.at(path)
        node = holder.child(last) if holder is not None else None
        if node is None or holder is None or (node.value is None and key == "training.epochs"):
            return self._default(key)
        if not isinstance(node.value, Expr):
            return node.plain()
        computed = replace(node, value=self._computed(key, node))
        holder.value[int(last) if isinstance(holder.value, list) else last] = computed
        return computed.value

    def _computed(self, key: str, node: Located) -> Any:
        expr: Expr = node.value
        if key in self._open:
            circle = " -> ".join([*self._open[self._open.index(key) :], key])
            raise RefusedError([Problem(node.place, f"expressions go in a circle: {circle}")])
        self._open.append(key)
        try:
            return expr.expression.evaluate(self.lookup)
        except Absent as absent:
            problem = f"{expr.expr!r} uses {absent}, which the trial does not have"
            raise RefusedError([Problem(node.place, problem)]) from None
        except RefusedError:
            raise
        except ValueError as error:
            raise RefusedError([Problem(node.place, str(error))]) from None
        finally:
            self._open.pop()

    def _default(self, key: str) -> Any:
        section, *path = key.split(".")
        name = self.root.at((section, "name"))
        classes = classes_of(section, name.value if name is not None else None)
        field_info = fields_of(classes[0]).get(path[0]) if len(classes) == 1 else None
        if field_info is None:
            raise Absent(key)
        value = field_info.get_default(call_default_factory=True, validated_data={})
        for part in path[1:]:
            value = getattr(value, part, PydanticUndefined)
        if value is PydanticUndefined:
            raise Absent(key)
        if key == "training.epochs" and self.value("training.passes") is None and self.value("training.steps") is None:
            return DEFAULT_EPOCHS
        return value
