"""Distributed hyperparameter search for Sharpness-Aware Minimization.

`from samtune import SearchSpace, Tuner` is the programmatic face; `samtune search` the one on the command line.
Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from samtune.lazy import lazy_exports

if TYPE_CHECKING:
    from samtune.config.space import SearchSpace as SearchSpace
    from samtune.errors import RunError as RunError
    from samtune.errors import SamtuneError as SamtuneError
    from samtune.errors import UsageError as UsageError
    from samtune.experiments.confirm import Confirmer as Confirmer
    from samtune.experiments.results import Results as Results
    from samtune.experiments.train import Training as Training
    from samtune.experiments.tuner import Tuner as Tuner
    from samtune.models.saved import load_model as load_model
    from samtune.study import Callback as Callback
    from samtune.study import Trial as Trial
    from samtune.study import TrialState as TrialState
    from samtune.train.trial_context import TrialContext as TrialContext

    __version__: str

__all__ = [
    "Callback",
    "Confirmer",
    "Results",
    "RunError",
    "SamtuneError",
    "SearchSpace",
    "Training",
    "Trial",
    "TrialContext",
    "TrialState",
    "Tuner",
    "UsageError",
    "load_model",
]

_export = lazy_exports(
    __name__,
    {
        "Callback": "samtune.study",
        "Confirmer": "samtune.experiments.confirm",
        "Results": "samtune.experiments.results",
        "RunError": "samtune.errors",
        "SamtuneError": "samtune.errors",
        "SearchSpace": "samtune.config.space",
        "Training": "samtune.experiments.train",
        "Trial": "samtune.study",
        "TrialContext": "samtune.train.trial_context",
        "TrialState": "samtune.study",
        "Tuner": "samtune.experiments.tuner",
        "UsageError": "samtune.errors",
        "load_model": "samtune.models.saved",
    },
)


def __getattr__(name: str) -> Any:
    if name == "__version__":  # reading it takes longer than the rest of this import
        from importlib.metadata import version

        return version("samtune")
    return _export(name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
