"""Everything a search shows on the terminal.

Knows studies and rich; starts nothing heavy, and must not import what the report and the commands are made of.
"""

from __future__ import annotations

from samtune.terminal.claims import print_claims
from samtune.terminal.compared import print_comparison
from samtune.terminal.confirmed import print_confirmation, print_loading
from samtune.terminal.console import make_console, make_display
from samtune.terminal.live import LiveDisplay
from samtune.terminal.notebook import NotebookDisplay
from samtune.terminal.plain import PlainDisplay
from samtune.terminal.plan import format_plan, print_plan
from samtune.terminal.studies import print_studies
from samtune.terminal.summary import format_state, print_status, print_summary
from samtune.terminal.tables import leaderboard

__all__ = [
    "LiveDisplay",
    "NotebookDisplay",
    "PlainDisplay",
    "format_plan",
    "format_state",
    "leaderboard",
    "make_console",
    "make_display",
    "print_claims",
    "print_comparison",
    "print_confirmation",
    "print_loading",
    "print_plan",
    "print_status",
    "print_studies",
    "print_summary",
]
