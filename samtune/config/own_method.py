"""A training method of the user's: a rule by import path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import ConfigDict, Field

from samtune.config.base import ImportPath
from samtune.config.method_base import PerturbedConfig
from samtune.errors import UsageError, one_line
from samtune.user_code import resolve_function

if TYPE_CHECKING:
    from samtune.sam.rules.base import Rule


class OwnMethodConfig(PerturbedConfig):
    """A method of one's own: a subclass of `samtune.sam.Rule`. Its options may stand beside the name."""

    model_config = ConfigDict(json_schema_extra={"additionalProperties": True})
    rule: ClassVar[str] = ""

    name: ImportPath
    """`package.module:Class` or `module.py:Class`, called with the parameters, the seed and the options."""

    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the class; those that no method of samtune has may be written beside the name instead."""
    passes: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 2.0
    """Forward+backward passes that a step of the rule costs, for the plan and `training.passes`. What a trial really
    made is counted (`num_passes`)."""

    def make_rule(self, parameters: Sequence[Any], seed: int) -> Rule:
        from samtune.sam.method import checked_options
        from samtune.sam.rules.base import Rule

        cls = resolve_function(self.name, "method.name")
        try:
            rule = cls(parameters, seed, **checked_options(cls, self.options))
        except (TypeError, ValueError) as error:
            raise UsageError(f"method.name: {self.name} refuses its options: {one_line(error)}") from error
        if not isinstance(rule, Rule):
            raise UsageError(f"method.name: {self.name} must be a samtune.sam.Rule (got {type(rule).__name__})")
        return rule

    @property
    def _passes(self) -> float:
        return self.passes
