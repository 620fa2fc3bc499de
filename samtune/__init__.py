"""Distributed hyperparameter search for Sharpness-Aware Minimization.

`from samtune import SearchSpace, Tuner` is the programmatic face; `samtune search` the one on the command line.
Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from samtune.confirm.confirmer import Confirmer as Confirmer
    from samtune.confirm.training import Training as Training
    from samtune.errors import RunError as RunError
    from samtune.errors import SamtuneError as SamtuneError
    from samtune.errors import UsageError as UsageError
    from samtune.models.saved import load_model as load_model
    from samtune.records import Callback as Callback
    from samtune.records import Trial as Trial
    from samtune.records import TrialState as TrialState
    from samtune.search.results import Results as Results
    from samtune.search.tuner import Tuner as Tuner
    from samtune.spec.space import SearchSpace as SearchSpace

_HOMES = {
    "Callback": "samtune.records",
    "Confirmer": "samtune.confirm.confirmer",
    "Results": "samtune.search.results",
    "RunError": "samtune.errors",
    "SamtuneError": "samtune.errors",
    "SearchSpace": "samtune.spec.space",
    "Training": "samtune.confirm.training",
    "Trial": "samtune.records",
    "TrialState": "samtune.records",
    "Tuner": "samtune.search.tuner",
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
