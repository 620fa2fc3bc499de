"""The one private name of Optuna that samtune uses. `tests/tune/test_optuna_names.py` checks it."""

from __future__ import annotations

import optuna

from samtune.undocumented import Undocumented

NAMES = (
    Undocumented(
        "optuna.trial:FrozenTrial._trial_id",
        "a trial that was asked for before a crash is reported to and told again, instead of a new one",
        "a public way from a FrozenTrial in state RUNNING back to its Trial",
    ),
    Undocumented("optuna.trial:Trial", "likewise: a Trial of a study by the id of its record", "likewise", "(1, 2)"),
)


def reopen_trial(study: optuna.Study, frozen: optuna.trial.FrozenTrial) -> optuna.Trial:
    """A trial in state RUNNING, as `ask` had returned it."""
    return optuna.Trial(study, frozen._trial_id)
