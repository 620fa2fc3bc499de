"""A study as it stands or has ended, for people."""

from __future__ import annotations

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from samtune.experiments.confirm import confirmation_so_far
from samtune.experiments.confirmed_study import confirmation_in
from samtune.experiments.summary import (
    beyond_budget,
    format_best,
    format_outcome,
    next_commands,
    resume_command,
    study_state,
)
from samtune.experiments.verdict import verdict_of
from samtune.formatting import counted, set_arguments
from samtune.study import Study, TrialState
from samtune.terminal.confirmed import print_confirmation, print_confirmed_table, print_next
from samtune.terminal.failures import print_failures
from samtune.terminal.tables import leaderboard
from samtune.tracking import ui_command


def print_summary(console: Console, study: Study, *, debug: bool = False) -> None:
    """Confirmation, leaderboard, best configuration, failures, and where to look next. Lines to copy are never wrapped.

    Args:
        debug: also prints the tracebacks of trials that failed.
    """
    console.print()
    console.print(Text(format_outcome(study), style="bold"))
    confirmation = confirmation_so_far(study)
    if confirmation is not None:
        print_confirmed_table(console, confirmation)
        console.print(Text("\nwhat the search had measured, on its validation set:"), soft_wrap=True)
    table = leaderboard(study, width=console.width - 2)
    if table.row_count:
        console.print()
        console.print(Padding(table, (0, 0, 0, 2), expand=False))
        console.print()
    if study.stopped_by:
        console.print(Text(f"ended before the last trial: {study.stopped_by}", style="yellow"), soft_wrap=True)
    print_failures(console, study, debug=debug)
    console.print(Text(format_best(study), style="bold green" if study.best else "bold"))
    if study.best:
        console.print(f"  {set_arguments(study.best.config)}", soft_wrap=True)
    if verdict := verdict_of(study, confirmation):
        console.print("verdict:")
        for line in verdict.lines():
            console.print(f"  {line}", soft_wrap=True)
    console.print(f"kept in {study.storage_path}", soft_wrap=True)
    print_next(console, next_commands(study))
    console.print(f"all trials in MLflow:\n  {ui_command(study)}", soft_wrap=True)


def format_state(study: Study, *, running: bool) -> str:
    """`running: trial 7 is at epoch 3 of 12`, or what can be done about a study that is not."""
    if running:
        active = [t for t in study if t.state is TrialState.RUNNING]
        where = ", ".join(f"trial {t.number} is at epoch {len(t.history)} of {t.num_epochs}" for t in active[:4])
        return f"running{': ' + where if where else ''}{' …' if len(active) > 4 else ''}"
    state = study_state(study)
    ended = study.count(TrialState.COMPLETED, TrialState.PRUNED, TrialState.FAILED)
    if state == "stopped" and (longer := beyond_budget(study)) is not None:
        return f"ended by its budget after {ended} of {counted(study.num_trials, 'trial')}; `{longer[0]}` continues it"
    if state == "stopped":
        return f"stopped after {ended} of {counted(study.num_trials, 'trial')}; `{resume_command(study)}` continues it"
    if state == "failed":
        retry = f"; `{resume_command(study)} --retry-failed` runs them again" if study.kind == "search" else ""
        return f"failed: no trial of {ended} succeeded{retry}"
    return state


def print_status(console: Console, study: Study, *, running: bool, debug: bool = False) -> None:
    """The state in a line, then what `print_summary` shows of an ended search."""
    console.print(Text(f"{study.name}: {format_state(study, running=running)}"), soft_wrap=True)
    if confirmation := confirmation_in(study):
        print_confirmation(console, confirmation, resume_command(study), debug=debug)
        return
    print_summary(console, study, debug=debug)
