"""Where the configurations come from that are to be confirmed: a search, an MLflow run, or one space's values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from samtune.config.searched import Expr
from samtune.config.space import SearchSpace
from samtune.errors import UsageError
from samtune.experiments.candidates import Chosen, candidates_of, final, trial_as_candidate
from samtune.experiments.tracked_study import TrackedStudy, study_of_run
from samtune.store.study_folder import StudyFolder, located, stored_space, study_folder
from samtune.study import Study
from samtune.tracking.runs import is_run_id


@dataclass(frozen=True)
class Source:
    """What is to be confirmed.

    Attributes:
        name: of the study, or the space.
        chosen: the best first.
        space: gives everything that is not the trials'.
        storage: folder or URI of all studies.
        study: the search; None where there was none.
    """

    name: str
    chosen: Chosen
    space: SearchSpace
    storage: str
    study: Study | None = None


def find_source(
    text: str | SearchSpace, *, top: int, storage_path: str | Path | None = None, tracking_uri: str | None = None
) -> Source:
    """What a user means by a study's name, the id of an MLflow run (a search's, or one trial's), or a space.

    Args:
        top: how many of a search's best trials.
        storage_path, tracking_uri: where studies and runs are looked for; defaults as everywhere.

    Raises:
        UsageError: there is no such thing, it has no completed trial, or the space searches something.
        TrackingError: the tracking server does not answer or has no such run.
    """
    if isinstance(text, SearchSpace):
        return _from_space(text, storage_path)
    if is_run_id(text):
        return _from_run(study_of_run(text, storage_path, tracking_uri), top)
    if text.endswith((".yaml", ".yml")):
        return _from_space(SearchSpace.from_yaml(text), storage_path)
    folder = study_folder(storage_path, text)
    return _from_study(folder, folder.read(), top)


def fixed_trial(space: SearchSpace) -> SearchSpace:
    """The space with its folder, of which nothing is searched.

    Raises:
        UsageError: something is.
    """
    if searched := [key for key, node in space.distributions() if not isinstance(node, Expr)]:
        raise UsageError(
            f"{space.source_name}: {', '.join(searched)}: searched, and here each key has one value: "
            f"--set {searched[0]}=… fixes it"
        )
    return located(space)


def _from_space(space: SearchSpace, storage_path: str | Path | None) -> Source:
    space = fixed_trial(space)
    spec = final(space.trial({}))
    storage = study_folder(storage_path, space.name).storage
    return Source(space.name, {spec.method.name: (spec, None)}, space, storage)


def _from_study(folder: StudyFolder, study: Study, top: int) -> Source:
    space = _space_of_search(study, folder)
    return Source(study.name, candidates_of(study, space, top), space, folder.storage, study)


def _from_run(found: TrackedStudy, top: int) -> Source:
    if found.trial is None:
        return _from_study(found.folder, found.study, top)
    space = _space_of_search(found.study, found.folder)
    chosen = dict([trial_as_candidate(found.study, found.trial, space)])
    return Source(f"{found.study.name}-trial-{found.trial.number}", chosen, space, found.folder.storage, found.study)


def _space_of_search(study: Study, folder: StudyFolder) -> SearchSpace:
    if study.kind != "search":
        raise UsageError(f"study {study.name} is a {study.kind}: what is confirmed are trials of a search, or a YAML")
    return stored_space(study, folder.uri)
