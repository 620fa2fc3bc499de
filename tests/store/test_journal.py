"""Objectives over epochs, and which trials are the best."""

from __future__ import annotations

import math

import pytest

from samtune.study import Objective, Study, Trial, TrialState

NAMES = ("name", "space_yaml", "storage_path", "tracking_uri", "experiment", "command")


def make_study(*objectives: Objective) -> Study:
    return Study(objectives=objectives, num_trials=9, plan={}, versions={}, **dict.fromkeys(NAMES, ""))


def add_trial(study: Study, state: TrialState = TrialState.COMPLETED, **metrics: float) -> Trial:
    trial = Trial(len(study.trials), str(len(study.trials)), {}, {}, 1, state)
    trial.history.append({"epoch": 1.0, **metrics})
    study.trials.append(trial)
    return trial


@pytest.mark.parametrize(
    ("mode", "epochs", "values", "score"),
    [
        ("max", "last", [0.1, 0.9, 0.5], 0.5),
        ("max", "best", [0.1, 0.9, 0.5], 0.9),
        ("min", "best", [0.1, 0.9, 0.5], 0.1),
        ("max", "best", [math.nan, 0.2], 0.2),
        ("max", 2, [0.1, 0.9, 0.5], 0.7),
        ("max", 5, [0.2, 0.4], 0.3),  # fewer epochs so far
        ("max", "last", [0.1, math.nan], None),
        ("max", 2, [0.1, math.inf], None),
        ("max", "best", [], None),
        ("max", "last", [], None),
    ],
)
def test_the_score_of_a_history(mode: str, epochs: str | int, values: list[float], score: float | None) -> None:
    objective = Objective("m", mode, epochs)  # type: ignore[arg-type]
    found = objective.score([{"m": value} for value in values])
    assert found == (None if score is None else pytest.approx(score))


def test_the_pareto_front_has_the_trials_that_none_beats() -> None:
    study = make_study(Objective("a", "max"), Objective("b", "min"))
    best_a = add_trial(study, a=0.9, b=3.0)
    add_trial(study, a=0.8, b=3.0)  # beaten in a
    between = add_trial(study, a=0.5, b=2.0)
    twin = add_trial(study, a=0.5, b=2.0)  # as good as another is on the front too
    add_trial(study, a=0.4, b=2.5)  # beaten in both
    best_b = add_trial(study, a=0.1, b=1.0)
    add_trial(study, TrialState.PRUNED, a=1.0, b=0.0)  # saw fewer epochs
    add_trial(study, a=1.0)  # has no b
    assert study.pareto == [best_a, between, twin, best_b]
    assert study.best is best_a  # of the front, by the first objective
    assert study.ranked()[:4] == study.pareto
    assert study.goal == "max a, min b"


def test_with_one_objective_the_front_is_the_best_trial() -> None:
    study = make_study(Objective("a", "max", "best"))
    add_trial(study, a=0.3)
    best = add_trial(study, a=0.4)
    assert study.pareto == [best]
    assert study.best is best
