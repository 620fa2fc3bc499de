"""What Tune shows of a search: nothing in a notebook, and no errors about files that nobody reads. samtune shows it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.tune import ProgressReporter
from ray.tune.execution import experiment_state

from samtune.notebook import in_notebook


class SilentReporter(ProgressReporter):
    """Tune's own would erase the earlier output of the cell as it is made, whatever its verbosity is."""

    def should_report(self, trials: Any, done: bool = False) -> bool:
        return False

    def report(self, trials: Any, done: bool, *sys_info: str) -> None:
        """Is not called."""


def progress_reporter() -> ProgressReporter | None:
    """The one for `tune.RunConfig`; None outside notebooks, where Tune has none and warns of any."""
    return SilentReporter() if in_notebook() else None


@contextmanager
def silent_tune() -> Iterator[None]:
    """Tune says nothing in the body about the state that it keeps of a search, nor about actors.

    samtune resumes from its own journal. Tune copies its state in a thread while it writes it anew: of a search that
    ends at once, such as one that Ctrl-C ends, it logged a traceback where a file had gone meanwhile. And it advises
    population based training to keep its actors, of which there are none.
    """
    warnings.filterwarnings("ignore", message="Consider boosting PBT performance")
    logger = experiment_state.logger
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)
