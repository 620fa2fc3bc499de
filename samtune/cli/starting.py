"""The first line of a command that starts Ray."""

from __future__ import annotations

import sys

LINE = "samtune: reading the space, then starting Ray, MLflow and the workers"


def say_start() -> None:
    """On a terminal, says at once what will be waited for. Call it before anything that takes long to import.

    Not in a pipe or a log: what is there is the result, and nobody waits before it.
    """
    if sys.stderr.isatty():
        print(LINE, file=sys.stderr, flush=True)
