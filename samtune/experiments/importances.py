"""How much each searched key decides whether a trial is among the best, and how exactly the trials tell it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

MOST_DRAWS, FEWEST_DRAWS = 50, 10
_MOST_TRIALS_DRAWN = 50_000  # in all draws: what ten thousand trials tell is exact anyway


@dataclass(frozen=True)
class Importance:
    """A key's share of the importance of all, and the standard error of that share."""

    value: float
    standard_error: float


def importances_of(study: optuna.Study, *, maximize: bool) -> dict[str, float]:
    """Optuna's PED-ANOVA by the first objective; they sum to 1.

    Raises:
        ValueError, RuntimeError, UserWarning: too few trials were completed, or they do not differ.
    """
    from optuna.exceptions import ExperimentalWarning
    from optuna.importance import get_param_importances

    sign = -1.0 if maximize else 1.0
    # Optuna asks for a target that is better when less, where the study's own will not do.
    target = (lambda trial: sign * float(trial.values[0])) if len(study.directions) > 1 else None
    with warnings.catch_warnings():
        for category in (UserWarning, ExperimentalWarning):
            warnings.simplefilter("ignore", category)
        # What it returns then is the same for all keys: no answer.
        warnings.filterwarnings("error", message="The number of trials is too small")
        return dict(get_param_importances(study, target=target))


def estimated_importances(study: optuna.Study, *, maximize: bool) -> dict[str, Importance]:
    """As `importances_of`, each with its standard error: the bootstrap over the completed trials.

    Every draw has as many trials as the study, drawn with replacement, and PED-ANOVA runs anew on it. The evaluator
    itself has no randomness: what is uncertain are the trials. Raises as `importances_of` does.
    """
    import numpy as np
    import optuna

    values = importances_of(study, maximize=maximize)
    completed = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    num_draws = max(FEWEST_DRAWS, min(MOST_DRAWS, _MOST_TRIALS_DRAWN // len(completed)))
    numbers = np.random.default_rng(0)
    found: dict[str, list[float]] = {key: [] for key in values}
    for _ in range(num_draws):
        chosen = [completed[index] for index in numbers.integers(len(completed), size=len(completed))]
        drawn = importances_of(_with_trials(study, chosen), maximize=maximize)
        for key, own in found.items():
            own.append(drawn.get(key, 0.0))  # a key that no trial of the draw has decides nothing in it
    return {key: Importance(value, _spread(found[key])) for key, value in values.items()}


def _spread(values: Sequence[float]) -> float:
    return stdev(values, fmean(values))


def _with_trials(study: optuna.Study, trials: Sequence[optuna.trial.FrozenTrial]) -> optuna.Study:
    """A study with these trials, one of which may be there twice: adding them would copy each."""
    import optuna

    class Drawn(optuna.Study):
        def get_trials(self, deepcopy: bool = True, states: Any = None) -> list[optuna.trial.FrozenTrial]:
            return [trial for trial in trials if states is None or trial.state in states]

    storage = optuna.storages.InMemoryStorage()
    optuna.create_study(study_name="drawn", storage=storage, directions=study.directions)
    return Drawn("drawn", storage)
