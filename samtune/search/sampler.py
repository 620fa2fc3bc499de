"""Optuna behind Tune: a `Searcher` that owns its study through `ask` and `tell`.

The stock `OptunaSearch` reports trials stopped early as complete, leaves trials with NaN running, drops nested
initial points in silence and cannot be restored over a persistent storage; none of that happens here.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState as OptunaState
from ray.tune.search import Searcher

from samtune.records import Scalar, Trial, TrialState
from samtune.search.samplers import build_sampler
from samtune.spec.distributions import Choice, Distribution, Int, LogInt, LogUniform
from samtune.spec.space import SearchSpace


def open_study(space: SearchSpace, name: str, journal: Path, parallel: bool) -> optuna.Study:
    """The Optuna study in a journal file (which optuna-dashboard opens); a new one has the initial points queued."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # TPE's options and the metric's name
        study = optuna.create_study(
            study_name=name,
            storage=optuna.storages.JournalStorage(JournalFileBackend(str(journal))),
            direction="maximize" if space.objective.mode == "max" else "minimize",
            load_if_exists=True,
        )
        num_asked = len(study.get_trials(deepcopy=False))
        # A sampler that began anew with its old seed would propose its first points again.
        study.sampler = build_sampler(space.sampler, space.seed + num_asked, parallel)
        study.set_metric_names([space.objective.metric])
    if num_asked == 0:
        for point in space.initial:
            study.enqueue_trial(space.tree.encode(point))
    return study


def draw(trial: optuna.Trial, space: SearchSpace) -> dict[str, Scalar]:
    """One configuration: names and branches first, then the keys that exist with them."""
    return space.tree.draw(lambda name, key, distribution: _suggest(trial, name, distribution))


def _suggest(trial: optuna.Trial, name: str, distribution: Distribution) -> Scalar:
    match distribution:
        case Choice():
            choice: Scalar = trial.suggest_categorical(name, distribution.extremes())
            return choice
        case LogInt():
            return trial.suggest_int(name, distribution.low, distribution.high, log=True)
        case Int():
            return trial.suggest_int(name, distribution.low, distribution.high, step=distribution.step or 1)
        case LogUniform():
            return trial.suggest_float(name, distribution.low, distribution.high, log=True)
        case _:
            drawn = trial.suggest_float(name, distribution.low, distribution.high, step=distribution.step)
            return distribution.nearest(drawn)


class OptunaSearcher(Searcher):
    """Asks Optuna for configurations and tells it how they ended.

    Completed trials are told with their last value, trials stopped early as PRUNED with all values they reached,
    failed ones as FAIL. Trials that an earlier run of the search left unfinished are proposed first.

    Args:
        earlier: the trials of an earlier run.
        go_on: (Tune's new id, the trial's own id): called before an unfinished trial is proposed again.
    """

    def __init__(
        self,
        space: SearchSpace,
        study: optuna.Study,
        earlier: Sequence[Trial] = (),
        go_on: Callable[[str, str], None] = lambda new, old: None,
    ) -> None:
        super().__init__(metric=space.objective.metric, mode=space.objective.mode)
        self._space, self._study, self._go_on = space, study, go_on
        self._trials: dict[str, optuna.Trial] = {}
        self._unfinished = self._reconcile(earlier)
        self.numbers: dict[str, int] = {}
        """Tune's trial id -> number of the trial."""
        self.resumed: dict[str, Trial] = {}
        """Tune's trial id -> the trial of an earlier run that goes on under it."""
        self.closing = False
        """Set when the search ends early: what is told to end then is left for a resumed search."""

    def suggest(self, trial_id: str) -> dict[str, Scalar]:
        trial, record = self._unfinished.pop(0) if self._unfinished else (self._study.ask(), None)
        if record is not None:
            self._go_on(trial_id, record.id)
            self.resumed[trial_id] = record
        if trial is not None:
            trial.set_user_attr("trial_id", record.id if record else trial_id)
            self._trials[trial_id] = trial
        number = trial.number if trial is not None else record.number if record is not None else -1
        self.numbers[trial_id] = number
        if record is not None:
            return dict(record.config)
        assert trial is not None
        return draw(trial, self._space)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        trial = self._trials.get(trial_id)
        if trial is not None:
            self._report(trial, result.get("records", []))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        result = result or {}
        self.on_trial_result(trial_id, result)
        trial = self._trials.pop(trial_id, None)
        outcome = result.get("outcome")
        if trial is None or (self.closing and outcome not in ("completed", "failed")):
            return
        if error or outcome == "failed":
            self._tell(trial.number, TrialState.FAILED, None)
        elif outcome == "completed":
            self._tell(trial.number, TrialState.COMPLETED, result.get(self.metric))
        else:
            self._tell(trial.number, TrialState.PRUNED, None)

    def _tell(self, number: int, state: TrialState, value: float | None) -> None:
        if state is TrialState.COMPLETED and value is not None and math.isfinite(value):
            self._study.tell(number, value, skip_if_finished=True)
        elif state is TrialState.PRUNED:
            self._study.tell(number, state=OptunaState.PRUNED, skip_if_finished=True)
        else:
            self._study.tell(number, state=OptunaState.FAIL, skip_if_finished=True)

    def _report(self, trial: optuna.Trial, records: Iterable[dict[str, float]]) -> None:
        for record in records:
            value = record.get(self.metric)
            if value is not None and math.isfinite(value):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # a trial that goes on repeats epochs it had reported
                    trial.report(value, step=int(record["epoch"]))

    def _reconcile(self, earlier: Sequence[Trial]) -> list[tuple[optuna.Trial | None, Trial | None]]:
        """Brings Optuna's history up to the records', which are the truth; returns what is still to be run.

        The driver may have died between the two: a trial that ended but was not told is told now; one that was asked
        for but not started is run.
        """
        records = {record.number: record for record in earlier}
        running: dict[int, optuna.Trial] = {}
        for frozen in self._study.get_trials(deepcopy=False):
            if frozen.state is not OptunaState.RUNNING:
                continue
            trial = optuna.Trial(self._study, frozen._trial_id)
            record = records.get(frozen.number)
            if record is None or not is_over(record):
                running[frozen.number] = trial
            else:
                self._report(trial, record.history)
                value = record.metrics.get(self.metric)
                self._tell(frozen.number, record.state, value)
        unfinished = [record for record in earlier if not is_over(record)]
        never_started = [trial for number, trial in running.items() if number not in records]
        return [(running.get(record.number), record) for record in unfinished] + [(t, None) for t in never_started]

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the journal is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the journal is the truth."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its arguments for a restore of its own


def is_over(trial: Trial) -> bool:
    """Whether a trial of an earlier run need not be run again."""
    return trial.state in (TrialState.COMPLETED, TrialState.PRUNED, TrialState.FAILED)
