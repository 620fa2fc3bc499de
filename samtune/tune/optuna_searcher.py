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
from optuna.trial import TrialState as OptunaState
from ray.tune.search import Searcher

from samtune.config.samplers import CustomSamplerConfig, GPConfig, GridConfig, QMCConfig, TPEConfig
from samtune.config.space import SearchSpace
from samtune.errors import RunError
from samtune.store.optuna_journal import open_storage
from samtune.study import Scalar, Trial, TrialState
from samtune.tune.objectives import objectives_of
from samtune.tune.optuna_names import reopen_trial
from samtune.tune.optuna_params import WARM_START, GridPoints, draw, random_feasible
from samtune.tune.optuna_samplers import build_sampler

GRID_DONE = "grid: all its points were tried"

_TRIES = 100  # proposals in a row that may break a constraint, before a point is drawn at random
_TRIES_OF_GP = 3  # which does not learn from them, and all but insists
_NUMBER = "number"  # of the trial; proposals that broke a constraint have none


def open_study(space: SearchSpace, name: str, journal: Path, parallel: bool) -> optuna.Study:
    """The Optuna study in a journal file (which optuna-dashboard opens); a new one has the initial points queued.

    Raises:
        UsageError: the file is damaged.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # below are remarks on a sampler's inner life
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # TPE's options and the metric's name
        study = optuna.create_study(
            study_name=name,
            storage=open_storage(journal),
            directions=["maximize" if objective.mode == "max" else "minimize" for objective in space.objectives],
            load_if_exists=True,
        )
        num_asked = sum(WARM_START not in trial.user_attrs for trial in study.get_trials(deepcopy=False))
        # A sampler that began anew with its old seed would propose its first points again; QMC keeps its place.
        seed = space.seed + (0 if isinstance(space.sampler, QMCConfig) else num_asked)
        study.sampler = build_sampler(space.sampler, seed, parallel)
        study.set_metric_names([objective.metric for objective in space.objectives])
    if num_asked == 0:
        for point in space.initial:
            study.enqueue_trial(space.tree.encode(point))
    return study


class OptunaSearcher(Searcher):
    """Asks Optuna for configurations and tells it how they ended.

    Completed trials are told with their objectives, trials stopped early as PRUNED with all values they reached,
    failed ones as FAIL. A proposal that breaks a constraint is told as PRUNED with what it misses, and is no trial.
    Trials that an earlier run of the search left unfinished are proposed first.

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
        self._objectives = objectives_of(space)
        self._trials: dict[str, optuna.Trial] = {}
        self._histories: dict[str, dict[int, dict[str, float]]] = {}
        self._grid = GridPoints(space, study) if isinstance(space.sampler, GridConfig) else None
        self._unfinished = self._reconcile(earlier)
        numbers = [trial.user_attrs.get(_NUMBER, -1) for trial in study.get_trials(deepcopy=False)]
        self._next_number = max([-1, *numbers, *(record.number for record in earlier)]) + 1
        self.numbers: dict[str, int] = {}
        """Tune's trial id -> number of the trial."""
        self.resumed: dict[str, Trial] = {}
        """Tune's trial id -> the trial of an earlier run that goes on under it."""
        self.exhausted = False
        """Whether a grid has been gone through."""
        self.closing = False
        """Set when the search ends early: what is told to end then is left for a resumed search."""

    # -- ask ---------------------------------------------------------------------------------------------------------

    def suggest(self, trial_id: str) -> Any:
        """The next configuration, or `Searcher.FINISHED` when a grid has no more.

        Raises:
            RunError: no proposal satisfies the constraints.
        """
        asked, record = self._unfinished.pop(0) if self._unfinished else (None, None)
        if record is not None:
            self._go_on(trial_id, record.id)
            self.resumed[trial_id] = record
            self.numbers[trial_id] = record.number
            self._histories[trial_id] = {int(metrics["epoch"]): metrics for metrics in record.history}
            if asked is not None:
                self._trials[trial_id] = asked
            return dict(record.config)
        found = self._feasible(asked)
        if found is None:
            self.exhausted = True
            return Searcher.FINISHED
        trial, config = found
        self.numbers[trial_id] = number = trial.user_attrs.get(_NUMBER, self._next_number)
        self._next_number = max(self._next_number, number + 1)
        trial.set_user_attr(_NUMBER, number)
        trial.set_user_attr("trial_id", trial_id)
        self._trials[trial_id], self._histories[trial_id] = trial, {}
        return config

    def _feasible(self, trial: optuna.Trial | None) -> tuple[optuna.Trial, dict[str, Scalar]] | None:
        """The first proposal that satisfies the constraints; None at the end of a grid."""
        for _ in range(_TRIES_OF_GP if isinstance(self._space.sampler, GPConfig) else _TRIES):
            if trial is None and self._grid is not None and not self._grid.enqueue_next():
                return None
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a division by zero within the Gaussian process of a flat objective
                trial = trial or self._study.ask()
                config = draw(trial, self._space)
            if self._grid is not None:
                self._grid.add(trial.params)
            if self._satisfies(trial, config):
                return trial, config
            self._study_tell(trial.number, state=OptunaState.PRUNED)
            trial = None
        found = random_feasible(self._space, self._space.seed + len(self._study.get_trials(deepcopy=False)))
        if found is None:
            raise RunError(f"no configuration was found that satisfies {' and '.join(self._space.constraints)}")
        self._study.enqueue_trial(self._space.tree.encode(found))
        trial = self._study.ask()
        return trial, draw(trial, self._space)

    def _satisfies(self, trial: optuna.Trial, config: dict[str, Scalar]) -> bool:
        """Whether a configuration keeps the constraints. The samplers that learn from what it misses hear of it."""
        try:
            violations = self._space.violations(config)
        except ValueError:
            return True  # an expression has no value: the trial fails with the reason
        if isinstance(self._space.sampler, TPEConfig | CustomSamplerConfig):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # experimental; and set before, if the trial was asked for and not run
                for text, violation in zip(self._space.constraints, violations, strict=False):
                    trial.set_constraint(text, violation)
        return not any(violations)

    # -- tell --------------------------------------------------------------------------------------------------------

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        trial = self._trials.get(trial_id)
        if trial is not None:
            self._report(trial, self._histories[trial_id], result.get("records", []))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        result = result or {}
        self.on_trial_result(trial_id, result)
        trial, history = self._trials.pop(trial_id, None), self._histories.pop(trial_id, {})
        outcome = result.get("outcome")
        if trial is None or (self.closing and outcome not in ("completed", "failed")):
            return
        state = TrialState.COMPLETED if outcome == "completed" else TrialState.PRUNED
        if error or outcome == "failed":
            state = TrialState.FAILED
        self._tell(trial.number, state, history, result.get("error"))

    def _tell(self, number: int, state: TrialState, history: dict[int, dict[str, float]], error: str | None) -> None:
        epochs = [history[epoch] for epoch in sorted(history)]
        values: list[float | None] = [objective.score(epochs) for objective in self._objectives]
        if state is TrialState.FAILED and self._space.on_divergence == "worst" and is_divergence(error):
            state, values = TrialState.COMPLETED, self._worst(epochs)
        if state is TrialState.COMPLETED and None not in values:
            self._study_tell(number, [value for value in values if value is not None])
        elif state is TrialState.PRUNED:
            self._study_tell(number, state=OptunaState.PRUNED)
        else:
            self._study_tell(number, state=OptunaState.FAIL)

    def _study_tell(self, number: int, values: list[float] | None = None, state: OptunaState | None = None) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a sampler does not use constraints
            self._study.tell(number, values, state=state, skip_if_finished=True)

    def _worst(self, epochs: Sequence[dict[str, float]]) -> list[float | None]:
        """The worst value of each objective among the finished trials and the trial's own epochs, if any."""
        finished = self._study.get_trials(deepcopy=False, states=(OptunaState.COMPLETE,))
        worst: list[float | None] = []
        for index, objective in enumerate(self._objectives):
            values = [trial.values[index] for trial in finished]
            values += [
                record[objective.metric] for record in epochs if math.isfinite(record.get(objective.metric, math.nan))
            ]
            worst.append((min if objective.mode == "max" else max)(values, default=None))
        return worst

    def _report(
        self, trial: optuna.Trial, history: dict[int, dict[str, float]], records: Iterable[dict[str, float]]
    ) -> None:
        """Adds epochs to a trial's history. Optuna hears of the objective after each, if there is only one."""
        resource = getattr(self._space.scheduler, "resource", "epochs")
        for record in records:
            history[int(record["epoch"])] = record
            if len(self._objectives) > 1:
                continue
            score = self._objectives[0].score([history[epoch] for epoch in sorted(history)])
            if score is not None:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # a trial that goes on repeats epochs it had reported
                    trial.report(score, step=int(record["num_passes" if resource == "passes" else "epoch"]))

    # -- go on -------------------------------------------------------------------------------------------------------

    def _reconcile(self, earlier: Sequence[Trial]) -> list[tuple[optuna.Trial | None, Trial | None]]:
        """Brings Optuna's history up to the records', which are the truth; returns what is still to be run.

        The driver may have died between the two: a trial that ended but was not told is told now; one that was asked
        for but not started is run.
        """
        records = {record.number: record for record in earlier}
        running: dict[int, optuna.Trial] = {}
        never_started: list[optuna.Trial] = []
        for frozen in self._study.get_trials(deepcopy=False):
            if frozen.state is not OptunaState.RUNNING:
                continue
            trial = reopen_trial(self._study, frozen)
            number = frozen.user_attrs.get(_NUMBER)
            record = records.get(number) if number is not None else None
            if record is None:
                never_started.append(trial)
            elif not is_over(record):
                running[record.number] = trial
            else:
                history: dict[int, dict[str, float]] = {}
                self._report(trial, history, record.history)
                self._tell(frozen.number, record.state, history, record.error)
        unfinished = [record for record in earlier if not is_over(record)]
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


def is_divergence(error: str | None) -> bool:
    """Whether a trial failed because its loss was not finite (`samtune.train.trial.DivergedError`)."""
    return error is not None and "diverged: " in error
