"""The results of a search, as objects and as a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from samtune.errors import RunError
from samtune.records import Study, Trial

if TYPE_CHECKING:
    import pandas as pd


HOPELESS = "every trial failed"
"""Why a search ended that had only failures."""


class Results:
    """The trials of a finished search, the best first.

    Attributes:
        study: everything that was recorded.
        interrupted: whether Ctrl-C ended the search before all trials were done.
    """

    def __init__(self, study: Study, *, interrupted: bool = False) -> None:
        self.study, self.interrupted = study, interrupted

    def __iter__(self) -> Iterator[Trial]:
        return iter(self.study.ranked())

    def __len__(self) -> int:
        return len(self.study.trials)

    @property
    def best(self) -> Trial:
        """The completed trial with the best objective: `best.config`, `best.metrics["val_accuracy"]`.

        Raises:
            RunError: no trial was completed.
        """
        if self.study.best is None:
            raise RunError(f"study {self.study.name}: no trial was completed")
        return self.study.best

    def to_pandas(self) -> pd.DataFrame:
        """One row per trial, the best first: number, state, seconds, searched keys, metrics of the last epoch."""
        import pandas as pd

        rows = [
            {
                "trial": trial.number,
                "state": str(trial.state),
                "seconds": trial.seconds,
                **trial.config,
                **trial.metrics,
            }
            for trial in self
        ]
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        best = self.study.best
        value = f", best {self.study.objective.metric} {self.study.objective.value(best):.4g}" if best else ""
        return f"Results({self.study.name!r}, {len(self)} trials{value})"


class SearchFailedError(RunError):
    """No trial succeeded. `results` has what became of them."""

    def __init__(self, message: str, results: Results) -> None:
        super().__init__(message)
        self.results = results
