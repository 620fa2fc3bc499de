"""Every error samtune raises on purpose, and the exit code the command line gives it.

    SamtuneError
    ├── UsageError (ValueError)    exit code 2: something the user wrote or asked for cannot work
    │   ├── SpaceError             a search space: names the file, the dotted key, the rule and the value
    │   ├── DatasetError           a data set is missing or not in the expected format
    │   ├── ResourceError          more workers than the cluster can ever place
    │   └── TrackingError          the MLflow tracking server does not answer or refuses
    └── RunError (RuntimeError)    exit code 1: a failure while a search was running

Errors of libraries are translated where they enter (`raise ... from error`); nothing else is caught.
"""

from __future__ import annotations

import errno

_MACHINE_FAULTS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS),  # the disk is full or read-only
    *(errno.EMFILE, errno.ENFILE),  # too many open files
    errno.EIO,
}


class SamtuneError(Exception):
    """Base of all errors that samtune raises on purpose."""

    exit_code = 1


class UsageError(SamtuneError, ValueError):
    """What was asked for cannot work; nothing has been started.

    Args:
        problem: what is wrong, and what to do.
        argument: of the library's function that it is about, e.g. `storage_path`. The message then is
            `storage_path VALUE: PROBLEM`, and on the command line, which knows it as an option,
            `--storage-path VALUE: PROBLEM`.
        value: that the argument has; None: it is not shown.
    """

    exit_code = 2

    def __init__(self, problem: str, *, argument: str | None = None, value: object = None) -> None:
        self.problem, self.argument, self.value = problem, argument, value
        super().__init__(problem if argument is None else self.named(argument))

    def named(self, argument: str) -> str:
        """The message with another name of the argument."""
        return f"{argument}: {self.problem}" if self.value is None else f"{argument} {self.value}: {self.problem}"


class SpaceError(UsageError):
    """A search space or a trial's configuration breaks a rule."""


class DatasetError(UsageError):
    """A data set is missing at its configured path, or has another format."""


class ResourceError(UsageError):
    """The cluster can never place what was asked for."""


class TrackingError(UsageError):
    """The MLflow tracking server does not answer, or refuses what is asked."""


class RunError(SamtuneError, RuntimeError):
    """Something failed while it was running."""


def is_machine_fault(error: BaseException) -> bool:
    """Whether a machine is at fault, not what it was asked to do: its disk is full, say, or fails."""
    return isinstance(error, OSError) and error.errno in _MACHINE_FAULTS


def one_line(error: object, limit: int | None = None) -> str:
    """An error's text in one line, truncated to `limit` characters."""
    return " ".join(safe_text(error).split())[:limit]


def safe_text(value: object) -> str:
    """The text of any object, as text that can be written as UTF-8.

    A file name with bytes that are not UTF-8 puts lone surrogates into an error's text, which no file and no message
    takes; a class of the user's may fail in its own `__str__`.
    """
    try:
        text = str(value)
    except Exception as error:
        text = f"<{type(value).__name__} whose text cannot be had: {type(error).__name__}>"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
