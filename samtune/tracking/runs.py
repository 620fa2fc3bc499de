"""The run of one trial, after its search: read, and given more metrics and files."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from samtune.errors import one_line
from samtune.tracking.uris import store_error

_RUN_ID = re.compile(r"[0-9a-f]{32}")


def is_run_id(text: str) -> bool:
    """Whether a text looks like the id of an MLflow run."""
    return bool(_RUN_ID.fullmatch(text))


@dataclass(frozen=True)
class TrackedRun:
    """A run of a store.

    Attributes:
        uri: of the store, absolute.
        tags: of the run when it was opened.
    """

    uri: str
    run_id: str
    tags: Mapping[str, str]

    @classmethod
    def open(cls, uri: str, run_id: str) -> TrackedRun:
        """Finds a run.

        Raises:
            TrackingError: the store does not answer, or has no such run.
        """
        from samtune.tracking.store import client_of

        try:
            run = client_of(uri).get_run(run_id)
        except Exception as error:  # of stores and database drivers: there is no common base
            reason = one_line(error, 200)
            raise store_error(uri, f"run {run_id} cannot be read: {reason}") from error
        return cls(uri, run_id, dict(run.data.tags))

    def log(self, metrics: Mapping[str, float], files: Sequence[Path], folder: str) -> None:
        """Logs metrics, at step 0, and files as artifacts in a folder.

        Raises:
            TrackingError: the store does not take them.
        """
        from mlflow.entities import Metric

        from samtune.tracking.store import client_of

        client, now = client_of(self.uri), int(time.time() * 1000)
        try:
            client.log_batch(self.run_id, [Metric(name, value, now, 0) for name, value in metrics.items()])
            for file in files:
                client.log_artifact(self.run_id, str(file), folder)
        except Exception as error:
            reason = one_line(error, 200)
            raise store_error(self.uri, f"run {self.run_id}: {reason}") from error
