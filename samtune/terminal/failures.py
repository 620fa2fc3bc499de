"""Trials that failed, for people."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from samtune.experiments.summary import ERRORS_SHOWN, different_failures, format_failures, traceback_file
from samtune.study import Study


def print_failures(console: Console, study: Study, *, debug: bool = False) -> None:
    """One line per error, and where its traceback is kept.

    Args:
        debug: also prints the tracebacks.
    """
    for line in format_failures(study):
        console.print(Text(line, style="red"), soft_wrap=True)
    for trials in different_failures(study)[:ERRORS_SHOWN]:
        if (file := traceback_file(study, trials[0])) is not None:
            console.print(Text(f"  traceback of trial {trials[0].number}: {file}", style="dim"), soft_wrap=True)
        if debug and trials[0].traceback:
            console.print(Text(trials[0].traceback.rstrip()), soft_wrap=True)
