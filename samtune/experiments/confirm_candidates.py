"""The candidates of a confirmation: the best of one search or of several, and what they are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from samtune.config.space import SearchSpace
from samtune.config.trial import TrialSpec
from samtune.config.yaml_source import did_you_mean
from samtune.errors import UsageError
from samtune.experiments.candidates import BASELINES, add_baseline, label_of
from samtune.experiments.confirm_source import Source, find_source
from samtune.store.study_folder import study_folder, study_names
from samtune.study import Objective, TrialState

_OF_TRAINING = (
    *(
        "validation_fraction",
        "folds",
        "split_seed",
        "fraction",
        "num_train",
        "label_noise",
        "label_noise_seed",
        "relabel",
    ),
    *("augmentation", "cutout", "mixup", "cutmix", "policy", "download"),
)
"""Keys of the data that change what is trained on, and leave the test set as it is."""
_LONGEST = 100  # characters of a name made of several


def find_sources(texts: Sequence[str | SearchSpace], **options: Any) -> list[Source]:
    """What is confirmed, each found as `find_source` does.

    Raises:
        UsageError: as `find_source`, or they have other objectives, data sets or storage paths.
    """
    if not texts:
        raise UsageError("what is confirmed has no name")
    different = [text for index, text in enumerate(texts) if text not in texts[:index]]
    sources = [find_source(text, **options) for text in different]
    first = sources[0]
    for other in sources[1:]:
        if not _have_one_goal(first, other):
            raise UsageError(f"{first.name} and {other.name} have other objectives ({_goal(first)}; {_goal(other)})")
        if other.storage != first.storage:
            raise UsageError(f"{first.name} and {other.name} are in other storage paths")
    _check_test_sets(first, [(label, spec) for source in sources for label, spec in _labelled(source)])
    return sources


def joined(sources: Sequence[Source]) -> Source:
    """Several sources as one: the settings beside the trials are the first's, the seeds none that any search used."""
    if len(sources) == 1:
        return sources[0]
    sign = 1.0 if _goal(sources[0]).mode == "max" else -1.0
    chosen = [(f"{_prefix(source)} {label}", found) for source in sources for label, found in source.chosen.items()]
    chosen.sort(key=lambda item: float("inf") if item[1][1] is None else -sign * item[1][1])
    names = list(dict.fromkeys(source.name for source in sources))
    name = "-".join(names)
    if len(name) > _LONGEST:
        name = f"{names[0][:_LONGEST]}-and-{len(names) - 1}-more"
    base = _with_plain_trials(sources, sign)
    return Source(name, dict(chosen), base.space, base.storage, base.study)


def first_seed(sources: Sequence[Source]) -> int:
    """The first seed that no search has used."""
    return max(source.space.seed + source.space.repeats for source in sources)


def add_baselines(found: Source, baseline: str, storage_path: str | Path | None) -> tuple[list[str], Source | None]:
    """Adds to the candidates what they are compared with.

    Args:
        baseline: `sgd`, `none`, or the name of a study whose best trial it is, as it was found.

    Returns:
        The labels of the baselines, and the study's source where it is one.

    Raises:
        UsageError: there is no such study, or it was tested on other data.
    """
    if baseline == "none":
        return [], None
    if baseline == "sgd":
        return add_baseline(found.chosen, found.study, found.space), None
    folder = study_folder(storage_path, baseline)
    if not folder.exists():
        known = [*BASELINES, *study_names(folder.storage)]
        problem = f"no study of that name, and none of {', '.join(BASELINES)}{did_you_mean(baseline, known)}"
        raise UsageError(problem, argument="baseline", value=baseline)
    tuned = find_source(baseline, top=1, storage_path=storage_path)
    label, (spec, value) = next(iter(tuned.chosen.items()))
    _check_test_sets(found, [*((name, each) for name, (each, _) in found.chosen.items()), (baseline, spec)])
    label = label_of(found.chosen, spec) or f"{_prefix(tuned)} {label}"
    found.chosen.setdefault(label, (spec, value if _have_one_goal(found, tuned) else None))
    return [label], tuned


def _goal(source: Source) -> Objective:
    if source.study is not None:
        return source.study.objective
    objective = source.space.objective
    return Objective(objective.metric, objective.mode)


def _have_one_goal(first: Source, other: Source) -> bool:
    one, two = _goal(first), _goal(other)
    return (one.metric, one.mode) == (two.metric, two.mode)


def _prefix(source: Source) -> str:
    return source.study.name if source.study is not None else source.name


def _labelled(source: Source) -> list[tuple[str, TrialSpec]]:
    return [(source.name, spec) for spec, _ in source.chosen.values()]


def _with_plain_trials(sources: Sequence[Source], sign: float) -> Source:
    """The source whose best plain SGD trial is the best of all: it gives the settings of the baseline."""

    def best_plain(source: Source) -> float:
        study = source.study
        values = [
            sign * value
            for trial in study or ()
            if study is not None
            and trial.state is TrialState.COMPLETED
            and trial.params.get("method.name") in ("sgd", "adamw")
            and (value := study.objective.value(trial)) is not None
        ]
        return max(values, default=float("-inf"))

    return max(sources, key=best_plain)  # the first where none has one


def _check_test_sets(found: Source, specs: Sequence[tuple[str, TrialSpec]]) -> None:
    """Raises UsageError where candidates would be tested on other examples."""

    def tested(spec: TrialSpec) -> dict[str, Any]:
        return {key: value for key, value in spec.data.model_dump().items() if key not in _OF_TRAINING}

    first = tested(specs[0][1]) if specs else {}
    for name, spec in specs[1:]:
        if (other := tested(spec)) != first:
            keys = sorted(key for key in first.keys() | other.keys() if first.get(key) != other.get(key))
            raise UsageError(
                f"{specs[0][0]} and {name} have other test sets (data.{', data.'.join(keys)}): their values cannot "
                "be compared"
            )
