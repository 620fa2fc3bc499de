"""A study that goes on in a space that was narrowed or widened."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import optuna

from samtune.config.space import SearchSpace
from samtune.errors import SpaceError, UsageError
from samtune.formatting import counted
from samtune.store.optuna_journal import FILE_NAME, open_storage
from samtune.study import Study, Trial
from samtune.tune.objectives import objectives_of
from samtune.tune.optuna_params import WARM_START, distributions_of, fits


@dataclass(frozen=True)
class Extension:
    """What becomes of the earlier trials of a study in a changed space.

    Attributes:
        num_fitting: whose configurations the space still searches: they count, and the sampler learns from them.
        num_other: the others, which stay in the study's records.
        reasons: the keys that leave them out, and how many trials each.
    """

    num_fitting: int
    num_other: int
    reasons: Counter[str]

    def line(self) -> str:
        """For the user."""
        total = counted(self.num_fitting + self.num_other, "earlier trial")
        text = f"extended: {self.num_fitting} of {total} fit the changed space and count"
        if self.reasons:
            others = ", ".join(f"{count} ({key} outside)" for key, count in self.reasons.most_common())
            text += f"; kept, but not counted: {others}"
        return text


def extend(study: Study, stored: SearchSpace, space: SearchSpace) -> Extension:
    """Looks whether a study may go on in another space: only what is searched may change, not what a trial is.

    Args:
        stored: the space that it was begun with, or that it went on in before.

    Raises:
        UsageError: the objective is another, an earlier trial would be another in the space, or none fits it.
    """
    if objectives_of(space) != study.objectives:
        goal = ", ".join(f"{objective.mode} {objective}" for objective in objectives_of(space))
        raise _refused(study, f"its objective is {study.goal}, that of the space {goal}")
    reasons: Counter[str] = Counter()
    for trial in study:
        if (other := _other_setting(stored, space, trial)) is not None:
            raise _refused(study, f"{other}: trial {trial.number} would not be what was trained")
        if (outside := _outside(space, trial)) is not None:
            reasons[outside] += 1
    num_fitting = len(study.trials) - reasons.total()
    if study.trials and not num_fitting:
        raise _refused(study, f"none of its trials fits ({', '.join(reasons)} outside what is searched)")
    return Extension(num_fitting, reasons.total(), reasons)


def _refused(study: Study, problem: str) -> UsageError:
    hint = f"a new study can learn from this one: `warm_start: [{study.name}]` in its space"
    return UsageError(f"study {study.name} cannot continue in this space: {problem}; {hint}", argument="extend")


def _other_setting(stored: SearchSpace, space: SearchSpace, trial: Trial) -> str | None:
    """The first key that the space gives a trial another value of than it was trained with.

    The trial's own records do not do: they lack the keys that later versions of samtune have added.
    """
    try:
        before, now = stored.trial(trial.config).params(), space.trial(trial.config).params()
    except SpaceError as error:
        return str(error)
    for key in dict.fromkeys([*before, *now]):
        if before.get(key) != now.get(key):
            return f"{key}: {before.get(key, 'absent')!r} in the study, {now.get(key, 'absent')!r} now"
    return None


def _outside(space: SearchSpace, trial: Trial) -> str | None:
    """The key, or the constraint, that leaves a trial out of what is searched."""
    if not fits(space, trial.config):
        encoded = space.tree.encoded_keys(trial.config)
        return next((key for key in trial.config if key not in encoded), "a key")
    violations = space.violations(trial.config)
    return next((text for text, by in zip(space.constraints, violations, strict=True) if by), None)


def set_aside(folder: Path) -> list[optuna.trial.FrozenTrial]:
    """Moves what Optuna knows of the narrower or wider space away; it is made again from the study's records.

    Returns:
        The trials of other studies in it, which the records do not have.
    """
    file = folder / FILE_NAME
    if not file.exists():
        return []
    try:
        storage = open_storage(file)
        names = optuna.get_all_study_names(storage)
        trials = optuna.load_study(study_name=names[0], storage=storage).trials if names else []
    except UsageError:
        trials = []  # damaged: it is made again anyway
    file.replace(file.with_name(f"{FILE_NAME}.before"))
    return [trial for trial in trials if WARM_START in trial.user_attrs]


def add_warm(study: optuna.Study, space: SearchSpace, trials: list[optuna.trial.FrozenTrial]) -> None:
    """Adds trials of other studies again, those that the changed space still searches."""
    distributions = distributions_of(space)
    for trial in trials:
        known = {name: distributions[name] for name in trial.params if name in distributions}
        if len(known) < len(trial.params):
            continue
        try:
            again = optuna.trial.create_trial(
                state=trial.state,
                values=trial.values,
                params=trial.params,
                distributions=known,
                user_attrs=trial.user_attrs,
            )
        except ValueError:
            continue  # outside of what is searched now
        study.add_trial(again)
