"""A study as it stands, running or not."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from samtune.study import Study, TrialState
from samtune.terminal.summary import print_summary


def format_state(study: Study, *, running: bool) -> str:
    """`running: trial 7 is at epoch 3 of 12`, or what can be done about a study that is not."""
    if running:
        active = [t for t in study if t.state is TrialState.RUNNING]
        where = ", ".join(f"trial {t.number} is at epoch {len(t.history)} of {t.num_epochs}" for t in active[:4])
        return f"running{': ' + where if where else ''}{' …' if len(active) > 4 else ''}"
    ended = study.count(TrialState.COMPLETED, TrialState.PRUNED, TrialState.FAILED)
    if ended < study.num_trials:
        return f"stopped after {ended} of {study.num_trials} trials; `samtune search --resume {study.name}` goes on"
    return "complete"


def print_status(console: Console, study: Study, *, running: bool) -> None:
    """The state in a line, then what `print_summary` shows of an ended search."""
    console.print(Text(f"{study.name}: {format_state(study, running=running)}"), soft_wrap=True)
    print_summary(console, study)
