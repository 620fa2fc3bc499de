"""Where studies are kept: names, folders, and paths that mean the same in every process."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from samtune.config.space import SearchSpace
from samtune.errors import UsageError, one_line
from samtune.storage import is_remote, join, open_storage
from samtune.store.journal import Journal, is_running, read_journal
from samtune.study import Callback, Study

DEFAULT_STORAGE = "samtune-results"
SPACE_FILE = "space.yaml"
BEST_WEIGHTS = "best.safetensors"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


def check_name(name: str) -> str:
    """A study's name, which is also its folder's.

    Raises:
        UsageError: it would not do for a folder.
    """
    if not _NAME.fullmatch(name):
        rule = "letters, digits, '.', '_' and '-', at most 128, a letter or digit first"
        raise UsageError(f"--name {name}: must be {rule}")
    return name


def absolute_storage(path: str | Path) -> str:
    """The storage path: an absolute folder of this machine's file system, or a URI.

    Raises:
        UsageError: it is neither.
    """
    text = str(path)
    if not is_remote(text):
        folder = Path(path).expanduser().absolute()
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"--storage-path {path}: must be a folder, and is a file")
        return str(folder)
    if "@" in urlsplit(text).netloc:  # it would be shown, logged and stored
        raise UsageError("--storage-path: must not hold credentials; give them in the environment or a profile")
    try:
        open_storage(text)
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors where the URI itself is at fault
        raise UsageError(f"--storage-path {text}: cannot be used: {one_line(error, 300)}") from error
    return text


def study_folder(storage_path: str | Path | None, name: str) -> StudyFolder:
    """Where the study of that name is kept.

    Raises:
        UsageError: the path or the name will not do.
    """
    storage = absolute_storage(storage_path or DEFAULT_STORAGE)
    if is_remote(storage):
        from samtune.store.remote_folder import RemoteStudyFolder

        return RemoteStudyFolder(storage, check_name(name))
    return StudyFolder(storage, check_name(name))


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
        return self.local.exists()

    def read(self) -> Study:
        """The study as it stands. Raises UsageError where there is none."""
        return read_journal(self.local)

    def is_running(self) -> bool:
        """Whether a driver has it."""
        return is_running(self.local)

    def open(self, say: Callable[[str], None], stop: Callable[[str], None]) -> list[Callback]:
        """Takes the study for this process, until the study's end.

        Args:
            say: told what is worth a line; `stop` called with the reason where the search may not go on.

        Returns:
            The callbacks that keep the study, to be told of everything first.

        Raises:
            UsageError: another process runs this study, or the folder cannot be written.
        """
        make_folder(self.local)
        return [Journal(self.local)]


def make_folder(folder: Path) -> None:
    """Creates a study's folder.

    Raises:
        UsageError: the storage path cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--storage-path {folder.parent}: cannot be written: {error.strerror}") from error


def stored_space(study: Study, uri: str) -> SearchSpace:
    """The space that a study was started with.

    Args:
        uri: of the study's folder, for messages.

    Raises:
        SpaceError: it is damaged, or of another version.
    """
    return SearchSpace.from_text(study.space_yaml, join(uri, SPACE_FILE))


def weights_file(study: Study) -> str:
    """Where a training or a confirmation keeps its best weights."""
    return join(study.storage_path, BEST_WEIGHTS)


def located(space: SearchSpace) -> SearchSpace:
    """The space with the folder that its relative paths are in: workers may run in another one."""
    folder = str(Path(space.folder or ".").expanduser().absolute())
    return space if folder == space.folder else space.replace({"folder": folder})
