"""Several studies side by side, for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from samtune.experiments.comparison import Difference, Row, StudyComparison
from samtune.formatting import format_config, format_metric, format_number, format_value

_MOST_SETTINGS = 20
_CAPTION = (
    "Of a search: the best trial of the method and 1.96 standard errors; of a confirmation: the mean of the replicas "
    "and its 95% interval (Student t). The difference is to the reference (*), with its 95% interval: paired where "
    "seeds match, else Welch's; of searches by bootstrap."
)


def print_comparison(console: Console, found: StudyComparison) -> None:
    """The rows, the best first, each with its difference to the reference; then the settings that differ."""
    console.print(Text(f"{found.mode} {found.metric}: {', '.join(found.studies)}", style="bold"), soft_wrap=True)
    differences = {(each.study, each.label): each for each in found.differences}
    header = ["study", "configuration", found.metric, "difference", "p", "n", "passes"]
    rows = [_cells(row, differences.get((row.study, row.label))) for row in found.rows]
    kept = [index for index in range(len(header)) if index < 2 or any(row[index] != "-" for row in rows)]
    _print_table(console, [header[index] for index in kept], [[row[index] for index in kept] for row in rows])
    console.print(Text(_CAPTION, style="dim"))
    for row in found.rows:
        if row.config:
            console.print(Text(f"{row.study}, {row.label}: {format_config(row.config)}"), soft_wrap=True)
    for each in found.differences:
        if each.label and not each.equal_passes:
            note = f"{each.study}, {each.label}: not at the passes of the reference"
            console.print(Text(note, style="yellow"), soft_wrap=True)
    for note in found.notes:
        console.print(Text(note, style="yellow"), soft_wrap=True)
    if found.settings:
        console.print(Text("\nsettings that differ:", style="bold"))
        shown = list(found.settings.items())[:_MOST_SETTINGS]
        cells = [[key, *("-" if v is None else format_value(v) for v in values)] for key, values in shown]
        _print_table(console, ["key", *found.studies], cells)
        if more := len(found.settings) - len(shown):
            console.print(f"and {more} more (--json has them)")


def _cells(row: Row, difference: Difference | None) -> list[str]:
    half = "" if row.half_width is None else f" ± {format_metric(row.half_width)}"
    passes = "-" if row.passes is None else format_number(row.passes)
    value = f"{format_metric(row.value)}{half}"
    if difference is None:
        return [row.study, f"{row.label} *", value, "-", "-", str(row.count), passes]
    p_value = "-" if difference.p_value is None else f"{difference.p_value:.3f}"
    return [row.study, row.label, value, _interval(difference), p_value, str(row.count), passes]


def _interval(difference: Difference) -> str:
    value = f"{round(difference.difference, 4) + 0.0:+.4f}"
    if difference.interval is None:
        return value
    low, high = (f"{round(end, 4) + 0.0:+.4f}" for end in difference.interval)
    return f"{value} [{low}, {high}]"


def _print_table(console: Console, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold", show_edge=False)
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index < 2 else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(Padding(table, (1, 0, 1, 2), expand=False))
