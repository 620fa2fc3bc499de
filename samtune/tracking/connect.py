"""Whether an MLflow store can be used: found out in seconds, and explained in one line. Does not import mlflow."""

from __future__ import annotations

import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from samtune.errors import TrackingError
from samtune.formatting import first_line
from samtune.tracking.uris import database_address, is_server, redact, redact_text, sqlite_path, store_error

if TYPE_CHECKING:
    from mlflow.exceptions import MlflowException

CONNECT_SECONDS = 5
LOCK_SECONDS = 60


@contextmanager
def alone(uri: str) -> Iterator[None]:
    """Alone of all processes of this machine: two that create MLflow's tables in a sqlite file disturb each other."""
    path = sqlite_path(uri)
    if path is None:
        yield
        return
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=LOCK_SECONDS)
    with suppress(Timeout):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def make_folder(uri: str) -> None:
    """Makes the folder of a sqlite file.

    Raises:
        TrackingError: it cannot be written.
    """
    if path := sqlite_path(uri):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unusable(uri, path, error) from error
        if not os.access(path.parent, os.W_OK):
            raise store_error(uri, f"{path.parent} is not writable")


def check_reachable(uri: str) -> None:
    """Finds in time what MLflow would retry for 100 seconds.

    Raises:
        TrackingError: a database cannot be opened.
    """
    if path := sqlite_path(uri):
        check_sqlite(uri, path)
    if address := database_address(uri):
        try:
            socket.create_connection(address, timeout=CONNECT_SECONDS).close()
        except OSError as error:
            host, port = address
            raise store_error(uri, f"no database answers at {host}:{port}: {error.strerror or error}") from error


def check_sqlite(uri: str, path: Path) -> None:
    """Raises TrackingError where a sqlite file cannot be written."""
    try:
        connection = sqlite3.connect(path, timeout=CONNECT_SECONDS)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.rollback()
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise _unusable(uri, path, error) from error


def _unusable(uri: str, path: Path, error: Exception) -> TrackingError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return store_error(uri, f"{path} cannot be opened for writing: {reason}")


def connect_error(uri: str, error: MlflowException) -> TrackingError:
    """What MLflow's error on the first request means, and what to do about it."""
    text = str(error)
    if "out-of-date database schema" in text or "Can't locate revision" in text:
        return store_error(
            uri, f"was written by another version of MLflow; back it up, then run `mlflow db upgrade {redact(uri)}`"
        )
    if is_server(uri):
        if error.error_code in ("UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "PERMISSION_DENIED"):
            return store_error(
                uri,
                f"the server refuses: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
                f"MLFLOW_TRACKING_TOKEN ({redacted_line(error)})",
            )
        if "Failed to establish" in text or "NameResolution" in text or "timeout" in text.lower():
            return store_error(uri, f"no MLflow server answers: {_network_reason(text)}")
        if error.error_code == "ENDPOINT_NOT_FOUND" or "not in a valid JSON format" in text:
            return store_error(uri, "what answers is not an MLflow tracking server; check the address")
    return store_error(uri, redacted_line(error))


def _network_reason(text: str) -> str:
    reasons = {
        "Connection refused": "connection refused; is the server running, and is the port right?",
        "NameResolution": "the host name is not known",
        "Name or service not known": "the host name is not known",
        "No route to host": "no route to the host",
        "Network is unreachable": "the network is unreachable",
        "timed out": f"nothing within {CONNECT_SECONDS} seconds",
        "timeout": f"nothing within {CONNECT_SECONDS} seconds",
    }
    return next((reason for sign, reason in reasons.items() if sign in text), redact_text(first_line(text))[:200])


def redacted_line(error: BaseException) -> str:
    """The first line of an error's text, without passwords."""
    return redact_text(first_line(str(error)))[:300] or type(error).__name__
