"""Data sets for training: found, decoded once, split, augmented, batched.

`check_dataset` and `dataset_info` look at files and metadata only and import no torch; everything else is imported
when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from samtune.data.info import DatasetInfo, check_dataset, dataset_info

if TYPE_CHECKING:
    from samtune.data.batches import eval_batches, steps_per_epoch, train_batches, training_examples
    from samtune.data.dataset import Dataset, Split, load_dataset

__all__ = [
    "Dataset",
    "DatasetInfo",
    "Split",
    "check_dataset",
    "dataset_info",
    "eval_batches",
    "load_dataset",
    "steps_per_epoch",
    "train_batches",
    "training_examples",
]

_MODULES = {"Dataset": "dataset", "Split": "dataset", "load_dataset": "dataset"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'batches')}"), name)
