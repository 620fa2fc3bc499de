"""The study that an MLflow run tells of: the run is a search's, or one of its trials'."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from samtune.errors import UsageError
from samtune.storage import parent
from samtune.store.study_folder import DEFAULT_STORAGE, StudyFolder, study_folder
from samtune.study import Study, Trial
from samtune.tracking.mlflow_names import PARENT_RUN_ID
from samtune.tracking.runs import TrackedRun


@dataclass(frozen=True)
class TrackedStudy:
    """A study found by a run.

    Attributes:
        trial: whose run it is; None where it is the whole study's.
    """

    run: TrackedRun
    folder: StudyFolder
    study: Study
    trial: Trial | None


def study_of_run(run_id: str, storage_path: str | Path | None = None, tracking_uri: str | None = None) -> TrackedStudy:
    """The study, and the trial, of a run.

    Args:
        storage_path: where the study is kept; default where the run says.
        tracking_uri: where the run is; default the store in the storage path.

    Raises:
        UsageError: it is not a run of samtune, or its study or trial is not there.
        TrackingError: the tracking server does not answer or has no such run.
    """
    from samtune.tracking import default_tracking_uri, resolve_tracking_uri

    default = default_tracking_uri(str(storage_path or DEFAULT_STORAGE))
    run = TrackedRun.open(resolve_tracking_uri(tracking_uri) if tracking_uri else default, run_id)
    name, trial_id = run.tags.get("samtune.study"), run.tags.get("samtune.trial_id")
    if name is None:
        raise UsageError(f"{run_id}: is not a run of samtune")
    folder = study_folder(storage_path or _storage_of(run), name)
    study = folder.read()
    trial = next((trial for trial in study.trials if trial.id == trial_id), None)
    if trial_id and trial is None:
        raise UsageError(f"{run_id}: study {name} in {folder.storage} has no trial {trial_id}")
    return TrackedStudy(run, folder, study, trial)


def _storage_of(run: TrackedRun) -> str | None:
    """The folder of all studies, which the run of the whole study has as a tag."""
    parent_id = run.tags.get(PARENT_RUN_ID)
    tags = (TrackedRun.open(run.uri, parent_id) if parent_id else run).tags
    return parent(tags["samtune.storage_path"]) if "samtune.storage_path" in tags else None
