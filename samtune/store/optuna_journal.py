"""Optuna's own records of a study: a file in its folder, which `optuna-dashboard` opens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from samtune.errors import UsageError

if TYPE_CHECKING:
    from optuna.storages import JournalStorage

FILE_NAME = "optuna.journal"


def open_storage(file: Path) -> JournalStorage:
    """The records as Optuna's storage.

    Raises:
        UsageError: the file is damaged.
    """
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    try:
        return JournalStorage(JournalFileBackend(str(file)))
    except ValueError as error:
        raise UsageError(f"{file}: is damaged ({error}): what the sampler had learned cannot be read") from error
