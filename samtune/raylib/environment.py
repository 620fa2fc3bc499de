"""The environment variables by which Ray is set up. A variable that the user has set keeps the user's value."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from samtune.undocumented import Variable

SEARCH_VARIABLES = (
    Variable("RAY_AIR_NEW_OUTPUT", "ray.air.constants", "Tune prints no table of its own", "0"),
    Variable(
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS",
        "ray.tune.constants",
        "no CSV, JSON and TensorBoard files: they take 10 ms a trial, and MLflow has what they hold",
        "1",
    ),
    Variable("TUNE_DISABLE_SIGINT_HANDLER", "ray.tune.constants", "Ctrl-C is samtune's to handle", "1"),
    Variable(
        "TUNE_DISABLE_STRICT_METRIC_CHECKING",
        "ray.tune.constants",
        "a trial that fails in its first epoch has no metric",
        "1",
    ),
    Variable(
        "TUNE_MAX_PENDING_TRIALS_PG",
        "ray.tune.constants",
        "samtune's concurrency limiter decides how many trials are under way",
        "100000",
    ),
    Variable(
        "TUNE_PRINT_ALL_TRIAL_ERRORS",
        "ray.tune.constants",
        "a lost Trainable is replaced, and a failed trial is reported in one line",
        "0",
    ),
    Variable("TUNE_RESULT_BUFFER_LENGTH", "ray.tune.constants", "every epoch is seen when it ends", "0"),
    Variable("TUNE_WARN_THRESHOLD_S", "ray.tune.constants", "a proposal of a Gaussian process may take seconds", "60"),
    Variable("RAY_USAGE_STATS_ENABLED", "ray._common.usage.usage_constants", "reports to nobody unasked", "0"),
    Variable(
        "RAY_ENABLE_AUTO_CONNECT",
        "ray._private.auto_init_hook",
        "a thread that calls Ray after the shutdown must not start a cluster",
        "0",
    ),
    Variable(
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO",
        "ray._private.accelerators.accelerator",
        "the future behavior, without Ray's warning about it",
        "0",
    ),
)
"""Set before Ray is imported, which reads them then."""

WARN_BLOCKING = Variable(
    "RAY_WARN_BLOCKING_GET_INSIDE_ASYNC", "ray._common.constants", "as Ray Train sets it for its controller", "0"
)

TRAIN_VARIABLES = (
    Variable(
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S",
        "ray.train.v2._internal.constants",
        "Train polls workers at this interval (2 s by default), but see `DriverController`; so it notices their end",
        "0.2",
    ),
    Variable(
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER",
        "ray.train.v2._internal.constants",
        "saves a process that imports Ray Train; samtune watches the nodes itself",
        "0",
    ),
    Variable("RAY_TRAIN_METRICS_ENABLED", "ray.train.v2._internal.constants", "saves a process, likewise", "0"),
    Variable("RAY_CHDIR_TO_TRIAL_DIR", "ray.train.constants", "the workers keep the driver's working directory", "0"),
    Variable(
        "RAY_TRAIN_ENABLE_PRINT_PATCH",
        "ray.train.v2._internal.constants",
        "print writes a line once, to stdout, where a trial's output is heard; not to Train's logger too",
        "0",
    ),
    WARN_BLOCKING,
)
"""Set in the process that calls `fit`, before it starts a cluster of its own, whose processes then have them too."""

CONTROLLER_LOGGING = Variable(
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING",
    "ray.train.v2._internal.constants",
    "a controller in the driver must not change how the user's process logs",
    "0",
)
"""Set in a driver that runs controllers itself."""

JOB_CONFIG = Variable(
    "RAY_JOB_CONFIG_JSON_ENV_VAR",
    "ray._private.runtime_env.constants",
    "set in the driver of a Ray job, whose runtime environment has brought the user's code already",
)

START_VARIABLES = (
    Variable(
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER",
        "ray._private.ray_constants",
        "a cluster of this machine alone listens on loopback, as it does on Windows and macOS",
        "0",
    ),
    Variable(
        "RAY_raylet_client_connect_timeout_milliseconds",
        "ray._raylet",
        "a process of Ray that finds no socket yet looks again soon, not after 1 s",
        "20",
    ),
    Variable("RAY_raylet_client_num_connect_attempts", "ray._raylet", "in all it waits as long as it did", "500"),
    Variable(
        "RAY_enable_metrics_collection",
        "ray._raylet",
        "every process measures itself for a dashboard, which such a cluster does not have",
        "0",
    ),
    Variable("RAY_task_events_report_interval_ms", "ray._raylet", "each call is told of there, likewise: never", "0"),
)
"""Set while a cluster of this machine alone starts: its processes keep them."""

TOKEN, TOKEN_PATH = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
"""Documented by Ray: the token of a cluster, or the file that has it; else `~/.ray/auth_token` has it."""

VARIABLES = (*SEARCH_VARIABLES, *TRAIN_VARIABLES, CONTROLLER_LOGGING, JOB_CONFIG, *START_VARIABLES)

GROUP_GENERATION = "SAMTUNE_GROUP_GENERATION"
"""samtune's own: names this start of a worker group, the same on all its workers."""


@contextmanager
def search_environment() -> Iterator[None]:
    """Sets `SEARCH_VARIABLES` for the duration of a search."""
    with _set_meanwhile(SEARCH_VARIABLES):
        yield


@contextmanager
def start_environment() -> Iterator[None]:
    """Sets `START_VARIABLES` while a cluster is started in the body."""
    with _set_meanwhile(START_VARIABLES):
        yield


def set_train_environment() -> None:
    """Sets `TRAIN_VARIABLES` in this process."""
    _set(TRAIN_VARIABLES)


@contextmanager
def _set_meanwhile(variables: tuple[Variable, ...]) -> Iterator[None]:
    added = [variable.name for variable in variables if variable.name not in os.environ]
    _set(variables)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _set(variables: tuple[Variable, ...]) -> None:
    for variable in variables:
        assert variable.value is not None
        os.environ.setdefault(variable.name, variable.value)


def set_token() -> None:
    """Gives a new cluster of this machine a token where Ray could not: it would write one to `~/.ray`.

    It stays until this process ends, since Ray reads it once.
    """
    if TOKEN in os.environ or TOKEN_PATH in os.environ:
        return
    try:
        file = Path.home() / ".ray" / "auth_token"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists() or os.access(file.parent, os.W_OK):
            return
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        pass
    os.environ[TOKEN] = secrets.token_hex(32)


def is_ray_job() -> bool:
    """Whether this process is the driver of a job that was submitted to a cluster."""
    return bool(os.environ.get(JOB_CONFIG.name))
