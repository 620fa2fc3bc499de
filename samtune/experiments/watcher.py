"""Run as a script by `samtune.experiments.aftermath`: waits for the end of a driver, importing nothing before."""

from __future__ import annotations

import sys

IN_ORDER = b"in order"
"""What a driver that ends in order writes to it."""


def main(root: str, folder: str) -> None:
    """Reads to the end, which comes with the driver's, and cleans up after a driver that was ended.

    Args:
        root: the folder that samtune is in.
        folder: of the study's journal.
    """
    if sys.stdin.buffer.read() != IN_ORDER:
        sys.path.append(root)  # it may not be installed
        clean_up(folder)


def clean_up(folder: str) -> None:
    """Of a study whose driver is gone: says how it continues, and ends the runs that it left running."""
    from contextlib import suppress
    from pathlib import Path

    from samtune.errors import SamtuneError
    from samtune.experiments.summary import resume_command
    from samtune.store.journal import is_running, read_journal
    from samtune.tracking.left_behind import end_running_runs

    path = Path(folder)
    try:
        if is_running(path):  # it is resumed already
            return
        study = read_journal(path)
    except (SamtuneError, OSError):  # the study was removed, or moved
        return
    print(
        "samtune: error: the process of the search was ended from outside (kill -9, or Ray, whose cluster is lost); "
        f"finished trials are kept: `{resume_command(study)}` continues",
        file=sys.stderr,
        flush=True,
    )
    with suppress(SamtuneError):  # the store does not answer: a resumed search ends the runs
        end_running_runs(study, lambda: is_running(path))


if __name__ == "__main__":
    main(*sys.argv[1:])
