"""The console that everything for human eyes goes to, and the display that suits it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from io import TextIOWrapper

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from samtune.formatting import printable
from samtune.study import Callback
from samtune.terminal.live import LiveDisplay
from samtune.terminal.plain import PlainDisplay

UNKNOWN_WIDTH = 80


class SafeConsole(Console):
    """A console that shows control characters of what is printed instead of obeying them; its own work as ever."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


def make_console(*, stderr: bool = False) -> Console:
    """A console on stdout, or on stderr where stdout is for JSON. Never fails on a character it cannot show.

    COLUMNS=0, which some job schedulers set, means that nobody knows the width.
    """
    stream = sys.stderr if stderr else sys.stdout
    if isinstance(stream, TextIOWrapper) and stream.errors == "strict":
        stream.reconfigure(errors="replace")
    columns = os.environ.get("COLUMNS", "")
    width = UNKNOWN_WIDTH if columns.isdigit() and int(columns) == 0 else None
    return SafeConsole(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)


def make_display(console: Console) -> Callback:
    """A live table on a terminal that can move its cursor, else plain lines."""
    if console.is_terminal and not console.is_dumb_terminal and console.file.isatty():
        return LiveDisplay(console)
    return PlainDisplay(console)
