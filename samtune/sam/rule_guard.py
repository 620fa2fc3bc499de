"""What a rule that is not samtune's own must keep to, checked while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from samtune.sam import vectors
from samtune.sam.rules.base import Rule
from samtune.sam.weights import Weights

if TYPE_CHECKING:
    from samtune.sam.m_group import MGroup


class RuleError(ValueError):
    """A rule of the user's breaks the contract of `Rule`."""


class RuleGuard:
    """Runs a rule and makes sure that it hands over vectors of the right shapes, a share, and the weights as they were.

    Shapes and the share are looked at in every group. Whether w is restored takes a copy of it, so it is looked at
    once per epoch: set `is_due`.

    Args:
        rule: the rule.
        weights: its parameters.
    """

    def __init__(self, rule: Rule, weights: Weights) -> None:
        self.rule, self.weights = rule, weights
        self.is_due = True
        """Whether the next group's weights are compared before and after."""

    def __call__(self, group: MGroup) -> None:
        """Raises RuleError where the rule breaks its contract."""
        before = vectors.copies(self.weights.parameters) if self.is_due else None
        self.is_due = False
        returned: object = self.rule(group)  # type: ignore[func-returns-value]
        self.weights.restore()
        if returned is not None:
            raise RuleError(
                f"{self._name} must return nothing (it returned {type(returned).__name__}): "
                "it hands its share over with group.descend() or group.contribute()"
            )
        if not group.has_share:
            raise RuleError(f"{self._name} must end in group.descend() or group.contribute(): it called neither")
        for index, old in enumerate(before or ()):
            if not _same(old, self.weights.parameters[index]):
                raise RuleError(
                    f"{self._name} moved {self._parameter(index)} and left it there: "
                    "move weights with group.perturb(), after which they are restored"
                )

    def check_vector(self, call: str, vector: Sequence[Tensor]) -> None:
        """Raises RuleError unless a vector has one tensor of the right shape for each parameter."""
        parameters = self.weights.parameters
        if len(vector) != len(parameters):
            count = f"{len(parameters)} tensors, one for each parameter"
            raise RuleError(f"{self._name}: group.{call} takes {count} (got {len(vector)})")
        for index, (part, parameter) in enumerate(zip(vector, parameters, strict=True)):
            if part.shape != parameter.shape:
                raise RuleError(
                    f"{self._name}: group.{call} takes tensors of the parameters' shapes: {self._parameter(index)} has "
                    f"{list(parameter.shape)} (got {list(part.shape)})"
                )

    @property
    def _name(self) -> str:
        return f"the rule {type(self.rule).__qualname__}"

    def _parameter(self, index: int) -> str:
        return self.rule.names[index] or f"parameter {index}"


def guard_of(rule: Rule, weights: Weights) -> RuleGuard | None:
    """A guard for a rule of the user's; None for samtune's own, which tests look after."""
    return None if type(rule).__module__.startswith("samtune.") else RuleGuard(rule, weights)


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have the same values; NaN is the same as NaN."""
    return not bool(((a != b) & ~(torch.isnan(a) & torch.isnan(b))).any())
