"""Optuna's own records of a study: a file in its folder, which `optuna-dashboard` opens.

The file is derived from the study's journal: where it is lost or damaged, it is made again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from samtune.errors import UsageError, one_line
from samtune.store.study_files import drop_torn_line

if TYPE_CHECKING:
    from optuna.storages import JournalStorage

FILE_NAME = "optuna.journal"


def open_storage(file: Path, name: str | None = None) -> JournalStorage:
    """The records as Optuna's storage.

    Args:
        name: what messages call the file; default: its path.

    Raises:
        UsageError: the file is damaged.
    """
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    try:
        return JournalStorage(JournalFileBackend(str(file)))
    except Exception as error:  # whatever Optuna makes of other bytes than it wrote
        problem = f"{type(error).__name__}: {one_line(error)}"
        raise UsageError(
            f"{name or file}: is damaged ({problem}): what the sampler had learned cannot be read"
        ) from error


def open_or_set_aside(file: Path) -> tuple[JournalStorage, Path | None]:
    """The records as Optuna's storage, without a last line that was not written whole.

    Returns:
        The storage, and where a damaged file was moved to; None where it was not damaged.
    """
    if file.exists():
        drop_torn_line(file)  # Optuna would append to it
    try:
        return open_storage(file), None
    except UsageError:
        damaged = file.with_name(f"{file.name}.damaged")
        file.replace(damaged)
        return open_storage(file), damaged
