"""What the trials of a study printed, as their workers kept it."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow.fs as pafs

from samtune.errors import UsageError, one_line
from samtune.storage import is_remote, join, open_storage, read_bytes
from samtune.store.study_files import read_file
from samtune.study import Study, Trial
from samtune.workers.trial_output import FOLDER, output_file

_NAME = re.compile(r"(.+)\.(\d+)\.txt")


def output_sizes(study: Study) -> dict[str, dict[int, int]]:
    """Bytes by trial id and worker, of trials that have printed anything.

    Raises:
        UsageError: the store does not answer.
    """
    found: dict[str, dict[int, int]] = {}
    try:
        filesystem, path = open_storage(join(study.storage_path, FOLDER))
        for info in filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True)):
            if name := _NAME.fullmatch(info.base_name):
                found.setdefault(name[1], {})[int(name[2])] = info.size
    except OSError as error:
        raise UsageError(f"{study.storage_path}: cannot be read: {one_line(error, 300)}") from error
    return found


def output_of(study: Study, trial: Trial, worker: int = 0) -> str:
    """What a trial printed on one of its workers; empty where that is nothing.

    Of lines that were written over, such as a progress bar, the last state.

    Raises:
        UsageError: the file cannot be read.
    """
    uri = output_file(study.storage_path, trial.id, worker)
    try:
        content = read_bytes(uri) if is_remote(uri) else read_file(Path(uri))
    except FileNotFoundError:
        content = None
    except OSError as error:
        raise UsageError(f"{uri}: cannot be read: {one_line(error, 300)}") from error
    lines = (content or b"").decode("utf-8", "replace").replace("\r\n", "\n").split("\n")
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)
