"""A confirmation as a study of its own: what it says in lines, and what to do next."""

from __future__ import annotations

import re

from samtune.errors import UsageError
from samtune.experiments.candidates import stored_candidates
from samtune.experiments.confirmation import Confirmation, Confirmed, confirmation_of, format_estimate
from samtune.experiments.statistics import Estimate
from samtune.experiments.summary import named, resume_command
from samtune.experiments.verdict import confirmed_line
from samtune.formatting import counted, format_metric
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
    """`best candidate trial 4 (sam): test_accuracy 0.9644 ± 0.0089 (5 replicas)`; what to say when there is none."""
    best = confirmation.best
    if best is None:
        return "no replica was completed"
    name = "best candidate" if best.is_candidate else "best baseline"
    replicas = counted(len(best.values), "replica")
    return f"{name} {best.label}: {confirmation.metric} {format_estimate(best.estimate)} ({replicas})"


def confirmation_lines(confirmation: Confirmation) -> list[str]:
    """What a confirmation allows to say, one statement a line."""
    best = confirmation.best
    if best is None:
        return []
    lines = [confirmed_line(confirmation)]
    if best.comparison is not None:
        lines.append(_decided(confirmation, best, best.comparison.difference))
    elif best.is_candidate and len(confirmation.rows) > 1:
        lines.append(f"{best.label} is the baseline itself: no other candidate has a better mean")
    if confirmation.num_missing:
        lines.append(confirmation.missing)
    return lines


def _decided(confirmation: Confirmation, best: Confirmed, difference: Estimate) -> str:
    """Whether the best candidate is better than the baseline, as far as the replicas tell."""
    if difference.interval is None:
        return f"one replica has no interval: it does not tell {best.label} from {confirmation.baseline}"
    low, high = difference.interval
    if low <= 0 <= high:
        return (
            "the interval of the difference holds 0: these replicas do not tell "
            f"{best.label} from {confirmation.baseline}"
        )
    order = "better" if (low > 0) == (confirmation.study.objective.mode == "max") else "worse"
    size = f"{format_metric(abs(difference.mean))} ± {format_metric(difference.half_width)}"
    return f"{best.label} is {order} than {confirmation.baseline} by {size}"


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
