"""The kinds of processes in the tree of a search, and what the loss of each means."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path

import psutil

CONTINUES = {
    "RayTrainWorker": "a worker",
    "Coordinator": "the actor that hands out trials",
    "_AutoscalingCoordinatorActor": "Ray Train's, of resources",
    "IDLE": "a worker process in reserve",
    "dashboard.py": "serves the state of the cluster",
    "watcher.py": "samtune's own, which ends the runs of a driver that was ended",
}
"""What a search survives: it costs at most the time since the last checkpoint."""

ENDS = {
    "gcs_server": "holds the cluster's tables",
    "raylet": "starts and watches the processes of a node",
}
"""Without these there is no cluster any more: the driver ends in order, before Ray's core ends it."""

ENDS_AT_ONCE = {
    "DashboardAgent": "Ray ends a node whose agent has died, and the driver on it, in a fifth of a second",
    "RuntimeEnvAgent": "likewise",
}
"""Mostly nothing can be done any more in the driver: what is kept is on disk."""


def kind_of(process: psutil.Process) -> str:
    """The kind of a process in a search's tree."""
    command = process.cmdline()
    title = command[0] if command else process.name()
    if title.startswith("ray::"):
        return title.removeprefix("ray::").partition(".")[0]
    script = next((Path(part).name for part in command if part.endswith(".py")), "")
    return script or Path(title).name


def tree(driver: subprocess.Popen[str] | psutil.Process) -> dict[str, list[psutil.Process]]:
    """The living processes under a driver, by kind."""
    found: dict[str, list[psutil.Process]] = {}
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(driver.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.setdefault(kind_of(process), []).append(process)
    return found
