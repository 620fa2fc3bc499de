"""What the numbers of a search allow to say: how exact its best value is, what ties with it, and which method leads.

A search reports the largest of many noisy values, so its best is too high on average. Retraining with new seeds and one
look at the test set (`samtune confirm`) decides; this module says how far the search itself goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from samtune.experiments.summary import named, with_code
from samtune.experiments.uncertainty import Source, error_of, errors_of, num_examples, why_no_error
from samtune.formatting import counted, format_metric, format_number
from samtune.study import Study, Trial, TrialState

if TYPE_CHECKING:
    from samtune.experiments.confirmation import Confirmation

LEVEL = 0.95
"""Of the interval of a method's lead."""
DRAWS = 4000
MIN_TRIALS = 3
"""Fewest trials of a method of which an interval is given: fewer hardly differ when they are drawn again."""
_CHUNK = 1_000_000  # numbers drawn at once
_SOURCES = {"folds": " over the folds", "trial": ", as the training function reports it", "examples": "", None: ""}


@dataclass(frozen=True)
class Lead:
    """How far the best trial of one method is ahead of the best of the next.

    Attributes:
        difference: of the two best values, positive whichever way the objective goes.
        interval: of it, from the bootstrap.
        num_trials, passes: of the leader and of the other; passes over the training set of their best trials.
        over_examples: whether the interval also holds the chance of the validation examples, not of the trials alone.
    """

    method: str
    other: str
    difference: float
    interval: tuple[float, float]
    num_trials: tuple[int, int]
    passes: tuple[float | None, float | None]
    over_examples: bool

    @property
    def is_clear(self) -> bool:
        """Whether the interval is above 0."""
        return self.interval[0] > 0


@dataclass(frozen=True)
class Verdict:
    """What a search says about its best trial, or a training about its only one.

    Attributes:
        value: of the best trial; `metric` what it is.
        num_examples: that it is a share of; None where it is none, or the number is not known.
        standard_error: of the value; `error_source` what it is from, `no_standard_error` why there is none.
        num_trials: that were completed; `num_tied` of the others are within one standard error of the best.
        lead: None where there is one method, or too few trials of a second; then `not_compared` says so.
        command: what decides; None of a training, in which nothing was chosen.
        confirmation: what has decided, as far as it has come; None where nothing has.
    """

    metric: str
    trial: int
    value: float
    num_examples: int | None
    standard_error: float | None
    num_trials: int
    num_tied: int | None
    lead: Lead | None
    command: str | None
    not_compared: str | None = None
    confirmation: Confirmation | None = None
    error_source: Source | None = None
    no_standard_error: str | None = None

    def lines(self) -> list[str]:
        """One statement a line."""
        found = [self._exactness()]
        if self.lead is not None:
            found.append(_lead_line(self.lead))
        elif self.not_compared is not None:
            found.append(self.not_compared)
        if self.command is None:
            return found
        if self.confirmation is None or self.confirmation.best is None:
            found.append(f"the best of {self.num_trials} is partly luck; run `{self.command}` to decide")
            return found
        return [confirmed_line(self.confirmation), *found]

    def _exactness(self) -> str:
        """The value with its standard error, or why it has none."""
        value = format_metric(self.value) if self.command else f"{self.metric} {format_metric(self.value)}"
        if self.standard_error is None:
            return f"{value} has no standard error: {self.no_standard_error}"
        kind = "test" if self.metric.startswith("test_") else "validation"
        on = f" on {self.num_examples} {kind} examples" if self.num_examples else ""
        exact = f"{value} ± {format_metric(self.standard_error)} (standard error{_SOURCES[self.error_source]}){on}"
        if not (others := self.num_trials - 1):
            return exact
        tie = f"{self.num_tied or 'none'} of the other {others} trials {'ties' if self.num_tied == 1 else 'tie'}"
        if others == 1:
            tie = "the other trial ties" if self.num_tied else "the other trial does not tie"
        return f"{exact}; {tie} with it within that"

    def to_dict(self) -> dict[str, Any]:
        """JSON types only."""
        fields = asdict(replace(self, confirmation=None))
        fields["confirmation"] = self.confirmation and self.confirmation.to_dict()
        if self.lead is not None:
            fields["lead"] |= {key: list(fields["lead"][key]) for key in ("interval", "num_trials", "passes")} | {
                "is_clear": self.lead.is_clear
            }
        return fields | {"lines": self.lines()}


def verdict_of(study: Study, confirmation: Confirmation | None = None) -> Verdict | None:
    """The verdict of a search or a training, by its first objective; None of a confirmation, which has its own table,
    and where no trial was completed.

    Args:
        confirmation: of the search, where it has begun (`samtune.experiments.confirm.confirmation_so_far`).
    """
    best = study.best
    if study.kind == "confirmation" or best is None:
        return None
    values = {trial.number: (trial, value) for trial, value in _completed(study)}
    value, error = values[best.number][1], error_of(study, best)
    tied = None
    if error is not None:
        tied = sum(abs(other - value) <= error.value for trial, other in values.values() if trial is not best)
    return Verdict(
        metric=str(study.objective),
        trial=best.number,
        value=value,
        num_examples=num_examples(study),
        standard_error=error and error.value,
        num_trials=len(values),
        num_tied=tied,
        lead=_lead(study),
        not_compared=_not_compared(study),
        command=f"samtune confirm {named(study)}{with_code(study)}" if study.kind == "search" else None,
        confirmation=confirmation,
        error_source=error and error.source,
        no_standard_error=why_no_error(study) if error is None else None,
    )


def bootstrap_lead(
    leader: Sequence[float], other: Sequence[float], errors: tuple[Sequence[float], Sequence[float]], *, seed: int = 0
) -> tuple[float, float]:
    """The percentile interval of max(leader) - max(other), both drawn again with replacement.

    Args:
        leader, other: values of their trials, larger is better.
        errors: the standard error of each, for the chance of the validation examples; zeros leave that out. All trials
            see the same examples, so what is drawn here independently makes the interval too wide rather than too
            narrow.
    """
    import numpy as np

    numbers = np.random.default_rng(seed)
    best = [_drawn_best(numbers, np.asarray(v), np.asarray(e)) for v, e in zip((leader, other), errors, strict=True)]
    low, high = np.quantile(best[0] - best[1], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _drawn_best(numbers: Any, values: Any, errors: Any) -> Any:
    """The largest value of each of `DRAWS` samples."""
    import numpy as np

    rows = max(1, _CHUNK // len(values))
    parts = []
    for start in range(0, DRAWS, rows):
        chosen = numbers.integers(len(values), size=(min(rows, DRAWS - start), len(values)))
        noise = errors[chosen] * numbers.standard_normal(chosen.shape)
        parts.append((values[chosen] + noise).max(axis=1))
    return np.concatenate(parts)


def _by_method(study: Study, sign: float = 1.0) -> dict[str, list[tuple[Trial, float]]]:
    """The completed trials of each method, and their values times `sign`."""
    methods: dict[str, list[tuple[Trial, float]]] = {}
    for trial, value in _completed(study):
        methods.setdefault(str(trial.params.get("method.name")), []).append((trial, sign * value))
    return methods


def _not_compared(study: Study) -> str | None:
    """Why no method leads, where several were tried."""
    methods = _by_method(study)
    if len(methods) < 2 or sum(len(trials) >= MIN_TRIALS for trials in methods.values()) >= 2:
        return None
    counts = ", ".join(f"{name} {len(trials)}" for name, trials in methods.items())
    return f"methods are not compared: that takes {MIN_TRIALS} completed trials of two of them (completed: {counts})"


def _lead(study: Study) -> Lead | None:
    sign = 1.0 if study.objective.mode == "max" else -1.0
    methods = _by_method(study, sign)
    ranked = sorted(methods.items(), key=lambda item: -max(value for _, value in item[1]))
    ranked = [(name, trials) for name, trials in ranked if len(trials) >= MIN_TRIALS]
    if len(ranked) < 2:
        return None
    (method, own), (other, theirs) = ranked[:2]
    values = [[value for _, value in trials] for trials in (own, theirs)]
    errors = [errors_of(study, [trial for trial, _ in trials]) for trials in (own, theirs)]
    if not all(errors):
        errors = [[0.0] * len(each) for each in values]
    best = [max(trials, key=lambda pair: pair[1])[0] for trials in (own, theirs)]
    return Lead(
        method=method,
        other=other,
        difference=max(values[0]) - max(values[1]),
        interval=bootstrap_lead(values[0], values[1], (errors[0], errors[1])),
        num_trials=(len(own), len(theirs)),
        passes=(best[0].metrics.get("num_passes"), best[1].metrics.get("num_passes")),
        over_examples=any(any(each) for each in errors),
    )


def _lead_line(lead: Lead) -> str:
    low, high = (f"{round(end, 4) + 0.0:+.4f}" for end in lead.interval)
    over = "trials and examples" if lead.over_examples else "trials"
    ahead = f"{lead.method} {'leads' if lead.is_clear else 'is ahead of'} {lead.other} by {lead.difference:.4f}"
    unclear = "" if lead.is_clear else ", which holds 0: no method leads"
    own, theirs = lead.num_trials
    tries = "" if own == theirs else f" ({counted(own, 'trial')} against {theirs})"  # whoever had fewer had less luck
    return f"{ahead}{_at_passes(lead)}{tries}; {LEVEL:.0%} interval {low} to {high}{unclear} (bootstrap over {over})"


def confirmed_line(confirmation: Confirmation) -> str:
    """`confirmed, test_accuracy: trial 3 (sam) 0.9550 ± 0.0635, …`; there must be a best candidate."""
    from samtune.experiments.confirmation import format_estimate

    best = confirmation.best
    assert best is not None
    text = f"confirmed, {confirmation.metric}: {best.label} {format_estimate(best.estimate)}"
    if best.comparison is not None:
        difference = format_estimate(best.comparison.difference, signed=True)
        text += f", {difference} against {confirmation.baseline}"
    return text + ("" if best.searched is None else f"; the search had measured {format_metric(best.searched)}")


def _at_passes(lead: Lead) -> str:
    own, other = lead.passes
    if own is None or other is None:
        return ""
    if abs(own - other) <= 0.05 * max(own, other):
        return f" at {format_number(own)} passes each"
    return f", with {format_number(own)} passes against {format_number(other)}"


def _completed(study: Study) -> list[tuple[Trial, float]]:
    pairs = ((trial, study.objective.value(trial)) for trial in study if trial.state is TrialState.COMPLETED)
    return [(trial, value) for trial, value in pairs if value is not None]
