"""The first line of a command that starts Ray."""

from __future__ import annotations

import sys

LINE = "samtune: reading the space, then starting Ray, MLflow and the workers"
STUDY_LINE = "samtune: reading the study, then starting Ray, MLflow and the workers for the trials that it lacks"


def say_start(line: str = LINE) -> None:
    """On a terminal, says at once what will be waited for. Call it before anything that takes long to import.

    Not in a pipe or a log: what is there is the result, and nobody waits before it.

    Args:
        line: `STUDY_LINE` where the command continues a study, which may be complete.
    """
    if sys.stderr.isatty():
        print(line, file=sys.stderr, flush=True)
