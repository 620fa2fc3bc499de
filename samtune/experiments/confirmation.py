"""The result of a confirmation: means, intervals, and the comparison with the baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from samtune.experiments.candidates import CandidateList
from samtune.experiments.statistics import Comparison, Estimate, compare, estimate, resolution
from samtune.formatting import counted, format_metric, format_number
from samtune.study import CANDIDATE, REPLICA, Study, Trial, TrialState


@dataclass(frozen=True)
class Confirmed:
    """One candidate.

    Attributes:
        is_candidate: what was chosen to be confirmed; a trial may be the baseline too.
        values: the objective on the test set by replica; replicas that failed or are missing are left out.
        searched: what the search had measured on its validation set; None for a baseline of another length.
        comparison: with the baseline, over the seeds that both have; None for the baselines themselves.
    """

    label: str
    is_baseline: bool
    is_candidate: bool
    passes: float
    values: dict[int, float]
    estimate: Estimate | None
    searched: float | None
    comparison: Comparison | None

    @property
    def gap(self) -> float | None:
        """What the search promised beyond what was confirmed: the winner's curse, and validation against test."""
        return None if self.searched is None or self.estimate is None else self.searched - self.estimate.mean


@dataclass(frozen=True)
class Confirmation:
    """All candidates, the best first.

    Attributes:
        metric: of the test set.
        baseline: label of the baseline that the others are compared with: the better one; None without baselines.
        num_missing: replicas that failed or have not been run.
    """

    study: Study
    metric: str
    rows: tuple[Confirmed, ...]
    baseline: str | None
    num_missing: int

    @property
    def best(self) -> Confirmed | None:
        """The candidate with the best mean, baselines that were not chosen aside (where there is anything else)."""
        only_baselines = not any(row.is_candidate for row in self.rows)
        return next((row for row in self.rows if row.values and (only_baselines or row.is_candidate)), None)

    @property
    def missing(self) -> str:
        """How many replicas are missing, as a clause."""
        return f"{counted(self.num_missing, 'replica')} {'is' if self.num_missing == 1 else 'are'} missing"

    def best_trials(self) -> list[Trial]:
        """The replicas of the candidate with the best mean, the best first: its weights are kept."""
        best = self.best
        if best is None:
            return []
        trials = [t for t in self.study if t.config[CANDIDATE] == best.label and t.config[REPLICA] in best.values]
        return sorted(trials, key=self.study.objective.sort_key)

    def best_trial(self) -> Trial | None:
        """The first of `best_trials`."""
        return next(iter(self.best_trials()), None)

    def to_dict(self) -> dict[str, Any]:
        """JSON types only."""
        return {
            "study": self.study.name,
            "metric": self.metric,
            "baseline": self.baseline,
            "num_missing": self.num_missing,
            "candidates": [_row_dict(row) for row in self.rows],
        }


def confirmation_of(study: Study, candidates: CandidateList) -> Confirmation:
    """The statistics of a confirmation as far as it has come."""
    values: dict[str, dict[int, float]] = {label: {} for label in candidates.candidates}
    for trial in study:
        value = study.objective.value(trial) if trial.state is TrialState.COMPLETED else None
        if value is not None:
            values[str(trial.config[CANDIDATE])][int(trial.config[REPLICA] or 0)] = value
    sign = 1.0 if study.objective.mode == "max" else -1.0

    def merit(label: str) -> float:
        own = list(values[label].values())
        return sign * sum(own) / len(own) if own else float("-inf")

    step = resolution(value for own in values.values() for value in own.values())
    baseline = max((b for b in candidates.baselines if values[b]), key=merit, default=None)
    rows = [
        Confirmed(
            label=label,
            is_baseline=label in candidates.baselines,
            is_candidate=label not in candidates.baselines or label in candidates.chosen_baselines,
            passes=spec.num_passes,
            values=values[label],
            estimate=estimate(list(values[label].values()), step) if values[label] else None,
            searched=candidates.searched.get(label),
            comparison=_compared(values[label], values[baseline], step)
            if baseline is not None and label not in candidates.baselines
            else None,
        )
        for label, spec in sorted(candidates.candidates.items(), key=lambda item: -merit(item[0]))
    ]
    num_missing = candidates.num_trials - sum(map(len, values.values()))
    return Confirmation(study, study.objective.metric, tuple(rows), baseline, num_missing)


def _compared(own: dict[int, float], other: dict[int, float], step: float) -> Comparison | None:
    shared = sorted(own.keys() & other.keys())
    return compare([own[r] for r in shared], [other[r] for r in shared], step) if shared else None


def format_estimate(value: Estimate | None, *, signed: bool = False) -> str:
    """`0.9712 ± 0.0031`; `+0.0021 ± 0.0031`."""
    if value is None:
        return "-"
    mean, half = _signed(value.mean) if signed else format_metric(value.mean), value.half_width
    return mean + ("" if half is None else f" ± {format_metric(half)}")


def _signed(value: float | None) -> str:
    """With its sign and four decimals, like the metrics that it is a difference of."""
    return "-" if value is None else f"{round(value, 4) + 0.0:+.4f}"


def table(confirmation: Confirmation) -> tuple[list[str], list[list[str]]]:
    """Header and rows as text."""
    header = ["configuration", confirmation.metric, "difference", "p", "n", "passes", "search", "gap"]
    rows = []
    for row in confirmation.rows:
        against = row.comparison
        mark = " *" if row.label == confirmation.baseline else ""
        rows.append(
            [
                row.label + mark,
                format_estimate(row.estimate),
                "-" if against is None else format_estimate(against.difference, signed=True),
                "-" if against is None or against.p_value is None else f"{against.p_value:.3f}",
                str(len(row.values)),
                format_number(row.passes),
                format_metric(row.searched),
                _signed(row.gap),
            ]
        )
    return header, rows


CAPTION = (
    "Retrained on the full training set with new seeds and tested once each: mean and 95% confidence interval "
    "over the seeds (Student t); the choice of the test examples is not in it. The difference is to the baseline (*), "
    "paired by seed; its p-value is two-sided. The gap is what the search had promised beyond the mean."
)


def _row_dict(row: Confirmed) -> dict[str, Any]:
    against = row.comparison
    return {
        "label": row.label,
        "is_baseline": row.is_baseline,
        "passes": row.passes,
        "values": {str(replica): value for replica, value in sorted(row.values.items())},
        "mean": row.estimate and row.estimate.mean,
        "half_width": row.estimate and row.estimate.half_width,
        "searched": row.searched,
        "gap": row.gap,
        "difference": against and against.difference.mean,
        "difference_half_width": against and against.difference.half_width,
        "p_value": against and against.p_value,
    }
