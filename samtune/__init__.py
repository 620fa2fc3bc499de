"""Distributed hyperparameter search for Sharpness-Aware Minimization.

`from samtune import SearchSpace, Tuner` is the programmatic face; `samtune search` the one on the command line.
Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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

_HOMES = {
    "Callback": "samtune.study",
    "Confirmer": "samtune.experiments.confirm",
    "Results": "samtune.experiments.results",
    "RunError": "samtune.errors",
    "SamtuneError": "samtune.errors",
    "SearchSpace": "samtune.config.space",
    "Training": "samtune.experiments.train",
    "Trial": "samtune.study",
    "TrialState": "samtune.study",
    "Tuner": "samtune.experiments.tuner",
    "UsageError": "samtune.errors",
    "load_model": "samtune.models.saved",
}

__all__ = [
    "Callback",
    "Confirmer",
    "Results",
    "RunError",
    "SamtuneError",
    "SearchSpace",
    "Training",
    "Trial",
    "TrialState",
    "Tuner",
    "UsageError",
    "load_model",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'samtune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
