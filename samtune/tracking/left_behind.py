"""The runs of a study whose driver was ended from outside."""

from __future__ import annotations

import time
from collections.abc import Callable

from samtune.study import Study
from samtune.tracking.mlflow_names import PARENT_RUN_ID
from samtune.tracking.store import StoreError, client_of, translated
from samtune.tracking.uris import store_error


def end_running_runs(study: Study, is_resumed: Callable[[], bool]) -> None:
    """Ends the study's running runs as KILLED. A resumed search opens them again and writes what they lack.

    Args:
        is_resumed: asked before each: the runs are another process's then.

    Raises:
        TrackingError: the store does not answer or refuses, or its password is not known to this process.
    """
    if study.parent_run_id is None or study.experiment_id is None:
        return
    client = client_of(study.tracking_uri)
    query = f"attributes.status = 'RUNNING' AND tags.`{PARENT_RUN_ID}` = '{study.parent_run_id}'"
    try:
        with translated():
            trials = client.search_runs([study.experiment_id], query, max_results=1000)
            for run_id in [*(run.info.run_id for run in trials), study.parent_run_id]:
                if is_resumed():
                    return
                client.set_terminated(run_id, "KILLED", int(1000 * time.time()))
    except StoreError as error:
        raise store_error(study.tracking_uri, str(error)) from error
