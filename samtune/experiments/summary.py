"""The result of a search, in lines for people and as JSON."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Literal

from samtune.formatting import counted, first_line, format_metric, format_seconds
from samtune.storage import is_file, parent
from samtune.store.study_files import error_file
from samtune.store.study_folder import DEFAULT_STORAGE
from samtune.study import Study, Trial, TrialState
from samtune.tune.ending import HOPELESS
from samtune.user_code import PREFIX

ERRORS_SHOWN = 5

StudyState = Literal["running", "complete", "failed", "stopped"]


def study_state(study: Study, *, running: bool = False) -> StudyState:
    """How a study stands: `failed` where every trial that ended failed, `stopped` where trials are missing.

    Args:
        running: whether a process runs it.
    """
    if running:
        return "running"
    succeeded = study.count(TrialState.COMPLETED, TrialState.PRUNED)
    failed = study.count(TrialState.FAILED)
    if failed and not succeeded and (failed >= study.num_trials or study.stopped_by == HOPELESS):
        return "failed"
    return "complete" if succeeded + failed >= study.num_trials else "stopped"


def format_outcome(study: Study) -> str:
    """`digits-1: 14 completed, 2 failed of 16 trials in 1:02`."""
    counts = [
        f"{study.count(state)} {state}"
        for state in (TrialState.COMPLETED, TrialState.PRUNED, TrialState.FAILED, TrialState.INTERRUPTED)
        if study.count(state)
    ]
    return (
        f"{study.name}: {', '.join(counts) or 'none ended'} of {counted(study.num_trials, 'trial')} "
        f"in {format_seconds(study.seconds)}"
    )


def format_best(study: Study) -> str:
    """The best trial and its value; what to say when there is none."""
    best = study.best
    if best is None:
        return "no trial was completed"
    text = f"best {study.objective} {format_metric(study.objective.value(best))} (trial {best.number})"
    if len(study.objectives) > 1:
        return f"Pareto front: {_trials([trial.number for trial in study.pareto])}; {text}"
    return text


def format_failures(study: Study) -> list[str]:
    """One line per error: the trials it ended, and its first line."""
    different = different_failures(study)
    lines = [
        f"{_trials([trial.number for trial in trials])} failed: {_error_line(trials[0])}"
        for trials in different[:ERRORS_SHOWN]
    ]
    if more := len(different) - len(lines):
        lines.append(f"and {counted(more, 'other error')}")
    return lines


def different_failures(study: Study) -> list[list[Trial]]:
    """The failed trials, those together that failed with the same line."""
    trials: dict[str, list[Trial]] = {}
    for trial in study:
        if trial.state is TrialState.FAILED:
            trials.setdefault(_error_line(trial), []).append(trial)
    return list(trials.values())


def _error_line(trial: Trial) -> str:
    return first_line(trial.error) or "unknown error"


def traceback_file(study: Study, trial: Trial) -> str | None:
    """Where the whole traceback of a failed trial is kept; None where there is none, or its store is away."""
    if not trial.traceback:
        return None
    file = error_file(study.storage_path, trial.number)
    try:
        return file if is_file(file) else None
    except (OSError, ValueError):
        return None


def _trials(numbers: list[int]) -> str:
    text = ", ".join(map(str, numbers[:8])) + (f" and {len(numbers) - 8} more" if len(numbers) > 8 else "")
    return f"trial{'s' * (len(numbers) > 1)} {text}"


def resume_command(study: Study) -> str:
    """What resumes the study: for a confirmation or a training, the command that started it."""
    return f"samtune search --resume {named(study)}{with_code(study)}" if study.kind == "search" else study.command


def beyond_budget(study: Study) -> tuple[str, str] | None:
    """How a search goes on that its budget ended; None of another. Wall time is each part's own."""
    key = (study.stopped_by or "").partition(":")[0]
    if not key.startswith("budget."):
        return None
    if key == "budget.seconds":
        return resume_command(study), "continue for as long again"
    import yaml

    limit = (yaml.safe_load(study.space_yaml) or {}).get("budget", {}).get(key.partition(".")[2])
    value = f"{2 * limit:g}" if isinstance(limit, (int, float)) else "null"
    return f"{resume_command(study)} --set {key}={value}", "continue with twice the budget (null: without)"


def with_code(study: Study) -> str:
    """` --code my_script.py`, with which commands find the Python objects that a study was given; else empty."""
    if PREFIX not in study.space_yaml:
        return ""
    script = next(iter(shlex.split(study.command)), "")
    return f" --code {shlex.quote(script) if script.endswith('.py') else 'SCRIPT.py'}"


def named(study: Study) -> str:
    """The study's name as commands take it, with its storage path where that is not the default."""
    storage = parent(study.storage_path)
    is_default = storage == str(Path(DEFAULT_STORAGE).absolute())
    return study.name if is_default else f"{study.name} --storage-path {shlex.quote(storage)}"


def next_commands(study: Study) -> list[tuple[str, str]]:
    """What to do with a search or a training that has ended: (command, what it does).

    Without a best trial, only how to continue.
    """
    name = named(study)
    commands = []
    if study_state(study) == "failed" and study.kind == "search":
        commands.append((f"{resume_command(study)} --retry-failed", "run the failed trials again"))
    elif study.is_cut_short:
        commands.append((resume_command(study), "run the trials that are missing"))
    if study.best and study.kind == "search":  # a training has chosen nothing
        commands += [
            (
                f"samtune confirm {name}{with_code(study)}",
                "retrain the best and a baseline with new seeds, and test them",
            ),
            (f"samtune best {name} -o best.yaml", "the best configuration as a space to train, confirm or search from"),
        ]
    if study.best:
        commands += [
            (f"samtune report {name}", "one page: figures, leaderboard, how to repeat it"),
            (f"samtune ui {name}", "the best trials side by side in MLflow"),
        ]
    if (longer := beyond_budget(study)) is not None:
        commands.append(longer)
    return commands
