"""What `Tuner`, `Confirmer` and `Training` have in common: each runs one study."""

from __future__ import annotations

from typing import TYPE_CHECKING

from samtune.store.study_folder import StudyFolder

if TYPE_CHECKING:
    from samtune.experiments.runner import Runner


class StudyOwner:
    """Runs one study, and tells where it is and how it ended."""

    _runner: Runner

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of study {self.name} in {self.folder.uri}>"

    @property
    def name(self) -> str:
        """Of the study; a confirmation's own."""
        return self._runner.name

    @property
    def folder(self) -> StudyFolder:
        """Where the study is kept."""
        return self._runner.folder

    @property
    def tracking_uri(self) -> str:
        """MLflow's, absolute, without credentials."""
        return self._runner.tracking_uri

    @property
    def interrupted_by(self) -> int | None:
        """The number of the signal that ended the run (Ctrl-C: `signal.SIGINT`); None where none did."""
        return self._runner.ending.signal

    def stop(self, reason: str = "stopped") -> None:
        """Ends the run from a callback, a signal handler or another thread; what is finished is kept."""
        self._runner.ending.stop(reason)
