"""All studies of a storage path: how each stands, and what it takes on the disk."""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from samtune.errors import UsageError, one_line
from samtune.experiments.confirmed_study import confirmation_in
from samtune.experiments.statistics import Estimate
from samtune.experiments.summary import StudyState, study_state
from samtune.experiments.verdict import verdict_of
from samtune.storage import delete_folder, is_remote, join, open_storage
from samtune.store.study_folder import DEFAULT_STORAGE, absolute_storage, study_folder, study_names
from samtune.study import Study, TrialState


@dataclass(frozen=True)
class StudyEntry:
    """A study in a list.

    Attributes:
        state: None where the study cannot be read; `problem` says why.
        objective, best: of its best trial; of a confirmation the mean of the best candidate's replicas.
        standard_error: of the best of a search, where it is a share of examples.
        half_width: of the 95% interval of a confirmation's best.
        num_ended: trials that are over, of `num_trials`.
        num_bytes: of its files.
    """

    name: str
    kind: str | None
    state: StudyState | None
    objective: str | None
    best: float | None
    standard_error: float | None
    half_width: float | None
    num_ended: int
    num_trials: int
    seconds: float | None
    started_at: float | None
    num_bytes: int | None
    problem: str | None = None


def list_studies(storage_path: str | Path | None = None) -> list[StudyEntry]:
    """Every study in a storage path, the newest first; those that cannot be read are last.

    Raises:
        UsageError: the store does not answer, or the folder may not be read.
    """
    storage = absolute_storage(storage_path or DEFAULT_STORAGE)
    entries = [_entry(storage, name) for name in study_names(storage)]
    return sorted(entries, key=lambda entry: (entry.started_at is None, -(entry.started_at or 0.0), entry.name))


@dataclass(frozen=True)
class Removal:
    """What goes with a study, and what stays.

    Attributes:
        others: names of studies that are about this one, and stay: its confirmation.
        is_in_mlflow: whether MLflow has runs of it, which stay.
    """

    study: Study
    uri: str
    num_bytes: int | None
    others: list[str]

    @property
    def is_in_mlflow(self) -> bool:
        return self.study.parent_run_id is not None


def plan_removal(name: str, storage_path: str | Path | None = None) -> Removal:
    """What `remove_study` would delete.

    Raises:
        UsageError: there is no such study, or it runs.
    """
    folder = study_folder(storage_path, name)
    study = folder.read()
    if folder.is_running():
        raise UsageError(f"study {name} is running: stop it first")
    others = [other for other in study_names(folder.storage) if other == f"{name}-confirm"]
    return Removal(study, folder.uri, _size(folder.uri), others)


def remove_study(name: str, storage_path: str | Path | None = None) -> None:
    """Deletes a study's folder: journal, checkpoints, weights. MLflow keeps its runs.

    Raises:
        UsageError: there is no such study, it runs, or its files cannot be deleted.
    """
    plan_removal(name, storage_path)
    folder = study_folder(storage_path, name)
    try:
        if is_remote(folder.uri):
            delete_folder(folder.uri)
        if folder.local.exists():
            shutil.rmtree(folder.local)
    except OSError as error:
        raise UsageError(f"{folder.uri}: cannot be deleted: {one_line(error, 300)}") from error


def _entry(storage: str, name: str) -> StudyEntry:
    folder = study_folder(storage, name)
    try:
        study, running = folder.read(), folder.is_running()
    except (UsageError, OSError) as error:
        nothing: dict[str, Any] = dict.fromkeys(
            ("kind", "state", "objective", "best", "standard_error", "half_width", "seconds", "started_at", "num_bytes")
        )
        return StudyEntry(name=name, num_ended=0, num_trials=0, problem=one_line(error, 300), **nothing)
    if running:
        study.ended_at = None
    best, verdict, estimate = study.best, verdict_of(study), _confirmed(study)
    return StudyEntry(
        name=name,
        kind=study.kind,
        state=study_state(study, running=running),
        objective=str(study.objective),
        best=estimate.mean if estimate else study.objective.value(best) if best else None,
        standard_error=verdict.standard_error if verdict else None,
        half_width=estimate.half_width if estimate else None,
        num_ended=study.count(TrialState.COMPLETED, TrialState.PRUNED, TrialState.FAILED),
        num_trials=study.num_trials,
        seconds=round(study.seconds, 3),
        started_at=study.started_at,
        num_bytes=_size(join(storage, name)),
    )


def _confirmed(study: Study) -> Estimate | None:
    confirmation = confirmation_in(study)
    return confirmation.best.estimate if confirmation and confirmation.best else None


def _size(uri: str) -> int | None:
    """Bytes of all files below a path or URI; None where the store does not say."""
    if not is_remote(uri):
        return _local_size(uri)
    filesystem, path = open_storage(uri)
    try:
        found = filesystem.get_file_info(pafs.FileSelector(path, recursive=True, allow_not_found=True))
    except OSError:
        return None
    return sum(int(info.size) for info in found if info.type == pafs.FileType.File)


def _local_size(folder: str) -> int:
    """Follows no link, which pyarrow does: one may lead to the whole disk, or back to its own folder without end."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # deleted meanwhile
                status = os.lstat(os.path.join(place, name))
                total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total
