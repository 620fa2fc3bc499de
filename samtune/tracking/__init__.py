"""Experiment tracking with MLflow, which no other package imports.

Knows studies and how they look in MLflow; must not import Ray. Importing this package does not import mlflow;
connecting does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from samtune.lazy import lazy_exports

if TYPE_CHECKING:
    from samtune.tracking.credentials import hide_credentials, redact_command, redact_text, shown_command
    from samtune.tracking.history import check_experiment, finished_runs
    from samtune.tracking.log_to import loggers
    from samtune.tracking.models import log_model
    from samtune.tracking.runs import TrackedRun, is_run_id
    from samtune.tracking.store import log_files
    from samtune.tracking.system import SWITCH
    from samtune.tracking.tracker import MlflowTracker
    from samtune.tracking.ui import comparison_page, serving, top_runs
    from samtune.tracking.uris import (
        default_tracking_uri,
        is_configured,
        is_server,
        resolve_tracking_uri,
        sqlite_path,
        ui_command,
        ui_page,
    )

__all__ = [
    "SWITCH",
    "MlflowTracker",
    "TrackedRun",
    "check_experiment",
    "comparison_page",
    "default_tracking_uri",
    "finished_runs",
    "hide_credentials",
    "is_configured",
    "is_run_id",
    "is_server",
    "log_files",
    "log_model",
    "loggers",
    "redact_command",
    "redact_text",
    "resolve_tracking_uri",
    "serving",
    "shown_command",
    "sqlite_path",
    "top_runs",
    "ui_command",
    "ui_page",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "check_experiment": ".history",
        "finished_runs": ".history",
        "loggers": ".log_to",
        "log_model": ".models",
        "TrackedRun": ".runs",
        "is_run_id": ".runs",
        "log_files": ".store",
        "SWITCH": ".system",
        "MlflowTracker": ".tracker",
        "comparison_page": ".ui",
        "serving": ".ui",
        "top_runs": ".ui",
        "default_tracking_uri": ".uris",
        "is_configured": ".uris",
        "is_server": ".uris",
        "hide_credentials": ".credentials",
        "redact_command": ".credentials",
        "redact_text": ".credentials",
        "shown_command": ".credentials",
        "resolve_tracking_uri": ".uris",
        "sqlite_path": ".uris",
        "ui_command": ".uris",
        "ui_page": ".uris",
    },
)
