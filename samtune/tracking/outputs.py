"""What trials printed, as a file of their runs."""

from __future__ import annotations

from collections.abc import Mapping

from samtune.study import Study
from samtune.tracking.mlflow_names import PARENT_RUN_ID
from samtune.tracking.store import TRIAL_ID_TAG, StoreError, client_of, translated
from samtune.tracking.uris import store_error

FILE_NAME = "output.txt"


def log_outputs(study: Study, texts: Mapping[str, str]) -> int:
    """Logs texts, by trial id, as `output.txt` of the trials' runs; what was logged before is replaced.

    Returns:
        How many trials have a run.

    Raises:
        TrackingError: the store does not answer or refuses, or its password is not known to this process.
    """
    if study.parent_run_id is None or study.experiment_id is None:
        return 0
    client, num_logged = client_of(study.tracking_uri), 0
    try:
        with translated():
            for trial_id, text in texts.items():
                query = f"tags.`{PARENT_RUN_ID}` = '{study.parent_run_id}' AND tags.`{TRIAL_ID_TAG}` = '{trial_id}'"
                for run in client.search_runs([study.experiment_id], query, max_results=1):
                    client.log_text(run.info.run_id, text, FILE_NAME)
                    num_logged += 1
    except StoreError as error:
        raise store_error(study.tracking_uri, str(error)) from error
    return num_logged
