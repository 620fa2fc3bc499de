"""Which keys of a trial are MLflow's parameters, and where the others are."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from samtune.study import Scalar, Study, Trial
from samtune.tracking.mlflow_names import PARENT_RUN_ID

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

GIVEN = "given"
"""In a study's plan: the keys that its space sets or searches."""
OTHERS_TAG = "samtune.other_params"
"""Of a trial's run: the artifact of its parent run that has the keys which are no parameters of it."""

_ALWAYS = ("data.name", "model.name", "method.name", "train", "training.epochs")


def param(value: Scalar) -> str:
    """A parameter's text: numbers round-trip, and a key has the same type in every run."""
    return repr(float(value)) if isinstance(value, float) else str(value)


def split_params(study: Study, trial: Trial) -> tuple[dict[str, str], dict[str, str]]:
    """The keys that are parameters, and those that nobody has set or searches: defaults, alike in most trials.

    As the trial began: MLflow's parameters cannot change, and population based training changes them. All keys are
    parameters where the plan does not say what was given: of a confirmation or a training, and of studies of before.
    """
    first = trial.perturbations[0]["before"]["params"] if trial.perturbations else trial.params
    texts = {key: param(value) for key, value in first.items()}
    given = study.plan.get(GIVEN)
    if not given:
        return texts, {}
    prefixes = tuple(f"{key}." for key in given)
    named = {*given, *_ALWAYS, *trial.config}
    shown = {key: text for key, text in texts.items() if key in named or key.startswith(prefixes)}
    return shown, {key: text for key, text in texts.items() if key not in shown}


def others_file(others: Mapping[str, str]) -> str:
    """The name of the artifact with these keys: trials that have the same share it."""
    digest = hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()[:12]
    return f"params/{digest}.json"


class AllParams:
    """Reads the parameters of runs with those that are in their parents' artifacts, each of which is read once.

    Runs of samtune before have all of theirs as parameters.
    """

    def __init__(self, client: MlflowClient) -> None:
        self._client = client
        self._read: dict[tuple[str, str], dict[str, str]] = {}

    def of(self, run: Run) -> dict[str, str]:
        """Raises MlflowException or OSError where the artifact cannot be read, ValueError where it is damaged."""
        tags = run.data.tags
        if OTHERS_TAG not in tags:
            return dict(run.data.params)
        place = (tags.get(PARENT_RUN_ID, run.info.run_id), tags[OTHERS_TAG])
        if place not in self._read:
            with tempfile.TemporaryDirectory(prefix="samtune-") as folder:
                file = self._client.download_artifacts(*place, folder)
                self._read[place] = json.loads(Path(file).read_text(encoding="utf-8"))
        return {**self._read[place], **run.data.params}
