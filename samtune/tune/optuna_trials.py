"""Trials from an Optuna study, through `ask` and `tell`.

Ray's own `OptunaSearch` reports trials stopped early as complete, leaves trials with NaN running, drops nested
initial points in silence and cannot be restored over a persistent storage; none of that happens here.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.trial import TrialState as OptunaState

from samtune.config.samplers import CustomSamplerConfig, GPConfig, GridConfig, QMCConfig, TPEConfig
from samtune.config.space import SearchSpace
from samtune.errors import RunError
from samtune.store.optuna_journal import open_or_set_aside
from samtune.study import EpochRecord, Scalar, Trial, TrialState, is_over
from samtune.tune.objectives import objectives_of
from samtune.tune.optuna_names import reopen_trial
from samtune.tune.optuna_params import WARM_START, GridPoints, distributions_of, draw, fits, random_feasible
from samtune.tune.optuna_samplers import build_sampler
from samtune.tune.trial_source import Proposal

GRID_DONE = "grid: all its points were tried"

_TRIES = 100  # proposals in a row that may break a constraint, before a point is drawn at random
_TRIES_OF_GP = 3  # which does not learn from them, and all but insists
_NUMBER = "number"  # of the trial; proposals that broke a constraint have none


def open_study(
    space: SearchSpace,
    name: str,
    journal: Path,
    parallel: bool,
    earlier: Sequence[Trial] = (),
    say: Callable[[str], None] = lambda line: None,
) -> optuna.Study:
    """The Optuna study in a journal file (which optuna-dashboard opens); a new one has the initial points queued.

    Args:
        earlier: the study's trials so far, which a file that was lost does not have.
        say: called with one line if the file was damaged and is rebuilt.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # below are remarks on a sampler's inner life
    storage, damaged = open_or_set_aside(journal)
    if damaged is not None:
        say(f"warning: {journal} was damaged and is made again from the study's own journal (it is kept as {damaged})")
    names = optuna.get_all_study_names(storage)  # a study that was renamed has its earlier name here
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # TPE's options and the metric's name
        study = optuna.create_study(
            study_name=names[0] if names else name,
            storage=storage,
            directions=["maximize" if objective.mode == "max" else "minimize" for objective in space.objectives],
            load_if_exists=True,
        )
        num_asked = sum(WARM_START not in trial.user_attrs for trial in study.get_trials(deepcopy=False))
        # A sampler that restarted with its old seed would propose its first points again; QMC keeps its place.
        seed = space.seed + (0 if isinstance(space.sampler, QMCConfig) else max(num_asked, len(earlier)))
        study.sampler = build_sampler(space.sampler, seed, parallel)
        study.set_metric_names([objective.metric for objective in space.objectives])
    if num_asked == 0:
        for point in space.initial:
            if not any(point.items() <= trial.config.items() for trial in earlier):
                study.enqueue_trial(space.tree.encode(point))
    return study


class OptunaTrials:
    """A `TrialSource` that asks Optuna for configurations and tells it how they ended.

    Optuna gets completed trials with their objectives, trials stopped early as PRUNED with their values so far,
    failed ones as FAIL. A proposal that breaks a constraint is PRUNED with its violation, and is not a trial.

    Args:
        earlier: the trials of an earlier run of the study.
    """

    def __init__(self, space: SearchSpace, study: optuna.Study, earlier: Sequence[Trial] = ()) -> None:
        self._space, self._study = space, study
        self._objectives, self._distributions = objectives_of(space), distributions_of(space)
        self._resource = getattr(space.scheduler, "resource", "epochs")
        self._running: dict[int, optuna.Trial] = {}
        """By the number of the trial, which is not Optuna's."""
        self._grid = GridPoints(space, study) if isinstance(space.sampler, GridConfig) else None
        self._never_started = self._reconcile(earlier)
        numbers = [trial.user_attrs.get(_NUMBER, -1) for trial in study.get_trials(deepcopy=False)]
        self._next_number = max([-1, *numbers, *(trial.number for trial in earlier)]) + 1
        self.exhausted: str | None = None

    # -- ask ---------------------------------------------------------------------------------------------------------

    def next(self, trial_id: str) -> Proposal | None:
        """The next configuration; None when a grid has no more.

        Raises:
            RunError: no proposal satisfies the constraints.
        """
        found = self._feasible(self._never_started.pop(0) if self._never_started else None)
        if found is None:
            self.exhausted = GRID_DONE
            return None
        asked, config = found
        number: int = asked.user_attrs.get(_NUMBER, self._next_number)
        self._next_number = max(self._next_number, number + 1)
        asked.set_user_attr(_NUMBER, number)
        asked.set_user_attr("trial_id", trial_id)
        self._running[number] = asked
        return Proposal(number, config)

    def _feasible(self, trial: optuna.Trial | None) -> tuple[optuna.Trial, dict[str, Scalar]] | None:
        """The first proposal that satisfies the constraints; None at the end of a grid."""
        for _ in range(_TRIES_OF_GP if isinstance(self._space.sampler, GPConfig) else _TRIES):
            if trial is None and self._grid is not None and not self._grid.enqueue_next():
                return None
            with warnings.catch_warnings():
                # Experimental parts of Optuna, and divisions by zero in the Gaussian process of a flat objective.
                for category in (ExperimentalWarning, RuntimeWarning):
                    warnings.simplefilter("ignore", category)
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
        """Whether a configuration keeps the constraints. Samplers that learn from violations receive it."""
        try:
            violations = self._space.violations(config)
        except ValueError:
            return True  # an expression has no value: the trial fails with the reason
        if isinstance(self._space.sampler, TPEConfig | CustomSamplerConfig):
            with warnings.catch_warnings():
                # Experimental; and a UserWarning where it is set already: the trial was asked for and never ran.
                for category in (ExperimentalWarning, UserWarning):
                    warnings.simplefilter("ignore", category)
                for text, violation in zip(self._space.constraints, violations, strict=False):
                    trial.set_constraint(text, violation)
        return not any(violations)

    # -- tell --------------------------------------------------------------------------------------------------------

    def report(self, trial: Trial, epochs: Sequence[EpochRecord]) -> None:
        """Optuna hears of the objective after each epoch, if there is only one objective."""
        asked = self._running.get(trial.number)
        if asked is not None:
            for step, score in self._scores(trial, epochs):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)  # the driver may have died after it reported this one
                    asked.report(score, step=step)

    def _scores(self, trial: Trial, epochs: Sequence[EpochRecord]) -> Iterator[tuple[int, float]]:
        """(step, objective up to it) of the last epochs of a trial."""
        if len(self._objectives) > 1:
            return
        step = "num_passes" if self._resource == "passes" else "epoch"
        for count, epoch in enumerate(epochs, len(trial.history) - len(epochs) + 1):
            score = self._objectives[0].score(trial.history[:count])
            if score is not None:
                yield int(epoch.metrics[step]), score

    def end(self, trial: Trial) -> None:
        if trial.state is TrialState.INTERRUPTED:
            return  # stays RUNNING, to be resumed
        asked = self._running.pop(trial.number, None)
        if asked is None:  # Optuna had lost it, or knew it as failed
            if fits(self._space, trial.config):
                self._study.add_trial(self._as_finished(trial))
        else:
            state, values = self._outcome(trial)
            self._study_tell(asked.number, values, state if values is None else None)

    def _outcome(self, trial: Trial) -> tuple[OptunaState, list[float] | None]:
        """What Optuna hears of an ended trial."""
        state = trial.state
        values: list[float | None] = [objective.value(trial) for objective in self._objectives]
        if state is TrialState.FAILED and trial.diverged and self._space.on_divergence == "worst":
            state, values = TrialState.COMPLETED, self._worst(trial.history)
        if state is TrialState.COMPLETED and None not in values:
            return OptunaState.COMPLETE, [value for value in values if value is not None]
        return (OptunaState.PRUNED if state is TrialState.PRUNED else OptunaState.FAIL), None

    def _as_finished(self, trial: Trial) -> optuna.trial.FrozenTrial:
        """An ended trial as Optuna would have it, had it been asked for it."""
        known = self._distributions
        params = {name: value for name, value in self._space.tree.encode(trial.config).items() if name in known}
        state, values = self._outcome(trial)
        return optuna.trial.create_trial(
            state=state,
            values=values,
            params=params,
            distributions={name: known[name] for name in params},
            intermediate_values=dict(self._scores(trial, trial.history.records)),
            user_attrs={_NUMBER: trial.number, "trial_id": trial.id},
        )

    def _study_tell(self, number: int, values: list[float] | None = None, state: OptunaState | None = None) -> None:
        with warnings.catch_warnings():
            for category in (ExperimentalWarning, UserWarning):  # that a sampler does not use constraints
                warnings.simplefilter("ignore", category)
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

    # -- resume ------------------------------------------------------------------------------------------------------

    def _reconcile(self, earlier: Sequence[Trial]) -> list[optuna.Trial]:
        """Brings Optuna's study up to the records, which are the truth; returns the trials that never started.

        The driver may have died between the two: a trial that ended but was not told is told now; one that was asked
        for but not started is proposed again. Where Optuna's file was lost, all trials are added again.
        """
        records = {trial.number: trial for trial in earlier}
        known = self._study.get_trials(deepcopy=False)
        numbers = {trial.user_attrs.get(_NUMBER) for trial in known}
        for trial in earlier:
            if is_over(trial) and trial.number not in numbers and fits(self._space, trial.config):
                self._study.add_trial(self._as_finished(trial))
        never_started: list[optuna.Trial] = []
        for frozen in known:
            if frozen.state is not OptunaState.RUNNING:
                continue
            asked = reopen_trial(self._study, frozen)
            record = records.get(frozen.user_attrs.get(_NUMBER, -1))
            if record is None:
                never_started.append(asked)
                continue
            self._running[record.number] = asked
            if is_over(record):
                self.report(record, record.history.records)
                self.end(record)
        return never_started
