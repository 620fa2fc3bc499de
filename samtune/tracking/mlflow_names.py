"""Every undocumented name of MLflow that samtune uses, with the reason and what would replace it.

The only module that imports them; `tests/tracking/test_mlflow_names.py` checks each against the installed MLflow.
Importing it does not import mlflow.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from samtune.undocumented import Undocumented, Variable

LOGGED_ARTIFACTS = "mlflow.loggedArtifacts"
PARENT_RUN_ID = "mlflow.parentRunId"
RUN_NOTE = "mlflow.note.content"
SOURCE_NAME = "mlflow.source.name"
USER = "mlflow.user"
PRIMARY_METRIC = "mlflow.experiment.primaryMetric.name"
"""The metric that MLflow's UI shows first."""
EXPERIMENT_KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Has MLflow's UI open on runs and charts rather than on traces."""

TELEMETRY = "MLFLOW_DISABLE_TELEMETRY"
PRINTED_URLS = "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"
PROGRESS_BAR = "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"
JOB_RUNNERS = "MLFLOW_SERVER_ENABLE_JOB_EXECUTION"

_LOGGING = "mlflow.utils.logging_utils:suppress_logs_in_thread"
_MONITOR = "mlflow.system_metrics.system_metrics_monitor:SystemMetricsMonitor"
_TAGS = "mlflow.utils.mlflow_tags"
_WITH_URI = "mlflow.start_run(log_system_metrics=True) that takes a tracking URI, for a run that another client writes"

NAMES = (
    Undocumented(_LOGGING, "a failed request is reported in one line", "a client that raises and logs nothing", "()"),
    Undocumented(_MONITOR, "the machine's load beside the search", _WITH_URI, "(1, resume_logging=1, tracking_uri=1)"),
    Undocumented(f"{_MONITOR}.start", "likewise", _WITH_URI, "(self)"),
    Undocumented(f"{_MONITOR}.finish", "likewise", _WITH_URI, "(self)"),
    Undocumented(f"{_TAGS}:MLFLOW_LOGGED_ARTIFACTS", "the UI shows a table as one", "log_table that replaces a table"),
    Undocumented(f"{_TAGS}:MLFLOW_PARENT_RUN_ID", "trials are runs below their study's", "create_run(parent_run_id=…)"),
    Undocumented(f"{_TAGS}:MLFLOW_RUN_NOTE", "the description of a study", "MlflowClient.update_run(description=…)"),
    Undocumented(f"{_TAGS}:MLFLOW_SOURCE_NAME", "a run says what wrote it", "create_run(source_name=…)"),
    Undocumented(f"{_TAGS}:MLFLOW_USER", "a run says who wrote it", "create_run(user=…), or the client's own default"),
    Undocumented(
        f"{_TAGS}:MLFLOW_EXPERIMENT_PRIMARY_METRIC_NAME",
        "the UI opens on the objective",
        "an argument of create_experiment",
    ),
)

_ENVIRONMENT = "mlflow.environment_variables"
VARIABLES = (
    Variable(TELEMETRY, _ENVIRONMENT, "a search reports to nobody unasked", "true"),
    Variable(PRINTED_URLS, _ENVIRONMENT, "stdout is the search's own: MLflow prints two lines a run there", "true"),
    Variable(PROGRESS_BAR, _ENVIRONMENT, "a file of a few keys is read without a bar for it on stderr", "false"),
    Variable(JOB_RUNNERS, _ENVIRONMENT, "a server of two processes instead of nine", "false"),
    Variable("MLFLOW_HTTP_REQUEST_MAX_RETRIES", _ENVIRONMENT, "the default blocks a call for four minutes"),
    Variable("MLFLOW_HTTP_REQUEST_TIMEOUT", _ENVIRONMENT, "likewise"),
    Variable("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", _ENVIRONMENT, "likewise"),
)


def quiet() -> AbstractContextManager[Any]:
    """MLflow's own logging off, in this thread, for the duration of a request."""
    from mlflow.utils.logging_utils import suppress_logs_in_thread

    return suppress_logs_in_thread()


def system_metrics_monitor(run_id: str, tracking_uri: str) -> Any:
    """A thread that logs this machine's load to a run: `start()`, `finish()`."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    return SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=tracking_uri)
