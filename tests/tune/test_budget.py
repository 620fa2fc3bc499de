"""Budgets, on the events of a search."""

from __future__ import annotations

import pytest

from samtune.config.search import BudgetConfig
from samtune.study import Objective, Study, Trial, TrialState
from samtune.tune.budget import Budget


def make_study(*objectives: Objective) -> Study:
    names = ("name", "space_yaml", "storage_path", "tracking_uri", "experiment", "command")
    return Study(objectives=objectives, num_trials=9, plan={}, versions={}, **dict.fromkeys(names, ""))


def run_trial(study: Study, budget: Budget, state: TrialState = TrialState.COMPLETED, **metrics: float) -> None:
    """A trial of one epoch."""
    trial = Trial(number=len(study.trials), id=str(len(study.trials)), config={}, params={}, num_epochs=1)
    study.trials.append(trial)
    trial.history.append({"epoch": 1.0, "num_passes": 2.0, **metrics})
    budget.on_epoch(study, trial, trial.history[-1])
    trial.state, trial.ended_at = state, float(trial.number)
    budget.on_trial_end(study, trial)


def test_without_a_budget_a_search_goes_on() -> None:
    study = make_study(Objective())
    budget = Budget(BudgetConfig(), study)
    for _ in range(5):
        run_trial(study, budget, val_accuracy=0.5)
    assert budget.exhausted() is None
    assert budget.patience_lost() is None


def test_patience_counts_trials_that_are_no_better_whatever_became_of_them() -> None:
    study = make_study(Objective())
    budget = Budget(BudgetConfig(patience=3), study)
    run_trial(study, budget, val_accuracy=0.5)
    run_trial(study, budget, val_accuracy=0.5)  # as good is no better
    run_trial(study, budget, TrialState.PRUNED, val_accuracy=0.9)
    assert budget.patience_lost() is None
    run_trial(study, budget, val_accuracy=0.6)
    for state in (TrialState.FAILED, TrialState.PRUNED):
        run_trial(study, budget, state, val_accuracy=0.1)
    run_trial(study, budget, TrialState.INTERRUPTED, val_accuracy=0.1)  # says nothing
    assert budget.patience_lost() is None
    run_trial(study, budget, val_accuracy=0.4)
    assert budget.patience_lost() == "budget.patience: 3 trials in a row were no better"


def test_with_two_objectives_a_trial_that_no_other_beats_in_both_is_an_improvement() -> None:
    study = make_study(Objective("val_accuracy", "max"), Objective("sharpness", "min"))
    budget = Budget(BudgetConfig(patience=1), study)
    run_trial(study, budget, val_accuracy=0.5, sharpness=1.0)
    run_trial(study, budget, val_accuracy=0.4, sharpness=0.5)
    run_trial(study, budget, val_accuracy=0.45, sharpness=0.4)
    assert budget.patience_lost() is None
    run_trial(study, budget, val_accuracy=0.45, sharpness=0.45)
    assert budget.patience_lost()


def test_passes_are_summed_over_trials_and_epochs() -> None:
    study = make_study(Objective())
    budget = Budget(BudgetConfig(passes=7), study)
    for _ in range(3):
        run_trial(study, budget, val_accuracy=0.5)
    assert budget.exhausted() is None
    trial = study.trials[-1]
    trial.history.append({"epoch": 2.0, "num_passes": 4.0})
    budget.on_epoch(study, trial, trial.history[-1])
    assert budget.exhausted() == "budget.passes: 8 of 7 passes were made"


def test_a_resumed_study_has_spent_what_it_had_spent() -> None:
    study = make_study(Objective())
    first = Budget(BudgetConfig(), study)
    for value in (0.5, 0.4, 0.3):
        run_trial(study, first, val_accuracy=value)
    assert Budget(BudgetConfig(passes=6), study).exhausted()
    assert Budget(BudgetConfig(patience=2), study).patience_lost()
    assert Budget(BudgetConfig(patience=3), study).patience_lost() is None


def test_wall_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    budget = Budget(BudgetConfig(seconds=90), make_study(Objective()))
    now += 89.0
    assert budget.exhausted() is None
    now += 1.0
    assert budget.exhausted() == "budget.seconds: 1:30 are over"
