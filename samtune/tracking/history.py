"""What an MLflow experiment knows of finished trials, whoever logged them."""

from __future__ import annotations

from collections.abc import Sequence

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from samtune.errors import UsageError, one_line
from samtune.study import EpochLog, Trial, TrialState
from samtune.tracking.credentials import redact
from samtune.tracking.parameters import AllParams
from samtune.tracking.store import client_of
from samtune.tracking.uris import sqlite_path

_MAX_RUNS = 10_000


def finished_runs(tracking_uri: str, experiment: str, metrics: Sequence[str]) -> list[Trial]:
    """The finished runs of an experiment that have parameters, as trials; their parameters are texts.

    Args:
        metrics: whose values per epoch are read.

    Raises:
        UsageError: there is no such experiment, or the server does not answer.
    """
    client, found = _find(tracking_uri, experiment)
    try:
        runs: list[Run] = []
        token: str | None = None
        while len(runs) < _MAX_RUNS:
            page = client.search_runs([found], "attributes.status = 'FINISHED'", page_token=token)
            runs += page
            token = page.token
            if not token:
                break
        params = AllParams(client)
        return [
            _trial(client, number, run, params.of(run), metrics) for number, run in enumerate(runs) if run.data.params
        ]
    except (MlflowException, OSError, ValueError) as error:
        raise UsageError(f"mlflow:{experiment}: {one_line(error)}") from error


def check_experiment(tracking_uri: str, experiment: str) -> None:
    """Raises UsageError where there is no such experiment, or the server does not answer."""
    _find(tracking_uri, experiment)


def _find(tracking_uri: str, experiment: str) -> tuple[MlflowClient, str]:
    """The experiment's id."""
    missing = UsageError(f"mlflow:{experiment}: no such experiment in {redact(tracking_uri)}")
    store = sqlite_path(tracking_uri)
    if store is not None and not store.exists():
        raise missing  # a client would create it
    try:
        client = client_of(tracking_uri)
        found = client.get_experiment_by_name(experiment)
    except Exception as error:  # MLflow's, SQLAlchemy's, the database driver's
        raise UsageError(f"mlflow:{experiment}: {one_line(error)}") from error
    if found is None:
        raise missing
    return client, found.experiment_id


def _trial(client: MlflowClient, number: int, run: Run, params: dict[str, str], metrics: Sequence[str]) -> Trial:
    history: dict[int, dict[str, float]] = {}
    for name in metrics:
        for point in client.get_metric_history(run.info.run_id, name) if name in run.data.metrics else ():
            history.setdefault(point.step, {"epoch": float(point.step)})[name] = point.value
    return Trial(
        number=number,
        id=run.info.run_id,
        config={},
        params=dict(params),
        num_epochs=len(history),
        state=TrialState.COMPLETED,
        history=EpochLog(history[step] for step in sorted(history)),
    )
