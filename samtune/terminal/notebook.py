"""A search in a notebook: an HTML table that is updated in place, below whatever the cell has shown before."""

from __future__ import annotations

import threading
from pkgutil import resolve_name
from typing import Any

from samtune.formatting import (
    counted,
    format_clock,
    format_config,
    format_metric,
    format_seconds,
    format_value,
    searched_keys,
    short_names,
)
from samtune.html_table import html_table
from samtune.study import Study, Trial
from samtune.terminal.tally import Tally, TallyDisplay

REFRESH_SECONDS = 1.0
_MOST_ROWS = 20
_MOST_WARNINGS = 5


class NotebookDisplay(TallyDisplay):
    """Trials, the best so far, progress and the latest message. Its last state stays.

    It needs no widgets: the table is one output of the cell, which IPython replaces by its `display_id`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._handle: Any = None
        self._message = ""
        self._warnings: list[str] = []
        self._shown = ""
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._clock: threading.Thread | None = None

    def on_study_start(self, study: Study) -> None:
        super().on_study_start(study)
        self._refresh()
        self._clock = threading.Thread(target=self._tick, name="samtune-notebook", daemon=True)
        self._clock.start()

    def on_status(self, study: Study, message: str) -> None:
        if message.startswith("warning"):
            self._warnings.append(message)
        self._message = message

    def on_study_end(self, study: Study) -> None:
        self._over.set()
        if self._clock is not None:
            self._clock.join()
            self._clock = None
        self._message = study.stopped_by or ""
        self._refresh()

    def _tick(self) -> None:
        while not self._over.wait(REFRESH_SECONDS):
            self._refresh()

    def _refresh(self) -> None:
        with self._lock:
            if self._tally is None or (page := self.html(self._tally)) == self._shown:
                return
            self._shown = page
            output = resolve_name("IPython.display:HTML")(page)
            if self._handle is None:
                self._handle = resolve_name("IPython.display:display")(output, display_id=True)
            else:
                self._handle.update(output)

    def html(self, tally: Tally) -> str:
        """What is shown at this moment."""
        study, trials = tally.study, _shown(tally)
        names = short_names(searched_keys(trials))
        header = ["trial", "state", *map(str, study.objectives), *names.values(), "epoch", "time"]
        rows = [
            [
                f"{trial.number}{' (best)' if trial is tally.best else ''}",
                str(trial.state),
                *(format_metric(objective.value(trial)) for objective in study.objectives),
                *(format_value(trial.config[key]) if key in trial.config else "-" for key in names),
                f"{len(trial.history)}/{trial.num_epochs}",
                format_seconds(tally.seconds_of(trial)),
            ]
            for trial in trials
        ]
        hidden = len(tally.running) + len(tally.ended) - len(trials)
        below = [f"… and {counted(hidden, 'other trial')}"] if hidden else []
        if best := tally.best:
            value = format_metric(study.objective.value(best))
            below.append(f"best {study.objective} {value} (trial {best.number}: {format_config(best.config)})")
        left = None if self._over.is_set() else tally.seconds_left
        done = f"{len(tally.ended)} of {counted(study.num_trials, 'trial')} in {format_clock(tally.seconds)}"
        below.append(done + (f", {format_clock(left)} left" if left is not None else ""))
        more = [*self._warnings[-_MOST_WARNINGS:], *([self._message] if self._message else [])]
        return html_table(f"{study.name}: {study.goal}", header, rows, [*below, *dict.fromkeys(more)])


def _shown(tally: Tally) -> list[Trial]:
    """Those that run, and the best of the others; by number."""
    everyone = list(tally.running.values())  # other threads change it
    running = sorted(everyone, key=lambda trial: trial.number)[-_MOST_ROWS:]
    ranked = tally.ranked[: _MOST_ROWS - len(running)]
    return sorted([*running, *ranked], key=lambda trial: trial.number)
