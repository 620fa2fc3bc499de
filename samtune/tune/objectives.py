"""What a space optimises, as the search's records know it."""

from __future__ import annotations

from samtune.config.space import SearchSpace
from samtune.study import Objective

SCORE = "objective"
"""Key of a result of Tune's: the first objective after the epochs so far, which schedulers compare."""


def objectives_of(space: SearchSpace) -> tuple[Objective, ...]:
    """The objectives of a space, the first one deciding where only one can."""
    return tuple(Objective(config.metric, config.mode, config.epochs) for config in space.objectives)
