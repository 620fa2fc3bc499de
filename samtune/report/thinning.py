"""Which of many trials a figure shows: a page of ten thousand must open, and more points than pixels say nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import optuna

T = TypeVar("T")

MOST_POINTS = 1000
"""Trials that a figure of points shows."""
MOST_LINES = 250
"""Trials that a figure of lines shows."""
MOST_INTERPOLATED = 120
"""Trials that a map is interpolated between; it has as many cells as their square."""


def thinned(items: Sequence[T], most: int, rank: Callable[[T], Any]) -> list[T]:
    """At most `most` of the items, in their order: the best quarter of what is kept, and of the others every n-th.

    Args:
        rank: less is better.
    """
    if len(items) <= most:
        return list(items)
    order = sorted(range(len(items)), key=lambda index: rank(items[index]))
    chosen, others = set(order[: most // 4]), sorted(order[most // 4 :])
    room = most - len(chosen)
    chosen |= {others[index * len(others) // room] for index in range(room)}
    return [items[index] for index in sorted(chosen)]


def note(count: int, most: int) -> str:
    """What a caption says of the trials that are left out; empty where none is."""
    if count <= most:
        return ""
    return f" Of {count:,} trials, the best {most // 4} are shown and a sample of {most - most // 4} others."


def thinned_study(told: optuna.Study, most: int, *, maximize: bool) -> optuna.Study:
    """A copy in memory with at most `most` of the completed trials: the Pareto front, then by the first objective.

    Its trials are renumbered.
    """
    import optuna

    completed = told.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if len(completed) <= most:
        return told
    sign = -1.0 if maximize else 1.0
    front = {trial.number for trial in told.best_trials} if len(told.directions) > 1 else set()
    kept = thinned(completed, most, lambda trial: (trial.number not in front, sign * trial.values[0]))
    copy = optuna.create_study(directions=told.directions)
    copy.add_trials(kept)
    return copy
