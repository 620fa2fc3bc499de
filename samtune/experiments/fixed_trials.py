"""Runs a line-up as a search runs its space: same groups, journal, MLflow, resume."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from samtune.config.yaml_source import parse_yaml
from samtune.errors import UsageError
from samtune.experiments.candidates import Lineup
from samtune.experiments.tuner import Tuner
from samtune.storage import delete_folder, join, read_bytes, write_bytes
from samtune.store.study_folder import SPACE_FILE, study_folder, weights_file
from samtune.study import Callback, Study, Trial
from samtune.tune.optuna_searcher import is_over


class LineupTuner(Tuner):
    """A `Tuner` whose study is a line-up. Where that has been begun, it goes on.

    Raises:
        UsageError: what was begun under this name is another line-up.
    """

    def __init__(
        self,
        lineup: Lineup,
        *,
        name: str,
        storage_path: str | Path | None = None,
        tracking_uri: str | None = None,
        experiment: str | None = None,
        address: str | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.lineup, folder = lineup, study_folder(storage_path, name)
        begun = folder.read() if folder.exists() else None
        if begun is not None and lineup_of(begun) != lineup:
            raise UsageError(
                f"study {name} has trained something else before (other trials, replicas or settings): "
                f"delete {folder.uri} to begin anew"
            )
        super().__init__(
            lineup,
            name=name,
            storage_path=storage_path,
            tracking_uri=begun.tracking_uri if begun else tracking_uri,
            experiment=begun.experiment if begun else experiment,
            address=address,
            callbacks=callbacks,
        )
        self._earlier = begun

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended the run."""
        return self._interrupted

    def complete(self) -> Study:
        """Runs what is missing; starts nothing where nothing is. Raises as `fit` does."""
        begun = self._earlier
        return begun if begun is not None and self.is_done(begun) else self.fit().study

    def is_done(self, study: Study) -> bool:
        """Whether nothing is missing."""
        return sum(is_over(trial) for trial in study) >= self.lineup.num_trials

    def keep_weights(self, study: Study, best: Trial, register: str | None) -> None:
        """Keeps the weights of one trial, and no others, and logs them to MLflow as a model. Safe to repeat.

        Args:
            register: also makes a new version of MLflow's registered model of this name.

        Raises:
            TrackingError: the tracking server does not take the model.
        """
        weights = join(study.storage_path, "weights")
        content = read_bytes(join(weights, f"{best.id}.safetensors"))
        if content is not None:
            write_bytes(weights_file(study), content)
        if content is not None or register:
            self._log_model(study, register)
        delete_folder(weights)  # last: while they are there, this is not done

    def _log_model(self, study: Study, register: str | None) -> None:
        from samtune.models.saved import load_model, saved_input_shape
        from samtune.tracking.models import log_model

        weights, run_id = weights_file(study), study.parent_run_id
        assert run_id is not None
        shape = saved_input_shape(weights)
        log_model(self.tracking_uri, run_id, load_model(weights), shape, registered_name=register)


def lineup_of(study: Study) -> Lineup:
    """The line-up that a study was started with.

    Raises:
        UsageError: it is a search.
    """
    data = parse_yaml(study.space_yaml, SPACE_FILE).plain()
    if "candidates" not in data:
        raise UsageError(f"study {study.name} is a search: choose another --name")
    return Lineup.model_validate(data)
