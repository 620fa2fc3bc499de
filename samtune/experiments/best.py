"""The best configuration of a search as a space of its own."""

from __future__ import annotations

import re
from pathlib import Path

from samtune.config.fixed import fixed_space, fixed_yaml
from samtune.errors import UsageError
from samtune.experiments.confirm import confirmation_so_far
from samtune.experiments.confirmation import Confirmation, format_estimate
from samtune.experiments.verdict import verdict_of
from samtune.formatting import format_metric
from samtune.store.study_folder import stored_space, study_folder
from samtune.study import Study, Trial, TrialState


def best_yaml(name: str, storage_path: str | Path | None = None, *, trial: int | None = None) -> str:
    """The YAML of a trial of a search: `train`, `confirm` and `search` take it as it is.

    Args:
        name: of the study.
        storage_path: folder or URI of all studies; default ./samtune-results.
        trial: its number; default: the best that `confirm` has found, where it has run, else the search's best.

    Raises:
        UsageError: there is no such study or trial, or none was completed.
    """
    folder = study_folder(storage_path, name)
    study = folder.read()
    if study.kind != "search":
        raise UsageError(f"study {name} is a {study.kind}: the best configuration is a search's")
    confirmation = confirmation_so_far(study)
    chosen = _chosen(study, confirmation, trial)
    space = fixed_space(stored_space(study, folder.uri), chosen.config, f"{study.name}-trial-{chosen.number}")
    return fixed_yaml(space, _comments(study, confirmation, chosen))


def _chosen(study: Study, confirmation: Confirmation | None, number: int | None) -> Trial:
    if number is None and confirmation is not None and confirmation.best is not None:
        number = _confirmed_number(confirmation)
    if number is None:
        if study.best is None:
            raise UsageError(f"study {study.name}: no trial was completed")
        return study.best
    for each in study:
        if each.number == number:
            return each
    raise UsageError(f"study {study.name} has no such trial", argument="trial", value=number)


def _confirmed_number(confirmation: Confirmation) -> int | None:
    """Of the trial that did best; None where only baselines have results."""
    best = confirmation.best
    found = re.match(r"trial (\d+) \(", best.label) if best else None
    return int(found[1]) if found else None


def _comments(study: Study, confirmation: Confirmation | None, trial: Trial) -> list[str]:
    verdict, best = verdict_of(study), confirmation and confirmation.best
    value = format_metric(study.objective.value(trial))
    if verdict is not None and verdict.trial == trial.number and verdict.standard_error is not None:
        value += f" ± {format_metric(verdict.standard_error)}"
    state = "" if trial.state is TrialState.COMPLETED else f", {trial.state}"
    lines = [
        f"Trial {trial.number} of study {study.name}: {study.objective} {value}{state}, the best of {len(study.trials)}"
    ]
    if trial is not study.best:
        lines = [line.removesuffix(f", the best of {len(study.trials)}") for line in lines]
    if best and confirmation and _confirmed_number(confirmation) == trial.number:
        lines.append(f"Confirmed with new seeds: {confirmation.metric} {format_estimate(best.estimate)}")
    return [*lines, "samtune train, confirm and search take this file as it is."]
