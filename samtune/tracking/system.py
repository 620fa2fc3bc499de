"""Load, memory, disk and network of the driver's machine as metrics of the parent run, where MLflow is told to."""

from __future__ import annotations

import os
from collections.abc import Callable

from samtune.tracking.mlflow_names import system_metrics_monitor

SWITCH = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"  # MLflow's own


def is_wanted() -> bool:
    """Whether MLflow's switch is on."""
    return os.environ.get(SWITCH, "").strip().lower() in ("true", "1")


def start_system_metrics(tracking_uri: str, run_id: str) -> Callable[[], None]:
    """Samples every ten seconds (MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL), GPUs included, in a thread of MLflow's.

    Returns:
        What ends it.
    """
    monitor = system_metrics_monitor(run_id, tracking_uri)
    monitor.start()
    stop: Callable[[], None] = monitor.finish
    return stop
