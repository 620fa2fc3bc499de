"""Several studies side by side: their methods, their settings, and what the differences between them are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from samtune.config.foreign import flow
from samtune.config.trial import flatten
from samtune.errors import UsageError
from samtune.experiments.candidates import stored_candidates
from samtune.experiments.confirmation import confirmation_of
from samtune.experiments.statistics import compare, compare_unpaired
from samtune.experiments.uncertainty import error_of, errors_of
from samtune.experiments.verdict import bootstrap_lead
from samtune.store.study_folder import study_folder
from samtune.study import Scalar, Study, Trial, TrialState

EQUAL_PASSES = 0.05
"""Share by which passes may differ and still count as equal."""
_LEFT_OUT = ("name", "folder", "candidates", "searched", "seed", "first_seed", "initial")
"""Keys at the top that tell studies apart anyway, or are shown by their rows."""


@dataclass(frozen=True)
class Row:
    """A method of a search, by its best trial, or a candidate of a confirmation or a training.

    Attributes:
        value: of the best trial, or the mean of the replicas; `half_width` of its 95% interval.
        values: by seed; of a search, none.
        trials: the values of all trials of the method, of a search alone.
        errors: the standard error of each of these, where it is known.
        passes: over the training set.
        config: what the search had found for it.
    """

    study: str
    label: str
    value: float
    half_width: float | None
    values: dict[int, float]
    trials: tuple[float, ...]
    errors: tuple[float, ...]
    passes: float | None
    config: dict[str, Scalar]

    @property
    def count(self) -> int:
        """Of replicas, or of trials."""
        return len(self.trials) or len(self.values)


@dataclass(frozen=True)
class Difference:
    """A row against the reference.

    Attributes:
        interval: of the difference, 95%; None where there are too few values.
        how: what it is from: `paired by 5 seeds`, `5 and 4 seeds`, `bootstrap`.
        equal_passes: whether both cost the same.
    """

    study: str
    label: str
    difference: float
    interval: tuple[float, float] | None
    p_value: float | None
    how: str
    equal_passes: bool


@dataclass(frozen=True)
class StudyComparison:
    """Rows, the best first; the differences to `reference`, the best of the first study.

    Attributes:
        settings: dotted key -> its value in each study, in order; those that differ.
        notes: why a difference is not what it seems.
    """

    metric: str
    mode: str
    studies: list[str]
    rows: list[Row]
    reference: tuple[str, str]
    differences: list[Difference]
    settings: dict[str, list[Scalar]]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """JSON types only."""
        return asdict(self)


def compare_studies(names: Sequence[str], storage_path: str | Path | None = None) -> StudyComparison:
    """Compares studies of one storage path.

    Args:
        names: two at least; the others are compared with the first.

    Raises:
        UsageError: there is no such study, they have other objectives, or one has no result.
    """
    if len(set(names)) < 2:
        raise UsageError("two studies at least are compared: `samtune compare A B`")
    studies = [study_folder(storage_path, name).read() for name in dict.fromkeys(names)]
    first = studies[0]
    for study in studies[1:]:
        if (study.objective.metric, study.objective.mode) != (first.objective.metric, first.objective.mode):
            raise UsageError(
                f"studies {first.name} and {study.name} have other objectives ({first.goal}; {study.goal}): compare "
                "searches with searches, and confirmations with confirmations"
            )
    sign = 1.0 if first.objective.mode == "max" else -1.0
    rows = [row for study in studies for row in _rows(study)]
    for study in studies:
        if not any(row.study == study.name for row in rows):
            raise UsageError(f"study {study.name}: no trial was completed, so there is nothing to compare")
    reference = max((row for row in rows if row.study == first.name), key=lambda row: sign * row.value)
    return StudyComparison(
        metric=str(first.objective),
        mode=first.objective.mode,
        studies=[study.name for study in studies],
        rows=sorted(rows, key=lambda row: -sign * row.value),
        reference=(reference.study, reference.label),
        differences=[_difference(row, reference, sign) for row in rows if row is not reference],
        settings=_settings(studies),
        notes=_notes(studies),
    )


def _rows(study: Study) -> list[Row]:
    if study.kind == "search":
        return _methods(study)
    candidates = stored_candidates(study)
    found = []
    for row in confirmation_of(study, candidates).rows:
        if row.estimate is not None:
            values = {candidates.first_seed + replica: value for replica, value in row.values.items()}
            half = row.estimate.half_width
            found.append(Row(study.name, row.label, row.estimate.mean, half, values, (), (), row.passes, {}))
    return found


def _methods(study: Study) -> list[Row]:
    """Of each method of a search, its best trial."""
    sign = 1.0 if study.objective.mode == "max" else -1.0
    methods: dict[str, list[tuple[float, Trial]]] = {}
    for trial in study.ranked():
        value = study.objective.value(trial)
        if trial.state is TrialState.COMPLETED and value is not None:
            methods.setdefault(str(trial.params.get("method.name")), []).append((value, trial))
    rows = []
    for method, pairs in methods.items():
        value, best = max(pairs, key=lambda pair: sign * pair[0])
        error, trials = error_of(study, best), [trial for _, trial in pairs]
        half = None if error is None else 1.96 * error.value
        values, errors = tuple(each for each, _ in pairs), tuple(errors_of(study, trials))
        passes = best.metrics.get("num_passes")
        rows.append(Row(study.name, method, value, half, {}, values, errors, passes, dict(best.config)))
    return rows


def _difference(row: Row, reference: Row, sign: float) -> Difference:
    interval, p_value, how = _interval(row, reference, sign)
    equal = row.passes is not None and reference.passes is not None
    if row.passes is not None and reference.passes is not None:
        equal = abs(row.passes - reference.passes) <= EQUAL_PASSES * max(row.passes, reference.passes)
    value = row.value - reference.value
    shared = row.values.keys() & reference.values.keys()
    if how.startswith("paired"):  # of the seeds that both have
        value = sum(row.values[seed] - reference.values[seed] for seed in shared) / len(shared)
    return Difference(row.study, row.label, value, interval, p_value, how, equal)


def _interval(row: Row, reference: Row, sign: float) -> tuple[tuple[float, float] | None, float | None, str]:
    if row.trials and reference.trials:
        drawn = [[sign * value for value in each.trials] for each in (row, reference)]
        low, high = bootstrap_lead(drawn[0], drawn[1], (_errors(row), _errors(reference)))
        over = "trials and examples" if row.errors and reference.errors else "trials"
        return (low, high) if sign > 0 else (-high, -low), None, f"bootstrap over {over}"
    shared = sorted(row.values.keys() & reference.values.keys())
    if len(shared) >= 2:
        found = compare([row.values[seed] for seed in shared], [reference.values[seed] for seed in shared])
        return found.difference.interval, found.p_value, f"paired by {len(shared)} seeds"
    if min(len(row.values), len(reference.values)) >= 2:
        found = compare_unpaired(list(row.values.values()), list(reference.values.values()))
        return (
            found.difference.interval,
            found.p_value,
            f"{len(row.values)} and {len(reference.values)} seeds, unpaired",
        )
    return None, None, "too few seeds"


def _errors(row: Row) -> Sequence[float]:
    return row.errors or [0.0] * len(row.trials)


def _settings(studies: Sequence[Study]) -> dict[str, list[Scalar]]:
    """The keys whose values differ between the studies."""
    flat = [_flat(study) for study in studies]
    keys = dict.fromkeys(key for each in flat for key in each)
    values = {key: [each.get(key) for each in flat] for key in keys}
    return {key: found for key, found in values.items() if any(value != found[0] for value in found)}


def _flat(study: Study) -> dict[str, Scalar]:
    """The settings by dotted key; a key that is searched has no value but `searched`."""
    written: Mapping[str, Any] = yaml.safe_load(study.space_yaml)
    found = flatten({key: _on_one_line(value) for key, value in written.items() if key not in _LEFT_OUT})
    return found | dict.fromkeys(written.get("search") or {}, "searched")


def _on_one_line(value: Any) -> Any:
    """A tree with its lists as YAML has them on one line."""
    if isinstance(value, Mapping):
        return {key: _on_one_line(item) for key, item in value.items()}
    return flow(value) if isinstance(value, list) else value


def _notes(studies: Sequence[Study]) -> list[str]:
    """What makes the values of the studies differ beside what was compared."""
    notes = []
    kinds = {study.name: study.kind for study in studies}
    if len(set(kinds.values())) > 1:
        notes.append("the studies are of other kinds: " + ", ".join(f"{n} is a {kind}" for n, kind in kinds.items()))
    settings = [_flat(study) for study in studies]
    examples = [{k: v for k, v in each.items() if k.startswith("data.")} for each in settings]
    searches = [each for each, study in zip(examples, studies, strict=True) if study.kind == "search"]
    different = sorted({key for each in searches for key in each if each[key] != searches[0].get(key)})
    if different:
        notes.append(f"the searches have other data ({', '.join(different)}): their values are of other examples")
    if any(each.get("train") for each in settings):
        notes.append(
            "training functions have data of their own: whether all values are of the same examples is not known"
        )
    return notes
