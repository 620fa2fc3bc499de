"""Whether a search has trials enough for a figure that says what a key does."""

from __future__ import annotations

from samtune.errors import RunError
from samtune.formatting import counted, searched_keys
from samtune.study import Study, TrialState

TRIALS_PER_KEY = 10
"""Of completed trials. With fewer, importances and maps show what the few draws happened to be."""


_OF_A_SEARCH = ("rho", "history", "importances", "slices", "contour", "parallel", "pareto")


def check_kind(study: Study, kind: str) -> None:
    """Raises RunError where a figure is of what was searched, and the study is a confirmation."""
    if study.kind == "confirmation" and kind in _OF_A_SEARCH:
        raise RunError("a confirmation repeats its candidates; nothing was searched")


def check_enough(study: Study) -> None:
    """For importances and for a map of two keys.

    Raises:
        RunError: too few trials were completed for as many keys as were searched.
    """
    completed = [trial for trial in study if trial.state is TrialState.COMPLETED]
    num_keys = len(searched_keys(completed))
    if len(completed) < (needed := TRIALS_PER_KEY * num_keys):
        raise RunError(
            f"it takes {needed} completed trials, {TRIALS_PER_KEY} for each of {counted(num_keys, 'searched key')}; "
            f"this search has {len(completed)}"
        )
