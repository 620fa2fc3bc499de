"""From Tune's events to the study: the one writer of its records."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import ray
import ray.tune

from samtune.errors import SpaceError, safe_text
from samtune.formatting import format_config
from samtune.storage import delete_folder, join, write_bytes
from samtune.store.study_files import error_file
from samtune.study import Callback, EpochRecord, Scalar, Study, Trial, TrialState
from samtune.tune.concurrency_limiter import ConcurrencyLimiter
from samtune.tune.ending import Ending
from samtune.tune.trial_source import Definition, TrialSource
from samtune.workers.protocol import Failure, Outcome

LOST_PERTURBATION_WARNING = 0.1
"""Share of the weights that the perturbation leaves as they are, above which the user is warned."""

_PATIENCE = 5.0  # seconds that a callback may take to end when the cluster is lost

_STATES = {Outcome.COMPLETED: TrialState.COMPLETED, Outcome.FAILED: TrialState.FAILED}


class StudyRecorder(ray.tune.Callback):
    """Appends what Tune reports to the study's records, then tells the callbacks and the trial source, in this order.

    What a callback raises ends the study in order; see `error`.

    Attributes:
        error: the first exception of a callback.
    """

    def __init__(
        self,
        study: Study,
        definition: Definition,
        source: TrialSource,
        limiter: ConcurrencyLimiter,
        ending: Ending,
        coordinator: Any,
        callbacks: Sequence[Callback],
    ) -> None:
        self._study, self._definition, self._source, self._limiter = study, definition, source, limiter
        self._ending, self._coordinator, self._callbacks = ending, coordinator, callbacks
        self._trials: dict[str, Trial] = {}
        self._warned = False
        self._num_ended = sum(trial.state.is_final for trial in study) - study.count(TrialState.INTERRUPTED)
        self._num_failed = study.count(TrialState.FAILED)
        self.error: Exception | None = None
        self._lock = threading.RLock()  # held while the records change, for good once the cluster is lost
        ending.on_abandon(self.abandon)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        with self._lock:
            self._limiter.on_start(trial.trial_id)
            self._start(trial)

    def _start(self, trial: Any) -> None:
        if (known := self._trials.get(trial.trial_id)) is not None:
            known.state = TrialState.RUNNING  # was paused, or starts again after its Trainable was lost
            return
        record = self._limiter.resumed.get(trial.trial_id)
        if record is None:
            record = self._new_record(trial)
            self._study.trials.append(record)
        record.state, record.error, record.traceback, record.ended_at = TrialState.RUNNING, None, None, None
        self._trials[trial.trial_id] = record
        self._tell("on_trial_start", record)

    def _new_record(self, trial: Any) -> Trial:
        config: dict[str, Scalar] = dict(trial.config)
        record = Trial(
            number=self._limiter.numbers[trial.trial_id],
            id=trial.trial_id,
            config=config,
            params={},
            num_epochs=0,
            state=TrialState.RUNNING,
            started_at=time.time(),
        )
        try:
            spec = self._definition.trial(config)
            record.params, record.num_epochs = spec.params(), spec.num_epochs
        except SpaceError:
            record.params = dict(config)  # the Trainable fails it with the reason
        return record

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        with self._lock:
            record = self._trials[trial.trial_id]
            record.started_at = result.get("started_at") or record.started_at  # without the wait for its workers
            self._append(record, result.get("epochs", []))

    def _append(self, record: Trial, epochs: Sequence[EpochRecord]) -> None:
        appended = []
        for epoch in epochs:
            if record.history.append(epoch):
                appended.append(epoch)
                self._tell("on_epoch", record, epoch.metrics)
                self._warn_of_lost_perturbation(record, epoch.metrics)
        if appended:
            self._source.report(record, appended)

    def pause(self, trial_id: str) -> None:
        """The scheduler has paused a trial: it waits for its next epochs."""
        self._trials[trial_id].state = TrialState.WAITING

    def take_over(self, trial_id: str, source_id: str, epoch: int, config: dict[str, Scalar]) -> None:
        """The scheduler has a trial continue with another's weights and a changed configuration."""
        record, source = self._trials[trial_id], self._trials[source_id]
        before = {"config": record.config, "params": record.params}
        record.perturbations.append({"epoch": epoch, "source": source.number, "before": before})
        record.config = dict(config)
        with suppress(SpaceError):  # else the Trainable fails it with the reason
            record.params = self._definition.trial(config).params()
        self._tell("on_trial_change", record)
        changed = {key: value for key, value in config.items() if value != before["config"].get(key)}
        self._tell(
            "on_status",
            f"trial {record.number} takes over the weights of trial {source.number} at epoch {epoch}"
            + (f", with {format_config(changed)}" if changed else ""),
        )

    def _warn_of_lost_perturbation(self, record: Trial, metrics: dict[str, float]) -> None:
        """Once a search: where w + ε̂ rounds back to w, the method is less than it is called."""
        share = metrics.get("lost_perturbation", 0.0)
        if share > LOST_PERTURBATION_WARNING and not self._warned:
            self._warned = True
            self._tell(
                "on_status",
                f"warning: trial {record.number}: {share:.0%} of the weights are not changed by the perturbation in "
                "their precision (metric lost_perturbation); a larger rho or a finer precision would help",
            )

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        result = trial.last_result or {}
        outcome: Outcome | None = result.get("outcome")
        stopped = TrialState.INTERRUPTED if self._ending.is_stopping else TrialState.PRUNED
        state = stopped if outcome is None else _STATES.get(outcome, stopped)
        self._end(trial.trial_id, state, result.get("failure"))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if trial.trial_id not in self._trials:  # lost its Trainable before it had begun
            self.on_trial_start(iteration, trials, trial)
        error = trial.get_pickled_error() if hasattr(trial, "get_pickled_error") else None
        if error is None:
            failure = Failure("Ray Tune could not go on with the trial")
        else:
            cause = getattr(error, "cause", error)
            failure = Failure(f"{type(cause).__name__}: {safe_text(cause)}", safe_text(error))
        self._end(trial.trial_id, TrialState.FAILED, failure)

    def _end(self, trial_id: str, state: TrialState, failure: Failure | None) -> None:
        with self._lock:
            if failure is not None and failure.fault:
                # Not the trial's: it waits until the machine is mended.
                self._ending.stop_for_fault(failure.error)
                state = TrialState.INTERRUPTED
            self._coordinator.end.remote(trial_id)
            record = self._trials[trial_id]
            if not record.state.is_final:
                self._end_record(record, state, failure)

    def _end_record(self, record: Trial, state: TrialState, failure: Failure | None) -> None:
        record.state, record.ended_at = state, time.time()
        if failure is not None:
            record.error, record.traceback, record.diverged = failure.error, failure.traceback or None, failure.diverged
        if record.traceback and state is TrialState.FAILED:
            with suppress(OSError):  # a full disk: the journal has it too
                write_bytes(error_file(self._study.storage_path, record.number), record.traceback.encode())
        self._num_ended += 1
        self._num_failed += state is TrialState.FAILED
        if state is not TrialState.INTERRUPTED:
            with suppress(OSError):  # the store is away: checkpoints that nobody needs stay there
                delete_folder(join(self._study.storage_path, "checkpoints", record.id))
        self._tell("on_trial_end", record)
        self._source.end(record)

    def _tell(self, event: str, *details: Any) -> None:
        """Tells all callbacks. What one raises ends the study in order; `run_trials` raises it afterwards."""
        for callback in self._callbacks:
            try:
                getattr(callback, event)(self._study, *details)
            except Exception as error:
                self.error = self.error or error

    def end_all(self, error: str) -> None:
        """Interrupts what still runs, or has waited to be resumed: the search is over."""
        with self._lock:
            for trial in self._study:
                if not trial.state.is_final:
                    self._end_record(trial, TrialState.INTERRUPTED, Failure(error))

    def abandon(self, error: str) -> None:
        """The cluster is lost: interrupts the trials from another thread, and keeps Tune's from recording more."""
        self._lock.acquire(timeout=_PATIENCE)
        self.end_all(error)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its arguments for a restore of its own; our studies are restored from their journal

    def hopeless(self, num_groups: int) -> bool:
        """Whether so many trials have failed, and none has succeeded, that the next will fail too."""
        return max(3, 2 * num_groups) <= self._num_failed == self._num_ended


class StopWhen(ray.tune.Stopper):
    """Ends Tune's loop when a function says so; asked in every turn."""

    def __init__(self, should_stop: Callable[[], bool]) -> None:
        self._should_stop = should_stop

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._should_stop()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # see StudyRecorder
