"""Where studies are kept: names, folders, and paths that mean the same in every process."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow.fs as pafs

from samtune.config.space import SearchSpace
from samtune.errors import UsageError, one_line
from samtune.storage import is_file, is_remote, join, open_storage
from samtune.store.journal import FILE_NAME as JOURNAL
from samtune.store.local_folder import SPACE_FILE, StudyFolder
from samtune.store.moved import space_found_at
from samtune.store.remote_folder import RemoteStudyFolder
from samtune.store.study_files import is_name
from samtune.study import Study
from samtune.user_code import absolute_path

__all__ = [
    "BEST_WEIGHTS",
    "DEFAULT_STORAGE",
    "SPACE_FILE",
    "StudyFolder",
    "absolute_storage",
    "check_name",
    "located",
    "stored_space",
    "study_folder",
    "study_names",
    "weights_file",
]

DEFAULT_STORAGE = "samtune-results"
BEST_WEIGHTS = "best.safetensors"


def check_name(name: str) -> str:
    """A study's name, which is also its folder's.

    Raises:
        UsageError: it would not do for a folder.
    """
    if not is_name(name):
        rule = "letters, digits, '.', '_' and '-', at most 128, a letter or digit first"
        raise UsageError(f"must be {rule}", argument="name", value=name)
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
            raise UsageError("must be a folder, and is a file", argument="storage_path", value=path)
        return str(folder)
    if "@" in urlsplit(text).netloc:  # it would be shown, logged and stored
        raise UsageError(
            "must not hold credentials; give them in the environment or a profile", argument="storage_path"
        )
    try:
        open_storage(text)
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors where the URI itself is at fault
        raise UsageError(f"cannot be used: {one_line(error, 300)}", argument="storage_path", value=text) from error
    return text


def study_folder(storage_path: str | Path | None, name: str) -> StudyFolder:
    """Where the study of that name is kept.

    Raises:
        UsageError: the path or the name will not do.
    """
    storage = absolute_storage(storage_path or DEFAULT_STORAGE)
    if is_remote(storage):
        return RemoteStudyFolder(storage, check_name(name))
    return StudyFolder(storage, check_name(name))


def study_names(storage: str) -> list[str]:
    """Names of the studies in a storage path, sorted; none where there is no such path.

    Raises:
        UsageError: the store does not answer, or the folder may not be read.
    """
    try:
        filesystem, path = open_storage(storage)
        found = filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True))
        names = sorted(info.base_name for info in found if info.type == pafs.FileType.Directory)
        return [name for name in names if is_name(name) and is_file(join(storage, name, JOURNAL))]
    except OSError as error:
        reason = one_line(error, 300)
        raise UsageError(f"cannot be used: {reason}", argument="storage_path", value=storage) from error


def stored_space(study: Study, uri: str) -> SearchSpace:
    """The space that a study was started with.

    Args:
        uri: of the study's folder, for messages.

    Raises:
        SpaceError: it is damaged, or of another version.
    """
    return space_found_at(SearchSpace.from_text(study.space_yaml, join(uri, SPACE_FILE)), study)


def weights_file(study: Study) -> str:
    """Where a training or a confirmation keeps its best weights."""
    return join(study.storage_path, BEST_WEIGHTS)


def located(space: SearchSpace) -> SearchSpace:
    """The space with the folder that its relative paths are in: workers may run in another one."""
    changes: dict[str, Any] = {"folder": str(Path(space.folder or ".").expanduser().absolute())}
    if space.train is not None:
        changes["train"] = absolute_path(space.train, changes["folder"])
    changes = {key: value for key, value in changes.items() if value != getattr(space, key)}
    return space.replace(changes) if changes else space
