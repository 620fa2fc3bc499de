"""A search in a log file or a pipe: one line per event."""

from __future__ import annotations

import threading
import time

from rich.console import Console
from rich.text import Text

from samtune.formatting import counted, first_line, format_clock, format_config, format_metric, format_seconds
from samtune.study import Study, Trial, TrialState
from samtune.terminal.tally import TallyDisplay

HEARTBEAT_SECONDS = 30.0  # a trial that runs longer says now and then how it is doing


class PlainDisplay(TallyDisplay):
    """One line per ended trial and message, and for long trials one every half minute. No control codes."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._spoken_at: dict[str, float] = {}
        self._lock = threading.Lock()

    def on_study_start(self, study: Study) -> None:
        super().on_study_start(study)
        self._print(
            study,
            f"{study.name}: {counted(study.num_trials, 'trial')}, {study.goal}, in {study.storage_path}",
        )

    def on_trial_start(self, study: Study, trial: Trial) -> None:
        self._spoken_at[trial.id] = time.monotonic()
        super().on_trial_start(study, trial)

    def on_epoch(self, study: Study, trial: Trial, metrics: dict[str, float]) -> None:
        super().on_epoch(study, trial, metrics)
        if time.monotonic() - self._spoken_at.get(trial.id, 0.0) >= HEARTBEAT_SECONDS:
            self._spoken_at[trial.id] = time.monotonic()
            value = metrics.get(study.objective.metric)
            self._print(
                study,
                f"trial {trial.number} epoch {len(trial.history)}/{trial.num_epochs}  "
                f"{study.objective.metric} {format_metric(value)}",
            )

    def on_trial_end(self, study: Study, trial: Trial) -> None:
        self._spoken_at.pop(trial.id, None)
        super().on_trial_end(study, trial)
        tally = self._tally
        if tally is None:
            return
        parts = [
            f"trial {trial.number} {trial.state}",
            *(f"{objective} {format_metric(objective.value(trial))}" for objective in study.objectives),
            format_config(trial.config),
            format_seconds(trial.seconds),
        ]
        if trial.state is TrialState.FAILED and trial.error:
            parts.insert(1, first_line(trial.error))
        if tally.best:
            value = format_metric(study.objective.value(tally.best))
            parts.append("best so far" if tally.best is trial else f"best {value} (trial {tally.best.number})")
        left = tally.seconds_left
        parts.append(f"{len(tally.ended)}/{study.num_trials}" + (f", {format_clock(left)} left" if left else ""))
        self._print(study, "  ".join(parts))

    def on_status(self, study: Study, message: str) -> None:
        self._print(study, message)

    def _print(self, study: Study, line: str) -> None:
        with self._lock:
            self._console.print(Text(f"[{format_clock(study.seconds)}] {line}"), soft_wrap=True)
