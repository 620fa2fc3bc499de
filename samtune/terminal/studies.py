"""All studies of a storage path, for people."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from samtune.experiments.catalog import StudyEntry
from samtune.formatting import format_bytes, format_metric, format_seconds

_STYLES = {"running": "cyan", "complete": "green", "failed": "red", "stopped": "yellow"}
_OPTIONAL = ("started", "kind", "size", "time")  # left out where there is no room, in this order


def print_studies(console: Console, entries: Sequence[StudyEntry]) -> None:
    """One line per study: state, best with its standard error, trials, time, size, start."""
    shown = [entry for entry in entries if entry.state is not None]
    columns: dict[str, list[Text]] = {
        "study": [Text(entry.name) for entry in shown],
        "kind": [Text(entry.kind or "-") for entry in shown],
        "state": [Text(entry.state or "-", style=_STYLES.get(entry.state or "", "")) for entry in shown],
        "best": [Text(_best(entry)) for entry in shown],
        "trials": [Text(f"{entry.num_ended}/{entry.num_trials}") for entry in shown],
        "time": [Text(format_seconds(entry.seconds or 0.0)) for entry in shown],
        "size": [Text("-" if entry.num_bytes is None else format_bytes(entry.num_bytes)) for entry in shown],
        "started": [Text(time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.started_at))) for entry in shown],
    }
    for name in _OPTIONAL:
        if _width(columns) > console.width:
            del columns[name]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold", show_edge=False)
    for name in columns:
        right = name in ("trials", "time", "size")
        table.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=name != "study")
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*cells)
    if shown:
        console.print(table)
    for entry in entries:
        if entry.problem:
            console.print(Text(f"{entry.name}: cannot be read: {entry.problem}", style="yellow"), soft_wrap=True)


def _best(entry: StudyEntry) -> str:
    if entry.best is None:
        return "-"
    exact = entry.standard_error if entry.half_width is None else entry.half_width
    error = "" if exact is None else f" ± {format_metric(exact)}"
    return f"{entry.objective} {format_metric(entry.best)}{error}"


def _width(columns: dict[str, list[Text]]) -> int:
    return sum(max([len(name), *(cell.cell_len for cell in cells)]) + 2 for name, cells in columns.items())
