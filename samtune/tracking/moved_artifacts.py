"""Where the artifacts of a sqlite store are that was moved or copied together with them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

FOLDER = "mlartifacts"
"""Beside the database; holds a folder for every run."""

_LOCK_SECONDS = 60


def correct_addresses(database: Path) -> None:
    """Makes the store's addresses of artifacts those of the folder beside it.

    MLflow keeps the absolute address of every run's artifacts, and has no function to change it.
    """
    folder = database.parent / FOLDER
    if not database.exists() or not folder.is_dir():
        return
    with closing(sqlite3.connect(database, timeout=_LOCK_SECONDS)) as store, store:
        if not store.execute("SELECT name FROM sqlite_master WHERE name = 'experiments'").fetchone():
            return
        for experiment, old in store.execute("SELECT experiment_id, artifact_location FROM experiments").fetchall():
            new = folder.as_uri()
            if str(old).endswith(f"/{FOLDER}") and old != new:
                store.execute(
                    "UPDATE runs SET artifact_uri = replace(artifact_uri, ?, ?) WHERE experiment_id = ?",
                    (old, new, experiment),
                )
                store.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (new, experiment))
