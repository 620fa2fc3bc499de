"""What a search knows before its first trial: the finished trials of other studies and experiments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import optuna
from optuna.trial import TrialState as OptunaState

from samtune.config.distributions import Choice, Distribution
from samtune.config.searched import Branches, Expr
from samtune.config.space import SearchSpace
from samtune.errors import UsageError
from samtune.formatting import counted
from samtune.store.optuna_journal import FILE_NAME as OPTUNA_JOURNAL
from samtune.store.study_folder import study_folder
from samtune.study import Scalar, Trial, TrialState
from samtune.tune.objectives import objectives_of
from samtune.tune.optuna_params import WARM_START, distributions_of
from samtune.tune.optuna_trials import open_study

MLFLOW = "mlflow:"

_T = TypeVar("_T")


@dataclass(frozen=True)
class Earlier:
    """The finished trials of one study or experiment."""

    source: str
    trials: list[Trial]


def load_earlier(space: SearchSpace, storage_path: str | Path | None, tracking_uri: str) -> list[Earlier]:
    """Reads what `warm_start` names: studies in the storage path, and MLflow experiments.

    Raises:
        UsageError: one is not there.
    """

    def read(source: str) -> Earlier:
        if source.startswith(MLFLOW):
            from samtune.tracking.history import finished_runs

            metrics = [objective.metric for objective in space.objectives]
            return Earlier(source, finished_runs(tracking_uri, source[len(MLFLOW) :], metrics))
        return Earlier(source, study_folder(storage_path, source).read().trials)

    return _each(space, read)


def check_earlier(space: SearchSpace, storage_path: str | Path | None, tracking_uri: str) -> None:
    """Looks whether what `warm_start` names is there; raises as `load_earlier` does."""

    def look(source: str) -> None:
        if source.startswith(MLFLOW):
            from samtune.tracking.history import check_experiment

            check_experiment(tracking_uri, source[len(MLFLOW) :])
        else:
            study_folder(storage_path, source).read()

    _each(space, look)


def _each(space: SearchSpace, do: Callable[[str], _T]) -> list[_T]:
    """What a function gives for each source; its errors name the source's key."""
    given: list[_T] = []
    for index, source in enumerate(space.warm_start):
        try:
            given.append(do(source))
        except UsageError as error:
            raise UsageError(f"{space.source_name}: warm_start.{index}: {error}") from error
    return given


def warm_start(space: SearchSpace, name: str, folder: Path, earlier: Sequence[Earlier]) -> list[str]:
    """Creates the Optuna study of a new search with the trials of before in it; returns what `add_earlier` says."""
    return add_earlier(open_study(space, name, folder / OPTUNA_JOURNAL, parallel=False), space, earlier)


def add_earlier(study: optuna.Study, space: SearchSpace, earlier: Sequence[Earlier]) -> list[str]:
    """Adds trials of before to an Optuna study, as far as they say something about what is searched now.

    Returns:
        A line for each source: how many trials it gave, and why it gave no more.
    """
    return [_add(study, space, source) for source in earlier]


def _add(study: optuna.Study, space: SearchSpace, earlier: Earlier) -> str:
    distributions = distributions_of(space)
    unused: Counter[str] = Counter()
    differing: Counter[str] = Counter()
    num_used = 0
    for trial in earlier.trials:
        values = [objective.score(trial.history) for objective in objectives_of(space)]
        params, reason = _params(space, trial)
        if trial.state is not TrialState.COMPLETED:
            unused["not completed"] += 1
        elif None in values:
            missing = next(o.metric for o, value in zip(space.objectives, values, strict=True) if value is None)
            unused[f"no {missing}"] += 1
        elif reason is not None:
            unused[reason] += 1
        else:
            num_used += 1
            differing.update(_differing(space, trial))
            study.add_trial(
                optuna.trial.create_trial(
                    state=OptunaState.COMPLETE,
                    values=[value for value in values if value is not None],
                    params=params,
                    distributions={name: distributions[name] for name in params},
                    user_attrs={WARM_START: earlier.source},
                )
            )
    line = f"warm start: {num_used} of {counted(len(earlier.trials), 'trial')} of {earlier.source} are used"
    if unused:
        line += "; not used: " + ", ".join(f"{count} ({reason})" for reason, count in unused.most_common())
    if differing:
        line += f"; they differ in {', '.join(key for key, _ in differing.most_common(5))}, which is not searched"
    return line


def _params(space: SearchSpace, trial: Trial) -> tuple[dict[str, Scalar], str | None]:
    """The sampler's parameters of a trial of before, or why it cannot be used."""
    config: dict[str, Scalar] = {}
    outside: str | None = None
    for leaf in space.tree.leaves():
        if isinstance(leaf.node, Expr) or leaf.key not in trial.params:
            continue
        value = _typed(trial.params[leaf.key], leaf.node)
        if leaf.node.contains(value):
            config[leaf.key] = value
        elif leaf.key not in config:
            outside = outside or leaf.key
    # What tells the branches of a section apart may be any of its keys.
    whole = {key for key, node in space.tree.nodes.items() if isinstance(node, Branches)}
    fixed = {key: value for key, value in trial.params.items() if any(key.startswith(f"{top}.") for top in whole)}
    params = space.tree.encode({**fixed, **config})
    outside = outside if outside not in config else None
    if outside is not None:
        return {}, f"{outside} outside what is searched"
    if not params:
        return {}, "no searched key"
    try:
        infeasible = any(space.violations(config))
    except ValueError as error:
        return {}, str(error)
    return (params, None) if not infeasible else ({}, "breaks a constraint")


def _typed(value: Scalar, node: Distribution) -> Scalar:
    """A parameter as its distribution has it: MLflow gives texts."""
    if isinstance(node, Choice):
        return next((option for option in node.extremes() if str(option) == str(value)), value)
    if not isinstance(value, str):
        return value
    try:
        number = float(value)
    except ValueError:
        return value
    return int(number) if number.is_integer() and isinstance(node.extremes()[0], int) else number


def _differing(space: SearchSpace, trial: Trial) -> list[str]:
    """The keys that are not searched and that a trial of before had otherwise."""
    searched = {leaf.key for leaf in space.tree.leaves()}
    sections = ("data.", "model.", "method.", "training.")
    now = space.trial({}).params()
    return [
        key
        for key, value in trial.params.items()
        if key.startswith(sections) and key in now and key not in searched and str(now[key]) != str(value)
    ]
