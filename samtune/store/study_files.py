"""The files of a study's folder, opened so that nothing in a folder that somebody else made leads out of it."""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path
from typing import IO

from samtune.errors import UsageError
from samtune.storage import join

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


def error_file(storage_path: str, number: int) -> str:
    """Where a study keeps the whole traceback of a trial that failed.

    Args:
        storage_path: of the study.
        number: of the trial.
    """
    return join(storage_path, "errors", f"trial-{number}.txt")


def is_name(text: object) -> bool:
    """Whether a text does for the name of a folder or a file in it: of a study, or of a trial."""
    return isinstance(text, str) and bool(_NAME.fullmatch(text))


def open_file(path: Path, flags: int, mode: int = 0o666) -> int:
    """Opens a file of a study without following a link.

    Args:
        flags: as of `os.open`.
        mode: of a file that is created, before the user's umask.

    Raises:
        UsageError: it is a symbolic link or not a regular file, or this user may not.
        OSError: it cannot be opened, as by `os.open`.
    """
    try:
        # A named pipe would wait for its other end.
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _linked(path) from error
        if error.errno == errno.ENXIO:  # a named pipe that nobody reads
            raise UsageError(f"{path}: must be a regular file") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UsageError(f"{path}: cannot be opened: {error.strerror}") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UsageError(f"{path}: must be a regular file")
    return descriptor


def open_to_append(path: Path, mode: int = 0o666) -> IO[bytes]:
    """A file of a study, to append to without a buffer; created where need be. Raises as `open_file` does."""
    return os.fdopen(open_file(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, mode), "ab", buffering=0)


def read_file(path: Path) -> bytes:
    """The content of a file of a study. Raises as `open_file` does."""
    with os.fdopen(open_file(path, os.O_RDONLY), "rb") as file:
        return file.read()


def write_file(path: Path, text: str) -> None:
    """Writes a text file of a study. Raises as `open_file` does."""
    with os.fdopen(open_file(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "w", encoding="utf-8") as file:
        file.write(text)


def whole_lines(content: bytes) -> bytes:
    """Without what a full disk, or the death of the writer, left of a last line."""
    return content[: content.rfind(b"\n") + 1]


def drop_torn_line(path: Path) -> None:
    """Cuts off a last line that was not written whole, so that the next does not continue it."""
    content = read_file(path)
    complete = len(whole_lines(content))
    if complete < len(content):
        os.truncate(path, complete)


def check_links(folder: Path) -> None:
    """Makes sure that what is written into a study's folder, or deleted in it, is in it.

    The folder itself may be reached through a link. Optuna's lock is a link to the file beside it.

    Raises:
        UsageError: a symbolic link in the folder leads out of it.
    """
    pending, home = [folder], folder.resolve()
    while pending:
        try:
            entries = list(os.scandir(pending.pop()))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UsageError(f"{error.filename}: cannot be read: {error.strerror}") from error
        for entry in entries:
            if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(home):
                raise _linked(Path(entry.path))
            if entry.is_dir(follow_symlinks=False):
                pending.append(Path(entry.path))


def _linked(path: Path) -> UsageError:
    try:
        target = f" to {os.readlink(path)}"
    except OSError:
        target = ""
    return UsageError(f"{path}: is a symbolic link{target}: the files of a study must be in its folder")
