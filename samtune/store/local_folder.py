"""A study's folder on this machine's file system."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from samtune.errors import UsageError
from samtune.storage import join
from samtune.store.journal import FILE_NAME as JOURNAL
from samtune.store.journal import Journal, is_running, is_unwritten, read_journal, running_already
from samtune.store.moved import found_at
from samtune.store.study_files import check_links
from samtune.study import Callback, Study

SPACE_FILE = "space.yaml"


class StudyFolder:
    """A study's folder on this machine's file system, which may be a shared one.

    Attributes:
        storage: the folder of all studies; `name` the study's in it; `uri` both together.
        local: where this process writes the study's own files.
    """

    def __init__(self, storage: str, name: str) -> None:
        self.storage, self.name, self.uri = storage, name, join(storage, name)
        self.local = Path(self.uri)

    def exists(self) -> bool:
        """Whether there is something of that name. A driver that died before the journal's first line left nothing."""
        return self.local.exists() and not is_unwritten(self.local)

    def read(self) -> Study:
        """The study as it stands. Raises UsageError where there is none."""
        study = found_at(read_journal(self.local), self.name, self.uri)
        study.is_own = study.is_own and (self.local / JOURNAL).stat().st_uid == os.geteuid()
        return study

    def is_running(self) -> bool:
        """Whether a driver has it."""
        return is_running(self.local)

    def check_free(self) -> None:
        """Of a study that there is: finds what `open` would refuse, before anything is started.

        Raises:
            UsageError: another process runs this study.
        """
        if self.is_running():
            raise running_already(self.name, self.local / JOURNAL)

    def open(self, say: Callable[[str], None], stop: Callable[[str], None]) -> list[Callback]:
        """Takes the study for this process, until the study's end.

        Args:
            say: called with a line for the user; `stop` is called with the reason if the search must end.

        Returns:
            The callbacks that store the study; they come first.

        Raises:
            UsageError: another process runs this study, the folder cannot be written, or a link leads out of it.
        """
        make_folder(self.local)
        check_links(self.local)
        return [Journal(self.local)]


def make_folder(folder: Path) -> None:
    """Creates a study's folder.

    Raises:
        UsageError: the storage path cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot be written: {error.strerror}", argument="storage_path", value=folder.parent
        ) from error
