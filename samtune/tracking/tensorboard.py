"""A search in TensorBoard: one run per trial, with its metrics by epoch and its hyperparameters (HParams)."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samtune.formatting import trial_name
from samtune.study import Callback, Scalar, Study, Trial, TrialState
from samtune.user_code import PREFIX

if TYPE_CHECKING:
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

FOLDER = "tensorboard"
"""In the study's folder; of it, one folder per trial."""


class TensorBoardLogger(Callback):
    """Writes event files with the library `tensorboard`: neither TensorFlow nor torch is imported.

    A trial that is resumed goes on in its folder. What is not there of earlier trials is written when the study starts.
    """

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._writers: dict[str, EventFileWriter] = {}

    def on_study_start(self, study: Study) -> None:
        self._folder = Path(study.storage_path, FOLDER)
        for trial in study:
            if trial.history and not self._folder_of(study, trial).exists():
                self._begin(study, trial)
                for record in trial.history:
                    self._write(trial, record)
                if trial.state.is_final:
                    self._end(trial)

    def on_trial_start(self, study: Study, trial: Trial) -> None:
        self._begin(study, trial)

    def on_epoch(self, study: Study, trial: Trial, metrics: dict[str, float]) -> None:
        self._begin(study, trial)
        self._write(trial, metrics)

    def on_trial_end(self, study: Study, trial: Trial) -> None:
        self._begin(study, trial)
        self._end(trial)

    def on_study_end(self, study: Study) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _folder_of(self, study: Study, trial: Trial) -> Path:
        assert self._folder is not None
        return self._folder / trial_name(study, trial).replace("/", "-")

    def _begin(self, study: Study, trial: Trial) -> None:
        """Opens the trial's run with its searched keys, where it is not open."""
        if trial.id in self._writers:
            return
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        folder = self._folder_of(study, trial)
        self._writers[trial.id] = EventFileWriter(str(folder))
        self._add(trial, hparams_pb(hyperparameters(trial), trial.id, trial.started_at))

    def _write(self, trial: Trial, metrics: dict[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items() if name != "epoch"]
        self._add(trial, Summary(value=values), step=int(metrics["epoch"]))

    def _end(self, trial: Trial) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

        failed = trial.state is TrialState.FAILED
        ended = plugin_data_pb2.SessionEndInfo(
            status=api_pb2.STATUS_FAILURE if failed else api_pb2.STATUS_SUCCESS, end_time_secs=trial.ended_at
        )
        info = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(session_end_info=ended))
        value = Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=info, tensor=metadata.NULL_TENSOR)
        self._add(trial, Summary(value=[value]))
        self._writers.pop(trial.id).close()

    def _add(self, trial: Trial, summary: Any, step: int = 0) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        try:
            self._writers[trial.id].add_event(Event(wall_time=time.time(), step=step, summary=summary))
        except OSError as error:  # a full disk: the search, which is in the journal and in MLflow, goes on
            logging.getLogger(__name__).warning("warning: TensorBoard's files are not complete: %s", error)


def hyperparameters(trial: Trial) -> dict[str, Scalar]:
    """The searched keys of a trial, and its method; where nothing is searched, every parameter."""
    named = {"method.name": trial.params["method.name"]} if "method.name" in trial.params else {}
    chosen = {**named, **trial.config} if trial.config else trial.params
    return {key: str(value).removeprefix(PREFIX) if isinstance(value, str) else value for key, value in chosen.items()}
