"""The record of a study as its run begins: a new one, or that of an earlier run with what may change."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import version
from pathlib import Path

from samtune.experiments.plan import Plan
from samtune.experiments.trials import StudyDefinition
from samtune.storage import parent
from samtune.store.study_folder import StudyFolder, study_folder
from samtune.study import Study, StudyKind, TrialState, is_over
from samtune.tracking import redact_command
from samtune.tune.objectives import objectives_of


def new_record(
    definition: StudyDefinition,
    plan: Plan,
    *,
    name: str,
    kind: StudyKind,
    folder: StudyFolder,
    tracking_uri: str,
    experiment: str,
) -> Study:
    """Of a study that begins, or begins again, with this command and these versions; no trial is in it."""
    return Study(
        name=name,
        objectives=objectives_of(definition),
        num_trials=definition.num_trials,
        space_yaml=definition.to_yaml(),
        plan=plan.to_dict(),
        storage_path=folder.uri,
        tracking_uri=tracking_uri,
        experiment=experiment,
        command=_command_line(),
        versions=_versions(),
        kind=kind,
    )


def take_over(study: Study, earlier: Study) -> None:
    """Gives a record what an earlier run of the study has: its trials, of which those that had not ended wait again."""
    study.plan["given"] = earlier.plan.get("given")  # the stored space has every default written out
    study.trials = earlier.trials
    for trial in study:
        if not is_over(trial):
            trial.state, trial.error, trial.traceback, trial.ended_at = TrialState.WAITING, None, None, None
    if not writes_elsewhere(earlier, study.tracking_uri):
        study.parent_run_id = earlier.parent_run_id


def writes_elsewhere(earlier: Study, tracking_uri: str) -> bool:
    """Whether a resumed study has another MLflow store than before, or is a copy: the original keeps its runs."""
    if earlier.tracking_uri != tracking_uri:
        return True
    origin = earlier.moved_from
    return origin is not None and study_folder(parent(origin), origin.rpartition("/")[2]).exists()


def all_done(study: Study, num_trials: int | None = None) -> bool:
    """Whether no trial is missing.

    Args:
        num_trials: how many it shall have; None: as many as it was begun with.
    """
    return sum(is_over(trial) for trial in study) >= (num_trials or study.num_trials)


def _command_line() -> str:
    """What started this process, to be pasted into a shell."""
    program = Path(sys.argv[0]).name
    return redact_command(["samtune", *sys.argv[1:]] if program in ("samtune", "__main__.py") else sys.argv)


def _versions() -> dict[str, str]:
    packages = ("samtune", "ray", "torch", "torchvision", "optuna", "mlflow", "pyarrow")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}
