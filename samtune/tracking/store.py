"""The MLflow store of a search, and the few requests it makes."""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from samtune.tracking.mlflow_names import (
    EXPERIMENT_KIND,
    LOGGED_ARTIFACTS,
    PARENT_RUN_ID,
    PRIMARY_METRIC,
    PRINTED_URLS,
    PROGRESS_BAR,
    RUN_NOTE,
    SOURCE_NAME,
    TELEMETRY,
    USER,
    quiet,
)

# MLflow reads these when it is imported. The user's own setting of the first wins.
os.environ.setdefault(TELEMETRY, "true")
os.environ[PRINTED_URLS] = "true"
os.environ.setdefault(PROGRESS_BAR, "false")

from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    Experiment,
    InputTag,
    LifecycleStage,
    Metric,
    Param,
    Run,
    RunTag,
)
from mlflow.exceptions import MlflowException

from samtune.errors import TrackingError
from samtune.study import Study
from samtune.tracking.connect import (
    CONNECT_SECONDS,
    alone,
    check_reachable,
    connect_error,
    make_folder,
    redacted_line,
)
from samtune.tracking.credentials import redact, with_credentials
from samtune.tracking.moved_artifacts import FOLDER, correct_addresses
from samtune.tracking.new_database import from_template
from samtune.tracking.uris import sqlite_path, store_error

TRIAL_ID_TAG, STUDY_TAG, STORAGE_TAG = "samtune.trial_id", "samtune.study", "samtune.storage_path"

REQUEST_SECONDS = 30

# What no repetition mends: the run was deleted, or the store does not take such a value.
_REFUSED = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "BAD_REQUEST")
_HTTP_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": {"connect": 1, "request": 0},  # the writer repeats, and says so
    "MLFLOW_HTTP_REQUEST_TIMEOUT": {"connect": CONNECT_SECONDS, "request": REQUEST_SECONDS},
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": {"connect": 0, "request": 0},
}
_user_settings = {name for name in _HTTP_SETTINGS if name in os.environ}


class StoreError(Exception):
    """A request failed. `refused`: repeating it is no use."""

    def __init__(self, message: str, *, refused: bool) -> None:
        super().__init__(message)
        self.refused = refused


@dataclass(frozen=True)
class KnownRun:
    """A run of a trial that the store has from before."""

    run_id: str
    status: str
    num_epochs: int  # whose metrics the store has


class Store:
    """One experiment of one MLflow store. Every method may be called from any thread, and is safe to repeat.

    Args:
        uri: an absolute tracking URI (`resolve_tracking_uri`).
        experiment: its name; created when it does not exist.

    Raises:
        TrackingError: the store does not answer within a few seconds, or refuses.
    """

    def __init__(self, uri: str, experiment: str) -> None:
        self.uri = uri  # for messages: without a password
        self._is_new = False
        make_folder(uri)
        _set_http("connect")
        try:
            database = sqlite_path(uri)
            with quiet(), alone(uri), from_template(database):
                address = with_credentials(uri)
                check_reachable(address)
                if database:
                    correct_addresses(database)
                self._client = MlflowClient(address)
                self.experiment_id = self._get_or_create(experiment)
        except TrackingError:
            raise
        except MlflowException as error:
            raise connect_error(uri, error) from error
        except Exception as error:  # SQLAlchemy's and the database drivers' own
            raise store_error(uri, f"cannot be opened: {redacted_line(error)}") from error
        _set_http("request")

    def _get_or_create(self, name: str) -> str:
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            database = sqlite_path(self.uri)
            folder = database.parent / FOLDER if database else None
            try:
                created = self._client.create_experiment(name, folder.as_uri() if folder else None, EXPERIMENT_KIND)
                self._is_new = True
                return str(created)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                experiment = self._client.get_experiment_by_name(name)  # another search was faster
        assert isinstance(experiment, Experiment)
        if experiment.lifecycle_stage == LifecycleStage.DELETED:
            raise TrackingError(
                f"was deleted in {redact(self.uri)}; choose another name, or restore it with "
                f"`MLFLOW_TRACKING_URI={redact(self.uri)} mlflow experiments restore -x {experiment.experiment_id}`",
                argument="experiment",
                value=name,
            )
        return str(experiment.experiment_id)

    def set_objective(self, metric: str) -> None:
        """Makes a metric the one that the UI shows first; an experiment of somebody else's making is left alone."""
        if self._is_new:
            with translated():
                self._client.set_experiment_tag(self.experiment_id, PRIMARY_METRIC, metric)

    def create_run(self, name: str, start_ms: int, tags: Mapping[str, str], parent_run_id: str | None = None) -> str:
        """Creates a run, RUNNING from `start_ms` on, and returns its id."""
        tags = {USER: _user(), SOURCE_NAME: "samtune", **tags}
        if parent_run_id:
            tags[PARENT_RUN_ID] = parent_run_id
        with translated():
            run = self._client.create_run(self.experiment_id, start_ms, tags, name)
        return str(run.info.run_id)

    def parent_run(self, run_id: str, storage_path: str) -> bool:
        """Whether the parent run is still there, in this experiment; if so, it has the study's present address."""
        try:
            with translated():
                run = self._client.get_run(run_id)
        except StoreError as error:
            if error.refused:
                return False
            raise
        if run.info.lifecycle_stage == LifecycleStage.DELETED or run.info.experiment_id != self.experiment_id:
            return False
        if run.data.tags.get(STORAGE_TAG) != storage_path:
            with translated():
                self._client.set_tag(run_id, STORAGE_TAG, storage_path)
        return True

    def orphan_run(self, study: str, storage_path: str) -> str | None:
        """The parent run of a study whose driver died before it had a journal: it runs, and has no trial."""
        query = f"attributes.status = 'RUNNING' AND tags.`{STUDY_TAG}` = '{study}'"
        with translated():
            found = self._client.search_runs([self.experiment_id], query, max_results=100)
        for run in found:
            tags = run.data.tags  # a path may hold quotes, which MLflow's queries cannot
            if PARENT_RUN_ID not in tags and tags.get(STORAGE_TAG) == storage_path:
                run_id = str(run.info.run_id)
                return None if self.trial_runs(run_id) else run_id
        return None

    def trial_runs(self, parent_run_id: str, trial_id: str | None = None) -> dict[str, KnownRun]:
        """The runs under a parent by trial id: all of them, or the one of a trial if it exists."""
        query = f"tags.`{PARENT_RUN_ID}` = '{parent_run_id}'"
        if trial_id is not None:
            query += f" AND tags.`{TRIAL_ID_TAG}` = '{trial_id}'"
        found: list[Run] = []
        token = None
        with translated():
            while True:
                page = self._client.search_runs([self.experiment_id], query, max_results=1000, page_token=token)
                found += page
                token = page.token
                if not token:
                    break
        return {
            run.data.tags[TRIAL_ID_TAG]: KnownRun(
                run.info.run_id, run.info.status, int(run.data.tags.get("samtune.num_epochs", 0))
            )
            for run in found
            if TRIAL_ID_TAG in run.data.tags
        }

    def log(
        self,
        run_id: str,
        *,
        metrics: Sequence[tuple[str, float, int, int]] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Logs to a run in as few requests as MLflow's limits allow.

        Args:
            metrics: (name, value, milliseconds since 1970, step).
        """
        with translated():
            self._client.log_batch(
                run_id,
                [Metric(*metric) for metric in metrics],
                [Param(key, value) for key, value in (params or {}).items()],
                [RunTag(key, value) for key, value in (tags or {}).items()],
            )

    def log_dataset(self, run_id: str, name: str, digest: str, source: str, context: str) -> None:
        """Says which data a run has used: MLflow shows and filters by it.

        Args:
            digest: the same for the same data and split.
            source: where the data are from, and how they are split.
            context: `training`, `validation` …
        """
        dataset = Dataset(name=name, digest=digest, source_type="samtune", source=source)
        with translated():
            self._client.log_inputs(
                run_id, datasets=[DatasetInput(dataset, [InputTag("mlflow.data.context", context)])]
            )

    def log_text(self, run_id: str, text: str, file_name: str) -> None:
        """Logs a text file as an artifact, replacing one of that name."""
        with translated():
            self._client.log_text(run_id, text, file_name)

    def log_table(self, run_id: str, columns: Mapping[str, Sequence[object]], file_name: str) -> None:
        """Logs a table that MLflow's UI shows as one. (`MlflowClient.log_table` appends; this replaces.)"""
        rows = [list(row) for row in zip(*columns.values(), strict=True)]
        self.log_text(run_id, json.dumps({"columns": list(columns), "data": rows}, allow_nan=False), file_name)
        self.log(run_id, tags={LOGGED_ARTIFACTS: json.dumps([{"path": file_name, "type": "table"}])})

    def describe(self, run_id: str, markdown: str) -> None:
        """Sets the text at the top of the run's page."""
        self.log(run_id, tags={RUN_NOTE: markdown})

    def set_running(self, run_id: str) -> None:
        """Opens a run that had ended."""
        with translated():
            self._client.update_run(run_id, status="RUNNING")

    def end_run(self, run_id: str, status: str, end_ms: int) -> None:
        """Ends a run as FINISHED, FAILED or KILLED."""
        with translated():
            self._client.set_terminated(run_id, status, end_ms)


@contextmanager
def translated() -> Iterator[None]:
    """Errors of MLflow in the body are raised as `StoreError`."""
    try:
        with quiet():  # MLflow logs each failure with its traceback; the writer reports it once
            yield
    except MlflowException as error:
        raise StoreError(redacted_line(error), refused=error.error_code in _REFUSED) from error
    except Exception as error:  # of artifact stores and database drivers: there is no common base
        raise StoreError(redacted_line(error), refused=False) from error


def log_files(study: Study, files: Mapping[str, str]) -> None:
    """Logs text files to the parent run of a study, replacing those of their names.

    Raises:
        TrackingError: the store does not answer or refuses.
    """
    assert study.parent_run_id is not None
    store = Store(study.tracking_uri, study.experiment)
    try:
        for name, text in files.items():
            store.log_text(study.parent_run_id, text, name)
    except StoreError as error:
        raise store_error(study.tracking_uri, str(error)) from error


def client_of(uri: str) -> MlflowClient:
    """MLflow's client of a store, with our limits on how long it waits."""
    _set_http("request")
    return MlflowClient(with_credentials(uri))


@contextmanager
def used_by_mlflow(uri: str) -> Iterator[None]:
    """Makes a store the one of MLflow's own functions in this process."""
    import mlflow

    _set_http("request")
    before = os.environ.get("MLFLOW_TRACKING_URI")  # MLflow keeps it here too
    mlflow.set_tracking_uri(with_credentials(uri))
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)  # type: ignore[arg-type]  # None: as if never set


def _set_http(phase: str) -> None:
    """MLflow's own defaults block a call for four minutes when a server is down. The user's settings are kept."""
    os.environ.update({name: str(value[phase]) for name, value in _HTTP_SETTINGS.items() if name not in _user_settings})


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container without a name for its user
        return "unknown"
