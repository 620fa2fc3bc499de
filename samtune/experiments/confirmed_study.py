"""A confirmation as a study of its own: what it says in lines, and what to do next."""

from __future__ import annotations

import re

from samtune.errors import UsageError
from samtune.experiments.candidates import stored_candidates
from samtune.experiments.confirmation import Confirmation, Confirmed, confirmation_of, format_estimate
from samtune.experiments.summary import named, resume_command
from samtune.experiments.verdict import confirmed_line
from samtune.formatting import counted
from samtune.study import Study


def confirmation_in(study: Study) -> Confirmation | None:
    """The result of a study that is a confirmation; None of any other, or where it cannot be read."""
    if study.kind != "confirmation":
        return None
    try:
        return confirmation_of(study, stored_candidates(study))
    except (UsageError, ValueError, KeyError):  # of a later version, or somebody changed it
        return None


def format_best_candidate(confirmation: Confirmation) -> str:
    """`best test_accuracy by mean 0.9644 ± 0.0089 (trial 4 (sam), 5 replicas)`; what to say when there is none."""
    best = confirmation.best
    if best is None:
        return "no replica was completed"
    found = f"{best.label}, {counted(len(best.values), 'replica')}"
    return f"best {confirmation.metric} by mean {format_estimate(best.estimate)} ({found})"


def confirmation_lines(confirmation: Confirmation) -> list[str]:
    """What a confirmation allows to say, one statement a line."""
    best = confirmation.best
    if best is None:
        return []
    lines = [confirmed_line(confirmation)]
    if (unclear := _unclear(best)) is not None:
        lines.append(unclear)
    if confirmation.num_missing:
        lines.append(confirmation.missing)
    return lines


def _unclear(best: Confirmed) -> str | None:
    """Where the seeds do not tell the best candidate from the baseline."""
    if best.comparison is None:
        return None
    interval = best.comparison.difference.interval
    if interval is None:
        return "one replica has no interval: it does not tell the best from the baseline"
    low, high = interval
    return (
        "the interval of the difference holds 0: these replicas do not tell the best from the baseline"
        if low <= 0 <= high
        else None
    )


def _without_replicas(command: str) -> str:
    return re.sub(r" --replicas[ =]\d+", "", command)


def confirmation_commands(study: Study) -> list[tuple[str, str]]:
    """What to do with a confirmation: (command, what it does)."""
    name = named(study)
    commands = [(resume_command(study), "train the replicas that are missing")] if study.is_cut_short else []
    if study.best and not commands and "samtune confirm" in study.command:
        more = f"{_without_replicas(study.command)} --replicas {2 * stored_candidates(study).replicas}"
        commands.append((more, "twice the replicas: what is there is kept, and the intervals narrow"))
    if study.best:
        commands += [
            (
                f"samtune report {name}",
                "one page: the candidates with their intervals, every replica, how to repeat it",
            ),
            (f"samtune ui {name}", "the replicas side by side in MLflow"),
        ]
    return commands
