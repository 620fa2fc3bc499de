"""What Tune shows of a search in a notebook: nothing. samtune shows it."""

from __future__ import annotations

from typing import Any

from ray.tune import ProgressReporter

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
