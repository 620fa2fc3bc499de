"""Where studies are kept: names, folders, and paths that mean the same in every process."""

from __future__ import annotations

import re
from pathlib import Path

from samtune.errors import UsageError
from samtune.spec.space import SearchSpace

DEFAULT_STORAGE = "samtune-results"
SPACE_FILE = "space.yaml"
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


def local_folder(path: str | Path) -> Path:
    """The storage path, absolute.

    Raises:
        UsageError: it is not a folder of this machine.
    """
    if "://" in str(path):
        raise UsageError(f"--storage-path {path}: must be a folder on this machine's file system")
    folder = Path(path).expanduser().absolute()
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--storage-path {path}: must be a folder, and is a file")
    return folder


def study_folder(storage_path: str | Path | None, name: str) -> Path:
    """Where the study of that name is kept."""
    return local_folder(storage_path or DEFAULT_STORAGE) / check_name(name)


def make_folder(folder: Path) -> None:
    """Creates a study's folder.

    Raises:
        UsageError: the storage path cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--storage-path {folder.parent}: cannot be written: {error.strerror}") from error


def with_absolute_paths(space: SearchSpace) -> SearchSpace:
    """Paths relative to the working directory made absolute: workers may run in another one."""
    changes = {}
    for key in ("data.root", "model.weights"):
        section, _, field = key.partition(".")
        value = getattr(getattr(space, section), field, None)
        if isinstance(value, str) and "://" not in value and not Path(value).expanduser().is_absolute():
            changes[key] = str(Path(value).expanduser().absolute())
    return space.replace(changes)
