"""From Tune's events to the study's records and their readers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import ray
import ray.tune

from samtune.config.space import SearchSpace
from samtune.errors import SpaceError, one_line
from samtune.formatting import format_config
from samtune.storage import delete_folder, join
from samtune.study import Callback, Scalar, Study, Trial, TrialState
from samtune.tune.concurrency_limiter import ConcurrencyLimiter
from samtune.tune.optuna_searcher import OptunaSearcher

LOST_PERTURBATION_WARNING = 0.1
"""Share of the weights that the perturbation leaves as they are, above which the user is warned."""

_OUTCOMES = {"completed": TrialState.COMPLETED, "failed": TrialState.FAILED}


class StudyRecorder(ray.tune.Callback):
    """Keeps the study's records on the driver and tells the callbacks of every change, in order."""

    def __init__(
        self,
        study: Study,
        space: SearchSpace,
        searcher: OptunaSearcher,
        coordinator: Any,
        callbacks: Sequence[Callback],
    ) -> None:
        self._study, self._space, self._searcher = study, space, searcher
        self._coordinator, self._callbacks = coordinator, callbacks
        self._trials: dict[str, Trial] = {}
        self._warned = False
        self._num_ended = sum(trial.state.is_final for trial in study) - study.count(TrialState.INTERRUPTED)
        self._num_failed = study.count(TrialState.FAILED)
        self.limiter: ConcurrencyLimiter | None = None
        """Told of every trial that runs."""
        self.stopping = False
        self.error: Exception | None = None
        """The first exception of a callback."""

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if self.limiter is not None:
            self.limiter.on_start(trial.trial_id)
        if (known := self._trials.get(trial.trial_id)) is not None:
            known.state = TrialState.RUNNING  # was paused, or starts again after its Trainable was lost
            return
        record = self._searcher.resumed.get(trial.trial_id)
        if record is None:
            record = self._new_record(trial)
            self._study.trials.append(record)
        record.state, record.error, record.traceback, record.ended_at = TrialState.RUNNING, None, None, None
        self._trials[trial.trial_id] = record
        self._tell("on_trial_start", record)

    def _new_record(self, trial: Any) -> Trial:
        config: dict[str, Scalar] = dict(trial.config)
        record = Trial(
            number=self._searcher.numbers[trial.trial_id],
            id=trial.trial_id,
            config=config,
            params={},
            num_epochs=self._space.training.epochs or 0,
            state=TrialState.RUNNING,
            started_at=time.time(),
        )
        try:
            spec = self._space.trial(config)
            record.params, record.num_epochs = spec.params(), spec.num_epochs
        except SpaceError:
            record.params = dict(config)  # the Trainable fails it with the reason
        return record

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        record = self._trials[trial.trial_id]
        record.started_at = result.get("started_at") or record.started_at  # without the wait for its workers
        for metrics, place in zip(result.get("records", []), result.get("places", []), strict=True):
            if metrics["epoch"] > record.epoch:  # a trial that starts again repeats its epochs
                record.history.append(metrics)
                record.places.append(place)
                self._tell("on_epoch", record, metrics)
                self._warn_of_lost_perturbation(record, metrics)

    def pause(self, trial_id: str) -> None:
        """The scheduler has paused a trial: it waits for its next epochs."""
        self._trials[trial_id].state = TrialState.WAITING

    def take_over(self, trial_id: str, source_id: str, epoch: int, config: dict[str, Scalar]) -> None:
        """The scheduler has a trial go on with another's weights and a changed configuration."""
        record, source = self._trials[trial_id], self._trials[source_id]
        before = {"config": record.config, "params": record.params}
        record.perturbations.append({"epoch": epoch, "source": source.number, "before": before})
        record.config = dict(config)
        with suppress(SpaceError):  # else the Trainable fails it with the reason
            record.params = self._space.trial(config).params()
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
        outcome = result.get("outcome")
        if outcome is None or outcome == "stopped":
            state = TrialState.INTERRUPTED if self.stopping else TrialState.PRUNED
        else:
            state = _OUTCOMES[outcome]
        self._end(trial.trial_id, state, result.get("error"), result.get("traceback"))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if trial.trial_id not in self._trials:  # lost its Trainable before it had begun
            self.on_trial_start(iteration, trials, trial)
        error = trial.get_pickled_error() if hasattr(trial, "get_pickled_error") else None
        text = one_line(f"{type(error).__name__}: {error}") if error else "the trial's actor was lost"
        self._end(trial.trial_id, TrialState.FAILED, text[:500], str(error or ""))

    def _end(self, trial_id: str, state: TrialState, error: str | None, traceback: str | None) -> None:
        record = self._trials[trial_id]
        if record.state.is_final:
            return
        record.state, record.error, record.traceback = state, error, traceback
        record.ended_at = time.time()
        self._num_ended += 1
        self._num_failed += state is TrialState.FAILED
        self._coordinator.end.remote(trial_id)
        if state is not TrialState.INTERRUPTED:
            with suppress(OSError):  # the store is away: checkpoints that nobody needs stay there
                delete_folder(join(self._study.storage_path, "checkpoints", record.id))
        self._tell("on_trial_end", record)

    def _tell(self, event: str, *details: Any) -> None:
        """Tells all callbacks. What one raises ends the search in order; `run_trials` raises it afterwards."""
        for callback in self._callbacks:
            try:
                getattr(callback, event)(self._study, *details)
            except Exception as error:
                self.error = self.error or error

    def end_all(self, state: TrialState, error: str) -> None:
        """Ends what still runs: the search is over."""
        for trial_id, record in self._trials.items():
            if not record.state.is_final:
                self._end(trial_id, state, error, None)

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
