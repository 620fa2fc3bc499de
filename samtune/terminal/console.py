"""The console that everything for human eyes goes to, and the display that suits it."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper

from rich.console import Console

from samtune.study import Callback
from samtune.terminal.live import LiveDisplay
from samtune.terminal.plain import PlainDisplay

UNKNOWN_WIDTH = 80


def make_console(*, stderr: bool = False) -> Console:
    """A console on stdout, or on stderr where stdout is for JSON. Never fails on a character it cannot show.

    COLUMNS=0, which some job schedulers set, means that nobody knows the width.
    """
    stream = sys.stderr if stderr else sys.stdout
    if isinstance(stream, TextIOWrapper) and stream.errors == "strict":
        stream.reconfigure(errors="replace")
    columns = os.environ.get("COLUMNS", "")
    width = UNKNOWN_WIDTH if columns.isdigit() and int(columns) == 0 else None
    return Console(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)


def make_display(console: Console) -> Callback:
    """A live table on a terminal that can move its cursor, else plain lines."""
    if console.is_terminal and not console.is_dumb_terminal and console.file.isatty():
        return LiveDisplay(console)
    return PlainDisplay(console)
