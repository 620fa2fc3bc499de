"""Tables of trials that fit the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.console import Console, ConsoleOptions, OverflowMethod, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from samtune.formatting import (
    format_config,
    format_metric,
    format_number,
    format_seconds,
    format_value,
    searched_keys,
    short_names,
)
from samtune.study import Study, Trial, TrialState

STYLES = {
    TrialState.WAITING: "dim",
    TrialState.RUNNING: "cyan",
    TrialState.COMPLETED: "green",
    TrialState.PRUNED: "yellow",
    TrialState.FAILED: "red",
    TrialState.INTERRUPTED: "magenta",
}
_PROBE = Console(width=10_000, file=None, force_terminal=False, color_system=None)


@dataclass(frozen=True)
class _Column:
    header: str
    cells: Sequence[Text]
    justify: Literal["left", "right"] = "right"
    optional: bool = False  # left out where there is no room
    wrap: bool = False  # over several lines where there is no room


class StackedTable:
    """A table with one more line, or several, below each of its rows: for a terminal too narrow for a column.

    Args:
        table: whose rows take one line each.
        below: what stands below each row, wrapped at spaces.
    """

    def __init__(self, table: Table, below: Sequence[Text]) -> None:
        self.table, self.below = table, below

    @property
    def row_count(self) -> int:
        return self.table.row_count

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self.table, options, pad=False)
        num_header = len(lines) - self.row_count
        for number, line in enumerate(lines):
            yield from line
            yield Segment.line()
            if number >= num_header:
                yield Padding(self.below[number - num_header], (0, 0, 0, 4), expand=False)


def leaderboard(study: Study, limit: int = 10, *, width: int | None = None) -> Table | StackedTable:
    """The best trials: rank, trial, objective, searched keys, passes, seconds, state. Failed trials are left out.

    Of trials on folds, the objective has its standard error beside it.

    Args:
        limit: most trials shown.
        width: characters there is room for; None: as many as it takes. Where it is too little, the searched keys go
            into one column, over several lines; where that is too narrow for one of them, below each row.
    """
    trials = [trial for trial in study.ranked() if study.objective.value(trial) is not None]
    trials = [trial for trial in trials if trial.state is not TrialState.FAILED][:limit]
    ranks = _Column("#", [Text(str(rank)) for rank in range(1, len(trials) + 1)])
    passes = _Column("passes", [_number(t.metrics.get("num_passes")) for t in trials], optional=True)
    seconds = _Column("time", [Text(format_seconds(t.seconds)) for t in trials], optional=True)
    before = [ranks, _trials(trials), *_objectives(study, trials)]
    errors = [trial.metrics.get(f"{study.objective.metric}_se") for trial in trials]
    if study.objective.epochs == "last" and any(error is not None for error in errors):
        cells = [Text("-" if error is None else format_metric(error)) for error in errors]
        before.insert(3, _Column("± se", cells))  # over the folds of a trial
    if len(study.objectives) > 1:
        front = study.pareto
        before.append(_Column("Pareto", [Text("front" if t in front else "") for t in trials], "left"))
    return _fitted(before, trials, [passes, seconds, _states(trials)], width)


def live_table(
    console: Console, study: Study, trials: Sequence[Trial], best: Trial | None, seconds: Callable[[Trial], float]
) -> Table:
    """A search that runs: one line per trial.

    Args:
        seconds: of a trial.
    """
    epochs = _Column("epoch", [Text(f"{len(t.history)}/{t.num_epochs}") for t in trials])
    times = _Column("time", [Text(format_seconds(seconds(t))) for t in trials], optional=True)
    before = [_trials(trials), _states(trials), *_objectives(study, trials)]
    cut: OverflowMethod = "crop" if console.options.ascii_only else "ellipsis"
    table = _fitted(before, trials, [epochs, times], console.width, cut)
    assert isinstance(table, Table)  # what does not fit is cut
    for row, trial in zip(table.rows, trials, strict=True):
        if trial is best:
            row.style = "bold"
    return table


def _trials(trials: Sequence[Trial]) -> _Column:
    return _Column("trial", [Text(str(trial.number)) for trial in trials])


def _states(trials: Sequence[Trial]) -> _Column:
    return _Column("state", [Text(str(trial.state), style=STYLES[trial.state]) for trial in trials], "left")


def _objectives(study: Study, trials: Sequence[Trial]) -> list[_Column]:
    return [
        _Column(str(objective), [Text(format_metric(objective.value(t))) for t in trials])
        for objective in study.objectives
    ]


def _number(value: float | None) -> Text:
    return Text("-" if value is None else format_number(value))


def _fitted(
    before: list[_Column],
    trials: Sequence[Trial],
    after: list[_Column],
    width: int | None,
    overflow: OverflowMethod = "fold",
) -> Table | StackedTable:
    """The fullest table that fits. Where none does, the searched keys go into one column, which takes the overflow."""
    names = short_names(searched_keys(trials))
    config = [
        _Column(name, [Text(format_value(t.config[key])) if key in t.config else Text("-") for t in trials])
        for key, name in names.items()
    ]
    needed = [column for column in after if not column.optional]
    for columns in ([*before, *config, *after], [*before, *config, *needed]):
        table = _table(columns)
        if width is None or _width(table) <= width:
            return table
    merged = _Column("configuration", [Text(format_config(t.config, names)) for t in trials], "left", wrap=True)
    room = max((width or 0) - _width(_table([*before, *needed])) - 2, 1)  # two spaces between columns
    if width is None or overflow == "fold":
        words = [len(word) for text in merged.cells for word in text.plain.split(" ")]
        if width is not None and max(words, default=0) > room:
            return StackedTable(_table([*before, *needed]), merged.cells)
        return _table([*before, merged, *needed])
    for text in merged.cells:
        text.truncate(room, overflow=overflow)
    return _table([*before, _Column(merged.header[:room], merged.cells, "left"), *needed])


def _width(table: Table) -> int:
    return Measurement.get(_PROBE, _PROBE.options, table).maximum


def _table(columns: Sequence[_Column]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        widest = max([len(column.header), *(cell.cell_len for cell in column.cells)])
        table.add_column(
            column.header,
            justify=column.justify,
            no_wrap=not column.wrap,
            overflow="fold",
            min_width=None if column.wrap else widest,
        )
    for cells in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*cells)
    return table
