"""Every search in MLflow: one parent run, one nested run per trial, written by one thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING

from samtune.formatting import trial_name
from samtune.study import Callback, Study, Trial, TrialState
from samtune.tracking import content
from samtune.tracking.credentials import redact
from samtune.tracking.parameters import OTHERS_TAG, others_file, split_params
from samtune.tracking.system import is_wanted, start_system_metrics
from samtune.tracking.uris import store_error

if TYPE_CHECKING:
    from samtune.tracking.store import KnownRun, Store
    from samtune.tracking.writer import Writer

QUIET_SECONDS = 2.0  # a wait at the end that is longer is announced
PROGRESS_SECONDS = 10.0  # and how many runs are left is said again at this interval


class MlflowTracker(Callback):
    """Writes a search to MLflow without ever holding it up.

    Call `connect` (or `connect_in_background`, which takes the seconds of MLflow's import off the caller) before
    anything is started: it fails early. `open` creates the parent run; from then on nothing raises, and what the store
    cannot take now is kept and written when it can.

    Args:
        tracking_uri: absolute, see `resolve_tracking_uri` and `default_tracking_uri`.
        experiment: name of the MLflow experiment; created when it does not exist.
        warn: called with one line when the store stops answering, answers again, or refuses something, and at the end
            that there is something to wait for and what could not be written. Bad news start with "warning:".
            Called from the writer's thread and from `on_study_end`.
        patience: seconds that `on_study_end` waits for a store that makes no progress.
    """

    def __init__(
        self,
        tracking_uri: str,
        experiment: str,
        *,
        warn: Callable[[str], None] | None = None,
        patience: float = 20.0,
    ) -> None:
        self.tracking_uri, self.experiment = tracking_uri, experiment
        self.unsent: list[str] = []
        """After `on_study_end`: the runs that the store does not have completely."""
        self._warn = warn or (lambda message: None)
        self._patience = patience
        self._store: Store | None = None
        self._writer: Writer | None = None
        self._stop_system_metrics: Callable[[], None] = lambda: None
        self._study_run: _StudyRun | None = None
        self._trial_runs: dict[str, _TrialRun] = {}
        self._known: dict[str, KnownRun] = {}
        self._logged: set[str] = set()
        """Artifacts with the keys that are no parameters; read and changed by the writer's thread alone."""

    def connect(self) -> None:
        """Opens the store, and creates the experiment if need be.

        Raises:
            TrackingError: the store does not answer within a few seconds or refuses; names the URI and what to check.
        """
        if self._store is None:
            from samtune.tracking.store import Store

            self._store = Store(self.tracking_uri, self.experiment)

    def connect_in_background(self, after: threading.Event | None = None) -> Future[None]:
        """Connects in a thread. `result()` of what is returned waits for it and raises as `connect` does.

        Args:
            after: what is waited for first.
        """
        future: Future[None] = Future()

        def run() -> None:
            try:
                if after is not None:
                    after.wait()
                self.connect()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(None)

        threading.Thread(target=run, name="samtune-mlflow-connect", daemon=True).start()
        return future

    @property
    def experiment_id(self) -> str | None:
        """Of the experiment; None before `connect`."""
        return self._store.experiment_id if self._store else None

    def open(self, study: Study) -> tuple[str, str]:
        """Creates the parent run, or opens the one of a study that is resumed.

        Returns:
            The ids of the experiment and of the parent run.

        Raises:
            TrackingError: the store no longer answers.
        """
        from samtune.tracking.store import StoreError

        self.connect()
        assert self._store is not None
        try:
            run_id = study.parent_run_id
            if run_id is None:  # a driver that died before the journal's first line left its run behind
                run_id = self._store.orphan_run(study.name, study.storage_path)
            elif not self._store.parent_run(run_id, study.storage_path):
                run_id = None
                self._warn(f"the study's run is no longer in MLflow: writing all {len(study.trials)} trials again")
            if run_id is None:
                started = _milliseconds(study.started_at)
                run_id = self._store.create_run(study.name, started, content.study_tags(study))
            else:
                self._store.set_running(run_id)
                self._known = self._store.trial_runs(run_id)
        except StoreError as error:
            raise store_error(self.tracking_uri, str(error)) from error
        return self._store.experiment_id, run_id

    def on_study_start(self, study: Study) -> None:
        """Begins to write, under the ids that `open` has returned."""
        from samtune.tracking.writer import Writer

        assert self._store is not None
        assert study.parent_run_id is not None
        self._writer = Writer(self._store, self._warn)
        self._study_run = _StudyRun(study, study.parent_run_id)
        self._writer.put(self._study_run)
        if is_wanted():
            self._stop_system_metrics = start_system_metrics(self.tracking_uri, study.parent_run_id)
        for trial in study:  # of before the search was resumed
            run = self._known.get(trial.id)
            if not (run and trial.state.is_final and run.status == content.run_status(trial)):
                record = self._record(study, trial, run)
                record.ended = trial.state.is_final
                self._writer.put(record)

    def on_trial_start(self, study: Study, trial: Trial) -> None:
        if self._writer:
            self._writer.put(self._record(study, trial))

    def on_epoch(self, study: Study, trial: Trial, metrics: dict[str, float]) -> None:
        if self._writer:
            self._writer.put(self._record(study, trial))

    def on_trial_end(self, study: Study, trial: Trial) -> None:
        if self._writer and self._study_run:
            record = self._record(study, trial)
            record.ended = True
            self._writer.put(record)
            self._trial_runs.pop(trial.id)
            self._study_run.trial_ended(trial)
            self._writer.put(self._study_run)

    def on_study_end(self, study: Study) -> None:
        """Writes the end of the search and waits until the store has everything, for as long as it makes progress."""
        if self._writer is None or self._study_run is None:
            return
        self._stop_system_metrics()
        self._study_run.ended = True
        self._writer.put(self._study_run)
        left, before = self._writer.drain(QUIET_SECONDS), -1
        while left and left != before:  # without progress, `close` has its own patience
            self._warn(f"writing the last {left:,} runs to MLflow" if left > 1 else "writing the last run to MLflow")
            left, before = self._writer.drain(PROGRESS_SECONDS), left
        self.unsent = self._writer.close(self._patience)
        self._writer = None
        if self.unsent:
            some = ", ".join(self.unsent[:5]) + (f" and {len(self.unsent) - 5} more" if len(self.unsent) > 5 else "")
            self._warn(
                f"warning: not completely written to MLflow at {redact(self.tracking_uri)}: {some}; "
                f"the study itself is complete in {study.storage_path}"
            )

    def _record(self, study: Study, trial: Trial, known: KnownRun | None = None) -> _TrialRun:
        if trial.id not in self._trial_runs:
            self._trial_runs[trial.id] = _TrialRun(study, trial, known or self._known.get(trial.id), self._logged)
        return self._trial_runs[trial.id]


class _TrialRun:
    """A trial's run: what of the trial the store has. Changed by the driver, written by the writer's thread."""

    def __init__(self, study: Study, trial: Trial, known: KnownRun | None, logged: set[str]) -> None:
        self.name = trial_name(study, trial)
        self.ended = False
        self._study, self._trial, self._logged = study, trial, logged
        self._run_id = known.run_id if known else None
        self._must_reopen = known is not None and known.status != "RUNNING"
        self._maybe_created = False  # a request to create it was sent, and its answer was lost
        self._has_params = False
        self._last_sent = known.num_epochs if known else 0
        """The last epoch that the store has."""

    def write(self, store: Store) -> None:
        ended = self.ended  # before the epochs are read: what comes later is written by the next call
        if self._run_id is None:
            self._run_id = self._create(store)
        elif self._must_reopen and not ended:
            store.set_running(self._run_id)
            self._must_reopen = False
        epochs = self._trial.history.after(self._last_sent)
        metrics = [
            (name, float(value), _milliseconds(record.ended_at), record.epoch)
            for record in epochs
            for name, value in record.metrics.items()
            if name != "epoch"  # is the step
        ]
        params, others = ({}, {}) if self._has_params else split_params(self._study, self._trial)
        if dataset := content.dataset(self._trial) if params else None:
            store.log_dataset(self._run_id, *dataset)
        tags = content.trial_end_tags(self._trial) if ended else {}
        if others:
            tags[OTHERS_TAG] = self._log_others(store, others)
        if epochs:
            tags["samtune.num_epochs"] = str(epochs[-1].epoch)
        if metrics or params or tags:
            store.log(self._run_id, metrics=metrics, params=params, tags=tags)
        self._has_params = True
        self._last_sent = epochs[-1].epoch if epochs else self._last_sent
        if ended:
            if self._trial.traceback:
                store.log_text(self._run_id, self._trial.traceback, "error.txt")
            store.end_run(self._run_id, content.run_status(self._trial), _milliseconds(self._trial.ended_at))

    def _log_others(self, store: Store, others: dict[str, str]) -> str:
        """Once for all trials that have the same; before the tag that names it."""
        parent, name = self._study.parent_run_id, others_file(others)
        assert parent is not None
        if name not in self._logged:
            store.log_text(parent, content.to_json(others), name)
            self._logged.add(name)
        return name

    def _create(self, store: Store) -> str:
        parent = self._study.parent_run_id
        assert parent is not None
        if self._maybe_created:
            found = store.trial_runs(parent, self._trial.id).get(self._trial.id)
            if found:
                return found.run_id
        self._maybe_created = True
        tags, name = content.trial_tags(self._study, self._trial), content.run_name(self._study, self._trial)
        return store.create_run(name, _milliseconds(self._trial.started_at), tags, parent)


class _StudyRun:
    """The parent run."""

    def __init__(self, study: Study, run_id: str) -> None:
        self.name = study.name
        self.ended = False
        self._study, self._run_id = study, run_id
        self._has_start = False
        self._best: Trial | None = None
        self._num_ended = 0
        self._curve: list[tuple[str, float, int, int]] = []  # the best value so far, over the number of ended trials
        self._num_sent = 0

    def trial_ended(self, trial: Trial) -> None:
        objective = self._study.objective
        self._num_ended += 1
        value = objective.value(trial)
        if trial.state is not TrialState.COMPLETED or value is None:
            return
        if self._best is None or objective.sort_key(trial) < objective.sort_key(self._best):
            self._best = trial
            self._curve.append((f"best_{objective.metric}", value, _milliseconds(trial.ended_at), self._num_ended))

    def write(self, store: Store) -> None:
        ended = self.ended
        if not self._has_start:
            store.set_objective(self._study.objective.metric)
            store.log_text(self._run_id, self._study.space_yaml, "space.yaml")
            store.log_text(self._run_id, content.to_json(self._study.plan), "plan.json")
            store.log_text(self._run_id, content.to_json(self._study.versions), "versions.json")
            store.describe(self._run_id, content.description(self._study))
            self._has_start = True
        points = self._curve[self._num_sent :]
        if points:
            store.log(self._run_id, metrics=points)
            self._num_sent += len(points)
        if ended:
            self._write_end(store)

    def _write_end(self, store: Store) -> None:
        study, now = self._study, _milliseconds(self._study.ended_at)
        if study.trials:
            store.log_table(self._run_id, content.leaderboard_columns(study), "leaderboard.json")
        if study.best:
            store.log_text(self._run_id, content.best_yaml(study, study.best), "best.yaml")
        for digest, text in content.label_noise(study).items():
            store.log_text(self._run_id, text, f"label_noise/{digest}.json")
        # At step 0 the UI draws a single value as a bar; the curve of the best is drawn to the last trial.
        metrics = [(name, value, now, 0) for name, value in content.study_end_metrics(study).items()]
        if self._curve:
            name, value, _, _ = self._curve[-1]
            metrics.append((name, value, now, self._num_ended))
        store.log(self._run_id, metrics=metrics, tags=content.study_end_tags(study))
        store.describe(self._run_id, content.description(study))
        store.end_run(self._run_id, content.study_status(study), now)


def _milliseconds(seconds: float | None) -> int:
    return int((time.time() if seconds is None else seconds) * 1000)
