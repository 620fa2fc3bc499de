"""A study as it stands or has ended, for people."""

from __future__ import annotations

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from samtune.experiments.summary import format_best, format_failures, format_outcome, next_commands
from samtune.formatting import set_arguments
from samtune.study import Study, TrialState
from samtune.terminal.tables import leaderboard
from samtune.tracking import ui_command, ui_page


def print_summary(console: Console, study: Study) -> None:
    """Leaderboard, best configuration, failures, and where to look next. Lines to copy are never wrapped."""
    console.print()
    console.print(Text(format_outcome(study), style="bold"))
    table = leaderboard(study, width=console.width - 2)
    if table.row_count:
        console.print()
        console.print(Padding(table, (0, 0, 0, 2), expand=False))
        console.print()
    if study.stopped_by:
        console.print(Text(f"ended before the last trial: {study.stopped_by}", style="yellow"), soft_wrap=True)
    for line in format_failures(study):
        console.print(Text(line, style="red"), soft_wrap=True)
    console.print(Text(format_best(study), style="bold green" if study.best else "bold"))
    if study.best:
        console.print(f"  {set_arguments(study.best.config)}", soft_wrap=True)
    console.print(f"kept in {study.storage_path}", soft_wrap=True)
    if study.best:
        console.print("what next:")
        for command, what in next_commands(study):
            console.print(f"  {command}  # {what}", soft_wrap=True)
    console.print("compare the trials in MLflow:", soft_wrap=True)
    for line in dict.fromkeys([ui_command(study), ui_page(study)]):
        console.print(f"  {line}", soft_wrap=True)


def format_state(study: Study, *, running: bool) -> str:
    """`running: trial 7 is at epoch 3 of 12`, or what can be done about a study that is not."""
    if running:
        active = [t for t in study if t.state is TrialState.RUNNING]
        where = ", ".join(f"trial {t.number} is at epoch {len(t.history)} of {t.num_epochs}" for t in active[:4])
        return f"running{': ' + where if where else ''}{' …' if len(active) > 4 else ''}"
    ended = study.count(TrialState.COMPLETED, TrialState.PRUNED, TrialState.FAILED)
    if ended < study.num_trials:
        return (
            f"stopped after {ended} of {study.num_trials} trials; `samtune search --resume {study.name}` continues it"
        )
    return "complete"


def print_status(console: Console, study: Study, *, running: bool) -> None:
    """The state in a line, then what `print_summary` shows of an ended search."""
    console.print(Text(f"{study.name}: {format_state(study, running=running)}"), soft_wrap=True)
    print_summary(console, study)
