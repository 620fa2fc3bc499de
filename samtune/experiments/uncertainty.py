"""How exact the value of one trial is: its standard error, or why it has none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from samtune.study import Study, Trial

Source = Literal["examples", "folds", "trial"]

_COUNTED = {"val_accuracy": "num_validation", "test_accuracy": "num_test"}
"""Metrics that are a share of examples, and where a study's plan has the number of these."""


class StandardError(NamedTuple):
    """Of a trial's objective.

    Attributes:
        source: the number of `examples`, the spread over the trial's `folds`, or what its training function says of it.
    """

    value: float
    source: Source


def standard_error(share: float, num_examples: int) -> float:
    """Of a share of so many examples, with two successes and two failures added (Agresti and Coull 1998).

    Without them it would be 0 where every example is right, as if nothing were left to chance.
    """
    adjusted = (share * num_examples + 2) / (num_examples + 4)
    return math.sqrt(adjusted * (1 - adjusted) / (num_examples + 4))


def error_of(study: Study, trial: Trial) -> StandardError | None:
    """The standard error of a trial's first objective; None where it has no value, or nothing tells.

    What the trial itself reports (`val_accuracy_se`) counts first: over folds, it also holds what each network learned.
    Where all folds agree it is 0, and the number of examples tells more.
    """
    value = study.objective.value(trial)
    if value is None:
        return None
    if own := _reported(study, trial, value):
        return StandardError(own, "trial" if study.plan.get("train") else "folds")
    number = num_examples(study)
    return None if number is None else StandardError(standard_error(value, number), "examples")


def errors_of(study: Study, trials: Sequence[Trial]) -> list[float]:
    """The standard errors of several trials; empty where not all have one."""
    found = [error.value for trial in trials if (error := error_of(study, trial)) is not None]
    return found if len(found) == len(trials) else []


def num_examples(study: Study) -> int | None:
    """How many examples a trial is evaluated on, where the objective is a share of them; else None.

    With folds these are all that the search has: each example validates once.
    """
    number = study.plan.get(_COUNTED.get(study.objective.metric, ""))
    if not number:
        return None
    fewest_folds = study.plan.get("folds", (1, 1))[0]  # a journal from before folds has none
    return int(number + study.plan["num_train"] if fewest_folds > 1 else number)


def why_no_error(study: Study) -> str:
    """Why a trial whose objective has a value has no standard error, as a clause."""
    metric = study.objective.metric
    if study.plan.get("train"):
        return f"the training function does not report {metric}_se"
    if metric not in _COUNTED:
        return "it is no share of examples"
    return "the number of examples is not known beforehand"


def _reported(study: Study, trial: Trial, value: float) -> float:
    """What the trial says of the epochs that its value is from; 0 where it says nothing."""
    objective = study.objective
    match objective.epochs:
        case "last":
            records = trial.history[-1:]
        case "best":
            records = [record for record in trial.history if record.get(objective.metric) == value][:1]
        case count:  # epochs of one training: their mean is hardly more exact than one of them
            records = trial.history[-count:]
    errors = [record.get(f"{objective.metric}_se", math.nan) for record in records]
    mean = sum(errors) / len(errors) if errors else math.nan
    return mean if math.isfinite(mean) and mean > 0 else 0.0
