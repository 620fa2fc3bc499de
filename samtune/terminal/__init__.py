"""Everything a search shows on the terminal. Knows the records and rich; starts nothing heavy."""

from samtune.terminal.console import make_console, make_display
from samtune.terminal.live import LiveDisplay
from samtune.terminal.plain import PlainDisplay
from samtune.terminal.plan import format_plan, print_plan
from samtune.terminal.status import format_state, print_status
from samtune.terminal.summary import format_best, format_failures, format_outcome, json_summary, print_summary
from samtune.terminal.tables import leaderboard

__all__ = [
    "LiveDisplay",
    "PlainDisplay",
    "format_best",
    "format_failures",
    "format_outcome",
    "format_plan",
    "format_state",
    "json_summary",
    "leaderboard",
    "make_console",
    "make_display",
    "print_plan",
    "print_status",
    "print_summary",
]
