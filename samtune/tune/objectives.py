"""The objectives of a study, as its records know them."""

from __future__ import annotations

from typing import Protocol

from samtune.config.search import ObjectiveConfig
from samtune.study import Objective

SCORE = "objective"
"""Key of a result of Tune's: the first objective after the epochs so far, which schedulers compare."""


class HasObjectives(Protocol):
    @property
    def objectives(self) -> tuple[ObjectiveConfig, ...]: ...


def objectives_of(definition: HasObjectives) -> tuple[Objective, ...]:
    """The objectives of a space or a list of candidates, the first one deciding where only one can."""
    return tuple(Objective(config.metric, config.mode, config.epochs) for config in definition.objectives)
